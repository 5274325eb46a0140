"""What a worker makes of messages that were damaged at random: none may stop it, and each good one has to be served.

`python -m benchmarks.fuzz --count 100000 --seed 1` sends that many damaged (and some whole) events and items through a worker
process, as fast as they go, waits until all are acknowledged, and reads every topic back. Of each record that lies on the
topics it asks the decoders whether it is good. Then each bad one must have a dead letter, with a reason and its bytes, and no
good one may have any; the events of each user must be covered by lists (`covers` summed up), each good item must have its
vector, each event under a wrong key must have come once more under the right one. The same seed damages in the same way.

Exit codes: 0 all holds, 1 something does not (it says what), 2 the worker ended, or something did not come in five minutes.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
from kafka import TopicPartition

from benchmarks import stage
from benchmarks.damage import GONE, Damaged, damaged
from streams.broker import HOST, BrokerError
from streams.desk import RAW_MOST, SEND_MOST
from streams.kafka import open_consumer, open_producer
from streams.messages import (
    ERASE,
    BadMessage,
    DeadLetter,
    RecommendationList,
    check_id,
    decode_event,
    decode_item,
)
from streams.screening import RESENT
from streams.settings import Settings, load
from streams.terminal import bar
from streams.topics import Topic, create_topics, partition_of, topics

FOLDER = Path(".headrace/fuzz")
FETCH_BYTES = 256 << 20  # noida-db 0.2.3 takes seconds for any part of a partition of 70 MB: it is read at once
TOO_LARGE = "the item takes "  # how the reason of an item begins that does not fit a record with its vector

_dead = msgspec.json.Decoder(DeadLetter)
_lists = msgspec.json.Decoder(RecommendationList)

Place = tuple[str, int, int]


@dataclass
class Judged:
    """What has to come of the records that lie on the topics.

    bad: place -> a digest of what a dead letter has to hold. by_user: events that lists have to cover. gone: of users who are
    erased again and again, left out or refused as it comes. erased: all users with an erase event, by damage of its id, too.
    """

    gone: set[Place] = field(default_factory=set)
    erased: set[str] = field(default_factory=set)
    bad: dict[Place, bytes] = field(default_factory=dict)
    by_user: Counter[str] = field(default_factory=Counter)
    items: dict[str, list[Place]] = field(default_factory=dict)
    good: int = 0
    sent_on: Counter[tuple[str, bytes]] = field(default_factory=Counter)
    copies: Counter[tuple[str, bytes]] = field(default_factory=Counter)


def judge(settings: Settings) -> Judged:
    """Return what has to come of all records, by the decoders."""
    judged = Judged()
    for record in _records(settings, topics(settings).events):
        judge_event(record, judged, settings.partitions)
    for record in _records(settings, topics(settings).items):
        judge_item(record, judged)
    for user in judged.erased:  # what came before the erasure may have been left out
        judged.by_user.pop(user, None)
    for user, digest in [each for each in judged.sent_on if each[0] in judged.erased]:
        del judged.sent_on[user, digest]
    return judged


def judge_event(record: Any, judged: Judged, partitions: int) -> None:
    """Note what has to come of a record of the events topic."""
    value = record.value or b""
    is_copy = any(name == RESENT for name, _ in record.headers)
    try:
        event = decode_event(value, record.timestamp / 1_000.0)
        key, is_bad, is_erasure = event.user_id.encode(), False, event.type == ERASE
    except BadMessage:
        key, is_bad, is_erasure = record.key or b"", True, False
    if is_erasure:
        judged.erased.add(key.decode())
    if is_erasure or any(each.startswith(GONE.encode()) for each in (key, record.key or b"")):
        judged.gone.add(_place(record))
    elif is_bad:
        judged.bad[_place(record)] = _digest(value)
    elif record.key == key and record.partition == partition_of(key, partitions):
        judged.good += 1
        judged.by_user[key.decode()] += 1
        judged.copies[key.decode(), _digest(value)] += is_copy
    elif is_copy or len(value) > SEND_MOST:
        judged.bad[_place(record)] = _digest(value)
    else:
        judged.sent_on[key.decode(), _digest(value)] += 1


def judge_item(record: Any, judged: Judged) -> None:
    """Note what has to come of a record of the items topic."""
    try:
        if record.value:
            item_id = decode_item(record.value).item_id
        else:
            item_id = (record.key or b"").decode()
            check_id("key", item_id)
            if not item_id:
                raise BadMessage("no key")
    except (BadMessage, UnicodeDecodeError):
        judged.bad[_place(record)] = _digest(record.value or b"")
        return
    judged.good += 1
    judged.items.setdefault(item_id, []).append(_place(record))


def _records(settings: Settings, topic: Topic) -> Iterator[Any]:
    """Yield all records of a topic, each partition in order."""
    large = {"max_partition_fetch_bytes": FETCH_BYTES, "fetch_max_bytes": FETCH_BYTES, "max_poll_records": 5_000}
    for number in range(topic.partitions):
        with open_consumer(settings, **large) as consumer:
            place = TopicPartition(topic.name, number)
            consumer.assign([place])
            consumer.seek_to_beginning(place)
            end = consumer.end_offsets([place])[place]
            while consumer.position(place) < end:
                for batch in consumer.poll(timeout_ms=500).values():
                    yield from (record for record in batch if record.offset < end)


def _place(of: Any) -> Place:
    return (of.topic, of.partition, of.offset)


def _digest(value: bytes) -> bytes:
    return blake2b(value[:RAW_MOST], digest_size=16).digest()


@dataclass
class Found:
    """What came, and what is wrong with it, a line each."""

    figures: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def check(self, name: str, places: Sequence[Any]) -> None:
        """Count what should not be, and say which the first ones are."""
        self.figures[name] = len(places)
        if places:
            self.wrong.append(f"{name}: {len(places)}, first {', '.join(map(str, places[:3]))}")


def compare(settings: Settings, judged: Judged) -> Found:
    """Compare what has to come with what lies on the topics."""
    found = Found({"good": judged.good, "bad": len(judged.bad), "of_erased_users": len(judged.gone)})
    too_large = _letters(settings, judged, found)
    _served_users(settings, judged, found)
    published = {(record.key or b"").decode() for record in _records(settings, topics(settings).item_vectors)}
    items = {item_id for item_id, places in judged.items.items() if not too_large.issuperset(places)}
    found.check("items_without_vector", sorted(items - published))
    found.figures["sent_on"] = judged.sent_on.total()
    found.check("not_sent_on", [user for user, _ in (judged.sent_on - judged.copies).elements()])
    return found


def _letters(settings: Settings, judged: Judged, found: Found) -> set[Place]:
    """Compare the dead letters; return the places of the items that were too large with their vector."""
    left = dict(judged.bad)
    without_reason: list[Place] = []
    other_bytes: list[Place] = []
    unexpected: list[str] = []
    too_large: set[Place] = set()
    count = 0
    for record in _records(settings, topics(settings).dead_letters):
        count += 1
        letter = _dead.decode(record.value)
        place = _place(letter)
        if not letter.reason.strip():
            without_reason.append(place)
        digest = left.pop(place, None)
        if place in judged.gone:
            continue
        if digest is None and letter.reason.startswith(TOO_LARGE):
            too_large.add(place)
        elif digest is None:
            unexpected.append(f"{place} {letter.reason[:200]}")
        elif digest != _digest(letter.raw):
            other_bytes.append(place)
    found.figures |= {"letters": count, "items_too_large": len(too_large)}
    found.check("without_letter", sorted(left))
    found.check("letters_of_good_ones", unexpected)
    found.check("letters_without_reason", without_reason)
    found.check("letters_of_other_bytes", other_bytes)
    return too_large


def _served_users(settings: Settings, judged: Judged, found: Found) -> None:
    covered: Counter[str] = Counter()
    count = 0
    for record in _records(settings, topics(settings).recommendations):
        count += 1
        if record.value is None:  # an erased user's
            continue
        made = _lists.decode(record.value)  # a score that is no number from 0 to 1 is refused here
        covered[made.user_id] += made.covers
    found.figures |= {"users": len(judged.by_user), "lists": count, "covered": covered.total()}
    short = [f"{user!r} {covered[user]} of {wanted}" for user, wanted in judged.by_user.items() if covered[user] < wanted]
    found.check("users_not_covered", short)


def send(settings: Settings, messages: Iterator[Damaged], tell: Callable[[int], None]) -> None:
    """Produce all messages and return when they are acknowledged. `tell` hears how many were handed over."""
    names = topics(settings)
    failures: list[BaseException] = []
    with open_producer(settings, linger_ms=5, batch_size=1 << 17) as producer:
        for number, one in enumerate(messages, 1):
            topic = (names.items if one.is_item else names.events).name
            headers = [(RESENT, b"1")] if one.is_resent else []
            producer.send(topic, key=one.key, value=one.value, headers=headers).add_errback(failures.append)
            if number % 1_000 == 0:
                tell(number)
    if failures:
        raise stage.BenchmarkError(f"{len(failures)} messages were not taken: {failures[0]}")


def run(given: argparse.Namespace) -> Found:
    """Send, wait and compare. Raises BenchmarkError, BrokerError."""
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    settings = load(
        encoder=given.encoder, app_id="fuzz", web_host=HOST, web_port=stage.free_port(), state_dir=given.folder / "state"
    )
    with ExitStack() as stack:
        address = stack.enter_context(stage.broker(given.broker, given.folder / "broker"))
        settings = settings.model_copy(update={"broker": address, "partitions": given.partitions})
        create_topics(settings)
        worker = stack.enter_context(stage.worker(settings, given.folder / "worker.log"))
        worker.start()
        worker.until_ready()
        began = time.perf_counter()
        rng, now = random.Random(given.seed), time.time()
        with bar("sending") as progress:
            send(settings, (damaged(rng, now) for _ in range(given.count)), lambda n: progress(n / given.count))
        names = topics(settings)
        for topic in (names.events, names.items, names.events, names.interactions):  # events: those that were sent on, too
            stage.until_acknowledged(worker, topic)
        seconds = time.perf_counter() - began
        worker.check()
        found = compare(settings, judge(settings))
        worker.end()
    found.figures |= {"count": given.count, "seed": given.seed, "seconds": round(seconds)}
    return found


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="messages to send")
    parser.add_argument("--seed", type=int, default=1, help="another seed damages otherwise")
    parser.add_argument("--broker", choices=("embedded", "kafka"), default="embedded", help="kafka needs KAFKA_HOME")
    parser.add_argument("--encoder", default="hashing")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="made anew by each run; holds the worker's log")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line; print the counts and, last, one line of JSON; return the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parsed = arguments(given)
    try:
        found = run(parsed)
    except (stage.BenchmarkError, BrokerError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for name, count in found.figures.items():
        print(f"{name.replace('_', ' '):24} {count:>9,}")
    for line in found.wrong:
        print(f"WRONG {line}")
    print(json.dumps({**found.figures, "broker": parsed.broker, "encoder": parsed.encoder, "wrong": len(found.wrong)}))
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
