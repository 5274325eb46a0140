"""Rounds of learning: some users are held out of each, and at its end what was learnt has to beat the version in service.

Knows no events, topics or clock: examples come in, and `at` with them. Who is held out is drawn anew for each round, by a hash
of the user's id, and is learnt from once the round is over: so the test is always on the newest minutes, on users from whom
nothing of those minutes was learnt, and nothing is wasted.

At the end of a round the learnt version is better (it is to be published), unclear (it is learnt on) or worse (it is dropped,
with what it was learnt from and what was held out meanwhile). One that was let through by luck does not stay: the version that
an operator put into service, `base`, has its chance each round, and takes the place back where it is better.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from ranking.bundle import Bundle
from ranking.gate import FEWEST, RISK, Verdict, compare
from ranking.index import ItemIndex
from ranking.online import Example, Learner, Steps

HELD_OUT = 3  # one of so many users


@dataclass(frozen=True, slots=True)
class Plan:
    """How rounds go. round_s: of the lists' time, the least; risk: of the test; users: held out, the least; held: lists."""

    round_s: float = 1_800.0
    risk: float = RISK
    users: int = FEWEST
    held: int = 1_500
    steps: Steps = field(default_factory=Steps)


class Round(NamedTuple):
    """What a round came to. proposed, chosen: versions; chosen is None where the one in service stays. back: of `base`."""

    number: int
    proposed: str
    verdict: Verdict
    back: Verdict | None
    chosen: Bundle | None


class Rounds:
    """Learning on a model in rounds. is_free: whether every version is chosen, to see what the test is good for."""

    def __init__(self, base: Bundle, index: ItemIndex, plan: Plan | None = None, *, is_free: bool = False) -> None:
        """Start from a model over an index. Raises OnlineError, BundleError."""
        self.plan = plan or Plan()
        self.is_free = is_free
        self.base = self.service = base
        self.learner = Learner(base, index, self.plan.steps)
        self.number = 1
        self._held: deque[Example] = deque(maxlen=self.plan.held)
        self._since: float | None = None

    def serve(self, base: Bundle) -> None:
        """Start anew from a version that somebody else put into service."""
        self.base = self.service = base
        self.learner.restart(base)
        self._held.clear()
        self._since = None

    def forget(self, user_id: str) -> None:
        """Remember nothing of a user."""
        self.learner.forget(user_id)
        self._held = deque([each for each in self._held if each.user_id != user_id], self.plan.held)

    def take(self, examples: Sequence[Example]) -> Round | None:
        """Learn from examples, or hold them out; return the round that has ended with them."""
        self.learner.learn(each for each in examples if not self._is_held(each.user_id))
        self._held.extend(each for each in examples if self._is_held(each.user_id))
        newest = max((each.at for each in examples), default=None)
        if newest is None:
            return None
        self._since = newest if self._since is None else self._since
        is_long = newest - self._since >= self.plan.round_s
        if not is_long or len({each.user_id for each in self._held}) < self.plan.users:
            return None
        self._since = newest
        return self._end()

    def _is_held(self, user_id: str) -> bool:
        return blake2b(f"{self.number}/{user_id}".encode(), digest_size=4).digest()[0] % HELD_OUT == 0

    def _end(self) -> Round:
        proposed = self.learner.proposal()
        verdict = self._test(proposed, self.service)
        back, chosen = None, None
        if verdict.outcome == "better" or self.is_free:
            chosen = proposed
        elif self.service is not self.base:
            back = self._test(self.base, self.service)
            chosen = self.base if back.outcome == "better" else None
        held = list(self._held)
        self._held.clear()
        ended = Round(self.number, proposed.head.version, verdict, back, chosen)
        self.number += 1
        self._go_on(ended, proposed)
        if verdict.outcome != "worse" or self.is_free:
            self.learner.learn(held)
        return ended

    def _go_on(self, ended: Round, proposed: Bundle) -> None:
        self.service = ended.chosen or self.service
        if ended.chosen is proposed:
            self.learner.accepted(proposed)
        elif ended.chosen is not None or ended.verdict.outcome == "worse":
            self.learner.restart(self.service)

    def _test(self, new: Bundle, old: Bundle) -> Verdict:
        held = list(self._held)
        ours, theirs = self.learner.figures(held, new), self.learner.figures(held, old)
        return compare(
            [each.user_id for each in held],
            [each.slot for each in held],
            theirs.loss - ours.loss,
            ours.ndcg - theirs.ndcg,
            risk=self.plan.risk,
            fewest=self.plan.users,
        )
