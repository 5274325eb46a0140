"""The stories with the real multilingual weights, through the product's own step: every position they expect must hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

import encoders
import examples
from examples import Story
from streams import building, catalogue
from streams.messages import Event, Item
from streams.personalizer import Personalizer, Sourced
from streams.settings import load
from streams.signals import SignalCounter

NOW = 1_793_500_000.0
BATCH = 64
STORIES = {story.name: story for story in examples.load_stories()}
pytestmark = pytest.mark.weights


@dataclass
class World:
    """The catalogue in an index, what other people did, and the users' records."""

    step: Personalizer
    counter: SignalCounter
    works: catalogue.Catalogue
    items: dict[str, Item] = field(default_factory=dict)
    records: dict[str, bytes] = field(default_factory=dict)
    offset: int = 0

    def publish(self, items: list[Item], at: float) -> None:
        index = self.step.maker.index
        catalogue.apply(self.works.vectors([(item, at) for item in items], index), index)
        self.items |= {item.item_id: item for item in items}

    def act(self, events: list[Event], at: float) -> dict[str, list[str]]:
        batch = [Sourced(event, 0, self.offset + row) for row, event in enumerate(events)]
        self.offset += len(batch)
        users = {event.user_id: self.records.get(event.user_id) for event in events}
        folded, lists = self.step.step(users, batch, at)
        self.records |= folded.records
        self.counter.count(folded.interactions)
        return {user: [item.item_id for item in own] for user, own in lists.items()}


@pytest.fixture(scope="module")
def encoder() -> encoders.Encoder:
    """Load the default encoder: the stories are in two languages."""
    settings = load()
    return encoders.load(settings.encoder, cache=settings.cache_dir)


@pytest.fixture
def world(encoder: encoders.Encoder, vectors: dict[str, NDArray[np.float32]]) -> World:
    """Return a world of its own for each story, as the demo has it before the first one."""
    remembering = Remembering(encoder, vectors)
    step = building.build(remembering, load())
    world = World(step, SignalCounter(step.maker.signals), catalogue.Catalogue(remembering))
    world.publish(examples.load_catalogue(), NOW - 20 * 86_400.0)
    history = examples.load_history(ending_at=NOW - 600.0)
    for start in range(0, len(history), BATCH):
        world.act(history[start : start + BATCH], NOW)
    return world


@pytest.fixture(scope="module")
def vectors() -> dict[str, NDArray[np.float32]]:
    """Return what all worlds share: text -> vector."""
    return {}


class Remembering:
    """An encoder that encodes each text once: all stories start from the same catalogue and history."""

    def __init__(self, encoder: encoders.Encoder, vectors: dict[str, NDArray[np.float32]]) -> None:
        self.id, self.dim, self.reason = encoder.id, encoder.dim, encoder.reason
        self._encoder, self._vectors = encoder, vectors

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        self._vectors.update(zip(new, self._encoder.encode(new), strict=True))
        rows = [self._vectors[text] for text in texts]
        return np.stack(rows) if rows else np.zeros((0, self.dim), np.float32)


@pytest.mark.parametrize("name", STORIES)
def test_every_list_of_a_story_is_as_a_thoughtful_person_expects(world: World, name: str) -> None:
    """After each event of a story, what must stand above what does, and what must be gone is."""
    wrong = [f"step {number}: {failure}" for number, failures in play(world, STORIES[name]) for failure in failures]
    assert not wrong, "\n".join(wrong)


def test_the_stories_tell_a_good_ranker_from_a_bad_one(world: World) -> None:
    """Lists in catalogue order, whatever the user did, fail most steps that expect something."""
    ranked = list(world.items)[:20]
    steps = [step for story in STORIES.values() for step in story.steps if step.item is None]
    failing = [step for step in steps if examples.check(step.expect, ranked, ranked, world.items)]
    assert len(failing) > len(steps) / 2


def play(world: World, story: Story) -> Iterator[tuple[int, list[str]]]:
    """Yield each step's number with what is wrong with the list after it."""
    at = NOW
    before: dict[str, list[str]] = {}
    for number, step in enumerate(story.steps):
        at += step.pause_s
        if step.item is not None:
            world.publish([step.item], at)
            continue
        user = story.user_of(step)
        after = world.act([story.event_of(step, f"{story.name}-{number}", at)], at)[user]
        yield number, examples.check(step.expect, before.get(user, []), after, world.items)
        before[user] = after


# A question about the example catalogue, what may answer it first, and what every answer's id begins with.
QUESTIONS = [
    ("有没有适合送礼的绿茶？", {"shop-tea-matcha", "shop-tea-longjing"}, ""),
    ("Do you have noise-cancelling earphones under 200 dollars?", {"shop-ear-orrin-buds"}, "shop-ear-"),
    ("100元以下的蓝牙耳机有吗", {"shop-ear-budget"}, "shop-"),
    ("smart watch under $200", {"shop-watch-fitband", "shop-watch-pebbleline-senior"}, "shop-watch-"),
    ("有没有不含咖啡因的茶", {"shop-tea-chrysanthemum", "shop-tea-rooibos"}, ""),
    ("books about jazz", {"shop-book-jazz-history"}, "shop-book-"),
    ("coffee beans from Tin Kettle Coffee", {"shop-coffee-guatemala", "shop-coffee-italian-dark"}, "shop-coffee-"),
    ("想买一个静音鼠标，预算100元", {"shop-pc-mouse-silent"}, "shop-pc-"),
    ("something to keep my cat busy", {"shop-pet-cat-fountain", "shop-pet-cat-scratcher"}, ""),
    ("What can I cook on a weeknight?", {"video-cook-curry"}, ""),
    ("a gift for a coffee lover under $40", {"shop-coffee-sampler"}, "shop-"),
    ("running shoes", {"shop-sport-running-shoes"}, ""),
    ("有没有讲深度学习的书", {"shop-book-dl-theory", "shop-book-dl-intro"}, ""),
    ("a warm scarf", {"shop-cloth-scarf"}, "shop-"),
    ("headphones over 100 dollars", {"shop-head-open-back", "shop-head-dj"}, "shop-head-"),
    ("quiet keyboards under 50 €", set(), ""),  # nothing is priced in euros
]


def test_questions_are_answered(encoder: encoders.Encoder, vectors: dict[str, NDArray[np.float32]]) -> None:
    """Questions in both languages are answered first by what they ask for, also in the other language, and within bounds."""
    remembering = Remembering(encoder, vectors)
    step = building.build(remembering, load())
    index = step.maker.index
    messages = catalogue.Catalogue(remembering).vectors([(item, NOW) for item in examples.load_catalogue()], index)
    catalogue.apply(messages, index)
    wrong = []
    for question, first, kind in QUESTIONS:
        found = [each.item_id for each in step.answer(question, NOW)]
        if not (found[:1] == [] if not first else found[0] in first) or not all(name.startswith(kind) for name in found):
            wrong.append((question, found[:3]))
    assert not wrong
