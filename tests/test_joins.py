"""Lists and what came after them: windows, orders, bounds; and the lessons that a replay gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import NOW
from school import ITEMS, WIDTH, by_hand, world

from ranking import features
from ranking.index import NOWHERE
from ranking.learned import Learned
from ranking.online import Example, Shown, Steps
from ranking.rounds import Plan
from streams import joins
from streams.joins import OF_USER, Joins, Touched
from streams.lessons import Lessons, Listed
from streams.messages import Event, RecommendationList, RecommendedItem
from streams.training import Replay

SHOWN = Shown(np.zeros((3, len(features.NAMES)), np.float16), np.array([5, 6, 7], np.int32), np.zeros(WIDTH, np.float32))
HOUR = 3_600.0


def show(own: Joins, event_id: str, at: float = NOW, user: str = "u", places: Sequence[int] = (6, 5)) -> list[Example]:
    """Open a list of the slots 5, 6 and 7, two of which it shows."""
    return own.show(user, event_id, at, SHOWN, places)


def touch(own: Joins, event_id: str, slot: int, at: float = NOW, user: str = "u") -> list[Example]:
    """Let an event come."""
    return own.event(user, Touched(event_id, at, slot))


def test_a_list_is_joined_with_the_next_touch_of_a_candidate() -> None:
    """Not with its own event, nor with what is no candidate, and only once."""
    own = Joins(HOUR)
    assert touch(own, "e1", 6) == []
    assert show(own, "e1") == []
    assert touch(own, "e2", 9, NOW + 1) == touch(own, "e3", NOWHERE, NOW + 2) == []
    (made,) = touch(own, "e4", 5, NOW + 3)
    assert (made.slot, made.at, made.user_id) == (5, NOW + 3, "u")
    assert touch(own, "e5", 6, NOW + 4) == []
    assert len(own) == 0


@given(st.permutations(["list", "e1", "e2", "e3"]))
def test_lists_and_events_may_come_in_any_order_between_the_two(order: list[str]) -> None:
    """As long as events keep theirs: a list that comes late is joined with what came meanwhile, in the same second, too."""
    own = Joins(HOUR)
    slots = {"e1": 7, "e2": 9, "e3": 6}
    made = []
    events = iter(sorted(name for name in order if name != "list"))
    for name in order:
        event = name if name == "list" else next(events)
        made += show(own, "e1") if event == "list" else touch(own, event, slots[event])
    assert [each.slot for each in made] == [6]


def test_the_window_is_one_of_event_time() -> None:
    """What comes after it, or happened before the list, is not joined; a list whose window has passed is closed."""
    own = Joins(HOUR)
    touch(own, "e1", 6)
    show(own, "e1")
    assert touch(own, "late", 5, NOW + HOUR + 1) == touch(own, "before", 5, NOW - 1) == []
    own.close(NOW + HOUR)
    assert len(own) == 1
    own.close(NOW + HOUR + 1)
    assert (len(own), own.expired) == (0, 1)
    assert touch(own, "e2", 5, NOW + 1) == []


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy user has some open lists at most, all users together have others, and the oldest make room."""
    monkeypatch.setattr(joins, "MOST", 10)
    monkeypatch.setattr(joins, "USERS", 20)
    own = Joins(HOUR)
    for n in range(OF_USER + 3):
        show(own, f"e{n}", user="busy")
    assert (len(own), own.left_out) == (OF_USER, 3)
    for n in range(50):
        show(own, "e", user=f"u{n}")
        touch(own, "e", 6, user=f"v{n}")
    assert len(own) <= 10
    assert len(own._users) == 20


def test_a_user_can_be_forgotten() -> None:
    """Open lists and last events are gone."""
    own = Joins(HOUR)
    touch(own, "e1", 6)
    show(own, "e1")
    own.forget("u")
    assert len(own) == 0
    assert touch(own, "e2", 5) == []


