"""What answers a question stands at the head of the next list, within the bounds it names, and counts as interest."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from conftest import Done
from flows import Worker, World, eventually
from planted import NOW, Counting, event, sourced

from ranking.answering import REASON
from ranking.business import BusinessRule
from ranking.conditions import Condition
from ranking.index import IndexedItem, ItemIndex
from ranking.profile import ASKED, LONG, interests_of, key_of, unpack
from streams.building import build
from streams.makers import kept_attributes
from streams.messages import BadMessage, Event, decode_event, encode
from streams.personalizer import Personalizer
from streams.settings import Settings

ENCODER = Counting()
SETTINGS = Settings(diversity=0.0, list_size=6, seen_types=("purchase",))
ITEMS = {  # id -> text, category, brand, price, currency, whether it is available
    "sencha": ("green tea sencha leaves", "tea", "Penny Lantern", 19.0, "USD", True),
    "matcha": ("green tea matcha powder", "tea", "Slow River", 45.0, "USD", True),
    "bancha": ("green tea bancha leaves", "tea", "Slow River", 9.0, "USD", False),
    "longjing": ("green tea longjing leaves", "tea", "Slow River", 19.0, "EUR", True),
    "mug": ("green tea mug", "kitchen", "Slow River", 12.0, "USD", True),
    "lamp": ("brass desk lamp", "home", "Oakline", 15.0, "USD", True),
    "radio": ("small kitchen radio", "home", "Oakline", "", "", True),
}


def made(**given: object) -> Personalizer:
    """Return a personalizer over the items."""
    own = SETTINGS.model_copy(update=given)
    index = ItemIndex(ENCODER.dim, ENCODER.id, kept_attributes(own))
    items = [
        IndexedItem(name, name, "h", NOW - 9e6, category, brand, (), available, (currency or None, price or None))
        for name, (_, category, brand, price, currency, available) in ITEMS.items()
    ]
    assert index.attributes == ("currency", "price")
    index.upsert(items, ENCODER.encode([text for text, *_ in ITEMS.values()]))
    return build(ENCODER, own, index)


STEP = made()


def answers(text: str, *before: Event, by: Personalizer = STEP) -> list[str]:
    """Return what answers user u's question after some events, all of one batch, as ids."""
    batch = sourced([*before, event("ask", text=text)])
    return [each.item_id for each in by.step({}, batch, NOW)[1]["u"] if each.reason == REASON]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Do you have any green tea?", {"sencha", "longjing", "matcha"}),
        ("green tea for less than $20", {"sencha"}),
        ("green tea between 15 and 50 dollars", {"sencha", "matcha"}),
        ("green tea under 20 €", {"longjing"}),
        ("green tea from Slow River", {"matcha", "longjing"}),
        ("有没有20元以下的 green tea", set()),
        ("green tea under 1 dollar", set()),
        ("desk lamp under 20", {"lamp"}),
        ("quantum chromodynamics", set()),
    ],
)
def test_only_what_is_asked_for_answers(text: str, wanted: set[str]) -> None:
    """Answers are near the words, within the price, of the currency, brand and category, and available."""
    assert set(answers(text)) == wanted


def test_list_goes_on_behind_the_answers() -> None:
    """Answers stand first, best first, with scores that add up to one; the user's own list follows, no item twice."""
    touched = event("click", item_id="lamp")
    listed = STEP.step({}, sourced([touched, event("ask", text="green tea under 20 dollars")]), NOW)[1]["u"]
    own = STEP.step({}, sourced([touched]), NOW)[1]["u"]
    count = sum(each.reason == REASON for each in listed)
    assert [each.reason == REASON for each in listed] == [True] * count + [False] * (len(listed) - count)
    assert sum(each.score for each in listed[:count]) == pytest.approx(1.0, abs=1e-5)
    assert len({each.item_id for each in listed}) == len(listed) == len(own)


