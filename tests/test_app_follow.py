"""The follower's snapshots and the state folder, without a broker."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from planted import visit

from ranking.index import IndexedItem, ItemIndex
from ranking.signals import Signals
from streams import follow
from streams.follow import OLDEST_S, StateError, StateFolder

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
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(StateError, match=r"encoder hash-4 \(4 dims.*encoder hash-8.*HEADRACE_ENCODER.*HEADRACE_STATE_DIR"):
        StateFolder(tmp_path, "hash-8", 8).check()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


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
        patched.setattr(follow, "_write_json", full)
        with pytest.raises(StateError, match="No space left on device"):
            StateFolder(tmp_path / "state", "hash-4", 4).open()
    again = StateFolder(tmp_path / "state", "hash-4", 4)
    again.open()
    again.close()


def test_a_folder_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    """Half a file is no reason for a traceback."""
    (tmp_path / "owner.json").write_text("{")
    with pytest.raises(StateError, match="delete the folder"):
        StateFolder(tmp_path, "hash-4", 4).check()
