"""The pipeline without Kafka or Faust: batches, holes, overlay, halving, priorities, sessions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.encode_thread import ITEMS, USERS, EncodeThread
from streams.inlet import Batch, Hole, HoleError, Inlet, OffsetGuard
from streams.pipeline import Overlay, Pipeline
from streams.sift import sift


def record(offset: int, partition: int = 0, value: bytes = b"v") -> Any:
    """Return a record."""
    return SimpleNamespace(topic="t", partition=partition, offset=offset, timestamp=0, key=b"k", value=value, headers=())


def inlet(starts: Mapping[int, int], nothing_there: bool = False) -> Inlet:
    """Return an inlet whose session 1 begins at `starts`; the broker has nothing, or something, in every hole."""

    async def explain(topic: str, hole: Hole) -> bool:
        return nothing_there

    made = Inlet("t", explain)
    made.restart(1, starts)
    return made


@given(st.sets(st.integers(0, 60)), st.integers(0, 3))
def test_the_guard_finds_exactly_the_missing_offsets(present: set[int], start: int) -> None:
    """The holes are the offsets from the start on that no record has."""
    offsets = sorted(offset for offset in present if offset >= start)
    guard = OffsetGuard()
    guard.restart({0: start})
    missing = [o for hole in guard.holes([record(o) for o in offsets]) for o in range(hole.expected, hole.found)]
    assert missing == [o for o in range(start, offsets[-1] + 1 if offsets else start) if o not in present]


def test_the_guard_knows_no_unassigned_partition() -> None:
    """A record of a partition without a start is refused."""
    guard = OffsetGuard()
    guard.restart({0: 0})
    with pytest.raises(HoleError, match="partition 1"):
        guard.holes([record(0, partition=1)])


async def test_a_hole_that_the_broker_can_fill_is_an_error() -> None:
    """Events on the broker that never came stop the pipeline; a hole that holds nothing does not."""
    lost = inlet({0: 0})
    lost.put([record(0), record(2)])
    with pytest.raises(HoleError, match="offsets 1 to 1"):
        await lost.take(10, 10)
    empty = inlet({0: 0}, nothing_there=True)
    empty.put([record(0), record(2)])
    assert [r.offset for r in (await empty.take(10, 10)).records] == [0, 2]


async def test_a_batch_is_what_waits_and_grows_in_a_backlog() -> None:
    """One record that waits is a batch; many are cut at `most`; a backlog is cut at `backlog_most`."""
    one = inlet({0: 0})
    one.put([record(0)])
    assert len((await one.take(4, 100)).records) == 1
    one.put([record(offset) for offset in range(1, 16)])
    assert len((await one.take(4, 100)).records) == 4
    one.put([record(offset) for offset in range(16, 40)])
    assert len((await one.take(4, 100)).records) == 35


async def test_what_came_before_a_seek_back_comes_once() -> None:
    """Records fetched again are left out."""
    one = inlet({0: 5})
    one.put([record(5), record(6)])
    one.put([record(5), record(6), record(7)])
    one.put([record(6)])
    assert [r.offset for r in (await one.take(10, 10)).records] == [5, 6, 7]


def test_an_inlet_is_full_by_bytes_too() -> None:
    """Few large events pause the fetch as many small ones do."""
    one = inlet({0: 0})
    one.put([record(offset, value=b"x" * 1_000_000) for offset in range(70)])
    assert one.full
    assert not one.roomy
    one.clear()
    assert one.roomy


def test_the_overlay_keeps_the_newest_unfinished_record() -> None:
    """Finishing a batch drops its records, not those that a later batch put over them."""
    overlay = Overlay()
    overlay.put(1, {"ann": b"1", "bob": b"1"})
    overlay.put(2, {"ann": b"2"})
    overlay.drop(1, ["ann", "bob"])
    assert (overlay.get("ann"), overlay.get("bob"), len(overlay)) == (b"2", None, 1)
    overlay.drop(2, ["ann"])
    assert len(overlay) == 0


@given(st.lists(st.booleans(), max_size=40))
def test_sift_finds_exactly_the_items_that_raise(poisons: list[bool]) -> None:
    """Whatever the pattern, the bad are found, the good are attempted together, in order."""
    items = list(enumerate(poisons))

    async def attempt(part: Sequence[tuple[int, bool]]) -> list[int]:
        if any(poison for _, poison in part):
            raise ValueError("poison")
        return [place for place, _ in part]

    found = asyncio.run(sift(items, attempt))
    assert found.result == [place for place, poison in items if not poison]
    assert [item for item, _ in found.bad] == [item for item in items if item[1]]


async def test_sift_blames_no_item_when_the_process_is_ill() -> None:
    """A witness that now raises, an error that is fatal, or one that only the whole raises, passes through."""

    async def always(part: Sequence[int]) -> None:
        raise OSError("no device")

    async def only_pairs(part: Sequence[int]) -> None:
        if len(part) > 1:
            raise ValueError("two")

    with pytest.raises(OSError, match="no device"):
        await sift([1, 2, 3], always, witness=0)
    with pytest.raises(OSError, match="no device"):
        await sift([1], always, fatal=(OSError,))
    with pytest.raises(ValueError, match="two"):
        await sift([1, 2], only_pairs)


async def test_users_are_encoded_before_items() -> None:
    """Jobs that wait are run by priority, and in order within one; errors come back to who asked."""
    thread = EncodeThread()
    gate, order = threading.Event(), []
    first = asyncio.ensure_future(thread.run(ITEMS, gate.wait))
    await asyncio.sleep(0)
    jobs = [asyncio.ensure_future(thread.run(*job)) for job in ((ITEMS, order.append, "i1"), (ITEMS, order.append, "i2"))]
    await asyncio.sleep(0)
    jobs += [asyncio.ensure_future(thread.run(USERS, order.append, name)) for name in ("u1", "u2")]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, *jobs)
    assert order == ["u1", "u2", "i1", "i2"]
    with pytest.raises(ZeroDivisionError):
        await thread.run(USERS, lambda: 1 / 0)
    thread.stop()


class Recorder:
    """A step that notes what happens, and lets tests hold a stage."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, list[int]]] = []
        self.hold = asyncio.Event()
        self.hold.set()

    async def ready(self) -> None:
        self.notes.append(("ready", []))

    async def prepare(self, batch: Batch) -> list[int]:
        return [r.offset for r in batch.records]

    async def apply(self, batch: Batch, prepared: list[int]) -> list[int]:
        self.notes.append(("apply", prepared))
        await self.hold.wait()
        return prepared

    async def send(self, batch: Batch, applied: list[int]) -> list[int]:
        self.notes.append(("send", applied))
        return applied

    async def finish(self, batch: Batch, sent: list[int]) -> None:
        if sent == [666]:
            raise RuntimeError("not acknowledged")

    async def beside(self) -> None:
        await asyncio.Event().wait()


