"""Show lists and profiles in the terminal: the newest of a user, or each one as it is published.

Does not publish or change anything. Titles come from a file of items or from the item-vectors topic; an item that neither
knows shows its id.

    NotFound(LookupError)   the user has no list or profile yet: says when one comes
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from kafka import TopicPartition
from rich.console import Console
from rich.table import Table

from ranking.profile import Profile, RecordError, unpack_any
from streams.connection import RightsError
from streams.kafka import open_consumer
from streams.messages import RecommendationList
from streams.reading import assign, newest, records
from streams.rights import READ, check_right
from streams.rows import rows
from streams.settings import Settings
from streams.topics import TopicError, topics

INTERESTS = ("long interest", "short interest", "turned down", "asked for")  # the rows of Profile.interests
REST_S = 0.02  # the embedded broker answers at once that there is nothing, and asking again and again takes half a core


class NotFound(LookupError):  # noqa: N818  reads as what happened
    """A user without a list or profile."""


class _Titled(msgspec.Struct):
    """The two fields of an ItemVector that a list needs: its vector, the most of the record, is never decoded."""

    item_id: str
    title: str


_titled = msgspec.json.Decoder(_Titled)
_lists = msgspec.json.Decoder(RecommendationList)


def titles_of(settings: Settings, items: Path | None) -> dict[str, str]:
    """Return item_id -> title, from a file of items or (None) from the item-vectors topic. Raises RowError, TopicError."""
    if items is not None:
        return {
            str(row.values["item_id"]): str(row.values["title"])
            for row in rows(items)
            if row.values.keys() >= {"item_id", "title"}
        }
    titles: dict[str, str] = {}
    for record in records(settings, topics(settings).item_vectors):
        if record.value:
            item = _titled.decode(record.value)
            titles[item.item_id] = item.title
    return titles


def published(settings: Settings, user_id: str | None = None, *, from_start: bool = False) -> Iterator[bytes]:
    """Yield the value of each list as it is published (of one user if given), for ever. Raises TopicError, RightsError."""
    recommendations = topics(settings).recommendations
    check_right(settings, READ, recommendations.name)
    with open_consumer(settings) as consumer:
        assigned: list[TopicPartition] = assign(consumer, recommendations, user_id)
        (consumer.seek_to_beginning if from_start else consumer.seek_to_end)(*assigned)
        for place in assigned:
            consumer.position(place)  # seeks are lazy: without this, what is sent before the first poll would be missed
        while True:
            fetched = consumer.poll(timeout_ms=200)
            if not fetched:
                time.sleep(REST_S)
            for batch in fetched.values():
                for record in batch:
                    if record.value and user_id in (None, (record.key or b"").decode(errors="replace")):
                        yield record.value


def newest_list(settings: Settings, user_id: str) -> bytes:
    """Return the value of a user's newest list. Raises NotFound when there is none."""
    record = newest(settings, topics(settings).recommendations, user_id)
    if record is None or not record.value:
        raise NotFound(f"user {user_id!r} has no list: lists come with a user's next event while a worker runs")
    return bytes(record.value)


def stored_profile(settings: Settings, user_id: str) -> Profile:
    """Return a user's profile as the table's changelog has it. Raises NotFound when there is none."""
    record = newest(settings, topics(settings).profiles, user_id)
    if record is None or not record.value:
        raise NotFound(f"user {user_id!r} has no profile: it comes with the user's first event while a worker runs")
    try:
        return unpack_any(record.value)
    except RecordError as error:
        raise TopicError(f"{user_id!r} in {record.topic}[{record.partition}]@{record.offset}: {error}") from None


def list_table(value: bytes, titles: Mapping[str, str]) -> Table:
    """Return a list's value as a table of ranks, titles, scores and reasons."""
    shown = _lists.decode(value)
    table = Table(title=f"{shown.user_id}  ·  {_moment(shown.published_at)}", title_justify="left", caption_justify="left")
    made_by = shown.model if shown.variant is None else f"{shown.model} for {shown.variant}"
    made_by += "" if shown.reread is None else f", reread by {shown.reread}"
    table.caption = f"{made_by}, after event {shown.event_id}, newer by {shown.covers}"
    for name, justify in (("#", "right"), ("item", "left"), ("score", "right"), ("why", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for rank, item in enumerate(shown.items, 1):
        table.add_row(str(rank), titles.get(item.item_id, item.item_id), f"{item.score:.3f}", item.reason)
    return table


def profile_table(user_id: str, profile: Profile, titles: Mapping[str, str]) -> Table:
    """Return a profile as a table: what it holds first, then the last touches, newest first."""
    interests = np.frombuffer(profile.interests, "<f4").reshape(len(INTERESTS), -1)
    table = Table(title=f"{user_id}  ·  {profile.events} events, the last at {_moment(profile.at)}", title_justify="left")
    for name in ("when", "what", "item", "weight"):
        table.add_column(name, justify="right" if name == "weight" else "left")
    for name, vector in zip(INTERESTS, interests, strict=True):
        table.add_row("", name, f"{interests.shape[1]} dims", f"{float(np.linalg.norm(vector)):.2f}")
    table.add_row("", "not shown again", f"{len(profile.seen) // 8} items", "", end_section=True)
    for touch in reversed(profile.touches):
        about = titles.get(touch.item_id, touch.item_id or "words")
        table.add_row(_moment(touch.at), touch.kind, about, f"{touch.weight:+.2f}")
    return table


def show(settings: Settings, values: Iterator[bytes], *, as_json: bool, count: int, items: Path | None) -> None:
    """Print lists, as tables or as their JSON lines, until `count` are printed (0 is no end)."""
    titles = {} if as_json else known_titles(settings, items)
    console = Console()
    for number, value in enumerate(values, 1):
        if as_json:
            sys.stdout.write(value.decode() + "\n")
            sys.stdout.flush()
        else:
            console.print(list_table(value, titles))
        if number == count:
            return


def known_titles(settings: Settings, items: Path | None) -> dict[str, str]:
    """Return `titles_of`, under a spinner; none, said on standard error, when the item-vectors topic is missing or not ours."""
    console = Console(stderr=True)
    try:
        with console.status("reading titles"):
            return titles_of(settings, items)
    except (TopicError, RightsError) as error:
        console.print(f"[yellow]ids in place of titles: {error}")
        return {}


def _moment(at: Any) -> str:
    return datetime.fromtimestamp(at, timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M:%S")
