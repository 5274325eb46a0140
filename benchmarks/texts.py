"""The catalogue and the words of a benchmark: as many as wanted, all different, the same in each run.

Made from the parts of the English example items (title heads and tails, brands, tags, sentences), so that vectors of a real
encoder have neighbours as those of a real catalogue do: about 200 themes, with items between them. Knows no broker.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
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

    def __init__(self) -> None:
        self.items = [item for item in examples.load_catalogue() if item.attributes.get("language") == "en"]
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
    return re.split(r"(?<=[.!?])\s+", item.text)


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
