"""A crowd of users for `benchmarks.chaos`: mixed events at a steady rate, and the lists that come of them. Threads of its own.

Events: clicks and the like, comments, searches and wishes; some late, some sent twice under one id, some no events at all.
"""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import msgspec
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from benchmarks import stage, texts
from benchmarks.stage import BenchmarkError
from ranking.index import ItemIndex
from streams.building import load_encoder
from streams.catalogue import Catalogue, apply
from streams.connection import BrokerUnreachable
from streams.kafka import open_consumer, open_producer
from streams.messages import Event, encode
from streams.reading import assign
from streams.settings import Settings
from streams.topics import topics

ITEMS = 400
GIVE_UP_S = 90.0
SILENT_S = 10.0  # without a list from a partition, in a crowd that gets tens of them a second
ANSWER_MS = 3_000
LATE_S = 10 * 86_400.0
BAD = (b"{", b"\xff\xfe", b'{"event_id": "x", "user_id": "u", "type": "dance", "at": 1}', b'{"user_id": 7}')


def publish_items(settings: Settings) -> None:
    """Publish the items' vectors: the oracle needs them as they were when the events came."""
    encoder = load_encoder(settings)
    made = [(item, time.time()) for item in texts.items(ITEMS)]
    index = ItemIndex(encoder.dim, encoder.id)
    vectors = Catalogue(encoder).vectors(made, index)
    apply(vectors, index)
    topic = topics(settings).item_vectors
    stage.send(settings, topic, (stage.Message(each.item_id.encode(), encode(each)) for each in vectors))


class _Head(msgspec.Struct):
    event_id: str


_heads = msgspec.json.Decoder(_Head)


class Load:
    """Mixed events at a steady rate, in a thread of its own. sent: event number -> Unix time it was handed over."""

    def __init__(self, settings: Settings, rate: float, users: int, seed: int) -> None:
        self.settings, self.rate, self.users = settings, rate, users
        self.sent: list[float] = []
        self.failed: list[BaseException] = []
        self._rng = random.Random(seed)
        self._words = texts.words(500)
        self._items = [item.item_id for item in texts.items(ITEMS)]
        self._last = b""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, with everything acknowledged by the brokers. Raises what a send failed with."""
        self._stop.set()
        self._thread.join()
        if self.failed:
            raise BenchmarkError(f"{len(self.failed)} events were not taken by Kafka: {self.failed[0]!r}")

    def _run(self) -> None:
        topic = topics(self.settings).events
        given = {"acks": "all", "enable_idempotence": True, "linger_ms": 2, "delivery_timeout_ms": 120_000}
        given |= {"request_timeout_ms": ANSWER_MS, "metadata_max_age_ms": ANSWER_MS}  # or it may hang on a lost node for 30 s
        with open_producer(self.settings, **given) as producer:
            due = time.monotonic()
            while not self._stop.is_set():
                due += self._rng.expovariate(self.rate)
                time.sleep(max(0.0, due - time.monotonic()))
                user = f"u{self._rng.randrange(self.users)}"
                producer.send(topic.name, key=user.encode(), value=self._event(user)).add_errback(self.failed.append)

    def _event(self, user: str) -> bytes:
        rng, now = self._rng, time.time()
        draw = rng.random()
        self.sent.append(now)
        if draw < 0.003:
            return rng.choice(BAD)
        at = now - rng.random() * LATE_S if draw < 0.05 else now
        fields: dict[str, Any] = {"type": rng.choice(("click", "click", "click", "view", "purchase", "like", "dislike"))}
        fields["item_id"] = rng.choice(self._items)
        if draw > 0.6:
            words = rng.choice(self._words)
            fields = {"type": words.kind, "text": words.text}
        elif draw > 0.55:
            fields = {"type": "wish", "text": "less " + rng.choice(self._words).text}
        elif draw > 0.52:
            fields |= {"type": "rating", "rating": float(rng.randint(1, 5))}
        number = len(self.sent) - 1
        if draw > 0.98 and number:  # a producer's own retry: an id that came before
            number -= 1
        return encode(Event(event_id=f"c{number}", user_id=user, at=at, **fields))


class Watch:
    """Reads all lists, in a thread of its own. reached: partition -> send time of the newest event that has a list."""

    def __init__(self, settings: Settings, load_: Load) -> None:
        self.settings, self.load = settings, load_
        self.reached = dict.fromkeys(range(settings.partitions), 0.0)
        self.lists = 0
        self._positions: dict[TopicPartition, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join()

    def until(self, moment: float, what: str) -> float:
        """Wait until every partition has a list for an event sent after a moment; return the seconds from it."""
        give_up = time.monotonic() + GIVE_UP_S
        while min(self.reached.values()) < moment:
            if time.monotonic() > give_up:
                behind = sorted(partition for partition, at in self.reached.items() if at < moment)
                told = "\n".join(stand(self.settings, partition) for partition in behind)
                raise BenchmarkError(f"no lists from partitions {behind} {GIVE_UP_S:.0f} s after {what}\n{told}")
            time.sleep(0.02)
        return time.time() - moment

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except (KafkaError, BrokerUnreachable):  # a node is away
                time.sleep(0.1)

    def _follow(self) -> None:
        """Read on until the stop, or until a partition is silent: a reader can lose a node for good without a word."""
        with open_consumer(self.settings) as consumer:
            places = assign(consumer, topics(self.settings).recommendations)
            if not self._positions:
                consumer.seek_to_end(*places)
                self._positions = {place: consumer.position(place) for place in places}
            for place, offset in self._positions.items():
                consumer.seek(place, offset)
            heard = dict.fromkeys(places, time.monotonic())
            while not self._stop.is_set() and time.monotonic() - min(heard.values()) < SILENT_S:
                heard |= dict.fromkeys(self._read(consumer), time.monotonic())

    def _read(self, consumer: KafkaConsumer) -> list[TopicPartition]:
        """Take what has come; return the partitions it came from."""
        fetched = consumer.poll(timeout_ms=100)
        for place, found in fetched.items():
            for record in found:
                event_id = _heads.decode(record.value).event_id
                if event_id.startswith("c") and record.value:
                    self.lists += 1
                    sent = self.load.sent[int(event_id[1:])]
                    self.reached[place.partition] = max(self.reached[place.partition], sent)
            self._positions[place] = found[-1].offset + 1
        return list(fetched)


def stand(settings: Settings, partition: int) -> str:
    """Return how far a partition's events and lists are, as Kafka tells it: who is behind, the load, a worker or the reader."""
    named = topics(settings)
    events, lists = (TopicPartition(topic.name, partition) for topic in (named.events, named.recommendations))
    with open_consumer(settings, group_id=settings.app_id) as consumer:
        ends = consumer.end_offsets([events, lists])
        committed = consumer.committed(events)
    return f"partition {partition}: {ends[events]} events, {committed} of them committed, {ends[lists]} lists"
