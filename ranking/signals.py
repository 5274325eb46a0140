"""What all users together did: decayed co-visits and popularity per item, in memory.

Knows no topic, profile or vector. Counts decay as c(t) = c(t0) * 2 ** (-(t - t0) / half_life), every item at its own time.
Co-visits are kept once, by the later item ("B after A"), and looked up from both sides.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log2, sqrt
from pathlib import Path

import msgspec

MAX_AFTER = 32  # co-visited items kept per item, twice as many between cuts: the smallest decayed counts fall out
BEFORE = 0.25  # what came before an item tells less of what comes next than what came after it
REFRESH_S = 1.0
PART = 1_000
RISING = 200  # items that `rising` looks at


@dataclass(frozen=True, slots=True)
class SignalSettings:
    """Half-lives in seconds: of what is rising now, and of popularity and co-visits."""

    recent_s: float = 6 * 3_600.0
    steady_s: float = 30 * 86_400.0


class Counts(msgspec.Struct, array_like=True):
    """The counts of one item, decayed to `at`. sources: events partition -> last offset counted."""

    at: float
    recent: float
    steady: float
    after: dict[str, float]
    sources: dict[int, int]

    def decay_to(self, at: float, settings: SignalSettings) -> None:
        """Move the counts to a later time; an earlier one leaves them as they are."""
        if at <= self.at:
            return
        slow = 2.0 ** (-(at - self.at) / settings.steady_s)
        self.recent *= 2.0 ** (-(at - self.at) / settings.recent_s)
        self.steady *= slow
        self.after = {item_id: count * slow for item_id, count in self.after.items()}
        self.at = at


class Signals:
    """Counts of all items. One lock: a follower writes while lists are made."""

    def __init__(self, settings: SignalSettings | None = None) -> None:
        self.settings = settings or SignalSettings()
        self._counts: dict[str, Counts] = {}
        self._followed: dict[str, set[str]] = {}  # item -> items that were touched after it
        self._related: dict[str, tuple[float, list[tuple[str, float]]]] = {}  # answers of `related`, and of when
        self._outdated: set[str] = set()  # whose answers have changed
        self._hot: dict[str, float] = {}  # item -> log2 of its recent count, decayed to time 0: see `_heat`
        self._rising: tuple[float, list[tuple[str, float]]] | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._counts)

    def counts(self, item_id: str) -> Counts | None:
        """Return a copy of the counts of one item, or None."""
        with self._lock:
            counts = self._counts.get(item_id)
            return (
                None
                if counts is None
                else msgspec.structs.replace(counts, after=dict(counts.after), sources=dict(counts.sources))
            )

    def put(self, item_id: str, counts: Counts) -> None:
        """Replace an item's counts by a record that is at least as new; an older one is ignored.

        A record is older when the counts here include an event that it does not: this worker counted on since it sent it.
        """
        with self._lock:
            own = self._counts.get(item_id)
            if own is not None and any(offset > counts.sources.get(p, -1) for p, offset in own.sources.items()):
                return
            self._store(item_id, counts)

    def remove(self, item_id: str) -> None:
        """Forget an item."""
        with self._lock:
            counts = self._counts.pop(item_id, None)
            self._hot.pop(item_id, None)
            self._part(item_id, counts.after if counts else ())
            self._changed(item_id, ())

    def count(self, item_id: str, after: Sequence[str], weight: float, at: float, source: tuple[int, int]) -> bool:
        """Count one touch of an item, made after touches of the items `after` (newest first); False if counted already.

        weight > 0 adds to popularity; co-visits get 1, 1/2, 1/3 ... of it by how long before they came.
        """
        partition, offset = source
        with self._lock:
            own = self._counts.get(item_id) or Counts(at, 0.0, 0.0, {}, {})
            if offset <= own.sources.get(partition, -1):
                return False
            own.decay_to(at, self.settings)
            slow = 2.0 ** (-(own.at - at) / self.settings.steady_s)
            own.recent += weight * 2.0 ** (-(own.at - at) / self.settings.recent_s)
            own.steady += weight * slow
            for rank, before in enumerate(after, 1):
                own.after[before] = own.after.get(before, 0.0) + weight * slow / rank
            if len(own.after) > 2 * MAX_AFTER:  # a newcomer gets the time to outgrow what is there
                ranked = sorted(own.after.items(), key=lambda pair: -pair[1])
                own.after = dict(ranked[:MAX_AFTER])
                self._part(item_id, [before for before, _ in ranked[MAX_AFTER:]])
            own.sources[partition] = offset
            self._store(item_id, own)
            return True

    def related(self, item_id: str, at: float | None = None) -> list[tuple[str, float]]:
        """Return the items co-visited with one, best first, with c_ij / sqrt(c_i c_j) in (0, 1] (cosine of the visits).

        With `at`, what changed is computed anew at most once a second of it: a click changes five answers, and computing
        them for each list took a third of the list's time.
        """
        with self._lock:
            found = self._related.get(item_id)
            if found is not None and item_id in self._outdated and (at is None or not 0 <= at - found[0] < REFRESH_S):
                found = None
            if found is None:
                found = self._related[item_id] = (at or 0.0, self._relate(item_id))
                self._outdated.discard(item_id)
            return found[1]

    def rising(self, at: float) -> list[tuple[str, float]]:
        """Return what is popular now, best first, with a score in (0, 1]: decayed recent touches over the largest.

        Computed anew at most once a second of `at`.
        """
        with self._lock:
            if self._rising is None or not 0 <= at - self._rising[0] < 1.0:
                self._rising = (at, self._rise())
            return self._rising[1]

    def save(self, path: Path) -> None:
        """Write all counts to one file."""
        with self._lock:
            ids = list(self._counts)
        parts = []
        for start in range(0, len(ids), PART):  # a part at a time: nobody else runs while one is encoded
            with self._lock:
                part = {item_id: self._counts[item_id] for item_id in ids[start : start + PART] if item_id in self._counts}
                parts.append(msgspec.msgpack.encode(part))
        path.write_bytes(msgspec.msgpack.encode(parts))

    def load(self, path: Path) -> None:
        """Read what `save` wrote, in place of what is here."""
        parts = msgspec.msgpack.decode(path.read_bytes(), type=list[bytes])
        counts = {
            item_id: own for part in parts for item_id, own in msgspec.msgpack.decode(part, type=dict[str, Counts]).items()
        }
        with self._lock:
            self._counts.clear()
            self._followed.clear()
            self._related.clear()
            self._outdated.clear()
            self._hot.clear()
            self._rising = None
            for item_id, own in counts.items():
                self._store(item_id, own)

    def _store(self, item_id: str, counts: Counts) -> None:
        old = self._counts.get(item_id)
        gone: Mapping[str, float] = old.after if old is not None and old is not counts else {}
        self._part(item_id, [before for before in gone if before not in counts.after])
        for before in counts.after:
            self._followed.setdefault(before, set()).add(item_id)
        self._counts[item_id] = counts
        self._heat(item_id, counts)
        self._changed(item_id, counts.after)

    def _part(self, item_id: str, befores: Iterable[str]) -> None:
        for before in befores:
            self._followed.get(before, set()).discard(item_id)
            self._outdated.add(before)

    def _changed(self, item_id: str, others: Iterable[str]) -> None:
        self._outdated.update(other for other in (item_id, *others) if other in self._related)

    def _relate(self, item_id: str) -> list[tuple[str, float]]:
        own = self._counts.get(item_id)
        pairs: dict[str, float] = {}
        if own is not None:
            for before, count in own.after.items():
                pairs[before] = BEFORE * count * self._norm(own, before)
        for later in self._followed.get(item_id, ()):
            after = self._counts[later]
            pairs[later] = pairs.get(later, 0.0) + after.after.get(item_id, 0.0) * self._norm(after, item_id)
        pairs.pop(item_id, None)
        return sorted(((i, min(s, 1.0)) for i, s in pairs.items() if s > 0.0), key=lambda pair: -pair[1])[:MAX_AFTER]

    def _norm(self, own: Counts, other_id: str) -> float:
        other = self._counts.get(other_id)
        ages = 0.0 if other is None else (other.at - own.at) / self.settings.steady_s
        steady = own.steady if other is None else other.steady * 2.0 ** min(ages, 1_000.0)  # 2 ** 1024 overflows
        product = own.steady * steady
        return 1.0 / sqrt(1.0 + product)  # the 1 keeps a pair that was seen once from looking certain

    def _heat(self, item_id: str, counts: Counts) -> None:
        """Keep the hottest items apart. All counts decay alike, so log2(count) + at / half_life orders them at any time."""
        if counts.recent <= 0.0:
            return
        self._hot[item_id] = log2(counts.recent) + counts.at / self.settings.recent_s
        if len(self._hot) > 2 * RISING:
            self._hot = dict(sorted(self._hot.items(), key=lambda pair: -pair[1])[:RISING])

    def _rise(self) -> list[tuple[str, float]]:
        top = sorted(self._hot.items(), key=lambda pair: -pair[1])[:RISING]
        return [(item_id, 2.0 ** (heat - top[0][1])) for item_id, heat in top]
