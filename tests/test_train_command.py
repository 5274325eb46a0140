"""Train, look, publish and choose through the command line, on a town whose taste is planted."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import town
from conftest import Done
from rich.console import Console

from encoders import sentiment
from encoders.sentiment import SentimentHead
from ranking import bundle
from ranking.bundle import Bundle
from ranking.train import Plan
from streams import training
from streams.building import load_encoder
from streams.corpus import from_topics
from streams.datasets import of
from streams.erasure import key_of
from streams.kafka import open_producer
from streams.messages import Erasure, encode
from streams.settings import Settings, load
from streams.topics import create_topics, partition_of, topics
from streams.trainer import Order, run
from streams.training import Sizes

# Two threads add in an order of their own: now and then a training then differs in its last bits.
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]
Run = Callable[..., Done]
BESIDE = ("headrace, zero-shot", "popularity", "TF-IDF", "co-occurrence")


class Town(NamedTuple):
    """Files of the town, and a bundle of it."""

    events: Path
    items: Path
    model: Path


@pytest.fixture
def headrace(headrace_as: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, cache: Path) -> Run:
    """Run a command with the hashing encoder and without a broker, in a terminal of 200 columns."""
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: headrace_as(load(encoder="hashing", cache_dir=cache), *map(str, arguments))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for vectors."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Town:
    """The town, with no bundle yet."""
    folder = tmp_path_factory.mktemp("town")
    return Town(*town.write(folder, town.events(), town.items()), folder / "model")


def an_order(out: Path, **more: Any) -> Order:
    """Return an order of a small training: a second or two."""
    return Order(out, Plan(epochs=3, batch=128, rate=3e-3), Sizes(width=16, hidden=8, lists=200), **more)


@pytest.fixture
def trained(files: Town, cache: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Town, Bundle]:
    """The town with a bundle, made once."""
    if not files.model.is_dir():
        train_with(an_order(files.model), cache, monkeypatch)
    return files, bundle.load(files.model)


def train_with(order: Order, cache: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Bundle, str]:
    """Train on the town without the command line, and return what came of it and what was printed."""
    monkeypatch.setenv("HEADRACE_ENCODER", "hashing")
    monkeypatch.setenv("HEADRACE_CACHE_DIR", str(cache))
    console = Console(record=True, width=200, file=None, quiet=False)
    with console.capture() as said:
        made = run(of("town", town.items(), town.events()), order, console)
    return made, said.get()


def test_a_planted_taste_is_learnt_and_reported(headrace: Run, files: Town, tmp_path: Path) -> None:
    """`train` learns what only behaviour tells, prints it beside what it has to beat, and writes curves."""
    out, curves = tmp_path / "model", tmp_path / "curves"
    small = ("--epochs", 3, "--width", 16)
    done = headrace("train", "--events", files.events, "--items", files.items, "--out", out, *small, "--tensorboard", curves)
    assert done.returncode == 0, done.stderr
    made = bundle.load(out)
    assert done.stdout.endswith(f"{out} holds model {made.head.version}; next: headrace model publish {out} --use\n")
    told = made.head.report["held_out"]
    assert f"model {made.head.version}" in done.stdout
    assert all(re.search(rf"^ +{name} +\.\d", done.stdout, re.MULTILINE) for name in BESIDE)
    assert told["recall"].keys() >= {"headrace", *BESIDE}
    # 20 of 60 items at random hold a third; a circle's ten hold nine of ten of what its users touch.
    assert told["recall"]["headrace"] > 0.75 > 0.5 > told["recall"]["headrace, zero-shot"]
    assert told["lists"] > 100
    assert [path.name[:19] for path in curves.iterdir()] == ["events.out.tfevents"]
    shown = headrace("model", "show", out).stdout
    assert made.head.version in shown
    assert re.search(r"held out +│ recall@20: .*headrace 0\.", shown)


def test_a_training_that_was_cut_off_goes_on(
    trained: tuple[Town, Bundle], cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What was fitted before the end is not fitted again, and the model is the one that comes of a training in one go."""
    order = an_order(tmp_path / "model", resume=tmp_path / "kept")

    def cut_off(*given: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training, "fit_ranker", cut_off)
        with pytest.raises(KeyboardInterrupt):
            train_with(order, cache, monkeypatch)
    assert not order.out.exists()
    made, said = train_with(order, cache, monkeypatch)
    assert f"finished before, and taken from {order.resume}: towers\n" in said
    assert made.head.version == trained[1].head.version == bundle.load(order.out).head.version
    encoder = load_encoder(load(encoder="hashing", cache_dir=cache))
    sentiment.save(SentimentHead(encoder.id, np.ones(encoder.dim, np.float32), 0.0), tmp_path / "head")
    monkeypatch.setenv("HEADRACE_SENTIMENT", str(tmp_path / "head"))
    _, said = train_with(replace(order, out=tmp_path / "other"), cache, monkeypatch)
    assert "finished before" not in said  # other opinions make other profiles


