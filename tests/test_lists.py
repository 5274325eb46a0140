"""Whole lists on planted worlds: the right items, for the right reason, for any batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import DAY, NOW, clusters, index_of, item, nobody, profile_of, unit, update, visit

from ranking.index import ItemIndex
from ranking.lists import ListMaker, Ranked
from ranking.profile import Profile, Touch, Update, key_of
from ranking.rules import Rules
from ranking.signals import Signals

KINDS = ("jazz", "sport", "news", "tea", "film", "maths", "cats", "cars", "bread", "boats")
VECTORS = dict(zip([f"{kind}{n}" for kind in KINDS for n in range(20)], clusters(10, 20), strict=True))
CATEGORY = {name: name.rstrip("0123456789") for name in VECTORS}


def world() -> ItemIndex:
    """Return an index of ten kinds of 20 items."""
    return index_of(VECTORS, CATEGORY)


INDEX = world()


def act(offset: int, name: str, kind: str = "like", weight: float = 2.0, at: float = NOW) -> Update:
    """Return what one event about an item does to a profile."""
    side = {"pull" if weight > 0 else "push": abs(weight) * VECTORS[name]}
    return update(offset, at, touch=Touch(name, kind, weight, at), seen=kind in ("like", "dislike", "purchase"), **side)


def maker(index: ItemIndex = INDEX, signals: Signals | None = None, **rules: object) -> ListMaker:
    """Return a maker of lists of ten, in plain order unless the rules say otherwise."""
    return ListMaker(index, signals or Signals(), rules=Rules(**{"size": 10, "diversity": 0.0, **rules}))  # type: ignore[arg-type]


def of_kinds(own: list[Ranked]) -> list[str]:
    """Return the kinds of the items of a list, in order."""
    return [CATEGORY[ranked.item_id] for ranked in own]


def made(profile: Profile, at: float = NOW, **options: object) -> list[Ranked]:
    """Return one user's list."""
    return maker(**options).lists([profile], at)[0]  # type: ignore[arg-type]


def test_checkerboard() -> None:
    """Users of two planted tastes, who each liked half of their kind, are shown the other half first."""
    users, right = [], []
    for n in range(20):
        kind = ("jazz", "tea")[n % 2]
        liked = {f"{kind}{(n + k) % 20}" for k in range(10)}
        users.append(profile_of(*(act(k, name) for k, name in enumerate(sorted(liked)))))
        right.append({f"{kind}{k}" for k in range(20)} - liked)
    for own, others in zip(maker().lists(users, NOW), right, strict=True):
        assert {ranked.item_id for ranked in own} == others


users = st.lists(
    st.lists(st.tuples(st.sampled_from(sorted(VECTORS)), st.sampled_from([("like", 2.0), ("click", 1.0), ("dislike", -2.0)]))),
    min_size=1,
    max_size=5,
)


@settings(max_examples=40)
@given(users)
def test_batch(histories: list[list[tuple[str, tuple[str, float]]]]) -> None:
    """A user's list is the same alone and in a batch, holds nothing seen, and never an item twice."""
    profiles = [profile_of(*(act(n, name, *how) for n, (name, how) in enumerate(own))) for own in histories]
    together = maker(diversity=0.3).lists(profiles, NOW)
    for profile, history, own in zip(profiles, histories, together, strict=True):
        alone = made(profile, diversity=0.3)
        assert [(r.item_id, r.reason) for r in own] == [(r.item_id, r.reason) for r in alone]
        assert [r.score for r in own] == pytest.approx([r.score for r in alone], abs=1e-5)
        seen = {name for name, (kind, _) in history if kind != "click"}
        ids = [r.item_id for r in own]
        assert len(set(ids)) == len(ids) == 10
        assert not seen & set(ids)


def test_scores() -> None:
    """Scores are probabilities: in (0, 1], falling in a list of plain order, together at most one."""
    own = made(profile_of(act(0, "jazz0")))
    scores = [ranked.score for ranked in own]
    assert scores == sorted(scores, reverse=True)
    assert 0 < scores[-1] < scores[0] <= 1
    assert sum(scores) <= 1 + 1e-5


def test_dislike_moves_the_list() -> None:
    """A dislike moves the list away from a kind that clicks had filled it with."""
    clicks = [act(n, name, "click", 1.0) for n, name in enumerate(["tea0", "jazz0", "jazz2", "jazz3"])]
    before = of_kinds(made(profile_of(*clicks)))
    after = of_kinds(made(profile_of(*clicks, act(9, "jazz1", "dislike", -2.0))))
    assert before.count("jazz") >= 8
    assert after.count("jazz") == 0
    assert after.count("tea") >= 8


def test_asked() -> None:
    """What is asked for in words fills the list at once, over months of something else."""
    liked = [act(n, f"jazz{n}", at=NOW - n * DAY) for n in range(8)]
    wish = update(9, NOW, ask=3 * VECTORS["tea3"], touch=Touch("", "wish", 3.0, NOW))
    own = made(profile_of(*liked[::-1], wish))
    assert of_kinds(own)[:5] == ["tea"] * 5
    assert own[0].reason == "you asked for it"


