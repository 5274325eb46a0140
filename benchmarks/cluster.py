"""Three nodes of Apache Kafka on this machine, each of which can be killed and started again. All on 127.0.0.1.

Replication 3, two in-sync replicas needed for a write. Nothing outlives the block, and the data are removed with the folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.stage import free_port
from streams.broker import HOST, BrokerError, cluster_id, end_with_parent, format_storage, java_command
from streams.kafka import open_admin, wait_for_broker
from streams.settings import Settings, load

NODES = 3
HEAP = "-Xmx320m"
READY_S = 120.0


class Cluster:
    """The nodes, by number from 0."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.folder = folder
        self._java = java_command(home)
        self._ports = [free_port() for _ in range(2 * NODES)]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * NODES

    @property
    def address(self) -> str:
        """The addresses of all nodes, for HEADRACE_BROKER."""
        return ",".join(f"{HOST}:{port}" for port in self._ports[:NODES])

    def prepare(self) -> None:
        """Write each node's settings and format its storage. Raises BrokerError."""
        cluster = cluster_id()
        for node in range(NODES):
            own = self.folder / f"node-{node}"
            own.mkdir(parents=True)
            (own / "server.properties").write_text(self._properties(node, own / "data"))
            format_storage(self._java, own / "server.properties", cluster)

    def start(self, node: int) -> None:
        """Start a node; it answers some seconds later."""
        own = self.folder / f"node-{node}"
        with (own / "log").open("ab") as log:
            self._processes[node] = subprocess.Popen(
                [*self._java, HEAP, "kafka.Kafka", str(own / "server.properties")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent(),
            )

    def kill(self, node: int) -> None:
        """Kill a node with SIGKILL."""
        process = self._processes[node]
        if process is not None:
            process.kill()
            process.wait()
            self._processes[node] = None

    def stop(self) -> None:
        """Stop all nodes together, and wait for their end."""
        running = [process for process in self._processes if process is not None]
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes = [None] * NODES

    def _properties(self, node: int, data: Path) -> str:
        controllers = [f"{HOST}:{port}" for port in self._ports[NODES:]]
        listener = f"PLAINTEXT://{HOST}:{self._ports[node]}"
        voters = ",".join(f"{number}@{address}" for number, address in enumerate(controllers))
        lines = {
            "process.roles": "broker,controller",
            "node.id": node,
            "controller.quorum.voters": voters,
            "listeners": f"{listener},CONTROLLER://{controllers[node]}",
            "advertised.listeners": listener,
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": data.absolute().as_posix(),
            "auto.create.topics.enable": "false",
            "default.replication.factor": NODES,
            "min.insync.replicas": 2,
            "offsets.topic.replication.factor": NODES,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": NODES,
            "transaction.state.log.min.isr": 2,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            "broker.session.timeout.ms": 6000,
            "unclean.leader.election.enable": "false",
        }
        return "".join(f"{name}={value}\n" for name, value in lines.items())


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Run three nodes of the distribution that KAFKA_HOME names. Raises BrokerError."""
    home = os.environ.get("KAFKA_HOME")
    if not home:
        raise BrokerError("KAFKA_HOME is not set: point it at an unpacked Apache Kafka 4")
    made = Cluster(Path(home), folder)
    try:
        made.prepare()
        for node in range(NODES):
            made.start(node)
        _await_all(load(broker=made.address))
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _await_all(settings: Settings) -> None:
    """Wait until every node answers its clients, and is known to the cluster: before, three replicas have no place."""
    give_up = time.monotonic() + READY_S
    for address in settings.broker.split(","):
        wait_for_broker(settings.model_copy(update={"broker": address}), READY_S)
    with open_admin(settings) as admin:
        while len(admin.describe_cluster()["brokers"]) < NODES:
            if time.monotonic() > give_up:
                raise BrokerError(f"not all of {NODES} nodes joined in {READY_S:.0f} s: see their logs")
            time.sleep(0.2)
