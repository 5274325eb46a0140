"""Any encoder or decoder that transformers' AutoModel loads: padded slices in, pooled states out.

Knows nothing of texts. Pads stand on the right also for decoders: a causal model does not look at them, positions count from 0
whatever the model does with masks, and the last real token's state is the same as with pads on the left.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from encoders import EncoderError, compact
from encoders.graphs import CudaRecorder, Graphs, Recorder
from encoders.recipe import Pooling, Recipe

Slice = tuple[torch.Tensor, torch.Tensor]  # ids and mask of 0 and 1, (b, l) int64 each


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


@dataclass(frozen=True)
class Place:
    """Where a model lies, and what a slice is there.

    most: tokens of one padded slice; cost: one slice more costs about as much as so many pad tokens. `pin` makes a tensor ready
    to be copied without waiting: the copies of a slice's ids, at most 1 MB, then go out in the device's own order, before
    the kernels that read them, while Python lays out what comes next. recorder: records small slices, if anything does.
    """

    device: torch.device
    most: int
    cost: int
    pin: Callable[[torch.Tensor], torch.Tensor] = _as_it_is
    recorder: Recorder | None = None


def place(device: str, recorder: Callable[[torch.device], Recorder] | None = None) -> Place:
    """Return the place that torch calls `device`: cpu or cuda:N. recorder: makes what records there; a CPU has none."""
    where = torch.device(device)
    if where.type == "cuda":
        made = None if recorder is None else recorder(where)
        return Place(where, most=65_536, cost=2_048, pin=torch.Tensor.pin_memory, recorder=made)
    return Place(where, most=4_096, cost=64)


class Packed(torch.nn.Module):
    """A linear layer of a model on a CPU, its weight laid out once for oneDNN."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(compact.pack(linear.weight.detach()), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x @ weight.T + bias."""
        return compact.packed(x, self.weight, self.bias, False)


def pack_linears(model: torch.nn.Module) -> None:
    """Replace every linear layer: SmolLM2 on an AMD CPU takes 4.8 times less CPU in float32, 1.9 times less in bfloat16."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is torch.nn.Linear:
                setattr(module, name, Packed(child))


class Padded:
    """A model of transformers at a place."""

    def __init__(self, model: Any, at: Place, pooling: Pooling) -> None:
        self.dim = int(model.config.get_text_config().hidden_size)
        self.beside = False  # Python runs between the layers
        self.texts, self.tokens = 4_096, 4_194_304  # of one call; slices bound the memory of the model, this that of the ids
        self._model = model.to(at.device).eval()
        self._at = at
        if at.device.type == "cpu" and compact.can_pack(model.dtype):
            pack_linears(self._model)
        self._pooling = pooling
        self._slice = self._pooled if at.recorder is None else Graphs(self._pooled, at.recorder, at.device)

    def arrange(self, texts: list[list[int]]) -> list[Slice]:
        """Pad tokenised texts, shortest first, in slices."""
        lengths = np.array([len(text) for text in texts])
        return [self._pad(texts[start:stop]) for start, stop in slices(lengths, self._at.cost, self._at.most)]

    def _pad(self, texts: list[list[int]]) -> Slice:
        lengths = np.array([len(text) for text in texts])
        real = np.arange(lengths[-1]) < lengths[:, None]  # (b, l)
        ids = np.zeros(real.shape, np.int64)
        ids[real] = np.concatenate(texts)
        return self._at.pin(torch.from_numpy(ids)), self._at.pin(torch.from_numpy(real.astype(np.int64)))

    def vectors(self, arranged: list[Slice]) -> torch.Tensor:
        """Return the pooled states, (n, dim) float32 on the device, in the order of the texts."""
        return torch.cat([self._slice(ids, mask) for ids, mask in arranged])

    def _pooled(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        ids, mask = (each.to(self._at.device, non_blocking=True) for each in (ids, mask))
        states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state  # (b, l, d)
        return pool(states, mask, self._pooling)


def slices(lengths: NDArray[np.int_], cost: int, most: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) over ascending lengths: a slice ends before its pads cost more than a new one."""
    start = pads = 0
    for i, length in enumerate(lengths):
        step = int(length - lengths[i - 1]) * (i - start) if i else 0
        if i > start and (pads + step > cost or int(length) * (i + 1 - start) > most):
            yield start, i
            start, step, pads = i, 0, 0
        pads += step
    yield start, len(lengths)


def pool(states: torch.Tensor, mask: torch.Tensor, how: Pooling) -> torch.Tensor:
    """Return (b, d) float32 from states (b, l, d), mask (b, l): the real tokens' mean, the first, the last real one."""
    if how == "cls":
        return states[:, 0].float()
    if how == "last":
        return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1].float()
    return (states.float() * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True)


def load(folder: Path, name: str, how: Recipe, device: str, dtype: torch.dtype, *, graphs: bool = False) -> Padded:
    """Return a folder's model through transformers; graphs: whether a GPU records small slices.

    Raises EncoderError, also for weights that the folder lacks, and for a model that cannot be recorded.
    """
    from transformers import AutoConfig, AutoModel

    try:
        with quiet():
            extra = {"add_pooling_layer": False} if has_pooler(AutoConfig.from_pretrained(folder)) else {}
            model, report = AutoModel.from_pretrained(
                folder, dtype=dtype, attn_implementation="sdpa", output_loading_info=True, **extra
            )
    except (OSError, ValueError, KeyError) as error:
        raise EncoderError(f"encoder {name!r}: transformers cannot load {folder}: {error}") from error
    if missing := sorted(key for key in report["missing_keys"] if "pooler" not in key):
        raise EncoderError(
            f"encoder {name!r}: {folder} lacks {len(missing)} tensors, as {missing[0]}: save the whole model again"
        )
    made = Padded(model, place(device, CudaRecorder if graphs else None), how.pooling)
    if graphs:
        try_out(made, name)
    return made


@torch.inference_mode()
def try_out(engine: Padded, name: str) -> None:
    """Encode a token, so that a model that cannot be recorded is known at once. Raises EncoderError."""
    try:
        engine.vectors(engine.arrange([[0]]))
    except RuntimeError as error:
        raise EncoderError(f"encoder {name!r} cannot be recorded as a CUDA graph, go without: {error}") from error


def has_pooler(config: Any) -> bool:
    """Say whether the class of a configuration knows `add_pooling_layer`: BERT and its kin."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    made = MODEL_MAPPING.get(type(config), None)
    return made is not None and "add_pooling_layer" in inspect.signature(made).parameters


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and reports off the terminal, which is not ours; what was set before is set again."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