class TestLessons:
    """Published lists and events to rounds, by the step that serves."""

    def lessons(self, **plan: Any) -> tuple[Lessons, Replay]:
        """Return lessons on a model by hand, and the replay that profiles come from."""
        personalizer = world()
        base = by_hand({"follow_links_last": 3.0})
        personalizer.use(Learned(base, personalizer.maker.index))
        return Lessons(personalizer, base, HOUR, Plan(**plan)), Replay(personalizer)

    def step(self, own: Lessons, replay: Replay, event: Event, propensity: float | None = None) -> list[RecommendedItem]:
        """Fold an event, publish its list, and give both to the lessons."""
        replay.fold([(int(event.event_id[1:]), event)])
        (items,) = own.personalizer.recommend({event.user_id: replay.records[event.user_id]}, float(event.at)).values()
        items = tuple(RecommendedItem(each.item_id, each.score, each.reason, propensity) for each in items)
        at = float(event.at)
        told = RecommendationList(
            list_id=event.event_id,
            user_id=event.user_id,
            items=items,
            event_id=event.event_id,
            event_at=at,
            published_at=at,
            model="m",
            covers=1,
        )
        own.happened([event])
        own.listed([Listed(replay.profiles([event.user_id])[0], told)])
        return list(items)

    def test_a_click_on_a_list_is_an_example(self) -> None:
        """Its places count by what was looked at, and its propensity is heeded; a dislike is no wish."""
        own, replay = self.lessons()
        first = self.step(own, replay, click(1, ITEMS[3]), propensity=0.5)
        own.happened([click(2, first[2].item_id, kind="dislike")])
        assert own.examples == 0
        own.happened([click(3, first[1].item_id)])
        assert own.examples == 1
        (made,) = [*own.rounds._held, *own.rounds.learner._waiting]
        index = own.personalizer.maker.index
        assert made.slot == index.slot(first[1].item_id)
        assert made.weight == 2.0
        against = dict(zip(made.shown.slots.tolist(), made.against.tolist(), strict=True))
        assert against[index.slot(first[0].item_id)] == 1.0
        assert against[index.slot(first[4].item_id)] == pytest.approx(0.9**3)

    def test_the_order_that_was_seen_last_is_learnt_from(self) -> None:
        """A list that was reread counts as it stood when it was touched, whether it comes with the other or later."""
        for is_together in (True, False):
            own, replay = self.lessons()
            event = click(1, ITEMS[3])
            replay.fold([(1, event)])
            (items,) = own.personalizer.recommend({"u": replay.records["u"]}, NOW + 1).values()
            given = {"list_id": "l", "user_id": "u", "event_id": "e1", "event_at": NOW + 1, "model": "m", "covers": 1}
            ranked = RecommendationList(**given, items=items, published_at=NOW + 1)  # type: ignore[arg-type]
            turned = RecommendationList(**given, items=items[::-1], published_at=NOW + 2, reread="judge")  # type: ignore[arg-type]
            lists = [Listed(replay.profiles(["u"])[0], ranked), Listed(None, turned)]
            touched = click(2, items[-1].item_id)
            own.happened([event, touched] if is_together else [event])  # who reads what has piled up knows the touch first
            for part in [lists] if is_together else [lists[:1], lists[1:]]:
                own.listed(part)
            own.happened([] if is_together else [touched])
            (made,) = [*own.rounds._held, *own.rounds.learner._waiting]
            against = dict(zip(made.shown.slots.tolist(), made.against.tolist(), strict=True))
            index = own.personalizer.maker.index
            assert against[index.slot(items[-2].item_id)] == pytest.approx(0.9)
            assert against[index.slot(items[0].item_id)] < 0.9

    def test_an_erased_user_leaves_nothing(self) -> None:
        """Neither open lists nor examples."""
        own, replay = self.lessons()
        items = self.step(own, replay, click(1, ITEMS[3]))
        self.step(own, replay, click(2, items[0].item_id))
        own.happened([Event(event_id="x", user_id="u", type="erase", at=NOW)])
        assert len(own.joins) == 0
        assert not [*own.rounds._held, *own.rounds.learner._waiting]

    def test_a_changed_habit_is_learnt_in_service(self) -> None:
        """People stop to follow the links that the model trusts: versions that trust what they do now take its place."""
        steps = Steps(batch=16, passes=2, rate=3e-2, keep=0.5)
        own, replay = self.lessons(round_s=90.0, users=10, steps=steps)
        base, served, number = own.rounds.base, [], 0
        for walker in range(120):
            for turn in range(3):
                number += 1
                event = click(number, ITEMS[(7 * walker + 5 * turn) % len(ITEMS)], user=f"u{walker}")
                before = own.rounds.number
                self.step(own, replay, event)
                if own.rounds.number > before:
                    served.append(own.rounds.service.head.version)
        assert set(served) - {base.head.version}
        held = list(own.rounds._held) + list(own.rounds.learner._waiting)
        assert (
            own.rounds.learner.figures(held, own.rounds.service).loss.mean()
            < own.rounds.learner.figures(held, base).loss.mean()
        )


def click(number: int, item_id: str, user: str = "u", kind: str = "click") -> Event:
    """Return a click, as many seconds after the others as its number says."""
    return Event(event_id=f"e{number}", user_id=user, type=kind, at=NOW + number, item_id=item_id)  # type: ignore[arg-type]
