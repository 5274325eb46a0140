"""A model without a part: what M does not use has no weight, and leaving out what carries a planted habit costs recall."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from planted import DAY, NOW
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent.parent))  # the benchmarks are no part of the installed package

from benchmarks import quality
from encoders.hashing import HashingEncoder
from ranking import features
from ranking.bundle import Bundle
from ranking.features import NAMES
from ranking.index import ItemIndex
from ranking.train import Plan
from streams import ablation, evaluation, report
from streams.ablation import GROUPS, LINEAR, ZERO_SHOT, Parts
from streams.answers import index_of
from streams.building import build
from streams.datasets import Dataset
from streams.evaluation import Verdict, settings_for
from streams.measuring import measure
from streams.messages import Event, Item
from streams.training import CROSSED, Sizes, Training
from streams.trial import trial

DAYS, DAILY, ITEMS = 30, 24, 40
ENCODER = HashingEncoder(64)
WIDTH = 16
ASKED = (ZERO_SHOT, "without text", "without popularity")


def fashion() -> Dataset:
    """Return newcomers of each day, all of whom click the item of that day: nothing else says what they want."""
    days = np.random.default_rng(1).permutation(ITEMS)[:DAYS]
    events = [
        Event(event_id=f"{day}-{n}", user_id=f"u{day}-{n}", type="click", at=NOW + DAY * (day + n / DAILY), item_id=f"i{hot}")
        for day, hot in enumerate(days)
        for n in range(DAILY)
    ]
    items = [Item(item_id=f"i{n}", title=f"{n:03d}") for n in range(ITEMS)]
    return Dataset("fashion", items, events, ("stream",), k=1)


def training(dataset: Dataset, index: ItemIndex) -> Training:
    """Return a small training on what the stream's cases know."""
    known = trial(dataset, "stream").known
    step = build(ENCODER, settings_for(dataset, dataset.k, masked=True), index)
    sizes, plan = Sizes(width=WIDTH, hidden=8, lists=400), Plan(epochs=8, batch=64, rate=1e-2)
    return Training(step, known, dataset.is_wanted, {}, sizes, plan, lambda what, epoch, figures: None)


def an_index(dataset: Dataset) -> ItemIndex:
    """Return an index of the set's items."""
    return index_of(dataset.items, NOW, ENCODER, settings_for(dataset, dataset.k, masked=True))


class Made:
    """One training with all its models, and what the trial says of them."""

    def __init__(self) -> None:
        self.dataset = fashion()
        self.index = an_index(self.dataset)
        self.training = training(self.dataset, self.index)
        self.whole: Bundle = self.training.run({})
        self.parts: Parts = ablation.parts(self.training)
        self.verdict: Verdict = evaluation.run(
            self.dataset,
            trial(self.dataset, "stream"),
            settings_for(self.dataset, self.dataset.k, masked=True),
            ENCODER,
            self.index,
            masked=True,
            baselines=lambda dataset: [],
            make=evaluation.with_model(self.whole),
            parts={name: evaluation.with_model(self.parts[name]) for name in ASKED},
        )


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    """The fashion's. Others' events are known a window late in a replay: a day has to hold a few of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streams.training.WINDOW", DAILY // 4)
        yield Made()


def test_every_input_is_in_one_group() -> None:
    """No name of a feature is forgotten or stands twice, and no group has a name that is no input."""
    grouped = [name for inputs in GROUPS.values() for name in inputs]
    assert sorted(grouped) == sorted([*features.NAMES, CROSSED])


@pytest.mark.parametrize("group", GROUPS)
def test_what_is_left_out_has_no_weight(made: Made, group: str) -> None:
    """Serving ignores it: the rows of both weights are 0 where asked, and there alone; all but M is the whole model's."""
    own = made.parts[f"without {group}"]
    assert own is not None
    asked = np.array([name in GROUPS[group] for name in [*NAMES, *[CROSSED] * WIDTH]])
    assert not own.tensors["m.w"][asked].any()
    assert not own.tensors["m.w1"][asked].any()
    assert np.abs(own.tensors["m.w1"][~asked]).sum(axis=1).all()
    assert own.tensors["m.w3"].any()
    for name, value in made.whole.tensors.items():
        assert name.startswith("m.") or own.tensors[name] is value
    assert own.head.report["without"] == sorted(GROUPS[group])


def test_each_group_is_left_out_once(made: Made) -> None:
    """Beside the model that learnt nothing, and the one without hidden layers."""
    assert list(made.parts) == [ZERO_SHOT, *(f"without {name}" for name in GROUPS), LINEAR]
    assert made.parts[ZERO_SHOT] is None
    versions = {own.head.version for own in made.parts.values() if own is not None}
    assert len(versions) == len(GROUPS) + 1


def test_a_linear_model_has_no_hidden_layers(made: Made) -> None:
    """Nothing comes of them, and the linear part has learnt."""
    own = made.parts[LINEAR]
    assert own is not None
    assert not own.tensors["m.w3"].any()
    assert own.tensors["m.w"].any()


def test_leaving_nothing_out_gives_the_whole_model_again(made: Made) -> None:
    """The fit is the same one on the same lists."""
    again = made.training.without(())
    for name in ("w", "w1", "w2", "w3"):
        np.testing.assert_allclose(again.tensors[f"m.{name}"], made.whole.tensors[f"m.{name}"], atol=1e-3)


def test_the_part_that_carries_the_habit_costs_recall(made: Made) -> None:
    """What a newcomer wants is told by what is rising, and by nothing that the texts say."""
    ahead = {row.name: row.ahead["recall"] for row in made.verdict.parts}
    assert ahead["without popularity"].low > 0.5
    assert abs(ahead["without text"].mean) < 0.05


def test_an_input_that_is_none_and_a_training_that_did_not_run_are_refused(made: Made) -> None:
    """Both say what to give."""
    with pytest.raises(ValueError, match="no input tough"):
        made.training.without(["tough", "touches"])
    with pytest.raises(ValueError, match=r"call run\(\) first"):
        training(made.dataset, made.index).without(())


def test_rows_without_a_part_have_a_table_and_a_place_of_their_own(made: Made, tmp_path: Path) -> None:
    """They are no baselines; the whole model stands first, under a name that says so."""
    verdict = made.verdict
    assert [row.name for row in verdict.rows] == ["headrace"]
    said = json.loads(report.line({"": verdict}, 1.0))
    assert list(said["ablation"]) == ["all", *ASKED]
    assert said["ablation"]["all"] == {name: said[name] for name in ("recall@1", "ndcg@1")}
    assert said["baselines"] == {}
    console = Console(width=120, record=True, file=io.StringIO())
    (table,) = report.part_tables(verdict)
    console.print(table)
    printed = console.export_text()
    for row in verdict.parts:
        assert row.name in printed
        assert report.interval(row.ahead["recall"], signed=True) in printed
    page = report.write([verdict], tmp_path).read_text()
    assert "<td>without popularity</td>" in page


@pytest.mark.parametrize("other", [["--zero-shot"], ["--model", "folder"]])
def test_only_what_is_trained_here_can_be_taken_apart(
    other: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command says so before it reads anything, and so does the measuring."""
    monkeypatch.setattr(sys, "argv", ["quality", "nowhere", "--ablation", *other])
    with pytest.raises(SystemExit):
        quality.main()
    assert "neither --model nor --zero-shot" in capsys.readouterr().err
    with pytest.raises(ValueError, match="trained here"):
        measure(fashion(), Console(file=io.StringIO()), ablate=True)
