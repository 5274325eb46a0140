"""Texts to unit vectors with a transformer: BERT-style models by mean or first token, GPT-style by the last.

Three steps, so that each can be overlapped, timed and tested alone: `pre` tokenises and lays out (CPU), `core` computes
(device), `post` normalises, centres and restores the order. Knows nothing of where a folder of weights comes from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from encoders import EncoderError, Progress, Vectors, centring, compact, device, padded, recipe

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHARACTERS_PER_TOKEN = 16  # texts are cut at 16 times the most tokens before tokenising, so that one of 1 MB costs no more
LEAST_NORM = 1e-6  # a vector shorter than this has no direction


class Engine(Protocol):
    """A model's forward pass and pooling over tokenised texts."""

    dim: int
    texts: int  # the most texts of one call
    tokens: int  # the most tokens of one call, but for a text that alone has more
    beside: bool  # whether calls run beside each other, a thread each, as they let go of the GIL; else all threads share a call

    def arrange(self, texts: list[list[int]]) -> Any:
        """Lay out tokenised texts, shortest first, as `vectors` wants them."""

    def vectors(self, arranged: Any) -> torch.Tensor:
        """Return the pooled states, (n, dim) float32 on the device, in the order of the texts."""


MANY = 32  # texts from which on all threads share a call: below, on busy cores, two wait for each other: 6-18 ms, not 2
LEAST = 24  # tokens that are worth a thread of their own


@dataclass(frozen=True)
class Batch:
    """Tokenised texts as the engine wants them, in as many calls as it needs; `order`: row -> place among the texts."""

    calls: list[Any]
    order: NDArray[np.intp]


class TransformerEncoder:
    """An engine, its tokenizer and how to use the two; `load` makes one."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, prefix: str, max_tokens: int) -> None:
        self.dim = engine.dim
        self.id = ""
        self.reason = ""
        self.centre: Vectors | None = None  # (2, dim), see centring.shared_part
        self._engine = engine
        self._tokenizer = tokenizer
        self._prefix = prefix
        self._characters = max_tokens * CHARACTERS_PER_TOKEN
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens)
        self._nothing = _token_for_nothing(tokenizer)
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self._threads, "encode") if engine.beside and self._threads > 1 else None

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return (n, dim) float32, rows of unit norm in the order of `texts`."""
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        batch = self.pre(texts)
        return self.post(self.core(batch), batch)

    def pre(self, texts: Sequence[str]) -> Batch:
        """Tokenise, sort by length, lay out."""
        cut = [self._prefix + text[: self._characters].encode("utf-8", "replace").decode() for text in texts]
        ids = [encoding.ids or self._nothing for encoding in self._tokenizer.encode_batch_fast(cut)]
        order = np.argsort([len(row) for row in ids], kind="stable")
        lengths = np.array([len(ids[row]) for row in order])
        tokens = self._engine.tokens if self._pool is None else share(lengths, self._threads, self._engine.tokens)
        bounds = calls(lengths, self._engine.texts, tokens)
        return Batch([self._engine.arrange([ids[row] for row in order[start:stop]]) for start, stop in bounds], order)

    def core(self, batch: Batch) -> list[torch.Tensor]:
        """Return each call's pooled states, (n, dim) float32 on the device."""
        torch.set_num_threads(1 if self._engine.beside or len(batch.order) < MANY else self._threads)
        if self._pool is None or len(batch.calls) == 1:
            return [self._call(call) for call in batch.calls]
        return list(self._pool.map(self._call, batch.calls))

    def _call(self, arranged: Any) -> torch.Tensor:
        with torch.inference_mode():  # of this thread
            return self._engine.vectors(arranged)

    def post(self, pooled: list[torch.Tensor], batch: Batch) -> Vectors:
        """Bring the vectors back, normalise, centre, put them in the order of the texts.

        In NumPy: each of torch's operations would let go of the GIL and wait for it again, for 10 us of work.
        """
        vectors = _unit(np.concatenate([each.numpy(force=True) for each in pooled]))
        if self.centre is not None:
            vectors = _unit(centring.without(vectors, self.centre))
        rows = np.empty_like(vectors)
        rows[batch.order] = vectors
        return rows


