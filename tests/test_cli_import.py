"""The import of a history: the same profiles as live, written once however often it is repeated, and never beside a worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flows import eventually
from kafka import KafkaConsumer

from encoders.hashing import HashingEncoder
from ranking.profile import Profile
from streams.backfill import encode_missing, import_file, known_items
from streams.building import build
from streams.connection import connection
from streams.fence import MARK
from streams.history import ImportRefused, read, run
from streams.kafka import open_producer
from streams.messages import BadMessage, Event, Interactions
from streams.personalizer import Sourced
from streams.reading import newest, records
from streams.rows import Row, RowError
from streams.sending import send_events, send_items
from streams.settings import Settings, load
from streams.topics import create_topics, partition_of, topics
from streams.watch import stored_profile

NOW = 1_790_000_000.0
ENCODER = HashingEncoder(64)
BROKERS = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("embedded", "kafka")]
ITEMS = [
    {"item_id": f"i{n}", "title": title} for n, title in enumerate(["green tea", "black tea", "jazz record", "running shoes"])
]


def row(user: str, at: float, item: str | None = "i0", kind: str = "purchase", **more: object) -> dict[str, object]:
    """Return one row of a history."""
    return {"user_id": user, "type": kind, "at": at, **({"item_id": item} if item else {}), **more}


HISTORY = [
    row("ann", NOW - 50, "i1", "click"),
    row("bob", NOW - 400, "i3"),
    row("ann", NOW - 300, "i0"),
    row("ann", NOW - 10, None, "search", text="tea pot"),
    row("bob", NOW - 20, "i2", "rating", rating=1),
    *(row(f"user{n}", NOW - 100 + n, f"i{n % 4}") for n in range(20)),
]


def write(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    """Write rows as jsonl."""
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


@pytest.fixture(params=BROKERS)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Topics of this test's own on each kind of broker, with four items loaded."""
    name = f"import{time.time_ns()}"
    given: dict[str, Any] = {"topic_prefix": f"{name}.", "app_id": name, "partitions": 2, "session_timeout_s": 6}
    address = request.getfixturevalue(f"{request.param}_address")
    settings = load(broker=address, encoder="hashing:64", state_dir=tmp_path / "state", **given)
    create_topics(settings)
    list(send_items(settings, [Row(number, one, 1.0) for number, one in enumerate(ITEMS, 1)]))
    return settings


def test_events_come_in_time_order(tmp_path: Path) -> None:
    """Rows are sorted by time, those of one second as in the file, and ids are the same at each reading."""
    rows = [row("a", NOW, "i1"), row("b", NOW - 5, "i2"), row("c", NOW, "i3"), row("d", NOW - 9, "i4")]
    path = write(tmp_path / "h.jsonl", rows)
    history = read(path, NOW, columns={})
    assert [event.user_id for event in history.events] == ["d", "b", "a", "c"]
    assert [event.event_id for event in history.events] == ["h.jsonl:4", "h.jsonl:2", "h.jsonl:1", "h.jsonl:3"]
    assert read(path, NOW + 1000, columns={}) == history
    assert read(write(tmp_path / "h.jsonl", rows[:3]), NOW, columns={}).digest != history.digest


def test_columns_and_type_can_be_named(tmp_path: Path) -> None:
    """A ratings table of another naming, without types, is read."""
    path = tmp_path / "ratings.csv"
    path.write_text("userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n")
    columns = {"user_id": "userId", "item_id": "movieId", "at": "timestamp"}
    (event,) = read(path, NOW, columns=columns, event_type="rating").events
    assert event == Event(event_id="ratings.csv:2", user_id="1", type="rating", at=1_260_759_144.0, item_id="31", rating=2.5)


