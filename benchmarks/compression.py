"""Measure what smaller vectors cost: megabytes, microseconds a search, and the product's lists on a data set.

`python -m benchmarks.compression amazon-scientific --data DIR --json`. Each point is the product with other vectors: those of
`HEADRACE_COMPACT` (fewer dimensions, in 8 bits), and beside them what FAISS's codecs would leave of all dimensions. Lists are
those of a new installation (zero-shot), asked through the object that workers run, all points the same questions; choices are
made on `--part valid`. Size and speed are of `--items` items, the set's vectors with noise, searched one query at a time in one
thread; megabytes are told for 100,000. Knows no broker.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.index import own_index
from encoders import Encoder
from encoders.narrow import NarrowEncoder, narrowed
from ranking import search
from ranking.evaluate import Interval
from ranking.index import ItemIndex
from ranking.profile import key_of, new_profile, pack
from ranking.search import InvertedSearch
from ranking.signals import Signals
from streams import evaluation, formats
from streams.answers import index_of, remembered
from streams.building import COMPACT, build
from streams.catalogue import item_text
from streams.datasets import Dataset
from streams.evaluation import PRODUCT, Make, Row
from streams.personalizer import Personalizer
from streams.settings import Settings
from streams.terminal import bar
from streams.trial import Part, trial

MANY = 100_000
NOISE = 0.3  # length of what is added to a unit vector, so that the many are not copies
QUERIES = 500
K = 100
PRODUCTS = 8_000  # vectors that a codec is trained on at most
ROUNDS = 8  # of product codes' k-means, as many as the index's lists take
CODECS = {
    "float16": "SQfp16",
    "4 bits a number": "SQ4",
    "product codes, 2 bits a number": "PQ4",  # a byte for each 4 numbers
    "product codes, 1 bit a number": "PQ8",
    "signs": "signs",
}

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Size:
    """What vectors take: mb of 100,000 items', those that ranking reads and those that are searched; us: p50 of a search;

    found: share of the exact K nearest, by these vectors, that the search finds; profile: bytes of a new user's record.
    """

    mb: float
    us: float
    found: float
    profile: int


class Signs:
    """A codec of one bit a number: its sign."""

    def sa_encode(self, vectors: Rows) -> NDArray[np.uint8]:
        """Return (n, dim / 8) codes."""
        return np.packbits(vectors > 0, axis=1)

    def sa_decode(self, coded: NDArray[np.uint8]) -> Rows:
        """Return (n, dim) of +1 and -1."""
        return np.unpackbits(coded, axis=1).astype(np.float32) * 2 - 1


class Coded:
    """An encoder whose vectors went through a codec of FAISS: what an index of such codes would give back."""

    def __init__(self, encoder: Encoder, codec: Any, name: str) -> None:
        self._encoder, self.codec = encoder, codec
        self.id, self.dim, self.reason = f"{encoder.id}-{name}", encoder.dim, encoder.reason

    def encode(self, texts: Any) -> Rows:
        """Return (n, dim) float32 unit rows."""
        return self.coded(self._encoder.encode(texts))

    def coded(self, vectors: Rows) -> Rows:
        """Return what is left of vectors, unit rows."""
        left = self.codec.sa_decode(self.codec.sa_encode(np.ascontiguousarray(vectors)))
        return np.asarray(left / np.linalg.norm(left, axis=1, keepdims=True), np.float32)


def codec_of(kind: str, vectors: Rows) -> Any:
    """Return a codec trained on some of (n, dim) vectors."""
    if kind == "signs":
        return Signs()
    if kind.startswith("PQ"):
        return _product_codes(vectors[:PRODUCTS], int(kind[2:]))
    made = faiss.index_factory(vectors.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    made.train(np.ascontiguousarray(vectors[:PRODUCTS]))
    return made


def _product_codes(vectors: Rows, width: int) -> Any:
    """Return product codes of a byte for each `width` numbers, by scikit-learn's k-means: FAISS's own takes minutes."""
    from sklearn.cluster import KMeans

    dim = vectors.shape[1]
    parts = [vectors[:, start : start + width] for start in range(0, dim, width)]
    books = [KMeans(256, init="random", n_init=1, max_iter=ROUNDS, random_state=1).fit(part).cluster_centers_ for part in parts]
    made: Any = faiss.IndexPQ(dim, len(parts), 8, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(np.stack(books).astype(np.float32).ravel(), made.pq.centroids)
    made.is_trained = True
    return made


def many(vectors: Rows, count: int) -> Rows:
    """Return `count` unit rows like (n, dim) vectors."""
    rng = np.random.default_rng(1)
    rows = vectors[rng.integers(0, len(vectors), count)]
    rows = rows + NOISE / np.sqrt(vectors.shape[1]) * rng.normal(size=rows.shape).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def size_of_product(vectors: Rows, queries: Rows) -> Size:
    """Measure the worker's index over these vectors."""
    index = own_index(vectors)
    inverted = index._search
    assert isinstance(inverted, InvertedSearch)
    slots = np.flatnonzero(index.listed)
    searched = faiss.serialize_index(inverted._faiss).nbytes + inverted._lists[: len(slots)].nbytes
    kept = (vectors.shape[1] + 4) * len(slots)
    return _size(searched + kept, lambda query: index.search(query, K)[1], index.vectors(slots), queries, slots)


