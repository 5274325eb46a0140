"""Another encoder's item vectors and profiles, made from the log while the workers of the old encoder go on serving.

Each encoder has topics of its own for vectors and profiles; items, events, interactions and signals are shared. The rebuild
encodes the catalogue into the new vectors and folds the whole log of events into the new profiles, each event at its own place
in the log, judged and folded by the objects that a worker uses (`Screen`, `Personalizer`): it writes what a worker of the new
encoder would have written. It sends neither lists nor interactions: the old workers do, and signals know no encoder.

Why nothing is lost or counted twice in the switch. When the group has no live member any more, its committed offsets stand
still, and the rebuild goes on until it has folded at least up to them. Then it signs the offsets as the new encoder's, which
Kafka takes only while the group is empty (`streams.handover`). Workers of the new encoder, refused until then, begin there:

- what lies before the offsets is in the profiles, since the rebuild has folded it;
- what lies behind them and was folded already is below the records' watermarks: it gets a list and is not counted again. Its
  interactions go out, perhaps once more: items remember the place up to which they have counted;
- what comes later is new to everybody.

A worker of the old encoder that is started too late finds the offsets signed by another and ends with nothing touched. Two
rebuilds cannot mix: each takes the fences of the new changelog (`streams.fence`), and the earlier one's next write is refused.

One that was cut off is run again: it reads what it wrote and leaves out what lies below the records' watermarks. Events that
retention has removed from the log cannot be folded any more, and imported histories have to be imported again.

Memory: the index of items, as in a worker, the texts of the catalogue while it is encoded, the ids of 20,000 users and one
batch of events. Profiles lie in a file (`Scratch`), which takes what their changelog takes when it is compacted.

    RebuildRefused(RuntimeError)   live workers use the topics that would be written, or another process took them over
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import InvalidProducerEpoch, ProducerFenced
from rich.console import Console

from encoders import Encoder
from ranking.profile import NewerRecord, RecordError
from streams import fetching, rebootstrap
from streams.backfill import AT_ONCE
from streams.batching import Outbox, Outgoing, acknowledged
from streams.building import build, load_encoder
from streams.connection import connection
from streams.fence import Fences, is_mark
from streams.forget import erasures
from streams.handover import commits, hand_over, owners
from streams.kafka import live_members
from streams.messages import decode_vector
from streams.personalize import FATAL
from streams.personalizer import Folded, Sourced
from streams.reading import records
from streams.revector import Vectors
from streams.rights import check_worker_rights
from streams.scratch import Scratch
from streams.screening import Screen
from streams.settings import Settings, named_encoder
from streams.sift import sift
from streams.terminal import bar
from streams.topics import Topic, create_topics, topics

FETCH_MS = 200
LOOK_S = 1.0  # how often the group, and how far the log goes, is looked at
WRITE_MOST = 20_000  # profiles that wait to be written: 100 MB at 384 dims


class RebuildRefused(RuntimeError):  # noqa: N818  reads as what happened
    """A rebuild that would harm what live workers write, or that was kept out."""


class Rebuilt(NamedTuple):
    """What a rebuild came to: items and profiles there now, events folded, events known before, what could not be used."""

    items: int
    events: int
    known: int
    profiles: int
    left_out: int


def rebuild(settings: Settings) -> Rebuilt:
    """Rebuild for the encoder of the settings and take the group's offsets over once the old workers have stopped.

    Raises RebuildRefused, TopicError, RightsError, BrokerUnreachable, EncoderError, NewerRecord, NewerMessage.
    """
    console = Console(stderr=True, highlight=False)
    rebootstrap.install()
    fetching.install()
    check_worker_rights(settings)
    encoder = load_encoder(settings)
    console.print(encoder.reason, markup=False)
    made = create_topics(settings)
    console.print(f"topics made: {', '.join(made) or 'none, all are there'}", markup=False)
    refuse_live(settings, encoder)
    with console.status("reading item vectors"):
        job = Rebuild(settings, encoder, console)
    try:
        return asyncio.run(job.run())
    except (ProducerFenced, InvalidProducerEpoch):
        raise RebuildRefused(
            f"another rebuild, or a worker with encoder {encoder.id}, has taken {topics(settings).profiles.name} over: "
            "let it finish; if it does not, run this again"
        ) from None
    finally:
        job.profiles.close()


def refuse_live(settings: Settings, encoder: Encoder) -> None:
    """Raise RebuildRefused when workers are live that write the very topics that the rebuild would."""
    members = live_members(settings)
    owned = owners(commits(settings))
    if not members or (owned and encoder.id not in owned and not _is_anothers(settings, encoder)):
        return
    raise RebuildRefused(
        f"{len(members)} worker(s) of group {settings.app_id} ({', '.join(members[:3])}) run with encoder "
        f"{', '.join(sorted(owned)) or 'not told yet'}, and {named_encoder(settings)} (id {encoder.id}) has the same "
        "topics: set HEADRACE_ENCODER to the new encoder, its folder under a name of its own; or stop the workers first"
    )


def _is_anothers(settings: Settings, encoder: Encoder) -> bool:
    """Tell whether the encoder's topics begin with something of other weights, under the same name."""
    named = topics(settings)
    personalizer = build(encoder, settings)
    for record in records(settings, named.profiles):
        if record.value:
            try:
                personalizer.is_counted(record.value, 0, 0)
            except RecordError:
                return True
            break
    first = next((record for record in records(settings, named.item_vectors) if record.value), None)
    return first is not None and decode_vector(first.value).encoder != encoder.id


