"""Bytes against the decoders, led by which branches they reach: `python -m benchmarks.guided --seconds 60`.

Needs atheris, which no other part does: `pip install 'headrace[fuzz]'` (Linux on x86-64). It begins from good events and items,
and ends at the first error other than BadMessage, at a reason without words, and at a message that is not what it encodes to;
the bytes that led there are written to a file of the folder. Exit code 0 when the time is over, else it found something.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.damage import whole_event, whole_item

FOLDER = Path(".headrace/guided")
GOOD = 50  # messages of each kind to begin from


def check(value: bytes, messages: Any, read: Any, now: float) -> None:
    """Decode bytes as an event or an item, as the first byte says, and read an event's words. Raises what should not be."""
    is_item, value = value[:1] == b"i", value[1:]
    try:
        made = messages.decode_item(value) if is_item else messages.decode_event(value, now)
    except messages.BadMessage as error:
        reason = str(error)
    else:
        again = messages.encode(made)
        if made != (messages.decode_item(again) if is_item else messages.decode_event(again, now)):
            raise AssertionError(f"{made} is not what it encodes to")
        if not is_item and made.text:
            read(made.text[:2_000], made.type)
        return
    if not reason.strip():
        raise AssertionError("refused without a reason")


def begin(folder: Path, seed: int, now: float) -> None:
    """Write good messages into a folder, each in a file."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(GOOD):
        (folder / f"event{number}").write_bytes(b"e" + json.dumps(whole_event(rng, now)).encode())
        (folder / f"item{number}").write_bytes(b"i" + json.dumps(whole_item(rng)).encode())


def main(given: Sequence[str] | None = None) -> None:
    """Run from the command line. It does not return: atheris ends the process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guided", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="what was reached, and what led to an error")
    parsed = parser.parse_args(given)
    try:
        import atheris
    except ImportError:
        sys.exit("benchmarks.guided needs atheris: pip install 'headrace[fuzz]', which has it for Linux on x86-64")
    with atheris.instrument_imports(include=["streams.messages", "streams.words"]):
        sys.modules.pop("streams.messages", None)  # it came in with benchmarks.damage, without the counters of branches
        from streams import messages
        from streams.words import read
    now = time.time()
    begin(parsed.folder / "reached", parsed.seed, now)
    own = [f"-max_total_time={parsed.seconds}", f"-seed={parsed.seed}", f"-artifact_prefix={parsed.folder}/", "-max_len=4096"]
    own.append("-rss_limit_mb=0")  # it reads the peak, which a process has from the one that started it: 3.4 GB of a test run's
    atheris.Setup([sys.argv[0], *own, str(parsed.folder / "reached")], lambda value: check(value, messages, read, now))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
