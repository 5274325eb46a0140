"""Which items of a list a cross-encoder is asked about, and the list in the order of its answers.

Knows no model, topic or thread. Some items keep their place: what answers a question, what a rule pins, what exploration put
there. The others change places among each other, and a propensity stays with the place. That is right as long as which items
change places does not hang on the draw: so where a list explores, it is the first `top` of those that the ranking put there, or
the list stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from ranking import answering, govern
from ranking.business import PINNED_BY
from ranking.index import ItemIndex
from ranking.lists import ListMaker
from ranking.profile import Profile
from ranking.reorder import reorder
from streams.catalogue import item_text
from streams.messages import Item, RecommendedItem
from streams.rerank import user_text_of


class Asked(NamedTuple):
    """What the cross-encoder is asked. places: of the items in the list, from 0; items: their texts."""

    user: str
    places: list[int]
    items: list[str]


def ask_about(items: Sequence[RecommendedItem], profile: Profile, index: ItemIndex, top: int) -> Asked | None:
    """Return what to ask about the first `top` items of a user's list that may move.

    None where nothing is known of the user, or too few of the items may move.
    """
    known = items_of(index, [*[touch.item_id for touch in profile.touches], *[item.item_id for item in items]])
    user = user_text_of(profile, known)
    places = movable(items, known, top)
    texts = [item_text(known[items[place].item_id]) for place in places]
    return Asked(user, places, texts) if user and texts else None


def in_new_order(
    items: Sequence[RecommendedItem], asked: Asked, chances: Sequence[float], weight: float, maker: ListMaker, at: float
) -> tuple[RecommendedItem, ...] | None:
    """Return a list's items with those asked about in the order of their scores and chances; None where that is the old one."""
    own = [items[place] for place in asked.places]
    order = reorder(maker, [item.item_id for item in own], [item.score for item in own], chances, weight, at)
    return None if order == sorted(order) else moved(items, asked.places, order)


def items_of(index: ItemIndex, item_ids: Collection[str]) -> dict[str, Item]:
    """Return item_id -> item, of those that the index holds. It keeps no descriptions."""
    with index.lock:
        found = [index.items[slot] for slot in map(index.slot, dict.fromkeys(item_ids)) if slot >= 0]
    return {
        each.item_id: Item(item_id=each.item_id, title=each.title, category=each.category, brand=each.brand, tags=each.tags)
        for each in found
        if each is not None
    }


def movable(items: Sequence[RecommendedItem], known: Mapping[str, Item], top: int) -> list[int]:
    """Return the places, from 0, of the first `top` items that may change places; none where they cannot."""
    places = [place for place, item in enumerate(items) if item.item_id in known and not _stays(item)][:top]
    draws = any(item.propensity is not None for item in items)
    return places if len(places) >= (top if draws else 2) else []


def _stays(item: RecommendedItem) -> bool:
    """Tell whether an item keeps its place, as its reason says: an answer, pinned, or explored."""
    return item.reason in (answering.REASON, govern.EXPLORED) or item.reason.startswith(PINNED_BY)


def moved(items: Sequence[RecommendedItem], places: Sequence[int], order: Sequence[int]) -> tuple[RecommendedItem, ...]:
    """Return a list's items, those at some places in another order. order: of `places`, from 0. Propensities stay."""
    made = list(items)
    for place, chosen in zip(places, order, strict=True):
        item = items[places[chosen]]
        made[place] = RecommendedItem(item.item_id, item.score, item.reason, items[place].propensity)
    return tuple(made)
