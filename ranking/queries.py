"""From profiles to queries: what each user is searched and scored by.

Knows no candidates and no model. A query is a unit vector with a strength: the profile's interests, and the items touched last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranking.index import NOWHERE, ItemIndex
from ranking.profile import ASKED, AVOID, INTERESTS, LONG, SHORT, HalfLives, Profile, interests_of

LAST = 5  # touches that are queries of their own
QUERIES = INTERESTS + LAST  # rows of the queries: the interests, then the last touches, newest first
TOUCH_DECAY = 0.7  # weight of a touch against the next newer one
SILENCE = 2.0  # a touch of cosine 1/2 with what was turned down counts no more
SATISFY = 1.5  # what was asked for is had when something of cosine 2/3 with it was bought since
WORDS_FIRST = 0.8  # how much of the behaviour's say is taken by what was asked for in words


@dataclass(frozen=True, slots=True)
class Queries:
    """What each of m users is searched by.

    vectors: (m, QUERIES, dim) float32, unit rows, or zero where there is none.
    strength: (m, QUERIES) float32 in [0, 1]: of the interests n / (n + 1) with the decayed norm n; of the touches shares of 1,
    less for what is like what the user turned down since.
    touches: per user the slots of the touches that the last rows stand for; bought: those of them that were purchases.
    """

    vectors: NDArray[np.float32]
    strength: NDArray[np.float32]
    touches: list[list[int]]
    bought: list[list[int]]

    @property
    def is_cold(self) -> NDArray[np.bool_]:
        """(m,) bool: nothing is known that points anywhere; what is turned down alone does not."""
        known = self.strength.copy()
        known[:, AVOID] = 0
        cold: NDArray[np.bool_] = known.sum(axis=1) <= 1e-6
        return cold


def queries(profiles: Sequence[Profile], at: float, index: ItemIndex, half_lives: HalfLives) -> Queries:
    """Return the queries of m users at a time (Unix seconds)."""
    m = len(profiles)
    vectors = np.zeros((m, QUERIES, index.dim), np.float32)
    strength = np.zeros((m, QUERIES), np.float32)
    interests = interests_of(profiles, index.dim)
    norms = np.linalg.norm(interests, axis=2)
    age_s = np.maximum(0.0, at - np.array([p.at for p in profiles]))[:, None]
    decayed = norms * np.exp2(-age_s / half_lives.per_row())
    strength[:, :INTERESTS] = decayed / (decayed + 1.0)
    vectors[:, :INTERESTS] = interests / np.maximum(norms, 1e-9)[:, :, None]
    touches: list[list[int]] = []
    bought: list[list[int]] = []
    for i, profile in enumerate(profiles):
        slots, weights, own = _last_touches(profile, index)
        touches.append(slots)
        bought.append(own)
        if slots:
            end = INTERESTS + len(slots)
            vectors[i, INTERESTS:end] = index.vectors(slots)
            strength[i, INTERESTS:end] = np.array(weights) / sum(weights)
    _silence(vectors, strength)
    _satisfy(profiles, vectors, strength, index)
    _listen(strength)
    return Queries(vectors, strength, touches, bought)


def _last_touches(profile: Profile, index: ItemIndex) -> tuple[list[int], list[float], list[int]]:
    slots: list[int] = []
    weights: list[float] = []
    bought: list[int] = []
    for touch in reversed(profile.touches):
        slot = index.slot(touch.item_id)
        if touch.kind == "purchase" and slot != NOWHERE and slot not in bought:
            bought.append(slot)
        if touch.weight <= 0 or slot == NOWHERE or slot in slots:
            continue
        weights.append(touch.weight * TOUCH_DECAY ** len(slots))
        slots.append(slot)
        if len(slots) == LAST:
            break
    return slots, weights, bought


def _silence(vectors: NDArray[np.float32], strength: NDArray[np.float32]) -> None:
    """Weaken touches that are like what was turned down: "less sport" also means the football clicked a minute ago."""
    likeness = np.einsum("mtd,md->mt", vectors[:, INTERESTS:], vectors[:, AVOID])
    strength[:, INTERESTS:] *= 1.0 - np.clip(SILENCE * strength[:, AVOID, None] * likeness, 0.0, 1.0)


def _satisfy(
    profiles: Sequence[Profile], vectors: NDArray[np.float32], strength: NDArray[np.float32], index: ItemIndex
) -> None:
    """Weaken what was asked for when something like it was bought since."""
    for i, profile in enumerate(profiles):
        if strength[i, ASKED] > 0.0:
            likeness = max(
                (float(vectors[i, ASKED] @ index.vectors([slot])[0]) for slot in _bought_since(profile, index)), default=0.0
            )
            strength[i, ASKED] *= 1.0 - min(max(SATISFY * likeness, 0.0), 1.0)


def _listen(strength: NDArray[np.float32]) -> None:
    """Let what was asked for in words outweigh what the behaviour says."""
    quiet = 1.0 - WORDS_FIRST * strength[:, ASKED, None]
    strength[:, [LONG, SHORT]] *= quiet
    strength[:, INTERESTS:] *= quiet


def _bought_since(profile: Profile, index: ItemIndex) -> list[int]:
    """Return the slots of what was bought after the user asked for something last."""
    slots: list[int] = []
    for touch in reversed(profile.touches):
        if not touch.item_id:
            return slots
        if touch.kind == "purchase" and (slot := index.slot(touch.item_id)) != NOWHERE:
            slots.append(slot)
    return []
