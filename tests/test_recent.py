"""Vectors of texts that came lately: the same as without, bounded, and told in the metrics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from contract import EncoderContract
from hypothesis import given
from hypothesis import strategies as st

from encoders import Encoder, Vectors
from encoders.hashing import HashingEncoder
from streams.building import build
from streams.messages import Event
from streams.metrics import Metrics
from streams.recent import Recent
from streams.settings import SettingsError, load


class Counted(HashingEncoder):
    """An encoder that notes what it was asked for."""

    def __init__(self) -> None:
        super().__init__(16)
        self.asked: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.asked.append(list(texts))
        if "poison" in texts:
            raise FloatingPointError("poison")
        return super().encode(texts)


@pytest.fixture
def encoder() -> Encoder:
    """Two texts are kept, fewer than any batch of the contract has."""
    return Recent(HashingEncoder(64), 2)


class TestContract(EncoderContract):
    """What holds for every encoder holds behind the memory of texts."""


@given(st.lists(st.lists(st.sampled_from("abcdefg"), max_size=9), max_size=12), st.integers(1, 8))
def test_vectors_are_those_of_the_encoder(batches: list[list[str]], size: int) -> None:
    """Whatever came before, rows are those of the encoder, in order; no more than `size` texts are kept, the latest."""
    recent = Recent(Counted(), size)
    for batch in batches:
        np.testing.assert_array_equal(recent.encode(batch), HashingEncoder(16).encode(batch))
        assert len(recent._places) <= size
        assert len(set(recent._places.values())) == len(recent._places)
    assert recent.known + recent.encoded == sum(len(batch) for batch in batches)


def test_only_new_texts_are_encoded_each_once() -> None:
    """A text that is known, or that comes twice in a batch, costs the encoder nothing; all known: it is not called."""
    inner = Counted()
    recent = Recent(inner, 4)
    recent.encode(["tea", "jazz", "tea"])
    recent.encode(["jazz", "cat"])
    recent.encode(["cat", "tea"])
    assert inner.asked == [["tea", "jazz"], ["cat"]]
    assert (recent.known, recent.encoded) == (4, 3)


def test_the_least_recently_used_text_goes_first() -> None:
    """A text that was used again outlives one that was not."""
    inner = Counted()
    recent = Recent(inner, 2)
    for text in ("tea", "jazz", "tea", "cat", "tea", "jazz"):
        recent.encode([text])
    assert inner.asked == [["tea"], ["jazz"], ["cat"], ["jazz"]]


def test_a_batch_that_fails_changes_nothing() -> None:
    """After an error of the encoder the texts known before are known still, and no other; nothing is counted."""
    inner = Counted()
    recent = Recent(inner, 4)
    recent.encode(["tea"])
    with pytest.raises(FloatingPointError):
        recent.encode(["tea", "jazz", "poison"])
    recent.encode(["jazz", "tea"])
    assert inner.asked == [["tea"], ["jazz", "poison"], ["jazz"]]
    assert (recent.known, recent.encoded) == (1, 2)


def test_callers_may_change_what_they_got() -> None:
    """Rows are the caller's own: writing into them does not reach what is kept."""
    recent = Recent(Counted(), 4)
    recent.encode(["tea"])[:] = 7
    recent.encode(["tea"])[:] = 7
    np.testing.assert_array_equal(recent.encode(["tea"]), HashingEncoder(16).encode(["tea"]))


def test_the_same_search_of_two_users_is_encoded_once() -> None:
    """Behind the step that workers run, a text is the same whoever said it."""
    recent = Recent(HashingEncoder(), 8)
    step = build(recent, load(encoder="hashing"))
    searches = [Event(event_id=user, user_id=user, type="search", at=0.0, text="green tea") for user in ("ann", "bob")]
    first, second = (step.encode([search]) for search in searches)
    np.testing.assert_array_equal(first.vectors, second.vectors)
    assert (recent.known, recent.encoded) == (1, 1)


def test_the_metrics_tell_how_many_were_known() -> None:
    """Both counts are read at the scrape; without a memory of texts there is neither."""
    metrics, recent = Metrics(), Recent(Counted(), 4)
    assert b"headrace_texts_total{" not in metrics.text()
    metrics.watch_texts(recent)
    recent.encode(["tea", "jazz", "tea"])
    told = metrics.text().decode()
    assert 'headrace_texts_total{outcome="known"} 1.0' in told
    assert 'headrace_texts_total{outcome="encoded"} 2.0' in told


def test_the_setting_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """HEADRACE_TEXT_CACHE takes 0 and no less."""
    monkeypatch.setenv("HEADRACE_TEXT_CACHE", "0")
    assert load().text_cache == 0
    monkeypatch.setenv("HEADRACE_TEXT_CACHE", "-1")
    with pytest.raises(SettingsError, match="HEADRACE_TEXT_CACHE"):
        load()
