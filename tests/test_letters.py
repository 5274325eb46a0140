"""Dead letters: shown as they are, sent again where they belong, never twice, and never what a worker would refuse again."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import pytest
from flows import World, eventually
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kafka.errors import KafkaError, KafkaTimeoutError

from streams.__main__ import main
from streams.desk import RAW_MOST, Desk, Refused
from streams.letters import Checked, Letter, LettersError, _send, beginning, line, repaired
from streams.messages import DeadLetter, encode
from streams.metrics import Metrics
from streams.settings import load
from streams.topics import partition_of, topics

NOW = 1_790_000_000.0
Make = Callable[..., World]
BROKERS = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("embedded", "kafka")]


class Said(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it printed as JSON lines."""
        return [json.loads(one) for one in self.out.splitlines()]


Run = Callable[..., Said]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `headrace dead-letters` for a world, in this process and a wide terminal."""
    monkeypatch.setenv("COLUMNS", "250")

    def run(world: World, *arguments: object) -> Said:
        for name in ("broker", "topic_prefix", "app_id", "partitions", "encoder"):
            monkeypatch.setenv(f"HEADRACE_{name.upper()}", str(getattr(world.settings, name)))
        try:
            main(["dead-letters", *map(str, arguments)])
        except SystemExit as end:
            code = int(end.code or 0)
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture(params=BROKERS)
def make(request: pytest.FixtureRequest) -> Make:
    """Make worlds on each kind of broker."""
    return request.getfixturevalue(f"{request.param}_world")


def letter(raw: bytes, topic: str = "events", offset: int = 0, reason: str = "why", partition: int = 0) -> DeadLetter:
    """Return a dead letter."""
    return DeadLetter(topic=topic, partition=partition, offset=offset, reason=reason, raw=raw)


def refuse(world: World, *letters: DeadLetter) -> None:
    """Put dead letters on their topic."""
    for one in letters:
        world.send_raw(world.topics.dead_letters, f"{one.topic}[{one.partition}]@{one.offset}".encode(), encode(one), 0)
    world.flush()


def event(**changes: object) -> bytes:
    """Return a click of ann's, with changes."""
    whole = {"event_id": "e1", "user_id": "ann", "type": "click", "at": NOW, "item_id": "i1", **changes}
    return json.dumps(whole).encode()


def write(path: Path, lines: Sequence[Mapping[str, object]]) -> Path:
    """Write lines of JSON."""
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the file is written anew by each example
@given(st.binary(max_size=60) | st.text(max_size=20).map(str.encode) | st.builds(event, text=st.text(max_size=20)))
@example(event(rating=5).replace(b"5", b"1e999", 1).replace(b", ", b",\r\n\t"))
@example(b'{"n": 123456789012345678901234567890}')
@example(b'"a text in quotes"')
@example(b"[" * 5_000)
@example(b"")
def test_what_is_shown_can_be_sent_as_it_was(tmp_path: Path, raw: bytes) -> None:
    """Whatever was refused, its line gives it back: the same text, or the same JSON; only what is no text has to be given."""
    path = tmp_path / "letters.jsonl"
    path.write_bytes(line(Letter("events[0]@1", NOW, letter(raw))) + b"\n\n")
    try:
        raw.decode()
    except UnicodeDecodeError:
        assert msgspec.json.decode(path.read_bytes())["raw"]
        with pytest.raises(LettersError, match=r"line 1 is no letter .*`value`"):
            list(repaired(path))
        return
    ((place, value),) = repaired(path)
    assert place == "events[0]@1"
    assert value.translate(None, b"\r\n ") == raw.translate(None, b"\r\n ")


def test_lines_that_are_no_letters_are_told(tmp_path: Path) -> None:
    """A missing file and a line without a place, a value or JSON stop with what is needed, before anything is sent."""
    with pytest.raises(LettersError, match="is not there: make it with `headrace dead-letters list --json`"):
        list(repaired(tmp_path / "none.jsonl"))
    for bad in ("{}", '{"place": "p"}', '{"place": 3, "value": {}}', "value", '{"place": "p", "value": "\\ud800"}'):
        path = tmp_path / "bad.jsonl"
        path.write_text('{"place": "p", "value": {}}\n' + bad)
        with pytest.raises(LettersError, match="line 2 is no letter"):
            list(repaired(path))


@given(st.binary(max_size=400) | st.text(max_size=100).map(str.encode))
def test_nothing_that_a_terminal_obeys_is_shown(raw: bytes) -> None:
    """The beginning of a message is printable, and is the message where all of it is printable and short."""
    shown = beginning(raw)
    assert shown.isprintable()
    text = raw.decode("utf-8", "backslashreplace")
    if len(text) <= 60 and text.isprintable():
        assert shown == text
    assert shown.endswith("…") or len(text) <= 60