def test_cold() -> None:
    """A user of whom nothing is known gets a list of many kinds, though the newest items are all of one."""
    index = world()
    index.at[: len(VECTORS)] = NOW - np.arange(len(VECTORS))  # all jazz is newer than all sport ...
    own = made(nobody(), index=index, size=16, diversity=0.1)
    assert len(own) == 16
    assert max(of_kinds(own).count(kind) for kind in KINDS) == 2
    assert all(ranked.reason == "new" for ranked in own)


def test_who_only_dislikes() -> None:
    """A user who has only turned something down gets a mixed list without it."""
    kinds = of_kinds(made(profile_of(act(0, "jazz0", "dislike", -2.0)), size=16, diversity=0.1))
    assert "jazz" not in kinds
    assert len(set(kinds)) >= 6


def test_unlisted() -> None:
    """Deleted and unavailable items stand in no list, and no reason names a deleted one."""
    index = world()
    index.delete([f"jazz{n}" for n in range(6)])
    index.upsert([item(f"jazz{n}", "jazz", available=False) for n in range(6, 15)], clusters(1, 9))
    own = made(profile_of(act(0, "jazz0"), act(1, "jazz7")), index=index, size=50)
    assert {r.item_id for r in own if CATEGORY[r.item_id] == "jazz"} == {f"jazz{n}" for n in range(15, 20)}
    assert not any("JAZZ0" in r.reason for r in own)


def test_few_items() -> None:
    """A list is shorter where there are fewer items, empty where there are none, and never fails for it."""
    index = index_of({"a": unit(1), "b": unit(0, 1), "c": unit(-1)})
    liked = profile_of(update(0, pull=unit(1), touch=Touch("a", "like", 2.0, NOW), seen=True))
    assert {r.item_id for r in made(liked, index=index)} == {"b", "c"}
    assert {r.item_id for r in made(nobody(), index=index)} == {"a", "b", "c"}
    assert made(liked, index=ItemIndex(16, "planted")) == []
    assert maker().lists([], NOW) == []
    index.delete(["b", "c"])
    assert made(liked, index=index) == []


@pytest.mark.parametrize("size", [1, 7, 20])
def test_size(size: int) -> None:
    """A list has the size that the rules say, warm or cold."""
    assert [len(own) for own in maker(size=size).lists([profile_of(act(0, "jazz0")), nobody()], NOW)] == [size] * 2


def test_many_old_items() -> None:
    """Items of any age get a reason, even where nothing speaks for them."""
    index = world()
    index.at[:] = NOW - 10_000 * DAY
    few = index_of({"a": unit(1), "b": unit(-1)})
    few.at[:] = NOW - 10_000 * DAY
    own = made(profile_of(update(0, pull=unit(1), touch=Touch("a", "like", 2.0, NOW), seen=True)), index=few)
    assert [(r.item_id, r.reason) for r in own] == [("b", "something else")]
    assert all(r.reason for r in made(nobody(), index=index))


def test_reason_like() -> None:
    """Where the last touch speaks most for an item, its reason names that touch."""
    own = made(profile_of(act(0, "tea3", "click", 0.1), act(1, "jazz3", "click", 0.1)))
    assert {(CATEGORY[r.item_id], r.reason) for r in own} <= {("jazz", "like JAZZ3"), ("tea", "like TEA3")}
    assert own[0].reason == "like JAZZ3"


def test_reason_covisit() -> None:
    """What others chose with an item stands right behind its own kind, and the reason names that item."""
    signals = Signals()
    for n in range(30):
        visit(signals, "boats5", ("tea3",), 1.0, NOW - DAY, (0, n))
    own = made(profile_of(act(0, "tea3", "click", 0.5)), signals=signals, size=21)
    place = [r.item_id for r in own].index("boats5")
    assert place <= 20
    assert own[place].reason == "often chosen with TEA3"


def test_reason_rising() -> None:
    """To an unknown user what rises comes first, as popular now."""
    signals = Signals()
    visit(signals, "boats5", (), 1.0, NOW, (0, 0))
    own = made(nobody(), signals=signals)
    assert (own[0].item_id, own[0].reason) == ("boats5", "popular now")


def test_diversity() -> None:
    """Larger diversity shows more kinds to a user of several tastes."""
    profile = profile_of(act(0, "tea0"), act(1, "news0"), act(2, "jazz0"), act(3, "jazz1"), act(4, "jazz2"))
    kinds = [len(set(of_kinds(made(profile, diversity=diversity)))) for diversity in (0.0, 0.5, 1.0)]
    assert kinds == sorted(kinds)
    assert kinds[0] < kinds[-1]


def test_seen_by_key() -> None:
    """What leaves the list is known by the item's id alone: a profile older than the index still holds."""
    profile = profile_of(act(0, "jazz0"))
    assert key_of("jazz0").to_bytes(8, "little") == profile.seen
    index = index_of(dict(sorted(VECTORS.items(), reverse=True)), CATEGORY)
    assert "jazz0" not in {r.item_id for r in made(profile, index=index, size=50)}
