"""Fences: whoever owned a partition before can write to its changelog no more, from before the new owner reads it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka.errors import KafkaError, ProducerFenced

from streams.fence import MARK, Fences, is_mark
from streams.reading import records
from streams.settings import Settings, load
from streams.topics import create_topics, topics


@pytest.fixture(params=[pytest.param("kafka", marks=pytest.mark.kafka), pytest.param("embedded", marks=pytest.mark.embedded)])
def settings(request: pytest.FixtureRequest) -> Settings:
    """Return settings with topics of their own on each broker."""
    name = f"fence-{request.param}-{request.node.originalname}".replace("_", "-")
    address = request.getfixturevalue(f"{request.param}_address")
    made = load(broker=address, encoder="hashing", app_id=name, topic_prefix=f"{name}.", partitions=2)
    create_topics(made)
    return made


@asynccontextmanager
async def owner(settings: Settings, *partitions: int) -> AsyncIterator[Callable[[int, bytes], Any]]:
    """Yield a function that sends a value as the owner of partitions."""
    changelog = topics(settings).profiles.name
    fences = Fences(settings, changelog)
    await fences.put_up(partitions)

    async def send(partition: int, value: bytes) -> None:
        await asyncio.wait_for(
            fences.producer(partition).send_and_wait(changelog, key=b"ann", value=value, partition=partition), 60
        )

    try:
        yield send
    finally:
        await fences.stop()


async def test_an_earlier_owner_is_kept_out(settings: Settings) -> None:
    """After another worker has put up its fence, what the old owner sends is refused; its other partitions go on."""
    async with owner(settings, 0, 1) as old:
        await old(0, b"old 1")
        async with owner(settings, 0) as new:
            with pytest.raises(ProducerFenced):
                await old(0, b"zombie")
            await new(0, b"new 1")
            await old(1, b"old 2")
    written = list(records(settings, topics(settings).profiles))
    values = [record.value for record in written if not is_mark(record)]
    assert sorted(values) == [b"new 1", b"old 1", b"old 2"]
    assert [record.value for record in written if record.key == MARK] == [None] * 3


async def test_fences_are_put_up_anew(settings: Settings) -> None:
    """A worker that keeps a partition, or takes it back, writes on; one that it gave up it has no producer for."""
    fences = Fences(settings, topics(settings).profiles.name)
    await fences.put_up([0, 1])
    before = fences.producer(0)
    await fences.put_up([0])
    with pytest.raises(KeyError):
        fences.producer(1)
    with pytest.raises(KafkaError):
        await before.send_and_wait(topics(settings).profiles.name, key=b"ann", value=b"late", partition=0)
    await fences.producer(0).send_and_wait(topics(settings).profiles.name, key=b"ann", value=b"now", partition=0)
    await fences.stop()
