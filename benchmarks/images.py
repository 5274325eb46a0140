"""Measure what images add, on pictures whose truth is known: products drawn for the example catalogue.

`python -m benchmarks.images --json`. Each product of the catalogue comes in several colours and patterns. Its picture shows its
category (a figure and how many of it), its colour and its pattern, at another place, size, angle and light each time, with
noise; nothing else of the text is in it. A fusion is fitted on four fifths of the products and asked about the rest, of which
it has seen no variant: with no text at all, and with titles that lost most of their words to others. Knows no broker.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Column, Table

from encoders import Encoder, fusion, image
from encoders.fusion import Fusion, words_of
from encoders.image import SIDE, Features, Pixels, decode
from examples import load_catalogue
from streams.building import load_encoder
from streams.catalogue import item_text
from streams.messages import Item
from streams.settings import load
from streams.terminal import bar

FIGURES = (3, 4, 5, 6, 40, -5, -8, 0, 1, 2, -3, 7)  # corners; of stars, negative; 0-2: ring, wide and tall ellipse; 40: a disc
ROWS = ((1,), (2,), (2, 2), (1, 2))  # how many figures, row by row
COLOURS = {
    "red": ("红色", (205, 45, 45)),
    "orange": ("橙色", (240, 140, 30)),
    "yellow": ("黄色", (240, 215, 60)),
    "green": ("绿色", (50, 150, 70)),
    "blue": ("蓝色", (50, 90, 200)),
    "purple": ("紫色", (130, 60, 170)),
    "black": ("黑色", (35, 35, 40)),
    "brown": ("棕色", (120, 75, 40)),
}
PATTERNS = {"plain": "纯色", "striped": "条纹", "dotted": "圆点", "checked": "格子"}
KEPT = 0.3  # of a noisy title's words
HELD_OUT = 0.2  # of the products

Row = tuple[int, ...]


class Product(NamedTuple):
    """One variant of an item of the catalogue. look: numbers of its category, colour and pattern."""

    item: Item
    base: int
    look: tuple[int, int, int]


def products(variants: int, seed: int) -> list[Product]:
    """Return every item of the catalogue in `variants` colours and patterns."""
    rng = random.Random(seed)
    items = load_catalogue()
    categories = sorted({item.category for item in items})
    looks = [(colour, pattern) for colour in range(len(COLOURS)) for pattern in range(len(PATTERNS))]
    return [
        Product(_variant(item, colour, pattern), base, (categories.index(item.category), colour, pattern))
        for base, item in enumerate(items)
        for colour, pattern in rng.sample(looks, variants)
    ]


def _variant(item: Item, colour: int, pattern: int) -> Item:
    is_chinese = item.attributes.get("language") == "zh"
    words = [list(COLOURS.values())[colour][0], list(PATTERNS.values())[pattern]]
    words = words if is_chinese else [list(COLOURS)[colour], list(PATTERNS)[pattern]]
    item_id = f"{item.item_id}-{colour}{pattern}"
    return msgspec.structs.replace(item, item_id=item_id, title=f"{' '.join(words)} {item.title}", tags=(*words, *item.tags))


def draw(product: Product, rng: random.Random) -> Image.Image:
    """Return a product's picture: what its look says, and the rest by chance."""
    category, colour, pattern = product.look
    back = tuple(rng.randint(200, 255) for _ in range(3))
    picture = Image.new("RGB", (SIDE, SIDE), back)
    rows = ROWS[category // len(FIGURES)]
    size = rng.uniform(0.75, 1.0) * (0.8 * SIDE if rows == (1,) else 0.42 * SIDE)
    left, top = (rng.uniform(-0.06, 0.06) * SIDE for _ in range(2))
    for row, count in enumerate(rows):
        for place in range(count):
            centre = (left + SIDE * (place + 0.5) / count, top + SIDE * (row + 0.5) / len(rows))
            mask = _figure(FIGURES[category % len(FIGURES)], size / 2, centre, rng)
            picture.paste(_cloth(list(COLOURS.values())[colour][1], pattern, rng), mask=mask)
    pen = ImageDraw.Draw(picture)
    for _ in range(3):  # scratches
        pen.line([rng.randrange(SIDE) for _ in range(4)], fill=tuple(rng.randrange(256) for _ in range(3)), width=2)
    noise = np.random.default_rng(rng.randrange(2**32)).normal(0.0, 12.0, (SIDE, SIDE, 3))
    lit = np.asarray(picture, np.float32) * rng.uniform(0.8, 1.1) + noise
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))


