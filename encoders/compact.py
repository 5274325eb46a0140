"""BERT's forward pass in one call: the same weights and numbers as transformers' own, in fewer and larger steps.

For BERT and RoBERTa architectures on a CPU. What makes it fast, measured with MiniLM on 2 cores, 64 texts of 9 tokens, against
transformers' forward pass in the same format:

- Short texts share a row: rows of about 64 tokens are filled with whole texts, and an attention mask keeps them apart. Few
  pads, and large matrices instead of 64 small attentions (half of the time). A row's width is a multiple of 8, so that few
  shapes occur: oneDNN takes 3-6 ms to prepare for a new one.
- Weights are laid out once in the order that oneDNN reads them (`mkldnn::_linear_pointwise`, with GELU in the same pass). A
  torch that lacks it uses `linear`.
- The function is compiled by TorchScript, which lets go of the GIL once per call, not once for each of 100 operations.

Together 137 -> 36 ms in float32 and 38 -> 21 ms in bfloat16, one text 5.5 -> 1.8 and 2.2 -> 1.2 ms. Knows nothing of texts.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encoders.recipe import Recipe

ROW = 64  # tokens of a row that texts share: 48 to 64 is fastest, 128 took 1.1 times as long
STEP = 8  # a row's width is a multiple of it
TEXTS = 128  # of one call: filling rows takes texts x rows steps, and 128 texts already run at full speed
TOKENS = (
    2_048  # of one call: what a layer makes of them (6 MB in bfloat16) stays in a core's cache; 16,384 took 1.3 times as long
)

# Positions start behind the pad's in RoBERTa's family (1), at 0 in BERT.
FAMILIES = {"bert": 0, "roberta": 1, "xlm-roberta": 1, "camembert": 1}
_PREFIX = ("bert.", "roberta.")  # of weights saved together with a head


@dataclass(frozen=True)
class Rows:
    """Texts laid out in shared rows, (r, w) int64 each. `owner`: the text a token belongs to, for a pad the number of texts."""

    ids: torch.Tensor
    positions: torch.Tensor
    owner: torch.Tensor
    texts: int


def lay_out(texts: list[list[int]]) -> Rows:
    """Fill rows with whole texts, longest first, each into the first row with room."""
    lengths = [len(text) for text in texts]
    total, longest = sum(lengths), max(lengths)
    count = math.ceil(total / max(ROW, longest))
    width = _up(max(longest, math.ceil(total / count)))
    rows: list[list[int]] = []
    room: list[int] = []
    for text in sorted(range(len(texts)), key=lambda i: -lengths[i]):
        row = next((r for r, left in enumerate(room) if left >= lengths[text]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(width)
        rows[row].append(text)
        room[row] -= lengths[text]
    return _fill(texts, rows, width)


def _up(length: int) -> int:
    return -(-length // STEP) * STEP


def _fill(texts: list[list[int]], rows: list[list[int]], width: int) -> Rows:
    ids = np.zeros((len(rows), width), np.int64)
    positions = np.zeros_like(ids)
    owner = np.full_like(ids, len(texts))
    for r, row in enumerate(rows):
        at = 0
        for text in row:
            end = at + len(texts[text])
            ids[r, at:end] = texts[text]
            positions[r, at:end] = range(end - at)
            owner[r, at:end] = text
            at = end
    return Rows(torch.from_numpy(ids), torch.from_numpy(positions), torch.from_numpy(owner), len(texts))


# The functions below are compiled by TorchScript. A layer is 12 tensors: weight and bias of q, k and v together
# and of the attention's output, its norm's two; weight and bias of the way up and the way down, their norm's two.
Linear = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None, bool], torch.Tensor]


def packed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gelu: bool) -> torch.Tensor:
    """Return x @ weight.T + bias, then GELU where asked, for a weight that `pack` laid out."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu" if gelu else "none", [], "none" if gelu else "")  # type: ignore[no-any-return]


def plain(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gelu: bool) -> torch.Tensor:
    """Return the same for a weight as it is."""
    x = torch.nn.functional.linear(x, weight, bias)
    return torch.nn.functional.gelu(x) if gelu else x


def _compile(linear: Linear) -> Callable[..., torch.Tensor]:
    """Return the forward pass over `linear`, compiled."""

    def attention_mask(owner: torch.Tensor, texts: int, dtype: torch.dtype) -> torch.Tensor | None:
        if texts == 1 and bool((owner == 0).all()):
            return None
        apart = owner.unsqueeze(2) != owner.unsqueeze(1)  # (r, w, w)
        return torch.zeros(apart.shape, dtype=dtype).masked_fill(apart, -float("inf")).unsqueeze(1)

    def pool(x: torch.Tensor, owner: torch.Tensor, positions: torch.Tensor, texts: int, first: bool) -> torch.Tensor:
        sums = torch.zeros(texts + 1, x.size(1))  # the last row takes the pads
        if first:
            starts = torch.nonzero(torch.logical_and(positions == 0, owner < texts)).squeeze(1)
            return sums.index_copy(0, owner[starts], x[starts].float())[:texts]
        counts = torch.zeros(texts + 1).index_add(0, owner, torch.ones(owner.size(0)))
        return sums.index_add(0, owner, x.float())[:texts] / counts[:texts].unsqueeze(1)

    def vectors(
        ids: torch.Tensor,  # (r, w)
        positions: torch.Tensor,  # (r, w)
        owner: torch.Tensor,  # (r, w)
        texts: int,
        embeddings: list[torch.Tensor],
        layers: list[list[torch.Tensor]],
        heads: int,
        eps: float,
        first: bool,
    ) -> torch.Tensor:
        words, places, weight, bias = embeddings[0], embeddings[1], embeddings[2], embeddings[3]
        r, w = ids.shape
        d = words.size(1)
        dtype = weight.dtype
        mask = attention_mask(owner, texts, dtype)
        x = torch.nn.functional.embedding(ids, words).to(dtype) + torch.nn.functional.embedding(positions, places)
        x = torch.layer_norm(x, [d], weight, bias, eps)  # (r, w, d)
        for t in layers:
            qkv = linear(x, t[0], t[1], False).view(r, w, 3, heads, d // heads).permute(2, 0, 3, 1, 4)  # (3, r, h, w, d/h)
            seen = torch.nn.functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], mask)  # (r, h, w, d/h)
            seen = seen.transpose(1, 2).reshape(r, w, d)
            x = torch.layer_norm(x + linear(seen, t[2], t[3], False), [d], t[4], t[5], eps)
            x = torch.layer_norm(x + linear(linear(x, t[6], t[7], True), t[8], t[9], False), [d], t[10], t[11], eps)
        return pool(x.view(r * w, d), owner.view(-1), positions.view(-1), texts, first)

    with warnings.catch_warnings():
        # torch.compile and torch.export, which the warning names, need a C++ compiler on the user's machine
        warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", DeprecationWarning)
        return torch.jit.script(vectors)


