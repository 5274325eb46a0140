"""Which items were touched after which: decayed counts of pairs, in arrays, looked up from both sides.

Knows items by number only, and no time: counts of one item belong to a moment that the caller keeps ("B after A" counts at
B's). An item keeps the items that came before it; when more than FULL are there, the KEEP with the largest counts stay, so that
a newcomer gets the time to outgrow what is there. For the way back each item knows the LATER items that most came after it.
Not safe for several threads: the caller locks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST = 8  # items before one touch
WIDTH = 48
FULL = WIDTH - MOST
KEEP = 32
LATER = 32
NONE = -1

Numbers = NDArray[np.int32]


class Pairs(NamedTuple):
    """Items `later`, (n,), that were touched after items `before`, (n,)."""

    before: Numbers
    later: Numbers

    def joined(self, *others: Pairs) -> Pairs:
        """Return these pairs and those of others."""
        every = (self, *others)
        return Pairs(np.concatenate([each.before for each in every]), np.concatenate([each.later for each in every]))


class CoVisits:
    """before: (capacity, WIDTH) int32 numbers, NONE where there is none; counts: (capacity, WIDTH) float32.

    later: (capacity, LATER) int32; heats: (capacity, LATER) float32, log2 of the count of the way back as if decayed to one
    moment for all (all counts decay alike, so it orders pairs of different moments), -inf where there is none.
    """

    def __init__(self) -> None:
        self.before = np.full((0, WIDTH), NONE, np.int32)
        self.counts = np.zeros((0, WIDTH), np.float32)
        self.later = np.full((0, LATER), NONE, np.int32)
        self.heats = np.full((0, LATER), -np.inf, np.float32)

    def grow(self, capacity: int) -> None:
        """Make room for numbers below `capacity`."""
        more = capacity - len(self.before)
        self.before = np.concatenate([self.before, np.full((more, WIDTH), NONE, np.int32)])
        self.counts = np.concatenate([self.counts, np.zeros((more, WIDTH), np.float32)])
        self.later = np.concatenate([self.later, np.full((more, LATER), NONE, np.int32)])
        self.heats = np.concatenate([self.heats, np.full((more, LATER), -np.inf, np.float32)])

    def add(self, rows: Numbers, slow: NDArray[np.float32], befores: Numbers, gains: NDArray[np.float32]) -> Pairs:
        """Decay the counts of n different rows by `slow`, (n,), and add `gains` for the items `befores`, (n, r), r <= MOST.

        Returns the pairs that changed, for `relink`.
        """
        before, counts = self.before[rows], self.counts[rows] * slow[:, None]
        for rank in range(befores.shape[1]):
            own = np.flatnonzero(befores[:, rank] != NONE)
            hit = before[own] == befores[own, rank, None]
            place = np.where(hit.any(axis=1), hit.argmax(axis=1), (before[own] == NONE).argmax(axis=1))
            before[own, place] = befores[own, rank]
            counts[own, place] += gains[own, rank]
        changed = befores != NONE
        pairs = Pairs(befores[changed], np.repeat(rows, changed.sum(axis=1)))
        full = np.flatnonzero((before != NONE).sum(axis=1) > FULL)
        if len(full):
            least = np.argpartition(-counts[full], KEEP, axis=1)[:, KEEP:]
            gone = np.take_along_axis(before[full], least, axis=1)
            before[full[:, None], least], counts[full[:, None], least] = NONE, 0.0
            pairs = pairs.joined(Pairs(gone[gone != NONE], np.repeat(rows[full], (gone != NONE).sum(axis=1))))
        self.before[rows], self.counts[rows] = before, counts
        return pairs

    def put(self, row: int, befores: Numbers, counts: NDArray[np.float32]) -> Pairs:
        """Replace what came before an item; returns the pairs that changed, for `relink`."""
        old = self.before[row]
        changed = np.union1d(old[old != NONE], befores)
        most = np.argsort(-counts, kind="stable")[:FULL]
        self.before[row], self.counts[row] = NONE, 0.0
        self.before[row, : len(most)], self.counts[row, : len(most)] = befores[most], counts[most]
        return Pairs(changed.astype(np.int32), np.full(len(changed), row, np.int32))

    def relink(self, pairs: Pairs, ages: NDArray[np.float64]) -> None:
        """Bring the way back up to date. ages: (n,) half-lives from the heats' moment to that of the later items' counts."""
        key = pairs.before.astype(np.int64) << 32 | pairs.later
        distinct, first = np.unique(key, return_index=True)
        before, later = (distinct >> 32).astype(np.int32), (distinct & 0xFFFFFFFF).astype(np.int32)
        hit = self.before[later] == before[:, None]
        there = hit.any(axis=1)
        counts = self.counts[later, hit.argmax(axis=1)]
        there &= counts > 0.0
        gone, never = before[~there], later[~there]
        match = self.later[gone] == never[:, None]
        rows, places = gone[np.nonzero(match)[0]], np.nonzero(match)[1]
        self.later[rows, places], self.heats[rows, places] = NONE, -np.inf
        before, later = before[there], later[there]
        heats = (np.log2(counts[there]) + ages[first][there]).astype(np.float32)
        for turn in turns(before):
            self._note(before[turn], later[turn], heats[turn])

    def _note(self, rows: Numbers, later: Numbers, heats: NDArray[np.float32]) -> None:
        """Note one later item in each of different rows; the coolest makes place if it is cooler."""
        hit = self.later[rows] == later[:, None]
        known = hit.any(axis=1)
        place = np.where(known, hit.argmax(axis=1), self.heats[rows].argmin(axis=1))
        wins = known | (heats > self.heats[rows, place])
        rows, place = rows[wins], place[wins]
        self.later[rows, place], self.heats[rows, place] = later[wins], heats[wins]

    def forget(self, numbers: Numbers) -> None:
        """Remove items from all sides."""
        dead = np.zeros(len(self.before) + 1, np.bool_)  # the last entry answers for NONE
        dead[numbers] = True
        for ids, values, empty in ((self.before, self.counts, 0.0), (self.later, self.heats, -np.inf)):
            ids[numbers], values[numbers] = NONE, empty
            gone = dead[ids]
            ids[gone], values[gone] = NONE, empty


def turns(keys: Numbers) -> Iterator[NDArray[np.int64]]:
    """Yield the places of keys so that within a turn all differ, and equal ones keep their order."""
    order = np.argsort(keys, kind="stable")
    place, first = np.arange(len(keys)), np.ones(len(keys), np.bool_)
    first[1:] = keys[order[1:]] != keys[order[:-1]]
    turn = place - np.maximum.accumulate(np.where(first, place, 0))
    by_turn = np.argsort(turn, kind="stable")
    start = 0
    for end in np.cumsum(np.bincount(turn)).tolist():
        yield np.sort(order[by_turn[start:end]])
        start = end
