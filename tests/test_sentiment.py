"""A head over an encoder's vectors judges opinions: sign and strength reach the profile; without a head cue words decide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Done
from planted import NOW, Counting, event, sourced
from sklearn.metrics import roc_auc_score

from encoders import sentiment
from encoders.sentiment import DEADBAND, HeadError, SentimentHead
from ranking.index import IndexedItem, ItemIndex
from ranking.profile import AVOID, SHORT, interests_of, key_of, unpack
from streams import reviews
from streams.building import build
from streams.messages import Event
from streams.personalizer import Personalizer
from streams.settings import Settings, load
from streams.worker import REFUSALS

ENCODER = Counting()
GOOD, BAD = ("splendiferous", "glimmering", "top"), ("gruesome", "wobbly", "dud")  # no cue words
THINGS = ("kettle", "lamp", "novel", "desk", "tea", "radio", "coat", "film", "pan", "bag")
RATED = [(f"{word} {thing}", word in GOOD) for word in (*GOOD, *BAD) for thing in THINGS]


@pytest.fixture(scope="module")
def head() -> SentimentHead:
    """A head of the hashing encoder that knows the planted words."""
    return sentiment.fit(ENCODER.encode([text for text, _ in RATED]), np.array([good for _, good in RATED]), ENCODER.id)


def step(tmp_path: Path, head: SentimentHead | None) -> Personalizer:
    """Return a personalizer of one item, with the head from a file."""
    path = tmp_path / "head.safetensors"
    if head is not None:
        sentiment.save(head, path)
    index = ItemIndex(ENCODER.dim, ENCODER.id)
    index.upsert([IndexedItem("mug", "Mug", "h", NOW - 9e6)], ENCODER.encode(["a blue mug"]))
    return build(ENCODER, Settings(sentiment=path if head is not None else None), index)


def pulled(by: Personalizer, each: Event) -> tuple[float, float]:
    """Return how much of the item lies in what user u likes and turns down after an event."""
    record = by.fold({}, sourced([each]), by.encode([each])).records["u"]
    rows = interests_of([unpack(record, ENCODER.dim, key_of(ENCODER.id))], ENCODER.dim)[0]
    vector = by.maker.index.known(["mug"])[0]
    assert vector is not None
    return float(rows[SHORT] @ vector), float(rows[AVOID] @ vector)


def test_planted_words_decide(head: SentimentHead) -> None:
    """Texts of words that were rated are judged by them, beside things that no rating was about."""
    opinions = head.opinions(ENCODER.encode(["a splendiferous glimmering chair", "a gruesome wobbly chair"]))
    assert opinions[0] > 0.3
    assert opinions[1] < -0.3


def test_head_survives_its_file(head: SentimentHead, tmp_path: Path) -> None:
    """A head that was written and read says the same to the last bit, and what it is of."""
    sentiment.save(head, tmp_path / "head")
    again = sentiment.load(tmp_path / "head")
    vectors = ENCODER.encode([text for text, _ in RATED])
    np.testing.assert_array_equal(again.probability(vectors), head.probability(vectors))
    assert (again.encoder, again.report) == (ENCODER.id, head.report)


def test_near_the_middle_says_neither() -> None:
    """Within the deadband an opinion is 0, beyond it 2p - 1."""
    head = SentimentHead("planted", np.array([1.0], np.float32), 0.0)
    logits = np.array([[0.0], [0.15], [-0.15], [1.0], [-1.0]], np.float32)
    chance = head.probability(logits)
    np.testing.assert_allclose(head.opinions(logits), [0, 0, 0, 2 * chance[3] - 1, 2 * chance[4] - 1], rtol=1e-6)
    assert abs(2 * chance[1] - 1) < DEADBAND


def test_review_raises_and_lowers(head: SentimentHead, tmp_path: Path) -> None:
    """A review that the head finds good pulls its item, a bad one pushes it, by as much as the opinion is strong."""
    by = step(tmp_path, head)
    texts = ["splendiferous glimmering mug", "splendiferous mug", "wobbly mug", "gruesome wobbly dud mug"]
    moved = [pulled(by, event("comment", item_id="mug", text=text)) for text in texts]
    opinions = by.encode([event("comment", item_id="mug", text=text) for text in texts]).opinions
    assert opinions == sorted(opinions, reverse=True)
    assert opinions[1] > 0 > opinions[2] > opinions[3]
    assert min(liked for liked, _ in moved[:2]) > 0.0 == max(liked for liked, _ in moved[2:])
    assert [avoided for _, avoided in moved] == pytest.approx([0, 0, -1.5 * opinions[2], -1.5 * opinions[3]], abs=1e-2)


def test_head_overrules_cue_words(tmp_path: Path) -> None:
    """Where there is a head, a text that cue words call bad counts as the head says, and what it states pulls too."""
    fan = SentimentHead(ENCODER.id, np.zeros(ENCODER.dim, np.float32), 5.0)
    bad = event("comment", item_id="mug", text="terrible")
    assert pulled(step(tmp_path, fan), bad)[0] > 1.0
    assert pulled(step(tmp_path, None), bad) == pytest.approx((0.0, 1.5), abs=1e-3)
    assert step(tmp_path, fan).encode([bad]).said[0].text == "terrible"


def test_wishes_and_searches_are_not_judged(tmp_path: Path) -> None:
    """A head that finds all bad changes nothing of what is asked for, and a plain purchase stays one."""
    grump = SentimentHead(ENCODER.id, np.zeros(ENCODER.dim, np.float32), -5.0)
    events = [
        event("wish", text="less sport, more jazz"),
        event("search", text="jazz"),
        event("purchase", item_id="mug"),
        event("comment", item_id="mug", text="I want to try tea"),
    ]
    judged, plain = step(tmp_path, grump).encode(events), step(tmp_path, None).encode(events)
    assert (judged.opinions, judged.rows, judged.said) == (plain.opinions, plain.rows, plain.said)
    np.testing.assert_array_equal(judged.vectors, plain.vectors)


def test_neutral_words_leave_a_purchase(tmp_path: Path) -> None:
    """Words that say neither good nor bad take nothing from a purchase, and a comment of them does not move its item."""
    unsure = SentimentHead(ENCODER.id, np.zeros(ENCODER.dim, np.float32), 0.0)
    by = step(tmp_path, unsure)
    assert pulled(by, event("purchase", item_id="mug", text="it came on Monday"))[0] == pytest.approx(3.0, abs=1e-2)
    assert pulled(by, event("comment", item_id="mug", text="it came on Monday")) == (0.0, 0.0)


def test_head_of_another_encoder_is_refused(head: SentimentHead, tmp_path: Path) -> None:
    """A worker does not start with a head of another encoder or a file that is none, and says what to do."""
    sentiment.save(SentimentHead("other", head.weights, head.bias), tmp_path / "head")
    with pytest.raises(HeadError, match=r"trained on vectors of other \(256 dims\).*headrace sentiment train") as error:
        build(ENCODER, Settings(sentiment=tmp_path / "head"))
    assert isinstance(error.value, REFUSALS)
    (tmp_path / "text").write_text("no head")
    for path in (tmp_path / "text", tmp_path / "missing"):
        with pytest.raises(HeadError, match="is no sentiment head"):
            build(ENCODER, Settings(sentiment=path))


def test_reviews_at_the_ends_count() -> None:
    """One and two of five stars are bad, four and five good; three stars, and rows without a text or a rating, are left out."""
    stars = [{"text": f"text {n}", "rating": n} for n in range(1, 6)]
    others = [{"text": " ", "rating": 5}, {"rating": 5}, {"text": "x"}, {"text": "x", "rating": "nan"}]
    made, left_out = reviews.reviews_of([*stars, *others], (1.0, 5.0), 100)
    assert [(review.text[-1], review.is_good) for review in made] == [("1", False), ("2", False), ("4", True), ("5", True)]
    assert left_out == 5


def test_interval_is_of_the_area() -> None:
    """The AUC is scikit-learn's, ties and all, and lies in its interval; scores that say nothing have a half."""
    rng = np.random.default_rng(1)
    good = rng.random(300) < 0.4
    scores = (rng.normal(size=300) + good).round(1).astype(np.float32)
    found = reviews.interval(scores, good, np.arange(300) // 3)
    assert found.mean == pytest.approx(roc_auc_score(good, scores))
    assert found.low < found.mean < found.high < found.low + 0.2
    assert reviews.interval(np.zeros(300, np.float32), good).mean == 0.5


def test_users_are_held_out_whole() -> None:
    """All texts of one user are on one side, and about a fifth of the users is held out."""
    made, _ = reviews.reviews_of(
        [{"text": f"{n} {k}", "rating": 5, "user_id": f"user {n}"} for n in range(1_000) for k in range(2)], (1.0, 5.0), 100
    )
    held = [reviews.is_held_out(review.group) for review in made]
    assert held[::2] == held[1::2]
    assert 0.15 < np.mean(held) < 0.25


def test_train_command(headrace_as: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of rated texts becomes a head that tells held-out ones better than cue words do, and judges new texts."""
    monkeypatch.chdir(tmp_path)
    lines = [f"{text},{5 if good else 1}" for text, good in RATED] + ["so so,3"]
    Path("rated.csv").write_text("\n".join(["words,stars", *lines]))
    settings = load(encoder="hashing")
    command = ["sentiment", "train", "--reviews", "rated.csv", "--map", "text=words", "--map", "rating=stars"]
    done = headrace_as(settings, *command)
    assert done.returncode == 0, done.stderr
    assert "1 rows left out" in done.stdout
    head = sentiment.load(Path("sentiment.safetensors"))
    assert head.report["auc"] > 0.95
    assert head.report["auc_of_cue_words"] == 0.5
    judged = headrace_as(settings, "sentiment", "judge", "a gruesome chair", "a splendiferous chair").stdout
    assert judged.splitlines()[0].startswith("-")
    assert judged.splitlines()[1].startswith("+")
    refused = headrace_as(settings, "sentiment", "train", "--reviews", "rated.csv")
    assert refused.returncode == 2
    assert "--map text=THEIRS" in refused.stderr
