"""What a bi-encoder learns from: which text a user's last texts are followed by.

A user is the decayed mean of the vectors of the last texts, as profiles are, and is brought near the text that came next, away
from the other texts of the batch and from hard ones (InfoNCE, van den Oord et al., 2018: softmax cross-entropy of the cosines
over a temperature). A text that the same user wanted at another time, or has behind it, is no negative. Texts of one batch are
encoded once, whoever needs them. Knows no users' names, items or files: texts are numbers of a list.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  as everybody writes it

from encoders.learner import Learner

DECAY = 0.8  # weight of a text against the next newer one
LAST = 10  # texts that count
HARD_AMONG = 50  # nearest texts that hard negatives are drawn from
K = 10
ASKED_AT_ONCE = 2_048  # questions whose scores over the catalogue are held
T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """One lesson. before: numbers of texts, oldest first; wanted: of the text that came next; group: whose it is.

    against: numbers of texts that were turned down.
    """

    before: tuple[int, ...]
    wanted: int
    group: int
    against: tuple[int, ...] = ()


@dataclass(frozen=True)
class Lessons:
    """Texts, and questions about them by number. catalogue: the texts that the wanted one is looked for among."""

    texts: list[str]
    catalogue: list[int]
    train: list[Question]
    dev: list[Question]
    test: list[Question]


@dataclass(frozen=True)
class Contrast:
    """How. temperature: of the softmax; hard: mined negatives of each question.

    bank: so many questions of each step are asked among the whole catalogue, whose vectors are remembered (Wu et al.,
    2018), and the batch's texts are those that learn; 0: questions are asked among the batch's own texts.
    """

    temperature: float = 0.05
    hard: int = 0
    bank: int = 0


@dataclass(frozen=True)
class Found:
    """Of questions: the rank of what was wanted, 0 the best; (n,) int64."""

    ranks: NDArray[np.int64]

    def figures(self, k: int = K) -> dict[str, float]:
        """Return the mean recall and NDCG among the first k."""
        hit = self.ranks < k
        gain = np.where(hit, 1.0 / np.log2(self.ranks + 2.0), 0.0)
        return {f"recall@{k}": float(hit.mean()), f"ndcg@{k}": float(gain.mean())}


Batch = tuple[list[int], list[Question]]  # texts that learn, and questions


class Retrieve:
    """The objective over lessons; `learner.model` is what learns. higher: a dev figure that is better when it is higher."""

    higher = f"ndcg@{K}"

    def __init__(self, learner: Learner, lessons: Lessons, contrast: Contrast, *, batch: int, seed: int) -> None:
        self.learner, self.lessons, self.contrast = learner, lessons, contrast
        self._batch, self._seed = batch, seed
        self._rows = learner.tokens(lessons.texts)
        self._known = _known(lessons.train)
        self._used = sorted(_texts(lessons.train) | set(lessons.catalogue))
        self._bank = torch.zeros(0)
        self._fresh: NDArray[np.float32] | None = None
        self.count = -(-len(self._used if contrast.bank else lessons.train) // batch)

    @property
    def module(self) -> Any:
        """What learns: with its adapter, where one was put on after this was made."""
        return self.learner.model

    def epoch(self, number: int) -> list[Batch]:
        """Return the batches of an epoch: all texts once with questions at random, or all questions, a group's together."""
        order = np.random.default_rng([self._seed, number])
        if self.contrast.bank:
            self._bank = torch.from_numpy(self._vectors()).to(self.learner.place)
            return [
                (part, self._some(order))
                for part in _parts([self._used[i] for i in order.permutation(len(self._used))], self._batch)
            ]
        questions = self._with_hard(order) if self.contrast.hard else self.lessons.train
        return [(sorted(_texts(part)), part) for part in _parts(_shuffled(questions, order), self._batch)]

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, ()."""
        numbers, questions = batch
        self._fresh = None
        vectors = self.learner.vectors(self._rows, numbers)  # (t, d)
        if not self.contrast.bank:
            answers = sorted({each for q in questions for each in (q.wanted, *q.against)})
            return self._loss(questions, vectors, numbers, answers, self._known)
        table = self._bank.index_copy(0, torch.tensor(numbers, device=vectors.device), vectors)
        self._bank = table.detach()
        return self._loss(questions, table, range(len(table)), self.lessons.catalogue, self._known)

    def dev(self) -> dict[str, float]:
        """Return the loss over the dev questions, and recall and NDCG of what they wanted, both among the catalogue."""
        return self.figures(self.lessons.dev)

    @torch.inference_mode()
    def figures(self, questions: list[Question]) -> dict[str, float]:
        """Return `dev` of any questions."""
        vectors = self._fresh = self._vectors()
        table, known = torch.from_numpy(vectors), _known(questions)
        parts = _parts(questions, ASKED_AT_ONCE)
        losses = [float(self._loss(part, table, range(len(table)), self.lessons.catalogue, known)) for part in parts]
        loss = sum(each * len(part) for each, part in zip(losses, parts, strict=True)) / len(questions)
        return {"loss": loss, **find(vectors, questions, self.lessons.catalogue).figures()}

    def _loss(
        self,
        questions: Sequence[Question],
        table: Tensor,
        numbers: Sequence[int],
        answers: Sequence[int],
        known: dict[int, set[int]],
    ) -> Tensor:
        """Return InfoNCE among the answers. table: (t, d), unit rows, of the texts `numbers`."""
        row = {number: i for i, number in enumerate(numbers)}
        place = {number: i for i, number in enumerate(answers)}
        users = F.normalize(means(questions, table, row), dim=-1)  # (q, d)
        with self.learner.autocast():
            logits = (users @ table[[row[number] for number in answers]].T).float() / self.contrast.temperature  # (q, a)
        logits = logits.masked_fill(_no_negatives(questions, place, known).to(logits.device), float("-inf"))
        return F.cross_entropy(logits, torch.tensor([place[q.wanted] for q in questions], device=logits.device))

    def _vectors(self) -> NDArray[np.float32]:
        """Return the vectors of all texts with the weights of now; an epoch begins with those of the last dev figures."""
        kept, self._fresh = self._fresh, None
        return kept if kept is not None else self.learner.encoded(self._rows)

    def _some(self, order: np.random.Generator) -> list[Question]:
        train = self.lessons.train
        return [train[i] for i in order.choice(len(train), min(self.contrast.bank, len(train)), replace=False)]

    def _with_hard(self, order: np.random.Generator) -> list[Question]:
        """Return the train questions, each against some of the nearest texts that its user never wanted."""
        vectors = self._vectors()
        made = []
        catalogue = np.array(self.lessons.catalogue)
        for first in range(0, len(self.lessons.train), ASKED_AT_ONCE):
            part = self.lessons.train[first : first + ASKED_AT_ONCE]
            scores = _users(vectors, part) @ vectors[catalogue].T
            near = np.argpartition(-scores, HARD_AMONG, axis=1)[:, :HARD_AMONG] if len(catalogue) > HARD_AMONG else None
            for row, question in enumerate(part):
                found = catalogue if near is None else catalogue[near[row]]
                fit = [int(each) for each in found if each not in self._known[question.group]]
                drawn = order.permutation(fit)[: self.contrast.hard]
                against = tuple(dict.fromkeys((*question.against, *map(int, drawn))))
                made.append(Question(question.before, question.wanted, question.group, against))
        return made


def find(
    vectors: NDArray[np.float32], questions: Sequence[Question], catalogue: Sequence[int], *, masked: bool = True
) -> Found:
    """Return where what was wanted ranks by cosine; masked: what the user had before stands behind all, unless it is wanted."""
    place = {number: column for column, number in enumerate(catalogue)}
    items = vectors[np.array(catalogue)]
    ranks = []
    for first in range(0, len(questions), ASKED_AT_ONCE):
        part = questions[first : first + ASKED_AT_ONCE]
        scores = _users(vectors, part) @ items.T  # (n, catalogue)
        wanted = np.array([place[question.wanted] for question in part])
        own = scores[np.arange(len(part)), wanted]
        if masked:
            for row, question in enumerate(part):
                scores[row, [place[number] for number in question.before if number in place]] = -np.inf
        ranks.append((scores > own[:, None]).sum(1))
    return Found(np.concatenate(ranks))


def _users(vectors: NDArray[np.float32], questions: Sequence[Question]) -> NDArray[np.float32]:
    made = np.zeros((len(questions), vectors.shape[1]), np.float32)
    for row, question in enumerate(questions):
        own = question.before[-LAST:]
        made[row] = DECAY ** np.arange(len(own) - 1, -1, -1) @ vectors[list(own)]
    unit: NDArray[np.float32] = made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-9)
    return unit


def _known(questions: Sequence[Question]) -> dict[int, set[int]]:
    """Return group -> the texts that it had or wanted at any time."""
    known: dict[int, set[int]] = defaultdict(set)
    for question in questions:
        known[question.group].update(question.before, (question.wanted,))
    return known


def _no_negatives(batch: Sequence[Question], place: dict[int, int], known: dict[int, set[int]]) -> Tensor:
    mask = torch.zeros(len(batch), len(place), dtype=torch.bool)
    for row, question in enumerate(batch):
        refused = set(question.against)
        for number in known[question.group]:
            if number in place and number != question.wanted and number not in refused:
                mask[row, place[number]] = True
    return mask


def _texts(questions: Sequence[Question]) -> set[int]:
    return {each for q in questions for each in (*q.before[-LAST:], q.wanted, *q.against)}


def means(questions: Sequence[Question], table: Tensor, row: Mapping[int, int]) -> Tensor:
    """Return (q, d), the decayed sums of the rows that questions come after. table: (t, d); row: text's number -> row."""
    bags = [[row[number] for number in q.before[-LAST:]] for q in questions]
    starts = np.cumsum([0, *map(len, bags[:-1])])
    ages = [DECAY**age for bag in bags for age in range(len(bag) - 1, -1, -1)]
    flat = torch.tensor([each for bag in bags for each in bag], device=table.device)
    offsets = torch.from_numpy(starts).to(table.device)
    weights = torch.tensor(ages, dtype=table.dtype, device=table.device)
    return F.embedding_bag(flat, table, offsets, mode="sum", per_sample_weights=weights)


def _shuffled(questions: Sequence[Question], order: np.random.Generator) -> list[Question]:
    """Return the questions in a new order of groups: those of a group share texts and stay together."""
    groups: dict[int, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.group, []).append(question)
    names = list(groups)
    return [question for i in order.permutation(len(names)) for question in groups[names[i]]]


def _parts(whole: Sequence[T], size: int) -> list[list[T]]:
    return [list(whole[start : start + size]) for start in range(0, len(whole), size)]
