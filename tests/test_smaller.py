"""What the benchmarks of smaller vectors and formats measure, on vectors and models whose right answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from planted import clusters
from test_encoders_tiny import TEXTS, load, make_folder

from benchmarks import compression, formats, int8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT of random weights."""
    return make_folder(tmp_path_factory.mktemp("tiny") / "tiny", "bert")


def test_another_nearest_is_lost() -> None:
    """One of four texts has another neighbour when it turns away; cosines are those of the same text."""
    exact = np.array([[1, 0], [0.8, 0.6], [-1, 0], [-0.8, -0.6]], np.float32)
    moved = np.array([[1, 0], [-0.6, 0.8], [-1, 0], [-0.8, -0.6]], np.float32)
    assert formats.likeness(exact, exact)["top1_loss"] == 0
    told = formats.likeness(moved, exact)
    assert told["top1_loss"] == 0.25
    assert told["lowest"] == pytest.approx(0.0, abs=1e-6)
    assert told["cosine"] == pytest.approx(0.75)


def test_more_bits_are_nearer() -> None:
    """Each codec gives back more of a vector than one of fewer bits, and float16 nearly all."""
    vectors = clusters(60, 20, dim=64, spread=0.3)
    near = []
    for kind in ("signs", "PQ8", "PQ4", "SQfp16"):
        coded = compression.Coded(_Fixed(vectors), compression.codec_of(kind, vectors), kind).encode([])
        near.append(float(np.einsum("nd,nd->n", coded, vectors).mean()))
    assert near == sorted(near)
    assert near[2] > 0.9
    assert near[3] > 0.99999


def test_an_index_of_product_codes_is_of_the_codec() -> None:
    """Its search finds what is nearest by the codec's own vectors, and a vector takes a byte for each 8 numbers, twice."""
    vectors = clusters(30, 100, dim=64, spread=0.05)
    codec = compression.codec_of("PQ8", vectors)
    coded = compression.Coded(_Fixed(vectors), codec, "PQ8").encode([])
    size = compression.size_of_codec("PQ8", coded, coded[:50], codec)
    assert size.found > 0.9
    lists_and_books = compression.search.lists_for(3000) * 64 * 4 + 256 * 64 * 4
    assert size.mb * 3000 * 1e6 / compression.MANY == pytest.approx(3000 * (8 + 8 + 8) + lists_and_books, rel=0.05)


def test_an_index_of_product_codes_scores_what_the_codec_gives_back() -> None:
    """A score is the query times the codec's own decoded vector, in whichever list that is."""
    vectors = clusters(30, 20, dim=64, spread=0.1)
    codec = compression.codec_of("PQ8", vectors)
    index = compression._inverted(codec, 10, vectors)
    index.nprobe = 10
    index.add(vectors)
    scores, rows = index.search(vectors[:5], 7)
    left = codec.sa_decode(codec.sa_encode(vectors))
    np.testing.assert_allclose(scores, np.einsum("qkd,qd->qk", left[rows], vectors[:5]), rtol=1e-4)


class _Fixed:
    """An encoder of the vectors given."""

    id, reason = "fixed", ""

    def __init__(self, vectors: np.ndarray) -> None:
        self.dim, self._vectors = vectors.shape[1], vectors

    def encode(self, texts: object) -> np.ndarray:
        return self._vectors


@pytest.mark.parametrize("kind", [int8.BY_CALL, int8.BY_TOKEN])
def test_eight_bits_are_near_float32(folder: Path, kind: str, tmp_path: Path) -> None:
    """A model in 8 bits gives nearly the vectors of float32, is another encoder, and its layers weigh less than a half."""
    full = load(folder, tmp_path)
    small = int8.load(str(folder), kind, tmp_path, threads=1, max_tokens=40)
    assert small.id != full.id
    assert (np.einsum("nd,nd->n", small.encode(TEXTS), full.encode(TEXTS)) > 0.98).all()
    assert formats.megabytes(small)["layers"] < formats.megabytes(full)["layers"] / 2
    assert formats.megabytes(small)["words"] == formats.megabytes(full)["words"]


def test_a_scale_a_token_is_the_texts_own(folder: Path, tmp_path: Path) -> None:
    """With a scale a token, a text has the same vector whatever is beside it."""
    small = int8.load(str(folder), int8.BY_TOKEN, tmp_path, threads=1, max_tokens=40)
    alone = np.concatenate([small.encode([text]) for text in TEXTS])
    assert (np.einsum("nd,nd->n", small.encode(TEXTS), alone) > 0.9999).all()


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    """A GPT-style model has no compact forward pass to be measured in."""
    with pytest.raises(TypeError, match="only BERT-like models"):
        int8.load(str(make_folder(tmp_path / "gpt", "llama")), int8.BY_CALL, tmp_path, threads=1, max_tokens=40)
