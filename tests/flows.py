"""A world for the tests of the whole flow: topics of its own, events in, lists out, workers as processes.

Does not know what is tested. Everything waits for a condition with a deadline; nothing sleeps for a guessed time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from counting import unpacked
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from streams.connection import connection
from streams.fence import is_mark
from streams.settings import Settings
from streams.topics import Topic, partition_of, topics

HERE = Path(__file__).parent
T = TypeVar("T")


def eventually(look: Callable[[], T], wanted: Callable[[T], bool], timeout_s: float = 60.0) -> T:
    """Look until what is seen is wanted, and return it; fail with what was seen last."""
    deadline = time.monotonic() + timeout_s
    while True:
        seen = look()
        if wanted(seen):
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout_s} s it is still {str(seen)[:2000]}")
        time.sleep(0.05)


class Worker:
    """A worker process, its log in a file."""

    program: Sequence[str] = (str(HERE / "counting.py"),)

    def __init__(self, settings: Settings, folder: Path, slow_s: float = 0.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"worker-{time.time_ns()}.log"
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
            **{f"HEADRACE_{name.upper()}": _text(value) for name, value in settings.model_dump(exclude_defaults=True).items()},
            "COUNTING_SLOW_S": str(slow_s),
            "PYTHONPATH": f"{HERE.parent}:{HERE}",
        }
        with self.log.open("wb") as output:
            command = [sys.executable, *self.program]
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)

    def ready(self, timeout_s: float = 90.0) -> Worker:
        """Return when it turns events into lists."""
        eventually(self.said, lambda said: "ready in" in said or self.process.poll() is not None, timeout_s)
        assert self.process.poll() is None, self.said()
        return self

    def said(self) -> str:
        """Return its log."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """End it without a chance to finish."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s: float = 60.0) -> int:
        """Ask it to stop, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}={number}" for name, number in value.items())
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


class World:
    """Topics of their own, with a producer and readers."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.topics = topics(settings)
        self.workers: list[Worker] = []
        self._producer = KafkaProducer(**connection(settings))
        self._readers: dict[str, tuple[KafkaConsumer, list[Any]]] = {}
        self._sent = 0

    def start(self, slow_s: float = 0.0, **changes: Any) -> Worker:
        """Start a worker."""
        self.workers.append(Worker(self.settings.model_copy(update=changes), self.folder, slow_s))
        return self.workers[-1]

    def event(self, user: str, **fields: Any) -> dict[str, Any]:
        """Return an event, a search if nothing else is said."""
        self._sent += 1
        return {"event_id": f"e{self._sent}", "user_id": user, "type": "search", "at": time.time(), "text": "tea", **fields}

    def send(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Produce events under their user's key."""
        for event in events:
            self.send_raw(self.topics.events, event["user_id"].encode(), json.dumps(event).encode())
        self._producer.flush()

    def send_raw(self, topic: Topic, key: bytes | None, value: bytes | None, partition: int | None = None) -> None:
        """Produce one record, by murmur2 of its key unless a partition is given."""
        place = partition if partition is not None else partition_of(key or b"", topic.partitions)
        self._producer.send(topic.name, key=key, value=value, partition=place)

    def flush(self) -> None:
        """Return when all that was produced is acknowledged."""
        self._producer.flush()

    def records(self, topic: Topic) -> list[Any]:
        """Return all records of a topic so far."""
        if topic.name not in self._readers:
            consumer = KafkaConsumer(**connection(self.settings), auto_offset_reset="earliest", enable_auto_commit=False)
            consumer.assign([TopicPartition(topic.name, partition) for partition in range(topic.partitions)])
            self._readers[topic.name] = (consumer, [])
        consumer, found = self._readers[topic.name]
        for fetched in consumer.poll(timeout_ms=100).values():
            found.extend(fetched)
        return found

    def messages(self, topic: Topic) -> list[dict[str, Any]]:
        """Return all messages of a topic so far."""
        return [json.loads(record.value) for record in self.records(topic) if record.value]

    def lists(self) -> dict[str, dict[str, Any]]:
        """Return each user's newest list."""
        return {message["user_id"]: message for message in self.messages(self.topics.recommendations)}

    def counts(self) -> dict[str, int]:
        """Return how many events each user's newest list has counted."""
        return {user: int(message["items"][0]["item_id"][1:]) for user, message in self.lists().items()}

    def stored_counts(self) -> dict[str, int]:
        """Return how many events each user's profile in the changelog has counted."""
        found = [record for record in self.records(self.topics.profiles) if not is_mark(record)]
        newest = {record.key.decode(): record.value for record in found}
        return {user: int(unpacked(record)["count"]) for user, record in newest.items()}

    def close(self) -> None:
        """End everything that is still open."""
        for worker in self.workers:
            worker.kill()
        self._producer.close()
        for consumer, _ in self._readers.values():
            consumer.close()


def users(count: int) -> Sequence[str]:
    """Return user ids."""
    return [f"user{number}" for number in range(count)]
