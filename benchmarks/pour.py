"""Clicks by the ten thousand a second, as a process of its own: `python -m benchmarks.pour` writes one line of JSON.

Knows nothing of the worker. Whole batches are handed to the producer, one for each partition and turn: 8 us an event, where
sending them one by one takes 80.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from itertools import count
from typing import Any

from aiokafka import AIOKafkaProducer

from benchmarks import texts
from benchmarks.crowd import ITEMS
from streams.connection import connection
from streams.messages import Event, encode
from streams.settings import Settings, load
from streams.topics import partition_of, topics

TURN_S = 0.05
MOST = 4_000  # events of a turn when no rate bounds them
UNDER_WAY = 64  # batches without an acknowledgement
BATCH_BYTES = 262_144


class Pourer:
    """Sends clicks of random users on random items. number: of the first event; the ids tell later ones from earlier."""

    def __init__(self, settings: Settings, users: int, number: int) -> None:
        self._topic = topics(settings).events
        self._producer = AIOKafkaProducer(**connection(settings), linger_ms=0, max_batch_size=BATCH_BYTES, acks="all")
        keys = [f"u{user}".encode() for user in range(users)]
        self._users = [(key, key.decode(), partition_of(key, self._topic.partitions)) for key in keys]
        self._items = [item.item_id for item in texts.items(ITEMS)]
        self._rng = random.Random(number)
        self._numbers = count(number)
        self._under_way: set[asyncio.Future[object]] = set()

    async def run(self, rate: float, seconds: float, most: int) -> int:
        """Send `rate` events a second (0: as many as can be), for some seconds or until `most` are sent; return how many."""
        await self._producer.start()
        began, sent = time.monotonic(), 0
        try:
            while sent < most and (since := time.monotonic() - began) < seconds:
                due = min(most, sent + MOST if not rate else round(rate * since))
                if due > sent:
                    await self._send(min(due - sent, MOST))
                    sent += min(due - sent, MOST)
                else:
                    await asyncio.sleep(TURN_S)
            await asyncio.gather(*self._under_way)
        finally:
            await self._producer.stop()
        return sent

    async def _send(self, events: int) -> None:
        batches: dict[int, Any] = {}
        for _ in range(events):
            key, user, partition = self._rng.choice(self._users)
            value = encode(
                Event(
                    event_id=f"e{next(self._numbers)}",
                    user_id=user,
                    type="click",
                    at=time.time(),
                    item_id=self._rng.choice(self._items),
                )
            )
            batch = batches.get(partition)
            if batch is None:
                batch = batches[partition] = self._producer.create_batch()
            if batch.append(key=key, value=value, timestamp=None) is None:
                await self._hand_over(batches, partition)
                batches[partition] = self._producer.create_batch()
                batches[partition].append(key=key, value=value, timestamp=None)
        for partition in list(batches):
            await self._hand_over(batches, partition)

    async def _hand_over(self, batches: dict[int, Any], partition: int) -> None:
        while len(self._under_way) >= UNDER_WAY:
            done, self._under_way = await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        batch = batches.pop(partition)
        batch.close()
        self._under_way.add(await self._producer.send_batch(batch, self._topic.name, partition=partition))


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line; settings come from the environment."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pour", description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=0.0, help="events a second; 0 is as many as can be")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--most", type=int, default=sys.maxsize, help="end after so many events")
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--number", type=int, default=0, help="of the first event")
    parsed = parser.parse_args(given)
    began = time.monotonic()

    async def pour() -> int:
        return await Pourer(load(), parsed.users, parsed.number).run(parsed.rate, parsed.seconds, parsed.most)

    sent = asyncio.run(pour())
    print(json.dumps({"sent": sent, "seconds": round(time.monotonic() - began, 3)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
