"""Profiles as arrays: what the user tower reads of n users, the same when it is trained as when it serves.

Knows no model and no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ranking.index import NOWHERE, ItemIndex
from ranking.profile import INTERESTS, MAX_TOUCHES, Profile

OTHER = 0  # the number of an event type that a model was not trained with


@dataclass(frozen=True, slots=True)
class Snapshots:
    """n users at a moment of each, the newest touch last; rows have as many columns as the longest needs.

    touches: (n, t) int32 slots, NOWHERE in front of shorter rows. kinds: (n, t) int8. ages: (n, t) float32 seconds, >= 0.
    interests: (n, 4, dim) float16 unit vectors, or zero. strength: (n, 4) float32 in [0, 1).
    """

    touches: NDArray[np.int32]
    kinds: NDArray[np.int8]
    ages: NDArray[np.float32]
    interests: NDArray[np.float16]
    strength: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.touches)

    def take(self, rows: NDArray[np.int64]) -> Snapshots:
        """Return some of the users, with no more columns than they need."""
        width = int((self.touches[rows] != NOWHERE).sum(axis=1).max(initial=1))
        own = {name: getattr(self, name)[rows] for name in (each.name for each in fields(self))}
        for name in ("touches", "kinds", "ages"):
            own[name] = own[name][:, -width:]
        return Snapshots(**own)

    @staticmethod
    def joined(parts: Sequence[Snapshots]) -> Snapshots:
        """Return all users of several."""
        width = max(part.touches.shape[1] for part in parts)

        def padded(values: NDArray[np.generic], empty: int) -> NDArray[np.generic]:
            return np.pad(values, ((0, 0), (width - values.shape[1], 0)), constant_values=empty)

        return Snapshots(
            np.concatenate([padded(part.touches, NOWHERE) for part in parts]),
            np.concatenate([padded(part.kinds, OTHER) for part in parts]),
            np.concatenate([padded(part.ages, 0) for part in parts]),
            np.concatenate([part.interests for part in parts]),
            np.concatenate([part.strength for part in parts]),
        )


def snapshots(
    profiles: Sequence[Profile],
    at: Sequence[float],
    index: ItemIndex,
    kinds: Mapping[str, int],
    interests: NDArray[np.float32],
    strength: NDArray[np.float32],
    most: int = MAX_TOUCHES,
) -> Snapshots:
    """Return what the user tower reads of users, each at a time (Unix seconds).

    interests: (n, >= 4, dim) unit vectors and strength: (n, >= 4), as `queries` makes them, the interests in front.
    """
    rows = [_touched(profile, index, kinds, most) for profile in profiles]
    width = max((len(row) for row in rows), default=0) or 1
    touches = np.full((len(rows), width), NOWHERE, np.int32)
    numbers = np.zeros((len(rows), width), np.int8)
    ages = np.zeros((len(rows), width), np.float32)
    for i, row in enumerate(rows):
        if row:
            slots, own, times = zip(*row, strict=True)
            touches[i, -len(row) :] = slots
            numbers[i, -len(row) :] = own
            ages[i, -len(row) :] = np.maximum(0.0, at[i] - np.array(times))
    return Snapshots(
        touches, numbers, ages, interests[:, :INTERESTS].astype(np.float16), strength[:, :INTERESTS].astype(np.float32)
    )


def _touched(profile: Profile, index: ItemIndex, kinds: Mapping[str, int], most: int) -> list[tuple[int, int, float]]:
    """Return slot, kind and time of the last touches that speak for an item that is known."""
    found = [
        (slot, kinds.get(touch.kind, OTHER), touch.at)
        for touch in profile.touches
        if touch.weight > 0 and touch.item_id and (slot := index.slot(touch.item_id)) != NOWHERE
    ]
    return found[-most:]
