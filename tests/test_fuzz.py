"""Damaged messages (`benchmarks.damage`) are refused with a reason, or served all the way, with finite numbers."""

from __future__ import annotations

import json
import math
import random
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from timeit import repeat
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from flows import World
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement
from planted import NOW

sys.path.insert(0, str(Path(__file__).parent.parent))  # the benchmarks are no part of the installed package

from benchmarks import guided
from benchmarks.damage import CUES, damaged, whole_event, whole_item
from benchmarks.fuzz import Judged, compare, judge, judge_event, judge_item
from encoders.hashing import HashingEncoder
from ranking.index import ItemIndex
from ranking.profile import interests_of, key_of, unpack
from streams import catalogue, messages
from streams.building import build
from streams.catalogue import Catalogue
from streams.desk import Desk
from streams.encode_thread import EncodeThread
from streams.inlet import Batch
from streams.messages import (
    BadMessage,
    DeadLetter,
    Event,
    Item,
    ItemVector,
    RecommendationList,
    decode_event,
    decode_item,
    encode,
)
from streams.metrics import Metrics
from streams.personalizer import Personalizer, Sourced
from streams.settings import load
from streams.topics import Topics, partition_of, topics
from streams.vectorize import CatalogueStep
from streams.words import read

ROOT = Path(__file__).parents[1]
DIM = 32
ENCODER = HashingEncoder(DIM)
Seeds = st.integers(0, 2**48)
_vectors = msgspec.json.Decoder(ItemVector)


@cache
def personalizer() -> Personalizer:
    """Return one over an index of the planted items, which no test changes."""
    index = ItemIndex(DIM, ENCODER.id)
    index_items(index, PLANTED)
    return build(ENCODER, load(encoder=f"hashing:{DIM}"), index)


def index_items(index: ItemIndex, items: Sequence[Item]) -> list[ItemVector]:
    """Put items into an index by way of their messages, as a worker does, and return these."""
    raw = [encode(vector) for vector in Catalogue(ENCODER).vectors([(item, NOW) for item in items], index)]
    vectors = [_vectors.decode(each) for each in raw]
    catalogue.apply(vectors, index)
    return vectors


def decoded(is_item: bool, value: bytes) -> Event | Item | None:
    """Return what a message is, None when it is refused; the reason has words, and none that breaks a line of a log."""
    try:
        return decode_item(value) if is_item else decode_event(value, NOW)
    except BadMessage as error:
        reason = str(error)
    assert reason.strip()
    assert reason.isprintable(), repr(reason)
    return None


@settings(max_examples=400)
@given(Seeds)
def test_a_damaged_message_is_refused_with_a_reason_or_whole(seed: int) -> None:
    """Whatever the damage, nothing but a reason comes out, or a message that encodes to itself."""
    for message in _damaged(seed, 5):
        made = decoded(message.is_item, message.value)
        if isinstance(made, Item):
            assert decode_item(encode(made)) == made
        elif isinstance(made, Event):
            assert decode_event(encode(made), NOW) == made


def _damaged(seed: int, count: int) -> list[Any]:
    rng = random.Random(seed)
    return [damaged(rng, NOW) for _ in range(count)]


PLANTED = [decode_item(json.dumps({**whole_item(random.Random(n)), "item_id": f"i{n}"}).encode()) for n in range(60)]


@settings(max_examples=120)
@given(Seeds)
def test_what_is_accepted_is_served(seed: int) -> None:
    """All that is accepted of a batch folds, packs, unpacks and recommends, with numbers that are finite."""
    step = personalizer()
    rng = random.Random(seed)
    events: list[Sourced] = []
    while len(events) < 12:
        message = damaged(rng, NOW)
        event = decoded(message.is_item, message.value)
        if isinstance(event, Event):
            events.append(Sourced(event, 0, len(events)))
    folded, lists = step.step({}, events, NOW)
    users = {sourced.event.user_id for sourced in events}
    assert folded.records.keys() == lists.keys() == users
    for record in folded.records.values():
        profile = unpack(record, DIM, key_of(ENCODER.id))
        assert np.isfinite(interests_of([profile], DIM)).all()
        assert all(math.isfinite(touch.weight) and math.isfinite(touch.at) for touch in profile.touches)
    for interaction in folded.interactions:
        assert math.isfinite(interaction.weight)
        assert interaction.weight >= 0
    for user, items in lists.items():
        assert len(items) > 0
        given = {"event_id": "e", "event_at": NOW, "published_at": NOW, "model": step.model, "covers": 1}
        whole = RecommendationList(list_id="l", user_id=user, items=items, **given)  # type: ignore[arg-type]
        assert msgspec.json.decode(encode(whole), type=RecommendationList) == whole
    again, same = step.step(folded.records, events, NOW)
    assert again.records == {}
    assert same == lists


