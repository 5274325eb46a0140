"""Messages: what decodes, what is refused, and that nothing else can happen."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streams import messages
from streams.messages import EVENT_TYPES, NEEDS_ITEM, NEEDS_TEXT, BadMessage, Event, Item, decode_event, decode_item

NOW = 1_790_000_000.0  # in September 2026
CLICK = {"event_id": "e1", "user_id": "u1", "type": "click", "at": NOW, "item_id": "i1"}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def raw(**changes: object) -> bytes:
    """Return the JSON of a click with changes; None leaves a field out."""
    return json.dumps({name: value for name, value in {**CLICK, **changes}.items() if value is not None}).encode()


def reason(value: bytes) -> str:
    """Return why an event is refused."""
    with pytest.raises(BadMessage) as caught:
        decode_event(value, NOW)
    return str(caught.value)


@given(st.binary(max_size=200))
@example(b"")
@example(b"null")
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'{"event_id":"\xff"}')
@example(b"\xef\xbb\xbf{}")
@example(b'{"event_id":"\\ud800"}')
def test_any_bytes_are_an_event_or_refused(value: bytes) -> None:
    """Whatever the bytes, there is an event or a reason, never another error."""
    for decode in (lambda: decode_event(value, NOW), lambda: decode_item(value)):
        assert isinstance(outcome(decode), (Event, Item, str))


def outcome(decode: Callable[[], Event | Item]) -> Event | Item | str:
    """Return what decodes, or the reason, never empty, why it is refused."""
    try:
        return decode()
    except BadMessage as error:
        return str(error) or pytest.fail("a refusal without a reason")


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(Event.__struct_fields__, json_values)))
def test_any_object_is_an_event_or_refused(changes: dict[str, object]) -> None:
    """Whatever the fields hold, there is a checked event or a reason."""
    event = outcome(lambda: decode_event(json.dumps({**CLICK, **changes}).encode(), NOW))
    if not isinstance(event, Event):
        return
    assert isinstance(event.at, float)
    assert messages.EARLIEST_AT <= event.at <= NOW + messages.MAX_AHEAD_S
    assert event.rating is None or math.isfinite(event.rating)
    assert event.user_id.isprintable()
    assert event.item_id or event.type not in NEEDS_ITEM


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_each_type_decodes_with_what_it_needs(kind: str) -> None:
    """Each event type is taken with its needed fields and refused without them."""
    needs = {"item_id": "i1"} if kind in NEEDS_ITEM else {"item_id": None}
    needs |= {"text": "咖啡"} if kind in NEEDS_TEXT else {}
    needs |= {"rating": 4} if kind == "rating" else {}
    assert decode_event(raw(type=kind, **needs), NOW).type == kind
    for field in ("item_id", "text", "rating"):
        if needs.get(field) is not None:
            assert field in reason(raw(type=kind, **{**needs, field: None}))


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (b"", "Input data was truncated"),
        (b"\xff\xfe", "malformed"),
        (b'{"event_id": "\xc3\x28"}', "utf-8"),
        (b"[]", "Expected `object`"),
        (b"[" * 5_000, "e"),
        (raw(user_id=7), "Expected `str`, got `int` - at `$.user_id`"),
        (raw(user_id=None), "missing required field `user_id`"),
        (raw(event_id=None), "missing required field `event_id`"),
        (raw(at=None), "missing required field `at`"),
        (raw(type="wave"), "send one of view, click, cart"),
        (raw(type=3), "send one of view, click, cart"),
        (raw(user_id=""), "length >= 1"),
        (raw(user_id="u" * 257), "length <= 256"),
        (raw(user_id="u\n1"), "control characters"),
        (raw(user_id=" u"), "blanks at its ends"),
        (raw(item_id="i\x00"), "control characters"),
        (raw(list_id="l\t1"), "list_id"),
        (raw(event_id="e\u2028"), "control characters"),
        (raw(at="0001-01-01T00:00:00Z"), "before 1990"),
        (raw(at="9999-12-31T23:59:59Z"), "more than a day after"),
        (raw(at="9999-12-31T23:59:59-23:59"), "more than a day after"),
        (raw(at="0001-01-01T00:00:00+23:59"), "before 1990"),
        (raw(at="yesterday"), "send Unix seconds or ISO 8601"),
        (raw(at=NOW * 1000), "milliseconds"),
        (raw(at=-1), "before 1990"),
        (raw(at=10**400), "at"),
        (raw(at=NOW + 90_000), "more than a day after"),
        (raw(type="rating", rating=float("nan")), "malformed"),
        (raw(type="rating", rating=float("inf")), "malformed"),
        (b'{"event_id":"e","user_id":"u","type":"rating","at":1790000000,"item_id":"i","rating":1e999}', "rating"),
        (raw(type="rating", rating="5"), "`$.rating`"),
        (raw(type="comment", text=""), "needs text"),
        (raw(type="comment", text=" \n"), "needs text"),
        (raw(type="view", progress=1.5), "progress"),
    ],
)
def test_bad_input_has_a_reason(value: bytes, part: str) -> None:
    """Each kind of bad input is refused with what to change."""
    assert part in reason(value)


def test_a_megabyte_of_text_is_taken() -> None:
    """A long text is an event: cutting it is the reader's part."""
    assert len(decode_event(raw(type="comment", text="咖" * 350_000), NOW).text or "") == 350_000


