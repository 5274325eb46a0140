"""Kafka clients: what they are opened with, which topics there are, and what a wrong broker or topic is answered with."""

from __future__ import annotations

import gc
import itertools
import re
import shutil
import socket
import ssl
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from hypothesis import given
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaConnectionError, NotCoordinatorError

from streams import kafka
from streams.connection import BrokerUnreachable, connection, faust_connection
from streams.kafka import live_members, open_admin, open_consumer, open_producer, wait_for_broker
from streams.reading import newest, records
from streams.rows import Row
from streams.sending import send_events
from streams.settings import Settings, load
from streams.topics import TopicError, check_topics, create_topics, partition_of, topics

numbers = itertools.count()


def test_kafka_is_asked_again_while_a_node_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection to one node of several ends nothing; one that stays refused is told as no broker is."""
    answers = [KafkaConnectionError("refused"), NotCoordinatorError("moved"), "told"]

    def what(admin: object) -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(kafka, "open_admin", lambda settings: nullcontext(object()))
    nobody = load(broker="127.0.0.1:1", connect_timeout_s=1.0)
    assert kafka.ask(nobody, what) == "told"
    answers[:] = [KafkaConnectionError("refused")] * 100
    with pytest.raises(BrokerUnreachable, match="start a broker"):
        kafka.ask(nobody, what)
    assert len(answers) > 50


BROKERS = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("embedded", "kafka")]


@pytest.fixture(params=BROKERS)
def address(request: pytest.FixtureRequest) -> str:
    """The address of each broker in turn: both must do what is tested here."""
    return str(request.getfixturevalue(f"{request.param}_address"))


@pytest.fixture
def settings(address: str) -> Settings:
    """Settings whose topics no other test has."""
    number = next(numbers)
    return load(broker=address, topic_prefix=f"t{number}.", app_id=f"app{number}", partitions=4, connect_timeout_s=5)


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A certificate to trust, with its key beside it."""
    if shutil.which("openssl") is None:
        pytest.fail("this test makes a certificate with openssl: install it")
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "ca.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=test", *files],
        check=True,
        capture_output=True,
    )
    return tmp_path / "ca.pem"


def test_plain_connection_names_no_secrets() -> None:
    """Without security, clients get addresses and nothing else."""
    settings = load(broker="a:1,b:2")
    assert connection(settings) == {"bootstrap_servers": ["a:1", "b:2"], "security_protocol": "PLAINTEXT"}
    assert faust_connection(settings) == {"broker": ["kafka://a:1", "kafka://b:2"]}


def test_sasl_reaches_every_client() -> None:
    """User, password and mechanism are the same for kafka-python, aiokafka and Faust."""
    settings = load(security_protocol="SASL_PLAINTEXT", sasl_username="ann", sasl_password="pw", sasl_mechanism="SCRAM-SHA-256")
    given = connection(settings)
    assert (given["sasl_mechanism"], given["sasl_plain_username"], given["sasl_plain_password"]) == (
        "SCRAM-SHA-256",
        "ann",
        "pw",
    )
    assert "ssl_context" not in given
    credentials = faust_connection(settings)["broker_credentials"]
    assert (credentials.mechanism.value, credentials.username, credentials.password) == ("SCRAM-SHA-256", "ann", "pw")
    assert credentials.protocol.value == "SASL_PLAINTEXT"


def test_tls_reaches_every_client(authority: Path) -> None:
    """The authority, the client's certificate and the host name check are in the context of each client."""
    key = authority.parent / "key.pem"
    tls = load(security_protocol="SSL", ssl_cafile=authority, ssl_certfile=authority, ssl_keyfile=key)
    both = load(
        security_protocol="SASL_SSL", sasl_username="a", sasl_password="b", ssl_cafile=authority, ssl_check_hostname=False
    )
    assert faust_connection(tls)["broker_credentials"].protocol.value == "SSL"
    assert faust_connection(both)["broker_credentials"].protocol.value == "SASL_SSL"
    contexts = [connection(tls)["ssl_context"], faust_connection(tls)["broker_credentials"].context]
    assert all(context.check_hostname and context.verify_mode is ssl.CERT_REQUIRED for context in contexts)
    loose = [connection(both)["ssl_context"], faust_connection(both)["broker_credentials"].ssl_context]
    assert all(not context.check_hostname and context.verify_mode is ssl.CERT_REQUIRED for context in loose)
    assert all(context.get_ca_certs()[0]["subject"] == ((("commonName", "test"),),) for context in contexts + loose)


