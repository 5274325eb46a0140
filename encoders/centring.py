"""What all texts share, which an encoder takes out of every vector, and the id that says so.

The cosines of E5's vectors all lie in .7-1, those of a decoder's states are closer still, and texts of one language are nearer
to each other than a text is to its own translation. So the mean over the texts of centre.txt (half Chinese, half English) is
subtracted, and the first principal direction of the same texts, which is the language, is projected out ("all but the top",
Mu and Viswanath, 2018). With E5, 30 Chinese texts and their English translations, all in one pool: the nearest text is the
translation for .77 of them raw, .75 less the mean, 1.00 less the direction too; within a language nothing changes.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from encoders import EncoderError, Progress, Vectors
from encoders.recipe import Recipe

TEXTS = Path(__file__).with_name("centre.txt")
METHOD = b"mean and first direction"  # part of the id


class _Centred(Protocol):
    id: str
    dim: int

    def encode(self, texts: Sequence[str]) -> Vectors: ...


def identity(name: str, digest: str, how: Recipe, centred: bool) -> str:
    """Return an encoder's id, fit for a topic's name: weights, pooling, case, digests of the prefix and of the centre."""
    parts = [re.sub(r"[^A-Za-z0-9._-]", "-", name)[:80], digest, how.pooling]
    if how.lower:
        parts.append("lower")
    if how.prefix:
        parts.append("p" + hashlib.sha256(how.prefix.encode()).hexdigest()[:4])
    if centred:
        parts.append("c" + hashlib.sha256(METHOD + TEXTS.read_bytes()).hexdigest()[:4])
    return "-".join(parts)


def shared_part(encoder: _Centred, cache: Path, progress: Progress | None = None) -> Vectors:
    """Return (2, dim) float32, the mean and the first principal direction (unit norm) of the encoder's own vectors.

    Computed once per id and kept in the cache folder, in the format of whoever comes first: between bfloat16 and float32 single
    numbers of a centred vector differ by up to .002.
    """
    path = cache / "centres" / f"{encoder.id}.npy"
    if path.is_file():
        kept: Vectors = np.load(path, allow_pickle=False)
        return kept
    if progress:
        progress(f"computing what all texts share for {encoder.id}, once")
    vectors = encoder.encode(TEXTS.read_text("utf-8").splitlines())
    mean = vectors.mean(0)
    direction = np.linalg.svd(vectors - mean, full_matrices=False)[2][0]
    part = np.stack([mean, direction]).astype(np.float32)
    _write(path, part)
    return part


def without(vectors: Vectors, part: Vectors) -> Vectors:
    """Return (n, dim) vectors without the mean and the direction of `shared_part`; the norms are what is left."""
    rest: Vectors = vectors - part[0]
    rest -= (rest @ part[1])[:, None] * part[1]
    return rest


def _write(path: Path, part: Vectors) -> None:
    """Write through a temporary file, so that a process which starts beside this one reads a whole file or none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
    except OSError as error:
        raise EncoderError(
            f"the cache folder {path.parent} cannot be written ({error.strerror}): make it writable, or name another"
        ) from None
    with os.fdopen(handle, "wb") as file:
        np.save(file, part)
    Path(name).replace(path)
