"""What is asked of a recommender: cut a data set into what is known and what is wanted.

Knows no recommender and no figure. Each protocol makes a Trial: events in time order, and cases, each of which may be answered
from the events before its place only. Validation is cut from what is known to the test, so that choices made on it never see
a test event.

| protocol | known | a case |
|---|---|---|
| leave-one-out | all events but each user's last (test) or last two (validation) | each user's last (or last but one) event |
| split | the first 80 % of events (validation: 70 %) | a known user's new items in the rest (validation: the next 10 %) |
| stream | all events before the case, those of the test span too | each event of that rest with an item new to its user |
| given | the events before the first row asked | a row of the set's own, with the history that it gives |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from streams.datasets import DAY_S, END, Dataset, DatasetError, in_order
from streams.messages import Event

Part = Literal["valid", "test"]
TEST_FROM = 0.8  # share of the events, as the published time splits have it
VALID_FROM = 0.7


class Case(NamedTuple):
    """One list to be made and judged.

    place: how many of the trial's events are known; at: Unix seconds of the question; wanted: item ids, at least one; known:
    how many distinct items the user had touched by then. history: the user's events where the set gives them, in place of the
    trial's; they are of a user `user_id` made up for the case, the real one is `person`.
    """

    user_id: str
    place: int
    at: float
    wanted: tuple[str, ...]
    known: int
    history: tuple[Event, ...] | None = None
    person: str = ""


@dataclass(frozen=True)
class Trial:
    """events: in time order; cases: by place. from_known: whether the main figure leaves users without history out."""

    protocol: str
    part: Part
    events: Sequence[Event]
    cases: Sequence[Case]
    from_known: bool = False

    @property
    def start(self) -> int:
        """How many events are known to every case."""
        return self.cases[0].place

    @property
    def known(self) -> Sequence[Event]:
        """The events that are known to every case: what a model may be trained on."""
        return self.events[: self.start]

    @property
    def main(self) -> list[bool]:
        """Whether each case counts for the main figures."""
        return [case.known > 0 or not self.from_known for case in self.cases]


def trial(dataset: Dataset, protocol: str = "", part: Part = "test", *, again: bool = False) -> Trial:
    """Return the trial of a set by a protocol, its own when empty.

    again: whether an item that the user had before may be wanted (it may stand in the list, which is then not masked). Raises
    DatasetError when the protocol is unknown or nothing is to be asked.
    """
    name = protocol or dataset.protocols[0]
    if name not in PROTOCOLS:
        raise DatasetError(f"there is no protocol {name!r}: give one of {', '.join(PROTOCOLS)}")
    made = PROTOCOLS[name](dataset, part, again)
    if not made.cases:
        raise DatasetError(
            f"{dataset.name}: the {name} protocol finds nothing to ask among {len(dataset.events)} events: give more of them, "
            "or another protocol"
        )
    if not any(made.main):
        raise DatasetError(
            f"{dataset.name}: none of the {len(made.cases)} users that the {name} protocol asks for did anything before: give "
            "events of a longer time, or the protocol stream"
        )
    return made


def _leave_one_out(dataset: Dataset, part: Part, again: bool) -> Trial:
    own: dict[str, list[int]] = {}
    for place, event in enumerate(dataset.events):
        if dataset.is_wanted(event):
            own.setdefault(event.user_id, []).append(place)
    held = 1 if part == "test" else 2
    left_out = {place for places in own.values() for place in places[1:][-held:]}
    asked = [places for places in own.values() if len(places) > held]
    events = [event for place, event in enumerate(dataset.events) if place not in left_out]
    cases = [_last_of(dataset, places[: 1 - held or None], len(events)) for places in asked]
    return Trial("leave-one-out", part, events, sorted(cases, key=lambda case: case.at))


def _last_of(dataset: Dataset, places: Sequence[int], known: int) -> Case:
    """Return the case that asks for the last of a user's events, when `known` events of the trial are known."""
    *before, last = [dataset.events[place] for place in places]
    return Case(last.user_id, known, float(last.at), (last.item_id or "",), len({event.item_id for event in before}))


def _split(dataset: Dataset, part: Part, again: bool) -> Trial:
    start, end = _span(dataset, part)
    had = _had(dataset, dataset.events[:start])
    wanted: dict[str, dict[str, None]] = {}
    for event in dataset.events[start:end]:
        if dataset.is_wanted(event) and event.item_id and (again or event.item_id not in had.get(event.user_id, ())):
            wanted.setdefault(event.user_id, {})[event.item_id] = None
    at = float(dataset.events[start].at)
    cases = [Case(user, start, at, tuple(own), len(had.get(user, ()))) for user, own in wanted.items()]
    return Trial("split", part, dataset.events[:start], cases, from_known=True)


def _stream(dataset: Dataset, part: Part, again: bool) -> Trial:
    start, end = _span(dataset, part)
    had = _had(dataset, dataset.events[:start])
    cases = []
    for place in range(start, end):
        event = dataset.events[place]
        own = had.setdefault(event.user_id, set())
        if dataset.is_wanted(event) and event.item_id and (again or event.item_id not in own):
            cases.append(Case(event.user_id, place, float(event.at), (event.item_id,), len(own)))
        if event.item_id:
            own.add(event.item_id)
    return Trial("stream", part, dataset.events[:end], cases)


def _given(dataset: Dataset, part: Part, again: bool) -> Trial:
    """Before the test, what the rows of the validation asked for is known too, as their users' next events."""
    known = list(dataset.events)
    for n, row in enumerate(dataset.rows):
        if part == "test" and row.part == "valid":
            at = END + n  # the rows' order is that of time
            known.append(Event(event_id=f"row-{n}", user_id=row.user_id, type="purchase", at=at, item_id=row.wanted))
    at = END + DAY_S
    cases = [
        Case(
            f"case-{n}",
            len(known),
            at,
            (row.wanted,),
            len(set(row.history)),
            tuple(in_order(f"case-{n}", row.history)),
            row.user_id,
        )
        for n, row in enumerate(dataset.rows)
        if row.part == part
    ]
    return Trial("given", part, known, cases)


PROTOCOLS: dict[str, Callable[[Dataset, Part, bool], Trial]] = {
    "leave-one-out": _leave_one_out,
    "split": _split,
    "stream": _stream,
    "given": _given,
}


def _span(dataset: Dataset, part: Part) -> tuple[int, int]:
    count = len(dataset.events)
    test = int(TEST_FROM * count)
    return (test, count) if part == "test" else (int(VALID_FROM * count), test)


def _had(dataset: Dataset, events: Sequence[Event]) -> dict[str, set[str]]:
    """Return the items that each user touched."""
    had: dict[str, set[str]] = {}
    for event in events:
        if event.item_id:
            had.setdefault(event.user_id, set()).add(event.item_id)
    return had
