"""The messages of every topic, decoded and checked.

Knows nothing of Kafka clients, vectors' meaning or profiles. All messages are JSON. Unknown fields are ignored; a wrong type,
a missing field or an impossible value raises `BadMessage`, whose text is the reason that a dead letter carries.

    BadMessage(ValueError)      raised by `decode_event` and `decode_item`; the sender has to change the message
    NewerMessage(RuntimeError)  raised by the other decoders; this process has to be upgraded

What producers send and consumers get has no version: fields are only ever added. What workers write for each other, and stays
(`Interactions`, `ItemVector`, `ItemSignal`, `Erasure`, and the three of models), has a format, 1 where none is given. A field
that older readers may ignore is added under the same format. One that they may not ignore takes a new format, in two
releases: the first reads it and still writes the old one, the second writes it. So workers of two releases in a row run side
by side. One that meets a newer format is further behind: left out, the message would be an item missing from lists, a count
that its own then replaces, or an erased user's event let back in, and nobody would know. So it ends, with nothing
acknowledged, and says what to do. A model of a newer format is refused alone: the one in service goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Annotated, Any, Literal, TypeVar

import msgspec

EventType = Literal[
    "view", "click", "cart", "purchase", "rating", "like", "dislike", "comment", "search", "wish", "impression", "ask", "erase"
]
ASK = "ask"  # a question in plain words, answered by the next list
ERASE = "erase"  # not behaviour: the user is to be forgotten
EVENT_TYPES: tuple[str, ...] = tuple(kind for kind in EventType.__args__ if kind != ERASE)  # type: ignore[attr-defined]
NEEDS_ITEM = frozenset({"view", "click", "cart", "purchase", "rating", "like", "dislike", "impression"})
NEEDS_TEXT = frozenset({"comment", "search", "wish", "ask"})

EARLIEST_AT = 631_152_000.0  # 1990-01-01: no behaviour on the web is older
MAX_AHEAD_S = 86_400.0  # a sender's clock may be a day (a wrong time zone) ahead of the broker's, not more
ID_LENGTH = 256
# An item's vector message must fit Kafka's 1 MB, or one item would stop its partition: all but the text is bounded.
TITLE_LENGTH = 1_000
WORD_LENGTH = 256
MOST_WORDS = 64

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=ID_LENGTH, description="1-256 printable characters")]
Word = Annotated[str, msgspec.Meta(max_length=WORD_LENGTH)]
Tags = Annotated[tuple[Word, ...], msgspec.Meta(max_length=MOST_WORDS)]
Value = Annotated[str, msgspec.Meta(max_length=TITLE_LENGTH)] | float | bool | None
Attributes = Annotated[dict[Word, Value], msgspec.Meta(max_length=MOST_WORDS)]
Format = Annotated[int, msgspec.Meta(ge=1, description="raised when older versions could not read the rest")]
Message = TypeVar("Message", bound=msgspec.Struct)


class BadMessage(ValueError):  # noqa: N818  the message is bad, the program is not
    """A message that can never be processed: the reason says what to change in it."""


class NewerMessage(RuntimeError):  # noqa: N818  as above
    """A message of a format that only a newer version reads: nothing may be done without it."""


class Event(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """One thing a user did, or (type `erase`) that all of the user is to be forgotten. Topic `events`, key `user_id`."""

    event_id: Id
    user_id: Id
    type: EventType
    at: Annotated[float | str, msgspec.Meta(description="Unix seconds, or ISO 8601 with a time zone (none means UTC)")]
    item_id: Id | None = None
    rating: float | None = None
    progress: Annotated[float, msgspec.Meta(ge=0, le=1, description="share watched or read, for a view")] | None = None
    text: str | None = None
    list_id: Id | None = None


class Item(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """One thing that can be recommended. Topic `items`, key `item_id`; an empty value deletes the item."""

    item_id: Id
    title: Annotated[str, msgspec.Meta(min_length=1, max_length=TITLE_LENGTH)]
    text: str = ""
    category: Word = ""
    brand: Word = ""
    tags: Tags = ()
    image: str | None = None
    available: bool = True
    attributes: Attributes = {}


class ItemVector(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """An item as the index holds it. Compacted topic `item-vectors-<encoder>`, key `item_id`."""

    item_id: Id
    title: str
    vector: Annotated[bytes, msgspec.Meta(description="little-endian float16, unit norm, base64")]
    encoder: str
    text_hash: str
    at: Annotated[float, msgspec.Meta(description="Unix seconds the item was first published")]
    category: str = ""
    brand: str = ""
    tags: tuple[str, ...] = ()
    available: bool = True
    attributes: dict[str, Value] = {}
    format: Format = 1


class Interaction(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """What one event says about one item."""

    item_id: Id
    after: Annotated[tuple[Id, ...], msgspec.Meta(description="the items the same user touched just before, newest first")]
    weight: Annotated[float, msgspec.Meta(ge=0)]
    at: float
    source: Annotated[tuple[int, int], msgspec.Meta(description="partition and offset of the event, to count it once")]


class Interactions(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What events say about items, of those that the partition holds by `item_id`. Topic `interactions`, without a key."""

    interactions: list[Interaction]
    format: Format = 1


