"""What a benchmark plays on: a broker, its topics, one worker as a process, and the producer's and reader's side of them.

Does not know what is measured. All on 127.0.0.1; nothing outlives the block.

    BenchmarkError(RuntimeError)   the worker or a client ended, or something did not come in time: says where the log is
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil  # type: ignore[import-untyped]
from kafka import KafkaConsumer, TopicPartition

from streams.broker import HOST, BrokerError, end_with_parent, start_apache, start_embedded
from streams.kafka import open_consumer, open_producer
from streams.settings import PREFIX, Settings
from streams.topics import Topic, partition_of

WAIT_S = 300.0
POLL_S = 0.25
CALM = 30.0  # % of a core: on busy cores one that only asks the embedded broker for news took more than 15, for 5 minutes


class BenchmarkError(RuntimeError):
    """A process ended, or something did not come in time."""


class Message(NamedTuple):
    """A record to send."""

    key: bytes
    value: bytes


@contextmanager
def broker(kind: str, folder: Path) -> Iterator[str]:
    """Run a broker, `embedded` or `kafka`, for the block, and yield its address; its data are removed at the end."""
    if kind == "kafka" and not os.environ.get("KAFKA_HOME"):
        raise BrokerError("KAFKA_HOME is not set: point it at an unpacked Apache Kafka 4, or choose --broker embedded")
    start = start_embedded(folder) if kind == "embedded" else start_apache(Path(os.environ["KAFKA_HOME"]), folder)
    try:
        with start as running:
            yield running.address
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment in which a child process loads these settings."""
    own = {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
    return own | {PREFIX + name.upper(): _text(value) for name, value in settings.model_dump(exclude_defaults=True).items()}


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}={number}" for name, number in value.items())
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


