"""The item index's contract, exact and with an inverted file: what is put is found, what is gone is never answered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import DIM, NOW, clusters, item, unit

from ranking import codes, search
from ranking import index as module
from ranking.index import NOWHERE, ItemIndex, ItemIndexError
from ranking.search import InvertedSearch

EACH, COUNT = 25, 24  # 600 items
VECTORS = clusters(COUNT, EACH, spread=0.25)
IDS = [f"i{n}" for n in range(len(VECTORS))]


@pytest.fixture(params=["exact", "inverted"])
def index(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ItemIndex:
    """Return an index of 600 items in 24 clusters, searched exactly or by an inverted file."""
    if request.param == "inverted":
        monkeypatch.setattr(module, "IVF_FROM", 400)
    made = ItemIndex(DIM, "planted")
    made.upsert([item(item_id) for item_id in IDS], VECTORS)
    made.settle()
    assert (type(made._search).__name__ == "InvertedSearch") == (request.param == "inverted")
    return made


train = search.train


def found(index: ItemIndex, queries: np.ndarray, k: int) -> list[list[str]]:
    """Return the ids that a search answers, best first, none left out."""
    _, slots = index.search(np.atleast_2d(queries).astype(np.float32), k)
    return [[index.items[slot].item_id for slot in row if slot != NOWHERE] for row in slots]  # type: ignore[union-attr]


def nearest(queries: np.ndarray, k: int) -> list[list[str]]:
    """Return what a search by brute force answers, over the vectors as an index keeps them."""
    kept = codes.decode(*codes.encode(VECTORS))
    return [[IDS[row] for row in order[:k]] for order in np.argsort(-(queries @ kept.T), axis=1, kind="stable")]


def test_recall(index: ItemIndex) -> None:
    """Exact search is brute force's answer to the last place; the inverted file finds nine in ten of it."""
    queries = clusters(COUNT, 2, spread=0.25)
    want, got = nearest(queries, 10), found(index, queries, 10)
    if index._trained_on:
        assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(want, got, strict=True)]) >= 0.9
    else:
        assert got == want


def test_scores(index: ItemIndex) -> None:
    """Scores are inner products, best first (within 8-bit codes for the inverted file)."""
    scores, slots = index.search(VECTORS[:20], 8)
    assert (np.diff(scores, axis=1) <= 0).all()
    np.testing.assert_allclose(scores, np.einsum("nd,nkd->nk", VECTORS[:20], index.vectors(slots)), atol=0.02)


def test_item(index: ItemIndex) -> None:
    """An item is answered with a copy of its vector; an unknown one with nothing."""
    known = index.item("i7")
    assert known is not None
    assert known[0] == item("i7")
    np.testing.assert_allclose(known[1], VECTORS[7], atol=0.004)
    known[1][:] = 0
    np.testing.assert_allclose(index.vectors([index.slot("i7")])[0], VECTORS[7], atol=0.004)
    assert (index.item("none"), index.slot("none")) == (None, NOWHERE)


def test_delete(index: ItemIndex) -> None:
    """Deleted items are never answered; unknown and repeated ids change nothing."""
    gone = IDS[::2]
    index.delete([*gone, "none", gone[0], gone[0]])
    assert len(index) == len(IDS) - len(gone)
    answered = {item_id for row in found(index, VECTORS, 50) for item_id in row}
    assert answered == set(IDS[1::2])
    index.delete(gone)
    assert len(index) == len(IDS) // 2


def test_unavailable(index: ItemIndex) -> None:
    """An item that is not available leaves the search but stays known, and comes back when it is."""
    slot = index.slot("i3")
    index.upsert([item("i3", available=False)], VECTORS[3:4])
    assert "i3" not in found(index, VECTORS[3], 600)[0]
    assert slot not in index.newest(1_000)
    assert (index.slot("i3"), len(index)) == (slot, 600)
    index.upsert([item("i3")], VECTORS[3:4])
    assert found(index, VECTORS[3], 1)[0] == ["i3"]


def test_replace(index: ItemIndex) -> None:
    """A new vector moves the item: it is found where it is now, not where it was, and once."""
    index.upsert([item("i3")], -VECTORS[3:4])
    assert "i3" not in found(index, VECTORS[3], 20)[0]
    assert found(index, -VECTORS[3], 600)[0].count("i3") == 1
    assert found(index, -VECTORS[3], 1)[0] == ["i3"]


def test_other_words_same_slot(index: ItemIndex) -> None:
    """What changes in an item besides its vector keeps its slot and its place in the search."""
    slot, before = index.slot("i3"), found(index, VECTORS[3], 20)
    index.upsert([item("i3", "tea", brand="leaf", at=NOW)], VECTORS[3:4])
    assert index.slot("i3") == slot
    assert found(index, VECTORS[3], 20) == before
    assert (index.items[slot].category, index.at[slot], len(index)) == ("tea", NOW, 600)  # type: ignore[union-attr]
    index.upsert([item("i4", "tea"), item("i5", "leaf")], VECTORS[4:6])
    codes = index.category[[index.slot(name) for name in ("i3", "i4", "i5", "i6")]]
    assert codes[0] == codes[1] != codes[2]
    assert codes[3] == 0


