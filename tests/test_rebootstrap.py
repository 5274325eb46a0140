"""A client whose known brokers are all gone finds the cluster by the addresses that it began with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.structs import BrokerMetadata

from streams import rebootstrap

GONE = {7: BrokerMetadata(7, "127.0.0.1", 1, None)}


@pytest.fixture
def installed() -> Iterator[None]:
    """With the change in place, for one test."""
    rebootstrap.install()
    yield
    AIOKafkaClient._metadata_update = rebootstrap._by_what_is_known


def updated(servers: str) -> tuple[bool, set[str]]:
    """Lose all brokers that a client knows; return whether it found any, and their addresses."""

    async def lose() -> tuple[bool, set[str]]:
        client = AIOKafkaClient(bootstrap_servers=servers)
        await client.bootstrap()
        try:
            client.cluster._brokers = dict(GONE)
            found = await client.force_metadata_update()
            return found, {f"{broker.host}:{broker.port}" for broker in client.cluster.brokers()}
        finally:
            await client.close()

    return asyncio.run(lose())


def test_as_it_comes_a_client_is_lost(embedded_address: str) -> None:
    """The defect is there: when this fails, aiokafka has learnt it and streams/rebootstrap.py can go."""
    assert updated(embedded_address) == (False, {"127.0.0.1:1"})


@pytest.mark.usefixtures("installed")
def test_it_begins_again(embedded_address: str) -> None:
    """The first address may be dead too: the next is asked."""
    assert updated(embedded_address) == (True, {embedded_address})
    assert updated(f"127.0.0.1:2,{embedded_address}") == (True, {embedded_address})


@pytest.mark.usefixtures("installed")
def test_with_no_broker_at_all_it_says_so(embedded_address: str) -> None:
    """It goes on trying what it knows, and does not forget it."""

    async def lose() -> tuple[bool, set[object]]:
        client = AIOKafkaClient(bootstrap_servers=embedded_address)
        await client.bootstrap()
        try:
            client.cluster._brokers = dict(GONE)
            client._bootstrap_servers = "127.0.0.1:2"
            return await client.force_metadata_update(), {broker.nodeId for broker in client.cluster.brokers()}
        finally:
            await client.close()

    assert asyncio.run(lose()) == (False, {7})
