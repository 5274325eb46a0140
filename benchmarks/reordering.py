"""Measure what lists gain or lose when a cross-encoder reads their first items once more, as HEADRACE_RERANK has workers do.

`python -m benchmarks.reordering amazon-scientific --data DIR --judge FOLDER --part valid --cases 2000 --json`. The product's
lists, zero-shot or by `--model`, and the same with their first `--top` items in the new order: the same items, so
recall@10 does not change where all ten are read. FOLDER is what `headrace finetune --task match` wrote; what it learnt from
must not hold what is asked.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

from encoders import Encoder, judge
from encoders.judge import Judge
from ranking import bundle
from ranking.index import ItemIndex
from ranking.signals import Signals
from streams import evaluation, formats, report
from streams.answers import index_of, remembered
from streams.evaluation import Make
from streams.messages import RecommendedItem
from streams.movable import ask_about, in_new_order
from streams.personalizer import Personalizer
from streams.settings import Settings
from streams.terminal import bar
from streams.trial import trial

REREAD = "reread"


class Rereader:
    """A Personalizer whose lists are read once more before they are returned."""

    def __init__(self, personalizer: Personalizer, judge: Judge, index: ItemIndex, top: int, weight: float) -> None:
        self._personalizer, self._judge, self._index, self._top, self._weight = personalizer, judge, index, top, weight

    def __getattr__(self, name: str) -> Any:
        return getattr(self._personalizer, name)

    def recommend(self, records: Mapping[str, bytes], at: float) -> dict[str, tuple[RecommendedItem, ...]]:
        """Return each user's list at a time (Unix seconds), its first items in the order of the cross-encoder's chances."""
        lists = self._personalizer.recommend(records, at)
        profiles = dict(zip(records, self._personalizer.profiles(records), strict=True))
        return {user: self._reread(user, items, profiles[user], at) for user, items in lists.items()}

    def _reread(self, user: str, items: tuple[RecommendedItem, ...], profile: Any, at: float) -> tuple[RecommendedItem, ...]:
        asked = ask_about(items, profile, self._index, self._top)
        if asked is None:
            return items
        chances = self._judge.chances(asked.user, asked.items).tolist()
        return in_new_order(items, asked, chances, self._weight, self._personalizer.maker_of(user), at) or items


def rereading(make: Make, judge: Judge, top: int, weight: float) -> Make:
    """Return what builds the same Personalizer with its lists read once more."""

    def made(encoder: Encoder, settings: Settings, index: ItemIndex, signals: Signals) -> Personalizer:
        return Rereader(make(encoder, settings, index, signals), judge, index, top, weight)  # type: ignore[return-value]

    return made


def main() -> None:
    """Read the set, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", help="a folder of --data, or a path to one")
    parser.add_argument("--data", type=Path, default=Path(), help="the folder that named sets are in")
    parser.add_argument("--judge", type=Path, required=True, help="folder of a cross-encoder")
    parser.add_argument("--top", type=int, default=10, help="items that are read")
    parser.add_argument("--weight", type=float, default=0.1, help="of the cross-encoder, as HEADRACE_RERANK_WEIGHT")
    parser.add_argument("--model", type=Path, help="a bundle of `headrace train`; the zero-shot model when left out")
    parser.add_argument("--part", choices=("valid", "test"), default="test")
    parser.add_argument("--cases", type=int, default=0, help="ask only the first so many; 0 is all")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    given = parser.parse_args()
    began = time.perf_counter()
    console = Console(width=160, file=sys.stderr if given.json else None)
    dataset = formats.read(Path(given.set) if Path(given.set).is_dir() else given.data / given.set)
    settings = evaluation.settings_for(dataset, dataset.k, masked=True)
    encoder = remembered(settings)
    judged = judge.load(given.judge, dtype=settings.dtype, max_tokens=settings.max_tokens, threads=settings.threads)
    console.print(f"{encoder.reason}\n{judged.name}: {judged.reason}", markup=False)
    asked = trial(dataset, "", given.part)
    asked = replace(asked, cases=asked.cases[: given.cases]) if given.cases else asked
    make = evaluation.with_model(bundle.load(given.model) if given.model else None)
    with bar("asking") as progress:
        index = index_of(dataset.items, float(dataset.events[0].at), encoder, settings)
        verdict = evaluation.run(
            dataset,
            asked,
            settings,
            encoder,
            index,
            masked=True,
            baselines=lambda _: [],
            make=make,
            also={REREAD: rereading(make, judged, given.top, given.weight)},
            progress=progress,
        )
    encoder.save()
    for table in report.tables(verdict):
        console.print(table)
    if given.json:
        on = {
            "date": date.today().isoformat(),
            "judge": judged.name,
            "top": given.top,
            "weight": given.weight,
            "part": given.part,
        }
        print(report.line({"": verdict}, time.perf_counter() - began, set=dataset.name, model=verdict.model, **on))


if __name__ == "__main__":
    main()
