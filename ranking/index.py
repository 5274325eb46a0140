"""The items that can be recommended: vectors, what rules need to know of them, and nearest-neighbour search over them.

Knows no users, texts or topics. Exact search (FAISS flat) while there are few items, an inverted file with 8-bit codes (FAISS
IVF-SQ8) from `IVF_FROM` items on, trained again in a thread of its own each time the catalogue has grown fourfold, so that
neither readers nor the writer wait for k-means. Items that are not available stay known, but out of the search.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ranking.profile import key_of

FORMAT = 1
PART = 1_000
IVF_FROM = 6_000  # below, exact search takes under 0.5 ms a query at 384 dims
GROWTH = 4  # train again when there are this many times the items of the last training
NPROBE = 8
KEPT = 20_000  # answers of `slots_of`, about 1 kB each
NOWHERE = -1


class ItemIndexError(ValueError):
    """The vectors or the snapshot do not fit this index: of another encoder or format. Says which, and the next step."""


class IndexedItem(msgspec.Struct, frozen=True, array_like=True):
    """What the index keeps of an item besides its vector. at: Unix seconds the item was first published."""

    item_id: str
    title: str
    text_hash: str
    at: float
    category: str = ""
    brand: str = ""
    tags: tuple[str, ...] = ()
    available: bool = True


class ItemIndex:
    """Items by slot (a row number that stays the item's own while it lives). Hold `lock` to use slots over several calls.

    vectors: (capacity, dim) float32 unit rows; keys: (capacity,) uint64 of `key_of(item_id)`; category, brand: (capacity,)
    int32 codes, 0 is none; at: (capacity,) float64; listed: (capacity,) bool, whether the item can be recommended now.
    """

    def __init__(self, dim: int, encoder_id: str) -> None:
        self.dim = dim
        self.encoder_id = encoder_id
        self.lock = threading.RLock()
        self.items: list[IndexedItem | None] = []
        self.vectors = np.zeros((0, dim), np.float32)
        self.keys = np.zeros(0, np.uint64)
        self.category = np.zeros(0, np.int32)
        self.brand = np.zeros(0, np.int32)
        self.at = np.zeros(0, np.float64)
        self.listed = np.zeros(0, np.bool_)
        self._searched = np.zeros(0, np.bool_)  # whether the search structure holds the slot
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._codes: dict[str, int] = {"": 0}
        self._kept: dict[int, tuple[list[tuple[str, float]], dict[int, float]]] = {}
        self._search = _flat(dim)
        self._trained_on = 0
        self._training: threading.Thread | None = None
        self._since_training: set[int] = set()

    def __len__(self) -> int:
        return len(self._slots)

    def slot(self, item_id: str) -> int:
        """Return the slot of an item, or NOWHERE (-1)."""
        return self._slots.get(item_id, NOWHERE)

    def slots_of(self, scored: list[tuple[str, float]]) -> dict[int, float]:
        """Return slot -> score of the items that can be recommended. The answer for one list object is kept.

        A kept answer outlives the arrival of items, not their removal: then their slots may be given to others.
        """
        kept = self._kept.get(id(scored))
        if kept is None:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            pairs = ((self.slot(item_id), score) for item_id, score in scored)
            kept = (scored, {slot: score for slot, score in pairs if slot != NOWHERE and self.listed[slot]})
            self._kept[id(scored)] = kept  # it holds the list, so that no other list gets its id
        return kept[1]

    def item(self, item_id: str) -> tuple[IndexedItem, NDArray[np.float32]] | None:
        """Return an item with a copy of its vector, (dim,) float32, or None."""
        with self.lock:
            slot = self.slot(item_id)
            item = self.items[slot] if slot >= 0 else None
            return None if item is None else (item, self.vectors[slot].copy())

    def upsert(self, items: Sequence[IndexedItem], vectors: NDArray[np.floating[Any]]) -> None:
        """Add items or replace those of the same id. vectors: (n, dim), unit rows in the order of the items."""
        if vectors.shape != (len(items), self.dim):
            raise ItemIndexError(
                f"vectors are {vectors.shape}, the index takes ({len(items)}, {self.dim}): another encoder made them"
            )
        with self.lock:
            rows = {item.item_id: row for row, item in enumerate(items)}  # of one id the last one stands
            slots = np.array([self._place(items[row]) for row in rows.values()], np.int64)
            fresh = vectors[list(rows.values())].astype(np.float32)
            moved = self._moved(slots, fresh)
            if len(moved) and not self.listed[slots].all():
                self._kept.clear()
            self.vectors[slots] = fresh
            self._reindex(slots[moved])
        self._train_when_grown()

    def delete(self, item_ids: Sequence[str]) -> None:
        """Remove items; unknown ids are ignored."""
        if not item_ids:
            return
        with self.lock:
            self._kept.clear()
            slots = [self._slots.pop(item_id) for item_id in item_ids if item_id in self._slots]
            for slot in slots:
                self.items[slot] = None
                self.listed[slot] = False
            self._reindex(np.array(slots, np.int64))
            self._free.extend(slots)

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return inner products and slots of the k nearest listed items per query, both (n, k), best first; slot -1 is none."""
        import faiss

        k = min(k, max(1, len(self)))
        with self.lock:
            faiss.omp_set_num_threads(1)  # of this thread only: on 2 busy cores a step took 10 ms with the pool, 0.5 without
            scores, slots = self._search.search(np.ascontiguousarray(queries, np.float32), k)
            return scores, slots

    def newest(self, k: int) -> NDArray[np.int64]:
        """Return the slots of the k listed items that were published last, newest first."""
        with self.lock:
            slots = np.flatnonzero(self.listed)
            if len(slots) > k:
                slots = slots[np.argpartition(-self.at[slots], k)[:k]]
            return slots[np.argsort(-self.at[slots], kind="stable")]

    def settle(self) -> None:
        """Wait until no training is under way."""
        thread = self._training
        if thread is not None:
            thread.join()

    def save(self, folder: Path) -> None:
        """Write a snapshot into an existing folder."""
        import faiss

        with self.lock:
            items, trained_on = list(self.items), self._trained_on
            vectors = self.vectors[: len(items)].copy()
            search = faiss.serialize_index(self._search)
        # A part at a time: encoding 100,000 items in one call kept every other thread from running for 150 ms.
        parts = [msgspec.msgpack.encode(items[start : start + PART]) for start in range(0, len(items), PART)]
        head = _Head(FORMAT, self.encoder_id, self.dim, trained_on, parts)
        (folder / "items.msgpack").write_bytes(msgspec.msgpack.encode(head))
        np.save(folder / "vectors.npy", vectors.astype(np.float16))
        np.save(folder / "search.npy", search)

    @classmethod
    def load(cls, folder: Path, dim: int, encoder_id: str) -> ItemIndex:
        """Read a snapshot. Raises ItemIndexError when it is of another encoder or format."""
        import faiss

        head = msgspec.msgpack.decode((folder / "items.msgpack").read_bytes(), type=_Head)
        if head.format != FORMAT or head.encoder_id != encoder_id or head.dim != dim:
            raise ItemIndexError(
                f"{folder} holds items of encoder {head.encoder_id} ({head.dim} dims, format {head.format}), "
                f"not of {encoder_id} ({dim} dims, format {FORMAT}): use the old encoder, or another state folder"
            )
        index = cls(dim, encoder_id)
        items = [item for part in head.items for item in msgspec.msgpack.decode(part, type=list[IndexedItem | None])]
        index._grow(len(items))
        for slot, item in enumerate(items):
            index.items.append(item)
            if item is None:
                index._free.append(slot)
            else:
                index._describe(slot, item)
        index.vectors[: len(items)] = np.load(folder / "vectors.npy")
        index._search = faiss.deserialize_index(np.load(folder / "search.npy"))
        index._searched[:] = index.listed
        index._trained_on = head.trained_on
        return index

    def _place(self, item: IndexedItem) -> int:
        slot = self._slots.get(item.item_id, NOWHERE)
        if slot == NOWHERE:
            if self._free:
                slot = self._free.pop()
            else:
                slot = len(self.items)
                self.items.append(None)
                self._grow(slot + 1)
        self.items[slot] = item
        self._describe(slot, item)
        return slot

    def _describe(self, slot: int, item: IndexedItem) -> None:
        self._slots[item.item_id] = slot
        self.keys[slot] = key_of(item.item_id)
        self.category[slot] = self._codes.setdefault(item.category, len(self._codes))
        self.brand[slot] = self._codes.setdefault(item.brand, len(self._codes))
        self.at[slot] = item.at
        self.listed[slot] = item.available

    def _grow(self, wanted: int) -> None:
        capacity = len(self.keys)
        if wanted <= capacity:
            return
        room = max(wanted, capacity + capacity // 4, 1_024)  # a quarter more: memory counts, and copies are rare enough
        for name in ("vectors", "keys", "category", "brand", "at", "listed", "_searched"):
            old = getattr(self, name)
            new = np.zeros((room, *old.shape[1:]), old.dtype)
            new[:capacity] = old
            setattr(self, name, new)

    def _moved(self, slots: NDArray[np.int64], vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Tell for which slots the search structure has to change: another availability, or another vector."""
        listed = self.listed[slots]
        changed: NDArray[np.bool_] = np.any(self.vectors[slots] != vectors, axis=1)
        stale: NDArray[np.bool_] = (self._searched[slots] != listed) | (listed & changed)
        return stale

    def _reindex(self, slots: NDArray[np.int64]) -> None:
        """Bring the search structure up to date for these slots."""
        _replace(self._search, slots[self._searched[slots]], slots[self.listed[slots]], self.vectors)
        self._searched[slots] = self.listed[slots]
        if self._training is not None:
            self._since_training.update(slots.tolist())

    def _train_when_grown(self) -> None:
        with self.lock:
            listed = int(self._searched.sum())
            if self._training is None and listed >= max(IVF_FROM, GROWTH * self._trained_on):
                self._training = threading.Thread(target=self._train, name="index-training", daemon=True)
                self._training.start()

    def _train(self) -> None:
        try:
            self._train_now()
        except MemoryError:  # the old search goes on; try again when the catalogue has grown, not at each item
            with self.lock:
                self._trained_on = int(self._searched.sum())
            raise
        finally:
            self._training = None

    def _train_now(self) -> None:
        with self.lock:
            slots = np.flatnonzero(self._searched)
            vectors = self.vectors[slots]
            self._since_training.clear()
        search = _inverted_file(vectors, slots)
        with self.lock:
            late = np.array(sorted(self._since_training), np.int64)
            _replace(search, late[np.isin(late, slots)], late[self.listed[late]], self.vectors)
            self._search, self._trained_on = search, len(slots)
            self._since_training.clear()


class _Head(msgspec.Struct, array_like=True):
    """The part of a snapshot that is no array. trained_on: items at the last training, 0 for none."""

    format: int
    encoder_id: str
    dim: int
    trained_on: int
    items: list[bytes]  # parts, each a list of IndexedItem | None


def _flat(dim: int) -> Any:
    import faiss

    return faiss.IndexIDMap2(faiss.IndexFlatIP(dim))


def _inverted_file(vectors: NDArray[np.float32], slots: NDArray[np.int64]) -> Any:
    """Return a trained IVF-SQ8 index of these vectors: 4 sqrt(n) lists, 40 points or more in each (FAISS's advice: 39-256)."""
    import faiss

    dim = vectors.shape[1]
    lists = int(min(4 * np.sqrt(len(vectors)), len(vectors) / 40))
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(dim), dim, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.niter, index.cp.seed = 8, 1
    sample = np.random.default_rng(1).permutation(len(vectors))[: 40 * lists]
    index.train(vectors[sample])
    index.set_direct_map_type(faiss.DirectMap.Hashtable)  # type: ignore[attr-defined]  # removal by id without reading every list
    index.nprobe = NPROBE
    index.add_with_ids(vectors, slots)
    return index


def _replace(search: Any, gone: NDArray[np.int64], come: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
    import faiss

    if len(gone):
        search.remove_ids(faiss.IDSelectorBatch(gone) if isinstance(search, faiss.IndexIDMap2) else faiss.IDSelectorArray(gone))
    if len(come):
        search.add_with_ids(vectors[come], come)
