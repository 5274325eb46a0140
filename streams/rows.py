"""Read rows of a csv, jsonl or parquet file as dicts, with their numbers and how far the file is read.

Does not know events or items. Column names can be mapped; empty csv cells are left out; csv cells stay text.

    RowError(ValueError)   a file of another kind, a row that is no object, a missing pyarrow: says what to do
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

KINDS = ("csv", "jsonl", "parquet")


class RowError(ValueError):
    """A file or row that cannot be read."""


class Row(NamedTuple):
    """A row: its number in the file from 1 (csv counts the header), its values, and the share of the file read, 0-1."""

    number: int
    values: dict[str, Any]
    done: float


def rows(path: Path, columns: Mapping[str, str] | None = None) -> Iterator[Row]:
    """Yield a file's rows; `columns` maps our names to the file's. "-" is jsonl from standard input. Raises RowError."""
    renamed = {theirs: ours for ours, theirs in (columns or {}).items()}
    for row in _reader(path)(path):
        yield row._replace(values={renamed.get(name, name): value for name, value in row.values.items()})


def parse_columns(pairs: Iterable[str]) -> dict[str, str]:
    """Return {our name: the file's} of `ours=theirs` pairs. Raises RowError."""
    columns = dict(pair.partition("=")[::2] for pair in pairs)
    for ours, theirs in columns.items():
        if not ours or not theirs:
            raise RowError(f"--map {ours}={theirs} is incomplete: give it as user_id=userId, our name first")
    return columns


def _reader(path: Path) -> Callable[[Path], Iterator[Row]]:
    if str(path) == "-":
        return _jsonl
    kind = path.suffix.lstrip(".").lower()
    if kind not in KINDS:
        raise RowError(f"{path} is no csv, jsonl or parquet file: its name has to end with one of .{', .'.join(KINDS)}")
    if not path.is_file():
        raise RowError(f"{path} is not there: check the path, or use - for jsonl from standard input")
    return {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}[kind]


def _lines(path: Path) -> Iterator[tuple[int, str, float]]:
    size, read = (0 if str(path) == "-" else path.stat().st_size), 0
    with nullcontext(sys.stdin.buffer) if str(path) == "-" else path.open("rb") as file:
        for number, line in enumerate(file, 1):
            read += len(line)
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8"), read / size if size else 0.0
            except UnicodeDecodeError as error:
                raise RowError(f"{path} line {number} is not UTF-8 ({error.reason}): save the file as UTF-8") from None


def _jsonl(path: Path) -> Iterator[Row]:
    for number, line, done in _lines(path):
        if not line.strip():
            continue
        try:
            yield Row(number, msgspec.json.decode(line, type=dict[str, Any]), done)
        except msgspec.DecodeError as error:
            raise RowError(f"{path} line {number} is no JSON object ({error}): write one object a line") from None


def _csv(path: Path) -> Iterator[Row]:
    done = 0.0

    def text() -> Iterator[str]:
        nonlocal done
        for _, line, share in _lines(path):
            done = share
            yield line

    reader = csv.DictReader(text())
    for values in reader:
        if None in values:
            raise RowError(f"{path} line {reader.line_num} has more cells than the header: quote cells that hold commas")
        yield Row(reader.line_num, {name: value for name, value in values.items() if value}, done)


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise RowError(f"{path} needs pyarrow: run `pip install 'headrace[parquet]'`") from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise RowError(f"{path} is no parquet file: {error}") from None
    number = 0
    for batch in file.iter_batches():
        for values in batch.to_pylist():
            number += 1
            present = {name: value for name, value in values.items() if value is not None}
            yield Row(number, present, number / file.metadata.num_rows)
