"""Trials and answers: nothing asked is known, product and baselines answer the same, and a planted world is solved by both."""

from __future__ import annotations

import io
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import planted
import pytest
from numpy.typing import NDArray
from rich.console import Console

from encoders.hashing import HashingEncoder
from ranking.baselines import Histories, Numbers, Scores
from ranking.bundle import Bundle, Head, sealed
from ranking.evaluate import NOTHING
from streams import evaluation, reach, report
from streams.answers import MOST, Remembered, ask_baseline, ask_product, best, blocks, index_of, numbers_of
from streams.building import build
from streams.datasets import Dataset, DatasetError, GivenRow, in_order, of
from streams.evaluation import Verdict, settings_for
from streams.measuring import seen_before
from streams.messages import Event, Item
from streams.reach import ALL, Reached
from streams.trial import Case, Trial, trial

SIDE = 12


def world(users: int = 20, each: int = 8, seed: int = 1) -> Dataset:
    """Return a checkerboard: even users click red cups, odd ones blue cars, in random order, never one twice."""
    rng = random.Random(seed)
    items = [Item(item_id=f"i{n}", title=f"{'red cup' if n < SIDE else 'blue car'} {n}") for n in range(2 * SIDE)]
    events = []
    for user in range(users):
        own = rng.sample(range(SIDE), each)
        events += [(planted.NOW + rng.random() * planted.DAY, user, n + SIDE * (user % 2)) for n in own]
    made = [
        Event(event_id=str(n), user_id=f"u{user}", type="click", at=at, item_id=f"i{item}")
        for n, (at, user, item) in enumerate(sorted(events))
    ]
    return Dataset("world", items, made, ("split", "stream"), k=5)


def given(part: str = "test") -> Dataset:
    """Return the world with a row of each part to ask."""
    rows = [GivenRow("valid", "u0", ("i0", "i1"), "i2"), GivenRow("test", "u0", ("i1", "i2"), "i3")]
    return replace(world(), rows=rows, protocols=("given",))


class Recorder:
    """A baseline that writes down what it was taught and asked, and likes item 0 best."""

    name = "recorder"

    def __init__(self, items: int) -> None:
        self.items = items
        self.learnt: list[int] = []
        self.known: list[int] = []  # events learnt at each case
        self.asked: list[list[int]] = []

    def learn(self, users: Numbers, items: Numbers, at: NDArray[np.float64]) -> None:
        """Write the items down."""
        self.learnt += items.tolist()

    def scores(self, histories: Histories, users: Numbers, at: float) -> Scores:
        """Write the histories down."""
        self.known += [len(self.learnt)] * len(histories)
        self.asked += [list(own) for own in histories]
        return np.tile(-np.arange(self.items, dtype=np.float32), (len(histories), 1))


@pytest.mark.parametrize("protocol", ["split", "stream", "leave-one-out"])
@pytest.mark.parametrize("part", ["valid", "test"])
def test_no_trial_knows_what_it_asks(protocol: str, part: str) -> None:
    """Not one case's item was touched by its user among the events known to it; validation knows nothing of the test's."""
    dataset = world()
    made = trial(dataset, protocol, part)  # type: ignore[arg-type]
    assert made.cases
    for case in made.cases:
        before = {event.item_id for event in made.events[: case.place] if event.user_id == case.user_id}
        assert not before & set(case.wanted)
        assert case.known == len(before)
    if part == "valid":
        known = {event.event_id for event in made.events}
        test = trial(dataset, protocol, "test")
        asked = {(case.user_id, item) for case in test.cases for item in case.wanted}
        assert not asked & {(event.user_id, event.item_id) for event in made.events}
        assert known < {event.event_id for event in dataset.events}


def test_a_given_row_is_asked_with_its_own_history_and_validation_is_known_to_the_test() -> None:
    """The rows of the validation become events only for the test."""
    valid, test = trial(given(), "", "valid"), trial(given(), "", "test")
    assert [event.item_id for event in test.cases[0].history or ()] == ["i1", "i2"]
    assert (valid.cases[0].wanted, test.cases[0].wanted, test.cases[0].person) == (("i2",), ("i3",), "u0")
    assert len(test.events) == len(valid.events) + 1


