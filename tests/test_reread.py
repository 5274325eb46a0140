"""Lists that are read once more: never out of order, never in the way of what users wait for."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Done
from flows import Worker, World, eventually
from planted import NOW, Counting
from test_app_embedded import get
from test_encoders_tiny import WORDS, make_folder

from encoders import judge
from streams import catalogue, reread
from streams.batching import Outgoing
from streams.building import build
from streams.desk import Desk
from streams.encode_thread import EncodeThread
from streams.erasure import Erasures
from streams.inlet import Batch, Inlet
from streams.makers import new_index
from streams.messages import Erasure, Item, RecommendationList, RecommendedItem, decode_event
from streams.metrics import Metrics
from streams.personalize import Personalize
from streams.personalizer import Personalizer, Sourced
from streams.reread import MOST, REST_S, Published, Rereading
from streams.settings import Settings, SettingsError, load
from streams.topics import topics

TOPICS = topics(Settings.model_construct(partitions=1))
NAMES = "abcdef"


class Planned:
    """Wants items by their titles, the last of the alphabet first. threads: where it was asked, how nice; go_on holds it up."""

    name = "planned"

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.threads: set[tuple[str, int]] = set()
        self.go_on = threading.Event()
        self.go_on.set()
        self.error: Exception | None = None

    def chances(self, user: str, items: Sequence[str]) -> Any:
        self.asked.append((user, list(items)))
        self.threads.add((threading.current_thread().name, os.getpriority(os.PRIO_PROCESS, 0)))
        assert self.go_on.wait(10)
        if self.error is not None:
            raise self.error
        return np.array([ord(item[0]) / 200 for item in items], np.float32)


class Log:
    """Where lists are sent, in order; `slow` holds a send up."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.slow: asyncio.Event | None = None

    async def send(self, records: Sequence[Outgoing]) -> list[Any]:
        if self.slow is not None:
            await self.slow.wait()
        self.sent += records
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        done.set_result(SimpleNamespace(offset=0))
        return [(record.topic, record.partition, 1, done) for record in records]

    def lists(self) -> list[tuple[str, str, bool]]:
        """Return user, first letters of the items and whether it was reread, of each list; no items for a user who is gone."""
        found = [record for record in self.sent if record.topic == TOPICS.recommendations.name]
        made = [(str(record.key, "utf-8"), json.loads(record.value) if record.value else {"items": []}) for record in found]
        return [(user, "".join(each["item_id"] for each in told["items"]), "reread" in told) for user, told in made]


class Stage:
    """A rereading over the items a to f, its judge, what it sends, and the inlet that it makes way for."""

    def __init__(self) -> None:
        settings = load(encoder="hashing", list_size=4, diversity=0.0)
        encoder = Counting(64)
        self.index = new_index(encoder, settings)
        items = [(Item(item_id=name, title=f"{name * 3} tea"), NOW) for name in NAMES]
        catalogue.apply(catalogue.Catalogue(encoder).vectors(items, self.index), self.index)
        self.step: Personalizer = build(encoder, settings, self.index)
        self.judge, self.log, self.metrics, self.erasures = Planned(), Log(), Metrics(), Erasures()
        self.inlet = Inlet(TOPICS.events.name, self._explain)
        self.session = 1
        self.desk = Desk(self.log, TOPICS, self.metrics)  # type: ignore[arg-type]
        given = (self.step, self.index, self.desk, self.erasures, self.inlet)
        self.rereading = Rereading(self.judge, 3, 1.0, *given, lambda session: session == self.session)  # type: ignore[arg-type]

    async def _explain(self, *hole: object) -> bool:
        return False

    def list(self, user: str = "u", offset: int = 0, items: str = "abcd", touched: str = "f") -> Published:
        """Return a list of a user who clicked something."""
        click = {"event_id": "e", "user_id": user, "type": "click", "at": NOW, "item_id": touched}
        record = self.step.step({}, [self._sourced(click, offset)], NOW)[0].records[user]
        told = RecommendationList(
            list_id=f"0-{offset}",
            user_id=user,
            items=tuple([RecommendedItem(name, 0.1, f"why {name}") for name in items]),
            event_id="e",
            event_at=NOW,
            published_at=NOW,
            model="zero-shot",
            covers=1,
            variant="x/y",
        )
        return Published(0, offset, told, record)

    def _sourced(self, event: dict[str, Any], offset: int) -> Any:
        return Sourced(decode_event(json.dumps(event).encode(), NOW), 0, offset)

    def counted(self) -> dict[str, int]:
        """Return how many lists came to what."""
        names = (reread.REREAD, reread.UNCHANGED, reread.OVERTAKEN, reread.DROPPED, reread.FAILED)
        values = {name: self.metrics.registry.get_sample_value("headrace_rereads_total", {"outcome": name}) for name in names}
        return {name: int(value) for name, value in values.items() if value}

    async def until(self, **wanted: int) -> None:
        """Return when lists have come to what is wanted; fail with what they came to after five seconds."""
        for _ in range(1_000):
            if self.counted() == wanted:
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"{self.counted()} in place of {wanted}")

    async def until_asked(self, times: int) -> None:
        """Return when the judge was asked so often."""
        for _ in range(1_000):
            if len(self.judge.asked) >= times:
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"asked {len(self.judge.asked)} times")


