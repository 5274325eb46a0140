"""Images of items: what is read and what is refused, and what of an item is encoded anew."""

from __future__ import annotations

import base64
import io
import logging
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from planted import NOW, Counting

from encoders import EncoderError, fusion, image
from encoders.fusion import Fusion
from encoders.image import MOST_BYTES, SIDE, WIDTH, ImageError, Pixels, decode
from ranking.index import ItemIndex
from streams.catalogue import Catalogue, apply
from streams.desk import Desk
from streams.encode_thread import EncodeThread
from streams.inlet import Batch
from streams.messages import Item, encode
from streams.metrics import Metrics
from streams.pictures import PicturedEncoder, Pictures, is_bare, read, with_images
from streams.settings import load
from streams.topics import topics
from streams.vectorize import CatalogueStep

DIM = 32
RED, BLUE = (200, 20, 20), (20, 20, 200)


def picture(colour: tuple[int, ...] = RED, kind: str = "PNG", size: tuple[int, int] = (40, 30), mode: str = "RGB") -> bytes:
    """Return the bytes of an image of one colour."""
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, kind)
    return file.getvalue()


def inline(raw: bytes) -> str:
    """Return a data: URI."""
    return f"data:image/png;base64,{base64.b64encode(raw).decode()}"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_an_image_of_each_kind_is_read(kind: str) -> None:
    """Each kind that is taken comes out in the model's size and the image's colour."""
    pixels = decode(picture(RED, kind))
    assert pixels.shape == (SIDE, SIDE, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - RED).max() < 12


def test_what_lets_through_is_on_white() -> None:
    """An image's transparent part is white, as on a shop's page, and not what hides under it."""
    assert decode(picture((9, 9, 9, 0), mode="RGBA")).min() == 255


def test_a_turned_photo_is_upright() -> None:
    """A camera's note that a photo is turned is heeded."""
    photo = Image.new("RGB", (64, 64), RED)
    photo.paste(BLUE, (0, 0, 64, 32))
    file = io.BytesIO()
    photo.save(file, "PNG", exif=_turned())
    pixels = decode(file.getvalue())
    assert pixels[10, 112, 0] > 150
    assert pixels[-10, 112, 2] > 150


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 3  # by 180 degrees
    return exif


def bomb(side: int = 30_000) -> bytes:
    """Return a PNG of about 1 kB that says it has so many rows and columns."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 900_000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "its 0 bytes are no JPEG, PNG, WEBP or GIF"),
        (b"<svg/>", "its 6 bytes are no JPEG, PNG, WEBP or GIF"),
        (picture(kind="BMP"), "are no JPEG, PNG, WEBP or GIF"),
        (picture(size=(300, 300))[:-40], "it is broken"),
        (picture(kind="JPEG", size=(300, 300))[:400], "it is broken"),
        (picture()[:20] + b"\xff" * 30, "it is broken|are no JPEG"),
        (bomb(), "more than 50000000 pixels"),
        (bomb(8_000), "8000 x 8000 pixels, more than 50000000"),
        (b"\xff\xd8" + b"\0" * MOST_BYTES, "10000000 at most are read"),
    ],
    ids=["empty", "svg", "bmp", "cut-png", "cut-jpeg", "damaged", "bomb", "small-bomb", "large"],
)
def test_what_is_no_image_is_refused(raw: bytes, reason: str) -> None:
    """Bytes that are no image, broken, or too many are an error that says so; a bomb is not unpacked."""
    with pytest.raises(ImageError, match=reason):
        decode(raw)


def test_an_image_comes_from_its_folder_or_its_uri(tmp_path: Path) -> None:
    """A relative path, one in a sub-folder, an absolute one that lies in the folder, and a data: URI give their bytes."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"bytes")
    for where in ("a/x.png", "./a/../a/x.png", str(tmp_path / "a" / "x.png"), inline(b"bytes")):
        assert read(where, tmp_path) == b"bytes"


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("../secret.png", "leads out of HEADRACE_IMAGE_FOLDER"),
        ("a/../../secret.png", "leads out of HEADRACE_IMAGE_FOLDER"),
        ("/etc/passwd", "leads out of HEADRACE_IMAGE_FOLDER"),
        ("link.png", "leads out of HEADRACE_IMAGE_FOLDER"),
        ("missing.png", "is no file in HEADRACE_IMAGE_FOLDER"),
        (".", "is no file in HEADRACE_IMAGE_FOLDER"),
        ("pipe", "is no file in HEADRACE_IMAGE_FOLDER"),
        ("zero\0byte", "cannot be read"),
        ("x" * 5_000, "is no file|cannot be read"),
        ("http://example.com/x.png", "is an address .* images are not fetched"),
        ("https://example.com/x.png", "is an address"),
        ("file:///etc/passwd", "is an address"),
        ("data:image/png,abc", "is no data: URI that is taken"),
        ("data:image/png;base64,ab*c", "is no base64"),
    ],
)
def test_where_no_image_may_come_from(where: str, reason: str, tmp_path: Path) -> None:
    """What leads out of the folder, is not there, or would have to be fetched is refused with the reason."""
    import os

    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(folder / "pipe")
    with pytest.raises(ImageError, match=reason):
        read(where, folder)


