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

import pytest
import quiet  # noqa: F401  before everything that imports kafka
from flows import World

from streams.broker import start_apache, start_embedded
from streams.kafka import create_topics
from streams.settings import load

WorldFactory = Callable[..., World]


@pytest.fixture(scope="session")
def kafka_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Apache Kafka, started once."""
    home = os.environ.get("KAFKA_HOME")
    if not home:
        reason = "KAFKA_HOME is not set: point it at an unpacked Apache Kafka 4 to run the tests of delivery"
        if os.environ.get("REQUIRE_KAFKA") == "1":
            pytest.fail(f"{reason}; REQUIRE_KAFKA=1 forbids to skip them")
        pytest.skip(reason)
    with start_apache(Path(home), tmp_path_factory.mktemp("kafka")) as broker:
        _forget_refused_sockets()
        yield broker.address


@pytest.fixture(scope="session")
def embedded_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the embedded broker, started once."""
    with start_embedded(tmp_path_factory.mktemp("embedded")) as broker:
        _forget_refused_sockets()
        yield broker.address


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
        chosen = {"partitions": 2, "encoder": "hashing", "session_timeout_s": 6.0, "topic_prefix": f"{name}.", "app_id": name}
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
