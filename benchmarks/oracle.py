"""What workers should have come to: the log of events, folded once by one thread, against what stands on the topics.

Knows no worker and no fault. Everything is read from Kafka: the events, the profiles' changelog, the lists, the dead letters
and the group's commits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
from kafka import TopicPartition

from encoders.hashing import HashingEncoder
from ranking.profile import key_of, unpack
from streams.backfill import known_items
from streams.building import build
from streams.fence import is_mark
from streams.kafka import open_consumer
from streams.messages import BadMessage, DeadLetter, RecommendationList, decode_event
from streams.personalizer import Personalizer, Sourced
from streams.reading import records
from streams.settings import Settings
from streams.topics import Topic, topics

BATCH = 500
SHOWN = 5
WRONGS = ("lost", "twice", "different", "missing", "letters", "uncommitted")


class Place(NamedTuple):
    """A record's place in the events topic."""

    partition: int
    offset: int


@dataclass
class Verdict:
    """What is wrong. lost, twice: events not in their user's profile, or once too often; different: users whose record differs
    otherwise; missing: users whose last event has no list at or after it; letters: dead letters too many or too few;
    uncommitted: events that no commit covers. events, users: how many were looked at. said: an example of each.
    """

    lost: int = 0
    twice: int = 0
    different: int = 0
    missing: int = 0
    letters: int = 0
    uncommitted: int = 0
    events: int = 0
    users: int = 0
    said: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        """Whether nothing is wrong."""
        return not any(getattr(self, name) for name in WRONGS)

    def say(self, what: str) -> None:
        """Keep an example."""
        if len(self.said) < SHOWN:
            self.said.append(what)


@dataclass
class Truth:
    """What one thread comes to. last: user -> place of the last event; refused: places of what is no event."""

    records: dict[str, bytes]
    last: dict[str, Place]
    refused: set[Place]
    events: int


def truth(settings: Settings) -> Truth:
    """Fold the whole log of events. The items have to be as they were when the events came."""
    encoder = HashingEncoder()
    personalizer = build(encoder, settings, known_items(settings, encoder))
    found = Truth({}, {}, set(), 0)
    batch: list[Sourced] = []
    for record in records(settings, topics(settings).events):
        place = Place(record.partition, record.offset)
        try:
            event = decode_event(record.value or b"", record.timestamp / 1_000.0)
        except BadMessage:
            found.refused.add(place)
            continue
        found.last[event.user_id] = place
        batch.append(Sourced(event, *place))
        if len(batch) == BATCH:
            _fold(personalizer, batch, found)
            batch = []
    _fold(personalizer, batch, found)
    return found


def _fold(personalizer: Personalizer, batch: list[Sourced], found: Truth) -> None:
    if batch:
        before = {sourced.event.user_id: found.records.get(sourced.event.user_id) for sourced in batch}
        readings = personalizer.encode([sourced.event for sourced in batch])
        found.records |= personalizer.fold(before, batch, readings).records
        found.events += len(batch)


def check(settings: Settings) -> Verdict:
    """Compare what stands on the topics with the truth."""
    wanted = truth(settings)
    verdict = Verdict(events=wanted.events, users=len(wanted.records))
    _check_profiles(settings, wanted, verdict)
    _check_lists(settings, wanted, verdict)
    _check_letters(settings, wanted, verdict)
    verdict.uncommitted = sum(uncommitted(settings).values())
    return verdict


def _check_profiles(settings: Settings, wanted: Truth, verdict: Verdict) -> None:
    found = [record for record in records(settings, topics(settings).profiles) if not is_mark(record)]
    stored = {record.key.decode(): record.value for record in found}
    encoder = HashingEncoder()
    ours = encoder.dim, key_of(encoder.id)
    for user, record in wanted.records.items():
        own = stored.pop(user, None)
        if own == record:
            continue
        more = unpack(own, *ours).events - unpack(record, *ours).events
        verdict.lost += max(0, -more)
        verdict.twice += max(0, more)
        verdict.different += more == 0
        verdict.say(
            f"user {user}: {more:+d} events against the log" if more else f"user {user}: another record of as many events"
        )
    verdict.different += len(stored)


def _check_lists(settings: Settings, wanted: Truth, verdict: Verdict) -> None:
    decoder = msgspec.json.Decoder(RecommendationList)
    newest: dict[str, int] = {}
    for record in records(settings, topics(settings).recommendations):
        if record.value:
            made = decoder.decode(record.value)
            newest[made.user_id] = max(newest.get(made.user_id, -1), int(made.list_id.rpartition("-")[2]))
    for user, place in wanted.last.items():
        if newest.get(user, -1) < place.offset:
            verdict.missing += 1
            verdict.say(f"user {user}: no list at or after events[{place.partition}]@{place.offset}")


def _check_letters(settings: Settings, wanted: Truth, verdict: Verdict) -> None:
    decoder = msgspec.json.Decoder(DeadLetter)
    written: set[Place] = set()
    for record in records(settings, topics(settings).dead_letters):
        letter = decoder.decode(record.value)
        place = Place(letter.partition, letter.offset)
        if letter.topic != topics(settings).events.name or place not in wanted.refused:
            verdict.letters += 1
            verdict.say(f"a dead letter of {letter.topic}[{letter.partition}]@{letter.offset}: {letter.reason}")
        written.add(place)
    for place in wanted.refused - written:
        verdict.letters += 1
        verdict.say(f"no dead letter of events[{place.partition}]@{place.offset}")


def uncommitted(settings: Settings) -> dict[TopicPartition, int]:
    """Return how many records of each partition of the group's topics are behind its commit."""
    named = topics(settings)
    with open_consumer(settings, group_id=settings.app_id) as consumer:
        places = [place for topic in (named.events, named.items, named.interactions) for place in _places(topic)]
        ends: dict[Any, int] = consumer.end_offsets(places)
        behind = {place: end - int(consumer.committed(place) or 0) for place, end in ends.items()}
    return {place: left for place, left in behind.items() if left}


def _places(topic: Topic) -> Iterator[TopicPartition]:
    return (TopicPartition(topic.name, number) for number in range(topic.partitions))
