"""Evaluate what the product recommends on a data set, beside baselines: the same events, cases and figures for all.

Knows no file and no terminal. The product is asked through its Personalizer, the same code that serves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders import Encoder
from ranking import evaluate
from ranking.baselines import Baseline, Both, CoOccurrence, Popularity, TextProfile
from ranking.bundle import Bundle
from ranking.evaluate import Each, Interval
from ranking.index import ItemIndex
from ranking.learned import Learned
from ranking.signals import Signals, SignalSettings
from streams.answers import Answers, Progress, ask_baseline, ask_product, numbers_of
from streams.building import build
from streams.catalogue import item_text
from streams.datasets import Dataset
from streams.personalizer import Personalizer
from streams.reach import Reach, Reached
from streams.settings import Settings, load
from streams.trial import Trial

CANDIDATES = 200
PRODUCT = "headrace"
FIGURES = ("recall", "ndcg", "mrr", "hit")
KNOWN = (("0", 0, 0), ("1", 1, 1), ("2", 2, 2), ("3-5", 3, 5), ("6+", 6, np.inf))  # items of the history: label, least, most
UNSEEN, SEEN = "unseen", "seen"

Make = Callable[[Encoder, Settings, ItemIndex, Signals], Personalizer]
Baselines = Callable[[Dataset], Sequence[Baseline]]


class Bucket(NamedTuple):
    """The figures of a part of the cases."""

    cases: int
    recall: Interval
    ndcg: Interval


@dataclass(frozen=True)
class Row:
    """One recommender's figures.

    means: recall, ndcg, mrr, hit; overall: coverage, gini, novelty, diversity, and calibration_error where it tells
    probabilities (`ranking/evaluate.py` says what each is); by_known, by_age: buckets by the length of the user's history, and
    by whether the wanted item was touched in training; ahead: how far the product is ahead of it, paired.
    """

    name: str
    means: Mapping[str, Interval]
    overall: Mapping[str, float]
    by_known: Mapping[str, Bucket]
    by_age: Mapping[str, Bucket]
    seconds: float
    ahead: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What one trial found. rows: the product first. masked: whether what the user touched was left out of the lists.

    parts: the product with a part of its model left out, by what is left out.
    reach, candidates, reach_cases: what the product's sources of candidates find (`streams/reach.py`); empty if not asked.
    """

    dataset: str
    protocol: str
    part: str
    k: int
    masked: bool
    cases: int
    known_events: int
    items: int
    model: str
    rows: Sequence[Row]
    parts: Sequence[Row] = ()
    reach: Mapping[str, float] = field(default_factory=dict)
    candidates: float = 0.0
    reach_cases: int = 0


def settings_for(dataset: Dataset, k: int, *, masked: bool) -> Settings:
    """Return the environment's settings, for lists of k that are judged by relevance alone: no diversity is asked for."""
    return load(
        list_size=k,
        candidates=max(CANDIDATES, k),
        diversity=0.0,
        rating_scale=dataset.rating_scale,
        seen_types=None if masked else (),
    )


def with_model(model: Bundle | None) -> Make:
    """Return what builds a Personalizer that ranks with a model, or without one. Raises BundleError for another encoder's."""
    if model is None:
        return build

    def make(encoder: Encoder, settings: Settings, index: ItemIndex, signals: Signals) -> Personalizer:
        personalizer = build(encoder, settings, index, signals)
        personalizer.use(Learned(model, index))
        return personalizer

    return make


def run(
    dataset: Dataset,
    trial: Trial,
    settings: Settings,
    encoder: Encoder,
    index: ItemIndex,
    *,
    masked: bool,
    baselines: Baselines,
    make: Make = build,
    also: Mapping[str, Make] | None = None,
    parts: Mapping[str, Make] | None = None,
    sources: bool = False,
    progress: Progress = lambda share: None,
) -> Verdict:
    """Ask the product and the baselines the same, and judge all of them.

    also: the product in other forms, by name. parts: the same, for rows that the verdict holds apart. sources: whether to
    measure what the product's sources of candidates find, too.
    """
    numbers, k = numbers_of(dataset), settings.list_size
    forms = {PRODUCT: make, **(also or {}), **(parts or {})}
    others = baselines(dataset)
    reached = Reached(trial) if sources else None
    answers: list[Answers] = []
    models: list[str] = []

    def part(share: float) -> None:
        progress((len(answers) + share) / (len(forms) + len(others)))

    for name, form in forms.items():
        personalizer = form(encoder, settings, index, _signals(settings))  # one at a time: each holds a model's tables
        models.append(personalizer.model)
        asked = reached if name == PRODUCT else None
        answers.append(ask_product(personalizer, trial, numbers, k, name, part, asked))
    for other in others:
        answers.append(ask_baseline(other, trial, dataset, k, masked=masked, progress=part))  # noqa: PERF401  `part` counts them
    judge = _Judge(dataset, trial, index)
    rows = judge.rows(answers)
    reach = reached.reach() if reached is not None else Reach()
    return Verdict(
        dataset.name,
        trial.protocol,
        trial.part,
        k,
        masked,
        int(judge.main.sum()),
        trial.start,
        len(dataset.items),
        models[0],
        [row for row in rows if row.name not in (parts or {})],
        [row for row in rows if row.name in (parts or {})],
        reach.recall,
        reach.candidates,
        reach.cases,
    )


