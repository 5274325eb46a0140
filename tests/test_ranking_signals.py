"""What all users together did: decay, counting once, co-visits from planted baskets, what rises."""

from __future__ import annotations

from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import DAY, NOW, related, visit

from ranking.covisits import FULL, KEEP, LATER, turns
from ranking.signals import BEFORE, PART, RISING, Counts, Signals, SignalsError, SignalSettings, Visit

SETTINGS = SignalSettings(recent_s=3_600.0, steady_s=DAY)
ITEMS = ["a", "b", "c"]


def signals_of(*touches: tuple[str, float, tuple[str, ...]]) -> Signals:
    """Return signals that counted these touches (item, time, items before), at rising offsets of one partition."""
    made = Signals(SETTINGS)
    for offset, (item_id, at, after) in enumerate(touches):
        visit(made, item_id, after, 1.0, at, (0, offset))
    return made


def counts_of(signals: Signals, item_id: str) -> Counts:
    """Return the counts of an item that has some."""
    counts = signals.counts([item_id])[0]
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
    assert visit(signals, "a", ("b",), 1.0, NOW, (0, 5))
    assert not visit(signals, "a", ("b",), 1.0, NOW, (0, 5))
    assert not visit(signals, "a", ("b",), 1.0, NOW, (0, 4))
    assert visit(signals, "a", ("b",), 1.0, NOW, (1, 4))
    assert counts_of(signals, "a") == Counts(NOW, 2.0, 2.0, {"b": 2.0}, {0: 5, 1: 4}, 2.0, 2.0)


def test_counts_of_one_never_counted() -> None:
    """An item that only came before others has no counts."""
    signals = signals_of(("a", NOW, ("b",)))
    assert counts_of(signals, "a") == Counts(NOW, 1.0, 1.0, {"b": 1.0}, {0: 0}, 1.0, 1.0)
    assert (signals.counts(["b"])[0], len(signals)) == (None, 1)


def test_put() -> None:
    """A record replaces older counts, whole; one that lacks an event counted here is ignored."""
    signals = signals_of(("x", NOW, ()), ("a", NOW, ("b",)))
    signals.put([("a", Counts(NOW, 9.0, 9.0, {}, {0: 0, 1: 7}))])
    assert counts_of(signals, "a").recent == 1.0
    signals.put([("a", Counts(NOW, 5.0, 5.0, {"c": 2.0}, {0: 1, 1: 7}))])
    assert counts_of(signals, "a").recent == 5.0
    assert [item_id for item_id, _ in related(signals, "a")] == ["c"]
    assert related(signals, "b") == []


def test_baskets() -> None:
    """What is bought together is related, from both sides, the more often the higher; what never is is not."""
    baskets = [("tea", "cup")] * 6 + [("tea", "honey")] * 3 + [("tea", "radio")] + [("radio", "wire")] * 6
    touches = []
    for n, (first, second) in enumerate(baskets):
        touches += [(first, NOW + 60 * n, ()), (second, NOW + 60 * n + 5, (first,))]
    signals = signals_of(*touches)
    assert [item_id for item_id, _ in related(signals, "tea")] == ["cup", "honey", "radio"]
    assert [item_id for item_id, _ in related(signals, "radio")] == ["wire", "tea"]
    assert related(signals, "cup")[0][0] == "tea"
    assert all(0 < score <= 1 for name in ("tea", "cup", "radio") for _, score in related(signals, name))
    assert related(signals, "unknown") == []


@given(histories)
def test_related_from_both_sides(touches: list[tuple[str, int]]) -> None:
    """What came after an item is related to it by a score, what came before it by a quarter of that score."""
    signals = signals_of(*((item_id, NOW + hours * 3_600.0, ("first",)) for item_id, hours in touches))
    later = dict(related(signals, "first"))
    assert set(later) == {item_id for item_id, _ in touches}
    assert list(later.values()) == sorted(later.values(), reverse=True)
    for item_id, score in later.items():
        assert 0 < score <= 1
        assert score == 1 or related(signals, item_id) == [("first", pytest.approx(BEFORE * score))]


def test_related_is_kept_up_to_date() -> None:
    """Counting on changes what was answered before, from both sides."""
    signals = signals_of(("a", NOW, ("b",)))
    before = dict(related(signals, "a"))["b"], dict(related(signals, "b"))["a"]
    for offset in range(1, 5):
        visit(signals, "a", ("b",), 1.0, NOW, (0, offset))
    assert dict(related(signals, "a"))["b"] > before[0]
    assert dict(related(signals, "b"))["a"] > before[1]
    signals.remove(["a"])
    assert related(signals, "b") == []


