"""What lateness costs: with nothing late it is the product, what is late is not known, and planted streams show its worth."""

from __future__ import annotations

import io
import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import DAY, NOW, sourced
from rich.console import Console
from school import ITEMS, KNOWN, by_hand
from school import world as lessons_world

sys.path.insert(0, str(Path(__file__).parent.parent))  # the benchmarks are no part of the installed package

from benchmarks import freshness
from benchmarks.delays import Delays, Profiles, Version, Versions, learnt, replay
from encoders.hashing import HashingEncoder
from ranking.evaluate import NOTHING
from ranking.online import Steps
from ranking.profile import unpack
from streams.answers import ask_product, index_of, numbers_of
from streams.building import build
from streams.datasets import Dataset, by_time
from streams.evaluation import settings_for
from streams.messages import Event, Item
from streams.personalizer import Personalizer
from streams.trial import Trial, trial

SIDE = 20
HOUR = 3_600.0
ENCODER = HashingEncoder(64)


def click(user: str, item: int, at: float) -> Event:
    """Return a click on an item."""
    return Event(event_id=f"{user}-{item}-{at}", user_id=user, type="click", at=at, item_id=f"i{item}")


def of(*events: Event) -> Dataset:
    """Return events on red cups, the first SIDE items, and blue cars."""
    items = [Item(item_id=f"i{n}", title=f"{'red cup' if n < SIDE else 'blue car'} {n}") for n in range(2 * SIDE)]
    return Dataset("planted", items, by_time(events), ("stream",), k=5)


def turning(users: int = 24) -> Dataset:
    """Return users who clicked cups for days, and then turn to cars: four within four minutes, each new to them."""
    rng = np.random.default_rng(1)
    events = []
    for user in range(users):
        cups, cars = rng.permutation(SIDE)[:8], SIDE + rng.permutation(SIDE)[:4]
        turn = NOW + 30 * DAY + user * HOUR
        events += [click(f"u{user}", int(cup), NOW + DAY * n + user) for n, cup in enumerate(cups)]
        events += [click(f"u{user}", int(car), turn + 70.0 * n) for n, car in enumerate(cars)]
    return of(*events)


