"""More than it can bear, a broker that is away, and a million events: what a worker's memory, lag and lists do.

`python -m benchmarks.endure` runs three nodes of Apache Kafka and one worker (hashing encoder) on 127.0.0.1:

overload   The worker's rate is measured in a backlog. Then that many events times `--times` are sent a second, for `--seconds`;
           each second lag, resident memory, lists and rebalances are written down, until the lag is zero again.
away       All nodes stop for `--away` seconds under a light load, and start again; recovery is counted from when they answer.
life       `--events` clicks, and resident memory after each tenth of them.

At the end `benchmarks.oracle` checks that nothing was lost, counted twice or left without a list.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from rich.console import Console

from benchmarks import oracle, stage, texts
from benchmarks.cluster import NODES, Cluster, cluster
from benchmarks.crowd import ITEMS, Load, Watch, publish_items
from benchmarks.stage import BenchmarkError, Message, Worker
from streams.broker import HOST, BrokerError
from streams.kafka import create_topics, topics, wait_for_broker
from streams.messages import Event, encode
from streams.settings import Settings, load

FOLDER = Path(".headrace/endure")
PARTITIONS = 6
BACKLOG = 30_000
SENDERS = 2


@dataclass
class Stand:
    """What is measured with, and what was found."""

    given: argparse.Namespace
    settings: Settings
    worker: Worker
    kafka: Cluster
    console: Console
    found: dict[str, Any] = field(default_factory=dict)
    sent: int = 0
    _rng: random.Random = field(default_factory=lambda: random.Random(1))
    _items: list[str] = field(default_factory=lambda: [item.item_id for item in texts.items(ITEMS)])

    def memory_mb(self) -> float:
        """Return the worker's resident memory."""
        return float(psutil.Process(self.worker.pid).memory_info().rss / 1e6)

    def lag(self) -> int:
        """Return how many events are behind the group's commit."""
        topic = topics(self.settings).events.name
        return sum(left for place, left in oracle.uncommitted(self.settings).items() if place.topic == topic)

    def send(self, count: int) -> None:
        """Send clicks."""
        stage.send(self.settings, topics(self.settings).events, (self._click() for _ in range(count)))

    def send_for(self, rate: float, seconds: float) -> float:
        """Send clicks at a rate from several threads; return the rate that was reached."""
        began, before = time.monotonic(), self.sent

        def work() -> None:
            share = max(1, int(rate / SENDERS / 10))
            while (since := time.monotonic() - began) < seconds:
                self.send(share)
                time.sleep(max(0.0, 0.1 - (time.monotonic() - began - since)))

        threads = [threading.Thread(target=work) for _ in range(SENDERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return (self.sent - before) / (time.monotonic() - began)

    def drain(self) -> float:
        """Wait until nothing is behind; return the seconds."""
        began = time.monotonic()
        self.worker.until(lambda: self.lag() == 0, "the lag to be zero", 0.2)
        return time.monotonic() - began

    def _click(self) -> Message:
        self.sent += 1
        user = f"u{self._rng.randrange(self.given.users)}"
        event = Event(
            event_id=f"e{self.sent}", user_id=user, type="click", at=time.time(), item_id=self._rng.choice(self._items)
        )
        return Message(user.encode(), encode(event))


def overload(stand: Stand) -> None:
    """Send far more than the worker can bear."""
    stand.worker.end()
    stand.send(BACKLOG)
    stand.worker.start()
    stand.worker.until_ready()
    rate = BACKLOG / stand.drain()
    stand.console.print(f"the worker's own rate: {rate:,.0f} events a second")
    before, lists = stand.memory_mb(), stand.worker.metric("headrace_lists_total")
    reached: list[float] = []
    sender = threading.Thread(target=lambda: reached.append(stand.send_for(rate * stand.given.times, stand.given.seconds)))
    sender.start()
    curve: list[dict[str, float]] = []
    began = time.monotonic()
    while sender.is_alive() or curve[-1]["lag"] > 0:
        time.sleep(1.0)
        stand.worker.check()
        now = stand.worker.metric("headrace_lists_total")
        curve.append(
            {
                "s": round(time.monotonic() - began, 1),
                "lag": stand.lag(),
                "mb": round(stand.memory_mb(), 1),
                "lists": now - lists,
                "partitions": stand.worker.metric("headrace_partitions"),
            }
        )
        lists = now
        if len(curve) % 5 == 1:
            stand.console.print("  ".join(f"{name} {value:,.0f}" for name, value in curve[-1].items()))
    stand.found["overload"] = {
        "own_per_s": round(rate),
        "sent_per_s": round(reached[0]),
        "seconds": stand.given.seconds,
        "lag_most": max(point["lag"] for point in curve),
        "mb_before": round(before, 1),
        "mb_most": max(point["mb"] for point in curve),
        "seconds_to_zero": curve[-1]["s"],
        "partitions_least": min(point["partitions"] for point in curve),
        "events_a_list": round((reached[0] * stand.given.seconds) / max(1.0, sum(point["lists"] for point in curve)), 1),
    }


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


PARTS = {"overload": overload, "away": away, "life": life}


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
        stand = Stand(given, settings, worker, kafka, console)
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
