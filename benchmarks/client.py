"""The users of a benchmark, as a process of their own: events at their time, lists as they arrive.

Knows nothing of the worker. `python -m benchmarks.client open ...` sends events at random times (Poisson) of a fixed rate and
never waits for an answer. An event's latency runs from the moment it was *due* to the moment its list is in this process, so
that neither a slow worker nor a slow client hides what users would wait (coordinated omission). A list answers its user's
events up to the one it names. `... probe` does the same in the background while items are published one after another, each
worded as what a probing user then searches for every 50 ms until a list holds it. Each item has a user of its own: hundreds of
searches within the last hour would outweigh the next wish, as they should.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks import texts
from benchmarks.texts import Words
from streams.connection import connection
from streams.messages import Event, Item, RecommendationList, encode
from streams.settings import Settings, load
from streams.topics import partition_of, topics

FETCH_WAIT_MS = 10
GRACE_S = 30.0  # how long after the last event lists may still come
PROBE_S = 0.05
PROBER = "prober-"
GIVE_UP_S = 30.0

_lists = msgspec.json.Decoder(RecommendationList)


class _Head(msgspec.Struct):
    """The part of a list that tells what it answers."""

    user_id: str
    event_id: str


_heads = msgspec.json.Decoder(_Head)


@dataclass
class Sent:
    """Events under way. due: Unix time each had to go out; late_s: how much later it did; taken_s: from due to its list."""

    due: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    taken_s: list[float] = field(default_factory=list)
    _waiting: dict[str, deque[int]] = field(default_factory=dict)

    def note(self, user_id: str, due: float, now: float) -> str:
        """Note an event as sent and return its id."""
        number = len(self.due)
        self.due.append(due)
        self.late_s.append(now - due)
        self.taken_s.append(float("inf"))
        self._waiting.setdefault(user_id, deque()).append(number)
        return f"b{number}"

    def answered(self, user_id: str, event_id: str, now: float) -> None:
        """Note a list: it answers all of the user's events up to the one it names."""
        waiting = self._waiting.get(user_id)
        if not waiting or not event_id.startswith("b"):
            return
        newest = int(event_id[1:])
        while waiting and waiting[0] <= newest:
            number = waiting.popleft()
            self.taken_s[number] = now - self.due[number]

    @property
    def unanswered(self) -> int:
        """How many have no list yet."""
        return sum(len(waiting) for waiting in self._waiting.values())


class Client:
    """A producer and a reader of all lists, in one event loop. Times are Unix seconds off one monotonic clock."""

    def __init__(self, settings: Settings) -> None:
        self.topics = topics(settings)
        self.sent = Sent()
        self.prober_lists: asyncio.Queue[tuple[float, RecommendationList]] = asyncio.Queue()
        self._producer = AIOKafkaProducer(**connection(settings), linger_ms=0)
        self._consumer = AIOKafkaConsumer(
            **connection(settings), group_id=None, enable_auto_commit=False, fetch_max_wait_ms=FETCH_WAIT_MS
        )
        self._offset = time.time() - time.perf_counter()
        self._tasks: list[asyncio.Future[Any]] = []

    def now(self) -> float:
        """Return the time."""
        return time.perf_counter() + self._offset

    async def start(self) -> None:
        """Connect, and read lists from now on."""
        await self._producer.start()
        await self._consumer.start()
        wanted = self.topics.recommendations
        places = [TopicPartition(wanted.name, number) for number in range(wanted.partitions)]
        self._consumer.assign(places)
        await self._consumer.seek_to_end(*places)
        self._tasks.append(asyncio.ensure_future(self._read()))

    async def stop(self) -> None:
        """Disconnect."""
        for task in self._tasks:
            task.cancel()
        await self._producer.stop()
        await self._consumer.stop()

    async def put(self, topic: Any, key: str, value: bytes) -> None:
        """Send without waiting for the acknowledgement."""
        raw = key.encode()
        await self._producer.send(topic.name, key=raw, value=value, partition=partition_of(raw, topic.partitions))

    async def send_words(self, user_id: str, words: Words, due: float) -> None:
        """Send one text event."""
        event_id = self.sent.note(user_id, due, self.now())
        event = Event(event_id=event_id, user_id=user_id, type=words.kind, at=due, text=words.text)  # type: ignore[arg-type]
        await self.put(self.topics.events, user_id, encode(event))

    async def flow(self, rate: float, seconds: float, users: int, words: list[Words], seed: int) -> None:
        """Send text events of random users at random times for a while."""
        rng = random.Random(seed)
        due = self.now()
        until = due + seconds
        for number in range(sys.maxsize):
            due += rng.expovariate(rate)
            if due > until:
                return
            if (wait := due - self.now()) > 0:
                await asyncio.sleep(wait)
            await self.send_words(f"u{rng.randrange(users)}", words[number % len(words)], due)

    async def settle(self) -> None:
        """Wait until every event has its list, or the grace is over."""
        give_up = self.now() + GRACE_S
        while self.sent.unanswered and self.now() < give_up:
            await asyncio.sleep(0.02)

    async def _read(self) -> None:
        while True:
            fetched = await self._consumer.getmany(timeout_ms=1_000)
            now = self.now()
            for records in fetched.values():
                for record in records:
                    head = _heads.decode(record.value)
                    self.sent.answered(head.user_id, head.event_id, now)
                    if head.user_id.startswith(PROBER):
                        self.prober_lists.put_nowait((now, _lists.decode(record.value)))


