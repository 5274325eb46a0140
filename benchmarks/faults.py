"""Workers as processes, and what can happen to them: the faults of `benchmarks.chaos`.

A fault is a generator: it makes the fault and yields the moment from which recovery is counted; when that is over it is
resumed, and ends what still lasts.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import stage, unruly
from benchmarks.cluster import NODES, Cluster
from streams.broker import end_with_parent
from streams.kafka import wait_for_broker
from streams.settings import Settings

SESSION_S = 6.0
RESTART_S = 1.0  # after which a worker that ended is started again
HELD_S = 4.0  # how long a fault that lasts is held
NODES_READY_S = 60.0
DISK_MB = 192


class Team:
    """Workers as processes, by number; one that ended is started again, until it is told to stay away."""

    def __init__(self, settings: Settings, folder: Path, rule: str | None) -> None:
        self.settings, self.folder, self.rule = settings, folder, rule
        self.flag = folder / "the-encoder-fails"
        self.states: dict[int, Path] = {}
        self.ended: list[tuple[int, int]] = []  # worker and exit code, of those that ended by themselves
        self._wanted: set[int] = set()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    def start(self, workers: int) -> None:
        """Start workers and their supervisor."""
        for number in range(workers):
            self.add(number)
        self._thread.start()

    def add(self, number: int) -> None:
        """Start a worker that is to stay."""
        with self._lock:
            self._wanted.add(number)
            self._start(number)

    def leave(self, number: int) -> None:
        """Stop a worker for good."""
        with self._lock:
            self._wanted.discard(number)
            process = self._processes.pop(number)
        process.terminate()
        _ended(process)

    def send(self, number: int, how: signal.Signals) -> None:
        """Send a signal to a worker."""
        with self._lock:
            self._processes[number].send_signal(how)

    def wipe(self, number: int) -> None:
        """Kill a worker and delete its data folder."""
        with self._lock:
            process = self._processes[number]
            process.kill()
            process.wait()
            shutil.rmtree(self.states[number])

    def stop(self) -> None:
        """Stop all."""
        self._stop.set()
        self._thread.join()
        for process in self._processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self._processes.values():
            _ended(process)

    def _start(self, number: int) -> None:
        state = self.states.setdefault(number, self.folder / f"worker-{number}")
        own = self.settings.model_copy(update={"state_dir": state, "instance_id": f"worker-{number}"})
        with (self.folder / f"worker-{number}.log").open("ab") as log:
            self._processes[number] = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.unruly", *([self.rule] if self.rule else [])],
                env=stage.environment(own) | {unruly.FAILS: str(self.flag), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent(),
            )

    def _supervise(self) -> None:
        while not self._stop.wait(RESTART_S):
            with self._lock:
                for number in self._wanted:
                    code = self._processes[number].poll()
                    if code is not None:
                        if code >= 0:
                            self.ended.append((number, code))
                        self._start(number)


def _ended(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass
class Scene:
    """What faults act on."""

    team: Team
    kafka: Cluster
    workers: int
    rng: random.Random
    disk: Path | None

    def worker(self) -> int:
        """Draw a worker."""
        return self.rng.randrange(self.workers)


Fault = Callable[[Scene], Iterator[float]]


def kill_worker(scene: Scene) -> Iterator[float]:
    """SIGKILL of one worker."""
    scene.team.send(scene.worker(), signal.SIGKILL)
    yield time.time()


def kill_two_workers(scene: Scene) -> Iterator[float]:
    """SIGKILL of two workers at once."""
    for number in scene.rng.sample(range(scene.workers), 2):
        scene.team.send(number, signal.SIGKILL)
    yield time.time()


def stop_worker(scene: Scene) -> Iterator[float]:
    """SIGTERM of one worker."""
    scene.team.send(scene.worker(), signal.SIGTERM)
    yield time.time()


def freeze_worker(scene: Scene) -> Iterator[float]:
    """SIGSTOP of one worker for longer than its session, while others take over; then it goes on, a zombie."""
    number, until = scene.worker(), time.monotonic() + SESSION_S + HELD_S
    scene.team.send(number, signal.SIGSTOP)
    yield time.time()
    time.sleep(max(0.0, until - time.monotonic()))
    scene.team.send(number, signal.SIGCONT)


def lose_data_folder(scene: Scene) -> Iterator[float]:
    """SIGKILL of one worker, whose data folder is gone when it comes back."""
    scene.team.wipe(scene.worker())
    yield time.time()


def join_worker(scene: Scene) -> Iterator[float]:
    """One more worker joins, and leaves again: counted from its leaving, after which its partitions wait for a new owner."""
    scene.team.add(scene.workers)
    time.sleep(2 * HELD_S)
    scene.team.leave(scene.workers)
    yield time.time()


def kill_node(scene: Scene) -> Iterator[float]:
    """SIGKILL of one Kafka node, which comes back when all is well without it."""
    node = scene.rng.randrange(NODES)
    scene.kafka.kill(node)
    yield time.time()
    scene.kafka.start(node)
    time.sleep(2 * HELD_S)


def restart_nodes(scene: Scene) -> Iterator[float]:
    """All Kafka nodes stop, and start again: counted from when they answer."""
    scene.kafka.stop()
    for node in range(NODES):
        scene.kafka.start(node)
    wait_for_broker(scene.team.settings, NODES_READY_S)
    yield time.time()


def encoder_fails(scene: Scene) -> Iterator[float]:
    """Every worker's encoder raises for some seconds."""
    scene.team.flag.touch()
    time.sleep(HELD_S)
    scene.team.flag.unlink()
    yield time.time()


def fill_disk(scene: Scene) -> Iterator[float]:
    """The disk of the first worker is full for some seconds."""
    if scene.disk is None:
        raise ValueError("there is no small disk to fill")
    waste = scene.disk / "waste"
    try:
        with waste.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
    except OSError:
        time.sleep(2 * HELD_S)
    waste.unlink()
    yield time.time()


FAULTS: dict[str, Fault] = {
    fault.__name__.replace("_", "-"): fault
    for fault in (
        kill_worker,
        kill_two_workers,
        stop_worker,
        freeze_worker,
        lose_data_folder,
        join_worker,
        kill_node,
        restart_nodes,
        encoder_fails,
        fill_disk,
    )
}


@contextmanager
def small_disk() -> Iterator[Path | None]:
    """Mount a small disk in memory for the block; None where that is not allowed."""
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", folder], capture_output=True, check=False
        )
        if mounted.returncode != 0:
            yield None
            return
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], capture_output=True, check=False)
