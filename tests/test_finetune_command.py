"""The commands that tune a model and read a list once more with it, over a tiny model of random weights."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from conftest import Done
from test_encoders_tiny import WORDS, make_folder

import encoders
from encoders import EncoderError, judge, recipe
from ranking.index import ItemIndex
from ranking.profile import Touch, new_profile
from streams import rerank
from streams.catalogue import apply
from streams.messages import Item, ItemVector, RecommendationList, RecommendedItem, encode
from streams.rerank import reranked, user_text_of
from streams.settings import load
from streams.topics import topics

Run = Callable[..., Done]
NOUNS = WORDS[5:15]  # five pairs: each word belongs to the one beside it
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def headrace(headrace_as: Run, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command with the tiny model in float32 and without a broker."""
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments, encoder=None: headrace_as(
        load(encoder=str(encoder or bert), cache_dir=tmp_path / "cache", dtype="float32", device="cpu", threads=1),
        *map(str, arguments),
    )


def a_file(folder: Path, label: Callable[[int, int], int] = lambda i, j: int(j == i ^ 1), rows: int = 240) -> Path:
    """Write rows of a word, another word and a label."""
    order = np.random.default_rng(5)
    lines = []
    for at in range(rows):
        i = int(order.integers(len(NOUNS)))
        j = i ^ 1 if at % 2 else int(order.integers(len(NOUNS)))
        row = {"user_text": NOUNS[i], "item_text": f"{NOUNS[j]} news", "label": label(i, j), "at": 1_600_000_000 + at}
        lines.append(json.dumps(row))
    path = folder / "rows.jsonl"
    path.write_text("\n".join(lines), "utf-8")
    return path


def test_retrieve_from_rows_to_a_folder(headrace: Run, bert: Path, tmp_path: Path) -> None:
    """The command learns the planted pairs, says what learnt, and writes a folder that is an encoder of another id."""
    out = tmp_path / "tuned"
    small = ("--epochs", 5, "--batch", 16, "--rate", 1e-2, "--patience", 5, "--adapter", "lora", "--rank", 4)
    done = headrace("finetune", "--rows", a_file(tmp_path), "--out", out, *small, "--tensorboard", tmp_path / "curves")
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text())
    assert f"{report['trainable']:,} of {report['parameters']:,} parameters learn" in done.stdout
    assert done.stdout.endswith(f"{out} holds the tuned model; next: HEADRACE_ENCODER={out} headrace import --rebuild\n")
    assert report["test"]["ndcg@10"] > report["test_before"]["ndcg@10"]
    assert len(report["epochs"]) == report["plan"]["epochs"]
    assert [path.name[:19] for path in (tmp_path / "curves").iterdir()] == ["events.out.tfevents"]
    before, after = recipe.read(bert, "tiny"), recipe.read(out, "tuned")
    assert (after.pooling, after.prefix, after.limit) == (before.pooling, before.prefix, before.limit)
    assert (out / "model.safetensors").stat().st_mode & 0o044 == 0o044
    assert (out / "tokenizer.json").read_bytes() == (bert / "tokenizer.json").read_bytes()
    again = headrace("finetune", "--rows", a_file(tmp_path), "--out", out)
    assert again.returncode == 2
    assert "is there already: give another --out" in again.stderr
    _reads_the_same(out, tmp_path)
    _refuses_the_old(encoders.load(str(bert), cache=tmp_path), encoders.load(str(out), cache=tmp_path))


