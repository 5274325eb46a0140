"""A Kafka that lets only known users in and each do only what it may, and commands that say what is lacking, but no secret."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from flows import eventually
from kafka import TopicPartition
from pydantic import SecretStr
from secured import (
    GRANTS,
    KEY_PASSWORD,
    ROOT,
    USERS,
    Right,
    Running,
    Secured,
    commands,
    environment,
    free_ports,
    granted,
    refusal,
    without,
)

from streams.connection import BrokerUnreachable, connection, faust_connection
from streams.kafka import open_admin, open_consumer, open_producer, wait_for_broker
from streams.messages import RecommendationList, RecommendedItem, encode
from streams.reading import records
from streams.rights import SHOWN, check_worker_rights, fence_prefix, worker_rights
from streams.settings import Settings, encoder_slug, load
from streams.topics import partition_of, topics

# kafka-python 3.0.12 leaves sockets to the garbage collector, whose warning hits whatever test runs then.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning",
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning",
)
DOOR = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"}
CANARY = re.compile("canary-[a-z]+-")


def headrace(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [sys.executable, "-m", "streams", *arguments]
    return subprocess.run(command, env=environment(settings), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start workers with a state folder of their own; they are killed at the end.

    All bear one name, as one that was started again does: else each would wait until Kafka gives up the one before, 10 s.
    """
    started: list[Running] = []

    def begin(settings: Settings, **more: Any) -> Running:
        given = {"HEADRACE_STATE_DIR": str(tmp_path / f"state{len(started)}"), "HEADRACE_INSTANCE_ID": "one", **more}
        started.append(Running(settings, tmp_path, **given))
        return started[-1]

    yield begin
    for worker in started:
        worker.process.kill()
        worker.process.wait()


@pytest.mark.kafka
@pytest.mark.parametrize("door", ["tls", "plain", "mutual"])
async def test_every_client_gets_in(secured: Secured, door: str) -> None:
    """Through each door kafka-python reads, aiokafka writes, and Faust's driver connects with its credentials."""
    from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

    settings = secured.settings("worker", **({"broker": secured.plain, **DOOR} if door == "plain" else {}))
    if door == "mutual":
        settings = secured.certified("worker")
    events = topics(settings).events
    faust = faust_connection(settings)
    addresses = [url.removeprefix("kafka://") for url in faust["broker"]]
    as_faust = {"bootstrap_servers": addresses, **credentials_to_aiokafka_auth(faust["broker_credentials"])}
    before = len(list(records(settings, events)))
    for given in (connection(settings), as_faust):
        producer = AIOKafkaProducer(**given)
        await producer.start()
        await producer.send_and_wait(events.name, b"not an event", key=b"ann")
        await producer.stop()
    assert len(list(records(settings, events))) == before + 2


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (
            {"sasl_password": "canary-guess-"},
            "refuses user worker with this password, by SCRAM-SHA-512: check HEADRACE_SASL_USERNAME and HEADRACE_SASL_PASSWORD",
        ),
        (
            {"sasl_username": "eve"},
            "refuses user eve with this password, by SCRAM-SHA-512: check HEADRACE_SASL_USERNAME and HEADRACE_SASL_PASSWORD",
        ),
        (
            {"sasl_mechanism": "PLAIN"},
            "does not take PLAIN over SASL_SSL: check HEADRACE_SASL_MECHANISM and HEADRACE_SECURITY_PROTOCOL",
        ),
        (
            {"ssl_cafile": None},
            "has a certificate that is not to be trusted (self-signed certificate in certificate chain): "
            "check HEADRACE_SSL_CAFILE",
        ),
        (
            {"ssl_cafile": ROOT / "README.md"},
            "listens but does not let us in over SASL_SSL ([X509: NO_CERTIFICATE_OR_CRL_FOUND] no certificate or crl found "
            "(_ssl.c:LINE)): check HEADRACE_SECURITY_PROTOCOL, HEADRACE_SASL_* and HEADRACE_SSL_*",
        ),
        (
            {"security_protocol": "PLAINTEXT"},
            "listens but does not let us in over PLAINTEXT (KafkaTimeoutError: Unable to bootstrap from ['ADDRESS']): "
            "check HEADRACE_SECURITY_PROTOCOL, HEADRACE_SASL_* and HEADRACE_SSL_*",
        ),
    ],
)
def test_nobody_else_gets_in(secured: Secured, wrong: dict[str, Any], reason: str) -> None:
    """A wrong password, user, mechanism, authority or protocol is one line that says what to check, and holds no secret."""
    settings = secured.settings("worker", connect_timeout_s=1.0)
    with pytest.raises(BrokerUnreachable) as caught:
        wait_for_broker(settings.model_copy(update={name: _typed(name, value) for name, value in wrong.items()}))
    said = re.sub(r"_ssl\.c:\d+", "_ssl.c:LINE", str(caught.value))
    del caught  # its traceback holds the client
    gc.collect()
    reason = reason.replace("ADDRESS", secured.tls)
    assert said == f"no Kafka at {secured.tls} within 1 s: {secured.tls} {reason}"


