"""What freshness is worth: recall when the profile, the counts of all users or the model come late, on streams of real users.

`python -m benchmarks.freshness movietweetings --data DIR`: SET is a folder of DIR, or a path to one; there may be several. The
last fifth of a stream is replayed in time order, and each item that is new to its user is asked for just before it comes, with
what the user had masked, as the product serves. Each part is held back by a minute, an hour and a day while the others are
fresh, then all are (`benchmarks/delays.py`). The cases are the same for all, so that differences are paired; intervals are of
95 %, over users. The model is trained on what precedes the test, unless one is given; what it learns on from the stream comes
in versions, one each so many cases. Knows no broker.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.delays import Delays, Versions, learnt, replay
from ranking import bundle as bundles
from ranking import evaluate
from ranking.bundle import Bundle, BundleError
from ranking.evaluate import Interval
from ranking.learned import Learned
from streams import evaluation, formats, report
from streams.answers import index_of, numbers_of, remembered
from streams.building import build
from streams.catalogue import item_text
from streams.datasets import Dataset, DatasetError
from streams.personalizer import Personalizer
from streams.report import ReportError
from streams.terminal import bar
from streams.training import TrainingError, train
from streams.trial import Trial, trial

K = 20
NEVER = math.inf
LATE = (60.0, 3_600.0, 86_400.0)
WORDS = {0.0: "at once", 60.0: "1 minute", 3_600.0: "1 hour", 86_400.0: "1 day", NEVER: "never"}
SEED = 1  # of the sample of cases


class Row(NamedTuple):
    """The figures under one set of delays. dial: what is late; less: the figures less those of all fresh, paired."""

    dial: str
    delay_s: float
    recall: Interval
    ndcg: Interval
    recall_less: Interval
    ndcg_less: Interval


@dataclass(frozen=True)
class Found:
    """What one stream showed. cases: asked; of: there were; versions: that the model came to while it learnt on."""

    dataset: str
    model: str
    cases: int
    of: int
    users: int
    versions: int
    seconds: float
    rows: Sequence[Row]


def dials(*, model: bool) -> list[tuple[str, float, Delays]]:
    """Return what is tried: its name, its delay in seconds, and the delays. model: whether there is one that learns on."""
    tried = [("fresh", 0.0, Delays())]
    tried += [("profile", late, Delays(profile_s=late)) for late in LATE]
    tried += [("counts", late, Delays(counts_s=late)) for late in LATE]
    if model:
        tried += [("model", late, Delays(model_s=late)) for late in (*LATE, NEVER)]
    return tried + [("all", late, Delays(late, late, late)) for late in LATE]


def sample(made: Trial, count: int) -> Trial:
    """Return the trial with so many of its cases at most, drawn once."""
    if not 0 < count < len(made.cases):
        return made
    drawn = np.sort(np.random.default_rng(SEED).permutation(len(made.cases))[:count])
    return replace(made, cases=[made.cases[number] for number in drawn])


def rows(
    made: Trial, numbers: dict[str, int], tried: Sequence[tuple[str, float, Delays]], lists: Sequence[NDArray[np.int64]]
) -> list[Row]:
    """Return the figures of lists; the first of `tried` is what the others are measured against."""
    wanted = [[numbers[item] for item in case.wanted] for case in made.cases]
    users = np.unique([case.user_id for case in made.cases], return_inverse=True)[1].astype(np.int64)
    each = [evaluate.each(own, wanted) for own in lists]
    return [
        Row(
            dial,
            delay_s,
            evaluate.interval(own.recall, users),
            evaluate.interval(own.ndcg, users),
            evaluate.difference(own.recall, each[0].recall, users),
            evaluate.difference(own.ndcg, each[0].ndcg, users),
        )
        for (dial, delay_s, _), own in zip(tried, each, strict=True)
    ]


class Bench:
    """One stream, and the steps that its model is trained and judged with."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.trial = trial(dataset, "stream")
        self._settings = evaluation.settings_for(dataset, K, masked=True)
        self._encoder = remembered(self._settings)

    def step(self) -> Personalizer:
        """Return a step over the items that has folded nothing."""
        with bar("encoding the items") as progress:
            index = index_of(self.dataset.items, float(self.dataset.events[0].at), self._encoder, self._settings, progress)
        self._encoder.save()
        return build(self._encoder, self._settings, index)

    def model(self, folder: Path | None) -> Bundle:
        """Return the model of what precedes the test, from a folder where it was kept before. Raises TrainingError."""
        if folder is not None and (folder / bundles.HEAD).is_file():
            return bundles.load(folder)
        texts = {item.item_id: item_text(item) for item in self.dataset.items}
        with bar("training") as progress:
            made = train(
                self.step(),
                self.trial.known,
                self.dataset.is_wanted,
                texts=texts,
                tell=lambda what, epoch, figures: progress(figures.get("share", 1.0)),
            )
        if folder is not None:
            bundles.save(made, folder)
        return made

    def measure(self, base: Bundle | None, count: int, every: int, *, frozen: bool = False) -> Found:
        """Learn on, replay, judge. base: None is the zero-shot model; frozen: the model does not learn on."""
        began = time.perf_counter()
        personalizer, versions = self.step(), None
        if base is not None:
            personalizer.use(Learned(base, personalizer.maker.index))
        if base is not None and not frozen:
            with bar("learning on") as progress:
                later = learnt(personalizer, self.trial, base, every, progress=progress)
            versions = Versions(base, personalizer.maker.index, later)
        tried, made, numbers = dials(model=versions is not None), sample(self.trial, count), numbers_of(self.dataset)
        with bar("replaying") as progress:
            lists = replay(personalizer, made, numbers, K, [each for _, _, each in tried], versions, progress)
        return Found(
            dataset=self.dataset.name,
            model=personalizer.model,
            cases=len(made.cases),
            of=len(self.trial.cases),
            users=len({case.user_id for case in made.cases}),
            versions=0 if versions is None else len(versions.later),
            seconds=time.perf_counter() - began,
            rows=rows(made, numbers, tried, lists),
        )


