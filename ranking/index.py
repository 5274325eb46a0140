"""The items that can be recommended: vectors, what rules need to know of them, and nearest-neighbour search over them.

Knows no users, texts or topics. Exact search while there are few items, an inverted file from `IVF_FROM` items on, trained
again in a thread of its own each time the catalogue has grown fourfold, so that neither readers nor the writer wait for
k-means. Items that are not available stay known, but out of the search.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from sys import intern
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from ranking import codes, search
from ranking.conditions import Condition, Value
from ranking.profile import key_of
from ranking.search import ExactSearch, InvertedSearch, Search

FORMAT = 2
PART = 2_000  # items of a snapshot written at once: 2 ms in which nobody else has the lock
BLOCK = 20_000  # vectors decoded at once for a training: 31 MB at 384 dims
IVF_FROM = 6_000  # below, exact search takes under 0.5 ms a query at 384 dims
GROWTH = 4  # train again when there are this many times the items of the last training
NOWHERE = -1
_BESIDE = 8  # bytes that a snapshot holds of an item beside its codes: scale and list


class ItemIndexError(ValueError):
    """The vectors or the snapshot do not fit this index: of another encoder or format. Says which, and the next step."""


class IndexedItem(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the index keeps of an item besides its vector. at: Unix seconds the item was first published.

    attributes: the values of those that the index keeps (`ItemIndex.attributes`), in that order; () where it keeps none.
    """

    item_id: str
    title: str
    text_hash: str
    at: float
    category: str = ""
    brand: str = ""
    tags: tuple[str, ...] = ()
    available: bool = True
    attributes: tuple[Value, ...] = ()

    def __post_init__(self) -> None:
        # Few strings, which come decoded anew with each item: 25 MB of 100,000 items.
        for name in ("category", "brand"):
            msgspec.structs.force_setattr(self, name, intern(getattr(self, name)))
        msgspec.structs.force_setattr(self, "tags", tuple([intern(tag) for tag in self.tags]))
        if self.attributes:
            values = tuple([intern(value) if isinstance(value, str) else value for value in self.attributes])
            msgspec.structs.force_setattr(self, "attributes", values)