class Rebuild:
    """One run. What does not wait for Kafka is done in threads, one at a time, so that the clients' own tasks go on."""

    def __init__(self, settings: Settings, encoder: Encoder, console: Console) -> None:
        self.settings, self.encoder_id, self.console = settings, encoder.id, console
        self.topics = topics(settings)
        self.vectors = Vectors(settings, encoder, self._send)
        self.personalizer = build(encoder, settings, self.vectors.index)
        self.screen = Screen(erasures(settings), settings.partitions)
        self.profiles = Scratch()
        self.counted: Counter[str] = Counter()
        self._items, self._events = (_places(topic) for topic in (self.topics.items, self.topics.events))
        self._unwritten: set[str] = set()
        self._witness: Sourced | None = None

    async def run(self) -> Rebuilt:
        """Do all of it."""
        async with self._connected():
            await asyncio.to_thread(self._read_stored)
            await self._encode_all()
            with bar("folding events") as advance:
                await self._catch_up(advance)
            if not await self._take_over():
                self.console.print("caught up: stop the old workers")
                with self.console.status("following the events until the old workers have stopped"):
                    await self._follow()
        counted = self.counted
        left_out = counted["left out"] + self.vectors.left_out
        return Rebuilt(len(self.vectors.index), counted["events"], counted["known"], len(self.profiles), left_out)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[None]:
        """Open the clients, take the fences, and begin to read both topics at their beginning."""
        given = connection(self.settings)
        # As workers read: uncommitted. The two have to see the same log.
        self._consumer = AIOKafkaConsumer(**given, group_id=None, enable_auto_commit=False, auto_offset_reset="earliest")
        producer = AIOKafkaProducer(**given, linger_ms=0, max_batch_size=262_144)
        fences = Fences(self.settings, self.topics.profiles.name)
        self._outbox = Outbox(lambda: producer, {self.topics.profiles.name: fences.producer})
        async with AsyncExitStack() as stack:
            for client in (self._consumer, producer):
                await client.start()
                stack.push_async_callback(client.stop)
            stack.push_async_callback(fences.stop)
            await fences.put_up(range(self.settings.partitions))
            places = [*self._items, *self._events]
            self._consumer.assign(places)
            self._firsts = await self._consumer.beginning_offsets(places)
            for place, first in self._firsts.items():
                self._consumer.seek(place, first)
            yield

    def _read_stored(self) -> None:
        """Take in the profiles that an earlier run or workers of this encoder wrote; mark for deletion what is another's."""
        found: dict[str, bytes | None] = {}
        for record in records(self.settings, self.topics.profiles):
            if is_mark(record):
                continue
            user_id = (record.key or b"").decode(errors="replace")
            is_ours = bool(record.value) and self._is_ours(record.value)
            found[user_id] = record.value if is_ours else None
            (self._unwritten.add if record.value and not is_ours else self._unwritten.discard)(user_id)
            if len(found) >= WRITE_MOST:
                self.profiles.put(found)
                found = {}
        self.profiles.put(found)

    def _is_ours(self, record: bytes) -> bool:
        try:
            self.personalizer.is_counted(record, 0, 0)
        except NewerRecord:
            raise
        except RecordError:
            return False
        return True

    # -- items

    async def _encode_all(self) -> None:
        """Encode the catalogue as it is now, and delete the vectors of what is in it no more."""
        self._consumer.pause(*self._events)
        newest: dict[bytes, Any] = {}
        ends = await self._consumer.end_offsets(self._items)
        while any([await self._consumer.position(place) < end for place, end in ends.items()]):
            newest |= {record.key or b"": record for record in await self._fetch()}
        await self.vectors.publish([], [item_id for item_id in self.vectors.ids() if item_id.encode() not in newest])
        found = list(newest.values())
        with bar("encoding items") as advance:
            for start in range(0, len(found), AT_ONCE):
                await self.vectors.take(found[start : start + AT_ONCE])
                advance(start / len(found))
        self._consumer.resume(*self._events)

    # -- events

    async def _catch_up(self, advance: Callable[[float], None]) -> None:
        """Fold until what is left of the log is one batch at most."""
        behind = self.settings.backlog_batch_size + 1
        while behind > self.settings.backlog_batch_size:
            await self._fold_on(LOOK_S)
            ends = await self._consumer.end_offsets(self._events)
            behind = sum([end - await self._consumer.position(place) for place, end in ends.items()])
            there = sum(end - self._firsts[place] for place, end in ends.items())
            advance(1.0 - behind / max(1, there))
        await self._write()

    async def _follow(self) -> None:
        is_over = False
        while not is_over:
            await self._fold_on(LOOK_S)
            await self._write()
            is_over = await self._take_over()

    async def _take_over(self) -> bool:
        """Take the group's offsets over, if it is empty and all that lies before them is folded and written."""
        if await asyncio.to_thread(live_members, self.settings):
            return False
        committed = await asyncio.to_thread(commits, self.settings)
        for place in [*self._items, *self._events]:
            if place in committed and await self._consumer.position(place) < committed[place].offset:
                return False
        return await asyncio.to_thread(hand_over, self.settings, committed, self.encoder_id)

    async def _fold_on(self, for_s: float) -> None:
        """Take what comes for so many seconds, at least one fetch."""
        until = time.monotonic() + for_s
        while True:
            found = await self._fetch()
            if items := [record for record in found if record.topic == self.topics.items.name]:
                await self.vectors.take(items)
            if events := [record for record in found if record.topic == self.topics.events.name]:
                await self._fold(events)
            if len(self._unwritten) >= WRITE_MOST:
                await self._write()
            if time.monotonic() > until:
                return

    async def _fold(self, found: Sequence[Any]) -> None:
        screened = self.screen.judge(found)
        events = await asyncio.to_thread(self._new, [sourced for sourced, _ in screened.events])

        async def step(some: Sequence[Sourced]) -> Folded:
            return await asyncio.to_thread(self._step, some)

        gone = [user for user in screened.erased if self.profiles.get(user) and self._record(user) is None]
        folded = await sift(events, step, self._witness, FATAL)
        if folded.good:
            self._witness = folded.good[-1]
        changed: dict[str, bytes | None] = {**dict.fromkeys(gone), **folded.result.records}
        self.profiles.put(changed)
        self._unwritten.update(changed)
        self.counted.update({"events": folded.result.folded, "left out": len(screened.refused) + len(folded.bad)})

    def _new(self, events: Sequence[Sourced]) -> list[Sourced]:
        """Return the events that are not in their user's profile: a run that was cut off does not encode again."""
        before = {user: self._record(user) for user in {sourced.event.user_id for sourced in events}}
        new = []
        for sourced in events:
            record = before[sourced.event.user_id]
            if record is None or not self.personalizer.is_counted(record, sourced.partition, sourced.offset):
                new.append(sourced)
        self.counted["known"] += len(events) - len(new)
        return new

    def _step(self, events: Sequence[Sourced]) -> Folded:
        before = {sourced.event.user_id: self._record(sourced.event.user_id) for sourced in events}
        return self.personalizer.fold(before, events, self.personalizer.encode([sourced.event for sourced in events]))

    def _record(self, user_id: str) -> bytes | None:
        return self.screen.living(user_id, self.profiles.get(user_id), self.personalizer)

    # -- Kafka

    async def _write(self) -> None:
        """Write the profiles that changed since the last time."""
        topic, users = self.topics.profiles.name, list(self._unwritten)
        for start in range(0, len(users), WRITE_MOST):
            keys = [(user, user.encode()) for user in users[start : start + WRITE_MOST]]
            await self._send([Outgoing(topic, self.screen.partition(key), key, self.profiles.get(user)) for user, key in keys])
        self._unwritten.clear()

    async def _send(self, messages: Sequence[Outgoing]) -> None:
        await acknowledged(await self._outbox.send(messages))

    async def _fetch(self) -> list[Any]:
        most = self.settings.backlog_batch_size
        fetched = await self._consumer.getmany(timeout_ms=FETCH_MS, max_records=most)
        return [record for found in fetched.values() for record in found]


def _places(topic: Topic) -> list[TopicPartition]:
    return [TopicPartition(topic.name, partition) for partition in range(topic.partitions)]
