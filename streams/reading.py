"""Read what a topic holds now: from its beginning to its present end, or the newest record of one key.

Does not join a group, commit, or know what records mean. What is written while it reads is left for the next call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from streams.kafka import open_consumer
from streams.rights import READ, check_right
from streams.settings import Settings
from streams.topics import Topic, TopicError, partition_of

FIRST_WINDOW = 2_048  # records that `newest` looks at first; each window is four times the last


def records(
    settings: Settings,
    topic: Topic,
    partition: int | None = None,
    after: Mapping[int, int] | None = None,
    since: float = 0.0,
) -> Iterator[Any]:
    """Yield the kafka-python records of a topic (of one partition), each partition in order, up to its end at the call.

    after: partition -> the offset to begin at, where that is not the beginning. since: Unix seconds; what comes before the
    first record of that time or later, by the records' own time, is not read. Raises TopicError when the topic is missing,
    RightsError, BrokerUnreachable.
    """
    check_right(settings, READ, topic.name)
    with open_consumer(settings, isolation_level="read_committed") as consumer:
        wanted = [place for place in assign(consumer, topic) if partition in (None, place.partition)]
        ends = consumer.end_offsets(wanted)
        for place in wanted:
            start = max(_beginning(consumer, place), (after or {}).get(place.partition, 0), _first(consumer, place, since))
            yield from _between(consumer, place, start, ends[place])


def newest(settings: Settings, topic: Topic, key: str) -> Any | None:
    """Return the newest record of a key, None where there is none. Reads backwards, in windows that grow."""
    check_right(settings, READ, topic.name)
    wanted = key.encode()
    with open_consumer(settings, isolation_level="read_committed") as consumer:
        (partition,) = assign(consumer, topic, key)
        first, end = _beginning(consumer, partition), consumer.end_offsets([partition])[partition]
        window = FIRST_WINDOW
        while end > first:
            start = max(first, end - window)
            same = [record for record in _between(consumer, partition, start, end) if record.key == wanted]
            if same:
                return same[-1]
            end, window = start, window * 4
    return None


def assign(consumer: KafkaConsumer, topic: Topic, key: str | None = None) -> list[TopicPartition]:
    """Assign a topic's partitions, or only the one of `key`, to a consumer and return them. Raises TopicError."""
    present = consumer.partitions_for_topic(topic.name)
    if not present:
        raise TopicError(f"topic {topic.name} is missing: run `headrace topics --create`")
    numbers = sorted(present) if key is None else [partition_of(key.encode(), len(present))]
    assigned = [TopicPartition(topic.name, number) for number in numbers]
    consumer.assign(assigned)
    return assigned


def _beginning(consumer: KafkaConsumer, partition: TopicPartition) -> int:
    return int(consumer.beginning_offsets([partition])[partition])


def _first(consumer: KafkaConsumer, partition: TopicPartition, since: float) -> int:
    """Return the offset of the first record of a time or later; the end where there is none."""
    if since <= 0:
        return 0
    found = consumer.offsets_for_times({partition: int(since * 1000)})[partition]
    return int(consumer.end_offsets([partition])[partition] if found is None else found.offset)


def _between(consumer: KafkaConsumer, partition: TopicPartition, start: int, end: int) -> Iterator[Any]:
    """Yield the records with start <= offset < end. The others stay paused, so that no byte of them is fetched."""
    if start >= end:
        return
    consumer.pause(*[other for other in consumer.assignment() if other != partition])
    consumer.resume(partition)
    consumer.seek(partition, start)
    while consumer.position(partition) < end:  # the position also passes what compaction or a transaction left out
        for batch in consumer.poll(timeout_ms=500).values():
            for record in batch:
                if record.offset < end:
                    yield record


@contextmanager
def arrivals(settings: Settings, topic: Topic) -> Iterator[Callable[[set[bytes], Callable[[float], None]], None]]:
    """Yield a function that waits until each of some keys has come on a topic since the block began, and tells the share."""
    check_right(settings, READ, topic.name)
    with open_consumer(settings) as consumer:
        places = assign(consumer, topic)
        consumer.seek_to_end(*places)
        for place in places:
            consumer.position(place)  # seeks are lazy: without this, what comes before the first poll would be missed

        def wait(keys: set[bytes], progress: Callable[[float], None]) -> None:
            missing = set(keys)
            while missing:
                for batch in consumer.poll(timeout_ms=200).values():
                    missing -= {record.key for record in batch}
                progress(1.0 - len(missing) / len(keys))

        yield wait
