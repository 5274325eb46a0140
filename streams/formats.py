"""Read published data sets: a folder is recognised by its files, which may be packed as .xz, .gz or .zip.

| format | files |
|---|---|
| UniSRec, VQ-Rec | `X.train.inter`, `X.valid.inter`, `X.test.inter`, `X.text`, `X.item2index` |
| MiniOneRec | `items.json`, `valid.csv`, `test.csv`, and `train.csv` where there is one; columns `history_item_id`, `item_id` |
| Online Retail | a csv with `InvoiceNo`, `StockCode`, `CustomerID` |
| MovieLens | `ratings.dat` and `movies.dat` with `::` between the fields, or `ratings.csv` and `movies.csv` |
| any other | `events.*` and `items.*` as csv, jsonl or parquet; also one csv of events whose columns are known by their names |

Knows no protocol beyond the name of the one that a format comes with.
"""

from __future__ import annotations

import ast
import csv
import gzip
import json
import lzma
import shutil
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

from streams.datasets import Dataset, DatasetError, GivenRow, by_time, from_files, in_order, of, scale_of
from streams.messages import TITLE_LENGTH, WORD_LENGTH, Event, Item
from streams.rows import KINDS

Files = Mapping[str, Path]  # name without folder and packing -> path of the plain file

NAMES = {
    "user_id": ("user_id", "userId", "personId", "reviewerID", "user", "uid"),
    "item_id": ("item_id", "itemId", "movieId", "contentId", "asin", "item", "iid"),
    "at": ("at", "timestamp", "time", "unixReviewTime"),
    "type": ("type", "eventType", "event_type", "event"),
    "rating": ("rating", "overall"),
    "text": ("text", "reviewText"),
    "title": ("title", "name"),
    "tags": ("tags", "genres"),
}
_OPEN: dict[str, Callable[[Path], Any]] = {".xz": lzma.open, ".gz": gzip.open}
KINDS_OF = {"view": "view", "like": "like", "bookmark": "like", "follow": "like", "comment created": "like", "buy": "purchase"}


def read(folder: Path) -> Dataset:
    """Return the data set in a folder. Raises DatasetError when no format's files are there."""
    if not folder.is_dir():
        raise DatasetError(f"{folder} is no folder: give the folder that holds the data set's files")
    with unpacked(folder) as files:
        for known, reader in READERS:
            if known(files):
                return replace(reader(files), name=folder.resolve().name)
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:8])
    raise DatasetError(
        f"{folder} holds {there or 'nothing'}: expected X.train.inter with X.text; items.json with test.csv; a csv with "
        "InvoiceNo; ratings.dat with movies.dat; or events and items as csv, jsonl or parquet (docs/evaluation.md)"
    )


@contextmanager
def unpacked(folder: Path) -> Iterator[Files]:
    """Yield a folder's files by their names, with packed ones unpacked into a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as scratch:
        files: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix in _OPEN:
                place = Path(scratch) / path.stem
                with _OPEN[path.suffix](path) as packed, place.open("wb") as plain:
                    shutil.copyfileobj(packed, plain)
                files[place.name] = place
            elif path.suffix == ".zip":
                with zipfile.ZipFile(path) as archive:
                    names = [name for name in archive.namelist() if not name.endswith("/")]
                    files |= {Path(name).name: Path(archive.extract(name, scratch)) for name in names}
            elif path.is_file():
                files[path.name] = path
        yield files


# -- UniSRec


def _is_unisrec(files: Files) -> bool:
    return bool(_ending(files, ".test.inter") and _ending(files, ".text"))


def _unisrec(files: Files) -> Dataset:
    """Each user's last item is test, the one before it validation. Histories are cut at 50, so all rows are put together."""
    numbers = {number: name for name, number in _pairs(files, ".item2index")}
    users = {number: name for name, number in _pairs(files, ".user2index")}
    items = [_worded(item_id, text) for item_id, text in list(_pairs(files, ".text"))[1:]]
    own: dict[str, list[str]] = {}
    for part in (".train.inter", ".valid.inter", ".test.inter"):
        for user, before, last in _shortest_first(_fields(_one(files, part), "\t")[1:]):
            own.setdefault(user, before.split()).append(last)
    events = [
        event
        for user, ids in own.items()
        for event in in_order(users.get(user, user), [numbers.get(each, each) for each in ids])
    ]
    return Dataset("", items, by_time(events), ("leave-one-out",), 10, both_masks=True)


