"""Tuning over tiny models of random weights: planted tastes are learnt, folders are read again, cut-off fits go on the same."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from conftest import Done
from test_encoders_tiny import WORDS, make_folder

import encoders
from encoders import EncoderError, adapters, finetune, judge, learner, recipe
from encoders.adversarial import Perturbation
from encoders.finetune import FinetuneError, Plan
from encoders.objectives import Contrast, Lessons, Question, Retrieve, find, means
from ranking.index import ItemIndex
from ranking.profile import Touch, new_profile
from streams import rerank
from streams.catalogue import apply
from streams.datasets import of
from streams.messages import Event, Item, ItemVector, RecommendationList, RecommendedItem, encode
from streams.rerank import reranked, user_text_of
from streams.settings import load
from streams.topics import topics
from streams.tuning import fold_of
from streams.tuning_rows import (
    Pair,
    labelled_of_pairs,
    labelled_of_steps,
    lessons_of_pairs,
    lessons_of_steps,
    parts_of,
    steps_of,
    user_text,
)

Run = Callable[..., Done]
NOUNS = WORDS[5:15]  # five pairs: each word belongs to the one beside it
pytestmark = pytest.mark.usefixtures("one_thread")
FAST = Plan(epochs=3, batch=16, rate=5e-3, patience=9)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT."""
    return make_folder(tmp_path_factory.mktemp("base") / "tiny", "bert")


def a_student(folder: Path) -> learner.Learner:
    """Return a folder's model, ready to learn in float32."""
    return learner.load(folder, folder.name, learner.as_encoder, dtype="float32", max_tokens=16)


def planted(users: int = 96, seed: int = 3) -> Lessons:
    """Return lessons in which a word is followed by the other of its pair, whatever their vectors say."""
    order = np.random.default_rng(seed)
    texts = [f"{word} news" for word in NOUNS]
    asked = [Question((int(i),), int(i) ^ 1, user) for user, i in enumerate(order.integers(len(texts), size=users))]
    third = users // 4
    return Lessons(texts, list(range(len(texts))), asked[: users - 2 * third], asked[-2 * third : -third], asked[-third:])


def fitted(
    folder: Path,
    plan: Plan = FAST,
    *,
    contrast: Contrast | None = None,
    kind: Any = "none",
    folder_of: Path | None = None,
    **more: Any,
) -> Any:
    """Fit a retriever on the planted lessons and return it with its fit."""
    student = a_student(folder)
    task = Retrieve(student, planted(), contrast or Contrast(), batch=plan.batch, seed=plan.seed)
    adapted = adapters.adapt(student.model, kind, 4, task.count * plan.epochs, plan.seed)
    student.model = adapted.model
    return task, adapted, finetune.fit(task, plan, adapted, folder=folder_of, **more)


def test_users_are_decayed_means() -> None:
    """A user is the mean of the last texts' vectors, each weighing .8 of the next newer one."""
    table = torch.eye(4)
    made = means([Question((0, 2), 3, 0), Question((1,), 3, 1)], table, {0: 0, 1: 1, 2: 2, 3: 3})
    assert torch.allclose(made, torch.tensor([[0.8, 0, 1, 0], [0, 1.0, 0, 0]]))


def test_what_was_had_stands_behind() -> None:
    """Masked, the items of the history do not stand before what is wanted; unmasked they do."""
    vectors = np.eye(3, dtype=np.float32)
    question = [Question((0,), 1, 0)]
    assert find(vectors, question, [0, 1, 2]).ranks.tolist() == [0]
    assert find(vectors, question, [0, 1, 2], masked=False).ranks.tolist() == [1]


@pytest.mark.parametrize("contrast", [Contrast(), Contrast(hard=2), Contrast(bank=32)], ids=["batch", "hard", "bank"])
def test_planted_pairs_are_learnt(bert: Path, contrast: Contrast) -> None:
    """An untuned model cannot know what follows what; a tuned one does, by in-batch, hard and remembered negatives alike."""
    plan = replace(FAST, epochs=12 if contrast.bank else 5, batch=6 if contrast.bank else 16)
    task, _, done = fitted(bert, plan, contrast=contrast)
    untuned = Retrieve(a_student(bert), planted(), contrast, batch=16, seed=1).figures(planted().test)
    tuned = task.figures(planted().test)
    assert tuned["ndcg@10"] > 0.9 > 0.7 > untuned["ndcg@10"]
    assert tuned["loss"] < untuned["loss"]
    assert done.history[done.best - 1]["ndcg@10"] == max(each["ndcg@10"] for each in done.history)