def _figure(corners: int, radius: float, centre: tuple[float, float], rng: random.Random) -> Image.Image:
    mask = Image.new("L", (SIDE, SIDE))
    pen, (x, y) = ImageDraw.Draw(mask), centre
    if corners in (0, 1, 2):
        across, down = radius * (0.5 if corners == 2 else 1.0), radius * (0.5 if corners == 1 else 1.0)
        pen.ellipse([x - across, y - down, x + across, y + down], fill=255)
        if corners == 0:
            pen.ellipse([x - radius / 2, y - radius / 2, x + radius / 2, y + radius / 2], fill=0)
        return mask
    turn = rng.uniform(-0.3, 0.3) - math.pi / 2
    points = abs(corners) * (2 if corners < 0 else 1)
    far = [radius * (0.45 if corners < 0 and point % 2 else 1.0) for point in range(points)]
    angles = [turn + 2 * math.pi * point / points for point in range(points)]
    pen.polygon([(x + r * math.cos(a), y + r * math.sin(a)) for r, a in zip(far, angles, strict=True)], fill=255)
    return mask


def _cloth(colour: tuple[int, int, int], pattern: int, rng: random.Random) -> Image.Image:
    cloth = Image.new("RGB", (SIDE, SIDE), tuple(min(255, max(0, part + rng.randint(-20, 20))) for part in colour))
    pen, step, shift = ImageDraw.Draw(cloth), rng.randint(16, 24), rng.randrange(16)
    light = (235, 235, 235)
    for x in range(-SIDE + shift, SIDE, step):
        if pattern == 1:
            pen.line([x, 0, x + SIDE, SIDE], fill=light, width=step // 3)
        for y in range(shift, SIDE, step):
            if pattern == 2:
                pen.ellipse([x, y, x + step // 2, y + step // 2], fill=light)
            if pattern == 3 and (x // step + y // step) % 2:
                pen.rectangle([x, y, x + step, y + step], fill=light)
    return cloth


def pictures(made: Sequence[Product], seed: int, progress: Callable[[float], None]) -> list[Pixels]:
    """Return each product's picture as a worker sees it: written as a JPEG and read again."""
    rng, seen = random.Random(seed), []
    for number, product in enumerate(made):
        file = io.BytesIO()
        draw(product, rng).save(file, "JPEG", quality=85)
        seen.append(decode(file.getvalue()))
        progress(number / len(made))
    return seen


def noisy(texts: Sequence[str], rng: random.Random) -> list[str]:
    """Return texts that kept KEPT of their words and got as many of others' as they lost."""
    split = [text.split() if " " in text else list(text) for text in texts]
    pool = [word for words in split for word in words]
    worse = []
    for words in split:
        kept = rng.sample(words, max(1, round(KEPT * len(words))))
        worse.append(" ".join([*kept, *rng.choices(pool, k=len(words) - len(kept))]))
    return worse


class Asked(NamedTuple):
    """What was asked for, how often it came first and among five, and the same by chance."""

    first: float
    five: float
    chance: float


def ask(vectors: NDArray[np.float32], queries: NDArray[np.float32], right: NDArray[np.bool_]) -> Asked:
    """Ask for items, (n, dim), with m queries; right: (m, n), whether an item answers a query."""
    ranked = np.argsort(-(queries @ vectors.T), axis=1)[:, :5]
    hits = np.take_along_axis(right, ranked, axis=1)
    return Asked(float(hits[:, 0].mean()), float(hits.any(1).mean()), float(right.mean()))


def measure(
    made: Sequence[Product], features: Features, encoder: Encoder, how: Fusion, rng: random.Random
) -> dict[str, dict[str, Asked]]:
    """Return what the held-out products are found by, for vectors made in several ways."""
    looks = np.array([product.look for product in made])
    titles = [product.item.title for product in made]
    asked = encoder.encode(titles)
    kinds = encoder.encode([product.item.category.replace("-", " ") for product in made])
    right = {
        "item by its title": (asked, np.eye(len(made), dtype=bool)),
        "look by its title": (asked, (looks[:, None] == looks[None]).all(2)),
        "category by its name": (kinds, looks[:, None, 0] == looks[None, :, 0]),
    }
    nobody, everybody = np.zeros(len(made), np.bool_), np.ones(len(made), np.bool_)
    blank, worse, full = [""] * len(made), noisy(titles, rng), [item_text(product.item) for product in made]
    texts = {name: (encoder.encode(own), words_of(own)) for name, own in {"noisy title": worse, "whole text": full}.items()}
    ways = {"image alone": how.fuse(encoder.encode(blank), words_of(blank), features, everybody)}
    for name, (vectors, words) in texts.items():
        ways[name] = vectors
        ways[f"{name} + image"] = how.fuse(vectors, words, features, nobody)
        ways[f"{name} + image, half each"] = _halves(vectors, ways["image alone"])
    return {name: {what: ask(vectors, *how_asked) for what, how_asked in right.items()} for name, vectors in ways.items()}


def _halves(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    both = one + other
    return np.asarray(both / np.linalg.norm(both, axis=1, keepdims=True), np.float32)


def main() -> None:
    """Draw, fit, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=int, default=4, help="colours and patterns that each product comes in")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    given = parser.parse_args()
    began = time.perf_counter()
    settings = load()
    console = Console(width=120, file=sys.stderr if given.json else None)
    encoder = load_encoder(settings.model_copy(update={"images": None}))
    eyes = image.load(settings.cache_dir, device=settings.device, dtype=settings.dtype)
    console.print(f"{encoder.reason}\n{eyes.reason}", markup=False)
    made = products(given.variants, given.seed)
    with bar("drawing") as progress:
        drawn = pictures(made, given.seed, progress)
    looking = time.perf_counter()
    features = eyes.features(drawn)
    looking = time.perf_counter() - looking
    bases = np.array([product.base for product in made])
    out = np.isin(bases, random.Random(given.seed).sample(range(int(bases.max()) + 1), int(HELD_OUT * (bases.max() + 1))))
    texts = [item_text(product.item) for product in made]
    known = [text for text, is_out in zip(texts, out, strict=True) if not is_out]
    ids = {"encoder": encoder.id, "images": eyes.id}
    how = fusion.fit(known, features[~out], encoder.encode, **ids, seed=given.seed, progress=console.print)
    held = [product for product, is_out in zip(made, out, strict=True) if is_out]
    found = measure(held, features[out], encoder, how, random.Random(given.seed))
    console.print(_table(found, len(held)))
    if given.json:
        told = {name: {what: asked._asdict() for what, asked in own.items()} for name, own in found.items()}
        sizes = {"products": len(made), "held_out": len(held), "images_per_s": len(made) / looking}
        took = {"seconds": round(time.perf_counter() - began, 1), "seed": given.seed, "encoder": encoder.id, "images": eyes.id}
        print(json.dumps({**sizes, **took, "fitted": how.report, "found": told}))


def _table(found: dict[str, dict[str, Asked]], count: int) -> Table:
    whats = list(next(iter(found.values())))
    chances = {what: next(iter(found.values()))[what].chance for what in whats}
    heads = [Column(f"{what}: first, of five; chance {chances[what]:.3f}", justify="right") for what in whats]
    table = Table("vectors of", *heads, title=f"{count} products of which no variant was seen")
    for name, own in found.items():
        table.add_row(name, *[f"{own[what].first:.3f}  {own[what].five:.3f}" for what in whats])
    return table


if __name__ == "__main__":
    main()
