"""Replay a stream with parts of what is known held back: users' own events, what all users did, and the model.

Lists are made as `streams/answers.py` makes them, once for each set of delays, for the same cases. Knows no files, no figures.

- **The profile**: events of the list's own user that are younger than the delay are not folded yet. What the user had in that
  time is not known to be seen either: it may stand in the list and waste a place, as it would where profiles come late.
- **The counts**: co-visits, trend and popularity have counted what is older than the delay.
- **The model**: the newest version that was finished a delay ago. Versions are learnt from the stream (`learnt`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ranking.bundle import Bundle
from ranking.evaluate import NOTHING
from ranking.index import ItemIndex
from ranking.learned import Learned
from ranking.lists import ListMaker
from ranking.online import Learner, Steps, example, write_down
from ranking.profile import Profile, key_of, new_profile, pack
from ranking.signals import Signals, SignalSettings
from streams.answers import BATCH, blocks
from streams.messages import Event, Interaction
from streams.personalizer import Personalizer, Sourced
from streams.signals import SignalCounter
from streams.trial import Case, Trial

KEPT = 8  # versions of a model that are placed over the items at once

Progress = Callable[[float], None]


class Delays(NamedTuple):
    """How late each part is, in seconds. model_s may be infinite: the model is never updated."""

    profile_s: float = 0.0
    counts_s: float = 0.0
    model_s: float = 0.0


class Version(NamedTuple):
    """A model, when it was finished (Unix seconds), and how many of the stream's events were known then."""

    at: float
    place: int
    bundle: Bundle


class Profiles:
    """Records of users, from events that are a delay old. users: those who are of interest, all where None."""

    def __init__(
        self, personalizer: Personalizer, events: Sequence[Event], delay_s: float = 0.0, users: Collection[str] | None = None
    ) -> None:
        self._personalizer, self._events, self._delay_s, self._users = personalizer, events, delay_s, users
        self._times = [float(event.at) for event in events]
        self._records: dict[str, bytes] = {}
        self._empty = pack(new_profile(personalizer.encoder.dim, key_of(personalizer.encoder.id)))
        self._next = 0

    def until(self, place: int, at: float) -> list[list[Interaction]]:
        """Fold the events before a place that are a delay old at a time; return what they say about items, by batch."""
        first, end = self._next, bisect_right(self._times, at - self._delay_s, 0, place)
        self._next = max(first, end)
        return [self._fold(start, min(start + BATCH, end)) for start in range(first, end, BATCH)]

    def _fold(self, start: int, end: int) -> list[Interaction]:
        own = range(start, end)
        batch = [Sourced(self._events[n], 0, n) for n in own if self._users is None or self._events[n].user_id in self._users]
        if not batch:
            return []
        before = {sourced.event.user_id: self._records.get(sourced.event.user_id) for sourced in batch}
        folded = self._personalizer.fold(before, batch, self._personalizer.encode([sourced.event for sourced in batch]))
        self._records |= folded.records
        return folded.interactions

    def record(self, user_id: str) -> bytes:
        """Return a user's record."""
        return self._records.get(user_id, self._empty)


class Counted:
    """Signals that have counted what is a delay old."""

    def __init__(self, settings: SignalSettings, delay_s: float = 0.0) -> None:
        self.signals = Signals(settings)
        self._counter = SignalCounter(self.signals)
        self._delay_s = delay_s
        self._waiting: deque[Interaction] = deque()

    def hear(self, told: Sequence[Interaction]) -> None:
        """Take in what is to be counted, in time order."""
        self._waiting.extend(told)

    def until(self, at: float) -> None:
        """Count what is a delay old at a time."""
        ripe = []
        while self._waiting and self._waiting[0].at <= at - self._delay_s:
            ripe.append(self._waiting.popleft())
        self._counter.count(ripe)


class Versions:
    """The versions of a model over an index, by when they were finished: `base` was there before the first."""

    def __init__(self, base: Bundle, index: ItemIndex, later: Sequence[Version] = ()) -> None:
        self.later = later
        self._times = [version.at for version in later]
        self._places = [version.place for version in later]
        self._made = lru_cache(KEPT)(lambda number: Learned(later[number - 1].bundle if number else base, index))

    def at(self, at: float, place: int) -> Learned:
        """Return the newest one that was finished by a time, and knew no event from a place on: many share a moment."""
        return self._made(min(bisect_right(self._times, at), bisect_right(self._places, place)))


@dataclass(frozen=True)
class _Told:
    """What is known of a block of cases. place: of the first one; profiles: delay -> of each case."""

    at: float
    place: int
    profiles: dict[float, list[Profile]]


