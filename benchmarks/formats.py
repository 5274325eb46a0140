"""Measure what a smaller number format of the encoder costs: megabytes, texts a second, vectors, and the product's lists.

`python -m benchmarks.formats --model all-MiniLM-L6-v2 --data DIR --set amazon-scientific --part valid --cases 1000 --json`. The
first format is what the others are compared with. int8 is not built into the product (`benchmarks/int8.py` says what it is).

mb           Weights in memory: the layers', and the word embeddings', which stay in the format of the file.
texts_per_s  In calls of 1, 8 and 64 texts, sides in turns, of the same texts in a round: medians over rounds; `times` is the
             ratio of it to the first format's.
cosine       Between the centred vectors of a text: mean and lowest.
top1_loss    Share of texts whose nearest among the others is another text than in the first format.

oneDNN acts out a smaller CPU in a process started with ONEDNN_MAX_CPU_ISA, as AVX512_CORE_VNNI: one without bfloat16.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import encoders
from benchmarks import compression, figures, int8, texts
from benchmarks.encode import CLOCKS
from encoders import Vectors
from encoders.compact import Compact
from encoders.transformer import TransformerEncoder
from streams import evaluation, formats
from streams.answers import Remembered
from streams.settings import load as load_settings
from streams.terminal import bar

FORMATS = ("float32", "bfloat16", int8.BY_CALL, int8.BY_TOKEN)
SIZES = {1: 16, 8: 32, 64: 64}  # texts of a call -> texts of a turn
WARM = 64
KINDS = ("title", "review", "chinese")


def load(name: str, format_: str, cache: Path, threads: int, tokens: int) -> TransformerEncoder:
    """Return a model on the CPU in one of FORMATS. Raises EncoderError, TypeError for one without a compact forward pass."""
    if format_ in (int8.BY_CALL, int8.BY_TOKEN):
        return int8.load(name, format_, cache, threads=threads, max_tokens=tokens)
    made = encoders.load(name, cache=cache, device="cpu", dtype=format_, threads=threads, max_tokens=tokens)
    if not isinstance(made, TransformerEncoder):
        raise TypeError(f"{name} has no weights")
    return made


def megabytes(encoder: TransformerEncoder) -> dict[str, float]:
    """Return MB of the layers' weights and of the word embeddings."""
    engine = encoder._engine
    if not isinstance(engine, Compact):
        raise TypeError("only models of the compact forward pass are weighed")
    words, *rest = engine._embeddings
    layers = [*rest, *(tensor for layer in engine._layers for tensor in layer)]
    weighed = {
        "layers": sum(each.numel() * each.element_size() for each in layers),
        "words": words.numel() * words.element_size(),
    }
    return {name: size / 1e6 for name, size in weighed.items()}


