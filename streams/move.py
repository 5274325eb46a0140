"""Copy an installation into topics of other names, which may have another number of partitions.

Kafka gives a key another partition when their number changes, and offsets mean nothing in another log. So records go where
their key belongs now, and lose what names a place in the old log: profiles and signals the offsets that they have counted up
to, an erasure where its event lies; it goes by its time from then on. That is safe only when the old log has nothing left to
count and nobody counts meanwhile: else the move is refused.

Not copied: events and interactions, which are counted; lists, which come anew with each user's next event; dead letters, whose
places are of the old log. One that was cut off is run again. Memory: the producer's buffer.

    MoveRefused(RuntimeError)   workers are live, or have not done all; or the new names are the old ones, or in use
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from kafka import KafkaProducer

from ranking.profile import without_watermarks
from streams.building import load_encoder
from streams.fence import is_mark
from streams.handover import commits, owners
from streams.history import GRACE_S
from streams.kafka import live_members, open_producer
from streams.messages import Erasure, decode_erasure, decode_signal, encode
from streams.reading import records
from streams.settings import Settings
from streams.terminal import bar
from streams.topics import Topic, create_topics, partition_of, topics

Turn = Callable[[bytes], bytes]


class MoveRefused(RuntimeError):  # noqa: N818  reads as what happened
    """A move that would lose something or count it twice."""


class Moved(NamedTuple):
    """How many records of each topic were copied, replaced ones among them."""

    items: int
    item_vectors: int
    item_signals: int
    erasures: int
    profiles: int


def move(settings: Settings, app_id: str, prefix: str) -> Moved:
    """Copy from the installation of another HEADRACE_APP_ID and HEADRACE_TOPIC_PREFIX into that of the settings.

    Raises MoveRefused, TopicError, RightsError, BrokerUnreachable, EncoderError.
    """
    old = settings.model_copy(update={"app_id": app_id, "topic_prefix": prefix})
    refuse_harm(old, settings)
    create_topics(settings)
    source, target = topics(old), topics(settings)
    turns: tuple[tuple[str, Turn], ...] = (
        ("items", bytes),
        ("item_vectors", bytes),
        ("item_signals", _signal),
        ("erasures", _erasure),
        ("profiles", without_watermarks),
    )
    with open_producer(settings, linger_ms=5) as producer, bar("copying") as advance:
        counts = {}
        for done, (name, turn) in enumerate(turns, 1):
            counts[name] = _copy(old, getattr(source, name), getattr(target, name), turn, producer)
            advance(done / len(turns))
    return Moved(**counts)


def refuse_harm(old: Settings, new: Settings) -> None:
    """Raise MoveRefused when something would be lost, or counted twice."""
    if old.app_id == new.app_id or old.topic_prefix == new.topic_prefix:
        raise MoveRefused(
            f"the topics of {old.app_id!r} with prefix {old.topic_prefix!r} stay as they are: set both HEADRACE_APP_ID "
            f"(now {new.app_id!r}) and HEADRACE_TOPIC_PREFIX (now {new.topic_prefix!r}) to names of the new installation"
        )
    if not commits(old):
        raise MoveRefused(
            f"no worker of group {old.app_id} has processed anything of {topics(old).events.name}: give the HEADRACE_APP_ID "
            "and (--prefix) the HEADRACE_TOPIC_PREFIX of the installation that is there"
        )
    for settings in (old, new):
        _refuse_live(settings)
    if commits(new):
        raise MoveRefused(f"workers of {new.app_id!r} have processed events already: choose a HEADRACE_APP_ID of its own")
    others = owners(commits(old)) - {load_encoder(new).id}
    if others:
        raise MoveRefused(
            f"group {old.app_id} works with encoder {', '.join(sorted(others))}: set HEADRACE_ENCODER to the one in use"
        )
    _refuse_lag(old)


def _refuse_live(settings: Settings) -> None:
    deadline = time.monotonic() + settings.session_timeout_s + GRACE_S  # of a worker that has stopped
    while members := live_members(settings):
        if time.monotonic() > deadline:
            raise MoveRefused(
                f"{len(members)} worker(s) run in group {settings.app_id} ({', '.join(members[:3])}): stop them when they have "
                "done all, and run this again"
            )
        time.sleep(0.5)


def _refuse_lag(old: Settings) -> None:
    named, committed = topics(old), commits(old)
    for topic in (named.events, named.items, named.interactions):
        after = {place.partition: told.offset for place, told in committed.items() if place.topic == topic.name}
        waiting = sum(1 for _ in records(old, topic, after=after))
        if waiting:
            raise MoveRefused(
                f"{waiting} records of {topic.name} are not processed yet: stop what sends to it, start the workers of "
                f"{old.app_id} until they have done them, stop the workers, and run this again"
            )


def _copy(old: Settings, source: Topic, target: Topic, turn: Turn, producer: KafkaProducer) -> int:
    """Copy a topic's records in order, and return how many there were; raise what the broker said."""
    failures: list[BaseException] = []
    count = 0
    for record in records(old, source):
        if record.key is None or is_mark(record):
            continue
        value = turn(record.value) if record.value else None
        partition = partition_of(record.key, target.partitions)
        sent = producer.send(target.name, key=record.key, value=value, partition=partition, timestamp_ms=record.timestamp)
        sent.add_errback(failures.append)
        count += 1
    producer.flush()
    if failures:
        raise failures[0]
    return count


def _signal(value: bytes) -> bytes:
    return encode(msgspec.structs.replace(decode_signal(value), sources={}))


def _erasure(value: bytes) -> bytes:
    return encode(Erasure(at=decode_erasure(value).at, partition=0, offset=-1))  # no event lies there or before it
