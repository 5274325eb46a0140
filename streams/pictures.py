"""The images of items: found by what an item says, read, and fused with the vectors of texts.

An item's `image` is a data: URI, or the path of a file in HEADRACE_IMAGE_FOLDER. Nothing is fetched. An encoder with images has
an id of its own, so that vectors with and without images never mix. Does not know topics or the index.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoders import Encoder, EncoderError, Vectors, fusion, image
from encoders.fusion import Fusion, words_of
from encoders.image import ImageEncoder, ImageError, Pixels
from streams.messages import Item
from streams.settings import Settings

DATA = re.compile(r"data:[\w.+/-]*(;[\w=.+-]+)*;base64,", re.ASCII)
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # two letters at least: C:\ is a path, and refused as one
CODE = re.compile(r"[A-Z0-9._/#:+-]*[0-9][A-Z0-9._/#:+-]*")


def read(where: str, folder: Path | None) -> bytes:
    """Return the bytes that an item's `image` stands for. Raises ImageError: the reason, without the item."""
    if where.startswith("data:"):
        return _inline(where)
    if found := SCHEME.match(where):
        raise ImageError(f"{where[:80]!r} is an address ({found[0]}): images are not fetched, give a path or a data: URI")
    if folder is None:
        raise ImageError(f"{where[:80]!r} is a path, and HEADRACE_IMAGE_FOLDER is not set: set it")
    try:
        root, path = folder.resolve(), (folder / where).resolve()
        if not path.is_relative_to(root):
            raise ImageError(f"{where[:80]!r} leads out of HEADRACE_IMAGE_FOLDER: only files in it are read")
        if not path.is_file():
            raise ImageError(f"{where[:80]!r} is no file in HEADRACE_IMAGE_FOLDER: put it there and send the item again")
        with path.open("rb") as file:
            return file.read(image.MOST_BYTES + 1)  # one more than is taken: `decode` refuses it
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # no right to read it, a name too long, a zero byte in it
        raise ImageError(f"{where[:80]!r} cannot be read: {error}") from None


def _inline(where: str) -> bytes:
    head = DATA.match(where)
    if head is None:
        raise ImageError(f"{where[:40]!r} is no data: URI that is taken: write data:image/png;base64,...")
    try:
        return b64decode(where[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"{where[:40]!r} is no base64: {error}") from None


def is_bare(item: Item) -> bool:
    """Tell whether an item has no text: nothing but a title that is its id or a code (capitals and digits, one word)."""
    if item.text.strip() or item.brand.strip() or item.category.strip() or any(tag.strip() for tag in item.tags):
        return False
    title = item.title.strip()
    return title == item.item_id or CODE.fullmatch(title) is not None


class Pictures:
    """Reads images and fuses them with the vectors of texts."""

    def __init__(self, images: ImageEncoder, how: Fusion, folder: Path | None) -> None:
        self._images, self._fusion, self._folder = images, how, folder

    def read(self, where: str) -> bytes:
        """Return the bytes of an item's image. Raises ImageError."""
        return read(where, self._folder)

    def fuse(self, items: Sequence[Item], texts: Sequence[str], vectors: Vectors, pixels: Sequence[Pixels]) -> Vectors:
        """Return the vectors of n items with an image each, (n, dim) unit rows, from the vectors of their texts."""
        alone: NDArray[np.bool_] = np.array([is_bare(item) for item in items], np.bool_)
        return self._fusion.fuse(vectors, words_of(texts), self._images.features(pixels), alone)


class PicturedEncoder:
    """A text encoder with an id that says which images its items' vectors hold; `pictures` makes those vectors."""

    def __init__(self, texts: Encoder, pictures: Pictures, version: str, reason: str) -> None:
        self._texts, self.pictures = texts, pictures
        self.id, self.dim = f"{texts.id}-i{version}", texts.dim
        self.reason = f"{texts.reason}; {reason}"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return (n, dim) float32, rows of unit norm: those of the text encoder."""
        return self._texts.encode(texts)


def with_images(texts: Encoder, settings: Settings) -> PicturedEncoder:
    """Return the encoder with the images that the settings ask for. Raises EncoderError."""
    assert settings.images is not None
    how = fusion.load(settings.images)
    if how.encoder != texts.id:
        raise EncoderError(
            f"HEADRACE_IMAGES={settings.images} was trained for the texts of {how.encoder}, HEADRACE_ENCODER is {texts.id}: "
            "train it with this encoder (headrace images train), or set HEADRACE_ENCODER back"
        )
    images = image.load(settings.cache_dir, device=settings.device, dtype=settings.dtype)
    if how.images != images.id:
        raise EncoderError(
            f"HEADRACE_IMAGES={settings.images} was trained for images of {how.images}, not of {images.id}: train it again"
        )
    return PicturedEncoder(texts, Pictures(images, how, settings.image_folder), how.version, images.reason)


def pictures_of(encoder: Encoder) -> Pictures | None:
    """Return the images of an encoder that has them."""
    found: Pictures | None = getattr(encoder, "pictures", None)
    return found