def test_a_path_without_a_folder_is_refused() -> None:
    """Where no folder is set no file is read, whatever the process could read."""
    with pytest.raises(ImageError, match="HEADRACE_IMAGE_FOLDER is not set"):
        read("x.png", None)


@pytest.mark.parametrize(
    ("fields", "bare"),
    [
        ({"title": "SKU-48213"}, True),
        ({"title": "B08N5WRWNW"}, True),
        ({"title": "p1"}, True),  # its id
        ({"title": " 8842 ", "tags": (" ",)}, True),
        ({"title": "SKU-48213", "brand": "Leaf"}, False),
        ({"title": "SKU-48213", "category": "tea"}, False),
        ({"title": "SKU-48213", "tags": ("tea",)}, False),
        ({"title": "SKU-48213", "text": "tea"}, False),
        ({"title": "iPhone15"}, False),
        ({"title": "MP THREE"}, False),
        ({"title": "TEA"}, False),
        ({"title": "手机15"}, False),
        ({"title": "B08N5 tea"}, False),
    ],
)
def test_which_items_have_no_text(fields: dict[str, object], bare: bool) -> None:
    """An item has no text when there is nothing but a title that is its id, or one word of capitals and digits."""
    assert is_bare(Item(item_id="p1", **fields)) is bare  # type: ignore[arg-type]


class Colours:
    """Sees an image's mean colour, and counts what it saw."""

    def __init__(self) -> None:
        self.seen = 0

    def features(self, images: Sequence[Pixels]) -> np.ndarray:
        self.seen += len(images)
        found = np.zeros((len(images), WIDTH), np.float32)
        found[:, :3] = [pixels.mean((0, 1)) for pixels in images]
        return found


def by_colour(gate: float) -> Fusion:
    """Return a fusion that puts red on the first axis, blue on the third, and takes the same share of every image."""
    weight = np.zeros((WIDTH, DIM), np.float32)
    weight[:3, :3] = np.eye(3)
    shares = np.array([gate, 0, 0, 0], np.float32)
    return Fusion(f"hashing-{DIM}", "colours", np.zeros(WIDTH, np.float32), weight, np.zeros(DIM, np.float32), shares)


Shop = tuple[Catalogue, ItemIndex, Counting, Colours]


@pytest.fixture
def shop(tmp_path: Path) -> Callable[..., Shop]:
    """Make a catalogue with images, its index, and what counts the texts and the images that it encodes."""

    def make(gate: float = 0.0) -> Shop:
        texts, eyes, how = Counting(DIM), Colours(), by_colour(gate)
        encoder = PicturedEncoder(texts, Pictures(eyes, how, tmp_path), how.version, "colours")  # type: ignore[arg-type]
        return Catalogue(encoder), ItemIndex(DIM, encoder.id), texts, eyes

    return make


def put(catalogue: Catalogue, index: ItemIndex, **fields: object) -> np.ndarray:
    """Publish an item and return its vector."""
    item = Item(**{"item_id": "tea", "title": "Green tea", **fields})  # type: ignore[arg-type]
    (message,) = catalogue.vectors([(item, NOW)], index)
    apply([message], index)
    assert message.encoder == catalogue.encoder.id
    return np.frombuffer(message.vector, "<f2").astype(np.float32)


def test_an_image_moves_the_vector_by_the_gates_share(shop: Callable[..., Shop]) -> None:
    """Text and image meet where the gate says, and an item without an image has its text's vector."""
    catalogue, index, texts, _ = shop(gate=0.0)  # a half
    plain = put(catalogue, index)
    np.testing.assert_allclose(plain, texts.encode(["Green tea"])[0], atol=1e-3)
    seen = put(catalogue, index, image=inline(picture(RED)))
    colour = np.array(RED + (0,) * (DIM - 3)) / np.linalg.norm(RED)
    np.testing.assert_allclose(seen, (plain + colour) / np.linalg.norm(plain + colour), atol=0.01)


def test_an_item_without_text_is_its_image(shop: Callable[..., Shop]) -> None:
    """A title that is a code leaves no trace, whatever the gate says."""
    catalogue, index, *_ = shop(gate=-9.0)
    vector = put(catalogue, index, title="SKU-48213", image=inline(picture(BLUE)))
    np.testing.assert_allclose(vector[:3], np.array(BLUE) / np.linalg.norm(BLUE), atol=0.01)


def test_only_a_changed_image_is_encoded_anew(shop: Callable[..., Shop], tmp_path: Path) -> None:
    """The same image is not looked at again, wherever it comes from; another one under the same path is."""
    catalogue, index, texts, eyes = shop()
    (tmp_path / "tea.png").write_bytes(picture(RED))
    put(catalogue, index, image="tea.png")
    put(catalogue, index, image="tea.png", available=False)
    put(catalogue, index, image=inline(picture(RED)), attributes={"price": 2.0})
    assert (eyes.seen, len(texts.texts)) == (1, 1)
    (tmp_path / "tea.png").write_bytes(picture(BLUE))
    put(catalogue, index, image="tea.png")
    assert (eyes.seen, len(texts.texts)) == (2, 2)
    put(catalogue, index)
    assert (eyes.seen, len(texts.texts)) == (2, 3)
    assert catalogue.images == {"used": 4}


