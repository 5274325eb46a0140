"""Scores: a softmax over what is allowed, whatever the order, the batch and the profile."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import DAY, NOW, clusters, index_of, nobody, profile_of, update

from ranking.index import NOWHERE, ItemIndex
from ranking.profile import HalfLives, Profile, Touch
from ranking.queries import Queries, queries
from ranking.ranker import FEATURES, Scores, ZeroShot, is_allowed, score
from ranking.retrieve import Candidates

VECTORS = clusters(4, 15)
IDS = [f"i{n}" for n in range(60)]


def world() -> ItemIndex:
    """Return an index of four clusters of 15, each a category."""
    return index_of(dict(zip(IDS, VECTORS, strict=True)), {name: f"c{n // 15}" for n, name in enumerate(IDS)})


INDEX = world()
PROFILES = [
    nobody(),
    profile_of(update(0, pull=VECTORS[0], touch=Touch("i0", "click", 1.0, NOW))),
    profile_of(update(0, push=2 * VECTORS[20], touch=Touch("i20", "dislike", -2.0, NOW))),
    profile_of(update(0, pull=VECTORS[0]), update(1, ask=3 * VECTORS[40], touch=Touch("", "wish", 3.0, NOW))),
]


def among(slots: np.ndarray) -> Candidates:
    """Return these slots as candidates that nothing but their vectors speaks for."""
    zeros = np.zeros(slots.shape, np.float32)
    return Candidates(slots, zeros, zeros, zeros, [{} for _ in slots])


def found(*profiles: Profile) -> Queries:
    """Return the queries of these users now."""
    return queries(profiles, NOW, INDEX, HalfLives())


def scored(slots: np.ndarray, *profiles: Profile, at: float = NOW) -> Scores:
    """Return the zero-shot scores of these slots, one row for each profile."""
    return score(ZeroShot(), found(*profiles), among(slots), is_allowed(slots, INDEX), at, INDEX)


@given(st.permutations(range(60)), st.sampled_from(PROFILES))
def test_permutation(order: list[int], profile: Profile) -> None:
    """Candidates in another order have the same scores, in that order."""
    slots = np.arange(60)[None]
    plain, moved = scored(slots, profile), scored(slots[:, order], profile)
    np.testing.assert_allclose(moved.logit, plain.logit[:, order], atol=1e-5)
    np.testing.assert_allclose(moved.probability, plain.probability[:, order], atol=1e-5)


@pytest.mark.parametrize("allowed", [0, 1, 7, 29, 60])
def test_probabilities(allowed: int) -> None:
    """Probabilities sum to one over what is allowed; what is not has none and a logit of -inf."""
    slots = np.broadcast_to(np.arange(60), (len(PROFILES), 60))
    mask = np.broadcast_to(np.arange(60) < allowed, slots.shape)
    scores = score(ZeroShot(), found(*PROFILES), among(slots), mask, NOW, INDEX)
    np.testing.assert_allclose(scores.probability.sum(axis=1), 1.0 if allowed else 0.0, rtol=1e-5)
    assert not scores.probability[~mask].any()
    assert (np.isfinite(scores.logit) == mask).all()
    assert (scores.probability >= 0).all()


@given(st.lists(st.sampled_from(PROFILES), min_size=1, max_size=5), st.integers(1, 60), st.integers(0, 40))
def test_batch(profiles: list[Profile], k: int, padding: int) -> None:
    """A user's scores do not depend on the others of the batch, nor on how many places a row has that hold nothing."""
    slots = np.full((len(profiles), k + padding), NOWHERE)
    slots[:, :k] = np.arange(k)
    together = scored(slots, *profiles)
    for i, profile in enumerate(profiles):
        alone = scored(slots[i : i + 1, :k], profile)
        np.testing.assert_allclose(together.logit[i, :k], alone.logit[0], atol=1e-5)
        np.testing.assert_allclose(together.probability[i, :k], alone.probability[0], atol=1e-5)


def test_full_index() -> None:
    """In an index without a spare row the last item does not speak for places that hold nothing."""
    full = world()
    for name in ("codes", "scales", "keys", "category", "brand", "at", "listed"):
        setattr(full, name, getattr(full, name)[:60])
    profile = profile_of(update(0, ask=3 * VECTORS[59], push=VECTORS[58]))
    slots = np.array([[*range(30), *[NOWHERE] * 30]])
    allowed = slots != NOWHERE
    results = [
        score(ZeroShot(), queries([profile], NOW, each, HalfLives()), among(slots), allowed, NOW, each)
        for each in (INDEX, full)
    ]
    np.testing.assert_allclose(results[0].logit, results[1].logit, atol=1e-6)


def test_nothing_is_nan() -> None:
    """Profiles that are empty, ancient or huge, and items from the beginning of time, have finite scores."""
    huge = profile_of(*(update(n, NOW, pull=1e6 * VECTORS[n], push=1e6 * VECTORS[n]) for n in range(20)))
    slots = np.broadcast_to(np.arange(60), (3, 60))
    for at in (0.0, NOW, NOW + 40_000 * DAY):
        scores = scored(slots, nobody(), PROFILES[1], huge, at=at)
        for array in (scores.logit, scores.probability, scores.parts):
            assert np.isfinite(array).all()


def test_parts_add_up() -> None:
    """The parts of a logit are named and add up to it."""
    scores = scored(np.arange(60)[None], PROFILES[3])
    assert scores.parts.shape == (1, 60, len(FEATURES))
    np.testing.assert_allclose(scores.parts.sum(axis=2), scores.logit, rtol=1e-5)


@pytest.mark.parametrize(("profile", "best"), [(1, 0), (3, 2)])
def test_taste(profile: int, best: int) -> None:
    """A clicked kind stands above the others, and a kind that is asked for above the clicked one."""
    logit = scored(np.arange(60)[None], PROFILES[profile]).logit.reshape(4, 15)
    others = np.delete(logit, best, axis=0)
    assert logit[best].min() > others.max()


def test_dislike() -> None:
    """What is like what was turned down loses; what is unlike it gains nothing by that."""
    avoided, neutral = (scored(np.arange(60)[None], PROFILES[n]) for n in (2, 0))
    part = avoided.parts[0, :, FEATURES.index("avoid")].reshape(4, 15)
    assert part[1].max() < -0.3
    assert part.max() <= 0.0
    assert np.delete(part, 1, axis=0).min() > -0.3
    assert not neutral.parts[0, :, FEATURES.index("avoid")].any()


def test_fresh() -> None:
    """Of two items alike in all else the newer stands higher."""
    index = world()
    index.at[1] = index.at[0] + 20 * DAY
    index.codes[1], index.scales[1] = index.codes[0], index.scales[0]
    slots = np.array([[0, 1]])
    logit = score(ZeroShot(), found(PROFILES[1]), among(slots), is_allowed(slots, index), NOW, index).logit
    assert logit[0, 1] > logit[0, 0]
