"""What leads to what: item-item tables learnt from whole histories, each item with its strongest links, kept in a model bundle.

Knows no users' profiles and no clock. The live co-visits (`signals`) know what happened a second ago and forget; these tables
know everything that a training saw, and words. Scores of one table compare within the table only.

| table | an item's links |
|---|---|
| `taste` | ridge regression of items on items (EASE, Steck, 2019) over users and, weighed, texts (CEASE, Jeunen et al., 2020) |
| `habit` | the same over users alone |
| `follow` | what was touched after it, .8 per step between, cosine-normalised |
| `together` | what was touched near it, before or after, half as much after a month; cosine-normalised |
| `words` | TF-IDF cosine of the texts, with pairs of words |
| `meaning` | cosine of the whitened vectors |
| `brand`, `category` | the item's share of its brand or category, times how often that follows the touched one's |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

TABLES = ("taste", "habit", "follow", "together", "words", "meaning", "brand", "category")
LINKS = 64  # of an item in a table
MOST = 12_000  # items in the tables, the most touched: the regression keeps n x n numbers three times, 1.7 GB
GAP_DECAY = 0.8
GAPS = 24
MONTH_S = 30 * 86_400.0
RIDGE = (1.0, 5.0)  # in mean diagonals: with texts, without
WORDS_SHARE = 0.5  # of the mean diagonal: what a row of words weighs against the users'
BLOCK = 2_000

Matrix = NDArray[np.float32]


class Links(NamedTuple):
    """One table. others: (n, LINKS) int32 rows, -1 for none; scores: (n, LINKS) float16 > 0, strongest first."""

    others: NDArray[np.int32]
    scores: NDArray[np.float16]


class History(NamedTuple):
    """What a user touched: items' numbers, oldest first, and how many seconds before the end of it all."""

    items: NDArray[np.int64]
    ages_s: NDArray[np.float64]


def fit(
    histories: Sequence[History],
    vectors: Matrix,
    texts: Sequence[str],
    brands: NDArray[np.int32],
    categories: NDArray[np.int32],
) -> dict[str, Links]:
    """Return the tables of n items. vectors: (n, dim) whitened unit rows; brands, categories: (n,) codes, 0 for none."""
    n = len(texts)
    words = _words(texts)
    alike: Matrix = (words @ words.T).toarray().astype(np.float32)
    near: Matrix = vectors @ vectors.T
    after, together = _pairs(histories, n)
    both: Matrix = after + np.float32(0.5) * after.T
    heat = np.zeros(n, np.int64)
    for own in histories:
        np.add.at(heat, own.items, 1)
    gram = _gram(histories, n)
    return {
        "taste": _strongest(_regression(gram, alike + near)),
        "habit": _strongest(_regression(gram, None)),
        "follow": _strongest(_cosine(after)),
        "together": _strongest(_cosine(together + together.T)),
        "words": _strongest(alike),
        "meaning": _strongest(near),
        "brand": _strongest(_by_kind(both, heat, brands)),
        "category": _strongest(_by_kind(both, heat, categories)),
    }


def to_tensors(tables: Mapping[str, Links]) -> dict[str, NDArray[Any]]:
    """Return the tables as a bundle keeps them."""
    return {f"links.{name}.{part}": value for name, own in tables.items() for part, value in own._asdict().items()}


def from_tensors(tensors: Mapping[str, NDArray[Any]]) -> dict[str, Links]:
    """Return the tables of a bundle, by name."""
    return {name: Links(tensors[f"links.{name}.others"], tensors[f"links.{name}.scores"]) for name in TABLES}


def _pairs(histories: Sequence[History], n: int) -> tuple[Matrix, Matrix]:
    """Return how often the one was touched before the other, less with each step between, and less by age, (n, n) both."""
    after, together = np.zeros((n, n), np.float32), np.zeros((n, n), np.float32)
    for items, ages_s in histories:
        fresh = np.exp2(-ages_s / MONTH_S).astype(np.float32)
        for gap in range(1, min(len(items), GAPS + 1)):
            pairs = items[:-gap], items[gap:]
            np.add.at(after, pairs, np.float32(GAP_DECAY ** (gap - 1)))
            np.add.at(together, pairs, fresh[gap:] * np.float32(gap**-0.5))
    for counts in (after, together):
        np.fill_diagonal(counts, 0.0)
    return after, together


