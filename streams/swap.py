"""A worker's follower of the topic of models: loads the one that is asked for beside the one that ranks, and swaps them.

Does not know events. The one in service ranks on until the other has placed every item and made a list of its own; a swap is
one assignment between two batches, so no event waits for it or is lost. A model that cannot be used is refused with a line in
the log, and the one in service goes on; it is tried again when anything comes of it. Models that variants of an experiment name
are loaded beside it, as soon as they are there, and stay.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from mode import Service

from ranking.bundle import BundleError
from ranking.index import ItemIndex
from ranking.learned import Learned
from ranking.profile import Touch, key_of, new_profile
from ranking.ranker import ZeroShot
from streams.connection import connection
from streams.messages import NewerMessage
from streams.metrics import Metrics
from streams.models import CURRENT, ZERO_SHOT, Shelf
from streams.personalizer import Personalizer
from streams.settings import Settings
from streams.topics import Topic

log = logging.getLogger("headrace.models")

FETCH_MS = 200
FETCH_MOST = 8  # of 0.9 MB each
REHEARSED = 20  # touches of the profile that a model makes its first list for


class Swapper(Service):  # type: ignore[misc]  # mode is untyped to mypy here
    """Follows the topic from its start to its stop. `ready` is set once the model asked for by then ranks, or is refused.

    shelf: what the topic holds, from the start on.
    index: that of the personalizer. known: returns when all items are in it. ranking: the thread that makes the lists; models
    change places there, so that each list names the one that made it.
    """

    def __init__(
        self,
        settings: Settings,
        topic: Topic,
        personalizer: Personalizer,
        index: ItemIndex,
        known: Callable[[], Awaitable[object]],
        ranking: Executor,
        metrics: Metrics,
    ) -> None:
        super().__init__()
        self.ready = asyncio.Event()
        self._settings, self._personalizer, self._index, self._known = settings, personalizer, index, known
        self._ranking, self._metrics = ranking, metrics
        self._place = TopicPartition(topic.name, 0)
        self._loading = ThreadPoolExecutor(1, "models")
        self._in_service, self._refused = ZERO_SHOT, ""
        self._of_variants: dict[str, Learned] = {}
        self._waiting: set[str] = set()  # versions that variants name and that cannot be used as they are
        self._consumer: AIOKafkaConsumer | None = None
        metrics.model.labels(ZERO_SHOT).set(1)

    async def on_start(self) -> None:
        """Begin to read at the beginning: there are few messages."""
        self.shelf = Shelf(self._settings.state_dir / "models")
        self._consumer = AIOKafkaConsumer(
            **connection(self._settings), group_id=None, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        await self._consumer.start()
        self._consumer.assign([self._place])
        self._consumer.seek(self._place, (await self._consumer.beginning_offsets([self._place]))[self._place])

    async def on_shutdown(self) -> None:
        """Leave the broker, once the task has ended."""
        if self._consumer is not None:
            await self._consumer.stop()
        self._loading.shutdown()

    @Service.task  # type: ignore[untyped-decorator]
    async def _follow(self) -> None:
        consumer = self._consumer
        if consumer is None:
            raise RuntimeError("the follower of models has not started")
        end = (await consumer.end_offsets([self._place]))[self._place]
        while not self.should_stop:
            fetched = await consumer.getmany(timeout_ms=FETCH_MS, max_records=FETCH_MOST)
            if records := fetched.get(self._place):
                await self._run(self._take, records)
            if self.ready.is_set():
                await self._swap()
                await self._arm()
            elif await consumer.position(self._place) >= end:  # what was in use before does not matter any more
                await self._known()
                await self._swap()
                await self._arm()
                self.ready.set()

    async def _run(self, job: Callable[..., Any], *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._loading, job, *given)

    def _take(self, records: Sequence[Any]) -> None:
        """Take fetched records in; runs in the loading thread."""
        for record in records:
            key = (record.key or b"").decode(errors="replace")
            try:
                self.shelf.take(key, record.value)
            except (NewerMessage, ValueError, msgspec.DecodeError, OSError) as error:
                self._refuse(f"{record.topic}@{record.offset} ({key})", error)
            if key in (CURRENT, self._refused):  # asked for again, or published again: its own message comes last
                self._refused = ""
            self._waiting.discard(key)

    async def _swap(self) -> None:
        """Put the model that is asked for into service, unless it is there or was refused."""
        version, began = self.shelf.current, time.monotonic()
        if version in (self._in_service, self._refused):
            return
        try:
            model = await self._run(self._load, version)
        except Exception as error:  # whatever is wrong with a model, the one in service goes on
            self._refuse(f"model {version}", error)
            self._refused = version
            return
        await asyncio.get_running_loop().run_in_executor(self._ranking, self._personalizer.use, model)
        self._in_service = version
        self._metrics.model.clear()
        self._metrics.model.labels(version).set(1)
        self._metrics.swaps.inc()
        log.info("model %s ranks from now on, loaded in %.1f s", version, time.monotonic() - began)

    async def _arm(self) -> None:
        """Have the variants that name a version rank with it, unless they do, or it cannot be used."""
        for version in self._personalizer.named_models - self._of_variants.keys() - self._waiting:
            try:
                model = await self._run(self._load, version)
            except Exception as error:  # as above
                self._metrics.models_refused.inc()
                log.error("model %s of a variant is refused, its users are in no variant meanwhile: %s", version, _said(error))
                self._waiting.add(version)
            else:
                await asyncio.get_running_loop().run_in_executor(self._ranking, self._personalizer.use_for_variants, model)
                self._of_variants[version] = model
                log.info("model %s ranks for its variant from now on", version)
            self._metrics.variants_waiting.set(len(self._waiting))

    def _load(self, version: str) -> ZeroShot | Learned:
        """Return a model that has made a list; runs in the loading thread. Raises what is wrong with it."""
        if version == ZERO_SHOT:
            return ZeroShot()
        if version in self._of_variants:  # it need not be there twice
            return self._of_variants[version]
        in_service = self._personalizer.maker.model
        if isinstance(in_service, Learned) and in_service.name == version:
            return in_service
        model = Learned(self.shelf.bundle(version), self._index)  # which gives lists their turn between items
        self._rehearse(model)
        return model

    def _rehearse(self, model: Learned) -> None:
        """Make a list for somebody who touched some items, as what is wrong with a model may show only there."""
        with self._index.lock:
            items = [item.item_id for item in self._index.items[:REHEARSED] if item is not None]
        at = time.time()
        profile = msgspec.structs.replace(
            new_profile(self._index.dim, key_of(self._index.encoder_id)),
            at=at,
            touches=[Touch(item_id, "click", 1.0, at) for item_id in items],
        )
        replace(self._personalizer.maker, model=model).lists([profile], at)

    def _refuse(self, what: str, error: Exception) -> None:
        self._metrics.models_refused.inc()
        log.error("%s is refused, %s ranks on: %s", what, self._in_service, _said(error))


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, BundleError | NewerMessage | msgspec.MsgspecError) else repr(error)
