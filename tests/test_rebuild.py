"""Another encoder's vectors and profiles from the log: the same records as one thread comes to, while old workers go on."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flows import Worker, World, eventually, users
from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata

from encoders.hashing import HashingEncoder
from ranking.profile import FORMAT, NewerRecord
from streams import rebuild as rebuilding
from streams.__main__ import main
from streams.backfill import known_items
from streams.building import build
from streams.fence import is_mark
from streams.handover import OtherEncoder, commits, hand_over, owners, refuse_other
from streams.kafka import live_members
from streams.messages import ERASE, BadMessage, decode_event
from streams.personalizer import Sourced
from streams.reading import records
from streams.rebuild import Rebuild, RebuildRefused, rebuild
from streams.scratch import Scratch
from streams.settings import Settings
from streams.topics import create_topics, partition_of, topics

SOCKETS = "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
pytestmark = pytest.mark.filterwarnings(SOCKETS)
Make = Callable[..., World]
OLD, NEW = "hashing:64", "hashing:32"
TEXTS = ["green tea", "black coffee", "a red chair", "jazz records", "less sport, more jazz", "running shoes"]


class RealWorker(Worker):
    """A worker with the real personalizer."""

    program = ("-m", "streams", "worker")


class Rebuilding(Worker):
    """The rebuild as a process, its output in a file."""

    program = ("-m", "streams", "import", "--rebuild")


def start(world: World, kind: type[Worker], **changes: Any) -> Worker:
    """Start a worker or a rebuild."""
    world.workers.append(kind(world.settings.model_copy(update=changes), world.folder))
    return world.workers[-1]


def send_items(world: World, *names: str) -> None:
    """Publish items, each named and titled by its text."""
    for name in names:
        world.send_raw(world.topics.items, name.encode(), json.dumps({"item_id": name, "title": name}).encode())
    world.flush()


def crowd(world: World, count: int) -> Iterator[dict[str, Any]]:
    """Yield events of many kinds without an end."""
    kinds: list[dict[str, Any]] = [
        *({"type": "click", "item_id": item, "text": None} for item in TEXTS),
        *({"type": "search", "text": text} for text in TEXTS),
        {"type": "purchase", "item_id": TEXTS[0], "text": None},
        {"type": "dislike", "item_id": TEXTS[1], "text": "too bitter"},
    ]
    for number in itertools.count():
        yield world.event(f"user{number % count}", **kinds[number % len(kinds)])


def truth(settings: Settings) -> dict[str, bytes]:
    """Fold the whole log of events in one thread, event by event."""
    encoder = HashingEncoder.named(settings.encoder)
    personalizer = build(encoder, settings, known_items(settings, encoder))
    found: dict[str, bytes] = {}
    log = list(records(settings, topics(settings).events))
    for record in log:
        try:
            event = decode_event(record.value or b"", record.timestamp / 1000)
        except BadMessage:
            continue
        key = event.user_id.encode()
        if record.key != key or partition_of(key, settings.partitions) != record.partition:
            continue
        if event.type == ERASE:
            found.pop(event.user_id, None)
            continue
        batch = [Sourced(event, record.partition, record.offset)]
        folded = personalizer.fold({event.user_id: found.get(event.user_id)}, batch, personalizer.encode([event]))
        found |= folded.records
    return found


def stored(settings: Settings) -> dict[str, bytes]:
    """Return the profiles in the changelog."""
    found = {
        record.key.decode(): record.value for record in records(settings, topics(settings).profiles) if not is_mark(record)
    }
    return {user: value for user, value in found.items() if value}


def vectors(settings: Settings) -> dict[str, Any]:
    """Return the items in the topic of vectors, each as its message."""
    found = {record.key.decode(): record.value for record in records(settings, topics(settings).item_vectors)}
    return {item: json.loads(value) for item, value in found.items() if value}


def ends(world: World) -> dict[int, int]:
    """Return the end offset of each partition of events."""
    found = list(records(world.settings, world.topics.events))
    return {record.partition: record.offset + 1 for record in found}


def commit(world: World, encoder: str, events: int = 1) -> None:
    """Commit what workers of an encoder would have, without a worker."""
    place = TopicPartition(world.topics.events.name, 0)
    assert hand_over(world.settings, {place: OffsetAndMetadata(events, "", -1)}, HashingEncoder.named(encoder).id)


def new(world: World) -> Settings:
    """Return the settings of the new encoder."""
    return world.settings.model_copy(update={"encoder": NEW})


@pytest.fixture
def old_world(embedded_world: Make) -> World:
    """A world whose old workers have stopped, with items and events of all kinds in its log."""
    world = embedded_world(encoder=OLD, partitions=2)
    send_items(world, *TEXTS, "gone")
    events = crowd(world, 7)
    world.send(itertools.islice(events, 60))
    world.send([world.event("user1", type=ERASE, text=None)])
    world.send_raw(world.topics.events, b"user2", b"no event")
    world.send_raw(world.topics.events, b"user2", json.dumps(world.event("user3")).encode())
    world.send(itertools.islice(events, 60))
    commit(world, OLD)
    return world


@pytest.mark.embedded
def test_profiles_and_vectors_are_those_of_one_thread(old_world: World) -> None:
    """All records equal the oracle's byte for byte; a second run folds nothing and changes nothing."""
    settings = new(old_world)
    done = rebuild(settings)
    wanted = truth(settings)
    assert "user1" in wanted  # the events behind the erasure
    assert stored(settings) == wanted
    assert vectors(settings).keys() == {*TEXTS, "gone"}
    assert done.profiles == len(wanted) == 7
    assert (done.items, done.known, done.left_out) == (7, 0, 1)
    assert owners(commits(settings)) == {"hashing-32"}
    again = rebuild(settings)
    assert (again.events, again.known) == (0, done.events)
    assert stored(settings) == wanted


