"""An evaluation from beginning to end: encoder, items' vectors, protocols, with the progress and the tables shown.

Does not know how files are read (datasets.py, formats.py), lists are made (answers.py) or figures computed (evaluation.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from encoders import Encoder
from ranking import bundle
from ranking.bundle import Bundle
from ranking.index import ItemIndex
from ranking.train import Plan
from streams import ablation, evaluation, report
from streams.ablation import Parts
from streams.answers import index_of, remembered
from streams.building import build
from streams.catalogue import item_text
from streams.datasets import Dataset
from streams.evaluation import Baselines, Verdict
from streams.messages import Event
from streams.settings import Settings
from streams.terminal import bar
from streams.training import Sizes, Training
from streams.trial import Part, Trial, trial


def measure(
    dataset: Dataset,
    console: Console,
    *,
    protocol: str = "",
    part: Part = "test",
    model: Path | None = None,
    learn: bool = False,
    ablate: bool = False,
    baselines: Baselines = evaluation.simple_baselines,
) -> dict[str, Verdict]:
    """Run a set's protocols, or the one named, and print tables; return what stands before its figures' names -> the verdict.

    model: a bundle's folder. learn: whether to train one, for each table, on the events that all its cases know (two tables may
    share one). Without either the zero-shot model ranks. ablate: whether to ask the one that is trained without its parts too,
    a table more. Raises DatasetError, BundleError, EncoderError, TrainingError; ValueError where nothing is trained that has
    parts.
    """
    if ablate and not learn:
        raise ValueError("only a model that is trained here can be fitted again without a part: learn, too")
    given = bundle.load(model) if model is not None else None
    base = evaluation.settings_for(dataset, dataset.k, masked=True)
    encoder = remembered(base)
    console.print(encoder.reason, markup=False)
    with bar("encoding the items") as progress:
        index = index_of(dataset.items, float(dataset.events[0].at), encoder, base, progress)
    verdicts: dict[str, Verdict] = {}
    made: dict[bool, tuple[Sequence[Event], Bundle, Parts]] = {}  # masked -> the last model, of what, and its parts
    for number, name in enumerate([protocol] if protocol else dataset.protocols):
        for masked in (False, True) if dataset.both_masks else (True,):
            prefix = f"{f'{name}_' if number else ''}{'masked_' if masked and dataset.both_masks else ''}"
            settings = evaluation.settings_for(dataset, dataset.k, masked=masked)
            asked = trial(dataset, name, part, again=not masked)
            if given is not None and (seen := seen_before(given, asked)):
                console.print(f"[yellow]{seen}", highlight=False)
            ranked_by: Bundle | None = given
            parts: Parts = {}
            if learn:
                if masked not in made or made[masked][0] != asked.known:  # two protocols may know the same
                    fitted = trained(dataset, asked.known, settings, encoder, index, console, ablate=ablate)
                    made[masked] = (asked.known, *fitted)
                _, ranked_by, parts = made[masked]
            with bar(f"{name}, {'masked' if masked else 'not masked'}") as progress:
                verdict = evaluation.run(
                    dataset,
                    asked,
                    settings,
                    encoder,
                    index,
                    masked=masked,
                    baselines=baselines,
                    make=evaluation.with_model(ranked_by),
                    parts={left_out: evaluation.with_model(rest) for left_out, rest in parts.items()},
                    sources=True,
                    progress=progress,
                )
            verdicts[prefix] = verdict
            beside = report.bucket_table(verdict), report.source_table(verdict)
            for table in (*report.tables(verdict), *beside, *report.part_tables(verdict)):
                console.print(table)
    encoder.save()
    return verdicts


def seen_before(model: Bundle, asked: Trial) -> str:
    """Return a warning where a model was trained on events of after a trial's cases, "" where it was not, or does not tell."""
    until = model.head.report.get("until")
    seen = 0 if until is None else sum(case.at < until for case in asked.cases)
    if not seen:
        return ""
    return (
        f"warning: model {model.head.version} has learnt from what {seen} of {len(asked.cases)} cases ask for, so its figures "
        "are too good: judge one that was trained without --all, by the protocol split or stream"
    )


def trained(
    dataset: Dataset,
    known: Sequence[Event],
    settings: Settings,
    encoder: Encoder,
    index: ItemIndex,
    console: Console,
    *,
    ablate: bool,
) -> tuple[Bundle, Parts]:
    """Return a model of known events, in time order, for lists as the settings ask for, and those without its parts if asked.

    Raises TrainingError.
    """
    texts = {item.item_id: item_text(item) for item in dataset.items}
    with bar("training") as progress:

        def tell(what: str, number: int, figures: Mapping[str, float]) -> None:
            if what == "replay":
                progress(figures["share"])
            else:
                console.print(f"[dim]{what} {number}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()))

        training = Training(build(encoder, settings, index), known, dataset.is_wanted, texts, Sizes(), Plan(), tell)
        made = training.run({})
        return made, ablation.parts(training) if ablate else {}
