"""Where candidates come from, a source at a time: what each finds by itself, and what the model is given of all of them.

Knows no figures. Lists are made without it: it asks the same searches, tables and counts that `ListMaker` does, but each for
as many as are compared, and leaves out of each what may not stand in a user's list.

| source | its order |
|---|---|
| `tower` | V' nearest to U' (a learned model alone) |
| `long interest`, `short interest`, `asked` | vectors nearest to this interest |
| `last touches` | vectors nearest to each of the last touches, in turn |
| `co-visits` | co-visits of now with the last touches, added up |
| `taste`, `habit`, ... | the tables of `ranking.links`, added up over the last touches (a learned model alone) |
| `trend` | touched most, by each of the four decays, then what is rising |
| `merged` | all candidates that the model is given, by its score |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ranking import features, ranker, rules
from ranking.index import NOWHERE, ItemIndex
from ranking.leads import FOLLOWED, FOLLOWED_LIVE, RELATED, Live
from ranking.learned import HOTTEST, Learned, in_turn
from ranking.links import LINKS, TABLES
from ranking.lists import ListMaker, Scored
from ranking.profile import ASKED, INTERESTS, LONG, SHORT, Profile, seen_keys
from ranking.signals import Signals

FIRST = 200
MERGED = "merged"
OF_INTERESTS = {"long interest": LONG, "short interest": SHORT, "asked": ASKED}

Slots = NDArray[np.int64]


class Found(NamedTuple):
    """What may stand in the lists of m users, best first, NOWHERE behind. firsts: by source (m, FIRST); merged: (m, c) all."""

    firsts: Mapping[str, Slots]
    merged: Slots


def sources(maker: ListMaker, profiles: Sequence[Profile], at: float) -> Found:
    """Return what each source finds for users at a time (Unix seconds). Takes 1.5 MB a user with tables of 12,000 items."""
    index = maker.index
    with index.lock:
        governor = maker.governor(at)
        out = governor.out()
        scored = maker.scored(profiles, at, governor.also(), out)
        spare = max((len(seen_keys(profile)) for profile in profiles), default=0) + (0 if out is None else int(out.sum()))
        found = {
            **_learned(maker, scored, FIRST + spare),
            **_near(scored.found.vectors, FIRST + spare, index),
            "co-visits": _covisits(maker, scored, profiles),
            "trend": _trend(maker.signals, at, index, len(profiles)),
            MERGED: _by_score(scored),
        }
        standing = {name: _standing(slots, profiles, index, out) for name, slots in found.items()}
        merged = standing[MERGED]
        return Found({name: _first(slots, FIRST) for name, slots in standing.items()}, _first(merged, merged.shape[2]))


# -- the sources, each (m, parts, n) of slots, NOWHERE for none: the first of all parts stand before their second


def _learned(maker: ListMaker, scored: Scored, k: int) -> dict[str, Slots]:
    if scored.read is None or not isinstance(maker.model, Learned):
        return {}
    tower = maker.model.nearest(scored.read.users, k)
    tables = {name: scored.read.led.strongest(name, FOLLOWED * LINKS) for name in TABLES}
    return {name: slots[:, None] for name, slots in {"tower": tower, **tables}.items()}


def _near(vectors: NDArray[np.float32], k: int, index: ItemIndex) -> dict[str, Slots]:
    m, queries, dim = vectors.shape
    _, slots = index.search(vectors.reshape(-1, dim), k)
    slots[~vectors.reshape(-1, dim).any(axis=1)] = NOWHERE
    slots = slots.reshape(m, queries, -1)
    of_interests = {name: slots[:, row : row + 1] for name, row in OF_INTERESTS.items()}
    return {**of_interests, "last touches": slots[:, INTERESTS:]}


def _covisits(maker: ListMaker, scored: Scored, profiles: Sequence[Profile]) -> Slots:
    live = (
        scored.read.live
        if scored.read is not None
        else Live(features.touched(profiles, maker.index), maker.index, maker.signals)
    )
    made = np.full((len(profiles), 1, FOLLOWED_LIVE * RELATED), NOWHERE, np.int64)
    for i, own in enumerate(live.candidates(made.shape[2])):
        made[i, 0, : len(own)] = own
    return made


def _trend(signals: Signals, at: float, index: ItemIndex, m: int) -> Slots:
    """Return the same for all. It asks `hottest` as the model does: another number would be counted anew each time."""
    ids = dict.fromkeys([*signals.hottest(HOTTEST, at), *[item_id for item_id, _ in signals.rising(at)]])
    slots = np.array([slot for slot, _ in index.listed_slots((item_id, 0.0) for item_id in ids)], np.int64)
    return np.broadcast_to(slots, (m, 1, len(slots)))


def _by_score(scored: Scored) -> Slots:
    order = np.argsort(-scored.scores.logit, axis=1, kind="stable")
    return np.take_along_axis(scored.among.slots, order, axis=1)[:, None]


# -- what may stand in a list


def _standing(slots: Slots, profiles: Sequence[Profile], index: ItemIndex, out: NDArray[np.bool_] | None) -> Slots:
    """Return the slots, (m, parts, n), with NOWHERE for what may not stand in the user's list."""
    flat = slots.reshape(len(slots), -1)
    allowed = ranker.is_allowed(flat, index) & rules.unseen(flat, index.keys, profiles)
    if out is not None:
        allowed &= ~out[flat]
    return np.where(allowed, flat, NOWHERE).reshape(slots.shape)


def _first(slots: Slots, k: int) -> Slots:
    """Return the first k different slots of each user's parts, (m, k)."""
    made = np.full((len(slots), k), NOWHERE, np.int64)
    for i, parts in enumerate(slots):
        own = in_turn([part[part != NOWHERE] for part in parts], k)
        made[i, : len(own)] = own
    return made