def test_protocols_and_sets_with_nothing_to_ask_are_refused_by_name() -> None:
    """Errors say what there is."""
    with pytest.raises(DatasetError, match="no protocol 'guess': give one of leave-one-out, split, stream, given"):
        trial(world(), "guess")
    with pytest.raises(DatasetError, match="finds nothing to ask among 2 events"):
        trial(replace(world(), events=in_order("u", ["i0", "i1"])[:2]), "given")
    strangers = [in_order(f"u{n}", ["i0"], end=planted.NOW + n)[0] for n in range(10)]
    with pytest.raises(DatasetError, match="none of the 2 users that the split protocol asks for did anything before"):
        trial(replace(world(), events=strangers), "split")
    with pytest.raises(DatasetError, match="there are 0 events and 24 items: give some of both"):
        of("world", world().items, [])


def test_a_model_that_has_seen_what_is_asked_for_is_told() -> None:
    """One that learnt up to the first case has seen nothing of the test, one of all events the cases before its end."""
    asked = trial(world(), "stream")

    def until(moment: float | None) -> Bundle:
        return sealed(
            Head(encoder="e", dim=1, kinds=(), features=(), shape={}, report={} if moment is None else {"until": moment}),
            (),
            {},
        )

    assert seen_before(until(float(asked.known[-1].at)), asked) == seen_before(until(None), asked) == ""
    last = asked.cases[-1].at
    seen = sum(case.at < last for case in asked.cases)
    assert f"has learnt from what {seen} of {len(asked.cases)} cases ask for" in seen_before(until(last), asked)


def test_a_stream_is_answered_from_all_that_came_before() -> None:
    """Each history is the user's own up to the case; others' events are known but for those of the same block."""
    dataset = world()
    made = trial(dataset, "stream")
    recorder = Recorder(len(dataset.items))
    ask_baseline(recorder, made, dataset, 5, masked=True)
    numbers = numbers_of(dataset)
    for case, history, known in zip(made.cases, recorder.asked, recorder.known, strict=True):
        own = [numbers[event.item_id or ""] for event in made.events[: case.place] if event.user_id == case.user_id]
        assert history == own
        assert case.place - MOST <= known <= case.place
    late = [numbers[event.item_id or ""] for event in made.events[: made.cases[-1].place]]
    assert recorder.learnt == late


def test_blocks_hold_a_minute_and_keep_the_order() -> None:
    """No case is lost, and none of a block lies a minute after its first."""
    cases = [Case("u", n, at, ("i",), 0) for n, at in enumerate([0.0, 30.0, 59.0, 60.0, 200.0, *[300.0] * (MOST + 1)])]
    parts = list(blocks(cases))
    assert [case for part in parts for case in part] == cases
    assert [len(part) for part in parts] == [3, 1, 1, MOST, 1]


def test_masked_lists_leave_the_history_out_and_others_keep_it() -> None:
    """The recorder likes low numbers best, whoever had them."""
    dataset = given()
    made = trial(dataset)
    for masked, wanted in ((False, [0, 1, 2]), (True, [0, 3, 4])):
        found = ask_baseline(Recorder(24), made, dataset, 3, masked=masked)
        assert found.lists.tolist() == [wanted]


def test_the_best_of_scores_come_in_order_and_a_short_row_is_filled_with_nothing() -> None:
    """Of equal scores the lower number; what is -inf never stands in a list."""
    low = -np.inf
    scores = np.array([[1.0, 3.0, 2.0, 3.0], [low, low, 0.5, low]], np.float32)
    assert best(scores, 3).tolist() == [[1, 3, 2], [2, NOTHING, NOTHING]]
    assert best(scores, 6)[0].tolist() == [1, 3, 2, 0, NOTHING, NOTHING]


def judged(dataset: Dataset, made: Trial, *, masked: bool = True, sources: bool = False) -> Verdict:
    """Return the verdict of the product with the hashing encoder, and of the simple baselines."""
    settings, encoder = settings_for(dataset, dataset.k, masked=masked), HashingEncoder(64)
    index = index_of(dataset.items, float(dataset.events[0].at), encoder, settings)
    return evaluation.run(
        dataset,
        made,
        settings,
        encoder,
        index,
        masked=masked,
        baselines=evaluation.simple_baselines,  # type: ignore[arg-type]
        sources=sources,
    )


@pytest.mark.parametrize("protocol", ["split", "stream"])
def test_product_and_text_solve_the_checkerboard_that_popularity_cannot(protocol: str) -> None:
    """All that the lists of users with a history show is of their side, so they hit more than half more often."""
    verdict = judged(world(), trial(world(), protocol))
    recall = {row.name: row.means["recall"] for row in verdict.rows}
    assert next(iter(recall)) == "headrace"
    for name in ("headrace", "TF-IDF", "co-occurrence", "TF-IDF + co-occurrence"):
        assert recall[name].mean > 1.2 * recall["popularity"].mean
    ahead = next(row.ahead["recall"] for row in verdict.rows if row.name == "popularity")
    assert ahead.mean == pytest.approx(recall["headrace"].mean - recall["popularity"].mean)
    assert ahead.low > 0.0


