"""The catalogue and the words of a benchmark: as many as wanted, all different, the same in each run.

Made from the parts of the English example items (title heads and tails, brands, tags, sentences), so that vectors of a real
encoder have neighbours as those of a real catalogue do: about 200 themes, with items between them. Knows no broker.
"""

from __future__ import annotations

import csv
import io
import json
import random
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import examples
from encoders import Encoder, packaged
from streams.catalogue import item_text
from streams.messages import Item
from streams.settings import Settings
from streams.words import read

SEED = 7
SLICE = 512  # texts encoded at once

_COMMENTS = (
    "so happy with the {title}",
    "the {title} is even better than the {other} of {brand}",
    "good {tag}, and {brand} sent it quickly",
    "this {title} has become part of every morning here",
    "{title}: well made and easy to live with",
    "my sister gave me the {title} and it is great",
)
_SEARCHES = (
    "{title}",
    "{tag} and {other} for a rainy weekend",
    "{tag} by {brand} under {price} euros",
    "{title} or something close to it in {category}",
    "which {tag} goes well with {other}",
    "{other} and {tag}, {category}",
)


class Words(NamedTuple):
    """What a user writes. kind: `search` or `comment`."""

    kind: str
    text: str


class _Parts:
    """The example items' parts, by theme."""

    def __init__(self, language: str = "en") -> None:
        self.items = [item for item in examples.load_catalogue() if item.attributes.get("language") == language]
        self.siblings: dict[str, list[Item]] = {}
        self.kin: dict[str, list[Item]] = {}
        for item in self.items:
            self.siblings.setdefault(item.category, []).append(item)
            self.kin.setdefault(str(item.attributes["kind"]), []).append(item)
        self.brands = {
            kind: sorted({item.brand for item in own if item.brand}) or ["the evening paper"] for kind, own in self.kin.items()
        }

    def near(self, base: Item, rng: random.Random) -> Item:
        """Return an item of the same category, one time in four of the same kind only."""
        pool = self.kin[str(base.attributes["kind"])] if rng.random() < 0.25 else self.siblings[base.category]
        return rng.choice(pool)


def items(count: int) -> list[Item]:
    """Return the first `count` items: distinct texts, and the same first ones for every count."""
    parts, rng = _Parts(), random.Random(SEED)
    seen: set[str] = set()
    made: list[Item] = []
    while len(made) < count:
        item = _item(f"bench-{len(made):06d}", parts, rng)
        text = item_text(item)
        if text not in seen:
            seen.add(text)
            made.append(item)
    return made


def _item(item_id: str, parts: _Parts, rng: random.Random) -> Item:
    base = rng.choice(parts.items)
    other, third = parts.near(base, rng), parts.near(base, rng)
    kind = str(base.attributes["kind"])
    tags = dict.fromkeys((*base.tags, *rng.sample(other.tags, min(len(other.tags), rng.randint(0, 2)))))
    sentences = dict.fromkeys([rng.choice(_sentences(each)) for each in (base, other, third)[: rng.randint(1, 3)]])
    return Item(
        item_id=item_id,
        title=_title(base, other, rng),
        text=" ".join(sentences),
        category=base.category,
        brand=rng.choice(parts.brands[kind]),
        tags=tuple(tags),
        attributes={"kind": kind, "language": "en", "price": round(rng.lognormvariate(3.2, 0.9), 2)},
    )


def _title(base: Item, other: Item, rng: random.Random) -> str:
    pieces = _pieces(base.title)
    tail = rng.choice(_pieces(other.title))
    return ", ".join(dict.fromkeys((rng.choice(pieces), tail)))


def _pieces(title: str) -> list[str]:
    return [piece.strip() for piece in re.split(r"[,:;]| and | with | for ", title) if re.search("[a-z]{4}", piece)] or [title]


def _sentences(item: Item) -> list[str]:
    return [part for part in re.split(r"(?<=[.!?])\s+|(?<=[。！？])", item.text) if part]


def kinds(count: int, data: Path | None = None) -> dict[str, list[str]]:
    """Return `count` distinct texts of each kind that an encoder is timed on: `title`, `review`, `chinese`.

    Reviews are made, 1 to 30 sentences, half of them fewer than 5; or, with `data`, the first ones of data/amazon-reviews.
    Raises OSError, KeyError for a folder without them, ValueError where there are too few.
    """
    reviews = _real_reviews(data / "amazon-reviews", count) if data else _reviews(count)
    return {"title": _distinct(count, _titles()), "review": reviews, "chinese": _distinct(count, _chinese())}