def _signals(settings: Settings) -> Signals:
    return Signals(SignalSettings(settings.trend_half_life_hours * 3_600.0, settings.popular_half_life_days * 86_400.0))


def simple_baselines(dataset: Dataset) -> list[Baseline]:
    """Return popularity, TF-IDF, co-occurrence, and the last two together. Needs scikit-learn."""
    count = len(dataset.items)
    text = TextProfile([item_text(item) for item in dataset.items])
    return [Popularity(count), text, CoOccurrence(count), Both(text, CoOccurrence(count))]


class _Judge:
    """Turns answers to one trial into rows."""

    def __init__(self, dataset: Dataset, trial: Trial, index: ItemIndex) -> None:
        numbers = numbers_of(dataset)
        cases = trial.cases
        self.wanted = [[numbers[item] for item in case.wanted] for case in cases]
        self.known = np.array([case.known for case in cases])
        self.groups = np.unique([case.person or case.user_id for case in cases], return_inverse=True)[1]
        self.main = np.array(trial.main)
        touched = [numbers[event.item_id] for event in trial.events[: trial.start] if event.item_id in numbers]
        self.touches = np.bincount(touched, minlength=len(numbers)).astype(np.float64)
        self.vectors = index.vectors([index.slot(item.item_id) for item in dataset.items])

    def rows(self, answers: Sequence[Answers]) -> list[Row]:
        each = [evaluate.each(answer.lists, self.wanted) for answer in answers]
        return [self._row(answer, own, each[0]) for answer, own in zip(answers, each, strict=True)]

    def _row(self, answer: Answers, each: Each, ours: Each) -> Row:
        lists, items = answer.lists[self.main], len(self.touches)
        overall = {
            "coverage": evaluate.coverage(lists, items),
            "gini": evaluate.gini(lists, items),
            "novelty": evaluate.novelty(lists, self.touches),
            "diversity": evaluate.diversity(lists, self.vectors),
        }
        if answer.chances is not None:
            there = answer.lists != evaluate.NOTHING
            found = evaluate.hits(answer.lists, self.wanted)
            overall["calibration_error"] = evaluate.calibration_error(answer.chances[there], found[there])
        groups = self.groups[self.main]
        means = {name: evaluate.interval(getattr(each, name)[self.main], groups) for name in FIGURES}
        ahead = {
            name: evaluate.difference(getattr(ours, name)[self.main], getattr(each, name)[self.main], groups)
            for name in ("recall", "ndcg")
            if each is not ours
        }
        return Row(answer.name, means, overall, self._by_known(each), self._by_age(answer), answer.seconds, ahead)

    def _by_known(self, each: Each) -> dict[str, Bucket]:
        found = {label: (self.known >= least) & (self.known <= most) for label, least, most in KNOWN}
        return {label: self._bucket(each, own, own) for label, own in found.items() if own.any()}

    def _by_age(self, answer: Answers) -> dict[str, Bucket]:
        """Return the figures of the wanted items of one age alone: a case may want items of both."""
        buckets = {}
        for label, is_new in ((UNSEEN, True), (SEEN, False)):
            wanted = [[item for item in own if (self.touches[item] == 0) == is_new] for own in self.wanted]
            there = np.array([bool(own) for own in wanted])
            if there.any():
                each = evaluate.each(answer.lists[there], [own for own in wanted if own])
                buckets[label] = self._bucket(each, slice(None), there)
        return buckets

    def _bucket(self, each: Each, own: NDArray[np.bool_] | slice, groups: NDArray[np.bool_]) -> Bucket:
        drawn = self.groups[groups]
        recall, ndcg = (evaluate.interval(values[own], drawn) for values in (each.recall, each.ndcg))
        return Bucket(int(groups.sum()), recall, ndcg)
