"""An installation copied into topics with another number of partitions: profiles go on, and nothing is counted twice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from flows import World, eventually, users
from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata
from test_rebuild import NEW, TEXTS, RealWorker, crowd, send_items, start, stored

from encoders.hashing import HashingEncoder
from ranking.profile import Profile, unpack_any
from streams import move as moving
from streams.erasure import key_of
from streams.handover import hand_over
from streams.messages import Erasure, ItemSignal, encode
from streams.move import MoveRefused, move
from streams.reading import records
from streams.rebuild import rebuild
from streams.settings import Settings
from streams.topics import Topic, partition_of, topics

pytestmark = [
    pytest.mark.embedded,
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]
ERASED_AT = time.time() - 50.0


def commit_all(settings: Settings, left: int = 0) -> None:
    """Commit as workers would that have processed everything, but for some events of partition 0."""
    done = {}
    for topic in topics(settings)[:3]:
        for record in records(settings, topic):
            done[TopicPartition(topic.name, record.partition)] = record.offset + 1
    done[TopicPartition(topics(settings).events.name, 0)] -= left
    signed = {place: OffsetAndMetadata(offset, "", -1) for place, offset in done.items()}
    assert hand_over(settings, signed, HashingEncoder.named(settings.encoder).id)


@pytest.fixture
def old(embedded_world: Callable[..., World]) -> World:
    """An installation of two partitions, all of it processed: items, profiles, a signal and an erasure."""
    world = embedded_world(encoder=NEW, partitions=2)
    send_items(world, *TEXTS)
    events = crowd(world, 9)
    world.send([next(events) for _ in range(90)])
    rebuild(world.settings)  # no worker has to stop
    signal = ItemSignal(item_id=TEXTS[0], at=time.time(), recent=3.0, steady=4.0, after={TEXTS[1]: 2.0}, sources={0: 70, -9: 3})
    world.send_raw(world.topics.item_signals, TEXTS[0].encode(), encode(signal))
    erasure = Erasure(at=ERASED_AT, partition=1, offset=5)
    world.send_raw(world.topics.erasures, key_of("user3").encode(), encode(erasure), partition=1)
    world.flush()
    commit_all(world.settings)
    return world


def moved_to(world: World) -> Settings:
    """Return the settings of an installation of five partitions."""
    name = f"{world.settings.app_id}-five"
    return world.settings.model_copy(update={"app_id": name, "topic_prefix": f"{name}.", "partitions": 5})


def go(world: World) -> None:
    """Move the world, as its users would."""
    move(moved_to(world), world.settings.app_id, world.settings.topic_prefix)


def newest(settings: Settings, topic: Topic) -> dict[bytes, Any]:
    """Return the newest record of each key, each in the partition that its key belongs in."""
    found = {record.key: record for record in records(settings, topic) if record.key != b"\x00fence"}
    assert all(record.partition == partition_of(key, topic.partitions) for key, record in found.items())
    return found


def profiles(settings: Settings) -> dict[str, Profile]:
    """Return what is stored of each user."""
    return {user: unpack_any(record) for user, record in stored(settings).items()}


def test_everything_goes_on(old: World) -> None:
    """All but places in the old log is copied; a new event is folded once, and its list is made of the moved profile."""
    settings = moved_to(old)
    go(old)
    go(old)  # as after one that was cut off
    before, after = profiles(old.settings), profiles(settings)
    assert after == {user: msgspec.structs.replace(profile, watermarks={}) for user, profile in before.items()}
    assert all(profile.watermarks for profile in before.values())
    source, target = topics(old.settings), topics(settings)
    for name in ("items", "item_vectors"):
        here, there = newest(old.settings, getattr(source, name)), newest(settings, getattr(target, name))
        assert {key: (one.value, one.timestamp) for key, one in there.items()} == {
            key: (one.value, one.timestamp) for key, one in here.items()
        }
    (signal,) = newest(settings, target.item_signals).values()
    assert json.loads(signal.value) | {"at": 0} == {
        "item_id": TEXTS[0],
        "at": 0,
        "recent": 3.0,
        "steady": 4.0,
        "after": {TEXTS[1]: 2.0},
    }
    newest(settings, target.profiles)

    world = World(settings, old.folder / "moved")
    try:
        start(world, RealWorker, state_dir=old.folder / "moved-state").ready()
        late = world.event("user3", at=ERASED_AT - 5, text="from before")
        sent = [late, *(world.event(user, text="green tea") for user in users(9))]
        world.send(sent)
        eventually(world.lists, lambda lists: lists.keys() == set(users(9)))
        now = eventually(
            lambda: profiles(settings),
            lambda found: sum(p.events for p in found.values()) >= 9 + sum(p.events for p in before.values()),
        )
        assert {user: profile.events for user, profile in now.items()} == {
            user: profile.events + 1 for user, profile in before.items()
        }
        bought = TEXTS[0]
        assert all(bought not in [one["item_id"] for one in made["items"]] for made in lists_of_buyers(world, before, bought))
    finally:
        world.close()


def lists_of_buyers(world: World, before: dict[str, Profile], item: str) -> list[dict[str, Any]]:
    """Return the new lists of those who had touched an item before the move."""
    buyers = [user for user, profile in before.items() if item in [touch.item_id for touch in profile.touches]]
    assert buyers
    return [world.lists()[user] for user in buyers]


def test_what_would_lose_something_is_refused(old: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that are not both new, a wrong old name, events not processed yet, another encoder, live workers, a used target."""
    new, app_id, prefix = moved_to(old), old.settings.app_id, old.settings.topic_prefix
    for same in ({"app_id": app_id}, {"topic_prefix": prefix}):
        with pytest.raises(MoveRefused, match="set both HEADRACE_APP_ID"):
            move(new.model_copy(update=same), app_id, prefix)
    with pytest.raises(MoveRefused, match=r"has processed anything of wrong\.events: give the HEADRACE_APP_ID"):
        move(new, app_id, "wrong.")
    with pytest.raises(MoveRefused, match="works with encoder hashing-32: set HEADRACE_ENCODER"):
        move(new.model_copy(update={"encoder": "hashing:64"}), app_id, prefix)
    commit_all(old.settings, left=3)
    with pytest.raises(MoveRefused, match=r"3 records of .*events are not processed yet: stop what sends to it"):
        go(old)
    commit_all(old.settings)
    monkeypatch.setattr(moving, "GRACE_S", -6.0)
    monkeypatch.setattr(moving, "live_members", lambda settings: ["worker-1"])
    with pytest.raises(MoveRefused, match=r"1 worker\(s\) run in group .* \(worker-1\): stop them"):
        go(old)
    monkeypatch.setattr(moving, "live_members", lambda settings: [])
    place = TopicPartition(topics(new).events.name, 0)
    go(old)
    assert hand_over(new, {place: OffsetAndMetadata(1, "", -1)}, "hashing-32")
    with pytest.raises(MoveRefused, match="have processed events already: choose a HEADRACE_APP_ID"):
        go(old)
