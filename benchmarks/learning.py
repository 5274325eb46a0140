"""Measure what learning while serving is worth: a stream replayed in order, the model as trained beside the one that learns.

`python -m benchmarks.learning movietweetings --data DIR`: SET is a folder of DIR, or a path to one, in a format of
`streams/formats.py`. A model is trained on the first part of the events (and kept in --model); the rest is replayed as workers
would see it, and before each wanted event its user's list is asked of both models, from one profile and one set of counts. With
--poison, bots make a share of the events of one span; their own lists do not count. Knows no broker.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ranking import bundle as bundles
from ranking.bundle import Bundle
from ranking.evaluate import difference, interval
from ranking.learned import Learned
from ranking.rounds import Plan, Round
from streams import building, evaluation, formats
from streams.answers import index_of, remembered
from streams.catalogue import item_text
from streams.datasets import Dataset, DatasetError
from streams.lessons import Lessons, Listed
from streams.messages import Event, RecommendationList, RecommendedItem
from streams.terminal import bar
from streams.training import Replay, train, turns, windows

TRAINED = 0.5  # share of the events that the model is trained on
SPAN = (0.3, 0.5)  # of the replayed events: where bots come
BOTS = 3  # events of one
PARTS = 10
K = 20
WINDOW_S = 30 * 86_400.0  # users of these sets come back after days
NOWHERE = -1
BOT = "bot-"

IsWanted = Callable[[Event], bool]


class Answer(NamedTuple):
    """Where a wanted item stood, from 0, NOWHERE where it was not in the list, of the trained model and of the learning one."""

    place: int  # of the event
    user_id: str
    frozen: int
    online: int


@dataclass
class Run:
    """What a replay came to."""

    answers: list[Answer] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)

    def hits(self, which: str) -> NDArray[np.float64]:
        """Return for each answer whether the item was in the list of `frozen` or `online`."""
        return np.array([getattr(answer, which) != NOWHERE for answer in self.answers], np.float64)


class Stream:
    """A replay that asks two models and learns on the second. is_free: whether versions need not pass the test."""

    def __init__(
        self, replay: Replay, base: Bundle, is_wanted: IsWanted, plan: Plan | None = None, *, is_free: bool = False
    ) -> None:
        personalizer = replay.personalizer
        self.replay, self.personalizer, self.is_wanted = replay, personalizer, is_wanted
        self.frozen = Learned(base, personalizer.maker.index)
        personalizer.use(self.frozen)
        self.lessons = Lessons(personalizer, base, WINDOW_S, plan, is_wanted, is_free=is_free)
        self.last: dict[str, Event] = {}  # the newest event of each user
        self.run = Run()

    def play(self, events: Sequence[Event], number: int, progress: Callable[[float], None] = lambda share: None) -> Run:
        """Ask and fold events in their order. number: of those that were folded before."""
        for first, last in windows(events, 0, len(events)):
            for turn in turns(events, first, last):
                self._turn([(number + place, event) for place, event in turn])
            progress(last / len(events))
        return self.run

    def _turn(self, turn: list[tuple[int, Event]]) -> None:
        asked = [(place, event) for place, event in turn if self.is_wanted(event)]
        if asked:
            self._ask(asked)
        self.replay.fold(turn)
        for _, event in turn:
            self.last[event.user_id] = event
            self._note(self.lessons.happened([event]))

    def _ask(self, asked: list[tuple[int, Event]]) -> None:
        profiles = self.replay.profiles([event.user_id for _, event in asked])
        at = min(float(event.at) for _, event in asked)
        maker = self.personalizer.maker
        online = maker.lists(profiles, at)
        frozen = online if maker.model is self.frozen else replace(maker, model=self.frozen).lists(profiles, at)
        for (place, event), ours, theirs in zip(asked, online, frozen, strict=True):
            if not event.user_id.startswith(BOT):
                wanted = [[each.item_id for each in own[:K]] for own in (theirs, ours)]
                found = [own.index(event.item_id) if event.item_id in own else NOWHERE for own in wanted]
                self.run.answers.append(Answer(place, event.user_id, *found))
        listed = [
            Listed(profile, self._message(self.last[event.user_id], own, at))
            for (_, event), profile, own in zip(asked, profiles, online, strict=True)
            if event.user_id in self.last
        ]
        self._note(self.lessons.listed(listed))

    def _message(self, before: Event, own: Sequence[tuple[str, float, str, float | None]], at: float) -> RecommendationList:
        return RecommendationList(
            list_id=before.event_id,
            user_id=before.user_id,
            items=tuple(RecommendedItem(*item) for item in own),
            event_id=before.event_id,
            event_at=float(before.at),
            published_at=at,
            model=self.personalizer.model,
            covers=1,
        )

    def _note(self, ended: list[Round]) -> None:
        for each in ended:
            self.run.rounds.append(each)
            if each.chosen is not None:
                self.personalizer.use(Learned(each.chosen, self.personalizer.maker.index))


def poisoned(events: Sequence[Event], start: int, share: float, item_id: str, seed: int = 1) -> list[Event]:
    """Return the events from a place on, with bots among those of SPAN, a share of all there.

    Each bot touches BOTS - 1 things that people touch in those days, and then this item, as if people of every taste wanted it.
    """
    rng = np.random.default_rng(seed)
    first, last = (start + int(part * (len(events) - start)) for part in SPAN)
    made: list[Event] = []
    for place in range(start, len(events)):
        made.append(events[place])
        if first <= place < last and rng.random() < share / (1.0 - share) / BOTS:
            made += _bot(
                f"{BOT}{place}", [events[int(rng.integers(first, last))] for _ in range(BOTS - 1)], events[place], item_id
            )
    return made


def _bot(user_id: str, like: Sequence[Event], now: Event, item_id: str) -> list[Event]:
    wanted = msgspec.structs.replace(now, event_id=f"{user_id}-last", user_id=user_id, item_id=item_id)
    others = [msgspec.structs.replace(wanted, event_id=f"{user_id}-{n}", item_id=each.item_id) for n, each in enumerate(like)]
    return [*others, wanted]


def table(run: Run) -> Table:
    """Return recall by part of the stream, of both models."""
    users = np.unique([answer.user_id for answer in run.answers], return_inverse=True)[1].astype(np.int64)
    frozen, online = run.hits("frozen"), run.hits("online")
    made = Table("part", "lists", f"trained, R@{K}", f"learning, R@{K}", "gain (95 %)", title=f"{len(run.answers)} lists")
    rows = [*np.array_split(np.arange(len(users)), PARTS), np.arange(len(users))]
    for number, own in enumerate(rows, 1):
        gain = difference(online[own], frozen[own], users[own])
        made.add_row(
            str(number) if number <= PARTS else "all",
            str(len(own)),
            f"{frozen[own].mean():.4f}",
            f"{online[own].mean():.4f}",
            f"{gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})",
        )
    return made


def line(run: Run, **more: object) -> str:
    """Return the figures as one line of JSON."""
    users = np.unique([answer.user_id for answer in run.answers], return_inverse=True)[1].astype(np.int64)
    frozen, online = run.hits("frozen"), run.hits("online")
    outcomes = [each.verdict.outcome for each in run.rounds]
    figures = {
        f"frozen_recall@{K}": interval(frozen, users),
        f"learning_recall@{K}": interval(online, users),
        "gain": difference(online, frozen, users),
    }
    counts = {name: outcomes.count(name) for name in ("better", "unclear", "worse")}
    back = sum(each.back is not None and each.chosen is not None for each in run.rounds)
    return json.dumps({**more, **figures, **counts, "taken_back": back, "lists": len(run.answers)})


def model_of(dataset: Dataset, replay: Replay, known: int, folder: Path | None) -> Bundle:
    """Return the model of the first events, from a folder where it was kept before."""
    if folder is not None and (folder / bundles.HEAD).is_file():
        return bundles.load(folder)
    texts = {item.item_id: item_text(item) for item in dataset.items}
    with bar("training") as progress:
        made = train(
            replay.personalizer,
            dataset.events[:known],
            dataset.is_wanted,
            texts=texts,
            tell=lambda what, epoch, figures: progress(figures.get("share", 1.0)),
        )
    if folder is not None:
        bundles.save(made, folder)
    return made


def measure(given: argparse.Namespace, dataset: Dataset, console: Console) -> Run:
    """Train or read the model, and replay."""
    events = dataset.events[: int(given.until * len(dataset.events))]
    known = int(given.known * len(dataset.events))
    settings = evaluation.settings_for(dataset, K, masked=True)
    encoder = remembered(settings)

    def begin() -> Replay:
        with bar("encoding the items") as progress:
            index = index_of(dataset.items, float(events[0].at), encoder, settings, progress)
        encoder.save()
        return Replay(building.build(encoder, settings, index))

    base = model_of(dataset, begin(), known, given.model)
    replay = begin()
    with bar("folding what is known") as progress:
        replay.run(events, 0, known, lambda turn: None, lambda what, place, figures: progress(place / known))
    item_id = given.poison_item or dataset.items[0].item_id
    stream = poisoned(events, known, given.poison, item_id) if given.poison else list(events[known:])
    steps = replace(Plan().steps, rate=given.rate, passes=given.passes, residual_rate=given.residual_rate)
    plan = Plan(round_s=3_600.0 * given.round_hours, users=given.users, steps=steps)
    own = Stream(replay, base, dataset.is_wanted, plan, is_free=given.free)
    with bar("replaying") as progress:
        run = own.play(stream, known, progress)
    for each in run.rounds:
        chosen = "" if each.chosen is None else f", {each.chosen.head.version} is chosen"
        console.print(f"round {each.number}: {each.proposed} is {each.verdict}{chosen}", markup=False)
    return run


def main() -> None:
    """Read the set, measure, print."""
    plan = Plan()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", help="a folder of --data, or a path to one")
    parser.add_argument("--data", type=Path, default=Path(), help="the folder that named sets are in")
    parser.add_argument("--model", type=Path, help="the folder to read the trained model from, or to keep it in")
    parser.add_argument("--known", type=float, default=TRAINED, help="share of the events that the model is trained on")
    parser.add_argument("--until", type=float, default=1.0, help="share of the events after which the replay ends")
    parser.add_argument("--poison", type=float, default=0.0, help="share of bots' events in their span, as .1")
    parser.add_argument("--poison-item", default="", help="what bots want; the set's first item when left out")
    parser.add_argument("--free", action="store_true", help="put every version into service, to see what the test is good for")
    parser.add_argument("--round-hours", type=float, default=24.0, help="of the stream's time; these sets are thin")
    parser.add_argument("--users", type=int, default=plan.users, help="held out in a round, at least")
    parser.add_argument("--rate", type=float, default=plan.steps.rate)
    parser.add_argument("--residual-rate", type=float, default=plan.steps.residual_rate)
    parser.add_argument("--passes", type=int, default=plan.steps.passes)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    given = parser.parse_args()
    began = time.perf_counter()
    folder = Path(given.set) if Path(given.set).is_dir() else given.data / given.set
    console = Console(width=200, file=sys.stderr if given.json else None)
    try:
        dataset = formats.read(folder)
        run = measure(given, dataset, console)
    except DatasetError as error:
        sys.exit(f"learning: {error}")
    console.print(table(run))
    if given.json:
        print(line(run, set=dataset.name, poison=given.poison, seconds=round(time.perf_counter() - began)))


if __name__ == "__main__":
    main()
