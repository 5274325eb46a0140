"""An idle consumer asks a broker that does not wait a few times, not thousands of times, and misses nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.consumer.fetcher import Fetcher
from flows import World

from streams import fetching
from streams.settings import Settings

IDLE_S = 0.5


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every fetch that is sent, by its node."""
    asked: list[int] = []
    as_it_comes = fetching._without_rest

    async def count(fetcher: Fetcher, assignment: object, node_id: int, request: object) -> bool:
        asked.append(node_id)
        return bool(await as_it_comes(fetcher, assignment, node_id, request))

    monkeypatch.setattr(fetching, "_without_rest", count)
    monkeypatch.setattr(Fetcher, "_proc_fetch_request", count)
    return asked


def idle(settings: Settings, asked: list[int]) -> tuple[float, bytes]:
    """Consume two partitions where nothing comes; return the fetches a second meanwhile, and what came then."""

    topic = f"{settings.topic_prefix}events"

    async def wait() -> tuple[float, bytes]:
        consumer = AIOKafkaConsumer(bootstrap_servers=settings.broker, auto_offset_reset="earliest")
        producer = AIOKafkaProducer(bootstrap_servers=settings.broker)
        await consumer.start()
        await producer.start()
        try:
            consumer.assign([TopicPartition(topic, 0), TopicPartition(topic, 1)])
            await producer.send_and_wait(topic, b"first", partition=0)
            await consumer.getone()
            asked.clear()
            began = time.monotonic()
            await asyncio.sleep(IDLE_S)  # or longer, on a busy machine
            fetches = len(asked) / (time.monotonic() - began)
            await producer.send_and_wait(topic, b"second", partition=1)
            return fetches, (await consumer.getone()).value
        finally:
            await producer.stop()
            await consumer.stop()

    return asyncio.run(wait())


def test_as_it_comes_it_spins(embedded_world: Callable[..., World], counted: list[int]) -> None:
    """The defect is there: when this fails, the embedded broker has learnt to wait and streams/fetching.py can go."""
    waiting = 2  # fetches a second of a broker that waits for the half second that it is asked to
    assert idle(embedded_world().settings, counted)[0] > 20 * waiting


def test_it_rests(embedded_world: Callable[..., World], counted: list[int]) -> None:
    """With rests, what comes is still seen."""
    fetching.install()
    fetches, came = idle(embedded_world().settings, counted)
    assert 0 < fetches <= 1 / fetching.REST_S + 1 / IDLE_S
    assert came == b"second"
