"""Rows to tune on: which part each is of, and that nothing of dev or test is learnt from."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from streams.datasets import of
from streams.messages import Event, Item
from streams.tuning import fold_of
from streams.tuning_rows import (
    Pair,
    labelled_of_pairs,
    labelled_of_steps,
    lessons_of_pairs,
    lessons_of_steps,
    parts_of,
    steps_of,
    user_text,
)


def test_parts_lie_in_time() -> None:
    """Of rows with times all of dev comes after train, and test after dev; without times no user's text is in two parts."""
    timed = [Pair("u", "i", "1", float(at)) for at in np.random.default_rng(1).permutation(50)]
    latest = {
        part: [pair.at for pair, own in zip(timed, parts_of(timed), strict=True) if own == part]
        for part in ("train", "dev", "test")
    }
    assert max(latest["train"]) < min(latest["dev"]) <= max(latest["dev"]) < min(latest["test"])
    untimed = [Pair(f"u{i % 9}", "i", "1", None) for i in range(90)]
    own = {(pair.user, part) for pair, part in zip(untimed, parts_of(untimed), strict=True)}
    assert len(own) == 9


def an_event(number: int, user: str, item: str, **more: Any) -> Event:
    """Return a purchase, `number` seconds after the first."""
    return Event(event_id=str(number), user_id=user, type="purchase", at=1.6e9 + number, item_id=item, **more)


def test_events_become_steps_in_time() -> None:
    """A step holds what was touched and said before it; leave-one-out takes the last wanted item for test."""
    items = [Item(item_id=name, title=name.upper(), brand="b") for name in "abcd"]
    events = [an_event(0, "u", "a"), an_event(1, "u", "b", text="so good"), an_event(2, "u", "c"), an_event(3, "u", "d")]
    steps = steps_of(of("set", items, events), is_left_out=True)
    assert steps.texts == ["A. b", "B. b", "C. b", "D. b", "so good"]
    assert [(step.before, step.wanted, step.part) for step in steps.steps] == [
        ((0,), 1, "train"),
        ((0, 1, 4), 2, "dev"),
        ((0, 1, 4, 2), 3, "test"),
    ]
    assert user_text(steps.titles, steps.steps[2].before) == "C; so good; B; A"
    cut = steps_of(of("set", items, [*events, *(an_event(4 + i, f"v{i}", "a") for i in range(6))]))
    assert [step.part for step in cut.steps] == ["train"] * 3


def test_nothing_of_test_is_learnt_from() -> None:
    """Under leave-one-out no train row of a user knows what is held out of that user."""
    items = [Item(item_id=str(i), title=f"item {i}") for i in range(30)]
    order = np.random.default_rng(2)
    events = [
        an_event(9 * user + i, f"u{user}", str(item)) for user in range(40) for i, item in enumerate(order.permutation(30)[:5])
    ]
    steps = steps_of(of("set", items, events), is_left_out=True)
    held = {(step.user, step.wanted) for step in steps.steps if step.part != "train"}
    lessons = lessons_of_steps(steps)
    assert not held & {(question.group, number) for question in lessons.train for number in (*question.before, question.wanted)}
    pairs = labelled_of_steps(steps, seed=1)
    assert sum(pairs.labels[i] for i in pairs.train) == len(lessons.train) == 80
    assert sum(pairs.labels) * 2 == len(pairs.labels)


@pytest.mark.parametrize("task", ["retrieve", "match"])
def test_folds_leave_each_user_out_once(task: str) -> None:
    """Over all folds each row is in dev once, no user is on both sides, and test is left alone."""
    pairs = [Pair(f"u{i % 41}", f"item {i % 5}", str(i % 2), None) for i in range(210)]
    data = lessons_of_pairs(pairs) if task == "retrieve" else labelled_of_pairs(pairs)
    own = (lambda row: row.group) if task == "retrieve" else (lambda row: data.users[row])
    parts = [fold_of(data, number, 3, 1) for number in range(3)]
    assert Counter(row for part in parts for row in part.dev) == Counter([*data.train, *data.dev])
    for part in parts:
        assert not {own(row) for row in part.train} & {own(row) for row in part.dev}
        assert part.test == data.test
