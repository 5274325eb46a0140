"""Business rules on a planted world: excluded never, pinned at the place, boosts as strong as they say, reasons that tell."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import DAY, NOW, clusters, item, nobody, profile_of, update

from ranking.business import MOST, BusinessRule, Window
from ranking.conditions import Attribute, Condition
from ranking.index import ItemIndex, ItemIndexError
from ranking.lists import ListMaker, Ranked
from ranking.profile import Profile, Touch
from ranking.ranker import ZeroShot
from ranking.rules import Rules
from ranking.signals import Signals

KINDS = ("jazz", "tea", "news", "cats")
NAMES = [f"{kind}{n}" for kind in KINDS for n in range(20)]
VECTORS = dict(zip(NAMES, clusters(4, 20), strict=True))
NUMBER = {name: n % 20 for n, name in enumerate(NAMES)}


def world() -> ItemIndex:
    """Return four kinds of 20 items; item n is of brand n % 5, costs n and was published n days before NOW."""
    index = ItemIndex(16, "planted", ("price",))
    items = [
        item(name, name.rstrip("0123456789"), NOW - n * DAY, brand=f"b{n % 5}", tags=(f"t{n % 3}",), attributes=(float(n),))
        for name, n in NUMBER.items()
    ]
    index.upsert(items, np.stack(list(VECTORS.values())))
    return index


INDEX = world()


def likes(*names: str) -> Profile:
    """Return the profile of who liked these."""
    touched = [
        update(n, NOW, pull=2 * VECTORS[name], touch=Touch(name, "like", 2.0, NOW), seen=True) for n, name in enumerate(names)
    ]
    return profile_of(*touched)


def rule(action: str, name: str = "r", window: Window | None = None, **parts: Any) -> BusinessRule:
    """Return a rule; what is not of the rule itself is of its condition."""
    own = {key: parts.pop(key) for key in ("factor", "place", "min_age_s", "max_age_s") if key in parts}
    condition = {key: value if key == "attributes" else frozenset(value) for key, value in parts.items()}
    return BusinessRule(name, action, Condition(**condition), window=window or Window(), **own)  # type: ignore[arg-type]


def made(
    *rules: BusinessRule, of: Profile | None = None, index: ItemIndex = INDEX, at: float = NOW, **bounds: Any
) -> list[Ranked]:
    """Return one user's list of ten under rules, in plain order."""
    index.watch([each.condition for each in rules])
    limits = Rules(**{"size": 10, "diversity": 0.0, **bounds})
    maker = ListMaker(index, Signals(), rules=limits, business=rules, candidates=max(30, limits.size))
    return maker.lists([of or likes("jazz0", "jazz1")], at)[0]


def ids(own: list[Ranked]) -> list[str]:
    """Return the items of a list."""
    return [ranked.item_id for ranked in own]


@pytest.mark.parametrize(
    ("parts", "left_out"),
    [
        ({"categories": ["jazz"]}, lambda name: name.startswith("jazz")),
        ({"items": ["jazz3", "jazz4"]}, lambda name: name in ("jazz3", "jazz4")),
        ({"brands": ["b1", "b2"], "categories": ["jazz"]}, lambda name: name.startswith("jazz") and NUMBER[name] % 5 in (1, 2)),
        ({"tags": ["t0"]}, lambda name: NUMBER[name] % 3 == 0),
        ({"attributes": (Attribute("price", bounds=((">=", 5.0), ("<", 15.0))),)}, lambda name: 5 <= NUMBER[name] < 15),
        ({"min_age_s": 10 * DAY}, lambda name: NUMBER[name] >= 10),
        ({"max_age_s": 10 * DAY}, lambda name: NUMBER[name] < 10),
    ],
)
@pytest.mark.parametrize("of", [likes("jazz0", "jazz1"), nobody()], ids=["known", "cold"])
def test_excluded(parts: dict[str, Any], left_out: Any, of: Profile) -> None:
    """What a rule excludes, by whatever part of it, stands in no list, and lists are full all the same."""
    own = made(rule("exclude", **parts), of=of)
    assert len(own) == 10
    assert not [name for name in ids(own) if left_out(name)]
    assert [name for name in NAMES if left_out(name)]


def test_exclusion_searches_on() -> None:
    """Where all that the search found first is excluded, the next best come, not whatever there is."""
    before = ids(made(of=likes("jazz0", "jazz1", "tea0")))
    assert {name[:3] for name in before} == {"jaz"}
    after = made(rule("exclude", categories=["jazz"]), rule("exclude", "s", tags=["t1"]), of=likes("jazz0", "jazz1", "tea0"))
    assert {name[:3] for name in ids(after)} == {"tea"}


def test_excluded_all() -> None:
    """Where nothing is left lists are empty."""
    assert made(rule("exclude", categories=KINDS)) == []


