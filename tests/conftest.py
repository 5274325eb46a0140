"""Fixtures that more than one test file uses: brokers that live as long as the session, and a world of topics per test.

No two tests share topic names, group names or folders.
"""

from __future__ import annotations

import gc
import os
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import quiet  # noqa: F401  before everything that imports kafka
from flows import World
from secured import Secured, commands, environment, start_secured

from streams.__main__ import main
from streams.broker import start_apache, start_embedded
from streams.settings import PREFIX, Settings, load
from streams.topics import create_topics

WorldFactory = Callable[..., World]
# Brokers of tests end before Java's second compiler pays: 14.6 s of CPU until one has its first topics become 10.5.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")


@pytest.fixture(scope="session")
def kafka_home() -> Path:
    """The folder of an Apache Kafka."""
    home = os.environ.get("KAFKA_HOME")
    if not home:
        reason = "KAFKA_HOME is not set: point it at an unpacked Apache Kafka 4 to run the tests of delivery"
        if os.environ.get("REQUIRE_KAFKA") == "1":
            pytest.fail(f"{reason}; REQUIRE_KAFKA=1 forbids to skip them")
        pytest.skip(reason)
    return Path(home)


@pytest.fixture(scope="session")
def kafka_address(kafka_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Apache Kafka, started once."""
    with start_apache(kafka_home, tmp_path_factory.mktemp("kafka")) as broker:
        _forget_refused_sockets()
        yield broker.address


@pytest.fixture(scope="session")
def secured(kafka_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A secured Kafka with the users and rights that docs/security.md makes, and the topics, started once.

    Operators have an installation to themselves, whose topics their `creator` made.
    """
    with start_secured(kafka_home, tmp_path_factory.mktemp("secured")) as made:
        made.run(commands("Users") + commands("Rights"))
        made.run(commands("Rights of commands"), prefix="ops.", app="ops")
        made.play()
        create_topics(made.settings("admin"))
        create_topics(made.operator("creator"))
        _forget_refused_sockets()
        yield made


@pytest.fixture(scope="session")
def embedded_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the embedded broker, started once."""
    with start_embedded(tmp_path_factory.mktemp("embedded")) as broker:
        _forget_refused_sockets()
        yield broker.address


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT of random weights, to be read and never written to."""
    from test_encoders_tiny import make_folder

    return make_folder(tmp_path_factory.mktemp("base") / "tiny", "bert")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Have torch compute in one thread for the test: the same plan then gives the same bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Done(NamedTuple):
    """How a command ended and what it printed."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def headrace_as(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Run a command in this process with settings that it reads from the environment: a process of its own takes a second."""

    def run(settings: Settings, *arguments: str) -> Done:
        capsys.readouterr()
        with monkeypatch.context() as patched:
            for name in [name for name in os.environ if name.startswith(PREFIX)]:
                patched.delenv(name)
            for name, value in environment(settings).items():
                patched.setenv(name, value)
            try:
                main(list(arguments))
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
        return Done(code, *capsys.readouterr())

    return run


def _forget_refused_sockets() -> None:
    """Collect the sockets that kafka-python 3.0.12 leaves open: their warnings are no test's, and would hit any of them."""
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()


@pytest.fixture
def kafka_world(kafka_address: str, tmp_path: Path) -> Iterator[WorldFactory]:
    """Make worlds of topics on the real Kafka; their workers are killed at the end."""
    yield from _worlds(kafka_address, tmp_path)


@pytest.fixture
def embedded_world(embedded_address: str, tmp_path: Path) -> Iterator[WorldFactory]:
    """Make worlds of topics on the embedded broker; their workers are killed at the end."""
    yield from _worlds(embedded_address, tmp_path)


def _worlds(address: str, folder: Path) -> Iterator[WorldFactory]:
    made: list[World] = []

    def make(**given: object) -> World:
        name = f"t{uuid.uuid4().hex[:8]}"
        # A worker ends itself when it stood still for half a session: after 5 s, with 20 processes on 2 cores, one of 6 s did.
        chosen = {"partitions": 2, "encoder": "hashing", "session_timeout_s": 12.0, "topic_prefix": f"{name}.", "app_id": name}
        settings = load(broker=address, state_dir=folder / name, cache_dir=folder / "cache", **(chosen | given))
        create_topics(settings)
        made.append(World(settings, folder / f"{name}-logs"))
        return made[-1]

    try:
        yield make
    finally:
        for world in made:
            world.close()
        _forget_refused_sockets()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly what was not tested."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if "KAFKA_HOME" in str(report.longrepr)]
    if skipped:
        terminalreporter.write_line(f"NOT TESTED: {len(skipped)} tests of delivery need a real Kafka: set KAFKA_HOME", red=True)
