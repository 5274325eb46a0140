"""Look at dead letters, and send them again after repair.

Does not decide what is refused: agents do. A letter is named by its place, which is where the refused message lies:
`events[1]@42`, the key of the letter. Sending a letter again leaves a record of that key without a value, once the broker has
the message: from then on the letter is neither shown nor sent again. Only a process that is killed between the two leaves a
letter that can be sent twice, with the same event_id or item_id.

    LettersError(ValueError)   a file that holds no letters: says which line, and what one needs
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from datetime import datetime, timezone
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from kafka.errors import KafkaError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streams.kafka import open_producer
from streams.messages import BadMessage, DeadLetter, decode_event, decode_item
from streams.reading import records
from streams.rights import check_command_rights
from streams.settings import Settings
from streams.topics import Topic, check_topics, topics

SHOWN = 60  # characters of a value in the table
TOGETHER = 200  # letters sent before their acknowledgements are awaited: at most 100 MB of values
LARGEST = 1_000_000  # bytes of a message: with its key and headers it has to fit Kafka's 1 MB
_CUT = re.compile(r"\(raw holds the first \d+ of \d+ bytes\)$")

_letters = msgspec.json.Decoder(DeadLetter)


class LettersError(ValueError):
    """A file that holds no letters."""


class Letter(NamedTuple):
    """A dead letter that was not sent again. at: Unix seconds of the refusal."""

    place: str
    at: float
    message: DeadLetter


class Outcome(NamedTuple):
    """What became of a letter. sent: the place of its message now, "" when it was refused; reason: why, or what went wrong."""

    place: str
    sent: str = ""
    reason: str = ""


class Checked(NamedTuple):
    """A message that passed its check: where it goes."""

    letter: Letter
    topic: Topic
    key: str
    value: bytes


class _Newest(NamedTuple):
    topic: str
    partition: int
    offset: int
    at: float


class _Line(msgspec.Struct):
    place: str
    value: msgspec.Raw


_lines = msgspec.json.Decoder(_Line)


def open_letters(settings: Settings, topic: str | None = None, reason: str | None = None) -> Iterator[Letter]:
    """Yield the letters that were not sent again, oldest first, each place once. Raises TopicError.

    topic: only of messages of this topic, its prefix may be left out; reason: only those whose reason has this in it, in
    upper or lower case.
    """
    done = _settled(settings)
    for record in records(settings, topics(settings).dead_letters):
        letter = None if record.value is None else _letter(record)
        if letter is None or letter.place in done:
            continue
        done.add(letter.place)  # a batch that was processed again writes its letters again
        if topic not in (None, letter.message.topic, letter.message.topic.removeprefix(settings.topic_prefix)):
            continue
        if reason is None or reason.casefold() in letter.message.reason.casefold():
            yield letter


def line(letter: Letter) -> bytes:
    """Return a letter as a line of JSON. Its `value` is the message if that is a JSON object, else the message as text.

    A message that is no UTF-8 text is `raw`, in base64, in place of a `value`.
    """
    told = {"place": letter.place, "at": letter.at, "reason": letter.message.reason}
    value = _value(letter.message.raw)
    return msgspec.json.encode(told | ({"raw": letter.message.raw} if value is None else {"value": value}))


def repaired(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield place and message of each line of a file that `line` made; "-" is standard input. Raises LettersError."""
    if str(path) != "-" and not path.is_file():
        raise LettersError(f"{path} is not there: make it with `headrace dead-letters list --json`; - is standard input")
    with nullcontext(sys.stdin.buffer) if str(path) == "-" else path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if text.strip():
                try:
                    yield _repaired(text)
                except (msgspec.DecodeError, UnicodeError) as error:
                    raise LettersError(
                        f"{path} line {number} is no letter ({error}): each line needs `place` and `value`, "
                        "as `headrace dead-letters list --json` prints them"
                    ) from None


def show(letters: Iterable[Letter], *, as_json: bool) -> int:
    """Print letters as a table or as their lines, and return how many there were."""
    if as_json:
        shown = 0
        for letter in letters:
            shown += 1
            sys.stdout.write(line(letter).decode() + "\n")
        return shown
    rows = table(letters)
    if rows.row_count:
        Console().print(rows)
    return rows.row_count


