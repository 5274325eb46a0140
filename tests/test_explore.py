"""Exploration: the propensities that lists tell are the frequencies of the draws, and nothing that rules forbid is drawn."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import DAY, NOW, clusters, item, profile_of, update, visit

from ranking.business import BusinessRule
from ranking.conditions import Condition
from ranking.explore import Explore, Placed, mix, uniforms
from ranking.govern import EXPLORED
from ranking.index import ItemIndex
from ranking.lists import ListMaker, Ranked
from ranking.profile import Touch, key_of
from ranking.rules import Rules
from ranking.signals import Signals

OLD = [f"old{n}" for n in range(40)]
NEW = [f"new{n}" for n in range(12)]


def keys(count: int) -> Any:
    """Return keys of items."""
    return np.array([key_of(f"item {n}") for n in range(count)], np.uint64)


@pytest.mark.parametrize(
    ("size", "new", "pinned", "share", "lists"),
    [(6, 9, (), 0.2, 100_000), (5, 2, (1, 3), 0.5, 20_000), (8, 1, (0,), 0.3, 20_000)],
)
def test_propensities_are_frequencies(size: int, new: int, pinned: tuple[int, ...], share: float, lists: int) -> None:
    """Over 100,000 draws each item stands at each place as often as its propensity says, within four standard errors."""
    ranked, pool = list(range(size)), list(range(size, size + new))
    is_fixed = [n in pinned for n in range(size)]
    of_new = keys(new)
    counts: Counter[tuple[int, Placed]] = Counter()
    for seed in range(lists):
        counts.update(enumerate(mix(ranked, is_fixed, pool, of_new, share, seed)))
    assert len({(place, each.column) for place, each in counts}) == len(counts)  # one propensity for an item at a place
    assert all(each.is_explored == (each.column >= size) for _, each in counts)
    chances = np.array([each.propensity for _, each in counts])
    errors = np.sqrt(chances * (1.0 - chances) / lists)
    assert np.all(np.abs(np.array(list(counts.values())) / lists - chances) <= 4.0 * errors + 1e-9)
    for place in range(size):  # nothing that can stand there is missing
        assert sum(each.propensity for at, each in counts if at == place) == pytest.approx(1.0, abs=5e-3)


@given(st.integers(1, 30), st.integers(0, 40), st.floats(0.01, 0.5), st.integers(0, 2**64 - 1), st.data())
def test_any_mix(size: int, new: int, share: float, seed: int, data: Any) -> None:
    """Pinned places and the first stay; the rest keep their order; no item twice; the pool's order does not matter."""
    is_fixed = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    ranked, pool = list(range(size)), list(range(size, size + new))
    placed = mix(ranked, is_fixed, pool, keys(new), share, seed)
    columns = [each.column for each in placed]
    assert len(set(columns)) == len(columns) == size
    assert all(columns[n] == n for n in range(size) if is_fixed[n])
    assert is_fixed[0] or columns[0] == 0
    own = [column for n, column in enumerate(columns) if column < size and not is_fixed[n]]
    assert own == sorted(own)
    assert all(0.0 < each.propensity <= 1.0 for each in placed)
    assert mix(ranked, is_fixed, pool[::-1], keys(new)[::-1], share, seed) == placed


def test_uniforms() -> None:
    """Numbers are even in [0, 1), and those of one key are not those of its neighbours, nor of the next seed."""
    drawn = np.stack([uniforms(seed, np.arange(20, dtype=np.uint64)) for seed in range(5_000)])
    assert 0.0 <= drawn.min() < drawn.max() < 1.0
    counts, _ = np.histogram(drawn, 20, (0.0, 1.0))
    assert ((counts - 5_000) ** 2 / 5_000).sum() < 43.8  # chi-squared of 19 degrees at 1 in 1,000
    assert np.abs(np.corrcoef(drawn.T) - np.eye(20)).max() < 0.06
    assert abs(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]) < 0.06


def world(new: int = 6) -> ItemIndex:
    """Return an index of 40 old items that the user likes and some new ones of another kind."""
    index = ItemIndex(16, "planted")
    rows = clusters(2, 40)
    index.upsert([item(name, "old") for name in OLD], rows[:40])
    index.upsert([item(name, "new", NOW - DAY, brand=f"b{n}") for n, name in enumerate(NEW[:new])], rows[40 : 40 + new])
    return index


