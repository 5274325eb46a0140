"""Ask a vulnerability service about every version that constraints.txt and weights.txt pin: `make audit`.

Runs pip-audit against each service until one answers. A service that answers "unknown" to everything, as a mirror of PyPI
does, has not been asked anything: that is told apart from a clean answer, which pip-audit does not.

Exit codes: 0 nothing found, or no service could be asked (one line says which); 1 a vulnerability is known.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
PINNED = ("constraints.txt", "weights.txt")
SERVICES = ("pypi", "osv")
SHOWN = 120  # characters of an error
ANSWER_S = 15  # of one request
ALL_S = 300  # of one service, which is asked about one version after the other


class Answer(NamedTuple):
    """What a service said: how many versions it knows, a line for each vulnerability, and the names it does not know."""

    known: int
    found: list[str]
    unknown: list[str]


def ask(service: str) -> Answer | str:
    """Return what a service says about all pinned versions, or a line that says why it could not be asked."""
    files = [part for name in PINNED for part in ("-r", str(ROOT / name))]
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "-f", "json", "--timeout", str(ANSWER_S)]
    command = [sys.executable, "-m", "pip_audit", "-s", service, *options, *files]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ALL_S)
    except subprocess.TimeoutExpired:
        return f"no answer within {ALL_S} s"
    try:
        return read(json.loads(done.stdout))
    except json.JSONDecodeError:
        return (done.stderr.strip().splitlines() or [f"pip-audit ended with {done.returncode}"])[-1][:SHOWN]


def read(report: dict[str, Any]) -> Answer:
    """Return what pip-audit's JSON says."""
    asked = [one for one in report["dependencies"] if "skip_reason" not in one]
    found = [
        f"{one['name']} {one['version']}: {bad['id']}, mended in {' or '.join(bad['fix_versions']) or 'no version yet'}"
        for one in asked
        for bad in one["vulns"]
    ]
    return Answer(len(asked), found, [one["name"] for one in report["dependencies"] if "skip_reason" in one])


def main(ask: Callable[[str], Answer | str] = ask) -> int:
    """Print what is known; return the exit code."""
    silent = []
    for service in SERVICES:
        answer = ask(service)
        if isinstance(answer, str) or not (answer.known or answer.found):
            silent.append(f"{service} ({answer if isinstance(answer, str) else 'knows none of the packages'})")
            continue
        print(f"{answer.known} versions asked about at {service}: {len(answer.found)} vulnerabilities")
        if answer.unknown:
            print(f"not known there: {', '.join(answer.unknown)}")
        for line in answer.found:
            print(line)
        return 1 if answer.found else 0
    print(f"NOT AUDITED, no vulnerability service could be asked: {'; '.join(silent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
