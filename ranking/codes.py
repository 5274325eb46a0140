"""Vectors in 8 bits: a quarter of float32's memory, and no slower to score.

Each vector has a scale of its own, so that nothing is trained: v ~ code * scale, the largest code is 127, and the length of v
is kept. Encoding what was decoded gives the same codes. For unit vectors of 384 dims an inner product is off by about 0.0005.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 127


def encode(vectors: NDArray[np.floating[Any]]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return the codes, (n, dim), and scales, (n,), of n finite vectors."""
    exact = vectors.astype(np.float32)
    largest = np.abs(exact).max(axis=1, initial=0.0)
    codes = np.rint(exact * (LARGEST / np.where(largest > 0.0, largest, 1.0))[:, None]).astype(np.int8)
    lengths = np.linalg.norm(codes.astype(np.float32), axis=1)
    return codes, (np.linalg.norm(exact, axis=1) / np.where(lengths > 0.0, lengths, 1.0)).astype(np.float32)


def decode(codes: NDArray[np.int8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the vectors, (..., dim) float32, of codes and their scales, (...)."""
    return codes.astype(np.float32) * scales[..., None]
