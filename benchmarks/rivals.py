"""Recommenders that are only compared with: by the last item, item-item collaborative filtering, ALS and BPR.

The last three are those of the `implicit` library with its own settings and a seed. They learn from a whole matrix, so in a
stream they are fitted again each time there are REFIT more events; item-item and ALS take in each user's newest events all the
same, BPR cannot. Knows no data set's format.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ranking.baselines import Baseline, Both, CoOccurrence, Histories, Numbers, Popularity, Scores, TextProfile, weights
from streams.catalogue import item_text
from streams.datasets import Dataset
from streams.evaluation import simple_baselines

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # implicit has threads of its own, and warns when BLAS has too
REFIT = 1.02
SEED = 1
WEEK_S = 7 * 86_400.0
ALL = 1_000_000  # touches of a history


def rivals(dataset: Dataset) -> list[Baseline]:
    """Return all baselines for a set."""
    count = len(dataset.items)
    texts = [item_text(item) for item in dataset.items]
    recent: list[Baseline] = [Popularity(count, WEEK_S)] if "stream" in dataset.protocols else []
    whole = "TF-IDF of the whole history"
    return [
        *simple_baselines(dataset),
        *recent,
        TextProfile(texts, decay=1.0, last=ALL, name=whole),
        Both(TextProfile(texts, decay=1.0, last=ALL, name=whole), CoOccurrence(count)),
        TextProfile(texts, last=1, name="last item, TF-IDF"),
        CoOccurrence(count, last=1, name="last item, co-occurrence"),
        Fitted("item-item", count, item_item),
        Fitted("ALS", count, als),
        Fitted("BPR", count, bpr),
    ]


Ask = Callable[[Any, Numbers], NDArray[np.float32]]  # histories (m, items) CSR, users' numbers -> (m, items)


class Fitted:
    """A baseline that learns from all events at once."""

    def __init__(self, name: str, items: int, fit: Callable[[Any], Ask]) -> None:
        self.name, self._items, self._fit = name, items, fit
        self._users: list[Numbers] = []
        self._touched: list[Numbers] = []
        self._learnt = 0
        self._fitted_on = 0
        self._ask: Ask | None = None

    def learn(self, users: Numbers, items: Numbers, at: NDArray[np.float64]) -> None:
        """Keep the events for the next fit."""
        self._users.append(users)
        self._touched.append(items)
        self._learnt += len(items)

    def scores(self, histories: Histories, users: Numbers, at: float) -> Scores:
        """Return (m, items), by a model of all events but the last few hundredths."""
        if self._ask is None or self._learnt >= REFIT * self._fitted_on:
            who, what = np.concatenate(self._users), np.concatenate(self._touched)
            self._ask, self._fitted_on = self._fit(_matrix(who, what, int(who.max()) + 1, self._items)), self._learnt
        return self._ask(weights(histories, self._items, decay=1.0, last=ALL), users).astype(np.float32)


def _matrix(rows: Numbers, columns: Numbers, users: int, items: int) -> Any:
    matrix = csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(users, items))
    matrix.data[:] = 1.0  # an item touched twice counts once
    return matrix


def item_item(matrix: Any) -> Ask:
    """Return item-item collaborative filtering: the sum over the history of the cosines of the items' users."""
    norms = np.sqrt(np.asarray(matrix.sum(axis=0)).ravel())
    scaled = matrix.multiply(1.0 / np.maximum(norms, 1.0)).tocsr()
    near = (scaled.T @ scaled).tocsr()
    near.setdiag(0.0)
    return lambda histories, users: (histories @ near).toarray()


def als(matrix: Any) -> Ask:
    """Return the alternating least squares of Hu, Koren and Volinsky (2008); each history is solved for its user's factors."""
    from implicit.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(random_state=SEED, num_threads=0)
    model.fit(matrix, show_progress=False)

    def ask(histories: Any, users: Numbers) -> NDArray[np.float32]:
        ones = histories.copy()
        ones.data[:] = 1.0
        found: NDArray[np.float32] = model.recalculate_user(np.arange(ones.shape[0]), ones) @ model.item_factors.T
        return found

    return ask


def bpr(matrix: Any) -> Ask:
    """Return the Bayesian personalised ranking of Rendle et al. (2009); who it was not fitted with gets the items' biases."""
    from implicit.bpr import BayesianPersonalizedRanking

    model = BayesianPersonalizedRanking(random_state=SEED, num_threads=1)  # one thread: the same figures in each run
    model.fit(matrix, show_progress=False)
    stranger = np.zeros((1, model.user_factors.shape[1]), np.float32)
    stranger[0, -1] = 1.0  # the factor that the items' biases belong to
    factors = np.concatenate([model.user_factors, stranger])

    def ask(histories: Any, users: Numbers) -> NDArray[np.float32]:
        there = (users >= 0) & (users < len(factors) - 1)
        found: NDArray[np.float32] = factors[np.where(there, users, -1)] @ model.item_factors.T
        return found

    return ask
