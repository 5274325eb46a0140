"""What may stand in a list: seen items out, categories mixed by the discount, bounds kept and filled up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import NOW, nobody, profile_of, update

from ranking.profile import Touch, key_of
from ranking.rules import COLD_SHARE, Rules, choose, unseen

places = st.lists(st.tuples(st.floats(-2, 2, width=32), st.integers(0, 4), st.booleans()), min_size=1, max_size=60)


def chosen(
    logits: list[float], codes: list[int], rules: Rules, *, brands: list[int] | None = None, cold: bool = False
) -> list[int]:
    """Return the columns of one user's list; column n is the item in slot n."""
    slots = np.arange(len(logits))[None]
    return choose(
        np.array([logits], np.float32),
        slots,
        np.array(codes, np.int32),
        np.array(brands or codes, np.int32),
        np.array([cold]),
        rules,
    )[0]


def planted(each: int = 20, kinds: int = 5) -> tuple[list[float], list[int]]:
    """Return logits and categories: each kind's items stand together, a whole kind above the next."""
    codes = [1 + n // each for n in range(each * kinds)]
    return [1.0 - 0.01 * n for n in range(each * kinds)], codes


@given(places, st.integers(1, 20), st.booleans())
def test_without_diversity(candidates: list[tuple[float, int, bool]], size: int, cold: bool) -> None:
    """At diversity 0 and without a bound a list is the plain order of what may stand in it, as long as there is any."""
    logits = [logit if allowed else -np.inf for logit, _, allowed in candidates]
    got = chosen(logits, [code for _, code, _ in candidates], Rules(size=size, diversity=0.0))
    right = [n for n in sorted(range(len(logits)), key=lambda n: (-logits[n], n)) if np.isfinite(logits[n])]
    assert got == right[:size]


@given(places, st.integers(1, 20), st.integers(0, 5), st.floats(0, 1), st.booleans())
def test_any_rules(candidates: list[tuple[float, int, bool]], size: int, bound: int, diversity: float, cold: bool) -> None:
    """Whatever the rules: no item twice, none that is left out, and a full list where there are enough items."""
    logits = [logit if allowed else -np.inf for logit, _, allowed in candidates]
    rules = Rules(size=size, max_per_category=bound, diversity=diversity)
    got = chosen(logits, [code for _, code, _ in candidates], rules, cold=cold)
    assert len(got) == len(set(got)) == min(size, sum(np.isfinite(logits)))
    assert all(np.isfinite(logits[n]) for n in got)


@given(places, st.integers(2, 20), st.floats(0, 1))
def test_discount(candidates: list[tuple[float, int, bool]], size: int, diversity: float) -> None:
    """A list descends in its discounted logits: each loses diversity * n / size for n of its category above it."""
    logits, codes = [logit for logit, _, _ in candidates], [code for _, code, _ in candidates]
    discounted, above = [], dict.fromkeys(codes, 0)
    for n in chosen(logits, codes, Rules(size=size, diversity=diversity)):
        discounted.append(np.float32(logits[n]) - (above[codes[n]] * diversity / size if codes[n] else 0.0))
        above[codes[n]] += 1
    assert all(np.diff(discounted) <= 1e-6)


def test_diversity_is_monotone() -> None:
    """The larger the diversity, the more categories a list shows; the best item stays first."""
    logits, codes = planted()
    lists = [chosen(logits, codes, Rules(size=20, diversity=diversity)) for diversity in (0.0, 0.3, 0.6, 1.0)]
    kinds = [len({codes[n] for n in own}) for own in lists]
    assert kinds[0] == 1
    assert kinds == sorted(kinds)
    assert kinds[-1] >= 3
    assert {own[0] for own in lists} == {0}


@pytest.mark.parametrize("bound", [1, 2, 4])
def test_bound(bound: int) -> None:
    """No category has more than its bound while others are left."""
    logits, codes = planted(each=6)
    own = chosen(logits, codes, Rules(size=bound * 5, max_per_category=bound, diversity=0.0))
    assert [sum(codes[n] == code for n in own) for code in range(1, 6)] == [bound] * 5


def test_bound_reaches_deep() -> None:
    """A bound holds where the other categories stand far below: fifty of one kind do not hide them."""
    codes = [1] * 50 + [2] * 5 + [3] * 5
    own = chosen([1.0 - 0.01 * n for n in range(60)], codes, Rules(size=6, max_per_category=2, diversity=0.0))
    assert sorted(codes[n] for n in own) == [1, 1, 2, 2, 3, 3]


def test_bound_is_filled_up() -> None:
    """Where a bound would leave a list short, the best of what it held back stand at its end."""
    codes = [1, 1, 1, 1, 2]
    assert chosen([5, 4, 3, 2, 1], codes, Rules(size=4, max_per_category=1, diversity=0.0)) == [0, 4, 1, 2]


def test_no_category_is_alone() -> None:
    """Items without a category do not crowd each other out."""
    assert chosen([4, 3, 2, 1], [0] * 4, Rules(size=4, max_per_category=1, diversity=1.0)) == [0, 1, 2, 3]


def test_cold() -> None:
    """A user of whom nothing is known sees an eighth of the list from one category, where there are enough of them."""
    logits, codes = planted(each=50, kinds=10)
    rules = Rules(size=16, diversity=0.001)
    own = chosen(logits, codes, rules, cold=True)
    assert max(sum(codes[n] == code for n in own) for code in codes) == 16 // COLD_SHARE
    assert len({codes[n] for n in chosen(logits, codes, rules)}) == 1
    assert len({codes[n] for n in chosen(logits, codes, Rules(size=16, diversity=0.0), cold=True)}) == 1


def test_unseen() -> None:
    """What a user has had is left out for that user alone."""
    keys = np.array([key_of(name) for name in "abc"], np.uint64)
    bought = profile_of(*(update(n, touch=Touch(name, "purchase", 3.0, NOW), seen=True) for n, name in enumerate("ac")))
    clicked = profile_of(update(0, touch=Touch("a", "click", 1.0, NOW)))
    slots = np.array([[0, 1, 2]] * 3)
    fresh = unseen(slots, keys, [bought, clicked, nobody()])
    assert fresh.tolist() == [[False, True, False], [True] * 3, [True] * 3]
