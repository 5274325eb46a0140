"""Faust from the inside: the one module that touches its private names, and aiokafka's beside `rebootstrap` and `fetching`.

Does not know what an event means. It gives the pipeline what stock Faust 0.15 has not: records by the batch straight from the
fetch, acknowledgement by the batch, outputs by the batch, and one atomic write of profiles together with Faust's own mark of
how far the changelog was read. Faust keeps the group, the assignment, the table's recovery and the commit.

Private names, each with its why; tests/test_batching_private.py checks that each still means this:
    Consumer._drain_messages   the fetch loop: stock wraps each message in four tasks (97 us a message against 25), and drops
                               or doubles what was in flight while recovery seeks back (lost 241 of 2,000 events in a run)
    Consumer._getmany          one fetch, without a sensor call per message
    Consumer._get_active_partitions  what may be fetched now: recovery pauses the rest
    Consumer._new_offset, _acked     what to commit: the end of what was acknowledged in order. Stock steps over holes
    Consumer._read_offset, _committed_offset, _to_message   changelog records go Faust's own way, to its recovery
    Consumer._thread, _consumer, _coordinator.generation    aiokafka's consumer: to pause it, and whether we are still a member
    Consumer._new_consumer_thread, ConsumerThread._create_consumer, _coordinator.fetch_committed_offsets
                               what is written beside each committed offset: stock writes nothing, and reads nothing of it
    AIOKafkaProducer._txn_manager    its id and epoch, without the rest of a transaction: see streams/fence.py
    Producer._producer         aiokafka's producer: create_batch and send_batch cost 10-15 us a record, Faust's send 161
    Store._db_for_partition, offset_key      the profiles' RocksDB of a partition, and Faust's mark in it
    Table._new_store, Store.rocksdb_options  how that RocksDB is opened: so that it keeps no old keys
    Store._dbs, partition_path               which of them are open, and where they lie
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import rocksdict
from aiokafka import TopicPartition
from aiokafka.consumer.group_coordinator import OffsetCommitRequest
from aiokafka.errors import KafkaError
from faust.stores.rocksdb import RocksDBOptions
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer
from faust.types import TP

from streams import OURS
from streams.inlet import Inlet
from streams.pipeline import Pipeline

log = logging.getLogger("headrace.batching")

EXIT_UNACKNOWLEDGED = 70
FETCH_S = 0.5
SCRUBBED = "scrubbed"  # file beside RocksDB's own: an offset, see ProfileStore
NO_MEMBER = OffsetCommitRequest.DEFAULT_GENERATION_ID


Owned = Callable[[set[TP]], Awaitable[None]]  # hears which partitions of the inlets' topics are owned from now on


class Outgoing(NamedTuple):
    """A record to send. timestamp: Unix milliseconds, None for now."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    timestamp: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


def die(what: str, error: BaseException | None = None) -> NoReturn:
    """End the process at once with nothing more acknowledged: a graceful stop would commit."""
    log.critical("%s: the worker ends, nothing that is unfinished is acknowledged", what, exc_info=error)
    for handler in [*log.handlers, *logging.getLogger("headrace").handlers, *logging.getLogger().handlers]:
        handler.flush()
    os._exit(EXIT_UNACKNOWLEDGED)


def producer_of(app: Any) -> Any:
    """Return aiokafka's producer under that of a Faust app, None before it has started."""
    return app.producer._producer


class SigningThread(AIOKafkaConsumerThread):  # type: ignore[misc]  # Faust is untyped to mypy here
    """The thread of aiokafka's consumer, which writes a name beside every offset that it commits."""

    signature = ""

    def _create_consumer(self, loop: asyncio.AbstractEventLoop) -> Any:
        consumer = super()._create_consumer(loop)
        commit = consumer.commit

        async def signed(offsets: Mapping[TopicPartition, Any]) -> None:
            await commit({place: told._replace(metadata=self.signature) for place, told in offsets.items()})

        consumer.commit = signed
        return consumer


