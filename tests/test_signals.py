"""The signals agent's work: what is counted once here reaches every other worker whole, whatever comes twice or late."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import NOW, related, visit

from ranking.signals import Signals
from streams.messages import Interaction, ItemSignal
from streams.signals import SignalCounter, apply


def interaction(item_id: str, offset: int, *after: str, partition: int = 0, at: float = NOW) -> Interaction:
    """Return a touch of an item after these others."""
    return Interaction(item_id=item_id, after=after, weight=1.0, at=at, source=(partition, offset))


BASKETS = [interaction("cup", 0, "tea"), interaction("tea", 1), interaction("cup", 2, "tea", "jam"), interaction("jam", 3)]


def test_counts_and_names_what_changed() -> None:
    """A batch counts, and its items are named once each; what was counted before changes nothing."""
    counter = SignalCounter(Signals())
    assert counter.count(BASKETS[:3]) == {"cup", "tea"}
    assert counter.count(BASKETS) == {"jam"}
    assert counter.count(BASKETS) == set()
    assert counter.records(["cup"])[0].recent == pytest.approx(2.0)


def test_record() -> None:
    """A record says all that is counted of an item."""
    counter = SignalCounter(Signals())
    counter.count(BASKETS)
    assert counter.records(["cup"])[0] == ItemSignal(
        item_id="cup", at=NOW, recent=2.0, steady=2.0, after={"tea": 2.0, "jam": 0.5}, sources={0: 2}, day=2.0, week=2.0
    )
    assert [record.item_id for record in counter.records(["tea", "unknown", "jam"])] == ["tea", "jam"]


def test_record_is_a_snapshot() -> None:
    """A record does not change when counting goes on, nor counting when a follower's counts do."""
    counter, follower = SignalCounter(Signals()), Signals()
    counter.count(BASKETS)
    record = counter.records(["cup"])[0]
    apply([record], follower)
    visit(follower, "cup", ("egg",), 1.0, NOW, (5, 5))
    counter.count([interaction("cup", 9, "tea")])
    assert record.after == {"tea": 2.0, "jam": 0.5}
    assert record.sources == {0: 2}


touches = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), st.integers(0, 1), st.integers(-9, 9)), min_size=1, max_size=12
)


@given(touches, st.data())
def test_followers_agree(made: list[tuple[str, str, int, int]], data: st.DataObject) -> None:
    """A worker that follows the records answers as the one that counts, also when old records come again."""
    counter, follower = SignalCounter(Signals()), Signals()
    records: list[ItemSignal] = []
    for offset, (item_id, before, partition, hours) in enumerate(made):
        counter.count([interaction(item_id, offset, before, partition=partition, at=NOW + 3_600.0 * hours)])
        records.append(counter.records([item_id])[0])
        apply([records[-1]], follower)
        apply([data.draw(st.sampled_from(records))], follower)
    for item_id in "abc":
        assert dict(related(follower, item_id)) == pytest.approx(dict(related(counter.signals, item_id)))
        assert follower.counts([item_id])[0] == counter.signals.counts([item_id])[0]
    assert follower.rising(NOW) == counter.signals.rising(NOW)


def test_own_record_comes_back() -> None:
    """A worker that counts follows its own records too: an older one does not undo what it counted since."""
    counter = SignalCounter(Signals())
    counter.count(BASKETS[:1])
    old = counter.records(["cup"])[0]
    counter.count(BASKETS[2:3])
    apply([old], counter.signals)
    assert counter.records(["cup"])[0].recent == 2.0
    assert counter.count(BASKETS[2:3]) == set()


def test_taking_over() -> None:
    """A worker that takes over a partition goes on from the followed record: what that counts is not counted again."""
    first, second = SignalCounter(Signals()), SignalCounter(Signals())
    first.count(BASKETS)
    apply([first.records(["cup"])[0], first.records(["tea"])[0], first.records(["jam"])[0]], second.signals)
    assert second.count(BASKETS) == set()
    assert second.count([interaction("cup", 7, "tea")]) == {"cup"}


def test_delete() -> None:
    """A bare id forgets an item, in order with the records beside it."""
    counter, follower = SignalCounter(Signals()), Signals()
    counter.count(BASKETS)
    cup = counter.records(["cup"])[0]
    apply([cup, "cup"], follower)
    assert follower.counts(["cup"])[0] is None
    apply(["cup", cup, "unknown"], follower)
    assert follower.counts(["cup"])[0] is not None
