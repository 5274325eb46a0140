"""The example catalogue, its background behaviour and the stories that the demo plays, as data and as checks.

Knows nothing of Kafka, encoders or ranking: a story says what a thoughtful person expects of a list, whatever made the list.

    catalogue.jsonl   one `Item` a line: a shop, news and videos, in Chinese, in English and in both
    history.jsonl     one `Event` a line: what sixty other people did in the fortnight before; written by make_history.py
    stories.toml      the stories; its head explains the form
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from math import log2

import msgspec

from streams.messages import Event, EventType, Item, decode_item


class Titles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A story's title in both languages."""

    zh: str
    en: str


class Share(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many of the first `top` items may match any of the selectors `of`."""

    top: int
    of: tuple[str, ...]
    at_least: int = 0
    at_most: int | None = None


class Varied(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many different categories and kinds the first `top` items hold at least."""

    top: int
    categories: int
    kinds: int = 1


class Expectation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must hold of the user's list after a step. Selectors are explained at the head of stories.toml."""

    above: tuple[tuple[str, str], ...] = ()
    shares: tuple[Share, ...] = ()
    has: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    rises: tuple[str, ...] = ()
    falls: tuple[str, ...] = ()
    varied: Varied | None = None


class Action(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An event before it has an id, a user and a time."""

    type: EventType
    item_id: str | None = None
    text: str | None = None
    rating: float | None = None
    progress: float | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One event of a user, or one item published; exactly one of `event` and `item` is set."""

    narration: str
    event: Action | None = None
    item: Item | None = None
    user_id: str | None = None  # None: the story's own user
    pause_s: float = 5.0  # seconds that the user lets pass before this step
    expect: Expectation = Expectation()

    def __post_init__(self) -> None:
        if (self.event is None) == (self.item is None):
            raise ValueError(f"step {self.narration[:60]!r} needs exactly one of event and item")


class Story(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one user does, step by step, and what the lists must show."""

    name: str
    title: Titles
    user_id: str
    language: str
    steps: tuple[Step, ...]

    def user_of(self, step: Step) -> str:
        """Return the user who acts in `step`, and whose list `step.expect` is about."""
        return step.user_id or self.user_id

    def event_of(self, step: Step, event_id: str, at: float) -> Event:
        """Return the step's event with an id and a time (Unix seconds). Raises ValueError for a step that publishes an item."""
        if step.event is None:
            raise ValueError(f"step {step.narration[:60]!r} publishes an item: send step.item to the topic items instead")
        return Event(event_id=event_id, user_id=self.user_of(step), at=at, **msgspec.structs.asdict(step.event))


def load_catalogue() -> list[Item]:
    """Return the items of catalogue.jsonl in file order."""
    return [decode_item(line) for line in _read("catalogue.jsonl").splitlines()]


def load_history(ending_at: float | None = None) -> list[Event]:
    """Return the events of history.jsonl in time order, `at` in Unix seconds.

    With `ending_at`, all times are moved by the same amount so that the last event happens then: old behaviour has decayed.
    """
    events = [msgspec.json.decode(line, type=Event) for line in _read("history.jsonl").splitlines()]
    if ending_at is None or not events:
        return events
    shift = ending_at - float(events[-1].at)
    return [msgspec.structs.replace(event, at=float(event.at) + shift) for event in events]


def load_stories() -> list[Story]:
    """Return the stories of stories.toml in file order."""
    return msgspec.convert(tomllib.loads(_read("stories.toml").decode())["story"], type=list[Story])


def matches(selector: str, item: Item) -> bool:
    """Return whether `selector` (`category:`, `tag:`, `kind:`, `language:` or an item id) picks `item`."""
    field, colon, value = selector.partition(":")
    if not colon:
        return item.item_id == selector
    if field == "category":
        return item.category == value
    if field == "tag":
        return value in item.tags
    if field == "kind":
        return item.attributes["kind"] == value
    if field == "language":
        return value in str(item.attributes["language"]).split("-")
    raise ValueError(f"selector {selector!r}: expected category:, tag:, kind:, language: or an item id")


def check(expect: Expectation, before: Sequence[str], after: Sequence[str], items: Mapping[str, Item]) -> list[str]:
    """Return what is wrong with the list `after` (item ids, best first) given the list `before` the step; [] = all holds.

    `items` holds every item that may stand in either list. Raises KeyError for an item that it lacks.
    """
    failures = _check_above(expect.above, after, items)
    failures += [f"{item_id} must be in the list and is not" for item_id in expect.has if item_id not in after]
    failures += [
        f"{item_id} must be gone and is at place {after.index(item_id) + 1}" for item_id in expect.gone if item_id in after
    ]
    for share in expect.shares:
        failures += _check_share(share, after, items)
    if expect.varied:
        failures += _check_varied(expect.varied, after, items)
    failures += _moved(expect.rises, "rise", lambda old, new: new > old, before, after, items)
    failures += _moved(expect.falls, "fall", lambda old, new: new < old, before, after, items)
    return failures


def standing(selector: str, ranked: Sequence[str], items: Mapping[str, Item]) -> float:
    """Return how much room the selected items take in a list: the sum of 1 / log2(place + 1), places from 1; 0 = none of it.

    The discount is that of DCG (Järvelin and Kekäläinen, 2002): the first place counts 1, the tenth .29.
    """
    return sum(1 / log2(place + 1) for place, item_id in enumerate(ranked, 1) if matches(selector, items[item_id]))


def _check_above(pairs: Sequence[tuple[str, str]], after: Sequence[str], items: Mapping[str, Item]) -> list[str]:
    places = [(a, _first(a, after, items), b, _first(b, after, items)) for a, b in pairs]
    return [
        f"{a} ({_named(upper)}) must stand above {b} ({_named(lower)})"
        for a, upper, b, lower in places
        if upper is None or (lower is not None and lower <= upper)
    ]


def _first(selector: str, ranked: Sequence[str], items: Mapping[str, Item]) -> int | None:
    return next((place for place, item_id in enumerate(ranked, 1) if matches(selector, items[item_id])), None)


def _named(place: int | None) -> str:
    return "not in the list" if place is None else f"place {place}"


def _check_share(share: Share, after: Sequence[str], items: Mapping[str, Item]) -> list[str]:
    found = sum(any(matches(selector, items[item_id]) for selector in share.of) for item_id in after[: share.top])
    if share.at_least <= found and (share.at_most is None or found <= share.at_most):
        return []
    wanted = f"at least {share.at_least}" if found < share.at_least else f"at most {share.at_most}"
    return [f"{found} of the first {share.top} are {' or '.join(share.of)}: expected {wanted}"]


def _check_varied(varied: Varied, after: Sequence[str], items: Mapping[str, Item]) -> list[str]:
    top = [items[item_id] for item_id in after[: varied.top]]
    counts = {
        "categories": (len({item.category for item in top}), varied.categories),
        "kinds": (len({item.attributes["kind"] for item in top}), varied.kinds),
    }
    return [
        f"{found} {name} in the first {varied.top}: expected at least {least}"
        for name, (found, least) in counts.items()
        if found < least
    ]


def _moved(
    selectors: Sequence[str],
    verb: str,
    holds: Callable[[float, float], bool],
    before: Sequence[str],
    after: Sequence[str],
    items: Mapping[str, Item],
) -> list[str]:
    moves = [(selector, standing(selector, before, items), standing(selector, after, items)) for selector in selectors]
    return [
        f"{selector} must {verb}: standing {old:.2f} before, {new:.2f} after"
        for selector, old, new in moves
        if not holds(old, new)
    ]


def _read(name: str) -> bytes:
    return files(__name__).joinpath(name).read_bytes()