def calls(lengths: NDArray[np.int_], texts: int, tokens: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) over the lengths of n texts, n > 0: no call has more texts or tokens, but for a text alone."""
    start = held = 0
    for i, length in enumerate(lengths.tolist()):
        if i > start and (i - start == texts or held + length > tokens):
            yield start, i
            start, held = i, 0
        held += length
    yield start, len(lengths)


def share(lengths: NDArray[np.int_], threads: int, most: int) -> int:
    """Return how many tokens a call may have, at most `most`: the calls of n ascending lengths then keep all threads busy."""
    total = int(lengths.sum())
    count = min(threads * math.ceil(total / (threads * most)), max(1, total // LEAST))
    return min(most, math.ceil(total / count) + int(lengths[-1]) // 2)


def _unit(vectors: Vectors) -> Vectors:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(norms).all():
        raise FloatingPointError("the model gave vectors that are not finite: set the dtype to float32, or check the weights")
    if (norms < LEAST_NORM).any():  # a text that is nothing but what all share has no direction left: it takes a fixed one
        vectors = np.where(norms < LEAST_NORM, np.eye(1, vectors.shape[1], dtype=np.float32), vectors)
        norms = np.where(norms < LEAST_NORM, np.float32(1), norms)
    unit: Vectors = vectors / norms
    return unit


def _token_for_nothing(tokenizer: Tokenizer) -> list[int]:
    """Return what an empty text becomes where the tokenizer adds no token of its own: the first special one."""
    special = sorted(i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special)
    return special[:1] or [0]


def load(
    folder: Path,
    *,
    name: str,
    digest: str | None,
    cache: Path,
    device_name: str = "auto",
    dtype: str = "auto",
    max_tokens: int = 128,
    threads: int | None = None,
    centre: bool = True,
    graphs: bool = False,
    progress: Progress | None = None,
) -> TransformerEncoder:
    """Return the encoder of a model's folder. Raises EncoderError."""
    if threads is not None:
        torch.set_num_threads(threads)
    how = recipe.read(folder, name)
    digest = digest or recipe.fingerprint(folder, name)
    engine, choice = _engine(folder, name, how, device_name, dtype, graphs)
    encoder = TransformerEncoder(engine, _tokenizer(folder, name, how), how.prefix, min(max_tokens, how.limit))
    encoder.reason = f"{name} on {choice.device} in {choice.dtype}: {choice.why}"
    encoder.id = centring.identity(name, digest, how, centre)
    if centre:
        encoder.centre = centring.shared_part(encoder, cache, progress)
    if isinstance(engine, compact.Compact):
        _warm(encoder)
    return encoder


def _warm(encoder: TransformerEncoder) -> None:
    """Encode a text of each row's width and two batches, twice: a graph's and a shape's first calls take 3-25 ms longer."""
    for _ in range(2):
        for words in range(4, 64, 8):
            encoder.encode(["news " * words])
        encoder.encode(["news"] * 8)
        encoder.encode(["news " * 8] * 32)


def _engine(
    folder: Path, name: str, how: recipe.Recipe, device_name: str, dtype: str, graphs: bool
) -> tuple[Engine, device.Choice]:
    """Return the compact engine where it fits, else transformers' own model, and where it runs."""
    choice = device.choose(device_name, dtype, device.probe())
    as_torch: torch.dtype = getattr(torch, choice.dtype)
    if choice.device == "cpu":
        fast = compact.load(folder, how, as_torch)
        if fast is not None:
            return fast, choice
    return padded.load(folder, name, how, choice.device, as_torch, graphs=graphs and choice.device != "cpu"), choice


def _tokenizer(folder: Path, name: str, how: recipe.Recipe) -> Tokenizer:
    tokenizer = _fast_tokenizer(folder, name, how)
    if how.lower:
        from tokenizers import normalizers

        own = [tokenizer.normalizer] if tokenizer.normalizer else []
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    return tokenizer


def _fast_tokenizer(folder: Path, name: str, how: recipe.Recipe) -> Tokenizer:
    if how.model_type in compact.FAMILIES and (folder / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(folder / "tokenizer.json"))  # without transformers, whose import takes 3 s
    from transformers import AutoTokenizer

    with padded.quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.is_fast:
        raise EncoderError(f"encoder {name!r}: {folder} has no fast tokenizer: save it with a tokenizer.json")
    return tokenizer.backend_tokenizer  # type: ignore[no-any-return]
