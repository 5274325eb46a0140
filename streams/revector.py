"""The item vectors of another encoder: what the topic holds brought up to what the catalogue says.

Does not know where items are read from, nor profiles.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Any

import msgspec

from encoders import Encoder
from streams.backfill import AT_ONCE, item_changes
from streams.batching import Outgoing
from streams.catalogue import Catalogue, apply
from streams.desk import SEND_MOST
from streams.makers import new_index
from streams.messages import BadMessage, Item, ItemVector, decode_item, encode
from streams.settings import Settings
from streams.sift import sift
from streams.topics import partition_of, topics
from streams.vectorize import key_of_deletion


class Vectors:
    """The index of what is published, and the way to publish more. left_out: messages that could not be used."""

    def __init__(self, settings: Settings, encoder: Encoder, send: Callable[[Sequence[Outgoing]], Awaitable[None]]) -> None:
        self.index = new_index(encoder, settings)
        self.left_out = 0
        self._topic, self._partitions = topics(settings).item_vectors.name, settings.partitions
        self._catalogue = Catalogue(encoder, settings.text_length)
        self._send = send
        self._told: dict[str, int] = {}  # item id -> hash of all but the vector of the message that is published
        changes = item_changes(settings, encoder)
        while some := list(islice(changes, AT_ONCE)):
            self._apply(some)

    def ids(self) -> list[str]:
        """Return the ids of the items that are published."""
        return list(self._told)

    async def take(self, found: Sequence[Any]) -> None:
        """Publish what records of the items topic say, of each item the last."""
        newest: dict[str, tuple[Item, float] | None] = {}
        for record in found:
            try:
                if record.value:
                    item = decode_item(record.value)
                    newest[item.item_id] = (item, record.timestamp / 1000.0)
                else:
                    newest[key_of_deletion(record)] = None
            except BadMessage:  # its dead letter is a worker's to write
                self.left_out += 1
        items = [item for item in newest.values() if item is not None]
        await self.publish(items, [item_id for item_id, item in newest.items() if item is None])

    async def publish(self, items: Sequence[tuple[Item, float]], gone: Sequence[str]) -> None:
        """Encode items whose text is new, publish those that changed in anything, and bring the index up to date."""

        async def vectors(some: Sequence[tuple[Item, float]]) -> list[ItemVector]:
            return await asyncio.to_thread(self._catalogue.vectors, some, self.index)

        found = await sift(items, vectors, fatal=(MemoryError,))
        # The index rounds vectors: an item that is published again without need would come out a little different.
        new = [(each, encode(each)) for each in found.result if self._told.get(each.item_id) != _all_but_vector(each)]
        fit = [(each, value) for each, value in new if len(value) <= SEND_MOST]
        self.left_out += len(found.bad) + len(new) - len(fit)
        changes = [(each.item_id.encode(), value) for each, value in fit] + [(each.encode(), None) for each in gone]
        await self._send([Outgoing(self._topic, partition_of(key, self._partitions), key, value) for key, value in changes])
        await asyncio.to_thread(self._apply, [*(each for each, _ in fit), *gone])

    def _apply(self, changes: Sequence[ItemVector | str]) -> None:
        apply(changes, self.index)
        for change in changes:
            if isinstance(change, str):
                self._told.pop(change, None)
            else:
                self._told[change.item_id] = _all_but_vector(change)


def _all_but_vector(message: ItemVector) -> int:
    return hash(encode(msgspec.structs.replace(message, vector=b"")))
