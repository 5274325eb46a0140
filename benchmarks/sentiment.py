"""Measure the sentiment head: AUC on English reviews of users held out, and on Chinese comments, where it was trained on none.

`python -m benchmarks.sentiment --data DIR`: DIR holds one csv of reviews, which may be zipped, with columns as
`streams/formats.py` knows them (`reviewText`, `overall`, ...). Chinese: benchmarks/comments.csv, 120 comments written for this.
Beside it the cue words, which judge where no head is set. Prints a table; with --json a line of JSON. Knows no broker.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Column, Table

from encoders import EncoderError, sentiment
from ranking.evaluate import Interval
from streams import reviews, settings
from streams.building import load_encoder
from streams.datasets import DatasetError
from streams.formats import NAMES, unpacked
from streams.reviews import Review
from streams.terminal import bar

COMMENTS = Path(__file__).with_name("comments.csv")
SCALE = (1.0, 5.0)
GOALS = {"english": 0.90, "chinese": 0.85}


def main() -> None:
    """Read, encode, train, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the reviews")
    parser.add_argument("--most", type=int, default=0, help="good texts, drawn, for a shorter run; 0 is all")
    parser.add_argument("--summary", action="store_true", help="put each review's summary, where it has one, before its text")
    parser.add_argument("--out", type=Path, help="write the head here")
    parser.add_argument("--json", action="store_true", help="one line of JSON in place of the table")
    given = parser.parse_args()
    began = time.perf_counter()
    own = settings.load()
    try:
        read = list(_rated(given.data, own.text_length, with_summary=given.summary))
        made = _fewer(read, given.most)
        encoder = load_encoder(own)
        with bar("encoding") as progress:
            vectors = reviews.vectors_of(encoder, [review.text for review in made], progress)
        trained = reviews.train(made, vectors, encoder.id)
    except (DatasetError, EncoderError) as error:
        sys.exit(f"sentiment: {error}")
    if given.out:
        sentiment.save(trained.head, given.out)
    chinese = list(_comments())
    good = np.array([review.is_good for review in chinese])
    scores = trained.head.probability(encoder.encode([review.text for review in chinese]))
    figures = {
        "english": trained.auc,
        "english, cue words": trained.cues,
        "chinese": reviews.interval(scores, good),
        "chinese, cue words": reviews.interval(reviews.by_cues([review.text for review in chinese]), good),
    }
    beside = {**trained.head.report, "encoder": encoder.id, "seconds": round(time.perf_counter() - began, 1)}
    _print(figures, beside, as_json=given.json)


def _rated(folder: Path, text_length: int, *, with_summary: bool) -> Iterator[Review]:
    """Yield the reviews of the csv in a folder."""
    with unpacked(folder) as files:
        path = next((path for name, path in sorted(files.items()) if name.endswith(".csv")), None)
        if path is None:
            raise DatasetError(f"{folder} holds no csv: give the folder of one with texts and ratings")
        with path.open(encoding="utf-8", newline="") as file:
            values = [_named(row, with_summary=with_summary) for row in csv.DictReader(file)]
    yield from reviews.reviews_of(values, SCALE, text_length)[0]


def _named(row: dict[str, Any], *, with_summary: bool) -> dict[str, Any]:
    values = {ours: row[theirs] for ours in ("text", "rating", "user_id") for theirs in NAMES[ours] if row.get(theirs)}
    if with_summary and row.get("summary"):
        values["text"] = f"{row['summary']}. {values.get('text', '')}".strip()
    return values


def _fewer(read: list[Review], most: int) -> list[Review]:
    """Return all bad texts, and so many good ones."""
    good = [place for place, review in enumerate(read) if review.is_good]
    if not most or most >= len(good):
        return read
    kept = set(np.random.default_rng(0).choice(good, most, replace=False).tolist())
    return [review for place, review in enumerate(read) if not review.is_good or place in kept]


def _comments() -> Iterator[Review]:
    with COMMENTS.open(encoding="utf-8", newline="") as file:
        yield from reviews.reviews_of(csv.DictReader(file), SCALE, 2_000)[0]


def _print(figures: dict[str, Interval], beside: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        told = {name: dict(zip(("auc", "low", "high"), figure, strict=True)) for name, figure in figures.items()}
        print(msgspec.json.encode({**told, **beside}).decode())
        return
    table = Table("opinions", Column("AUC", justify="right"), "95 %", Column("goal", justify="right"))
    for name, figure in figures.items():
        goal = f"{GOALS[name]:.2f}" if name in GOALS else ""
        table.add_row(name, f"{figure.mean:.3f}", f"{figure.low:.3f}-{figure.high:.3f}", goal)
    Console().print(table)
    Console().print(beside)


if __name__ == "__main__":
    main()
