"""The step with the hashing encoder: events in, records, interactions and lists out; import = replay = live."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import DAY, NOW, Counting, event, sourced

from ranking.index import IndexedItem, ItemIndex
from ranking.profile import ASKED, AVOID, LONG, SHORT, RecordError, interests_of, seen_keys, unpack
from ranking.profile import key_of as key
from streams.building import build
from streams.messages import Event, Interaction
from streams.personalizer import WITH_ITEM, Folded, Personalizer, Sourced
from streams.settings import Settings

TEXTS = {
    "bean": "Kenya coffee beans, freshly roasted coffee",
    "brew": "Coffee maker for filter coffee",
    "ball": "Football boots and a football",
    "goal": "Football goal for the garden, football sport",
    "sax": "Jazz saxophone concert, live jazz music",
    "duo": "Jazz piano duo, slow jazz music",
}
ENCODER = Counting()
OURS = ENCODER.dim, key(ENCODER.id)  # what tells our records from another encoder's
SETTINGS = Settings(diversity=0.0, list_size=5, seen_types=("purchase", "like", "dislike", "rating"))


def made(**given: object) -> Personalizer:
    """Return a personalizer over the six items."""
    index = ItemIndex(ENCODER.dim, ENCODER.id)
    vectors = ENCODER.encode(list(TEXTS.values()))
    index.upsert([IndexedItem(name, name.upper(), "h", NOW - 9e6, TEXTS[name].split()[0]) for name in TEXTS], vectors)
    return build(ENCODER, SETTINGS.model_copy(update=given), index)


STEP = made()


def folded(*events: Event, records: dict[str, bytes | None] | None = None, first: int = 0, by: Personalizer = STEP) -> Folded:
    """Return the fold of these events at offsets from `first` on."""
    return by.fold(records or {}, sourced(events, first=first), by.encode(events))


def interests(*events: Event, by: Personalizer = STEP) -> np.ndarray:
    """Return the interests of user u after these events, (4, dim)."""
    return interests_of([unpack(folded(*events, by=by).records["u"], *OURS)], ENCODER.dim)[0]


def weight(*events: Event, item: str = "bean", row: int = SHORT) -> float:
    """Return how much of an item lies in an interest after events about that item."""
    return float(interests(*events)[row] @ STEP.maker.index.vectors([STEP.maker.index.slot(item)])[0])


def order(*events: Event, by: Personalizer = STEP) -> list[str]:
    """Return user u's list right after these events, as ids."""
    return [each.item_id for each in by.step({}, sourced(events), NOW)[1]["u"]]


@pytest.mark.parametrize(
    ("rating", "signed"), [(5.0, 2.0), (4.0, 1.0), (3.0, 0.0), (2.0, -1.0), (1.0, -2.0), (99.0, 2.0), (-9.0, -2.0)]
)
def test_rating(rating: float, signed: float) -> None:
    """A rating above the middle of the scale pulls, one below pushes, the middle does neither; the scale's ends are bounds."""
    rated = event("rating", item_id="bean", rating=rating)
    assert weight(rated) == pytest.approx(max(signed, 0.0), abs=1e-5)
    assert weight(rated, row=AVOID) == pytest.approx(max(-signed, 0.0), abs=1e-5)


@pytest.mark.parametrize(
    ("progress", "pulled", "seen"), [(0.0, 0.3, 0), (0.5, 1.15, 0), (0.89, 1.813, 0), (0.9, 1.83, 1), (1.0, 2.0, 1)]
)
def test_progress(progress: float, pulled: float, seen: int) -> None:
    """A view weighs up to a like by the share that was watched; from nine tenths on the item leaves the lists."""
    viewed = event("view", item_id="bean", progress=progress)
    assert weight(viewed) == pytest.approx(pulled, rel=1e-4)
    assert len(seen_keys(unpack(folded(viewed).records["u"], *OURS))) == seen


@pytest.mark.parametrize(("kind", "row"), [("click", SHORT), ("purchase", SHORT), ("like", LONG), ("dislike", AVOID)])
def test_types(kind: str, row: int) -> None:
    """Each type counts with its weight, where it belongs."""
    assert weight(event(kind, item_id="bean"), row=row) == pytest.approx(abs(SETTINGS.event_weights[kind]), rel=1e-4)


def test_impression() -> None:
    """That an item was shown says nothing of the user, but counts as an event."""
    result = folded(event("impression", item_id="bean"))
    assert not interests(event("impression", item_id="bean")).any()
    assert (result.folded, result.interactions) == (1, [])


