"""The figures: planted lists whose figures are known by hand, scikit-learn's own, and laws."""

from __future__ import annotations

import numpy as np
import planted  # noqa: F401  no deadline for examples
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import ndcg_score

from ranking import evaluate
from ranking.evaluate import NOTHING

LISTS = np.array([[3, 1, 2], [0, 1, NOTHING], [5, 6, 7]])
WANTED = [[1, 9], [1, 0], [4, 8, 9, 10]]


def test_the_figures_of_planted_lists_are_those_computed_by_hand() -> None:
    """One of two at place 2; both at places 1 and 2 of a short list; none of four."""
    each = evaluate.each(LISTS, WANTED)
    two = 1 / np.log2(3)
    assert each.recall == pytest.approx([1 / 2, 1.0, 0.0])
    assert each.ndcg == pytest.approx([two / (1 + two), 1.0, 0.0])
    assert each.mrr == pytest.approx([1 / 2, 1.0, 0.0])
    assert each.hit.tolist() == [1.0, 1.0, 0.0]


def test_recall_can_reach_one_where_more_is_wanted_than_the_list_holds() -> None:
    """Hits / min(k, wanted)."""
    assert evaluate.each(np.array([[0, 1]]), [[0, 1, 2, 3]]).recall.tolist() == [1.0]


def test_a_user_who_wants_nothing_is_refused_by_number() -> None:
    """Such a list has no figures, and a 0 would look like a miss."""
    with pytest.raises(ValueError, match="user 1 wants nothing"):
        evaluate.each(np.array([[0], [1]]), [[0], []])


@pytest.mark.parametrize("seed", range(5))
def test_ndcg_is_scikit_learns(seed: int) -> None:
    """Of full lists over all items, with the scores that order them."""
    rng = np.random.default_rng(seed)
    m, items, k = 4, 12, 5
    lists = np.stack([rng.permutation(items) for _ in range(m)])
    truth = rng.random((m, items)) < 0.4
    truth[:, 0] = True
    scores = np.zeros((m, items))
    np.put_along_axis(scores, lists, -np.arange(items, dtype=float)[None].repeat(m, 0), axis=1)
    ours = evaluate.each(lists[:, :k], [np.flatnonzero(row).tolist() for row in truth]).ndcg
    assert ours.mean() == pytest.approx(ndcg_score(truth, scores, k=k))


def test_what_is_reached_counts_all_places_and_never_more_than_k_could_hold() -> None:
    """Three wanted of which two are there; of five wanted, a list of two could hold two."""
    lists = np.array([[7, 1, 2, NOTHING], [1, 2, 3, NOTHING]])
    assert evaluate.reached(lists, [[1, 2, 9], [1, 2, 3, 4, 5]], 2).tolist() == [1.0, 1.0]
    assert evaluate.reached(lists, [[1, 2, 9], [1, 2, 3, 4, 5]], 200).tolist() == pytest.approx([2 / 3, 3 / 5])


@given(st.lists(st.integers(0, 30), min_size=1, max_size=20, unique=True), st.permutations(range(12)))
def test_what_is_wanted_has_no_order_and_a_longer_list_never_hits_less(wanted: list[int], order: list[int]) -> None:
    """Two laws of hits."""
    short, long = np.array([order[:4]]), np.array([order])
    assert evaluate.hits(long, [wanted]).tolist() == evaluate.hits(long, [wanted[::-1]]).tolist()
    assert evaluate.each(long, [wanted]).hit >= evaluate.each(short, [wanted]).hit


def test_an_interval_holds_the_true_mean_as_often_as_it_says() -> None:
    """95 % of 100 intervals, give or take four standard errors."""
    rng = np.random.default_rng(3)
    inside = 0
    for seed in range(100):
        mean, low, high = evaluate.interval((rng.random(150) < 0.3).astype(float), seed=seed)
        assert low <= mean <= high
        inside += low <= 0.3 <= high
    assert inside / 100 == pytest.approx(0.95, abs=0.087)


