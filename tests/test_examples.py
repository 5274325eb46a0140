"""The example data is whole: unique, decodable, consistent; and `check` judges lists as its documentation says."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import examples
from examples import Expectation, Share, Varied, check, load_catalogue, load_history, load_stories, matches, standing
from examples.make_history import make
from streams.messages import NEEDS_ITEM, NEEDS_TEXT, Item, decode_event, decode_item, encode

NOVEMBER = 1_793_491_200.0  # 2026-11-01T00:00:00Z
CATALOGUE = load_catalogue()
ITEMS = {item.item_id: item for item in CATALOGUE}
STORIES = load_stories()
STEPS = [(story, step) for story in STORIES for step in story.steps]
EVERY_ITEM = ITEMS | {step.item.item_id: step.item for _, step in STEPS if step.item}


def count(*selectors: str) -> int:
    """Return how many items all the selectors pick."""
    return sum(all(matches(selector, item) for selector in selectors) for item in CATALOGUE)


class TestCatalogue:
    def test_size_and_languages(self) -> None:
        """There are at least 450 items, nearly half of them Chinese, nearly half English, forty in both."""
        languages = Counter(str(item.attributes["language"]) for item in CATALOGUE)
        assert len(CATALOGUE) >= 450
        assert languages["zh"] >= 0.4 * len(CATALOGUE)
        assert languages["en"] >= 0.4 * len(CATALOGUE)
        assert languages["zh-en"] >= 40
        assert set(languages) == {"zh", "en", "zh-en"}

    @pytest.mark.parametrize("language", ["zh", "en"])
    @pytest.mark.parametrize(
        ("selector", "least"),
        [("kind:shop", 120), ("kind:news", 45), ("kind:video", 45), ("tag:sport", 10), ("tag:jazz", 10), ("tag:funny", 7)],
    )
    def test_each_language_has_enough_of_each(self, selector: str, least: int, language: str) -> None:
        """Every kind and every subject of a story is there in Chinese and in English."""
        assert count(selector, f"language:{language}") >= least

    @pytest.mark.parametrize("kind", ["shop", "news", "video"])
    @pytest.mark.parametrize("subject", ["sport", "jazz"])
    def test_wish_subjects_exist_in_every_kind(self, subject: str, kind: str) -> None:
        """Less sport, more jazz can be answered by a shop, by news and by videos."""
        assert count(f"tag:{subject}", f"kind:{kind}") >= 10

    def test_deep_learning_from_shallow_to_deep(self) -> None:
        """Fourteen articles on deep learning and more, most of them deep and two for beginners."""
        assert count("category:news-deep-learning") >= 14
        assert count("category:news-deep-learning", "tag:in-depth") >= 10
        assert count("category:news-deep-learning", "tag:primer") == 2

    def test_ids_titles_and_texts_are_unique(self) -> None:
        """No id, no title and no description occurs twice."""
        for field in ("item_id", "title", "text"):
            assert not [value for value, times in Counter(getattr(item, field) for item in CATALOGUE).items() if times > 1]

    def test_no_two_descriptions_share_a_phrase(self) -> None:
        """No 24 characters in a row, 10 in a Chinese text, occur in two descriptions: nothing is made from a template."""
        owner: dict[str, str] = {}
        for item in CATALOGUE:
            width = 10 if item.attributes["language"] == "zh" else 24
            for start in range(len(item.text) - width + 1):
                assert owner.setdefault(item.text[start : start + width], item.item_id) == item.item_id

    def test_every_item_passes_the_topic_check_and_comes_back_whole(self) -> None:
        """Encoding and decoding as the topic `items` does leaves each item as it was."""
        assert [decode_item(encode(item)) for item in EVERY_ITEM.values()] == list(EVERY_ITEM.values())

    def test_kind_agrees_with_id_category_and_attributes(self) -> None:
        """An id begins with its kind; a shop item has a price, news an author and a date, a video a duration."""
        needs = {"shop": {"price", "currency"}, "news": {"author", "date", "minutes"}, "video": {"duration_s"}}
        for item in EVERY_ITEM.values():
            kind = str(item.attributes["kind"])
            assert item.item_id.startswith(f"{kind}-")
            assert item.category.startswith(f"{kind}-") or kind == "shop"
            assert needs[kind] <= set(item.attributes)

    def test_language_is_the_language_of_the_words(self) -> None:
        """A Chinese or bilingual title has Chinese characters, an English item has none, a bilingual text has both."""
        for item in CATALOGUE:
            chinese = [any("\u4e00" <= character <= "\u9fff" for character in field) for field in (item.title, item.text)]
            assert chinese == [item.attributes["language"] != "en"] * 2, item.item_id
            if item.attributes["language"] == "zh-en":
                assert sum(character.isascii() and character.isalpha() for character in item.text) > 20, item.item_id


class TestHistory:
    def test_the_file_is_what_the_script_makes(self) -> None:
        """history.jsonl is the output of make_history.py with its seed, so that the two never drift apart."""
        assert make(CATALOGUE) == load_history()

    def test_size_order_and_time(self) -> None:
        """Sixty people make more than 1,200 events in time order, within the fortnight before 1 November 2026."""
        history = load_history()
        assert len(history) >= 1_200
        assert len({event.user_id for event in history}) == 60
        assert all(float(a.at) <= float(b.at) for a, b in pairwise(history))
        assert NOVEMBER - 14 * 86_400 <= float(history[0].at) <= float(history[-1].at) <= NOVEMBER

    def test_every_event_passes_the_topic_check(self) -> None:
        """Every event decodes as the topic `events` would decode it, has its own id, and is about an item that exists."""
        history = [decode_event(encode(event), NOVEMBER) for event in load_history()]
        assert len({event.event_id for event in history}) == len(history)
        assert {event.item_id for event in history if event.item_id} <= set(ITEMS)

    def test_nobody_reads_news_before_it_is_written(self) -> None:
        """A touch of an article is not older than the article's date."""
        for event in load_history():
            date = ITEMS[event.item_id].attributes.get("date") if event.item_id else None
            if date:
                written = decode_event(encode(msgspec.structs.replace(event, at=f"{date}T00:00:00Z")), NOVEMBER).at
                assert float(written) <= float(event.at)

    @pytest.mark.parametrize(
        ("bought", "next_up", "unrelated"),
        [
            ("smart-watch", "earphones", "sport-goods"),
            ("earphones", "music-app", "music-record"),
            ("earphones", "earphone-accessory", "phone-accessory"),
            ("coffee", "coffee-gear", "kitchen"),
        ],
    )
    def test_baskets_mean_something(self, bought: str, next_up: str, unrelated: str) -> None:
        """After a purchase the same person's next ten touches go to what belongs to it, four times as often as elsewhere."""
        after: Counter[str] = Counter()
        touches: dict[str, list[tuple[str, str]]] = {}
        for event in load_history():
            if event.item_id:
                touches.setdefault(event.user_id, []).append((event.type, ITEMS[event.item_id].category))
        for mine in touches.values():
            for place, (type_, category) in enumerate(mine):
                if type_ == "purchase" and category == bought:
                    after.update(category for _, category in mine[place + 1 : place + 11])
        assert after[next_up] >= 4 * max(1, after[unrelated])

    def test_ending_at_moves_all_times_alike(self) -> None:
        """With `ending_at` the last event happens then, and all gaps stay as they were."""
        history, moved = load_history(), load_history(ending_at=NOVEMBER + 5e6)
        assert moved[-1].at == NOVEMBER + 5e6
        assert len({float(b.at) - float(a.at) for a, b in zip(history, moved, strict=True)}) == 1