def table(found: Found) -> Table:
    """Return recall and NDCG by what is late and how late."""
    title = (
        f"{found.dataset}: {found.cases:,} of {found.of:,} questions, {found.users:,} users, model {found.model}, "
        f"{found.versions} versions of it"
    )
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("late", "by", f"recall@{K}", "less than fresh", f"NDCG@{K}", "less than fresh"):
        made.add_column(name, no_wrap=True)
    for row in found.rows:
        is_fresh = row.dial == "fresh"
        recall, ndcg = report.interval(row.recall), report.interval(row.ndcg)
        less = ["" if is_fresh else report.interval(each, signed=True) for each in (row.recall_less, row.ndcg_less)]
        made.add_row(
            "nothing" if is_fresh else row.dial, "" if is_fresh else WORDS[row.delay_s], recall, less[0], ndcg, less[1]
        )
    return made


def line(found: Sequence[Found], seconds: float) -> str:
    """Return all figures as one line of JSON: set -> what is late -> delay -> figures, each with its interval."""
    said = {}
    for each in found:
        figures: dict[str, dict[str, dict[str, Interval]]] = {}
        for row in each.rows:
            own = {f"recall@{K}": row.recall, f"ndcg@{K}": row.ndcg}
            own |= {} if row.dial == "fresh" else {"recall_less": row.recall_less, "ndcg_less": row.ndcg_less}
            figures.setdefault(row.dial, {})[WORDS[row.delay_s]] = own
        on = {name: getattr(each, name) for name in ("model", "cases", "of", "users", "versions")}
        said[each.dataset] = {**on, "seconds": round(each.seconds, 1), "figures": figures}
    return msgspec.json.encode({**said, "seconds": round(seconds, 1)}).decode()


def read(said: str) -> list[Found]:
    """Return what a line of JSON tells, so that runs of their own are drawn in one plot."""
    late = {word: delay_s for delay_s, word in WORDS.items()}
    found = []
    for name, each in msgspec.json.decode(said).items():
        if name != "seconds":
            own = [(dial, late[word], row) for dial, part in each.pop("figures").items() for word, row in part.items()]
            found.append(Found(dataset=name, **each, rows=[_row(dial, delay_s, row) for dial, delay_s, row in own]))
    return found


def _row(dial: str, delay_s: float, figures: dict[str, list[float]]) -> Row:
    none = [0.0, 0.0, 0.0]
    named = (f"recall@{K}", f"ndcg@{K}", "recall_less", "ndcg_less")
    return Row(dial, delay_s, *(Interval(*figures.get(name, none)) for name in named))


def draw(found: Sequence[Found], path: Path) -> None:
    """Write recall by delay as PNG, a panel for each stream. Raises ReportError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ReportError("plots need matplotlib: run `pip install 'headrace[report]'`") from None
    figure = Figure(figsize=(5.2 * len(found), 3.6), layout="constrained")
    for axes, own in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        fresh = own.rows[0].recall.mean
        names = list(dict.fromkeys(row.dial for row in own.rows[1:]))
        for number, name in enumerate(names):
            part = [row.recall_less for row in own.rows if row.dial == name and row.delay_s in LATE]
            ends = [[0.0, *(each.mean - each.low for each in part)], [0.0, *(each.high - each.mean for each in part)]]
            places = [place + 0.06 * (number - (len(names) - 1) / 2) for place in range(len(part) + 1)]
            axes.errorbar(places, [fresh, *(fresh + each.mean for each in part)], ends, marker="o", capsize=3, label=name)
        axes.set_xticks(range(len(LATE) + 1), [WORDS[late] for late in (0.0, *LATE)])
        axes.set_title(f"{own.dataset}: recall@{K} when this is late", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="SET", help="a folder of --data, or a path to one")
    parser.add_argument("--data", type=Path, default=Path(), help="the folder that named sets are in")
    parser.add_argument("--models", type=Path, help="the folder to read trained models from, or to keep them in, by set")
    parser.add_argument("--zero-shot", action="store_true", help="train nothing: the model of a new installation")
    parser.add_argument("--frozen", action="store_true", help="the trained model does not learn on: leaves its rows out")
    parser.add_argument("--cases", type=int, default=0, help="ask so many of the questions, drawn once; all when left out")
    parser.add_argument("--every", type=int, default=256, help="cases that a version of the model learns from")
    parser.add_argument("--report", type=Path, help="write the plot to this PNG")
    parser.add_argument("--beside", type=Path, help="a file with an earlier run's line of JSON: its streams are drawn too")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    return parser.parse_args()


def main() -> None:
    """Read the sets, measure, print."""
    given = arguments()
    began = time.perf_counter()
    console = Console(width=140, file=sys.stderr if given.json else None)
    found = []
    try:
        for name in given.sets:
            bench = Bench(formats.read(Path(name) if Path(name).is_dir() else given.data / name))
            folder = given.models / bench.dataset.name if given.models else None
            base = None if given.zero_shot else bench.model(folder)
            found.append(bench.measure(base, given.cases, given.every, frozen=given.frozen))
            console.print(table(found[-1]))
        if given.report:
            earlier = read(given.beside.read_text("utf-8").splitlines()[-1]) if given.beside else []
            draw([*earlier, *found], given.report)
    except (DatasetError, BundleError, TrainingError, ReportError) as error:
        sys.exit(f"freshness: {error}")
    if given.json:
        print(line(found, time.perf_counter() - began))


if __name__ == "__main__":
    main()
