"""The order of lists that are read once more: what may move, what stays, and that propensities stay true."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from planted import NOW, index_of, nobody, profile_of, unit, update

from ranking import answering, govern
from ranking.business import BusinessRule
from ranking.conditions import Condition
from ranking.explore import mix
from ranking.lists import ListMaker
from ranking.profile import Touch, key_of
from ranking.reorder import reorder
from ranking.rules import Rules
from ranking.signals import Signals
from streams.messages import Item, RecommendedItem
from streams.movable import ask_about, in_new_order, movable, moved

NAMES = "abcdef"


def maker(categories: str = "123456", rules: Sequence[BusinessRule] = (), **limits: Any) -> ListMaker:
    """Return a maker over the items a to f, each of the category that stands in its place."""
    index = index_of({name: unit(*np.eye(6)[n]) for n, name in enumerate(NAMES)}, dict(zip(NAMES, categories, strict=True)))
    index.watch(rule.condition for rule in rules)
    return ListMaker(index, Signals(), rules=Rules(**{"diversity": 0.0, **limits}), business=tuple(rules))


def order(made: ListMaker, names: str, *chances: float, scores: Sequence[float] = (), weight: float = 1.0) -> str:
    """Return items in the order of their chances, and of their scores where they differ."""
    return "".join(names[place] for place in reorder(made, names, scores or [0.1] * len(names), chances, weight, NOW))


def test_items_stand_by_their_chances() -> None:
    """The likeliest first, also where a chance is certain; what has left the index stands behind, as it stood."""
    assert order(maker(), "abc", 0.2, 0.9, 0.5) == "bca"
    assert order(maker(), "abc", 0.0, 1.0, 0.5) == "bca"
    assert order(maker(), "axby", 0.2, 0.9, 0.5, 0.9) == "baxy"
    assert order(maker(), "xy", 0.2, 0.9) == "xy"


def test_scores_count_as_odds_do() -> None:
    """An item with a score of .4 is ahead of one with .1 unless that one's odds are four times as high; more by the weight."""
    assert order(maker(), "ab", 0.5, 0.79, scores=(0.4, 0.1)) == "ab"
    assert order(maker(), "ab", 0.5, 0.81, scores=(0.4, 0.1)) == "ba"
    assert order(maker(), "ab", 0.5, 0.68, scores=(0.4, 0.1), weight=2.0) == "ba"
    assert order(maker(), "ab", 0.5, 0.66, scores=(0.4, 0.1), weight=2.0) == "ab"
    assert order(maker(), "ab", 0.0, 1.0, scores=(0.4, 0.1), weight=0.0) == "ab"
    assert order(maker(), "ab", 0.0, 1.0, scores=(1.0, 0.0)) == "ab"
    assert order(maker(), "ab", 0.5, 0.6, scores=(0.0, 0.0)) == "ba"


def test_boosts_and_buries_multiply_the_odds() -> None:
    """What is wanted at even odds and boosted by three is ahead of .7, and not of .8; a bury the other way."""
    boost = BusinessRule("r", "boost", Condition(items=frozenset("a")), factor=3.0)
    bury = BusinessRule("r", "bury", Condition(items=frozenset("a")), factor=1 / 3)
    assert order(maker(rules=[boost]), "ba", 0.7, 0.5) == "ab"
    assert order(maker(rules=[boost]), "ba", 0.8, 0.5) == "ba"
    assert order(maker(rules=[bury]), "ab", 0.7, 0.5) == "ba"
    assert order(maker(), "ab", 0.7, 0.5) == "ab"


def test_a_list_does_not_become_all_of_one_kind() -> None:
    """An item loses for those of its kind above it as it did when the list was made; what a limit held back stays behind."""
    alike = (0.9, 0.89, 0.88)
    assert order(maker("112233"), "abc", *alike) == "abc"
    assert order(maker("112233", diversity=1.0), "abc", *alike) == "acb"
    assert order(maker("112233", diversity=1.0), "abc", 0.9, 0.89, 0.1) == "abc"
    assert order(maker("112233", max_per_category=1), "abc", 0.9, 0.89, 0.01) == "acb"


# -- what may move


def listed(*reasons: str, propensity: float | None = None) -> tuple[RecommendedItem, ...]:
    """Return a list of the items a, b, ... with these reasons."""
    return tuple([RecommendedItem(name, 0.1, reason, propensity) for name, reason in zip(NAMES, reasons, strict=False)])


