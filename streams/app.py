"""The Faust app: topics, the table of profiles, and three agents of a few lines.

Does not know how a batch is processed (`agents`), taken and acknowledged (`pipeline`, `batching`), or how a worker is started
(`worker`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import faust
from aiokafka import AIOKafkaConsumer, TopicPartition
from faust.types import TP
from mode import Service

from ranking.index import ItemIndex
from ranking.signals import Signals
from streams.batching import BatchConsumer, Outbox, ProfileStore, die, forgetful, producer_of, serve
from streams.catalogue import Catalogue
from streams.connection import connection, faust_connection
from streams.desk import Desk
from streams.encode_thread import EncodeThread
from streams.erasure import Erasures
from streams.fence import Fences
from streams.follow import Follower
from streams.inlet import Hole, Inlet
from streams.metrics import Metrics
from streams.personalize import Personalize
from streams.personalizer import Personalizer
from streams.pictures import pictures_of
from streams.pipeline import Pipeline
from streams.reread import Rereading
from streams.settings import Settings
from streams.signals import SignalCounter
from streams.state import Offsets, StateFolder
from streams.swap import Swapper
from streams.tally import SignalsStep
from streams.topics import Topics, profiles_table, topics
from streams.vectorize import ITEM_SLICE, CatalogueStep
from streams.web import WebServer

if TYPE_CHECKING:
    from encoders.judge import Judge  # torch, which an encoder without weights does without

log = logging.getLogger("headrace.app")

TICK_S = 0.25
ROCKSDB = {
    "driver": "rocksdict",
    "block_cache_size": 4 << 20,  # a partition; Faust's default is 2 GiB
    "write_buffer_size": 4 << 20,  # Faust's default is 64 MiB, three times a partition
    "bloom_filter_size": 10,
}


class FlowApp(faust.App):  # type: ignore[misc]  # Faust is untyped to mypy here
    """A Faust app with the services that live as long as it: they start before it and stop after it."""

    around: tuple[Service, ...] = ()
    metrics: Metrics
    follower: Follower
    swapper: Swapper
    web_server: WebServer
    encoding: EncodeThread
    fences: Fences

    async def on_stop(self) -> None:
        """Give up what was owned."""
        await super().on_stop()
        await self.fences.stop()

    def on_init_dependencies(self) -> Iterable[Any]:
        """Return the services to start, in order."""
        return [*self.around, *super().on_init_dependencies()]

    def waiting_for(self) -> str | None:
        """Return what is missing before events turn into lists, None when nothing is."""
        if not self.follower.caught_up.is_set():
            return "items"
        if not self.swapper.ready.is_set():
            return "model"
        return None if self.owned_partitions() else "partitions"

    def owned_partitions(self) -> int:
        """Return how many partitions of events this worker serves now."""
        return len(self.consumer.owned(self.events_topic))


class Lease(Service):  # type: ignore[misc]  # mode is untyped to mypy here
    """Ends the process when it stood still for half a session: its partitions may have a new owner by the time it goes on."""

    def __init__(self, session_timeout_s: float) -> None:
        super().__init__()
        self._limit_s = session_timeout_s / 2

    @Service.task  # type: ignore[untyped-decorator]
    async def _tick(self) -> None:
        last = time.monotonic()
        while not self.should_stop:
            await asyncio.sleep(TICK_S)
            last = self._check(last)

    def _check(self, last: float) -> float:
        now = time.monotonic()
        if now - last > self._limit_s:
            die(f"the process stood still for {now - last:.1f} s, half a session is {self._limit_s:.1f} s")
        return now


def build(
    settings: Settings,
    personalizer: Personalizer,
    catalogue: Catalogue,
    index: ItemIndex,
    signals: Signals,
    state: StateFolder,
    offsets: Offsets,
    judge: Judge | None = None,
) -> FlowApp:
    """Return the app of one worker, not started. offsets: what `index` and `signals` hold of the topics that they follow.

    judge: reads lists once more, where the settings ask for it.
    """
    names = topics(settings)
    metrics = Metrics()
    app = FlowApp(settings.app_id, **faust_connection(settings), **_faust_settings(settings))
    app.metrics = metrics
    app.events_topic = names.events.name
    erasures = Erasures()
    followed = (names.item_vectors, names.item_signals, names.erasures)
    app.follower = Follower(settings, followed, index, signals, erasures, state, offsets, metrics)
    app.encoding = EncodeThread()
    ranking = ThreadPoolExecutor(1, "apply")
    known = app.follower.caught_up.wait
    app.swapper = Swapper(settings, names.models, personalizer, index, known, ranking, metrics)
    token = settings.web_token.get_secret_value()
    app.web_server = WebServer(settings.web_host, settings.web_port, metrics.text, app.waiting_for, token)
    web = [app.web_server] if settings.web_port else []
    app.around = (Lease(settings.session_timeout_s), app.follower, app.swapper, *web)
    metrics.watch(lambda: len(index), app.follower.lag, app.owned_partitions)
    _add_agents(app, settings, names, personalizer, catalogue, index, signals, erasures, ranking, judge)
    return app


def _faust_settings(settings: Settings) -> dict[str, Any]:
    """Return what Faust is told; what each was measured to do is in docs/log.md."""
    return {
        "datadir": settings.state_dir / "faust",
        "store": "rocksdb://",
        "topic_partitions": settings.partitions,
        "topic_replication_factor": settings.replication,
        "topic_allow_declare": False,  # `headrace topics` makes them, with the right clean-up policies
        "topic_disable_leader": True,
        "processing_guarantee": "at_least_once",  # exactly_once doubles and fences itself on rebalance
        "broker_commit_interval": 1.0,
        "broker_session_timeout": settings.session_timeout_s,
        "broker_request_timeout": max(90.0, settings.session_timeout_s),  # Faust's own is 90 and takes no longer session
        "broker_heartbeat_interval": min(2.0, settings.session_timeout_s / 4),
        "consumer_auto_offset_reset": "earliest",
        "consumer_group_instance_id": settings.instance_id,  # a restart takes 2.5-3 s with it, 6-8 s without
        "stream_wait_empty": True,
        "table_standby_replicas": 0,
        "producer_linger": 0,
        "producer_max_batch_size": 262_144,
        "producer_acks": -1,
        "web_enabled": False,  # its table endpoint shows profiles
    }


def _add_agents(
    app: FlowApp,
    settings: Settings,
    names: Topics,
    personalizer: Personalizer,
    catalogue: Catalogue,
    index: ItemIndex,
    signals: Signals,
    erasures: Erasures,
    ranking: Executor,
    judge: Judge | None,
) -> None:
    explain = partial(_nothing_there, settings)
    events, items, interactions = (Inlet(name.name, explain) for name in (names.events, names.items, names.interactions))
    inlets = {inlet.topic: inlet for inlet in (events, items, interactions)}
    fences = Fences(settings, names.profiles.name)

    async def put_up_fences(owned: set[TP]) -> None:
        await fences.put_up(tp.partition for tp in owned if tp.topic == names.events.name)

    app.fences = fences
    signature = catalogue.encoder.id
    app.transport.Consumer = partial(BatchConsumer, inlets=inlets, owned=put_up_fences, signature=signature)
    table = forgetful(
        app.Table(
            profiles_table(settings),
            key_type=bytes,
            value_type=bytes,
            partitions=settings.partitions,
            options=dict(ROCKSDB),
        )
    )
    outbox = Outbox(lambda: producer_of(app), {names.profiles.name: fences.producer})
    desk = Desk(outbox, names, app.metrics)
    follower, encoding, partitions = app.follower, app.encoding, settings.partitions

    async def caught_up() -> None:
        await follower.caught_up.wait()

    async def all_known() -> None:  # erasures also that an earlier owner of these partitions published just now
        await app.swapper.ready.wait()  # which comes after the items
        await follower.catch_up(names.erasures)

    def pipeline(inlet: Inlet, step: Any, most: int, backlog_most: int, depth: int = 8) -> Pipeline[Any, Any, Any]:
        consumer = app.consumer
        return Pipeline(
            inlet,
            step,
            alive=consumer.alive,
            acknowledge=consumer.acknowledge,
            most=most,
            backlog_most=backlog_most,
            depth=depth,
        )

    @app.agent(app.topic(names.events.name, key_type=bytes, value_type=bytes), name="personalize")  # type: ignore[untyped-decorator]
    async def personalize(stream: Any) -> None:
        rereading = None
        if judge is not None:
            alive = app.consumer.alive
            weighed = (judge, settings.rerank_top, settings.rerank_weight)
            rereading = Rereading(*weighed, personalizer, index, desk, erasures, events, alive)
        given = (encoding, erasures, all_known, partitions, ranking, rereading)
        step = Personalize(desk, personalizer, ProfileStore(table), *given)
        await serve(stream, pipeline(events, step, settings.batch_size, settings.backlog_batch_size))

    @app.agent(app.topic(names.items.name, key_type=bytes, value_type=bytes), name="catalogue")  # type: ignore[untyped-decorator]
    async def vectors(stream: Any) -> None:
        step = CatalogueStep(desk, catalogue, index, encoding, caught_up, partitions)
        slice_ = ITEM_SLICE if pictures_of(catalogue.encoder) is None else 1  # an image takes as long as some texts
        await serve(stream, pipeline(items, step, slice_, slice_))

    @app.agent(app.topic(names.interactions.name, key_type=bytes, value_type=bytes), name="signals")  # type: ignore[untyped-decorator]
    async def count(stream: Any) -> None:
        step = SignalsStep(desk, SignalCounter(signals), follower.catch_up, interactions.draining, partitions)
        # A round of one second is unfinished as a whole: no bound on its batches but the inlet's.
        await serve(stream, pipeline(interactions, step, 16, 64, depth=0))


async def _nothing_there(settings: Settings, topic: str, hole: Hole) -> bool:
    """Ask the broker whether a hole in the offsets holds no record: retention and transactions leave such holes."""
    tp = TopicPartition(topic, hole.partition)
    consumer = AIOKafkaConsumer(
        **connection(settings),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_uncommitted",
    )
    await consumer.start()
    try:
        consumer.assign([tp])
        first = (await consumer.beginning_offsets([tp]))[tp]
        consumer.seek(tp, max(first, hole.expected))
        found = (await consumer.getone(tp)).offset
    finally:
        await consumer.stop()
    if found >= hole.found:
        log.warning("%s/%d: offsets %d to %d hold no event (any more)", topic, hole.partition, hole.expected, hole.found - 1)
        return True
    log.error("%s/%d: offset %d was expected and is on the broker, %d came", topic, hole.partition, found, hole.found)
    return False