def test_slots_are_used_again(index: ItemIndex) -> None:
    """A new item may take a deleted one's slot, and answers there as itself alone."""
    slots = {index.slot(item_id) for item_id in IDS[:10]}
    index.delete(IDS[:10])
    fresh = [item(f"new{n}", "new", NOW) for n in range(10)]
    index.upsert(fresh, -VECTORS[:10])
    assert {index.slot(each.item_id) for each in fresh} == slots
    assert len(index.items) == 600
    assert not set(IDS[:10]) & {name for row in found(index, VECTORS[:10], 600) for name in row}
    assert all(each.item_id in row for each, row in zip(fresh, found(index, -VECTORS[:10], 5), strict=True))


def test_one_id_twice(index: ItemIndex) -> None:
    """Of one id twice in a batch the last stands."""
    index.upsert([item("i3", "first"), item("i3", "last")], np.stack([unit(1), unit(0, 1)]))
    assert index.item("i3")[0].category == "last"  # type: ignore[index]
    np.testing.assert_array_equal(index.item("i3")[1], unit(0, 1))  # type: ignore[index]
    assert found(index, unit(0, 1), 600)[0].count("i3") == 1


def test_more_than_there_are(index: ItemIndex) -> None:
    """More results than items are asked for: all are answered by exact search, none twice by either."""
    (row,) = found(index, VECTORS[0], 10_000)
    assert len(row) == len(set(row))
    assert len(row) == 600 or index._trained_on


def test_snapshot(index: ItemIndex, tmp_path: Path) -> None:
    """A snapshot answers as the index did, and takes further changes."""
    index.delete(IDS[:5])
    index.upsert([item("i9", available=False)], VECTORS[9:10])
    index.save(tmp_path)
    loaded = ItemIndex.load(tmp_path, DIM, "planted")
    assert found(loaded, VECTORS, 12) == found(index, VECTORS, 12)
    assert (len(loaded), loaded._trained_on) == (len(index), index._trained_on)
    assert loaded.item("i20")[0] == index.item("i20")[0]  # type: ignore[index]
    loaded.upsert([item("i9"), item("new")], np.stack([VECTORS[9], unit(1)]))
    assert [row[0] for row in found(loaded, np.stack([VECTORS[9], unit(1)]), 1)] == ["i9", "new"]
    loaded.delete(["new"])
    assert found(loaded, unit(1), 1)[0] != ["new"]
    assert len(loaded.items) == 600


