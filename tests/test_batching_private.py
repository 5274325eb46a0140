"""Each private name that streams/batching.py touches still means in the installed Faust and aiokafka what was read."""

from __future__ import annotations

import asyncio
import inspect
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiokafka
import faust
import pytest
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import OffsetAndMetadata
from faust.stores.rocksdb import Store
from faust.tables.recovery import Recovery
from faust.transport.consumer import Consumer, Fetcher
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from ranking.profile import RecordError
from streams import batching
from streams.app import _faust_settings
from streams.batching import NO_MEMBER, BatchConsumer, ProfileStore, SigningThread
from streams.inlet import Hole, Inlet
from streams.settings import load


def source(thing: Any) -> str:
    """Return the source of a function or class."""
    return inspect.getsource(thing)


def test_the_versions_are_the_ones_that_were_read() -> None:
    """Another series has to be read again before this module is trusted with it."""
    assert faust.__version__.startswith("0.15.")
    assert aiokafka.__version__.startswith("0.14.")


def test_the_fetcher_still_runs_drain_messages() -> None:
    """The loop that we replace is the one that the fetcher runs."""
    assert "consumer._drain_messages(self)" in source(Fetcher)
    assert list(inspect.signature(Consumer._drain_messages).parameters) == ["self", "fetcher"]


def test_what_is_committed_is_what_new_offset_returns() -> None:
    """Every topic with an entry in `_acked` is asked for its new offset, which is the next one to read."""
    assert "for tp in self._acked" in source(Consumer._filter_tps_with_pending_acks)
    assert "self._new_offset(tp)" in source(Consumer._filter_committable_offsets)
    assert "return batch[-1] + 1" in source(Consumer._new_offset)
    assert "self._acked.pop(tp, None)" in source(Consumer.on_partitions_revoked)


def test_recovery_still_seeks_and_then_resumes() -> None:
    """A session opens in `resume_flow` after `perform_seek`: recovery calls them in this order, and stops the flow before."""
    for end in (Recovery._resume_streams, Recovery.on_recovery_completed):
        text = source(end)
        assert 0 < text.index("consumer.perform_seek()") < text.index("consumer.resume_flow()")
    revoked = source(faust.App._on_partitions_revoked)
    assert 0 < revoked.index("consumer.stop_flow") < revoked.index("_consumer_wait_empty")


def test_fetching_still_goes_through_getmany() -> None:
    """`_getmany` takes partitions and a timeout, and leaves off while the flow is stopped."""
    assert list(inspect.signature(Consumer._getmany).parameters) == ["self", "active_partitions", "timeout"]
    assert "if not self.consumer.flow_active" in source(driver.AIOKafkaConsumerThread._fetch_records)
    assert "read_offset" in source(Consumer._drain_messages)
    assert "committed_offset.update" in source(Consumer.perform_seek)


async def test_earlier_owners_are_fenced_off_before_recovery_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is assigned, the inlets' partitions are told to their fences before Faust begins to read a changelog."""
    heard: list[Any] = []

    async def owned(partitions: set[TP]) -> None:
        await asyncio.sleep(0)
        heard.append(partitions)

    async def stock(self: Any, assigned: Any, generation_id: int = 0) -> None:
        heard.append((assigned, generation_id))

    monkeypatch.setattr(Consumer, "on_partitions_assigned", stock)
    consumer = BatchConsumer.__new__(BatchConsumer)
    consumer.inlets, consumer._on_owned = {"events": SimpleNamespace()}, owned
    assigned = {TP("events", 0), TP("events", 1), TP("a-changelog", 0)}
    await consumer.on_partitions_assigned(assigned, 7)
    assert heard == [{TP("events", 0), TP("events", 1)}, (assigned, 7)]