def test_bounded() -> None:
    """When an item has too many co-visits it keeps the 32 that are most; what falls out is related to it no more."""
    signals = Signals(SETTINGS)
    visit(signals, "a", ("weak",), 0.1, NOW, (0, 0))
    assert related(signals, "weak")[0][0] == "a"
    for n in range(FULL):
        visit(signals, "a", (f"i{n}",), 1.0 + (n < KEEP), NOW, (0, n + 1))
    assert set(counts_of(signals, "a").after) == {f"i{n}" for n in range(KEEP)}
    assert related(signals, "weak") == []
    assert len(related(signals, "a")) == KEEP


def test_bounded_on_the_way_back() -> None:
    """Of all that came after an item those that came most are known, whatever came first, and a newcomer that comes more."""
    signals = Signals(SETTINGS)
    for n in range(2 * LATER):
        visit(signals, f"i{n}", ("hub",), 1.0 + n, NOW, (0, n))
    assert {item_id for item_id, _ in related(signals, "hub")} == {f"i{n}" for n in range(LATER, 2 * LATER)}
    visit(signals, "i0", ("hub",), 100.0, NOW, (0, 99))
    assert "i0" in dict(related(signals, "hub"))


def test_newcomer() -> None:
    """Where 32 stronger co-visits are, a new one is kept all the same, and can outgrow them."""
    signals = Signals(SETTINGS)
    for n in range(KEEP):
        visit(signals, "a", (f"i{n}",), 2.0, NOW, (0, n))
    for n in range(3):
        visit(signals, "a", ("new",), 1.0, NOW, (0, KEEP + n))
    assert related(signals, "a")[0][0] == "new"


def test_times_far_apart() -> None:
    """Decades between two items' counts are no overflow."""
    signals = Signals(SignalSettings(recent_s=60.0, steady_s=60.0))
    visit(signals, "a", ("b",), 1.0, NOW - 10_000 * DAY, (0, 0))
    visit(signals, "b", ("a",), 1.0, NOW, (0, 1))
    visit(signals, "a", (), 1.0, NOW - 20_000 * DAY, (0, 2))
    assert all(0 <= score <= 1 for name in "ab" for _, score in related(signals, name))
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
    visit(signals, "b", (), 2.0, NOW, (0, 9))
    assert [item_id for item_id, _ in signals.rising(NOW + 0.9)] == ["a"]
    assert [item_id for item_id, _ in signals.rising(NOW + 1.0)] == ["b", "a"]
    visit(signals, "c", (), 4.0, NOW, (0, 9))
    assert [item_id for item_id, _ in signals.rising(NOW - 5.0)] == ["c", "b", "a"]


def test_rising_keeps_the_hottest() -> None:
    """Of any number of items the hottest 200 are known, in order, whenever they came; a removed one is not."""
    signals = Signals(SETTINGS)
    count = 5 * RISING
    for n in range(count):
        visit(signals, f"i{n}", (), 1.0 + (n * 7) % count, NOW, (0, n))
    order = [f"i{n}" for n in sorted(range(count), key=lambda n: -((n * 7) % count))]
    assert [item_id for item_id, _ in signals.rising(NOW)] == order[:RISING]
    signals.remove([order[0]])
    assert [item_id for item_id, _ in signals.rising(NOW + 1)][: RISING - 1] == order[1:RISING]
    assert len(signals) == count - 1


def test_remove() -> None:
    """A removed item is forgotten from all sides; removing an unknown one changes nothing."""
    signals = signals_of(("a", NOW, ()), ("b", NOW, ("a",)), ("c", NOW, ("b",)))
    signals.remove(["b"])
    signals.remove(["unknown"])
    assert (len(signals), signals.counts(["b"])[0]) == (2, None)
    assert related(signals, "a") == []
    assert [item_id for item_id, _ in signals.rising(NOW)] == ["a", "c"]


def test_snapshot(tmp_path: Path) -> None:
    """A snapshot answers as the signals did, in place of what was there, and counts on."""
    signals = signals_of(("a", NOW, ()), ("b", NOW + 60, ("a",)), ("c", NOW + 90, ("b", "a")))
    signals.save(tmp_path / "signals")
    loaded = signals_of(("other", NOW, ("a",)))
    loaded.load(tmp_path / "signals")
    for item_id in ("a", "b", "c", "other"):
        assert related(loaded, item_id) == related(signals, item_id)
        assert loaded.counts([item_id])[0] == signals.counts([item_id])[0]
    assert loaded.rising(NOW) == signals.rising(NOW)
    assert not visit(loaded, "c", (), 1.0, NOW, (0, 2))
    assert visit(loaded, "c", (), 1.0, NOW, (0, 3))


