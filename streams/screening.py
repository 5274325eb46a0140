"""What becomes of each record of the events topic: processed, an erasure, sent on under its right key, or refused.

Does not know Faust, nor how an event is folded. Workers and the rebuild of profiles judge with the same object, by what stands
in the log and nothing else, so that they come to the same profiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from streams.batching import Outgoing
from streams.desk import SEND_MOST, Refused
from streams.erasure import Erasures
from streams.inlet import Record
from streams.messages import ERASE, BadMessage, Erasure, Event, decode_event
from streams.personalizer import Personalizer, Sourced
from streams.topics import partition_of

RESENT = "headrace-resent"  # header of an event that was sent once more under the right key


class Screened(NamedTuple):
    """A batch of events after decoding: what to process, whom to erase, what to send on, what to refuse.

    left_out: how many records lie before an erasure of their user.
    """

    events: list[tuple[Sourced, Record]]
    erased: dict[str, Erasure]
    resent: list[Outgoing]
    refused: list[Refused]
    left_out: int = 0


class Screen:
    """Judges records. partition: the one that a key belongs in, remembered, since its hash is pure Python (5 us a key)."""

    def __init__(self, erasures: Erasures, partitions: int) -> None:
        self.erasures = erasures
        self.partition = lru_cache(maxsize=1 << 15)(lambda key: partition_of(key, partitions))

    def judge(self, records: Sequence[Record]) -> Screened:
        """Decode records; the erasures among them are known before any record is left out for one."""
        screened = Screened([], {}, [], [])
        for record in records:
            try:
                event = decode_event(record.value or b"", record.timestamp / 1000.0)
                key = event.user_id.encode()
                if record.key != key or self.partition(key) != record.partition:
                    screened.resent.append(self._resend(record, key))
                elif event.type == ERASE:
                    erasure = Erasure(at=record.timestamp / 1000.0, partition=record.partition, offset=record.offset)
                    screened.erased[event.user_id] = self.erasures.add(event.user_id, erasure)
                else:
                    screened.events.append((Sourced(event, record.partition, record.offset), record))
            except BadMessage as error:
                screened.refused.append(Refused(record, "message", str(error)))
        return self._without_erased(screened) if len(self.erasures) else screened

    def living(self, user_id: str, record: bytes | None, personalizer: Personalizer) -> bytes | None:
        """Return a user's record, None where there is none or it is from before an erasure."""
        erasure = self.erasures.of(user_id) if record else None
        if erasure is None or not record:
            return record or None
        return record if personalizer.is_counted(record, erasure.partition, erasure.offset) else None

    def _without_erased(self, screened: Screened) -> Screened:
        """Leave out what lies before an erasure of its user. The batch's own erasures are among the known ones by now."""
        events = [(each, record) for each, record in screened.events if not self._is_erased(record, each.event)]
        refused = [each for each in screened.refused if not self._is_erased(each.record)]
        left_out = len(screened.events) - len(events) + len(screened.refused) - len(refused)
        return screened._replace(events=events, refused=refused, left_out=left_out)

    def _is_erased(self, record: Record, event: Event | None = None) -> bool:
        """Tell whether an event, or a record that is none and belongs to its key's user, lies before the user's erasure."""
        user_id = (record.key or b"").decode(errors="replace") if event is None else event.user_id
        # A time ahead of the record's own makes no event newer: one under a wrong key is sent on behind the erasure.
        at = min(record.timestamp / 1000.0, float("inf") if event is None else float(event.at))
        return self.erasures.covers(user_id, at, record.partition, record.offset)

    def _resend(self, record: Record, key: bytes) -> Outgoing:
        """Return the event under its right key. Raises BadMessage for one that was sent on before, or is too large for it."""
        if any(name == RESENT for name, _ in record.headers):
            raise BadMessage(
                f"key {record.key!r} in partition {record.partition} of an event sent on before: its user_id {key.decode()!r} "
                f"belongs in partition {self.partition(key)}; do not set the header {RESENT} yourself"
            )
        value = record.value or b""
        if len(value) > SEND_MOST:
            raise BadMessage(
                f"key {record.key!r} is not the user_id {key.decode()!r}, and {len(value)} bytes are too many to send on: "
                "produce it with user_id as key and Kafka's murmur2 partitioner"
            )
        headers = (*record.headers, (RESENT, b"1"))
        return Outgoing(record.topic, self.partition(key), key, value, record.timestamp, headers)
