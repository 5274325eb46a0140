"""Measure the lists on a data set: recall, NDCG and more, with intervals, beside baselines on the same data.

`python -m benchmarks.quality amazon-scientific --data DIR`: SET is a folder of DIR, or a path to any folder in one of the
formats of `streams/formats.py`. A model is trained on what the cases know, as `headrace train` does, and judged. Prints tables;
with --json, as the last line, all figures as JSON. Choices are made with `--part valid`; test rows are for reporting. Knows no
broker.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console

from benchmarks.rivals import rivals
from ranking.bundle import BundleError
from streams import formats, report
from streams.datasets import DatasetError
from streams.evaluation import simple_baselines
from streams.measuring import measure
from streams.training import TrainingError


def main() -> None:
    """Read the set, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", help="a folder of --data, or a path to one")
    parser.add_argument("--data", type=Path, default=Path(), help="the folder that named sets are in")
    parser.add_argument("--part", choices=("valid", "test"), default="test")
    parser.add_argument("--protocol", default="", help="leave-one-out, split, stream or given, in place of the set's own")
    parser.add_argument("--model", type=Path, help="a bundle of `headrace train`, in place of one trained here")
    parser.add_argument("--zero-shot", action="store_true", help="train nothing: the model of a new installation")
    parser.add_argument("--ablation", action="store_true", help="tell what each part of the model trained here is worth")
    parser.add_argument("--quick", action="store_true", help="only the four simple baselines")
    parser.add_argument("--report", type=Path, help="write an HTML page with plots into this folder")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    given = parser.parse_args()
    if given.ablation and (given.model or given.zero_shot):
        parser.error("--ablation fits parts of a model anew: give neither --model nor --zero-shot")
    began = time.perf_counter()
    folder = Path(given.set) if Path(given.set).is_dir() else given.data / given.set
    console = Console(width=200, file=sys.stderr if given.json else None)
    try:
        dataset = formats.read(folder)
        verdicts = measure(
            dataset,
            console,
            protocol=given.protocol,
            part=given.part,
            model=given.model,
            learn=not (given.model or given.zero_shot),
            ablate=given.ablation,
            baselines=simple_baselines if given.quick else rivals,
        )
        if given.report:
            console.print(f"report: {report.write(list(verdicts.values()), given.report)}")
    except (DatasetError, BundleError, TrainingError, report.ReportError) as error:
        sys.exit(f"quality: {error}")
    if given.json:
        model = next(iter(verdicts.values())).model
        print(report.line(verdicts, time.perf_counter() - began, set=dataset.name, part=given.part, model=model))


if __name__ == "__main__":
    main()