def test_bad_rows_stop_or_are_left_out(tmp_path: Path) -> None:
    """A row that is no event stops the import with its number, or is left out and reported."""
    path = write(tmp_path / "h.jsonl", [row("a", NOW), row("b", NOW, kind="wave"), row("c", 5.0)])
    with pytest.raises(BadMessage, match=r"h\.jsonl row 2: .*send one of view.*--skip-bad leaves such rows out"):
        read(path, NOW, columns={})
    history = read(path, NOW, columns={}, skip_bad=True)
    assert [event.user_id for event in history.events] == ["a"]
    assert [line.split(":")[0] for line in history.left_out] == ["row 2", "row 3"]


def test_standard_input_is_refused() -> None:
    """An import needs a file that has a name."""
    with pytest.raises(RowError, match="give a path, not -"):
        read(Path("-"), NOW, columns={})


def test_profiles_are_those_of_the_fold(settings: Settings, tmp_path: Path) -> None:
    """What an import writes for a user is, to the byte, one fold of all the user's events; interactions are all sent."""
    index = known_items(settings, ENCODER)
    assert (len(index), encode_missing(settings, ENCODER, index), len(index)) == (0, 4, 4)
    assert len(known_items(settings, ENCODER)) == 4
    personalizer = build(ENCODER, settings, index)
    history = read(write(tmp_path / "h.jsonl", HISTORY), NOW, columns={})
    done = run(settings.model_copy(update={"backlog_batch_size": 3}), personalizer, history, merge=False)
    assert done == (len(HISTORY), 0, 22, 0)
    for user in ("ann", "bob", "user7"):
        record = newest(settings, topics(settings).profiles, user)
        marks = msgspec.msgpack.decode(record.value, type=Profile).watermarks
        ((place, last),) = marks.items()
        own = [event for event in history.events if event.user_id == user]
        offsets = [offset for offset, event in enumerate(share(history.events, record.partition, settings)) if event in own]
        batch = [Sourced(event, place, offset) for event, offset in zip(own, offsets, strict=True)]
        assert place < 0
        assert last == offsets[-1]
        assert personalizer.fold({user: None}, batch, personalizer.encode(own)).records[user] == record.value
    parcels = [msgspec.json.decode(one.value, type=Interactions) for one in records(settings, topics(settings).interactions)]
    sent = [each for parcel in parcels for each in parcel.interactions]
    assert sorted(one.item_id for one in sent) == sorted(["i0", "i1", "i3", *(f"i{n % 4}" for n in range(20))])
    assert len({one.source for one in sent}) == len(sent)


def share(events: Sequence[Event], partition: int, settings: Settings) -> list[Event]:
    """Return the events whose users live in a partition."""
    return [event for event in events if partition_of(event.user_id.encode(), settings.partitions) == partition]


def test_a_repeated_import_counts_once(settings: Settings, tmp_path: Path) -> None:
    """Profiles that are there are refused without merge; with it, the same file changes nothing and another adds to them."""
    path = write(tmp_path / "h.jsonl", HISTORY)
    given: dict[str, Any] = {"columns": {}, "event_type": None, "skip_bad": False}
    assert import_file(settings, path, merge=False, **given).folded == len(HISTORY)
    before = stored_profile(settings, "ann")
    with pytest.raises(ImportRefused, match=r"holds profiles already: --merge folds the history into them"):
        import_file(settings, path, merge=False, **given)
    assert import_file(settings, path, merge=True, **given) == (0, len(HISTORY), 0, 0)
    assert stored_profile(settings, "ann") == before
    later = write(tmp_path / "later.jsonl", [row("ann", NOW - 200, "i2"), row("new", NOW, "i0")])
    assert import_file(settings, later, merge=True, **given) == (2, 0, 2, 0)
    after = stored_profile(settings, "ann")
    assert (before.events, after.events) == (3, 4)
    assert [touch.item_id for touch in after.touches if touch.item_id] == ["i0", "i2", "i1"]  # words have no item
    assert stored_profile(settings, "bob").events == 2


def test_a_worker_that_only_started_left_no_profiles(settings: Settings, tmp_path: Path) -> None:
    """The fences of workers that came and went are not taken for profiles."""
    profiles = topics(settings).profiles.name
    with open_producer(settings) as producer:
        for partition in range(settings.partitions):
            producer.send(profiles, key=MARK, value=None, partition=partition).get(timeout=30)
    path = write(tmp_path / "h.jsonl", HISTORY)
    assert import_file(settings, path, columns={}, event_type=None, merge=False, skip_bad=False).folded == len(HISTORY)


