"""What a cross-encoder learns from: a user's text and an item's, read together, and a label.

transformers' AutoModelForSequenceClassification reads both texts at once and so sees which words go with which,
for the price of a forward pass for each pair. Knows no users, items or files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  as everybody writes it

from encoders.learner import Learner, by_length, no_dropout

TOGETHER = 16  # batches that are sorted by length together: less is padded, and the order stays random enough
EVALUATED = 8_192  # tokens computed at once where nothing is learnt


@dataclass(frozen=True)
class Labelled:
    """n pairs: users' and items' texts, and labels as numbers of `names`; train, dev, test: numbers of pairs."""

    users: list[str]
    items: list[str]
    labels: list[int]
    names: list[str]
    train: list[int]
    dev: list[int]
    test: list[int]


def as_classifier(names: Sequence[str], seed: int) -> Callable[[Path], Any]:
    """Return what builds a model with a head for these labels; the head starts at random, from the seed."""

    def build(folder: Path) -> Any:
        from transformers import AutoModelForSequenceClassification

        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=torch.float32,
            id2label=dict(enumerate(names)),
            label2id={name: number for number, name in enumerate(names)},
            **no_dropout(folder),
        )
        if model.config.pad_token_id is None:  # a decoder's head looks for the last token that is no pad
            model.config.pad_token_id = 0
        return model

    return build


class Match:
    """The objective over labelled pairs; the lowest dev loss is the best."""

    higher = ""

    def __init__(self, learner: Learner, pairs: Labelled, *, batch: int, seed: int) -> None:
        self.learner, self.pairs = learner, pairs
        self._batch, self._seed = batch, seed
        self._rows = learner.tokens(pairs.users, pairs.items)
        self.count = -(-len(pairs.train) // batch)

    @property
    def module(self) -> Any:
        """What learns: with its adapter, where one was put on after this was made."""
        return self.learner.model

    def epoch(self, number: int) -> list[list[int]]:
        """Return the batches of an epoch, numbers of pairs of like length."""
        order = np.random.default_rng([self._seed, number])
        train = [self.pairs.train[i] for i in order.permutation(len(self.pairs.train))]
        step = self._batch * TOGETHER
        batches = []
        for first in range(0, len(train), step):
            part = sorted(train[first : first + step], key=lambda pair: len(self._rows.ids[pair]))
            batches += [part[start : start + self._batch] for start in range(0, len(part), self._batch)]
        return [batches[i] for i in order.permutation(len(batches))]

    def loss(self, batch: list[int]) -> Tensor:
        """Return the mean cross-entropy of a batch, ()."""
        return F.cross_entropy(
            self._logits(batch), torch.tensor([self.pairs.labels[pair] for pair in batch], device=self.learner.place)
        )

    def dev(self) -> dict[str, float]:
        """Return loss and accuracy on the dev pairs."""
        return self.figures(self.pairs.dev)

    def figures(self, pairs: Sequence[int]) -> dict[str, float]:
        """Return `dev` of any pairs."""
        chances, labels = self.chances(pairs), np.array([self.pairs.labels[pair] for pair in pairs])
        own = chances[np.arange(len(labels)), labels]
        return {"loss": float(-np.log(np.maximum(own, 1e-9)).mean()), "accuracy": float((chances.argmax(1) == labels).mean())}

    def _logits(self, batch: Sequence[int]) -> Tensor:
        with self.learner.autocast():
            logits: Tensor = self.module(**self.learner.inputs(self._rows, batch)).logits
        return logits.float()  # (b, labels)

    @torch.inference_mode()
    def chances(self, pairs: Sequence[int]) -> NDArray[np.float32]:
        """Return (n, labels) float32, the probabilities of each label, rows of sum 1, in the order of `pairs`."""
        self.module.eval()
        order = np.argsort([len(self._rows.ids[pair]) for pair in pairs], kind="stable")
        made = np.zeros((len(pairs), len(self.pairs.names)), np.float32)
        for part in by_length([len(self._rows.ids[pairs[i]]) for i in order], EVALUATED):
            made[order[part]] = self._logits([pairs[i] for i in order[part]]).softmax(1).cpu().numpy()
        return made