UNUSABLE = (
    "the client's certificate FOLDER/worker.pem cannot be used (WHY): "
    "check HEADRACE_SSL_CERTFILE, HEADRACE_SSL_KEYFILE and HEADRACE_SSL_PASSWORD"
)


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("certificate", "key", "password", "reason"),
    [
        ("", "", "", "ADDRESS wants a certificate of the client (WHY): set HEADRACE_SSL_CERTFILE and HEADRACE_SSL_KEYFILE"),
        (
            *("stranger.pem", "stranger.key", KEY_PASSWORD),
            "ADDRESS does not trust FOLDER/stranger.pem (WHY): set HEADRACE_SSL_CERTFILE to one that it does",
        ),
        ("worker.pem", "worker.key", "canary-key-guess", UNUSABLE),
        ("worker.pem", "reader.key", KEY_PASSWORD, UNUSABLE),
    ],
)
def test_nobody_gets_in_without_a_certificate(secured: Secured, certificate: str, key: str, password: str, reason: str) -> None:
    """Where Kafka asks for a certificate, none, a stranger's, and one without its key are one line that says what to set."""
    files = {"ssl_certfile": secured.folder / certificate, "ssl_keyfile": secured.folder / key} if certificate else {}
    none = {"ssl_certfile": None, "ssl_keyfile": None}
    settings = secured.certified("worker", **(none | files), ssl_password=password, connect_timeout_s=1.0)
    with pytest.raises(BrokerUnreachable) as caught:
        wait_for_broker(settings)
    said = re.sub(r"\(.+\)", "(WHY)", str(caught.value))
    del caught  # its traceback holds the client
    gc.collect()
    reason = reason.replace("ADDRESS", secured.mutual).replace("FOLDER", str(secured.folder))
    assert said == f"no Kafka at {secured.mutual} within 1 s: {reason}"


@pytest.mark.kafka
def test_a_certificate_brings_its_users_rights(secured: Secured, headrace_as: Callable[..., Any]) -> None:
    """Who comes in by a certificate is the user in its name: each may what that user may, and nothing else."""
    producer, worker, reader = (secured.certified(user) for user in USERS)
    sent = headrace_as(producer, "produce", "--user", "eve", "--type", "wish", "--text", "jazz")
    assert (sent.returncode, sent.stderr) == (0, "")
    assert re.fullmatch(r"events\[\d]@\d+\n", sent.stdout)
    check_worker_rights(worker)
    assert refusal(lambda: check_worker_rights(reader)).startswith("the user of this connection may not Read topic events,")
    refused = headrace_as(producer, "list", "eve")
    assert (refused.returncode, refused.stderr) == (
        2,
        f"headrace: the user of this connection may not Read topic recommendations: {GRANTS}\n",
    )


def _typed(name: str, value: Any) -> Any:
    return SecretStr(value) if name == "sasl_password" else value


