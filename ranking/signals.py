"""What all users together did: decayed co-visits and popularity per item, in memory.

Knows no topic, profile or vector. Counts decay as c(t) = c(t0) * 2 ** (-(t - t0) / half_life), every item at its own time.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ranking.covisits import LATER, MOST, NONE, CoVisits, Pairs, turns

FORMAT = 3  # of a snapshot; 1 had none in it, 2 no days and weeks
BEFORE = 0.25  # what came before an item tells less of what comes next than what came after it
PART = 1_000  # items of a snapshot written at once
RISING = 200  # items that `rising` returns
NEVER = -np.inf
TINY = 1e-300
HOTTEST_S = 60.0
DAY_S, WEEK_S = 86_400.0, 7 * 86_400.0  # half-lives between the two that are settings
HEATS = ("recent", "day", "week", "steady")  # touches of an item, each with its own decay


class SignalsError(ValueError):
    """A snapshot is of another format: what it holds has to be counted or read anew."""


@dataclass(frozen=True, slots=True)
class SignalSettings:
    """Half-lives in seconds: of what is rising now, and of popularity and co-visits."""

    recent_s: float = 6 * 3_600.0
    steady_s: float = 30 * 86_400.0

    def of_heats(self) -> NDArray[np.float64]:
        """Return the half-lives in the order of HEATS, (4,) seconds."""
        return np.array([self.recent_s, DAY_S, WEEK_S, self.steady_s])


class Visit(NamedTuple):
    """One touch of an item, made after touches of the items `after` (newest first).

    weight >= 0 adds to popularity; co-visits get 1, 1/2, 1/3 ... of it by how long before they came. at: Unix seconds. source:
    the events partition (or what stands for one) and the offset, by which it is counted once.
    """

    item_id: str
    after: tuple[str, ...]
    weight: float
    at: float
    source: tuple[int, int]


class Counts(NamedTuple):
    """The counts of one item, decayed to `at`. sources: events partition -> last offset counted."""

    at: float
    recent: float
    steady: float
    after: Mapping[str, float]
    sources: Mapping[int, int]
    day: float = 0.0
    week: float = 0.0


class Signals:
    """Counts of all items. One lock for those who write; `related` and `heats` take none, and may see half of a write.

    (Lists waited for the lock a tenth of their time.) So that numbers read never lie beyond an array, arrays grow before a
    number is known, and are read in the order: numbers, pairs, counts.
    """

    def __init__(self, settings: SignalSettings | None = None) -> None:
        self.settings = settings or SignalSettings()
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self._numbers: dict[str, int] = {}
        self._ids: list[str] = []  # by number
        self._free: list[int] = []
        self._at = np.full(0, NEVER)
        self._recent = np.zeros(0)
        self._day = np.zeros(0)
        self._week = np.zeros(0)
        self._steady = np.zeros(0)
        self._zero: float | None = None  # the moment of the pairs' heats: the first there was, in half-lives
        self._places: dict[int, int] = {}  # events partition -> its column in the sources
        self._sources = np.full((0, 0), NONE, np.int64)  # by number and column: the last offset counted
        self._pairs = CoVisits()
        self._rising: tuple[float, list[tuple[str, float]]] | None = None
        self._hottest: tuple[float, int, list[str]] | None = None

    def __len__(self) -> int:
        return int(np.count_nonzero(self._at > NEVER))

    def counts(self, item_ids: Sequence[str]) -> list[Counts | None]:
        """Return the counts of items, None for one that has none."""
        with self._lock:
            rows = np.array([self._numbers.get(item_id, NONE) for item_id in item_ids], np.int32)
            known = rows != NONE
            known[known] = self._at[rows[known]] > NEVER
            found = iter(self._counts_of(rows[known]))
        return [next(found) if each else None for each in known.tolist()]

    def _counts_of(self, rows: NDArray[np.int32]) -> list[Counts]:
        before, sources = self._pairs.before[rows], self._sources[rows]
        own, counted = before != NONE, sources != NONE
        afters = _split([self._ids[number] for number in before[own].tolist()], self._pairs.counts[rows][own].tolist(), own)
        partitions = list(self._places)
        offsets = _split([partitions[column] for column in np.nonzero(counted)[1].tolist()], sources[counted].tolist(), counted)
        numbers = [values[rows].tolist() for values in (self._at, self._recent, self._steady, self._day, self._week)]
        return [Counts(*each) for each in zip(*numbers[:3], afters, offsets, *numbers[3:], strict=True)]

    def put(self, records: Sequence[tuple[str, Counts]]) -> None:
        """Replace items' counts by records that are newer, in order.

        A record is older when the counts here include an event that it does not: this worker counted on since it sent it.
        """
        with self._lock:
            changed = [self._put(item_id, counts) for item_id, counts in records if self._is_newer(item_id, counts)]
            if changed:
                self._relink(changed)

    def remove(self, item_ids: Sequence[str]) -> None:
        """Forget items; unknown ids are ignored."""
        with self._lock:
            rows = np.array([self._numbers.pop(each) for each in dict.fromkeys(item_ids) if each in self._numbers], np.int32)
            if len(rows):
                self._at[rows], self._sources[rows] = NEVER, NONE
                for heat in self._heats():
                    heat[rows] = 0.0
                self._pairs.forget(rows)
                self._free.extend(rows.tolist())

    def count(self, visits: Sequence[Visit]) -> set[str]:
        """Count visits, in order; return the ids of the items that changed. What was counted before is left out."""
        if not visits:
            return set()
        with self._lock:
            rows = np.array([self._number(visit.item_id) for visit in visits], np.int32)
            befores = np.full((len(visits), MOST), NONE, np.int32)
            for i, visit in enumerate(visits):
                own = [self._number(other) for other in islice(visit.after, MOST)]
                befores[i, : len(own)] = own
            befores = befores[:, : max(1, int((befores != NONE).sum(axis=1).max()))]
            weights, at = np.array([(visit.weight, visit.at) for visit in visits]).T
            columns = np.array([self._column(visit.source[0]) for visit in visits], np.int64)
            offsets = np.array([visit.source[1] for visit in visits], np.int64)
            counted = np.zeros(len(visits), np.bool_)
            changed = []
            for turn in turns(rows):
                new = turn[offsets[turn] > self._sources[rows[turn], columns[turn]]]
                counted[new] = True
                changed.append(self._count(rows[new], befores[new], weights[new], at[new]))
                self._sources[rows[new], columns[new]] = offsets[new]
            self._relink(changed)
        return {visit.item_id for visit, is_new in zip(visits, counted.tolist(), strict=True) if is_new}

    def related(self, item_ids: Sequence[str], k: int) -> list[list[tuple[str, float]]]:
        """Return per item the k items most co-visited with it, best first, each with c_ij / sqrt(c_i c_j) in (0, 1].

        The score is the cosine of the visits; what came before the item has a quarter of it.
        """
        rows = np.array([self._numbers.get(item_id, NONE) for item_id in item_ids], np.int32)
        if not (rows != NONE).any():
            return [[] for _ in item_ids]
        numbers, scores = self._relate(rows[rows != NONE])
        best = _best(scores, k)
        found = zip(_picked(numbers, best), _picked(scores, best), strict=True)
        ids = self._ids
        answers = iter([[(ids[number], score) for number, score in zip(*own, strict=True) if score > 0.0] for own in found])
        return [next(answers) if row != NONE else [] for row in rows.tolist()]

    def heats(self, item_ids: Sequence[str], at: float) -> NDArray[np.float64]:
        """Return the HEATS of items, (n, 4), decayed to a time (Unix seconds); 0 for an item that has none."""
        rows = np.array([self._numbers.get(item_id, NONE) for item_id in item_ids], np.int32)
        is_known = (rows != NONE) & (self._at[rows] > NEVER) if len(self._at) else np.zeros(len(rows), np.bool_)
        own = rows[is_known]
        age_s = np.maximum(0.0, at - self._at[own])
        heats = np.zeros((len(rows), len(HEATS)))
        for number, (heat, half_life_s) in enumerate(zip(self._heats(), self.settings.of_heats(), strict=True)):
            heats[is_known, number] = heat[own] * np.exp2(-age_s / half_life_s)
        return heats

    def hottest(self, k: int, at: float) -> list[str]:
        """Return the ids of the k items with the most touches now, by each of HEATS in turn, without repeats.

        Computed anew at most once a minute of `at`.
        """
        kept = self._hottest
        if kept is None or not 0 <= at - kept[0] < HOTTEST_S or kept[1] != k:
            with self._lock:
                kept = self._hottest = (at, k, self._hot(k))
        return kept[2]

    def rising(self, at: float) -> list[tuple[str, float]]:
        """Return what is popular now, best first, with a score in (0, 1]: decayed recent touches over the largest.

        Computed anew at most once a second of `at`.
        """
        kept = self._rising
        if kept is None or not 0 <= at - kept[0] < 1.0:
            with self._lock:
                kept = self._rising = (at, self._rise())
        return kept[1]

    def save(self, path: Path) -> None:
        """Write all counts to one file, a part at a time: lists are made meanwhile."""
        with self._lock:
            count, places, zero = len(self._ids), list(self._places), self._zero
        parts = []
        for start in range(0, count, PART):
            with self._lock:
                parts.append(self._part(slice(start, min(start + PART, count)), len(places)))
        path.write_bytes(msgspec.msgpack.encode(_Snapshot(FORMAT, zero, places, parts)))

    def load(self, path: Path) -> None:
        """Read what `save` wrote, in place of what is here. Raises SignalsError, with nothing changed."""
        packed = path.read_bytes()
        found = msgspec.msgpack.decode(packed, type=_Stamp).format
        if found != FORMAT:
            raise SignalsError(f"{path} is a snapshot of format {found}, this version reads {FORMAT}: leave it out, count anew")
        snapshot = msgspec.msgpack.decode(packed, type=_Snapshot)
        with self._lock:
            self._clear()
            self._zero = snapshot.zero
            for partition in snapshot.places:
                self._column(partition)
            for part in snapshot.parts:
                self._read(part)
            count = len(self._ids)
            for ids, values, empty in (
                (self._pairs.before, self._pairs.counts, 0.0),
                (self._pairs.later, self._pairs.heats, NEVER),
            ):
                late = ids >= count  # numbers given while the snapshot was written
                ids[late], values[late] = NONE, empty

    # -- numbers

    def _number(self, item_id: str) -> int:
        number = self._numbers.get(item_id)
        if number is None:
            if self._free:
                number = self._free.pop()
                self._ids[number] = item_id
            else:
                number = len(self._ids)
                self._ids.append(item_id)
                self._grow(number + 1)
            self._numbers[item_id] = number
        return number

    def _grow(self, wanted: int) -> None:
        capacity = len(self._at)
        if wanted <= capacity:
            return
        room = max(wanted, capacity + capacity // 4, 1_024)
        for name, empty in (("_at", NEVER), *((f"_{heat}", 0.0) for heat in HEATS), ("_sources", NONE)):
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.full((room - capacity, *old.shape[1:]), empty, old.dtype)]))
        self._pairs.grow(room)

    def _column(self, partition: int) -> int:
        column = self._places.get(partition)
        if column is None:
            column = self._places[partition] = len(self._places)
            more = np.full((len(self._sources), 1), NONE, np.int64)
            self._sources = np.concatenate([self._sources, more], axis=1)
        return column

    def _sources_of(self, row: int) -> dict[int, int]:
        offsets = self._sources[row].tolist()
        return {partition: offset for partition, offset in zip(self._places, offsets, strict=True) if offset != NONE}

    def _moments(self, numbers: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return the time of items' counts, in half-lives since the first there was; -inf for those never counted."""
        moments: NDArray[np.float64] = self._at[numbers] / self.settings.steady_s - (self._zero or 0.0)
        return moments

    def _relink(self, changed: list[Pairs]) -> None:
        pairs = changed[0].joined(*changed[1:])
        if self._zero is None and len(pairs.later):
            self._zero = float(self._at[pairs.later[0]]) / self.settings.steady_s
        self._pairs.relink(pairs, self._moments(pairs.later))

    # -- counts

    def _is_newer(self, item_id: str, counts: Counts) -> bool:
        row = self._numbers.get(item_id, NONE)
        own = {} if row == NONE else self._sources_of(row)
        return own != counts.sources and all(offset <= counts.sources.get(p, NONE) for p, offset in own.items())

    def _put(self, item_id: str, counts: Counts) -> Pairs:
        row = self._number(item_id)
        befores = np.array([self._number(other) for other in counts.after], np.int32)
        self._at[row] = counts.at
        for name, heat in zip(HEATS, self._heats(), strict=True):
            heat[row] = getattr(counts, name)
        columns = [self._column(partition) for partition in counts.sources]
        self._sources[row] = NONE
        self._sources[row, columns] = list(counts.sources.values())
        return self._pairs.put(row, befores, np.array(list(counts.after.values()), np.float32))

    def _count(
        self, rows: NDArray[np.int32], befores: NDArray[np.int32], weights: NDArray[np.float64], at: NDArray[np.float64]
    ) -> Pairs:
        """Count one visit in each of different rows."""
        settings, before = self.settings, self._at[rows]
        now = np.maximum(before, at)
        age_s, late_s = np.where(before > NEVER, now - before, 0.0), now - at
        slow = np.exp2(-age_s / settings.steady_s)
        for heat, half_life_s in zip(self._heats(), settings.of_heats(), strict=True):
            gains = weights * np.exp2(-late_s / half_life_s)
            heat[rows] = heat[rows] * np.exp2(-age_s / half_life_s) + gains
        self._at[rows] = now
        shares = gains[:, None] / np.arange(1, befores.shape[1] + 1)
        return self._pairs.add(rows, slow.astype(np.float32), befores, shares.astype(np.float32))

    def _relate(self, rows: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return the numbers of all items co-visited with each of n rows, (n, WIDTH + LATER), and the scores; 0 for none."""
        own = self._moments(rows)
        at, steady = np.where(own > NEVER, own, 0.0)[:, None], self._steady[rows][:, None]
        before, later = self._pairs.before[rows], self._pairs.later[rows]
        # Both items' visits at the moment of the later one of the two, as the count is. An item not counted yet passes for as
        # popular as the other. The 1 keeps a pair that was seen once from looking certain.
        moments = self._moments(before)
        theirs = np.where(moments > NEVER, self._steady[before] * _power(np.where(moments > NEVER, moments, at) - at), steady)
        backward = BEFORE * self._pairs.counts[rows] / np.sqrt(1.0 + steady * theirs)
        moments = np.where(later != NONE, self._moments(later), at)
        counts = np.where(later != NONE, _power(self._pairs.heats[rows] - moments), 0.0)
        theirs = self._steady[later]
        ours = np.where(own[:, None] > NEVER, steady * _power(at - moments), theirs)
        forward = counts / np.sqrt(1.0 + ours * theirs)
        numbers = np.concatenate([later, np.where(before == NONE, NONE - 1, before)], axis=1)
        scores = np.concatenate([forward, backward], axis=1)
        scores[(numbers < 0) | (numbers == rows[:, None])] = 0.0
        _add_up(numbers, scores)
        return numbers, np.minimum(scores, 1.0)

    def _heats(self) -> tuple[NDArray[np.float64], ...]:
        return (self._recent, self._day, self._week, self._steady)

    def _hot(self, k: int) -> list[str]:
        columns = []
        rows = np.flatnonzero(self._at > NEVER)
        for heat, half_life_s in zip(self._heats(), self.settings.of_heats(), strict=True):
            # All counts decay alike: as if decayed to time 0, they are ordered as at any time.
            heats = np.log2(np.maximum(heat[rows], TINY)) + self._at[rows] / half_life_s
            columns.append([self._ids[row] for row in rows[np.argsort(-heats, kind="stable")[:k]].tolist()])
        return list(dict.fromkeys(chain.from_iterable(zip(*columns, strict=True))))

    def _rise(self) -> list[tuple[str, float]]:
        rows = np.flatnonzero(self._recent > 0.0)
        # All counts decay alike: as if decayed to time 0, they are ordered as at any time.
        heats = np.log2(self._recent[rows]) + self._at[rows] / self.settings.recent_s
        if len(rows) > RISING:
            top = np.argpartition(-heats, RISING)[:RISING]
            rows, heats = rows[top], heats[top]
        order = np.argsort(-heats, kind="stable")
        scores = np.exp2(heats[order] - heats.max(initial=NEVER)) if len(rows) else heats
        return [(self._ids[row], score) for row, score in zip(rows[order].tolist(), scores.tolist(), strict=True)]

    # -- snapshots

    def _part(self, rows: slice, columns: int) -> _Part:
        before, later = self._pairs.before[rows], self._pairs.later[rows]
        return _Part(
            self._ids[rows],
            [row for row in self._free if rows.start <= row < rows.stop],
            self._at[rows].tobytes(),
            self._recent[rows].tobytes(),
            self._day[rows].tobytes(),
            self._week[rows].tobytes(),
            self._steady[rows].tobytes(),
            self._sources[rows, :columns].tobytes(),
            _packed(before, self._pairs.counts[rows]),
            _packed(later, self._pairs.heats[rows]),
        )

    def _read(self, part: _Part) -> None:
        start, count = len(self._ids), len(part.ids)
        rows = slice(start, start + count)
        self._ids.extend(part.ids)
        self._free.extend(part.free)
        free = set(part.free)
        self._numbers.update((item_id, row) for row, item_id in enumerate(part.ids, start) if row not in free)
        self._grow(start + count)
        self._sources[rows] = np.frombuffer(part.sources, np.int64).reshape(count, len(self._places))
        for name in ("at", *HEATS):
            getattr(self, f"_{name}")[rows] = np.frombuffer(getattr(part, name), np.float64)
        _unpack(part.before, self._pairs.before[rows], self._pairs.counts[rows])
        _unpack(part.later, self._pairs.later[rows], self._pairs.heats[rows])


class _Part(msgspec.Struct, array_like=True):
    """Some items of a snapshot; numbers follow one another. free: numbers of no item. The rest as the arrays' bytes."""

    ids: list[str]
    free: list[int]
    at: bytes
    recent: bytes
    day: bytes
    week: bytes
    steady: bytes
    sources: bytes
    before: tuple[bytes, bytes, bytes]
    later: tuple[bytes, bytes, bytes]


class _Snapshot(msgspec.Struct, array_like=True):
    """A snapshot. zero: the moment of the heats; places: the events partitions, in the order of the columns of `sources`."""

    format: int
    zero: float | None
    places: list[int]
    parts: list[_Part]


class _Stamp(msgspec.Struct, array_like=True):
    """The beginning of a snapshot; format 1 began with `zero`."""

    format: float | None


def _packed(numbers: NDArray[np.int32], values: NDArray[np.floating[Any]]) -> tuple[bytes, bytes, bytes]:
    """Return how many numbers each row has, the numbers and their values: most rows are nearly empty."""
    own = numbers != NONE
    return own.sum(axis=1).astype(np.uint8).tobytes(), numbers[own].tobytes(), values[own].tobytes()


def _unpack(packed: tuple[bytes, bytes, bytes], numbers: NDArray[np.int32], values: NDArray[np.floating[Any]]) -> None:
    fill = np.frombuffer(packed[0], np.uint8)
    own = np.arange(numbers.shape[1]) < fill[:, None]
    numbers[own] = np.frombuffer(packed[1], np.int32)
    values[own] = np.frombuffer(packed[2], values.dtype)


def _split(keys: list[Any], values: list[Any], own: NDArray[np.bool_]) -> list[dict[Any, Any]]:
    """Return a dictionary for each row of a mask, of the keys and values that stand in a row where it is true."""
    ends = np.cumsum(own.sum(axis=1)).tolist()
    return [dict(zip(keys[start:end], values[start:end], strict=True)) for start, end in zip([0, *ends], ends, strict=False)]


def _best(scores: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Return the places of the k largest scores of each row, best first."""
    if k < scores.shape[1]:
        top = np.argpartition(-scores, k, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1, kind="stable")
        return np.take_along_axis(top, order, axis=1)
    return np.argsort(-scores, axis=1, kind="stable")


def _picked(values: NDArray[Any], places: NDArray[np.int64]) -> list[list[Any]]:
    picked: list[list[Any]] = np.take_along_axis(values, places, axis=1).tolist()
    return picked


def _power(exponents: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 2 ** exponents; those of decades of decay, which would overflow, as the largest or smallest there is."""
    return np.exp2(np.clip(exponents, -1_000.0, 1_000.0))


def _add_up(numbers: NDArray[np.int32], scores: NDArray[np.float64]) -> None:
    """Give an item that stands twice in a row, as a later one and as one before, the sum, at its first place."""
    rows, first, second = np.nonzero(numbers[:, :LATER, None] == numbers[:, None, LATER:])
    scores[rows, first] += scores[rows, LATER + second]
    scores[rows, LATER + second] = 0.0
