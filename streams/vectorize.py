"""The catalogue agent: items to vectors, a slice at a time in the gaps that users' events leave. Does not know Faust."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ranking.index import ItemIndex
from streams.batching import Outgoing, acknowledged
from streams.catalogue import Catalogue
from streams.desk import SEND_MOST, Desk, Refused, reason_of
from streams.encode_thread import ITEMS, EncodeThread
from streams.inlet import Batch, Record
from streams.messages import BadMessage, Item, check_id, decode_item, encode
from streams.sift import sift
from streams.topics import partition_of

ITEM_SLICE = 4  # a user's event waits for at most this many items in the encode thread: 5-10 ms


class CatalogueStep:
    """Items to vectors, a slice at a time in the gaps that users' events leave."""

    def __init__(
        self,
        desk: Desk,
        catalogue: Catalogue,
        index: ItemIndex,
        encoding: EncodeThread,
        ready: Callable[[], Awaitable[None]],
        partitions: int,
    ) -> None:
        self.desk, self.catalogue, self.index, self.encoding = desk, catalogue, index, encoding
        self._ready = ready
        self._partitions = partitions
        self._witness: tuple[Item, Record] | None = None

    async def ready(self) -> None:
        """Wait for the index: what it knows is not encoded again."""
        await self._ready()

    async def beside(self) -> None:
        """Nothing runs beside."""

    async def prepare(self, batch: Batch) -> list[Outgoing]:
        """Decode and encode; the messages are in the order of the records."""
        items: list[tuple[Item, Record]] = []
        refused: list[Refused] = []
        changes: dict[int, tuple[str, bytes | None]] = {}  # offset within the batch's order -> item id and value
        order: dict[int, int] = {id(record): place for place, record in enumerate(batch.records)}
        for place, record in enumerate(batch.records):
            try:
                if record.value:
                    items.append((decode_item(record.value), record))
                else:
                    changes[place] = (key_of_deletion(record), None)
                    self.desk.metrics.items.labels("deleted").inc()
            except BadMessage as error:
                refused.append(Refused(record, "message", str(error)))
        found = await sift(items, self._vectors, self._witness, (MemoryError,))
        refused += [Refused(record, "encoder", reason_of("encoded", error)) for (_, record), error in found.bad]
        for (item, record), value in zip(found.good, found.result, strict=True):
            if len(value) > SEND_MOST:
                refused.append(
                    Refused(record, "size", f"the item takes {len(value)} bytes with its vector: shorten its attributes")
                )
            else:
                changes[order[id(record)]] = (item.item_id, value)
        if found.good:
            self._witness = found.good[-1]
        self.desk.metrics.items.labels("published").inc(len(found.good))
        self._count_images()
        return [self._change(*changes[place]) for place in sorted(changes)] + self.desk.dead_letters(refused)

    async def apply(self, batch: Batch, prepared: list[Outgoing]) -> list[Outgoing]:
        """Nothing is folded."""
        return prepared

    async def send(self, batch: Batch, applied: list[Outgoing]) -> Sequence[Any]:
        """Send the changes."""
        return await self.desk.outbox.send(applied)

    async def finish(self, batch: Batch, sent: Sequence[Any]) -> None:
        """Wait for the acknowledgements."""
        await acknowledged(sent)

    async def _vectors(self, items: Sequence[tuple[Item, Record]]) -> list[bytes]:
        given = [(item, record.timestamp / 1000.0) for item, record in items]
        return await self.encoding.run(ITEMS, self._encode, given)

    def _encode(self, items: Sequence[tuple[Item, float]]) -> list[bytes]:
        self.catalogue.images.clear()  # items that are tried again, in halves, come through here again: the last time counts
        return [encode(vector) for vector in self.catalogue.vectors(items, self.index)]

    def _count_images(self) -> None:
        for outcome, count in self.catalogue.images.items():
            self.desk.metrics.images.labels(outcome).inc(count)
        self.catalogue.images.clear()

    def _change(self, item_id: str, value: bytes | None) -> Outgoing:
        key = item_id.encode()
        return Outgoing(self.desk.topics.item_vectors.name, partition_of(key, self._partitions), key, value)


def key_of_deletion(record: Record) -> str:
    """Return the id of the item that a record without a value deletes. Raises BadMessage."""
    if not record.key:
        raise BadMessage("an empty value deletes the item that the key names: this record has no key")
    try:
        item_id = record.key.decode()
    except UnicodeDecodeError as error:
        raise BadMessage(f"the key is no UTF-8 text ({error}): an empty value deletes the item that the key names") from None
    check_id("key", item_id)
    return item_id
