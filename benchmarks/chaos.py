"""Kill anything: random faults under a steady load, then every profile against an oracle, byte for byte.

`python -m benchmarks.chaos --rounds 50 --seed 1` starts three nodes of Apache Kafka and three workers as processes, all on
127.0.0.1, and sends mixed events of hundreds of users. Each round makes one fault, drawn from the seed, and waits until every
partition turns events that were sent after it into lists; a worker that ended is started again a second later, as docker would.
At the end `benchmarks.oracle` folds the whole log in one thread and compares. The exit code is 1 when anything is wrong.

recovery_s   From the fault, or where it lasts (nodes stopped, an encoder that fails, a full disk) from its end, until every
             partition has published a list for an event that was sent after that moment.
--break RULE has every worker break a rule (see benchmarks.unruly): the run must then fail.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import oracle, unruly
from benchmarks.cluster import NODES, cluster
from benchmarks.crowd import GIVE_UP_S, Load, Watch, publish_items
from benchmarks.faults import FAULTS, SESSION_S, Scene, Team, small_disk
from benchmarks.figures import percentile
from benchmarks.stage import BenchmarkError
from streams.broker import BrokerError
from streams.settings import Settings, load
from streams.topics import create_topics

FOLDER = Path(".headrace/chaos")
PARTITIONS = 6


@dataclass
class Run:
    """What a run came to. rounds: fault and seconds of recovery; ended: worker and exit code, of those not killed."""

    rounds: list[tuple[str, float]] = field(default_factory=list)
    verdict: oracle.Verdict = field(default_factory=oracle.Verdict)
    ended: list[tuple[int, int]] = field(default_factory=list)
    lists: int = 0

    def line(self, seed: int) -> str:
        """Return the line of JSON."""
        taken = [taken for _, taken in self.rounds]
        counts = Counter(name for name, _ in self.rounds)
        told = {name: getattr(self.verdict, name) for name in oracle.WRONGS}
        speed = {f"recovery_p{share}_s": round(percentile(taken, share / 100), 2) if taken else None for share in (50, 99)}
        beside = {"events": self.verdict.events, "users": self.verdict.users, "lists": self.lists, "seed": seed}
        exits = Counter(str(code) for _, code in self.ended)
        return json.dumps({"rounds": len(self.rounds), **told, **speed, **beside, "faults": counts, "exit_codes": exits})


def play(given: argparse.Namespace, console: Console) -> Run:
    """Run all rounds and check. Raises BenchmarkError, BrokerError."""
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    run = Run()
    with ExitStack() as stack:
        console.print("[dim]starting three nodes of Kafka")
        kafka = stack.enter_context(cluster(given.folder / "kafka"))
        settings = load(
            broker=kafka.address,
            encoder="hashing",
            app_id="chaos",
            partitions=PARTITIONS,
            replication=NODES,
            session_timeout_s=SESSION_S,
            snapshot_s=5.0,
            web_port=0,
        )
        create_topics(settings)
        publish_items(settings)
        team = Team(settings, given.folder, given.rule)
        stack.callback(team.stop)
        disk = stack.enter_context(small_disk()) if "fill-disk" in given.faults else None
        if disk is not None:
            team.states[0] = disk / "worker-0"
        names = [name for name in given.faults if name != "fill-disk" or disk is not None]
        if names != given.faults:
            console.print("[yellow]no small disk can be mounted here (it takes root): fill-disk is left out")
        team.start(given.workers)
        load_ = Load(settings, given.rate, given.users, given.seed)
        watch = Watch(settings, load_)
        watch.start()
        load_.start()
        began = time.time()
        console.print(f"[dim]first lists after {watch.until(began, 'the start'):.1f} s")
        rng = random.Random(given.seed)
        scene = Scene(team, kafka, given.workers, rng, disk)
        for number, name in enumerate(drawn(names, given.rounds, rng), 1):
            taken = one_round(FAULTS[name](scene), watch, name)
            run.rounds.append((name, taken))
            console.print(f"{number:3d}  {name:18s} {taken:6.2f} s")
        load_.stop()
        until_committed(settings)
        watch.stop()
        run.ended, run.lists = list(team.ended), watch.lists
        console.print("[dim]folding the whole log in one thread")
        run.verdict = oracle.check(settings)
    return run


def one_round(fault: Iterator[float], watch: Watch, name: str) -> float:
    """Make a fault; return the seconds until every partition had lists again. At the end all is well."""
    taken = watch.until(next(fault), name)
    for _ in fault:
        raise BenchmarkError(f"{name} yields twice")
    watch.until(time.time() + 1.0, f"the end of {name}")
    return taken


def drawn(names: Sequence[str], rounds: int, rng: random.Random) -> list[str]:
    """Return the faults of the rounds: each as often as any other, in random order."""
    found: list[str] = []
    while len(found) < rounds:
        found += rng.sample(names, len(names))
    return found[:rounds]


def until_committed(settings: Settings) -> None:
    """Wait until the group has committed everything."""
    give_up = time.monotonic() + GIVE_UP_S
    while oracle.uncommitted(settings) and time.monotonic() < give_up:  # the verdict counts what is left
        time.sleep(0.5)


def table(run: Run) -> Table:
    """Return the verdict as a table."""
    verdict = run.verdict
    shown = Table(title=f"{len(run.rounds)} faults, {verdict.events} events of {verdict.users} users")
    shown.add_column("what")
    shown.add_column("count", justify="right")
    for name in oracle.WRONGS:
        shown.add_row(name, str(getattr(verdict, name)))
    return shown


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--rate", type=float, default=100.0, help="events a second")
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS), help="all of them if not given")
    parser.add_argument("--break", dest="rule", choices=list(unruly.RULES), help="have the workers break a rule: must fail")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="made anew by each run; holds the logs")
    parser.add_argument("--json", action="store_true", help="print one line of JSON last")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code: 1 when anything is wrong, 2 for what could not be run."""
    parsed = arguments(given)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=True)
    console.print(f"[dim]seed {parsed.seed}, {parsed.rounds} rounds of {', '.join(parsed.faults)}")
    try:
        run = play(parsed, console)
    except (BenchmarkError, BrokerError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    Console().print(table(run))
    for line in run.verdict.said:
        print(line)
    if parsed.json:
        print(run.line(parsed.seed))
    return 0 if run.verdict.is_right else 1


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