async def test_offsets_are_committed_with_a_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Faust's thread commits through aiokafka's consumer gets the signature in place of Faust's empty text."""
    assert "await consumer.commit(aiokafka_offsets)" in source(driver.AIOKafkaConsumerThread._commit)
    assert "self._consumer = self._create_consumer(" in source(driver.AIOKafkaConsumerThread.on_start)
    committed: list[Any] = []

    class Plain:
        async def commit(self, offsets: Any) -> None:
            committed.append(offsets)

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_create_consumer", lambda self, loop: Plain())
    thread = SigningThread.__new__(SigningThread)
    thread.signature = "hashing-256"
    place = aiokafka.TopicPartition("t", 0)
    await thread._create_consumer(asyncio.get_running_loop()).commit({place: OffsetAndMetadata(7, "")})
    assert committed == [{place: OffsetAndMetadata(7, "hashing-256")}]


@pytest.mark.parametrize(("beside", "ends"), [({"ours"}, False), ({"", "ours"}, False), ({"ours", "another"}, True)])
async def test_offsets_of_another_encoder_end_the_process(
    beside: set[str], ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it seeks, the consumer looks at what stands beside the committed offsets of the inlets' partitions."""
    assert list(inspect.signature(GroupCoordinator.fetch_committed_offsets).parameters) == ["self", "partitions"]
    asked: list[Any] = []
    died: list[str] = []

    async def fetch(partitions: Any) -> dict[int, OffsetAndMetadata]:
        asked.extend(partitions)
        return {number: OffsetAndMetadata(0, text) for number, text in enumerate(beside)}

    async def call(job: Any, *given: Any) -> Any:
        return await job(*given)

    coordinator = SimpleNamespace(fetch_committed_offsets=fetch)
    consumer = BatchConsumer.__new__(BatchConsumer)
    consumer.inlets, consumer._signature = {"events": SimpleNamespace()}, "ours"
    consumer._thread = SimpleNamespace(_consumer=SimpleNamespace(_coordinator=coordinator), call_thread=call)
    consumer.assignment = lambda: {TP("events", 3), TP("a-changelog", 3)}
    monkeypatch.setattr(batching, "die", died.append)
    await consumer._check_signatures()
    assert asked == [aiokafka.TopicPartition("events", 3)]
    assert bool(died) == ends


def test_membership_is_read_where_aiokafka_keeps_it() -> None:
    """The generation falls to the default when the broker has put a member out."""
    assert "self.generation = OffsetCommitRequest.DEFAULT_GENERATION_ID" in source(GroupCoordinator.reset_generation)
    assert NO_MEMBER == -1
    assert "_coordinator.generation" in source(driver.ConsumerRebalanceListener.on_partitions_assigned)


async def test_batches_are_built_and_sent_as_we_do() -> None:
    """A full batch says None, keeps what it has, and the first record always fits."""
    batch = BatchBuilder(300, 0)
    assert batch.append(timestamp=None, key=b"k", value=b"x" * 5_000, headers=[]) is not None
    assert batch.append(timestamp=None, key=b"k", value=b"x", headers=[]) is None
    assert batch.record_count() == 1
    assert list(inspect.signature(aiokafka.AIOKafkaProducer.send_batch).parameters) == ["self", "batch", "topic", "partition"]
    assert "self._producer = self._new_producer()" in source(driver.Producer.on_start).replace("producer = ", "", 1)


async def test_profiles_are_written_where_the_table_reads_them(tmp_path: Path) -> None:
    """A record and the changelog's offset land in the partition's database, where Faust's own methods find them."""
    app = faust.App("private", store="rocksdb://", datadir=tmp_path, broker="kafka://127.0.0.1:1", web_enabled=False)
    app._create_directories()
    table = app.Table("profiles", key_type=bytes, value_type=bytes, partitions=2, options={"driver": "rocksdict"})
    store = ProfileStore(table)
    assert store.changelog == "private-profiles-changelog"
    assert store.get(1, "ann") is None
    store.write(1, {"ann": b"record"}, 41)
    assert store.get(1, "ann") == b"record"
    assert store.get(0, "ann") is None
    assert table.persisted_offset(TP("private-profiles-changelog", 1)) == 41
    assert isinstance(table.data, Store)
    event = SimpleNamespace(message=SimpleNamespace(tp=TP("c", 1), offset=42, partition=1, key=b"ann", value=b"newer"))
    table.data.apply_changelog_batch([event], to_key=bytes, to_value=bytes)
    assert (store.get(1, "ann"), table.persisted_offset(TP("c", 1))) == (b"newer", 42)
    table.data._dbs.clear()


class Fetches(BatchConsumer):
    """Our consumer over a made-up broker: 100 events in one partition, fetched ten at a time."""

    def __init__(self, inlet: Inlet) -> None:
        self.inlets = {"t": inlet}
        self.session, self._generation, self._stops = 0, NO_MEMBER, 0
        self._open, self._sought, self._stale, self._paused = False, None, False, set()
        self.flow_active, self.committed, self.place = True, 0, 0
        self._acked: dict[Any, list[int]] = defaultdict(list)
        self.during_fetch: Any = None

    def _get_active_partitions(self) -> set[TP]:
        return {TP("t", 0)}

    def _member_generation(self) -> int:
        return NO_MEMBER

    async def _getmany(self, active_partitions: Any, timeout: float) -> dict[TP, list[Any]]:
        first, self.place = self.place, min(self.place + 10, 100)
        if self.during_fetch is not None:
            happening, self.during_fetch = self.during_fetch, None
            await happening()
        found = [SimpleNamespace(partition=0, offset=offset, value=b"v", topic="t") for offset in range(first, self.place)]
        return {TP("t", 0): found} if found else {}

    async def _seek_to_starts(self) -> dict[TP, int]:
        await asyncio.sleep(0)
        self.place = self.committed
        return {TP("t", 0): self.committed}


@pytest.mark.parametrize("when", [0, 1, 2])
async def test_what_is_under_way_when_recovery_seeks_is_not_lost(when: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seek under a running fetch opens a new session whose events all come, in order, from the committed offset on."""

    async def explain(topic: str, hole: Hole) -> bool:
        return False

    monkeypatch.setattr(driver.Consumer, "stop_flow", lambda self: setattr(self, "flow_active", False))
    monkeypatch.setattr(driver.Consumer, "resume_flow", lambda self: setattr(self, "flow_active", True))
    inlet = Inlet("t", explain)
    consumer = Fetches(inlet)

    async def seek() -> None:
        await consumer.perform_seek()
        consumer.resume_flow()

    async def rebalance() -> None:
        consumer.stop_flow()
        await seek()

    await seek()
    for _ in range(when):
        await consumer._drain_once()
    consumer.committed = 5 if when else 0
    consumer.during_fetch = rebalance
    for _ in range(15):
        await consumer._drain_once()
    offsets = [record.offset for record in (await inlet.take(1_000, 1_000)).records]
    assert offsets == list(range(consumer.committed, 100))
    assert consumer.session == 2


def test_acknowledged_offsets_are_committed_once() -> None:
    """The newest end is what is committed, and nothing when nothing new was acknowledged."""
    consumer = Fetches.__new__(Fetches)
    consumer._acked = defaultdict(list)
    consumer.acknowledge("t", {0: 5})
    consumer.acknowledge("t", {0: 9})
    assert consumer._new_offset(TP("t", 0)) == 9
    assert consumer._new_offset(TP("t", 0)) is None


@pytest.mark.parametrize(("error", "is_traced"), [(RecordError("upgrade the worker"), False), (ValueError("a fault"), True)])
async def test_the_line_of_a_failed_pipeline_names_the_error(
    error: Exception, is_traced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error itself stands in the line, not the task group around it; one that says what to do needs no traceback."""
    said: list[tuple[str, Exception | None]] = []
    monkeypatch.setattr(batching, "die", lambda *given: said.append(given))
    work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    work.set_exception(ExceptionGroup("tasks", [ExceptionGroup("more", [error])]))
    batching._ended("events")(work)
    assert said == [(f"the pipeline of events failed: {error}", error if is_traced else None)]


@pytest.mark.parametrize("seconds", [6.0, 300.0])
def test_faust_takes_every_session_timeout_that_settings_take(seconds: float) -> None:
    """A session may not outlast a request: Faust refuses to connect then, long after the settings were read."""
    given = _faust_settings(load(session_timeout_s=seconds))
    assert given["broker_session_timeout"] == seconds <= given["broker_request_timeout"]
    assert "session_timeout > request_timeout" in source(driver.AIOKafkaConsumerThread._create_worker_consumer)
