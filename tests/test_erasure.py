"""Erasure: what an erasure covers, that a replay from anywhere leaves the same profiles, and that no file keeps a user."""

from __future__ import annotations

import asyncio
import gc
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import faust
import pytest
from counting import CountingPersonalizer, unpacked
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st
from planted import NOW

from streams.batching import SCRUBBED, Outgoing, ProfileStore, forgetful
from streams.desk import Desk
from streams.encode_thread import EncodeThread
from streams.erasure import Erasures, covers, is_letter_of, joined, key_of
from streams.inlet import Batch
from streams.messages import BadMessage, DeadLetter, Erasure, decode_event, encode
from streams.metrics import Metrics
from streams.personalize import Personalize
from streams.settings import Settings
from streams.topics import topics

TOPICS = topics(Settings.model_construct(partitions=1))
HERE = st.builds(Erasure, at=st.floats(0, 9), partition=st.integers(0, 1), offset=st.integers(0, 9))
Place = tuple[float, int, int]
PLACES = st.tuples(st.floats(0, 9), st.integers(0, 1), st.integers(0, 9))


@pytest.mark.parametrize(
    ("place", "is_covered"),
    [
        ((7.0, 1, 4), True),  # before it in the log, whatever its time
        ((7.0, 1, 5), True),  # the erase event itself
        ((7.0, 1, 6), False),  # behind it and newer
        ((5.0, 1, 6), False),  # of its own second
        ((4.9, 1, 6), True),  # late
        ((7.0, 0, 4), False),  # another partition's offsets say nothing
        ((4.9, 0, 9), True),
    ],
)
def test_what_an_erasure_covers(place: Place, is_covered: bool) -> None:
    """Events before it in its partition's log, and those whose time is older."""
    assert covers(Erasure(at=5.0, partition=1, offset=5), *place) is is_covered


@given(HERE, HERE, PLACES)
def test_two_erasures_cover_what_each_does(one: Erasure, other: Erasure, place: Place) -> None:
    """In whatever order they are learnt, and however often."""
    both = joined(one, other)
    assert both == joined(other, one) == joined(both, one) == joined(both, both)
    if one.partition == other.partition:
        assert covers(both, *place) == (covers(one, *place) or covers(other, *place))


def test_erasures_are_known_by_hash() -> None:
    """Records of the topic and erasures of this process are the same thing; a record without a value forgets."""
    known = Erasures()
    assert known.of("ann") is None
    known.add("ann", Erasure(at=5.0, partition=0, offset=5))
    known.read(key_of("ann").encode(), encode(Erasure(at=4.0, partition=0, offset=3)))
    known.read(key_of("bob").encode(), encode(Erasure(at=4.0, partition=0, offset=3)))
    assert known.of("ann") == Erasure(at=5.0, partition=0, offset=5)
    assert known.covers("bob", 3.0, 0, 9)
    assert not known.covers("cid", 3.0, 0, 0)
    known.read(key_of("bob").encode(), None)
    assert known.of("bob") is None
    assert len(known) == 1
    assert key_of("ann") == "774d9b01069113a98e61ca77b02fe669"


def test_an_erase_event_holds_a_user_and_nothing_else() -> None:
    """It needs no item and no text, and what comes with it is dropped unread."""
    event = {"event_id": "e", "user_id": "ann", "type": "erase", "at": NOW}
    loud = decode_event(json.dumps({**event, "text": "bye", "item_id": " i\n"}).encode(), NOW)
    assert loud == decode_event(json.dumps(event).encode(), NOW)
    assert (loud.text, loud.item_id) == (None, None)
    with pytest.raises(BadMessage, match="user_id"):
        decode_event(json.dumps({**event, "user_id": "an\nn"}).encode(), NOW)


def letter(raw: bytes, reason: str = "malformed", key: bytes | None = b"bob") -> DeadLetter:
    """Return a dead letter of an event."""
    return DeadLetter(topic="events", partition=0, offset=1, reason=reason, raw=raw, key=key)


