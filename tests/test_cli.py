"""The command line: what each command prints, and that what a user can put right ends with one line and exit code 2."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from ranking.profile import FORMAT, Profile, Touch
from streams.__main__ import app, main
from streams.kafka import open_producer
from streams.messages import Item, ItemVector, RecommendationList, RecommendedItem, encode
from streams.settings import Settings, load
from streams.topics import create_topics, partition_of, topics

NOW = 1_790_000_000.0


class Said(NamedTuple):
    """How a command ended and what it printed, blanks run together."""

    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def headrace(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in this process, in a terminal of 200 columns."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Said:
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        else:
            code = 0
        out, err = capsys.readouterr()
        return Said(code, " ".join(out.split()), " ".join(err.split()))

    return run


@pytest.fixture
def settings(embedded_address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """Settings of topics that no other test has, in the environment too; the topics are not made yet."""
    name = f"cli{time.time_ns()}"
    given = {"broker": embedded_address, "topic_prefix": f"{name}.", "app_id": name, "partitions": 2, "encoder": "hashing"}
    for setting, value in given.items():
        monkeypatch.setenv(f"HEADRACE_{setting.upper()}", str(value))
    monkeypatch.chdir(tmp_path)
    return load()


def subprocess_of(*arguments: str) -> list[str]:
    """Return the command of a headrace process of its own."""
    return [sys.executable, "-m", "streams", *arguments]


COMMANDS = [
    "demo",
    "broker",
    "topics",
    "move",
    "worker",
    "produce",
    "import",
    "erase",
    "evaluate",
    "finetune",
    "rerank",
    "learn",
    "watch",
    "list",
    "profile",
    "report",
    "items load",
    "items delete",
    "items count",
    "dead-letters list",
    "dead-letters retry",
    "train",
    "model publish",
    "model use",
    "model list",
    "model show",
    "images train",
    "ask",
    "sentiment train",
    "sentiment judge",
]


def test_help_is_quick_and_light() -> None:
    """Help comes without loading what only commands need: torch, faiss, faust, transformers."""
    heavy = ("torch", "faiss", "faust", "transformers", "pyarrow")
    code = f"import sys, streams.__main__; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_teaches_by_an_example(headrace: Run, command: str) -> None:
    """Each command's help has an example that runs that very command."""
    said = headrace(*command.split(), "--help")
    assert said.code == 0
    assert f"Example: headrace {command}" in said.out


def test_every_command_is_listed() -> None:
    """The commands tested here are all there are."""
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    own = {one.name or one.callback.__name__ for one in app.registered_commands if one.callback}
    inner = {
        f"{name} {one.name or one.callback.__name__}"
        for name, group in groups.items()
        for one in group.registered_commands  # type: ignore[union-attr]
        if one.callback
    }
    assert own | inner == set(COMMANDS)


@pytest.mark.parametrize(
    ("variable", "value", "part"),
    [
        ("HEADRACE_BROKR", "x", "headrace: HEADRACE_BROKR is no setting: did you mean HEADRACE_BROKER?"),
        ("HEADRACE_PARTITIONS", "0", "headrace: HEADRACE_PARTITIONS is '0': input should be greater than or equal to 1"),
        ("HEADRACE_BROKER", "127.0.0.1:1", "says Connection refused: start a broker (`headrace broker`)"),
    ],
)
def test_wrong_settings_end_with_2(
    headrace: Run, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, part: str
) -> None:
    """A wrong setting, or a broker that is not there, is one line on standard error and exit code 2, whatever the command."""
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("HEADRACE_CONNECT_TIMEOUT_S", "0.2")
    for command in (
        ["topics"],
        ["list", "ann"],
        ["items", "count"],
        ["produce", "--user", "a", "--type", "wish", "--text", "x"],
    ):
        said = headrace(*command)
        assert (said.code, said.out) == (2, "")
        assert part in said.err