def table(letters: Iterable[Letter]) -> Table:
    """Return letters as a table: place, local time, reason and the beginning of the message."""
    shown = Table()
    for name in ("place", "time", "reason", "message begins"):
        shown.add_column(name, no_wrap=name == "place", overflow="fold")
    for place, at, message in letters:
        moment = datetime.fromtimestamp(at, timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        shown.add_row(Text(place), moment, Text(_printable(message.reason)), Text(beginning(message.raw)))
    return shown


def beginning(raw: bytes) -> str:
    """Return the first characters of a message, at most 60; what a terminal would not print or would obey is escaped."""
    text = raw[: 4 * SHOWN + 16].decode("utf-8", "backslashreplace")  # more than 60 characters, so that none is cut in two
    return _printable(text[:SHOWN]) + ("…" if len(text) > SHOWN else "")


def retry(settings: Settings, wanted: Mapping[str, bytes | None] | None) -> Iterator[Outcome]:
    """Send letters again, oldest first, each under the key it belongs under, and yield what became of each.

    wanted: place -> the repaired message, or None for the message as it was; None in place of the mapping is every letter.
    Each message passes the check that a worker would make; one that does not is yielded with the reason, and nothing of it
    is sent. Raises TopicError, RightsError, BrokerUnreachable.
    """
    names = topics(settings)
    check_command_rights(settings, "dead-letters retry")
    check_topics(settings, [names.events, names.items, names.dead_letters])
    missing = dict.fromkeys(wanted or ())
    newest_items = cache(lambda: _newest_items(settings))  # read when the first item comes
    with open_producer(settings, linger_ms=5) as producer:
        chosen = (letter for letter in open_letters(settings) if wanted is None or letter.place in wanted)
        while group := list(islice(chosen, TOGETHER)):
            checked: list[Checked] = []
            for letter in group:
                missing.pop(letter.place, None)
                try:
                    checked.append(_check(settings, letter, (wanted or {}).get(letter.place), newest_items))
                except BadMessage as error:
                    yield Outcome(letter.place, reason=str(error))
            yield from _send(settings, producer, checked)
    settled = _settled(settings) if missing else set()
    for place in missing:
        yield Outcome(place, reason=_absence(place, place in settled))


def _absence(place: str, is_settled: bool) -> str:
    if is_settled:
        return "was sent again before, or its user was erased: produce the message anew if it has to come once more"
    return f"no dead letter has the place {place!r}: `headrace dead-letters list` shows them, as events[1]@42"


def _check(
    settings: Settings, letter: Letter, given: bytes | None, newest_items: Callable[[], dict[bytes, _Newest]]
) -> Checked:
    """Return what to send of a letter, or of the message that is given in its place. Raises BadMessage."""
    names, message = topics(settings), letter.message
    value = message.raw if given is None else given
    if value == message.raw and _CUT.search(message.reason):
        raise BadMessage(
            f"the letter holds only the first {len(value)} bytes of the message: produce it again from where it came from, "
            "or give the whole of it as `value` with --from"
        )
    if len(value) > LARGEST:
        raise BadMessage(f"the message has {len(value)} bytes, and Kafka takes about {LARGEST}: shorten it")
    if message.topic == names.events.name:
        return Checked(letter, names.events, decode_event(value, time.time()).user_id, value)
    if message.topic != names.items.name:
        raise BadMessage(f"workers write {message.topic}: only events and items can be sent again")
    if not value:
        raise BadMessage("the message was a deletion without a valid key: run `headrace items delete` with the item's id")
    item_id = decode_item(value).item_id
    _check_newest(letter, item_id, newest_items().get(item_id.encode()))
    return Checked(letter, names.items, item_id, value)


def _newest_items(settings: Settings) -> dict[bytes, _Newest]:
    found = ((record, record.timestamp / 1000.0) for record in records(settings, topics(settings).items))
    return {record.key: _Newest(record.topic, record.partition, record.offset, at) for record, at in found}


def _check_newest(letter: Letter, item_id: str, newest: _Newest | None) -> None:
    """Raise BadMessage when the item came again after the refusal: sending the older one would undo that."""
    if newest is None:
        return
    is_beside = newest.partition == letter.message.partition
    is_newer = newest.offset > letter.message.offset if is_beside else newest.at > letter.at
    if is_newer:
        raise BadMessage(
            f"item {item_id!r} came again later, at {_place(newest)}, and this older one would replace it: "
            "use `headrace items load` if it shall"
        )


def _send(settings: Settings, producer: Any, checked: list[Checked]) -> list[Outcome]:
    """Send, await the acknowledgements, and settle the letters that the broker took."""
    sending = [(each, producer.send(each.topic.name, key=each.key.encode(), value=each.value)) for each in checked]
    outcomes = []
    settling = []
    for (letter, *_), future in sending:
        try:
            sent = _place(future.get(timeout=settings.connect_timeout_s))
        except KafkaError as error:
            outcomes.append(Outcome(letter.place, reason=f"the broker did not take it, try again ({error})"))
        else:
            settled = producer.send(topics(settings).dead_letters.name, key=letter.place.encode(), value=None)
            settling.append((letter.place, sent, settled))
    for place, sent, future in settling:
        try:
            future.get(timeout=settings.connect_timeout_s)
            outcomes.append(Outcome(place, sent))
        except KafkaError as error:
            reason = f"its letter stays open, since the broker did not take the record that settles it ({error})"
            outcomes.append(Outcome(place, sent, reason))
    return outcomes


def _settled(settings: Settings) -> set[str]:
    """Return the places of the letters that were sent again."""
    found = (record for record in records(settings, topics(settings).dead_letters) if record.value is None and record.key)
    return {record.key.decode(errors="replace") for record in found}


def _letter(record: Any) -> Letter:
    try:
        message = _letters.decode(record.value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # someone else wrote it: shown, and never sent
        reason = f"this record is no dead letter ({error})"
        message = DeadLetter(
            topic=record.topic, partition=record.partition, offset=record.offset, reason=reason, raw=record.value
        )
    return Letter(_place(message), record.timestamp / 1000.0, message)


def _place(of: Any) -> str:
    return f"{of.topic}[{of.partition}]@{of.offset}"


def _value(raw: bytes) -> msgspec.Raw | str | None:
    try:
        msgspec.json.decode(raw, type=dict[str, Any])
        return msgspec.Raw(raw.replace(b"\n", b" ").replace(b"\r", b" "))  # in JSON they stand only between values
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _repaired(text: bytes) -> tuple[str, bytes]:
    found = _lines.decode(text)
    value = bytes(found.value)
    return found.place, msgspec.json.decode(value, type=str).encode() if value.startswith(b'"') else value


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