class BatchConsumer(Consumer):  # type: ignore[misc]  # Faust is untyped to mypy here
    """Faust's consumer, which puts records of the inlets' topics straight into the inlets.

    A session is the time from one seek to the committed offsets to the next: all that is in flight is of one session. What was
    fetched for an earlier one is thrown away, and what is thrown away is sought back to.

    signature: what is committed beside offsets. Where another one stands there the process ends: see streams/handover.py.
    """

    def __init__(self, *args: Any, inlets: Mapping[str, Inlet], owned: Owned, signature: str, **more: Any) -> None:
        self._signature = signature  # the thread is made in what follows
        super().__init__(*args, **more)
        self.inlets = inlets
        self._on_owned = owned
        self.session = 0
        self._generation = NO_MEMBER
        self._open = False  # whether records of the inlets' topics may be delivered
        self._sought: dict[TP, int] | None = None  # where the session that opens next begins
        self._stops = 0  # how often the flow was stopped: a seek that this overtook counts for nothing
        self._stale = False  # whether something that was fetched was thrown away
        self._paused: set[str] = set()

    # -- what the pipelines use

    def alive(self, session: int) -> bool:
        """Tell whether a session still owns its partitions, as far as this process can know."""
        return session == self.session and self._member_generation() == self._generation

    def acknowledge(self, topic: str, ends: Mapping[int, int]) -> None:
        """Let everything before these offsets (partition -> offset) be committed."""
        for partition, end in ends.items():
            self._acked[TP(topic, partition)] = [end - 1]

    def owned(self, topic: str) -> set[int]:
        """Return the partitions of a topic that the open session delivers."""
        return {tp.partition for tp in self.assignment() if tp.topic == topic} if self._open else set()

    # -- what Faust calls

    async def on_partitions_assigned(self, assigned: Any, generation_id: int = 0) -> None:
        """Let the owner of partitions be known before anything of theirs is read."""
        try:
            await self._on_owned({tp for tp in assigned if tp.topic in self.inlets})
        except Exception as error:
            die("partitions were assigned and could not be fenced off", error)
        await super().on_partitions_assigned(assigned, generation_id)

    def _new_consumer_thread(self) -> SigningThread:
        thread = SigningThread(self, loop=self.loop, beacon=self.beacon)
        thread.signature = self._signature
        return thread

    def _new_offset(self, tp: TP) -> int | None:
        acked = self._acked[tp]
        return acked.pop() + 1 if acked else None

    def stop_flow(self) -> None:
        """Stop delivering; what was not taken is forgotten and read again."""
        super().stop_flow()
        self._open, self._sought = False, None
        self._stops += 1
        for inlet in self.inlets.values():
            inlet.clear()

    async def perform_seek(self) -> None:
        """Seek every partition to where its next session begins: its committed offset, or the first there is.

        Stock leaves a partition without a commit where the last fetch left it, and so loses what that fetch brought.
        """
        self._open, self._sought = False, None
        stops = self._stops
        starts = await self._seek_to_starts()
        if stops == self._stops:
            self._sought = starts

    async def _check_signatures(self) -> None:
        """End the process when the offsets to begin at were handed over to another encoder since it started."""
        sources = [TopicPartition(tp.topic, tp.partition) for tp in self.assignment() if tp.topic in self.inlets]
        coordinator = self._thread._consumer._coordinator
        committed = await self._thread.call_thread(coordinator.fetch_committed_offsets, sources)
        others = {told.metadata or "" for told in committed.values()} - {"", self._signature}
        if others:
            die(f"the group's offsets are those of encoder {', '.join(sorted(others))} now, this worker has {self._signature}")

    async def _seek_to_starts(self) -> dict[TP, int]:
        await self._check_signatures()
        await super().perform_seek()
        sources = [TP(tp.topic, tp.partition) for tp in self.assignment() if tp.topic in self.inlets]
        starts = {tp: self._committed_offset.get(tp) or 0 for tp in sources}
        fresh = [tp for tp, start in starts.items() if start == 0]
        if fresh:
            starts |= await self.earliest_offsets(*fresh)
            await self.seek_wait({tp: starts[tp] for tp in fresh})
        return starts

    def resume_flow(self) -> None:
        """Deliver again; after a seek a new session begins. Recovery also calls this before the seek, for changelogs only."""
        super().resume_flow()
        if self._sought is None:
            return
        self.session += 1
        self._generation = self._member_generation()
        for topic, inlet in self.inlets.items():
            inlet.restart(self.session, {tp.partition: start for tp, start in self._sought.items() if tp.topic == topic})
        self._open, self._sought = True, None

    async def wait_empty(self) -> None:
        """Wait until the pipelines have finished what they took, and commit it. Stock would wait for tracked messages."""
        waits = [asyncio.ensure_future(inlet.drained()) for inlet in self.inlets.values()]
        while not self.should_stop and (await asyncio.wait(waits, timeout=10.0))[1]:
            left = {topic: inlet.unfinished for topic, inlet in self.inlets.items() if inlet.unfinished}
            log.warning("still finishing before partitions are given up: %s", left)
        for wait in waits:
            wait.cancel()
        await self.commit_and_end_transactions()

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Say nothing: stock looks at sensors that batches do not pass, and would report a stuck stream every few minutes."""

    async def _drain_messages(self, fetcher: Any) -> None:
        self._stale = True  # an earlier loop may have been cancelled with a fetch under way
        try:
            while not (self.should_stop or fetcher.should_stop):
                await self._drain_once()
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.app.should_stop:
                raise

    async def _drain_once(self) -> None:
        active = self._get_active_partitions()
        if not self.flow_active or not active:
            await asyncio.sleep(0.02)
            return
        if self._open and self._stale:
            await self._seek_back()
            return
        session = self.session if self._open else None
        records = await self._getmany(active_partitions=active, timeout=0.1 if self._paused else FETCH_S)
        for tp, fetched in records.items():
            if tp.topic not in self.inlets:
                await self._deliver_changelog(TP(tp.topic, tp.partition), fetched)
            elif self._open and session == self.session:
                self.inlets[tp.topic].put(fetched)
            else:
                self._stale = True
        if self._open:
            await self._keep_room()
        await asyncio.sleep(0)

    async def _seek_back(self) -> None:
        """Go back to what is committed: the inlets leave out what they have already."""
        try:
            await self._seek_to_starts()
            self._stale = False
        except (KafkaError, AssertionError) as error:  # aiokafka asserts that something is assigned
            log.info("seeking back failed, most likely because partitions are just given up: %r", error)
            await asyncio.sleep(0.1)

    async def _deliver_changelog(self, tp: TP, fetched: Sequence[Any]) -> None:
        """Do what stock does: records go one by one to the recovery, those before the read offset are left out."""
        for record in fetched:
            if not self.flow_active:
                return
            read = self._read_offset[tp]
            if read is None or record.offset >= read:
                await self.callback(self._to_message(tp, record))
                self._read_offset[tp] = record.offset

    async def _keep_room(self) -> None:
        """Pause topics whose inlet is full. aiokafka's own pause: partitions that are only not asked for delay all others."""
        for topic, inlet in self.inlets.items():
            if inlet.full and topic not in self._paused:
                self._paused.add(topic)
                await self._set_paused(topic, "pause")
            elif inlet.roomy and topic in self._paused:
                self._paused.discard(topic)
                await self._set_paused(topic, "resume")

    async def _set_paused(self, topic: str, how: str) -> None:
        consumer = self._thread._consumer
        assigned = [tp for tp in consumer.assignment() if tp.topic == topic]
        await self._thread.call_thread(getattr(consumer, how), *assigned)

    def _member_generation(self) -> int:
        """Return the group's generation, NO_MEMBER when the broker has put us out. Read from another thread: one attribute."""
        consumer = self._thread._consumer
        return NO_MEMBER if consumer is None else int(consumer._coordinator.generation)


