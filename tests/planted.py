"""Worlds whose right answers are known by construction: what the tests of the step build profiles, items and events from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import settings
from numpy.typing import NDArray

from encoders.hashing import HashingEncoder
from ranking.index import IndexedItem, ItemIndex
from ranking.profile import HalfLives, Profile, Touch, Update, fold, key_of, new_profile
from ranking.signals import Signals, Visit
from streams.messages import Event
from streams.personalizer import Sourced

settings.register_profile("headrace", deadline=None)  # the machine may be busy: the suite's time is bounded, not an example's
settings.load_profile("headrace")

DAY = 86_400.0
NOW = 1_780_000_000.0  # a day in 2026
DIM = 16
KEY = key_of("planted")  # the encoder of planted profiles


def unit(*values: float, dim: int = DIM) -> NDArray[np.float32]:
    """Return a unit vector that begins with these values."""
    row = np.zeros(dim, np.float32)
    row[: len(values)] = values
    return row / np.linalg.norm(row)


def clusters(count: int, each: int, dim: int = DIM, spread: float = 0.1, seed: int = 1) -> NDArray[np.float32]:
    """Return (count * each, dim) unit rows; row r lies in cluster r // each. Up to dim clusters are at right angles."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(count, dim))
    if count <= dim:
        centres = np.linalg.qr(centres.T)[0].T
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    rows = np.repeat(centres, each, axis=0) + spread * rng.normal(size=(count * each, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def item(item_id: str, category: str = "", at: float = NOW - 30 * DAY, **fields: Any) -> IndexedItem:
    """Return an item whose title is its id in capitals."""
    return IndexedItem(item_id, item_id.upper(), "hash", at, category=category, **fields)


def index_of(vectors: Mapping[str, NDArray[np.float32]], categories: Mapping[str, str] | None = None) -> ItemIndex:
    """Return an index of these items; the width is that of the vectors."""
    rows = np.stack(list(vectors.values()))
    index = ItemIndex(rows.shape[1], "planted")
    index.upsert([item(item_id, (categories or {}).get(item_id, "")) for item_id in vectors], rows)
    return index


def nobody(dim: int = DIM) -> Profile:
    """Return the profile of a new user."""
    return new_profile(dim, KEY)


def profile_of(*updates: Update, dim: int = DIM, half_lives: HalfLives | None = None) -> Profile:
    """Return the profile of a new user after these updates."""
    (after,), _ = fold([nobody(dim)], [updates], half_lives or HalfLives(), dim)
    return after


def update(offset: int, at: float = NOW, *, touch: Touch | None = None, event_id: str | None = None, **fields: Any) -> Update:
    """Return one event as a profile sees it; without an event_id it is an event of its own."""
    nothing = {"partition": 0, "pull": None, "ask": None, "push": None, "seen": False}
    made = {**nothing, **fields, "offset": offset, "at": at, "touches": (touch,) if touch else ()}
    return Update(event_key=key_of(event_id or f"{made['partition']}/{offset}"), **made)


def event(kind: str, user: str = "u", at: float = NOW, **fields: Any) -> Event:
    """Return an event; without an event_id it is named by what it says."""
    name = fields.pop("event_id", None) or f"{user}-{kind}-{at}-{sorted(fields.items())}"
    return Event(event_id=name, user_id=user, type=kind, at=at, **fields)  # type: ignore[arg-type]


def sourced(events: Sequence[Event], partition: int = 0, first: int = 0) -> list[Sourced]:
    """Return the events at offsets that rise by one."""
    return [Sourced(each, partition, first + n) for n, each in enumerate(events)]


class Counting:
    """The hashing encoder, counting the texts that it is given."""

    def __init__(self, dim: int = 256) -> None:
        self._encoder = HashingEncoder(dim)
        self.id, self.dim, self.reason = self._encoder.id, dim, "counts its texts"
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (n, dim) unit rows."""
        self.texts.extend(texts)
        return self._encoder.encode(texts)


def visit(signals: Signals, item_id: str, after: tuple[str, ...], weight: float, at: float, source: tuple[int, int]) -> bool:
    """Count one visit; tell whether it was new."""
    return signals.count([Visit(item_id, after, weight, at, source)]) == {item_id}


def related(signals: Signals, item_id: str) -> list[tuple[str, float]]:
    """Return all that is co-visited with one item."""
    return signals.related([item_id], 100)[0]