def _shortest_first(rows: list[list[str]]) -> list[list[str]]:
    """Return a part's rows so that each user's shortest history comes first: the published files have it last."""
    is_falling = any(a[0] == b[0] and len(a[1]) > len(b[1]) for a, b in pairwise(rows))
    return rows[::-1] if is_falling else rows


def _worded(item_id: str, text: str) -> Item:
    """Return an item of "title. category. brand."; a text of fewer parts is all title."""
    parts = text.strip().rstrip(".").split(". ")
    title, category, brand = (". ".join(parts[:-2]), parts[-2], parts[-1]) if len(parts) > 2 else (text.strip(), "", "")
    return _item(item_id, title, category=category, brand=brand)


# -- MiniOneRec


def _is_minionerec(files: Files) -> bool:
    return bool(_ending(files, "items.json") and _ending(files, "test.csv"))


def _minionerec(files: Files) -> Dataset:
    """The rows ask; the events are what the histories tell of the time before the first row of the validation.

    A row of train.csv, where there is one, adds its history to nothing but what its user did not yet have.
    """
    described = json.loads(_one(files, "items.json").read_text("utf-8"))
    items = [
        _item(item_id, each.get("title", ""), text=_joined(each.get("description", "")), brand=each.get("brand", ""))
        for item_id, each in described.items()
    ]
    own: dict[str, list[str]] = {}
    rows: list[GivenRow] = []
    for part in ("train", "valid", "test"):
        for row in _table(_one(files, f"{part}.csv")) if _ending(files, f"{part}.csv") else ():
            before = tuple(map(str, ast.literal_eval(row["history_item_id"])))
            known = own.setdefault(row["user_id"], list(before))
            if part == "train":
                known.append(row["item_id"])
            else:
                rows.append(GivenRow(part, row["user_id"], before, row["item_id"]))
    events = [event for user, ids in own.items() for event in in_order(user, ids)]
    return Dataset("", items, by_time(events), ("given",), 10, rows, both_masks=True)


def _joined(text: str) -> str:
    """Return the text of a description that was written as a Python list."""
    if text.startswith("["):
        try:
            return " ".join(map(str, ast.literal_eval(text)))
        except (SyntaxError, ValueError):  # cut off in the published file
            return text.strip("[]'\"")
    return text


# -- Online Retail


def _is_retail(files: Files) -> bool:
    return _with_columns(files, "InvoiceNo", "StockCode") is not None


def _retail(files: Files) -> Dataset:
    """Known customers' first purchases of each item; returns (negative quantities) and what costs nothing stay as they are."""
    path = _with_columns(files, "InvoiceNo", "StockCode")
    assert path is not None
    said: dict[str, Counter[str]] = {}
    events: list[Event] = []
    had: set[tuple[str, str]] = set()
    for number, row in enumerate(_table(path)):
        said.setdefault(row["StockCode"], Counter())[row["Description"].strip()] += 1
        key = (row["CustomerID"], row["StockCode"])
        if row["CustomerID"] and float(row["Quantity"]) > 0:
            moment = datetime.fromisoformat(row["InvoiceDate"]).replace(tzinfo=timezone.utc).timestamp()
            events.append(Event(event_id=str(number), user_id=key[0], type="purchase", at=moment, item_id=key[1]))
    events = [event for event in by_time(events) if _is_first(event, had)]
    items = [_item(code, next((text for text, _ in own.most_common() if text), "")) for code, own in said.items()]
    return Dataset("", items, events, ("split", "stream"), 20)


def _is_first(event: Event, had: set[tuple[str, str]]) -> bool:
    key = (event.user_id, event.item_id or "")
    if key in had:
        return False
    had.add(key)
    return True


# -- MovieLens


def _is_dat(files: Files) -> bool:
    return "ratings.dat" in files and "movies.dat" in files


def _dat(files: Files) -> Dataset:
    items = [_film(*fields) for fields in _fields(files["movies.dat"], "::")]
    events = [
        Event(event_id=str(n), user_id=user, type="rating", at=float(at), item_id=item_id, rating=float(rating))
        for n, (user, item_id, rating, at) in enumerate(_fields(files["ratings.dat"], "::"))
    ]
    scale, least = scale_of(events)
    return Dataset("", items, by_time(events), ("stream",), 20, rating_scale=scale, least=least)


