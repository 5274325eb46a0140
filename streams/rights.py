"""What a worker and each command must be allowed to do on Kafka, asked of the broker before anything is touched.

Does not grant anything: docs/security.md has the commands. A right that is taken away later ends the worker that uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kafka.errors import TransactionalIdNotFoundError

from streams.connection import RightsError
from streams.kafka import ask, describe_group, may
from streams.settings import Settings
from streams.topics import NOT_ALLOWED, topics

READ, WRITE, CREATE, DESCRIBE, DESCRIBE_CONFIGS = "READ", "WRITE", "CREATE", "DESCRIBE", "DESCRIBE_CONFIGS"
# As kafka-acls.sh spells them.
SHOWN = {READ: "Read", WRITE: "Write", CREATE: "Create", DESCRIBE: "Describe", DESCRIBE_CONFIGS: "DescribeConfigs"}

Rights = Mapping[str, Iterable[str]]  # topic -> what to do with it


class Needed(NamedTuple):
    """What is done with each topic, and with the workers' group where anything is."""

    topics: Rights
    group: str | None = None


def worker_rights(settings: Settings) -> Rights:
    """Return what a worker does with each topic. It also reads its group, and writes by the names of `fence_prefix`."""
    named = topics(settings)
    only_read, only_written = (named.items.name, named.models.name), (named.recommendations.name, named.dead_letters.name)
    return {
        topic.name: [
            *([READ] if topic.name not in only_written else []),
            *([WRITE] if topic.name not in only_read else []),
            *([DESCRIBE_CONFIGS] if "compact" in topic.config["cleanup.policy"] else []),
        ]
        for topic in named
    }


def command_rights(settings: Settings) -> Mapping[str, Needed]:
    """Return what each command needs that goes beyond a producer and a reader."""
    named = topics(settings)
    events, items, letters = named.events.name, named.items.name, named.dead_letters.name
    vectors, profiles, models = named.item_vectors.name, named.profiles.name, named.models.name
    erasing: Rights = {events: [WRITE], letters: [READ, WRITE]}
    importing: Rights = {
        **{topic.name: [DESCRIBE] for topic in named},  # each is checked before the first is written to
        **{named.erasures.name: [READ], items: [READ], named.interactions.name: [WRITE]},
        **{vectors: [READ, WRITE], profiles: [READ, WRITE]},
    }
    return {
        "ask": Needed({vectors: [READ]}),
        "ask --user": Needed({events: [WRITE], named.recommendations.name: [READ]}),
        "dead-letters list": Needed({letters: [READ]}),
        "dead-letters retry": Needed({letters: [READ, WRITE], items: [READ, WRITE], events: [WRITE]}),
        "erase": Needed(erasing),
        "erase --wait": Needed(erasing, group=DESCRIBE),
        "import": Needed(importing, group=DESCRIBE),
        "items load --wait": Needed({items: [WRITE], vectors: [READ]}),
        "model list": Needed({models: [READ]}),
        "model publish": Needed({models: [READ, WRITE]}),
        "model use": Needed({models: [READ, WRITE]}),
        "profile": Needed({profiles: [READ]}),
        "report": Needed({events: [READ], named.recommendations.name: [READ]}),
        "train --from-topics": Needed({items: [READ], events: [READ], named.erasures.name: [READ]}),
        "topics --create": Needed({topic.name: [CREATE, DESCRIBE] for topic in named}),
    }


def learner_rights(settings: Settings) -> Rights:
    """Return what `headrace learn` does with each topic. It also reads its group, by the name of `learner_group`."""
    named = topics(settings)
    read = (named.events, named.recommendations, named.item_vectors, named.item_signals, named.erasures, named.profiles)
    return {
        **{topic.name: [DESCRIBE] for topic in named},
        **{topic.name: [READ] for topic in read},
        named.models.name: [READ, WRITE],
    }


def learner_group(settings: Settings) -> str:
    """Return the group whose offsets `headrace learn` reads on from."""
    return f"{settings.app_id}-learn"


def check_learner_rights(settings: Settings) -> None:
    """Raise RightsError, which names them all, when the user lacks rights that `headrace learn` needs."""
    if settings.security_protocol != "PLAINTEXT":
        _refuse(settings, _lacking(settings, Needed(learner_rights(settings))))


def fence_prefix(settings: Settings) -> str:
    """Return what the transactional ids begin with that keep earlier owners of a partition out (`streams.fence`)."""
    return f"{topics(settings).profiles.name}-"


def check_worker_rights(settings: Settings) -> None:
    """Raise RightsError, which names them all, when the user lacks rights that a worker needs.

    Of a topic that the user may neither read nor write Kafka tells nothing: then all that is needed there is named.
    """
    if settings.security_protocol == "PLAINTEXT":  # no user who could lack any
        return
    lacking = _lacking(settings, Needed(worker_rights(settings), group=READ))
    if not _may_fence(settings):
        lacking.append(f"Write transactional-id {fence_prefix(settings)} (prefixed)")
    _refuse(settings, lacking)


def check_right(settings: Settings, operation: str, topic: str) -> None:
    """Raise RightsError when the user may not do one thing with a topic."""
    if settings.security_protocol != "PLAINTEXT":
        _refuse(settings, _lacking(settings, Needed({topic: [operation]})))


def check_command_rights(settings: Settings, command: str) -> None:
    """Raise RightsError, which names them all, when the user lacks rights that a command of `command_rights` needs."""
    if settings.security_protocol != "PLAINTEXT":
        _refuse(settings, _lacking(settings, command_rights(settings)[command]))


def _lacking(settings: Settings, wanted: Needed) -> list[str]:
    found = ask(settings, lambda admin: admin.describe_topics(list(wanted.topics)))
    described = {topic["name"]: topic for topic in found}
    lacking = [
        f"{SHOWN[operation]} topic {name}"
        for name, operations in wanted.topics.items()
        for operation in operations
        if described[name]["error_code"] == NOT_ALLOWED
        or (described[name]["error_code"] == 0 and not may(described[name], operation))
    ]
    if wanted.group and not _may_with_group(settings, wanted.group):
        lacking.append(f"{SHOWN[wanted.group]} group {settings.app_id}")
    return lacking


def _may_with_group(settings: Settings, operation: str) -> bool:
    try:
        return may(describe_group(settings), operation)
    except RightsError:
        return False


def _may_fence(settings: Settings) -> bool:
    try:
        ask(settings, lambda admin: admin.describe_transactions([f"{fence_prefix(settings)}0"]))
    except TransactionalIdNotFoundError:  # nobody used it yet
        return True
    except RightsError:
        return False
    return True


def _refuse(settings: Settings, lacking: list[str]) -> None:
    if lacking:
        raise RightsError(settings, ", ".join(lacking))