def test_values_of_one_user_are_drawn_together() -> None:
    """Ten copies of each value tell no more than one; taken for users of their own they would."""
    values = np.random.default_rng(1).random(100)
    alone = evaluate.interval(values)
    copies = evaluate.interval(values.repeat(10), np.arange(100).repeat(10))
    assert copies == pytest.approx(alone)
    assert evaluate.interval(values.repeat(10)).high < alone.high


def test_an_interval_is_the_same_for_the_same_seed_only() -> None:
    """A figure can be repeated to the last digit."""
    values = np.random.default_rng(1).random(50)
    assert evaluate.interval(values, seed=1) == evaluate.interval(values, seed=1) != evaluate.interval(values, seed=2)


def test_a_paired_difference_sees_what_two_intervals_do_not() -> None:
    """A gain of .01 for every user, who differ among themselves by .3."""
    theirs = np.random.default_rng(1).normal(0.5, 0.3, 200)
    ours = theirs + 0.01
    assert evaluate.interval(ours).low < evaluate.interval(theirs).high
    assert evaluate.difference(ours, theirs).low > 0.0
    with pytest.raises(ValueError, match="200 values against 100"):
        evaluate.difference(ours, theirs[:100])


def test_coverage_and_gini_of_planted_lists() -> None:
    """All items alike: 1 and 0; one item in every place: 1 / n and (n - 1) / n."""
    alike, one = np.arange(8).reshape(4, 2), np.zeros((4, 2), np.int64)
    assert (evaluate.coverage(alike, 8), evaluate.gini(alike, 8)) == (1.0, pytest.approx(0.0))
    assert (evaluate.coverage(one, 8), evaluate.gini(one, 8)) == (1 / 8, pytest.approx(7 / 8))


@given(arrays(np.int64, (6, 3), elements=st.integers(-1, 9)))
def test_gini_is_half_the_mean_difference_of_all_pairs_over_the_mean(lists: np.ndarray) -> None:
    """The definition, computed the long way."""
    counts = np.bincount(lists[lists >= 0], minlength=10).astype(float)
    if not counts.sum():
        with pytest.raises(ValueError, match="all empty"):
            evaluate.gini(lists, 10)
        return
    long_way = np.abs(counts[:, None] - counts[None, :]).sum() / (2 * 10 * counts.sum())
    assert evaluate.gini(lists, 10) == pytest.approx(long_way)


def test_novelty_is_the_bits_that_an_item_tells() -> None:
    """Of four items touched 1, 1, 1 and 9 times: 1/8 each and 5/8 after one more touch each."""
    touches = np.array([1.0, 1.0, 1.0, 9.0])
    assert evaluate.novelty(np.array([[0, 1, NOTHING]]), touches) == pytest.approx(3.0)
    assert evaluate.novelty(np.array([[3]]), touches) == pytest.approx(-np.log2(10 / 16))


def test_diversity_is_one_for_right_angles_and_nought_for_copies() -> None:
    """Mean over lists of 1 - mean cosine of pairs; a list of one item has no pair."""
    vectors = np.eye(4, dtype=np.float32)
    assert evaluate.diversity(np.array([[0, 1, 2]]), vectors) == pytest.approx(1.0)
    assert evaluate.diversity(np.array([[0, 0, 0], [1, NOTHING, NOTHING]]), vectors) == pytest.approx(0.0)


def test_calibration_is_nought_when_told_chances_come_true_and_their_distance_otherwise() -> None:
    """Half of what is told as .5 hits; told as .9 it is .4 off."""
    found = np.array([True, False] * 500)
    assert evaluate.calibration_error(np.full(1_000, 0.5), found) == pytest.approx(0.0)
    assert evaluate.calibration_error(np.full(1_000, 0.9), found) == pytest.approx(0.4)