def size_of_codec(kind: str, vectors: Rows, queries: Rows, codec: Any) -> Size:
    """Measure FAISS's inverted file with a codec, and as many codes again for ranking to read."""
    dim, lists = vectors.shape[1], search.lists_for(len(vectors))
    faiss.omp_set_num_threads(1)
    if kind.startswith("PQ"):
        made = _inverted(codec, lists, vectors)
    else:
        coarse = f"PQ{dim // 4}x4" if kind == "signs" else kind  # four signs are one of 16 codes: as many bits
        made = faiss.index_factory(dim, f"IVF{lists},{coarse}", faiss.METRIC_INNER_PRODUCT)
        made.train(vectors[: search.SAMPLE * lists])
    made.nprobe = search.NPROBE
    made.add(vectors)
    kept = codec.sa_encode(np.ascontiguousarray(vectors[:1])).nbytes * len(vectors)
    total = faiss.serialize_index(made).nbytes + kept
    return _size(total, lambda query: made.search(query, K)[1], vectors, queries, np.arange(len(vectors)))


def _inverted(codec: Any, lists: int, vectors: Rows) -> Any:
    """Return an inverted file of product codes, empty: the codec's own codes of vectors, not of what their list leaves."""
    coarse: Any = faiss.index_factory(codec.d, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    coarse.train(vectors[: search.SAMPLE * lists])
    coarse.own_fields = False  # the quantizer goes to the next
    made: Any = faiss.IndexIVFPQ(coarse.quantizer, codec.d, lists, codec.pq.M, 8, faiss.METRIC_INNER_PRODUCT)
    made.own_fields, made.by_residual, made.is_trained = True, False, True
    made.pq = codec.pq
    return made


def _size(
    total: int, find: Callable[[Rows], NDArray[np.int64]], vectors: Rows, queries: Rows, slots: NDArray[np.int64]
) -> Size:
    faiss.omp_set_num_threads(1)
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(np.ascontiguousarray(vectors))
    truth = slots[flat.search(queries, K)[1]]
    taken, found = [], []
    for row in range(len(queries)):
        began = time.perf_counter()
        slots_found = find(queries[row : row + 1])
        taken.append(time.perf_counter() - began)
        found.append(slots_found[0])
    hits = [len(np.intersect1d(one, other)) / K for one, other in zip(found, truth, strict=True)]
    profile = len(pack(new_profile(vectors.shape[1], key_of("any"))))
    return Size(total / len(vectors) * MANY / 1e6, median(taken) * 1e6, float(np.mean(hits)), profile)


def points(encoder: Encoder, vectors: Rows) -> dict[str, Encoder]:
    """Return each point's encoder by name: the settings first, as HEADRACE_COMPACT names them."""
    made: dict[str, Encoder] = {
        name: encoder if share == 1 else NarrowEncoder(encoder, encoder.dim // share) for name, share in COMPACT.items()
    }
    for name, kind in CODECS.items():
        made[name] = Coded(encoder, codec_of(kind, vectors), kind)
    return made


def _as(encoder: Encoder, index: ItemIndex) -> Make:
    def make(_: Encoder, settings: Settings, __: ItemIndex, signals: Signals) -> Personalizer:
        return build(encoder, settings, index, signals)

    return make


def lists(dataset: Dataset, made: dict[str, Encoder], settings: Settings, part: Part, cases: int) -> dict[str, Row]:
    """Return each point's figures; `ahead` is how far the first is ahead, paired by user."""
    first = next(iter(made))
    asked = trial(dataset, "", part)
    asked = replace(asked, cases=asked.cases[:cases]) if cases else asked
    forms: dict[str, Make] = {}
    indexes: dict[str, ItemIndex] = {}
    for name, encoder in made.items():
        indexes[name] = index_of(dataset.items, float(dataset.events[0].at), encoder, settings)
        forms[name] = _as(encoder, indexes[name])
    with bar("asking") as progress:
        verdict = evaluation.run(
            dataset,
            asked,
            settings,
            made[first],
            indexes[first],
            masked=True,
            baselines=lambda _: [],
            make=forms.pop(first),
            also=forms,
            progress=progress,
        )
    return {first if row.name == PRODUCT else row.name: row for row in verdict.rows}


def main() -> None:
    """Read the set, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", help="a folder of --data, or a path to one")
    parser.add_argument("--data", type=Path, default=Path(), help="the folder that named sets are in")
    parser.add_argument("--part", choices=("valid", "test"), default="test")
    parser.add_argument("--cases", type=int, default=0, help="ask only the first so many; 0 is all")
    parser.add_argument("--items", type=int, default=MANY, help="items of the index that size and speed are of")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    given = parser.parse_args()
    began = time.perf_counter()
    console = Console(width=160, file=sys.stderr if given.json else None)
    dataset = formats.read(Path(given.set) if Path(given.set).is_dir() else given.data / given.set)
    settings = evaluation.settings_for(dataset, dataset.k, masked=True).model_copy(update={"compact": "none", "images": None})
    encoder = remembered(settings)
    console.print(encoder.reason, markup=False)
    with bar("encoding the items"):
        vectors = encoder.encode([item_text(item) for item in dataset.items])
    encoder.save()
    made = points(encoder, vectors)
    crowd, queries = many(vectors, given.items), many(vectors[::-1], QUERIES)
    sizes = {name: _measured(name, each, crowd, queries) for name, each in made.items()}
    found = lists(dataset, made, settings, given.part, given.cases)
    console.print(_table(sizes, found, dataset, given.items))
    if given.json:
        told = {
            name: {
                **vars(sizes[name]),
                "dim": made[name].dim,
                **{figure: own.means[figure] for figure in ("recall", "ndcg")},
                "behind": own.ahead,
            }
            for name, own in found.items()
        }
        took = {"set": dataset.name, "part": given.part, "k": dataset.k, "encoder": encoder.id, "items": given.items}
        print(json.dumps({**took, "seconds": round(time.perf_counter() - began, 1), "points": told}))


def _measured(name: str, encoder: Encoder, crowd: Rows, queries: Rows) -> Size:
    if isinstance(encoder, NarrowEncoder):
        own = partial(narrowed, dim=encoder.dim)
        return size_of_product(own(crowd), own(queries))
    if isinstance(encoder, Coded):
        return size_of_codec(CODECS[name], encoder.coded(crowd), queries, encoder.codec)
    return size_of_product(crowd, queries)


def _table(sizes: dict[str, Size], found: dict[str, Row], dataset: Dataset, items: int) -> Table:
    table = Table(title=f"{dataset.name}: lists of {dataset.k}; size and speed of {items} items")
    for name in (
        "vectors",
        "MB / 100k items",
        "us a search",
        f"recall@{K} of it",
        "new profile, B",
        "recall",
        "NDCG",
        "less than none",
    ):
        table.add_column(name, justify="left" if name == "vectors" else "right")
    for name, size in sizes.items():
        row = found[name]
        behind = _interval(row.ahead["ndcg"]) if row.ahead else ""
        shown = [f"{row.means[figure].mean:.4f}" for figure in ("recall", "ndcg")]
        table.add_row(name, f"{size.mb:.1f}", f"{size.us:.0f}", f"{size.found:.3f}", str(size.profile), *shown, behind)
    return table


def _interval(told: Interval) -> str:
    return f"{-told.mean:+.4f} [{-told.high:+.4f} {-told.low:+.4f}]"


if __name__ == "__main__":
    main()
