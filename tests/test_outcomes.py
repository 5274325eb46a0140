"""What users did with their lists: which touch follows which list, planted differences are found, and lost lists are told."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from ranking.evaluate import Interval
from ranking.ratios import Estimate
from streams import experiments, outcomes
from streams.lessons import is_of_another
from streams.messages import Event, RecommendationList, RecommendedItem
from streams.outcomes import Outcomes
from streams.settings import load

NOW = 1_790_000_000.0
WINDOW = 600.0


def joined() -> Outcomes:
    """Return sums of all time, where all but impressions are touches."""
    return Outcomes(WINDOW, 0.0, math.inf, lambda event: event.type != "impression")


def event(number: int, user: str = "u", item: str | None = None, after: float = 0.0, **given: Any) -> tuple[int, Event]:
    """Return the event at an offset, so many seconds after NOW."""
    kind = given.pop("type", "click" if item else "search")
    made = Event(event_id=f"e{number}", user_id=user, type=kind, at=NOW + after, item_id=item, text="x", **given)
    return number, made


def shown(number: int, items: str, user: str = "u", after: float = 0.0, variant: str | None = "e/a", covers: int = 1) -> Any:
    """Return the list made of the event at an offset, its items one letter each."""
    own = tuple([RecommendedItem(item, 0.1, "new") for item in items])
    given: dict[str, Any] = {"event_id": f"e{number}", "event_at": NOW + after, "published_at": NOW + after, "covers": covers}
    return RecommendationList(list_id=f"0-{number}", user_id=user, items=own, model="zero-shot", variant=variant, **given)


def sums(events: Iterable[tuple[int, Event]], lists: Iterable[RecommendationList], user: str = "u") -> list[float]:
    """Return lists, touched, bought, touches and reciprocals of a user in variant a."""
    found = joined()
    found.take(events, lists)
    return found.variants["e/a"][user]


def test_what_follows_a_list() -> None:
    """A touch of an item of a list, after the list's event and within the window, follows it; once, at its place."""
    lists = [shown(0, "abc")]
    assert sums([event(0, item="a")], lists) == [1, 0, 0, 0, 0]  # its own event is none that follows
    assert sums([event(0), event(1, item="c", after=WINDOW)], lists) == [1, 1, 0, 1, 1 / 3]
    assert sums([event(0), event(1, item="c", after=WINDOW + 1)], lists) == [1, 0, 0, 0, 0]
    assert sums([event(0), event(1, item="x", after=1)], lists) == [1, 0, 0, 0, 0]
    assert sums([event(0), event(1, item="b", after=1, type="impression")], lists) == [1, 0, 0, 0, 0]
    assert sums([event(0), event(1, "v", item="b", after=1)], lists) == [1, 0, 0, 0, 0]
    twice = [event(0), event(1, item="b", after=1), event(2, item="a", after=2, type="purchase")]
    assert sums(twice, lists) == [1, 1, 1, 2, 1 / 2]


def test_a_touch_may_follow_more_than_one_list() -> None:
    """Older lists count while their window is open; with a list_id only the one named; a list published again is one."""
    lists = [shown(0, "abc"), shown(1, "cba", after=1), shown(0, "abc")]
    touched = event(2, item="a", after=2)
    assert sums([event(0), event(1, after=1), touched], lists) == [2, 2, 0, 1, 1 + 1 / 3]
    named = event(2, item="a", after=2, list_id="0-1")
    assert sums([event(0), event(1, after=1), named], lists) == [2, 1, 0, 1, 1 / 3]
    assert sums([event(0), event(1, after=1), event(2, item="a", after=2, list_id="page")], lists) == [2, 0, 0, 0, 0]