@pytest.mark.parametrize(("story", "step"), STEPS, ids=[f"{a.name}-{a.steps.index(b) + 1}" for a, b in STEPS])
class TestStories:
    def test_event_or_item_is_valid(self, story: examples.Story, step: examples.Step) -> None:
        """A step's event has all that its type needs and passes the topic's check; its item is new."""
        if step.item:
            assert step.item.item_id not in ITEMS
            with pytest.raises(ValueError, match="publishes an item"):
                story.event_of(step, "e1", NOVEMBER)
        else:
            event = decode_event(encode(story.event_of(step, "e1", NOVEMBER)), NOVEMBER)
            assert event.user_id == (step.user_id or story.user_id)
            assert event.item_id in ITEMS or event.type in NEEDS_TEXT
            assert event.type not in NEEDS_ITEM or event.item_id

    def test_expectation_can_be_met_and_speaks_of_items_that_exist(self, story: examples.Story, step: examples.Step) -> None:
        """Every selector picks something, no pair is upside down elsewhere, no number is out of reach."""
        expect = step.expect
        selectors = [*(s for pair in expect.above for s in pair), *expect.rises, *expect.falls, *expect.has, *expect.gone]
        selectors += [selector for share in expect.shares for selector in share.of]
        for selector in selectors:
            assert any(matches(selector, item) for item in EVERY_ITEM.values()), selector
        assert not {(b, a) for a, b in expect.above} & set(expect.above)
        assert not set(expect.has) & set(expect.gone)
        assert not set(expect.rises) & set(expect.falls)
        for share in expect.shares:
            assert 0 <= share.at_least <= share.top <= 10
            assert share.at_most is None or share.at_least <= share.at_most < share.top
            assert share.at_least <= sum(any(matches(selector, item) for selector in share.of) for item in EVERY_ITEM.values())
            assert share.at_least > 0 or share.at_most is not None, "a share that always holds"
        assert story.user_of(step).startswith("story-")

    def test_a_published_item_expects_nothing_of_a_list(self, story: examples.Story, step: examples.Step) -> None:
        """Only an event makes a new list, so a step that publishes an item expects nothing."""
        assert step.event or step.expect == Expectation()