def test_all_events_are_learnt_from_when_asked(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With everything, the newest event counts too, and there are no figures."""
    made, said = train_with(an_order(tmp_path / "model", everything=True), cache, monkeypatch)
    assert made.head.report["until"] == town.events()[-1].at
    assert made.head.report["events"] == len(town.events())
    assert "held_out" not in made.head.report
    assert "recall" not in said


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--events", "e.csv"), "give --events and --items, or --from-topics alone"),
        (("--from-topics", "--type", "click"), "give --events and --items, or --from-topics alone"),
        (("--from-topics", "--width", "9"), "--width is 9: give an even number"),
        (("--events", "e.csv", "--items", "i.csv"), "e.csv is not there: check the path"),
    ],
)
def test_what_cannot_be_trained_is_told(headrace: Run, options: tuple[str, ...], part: str) -> None:
    """An order that makes no sense ends with 2 and says what to give."""
    done = headrace("train", *options)
    assert done.returncode == 2
    assert part in done.stderr


def test_curves_need_tensorboard(headrace: Run, files: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, the command says how to get it, before it trains."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    options = ("--events", files.events, "--items", files.items, "--out", tmp_path / "m", "--tensorboard", tmp_path)
    assert headrace("train", *options).stderr == (
        "headrace: --tensorboard needs tensorboard: run `pip install 'headrace[train]'`\n"
    )


def test_what_is_no_bundle_is_told(headrace: Run, tmp_path: Path) -> None:
    """A folder without a bundle, or with half of one, is one line that says what to give."""
    for name in ("nothing", "half"):
        (tmp_path / name).mkdir()
    (tmp_path / "half" / bundle.HEAD).write_text("{}")
    for name in ("nothing", "half"):
        done = headrace("model", "show", tmp_path / name)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{tmp_path / name} is no model bundle" in done.stderr


@pytest.fixture
def installed(embedded_world: Callable[..., Any]) -> Settings:
    """Settings of topics that are there."""
    return embedded_world(partitions=2).settings  # type: ignore[no-any-return]


@pytest.mark.embedded
def test_models_are_published_and_chosen(
    headrace_as: Callable[..., Done], trained: tuple[Town, Bundle], installed: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`model publish --use`, `list` and `use` do what they say, and the way back is told."""
    monkeypatch.setenv("COLUMNS", "200")
    folder, version = str(trained[0].model), trained[1].head.version
    said = headrace_as(installed, "model", "publish", folder, "--use")
    assert said.stdout == (
        f"model {version} is published\nworkers rank with {version} from now on; to go back: headrace model use zero-shot\n"
    )
    shown = headrace_as(installed, "model", "list").stdout
    assert re.search(rf"{version} +│ in use +│ 20\d\d-.* │ 2026-.* │ +1120 +│ recall@20: ", shown)
    assert re.search(r"zero-shot +│ before", shown)
    assert headrace_as(installed, "model", "use", "zero-shot").stdout == (
        f"workers rank with zero-shot from now on; to go back: headrace model use {version}\n"
    )
    (told,) = map(json.loads, headrace_as(installed, "model", "list", "--json").stdout.splitlines())
    assert (told["version"], told["state"], told["report"]) == (version, "before", trained[1].head.report)
    refused = headrace_as(installed, "model", "use", "latest")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"model 'latest' is not on the topic, {version}, zero-shot are: publish it" in refused.stderr


@pytest.mark.embedded
def test_topics_are_a_data_set(installed: Settings) -> None:
    """What lies on the topics is what is trained on, without what was erased and what nobody could fold."""
    create_topics(installed)
    named, events = topics(installed), town.events(users=12)
    with open_producer(installed) as producer:
        for item in town.items():
            producer.send(named.items.name, key=item.item_id.encode(), value=encode(item))
        producer.send(named.items.name, key=b"i59", value=None)
        producer.send(named.items.name, key=b"odd", value=b"no item")
        for event in events:
            place = partition_of(event.user_id.encode(), 2)
            producer.send(named.events.name, key=event.user_id.encode(), value=encode(event), partition=place)
        producer.send(named.events.name, key=b"odd", value=b"no event", partition=0)
        erasure = Erasure(at=town.FIRST, partition=partition_of(b"u3", 2), offset=1_000)
        producer.send(named.erasures.name, key=key_of("u3").encode(), value=encode(erasure))
    found = from_topics(installed)
    assert found.events == [event for event in events if event.user_id != "u3"]
    assert {item.item_id for item in found.items} == {item.item_id for item in town.items()} - {"i59"}