def test_unknown_fields_are_ignored() -> None:
    """A newer producer's extra fields do no harm."""
    assert decode_event(raw(colour="red"), NOW) == decode_event(raw(), NOW)


@pytest.mark.parametrize(
    ("at", "seconds"),
    [
        (NOW, NOW),
        (1_790_000_000, NOW),
        ("2026-01-31T12:00:00Z", 1_769_860_800.0),
        ("2026-01-31T12:00:00", 1_769_860_800.0),
        ("2026-01-31T20:00:00+08:00", 1_769_860_800.0),
        (631_152_000, 631_152_000.0),
        (NOW + 86_400, NOW + 86_400.0),
    ],
)
def test_times_become_unix_seconds(at: object, seconds: float) -> None:
    """Unix seconds and ISO 8601 are the same moment, and no zone means UTC."""
    assert decode_event(raw(at=at), NOW).at == seconds


def test_a_replay_judges_as_the_first_run() -> None:
    """Whether a time is too far ahead hangs on the record's own time, not on when it is read."""
    assert decode_event(raw(at=NOW), NOW - 86_400).at == NOW
    with pytest.raises(BadMessage):
        decode_event(raw(at=NOW), NOW - 86_401)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"title": " "}, "title is blank"),
        ({"item_id": "\u0007"}, "control characters"),
        ({"title": "t" * 1_001}, "length <= 1000"),
        ({"tags": "coffee"}, "$.tags"),
        ({"tags": ["t"] * 65}, "length <= 64"),
        ({"attributes": {"note": "n" * 1_001}}, "length <= 1000"),
        ({"available": "yes"}, "$.available"),
        ({"attributes": {"price": [1]}}, "$.attributes"),
    ],
)
def test_bad_items_have_a_reason(changes: dict[str, object], part: str) -> None:
    """Each kind of bad item is refused with what to change."""
    with pytest.raises(BadMessage) as caught:
        decode_item(json.dumps({"item_id": "i1", "title": "Coffee", **changes}).encode())
    assert part in str(caught.value)


