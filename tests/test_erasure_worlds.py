"""Erasure with a broker: commands and workers leave nothing of a user in files and topics, and take nobody back in."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import flows
import msgspec
import pytest
from counting import CountingPersonalizer
from flows import World, eventually, users
from kafka.admin import ConfigResource, ConfigResourceType
from planted import NOW
from test_erasure import traces

from ranking.profile import Profile
from streams import forget, history, reading
from streams.__main__ import main
from streams.erasure import key_of
from streams.kafka import open_admin
from streams.messages import BadMessage, Erasure, encode
from streams.topics import Topic, TopicError, check_topics, create_topics, partition_of, topics

BROKERS = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("embedded", "kafka")]


@pytest.mark.embedded
def test_an_import_leaves_erased_users_out(embedded_world: Callable[..., World], tmp_path: Path) -> None:
    """Events of an erased user in a history are counted and nothing else; an erase event is none of history."""
    world = embedded_world()
    world.send_raw(world.topics.erasures, key_of("ann").encode(), encode(Erasure(at=NOW, partition=0, offset=3)))
    world.flush()
    path = tmp_path / "history.jsonl"
    rows = [{"user_id": user, "type": "search", "text": "tea", "at": NOW + 9} for user in ("ann", "bob", "ann")]
    path.write_text("\n".join(map(json.dumps, rows)))
    done = history.run(
        world.settings,
        CountingPersonalizer(),
        history.read(path, NOW + 99, columns={}),
        merge=False,  # type: ignore[arg-type]
    )
    assert done == (1, 0, 1, 2)
    assert list(kept(world, world.topics.profiles)) == [b"bob"]
    path.write_text(json.dumps({"user_id": "bob", "type": "erase", "at": NOW}))
    with pytest.raises(BadMessage, match="headrace erase"):
        history.read(path, NOW + 99, columns={})


@pytest.mark.embedded
def test_a_wait_without_a_worker_says_so(embedded_world: Callable[..., World]) -> None:
    """It goes on waiting, and tells that nobody is there."""
    world = embedded_world()
    place = forget.request(world.settings, "ann")
    assert place == (world.topics.events.name, partition_of(b"ann", 2), 0)
    assert next(forget.wait(world.settings, place)) is False


@pytest.mark.embedded
def test_a_topic_that_keeps_what_is_erased_is_refused(embedded_world: Callable[..., World]) -> None:
    """Dead letters of an earlier version's topic would stay: the error has the command that changes it."""
    old = embedded_world().settings.model_copy(update={"topic_prefix": "old."})
    letters = topics(old).dead_letters
    with open_admin(old) as admin:
        admin.create_topics({letters.name: {"num_partitions": 1, "configs": {"cleanup.policy": "delete"}}})
    with pytest.raises(
        TopicError, match=r"dead-letters has cleanup.policy=delete.*--add-config cleanup.policy=\[compact,delete\]"
    ):
        check_topics(old, [letters])


class RealWorker(flows.Worker):
    """The worker as it is, not the counting one."""

    program = ("-m", "streams", "worker")


CANARY, TEXT, LATE = "mia-canary-4711", "zebrafinch", "hummingbird"
TRACES = (CANARY.encode(), TEXT.encode(), LATE.encode())
SOON = {  # a day of a cluster, in seconds
    "segment.ms": "200",
    "min.cleanable.dirty.ratio": "0",
    "max.compaction.lag.ms": "200",
    "delete.retention.ms": "0",
}


class Life(NamedTuple):
    """A user that came, was refused once, and is to go: the world, and a command line for it."""

    world: World
    headrace: Callable[..., str]
    is_kafka: bool


@pytest.fixture(params=BROKERS)
def life(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Life:
    """A world where everything of the canary is: profile, lists, dead letters."""
    world: World = request.getfixturevalue(f"{request.param}_world")()
    world.workers.append(RealWorker(world.settings, world.folder).ready())
    for name in ("broker", "topic_prefix", "app_id", "partitions", "encoder"):
        monkeypatch.setenv(f"HEADRACE_{name.upper()}", str(getattr(world.settings, name)))

    def headrace(*arguments: str) -> str:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        assert not end.value.code
        return capsys.readouterr().out

    item = {"item_id": "i1", "title": "bird seed"}
    world.send_raw(world.topics.items, b"i1", json.dumps(item).encode())
    world.send([world.event(user, text=f"seed for a {TEXT}") for user in ("ada", CANARY, "zoe", CANARY)])
    world.send([world.event(CANARY, type="click", item_id="i1")])
    world.send_raw(world.topics.events, CANARY.encode(), json.dumps(world.event(CANARY, type=TEXT)).encode())
    world.send_raw(world.topics.events, CANARY.encode(), b"\xff" + TEXT.encode())
    world.flush()
    eventually(lambda: letters_of(world), lambda found: len(found) == 2)
    eventually(lambda: kept(world, world.topics.profiles), lambda found: CANARY.encode() in found)
    eventually(world.lists, lambda lists: CANARY in lists)
    return Life(world, headrace, request.param == "kafka")


def kept(world: World, topic: Topic) -> dict[bytes | None, bytes]:
    """Return the values that a compacted topic would keep, by key."""
    newest = {record.key: record.value for record in reading.records(world.settings, topic)}
    return {key: value for key, value in newest.items() if value}


def compacts(topic: Topic) -> bool:
    """Tell whether Kafka compacts a topic."""
    return "compact" in topic.config["cleanup.policy"]


def letters_of(world: World) -> list[bytes]:
    """Return the dead letters that are there."""
    return list(kept(world, world.topics.dead_letters).values())


def left(world: World, topic: Topic) -> list[str]:
    """Return each record of a topic that names the canary or holds its texts, also in base64 and in headers."""
    found = []
    for record in reading.records(world.settings, topic):
        content = b"|".join([record.key or b"", record.value or b"", repr(record.headers).encode()])
        if topic == world.topics.dead_letters and record.value:
            content += base64.b64decode(json.loads(record.value)["raw"])
        if any(trace in content for trace in TRACES):
            found.append(f"{record.topic}[{record.partition}]@{record.offset}")
    return found


def late(world: World) -> list[dict[str, Any]]:
    """Return events of the canary from before now, to be sent later."""
    return [world.event(CANARY, at=time.time() - 5.0, text=f"a {LATE}, late") for _ in range(3)]


def settled(world: World) -> None:
    """Wait until events sent now, of a user in each partition, are answered: all before them is done."""
    people = {partition_of(user.encode(), world.settings.partitions): user for user in users(20)}.values()
    sent = {user: world.event(user) for user in people}
    world.send(sent.values())
    ids = {user: event["event_id"] for user, event in sent.items()}
    eventually(lambda: {user: world.lists().get(user, {}).get("event_id") for user in people}, lambda newest: newest == ids)


def compacted(world: World, wanted: Sequence[Topic]) -> dict[str, list[str]]:
    """Return what is `left` in topics that Kafka compacts as if days had gone by: once that is nothing, or after 2 minutes."""
    with open_admin(world.settings) as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.BROKER, "1", {"log.cleaner.backoff.ms": "500"})])
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic.name, SOON) for topic in wanted if compacts(topic)])
    deadline = time.monotonic() + 120
    while True:
        settled(world)  # Kafka closes a segment when a newer record comes
        world.send_raw(world.topics.events, b"user0", b"not json")
        found = {topic.name: places for topic in wanted if (places := left(world, topic))}
        if not found or time.monotonic() > deadline:
            return found