@pytest.mark.kafka
def test_a_worker_with_these_rights_makes_lists_and_uses_every_one(
    secured: Secured, start: Callable[..., Running], headrace_as: Callable[..., Any], tmp_path: Path
) -> None:
    """What the commands grant is enough for a real worker, producer and reader, and nothing of it is too much."""
    producer, worker, reader = (secured.settings(user) for user in USERS)
    first = start(worker).ready()
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps({"item_id": f"i{n}", "title": f"jazz record {n}"}) + "\n" for n in range(9)))
    loaded = headrace_as(producer, "items", "load", str(items))
    assert (loaded.stdout, loaded.returncode) == ("9 items sent\n", 0), loaded.stderr
    eventually(lambda: len(list(records(worker, topics(worker).item_vectors))), lambda count: count == 9)
    for event in (
        ["--user", "ann", "--type", "wish", "--text", "jazz"],
        ["--user", "ann", "--type", "click", "--item", "i1"],
        ["--user", "bob", "--type", "erase"],
    ):
        done = headrace_as(producer, "produce", *event)
        assert done.returncode == 0, done.stderr
    with open_producer(producer) as sender:  # one that is no event, and one in a partition that is not its user's
        events = topics(producer).events
        sender.send(events.name, key=b"ann", value=b"no event")
        stray = {"event_id": "e1", "user_id": "cid", "type": "search", "at": time.time(), "text": "jazz"}
        sender.send(events.name, key=b"cid", value=json.dumps(stray).encode(), partition=1 - partition_of(b"cid", 2))
    shown = eventually(lambda: headrace_as(reader, "list", "ann", "--json"), lambda done: done.returncode == 0)
    assert json.loads(shown.stdout)["user_id"] == "ann"
    eventually(lambda: headrace_as(reader, "list", "cid", "--json").returncode, lambda code: code == 0)
    assert first.stop() == 0, first.said()
    again = start(worker).ready()  # another state folder: profiles come from the changelog
    assert again.stop() == 0, again.said()
    eventually(lambda: granted() - secured.allowed(), lambda needless: not needless)


def test_the_commands_say_what_the_code_says() -> None:
    """The page grants the worker what a worker is checked for, the producer events and items, the reader lists."""
    settings = load(encoder="hashing")
    wanted = {("worker", each, f"topic {topic}") for topic, some in worker_rights(settings).items() for each in some}
    wanted |= {("worker", "READ", "group headrace"), ("worker", "WRITE", f"transactional-id {fence_prefix(settings)}")}
    wanted |= {("producer", "WRITE", "topic events"), ("producer", "WRITE", "topic items")}
    assert granted() == wanted | {("reader", "READ", "topic recommendations")}


def test_the_names_in_the_commands_are_those_of_the_settings() -> None:
    """The variables of the page hold the defaults, and are all that the commands use."""
    given = dict(re.findall(r"^(\w+)=(\S*)", commands("Names"), re.MULTILINE))
    settings = load()
    assert (given["PREFIX"], given["APP"]) == (settings.topic_prefix, settings.app_id)
    assert given["ENCODER"] == encoder_slug(settings.encoder)
    assert set(re.findall(r"\$\{?(\w+)", commands("Rights"))) == given.keys()


@pytest.mark.kafka
def test_kafka_lets_each_do_nothing_else(secured: Secured) -> None:
    """With every topic, Kafka lets each user do what the commands name and nothing more."""
    for user in USERS:
        with open_admin(secured.settings(user)) as admin:
            described = admin.describe_topics([topic.name for topic in topics(secured.settings(user))])
        found = {
            (user, operation, f"topic {one['name']}")
            for one in described
            for operation in one["authorized_operations"] or []
            if operation != "DESCRIBE"
        }
        assert found == {right for right in granted() if right[0] == user and right[2].startswith("topic ")}


