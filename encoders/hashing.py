"""An encoder without weights: hashed words and character n-grams, the same on every machine.

Knows no language and no meaning: texts are near each other when they share words or parts of words. For tests and a first run.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b

import numpy as np

from encoders import EncoderError, Vectors

DEFAULT_DIM = 256
LEAST_DIM, MOST_DIM = 8, 65_536
MOST_CHARACTERS = 8_192  # a longer text adds time and no new subject

# Scripts that write words without blanks between them: there a word is taken to be two characters.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_RUNS = re.compile(rf"[{_UNSPACED}]+|[^\W{_UNSPACED}]+|[^\w\s]")


class HashingEncoder:
    """Sign-hashed counts of words and character n-grams, each dampened to 1 + log(count)."""

    def __init__(self, dim: int = DEFAULT_DIM) -> None:
        if not LEAST_DIM <= dim <= MOST_DIM:
            raise EncoderError(f"hashing:{dim} is out of range: give a width of {LEAST_DIM} to {MOST_DIM}, as in hashing:256")
        self.dim = dim
        self.id = f"hashing-{dim}"
        self.reason = f"hashing on cpu in float32: {dim} hashed features, no weights"

    @classmethod
    def named(cls, name: str) -> HashingEncoder:
        """Return the encoder that `hashing` or `hashing:DIM` names. Raises EncoderError."""
        width = name.partition(":")[2] if ":" in name else str(DEFAULT_DIM)
        if not (width.isascii() and width.isdigit()):
            raise EncoderError(f"{name!r} has no width after the colon: write hashing:256")
        return cls(int(width))

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return (n, dim) float32, rows of unit norm."""
        rows = np.zeros((len(texts), self.dim), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for feature, count in Counter(_features(text[:MOST_CHARACTERS])).items():
                slot, sign, weight = _place(feature)
                row[slot % self.dim] += sign * weight * (1.0 + np.log(count))
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        rows[norms[:, 0] == 0, 0] = 1.0  # an empty text, or one whose features cancel out: a fixed unit vector
        norms[norms == 0] = 1.0
        unit: Vectors = rows / norms
        return unit


def _features(text: str) -> Iterator[str]:
    """Yield `w:` words and `g:` their trigrams with ends marked; in unspaced scripts `c:` characters and `w:` pairs of them."""
    for run in _RUNS.findall(unicodedata.normalize("NFKC", text).casefold()):
        if re.match(f"[{_UNSPACED}]", run):
            yield from (f"c:{character}" for character in run)
            yield from (f"w:{run[i : i + 2]}" for i in range(len(run) - 1))
        else:
            yield f"w:{run}"
            marked = f"<{run}>"
            yield from (f"g:{marked[i : i + 3]}" for i in range(len(marked) - 2) if len(run) > 2)


_WEIGHTS = {"w": 1.0, "g": 0.35, "c": 0.5}  # a word of six letters has six trigrams: together they weigh about as much as it


@lru_cache(maxsize=200_000)
def _place(feature: str) -> tuple[int, float, float]:
    """Return the slot (before the modulus), sign and weight of a feature; by BLAKE2b, as Python's hash differs per process."""
    digest = int.from_bytes(blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
    return digest >> 1, 1.0 if digest & 1 else -1.0, _WEIGHTS[feature[0]]
