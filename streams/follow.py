"""A worker's follower: reads item-vectors, item-signals and erasures whole, outside the group, into what the worker knows.

Does not know users or events. Keeps a snapshot of items and signals with the offsets that they hold, so that a restart reads
on from there; erasures are few, and read from their beginning.

    StateError(RuntimeError)   the state folder is of another encoder or format, or in use: says what to do
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from mode import Service

from ranking.index import ItemIndex
from ranking.signals import Signals
from streams import catalogue, signals
from streams.erasure import Erasures
from streams.kafka import Topic, connection
from streams.memory import give_back
from streams.messages import ItemSignal, ItemVector
from streams.metrics import Metrics
from streams.settings import Settings

log = logging.getLogger("headrace.follow")

FORMAT = 1
FETCH_MS = 200
FETCH_MOST = 2_000  # records applied at once: about 0.1 s for 2,000 new vectors
OLDEST_S = 12 * 3_600.0  # Kafka keeps deletions for 24 h in a compacted topic: an older snapshot could miss some

Offsets = dict[tuple[str, int], int]  # (topic, partition) -> the offset to read next


class StateError(RuntimeError):
    """The state folder cannot be used by this worker."""


@dataclass(frozen=True)
class Snapshot:
    """What a worker starts from. offsets: empty when it starts anew."""

    index: ItemIndex
    offsets: Offsets


class StateFolder:
    """A worker's state folder: whose it is, and the newest snapshot in it. One process at a time; mode 0700."""

    def __init__(self, path: Path, encoder_id: str, dim: int) -> None:
        self.path = path
        self._owner: dict[str, Any] = {"format": FORMAT, "encoder": encoder_id, "dim": dim}
        self._lock: IO[str] | None = None

    def check(self) -> None:
        """Raise StateError unless the folder is new or of this encoder and format. Touches nothing."""
        found = _read_json(self.path / "owner.json")
        if found is not None and found != self._owner:
            raise StateError(
                f"state folder {self.path} is of {_owner_name(found)}, this worker is of {_owner_name(self._owner)}: "
                "set HEADRACE_ENCODER back, or give this encoder a folder of its own with HEADRACE_STATE_DIR"
            )

    def open(self) -> None:
        """Make it ours. Raises StateError when another process has it, or it cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.chmod(0o700)
            self._lock = (self.path / "lock").open("w")
            self._take()
            _write_json(self.path / "owner.json", self._owner)
        except OSError as error:
            self.close()
            raise StateError(
                f"state folder {self.path} cannot be written ({error.strerror}): make room, or name another with "
                "HEADRACE_STATE_DIR; nothing is lost"
            ) from None

    def _take(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[arg-type]  # open() has just opened it
        except BlockingIOError:
            self.close()
            raise StateError(
                f"state folder {self.path} is in use by another worker: give each its own with HEADRACE_STATE_DIR"
            ) from None

    def close(self) -> None:
        """Give it up."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def restore(self, into: Signals, bounds: Mapping[tuple[str, int], tuple[int, int]]) -> Snapshot:
        """Return the newest snapshot's index, its signals read `into`; an empty one when it cannot be read on from.

        bounds: (topic, partition) -> its first and end offset now.
        """
        encoder_id, dim = self._owner["encoder"], self._owner["dim"]
        head = _read_json(self.path / "snapshot.json")
        anew = "there is none" if head is None else _why_anew(head, bounds)
        if head is None or anew:
            if head is not None:
                log.warning("the snapshot is left out and everything read anew: %s", anew)
            return Snapshot(ItemIndex(dim, encoder_id), {})
        folder = self.path / head["folder"]
        index = ItemIndex.load(folder, dim, encoder_id)
        into.load(folder / "signals.msgpack")
        return Snapshot(index, _offsets(head))

    def save(self, index: ItemIndex, counted: Signals, offsets: Offsets) -> None:
        """Write a snapshot and let it take the place of the last one in one rename."""
        folder = self.path / f"snapshot-{time.time_ns()}"
        folder.mkdir(mode=0o700)
        index.save(folder)
        counted.save(folder / "signals.msgpack")
        for path in folder.iterdir():
            _sync(path)  # before the head names them: after a loss of power it must not point at holes
        flat = [[topic, partition, offset] for (topic, partition), offset in offsets.items()]
        head = {"folder": folder.name, "at": time.time(), "offsets": flat}
        _write_json(self.path / "snapshot.json", head)
        for old in self.path.glob("snapshot-*"):
            if old != folder:
                shutil.rmtree(old)


def _owner_name(owner: Mapping[str, Any]) -> str:
    return f"encoder {owner.get('encoder')} ({owner.get('dim')} dims, format {owner.get('format')})"


def _why_anew(head: dict[str, Any], bounds: Mapping[tuple[str, int], tuple[int, int]]) -> str:
    """Return why the topics cannot be read on from a snapshot's offsets, or nothing."""
    age = time.time() - head["at"]
    if age > OLDEST_S:
        return f"it is {age / 3_600:.0f} hours old, deletions may have been compacted away since"
    offsets = _offsets(head)
    if offsets.keys() != bounds.keys():
        return "the topics have other names or partitions now"
    for place, offset in offsets.items():
        first, end = bounds[place]
        if not first <= offset <= end:
            return f"it goes to offset {offset} of {place[0]}/{place[1]}, which has {first} to {end}: the topic was made anew"
    return ""


def _offsets(head: dict[str, Any]) -> Offsets:
    return {(topic, partition): offset for topic, partition, offset in head["offsets"]}


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StateError(
            f"{path} cannot be read ({error}): delete the folder {path.parent}, it is rebuilt from Kafka"
        ) from None
    return found


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write_json(path: Path, value: dict[str, Any]) -> None:
    new = path.with_suffix(".new")
    with new.open("w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    new.chmod(0o600)
    new.replace(path)


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
        self._vectors = msgspec.json.Decoder(ItemVector)
        self._counts = msgspec.json.Decoder(ItemSignal)
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
        vectors = [self._read(record, self._vectors) for record in records if record.topic == of_vectors]
        counts = [self._read(record, self._counts) for record in records if record.topic == of_counts]
        catalogue.apply([change for change in vectors if change is not None], self._index)
        signals.apply([change for change in counts if change is not None], self._signals)
        for record in records:
            if record.topic == of_erasures:
                self._read(record, None)

    def _read(self, record: Any, decoder: Any) -> Any:
        """Return a record's change, an item id where it deletes, None (counted, logged) where it cannot be used."""
        try:
            if decoder is None:
                return self._erasures.read(record.key or b"", record.value)
            if not record.value:
                return (record.key or b"").decode()
            change = decoder.decode(record.value)
            if isinstance(change, ItemVector):
                self._check(change)
            return change
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
