"""What a business rule asks of an item: its id, category, brand, tags and attributes.

Knows no rule, user or time. A condition holds where each thing that it names holds; of several values one is enough.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ranking.index import IndexedItem

Value = str | float | bool | None
COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class Attribute:
    """What is asked of one attribute: one of `values`, as `spelt` has them, or all bounds, (sign of COMPARE, number).

    An item without the attribute, or with one that is no number where there are bounds, does not have it.
    """

    name: str
    values: frozenset[str] = frozenset()
    bounds: tuple[tuple[str, float], ...] = ()

    def holds(self, value: Value) -> bool:
        """Tell whether an item's value is what is asked."""
        if value is None:
            return False
        if self.bounds:
            number = number_of(value)
            return number is not None and all(COMPARE[sign](number, bound) for sign, bound in self.bounds)
        return spelt(value) in self.values


@dataclass(frozen=True, slots=True)
class Condition:
    """Which items are meant: those for which every part that is not empty holds."""

    items: frozenset[str] = frozenset()
    categories: frozenset[str] = frozenset()
    brands: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    attributes: tuple[Attribute, ...] = ()

    def holds(self, item: IndexedItem, names: Sequence[str]) -> bool:
        """Tell whether an item is meant. names: of the attributes that the index keeps, in the order of the item's."""
        return (
            (not self.items or item.item_id in self.items)
            and (not self.categories or item.category in self.categories)
            and (not self.brands or item.brand in self.brands)
            and (not self.tags or not self.tags.isdisjoint(item.tags))
            and (not self.attributes or self._has_attributes(dict(zip(names, item.attributes, strict=True))))
        )

    def _has_attributes(self, values: dict[str, Value]) -> bool:
        return all(asked.holds(values.get(asked.name)) for asked in self.attributes)


def spelt(value: str | float | bool) -> str:
    """Return a value as it is compared: 2024, 2024.0 and "2024" are one, and so are true and "True" (csv knows only text)."""
    if isinstance(value, bool) or str(value).lower() in ("true", "false"):
        return str(value).lower()
    number = number_of(value)
    return str(value).strip() if number is None else repr(number)


def number_of(value: str | float | bool) -> float | None:
    """Return a value as a finite number, None for what is none."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None
