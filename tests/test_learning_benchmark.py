"""The benchmark of learning: what it makes of answers, and the bots that it adds."""

from __future__ import annotations

import io
import json
from collections import Counter

import numpy as np
from planted import NOW
from rich.console import Console
from school import ITEMS, by_hand, world

from benchmarks.learning import BOT, BOTS, NOWHERE, SPAN, Answer, Run, Stream, line, poisoned, table
from ranking.online import Steps
from ranking.rounds import Plan
from streams.messages import Event
from streams.training import Replay


def clicks(users: int, each: int, step: int) -> list[Event]:
    """Return walks over the items, of all users side by side."""
    return [
        Event(
            event_id=f"{user}-{turn}",
            user_id=f"u{user}",
            type="click",
            at=NOW + users * turn + user,
            item_id=ITEMS[(7 * user + step * turn) % len(ITEMS)],
        )
        for turn in range(each)
        for user in range(users)
    ]


def test_both_models_are_asked_from_one_profile_and_one_of_them_learns() -> None:
    """A model that trusts links that nobody follows is left behind by the one that learns, which begins as the same."""
    steps = Steps(batch=16, passes=2, rate=3e-2, keep=0.5)
    own = Stream(Replay(world()), by_hand({"follow_links_last": 3.0}), lambda event: True, Plan(60.0, users=12, steps=steps))
    run = own.play(clicks(60, 4, 5), 0)
    assert len(run.answers) == 240
    first = run.rounds[0]
    assert any(each.chosen is not None for each in run.rounds)
    before = [answer for answer in run.answers if answer.place < 60]
    assert first.number == 1
    assert all(answer.frozen == answer.online for answer in before)
    assert any(answer.frozen != answer.online for answer in run.answers)


def test_bots_make_the_share_that_was_asked_for() -> None:
    """A tenth of the events of the span, in threes that end with the one item; people's events stay as they are."""
    people = clicks(200, 40, 1)
    mixed = poisoned(people, 1_000, 0.1, "i07")
    bots = [event for event in mixed if event.user_id.startswith(BOT)]
    assert [event for event in mixed if not event.user_id.startswith(BOT)] == people[1_000:]
    span = (SPAN[1] - SPAN[0]) * 7_000 + len(bots)
    assert 0.07 < len(bots) / span < 0.13
    assert set(Counter(event.user_id for event in bots).values()) == {BOTS}
    assert sum(event.item_id == "i07" for event in bots) >= len(bots) / BOTS
    assert len({event.event_id for event in mixed}) == len(mixed)


def test_figures_are_of_the_answers() -> None:
    """Recall by tenth and over all, as a table and as JSON, with the gain of the one over the other."""
    run = Run([Answer(n, f"u{n}", 0 if n % 4 == 0 else NOWHERE, 3 if n % 2 == 0 else NOWHERE) for n in range(200)])
    figures = json.loads(line(run, set="walks"))
    assert figures["frozen_recall@20"][0] == 0.25
    assert figures["learning_recall@20"][0] == 0.5
    assert np.isclose(figures["gain"][0], 0.25)
    assert figures["set"] == "walks"
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(table(run))
    assert "0.2500" in console.export_text()