def _distinct(count: int, made: Iterator[str]) -> list[str]:
    seen: dict[str, None] = {}
    for text in made:
        seen.setdefault(text)
        if len(seen) == count:
            return list(seen)
    raise ValueError(f"there are only {len(seen)} different texts, wanted are {count}: ask for fewer")


def _titles() -> Iterator[str]:
    parts, rng = _Parts(), random.Random(SEED + 2)
    while True:
        base = rng.choice(parts.items)
        yield f"{rng.choice(parts.brands[str(base.attributes['kind'])])} {_title(base, parts.near(base, rng), rng)}"


def _reviews(count: int) -> list[str]:
    parts, rng = _Parts(), random.Random(SEED + 3)

    def made() -> Iterator[str]:
        while True:
            base = rng.choice(parts.items)
            length = min(30, 1 + int(rng.lognormvariate(1.3, 0.9)))
            yield " ".join(rng.choice(_sentences(parts.near(base, rng))) for _ in range(length))

    return _distinct(count, made())


def _real_reviews(folder: Path, count: int) -> list[str]:
    path = next(iter(sorted(folder.glob("*.zip"))), None)
    if path is None:
        raise FileNotFoundError(f"{folder} has no zip file of reviews: give the folder above amazon-reviews")
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as file:
        found = csv.DictReader(io.TextIOWrapper(file, "utf-8"))
        return _distinct(count, (row["reviewText"] for row in found if row["reviewText"].strip()))


def _chinese() -> Iterator[str]:
    parts, rng = _Parts("zh"), random.Random(SEED + 4)
    while True:
        base = rng.choice(parts.items)
        said = [rng.choice(_sentences(parts.near(base, rng))) for _ in range(rng.randint(0, 4))]
        yield " ".join((base.title, "".join(said))).strip()


def words(count: int) -> list[Words]:
    """Return the first `count` user texts, distinct, about 12 word pieces of MiniLM's.

    Each is read as one statement of exactly these words, so that the worker encodes what the raw encoder loop does.
    """
    parts, rng = _Parts(), random.Random(SEED + 1)
    seen: set[str] = set()
    made: list[Words] = []
    while len(made) < count:
        kind, forms = rng.choice((("comment", _COMMENTS), ("search", _SEARCHES)))
        base = rng.choice(parts.items)
        other = parts.near(base, rng)
        text = rng.choice(forms).format(
            title=rng.choice(_pieces(base.title)).lower().removeprefix("the "),
            tag=rng.choice(base.tags),
            other=rng.choice(other.tags),
            brand=rng.choice(parts.brands[str(base.attributes["kind"])]),
            category=base.category.replace("-", " "),
            price=rng.randrange(5, 300),
        )
        if text not in seen and [said.text for said in read(text, kind).said] == [text]:
            seen.add(text)
            made.append(Words(kind, text))
    return made


def vectors(
    texts: Sequence[str], encoder: Encoder, folder: Path, progress: Callable[[float], None] = lambda share: None
) -> NDArray[np.float16]:
    """Return (n, dim) float16 unit rows, read from `folder` where this encoder made them of these texts before."""
    digest = blake2b(encoder.id.encode(), digest_size=8)
    for text in texts:
        digest.update(text.encode() + b"\n")
    path = folder / f"{digest.hexdigest()}.npy"
    if path.exists():
        found: NDArray[np.float16] = np.load(path)
        return found
    rows = np.zeros((len(texts), encoder.dim), np.float16)
    for start in range(0, len(texts), SLICE):
        rows[start : start + SLICE] = encoder.encode(texts[start : start + SLICE])
        progress(min(1.0, (start + SLICE) / len(texts)))
    folder.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new.npy")
    np.save(new, rows)
    new.replace(path)
    return rows


def parameter_bytes(settings: Settings, reason: str) -> int:
    """Return the bytes of the model's parameters as the worker holds them; 0 for an encoder without weights.

    Counted from the headers of the weights' files: word embeddings in the file's own format (they are mapped), all others in
    the format that the encoder's `reason` names; a pooler head is not loaded and not counted.
    """
    if settings.encoder.startswith("hashing"):
        return 0
    folder = packaged.resolve(settings.encoder, settings.cache_dir, None).folder
    width = 4 if "float32" in reason.partition(":")[0] else 2
    total = 0
    for path in sorted(folder.glob("model*.safetensors")):
        with path.open("rb") as file:
            head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, tensor in head.items():
            if name == "__metadata__" or tensor["dtype"].startswith("I") or "pooler" in name:
                continue
            first, last = tensor["data_offsets"]
            own = last - first
            total += own if "word_embeddings" in name else prod(tensor["shape"]) * width
    return total
