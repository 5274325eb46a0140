"""Measure what tuning the language model is worth on a data set: retrieval by texts alone, and pairs wanted or not.

`python -m benchmarks.finetuning amazon-scientific --data DIR --json`. A user is the decayed mean of the vectors of the last ten
touches' texts, scored by cosine over all items: no counts, no ranker. The encoder is frozen, tuned whole, or tuned by an
adapter, each read back from the folder that `headrace finetune` would write, through the encoder that workers run. For pairs, a
cross-encoder stands beside TF-IDF with logistic regression on the same rows. What is learnt and chosen sees train and dev only;
test is asked at the end. Knows no broker.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import encoders
from encoders.finetune import Plan
from encoders.matching import Labelled
from encoders.objectives import Contrast, Lessons, find
from streams import formats, tuning
from streams import settings as all_settings
from streams.datasets import DatasetError
from streams.settings import Settings
from streams.tuning import Order
from streams.tuning_rows import Steps, labelled_of_steps, lessons_of_steps, steps_of

RETRIEVE = {
    "none": Order("retrieve", Path(), Plan(12, 256, 2e-4), Contrast(0.05, 0, 2_048), max_tokens=40),
    "lora": Order("retrieve", Path(), Plan(18, 256, 2e-3, patience=6), Contrast(0.05, 0, 2_048), "lora", max_tokens=40),
}
MATCH = {
    "none": Order("match", Path(), Plan(2, 32, 5e-5), max_tokens=96),
    "lora": Order("match", Path(), Plan(2, 32, 5e-4), adapter="lora", max_tokens=96),
}
PARTS = ("dev", "test")


def main() -> None:
    """Read the set, tune, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", help="a folder of --data, or a path to one")
    parser.add_argument("--data", type=Path, default=Path(), help="the folder that named sets are in")
    parser.add_argument("--model", default="all-MiniLM-L6-v2", help="what is tuned")
    parser.add_argument("--task", choices=("retrieve", "match", "both"), default="both")
    parser.add_argument("--adapters", default="none,lora", help="ways of tuning, as none,lora")
    parser.add_argument("--epochs", type=int, help="in place of each way's own")
    parser.add_argument("--most", type=int, default=6_000, help="pairs that a cross-encoder learns from")
    parser.add_argument("--out", type=Path, help="keep the tuned folders and each epoch here, and go on from it when run again")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    given = parser.parse_args()
    folder = Path(given.set) if Path(given.set).is_dir() else given.data / given.set
    console = Console(width=160, file=sys.stderr if given.json else None)
    settings = all_settings.load(encoder=given.model, threads=1)
    told: dict[str, Any] = {"set": folder.name, "model": given.model}
    try:
        dataset = formats.read(folder)
    except DatasetError as error:
        sys.exit(f"finetuning: {error}")
    steps = steps_of(dataset, is_left_out="leave-one-out" in dataset.protocols)
    with tempfile.TemporaryDirectory() as scratch:
        out = given.out or Path(scratch)
        if given.task != "match":
            told["retrieve"] = _retrieve(steps, given, out, settings, console)
        if given.task != "retrieve":
            told["match"] = _match(steps, given, out, settings, console)
    if given.json:
        print(json.dumps(told))


def _order(own: Order, given: argparse.Namespace, out: Path) -> Order:
    name = f"{own.task}-{own.adapter}"
    plan = replace(own.plan, epochs=given.epochs or own.plan.epochs)
    return replace(own, plan=plan, out=out / name, resume=out / f"{name}-epochs")


def _retrieve(steps: Steps, given: argparse.Namespace, out: Path, settings: Settings, console: Console) -> dict[str, Any]:
    lessons = lessons_of_steps(steps)
    told = {"frozen": {"figures": _figures(lessons, settings, settings.encoder)}}
    for adapter in given.adapters.split(","):
        order = _order(RETRIEVE[adapter], given, out)
        report = _tuned(lessons, order, settings, console)
        told[adapter] = {"figures": _figures(lessons, settings, str(order.out)), **_costs(report)}
    console.print(_table(told))
    return told


def _tuned(data: tuning.Data, order: Order, settings: Settings, console: Console) -> dict[str, Any]:
    """Return the report of a folder, which is made unless it is there."""
    if not order.out.is_dir():
        tuning.run(data, order, settings, console)
    report: dict[str, Any] = json.loads((order.out / "report.json").read_text("utf-8"))
    return report


