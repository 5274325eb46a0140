"""Publish, choose and list models: what the commands do with the topic.

Does not know how a model is trained or swapped in. Each call reads what the topic holds first.

    ModelError(ValueError)   there is no such model on the topic: says which there are
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ranking.bundle import Bundle
from streams import experiments, models
from streams.kafka import open_producer
from streams.messages import ModelInUse, encode
from streams.models import CURRENT, ZERO_SHOT, Change, Shelf
from streams.reading import records
from streams.rights import check_command_rights
from streams.settings import Settings
from streams.topics import check_topics, topics

SEND_S = 60.0


class ModelError(ValueError):
    """There is no such model."""


def on_topic(settings: Settings) -> Shelf:
    """Return what the topic holds, without the parts. Raises TopicError, RightsError, BrokerUnreachable, NewerMessage."""
    shelf = Shelf()
    for record in records(settings, topics(settings).models):
        shelf.take((record.key or b"").decode(errors="replace"), record.value)
    return shelf


def publish(settings: Settings, bundle: Bundle, progress: Callable[[float], None] = lambda share: None) -> list[str]:
    """Put a bundle on the topic, and take old versions off it; return those. It is not used yet.

    A version that is there already is written once more, which repairs it. Those that an experiment
    names stay. Raises TopicError, RightsError, BrokerUnreachable.
    """
    check_command_rights(settings, "model publish")
    check_topics(settings, [topics(settings).models])
    _send(settings, list(models.messages_of(bundle, time.time())), progress)
    shelf = on_topic(settings)
    experiment = experiments.of(settings)
    gone = shelf.superfluous(experiment.models if experiment is not None else ())
    _send(settings, list(models.deletions(shelf.versions, gone)))
    return gone


def use(settings: Settings, version: str) -> str:
    """Have workers rank with a version, or `zero-shot`; return the one before. Raises ModelError, TopicError, RightsError."""
    check_command_rights(settings, "model use")
    check_topics(settings, [topics(settings).models])
    shelf = on_topic(settings)
    if version != ZERO_SHOT and version not in shelf.versions:
        there = ", ".join([*shelf.versions, ZERO_SHOT])
        raise ModelError(f"model {version!r} is not on the topic, {there} are: publish it with `headrace model publish`")
    before = shelf.current
    if version == before and shelf.in_use is not None:
        before = shelf.in_use.before  # asked for twice: the way back stays
    _send(settings, [(CURRENT, ModelInUse(version=version, before=before, at=time.time()))])
    return before


def _send(settings: Settings, changes: Sequence[Change], progress: Callable[[float], None] = lambda share: None) -> None:
    """Write one after the other: the message of a version must not come before one of its parts."""
    topic = topics(settings).models.name
    with open_producer(settings) as producer:
        for number, (key, message) in enumerate(changes, 1):
            value = encode(message) if message is not None else None
            producer.send(topic, key=key.encode(), value=value, partition=0).get(timeout=SEND_S)
            progress(number / len(changes))
