"""What business rules and exploration make of a batch of lists at one moment.

Knows no model: it gets logits, and returns who stands where, with what the reason has to say and how probable it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ranking import business, diversity, explore, rules
from ranking.business import BusinessRule, Moved
from ranking.explore import Explore
from ranking.index import NOWHERE, ItemIndex
from ranking.rules import Rules
from ranking.signals import Signals

EXPLORED = "new, to get to know it"


class Place(NamedTuple):
    """One place of a list. instead, besides: its reason, and what its reason says at the end; "" where nothing is told."""

    column: int
    propensity: float
    instead: str
    besides: str

    def reason(self, own: str) -> str:
        """Return the reason of the place, whose item has this one by itself."""
        return (self.instead or own) + self.besides


@dataclass(frozen=True, slots=True)
class Governor:
    """The rules at a time: business are those whose window is open. temperature: of the softmax over the logits."""

    index: ItemIndex
    signals: Signals
    rules: Rules
    business: Sequence[BusinessRule]
    explore: Explore
    temperature: float
    at: float

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.business and not self.explore.share

    def out(self) -> NDArray[np.bool_] | None:
        """Tell which slots no list may hold, (capacity,) bool; None where no rule excludes anything."""
        return business.excluded(self.business, self.index, self.at)

    def also(self) -> NDArray[np.int64]:
        """Return the slots that are candidates whatever the search finds: of pins, and of new items."""
        pinnable = business.pinnable(self.business, self.index, self.at)
        if not self.explore.share:
            return pinnable
        return np.concatenate([pinnable, self.index.newest(explore.NEWEST, self.index.at > self.at - self.explore.age_s)])

    def places(
        self, logit: NDArray[np.float32], slots: NDArray[np.int64], cold: NDArray[np.bool_], seeds: Sequence[int]
    ) -> list[list[Place]]:
        """Return the lists of m users. logit, slots: (m, c); cold: (m,) of whom nothing is known; seeds: of each, 64 bits."""
        moved = business.move(self.business, logit, slots, self.temperature, self.index, self.at)
        spread = diversity.spread(moved.logit, slots, self.index, self.rules)
        columns = rules.choose(spread, slots, self.index.category, self.index.brand, cold, self.rules)
        ranked = [moved.arrange(i, own) for i, own in enumerate(columns)]
        if not self.explore.share:
            return [[Place(column, 1.0, *moved.words(i, column)) for column in own] for i, own in enumerate(ranked)]
        pools = self._pools(ranked, moved.logit, slots, cold)
        return [self._mixed(i, own, pools[i], moved, slots[i], seeds[i]) for i, own in enumerate(ranked)]

    def _mixed(
        self, user: int, ranked: list[int], pool: list[int], moved: Moved, slots: NDArray[np.int64], seed: int
    ) -> list[Place]:
        is_pinned = [column in moved.pins[user] for column in ranked]
        placed = explore.mix(ranked, is_pinned, pool, self.index.keys[slots[pool]], self.explore.share, seed)
        return [
            Place(column, propensity, *((EXPLORED, "") if is_explored else moved.words(user, column)))
            for column, propensity, is_explored in placed
        ]

    def _pools(
        self, ranked: list[list[int]], logit: NDArray[np.float32], slots: NDArray[np.int64], cold: NDArray[np.bool_]
    ) -> list[list[int]]:
        """Return each user's new items, best first: not ranked, and so few of a kind that no bound breaks if all are shown."""
        new = self._is_new(slots) & np.isfinite(logit)
        kinds = np.stack([self.index.category[slots], self.index.brand[slots]], axis=2)
        pools = []
        for i, own in enumerate(ranked):
            new[i, own] = False
            pool = np.flatnonzero(new[i])
            pool = pool[np.argsort(-logit[i, pool], kind="stable")]
            is_ranked = np.zeros(new.shape[1], np.bool_)
            is_ranked[own] = True
            bounds, most = self.rules.bounds(bool(cold[i])), len(own) + explore.POOL
            kept, _ = rules.split([*own, *pool.tolist()], kinds[i], bounds, is_ranked.tolist(), most)
            pools.append(kept[len(own) :])
        return pools

    def _is_new(self, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which candidates are to be got to know, (m, c) bool."""
        young: NDArray[np.bool_] = (slots != NOWHERE) & (self.at - self.index.at[slots] < self.explore.age_s)
        distinct = np.unique(slots[young])
        items = [self.index.items[slot] for slot in distinct.tolist()]
        touched = self.signals.heats([item.item_id if item else "" for item in items], self.at)[:, 1]
        young &= ~np.isin(slots, distinct[touched >= self.explore.touches])
        return young