@pytest.mark.parametrize(
    ("one", "is_anns"),
    [
        (letter(b"\xff\xfe", key=b"ann"), True),
        (letter(b'{"user_id": "ann"}'), True),
        (letter(b'{"user_id": "bob", "text": "ann"}'), False),
        (letter(b'{"user_id": 17}'), False),
        (letter(b'{"user": "ann"}'), True),
        (letter(b'{"user": "anna"}'), False),
        (letter(b'["joann", "ann2", "_ann"]'), False),
        (letter(b'{"user_id": "ann", "text": "cut of'), True),
        (letter(b"\xff ann \xfe"), True),
        (letter(b"{}", reason="key b'ann' is not"), True),
        (letter(b'{"user_id": "bob"}', reason="its user_id 'ann' belongs"), True),
        (letter(b"", key=None), False),
    ],
)
def test_whose_a_dead_letter_is(one: DeadLetter, is_anns: bool) -> None:
    """Its key, the user_id in it, or the id as a word where the event cannot be read."""
    assert is_letter_of(one, "ann") is is_anns


@pytest.mark.parametrize("user", ["zoë", "a.b*c", "用户", 'quo"te', "17"])
def test_ids_are_found_however_they_are_spelt(user: str) -> None:
    """Raw, escaped as JSON, and as a reason prints them; characters of a pattern mean themselves."""
    cut = json.dumps({"user_id": user, "text": "x"})[:-3].encode()
    assert is_letter_of(letter(cut), user)
    assert is_letter_of(letter(b"{}", reason=f"its user_id {user!r} belongs"), user)
    assert is_letter_of(letter(b"{}", reason=f"key {user.encode()!r} is not"), user)
    assert not is_letter_of(letter(b'{"user": "axbxc"}'), user)


