"""Answer a trial: with a Personalizer, as a worker would, and with baselines, from the same events.

Knows no data set's format and no figure. Cases are answered in blocks of a minute of event time: each from its user's own
events up to its place, and from all other events up to the block's first case. So nothing of what is asked is ever known, and
what others did reaches a list a minute late at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoders import Encoder
from ranking.baselines import NOBODY, Baseline
from ranking.evaluate import NOTHING
from ranking.index import ItemIndex
from ranking.profile import key_of, new_profile, pack
from streams.building import load_encoder
from streams.catalogue import Catalogue, apply, text_hash
from streams.datasets import Dataset
from streams.messages import Event, Interaction, Item
from streams.personalizer import Personalizer, Sourced
from streams.pictures import pictures_of
from streams.reach import Reached
from streams.settings import Settings
from streams.signals import SignalCounter
from streams.trial import Case, Trial

BLOCK_S = 60.0
MOST = 256  # cases of a block
BATCH = 2_048  # events folded together, as a worker with a backlog does
SLICE = 512  # texts encoded between two reports of progress

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Answers:
    """The lists for a trial's cases, in their order, and how long they took.

    lists: (m, k) int64 numbers of the set's items, best first, NOTHING where a list is shorter; chances: (m, k) float32, the
    probabilities that the lists told, 0 where there is none; None for one that tells none.
    """

    name: str
    lists: NDArray[np.int64]
    chances: NDArray[np.float32] | None
    seconds: float


class Remembered:
    """An encoder that keeps what it encoded in a file, since one set is evaluated many times. `save` writes it."""

    def __init__(self, encoder: Encoder, folder: Path, variant: str = "") -> None:
        self._encoder = encoder
        self._path = folder / f"{encoder.id}{variant}.npz"
        self._kept: dict[str, NDArray[np.float32]] = {}
        if self._path.is_file():
            with np.load(self._path, allow_pickle=False) as file:
                self._kept = dict(zip(file["hashes"].tolist(), file["vectors"], strict=True))
        self.id, self.dim, self.reason = encoder.id, encoder.dim, encoder.reason
        self.pictures = pictures_of(encoder)  # of items; not kept

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (n, dim) float32 unit rows."""
        hashes = [text_hash(text) for text in texts]
        new = {key: text for key, text in zip(hashes, texts, strict=True) if key not in self._kept}
        self._kept.update(zip(new, self._encoder.encode(list(new.values())), strict=True))
        return np.stack([self._kept[key] for key in hashes]) if hashes else np.zeros((0, self.dim), np.float32)

    def save(self) -> None:
        """Write all that is known."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self._path.with_suffix(".new.npz")
        np.savez(scratch, hashes=np.array(list(self._kept)), vectors=np.stack(list(self._kept.values())))
        scratch.replace(self._path)


def remembered(settings: Settings) -> Remembered:
    """Return the encoder of the settings, which keeps what it encodes in the cache folder. Raises EncoderError."""
    return Remembered(load_encoder(settings), settings.cache_dir / "evaluated", f"-{settings.max_tokens}-{settings.dtype}")


def index_of(
    items: Sequence[Item], at: float, encoder: Encoder, settings: Settings, progress: Progress = lambda share: None
) -> ItemIndex:
    """Return an index of all items, published at one time (Unix seconds): a set does not tell when each came."""
    catalogue, index = Catalogue(encoder, settings.text_length), ItemIndex(encoder.dim, encoder.id)
    for start in range(0, len(items), SLICE):
        part = [(item, at) for item in items[start : start + SLICE]]
        apply(catalogue.vectors(part, index), index)
        progress((start + len(part)) / len(items))
    index.settle()
    return index


def blocks(cases: Sequence[Case]) -> Iterator[list[Case]]:
    """Yield the cases in order, those of BLOCK_S seconds together, MOST at most."""
    block: list[Case] = []
    for case in cases:
        if block and (len(block) == MOST or not 0 <= case.at - block[0].at < BLOCK_S):
            yield block
            block = []
        block.append(case)
    if block:
        yield block


# -- the product


class _Folded:
    """Profiles as they grow, and the interactions that the signals have not counted yet."""

    def __init__(self, personalizer: Personalizer) -> None:
        self._personalizer = personalizer
        self._counter = SignalCounter(personalizer.maker.signals)
        self._waiting: list[Interaction] = []
        self._records: dict[str, bytes] = {}
        self._offset = 0
        self._empty = pack(new_profile(personalizer.encoder.dim, key_of(personalizer.encoder.id)))

    def fold(self, events: Sequence[Event]) -> None:
        """Fold events into their users' profiles; what they say about items waits for `count`."""
        if not events:
            return
        batch = [Sourced(event, 0, self._offset + n) for n, event in enumerate(events)]
        self._offset += len(batch)
        before: Mapping[str, bytes | None] = {event.user_id: self._records.get(event.user_id) for event in events}
        folded = self._personalizer.fold(before, batch, self._personalizer.encode(events))
        self._records.update(folded.records)
        self._waiting.extend(folded.interactions)

    def count(self) -> None:
        """Let the signals know what was folded."""
        self._counter.count(self._waiting)
        self._waiting = []

    def forget_interactions(self) -> None:
        """Keep from the signals what was folded since they last knew."""
        self._waiting = []

    def record(self, user_id: str) -> bytes:
        return self._records.get(user_id, self._empty)


