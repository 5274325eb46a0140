"""The topics of an installation: what each has to be like, created where missing, checked where not.

Does not know what messages mean.

    TopicError(RuntimeError)   topics are missing or unlike what the settings ask for: says the steps
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.partitioner.default import murmur2

from streams.connection import RightsError
from streams.kafka import ask, may
from streams.settings import Settings, vectors_name

DAY_MS = 86_400_000
# What was replaced is gone a day later, also from the open segment, which compaction leaves out: 7 days by default.
_ERASED_SOON = {"max.compaction.lag.ms": str(DAY_MS)}
ALREADY_EXISTS = 36  # Kafka's error code: another process created the topic first
NOT_ALLOWED = 29  # Kafka's error code: the user may not do this with the topic, or not know whether it is there


class TopicError(RuntimeError):
    """Topics are missing, or unlike what the settings ask for."""


@dataclass(frozen=True)
class Topic:
    """A topic as it has to be. `key` is what its records are keyed by, `why` the reason of its clean-up policy."""

    name: str
    key: str
    partitions: int
    config: dict[str, str]
    why: str

    @property
    def compacted(self) -> bool:
        """Whether Kafka keeps the newest record of each key for ever."""
        return self.config["cleanup.policy"] == "compact"


class Topics(NamedTuple):
    """The topics of one installation."""

    events: Topic
    items: Topic
    interactions: Topic
    recommendations: Topic
    dead_letters: Topic
    item_vectors: Topic
    item_signals: Topic
    erasures: Topic
    models: Topic
    profiles: Topic


def profiles_table(settings: Settings) -> str:
    """Return the name of the table of profiles: one for each encoder, whose vectors never mix."""
    return f"profiles-{vectors_name(settings)}"


def topics(settings: Settings) -> Topics:
    """Return the topics that these settings ask for, names with their prefix."""

    def topic(name: str, key: str, config: dict[str, str], why: str, partitions: int = settings.partitions) -> Topic:
        return Topic(settings.topic_prefix + name, key, partitions, config, why)

    return Topics(
        events=topic("events", "user_id", _kept(settings.retention_days), "a replay window; profiles outlive it"),
        items=topic("items", "item_id", _compacted(), "the catalogue: another encoder reads it whole"),
        interactions=topic("interactions", "none", _kept(settings.retention_days), "counted once into item-signals"),
        recommendations=topic(
            "recommendations",
            "user_id",
            _kept(settings.retention_days) | {"cleanup.policy": "compact,delete"} | _ERASED_SOON,
            "a reader that starts gets each user's newest list",
        ),
        dead_letters=topic(
            "dead-letters",
            "place",
            _kept(30) | {"cleanup.policy": "compact,delete"} | _ERASED_SOON,
            "time to look at what was refused",
            partitions=1,
        ),
        item_vectors=topic(f"item-vectors-{vectors_name(settings)}", "item_id", _compacted(), "every worker reads it whole"),
        item_signals=topic("item-signals", "item_id", _compacted(), "every worker reads it whole"),
        erasures=topic("erasures", "hash of a user_id", _compacted(), "late events of erased users are told by it"),
        models=topic(
            f"models-{vectors_name(settings)}",
            "version, one of its parts, or `current`",
            _compacted(),
            "every worker ranks with the current one",
            partitions=1,
        ),
        # Faust names it, without the prefix. Retention here would delete profiles of users who were away.
        profiles=Topic(
            f"{settings.app_id}-{profiles_table(settings)}-changelog",
            "user_id",
            settings.partitions,
            _compacted() | _ERASED_SOON,
            "the profiles themselves: never give it retention",
        ),
    )


def _kept(days: float) -> dict[str, str]:
    return {"cleanup.policy": "delete", "retention.ms": str(round(days * DAY_MS))}


def _compacted() -> dict[str, str]:
    # Only closed segments are compacted and a recovery reads the open one whole: 64 MiB, not Kafka's 1 GiB, bounds it.
    return {"cleanup.policy": "compact", "segment.bytes": str(64 << 20), "min.cleanable.dirty.ratio": "0.2"}


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition that Kafka's Java client, kafka-python and aiokafka give a key (murmur2)."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


def create_topics(settings: Settings) -> list[str]:
    """Create the topics that are missing, check the others, and return the names of the created.

    Topics that exist are never changed. Raises TopicError, BrokerUnreachable.
    """
    return ask(settings, lambda admin: _create_missing(admin, settings))


def _create_missing(admin: KafkaAdminClient, settings: Settings) -> list[str]:
    wanted = topics(settings)
    present = set(admin.list_topics())
    missing = [topic for topic in wanted if topic.name not in present]
    if missing:
        _create(admin, missing, settings)
    _check(admin, wanted, settings)
    return [topic.name for topic in missing]


def _create(admin: KafkaAdminClient, missing: list[Topic], settings: Settings) -> None:
    wanted = {
        topic.name: {"num_partitions": topic.partitions, "replication_factor": settings.replication, "configs": topic.config}
        for topic in missing
    }
    answer = admin.create_topics(wanted, raise_errors=False)
    refused = {one["name"] for one in answer["topics"] if one["error_code"] == NOT_ALLOWED}
    if refused:
        raise RightsError(settings, f"create {_topics([name for name in wanted if name in refused])}")
    wrong = [one for one in answer["topics"] if one["error_code"] not in (0, ALREADY_EXISTS)]
    if wrong:
        lines = [f"topic {one['name']} was not created: {one['error_message'] or one['error_code']}" for one in wrong]
        lines.append(f"HEADRACE_REPLICATION is {settings.replication}, HEADRACE_PARTITIONS {settings.partitions}")
        raise TopicError("\n".join(lines))
    _refuse_hidden(admin.describe_topics(list(wanted)), list(wanted), settings)  # else they would be waited for in vain
    admin.wait_for_topics(list(wanted))


def check_topics(settings: Settings, wanted: Sequence[Topic] | None = None) -> None:
    """Raise TopicError with a line for each problem of the `wanted` topics (all of them when None)."""
    ask(settings, lambda admin: _check(admin, topics(settings) if wanted is None else wanted, settings))


def _check(admin: KafkaAdminClient, wanted: Sequence[Topic], settings: Settings) -> None:
    described = admin.describe_topics([topic.name for topic in wanted])
    _refuse_hidden(described, [topic.name for topic in wanted], settings)
    found = {topic["name"]: len(topic["partitions"]) for topic in described if topic["error_code"] == 0}
    # Who only sends may not see a topic's configuration, and need not.
    open_to_us = {topic["name"] for topic in described if may(topic, "DESCRIBE_CONFIGS")}
    present = [topic for topic in wanted if topic.name in found]
    policies = _policies(
        admin, [topic.name for topic in present if topic.name in open_to_us and "compact" in topic.config["cleanup.policy"]]
    )
    problems = [
        *_missing([topic.name for topic in wanted if topic.name not in found]),
        *_miscounted([topic for topic in present if topic.partitions != found[topic.name]], found),
        *(_losing(topic, policies[topic.name]) for topic in present if _is_losing(topic, policies.get(topic.name))),
    ]
    if problems:
        raise TopicError("\n".join(problems))


def _refuse_hidden(described: list[dict[str, Any]], wanted: list[str], settings: Settings) -> None:
    hidden = {topic["name"] for topic in described if topic["error_code"] == NOT_ALLOWED}
    if hidden:
        raise RightsError(settings, f"see {_topics([name for name in wanted if name in hidden])}")


def _missing(names: list[str]) -> list[str]:
    if not names:
        return []
    return [f"{_named(names)} missing: run `headrace topics --create`, or set HEADRACE_CREATE_TOPICS=true"]


def _miscounted(topics: list[Topic], found: dict[str, int]) -> list[str]:
    names: dict[tuple[int, int], list[str]] = {}
    for topic in topics:
        names.setdefault((found[topic.name], topic.partitions), []).append(topic.name)
    return [
        f"{_named(same)} made with {has} partitions, {wanted} are wanted: set HEADRACE_PARTITIONS to what the topics have; "
        "or copy the installation with `headrace move` into topics of other names (docs/operate.md, More partitions)"
        for (has, wanted), same in names.items()
    ]


def _named(names: list[str]) -> str:
    return f"{_topics(names)} {'are' if names[1:] else 'is'}"


def _topics(names: list[str]) -> str:
    return f"topic{'s' if names[1:] else ''} {', '.join(names)}"


def _is_losing(topic: Topic, policy: str | None) -> bool:
    """Tell whether a clean-up policy deletes what has to stay, or keeps what was replaced by nothing."""
    return policy is not None and (policy != "compact" if topic.compacted else "compact" not in policy.split(","))


def _losing(topic: Topic, policy: str) -> str:
    wanted = topic.config["cleanup.policy"]
    return (
        f"topic {topic.name} has cleanup.policy={policy}, {wanted} is wanted ({topic.why}): run kafka-configs.sh --alter "
        f"--entity-type topics --entity-name {topic.name} --add-config cleanup.policy="
        f"{wanted if topic.compacted else f'[{wanted}]'}"
    )


def _policies(admin: KafkaAdminClient, names: list[str]) -> dict[str, str]:
    if not names:
        return {}
    configs = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names])["topic"]
    return {name: configs[name].get("cleanup.policy", {"value": "delete"})["value"] for name in names}
