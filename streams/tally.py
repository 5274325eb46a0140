"""The signals agent: interactions to signals, counted in memory, published each second. Does not know Faust."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from streams.batching import Outgoing, acknowledged
from streams.desk import Desk, Refused
from streams.inlet import Batch
from streams.messages import Interaction, decode_interactions, encode
from streams.signals import SignalCounter
from streams.topics import partition_of

FLUSH_S = 1.0  # an item's signals are published at most this often


class SignalsStep:
    """Interactions to signals: counted in memory, published each second, acknowledged when published."""

    def __init__(
        self,
        desk: Desk,
        counter: SignalCounter,
        ready: Callable[[], Awaitable[None]],
        draining: asyncio.Event,
        partitions: int,
    ) -> None:
        self.desk, self.counter = desk, counter
        self._ready = ready
        self._draining = draining
        self._partitions = partitions
        self._changed: set[str] = set()
        self._letters: list[Outgoing] = []
        self._round: asyncio.Future[None] | None = None

    async def ready(self) -> None:
        """Wait until the signals that an earlier owner of these partitions published are read."""
        await self._ready()

    async def prepare(self, batch: Batch) -> list[Interaction]:
        """Decode. Raises NewerMessage: then nothing is acknowledged, and a newer worker counts them."""
        good: list[Interaction] = []
        refused: list[Refused] = []
        for record in batch.records:
            try:
                good.extend(decode_interactions(record.value or b"").interactions)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                refused.append(Refused(record, "message", str(error)))
        self._letters += self.desk.dead_letters(refused)
        return good

    async def apply(self, batch: Batch, prepared: list[Interaction]) -> list[Interaction]:
        """Nothing yet: counts outlive the session."""
        return prepared

    async def send(self, batch: Batch, applied: list[Interaction]) -> asyncio.Future[None]:
        """Count; what is returned is done when the counts are published."""
        counted = await asyncio.to_thread(self.counter.count, applied)
        self._changed |= counted  # not in one statement with await: a flush meanwhile puts another set in its place
        self.desk.metrics.interactions.inc(len(applied))
        if self._round is None:
            self._round = asyncio.get_running_loop().create_future()
        return self._round

    async def finish(self, batch: Batch, sent: asyncio.Future[None]) -> None:
        """Wait for the round that publishes the batch."""
        await asyncio.shield(sent)

    async def beside(self) -> None:
        """Publish what changed, each second, or at once when the partitions are to be given up."""
        while True:
            try:
                async with asyncio.timeout(FLUSH_S):
                    await self._draining.wait()
                await asyncio.sleep(0.01)  # what is just being counted
            except TimeoutError:
                pass
            await self._flush()

    async def _flush(self) -> None:
        published, self._round = self._round, None
        if published is None:
            return
        changed, self._changed = self._changed, set()
        letters, self._letters = self._letters, []
        messages = await asyncio.to_thread(self._messages, changed)
        await acknowledged(await self.desk.outbox.send(messages + letters))
        published.set_result(None)

    def _messages(self, changed: set[str]) -> list[Outgoing]:
        topic = self.desk.topics.item_signals.name
        keyed = [(record.item_id.encode(), record) for record in self.counter.records(list(changed))]
        return [Outgoing(topic, partition_of(key, self._partitions), key, encode(record)) for key, record in keyed]
