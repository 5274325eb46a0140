"""The split of users: shares are kept, experiments do not know of each other, and few users move when shares change."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking import ratios, split

MANY = [f"user{n}" for n in range(100_000)]
SOME = MANY[:500]


def of(shares: dict[str, float], experiment: str = "e", users: list[str] = MANY) -> list[str]:
    """Return the variants of users."""
    return [split.choose(experiment, user, shares.items()) for user in users]


@pytest.mark.parametrize(
    "shares", [{"a": 0.5, "b": 0.5}, {"a": 90.0, "b": 9.0, "c": 1.0}, {"a": 0.2, "b": 0.3, "c": 0.1, "d": 0.4}]
)
def test_shares_are_kept(shares: dict[str, float]) -> None:
    """Of 100,000 users each variant has its share, within four standard deviations."""
    counts, total = Counter(of(shares)), sum(shares.values())
    for name, share in shares.items():
        p = share / total
        assert abs(counts[name] - len(MANY) * p) < 4 * math.sqrt(len(MANY) * p * (1 - p))


def test_experiments_do_not_know_of_each_other() -> None:
    """Who is in one variant of an experiment is spread over another's by its shares."""
    shares = {"a": 0.5, "b": 0.5}
    both = Counter(zip(of(shares, "one"), of(shares, "other"), strict=True))
    assert ratios.mismatch(list(both.values()), [0.25] * 4) > 1e-3
    assert ratios.mismatch([40_000, 60_000], [0.5, 0.5]) < 1e-300


def test_the_split_stays() -> None:
    """A user's variant is the same on every machine and in every version."""
    golden = {"ann": "a", "cat": "a", "李雷": "a", "dan": "b", "eve": "b", "fay": "b", "": "b"}
    assert {user: split.choose("colours", user, [("a", 1), ("b", 1)]) for user in golden} == golden


SHARES = st.lists(st.floats(0.05, 1.0), min_size=4, max_size=4)


@settings(deadline=None)
@given(SHARES, SHARES)
def test_users_move_only_to_what_has_grown(before: list[float], after: list[float]) -> None:
    """A user moves from one variant to another only where that one's share grew relative to the first one's."""
    old, new = dict(zip("abcd", before, strict=True)), dict(zip("dcba", reversed(after), strict=True))
    for one, other in zip(of(old, users=SOME), of(new, users=SOME), strict=True):
        if one != other:
            assert new[other] / new[one] > old[other] / old[one]


def test_one_that_grows_only_gains_users() -> None:
    """From 1 % to all, beside two others of equal shares: who is in it stays, and nobody moves between the others."""
    steps = [of({"a": 1 - share, "b": 1 - share, "new": 2 * share}, users=SOME) for share in (0.01, 0.1, 0.5, 0.9)]
    for before, after in pairwise(steps):
        assert all(one == other or other == "new" for one, other in zip(before, after, strict=True))
    without = of({"a": 1, "b": 1}, users=SOME)
    assert all(one == other or other == "new" for one, other in zip(without, steps[2], strict=True))


def test_ratio_knows_that_lists_of_a_user_go_together() -> None:
    """The interval of a rate holds the truth in 95 of 100 worlds, where users differ and each has many lists."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(1_000):
        lists = rng.integers(1, 40, 200).astype(np.float64)
        chances = rng.beta(1, 4, 200)  # mean 0.2
        touched = rng.binomial(lists.astype(np.int64), chances).astype(np.float64)
        found = ratios.ratio(touched, lists)
        assert found is not None
        interval = found.interval()
        held += interval is not None and interval.low <= 0.2 <= interval.high
    assert 925 <= held <= 970
    assert ratios.ratio(np.ones(1), np.ones(1)) is None
    alike = ratios.ratio(np.arange(5.0) * 0.3, np.arange(5.0))
    assert alike is not None
    assert alike.mean == pytest.approx(0.3)
    assert alike.interval() is None  # all users alike: how sure that is nobody knows
    assert found is not None
    assert found.minus(alike).interval() is None
    assert ratios.ratio(np.zeros(5), np.zeros(5)) is None


def test_mismatch() -> None:
    """The probability is that of tables of chi-square, for each number of variants."""
    critical = {1: 3.841459, 2: 5.991465, 3: 7.814728, 4: 9.487729, 5: 11.070498, 9: 16.918978}
    for freedom, value in critical.items():
        assert ratios._chi_square(value, freedom) == pytest.approx(0.05, rel=1e-5)
        assert ratios._chi_square(0.0, freedom) == 1.0
    assert ratios.mismatch([500, 500], [1, 1]) == 1.0
    with pytest.raises(ValueError, match="give users of two variants or more"):
        ratios.mismatch([5], [1])
