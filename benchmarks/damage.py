"""Events and items damaged at random: the same generator of randomness makes the same ones.

Does not know what is good or bad in them, nor where they go. Fields get values of other types, numbers at the edges of what
there is, huge texts, control characters, half characters, texts made of nothing but the words that wishes are read by; bytes
are flipped, cut, repeated and wrapped.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from streams.messages import ERASE, EVENT_TYPES, NEEDS_ITEM

USERS, ITEMS = 300, 400
ITEM_SHARE = 0.2
HUGE = 0.002  # of the messages have a text of 10 kB to 900 kB
MISPLACED = 0.02  # of them go under another key, or none
GONE = "gone"  # how the ids of users begin who are erased again and again
ERASED = 0.01  # of the events are of them
MOST_BYTES = 990_000  # Kafka's 1 MB has to hold headers, too

_ENGLISH = (
    "less more not never no instead of rather than don't want i'd like love hate please too as well anymore stop show me sport "
    "jazz coffee tea good bad boring great worth waste n't can't recommend but and or , . ; ! ? ' \" ’"
)
_CHINESE = (
    "。 ， ！ 、 少 多 一点 不 不要 不想 想 喜欢 讨厌 推荐 没有 太 了 的 吧 更 再 也 还 体育 爵士 咖啡 好 差 失望 看 听 买"
)
CUES = tuple(f"{_ENGLISH} {_CHINESE}".split())
CHARACTERS = "aZ09 \t\n\r\0\x07\x1b\x7f\x85\xa0éß中文ไทยعب𝄞👩\u200d👧\u0301\u2028\u202e\ufeff\ufffd\ud800\udfff"
NUMBERS = (0, 1, -1, -0.0, 0.5, 5e-324, 1e-9, 1e15, 1e22, 1e308, -1e308, 2**53, 2**63, 2**64, 10**30, 10**400)
NO_NUMBERS = (float("nan"), float("inf"), float("-inf"))
TIMES = ("2026-01-31T12:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59", "2026-02-30", "now", "2026-W05-1")
WORDS = ("", " ", "\0", "\n", "\ud800", "\u2028", " x", "x" * 256, "x" * 257, "𝄞" * 256, "null", "1e5", "u1\u202e", "u[0]@1")
SHAPES: Sequence[Any] = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    {"a": {"b": []}},
    ["x"] * 65,
    {"": ""},
    {"k\n": 1e999},
    [None, 1, "a"],
)
WRAPPED = ((b"\xef\xbb\xbf", b""), (b" \r\n\t", b" "), (b"[", b"]"), (b"[" * 20_000, b""), (b"\xff\xfe", b""))


class Damaged(NamedTuple):
    """A message to send: to the topic of items or of events, under a key, with a header that says it was sent on before."""

    is_item: bool
    key: bytes | None
    value: bytes
    is_resent: bool = False


def damaged(rng: random.Random, now: float) -> Damaged:
    """Return a message, most of them damaged in one to three ways. now: Unix seconds, about which events happen."""
    is_item = rng.random() < ITEM_SHARE
    fields = whole_item(rng) if is_item else whole_event(rng, now)
    own = str(fields["item_id" if is_item else "user_id"]).encode()
    key: bytes | None = own
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        rng.choice(FIELDS)(fields, rng)
    if rng.random() < HUGE:
        fields["text"] = rng.choice(CUES) * int(10 ** rng.uniform(4, 5.2))
    value = json.dumps(fields, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.5:
        value = value.replace(b"Infinity", b"1e999")  # JSON has no word for it, and numbers that are as large
    if rng.random() < 0.2:
        value = rng.choice(BYTES)(value, rng)
    if is_item and rng.random() < 0.02:
        value = b""  # the deletion of the item
    if rng.random() < MISPLACED:
        others = (b"", b"\xff\xfe", b"u0", own + b"x")
        key = rng.choice(others if is_item else (None, *others))  # a compacted topic takes no record without a key
    return Damaged(is_item, key, value[:MOST_BYTES], not is_item and rng.random() < 0.002)


def whole_event(rng: random.Random, now: float) -> dict[str, Any]:
    """Return the fields of a good event."""
    kind = rng.choice(EVENT_TYPES)
    fields: dict[str, Any] = {
        "event_id": f"e{rng.getrandbits(48)}",
        "user_id": f"{GONE}{rng.randrange(5)}" if rng.random() < ERASED else f"u{rng.randrange(USERS)}",
        "type": kind,
        "at": now - rng.expovariate(1 / 3_600),
    }
    if fields["user_id"].startswith(GONE) and rng.random() < 0.3:
        fields["type"] = ERASE
    if kind in NEEDS_ITEM or rng.random() < 0.2:
        fields["item_id"] = f"i{rng.randrange(ITEMS)}"
    if kind not in NEEDS_ITEM or rng.random() < 0.1:
        fields["text"] = " ".join(rng.choices(CUES, k=rng.randrange(1, 12)))
    if kind == "rating":
        fields["rating"] = rng.randrange(1, 6)
    if kind == "view":
        fields["progress"] = rng.random()
    return fields


def whole_item(rng: random.Random) -> dict[str, Any]:
    """Return the fields of a good item."""
    return {
        "item_id": f"i{rng.randrange(ITEMS)}",
        "title": " ".join(rng.choices(CUES, k=4)),
        "text": " ".join(rng.choices(CUES, k=20)),
        "category": rng.choice(CUES),
        "tags": rng.choices(CUES, k=3),
        "attributes": {"price": rng.uniform(1, 99), "size": "L"},
        "available": rng.random() < 0.9,
    }


def _odd(rng: random.Random) -> Any:
    return rng.choice(rng.choice((NUMBERS, NO_NUMBERS, TIMES, WORDS, SHAPES)))


def _set_odd(fields: dict[str, Any], rng: random.Random) -> None:
    if fields:
        fields[rng.choice(list(fields))] = _odd(rng)


def _set_number(fields: dict[str, Any], rng: random.Random) -> None:
    fields[rng.choice(("at", "rating", "progress"))] = rng.choice(NUMBERS)


def _drop(fields: dict[str, Any], rng: random.Random) -> None:
    if fields:
        del fields[rng.choice(list(fields))]


def _add(fields: dict[str, Any], rng: random.Random) -> None:
    fields[rng.choice(("colour", "list_id", "image", "brand", "", "\0"))] = _odd(rng)


def _add_attribute(fields: dict[str, Any], rng: random.Random) -> None:
    fields["attributes"] = {rng.choice(WORDS): _odd(rng)}


def _mix_characters(fields: dict[str, Any], rng: random.Random) -> None:
    name = rng.choice(("text", "title", "user_id", "item_id", "event_id", "category"))
    fields[name] = "".join(rng.choices(CHARACTERS, k=rng.randrange(1, 40)))


def _mix_cues(fields: dict[str, Any], rng: random.Random) -> None:
    fields["text"] = rng.choice(("", " ")).join(rng.choices(CUES, k=rng.choice((3, 30, 600))))


def _repeat_a_cue(fields: dict[str, Any], rng: random.Random) -> None:
    fields["text"] = rng.choice(("", " ", "  ")).join([rng.choice(CUES)] * rng.choice((30, 1_000)))


FIELDS: Sequence[Callable[[dict[str, Any], random.Random], None]] = (
    _set_odd,
    _set_number,
    _drop,
    _add,
    _add_attribute,
    _mix_characters,
    _mix_cues,
    _repeat_a_cue,
)


def _flip(value: bytes, rng: random.Random) -> bytes:
    changed = bytearray(value)
    for _ in range(rng.randrange(1, 4)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(value: bytes, rng: random.Random) -> bytes:
    return value[: rng.randrange(len(value))]


def _leave_out(value: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(value))
    return value[:start] + value[start + rng.randrange(1, 9) :]


def _insert(value: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(value))
    return value[:place] + rng.randbytes(rng.randrange(1, 9)) + value[place:]


def _twice(value: bytes, rng: random.Random) -> bytes:
    return value + rng.choice((b"", b"\n", b",")) + value[:100_000]


def _wrap(value: bytes, rng: random.Random) -> bytes:
    before, after = rng.choice(WRAPPED)
    return before + value + after


def _noise(value: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(1, 60))


BYTES: Sequence[Callable[[bytes, random.Random], bytes]] = (_flip, _cut, _leave_out, _insert, _twice, _wrap, _noise)