@settings(max_examples=120)
@given(Seeds)
def test_what_is_accepted_is_indexed(seed: int) -> None:
    """All items that are accepted have a finite vector of norm 1, are in the index, and can be recommended."""
    index = ItemIndex(DIM, ENCODER.id)
    rng = random.Random(seed)
    items: list[Item] = []
    while len(items) < 6:
        message = damaged(rng, NOW)
        item = decoded(message.is_item, message.value)
        if isinstance(item, Item):
            items.append(item)
    for vector in index_items(index, items):
        row = np.frombuffer(vector.vector, "<f2").astype(np.float32)
        assert np.linalg.norm(row) == pytest.approx(1.0, abs=1e-2)
    assert len(index) == len({item.item_id for item in items})
    wish = decode_event(json.dumps({**whole_event(rng, NOW), "user_id": "u", "type": "wish", "text": "tea"}).encode(), NOW)
    _, lists = build(ENCODER, load(encoder=f"hashing:{DIM}"), index).step({}, [Sourced(wish, 0, 0)], NOW)
    available = {item.item_id: item.available for item in items}  # the last of the same id counts
    assert {item.item_id for item in lists["u"]} <= {item_id for item_id, is_available in available.items() if is_available}


@settings(max_examples=150)
@given(
    st.lists(st.sampled_from(CUES), min_size=1, max_size=6),
    st.sampled_from(["", " ", "\t", "  "]),
    st.integers(1, 2_000),
    st.sampled_from(["wish", "comment", "search", "click"]),
)
def test_any_mix_of_cues_can_be_read(cues: list[str], between: str, times: int, kind: str) -> None:
    """Whatever cues a text repeats, each subject has words, and there are no more than there are characters."""
    text = (between.join(cues) + between) * times
    reading = read(text[:2_000], kind)
    assert reading.opinion in (-1, 1)
    assert all(said.text.strip() and said.sign in (-1, 1) for said in reading.said)
    assert len(reading.said) <= len(text)


@pytest.mark.parametrize("cue", ["吧", "了", "的", "too ", "please  ", "不", "n't ", "less "])
def test_reading_takes_time_in_proportion(cue: str) -> None:
    """Eight times as many cues take less than 24 times as long: a wish of nothing else must not hold others up."""
    short, long = ((cue * 2_000)[:length] for length in (1_000, 8_000))
    assert _seconds(long) < 24 * _seconds(short)


def _seconds(text: str) -> float:
    return min(repeat(lambda: read(text, "wish"), number=1, repeat=7, timer=time.process_time))


def test_the_judge_knows_good_from_bad() -> None:
    """Records are told apart as the worker does: good, bad, under a wrong key, sent on before, deletions with and without."""
    user = next(f"u{n}" for n in range(9) if partition_of(f"u{n}".encode(), 2) == 1)
    click = json.dumps({"event_id": "e", "user_id": user, "type": "click", "at": NOW, "item_id": "i"}).encode()
    resent = [("headrace-resent", b"1")]
    judged = Judged()
    for offset, (key, partition, value, headers) in enumerate(
        [
            (user.encode(), 1, click, []),
            (user.encode(), 0, click, []),
            (None, 1, click, []),
            (b"x", 1, click, resent),
            (user.encode(), 1, click, resent),
            (user.encode(), 1, b"{}", []),
            (b"gone1", 1, b"{}", []),
            (b"x", 1, click.replace(user.encode(), b"gone2"), []),
        ]
    ):
        given = {"key": key, "value": value, "headers": headers, "timestamp": NOW * 1_000}
        judge_event(SimpleNamespace(topic="events", partition=partition, offset=offset, **given), judged, 2)
    assert set(judged.bad) == {("events", 1, 3), ("events", 1, 5)}
    assert judged.gone == {("events", 1, 6), ("events", 1, 7)}
    assert judged.by_user == {user: 2}
    assert (judged.sent_on.total(), judged.copies.total()) == (2, 1)
    for offset, (key, value) in enumerate(
        [(b"i1", b""), (b"", b""), (b"\xff", None), (b"k", encode(PLANTED[2])), (b"k", b"[]")]
    ):
        judge_item(SimpleNamespace(topic="items", partition=0, offset=offset, key=key, value=value), judged)
    assert {place for place in judged.bad if place[0] == "items"} == {("items", 0, 1), ("items", 0, 2), ("items", 0, 4)}
    assert judged.items == {"i1": [("items", 0, 0)], "i2": [("items", 0, 3)]}


