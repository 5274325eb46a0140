"""Train a model on a history: replay it through the product's own step, write down what the step knew, fit, and seal a bundle.

Does not know files or topics. The history is replayed in time order, so that every number a model learns from was known when it
counts: the first part trains the towers; with these in service the rest is replayed on, the candidates of its lists with their
features are written down, and M is fitted on those; at last the towers go on with everything. A replay is what workers do: the
same fold, the same counts, the same candidates.

    TrainingError(ValueError)   a history that nothing can be learnt from: says what is missing
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ranking import features, links
from ranking.bundle import Bundle, Head, sealed
from ranking.index import NOWHERE
from ranking.learned import Learned, M
from ranking.links import History, Links
from ranking.lists import CHUNK
from ranking.profile import MAX_TOUCHES, Profile, key_of, new_profile, pack
from ranking.queries import queries
from ranking.snapshots import Snapshots, snapshots
from ranking.towers import Shape, Towers
from ranking.train import Examples, Plan, Ranked, Tell, fit_ranker, fit_towers, new_towers, whitened
from streams.messages import EVENT_TYPES, Event
from streams.personalizer import Personalizer, Sourced
from streams.signals import SignalCounter

WINDOW = 512  # events whose order among different users is let go: all of a user's in their order
WINDOW_S = 300.0  # and the most that they are apart: what others did a moment ago decides what is popular now
TOWERS_FROM = 0.1  # share of the events before which too little is known to learn from
TOWERS_TO = 0.75  # share of the events that the towers learn from before M does
HELD_OUT = 0.1  # of the towers' examples: the newest
MOST_EXAMPLES = 120_000
MOST_LISTS = 12_000
FEWEST = 100
SESSION_S = 1_800.0  # without an event, after which the next one begins a session
NEVER = float("-inf")
LISTS_AT_ONCE = 64
CROSSED = "tower cross"  # what `U' ∘ V'` is called among the inputs of M
NEXT = 20  # next items of a user that are targets of the towers
HORIZON = 300  # and of M: a list is looked at for a while


Fitted = tuple[dict[str, NDArray[Any]], int]  # tensors, and the epoch they are of
Keep = Callable[[str, Callable[[], Fitted]], Fitted]
Ask = Callable[[list[tuple[int, Event]]], None]


class TrainingError(ValueError):
    """A history that nothing can be learnt from."""


@dataclass(frozen=True)
class Sizes:
    """What bounds a training. shares of the events; numbers of examples."""

    towers_from: float = TOWERS_FROM
    towers_to: float = TOWERS_TO
    examples: int = MOST_EXAMPLES
    lists: int = MOST_LISTS
    next_items: int = NEXT
    horizon: int = HORIZON
    width: int = 96
    hidden: int = 32


class Replay:
    """Events folded and counted in order, by one thread; what workers would come to."""

    def __init__(self, personalizer: Personalizer) -> None:
        self.personalizer = personalizer
        self.records: dict[str, bytes] = {}
        self._counter = SignalCounter(personalizer.maker.signals)
        self._nobody = pack(new_profile(personalizer.encoder.dim, key_of(personalizer.encoder.id)))

    def fold(self, events: Sequence[tuple[int, Event]]) -> None:
        """Fold events, each with its place in the history, and count what they tell of items."""
        batch = [Sourced(event, 0, place) for place, event in events]
        before = {sourced.event.user_id: self.records.get(sourced.event.user_id) for sourced in batch}
        readings = self.personalizer.encode([sourced.event for sourced in batch])
        folded = self.personalizer.fold(before, batch, readings)
        self.records |= folded.records
        self._counter.count(folded.interactions)

    def profiles(self, user_ids: Sequence[str]) -> list[Profile]:
        """Return users' profiles now."""
        return self.personalizer.profiles({user: self.records.get(user, self._nobody) for user in user_ids})

    def run(
        self, events: Sequence[Event], start: int, end: int, ask: Callable[[list[tuple[int, Event]]], None], tell: Tell
    ) -> None:
        """Fold the events of a range; `ask` is called with those of different users just before they are folded."""
        told = start
        for first, last in windows(events, start, end):
            for turn in turns(events, first, last):
                ask(turn)
                self.fold(turn)
            if last - told >= WINDOW or last == end:
                told = last
                tell("replay", last, {"share": last / len(events)})


