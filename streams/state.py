"""A worker's state folder: whose it is, and the snapshot of items and signals that a restart reads on from.

Does not know how topics are followed. All of it is derived from Kafka, so what is damaged or of an older format is left out
with a warning and read anew. What is another encoder's or a newer version's is somebody's: it is refused and not touched.

    owner.json       {format, encoder, dim}
    snapshot.json    which snapshot-... folder is the newest, the offsets that it holds, formats and digests of its files
    faust/           Faust's: the profiles by partition

    StateError(RuntimeError)   the folder is another encoder's, a newer version's, in use, or full: says what to do
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from ranking.index import FORMAT as ITEMS_FORMAT
from ranking.index import ItemIndex
from ranking.signals import FORMAT as SIGNALS_FORMAT
from ranking.signals import Signals

log = logging.getLogger("headrace.follow")

FORMAT = 2  # of both JSON files; 1 had no formats and digests of the snapshot's files
OWNER, HEAD, SIGNALS = "owner.json", "snapshot.json", "signals.msgpack"
OLDEST_S = 12 * 3_600.0  # Kafka keeps deletions for 24 h in a compacted topic: an older snapshot could miss some

Offsets = dict[tuple[str, int], int]  # (topic, partition) -> the offset to read next
UNREADABLE = (OSError, ValueError, msgspec.DecodeError)
Kept = TypeVar("Kept", bound=msgspec.Struct)


class StateError(RuntimeError):
    """The state folder cannot be used by this worker."""


@dataclass(frozen=True)
class Snapshot:
    """What a worker starts from. offsets: empty when it starts anew."""

    index: ItemIndex
    offsets: Offsets


class _Stamp(msgspec.Struct):
    """What a file of the folder says in every format."""

    format: int = 1


class _Owner(msgspec.Struct, frozen=True):
    format: int
    encoder: str
    dim: int

    def __str__(self) -> str:
        return f"encoder {self.encoder} ({self.dim} dims)"


class _Head(msgspec.Struct):
    """A snapshot. at: Unix seconds it was taken; items, signals: the formats of its files; digests: by file name.

    attributes: names of those that its items keep.
    """

    folder: str
    at: float
    offsets: list[tuple[str, int, int]]
    format: int = 1
    items: int = 0
    signals: int = 0
    digests: dict[str, str] = {}
    attributes: tuple[str, ...] = ()

    def places(self) -> Offsets:
        return {(topic, partition): offset for topic, partition, offset in self.offsets}


class StateFolder:
    """A worker's state folder. One process at a time; mode 0700."""

    def __init__(self, path: Path, encoder_id: str, dim: int) -> None:
        self.path = path
        self._owner = _Owner(FORMAT, encoder_id, dim)
        self._lock: IO[str] | None = None

    def check(self) -> None:
        """Raise StateError unless the folder is new, or of this encoder and of no newer version. Touches nothing."""
        try:
            found = _read(self.path / OWNER, _Owner)
        except UNREADABLE as error:
            raise StateError(
                f"{self.path / OWNER} cannot be read ({error}): delete the folder {self.path}, it is rebuilt from Kafka"
            ) from None
        if found is not None and (found.encoder, found.dim) != (self._owner.encoder, self._owner.dim):
            raise StateError(
                f"state folder {self.path} is of {found}, this worker is of {self._owner}: "
                "set HEADRACE_ENCODER back, or give this encoder a folder of its own with HEADRACE_STATE_DIR"
            )
        try:
            head = _read(self.path / HEAD, _Head)
        except UNREADABLE:
            return  # `restore` says so
        if head is not None:
            _refuse_newer(f"the items in {self.path / head.folder}", head.items, ITEMS_FORMAT)
            _refuse_newer(f"the signals in {self.path / head.folder}", head.signals, SIGNALS_FORMAT)

    def open(self) -> None:
        """Make it ours, in today's format. Raises StateError when another process has it, or it cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.chmod(0o700)
            self._lock = (self.path / "lock").open("w")
            self._take()
            _write(self.path / OWNER, self._owner)
        except OSError as error:
            self.close()
            raise StateError(
                f"state folder {self.path} cannot be written ({error.strerror}): make room, or name another with "
                "HEADRACE_STATE_DIR; nothing is lost"
            ) from None

    def _take(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[arg-type]  # open() has just opened it
        except BlockingIOError:
            self.close()
            raise StateError(
                f"state folder {self.path} is in use by another worker: give each its own with HEADRACE_STATE_DIR"
            ) from None

    def close(self) -> None:
        """Give it up."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def restore(
        self, into: Signals, bounds: Mapping[tuple[str, int], tuple[int, int]], attributes: tuple[str, ...] = ()
    ) -> Snapshot:
        """Return the newest snapshot's index, its signals read `into`; an empty one when it cannot be read on from.

        bounds: (topic, partition) -> its first and end offset now. attributes: names of those that the index is to keep.
        """
        encoder_id, dim = self._owner.encoder, self._owner.dim
        head, why_anew = self._newest(bounds, attributes)
        if head is None:
            if why_anew:
                log.warning("the snapshot is left out and everything read anew: %s", why_anew)
            return Snapshot(ItemIndex(dim, encoder_id, attributes), {})
        folder = self.path / head.folder
        index = ItemIndex.load(folder, dim, encoder_id, attributes)
        into.load(folder / SIGNALS)
        return Snapshot(index, head.places())

    def _newest(
        self, bounds: Mapping[tuple[str, int], tuple[int, int]], attributes: tuple[str, ...]
    ) -> tuple[_Head | None, str]:
        """Return the newest snapshot, or None and why it is left out; no reason where there is none."""
        try:
            head = _read(self.path / HEAD, _Head)
            if head is None:
                return None, ""
            why_anew = _why_anew(head, bounds)
            if not why_anew and head.attributes != attributes:
                why_anew = f"rules ask for the attributes {list(attributes)}, it holds {list(head.attributes)}"
            if not why_anew and head.digests != _digests(self.path / head.folder):
                why_anew = f"the files in {self.path / head.folder} are not what was written"
        except UNREADABLE as error:
            return None, f"it cannot be read ({error})"
        return (None, why_anew) if why_anew else (head, "")

    def save(self, index: ItemIndex, counted: Signals, offsets: Offsets) -> None:
        """Write a snapshot and let it take the place of the last one in one rename."""
        folder = self.path / f"snapshot-{time.time_ns()}"
        folder.mkdir(mode=0o700)
        index.save(folder)
        counted.save(folder / SIGNALS)
        for path in folder.iterdir():
            _sync(path)  # before the head names them: after a loss of power it must not point at holes
        places = [(topic, partition, offset) for (topic, partition), offset in offsets.items()]
        formats = (FORMAT, ITEMS_FORMAT, SIGNALS_FORMAT)
        head = _Head(folder.name, time.time(), places, *formats, _digests(folder), index.attributes)
        _write(self.path / HEAD, head)
        for old in self.path.glob("snapshot-*"):
            if old != folder:
                shutil.rmtree(old)