def without_transactions(producer: Any) -> None:
    """Keep the id and epoch that a started producer has by its transactional id, and let it send as an idempotent one."""
    producer._txn_manager.transactional_id = None


class Outbox:
    """Sends records in batches, one per topic and partition, in order.

    plain: returns the producer that has started; fenced: topic -> the producer of each partition, for what goes another way.
    """

    def __init__(self, plain: Callable[[], Any], fenced: Mapping[str, Callable[[int], Any]]) -> None:
        self._plain = plain
        self._fenced = fenced

    async def send(self, records: Sequence[Outgoing]) -> list[tuple[str, int, int, asyncio.Future[Any]]]:
        """Hand records to the producer; return topic, partition, count and the future of the first offset of each batch."""
        sent = []
        for (topic, partition), group in _grouped(records).items():
            fenced = self._fenced.get(topic)
            producer = self._plain() if fenced is None else fenced(partition)
            for batch in _batches(producer, group):
                count = batch.record_count()
                sent.append((topic, partition, count, await producer.send_batch(batch, topic, partition=partition)))
        return sent


def _grouped(records: Sequence[Outgoing]) -> dict[tuple[str, int], list[Outgoing]]:
    groups: dict[tuple[str, int], list[Outgoing]] = defaultdict(list)
    for record in records:
        groups[record.topic, record.partition].append(record)
    return groups


