"""The state folder and the snapshots in it: what is read on from, left out, refused."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from planted import visit

from ranking.index import IndexedItem, ItemIndex
from ranking.signals import Signals
from streams import state as module
from streams.state import OLDEST_S, StateError, StateFolder

PLACE = ("item-vectors", 0)


def saved(path: Path, offset: int = 7) -> StateFolder:
    """Return a folder with a snapshot of one item and one count, read up to `offset`."""
    folder = StateFolder(path, "hash-4", 4)
    folder.open()
    index = ItemIndex(4, "hash-4")
    index.upsert([IndexedItem("tea", "Tea", "h", 1.0)], np.eye(4, dtype=np.float32)[:1])
    signals = Signals()
    visit(signals, "tea", (), 1.0, 100.0, (0, 3))
    folder.save(index, signals, {PLACE: offset})
    return folder


def content(path: Path) -> dict[Path, bytes]:
    """Return what the files of a folder hold."""
    return {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}


def test_a_snapshot_comes_back_whole(tmp_path: Path) -> None:
    """Items, counts and offsets are what they were; only the newest snapshot stays."""
    folder = saved(tmp_path)
    folder.save(ItemIndex(4, "hash-4"), Signals(), {PLACE: 8})
    assert len(list(tmp_path.glob("snapshot-*"))) == 1
    folder.close()
    folder = saved(tmp_path)
    signals = Signals()
    found = folder.restore(signals, {PLACE: (0, 9)})
    assert (len(found.index), len(signals), found.offsets) == (1, 1, {PLACE: 7})
    folder.close()


@pytest.mark.parametrize("bounds", [{PLACE: (0, 6)}, {PLACE: (8, 20)}, {PLACE: (0, 9), ("item-vectors", 1): (0, 0)}, {}])
def test_a_topic_made_anew_is_read_anew(tmp_path: Path, bounds: dict[tuple[str, int], tuple[int, int]]) -> None:
    """Offsets beyond the end, before the first, or of other partitions: the snapshot is left out."""
    folder = saved(tmp_path)
    found = folder.restore(Signals(), bounds)
    assert (len(found.index), found.offsets) == (0, {})
    folder.close()


def test_a_snapshot_without_the_attributes_of_the_rules_is_read_anew(tmp_path: Path) -> None:
    """What rules ask for now and the snapshot does not hold has to come from the topic, and then stays."""
    folder = saved(tmp_path)
    assert len(folder.restore(Signals(), {PLACE: (0, 9)}, ()).index) == 1
    found = folder.restore(Signals(), {PLACE: (0, 9)}, ("price",))
    assert (len(found.index), found.index.attributes, found.offsets) == (0, ("price",), {})
    folder.save(found.index, Signals(), {PLACE: 8})
    assert folder.restore(Signals(), {PLACE: (0, 9)}, ("price",)).offsets == {PLACE: 8}
    assert folder.restore(Signals(), {PLACE: (0, 9)}).offsets == {}
    folder.close()


def test_an_old_snapshot_is_read_anew(tmp_path: Path) -> None:
    """Deletions may have been compacted away since."""
    folder = saved(tmp_path)
    head = json.loads((tmp_path / "snapshot.json").read_text())
    head["at"] = time.time() - OLDEST_S - 60
    (tmp_path / "snapshot.json").write_text(json.dumps(head))
    assert len(folder.restore(Signals(), {PLACE: (0, 9)}).index) == 0
    folder.close()


def test_another_encoders_folder_is_refused_untouched(tmp_path: Path) -> None:
    """The message names both encoders and the two ways out."""
    saved(tmp_path).close()
    before = content(tmp_path)
    with pytest.raises(StateError, match=r"encoder hash-4 \(4 dims.*encoder hash-8.*HEADRACE_ENCODER.*HEADRACE_STATE_DIR"):
        StateFolder(tmp_path, "hash-8", 8).check()
    assert content(tmp_path) == before


def test_a_folder_has_one_worker(tmp_path: Path) -> None:
    """A second worker on the same folder is told so."""
    first = saved(tmp_path)
    with pytest.raises(StateError, match="in use by another worker"):
        StateFolder(tmp_path, "hash-4", 4).open()
    first.close()


def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, or a file in the folder's place, is no reason for a traceback; the folder is nobody's after it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"cannot be written \(Not a directory\): make room, or name another"):
        StateFolder(tmp_path / "file" / "state", "hash-4", 4).open()

    def full(path: Path, value: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(module, "_write", full)
        with pytest.raises(StateError, match="No space left on device"):
            StateFolder(tmp_path / "state", "hash-4", 4).open()
    again = StateFolder(tmp_path / "state", "hash-4", 4)
    again.open()
    again.close()


def test_a_folder_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    """Without knowing whose it is nothing is touched, and half a file is no reason for a traceback."""
    for damaged in (b"{", b"\xff", b"[]", b'{"format": 2}', b""):
        (tmp_path / "owner.json").write_bytes(damaged)
        with pytest.raises(StateError, match="delete the folder"):
            StateFolder(tmp_path, "hash-4", 4).check()


def test_an_older_folder_is_taken_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder of format 1 becomes one of format 2; its snapshot, without formats, is left out and said to be."""
    saved(tmp_path).close()
    (tmp_path / "owner.json").write_text('{"format": 1, "encoder": "hash-4", "dim": 4}')
    head = json.loads((tmp_path / "snapshot.json").read_text())
    (tmp_path / "snapshot.json").write_text(json.dumps({name: head[name] for name in ("folder", "at", "offsets")}))
    folder = StateFolder(tmp_path, "hash-4", 4)
    folder.check()
    folder.open()
    assert json.loads((tmp_path / "owner.json").read_text()) == {"format": 2, "encoder": "hash-4", "dim": 4}
    assert len(folder.restore(Signals(), {PLACE: (0, 9)}).index) == 0
    assert "left out and everything read anew: an older version wrote it" in caplog.text
    folder.close()
    folder = saved(tmp_path)
    assert len(folder.restore(Signals(), {PLACE: (0, 9)}).index) == 1
    folder.close()


