"""Micro-batches: take what waits, encode, apply, finish; the next batch is encoded while the last one goes on.

Knows neither Kafka nor Faust: records come in through an `Inlet`, a `Step` says what one agent does with a batch, and what is
finished is acknowledged through a function. There is no timer: while a stage is busy, the next batch grows.

    HoleError(RuntimeError)   an event that the broker has never reached the pipeline: the process has to end unacknowledged
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

log = logging.getLogger("headrace.pipeline")

HIGH_RECORDS = 40_000  # a paused partition waits up to 1.5 s for the next fetch: half of this keeps the fastest agent busy
HIGH_BYTES = 64 << 20  # and events of 1 MB must not fill the memory
BACKLOG_FACTOR = 4  # this many full batches waiting are a backlog: larger batches share more lists and fewer waits
USERS, ITEMS = 0, 1  # priorities in the encode thread
REST = 2.0

T = TypeVar("T")
R = TypeVar("R")
Prepared = TypeVar("Prepared")
Applied = TypeVar("Applied")
Sent = TypeVar("Sent")


class Record(Protocol):
    """A record as aiokafka gives it. timestamp: Unix milliseconds."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Hole(NamedTuple):
    """Offsets expected to `found` - 1 are missing in one partition."""

    partition: int
    expected: int
    found: int


class HoleError(RuntimeError):
    """Events that the broker has never reached the pipeline; ending unacknowledged makes them be read again."""


class OffsetGuard:
    """Watches that the offsets of each partition follow one another. Every start offset has to be given."""

    def __init__(self) -> None:
        self._next: dict[int, int] = {}

    def restart(self, starts: Mapping[int, int]) -> None:
        """Forget what was seen; `starts`: partition -> the offset that comes first."""
        self._next = dict(starts)

    def holes(self, records: Sequence[Record]) -> list[Hole]:
        """Note the records as seen and return the holes before and between them."""
        holes = []
        for record in records:
            expected = self._next.get(record.partition)
            if expected is None:
                raise HoleError(f"partition {record.partition} of {record.topic} was not assigned, and a record came from it")
            if record.offset != expected:
                holes.append(Hole(record.partition, expected, record.offset))
            self._next[record.partition] = record.offset + 1
        return holes


@dataclass(frozen=True)
class Batch:
    """Records taken at once. A batch of an earlier session must change nothing: its partitions may belong to another worker."""

    session: int
    records: list[Record]

    def ends(self) -> dict[int, int]:
        """Return the offset that follows the batch in each of its partitions."""
        return {record.partition: record.offset + 1 for record in self.records}


class Inlet:
    """The records of one topic that were fetched and not taken yet. All calls from one event loop.

    explain: asked about a hole, returns whether the broker has nothing in it either (retention, transactions' own records).
    """

    def __init__(self, topic: str, explain: Callable[[str, Hole], Awaitable[bool]]) -> None:
        self.topic = topic
        self.session = 0
        self.unfinished = 0
        self.draining = asyncio.Event()
        self._explain = explain
        self._guard = OffsetGuard()
        self._arrived: dict[int, int] = {}  # partition -> offset after the last one put
        self._waiting: deque[Record] = deque()
        self._bytes = 0
        self._some = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def restart(self, session: int, starts: Mapping[int, int]) -> None:
        """Begin a session: records of it come next, from the offsets `starts`."""
        self.clear()
        self.session = session
        self._arrived = dict(starts)
        self._guard.restart(starts)
        self.draining.clear()

    def clear(self) -> None:
        """Forget what was not taken: it will be fetched again."""
        self._waiting.clear()
        self._bytes = 0
        self._some.clear()

    def put(self, records: Sequence[Record]) -> None:
        """Add fetched records of one partition; those that came before (after a seek back) are left out."""
        arrived = self._arrived.get(records[0].partition, 0)
        if records[0].offset < arrived:
            records = [record for record in records if record.offset >= arrived]
        if not records:
            return
        self._arrived[records[0].partition] = records[-1].offset + 1
        self._waiting.extend(records)
        self._bytes += sum(_size(record) for record in records)
        self._some.set()

    @property
    def full(self) -> bool:
        """Whether fetching should pause."""
        return len(self._waiting) > HIGH_RECORDS or self._bytes > HIGH_BYTES

    @property
    def roomy(self) -> bool:
        """Whether fetching can go on."""
        return len(self._waiting) < HIGH_RECORDS // 2 and self._bytes < HIGH_BYTES // 2

    async def take(self, most: int, backlog_most: int) -> Batch:
        """Wait for records and return all that wait: at most `most`, in a backlog at most `backlog_most`. Raises HoleError."""
        while not self._waiting:
            self._some.clear()
            await self._some.wait()
        limit = backlog_most if len(self._waiting) >= BACKLOG_FACTOR * most else most
        records = [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]
        self._bytes -= sum(_size(record) for record in records)
        batch = Batch(self.session, records)
        self.unfinished += len(records)
        self._idle.clear()
        for hole in self._guard.holes(records):
            await self._check(hole, batch)
        return batch

    async def _check(self, hole: Hole, batch: Batch) -> None:
        if await self._explain(self.topic, hole) or batch.session != self.session:
            return
        raise HoleError(
            f"partition {hole.partition} of {self.topic}: offsets {hole.expected} to {hole.found - 1} are on the broker and "
            "never reached the pipeline; nothing is acknowledged, and a restart reads them again"
        )

    def finished(self, batch: Batch) -> None:
        """Say that a batch is acknowledged or dropped."""
        self.unfinished -= len(batch.records)
        if self.unfinished == 0:
            self._idle.set()

    async def drained(self) -> None:
        """Ask the pipeline to hurry, and wait until what it took is finished."""
        self.draining.set()
        await self._idle.wait()


