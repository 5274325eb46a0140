"""What a worker writes to its log: its own lines, and the libraries' without a flood."""

from __future__ import annotations

import logging

from streams.worker import REPEAT_S, Seldom


def record(name: str, line: int, at: float) -> logging.LogRecord:
    """Return a record logged at a line of a file, at a time."""
    made = logging.LogRecord(name, logging.ERROR, "client.py", line, "Unable connect to node %d", (1,), None)
    made.created = at
    return made


def test_a_librarys_line_comes_seldom() -> None:
    """The same line of a library's code logs once in REPEAT_S, each place for itself, and again afterwards."""
    seldom = Seldom()
    passed = [seldom.filter(record("aiokafka.client", 7, 1e9 + second)) for second in range(int(2 * REPEAT_S))]
    assert [second for second, shown in enumerate(passed) if shown] == [0, int(REPEAT_S)]
    assert seldom.filter(record("aiokafka.client", 8, 1e9))


def test_our_own_lines_always_come() -> None:
    """Nothing that a worker itself says is left out."""
    seldom = Seldom()
    assert all(seldom.filter(record("headrace.worker", 7, 1e9)) for _ in range(3))
