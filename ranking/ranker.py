"""Score candidates: named features, a model M over them, and the softmax over each user's candidates.

Knows neither where candidates come from nor the rules that pick from the scores. Untrained, M is a fixed linear form of the
named features, so that a new installation recommends by meaning from its first event; lists then say "zero-shot".
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ranking.index import NOWHERE, ItemIndex
from ranking.profile import ASKED, AVOID, INTERESTS, LONG, SHORT
from ranking.queries import LAST, QUERIES, Queries
from ranking.retrieve import Candidates

FEATURES = ("long", "short", "avoid", "asked", "recent", "category", "covisit", "sated", "rising", "fresh")
VOTERS = 30  # nearest candidates of a user whose categories count
TOUCHED = 0.5  # what the categories of the last touches count against theirs
FRESH_S = 7 * 86_400.0
IS_REASON = np.array(
    [name not in ("avoid", "sated") for name in FEATURES]
)  # (10,) bool: the features that can speak for an item

OF_TOUCHES = np.array([name in ("long", "short", "recent", "category") for name in FEATURES])  # (10,) bool: touches may say why
LIKE = 0.35  # cosine with a touched item from which on that item says best why: of unrelated ones it is under .2


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """The linear form: what one unit of each feature adds to the logit, before the temperature.

    Cosines lie in [-1, 1] (centred vectors: unrelated about 0, the same subject .3-.6), the other features in [0, 1],
    `category` in [0, 1.5].
    """

    long: float = 0.5
    short: float = 1.0
    avoid: float = -1.6
    asked: float = 1.2
    recent: float = 0.6
    category: float = 0.3
    covisit: float = 0.6
    sated: float = -0.5
    rising: float = 0.05
    fresh: float = 0.03
    temperature: float = 0.05
    name: str = field(default="zero-shot", init=False)

    def query_weights(self) -> NDArray[np.float32]:
        """Return what a cosine with each query is worth, (QUERIES,) float32: the linear part that one search can answer."""
        weights = np.full(QUERIES, self.recent, np.float32)
        weights[[LONG, SHORT, AVOID, ASKED]] = self.long, self.short, self.avoid, self.asked
        return weights

    def feature_weights(self) -> NDArray[np.float32]:
        """Return the weights in the order of FEATURES, (10,) float32."""
        return np.array([getattr(self, name) for name in FEATURES], np.float32)


@dataclass(frozen=True, slots=True)
class Scores:
    """logit: (m, c) float32, before the temperature, -inf for what is left out.

    probability: (m, c) float32, rows sum to 1 over the candidates, 0 for what is left out.
    features: (m, c, 10) float32, FEATURES. parts: (m, c, 10) float32, what each added to the zero-shot logit.
    cosines: (m, c, QUERIES) float32, with each query.
    """

    logit: NDArray[np.float32]
    probability: NDArray[np.float32]
    features: NDArray[np.float32]
    parts: NDArray[np.float32]
    cosines: NDArray[np.float32]


def score(
    model: ZeroShot, found: Queries, among: Candidates, allowed: NDArray[np.bool_], at: float, index: ItemIndex
) -> Scores:
    """Return the softmax over each user's allowed candidates. allowed: (m, c) bool."""
    # take: 28 us a user for 140 candidates at 384 dims, where indexing costs half as much again
    near = np.take(index.codes, among.slots, axis=0).astype(np.float32) @ found.vectors.transpose(0, 2, 1)
    cosines = near * index.scales[among.slots][:, :, None]  # (m, c, QUERIES)
    cosines[among.slots == NOWHERE] = 0.0  # it read the last row, which is an item's when the index is full
    features = np.empty((*among.slots.shape, len(FEATURES)), np.float32)
    features[:, :, :INTERESTS] = cosines[:, :, :INTERESTS] * found.strength[:, None, :INTERESTS]
    for words in (AVOID, ASKED):
        features[:, :, words] = _sharpen(features[:, :, words])
    features[:, :, 4] = np.einsum("mcq,mq->mc", cosines[:, :, INTERESTS:], found.strength[:, INTERESTS:])
    nearness = np.einsum("mcq,mq->mc", cosines, found.strength * model.query_weights())
    category = index.category[among.slots]
    features[:, :, 5] = _category_votes(nearness, category, allowed) + TOUCHED * _touched_share(found, category, index)
    features[:, :, 6] = among.covisit
    features[:, :, 7] = among.sated
    features[:, :, 8] = among.rising
    features[:, :, 9] = np.exp2(-np.maximum(0.0, at - index.at[among.slots]) / FRESH_S)
    parts = features * model.feature_weights()
    logit = np.where(allowed, parts.sum(axis=2), np.float32(-np.inf)).astype(np.float32)
    return Scores(logit, softmax(logit, model.temperature), features, parts, cosines)


