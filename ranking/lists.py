"""Profiles to lists: retrieve, score, apply the rules, for a batch of users at once.

Knows no messages, records or clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ranking import business, diversity, queries, ranker, retrieve, rules
from ranking.business import BusinessRule
from ranking.explore import Explore
from ranking.govern import Governor
from ranking.index import IndexedItem, ItemIndex
from ranking.learned import Learned, Reading
from ranking.profile import HalfLives, Profile
from ranking.queries import Queries
from ranking.ranker import FEATURES, Scores, ZeroShot
from ranking.retrieve import Candidates
from ranking.rules import Rules
from ranking.signals import Signals


class Ranked(NamedTuple):
    """One item of a list. score: softmax probability among the user's candidates, in (0, 1]; reason: plain English.

    propensity: probability that this item stands at this place, under the draws of exploration; None where it is 1.
    """

    item_id: str
    score: float
    reason: str
    propensity: float | None = None


class Scored(NamedTuple):
    """Candidates of m users with their scores. read: by a learned model; allowed: (m, c) bool, which may stand in a list."""

    read: Reading | None

    found: Queries
    among: Candidates
    allowed: NDArray[np.bool_]
    scores: Scores


@dataclass(frozen=True, slots=True)
class ListMaker:
    """What lists are made with and from. candidates: how many neighbours are ranked for a user."""

    index: ItemIndex
    signals: Signals
    model: ZeroShot | Learned = field(default_factory=ZeroShot)
    rules: Rules = field(default_factory=Rules)
    half_lives: HalfLives = field(default_factory=HalfLives)
    candidates: int = 100
    business: tuple[BusinessRule, ...] = ()
    explore: Explore = field(default_factory=Explore)

    def lists(self, profiles: Sequence[Profile], at: float, seeds: Sequence[int] = ()) -> list[list[Ranked]]:
        """Return the list of each user at a time (Unix seconds), best first; shorter where there are fewer items left.

        seeds: of each user, 64 bits that exploration draws by; needed only where it has a share.
        """
        if not len(self.index):
            return [[] for _ in profiles]
        if self.explore.share and len(seeds) != len(profiles):
            raise ValueError(f"{len(seeds)} seeds of {len(profiles)} users: exploration needs one of each")
        return self._parts(profiles, at, seeds or [0] * len(profiles), CHUNK)

    def _parts(self, profiles: Sequence[Profile], at: float, seeds: Sequence[int], chunk: int) -> list[list[Ranked]]:
        starts = range(0, len(profiles), chunk)
        parts = [(profiles[start : start + chunk], seeds[start : start + chunk]) for start in starts]
        return [own for part, own_seeds in parts for own in self._chunk(part, at, own_seeds)]

    def _chunk(self, profiles: Sequence[Profile], at: float, seeds: Sequence[int]) -> list[list[Ranked]]:
        with self.index.lock:  # for some milliseconds: the follower adds items between two chunks
            governor = self.governor(at)
            out = governor.out()
            _, found, among, _, scores = self.scored(profiles, at, governor.also(), out)
            if governor.is_idle:
                index = self.index
                logit = diversity.spread(scores.logit, among.slots, index, self.rules)
                columns = rules.choose(logit, among.slots, index.category, index.brand, found.is_cold, self.rules)
                return self._lists(columns, found, among, scores)
            lists = self._governed(governor, found, among, scores, seeds)
            if out is not None and self.candidates < min(WIDEST, len(self.index)):
                short = [i for i, own in enumerate(lists) if len(own) < self.rules.size]
                wider = replace(self, candidates=WIDER * self.candidates)
                again = wider._parts([profiles[i] for i in short], at, [seeds[i] for i in short], CHUNK // WIDER)
                for i, own in zip(short, again, strict=True):
                    lists[i] = own
            return lists

    def governor(self, at: float) -> Governor:
        """Return the rules that hold at a time (Unix seconds)."""
        house = business.active(self.business, at)
        return Governor(self.index, self.signals, self.rules, house, self.explore, self.model.temperature, at)

    def _governed(
        self, governor: Governor, found: Queries, among: Candidates, scores: Scores, seeds: Sequence[int]
    ) -> list[list[Ranked]]:
        """Return the lists under business rules and exploration, which each item's reason tells of."""
        placed = governor.places(scores.logit, among.slots, found.is_cold, seeds)
        lists = self._lists([[place.column for place in own] for own in placed], found, among, scores)
        return [
            [
                each._replace(reason=place.reason(each.reason), propensity=place.propensity if place.propensity < 1.0 else None)
                for each, place in zip(own, places, strict=True)
            ]
            for own, places in zip(lists, placed, strict=True)
        ]

    def scored(
        self,
        profiles: Sequence[Profile],
        at: float,
        also: NDArray[np.int64] | None = None,
        out: NDArray[np.bool_] | None = None,
    ) -> Scored:
        """Return the candidates of users with their scores. Hold the index's lock.

        also: (e,) slots that are everybody's candidates; out: (capacity,) bool of slots that no list may hold.
        """
        index, signals = self.index, self.signals
        found = queries.queries(profiles, at, index, self.half_lives)
        model = self.model
        read = model.read(profiles, found, at, index, signals) if isinstance(model, Learned) else None
        more = read.more if read is not None else None
        if also is not None and len(also):
            shared = np.broadcast_to(also, (len(profiles), len(also)))
            more = shared if more is None else np.concatenate([more, shared], axis=1)
        among = retrieve.candidates(found, model.query_weights(), self.candidates, at, index, signals, more, out)
        allowed = ranker.is_allowed(among.slots, index) & rules.unseen(among.slots, index.keys, profiles)
        scores = ranker.score(model if isinstance(model, ZeroShot) else ZeroShot(), found, among, allowed, at, index)
        if isinstance(model, Learned) and read is not None:
            scores = model.score(read, found, among, scores, allowed, at, index, signals)
        return Scored(read, found, among, allowed, scores)

    def _lists(self, columns: list[list[int]], found: Queries, among: Candidates, scores: Scores) -> list[list[Ranked]]:
        picked = np.zeros((len(columns), max(map(len, columns))), np.int64)
        for i, own in enumerate(columns):
            picked[i, : len(own)] = own
        slots = np.take_along_axis(among.slots, picked, axis=1).tolist()
        chances = np.take_along_axis(scores.probability, picked, axis=1).tolist()
        codes = ranker.reasons(scores, found, picked).tolist() if picked.size else slots
        return [
            [
                Ranked(self._item(slot).item_id, chance, self._reason(code, slot, because, among.covisited_with[i]))
                for slot, chance, code in zip(slots[i][: len(own)], chances[i], codes[i], strict=False)
            ]
            for i, own in enumerate(columns)
            for because in [self._reasons(found.touches[i])]
        ]

    def _reason(self, code: int, slot: int, because: list[str], covisited_with: dict[int, int]) -> str:
        return because[code] if code != COVISIT else f"often chosen with {self._item(covisited_with[slot]).title}"

    def _reasons(self, touches: list[int]) -> list[str]:
        """Return the words of each code of `ranker.reasons`, for a user with these last touches."""
        return [*_REASONS, *[f"like {self._item(slot).title}" for slot in touches]]

    def _item(self, slot: int) -> IndexedItem:
        item = self.index.items[slot]
        assert item is not None  # candidates' slots hold an item while the lock is held
        return item


WIDER = 4  # times as many neighbours are searched for whom exclusions left without a full list
WIDEST = 2_000  # candidates, as many as the setting allows
CHUNK = 32  # users at once: the vectors of their candidates, 7 MB at 384 dims, stay near the processor
COVISIT = FEATURES.index("covisit")
_WORDS = {
    "long": "your long interest",
    "short": "your latest interest",
    "asked": "you asked for it",
    "recent": "like your last choice",
    "category": "a kind you like",
    "rising": "popular now",
    "fresh": "new",
}
_REASONS = [_WORDS.get(name, "something else") for name in FEATURES]
