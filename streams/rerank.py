"""Read a user's newest list once more with a cross-encoder, the few at its top: a command, away from the workers' hot path.

Does not publish anything: workers do, by the same texts, where the settings ask for it (`streams.reread`). The user's text is
made as it was for learning: the titles of the last touches, the newest first; a profile holds no words that were said, so these
are left out.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.table import Table

from encoders import judge
from ranking.profile import Profile
from ranking.reorder import both
from streams.catalogue import item_text
from streams.datasets import items_of
from streams.messages import Item, RecommendationList, RecommendedItem, decode_item
from streams.reading import records
from streams.settings import Settings
from streams.topics import topics
from streams.tuning_rows import TITLES
from streams.watch import newest_list, stored_profile

TIMES = 5  # the first pass takes longer: the time told is the middle one


class Reread(NamedTuple):
    """A list's item. was: its rank in the list as published, from 1; chance: of being wanted, None where not asked."""

    item_id: str
    title: str
    was: int
    chance: float | None


class Done(NamedTuple):
    """A list in its new order, and what asking took, in ms."""

    items: list[Reread]
    ms: float


def rerank(settings: Settings, user_id: str, model: Path, top: int, items: Path | None) -> Done:
    """Return a user's newest list, its first `top` anew. Raises EncoderError, NotFound, TopicError, RowError."""
    judged = judge.load(model, device=settings.device, dtype=settings.dtype, max_tokens=settings.max_tokens)
    shown = msgspec.json.decode(newest_list(settings, user_id), type=RecommendationList)
    profile = stored_profile(settings, user_id)
    known = _items(settings, {item.item_id for item in shown.items} | {touch.item_id for touch in profile.touches}, items)
    return reranked(judged, user_text_of(profile, known), shown.items, known, top, settings.rerank_weight)


def reranked(
    judged: judge.Judge, user: str, listed: Sequence[RecommendedItem], known: Mapping[str, Item], top: int, weight: float
) -> Done:
    """Return the list with its first `top` in the order of scores and chances; an item that is not known stays behind.

    weight: of the cross-encoder beside the ranker (`ranking.reorder.both`).
    """
    asked = [item.item_id for item in listed[:top] if item.item_id in known]
    texts = [item_text(known[item_id]) for item_id in asked]
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        chances = dict(zip(asked, map(float, judged.chances(user, texts)), strict=True))
        took.append(1_000 * (time.perf_counter() - began))
    was = {item.item_id: rank for rank, item in enumerate(listed, 1)}
    scores = [item.score for item in listed if item.item_id in chances]
    values = dict(zip(asked, both(scores, [*chances.values()], weight).tolist(), strict=True))
    order = [*sorted(asked, key=lambda item_id: -values[item_id]), *(each for each in was if each not in chances)]
    titles = {item_id: known[item_id].title if item_id in known else item_id for item_id in order}
    return Done(
        [Reread(item_id, titles[item_id], was[item_id], chances.get(item_id)) for item_id in order], sorted(took)[TIMES // 2]
    )


def user_text_of(profile: Profile, known: Mapping[str, Item]) -> str:
    """Return the titles of the last touches of items that are known, the newest first."""
    titles = [known[touch.item_id].title for touch in reversed(profile.touches) if touch.item_id in known]
    return "; ".join(list(dict.fromkeys(titles))[:TITLES])


def _items(settings: Settings, ids: Collection[str], path: Path | None) -> dict[str, Item]:
    if path is not None:
        return {item.item_id: item for item in items_of(path, {}) if item.item_id in ids}
    found: dict[str, Item] = {}
    for record in records(settings, topics(settings).items):
        item_id = (record.key or b"").decode(errors="replace")
        if item_id in ids and record.value:
            found[item_id] = decode_item(record.value)
        elif item_id in ids:
            found.pop(item_id, None)
    return found


def table_of(user_id: str, done: Done) -> Table:
    """Return a list in its new order as a table."""
    table = Table(title=f"{user_id}, read once more", title_justify="left")
    for name, justify in (("#", "right"), ("was", "right"), ("item", "left"), ("chance", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for rank, item in enumerate(done.items, 1):
        table.add_row(str(rank), str(item.was), item.title, "" if item.chance is None else f"{item.chance:.3f}")
    return table