@asynccontextmanager
async def running() -> AsyncIterator[Stage]:
    """Yield a stage whose rereading runs."""
    stage = Stage()
    task = asyncio.ensure_future(stage.rereading.run())
    try:
        yield stage
    finally:
        stage.judge.go_on.set()
        task.cancel()


async def test_a_list_follows_itself_in_a_new_order() -> None:
    """Under the same id, later, with the judge's name; items keep what is said of them, and nothing else changes."""
    async with running() as stage:
        before = stage.list()
        stage.rereading.offer(1, [before])
        await stage.until(reread=1)
        (sent,) = stage.log.sent
        assert (sent.topic, sent.partition, sent.key) == (TOPICS.recommendations.name, 0, b"u")
        told = json.loads(sent.value or b"")
        was = {name: getattr(before.told, name) for name in ("list_id", "event_id", "event_at", "covers", "model", "variant")}
        assert {name: told[name] for name in was} == was
        assert told["reread"] == "planned"
        assert told["published_at"] > before.told.published_at
        assert [(item["item_id"], item["reason"]) for item in told["items"]] == [(name, f"why {name}") for name in "cbad"]
        assert [items for _, items in stage.judge.asked] == [["aaa tea", "bbb tea"], ["ccc tea"]]
        assert {user for user, _ in stage.judge.asked} == {"fff tea"}
        assert stage.judge.threads == {("reread_0", min(19, os.getpriority(os.PRIO_PROCESS, 0) + reread.NICE))}
        assert stage.metrics.registry.get_sample_value("headrace_list_to_reread_seconds_count") == 1
        assert stage.metrics.registry.get_sample_value("headrace_reread_judging_seconds_count") == 1


async def test_what_does_not_change_is_not_sent() -> None:
    """Nor is a list of somebody of whom nothing is known."""
    async with running() as stage:
        unknown = stage.list("v")._replace(record=stage.list("v", touched="gone").record)
        stage.rereading.offer(1, [stage.list(items="dcba"), unknown])
        await stage.until(unchanged=2)
        assert stage.log.sent == []
        assert {user for user, _ in stage.judge.asked} == {"fff tea"}


async def test_the_loop_never_waits_for_the_model() -> None:
    """While the model thinks, the event loop goes on."""
    async with running() as stage:
        stage.judge.go_on.clear()
        stage.rereading.offer(1, [stage.list()])
        await stage.until_asked(1)
        began = time.monotonic()
        for _ in range(50):
            await asyncio.sleep(0)
        assert time.monotonic() - began < 1.0
        stage.judge.go_on.set()
        await stage.until(reread=1)


async def test_nothing_is_read_while_events_wait_or_are_in_work() -> None:
    """A list that is being read is put aside between two slices, and one that waits is not begun."""
    async with running() as stage:
        stage.inlet.restart(1, {0: 0})
        stage.judge.go_on.clear()
        stage.rereading.offer(1, [stage.list()])
        await stage.until_asked(1)
        stage.inlet.put([a_record(0)])
        stage.judge.go_on.set()
        await asyncio.sleep(2 * REST_S)
        assert len(stage.judge.asked) == 1
        batch = await stage.inlet.take(64, 64)
        await asyncio.sleep(2 * REST_S)
        assert len(stage.judge.asked) == 1
        stage.inlet.finished(batch)
        ended = time.monotonic()
        await stage.until(reread=1)
        assert time.monotonic() - ended >= REST_S
        stage.inlet.put([a_record(1)])
        batch = await stage.inlet.take(64, 64)
        for user in ("older", "newer"):
            stage.rereading.offer(1, [stage.list(user)])
            await asyncio.sleep(2 * REST_S)
        stage.inlet.finished(batch)
        await stage.until(reread=3)
        assert [user for user, _, _ in stage.log.lists()] == ["u", "newer", "older"]
        stage.inlet.draining.set()  # partitions are given up
        stage.rereading.offer(1, [stage.list()])
        await asyncio.sleep(2 * REST_S)
        assert stage.counted() == {"reread": 3}


