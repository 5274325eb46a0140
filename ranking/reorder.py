"""Put some items of a list into the order of chances that come from elsewhere, under what the list's rules ask for.

Does not know where the chances come from, or at which places of the list the items stand.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ranking import business, diversity, rules
from ranking.index import NOWHERE
from ranking.lists import ListMaker

LEAST = 1e-6  # how far a chance stays from 0 and from 1: its odds are to be finite


def reorder(maker: ListMaker, item_ids: Sequence[str], chances: Sequence[float], at: float) -> list[int]:
    """Return the places, from 0, of the items in their new order, the best first.

    chances: in [0, 1], of being wanted. Boosts and buries multiply their odds, and what diversity and limits take from an
    item for those above it is what it was when the list was made: logits are compared as temperature * log odds, on the scale
    of the model's own. Items that have left the index since keep the order in which they stand, behind.
    """
    index = maker.index
    with index.lock:
        governor = maker.governor(at)
        places = [place for place, item_id in enumerate(item_ids) if index.slot(item_id) != NOWHERE]
        if not places:
            return list(range(len(item_ids)))
        slots = np.array([[index.slot(item_ids[place]) for place in places]], np.int64)
        logit = governor.temperature * _log_odds([chances[place] for place in places])[None]
        nudges = [rule for rule in governor.business if rule.action in ("boost", "bury")]
        nudged = business.move(nudges, logit, slots, governor.temperature, index, at).logit
        worth = diversity.spread(nudged, slots, index, maker.rules)
        columns = rules.choose(worth, slots, index.category, index.brand, np.zeros(1, np.bool_), maker.rules)[0]
    chosen = [places[column] for column in columns]
    return [*chosen, *(place for place in range(len(item_ids)) if place not in chosen)]


def _log_odds(chances: Sequence[float]) -> NDArray[np.float32]:
    bounded = np.clip(np.array(chances, np.float64), LEAST, 1.0 - LEAST)
    odds: NDArray[np.float32] = np.log(bounded / (1.0 - bounded)).astype(np.float32)
    return odds
