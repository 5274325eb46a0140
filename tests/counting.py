"""A personalizer that only counts, so that a lost event and one counted twice both show; and a worker that runs it.

A profile is the number of a user's events and the newest offset per partition; a list names that number. Run as a program, it
is a worker with the settings of the environment. Words in an event's text make it fail in ways that tests ask for.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ranking.profile import RecordError
from streams.messages import Event, Interaction, RecommendedItem
from streams.personalizer import Folded, Sourced

BAD_TEXT, BAD_FOLD, SLOW = "cannot be encoded", "cannot be folded", float(os.environ.get("COUNTING_SLOW_S", "0"))


class Counted(NamedTuple):
    """What the encoder read: nothing."""

    cut: int = 0


class CountingPersonalizer:
    """Counts events per user. Has the interface of `streams.personalizer.Personalizer`."""

    model = "counting"
    named_models: frozenset[str] = frozenset()

    def made_by(self, user_id: str) -> tuple[str, str | None]:
        return self.model, None

    def encode(self, events: Sequence[Event]) -> Any:
        if any(event.text == BAD_TEXT for event in events):
            raise ValueError("the encoder choked")
        time.sleep(SLOW)
        return Counted()

    def fold(self, records: Mapping[str, bytes | None], batch: Sequence[Sourced], readings: Any) -> Folded:
        profiles = {user: unpacked(record) for user, record in records.items()}
        changed: set[str] = set()
        interactions: list[Interaction] = []
        for event, partition, offset in batch:
            if event.text == BAD_FOLD:
                raise ValueError("the fold choked")
            profile = profiles[event.user_id]
            if event.item_id:
                interactions.append(touch(event, partition, offset))
            if offset > profile["marks"].get(str(partition), -1):
                profile["marks"][str(partition)] = offset
                profile["count"] += 1
                changed.add(event.user_id)
        folded = {user: json.dumps(profiles[user]).encode() for user in changed}
        return Folded(folded, interactions, len(changed), 0)

    def is_counted(self, record: bytes, partition: int, offset: int) -> bool:
        return bool(offset <= unpacked(record)["marks"].get(str(partition), -1))

    def asked(self, batch: Sequence[Sourced], readings: Any) -> dict[str, Any]:
        return {}

    def recommend(
        self, records: Mapping[str, bytes], at: float, asked: Mapping[str, Any]
    ) -> dict[str, tuple[RecommendedItem, ...]]:
        return {user: (RecommendedItem(f"n{unpacked(record)['count']}", 1.0, "counted"),) for user, record in records.items()}


def touch(event: Event, partition: int, offset: int) -> Interaction:
    """Return what an event says about its item."""
    return Interaction(item_id=str(event.item_id), after=(), weight=1.0, at=float(event.at), source=(partition, offset))


def unpacked(record: bytes | None) -> dict[str, Any]:
    """Return a profile's count and marks."""
    if record and not record.startswith(b"{"):
        raise RecordError("the profile is of another encoder")
    return json.loads(record) if record else {"count": 0, "marks": {}}


def build(*parts: Any) -> Any:
    """Stand in for `streams.building.build`."""
    return CountingPersonalizer()


if __name__ == "__main__":
    from streams import settings, worker

    worker.STOP_S = float(os.environ.get("COUNTING_STOP_S", worker.STOP_S))
    sys.exit(worker.run_worker(settings.load(), build))