def _reads_the_same(folder: Path, cache: Path) -> None:
    """sentence-transformers, as far as it is installed, reads the same vectors from the folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its imports
        other = pytest.importorskip("sentence_transformers").SentenceTransformer(str(folder), device="cpu")
        theirs = other.encode(["jazz", "tea news"], normalize_embeddings=True)
    ours = encoders.load(str(folder), cache=cache, dtype="float32", centre=False).encode(["jazz", "tea news"])
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def _refuses_the_old(old: encoders.Encoder, new: encoders.Encoder) -> None:
    """Vectors of the model before are in another topic, and an index of the tuned one does not take them."""
    assert new.id != old.id
    vector = old.encode(["jazz"])[0].astype("<f2").tobytes()
    message = ItemVector(item_id="a", title="jazz", vector=vector, encoder=old.id, text_hash="0", at=0.0)
    with pytest.raises(ValueError, match="has a vector of"):
        apply([message], ItemIndex(new.dim, new.id))
    names = [topics(load(encoder=each)).item_vectors.name for each in ("a", "b")]
    assert names[0] != names[1]


def test_events_are_learnt_from_with_every_option(headrace: Run, tmp_path: Path) -> None:
    """Past events become rows; hard negatives, the perturbation, recomputed passes and a bottleneck work together."""
    events, items = tmp_path / "events.jsonl", tmp_path / "items.jsonl"
    items.write_text("\n".join(json.dumps({"item_id": name, "title": name}) for name in NOUNS), "utf-8")
    rows = [
        {"user_id": f"u{i % 30}", "type": "purchase", "item_id": NOUNS[2 * (i % 5) + i // 30 % 2], "at": 1.6e9 + i}
        for i in range(120)
    ]
    events.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    options = ("--hard", 2, "--adversarial", 0.2, "--adapter", "bottleneck", "--checkpointing", "--epochs", 2, "--rate", 1e-2)
    done = headrace("finetune", "--events", events, "--items", items, "--out", tmp_path / "tuned", *options)
    assert done.returncode == 0, done.stderr
    assert "54 rows to learn from, 12 for dev, 24 for test; 10 items" in done.stdout
    report = json.loads((tmp_path / "tuned" / "report.json").read_text())
    assert report["epochs"][1]["train loss"] < report["epochs"][0]["train loss"]
    assert report["seconds"] > 0 < report["memory_mb"]
    assert json.loads((tmp_path / "tuned" / "config.json").read_text())["intermediate_size"] == 64 + report["rank"]
    encoders.load(str(tmp_path / "tuned"), cache=tmp_path)


def test_match_from_rows_to_a_report(headrace: Run, tmp_path: Path) -> None:
    """A cross-encoder tells planted pairs from others, prints scikit-learn's report, and is refused as an encoder."""
    out = tmp_path / "judge"
    small = ("--task", "match", "--epochs", 10, "--batch", 16, "--rate", 5e-3, "--patience", 9)
    done = headrace("finetune", "--rows", a_file(tmp_path, rows=400), "--out", out, *small)
    assert done.returncode == 0, done.stderr
    assert "320 rows to learn from, 40 for dev, 40 for test; labels 0, 1" in done.stdout
    assert "macro avg" in done.stdout
    report = json.loads((out / "report.json").read_text())
    assert report["test"]["accuracy"] > 0.9
    with pytest.raises(EncoderError, match="is a cross-encoder"):
        encoders.load(str(out), cache=tmp_path)


def test_a_domain_is_learnt_by_masked_words_and_without_a_mask_by_itself(headrace: Run, bert: Path, tmp_path: Path) -> None:
    """Masked where there is a mask, else SimCSE; either way the folder is an encoder that tuning goes on from."""
    rows = a_file(tmp_path)
    told = {}
    for name, base in (("masked", with_mask(tmp_path / "base")), ("simcse", bert)):
        out = tmp_path / name
        done = headrace(
            "finetune", "--task", "domain", "--rows", rows, "--out", out, "--batch", 4, "--rate", 3e-3, encoder=base
        )
        assert done.returncode == 0, done.stderr
        told[name] = json.loads((out / "report.json").read_text())["epochs"]
        assert encoders.load(str(out), cache=tmp_path).encode(["jazz"]).shape == (1, 32)
    assert told["masked"][-1]["train loss"] < told["masked"][0]["train loss"]
    assert told["simcse"][-1]["loss"] < told["simcse"][0]["loss"]
    done = headrace("finetune", "--task", "domain", "--by", "masked", "--rows", rows, "--out", tmp_path / "no")
    assert done.returncode == 2
    assert "needs a model with a mask" in done.stderr


def with_mask(folder: Path) -> Path:
    """Return a tiny BERT whose tokenizer has a mask."""
    make_folder(folder, "bert")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"mask_token": "news"}))
    return folder