KNOWN = {name: Item(item_id=name, title=name) for name in NAMES}


def test_answers_pins_and_explored_items_stay() -> None:
    """The others are read, the first few of them; what the catalogue does not know is none."""
    own = listed("new", answering.REASON, "pinned: spring", "like Tea", govern.EXPLORED, "popular now")
    assert movable(own, KNOWN, 9) == [0, 3, 5]
    assert movable(own, KNOWN, 2) == [0, 3]
    assert movable(own, {name: KNOWN[name] for name in "abdf"}, 9) == [0, 3, 5]
    assert movable(own, {name: KNOWN[name] for name in "ab"}, 9) == []


def test_the_others_change_places_among_each_other() -> None:
    """Items take their scores and reasons with them, places keep their propensities."""
    own = tuple([RecommendedItem(name, n / 10, f"why {name}", 1 / (n + 1)) for n, name in enumerate("abcd")])
    assert moved(own, [0, 2, 3], [2, 0, 1]) == (
        RecommendedItem("d", 0.3, "why d", 1.0),
        own[1],
        RecommendedItem("a", 0.0, "why a", 1 / 3),
        RecommendedItem("c", 0.2, "why c", 1 / 4),
    )


def test_propensities_stay_true() -> None:
    """Over 20,000 draws each item stands at each place of the reread list as often as its propensity says."""
    size, top, share, draws = 8, 3, 0.2, 20_000
    names, new = [f"r{n}" for n in range(size)], [f"n{n}" for n in range(5)]
    known = {name: Item(item_id=name, title=name) for name in names + new}
    wanted = {name: n for n, name in enumerate(["r2", "r0", "r1"])}
    keys = np.array([key_of(name) for name in new], np.uint64)
    counts: Counter[tuple[int, RecommendedItem]] = Counter()
    left_alone = 0
    for seed in range(draws):
        placed = mix(list(range(size)), [False] * size, list(range(size, size + len(new))), keys, share, seed)
        own = tuple(
            [
                RecommendedItem((names + new)[each.column], 0.1, govern.EXPLORED if each.is_explored else "", each.propensity)
                for each in placed
            ]
        )
        places = movable(own, known, top)
        left_alone += not places
        by_wish = sorted(range(len(places)), key=lambda row: wanted[own[places[row]].item_id])
        counts.update(enumerate(moved(own, places, by_wish)))
    assert left_alone == 0  # five of seven places given away leave three
    chances = np.array([each.propensity for _, each in counts])
    errors = np.sqrt(chances * (1.0 - chances) / draws)
    assert np.all(np.abs(np.array(list(counts.values())) / draws - chances) <= 4.5 * errors + 1e-9)
    assert {each.item_id for place, each in counts if place == 0} == {"r2"}


def test_a_list_that_explores_is_reread_as_a_whole_or_not_at_all() -> None:
    """Which items change places must not hang on the draw: where too few ranked ones are left, all stay."""
    own = listed("new", "new", govern.EXPLORED, "new", propensity=0.5)
    assert movable(own, KNOWN, 3) == [0, 1, 3]
    assert movable(own, KNOWN, 4) == []
    assert movable(listed("new", "new", govern.EXPLORED, "new"), KNOWN, 4) == [0, 1, 3]


def test_a_list_is_asked_about_and_comes_back_in_the_new_order() -> None:
    """What was touched is the user, by titles, the newest first; what left the index is not asked about, what stays stays."""
    made = maker()
    touched = profile_of(*[update(n, touch=Touch(name, "click", 1.0, NOW)) for n, name in enumerate("afx")], dim=6)
    own = listed("new", answering.REASON, "new", "new")
    asked = ask_about(own, touched, made.index, 9)
    titles = {name: made.index.items[made.index.slot(name)].title for name in NAMES}
    assert asked is not None
    assert asked.user == f"{titles['f']}; {titles['a']}"
    assert asked.places == [0, 2, 3]
    assert all(titles[name] in text for name, text in zip("acd", asked.items, strict=True))
    items = in_new_order(own, asked, [0.1, 0.5, 0.9], 1.0, made, NOW)
    assert items is not None
    assert [item.item_id for item in items] == ["d", "b", "c", "a"]
    assert in_new_order(own, asked, [0.9, 0.5, 0.1], 1.0, made, NOW) is None
    assert ask_about(own, nobody(6), made.index, 9) is None
    assert ask_about(own[:2], touched, made.index, 9) is None