def ask_product(
    personalizer: Personalizer,
    trial: Trial,
    numbers: Mapping[str, int],
    k: int,
    name: str = "headrace",
    progress: Progress = lambda share: None,
    reached: Reached | None = None,
) -> Answers:
    """Answer a trial as workers do: fold, count, recommend. numbers: item id -> number. The lists are as the settings ask.

    reached: is asked what the sources find at the same moments; the seconds it takes do not count.
    """
    began = time.perf_counter()
    beside_s = 0.0
    folded = _Folded(personalizer)
    lists = np.full((len(trial.cases), k), NOTHING, np.int64)
    chances = np.zeros((len(trial.cases), k), np.float32)
    done = row = 0
    for block in blocks(trial.cases):
        for start in range(done, block[0].place, BATCH):
            folded.fold(trial.events[start : min(start + BATCH, block[0].place)])
            folded.count()
        done = max(done, block[0].place)
        folded.fold([event for case in block for event in case.history or ()])
        folded.forget_interactions() if block[0].history is not None else None
        records = {}
        for n, case in enumerate(block):
            folded.fold(trial.events[done : case.place])
            done = max(done, case.place)
            records[str(n)] = folded.record(case.user_id)
        for n, own in enumerate(personalizer.recommend(records, block[0].at).values()):
            for place, each in enumerate(own[:k]):
                lists[row + n, place], chances[row + n, place] = numbers[each.item_id], each.score
        if reached is not None:
            paused = time.perf_counter()
            reached.ask(personalizer, row, block, records, block[0].at)
            beside_s += time.perf_counter() - paused
        folded.count()
        row += len(block)
        progress(row / len(trial.cases))
    return Answers(name, lists, chances, time.perf_counter() - began - beside_s)


# -- the baselines


class _Histories:
    """What each user wanted, oldest first, and all that each user touched, as numbers of items."""

    def __init__(self, dataset: Dataset, numbers: Mapping[str, int]) -> None:
        self._dataset = dataset
        self._numbers = numbers
        self.users: dict[str, int] = {}
        self.wanted: dict[str, list[int]] = {}
        self.touched: dict[str, set[int]] = {}

    def add(self, events: Sequence[Event]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Add events; return users' numbers, items' numbers and times of those that wanted something."""
        found = []
        for event in events:
            number = self._numbers.get(event.item_id or "")
            if number is None:
                continue
            self.touched.setdefault(event.user_id, set()).add(number)
            if self._dataset.is_wanted(event):
                self.wanted.setdefault(event.user_id, []).append(number)
                found.append((self.users.setdefault(event.user_id, len(self.users)), number, float(event.at)))
        users, items, at = zip(*found, strict=True) if found else ((), (), ())
        return np.array(users, np.int64), np.array(items, np.int64), np.array(at, np.float64)


def ask_baseline(
    baseline: Baseline, trial: Trial, dataset: Dataset, k: int, *, masked: bool, progress: Progress = lambda share: None
) -> Answers:
    """Answer a trial with a baseline, over all items. masked: whether what the user touched is left out."""
    began = time.perf_counter()
    numbers = numbers_of(dataset)
    known = _Histories(dataset, numbers)
    lists = np.full((len(trial.cases), k), NOTHING, np.int64)
    done = row = 0
    for block in blocks(trial.cases):
        baseline.learn(*known.add(trial.events[done : block[0].place]))
        done = max(done, block[0].place)
        late, histories, touched = [], [], []
        for case in block:
            late.append(known.add(trial.events[done : case.place]))
            done = max(done, case.place)
            known.add(case.history or ())
            histories.append(list(known.wanted.get(case.user_id, ())))
            touched.append(list(known.touched.get(case.user_id, ())) if masked else [])
        users = np.array([known.users.get(case.person or case.user_id, NOBODY) for case in block])
        scores = baseline.scores(histories, users, block[0].at)
        for n, own in enumerate(touched):
            scores[n, own] = -np.inf
        lists[row : row + len(block)] = best(scores, k)
        for each in late:
            baseline.learn(*each)
        row += len(block)
        progress(row / len(trial.cases))
    return Answers(baseline.name, lists, None, time.perf_counter() - began)


def best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the numbers of the k best of each row, best first, NOTHING for -inf; of equal scores the lower number."""
    most = min(k, scores.shape[1])
    kept = np.argpartition(-scores, most - 1, axis=1)[:, :most]
    kept.sort(axis=1)
    order = np.argsort(-np.take_along_axis(scores, kept, axis=1), axis=1, kind="stable")
    top = np.take_along_axis(kept, order, axis=1)
    top[~np.isfinite(np.take_along_axis(scores, top, axis=1))] = NOTHING
    lists = np.full((len(scores), k), NOTHING, np.int64)
    lists[:, :most] = top
    return lists


def numbers_of(dataset: Dataset) -> dict[str, int]:
    """Return the number of each item, by its id: its place among the set's items."""
    return {item.item_id: number for number, item in enumerate(dataset.items)}