def test_a_search_goes_on_and_its_best_is_fitted(headrace: Run, tmp_path: Path) -> None:
    """Trials are kept beside the folder and counted when the search is run again; the best numbers are those of the fit."""
    common = ("finetune", "--rows", a_file(tmp_path, rows=120), "--epochs", 1, "--batch", 16)
    first = headrace(*common, "--out", tmp_path / "tuned", "--search", 2)
    assert first.returncode == 0, first.stderr
    assert "trial 1: " in first.stdout
    (tmp_path / "tuned").rename(tmp_path / "other")
    second = headrace(*common, "--out", tmp_path / "tuned", "--search", 3)
    assert second.returncode == 0, second.stderr
    assert "2 trials were made before" in second.stdout
    assert "trial 2: " in second.stdout
    assert "trial 1: " not in second.stdout
    report = json.loads((tmp_path / "tuned" / "report.json").read_text())
    assert report["search"]["trials"] == 3
    assert report["plan"]["rate"] == report["search"]["best"]["rate"]
    assert {path.name for path in (tmp_path / "tuned-search").iterdir()} >= {"study.db", "history.png"}


def test_folds_are_printed(headrace: Run, tmp_path: Path) -> None:
    """The command prints each fold's dev figures, their mean and their deviation."""
    done = headrace("finetune", "--rows", a_file(tmp_path, rows=120), "--out", tmp_path / "tuned", "--folds", 2, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    assert "fold 2 of 2: " in done.stdout
    assert re.search(r"2 folds, mean and standard deviation: .*ndcg@10 0\.\d+ ± 0\.\d+", done.stdout)


def test_a_list_is_read_once_more(headrace: Run, tmp_path: Path) -> None:
    """The top of a list is put in the order of the cross-encoder's chances, the rest stays; it is learnt from planted pairs."""
    out = tmp_path / "judge"
    learnt = ("--task", "match", "--epochs", 10, "--batch", 16, "--rate", 5e-3, "--patience", 9)
    assert headrace("finetune", "--rows", a_file(tmp_path, rows=400), "--out", out, *learnt).returncode == 0
    known = {name: Item(item_id=name, title=f"{name} news") for name in NOUNS}
    listed = [NOUNS[4], NOUNS[6], NOUNS[1], "gone", NOUNS[8], NOUNS[3]]
    alike = [RecommendedItem(item_id=name, score=0.1, reason="") for name in listed]
    done = reranked(judge.load(out, dtype="float32"), NOUNS[0], alike, known, 5, 1.0)
    assert done.items[0][:3] == (NOUNS[1], f"{NOUNS[1]} news", 3)
    assert done.items[0].chance is not None
    assert done.items[0].chance > 0.5
    assert {item.item_id for item in done.items} == set(listed)
    assert [(item.item_id, item.was, item.chance) for item in done.items[4:]] == [("gone", 4, None), (NOUNS[3], 6, None)]
    assert done.ms > 0
    with pytest.raises(EncoderError, match="is no cross-encoder"):
        judge.load(make_folder(tmp_path / "plain", "bert"))
    config = out / "config.json"
    config.write_text(config.read_text("utf-8").replace('"0": "0"', '"0": "no"').replace('"1": "1"', '"1": "yes"'), "utf-8")
    with pytest.raises(EncoderError, match="tells no, yes apart, and one of its labels has to say that an item is wanted"):
        judge.load(out)


def test_the_command_reads_a_list_once_more(headrace: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`rerank` shows the newest list with each item's rank before and its chance, and the time; with --json one item a line."""
    out = tmp_path / "judge"
    assert headrace("finetune", "--task", "match", "--rows", a_file(tmp_path), "--out", out, "--epochs", 1).returncode == 0
    items = tmp_path / "items.jsonl"
    items.write_text("\n".join(json.dumps({"item_id": name, "title": name}) for name in NOUNS), "utf-8")
    listed = tuple(RecommendedItem(item_id=name, score=0.1, reason="liked") for name in NOUNS[1:4])
    made = RecommendationList(
        list_id="l",
        user_id="ann",
        items=list(listed),
        event_id="e",
        event_at=1.0,
        published_at=1.0,
        model="zero-shot",
        covers=0,
    )
    touches = [Touch(item_id=NOUNS[0], at=1.0, kind="click", weight=1.0)]
    monkeypatch.setattr(rerank, "newest_list", lambda settings, user: encode(made))
    monkeypatch.setattr(
        rerank, "stored_profile", lambda settings, user: msgspec.structs.replace(new_profile(2, 1), touches=touches)
    )
    done = headrace("rerank", "ann", "--model", out, "--top", 2, "--items", items)
    assert done.returncode == 0, done.stderr
    assert "ann, read once more" in done.stdout
    assert re.search(r"2 items were read with .* in \d+\.\d ms", done.stdout)
    lines = [
        json.loads(line) for line in headrace("rerank", "ann", "--model", out, "--items", items, "--json").stdout.splitlines()
    ]
    assert sorted(line["was"] for line in lines) == [1, 2, 3]
    assert [line["chance"] for line in lines] == sorted((line["chance"] for line in lines), reverse=True)


def test_a_users_text_is_of_the_last_touches() -> None:
    """Titles of the last touches of known items, the newest first, each once."""
    profile = new_profile(2, 1)
    touches = tuple(
        Touch(item_id=name, at=float(at), kind="click", weight=1.0) for at, name in enumerate(["a", "b", "", "a", "x"])
    )
    known = {name: Item(item_id=name, title=name.upper()) for name in "ab"}
    assert user_text_of(msgspec.structs.replace(profile, touches=touches), known) == "A; B"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--task", "guess"), "--task 'guess' is not known: choose one of retrieve, match, domain"),
        (("--folds", 1), "--folds is 1: give 2 or more"),
        ((), "give --rows, or --events and --items"),
        (("--rows", "none.csv"), "none.csv is not there: check the path"),
    ],
)
def test_wrong_options_are_told(headrace: Run, tmp_path: Path, arguments: tuple[object, ...], said: str) -> None:
    """What cannot be done ends with 2 and the next step."""
    done = headrace("finetune", "--out", tmp_path / "tuned", *arguments)
    assert done.returncode == 2
    assert said in re.sub(r"[│\s]+", " ", done.stderr)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"user_text": "a"}, "row 1 has no item_text: name the columns user_text, item_text and label"),
        ({"user_text": "a", "item_text": "b", "at": "noon"}, "is no time"),
        ({"user_text": "a", "item_text": "b", "label": "good"}, "label 'good' is no number"),
        ({"user_text": "a", "item_text": "b"}, "needs some, give more rows"),
    ],
)
def test_wrong_rows_are_told(headrace: Run, tmp_path: Path, row: dict[str, str], said: str) -> None:
    """A row that cannot be read, or too few of them, end with 2 and one line."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row), "utf-8")
    done = headrace("finetune", "--rows", path, "--out", tmp_path / "tuned")
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["label", "at"])
def test_what_some_rows_have_all_must(headrace: Run, tmp_path: Path, name: str) -> None:
    """A row without a label among others would count as wanted."""
    path = tmp_path / "rows.jsonl"
    row = {"user_text": "a", "item_text": "b"}
    path.write_text("\n".join(json.dumps(each) for each in (row, {**row, name: 1_600_000_000})), "utf-8")
    done = headrace("finetune", "--rows", path, "--out", tmp_path / "tuned")
    assert done.returncode == 2
    assert f"1 of 2 rows have `{name}`, others have none: give it to all or to none" in done.stderr


def test_a_missing_library_is_named(headrace: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without peft or optuna the command says what to install."""
    for name, option in (("peft", ("--adapter", "lora")), ("optuna", ("--search", 1))):
        monkeypatch.setitem(sys.modules, name, None)
        done = headrace("finetune", "--rows", a_file(tmp_path), "--out", tmp_path / "tuned", *option)
        assert done.returncode == 2
        assert f"needs {name}: run `pip install 'headrace[finetune]'`" in done.stderr
