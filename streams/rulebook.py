"""Business rules as an operator writes them: a TOML file of `[[rule]]` tables, checked at the start.

Does not apply them. docs/rules.md shows what can be written.

    RulesError(ValueError)   a rule cannot be used: one line for each thing to change, with the rule's name
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timezone, tzinfo
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import msgspec

from ranking.business import DAY_MIN, MOST, BusinessRule, Window
from ranking.conditions import Attribute, Condition, spelt

ACTIONS = "boost, bury, pin or exclude"
DAY_S = 86_400.0
Words = str | list[str]
Scalar = bool | float | str
BOUND = re.compile(r"(<=|>=|<|>)\s*(-?\d+(?:\.\d+)?)")


class RulesError(ValueError):
    """A rule that cannot be used."""


class _Written(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, rename={"start": "from"}):
    """A rule as it is written."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
    do: Literal["boost", "bury", "pin", "exclude"]
    by: Annotated[float, msgspec.Meta(gt=1, le=MOST)] | None = None
    place: Annotated[int, msgspec.Meta(ge=1)] | None = None
    item: Words = []
    category: Words = []
    brand: Words = []
    tag: Words = []
    attributes: dict[str, Scalar | list[Scalar]] = {}
    newer_than_days: Annotated[float, msgspec.Meta(gt=0)] | None = None
    older_than_days: Annotated[float, msgspec.Meta(gt=0)] | None = None
    start: Any = None
    until: Any = None
    hours: str | None = None
    zone: str = "UTC"


def read(path: Path, list_size: int) -> tuple[BusinessRule, ...]:
    """Return the rules of a file, in its order. Raises RulesError that tells all that is wrong."""
    rules: list[BusinessRule] = []
    wrong: list[str] = []
    for number, table in enumerate(_tables(path), 1):
        try:
            rules.append(rule_of(table, list_size))
            if [rule.name for rule in rules].count(rules[-1].name) > 1:
                raise RulesError("another rule has this name: give it one of its own, since lists tell it")
        except RulesError as error:
            wrong.append(f"{path}: rule {number} ({table.get('name', 'without a name')}): {error}")
    if wrong:
        raise RulesError("\n".join(wrong))
    return tuple(rules)


def _tables(path: Path) -> list[dict[str, Any]]:
    try:
        written = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RulesError(f"{path} cannot be read ({error.strerror}): name a file of rules") from None
    except ValueError as error:
        raise RulesError(f"{path} is no TOML: {error}") from None
    tables = written.pop("rule", [])
    if written or not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        there = ", ".join(written) or "a rule that is no table"
        raise RulesError(f"{path} has {there}: each rule begins with a line [[rule]], and nothing stands outside of them")
    return tables


def rule_of(table: Mapping[str, Any], list_size: int) -> BusinessRule:
    """Return the rule that a table describes. Raises RulesError."""
    try:
        written = msgspec.convert(table, _Written)
    except msgspec.ValidationError as error:
        raise RulesError(_explained(str(error))) from None
    _check(written, list_size)
    return BusinessRule(
        name=written.name,
        action=written.do,
        condition=_condition(written),
        factor=1.0 / (written.by or 1.0) if written.do == "bury" else written.by or 1.0,
        place=written.place or 0,
        min_age_s=(written.older_than_days or 0.0) * DAY_S,
        max_age_s=math.inf if written.newer_than_days is None else written.newer_than_days * DAY_S,
        window=_window(written),
    )


def _explained(error: str) -> str:
    """Return what msgspec says of a table, with what to do."""
    reason, _, where = error.partition(" - at `$.")
    where = where.rstrip("`")
    if unknown := re.search(r"unknown field `(.*)`", reason):
        known = [field.encode_name for field in msgspec.structs.fields(_Written)]
        near = difflib.get_close_matches(unknown[1], known, n=1, cutoff=0.0)[0]
        return f"{unknown[1]!r} is nothing that a rule has: did you mean {near!r}? Attributes of items stand in `attributes`"
    if missing := re.search(r"missing required field `(.*)`", reason):
        return f"it has no `{missing[1]}`: give it one" + (f", {ACTIONS}" if missing[1] == "do" else "")
    if where == "do":
        return f"`do` is none of {ACTIONS}"
    return f"`{where}`: {reason[0].lower()}{reason[1:]}"


