"""Nearest neighbours by inner product over rows that have a slot: exact, or by an inverted file with 8-bit codes.

Knows slots and vectors, no items. Not safe for several threads: the caller locks.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

NPROBE = 8
NONE = -1  # the list of a slot that has none
SAMPLE = 40  # vectors a list is trained with: FAISS advises 39 to 256


class Search(Protocol):
    """What the index asks of a search structure."""

    def add(self, slots: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add vectors, (n, dim), under slots that are not in it."""

    def remove(self, slots: NDArray[np.int64]) -> None:
        """Remove slots that are in it."""

    def nearest(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return inner products and slots of the k nearest of each query, both (n, k), best first; slot -1 is none."""

    def __len__(self) -> int: ...


class ExactSearch:
    """FAISS flat: every vector is compared."""

    def __init__(self, dim: int) -> None:
        import faiss

        self._faiss: Any = faiss.IndexIDMap2(faiss.IndexFlatIP(dim))

    def __len__(self) -> int:
        return int(self._faiss.ntotal)

    def add(self, slots: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add vectors under their slots."""
        self._faiss.add_with_ids(vectors, slots)

    def remove(self, slots: NDArray[np.int64]) -> None:
        """Remove slots."""
        import faiss

        self._faiss.remove_ids(faiss.IDSelectorBatch(slots))

    def nearest(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the exact answer."""
        return _nearest(self._faiss, queries, k)


class InvertedSearch:
    """FAISS IVF-SQ8. trained: the serialised structure without vectors, as `train` made it."""

    def __init__(self, trained: bytes) -> None:
        import faiss

        self.trained = trained
        self._faiss = _read(trained)
        self._faiss.nprobe = NPROBE
        self._faiss.set_direct_map_type(faiss.DirectMap.Hashtable)  # type: ignore[attr-defined]  # to remove without a scan
        self._lists = np.full(0, NONE, np.int32)  # by slot: where it was put, so that a snapshot need not search for it again

    def __len__(self) -> int:
        return int(self._faiss.ntotal)

    def lists_of(self, slots: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the list that each slot is in, (n,); NONE for one that is not in it."""
        self._make_room(slots)
        return self._lists[slots]

    def add(self, slots: NDArray[np.int64], vectors: NDArray[np.float32], lists: NDArray[np.int32] | None = None) -> None:
        """Add vectors under their slots; `lists` from `lists_of` a structure with the same training saves the assignment."""
        import faiss

        if not len(slots):
            return
        vectors, own = np.ascontiguousarray(vectors), np.ascontiguousarray(slots, np.int64)
        placed = self._assign(vectors) if lists is None else lists.astype(np.int64)
        self._faiss.add_core(len(own), faiss.swig_ptr(vectors), faiss.swig_ptr(own), faiss.swig_ptr(placed))
        self._make_room(own)
        self._lists[own] = placed

    def remove(self, slots: NDArray[np.int64]) -> None:
        """Remove slots."""
        import faiss

        self._faiss.remove_ids(faiss.IDSelectorArray(slots))
        self._lists[slots] = NONE

    def nearest(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the nearest in the NPROBE lists nearest to each query."""
        return _nearest(self._faiss, queries, k)

    def _assign(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        _, lists = self._faiss.quantizer.search(vectors, 1)
        return np.ascontiguousarray(lists[:, 0])

    def _make_room(self, slots: NDArray[np.int64]) -> None:
        wanted = int(slots.max(initial=-1)) + 1
        if wanted > len(self._lists):
            room = np.full(wanted + wanted // 4 - len(self._lists), NONE, np.int32)
            self._lists = np.concatenate([self._lists, room])


def lists_for(n: int) -> int:
    """Return how many lists n vectors are trained into: 4 sqrt(n), each with enough vectors."""
    return int(min(4 * np.sqrt(n), n / SAMPLE))


def train(sample: NDArray[np.float32], lists: int) -> InvertedSearch:
    """Return an empty inverted file, trained on vectors, (n, dim)."""
    import faiss

    dim = sample.shape[1]
    made: Any = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(dim), dim, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    made.cp.niter, made.cp.seed = 8, 1
    made.train(sample)
    return InvertedSearch(faiss.serialize_index(made).tobytes())


def _read(serialized: bytes) -> Any:
    import faiss

    return faiss.deserialize_index(np.frombuffer(serialized, np.uint8))


def _nearest(index: Any, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    import faiss

    faiss.omp_set_num_threads(1)  # of this thread only: on 2 busy cores a step took 10 ms with the pool, 0.5 without
    scores, slots = index.search(np.ascontiguousarray(queries, np.float32), k)
    return scores, slots