def test_unknown_items_are_refused(settings: Settings, tmp_path: Path) -> None:
    """A history none of whose items is in the catalogue is refused before a profile is written."""
    path = write(tmp_path / "h.jsonl", [row("ann", NOW, "elsewhere")])
    with pytest.raises(ImportRefused, match=r"none of the 1 items of the history, as 'elsewhere', is on .*items load FILE"):
        import_file(settings, path, columns={}, event_type=None, merge=False, skip_bad=False)
    assert list(records(settings, topics(settings).profiles)) == []


def test_a_live_group_is_refused(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a member of the workers' group lives, nothing is written."""
    history = read(write(tmp_path / "h.jsonl", HISTORY), NOW, columns={})
    personalizer = build(ENCODER, settings)
    monkeypatch.setattr("streams.history.GRACE_S", -settings.session_timeout_s)  # no wait for a member that never goes
    member = KafkaConsumer(topics(settings).events.name, group_id=settings.app_id, **connection(settings))
    try:
        eventually(lambda: member.poll(timeout_ms=1_000) or member.assignment(), bool, 90.0)
        with pytest.raises(ImportRefused, match=rf"1 worker\(s\) run in group {settings.app_id} .*: stop them, import"):
            run(settings, personalizer, history, merge=False)
    finally:
        member.close()
    assert list(records(settings, topics(settings).profiles)) == []
    assert run(settings, personalizer, history, merge=False).users == 22


@pytest.mark.kafka
def test_workers_take_up_an_import(kafka_address: str, tmp_path: Path) -> None:
    """A worker that ran before an import knows it after: profiles go on from it, and the list leaves out what was bought."""
    name = f"import{time.time_ns()}"
    given = {"broker": kafka_address, "topic_prefix": f"{name}.", "app_id": name, "partitions": "2", "session_timeout_s": "12"}
    given |= {"encoder": "hashing:64", "state_dir": str(tmp_path / "state"), "list_size": "4"}
    environment = {**os.environ, **{f"HEADRACE_{key.upper()}": value for key, value in given.items()}}
    settings = load(**given)
    create_topics(settings)
    list(send_items(settings, [Row(number, one, 1.0) for number, one in enumerate(ITEMS, 1)]))

    def headrace(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "streams", *arguments]

    def after(event: dict[str, object]) -> dict[str, Any]:
        """Return the list that a worker, started for it and stopped after it, publishes after an event."""
        log = (tmp_path / "worker.log").open("ab")
        with log, subprocess.Popen(headrace("worker"), env=environment, stdout=log, stderr=log) as worker:
            recommendations, vectors = topics(settings).recommendations, topics(settings).item_vectors
            user = str(event["user_id"])
            known = newest(settings, recommendations, user)
            offset = -1 if known is None else known.offset
            eventually(lambda: list(records(settings, vectors)), lambda found: len(found) == len(ITEMS), 60)
            list(send_events(settings, [Row(1, {"event_id": f"e{time.time_ns()}", **event}, 1.0)]))
            newer = eventually(lambda: newest(settings, recommendations, user), lambda one: one and one.offset > offset, 60)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) == 0, (tmp_path / "worker.log").read_text()[-3000:]
        return dict(json.loads(newer.value))

    first = after(row("ann", time.time() - 60, None, "search", text="tea"))
    assert {"i0", "i1"} <= {one["item_id"] for one in first["items"]}
    path = write(tmp_path / "h.jsonl", HISTORY)
    done = subprocess.run(
        headrace("import", str(path), "--merge"), env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{len(HISTORY)} events folded, 0 known already, 22 profiles written\n", done.stderr
    second = after(row("ann", time.time(), None, "search", text="black tea"))
    assert "i0" not in {one["item_id"] for one in second["items"]}
    assert stored_profile(settings, "ann").events == 5
