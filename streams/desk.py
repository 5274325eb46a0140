"""Where all agents send from: dead letters, and what they have in common.

Does not know Faust, nor what an event means.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from streams.batching import Outbox, Outgoing
from streams.inlet import Record
from streams.messages import DeadLetter, encode
from streams.metrics import Metrics
from streams.topics import Topics

log = logging.getLogger("headrace.agents")

RAW_MOST = 500_000  # bytes of a dead letter's raw value: in base64 it has to fit Kafka's 1 MB
SEND_MOST = 900_000  # bytes of a value that we send on: the header and the batch around it have to fit too


class Refused(NamedTuple):
    """A record that cannot be processed. kind: for counting."""

    record: Record
    kind: str
    reason: str


class Desk:
    """Where agents send: counts, routes by key and makes dead letters."""

    def __init__(self, outbox: Outbox, topics: Topics, metrics: Metrics) -> None:
        self.outbox = outbox
        self.topics = topics
        self.metrics = metrics
        self._dead = topics.dead_letters

    def dead_letters(self, refused: Sequence[Refused]) -> list[Outgoing]:
        """Return the dead letters of refused records, and say so in the log."""
        letters = []
        for record, kind, reason in refused:
            raw = record.value or b""
            if len(raw) > RAW_MOST:
                reason += f" (raw holds the first {RAW_MOST} of {len(raw)} bytes)"
            letter = DeadLetter(
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                reason=reason,
                raw=raw[:RAW_MOST],
                key=record.key,
            )
            place = f"{record.topic}[{record.partition}]@{record.offset}"  # a letter that is written again replaces itself
            letters.append(Outgoing(self._dead.name, record.offset % self._dead.partitions, place.encode(), encode(letter)))
            self.metrics.dead_letters.labels(record.topic, kind).inc()
            log.warning("dead letter: %s/%d@%d %s", record.topic, record.partition, record.offset, reason)
        return letters


def reason_of(what: str, error: Exception) -> str:
    """Return a dead letter's reason for an error."""
    return f"cannot be {what}: {type(error).__name__}: {error}"