def _check(written: _Written, list_size: int) -> None:
    """Raise RulesError where the parts of a rule do not go together."""
    if not written.name.isprintable() or written.name != written.name.strip():
        raise RulesError("`name` has control characters or blanks at its ends: lists tell it, use printable characters")
    for part, actions in (("by", ("boost", "bury")), ("place", ("pin",))):
        if (getattr(written, part) is not None) != (written.do in actions):
            needs = "needs" if written.do in actions else "has no"
            example = {"by": "by = 2 doubles the odds or halves them", "place": "place = 1 is the first"}[part]
            raise RulesError(f"{written.do} {needs} `{part}`: {example}")
    if (written.place or 0) > list_size:
        raise RulesError(f"`place` is {written.place}, lists have {list_size}: lower it, or raise HEADRACE_LIST_SIZE")
    ages = (written.newer_than_days, written.older_than_days)
    if not (written.item or written.category or written.brand or written.tag or written.attributes or any(ages)):
        raise RulesError(
            "it is about no items: give item, category, brand, tag, attributes, newer_than_days or older_than_days"
        )
    if ages[0] is not None and ages[1] is not None and ages[0] <= ages[1]:
        raise RulesError(f"no item is newer than {ages[0]:g} days and older than {ages[1]:g}")


def _condition(written: _Written) -> Condition:
    return Condition(
        items=_words(written.item),
        categories=_words(written.category),
        brands=_words(written.brand),
        tags=_words(written.tag),
        attributes=tuple([_attribute(name, asked) for name, asked in written.attributes.items()]),
    )


def _words(words: Words) -> frozenset[str]:
    return frozenset([words] if isinstance(words, str) else words)


def _attribute(name: str, asked: Scalar | list[Scalar]) -> Attribute:
    """Return what is asked of an attribute: bounds, as "< 50" or ">= 10, < 50", or one value of those given."""
    if isinstance(asked, str) and asked.lstrip()[:1] in ("<", ">"):
        parts = [BOUND.fullmatch(part.strip()) for part in asked.split(",")]
        if not all(parts):
            raise RulesError(f'`attributes.{name}` is "{asked}": give bounds as "< 50" or ">= 10, < 50"')
        return Attribute(name, bounds=tuple([(part[1], float(part[2])) for part in parts if part]))
    values = asked if isinstance(asked, list) else [asked]
    if not values:
        raise RulesError(f"`attributes.{name}` is an empty list: give one value or more")
    return Attribute(name, frozenset(spelt(value) for value in values))


def _window(written: _Written) -> Window:
    zone = _zone(written.zone)
    start, until = _moment("from", written.start, zone), _moment("until", written.until, zone)
    start, until = -math.inf if start is None else start, math.inf if until is None else until
    if start >= until:
        raise RulesError(f"`from` {written.start} does not lie before `until` {written.until}")
    return Window(start, until, _hours(written.hours), zone)


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return timezone.utc
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # as zoneinfo raises for what is not there, a path, and an unknown name
        raise RulesError(f"`zone` {name!r} is unknown here: give one as Europe/Berlin, or leave it out for UTC") from None


def _moment(name: str, given: Any, zone: tzinfo) -> float | None:
    """Return Unix seconds of a TOML date or time, or of the same in quotes; without a zone of its own it is the rule's."""
    if given is None:
        return None
    try:
        moment = datetime.fromisoformat(given) if isinstance(given, str) else given
        if isinstance(moment, date) and not isinstance(moment, datetime):
            moment = datetime(moment.year, moment.month, moment.day)
        if isinstance(moment, datetime):
            return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()
    except (ValueError, OverflowError):
        pass
    raise RulesError(f"`{name}` is {given!r}: give a date as 2026-03-01 or a time as 2026-03-01T08:00:00Z")


def _hours(given: str | None) -> tuple[int, int]:
    """Return minutes of the day of hours as "18:00-23:30"; the whole day when there are none."""
    if given is None:
        return 0, DAY_MIN
    found = re.fullmatch(r"(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})", given.strip())
    if found:
        first_h, first_m, last_h, last_m = map(int, found.groups())
        first, last = first_h * 60 + first_m, last_h * 60 + last_m
        if max(first_m, last_m) < 60 and first < DAY_MIN and last <= DAY_MIN and first != last:
            return first, last
    raise RulesError(f'`hours` is "{given}": give them as "18:00-23:30"; "22:00-06:00" goes over midnight')


def attributes_of(rules: Sequence[BusinessRule]) -> tuple[str, ...]:
    """Return the names of the attributes that rules ask for: all that the index keeps of items' attributes."""
    return tuple(sorted({asked.name for rule in rules for asked in rule.condition.attributes}))