class Sent(NamedTuple):
    """A record in the made-up broker."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    topic: str = TOPICS.events.name
    headers: tuple[tuple[str, bytes], ...] = ()


class Worker:
    """The personalize agent over logs that outlive it, with a crash at will: a store of its own, memory of its own."""

    changelog = "changelog"

    def __init__(self, logs: dict[str, list[Outgoing]], files: dict[str, bytes], encoding: EncodeThread) -> None:
        self.logs, self.files = logs, files
        newest = {(record.key or b"").decode(): record.value for record in logs[self.changelog]}
        # Recovery, from a changelog whose tombstones are compacted away: what was deleted stays in files from before.
        self.write(0, {user_id: record for user_id, record in newest.items() if record}, 0)
        erasures = Erasures()
        for record in logs[TOPICS.erasures.name]:
            erasures.read(record.key or b"", record.value)
        self.purged: list[str] = []
        self.metrics = Metrics()
        desk = Desk(self, TOPICS, self.metrics)  # type: ignore[arg-type]
        given = (self, encoding, erasures, self._ready, 1, ThreadPoolExecutor(1))
        self.step = Personalize(desk, CountingPersonalizer(), *given)  # type: ignore[arg-type]
        self._keep: int | None = None

    async def _ready(self) -> None:
        pass

    def get(self, partition: int, user_id: str) -> bytes | None:
        return self.files.get(user_id)

    def write(self, partition: int, records: Mapping[str, bytes], changelog_offset: int) -> None:
        for user_id, record in records.items():
            if record:
                self.files[user_id] = record
            else:
                self.files.pop(user_id, None)

    def purge(self, partition: int, user_ids: Sequence[str], through: int) -> None:
        self.purged += user_ids

    async def send(self, records: Sequence[Outgoing]) -> list[Any]:
        topics_sent = dict.fromkeys(record.topic for record in records)
        for place, topic in enumerate(topics_sent):
            if self._keep is None or self._keep >> place & 1:  # else the worker dies before the broker has it
                self.logs[topic] += [record for record in records if record.topic == topic]
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        done.set_result(SimpleNamespace(offset=0))
        return [(record.topic, record.partition, 1, done) for record in records]

    async def run(self, records: list[Any], crash: int | None = None) -> bool:
        """Process a batch; a crash comes after sending, with the topics acknowledged that the bits of `crash` say."""
        batch = Batch(0, records)
        applied = await self.step.apply(batch, await self.step.prepare(batch))
        self._keep = crash
        sent = await self.step.send(batch, applied)
        if crash is not None:
            return False
        await self.step.finish(batch, sent)
        return True

    def close(self) -> None:
        for pool in (self.step._applying, self.step._writing):
            pool.shutdown()


@pytest.fixture(scope="module")
def encoding() -> Iterator[EncodeThread]:
    """A thread for the counting encoder."""
    thread = EncodeThread()
    yield thread
    thread.stop()


def log_of(happened: Sequence[tuple[str, str, int]]) -> list[Sent]:
    """Return the events topic of (user, type, how late in seconds), one a second."""
    log = []
    for offset, (user, kind, late_s) in enumerate(happened):
        at = NOW + offset
        event: dict[str, object] = {"event_id": f"e{offset}", "user_id": user, "type": kind, "at": at - late_s}
        if kind == "search":
            event["text"] = "tea"
        value = json.dumps(event).encode() if kind != "bad" else b"{"
        log.append(Sent(0, offset, int(at * 1000), user.encode(), value))
    return log


def expected(happened: Sequence[tuple[str, str, int]]) -> dict[str, Any]:
    """Return the profiles that the whole log has to leave: those events that no erasure of their user covers."""
    erasures: dict[str, Erasure] = {}
    for offset, (user, kind, _) in enumerate(happened):
        if kind == "erase":
            erasures[user] = Erasure(at=NOW + offset, partition=0, offset=offset)
    profiles: dict[str, Any] = {}
    for offset, (user, kind, late_s) in enumerate(happened):
        of_user = erasures.get(user)
        if kind == "search" and not (of_user and covers(of_user, NOW + offset - late_s, 0, offset)):
            profile = profiles.setdefault(user, {"count": 0, "marks": {}})
            profile["count"] += 1
            profile["marks"] = {"0": offset}
    return profiles


happenings = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["search", "search", "erase", "bad"]), st.sampled_from([-60, 0, 0, 1, 3])),
    min_size=1,
    max_size=14,
)


@given(happened=happenings, data=st.data())
def test_a_replay_from_anywhere_leaves_the_same_profiles(
    encoding: EncodeThread, happened: list[tuple[str, str, int]], data: st.DataObject
) -> None:
    """Batches cut anywhere, crashes with any part of the output acknowledged, on the old files, on none, or on stale ones."""
    log = log_of(happened)
    logs: dict[str, list[Outgoing]] = defaultdict(list)

    async def live() -> None:
        files: dict[str, bytes] = {}
        stale: dict[str, bytes] = {}
        committed = 0
        while committed < len(log):
            worker = Worker(logs, files, encoding)
            alive = True
            while alive and committed < len(log):
                end = data.draw(st.integers(committed + 1, len(log)), "batch")
                crash = data.draw(st.none() | st.integers(0, 63), "crash")
                alive = await worker.run(list(log[committed:end]), crash)
                committed = end if alive else committed
                if data.draw(st.booleans(), "another worker's copy is made"):
                    stale = dict(files)
            worker.close()
            if not alive:
                files = dict(data.draw(st.sampled_from([files, {}, stale]), "files"))
                committed = data.draw(st.just(committed) | st.integers(0, committed), "committed")
        worker = Worker(logs, {}, encoding)  # what the changelog says alone
        worker.close()
        assert {user: unpacked(record) for user, record in worker.files.items()} == expected(happened)

    asyncio.run(live())
    newest = {record.key: record.value for record in logs[TOPICS.recommendations.name]}
    has_list = {(user or b"").decode() for user, value in newest.items() if value}
    assert has_list == expected(happened).keys()


def test_after_erasure_only_what_is_newer_counts(encoding: EncodeThread) -> None:
    """A late event is left out and counted, here and on another worker; a replay leaves the new profile and purges again."""

    async def live() -> None:
        logs: dict[str, list[Outgoing]] = defaultdict(list)
        worker = Worker(logs, {}, encoding)
        log = log_of([("a", "search", 0), ("a", "erase", 0), ("a", "search", 9), ("a", "search", 0), ("b", "search", 0)])
        await worker.run(list(log[:2]))
        assert (worker.files, worker.purged) == ({}, ["a"])
        assert [(record.key, record.value) for record in logs[TOPICS.recommendations.name]] == [(b"a", None)]
        await worker.run(list(log[2:]))
        assert unpacked(worker.files["a"])["count"] == 1
        assert b"headrace_erased_events_total 2.0" in worker.metrics.text()
        before = dict(worker.files)
        await worker.run(list(log[:2]))
        assert (worker.files, worker.purged) == (before, ["a", "a"])
        assert logs[worker.changelog][-1].value is not None
        (record,) = {record.key for record in logs[TOPICS.erasures.name]}
        assert record == key_of("a").encode()
        other = Worker(logs, {}, encoding)
        await other.run(list(log[2:3]))
        assert unpacked(other.files["a"])["count"] == 1
        assert b"headrace_erased_events_total 1.0" in other.metrics.text()
        for each in (worker, other):
            each.close()

    asyncio.run(live())


def test_a_batch_keeps_nothing_of_an_erased_user_in_memory(encoding: EncodeThread) -> None:
    """The witness, the overlay and the keys that were routed are forgotten; a dead letter from before it is not made again."""

    async def live() -> None:
        logs: dict[str, list[Outgoing]] = defaultdict(list)
        worker = Worker(logs, {}, encoding)
        log = log_of([("a", "bad", 0), ("a", "search", 0), ("a", "erase", 0)])
        await worker.run(list(log[:2]))
        assert worker.step._witness is not None
        assert len(logs[TOPICS.dead_letters.name]) == 1
        assert logs[TOPICS.dead_letters.name][0].key == b"events[0]@0"
        await worker.run(list(log))
        assert worker.step._witness is None
        assert len(worker.step._overlay) == 0
        assert worker.step.screen.partition.cache_info().currsize == 0
        assert len(logs[TOPICS.dead_letters.name]) == 1
        worker.close()

    asyncio.run(live())


def traces(folder: Path, *words: bytes) -> list[str]:
    """Return the files below a folder that hold one of these words, as it is or in hexadecimal."""
    found = []
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        if any(word in content or word.hex().encode() in content.lower() for word in words):
            found.append(path.name)
    return found


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Any]:
    """A table of one partition, as the worker makes it."""
    app = faust.App("purged", store="rocksdb://", datadir=tmp_path, broker="kafka://127.0.0.1:1", web_enabled=False)
    app._create_directories()
    options = {"driver": "rocksdict", "write_buffer_size": 4 << 20}
    table = forgetful(app.Table("profiles", key_type=bytes, value_type=bytes, partitions=1, options=options))
    yield table
    table.data._dbs.clear()


@pytest.mark.parametrize("others", [0, 300])
def test_no_file_keeps_what_was_purged(table: Any, tmp_path: Path, others: int) -> None:
    """Key and record are in tables, write-ahead log and manifest before, and in no file after; other users' records stay."""
    store = ProfileStore(table)
    records = {f"{first}{number}": b"x" * 900 for first in "az" for number in range(others)} | {"mia-canary": b"SECRET" * 99}
    for _ in range(2):
        store.write(0, records, 1)
        store.purge(0, ["nobody"], 0)  # into a table, and its keys into the manifest
    store.write(0, records, 2)
    assert len(traces(tmp_path, b"mia-canary", b"SECRET")) >= 2
    store.write(0, {"mia-canary": b""}, 3)
    store.purge(0, ["mia-canary"], 1)
    assert traces(tmp_path, b"mia-canary", b"SECRET") == []
    assert store.get(0, "mia-canary") is None
    assert all(store.get(0, user) == record for user, record in records.items() if user != "mia-canary")


