"""The process that learns: follows events, lists and profiles beside the workers, and publishes what its rounds choose.

Does not know how is learnt (`lessons`). It reads items, signals and models as a worker does, and the three topics outside of
the workers' group, by offsets of a group of its own that are committed: a restart reads on from there. The first start begins
at the end of the topics. What it held of open lists is gone with the process, and costs nothing but those lists.

Profiles come from the changelog that workers write, not from folding again: they are the very ones that the lists were made of,
no encoder runs here, and only what waits for its list is in memory.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, OffsetAndMetadata, TopicPartition
from mode import Service, Worker

from ranking.bundle import Bundle
from ranking.online import OnlineError, Steps
from ranking.profile import RecordError, key_of, unpack
from ranking.rounds import Plan, Round
from streams import building, fetching, rebootstrap, releases
from streams.connection import connection
from streams.erasure import Erasures
from streams.fence import is_mark
from streams.follow import Follower
from streams.lessons import Lessons, Listed, is_of_another
from streams.messages import ERASE, BadMessage, Event, RecommendationList, decode_event
from streams.metrics import LearnMetrics, Metrics
from streams.models import ZERO_SHOT
from streams.pairs import Pairs
from streams.personalizer import Personalizer
from streams.rights import check_learner_rights, learner_group
from streams.settings import Settings
from streams.swap import Swapper
from streams.topics import topics
from streams.web import WebServer
from streams.worker import EXIT_REFUSED, REFUSALS, Ground, ground, set_up_logging

log = logging.getLogger("headrace.learn")

FETCH_MS = 200
FETCH_MOST = 500  # records at once: about 150 lists of 3 ms
_lists = msgspec.json.Decoder(RecommendationList)


def plan_of(settings: Settings) -> Plan:
    """Return how rounds go by these settings."""
    steps = Steps(rate=settings.learn_rate, unseen=settings.learn_unseen)
    return Plan(60.0 * settings.learn_round_minutes, settings.learn_risk, settings.learn_users, steps=steps)


class Learning(Service):  # type: ignore[misc]  # mode is untyped to mypy here
    """Learns from its start to its stop, on the model that workers rank with."""

    def __init__(self, settings: Settings, held: Ground) -> None:
        super().__init__()
        self.metrics = Metrics()
        self.counted = LearnMetrics(self.metrics)
        self._settings, self._names = settings, topics(settings)
        index, signals = held.snapshot.index, held.signals
        self.personalizer: Personalizer = building.build(held.encoder, settings, index, signals)
        followed = (self._names.item_vectors, self._names.item_signals, self._names.erasures)
        offsets = held.snapshot.offsets
        self._follower = Follower(settings, followed, index, signals, Erasures(), held.state, offsets, self.metrics)
        self._learning = ThreadPoolExecutor(1, "learn")
        known = self._follower.caught_up.wait
        self._swapper = Swapper(settings, self._names.models, self.personalizer, index, known, self._learning, self.metrics)
        key = key_of(held.encoder.id)
        self._pairs = Pairs(lambda record: unpack(record, held.encoder.dim, key))
        self._lessons: Lessons | None = None
        self._model = ""  # that ranked when it was last looked
        self._consumer: AIOKafkaConsumer | None = None
        self.metrics.watch(lambda: len(index), self._follower.lag, lambda: 0)

    def on_init_dependencies(self) -> Iterable[Any]:
        """Return what is followed, and the server of metrics where there is one."""
        settings = self._settings
        token = settings.web_token.get_secret_value()
        web = [WebServer(settings.web_host, settings.web_port, self.metrics.text, self.waiting_for, token)]
        return [self._follower, self._swapper, *(web if settings.web_port else [])]

    def waiting_for(self) -> str | None:
        """Return what is missing before anything is learnt, None when nothing is."""
        if not self._swapper.ready.is_set():
            return "items"
        return None if self._lessons is not None else "model"

    async def on_start(self) -> None:
        """Begin where the last process committed, or at the end."""
        self._consumer = AIOKafkaConsumer(
            **connection(self._settings), group_id=learner_group(self._settings), enable_auto_commit=False
        )
        await self._consumer.start()
        places = self._places()
        self._consumer.assign(places)
        ends = await self._consumer.end_offsets(places)
        committed = {place: await self._consumer.committed(place) for place in places}
        for place in places:
            self._consumer.seek(place, ends[place] if committed[place] is None else committed[place])
        if any(offset is not None for offset in committed.values()):
            behind = sum(ends[place] - offset for place, offset in committed.items() if offset is not None)
            log.info("reads on: %d records have come since", behind)
        await self._commit(places)

    async def on_shutdown(self) -> None:
        """Leave the broker."""
        if self._consumer is not None:
            await self._consumer.stop()
        self._learning.shutdown()

    @Service.task  # type: ignore[untyped-decorator]
    async def _learn(self) -> None:
        consumer = self._consumer
        if consumer is None:
            raise RuntimeError("the learner has not started")
        await self._swapper.ready.wait()
        log.info("ready: learns on what workers rank with, now %s", self.personalizer.model)
        while not self.should_stop:
            fetched = await consumer.getmany(timeout_ms=FETCH_MS, max_records=FETCH_MOST)
            for ended in await self._run(self._take, [record for records in fetched.values() for record in records]):
                await self._finish(ended)
            if fetched:
                await self._commit(fetched)

    async def _commit(self, places: Iterable[TopicPartition]) -> None:
        if self._consumer is not None:
            positions = {place: await self._consumer.position(place) for place in places}
            await self._consumer.commit({place: OffsetAndMetadata(offset, "") for place, offset in positions.items()})

    def _places(self) -> list[TopicPartition]:
        wanted = (self._names.events, self._names.recommendations, self._names.profiles)
        return [TopicPartition(topic.name, partition) for topic in wanted for partition in range(topic.partitions)]

    async def _run(self, job: Any, *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._learning, job, *given)

    def _take(self, records: Sequence[Any]) -> list[Round]:
        """Learn from fetched records; runs in the learning thread."""
        self._follow_model()
        lessons = self._lessons
        if lessons is None:
            self.counted.left_out.labels("no model").inc(len(records))
            return []
        before, events, lists = lessons.examples, self._events(records), self._listed(records)
        ended = [*lessons.happened(events), *lessons.listed(lists)]
        if events:
            lessons.joins.close(max(float(event.at) for event in events))
        self.counted.examples.inc(lessons.examples - before)
        self.counted.open.set(len(lessons.joins))
        return ended

    def _follow_model(self) -> None:
        """Learn on whatever ranks now, unless it is what was learnt."""
        if self.personalizer.model == self._model:
            return
        self._model = self.personalizer.model
        if self._model == ZERO_SHOT:
            self._lessons = None
            log.warning("workers rank with the zero-shot model, which has nothing to learn on: publish one and use it")
        elif self._lessons is None or self._lessons.rounds.service.head.version != self._model:
            self._begin(self._swapper.shelf.bundle(self._model))

    def _begin(self, base: Bundle) -> None:
        plan = plan_of(self._settings)
        try:
            self._lessons = Lessons(self.personalizer, base, 60.0 * self._settings.learn_window_minutes, plan)
            log.info("learns on model %s", base.head.version)
        except OnlineError as error:
            self._lessons = None
            log.error("nothing is learnt: %s", error)

    def _events(self, records: Sequence[Any]) -> list[Event]:
        events = []
        for record in records:
            if record.topic == self._names.events.name:
                try:
                    events.append(decode_event(record.value or b"", record.timestamp / 1000.0))
                except BadMessage:  # the workers' dead letter
                    self.counted.left_out.labels("bad event").inc()
        for event in events:
            if event.type == ERASE:
                self._pairs.forget(event.user_id)
        return events

    def _listed(self, records: Sequence[Any]) -> list[Listed]:
        """Return the lists that have found their profiles."""
        found = [self._pair(record) for record in records if record.topic != self._names.events.name]
        return [listed for listed in found if listed is not None]

    def _pair(self, record: Any) -> Listed | None:
        if not record.value or is_mark(record):  # erased, or a fence
            return None
        try:
            if record.topic == self._names.profiles.name:
                return self._pairs.profile(record.key.decode(), record.value)
            told = _lists.decode(record.value)
        except (RecordError, msgspec.DecodeError, UnicodeDecodeError) as error:
            self.counted.left_out.labels("unreadable").inc()
            log.warning("left out: %s/%d@%d: %s", record.topic, record.partition, record.offset, error)
            return None
        if is_of_another(told, self.personalizer.model):
            self.counted.left_out.labels("another model").inc()
            return None
        return self._pairs.list(told) if self._is_drawn(told) else None

    def _is_drawn(self, told: RecommendationList) -> bool:
        drawn = int.from_bytes(blake2b(told.list_id.encode(), digest_size=4).digest(), "little")
        return drawn < self._settings.learn_share * 2**32

    async def _finish(self, ended: Round) -> None:
        """Say what a round came to, and put what it chose into service."""
        log.info("round %d: %s is %s", ended.number, ended.proposed, ended.verdict)
        self.counted.versions.labels(ended.verdict.outcome).inc()
        self.counted.gain.set(ended.verdict.gain.mean)
        if ended.chosen is not None:
            await asyncio.to_thread(_publish, self._settings, ended.chosen)
            self.counted.published.inc()
            why = "it is better" if ended.back is None else f"what was learnt since is not: {ended.back}"
            log.info("model %s is to rank from now on: %s", ended.chosen.head.version, why)


def _publish(settings: Settings, chosen: Bundle) -> None:
    releases.publish(settings, chosen)
    releases.use(settings, chosen.head.version)


def run_learner(settings: Settings) -> int:
    """Learn until SIGTERM or SIGINT; return the exit code: 0 stopped by a signal, 1 crashed, 2 refused to start."""
    rebootstrap.install()
    fetching.install()
    os.umask(0o077)
    set_up_logging(settings)
    try:
        held = ground(settings, check_learner_rights)
    except REFUSALS as error:
        for line in str(error).splitlines():
            log.error("%s", line)
        return EXIT_REFUSED
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    worker = Worker(Learning(settings, held), loop=loop, quiet=True, override_logging=False, redirect_stdouts=False)
    try:
        worker.execute_from_commandline()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        held.state.close()
    return 0
