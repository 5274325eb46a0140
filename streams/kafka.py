"""Clients of Kafka, and what is asked of it. Does not know what messages mean, nor which topics there should be."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import (
    AuthorizationError,
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    KafkaConnectionError,
    KafkaError,
    NotCoordinatorError,
)

from streams.connection import RightsError, connection
from streams.refusal import unreachable
from streams.settings import Settings

# What passes: a node of several is away, or a coordinator has no place yet.
NOT_NOW = (KafkaConnectionError, CoordinatorNotAvailableError, CoordinatorLoadInProgressError, NotCoordinatorError)
T = TypeVar("T")


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
                    raise unreachable(wanted, error) from error
        time.sleep(0.1)


def _open(client: Any, settings: Settings, more: dict[str, Any]) -> Any:
    deadline = time.monotonic() + settings.connect_timeout_s
    try:
        _await_listener(settings.broker.split(","), deadline)
        left_s = max(0.5, deadline - time.monotonic())
        return client(**connection(settings), bootstrap_timeout_ms=round(left_s * 1000), **more)
    except (KafkaError, OSError) as error:
        raise unreachable(settings, error) from error


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
                raise unreachable(settings, error) from error
        time.sleep(0.1)
