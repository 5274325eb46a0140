"""A worker on the embedded broker, through its outside: topics and HTTP."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from flows import World, eventually

from streams.batching import EXIT_UNACKNOWLEDGED
from streams.broker import start_embedded
from streams.settings import load
from streams.topics import create_topics

pytestmark = [
    pytest.mark.embedded,
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]


def get(url: str) -> tuple[int, str]:
    """Return status and body, status 0 when nothing listens."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def test_items_events_signals_and_metrics(embedded_world: Callable[..., World]) -> None:
    """Items are encoded once and deleted, events counted, touches come back as signals; the numbers are there to scrape."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    world = embedded_world(web_port=port)
    worker = world.start()
    statuses = set()

    def health() -> int:
        statuses.add(get(f"http://127.0.0.1:{port}/health")[0])
        return max(statuses)

    eventually(lambda: (health(), worker.process.poll())[0], lambda status: 200 in statuses)
    tea = json.dumps({"item_id": "tea", "title": "Green tea"}).encode()
    world.send_raw(world.topics.items, b"tea", tea)
    world.send_raw(world.topics.items, b"tea", tea)
    world.send_raw(world.topics.items, b"pot", json.dumps({"item_id": "pot", "title": "Pot"}).encode())
    world.send_raw(world.topics.items, b"pot", b"")
    world.send([world.event("ann", type="click", item_id="tea") for _ in range(3)])
    world.send([world.event("ann", text="x" * 3_000)])
    eventually(world.counts, lambda counts: counts == {"ann": 4})
    signal = eventually(
        lambda: world.messages(world.topics.item_signals), lambda found: bool(found) and found[-1]["recent"] > 2.9
    )
    assert signal[-1]["item_id"] == "tea"
    vectors = eventually(lambda: world.records(world.topics.item_vectors), lambda found: len(found) == 4)
    assert [record.value for record in vectors if record.key == b"pot"][-1] is None
    assert len({json.loads(record.value)["text_hash"] for record in vectors if record.key == b"tea"}) == 1
    _, numbers = eventually(lambda: get(f"http://127.0.0.1:{port}/metrics"), lambda seen: "headrace_index_items 1.0" in seen[1])
    for line in (
        'headrace_events_total{type="click"} 3.0',
        "headrace_partitions 2.0",
        'headrace_texts_total{outcome="known"} 0.0',
        "headrace_event_to_list_seconds_count 4.0",
        'headrace_items_total{outcome="deleted"} 1.0',
    ):
        assert line in numbers
    lists = world.messages(world.topics.recommendations)
    assert sum(message["covers"] for message in lists) == 4
    assert len({message["list_id"] for message in lists}) == len(lists)
    assert worker.stop() == 0
    assert get(f"http://127.0.0.1:{port}/health")[0] == 0


def test_an_error_that_no_event_explains_ends_the_process(embedded_world: Callable[..., World]) -> None:
    """A foreign profile, or an item of a newer format, is no event's fault: exit code 70, and nothing is a dead letter.

    A damaged snapshot ends nothing: what it held is read anew.
    """
    world = embedded_world()
    world.start().ready().stop()
    (signals,) = world.settings.state_dir.glob("snapshot-*/signals.msgpack")
    signals.write_bytes(b"\x93")
    world.send_raw(world.topics.profiles, b"ann", b"RECORD OF ANOTHER ENCODER")
    world.send([world.event("ann")])
    worker = world.start()
    assert worker.process.wait(60) == 70
    assert "events failed: the profile is of another encoder: the worker ends, nothing that is unfinished" in worker.said()
    assert "the snapshot is left out and everything read anew" in worker.said()
    assert "Traceback" not in worker.said()
    world.send_raw(world.topics.item_vectors, b"tea", b'{"format": 9}')
    worker = world.start()
    assert worker.process.wait(60) == 70
    assert "ItemVector of format 9, this version reads up to 1: upgrade it: the worker ends" in worker.said()
    assert world.records(world.topics.dead_letters) == []


def test_a_worker_stops_though_kafka_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to stop with events unfinished and no broker left, a worker ends, and says that it acknowledged nothing."""
    monkeypatch.setenv("COUNTING_STOP_S", "2")
    with start_embedded(tmp_path / "broker") as broker:
        settings = load(
            broker=broker.address,
            state_dir=tmp_path / "state",
            cache_dir=tmp_path,
            encoder="hashing",
            partitions=2,
            app_id="away",
            batch_size=4,
        )
        create_topics(settings)
        world = World(settings, tmp_path / "logs")
        worker = world.start(slow_s=1).ready()
        world.send([world.event(f"user{number}") for number in range(50)])
        eventually(world.lists, bool)  # of the first four: the others are in work
        broker.process.kill()
        time.sleep(2)  # twice as long as a batch takes: the next one is made by now, and waits to be acknowledged
    assert worker.stop() == EXIT_UNACKNOWLEDGED, worker.said()
    assert "stopping has taken 2 s, as it does when Kafka acknowledges nothing: the worker ends" in worker.said()
    world.close()
