"""What a learned ranker knows of a candidate, by name: (m users, c candidates, features) in one array, per batch.

Knows no model: the same numbers are written down for training and scored when serving. Touches here are those that speak for an
item, the newest first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ranking.index import NOWHERE, ItemIndex
from ranking.leads import HOWS, SOURCES, Led, Live
from ranking.profile import ASKED, INTERESTS, LONG, SHORT, Profile
from ranking.queries import LAST, Queries
from ranking.ranker import FEATURES, Scores
from ranking.retrieve import Candidates
from ranking.signals import HEATS, Signals

DAY_S = 86_400.0
NAMES = (
    *FEATURES,
    *("near_long", "near_short", "near_asked"),
    *(f"near_touch_{number}" for number in range(1, LAST + 1)),
    *("near_touches_most", "near_touches_mean"),
    *(f"{source}_links_{how}" for source in SOURCES for how in HOWS),
    *(f"touches_{heat}" for heat in HEATS),
    *(f"surge_{heat}" for heat in HEATS[:-1]),
    *("item_age", "is_untouched"),
    *("category_share", "brand_share", "category_last", "brand_last"),
    *("again", "again_times", "again_place"),
    *("touches", "silence", "tower"),
)


def touched(profiles: Sequence[Profile], index: ItemIndex) -> list[list[int]]:
    """Return per user the slots of all touches that speak for an item, newest first, an item as often as it was touched."""
    return [
        [
            slot
            for touch in reversed(profile.touches)
            if touch.weight > 0 and touch.item_id and (slot := index.slot(touch.item_id)) != NOWHERE
        ]
        for profile in profiles
    ]


def features(
    found: Queries,
    among: Candidates,
    scores: Scores,
    touches: Sequence[Sequence[int]],
    live: Live,
    led: Led,
    tower: NDArray[np.float32],
    last: Sequence[float],
    at: float,
    index: ItemIndex,
    signals: Signals,
) -> NDArray[np.float32]:
    """Return (m, c, len(NAMES)) float32. scores: the zero-shot model's; tower: (m, c), U'·V';

    last: (m,) Unix seconds of each user's newest event. Rows of NOWHERE mean nothing.
    """
    made = np.zeros((*among.slots.shape, len(NAMES)), np.float32)
    made[:, :, : len(FEATURES)] = scores.features
    column = len(FEATURES)
    for part in (
        _nearness(found, scores),
        live.at(among.slots),
        led.at(among.slots),
        _of_items(among.slots, at, index, signals),
        _kinship(touches, among.slots, index),
        _again(touches, among.slots, len(index.items)),
        _of_users(touches, last, at, among.slots.shape[1]),
        tower[:, :, None],
    ):
        made[:, :, column : column + part.shape[2]] = part
        column += part.shape[2]
    return made


def _of_users(touches: Sequence[Sequence[int]], last: Sequence[float], at: float, c: int) -> NDArray[np.float32]:
    numbers = [[len(own), max(0.0, at - since) / DAY_S] for own, since in zip(touches, last, strict=True)]
    return np.repeat(np.log1p(np.array(numbers, np.float32))[:, None], c, axis=1)


def _nearness(found: Queries, scores: Scores) -> NDArray[np.float32]:
    near = scores.cosines
    touches = near[:, :, INTERESTS:]
    count = np.array([max(1, len(own)) for own in found.touches], np.float32)[:, None]
    extra = np.stack([touches.max(axis=2), touches.sum(axis=2) / count], axis=2)
    return np.concatenate([near[:, :, [LONG, SHORT, ASKED]], touches, extra], axis=2)


def _of_items(slots: NDArray[np.int64], at: float, index: ItemIndex, signals: Signals) -> NDArray[np.float32]:
    distinct, place = np.unique(slots, return_inverse=True)
    ids = [item.item_id if slot != NOWHERE and (item := index.items[slot]) is not None else "" for slot in distinct.tolist()]
    heats = np.log1p(signals.heats(ids, at))
    age = np.log1p(np.maximum(0.0, at - index.at[distinct]) / DAY_S)
    own = np.column_stack([heats, heats[:, :-1] - heats[:, 1:], age, heats[:, -1] <= 0.0]).astype(np.float32)
    made: NDArray[np.float32] = own[place.reshape(slots.shape)]
    return made


def _kinship(touches: Sequence[Sequence[int]], slots: NDArray[np.int64], index: ItemIndex) -> NDArray[np.float32]:
    made = np.zeros((*slots.shape, 4), np.float32)
    for number, codes in enumerate((index.category, index.brand)):
        share = np.zeros(int(codes.max(initial=0)) + 1, np.float32)
        own_codes = codes[slots]
        for i, own in enumerate(touches):
            if not own:
                continue
            kinds = codes[own]
            np.add.at(share, kinds, 1.0 / len(own))
            share[0] = 0.0  # no category is none in common
            made[i, :, number] = share[own_codes[i]]
            made[i, :, 2 + number] = (own_codes[i] == kinds[0]) & (kinds[0] > 0)
            share[kinds] = 0.0
    return made


def _again(touches: Sequence[Sequence[int]], slots: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    times, place = np.zeros(size + 1, np.float32), np.zeros(size + 1, np.float32)
    made = np.zeros((*slots.shape, 3), np.float32)
    for i, own in enumerate(touches):
        if own:
            np.add.at(times, own, 1.0)
            place[own[::-1]] = 1.0 / np.arange(len(own), 0, -1)
            had = times[slots[i]]
            made[i] = np.stack([had > 0.0, np.log1p(had), place[slots[i]]], axis=1)
            times[own] = place[own] = 0.0
    return made