class _Stream:
    """Profiles and counts of all delays as the stream goes on."""

    def __init__(
        self, personalizer: Personalizer, trial: Trial, profiles: Collection[float], counts: Collection[float]
    ) -> None:
        self._personalizer = personalizer
        users = {case.user_id for case in trial.cases}
        self._fresh = Profiles(personalizer, trial.events)
        self._late = {delay: Profiles(personalizer, trial.events, delay, users) for delay in profiles if delay}
        settings = personalizer.maker.signals.settings
        self.counted = {delay: Counted(settings, delay) for delay in counts}

    def tell(self, block: Sequence[Case]) -> _Told:
        """Go on to a block: others' events are known up to its first case, each user's own up to the user's case."""
        place, at = block[0].place, block[0].at
        for told in self._fresh.until(place, at):
            self._hear(told)
            self._count(at)
        records: dict[float, list[bytes]] = {delay: [] for delay in (0.0, *self._late)}
        for case in block:
            for told in self._fresh.until(case.place, case.at):
                self._hear(told)
            records[0.0].append(self._fresh.record(case.user_id))
            for delay, own in self._late.items():
                own.until(case.place, case.at)
                records[delay].append(own.record(case.user_id))
        return _Told(at, place, {delay: self._profiles(own) for delay, own in records.items()})

    def told(self, block: Sequence[Case]) -> None:
        """Count what users did within a block, now that it is over."""
        self._count(block[-1].at)

    def _profiles(self, records: Sequence[bytes]) -> list[Profile]:
        return self._personalizer.profiles({str(n): record for n, record in enumerate(records)})

    def _hear(self, told: Sequence[Interaction]) -> None:
        for each in self.counted.values():
            each.hear(told)

    def _count(self, at: float) -> None:
        for each in self.counted.values():
            each.until(at)


def replay(
    personalizer: Personalizer,
    trial: Trial,
    numbers: dict[str, int],
    k: int,
    delays: Sequence[Delays],
    versions: Versions | None = None,
    progress: Progress = lambda share: None,
) -> list[NDArray[np.int64]]:
    """Return the lists of a trial's cases under each of the delays, (m, k) numbers of items each, NOTHING where shorter.

    versions: None leaves the model that the personalizer ranks with. Without delays the lists are `ask_product`'s.
    """
    stream = _Stream(personalizer, trial, {each.profile_s for each in delays}, {each.counts_s for each in delays})
    lists = [np.full((len(trial.cases), k), NOTHING, np.int64) for _ in delays]
    row = 0
    for block in blocks(trial.cases):
        known = stream.tell(block)
        for each, own in zip(delays, lists, strict=True):
            maker = _maker(personalizer.maker, each, stream, versions, known)
            for n, found in enumerate(maker.lists(known.profiles[each.profile_s], known.at)):
                for place, item in enumerate(found[:k]):
                    own[row + n, place] = numbers[item.item_id]
        stream.told(block)
        row += len(block)
        progress(row / len(trial.cases))
    return lists


def _maker(maker: ListMaker, delays: Delays, stream: _Stream, versions: Versions | None, known: _Told) -> ListMaker:
    signals = stream.counted[delays.counts_s].signals
    model = maker.model if versions is None else versions.at(known.at - delays.model_s, known.place)
    return replace(maker, signals=signals, model=model)


def learnt(
    personalizer: Personalizer,
    trial: Trial,
    base: Bundle,
    every: int = 256,
    steps: Steps | None = None,
    progress: Progress = lambda share: None,
) -> list[Version]:
    """Return the versions that a model comes to that learns from each case once it was answered, one each so many cases.

    Every candidate counts alike: the users of a recorded stream never saw these lists. What decides whether a version is let
    into service (`ranking/gate.py`) is left out, since it would add a delay of its own. Raises OnlineError, BundleError.
    """
    index = personalizer.maker.index
    stream = _Stream(personalizer, trial, (0.0,), (0.0,))
    learner = Learner(base, index, steps)
    maker = replace(personalizer.maker, signals=stream.counted[0.0].signals, model=Learned(base, index))
    versions: list[Version] = []
    done = since = 0
    for block in blocks(trial.cases):
        known = stream.tell(block)
        shown = write_down(maker, known.profiles[0.0], known.at)
        for case, own in zip(block, shown, strict=True):
            made = example(case.user_id, case.at, own, index.slot(case.wanted[0]), (), {})
            learner.learn([made] if made is not None else [])
        done, since = done + len(block), since + len(block)
        if since >= every:
            version = learner.proposal()
            learner.accepted(version)
            versions.append(Version(block[-1].at, block[-1].place + 1, version))
            maker, since = replace(maker, model=Learned(version, index)), 0
        stream.told(block)
        progress(done / len(trial.cases))
    return versions