async def test_a_newer_list_overtakes() -> None:
    """One that waits, and one that is being read; the newer one is then reread in its place."""
    async with running() as stage:
        stage.judge.go_on.clear()
        stage.rereading.offer(1, [stage.list("v")])
        await stage.until_asked(1)
        stage.rereading.offer(1, [stage.list("u")])
        await stage.rereading.overtake(["u", "v"])
        stage.rereading.offer(1, [stage.list("u", 1, "abef"), stage.list("v", 2, "abef")])
        stage.judge.go_on.set()
        await stage.until(overtaken=2, reread=2)
        assert sorted(stage.log.lists()) == [("u", "ebaf", True), ("v", "ebaf", True)]


async def test_a_newer_list_waits_for_one_that_is_just_handed_over() -> None:
    """What is about to be sent comes behind what is with the producer already, and not the other way round."""
    async with running() as stage:
        stage.log.slow = asyncio.Event()
        stage.rereading.offer(1, [stage.list()])
        await stage.until_asked(2)
        await asyncio.sleep(2 * REST_S)
        newer = asyncio.ensure_future(stage.rereading.overtake(["u"]))
        other = asyncio.ensure_future(stage.rereading.overtake(["v"]))
        await asyncio.sleep(0.02)
        assert other.done()
        assert not newer.done()
        stage.log.slow.set()
        await newer
        assert stage.log.lists() == [("u", "cbad", True)]


async def test_a_session_that_ended_sends_nothing() -> None:
    """Its partitions may be another worker's: neither what waits nor what is being read."""
    async with running() as stage:
        stage.judge.go_on.clear()
        stage.rereading.offer(1, [stage.list()])
        await stage.until_asked(1)
        stage.rereading.offer(1, [stage.list("v")])
        stage.session = 2
        stage.judge.go_on.set()
        await stage.until(overtaken=2)
        assert stage.log.sent == []


async def test_an_erased_user_gets_no_list() -> None:
    """Once the erasure is known, whether or not it was carried out; one from before the list's event says nothing."""
    async with running() as stage:
        stage.erasures.add("v", Erasure(at=NOW - 1, partition=0, offset=0))
        stage.judge.go_on.clear()
        stage.rereading.offer(1, [stage.list("u", 5), stage.list("v", 5)])
        await stage.until_asked(1)
        stage.erasures.add("u", Erasure(at=NOW + 1, partition=0, offset=6))
        stage.judge.go_on.set()
        await stage.until(overtaken=1, reread=1)
        assert stage.log.lists() == [("v", "cbad", True)]


async def test_room_is_bounded() -> None:
    """The oldest make room, the newest are read first, and a user waits once."""
    async with running() as stage:
        stage.judge.go_on.clear()
        stage.rereading.offer(1, [stage.list("first")])
        await stage.until_asked(1)
        stage.rereading.offer(1, [stage.list(f"u{n}", n) for n in range(MOST + 3)])
        await stage.rereading.overtake(["u50"])
        stage.rereading.offer(1, [stage.list("u50", 99)])
        assert stage.counted() == {"dropped": 3, "overtaken": 1}
        stage.judge.go_on.set()
        await stage.until(dropped=3, overtaken=1, reread=MOST + 1)
        users = [user for user, _, _ in stage.log.lists()]
        assert users[:3] == ["first", "u50", f"u{MOST + 2}"]
        assert not {"u0", "u1", "u2"} & set(users)


