"""A learned model in service: U' and V' of its towers, candidates by U', and M over `U' ∘ V'`, `U'·V'` and the named features.

Knows neither training nor rules. V' of every item is kept by the item's slot and follows the index. Torch runs the towers; M is
two matrix products in NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranking import features, search
from ranking.bundle import Bundle, BundleError
from ranking.features import Follows
from ranking.index import NOWHERE, ItemIndex
from ranking.profile import Profile
from ranking.queries import Queries
from ranking.ranker import Scores, ZeroShot, softmax
from ranking.retrieve import Candidates
from ranking.search import ExactSearch, Search
from ranking.signals import Signals
from ranking.snapshots import Snapshots, snapshots

EXACT_UP_TO = 20_000  # items: above, an inverted file
AT_ONCE = 1_024  # items whose V' is computed while lists wait: 30 ms
NEAR = 100  # candidates by U'
FOLLOWING = 100  # candidates by what follows the last touches
M = "m."  # what the names of M's tensors begin with; before M is fitted there are none, and the zero-shot scores stand
POPULAR = 60  # candidates that all users get


@dataclass(frozen=True, slots=True)
class Reading:
    """What the model reads of m users. users: (m, width) U'; more: (m, e) candidates' slots, NOWHERE where there are fewer."""

    users: NDArray[np.float32]
    touches: list[list[int]]
    following: list[Follows]
    more: NDArray[np.int64]


class Learned:
    """One version of a model over one index. Hold the index's lock around every call. placed: (capacity, width) V' by slot."""

    def __init__(self, bundle: Bundle, index: ItemIndex) -> None:
        """Place all items of the index. Raises BundleError for another encoder's vectors or other features."""
        bundle.check(index.encoder_id, index.dim)
        if bundle.head.features != features.NAMES:
            raise BundleError(f"model {bundle.head.version} was trained on other features than this version's: train it again")
        self.name = bundle.head.version
        self.temperature = ZeroShot().temperature  # the scale that rules are made for
        self._kinds = {kind: number for number, kind in enumerate(bundle.head.kinds)}
        self._rows = {item_id: row for row, item_id in enumerate(bundle.items, 1)}
        self._towers = _towers(bundle)
        self._ranker = Ranker({name[2:]: value for name, value in bundle.tensors.items() if name.startswith(M)})
        self._width = bundle.head.shape["width"]
        self.placed = np.zeros((0, self._width), np.float32)
        self._searched = np.zeros(0, np.bool_)
        self._search: Search = ExactSearch(self._width)
        self._seen = 0
        while self._follow(index):
            pass
        self._train(index)

    def query_weights(self) -> NDArray[np.float32]:
        """Return what a cosine with each query is worth where candidates are searched by meaning."""
        return ZeroShot().query_weights()

    def read(self, profiles: Sequence[Profile], found: Queries, at: float, index: ItemIndex, signals: Signals) -> Reading:
        """Return U' of users and the candidates that the model adds."""
        self._follow(index)
        users = self.users(self.snapshots(profiles, [at] * len(profiles), found, index))
        touches = features.touched(profiles, index)
        following = features.follows(touches, index, signals)
        _, near = self._search.nearest(users, NEAR)
        popular = [slot for slot, _ in islice(index.listed_slots(signals.rising(at)), POPULAR)]
        more = np.full((len(profiles), NEAR + FOLLOWING + POPULAR), NOWHERE, np.int64)
        more[:, : near.shape[1]] = near
        for i, own in enumerate(following):
            best = (
                own.slots
                if len(own.slots) <= FOLLOWING
                else own.slots[np.argpartition(-own.scores[:, 1], FOLLOWING)[:FOLLOWING]]
            )
            more[i, NEAR : NEAR + len(best)] = best
        more[:, NEAR + FOLLOWING : NEAR + FOLLOWING + len(popular)] = popular
        return Reading(users, touches, following, more)

    def features(
        self, read: Reading, found: Queries, among: Candidates, scores: Scores, at: float, index: ItemIndex, signals: Signals
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the named features, (m, c, f), and `U' ∘ V'`, (m, c, width)."""
        crossed = np.take(self.placed, among.slots, axis=0) * read.users[:, None, :]
        named = features.features(found, among, scores, read.touches, read.following, crossed.sum(axis=2), at, index, signals)
        return named, crossed

    def score(
        self,
        read: Reading,
        found: Queries,
        among: Candidates,
        scores: Scores,
        allowed: NDArray[np.bool_],
        at: float,
        index: ItemIndex,
        signals: Signals,
    ) -> Scores:
        """Return the scores with M's logits and probabilities in place of the zero-shot model's."""
        if not self._ranker.tensors:
            return scores
        named, crossed = self.features(read, found, among, scores, at, index, signals)
        logit = np.where(allowed, self._ranker.logits(named, crossed) * np.float32(self.temperature), np.float32(-np.inf))
        return Scores(logit, softmax(logit, self.temperature), scores.features, scores.parts, scores.cosines)

    def snapshots(self, profiles: Sequence[Profile], at: Sequence[float], found: Queries, index: ItemIndex) -> Snapshots:
        """Return what the user tower reads of users."""
        return snapshots(profiles, at, index, self._kinds, found.vectors, found.strength)

    def users(self, read: Snapshots) -> NDArray[np.float32]:
        """Return U' of users, (m, width)."""
        import torch

        with torch.inference_mode():
            placed = torch.from_numpy(self.placed)
            made = self._towers.users(placed, *tensors(read))
        return np.asarray(made.numpy(), np.float32)

    def _follow(self, index: ItemIndex) -> bool:
        """Place some items that changed since; tell whether there may be more."""
        if self._seen == index.changes:
            return False
        if len(self.placed) < len(index.changed):
            more = len(index.changed) - len(self.placed)
            self.placed = np.concatenate([self.placed, np.zeros((more, self._width), np.float32)])
            self._searched = np.concatenate([self._searched, np.zeros(more, np.bool_)])
        late = np.flatnonzero(index.changed > self._seen)
        late = late[np.argsort(index.changed[late], kind="stable")]
        now = late[:AT_ONCE]
        self._place(now, index)
        # All of one change or none: what is left of it comes with the next call.
        self._seen = index.changes if len(late) <= AT_ONCE else int(index.changed[late[AT_ONCE]]) - 1
        return len(late) > AT_ONCE

    def _place(self, slots: NDArray[np.int64], index: ItemIndex) -> None:
        import torch

        rows = [self._rows.get(item.item_id, 0) if (item := index.items[slot]) is not None else 0 for slot in slots.tolist()]
        with torch.inference_mode():
            made = self._towers.item(torch.from_numpy(index.vectors(slots)), torch.tensor(rows))
        gone, come = slots[self._searched[slots]], slots[index.listed[slots]]
        if len(gone):
            self._search.remove(gone)
        self.placed[slots] = made.numpy()
        if len(come):
            self._search.add(come, self.placed[come])
        self._searched[slots] = index.listed[slots]

    def _train(self, index: ItemIndex) -> None:
        slots = np.flatnonzero(self._searched)
        if len(slots) > EXACT_UP_TO:
            lists = search.lists_for(len(slots))
            sample = np.random.default_rng(1).permutation(slots)[: search.SAMPLE * lists]
            made = search.train(self.placed[sample], lists)
            made.add(slots, self.placed[slots])
            self._search = made


@dataclass(frozen=True)
class Ranker:
    """M: z = x w + relu(x w1 + b1) w2 over x = named features, standardised, beside `U' ∘ V'`."""

    tensors: dict[str, NDArray[np.float32]]

    def logits(self, named: NDArray[np.float32], crossed: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (m, c) float32."""
        own = self.tensors
        x = np.concatenate([(named - own["mean"]) * own["scale"], crossed], axis=2)
        flat = x.reshape(-1, x.shape[2])
        hidden = np.maximum(flat @ own["w1"] + own["b1"], 0.0)
        logits: NDArray[np.float32] = (flat @ own["w"] + hidden @ own["w2"]).reshape(named.shape[:2])
        return logits


def tensors(read: Snapshots) -> tuple[Any, ...]:
    """Return the arrays as the user tower takes them."""
    import torch

    return (
        torch.from_numpy(read.touches.astype(np.int64)),
        torch.from_numpy(read.kinds.astype(np.int64)),
        torch.from_numpy(read.ages),
        torch.from_numpy(read.interests.astype(np.float32)),
        torch.from_numpy(read.strength),
    )


def _towers(bundle: Bundle) -> Any:
    import torch

    from ranking.towers import Shape, Towers

    towers = Towers(Shape(**bundle.head.shape))
    own = {name: torch.from_numpy(value.copy()) for name, value in bundle.tensors.items() if not name.startswith(M)}
    try:
        towers.load_state_dict(own)
    except RuntimeError as error:
        raise BundleError(f"model {bundle.head.version} has other parts than its head says ({error}): train it again") from None
    return towers.eval()
