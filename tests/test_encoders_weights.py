"""The contract of an encoder, over all that ship, and what real weights must know about meaning."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from contract import TEXTS, EncoderContract

import encoders
from encoders import Encoder

NAMES = {"hashing": 256, "all-MiniLM-L6-v2": 384, "multilingual-e5-small": 384, "smollm2-135m": 576}


@pytest.fixture(scope="session")
def cache() -> Iterator[Path]:
    """A cache folder of the session, removed at its end: the converted weights take 600 MB."""
    with tempfile.TemporaryDirectory(prefix="headrace-weights-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def loaded(cache: Path) -> dict[str, Encoder]:
    """Encoders by name, each loaded once."""
    return {}


@pytest.fixture(params=[pytest.param(name, marks=[] if name == "hashing" else pytest.mark.weights) for name in NAMES])
def encoder(request: pytest.FixtureRequest, loaded: dict[str, Encoder], cache: Path) -> Encoder:
    """Every encoder that ships, one after the other."""
    return get(request.param, loaded, cache)


def get(name: str, loaded: dict[str, Encoder], cache: Path) -> Encoder:
    """Return an encoder in float32, to say the same on every CPU, and of 32 tokens, to take seconds."""
    if name not in loaded:
        loaded[name] = encoders.load(name, cache=cache, dtype="auto" if name == "hashing" else "float32", max_tokens=32)
    return loaded[name]


class TestShipped(EncoderContract):
    """The contract, for every encoder that ships."""


def test_ids_and_widths_tell_encoders_apart(loaded: dict[str, Encoder], encoder: Encoder) -> None:
    """Each encoder has its own id, and the width that the documentation states."""
    name = next(name for name, each in loaded.items() if each is encoder)
    assert encoder.dim == NAMES[name]
    assert sum(each.id == encoder.id for each in loaded.values()) == 1


@pytest.fixture(scope="session")
def e5(loaded: dict[str, Encoder], cache: Path) -> Encoder:
    """The default encoder."""
    return get("multilingual-e5-small", loaded, cache)


COFFEE = ["精品咖啡豆 深度烘焙 500克", "挂耳咖啡 意式浓缩 20包", "Ethiopian coffee beans, light roast"]
OTHER = [
    "男士跑步鞋 透气",
    "国足友谊赛一比一战平",
    "Car floor mats, all weather",
    "高等数学习题集",
    "Hurricane weakens to storm",
]


@pytest.mark.weights
@pytest.mark.parametrize("wish", ["我喜欢喝咖啡，经常购买咖啡豆", "I drink coffee every day", "Ich trinke jeden Tag Kaffee"])
def test_e5_ranks_by_meaning_across_languages(e5: Encoder, wish: str) -> None:
    """A wish in any language puts every coffee, Chinese or English, above all else."""
    scores = e5.encode([*COFFEE, *OTHER]) @ e5.encode([wish])[0]
    assert scores[: len(COFFEE)].min() > scores[len(COFFEE) :].max()


@pytest.mark.weights
def test_e5_finds_the_translation_before_all_texts_of_its_own_language(e5: Encoder) -> None:
    """With Chinese and English in one pool, the nearest text is the one that means the same, not one of the same language."""
    chinese = ["蓝牙耳机", "爵士乐现场演奏", "央行加息", "深度学习教程", "搞笑猫咪视频", "男士跑步鞋", "婴儿纸尿裤", "红茶茶包"]
    english = [
        *("bluetooth earphones", "live jazz performance", "central bank raises rates", "deep learning tutorial"),
        *("funny cat video", "men's running shoes", "baby diapers", "black tea bags"),
    ]
    vectors = e5.encode([*chinese, *english])
    cosines = vectors @ vectors.T - 2 * np.eye(len(vectors))
    assert cosines.argmax(1).tolist() == [*range(8, 16), *range(8)]


@pytest.mark.weights
def test_centring_spreads_the_cosines_of_e5(e5: Encoder, cache: Path) -> None:
    """Raw cosines of unrelated texts lie above .7; centred ones lie around 0."""
    raw = encoders.load("multilingual-e5-small", cache=cache, dtype="float32", centre=False).encode(OTHER)
    apart = ~np.eye(len(OTHER), dtype=bool)
    assert (raw @ raw.T)[apart].min() > 0.7
    centred = e5.encode(OTHER)
    assert abs((centred @ centred.T)[apart].mean()) < 0.1


@pytest.mark.weights
def test_minilm_ranks_english_by_meaning(loaded: dict[str, Encoder], cache: Path) -> None:
    """Paraphrases without a shared word are nearer than texts that share one."""
    encoder = get("all-MiniLM-L6-v2", loaded, cache)
    vectors = encoder.encode(["cheap flights to Lisbon", "low-cost air tickets for Portugal", "a cheap wooden table"])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


@pytest.mark.weights
def test_minilm_gives_the_published_vectors(cache: Path) -> None:
    """Uncentred, the vectors are those of sentence-transformers: two cosines as the model's card computes them."""
    encoder = encoders.load("all-MiniLM-L6-v2", cache=cache, dtype="float32", centre=False)
    vectors = encoder.encode(["That is a happy person", "That is a happy dog", "Today is a sunny day"])
    np.testing.assert_allclose(vectors[0] @ vectors[1:].T, [0.6946, 0.2569], atol=2e-3)


