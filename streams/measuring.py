"""An evaluation from beginning to end: encoder, items' vectors, protocols, with the progress and the tables shown.

Does not know how files are read (datasets.py, formats.py), lists are made (answers.py) or figures computed (evaluation.py).
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from streams import evaluation, report
from streams.answers import Remembered, index_of
from streams.datasets import Dataset
from streams.evaluation import Baselines, Verdict
from streams.personalizer import load_encoder
from streams.terminal import bar
from streams.trial import Part, trial


def measure(
    dataset: Dataset,
    console: Console,
    *,
    protocol: str = "",
    part: Part = "test",
    model: Path | None = None,
    baselines: Baselines = evaluation.simple_baselines,
) -> dict[str, Verdict]:
    """Run a set's protocols, or the one named, and print tables; return what stands before its figures' names -> the verdict.

    model: a bundle's folder; without one the zero-shot model ranks. Raises DatasetError, BundleError, EncoderError.
    """
    make = evaluation.with_model(model)
    base = evaluation.settings_for(dataset, dataset.k, masked=True)
    encoder = Remembered(load_encoder(base), base.cache_dir / "evaluated", f"-{base.max_tokens}-{base.dtype}")
    console.print(encoder.reason, markup=False)
    with bar("encoding the items") as progress:
        index = index_of(dataset.items, float(dataset.events[0].at), encoder, base, progress)
    verdicts: dict[str, Verdict] = {}
    for number, name in enumerate([protocol] if protocol else dataset.protocols):
        for masked in (False, True) if dataset.both_masks else (True,):
            prefix = f"{f'{name}_' if number else ''}{'masked_' if masked and dataset.both_masks else ''}"
            settings = evaluation.settings_for(dataset, dataset.k, masked=masked)
            asked = trial(dataset, name, part, again=not masked)
            with bar(f"{name}, {'masked' if masked else 'not masked'}") as progress:
                verdict = evaluation.run(
                    dataset,
                    asked,
                    settings,
                    encoder,
                    index,
                    masked=masked,
                    baselines=baselines,
                    make=make,
                    progress=progress,
                )
            verdicts[prefix] = verdict
            console.print(report.table(verdict))
            console.print(report.bucket_table(verdict))
    encoder.save()
    return verdicts
