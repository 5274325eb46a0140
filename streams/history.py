"""Fold a file of past events into profiles, with the same Personalizer that workers run.

Does not know how a fold works. Profiles are written to the profile table's changelog while no worker runs: that topic *is* the
table, and a worker that starts reads it on from where its local store stopped, so nothing else has to learn of an import. Live
workers would overwrite what they read from memory, so they are refused, before the first partition and again before each.

Each event of the file has a place of its own, (a number made of the file's content and the partition, its row in time order),
and the profile's watermark of that place counts it once: an import that was cut off is repeated with `merge`.

Nothing of an erased user is imported, of whatever time: history is what the erasure was about.

    ImportRefused(RuntimeError)   workers are live, profiles are there already, or no item is known: says the steps
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from kafka import KafkaProducer

from streams.forget import erasures
from streams.kafka import live_members, open_producer
from streams.messages import ERASE, BadMessage, Event, Interaction, encode
from streams.personalizer import Personalizer, Sourced
from streams.reading import records
from streams.rights import check_command_rights
from streams.rows import RowError, rows
from streams.sending import event_of
from streams.settings import Settings
from streams.signals import parcels
from streams.topics import check_topics, partition_of, topics

GRACE_S = 2.0  # Kafka looks for ended sessions about once a second


class ImportRefused(RuntimeError):  # noqa: N818  reads as what happened
    """An import that would harm what is there."""


class History(NamedTuple):
    """A file's events in time order, `digest` of its content, and what was left out (row number and reason)."""

    events: list[Event]
    digest: bytes
    left_out: list[str]


class Done(NamedTuple):
    """What an import did: events folded, events that the profiles knew already, users written, events of erased users."""

    folded: int
    replayed: int
    users: int
    erased: int


def read(
    path: Path,
    now: float,
    *,
    columns: Mapping[str, str],
    event_type: str | None = None,
    skip_bad: bool = False,
    progress: Callable[[float], None] = lambda share: None,
) -> History:
    """Return a file's events, all of them in memory; `event_type` is for files without a type column.

    Raises RowError, and BadMessage with the row's number unless `skip_bad`.
    """
    if str(path) == "-":
        raise RowError("an import reads its file twice: give a path, not -")
    given = {} if event_type is None else {"type": event_type}
    events, left_out, digest = [], [], hashlib.blake2b(digest_size=16)
    for row in rows(path, columns):
        try:
            # The row's number stands in for a missing id: the same file gives the same ids again.
            event = event_of({"event_id": f"{path.name}:{row.number}", **given, **row.values}, now)
            if event.type == ERASE:
                raise BadMessage("an erase event is no history: run `headrace erase` with the user's id")
        except BadMessage as error:
            if not skip_bad:
                raise BadMessage(f"{path} row {row.number}: {error}; --skip-bad leaves such rows out") from None
            left_out.append(f"row {row.number}: {error}")
            continue
        events.append(event)
        digest.update(encode(event))
        progress(row.done)
    events.sort(key=lambda event: float(event.at))  # stable: rows of one second keep the file's order
    return History(events, digest.digest(), left_out)


def refuse_harm(settings: Settings, *, merge: bool) -> None:
    """Raise ImportRefused when workers are live, or profiles are there and `merge` is not asked for.

    Raises TopicError and RightsError, too.
    """
    check_command_rights(settings, "import")
    check_topics(settings)
    # A worker that stopped stays in the group until its session ends: that is how a restarted one gets its partitions back.
    _refuse_live(settings, settings.session_timeout_s + GRACE_S)
    # A worker that has only started leaves the records of its fences there, and these have no value.
    there = next((record for record in records(settings, topics(settings).profiles) if record.value), None)
    if there is not None and not merge:
        raise ImportRefused(
            f"topic {there.topic} holds profiles already: --merge folds the history into them; "
            "or delete the topic, run `headrace topics --create` and import again"
        )


