"""What all users together did: decay, counting once, co-visits from planted baskets, what rises."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import DAY, NOW

from ranking.signals import BEFORE, MAX_AFTER, RISING, Counts, Signals, SignalSettings

SETTINGS = SignalSettings(recent_s=3_600.0, steady_s=DAY)
ITEMS = ["a", "b", "c"]


def signals_of(*touches: tuple[str, float, tuple[str, ...]]) -> Signals:
    """Return signals that counted these touches (item, time, items before), at rising offsets of one partition."""
    made = Signals(SETTINGS)
    for offset, (item_id, at, after) in enumerate(touches):
        made.count(item_id, after, 1.0, at, (0, offset))
    return made


def counts_of(signals: Signals, item_id: str) -> Counts:
    """Return the counts of an item that has some."""
    counts = signals.counts(item_id)
    assert counts is not None
    return counts


def test_half_lives() -> None:
    """A touch counts half after one half-life: of an hour in what is recent, of a day in what is steady and goes together."""
    counts = counts_of(signals_of(("a", NOW, ("b", "c")), ("a", NOW + DAY, ())), "a")
    assert counts.at == NOW + DAY
    assert counts.steady == pytest.approx(1.5)
    assert counts.recent == pytest.approx(1 + 2**-24)
    assert counts.after == pytest.approx({"b": 0.5, "c": 0.25})


histories = st.lists(st.tuples(st.sampled_from(ITEMS), st.integers(-40, 40)), min_size=1, max_size=12)


@given(histories, st.randoms(use_true_random=False))
def test_any_order_of_time(touches: list[tuple[str, int]], random: Random) -> None:
    """Touches that come late land where they belong: any order gives the same counts."""
    made = [(item_id, NOW + hours * 3_600.0, tuple(i for i in ITEMS if i != item_id)) for item_id, hours in touches]
    shuffled = list(made)
    random.shuffle(shuffled)
    one, other = signals_of(*made), signals_of(*shuffled)
    for item_id in {item_id for item_id, _ in touches}:
        a, b = counts_of(one, item_id), counts_of(other, item_id)
        assert (a.at, a.recent, a.steady) == pytest.approx((b.at, b.recent, b.steady))
        assert a.after == pytest.approx(b.after)


def test_counts_once() -> None:
    """An event at or below the last offset counted of its partition is not counted again; another partition's is."""
    signals = Signals(SETTINGS)
    assert signals.count("a", ("b",), 1.0, NOW, (0, 5))
    assert not signals.count("a", ("b",), 1.0, NOW, (0, 5))
    assert not signals.count("a", ("b",), 1.0, NOW, (0, 4))
    assert signals.count("a", ("b",), 1.0, NOW, (1, 4))
    assert counts_of(signals, "a") == Counts(NOW, 2.0, 2.0, {"b": 2.0}, {0: 5, 1: 4})


def test_counts_is_a_copy() -> None:
    """What `counts` returns is the caller's own; items never counted have none."""
    signals = signals_of(("a", NOW, ("b",)))
    copy = counts_of(signals, "a")
    copy.after["z"], copy.sources[9], copy.recent = 9.0, 9, 9.0
    assert counts_of(signals, "a") == Counts(NOW, 1.0, 1.0, {"b": 1.0}, {0: 0})
    assert signals.counts("b") is None


def test_put() -> None:
    """A record replaces older counts, whole; one that lacks an event counted here is ignored."""
    signals = signals_of(("x", NOW, ()), ("a", NOW, ("b",)))
    signals.put("a", Counts(NOW, 9.0, 9.0, {}, {0: 0, 1: 7}))
    assert counts_of(signals, "a").recent == 1.0
    signals.put("a", Counts(NOW, 5.0, 5.0, {"c": 2.0}, {0: 1, 1: 7}))
    assert counts_of(signals, "a").recent == 5.0
    assert [item_id for item_id, _ in signals.related("a")] == ["c"]
    assert signals.related("b") == []


def test_baskets() -> None:
    """What is bought together is related, from both sides, the more often the higher; what never is is not."""
    baskets = [("tea", "cup")] * 6 + [("tea", "honey")] * 3 + [("tea", "radio")] + [("radio", "wire")] * 6
    touches = []
    for n, (first, second) in enumerate(baskets):
        touches += [(first, NOW + 60 * n, ()), (second, NOW + 60 * n + 5, (first,))]
    signals = signals_of(*touches)
    assert [item_id for item_id, _ in signals.related("tea")] == ["cup", "honey", "radio"]
    assert [item_id for item_id, _ in signals.related("radio")] == ["wire", "tea"]
    assert signals.related("cup")[0][0] == "tea"
    assert all(0 < score <= 1 for name in ("tea", "cup", "radio") for _, score in signals.related(name))
    assert signals.related("unknown") == []


@given(histories)
def test_related_from_both_sides(touches: list[tuple[str, int]]) -> None:
    """What came after an item is related to it by a score, what came before it by a quarter of that score."""
    signals = signals_of(*((item_id, NOW + hours * 3_600.0, ("first",)) for item_id, hours in touches))
    later = dict(signals.related("first"))
    assert set(later) == {item_id for item_id, _ in touches}
    assert list(later.values()) == sorted(later.values(), reverse=True)
    for item_id, score in later.items():
        assert 0 < score <= 1
        assert score == 1 or signals.related(item_id) == [("first", pytest.approx(BEFORE * score))]


def test_related_is_kept_up_to_date() -> None:
    """Counting on changes what was answered before, from both sides."""
    signals = signals_of(("a", NOW, ("b",)))
    before = dict(signals.related("a"))["b"], dict(signals.related("b"))["a"]
    for offset in range(1, 5):
        signals.count("a", ("b",), 1.0, NOW, (0, offset))
    assert dict(signals.related("a"))["b"] > before[0]
    assert dict(signals.related("b"))["a"] > before[1]
    signals.remove("a")
    assert signals.related("b") == []


