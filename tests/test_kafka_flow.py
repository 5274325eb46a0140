"""The whole flow on a real Apache Kafka, with workers as processes: what only Kafka and a kill can show."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from counting import BAD_FOLD, BAD_TEXT
from flows import World, eventually, users
from kafka import TopicPartition

from streams.connection import connection
from streams.kafka import open_admin
from streams.screening import RESENT

# kafka-python 3.0.12 leaves sockets to the garbage collector, whose warning hits whatever test runs then.
SOCKETS = "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
pytestmark = [pytest.mark.kafka, pytest.mark.filterwarnings(SOCKETS)]
Make = Callable[..., World]


def test_kills_lose_no_event_and_count_none_twice(kafka_world: Make) -> None:
    """A worker killed five times while events stream in leaves every user with exactly the events that were sent."""
    world = kafka_world(partitions=4, batch_size=16)
    people = users(40)
    sent: Counter[str] = Counter()
    over = threading.Event()

    def stream() -> None:
        while not over.is_set():
            batch = [world.event(person) for person in people]
            world.send(batch)
            sent.update(event["user_id"] for event in batch)
            over.wait(0.05)

    streaming = threading.Thread(target=stream)
    worker = world.start(slow_s=0.02).ready()
    streaming.start()
    try:
        for after_s in (0.3, 1.2, 0.1, 0.7, 1.9):
            time.sleep(after_s)  # not a wait: where in its work the worker is hit
            worker.kill()
            worker = world.start(slow_s=0.02).ready()
    finally:
        over.set()
        streaming.join()
    eventually(world.counts, lambda counts: counts == sent)
    eventually(world.stored_counts, lambda counts: counts == sent)
    # Not by list_id: a replay may put other events of a user into one batch, and so into one list.
    answered = sum(message["covers"] for message in world.messages(world.topics.recommendations))
    assert answered > sum(sent.values()), "no event was answered again: the kills hit nothing that was under way"
    assert worker.stop() == 0


def test_a_kill_and_a_lost_state_folder(kafka_world: Make) -> None:
    """Profiles come back from the changelog when the folder is gone."""
    world = kafka_world(session_timeout_s=6.0)  # the new folder's worker has another name, and waits for the session's end
    worker = world.start().ready()
    world.send([world.event(person) for person in users(9) for _ in range(3)])
    eventually(world.counts, lambda counts: counts == dict.fromkeys(users(9), 3))
    worker.kill()
    again = world.start(state_dir=world.folder / "other").ready()
    world.send([world.event(person) for person in users(9)])
    eventually(world.counts, lambda counts: counts == dict.fromkeys(users(9), 4))
    assert again.stop() == 0


def test_two_workers_share_and_take_over(kafka_world: Make) -> None:
    """A second worker takes half of the partitions, and gets the rest when the first is killed; every event counts once."""
    world = kafka_world(partitions=4, session_timeout_s=6.0)
    people = users(30)
    sent: Counter[str] = Counter()

    def send(rounds: int) -> None:
        for _ in range(rounds):
            world.send([world.event(person) for person in people])
            sent.update(people)
            time.sleep(0.02)

    first = world.start(slow_s=0.01).ready()
    send(10)
    second = world.start(slow_s=0.01, state_dir=world.folder / "second", instance_id="second")
    send(40)
    second.ready()
    assert "with 2 partitions" in second.said()
    send(10)
    first.kill()
    send(10)
    eventually(world.counts, lambda counts: counts == sent)
    assert second.stop() == 0
    eventually(world.stored_counts, lambda counts: counts == sent)


def test_a_stop_finishes_and_a_restart_reads_the_snapshot(kafka_world: Make) -> None:
    """A stop by signal finishes what was taken; the next start has the items from the snapshot, and replays nothing."""
    world = kafka_world()
    worker = world.start().ready()
    for number in range(50):
        item = {"item_id": f"i{number}", "title": f"tea {number}"}
        world.send_raw(world.topics.items, item["item_id"].encode(), json.dumps(item).encode())
    world.send([world.event(person, type="click", item_id="i1") for person in users(5)])
    eventually(lambda: len(world.records(world.topics.item_vectors)), lambda count: count == 50)
    eventually(world.counts, lambda counts: counts == dict.fromkeys(users(5), 1))
    eventually(lambda: world.messages(world.topics.item_signals), lambda found: bool(found) and found[-1]["recent"] > 4.9)
    assert worker.stop() == 0
    lists = len(world.records(world.topics.recommendations))
    again = world.start().ready()
    assert "items: 50 in the index" in again.said()
    folder = world.settings.state_dir
    assert oct(folder.stat().st_mode)[-3:] == "700"
    assert {oct(path.stat().st_mode)[-2:] for path in folder.rglob("*")} == {"00"}
    world.send([world.event("user0")])
    eventually(world.counts, lambda counts: counts["user0"] == 2)
    assert len(world.records(world.topics.recommendations)) == lists + 1
    assert again.stop() == 0


def test_poison_goes_to_dead_letters_and_the_rest_is_served(kafka_world: Make) -> None:
    """Bytes, events and items that cannot be processed become dead letters; everything around them gets its list."""
    world = kafka_world(partitions=2)
    events, items = world.topics.events, world.topics.items
    world.send([world.event("ann"), world.event("ann", text=BAD_TEXT), world.event("bob")])
    world.send([world.event("ann", text=BAD_FOLD), world.event("bob"), world.event("ann")])
    world.send_raw(events, b"ann", b"\xff\xfe not json")
    world.send_raw(events, b"ann", json.dumps(world.event("ann", type="shrug")).encode())
    world.send_raw(events, b"ann", json.dumps(world.event("ann", at="9999-01-01")).encode())
    world.send_raw(events, b"ann", b'{"text": "' + b"x" * 900_000)
    world.send_raw(items, b"i1", b"{}")
    world.flush()
    world.start().ready()
    eventually(world.counts, lambda counts: counts == {"ann": 2, "bob": 2})
    letters = eventually(lambda: world.messages(world.topics.dead_letters), lambda found: len(found) == 7)
    reasons = {(letter["topic"], letter["offset"]): letter["reason"] for letter in letters if letter["topic"] == items.name}
    assert reasons == {(items.name, 0): "Object missing required field `item_id`"}
    said = " | ".join(letter["reason"] for letter in letters)
    for word in ("the encoder choked", "the fold choked", "malformed", "shrug", "9999", "truncated", "first 500000 of 900010"):
        assert word in said
    poison = next(letter for letter in letters if "fold" in letter["reason"])
    assert json.loads(base64.b64decode(poison["raw"]))["text"] == BAD_FOLD


def test_a_misrouted_event_is_sent_once_more(kafka_world: Make) -> None:
    """An event under another key, or in another partition than its key's, counts once; one sent on before is refused."""
    world = kafka_world(partitions=4)
    events = world.topics.events
    world.send([world.event("ann")])
    world.send_raw(events, b"bob", json.dumps(world.event("ann")).encode())
    world.send_raw(events, None, json.dumps(world.event("ann")).encode(), partition=2)
    for partition in range(4):
        world.send_raw(events, b"cid", json.dumps(world.event("cid")).encode(), partition=partition)
    world._producer.send(
        events.name, key=b"x", value=json.dumps(world.event("dan")).encode(), partition=0, headers=[(RESENT, b"1")]
    )
    world.flush()
    world.start().ready()
    eventually(world.counts, lambda counts: counts == {"ann": 3, "cid": 4})
    letters = eventually(lambda: world.messages(world.topics.dead_letters), lambda found: len(found) == 1)
    assert "sent on before" in letters[0]["reason"]


