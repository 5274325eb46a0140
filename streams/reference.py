"""Write docs/settings.md and docs/asyncapi.yaml from the settings and the messages: `python -m streams.reference`.

Does not know anything that is not in them; a test fails when the files are stale. Needs PyYAML, of the `dev` extra.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from streams import messages
from streams.settings import EVENT_WEIGHTS, PREFIX, Settings
from streams.topics import Topic, topics

DOCS = Path(__file__).parent.parent / "docs"
# Each topic: its place in Topics, its messages, whether we read ("receive") or write ("send") it, whether it is ours alone.
CHANNELS = (
    ("events", (messages.Event,), "receive", False),
    ("items", (messages.Item,), "receive", False),
    ("recommendations", (messages.RecommendationList,), "send", False),
    ("dead_letters", (messages.DeadLetter,), "send", False),
    ("interactions", (messages.Interactions,), "send", True),
    ("item_vectors", (messages.ItemVector,), "send", True),
    ("item_signals", (messages.ItemSignal,), "send", True),
    ("erasures", (messages.Erasure,), "send", True),
    ("models", (messages.ModelVersion, messages.ModelPart, messages.ModelInUse), "send", True),
)


def main() -> None:
    """Write both files."""
    (DOCS / "settings.md").write_text(settings_page(), encoding="utf-8")
    (DOCS / "asyncapi.yaml").write_text(asyncapi_page(), encoding="utf-8")


def settings_page() -> str:
    """Return docs/settings.md."""
    schemas = Settings.model_json_schema()["properties"]
    groups: dict[str, list[str]] = {}
    for name, schema in schemas.items():
        cells = (f"`{PREFIX}{name.upper()}`", _default(name, schema), _bounds(schema), schema["description"])
        groups.setdefault(schema["group"], []).append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    head = (
        "# Settings\n\nWritten by `python -m streams.reference` from `streams/settings.py`. Settings are "
        "environment variables, read once at start.\n"
        "An unknown `HEADRACE_` name or a value out of bounds ends the start with exit code 2.\n"
    )
    parts = [f"\n## {group}\n\n| variable | default | values | meaning |\n|---|---|---|---|\n" for group in groups]
    return head + "".join(part + "\n".join(lines) + "\n" for part, lines in zip(parts, groups.values(), strict=True))


def _default(name: str, schema: dict[str, Any]) -> str:
    if schema["shown"]:
        return str(schema["shown"])
    if name == "event_weights":
        return "`" + ",".join(f"{kind}={weight:g}" for kind, weight in EVENT_WEIGHTS.items()) + "`"
    value = schema.get("default")
    if isinstance(value, list):
        value = ",".join(map(_plain, value))
    if isinstance(value, bool):
        value = str(value).lower()
    return "empty" if value in (None, "") else f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _bounds(schema: dict[str, Any]) -> str:
    kinds = schema.get("anyOf", [schema])[0]
    if "enum" in kinds:
        return ", ".join(f"`{one}`" for one in kinds["enum"])
    words = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}", "exclusiveMaximum": "below {}"}
    bounds = " ".join(word.format(_plain(kinds[key])) for key, word in words.items() if key in kinds)
    named = {"boolean": "true, false", "integer": "whole number", "number": "number", "password": "secret", "path": "path"}
    kind = named.get(kinds.get("format", kinds.get("type", "")), "text")
    return " ".join(part for part in (kind, bounds, schema["unit"]) if part)


def asyncapi_page() -> str:
    """Return docs/asyncapi.yaml."""
    import yaml

    head = "# Written by `python -m streams.reference` from streams/messages.py and streams/topics.py.\n"
    return head + yaml.safe_dump(asyncapi(), sort_keys=False, allow_unicode=True, width=120)


def asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document of the topics, names and partitions as the default settings have them."""
    named = topics(Settings.model_construct())
    public = [(getattr(named, place), structs, action, internal) for place, structs, action, internal in CHANNELS]
    each = [(topic, struct) for topic, structs, _, _ in public for struct in structs]
    _, schemas = msgspec.json.schema_components([struct for _, struct in each], ref_template="#/components/schemas/{name}")
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Headrace",
            "version": "1",
            "description": "Behaviour events in, recommendation lists out. JSON values; keys are UTF-8 text, partitioned by "
            "murmur2 as Kafka's Java client does. Unknown fields are ignored; what does not fit becomes a dead letter.",
        },
        "defaultContentType": "application/json",
        "channels": {_id(topic): _channel(topic, structs, internal) for topic, structs, _, internal in public},
        "operations": {f"{action}-{_id(topic)}": _operation(topic, action) for topic, _, action, _ in public},
        "components": {
            "messages": {struct.__name__: _message(topic, struct) for topic, struct in each},
            "schemas": schemas,
        },
    }


def _id(topic: Topic) -> str:
    return next((name for name in ("item-vectors", "models") if topic.name.startswith(f"{name}-")), topic.name)


def _channel(topic: Topic, structs: tuple[type[msgspec.Struct], ...], internal: bool) -> dict[str, Any]:
    config: dict[str, Any] = {"cleanup.policy": topic.config["cleanup.policy"].split(",")}
    if "retention.ms" in topic.config:
        config["retention.ms"] = int(topic.config["retention.ms"])
    channel: dict[str, Any] = {
        "address": topic.name,
        "description": f"{(structs[0].__doc__ or '').splitlines()[0]} Kept ({topic.config['cleanup.policy']}): {topic.why}.",
        "messages": {struct.__name__: {"$ref": f"#/components/messages/{struct.__name__}"} for struct in structs},
        "bindings": {"kafka": {"partitions": topic.partitions, "topicConfiguration": config, "bindingVersion": "0.5.0"}},
    }
    return {**channel, "x-internal": True} if internal else channel


def _message(topic: Topic, struct: type[msgspec.Struct]) -> dict[str, Any]:
    message: dict[str, Any] = {"name": struct.__name__, "payload": {"$ref": f"#/components/schemas/{struct.__name__}"}}
    if topic.key == "none":
        return message
    key = {"type": "string", "description": f"the message's {topic.key}"}
    return {**message, "bindings": {"kafka": {"key": key, "bindingVersion": "0.5.0"}}}


def _operation(topic: Topic, action: str) -> dict[str, Any]:
    return {"action": action, "channel": {"$ref": f"#/channels/{_id(topic)}"}}


if __name__ == "__main__":
    main()
