"""What the texts of events say, in vectors: the heavy part of a step.

Knows no users, profiles or items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from encoders import Encoder
from encoders.sentiment import SentimentHead
from streams import questions
from streams.messages import ASK, Event
from streams.words import Reading, Said, read

STATED = "comment"  # the kind of what a text states, whatever event it came with


@dataclass(frozen=True, slots=True)
class Readings:
    """What the texts of n events say. opinions: n in [-1, 1]; vectors: (t, dim) float32; said[j] is of event rows[j]."""

    opinions: list[float]
    rows: list[int]
    said: list[Said]
    vectors: NDArray[np.float32]
    cut: int


def read_all(events: Sequence[Event], encoder: Encoder, head: SentimentHead | None, text_length: int) -> Readings:
    """Return what the events' texts say. head: judges opinions, the cue words do where it is None.

    Whatever the encoder raises passes through.
    """
    opinions: list[float] = []
    rows: list[int] = []
    said: list[Said] = []
    cut = 0
    for row, event in enumerate(events):
        text = event.text or ""
        cut += len(text) > text_length
        reading = _read(text[:text_length], event.type, is_judged=head is not None)
        opinions.append(reading.opinion)
        rows.extend([row] * len(reading.said))
        said.extend(reading.said)
    readings = Readings(opinions, rows, said, encoder.encode([each.text for each in said]), cut)
    return readings if head is None else _judged(readings, head)


def _read(text: str, kind: str, *, is_judged: bool) -> Reading:
    if kind == ASK:
        return Reading(1, (Said(questions.read(text).words, kind, 1),))
    return read(text, kind, is_judged=is_judged)


def _judged(readings: Readings, head: SentimentHead) -> Readings:
    """Return the readings with the head's opinions, and without what is stated of things that are not thought well of."""
    stated = [place for place, said in enumerate(readings.said) if said.kind == STATED]
    opinions = list(readings.opinions)
    for place, opinion in zip(stated, head.opinions(readings.vectors[stated]).tolist(), strict=True):
        opinions[readings.rows[place]] = opinion
    kept = [place for place, said in enumerate(readings.said) if said.kind != STATED or opinions[readings.rows[place]] > 0]
    return replace(
        readings,
        opinions=opinions,
        rows=[readings.rows[place] for place in kept],
        said=[readings.said[place] for place in kept],
        vectors=readings.vectors[kept],
    )
