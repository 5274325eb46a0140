"""The benchmark: its texts, its arithmetic, its output, and one small run of the whole."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent))  # the benchmarks are no part of the installed package

from benchmarks import encode as encoding
from benchmarks import figures, texts
from benchmarks.client import Sent
from benchmarks.figures import GOALS, median, percentile, steady
from benchmarks.index import recall
from encoders.hashing import HashingEncoder
from streams.catalogue import item_text
from streams.messages import decode_item, encode
from streams.words import read

REACHED = {goal.name: goal.bound for goal in GOALS}


def test_items_are_distinct_valid_and_the_same_each_time() -> None:
    """Every item has a text and an id of its own, passes the topic's checks, and fewer items are the first of more."""
    items = texts.items(2_000)
    assert len({item_text(item) for item in items}) == len({item.item_id for item in items}) == 2_000
    assert [decode_item(encode(item)) for item in items[:200]] == items[:200]
    assert texts.items(50) == items[:50]


def test_words_are_distinct_and_read_as_what_they_are() -> None:
    """Every user text differs, and the worker encodes exactly it: one statement with the same words."""
    words = texts.words(6_000)
    assert len({each.text for each in words}) == 6_000
    assert texts.words(20) == words[:20]
    for each in words:
        assert [said.text for said in read(each.text, each.kind).said] == [each.text]
    lengths = [len(each.text.split()) for each in words]
    assert 6 < np.mean(lengths) < 12
    assert {each.kind for each in words} == {"comment", "search"}


def test_kinds_of_text_are_distinct_and_what_they_say(tmp_path: Path) -> None:
    """Titles are short, reviews of mixed length, Chinese is Chinese; real reviews are the file's own, in order, none twice."""
    found = texts.kinds(500)
    assert {kind: len(set(some)) for kind, some in found.items()} == {"title": 500, "review": 500, "chinese": 500}
    lengths = {kind: np.percentile([len(text) for text in some], [10, 90]) for kind, some in found.items()}
    assert lengths["title"][1] < 100
    assert lengths["review"][1] > 5 * lengths["review"][0]
    assert all(any("\u4e00" <= character <= "\u9fff" for character in text) for text in found["chinese"])
    (tmp_path / "amazon-reviews").mkdir()
    with zipfile.ZipFile(tmp_path / "amazon-reviews/some.zip", "w") as archive:
        archive.writestr("some.csv", 'asin,reviewText\n1,good tea\n2,\n3,good tea\n4,"bad, cold"\n')
    assert texts.kinds(2, tmp_path)["review"] == ["good tea", "bad, cold"]
    with pytest.raises(ValueError, match="only 2 different texts, wanted are 3"):
        texts.kinds(3, tmp_path)


def test_the_worst_ratio_counts() -> None:
    """Of models, threads and kinds of text the lowest ratio of each size is the figure; bfloat16 where there is one."""

    def rates(ours: float, full: float, half: float | None = None) -> dict[str, dict[str, float]]:
        sides = {"ours": ours, "float32": full} | ({"bfloat16": half} if half else {})
        return {str(size): sides for size in encoding.SIZES}

    compared = {
        "a, 1": {
            "kinds": {"title": rates(30, 10, 20), "review": rates(50, 10, 40)},
            "cosine": {"title": 0.9999, "review": 1.0},
        },
        "b, 1": {"kinds": {"title": rates(40, 16)}, "cosine": {"title": 0.9991}},
    }
    found = encoding.summary(compared)
    assert found["ratio_1"] == found["ratio_512"] == 2.5
    assert found["ratio_64_bfloat16"] == 1.25
    assert found["min_cosine"] == 0.9991


def test_vectors_are_kept(tmp_path: Path) -> None:
    """Vectors are made once for an encoder and its texts; other texts or another encoder get others."""
    small, other = HashingEncoder(16), HashingEncoder(32)
    made = texts.vectors(["tea", "jazz"], small, tmp_path)
    (path,) = tmp_path.iterdir()
    np.save(path, made[::-1])
    assert np.array_equal(texts.vectors(["tea", "jazz"], small, tmp_path), made[::-1])
    assert np.array_equal(texts.vectors(["jazz", "tea"], small, tmp_path), made[::-1])
    assert texts.vectors(["tea", "jazz"], other, tmp_path).shape == (2, 32)
    assert len(list(tmp_path.iterdir())) == 3


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_a_percentile_is_a_value_with_enough_below(values: list[float], share: float) -> None:
    """The percentile is one of the values, at least the share lies at or below it, and less than the share lies below it."""
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values) + 1e-9


