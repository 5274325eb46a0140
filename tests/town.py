"""A town with planted taste: users of six circles, each with items of its own, and what each does from week to week."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ranking.bundle import Bundle
from ranking.train import Plan
from streams.building import build, load_encoder
from streams.catalogue import Catalogue, apply
from streams.makers import new_index
from streams.messages import Event, Item
from streams.settings import Settings
from streams.training import Sizes, train

CIRCLES, EACH = 6, 10  # circles, and items of each
FIRST = 1_780_000_000.0
DAY = 86_400.0
WORDS = ("amber", "birch", "copper", "dune", "ember", "fjord", "gravel", "harbour", "indigo", "juniper")


def circle(item_id: str) -> int:
    """Return the circle of an item."""
    return int(item_id[1:]) // EACH


def items() -> list[Item]:
    """Return the items. Their titles tell nothing of their circles: only what users do does."""
    return [
        Item(item_id=f"i{n}", title=f"{WORDS[n % EACH]} {WORDS[(7 * n + n // EACH) % EACH]}") for n in range(CIRCLES * EACH)
    ]


def events(users: int = 200, each: int = 8, seed: int = 1) -> list[Event]:
    """Return what users do in time order: nine of ten touches stay within the user's circle, no item comes twice."""
    rng = np.random.default_rng(seed)
    made = []
    for user in range(users):
        own = user % CIRCLES
        left = list(range(CIRCLES * EACH))
        for turn in range(each):
            inside = [n for n in left if n // EACH == own]
            n = int(rng.choice(inside if rng.random() < 0.9 else left))
            left.remove(n)
            at = FIRST + DAY * turn + DAY * float(rng.random())
            made.append(Event(event_id=f"u{user}/{turn}", user_id=f"u{user}", type="purchase", at=at, item_id=f"i{n}"))
    return sorted(made, key=lambda event: float(event.at))


def model(settings: Settings, users: int = 60, seed: int = 1) -> Bundle:
    """Return a small model of the town for these settings: seconds of training."""
    encoder = load_encoder(settings)
    index = new_index(encoder, settings)
    apply(Catalogue(encoder, settings.text_length).vectors([(item, FIRST) for item in items()], index), index)
    sizes, plan = Sizes(width=16, hidden=8, lists=60), Plan(epochs=3, batch=128, rate=3e-3, seed=seed)
    return train(build(encoder, settings, index), events(users), lambda event: True, sizes=sizes, plan=plan)


def write(folder: Path, events: Sequence[Event], items: Sequence[Item]) -> tuple[Path, Path]:
    """Write both as files and return their paths."""
    paths = folder / "events.jsonl", folder / "items.jsonl"
    rows = [
        [{"user_id": e.user_id, "type": e.type, "at": e.at, "item_id": e.item_id} for e in events],
        [{"item_id": item.item_id, "title": item.title} for item in items],
    ]
    for path, some in zip(paths, rows, strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in some))
    return paths
