"""One place for addresses, TLS, SASL and topics of every Kafka client.

Does not know what messages mean. kafka-python and aiokafka take the same arguments (`connection`), Faust its own
(`faust_connection`).

    BrokerUnreachable(ConnectionError)   no broker answers, or it refuses us: says which address and what to check
    TopicError(RuntimeError)             topics are missing or unlike what the settings ask for: says the steps
    RightsError(RuntimeError)            Kafka knows the user, who may not do this: says what, and where to find the commands
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import (
    AuthorizationError,
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    KafkaConnectionError,
    KafkaError,
    NotCoordinatorError,
)
from kafka.partitioner.default import murmur2

from streams.settings import Settings, encoder_slug

DAY_MS = 86_400_000
# What was replaced is gone a day later, also from the open segment, which compaction leaves out: 7 days by default.
_ERASED_SOON = {"max.compaction.lag.ms": str(DAY_MS)}
ALREADY_EXISTS = 36  # Kafka's error code: another process created the topic first
NOT_ALLOWED = 29  # Kafka's error code: the user may not do this with the topic, or not know whether it is there
PROBE_S = 5.0
ALERT_S = 1.0
# What passes: a node of several is away, or a coordinator has no place yet.
NOT_NOW = (KafkaConnectionError, CoordinatorNotAvailableError, CoordinatorLoadInProgressError, NotCoordinatorError)


T = TypeVar("T")


class BrokerUnreachable(ConnectionError):  # noqa: N818  reads as what happened
    """No broker answers, or it refuses us."""


class TopicError(RuntimeError):
    """Topics are missing, or unlike what the settings ask for."""


class RightsError(RuntimeError):
    """Kafka knows the user, who may not do what was asked for."""

    def __init__(self, settings: Settings, lacking: str) -> None:
        user = f"user {settings.sasl_username}" if settings.sasl_username else "the user of this connection"
        super().__init__(
            f"{user} may not {lacking}: an administrator of Kafka grants it, with the commands of docs/security.md"
        )


class _Secret(str):
    """A text that clients can use and no repr shows: they log what they were opened with."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'**********'"


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
    return f"profiles-{encoder_slug(settings.encoder)}"


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
        item_vectors=topic(
            f"item-vectors-{encoder_slug(settings.encoder)}", "item_id", _compacted(), "every worker reads it whole"
        ),
        item_signals=topic("item-signals", "item_id", _compacted(), "every worker reads it whole"),
        erasures=topic("erasures", "hash of a user_id", _compacted(), "late events of erased users are told by it"),
        models=topic(
            f"models-{encoder_slug(settings.encoder)}",
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


def connection(settings: Settings) -> dict[str, Any]:
    """Return what every kafka-python and aiokafka client is opened with."""
    given: dict[str, Any] = {
        "bootstrap_servers": settings.broker.split(","),
        "security_protocol": settings.security_protocol,
    }
    if settings.security_protocol.endswith("SSL"):
        given["ssl_context"] = _ssl_context(settings)
    if settings.security_protocol.startswith("SASL"):
        given["sasl_mechanism"] = settings.sasl_mechanism
        given["sasl_plain_username"] = settings.sasl_username
        given["sasl_plain_password"] = _Secret(settings.sasl_password.get_secret_value())
    return given


def faust_connection(settings: Settings) -> dict[str, Any]:
    """Return what `faust.App` is built with: `broker`, and `broker_credentials` where the protocol has any."""
    from faust.auth import SASLCredentials, SSLCredentials

    given: dict[str, Any] = {"broker": [f"kafka://{address}" for address in settings.broker.split(",")]}
    context = _ssl_context(settings) if settings.security_protocol.endswith("SSL") else None
    if settings.security_protocol.startswith("SASL"):
        given["broker_credentials"] = SASLCredentials(
            username=settings.sasl_username,
            password=_Secret(settings.sasl_password.get_secret_value()),
            ssl_context=context,
            mechanism=settings.sasl_mechanism,
        )
    elif context is not None:
        given["broker_credentials"] = SSLCredentials(context)
    return given


def _ssl_context(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.ssl_cafile)
    context.check_hostname = settings.ssl_check_hostname
    if settings.ssl_certfile is not None:
        try:
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, settings.ssl_password.get_secret_value())
        except (OSError, ValueError) as error:  # ssl's own errors are OSErrors, a passphrase too long is a ValueError
            raise BrokerUnreachable(
                f"the client's certificate {settings.ssl_certfile} cannot be used ({error}): "
                "check HEADRACE_SSL_CERTFILE, HEADRACE_SSL_KEYFILE and HEADRACE_SSL_PASSWORD"
            ) from error
    return context


