"""Adversarial training of texts: embeddings moved a little the way that makes the loss largest (Miyato et al., 2017).

Knows no objective: the gradients of a clean pass are there, the block computes the loss once more on the moved embeddings, and
its gradients are added. The step r = epsilon g / |g| is the paper's equation 5, over the table of word embeddings.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Perturbation:
    """A block in which a model's word embeddings are moved by `epsilon` along their gradient, and moved back after it."""

    def __init__(self, module: Any, epsilon: float) -> None:
        self._table = module.get_input_embeddings().weight
        self._was_frozen = not self._table.requires_grad
        if self._was_frozen:  # an adapter trains without it, but its gradient is the direction
            self._table.requires_grad_(True)
        self._epsilon = epsilon
        self._kept: Tensor | None = None

    @torch.no_grad()
    def __enter__(self) -> None:
        gradient = self._table.grad
        norm = gradient.norm() if gradient is not None else None
        if norm is None or not torch.isfinite(norm) or norm == 0:
            return
        self._kept = self._table.detach().clone()
        self._table += self._epsilon * gradient / norm

    @torch.no_grad()
    def __exit__(self, *error: object) -> None:
        if self._kept is not None:
            self._table.copy_(self._kept)
            self._kept = None
        if self._was_frozen:
            self._table.grad = None
