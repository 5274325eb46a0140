"""What a worker, and who sends or reads, must be allowed to do on Kafka, asked of the broker before anything is touched.

Does not grant anything: docs/security.md has the commands. A right that is taken away later ends the worker that uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kafka.errors import TransactionalIdNotFoundError

from streams.kafka import NOT_ALLOWED, RightsError, ask, describe_group, may, topics
from streams.settings import Settings

READ, WRITE, DESCRIBE_CONFIGS = "READ", "WRITE", "DESCRIBE_CONFIGS"
SHOWN = {READ: "Read", WRITE: "Write", DESCRIBE_CONFIGS: "DescribeConfigs"}  # as kafka-acls.sh spells them

Rights = Mapping[str, Iterable[str]]  # topic -> what to do with it


def worker_rights(settings: Settings) -> Rights:
    """Return what a worker does with each topic. It also reads its group, and writes by the names of `fence_prefix`."""
    named = topics(settings)
    only_read, only_written = (named.items.name,), (named.recommendations.name, named.dead_letters.name)
    return {
        topic.name: [
            *([READ] if topic.name not in only_written else []),
            *([WRITE] if topic.name not in only_read else []),
            *([DESCRIBE_CONFIGS] if "compact" in topic.config["cleanup.policy"] else []),
        ]
        for topic in named
    }


def fence_prefix(settings: Settings) -> str:
    """Return what the transactional ids begin with that keep earlier owners of a partition out (`streams.fence`)."""
    return f"{topics(settings).profiles.name}-"


def check_worker_rights(settings: Settings) -> None:
    """Raise RightsError, which names them all, when the user lacks rights that a worker needs.

    Of a topic that the user may neither read nor write Kafka tells nothing: then all that is needed there is named.
    """
    if settings.security_protocol == "PLAINTEXT":  # no user who could lack any
        return
    lacking = _lacking(settings, worker_rights(settings))
    if not _may_join(settings):
        lacking.append(f"Read group {settings.app_id}")
    if not _may_fence(settings):
        lacking.append(f"Write transactional-id {fence_prefix(settings)} (prefixed)")
    _refuse(settings, lacking)


def check_right(settings: Settings, operation: str, topic: str) -> None:
    """Raise RightsError when the user may not do one thing with a topic."""
    if settings.security_protocol != "PLAINTEXT":
        _refuse(settings, _lacking(settings, {topic: [operation]}))


def _lacking(settings: Settings, wanted: Rights) -> list[str]:
    found = ask(settings, lambda admin: admin.describe_topics(list(wanted)))
    described = {topic["name"]: topic for topic in found}
    return [
        f"{SHOWN[operation]} topic {name}"
        for name, operations in wanted.items()
        for operation in operations
        if described[name]["error_code"] == NOT_ALLOWED
        or (described[name]["error_code"] == 0 and not may(described[name], operation))
    ]


def _may_join(settings: Settings) -> bool:
    try:
        return may(describe_group(settings), READ)
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
