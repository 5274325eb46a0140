"""Train the head that judges opinions, on texts that came with ratings; and tell what it is worth on texts held out.

Knows no formula of the head (`encoders/sentiment.py`). Texts rated in the lowest quarter of the scale are bad, those in the
highest quarter good (of five stars: one and two against four and five); what lies between is left out. A fifth is held out:
whole users where rows name them, else whole texts, by a hash, so that the same file is cut alike each time.

    ReviewError(ValueError)   a file without texts that are rated: says which columns are looked for
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders import Encoder, sentiment
from encoders.sentiment import SentimentHead
from ranking.evaluate import Interval
from streams.rows import rows
from streams.words import read

ENDS = 0.25  # share of the scale at each end that counts as bad and as good
HELD_OUT = 0.2
ROUNDS = 1_000
SLICE = 512  # texts encoded at once


class ReviewError(ValueError):
    """Reviews that nothing can be learnt from."""


class Review(NamedTuple):
    """A text that speaks well or ill. group: whose it is, or the text itself where nobody is named."""

    text: str
    is_good: bool
    group: str


class Trained(NamedTuple):
    """A head, and on the texts held out: its AUC and that of the cue words beside it, with 95 % intervals."""

    head: SentimentHead
    auc: Interval
    cues: Interval


def reviews_of(values: Iterable[Mapping[str, Any]], scale: tuple[float, float], text_length: int) -> tuple[list[Review], int]:
    """Return the reviews among rows with `text` and `rating` (and `user_id`), and how many rows were none or say neither."""
    low, high = scale
    made, left_out = [], 0
    for row in values:
        text, rating = str(row.get("text") or "").strip()[:text_length], _number(row.get("rating"))
        share = math.nan if rating is None else (rating - low) / (high - low)
        if text and (share <= ENDS or share >= 1.0 - ENDS):
            made.append(Review(text, share > 0.5, str(row.get("user_id") or text)))
        else:
            left_out += 1
    return made, left_out


def from_file(
    path: Path,
    scale: tuple[float, float],
    text_length: int,
    columns: Mapping[str, str],
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[list[Review], int]:
    """Return `reviews_of` a csv, jsonl or parquet file, an event log too. Raises RowError, ReviewError."""

    def values() -> Iterable[Mapping[str, Any]]:
        for row in rows(path, columns):
            progress(row.done)
            yield row.values

    made, left_out = reviews_of(values(), scale, text_length)
    if not made:
        raise ReviewError(
            f"{path}: none of {left_out} rows has a text and a rating at an end of {scale[0]:g}-{scale[1]:g}: "
            "name the columns with --map text=THEIRS --map rating=THEIRS, and the scale with HEADRACE_RATING_SCALE"
        )
    return made, left_out


def vectors_of(
    encoder: Encoder, texts: Sequence[str], progress: Callable[[float], None] = lambda share: None
) -> NDArray[np.float32]:
    """Return the vectors of texts, (n, dim), a slice at a time."""
    made = [np.zeros((0, encoder.dim), np.float32)]
    for start in range(0, len(texts), SLICE):
        made.append(encoder.encode(texts[start : start + SLICE]))
        progress(min(1.0, (start + SLICE) / len(texts)))
    return np.concatenate(made)


def train(reviews: Sequence[Review], vectors: NDArray[np.float32], encoder_id: str) -> Trained:
    """Return a head trained on four fifths of the reviews, judged on the rest. Raises HeadError.

    vectors: (n, dim), of the reviews' texts, in order.
    """
    good = np.array([review.is_good for review in reviews], np.bool_)
    held = np.array([is_held_out(review.group) for review in reviews], np.bool_)
    head = sentiment.fit(vectors[~held], good[~held], encoder_id)
    groups = np.unique([review.group for review in reviews], return_inverse=True)[1][held]
    if good[held].all() or not good[held].any():
        raise sentiment.HeadError(f"the {held.sum()} texts held out are all alike: give more reviews, of more users")
    auc = interval(head.probability(vectors[held]), good[held], groups)
    cues = interval(by_cues([review.text for review, out in zip(reviews, held, strict=True) if out]), good[held], groups)
    told = {**head.report, "held_out": int(held.sum()), "auc": auc.mean, "auc_of_cue_words": cues.mean}
    return Trained(replace(head, report=told), auc, cues)


def is_held_out(group: str) -> bool:
    """Tell whether the texts of a group are for judging only."""
    return int.from_bytes(blake2b(group.encode(), digest_size=4).digest(), "big") < HELD_OUT * 2**32


def by_cues(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return what the cue words alone say of each text: 1 or -1."""
    return np.array([read(text, "comment").opinion for text in texts], np.float32)


def interval(scores: NDArray[np.float32], is_good: NDArray[np.bool_], groups: NDArray[np.int64] | None = None) -> Interval:
    """Return the AUC and its 95 % bootstrap interval: whole groups are drawn, as the texts of one user go together."""
    place = np.arange(len(scores)) if groups is None else np.unique(groups, return_inverse=True)[1]
    rank = np.unique(scores, return_inverse=True)[1]
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(ROUNDS):
        times = np.bincount(rng.integers(0, place.max() + 1, place.max() + 1), minlength=place.max() + 1)[place]
        if times[is_good].any() and times[~is_good].any():
            drawn.append(_auc(rank, is_good, times))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(_auc(rank, is_good, np.ones(len(rank))), float(low), float(high))


def _auc(rank: NDArray[np.int64], is_good: NDArray[np.bool_], times: NDArray[np.number[Any]]) -> float:
    """Return the probability that a good text ranks above a bad one, ties counting half; each text counts so many times."""
    good = np.bincount(rank, times * is_good)
    bad = np.bincount(rank, times * ~is_good)
    return float(good @ (np.cumsum(bad) - bad / 2) / (good.sum() * bad.sum()))


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
