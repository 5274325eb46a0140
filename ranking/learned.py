"""A learned model in service: U' and V' of its towers, candidates by U', and M over `U' ∘ V'`, `U'·V'` and the named features.

Knows neither training nor rules. V' of every item is kept by the item's slot and follows the index. Torch runs the towers; M is
two matrix products in NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranking import features, links, search
from ranking.bundle import Bundle, BundleError
from ranking.index import NOWHERE, ItemIndex
from ranking.leads import Led, Live, Tables, last_touches
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
ADDED = 300  # candidates that the model adds, of all its sources in turn
M = "m."  # what the names of M's tensors begin with; before M is fitted there are none, and the zero-shot scores stand
CLIP = 8.0  # standard deviations
HOTTEST = 50  # candidates that all users get, by each of the four decays


@dataclass(frozen=True, slots=True)
class Reading:
    """What the model reads of m users. users: (m, width) U'; last: (m,) Unix seconds of the newest event;

    more: (m, e) candidates' slots, NOWHERE where there are fewer.
    """

    users: NDArray[np.float32]
    touches: list[list[int]]
    live: Live
    led: Led
    last: list[float]
    more: NDArray[np.int64]


class Learned:
    """One version of a model over one index. Hold the index's lock around every call but the making.

    placed: (capacity, width) float32, V' by slot.
    """

    def __init__(self, bundle: Bundle, index: ItemIndex) -> None:
        """Place all items of the index. Raises BundleError for another encoder's vectors or other features."""
        bundle.check(index.encoder_id, index.dim)
        if bundle.head.features != features.NAMES:
            raise BundleError(f"model {bundle.head.version} was trained on other features than this version's: train it again")
        self.name = bundle.head.version
        self.temperature = ZeroShot().temperature  # the scale that rules are made for
        self._kinds = {kind: number for number, kind in enumerate(bundle.head.kinds)}
        self._rows = {item_id: row for row, item_id in enumerate(bundle.items, 1)}
        self._tables = Tables(links.from_tensors(bundle.tensors), len(bundle.items))
        self._towers = towers_of(bundle)
        self._ranker = Ranker({name[2:]: value for name, value in bundle.tensors.items() if name.startswith(M)})
        self._width = bundle.head.shape["width"]
        self.placed = np.zeros((0, self._width), np.float32)
        self._searched = np.zeros(0, np.bool_)
        self._search: Search = ExactSearch(self._width)
        self._seen = 0  # of the index's changes
        self._stamp = np.zeros(0, np.int64)  # by slot: the change that is placed
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
        live = Live(touches, index, signals)
        led = self._tables.lead(last_touches(touches))
        near = self.nearest(users, NEAR)
        hottest = ((item_id, 0.0) for item_id in signals.hottest(HOTTEST, at))
        popular = np.array([slot for slot, _ in index.listed_slots(hottest)], np.int64)
        by_table = led.candidates()
        more = np.full((len(profiles), ADDED), NOWHERE, np.int64)
        for i, own in enumerate(live.candidates()):
            merged = in_turn([near[i], own, popular, *[slots[i] for slots in by_table]], ADDED)
            more[i, : len(merged)] = merged
        return Reading(users, touches, live, led, [profile.at for profile in profiles], more)

    def nearest(self, users: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """Return the slots of the k listed items whose V' is nearest to each U', (m, k), best first; NOWHERE for none."""
        return self._search.nearest(users, k)[1]

    def features(
        self, read: Reading, found: Queries, among: Candidates, scores: Scores, at: float, index: ItemIndex, signals: Signals
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the named features, (m, c, f), and `U' ∘ V'`, (m, c, width)."""
        crossed = np.take(self.placed, among.slots, axis=0) * read.users[:, None, :]
        tower = crossed.sum(axis=2)
        named = features.features(found, among, scores, read.touches, read.live, read.led, tower, read.last, at, index, signals)
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
        """Place some items that changed since; tell whether there are more."""
        with index.lock:
            if self._seen == index.changes:
                return False
            self._grow(len(index.changed))
            late = np.flatnonzero(index.changed != self._stamp)
            self._place(late[:AT_ONCE], index)
            if len(late) <= AT_ONCE:
                self._seen = index.changes
            return len(late) > AT_ONCE

    def _grow(self, capacity: int) -> None:
        more = capacity - len(self.placed)
        if more > 0:
            self.placed = np.concatenate([self.placed, np.zeros((more, self._width), np.float32)])
            self._searched = np.concatenate([self._searched, np.zeros(more, np.bool_)])
            self._stamp = np.concatenate([self._stamp, np.zeros(more, np.int64)])

    def _place(self, slots: NDArray[np.int64], index: ItemIndex) -> None:
        import torch

        ids = [item.item_id if (item := index.items[slot]) is not None else "" for slot in slots.tolist()]
        rows = np.array([self._rows.get(item_id, 0) for item_id in ids], np.int64)
        with torch.inference_mode():
            made = self._towers.item(torch.from_numpy(index.vectors(slots)), torch.from_numpy(rows))
        self._tables.place(slots, np.where(rows > 0, rows - 1, len(self._rows)))
        gone, come = slots[self._searched[slots]], slots[index.listed[slots]]
        if len(gone):
            self._search.remove(gone)
        self.placed[slots] = made.numpy()
        if len(come):
            self._search.add(come, self.placed[come])
        self._searched[slots] = index.listed[slots]
        self._stamp[slots] = index.changed[slots]

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
    """M over x, the named features standardised and clipped, beside `U' ∘ V'`: x w + relu(relu(x w1 + b1) w2 + b2) w3."""

    tensors: dict[str, NDArray[np.float32]]

    def logits(self, named: NDArray[np.float32], crossed: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (m, c) float32."""
        own = self.tensors
        x = np.concatenate([standardised(named, own["mean"], own["scale"]), crossed], axis=2)
        flat = x.reshape(-1, x.shape[2])
        hidden = np.maximum(flat @ own["w1"] + own["b1"], 0.0)
        hidden = np.maximum(hidden @ own["w2"] + own["b2"], 0.0)
        logits: NDArray[np.float32] = (flat @ own["w"] + hidden @ own["w3"]).reshape(named.shape[:2])
        return logits


def standardised(
    named: NDArray[np.floating[Any]], mean: NDArray[np.float32], scale: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return features as M takes them, in [-CLIP, CLIP]."""
    made: NDArray[np.float32] = np.clip((named - mean) * scale, -CLIP, CLIP).astype(np.float32)
    return made


def in_turn(lists: Sequence[NDArray[np.int64]], k: int) -> NDArray[np.int64]:
    """Return k different slots at most, the lists' first before their second."""
    slots = np.concatenate(lists)
    turns = np.concatenate([np.arange(len(own)) for own in lists])
    slots = slots[np.argsort(turns, kind="stable")]
    slots = slots[slots != NOWHERE]
    _, first = np.unique(slots, return_index=True)
    merged: NDArray[np.int64] = slots[np.sort(first)[:k]]
    return merged


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


def towers_of(bundle: Bundle) -> Any:
    """Return the towers of a bundle, to serve. Raises BundleError."""
    from ranking.towers import Shape, Towers

    towers = Towers(Shape(**bundle.head.shape))
    own = {name: value for name, value in bundle.tensors.items() if not name.startswith((M, "links."))}
    try:
        towers.load_arrays(own)
    except RuntimeError as error:
        raise BundleError(f"model {bundle.head.version} has other parts than its head says ({error}): train it again") from None
    return towers
