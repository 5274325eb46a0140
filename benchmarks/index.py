"""Compare item indexes on the benchmark's vectors: recall against exact search, microseconds a query, megabytes.

`python -m benchmarks.index --items 100000 --encoder all-MiniLM-L6-v2`. One thread, one query at a time, as the vectors of user
texts ask. The first row is the worker's own index as `ranking.index` builds it. Knows no broker.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks import texts
from ranking.index import IndexedItem, ItemIndex
from streams.building import load_encoder
from streams.catalogue import item_text
from streams.settings import load
from streams.terminal import bar

K = 100
SLICE = 2_000  # items upserted at once, as the worker's follower does
QUERIES = 1_000
Search = Callable[[NDArray[np.float32], int], NDArray[np.int64]]  # (1, dim), k -> (1, k) row numbers


class Measured(NamedTuple):
    """recall: share of the exact K nearest that were found, 0-1; us: microseconds a query; mb: serialised size."""

    recall: float
    us: float
    mb: float


def exact(vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int = K) -> NDArray[np.int64]:
    """Return the row numbers of the k nearest by inner product, (q, k), best first."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    found: NDArray[np.int64] = index.search(queries, k)[1]
    return found


def recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Return the mean share of each row's `truth` that is among `found`."""
    return float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, truth, strict=True)]))


def measure(search: Search, queries: NDArray[np.float32], truth: NDArray[np.int64], mb: float = 0.0) -> Measured:
    """Search one query after another, in one thread."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        for row in range(min(50, len(queries))):
            search(queries[row : row + 1], truth.shape[1])
        began = time.perf_counter()
        found = [search(queries[row : row + 1], truth.shape[1]) for row in range(len(queries))]
        taken = time.perf_counter() - began
    finally:
        faiss.omp_set_num_threads(threads)
    return Measured(recall(np.concatenate(found), truth), taken / len(queries) * 1e6, mb)


def own_index(vectors: NDArray[np.float32]) -> ItemIndex:
    """Return the worker's index over these vectors, fed as its follower feeds it."""
    index = ItemIndex(vectors.shape[1], "benchmark")
    for start in range(0, len(vectors), SLICE):
        part = vectors[start : start + SLICE]
        index.upsert([IndexedItem(f"i{start + row}", "", "", 0.0) for row in range(len(part))], part)
    index.settle()
    return index


def measure_own(index: ItemIndex, queries: NDArray[np.float32]) -> Measured:
    """Measure a worker's index against exact search over the vectors that it holds; row numbers are its slots."""
    slots = np.flatnonzero(index.listed)
    truth = slots[exact(index.vectors(slots), queries, min(K, len(slots)))]
    return measure(lambda query, k: index.search(query, k)[1], queries, truth)


def candidates(n: int) -> dict[str, list[dict[str, float]]]:
    """Return by factory string the settings to measure an index of n vectors with."""
    lists = int(4 * np.sqrt(n))
    return {
        "Flat": [{}],
        "SQfp16": [{}],
        "HNSW16": _each("efSearch", 64, 128, 256),
        "HNSW32,SQ8": _each("efSearch", 64, 128),
        f"IVF{lists},SQ8": _each("nprobe", 4, 8, 16, 32),
        f"IVF{lists // 2},SQ8": _each("nprobe", 4, 8, 16),
        f"IVF{lists // 4},SQ8": _each("nprobe", 2, 4, 8),
        f"IVF{lists},SQfp16": _each("nprobe", 8, 16),
        f"IVF{lists},SQ4": _each("nprobe", 8, 16),
        f"IVF{lists},PQ96x4fs,RFlat": _each("nprobe", 8, 16, 32, k_factor_rf=4),
        f"IVF{lists},PQ192x4fs,RFlat": _each("nprobe", 8, 16, 32, k_factor_rf=2),
        f"IVF{lists // 4},PQ192x4fs,RFlat": _each("nprobe", 2, 4, 8, k_factor_rf=2),
        f"IVF{lists}_HNSW16,SQ8": _each("nprobe", 8, 16),
    }


def _each(name: str, *values: float, **fixed: float) -> list[dict[str, float]]:
    return [{name: value, **fixed} for value in values]


def _built(name: str, vectors: NDArray[np.float32]) -> Any:
    sys.stderr.write(f"building {name}\n")
    index = faiss.index_factory(vectors.shape[1], name, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[np.random.default_rng(1).permutation(len(vectors))[:65_536]])
    index.add(vectors)
    return index


def _search(index: Any, query: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    found: NDArray[np.int64] = index.search(query, k)[1]
    return found


def compare(vectors: NDArray[np.float32], queries: NDArray[np.float32], console: Console) -> None:
    """Print the table."""
    truth = exact(vectors, queries)
    table = Table(title=f"{len(vectors)} items, {vectors.shape[1]} dims, {len(queries)} queries, k {K}, one thread")
    for name in ("index", "setting", f"recall@{K}", "us / query", "MB"):
        table.add_column(name, justify="left" if name in ("index", "setting") else "right")
    own = measure_own(own_index(vectors), queries)
    table.add_row("ranking.index", "", f"{own.recall:.4f}", f"{own.us:.0f}", "")
    for name, settings in candidates(len(vectors)).items():
        index = _built(name, vectors)
        mb = len(faiss.serialize_index(index)) / 1e6
        for setting in settings:
            for parameter, value in setting.items():
                faiss.ParameterSpace().set_index_parameter(index, parameter, value)
            one = measure(partial(_search, index), queries, truth, mb)
            shown = ", ".join(f"{parameter} {value:g}" for parameter, value in setting.items())
            table.add_row(name, shown, f"{one.recall:.4f}", f"{one.us:.0f}", f"{one.mb:.0f}")
    console.print(table)


def main() -> None:
    """Measure on the vectors of `--items` items."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--encoder", default="all-MiniLM-L6-v2")
    given = parser.parse_args()
    settings = load(encoder=given.encoder)
    encoder = load_encoder(settings)
    folder = settings.cache_dir / "benchmarks"
    with bar("encoding the items") as progress:
        made = texts.vectors([item_text(item) for item in texts.items(given.items)], encoder, folder, progress)
    asked = texts.vectors([each.text for each in texts.words(QUERIES)], encoder, folder)
    compare(made.astype(np.float32), asked.astype(np.float32), Console(width=120))


if __name__ == "__main__":
    main()