def test_a_list_that_was_reread_is_one_list() -> None:
    """A touch finds its item where it stood by then; where the list as it was ranked is gone, the other stands for it."""
    reread = msgspec.structs.replace(shown(0, "cba"), published_at=NOW + 5, reread="judge")
    lists = [shown(0, "abc"), reread]
    assert sums([event(0), event(1, item="a", after=4)], lists) == [1, 1, 0, 1, 1]
    assert sums([event(0), event(1, item="a", after=6)], lists) == [1, 1, 0, 1, 1 / 3]
    assert sums([event(0), event(1, item="b", after=4), event(2, item="a", after=6)], lists) == [1, 1, 0, 2, 1 / 2]
    assert sums([event(0), event(1, item="a", after=6)], [reread]) == [1, 1, 0, 1, 1 / 3]
    found = joined()
    found.take([event(0), event(1, after=9)], [*lists, shown(1, "a", after=9)])
    assert found.lost == 0


def test_the_order_of_lists_within_a_batch_does_not_matter() -> None:
    """Lists come by user within a batch: each opens with its event all the same."""
    events = [event(n, f"u{n % 5}", after=n) for n in range(50)] + [event(50 + n, f"u{n}", "a", 50 + n) for n in range(5)]
    lists = sorted([shown(n, "ab", f"u{n % 5}", n) for n in range(50)], key=lambda told: told.user_id)
    assert [sums(events, lists, f"u{n}") for n in range(5)] == [[10, 10, 0, 1, 10]] * 5


def test_the_time_asked_for() -> None:
    """Lists count whose event lies in the time; what follows them may lie after it."""
    found = Outcomes(WINDOW, NOW + 10, NOW + 20, lambda each: True)
    events = [event(0), event(1, after=10), event(2, after=20), event(3, item="a", after=30)]
    found.take(events, [shown(0, "a"), shown(1, "a", after=10), shown(2, "a", after=20)])
    assert found.variants["e/a"]["u"] == [1, 1, 0, 1, 1]
    assert (found.events, found.lost) == (1, 0)


def test_an_erased_user_is_gone() -> None:
    """Nothing is told of a user who was erased, but of what came later."""
    events = [event(0), event(1, item="a", after=1), (2, Event(event_id="x", user_id="u", type="erase", at=NOW + 2))]
    found = joined()
    found.take(events, [shown(0, "a"), shown(1, "a", after=1)])
    assert found.variants == {"e/a": {}}
    assert sums([*events, event(3, after=3)], [shown(0, "a"), shown(3, "a", after=3)]) == [1, 0, 0, 0, 0]


def test_lists_that_are_gone_are_told() -> None:
    """Where only the newest list of a user was left, events say how many are missing and from when on none is."""
    events = [event(n, after=n) for n in range(20)]
    found = joined()
    found.take(events, [shown(n, "a", after=n) for n in (9, 10, 11, 12, 13)] + [shown(19, "a", after=19, covers=6)])
    assert (found.events, found.lost, found.whole_since) == (20, 9, NOW + 8)
    found = joined()
    found.take([*events, *[event(20 + n, "v", after=2 * WINDOW + n) for n in range(9)]], [])
    assert (found.lost, found.whole_since) == (20, NOW + 19)  # who has gone without one; the others may still get theirs
    assert not found._users


def world(gain: float, users: int = 600, seed: int = 1) -> Outcomes:
    """Return outcomes of two variants whose users touch a list's item in a fifth of the times, b's by a gain more."""
    rng = np.random.default_rng(seed)
    found = joined()
    for n in range(users):
        variant = "ab"[n % 2]
        chance = rng.beta(2, 8) + gain * (variant == "b")
        events, lists = [], []
        for turn in range(int(rng.integers(1, 12))):
            events.append(event(2 * turn, f"u{n}", after=3 * WINDOW * turn))
            lists.append(shown(2 * turn, "abcd", f"u{n}", 3 * WINDOW * turn, f"e/{variant}"))
            if rng.random() < chance:
                events.append(event(2 * turn + 1, f"u{n}", "abcd"[int(rng.integers(4))], 3 * WINDOW * turn + 1))
        found.take(events, lists)
    return found