def test_foreign_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot of another encoder, width or format is refused, with the next step."""
    ItemIndex(DIM, "planted").save(tmp_path)
    for dim, encoder_id in ((DIM, "other"), (8, "planted")):
        with pytest.raises(ItemIndexError, match="use the old encoder, or another state folder"):
            ItemIndex.load(tmp_path, dim, encoder_id)
    monkeypatch.setattr(module, "FORMAT", 9)
    with pytest.raises(ItemIndexError, match="is of format 2, this version reads 9: leave it out"):
        ItemIndex.load(tmp_path, DIM, "planted")


def test_snapshot_cut_short(index: ItemIndex, tmp_path: Path) -> None:
    """A snapshot whose vectors are cut short, as after a full disk, is refused with the next step."""
    index.save(tmp_path)
    vectors = tmp_path / "vectors.bin"
    vectors.write_bytes(vectors.read_bytes()[:-1])
    with pytest.raises(ItemIndexError, match="delete the state folder"):
        ItemIndex.load(tmp_path, DIM, "planted")


def test_foreign_vectors() -> None:
    """Vectors of another width are refused, and nothing is kept of them."""
    index = ItemIndex(DIM, "planted")
    with pytest.raises(ItemIndexError, match=r"vectors are \(1, 8\), the index takes \(1, 16\)"):
        index.upsert([item("a")], unit(1, dim=8)[None])
    assert len(index) == 0


def test_empty() -> None:
    """An empty index answers nothing and can be filled."""
    index = ItemIndex(DIM, "planted")
    assert found(index, unit(1), 5) == [[]]
    assert index.newest(5).tolist() == []
    index.upsert([], np.zeros((0, DIM), np.float32))
    index.delete(["none"])
    index.upsert([item("a")], unit(1)[None].astype(np.float16))
    assert found(index, unit(1), 5) == [["a"]]


def test_newest() -> None:
    """The newest are the listed items that were published last, newest first."""
    index = ItemIndex(DIM, "planted")
    index.upsert([item(f"i{n}", at=NOW + n % 7, available=n != 6) for n in range(14)], clusters(1, 14))
    assert [index.items[slot].item_id for slot in index.newest(3)] == ["i13", "i5", "i12"]  # type: ignore[union-attr]
    assert len(index.newest(100)) == 13


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Make training wait: yields (begun, go on)."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(sample: np.ndarray, lists: int) -> InvertedSearch:
        begun.set()
        assert go_on.wait(60)
        return train(sample, lists)

    monkeypatch.setattr(module, "IVF_FROM", 400)
    monkeypatch.setattr(search, "train", slow)
    yield begun, go_on
    go_on.set()


def test_changes_during_training(gate: tuple[threading.Event, threading.Event]) -> None:
    """What is put, moved, hidden and deleted while the inverted file is trained is right before and after the swap."""
    begun, go_on = gate
    index = ItemIndex(DIM, "planted")
    index.upsert([item(item_id) for item_id in IDS], VECTORS)
    assert begun.wait(60)
    index.delete(IDS[:10])
    index.upsert([item(f"new{n}") for n in range(20)], -VECTORS[:20])
    index.upsert([item("i50")], -VECTORS[50:51])
    index.upsert([item("i51", available=False)], VECTORS[51:52])
    index.upsert([item("brief")], unit(1)[None])
    index.delete(["brief"])

    def right() -> None:
        gone = {*IDS[:10], "i51", "brief"}
        assert not gone & {name for row in found(index, np.concatenate([VECTORS[:60], unit(1)[None]]), 600) for name in row}
        near = found(index, -VECTORS[:20], 5)  # 8-bit codes clip what lies far from all they were trained on
        assert [n for n in range(20) if f"new{n}" not in near[n]] == []
        assert "i50" in found(index, -VECTORS[50], 5)[0]
        assert all(len(row) == len(set(row)) for row in found(index, VECTORS, 600))

    right()
    assert index._trained_on == 0
    go_on.set()
    index.settle()
    assert index._trained_on == 600
    right()
    assert len(index._search) == int(index.listed.sum())


def test_trains_again_when_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training comes at the bound, and again at four times the items of the last one."""
    monkeypatch.setattr(module, "IVF_FROM", 100)
    index = ItemIndex(DIM, "planted")
    trained = []
    for n in range(0, 600, 50):
        index.upsert([item(item_id) for item_id in IDS[n : n + 50]], VECTORS[n : n + 50])
        index.settle()
        trained.append(index._trained_on)
    assert trained == [0, *[100] * 6, *[400] * 5]


operations = st.lists(st.tuples(st.sampled_from(["put", "hide", "delete"]), st.integers(0, 7), st.integers(0, 5)), max_size=30)


@settings(max_examples=50)
@given(operations)
def test_any_sequence(steps: list[tuple[str, int, int]]) -> None:
    """After any sequence of changes the search knows what a dictionary would."""
    index, truth = ItemIndex(4, "planted"), {}
    index.upsert([], np.zeros((0, 4), np.float32))
    corners = np.concatenate([np.eye(4), -np.eye(4)]).astype(np.float32)
    for verb, n, corner in steps:
        if verb == "delete":
            index.delete([f"i{n}"])
            truth.pop(f"i{n}", None)
        else:
            index.upsert([item(f"i{n}", available=verb == "put")], corners[corner][None])
            truth[f"i{n}"] = (corner, verb == "put")
    assert len(index) == len(truth)
    for corner, row in zip(range(8), found(index, corners, 20), strict=True):
        assert set(row) == {name for name, (_, listed) in truth.items() if listed}
        right = {name for name, (own, listed) in truth.items() if listed and own == corner}
        assert set(row[: len(right)]) == right


def test_reader_beside_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread writes, trains and deletes while another searches: no exception, and never a wrong or a deleted item."""
    monkeypatch.setattr(module, "IVF_FROM", 150)
    index, stop, wrong = ItemIndex(DIM, "planted"), threading.Event(), []
    index.upsert([item(item_id) for item_id in IDS[:100]], VECTORS[:100])

    def read() -> None:
        while not stop.is_set():
            with index.lock:
                _, slots = index.search(VECTORS[:8], 5)
                names = [[index.items[slot].item_id for slot in row if slot != NOWHERE] for row in slots]  # type: ignore[union-attr]
                wrong.extend(name for row in names for name in row if index.slot(name) == NOWHERE)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for n in range(100, 600, 20):
            index.upsert([item(item_id) for item_id in IDS[n : n + 20]], VECTORS[n : n + 20])
            index.delete(IDS[n - 100 : n - 90])
    finally:
        stop.set()
        thread.join()
        index.settle()
    assert wrong == []
    assert index._trained_on > 100
    assert len(index._search) == len(index)
