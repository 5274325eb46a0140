"""Brokers on this machine: they answer, keep their data, and leave nothing running however their parent ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from streams.broker import Broker, BrokerError, start_apache, start_embedded
from streams.kafka import open_producer
from streams.reading import records
from streams.settings import load
from streams.topics import create_topics, topics

KINDS = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("embedded", "kafka")]
PARENT = """
import sys, time
from pathlib import Path
from streams.broker import start_apache, start_embedded
kind, home, folder = sys.argv[1:]
started = start_apache(Path(home), Path(folder)) if kind == "kafka" else start_embedded(Path(folder))
with started as broker:
    print(broker.process.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of broker in turn."""
    if request.param == "kafka":
        request.getfixturevalue("kafka_home")  # skips, or fails where CI asks for it, when there is no distribution
    return str(request.param)


def start(kind: str, folder: Path) -> AbstractContextManager[Broker]:
    """Start a broker of a kind on a free port."""
    return start_apache(Path(os.environ["KAFKA_HOME"]), folder) if kind == "kafka" else start_embedded(folder)


def lives(pid: int) -> bool:
    """Tell whether a process runs; one that ended and waits for its parent to notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_data_outlives_the_broker(kind: str, tmp_path: Path) -> None:
    """A broker started again on its folder has the topics and records of before, and its process has ended in between."""
    with start(kind, tmp_path) as broker:
        settings = load(broker=broker.address, partitions=2)
        create_topics(settings)
        with open_producer(settings) as producer:
            producer.send(topics(settings).items.name, key=b"k", value=b"v")
    assert broker.process.returncode is not None
    with start(kind, tmp_path) as broker:
        settings = load(broker=broker.address, partitions=2)
        assert create_topics(settings) == []
        assert [record.value for record in records(settings, topics(settings).items)] == [b"v"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child whose parent was killed")
def test_killing_the_parent_ends_the_broker(kind: str, tmp_path: Path) -> None:
    """A broker whose parent is killed with no chance to tidy up is gone within seconds."""
    home = os.environ.get("KAFKA_HOME", "")
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, kind, home, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert lives(pid)
        parent.kill()
    deadline = time.monotonic() + 60
    while lives(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not lives(pid)


@pytest.mark.embedded
def test_a_taken_port_is_told(tmp_path: Path) -> None:
    """A port on which something listens is refused by its number, before any process starts."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        for started in (start_embedded(tmp_path, port), start_apache(tmp_path, tmp_path, port)):
            with pytest.raises(BrokerError, match=rf"port {port} on 127.0.0.1 cannot be used .*--port"), started:
                pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.embedded
def test_a_broker_that_ends_is_told(tmp_path: Path) -> None:
    """A broker that ends by itself, at its start or later, is an error with its last words and its log."""
    (tmp_path / "noida-db").write_text("no folder")
    with pytest.raises(BrokerError, match=r"ended with \d+: .*broker\.log"), start_embedded(tmp_path):
        pass
    with start_embedded(tmp_path / "other") as broker:
        broker.process.send_signal(signal.SIGKILL)
        with pytest.raises(BrokerError, match=r"ended with -9: "):
            broker.wait()


@pytest.mark.embedded
def test_a_broker_that_does_not_go_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that heeds no request to stop is killed."""
    monkeypatch.setattr("streams.broker.STOP_S", 0.2)
    with start_embedded(tmp_path) as broker:
        broker.process.send_signal(signal.SIGSTOP)
    assert broker.process.returncode == -signal.SIGKILL


def test_a_folder_without_kafka_is_told(tmp_path: Path) -> None:
    """A KAFKA_HOME without jars is refused with what it has to be."""
    with (
        pytest.raises(BrokerError, match=r"holds no \*\.jar: point it at an unpacked Apache Kafka 4"),
        start_apache(tmp_path, tmp_path),
    ):
        pass


def test_a_machine_without_java_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Java on the PATH, or in the JAVA_HOME that is named, the error says which to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for home in ("", str(tmp_path)):
        monkeypatch.setenv("JAVA_HOME", home)
        with pytest.raises(BrokerError, match="needs Java 17 or newer"), start_apache(tmp_path, tmp_path):
            pass
