"""The gate: what comes through, how often by luck, and what a crowd can do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import NOW
from school import FALSE, KNOWN, NEW, by_hand, lessons, world

from ranking.gate import OF_ONE_ITEM, Verdict, compare, trimmed
from ranking.online import Example, Steps
from ranking.rounds import Plan, Round, Rounds

BASE = by_hand({KNOWN: 1.0})
BOTH = {KNOWN: 1.0, NEW: 1.5}
PLAN = Plan(round_s=200, users=40, steps=Steps(batch=32, passes=1, rate=1e-2, residual_rate=0.2, keep=0.5))


def verdict(gains: NDArray[np.float64], ndcg: NDArray[np.float64] | None = None) -> Verdict:
    """Return the verdict on one list each of as many users, who all wanted something else."""
    n = len(gains)
    return compare([f"u{i}" for i in range(n)], list(range(n)), gains, np.zeros(n) if ndcg is None else ndcg)


def test_no_better_version_comes_through_seldom() -> None:
    """Of versions that gain nothing at most a twentieth is taken for better, with votes as heavy-tailed as real ones."""
    rng = np.random.default_rng(1)
    passed = sum(verdict(rng.standard_t(3, 120)).outcome == "better" for _ in range(600))
    assert passed <= 600 * 0.05


def test_a_clear_gain_and_a_clear_loss_are_told() -> None:
    """Better, worse, and unclear in between; a version that ranks worse is worse whatever the log-loss says."""
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.1, 200)
    assert verdict(noise + 0.05).outcome == "better"
    assert verdict(noise - 0.05).outcome == "worse"
    assert verdict(noise - noise.mean()).outcome == "unclear"
    assert verdict(noise + 0.05, noise - 0.05).outcome == "worse"
    assert verdict(noise[:50] + 1.0).outcome == "unclear"


def test_a_loud_minority_does_not_carry_the_vote() -> None:
    """Where the mean says better for a sixth who gain much, and the others lose a little, the version is worse."""
    rng = np.random.default_rng(1)
    gains = np.concatenate([rng.normal(5, 1, 35), rng.normal(-0.05, 0.1, 165)])
    assert gains.mean() > 0.5
    assert verdict(gains).outcome == "worse"


def test_a_crowd_at_one_item_has_a_share_of_the_votes() -> None:
    """Half of the users want one item: a twentieth of all is heard of them."""
    n = 400
    gains = np.concatenate([np.full(n // 2, 5.0), np.random.default_rng(1).normal(-0.05, 0.1, n // 2)])
    wanted = [0] * (n // 2) + list(range(1, n // 2 + 1))
    made = compare([f"u{i}" for i in range(n)], wanted, gains, np.zeros(n))
    assert made.users == n // 2 + int(OF_ONE_ITEM * n)
    assert made.outcome == "worse"


def test_a_user_has_one_vote() -> None:
    """However many lists are of one user."""
    users = ["loud"] * 500 + [f"u{i}" for i in range(120)]
    gains = np.concatenate([np.full(500, 9.0), np.random.default_rng(1).normal(-0.05, 0.1, 120)])
    made = compare(users, list(range(620)), gains, np.zeros(620))
    assert (made.users, made.outcome) == (121, "worse")


@given(st.lists(st.floats(-1e3, 1e3), min_size=10, max_size=60), st.floats(1e4, 1e6))
def test_one_vote_moves_the_mean_no_further_than_the_others_reach(votes: list[float], loud: float) -> None:
    """A vote beyond all others changes the trimmed mean as one at their end would."""
    assert trimmed(np.array([*votes, loud])).mean <= max(votes) + 1e-9
    bound = trimmed(np.array(votes))
    assert bound.low <= bound.mean <= bound.high


def play(rounds: Rounds, examples: list[Example]) -> list[Round]:
    """Return the rounds that examples make, one after the other."""
    return [ended for each in examples if (ended := rounds.take([each])) is not None]


def mean_loss(rounds: Rounds, version: str | None = None) -> float:
    """Return what later lessons cost the version in service, or the first one."""
    later = lessons(300, BOTH, seed=99)
    return float(rounds.learner.figures(later, rounds.base if version == "base" else rounds.service).loss.mean())


def test_a_gain_comes_into_service() -> None:
    """Where users pick by more than the model knows, a version comes through, and later users are served better."""
    rounds = Rounds(BASE, world().maker.index, PLAN)
    ended = play(rounds, lessons(800, BOTH, seed=1))
    assert "better" in [each.verdict.outcome for each in ended]
    assert rounds.service.head.version == [each.chosen.head.version for each in ended if each.chosen][-1]
    assert mean_loss(rounds) < mean_loss(rounds, "base") - 0.1


@pytest.mark.parametrize("bots", [{"wants": 7, "weights": {}}, {"weights": {KNOWN: -9.0, FALSE: 9.0}}], ids=["item", "taste"])
def test_poison_does_not_come_into_service(bots: dict[str, Any]) -> None:
    """Bots on one item, or against everybody's taste: unguarded the model gets worse, and no such version comes through."""
    people = lessons(1_000, {KNOWN: 1.0}, seed=1)
    burst = lessons(80, seed=2, name="bot", **bots)
    mixed = people[:140] + [each for n in range(80) for each in (*people[140 + 9 * n : 149 + 9 * n], burst[n])] + people[860:]
    in_order = [replace(each, at=NOW + second) for second, each in enumerate(mixed)]
    later = lessons(300, {KNOWN: 1.0}, seed=99)
    rounds = Rounds(BASE, world().maker.index, PLAN)
    unguarded = rounds.learner.__class__(BASE, world().maker.index, PLAN.steps)
    unguarded.learn(in_order[:940])
    assert unguarded.figures(later).loss.mean() > unguarded.figures(later, BASE).loss.mean() + 0.02
    assert len(play(rounds, in_order)) >= 4
    assert rounds.learner.figures(later, rounds.service).loss.mean() <= rounds.learner.figures(later, BASE).loss.mean() + 0.01


def test_a_version_that_came_through_by_luck_leaves_again() -> None:
    """When the version in service is worse than the one that an operator put there, the latter takes the place back."""
    rounds = Rounds(BASE, world().maker.index, PLAN)
    bad = by_hand({KNOWN: -1.0})
    rounds.service = bad
    rounds.learner.restart(bad)
    rounds.learner.steps = Steps(batch=100_000)  # nothing is learnt meanwhile
    (ended,) = play(rounds, lessons(250, {KNOWN: 2.0}, seed=1))
    assert ended.back is not None
    assert ended.back.outcome == "better"
    assert ended.chosen is BASE is rounds.service


def test_who_is_held_out_is_not_learnt_from_in_that_round() -> None:
    """And is learnt from after it; another round holds out others."""
    rounds = Rounds(BASE, world().maker.index, PLAN)
    own = lessons(190, BOTH, seed=1)
    play(rounds, own)
    held = {each.user_id for each in rounds._held}
    learnt = {each.user_id for each in [*rounds.learner._memory, *rounds.learner._waiting]}
    assert not held & learnt
    assert len(held | learnt) == 190
    assert 0.2 < len(held) / 190 < 0.5
    rounds.number += 1
    assert {each.user_id for each in own if rounds._is_held(each.user_id)} != held
