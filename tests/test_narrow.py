"""Vectors in fewer dimensions: unit rows of the first ones, under an id and topics of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from planted import Counting, clusters

from encoders import EncoderError
from encoders.narrow import NarrowEncoder, narrowed
from streams.building import load_encoder
from streams.settings import load
from streams.topics import topics


def test_the_first_are_kept() -> None:
    """What differs in the first dimensions differs as before, and what does not is as one."""
    rows = np.array([[3, 0, 4], [0, 5, 1], [0, -2, 9]], np.float32)
    np.testing.assert_allclose(narrowed(rows, 2), [[1, 0], [0, 1], [0, -1]])


def test_nothing_left() -> None:
    """A vector that is nothing of what is kept is a fixed unit vector, and not a division by zero."""
    np.testing.assert_array_equal(narrowed(np.eye(1, 8, 7, dtype=np.float32), 4), np.eye(1, 4))


def test_neighbours_stay() -> None:
    """Vectors that are spread over all dimensions keep their neighbours in a half of them."""
    rows = narrowed(clusters(20, 5, dim=64, spread=0.02), 32)
    cosines = rows @ rows.T - 2 * np.eye(100)
    assert (cosines.argmax(1) // 5 == np.arange(100) // 5).all()


def test_a_narrow_encoder_is_another() -> None:
    """It has an id and a width of its own, and gives finite unit rows of every text."""
    wide = Counting(32)
    narrow = NarrowEncoder(wide, 8)
    assert (narrow.id, narrow.dim) == (f"{wide.id}-d8", 8)
    vectors = narrow.encode(["green tea", "", "绿茶"])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert narrow.encode([]).shape == (0, 8)


@pytest.mark.parametrize("dim", [0, 32, 100])
def test_a_width_that_is_none(dim: int) -> None:
    """As many dimensions as there are, more, or none are refused."""
    with pytest.raises(EncoderError, match=f"has 32 dimensions: {dim} of them cannot be kept"):
        NarrowEncoder(Counting(32), dim)


def test_the_setting_picks_a_width_and_topics(tmp_path: Path) -> None:
    """Each choice has its width, id and topics; none is the encoder itself."""
    chosen = {name: load(encoder="hashing", cache_dir=tmp_path, compact=name) for name in ("none", "half", "third", "quarter")}
    made = {name: load_encoder(settings) for name, settings in chosen.items()}
    assert {name: encoder.dim for name, encoder in made.items()} == {"none": 256, "half": 128, "third": 85, "quarter": 64}
    assert len({encoder.id for encoder in made.values()}) == 4
    assert made["none"].id == "hashing-256"
    assert len({topics(settings).item_vectors.name for settings in chosen.values()}) == 4
    assert topics(chosen["none"]).item_vectors.name == "item-vectors-hashing"