def test_comment() -> None:
    """A good comment pulls its item and its words, a bad one pushes the item; the list follows."""
    good, bad = (event("comment", item_id="bean", text=text) for text in ("great coffee", "terrible coffee"))
    assert weight(good) > 1.5
    assert weight(good, row=AVOID) == 0
    assert weight(bad, row=AVOID) == pytest.approx(1.5, rel=1e-4)
    assert weight(bad) == 0
    clicks = [event("click", item_id=name, at=NOW - 60) for name in ("ball", "sax")]
    assert order(*clicks, good)[0] in ("bean", "brew")
    assert not {"bean", "brew"} & set(order(*clicks, bad)[:4])


@pytest.mark.parametrize("text", ["terrible, disappointing", "great, I love it", "it was on a table"])
def test_dislike_with_words(text: str) -> None:
    """Whatever words come with a dislike or the lowest rating, they turn the item down and pull nothing."""
    for angry in (event("dislike", item_id="bean", text=text), event("rating", item_id="bean", rating=1.0, text=text)):
        assert weight(angry, row=AVOID) > 1.9
        assert not interests(angry)[[LONG, SHORT]].any()


def test_words_with_an_item_weigh_less() -> None:
    """The words about an item weigh half of what words alone weigh."""
    alone = interests(event("comment", text="great coffee"))
    about = interests(event("comment", text="great coffee", item_id="gone"))
    np.testing.assert_allclose(about[SHORT], WITH_ITEM * alone[SHORT], rtol=1e-5)


def test_wish() -> None:
    """A wish turns the very next list: what is asked for to its top, what is turned down out of its way."""
    like = event("like", item_id="goal", at=NOW - 500)
    assert order(like)[0] == "ball"
    after = order(like, event("wish", text="less football, more jazz"))
    assert set(after[:2]) == {"sax", "duo"}
    assert after[-1] == "ball"
    asked = interests(event("wish", text="less football, more jazz"))
    assert np.linalg.norm(asked[ASKED]) == pytest.approx(3.0, rel=1e-4)
    assert np.linalg.norm(asked[AVOID]) == pytest.approx(3.0, rel=1e-4)
    assert not asked[SHORT].any()


def test_seen_leaves_the_list() -> None:
    """What was bought, liked, disliked or rated stands in no list of that user; what was clicked may."""
    for kind in ("purchase", "like", "dislike"):
        assert "bean" not in order(event(kind, item_id="bean"))
    assert "bean" in order(event("click", item_id="bean"))


def test_unknown_item() -> None:
    """An event about an item that the index does not know (yet) is folded, remembered and counted for the item."""
    result = folded(event("purchase", item_id="new"))
    profile = unpack(result.records["u"], *OURS)
    assert [touch.item_id for touch in profile.touches] == ["new"]
    assert [each.item_id for each in result.interactions] == ["new"]
    assert seen_keys(profile).tolist() == [key("new")]


def test_settings_reach_the_step() -> None:
    """What the settings say of half-lives, lists and candidates is what the step works with."""
    maker = made(
        long_half_life_days=2.0,
        short_half_life_hours=3.0,
        avoid_half_life_days=4.0,
        list_size=6,
        max_per_category=7,
        diversity=0.8,
        candidates=90,
        trend_half_life_hours=10.0,
        popular_half_life_days=11.0,
    ).maker
    lives = maker.half_lives
    assert (lives.long_s, lives.short_s, lives.avoid_s) == (2 * DAY, 3 * 3_600.0, 4 * DAY)
    assert (maker.rules.size, maker.rules.max_per_category, maker.rules.diversity) == (6, 7, 0.8)
    assert maker.candidates == 90
    assert (maker.signals.settings.recent_s, maker.signals.settings.steady_s) == (36_000.0, 11 * DAY)


def test_cut() -> None:
    """A text longer than the setting is cut, counted, and read as far as it goes."""
    short = made(text_length=16)
    long = event("search", text="jazz music lives" + " and football" * 50)
    assert short.encode([long, event("search", text="coffee")]).cut == 1
    np.testing.assert_array_equal(interests(long, by=short), interests(event("search", text="jazz music lives"), by=short))


def test_encode_alignment() -> None:
    """Each subject's vector is of its own event, whatever events without words stand between."""
    events = [event("click", item_id="bean"), event("wish", text="less football, more jazz"), event("search", text="tea")]
    readings = STEP.encode(events)
    assert (readings.opinions, readings.rows) == ([1, 1, 1], [1, 1, 2])
    np.testing.assert_array_equal(readings.vectors, ENCODER.encode(["football", "jazz", "tea"]))
    assert STEP.encode([]).vectors.shape == (0, ENCODER.dim)


