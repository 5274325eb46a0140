"""What a language model is tuned on: rows of a user's text, an item's and a label, of a file or of past events.

Knows no model. Parts lie in time, one after the other, wherever time is known: what is measured on comes after what is learnt
from. Of events, the user's text is what the user touched and said last, the item's that of the next item that was wanted.

    TuningError(ValueError)   rows that nothing can be learnt from: says what is missing
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from encoders.matching import Labelled
from encoders.objectives import LAST, Lessons, Question
from streams.catalogue import item_text
from streams.datasets import Dataset
from streams.messages import seconds_of
from streams.rows import RowError, rows
from streams.sending import is_number
from streams.trial import TEST_FROM, VALID_FROM

Part = Literal["train", "dev", "test"]
PARTS: tuple[Part, ...] = ("train", "dev", "test")
DEV_FROM, ASKED_FROM = 0.8, 0.9  # shares of a file's rows
DEV_FROM_TEXTS = 0.9
TITLES = 5  # last touches whose titles are a user's text
BOUGHT, LEFT = "wanted", "not wanted"


class TuningError(ValueError):
    """Rows that nothing can be learnt from."""


class Pair(NamedTuple):
    """A row of a file. label: as it is written; at: Unix seconds, or None for all rows of the file."""

    user: str
    item: str
    label: str
    at: float | None


@dataclass(frozen=True)
class Texts:
    """A domain's texts."""

    train: list[str]
    dev: list[str]


@dataclass(frozen=True)
class Step:
    """A moment at which a user wanted an item. before: texts' numbers, oldest first, of what was touched and said."""

    user: int
    before: tuple[int, ...]
    wanted: int
    part: Part


@dataclass(frozen=True)
class Steps:
    """Steps of events in time order. texts: those of the items first, in the items' order, then what users said."""

    texts: list[str]
    titles: list[str]
    items: int
    steps: list[Step]


def read_pairs(path: Path, now: float, columns: Mapping[str, str], progress: Callable[[float], None]) -> list[Pair]:
    """Return a file's rows; columns: our names (user_text, item_text, label, at) -> the file's; now: Unix seconds.

    A file without labels is of pairs that were wanted, label 1.

    Raises RowError, BadMessage, TuningError.
    """
    made, told = [], 0
    for row in rows(path, columns):
        progress(row.done)
        missing = [name for name in ("user_text", "item_text") if not str(row.values.get(name, "")).strip()]
        if missing:
            raise RowError(
                f"{path} row {row.number} has no {' and no '.join(missing)}: name the columns user_text, item_text and label, "
                "or map them, as --map user_text=query"
            )
        at = row.values.get("at")
        moment = None if at is None else seconds_of(float(at) if is_number(at) else at, now)
        told += "label" in row.values
        label = str(row.values.get("label", "1"))
        made.append(Pair(str(row.values["user_text"]), str(row.values["item_text"]), label, moment))
    if not made:
        raise TuningError(f"{path} has no rows")
    for name, count in (("at", sum(pair.at is not None for pair in made)), ("label", told)):
        if 0 < count < len(made):
            raise RowError(f"{path}: {count} of {len(made)} rows have `{name}`, others have none: give it to all or to none")
    return made


def parts_of(pairs: Sequence[Pair]) -> list[Part]:
    """Return the part of each row: by time, the newest last; by the user's text, all rows of one together, without times."""
    if pairs[0].at is None:
        return [_part_at(int.from_bytes(blake2b(pair.user.encode(), digest_size=4).digest(), "big") / 2**32) for pair in pairs]
    order = np.argsort([pair.at or 0.0 for pair in pairs], kind="stable")
    place = np.empty(len(pairs))
    place[order] = np.arange(len(pairs)) / len(pairs)
    return [_part_at(share) for share in place]


def _part_at(share: float, dev: float = DEV_FROM, test: float = ASKED_FROM) -> Part:
    return "train" if share < dev else "dev" if share < test else "test"


