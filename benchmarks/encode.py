"""How fast texts become vectors, against `sentence-transformers` with the same weights folder and the same texts in one run.

`python -m benchmarks.encode` starts a process for each model and number of threads. In it, the sides take turns, one round
after the other: ours (`encoders.load`, dtype auto, centre off), sentence-transformers in float32, its default for weights in
that format, and in bfloat16 where ours chose that. Every turn's texts are new to all sides; the order of the sides rotates.

ratio_N      Ours, texts a second in calls of N texts, over sentence-transformers in float32: of each model, kind of text and
             number of threads the ratio of medians over rounds, of these the lowest. `bfloat16` beside it: over the other.
min_cosine   Between our vector of a text and sentence-transformers' in float32, over all texts of all turns: the lowest.
memory_mb    Peak resident memory of a process that loads one side and encodes 512 texts of each kind in one call each.

Both sides cut texts at `--tokens`, put the same prefix before them, normalise, and have as many threads as told, for
their tokenizer too; sentence-transformers cuts a call into batches of 32, its default, which it sorts by length.
`--clock cpu` counts processor time, so that one thread can be timed on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import figures, texts
from encoders import Vectors, packaged
from streams.settings import load as load_settings

MODELS = ("all-MiniLM-L6-v2", "multilingual-e5-small")
SIZES = {1: 16, 8: 32, 64: 64, 512: 512}  # texts of a call -> texts of a turn
MOST = max(SIZES.values())
WARM = 64  # texts of each kind that every side encodes before, untimed
GOALS = {1: 1.3, 8: 2.0, 64: 2.0, 512: 2.0}
LEAST_COSINE = 0.999
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Side = Callable[[Sequence[str]], Vectors]


def ours(name: str, cache: Path, threads: int, tokens: int) -> tuple[Side, str]:
    """Return our encoder and the line that it gives as its reason."""
    import encoders

    encoder = encoders.load(name, cache=cache, threads=threads, max_tokens=tokens, centre=False)
    return encoder.encode, encoder.reason


def theirs(name: str, cache: Path, threads: int, tokens: int, dtype: str) -> Side:
    """Return sentence-transformers' `encode` over the same folder, with the prefix that ours puts before each text."""
    import torch
    from sentence_transformers import SentenceTransformer

    from encoders import recipe
    from encoders.padded import quiet

    folder = packaged.resolve(name, cache).folder
    with quiet():
        model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": getattr(torch, dtype)})
    model.max_seq_length = tokens
    prefix = recipe.read(folder, name).prefix

    def encode(some: Sequence[str]) -> Vectors:
        torch.set_num_threads(threads)  # ours sets its own at each call
        found: Vectors = model.encode(list(some), prompt=prefix, normalize_embeddings=True, show_progress_bar=False)
        return found

    return encode


class Turn(NamedTuple):
    """What each side encodes: `texts` in calls of `size`, `before` them a call that is not timed."""

    size: int
    number: int
    texts: Sequence[str]
    before: Sequence[str]


def compare(given: argparse.Namespace) -> dict[str, Any]:
    """Time the sides in turns. Returns {"reason", "kinds": {kind: {size: {side: texts/s}}}, "cosine": {kind: lowest}}."""
    own, reason = ours(given.model, given.cache, given.threads, given.tokens)
    sides = {"ours": own, "float32": theirs(given.model, given.cache, given.threads, given.tokens, "float32")}
    if "bfloat16" in reason.partition(":")[0]:
        sides["bfloat16"] = theirs(given.model, given.cache, given.threads, given.tokens, "bfloat16")
    found: dict[str, Any] = {"reason": reason, "kinds": {}, "cosine": {}}
    for kind, all_texts in texts.kinds(WARM + max(given.rounds, given.large) * MOST, given.data).items():
        for side in sides.values():
            side(all_texts[:WARM])
        rates: dict[int, dict[str, float]] = {}
        cosines = [1.0]
        for size in given.sizes:
            taken: dict[str, list[float]] = {side: [] for side in sides}
            for number in range(given.rounds if size < MOST else given.large):
                start = WARM + number * MOST
                turn = Turn(size, number, all_texts[start : start + SIZES[size]], all_texts[:size])
                made = _turn(sides, turn, taken, CLOCKS[given.clock])
                cosines.append(float(np.einsum("nd,nd->n", made["ours"], made["float32"]).min()))
            rates[size] = {side: SIZES[size] / figures.median(seconds) for side, seconds in taken.items()}
        found["kinds"][kind], found["cosine"][kind] = rates, min(cosines)
    return found


def _turn(sides: dict[str, Side], turn: Turn, taken: dict[str, list[float]], clock: Callable[[], float]) -> dict[str, Vectors]:
    """Encode the same texts with each side, beginning with another each time; append seconds to `taken`.

    The first call is not timed: the other side left another number of threads, and torch takes 55 ms to make them anew.
    """
    first = turn.number % len(sides)
    made = {}
    for name in [*sides][first:] + [*sides][:first]:
        sides[name](turn.before)
        began = clock()
        rows = [sides[name](turn.texts[start : start + turn.size]) for start in range(0, len(turn.texts), turn.size)]
        taken[name].append(clock() - began)
        made[name] = np.concatenate(rows)
    return made