def _batches(producer: Any, records: Sequence[Outgoing]) -> list[Any]:
    batches = [producer.create_batch()]
    for record in records:
        given = {"timestamp": record.timestamp, "key": record.key, "value": record.value, "headers": list(record.headers)}
        if batches[-1].append(**given) is None:  # it is full
            batches.append(producer.create_batch())
            batches[-1].append(**given)
    for batch in batches:
        batch.close()
    return batches


async def acknowledged(sent: Sequence[tuple[str, int, int, asyncio.Future[Any]]]) -> dict[tuple[str, int], int]:
    """Wait for all; return (topic, partition) -> the last offset written there. Raises what the broker said."""
    ends: dict[tuple[str, int], int] = {}
    for topic, partition, count, future in sent:
        written = await future
        ends[topic, partition] = written.offset + count - 1
    return ends


class ProfileStore:
    """The profiles of the partitions that this worker owns, on RocksDB, as Faust's table keeps them."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self.changelog = str(table.changelog_topic_name)
        self._behind: dict[int, int] = {}  # partition -> the erasure up to which its files are to be scrubbed

    def get(self, partition: int, user_id: str) -> bytes | None:
        """Return a user's record."""
        found: bytes | None = self._table.data._db_for_partition(partition).get(user_id.encode())
        return found

    def write(self, partition: int, records: Mapping[str, bytes], changelog_offset: int) -> None:
        """Write records (an empty one deletes) and how far their changelog goes, all or none of it."""
        store = self._table.data
        batch = rocksdict.WriteBatch(raw_mode=True)
        for user_id, record in records.items():
            if record:
                batch.put(user_id.encode(), record)
            else:
                batch.delete(user_id.encode())
        batch.put(store.offset_key, str(changelog_offset).encode())
        store._db_for_partition(partition).write(batch)

    def purge(self, partition: int, user_ids: Collection[str], through: int) -> None:
        """Take what was deleted or replaced of users out of every file of a partition: 5 ms, 0.7 s where it has 200 MB.

        through: offset of the newest of their erasures.
        """
        keys = sorted(user_id.encode() for user_id in user_ids)
        self._compact(partition, keys[0], keys[-1] + b"\0")
        if partition not in self._behind:
            self._note(partition, through)

    def assigned(self, newest: Mapping[int, int]) -> None:
        """Note which of the open partitions came with files from before an erasure. newest: partition -> its offset.

        Recovery deletes what the changelog says, and leaves it in the files.
        """
        here = {partition: newest[partition] for partition in self._table.data._dbs.keys() & newest.keys()}
        self._behind = {partition: offset for partition, offset in here.items() if self._scrubbed(partition) < offset}

    def scrub(self) -> None:
        """Take all that was deleted or replaced out of the files of those partitions: seconds a GB."""
        for partition, through in list(self._behind.items()):
            if partition in self._table.data._dbs:
                self._compact(partition, None, None)
                self._note(partition, through)
            self._behind.pop(partition, None)

    def drop_copies(self, newest: Mapping[int, int]) -> None:
        """Delete the files of partitions that are no longer ours and had an erasure since; recovery makes them anew.

        From the event loop only, where partitions are opened, too.
        """
        store = self._table.data
        for partition, offset in newest.items():
            folder = store.partition_path(partition)
            if partition not in store._dbs and folder.is_dir() and self._scrubbed(partition) < offset:
                shutil.rmtree(folder)

    def _scrubbed(self, partition: int) -> int:
        """Return the offset of the erasure up to which a partition's files hold nothing of erased users."""
        try:
            return int((self._table.data.partition_path(partition) / SCRUBBED).read_text())
        except FileNotFoundError:
            return -1

    def _note(self, partition: int, through: int) -> None:
        path = self._table.data.partition_path(partition) / SCRUBBED
        new = path.with_suffix(".new")
        new.write_text(str(max(through, self._scrubbed(partition))))
        new.replace(path)

    def _compact(self, partition: int, first: bytes | None, last: bytes | None) -> None:
        """Rewrite a partition's files without what is deleted between two keys.

        A flush ends the write-ahead log; a compaction down to the last level rewrites the tables. RocksDB's own log names the
        bounds of a compaction in hexadecimal: it is emptied.
        """
        store = self._table.data
        db = store._db_for_partition(partition)
        how = rocksdict.CompactOptions()
        how.set_bottommost_level_compaction(rocksdict.BottommostLevelCompaction.force())
        db.flush()
        db.compact_range(first, last, how)
        mark = db.get(store.offset_key)
        if mark is not None:  # one more change, since a new manifest begins with the tables from before the last one
            db.put(store.offset_key, mark)
            db.flush()
        for log_file in store.partition_path(partition).glob("LOG*"):
            os.truncate(log_file, 0)