@pytest.mark.embedded
def test_topics_are_shown_and_created(headrace: Run, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """`topics` refuses while some are missing, and lists them once `--create` made them."""
    said = headrace("topics")
    assert said.code == 2
    assert "are missing: run `headrace topics --create`" in said.err
    said = headrace("topics", "--create")
    assert said.code == 0
    assert f"created: {', '.join(topic.name for topic in topics(settings))}" in said.out
    said = headrace("topics", "--wait-s", "5")
    assert said.code == 0
    assert said.out.endswith("created: none")
    assert all(topic.name in said.out for topic in topics(settings))
    monkeypatch.setenv("HEADRACE_CONNECT_TIMEOUT_S", "0.2")
    said = headrace("topics", "--broker", "127.0.0.1:1")
    assert (said.code, said.err[:34]) == (2, "headrace: no Kafka at 127.0.0.1:1 ")


@pytest.mark.embedded
def test_one_event_is_sent_where_its_user_belongs(headrace: Run, settings: Settings) -> None:
    """`produce` prints the place of an event, which is its user's partition."""
    create_topics(settings)
    places = [headrace("produce", "--user", user, "--type", "wish", "--text", "少一点体育") for user in ("ann", "ann", "bob")]
    name = re.escape(topics(settings).events.name)
    assert [re.sub(r"@\d+$", "", said.out) for said in places] == [
        f"{topics(settings).events.name}[{partition_of(user, 2)}]" for user in (b"ann", b"ann", b"bob")
    ]
    assert re.fullmatch(rf"{name}\[\d\]@0", places[0].out)
    assert re.fullmatch(rf"{name}\[\d\]@1", places[1].out)


@pytest.mark.embedded
@pytest.mark.parametrize(
    ("options", "part"),
    [
        ([], "give a file of events, or one event by its options"),
        (["events.jsonl", "--user", "ann"], "give a file of events, or one event by its options"),
        (["--user", "ann", "--type", "wihs", "--text", "x"], "send one of view, click"),
        (["--user", "ann", "--type", "wish"], "headrace: a wish event needs text"),
        (["--user", "ann", "--type", "rating", "--item", "i", "--rating", "nan"], "rating"),
        (["--user", "ann", "--type", "click"], "a click event needs item_id"),
        (["events.txt"], "is no csv, jsonl or parquet file"),
        (["events.csv"], "is not there: check the path"),
        (["events.csv", "--map", "user_id"], "is incomplete: give it as user_id=userId"),
    ],
)
def test_an_event_that_is_none_is_not_sent(headrace: Run, settings: Settings, options: list[str], part: str) -> None:
    """What would become a dead letter is refused with its reason."""
    create_topics(settings)
    said = headrace("produce", *options)
    assert (said.code, said.out) == (2, "")
    assert part in said.err


@pytest.mark.embedded
def test_files_of_events_are_sent(headrace: Run, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """csv with other column names, jsonl and standard input are sent, and a bad row stops with its number."""
    create_topics(settings)
    ratings = tmp_path / "ratings.csv"
    ratings.write_text("\ufeffuserId,movieId,rating,at,type\n1,007,4.5,1790000000,rating\n2,8,,2026-01-31T12:00:00Z,click\n")
    said = headrace("produce", ratings, "--map", "user_id=userId", "--map", "item_id=movieId")
    assert said.out == "2 events sent", said
    lines = '{"user_id":"a","type":"click","item_id":"i"}\n\n{"user_id":"b","type":"click"}\n'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    said = headrace("produce", "-")
    assert said.code == 2
    assert said.err == "headrace: row 3: a click event needs item_id: say which item it is about"
    ratings.write_bytes(b"user_id\n\xff\n")
    assert "line 2 is not UTF-8" in headrace("produce", ratings).err


@pytest.mark.embedded
def test_items_are_loaded_counted_and_deleted(headrace: Run, settings: Settings, tmp_path: Path) -> None:
    """An item that comes again replaces itself, a deleted one is not counted, other csv columns become attributes."""
    create_topics(settings)
    items = tmp_path / "items.csv"
    items.write_text('item_id,title,tags,price,brand,available\np1,"Beans, dark",a|b,12.5,nan,yes\np2,茶,,cheap,,0\n')
    assert headrace("items", "load", items).out == "2 items sent"
    assert headrace("items", "load", items).out == "2 items sent"
    assert headrace("items", "count").out == "2 items"
    assert headrace("items", "delete", "p1", "nobody").out == "2 deletions sent"
    assert headrace("items", "count").out == "1 items"
    items.write_text("item_id,title,available\np3,Tea,perhaps\n")
    said = headrace("items", "load", items)
    assert (said.code, said.err) == (2, "headrace: row 2: available is 'perhaps': give true or false")


@pytest.mark.embedded
def test_parquet_is_read(headrace: Run, settings: Settings, tmp_path: Path) -> None:
    """A parquet file's integer ids become text and its nulls are left out."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    create_topics(settings)
    path = tmp_path / "items.parquet"
    columns = {"item_id": [1, 2], "title": ["Coffee", "Tea"], "brand": ["Hill", None], "tags": [["a"], None]}
    parquet.write_table(arrow.table(columns), path)
    assert headrace("items", "load", path).out == "2 items sent"
    path.write_bytes(b"no parquet")
    assert "is no parquet file" in headrace("items", "load", path).err


@pytest.fixture
def published(settings: Settings) -> Settings:
    """Topics with three lists of ann and one of bob, ann's profile, and the vectors' titles of two items."""
    create_topics(settings)
    named = topics(settings)
    with open_producer(settings) as producer:

        def send(topic: str, key: str, value: bytes) -> None:
            producer.send(topic, key=key.encode(), value=value)

        for user, number in (("ann", 1), ("bob", 2), ("ann", 3), ("ann", 4)):
            send(named.recommendations.name, user, encode(a_list(user, number)))
        for item_id, title in (("i1", "精品咖啡豆"), ("i4", "Green tea")):
            vector = ItemVector(item_id=item_id, title=title, vector=b"", encoder="e", text_hash="h", at=NOW)
            send(named.item_vectors.name, item_id, encode(vector))
        touches = [Touch("i1", "purchase", 3.0, NOW - 60), Touch("i9", "dislike", -2.0, NOW)]
        profile = Profile(FORMAT, NOW, bytes(3 * 8 * 4), touches, bytes(8), b"", {0: 1}, 2)
        send(named.profiles.name, "ann", msgspec.msgpack.encode(profile))
        send(named.profiles.name, "eve", b"\x01")
        send(named.profiles.name, "mae", msgspec.msgpack.encode(msgspec.structs.replace(profile, format=FORMAT + 1)))
    return settings


def a_list(user: str, number: int) -> RecommendationList:
    """Return a list whose first item is told by its number."""
    items = (RecommendedItem(f"i{number}", 0.75, "like what you bought"), RecommendedItem("i1", 0.25, "new"))
    given = {"event_id": f"e{number}", "event_at": NOW, "published_at": NOW, "model": "zero-shot", "covers": 1}
    return RecommendationList(list_id=f"l{number}", user_id=user, items=items, **given)  # type: ignore[arg-type]


@pytest.mark.embedded
def test_the_newest_list_is_shown(headrace: Run, published: Settings, tmp_path: Path) -> None:
    """`list` shows the newest list with titles, of the topic or of a file, or its JSON."""
    said = headrace("list", "ann")
    assert "Green tea │ 0.750 │ like what you bought" in said.out
    assert "精品咖啡豆 │ 0.250" in said.out
    (tmp_path / "items.jsonl").write_bytes(encode(Item(item_id="i4", title="Sencha")) + b"\n")
    assert "Sencha" in headrace("list", "ann", "--items", tmp_path / "items.jsonl").out
    assert json.loads(headrace("list", "ann", "--json").out)["list_id"] == "l4"
    said = headrace("list", "nobody")
    assert (said.code, said.out) == (2, "")
    assert "user 'nobody' has no list: lists come with a user's next event" in said.err


@pytest.mark.embedded
def test_a_profile_is_shown(headrace: Run, published: Settings) -> None:
    """`profile` shows the touches newest first, and what is no profile, or a newer one, is told by its place."""
    said = headrace("profile", "ann")
    assert "ann · 2 events" in said.out
    assert said.out.index("dislike") < said.out.index("purchase")
    assert "精品咖啡豆 │ +3.00" in said.out
    assert "i9 │ -2.00" in said.out
    assert "has no profile" in headrace("profile", "nobody").err
    assert "cannot be read" in headrace("profile", "eve").err
    assert f"format {FORMAT + 1}, this version reads up to {FORMAT}: upgrade" in headrace("profile", "mae").err


@pytest.mark.embedded
def test_watch_goes_through_what_is_there(headrace: Run, published: Settings) -> None:
    """`watch --from-start` prints the lists of one user in order, and `--count` ends it."""
    said = headrace("watch", "ann", "--from-start", "--count", "3", "--json")
    assert re.findall(r'"list_id":"(\w+)"', said.out) == ["l1", "l3", "l4"]
    said = headrace("watch", "--from-start", "--count", "4")
    assert said.out.count("zero-shot") == 4


@pytest.mark.embedded
def test_watch_follows_what_comes(published: Settings) -> None:
    """A list that is published after `watch` began is printed at once, and none from before."""
    with subprocess.Popen(subprocess_of("watch", "--json"), stdout=subprocess.PIPE, env=environment()) as watching:
        assert watching.stdout is not None
        os.set_blocking(watching.stdout.fileno(), False)
        line, number = None, 100
        deadline = time.monotonic() + 60
        while not line and time.monotonic() < deadline:  # it says nothing when it begins: send until it has seen one
            with open_producer(published) as producer:
                producer.send(topics(published).recommendations.name, key=b"cat", value=encode(a_list("cat", number)))
            number += 1
            time.sleep(0.1)
            line = watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        assert watching.wait(60) == 0
    assert json.loads(line or b"{}")["user_id"] == "cat"


@pytest.mark.embedded
def test_broker_runs_until_it_is_told_to_stop(tmp_path: Path) -> None:
    """`broker` says its address once it answers, and SIGTERM and Ctrl-C both end it, with nothing left."""
    for ending in (signal.SIGTERM, signal.SIGINT):
        command = subprocess_of("broker", "--port", "0", "--folder", str(tmp_path))
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as running:
            assert running.stdout is not None
            address = running.stdout.readline().split(" at ")[1].split(";")[0]
            assert create_topics(load(broker=address, partitions=1)) or ending is signal.SIGINT
            running.send_signal(ending)
            assert running.wait(60) == 0
            assert running.stdout.read() == "stopped\n"


def test_broker_of_kafka_needs_a_home(headrace: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`broker --kafka` without KAFKA_HOME says what to set."""
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    said = headrace("broker", "--kafka", "--port", "0")
    assert (said.code, said.err[:32]) == (2, "headrace: --kafka needs KAFKA_HO")


def environment() -> dict[str, str]:
    """Return this environment, with this package on the path of a process in another folder."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