@contextmanager
def open_admin(settings: Settings) -> Iterator[KafkaAdminClient]:
    """Open an admin client for the block. Raises BrokerUnreachable, RightsError."""
    with closing(_open(KafkaAdminClient, settings, {})) as admin, _rights_told(settings):
        yield admin


@contextmanager
def open_producer(settings: Settings, **more: Any) -> Iterator[KafkaProducer]:
    """Open a producer for the block; what was sent is flushed at its end. Raises BrokerUnreachable, RightsError."""
    # A misspelt topic must not come into being, with one partition, by being written to. noida-db 0.2.3 makes it all the same:
    # senders check their topic first.
    given = {"allow_auto_create_topics": False, **more}
    with closing(_open(KafkaProducer, settings, given)) as producer, _rights_told(settings):
        yield producer
        producer.flush()


@contextmanager
def open_consumer(settings: Settings, **more: Any) -> Iterator[KafkaConsumer]:
    """Open a consumer without a group for the block, to `assign` partitions to. Raises BrokerUnreachable, RightsError."""
    given = {"enable_auto_commit": False, "auto_offset_reset": "earliest", "allow_auto_create_topics": False, **more}
    with closing(_open(KafkaConsumer, settings, given)) as consumer, _rights_told(settings):
        yield consumer


@contextmanager
def _rights_told(settings: Settings) -> Iterator[None]:
    try:
        yield
    except AuthorizationError as error:
        raise RightsError(settings, f"do this on Kafka ({error})") from error


def wait_for_broker(settings: Settings, timeout_s: float | None = None) -> None:
    """Return when the broker lists its topics. Raises BrokerUnreachable after `timeout_s` (connect_timeout_s if None)."""
    wanted = settings if timeout_s is None else settings.model_copy(update={"connect_timeout_s": timeout_s})
    deadline = time.monotonic() + wanted.connect_timeout_s
    while True:
        with open_admin(wanted) as admin:
            try:
                admin.list_topics()
                return
            except KafkaError as error:  # it answers, and is still electing itself
                if time.monotonic() > deadline:
                    raise _unreachable(wanted, error) from error
        time.sleep(0.1)


def _open(client: Any, settings: Settings, more: dict[str, Any]) -> Any:
    deadline = time.monotonic() + settings.connect_timeout_s
    try:
        _await_listener(settings.broker.split(","), deadline)
        left_s = max(0.5, deadline - time.monotonic())
        return client(**connection(settings), bootstrap_timeout_ms=round(left_s * 1000), **more)
    except (KafkaError, OSError) as error:
        raise _unreachable(settings, error) from error


def _await_listener(addresses: list[str], deadline: float) -> None:
    """Return when one of the addresses listens; raise the last one's OSError at the deadline."""
    # kafka-python leaves a socket open for each try that was refused, and looks again only after 50 ms to 30 s.
    while True:
        for address in addresses:
            host, _, port = address.rpartition(":")
            try:
                return socket.create_connection((host, int(port)), timeout=2).close()
            except OSError as error:
                refused = error
        if time.monotonic() > deadline:
            raise refused
        time.sleep(0.05)


def _unreachable(settings: Settings, error: Exception) -> BrokerUnreachable:
    reasons = "; ".join(_reason(address, settings, error) for address in settings.broker.split(","))
    return BrokerUnreachable(f"no Kafka at {settings.broker} within {settings.connect_timeout_s:g} s: {reasons}")


def _reason(address: str, settings: Settings, error: Exception) -> str:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except socket.gaierror:
        return f"{host} does not resolve: check HEADRACE_BROKER"
    except OSError as refused:
        return f"{address} says {refused.strerror or refused}: start a broker (`headrace broker`) or set HEADRACE_BROKER"
    if settings.security_protocol != "PLAINTEXT":
        with ThreadPoolExecutor(1) as apart:  # there may be a loop in this thread
            error = apart.submit(asyncio.run, _refusal(host, int(port), settings)).result() or error
    return _refused(address, settings, error)