def test_an_event_without_a_list_shows() -> None:
    """Two in a hundred unanswered events make the p99 infinite and leave the median alone; the line says null."""
    values = [0.01] * 98 + [float("inf")] * 2
    assert percentile(values, 0.5) == 0.01
    assert percentile(values, 0.99) == float("inf")
    assert json.loads(figures.line({"p99_ms": percentile(values, 0.99)}, {}, {}))["p99_ms"] is None
    with pytest.raises(ValueError, match="measured nothing"):
        percentile([], 0.5)


def test_median() -> None:
    """The middle one of an odd number, the mean of the two middle ones of an even number."""
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5


@given(st.integers(1, 50), st.integers(30, 200), st.floats(0.001, 2.0), st.floats(0.0, 100.0), st.randoms())
def test_a_steady_rate_ignores_the_start(size: int, steps: int, every_s: float, late_s: float, random: object) -> None:
    """Steps of one size at one pace give size / pace, whatever the order they are read in and however late the first began."""
    at = [0.0] + [late_s + every_s * number for number in range(1, steps)]
    order = np.random.default_rng(steps).permutation(steps)
    rate = steady([at[place] for place in order], [size] * steps)
    assert rate == pytest.approx(size / every_s, rel=1e-6)


def test_a_rate_of_one_moment_is_refused() -> None:
    """What was all done at once has no rate."""
    with pytest.raises(ValueError, match="measure more"):
        steady([1.0, 1.0], [5, 5])


def test_lists_answer_up_to_the_event_they_name() -> None:
    """A list answers all of its user's events up to the one named, from when each was due; others stay without."""
    sent = Sent()
    ids = [sent.note(user, due, due + 0.5) for user, due in (("ann", 1.0), ("bob", 2.0), ("ann", 3.0), ("ann", 4.0))]
    sent.answered("ann", ids[2], 10.0)
    sent.answered("bob", "of-someone-else", 11.0)
    assert sent.taken_s == [9.0, float("inf"), 7.0, float("inf")]
    assert sent.unanswered == 2
    sent.answered("ann", ids[0], 12.0)  # a list published again
    assert sent.taken_s[0] == 9.0
    assert sent.late_s == [0.5] * 4


def test_recall_counts_what_was_found() -> None:
    """Half of the truth found in one row and all of it in the other is a recall of three quarters, in whatever order."""
    assert recall(np.array([[4, 1, 9, 8], [4, 3, 2, 1]]), np.array([[1, 2, 3, 4], [1, 2, 3, 4]])) == 0.75


def test_the_table_and_the_line() -> None:
    """Every goal has its row and its verdict; the line is JSON with all figures, what was beside, and on what."""
    missed = dict(REACHED) | {"text_ratio": 0.1, "p99_ms": 51.0}
    shown = figures.table(missed, {"text_per_s": [1.0, 2.0]}, {"broker": "kafka", "versions": {"torch": "2"}})
    cells = [list(islice(column.cells, len(GOALS))) for column in shown.columns]
    verdicts = dict(zip((goal.name for goal in GOALS), cells[3], strict=True))
    assert [name for name, verdict in verdicts.items() if "missed" in str(verdict)] == ["text_ratio", "p99_ms"]
    said = json.loads(figures.line(missed, {"text_per_s": [1.0, 2.0]}, {"broker": "kafka"}))
    assert said == missed | {"beside": {"text_per_s": [1.0, 2.0]}, "on": {"broker": "kafka"}}


@pytest.mark.embedded
@pytest.mark.timeout(420)
def test_a_small_run_of_the_whole(tmp_path: Path) -> None:
    """The command ends by itself, measures every figure, and prints them as one line of JSON last."""
    small = (
        "--items 300 --encoder hashing --texts 9000 --clicks 9000 --words 300 --load 100 --new-items 2 --repeats 1 "
        "--warm-up 0.3 --seconds 1 --rate 40 --users 50 --json --folder"
    )
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.flow", *small.split(), str(tmp_path / "run")],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,  # above the time after which the benchmark itself says what did not come
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said.keys() >= REACHED.keys()
    assert all(said[name] > 0 for name in REACHED)
    assert said["beside"]["index_items"] == 300
    assert said["beside"]["index_recall_at_100"] == 1.0
    assert said["on"]["items"] == 300
    assert not (tmp_path / "run" / "broker").exists()
