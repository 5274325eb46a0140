"""What each source of candidates finds: in planted worlds of more items than are compared, where it is known what should be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from planted import DAY, NOW, clusters, item, nobody, profile_of, update, visit
from school import by_hand

from encoders.hashing import HashingEncoder
from ranking.business import BusinessRule
from ranking.conditions import Condition
from ranking.index import NOWHERE, ItemIndex
from ranking.learned import Learned
from ranking.links import TABLES
from ranking.lists import ListMaker
from ranking.profile import LONG, Profile, Touch, Update
from ranking.signals import Signals
from ranking.sources import FIRST, MERGED, Found, sources

KINDS = ("jazz", "tea", "cats")
EACH = 250
NAMES = [f"{kind}{n}" for kind in KINDS for n in range(EACH)]
ENCODER = HashingEncoder(32)
VECTORS = dict(zip(NAMES, clusters(len(KINDS), EACH, ENCODER.dim), strict=True))


def world(hidden: tuple[str, ...] = ()) -> ItemIndex:
    """Return an index of three kinds of 250 items; the hidden ones are not available."""
    index = ItemIndex(ENCODER.dim, ENCODER.id)
    items = [item(name, name.rstrip("0123456789"), available=name not in hidden) for name in NAMES]
    index.upsert(items, np.stack(list(VECTORS.values())))
    return index


def likes(*names: str, seen: bool = True) -> Profile:
    """Return the profile of a user who liked these, in order."""
    updates: list[Update] = [
        update(n, NOW - DAY + n, touch=Touch(name, "like", 2.0, NOW - DAY + n), pull=2.0 * VECTORS[name], seen=seen)
        for n, name in enumerate(names)
    ]
    return profile_of(*updates, dim=ENCODER.dim)


def named(found: Found, name: str, index: ItemIndex, user: int = 0) -> list[str]:
    """Return the ids that a source found."""
    return [own.item_id for slot in found.firsts[name][user].tolist() if slot != NOWHERE and (own := index.items[slot])]


def kinds(ids: list[str]) -> list[str]:
    """Return the kinds of items."""
    return [name.rstrip("0123456789") for name in ids]


def test_an_interest_finds_its_kind_and_one_that_is_not_there_finds_nothing() -> None:
    """Who likes jazz and asked for tea has 200 of each; who is new has none of either."""
    index = world()
    asking = update(9, NOW, ask=VECTORS["tea0"], touch=Touch("", "wish", 1.0, NOW))
    jazz = update(1, NOW - DAY, touch=Touch("jazz0", "like", 2.0, NOW - DAY), pull=VECTORS["jazz0"], seen=True)
    users = [profile_of(jazz, asking, dim=ENCODER.dim), likes("jazz0"), nobody(ENCODER.dim)]
    found = sources(ListMaker(index, Signals()), users, NOW)
    assert list(found.firsts) == ["long interest", "short interest", "asked", "last touches", "co-visits", "trend", MERGED]
    assert kinds(named(found, "asked", index)) == ["tea"] * FIRST
    assert kinds(named(found, "long interest", index, 1)) == ["jazz"] * FIRST
    assert [named(found, name, index, 1) for name in ("asked", "co-visits", "trend")] == [[], [], []]
    assert all(not named(found, name, index, 2) for name in found.firsts if name != MERGED)


def test_an_interest_is_answered_exactly() -> None:
    """The order is that of the cosines of all items that may stand in the list."""
    index, user = world(), likes("jazz0", "tea0", "jazz1")
    maker = ListMaker(index, Signals())
    with index.lock:
        query = maker.scored([user], NOW).found.vectors[0, LONG]
    slots = np.arange(len(NAMES))
    cosines = index.vectors(slots) @ query
    cosines[[index.slot(name) for name in ("jazz0", "tea0", "jazz1")]] = -np.inf
    best = np.sort(cosines)[::-1][:FIRST]
    np.testing.assert_allclose(cosines[sources(maker, [user], NOW).firsts["long interest"][0]], best, atol=1e-6)


def test_last_touches_are_answered_in_turn_newest_first() -> None:
    """The neighbours of three touches of three kinds alternate."""
    index = world()
    found = sources(ListMaker(index, Signals()), [likes("jazz0", "tea0", "cats0")], NOW)
    assert kinds(named(found, "last touches", index)[:6]) == ["cats", "tea", "jazz"] * 2


def test_what_may_not_stand_in_a_list_is_in_no_source() -> None:
    """Seen, unavailable and excluded items take no place; the next ones stand there."""
    hidden, excluded = ("jazz2", "jazz3"), Condition(categories=frozenset({"cats"}))
    index, signals = world(hidden), Signals()
    index.watch([excluded])
    for n, name in enumerate(("jazz2", "cats1", "jazz4", "tea1")):
        visit(signals, name, ("jazz0", "jazz1"), 1.0, NOW - n, (0, n))
    maker = ListMaker(index, signals, business=(BusinessRule("no cats", "exclude", excluded),))
    found = sources(maker, [likes("jazz0", "jazz1", "cats0")], NOW)
    for slots in (*found.firsts.values(), found.merged):
        own = {index.items[slot].item_id for slot in slots[0].tolist() if slot != NOWHERE}  # type: ignore[union-attr]
        assert not own & {"jazz0", "jazz1", *hidden}
        assert "cats" not in kinds(sorted(own))
        assert (np.diff(np.sort(slots[0][slots[0] != NOWHERE])) > 0).all()  # none twice
    assert set(named(found, "co-visits", index)) == set(named(found, "trend", index)) == {"jazz4", "tea1"}
    assert len(named(found, "long interest", index)) == FIRST


def test_what_was_seen_stays_where_lists_may_repeat_it() -> None:
    """Nearest to an only touch is the touched item itself."""
    index = world()
    found = sources(ListMaker(index, Signals()), [likes("jazz0", seen=False)], NOW)
    assert [named(found, name, index)[0] for name in ("long interest", "last touches")] == ["jazz0"] * 2


def learned(index: ItemIndex) -> ListMaker:
    """Return a maker with a model by hand: each item's link of `follow` is the next item."""
    maker = ListMaker(index, Signals())
    return replace(maker, model=Learned(by_hand({"follow_links_all": 1.0}, NAMES), index))