class ItemSignal(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """What all users together did with one item. Compacted topic `item-signals`, key `item_id`."""

    item_id: Id
    at: Annotated[float, msgspec.Meta(description="Unix seconds to which the counts are decayed")]
    recent: Annotated[float, msgspec.Meta(description="weighted touches, fast decay")]
    steady: Annotated[float, msgspec.Meta(description="weighted touches, slow decay")]
    after: Annotated[dict[str, float], msgspec.Meta(description="item touched before -> decayed co-visits")] = {}
    sources: Annotated[dict[int, int], msgspec.Meta(description="events partition -> last offset counted")] = {}
    day: Annotated[float, msgspec.Meta(description="weighted touches, half as much after a day")] = 0.0
    week: Annotated[float, msgspec.Meta(description="weighted touches, half as much after a week")] = 0.0
    format: Format = 1


class RecommendedItem(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One place of a list."""

    item_id: Id
    score: Annotated[float, msgspec.Meta(ge=0, le=1, description="softmax probability among the candidates")]
    reason: str
    propensity: (
        Annotated[
            float,
            msgspec.Meta(gt=0, le=1, description="probability that this item stood at this place; left out where it is 1"),
        ]
        | None
    ) = None


class RecommendationList(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """A user's refreshed list. Topic `recommendations`, key `user_id`."""

    list_id: Id
    user_id: Id
    items: Annotated[tuple[RecommendedItem, ...], msgspec.Meta(description="best first")]
    event_id: Annotated[str, msgspec.Meta(description="the newest event that the list knows of")]
    event_at: float
    published_at: float
    model: Annotated[str, msgspec.Meta(description="'zero-shot', or the version of the model bundle")]
    covers: Annotated[int, msgspec.Meta(ge=0, description="how many events this list is newer than the last one by")]
    variant: Annotated[str, msgspec.Meta(description="'experiment/variant' that the list is of, where one runs")] | None = None
    reread: (
        Annotated[
            str,
            msgspec.Meta(
                description="the cross-encoder that put the first items into this order: the list as it was ranked came "
                "before, under the same list_id"
            ),
        ]
        | None
    ) = None


class Erasure(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """That a user was erased, and when. Compacted topic `erasures`, key a hash of `user_id`."""

    at: Annotated[float, msgspec.Meta(description="Unix seconds the erase event reached the broker")]
    partition: Annotated[int, msgspec.Meta(description="of the erase event")]
    offset: Annotated[int, msgspec.Meta(description="of the erase event")]
    format: Format = 1


class ModelPart(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """A piece of one file of a model. Compacted topic `models-<encoder>`, key `<version>/<file>/<number>`."""

    content: Annotated[bytes, msgspec.Meta(description="base64")]
    format: Format = 1


class ModelVersion(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """A model that can be used, all its parts being there. Same topic, key the version."""

    at: Annotated[float, msgspec.Meta(description="Unix seconds it was published")]
    encoder: str
    parts: Annotated[
        dict[str, tuple[str, ...]], msgspec.Meta(description="file -> the BLAKE2b-128 of each of its parts' contents, in order")
    ]
    report: Annotated[dict[str, Any], msgspec.Meta(description="figures of the training")] = {}
    format: Format = 1


class ModelInUse(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """Which model workers are to rank with. Same topic, key `current`."""

    version: Annotated[str, msgspec.Meta(description="of a ModelVersion, or 'zero-shot'")]
    before: Annotated[str, msgspec.Meta(description="the version that was in use before this one")]
    at: Annotated[float, msgspec.Meta(description="Unix seconds it was asked for")]
    format: Format = 1


class DeadLetter(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A message that could not be processed. Topic `dead-letters`, key its place, as `events[1]@42`."""

    topic: str
    partition: int
    offset: int
    reason: str
    raw: Annotated[bytes, msgspec.Meta(description="the message's value, base64")]
    key: Annotated[bytes, msgspec.Meta(description="the message's key, base64")] | None = None


class _Stamp(msgspec.Struct):
    """What a message of any format tells."""

    format: int = 1


# The newest format that is read. What is written is what an `encode`d struct says, and never newer.
READS: dict[type[msgspec.Struct], int] = {
    **{Interactions: 1, ItemVector: 1, ItemSignal: 1, Erasure: 1},
    **{ModelPart: 1, ModelVersion: 1, ModelInUse: 1},
}
_event_decoder = msgspec.json.Decoder(Event)
_item_decoder = msgspec.json.Decoder(Item)
_encoder = msgspec.json.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    """Return the JSON of a message."""
    return _encoder.encode(message)


def decode_event(raw: bytes, appended_at: float) -> Event:
    """Return the checked event of a record's value, its `at` as Unix seconds.

    `appended_at` is the record's own Kafka time in Unix seconds: the bound on clocks that run ahead, so that a replay judges
    as the first run did. Raises BadMessage.
    """
    event = _decode(_event_decoder, raw)
    check_id("event_id", event.event_id)
    check_id("user_id", event.user_id)
    if event.type == ERASE:  # whatever else it holds is not kept
        return Event(event_id=event.event_id, user_id=event.user_id, type=ERASE, at=seconds_of(event.at, appended_at))
    if event.item_id is not None:
        check_id("item_id", event.item_id)
    elif event.type in NEEDS_ITEM:
        raise BadMessage(f"a {event.type} event needs item_id: say which item it is about")
    if event.list_id is not None:
        check_id("list_id", event.list_id)
    if event.type in NEEDS_TEXT and not (event.text and event.text.strip()):
        article = "an" if event.type == ASK else "a"
        raise BadMessage(f"{article} {event.type} event needs text: it is missing or empty")
    if event.rating is not None and not math.isfinite(event.rating):
        raise BadMessage(f"rating is {event.rating}: send a finite number")
    if event.type == "rating" and event.rating is None:
        raise BadMessage("a rating event needs rating: a number on the configured scale")
    return msgspec.structs.replace(event, at=seconds_of(event.at, appended_at))


def decode_item(raw: bytes) -> Item:
    """Return the checked item of a record's value. Raises BadMessage."""
    item = _decode(_item_decoder, raw)
    check_id("item_id", item.item_id)
    if not item.title.strip():
        raise BadMessage("title is blank: an item needs a title that can be read")
    for name, value in item.attributes.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise BadMessage(f"attributes.{name} is {value}: send a finite number")
    return item


def _decoder_of(kind: type[Message]) -> Callable[[bytes], Message]:
    """Return the decoder of what workers write for each other; it raises NewerMessage, DecodeError, UnicodeDecodeError."""
    decoder = msgspec.json.Decoder(kind)

    def decode(raw: bytes) -> Message:
        try:
            message = decoder.decode(raw)
        except msgspec.ValidationError:
            _refuse_newer(kind, msgspec.json.decode(raw, type=_Stamp).format)
            raise
        _refuse_newer(kind, message.format)  # type: ignore[attr-defined]  # each of READS has it
        return message

    return decode


def _refuse_newer(kind: type[msgspec.Struct], found: int) -> None:
    if found > READS[kind]:
        raise NewerMessage(f"{kind.__name__} of format {found}, this version reads up to {READS[kind]}: upgrade it") from None


decode_interactions = _decoder_of(Interactions)
decode_vector = _decoder_of(ItemVector)
decode_signal = _decoder_of(ItemSignal)
decode_erasure = _decoder_of(Erasure)
decode_part = _decoder_of(ModelPart)
decode_version = _decoder_of(ModelVersion)
decode_in_use = _decoder_of(ModelInUse)


def check_id(name: str, value: str) -> None:
    """Raise BadMessage unless `value` is 1-256 printable characters without blanks at its ends."""
    if not value.isprintable() or value != value.strip():
        raise BadMessage(f"{name} {value[:40]!r} has control characters or blanks at its ends: use printable characters")


def _decode(decoder: msgspec.json.Decoder[Message], raw: bytes) -> Message:
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error) or f"{type(error).__name__}: send one JSON object"
        raise BadMessage(
            f"{reason}: send one of {', '.join((*EVENT_TYPES, ERASE))}" if reason.endswith("`$.type`") else reason
        ) from None


def seconds_of(at: float | str, appended_at: float) -> float:
    """Return a moment in Unix seconds; `appended_at` is what it may not lie far ahead of. Raises BadMessage."""
    if isinstance(at, str):
        try:
            moment = datetime.fromisoformat(at)
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
        except (ValueError, OverflowError):
            raise BadMessage(f"at {at[:40]!r} is no time: send Unix seconds or ISO 8601, as 2026-01-31T12:00:00Z") from None
    else:
        seconds = float(at)
    if EARLIEST_AT <= seconds <= appended_at + MAX_AHEAD_S:
        return seconds
    if EARLIEST_AT <= seconds / 1000 <= appended_at + MAX_AHEAD_S:
        raise BadMessage(f"at {at} looks like milliseconds: send Unix seconds")
    raise BadMessage(f"at {at} lies before 1990 or more than a day after the record reached the broker: send Unix seconds")