def can_pack(dtype: torch.dtype) -> bool:
    """Say whether this torch and this CPU have oneDNN's laid-out linear for a format."""
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack(weight: torch.Tensor) -> torch.Tensor:
    """Return a (rows, columns) weight in the order that `packed` reads."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)  # type: ignore[no-any-return]


class Compact:
    """The forward pass of one BERT-like model over its weights."""

    def __init__(self, tensors: dict[str, torch.Tensor], how: Recipe, dtype: torch.dtype, *, packing: bool) -> None:
        """Raises KeyError for a folder whose tensors bear other names."""
        config = how.config
        self.dim = int(config["hidden_size"])
        self.texts, self.tokens, self.beside = TEXTS, TOKENS, True
        self._heads = int(config["num_attention_heads"])
        self._eps = float(config.get("layer_norm_eps", 1e-12))
        self._first = how.pooling == "cls"
        self._embeddings = _embeddings(tensors, dtype, _start(config))
        lay = pack if packing else torch.Tensor.contiguous
        self._layers = [_layer(tensors, f"encoder.layer.{i}.", dtype, lay) for i in range(int(config["num_hidden_layers"]))]
        self._vectors = _compile(packed if packing else plain)

    def arrange(self, texts: list[list[int]]) -> Rows:
        """Lay out tokenised texts."""
        return lay_out(texts)

    def vectors(self, rows: Rows) -> torch.Tensor:
        """Return the pooled states, (n, dim) float32, in the order of the texts."""
        return self._vectors(
            rows.ids,
            rows.positions,
            rows.owner,
            rows.texts,
            self._embeddings,
            self._layers,
            self._heads,
            self._eps,
            self._first,
        )


def _start(config: dict[str, Any]) -> int:
    """Return the row of the position embeddings that a text's first token takes."""
    return (int(config.get("pad_token_id") or 0) + 1) * FAMILIES[config["model_type"]]


def _embeddings(tensors: dict[str, torch.Tensor], dtype: torch.dtype, start: int) -> list[torch.Tensor]:
    """Return words, positions with the one token type added, and the norm's two.

    Words stay as they are in the file, mapped into memory: as float32 a vocabulary of 250,000 would take 384 MB more.
    """
    places = tensors["embeddings.position_embeddings.weight"].float()[start:]
    places = places + tensors["embeddings.token_type_embeddings.weight"][0].float()
    norm = [tensors[f"embeddings.LayerNorm.{part}"].to(dtype) for part in ("weight", "bias")]
    return [tensors["embeddings.word_embeddings.weight"], places.to(dtype), *norm]


def _layer(
    tensors: dict[str, torch.Tensor], at: str, dtype: torch.dtype, lay: Callable[[torch.Tensor], torch.Tensor]
) -> list[torch.Tensor]:
    """Return a layer's 12 tensors."""

    def pair(name: str) -> list[torch.Tensor]:
        return [tensors[f"{at}{name}.{part}"].to(dtype) for part in ("weight", "bias")]

    qkv = [
        torch.cat(parts) for parts in zip(*(pair(f"attention.self.{each}") for each in ("query", "key", "value")), strict=True)
    ]
    linears = [qkv, pair("attention.output.dense"), pair("intermediate.dense"), pair("output.dense")]
    linears = [[lay(weight), bias] for weight, bias in linears]
    norms = [pair("attention.output.LayerNorm"), pair("output.LayerNorm")]
    return [*linears[0], *linears[1], *norms[0], *linears[2], *linears[3], *norms[1]]


def load(folder: Path, how: Recipe, dtype: torch.dtype) -> Compact | None:
    """Return the forward pass of a folder's model, or None where it is of another architecture."""
    config = how.config
    plain_bert = (
        how.model_type in FAMILIES
        and how.pooling != "last"
        and config.get("hidden_act", "gelu") == "gelu"
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder")
    )
    if not plain_bert:
        return None
    tensors = dict(_tensors(folder))
    if "embeddings.word_embeddings.weight" not in tensors or "embeddings.LayerNorm.weight" not in tensors:
        return None  # names of before 2020 (gamma, beta), which transformers still reads
    return Compact(tensors, how, dtype, packing=can_pack(dtype))


def _tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    from safetensors.torch import load_file

    for path in sorted(folder.glob("model*.safetensors")):
        for name, tensor in load_file(path).items():
            yield next((name.removeprefix(each) for each in _PREFIX if name.startswith(each)), name), tensor
