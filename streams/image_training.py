"""Train a fusion of images and texts from a file of items: read, look, encode, fit.

Does not know how a fusion is fitted (encoders/fusion.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from encoders import fusion, image
from encoders.fusion import Fusion
from encoders.image import Features, ImageEncoder, ImageError, decode
from streams import pictures
from streams.building import load_encoder
from streams.catalogue import item_text
from streams.messages import BadMessage, Item
from streams.rows import rows
from streams.sending import item_of
from streams.settings import Settings
from streams.terminal import bar

SHOWN = 20  # images left out that are shown one by one


def train(settings: Settings, path: Path, columns: Mapping[str, str], seed: int, console: Console) -> Fusion:
    """Return what ties the images of a file's items to texts. Raises RowError, BadMessage, EncoderError, FusionError."""
    texts = load_encoder(settings.model_copy(update={"images": None}))
    images = image.load(settings.cache_dir, device=settings.device, dtype=settings.dtype, progress=console.print)
    console.print(texts.reason, markup=False)
    console.print(images.reason, markup=False)
    with bar("reading") as progress:
        known = list(_items(path, columns, progress))
    with bar("looking at images") as progress:
        used, features = look(known, images, settings.image_folder, console, progress)
    words = [item_text(item)[: settings.text_length] for item in used]
    ids = {"encoder": texts.id, "images": images.id}
    return fusion.fit(words, features, texts.encode, **ids, seed=seed, progress=console.print)


def _items(path: Path, columns: Mapping[str, str], progress: Callable[[float], None]) -> Sequence[Item]:
    found = {}
    for row in rows(path, columns):
        try:
            item = item_of(row.values)
        except BadMessage as error:
            raise BadMessage(f"row {row.number}: {error}") from None
        found[item.item_id] = item
        progress(row.done)
    return list(found.values())


def look(
    items: Sequence[Item], images: ImageEncoder, folder: Path | None, console: Console, progress: Callable[[float], None]
) -> tuple[list[Item], Features]:
    """Return the items that have a text and an image that can be read, and the images' features, (n, width)."""
    used, found, refused = [], [], 0
    wanted = [item for item in items if item.image and not pictures.is_bare(item)]
    for start in range(0, len(wanted), image.AT_ONCE):
        seen = []
        for item in wanted[start : start + image.AT_ONCE]:
            try:
                seen.append(decode(pictures.read(item.image or "", folder)))
                used.append(item)
            except ImageError as error:
                refused += 1
                if refused <= SHOWN:
                    console.print(f"left out item {item.item_id}: its image {error}", markup=False)
        found.append(images.features(seen))
        progress(start / len(wanted))
    console.print(f"{len(used)} items with a text and an image, {refused} images left out, of {len(items)} items")
    return used, np.concatenate(found) if found else np.zeros((0, image.WIDTH), np.float32)