def test_a_learned_model_has_its_towers_and_tables_as_sources() -> None:
    """The one table that holds links finds what they lead to, newest touch first, the others nothing; towers what is near."""
    index = world()
    maker = learned(index)
    user = likes("jazz10", "tea20")
    found = sources(maker, [user, nobody(ENCODER.dim)], NOW)
    assert named(found, "follow", index) == ["tea21", "jazz11"]
    assert all(named(found, name, index) == [] for name in TABLES if name != "follow")
    assert isinstance(maker.model, Learned)
    with index.lock:
        read = maker.scored([user], NOW).read
    assert read is not None
    near: NDArray[np.float32] = maker.model.placed[: len(NAMES)] @ read.users[0]
    near[[index.slot(name) for name in ("jazz10", "tea20")]] = -np.inf
    np.testing.assert_allclose(near[found.firsts["tower"][0]], np.sort(near)[::-1][:FIRST], atol=1e-6)


def test_merged_is_what_the_list_is_made_of() -> None:
    """In the order of the scores: its first are the list, where rules move nothing."""
    index = world()
    maker = learned(index)
    maker = replace(maker, rules=replace(maker.rules, size=2, diversity=0.0))
    users = [likes("jazz10", "tea20"), likes("cats7")]
    found = sources(maker, users, NOW)
    for user, own in enumerate(maker.lists(users, NOW)):
        assert named(found, MERGED, index, user)[:2] == [each.item_id for each in own]
        every = found.merged[user][found.merged[user] != NOWHERE]
        assert every[:FIRST].tolist() == found.firsts[MERGED][user][: len(every)].tolist()


@pytest.mark.parametrize("make", [lambda index: ListMaker(index, Signals()), learned])
def test_users_do_not_change_each_other(make: object) -> None:
    """A batch finds what each user alone does."""
    index = world()
    maker: ListMaker = make(index)  # type: ignore[operator]
    users = [likes("jazz10", "tea20"), likes(*NAMES[:40]), nobody(ENCODER.dim)]
    together = sources(maker, users, NOW)
    for n, user in enumerate(users):
        alone = sources(maker, [user], NOW)
        for name, slots in alone.firsts.items():
            if name != "tower":  # by rounding
                assert set(slots[0].tolist()) == set(together.firsts[name][n].tolist()), name
