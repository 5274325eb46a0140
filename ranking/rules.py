"""What may stand in a list, and in which mixture: seen and unavailable items out, not too many of one category or brand.

Knows scores and codes, neither vectors nor messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranking.profile import Profile, seen_keys

COLD_SHARE = 8  # a user of whom nothing is known sees at most an eighth of the list from one category, at diversity above 0
HELD = 1e6  # far below any logit: what a bound holds back, best first
PINNED = 1e6  # far above any logit: such a candidate stands in the list whatever the bounds, and counts for them
POOL = 3  # the list is picked from the best POOL x size candidates: lower, the discount hardly reaches


@dataclass(frozen=True, slots=True)
class Rules:
    """size: items in a list. max_per_category, max_per_brand: 0 is no bound.

    diversity: in [0, 1]; an item loses diversity * n / size of its logit for n items of its category above it, or, by_likeness,
    what `ranking.diversity` takes. At 0 lists are by relevance alone, those of newcomers too.
    """

    size: int = 20
    max_per_category: int = 0
    diversity: float = 0.4
    max_per_brand: int = 0
    by_likeness: bool = False

    def bounds(self, cold: bool) -> tuple[int, int]:
        """Return how many items of one category and of one brand may stand in a list of a user, known or not."""
        bound = self.max_per_category or self.size
        is_broad = cold and self.diversity > 0.0
        return min(bound, max(1, self.size // COLD_SHARE)) if is_broad else bound, self.max_per_brand or self.size


def unseen(slots: NDArray[np.int64], keys: NDArray[np.uint64], profiles: Sequence[Profile]) -> NDArray[np.bool_]:
    """Tell which candidates their user has not had yet, (m, c) bool."""
    fresh = np.ones(slots.shape, np.bool_)
    for i, profile in enumerate(profiles):
        seen = seen_keys(profile)
        if len(seen):
            fresh[i] = ~(keys[slots[i]][None, :] == seen[:, None]).any(axis=0)
    return fresh


def choose(
    logit: NDArray[np.float32],
    slots: NDArray[np.int64],
    category: NDArray[np.int32],
    brand: NDArray[np.int32],
    cold: NDArray[np.bool_],
    rules: Rules,
) -> list[list[int]]:
    """Return per user the columns of the list's candidates, best first after the discount for more of the same category.

    category, brand: (capacity,) codes by slot, 0 is none. Candidates of logit -inf never stand in a list. Where bounds on
    categories and brands would leave a list short, the best of what they held back fill it up, at the end.
    """
    is_broad = cold & (rules.diversity > 0.0)
    bounded = is_broad | bool(rules.max_per_category or rules.max_per_brand)  # a bound may reach for what stands far below
    order = np.argsort(-logit, axis=1, kind="stable")[:, : None if bounded.any() else POOL * rules.size]
    logits = np.take_along_axis(logit, order, axis=1)
    logits[~bounded, POOL * rules.size :] = -np.inf  # whoever shares the batch
    above = _above(np.take_along_axis(category[slots], order, axis=1))
    usable = np.isfinite(logits).sum(axis=1).tolist()
    values = logits - above * np.float32(0.0 if rules.by_likeness else rules.diversity / rules.size)
    if rules.max_per_brand:
        columns = np.take_along_axis(order, np.argsort(-values, axis=1, kind="stable"), axis=1).tolist()
        kinds = np.stack([category[slots], brand[slots]], axis=2)
        parts = [
            split(own[:n], kinds[i], rules.bounds(bool(cold[i])), (logit[i] >= PINNED).tolist(), rules.size)
            for i, (own, n) in enumerate(zip(columns, usable, strict=True))
        ]
        return [[*kept, *held][: rules.size] for kept, held in parts]
    bounds = np.where(cold, rules.bounds(True)[0], rules.bounds(False)[0])[:, None]
    held = -HELD - np.arange(values.shape[1], dtype=np.float32)
    values = np.where(np.isfinite(logits) & (above >= bounds) & (logits < PINNED), held, values)
    best = np.argsort(-values, axis=1, kind="stable")[:, : rules.size]
    columns = np.take_along_axis(order, best, axis=1).tolist()
    return [own[:n] for own, n in zip(columns, usable, strict=True)]


def split(
    columns: Sequence[int], kinds: NDArray[np.int32], bounds: Sequence[int], is_exempt: Sequence[bool], most: int
) -> tuple[list[int], list[int]]:
    """Return of one user's columns those that keep the bounds, each taken in its turn, and those that are held back.

    kinds: (c, g) codes in g groupings, 0 is none; bounds: most of one code in each. Exempt columns are kept, and count. It
    stops when `most` are kept.
    """
    counts: list[dict[int, int]] = [{} for _ in bounds]
    kept: list[int] = []
    held: list[int] = []
    for column, codes in zip(columns, kinds[columns].tolist(), strict=True):
        if len(kept) == most:
            break
        fits = all(not code or own.get(code, 0) < bound for code, own, bound in zip(codes, counts, bounds, strict=True))
        (kept if fits or is_exempt[column] else held).append(column)
        if fits or is_exempt[column]:
            for code, own in zip(codes, counts, strict=True):
                own[code] = own.get(code, 0) + 1
    return kept, held


def _above(codes: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return how many of its category stand before each candidate in its row, (m, c); 0 where there is no category."""
    order = np.argsort(codes, axis=1, kind="stable")
    grouped = np.take_along_axis(codes, order, axis=1)
    place = np.broadcast_to(np.arange(codes.shape[1]), codes.shape)
    first = np.ones(codes.shape, np.bool_)
    first[:, 1:] = grouped[:, 1:] != grouped[:, :-1]
    above = np.empty(codes.shape, np.int64)
    np.put_along_axis(above, order, place - np.maximum.accumulate(np.where(first, place, 0), axis=1), axis=1)
    return np.where(codes > 0, above, 0)