def test_unmasked_lists_of_the_product_hold_what_the_user_had() -> None:
    """The same trial, told to keep the history in."""
    dataset = world()
    made, numbers = trial(dataset, "leave-one-out"), numbers_of(dataset)
    repeats = []
    for masked in (True, False):
        settings, encoder = settings_for(dataset, 5, masked=masked), HashingEncoder(64)
        index = index_of(dataset.items, planted.NOW, encoder, settings)
        lists = ask_product(build(encoder, settings, index), made, numbers, 5).lists  # type: ignore[arg-type]
        had = [{numbers[e.item_id or ""] for e in made.events if e.user_id == case.user_id} for case in made.cases]
        repeats.append(sum(len(own & set(row.tolist())) for own, row in zip(had, lists, strict=True)))
    assert repeats[0] == 0 < repeats[1]


def test_buckets_divide_the_cases_and_new_items_are_told_apart() -> None:
    """By history every case is in one bucket; an item first touched in the test is `unseen`."""
    dataset = world()
    late = [replace_item(event, "i0" if n % 2 else "i23") for n, event in enumerate(dataset.events[-8:])]
    dataset = replace(
        dataset,
        events=[*(event for event in dataset.events[:-8] if event.item_id not in ("i0", "i23")), *late],
    )
    made = trial(dataset, "stream")
    row = judged(dataset, made).rows[0]
    assert sum(bucket.cases for bucket in row.by_known.values()) == len(made.cases)
    unseen = [case for case in made.cases if case.wanted[0] in ("i0", "i23")]
    assert row.by_age["unseen"].cases == len(unseen) > 0
    assert row.by_age["seen"].cases == len(made.cases) - len(unseen)


def replace_item(event: Event, item_id: str) -> Event:
    """Return the event about another item."""
    return Event(event_id=event.event_id, user_id=event.user_id, type=event.type, at=event.at, item_id=item_id)