def run(
    settings: Settings,
    personalizer: Personalizer,
    history: History,
    *,
    merge: bool,
    progress: Callable[[int], None] = lambda events: None,
) -> Done:
    """Fold a history and write its profiles and interactions, one partition after the other. Raises ImportRefused."""
    refuse_harm(settings, merge=merge)
    known = erasures(settings)
    kept = [event for event in history.events if known.of(event.user_id) is None]
    total = Counter(erased=len(history.events) - len(kept))
    progress(total["erased"])
    shares: dict[int, list[Event]] = {}
    for event in kept:
        shares.setdefault(partition_of(event.user_id.encode(), settings.partitions), []).append(event)
    with open_producer(settings, linger_ms=5) as producer:
        for partition, events in sorted(shares.items()):
            _refuse_live(settings)
            profiles = _stored(settings, partition, {event.user_id for event in events}) if merge else {}
            place = _place(history.digest, partition)
            writes = _Writes(settings, producer)
            changed: dict[str, bytes] = {}
            for batch in _batches(_sourced(events, place), settings.backlog_batch_size):
                readings = personalizer.encode([sourced.event for sourced in batch])
                done = personalizer.fold(_of(batch, profiles), batch, readings)
                profiles |= done.records
                changed |= done.records
                writes.interactions(done.interactions)
                total.update(folded=done.folded, replayed=done.replayed)
                progress(len(batch))
            writes.profiles(changed, partition)
            total.update(users=len(changed))
    return Done(total["folded"], total["replayed"], total["users"], total["erased"])


class _Writes:
    """Sends of one partition, each checked for its acknowledgement before the next partition begins."""

    def __init__(self, settings: Settings, producer: KafkaProducer) -> None:
        self.topics = topics(settings)
        self.producer = producer
        self.failures: list[BaseException] = []

    def interactions(self, interactions: Sequence[Interaction]) -> None:
        topic = self.topics.interactions
        for partition, value in parcels(interactions, lambda key: partition_of(key, topic.partitions)):
            self.producer.send(topic.name, value=value, partition=partition).add_errback(self.failures.append)

    def profiles(self, profiles: Mapping[str, bytes], partition: int) -> None:
        # Interactions first: should we end in between, a repeated import sends them again and their count drops the doubles;
        # the other way round, the watermarks of written profiles would keep them from ever being sent.
        self._acknowledged()
        for user_id, record in profiles.items():
            sent = self.producer.send(self.topics.profiles.name, key=user_id.encode(), value=record, partition=partition)
            sent.add_errback(self.failures.append)
        self._acknowledged()

    def _acknowledged(self) -> None:
        self.producer.flush()
        if self.failures:
            raise self.failures[0]


def _refuse_live(settings: Settings, wait_s: float = 0.0) -> None:
    deadline = time.monotonic() + wait_s
    while members := live_members(settings):
        if time.monotonic() > deadline:
            raise ImportRefused(
                f"{len(members)} worker(s) run in group {settings.app_id} ({', '.join(members[:3])}): stop them, import, "
                "start them again; the embedded broker takes stopped ones for running until it is restarted itself"
            )
        time.sleep(0.5)


def _stored(settings: Settings, partition: int, users: set[str]) -> dict[str, bytes]:
    stored = {}
    for record in records(settings, topics(settings).profiles, partition):
        user_id = (record.key or b"").decode(errors="replace")
        if user_id in users and record.value:
            stored[user_id] = record.value
        elif user_id in users:
            stored.pop(user_id, None)
    return stored


def _place(digest: bytes, partition: int) -> int:
    # Negative, so that no partition of the events topic is ever mistaken for it; 48 bits stay exact in any JSON reader.
    return -1 - int.from_bytes(hashlib.blake2b(digest + partition.to_bytes(4, "big"), digest_size=6).digest(), "big")


def _sourced(events: Sequence[Event], place: int) -> Iterator[Sourced]:
    return (Sourced(event, place, offset) for offset, event in enumerate(events))


def _batches(sourced: Iterator[Sourced], size: int) -> Iterator[list[Sourced]]:
    while batch := list(islice(sourced, size)):
        yield batch


def _of(batch: Sequence[Sourced], profiles: Mapping[str, bytes]) -> dict[str, bytes | None]:
    return {sourced.event.user_id: profiles.get(sourced.event.user_id) for sourced in batch}
