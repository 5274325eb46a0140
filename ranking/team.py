"""Processes that fit one model together: each takes its share of a batch, and their gradients are added up.

Does not know how they found each other: what is here needs the group of processes of torch.distributed to be there, unless
the team is of one. All of a team call the same in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """The place of this process, `rank`, among `size`. A team of one does all of it alone."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Tell whether this is the process that speaks and writes for all."""
        return self.rank == 0

    def share(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return this process's own of some rows; those of all are the whole, none twice."""
        return rows[self.rank :: self.size]

    def total(self, value: Tensor) -> Tensor:
        """Add up the tensors of all, in place, and return the sum."""
        if self.size > 1:
            distributed.all_reduce(value)
        return value

    def add_gradients(self, model: nn.Module) -> None:
        """Give all the sum of their gradients, in one message: each parameter has one."""
        if self.size > 1:
            gradients = [own.grad for own in model.parameters() if own.grad is not None]
            vector_to_parameters(self.total(parameters_to_vector(gradients)), gradients)

    def start_alike(self, model: nn.Module) -> None:
        """Give all the first one's parameters and buffers."""
        if self.size > 1:
            for value in model.state_dict().values():
                distributed.broadcast(value, src=0)

    def from_first(self, make: Callable[[], T]) -> T:
        """Return what `make` returns in the first process, which alone calls it."""
        if self.size == 1:
            return make()
        told: list[Any] = [make() if self.is_first else None]
        distributed.broadcast_object_list(told, src=0)
        made: T = told[0]
        return made

    def first_then_others(self, make: Callable[[], T]) -> T:
        """Return what `make` returns; the others begin when the first has done it, and find what it left in the cache."""
        if not self.is_first:
            self.from_first(lambda: None)
            return make()
        made = make()
        self.from_first(lambda: None)
        return made


ALONE = Team()
