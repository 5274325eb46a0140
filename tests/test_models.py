"""Models on their topic: cut, kept, put together again, refused when damaged, swapped in by a running worker and out again."""

from __future__ import annotations

import itertools
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import town
from flows import Worker, World, eventually
from hypothesis import given
from hypothesis import strategies as st

from ranking import bundle as bundles
from ranking.bundle import Bundle, BundleError, Head, sealed
from streams import models, releases
from streams.messages import ModelInUse, ModelPart, ModelVersion, NewerMessage, encode
from streams.models import CURRENT, KEEP, ZERO_SHOT, Shelf
from streams.releases import ModelError
from streams.settings import load

pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
ENCODER = "an encoder"


def a_bundle(number: int = 0, size: int = 8) -> Bundle:
    """Return a bundle that ranks nothing; its tensor has so many bytes."""
    head = Head(encoder=ENCODER, dim=4, kinds=("",), features=(), shape={"width": 2}, report={"number": number})
    return sealed(head, (), {"t": np.arange(size, dtype=np.uint8)})


def put(shelf: Shelf, changes: Iterator[models.Change]) -> None:
    """Have a shelf take changes in as they would come from the topic."""
    for key, message in changes:
        shelf.take(key, encode(message) if message is not None else None)


@given(st.integers(0, 3 * models.PART), st.randoms(use_true_random=False))
def test_a_bundle_comes_back_whole(tmp_path_factory: pytest.TempPathFactory, size: int, order: object) -> None:
    """However large a model is, it is cut into messages that Kafka takes; parts may come in any order, and all come back."""
    made = a_bundle(size=size)
    *parts, head = models.messages_of(made, 1.0)
    order.shuffle(parts)  # type: ignore[attr-defined]
    shelf = Shelf(tmp_path_factory.mktemp("shelf"))
    put(shelf, iter([*parts, head]))
    assert max(len(encode(part)) for _, part in parts if part is not None) < 900_000
    found = shelf.bundle(made.head.version)
    assert (found.head, found.tensors["t"].tobytes()) == (made.head, made.tensors["t"].tobytes())
    assert {key for key, _ in parts} == set(models.part_keys(head[0], shelf.versions[head[0]]))


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    """A part that is missing or of another model, a model nobody published, one under another's name: each is told."""
    made, other = a_bundle(1, 2 * models.PART), a_bundle(2, 2 * models.PART)
    version = made.head.version
    shelf = Shelf(tmp_path)
    put(shelf, itertools.chain(models.messages_of(made, 1.0), models.messages_of(other, 2.0)))
    key = f"{version}/{bundles.TENSORS}/1"
    shelf.take(key, None)
    with pytest.raises(BundleError, match=f"part 1 of model.safetensors of model {version} is damaged or missing: publish it"):
        shelf.bundle(version)
    put(shelf, iter([change for change in models.messages_of(made, 1.0) if change[0] == key]))
    assert shelf.bundle(version).head == made.head
    with pytest.raises(BundleError, match="model abc is not on the topic"):
        shelf.bundle("abc")
    renamed = [(key.replace(version, "feed"), message) for key, message in models.messages_of(made, 3.0)]
    put(shelf, iter(renamed))
    with pytest.raises(BundleError, match=f"what was published as model feed is model {version}"):
        shelf.bundle("feed")
    with pytest.raises(NewerMessage):
        shelf.take(version, b'{"format": 2}')
    assert shelf.bundle(version).head == made.head


def test_a_key_names_no_file_of_its_own(tmp_path: Path) -> None:
    """A part whose key climbs out of the folder is kept in it all the same."""
    shelf = Shelf(tmp_path / "shelf")
    part = next(models.messages_of(a_bundle(), 1.0))[1]
    assert part is not None
    shelf.take("../../../x/y/0", encode(part))
    assert [path.parent.name for path in tmp_path.rglob("*") if path.is_file()] == ["shelf"]


@given(st.lists(st.integers(0, 9), unique=True, min_size=1), st.data())
def test_what_is_needed_stays(numbers: list[int], data: st.DataObject) -> None:
    """Of all versions the newest few stay, and always the one in use and the one before it."""
    shelf = Shelf()
    for number in numbers:
        shelf.take(f"v{number}", encode(ModelVersion(at=number, encoder=ENCODER, parts={})))
    choice = st.sampled_from([*shelf.versions, ZERO_SHOT])
    in_use = ModelInUse(version=data.draw(choice), before=data.draw(choice), at=0.0)
    shelf.take(CURRENT, encode(in_use))
    gone = shelf.superfluous()
    assert not {in_use.version, in_use.before, *list(shelf.versions)[-KEEP:]} & set(gone)
    for key, _ in list(models.deletions(shelf.versions, gone)):
        shelf.take(key, None)
    assert len(shelf.versions) <= KEEP + 2
    assert shelf.superfluous() == []


