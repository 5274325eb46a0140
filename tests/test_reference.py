"""The generated pages: current, complete, and what they say of messages is what the decoders do."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import yaml

from streams import messages
from streams.reference import DOCS, asyncapi, asyncapi_page, settings_page
from streams.settings import Settings
from streams.topics import topics

NOW = 1_790_000_000.0


@pytest.mark.parametrize(("name", "page"), [("settings.md", settings_page), ("asyncapi.yaml", asyncapi_page)])
def test_pages_are_current(name: str, page: Any) -> None:
    """The page in docs/ is what the code says now; `python -m streams.reference` writes it."""
    assert (DOCS / name).read_text(encoding="utf-8") == page()


def test_every_setting_is_on_the_page() -> None:
    """Each variable has one row, with a default that can be read and no default of this machine."""
    page = settings_page()
    for name in Settings.model_fields:
        assert page.count(f"| `HEADRACE_{name.upper()}` |") == 1
    assert str(DOCS.parent) not in page


def test_document_is_whole() -> None:
    """The document has the parts AsyncAPI 3.0 asks for, and each reference in it leads somewhere."""
    document = yaml.safe_load(asyncapi_page())
    assert document == json.loads(json.dumps(asyncapi()))  # tuples are lists in YAML
    assert document["asyncapi"] == "3.0.0"
    assert document["info"].keys() >= {"title", "version"}
    for operation in document["operations"].values():
        assert operation["action"] in ("send", "receive")
        assert found(document, operation["channel"]["$ref"])["address"]
    references = list(references_in(document))
    assert len(references) > 20
    for reference in references:
        assert isinstance(found(document, reference), dict)


def test_every_topic_is_described() -> None:
    """Each topic but the profile table's is a channel with its partitions, policy and key."""
    document = asyncapi()
    channels = {channel["address"]: channel for channel in document["channels"].values()}
    wanted = [topic for topic in topics(Settings.model_construct()) if not topic.name.endswith("-changelog")]
    assert channels.keys() == {topic.name for topic in wanted}
    for topic in wanted:
        kafka = channels[topic.name]["bindings"]["kafka"]
        assert kafka["partitions"] == topic.partitions
        assert ",".join(kafka["topicConfiguration"]["cleanup.policy"]) == topic.config["cleanup.policy"]
        for message in channels[topic.name]["messages"].values():
            key = (
                found(document, message["$ref"]).get("bindings", {}).get("kafka", {}).get("key", {}).get("description", "none")
            )
            assert key.endswith(topic.key)


@pytest.mark.parametrize(
    ("event", "is_right"),
    [
        ({"event_id": "e", "user_id": "u", "type": "click", "at": NOW, "item_id": "i"}, True),
        ({"event_id": "e", "user_id": "u", "type": "wish", "at": "2026-01-31T12:00:00Z", "text": "爵士乐", "extra": 1}, True),
        ({"event_id": "e", "user_id": "u", "type": "wave", "at": NOW, "item_id": "i"}, False),
        ({"event_id": "", "user_id": "u", "type": "click", "at": NOW, "item_id": "i"}, False),
        ({"event_id": "e", "user_id": 1, "type": "click", "at": NOW, "item_id": "i"}, False),
        ({"user_id": "u", "type": "click", "at": NOW, "item_id": "i"}, False),
        ({"event_id": "e", "user_id": "u", "type": "view", "at": NOW, "item_id": "i", "progress": 2}, False),
    ],
)
def test_schema_and_decoder_agree(event: dict[str, object], is_right: bool) -> None:
    """What the published schema of an event takes and refuses, the decoder takes and refuses."""
    document = asyncapi()
    schema = {"$ref": "#/components/schemas/Event", "components": document["components"]}
    assert jsonschema.Draft202012Validator(schema).is_valid(event) is is_right
    try:
        messages.decode_event(json.dumps(event).encode(), NOW)
        decoded = True
    except messages.BadMessage:
        decoded = False
    assert decoded is is_right


def found(document: dict[str, Any], reference: str) -> Any:
    """Return what a `#/a/b` reference leads to."""
    place: Any = document
    for part in reference.removeprefix("#/").split("/"):
        place = place[part]
    return place


def references_in(value: Any) -> Any:
    """Yield every `$ref` in a document."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "$ref":
                yield inner
            else:
                yield from references_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references_in(inner)
