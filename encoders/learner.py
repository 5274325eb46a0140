"""A model that learns: its weights in float32, its tokenizer, and how its folder wants to be read.

Knows no objective and no adapter. What is computed forward may be in half the bits (autocast); weights and their updates are
float32 wherever. Tokens are made once, before the first epoch: `rows` of token ids, and of token types where pairs have them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from encoders import EncoderError, device, padded, recipe
from encoders.transformer import CHARACTERS_PER_TOKEN

DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "attention_dropout",
)
EVALUATED = 8_192  # tokens computed at once where nothing is learnt
TOKENISED = 1_024  # texts tokenised at once: what the tokenizer tells of a token, its place and word, takes 100 times the id


class Rows(NamedTuple):
    """Tokenised texts or pairs, (l,) int32 each. types: token types, as long as their ids, or none."""

    ids: list[NDArray[np.int32]]
    types: list[NDArray[np.int32]] | None = None


@dataclass
class Learner:
    """model: one of transformers', on `place`; dtype: what is computed in; why: the reason, for the reader."""

    folder: Path
    name: str
    how: recipe.Recipe
    model: Any
    tokenizer: Any
    max_tokens: int
    place: str
    dtype: torch.dtype
    why: str

    def tokens(self, texts: Sequence[str], seconds: Sequence[str] | None = None) -> Rows:
        """Return the tokens of texts, each with the model's prefix, or of pairs with their `seconds` and no prefix."""
        nothing = [next((i for i in self.tokenizer.all_special_ids), 0)]
        ids, types = [], []
        for start in range(0, len(texts), TOKENISED):
            some = slice(start, start + TOKENISED)
            made = self._tokens(texts[some], seconds[some] if seconds is not None else None)
            ids += [np.array(row or nothing, np.int32) for row in made["input_ids"]]
            if seconds is not None:
                types += [np.array(row, np.int32) for row in made.get("token_type_ids", ())]
        return Rows(ids, types or None)

    def _tokens(self, texts: Sequence[str], seconds: Sequence[str] | None) -> Any:
        cut = [self._cut(text) for text in texts]
        if seconds is None:
            return self.tokenizer([self.how.prefix + text for text in cut], truncation=True, max_length=self.max_tokens)
        then = [self._cut(text) for text in seconds]
        return self.tokenizer(cut, then, truncation="longest_first", max_length=self.max_tokens)

    def _cut(self, text: str) -> str:
        cut = text[: self.max_tokens * CHARACTERS_PER_TOKEN].encode("utf-8", "replace").decode()
        return cut.lower() if self.how.lower else cut

    def inputs(self, rows: Rows, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Return what the model reads of some rows: ids, mask (and types), (b, l) int64 each, pads on the right."""
        ids, mask = padded_rows([rows.ids[number] for number in numbers])
        made = {"input_ids": ids, "attention_mask": mask}
        if rows.types is not None:
            made["token_type_ids"] = padded_rows([rows.types[number] for number in numbers])[0]
        return {name: tensor.to(self.place) for name, tensor in made.items()}

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the block in which the model computes in `dtype`."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(torch.device(self.place).type, dtype=self.dtype)

    def vectors(self, rows: Rows, numbers: Sequence[int], most: int = EVALUATED) -> Tensor:
        """Return (n, dim) float32 of unit norm, in the order of `numbers`; slices of at most so many tokens."""
        order = np.argsort([len(rows.ids[number]) for number in numbers], kind="stable")
        parts = []
        for part in by_length([len(rows.ids[numbers[i]]) for i in order], most):
            inputs = self.inputs(rows, [numbers[i] for i in order[part]])
            with self.autocast():
                states = self.model(**inputs).last_hidden_state  # (b, l, d)
            parts.append(padded.pool(states, inputs["attention_mask"], self.how.pooling))
        back = torch.from_numpy(np.argsort(order, kind="stable")).to(self.place)
        return nn.functional.normalize(torch.cat(parts)[back], dim=-1)

    @torch.inference_mode()
    def encoded(self, rows: Rows) -> NDArray[np.float32]:
        """Return (n, dim) float32 of unit norm of all rows; nothing is dropped out."""
        self.model.eval()
        made: NDArray[np.float32] = self.vectors(rows, range(len(rows.ids))).cpu().numpy()
        return made


def padded_rows(rows: Sequence[NDArray[np.int32]]) -> tuple[Tensor, Tensor]:
    """Return ids, 0 where there are none, and a mask of 1 and 0: (b, l) int64 each."""
    lengths = np.array([len(row) for row in rows])
    real = np.arange(lengths.max()) < lengths[:, None]  # (b, l)
    ids = np.zeros(real.shape, np.int64)
    ids[real] = np.concatenate(rows)
    return torch.from_numpy(ids), torch.from_numpy(real.astype(np.int64))


def by_length(lengths: Sequence[int], most: int) -> list[slice]:
    """Return slices over ascending lengths, each of at most `most` tokens with pads, or one row."""
    cuts = [0]
    for i, length in enumerate(lengths):
        if i > cuts[-1] and length * (i + 1 - cuts[-1]) > most:
            cuts.append(i)
    return [slice(start, stop) for start, stop in zip(cuts, [*cuts[1:], len(lengths)], strict=True)]


Build = Callable[[Path], Any]


def load(
    folder: Path, name: str, build: Build, *, device_name: str = "auto", dtype: str = "auto", max_tokens: int = 128
) -> Learner:
    """Return a folder's model as `build` makes it, ready to learn. Raises EncoderError."""
    how = recipe.read(folder, name, can_encode=False)
    from transformers import AutoTokenizer

    choice = device.choose(device_name, dtype, device.probe())
    try:
        with padded.quiet():
            model = build(folder)
            tokenizer = AutoTokenizer.from_pretrained(folder)
    except EncoderError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise EncoderError(f"encoder {name!r}: transformers cannot load {folder}: {error}") from error
    if choice.device == "cpu":
        model.set_attn_implementation("eager")  # on a CPU the backward pass of torch's fused attention takes 3 times as long
    model.to(choice.device)
    limit = min(max_tokens, how.limit)
    return Learner(
        folder, name, how, model, tokenizer, limit, choice.device, getattr(torch, choice.dtype), f"{choice.dtype}: {choice.why}"
    )


def as_encoder(folder: Path) -> Any:
    """Build the bare model, without a pooler that no vector comes from."""
    from transformers import AutoConfig, AutoModel

    extra = {"add_pooling_layer": False} if padded.has_pooler(AutoConfig.from_pretrained(folder)) else {}
    return AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa", **no_dropout(folder), **extra)


def no_dropout(folder: Path) -> dict[str, float]:
    """Return the rates of a model's own dropout as 0: on a CPU its random numbers take as long as the forward pass."""
    from transformers import AutoConfig

    told = AutoConfig.from_pretrained(folder).to_dict()
    return {name: 0.0 for name in DROPOUTS if name in told}