def _gram(histories: Sequence[History], n: int) -> Matrix:
    """Return how many users touched both, (n, n)."""
    gram = np.zeros((n, n), np.float32)
    for own in histories:
        items = np.unique(own.items)
        gram[items[:, None], items[None, :]] += 1.0
    return gram


def _cosine(counts: Matrix) -> Matrix:
    left, right = 1.0 + counts.sum(axis=1), 1.0 + counts.sum(axis=0)
    made: Matrix = counts / np.sqrt(left)[:, None] / np.sqrt(right)[None, :]
    return made


def _regression(gram: Matrix, alike: Matrix | None) -> Matrix:
    """Return B = I - P diag(P)^-1 without its diagonal, P the inverse of the users' and the texts' Gram matrix and a ridge."""
    import torch

    n = len(gram)
    mean = max(float(np.diag(gram).mean()), 1e-3) if n else 1.0
    whole = gram.copy() if alike is None else gram + np.float32(WORDS_SHARE * mean) * alike
    whole[np.arange(n), np.arange(n)] += RIDGE[alike is None] * mean
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(torch.from_numpy(whole))).numpy()
    weights: Matrix = np.asarray(-inverse / np.diag(inverse)[None, :], np.float32)
    np.fill_diagonal(weights, 0.0)
    return weights


def _by_kind(both: Matrix, heat: NDArray[np.int64], codes: NDArray[np.int32]) -> Matrix:
    """Return (n, n) of sqrt(P(kind j | kind i) * share of j in its kind); 0 where an item has no kind."""
    kinds = int(codes.max(initial=0)) + 1
    rows = np.zeros((kinds, both.shape[1]), np.float32)
    np.add.at(rows, codes, both)
    moves = np.zeros((kinds, kinds), np.float32)
    np.add.at(moves.T, codes, rows.T)
    chance = moves / (moves.sum(axis=1, keepdims=True) + 2.0)
    share = heat / np.maximum(np.bincount(codes, weights=heat, minlength=kinds)[codes], 1.0)
    made: Matrix = np.sqrt(chance[codes][:, codes] * share[None, :]).astype(np.float32)
    made[codes == 0] = 0.0
    made[:, codes == 0] = 0.0
    np.fill_diagonal(made, 0.0)
    return made


def _words(texts: Sequence[str]) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        return TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, dtype=np.float32).fit_transform(texts)
    except ValueError:  # no word stands in two of the texts
        import scipy.sparse

        return scipy.sparse.csr_matrix((len(texts), 1), dtype=np.float32)


def _strongest(scores: Matrix) -> Links:
    n = len(scores)
    most = min(LINKS, max(1, n))
    others, values = np.full((n, LINKS), -1, np.int32), np.zeros((n, LINKS), np.float16)
    for start, own in _blocks(scores):
        np.put_along_axis(own, np.arange(start, start + len(own))[:, None], 0.0, axis=1)
        top = np.argpartition(-own, most - 1, axis=1)[:, :most]
        kept = np.take_along_axis(own, top, axis=1)
        order = np.argsort(-kept, axis=1, kind="stable")
        top, kept = np.take_along_axis(top, order, axis=1), np.take_along_axis(kept, order, axis=1)
        rows = slice(start, start + len(own))
        others[rows, :most] = np.where(kept > 0.0, top, -1)
        values[rows, :most] = np.maximum(kept, 0.0)
    return Links(others, values)


def _blocks(scores: Matrix) -> Iterator[tuple[int, Matrix]]:
    for start in range(0, len(scores), BLOCK):
        yield start, scores[start : start + BLOCK].copy()
