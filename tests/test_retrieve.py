"""What users are searched by, and what is found for them: neighbours, co-visits, what rises, and the newest for the unknown."""

from __future__ import annotations

import numpy as np
import pytest
from planted import DAY, NOW, clusters, index_of, item, nobody, profile_of, unit, update, visit

from ranking.index import NOWHERE, ItemIndex
from ranking.profile import ASKED, AVOID, INTERESTS, LONG, SHORT, HalfLives, Profile, Touch
from ranking.queries import LAST, QUERIES, TOUCH_DECAY, Queries, queries
from ranking.ranker import ZeroShot
from ranking.retrieve import Candidates, candidates
from ranking.signals import Signals

HALF_LIVES = HalfLives(long_s=30 * DAY, short_s=DAY, avoid_s=7 * DAY, asked_s=DAY / 24)
VECTORS = dict(zip([f"i{n}" for n in range(60)], clusters(3, 20), strict=True))
WEIGHTS = ZeroShot().query_weights()


@pytest.fixture(scope="module")
def index() -> ItemIndex:
    """Return an index of three clusters of 20: i0-i19, i20-i39, i40-i59."""
    return index_of(VECTORS)


def touched(*item_ids: str, kind: str = "click", weight: float = 1.0) -> Profile:
    """Return the profile of a user who touched these items, one a minute, the last one NOW."""
    times = [NOW - 60.0 * n for n in range(len(item_ids))][::-1]
    pairs = enumerate(zip(item_ids, times, strict=True))
    return profile_of(*(update(n, at, touch=Touch(name, kind, weight, at)) for n, (name, at) in pairs))


def ask(index: ItemIndex, *profiles: Profile, at: float = NOW) -> Queries:
    """Return the queries of these users."""
    return queries(profiles, at, index, HALF_LIVES)


def find(index: ItemIndex, *profiles: Profile, k: int = 10, signals: Signals | None = None) -> Candidates:
    """Return the candidates of these users now, k from the search."""
    return candidates(ask(index, *profiles), WEIGHTS, k, NOW, index, signals or Signals())


def names(index: ItemIndex, slots: np.ndarray) -> list[str]:
    """Return the ids of the items in these slots."""
    return [index.items[slot].item_id for slot in slots if slot != NOWHERE]  # type: ignore[union-attr]


def test_strength_of_interests(index: ItemIndex) -> None:
    """An interest of decayed norm n has strength n / (n + 1) and a unit vector; without one both are zero."""
    found = ask(index, profile_of(update(0, pull=3 * unit(1), push=unit(0, 1))), nobody())
    np.testing.assert_allclose(found.strength[0, :INTERESTS], [3 / 4, 3 / 4, 1 / 2, 0])
    np.testing.assert_allclose(found.vectors[0, :INTERESTS, :2], [[1, 0], [1, 0], [0, 1], [0, 0]])
    assert not found.strength[1].any()
    assert not found.vectors[1].any()
    assert found.is_cold.tolist() == [False, True]


def test_interests_age(index: ItemIndex) -> None:
    """A half-life after the last event an interest's norm is half; a list for an earlier time is as of now."""
    profile = profile_of(update(0, pull=unit(1)))
    later, earlier = (ask(index, profile, at=NOW + shift) for shift in (DAY, -DAY))
    assert later.strength[0, SHORT] == pytest.approx(0.5 / 1.5)
    assert later.strength[0, LONG] == pytest.approx(2 ** (-1 / 30) / (1 + 2 ** (-1 / 30)))
    assert earlier.strength[0, SHORT] == 0.5


def test_last_touches(index: ItemIndex) -> None:
    """The last five different items touched are queries, newest first, in shares of one that fall by age and rise by weight."""
    found = ask(index, touched("i0", "i1", "i2", "i3", "i4", "i5", "i5", "gone"))
    assert names(index, np.array(found.touches[0])) == ["i5", "i4", "i3", "i2", "i1"]
    expected = TOUCH_DECAY ** np.arange(LAST)
    np.testing.assert_allclose(found.strength[0, INTERESTS:], expected / expected.sum(), rtol=1e-6)
    np.testing.assert_allclose(found.vectors[0, INTERESTS], VECTORS["i5"], atol=0.004)


def test_turned_down_touches_are_no_queries(index: ItemIndex) -> None:
    """What was disliked is no query, and of one who only dislikes nothing is known that points anywhere."""
    found = ask(index, touched("i0", kind="dislike", weight=-2.0))
    assert found.touches == [[]]
    assert found.is_cold.tolist() == [True]


def test_dislike_silences_the_click_before(index: ItemIndex) -> None:
    """A click on what is disliked a minute later, or on its like, counts no more; one on something else does."""
    near, far = VECTORS["i1"], VECTORS["i45"]
    clicks = [update(n, touch=Touch(name, "click", 1.0, NOW)) for n, name in enumerate(["i1", "i0", "i45"])]
    found = ask(index, profile_of(*clicks, update(9, NOW, push=2 * VECTORS["i0"])))
    strength = dict(zip(names(index, np.array(found.touches[0])), found.strength[0, INTERESTS:], strict=False))
    assert near @ VECTORS["i0"] > 0.8 > 0.5 > far @ VECTORS["i0"]
    assert strength["i0"] == strength["i1"] == 0
    assert strength["i45"] > 0


