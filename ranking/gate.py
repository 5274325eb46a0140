"""Decide whether a new version of a model may take the place of another, from lists that neither was fitted on.

Knows no model, event or clock: it gets what each list cost the two versions. The rule:

- Each user has one vote, the mean of the user's lists; users who wanted an item that more than a twentieth of all users wanted
  are drawn down to that share, so that a crowd at one item, real or made up, does not outvote the rest.
- The votes are what the new version gains in log-loss. The highest twentieth are not believed. Of the others the lowest and
  the highest fifth are left out, and the bounds of the mean of what remains are those of Tukey and McLaughlin (1963): what less
  than a fifth of the users do, however loud, moves it little, and what a twentieth do cannot move it up at all.
- **better**, and published: the lower bound is above 0, and NDCG@20 is not shown to be lower. **worse**: the upper bound is
  below 0, or NDCG@20 is shown to be lower. **unclear**: neither, or too few users.

At most `risk` of the versions that are as good as the one in service, or worse, come out as better (one-sided, for each test).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

TRIMMED = 0.2  # of the votes, at each end
MADE_UP = 0.05  # of the votes, the highest: room for users who are none
OF_ONE_ITEM = 0.05  # of the users, the most that wanted one item
FEWEST = 100  # users without whom nothing is decided
RISK = 0.05

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bound:
    """A mean and its one-sided bounds, each of which fails for a share `risk`."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f})"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the test says of a new version. gain: in log-loss, nats a list; ndcg: the change of NDCG@20; users: with a vote."""

    outcome: Literal["better", "worse", "unclear"]
    gain: Bound
    ndcg: Bound
    users: int

    def __str__(self) -> str:
        return f"{self.outcome}: log-loss gains {self.gain}, NDCG@20 {self.ndcg}, {self.users} users"


NOTHING = Bound(0.0, -math.inf, math.inf)


def compare(
    user_ids: Sequence[str], wanted: Sequence[int], gains: Floats, ndcg: Floats, *, risk: float = RISK, fewest: int = FEWEST
) -> Verdict:
    """Return what n lists say of a new version. wanted: the item of each; gains: (n,), what it gains in log-loss;

    ndcg: (n,), what NDCG@20 changes by.
    """
    if len(set(user_ids)) < max(2, fewest):
        return Verdict("unclear", NOTHING, NOTHING, len(set(user_ids)))
    rows = _heard(user_ids, np.array(wanted, np.int64))
    users = np.unique(np.array(user_ids, np.str_)[rows], return_inverse=True)[1]
    lists = np.bincount(users)
    votes = np.sort(np.bincount(users, gains[rows]) / lists)
    gain = trimmed(votes[: len(votes) - int(MADE_UP * len(votes))], risk)
    change = trimmed(np.bincount(users, ndcg[rows]) / lists, risk, share=0.0)  # most of its votes are 0
    return Verdict(_outcome(gain, change), gain, change, len(lists))


def _outcome(gain: Bound, ndcg: Bound) -> Literal["better", "worse", "unclear"]:
    if gain.high < 0.0 or ndcg.high < 0.0:
        return "worse"
    return "better" if gain.low > 0.0 else "unclear"


def trimmed(votes: Floats, risk: float = RISK, share: float = TRIMMED) -> Bound:
    """Return the mean of the votes without the lowest and the highest share of them, with bounds from the winsorised spread."""
    ordered = np.sort(votes)
    count = len(ordered)
    cut = int(share * count)
    middle = ordered[cut : count - cut]
    mean = float(middle.mean())
    spread = float(np.clip(ordered, middle[0], middle[-1]).std(ddof=1)) * count / (len(middle) * math.sqrt(count))
    reach = NormalDist().inv_cdf(1.0 - risk) * spread
    return Bound(mean, mean - reach, mean + reach)


def _heard(user_ids: Sequence[str], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the lists that count: of an item that too many users wanted, those of the first users who did."""
    of_item: dict[int, dict[str, None]] = {}
    for user, item in zip(user_ids, wanted.tolist(), strict=True):
        of_item.setdefault(item, {}).setdefault(user)
    most = max(1, int(OF_ONE_ITEM * len(set(user_ids))))
    heard = {item: set(list(users)[:most]) for item, users in of_item.items()}
    return np.array([row for row, user in enumerate(user_ids) if user in heard[int(wanted[row])]], np.int64)