@pytest.mark.embedded
def test_letters_are_listed(embedded_world: Make, run: Run) -> None:
    """Oldest first, each place once, by topic and by reason, the newest few; none ends with 1, and so does none like these."""
    world = embedded_world()
    events, items = world.topics.events.name, world.topics.items.name
    said = run(world, "list")
    assert said == Said(1, "", "no dead letters\n")
    first, second = letter(b"\x1b[31m{", events, 3, "Malformed"), letter(b'{"item_id": 1}', items, 4, "Expected `str`")
    refuse(world, first, second, first, letter(b"{}", events, 9, "needs [bold]text[/bold]"))
    assert [one["place"] for one in run(world, "list", "--json").lines] == [f"{events}[0]@3", f"{items}[0]@4", f"{events}[0]@9"]
    shown = run(world, "list").out
    assert shown.index("@3") < shown.index("@4") < shown.index("@9")
    for part in (f"{events}[0]@3", "\\x1b[31m{", "needs [bold]text[/bold]", '{"item_id": 1}'):
        assert part in shown
    assert [one["place"] for one in run(world, "list", "--json", "--count", 2).lines] == [f"{items}[0]@4", f"{events}[0]@9"]
    for topic in ("items", items):
        assert [one["value"] for one in run(world, "list", "--json", "--topic", topic).lines] == [{"item_id": 1}]
    assert [one["value"] for one in run(world, "list", "--json", "--reason", "MALFORMED").lines] == ["\x1b[31m{"]
    assert run(world, "list", "--reason", "nothing") == Said(1, "", "no dead letters like these\n")
    world.send_raw(world.topics.dead_letters, b"key", b"no letter", 0)
    world.flush()
    assert "this record is no dead letter" in run(world, "list", "--count", 1).out


def test_refused_messages_are_served_after_repair(make: Make, run: Run, tmp_path: Path) -> None:
    """An event and an item that a worker refused are repaired and sent, and count once, in the right partition."""
    world = make(partitions=4)
    events, items = world.topics.events, world.topics.items
    world.send_raw(events, b"ann", event(type="shrug"), 1)
    world.send_raw(items, b"i1", json.dumps({"item_id": "i1", "title": ""}).encode())
    world.send_raw(events, b"bob", event(event_id="e2", user_id="bob"))
    world.flush()
    world.start().ready()
    eventually(lambda: run(world, "list", "--json").out.splitlines(), lambda found: len(found) == 2)
    lines = run(world, "list", "--json").lines
    for one in lines:
        one["value"] |= {"type": "click"} if one["place"].startswith(events.name) else {"title": "Tea"}
    file = write(tmp_path / "letters.jsonl", lines)
    said = run(world, "retry", "--from", file)
    assert (said.code, said.err) == (0, "")
    place = partition_of(b"ann", 4)
    assert f"{events.name}[1]@0 sent as {events.name}[{place}]@" in said.out
    assert said.out.endswith("2 sent, 0 refused\n")
    eventually(world.counts, lambda counts: counts == {"ann": 1, "bob": 1})
    eventually(lambda: world.messages(world.topics.item_vectors), lambda found: [one["title"] for one in found] == ["Tea"])
    assert run(world, "list").code == 1
    assert run(world, "retry", "--all").out == "0 sent, 0 refused\n"
    again = run(world, "retry", "--from", file)
    assert (again.code, again.out) == (2, "0 sent, 2 refused\n")
    assert again.err.count("was sent again before") == 2
    places = eventually(
        lambda: {(record.partition, record.key): record.value for record in world.records(events)},
        lambda seen: (place, b"ann") in seen,
    )
    assert places[place, b"ann"] == event(), "the value goes as it stands in the file"
    assert world.counts() == {"ann": 1, "bob": 1}