def test_the_stories_are_all_there_and_each_asserts_positions() -> None:
    """The nine stories are there by name; each says what stands above what in at least one step, and ends on an expectation."""
    names = [story.name for story in STORIES]
    assert names == [
        "coffee-and-tea",
        "smart-watch-zh",
        "smart-watch-en",
        "news-in-depth",
        "funny-video",
        "wish-zh",
        "wish-en",
        "newcomer",
        "new-item",
    ]
    assert all(any(step.expect.above for step in story.steps) for story in STORIES)
    assert all(story.steps[-1].expect != Expectation() for story in STORIES)


def test_step_needs_exactly_one_of_event_and_item() -> None:
    """A step without event and item, or with both, is refused with its narration."""
    with pytest.raises(ValueError, match=r"'nothing happens' needs exactly one"):
        examples.Step(narration="nothing happens")
    with pytest.raises(ValueError, match=r"'too much' needs exactly one"):
        examples.Step(narration="too much", event=examples.Action(type="wish", text="tea"), item=CATALOGUE[0])


@dataclass(frozen=True)
class Planted:
    """Four items, and an expectation that holds for one list and fails, with these words, for another."""

    expect: Expectation
    right: list[str]
    wrong: list[str]
    words: str
    before: tuple[str, ...] = ()


