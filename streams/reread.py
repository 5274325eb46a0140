"""Read a list once more with a cross-encoder after it was published, and publish it again in the new order.

Does not know Faust, how a list is made, or which of its items may move (`streams.movable`). Best effort, beside the pipeline
and never in its way: the model has a thread to itself in which torch has one, it is asked `SLICE` items at a time, and only
while no events wait or are in work, nor were for `REST_S`: then all lists are acknowledged, too. Nothing is acknowledged for
it: what a crash loses is a better order of a list that stands as it is.

A list is never followed by an older one. What is about to be sent of a user overtakes what waits or is being read of that user,
an erasure too, and waits for what is just handed to the producer; a session that ended takes its lists with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from encoders import EncoderError
from ranking.index import ItemIndex
from streams.batching import Outgoing, acknowledged
from streams.desk import Desk
from streams.erasure import Erasures
from streams.inlet import Inlet
from streams.messages import RecommendationList, encode
from streams.movable import Asked, ask_about, in_new_order
from streams.personalizer import Personalizer
from streams.settings import PREFIX, Settings

if TYPE_CHECKING:
    from encoders.judge import Judge  # torch: not for those who read nothing once more

log = logging.getLogger("headrace.reread")
T = TypeVar("T")

SLICE = 2  # items read at once: an event that comes meanwhile has this much beside it
REST_S = 0.1  # without it each gap at 50 events/s had a slice in it that the next event met: p50 52 ms in place of 32
NICE = 10  # of the thread: at 8 events/s lists took 31 ms (p99 73) beside it, 36 (108) beside one of niceness 0, 28 (79) alone
MOST = 64  # lists that wait
REREAD, UNCHANGED, OVERTAKEN, DROPPED, FAILED = "reread", "unchanged", "overtaken", "dropped", "failed"


class Published(NamedTuple):
    """A list that was published after the event at a place of the log. record: the profile that it was made of."""

    partition: int
    offset: int
    told: RecommendationList
    record: bytes


class Request(NamedTuple):
    """A list to read once more."""

    list: Published
    session: int


def judge_of(settings: Settings, folder: Path) -> Judge:
    """Return the cross-encoder that the settings name. Raises EncoderError that names the setting."""
    from encoders import judge as judges

    try:
        judge = judges.load(folder, device=settings.device, dtype=settings.dtype, max_tokens=settings.max_tokens, threads=1)
    except EncoderError as error:
        raise EncoderError(f"{PREFIX}RERANK: {error}") from error
    log.info("lists are read once more, the first %d items, with %s: %s", settings.rerank_top, judge.name, judge.reason)
    return judge


class Rereading:
    """Lists that wait to be read once more, and the one that is being read. All calls from the event loop.

    top: items that are read; weight: of the cross-encoder beside the ranker (`ranking.reorder.both`); alive: tells whether a
    session still owns its partitions.
    """

    def __init__(
        self,
        judge: Judge,
        top: int,
        weight: float,
        personalizer: Personalizer,
        index: ItemIndex,
        desk: Desk,
        erasures: Erasures,
        inlet: Inlet,
        alive: Callable[[int], bool],
    ) -> None:
        self._judge, self._top, self._weight = judge, top, weight
        self._personalizer, self._index, self._desk, self._erasures = personalizer, index, desk, erasures
        self._inlet, self._alive = inlet, alive
        self._waiting: OrderedDict[str, Request] = OrderedDict()  # by user, the newest last
        self._some = asyncio.Event()
        self._reading: Request | None = None
        self._handing_over = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "reread", initializer=_stand_back)

    async def overtake(self, user_ids: Collection[str]) -> None:
        """Give up the lists of users of whom something newer is to be sent; return when none of theirs can come behind it."""
        for user_id in user_ids:
            if self._waiting.pop(user_id, None) is not None:
                self._count(OVERTAKEN)
        if self._reading is not None and self._reading.list.told.user_id in user_ids:
            self._reading = None
            async with self._handing_over:
                pass

    def offer(self, session: int, lists: Iterable[Published]) -> None:
        """Take in lists that were sent; the oldest make room."""
        self._waiting |= {each.told.user_id: Request(each, session) for each in lists}
        while len(self._waiting) > MOST:
            self._waiting.popitem(last=False)
            self._count(DROPPED)
        self._some.set()

    async def run(self) -> None:
        """Read what waits, the newest first, until cancelled: whoever has waited longest is the likeliest to have moved on."""
        while True:
            await self._some.wait()
            await self._inlet.calm(REST_S)
            if not self._waiting:
                self._some.clear()
                continue
            _, self._reading = self._waiting.popitem()
            self._count(await self._outcome(self._reading))
            self._reading = None

    async def _outcome(self, request: Request) -> str:
        try:
            return await self._reread(request)
        except MemoryError:
            raise
        except Exception as error:  # the list stands as it is
            log.warning("a list could not be read once more: %r", error)
            return FAILED

    async def _reread(self, request: Request) -> str:
        asked = await self._run(self._ask, request.list)
        if asked is None:
            return UNCHANGED
        chances = await self._chances(request, asked)
        if chances is None:
            return OVERTAKEN
        told = await self._run(self._reordered, request.list.told, asked, chances)
        return UNCHANGED if told is None else await self._publish(request, told)

    async def _chances(self, request: Request, asked: Asked) -> list[float] | None:
        """Return the chances of the items, None where the list was overtaken meanwhile."""
        chances: list[float] = []
        judging_s = 0.0
        for start in range(0, len(asked.items), SLICE):
            await self._inlet.calm(REST_S)
            if not self._stands(request):
                return None
            own, took_s = await self._run(self._timed, asked.user, asked.items[start : start + SLICE])
            chances += own
            judging_s += took_s
        self._desk.metrics.judging.observe(judging_s)
        return chances

    async def _publish(self, request: Request, told: RecommendationList) -> str:
        own = request.list
        async with self._handing_over:
            if not self._stands(request):
                return OVERTAKEN
            topic = self._desk.topics.recommendations.name
            message = Outgoing(topic, own.partition, told.user_id.encode(), encode(told))
            acks = await self._desk.outbox.send([message])
        await acknowledged(acks)
        self._desk.metrics.reread.observe(max(0.0, time.time() - own.told.published_at))
        return REREAD

    def _stands(self, request: Request) -> bool:
        """Tell whether a list is still the newest of its user, who was not erased, and its partition ours."""
        told, partition, offset = request.list.told, request.list.partition, request.list.offset
        is_erased = self._erasures.covers(told.user_id, told.event_at, partition, offset)
        return self._reading is request and not is_erased and self._alive(request.session)

    def _count(self, outcome: str) -> None:
        self._desk.metrics.rereads.labels(outcome).inc()

    async def _run(self, job: Callable[..., T], *given: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, job, *given)

    # -- in the thread

    def _ask(self, published: Published) -> Asked | None:
        """Return what to ask about a list; None where nothing is known of the user, or too few of its items may move."""
        told = published.told
        (profile,) = self._personalizer.profiles({told.user_id: published.record})
        return ask_about(told.items, profile, self._index, self._top)

    def _timed(self, user: str, items: Sequence[str]) -> tuple[list[float], float]:
        began = time.perf_counter()
        return self._judge.chances(user, items).tolist(), time.perf_counter() - began

    def _reordered(self, told: RecommendationList, asked: Asked, chances: Sequence[float]) -> RecommendationList | None:
        """Return a list with its items in the new order, None where that is the old one."""
        at = time.time()
        items = in_new_order(told.items, asked, chances, self._weight, self._personalizer.maker_of(told.user_id), at)
        return None if items is None else msgspec.structs.replace(told, items=items, published_at=at, reread=self._judge.name)


def _stand_back() -> None:
    """Let all other threads go before this one, where the system knows the niceness of a thread."""
    if sys.platform == "linux":
        os.nice(NICE)