async def _refusal(host: str, port: int, settings: Settings) -> Exception | None:
    """Return what a connection fails with, None when it does not fail: kafka-python 3.0.12 only logs it."""
    from aiokafka.conn import AIOKafkaConnection
    from aiokafka.errors import KafkaConnectionError as LostConnection

    try:
        given = connection(settings)
        del given["bootstrap_servers"]
        tried = AIOKafkaConnection(host, port, request_timeout_ms=round(PROBE_S * 1000), **given)
        try:
            await asyncio.wait_for(tried.connect(), PROBE_S)
        finally:
            await asyncio.wait([tried.close()], timeout=1.0)
    except LostConnection as error:
        return _alert(host, port, settings) or error
    except Exception as error:
        return error
    return None


def _alert(host: str, port: int, settings: Settings) -> ssl.SSLError | None:
    """Return how Kafka ends a TLS session over the client's certificate: from TLS 1.3 on aiokafka only says that it ended."""
    if not settings.security_protocol.endswith("SSL"):
        return None
    try:
        with (
            socket.create_connection((host, port), timeout=PROBE_S) as plain,
            _ssl_context(settings).wrap_socket(plain, server_hostname=host) as session,
        ):
            session.settimeout(ALERT_S)
            session.recv(1)  # nothing comes before we ask for something, but the alert
    except ssl.SSLError as error:
        return error if _is_about_our_certificate(error) else None
    except OSError:
        return None
    return None


def _is_about_our_certificate(error: ssl.SSLError) -> bool:
    reason = error.reason or ""
    return "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason)


def _refused(address: str, settings: Settings, error: Exception) -> str:
    from aiokafka.errors import SaslAuthenticationFailed, UnsupportedSaslMechanismError

    if isinstance(error, SaslAuthenticationFailed):
        return (
            f"{address} refuses user {settings.sasl_username} with this password, by {settings.sasl_mechanism}: "
            "check HEADRACE_SASL_USERNAME and HEADRACE_SASL_PASSWORD"
        )
    if isinstance(error, UnsupportedSaslMechanismError):
        return (
            f"{address} does not take {settings.sasl_mechanism} over {settings.security_protocol}: "
            "check HEADRACE_SASL_MECHANISM and HEADRACE_SECURITY_PROTOCOL"
        )
    if isinstance(error, BrokerUnreachable):  # we did not come so far as to ask
        return str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{address} has a certificate that is not to be trusted ({error.verify_message}): check HEADRACE_SSL_CAFILE"
    if isinstance(error, ssl.SSLError) and _is_about_our_certificate(error):
        why = str(error.reason).replace("_", " ").lower()
        if settings.ssl_certfile is None:
            return f"{address} wants a certificate of the client ({why}): set HEADRACE_SSL_CERTFILE and HEADRACE_SSL_KEYFILE"
        return f"{address} does not trust {settings.ssl_certfile} ({why}): set HEADRACE_SSL_CERTFILE to one that it does"
    return (
        f"{address} listens but does not let us in over {settings.security_protocol} ({str(error) or type(error).__name__}): "
        "check HEADRACE_SECURITY_PROTOCOL, HEADRACE_SASL_* and HEADRACE_SSL_*"
    )


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


def may(described: dict[str, Any], operation: str) -> bool:
    """Tell whether the user may do something with a topic or group, as the admin client describes it.

    True where the broker does not tell: the embedded one, and Kafka before 2.3.
    """
    told = described["authorized_operations"]
    return told is None or operation in told


def live_members(settings: Settings) -> list[str]:
    """Return the names of the workers that are in the consumer group now. Raises BrokerUnreachable, RightsError."""
    return [member["group_instance_id"] or member["member_id"] for member in describe_group(settings)["members"]]


def describe_group(settings: Settings) -> dict[str, Any]:
    """Return the consumer group as the admin client describes it. Raises BrokerUnreachable, RightsError."""
    described: dict[str, Any] = ask(settings, lambda admin: admin.describe_groups([settings.app_id]))
    return described[settings.app_id]  # type: ignore[no-any-return]


def ask(settings: Settings, what: Callable[[KafkaAdminClient], T]) -> T:
    """Return what Kafka answers, asked again while a node or a coordinator is away. Raises BrokerUnreachable, RightsError."""
    deadline = time.monotonic() + settings.connect_timeout_s
    while True:
        try:
            with open_admin(settings) as admin:
                return what(admin)
        except NOT_NOW as error:  # a new Kafka makes a coordinator's topic when first asked: 1-2 s
            if time.monotonic() > deadline:
                raise _unreachable(settings, error) from error
        time.sleep(0.1)


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
