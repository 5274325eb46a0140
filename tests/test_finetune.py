"""Tuning over tiny models of random weights: planted tastes are learnt, and cut-off fits go on the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_encoders_tiny import WORDS
from transformers import AutoModelForMaskedLM

from encoders import adapters, finetune, learner
from encoders.adversarial import Perturbation
from encoders.finetune import FinetuneError, Plan
from encoders.objectives import Contrast, Lessons, Question, Retrieve, find, means

NOUNS = WORDS[5:15]  # five pairs: each word belongs to the one beside it
pytestmark = pytest.mark.usefixtures("one_thread")
FAST = Plan(epochs=3, batch=16, rate=5e-3, patience=9)


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


@pytest.mark.parametrize("is_paired", [False, True])
def test_tokens_are_the_same_in_parts(bert: Path, monkeypatch: pytest.MonkeyPatch, is_paired: bool) -> None:
    """However many texts are tokenised at once, the last part short or none, each has the tokens it has alone."""
    student = a_student(bert)
    student.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    texts = [" ".join(WORDS[5 : 6 + n]) for n in range(6)] + [""]
    seconds = texts[::-1] if is_paired else None
    whole = student.tokens(texts, seconds)
    assert (whole.types is not None) == is_paired
    for size in (1, 3, 7):
        monkeypatch.setattr(learner, "TOKENISED", size)
        parts = student.tokens(texts, seconds)
        for one, other in zip(whole, parts, strict=True):
            assert [row.tolist() for row in one or ()] == [row.tolist() for row in other or ()]


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
    assert torch.equal(task.learner.model.get_input_embeddings().weight, words) == (kind != "lora")


def test_lora_leaves_words_alone_that_an_output_shares(bert: Path) -> None:
    """Beside a head over the vocabulary, whose weights are the embeddings', the embeddings have no adapter."""
    model = AutoModelForMaskedLM.from_pretrained(bert)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    adapted = adapters.adapt(model, "lora", 4, 30, 1).model
    learning = [name for name, value in adapted.named_parameters() if value.requires_grad]
    assert learning
    assert all("lora_A" in name or "lora_B" in name for name in learning)


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