def _size(record: Record) -> int:
    return len(record.value) if record.value is not None else 0


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


class Sifted(NamedTuple, Generic[T, R]):
    """What `sift` found: the result for the good items, and each bad one with its error."""

    good: list[T]
    result: R
    bad: list[tuple[T, Exception]]


async def sift(
    items: Sequence[T],
    attempt: Callable[[Sequence[T]], Awaitable[R]],
    witness: T | None = None,
    fatal: tuple[type[Exception], ...] = (MemoryError,),
) -> Sifted[T, R]:
    """Attempt all items; where that raises, find by halving the single items that raise, and attempt the others.

    `witness` is an item that went through before: when it raises now, the fault lies with the process and not with an item.
    Raises the error when no single item is to blame, and at once those that are `fatal`.
    """
    try:
        return Sifted(list(items), await attempt(items), [])
    except fatal:
        raise
    except Exception as error:
        bad = await _raising(items, range(len(items)), attempt, error)
        if witness is not None:
            await attempt([witness])
        good = [item for place, item in enumerate(items) if place not in bad]
        if not bad:
            raise
    return Sifted(good, await attempt(good), [(items[place], error) for place, error in sorted(bad.items())])


async def _raising(
    items: Sequence[T], places: Sequence[int], attempt: Callable[[Sequence[T]], Awaitable[Any]], error: Exception
) -> dict[int, Exception]:
    """Return the places of the items that raise alone, of a part that raised `error` as a whole."""
    if len(places) <= 1:
        return dict.fromkeys(places, error)
    found: dict[int, Exception] = {}
    for part in (places[: len(places) // 2], places[len(places) // 2 :]):
        try:
            await attempt([items[place] for place in part])
        except Exception as deeper:
            found |= await _raising(items, part, attempt, deeper)
    return found


class EncodeThread:
    """One thread for the model: users' batches go before slices of items, in order within each.

    While users' batches come, a slice of items is followed by a rest REST times as long: what follows the encoding of an event
    needs the processor too.
    """

    def __init__(self) -> None:
        self._users_came = False  # since the last slice of items began
        self._rest_until = 0.0  # by time.monotonic
        self._jobs: list[tuple[int, int, Future[Any], Callable[[], Any]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._work, name="encode", daemon=True)
        self._thread.start()

    async def run(self, priority: int, job: Callable[..., R], *given: Any) -> R:
        """Return what `job(*given)` returns, run in the thread when nothing of a lower number waits."""
        future: Future[R] = Future()
        with self._changed:
            heapq.heappush(self._jobs, (priority, next(self._order), future, lambda: job(*given)))
            self._users_came |= priority == USERS
            self._changed.notify()
        return await asyncio.wrap_future(future)

    def stop(self) -> None:
        """End the thread after the job it is at."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._open and (rest_s := self._rest_s()) != 0.0:
                    self._changed.wait(rest_s)
                if not self._open:
                    return
                priority, _, future, job = heapq.heappop(self._jobs)
                if priority == ITEMS:
                    self._users_came = False
            if future.set_running_or_notify_cancel():
                began = time.monotonic()
                _run(job, future)
                if priority == ITEMS and self._users_came:
                    now = time.monotonic()
                    self._rest_until = now + REST * (now - began)

    def _rest_s(self) -> float | None:
        """Return the seconds until the next job may begin; None where there is none."""
        if not self._jobs:
            return None
        return 0.0 if self._jobs[0][0] == USERS else max(0.0, self._rest_until - time.monotonic())


def _run(job: Callable[[], R], future: Future[R]) -> None:
    try:
        future.set_result(job())
    except BaseException as error:  # it belongs to the waiter, whatever it is
        future.set_exception(error)


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
