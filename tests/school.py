"""Models and lessons by hand: what the tests of learning while serving start from, without a training.

A planted lesson: candidates with random features, of which a user picks by some of them. A model by hand ranks by the features
that it is told to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from planted import NOW, clusters, item

from encoders.hashing import HashingEncoder
from ranking import features, links
from ranking.bundle import Bundle, Head, sealed
from ranking.index import ItemIndex
from ranking.learned import M
from ranking.links import LINKS, Links
from ranking.online import Example, Shown, example
from ranking.towers import Shape
from ranking.train import Plan, new_towers
from streams.building import build
from streams.messages import EVENT_TYPES
from streams.personalizer import Personalizer
from streams.settings import Settings

ITEMS = [f"i{number:02d}" for number in range(48)]
WIDTH, HIDDEN, CANDIDATES = 16, 8, 20
KNOWN, NEW, FALSE = (
    "near_long",
    "near_short",
    "item_age",
)  # features: what a model knows to count, does not know yet, and must not


def world(**given: object) -> Personalizer:
    """Return a step over items whose vectors tell nothing of what follows what."""
    encoder = HashingEncoder(32)
    index = ItemIndex(encoder.dim, encoder.id)
    index.upsert([item(name) for name in ITEMS], clusters(len(ITEMS), 1, encoder.dim))
    chosen: dict[str, object] = {"encoder": "hashing", "list_size": 5, "diversity": 0.0, "seen_types": ()}
    return build(encoder, Settings(**(chosen | given)), index)  # type: ignore[arg-type]


def by_hand(weights: Mapping[str, float], items: Sequence[str] = ITEMS, step: int = 1) -> Bundle:
    """Return a model that ranks by these features, with links from each item to the one that stands `step` behind it."""
    encoder, count = HashingEncoder(32), len(items)
    shape = Shape(encoder.dim, WIDTH, layers=1, kinds=len(EVENT_TYPES) + 1, rows=count)
    towers = new_towers(shape, clusters(len(ITEMS), 1, encoder.dim), Plan())
    none = Links(np.full((count, LINKS), -1, np.int32), np.zeros((count, LINKS), np.float16))
    after = Links(none.others.copy(), none.scores.copy())
    after.others[:, 0], after.scores[:, 0] = (np.arange(count) + step) % count, 1.0
    tables = {name: after if name == "follow" else none for name in links.TABLES}
    rng, inputs = np.random.default_rng(1), len(features.NAMES) + WIDTH
    w = np.zeros(inputs, np.float32)
    for name, weight in weights.items():
        w[features.NAMES.index(name)] = weight
    m = {
        **{"mean": np.zeros(len(features.NAMES), np.float32), "scale": np.ones(len(features.NAMES), np.float32), "w": w},
        **{"w1": rng.normal(0, inputs**-0.5, (inputs, HIDDEN)), "b1": np.zeros(HIDDEN)},
        **{"w2": rng.normal(0, HIDDEN**-0.5, (HIDDEN, HIDDEN)), "b2": np.zeros(HIDDEN), "w3": np.zeros(HIDDEN)},
    }
    own = {name: value.detach().numpy() for name, value in towers.state_dict().items()}
    tensors = own | links.to_tensors(tables) | {M + name: np.asarray(value, np.float32) for name, value in m.items()}
    head = Head(
        encoder=encoder.id,
        dim=encoder.dim,
        kinds=("", *EVENT_TYPES),
        features=features.NAMES,
        shape=shape.numbers(),
    )
    return sealed(head, tuple(items), tensors)


def lesson(
    rng: np.random.Generator, user: str, weights: Mapping[str, float], at: float = NOW, wants: int | None = None
) -> Example:
    """Return what a user picked of random candidates, by features with these weights; `wants`: a slot that is picked always."""
    slots = rng.choice(len(ITEMS), CANDIDATES, replace=False).astype(np.int32)
    if wants is not None and wants not in slots:
        slots[0] = wants
    named = rng.normal(0, 1, (CANDIDATES, len(features.NAMES))).astype(np.float16)
    towards = np.ones(WIDTH) + 0.5 * rng.normal(size=WIDTH)
    logits = sum(weight * named[:, features.NAMES.index(name)].astype(float) for name, weight in weights.items())
    picked = int(slots[np.argmax(logits + rng.gumbel(size=CANDIDATES))]) if wants is None else wants
    shown = Shown(named, slots, (towards / np.linalg.norm(towards)).astype(np.float32))
    made = example(user, at, shown, picked, (), {})
    assert made is not None
    return made


def lessons(count: int, weights: Mapping[str, float], seed: int, name: str = "u", wants: int | None = None) -> list[Example]:
    """Return lessons of as many users, a second apart."""
    rng = np.random.default_rng(seed)
    return [lesson(rng, f"{name}{seed}-{n}", weights, NOW + n, wants) for n in range(count)]