def _why_anew(head: _Head, bounds: Mapping[tuple[str, int], tuple[int, int]]) -> str:
    """Return why the topics cannot be read on from a snapshot's offsets, or nothing."""
    formats = (head.format, head.items, head.signals)
    if formats != (FORMAT, ITEMS_FORMAT, SIGNALS_FORMAT):
        return f"an older version wrote it (formats {formats}, now {(FORMAT, ITEMS_FORMAT, SIGNALS_FORMAT)})"
    age = time.time() - head.at
    if age > OLDEST_S:
        return f"it is {age / 3_600:.0f} hours old, deletions may have been compacted away since"
    offsets = head.places()
    if offsets.keys() != bounds.keys():
        return "the topics have other names or partitions now"
    for place, offset in offsets.items():
        first, end = bounds[place]
        if not first <= offset <= end:
            return f"it goes to offset {offset} of {place[0]}/{place[1]}, which has {first} to {end}: the topic was made anew"
    return ""


def _read(path: Path, kind: type[Kept]) -> Kept | None:
    """Return what a JSON file holds, None where there is none. Raises StateError when it is newer, UNREADABLE."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    _refuse_newer(str(path), msgspec.json.decode(raw, type=_Stamp).format, FORMAT)
    return msgspec.json.decode(raw, type=kind)


def _refuse_newer(what: str, found: int, own: int) -> None:
    if found > own:
        raise StateError(
            f"{what}: a newer version wrote format {found}, this one reads up to {own}: upgrade the worker, or give this one a "
            "folder of its own with HEADRACE_STATE_DIR; nothing is lost"
        )


def _write(path: Path, value: msgspec.Struct) -> None:
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        file.write(msgspec.json.encode(value))
        file.flush()
        os.fsync(file.fileno())
    new.chmod(0o600)
    new.replace(path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _digests(folder: Path) -> dict[str, str]:
    """Return file name -> BLAKE2b-128 of each file in a folder."""
    digests = {}
    for path in folder.iterdir():
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    return digests
