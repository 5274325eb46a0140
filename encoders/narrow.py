"""Vectors in fewer dimensions: the first of an encoder's, made unit length again.

Models that were trained for it (Matryoshka, Kusupati et al., 2022) hold most in the first. For those that were not it costs
little: of all-MiniLM-L6-v2's 384, the first 192 found what principal or random axes found, the first 96 a twentieth less than
random ones (docs/log.md).
Knows no index and no profile: a narrower encoder is another encoder, with an id of its own, and all that is made of its vectors
is smaller.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from encoders import Encoder, EncoderError, Vectors

LEAST_NORM = 1e-6  # a vector with less in what is kept has no direction left


class NarrowEncoder:
    """An encoder that keeps the first `dim` dimensions of another's vectors. Raises EncoderError where it has no more."""

    def __init__(self, encoder: Encoder, dim: int) -> None:
        if not 1 <= dim < encoder.dim:
            raise EncoderError(f"{encoder.id} has {encoder.dim} dimensions: {dim} of them cannot be kept")
        self._encoder = encoder
        self.dim = dim
        self.id = f"{encoder.id}-d{dim}"
        self.reason = f"{encoder.reason}; the first {dim} of {encoder.dim} dimensions"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return (n, dim) float32, rows of unit norm."""
        return narrowed(self._encoder.encode(texts), self.dim)


def narrowed(vectors: Vectors, dim: int) -> Vectors:
    """Return (n, dim) unit rows of wider ones; a row with nothing in what is kept takes the first axis."""
    rows = vectors[:, :dim]
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(norms > LEAST_NORM, rows / np.maximum(norms, LEAST_NORM), np.eye(1, dim, dtype=np.float32))
