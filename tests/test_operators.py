"""What who looks after an installation must be allowed to do: each command with its rights, and without each of them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flows import eventually
from kafka import KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata
from secured import GRANTS, OPERATORS, Right, Secured, granted, refusal, without

from ranking import bundle
from ranking.answering import REASON as ANSWERS
from ranking.bundle import Head, sealed
from streams.connection import connection
from streams.erasure import key_of
from streams.kafka import open_admin, open_producer
from streams.messages import DeadLetter, Erasure, RecommendationList, RecommendedItem, encode
from streams.rights import SHOWN, check_command_rights, command_rights
from streams.settings import Settings, load
from streams.topics import topics

# kafka-python 3.0.12 leaves sockets to the garbage collector, whose warning hits whatever test runs then.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
COMMANDS = {
    "reviewer": "dead-letters list",
    "repairer": "dead-letters retry",
    "eraser": "erase --wait",
    "importer": "import",
    "loader": "items load --wait",
    "viewer": "profile",
    "creator": "topics --create",
    "lister": "model list",
    "publisher": "model publish",
    "chooser": "model use",
    "trainer": "train --from-topics",
    "reporter": "report",
    "asker": "ask --user",
    "inquirer": "ask",
}
MODEL = sealed(Head(encoder="hashing-256", dim=256, kinds=(), features=(), shape={}), (), {})
OPS = load(encoder="hashing", topic_prefix="ops.", app_id="ops", partitions=1)
GRANTED = granted("Rights of commands", prefix="ops.", app="ops")


def arguments(user: str, folder: Path) -> list[str]:
    """Return the command line of an operator's command, its file written."""
    items, events = folder / "items.jsonl", folder / "events.jsonl"
    items.write_text(json.dumps({"item_id": "pot", "title": "Tea pot"}))
    bundle.save(MODEL, folder)
    events.write_text(json.dumps({"user_id": "ann", "type": "click", "item_id": "tea", "at": 1e9}))
    return {
        "reviewer": ["dead-letters", "list", "--json"],
        "repairer": ["dead-letters", "retry", "--all"],
        "eraser": ["erase", "bob", "--wait"],
        "importer": ["import", str(events), "--merge"],
        "loader": ["items", "load", str(items), "--wait"],
        "viewer": ["profile", "ann"],
        "creator": ["topics", "--create"],
        "lister": ["model", "list"],
        "publisher": ["model", "publish", str(folder)],
        "chooser": ["model", "use", "zero-shot"],
        "trainer": ["train", "--from-topics", "--out", str(folder)],
        "reporter": ["report", "--json"],
        "asker": ["ask", "cups", "--user", "dan", "--json"],
        "inquirer": ["ask", "a tea cup", "--json"],
    }[user]


def test_the_page_says_what_the_code_says() -> None:
    """Each user of the page has what the code says that its command needs; `erase` alone, the same without the group."""
    wanted = set()
    for user, command in COMMANDS.items():
        needed = command_rights(OPS)[command]
        wanted |= {(user, each, f"topic {topic}") for topic, some in needed.topics.items() for each in some}
        wanted |= {(user, needed.group, "group ops")} if needed.group else set()
    assert wanted == GRANTED
    assert command_rights(OPS)["erase"] == command_rights(OPS)["erase --wait"]._replace(group=None)
    assert command_rights(OPS).keys() == {"erase", *COMMANDS.values()}
    assert COMMANDS.keys() == set(OPERATORS)


@pytest.mark.kafka
def test_each_command_works_with_its_rights_and_uses_every_one(
    secured: Secured, headrace_as: Callable[..., Any], tmp_path: Path
) -> None:
    """What the page grants is enough for each command, and Kafka's log tells that nothing of it is too much."""

    def run(user: str) -> str:
        done = headrace_as(secured.operator(user), *arguments(user, tmp_path))
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    plant(secured.operator("admin"))
    refuse(secured.operator("admin"))
    commit_all(secured.operator("admin"))
    shown = [json.loads(line) for line in run("reviewer").splitlines()]
    assert [letter["place"] for letter in shown] == ["ops.events[0]@7", "ops.items[0]@7"]
    assert run("repairer").endswith("2 sent, 0 refused\n")
    refuse(secured.operator("admin"), at=8)
    assert run("eraser") == "bob is erased, and 1 dead letters\n"
    names = topics(OPS)
    with writing(secured.operator("admin"), names.item_vectors.name, "pot", None):  # as if a worker came to it
        assert run("loader") == "1 items can be recommended\n"
    assert run("importer") == "1 events folded, 0 known already, 1 profiles written\n"
    assert run("importer").startswith("0 events folded, 1 known already,")  # from the profile that is there now
    assert "1 event" in run("viewer")
    assert run("publisher") == f"model {MODEL.head.version} is published\n"
    assert MODEL.head.version in run("lister")
    assert run("chooser").startswith("workers rank with zero-shot from now on")
    done = headrace_as(
        secured.operator("trainer"), *arguments("trainer", tmp_path)
    )  # with all its rights, from hardly an event
    assert (done.returncode, "may not" in done.stderr) == (2, False)
    told = json.loads(run("reporter"))
    assert [(row["users"], row["lists"]) for row in told["groups"][0]["rows"]] == [(1, 1)]
    assert json.loads(run("inquirer").splitlines()[0])["item_id"] == "cup"
    cup = RecommendedItem(item_id="cup", score=1.0, reason=ANSWERS)
    with writing(secured.operator("admin"), names.recommendations.name, "dan", encode(list_of(cup, covers="0-1000000"))):
        assert json.loads(run("asker"))["item_id"] == "cup"
    assert run("creator").endswith("created: none\n")  # the fixture had it make them all
    eventually(lambda: GRANTED - secured.allowed(), lambda needless: not needless)