def test_bounded() -> None:
    """At twice 32 co-visits an item keeps the 32 it is co-visited with most; what falls out is related to it no more."""
    signals = Signals(SETTINGS)
    signals.count("a", ("weak",), 0.1, NOW, (0, 0))
    assert signals.related("weak")[0][0] == "a"
    for n in range(2 * MAX_AFTER):
        signals.count("a", (f"i{n}",), 1.0 + (n < MAX_AFTER), NOW, (0, n + 1))
    assert set(counts_of(signals, "a").after) == {f"i{n}" for n in range(MAX_AFTER)}
    assert signals.related("weak") == []
    assert len(signals.related("a")) == MAX_AFTER


def test_newcomer() -> None:
    """Where 32 stronger co-visits are, a new one is kept all the same, and can outgrow them."""
    signals = Signals(SETTINGS)
    for n in range(MAX_AFTER):
        signals.count("a", (f"i{n}",), 2.0, NOW, (0, n))
    for n in range(3):
        signals.count("a", ("new",), 1.0, NOW, (0, MAX_AFTER + n))
    assert signals.related("a")[0][0] == "new"


def test_times_far_apart() -> None:
    """Decades between two items' counts are no overflow."""
    signals = Signals(SignalSettings(recent_s=60.0, steady_s=60.0))
    signals.count("a", ("b",), 1.0, NOW - 10_000 * DAY, (0, 0))
    signals.count("b", ("a",), 1.0, NOW, (0, 1))
    signals.count("a", (), 1.0, NOW - 20_000 * DAY, (0, 2))
    assert all(0 <= score <= 1 for name in "ab" for _, score in signals.related(name))
    assert signals.rising(NOW)[0] == ("b", 1.0)


def test_rising() -> None:
    """What was touched much lately rises highest; scores are shares of the top and do not depend on when one asks."""
    signals = signals_of(*[("old", NOW - 3_600.0, ())] * 4, *[("new", NOW, ())] * 3, ("quiet", NOW, ()))
    assert signals.rising(NOW) == [("new", 1.0), ("old", pytest.approx(2 / 3)), ("quiet", pytest.approx(1 / 3))]
    assert signals.rising(NOW + 7 * DAY) == signals.rising(NOW)


def test_rising_is_kept_for_a_second() -> None:
    """`rising` is computed once a second of the time asked for."""
    signals = signals_of(("a", NOW, ()))
    assert signals.rising(NOW) == [("a", 1.0)]
    signals.count("b", (), 2.0, NOW, (0, 9))
    assert [item_id for item_id, _ in signals.rising(NOW + 0.9)] == ["a"]
    assert [item_id for item_id, _ in signals.rising(NOW + 1.0)] == ["b", "a"]
    signals.count("c", (), 4.0, NOW, (0, 9))
    assert [item_id for item_id, _ in signals.rising(NOW - 5.0)] == ["c", "b", "a"]


def test_rising_keeps_the_hottest() -> None:
    """Of any number of items the hottest 200 are known, in order, whenever they came; a removed one is not."""
    signals = Signals(SETTINGS)
    count = 5 * RISING
    for n in range(count):
        signals.count(f"i{n}", (), 1.0 + (n * 7) % count, NOW, (0, n))
    order = [f"i{n}" for n in sorted(range(count), key=lambda n: -((n * 7) % count))]
    assert [item_id for item_id, _ in signals.rising(NOW)] == order[:RISING]
    signals.remove(order[0])
    assert [item_id for item_id, _ in signals.rising(NOW + 1)][: RISING - 1] == order[1:RISING]
    assert len(signals) == count - 1


def test_remove() -> None:
    """A removed item is forgotten from all sides; removing an unknown one changes nothing."""
    signals = signals_of(("a", NOW, ()), ("b", NOW, ("a",)), ("c", NOW, ("b",)))
    signals.remove("b")
    signals.remove("unknown")
    assert (len(signals), signals.counts("b")) == (2, None)
    assert signals.related("a") == []
    assert [item_id for item_id, _ in signals.rising(NOW)] == ["a", "c"]


def test_snapshot(tmp_path: Path) -> None:
    """A snapshot answers as the signals did, in place of what was there, and counts on."""
    signals = signals_of(("a", NOW, ()), ("b", NOW + 60, ("a",)), ("c", NOW + 90, ("b", "a")))
    signals.save(tmp_path / "signals")
    loaded = signals_of(("other", NOW, ("a",)))
    loaded.load(tmp_path / "signals")
    for item_id in ("a", "b", "c", "other"):
        assert loaded.related(item_id) == signals.related(item_id)
        assert loaded.counts(item_id) == signals.counts(item_id)
    assert loaded.rising(NOW) == signals.rising(NOW)
    assert not loaded.count("c", (), 1.0, NOW, (0, 2))
    assert loaded.count("c", (), 1.0, NOW, (0, 3))


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=10))
def test_decay_is_one_way(times: list[float]) -> None:
    """Counts move to later times only, and the way there in steps is the way in one."""
    steps, once = (Counts(NOW, 8.0, 8.0, {"b": 4.0}, {}) for _ in range(2))
    for at in times:
        before = steps.at
        steps.decay_to(NOW + at, SETTINGS)
        assert steps.at == max(before, NOW + at)
    once.decay_to(NOW + max(times), SETTINGS)
    assert (steps.recent, steps.steady, steps.after["b"]) == pytest.approx((once.recent, once.steady, once.after["b"]))
    assert all(a >= b for a, b in pairwise([8.0, steps.steady, steps.recent]))
