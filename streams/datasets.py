"""What is measured on: items, and the events of their users in time order; read from files of one's own.

Knows no protocol, figure or published format (`streams/formats.py` reads those). Order is all that some sets tell of time:
their events get times a day apart that end at one moment for all users (`in_order`).

    DatasetError(ValueError)   files that are no data set, or not a whole one: says what is expected
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from streams import history
from streams.messages import BadMessage, Event, Item
from streams.rows import rows
from streams.sending import item_of

END = 1_577_836_800.0  # 2020-01-01: the moment at which order alone ends
DAY_S = 86_400.0
SCALES = (
    (5.0, (1.0, 5.0), 4.0),
    (10.0, (1.0, 10.0), 7.0),
    (100.0, (1.0, 100.0), 70.0),
)  # highest rating seen, scale, wanted from


class DatasetError(ValueError):
    """Files that are no data set: what was looked for, what was found, and what to give."""


class GivenRow(NamedTuple):
    """A question that a set asks itself. part: `valid` or `test`; history: item ids, oldest first; wanted: an item id."""

    part: str
    user_id: str
    history: tuple[str, ...]
    wanted: str


@dataclass(frozen=True)
class Dataset:
    """Items and events, and how they are meant to be asked.

    events: in time order, each with `at` in Unix seconds. rows: questions of the set's own, with histories; the events are then
    what was known before the first of them. protocols: of `streams/trial.py`, the first is the set's own; k: length of lists.
    both_masks: whether published results leave the user's history in the list too.
    rating_scale: worst and best; least: the rating from which on an item counts as wanted.
    """

    name: str
    items: list[Item]
    events: list[Event]
    protocols: tuple[str, ...] = ("split",)
    k: int = 20
    rows: list[GivenRow] = field(default_factory=list)
    both_masks: bool = False
    rating_scale: tuple[float, float] = (1.0, 5.0)
    least: float = 4.0

    def is_wanted(self, event: Event) -> bool:
        """Tell whether an event says that its user wanted the item."""
        if event.item_id is None or event.type in ("dislike", "impression", "search", "wish", "ask", "comment"):
            return False
        return event.rating is None or event.rating >= self.least


def in_order(user_id: str, item_ids: Sequence[str], end: float = END, kind: str = "purchase") -> list[Event]:
    """Return a user's events of which only the order is known: a day apart, the last one at `end` (Unix seconds)."""
    first = end - DAY_S * (len(item_ids) - 1)
    return [
        Event(event_id=f"{user_id}/{place}", user_id=user_id, type=kind, at=first + DAY_S * place, item_id=item_id)  # type: ignore[arg-type]
        for place, item_id in enumerate(item_ids)
    ]


def by_time(events: Sequence[Event]) -> list[Event]:
    """Return the events in time order; those of one moment keep theirs."""
    return sorted(events, key=lambda event: float(event.at))


def scale_of(events: Sequence[Event]) -> tuple[tuple[float, float], float]:
    """Return the scale that the events' ratings are on, by the highest of them, and the rating from which an item is wanted."""
    highest = max((event.rating for event in events if event.rating is not None), default=0.0)
    for most, scale, least in SCALES:
        if highest <= most:
            return scale, least
    raise DatasetError(f"the highest rating is {highest:g}: ratings up to {SCALES[-1][0]:g} are read, scale them")


def from_files(
    events: Path,
    items: Path,
    *,
    columns: Mapping[str, str] | None = None,
    event_type: str | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Dataset:
    """Return the data set of a file of events and one of items, each csv, jsonl or parquet, as `headrace import` reads them.

    columns: our names -> the files'; event_type: of all events, for a file without types. Raises RowError, BadMessage,
    DatasetError.
    """
    names = columns or {}
    read = history.read(events, time.time(), columns=names, event_type=event_type, progress=progress).events
    return of(events.stem, items_of(items, names), read)


def items_of(path: Path, columns: Mapping[str, str]) -> list[Item]:
    """Return a file's items. Raises RowError, and BadMessage with the row's number."""
    made = []
    for row in rows(path, columns):
        try:
            made.append(item_of(row.values))
        except BadMessage as error:
            raise BadMessage(f"{path} row {row.number}: {error}") from None
    return made


def of(name: str, items: list[Item], events: list[Event], protocols: tuple[str, ...] = ("split", "stream")) -> Dataset:
    """Return the data set of items and events of any kind. Raises DatasetError when they do not belong together."""
    if not events or not items:
        raise DatasetError(f"{name}: there are {len(events)} events and {len(items)} items: give some of both")
    known = {item.item_id for item in items}
    touched = {event.item_id for event in events if event.item_id is not None}
    if not touched & known:
        raise DatasetError(
            f"{name}: none of the {len(touched)} items of the events, as {min(touched, default='')!r}, is among the "
            f"{len(known)} items: their item_id columns have to hold the same ids"
        )
    scale, least = scale_of(events)
    return Dataset(name, items, by_time(events), protocols, rating_scale=scale, least=least)
