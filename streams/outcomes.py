"""What users did with the lists they got, by variant or by model: lists and events of the topics joined, and summed by user.

Does not know who is in which variant: lists tell it. A list counts as followed by a touch when its user touches one of its
items within the window, by the events' time, whether or not a newer list came meanwhile; an event that names its `list_id`
counts for that list alone. A list that was reread is the same list; a touch finds an item at the place where it stood by then.
Of a user the `OF_USER` newest lists are open. Memory: some kB for a user who was there within the
window, and five numbers for each user of a row.

Kafka compacts `recommendations`: of what is older than a day or so, only each user's newest list may be there. Those that were
acted on are gone first, since what a user does makes a new list. So events are counted whose list is missing.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np

from ranking import ratios
from ranking.ratios import Estimate
from streams.building import weights_of
from streams.experiments import Experiment
from streams.messages import ERASE, MAX_AHEAD_S, BadMessage, Event, RecommendationList, decode_event
from streams.reading import records
from streams.settings import Settings
from streams.topics import partition_of, topics

OF_USER = 16  # open lists
# Events that lists are read ahead of: a micro-batch, 16,384 at most, publishes its lists in the order of users.
AHEAD = 20_000
LISTS, TOUCHED, BOUGHT, TOUCHES, RECIPROCALS = range(5)
# What is told of lists: the sum that is divided, and by which; None is the number of users.
RATES: Mapping[str, tuple[int, int | None]] = {
    "touched": (TOUCHED, LISTS),
    "bought": (BOUGHT, LISTS),
    "touches": (TOUCHES, None),
    "place": (RECIPROCALS, TOUCHED),
}

_lists = msgspec.json.Decoder(RecommendationList)
Sums = dict[str, list[float]]  # user -> LISTS ... RECIPROCALS


@dataclass(slots=True, eq=False)
class _Open:
    """A list whose user may still act on it. items: hashes, in order; sums: those of its user and row.

    reread: the items in the order that was published at `reread_at`, Unix seconds.
    """

    list_id: str
    at: float
    items: Sequence[int]
    sums: list[float]
    is_touched: bool = False
    is_bought: bool = False
    reread_at: float = math.inf
    reread: Sequence[int] = ()

    def place(self, item: int, at: float) -> int:
        """Return the place, from 1, at which an item stood at a time (Unix seconds)."""
        return (self.items if at < self.reread_at else self.reread).index(item) + 1


@dataclass(slots=True)
class _User:
    """at: of the newest event; waiting: events that no list covers yet; before: when the last but one of them was."""

    at: float = 0.0
    open: deque[_Open] = field(default_factory=lambda: deque(maxlen=OF_USER))
    waiting: int = 0
    last: float = 0.0
    before: float = 0.0


class Outcomes:
    """Sums of what followed lists. since, until: Unix seconds; lists of events in [since, until) count.

    variants, models: label -> sums by user, of lists that name a variant and of those that do not. events: of the time; lost:
    of these, without a list; whole_since: Unix seconds, from when on none is lost.
    """

    def __init__(self, window_s: float, since: float, until: float, is_touch: Callable[[Event], bool]) -> None:
        self.window_s, self.since, self.until = window_s, since, until
        self.variants: dict[str, Sums] = {}
        self.models: dict[str, Sums] = {}
        self.events = self.lost = 0
        self.whole_since = since
        self._is_touch = is_touch
        self._users: OrderedDict[str, _User] = OrderedDict()

    def take(self, events: Iterable[tuple[int, Event]], lists: Iterable[RecommendationList]) -> None:
        """Take the events (with their offsets) and the lists of one partition in, each in the order of their topic."""
        waiting: list[tuple[int, int, RecommendationList]] = []
        coming, newest, number = iter(lists), -1, 0
        for offset, event in events:
            while newest < offset + AHEAD and (told := next(coming, None)) is not None:
                number, newest = number + 1, max(newest, _offset(told))
                heapq.heappush(waiting, (_offset(told), number, told))
            while waiting and waiting[0][0] < offset:
                self._open(heapq.heappop(waiting)[2])
            self._happened(event)
        for _, _, told in sorted(waiting):
            self._open(told)
        for told in coming:
            self._open(told)
        self._users.clear()  # partitions have users of their own

    def _open(self, told: RecommendationList) -> None:
        user = self._users.get(told.user_id)
        if user is None:  # erased since
            return
        items = [hash(each.item_id) for each in told.items]
        for own in user.open:
            if own.list_id == told.list_id:  # published again
                if told.reread is not None:
                    own.reread_at, own.reread = told.published_at, items
                return
        if user.waiting > told.covers:
            self.lost += user.waiting - told.covers
            self.whole_since = max(self.whole_since, user.before)
        user.waiting = 0
        if not self.since <= told.event_at < self.until:
            return
        rows, label = (self.models, told.model) if told.variant is None else (self.variants, told.variant)
        sums = rows.setdefault(label, {}).setdefault(told.user_id, [0.0] * 5)
        sums[LISTS] += 1
        user.open.append(_Open(told.list_id, told.event_at, items, sums))

    def _happened(self, event: Event) -> None:
        if event.type == ERASE:
            self._forget(event.user_id)
            return
        at = float(event.at)
        user = self._users.setdefault(event.user_id, _User())
        self._users.move_to_end(event.user_id)
        user.at = max(user.at, at)
        if self.since <= at < self.until:
            self.events += 1
            user.waiting, user.before, user.last = user.waiting + 1, user.last or at, at
        if event.item_id is not None and self._is_touch(event):
            self._touch(user, event, at)
        self._let_go(at)

    def _touch(self, user: _User, event: Event, at: float) -> None:
        item = hash(event.item_id)
        own = [each for each in user.open if each.at <= at <= each.at + self.window_s and item in each.items]
        if event.list_id is not None:
            own = [each for each in own if each.list_id == event.list_id]
        for each in own:
            if not each.is_touched:
                each.is_touched = True
                each.sums[TOUCHED] += 1
                each.sums[RECIPROCALS] += 1.0 / each.place(item, at)
            if event.type == "purchase" and not each.is_bought:
                each.is_bought = True
                each.sums[BOUGHT] += 1
        if own:
            own[-1].sums[TOUCHES] += 1

    def _let_go(self, at: float) -> None:
        """Forget who has been away for the window, a few at a time; whoever comes back has no open list anyway."""
        for _ in range(2):
            user_id = next(iter(self._users))
            user = self._users[user_id]
            if user.at + self.window_s >= at:
                return
            if user.waiting:  # in vain
                self.lost, self.whole_since = self.lost + user.waiting, max(self.whole_since, user.last)
            del self._users[user_id]

    def _forget(self, user_id: str) -> None:
        self._users.pop(user_id, None)
        for rows in (self.variants, self.models):
            for sums in rows.values():
                sums.pop(user_id, None)


def _offset(told: RecommendationList) -> int:
    return int(told.list_id.rpartition("-")[2])


class Row(NamedTuple):
    """Lists of one variant or model.

    rates: by the names of RATES, None where nothing is known; ahead: how far they are ahead of the first variant's.
    """

    name: str
    users: int
    lists: int
    rates: Mapping[str, Estimate | None]
    ahead: Mapping[str, Estimate | None]


class Group(NamedTuple):
    """The rows of an experiment, or ("") of models. twice: users of two variants, left out of the rows.

    split: how probable users as uneven as these are, by the shares; None where the shares are not known.
    """

    experiment: str
    rows: list[Row]
    twice: int = 0
    split: float | None = None


def groups(outcomes: Outcomes, experiment: Experiment | None = None) -> list[Group]:
    """Return what followed the lists of each experiment, or of each model where no list names a variant.

    experiment: the one that runs: its first variant is what the others are compared with, and its shares are checked.
    """
    names = sorted({label.partition("/")[0] for label in outcomes.variants})
    if names or not outcomes.models:
        return [_group(name, outcomes, experiment if experiment and experiment.name == name else None) for name in names]
    return [Group("", [_row(name, sums, None) for name, sums in sorted(outcomes.models.items())])]


def _group(name: str, outcomes: Outcomes, known: Experiment | None) -> Group:
    found = {label.partition("/")[2]: sums for label, sums in outcomes.variants.items() if label.partition("/")[0] == name}
    order = [each.name for each in known.variants] if known is not None else []
    counted = Counter(user for sums in found.values() for user in sums)
    twice = {user for user, count in counted.items() if count > 1}
    left = {
        variant: {user: own for user, own in found.get(variant, {}).items() if user not in twice}
        for variant in [*order, *sorted(found.keys() - set(order))]
    }
    rows: list[Row] = []
    for variant, sums in left.items():
        rows.append(_row(variant, sums, rows[0] if rows else None))
    split = None
    if known is not None and left.keys() == set(order) and any(left.values()):
        split = ratios.mismatch([len(sums) for sums in left.values()], [each.share for each in known.variants])
    return Group(name, rows, len(twice), split)


def _row(name: str, sums: Sums, first: Row | None) -> Row:
    table = np.array(list(sums.values()), np.float64).reshape(len(sums), 5)
    users = np.ones(len(sums))
    rates = {
        rate: ratios.ratio(table[:, top], users if bottom is None else table[:, bottom])
        for rate, (top, bottom) in RATES.items()
    }
    ahead = {rate: _apart(own, first.rates[rate]) for rate, own in rates.items()} if first is not None else {}
    return Row(name, len(sums), int(table[:, LISTS].sum()), rates, ahead)


def _apart(ours: Estimate | None, theirs: Estimate | None) -> Estimate | None:
    return ours.minus(theirs) if ours is not None and theirs is not None else None


def read(settings: Settings, window_s: float, since: float, until: float) -> Outcomes:
    """Return what followed the lists that the topics hold. Raises TopicError, RightsError, BrokerUnreachable."""
    weights = weights_of(settings)
    outcomes = Outcomes(window_s, since, until, lambda event: weights.of_item(event, 1) > 0)
    written = since - MAX_AHEAD_S  # a sender's clock may be ahead of the records' times by this, and lists come after events
    for partition in range(settings.partitions):
        outcomes.take(_events(settings, partition, written), _listed(settings, partition, written))
    return outcomes


def _events(settings: Settings, partition: int, since: float) -> Iterator[tuple[int, Event]]:
    """Yield the events of a partition that are their users' own, with their offsets."""
    for record in records(settings, topics(settings).events, partition, since=since):
        try:
            event = decode_event(record.value or b"", record.timestamp / 1000.0)
        except BadMessage:  # a dead letter
            continue
        if record.key == event.user_id.encode() and partition_of(record.key, settings.partitions) == partition:
            yield record.offset, event  # else it was sent on, and comes where it belongs


def _listed(settings: Settings, partition: int, since: float) -> Iterator[RecommendationList]:
    for record in records(settings, topics(settings).recommendations, partition, since=since):
        if record.value:
            yield _lists.decode(record.value)
