"""A worker as a process of its own whose encoder fails while a file is there, and that can be told to break one of the rules.

`python -m benchmarks.unruly [RULE]` reads its settings from the environment, as `headrace worker` does. It shows that the
harness of `benchmarks.chaos` catches a worker that loses events, counts them twice, or tells nobody.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ranking import profile
from streams import batching, building, personalize, personalizer, settings
from streams.worker import run_worker

FAILS = "UNRULY_FAILS"  # names the file while which is there the encoder fails


class Failing:
    """An encoder that raises while the file is there."""

    def __init__(self, encoder: Any, flag: Path) -> None:
        self._encoder, self._flag = encoder, flag
        self.id, self.dim, self.reason = encoder.id, encoder.dim, encoder.reason

    def encode(self, texts: Sequence[str]) -> Any:
        """Return what the encoder returns."""
        if self._flag.exists():
            raise RuntimeError("the encoder was told to fail")
        return self._encoder.encode(texts)


def build(encoder: Any, *more: Any) -> personalizer.Personalizer:
    """Stand in for `streams.building.build`."""
    flag = os.environ.get(FAILS)
    return building.build(Failing(encoder, Path(flag)) if flag else encoder, *more)


def acknowledge_early() -> None:
    """Acknowledge a batch two seconds before it is sent."""
    send = personalize.Personalize.send

    async def early(self: Any, batch: Any, applied: Any) -> Any:
        self.desk.outbox._app.consumer.acknowledge(self.desk.topics.events.name, batch.ends())
        await asyncio.sleep(2.0)
        return await send(self, batch, applied)

    personalize.Personalize.send = early  # type: ignore[method-assign]


def ignore_offsets() -> None:
    """Fold what was folded before."""
    admits = profile._Draft.admits

    def always(self: Any, update: Any) -> bool:
        self.watermarks = {**self.watermarks, update.partition: -1}
        key = update.event_key.to_bytes(8, "little")
        self.event_keys = self.event_keys.replace(key, b"")
        return admits(self, update)

    profile._Draft.admits = always  # type: ignore[method-assign]


def skip_changelog() -> None:
    """Leave one user in four out of the changelog, and all out of the worker's own files."""
    send = batching.Outbox.send

    async def without(self: Any, records: Sequence[Any]) -> Any:
        kept = [each for each in records if not each.topic.endswith("-changelog") or sum(each.key) % 4]
        return await send(self, kept)

    async def finish(self: Any, batch: Any, sent: Any) -> None:
        await batching.acknowledged(sent.acks)
        self._count(sent.stepped)

    batching.Outbox.send = without  # type: ignore[method-assign]
    personalize.Personalize.finish = finish  # type: ignore[method-assign]


def silence() -> None:
    """Publish every second list only."""
    published = personalize.Personalize._published

    def some(self: Any, batch: Any, lists: Mapping[str, Any], records: Mapping[str, Any], at: float) -> Any:
        return published(self, batch, lists, records, at)[::2]

    personalize.Personalize._published = some  # type: ignore[method-assign]


def step_over_holes() -> None:
    """Lose some of what is fetched, and look at no hole in the offsets."""
    from streams.inlet import Inlet, OffsetGuard

    put = Inlet.put

    def leaky(self: Any, records: Sequence[Any]) -> None:
        put(self, [record for record in records if record.offset % 50] or records)

    Inlet.put = leaky  # type: ignore[method-assign]
    OffsetGuard.holes = lambda self, records: []  # type: ignore[method-assign]


RULES: dict[str, Callable[[], None]] = {
    "acknowledge-early": acknowledge_early,
    "ignore-offsets": ignore_offsets,
    "skip-changelog": skip_changelog,
    "silence": silence,
    "step-over-holes": step_over_holes,
}


if __name__ == "__main__":
    for rule in sys.argv[1:]:
        RULES[rule]()
    sys.exit(run_worker(settings.load(), build))