def test_question_counts_as_a_search_does() -> None:
    """A question moves the profile as a search with the same words does, and the next list has no answers any more."""

    def interests(*events: Event) -> np.ndarray:
        record = STEP.fold({}, sourced(events), STEP.encode(events)).records["u"]
        return interests_of([unpack(record, ENCODER.dim, key_of(ENCODER.id))], ENCODER.dim)[0]

    asked = interests(event("ask", text="Do you have green tea under 20 €?"))
    np.testing.assert_array_equal(asked, interests(event("search", text="green tea")))
    assert np.linalg.norm(asked[ASKED]) > 1.0
    assert np.linalg.norm(asked[LONG]) > 1.0
    folded, _ = STEP.step({}, sourced([event("ask", text="green tea")]), NOW)
    after = STEP.step({"u": folded.records["u"]}, sourced([event("click", item_id="lamp", at=NOW + 1)], first=1), NOW)[1]["u"]
    assert all(each.reason != REASON for each in after)


def test_last_question_of_a_batch_is_answered() -> None:
    """Of two questions in one batch the later is answered; another user's list has no answers."""
    batch = sourced([event("ask", text="green tea"), event("ask", text="desk lamp"), event("click", "other", item_id="mug")])
    lists = STEP.step({}, batch, NOW)[1]
    assert [each.item_id for each in lists["u"] if each.reason == REASON] == ["lamp"]
    assert all(each.reason != REASON for each in lists["other"])


def test_had_and_excluded_items_answer_nothing() -> None:
    """What the user bought and what a rule excludes stays out, as in every list."""
    assert "sencha" not in answers("green tea leaves", event("purchase", item_id="sencha"))
    ruled = made()
    rule = BusinessRule("no Slow River", "exclude", Condition(brands=frozenset({"Slow River"})))
    object.__setattr__(ruled.maker, "business", (rule,))
    ruled.maker.index.watch([rule.condition])
    assert answers("green tea leaves", by=ruled) == ["sencha"]


def test_nobody_is_answered_too() -> None:
    """A question of nobody is answered by the same items as that of a new user."""
    text = "green tea for less than $20"
    assert [each.item_id for each in STEP.answer(text, NOW)] == answers(text)


def test_question_needs_words() -> None:
    """An ask event without text is no event."""
    assert decode_event(encode(event("ask", text="tea?")), NOW).text == "tea?"
    with pytest.raises(BadMessage, match="an ask event needs text"):
        decode_event(encode(event("ask")), NOW)


class Real(Worker):
    """A worker with the product's own step."""

    program = ("-m", "streams", "worker")


@pytest.mark.embedded
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
def test_worker_answers_a_command(embedded_world: Callable[..., World], headrace_as: Callable[..., Done]) -> None:
    """`headrace ask` of a user is answered by a worker, that of nobody by the vectors alone, both within the bounds."""
    world = embedded_world(partitions=1)
    for name, (text, category, brand, price, currency, available) in ITEMS.items():
        item = {"item_id": name, "title": text, "category": category, "brand": brand, "available": available}
        item["attributes"] = {"price": price or None, "currency": currency or None}
        world.send_raw(world.topics.items, name.encode(), json.dumps(item).encode())
    world.flush()
    world.workers.append(Real(world.settings, world.folder))
    world.workers[-1].ready()
    eventually(lambda: len(world.records(world.topics.item_vectors)), lambda count: count == len(ITEMS))
    question = "green tea for less than $20"

    def asked(*more: str) -> Done:
        return headrace_as(world.settings, "ask", question, *more)

    found = eventually(lambda: asked("--user", "ann", "--json"), lambda done: done.returncode == 0)
    assert [json.loads(line)["item_id"] for line in found.stdout.splitlines()] == ["sencha"]
    listed = eventually(world.lists, lambda lists: lists.get("ann", {}).get("items", [{}])[0].get("reason") == REASON)["ann"]
    assert (listed["items"][0]["item_id"], listed["items"][0]["reason"]) == ("sencha", REASON)
    shown = asked()
    assert shown.returncode == 0, shown.stderr
    assert "green tea sencha leaves" in shown.stdout
    assert world.workers[-1].stop() == 0
    late = asked("--user", "ann", "--wait", "0.5")
    assert (late.returncode, late.stderr) == (
        2,
        "headrace: no list of 'ann' came within 0.5 s: start a worker with `headrace worker`\n",
    )
    question = "lamps under 1 $"
    assert "nothing in the catalogue answers 'lamps under 1 $'" in asked().stderr
