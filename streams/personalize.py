"""The personalize agent: events to profiles and lists.

Does not know Faust. The heavy part is a value (`Personalizer`) and runs in threads; this module is the clock and the wiring
around it. What cannot be processed becomes a dead letter, and the rest of its batch goes on.

An erase event deletes its user's profile and list and leaves an erasure, known before the events behind it are folded: those
from before it are left out, and a profile from before it (found again after a crash, or in the files of a partition that came
back) counts as deleted. A profile that holds an event from behind the erasure is another one, and a replay leaves it alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

from ranking.profile import RecordError
from streams.batching import Outgoing, acknowledged
from streams.desk import Desk, Refused, reason_of
from streams.encode_thread import USERS, EncodeThread
from streams.erasure import Erasures, key_of
from streams.inlet import Batch, Record
from streams.messages import ERASE, Erasure, Interaction, RecommendationList, encode
from streams.personalizer import Folded, Personalizer, Sourced
from streams.pipeline import Overlay
from streams.readings import Readings
from streams.reread import Published, Rereading
from streams.screening import Screen, Screened
from streams.sift import sift
from streams.signals import parcels

log = logging.getLogger("headrace.agents")

SCRUB_S = 2.0
FATAL = (MemoryError, RecordError)  # no event's fault
_NO_RECORD: Any = None  # a witness is encoded and folded, and nothing asks for its record


class Store(Protocol):
    """Profiles by partition and user."""

    changelog: str

    def get(self, partition: int, user_id: str) -> bytes | None:
        """Return a user's record."""

    def write(self, partition: int, records: Mapping[str, bytes], changelog_offset: int) -> None:
        """Write records (an empty one deletes) and the offset of the last of them in the changelog, all or none."""

    def purge(self, partition: int, user_ids: Collection[str], through: int) -> None:
        """Take what was deleted or replaced of these users out of every file. through: offset of their newest erasure."""

    def assigned(self, newest: Mapping[int, int]) -> None:
        """Note which partitions came with files from before an erasure. newest: partition -> its offset."""

    def scrub(self) -> None:
        """Take what was deleted out of the files of those partitions."""

    def drop_copies(self, newest: Mapping[int, int]) -> None:
        """Delete the files of partitions that are no longer ours and had an erasure since."""


class Read(NamedTuple):
    """A prepared batch: events with what their texts say, and whom to erase."""

    events: list[tuple[Sourced, Record]]
    erased: dict[str, Erasure]
    readings: Readings
    outgoing: list[Outgoing]


class Stepped(NamedTuple):
    """What a batch came to: the events that were processed, who was erased, new records, all messages, and the lists in them.

    A record is empty where the profile was deleted.
    """

    events: Sequence[tuple[Sourced, Record]]
    erased: Mapping[str, Erasure]
    folded: Folded
    messages: list[Outgoing]
    lists: Sequence[Published]


class Sent(NamedTuple):
    """A sent batch that waits for its acknowledgements. records: partition -> user -> profile."""

    ticket: int
    records: dict[int, dict[str, bytes]]
    stepped: Stepped
    acks: Sequence[Any]


