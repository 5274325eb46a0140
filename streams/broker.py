"""A broker on this machine: the embedded one (noida-db), or a one-node Apache Kafka from a distribution's folder.

Does not know topics or messages. Both are context managers that yield a `Broker` which answers, and leave nothing running:
the process is stopped at the end of the block, killed if it does not go, and on Linux it also ends when its parent is killed
(keep the thread that started it alive: the kernel watches that thread).

    BrokerError(RuntimeError)   no program, a taken port, an early end: says what to do
"""

from __future__ import annotations

import base64
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from streams.connection import BrokerUnreachable
from streams.kafka import wait_for_broker
from streams.settings import load

HOST = "127.0.0.1"
STOP_S = 10.0  # a one-node Apache Kafka took 1-3 s to stop on 2 busy cores
EMBEDDED_READY_S = 20.0  # 0.3 s when the machine is idle
APACHE_READY_S = 120.0  # 5-8 s when the machine is idle
PR_SET_PDEATHSIG = 1


class BrokerError(RuntimeError):
    """A broker that could not be started, or that ended by itself."""


class Broker(NamedTuple):
    """A broker that answers: its `address` (host:port), its process and the file its output goes to."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait(self) -> None:
        """Return when the broker's process has ended by itself. Raises BrokerError with its last line."""
        self.process.wait()
        raise BrokerError(f"the broker at {self.address} ended with {self.process.returncode}: {_last_line(self.log)}")


@contextmanager
def start_embedded(folder: Path, port: int = 0) -> Iterator[Broker]:
    """Run the embedded broker for the block, its data in `folder`. Port 0 takes a free one. Raises BrokerError."""
    program = Path(str(files("noida_db"))) / ("noida-db.exe" if os.name == "nt" else "noida-db")
    if not program.is_file():
        raise BrokerError(f"{program} is missing: reinstall it with `pip install --force-reinstall noida-db`")
    program.chmod(program.stat().st_mode | 0o100)  # wheels arrive without the executable bit
    port = _claim(port)
    data = folder / "noida-db"
    command = [str(program), "start", "--only", "kafka", "--kafka-port", str(port), "--data-dir", str(data), "--host", HOST]
    with _running(command, folder, port, EMBEDDED_READY_S) as broker:
        yield broker


@contextmanager
def start_apache(home: Path, folder: Path, port: int = 0) -> Iterator[Broker]:
    """Run the one-node Apache Kafka of the distribution in `home` for the block, its data in `folder`. Raises BrokerError."""
    port = _claim(port)
    java = java_command(home)
    folder.mkdir(parents=True, exist_ok=True)
    properties = folder / "server.properties"
    properties.write_text(_server_properties(folder / "kafka", port, _claim(0)))
    if not (folder / "kafka" / "meta.properties").exists():
        format_storage(java, properties, cluster_id())
    with _running([*java, "-Xmx512m", "kafka.Kafka", str(properties)], folder, port, APACHE_READY_S) as broker:
        yield broker


def _claim(port: int) -> int:
    """Return `port`, or a free one for 0. Raises BrokerError when something listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise BrokerError(
                f"port {port} on {HOST} cannot be used ({error.strerror}): stop what listens there, or give another with --port"
            ) from None
        return int(probe.getsockname()[1])


@contextmanager
def _running(command: list[str], folder: Path, port: int, ready_s: float) -> Iterator[Broker]:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "broker.log"
    with log.open("wb") as output:
        # A session of its own: Ctrl-C in the terminal is for us, who stop the broker after its clients.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent(),
        )
    broker = Broker(f"{HOST}:{port}", process, log)
    try:
        _await(broker, ready_s)
        yield broker
    finally:
        _stop(process)


def end_with_parent() -> Callable[[], None] | None:
    """Return what a child calls before it runs, to be stopped when this process dies; None where that is not to be had."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # loaded here: a forked child must not load libraries
    parent = os.getpid()

    def in_child() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return in_child


def _await(broker: Broker, ready_s: float) -> None:
    deadline = time.monotonic() + ready_s
    settings = load(broker=broker.address, security_protocol="PLAINTEXT")
    while True:
        if broker.process.poll() is not None:
            broker.wait()
        try:
            return wait_for_broker(settings, timeout_s=1.0)
        except BrokerUnreachable:
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"the broker does not answer at {broker.address} after {ready_s:g} s: see {broker.log}"
                ) from None


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return f"{said[-1] if said else 'it said nothing'} (all of it: {log})"


def java_command(home: Path) -> list[str]:
    """Return the beginning of a command that runs a class of the Apache Kafka in `home`. Raises BrokerError."""
    return [_java(), *_java_options(home)]


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None or not Path(java).exists():
        raise BrokerError(f"Apache Kafka needs Java 17 or newer, and there is no {java or 'java on the PATH'}: install it")
    return java


def _java_options(home: Path) -> list[str]:
    libs = home.absolute() / "libs"
    if not any(libs.glob("*.jar")):
        raise BrokerError(
            f"KAFKA_HOME is {home}, and {libs} holds no *.jar: point it at an unpacked Apache Kafka 4 distribution"
        )
    logging = home.absolute() / "config" / "log4j2.yaml"
    return ["-cp", f"{libs}/*", *([f"-Dlog4j2.configurationFile={logging}"] if logging.exists() else [])]


def cluster_id() -> str:
    """Return a new id of an Apache Kafka cluster."""
    made = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return made if not made.startswith("-") else "A" + made[1:]  # the tool takes a leading dash for an option


def format_storage(java: list[str], properties: Path, cluster: str) -> None:
    """Prepare the storage of an Apache Kafka node. Raises BrokerError."""
    done = subprocess.run(
        [*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BrokerError(f"formatting Apache Kafka's storage ended with {done.returncode}: {done.stdout.strip()[-500:]}")


def _server_properties(data: Path, port: int, controller_port: int) -> str:
    listeners = f"PLAINTEXT://{HOST}:{port}"
    controller = f"{HOST}:{controller_port}"
    return "\n".join(
        [
            "process.roles=broker,controller",
            "node.id=1",
            f"controller.quorum.voters=1@{controller}",
            f"listeners={listeners},CONTROLLER://{controller}",
            f"advertised.listeners={listeners}",
            "controller.listener.names=CONTROLLER",
            "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            f"log.dirs={data.absolute().as_posix()}",
            "auto.create.topics.enable=false",
            "offsets.topic.replication.factor=1",
            "offsets.topic.num.partitions=8",  # 50 by default, each a folder and two index files
            "transaction.state.log.replication.factor=1",
            "transaction.state.log.min.isr=1",
            "transaction.state.log.num.partitions=8",
            "share.coordinator.state.topic.replication.factor=1",
            "share.coordinator.state.topic.min.isr=1",
            "group.initial.rebalance.delay.ms=0",  # 3 s by default, so that many members join at once
            "",
        ]
    )