def test_interactions() -> None:
    """What speaks for an item is told of it, after the items the same user touched just before, newest first, none twice."""
    names = ["bean", "brew", "bean", "ball"]
    events = [event("click", item_id=name, at=NOW + n) for n, name in enumerate(names)]
    result = folded(*events, event("dislike", item_id="goal", at=NOW + 9), event("wish", text="jazz"), first=5)
    after = [(each.item_id, each.after, each.source) for each in result.interactions]
    assert after == [
        ("bean", (), (0, 5)),
        ("brew", ("bean",), (0, 6)),
        ("bean", ("brew",), (0, 7)),
        ("ball", ("bean", "brew"), (0, 8)),
    ]
    later = folded(event("click", item_id="sax", at=NOW + 20), records=result.records, first=20).interactions
    assert later == [Interaction(item_id="sax", after=("ball", "bean", "brew"), weight=1.0, at=NOW + 20, source=(0, 20))]


def test_replay() -> None:
    """A replayed batch changes no record, and tells of its items again, with the same sources and what came before them."""
    events = [event("click", item_id=name, at=NOW + n) for n, name in enumerate(["bean", "ball", "sax"])]
    once = folded(*events)
    again = folded(*events, records=once.records)
    assert (again.records, again.folded, again.replayed) == ({}, 0, 3)
    assert again.interactions == once.interactions


def test_retry() -> None:
    """A producer's own retry, a new record with the same event_id, counts once, in the profile and for the item."""
    click = event("click", item_id="bean", event_id="same")
    result = folded(click, click)
    assert len(result.interactions) == 1
    later = folded(click, records=result.records, first=9)
    assert later.interactions == []
    assert unpack(later.records["u"], *OURS).events == 1
    assert unpack(later.records["u"], *OURS).watermarks == {0: 9}


def test_recommend_is_pure() -> None:
    """The same records at the same time give the same lists, and are left as they were."""
    records = folded(event("like", item_id="bean"), event("wish", user="v", text="jazz")).records
    copy = dict(records)
    assert STEP.recommend(records, NOW) == made().recommend(records, NOW) == STEP.recommend(records, NOW)
    assert records == copy
    assert STEP.recommend({}, NOW) == {}


def test_foreign_record() -> None:
    """A record of another encoder is refused, not guessed at: by its width, and where that is the same by its id."""
    records = folded(event("click", item_id="bean")).records
    other = Counting()
    other.id = "other-weights"
    for encoder in (Counting(64), other):
        theirs = build(encoder, SETTINGS)
        with pytest.raises(RecordError, match="another encoder"):
            theirs.recommend(records, NOW)
        with pytest.raises(RecordError, match="another encoder"):
            folded(event("click", item_id="bean"), records=dict(records), first=1, by=theirs)
        with pytest.raises(RecordError, match="another encoder"):
            theirs.is_counted(records["u"], 0, 0)


happenings = st.lists(
    st.builds(
        lambda user, kind, name, text, minute: event(
            kind, user, NOW + 60.0 * minute, item_id=name, text=text if kind == "comment" else None, rating=2.0
        ),
        st.sampled_from("uvw"),
        st.sampled_from(["click", "purchase", "dislike", "rating", "comment"]),
        st.sampled_from([*TEXTS, "unknown"]),
        st.sampled_from(["great", "terrible", "nice, I want some tea", "少一点"]),
        st.integers(-30, 30),
    ),
    min_size=1,
    max_size=15,
)


@settings(max_examples=40)
@given(happenings, st.data())
def test_import_is_replay_is_live(events: list[Event], data: st.DataObject) -> None:
    """One batch, single steps, and batches cut anywhere with replays between them give the same records to the last bit."""
    places = sourced(events)
    imported = STEP.fold({}, places, STEP.encode(events))
    live: dict[str, bytes | None] = {}
    told: list[Interaction] = []
    for place in places:
        result = STEP.step(live, [place], NOW)[0]
        live |= result.records
        told += result.interactions
    replayed: dict[str, bytes | None] = {}
    done = 0
    while done < len(places):
        start, end = data.draw(st.integers(0, done)), data.draw(st.integers(done + 1, len(places)))
        replayed |= STEP.step(replayed, places[start:end], NOW)[0].records
        done = end
    assert imported.records == live == replayed
    assert imported.interactions == told
    assert (imported.folded, imported.replayed) == (len({each.event_id for each in events}), 0)


@settings(max_examples=20)
@given(happenings)
def test_step_is_the_three_in_a_row(events: list[Event]) -> None:
    """The step is encode, fold and recommend for the users of the batch, among them those whose events are replayed."""
    places = [Sourced(each, 0, n) for n, each in enumerate(events)]
    folded_now = STEP.fold({}, places, STEP.encode(events))
    for records in ({}, folded_now.records):
        result, lists = STEP.step(records, places, NOW)
        assert lists == STEP.recommend(folded_now.records, NOW)
        assert result == STEP.fold(records, places, STEP.encode(events))