async def open_loop(client: Client, given: argparse.Namespace) -> dict[str, Any]:
    """Send for `warm_up` + `seconds`; save due times and latencies of the second part."""
    words = texts.words(given.words)
    await client.flow(given.rate, given.warm_up, given.users, words, 1)
    await client.settle()
    start = len(client.sent.due)
    print("measuring", flush=True)  # whoever loads items meanwhile begins now
    await client.flow(given.rate, given.seconds, given.users, words, 2)
    await client.settle()
    sent = client.sent
    np.savez(given.out, due=sent.due[start:], taken_s=sent.taken_s[start:], late_s=sent.late_s[start:])
    return {"events": len(sent.due) - start, "unanswered": sent.unanswered}


async def probe(client: Client, given: argparse.Namespace) -> dict[str, Any]:
    """Publish items one after another and probe for each; return seconds from its publishing to the first list with it."""
    words = texts.words(given.words)
    background = asyncio.ensure_future(client.flow(given.rate, 1e6, given.users, words, 3))
    await asyncio.sleep(given.warm_up)
    wishes = [each for each in reversed(words) if each.kind == "search"][: given.count]
    taken = [await _probe_one(client, f"new-{number}", wish) for number, wish in enumerate(wishes)]
    background.cancel()
    await client.settle()
    return {"taken_s": [each if np.isfinite(each) else None for each in taken]}


async def _probe_one(client: Client, item_id: str, wish: Words) -> float:
    due = client.now()
    item = Item(item_id=item_id, title=wish.text, category="new")
    await client.put(client.topics.items, item_id, encode(item))
    searching = asyncio.ensure_future(_search(client, PROBER + item_id, wish))
    try:
        async with asyncio.timeout(GIVE_UP_S):
            while True:
                at, found = await client.prober_lists.get()
                if any(each.item_id == item_id for each in found.items):
                    return at - due
    except TimeoutError:
        return float("inf")
    finally:
        searching.cancel()


async def _search(client: Client, user_id: str, wish: Words) -> None:
    while True:
        await client.send_words(user_id, wish, client.now())
        await asyncio.sleep(PROBE_S)


async def main(given: argparse.Namespace) -> None:
    """Run one of the two, and print what came of it as one line of JSON."""
    client = Client(load())
    await client.start()
    gc.collect()
    gc.disable()  # a collection here would count as the worker's latency; a run makes a few MB of garbage
    try:
        result = await {"open": open_loop, "probe": probe}[given.what](client, given)
    finally:
        await client.stop()
    print(msgspec.json.encode(result).decode())


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("open", "probe"))
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--warm-up", type=float, default=3.0)
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--words", type=int, required=True)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--out", type=Path)
    return parser.parse_args(given)


if __name__ == "__main__":
    asyncio.run(main(arguments()))
