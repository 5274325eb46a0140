"""Exploration: give a small share of places to new items that the ranking would not show, and tell with which probability.

Knows no scores and no clock. The draw is a function of the seed, so that a replay gives the same list. Each place that is not
pinned, but the first, is given away with probability `share`, as long as new items are left; which of the N new items comes
there is drawn evenly. The others move down, so that everything in the list has a propensity in closed form: a binomial one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

POOL = (
    50  # new items that a user's places are drawn from: those that suit best; so a first one's propensity is share / 50 or more
)
NEWEST = 64  # new items that are looked at beside those that the search found


@dataclass(frozen=True, slots=True)
class Explore:
    """share: of places, in [0, 0.5]. An item is new for `age_s` from its publication on, while it weighs under `touches`."""

    share: float = 0.0
    age_s: float = 7 * 86_400.0
    touches: float = 10.0


class Placed(NamedTuple):
    """One place of a list. propensity: probability, in (0, 1], that this item stands at this place, over all seeds."""

    column: int
    propensity: float
    is_explored: bool


def mix(
    ranked: list[int], is_fixed: list[bool], pool: list[int], keys: NDArray[np.uint64], share: float, seed: int
) -> list[Placed]:
    """Return a list of the same length with places given to new items.

    ranked: columns, best first; is_fixed: of each, whether its place is pinned. pool: columns of new items, none of them
    ranked; keys: (len(pool),) uint64, their own wherever they stand. seed: 64 bits.
    """
    is_given = (uniforms(seed, np.arange(len(ranked), dtype=np.uint64)) < share).tolist()
    drawn = [pool[row] for row in np.argsort(uniforms(seed, keys), kind="stable").tolist()]
    free = iter([column for column, fixed in zip(ranked, is_fixed, strict=True) if not fixed])
    exactly, at_least = _chances(len(ranked), share)
    new = len(pool)
    placed: list[Placed] = []
    trials, given = -1, 0  # places before this one that could have been given away, and that were
    for column, fixed, is_away in zip(ranked, is_fixed, is_given, strict=True):
        if fixed or trials < 0:
            placed.append(Placed(column if fixed else next(free), 1.0, False))
        elif is_away and given < new:
            placed.append(Placed(drawn[given], share * (1.0 - at_least[trials][new]) / new, True))
            given += 1
        elif given < new:
            placed.append(Placed(next(free), exactly[trials][given] * (1.0 - share), False))
        else:
            placed.append(Placed(next(free), at_least[trials][new], False))
        trials += not fixed
    return placed


@lru_cache(maxsize=8)
def _chances(most: int, share: float) -> tuple[list[list[float]], list[list[float]]]:
    """Return for t < most trials the chance of exactly k and of k or more successes, rows t, columns k up to POOL."""
    places = range(max(most, POOL) + 1)
    exactly = [[comb(t, k) * share**k * (1.0 - share) ** (t - k) if k <= t else 0.0 for k in places] for t in range(most)]
    at_least = [[sum(row[k:]) for k in places] for row in exactly]
    return exactly, [[1.0, *row[1:]] for row in at_least]


def uniforms(seed: int, keys: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each key, drawn evenly and independently over seeds. keys: (n,) uint64, distinct.

    The mixing function of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014), twice.
    """
    bits = _mixed(np.uint64(seed) ^ _mixed(keys)) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