def test_pinned() -> None:
    """What is pinned stands at its place, whatever the user likes, and says so; the others keep their order."""
    plain = ids(made())
    own = made(rule("pin", "spring", items=["cats7"], place=3))
    assert ids(own) == [*plain[:2], "cats7", *plain[2:9]]
    assert own[2].reason == "pinned: spring"
    assert {ranked.reason for ranked in own if ranked.item_id != "cats7"} == {"like JAZZ1", "like JAZZ0"}
    assert 0 < own[2].score < own[9].score


def test_pinned_by_kind() -> None:
    """A pin about many items takes the one that suits the user best; an older user's own next one."""
    best = next(name for name in ids(made(of=likes("tea1"))) if NUMBER[name] % 5 == 2)
    assert ids(made(rule("pin", brands=["b2"], place=1), of=likes("tea1")))[0] == best
    assert ids(made(rule("pin", brands=["b2"], place=1), of=likes("tea1", best)))[0] != best


def test_pins_of_one_place() -> None:
    """Of two pins of one place the first in the file has it, and the second stands next."""
    pins = [
        rule("pin", f"p{n}", items=[name], place=place)
        for n, (name, place) in enumerate([("tea3", 2), ("tea4", 1), ("tea5", 2)])
    ]
    assert ids(made(*pins))[:3] == ["tea4", "tea3", "tea5"]


def test_pin_of_what_may_not_stand() -> None:
    """What is seen, excluded or not available is not pinned."""
    index = world()
    index.upsert([item("tea9", "tea", available=False, attributes=(9.0,))], VECTORS["tea9"][None])
    pins = [rule("pin", f"p{n}", items=[name], place=1) for n, name in enumerate(["jazz0", "tea8", "tea9"])]
    own = made(*pins, rule("exclude", items=["tea8"]), index=index)
    assert not {"jazz0", "tea8", "tea9"} & set(ids(own))
    assert len(own) == 10


def test_boost_multiplies_the_odds() -> None:
    """A boost by f lets an item pass those of up to f times its score, and no others; a bury the other way round."""
    plain = made()
    odds = [plain[n].score / plain[9].score for n in range(10)]
    last = plain[9].item_id
    for n in range(1, 9):
        own = made(rule("boost", "b", items=[last], factor=math.sqrt(odds[n - 1] * odds[n])))  # between two places
        assert ids(own).index(last) == n
        assert own[n].score == pytest.approx(plain[9].score, rel=1e-4)
        assert own[n].reason == f"{plain[9].reason}, boosted: b"
    first = plain[0].item_id
    own = made(rule("bury", "late", items=[first], factor=1 / (odds[0] / odds[8] * 1.0001)))
    assert ids(own).index(first) == 8
    assert own[8].reason == f"{plain[0].reason}, buried: late"


def test_boosts_are_bounded() -> None:
    """However many boosts an item has, it passes none that is more than MOST times as probable."""
    boosts = [rule("boost", f"b{n}", items=["news3"], factor=MOST) for n in range(5)]
    own = made(*boosts, size=80)
    scores = {ranked.item_id: ranked.score for ranked in own}
    place = ids(own).index("news3")
    assert place > 0
    assert all(scores[name] >= scores["news3"] * MOST * 0.999 for name in ids(own)[:place])


def test_window() -> None:
    """A rule counts while its window is open."""
    pin = rule("pin", items=["cats7"], place=1, window=Window(start=NOW, until=NOW + 60))
    assert [ids(made(pin, at=at))[0] == "cats7" for at in (NOW - 1, NOW, NOW + 59, NOW + 60)] == [False, True, True, False]


def test_limits_count_pins() -> None:
    """Pinned items stand whatever the limits, and the rest of the list keeps them."""
    pins = [rule("pin", f"p{n}", items=[f"cats{n}"], place=n + 1) for n in range(3)]
    own = ids(made(*pins, of=likes("cats9", "jazz0"), max_per_category=2, size=6))
    assert own[:3] == ["cats0", "cats1", "cats2"]
    assert {name[:4] for name in own[3:]} != {"cats"}
    assert not [name for name in own[3:] if name.startswith("cats")]


def test_the_index_follows() -> None:
    """Items that come, change or go after the rules are known are judged anew, and a snapshot keeps what rules ask for."""
    index = world()
    cheap = rule("exclude", attributes=(Attribute("price", bounds=(("<", 5.0),)),))
    assert not {f"jazz{n}" for n in range(5)} & set(ids(made(cheap, index=index)))
    index.upsert(
        [item("jazz3", "jazz", attributes=(30.0,)), item("jazz8", "jazz", attributes=(None,))],
        np.stack([VECTORS["jazz3"], VECTORS["jazz8"]]),
    )
    index.upsert([item(f"x{n}", "jazz", attributes=(float(n),)) for n in range(2_000)], np.tile(VECTORS["jazz3"], (2_000, 1)))
    marked = index.marked(cheap.condition)
    assert [bool(marked[index.slot(name)]) for name in ("jazz2", "jazz3", "jazz8", "x4", "x5")] == [
        True,
        False,
        False,
        True,
        False,
    ]


