"""The events and items of the topics, as a data set to train on: what workers would read, without what was erased.

Does not know models. Events are judged by the object that workers judge with.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from streams.datasets import Dataset, of
from streams.erasure import Erasures
from streams.forget import erasures
from streams.messages import BadMessage, Event, Item, decode_item
from streams.reading import records
from streams.rights import check_command_rights
from streams.screening import Screen
from streams.settings import Settings
from streams.topics import topics

AT_ONCE = 2_000


def from_topics(settings: Settings) -> Dataset:
    """Return what the topics of an installation hold now.

    Raises DatasetError when nothing belongs together, TopicError, RightsError, BrokerUnreachable.
    """
    check_command_rights(settings, "train --from-topics")
    found = of("topics", list(_items(settings).values()), _events(settings, erasures(settings)))
    return replace(found, rating_scale=settings.rating_scale)


def _items(settings: Settings) -> dict[str, Item]:
    items: dict[str, Item] = {}
    for record in records(settings, topics(settings).items):
        key = (record.key or b"").decode(errors="replace")
        try:
            if record.value:
                items[key] = decode_item(record.value)
            else:
                items.pop(key, None)
        except BadMessage:  # its dead letter is a worker's to write
            continue
    return items


def _events(settings: Settings, known: Erasures) -> list[Event]:
    """Return the events that a worker would fold, without those that an erasure covers, wherever it lies."""
    screen = Screen(known, settings.partitions)
    found = records(settings, topics(settings).events)
    kept = []
    while some := list(islice(found, AT_ONCE)):
        kept += [(sourced, record.timestamp / 1000.0) for sourced, record in screen.judge(some).events]
    return [
        sourced.event
        for sourced, at in kept
        if not known.covers(sourced.event.user_id, min(at, float(sourced.event.at)), sourced.partition, sourced.offset)
    ]