async def test_holes_that_hold_nothing_are_stepped_over(kafka_world: Make) -> None:
    """Events that retention removed, and the records that transactions leave, do not stop a worker."""
    world = kafka_world(partitions=1)
    events = world.topics.events
    world.send([world.event("ann") for _ in range(5)])
    first = world.start().ready()
    eventually(world.counts, lambda counts: counts == {"ann": 5})
    assert first.stop() == 0
    world.send([world.event("ann") for _ in range(5)])
    with open_admin(world.settings) as admin:
        admin.delete_records({TopicPartition(events.name, 0): 8})
    sender = AIOKafkaProducer(**connection(world.settings), transactional_id=events.name)
    await sender.start()
    for _ in range(3):
        async with sender.transaction():
            await sender.send(events.name, key=b"ann", value=json.dumps(world.event("ann")).encode())
    await sender.stop()
    again = world.start().ready()
    eventually(world.counts, lambda counts: counts == {"ann": 10})
    assert again.stop() == 0
    assert again.said().count("hold no event") == 3


def test_what_cannot_start_says_so_and_touches_nothing(kafka_world: Make) -> None:
    """Another encoder's folder, missing topics, wrong partitions and a missing broker: one line, exit code 2."""
    world = kafka_world()
    assert world.start().ready().stop() == 0
    before = _content(world.settings.state_dir)
    for changes, word in (
        ({"encoder": "hashing:32", "create_topics": True}, "is of encoder"),
        ({"topic_prefix": "nowhere."}, "missing"),
        ({"partitions": 3}, "2 partitions"),
        ({"broker": "127.0.0.1:1", "connect_timeout_s": 1.0}, "127.0.0.1:1"),
    ):
        refused = world.start(**changes)
        assert refused.process.wait(60) == 2, refused.said()
        assert word in refused.said()
        assert "Traceback" not in refused.said()
    assert _content(world.settings.state_dir) == before


def _content(folder: Any) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
