"""What every encoder promises, as tests that a class of tests inherits; the fixture `encoder` says whose."""

from __future__ import annotations

import numpy as np

from encoders import Encoder

TEXTS = [
    "精品咖啡豆，味道不错，还想尝试一些新口味",
    "",
    "Wireless headphones with 40 h battery",
    "☕️🎧🏃‍♂️ 🇨🇳",
    "I bought this 智能手表 last week, está muy bien, コーヒーも好き",
    "word " * 3_000,
    "a",
    " \t\n ",
    "深" * 5_000,
    "line\x00with\u200bodd\ufffdcharacters \ud800",
]


class EncoderContract:
    """The contract of `encoders.Encoder`: rows, order, lengths, odd texts."""

    def test_rows_are_unit_vectors_of_the_stated_width(self, encoder: Encoder) -> None:
        """Empty, long, mixed and odd texts alike give finite float32 rows of norm 1."""
        vectors = encoder.encode(TEXTS)
        assert vectors.shape == (len(TEXTS), encoder.dim)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)

    def test_no_texts_give_no_rows(self, encoder: Encoder) -> None:
        """An empty list has the encoder's width."""
        assert encoder.encode([]).shape == (0, encoder.dim)

    def test_a_text_has_one_vector_whatever_is_beside_it(self, encoder: Encoder) -> None:
        """Alone, in a batch and in the batch turned round, a text has the same vector at its own place."""
        batch = encoder.encode(TEXTS)
        alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
        turned = encoder.encode(TEXTS[::-1])[::-1]
        assert (np.einsum("nd,nd->n", batch, alone) > 0.9999).all()
        assert (np.einsum("nd,nd->n", batch, turned) > 0.9999).all()

    def test_texts_that_differ_have_vectors_that_differ(self, encoder: Encoder) -> None:
        """The vector is the text's: two subjects are two directions, so that a mixed-up order cannot go unseen."""
        coffee, news = encoder.encode(["coffee beans", "news sport"])
        assert coffee @ news < 0.99

    def test_the_end_of_a_too_long_text_does_not_count(self, encoder: Encoder) -> None:
        """Texts are cut: what comes after the most tokens changes nothing."""
        start = "coffee beans " * 5_000
        vectors = encoder.encode([start, start + "football"])
        np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)

    def test_half_a_character_spoils_nothing(self, encoder: Encoder) -> None:
        """A lone surrogate, as broken clients send it, is read as something, and the texts beside it as ever."""
        alone = encoder.encode(["coffee beans"])[0]
        beside = encoder.encode(["\ud83d", "coffee beans", "tea \udc00 beans"])
        assert np.isfinite(beside).all()
        assert beside[1] @ alone > 0.9999

    def test_the_id_fits_a_topics_name(self, encoder: Encoder) -> None:
        """An id has letters, digits, dots, lines and dashes alone."""
        assert set(encoder.id) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
