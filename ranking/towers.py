"""The towers: U' from a user's touches and interests, V' from an item's vector. Torch modules; unit vectors of one small space.

Knows no training, no index and no profile. V' starts from the encoder's vector, whitened (as UniSRec, Hou et al., 2022), so
that an item that nobody has touched has a place at once; what people did with an item moves it by a residual, which is left out
at random in training so that items without one lose nothing (as DropoutNet, Volkovs et al., 2017). U' is a causal transformer
(SASRec, Kang and McAuley, 2018) over the interests and then the touches, oldest first; it reads the place of the newest touch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  as everybody writes it

INTERESTS = 4
AGE_STEPS = 24  # steps of age, each twice the one before: from a second to half a year
TINY = 1e-12
FLOOR = 0.1  # of the mean variance: a direction with less is noise that whitening would raise


@dataclass(frozen=True)
class Shape:
    """Sizes. dim: of the encoder's vectors; width: of U' and V'; kinds: event types, with the unknown one; rows: residuals."""

    dim: int
    width: int = 96
    layers: int = 2
    heads: int = 2
    touches: int = 50
    kinds: int = 1
    rows: int = 0

    def numbers(self) -> dict[str, int]:
        """Return the sizes by name."""
        return asdict(self)


class ItemTower(nn.Module):
    """V' of items: (n, width) unit vectors."""

    mean: Tensor
    whiten: Tensor

    def __init__(self, shape: Shape, drop: float = 0.2) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape.dim))
        self.register_buffer("whiten", torch.eye(shape.dim))
        self.straight = nn.Linear(shape.dim, shape.width)
        self.bend = nn.Sequential(
            nn.Linear(shape.dim, 2 * shape.width), nn.GELU(), nn.Dropout(drop), nn.Linear(2 * shape.width, shape.width)
        )
        self.residual = nn.Embedding(shape.rows + 1, shape.width, padding_idx=0)  # row 0: an item without one
        nn.init.zeros_(self.residual.weight)

    def fit_whitening(self, vectors: Tensor) -> None:
        """Learn mean and directions from the items' vectors, (n, dim)."""
        exact = vectors.double()  # in float32 the decomposition need not converge where items are fewer than dims
        mean = exact.mean(0)
        centred = exact - mean
        values, directions = torch.linalg.eigh(centred.T @ centred / max(1, len(exact) - 1))
        values = values.clamp(min=0.0)
        scale = (values + FLOOR * values.mean() + TINY).rsqrt() / len(mean) ** 0.5
        self.mean.copy_(mean)
        self.whiten.copy_(directions @ torch.diag(scale) @ directions.T)

    def forward(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """Return V' of items: vectors (n, dim), rows (n,) of the residual table, 0 for none."""
        return self.from_white(self.whitened(vectors), rows)

    def from_white(self, white: Tensor, rows: Tensor) -> Tensor:
        """Return V' of items whose vectors are whitened already."""
        return F.normalize(self.straight(white) + self.bend(white) + self.residual(rows), dim=-1)

    def whitened(self, vectors: Tensor) -> Tensor:
        """Return whitened vectors of the same shape, (..., dim); zero stays zero."""
        is_there = (vectors != 0).any(dim=-1, keepdim=True)
        return torch.where(is_there, (vectors - self.mean) @ self.whiten, torch.zeros_like(vectors))


class UserTower(nn.Module):
    """U' of users: (n, width) unit vectors."""

    def __init__(self, shape: Shape, drop: float = 0.2) -> None:
        super().__init__()
        self.shape = shape
        width = shape.width
        self.touch = nn.Linear(width, width)
        self.interest = nn.Linear(shape.dim, width)
        self.kind = nn.Embedding(shape.kinds, width)
        self.age = nn.Embedding(AGE_STEPS, width)
        self.place = nn.Embedding(shape.touches, width)  # counted from the newest
        self.which = nn.Embedding(INTERESTS, width)
        self.drop = nn.Dropout(drop)
        layer = nn.TransformerEncoderLayer(width, shape.heads, 2 * width, drop, "gelu", batch_first=True, norm_first=True)
        self.mix = nn.TransformerEncoder(layer, shape.layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.out = nn.Linear(width, width)
        for table in (self.kind, self.age, self.place, self.which):
            nn.init.normal_(table.weight, std=0.02)

    def forward(
        self, items: Tensor, is_touch: Tensor, kinds: Tensor, ages: Tensor, interests: Tensor, strength: Tensor
    ) -> Tensor:
        """Return U'. items: (n, t, width) V' of the touches, newest last; is_touch: (n, t) bool; kinds: (n, t);

        ages: (n, t) seconds; interests: (n, 4, dim) whitened; strength: (n, 4).
        """
        n, t, width = items.shape
        places = torch.arange(t - 1, -1, -1, device=items.device)
        touched = self.touch(items) * width**0.5 + self.kind(kinds) + self.age(steps_of(ages)) + self.place(places)
        wanted = self.interest(interests) * strength[..., None] + self.which.weight
        rows = self.drop(torch.cat([wanted, touched], dim=1))  # n, 4 + t, width
        is_there = torch.cat([torch.ones(n, INTERESTS, dtype=torch.bool, device=items.device), is_touch], dim=1)
        later = torch.ones(INTERESTS + t, INTERESTS + t, dtype=torch.bool, device=items.device).triu(1)
        later[:INTERESTS, :INTERESTS] = False
        mixed = self.mix(rows, mask=later, src_key_padding_mask=~is_there)
        last = torch.where(is_touch.any(dim=1), INTERESTS + t - 1, INTERESTS - 1)
        return F.normalize(self.out(mixed[torch.arange(n, device=items.device), last]), dim=-1)


class Towers(nn.Module):
    """Both towers and the temperature of their softmax."""

    def __init__(self, shape: Shape, drop: float = 0.2) -> None:
        super().__init__()
        self.shape = shape
        self.item = ItemTower(shape, drop)
        self.user = UserTower(shape, drop)
        self.log_temperature = nn.Parameter(torch.tensor(0.07).log())

    def users(
        self, placed: Tensor, touches: Tensor, kinds: Tensor, ages: Tensor, interests: Tensor, strength: Tensor
    ) -> Tensor:
        """Return U' of users, (n, width). placed: (items, width) V'; touches: (n, t) rows of it, -1 for none."""
        is_touch = touches >= 0
        items = F.embedding(touches.clamp(min=0), placed) * is_touch[..., None]
        out: Tensor = self.user(items, is_touch, kinds, ages, self.item.whitened(interests), strength)
        return out

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all tensors by name."""
        return {name: value.detach().cpu().numpy() for name, value in self.state_dict().items()}

    def load_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `arrays` returned, and be ready to serve. Raises RuntimeError for other names or shapes."""
        self.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})
        self.eval()


def steps_of(ages: Tensor) -> Tensor:
    """Return the step of ages in seconds: log2, in whole numbers below AGE_STEPS."""
    return torch.log2(1.0 + ages).to(torch.int64).clamp(0, AGE_STEPS - 1)
