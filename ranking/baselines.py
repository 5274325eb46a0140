"""Simple recommenders to compare with: popularity, text, co-occurrence, and the last two together.

Know no users, messages or settings: users and items are numbers, histories are sequences of item numbers, oldest first. Each
learns from events in time order and scores all items for any histories, also for those of users it never saw.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

NOBODY = -1
DECAY = 0.8  # weight of a touch against the next newer one
LAST = 10  # touches that count
BESIDE = 0.3  # weight of the text beside co-occurrence

Numbers = NDArray[np.int64]
Scores = NDArray[np.float32]
Histories = Sequence[Sequence[int]]


class Baseline(Protocol):
    """Something that scores all items for histories; more is better."""

    name: str

    def learn(self, users: Numbers, items: Numbers, at: NDArray[np.float64]) -> None:
        """Take n events in, in time order: users' and items' numbers, Unix seconds. Called again with those that follow."""
        ...

    def scores(self, histories: Histories, users: Numbers, at: float) -> Scores:
        """Return (m, items) float32, a new array, for m users (NOBODY for one never learnt) at a time (Unix seconds)."""
        ...


class Popularity:
    """How often each item was touched; with a half-life, how often of late."""

    def __init__(self, items: int, half_life_s: float = np.inf) -> None:
        self.name = "popularity" if np.isinf(half_life_s) else f"popularity, half-life {half_life_s / 86_400:g} d"
        self._half_life_s = half_life_s
        self._counts = np.zeros(items)
        self._at = 0.0

    def learn(self, users: Numbers, items: Numbers, at: NDArray[np.float64]) -> None:
        """Count the events, each decayed from its own time."""
        if len(at):
            now = max(self._at, float(at.max()))
            self._counts *= np.exp2((self._at - now) / self._half_life_s)
            np.add.at(self._counts, items, np.exp2((at - now) / self._half_life_s))
            self._at = now

    def scores(self, histories: Histories, users: Numbers, at: float) -> Scores:
        """Return the same counts for all, (m, items): all decay alike."""
        return np.tile(self._counts.astype(np.float32), (len(histories), 1))


class TextProfile:
    """The cosine of each item's TF-IDF vector with the decayed sum of those of the last touches.

    TF-IDF as scikit-learn's TfidfVectorizer, sublinear.
    """

    def __init__(self, texts: Sequence[str], decay: float = DECAY, last: int = LAST, name: str = "TF-IDF") -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._rows: Any = TfidfVectorizer(sublinear_tf=True, dtype=np.float32).fit_transform(texts)
        self._columns: Any = self._rows.T.tocsr()
        self.name, self._decay, self._last = name, decay, last

    def learn(self, users: Numbers, items: Numbers, at: NDArray[np.float64]) -> None:
        """Texts do not change with what users do."""

    def scores(self, histories: Histories, users: Numbers, at: float) -> Scores:
        """Return the cosines, (m, items) in [0, 1]; 0 throughout for an empty history."""
        profiles = weights(histories, self._rows.shape[0], self._decay, self._last) @ self._rows
        norms = np.sqrt(np.asarray(profiles.multiply(profiles).sum(axis=1)))
        near: Scores = (profiles @ self._columns).toarray()
        near /= np.maximum(norms, 1e-9).astype(np.float32)
        return near


class CoOccurrence:
    """How often each item came with those of the history: sum over the last touches h of decay^age * c_hi / sqrt(c_h c_i).

    c_hi counts the users who touched both, c_i those who touched i. The first events learnt are counted as one matrix product,
    later ones each with its user's history.
    """

    def __init__(self, items: int, decay: float = DECAY, last: int = LAST, name: str = "co-occurrence") -> None:
        self.name, self._items, self._decay, self._last = name, items, decay, last
        self._had: dict[int, set[int]] = defaultdict(set)
        self._counts = np.zeros(items)
        self._first: Any = None  # (items, items) scipy CSR of the first events
        self._later: list[dict[int, float]] = [{} for _ in range(items)]

    def learn(self, users: Numbers, items: Numbers, at: NDArray[np.float64]) -> None:
        """Count each event's item with all that its user touched before."""
        if self._first is None and len(items):
            self._learn_first(users, items)
            return
        for user, item in zip(users.tolist(), items.tolist(), strict=True):
            had = self._had[user]
            if item in had:
                continue
            own = self._later[item]
            for other in had:
                theirs = self._later[other]
                own[other] = own.get(other, 0.0) + 1.0
                theirs[item] = theirs.get(item, 0.0) + 1.0
            had.add(item)
            self._counts[item] += 1.0

    def _learn_first(self, users: Numbers, items: Numbers) -> None:
        from scipy.sparse import csr_matrix

        for user, item in zip(users.tolist(), items.tolist(), strict=True):
            self._had[user].add(item)
        touched = csr_matrix((np.ones(len(items), np.float32), (users, items)), shape=(int(users.max()) + 1, self._items))
        touched.data[:] = 1.0  # touched twice counts once
        pairs = (touched.T @ touched).tocsr()
        self._counts += pairs.diagonal()
        pairs.setdiag(0.0)
        self._first = pairs

    def scores(self, histories: Histories, users: Numbers, at: float) -> Scores:
        """Return (m, items), 0 for what never came with any of the history."""
        found = np.zeros((len(histories), self._items), np.float32)
        if self._first is None:
            return found
        size = 1.0 / np.sqrt(np.maximum(self._counts, 1.0))
        for row, history in zip(found, histories, strict=True):
            for age, item in enumerate(reversed(history[-self._last :])):
                weight = self._decay**age * size[item]
                for others, counts in self._rows(item):
                    row[others] += weight * counts * size[others]
        return found

    def _rows(self, item: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Yield numbers and counts of the items that came with one, from the first events and from the later ones."""
        span = slice(*self._first.indptr[item : item + 2])
        yield self._first.indices[span], self._first.data[span]
        later = self._later[item]
        if later:
            yield np.fromiter(later.keys(), np.int64, len(later)), np.fromiter(later.values(), np.float64, len(later))


class Both:
    """Co-occurrence + `beside` * the text's cosine, the best of either being 1 for each user."""

    def __init__(self, text: TextProfile, together: CoOccurrence, beside: float = BESIDE) -> None:
        self.name = f"{text.name} + {together.name}"
        self._text, self._together, self._beside = text, together, beside

    def learn(self, users: Numbers, items: Numbers, at: NDArray[np.float64]) -> None:
        """Count in the co-occurrences."""
        self._together.learn(users, items, at)

    def scores(self, histories: Histories, users: Numbers, at: float) -> Scores:
        """Return (m, items) in [0, 1 + beside]."""
        text, together = self._text.scores(histories, users, at), self._together.scores(histories, users, at)
        return _to_one(together) + np.float32(self._beside) * _to_one(text)


def weights(histories: Histories, items: int, decay: float = DECAY, last: int = LAST) -> Any:
    """Return what each item of a history weighs by its age, (m, items) scipy CSR float32; of doubles the sum."""
    from scipy.sparse import csr_matrix

    recent = [list(reversed(history[-last:])) for history in histories]
    rows = np.repeat(np.arange(len(recent)), [len(own) for own in recent])
    columns = np.array([item for own in recent for item in own], np.int64)
    values = np.array([decay**age for own in recent for age in range(len(own))], np.float32)
    return csr_matrix((values, (rows, columns)), shape=(len(recent), items))


def _to_one(scores: Scores) -> Scores:
    most = scores.max(axis=1, keepdims=True, initial=0.0)
    return (scores / np.where(most > 0.0, most, 1.0)).astype(np.float32)