async def test_a_model_that_fails_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The list stands as it is, it is told and counted, and the next one is read."""
    async with running() as stage:
        stage.judge.error = RuntimeError("no room on the GPU")
        stage.rereading.offer(1, [stage.list()])
        await stage.until(failed=1)
        assert "a list could not be read once more: RuntimeError('no room on the GPU')" in caplog.text
        stage.judge.error = None
        stage.rereading.offer(1, [stage.list()])
        await stage.until(failed=1, reread=1)


def a_record(offset: int, user: str = "u", kind: str = "click", item: str = "f") -> Any:
    """Return an event as it comes from the broker."""
    event = {"event_id": f"e{offset}", "user_id": user, "type": kind, "at": NOW + offset, "item_id": item}
    place = {"topic": TOPICS.events.name, "partition": 0, "offset": offset, "timestamp": int(1000 * (NOW + offset))}
    return SimpleNamespace(**place, key=user.encode(), value=json.dumps(event).encode(), headers=())


class Shelf:
    """A store of profiles in memory."""

    changelog = "changelog"

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def get(self, partition: int, user_id: str) -> bytes | None:
        return self.held.get(user_id)

    def write(self, partition: int, records: dict[str, bytes], changelog_offset: int) -> None:
        self.held |= records

    def purge(self, partition: int, user_ids: Sequence[str], through: int) -> None:
        pass


async def test_lists_of_the_pipeline_are_never_followed_by_older_ones() -> None:
    """Of batches that overlap, the newest list alone is read once more; of a user who is erased, none."""
    async with running() as stage:
        encoding, pool = EncodeThread(), ThreadPoolExecutor(1)
        given = (Shelf(), encoding, stage.erasures, None, 1, pool, stage.rereading)
        step = Personalize(stage.desk, stage.step, *given)  # type: ignore[arg-type]
        stage.inlet.restart(1, {0: 0})

        async def taken(*records: Any) -> tuple[Batch, Any]:
            stage.inlet.put(list(records))
            batch = await stage.inlet.take(64, 64)
            return batch, await step.send(batch, await step.apply(batch, await step.prepare(batch)))

        async def finished(batch: Batch, sent: Any) -> None:
            await step.finish(batch, sent)
            stage.inlet.finished(batch)

        first = await taken(a_record(0), a_record(1, "v"))
        second = await taken(a_record(2, item="e"))
        await finished(*first)
        await asyncio.sleep(2 * REST_S)
        assert stage.judge.asked == []  # the second batch is in work
        third = await taken(a_record(3, "v", kind="erase"))
        assert stage.counted() == {"overtaken": 2}  # nothing of an erased user is kept
        await finished(*second)
        await finished(*third)
        await stage.until(overtaken=2, reread=1)
        assert [(user, was_reread) for user, _, was_reread in stage.log.lists()] == [
            ("u", False),
            ("v", False),
            ("u", False),
            ("v", False),  # nothing in it: the list is gone
            ("u", True),
        ]
        assert {user for user, _ in stage.judge.asked} == {"eee tea; fff tea"}
        encoding.stop()
        pool.shutdown()


# -- the worker


class Real(Worker):
    """A worker with the product's own step."""

    program = ("-m", "streams", "worker")


PAIRED = WORDS[5:15]  # each word belongs to the one beside it