def test_what_a_user_wanted_at_another_time_is_no_negative(bert: Path) -> None:
    """A text that the group wanted elsewhere does not count against it: the loss is as without that text."""
    texts = ["coffee", "tea", "jazz", "sport"]
    first, other = Question((0,), 1, 7), Question((3,), 2, 7)
    task = Retrieve(
        a_student(bert), Lessons(texts, [0, 1, 2, 3], [first, other], [first], [first]), Contrast(), batch=2, seed=1
    )
    assert task.loss(([0, 1, 2, 3], [first, other])).item() == 0.0
    stranger = replace(other, group=8)
    assert task.loss(([0, 1, 2, 3], [first, stranger])).item() > 0.01


@pytest.mark.parametrize("kind", ["none", "lora", "adalora"])
def test_a_fit_that_was_cut_off_goes_on_the_same(bert: Path, tmp_path: Path, kind: str) -> None:
    """Ended after an epoch and resumed, a fit has the same weights to the last bit, and the same figures."""
    whole, _, first = fitted(bert, kind=kind)

    def stop(epoch: int, share: float, figures: dict[str, float]) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(bert, kind=kind, folder_of=tmp_path, tell=stop)
    again, _, second = fitted(bert, kind=kind, folder_of=tmp_path)
    assert second.resumed == 1
    assert second.history == first.history
    for (name, a), (_, b) in zip(whole.module.named_parameters(), again.module.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_another_plan_finds_no_checkpoint(bert: Path, tmp_path: Path) -> None:
    """A checkpoint of another plan is refused with the next step."""
    fitted(bert, replace(FAST, epochs=1), folder_of=tmp_path)
    with pytest.raises(FinetuneError, match="of another fit: give its options and data again"):
        fitted(bert, replace(FAST, epochs=2), folder_of=tmp_path)


@pytest.mark.parametrize("kind", ["lora", "adalora", "bottleneck"])
def test_an_adapter_begins_as_nothing_and_merges_exactly(bert: Path, kind: str) -> None:
    """An adapter changes no vector before it learns, learns a share, leaves the rest alone, and is merged without a trace."""
    rows = a_student(bert).tokens(planted().texts)
    before = a_student(bert).encoded(rows)
    student = a_student(bert)
    student.model = adapters.adapt(student.model, kind, 4, 30, 1).model  # type: ignore[arg-type]
    assert np.allclose(student.encoded(rows), before, atol=1e-5)
    learns, whole = adapters.counted(student.model)
    assert 0 < learns < 0.35 * whole
    task, adapted, done = fitted(bert, replace(FAST, epochs=6, rate=2e-2), kind=kind)
    assert done.history[-1]["train loss"] < done.history[0]["train loss"]
    tuned = task.learner.encoded(rows)
    assert not np.allclose(tuned, before, atol=1e-3)
    task.learner.model = adapted.merge()
    assert np.allclose(task.learner.encoded(rows), tuned, atol=1e-5)
    assert not any("lora" in name or "more" in name for name, _ in task.learner.model.named_parameters())
    words = a_student(bert).model.get_input_embeddings().weight
    assert torch.equal(task.learner.model.get_input_embeddings().weight, words)


def test_the_perturbation_moves_along_the_gradient_and_back(bert: Path) -> None:
    """In the block the embeddings lie epsilon away, the loss is higher, and afterwards they are as they were."""
    student = a_student(bert)
    task = Retrieve(student, planted(), Contrast(), batch=16, seed=1)
    batch = task.epoch(1)[0]
    clean = task.loss(batch)
    clean.backward()  # type: ignore[no-untyped-call]
    table = student.model.get_input_embeddings().weight
    before = table.detach().clone()
    with torch.no_grad(), Perturbation(student.model, 0.5):
        assert (table - before).norm().item() == pytest.approx(0.5, rel=1e-4)
        assert task.loss(batch).item() > clean.item()
    assert torch.equal(table, before)


@pytest.mark.parametrize("kind", ["none", "lora"])
def test_adversarial_and_accumulated_steps_learn(bert: Path, kind: str) -> None:
    """With the perturbation and several batches to a step the planted pairs are learnt too, beside frozen embeddings."""
    rate = FAST.rate if kind == "none" else 1e-2
    task, _, _ = fitted(bert, replace(FAST, epochs=6, batch=8, rate=rate, accumulate=2, adversarial=0.3), kind=kind)
    assert task.figures(planted().test)["ndcg@10"] > 0.9


# -- the command


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
    small = ("--epochs", 5, "--batch", 16, "--rate", 1e-2, "--adapter", "lora", "--rank", 4)
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


@pytest.mark.parametrize("task", ["retrieve", "match"])
def test_folds_leave_each_user_out_once(task: str) -> None:
    """Over all folds each row is in dev once, no user is on both sides, and test is left alone."""
    pairs = [Pair(f"u{i % 41}", f"item {i % 5}", str(i % 2), None) for i in range(210)]
    data = lessons_of_pairs(pairs) if task == "retrieve" else labelled_of_pairs(pairs)
    own = (lambda row: row.group) if task == "retrieve" else (lambda row: data.users[row])
    parts = [fold_of(data, number, 3, 1) for number in range(3)]
    assert Counter(row for part in parts for row in part.dev) == Counter([*data.train, *data.dev])
    for part in parts:
        assert not {own(row) for row in part.train} & {own(row) for row in part.dev}
        assert part.test == data.test


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
    done = reranked(judge.load(out, dtype="float32"), NOUNS[0], listed, known, 5)
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


# -- rows


def test_parts_lie_in_time() -> None:
    """Of rows with times all of dev comes after train, and test after dev; without times no user's text is in two parts."""
    timed = [Pair("u", "i", "1", float(at)) for at in np.random.default_rng(1).permutation(50)]
    latest = {
        part: [pair.at for pair, own in zip(timed, parts_of(timed), strict=True) if own == part]
        for part in ("train", "dev", "test")
    }
    assert max(latest["train"]) < min(latest["dev"]) <= max(latest["dev"]) < min(latest["test"])
    untimed = [Pair(f"u{i % 9}", "i", "1", None) for i in range(90)]
    own = {(pair.user, part) for pair, part in zip(untimed, parts_of(untimed), strict=True)}
    assert len(own) == 9


def an_event(number: int, user: str, item: str, **more: Any) -> Event:
    """Return a purchase, `number` seconds after the first."""
    return Event(event_id=str(number), user_id=user, type="purchase", at=1.6e9 + number, item_id=item, **more)


def test_events_become_steps_in_time() -> None:
    """A step holds what was touched and said before it; leave-one-out takes the last wanted item for test."""
    items = [Item(item_id=name, title=name.upper(), brand="b") for name in "abcd"]
    events = [an_event(0, "u", "a"), an_event(1, "u", "b", text="so good"), an_event(2, "u", "c"), an_event(3, "u", "d")]
    steps = steps_of(of("set", items, events), is_left_out=True)
    assert steps.texts == ["A. b", "B. b", "C. b", "D. b", "so good"]
    assert [(step.before, step.wanted, step.part) for step in steps.steps] == [
        ((0,), 1, "train"),
        ((0, 1, 4), 2, "dev"),
        ((0, 1, 4, 2), 3, "test"),
    ]
    assert user_text(steps.titles, steps.steps[2].before) == "C; so good; B; A"
    cut = steps_of(of("set", items, [*events, *(an_event(4 + i, f"v{i}", "a") for i in range(6))]))
    assert [step.part for step in cut.steps] == ["train"] * 3


def test_nothing_of_test_is_learnt_from() -> None:
    """Under leave-one-out no train row of a user knows what is held out of that user."""
    items = [Item(item_id=str(i), title=f"item {i}") for i in range(30)]
    order = np.random.default_rng(2)
    events = [
        an_event(9 * user + i, f"u{user}", str(item)) for user in range(40) for i, item in enumerate(order.permutation(30)[:5])
    ]
    steps = steps_of(of("set", items, events), is_left_out=True)
    held = {(step.user, step.wanted) for step in steps.steps if step.part != "train"}
    lessons = lessons_of_steps(steps)
    assert not held & {(question.group, number) for question in lessons.train for number in (*question.before, question.wanted)}
    pairs = labelled_of_steps(steps, seed=1)
    assert sum(pairs.labels[i] for i in pairs.train) == len(lessons.train) == 80
    assert sum(pairs.labels) * 2 == len(pairs.labels)


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