@pytest.mark.embedded
def test_versions_are_published_chosen_and_taken_away(embedded_world: Callable[..., World]) -> None:
    """The newest three stay with the one in use and the one before; a version that is not there cannot be chosen."""
    settings = embedded_world().settings
    made = [a_bundle(number, models.PART + 1) for number in range(5)]
    names = [each.head.version for each in made]
    assert releases.publish(settings, made[0]) == []
    assert releases.use(settings, names[0]) == ZERO_SHOT
    assert releases.publish(settings, made[1]) == []
    assert releases.use(settings, names[1]) == names[0]
    assert releases.use(settings, names[1]) == names[0]  # once more changes nothing
    gone = [releases.publish(settings, each) for each in made[2:]]
    assert gone == [[], [], []]
    assert releases.use(settings, names[4]) == names[1]
    assert releases.publish(settings, a_bundle(9)) == [names[0], names[2]]
    shelf = releases.on_topic(settings)
    assert list(shelf.versions) == [names[1], names[3], names[4], a_bundle(9).head.version]
    with pytest.raises(ModelError, match=f"model 'x' is not on the topic, {names[1]}, .*, zero-shot are: publish it"):
        releases.use(settings, "x")
    assert releases.use(settings, ZERO_SHOT) == names[4]


class Real(Worker):
    """A worker with the product's own step."""

    program = ("-m", "streams", "worker")


@pytest.fixture(scope="module")
def trained() -> Mapping[str, Bundle]:
    """Two models of the town, by the order in which they are used."""
    return {name: town.model(load(encoder="hashing"), seed=seed) for name, seed in (("first", 1), ("second", 2))}


@pytest.mark.embedded
def test_models_change_while_events_flow(embedded_world: Callable[..., World], trained: Mapping[str, Bundle]) -> None:
    """A worker swaps two models and none in as it is told, refuses what it cannot use, and no event is without its list."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    world = embedded_world(web_port=port, partitions=1)
    settings = world.settings
    first, second = (trained[name].head.version for name in ("first", "second"))
    for item in town.items():
        world.send_raw(world.topics.items, item.item_id.encode(), encode(item))
    world.flush()
    for each in trained.values():
        releases.publish(settings, each)
    releases.use(settings, first)
    worker = Real(settings, world.folder)
    world.workers.append(worker)
    worker.ready(120)  # it imports torch beside all else
    with flowing(world) as seen:
        eventually(seen, lambda names: names[-1:] == [first])
        releases.use(settings, second)
        eventually(seen, lambda names: names[-1:] == [second])
        stranger = a_bundle()
        releases.publish(settings, stranger)
        releases.use(settings, stranger.head.version)
        refused = f"model {stranger.head.version} is refused, {second} ranks on: model {stranger.head.version} was trained on"
        eventually(worker.said, lambda said: refused in said)
        damage(world, trained["first"])
        releases.use(settings, first)
        eventually(worker.said, lambda said: f"model {first} is refused, {second} ranks on: part 0 of" in said)
        releases.publish(settings, trained["first"])  # which repairs it
        eventually(seen, lambda names: names[-1:] == [first])
        releases.use(settings, ZERO_SHOT)
        eventually(seen, lambda names: names[-1:] == [ZERO_SHOT])
        order = [name for name, _ in itertools.groupby(seen())]
    assert order == [first, second, first, ZERO_SHOT]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        numbers = answer.read().decode()
    assert 'headrace_model_info{version="zero-shot"} 1.0' in numbers
    assert first not in numbers
    assert "headrace_model_swaps_total 4.0" in numbers
    assert "headrace_models_refused_total 2.0" in numbers
    assert "Traceback" not in worker.said()
    assert worker.stop() == 0


@contextmanager
def flowing(world: World) -> Iterator[Callable[[], list[str]]]:
    """Send events for the block, and yield what tells which model made each list so far; at the end each event has its list."""
    is_over, sent = threading.Event(), 0

    def send() -> None:
        nonlocal sent
        while not is_over.wait(0.02):
            world.send([world.event(f"u{sent % 7}", type="click", item_id=f"i{sent % 60}")])
            sent += 1

    def lists() -> list[dict[str, object]]:
        return world.messages(world.topics.recommendations)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield lambda: [str(each["model"]) for each in lists()]
    finally:
        is_over.set()
        sender.join()
    eventually(lambda: sum(int(str(each["covers"])) for each in lists()), lambda covered: covered == sent)


def damage(world: World, bundle: Bundle) -> None:
    """Write a part of a published model over."""
    key = f"{bundle.head.version}/{bundles.TENSORS}/0"
    world.send_raw(world.topics.models, key.encode(), encode(ModelPart(content=b"something else")))
    world.flush()