@pytest.mark.parametrize(("part", "name"), [("items", "ITEMS_FORMAT"), ("signals", "SIGNALS_FORMAT")])
def test_an_older_part_is_read_anew(
    tmp_path: Path, part: str, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A snapshot whose items or signals are of an older format is left out as a whole."""
    folder = saved(tmp_path)
    monkeypatch.setattr(module, name, getattr(module, name) + 1)
    folder.check()
    assert folder.restore(Signals(), {PLACE: (0, 9)}).offsets == {}
    assert "an older version wrote it" in caplog.text
    folder.close()


@pytest.mark.parametrize(
    ("file", "field"), [("owner", "format"), ("snapshot", "format"), ("snapshot", "items"), ("snapshot", "signals")]
)
def test_a_newer_folder_is_refused_untouched(tmp_path: Path, file: str, field: str) -> None:
    """A newer folder, snapshot, or part of one is told with both formats and the ways out, whatever else it holds."""
    saved(tmp_path).close()
    path = tmp_path / f"{file}.json"
    rest = {"laid": "out another way"} if field == "format" else json.loads(path.read_text())
    path.write_text(json.dumps({**rest, field: 9}))
    before = content(tmp_path)
    told = r"newer version wrote format 9, this one reads up to [23]: upgrade.*HEADRACE_STATE_DIR"
    with pytest.raises(StateError, match=told):
        StateFolder(tmp_path, "hash-4", 4).check()
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("signals.msgpack", lambda raw: raw[:-1]),
        ("items.msgpack", lambda raw: b""),
        ("items.msgpack", lambda raw: b"\xc1" + raw[1:]),
        ("vectors.bin", lambda raw: bytes([raw[0] ^ 1]) + raw[1:]),
        ("vectors.bin", None),
        ("snapshot.json", lambda raw: raw[:-1]),
        ("snapshot.json", lambda raw: b""),
        ("snapshot.json", lambda raw: b"\xff\xfe"),
        ("snapshot.json", lambda raw: b"null"),
        ("snapshot.json", lambda raw: raw.replace(b"snapshot-", b"snapshut-")),
    ],
)
def test_a_damaged_snapshot_is_read_anew(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes] | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is cut short, altered or gone, the worker starts anew, with a warning and none of the snapshot's counts."""
    folder = saved(tmp_path)
    (path,) = tmp_path.rglob(name)
    path.write_bytes(damage(path.read_bytes())) if damage else path.unlink()
    folder.check()
    signals = Signals()
    found = folder.restore(signals, {PLACE: (0, 9)})
    assert (len(found.index), len(signals), found.offsets) == (0, 0, {})
    assert "left out and everything read anew" in caplog.text
    folder.save(found.index, signals, {PLACE: 9})
    assert folder.restore(signals, {PLACE: (0, 9)}).offsets == {PLACE: 9}
    folder.close()


def test_a_new_folder_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where no snapshot is, none is left out."""
    folder = StateFolder(tmp_path, "hash-4", 4)
    folder.check()
    folder.open()
    assert folder.restore(Signals(), {}).offsets == {}
    assert caplog.text == ""
    folder.close()
