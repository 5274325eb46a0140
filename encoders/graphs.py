"""Small slices on a GPU as recorded graphs: one launch in place of hundreds, which take longer than a few texts' arithmetic.

A graph is of one shape, reads from one place and writes to one: so a slice is copied there, padded to the nearest of a few
shapes, and its rows are copied out. A shape is recorded when it first comes. Larger slices run as ever: there the arithmetic is
what takes long. Knows no texts and no model. Tests act a recorder out on a CPU; on a GPU this has not been run yet.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

WIDTH = 16  # a recorded slice's width is a multiple of it
MOST = 4_096  # tokens of the largest one
WARM = 3  # passes before one is recorded, as torch asks for: they choose kernels and take memory, which no graph may do

Forward = Callable[[Tensor, Tensor], Tensor]  # ids and mask, (b, l) int64 each on the device -> (b, d) float32


class Recorder(Protocol):
    """A device that can record what it does."""

    def record(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Return what does the same again with what the inputs hold by then; the tensor it returns is always the same one."""


class CudaRecorder:
    """CUDA graphs, which share one pool of memory: the output of one is gone when the next is replayed."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Warm up in another stream, then record."""
        with torch.cuda.device(self._device):
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM):
                    run()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                made = run()

        def replay() -> Tensor:
            graph.replay()
            return made

        return replay


class Recorded(NamedTuple):
    """One shape's graph and where it reads from, (b, l) int64 each on the device."""

    ids: Tensor
    mask: Tensor
    replay: Callable[[], Tensor]


def shape_of(rows: int, width: int) -> tuple[int, int] | None:
    """Return the recorded shape that a slice is padded to: rows to a power of 2; None for one that is too large."""
    shape = 1 << (rows - 1).bit_length(), -(-width // WIDTH) * WIDTH
    return shape if shape[0] * shape[1] <= MOST else None


class Graphs:
    """A forward pass that is replayed for small slices. To be called in torch's inference mode."""

    def __init__(self, forward: Forward, recorder: Recorder, device: torch.device) -> None:
        self._forward, self._recorder, self._device = forward, recorder, device
        self._recorded: dict[tuple[int, int], Recorded] = {}
        self._lock = threading.Lock()  # each graph has one place for inputs, all have one for outputs

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return (b, d) float32 on the device for ids and mask of 0 and 1, (b, l) int64 each, from wherever they lie."""
        rows, width = ids.shape
        shape = shape_of(rows, width)
        if shape is None:
            return self._forward(*(each.to(self._device, non_blocking=True) for each in (ids, mask)))
        with self._lock:
            recorded = self._recorded.get(shape) or self._record(shape)
            recorded.ids[:rows, :width].copy_(ids, non_blocking=True)  # what lies beside it is masked
            recorded.mask.zero_()  # rows of pads alone come to no number, and are left behind
            recorded.mask[:rows, :width].copy_(mask, non_blocking=True)
            return recorded.replay()[:rows].clone()

    def _record(self, shape: tuple[int, int]) -> Recorded:
        ids, mask = (torch.zeros(shape, dtype=torch.int64, device=self._device) for _ in range(2))
        made = Recorded(ids, mask, self._recorder.record(lambda: self._forward(ids, mask)))
        self._recorded[shape] = made
        return made