def test_the_largest_item_fits_a_record() -> None:
    """An item of four-byte characters at every bound still makes a vector message below Kafka's 1 MB."""
    words = tuple(f"{number:02}" + "𝄞" * 254 for number in range(64))
    item = Item(
        item_id="𝄞" * 256,
        title="𝄞" * 1_000,
        category="𝄞" * 256,
        brand="𝄞" * 256,
        tags=words,
        attributes=dict.fromkeys(words, "𝄞" * 1_000),
    )
    assert decode_item(messages.encode(item)) == item
    fields = {name: getattr(item, name) for name in ("item_id", "title", "category", "brand", "tags", "attributes")}
    vector = messages.ItemVector(**fields, vector=bytes(2 * 4_096), encoder="e" * 300, text_hash="h" * 16, at=NOW)
    assert len(messages.encode(vector)) < 1_000_000


def test_infinite_attribute_is_refused() -> None:
    """A number too large for a float does not reach the index."""
    with pytest.raises(BadMessage, match=r"price|out of range"):
        decode_item(b'{"item_id":"i1","title":"Coffee","attributes":{"price":1e999}}')


@given(
    st.builds(
        Item,
        item_id=st.text(st.characters(categories=("L", "N")), min_size=1, max_size=30),
        title=st.text(st.characters(categories=("L",)), min_size=1, max_size=50),
        text=st.text(st.characters(codec="utf-8"), max_size=50),
        tags=st.lists(st.text(st.characters(codec="utf-8"), max_size=9), max_size=3).map(tuple),
        available=st.booleans(),
        attributes=st.dictionaries(
            st.text(st.characters(codec="utf-8"), max_size=9),
            st.none() | st.booleans() | st.text(st.characters(codec="utf-8"), max_size=9),
            max_size=3,
        ),
    )
)
def test_items_come_back_as_they_went(item: Item) -> None:
    """Decoding what was encoded gives the same item."""
    assert decode_item(messages.encode(item)) == item


def test_raw_bytes_of_a_dead_letter_survive() -> None:
    """Whatever bytes were refused, the dead letter holds exactly them."""
    letter = messages.DeadLetter(topic="events", partition=1, offset=2, reason="r", raw=bytes(range(256)))
    assert msgspec.json.decode(messages.encode(letter), type=messages.DeadLetter) == letter


KEPT = (
    (messages.Interactions([]), messages.decode_interactions),
    (messages.ItemVector(item_id="i", title="I", vector=b"", encoder="e", text_hash="h", at=NOW), messages.decode_vector),
    (messages.ItemSignal(item_id="i", at=NOW, recent=1.0, steady=1.0), messages.decode_signal),
    (messages.Erasure(at=NOW, partition=0, offset=1), messages.decode_erasure),
    (messages.ModelPart(content=b"m"), messages.decode_part),
    (messages.ModelVersion(at=NOW, encoder="e", parts={"f": ("d",)}), messages.decode_version),
    (messages.ModelInUse(version="v", before="zero-shot", at=NOW), messages.decode_in_use),
)


@pytest.mark.parametrize(("message", "decode"), KEPT)
def test_formats(message: Any, decode: Callable[[bytes], Any]) -> None:
    """What is written can be read, costs no byte for format 1, and a newer format is refused however it is laid out."""
    known = messages.READS[type(message)]
    fields = json.loads(messages.encode(message))
    assert message.format <= known
    assert "format" not in fields
    assert decode(messages.encode(message)) == decode(json.dumps({**fields, "format": 1, "later": [1]}).encode()) == message
    for rest in (fields, {}):
        newer = json.dumps({**rest, "format": known + 1}).encode()
        reason = f"{type(message).__name__} of format {known + 1}, this version reads up to {known}: upgrade it"
        with pytest.raises(messages.NewerMessage, match=reason):
            decode(newer)
    for damaged in (b"", b"{}", b'{"format":"new"}', json.dumps({**fields, "format": 0}).encode()):
        with pytest.raises(msgspec.DecodeError):
            decode(damaged)


def test_every_kept_message_has_a_format() -> None:
    """No kind of message that stays between workers is without one."""
    assert {type(message) for message, _ in KEPT} == set(messages.READS)
