"""From profiles to candidates: what a user could be shown, before anything is scored.

Knows no messages and no model. One nearest-neighbour search per user: the vector part of the zero-shot score is linear, so its
exact best items are the neighbours of one combined query. Co-visits of the last touches join them, and, for users of whom
nothing is known, what is rising and the newest items.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from ranking.index import NOWHERE, ItemIndex
from ranking.profile import INTERESTS
from ranking.queries import Queries
from ranking.signals import Signals

RELATED = 8  # co-visited items taken per touch
SPARE = 4  # asked for beyond those, since some may not be listed now
FOLLOWERS = 32  # co-visited items that tell whether a kind is bought again
RISING = 40
NEWEST = 200
AGAIN = 0.7  # a kind is bought again freely when this share of what follows a purchase is of the same kind
FEW = 0.3  # co-visits that are assumed of the same kind before any are seen


@dataclass(frozen=True, slots=True)
class Candidates:
    """slots: (m, c) int64, NOWHERE where a row has fewer. covisit, rising, sated: (m, c) float32 in [0, 1].

    sated: of a category that the user has just bought from and that people rarely buy from again.
    """

    slots: NDArray[np.int64]
    covisit: NDArray[np.float32]
    rising: NDArray[np.float32]
    sated: NDArray[np.float32]
    covisited_with: list[dict[int, int]]  # per user: candidate's slot -> slot of the touch it is most co-visited with


def candidates(
    found: Queries,
    weights: NDArray[np.float32],
    k: int,
    at: float,
    index: ItemIndex,
    signals: Signals,
    more: NDArray[np.int64] | None = None,
    out: NDArray[np.bool_] | None = None,
) -> Candidates:
    """Return the candidates of m users, k of each from the search.

    weights: (QUERIES,) float32, what a cosine with each query is worth. more: (m, e) slots that a model or rules add, or
    NOWHERE. out: (capacity,) bool of slots that no list may hold: users of whom nothing is known get others.
    """
    combined = np.einsum("mq,mqd->md", found.strength * weights, found.vectors)
    _, near = index.search(combined, k)
    near[np.linalg.norm(combined, axis=1) < 1e-6] = NOWHERE
    covisits, covisited_with = _covisits(found, index, signals)
    popular = dict(islice(index.listed_slots(signals.rising(at)), RISING))
    shared = np.array(list(popular), np.int64)
    cold = found.is_cold
    fill = (
        np.concatenate([shared, index.newest(NEWEST, None if out is None else ~out)]) if cold.any() else np.zeros(0, np.int64)
    )
    width = max(map(len, covisits), default=0)
    extra = np.full((len(near), width), NOWHERE, np.int64)
    added = np.full((len(near), 0), NOWHERE, np.int64) if more is None else more
    share = np.zeros((len(near), width + len(fill) + near.shape[1] + added.shape[1]), np.float32)
    for i, own in enumerate(covisits):
        extra[i, : len(own)] = list(own)
        share[i, : len(own)] = list(own.values())
    filled = np.where(cold[:, None], fill[None, :], NOWHERE)
    slots = np.concatenate([extra, filled, near, added], axis=1)
    slots, share = _without_repeats(slots, share)
    if more is not None:
        slots, share = _packed(slots, share)
    rising = np.zeros(len(index.keys) + 1, np.float32)  # the last entry answers for NOWHERE
    rising[shared] = list(popular.values())
    return Candidates(slots, share, rising[slots], _sated(found, slots, index, signals), covisited_with)


def _covisits(found: Queries, index: ItemIndex, signals: Signals) -> tuple[list[dict[int, float]], list[dict[int, int]]]:
    """Return per user the co-visits of the last touches: slot -> share in (0, 1], and slot -> the touch that says so."""
    related = _related(list(chain.from_iterable(found.touches)), RELATED + SPARE, index, signals)
    scores: list[dict[int, float]] = []
    sources: list[dict[int, int]] = []
    for slots, strength in zip(found.touches, found.strength[:, INTERESTS:].tolist(), strict=True):
        own: dict[int, float] = {}
        source: dict[int, int] = {}
        for touched, weight in zip(slots, strength, strict=False):
            for slot, score in islice(related[touched], RELATED):
                own[slot] = min(1.0, own.get(slot, 0.0) + score * weight)
                source.setdefault(slot, touched)
        scores.append(own)
        sources.append(source)
    return scores, sources


def _related(slots: list[int], k: int, index: ItemIndex, signals: Signals) -> dict[int, list[tuple[int, float]]]:
    """Return by slot the listed slots co-visited with it, best first."""
    distinct = [(slot, item.item_id) for slot in dict.fromkeys(slots) if (item := index.items[slot]) is not None]
    answers = signals.related([item_id for _, item_id in distinct], k)
    known = {slot: list(index.listed_slots(answer)) for (slot, _), answer in zip(distinct, answers, strict=True)}
    return {slot: known.get(slot, []) for slot in slots}


def _sated(found: Queries, slots: NDArray[np.int64], index: ItemIndex, signals: Signals) -> NDArray[np.float32]:
    sated = np.zeros(slots.shape, np.float32)
    related = _related(list(chain.from_iterable(found.bought)), FOLLOWERS, index, signals)
    for i, bought in enumerate(found.bought):
        for code, share in _once_bought(bought, related, index).items():
            sated[i, index.category[slots[i]] == code] = share
    return sated


def _once_bought(bought: list[int], related: dict[int, list[tuple[int, float]]], index: ItemIndex) -> dict[int, float]:
    """Return the categories of what was bought, with 1 for one that nobody buys from twice, 0 for one that most do.

    One smart watch is enough and the next thing is a strap; after coffee comes other coffee. What came after the purchases of
    all users tells which; before anything is known a kind counts as bought again.
    """
    rarely: dict[int, float] = {}
    for slot in bought:
        code, after = int(index.category[slot]), related[slot]
        if not code:
            continue
        same = sum(score for other, score in after if index.category[other] == code)
        share = (same + FEW) / (sum(score for _, score in after) + FEW)
        rarely[code] = max(rarely.get(code, 0.0), 1.0 - min(1.0, share / AGAIN))
    return rarely


def _without_repeats(slots: NDArray[np.int64], share: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Keep the first of equal slots in each row (the one that carries the co-visit share); the others become NOWHERE."""
    order = np.argsort(slots, axis=1, kind="stable")
    slots = np.take_along_axis(slots, order, axis=1)
    share = np.take_along_axis(share, order, axis=1)
    slots[:, 1:][slots[:, 1:] == slots[:, :-1]] = NOWHERE
    return slots, share


def _packed(slots: NDArray[np.int64], share: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Move what is there to the front of each row, and cut the columns that no row needs: each costs its features."""
    gone = slots == NOWHERE
    order = np.argsort(gone, axis=1, kind="stable")[:, : max(1, int((~gone).sum(axis=1).max(initial=0)))]
    return np.take_along_axis(slots, order, axis=1), np.take_along_axis(share, order, axis=1)
