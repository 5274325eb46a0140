"""Find by halving which of many items raise, and go on with the others. Knows nothing of what the items are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Sifted(NamedTuple, Generic[T, R]):
    """What `sift` found: the result for the good items, and each bad one with its error."""

    good: list[T]
    result: R
    bad: list[tuple[T, Exception]]


async def sift(
    items: Sequence[T],
    attempt: Callable[[Sequence[T]], Awaitable[R]],
    witness: T | None = None,
    fatal: tuple[type[Exception], ...] = (MemoryError,),
) -> Sifted[T, R]:
    """Attempt all items; where that raises, find by halving the single items that raise, and attempt the others.

    `witness` is an item that went through before: when it raises now, the fault lies with the process and not with an item.
    Raises the error when no single item is to blame, and at once those that are `fatal`.
    """
    try:
        return Sifted(list(items), await attempt(items), [])
    except fatal:
        raise
    except Exception as error:
        bad = await _raising(items, range(len(items)), attempt, error)
        if witness is not None:
            await attempt([witness])
        good = [item for place, item in enumerate(items) if place not in bad]
        if not bad:
            raise
    return Sifted(good, await attempt(good), [(items[place], error) for place, error in sorted(bad.items())])


async def _raising(
    items: Sequence[T], places: Sequence[int], attempt: Callable[[Sequence[T]], Awaitable[Any]], error: Exception
) -> dict[int, Exception]:
    """Return the places of the items that raise alone, of a part that raised `error` as a whole."""
    if len(places) <= 1:
        return dict.fromkeys(places, error)
    found: dict[int, Exception] = {}
    for part in (places[: len(places) // 2], places[len(places) // 2 :]):
        try:
            await attempt([items[place] for place in part])
        except Exception as deeper:
            found |= await _raising(items, part, attempt, deeper)
    return found