@pytest.fixture(scope="module")
def a_judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny cross-encoder that has learnt which word belongs to which."""
    folder = tmp_path_factory.mktemp("judge")
    order = np.random.default_rng(5)
    lines = []
    for at in range(400):
        i = int(order.integers(len(PAIRED)))
        j = i ^ 1 if at % 2 else int(order.integers(len(PAIRED)))
        texts = {"user_text": f"{PAIRED[i]} news", "item_text": f"{PAIRED[j]} news"}
        lines.append(json.dumps({**texts, "label": int(j == i ^ 1), "at": 1_600_000_000 + at}))
    (folder / "rows.jsonl").write_text("\n".join(lines), "utf-8")
    return folder


@pytest.fixture
def judge_folder(a_judge: Path, headrace_as: Callable[..., Done], one_thread: None) -> Path:
    """The folder of that cross-encoder, tuned once."""
    out = a_judge / "paired"
    if not out.exists():
        base = make_folder(a_judge / "base", "bert")
        settings = load(encoder=str(base), cache_dir=a_judge / "cache", dtype="float32", device="cpu", threads=1)
        learnt = ("--task", "match", "--epochs", "10", "--batch", "16", "--rate", "5e-3", "--patience", "9")
        done = headrace_as(settings, "finetune", "--rows", str(a_judge / "rows.jsonl"), "--out", str(out), *learnt)
        assert done.returncode == 0, done.stderr
    return out


def test_the_cross_encoder_computes_in_one_thread(judge_folder: Path) -> None:
    """Whatever torch may do in the thread that asks; `headrace rerank` may use them all."""

    def threads_after(asked: Any) -> int:
        torch.set_num_threads(2)
        asked.chances("tea", ["tea"])
        return torch.get_num_threads()

    settings = load(encoder="hashing", dtype="float32", device="cpu")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(threads_after, reread.judge_of(settings, judge_folder)).result() == 1
        assert pool.submit(threads_after, judge.load(judge_folder, dtype="float32", device="cpu")).result() == 2


@pytest.mark.embedded
def test_a_worker_rereads_its_lists(embedded_world: Callable[..., World], judge_folder: Path) -> None:
    """The list comes at once, and once more with what belongs to the click on top; a user who is erased has none."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    one = {"dtype": "float32", "web_port": port, "partitions": 1, "diversity": 0.0}
    world = embedded_world(rerank=judge_folder, rerank_weight=100.0, **one)
    world.workers.append(Real(world.settings, world.folder))
    worker = world.workers[-1].ready(90)
    assert "lists are read once more, the first 10 items, with paired" in worker.said()
    for word in PAIRED:
        world.send_raw(world.topics.items, word.encode(), json.dumps({"item_id": word, "title": f"{word} news"}).encode())
    world.flush()
    eventually(lambda: len(world.records(world.topics.item_vectors)), lambda count: count == len(PAIRED))
    eventually(lambda: get(f"http://127.0.0.1:{port}/metrics")[1], lambda said: f"headrace_index_items {len(PAIRED)}.0" in said)
    wanted = {f"u{n}": PAIRED[n ^ 1] for n in range(4)}
    for n, user in enumerate(wanted):
        world.send([world.event(user, type="click", item_id=PAIRED[n], text=None)])
        eventually(lambda: first_of(world), lambda firsts, n=n: len(firsts) > n and firsts.items() <= wanted.items(), 60)
    pairs = {user: lists_of(world, user) for user in wanted}
    assert max(map(len, pairs.values())) == 2  # else the ranking had them all right, and this shows nothing
    for user, own in pairs.items():
        assert first(own[-1]) == wanted[user]
        assert {each["list_id"] for each in own} == {own[0]["list_id"]}
        assert [each.get("reread") for each in own] == [None, "paired"][: len(own)]
        assert sorted(item["item_id"] for item in own[-1]["items"]) == sorted(item["item_id"] for item in own[0]["items"])
    count = sum(len(own) == 2 for own in pairs.values())
    told = f'headrace_rereads_total{{outcome="reread"}} {count}.0'  # once acknowledged, which readers do not wait for
    numbers = eventually(lambda: get(f"http://127.0.0.1:{port}/metrics")[1], lambda said: told in said)
    assert f"headrace_list_to_reread_seconds_count {count}.0" in numbers
    world.send([world.event("u0", type="click", item_id=PAIRED[0], text=None), world.event("u0", type="erase")])
    newest = eventually(lambda: of(world, "u0"), lambda own: own[-1].value is None)
    time.sleep(0.5)
    assert of(world, "u0") == newest
    assert worker.stop() == 0
    assert "Traceback" not in worker.said()


def of(world: World, user: str) -> list[Any]:
    """Return the records of a user's lists."""
    return [record for record in world.records(world.topics.recommendations) if record.key == user.encode()]


def lists_of(world: World, user: str) -> list[dict[str, Any]]:
    """Return a user's lists."""
    return [json.loads(record.value) for record in of(world, user) if record.value]


def first_of(world: World) -> dict[str, str]:
    """Return the item at the top of each user's newest list."""
    return {user: first(told) for user, told in world.lists().items()}


def first(told: dict[str, Any]) -> str:
    """Return the item at the top of a list."""
    return str(told["items"][0]["item_id"])


@pytest.mark.embedded
def test_a_folder_that_cannot_is_refused(embedded_world: Callable[..., World], judge_folder: Path, tmp_path: Path) -> None:
    """One that is no cross-encoder, and one that no label of which says wanted: the start is refused, naming the setting."""
    plain = make_folder(tmp_path / "plain", "bert")
    other = tmp_path / "other"
    other.mkdir()
    for path in judge_folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    config = (other / "config.json").read_text("utf-8")
    (other / "config.json").write_text(config.replace('"0": "0"', '"0": "no"').replace('"1": "1"', '"1": "yes"'), "utf-8")
    for folder, said in (
        (plain, f"HEADRACE_RERANK: {plain} is no cross-encoder: give a folder that `headrace finetune --task match` wrote"),
        (other, f"HEADRACE_RERANK: {other} tells no, yes apart, and one of its labels has to say that an item is wanted"),
    ):
        world = embedded_world(rerank=folder)
        world.workers.append(Real(world.settings, world.folder))
        assert world.workers[-1].process.wait(90) == 2
        assert said in world.workers[-1].said()
        assert not world.settings.state_dir.exists()


def test_a_folder_that_is_not_there_is_told_by_every_command(tmp_path: Path) -> None:
    """Settings check that there is one."""
    with pytest.raises(SettingsError, match=r"HEADRACE_RERANK is .*/no: no such folder, give one that `headrace finetune"):
        load(rerank=tmp_path / "no")
    assert (load(rerank=tmp_path).rerank_top, load(rerank=tmp_path).rerank_weight) == (10, 0.1)
