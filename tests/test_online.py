"""Learning while serving: steps on a copy, what they weigh, how far they can go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import NOW
from school import ITEMS, KNOWN, NEW, WIDTH, by_hand, lesson, lessons, world

from ranking import features
from ranking.bundle import sealed
from ranking.learned import CLIP, Learned, M, Ranker
from ranking.online import (
    CHANCE,
    LEAST,
    RESIDUAL,
    Example,
    Learner,
    OnlineError,
    Shown,
    Steps,
    Weights,
    _logits,
    example,
    write_down,
)
from streams.messages import Event
from streams.training import Replay

BASE = by_hand({KNOWN: 1.0})
BOTH = {KNOWN: 1.0, NEW: 1.5}
FAST = Steps(rate=5e-3, keep=0.5)  # some hundred examples are to show


def learner(steps: Steps | None = None) -> Learner:
    """Return a learner on the model that knows one feature of two."""
    return Learner(BASE, world().maker.index, steps or FAST)


def shown(slots: Sequence[int]) -> Shown:
    """Return candidates of whom nothing is known."""
    return Shown(
        np.zeros((len(slots), len(features.NAMES)), np.float16), np.array(slots, np.int32), np.zeros(WIDTH, np.float32)
    )


def test_what_users_do_is_learnt() -> None:
    """Users who pick by a feature that the model ignores teach it to count."""
    own, later = learner(), lessons(200, BOTH, seed=2)
    before = own.figures(later)
    own.learn(lessons(640, BOTH, seed=1))
    after = own.figures(later)
    assert after.loss.mean() < before.loss.mean() - 0.1
    assert after.ndcg.mean() > before.ndcg.mean()
    own.restart(BASE)
    assert own.figures(later).loss.mean() == pytest.approx(before.loss.mean())


def test_a_proposal_is_a_model_of_its_own_and_ranks_as_it_was_judged() -> None:
    """The proposed bundle costs what the learner said, names where it is from, and leaves everything else as it was."""
    own, later = learner(), lessons(50, BOTH, seed=2)
    own.learn(lessons(128, BOTH, seed=1))
    made = own.proposal()
    np.testing.assert_allclose(own.figures(later, made).loss, own.figures(later).loss)
    assert made.head.version != BASE.head.version
    assert made.head.report["online"]["from"] == BASE.head.version
    changed = {name for name, value in made.tensors.items() if not np.array_equal(value, BASE.tensors[name])}
    assert changed == {RESIDUAL, *(M + name for name in ("w", "w1", "b1", "w2", "b2", "w3"))}


def test_the_same_examples_give_the_same_model() -> None:
    """In the same order with the same seed, to the last bit."""
    made = []
    for seed in (1, 1, 2):
        own = learner(replace(FAST, seed=seed))
        own.learn(lessons(192, BOTH, seed=1))
        made.append(own.proposal().head.version)
    assert made[0] == made[1] != made[2]


def test_the_learner_ranks_by_the_form_that_serves() -> None:
    """Its logits are those of the ranker in service, also where features lie outside of the range that is cut."""
    own = learner()
    own.learn(lessons(128, BOTH, seed=1))
    made = own.proposal()
    rng = np.random.default_rng(1)
    named = rng.normal(0, CLIP, (3, 7, len(features.NAMES))).astype(np.float32)
    crossed = rng.normal(size=(3, 7, WIDTH)).astype(np.float32)
    named[:, :, features.NAMES.index("tower")] = crossed.sum(axis=2)
    served = Ranker({name[len(M) :]: np.asarray(value) for name, value in made.tensors.items() if name.startswith(M)})
    ours = _logits(Weights.of(made).m, torch.from_numpy(named), torch.from_numpy(crossed)).numpy()
    np.testing.assert_allclose(ours, served.logits(named, crossed), rtol=1e-3, atol=1e-4)


def test_no_single_step_shows() -> None:
    """What is proposed is a mean that begins at the version in service: the first step counts a fiftieth in it."""
    steps = Steps(passes=1)
    own = learner(steps)
    own.learn(lessons(steps.batch, BOTH, seed=1))
    assert own.taken == 1
    moved = np.abs(own.proposal().tensors[M + "w"] - BASE.tensors[M + "w"]).max()
    assert 0.0 < moved <= 1.01 * (1.0 - steps.keep) * steps.rate


def test_a_burst_carries_a_model_a_bounded_way() -> None:
    """However loud it is, a weight moves by its rate a step at most, and a residual stays within reach."""
    steps = replace(FAST, rate=1e-3, residual_rate=0.05, reach=0.1)
    own = learner(steps)
    own.learn(lessons(640, {}, seed=1, name="bot", wants=7))
    made = own.proposal()
    for name in ("w", "w1", "w3"):
        assert np.abs(made.tensors[M + name] - BASE.tensors[M + name]).max() <= 1.1 * own.taken * steps.rate
    moved = np.linalg.norm(made.tensors[RESIDUAL] - BASE.tensors[RESIDUAL], axis=1)
    assert moved[8] == pytest.approx(0.1, abs=1e-3)  # what the burst wants is carried to the bound
    assert moved.max() <= 0.1001
    assert moved[0] == 0.0  # of items without one


def test_one_user_and_one_item_have_a_share_at_most() -> None:
    """A thousand lessons of one user, or of many on one item, move the model less than lessons of as many users and items."""

    def moved(examples: list[Example]) -> float:
        own = learner()
        own.learn([each for pair in zip(examples, lessons(320, {KNOWN: 1.0}, seed=3), strict=True) for each in pair])
        gap = own.proposal().tensors[M + "w"] - BASE.tensors[M + "w"]
        return float(np.abs(gap[features.NAMES.index(NEW)]))

    rng = np.random.default_rng(1)
    apart = moved([lesson(rng, f"a{n}", {NEW: 9.0}) for n in range(320)])
    assert moved([lesson(rng, "loud", {NEW: 9.0}) for _ in range(320)]) < 0.7 * apart


def test_a_user_can_be_forgotten() -> None:
    """Nothing of a user is remembered, whether it was learnt from or waits."""
    own = learner()
    own.learn([lesson(np.random.default_rng(n), "ann" if n % 2 else f"u{n}", BOTH) for n in range(100)])
    own.forget("ann")
    remembered = [*own._memory, *own._waiting]
    assert remembered
    assert all(each.user_id != "ann" for each in remembered)
    assert "ann" not in own._users


class TestExample:
    """What a touch says about a list."""

    def test_places_below_the_touched_one_are_discounted(self) -> None:
        """Whoever took the second place saw the first; each place below counts less, and what was not in the list least."""
        made = example("u", NOW, shown([5, 6, 7, 8, 9]), 6, [5, 6, 7, 8], {}, unseen=0.5)
        assert made is not None
        assert made.slot == 6
        np.testing.assert_allclose(made.against, [1.0, 1.0, 0.5, 0.25, 0.125])
        far = example("u", NOW, shown([5, 6, 9]), 5, [5, *range(10, 30)], {}, unseen=0.5)
        assert far is not None
        assert far.against[2] == np.float32(LEAST)

    def test_a_touch_from_elsewhere_says_nothing_of_where_the_user_looked(self) -> None:
        """All candidates count alike when the touched one did not stand in the list."""
        made = example("u", NOW, shown([5, 6, 7]), 7, [5, 6], {7: 0.1})
        assert made is not None
        assert made.against.tolist() == [1.0, 1.0, 1.0]
        assert made.weight == 1.0

    def test_what_was_no_candidate_teaches_nothing(self) -> None:
        """A touch of something that was not ranked is no example."""
        assert example("u", NOW, shown([5, 6]), 9, [5, 6], {}) is None

    def test_what_was_shown_by_chance_counts_for_as_many_as_it_stands_for(self) -> None:
        """By the inverse of its propensity, which is clipped."""
        half, rare = (example("u", NOW, shown([5, 6]), 5, [5], {5: chance}) for chance in (0.5, 0.01))
        assert half is not None
        assert rare is not None
        assert (half.weight, rare.weight) == (2.0, CHANCE)


def test_lists_are_written_down_as_they_are_ranked() -> None:
    """What is written down of a user's candidates gives the ranker's own order, and what was shown by chance is among them."""
    personalizer = world()
    personalizer.use(Learned(BASE, personalizer.maker.index))
    replay = Replay(personalizer)
    replay.fold([(n, Event(event_id=f"{n}", user_id=f"u{n}", type="click", at=NOW, item_id=ITEMS[n])) for n in range(3)])
    profiles = replay.profiles(list(replay.records))
    own = learner()
    for made, ranked in zip(
        write_down(personalizer.maker, profiles, NOW), personalizer.maker.lists(profiles, NOW), strict=True
    ):
        best = personalizer.maker.index.slot(ranked[0].item_id)
        first = example("u", NOW, made, best, [], {})
        assert first is not None
        assert own.figures([first]).ndcg[0] == 1.0


def test_equals_share_their_places() -> None:
    """A model that tells nothing apart is not taken for one that ranks everything first."""
    own = Learner(by_hand({}), world().maker.index)
    alike = example("u", NOW, shown(range(20)), 3, [], {})
    assert alike is not None
    np.testing.assert_allclose(own.figures([alike]).ndcg, [1.0 / np.log2(9.5 + 2.0)], rtol=1e-6)


def test_a_model_without_a_ranker_is_refused() -> None:
    """The zero-shot model, and a bundle without M, say what to do."""
    with pytest.raises(OnlineError, match="headrace train"):
        write_down(world().maker, [], NOW)
    bare = sealed(BASE.head, BASE.items, {name: value for name, value in BASE.tensors.items() if not name.startswith(M)})
    with pytest.raises(OnlineError, match="train it again"):
        Learner(bare, world().maker.index)
