"""Put the example catalogue and what other people did on Kafka, as the service `demo` of docker-compose.yml.

Waits in between until workers have made the items' vectors: an event about an unknown item teaches a profile little.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import msgspec

import examples
from streams import settings as all_settings
from streams.kafka import wait_for_broker
from streams.messages import Event, Item
from streams.rows import Row
from streams.sending import send_events, send_items
from streams.terminal import bar
from streams.watch import titles_of

QUIET_S = 3_600.0  # the last event of the history is an hour old
VECTORS_S = 300.0  # 481 items take 2-10 s


def main() -> int:
    """Load both; return the exit code."""
    settings = all_settings.load()
    wait_for_broker(settings)
    items, events = examples.load_catalogue(), examples.load_history(ending_at=time.time() - QUIET_S)
    sent = sum(1 for _ in send_items(settings, _rows(items)))
    print(f"{sent} items sent", flush=True)
    give_up = time.monotonic() + VECTORS_S
    with bar("vectors of items") as advance:
        while missing := {item.item_id for item in items} - titles_of(settings, None).keys():
            if time.monotonic() > give_up:
                print(f"{len(missing)} items have no vector after {VECTORS_S:.0f} s: is a worker running?", file=sys.stderr)
                return 2
            advance(1.0 - len(missing) / len(items))
            time.sleep(0.5)
    sent = sum(1 for _ in send_events(settings, _rows(events)))
    print(f"{sent} events sent")
    return 0


def _rows(messages: Sequence[Item] | Sequence[Event]) -> list[Row]:
    return [
        Row(number, {name: value for name, value in msgspec.to_builtins(message).items() if value is not None}, 0.0)
        for number, message in enumerate(messages, 1)
    ]


if __name__ == "__main__":
    sys.exit(main())