FEW = {
    item_id: Item(item_id=item_id, title=item_id, category=category, tags=tags, attributes={"kind": kind, "language": language})
    for item_id, category, kind, language, tags in (
        ("bean", "coffee", "shop", "zh", ("brown",)),
        ("pod", "coffee", "shop", "en", ()),
        ("coat", "clothing", "shop", "zh-en", ("brown",)),
        ("goal", "news-sport", "news", "en", ()),
    )
}
PLANTED = {
    "above by place": Planted(Expectation(above=(("bean", "coat"),)), ["bean", "coat"], ["coat", "bean"], "bean (place 2)"),
    "above: absent b is below": Planted(Expectation(above=(("bean", "coat"),)), ["bean"], ["coat"], "bean (not in the list)"),
    "above: absent a is wrong": Planted(Expectation(above=(("bean", "coat"),)), ["bean"], ["goal"], "bean (not in the list)"),
    "above by first of each": Planted(
        Expectation(above=(("category:coffee", "kind:news"),)), ["pod", "goal", "bean"], ["goal", "pod", "bean"], "(place 1)"
    ),
    "share at least": Planted(
        Expectation(shares=(Share(top=2, of=("category:coffee",), at_least=2),)),
        ["pod", "bean", "coat"],
        ["pod", "coat", "bean"],
        "1 of the first 2 are category:coffee: expected at least 2",
    ),
    "share at most": Planted(
        Expectation(shares=(Share(top=2, of=("tag:brown", "goal"), at_most=1),)),
        ["pod", "bean", "goal"],
        ["coat", "goal", "pod"],
        "2 of the first 2 are tag:brown or goal: expected at most 1",
    ),
    "both languages match": Planted(
        Expectation(shares=(Share(top=2, of=("language:en",), at_least=2),)),
        ["coat", "pod"],
        ["bean", "pod"],
        "1 of the first 2",
    ),
    "has": Planted(Expectation(has=("pod",)), ["bean", "pod"], ["bean"], "pod must be in the list"),
    "gone": Planted(Expectation(gone=("pod",)), ["bean"], ["bean", "pod"], "pod must be gone and is at place 2"),
    "rises": Planted(
        Expectation(rises=("kind:news",)), ["goal", "bean"], ["bean", "goal"], "kind:news must rise", before=("bean", "goal")
    ),
    "falls": Planted(Expectation(falls=("bean",)), ["pod"], ["bean"], "bean must fall", before=("bean",)),
    "varied categories": Planted(
        Expectation(varied=Varied(top=2, categories=2)),
        ["bean", "coat"],
        ["bean", "pod", "coat"],
        "1 categories in the first 2",
    ),
    "varied kinds": Planted(
        Expectation(varied=Varied(top=3, categories=1, kinds=2)), ["bean", "goal"], ["bean", "coat"], "1 kinds in the first 3"
    ),
}


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED.keys())
class TestCheck:
    def test_right_list_passes(self, planted: Planted) -> None:
        """The list that the expectation describes has no failure."""
        assert check(planted.expect, planted.before, planted.right, FEW) == []

    def test_wrong_list_fails_with_the_reason(self, planted: Planted) -> None:
        """The other list has exactly one failure, which names what is wrong."""
        [failure] = check(planted.expect, planted.before, planted.wrong, FEW)
        assert planted.words in failure


def test_check_reports_every_failure() -> None:
    """One list that is wrong in three ways has three failures."""
    expect = Expectation(above=(("bean", "coat"),), gone=("goal",), has=("pod",))
    assert len(check(expect, [], ["coat", "goal", "bean"], FEW)) == 3


def test_unknown_selector_is_refused() -> None:
    """A selector of an unknown field is an error that lists the known ones."""
    with pytest.raises(ValueError, match="expected category:, tag:, kind:, language: or an item id"):
        matches("colour:brown", FEW["bean"])


@given(st.permutations(sorted(FEW)))
def test_nothing_rises_or_falls_in_an_unchanged_list(ranked: list[str]) -> None:
    """The same list before and after fails every `rises` and every `falls`: both are strict."""
    selectors = ("category:coffee", "tag:brown", "goal")
    assert len(check(Expectation(rises=selectors, falls=selectors), ranked, ranked, FEW)) == 6


@given(st.permutations(sorted(FEW)), st.integers(1, 3))
def test_moving_one_place_up_raises_the_standing(ranked: list[str], place: int) -> None:
    """An item that changes places with the one before it stands higher, and the other lower."""
    swapped = [*ranked[: place - 1], ranked[place], ranked[place - 1], *ranked[place + 1 :]]
    assert standing(ranked[place], swapped, FEW) > standing(ranked[place], ranked, FEW)
    assert standing(ranked[place - 1], swapped, FEW) < standing(ranked[place - 1], ranked, FEW)