def hourly(hours: int = 30) -> Dataset:
    """Return four newcomers each ten minutes of an hour, who all click that hour's item and nothing else."""
    return of(*(click(f"u{n}", n // 24, NOW + HOUR * (n // 24) + 600.0 * (n % 24 // 4) + n % 4) for n in range(24 * hours)))


def step(dataset: Dataset, k: int = 5) -> Personalizer:
    """Return the step over a set's items."""
    settings = settings_for(dataset, k, masked=True)
    return build(ENCODER, settings, index_of(dataset.items, NOW - 60 * DAY, ENCODER, settings))  # type: ignore[arg-type]


def recalls(dataset: Dataset, *delays: Delays) -> list[float]:
    """Return the share of cases whose item stands in the list, under each of the delays."""
    made, numbers = trial(dataset, "stream"), numbers_of(dataset)
    wanted = np.array([[numbers[case.wanted[0]]] for case in made.cases])
    return [float((own == wanted).any(axis=1).mean()) for own in replay(step(dataset), made, numbers, 5, delays)]


@pytest.mark.parametrize("dataset", [turning(), hourly()], ids=["turning", "hourly"])
@pytest.mark.parametrize("count", [0, 15])
def test_with_nothing_late_the_lists_are_the_products_own(dataset: Dataset, count: int) -> None:
    """All the cases, and a sample of them: the same items at the same places, with others' delays beside or not."""
    made, numbers = freshness.sample(trial(dataset, "stream"), count), numbers_of(dataset)
    expected = ask_product(step(dataset), made, numbers, 5).lists
    fresh, *_ = replay(step(dataset), made, numbers, 5, [Delays(), Delays(profile_s=DAY), Delays(counts_s=60.0)])
    assert (expected != NOTHING).any()
    assert np.array_equal(fresh, expected)
    assert len(made.cases) == count or not count


def test_a_habit_that_changes_within_minutes_is_seen_by_a_fresh_profile_alone() -> None:
    """Cars are what users want after the first one; a profile an hour late still shows them cups; a minute late is between."""
    fresh, minute, hour, day = recalls(turning(), *(Delays(profile_s=late) for late in (0.0, 100.0, HOUR, DAY)))
    assert fresh > minute > hour + 0.05
    assert hour == day  # all that is known of them is a day old, and older


def test_what_is_in_vogue_for_an_hour_is_known_to_fresh_counts_alone() -> None:
    """Newcomers have no profile: what others clicked in this hour is all there is to know, and a day later it is no use."""
    fresh, minute, hour, profile = recalls(
        hourly(), Delays(), Delays(counts_s=60.0), Delays(counts_s=HOUR), Delays(profile_s=DAY)
    )
    assert fresh > 0.4  # the first clicks of an hour come before it shows
    assert fresh == profile
    assert fresh >= minute > hour + 0.3


@given(st.integers(0, 95), st.sampled_from([0.0, 60.0, HOUR, DAY]), st.integers(0, 23))
def test_a_late_profile_is_that_of_the_events_that_are_old_enough(place: int, delay: float, user: int) -> None:
    """Not one event more, not one less; whether the moments before were asked for or not."""
    dataset, personalizer = turning(), SHARED
    at = float(dataset.events[place].at)
    late = Profiles(personalizer, dataset.events, delay, {f"u{user}"})
    late.until(place // 2, float(dataset.events[place // 2].at))
    late.until(place, at)
    own = [
        (n, each)
        for n, each in enumerate(dataset.events[:place])
        if each.user_id == f"u{user}" and float(each.at) <= at - delay
    ]
    known = unpack(late.record(f"u{user}"), ENCODER.dim, personalizer._key)
    assert [touch.item_id for touch in known.touches] == [each.item_id for _, each in own]
    if own:
        batch = [each._replace(offset=n) for (n, _), each in zip(own, sourced([event for _, event in own]), strict=True)]
        folded = personalizer.fold({}, batch, personalizer.encode([each.event for each in batch]))
        assert folded.records[f"u{user}"] == late.record(f"u{user}")


SHARED = step(turning())


def pupils(last: str = ITEMS[1]) -> Trial:
    """Return a stream of users who each touch three items of a row; the last event is of another item when told so."""
    events = [
        Event(event_id=f"{n}", user_id=f"u{n % 40}", type="click", at=NOW + 60.0 * n, item_id=ITEMS[(n % 40 + n // 40) % 48])
        for n in range(120)
    ]
    events[-1] = Event(event_id="119", user_id="u39", type="click", at=events[-1].at, item_id=last)
    return trial(Dataset("pupils", [Item(item_id=each, title=each) for each in ITEMS], events, ("stream",)), "stream")


@pytest.mark.usefixtures("one_thread")
def test_versions_know_nothing_of_what_comes_after_them() -> None:
    """They come in order, differ, and those before the last event are the same to the last bit whatever it is."""
    base, steps = by_hand({KNOWN: 1.0}), Steps(batch=4, rate=1e-2, keep=0.5)
    made, other = (learnt(lessons_world(), pupils(last), base, every=4, steps=steps) for last in (ITEMS[1], ITEMS[30]))
    assert len(made) == len(other) == 6
    assert len({version.bundle.head.version for version in made}) == 6
    assert all(a.at < b.at and a.place < b.place for a, b in pairwise(made))
    same = [ours.bundle.head.version == theirs.bundle.head.version for ours, theirs in zip(made, other, strict=True)]
    assert same == [True] * 5 + [False]


def test_the_version_in_service_is_the_newest_that_is_old_enough_and_knew_nothing_of_the_case() -> None:
    """By its moment, and among many of one moment by its place."""
    made = [by_hand({KNOWN: weight}) for weight in (1.0, 2.0, 3.0)]
    own = Versions(made[0], lessons_world().maker.index, [Version(NOW, 10, made[1]), Version(NOW + 60.0, 20, made[2])])
    names = [each.head.version for each in made]
    for at, place, number in (
        (NOW - 1, 30, 0),
        (NOW, 9, 0),
        (NOW, 10, 1),
        (NOW + 59, 30, 1),
        (NOW + 60, 19, 1),
        (NOW + 60, 20, 2),
    ):
        assert own.at(at, place).name == names[number]
    assert own.at(NOW + 60 - float("inf"), 30).name == names[0]


def test_a_late_model_ranks_as_the_version_of_that_time() -> None:
    """One that comes an hour late is the trained one until an hour has passed, and the fresh one's lists differ from it."""
    made = pupils()
    numbers = {item: number for number, item in enumerate(ITEMS)}
    first, second = by_hand({KNOWN: 1.0}), by_hand({KNOWN: -1.0}, step=7)
    personalizer = lessons_world()
    versions = Versions(first, personalizer.maker.index, [Version(made.cases[0].at, made.cases[0].place, second)])
    fresh, late, never = replay(
        personalizer, made, numbers, 5, [Delays(), Delays(model_s=HOUR), Delays(model_s=float("inf"))], versions
    )
    assert np.array_equal(late, never)
    assert not np.array_equal(fresh, late)


def test_the_table_the_line_and_the_plot_tell_what_was_found(tmp_path: Path) -> None:
    """Every dial at every delay, each against nothing late, with the intervals in their order; the plot is a small PNG."""
    dataset = turning()
    made, numbers, tried = trial(dataset, "stream"), numbers_of(dataset), freshness.dials(model=False)
    lists = replay(step(dataset), made, numbers, 5, [each for _, _, each in tried])
    found = freshness.Found("planted", "zero-shot", 24, 24, 24, 0, 1.0, freshness.rows(made, numbers, tried, lists))
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(freshness.table(found))
    assert "…" not in console.export_text()
    said = json.loads(freshness.line([found], 1.0))["planted"]["figures"]
    assert {dial: list(own) for dial, own in said.items()} == {
        "fresh": ["at once"],
        **{dial: ["1 minute", "1 hour", "1 day"] for dial in ("profile", "counts", "all")},
    }
    less = said["profile"]["1 hour"]["recall_less"]
    assert less[1] <= less[0] <= less[2] < 0.0
    assert less[0] == pytest.approx(said["profile"]["1 hour"]["recall@20"][0] - said["fresh"]["at once"]["recall@20"][0])
    (again,) = freshness.read(freshness.line([found], 1.0))
    assert freshness.line([again], 1.0) == freshness.line([found], 1.0)
    freshness.draw([found, again], tmp_path / "plots" / "both.png")
    content = (tmp_path / "plots" / "both.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) < 100_000


def test_a_model_that_learns_on_has_rows_of_its_own() -> None:
    """With one, it is late too, up to never; without one there is nothing to be late."""
    names = [(dial, late) for dial, late, _ in freshness.dials(model=True) if dial == "model"]
    assert names == [("model", late) for late in (60.0, HOUR, DAY, float("inf"))]
    assert not [dial for dial, _, _ in freshness.dials(model=False) if dial == "model"]
