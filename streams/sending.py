"""Check events and items and put them on their topics, from rows of a file or one by one.

Does not know files or terminals. Every message passes the check that a worker would make, before anything of it is sent.

    BadMessage   a row that is no event or item: carries the row's number
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from streams.kafka import open_producer
from streams.messages import BadMessage, Event, Item, decode_event, decode_item
from streams.rights import WRITE, check_right
from streams.rows import Row
from streams.settings import Settings
from streams.topics import Topic, check_topics, topics

NUMBERS = ("rating", "progress")  # csv cells are text; these become numbers, `at` may stay text
ID_FIELDS = ("event_id", "user_id", "item_id", "list_id")
ITEM_FIELDS = frozenset(Item.__struct_fields__)


def event_of(values: dict[str, Any], now: float) -> Event:
    """Return the checked event of a row's values; a missing event_id is made up, a missing `at` is `now`. Raises BadMessage."""
    given = _with_text_ids({"event_id": uuid.uuid4().hex, "at": now, **values})
    for name in NUMBERS:
        if isinstance(given.get(name), str):
            given[name] = _number(name, given[name])
    if isinstance(given["at"], str) and is_number(given["at"]):
        given["at"] = float(given["at"])
    return decode_event(_json(given), now)


def item_of(values: dict[str, Any]) -> Item:
    """Return the checked item of a row's values; columns that no item has become attributes. Raises BadMessage."""
    given = _with_text_ids({name: value for name, value in values.items() if name in ITEM_FIELDS})
    others = {name: _plain(value) for name, value in values.items() if name not in ITEM_FIELDS}
    if isinstance(given.get("tags"), str):
        given["tags"] = [tag.strip() for tag in given["tags"].split("|") if tag.strip()]
    if isinstance(given.get("available"), str):
        given["available"] = _truth(given["available"])
    if isinstance(given.get("attributes"), str):
        raise BadMessage("attributes is text: give each attribute a column of its own")
    if others:
        given["attributes"] = {**others, **given.get("attributes", {})}
    return decode_item(_json(given))


def send_events(settings: Settings, rows: Iterable[Row], now: float | None = None) -> Iterator[tuple[Row, Any]]:
    """Send a row's event, keyed by user_id, and yield the row and the future of its place. Raises BadMessage, TopicError."""
    yield from _send(settings, topics(settings).events, rows, lambda values: _keyed_event(values, now))


def send_items(settings: Settings, rows: Iterable[Row]) -> Iterator[tuple[Row, Any]]:
    """Send a row's item, keyed by item_id, and yield the row and the future of its place. Raises BadMessage, TopicError."""
    yield from _send(settings, topics(settings).items, rows, _keyed_item)


def delete_items(settings: Settings, item_ids: Iterable[str]) -> int:
    """Send the deletion of each item and return how many were sent. Raises TopicError."""
    rows = (Row(number, {"item_id": item_id}, 0.0) for number, item_id in enumerate(item_ids, 1))
    return len([None for _ in _send(settings, topics(settings).items, rows, lambda values: (values["item_id"], None))])


def _keyed_event(values: dict[str, Any], now: float | None) -> tuple[str, bytes]:
    event = event_of(values, time.time() if now is None else now)
    return event.user_id, msgspec.json.encode(event)


def _keyed_item(values: dict[str, Any]) -> tuple[str, bytes]:
    item = item_of(values)
    return item.item_id, msgspec.json.encode(item)


def _send(settings: Settings, topic: Topic, rows: Iterable[Row], keyed: Any) -> Iterator[tuple[Row, Any]]:
    check_right(settings, WRITE, topic.name)
    check_topics(settings, [topic])
    failures: list[BaseException] = []
    with open_producer(settings, linger_ms=5) as producer:
        for row in rows:
            try:
                key, value = keyed(row.values)
            except BadMessage as error:
                raise BadMessage(f"row {row.number}: {error}" if row.number else str(error)) from None
            future = producer.send(topic.name, key=key.encode(), value=value)
            future.add_errback(failures.append)
            yield row, future
            if failures:
                raise failures[0]
    if failures:
        raise failures[0]


def _with_text_ids(values: dict[str, Any]) -> dict[str, Any]:
    # Tables often hold ids as integers; on the topics they are text.
    return {name: str(value) if name in ID_FIELDS and type(value) is int else value for name, value in values.items()}


def _json(values: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(values)
    except (TypeError, UnicodeEncodeError) as error:  # a parquet column of some other type, a lone surrogate
        raise BadMessage(str(error)) from None


def _number(name: str, text: str) -> float:
    if not is_number(text):
        raise BadMessage(f"{name} is {text[:40]!r}: a number is needed")
    return float(text)


def is_number(text: str) -> bool:
    """Tell whether a text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _truth(text: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.strip().lower() not in known:
        raise BadMessage(f"available is {text[:40]!r}: give true or false")
    return known[text.strip().lower()]


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, str) and is_number(value) else value