def reasons(scores: Scores, found: Queries, picked: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what speaks most for each picked candidate, (m, n): a place in FEATURES, or len(FEATURES) + the touch it is like.

    picked: (m, n) columns of the scores. Where nothing speaks for a candidate it is AVOID's place.
    """
    parts = np.where(IS_REASON, np.take_along_axis(scores.parts, picked[:, :, None], axis=1), -np.inf)
    best = np.where(parts.max(axis=2) > 0.0, parts.argmax(axis=2), AVOID)
    cosines = np.take_along_axis(scores.cosines[:, :, INTERESTS:], picked[:, :, None], axis=1)
    cosines = np.where(found.strength[:, None, INTERESTS:] > 0.0, cosines, -1.0)
    is_like = (cosines.max(axis=2) >= LIKE) & OF_TOUCHES[best]
    codes: NDArray[np.int64] = np.where(is_like, len(FEATURES) + cosines.argmax(axis=2), best)
    return codes


def _touched_share(found: Queries, category: NDArray[np.int32], index: ItemIndex) -> NDArray[np.float32]:
    """Return the share of the last touches that are of each candidate's category, (m, c) in [0, 1]; purchases have no say."""
    codes = np.zeros((len(found.touches), LAST), np.int32)
    for i, slots in enumerate(found.touches):
        codes[i, : len(slots)] = [0 if slot in found.bought[i] else index.category[slot] for slot in slots]
    share: NDArray[np.float32] = np.zeros(category.shape, np.float32)
    for touch in range(LAST):
        own = codes[:, touch, None]
        share += np.where((own > 0) & (category == own), found.strength[:, INTERESTS + touch, None], np.float32(0.0))
    return share


def _category_votes(
    nearness: NDArray[np.float32], category: NDArray[np.int32], allowed: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return the share of the user's nearest candidates that are of each candidate's category, (m, c) in [0, 1].

    One tea egg among sixty teas is near by its words; sixty teas are near by their kind. An item without a category gets 0.
    """
    votes = np.where(allowed & (nearness > 0.0), nearness, -np.inf)  # near to nothing: an unknown user has no kind
    voters = np.argpartition(-votes, min(VOTERS, votes.shape[1] - 1), axis=1)[:, :VOTERS]
    counted = np.isfinite(np.take_along_axis(votes, voters, axis=1))  # fewer than VOTERS may be allowed
    voted = np.where(counted, np.take_along_axis(category, voters, axis=1), -1)
    of_kind = (category[:, :, None] == voted[:, None, :]).sum(axis=2, dtype=np.float32)
    share = of_kind / np.maximum(counted.sum(axis=1, keepdims=True, dtype=np.float32), 1.0)
    votes_of_own: NDArray[np.float32] = np.where(category > 0, share, np.float32(0.0))
    return votes_of_own


def _sharpen(cosines: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keep what stands out: (m, c) in, 2 max(0, cosine - top / 2) out, with the top of each row.

    The cosine of one word with an item's text is .2-.5 where it fits, of a whole text .5-.8; half the top tells what is meant
    from what is only written alike, in both. Being unlike what was turned down is no merit.
    """
    top = cosines.max(axis=1, keepdims=True, initial=0.0)
    sharp: NDArray[np.float32] = 2.0 * np.maximum(cosines - top / 2.0, 0.0)
    return sharp


def softmax(logit: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Return the softmax of each row; a row of -inf alone gives zeros."""
    logits = logit / temperature
    top = logits.max(axis=1, keepdims=True, initial=-np.inf)
    powers = np.exp(logits - np.where(np.isfinite(top), top, 0.0))
    total = powers.sum(axis=1, keepdims=True)
    probability: NDArray[np.float32] = (powers / np.where(total > 0, total, 1.0)).astype(np.float32)
    return probability


def is_allowed(slots: NDArray[np.int64], index: ItemIndex) -> NDArray[np.bool_]:
    """Tell which candidates exist and are available, (m, c) bool."""
    allowed: NDArray[np.bool_] = (slots != NOWHERE) & index.listed[slots]
    return allowed
