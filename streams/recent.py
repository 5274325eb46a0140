"""Vectors of users' texts that came lately: search words and wishes repeat, and a repeated one is not encoded again.

Items have no place here: one whose text is unchanged is not encoded again anyway (`streams/catalogue.py`), and a bulk load
would turn all words out. Does not know events or users: a text is kept as its digest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from encoders import Encoder, Vectors


class Recent:
    """An encoder that keeps the vectors of the `size` texts that were used last, `size` x dim x 4 bytes of them.

    One caller at a time, as of any encoder; `known` and `encoded`, texts so far by what they cost, may be read meanwhile.
    """

    def __init__(self, encoder: Encoder, size: int) -> None:
        self.id, self.dim, self.reason = encoder.id, encoder.dim, encoder.reason
        self.known = self.encoded = 0
        self._encoder, self._size = encoder, size
        self._places: OrderedDict[bytes, int] = OrderedDict()  # digest -> row of `_vectors`, the least recently used first
        self._vectors = np.empty((size, encoder.dim), np.float32)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return (n, dim) float32, rows of unit norm in the order of `texts`; what the encoder raises changes nothing."""
        keys = [_key(text) for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._places}
        fresh = self._encoder.encode(list(new.values())) if new or not keys else np.zeros((0, self.dim), np.float32)
        self.known += len(keys) - len(new)
        self.encoded += len(new)
        rows = fresh if len(new) == len(keys) else self._joined(keys, new, fresh)
        self._keep(list(new), fresh)
        return rows

    def _joined(self, keys: list[bytes], new: dict[bytes, str], fresh: Vectors) -> Vectors:
        """Return the rows of all keys, from `fresh` for those in `new`; the others become the most recently used."""
        place = {key: row for row, key in enumerate(new)}
        rows = np.empty((len(keys), self.dim), np.float32)
        made = [row for row, key in enumerate(keys) if key in place]
        kept = [row for row, key in enumerate(keys) if key not in place]
        rows[made] = fresh[[place[keys[row]] for row in made]]
        rows[kept] = self._vectors[[self._places[keys[row]] for row in kept]]
        for row in kept:
            self._places.move_to_end(keys[row])
        return rows

    def _keep(self, keys: list[bytes], vectors: Vectors) -> None:
        keys, vectors = keys[-self._size :], vectors[-self._size :]
        places = []
        for key in keys:
            free = len(self._places)
            place = free if free < self._size else self._places.popitem(last=False)[1]
            self._places[key] = place
            places.append(place)
        self._vectors[places] = vectors


def _key(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