class _Options(RocksDBOptions):  # type: ignore[misc]  # Faust is untyped to mypy here
    """Options of a RocksDB whose manifest begins anew with each change: it names keys, and would keep those of old tables."""

    def as_options(self) -> Any:
        options = super().as_options()
        options.set_max_manifest_file_size(1)
        return options


def forgetful(table: Any) -> Any:
    """Return a table, made so that what is deleted from its RocksDB leaves no trace in the files once `ProfileStore` purged."""
    make = table._new_store

    def made() -> Any:
        store = make()
        store.rocksdb_options = _Options(**store.options, use_rocksdict=store.use_rocksdict)
        return store

    table._new_store = made
    return table


async def serve(stream: Any, pipeline: Pipeline[Any, Any, Any]) -> None:
    """Run an agent's pipeline until its stream ends. The stream gets nothing: the consumer feeds the pipeline's inlet."""
    work = asyncio.ensure_future(pipeline.run())
    work.add_done_callback(_ended(pipeline.inlet.topic))
    try:
        async for _ in stream:
            die(f"a record of {pipeline.inlet.topic} came through Faust's stream, past the inlet")
    finally:
        work.cancel()


def _ended(topic: str) -> Any:
    def check(work: asyncio.Future[None]) -> None:
        if not work.cancelled() and work.exception() is not None:
            error = _first(work.exception())
            is_ours = type(error).__module__.partition(".")[0] in OURS
            die(f"the pipeline of {topic} failed: {error}", None if is_ours else error)

    return check


def _first(error: BaseException | None) -> BaseException | None:
    """Return the error itself of one that a task group raised."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
