"""Find the items that answer a question: near its words, and with all that it asks for.

Knows no texts: a question is a vector and a condition. What answers are the nearest of the items that the condition holds for,
as far as they are not much less near than the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ranking import rules
from ranking.conditions import Condition
from ranking.index import NOWHERE, ItemIndex
from ranking.lists import WIDEST, ListMaker, Ranked
from ranking.profile import Profile
from ranking.ranker import softmax

LEAST = 0.2  # cosine with the question below which nothing answers: of unrelated texts it is under .2
NEAR = 0.6  # of the nearest item's cosine: what is less near is about something else
REASON = "answers your question"


@dataclass(frozen=True, slots=True)
class Asked:
    """A question. vector: (dim,) float32, unit norm."""

    vector: NDArray[np.float32]
    condition: Condition


class Names(NamedTuple):
    """What a catalogue's items are called by: their categories and brands; and whether any of them tells its currency."""

    categories: frozenset[str]
    brands: frozenset[str]
    tells_currency: bool


def names(index: ItemIndex, currency: str) -> Names:
    """Return the names among the items that can be recommended. currency: an attribute, which the index may not keep."""
    with index.lock:
        categories, brands = index.kinds()
        place = index.attributes.index(currency) if currency in index.attributes else None
        told = place is not None and any(item is not None and item.attributes[place] is not None for item in index.items)
        return Names(categories, brands, told)


def answers(maker: ListMaker, profile: Profile, asked: Asked, at: float) -> list[Ranked]:
    """Return what answers a question at a time (Unix seconds), best first, at most as many as a list holds.

    A score is the softmax probability among what answers. Items that the user has had, and what rules exclude, answer nothing.
    """
    index = maker.index
    with index.lock:
        near, slots = (part[0] for part in index.search(asked.vector[None], WIDEST))
        out = maker.governor(at).out()
        stands = (slots != NOWHERE) & (near >= LEAST) & rules.unseen(slots[None], index.keys, [profile])[0]
        if out is not None:
            stands &= ~out[slots]
        fitting = [place for place in np.flatnonzero(stands).tolist() if _holds(asked.condition, index, int(slots[place]))]
        kept = [place for place in fitting if near[place] >= NEAR * near[fitting[0]]][: maker.rules.size]
        ids = [item.item_id for place in kept if (item := index.items[int(slots[place])]) is not None]
    chances = softmax(near[kept][None], maker.model.temperature)[0].tolist()
    return [Ranked(item_id, chance, REASON) for item_id, chance in zip(ids, chances, strict=True)]


def _holds(condition: Condition, index: ItemIndex, slot: int) -> bool:
    item = index.items[slot]
    return item is not None and condition.holds(item, index.attributes)