def crowded(sides: int = 4, side: int = 120, users: int = 12, each: int = 10) -> Dataset:
    """Return a world of more items than are compared: each user clicks things of one kind, never one twice."""
    things, rng = ("red cup", "blue car", "old boat", "hot tea"), random.Random(1)
    items = [Item(item_id=f"i{n}", title=things[n // side]) for n in range(sides * side)]
    events = [
        (planted.NOW + place * 60.0 + rng.random(), user, n + side * (user % sides))
        for user in range(users)
        for place, n in enumerate(rng.sample(range(side), each))
    ]
    made = [
        Event(event_id=str(n), user_id=f"u{user}", type="click", at=at, item_id=f"i{item}")
        for n, (at, user, item) in enumerate(sorted(events))
    ]
    return Dataset("crowded", items, made, ("split", "stream"), k=5)


@pytest.mark.parametrize("protocol", ["split", "stream"])
def test_a_source_that_holds_the_users_kind_finds_all_and_one_without_a_query_nothing(protocol: str) -> None:
    """Interests reach the whole kind, which is smaller than what is compared; nobody asked for anything in words."""
    dataset = crowded()
    made = trial(dataset, protocol)
    verdict = judged(dataset, made, sources=True)
    assert verdict.reach["long interest"] == verdict.reach["last touches"] == verdict.reach["merged"] == 1.0
    assert verdict.reach["asked"] == 0.0
    assert 0.0 < verdict.reach["co-visits"] < 1.0
    assert verdict.reach[ALL] >= verdict.reach["merged"]
    assert verdict.reach_cases == sum(made.main)
    assert evaluation.CANDIDATES - 10 <= verdict.candidates < evaluation.CANDIDATES  # less what the user had, 8 or 9


def test_asking_the_sources_changes_no_list() -> None:
    """Lists and chances are those of an evaluation that does not look."""
    dataset = crowded()
    made, numbers = trial(dataset, "stream"), numbers_of(dataset)
    settings, encoder = settings_for(dataset, 5, masked=True), HashingEncoder(64)
    index = index_of(dataset.items, planted.NOW, encoder, settings)
    plain = ask_product(build(encoder, settings, index), made, numbers, 5)  # type: ignore[arg-type]
    looked = build(encoder, settings, index)
    answers = ask_product(looked, made, numbers, 5, reached=Reached(made))  # type: ignore[arg-type]
    assert np.array_equal(plain.lists, answers.lists)
    assert plain.chances == pytest.approx(answers.chances)


def test_given_rows_are_asked_with_their_own_histories() -> None:
    """What the row's user had is masked; what is wanted is of the same kind."""
    dataset = crowded()
    rows = [GivenRow("test", "u0", ("i1", "i2"), "i3"), GivenRow("test", "u1", ("i1", "i2"), "i2")]
    dataset = replace(dataset, rows=rows, protocols=("given",))
    verdict = judged(dataset, trial(dataset), sources=True)
    assert (verdict.reach_cases, verdict.reach["long interest"], verdict.reach["merged"]) == (2, 0.5, 0.5)
    assert judged(dataset, trial(dataset, again=True), masked=False, sources=True).reach["long interest"] == 1.0


def test_a_long_trial_is_asked_at_so_many_places_from_its_first_main_case_to_its_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost is bounded, and no end of the stream is left out."""
    dataset = crowded()
    made = trial(dataset, "stream")
    monkeypatch.setattr(reach, "CASES", 3)
    asked: list[list[str]] = []

    class Noted(Reached):
        def _note(self, found: object, wanted: object, index: object) -> None:
            asked.extend(list(own) for own in wanted)  # type: ignore[attr-defined]

    settings, encoder = settings_for(dataset, 5, masked=True), HashingEncoder(64)
    personalizer = build(encoder, settings, index_of(dataset.items, planted.NOW, encoder, settings))
    ask_product(personalizer, made, numbers_of(dataset), 5, reached=Noted(made))  # type: ignore[arg-type]
    cases = made.cases
    assert asked == [list(cases[n].wanted) for n in (0, (len(cases) - 1) // 2, len(cases) - 1)]


def test_sources_are_in_the_line_the_table_and_the_page(tmp_path: Path) -> None:
    """With the prefix of the other figures; nothing is said of them where they were not asked."""
    dataset = crowded()
    verdict = judged(dataset, trial(dataset, "split"), sources=True)
    said = json.loads(report.line({"": verdict, "masked_": verdict}, 1.0))
    assert said["sources"]["long interest"] == said["sources"]["masked_long interest"] == 1.0
    assert said["beside"]["masked_candidates"] == pytest.approx(verdict.candidates, rel=1e-4)
    assert said["beside"]["source_cases"] == verdict.reach_cases
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(report.source_table(verdict))
    shown = console.export_text()
    assert "…" not in shown
    assert "recall@200" in shown
    page = report.write([verdict], tmp_path / "asked").read_text()
    assert "<td>co-visits</td>" in page
    without = judged(dataset, trial(dataset, "split"))
    assert (without.reach, json.loads(report.line({"": without}, 1.0))["sources"]) == ({}, {})
    assert "co-visits</td>" not in report.write([without], tmp_path / "plain").read_text()


def test_the_line_of_json_has_each_figure_with_its_interval_and_the_baselines() -> None:
    """What other programs read; a mask told apart by its prefix."""
    verdict = judged(world(), trial(world(), "split"))
    said = json.loads(report.line({"": verdict, "masked_": verdict}, 1.0, set="world"))
    for name in ("recall@5", "ndcg@5", "masked_recall@5", "masked_ndcg@5"):
        low, high = said["intervals"][name]
        assert low <= said[name] <= high
        assert said["baselines"]["popularity"][name] < said[name]
    assert said["seconds"] == 1.0


def test_the_tables_fit_a_terminal_of_80_columns() -> None:
    """No figure is cut short."""
    verdict = judged(world(), trial(world(), "split"))
    console = Console(width=80, record=True, file=io.StringIO())
    for table in (*report.tables(verdict), report.bucket_table(verdict)):
        console.print(table)
    said = console.export_text()
    assert "…" not in said
    assert report.interval(verdict.rows[0].means["ndcg"]) in said
    assert report.interval(verdict.rows[1].ahead["ndcg"], signed=True) in said


def test_the_report_is_one_page_with_its_plots_inside(tmp_path: Path) -> None:
    """Opens without anything beside it; the plots lie beside it as PNG too."""
    page = report.write([judged(world(), trial(world(), "split"))], tmp_path / "out").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "TF-IDF + co-occurrence" in page
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_what_was_encoded_is_remembered_over_runs(tmp_path: Path) -> None:
    """A second run asks the encoder nothing, and gets the same."""
    counting = planted.Counting()
    first = Remembered(counting, tmp_path)
    vectors = first.encode(["a", "b", "a"])
    first.save()
    again = Remembered(counting, tmp_path).encode(["b", "a"])
    assert counting.texts == ["a", "b"]
    assert again == pytest.approx(vectors[[1, 0]])
