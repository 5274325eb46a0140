"""The import of a history file from beginning to end: file, encoder, items' vectors and profiles, with its progress shown.

Does not know how events are folded or written (history.py), or how items become vectors (catalogue.py). Items that no worker
has encoded yet are encoded here and published, so that an import needs no worker before it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from rich.console import Console

from encoders import Encoder
from ranking.index import ItemIndex
from streams.building import build, load_encoder
from streams.catalogue import Catalogue, apply
from streams.history import Done, History, ImportRefused, read, refuse_harm, run
from streams.kafka import open_producer
from streams.makers import new_index
from streams.messages import BadMessage, Item, ItemVector, decode_item, decode_vector, encode
from streams.reading import records
from streams.settings import Settings
from streams.terminal import bar
from streams.topics import topics

SHOWN = 20  # rows left out that are shown one by one
AT_ONCE = 256  # items encoded, or vectors applied, together


def import_file(
    settings: Settings, path: Path, *, columns: Mapping[str, str], event_type: str | None, merge: bool, skip_bad: bool
) -> Done:
    """Import a history file. Raises ImportRefused, TopicError, RowError, BadMessage, EncoderError."""
    console = Console(stderr=True, highlight=False)
    with console.status("looking for workers and profiles"):
        refuse_harm(settings, merge=merge)  # again in `run`: this one saves the minutes of reading
    with bar("reading") as advance:
        history = read(path, time.time(), columns=columns, event_type=event_type, skip_bad=skip_bad, progress=advance)
    for line in history.left_out[:SHOWN]:
        console.print(f"left out {line}", markup=False)
    if len(history.left_out) > SHOWN:
        console.print(f"left out {len(history.left_out)} rows in all")
    encoder = load_encoder(settings)
    console.print(encoder.reason, markup=False)
    with console.status("reading item vectors"):
        index = known_items(settings, encoder)
    encoded = encode_missing(settings, encoder, index)
    console.print(f"{len(index)} items, {encoded} encoded now")
    if unknown := refuse_unknown_items(history, index, settings):
        console.print(f"[yellow]{unknown} items of the history are unknown: events about them say nothing of meaning")
    done = 0
    with bar("folding") as advance:

        def progress(events: int) -> None:
            nonlocal done
            done += events
            advance(done / len(history.events))

        return run(settings, build(encoder, settings, index), history, merge=merge, progress=progress)


def known_items(settings: Settings, encoder: Encoder) -> ItemIndex:
    """Return an index of what the item-vectors topic holds for this encoder. Raises TopicError, NewerMessage."""
    index = new_index(encoder, settings)
    changes = item_changes(settings, encoder)
    while some := list(islice(changes, AT_ONCE)):
        apply(some, index)
    return index


def item_changes(settings: Settings, encoder: Encoder) -> Iterator[ItemVector | str]:
    """Yield what the item-vectors topic holds for this encoder: messages, and ids of deleted items. Raises TopicError."""
    for record in records(settings, topics(settings).item_vectors):
        change = decode_vector(record.value) if record.value else record.key.decode()
        if isinstance(change, str) or change.encoder == encoder.id:
            yield change


def encode_missing(settings: Settings, encoder: Encoder, index: ItemIndex) -> int:
    """Encode and publish the items that the index lacks, put them into it, and return how many they were."""
    missing = [(item, at) for item, at in _items(settings) if index.item(item.item_id) is None]
    catalogue = Catalogue(encoder, settings.text_length)
    if not missing:
        return 0
    with bar("encoding items") as advance, open_producer(settings, linger_ms=5) as producer:
        sent = []
        for start in range(0, len(missing), AT_ONCE):
            messages = catalogue.vectors(missing[start : start + AT_ONCE], index)
            for message in messages:
                place = topics(settings).item_vectors.name
                sent.append(producer.send(place, key=message.item_id.encode(), value=encode(message)))
            apply(messages, index)
            advance((start + len(messages)) / len(missing))
        for future in sent:
            future.get(timeout=settings.connect_timeout_s)
    return len(missing)


def _items(settings: Settings) -> Sequence[tuple[Item, float]]:
    """Return the items on the items topic now, each with the Unix time of its record."""
    items: dict[str, tuple[Item, float]] = {}
    for record in records(settings, topics(settings).items):
        if not record.value:
            items.pop((record.key or b"").decode(errors="replace"), None)
            continue
        try:
            item = decode_item(record.value)
        except BadMessage:  # the worker that comes to it makes the dead letter
            continue
        items[item.item_id] = (item, record.timestamp / 1000)
    return list(items.values())


def refuse_unknown_items(history: History, index: ItemIndex, settings: Settings) -> int:
    """Return how many items of the history the index does not know. Raises ImportRefused when it knows none of them."""
    touched = {event.item_id for event in history.events if event.item_id is not None}
    unknown = sum(index.item(item_id) is None for item_id in touched)
    if touched and unknown == len(touched):
        raise ImportRefused(
            f"none of the {len(touched)} items of the history, as {min(touched)!r}, is on {topics(settings).items.name}: "
            "run `headrace items load FILE` first"
        )
    return unknown