def interval(estimate: Estimate | None) -> Interval | None:
    """Return the interval of an estimate that is there."""
    return estimate.interval() if estimate is not None else None


def file(folder: Path, *shares: float) -> experiments.Experiment:
    """Return an experiment e with variants b and a, in this order."""
    path = folder / "e.toml"
    variants = [f'[[variants]]\nname = "{name}"\nshare = {share}\n' for name, share in zip("ba", shares, strict=True)]
    path.write_text('name = "e"\n' + "".join(variants))
    return experiments.read(path, load())


def test_a_planted_difference_is_found(tmp_path: Path) -> None:
    """A gain of .1 is told with an interval that holds it and not 0, and no gain with one that holds 0."""
    (group,) = outcomes.groups(world(0.1))
    a, b = group.rows
    assert [row.name for row in group.rows] == ["a", "b"]
    assert (a.users, b.users, a.ahead, group.twice, group.split) == (300, 300, {}, 0, None)
    ahead = interval(b.ahead["touched"])
    assert ahead is not None
    assert 0.0 < ahead.low < 0.1 < ahead.high < 0.2
    (group,) = outcomes.groups(world(0.0))
    same = interval(group.rows[1].ahead["touched"])
    assert same is not None
    assert same.low < 0.0 < same.high
    assert group.rows[0].rates["bought"] == (0.0, None)
    assert interval(group.rows[1].ahead["bought"]) is None
    (group,) = outcomes.groups(world(0.1), file(tmp_path, 0.5, 0.5))
    assert [row.name for row in group.rows] == ["b", "a"]  # as in the file: its first is what is compared with
    assert group.split == 1.0
    (group,) = outcomes.groups(world(0.1), file(tmp_path, 30, 70))
    assert group.split is not None
    assert group.split < 1e-6


def test_users_of_two_variants_are_left_out() -> None:
    """Who was in both, as the split was changed, is counted and left out; lists of no variant have no row beside variants."""
    found = joined()
    found.take([event(0), event(1, after=1), event(2, "v", after=2)], [shown(0, "a"), shown(1, "a", after=1, variant="e/b")])
    found.take([event(0, "w"), event(1, "x", after=1)], [shown(0, "a", "w"), shown(1, "a", "x", 1, variant=None)])
    (group,) = outcomes.groups(found)
    assert [(row.name, row.users, row.lists) for row in group.rows] == [("a", 1, 1), ("b", 0, 0)]
    assert (group.twice, found.models["zero-shot"]["x"][0]) == (1, 1)
    found.variants.clear()
    (group,) = outcomes.groups(found)
    assert [(group.experiment, row.name, row.users) for row in group.rows] == [("", "zero-shot", 1)]
    assert outcomes.groups(joined()) == []


@pytest.mark.parametrize("each", [1, 30])
def test_memory_does_not_grow_with_users_who_left(each: int) -> None:
    """Who has not been there for the window is forgotten but for the sums."""
    found = joined()
    events = [event(n, f"u{n // each}", after=n * WINDOW / 5) for n in range(3_000)]
    most = 0

    def told() -> Iterable[tuple[int, Event]]:
        nonlocal most
        for one in events:
            yield one
            most = max(most, len(found._users))

    found.take(told(), [shown(n, "a", f"u{n // each}", n * WINDOW / 5) for n in range(3_000)])
    assert most <= 8
    assert sum(own[0] for own in found.variants["e/a"].values()) == 3_000


def test_a_variant_with_a_model_of_its_own_teaches_no_other() -> None:
    """What is learnt for a model is of its lists, in whichever variant, and of those that no variant names."""
    assert not is_of_another(shown(0, "a"), "zero-shot")
    assert is_of_another(shown(0, "a"), "4a3f0c9b12de")
    assert not is_of_another(shown(0, "a", variant=None), "4a3f0c9b12de")
