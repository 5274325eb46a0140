"""Records come in, in offset order and without a hole, and leave in batches of what waits. Knows neither Kafka nor Faust.

HoleError(RuntimeError)   an event that the broker has never reached the pipeline: the process has to end unacknowledged
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

HIGH_RECORDS = 40_000  # a paused partition waits up to 1.5 s for the next fetch: half of this keeps the fastest agent busy
HIGH_BYTES = 64 << 20  # and events of 1 MB must not fill the memory
BACKLOG_FACTOR = 4  # this many full batches waiting are a backlog: larger batches share more lists and fewer waits


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
        self._idle_since = 0.0  # by time.monotonic

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

    async def calm(self, rest_s: float) -> None:
        """Return when nothing waits or is in work, for `rest_s` seconds by now, and nothing is given up."""
        while True:
            await self._idle.wait()
            left_s = self._idle_since + rest_s - time.monotonic()
            if left_s <= 0 and not self._waiting and not self.draining.is_set():
                return
            await asyncio.sleep(left_s if left_s > 0 else rest_s)

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
            self._idle_since = time.monotonic()

    async def drained(self) -> None:
        """Ask the pipeline to hurry, and wait until what it took is finished."""
        self.draining.set()
        await self._idle.wait()


def _size(record: Record) -> int:
    return len(record.value) if record.value is not None else 0
