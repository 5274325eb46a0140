"""The baselines: a planted checkerboard and texts, what each must find there, and contracts that all of them keep."""

from __future__ import annotations

import numpy as np
import pytest

from ranking.baselines import NOBODY, Baseline, Both, CoOccurrence, Popularity, TextProfile

ITEMS = 8
TEXTS = ["red cup", "red pot", "red tea pan", "red bowl", "blue car", "blue bus", "blue van", "blue tea bike"]
# Users touch either the first four items or the last four; item 1 most often.
USERS = np.repeat(np.arange(6), 3)
TOUCHED = np.array([0, 1, 2, 1, 2, 3, 3, 0, 1, 4, 5, 6, 5, 6, 7, 7, 4, 6])
AT = np.arange(len(USERS), dtype=float) * 3_600.0
NEW = np.array([NOBODY])


def made() -> list[Baseline]:
    """Return one of each, as they learnt the checkerboard."""
    own: list[Baseline] = [
        Popularity(ITEMS),
        TextProfile(TEXTS),
        CoOccurrence(ITEMS),
        Both(TextProfile(TEXTS), CoOccurrence(ITEMS)),
    ]
    for each in own:
        each.learn(USERS, TOUCHED, AT)
    return own


@pytest.mark.parametrize("number", range(4))
def test_every_baseline_scores_all_items_and_each_user_as_if_alone(number: int) -> None:
    """Finite scores, (m, items), the same in a batch, also for an empty history."""
    own = made()[number]
    histories = [[0, 2], [5], []]
    together = own.scores(histories, np.full(3, NOBODY), AT[-1])
    assert together.shape == (3, ITEMS)
    assert np.isfinite(together).all()
    for row, history in zip(together, histories, strict=True):
        assert own.scores([history], NEW, AT[-1])[0] == pytest.approx(row)


@pytest.mark.parametrize("number", [2, 3])
def test_who_touched_one_side_of_the_checkerboard_gets_that_side(number: int) -> None:
    """All items of the user's own side stand before all of the other."""
    scores = made()[number].scores([[0, 1], [6, 7]], np.full(2, NOBODY), AT[-1])
    assert scores[0, 2:4].min() > scores[0, 4:].max()
    assert scores[1, 4:6].min() > scores[1, :4].max()


def test_popularity_counts_and_with_a_half_life_what_was_of_late() -> None:
    """Item 1 leads; after an hour's half-life the last side does; learnt in two parts it is the same."""
    assert made()[0].scores([[]], NEW, 0.0)[0].tolist() == np.bincount(TOUCHED).tolist()
    late, parts = Popularity(ITEMS, 3_600.0), Popularity(ITEMS, 3_600.0)
    late.learn(USERS, TOUCHED, AT)
    parts.learn(USERS[:7], TOUCHED[:7], AT[:7])
    parts.learn(USERS[7:], TOUCHED[7:], AT[7:])
    scores = late.scores([[]], NEW, AT[-1])[0]
    assert scores[4:].min() > scores[:4].max()
    assert parts.scores([[]], NEW, AT[-1])[0] == pytest.approx(scores)


def test_a_text_profile_finds_items_that_share_words_and_no_others() -> None:
    """Red is with red; tea joins one of each side; the item itself has cosine 1."""
    scores = TextProfile(TEXTS).scores([[0], [2]], np.full(2, NOBODY), 0.0)
    assert scores[0, 0] == pytest.approx(1.0)
    assert scores[0, 1:4].min() > 0.0
    assert scores[0, 4:].max() == 0.0
    assert np.flatnonzero(scores[1, 4:] > 0).tolist() == [3]


def test_a_newer_touch_says_more_than_an_older_one() -> None:
    """The profile's order matters to both."""
    for own in (TextProfile(TEXTS), made()[2]):
        first, second = own.scores([[0, 5], [5, 0]], np.full(2, NOBODY), 0.0)
        assert first[6] > second[6]


def test_co_occurrence_learnt_in_parts_is_co_occurrence_learnt_at_once() -> None:
    """What was looked up before does not stay as it was."""
    parts = CoOccurrence(ITEMS)
    for start in range(0, len(USERS), 2):
        span = slice(start, start + 2)
        parts.learn(USERS[span], TOUCHED[span], AT[span])
        parts.scores([[0], [5]], np.full(2, NOBODY), 0.0)
    assert parts.scores([[0, 5]], NEW, 0.0) == pytest.approx(made()[2].scores([[0, 5]], NEW, 0.0))


def test_both_add_what_only_one_of_them_knows() -> None:
    """A new item that shares a word, and an item of another text that was touched together, each score above nothing."""
    texts = ["red cup", "red pot", "grey thing", "blue van"]
    both = Both(TextProfile(texts), CoOccurrence(4))
    both.learn(np.array([0, 0]), np.array([0, 2]), np.array([0.0, 1.0]))
    scores = both.scores([[0]], NEW, 0.0)[0]
    assert scores[1] > 0.0
    assert scores[2] == pytest.approx(1.0)
    assert scores[3] == 0.0