@pytest.mark.weights
@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "multilingual-e5-small"])
def test_bfloat16_gives_the_vectors_of_float32(name: str, loaded: dict[str, Encoder], cache: Path) -> None:
    """Half the bits change a centred vector by less than a hundredth in cosine, so that workers of both formats can mix."""
    half = encoders.load(name, cache=cache, dtype="bfloat16")
    full = get(name, loaded, cache)
    assert half.id == full.id
    texts = [*COFFEE, *OTHER]
    assert (np.einsum("nd,nd->n", half.encode(texts), full.encode(texts)) > 0.99).all()


@pytest.mark.weights
@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "multilingual-e5-small"])
def test_the_compact_forward_equals_transformers_on_real_weights(name: str, cache: Path) -> None:
    """The pooled states equal those of transformers' own BERT."""
    import torch

    from encoders import compact, packaged, padded, recipe, transformer

    folder = packaged.resolve(name, cache).folder
    how = recipe.read(folder, name)
    engines = [compact.load(folder, how, torch.float32), padded.load(folder, name, how, "cpu", torch.float32)]
    ours, theirs = (
        transformer.TransformerEncoder(engine, transformer._tokenizer(folder, name, how), how.prefix, 128).encode(TEXTS)
        for engine in engines
        if engine is not None
    )
    assert (np.einsum("nd,nd->n", ours, theirs) > 0.9999).all()


@pytest.mark.weights
def test_a_converted_folder_loads_by_its_path(e5: Encoder, cache: Path) -> None:
    """The cache's folder is a plain model folder: as a path it makes the same vectors, but for the centre's format."""
    folder = next(cache.glob("multilingual-e5-small-*"))
    by_path = encoders.load(str(folder), cache=cache, dtype="float32")
    assert (np.einsum("nd,nd->n", by_path.encode(COFFEE), e5.encode(COFFEE)) > 0.999).all()


@pytest.mark.weights
def test_efficientnet_gives_the_published_features(cache: Path) -> None:
    """Of a slope of colours, the features are those of the published implementation, in half the bits nearly so."""
    from encoders import image

    rows, columns = np.mgrid[:224, :224]
    slope = np.stack([columns, rows, (columns + rows) // 2], -1).astype(np.uint8)
    full, half = (image.load(cache, dtype=dtype).features([slope, slope[::-1], slope]) for dtype in ("float32", "bfloat16"))
    assert full.shape == (3, image.WIDTH)
    np.testing.assert_allclose(full[0, [113, 897, 930, 689, 747]], [4.8295, 4.7637, 3.9887, 2.6889, 2.6631], atol=1e-3)
    np.testing.assert_allclose(full[0].sum(), 89.2027, atol=0.01)
    np.testing.assert_allclose(full[2], full[0], atol=1e-4)
    cosines = np.einsum("nd,nd->n", full, half) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    assert (cosines > 0.95).all()


@pytest.mark.weights
def test_trained_images_are_found_by_words(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`images train` on drawn things; then items that are but a code and an unseen image are found by what they show."""
    import json
    import random

    from benchmarks.images import COLOURS, PATTERNS, Product, draw
    from ranking.index import ItemIndex
    from streams.__main__ import main
    from streams.building import load_encoder
    from streams.catalogue import Catalogue
    from streams.messages import Item
    from streams.settings import load

    colours, patterns, rng = list(COLOURS), list(PATTERNS), random.Random(1)
    looks = [(0, colour, pattern) for colour in range(len(colours)) for pattern in range(len(patterns))]
    given = []
    for number, look in enumerate(looks * 4):
        title = f"{colours[look[1]]} {patterns[look[2]]} cloth"
        draw(Product(Item(item_id="x", title=title), 0, look), rng).save(tmp_path / f"{number}.jpg")
        given.append({"item_id": f"c{number}", "title": title, "image": f"{number}.jpg"})
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, given[len(looks) :])))
    for name, value in {"ENCODER": "hashing", "CACHE_DIR": cache, "IMAGE_FOLDER": tmp_path, "DTYPE": "float32"}.items():
        monkeypatch.setenv(f"HEADRACE_{name}", str(value))
    with pytest.raises(SystemExit, match="0"):
        main(["images", "train", "--items", str(tmp_path / "items.jsonl"), "--out", str(tmp_path / "one"), "--json"])
    assert json.loads(capsys.readouterr().out)["items"] == 3 * len(looks)
    encoder = load_encoder(load(images=tmp_path / "one"))
    unseen = [(Item(item_id=f"c{n}", title=f"SKU-{n}", image=f"{n}.jpg"), 0.0) for n in range(len(looks))]
    messages = Catalogue(encoder).vectors(unseen, ItemIndex(encoder.dim, encoder.id))
    vectors = np.stack([np.frombuffer(message.vector, "<f2") for message in messages]).astype(np.float32)
    of_colour = np.array([look[1] for look in looks])
    found = (encoder.encode([f"{colour} cloth" for colour in colours]) @ vectors.T).argmax(1)
    assert (of_colour[found] == np.arange(len(colours))).mean() > 0.7