class ItemIndex:
    """Items by slot (a row number that stays the item's own while it lives). Hold `lock` to use slots over several calls.

    codes, scales: (capacity, dim) int8 and (capacity,) float32, the vectors as `ranking.codes` keeps them, unit rows within
    0.002; keys: (capacity,) uint64 of `key_of(item_id)`; category, brand: (capacity,) int32 codes, 0 is none; at: (capacity,)
    float64; listed: (capacity,) bool, whether the item can be recommended now; changed: (capacity,) int64, the number of the
    last of the `changes` that touched the slot. attributes: names of those of an item's attributes that are kept.
    """

    def __init__(self, dim: int, encoder_id: str, attributes: tuple[str, ...] = ()) -> None:
        self.dim = dim
        self.encoder_id = encoder_id
        self.attributes = attributes
        self.lock = threading.RLock()
        self.items: list[IndexedItem | None] = []
        self.codes = np.zeros((0, dim), np.int8)
        self.scales = np.zeros(0, np.float32)
        self.keys = np.zeros(0, np.uint64)
        self.category = np.zeros(0, np.int32)
        self.brand = np.zeros(0, np.int32)
        self.at = np.zeros(0, np.float64)
        self.listed = np.zeros(0, np.bool_)
        self.changes = 0
        self.changed = np.zeros(0, np.int64)
        self._searched = np.zeros(0, np.bool_)  # whether the search structure holds the slot
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._codes: dict[str, int] = {"": 0}
        self._marks: dict[Condition, NDArray[np.bool_]] = {}
        self._search: Search = ExactSearch(dim)
        self._trained_on = 0
        self._training: threading.Thread | None = None
        self._since_training: set[int] = set()

    def __len__(self) -> int:
        return len(self._slots)

    def slot(self, item_id: str) -> int:
        """Return the slot of an item, or NOWHERE (-1)."""
        return self._slots.get(item_id, NOWHERE)

    def listed_slots(self, scored: Iterable[tuple[str, float]]) -> Iterator[tuple[int, float]]:
        """Yield slot and score of the items that can be recommended, in order."""
        for item_id, score in scored:
            slot = self._slots.get(item_id, NOWHERE)
            if slot != NOWHERE and self.items[slot].available:  # type: ignore[union-attr]  # a slot that is known holds an item
                yield slot, score

    def item(self, item_id: str) -> tuple[IndexedItem, NDArray[np.float32]] | None:
        """Return an item with a copy of its vector, (dim,) float32, or None."""
        with self.lock:
            slot = self.slot(item_id)
            item = self.items[slot] if slot >= 0 else None
            return None if item is None else (item, self.vectors([slot])[0])

    def known(self, item_ids: Sequence[str]) -> list[NDArray[np.float32] | None]:
        """Return the vector of each item, (dim,), or None."""
        with self.lock:
            slots = [self.slot(item_id) for item_id in item_ids]
            vectors = iter(self.vectors(np.array([slot for slot in slots if slot != NOWHERE], np.int64)))
        return [None if slot == NOWHERE else next(vectors) for slot in slots]

    def vectors(self, slots: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors of slots, in the slots' shape with `dim` behind it."""
        return codes.decode(self.codes[slots], self.scales[slots])

    def upsert(self, items: Sequence[IndexedItem], vectors: NDArray[np.floating[Any]]) -> None:
        """Add items or replace those of the same id. vectors: (n, dim), unit rows in the order of the items."""
        if vectors.shape != (len(items), self.dim):
            raise ItemIndexError(
                f"vectors are {vectors.shape}, the index takes ({len(items)}, {self.dim}): another encoder made them"
            )
        with self.lock:
            rows = {item.item_id: row for row, item in enumerate(items)}  # of one id the last one stands
            slots = np.array([self._place(items[row]) for row in rows.values()], np.int64)
            fresh = codes.encode(vectors[list(rows.values())])
            moved = self._moved(slots, *fresh)
            self.codes[slots], self.scales[slots] = fresh
            self._note(slots)
            self._reindex(slots[moved])
        self._train_when_grown()

    def delete(self, item_ids: Sequence[str]) -> None:
        """Remove items; unknown ids are ignored."""
        if not item_ids:
            return
        with self.lock:
            slots = [self._slots.pop(item_id) for item_id in item_ids if item_id in self._slots]
            for slot in slots:
                self.items[slot] = None
                self.listed[slot] = False
            self._note(np.array(slots, np.int64))
            self._reindex(np.array(slots, np.int64))
            self._free.extend(slots)

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return inner products and slots of the k nearest listed items per query, both (n, k), best first; slot -1 is none."""
        with self.lock:
            return self._search.nearest(queries, min(k, max(1, len(self))))

    def watch(self, conditions: Iterable[Condition]) -> None:
        """Know from now on which items these are about. Raises ItemIndexError for an attribute that is not kept."""
        with self.lock:
            for condition in conditions:
                if missing := {each.name for each in condition.attributes}.difference(self.attributes):
                    raise ItemIndexError(
                        f"a rule asks for {sorted(missing)}, the index keeps {self.attributes} of attributes: make it with them"
                    )
                holds = [item is not None and condition.holds(item, self.attributes) for item in self.items]
                self._marks[condition] = np.zeros(len(self.keys), np.bool_)
                self._marks[condition][: len(holds)] = holds

    def marked(self, condition: Condition) -> NDArray[np.bool_]:
        """Tell for each slot whether it holds an item that a condition watched is about, (capacity,) bool."""
        return self._marks[condition]

    def kinds(self) -> tuple[frozenset[str], frozenset[str]]:
        """Return the categories and the brands of the items that can be recommended; of 100,000 items in some ms."""
        with self.lock:
            words = list(self._codes)  # in the order of their codes, the first is none
            of_category, of_brand = (np.unique(codes[self.listed]).tolist() for codes in (self.category, self.brand))
        return frozenset(words[code] for code in of_category if code), frozenset(words[code] for code in of_brand if code)

    def newest(self, k: int, among: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Return the slots of the k listed items published last, newest first. among: (capacity,) bool, all where None."""
        with self.lock:
            slots = np.flatnonzero(self.listed if among is None else self.listed & among)
            if len(slots) > k:
                slots = slots[np.argpartition(-self.at[slots], k)[:k]]
            return slots[np.argsort(-self.at[slots], kind="stable")]

    def settle(self) -> None:
        """Wait until no training is under way."""
        thread = self._training
        if thread is not None:
            thread.join()

    def save(self, folder: Path) -> None:
        """Write a snapshot into an existing folder, a part at a time: readers go on meanwhile, writers have to wait."""
        with self.lock:
            count, trained_on, inverted = len(self.items), self._trained_on, self._search
        trained = inverted.trained if isinstance(inverted, InvertedSearch) else b""
        parts = []
        with (folder / "vectors.bin").open("wb") as file:
            for start in range(0, count, PART):
                slots = np.arange(start, min(start + PART, count))
                with self.lock:
                    items = self.items[start : start + PART]
                    rows = self.codes[slots], self.scales[slots], self._lists_of(slots, inverted)
                parts.append(msgspec.msgpack.encode(items))
                file.writelines(bytes(row) for row in rows)
        head = _Head(FORMAT, self.encoder_id, self.dim, trained_on, count, parts, trained)
        (folder / "items.msgpack").write_bytes(msgspec.msgpack.encode(head))

    @classmethod
    def load(cls, folder: Path, dim: int, encoder_id: str, attributes: tuple[str, ...] = ()) -> ItemIndex:
        """Read a snapshot of an index that keeps these attributes. Raises ItemIndexError: another encoder or format."""
        head = _read_head(folder, dim, encoder_id)
        index = cls(dim, encoder_id, attributes)
        index._grow(head.count)
        for slot, item in enumerate(item for part in head.items for item in _items.decode(part)):
            index.items.append(item)
            if item is None:
                index._free.append(slot)
            else:
                index._describe(slot, item)
        if head.trained:
            index._search = InvertedSearch(head.trained)
            index._trained_on = head.trained_on
        vectors, wanted = folder / "vectors.bin", head.count * (dim + _BESIDE)
        if vectors.stat().st_size != wanted:
            raise ItemIndexError(
                f"{vectors} has {vectors.stat().st_size} bytes, not {wanted}: delete the state folder, it is rebuilt from Kafka"
            )
        with vectors.open("rb") as file:
            for start in range(0, head.count, PART):
                index._read_part(file, np.arange(start, min(start + PART, head.count)))
        index._searched[:] = index.listed
        index.changes, index.changed[: head.count] = 1, 1
        return index

    def _read_part(self, file: BinaryIO, slots: NDArray[np.int64]) -> None:
        self.codes[slots] = np.frombuffer(file.read(len(slots) * self.dim), np.int8).reshape(len(slots), self.dim)
        self.scales[slots] = np.frombuffer(file.read(4 * len(slots)), np.float32)
        lists = np.frombuffer(file.read(4 * len(slots)), np.int32)
        listed = self.listed[slots]
        if not isinstance(self._search, InvertedSearch):
            self._search.add(slots[listed], self.vectors(slots[listed]))
            return
        for own, lists_known in ((listed & (lists != search.NONE), True), (listed & (lists == search.NONE), False)):
            self._search.add(slots[own], self.vectors(slots[own]), lists[own] if lists_known else None)

    def _lists_of(self, slots: NDArray[np.int64], inverted: Search) -> NDArray[np.int32]:
        """Return the slots' lists in an inverted file; none when there is none, or a newer training took its place."""
        if inverted is self._search and isinstance(inverted, InvertedSearch):
            return inverted.lists_of(slots)
        return np.full(len(slots), search.NONE, np.int32)

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
        for condition, marks in self._marks.items():
            marks[slot] = condition.holds(item, self.attributes)

    def _grow(self, wanted: int) -> None:
        capacity = len(self.keys)
        if wanted <= capacity:
            return
        room = max(wanted, capacity + capacity // 4, 1_024)  # a quarter more: memory counts, and copies are rare enough
        for name in ("codes", "scales", "keys", "category", "brand", "at", "listed", "changed", "_searched"):
            old = getattr(self, name)
            new = np.zeros((room, *old.shape[1:]), old.dtype)
            new[:capacity] = old
            setattr(self, name, new)
        for condition, marks in self._marks.items():
            self._marks[condition] = np.concatenate([marks, np.zeros(room - capacity, np.bool_)])

    def _moved(self, slots: NDArray[np.int64], fresh: NDArray[np.int8], scales: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Tell for which slots the search structure has to change: another availability, or another vector."""
        listed = self.listed[slots]
        changed: NDArray[np.bool_] = np.any(self.codes[slots] != fresh, axis=1) | (self.scales[slots] != scales)
        stale: NDArray[np.bool_] = (self._searched[slots] != listed) | (listed & changed)
        return stale

    def _note(self, slots: NDArray[np.int64]) -> None:
        self.changes += 1
        self.changed[slots] = self.changes

    def _reindex(self, slots: NDArray[np.int64]) -> None:
        """Bring the search structure up to date for these slots."""
        self._replace(self._search, slots[self._searched[slots]], slots[self.listed[slots]])
        self._searched[slots] = self.listed[slots]
        if self._training is not None:
            self._since_training.update(slots.tolist())

    def _replace(self, searched: Search, gone: NDArray[np.int64], come: NDArray[np.int64]) -> None:
        if len(gone):
            searched.remove(gone)
        if len(come):
            searched.add(come, self.vectors(come))

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
            own, scales = self.codes[slots], self.scales[slots]
            self._since_training.clear()
        lists = search.lists_for(len(slots))
        sample = np.random.default_rng(1).permutation(len(slots))[: search.SAMPLE * lists]
        made = search.train(codes.decode(own[sample], scales[sample]), lists)
        for start in range(0, len(slots), BLOCK):
            end = start + BLOCK
            made.add(slots[start:end], codes.decode(own[start:end], scales[start:end]))
        with self.lock:
            late = np.array(sorted(self._since_training), np.int64)
            self._replace(made, late[np.isin(late, slots)], late[self.listed[late]])
            self._search, self._trained_on = made, len(slots)
            self._since_training.clear()


class _Head(msgspec.Struct, array_like=True):
    """The part of a snapshot that is no vector. trained_on: items at the last training, 0 for none; trained: its result."""

    format: int
    encoder_id: str
    dim: int
    trained_on: int
    count: int
    items: list[bytes]  # parts, each a list of IndexedItem | None
    trained: bytes


class _Stamp(msgspec.Struct, array_like=True):
    """The beginning of a head: the same in every format."""

    format: int
    encoder_id: str
    dim: int


_items = msgspec.msgpack.Decoder(list[IndexedItem | None])


def _read_head(folder: Path, dim: int, encoder_id: str) -> _Head:
    packed = (folder / "items.msgpack").read_bytes()
    stamp = msgspec.msgpack.decode(packed, type=_Stamp)
    if (stamp.encoder_id, stamp.dim) != (encoder_id, dim):
        raise ItemIndexError(
            f"{folder} holds items of encoder {stamp.encoder_id} ({stamp.dim} dims), not of {encoder_id} ({dim} dims): "
            "use the old encoder, or another state folder"
        )
    if stamp.format != FORMAT:
        raise ItemIndexError(f"{folder} is of format {stamp.format}, this version reads {FORMAT}: leave it out, read anew")
    return msgspec.msgpack.decode(packed, type=_Head)