def test_snapshot(tmp_path: Any) -> None:
    """A snapshot holds the attributes that the index keeps."""
    INDEX.save(tmp_path)
    index = ItemIndex.load(tmp_path, 16, "planted", ("price",))
    cheap = rule("exclude", attributes=(Attribute("price", bounds=(("<", 5.0),)),))
    assert ids(made(cheap, index=index)) == ids(made(cheap))


def test_attribute_that_is_not_kept() -> None:
    """A rule about an attribute that the index does not keep is refused, not judged as if no item had it."""
    with pytest.raises(ItemIndexError, match=r"asks for \['colour'\]"):
        INDEX.watch([Condition(attributes=(Attribute("colour", frozenset({"red"})),))])


conditions = st.fixed_dictionaries(
    {},
    optional={
        "categories": st.sets(st.sampled_from(KINDS), min_size=1, max_size=2),
        "brands": st.sets(st.sampled_from([f"b{n}" for n in range(5)]), min_size=1, max_size=3),
        "items": st.sets(st.sampled_from(NAMES), min_size=1, max_size=5),
    },
)
actions = st.sampled_from(
    [("exclude", {}), ("boost", {"factor": 50.0}), ("bury", {"factor": 0.02}), ("pin", {"place": 1}), ("pin", {"place": 4})]
)
files = st.lists(st.tuples(actions, conditions), min_size=1, max_size=5)
people = st.lists(st.lists(st.sampled_from(NAMES), max_size=3, unique=True), min_size=1, max_size=4)


@settings(max_examples=60)
@given(files, people, st.integers(0, 3), st.integers(0, 3))
def test_any_rules(written: list[Any], histories: list[list[str]], per_category: int, per_brand: int) -> None:
    """Whatever the rules and limits: batch equals single, nothing twice, excluded or seen; pins and limits are kept."""
    rules = tuple(rule(action, f"r{n}", **own, **parts) for n, ((action, own), parts) in enumerate(written))
    INDEX.watch([each.condition for each in rules])
    limits = Rules(size=8, diversity=0.3, max_per_category=per_category, max_per_brand=per_brand)
    maker = ListMaker(INDEX, Signals(), rules=limits, business=rules, candidates=80)
    users = [likes(*names) for names in histories]
    together = maker.lists(users, NOW)
    for user, names, own in zip(users, histories, together, strict=True):
        assert [(each.item_id, each.reason) for each in maker.lists([user], NOW)[0]] == [
            (each.item_id, each.reason) for each in own
        ]
        _check(rules, set(names), own, limits)


def _check(rules: tuple[BusinessRule, ...], seen: set[str], own: list[Ranked], limits: Rules) -> None:
    names = ids(own)
    out = {name for each in rules if each.action == "exclude" for name in NAMES if _is_about(each, name)}
    usable = set(NAMES) - out - seen
    assert len(set(names)) == len(names) == min(8, len(usable))
    assert set(names) <= usable
    pins = [each for each in rules if each.action == "pin" and any(_is_about(each, name) for name in usable)]
    if pins and len(own) >= 4:
        assert own[pins[0].place - 1].reason == f"pinned: {pins[0].name}"
    if not pins:
        _check_limits(names, usable, limits.bounds(cold=not seen))


def _check_limits(names: list[str], usable: set[str], bounds: tuple[int, int]) -> None:
    """An item beyond a limit stands only where none that is left would keep the limits."""
    for n, name in enumerate(names):
        if not _fits(name, names[:n], bounds):
            assert not [other for other in usable.difference(names[:n]) if _fits(other, names[:n], bounds)]
            return


def _fits(name: str, above: list[str], bounds: tuple[int, int]) -> bool:
    return (
        sum(other.rstrip("0123456789") == name.rstrip("0123456789") for other in above) < bounds[0]
        and sum(NUMBER[other] % 5 == NUMBER[name] % 5 for other in above) < bounds[1]
    )


def _is_about(each: BusinessRule, name: str) -> bool:
    found = INDEX.item(name)
    assert found is not None
    return each.condition.holds(found[0], INDEX.attributes)


def test_temperature_is_the_models() -> None:
    """A boost means the same odds at another temperature of the model."""
    INDEX.watch([rule("boost", items=["tea3"]).condition])
    for temperature in (0.05, 0.5):
        maker = ListMaker(
            INDEX, Signals(), model=ZeroShot(temperature=temperature), rules=Rules(size=80, diversity=0.0), candidates=80
        )
        plain = {each.item_id: each.score for each in maker.lists([likes("tea0")], NOW)[0]}
        boosted = ListMaker(
            INDEX, Signals(), maker.model, maker.rules, candidates=80, business=(rule("boost", items=["tea3"], factor=1.5),)
        )
        passed = [name for name, score in plain.items() if plain["tea3"] < score < plain["tea3"] * 1.49]
        order = ids(boosted.lists([likes("tea0")], NOW)[0])
        assert all(order.index("tea3") < order.index(name) for name in passed)
