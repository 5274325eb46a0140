"""What a learned ranker knows of a candidate, by name: (m users, c candidates, features) in one array, per batch.

Knows no model: the same numbers are written down for training and scored when serving. Touches here are those that speak for an
item, the newest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranking.index import NOWHERE, ItemIndex
from ranking.profile import ASKED, INTERESTS, LONG, SHORT, Profile
from ranking.queries import LAST, Queries
from ranking.ranker import FEATURES, Scores
from ranking.retrieve import Candidates
from ranking.signals import Signals

FOLLOWED = 10  # newest touches whose followers count
FOLLOWED_DECAY = 0.8
RELATED = 80  # items co-visited with one, of those that are kept
DAY_S = 86_400.0
NAMES = (
    *FEATURES,
    *("near_long", "near_short", "near_asked"),
    *(f"near_touch_{number}" for number in range(1, LAST + 1)),
    *("near_touches_most", "near_touches_mean"),
    *("follows_last", "follows_all", "follows_most"),
    *("popular", "recent_touches", "surge", "item_age", "is_untouched"),
    *("category_share", "brand_share", "category_last", "brand_last"),
    *("again", "again_times", "again_place"),
    *("touches", "tower"),
)


@dataclass(frozen=True, slots=True)
class Follows:
    """Per user, what was touched after the last touches: slots (n,) int64 without repeats, scores (n, 3) float32.

    scores: after the newest touch; after all, summed with a decay by place; the most after any.
    """

    slots: NDArray[np.int64]
    scores: NDArray[np.float32]


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


def follows(touches: Sequence[Sequence[int]], index: ItemIndex, signals: Signals) -> list[Follows]:
    """Return what follows the last touches of each user."""
    last = [list(dict.fromkeys(own))[:FOLLOWED] for own in touches]
    related = _related(last, index, signals)
    scratch = np.zeros((len(index.items) + 1, 3), np.float32)
    found = []
    for own in last:
        parts = [related[slot] for slot in own]
        if not parts:
            found.append(Follows(np.zeros(0, np.int64), np.zeros((0, 3), np.float32)))
            continue
        slots = np.concatenate([slots for slots, _ in parts])
        scores = np.concatenate([scores for _, scores in parts])
        weights = np.repeat(FOLLOWED_DECAY ** np.arange(len(parts)), [len(slots) for slots, _ in parts])
        newest = len(parts[0][0])
        scratch[slots[:newest], 0] = scores[:newest]
        np.add.at(scratch[:, 1], slots, scores * weights)
        np.maximum.at(scratch[:, 2], slots, scores)
        distinct = np.unique(slots)
        found.append(Follows(distinct, scratch[distinct]))
        scratch[distinct] = 0.0
    return found


def _related(
    last: Sequence[Sequence[int]], index: ItemIndex, signals: Signals
) -> dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]]:
    distinct = list(dict.fromkeys(slot for own in last for slot in own))
    ids = [item.item_id if (item := index.items[slot]) is not None else "" for slot in distinct]
    related = {}
    for slot, answer in zip(distinct, signals.related(ids, RELATED), strict=True):
        pairs = list(index.listed_slots(answer))
        related[slot] = (
            np.array([other for other, _ in pairs], np.int64),
            np.array([score for _, score in pairs], np.float32),
        )
    return related


def features(
    found: Queries,
    among: Candidates,
    scores: Scores,
    touches: Sequence[Sequence[int]],
    following: Sequence[Follows],
    tower: NDArray[np.float32],
    at: float,
    index: ItemIndex,
    signals: Signals,
) -> NDArray[np.float32]:
    """Return (m, c, len(NAMES)) float32. scores: the zero-shot model's; tower: (m, c), U'·V'. Rows of NOWHERE mean nothing."""
    made = np.zeros((*among.slots.shape, len(NAMES)), np.float32)
    made[:, :, : len(FEATURES)] = scores.features
    column = len(FEATURES)
    for part in (
        _nearness(found, scores),
        _followed(following, among.slots, len(index.items)),
        _of_items(among.slots, at, index, signals),
        _kinship(touches, among.slots, index),
        _again(touches, among.slots, len(index.items)),
        np.repeat(np.log1p([len(own) for own in touches])[:, None, None], among.slots.shape[1], axis=1),
        tower[:, :, None],
    ):
        made[:, :, column : column + part.shape[2]] = part
        column += part.shape[2]
    return made


def _nearness(found: Queries, scores: Scores) -> NDArray[np.float32]:
    near = scores.cosines
    touches = near[:, :, INTERESTS:]
    count = np.array([max(1, len(own)) for own in found.touches], np.float32)[:, None]
    extra = np.stack([touches.max(axis=2), touches.sum(axis=2) / count], axis=2)
    return np.concatenate([near[:, :, [LONG, SHORT, ASKED]], touches, extra], axis=2)


def _followed(following: Sequence[Follows], slots: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    scratch = np.zeros((size + 1, 3), np.float32)  # the last row answers for NOWHERE
    made = np.empty((*slots.shape, 3), np.float32)
    for i, own in enumerate(following):
        scratch[own.slots] = own.scores
        made[i] = scratch[slots[i]]
        scratch[own.slots] = 0.0
    return made


def _of_items(slots: NDArray[np.int64], at: float, index: ItemIndex, signals: Signals) -> NDArray[np.float32]:
    distinct, place = np.unique(slots, return_inverse=True)
    ids = [item.item_id if slot != NOWHERE and (item := index.items[slot]) is not None else "" for slot in distinct.tolist()]
    heats = signals.heats(ids, at)
    recent, steady = np.log1p(heats[:, 0]), np.log1p(heats[:, 1])
    age = np.log1p(np.maximum(0.0, at - index.at[distinct]) / DAY_S)
    own = np.stack([steady, recent, recent - steady, age, heats[:, 1] <= 0.0], axis=1).astype(np.float32)
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
