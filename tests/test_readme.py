"""README's commands, run as a new user would, against the output that it prints."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from flows import eventually

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
DECORATION = re.compile(r"[\s─━│┃┏┓┗┛└┘┡┩┳┻╇┴╭╮╰╯]+")
pytestmark = [pytest.mark.weights, pytest.mark.embedded, pytest.mark.timeout(600)]


def commands(block: str) -> list[tuple[str, list[str]]]:
    """Return the block's commands, each with the lines that README prints after it."""
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    return [(part.split("\n", 1)[0], part.split("\n", 1)[1].splitlines()) for part in parts]


def words(text: str) -> str:
    """Return a text with numbers, ids and the frames of tables left out: what two runs have in common."""
    return DECORATION.sub(" ", re.sub(r"\b[0-9a-f]{32}\b|[\d.:]+", "#", text)).strip()


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a new user's shell in an empty folder: the virtual environment on, a port of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    here = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}  # `make test` sets it
    return {**here, "PATH": path, "HEADRACE_BROKER": f"127.0.0.1:{port}", "COLUMNS": "80", "HF_HUB_OFFLINE": "1"}


def listens(address: str) -> bool:
    """Tell whether something listens at HOST:PORT."""
    with socket.socket() as probe:
        return probe.connect_ex((address.split(":")[0], int(address.split(":")[1]))) == 0


def block_with(word: str) -> list[tuple[str, list[str]]]:
    """Return the commands of the block that holds a word."""
    return next(commands(block) for block in BLOCKS if word in block)


def test_by_hand(shell: dict[str, str], tmp_path: Path) -> None:
    """Broker, topics, worker, items, one wish: each command prints what README says, and the list is made of the same items."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for command, printed in block_with("headrace produce"):
            if command.endswith("&"):
                start = shlex.split(command.removesuffix("&"))
                running.append(
                    subprocess.Popen(start, cwd=tmp_path, env=shell, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
                )
                if "broker" in start:
                    eventually(lambda: listens(shell["HEADRACE_BROKER"]), bool)
                continue
            done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=shell, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, f"{command}: {done.stderr}"
            said = words(done.stdout)
            expected = [words(line) for line in printed if words(line) and words(line) != "#"]
            found = [line for line in expected if line in said]
            # Neighbours may change places where another processor rounds otherwise; the list stays the same list.
            assert len(found) >= 0.8 * len(expected), f"{command} printed\n{done.stdout}\nREADME says\n" + "\n".join(printed)
    finally:
        for process in reversed(running):
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


def test_demo_twice(shell: dict[str, str], tmp_path: Path) -> None:
    """`headrace demo` ends by itself with README's last line, every list as expected and nothing left running, twice."""
    assert "headrace demo" in (ROOT / "Makefile").read_text()
    environment = {name: value for name, value in shell.items() if name != "HEADRACE_BROKER"}
    for _ in range(2):
        done = subprocess.run(["headrace", "demo"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        last = words(done.stdout.split("fresh list:")[-1])
        assert last in words(README)
        count = re.search(r"(\d+) of\s+(\d+) lists as the stories expect", done.stdout)
        assert count is not None
        assert count[1] == count[2]
        assert str(tmp_path) not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_make_targets() -> None:
    """Every `make` command of README is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)", README))
    assert named
    assert named <= targets
