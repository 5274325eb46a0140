"""The chaos benchmark: its crowd, its draws, a short run on three Kafka nodes, and that it fails workers that break a rule."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent))  # the benchmarks are no part of the installed package

from benchmarks.chaos import drawn
from benchmarks.crowd import BAD, ITEMS, LATE_S, Load
from benchmarks.faults import FAULTS
from benchmarks.oracle import Verdict
from benchmarks.unruly import RULES
from streams.messages import BadMessage, decode_event
from streams.settings import load

NOW = 1e12  # later than all events


def run(*arguments: str, folder: Path) -> tuple[int, dict[str, object], str]:
    """Run it as a user would; return the exit code, the line of JSON and what was said on standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", "--json", "--folder", str(folder), *arguments],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    lines = done.stdout.splitlines()
    return done.returncode, json.loads(lines[-1]) if lines else {}, done.stderr


@given(st.integers(0, 60), st.integers(0, 9))
def test_faults_are_drawn_evenly(rounds: int, seed: int) -> None:
    """The same seed draws the same faults, and none more than once oftener than another."""
    names = list(FAULTS)
    found = drawn(names, rounds, random.Random(seed))
    assert found == drawn(names, rounds, random.Random(seed))
    counts = Counter(found)
    assert len(found) == rounds
    assert max(counts.values(), default=0) - min(counts[name] for name in names) <= 1


def test_the_crowd_is_mixed() -> None:
    """Events are valid but for some that are meant not to be; some come late, some twice under one id, of many kinds."""
    crowd = Load(load(), rate=100.0, users=20, seed=1)
    values = [crowd._event(f"u{number % 20}") for number in range(3_000)]
    events, bad = [], 0
    for value in values:
        try:
            events.append(decode_event(value, NOW))
        except BadMessage:
            bad += 1
            assert value in BAD
    assert 2 <= bad <= 30
    assert {event.type for event in events} >= {"click", "purchase", "dislike", "rating", "wish", "comment", "search"}
    twice = [count for count in Counter(event.event_id for event in events).values() if count > 1]
    assert 20 <= len(twice) <= 150
    late = [event for event in events if max(crowd.sent) - float(event.at) > 60]
    assert 60 <= len(late) <= 250
    assert all(float(event.at) > min(crowd.sent) - LATE_S - 1 for event in events)
    assert len({event.item_id for event in events}) > ITEMS / 2


def test_a_verdict_names_what_is_wrong() -> None:
    """Any count that is not zero makes it wrong; what was looked at does not."""
    assert Verdict(events=9, users=9).is_right
    for name in ("lost", "twice", "different", "missing", "letters", "uncommitted"):
        assert not Verdict(**{name: 1}).is_right


@pytest.mark.kafka
@pytest.mark.timeout(420)
def test_five_faults(tmp_path: Path, kafka_home: Path) -> None:
    """Five faults on three nodes and three workers: nothing lost, nothing counted twice, every list there."""
    faults = ["kill-worker", "freeze-worker", "lose-data-folder", "kill-node", "encoder-fails"]
    code, said, told = run("--rounds", "5", "--seed", "1", "--faults", *faults, folder=tmp_path / "chaos")
    assert code == 0, told
    wrong = ("lost", "twice", "different", "missing", "letters", "uncommitted")
    assert {name: said[name] for name in wrong} == dict.fromkeys(wrong, 0)
    assert said["faults"] == dict.fromkeys(faults, 1)
    assert int(str(said["events"])) > 1_000
    assert float(str(said["recovery_p99_s"])) < 60.0
    exits = said["exit_codes"]
    assert isinstance(exits, dict)
    assert exits.keys() <= {"70"}  # ended by themselves with nothing unfinished acknowledged: encoder and freeze
    assert exits


@pytest.mark.kafka
@pytest.mark.timeout(420)
@pytest.mark.parametrize("rule", ["ignore-offsets"])
def test_a_broken_rule_is_caught(rule: str, tmp_path: Path, kafka_home: Path) -> None:
    """Workers that count replayed events again are found out."""
    assert rule in RULES
    code, said, told = run("--rounds", "1", "--faults", "kill-worker", "--break", rule, folder=tmp_path / "chaos")
    assert code == 1, told
    assert int(str(said["twice"])) > 0


def test_it_needs_kafka(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without KAFKA_HOME it says what to set, and runs nothing."""
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    code, said, told = run("--rounds", "1", folder=tmp_path / "chaos")
    assert (code, said) == (2, {})
    assert "KAFKA_HOME is not set" in told
