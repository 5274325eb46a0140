"""Put some items of a list into the order of their scores and of chances that come from elsewhere, under the list's rules.

Does not know where the chances come from, or at which places of the list the items stand.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ranking import business, diversity, rules
from ranking.index import NOWHERE
from ranking.lists import ListMaker

TINY = 1e-30  # a score that a float32 softmax left at 0
LEAST = 1e-6  # how far a chance stays from 0 and from 1: its odds are to be finite


def both(scores: Sequence[float], chances: Sequence[float], weight: float) -> NDArray[np.float32]:
    """Return log(score * odds ** weight), (n,) float32: scores are the ranker's in (0, 1], chances of being wanted in [0, 1].

    A weight of 1 is Bayes' rule with the ranker's score as the prior: of a cross-encoder that has learnt from as many wanted as
    unwanted pairs the odds are the ratio of the likelihoods. Less is right where both know the same; 0 asks the ranker alone.
    """
    known = np.log(np.maximum(np.array(scores, np.float64), TINY))
    return (known + weight * _log_odds(chances)).astype(np.float32)


def reorder(
    maker: ListMaker, item_ids: Sequence[str], scores: Sequence[float], chances: Sequence[float], weight: float, at: float
) -> list[int]:
    """Return the places, from 0, of the items in their new order, the best by `both` first.

    Boosts and buries multiply the scores, which do not hold them yet, and what diversity and limits take from an item for those
    above it is what it was when the list was made: logits are compared as temperature * log, on the scale of the model's own.
    Items that have left the index since keep the order in which they stand, behind.
    """
    index = maker.index
    with index.lock:
        governor = maker.governor(at)
        places = [place for place, item_id in enumerate(item_ids) if index.slot(item_id) != NOWHERE]
        if not places:
            return list(range(len(item_ids)))
        slots = np.array([[index.slot(item_ids[place]) for place in places]], np.int64)
        values = both([scores[place] for place in places], [chances[place] for place in places], weight)
        logit = governor.temperature * values[None]
        nudges = [rule for rule in governor.business if rule.action in ("boost", "bury")]
        nudged = business.move(nudges, logit, slots, governor.temperature, index, at).logit
        worth = diversity.spread(nudged, slots, index, maker.rules)
        columns = rules.choose(worth, slots, index.category, index.brand, np.zeros(1, np.bool_), maker.rules)[0]
    chosen = [places[column] for column in columns]
    return [*chosen, *(place for place in range(len(item_ids)) if place not in chosen)]


def _log_odds(chances: Sequence[float]) -> NDArray[np.float64]:
    bounded = np.clip(np.array(chances, np.float64), LEAST, 1.0 - LEAST)
    odds: NDArray[np.float64] = np.log(bounded / (1.0 - bounded))
    return odds
