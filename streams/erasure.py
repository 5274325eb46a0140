"""What is known of erased users, without their ids: which events and profiles an erasure has outlived.

Does not know Kafka, Faust or how a profile is stored. An erasure is named by a hash of the user's id, so that a late event of
that user is recognised while the id itself is gone. What the hash reveals, and why it is kept: docs/erasure.md.
"""

from __future__ import annotations

import json
import re
import threading
from hashlib import blake2b
from typing import Any

import msgspec

from streams.messages import DeadLetter, Erasure, decode_erasure


def key_of(user_id: str) -> str:
    """Return the name of a user's erasure: 32 hexadecimal digits, the same on every machine."""
    return blake2b(user_id.encode(), digest_size=16, person=b"headrace-erase").hexdigest()


def covers(erasure: Erasure, at: float, partition: int, offset: int) -> bool:
    """Tell whether an event lies before an erasure of its user: in the log, or by its time (Unix seconds)."""
    return at < erasure.at or (partition == erasure.partition and offset <= erasure.offset)


def joined(one: Erasure, other: Erasure) -> Erasure:
    """Return what two erasures of one user come to; the order does not matter."""
    if one.partition == other.partition:
        return Erasure(at=max(one.at, other.at), partition=one.partition, offset=max(one.offset, other.offset))
    return max(one, other, key=lambda each: (each.at, each.partition))


class Erasures:
    """All erasures that are known. Safe to use from more than one thread."""

    def __init__(self) -> None:
        self._known: dict[str, Erasure] = {}
        self._newest: dict[int, int] = {}  # partition -> offset of its newest erasure
        self._lock = threading.Lock()

    def of(self, user_id: str) -> Erasure | None:
        """Return a user's erasure."""
        return self._known.get(key_of(user_id)) if self._known else None  # 3 us a user, from the first erasure on

    def covers(self, user_id: str, at: float, partition: int, offset: int) -> bool:
        """Tell whether an event lies before an erasure of its user."""
        erasure = self.of(user_id)
        return erasure is not None and covers(erasure, at, partition, offset)

    def add(self, user_id: str, erasure: Erasure) -> Erasure:
        """Add an erasure and return what is known of the user's now."""
        return self._add(key_of(user_id), erasure)

    def read(self, key: bytes, value: bytes | None) -> None:
        """Take in a record of the erasures topic; one without a value forgets the erasure.

        Raises DecodeError, ValueError, NewerMessage.
        """
        if value:
            self._add(key.decode(), decode_erasure(value))
        else:
            self._known.pop(key.decode(), None)

    def newest(self) -> dict[int, int]:
        """Return the offset of the newest erasure of each partition that has any."""
        return dict(self._newest)

    def __len__(self) -> int:
        return len(self._known)

    def _add(self, key: str, erasure: Erasure) -> Erasure:
        with self._lock:
            known = self._known.get(key)
            self._newest[erasure.partition] = max(erasure.offset, self._newest.get(erasure.partition, -1))
            self._known[key] = erasure if known is None else joined(known, erasure)
            return self._known[key]


def is_letter_of(letter: DeadLetter, user_id: str) -> bool:
    """Tell whether a dead letter is of a user's event: by its key, by the user_id in it, or as far as one can tell.

    Where the event cannot be read, and in the reason, the id is searched for as a word of its own: a letter too many is taken
    for the user's, rather than one too few.
    """
    if letter.key == user_id.encode():
        return True
    named = _user_in(letter.raw)
    if named is not None and named != user_id:
        return _mentions(letter.reason.encode(), user_id)
    return named == user_id or _mentions(letter.raw, user_id) or _mentions(letter.reason.encode(), user_id)


def _user_in(raw: bytes) -> str | None:
    try:
        event: Any = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    named = event.get("user_id") if isinstance(event, dict) else None
    return str(named) if isinstance(named, str | int | float) else None


def _mentions(text: bytes, user_id: str) -> bool:
    raw = user_id.encode()
    spellings = {raw, json.dumps(user_id)[1:-1].encode(), repr(user_id)[1:-1].encode(), repr(raw)[2:-1].encode()}
    words = b"|".join(re.escape(each) for each in spellings)
    return re.search(rb"(?<![0-9A-Za-z_])(?:" + words + rb")(?![0-9A-Za-z_])", text) is not None