def drawn(count: int, index: ItemIndex, signals: Signals | None = None, **options: Any) -> list[list[Ranked]]:
    """Return lists of ten of one user under as many seeds, a third of the places explored."""
    rows = clusters(2, 40)
    liked = [update(n, pull=rows[n], touch=Touch(OLD[n], "click", 1.0, NOW)) for n in range(5)]
    user = profile_of(*liked, update(5, touch=Touch(options.pop("seen", "none"), "dislike", -1e-6, NOW), seen=True))
    limits = Rules(size=10, diversity=0.0, **options.pop("limits", {}))
    maker = ListMaker(index, signals or Signals(), rules=limits, explore=Explore(1 / 3), candidates=30, **options)
    return maker.lists([user] * count, NOW, range(count))


def explored(lists: list[list[Ranked]]) -> set[str]:
    """Return which items stand somewhere to be got to know."""
    return {each.item_id for own in lists for each in own if each.reason == EXPLORED}


def test_lists() -> None:
    """New items come to all places but the first, in the share that is set, with a reason; the others are the list's own."""
    lists = drawn(400, world())
    assert explored(lists) == set(NEW[:6])
    places = Counter(place for own in lists for place, each in enumerate(own) if each.reason == EXPLORED)
    assert sorted(places) == list(range(1, 10))
    assert places[1] / 400 == pytest.approx(1 / 3, abs=0.1)
    assert {each.item_id for own in lists for each in own} <= set(NEW[:6]) | set(OLD)
    assert all((each.item_id in NEW) == (each.reason == EXPLORED) for own in lists for each in own)
    assert all(own[1].propensity == pytest.approx(1 / 18 if own[1].item_id in NEW else 2 / 3) for own in lists)


def test_a_replay_draws_the_same() -> None:
    """The same seed gives the same list, alone or in a batch."""
    index = world()
    rows = clusters(2, 40)
    users = [profile_of(update(0, pull=rows[n])) for n in range(3)]
    maker = ListMaker(index, Signals(), rules=Rules(size=10), explore=Explore(0.3))
    together = maker.lists(users, NOW, [5, 6, 7])
    alone = [maker.lists([user], NOW, [seed])[0] for user, seed in zip(users, [5, 6, 7], strict=True)]
    assert [[each[:1] + each[2:] for each in own] for own in together] == [
        [each[:1] + each[2:] for each in own] for own in alone
    ]


def test_who_is_known_is_not_explored() -> None:
    """Items that are old, or touched enough, or excluded, or seen, are not drawn."""
    signals = Signals()
    for n in range(10):
        visit(signals, "new0", (), 1.0, NOW, (0, n))
    index = world()
    index.upsert([item("new1", "new", NOW - 8 * DAY)], clusters(2, 40)[41][None])
    out = BusinessRule("out", "exclude", Condition(brands=frozenset({"b2"})))
    index.watch([out.condition])
    assert explored(drawn(200, index, signals, business=(out,), seen="new3")) == {"new4", "new5"}


def test_limits_hold() -> None:
    """However many new items are drawn, limits per category and brand hold."""
    lists = drawn(200, world(12), limits={"max_per_category": 6})
    assert sum(each.item_id in NEW for each in lists[0] if each.reason != EXPLORED) <= 4  # the list's own: 6 old, 4 new
    assert len(explored(lists)) == 2
    assert max(sum(each.item_id in NEW for each in own) for own in lists) <= 6


def test_pins_stay() -> None:
    """A pinned item stands at its place in every draw, with propensity 1."""
    index = world()
    pin = BusinessRule("pin", "pin", Condition(items=frozenset({"old30"})), place=3)
    index.watch([pin.condition])
    for own in drawn(100, index, business=(pin,)):
        assert (own[2].item_id, own[2].reason, own[2].propensity) == ("old30", "pinned: pin", None)


def test_seeds_are_needed() -> None:
    """A batch without seeds is refused where places are drawn."""
    maker = ListMaker(world(), Signals(), explore=Explore(0.1))
    with pytest.raises(ValueError, match="0 seeds of 1 users"):
        maker.lists([profile_of()], NOW)
