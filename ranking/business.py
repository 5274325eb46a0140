"""Business rules: boost, bury, pin and exclude what a condition names, while a rule's time window is open.

Knows no model and no files. Rules act after the softmax: a list's scores stay the model's own, its order and reasons tell what
the rules did. Where rules contradict each other, exclude wins over pin, and an earlier pin over a later one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone, tzinfo
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ranking.conditions import Condition
from ranking.index import ItemIndex
from ranking.rules import PINNED

Action = Literal["boost", "bury", "pin", "exclude"]
MOST = 1_000.0  # all boosts and buries of an item together change its odds by no more than this factor
PIN_FROM = 50  # items that a pin may choose from, beside the user's candidates: the newest that it names
DAY_MIN = 1_440
PINNED_BY = "pinned: "  # how the reason of a pinned item begins, before the rule's name


@dataclass(frozen=True, slots=True)
class Window:
    """When a rule counts. start, until: Unix seconds, [start, until); hours: minutes of the zone's day, may pass midnight."""

    start: float = -math.inf
    until: float = math.inf
    hours: tuple[int, int] = (0, DAY_MIN)
    zone: tzinfo = timezone.utc

    def is_open(self, at: float) -> bool:
        """Tell whether a time (Unix seconds) lies in the window."""
        if not self.start <= at < self.until:
            return False
        first, last = self.hours
        if (first, last) == (0, DAY_MIN):
            return True
        local = datetime.fromtimestamp(at, self.zone)
        minute = local.hour * 60 + local.minute
        return first <= minute < last if first < last else minute >= first or minute < last


@dataclass(frozen=True, slots=True)
class BusinessRule:
    """One rule. factor: what boost (above 1) or bury (below 1) multiplies the odds by; place: of a pin, from 1.

    min_age_s, max_age_s: seconds since an item was first published, max_age_s is not in it.
    """

    name: str
    action: Action
    condition: Condition
    factor: float = 1.0
    place: int = 0
    min_age_s: float = 0.0
    max_age_s: float = math.inf
    window: Window = field(default_factory=Window)

    def at(self, index: ItemIndex, at: float, slots: NDArray[np.int64] | None = None) -> NDArray[np.bool_]:
        """Tell for which slots the rule is meant at a time: of all, (capacity,), or in the shape of `slots`."""
        marked, since = index.marked(self.condition), index.at
        if slots is not None:
            marked, since = marked[slots], since[slots]
        if self.min_age_s > 0.0 or self.max_age_s < math.inf:
            age_s = at - since
            marked = marked & (age_s < self.max_age_s) & (age_s >= self.min_age_s)
        return marked


def active(rules: Sequence[BusinessRule], at: float) -> Sequence[BusinessRule]:
    """Return the rules whose window is open at a time (Unix seconds)."""
    return [rule for rule in rules if rule.window.is_open(at)]


def excluded(rules: Sequence[BusinessRule], index: ItemIndex, at: float) -> NDArray[np.bool_] | None:
    """Tell which slots no list may hold, (capacity,) bool; None where no rule excludes anything."""
    masks = [rule.at(index, at) for rule in rules if rule.action == "exclude"]
    return np.logical_or.reduce(masks) if masks else None


def pinnable(rules: Sequence[BusinessRule], index: ItemIndex, at: float) -> NDArray[np.int64]:
    """Return the slots that pins may need, whoever the user is."""
    parts = [index.newest(PIN_FROM, rule.at(index, at)) for rule in rules if rule.action == "pin"]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Moved:
    """What the rules make of m users' c candidates.

    logit: (m, c) float32 with boosts and buries, -inf for what is left out, PINNED or more for what is pinned.
    pins: per user column -> (place, rule's name), in the order of places. moves: (words for the reason, (m, c) bool of whom).
    """

    logit: NDArray[np.float32]
    pins: list[dict[int, tuple[int, str]]]
    moves: list[tuple[str, NDArray[np.bool_]]]

    def arrange(self, user: int, columns: Sequence[int]) -> list[int]:
        """Return a user's columns with what is pinned at its place; further up where a list is too short for the place."""
        pins = self.pins[user]
        rest = [column for column in columns if column not in pins]
        for column, (place, _) in pins.items():
            rest.insert(place - 1, column)
        return rest

    def words(self, user: int, column: int) -> tuple[str, str]:
        """Return the reason that a rule gives to an item, and what rules add to its own one; "" where there is nothing."""
        if (pin := self.pins[user].get(column)) is not None:
            return f"{PINNED_BY}{pin[1]}", ""
        return "", "".join([f", {words}" for words, whom in self.moves if whom[user, column]])


def move(
    rules: Sequence[BusinessRule],
    logit: NDArray[np.float32],
    slots: NDArray[np.int64],
    temperature: float,
    index: ItemIndex,
    at: float,
) -> Moved:
    """Return what the rules make of the candidates. logit: (m, c), -inf for what may not stand in a list; it is not changed.

    A boost by f adds temperature * log f to the logit, which multiplies the odds of softmax(logit / temperature) by f.
    """
    nudges = np.zeros(logit.shape, np.float64)
    moves = []
    moved = logit.copy()
    for rule in rules:
        if rule.action == "exclude":
            moved[rule.at(index, at, slots)] = -np.inf
        elif rule.action != "pin":
            whom = rule.at(index, at, slots)
            nudges += math.log(rule.factor) * whom
            moves.append((f"{'boosted' if rule.action == 'boost' else 'buried'}: {rule.name}", whom))
    if moves:
        limit = math.log(MOST)
        moved += (temperature * np.clip(nudges, -limit, limit)).astype(np.float32)
    pins = [rule for rule in rules if rule.action == "pin"]
    return Moved(moved, _pin(pins, moved, slots, index, at), moves)


def _pin(
    rules: Sequence[BusinessRule], logit: NDArray[np.float32], slots: NDArray[np.int64], index: ItemIndex, at: float
) -> list[dict[int, tuple[int, str]]]:
    """Choose the best candidate for each pin, and lift it in `logit` above all others."""
    pinned: list[dict[int, tuple[int, str]]] = [{} for _ in logit]
    for rule in rules:
        fitting = np.where(rule.at(index, at, slots) & (logit < PINNED), logit, -np.inf)
        best = fitting.argmax(axis=1)
        for user in np.flatnonzero(np.isfinite(fitting[np.arange(len(best)), best])).tolist():
            column = int(best[user])
            pinned[user][column] = (_free(rule.place, [place for place, _ in pinned[user].values()]), rule.name)
            logit[user, column] = PINNED
    return [dict(sorted(own.items(), key=lambda pin: pin[1][0])) for own in pinned]


def _free(place: int, taken: Iterable[int]) -> int:
    """Return the place, or the next one that no earlier pin has."""
    while place in taken:
        place += 1
    return place