def lessons_of_pairs(pairs: Sequence[Pair]) -> Lessons:
    """Return questions: each wanted row is one, against the rows of the same text that were not. Raises TuningError."""
    wanted = [_is_wanted(pair) for pair in pairs]
    number: dict[str, int] = {}
    for text in (text for pair in pairs for text in (pair.user, pair.item)):
        number.setdefault(text, len(number))
    against: dict[str, dict[int, None]] = defaultdict(dict)
    liked = {(pair.user, pair.item) for pair, is_wanted in zip(pairs, wanted, strict=True) if is_wanted}
    parts = parts_of(pairs)
    for pair, is_wanted, part in zip(pairs, wanted, parts, strict=True):
        if not is_wanted and part == "train" and (pair.user, pair.item) not in liked:
            against[pair.user][number[pair.item]] = None
    found: dict[Part, list[Question]] = {part: [] for part in PARTS}
    for pair, is_wanted, part in zip(pairs, wanted, parts, strict=True):
        if is_wanted:
            own = number[pair.user]
            found[part].append(Question((own,), number[pair.item], own, tuple(against[pair.user]) if part == "train" else ()))
    catalogue = sorted({number[pair.item] for pair in pairs})
    return _checked(Lessons(list(number), catalogue, found["train"], found["dev"], found["test"]))


def _is_wanted(pair: Pair) -> bool:
    try:
        return float(pair.label) > 0
    except ValueError:
        raise TuningError(f"label {pair.label!r} is no number: --task retrieve reads 1 as wanted and 0 as not wanted") from None


def labelled_of_pairs(pairs: Sequence[Pair]) -> Labelled:
    """Return the pairs with their labels, in the labels' order. Raises TuningError."""
    names = sorted({pair.label for pair in pairs})
    numbers: dict[Part, list[int]] = {part: [] for part in PARTS}
    for i, part in enumerate(parts_of(pairs)):
        numbers[part].append(i)
    labels = [names.index(pair.label) for pair in pairs]
    made = Labelled([pair.user for pair in pairs], [pair.item for pair in pairs], labels, names, **numbers)
    return _checked_labels(made)


def steps_of(dataset: Dataset, *, is_left_out: bool = False) -> Steps:
    """Return the steps of a set's events.

    is_left_out: parts as leave-one-out has them, each user's last wanted item is test and the one before dev; else the events'
    first 70 % are train, the next 10 % dev, the rest test, as `headrace train` and `headrace evaluate` cut them.
    """
    texts = [item_text(item) for item in dataset.items]
    number = {item.item_id: place for place, item in enumerate(dataset.items)}
    users: dict[str, int] = {}
    before: dict[int, list[int]] = defaultdict(list)
    found: list[tuple[int, int, tuple[int, ...], int]] = []  # place, user, before, wanted
    for place, event in enumerate(dataset.events):
        user = users.setdefault(event.user_id, len(users))
        item = number.get(event.item_id or "")
        if item is not None and dataset.is_wanted(event) and before[user]:
            found.append((place, user, tuple(before[user][-LAST:]), item))
        if item is not None and event.type != "impression":
            before[user].append(item)
        if event.text:
            texts.append(event.text)
            before[user].append(len(texts) - 1)
    parts = (
        _left_out(found)
        if is_left_out
        else [_part_at(place / len(dataset.events), VALID_FROM, TEST_FROM) for place, *_ in found]
    )
    steps = [Step(user, own, wanted, part) for (_, user, own, wanted), part in zip(found, parts, strict=True)]
    return Steps(texts, [*(item.title for item in dataset.items), *texts[len(dataset.items) :]], len(dataset.items), steps)


def _left_out(found: Sequence[tuple[int, int, tuple[int, ...], int]]) -> list[Part]:
    own: dict[int, list[int]] = defaultdict(list)
    for row, (_, user, _, _) in enumerate(found):
        own[user].append(row)
    parts: list[Part] = ["train"] * len(found)
    for rows_of in own.values():
        parts[rows_of[-1]] = "test"
        if len(rows_of) > 1:
            parts[rows_of[-2]] = "dev"
    return parts


