"""Diversity by likeness: relevance alone at 0, no two alike at 1, the greedy choice told by its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import clusters, item

from ranking.diversity import SCALE, mmr, spread
from ranking.index import ItemIndex
from ranking.rules import PINNED, Rules, choose

ITEMS = 60
INDEX = ItemIndex(16, "planted")
INDEX.upsert([item(f"i{n}") for n in range(ITEMS)], clusters(6, 10))
logits = st.lists(st.floats(-1, 1, width=32) | st.just(-np.inf), min_size=1, max_size=ITEMS)


def chosen(rows: list[list[float]], **given: object) -> list[list[int]]:
    """Return lists of ten; column n is item n, of cluster n // 10."""
    logit = np.array(rows, np.float32)
    slots = np.tile(np.arange(logit.shape[1]), (len(rows), 1))
    rules = Rules(**{"size": 10, "by_likeness": True, **given})  # type: ignore[arg-type]
    cold = np.zeros(len(rows), np.bool_)
    return choose(spread(logit, slots, INDEX, rules), slots, INDEX.category, INDEX.brand, cold, rules)


def by_definition(logit: list[float], strength: float) -> list[int]:
    """Return the list that the definition of maximal marginal relevance gives."""
    vectors = INDEX.vectors(np.arange(len(logit)))
    own: list[int] = []
    left = [n for n in range(len(logit)) if np.isfinite(logit[n])]
    while left and len(own) < 10:
        best = max(left, key=lambda n: (logit[n] - strength * max([0.0, *[float(vectors[n] @ vectors[m]) for m in own]]), -n))
        own.append(best)
        left.remove(best)
    return own


@given(logits)
def test_none(logit: list[float]) -> None:
    """At diversity 0 a list is the plain order."""
    right = [n for n in sorted(range(len(logit)), key=lambda n: (-logit[n], n)) if np.isfinite(logit[n])]
    assert chosen([logit], diversity=0.0)[0] == right[:10]


@given(st.integers(0, 2**32), st.floats(0.1, 1))
def test_the_definition(seed: int, diversity: float) -> None:
    """A list of up to POOL x size candidates is what maximal marginal relevance says; batch equals single."""
    rng = np.random.default_rng(seed)
    logit = rng.uniform(-0.2, 0.2, (3, 30)).astype(np.float32)
    logit[rng.random(logit.shape) < rng.random()] = -np.inf
    rows = logit.tolist()
    together = chosen(rows, diversity=diversity)
    assert (
        together
        == [by_definition(row, SCALE * diversity) for row in rows]
        == [chosen([row], diversity=diversity)[0] for row in rows]
    )


def test_alike_ones_make_room() -> None:
    """The larger the diversity, the more clusters a list shows; the best item stays first."""
    logit = [1.0 - 0.002 * n for n in range(ITEMS)]
    lists = [chosen([logit], diversity=diversity, size=12)[0] for diversity in (0.0, 0.3, 1.0)]
    kinds = [len({n // 10 for n in own}) for own in lists]
    assert kinds == sorted(kinds)
    assert kinds[0] < kinds[1]
    assert {own[0] for own in lists} == {0}


def test_worth_falls() -> None:
    """What `mmr` says a choice is worth falls from place to place: its plain order is the order chosen."""
    vectors = INDEX.vectors(np.arange(ITEMS))[None]
    logit = np.random.default_rng(2).normal(0, 0.1, (1, ITEMS)).astype(np.float32)
    columns, worth = mmr(logit, vectors @ vectors.transpose(0, 2, 1), np.float32(0.2), 40)
    assert np.all(np.diff(worth[0, columns[0]]) <= 0)
    assert np.isneginf(worth).sum() == ITEMS - 40


@pytest.mark.parametrize("size", [1, 10])
def test_pinned_and_left_out(size: int) -> None:
    """What is pinned stays above all, what is left out stays out, and those beyond the pool do not come before it."""
    logit = [PINNED, -np.inf, *[1.0 - 0.002 * n for n in range(ITEMS - 2)]]
    own = chosen([logit], diversity=1.0, size=size)[0]
    assert own[0] == 0
    assert 1 not in own
    assert max(own) < 3 * size + 2