def test_nothing_of_an_erased_user_is_left(life: Life) -> None:
    """No file of the state folder, and after compaction no topic but events, holds the id or a text of the user."""
    world, folder = life.world, life.world.settings.state_dir
    assert traces(folder, *TRACES)
    assert left(world, world.topics.profiles)
    missed = late(world)
    assert life.headrace("erase", CANARY, "--wait") == f"{CANARY} is erased, and 2 dead letters\n"
    assert traces(folder, *TRACES) == []
    assert letters_of(world) == []
    world.send(missed)
    elsewhere = 1 - partition_of(CANARY.encode(), 2)
    world.send_raw(world.topics.events, CANARY.encode(), json.dumps(late(world)[0]).encode(), elsewhere)
    world.flush()
    settled(world)
    settled(world)  # behind what was sent on, too
    for topic in world.topics:
        if compacts(topic):
            assert not any(trace in key for key in kept(world, topic) for trace in TRACES)
    if life.is_kafka:
        assert compacted(world, [topic for topic in world.topics if topic != world.topics.events]) == {}
    assert world.workers[-1].stop() == 0
    assert traces(folder, *TRACES) == []


def test_who_comes_back_is_new(life: Life) -> None:
    """An event from after the erasure begins a profile; a replay of all events comes to the same profile."""
    world = life.world
    missed = late(world)
    assert life.headrace("erase", CANARY).startswith(f"asked for in {world.topics.events.name}[")
    world.send([*missed, world.event(CANARY, text="cheese")])
    settled(world)
    before = kept(world, world.topics.profiles)[CANARY.encode()]
    assert msgspec.msgpack.decode(before, type=Profile).events == 1
    (erasure,) = kept(world, world.topics.erasures)
    assert erasure == key_of(CANARY).encode()
    assert world.workers[-1].stop() == 0
    # Another group has acknowledged nothing, and no profile: it reads the whole log again.
    again = world.settings.model_copy(update={"app_id": f"{world.settings.app_id}-again", "state_dir": world.folder / "again"})
    create_topics(again)
    world.workers.append(RealWorker(again, world.folder).ready())
    world.send(missed)
    settled(world)
    assert kept(world, topics(again).profiles)[CANARY.encode()] == before
    assert traces(again.state_dir, TEXT.encode(), LATE.encode()) == []


@pytest.mark.kafka
def test_a_worker_that_gave_a_partition_away_keeps_no_copy(kafka_world: Callable[..., World]) -> None:
    """Its files of that partition, from before an erasure that another worker made, are deleted while it runs."""
    world = kafka_world()
    people = list({partition_of(user.encode(), 2): user for user in (f"canary-{n}" for n in range(20))}.values())
    traced = [user.encode() for user in people]
    world.workers.append(RealWorker(world.settings, world.folder).ready())
    world.send([world.event(user) for user in people])
    eventually(lambda: kept(world, world.topics.profiles).keys(), lambda keys: keys >= set(traced))
    other = world.settings.model_copy(update={"state_dir": world.folder / "second", "instance_id": "second"})
    world.workers.append(RealWorker(other, world.folder).ready())
    assert "with 1 partitions" in world.workers[1].said()
    settled(world)
    folders = (world.settings.state_dir, other.state_dir)
    assert all(traces(folders[0], user) for user in traced)
    for place in [forget.request(world.settings, user) for user in people]:
        eventually(lambda place=place: list(islice(forget.wait(world.settings, place), 1)), lambda looks: not looks)  # type: ignore[misc]
    eventually(lambda: [traces(folder, *traced) for folder in folders], lambda found: found == [[], []])
    settled(world)
    assert [worker.stop() for worker in world.workers] == [0, 0]
    assert [traces(folder, *traced) for folder in folders] == [[], []]