def test_a_refused_image_is_told_and_the_item_goes_on(
    shop: Callable[..., Shop], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The item gets its text's vector, the log its name and the reason; once the image can be read, it counts."""
    catalogue, index, texts, eyes = shop()
    plain = texts.encode(["Green tea"])[0]
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(put(catalogue, index, image="tea.png"), plain, atol=1e-3)
    assert "item tea goes on by its text alone: its image 'tea.png' is no file" in caplog.text
    put(catalogue, index, image="tea.png")
    put(catalogue, index, image=inline(bomb()))
    assert (catalogue.images, eyes.seen, len(texts.texts)) == ({"refused": 3}, 0, 1 + 1)  # one of them is the test's own
    (tmp_path / "tea.png").write_bytes(picture(RED))
    assert put(catalogue, index, image="tea.png") @ plain < 0.99


def test_of_a_batch_each_item_gets_its_own_image(shop: Callable[..., Shop]) -> None:
    """Items with, without and with a bad image in one batch keep to themselves."""
    catalogue, index, *_ = shop(gate=9.0)
    given = [inline(picture(RED)), None, inline(b"no image"), inline(picture(BLUE))]
    items = [(Item(item_id=f"t{n}", title="Green tea", image=each), NOW) for n, each in enumerate(given)]
    vectors = np.stack([np.frombuffer(each.vector, "<f2") for each in catalogue.vectors(items, index)]).astype(np.float32)
    assert vectors[0, 0] > 0.9
    assert vectors[3, 2] > 0.9
    np.testing.assert_array_equal(vectors[1], vectors[2])


async def test_images_are_counted_once_where_a_batch_is_tried_again(shop: Callable[..., Shop]) -> None:
    """A batch that is halved for an item that cannot be encoded counts each image of the others once, used or refused."""
    catalogue, index, texts, _ = shop()
    plain = texts.encode

    def choking(given: Sequence[str]) -> np.ndarray:
        if any("poison" in text for text in given):
            raise ValueError("choked")
        return plain(given)

    texts.encode = choking  # type: ignore[method-assign]
    names, metrics, thread = topics(load(encoder="hashing")), Metrics(), EncodeThread()
    step = CatalogueStep(Desk(SimpleNamespace(), names, metrics), catalogue, index, thread, _at_once, 1)  # type: ignore[arg-type]
    images = [inline(picture(RED)), inline(b"no image"), inline(picture(BLUE)), inline(picture(RED)), inline(picture(BLUE))]
    items = [Item(item_id=f"t{n}", title="poison" if n == 3 else "tea", image=each) for n, each in enumerate(images)]
    records = [
        SimpleNamespace(topic="items", partition=0, offset=n, timestamp=NOW * 1_000, key=b"k", value=encode(item))
        for n, item in enumerate(items)
    ]
    try:
        sent = await step.prepare(Batch(1, records))  # type: ignore[arg-type]
    finally:
        thread.stop()
    assert [one.topic for one in sent] == [names.item_vectors.name] * 4 + [names.dead_letters.name]
    counted = {name: metrics.registry.get_sample_value("headrace_item_images_total", {"outcome": name}) for name in OUTCOMES}
    assert counted == {"used": 3.0, "refused": 1.0}


OUTCOMES = ("used", "refused")


async def _at_once() -> None:
    """Be ready."""


def test_images_are_another_encoder(tmp_path: Path) -> None:
    """With images, ids and topics are others, and others again for another fusion; texts are encoded alike."""
    texts = Counting(DIM)
    made = [
        PicturedEncoder(texts, Pictures(Colours(), how, None), how.version, "")  # type: ignore[arg-type]
        for how in (by_colour(0.0), by_colour(1.0))
    ]
    assert len({texts.id, *(each.id for each in made)}) == 3
    assert len(made[0].id) <= len(texts.id) + 10
    np.testing.assert_array_equal(made[0].encode(["tea"]), texts.encode(["tea"]))
    names = [topics(load(encoder="hashing", images=path)) for path in (None, tmp_path / "one", tmp_path / "two")]
    for kind in ("item_vectors", "models", "profiles"):
        assert len({getattr(each, kind).name for each in names}) == 3
    assert len({each.items.name for each in names}) == 1


def test_a_fusion_for_another_encoder_is_refused(tmp_path: Path) -> None:
    """A fusion trained for other texts or images says which, and what to do."""
    fusion.save(by_colour(0.0), tmp_path)
    settings = load(encoder="hashing", images=tmp_path)
    with pytest.raises(EncoderError, match=r"was trained for the texts of hashing-32, HEADRACE_ENCODER is hashing-64"):
        with_images(Counting(64), settings)


def test_without_pillow_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the extra says so at its start."""
    import sys

    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(EncoderError, match=r"pip install 'headrace\[images\]'"):
        image.load(tmp_path)
