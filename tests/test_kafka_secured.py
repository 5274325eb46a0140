"""A Kafka that lets only known users in, over TLS: every kind of client gets in with the settings, and none without."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from streams.broker import end_with_parent
from streams.kafka import BrokerUnreachable, check_topics, connection, create_topics, faust_connection, topics, wait_for_broker
from streams.reading import records
from streams.settings import Settings, load

pytestmark = pytest.mark.kafka
LOGIN = 'org.apache.kafka.common.security.scram.ScramLoginModule required username="admin" password="admin-secret";'


def openssl(folder: Path, *arguments: str) -> None:
    """Run openssl in a folder."""
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def make_certificates(folder: Path) -> None:
    """Write ca.pem, and keystore.pem: the server's key, its certificate for 127.0.0.1, and the authority's."""
    key = ("-newkey", "rsa:2048", "-nodes", "-days", "1")
    openssl(folder, "req", "-x509", *key, "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
    openssl(
        folder, "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-keyout", "key.pem", "-out", "request.pem"
    )
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", "names")
    openssl(folder, "x509", "-req", "-in", "request.pem", *signed, "-out", "certificate.pem")
    openssl(folder, "pkcs8", "-topk8", "-nocrypt", "-in", "key.pem", "-out", "key8.pem")
    parts = [(folder / name).read_text() for name in ("key8.pem", "certificate.pem", "ca.pem")]
    (folder / "keystore.pem").write_text("".join(parts))


def server_properties(folder: Path, port: int, controller_port: int) -> str:
    """Return the properties of one node that asks for TLS and SCRAM."""
    address, controller = f"SASL_SSL://127.0.0.1:{port}", f"127.0.0.1:{controller_port}"
    lines = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{controller}",
        "listeners": f"{address},CONTROLLER://{controller}",
        "advertised.listeners": address,
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "SASL_SSL",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": LOGIN,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "keystore.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(folder / "ca.pem"),
        "log.dirs": str(folder / "data"),
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
    }
    return "".join(f"{name}={value}\n" for name, value in lines.items())


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def secured(kafka_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a user that a secured Kafka knows."""
    folder = tmp_path_factory.mktemp("secured")
    make_certificates(folder)
    port = free_port()
    properties = folder / "server.properties"
    properties.write_text(server_properties(folder, port, free_port()))
    home = Path(os.environ["KAFKA_HOME"])
    java = ["java", "-Xmx512m", f"-Dlog4j2.configurationFile={home}/config/log4j2.yaml", "-cp", f"{home}/libs/*"]
    users = [f"SCRAM-SHA-512=[name={name},password={name}-secret]" for name in ("admin", "worker")]
    scram = [part for user in users for part in ("--add-scram", user)]
    format_ = ["kafka.tools.StorageTool", "format", "-t", "c2VjdXJlZC1rYWZrYS1pZA", "-c", str(properties), *scram]
    subprocess.run([*java, *format_], check=True, capture_output=True)
    log = (folder / "log").open("wb")
    with (
        log,
        subprocess.Popen(
            [*java, "kafka.Kafka", str(properties)], stdout=log, stderr=log, preexec_fn=end_with_parent()
        ) as process,
    ):
        given: dict[str, Any] = {"sasl_username": "worker", "sasl_password": "worker-secret", "ssl_cafile": folder / "ca.pem"}
        settings = load(broker=f"127.0.0.1:{port}", security_protocol="SASL_SSL", partitions=1, connect_timeout_s=90, **given)
        try:
            wait_for_broker(settings)
            yield settings.model_copy(update={"connect_timeout_s": 5.0})
        finally:
            process.terminate()


async def test_every_client_gets_in(secured: Settings) -> None:
    """kafka-python makes the topics, aiokafka writes, kafka-python reads, and Faust's driver connects with its credentials."""
    from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

    create_topics(secured)
    check_topics(secured)
    events = topics(secured).events.name
    faust = faust_connection(secured)
    addresses = [url.removeprefix("kafka://") for url in faust["broker"]]
    as_faust = {"bootstrap_servers": addresses, **credentials_to_aiokafka_auth(faust["broker_credentials"])}
    for given in (connection(secured), as_faust):
        producer = AIOKafkaProducer(**given)
        await producer.start()
        await producer.send_and_wait(events, b"v")
        await producer.stop()
    assert [record.value for record in records(secured, topics(secured).events)] == [b"v", b"v"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # kafka-python leaves its sockets open
@pytest.mark.parametrize(
    "wrong", [{"sasl_password": "guess"}, {"sasl_username": "eve"}, {"ssl_cafile": None}, {"security_protocol": "PLAINTEXT"}]
)
def test_nobody_else_gets_in(secured: Settings, wrong: dict[str, Any]) -> None:
    """A wrong password, user, authority or protocol is one line that says what to check, and holds no secret."""
    given = {**secured.model_dump(exclude_unset=True), "connect_timeout_s": 2.0, **wrong}
    with pytest.raises(BrokerUnreachable) as caught:
        wait_for_broker(load(**given))
    said = str(caught.value)
    del caught  # its traceback holds the client
    gc.collect()
    assert "does not let us in" in said
    assert "check HEADRACE_SECURITY_PROTOCOL, HEADRACE_SASL_* and HEADRACE_SSL_*" in said
    assert "\n" not in said
    assert "secret" not in said