def test_asked_is_had(index: ItemIndex) -> None:
    """What was asked for falls silent when something like it is bought afterwards, not before and not by something else."""

    def strength(*bought: tuple[str, float]) -> float:
        asked = update(0, NOW, ask=3 * VECTORS["i0"], touch=Touch("", "wish", 3.0, NOW))
        buys = [update(n, at, touch=Touch(name, "purchase", 3.0, at)) for n, (name, at) in enumerate(bought, 1)]
        return float(ask(index, profile_of(asked, *buys)).strength[0, ASKED])

    assert strength() == pytest.approx(0.75)
    assert strength(("i1", NOW - 60)) == pytest.approx(0.75)
    assert strength(("i1", NOW + 60)) == 0.0
    assert strength(("i45", NOW + 60)) > 0.3


def test_words_outweigh_behaviour(index: ItemIndex) -> None:
    """What was asked for takes most of the say of interests and touches."""
    click = update(0, NOW, pull=VECTORS["i0"], touch=Touch("i0", "click", 1.0, NOW))
    wish = update(1, NOW, ask=3 * VECTORS["i45"], touch=Touch("", "wish", 3.0, NOW))
    one, two = (ask(index, profile_of(*events)).strength[0] for events in ([click], [click, wish]))
    for row in (SHORT, INTERESTS):
        assert two[row] < 0.5 * one[row]


def test_neighbours(index: ItemIndex) -> None:
    """Candidates of a user with one taste are the nearest of that taste."""
    found = find(index, touched("i0"))
    nearest = sorted(VECTORS, key=lambda name: -float(VECTORS[name] @ VECTORS["i0"]))[:10]
    assert set(names(index, found.slots[0])) == set(nearest)


def test_planted_covisits(index: ItemIndex) -> None:
    """What others touched after the user's last item joins, once, with a share and with the item that says so."""
    signals = Signals()
    for n in range(9):
        visit(signals, "i45", ("i0",), 1.0, NOW - DAY, (0, n))
    found = find(index, touched("i0"), k=3, signals=signals)
    column = found.slots[0].tolist().index(index.slot("i45"))
    assert found.covisit[0, column] > 0.8
    assert found.covisited_with == [{index.slot("i45"): index.slot("i0")}]
    assert np.count_nonzero(found.covisit) == 1


def test_rising_joins(index: ItemIndex) -> None:
    """What rises is a candidate of users of whom nothing is known, with its score; of others only where it is near them."""
    signals = Signals()
    visit(signals, "i45", (), 2.0, NOW, (0, 0))
    visit(signals, "i46", (), 1.0, NOW, (0, 1))
    assert not {"i45", "i46"} & set(names(index, find(index, touched("i0"), k=3, signals=signals).slots[0]))
    found = find(index, nobody(), k=3, signals=signals)
    scores = dict(zip(names(index, found.slots[0]), found.rising[0][found.slots[0] != NOWHERE], strict=True))
    assert (scores.pop("i45"), scores.pop("i46")) == (1.0, 0.5)
    assert set(scores.values()) == {0.0}


def test_cold_users_get_the_newest(index: ItemIndex) -> None:
    """A user of whom nothing is known is offered the newest items; others in the batch are not."""
    found = find(index, nobody(), touched("i0"), k=5)
    assert len(names(index, found.slots[0])) == 60
    assert len(names(index, found.slots[1])) == 5


def test_no_candidate_twice(index: ItemIndex) -> None:
    """An item that comes in several ways is one candidate, and keeps its co-visit share."""
    signals = Signals()
    for n in range(9):
        visit(signals, "i1", ("i0",), 1.0, NOW, (0, n))
    found = find(index, touched("i0"), nobody(), k=20, signals=signals)
    for row in found.slots:
        own = names(index, row)
        assert len(own) == len(set(own))
    assert found.covisit[0][found.slots[0] == index.slot("i1")] > 0.8


def test_unavailable_is_no_candidate() -> None:
    """Items that are not available are found in no way."""
    index = index_of(VECTORS)
    signals = Signals()
    visit(signals, "i1", ("i0",), 1.0, NOW, (0, 0))
    index.upsert([item("i1", available=False)], VECTORS["i1"][None])
    found = find(index, touched("i0"), nobody(), k=60, signals=signals)
    assert index.slot("i1") not in found.slots


def test_kinds_bought_once() -> None:
    """After a watch come straps: watches are had. After coffee comes coffee: coffees are not. Unknown kinds are not."""
    kinds = {f"i{n}": ("watch", "strap", "coffee")[n // 20] for n in range(60)}
    index, signals = index_of(VECTORS, kinds), Signals()
    for n in range(8):
        visit(signals, f"i{20 + n}", ("i0",), 3.0, NOW, (0, n))
        visit(signals, f"i{41 + n}", ("i40",), 3.0, NOW, (0, n))

    def sated(name: str, kind: str = "purchase") -> set[str]:
        found = find(index, touched(name, kind=kind), k=60, signals=signals)
        return {index.items[slot].category for slot in found.slots[0][found.sated[0] > 0.5]}  # type: ignore[union-attr]

    assert sated("i0") == {"watch"}
    assert sated("i0", "click") == sated("i40") == sated("i30") == set()


def test_shapes(index: ItemIndex) -> None:
    """All arrays of the candidates have one shape; queries have one row for each interest and each of the last touches."""
    found = find(index, touched("i0"), nobody(), touched("i3", "i9"))
    assert found.slots.shape == found.covisit.shape == found.rising.shape == found.sated.shape
    assert ask(index, touched("i0")).vectors.shape == (1, QUERIES, 16)
    assert AVOID < INTERESTS