def windows(events: Sequence[Event], start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield where the windows of a range of places begin and end."""
    first = start
    for place in range(start + 1, end + 1):
        if place == end or place - first == WINDOW or float(events[place].at) - float(events[first].at) > WINDOW_S:
            yield first, place
            first = place


def turns(events: Sequence[Event], start: int, end: int) -> Iterator[list[tuple[int, Event]]]:
    """Yield the events of a range so that within a turn all users differ, and each user's keep their order."""
    number: dict[str, int] = {}
    made: list[list[tuple[int, Event]]] = []
    for place in range(start, end):
        event = events[place]
        turn = number.get(event.user_id, 0)
        number[event.user_id] = turn + 1
        if turn == len(made):
            made.append([])
        made[turn].append((place, event))
    yield from made


def train(
    personalizer: Personalizer,
    events: Sequence[Event],
    is_wanted: Callable[[Event], bool],
    *,
    texts: Mapping[str, str] | None = None,
    sizes: Sizes | None = None,
    plan: Plan | None = None,
    settings: Mapping[str, object] | None = None,
    tell: Tell = lambda what, epoch, figures: None,
    keep: Keep = lambda name, make: make(),
) -> Bundle:
    """Return a model of a history in time order; `personalizer` holds its items, has folded nothing, and is used up.

    texts: item id -> its text, for the links by words; the title where it is missing. keep: returns what it kept of a fit, by
    name, or makes and keeps it; a replay is repeated, and comes to the same. Raises TrainingError.
    """
    training = Training(personalizer, events, is_wanted, texts or {}, sizes or Sizes(), plan or Plan(), tell, keep)
    return training.run(dict(settings or {}))


class Training:
    """One training: what was written down so far. Its models are those of one replay."""

    def __init__(
        self,
        personalizer: Personalizer,
        events: Sequence[Event],
        is_wanted: Callable[[Event], bool],
        texts: Mapping[str, str],
        sizes: Sizes,
        plan: Plan,
        tell: Tell,
        keep: Keep = lambda name, make: make(),
    ) -> None:
        """Take what `train` takes."""
        self.personalizer, self.events, self.sizes, self.plan, self.tell = personalizer, events, sizes, plan, tell
        self.keep = keep
        self.index = personalizer.maker.index
        self.kinds = ("", *EVENT_TYPES)
        self.numbers = {kind: number for number, kind in enumerate(self.kinds)}
        self.wanted = self._wanted(is_wanted)  # place -> slot
        self.texts = texts
        self.residuals = self._most_touched()  # slots, in the order of their rows
        self.replay = Replay(personalizer)
        self._read: list[Snapshots] = []
        self._targets: list[NDArray[np.int32]] = []
        self._lists: list[Ranked] = []
        self._made: tuple[Bundle, NDArray[np.float32]] | None = None  # and V' that M was fitted on

    def run(self, settings: dict[str, object]) -> Bundle:
        """Replay, fit, and return the bundle. Raises TrainingError."""
        count, sizes = len(self.events), self.sizes
        middle = int(sizes.towers_to * count)
        held_out = int(middle * (1.0 - HELD_OUT))
        self._replay(0, int(sizes.towers_from * count), 0)
        self._replay(int(sizes.towers_from * count), held_out, sizes.examples)
        older = self._examples()
        self._replay(held_out, middle, sizes.examples)
        towers, epochs = self._first_towers(older)
        model = Learned(self._bundle(towers, self._links(middle), {}, settings, {}), self.index)
        self.personalizer.use(model)
        self._replay(middle, count, sizes.examples, sizes.lists)
        m, ranker_epoch = self.keep("ranker", lambda: self._ranker(model.placed))
        again = replace(self.plan, epochs=max(2, epochs // 3), rate=self.plan.rate / 3.0)
        towers, _ = self._towers(
            "last towers", lambda: fit_towers(towers, *self._catalogue(), self._examples(), None, again, self.tell)
        )
        report = {"events": count, "examples": len(self._examples()), "epochs": epochs, "ranker_epoch": ranker_epoch}
        made = self._bundle(towers, self._links(count), m, settings, report)
        self._made = made, model.placed
        return made

    def without(self, inputs: Collection[str], *, deep: bool = True) -> Bundle:
        """Return the model that `run` made, with an M fitted again on the same lists without some of its inputs.

        inputs: of features.NAMES, and CROSSED; their weights are 0. deep: whether M has hidden layers. All else, and so the
        candidates, is as in the whole model. Raises ValueError for an input that M does not have, and before `run`.
        """
        if self._made is None:
            raise ValueError("nothing was replayed that M could be fitted on again: call run() first")
        whole, placed = self._made
        names = [*features.NAMES, *[CROSSED] * placed.shape[1]]
        if unknown := sorted(set(inputs) - set(names)):
            raise ValueError(f"M has no input {', '.join(unknown)}: give names of features, or {CROSSED}")
        m, epoch = self._ranker(placed, kept=np.array([name not in inputs for name in names]), deep=deep)
        report = {**whole.head.report, "ranker_epoch": epoch, "without": sorted(inputs), "deep": deep}
        head = msgspec.structs.replace(whole.head, report=report)
        return sealed(head, whole.items, {**whole.tensors, **{M + name: value for name, value in m.items()}})

    def _ranker(self, placed: NDArray[np.float32], *, kept: NDArray[np.bool_] | None = None, deep: bool = True) -> Fitted:
        how = replace(self.plan, batch=LISTS_AT_ONCE, rate=2.0 * self.plan.rate)
        return fit_ranker(self._ranked(), placed, how, self.sizes.hidden, self.tell, kept=kept, deep=deep)

    def _links(self, end: int) -> dict[str, Links]:
        """Return the tables of links of what was wanted before a place."""
        row_of = {slot: row for row, slot in enumerate(self.residuals)}
        histories: dict[str, list[tuple[int, float]]] = {}
        last = float(self.events[end - 1].at)
        for place, slot in self.wanted.items():
            if place < end and slot in row_of:
                event = self.events[place]
                histories.setdefault(event.user_id, []).append((row_of[slot], last - float(event.at)))
        touched = [History(*(np.array(own) for own in zip(*each, strict=True))) for each in histories.values()]
        items = [item for slot in self.residuals if (item := self.index.items[slot]) is not None]
        slots = np.array(self.residuals, np.int64)
        texts = [self.texts.get(item.item_id, item.title) for item in items]
        return links.fit(touched, self._white()[slots], texts, self.index.brand[slots], self.index.category[slots])

    def _white(self) -> NDArray[np.float32]:
        """Return the whitened vectors of all slots, unit rows."""
        towers = new_towers(self._shape(), self._catalogue()[0], self.plan)
        made: NDArray[np.float32] = whitened(towers, self._catalogue()[0])
        return made

    def _first_towers(self, older: Examples) -> tuple[Towers, int]:
        newest = self._examples()
        if len(older) < FEWEST:
            raise TrainingError(
                f"{len(self.events)} events give {len(older)} next items of users to learn from, {FEWEST} are needed at "
                "least: give more events, of users with more than one"
            )
        newest = newest.take(np.arange(len(older), len(newest)))
        towers = new_towers(self._shape(), self._catalogue()[0], self.plan)
        return self._towers("towers", lambda: fit_towers(towers, *self._catalogue(), older, newest, self.plan, self.tell))

    def _towers(self, name: str, fit: Callable[[], tuple[Towers, int]]) -> tuple[Towers, int]:
        def make() -> Fitted:
            towers, epochs = fit()
            return towers.arrays(), epochs

        tensors, epochs = self.keep(name, make)
        made = Towers(self._shape())
        made.load_arrays(tensors)
        return made, epochs

    def _shape(self) -> Shape:
        return Shape(self.index.dim, self.sizes.width, touches=MAX_TOUCHES, kinds=len(self.kinds), rows=len(self.residuals))

    def _bundle(
        self,
        towers: Towers,
        tables: Mapping[str, Links],
        m: Mapping[str, NDArray[np.float32]],
        settings: dict[str, object],
        report: Mapping[str, object],
    ) -> Bundle:
        head = Head(
            encoder=self.index.encoder_id,
            dim=self.index.dim,
            kinds=self.kinds,
            features=features.NAMES,
            shape=towers.shape.numbers(),
            settings=settings,
            report=dict(report),
        )
        ids = [item.item_id if (item := self.index.items[slot]) is not None else "" for slot in self.residuals]
        return sealed(
            head, tuple(ids), towers.arrays() | links.to_tensors(tables) | {M + name: value for name, value in m.items()}
        )

    def _wanted(self, is_wanted: Callable[[Event], bool]) -> dict[int, int]:
        slots = ((place, self.index.slot(event.item_id or "")) for place, event in enumerate(self.events) if is_wanted(event))
        return {place: slot for place, slot in slots if slot != NOWHERE}

    def _asked(self, start: int, end: int, lists: Collection[int], examples: Collection[int]) -> dict[int, tuple[int, ...]]:
        """Return place -> the slots of what its user wanted from there on, more of lists than of examples.

        Nothing from behind the range is among them: what is learnt there must not know it.
        """
        after: dict[str, tuple[int, ...]] = {}
        asked = {}
        for place in range(end - 1, start - 1, -1):
            if place in self.wanted:
                user = self.events[place].user_id
                later = after[user] = tuple(dict.fromkeys((self.wanted[place], *after.get(user, ()))))[: self.sizes.horizon]
                if place in lists or place in examples:
                    asked[place] = later if place in lists else later[: self.sizes.next_items]
        return asked

    def _most_touched(self) -> list[int]:
        """Return the slots that get a residual and links: all there are, of many those that were wanted most."""
        touches = Counter(self.wanted.values())
        slots = [slot for slot, item in enumerate(self.index.items) if item is not None]
        return sorted(sorted(slots, key=lambda slot: -touches[slot])[: links.MOST])

    def _arrivals(self, places: Collection[int]) -> list[int]:
        """Return those of the places, which are in order, at which a user comes back after a while, or for the first time."""
        last: dict[str, float] = {}
        found = []
        for place in places:
            event = self.events[place]
            if float(event.at) - last.get(event.user_id, NEVER) > SESSION_S:
                found.append(place)
            last[event.user_id] = float(event.at)
        return found

    def _sample(self, places: Collection[int], most: int) -> frozenset[int]:
        own = sorted(places)
        order = np.random.default_rng(self.plan.seed).permutation(len(own))[:most]
        return frozenset(own[number] for number in order)

    def _replay(self, start: int, end: int, examples: int, lists: int = 0) -> None:
        """Fold a range of events, and write down so many examples and lists of it at most."""
        places = [place for place in range(start, end) if place in self.wanted]
        of_examples = self._sample(places, examples)
        # A list is looked at when a user comes, and again after each event: M learns from both.
        of_lists = self._sample(self._arrivals(places), lists // 2) | self._sample(places, lists // 2)
        asked = self._asked(start, end, of_lists, of_examples)

        def ask(turn: list[tuple[int, Event]]) -> None:
            wanted = [(place, event) for place, event in turn if place in of_examples or place in of_lists]
            for first in range(0, len(wanted), CHUNK):
                self._write_down(wanted[first : first + CHUNK], asked, of_lists)

        self.replay.run(self.events, start, end, ask, self.tell)

    def _write_down(self, events: list[tuple[int, Event]], asked: Mapping[int, tuple[int, ...]], lists: frozenset[int]) -> None:
        places = [place for place, _ in events]
        profiles = self.replay.profiles([event.user_id for _, event in events])
        at = [float(event.at) for _, event in events]
        targets = np.full((len(events), self.sizes.horizon), NOWHERE, np.int32)
        for i, place in enumerate(places):
            targets[i, : len(asked[place])] = asked[place]
        model = self.personalizer.maker.model
        with self.index.lock:
            found = queries(profiles, min(at), self.index, self.personalizer.maker.half_lives)
            self._read.append(snapshots(profiles, at, self.index, self.numbers, found.vectors, found.strength))
            self._targets.append(targets[:, : self.sizes.next_items])
            own = [i for i, place in enumerate(places) if place in lists]
            if own and isinstance(model, Learned):
                self._lists.append(self._list([profiles[i] for i in own], targets[own], min(at), model))

    def _list(self, profiles: list[Profile], wanted: NDArray[np.int32], at: float, model: Learned) -> Ranked:
        maker = self.personalizer.maker
        read, found, among, allowed, scores = maker.scored(profiles, at)
        assert read is not None  # a learned model reads
        named, _ = model.features(read, found, among, scores, at, maker.index, maker.signals)
        return Ranked(
            named.astype(np.float16),
            among.slots.astype(np.int32),
            read.users,
            allowed,
            ((among.slots[:, :, None] == wanted[:, None, :]) & (wanted[:, None, :] != NOWHERE)).any(axis=2),
        )

    def _examples(self) -> Examples:
        return Examples(Snapshots.joined(self._read), np.concatenate(self._targets))

    def _ranked(self) -> Ranked:
        width = max((part.slots.shape[1] for part in self._lists), default=0)

        def joined(name: str, empty: object) -> NDArray[np.generic]:
            parts = [getattr(part, name) for part in self._lists]
            return np.concatenate(
                [
                    np.pad(part, [(0, 0), (0, width - part.shape[1]), *[(0, 0)] * (part.ndim - 2)], constant_values=empty)  # type: ignore[call-overload]
                    for part in parts
                ]
            )

        return Ranked(
            joined("named", 0),  # type: ignore[arg-type]
            joined("slots", NOWHERE),  # type: ignore[arg-type]
            np.concatenate([part.users for part in self._lists]),
            joined("allowed", False),  # type: ignore[arg-type]
            joined("wanted", False),  # type: ignore[arg-type]
        )

    def _catalogue(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the vectors of all slots, and each slot's row of the residual table."""
        rows = np.zeros(len(self.index.items), np.int64)
        rows[self.residuals] = np.arange(1, len(self.residuals) + 1)
        return self.index.vectors(np.arange(len(self.index.items))), rows
