"""What lists are worth, in figures: of each user's list, of all lists together, and how sure the figures are.

Knows no users, items' texts, files or models: items are numbers, lists are arrays. A list is a row of m x k item numbers, best
first, filled up with NOTHING where it is shorter; what each user should have seen is a sequence of distinct item numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NOTHING = -1
ROUNDS = 1_000  # bootstrap samples: the ends of a 95 % interval move by a few hundredths of its width from seed to seed
AT_ONCE = 50  # samples drawn together: 4 MB for 10,000 users
LEVEL = 0.95

Lists = NDArray[np.int64]  # (m, k)
Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A mean, and the ends of its bootstrap interval."""

    mean: float
    low: float
    high: float


class Each(NamedTuple):
    """The figures of each list, all (m,) float64 in [0, 1]; 1 is best.

    recall: hits / min(k, wanted), so that 1 can be reached; ndcg: binary gains, discount 1 / log2(place + 1) (Järvelin and
    Kekäläinen, 2002); mrr: 1 / place of the first hit, 0 without one; hit: whether there is one.
    """

    recall: Floats
    ndcg: Floats
    mrr: Floats
    hit: Floats


def hits(lists: Lists, wanted: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
    """Tell which places of the lists hold what their user wanted, (m, k) bool."""
    width = max(1, max(map(len, wanted), default=1))
    table = np.full((len(wanted), width), NOTHING - 1, np.int64)  # equal to no place, filled or not
    for row, own in enumerate(wanted):
        table[row, : len(own)] = own
    found = np.zeros(lists.shape, np.bool_)
    for column in range(width):  # (m, k) at a time: m x k x width would be gigabytes where one user wants hundreds
        found |= lists == table[:, column, None]
    return found


def reached(lists: Lists, wanted: Sequence[Sequence[int]], k: int) -> Floats:
    """Return hits / min(k, wanted) of each list, however long, at most 1, (m,): what any k picked from it could come to."""
    count = np.array([len(own) for own in wanted], np.int64)
    share: Floats = np.minimum(1.0, hits(lists, wanted).sum(axis=1) / np.minimum(k, count))
    return share


def each(lists: Lists, wanted: Sequence[Sequence[int]]) -> Each:
    """Return the figures of each list. Raises ValueError when a user wants nothing: leave such users out, or say why."""
    count = np.array([len(own) for own in wanted], np.int64)
    if len(count) and count.min() < 1:
        raise ValueError(f"user {int(count.argmin())} wants nothing: a list for nobody has no figures, leave it out")
    k = lists.shape[1]
    found = hits(lists, wanted)
    most = np.minimum(k, count)
    gains = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[0.0], np.cumsum(gains)])[most]
    places = np.where(found.any(axis=1), found.argmax(axis=1) + 1, np.inf)
    hit = np.asarray(found.any(axis=1), np.float64)
    return Each(found.sum(axis=1) / most, (found @ gains) / ideal, 1.0 / places, hit)


def interval(values: Floats, groups: NDArray[np.int64] | None = None, *, seed: int = 0) -> Interval:
    """Return the mean of n values and its 95 % percentile bootstrap interval (Efron, 1979).

    groups: (n,) which user each value is of, where users have several: whole users are drawn, as their values go together.
    Raises ValueError for no values.
    """
    if not len(values):
        raise ValueError("an interval of no values: nothing was measured")
    place = np.arange(len(values)) if groups is None else np.unique(groups, return_inverse=True)[1]
    totals = np.bincount(place, np.asarray(values, np.float64))
    sizes = np.bincount(place, np.ones(len(values)))
    rng = np.random.default_rng(seed)
    means: list[Floats] = []
    for _ in range(0, ROUNDS, AT_ONCE):
        drawn = rng.integers(0, len(totals), (AT_ONCE, len(totals)))
        means.append(totals[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(np.mean(values)), float(low), float(high))


def difference(ours: Floats, theirs: Floats, groups: NDArray[np.int64] | None = None, *, seed: int = 0) -> Interval:
    """Return the mean of ours - theirs and its interval; value i of both is of the same list's user and moment.

    Paired: what makes a user easy or hard for both drops out. An interval that does not hold 0 tells them apart.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"{len(ours)} values against {len(theirs)}: measure both on the same lists")
    return interval(ours - theirs, groups, seed=seed)


def coverage(lists: Lists, items: int) -> float:
    """Return the share of all items that stand in at least one list, in [0, 1]."""
    return len(np.unique(lists[lists != NOTHING])) / items


def gini(lists: Lists, items: int) -> float:
    """Return how unevenly the places go to the items: 0 when all have as many, near 1 when one has all (Gini, 1912)."""
    counts = np.sort(np.bincount(lists[lists != NOTHING], minlength=items)).astype(np.float64)
    if not counts.sum():
        raise ValueError("the lists are all empty: nothing was recommended")
    ranks = np.arange(1, items + 1)
    return float((2 * ranks - items - 1) @ counts / (items * counts.sum()))


def novelty(lists: Lists, touches: NDArray[np.float64]) -> float:
    """Return the mean self-information of what is recommended, -log2 p(item), in bits; larger is less known.

    touches: (items,) how often each was touched before. One touch is added to each, so that a new item counts, finitely
    (Zhou et al., 2010, with Laplace's rule).
    """
    share = (touches + 1.0) / (touches.sum() + len(touches))
    return float(-np.log2(share[lists[lists != NOTHING]]).mean())


def diversity(lists: Lists, vectors: NDArray[np.float32]) -> float:
    """Return how unlike the items of a list are: the mean over lists of 1 - mean cosine of their pairs, in [0, 2].

    vectors: (items, dim) unit rows. Lists of fewer than two items are left out (Ziegler et al., 2005).
    """
    values: list[float] = []
    for own in lists:
        picked = vectors[own[own != NOTHING]]
        n = len(picked)
        if n > 1:
            total = picked.sum(axis=0, dtype=np.float64)
            values.append(1.0 - float(total @ total - n) / (n * (n - 1)))
    return float(np.mean(values)) if values else 0.0


def calibration_error(chances: NDArray[np.floating], found: NDArray[np.bool_], bins: int = 10) -> float:
    """Return the expected calibration error: the mean distance of told probability and share of hits, in [0, 1]; 0 is best.

    chances: (n,) the probabilities told; found: (n,) whether it was a hit. Bins hold equally many, since nearly all
    probabilities are small and bins of equal width would hold all of them in one (Naeini et al., 2015).
    """
    if not len(chances):
        raise ValueError("a calibration of no places: nothing was recommended")
    order = np.argsort(chances, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [abs(float(chances[part].mean()) - float(found[part].mean())) * len(part) for part in parts]
    return float(np.sum(gaps) / len(chances))