async def run_pipeline(one: Inlet, step: Recorder, alive: set[int]) -> tuple[asyncio.Task[None], list[dict[int, int]]]:
    """Start a pipeline over an inlet; return its task and the acknowledgements."""
    acked: list[dict[int, int]] = []
    pipeline = Pipeline(
        one,
        step,
        alive=lambda session: session in alive,
        acknowledge=lambda topic, ends: acked.append(dict(ends)),
        most=2,
        backlog_most=2,
    )
    return asyncio.create_task(pipeline.run()), acked


async def settle(one: Inlet) -> None:
    """Let the pipeline finish what is there."""
    async with asyncio.timeout(30):
        while one.unfinished or one._waiting:
            await asyncio.sleep(0.001)


async def test_batches_are_acknowledged_in_order() -> None:
    """Each batch's ends come in the order of the offsets, after its readiness was asked for once a session."""
    one, step = inlet({0: 0}), Recorder()
    task, acked = await run_pipeline(one, step, {1})
    for offset in range(6):
        one.put([record(offset)])
    await settle(one)
    task.cancel()
    ends = [end[0] for end in acked]
    assert ends == sorted(ends)
    assert ends[-1] == 6
    assert [note for note, _ in step.notes].count("ready") == 1


async def test_a_session_that_ends_while_folding_sends_and_acknowledges_nothing() -> None:
    """What was folded for partitions that went elsewhere is dropped before it is sent."""
    one, step, alive = inlet({0: 0}), Recorder(), {1}
    step.hold.clear()
    task, acked = await run_pipeline(one, step, alive)
    one.put([record(0)])
    async with asyncio.timeout(30):
        while ("apply", [0]) not in step.notes:
            await asyncio.sleep(0.001)
    alive.clear()
    step.hold.set()
    await settle(one)
    task.cancel()
    assert ("send", [0]) not in step.notes
    assert acked == []


@pytest.mark.parametrize("stage", ["send", "finish"])
async def test_an_error_of_a_session_that_ended_drops_the_batch(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new owner's fence makes sends fail: that ends no process, acknowledges nothing, and the next session goes on."""
    one, step, alive = inlet({0: 0}), Recorder(), {1}
    usual = getattr(step, stage)

    async def fenced_off(batch: Batch, given: list[int]) -> Any:
        if batch.session == 1:
            alive.clear()
            raise RuntimeError("a newer producer has the name")
        return await usual(batch, given)

    monkeypatch.setattr(step, stage, fenced_off)
    task, acked = await run_pipeline(one, step, alive)
    one.put([record(0)])
    await settle(one)
    assert acked == []
    alive.add(2)
    one.restart(2, {0: 0})
    one.put([record(0)])
    await settle(one)
    assert not task.done()
    task.cancel()
    assert acked == [{0: 1}]


async def test_an_error_ends_the_pipeline_with_nothing_more_acknowledged() -> None:
    """A failed acknowledgement stops everything behind it."""
    one, step = inlet({0: 666}), Recorder()
    task, acked = await run_pipeline(one, step, {1})
    one.put([record(666)])
    with pytest.raises(ExceptionGroup) as raised:
        await task
    assert raised.group_contains(RuntimeError, match="not acknowledged")
    assert acked == []


async def test_partitions_are_given_up_while_a_step_is_not_ready() -> None:
    """A rebalance does not wait for a start that is still reading items: what was taken is dropped unacknowledged."""
    one, step = inlet({0: 0}), Recorder()
    never = asyncio.Event()
    step.ready = never.wait  # type: ignore[method-assign]
    task, acked = await run_pipeline(one, step, {1})
    one.put([record(0)])
    await asyncio.sleep(0.01)
    async with asyncio.timeout(30):
        await one.drained()
    task.cancel()
    assert acked == []