def lessons_of_steps(steps: Steps) -> Lessons:
    """Return questions: which of all items comes next. Raises TuningError."""
    found: dict[Part, list[Question]] = {part: [] for part in PARTS}
    for step in steps.steps:
        found[step.part].append(Question(step.before, step.wanted, step.user))
    return _checked(Lessons(steps.texts, list(range(steps.items)), found["train"], found["dev"], found["test"]))


def labelled_of_steps(steps: Steps, seed: int) -> Labelled:
    """Return pairs: what came next, and for each an item that did not.

    These are drawn from what others wanted in the same part, so that how often an item is wanted tells nothing. Raises
    TuningError.
    """
    order = np.random.default_rng(seed)
    known: dict[int, set[int]] = defaultdict(set)  # by the end of the part: what comes later is not looked at
    users: list[str] = []
    items: list[str] = []
    labels: list[int] = []
    numbers: dict[Part, list[int]] = {part: [] for part in PARTS}
    for part in PARTS:
        own = [step for step in steps.steps if step.part == part]
        for step in own:
            known[step.user].update(step.before, (step.wanted,))
        for step in own:
            for label, item in enumerate(_two(step, own, known[step.user], order)):
                numbers[part].append(len(labels))
                users.append(user_text(steps.titles, step.before))
                items.append(steps.texts[item])
                labels.append(1 - label)
    return _checked_labels(Labelled(users, items, labels, [LEFT, BOUGHT], **numbers))


def _two(step: Step, others: Sequence[Step], known: set[int], order: np.random.Generator) -> Iterator[int]:
    """Yield what was wanted, and what was not where a few draws find it."""
    yield step.wanted
    for i in order.integers(len(others), size=20):
        if others[i].wanted not in known:
            yield others[i].wanted
            return


def texts_of_pairs(pairs: Sequence[Pair]) -> Texts:
    """Return all texts of the rows, each once; the last tenth is dev."""
    return _texts([text for pair in pairs for text in (pair.user, pair.item)])


def texts_of_steps(steps: Steps) -> Texts:
    """Return the texts of the items and what users said, each once; the last tenth is dev."""
    return _texts(steps.texts)


def _texts(texts: Sequence[str]) -> Texts:
    own = list(dict.fromkeys(texts))
    cut = min(len(own) - 1, round(DEV_FROM_TEXTS * len(own)))
    if cut < 1:
        raise TuningError(f"there are {len(own)} texts: give more of them")
    return Texts(own[:cut], own[cut:])


def user_text(titles: Sequence[str], before: Sequence[int]) -> str:
    """Return a user's text: the last titles and words, the newest first, so that a cut takes the oldest."""
    return "; ".join(titles[number] for number in dict.fromkeys(reversed(before[-TITLES:])))


def _checked(lessons: Lessons) -> Lessons:
    _refuse_empty({"train": len(lessons.train), "dev": len(lessons.dev), "test": len(lessons.test)})
    if len(lessons.catalogue) < 2:
        raise TuningError("there is one item's text alone: nothing can be told apart")
    return lessons


def _checked_labels(pairs: Labelled) -> Labelled:
    _refuse_empty({"train": len(pairs.train), "dev": len(pairs.dev), "test": len(pairs.test)})
    if len(pairs.names) < 2:
        raise TuningError(f"all rows have the label {pairs.names[0]!r}: --task match tells at least two apart")
    return pairs


def _refuse_empty(sizes: Mapping[str, int]) -> None:
    if empty := [part for part, size in sizes.items() if not size]:
        told = ", ".join(f"{size} for {part}" for part, size in sizes.items())
        raise TuningError(
            f"the rows give {told}: {' and '.join(empty)} needs some, give more rows, of more users or a longer time"
        )