def _costs(report: dict[str, Any]) -> dict[str, Any]:
    return {
        "share": report["trainable"] / report["parameters"],
        "minutes": report["seconds"] / 60,
        "cpu_minutes": report["cpu_seconds"] / 60,
        "memory_mb": report["memory_mb"],
        "epochs": report["epochs"],
    }


def _figures(lessons: Lessons, settings: Settings, name: str) -> dict[str, dict[str, float]]:
    """Return recall and NDCG at 10 of dev and test, the history left out of the list and in it, with the product's encoder."""
    encoder = encoders.load(name, cache=settings.cache_dir, max_tokens=settings.max_tokens, threads=settings.threads)
    vectors = encoder.encode(lessons.texts)
    return {
        f"{part}, {'without' if masked else 'with'} the history": find(
            vectors, lessons.dev if part == "dev" else lessons.test, lessons.catalogue, masked=masked
        ).figures()
        for part in PARTS
        for masked in (True, False)
    }


def _table(told: dict[str, Any]) -> Table:
    table = Table(title="text alone: recall@10 / NDCG@10")
    names = list(told["frozen"]["figures"])
    for name in ("encoder", "learns", "wall / CPU minutes", "MB", *names):
        table.add_column(name)
    for name, row in told.items():
        cells = (
            [f"{100 * row['share']:.2f} %", f"{row['minutes']:.1f} / {row['cpu_minutes']:.1f}", str(row["memory_mb"])]
            if "share" in row
            else ["", "", ""]
        )
        table.add_row(
            name,
            *cells,
            *[f"{row['figures'][each]['recall@10']:.4f} / {row['figures'][each]['ndcg@10']:.4f}" for each in names],
        )
    return table


def _match(steps: Steps, given: argparse.Namespace, out: Path, settings: Settings, console: Console) -> dict[str, Any]:
    pairs = _fewer(labelled_of_steps(steps, seed=1), given.most)
    began = time.perf_counter()
    chances = _simple(pairs)
    told: dict[str, Any] = {
        "TF-IDF + logistic regression": {**_judged(chances, pairs), "minutes": (time.perf_counter() - began) / 60}
    }
    for adapter in given.adapters.split(","):
        report = _tuned(pairs, _order(MATCH[adapter], given, out), settings, console)
        told[adapter] = {
            "accuracy": report["test"]["accuracy"],
            "f1": report["test"]["macro avg"]["f1-score"],
            **_costs(report),
        }
    table = Table("pairs of test", "accuracy", "macro F1", "learns", "wall minutes")
    for name, row in told.items():
        share = f"{100 * row['share']:.2f} %" if "share" in row else ""
        table.add_row(name, f"{row['accuracy']:.4f}", f"{row['f1']:.4f}", share, f"{row['minutes']:.1f}")
    console.print(table)
    return told


def _fewer(pairs: Labelled, most: int) -> Labelled:
    """Return the newest `most` pairs of train, and a quarter as many of dev and of test."""
    parts = [pairs.train[-most:], pairs.dev[-most // 4 :], pairs.test[-most // 4 :]]
    kept = [number for part in parts for number in part]
    bounds = [0, *accumulate(len(part) for part in parts)]
    users, items = ([texts[number] for number in kept] for texts in (pairs.users, pairs.items))
    labels = [pairs.labels[number] for number in kept]
    return Labelled(users, items, labels, pairs.names, *[list(range(*pair)) for pair in pairwise(bounds)])


def _simple(pairs: Labelled) -> NDArray[np.float64]:
    """Return the probabilities of the test pairs' labels, by the words of both texts, those they share, and their cosine."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    words = TfidfVectorizer(sublinear_tf=True).fit(
        [*(pairs.users[i] for i in pairs.train), *(pairs.items[i] for i in pairs.train)]
    )

    def features(numbers: list[int]) -> Any:
        users, items = (words.transform([texts[i] for i in numbers]) for texts in (pairs.users, pairs.items))
        both = users.multiply(items)
        return hstack([users, items, both, csr_matrix(both.sum(axis=1))]).tocsr()

    fitted = LogisticRegression(max_iter=1_000).fit(features(pairs.train), [pairs.labels[i] for i in pairs.train])
    found: NDArray[np.float64] = fitted.predict_proba(features(pairs.test))
    return found


def _judged(chances: NDArray[np.float64], pairs: Labelled) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score

    labels, found = [pairs.labels[i] for i in pairs.test], chances.argmax(1)
    return {"accuracy": float(accuracy_score(labels, found)), "f1": float(f1_score(labels, found, average="macro"))}


if __name__ == "__main__":
    main()
