"""Erase a user from outside a worker: send the event, wait until it is done, and take the user's dead letters away.

Does not delete profiles and lists: the worker that owns the user's partition does, when it comes to the event.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from kafka import TopicPartition

from streams.erasure import Erasures, is_letter_of
from streams.kafka import live_members, open_consumer, open_producer
from streams.messages import ERASE, DeadLetter
from streams.reading import records
from streams.rights import check_command_rights
from streams.rows import Row
from streams.sending import send_events
from streams.settings import Settings
from streams.topics import check_topics, topics

LOOK_S = 0.5

_letters = msgspec.json.Decoder(DeadLetter)


class Place(NamedTuple):
    """Where an erase event lies."""

    topic: str
    partition: int
    offset: int


def request(settings: Settings, user_id: str, *, is_awaited: bool = False) -> Place:
    """Send a user's erase event and return its place; where `wait` is to follow, what it needs is checked, too.

    Raises BadMessage, TopicError, RightsError, BrokerUnreachable.
    """
    check_command_rights(settings, "erase --wait" if is_awaited else "erase")
    names = topics(settings)
    check_topics(settings, [names.events, names.dead_letters])  # one that is not compacted would keep what is erased
    ((_, sent),) = send_events(settings, [Row(0, {"user_id": user_id, "type": ERASE}, 1.0)])
    found = sent.get(timeout=settings.connect_timeout_s)
    return Place(found.topic, found.partition, found.offset)


def wait(settings: Settings, place: Place) -> Iterator[bool]:
    """Return when the workers have committed the event, and so all that lies before it; yield whether any runs until then."""
    partition = TopicPartition(place.topic, place.partition)
    with open_consumer(settings, group_id=settings.app_id) as consumer:
        consumer.assign([partition])
        while (consumer.committed(partition) or 0) <= place.offset:
            yield bool(live_members(settings))
            time.sleep(LOOK_S)


def erase_letters(settings: Settings, user_id: str) -> int:
    """Delete the dead letters of a user's events and return how many they were. Raises TopicError, BrokerUnreachable."""
    events, letters = topics(settings).events.name, topics(settings).dead_letters
    newest: dict[tuple[int, bytes], bool] = {}
    for record in records(settings, letters):
        if record.key is not None:  # one without a key goes with the first compaction
            newest[record.partition, record.key] = _is_of(record, events, user_id)
    with open_producer(settings) as producer:
        sent = [
            producer.send(letters.name, key=key, value=None, partition=partition)
            for (partition, key), is_of_user in newest.items()
            if is_of_user
        ]
    for future in sent:
        future.get(timeout=settings.connect_timeout_s)
    return len(sent)


def erasures(settings: Settings) -> Erasures:
    """Return the erasures that are known now. Raises TopicError, BrokerUnreachable."""
    known = Erasures()
    for record in records(settings, topics(settings).erasures):
        known.read(record.key or b"", record.value)
    return known


def _is_of(record: Any, events: str, user_id: str) -> bool:
    if not record.value:
        return False
    try:
        letter = _letters.decode(record.value)
    except (msgspec.DecodeError, UnicodeDecodeError):  # no worker wrote it
        return False
    return letter.topic == events and is_letter_of(letter, user_id)
