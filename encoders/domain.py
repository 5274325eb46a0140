"""Learn a domain's language from its texts alone, before any label: masked words, or each text against the others.

Masked words (Devlin et al., 2019) where the model and its tokenizer have a mask; else SimCSE (Gao et al., 2021): a text is
encoded twice with different dropout, and has to find itself among the batch's others. Knows no users, items or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  as everybody writes it

from encoders import padded
from encoders.learner import Learner, no_dropout
from encoders.recipe import Recipe

MASKED = 0.15  # share of the tokens that are asked for
TEMPERATURE = 0.05
DROP = 0.1  # of SimCSE
OUTSIDE = -100  # a place that is not asked for


def can_mask(how: Recipe, folder: Path) -> bool:
    """Say whether a folder's model can learn from masked words."""
    from transformers import AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    with padded.quiet():
        return (
            how.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and AutoTokenizer.from_pretrained(folder).mask_token is not None
        )


def as_masked(folder: Path) -> Any:
    """Build the model with a head over words."""
    from transformers import AutoModelForMaskedLM

    torch.manual_seed(0)  # a head that the folder lacks starts at random
    return AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32, **no_dropout(folder))


def as_dropped(folder: Path) -> Any:
    """Build the bare model with dropout, which is all that makes a text's two vectors differ."""
    from transformers import AutoConfig, AutoModel

    extra = {"add_pooling_layer": False} if padded.has_pooler(AutoConfig.from_pretrained(folder)) else {}
    rates = dict.fromkeys(no_dropout(folder), DROP)
    return AutoModel.from_pretrained(folder, dtype=torch.float32, **rates, **extra)


class _Texts:
    """Texts in batches; the newest tenth is dev."""

    higher = ""

    def __init__(self, learner: Learner, texts: Sequence[str], dev: Sequence[str], *, batch: int, seed: int) -> None:
        self.learner = learner
        self._batch, self._seed = batch, seed
        self._rows = learner.tokens([*texts, *dev])
        self._train, self._dev = range(len(texts)), range(len(texts), len(texts) + len(dev))
        self.count = -(-len(texts) // batch)

    @property
    def module(self) -> Any:
        """What learns: with its adapter, where one was put on after this was made."""
        return self.learner.model

    def epoch(self, number: int) -> list[list[int]]:
        """Return the batches of an epoch, numbers of texts."""
        order = np.random.default_rng([self._seed, number]).permutation(len(self._train))
        return [list(map(int, order[start : start + self._batch])) for start in range(0, len(order), self._batch)]

    def _dev_loss(self) -> dict[str, float]:
        parts = [list(self._dev[start : start + self._batch]) for start in range(0, len(self._dev), self._batch)]
        state = torch.get_rng_state()
        torch.manual_seed(self._seed)  # the same places are asked for each time
        with torch.inference_mode():
            losses = [float(self.loss(part)) * len(part) for part in parts]
        torch.set_rng_state(state)
        return {"loss": sum(losses) / len(self._dev)}

    def loss(self, batch: list[int]) -> Tensor:
        """Return the mean loss of a batch, ()."""
        raise NotImplementedError


class Masked(_Texts):
    """Masked words: 15 % of the tokens are asked for; of these 80 % are masked, 10 % another word, 10 % as they were."""

    def loss(self, batch: list[int]) -> Tensor:
        """Return the mean cross-entropy of the tokens asked for, ()."""
        inputs = self.learner.inputs(self._rows, batch)
        ids, asked = self._mask(inputs["input_ids"], inputs["attention_mask"])
        with self.learner.autocast():
            logits = self.module(input_ids=ids, attention_mask=inputs["attention_mask"]).logits  # (b, l, vocabulary)
        return F.cross_entropy(logits.float().flatten(0, 1), asked.flatten(), ignore_index=OUTSIDE)

    def dev(self) -> dict[str, float]:
        """Return the loss over the dev texts."""
        self.module.eval()
        return self._dev_loss()

    def _mask(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokenizer = self.learner.tokenizer
        special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids, device=ids.device))
        chance = torch.rand(ids.shape).to(ids.device).masked_fill(special | (mask == 0), 2.0)
        chosen = chance < MASKED
        if not chosen.any():  # a loss of nothing is not a number: a batch of short texts asks for its likeliest place
            chosen = chance == chance.min()
        kind = torch.rand(ids.shape).to(ids.device)
        others = torch.randint(len(tokenizer), ids.shape).to(ids.device)
        put = torch.where(kind < 0.8, tokenizer.mask_token_id, torch.where(kind < 0.9, others, ids))
        return torch.where(chosen, put, ids), torch.where(chosen, ids, OUTSIDE)


class Alike(_Texts):
    """SimCSE: InfoNCE between two vectors of each text, apart by dropout."""

    def loss(self, batch: list[int]) -> Tensor:
        """Return the mean cross-entropy of finding a text's other vector, ()."""
        first, second = self.learner.vectors(self._rows, batch), self.learner.vectors(self._rows, batch)  # (b, d)
        same = first @ second.T / TEMPERATURE
        return F.cross_entropy(same, torch.arange(len(batch), device=same.device))

    def dev(self) -> dict[str, float]:
        """Return the loss over the dev texts, with dropout too, as there would be nothing to tell apart."""
        self.module.train()
        return self._dev_loss()
