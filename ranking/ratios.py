"""Rates of lists with intervals that know that the lists of one user go together, from sums by user; and the check of a split.

Knows no users' ids, lists or variants. `evaluate` draws whole users again and again for the same purpose; here only sums of
each user are there, of many users, so the interval is in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ranking.evaluate import Interval

Floats = NDArray[np.float64]
Z = 1.959964  # of a 95 % interval
FEWEST = 2  # users, for a variance
ALIKE = 1e-20  # of squares: what is left by rounding


class Estimate(NamedTuple):
    """A rate and the variance of its estimate: None where all users are alike, and nothing tells how sure it is."""

    mean: float
    variance: float | None

    def interval(self) -> Interval | None:
        """Return its 95 % interval, None where there is none."""
        if self.variance is None:
            return None
        half = Z * math.sqrt(self.variance)
        return Interval(self.mean, self.mean - half, self.mean + half)

    def minus(self, other: Estimate) -> Estimate:
        """Return the difference of two rates of different users."""
        is_known = self.variance is not None and other.variance is not None
        return Estimate(self.mean - other.mean, (self.variance or 0.0) + (other.variance or 0.0) if is_known else None)


def ratio(tops: Floats, bottoms: Floats) -> Estimate | None:
    """Return the sum of tops over the sum of bottoms, with the variance of the ratio estimator (Cochran, 1977, 6.3).

    tops, bottoms: (n,) of each user. None where there are fewer than two users, or the bottoms are all 0: nothing was measured.
    """
    n, total = len(bottoms), float(bottoms.sum())
    if n < FEWEST or total <= 0.0:
        return None
    mean = float(tops.sum()) / total
    residuals = tops - mean * bottoms
    squares = float(residuals @ residuals)
    is_alike = squares <= ALIKE * float(tops @ tops)
    return Estimate(mean, None if is_alike else squares * n / (n - 1) / total**2)


def mismatch(counts: Sequence[int], shares: Sequence[float]) -> float:
    """Return how probable counts as uneven as these are, or more, where users were split by these shares (Pearson, 1900)."""
    if len(counts) != len(shares) or len(counts) < FEWEST or not sum(counts):
        raise ValueError(f"{len(counts)} counts of {len(shares)} shares: give users of two variants or more, and their shares")
    wanted = [sum(counts) * share / sum(shares) for share in shares]
    return _chi_square(sum((count - each) ** 2 / each for count, each in zip(counts, wanted, strict=True)), len(counts) - 1)


def _chi_square(value: float, freedom: int) -> float:
    """Return the probability above a value."""
    half_freedom, half_value = torch.tensor([freedom, value], dtype=torch.float64) / 2.0
    return float(torch.special.gammaincc(half_freedom, half_value))