def _film(item_id: str, title: str, genres: str = "") -> Item:
    kinds = tuple(kind for kind in genres.split("|") if kind)
    return _item(item_id, title, category=kinds[0] if kinds else "", tags=kinds)


# -- events and items


def _is_pair(files: Files) -> bool:
    return bool(_stem(files, "events", "ratings", "interactions")) and bool(_stem(files, "items", "movies"))


def _pair(files: Files) -> Dataset:
    events, items = _stem(files, "events", "ratings", "interactions"), _stem(files, "items", "movies")
    assert events is not None
    assert items is not None
    columns = _columns(events) | _columns(items)
    kind = "rating" if "rating" in columns and "type" not in columns else None if "type" in columns else "click"
    found = from_files(events, items, columns=columns, event_type=kind)
    return replace(found, protocols=("stream",) if kind == "rating" else found.protocols)


def _is_lone(files: Files) -> bool:
    return _lone_path(files) is not None


def _lone(files: Files) -> Dataset:
    """Events without items' texts: each item is called by its id."""
    path = _lone_path(files)
    assert path is not None
    columns = {ours: theirs for ours, theirs in _columns(path).items() if ours not in ("title", "tags")}
    events = []
    for number, row in enumerate(_table(path)):
        values = {ours: row[theirs] for ours, theirs in columns.items()}
        kind = KINDS_OF.get(values.get("type", "").lower(), "rating" if "rating" in columns else "click")
        rating = float(values["rating"]) if kind == "rating" else None
        events.append(
            Event(
                event_id=str(number),
                user_id=values["user_id"],
                type=kind,  # type: ignore[arg-type]
                at=float(values["at"]),
                item_id=values["item_id"],
                rating=rating,
                text=values.get("text") or None,
            )
        )
    names = dict.fromkeys(event.item_id for event in events)
    return of("", [_item(name, name) for name in names if name], events, ("stream",))


def _lone_path(files: Files) -> Path | None:
    for path in files.values():
        if path.suffix == ".csv" and {"user_id", "item_id", "at"} <= _columns(path).keys():
            return path
    return None


def _columns(path: Path) -> dict[str, str]:
    """Return our name -> the file's, of the columns that a csv is known to have; a jsonl or parquet has our names."""
    if path.suffix != ".csv":
        return {}
    there = _header(path)
    return {ours: next(each for each in names if each in there) for ours, names in NAMES.items() if set(names) & set(there)}


# -- files


READERS: tuple[tuple[Callable[[Files], bool], Callable[[Files], Dataset]], ...] = (
    (_is_unisrec, _unisrec),
    (_is_minionerec, _minionerec),
    (_is_retail, _retail),
    (_is_dat, _dat),
    (_is_pair, _pair),
    (_is_lone, _lone),
)


def _item(item_id: str, title: str, *, category: str = "", brand: str = "", text: str = "", tags: tuple[str, ...] = ()) -> Item:
    """Return an item within the bounds of a message; one without a title is called by its id."""
    return Item(
        item_id=item_id,
        title=title.strip()[:TITLE_LENGTH] or item_id,
        category=category[:WORD_LENGTH],
        brand=brand[:WORD_LENGTH],
        text=text,
        tags=tags,
    )


def _ending(files: Files, end: str) -> list[Path]:
    return [path for name, path in files.items() if name.endswith(end)]


def _one(files: Files, end: str) -> Path:
    found = _ending(files, end)
    if len(found) != 1:
        raise DatasetError(f"{len(found)} files end with {end}, of {', '.join(sorted(files))}: one is expected")
    return found[0]


def _stem(files: Files, *stems: str) -> Path | None:
    return next((path for path in files.values() if path.stem in stems and path.suffix.lstrip(".") in KINDS), None)


def _fields(path: Path, between: str) -> list[list[str]]:
    return [line.split(between) for line in path.read_text("utf-8").splitlines() if line]


def _pairs(files: Files, end: str) -> Iterator[tuple[str, str]]:
    for path in _ending(files, end):
        for fields in _fields(path, "\t"):
            yield fields[0], fields[1] if len(fields) > 1 else ""


def _table(path: Path) -> Iterator[dict[str, str]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def _header(path: Path) -> Sequence[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return next(csv.reader(file), [])


def _with_columns(files: Files, *columns: str) -> Path | None:
    return next((path for path in files.values() if path.suffix == ".csv" and set(columns) <= set(_header(path))), None)