def test_guided_bytes_are_checked() -> None:
    """A refusal with words and a whole message pass; a refusal without, and a message that encodes to another, do not."""

    def stub(refuse: str = "", *decoded: str) -> SimpleNamespace:
        answers = iter(decoded)

        def decode(*_: object) -> Any:
            if refuse:
                raise BadMessage(refuse)
            return SimpleNamespace(text="", said=next(answers))

        return SimpleNamespace(BadMessage=BadMessage, decode_event=decode, decode_item=decode, encode=lambda made: b"")

    for first in (b"e", b"i"):
        guided.check(first, stub("why"), read, NOW)
        guided.check(first, stub("", "same", "same"), read, NOW)
        with pytest.raises(AssertionError, match="refused without a reason"):
            guided.check(first, stub(" "), read, NOW)
        with pytest.raises(AssertionError, match="is not what it encodes to"):
            guided.check(first, stub("", "one", "other"), read, NOW)
    guided.check(b"e" + json.dumps(whole_event(random.Random(1), NOW)).encode(), messages, read, NOW)


def test_guided_bytes_find_nothing(tmp_path: Path) -> None:
    """atheris leads thousands of bytes through the decoders and the reading of words, and none is answered wrongly."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (atheris,) = map(Requirement, project["optional-dependencies"]["fuzz"])
    if atheris.marker and not atheris.marker.evaluate():
        pytest.skip(f"atheris has wheels only where {atheris.marker}")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.guided", "--seconds", "3", "--seed", "1", "--folder", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.search(r"^Done (\d+) runs in \d+ second", done.stderr, re.MULTILINE)
    assert said, done.stderr
    assert int(said[1]) > 1_000
    assert [path.name for path in tmp_path.iterdir()] == ["reached"]  # what led to an error would lie beside


@pytest.mark.embedded
def test_what_is_missing_is_found(embedded_world: Callable[..., World]) -> None:
    """Without a worker all is missing that should come, each kind in a line of its own; a letter too many is told, too."""
    world = embedded_world()
    names = world.topics
    click = {"event_id": "e", "user_id": "u1", "type": "click", "at": time.time(), "item_id": "i"}
    world.send([click])
    world.send_raw(names.events, b"x", json.dumps(click).encode())
    world.send_raw(names.items, b"i1", b"{}")
    world.send_raw(names.items, b"i2", encode(PLANTED[2]))
    place = partition_of(b"u1", names.events.partitions)
    for partition, reason in ((place, "none"), (7, " ")):
        letter = DeadLetter(topic=names.events.name, partition=partition, offset=0, reason=reason, raw=b"")
        world.send_raw(names.dead_letters, f"{partition}".encode(), encode(letter))
    world.flush()
    found = compare(world.settings, judge(world.settings))
    assert [line.partition(",")[0] for line in found.wrong] == [
        "without_letter: 1",
        "letters_of_good_ones: 2",
        "letters_without_reason: 1",
        "users_not_covered: 1",
        "items_without_vector: 1",
        "not_sent_on: 1",
    ]


@pytest.mark.embedded
def test_a_worker_survives_a_flood_of_damaged_messages(tmp_path: Path) -> None:
    """The command sends 2,000 messages, finds every bad one among the dead letters and every good one served, and says so."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.fuzz", "--count", "2000", "--seed", "7", "--folder", str(tmp_path / "run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["count"], said["wrong"]) == (2_000, 0)
    assert said["bad"] > 500 < said["good"]
    assert said["letters"] >= said["bad"]
    assert said["lists"] > 0 < said["sent_on"]
    assert not (tmp_path / "run" / "broker").exists()


async def test_poison_items_are_isolated() -> None:
    """Items that make the encoder raise become dead letters with its words; those around them get their vectors, in order."""
    names, thread = topics(load()), EncodeThread()
    index = ItemIndex(DIM, ENCODER.id)
    step = CatalogueStep(_desk(names), Catalogue(_Choking(DIM)), index, thread, _at_once, names.items.partitions)  # type: ignore[arg-type]
    titles = ["tea", "poison", "jazz", "pot", "poison", "milk", "poison"]
    records = [
        SimpleNamespace(topic="items", partition=0, offset=n, timestamp=NOW * 1_000, key=b"k", value=_item(n, title))
        for n, title in enumerate(titles)
    ]
    try:
        sent = await step.prepare(Batch(1, records))  # type: ignore[arg-type]
    finally:
        thread.stop()
    vectors = [msgspec.json.decode(one.value or b"", type=ItemVector).title for one in sent if one.topic != "dead-letters"]
    letters = [msgspec.json.decode(one.value or b"", type=DeadLetter) for one in sent if one.topic == "dead-letters"]
    assert vectors == ["tea", "jazz", "pot", "milk"]
    assert [(one.offset, one.reason) for one in letters] == [
        (n, "cannot be encoded: ValueError: choked") for n, title in enumerate(titles) if title == "poison"
    ]


class _Choking(HashingEncoder):
    def encode(self, texts: Sequence[str]) -> Any:
        if any("poison" in text for text in texts):
            raise ValueError("choked")
        return super().encode(texts)


def _item(number: int, title: str) -> bytes:
    return encode(Item(item_id=f"i{number}", title=title))


def _desk(names: Topics) -> Desk:
    return Desk(SimpleNamespace(), names, Metrics())  # type: ignore[arg-type]


async def _at_once() -> None:
    """Be ready."""