@pytest.mark.kafka
@pytest.mark.parametrize("right", sorted(right for right in granted() if right[0] == "worker"), ids="-".join)
def test_each_right_that_a_worker_lacks_is_named(secured: Secured, right: Right) -> None:
    """A worker that lacks one right is told before it touches anything, by the names that Kafka's tool knows.

    Of a topic that it may neither read nor write Kafka tells it nothing: then all that it needs there is named.
    """
    settings = secured.settings("worker")
    others = granted() - {right}
    lacking = [f"{SHOWN[right[1]]} {right[2]}{' (prefixed)' if right[2].startswith('transactional-id') else ''}"]
    if not {("worker", "READ", right[2]), ("worker", "WRITE", right[2])} & others:
        lacking += [f"{SHOWN[each]} {resource}" for user, each, resource in others if (user, resource) == (right[0], right[2])]
    with without(secured, right):
        said = eventually(lambda: refusal(lambda: check_worker_rights(settings)), bool)
    assert said == f"user worker may not {', '.join(lacking)}: {GRANTS}"
    eventually(lambda: refusal(lambda: check_worker_rights(settings)), lambda said: not said)


@pytest.mark.kafka
def test_a_worker_that_may_not_ends_with_2(secured: Secured, start: Callable[..., Running], tmp_path: Path) -> None:
    """Without a right, with a wrong password, or as another user, a worker says so in one line and leaves no state."""
    worker = secured.settings("worker", connect_timeout_s=1.0)
    right = ("worker", "READ", "topic events")
    with without(secured, right):
        eventually(lambda: refusal(lambda: check_worker_rights(worker)), bool)
        lacking = start(worker)
        assert lacking.process.wait(60) == 2
    wrong = start(worker.model_copy(update={"sasl_password": SecretStr("canary-wrong-")}))
    reader = start(secured.settings("reader"))
    for refused, reason in (
        (lacking, f"user worker may not Read topic events: {GRANTS}"),
        (wrong, f"{secured.tls} refuses user worker with this password, by SCRAM-SHA-512: check HEADRACE_SASL_USERNAME and"),
        (reader, "user reader may not Read topic events, Write topic events, Read topic items,"),
    ):
        assert refused.process.wait(60) == 2
        (line,) = [line for line in refused.said().splitlines() if " INFO " not in line]
        assert f"ERROR headrace.worker {'no Kafka' if refused is wrong else reason[:9]}" in line
        assert reason in line
    assert not list(tmp_path.glob("state*"))


@pytest.mark.kafka
@pytest.mark.parametrize(
    "right", [("worker", "WRITE", "topic recommendations"), ("worker", "READ", "topic events")], ids="-".join
)
def test_a_right_that_is_taken_away_ends_the_worker(
    secured: Secured, start: Callable[..., Running], headrace_as: Callable[..., Any], right: Right
) -> None:
    """A worker that loses a right while it runs ends, and with the right it goes on where it stopped."""
    user = f"u{uuid.uuid4().hex}"
    settings = secured.settings("worker", session_timeout_s=6.0)
    worker = start(settings).ready()
    with without(secured, right):
        deadline = time.monotonic() + 60
        while worker.process.poll() is None and time.monotonic() < deadline:
            headrace_as(secured.settings("producer"), "produce", "--user", user, "--type", "wish", "--text", "jazz")
        assert worker.process.poll() not in (None, 0), worker.said()
    start(settings).ready()
    eventually(lambda: headrace_as(secured.settings("reader"), "list", user, "--json").returncode, lambda code: code == 0)


@pytest.mark.kafka
def test_no_client_fails_without_a_word(secured: Secured) -> None:
    """What Kafka refuses to a client that was not checked before is told in the same words."""
    said = refusal(lambda: poll_once(secured, "events"))
    assert said.startswith("user producer may not do this on Kafka (")
    assert "events" in said
    assert said.endswith(f": {GRANTS}")