def plant(settings: Settings) -> None:
    """Write an item, the erasure of somebody, an event and its list: of a topic without records nothing is read."""
    names = topics(settings)
    at = time.time()
    asked = {"event_id": "d", "user_id": "dan", "type": "search", "text": "tea", "at": at}
    with open_producer(settings) as producer:
        producer.send(names.items.name, key=b"cup", value=b'{"item_id": "cup", "title": "Tea cup"}')
        producer.send(names.events.name, key=b"dan", value=json.dumps(asked).encode())
        producer.send(names.recommendations.name, key=b"dan", value=encode(list_of()))
        producer.send(names.erasures.name, key=key_of("cid").encode(), value=encode(Erasure(at=1e9, partition=0, offset=0)))


def list_of(*items: RecommendedItem, covers: str = "0-0") -> RecommendationList:
    """Return a list of dan's that knows of the events up to a place."""
    return RecommendationList(
        list_id=covers, user_id="dan", items=items, event_id="d", event_at=1e9, published_at=1e9, model="zero-shot", covers=1
    )


def refuse(settings: Settings, at: int = 7) -> None:
    """Write the dead letters of an event of bob's and of an item, both good by now."""
    names = topics(settings)
    event = {"event_id": "e", "user_id": "bob", "type": "click", "item_id": "tea", "at": time.time()}
    item = {"item_id": "tea", "title": "Green tea"}
    with open_producer(settings) as producer:
        for topic, value in ((names.events, event), (names.items, item)):
            raw = json.dumps(value).encode()
            letter = DeadLetter(topic=topic.name, partition=0, offset=at, reason="a planted one", raw=raw)
            producer.send(names.dead_letters.name, key=f"{topic.name}[0]@{at}".encode(), value=encode(letter))


def commit_all(settings: Settings) -> None:
    """Commit as if workers had done all events to come."""
    consumer = KafkaConsumer(**connection(settings), group_id=settings.app_id, enable_auto_commit=False)
    partition = TopicPartition(topics(settings).events.name, 0)
    consumer.assign([partition])
    consumer.commit({partition: OffsetAndMetadata(1_000_000, "", -1)})
    consumer.close()


@contextmanager
def writing(settings: Settings, topic: str, key: str, value: bytes | None) -> Iterator[None]:
    """Write a record again and again for the block, so that who waits for what comes next finds it."""
    done = threading.Event()

    def write() -> None:
        with open_producer(settings) as producer:
            while not done.wait(0.1):
                producer.send(topic, key=key.encode(), value=value)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        done.set()
        writer.join()


@pytest.mark.kafka
@pytest.mark.parametrize("user", [user for user in OPERATORS if user != "creator"])
def test_each_right_that_a_command_lacks_is_named(
    secured: Secured, headrace_as: Callable[..., Any], user: str, tmp_path: Path
) -> None:
    """Without one of its rights a command ends with 2 before it does anything, and its one line says which."""
    settings = secured.operator(user)
    for right in sorted(each for each in GRANTED if each[0] == user):
        with without(secured, right):
            eventually(lambda: refusal(lambda: check_command_rights(settings, COMMANDS[user])), bool)
            done = headrace_as(settings, *arguments(user, tmp_path))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"headrace: user {user} may not {SHOWN[right[1]]} {right[2]}: {GRANTS}\n"
        eventually(lambda: refusal(lambda: check_command_rights(settings, COMMANDS[user])), lambda said: not said)


@pytest.mark.kafka
@pytest.mark.parametrize(("operation", "what"), [("CREATE", "create"), ("DESCRIBE", "see")])
def test_topics_are_made_by_who_may(secured: Secured, headrace_as: Callable[..., Any], operation: str, what: str) -> None:
    """A missing topic that the user may not create, or one that it may not see, is named; with the right it is made."""
    creator, name = secured.operator("creator"), topics(OPS).item_signals.name
    with without(secured, ("creator", operation, f"topic {name}")):
        if operation == "CREATE":
            with open_admin(secured.operator("admin")) as admin:
                admin.delete_topics([name])
        refused = eventually(lambda: headrace_as(creator, "topics", "--create"), lambda done: done.returncode == 2)
    assert refused.stderr == f"headrace: user creator may not {what} topic {name}: {GRANTS}\n"
    done = eventually(lambda: headrace_as(creator, "topics", "--create"), lambda done: done.returncode == 0)
    assert done.stdout.endswith("created: ops.item-signals\n" if operation == "CREATE" else "created: none\n")


@pytest.mark.kafka
def test_kafka_lets_operators_do_nothing_else(secured: Secured) -> None:
    """With every topic, Kafka lets each do what its command needs, see what it may use, and nothing more."""
    for user in OPERATORS:
        with open_admin(secured.operator(user)) as admin:
            described = admin.describe_topics([topic.name for topic in topics(OPS)])
        found = {(user, each, f"topic {one['name']}") for one in described for each in one["authorized_operations"] or []}
        wanted: set[Right] = {right for right in GRANTED if right[0] == user and right[2].startswith("topic ")}
        seen = {(user, "DESCRIBE", what) for _, operation, what in wanted if operation in ("READ", "WRITE")}
        assert found == wanted | seen
