"""The catalogue: items are encoded once, keep the time they were first seen, and reach the index as their messages say."""

from __future__ import annotations

import numpy as np
import pytest
from planted import NOW, Counting, unit

from ranking.index import ItemIndex
from streams.catalogue import Catalogue, apply, item_text, text_hash
from streams.messages import Item, ItemVector


def tea(**fields: object) -> Item:
    """Return a packet of tea."""
    return Item(**{"item_id": "tea", "title": "Green tea", "category": "hot-drinks", "tags": ("leaf",), **fields})  # type: ignore[arg-type]


@pytest.fixture
def encoder() -> Counting:
    """Return an encoder that counts its texts."""
    return Counting(32)


@pytest.fixture
def index(encoder: Counting) -> ItemIndex:
    """Return an empty index for that encoder's vectors."""
    return ItemIndex(encoder.dim, encoder.id)


def publish(encoder: Counting, index: ItemIndex, *items: Item, at: float = NOW) -> list[ItemVector]:
    """Encode items and bring the index up to date with their messages."""
    messages = Catalogue(encoder).vectors([(item, at) for item in items], index)
    apply(messages, index)
    return messages


def test_new_item(encoder: Counting, index: ItemIndex) -> None:
    """A new item is encoded by its whole text, and its message and index entry carry all that lists need."""
    (message,) = publish(encoder, index, tea(brand="Leaf & Co", text="From Fujian.", attributes={"price": 4.5}))
    assert encoder.texts == ["Green tea. Leaf & Co. hot drinks. leaf. From Fujian."]
    assert (message.item_id, message.title, message.encoder, message.at) == ("tea", "Green tea", encoder.id, NOW)
    assert (message.category, message.brand, message.tags) == ("hot-drinks", "Leaf & Co", ("leaf",))
    assert message.attributes == {"price": 4.5}
    item, vector = index.item("tea")  # type: ignore[misc]
    np.testing.assert_allclose(np.frombuffer(message.vector, "<f2"), encoder.encode(encoder.texts)[0], atol=1e-3)
    assert vector @ encoder.encode(encoder.texts)[0] > 0.9995
    assert (item.category, item.text_hash, item.available) == ("hot-drinks", message.text_hash, True)


def test_unchanged_text_is_not_encoded_again(encoder: Counting, index: ItemIndex) -> None:
    """What does not change the text (availability, attributes) keeps vector and time, and is published.

    The vector is the one the index holds, in 8-bit codes: once the same as that, it stays so.
    """
    (first,) = publish(encoder, index, tea())
    assert np.frombuffer(first.vector, "<f2") @ index.item("tea")[1] > 0.9995  # type: ignore[index]
    (first,) = publish(encoder, index, tea(), at=NOW + 1)
    (again,) = publish(encoder, index, tea(available=False, attributes={"price": 9.0}), at=NOW + 500)
    assert len(encoder.texts) == 1
    assert (again.vector, again.at, again.text_hash) == (first.vector, NOW, first.text_hash)
    assert (again.available, again.attributes) == (False, {"price": 9.0})
    assert index.newest(9).tolist() == []


@pytest.mark.parametrize(
    "change", [{"title": "Black tea"}, {"text": "new"}, {"brand": "b"}, {"category": "c"}, {"tags": ("t",)}]
)
def test_changed_text_is_encoded_again(encoder: Counting, index: ItemIndex, change: dict[str, object]) -> None:
    """Whatever changes the text changes the vector; the item's time stays that of its first message."""
    (first,) = publish(encoder, index, tea())
    (again,) = publish(encoder, index, tea(**change), at=NOW + 500)
    assert len(encoder.texts) == 2
    assert again.vector != first.vector
    assert again.text_hash != first.text_hash
    assert again.at == NOW


def test_only_the_changed_are_encoded(encoder: Counting, index: ItemIndex) -> None:
    """Of a batch only new and changed items are encoded, and each message gets its own vector."""
    names = [f"t{n}" for n in range(6)]
    publish(encoder, index, *(tea(item_id=name, title=f"Tea {name}") for name in names[:4]))
    encoder.texts.clear()
    messages = publish(encoder, index, *(tea(item_id=name, title=f"Tea {name}", text="!" * (name == "t1")) for name in names))
    assert [text.split(".")[0] for text in encoder.texts] == ["Tea t1", "Tea t4", "Tea t5"]
    vectors = np.stack([np.frombuffer(message.vector, "<f2") for message in messages]).astype(np.float32)
    right = encoder.encode([item_text(tea(item_id=name, title=f"Tea {name}", text="!" * (name == "t1"))) for name in names])
    assert (vectors @ right.T).argmax(axis=1).tolist() == list(range(6))


def test_same_id_twice(encoder: Counting, index: ItemIndex) -> None:
    """Of one id twice in a batch both messages come, in order; the index takes the last, the time is the first's."""
    items = [(tea(), NOW), (tea(title="Black tea"), NOW + 5)]
    first, last = Catalogue(encoder).vectors(items, index)
    apply([first, last], index)
    assert (first.title, last.title, len(index)) == ("Green tea", "Black tea", 1)
    assert index.item("tea")[0].title == "Black tea"  # type: ignore[index]
    assert (first.at, last.at) == (NOW, NOW)


def test_long_text(encoder: Counting, index: ItemIndex) -> None:
    """A text is cut at the setting's length, and a change behind the cut is none."""
    catalogue = Catalogue(encoder, text_length=40)
    apply(catalogue.vectors([(tea(text="x" * 100), NOW)], index), index)
    catalogue.vectors([(tea(text="x" * 100 + "y"), NOW)], index)
    assert [len(text) for text in encoder.texts] == [40]


def test_nothing(encoder: Counting, index: ItemIndex) -> None:
    """An empty batch gives no message and no change."""
    assert publish(encoder, index) == []
    assert len(index) == 0


def test_delete(encoder: Counting, index: ItemIndex) -> None:
    """A bare id deletes; of one item's changes the last stands, whichever it is."""
    (message,) = publish(encoder, index, tea())
    apply(["tea", "unknown"], index)
    assert len(index) == 0
    apply(["tea", message], index)
    assert index.item("tea") is not None
    apply([message, "tea"], index)
    assert index.item("tea") is None
    assert index.search(unit(1, dim=32)[None], 3)[1].tolist() == [[-1]]


def test_deleted_item_is_new_again(encoder: Counting, index: ItemIndex) -> None:
    """An item that comes back after its deletion is encoded again and begins anew."""
    publish(encoder, index, tea())
    apply(["tea"], index)
    (again,) = publish(encoder, index, tea(), at=NOW + 9)
    assert (len(encoder.texts), again.at) == (2, NOW + 9)


def test_other_encoder(encoder: Counting, index: ItemIndex) -> None:
    """Another encoder's vector is refused with both names, and nothing of its batch is taken."""
    (good,) = Catalogue(encoder).vectors([(tea(item_id="good"), NOW)], index)
    (foreign,) = Catalogue(Counting(64)).vectors([(tea(), NOW)], ItemIndex(64, "hashing-64"))
    with pytest.raises(ValueError, match="item tea has a vector of hashing-64, this worker's encoder is hashing-32"):
        apply([good, foreign], index)
    assert len(index) == 0


def test_text() -> None:
    """An item's text is its title, brand, category, tags and text; blank parts leave no trace; its hash follows it."""
    assert item_text(Item(item_id="a", title=" Tea ", text="  ")) == "Tea"
    assert text_hash("a") != text_hash("b")
    assert len(text_hash("")) == 16
