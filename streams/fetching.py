"""Rest after a fetch that came back at once and empty, as the embedded broker's do.

A broker should hold a fetch until there is something or its time is up. noida-db 0.2 holds one of a single partition only:
an idle consumer of two asked it 3,000 times a second, 80 % of a core. Touches a private name of aiokafka;
`tests/test_fetching.py` runs against it.

    install()   for every aiokafka consumer of this process, Faust's among them
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

from aiokafka.consumer.fetcher import Fetcher

AT_ONCE_S = 0.005  # an empty answer that took longer was held by the broker, or by a slow way to it
REST_S = 0.005  # what a message may come later; a consumer of 16 partitions then takes 13 % of a core in place of 83 %

_without_rest = Fetcher._proc_fetch_request


def install() -> None:
    """Have consumers rest. May be called again."""
    Fetcher._proc_fetch_request = _fetch


async def _fetch(fetcher: Fetcher, assignment: Any, node_id: int, request: Any) -> bool:
    """Fetch once; tell whether there was anything."""
    began = time.monotonic()
    found = bool(await _without_rest(fetcher, assignment, node_id, request))
    if not found and time.monotonic() - began < AT_ONCE_S:
        with suppress(asyncio.CancelledError):  # as aiokafka's own does: a consumer that stops waits for what it cancelled
            await asyncio.sleep(REST_S)
    return found
