"""The process that learns, beside a worker on the embedded broker: a changed habit comes into service, a restart reads on."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flows import Worker, World, eventually
from school import ITEMS, by_hand

from ranking.bundle import Bundle
from ranking.profile import key_of, new_profile, pack, unpack
from streams import releases
from streams.messages import Item, RecommendationList, encode
from streams.pairs import Pairs

USERS, EACH = 150, 3
MINUTE = 60.0


class Real(Worker):
    """A worker with the product's own step."""

    program = ("-m", "streams", "worker")


class Learning(Worker):
    """A process that learns."""

    program = ("-m", "streams", "learn")


@pytest.mark.embedded
def test_a_changed_habit_comes_into_service(embedded_world: Callable[..., World], tmp_path: Path) -> None:
    """Lists and clicks become a version that is better, workers rank with it, and a restart reads on where it stopped."""
    world = embedded_world(
        **{
            "encoder": "hashing:32",
            "partitions": 1,
            "session_timeout_s": 60.0,
            "list_size": 5,
            "diversity": 0.0,
            "learn_rate": 0.05,
        },
        **{"learn_users": 20, "learn_round_minutes": 150, "learn_window_minutes": 600},
    )
    base = by_hand({"follow_links_last": 3.0})
    for name in ITEMS:
        world.send_raw(world.topics.items, name.encode(), encode(Item(item_id=name, title=name)))
    world.flush()
    publish(world, base)
    worker, learner = started(world, Real, tmp_path / "worker"), started(world, Learning, tmp_path / "learner")
    eventually(worker.said, lambda said: "ready in" in said, 120)
    eventually(learner.said, lambda said: "ready: learns" in said, 120)
    for turn in walks(world):
        world.send(turn)
        eventually(lambda: covered(world), lambda count: count == world._sent)
    eventually(learner.said, lambda said: "is to rank from now on: it is better" in said, 60)
    version = eventually(lambda: releases.on_topic(world.settings).current, lambda name: name != base.head.version)
    assert f"{version} is better: log-loss gains +" in learner.said()
    eventually(worker.said, lambda said: f"model {version} ranks from now on" in said)
    assert learner.stop() == 0
    world.send([world.event(f"late{n}", type="click", item_id=ITEMS[n]) for n in range(4)])
    eventually(lambda: covered(world), lambda count: count == world._sent)
    assert world.lists()["late3"]["model"] == version
    again = started(world, Learning, tmp_path / "learner")
    eventually(again.said, lambda said: "ready: learns" in said, 120)
    (behind,) = re.findall(r"reads on: (\d+) records have come since", again.said())
    everything = 3 * world._sent  # an event, a list and a profile of each: at least the four late ones come again, not all
    assert 12 <= int(behind) < everything
    assert again.stop() == worker.stop() == 0
    assert "Traceback" not in worker.said() + learner.said() + again.said()


def publish(world: World, base: Bundle) -> None:
    """Put a model into service."""
    releases.publish(world.settings, base)
    releases.use(world.settings, base.head.version)


def started(world: World, kind: type[Worker], state: Path) -> Worker:
    """Start a process with a state folder of its own."""
    world.workers.append(kind(world.settings.model_copy(update={"state_dir": state}), world.folder))
    return world.workers[-1]


def walks(world: World) -> Iterator[list[dict[str, Any]]]:
    """Yield the users' clicks by turn, a minute apart: each goes on by five items, where the model expects the next one."""
    began = time.time() - 2 * USERS * EACH * MINUTE
    for turn in range(EACH):
        yield [
            world.event(
                f"u{user}",
                type="click",
                item_id=ITEMS[(7 * user + 5 * turn) % len(ITEMS)],
                at=began + MINUTE * (turn * USERS + user),
                text=None,
            )
            for user in range(USERS)
        ]


def covered(world: World) -> int:
    """Return how many events the published lists know of."""
    return sum(int(each["covers"]) for each in world.messages(world.topics.recommendations))


class TestPairs:
    """Lists and the profiles that they were made of."""

    def told(self, event_id: str, user: str = "u") -> RecommendationList:
        """Return a list that was made after an event."""
        return RecommendationList(
            list_id=event_id, user_id=user, items=(), event_id=event_id, event_at=0.0, published_at=0.0, model="m", covers=1
        )

    def record(self, *event_ids: str) -> bytes:
        """Return a profile that holds events, the last one the newest."""
        keys = b"".join(key_of(each).to_bytes(8, "little") for each in event_ids)
        return pack(msgspec.structs.replace(new_profile(2, 1), event_keys=keys))

    def test_each_finds_the_other_in_either_order(self) -> None:
        """Only the profile whose newest event the list names is the list's; a forgotten user has neither."""
        pairs = Pairs(lambda record: unpack(record, 2, 1))
        assert pairs.list(self.told("b")) is None
        assert pairs.profile("u", self.record("a")) is None
        assert pairs.profile("v", self.record("b")) is None
        found = pairs.profile("u", self.record("a", "b"))
        assert found is not None
        assert found.list.event_id == "b"
        again = pairs.list(self.told("a"))
        assert again is not None
        assert again.profile.event_keys == key_of("a").to_bytes(8, "little")
        pairs.list(self.told("c"))
        pairs.forget("u")
        assert pairs.profile("u", self.record("c")) is None

    def test_a_list_that_was_reread_takes_the_place_of_the_same_list(self) -> None:
        """It finds the profile that waits for the list, or waits in its place, or has no profile where that was paired."""
        reread = msgspec.structs.replace(self.told("b"), reread="judge")
        pairs = Pairs(lambda record: unpack(record, 2, 1))
        pairs.list(self.told("b"))
        assert pairs.list(reread) is None
        found = pairs.profile("u", self.record("b"))
        assert found is not None
        assert found.list == reread
        pairs.profile("u", self.record("b"))
        alone = pairs.list(reread)
        assert alone is not None
        assert alone.profile is not None
        assert pairs.list(reread) == (None, reread)
        assert pairs.profile("u", self.record("b")) is None

    def test_what_finds_nothing_is_dropped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The oldest first, when too many wait."""
        monkeypatch.setattr("streams.pairs.MOST", 2)
        pairs = Pairs(lambda record: unpack(record, 2, 1))
        for name in "abc":
            pairs.list(self.told(name))
        assert pairs.dropped == 1
        assert pairs.profile("u", self.record("a")) is None
        assert pairs.profile("u", self.record("b")) is not None
