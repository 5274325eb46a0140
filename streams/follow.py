"""A worker's follower: reads item-vectors, item-signals and erasures whole, outside the group, into what the worker knows.

Does not know users or events. Keeps a snapshot of items and signals with the offsets that they hold, so that a restart reads
on from there; erasures are few, and read from their beginning. How that snapshot is kept is `state`'s affair.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from mode import Service

from ranking.index import ItemIndex
from ranking.signals import Signals
from streams import catalogue, signals
from streams.batching import die
from streams.connection import connection
from streams.erasure import Erasures
from streams.memory import give_back
from streams.messages import ItemVector, NewerMessage, decode_signal, decode_vector
from streams.metrics import Metrics
from streams.settings import Settings
from streams.state import Offsets, StateFolder
from streams.topics import Topic

log = logging.getLogger("headrace.follow")

FETCH_MS = 200
FETCH_MOST = 2_000  # records applied at once: about 0.1 s for 2,000 new vectors


class Follower(Service):  # type: ignore[misc]  # mode is untyped to mypy here
    """Follows the topics from its start to its stop. `caught_up` is set when all is applied that was there at the start.

    topics: item-vectors, item-signals and erasures.
    """

    def __init__(
        self,
        settings: Settings,
        topics: Sequence[Topic],
        index: ItemIndex,
        counted: Signals,
        erasures: Erasures,
        state: StateFolder,
        offsets: Offsets,
        metrics: Metrics,
    ) -> None:
        super().__init__()
        self.caught_up = asyncio.Event()
        self._settings, self._topics = settings, topics
        self._index, self._signals, self._erasures, self._state, self._metrics = index, counted, erasures, state, metrics
        self._positions: Offsets = dict(offsets)
        self._moved = asyncio.Condition()
        self._applying = ThreadPoolExecutor(1, "follow")
        self._saved: Offsets = dict(offsets)
        self._consumer: AIOKafkaConsumer | None = None
        self._ended = asyncio.Event()

    def lag(self) -> int:
        """Return how many records are fetched or known and not applied."""
        if self._consumer is None:
            return 0
        lags = [
            (self._consumer.highwater(tp) or 0) - self._positions.get((tp.topic, tp.partition), 0) for tp in self._partitions()
        ]
        return sum(max(0, lag) for lag in lags)

    async def catch_up(self, topic: Topic | None = None) -> None:
        """Return when everything is applied that the topics, or only one of them, hold now."""
        if self._consumer is None:
            raise RuntimeError("the follower has not started")
        ends = await self._consumer.end_offsets([tp for tp in self._partitions() if topic is None or tp.topic == topic.name])
        async with self._moved:
            await self._moved.wait_for(
                lambda: all(self._positions.get((tp.topic, tp.partition), 0) >= end for tp, end in ends.items())
            )

    async def on_start(self) -> None:
        """Begin to read where the snapshot ends."""
        self._consumer = AIOKafkaConsumer(
            **connection(self._settings), group_id=None, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        await self._consumer.start()
        self._consumer.assign(self._partitions())
        # All in one request: seek_to_beginning took 0.5 s a partition.
        for tp, first in (await self._consumer.beginning_offsets(self._partitions())).items():
            self._consumer.seek(tp, self._positions.get((tp.topic, tp.partition), first))

    async def on_stop(self) -> None:
        """Keep what was read."""
        if self._consumer is not None:
            await self._ended.wait()
            await self._run(self._save)
            await self._consumer.stop()
        self._applying.shutdown()

    @Service.task  # type: ignore[untyped-decorator]
    async def _announce(self) -> None:
        began = time.monotonic()
        await self.catch_up()
        self.caught_up.set()
        log.info("items: %d in the index, read in %.1f s", len(self._index), time.monotonic() - began)

    @Service.task  # type: ignore[untyped-decorator]
    async def _follow(self) -> None:
        try:
            await self._read_on()
        finally:
            self._ended.set()

    async def _read_on(self) -> None:
        consumer = self._consumer
        if consumer is None:
            raise RuntimeError("the follower has not started")
        next_save = time.monotonic() + self._settings.snapshot_s
        while not self.should_stop:
            fetched = await consumer.getmany(timeout_ms=FETCH_MS, max_records=FETCH_MOST)
            if fetched:
                await self._run(self._apply, [record for records in fetched.values() for record in records])
            await self._note_positions(consumer)
            if time.monotonic() >= next_save:
                await self._run(self._save)
                next_save = time.monotonic() + self._settings.snapshot_s

    async def _note_positions(self, consumer: AIOKafkaConsumer) -> None:
        # A position also steps over offsets that hold no record, so that the end is reached where records were compacted away.
        now = {(tp.topic, tp.partition): await consumer.position(tp) for tp in self._partitions()}
        if now != self._positions:
            async with self._moved:
                self._positions = now
                self._moved.notify_all()

    def _partitions(self) -> list[TopicPartition]:
        return [TopicPartition(topic.name, partition) for topic in self._topics for partition in range(topic.partitions)]

    async def _run(self, job: Any, *given: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._applying, job, *given)

    def _apply(self, records: Sequence[Any]) -> None:
        """Apply fetched records; runs in the follower's thread."""
        of_vectors, of_counts, of_erasures = (topic.name for topic in self._topics)
        vectors = [self._read(record, decode_vector) for record in records if record.topic == of_vectors]
        counts = [self._read(record, decode_signal) for record in records if record.topic == of_counts]
        catalogue.apply([change for change in vectors if change is not None], self._index)
        signals.apply([change for change in counts if change is not None], self._signals)
        for record in records:
            if record.topic == of_erasures:
                self._read(record, None)

    def _read(self, record: Any, decode: Callable[[bytes], Any] | None) -> Any:
        """Return a record's change, an item id where it deletes, None (counted, logged) where it cannot be used.

        Ends the process at one that only a newer version reads: see `messages`.
        """
        try:
            if decode is None:
                return self._erasures.read(record.key or b"", record.value)
            if not record.value:
                return (record.key or b"").decode()
            change = decode(record.value)
            if isinstance(change, ItemVector):
                self._check(change)
            return change
        except NewerMessage as error:
            die(f"{record.topic}/{record.partition}@{record.offset}: {error}")
        except (ValueError, msgspec.DecodeError) as error:
            self._metrics.unreadable.labels(record.topic).inc()
            log.warning("left out: %s/%d@%d: %s", record.topic, record.partition, record.offset, error)
            return None

    def _check(self, change: ItemVector) -> None:
        if change.encoder != self._index.encoder_id or len(change.vector) != 2 * self._index.dim:
            raise ValueError(
                f"item {change.item_id} has a vector of {change.encoder} in {len(change.vector)} bytes, wanted is one of "
                f"{self._index.encoder_id} in {2 * self._index.dim}: publish the item again"
            )

    def _save(self) -> None:
        """Write a snapshot if anything changed; runs in the follower's thread, so that nothing is applied meanwhile."""
        offsets = {place: offset for place, offset in self._positions.items() if place[0] != self._topics[2].name}
        if offsets and offsets != self._saved:
            self._state.save(self._index, self._signals, offsets)
            self._saved = offsets
            give_back()
