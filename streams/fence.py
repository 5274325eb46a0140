"""Fences: one producer for each partition of the profiles' changelog, which only its owner of now can use.

A worker that was frozen, and taken for dead, may go on with sends of before: they must not reach the changelog behind its
successor's. Kafka hands out the id and epoch of a producer by a name that all workers share, one epoch higher each time. The
new owner takes the name, and writes one record under the new epoch before it reads the changelog: from then on the partition
refuses whatever the old owner sends. (The fencing of KIP-98; no transaction is ever begun, so nobody waits for one to end.)

Does not know profiles. Sends of one partition are idempotent and in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from streams.batching import without_transactions
from streams.connection import connection
from streams.settings import Settings

MARK = b"\x00fence"  # key of the record that raises a fence: no user id has a control character
STOP_S = 5.0


class Fences:
    """The producers of the partitions that this worker owns. All calls from one event loop."""

    def __init__(self, settings: Settings, changelog: str) -> None:
        self._settings, self._changelog = settings, changelog
        self._producers: dict[int, AIOKafkaProducer] = {}

    async def put_up(self, partitions: Iterable[int]) -> None:
        """Fence off every earlier owner of these partitions, ourselves included; those not named are given up.

        Raises KafkaError: then nothing may be read or written.
        """
        before, self._producers = self._producers, {}
        wanted = sorted(partitions)
        made = await asyncio.gather(*[self._take(partition) for partition in wanted])
        self._producers = dict(zip(wanted, made, strict=True))
        await _stop(before)

    def producer(self, partition: int) -> AIOKafkaProducer:
        """Return the producer of a partition that is ours."""
        return self._producers[partition]

    async def stop(self) -> None:
        """Give up all partitions."""
        before, self._producers = self._producers, {}
        await _stop(before)

    async def _take(self, partition: int) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **connection(self._settings),
            transactional_id=f"{self._changelog}-{partition}",
            linger_ms=0,
            max_batch_size=262_144,
        )
        await producer.start()
        without_transactions(producer)
        await producer.send_and_wait(self._changelog, key=MARK, value=None, partition=partition)
        return producer


async def _stop(producers: Mapping[int, AIOKafkaProducer]) -> None:
    """Stop producers, all at once: with Kafka away each takes STOP_S."""

    async def stop(producer: AIOKafkaProducer) -> None:
        with suppress(KafkaError, TimeoutError):  # fenced off, as it should be, or Kafka is away
            await asyncio.wait_for(producer.stop(), STOP_S)

    await asyncio.gather(*map(stop, producers.values()))


def is_mark(record: Any) -> bool:
    """Tell whether a changelog record is a fence's and no profile's."""
    return bool(record.key == MARK)