def memory(given: argparse.Namespace) -> dict[str, Any]:
    """Return the peak resident memory, MB, of this process after one side's work."""
    if given.side == "ours":
        side, _ = ours(given.model, given.cache, given.threads, given.tokens)
    else:
        side = theirs(given.model, given.cache, given.threads, given.tokens, given.side)
    for some in texts.kinds(MOST, given.data).values():
        side(some)
    return {"memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def child(given: argparse.Namespace, model: str, threads: int, side: str = "") -> dict[str, Any]:
    """Run one part in a process of its own and return what it found."""
    command = [sys.executable, "-m", "benchmarks.encode", "--model", model, "--threads", str(threads), "--side", side or "all"]
    command += [
        "--rounds",
        str(given.rounds),
        "--large",
        str(given.large),
        "--tokens",
        str(given.tokens),
        "--cache",
        str(given.cache),
    ]
    command += ["--data", str(given.data)] if given.data else []
    own = {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
    environment = os.environ | own | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def summary(compared: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the worst of each figure over {"model, threads": what `compare` found}."""
    worst: dict[str, float] = {}
    for each in compared.values():
        for sizes in each["kinds"].values():
            for size, rates in sizes.items():
                for side, name in (("float32", f"ratio_{size}"), ("bfloat16", f"ratio_{size}_bfloat16")):
                    if side in rates:
                        worst[name] = min(worst.get(name, float("inf")), _ratio(rates, side))
    cosine = min(value for each in compared.values() for value in each["cosine"].values())
    return {name: round(value, 3) for name, value in worst.items()} | {"min_cosine": round(cosine, 6)}


def _ratio(rates: dict[str, float], side: str) -> float:
    return rates["ours"] / rates[side]


def show(compared: dict[str, dict[str, Any]]) -> Table:
    """Return the rates, a row for each kind of text and size of call."""
    table = Table(title="texts a second, ours and sentence-transformers'", title_justify="left")
    for name in ("model, threads", "texts"):
        table.add_column(name)
    for name in ("a call", "ours", "float32", "ratio", "goal", "bfloat16", "ratio", "min cosine"):
        table.add_column(name, justify="right")
    for name, each in compared.items():
        for kind, sizes in each["kinds"].items():
            for size, rates in sizes.items():
                table.add_row(name, kind, size, *_cells(rates, GOALS[int(size)]), f"{each['cosine'][kind]:.5f}")
        table.add_section()
    return table


def _cells(rates: dict[str, float], goal: float) -> list[str]:
    cells = [figures.number(rates["ours"]), figures.number(rates["float32"]), f"{_ratio(rates, 'float32'):.2f}", f"{goal:.1f}"]
    if "bfloat16" not in rates:
        return [*cells, "", ""]
    return [*cells, figures.number(rates["bfloat16"]), f"{_ratio(rates, 'bfloat16'):.2f}"]


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encode", description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", help="a model's name or folder; both packaged ones otherwise")
    parser.add_argument("--threads", action="append", type=int, help="1 and 2 otherwise")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large", type=int, default=3, help="rounds of calls of 512 texts")
    parser.add_argument("--sizes", nargs="+", type=int, choices=[*SIZES], default=[*SIZES], help="texts of a call")
    clock = "time of the clock, or the process's own: on a busy machine, for one thread"
    parser.add_argument("--clock", choices=[*CLOCKS], default="wall", help=clock)
    parser.add_argument("--tokens", type=int, default=128, help="where both sides cut a text")
    parser.add_argument("--data", type=Path, help="take real reviews from DATA/amazon-reviews")
    parser.add_argument("--cache", type=Path, help="folder of converted weights; HEADRACE_CACHE_DIR otherwise")
    parser.add_argument("--json", action="store_true", help="print one line of JSON last")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parsed = parser.parse_args(given)
    parsed.cache = parsed.cache or load_settings().cache_dir
    if parsed.side:
        parsed.model, parsed.threads = parsed.model[0], parsed.threads[0]
        print(json.dumps(compare(parsed) if parsed.side == "all" else memory(parsed)))
        return 0
    return whole(parsed)


def whole(given: argparse.Namespace) -> int:
    """Run all parts and print what they found."""
    models, counts = given.model or MODELS, given.threads or (1, 2)
    for model in models:
        packaged.resolve(model, given.cache)  # converted once, not in the first process measured
    compared = {f"{model}, {threads}": child(given, model, threads) for model in models for threads in counts}
    held = {
        model: {side: child(given, model, counts[-1], side)["memory_mb"] for side in ("ours", "float32", "bfloat16")}
        for model in models
    }
    worst = summary(compared)
    on = {"date": date.today().isoformat(), "cpu": _cpu(), "cores": os.cpu_count(), "tokens": given.tokens}
    on |= {"clock": given.clock, "rounds": given.rounds}
    on |= {name: version(name) for name in ("torch", "transformers", "sentence-transformers", "tokenizers")}
    Console(width=140).print(show(compared), worst, {"memory_mb": held}, on)
    if given.json:
        print(json.dumps(worst | {"memory_mb": held, "by": compared, "on": on}))
    missed = worst["min_cosine"] < LEAST_COSINE or any(worst[f"ratio_{size}"] < GOALS[size] for size in given.sizes)
    return int(missed or any(sides["ours"] > sides["float32"] for sides in held.values()))


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    sys.exit(main())