@pytest.mark.embedded
def test_one_that_was_cut_off_goes_on(old_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ended in the middle of writing leaves the offsets to the old encoder; the next one completes the rest."""
    settings = new(old_world).model_copy(update={"batch_size": 16, "backlog_batch_size": 16})
    monkeypatch.setattr(rebuilding, "WRITE_MOST", 3)
    write, calls = Rebuild._write, itertools.count()

    async def some(self: Rebuild) -> None:
        if next(calls) == 1:
            raise OSError("the plug is pulled")
        await write(self)

    monkeypatch.setattr(Rebuild, "_write", some)
    with pytest.raises(OSError, match="the plug"):
        rebuild(settings)
    assert owners(commits(settings)) == {"hashing-64"}
    assert 3 <= len(stored(settings)) < 7
    done = rebuild(settings)
    assert done.known > 0
    assert stored(settings) == truth(settings)


@pytest.mark.embedded
def test_the_catalogue_of_now_is_what_counts(old_world: World) -> None:
    """Vectors of an earlier time are brought up to date: changed texts encoded anew, deleted items deleted."""
    settings = new(old_world)
    rebuild(settings)
    before = vectors(settings)
    old_world.send_raw(old_world.topics.items, b"gone", b"")
    changed = json.dumps({"item_id": TEXTS[0], "title": "a kettle"}).encode()
    old_world.send_raw(old_world.topics.items, TEXTS[0].encode(), changed)
    old_world.flush()
    rebuild(settings)
    after = vectors(settings)
    assert after.keys() == set(TEXTS)
    assert after[TEXTS[0]]["vector"] != before[TEXTS[0]]["vector"]
    assert {item: after[item] for item in TEXTS[1:]} == {item: before[item] for item in TEXTS[1:]}


@pytest.mark.embedded
def test_what_cannot_be_encoded_is_left_out(old_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event and an item that the new encoder chokes on are left out and counted, everything else is there."""
    settings = new(old_world)
    encode = HashingEncoder.encode

    def choking(self: HashingEncoder, texts: Any) -> Any:
        if any("poison" in text for text in texts):
            raise ValueError("the encoder choked")
        return encode(self, texts)

    wanted = truth_after(rebuild, settings)
    send_items(old_world, "poison")
    old_world.send([old_world.event("user4", text="poison")])
    monkeypatch.setattr(HashingEncoder, "encode", choking)
    assert rebuild(settings).left_out == 3
    assert stored(settings) == wanted
    assert "poison" not in vectors(settings)


def truth_after(run: Callable[[Settings], Any], settings: Settings) -> dict[str, bytes]:
    """Run, and return what one thread comes to."""
    run(settings)
    return truth(settings)


@pytest.mark.embedded
def test_two_rebuilds_do_not_mix(old_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The earlier one is kept out by the fences of the later one, and says so."""
    settings = new(old_world)
    write = Rebuild._write

    async def overtaken(self: Rebuild) -> None:
        monkeypatch.setattr(Rebuild, "_write", write)
        await asyncio.to_thread(rebuild, settings)
        await write(self)

    monkeypatch.setattr(Rebuild, "_write", overtaken)
    with pytest.raises(RebuildRefused, match=r"has taken .*-profiles-hashing-32-\w+-changelog over: let it finish"):
        rebuild(settings)
    assert stored(settings) == truth(settings)


@pytest.mark.embedded
def test_it_waits_for_members_and_for_their_commits(old_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody is in the group, or has committed what is not folded yet, the offsets stay the old encoder's."""
    settings = new(old_world)
    looks: list[str] = []

    def members(settings: Settings) -> list[str]:
        looks.append(owners(commits(settings)).pop())
        if len(looks) == 3:
            old_world.send([old_world.event(person) for person in users(9)])
            commit(old_world, OLD, ends(old_world)[0])
        return ["worker-1"] if len(looks) < 3 else []

    monkeypatch.setattr(rebuilding, "live_members", members)
    monkeypatch.setattr(rebuilding, "LOOK_S", 0.05)
    rebuild(settings)
    assert looks[:4] == ["hashing-64"] * 4
    assert stored(settings) == truth(settings)


@pytest.mark.embedded
def test_live_workers_that_write_the_same_topics_are_refused(old_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the live workers' own encoder nothing is touched; nor while they have not told theirs."""
    monkeypatch.setattr(rebuilding, "live_members", lambda settings: ["worker-1"])
    with pytest.raises(RebuildRefused, match=r"1 worker\(s\) of group .* \(worker-1\) run with encoder hashing-64, and"):
        rebuild(old_world.settings)
    assert not [record for record in records(old_world.settings, old_world.topics.profiles) if is_mark(record)]
    commit(old_world, OLD)
    monkeypatch.setattr(rebuilding, "commits", lambda settings: {})
    with pytest.raises(RebuildRefused, match="run with encoder not told yet"):
        rebuild(new(old_world))


@pytest.mark.embedded
def test_other_weights_under_the_same_name(old_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Profiles of other weights are replaced, or deleted where the log has nothing of the user; live workers forbid it."""
    settings = new(old_world)
    foreign = stored_of_other_weights(old_world, settings)
    monkeypatch.setattr(rebuilding, "live_members", lambda settings: ["worker-1"])
    with pytest.raises(RebuildRefused, match="its folder under a name of its own; or stop the workers first"):
        rebuild(settings)
    monkeypatch.setattr(rebuilding, "live_members", live_members)
    assert stored(settings) == foreign
    rebuild(settings)
    assert stored(settings) == truth(settings)


@pytest.mark.embedded
def test_profiles_of_a_newer_version_are_let_be(old_world: World) -> None:
    """A record that only a newer version reads ends the rebuild, and stays."""
    settings = new(old_world)
    create_topics(settings)
    newer = msgspec.msgpack.encode([FORMAT + 1, "whatever"])
    old_world.send_raw(topics(settings).profiles, b"user0", newer)
    old_world.flush()
    with pytest.raises(NewerRecord, match="upgrade the worker"):
        rebuild(settings)
    assert stored(settings) == {"user0": newer}


def stored_of_other_weights(world: World, settings: Settings) -> dict[str, bytes]:
    """Put profiles of another encoder into the topic of this one."""
    create_topics(settings)
    other = HashingEncoder(16)
    personalizer = build(other, settings)
    event = decode_event(json.dumps(world.event("user0")).encode(), time.time())
    folded = personalizer.fold({"user0": None}, [Sourced(event, 0, 0)], personalizer.encode([event])).records["user0"]
    foreign = dict.fromkeys(("user0", "away"), folded)
    for user, record in foreign.items():
        world.send_raw(topics(settings).profiles, user.encode(), record)
    world.flush()
    return foreign


@pytest.mark.embedded
def test_a_worker_of_another_encoder_is_refused(embedded_world: Make) -> None:
    """Fresh topics, own offsets and those set by hand are served; those of another encoder are refused with the steps."""
    world = embedded_world(encoder=OLD)
    refuse_other(world.settings, "hashing-32")
    commit(world, OLD)
    refuse_other(world.settings, "hashing-64")
    with pytest.raises(
        OtherEncoder,
        match=r"encoder hashing-64, .*hashing-32: "
        "set HEADRACE_ENCODER, HEADRACE_COMPACT and HEADRACE_IMAGES back, or run `headrace import",
    ):
        refuse_other(world.settings, "hashing-32")
    place = TopicPartition(world.topics.events.name, 0)
    assert hand_over(world.settings, {place: OffsetAndMetadata(1, "", -1)}, "")
    refuse_other(world.settings, "hashing-32")


@pytest.mark.embedded
def test_a_worker_signs_what_it_commits(embedded_world: Make) -> None:
    """Offsets carry the worker's encoder, and nobody outside the group can hand them over while it has a member."""
    world = embedded_world(encoder="hashing")
    world.start().ready()
    world.send([world.event("ann")])
    eventually(lambda: owners(commits(world.settings)), lambda found: found == {"hashing-256"})
    assert not hand_over(world.settings, commits(world.settings), "another")
    assert owners(commits(world.settings)) == {"hashing-256"}


def test_profiles_lie_in_a_nameless_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are put, replaced and deleted; no file has a name that could be left behind."""
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    monkeypatch.setattr("streams.scratch.CACHE_KIB", 64)
    profiles = Scratch()
    profiles.put({f"user{n}": bytes([n % 256]) * 20_000 for n in range(100)})  # more than is kept in memory
    profiles.put({"user1": b"new", "user2": None, "user3": b""})
    assert [profiles.get(user) for user in ("user0", "user1", "user2", "user3", "nobody")] == [
        bytes(20_000),
        b"new",
        None,
        None,
        None,
    ]
    assert len(profiles) == 98
    assert list(tmp_path.iterdir()) == []
    profiles.close()


@pytest.mark.parametrize("arguments", [[], ["h.csv", "--rebuild"], ["--rebuild", "--merge"], ["--rebuild", "--type", "click"]])
def test_a_file_or_a_rebuild(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One of the two, and no options of a file with a rebuild."""
    with pytest.raises(SystemExit) as end:
        main(["import", *arguments])
    assert end.value.code == 2
    assert "--rebuild" in capsys.readouterr().err


@pytest.mark.kafka
def test_the_switch_while_events_keep_coming(kafka_world: Make) -> None:
    """Old worker, rebuild beside it, new worker: every record of the new table is the oracle's, and lists go on."""
    world = kafka_world(encoder=OLD, partitions=2)
    settings = new(world)
    send_items(world, *TEXTS)
    old = start(world, RealWorker).ready()
    events, over = crowd(world, 20), threading.Event()

    def stream() -> None:
        while not over.is_set():
            world.send(itertools.islice(events, 5))
            over.wait(0.05)

    streaming = threading.Thread(target=stream)
    streaming.start()
    try:
        eventually(world.lists, lambda lists: len(lists) == 20)
        job = start(world, Rebuilding, encoder=NEW)
        eventually(job.said, lambda said: "caught up: stop the old workers" in said or job.process.poll() is not None)
        early = start(world, RealWorker, encoder=NEW, state_dir=world.folder / "new")
        assert early.process.wait(60) == 2
        assert "run `headrace import --rebuild` with HEADRACE_ENCODER=hashing:32 first" in early.said()
        send_items(world, "a late item")
        world.send_raw(world.topics.events, b"user2", b"no event")
        world.send_raw(world.topics.events, b"user2", json.dumps(world.event("user3", text="misrouted")).encode())
        eventually(lambda: vectors(settings), lambda found: "a late item" in found)
        world.send([world.event("user4", type=ERASE, text=None), world.event("user5", type="click", item_id="a late item")])
        assert old.stop() == 0
        assert job.process.wait(60) == 0, job.said()
        assert "next: start workers with HEADRACE_ENCODER=hashing:32" in job.said()
        start(world, RealWorker, encoder=NEW, state_dir=world.folder / "new").ready()
    finally:
        over.set()
        streaming.join()
    after = {user: world.event(user, text="green tea") for user in users(20)}
    world.send(after.values())
    eventually(lambda: {user: one["event_id"] for user, one in world.lists().items()}, lambda found: found == ids_of(after))
    wanted = eventually(lambda: (stored(settings), truth(settings)), lambda pair: pair[0] == pair[1])[1]
    assert wanted.keys() == set(users(20))
    assert start(world, RealWorker, state_dir=world.folder / "old").process.wait(60) == 2


def ids_of(events: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return each user's event's id."""
    return {user: event["event_id"] for user, event in events.items()}
