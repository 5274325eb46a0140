"""One thread for the model, for which users' events go before items. Knows nothing of what it runs."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

R = TypeVar("R")
USERS, ITEMS = 0, 1  # priorities in the encode thread
REST = 2.0


class EncodeThread:
    """One thread for the model: users' batches go before slices of items, in order within each.

    While users' batches come, a slice of items is followed by a rest REST times as long: what follows the encoding of an event
    needs the processor too.
    """

    def __init__(self) -> None:
        self._users_came = False  # since the last slice of items began
        self._rest_until = 0.0  # by time.monotonic
        self._jobs: list[tuple[int, int, Future[Any], Callable[[], Any]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._work, name="encode", daemon=True)
        self._thread.start()

    async def run(self, priority: int, job: Callable[..., R], *given: Any) -> R:
        """Return what `job(*given)` returns, run in the thread when nothing of a lower number waits."""
        future: Future[R] = Future()
        with self._changed:
            heapq.heappush(self._jobs, (priority, next(self._order), future, lambda: job(*given)))
            self._users_came |= priority == USERS
            self._changed.notify()
        return await asyncio.wrap_future(future)

    def stop(self) -> None:
        """End the thread after the job it is at."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._open and (rest_s := self._rest_s()) != 0.0:
                    self._changed.wait(rest_s)
                if not self._open:
                    return
                priority, _, future, job = heapq.heappop(self._jobs)
                if priority == ITEMS:
                    self._users_came = False
            if future.set_running_or_notify_cancel():
                began = time.monotonic()
                _run(job, future)
                if priority == ITEMS and self._users_came:
                    now = time.monotonic()
                    self._rest_until = now + REST * (now - began)

    def _rest_s(self) -> float | None:
        """Return the seconds until the next job may begin; None where there is none."""
        if not self._jobs:
            return None
        return 0.0 if self._jobs[0][0] == USERS else max(0.0, self._rest_until - time.monotonic())


def _run(job: Callable[[], R], future: Future[R]) -> None:
    try:
        future.set_result(job())
    except BaseException as error:  # it belongs to the waiter, whatever it is
        future.set_exception(error)