def test_files_from_before_an_erasure_are_cleared(table: Any, tmp_path: Path) -> None:
    """Those of a partition that came back are scrubbed once; those of one that went away are deleted."""
    store = ProfileStore(table)
    store.write(0, {"mia-canary": b"SECRET", "ada": b"record"}, 1)
    message = SimpleNamespace(tp=TP("changelog", 0), offset=2, partition=0, key=b"mia-canary", value=None)
    table.data.apply_changelog_batch([SimpleNamespace(message=message)], to_key=bytes, to_value=bytes)  # recovery
    assert traces(tmp_path, b"mia-canary", b"SECRET")
    store.scrub()
    assert traces(tmp_path, b"mia-canary", b"SECRET")
    store.assigned({0: 7, 5: 7})
    store.purge(0, ["bob"], 9)  # an erasure that comes before the scrub must not make it seem done
    store.drop_copies({0: 7})
    store.assigned({0: 7})
    store.scrub()
    assert traces(tmp_path, b"mia-canary", b"SECRET") == []
    assert store.get(0, "ada") == b"record"
    folder = table.data.partition_path(0)
    assert (folder / SCRUBBED).read_text() == "7"
    store.purge(0, ["cid"], 9)
    table.data._dbs.clear()
    gc.collect()
    store.drop_copies({0: 9})
    assert folder.is_dir()
    store.drop_copies({0: 10})
    assert not folder.exists()
