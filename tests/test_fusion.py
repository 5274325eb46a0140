"""What ties images to texts, on planted worlds: features are a fixed turn of what the text means, and noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from encoders import Vectors, fusion
from encoders.fusion import Fusion, FusionError, fit, load, save, words_of

DIM, WIDTH, WORDS = 12, 40, 400
IDS = {"encoder": "planted", "images": "turned"}
MEANING = np.random.default_rng(7).normal(size=(WORDS, DIM)).astype(np.float32)


def encode(texts: Sequence[str]) -> Vectors:
    """Return the unit vector of the sum of each text's words."""
    rows = np.stack([MEANING[[int(word[1:]) for word in text.split()]].sum(0) for text in texts])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def world(count: int, noise: float, seed: int = 1, length: int = 8) -> tuple[list[str], np.ndarray]:
    """Return texts of words that are near what each item is, and features that show what it is, turned into another space."""
    rng = np.random.default_rng(seed)
    what = rng.normal(size=(count, DIM))
    what /= np.linalg.norm(what, axis=1, keepdims=True)
    drawn = [rng.choice(WORDS, length, replace=False, p=_softmax(1.5 * MEANING @ each)) for each in what]
    turn = np.random.default_rng(9).normal(size=(DIM, WIDTH))
    return [" ".join(f"w{word}" for word in words) for words in drawn], (
        what @ turn + noise * rng.normal(size=(count, WIDTH))
    ).astype(np.float32)


def _softmax(scores: np.ndarray) -> np.ndarray:
    chances = np.exp(scores - scores.max())
    return chances / chances.sum()


@pytest.fixture(scope="module")
def clear() -> Fusion:
    """A fusion of a world where images show all."""
    return fit(*world(300, noise=0.3), encode, **IDS)


def test_images_land_at_their_texts(clear: Fusion) -> None:
    """Of unseen items, the image's nearest text is its own, mostly: by chance one in a hundred would be."""
    texts, features = world(100, noise=0.3, seed=2)
    images, _ = clear.project(features)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, rtol=1e-5)
    assert ((images @ encode(texts).T).argmax(1) == np.arange(100)).mean() > 0.6


def test_images_that_show_nothing_are_left_out() -> None:
    """Where features are noise, items keep to their texts, and the figures do not claim otherwise."""
    texts, features = world(300, noise=0.3)
    shuffled = features[np.random.default_rng(3).permutation(len(features))]
    made = fit(texts, shuffled, encode, **IDS)
    assert made.report["share"] < 0.3
    assert made.report["mrr"]["both"] > made.report["mrr"]["text"] - 0.02
    assert made.report["mrr"]["image"] < 0.15


def test_poor_texts_take_more_of_the_image(clear: Fusion) -> None:
    """An item of one word takes more of its image than one of eight, and is found better with it than without."""
    texts, features = world(100, noise=0.3, seed=4)
    images, away = clear.project(features)
    poor = [text.split()[0] for text in texts]
    of_poor, of_rich = (clear.shares(encode(own), words_of(own), images, away) for own in (poor, texts))
    assert of_poor.mean() > of_rich.mean()
    fused = clear.fuse(encode(poor), words_of(poor), features, np.zeros(100, np.bool_))
    asked = encode([" ".join(text.split()[4:]) for text in texts])
    found, alone = (((asked @ vectors.T).argmax(1) == np.arange(100)).mean() for vectors in (fused, encode(poor)))
    assert found > alone + 0.2
    assert clear.report["mrr"]["both"] > clear.report["mrr"]["text"]


def test_an_item_alone_is_its_image(clear: Fusion) -> None:
    """Where it says so the text has no part; elsewhere it has."""
    texts, features = world(6, noise=0.3, seed=5)
    alone = np.array([True, False] * 3)
    fused = clear.fuse(encode(texts), words_of(texts), features, alone)
    away = np.linalg.norm(fused - clear.project(features)[0], axis=1)
    assert (away < 1e-5).tolist() == alone.tolist()


def test_the_same_seed_gives_the_same_fusion() -> None:
    """Same data and seed: the same version; another seed: another."""
    texts, features = world(80, noise=0.5)
    one, same, other = (fit(texts, features, encode, **IDS, seed=seed) for seed in (1, 1, 2))
    assert one.version == same.version != other.version
    assert one.report == same.report


def test_too_few_items_are_refused() -> None:
    """Fewer items than can be held out of are an error with the number that is needed."""
    texts, features = world(20, noise=0.3)
    with pytest.raises(FusionError, match="20 items have a text and a readable image, 60 are needed"):
        fit(texts, features, encode, **IDS)


def test_words_are_counted_in_both_scripts() -> None:
    """A word is a word; of Chinese, two characters are one."""
    assert words_of(["green tea, 40 bags", "", "绿茶茶包"]).tolist() == [4, 0, 2]


def test_a_folder_holds_all_of_it(clear: Fusion, tmp_path: Path) -> None:
    """What was saved does what it did, under its version."""
    save(clear, tmp_path / "one")
    again = load(tmp_path / "one")
    assert (again.version, again.encoder, again.images, again.report) == (clear.version, "planted", "turned", clear.report)
    _, features = world(5, noise=0.3)
    np.testing.assert_array_equal(again.project(features)[0], clear.project(features)[0])


def test_a_damaged_folder_is_refused(clear: Fusion, tmp_path: Path) -> None:
    """A folder that is none, is cut, of a newer format, or put together of two is refused with the next step."""
    with pytest.raises(FusionError, match="is no fusion of images"):
        load(tmp_path)
    save(clear, tmp_path)
    save(replace(clear, gate=clear.gate + 1), tmp_path / "other")
    head = (tmp_path / fusion.HEAD).read_text()
    (tmp_path / fusion.HEAD).write_text((tmp_path / "other" / fusion.HEAD).read_text())
    with pytest.raises(FusionError, match="a part is damaged"):
        load(tmp_path)
    (tmp_path / fusion.HEAD).write_text(head.replace('"format": 1', '"format": 9'))
    with pytest.raises(FusionError, match="format 9, this version reads up to 1"):
        load(tmp_path)
    (tmp_path / fusion.HEAD).write_text(head)
    (tmp_path / fusion.TENSORS).write_bytes(b"cut")
    with pytest.raises(FusionError, match="train it again"):
        load(tmp_path)
