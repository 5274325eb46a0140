"""Ask a question in plain words and get the items that answer it.

Of a user it is an event like any other: a worker answers with that user's next list, and it counts as interest. Of nobody it is
answered here, from the items that the workers' vectors are known of: nothing is sent, and no worker need run.

    NotAnswered(LookupError)   nothing answers, or no list came in time: says which
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from ranking.answering import REASON
from streams.backfill import known_items
from streams.building import build, load_encoder
from streams.kafka import open_consumer
from streams.messages import RecommendationList, RecommendedItem
from streams.reading import assign
from streams.rights import check_command_rights
from streams.rows import Row
from streams.sending import send_events
from streams.settings import Settings
from streams.topics import topics

_lists = msgspec.json.Decoder(RecommendationList)


class NotAnswered(LookupError):  # noqa: N818  reads as what happened
    """A question without an answer."""


def of_user(settings: Settings, user_id: str, text: str, wait_s: float) -> list[RecommendedItem]:
    """Send a user's question and return what answers it in the list that comes. Raises NotAnswered, BadMessage, TopicError."""
    check_command_rights(settings, "ask --user")
    recommendations = topics(settings).recommendations
    with open_consumer(settings) as consumer:
        (place,) = assign(consumer, recommendations, user_id)
        consumer.seek_to_end(place)
        consumer.position(place)  # seeks are lazy: without this, what comes before the first poll would be missed
        ((_, sent),) = send_events(settings, [Row(0, {"user_id": user_id, "type": "ask", "text": text}, 1.0)])
        event = sent.get(timeout=settings.connect_timeout_s)
        until = time.monotonic() + wait_s
        while time.monotonic() < until:
            for record in consumer.poll(timeout_ms=200).get(place, ()):
                if record.key == user_id.encode() and record.value:
                    found = _lists.decode(record.value)
                    if _covers(found, event.partition, event.offset):
                        return _answers(found.items, text)
    raise NotAnswered(f"no list of {user_id!r} came within {wait_s:g} s: start a worker with `headrace worker`")


def of_nobody(settings: Settings, text: str) -> list[RecommendedItem]:
    """Return what answers a question among the items whose vectors are on their topic now. Raises NotAnswered, TopicError."""
    check_command_rights(settings, "ask")
    encoder = load_encoder(settings)
    index = known_items(settings, encoder)
    if not len(index):
        raise NotAnswered("no item is known to this encoder: run `headrace items load FILE` while a worker runs")
    return _answers(build(encoder, settings, index).answer(text, time.time()), text)


def _covers(found: RecommendationList, partition: int, offset: int) -> bool:
    """Tell whether a list knows of the event at a place: its id is the place of the newest event that it knows of."""
    newest, _, last = found.list_id.partition("-")
    return newest == str(partition) and int(last) >= offset


def _answers(items: Sequence[RecommendedItem], text: str) -> list[RecommendedItem]:
    answers = [item for item in items if item.reason == REASON]
    if not answers:
        raise NotAnswered(f"nothing in the catalogue answers {text!r}: ask in other words, or with wider bounds")
    return answers


def line(item: RecommendedItem) -> str:
    """Return an answer as JSON."""
    return msgspec.json.encode(item).decode()
