"""Lists that are relevant and not all alike, where an item loses for its likeness to what stands above it.

Knows logits and vectors alone. The other way, a discount for more of a category, is in `ranking.rules`: it costs less and does
better where items have categories (docs/log.md has both, and determinantal point processes, which lost).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ranking.index import ItemIndex
from ranking.rules import PINNED, POOL, Rules

SCALE = 0.25  # of the logit, for an equal item above at diversity 1
TAKEN = np.float32(-np.inf)


def spread(logit: NDArray[np.float32], slots: NDArray[np.int64], index: ItemIndex, rules: Rules) -> NDArray[np.float32]:
    """Return logits, (m, c), whose plain order is the list's; the same ones where the rules do not ask for likeness.

    The best POOL x size candidates are chosen by `mmr`, all others follow. What is pinned or left out stays as it is.
    """
    strength = np.float32(SCALE * rules.diversity)
    if not rules.by_likeness or not strength:
        return logit
    order = np.argsort(-logit, axis=1, kind="stable")[:, : POOL * rules.size]
    best = np.take_along_axis(logit, order, axis=1)
    vectors = index.vectors(np.take_along_axis(slots, order, axis=1))  # (m, POOL * size, dim)
    _, worth = mmr(best, vectors @ vectors.transpose(0, 2, 1), strength, rules.size)
    spent = np.array(logit - strength)  # as if they were equal to an item above: no better than any of the pool
    np.put_along_axis(spent, order, np.maximum(worth, best - strength), axis=1)
    spread_out: NDArray[np.float32] = np.where((logit >= PINNED) | ~np.isfinite(logit), logit, spent)
    return spread_out


def mmr(
    logit: NDArray[np.float32], likeness: NDArray[np.float32], strength: np.float32, size: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the columns of m lists, (m, size), in the order chosen, and what each was worth then, (m, c), -inf for the others.

    What is worth something falls from choice to choice. Where candidates run out, columns repeat.
    Each choice is the best of logit - strength * likeness to the most alike item chosen before (maximal marginal relevance:
    Carbonell and Goldstein 1998). logit: (m, c); likeness: (m, c, c) cosines, below 0 counts as 0.
    """
    rows = np.arange(len(logit))
    left, nearest = logit.copy(), np.zeros_like(logit)
    columns = np.empty((len(logit), min(size, logit.shape[1])), np.int64)
    worth = np.full_like(logit, TAKEN)
    for place in range(columns.shape[1]):
        now = left - strength * nearest
        columns[:, place] = best = now.argmax(axis=1)
        worth[rows, best] = np.maximum(worth[rows, best], now[rows, best])
        left[rows, best] = TAKEN
        np.maximum(nearest, likeness[rows, best], out=nearest)
    return columns, worth