def speed(sides: dict[str, TransformerEncoder], some: Sequence[str], rounds: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Return {size: {format: texts/s}} for texts of one kind."""
    found: dict[str, Any] = {}
    for size, count in SIZES.items():
        taken: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(rounds):
            start = number * count % (len(some) - count + 1)
            names = [*sides][number % len(sides) :] + [*sides][: number % len(sides)]
            for name in names:
                began = clock()
                for at in range(start, start + count, size):
                    sides[name].encode(some[at : at + size])
                taken[name].append(clock() - began)
        found[str(size)] = {side: count / figures.median(seconds) for side, seconds in taken.items()}
    return found


def likeness(vectors: Vectors, exact: Vectors) -> dict[str, float]:
    """Compare (n, dim) unit rows with those of the same texts in another format: mean and lowest cosine, top-1 loss."""
    cosines = np.einsum("nd,nd->n", vectors, exact)
    lost = float(np.mean(_nearest(vectors) != _nearest(exact)))
    return {"cosine": float(cosines.mean()), "lowest": float(cosines.min()), "top1_loss": lost}


def _nearest(vectors: Vectors) -> Vectors:
    """Return the number of the nearest other row of each row, (n,)."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    return cosines.argmax(1)  # type: ignore[no-any-return]


def lists(given: argparse.Namespace, sides: dict[str, TransformerEncoder]) -> dict[str, Any]:
    """Return each format's recall and NDCG on a data set, and how far behind the first it is, paired by user, with 95 %."""
    dataset = formats.read(Path(given.set) if Path(given.set).is_dir() else given.data / given.set)
    settings = evaluation.settings_for(dataset, dataset.k, masked=True).model_copy(update={"compact": "none", "images": None})
    folder = settings.cache_dir / "evaluated"
    made = {
        name: Remembered(side, folder, f"-{given.tokens}-{re.sub('[^a-z0-9]+', '-', name)}") for name, side in sides.items()
    }
    found = compression.lists(dataset, {**made}, settings, given.part, given.cases)
    for each in made.values():
        each.save()
    return {
        name: {**{figure: row.means[figure] for figure in ("recall", "ndcg")}, "behind": row.ahead}
        for name, row in found.items()
    }


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Return {format: its figures}."""
    sides = {name: load(given.model, name, given.cache, given.threads, given.tokens) for name in given.formats}
    first = given.formats[0]
    found: dict[str, dict[str, Any]] = {name: {"mb": megabytes(side), "kinds": {}} for name, side in sides.items()}
    for kind, some in texts.kinds(given.texts, given.data).items():
        if kind not in given.kinds:
            continue
        with bar(f"encoding texts: {kind}"):
            vectors = {
                name: np.concatenate([side.encode(some[at : at + WARM]) for at in range(0, len(some), WARM)])
                for name, side in sides.items()
            }
            rates = speed(sides, some, given.rounds, CLOCKS[given.clock]) if given.rounds else {}
        for name in sides:
            own = {size: {"texts_per_s": each[name], "times": each[name] / each[first]} for size, each in rates.items()}
            found[name]["kinds"][kind] = {**likeness(vectors[name], vectors[first]), "speed": own}
    if given.set:
        for name, told in lists(given, sides).items():
            found[name]["lists"] = told
    return found


def show(found: dict[str, Any]) -> Table:
    """Return a row for each format and kind of text."""
    table = Table(title="number formats of the encoder", title_justify="left")
    for name in (
        "format",
        "MB, layers",
        "MB, words",
        "texts",
        "1",
        "8",
        "64",
        "cosine",
        "lowest",
        "top-1 loss",
        "NDCG",
        "less than the first",
    ):
        table.add_column(name, justify="left" if name in ("format", "texts") else "right")
    for name, each in found.items():
        weights = [f"{each['mb'][part]:.1f}" for part in ("layers", "words")]
        told = each.get("lists")
        tail = (
            [f"{told['ndcg'].mean:.4f}", compression._interval(told["behind"]["ndcg"]) if told["behind"] else ""]
            if told
            else ["", ""]
        )
        for kind, own in each["kinds"].items():
            rates = [f"{figures.number(at['texts_per_s'])} x{at['times']:.2f}" for at in own["speed"].values()] or [""] * len(
                SIZES
            )
            near = [f"{own['cosine']:.4f}", f"{own['lowest']:.4f}", f"{own['top1_loss']:.3f}"]
            table.add_row(name, *weights, kind, *rates, *near, *tail)
        table.add_section()
    return table


def main() -> None:
    """Read what to measure, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="all-MiniLM-L6-v2", help="a model's name or folder, BERT-like")
    parser.add_argument(
        "--formats", nargs="+", choices=FORMATS, default=[*FORMATS], help="the first is what others are compared with"
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS], help="kinds of text")
    parser.add_argument("--texts", type=int, default=512, help="texts of each kind")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side for speed; 0 times nothing")
    parser.add_argument("--clock", choices=[*CLOCKS], default="wall", help="cpu: the process's own time, on a busy machine")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=128, help="where texts are cut")
    parser.add_argument("--data", type=Path, help="take real reviews from DATA/amazon-reviews")
    parser.add_argument("--set", help="a folder of --data, or a path to one: measure lists on it")
    parser.add_argument("--part", choices=("valid", "test"), default="test")
    parser.add_argument("--cases", type=int, default=0, help="ask only the first so many; 0 is all")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    given = parser.parse_args()
    given.cache = load_settings().cache_dir
    began = time.perf_counter()
    found = measure(given)
    Console(width=170, file=sys.stderr if given.json else None).print(show(found))
    if given.json:
        on = {
            "model": given.model,
            "isa": os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
            "clock": given.clock,
            "threads": given.threads,
        }
        print(
            json.dumps(
                {"date": date.today().isoformat(), **on, "seconds": round(time.perf_counter() - began, 1), "formats": found}
            )
        )


if __name__ == "__main__":
    main()
