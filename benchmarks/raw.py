"""What a drain is compared with, each as a process of its own: the encoder alone in a loop, and stock Faust that does nothing.

`python -m benchmarks.raw encoder` loads the encoder as the worker does and encodes the same texts, in batches as large as the
worker's in a backlog; nothing else runs meanwhile. `... faust` reads the same click events with a stock Faust app:
`async for event in stream.noack().events()`, raw bytes, no acknowledgement, no decoding, nothing done. (With an acknowledgement
per event it would be slower, and the comparison easier.) It leaves the first tenth out, as the drains do; the encoder is warm.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

from benchmarks import figures, texts
from streams.settings import Settings, load


def encoder_loop(settings: Settings, count: int, words: int, threads: str) -> dict[str, Any]:
    """Return texts a second, on all cores or on the worker's own number of threads."""
    from streams.building import load_encoder

    if threads == "all":
        settings = settings.model_copy(update={"threads": os.cpu_count()})
    encoder = load_encoder(settings)
    made = texts.words(words)
    own = [made[number % words].text for number in range(count)]
    size = settings.backlog_batch_size
    for start in range(0, 4 * size, size):  # TorchScript compiles at the first calls
        encoder.encode(own[start : start + size])
    began = time.perf_counter()
    for start in range(0, count, size):
        encoder.encode(own[start : start + size])
    return {"rate": count / (time.perf_counter() - began), "reason": encoder.reason}


def faust_loop(settings: Settings, group: str, folder: str, starts: dict[int, int], count: int) -> None:
    """Print events a second, and end the process. starts: partition -> offset of its first click."""
    import faust

    from streams.connection import faust_connection
    from streams.topics import topics

    topic = topics(settings).events
    _begin_at(settings, group, topic.name, starts)
    app = faust.App(
        group,
        **faust_connection(settings),
        datadir=folder,
        store="memory://",
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        consumer_auto_offset_reset="earliest",
    )
    moments = [0.0] * count

    @app.agent(app.topic(topic.name, key_serializer="raw", value_serializer="raw"))  # type: ignore[untyped-decorator]
    async def read(stream: Any) -> None:
        number = 0
        async for _ in stream.noack().events():
            moments[number] = time.perf_counter()
            number += 1
            if number == count:
                sys.stdout.write("\n" + json.dumps({"rate": figures.steady(moments, [1] * count)}) + "\n")
                sys.stdout.flush()
                os._exit(0)  # a stop takes seconds and changes no figure

    worker = faust.Worker(app, loglevel="WARNING", quiet=True, redirect_stdouts=False)
    worker.spinner = None
    worker.execute_from_commandline()


def _begin_at(settings: Settings, group: str, topic: str, starts: dict[int, int]) -> None:
    """Commit offsets for a new group, so that Faust begins to read there."""
    from kafka import TopicPartition
    from kafka.structs import OffsetAndMetadata

    from streams.kafka import open_consumer

    with open_consumer(settings, group_id=group) as consumer:
        places = {TopicPartition(topic, number): OffsetAndMetadata(offset, "", -1) for number, offset in starts.items()}
        consumer.assign(list(places))
        consumer.commit(places)


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("encoder", "faust"))
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--words", type=int, default=0)
    parser.add_argument("--threads", choices=("all", "own"), default="own")
    parser.add_argument("--group", default="")
    parser.add_argument("--folder", default="")
    parser.add_argument("--starts", type=json.loads, default="{}")
    given = parser.parse_args()
    settings = load()
    if given.what == "encoder":
        print(json.dumps(encoder_loop(settings, given.count, given.words, given.threads)))
    else:
        starts = {int(partition): offset for partition, offset in given.starts.items()}
        faust_loop(settings, given.group, given.folder, starts, given.count)


if __name__ == "__main__":
    main()
