"""The catalogue agent's work: items to vectors, encoded once. Knows no topic and no broker.

An encoder with images (`streams.pictures`) has the image of an item read, too. One that cannot be read is told in the log and
counted, and the item goes on by its text; sent again once its image can be read, it is encoded anew.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from encoders import Encoder, Vectors
from encoders.image import ImageError, Pixels, decode
from ranking.index import IndexedItem, ItemIndex
from streams.messages import Item, ItemVector
from streams.pictures import pictures_of

log = logging.getLogger("headrace.catalogue")


class Catalogue:
    """Turn items into the vectors that every worker's index follows.

    images: what became of the images that items came with, counted: `used` or `refused`.
    """

    def __init__(self, encoder: Encoder, text_length: int = 2_000) -> None:
        self.encoder = encoder
        self.text_length = text_length
        self.images: Counter[str] = Counter()
        self._pictures = pictures_of(encoder)

    def vectors(self, items: Sequence[tuple[Item, float]], index: ItemIndex) -> list[ItemVector]:
        """Return a message for each item (with its record's Unix time), in order.

        An item whose text and image are what the index knows of it keeps its vector and its time and is not encoded again.
        """
        texts = [item_text(item)[: self.text_length] for item, _ in items]
        known = [index.item(item.item_id) for item, _ in items]
        pixels: dict[int, Pixels] = {}
        hashes = []
        for row, (item, _) in enumerate(items):
            hashed, seen = self._look(item, texts[row], "" if (old := known[row]) is None else old[0].text_hash)
            hashes.append(hashed)
            if seen is not None:
                pixels[row] = seen
        new = [row for row, old in enumerate(known) if old is None or old[0].text_hash != hashes[row]]
        fresh = dict(zip(new, self.encoder.encode([texts[row] for row in new]), strict=True))
        self._fuse([item for item, _ in items], texts, pixels, fresh)
        messages = []
        first: dict[str, float] = {}  # of new items: an item may come twice in a batch
        for row, (item, at) in enumerate(items):
            old = known[row]
            vector = fresh[row] if row in fresh else old[1] if old else fresh[row]
            since = old[0].at if old else first.setdefault(item.item_id, at)
            messages.append(self._message(item, vector.astype("<f2").tobytes(), hashes[row], since))
        return messages

    def _look(self, item: Item, text: str, known: str) -> tuple[str, Pixels | None]:
        """Return the hash of an item's text and image, and the image where the hash is not the one that is `known`."""
        if self._pictures is None or not item.image:
            return text_hash(text), None
        try:
            raw = self._pictures.read(item.image)
            hashed = text_hash(f"{text}\0{blake2b(raw, digest_size=16).hexdigest()}")
            pixels = None if hashed == known else decode(raw)
        except ImageError as error:
            log.warning("item %s goes on by its text alone: its image %s", item.item_id, error)
            self.images["refused"] += 1
            return text_hash(text), None
        self.images["used"] += 1
        return hashed, pixels

    def _fuse(self, items: Sequence[Item], texts: Sequence[str], pixels: dict[int, Pixels], fresh: dict[int, Vectors]) -> None:
        """Put the vectors of text and image in the place of those of texts, for the rows that have an image."""
        if self._pictures is None or not pixels:
            return
        rows = list(pixels)
        vectors = np.stack([fresh[row] for row in rows])
        of_rows = [items[row] for row in rows], [texts[row] for row in rows]
        fresh.update(zip(rows, self._pictures.fuse(*of_rows, vectors, list(pixels.values())), strict=True))

    def _message(self, item: Item, vector: bytes, hashed: str, at: float) -> ItemVector:
        return ItemVector(
            item_id=item.item_id,
            title=item.title,
            vector=vector,
            encoder=self.encoder.id,
            text_hash=hashed,
            at=at,
            category=item.category,
            brand=item.brand,
            tags=item.tags,
            available=item.available,
            attributes=item.attributes,
        )


def item_text(item: Item) -> str:
    """Return what the encoder reads of an item: title, brand, category, tags, text."""
    parts = (item.title, item.brand, item.category.replace("-", " "), " ".join(item.tags), item.text)
    return ". ".join(part.strip() for part in parts if part.strip())


def text_hash(text: str) -> str:
    """Return 16 hexadecimal digits that change with the text."""
    return blake2b(text.encode(), digest_size=8).hexdigest()


def apply(changes: Sequence[ItemVector | str], index: ItemIndex) -> None:
    """Bring an index up to date: messages are upserted, bare ids deleted.

    Raises ValueError for another encoder's vectors.
    """
    latest = {change if isinstance(change, str) else change.item_id: change for change in changes}
    upserts = [change for change in latest.values() if not isinstance(change, str)]
    for change in upserts:
        if change.encoder != index.encoder_id:
            raise ValueError(
                f"item {change.item_id} has a vector of {change.encoder}, this worker's encoder is {index.encoder_id}"
            )
    index.delete([item_id for item_id, change in latest.items() if isinstance(change, str)])
    if upserts:
        vectors = np.frombuffer(b"".join(change.vector for change in upserts), "<f2").reshape(len(upserts), -1)
        index.upsert([_indexed(change, index.attributes) for change in upserts], vectors)


def _indexed(change: ItemVector, attributes: Sequence[str]) -> IndexedItem:
    return IndexedItem(
        change.item_id,
        change.title,
        change.text_hash,
        change.at,
        change.category,
        change.brand,
        change.tags,
        change.available,
        tuple([change.attributes.get(name) for name in attributes]),
    )