cuts = st.lists(st.integers(1, 7), min_size=1, max_size=20)
visits = st.lists(
    st.tuples(st.sampled_from("abcd"), st.permutations("abcd"), st.integers(0, 1), st.integers(0, 9), st.integers(-9, 9)),
    max_size=25,
)


@given(visits, cuts)
def test_any_cut(made: list[tuple[str, list[str], int, int, int]], sizes: list[int]) -> None:
    """However visits are cut into batches, replays among them, they give the same counts as one by one."""
    each = [
        Visit(item_id, tuple(other for other in others if other != item_id), 1.0, NOW + 3_600.0 * hours, (partition, offset))
        for item_id, others, partition, offset, hours in made
    ]
    one, other = Signals(SETTINGS), Signals(SETTINGS)
    changed = [one.count([single]) for single in each]
    start = 0
    for size in sizes * (1 + len(each) // len(sizes)):
        assert other.count(each[start : start + size]) == set().union(*changed[start : start + size])
        start += size
    for item_id in "abcd":
        assert one.counts([item_id])[0] == other.counts([item_id])[0]
        assert dict(related(one, item_id)) == pytest.approx(dict(related(other, item_id)))


@given(st.lists(st.integers(0, 5), max_size=40))
def test_turns(keys: list[int]) -> None:
    """Within a turn all keys differ, each place comes once, and equal keys come in their order."""
    found = [turn.tolist() for turn in turns(np.array(keys, np.int32))]
    assert sorted(place for turn in found for place in turn) == list(range(len(keys)))
    for turn in found:
        assert len({keys[place] for place in turn}) == len(turn)
    for key in set(keys):
        assert [place for turn in found for place in turn if keys[place] == key] == [n for n, k in enumerate(keys) if k == key]


def test_many_items(tmp_path: Path) -> None:
    """Thousands of items, more than a snapshot's part, with removed ones among them, come back from a snapshot as they were."""
    signals, random = Signals(SETTINGS), Random(1)
    names = [f"i{n}" for n in range(2 * PART + 50)]
    for start in range(0, len(names), 100):
        signals.count(
            [
                Visit(name, tuple(random.sample(names, 3)), 1.0, NOW + n, (-(n % 5) * 10**12, n))
                for n, name in enumerate(names[start : start + 100], start)
            ]
        )
    signals.remove(names[5:900:7])
    visit(signals, "new", (names[0],), 1.0, NOW, (0, 10_000))
    signals.save(tmp_path / "signals")
    loaded = Signals(SETTINGS)
    loaded.load(tmp_path / "signals")
    assert len(loaded) == len(signals) == len(names) - len(names[5:900:7]) + 1
    for name in [*names, "new"]:
        assert loaded.counts([name])[0] == signals.counts([name])[0]
        assert related(loaded, name) == related(signals, name)
    visit(loaded, "newer", ("new",), 1.0, NOW, (0, 10_001))
    assert [item_id for item_id, _ in related(loaded, "newer")] == ["new"]


@pytest.mark.parametrize(("beginning", "found"), [(None, "None"), (0.5, "0.5"), (9, "9")])
def test_foreign_snapshot(beginning: float | None, found: str, tmp_path: Path) -> None:
    """A snapshot of format 1, which began with the heats' moment, or of a newer one is refused, and nothing is forgotten."""
    path = tmp_path / "signals"
    path.write_bytes(msgspec.msgpack.encode([beginning, [], []]))
    signals = signals_of(("kept", NOW, ("a",)))
    with pytest.raises(SignalsError, match=rf"format {found}.*, this version reads 3: leave it out"):
        signals.load(path)
    assert len(signals) == 1


def test_heats() -> None:
    """Touches count half after the half-life of each of the four decays; an item without any has none."""
    signals = signals_of(("a", NOW, ()))
    heats = signals.heats(["a", "unknown"], NOW + DAY)
    np.testing.assert_allclose(heats[0], [2.0**-24, 0.5, 2.0 ** (-1 / 7), 0.5])
    assert not heats[1].any()


def test_hottest() -> None:
    """What was touched a little today is the day's, what was touched much last week is the week's; none stands twice."""
    signals = Signals(SignalSettings(recent_s=3_600.0, steady_s=30 * DAY))
    for offset in range(6):
        visit(signals, "week", (), 1.0, NOW - 5 * DAY, (0, offset))
    visit(signals, "today", (), 1.0, NOW, (0, 9))
    assert set(signals.hottest(1, NOW)) == {"today", "week"}
    assert signals.hottest(2, NOW)[0] == "today"
