"""Micro-batches: take what waits, encode, apply, finish; the next batch is encoded while the last one goes on.

Knows neither Kafka nor Faust: records come in through an `Inlet`, a `Step` says what one agent does with a batch, and what is
finished is acknowledged through a function. There is no timer: while a stage is busy, the next batch grows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from streams.inlet import Batch, Inlet

log = logging.getLogger("headrace.pipeline")
Prepared = TypeVar("Prepared")
Applied = TypeVar("Applied")
Sent = TypeVar("Sent")


class Overlay:
    """Profiles of batches that are not finished: newer than the store's; empty where deleted. Tickets rise with each batch."""

    def __init__(self) -> None:
        self._records: dict[str, tuple[int, bytes]] = {}

    def get(self, user_id: str) -> bytes | None:
        """Return the newest unfinished record of a user."""
        found = self._records.get(user_id)
        return None if found is None else found[1]

    def put(self, ticket: int, records: Mapping[str, bytes]) -> None:
        """Add the records of a batch."""
        for user_id, record in records.items():
            self._records[user_id] = (ticket, record)

    def drop(self, ticket: int, user_ids: Sequence[str] | Mapping[str, bytes]) -> None:
        """Remove a finished batch's records, except those that a later batch replaced."""
        for user_id in user_ids:
            if self._records.get(user_id, (None,))[0] == ticket:
                del self._records[user_id]

    def clear(self) -> None:
        """Forget all: the unfinished batches were dropped."""
        self._records.clear()

    def __len__(self) -> int:
        return len(self._records)


class Step(Protocol[Prepared, Applied, Sent]):
    """What one agent does with a batch, in four stages. `prepare` of the next batch runs beside the others of the last."""

    async def ready(self) -> None:
        """Return when batches of a new session can be taken on."""

    async def prepare(self, batch: Batch) -> Prepared:
        """Decode and encode; change nothing."""

    async def apply(self, batch: Batch, prepared: Prepared) -> Applied:
        """Make of it what is to be sent; change nothing that outlives the session."""

    async def send(self, batch: Batch, applied: Applied) -> Sent:
        """Send it, without waiting for the acknowledgements."""

    async def finish(self, batch: Batch, sent: Sent) -> None:
        """Return when all that was sent is acknowledged and written."""

    async def beside(self) -> None:
        """Run as long as the pipeline does."""


class Pipeline(Generic[Prepared, Applied, Sent]):
    """Runs one agent's step over what comes out of its inlet.

    alive: tells whether a session still owns its partitions. acknowledge: takes partition -> the offset that follows.
    depth: batches that may wait for their acknowledgements.
    """

    def __init__(
        self,
        inlet: Inlet,
        step: Step[Prepared, Applied, Sent],
        *,
        alive: Callable[[int], bool],
        acknowledge: Callable[[str, Mapping[int, int]], None],
        most: int,
        backlog_most: int,
        depth: int = 8,
    ) -> None:
        self.inlet = inlet
        self.step = step
        self._alive = alive
        self._acknowledge = acknowledge
        self._most, self._backlog_most = most, backlog_most
        self._prepared: asyncio.Queue[tuple[Batch, Prepared]] = asyncio.Queue()
        self._sent: asyncio.Queue[tuple[Batch, Sent]] = asyncio.Queue(depth)
        self._ahead = asyncio.Semaphore(2)  # one batch being prepared, one being applied: the others grow in the inlet

    async def run(self) -> None:
        """Run until cancelled. Raises what a stage raised: then nothing that is unfinished may be acknowledged."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._prepare())
            group.create_task(self._apply())
            group.create_task(self._finish())
            group.create_task(self.step.beside())

    async def _prepare(self) -> None:
        session = 0
        while True:
            await self._ahead.acquire()
            batch = await self.inlet.take(self._most, self._backlog_most)
            if batch.session != session and not await self._ready():
                self.inlet.finished(batch)  # not begun: it is read again
                self._ahead.release()
                continue
            session = batch.session
            self._prepared.put_nowait((batch, await self.step.prepare(batch)))

    async def _ready(self) -> bool:
        """Wait until the step is ready; False when the partitions are to be given up before that."""
        waits = [asyncio.ensure_future(self.step.ready()), asyncio.ensure_future(self.inlet.draining.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not waits[0].done():
                return False
            await waits[0]  # raises what it raised
            return True
        finally:
            for wait in waits:
                wait.cancel()

    async def _apply(self) -> None:
        while True:
            batch, prepared = await self._prepared.get()
            if not await self._apply_one(batch, prepared):
                self.inlet.finished(batch)  # unacknowledged: the partitions' new owner reads it
            self._ahead.release()

    async def _apply_one(self, batch: Batch, prepared: Prepared) -> bool:
        if not self._alive(batch.session):
            return False
        applied = await self.step.apply(batch, prepared)
        if not self._alive(batch.session):  # folding took a while, and what is sent cannot be taken back
            return False
        try:
            sent = await self.step.send(batch, applied)
        except Exception as error:
            self._kept_out(batch, error)
            return False
        await self._sent.put((batch, sent))
        return True

    async def _finish(self) -> None:
        while True:
            batch, sent = await self._sent.get()
            if self._alive(batch.session) and await self._finish_one(batch, sent):
                self._acknowledge(self.inlet.topic, batch.ends())
            self.inlet.finished(batch)

    async def _finish_one(self, batch: Batch, sent: Sent) -> bool:
        try:
            await self.step.finish(batch, sent)
        except Exception as error:
            self._kept_out(batch, error)
            return False
        return True

    def _kept_out(self, batch: Batch, error: Exception) -> None:
        """Raise the error of a living session; log that of one that ended: its partitions' new owner refuses our sends."""
        if self._alive(batch.session):
            raise error
        log.info("%d records of %s are left to the partitions' new owner: %r", len(batch.records), self.inlet.topic, error)