def test_topic_names_and_policies() -> None:
    """Every topic but the profile table's has the prefix; tables are compacted and have no retention."""
    named = topics(load(topic_prefix="p.", app_id="shop", encoder="all-MiniLM-L6-v2", partitions=3))
    assert named.events.name == "p.events"
    assert re.fullmatch(r"shop-profiles-all-minilm-l6-v2-[0-9a-f]{6}-changelog", named.profiles.name)
    assert re.fullmatch(r"p\.item-vectors-all-minilm-l6-v2-[0-9a-f]{6}", named.item_vectors.name)
    assert {topic.name for topic in named if topic.compacted} == {
        "p.items",
        named.item_vectors.name,
        "p.item-signals",
        "p.erasures",
        named.models.name,
        named.profiles.name,
    }
    assert not any("retention.ms" in topic.config for topic in named if topic.compacted)
    assert {topic.partitions for topic in named if topic not in (named.dead_letters, named.models)} == {3}
    of_users = [named.recommendations, named.dead_letters, named.profiles]
    assert all({"max.compaction.lag.ms", "cleanup.policy"} <= topic.config.keys() for topic in of_users)


@pytest.mark.parametrize(
    ("key", "murmur2"),
    [  # computed by Kafka's own org.apache.kafka.common.utils.Utils, in its UtilsTest
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_partitions_are_those_of_java(key: bytes, murmur2: int) -> None:
    """A key's partition is the one that Kafka's Java client computes."""
    assert partition_of(key, 97) == (murmur2 & 0x7FFFFFFF) % 97


@given(st.binary(max_size=50), st.integers(1, 1024))
def test_every_key_has_a_partition(key: bytes, partitions: int) -> None:
    """Any key lands within the topic."""
    assert 0 <= partition_of(key, partitions) < partitions


def test_nobody_listens() -> None:
    """A closed port is one line that names the address and the next step."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets it meanwhile
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(BrokerUnreachable) as caught, open_admin(load(broker=address, connect_timeout_s=0.3)):
            pass
    assert str(caught.value) == (
        f"no Kafka at {address} within 0.3 s: {address} says Connection refused: "
        "start a broker (`headrace broker`) or set HEADRACE_BROKER"
    )


def test_name_without_address() -> None:
    """A host that does not resolve is told apart from one that is down."""
    with pytest.raises(BrokerUnreachable, match=r"no-such-host\.invalid does not resolve: check HEADRACE_BROKER"):
        wait_for_broker(load(broker="no-such-host.invalid:9092"), timeout_s=0.3)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # kafka-python leaves its sockets open
def test_wrong_protocol_is_told(address: str) -> None:
    """A broker that does not speak the protocol asked for is told by the settings to check."""
    sasl = {"security_protocol": "SASL_PLAINTEXT", "sasl_username": "ann", "sasl_password": "pw"}
    settings = load(broker=address, connect_timeout_s=0.5, **sasl)
    with pytest.raises(
        BrokerUnreachable, match=r"does not (let us in|take SCRAM-SHA-512) over SASL_PLAINTEXT.*HEADRACE_SECURITY_PROTOCOL"
    ):
        wait_for_broker(settings)
    gc.collect()


def test_create_topics_is_idempotent(settings: Settings) -> None:
    """The first call creates all topics as they have to be, the second none."""
    assert create_topics(settings) == [topic.name for topic in topics(settings)]
    assert create_topics(settings) == []
    check_topics(settings)
    with open_admin(settings) as admin:
        for topic in topics(settings):
            config = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic.name)])["topic"][topic.name]
            assert {name: config[name]["value"] for name in topic.config} == topic.config


def test_missing_topics_are_one_line(settings: Settings) -> None:
    """Topics that are missing are named in one line with the command that creates them."""
    with pytest.raises(TopicError) as caught:
        check_topics(settings)
    assert str(caught.value).startswith(f"topics {settings.topic_prefix}events, ")
    assert str(caught.value).endswith("are missing: run `headrace topics --create`, or set HEADRACE_CREATE_TOPICS=true")
    with pytest.raises(TopicError, match=rf"^topic {settings.topic_prefix}events is missing: "):
        check_topics(settings, [topics(settings).events])


def test_other_partition_count_is_refused(settings: Settings) -> None:
    """A topic with another partition count is refused with both counts, by create as by check, and stays as it is."""
    create_topics(settings)
    wanted = settings.model_copy(update={"partitions": 6})
    for call in (check_topics, create_topics):
        with pytest.raises(TopicError, match=r"are made with 4 partitions, 6 are wanted: set HEADRACE_PARTITIONS"):
            call(wanted)
    check_topics(settings)


def test_changelog_that_forgets_is_refused(settings: Settings) -> None:
    """A profile table that Kafka would delete from is refused with the command that mends it."""
    profiles = topics(settings).profiles
    with open_admin(settings) as admin:
        admin.create_topics({profiles.name: {"num_partitions": 4, "configs": {"cleanup.policy": "delete"}}})
    with pytest.raises(TopicError, match=rf"{profiles.name} has cleanup.policy=delete, compact is wanted"):
        create_topics(settings)


def test_too_much_replication_is_told(settings: Settings) -> None:
    """More copies than brokers is refused with the setting to change."""
    with pytest.raises(TopicError, match="HEADRACE_REPLICATION is 3"):
        create_topics(settings.model_copy(update={"replication": 3}))


def test_sending_to_a_missing_topic_creates_nothing(settings: Settings) -> None:
    """An event for a topic that is not there is refused, and no broker makes the topic of it."""
    with pytest.raises(TopicError, match=r"events is missing: run `headrace topics --create`"):
        list(send_events(settings, [Row(1, {"user_id": "u", "type": "wish", "text": "jazz"}, 1.0)]))
    with open_admin(settings) as admin:
        assert topics(settings).events.name not in admin.list_topics()


def test_reading_stops_where_the_topic_ended(settings: Settings) -> None:
    """Every record that was there is read, in order within its partition, and no later one; the newest of a key is found."""
    create_topics(settings)
    items = topics(settings).items
    keys = [f"k{number}" for number in range(20)]
    with open_producer(settings) as producer:
        for round_ in range(3):
            for key in keys:
                producer.send(items.name, key=key.encode(), value=f"{key} {round_}".encode())
    reader = records(settings, items)
    seen = [next(reader)]
    with open_producer(settings) as producer:
        producer.send(items.name, key=b"k1", value=None)
    seen += reader
    assert sorted(record.value.decode() for record in seen) == sorted(f"{key} {n}" for key in keys for n in range(3))
    for key in keys:
        own = [record for record in seen if record.key == key.encode()]
        assert [record.value.decode() for record in own] == [f"{key} {n}" for n in range(3)]
        assert {record.partition for record in own} == {partition_of(key.encode(), items.partitions)}
    assert newest(settings, items, "k0").value == b"k0 2"
    assert newest(settings, items, "k1").value is None
    assert newest(settings, items, "nobody") is None


def test_reading_begins_at_a_time(settings: Settings) -> None:
    """From a time on, what was written before it is not read; of a time after the last record nothing is."""
    create_topics(settings)
    items = topics(settings).items
    with open_producer(settings) as producer:
        for second in range(100, 200, 10):
            producer.send(items.name, key=b"k", value=b"%d" % second, timestamp_ms=1_000 * second)
    for since, wanted in ((0.0, 10), (-5.0, 10), (99.0, 10), (150.0, 5), (150.5, 4), (190.0, 1), (191.0, 0)):
        read = [int(record.value) for record in records(settings, items, since=since)]
        assert read == [second for second in range(100, 200, 10) if second >= since], since
        assert len(read) == wanted
    assert [record.value for record in records(settings, items, after=dict.fromkeys(range(9), 8), since=150.0)] == [
        b"180",
        b"190",
    ]


def test_newest_looks_further_back(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key whose newest record lies many windows back is found."""
    monkeypatch.setattr("streams.reading.FIRST_WINDOW", 2)
    settings = settings.model_copy(update={"partitions": 1})
    create_topics(settings)
    items = topics(settings).items
    with open_producer(settings) as producer:
        for key in ["old", "old", *["new"] * 40]:
            producer.send(items.name, key=key.encode(), value=b"x")
    assert newest(settings, items, "old").offset == 1


def test_reading_a_missing_topic_is_told(settings: Settings) -> None:
    """A topic that is not there is an error, not an empty one."""
    with pytest.raises(TopicError, match="is missing: run `headrace topics --create`"):
        next(records(settings, topics(settings).items))


async def test_aiokafka_takes_the_same_connection(settings: Settings) -> None:
    """aiokafka opens with the same arguments as kafka-python, partitions alike, and its group is seen live while it runs."""
    create_topics(settings)
    events = topics(settings).events
    assert live_members(settings) == []
    producer = AIOKafkaProducer(**connection(settings))
    await producer.start()
    sent = await producer.send_and_wait(events.name, b"v", key=b"user-1")
    await producer.stop()
    assert sent.partition == partition_of(b"user-1", events.partitions)
    given: dict[str, Any] = {"group_id": settings.app_id, "group_instance_id": "w1", "auto_offset_reset": "earliest"}
    consumer = AIOKafkaConsumer(events.name, **connection(settings), **given)
    await consumer.start()
    try:
        assert (await consumer.getone()).value == b"v"
        (member,) = live_members(settings)
        assert member
    finally:
        await consumer.stop()
    with open_consumer(settings) as plain:
        partition = TopicPartition(events.name, sent.partition)
        assert plain.end_offsets([partition])[partition] == 1


def test_a_key_without_its_pass_phrase_is_no_question(authority: Path) -> None:
    """A key that is locked is an error when its pass phrase is missing or wrong: nothing waits for somebody to type it."""
    key, locked = authority.parent / "key.pem", authority.parent / "locked.pem"
    command = ["openssl", "pkcs8", "-topk8", "-in", str(key), "-out", str(locked), "-passout", "pass:open"]
    subprocess.run(command, check=True, capture_output=True)
    files = {"security_protocol": "SSL", "ssl_cafile": authority, "ssl_certfile": authority, "ssl_keyfile": locked}
    for wrong in ("", "shut"):
        with pytest.raises(BrokerUnreachable, match=r"cannot be used .* HEADRACE_SSL_KEYFILE and HEADRACE_SSL_PASSWORD$"):
            connection(load(**files, ssl_password=wrong))
    assert connection(load(**files, ssl_password="open"))["ssl_context"]
