"""Ask HEADRACE_BROKER's addresses again when no broker that a client has heard of answers (KIP-899, which aiokafka lacks).

A client goes by the brokers that the last answer named. Where that answer named only some, as a node's may while others are
coming back, and these are lost, aiokafka 0.14 asks them for ever: all workers stood still although two of three nodes were up.
Touches private names of aiokafka; `tests/test_rebootstrap.py` runs against each of them.

    install()   for every aiokafka client of this process, Faust's among them
"""

from __future__ import annotations

from collections.abc import Collection

from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.cluster import ClusterMetadata
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.structs import BrokerMetadata

_by_what_is_known = AIOKafkaClient._metadata_update


def install() -> None:
    """Have clients turn to the addresses that they began with. May be called again."""
    AIOKafkaClient._metadata_update = _update


async def _update(client: AIOKafkaClient, cluster: ClusterMetadata, topics: Collection[str] | None) -> bool:
    """Take in what a broker says of the cluster; tell whether one did.

    cluster: the client's own, or one to be filled; topics: that are asked about, all if there are none.
    """
    return bool(await _by_what_is_known(client, cluster, topics) or await _by_the_first(client, cluster, topics))


async def _by_the_first(client: AIOKafkaClient, cluster: ClusterMetadata, topics: Collection[str] | None) -> bool:
    names = {f"bootstrap-{number}": host for number, host in enumerate(client.hosts)}
    client.cluster._bootstrap_brokers = {name: BrokerMetadata(name, *host[:2], None) for name, host in names.items()}
    for name in names:
        connection = await client._get_conn(name)
        if connection is None:
            continue
        try:
            answer = await connection.send(MetadataRequest(list(topics) if topics else None))
        except (KafkaError, TimeoutError):
            continue
        finally:
            client._conns.pop((name, ConnectionGroup.DEFAULT)).close()
        if answer.brokers:
            cluster.update_metadata(answer)
            return True
    return False