@pytest.mark.embedded
def test_what_would_be_refused_is_not_sent(embedded_world: Make, run: Run, tmp_path: Path) -> None:
    """Each letter that cannot be sent says why and stays; the others go."""
    world = embedded_world()
    events, items, interactions = world.topics.events.name, world.topics.items.name, world.topics.interactions.name
    desk = Desk(SimpleNamespace(), world.topics, Metrics())  # type: ignore[arg-type]
    whole = event(type="comment", text="x" * 600_000)
    long = SimpleNamespace(topic=events, partition=0, offset=7, key=b"ann", value=whole)
    (cut,) = desk.dead_letters([Refused(long, "encoder", "cannot be encoded: ValueError: no")])  # type: ignore[arg-type]
    refuse(
        world,
        letter(event(), events, 1),
        letter(event(type="shrug"), events, 2),
        letter(b"{}", interactions, 3),
        letter(b"", items, 4),
        msgspec.json.decode(cut.value or b"", type=DeadLetter),
    )
    said = run(world, "retry", "--all")
    assert said.code == 2
    assert f"{events}[0]@1 sent as {events}[{partition_of(b'ann', 2)}]@0" in said.out
    assert said.out.endswith("1 sent, 4 refused\n")
    for part in (
        f"{events}[0]@2: Invalid enum value 'shrug'",
        f"{interactions}[0]@3: workers write {interactions}: only events and items can be sent again",
        f"{items}[0]@4: the message was a deletion without a valid key: run `headrace items delete`",
        f"{events}[0]@7: the letter holds only the first {RAW_MOST} bytes of the message: produce it again",
    ):
        assert part in said.err
    eventually(lambda: len(world.records(world.topics.events)), lambda count: count == 1)
    lines = [
        {"place": f"{events}[0]@7", "value": json.loads(whole)},
        {"place": f"{events}[0]@2", "value": {**json.loads(event(type="comment")), "text": "x" * 1_000_000}},
    ]
    said = run(world, "retry", "--from", write(tmp_path / "letters.jsonl", lines))
    assert said.out.splitlines()[-1] == "1 sent, 1 refused"
    assert "bytes, and Kafka takes about 1000000: shorten it" in said.err
    said = run(world, "retry", f"{events}[0]@1", "events@1", f"{events}[0]@2")
    assert (said.code, said.out) == (2, "0 sent, 3 refused\n")
    assert f"{events}[0]@1: was sent again before" in said.err
    assert "no dead letter has the place 'events@1'" in said.err
    for arguments in ([], ["--all", f"{events}[0]@1"], ["--all", "--from", "x"]):
        said = run(world, "retry", *arguments)
        assert (said.code, said.out) == (2, "")
    assert "is not there" in run(world, "retry", "--from", "nowhere.jsonl").err


@pytest.mark.embedded
def test_an_older_item_does_not_replace_a_newer_one(embedded_world: Make, run: Run) -> None:
    """Of an item refused and then sent again, in its partition or elsewhere, the letter is refused; else it is sent."""
    world = embedded_world()
    items = world.topics.items
    tea = json.dumps({"item_id": "tea", "title": "Old"}).encode()
    here, there = partition_of(b"tea", 2), 1 - partition_of(b"tea", 2)
    world.send_raw(items, b"tea", b"{}", here)
    world.flush()
    refuse(world, letter(tea, items.name, 0, partition=here), letter(tea, items.name, 5, partition=there))
    assert run(world, "retry", f"{items.name}[{here}]@0").code == 0
    said = run(world, "retry", "--all")
    assert (said.code, said.out) == (2, "0 sent, 1 refused\n")
    assert f"item 'tea' came again later, at {items.name}[{here}]@1, and this older one would replace it" in said.err
    refuse(world, letter(tea, items.name, 0, partition=there, reason="newest"))
    assert run(world, "retry", f"{items.name}[{there}]@0").code == 0


def test_standard_input_holds_letters_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` reads the lines of another program."""
    lines = io.BytesIO(b'{"place": "events[0]@1", "value": "x"}\n\n{"value": {"a": 1}, "place": "items[0]@2"}')
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(lines))
    assert list(repaired(Path("-"))) == [("events[0]@1", b"x"), ("items[0]@2", b'{"a": 1}')]


def test_what_the_broker_does_not_take_is_told() -> None:
    """A message that is not taken leaves its letter as it is; one whose letter cannot be settled was sent, and says so."""
    sent: list[tuple[str, bytes, bytes | None]] = []

    class Future:
        def __init__(self, error: KafkaError | None) -> None:
            self.error = error

        def get(self, timeout: float) -> SimpleNamespace:
            if self.error:
                raise self.error
            return SimpleNamespace(topic="events", partition=1, offset=9)

    def send(topic: str, key: bytes, value: bytes | None) -> Future:
        sent.append((topic, key, value))
        is_refused = value == b"refused" or key == b"events[0]@2"
        return Future(KafkaTimeoutError("no leader") if is_refused else None)

    given = load()
    values = {"events[0]@1": b"taken", "events[0]@2": b"not settled", "events[0]@3": b"refused"}
    checked = [
        Checked(Letter(place, NOW, letter(value)), topics(given).events, "ann", value) for place, value in values.items()
    ]
    outcomes = {outcome.place: outcome for outcome in _send(given, SimpleNamespace(send=send), checked)}
    assert outcomes["events[0]@1"] == ("events[0]@1", "events[1]@9", "")
    assert outcomes["events[0]@2"].sent == "events[1]@9"
    assert "its letter stays open" in outcomes["events[0]@2"].reason
    assert outcomes["events[0]@3"].sent == ""
    assert "the broker did not take it, try again (" in outcomes["events[0]@3"].reason
    assert [each for each in sent if each[2] is None] == [
        ("dead-letters", b"events[0]@1", None),
        ("dead-letters", b"events[0]@2", None),
    ]
