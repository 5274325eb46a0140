"""Published formats: a small folder of each, read whole; what is no data set is refused with what was expected."""

from __future__ import annotations

import json
import lzma
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from streams.datasets import DAY_S, END, DatasetError, in_order, scale_of
from streams.formats import read
from streams.messages import Event


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """Write files; those named .xz and .zip are packed."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        path = folder / name
        if path.suffix == ".xz":
            path.write_bytes(lzma.compress(text.encode()))
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr(path.stem, text)
        else:
            path.write_text(text, "utf-8")
    return folder


def touched(events: list[Event], user: str) -> list[str | None]:
    """Return the items of a user, oldest first."""
    return [event.item_id for event in events if event.user_id == user]


def test_unisrec_rows_are_put_together_where_histories_are_cut(tmp_path: Path) -> None:
    """The test row's history lacks the first item, as long ones do; names come from the index files."""
    head = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    files = {
        "X.train.inter.xz": head + "0\t0 1\t2\n0\t0\t1\n1\t3\t0\n",
        "X.valid.inter": head + "0\t0 1 2\t3\n1\t3 0\t1\n",
        "X.test.inter": head + "0\t1 2 3\t4\n1\t3 0 1\t2\n",
        "X.text": "item_id:token\ttext:token_seq\n" + "".join(f"{name}\tA {name}, no. 2. Kind. Brand. \n" for name in "abcde"),
        "X.item2index": "".join(f"{name}\t{number}\n" for number, name in enumerate("abcde")),
        "X.user2index": "ann\t0\nbo\t1\n",
    }
    found = read(write(tmp_path / "x", files))
    assert (found.name, found.protocols, found.k, found.both_masks) == ("x", ("leave-one-out",), 10, True)
    assert touched(found.events, "ann") == list("abcde")
    assert touched(found.events, "bo") == ["d", "a", "b", "c"]
    item = found.items[0]
    assert (item.item_id, item.title, item.category, item.brand) == ("a", "A a, no. 2", "Kind", "Brand")


def test_minionerec_rows_ask_and_their_first_histories_are_what_is_known(tmp_path: Path) -> None:
    """A user's later rows add nothing to what precedes the cut."""
    head = "user_id,history_item_id,item_id\n"
    files = {
        "items.json": json.dumps({str(n): {"title": f"t{n}", "description": "['one', 'two']", "brand": "b"} for n in range(5)}),
        "valid.csv": head + 'ann,"[0, 1]",2\n',
        "test.csv.xz": head + 'ann,"[0, 1, 2]",3\nbo,[4],0\n',
    }
    found = read(write(tmp_path / "x", files))
    assert touched(found.events, "ann") == ["0", "1"]
    assert touched(found.events, "bo") == ["4"]
    assert [(row.part, row.history, row.wanted) for row in found.rows] == [
        ("valid", ("0", "1"), "2"),
        ("test", ("0", "1", "2"), "3"),
        ("test", ("4",), "0"),
    ]
    assert found.items[0].text == "one two"


def test_online_retail_keeps_known_customers_first_purchases(tmp_path: Path) -> None:
    """Returns, nameless customers and second purchases are no events; an item is called by its most frequent description."""
    head = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
    lines = [
        "1,A,CUP,2,2011-01-02 10:00:00,1,7,UK",
        "2,A,CUP,1,2011-01-03 10:00:00,1,7,UK",
        "3,B,POT,-1,2011-01-01 10:00:00,1,7,UK",
        "4,B,,1,2011-01-01 10:00:00,1,,UK",
        "5,B,POT,1,2011-01-01 09:00:00,1,8,UK",
    ]
    found = read(write(tmp_path / "x", {"sales.csv.zip": head + "\n".join(lines)}))
    assert [(event.user_id, event.item_id) for event in found.events] == [("8", "B"), ("7", "A")]
    assert {item.item_id: item.title for item in found.items} == {"A": "CUP", "B": "POT"}
    assert found.protocols == ("split", "stream")


@pytest.mark.parametrize(
    "files",
    [
        {
            "ratings.dat": "1::10::8::1400000000\n2::11::9::1300000000\n",
            "movies.dat.xz": "10::Up (2009)::Family|War\n11::It::\n",
        },
        {
            "ratings.csv": "userId,movieId,rating,timestamp\n1,10,8,1400000000\n2,11,9,1300000000\n",
            "movies.csv": "movieId,title,genres\n10,Up (2009),Family|War\n11,It,\n",
        },
    ],
)
def test_movielens_is_read_in_both_of_its_spellings(files: dict[str, str], tmp_path: Path) -> None:
    """Ratings in time order on the scale that they show; genres are tags."""
    found = read(write(tmp_path / "x", files))
    assert [(event.user_id, event.item_id, event.rating) for event in found.events] == [("2", "11", 9.0), ("1", "10", 8.0)]
    assert (found.rating_scale, found.least, found.protocols) == ((1.0, 10.0), 7.0, ("stream",))
    assert (found.items[0].title, found.items[0].tags) == ("Up (2009)", ("Family", "War"))


def test_any_events_and_items_are_read_as_the_import_reads_them(tmp_path: Path) -> None:
    """Two jsonl files with our names; of events alone each item is called by its id."""
    event = {"user_id": "u", "type": "like", "item_id": "i", "at": 1.7e9}
    pair = {"events.jsonl": json.dumps(event), "items.jsonl": json.dumps({"item_id": "i", "title": "Cup"})}
    assert read(write(tmp_path / "x", pair)).items[0].title == "Cup"
    lone = read(write(tmp_path / "y", {"log.csv": "timestamp,eventType,contentId,personId\n1400000000,BOOKMARK,c,p\n"}))
    assert [(each.user_id, each.item_id, each.type) for each in lone.events] == [("p", "c", "like")]
    assert lone.items[0].title == "c"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "holds nothing: expected X.train.inter"),
        ({"notes.txt": "hello"}, r"holds notes.txt: expected .* \(docs/evaluation.md\)"),
        (
            {
                "events.jsonl": '{"user_id": "u", "type": "like", "item_id": "i", "at": 1.7e9}',
                "items.jsonl": '{"item_id": "other", "title": "Cup"}',
            },
            "none of the 1 items of the events, as 'i'",
        ),
    ],
)
def test_what_is_no_data_set_is_refused_with_what_was_expected(files: dict[str, str], said: str, tmp_path: Path) -> None:
    """A folder of other files, and events that are about other items."""
    with pytest.raises(DatasetError, match=said):
        read(write(tmp_path / "x", files))
    with pytest.raises(DatasetError, match="is no folder"):
        read(tmp_path / "nowhere")


def test_order_alone_becomes_days_that_end_at_one_moment() -> None:
    """The order stays, and all users' last events are of the same time."""
    assert [event.at for event in in_order("u", ["a", "b", "c"])] == [END - 2 * DAY_S, END - DAY_S, END]
    assert in_order("v", ["z"])[-1].at == END


def test_ratings_beyond_every_scale_are_refused() -> None:
    """A scale is guessed from the highest rating, up to 100."""
    event = Event(event_id="e", user_id="u", type="rating", at=END, item_id="i", rating=1_000.0)
    with pytest.raises(DatasetError, match="highest rating is 1000"):
        scale_of([event])
