"""Measure retrieval across languages on the example catalogue: how often the nearest item is the one that is meant.

`python -m benchmarks.languages --json`. Chinese to English and back: the two halves of the titles that the catalogue has in
both languages, among each other, and the Chinese half among all English titles of the catalogue. German, Spanish and Japanese:
titles.csv names twenty items of the English catalogue, which are searched as a worker holds them. Beside it the model's own
vectors, without the centring that takes the language out. Knows no broker.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Column, Table

import encoders
import examples
from encoders import Encoder, EncoderError
from ranking.evaluate import Interval, interval
from streams import settings
from streams.catalogue import item_text

TITLES = Path(__file__).with_name("titles.csv")
GOAL = 0.80


class Task(NamedTuple):
    """Queries and a pool of texts; wanted[i] is the place in the pool of what query i means."""

    queries: list[str]
    pool: list[str]
    wanted: list[int]


def main() -> None:
    """Encode, search, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line of JSON in place of the table")
    given = parser.parse_args()
    own = settings.load()
    try:
        ours, plain = (
            encoders.load(
                own.encoder, cache=own.cache_dir, device=own.device, dtype=own.dtype, threads=own.threads, centre=centre
            )
            for centre in (True, False)
        )
    except EncoderError as error:
        sys.exit(f"languages: {error}")
    figures = {name: (top_1(ours, task), top_1(plain, task), len(task.pool)) for name, task in tasks().items()}
    if given.json:
        told = {
            name: {"top_1": own.mean, "low": own.low, "high": own.high, "not_centred": raw.mean, "pool": pool}
            for name, (own, raw, pool) in figures.items()
        }
        print(msgspec.json.encode({**told, "encoder": ours.id}).decode())
        return
    right = [Column(name, justify="right") for name in ("pool", "top-1", "95 %", "not centred")]
    table = Table("from, to", *right, title=f"{ours.id}, goal {GOAL:.2f}", title_justify="left")
    for name, (found, raw, pool) in figures.items():
        table.add_row(name, str(pool), f"{found.mean:.2f}", f"{found.low:.2f}-{found.high:.2f}", f"{raw.mean:.2f}")
    Console().print(table)


def tasks() -> dict[str, Task]:
    """Return what is asked, by name."""
    items = examples.load_catalogue()
    english = [item for item in items if item.attributes.get("language") == "en"]
    halves = [item.title.split(" / ", 1) for item in items if item.attributes.get("language") == "zh-en"]
    chinese, translated = [zh for zh, _ in halves], [en for _, en in halves]
    own = list(range(len(halves)))
    made = {
        "zh, en": Task(chinese, translated, own),
        "en, zh": Task(translated, chinese, own),
        "zh, all en titles": Task(chinese, translated + [item.title for item in english], own),
    }
    places = {item.item_id: place for place, item in enumerate(english)}
    with TITLES.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    pool, wanted = [item_text(item) for item in english], [places[row["item_id"]] for row in rows]
    return made | {
        f"{language}, en items": Task([row[language] for row in rows], pool, wanted) for language in ("de", "es", "ja")
    }


def top_1(encoder: Encoder, task: Task) -> Interval:
    """Return the share of queries whose nearest text is the one that is meant."""
    nearest = (encoder.encode(task.queries) @ encoder.encode(task.pool).T).argmax(axis=1)
    return interval(_hits(nearest.tolist(), task.wanted))


def _hits(nearest: Sequence[int], wanted: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([found == meant for found, meant in zip(nearest, wanted, strict=True)], np.float64)


if __name__ == "__main__":
    main()