class Worker:
    """`headrace worker` as a process; it can be stopped, killed and started again."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self.settings, self.log = settings, log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it and return when that was, by time.perf_counter."""
        with self.log.open("ab") as output:
            began = time.perf_counter()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "streams", "worker"],
                env=environment(self.settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent(),
            )
        return began

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal and wait for the end."""
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def check(self) -> None:
        """Raise BenchmarkError when it has ended."""
        if self._process is not None and self._process.poll() is not None:
            lines = self.log.read_text(errors="replace").strip().splitlines() or ["no output"]
            raise BenchmarkError(f"the worker ended with {self._process.returncode}: {lines[-1]} (all of it: {self.log})")

    def until(self, is_done: Callable[[], bool], what: str, pause_s: float = POLL_S, wait_s: float = WAIT_S) -> None:
        """Wait until something is done. Raises BenchmarkError when the worker ends before, or after `wait_s`."""
        give_up = time.monotonic() + wait_s
        while not is_done():
            self.check()
            if time.monotonic() > give_up:
                raise BenchmarkError(f"waited {wait_s:.0f} s for {what}: read {self.log}")
            time.sleep(pause_s)

    def until_ready(self) -> None:
        """Wait until it turns events into lists."""
        self.until(self._is_ready, "the worker to be ready", 0.05)

    def until_calm(self) -> None:
        """Wait until it does next to nothing: an index is trained, signals are published."""
        process = psutil.Process(self.pid)
        process.cpu_percent()
        self.until(lambda: process.cpu_percent() < CALM, "the worker to calm down", 1.0)

    def metric(self, name: str) -> float:
        """Return the sum of a metric's samples."""
        with urllib.request.urlopen(self._url("metrics"), timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + " ", name + "{")))

    @property
    def pid(self) -> int:
        """Its process id."""
        if self._process is None:
            raise BenchmarkError("the worker does not run")
        return self._process.pid

    def _url(self, path: str) -> str:
        return f"http://{self.settings.web_host}:{self.settings.web_port}/{path}"

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(self._url("health"), timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False  # it does not listen yet, or says 503


@contextmanager
def worker(settings: Settings, log: Path) -> Iterator[Worker]:
    """Yield a worker that is not started; it is ended at the end of the block."""
    own = Worker(settings, log)
    try:
        yield own
    finally:
        own.end()


def send(settings: Settings, topic: Topic, messages: Iterable[Message], tell: Callable[[int], None] = lambda n: None) -> None:
    """Produce messages and return when all are acknowledged. `tell` hears how many were handed over."""
    failures: list[BaseException] = []
    with open_producer(settings, linger_ms=5, batch_size=1 << 17) as producer:
        for number, message in enumerate(messages, 1):
            place = partition_of(message.key, topic.partitions)
            producer.send(topic.name, key=message.key, value=message.value, partition=place).add_errback(failures.append)
            if number % 1_000 == 0:
                tell(number)
    if failures:
        raise BenchmarkError(f"{len(failures)} messages were not taken by {topic.name}: {failures[0]}")


class Ends(NamedTuple):
    """The end offset of each partition of a topic."""

    topic: str
    offsets: dict[int, int]

    @property
    def total(self) -> int:
        """Their sum."""
        return sum(self.offsets.values())


def ends(settings: Settings, topic: Topic) -> Ends:
    """Return where a topic ends now."""
    with open_consumer(settings) as consumer:
        return ends_by(consumer, topic)


def ends_by(consumer: KafkaConsumer, topic: Topic) -> Ends:
    """Return where a topic ends now, asked by a consumer that is open already."""
    found = consumer.end_offsets([TopicPartition(topic.name, number) for number in range(topic.partitions)])
    return Ends(topic.name, {place.partition: int(offset) for place, offset in found.items()})


def until_acknowledged(own: Worker, topic: Topic) -> None:
    """Wait until the worker has committed all that a topic of its group holds now."""
    # A consumer that joins nothing: it only asks for the group's offsets, twice a second.
    with open_consumer(own.settings, group_id=own.settings.app_id) as consumer:
        wanted = ends_by(consumer, topic).offsets

        def is_done() -> bool:
            places = [TopicPartition(topic.name, number) for number in wanted]
            return all(int(consumer.committed(place) or 0) >= wanted[place.partition] for place in places)

        own.until(is_done, f"{topic.name} to be worked off", 0.5)


class Covered(msgspec.Struct):
    """What is measured of a list."""

    user_id: str
    event_id: str
    covers: int


_lists = msgspec.json.Decoder(Covered)


def lists_between(settings: Settings, first: Ends, last: Ends) -> list[tuple[float, Covered]]:
    """Return the lists between two ends of the topic, each with the Unix time at which the worker handed it to its producer."""
    found: list[tuple[float, Covered]] = []
    offsets = {number: end for number, end in last.offsets.items() if end > first.offsets[number]}
    wanted = {TopicPartition(first.topic, number): end for number, end in offsets.items()}
    with open_consumer(settings, max_partition_fetch_bytes=4 << 20, max_poll_records=5_000) as consumer:
        consumer.assign(list(wanted))
        for place in wanted:
            consumer.seek(place, first.offsets[place.partition])
        while any(consumer.position(place) < end for place, end in wanted.items()):
            for records in consumer.poll(timeout_ms=500).values():
                found.extend(
                    (record.timestamp / 1_000.0, _lists.decode(record.value))
                    for record in records
                    if record.offset < last.offsets[record.partition]
                )
    return found


def child(settings: Settings, module: str, arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a module of the benchmarks as a process, with these settings; it writes one JSON line to its standard output."""
    with log.open("ab") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            preexec_fn=end_with_parent(),
        )


def answer(process: subprocess.Popen[bytes], log: Path, timeout_s: float = WAIT_S) -> dict[str, Any]:
    """Wait for a child's JSON line and return it. Raises BenchmarkError."""
    try:
        said, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"a client did not end in {timeout_s:.0f} s: read {log}") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise BenchmarkError(f"a client ended with {process.returncode}: read {log}")
    result: dict[str, Any] = msgspec.json.decode(said.splitlines()[-1])
    return result


def free_port() -> int:
    """Return a port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def open_reader(settings: Settings) -> AbstractContextManager[KafkaConsumer]:
    """Open a consumer that belongs to no group, to ask for ends."""
    return open_consumer(settings)
