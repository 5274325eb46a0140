"""The signals agent's rounds: what is counted while a round is published belongs to the next one."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from ranking.signals import Signals
from streams.inlet import Batch
from streams.messages import Interaction, NewerMessage
from streams.metrics import Metrics
from streams.signals import SignalCounter
from streams.tally import SignalsStep


class SlowCounter(SignalCounter):
    """Counts, and returns only when told."""

    def __init__(self) -> None:
        super().__init__(Signals())
        self.may_return = threading.Event()
        self.may_return.set()

    def count(self, batch: Any) -> set[str]:
        """Count at once, return late."""
        changed = super().count(batch)
        assert self.may_return.wait(60)
        return changed


def touch(item_id: str, offset: int) -> Interaction:
    """Return one touch of an item."""
    return Interaction(item_id=item_id, after=(), weight=1.0, at=1e9, source=(0, offset))


def made(counter: SignalCounter, send: Any) -> SignalsStep:
    """Return the agent's step on one partition, whose outgoing records `send` gets."""

    async def ready() -> None:
        """Nothing to wait for."""

    topics = SimpleNamespace(item_signals=SimpleNamespace(name="item-signals"), dead_letters=None)
    desk: Any = SimpleNamespace(topics=topics, metrics=Metrics(), outbox=SimpleNamespace(send=send))
    return SignalsStep(desk, counter, ready, asyncio.Event(), 1)


async def test_counted_while_a_round_is_published() -> None:
    """Items counted while a round goes out are published with the next, and the round that goes out is left as it is."""
    rounds: list[list[bytes]] = []

    async def send(records: Any) -> list[Any]:
        rounds.append([record.key for record in records])
        return []

    counter = SlowCounter()
    step = made(counter, send)
    batch = Batch(1, [])
    await step.send(batch, [touch("a", 0)])
    counter.may_return.clear()
    late = asyncio.ensure_future(step.send(batch, [touch("b", 1)]))
    await asyncio.sleep(0.05)
    await step._flush()
    counter.may_return.set()
    await late
    await step._flush()
    assert rounds == [[b"a"], [b"b"]]


async def test_newer_interactions_end_the_agent() -> None:
    """Interactions that only a newer version reads are no dead letters: they are left for a worker that reads them."""
    record: Any = SimpleNamespace(value=b'{"interactions":[],"format":2}')
    with pytest.raises(NewerMessage, match="Interactions of format 2, this version reads up to 1: upgrade it"):
        await made(SlowCounter(), None).prepare(Batch(1, [record]))