class Personalize:
    """Events to profiles and lists. applying: one thread, that of everything that folds and ranks.

    rereading: of lists that were published, where the settings ask for it.
    """

    def __init__(
        self,
        desk: Desk,
        personalizer: Personalizer,
        store: Store,
        encoding: EncodeThread,
        erasures: Erasures,
        ready: Callable[[], Awaitable[None]],
        partitions: int,
        applying: Executor,
        rereading: Rereading | None = None,
    ) -> None:
        self.desk, self.personalizer, self.store, self.encoding = desk, personalizer, store, encoding
        self.erasures, self.screen = erasures, Screen(erasures, partitions)
        self._ready = ready
        self._overlay = Overlay()
        self._session = 0
        self._ticket = 0
        self._is_assigned = False  # once it was
        self._witness: Sourced | None = None
        self._applying = applying
        self._rereading = rereading
        self._writing = ThreadPoolExecutor(1, "write")

    async def ready(self) -> None:
        """Wait until the items that were there at the start are in the index, and all erasures known."""
        await self._ready()
        self.store.assigned(self.erasures.newest())
        self._is_assigned = True

    async def beside(self) -> None:
        """Clear up after erasures, and read lists once more where that is asked for."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._scrub())
            if self._rereading is not None:
                group.create_task(self._rereading.run())

    async def _scrub(self) -> None:
        """Clear erased users out of files that this worker did not clear when they were erased."""
        while True:
            await asyncio.sleep(SCRUB_S)
            if self._is_assigned:
                self.store.drop_copies(self.erasures.newest())
                await asyncio.to_thread(self.store.scrub)

    async def prepare(self, batch: Batch) -> Read:
        """Decode, and encode in the encode thread."""
        began = time.perf_counter()
        self.desk.metrics.batch.observe(len(batch.records))
        screened, readings = await self.encoding.run(USERS, self._screen_and_read, batch.records)
        events, refused = screened.events, list(screened.refused)
        if readings is None:
            found = await sift(events, self._read, self._known(), FATAL)
            events, readings = found.good, found.result
            refused += [Refused(record, "encoder", reason_of("encoded", error)) for (_, record), error in found.bad]
        for _ in range(readings.cut):
            self.desk.metrics.texts_cut.labels(self.desk.topics.events.name).inc()
        self.desk.metrics.stage.labels("encode").observe(time.perf_counter() - began)
        return Read(events, screened.erased, readings, screened.resent + self.desk.dead_letters(refused))

    async def apply(self, batch: Batch, prepared: Read) -> Stepped:
        """Fold and rank in the apply thread."""
        if batch.session != self._session:
            self._overlay.clear()
            self._session = batch.session
        began = time.perf_counter()
        loop = asyncio.get_running_loop()
        try:
            given = (prepared.events, prepared.readings, prepared.erased)
            stepped = await loop.run_in_executor(self._applying, self._step, *given)
        except FATAL:
            raise
        except Exception:  # which event it was is found by halving
            attempt = partial(self._read_and_step, erased=prepared.erased)
            found = await sift(prepared.events, attempt, self._known(), FATAL)
            refused = [Refused(record, "fold", reason_of("folded", error)) for (_, record), error in found.bad]
            stepped = found.result._replace(messages=found.result.messages + self.desk.dead_letters(refused))
        self.desk.metrics.stage.labels("apply").observe(time.perf_counter() - began)
        return stepped._replace(messages=stepped.messages + prepared.outgoing)

    async def send(self, batch: Batch, applied: Stepped) -> Sent:
        """Send changelog, lists, interactions, dead letters and events sent on."""
        if self._rereading is not None:
            await self._rereading.overtake([*applied.erased, *[each.told.user_id for each in applied.lists]])
        self._ticket += 1
        self._overlay.put(self._ticket, applied.folded.records)
        records = _by_partition(applied)
        changelog = [
            Outgoing(self.store.changelog, partition, user_id.encode(), record or None)
            for partition, own in records.items()
            for user_id, record in own.items()
        ]
        acks = await self.desk.outbox.send(changelog + applied.messages)
        if self._rereading is not None:
            self._rereading.offer(batch.session, applied.lists)
        return Sent(self._ticket, records, applied, acks)

    async def finish(self, batch: Batch, sent: Sent) -> None:
        """Wait for all acknowledgements, then write the profiles."""
        began = time.perf_counter()
        ends = await acknowledged(sent.acks)
        self._count(sent.stepped)
        loop = asyncio.get_running_loop()
        for partition, records in sent.records.items():
            end = ends[self.store.changelog, partition]
            await loop.run_in_executor(self._writing, self.store.write, partition, records, end)
            self._overlay.drop(sent.ticket, records)
        for partition, users in _erased_by_partition(sent.stepped).items():  # in a replay too: a crash may have come before it
            through = max(sent.stepped.erased[user].offset for user in users)
            await loop.run_in_executor(self._writing, self.store.purge, partition, users, through)
        self.desk.metrics.stage.labels("finish").observe(time.perf_counter() - began)

    def _screen_and_read(self, records: Sequence[Record]) -> tuple[Screened, Readings | None]:
        screened = self._screen(records)
        try:
            return screened, self.personalizer.encode([sourced.event for sourced, _ in screened.events])
        except FATAL:
            raise
        except Exception:  # which event it was is found by halving
            return screened, None

    def _screen(self, records: Sequence[Record]) -> Screened:
        screened = self.screen.judge(records)
        self.desk.metrics.misrouted.inc(len(screened.resent))
        self.desk.metrics.erased.inc(screened.left_out)
        return screened

    async def _read(self, events: Sequence[tuple[Sourced, Record]]) -> Readings:
        return await self.encoding.run(USERS, self.personalizer.encode, [sourced.event for sourced, _ in events])

    async def _read_and_step(self, events: Sequence[tuple[Sourced, Record]], erased: Mapping[str, Erasure]) -> Stepped:
        readings = await self._read(events)
        return await asyncio.get_running_loop().run_in_executor(self._applying, self._step, events, readings, erased)

    def _step(self, events: Sequence[tuple[Sourced, Record]], readings: Readings, erased: Mapping[str, Erasure]) -> Stepped:
        """Erase, fold and rank; runs in the apply thread."""
        batch = [sourced for sourced, _ in events]
        places = {sourced.event.user_id: sourced.partition for sourced in batch}
        before = {user: self._record(partition, user) for user, partition in places.items()}
        gone = [user for user, erasure in erased.items() if self._record(erasure.partition, user) is None]
        folded = self.personalizer.fold(before, batch, readings)
        folded = replace(folded, records={**dict.fromkeys(gone, b""), **folded.records}) if gone else folded
        now = {user: folded.records.get(user) or record for user, record in before.items()}
        at = time.time()
        asked = self.personalizer.asked(batch, readings)
        lists = self.personalizer.recommend({user: record for user, record in now.items() if record}, at, asked)
        published = self._published(batch, lists, now, at)
        topic = self.desk.topics.recommendations.name
        told = [Outgoing(topic, each.partition, each.told.user_id.encode(), encode(each.told)) for each in published]
        messages = [*self._erasure_messages(erased, gone), *told, *self._interactions(folded.interactions)]
        return Stepped(events, erased, folded, messages, published)

    def _record(self, partition: int, user_id: str) -> bytes | None:
        """Return a user's record, None where there is none or it is from before an erasure."""
        unfinished = self._overlay.get(user_id)
        record = self.store.get(partition, user_id) if unfinished is None else unfinished
        return self.screen.living(user_id, record, self.personalizer)

    def _erasure_messages(self, erased: Mapping[str, Erasure], gone: Sequence[str]) -> list[Outgoing]:
        topics = self.desk.topics
        told = [
            Outgoing(topics.erasures.name, erasure.partition, key_of(user).encode(), encode(erasure))
            for user, erasure in erased.items()
        ]
        return told + [Outgoing(topics.recommendations.name, erased[user].partition, user.encode(), None) for user in gone]

    def _published(
        self, batch: Sequence[Sourced], lists: Mapping[str, Any], records: Mapping[str, bytes | None], at: float
    ) -> list[Published]:
        newest: dict[str, Sourced] = {}
        covers: dict[str, int] = {}
        for sourced in batch:
            newest[sourced.event.user_id] = sourced
            covers[sourced.event.user_id] = covers.get(sourced.event.user_id, 0) + 1
        published = []
        for user, items in lists.items():
            event, partition, offset = newest[user]
            model, variant = self.personalizer.made_by(user)
            message = RecommendationList(
                list_id=f"{partition}-{offset}",
                user_id=user,
                items=items,
                event_id=event.event_id,
                event_at=float(event.at),
                published_at=at,
                model=model,
                covers=covers[user],
                variant=variant,
            )
            published.append(Published(partition, offset, message, records[user] or b""))
        return published

    def _interactions(self, interactions: Sequence[Interaction]) -> list[Outgoing]:
        topic = self.desk.topics.interactions.name
        return [Outgoing(topic, place, None, value) for place, value in parcels(interactions, self.screen.partition)]

    def _known(self) -> tuple[Sourced, Record] | None:
        """Return an event that went through before: the witness that the process itself is well."""
        return None if self._witness is None else (self._witness, _NO_RECORD)

    def _count(self, stepped: Stepped) -> None:
        if stepped.events:
            self._witness = stepped.events[-1][0]
        if stepped.erased:
            self.screen.partition.cache_clear()  # it holds ids
            if self._witness is not None and self._witness.event.user_id in stepped.erased:
                self._witness = None
            self.desk.metrics.events.labels(ERASE).inc(len(stepped.erased))
            log.info("users erased: %d", len(stepped.erased))
        metrics, now = self.desk.metrics, time.time()
        metrics.lists.inc(len(stepped.lists))
        metrics.replayed.inc(stepped.folded.replayed)
        for kind, count in Counter(sourced.event.type for sourced, _ in stepped.events).items():
            metrics.events.labels(kind).inc(count)
        for _, record in stepped.events:
            metrics.latency.observe(max(0.0, now - record.timestamp / 1000.0))


def _erased_by_partition(stepped: Stepped) -> dict[int, list[str]]:
    users: dict[int, list[str]] = {}
    for user_id, erasure in stepped.erased.items():
        users.setdefault(erasure.partition, []).append(user_id)
    return users


def _by_partition(stepped: Stepped) -> dict[int, dict[str, bytes]]:
    places = {sourced.event.user_id: sourced.partition for sourced, _ in stepped.events}
    places |= {user_id: erasure.partition for user_id, erasure in stepped.erased.items()}
    parts: dict[int, dict[str, bytes]] = {}
    for user_id, record in stepped.folded.records.items():
        parts.setdefault(places[user_id], {})[user_id] = record
    return parts
