"""More than it can bear, a broker that is away, and a million events: what a worker's memory, lag and lists do.

`python -m benchmarks.endure` runs three nodes of Apache Kafka and one worker (hashing encoder) on 127.0.0.1:

overload   The worker's rate is measured in a backlog. Then that many events times `--times` are sent a second, for `--seconds`;
           each second lag, resident memory, lists and partitions served are written down, until the lag is zero again.
readers    A backlog is worked off three times: with no reader of lists, with one that takes a list a second, and with one that
           stands still after the first (SIGSTOP). Seconds of each.
away       All nodes stop for `--away` seconds under a light load, and start again; recovery is counted from when they answer.
life       `--events` clicks, and resident memory after each tenth of them.

At the end `benchmarks.oracle` checks that nothing was lost, counted twice or left without a list.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from rich.console import Console

from benchmarks import oracle, stage
from benchmarks.cluster import NODES, Cluster, cluster
from benchmarks.crowd import Load, Watch, publish_items
from benchmarks.stage import BenchmarkError, Worker
from streams.broker import HOST, BrokerError, end_with_parent
from streams.kafka import open_consumer, wait_for_broker
from streams.settings import Settings, load
from streams.topics import create_topics, topics

FOLDER = Path(".headrace/endure")
PARTITIONS = 6
BACKLOG = 60_000
SHOWN_EACH = 5  # seconds between two lines of the curve on the screen


@dataclass
class Stand:
    """What is measured with, and what was found."""

    given: argparse.Namespace
    settings: Settings
    worker: Worker
    kafka: Cluster
    console: Console
    log: Path
    found: dict[str, Any] = field(default_factory=dict)
    sent: int = 0

    def memory_mb(self) -> float:
        """Return the worker's resident memory."""
        return float(psutil.Process(self.worker.pid).memory_info().rss / 1e6)

    def lag(self) -> int:
        """Return how many events are behind the group's commit."""
        topic = topics(self.settings).events.name
        return sum(left for place, left in oracle.uncommitted(self.settings).items() if place.topic == topic)

    def pour(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a process that sends clicks, numbered on from the last ones."""
        given = ["--users", str(self.given.users), "--number", str(self.sent), *arguments]
        return stage.child(self.settings, "benchmarks.pour", given, self.log)

    def poured(self, process: subprocess.Popen[bytes]) -> float:
        """Wait until it has sent them all; return how many it sent a second."""
        answer = stage.answer(process, self.log, 4 * stage.WAIT_S)
        self.sent += answer["sent"]
        return float(answer["sent"] / answer["seconds"])

    def send(self, count: int) -> None:
        """Send clicks."""
        self.poured(self.pour("--most", str(count)))

    def drain(self) -> float:
        """Wait until nothing is behind; return the seconds."""
        began = time.monotonic()
        self.worker.until(lambda: self.lag() == 0, "the lag to be zero", 0.2, 4 * stage.WAIT_S)
        return time.monotonic() - began


def overload(stand: Stand) -> None:
    """Send far more than the worker can bear."""
    rate = BACKLOG / backlog(stand)
    stand.console.print(f"the worker's own rate: {rate:,.0f} events a second")
    before, listed = stand.memory_mb(), stand.worker.metric("headrace_lists_total")
    sender = stand.pour("--rate", str(rate * stand.given.times), "--seconds", str(stand.given.seconds))
    curve: list[dict[str, float]] = []
    began = time.monotonic()
    while sender.poll() is None or curve[-1]["lag"] > 0:
        time.sleep(1.0)
        stand.worker.check()
        now = stand.worker.metric("headrace_lists_total")
        curve.append(
            {
                "s": round(time.monotonic() - began, 1),
                "lag": stand.lag(),
                "mb": round(stand.memory_mb(), 1),
                "lists": now - listed,
                "partitions": stand.worker.metric("headrace_partitions"),
            }
        )
        listed = now
        if len(curve) % SHOWN_EACH == 1:
            stand.console.print("  ".join(f"{name} {value:,.0f}" for name, value in curve[-1].items()))
    sent = -stand.sent
    reached = stand.poured(sender)
    sent += stand.sent
    stand.found["overload"] = {
        "own_per_s": round(rate),
        "sent_per_s": round(reached),
        "seconds": stand.given.seconds,
        "lag_most": max(point["lag"] for point in curve),
        "mb_before": round(before, 1),
        "mb_most": max(point["mb"] for point in curve),
        "seconds_to_zero": curve[-1]["s"],
        "partitions_least": min(point["partitions"] for point in curve),
        "events_a_list": round(sent / max(1.0, sum(point["lists"] for point in curve)), 1),
        "curve": curve[:: max(1, len(curve) // 12)],
    }


def backlog(stand: Stand) -> float:
    """Have a backlog worked off by a worker that starts; return the seconds from when it is ready."""
    stand.worker.end()
    stand.send(BACKLOG)
    stand.worker.start()
    stand.worker.until_ready()
    return stand.drain()


def readers(stand: Stand) -> None:
    """Work off a backlog beside readers of lists of three kinds."""
    taken = {"none": backlog(stand)}
    for kind, pause_s in (("slow", 1.0), ("dead", None)):
        with reader(stand, pause_s):
            taken[kind] = backlog(stand)
        stand.console.print(f"{BACKLOG:,} events, reader {kind}: {taken[kind]:.1f} s, without {taken['none']:.1f}")
    stand.found["readers_s"] = {kind: round(seconds, 1) for kind, seconds in taken.items()}


@contextmanager
def reader(stand: Stand, pause_s: float | None) -> Iterator[None]:
    """Read lists in a process for the block, in a group; it pauses after each, or is stopped for good after the first."""
    follow = f"from benchmarks.endure import read_lists; read_lists({pause_s or 0.0})"
    process = subprocess.Popen(
        [sys.executable, "-c", follow],
        env=stage.environment(stand.settings),
        stdout=subprocess.PIPE,
        preexec_fn=end_with_parent(),
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        if pause_s is None:
            process.send_signal(signal.SIGSTOP)
        yield
    finally:
        process.kill()
        process.communicate()


def read_lists(pause_s: float) -> None:
    """Read all lists in a group of its own, one at a time; say so once, at the first."""
    topic = topics(settings := load()).recommendations
    with open_consumer(settings, group_id="reader-of-lists", max_poll_records=1) as consumer:
        consumer.subscribe([topic.name])
        is_first = True
        while True:
            if consumer.poll(timeout_ms=1_000):
                if is_first:
                    print("reading", flush=True)
                is_first = False
                time.sleep(pause_s)


def away(stand: Stand) -> None:
    """Stop all nodes for a while."""
    crowd = Load(stand.settings, 20.0, stand.given.users, seed=2)
    watch = Watch(stand.settings, crowd)
    watch.start()
    crowd.start()
    watch.until(time.time(), "the start")
    stand.kafka.stop()
    stand.console.print(f"all nodes are away for {stand.given.away:g} s")
    time.sleep(stand.given.away)
    for node in range(NODES):
        stand.kafka.start(node)
    wait_for_broker(stand.settings, 120.0)
    taken = watch.until(time.time(), "the nodes' return")
    crowd.stop()
    watch.stop()
    stand.drain()
    stand.found["away"] = {"away_s": stand.given.away, "recovery_s": round(taken, 2)}


def life(stand: Stand) -> None:
    """Send a million events, and look at the memory."""
    tenth = stand.given.events // 10
    memory = []
    for number in range(1, 11):
        stand.send(tenth)
        stand.drain()
        memory.append(round(stand.memory_mb(), 1))
        stand.console.print(f"{number * tenth:>10,} events  {memory[-1]:.0f} MB")
    stand.found["life"] = {"events": 10 * tenth, "mb": memory}


PARTS = {"overload": overload, "readers": readers, "away": away, "life": life}


def play(given: argparse.Namespace, console: Console) -> tuple[dict[str, Any], oracle.Verdict]:
    """Run the parts and check. Raises BenchmarkError, BrokerError."""
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    with ExitStack() as stack:
        kafka = stack.enter_context(cluster(given.folder / "kafka"))
        settings = load(
            broker=kafka.address,
            encoder="hashing",
            app_id="endure",
            partitions=PARTITIONS,
            replication=NODES,
            web_host=HOST,
            web_port=stage.free_port(),
            state_dir=given.folder / "state",
        )
        create_topics(settings)
        publish_items(settings)
        worker = stack.enter_context(stage.worker(settings, given.folder / "worker.log"))
        stand = Stand(given, settings, worker, kafka, console, given.folder / "senders.log")
        worker.start()
        worker.until_ready()
        for part in given.parts:
            PARTS[part](stand)
        stand.drain()
        console.print("[dim]folding the whole log in one thread")
        return stand.found, oracle.check(settings)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endure", description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--times", type=float, default=10.0, help="times the worker's own rate")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the overload")
    parser.add_argument("--away", type=float, default=60.0, help="seconds without Kafka")
    parser.add_argument("--events", type=int, default=1_000_000, help="events of the long life")
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="made anew by each run; holds the logs")
    parser.add_argument("--json", action="store_true", help="print one line of JSON last")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code: 1 when anything is wrong, 2 for what could not be run."""
    parsed = arguments(given)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        found, verdict = play(parsed, Console(stderr=True))
    except (BenchmarkError, BrokerError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    wrong = {name: getattr(verdict, name) for name in oracle.WRONGS}
    for line in verdict.said:
        print(line)
    print(json.dumps(found | {"wrong": wrong, "checked": verdict.events}) if parsed.json else found | {"wrong": wrong})
    return 0 if verdict.is_right else 1


if __name__ == "__main__":
    sys.exit(main())