def poll_once(secured: Secured, topic: str) -> None:
    """Read a topic as the producer, unchecked."""
    with open_consumer(secured.settings("producer")) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        consumer.poll(timeout_ms=5_000)


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("user", "command", "reason"),
    [
        ("reader", "produce --user ann --type wish --text jazz", "Write topic events"),
        ("reader", "items delete i1", "Write topic items"),
        ("worker", "items delete i1", "Write topic items"),
        ("reader", "profile ann", "Read topic headrace-profiles-hashing-changelog"),
        ("producer", "profile ann", "Read topic headrace-profiles-hashing-changelog"),
        ("producer", "items count", "Read topic items"),
        ("producer", "list ann", "Read topic recommendations"),
        ("producer", "watch --json --count 1", "Read topic recommendations"),
        ("worker", "list ann", "Read topic recommendations"),
        ("reader", "topics", "see topics events, items, interactions, dead-letters"),
        ("reader", "topics --create", "create topics events, items, interactions, dead-letters"),
    ],
)
def test_what_is_not_granted_is_refused(
    secured: Secured, headrace_as: Callable[..., Any], user: str, command: str, reason: str
) -> None:
    """A command that goes beyond its user's rights is one line with what is lacking, and exit code 2."""
    done = headrace_as(secured.settings(user), *command.split())
    assert done.returncode == 2
    assert done.stderr.startswith(f"headrace: user {user} may not {reason}")
    assert done.stderr.endswith(f"{GRANTS}\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.kafka
def test_a_reader_sees_ids_where_titles_are_not_granted(secured: Secured, headrace_as: Callable[..., Any]) -> None:
    """Titles lie on a topic of the worker's: without a right to it, a list is shown with ids and why."""
    reader = secured.settings("reader")
    with open_producer(secured.settings("worker")) as sender:
        item = RecommendedItem("i1", 1.0, "because")
        made = RecommendationList(
            list_id="0-1", user_id="dan", items=(item,), event_id="e", event_at=1.0, published_at=1.0, model="m", covers=1
        )
        sender.send(topics(reader).recommendations.name, key=b"dan", value=encode(made))
    done = headrace_as(reader, "list", "dan")
    assert done.returncode == 0
    assert "i1" in done.stdout
    assert "ids in place of titles: user reader may not Read topic item-vectors-hashing" in " ".join(done.stderr.split())


@pytest.mark.kafka
def test_no_secret_is_ever_shown(secured: Secured, start: Callable[..., Running], tmp_path: Path) -> None:
    """A worker at its most talkative, its failures, and commands that fail show no password, passphrase or token."""
    door = {"broker": secured.plain, **DOOR, "log_level": "debug", "ssl_password": "canary-key-1"}
    settings = secured.settings("worker", **door, web_token="canary-token-0123456789", web_port=free_ports(1)[0])
    said = []
    worker = start(settings).ready()
    assert worker.stop() == 0
    # PLAIN sends the password as it is, and kafka-python logs what it sends: the line is there, without it.
    assert "SaslAuthenticateRequest" in worker.said()
    assert "**********" in worker.said()
    said.append(worker.said())
    for changes in ({"sasl_password": SecretStr("canary-wrong-1")}, {"app_id": "other"}, {"encoder": "no-such-model"}):
        failed = start(settings.model_copy(update={"connect_timeout_s": 1.0, **changes}))
        assert failed.process.wait(60) == 2
        said.append(failed.said())
    (tmp_path / "sitecustomize.py").write_text("import streams.worker\nstreams.worker.check_topics = lambda settings: 1 / 0\n")
    crashed = start(settings, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert crashed.process.wait(60) not in (0, None)
    assert "Traceback" in crashed.said()
    said.append(crashed.said())
    wrong = settings.model_copy(update={"sasl_password": SecretStr("canary-wrong-1"), "connect_timeout_s": 1.0})
    for given, command in (
        (settings, "list ann"),
        (wrong, "list ann"),
        (wrong, "produce --user ann --type wish --text jazz"),
        (settings.model_copy(update={"sasl_mechanism": "canary"}), "topics"),
        (settings.model_copy(update={"web_token": SecretStr("canary-short")}), "topics"),
        (settings.model_copy(update={"web_host": "0.0.0.0", "sasl_username": "", "web_token": SecretStr("")}), "topics"),
    ):
        done = headrace(given, *command.split())
        assert done.returncode == 2
        assert done.stderr.startswith("headrace: ") or "Sending username" in done.stderr
        said += [done.stdout, done.stderr]
    said += [repr(settings), str(settings), repr(connection(settings)), repr(faust_connection(settings))]
    said += [repr(settings.model_dump()), settings.model_dump_json()]
    for text in said:
        assert not CANARY.search(text), text[max(0, CANARY.search(text).start() - 200) :][:400]  # type: ignore[union-attr]
