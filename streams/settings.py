"""Every setting: its name, unit, bounds, default and meaning, read once at start.

Does not know what a setting is used for beyond its description: parts below `streams` get values as arguments. A setting `x`
is read from `HEADRACE_X`. A name that no setting has is an error that names the nearest one, as is a value out of bounds.

    SettingsError(ValueError)   raised by `load`: one line for each thing to change
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from streams.messages import EVENT_TYPES

PREFIX = "HEADRACE_"
EVENT_WEIGHTS: dict[str, float] = {
    "view": 0.3,
    "click": 1.0,
    "cart": 2.0,
    "purchase": 3.0,
    "rating": 2.0,
    "like": 2.0,
    "dislike": -2.0,
    "comment": 1.5,
    "search": 1.5,
    "wish": 3.0,
    "impression": 0.0,
    "ask": 1.5,
}
Pairs = Annotated[dict[str, Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]], NoDecode]
Words = Annotated[tuple[str, ...], NoDecode]


class SettingsError(ValueError):
    """Settings that cannot be used: one line for each thing to change."""


def setting(default: Any, description: str, *, group: str, unit: str = "", shown: str = "", **bounds: Any) -> Any:
    """Declare a setting: `group`, `unit` and `shown` (a default that depends on the machine, in words) go to the reference."""
    how = {"default_factory": default} if callable(default) else {"default": default}
    return Field(**how, description=description, json_schema_extra={"group": group, "unit": unit, "shown": shown}, **bounds)


def encoder_slug(name: str) -> str:
    """Return the topic suffix of an encoder's name: lower-case letters, digits and dashes, at most 71 characters.

    Names that differ get suffixes that differ: what the suffix cannot spell is told by six digits of the name's hash.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:64]
    return slug if slug and slug == name else f"{slug}-{hashlib.sha256(name.encode()).hexdigest()[:6]}".lstrip("-")


def _cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"


def _instance_id(values: dict[str, Any]) -> str:
    # Stable over restarts, and two workers of one machine differ: a state folder belongs to one process at a time.
    folder = str(Path(values.get("state_dir", ".")).absolute())
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:190]
    return f"{host}-{hashlib.sha256(folder.encode()).hexdigest()[:6]}"


class Settings(BaseSettings):
    """All settings, frozen. Build it with `load`, which turns what is wrong into clear lines."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True, hide_input_in_errors=True
    )

    # Kafka
    broker: str = setting("127.0.0.1:9092", "Kafka's addresses, host:port, more than one separated by commas.", group="Kafka")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = setting(
        "PLAINTEXT", "How every client talks to Kafka.", group="Kafka"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = setting(
        "SCRAM-SHA-512", "How the user is proved, with a SASL protocol.", group="Kafka"
    )
    sasl_username: str = setting("", "User name, with a SASL protocol.", group="Kafka")
    sasl_password: SecretStr = setting(SecretStr(""), "Password, with a SASL protocol.", group="Kafka")
    ssl_cafile: Path | None = setting(None, "PEM file of the authorities to trust; the system's when empty.", group="Kafka")
    ssl_certfile: Path | None = setting(None, "PEM file of the client's certificate, where Kafka asks for one.", group="Kafka")
    ssl_keyfile: Path | None = setting(None, "PEM file of the client's key, where it is not in ssl_certfile.", group="Kafka")
    ssl_password: SecretStr = setting(SecretStr(""), "Pass phrase of the client's key.", group="Kafka")
    ssl_check_hostname: bool = setting(True, "Whether Kafka's certificate must bear the host's name.", group="Kafka")
    connect_timeout_s: float = setting(
        10.0, "How long a start waits for Kafka before it gives up.", group="Kafka", unit="seconds", gt=0, le=600
    )

    # Topics
    topic_prefix: str = setting(
        "",
        "Put before each topic's name except the profile table's, as `prod.`.",
        group="Topics",
        pattern=r"^[A-Za-z0-9._-]{0,64}$",
    )
    partitions: int = setting(
        8,
        "Partitions of each topic: the most workers that can share the work. Fixed once topics exist.",
        group="Topics",
        ge=1,
        le=1024,
    )
    replication: int = setting(1, "Copies that Kafka keeps of each partition; 3 in production.", group="Topics", ge=1, le=9)
    create_topics: bool = setting(False, "Whether a worker creates the topics that are missing at its start.", group="Topics")
    retention_days: float = setting(7.0, "How long events and lists are kept.", group="Topics", unit="days", gt=0, le=3650)

    # Worker
    app_id: str = setting(
        "headrace",
        "Name of the consumer group and of the profile table's topic: one for all workers of one installation.",
        group="Worker",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
    )
    state_dir: Path = setting(
        Path(".headrace/state"),
        "Folder of profiles and index snapshots; one worker each. Rebuilt from Kafka if lost.",
        group="Worker",
    )
    instance_id: str = setting(
        _instance_id,
        "Name of this worker in the group. Stable over restarts, it makes a restart take 2.5-3 s in place of 6-8 s.",
        group="Worker",
        shown="host name and a hash of state_dir",
        pattern=r"^[A-Za-z0-9._-]{1,200}$",
    )
    session_timeout_s: float = setting(
        10.0,
        "Silence after which Kafka takes a worker for dead and hands its partitions on.",
        group="Worker",
        unit="seconds",
        ge=6,
        le=300,
    )
    batch_size: int = setting(
        64, "Most events in one micro-batch, when the worker keeps up.", group="Worker", unit="events", ge=1, le=4096
    )
    backlog_batch_size: int = setting(
        2048, "Most events in one micro-batch, when events have piled up.", group="Worker", unit="events", ge=1, le=16384
    )
    snapshot_s: float = setting(
        30.0, "How often the item index is written to state_dir.", group="Worker", unit="seconds", ge=1, le=86400
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting("info", "Least level that is logged.", group="Worker")
    web_host: str = setting(
        "127.0.0.1",
        "Address that metrics and health listen on; one that is not this machine's own needs web_token.",
        group="Worker",
    )
    web_port: int = setting(0, "Port of metrics and health; 0 is off.", group="Worker", ge=0, le=65535)
    web_token: SecretStr = setting(
        SecretStr(""), "What a reader of metrics and health sends as `Authorization: Bearer TOKEN`.", group="Worker"
    )

    # Encoder
    encoder: str = setting(
        "multilingual-e5-small",
        "Language model of texts: multilingual-e5-small, all-MiniLM-L6-v2, smollm2-135m, hashing, a local folder or a hub id.",
        group="Encoder",
        min_length=1,
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:1.", group="Encoder", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "Number format of the model: docs/compression.md.", group="Encoder"
    )
    cuda_graphs: bool = setting(
        False,
        "Whether a GPU replays recorded graphs for small batches, where launching kernels takes longer than running them. Not "
        "tried on a GPU yet; does nothing on a CPU.",
        group="Encoder",
    )
    threads: int | None = setting(
        None,
        "Threads of the model, which share a batch; as many as cores when empty.",
        group="Encoder",
        ge=1,
        le=1024,
    )
    max_tokens: int = setting(128, "Length at which the model cuts a text.", group="Encoder", unit="tokens", ge=8, le=8192)
    text_length: int = setting(
        2000, "Length at which a text is cut before it is tokenised.", group="Encoder", unit="characters", ge=16, le=1_000_000
    )
    text_cache: int = setting(
        4096,
        "Texts of users whose vectors are kept in memory, as search words repeat; 0 keeps none. "
        "4,096 take 7 MB with 384 dimensions.",
        group="Encoder",
        unit="texts",
        ge=0,
        le=1_000_000,
    )
    cache_dir: Path = setting(_cache_dir, "Folder of converted weights.", group="Encoder", shown="~/.cache/headrace")
    compact: Literal["none", "half", "third", "quarter"] = setting(
        "none",
        "How much of each vector is kept: all, or the first half, third or quarter of its numbers: docs/compression.md. "
        "Another choice is another encoder.",
        group="Encoder",
    )
    images: Path | None = setting(
        None,
        "Folder that `headrace images train` wrote: items' vectors hold their images, too; unused when empty. "
        "Another folder needs a name of its own, as another encoder does: docs/images.md.",
        group="Encoder",
    )
    image_folder: Path | None = setting(
        None, "Folder in which the paths of items' images are looked up; no other file is read.", group="Encoder"
    )

    # Profile
    event_weights: Pairs = setting(
        EVENT_WEIGHTS,
        "Weight of each event type in the profile, as `view=0.5,click=1`; types that are not named keep their default. "
        "A rating's is multiplied by where it lies on rating_scale, from -1 to 1.",
        group="Profile",
    )
    rating_scale: Annotated[tuple[float, float], NoDecode] = setting(
        (1.0, 5.0), "Worst and best rating, as `1,5`.", group="Profile"
    )
    long_half_life_days: float = setting(
        30.0, "Age at which an event counts half in the long interest.", group="Profile", unit="days", gt=0, le=3650
    )
    short_half_life_hours: float = setting(
        3.0, "Age at which an event counts half in the short interest.", group="Profile", unit="hours", gt=0, le=8760
    )
    avoid_half_life_days: float = setting(
        7.0, "Age at which an event counts half in what the user turned down.", group="Profile", unit="days", gt=0, le=3650
    )
    asked_half_life_hours: float = setting(
        1.0, "Age at which words count half in what the user asked for.", group="Profile", unit="hours", gt=0, le=8760
    )
    sentiment: Path | None = setting(
        None,
        "File of `headrace sentiment train` that judges reviews, sign and strength; cue words do when empty. docs/language.md.",
        group="Profile",
    )
    seen_types: Words = setting(
        ("view", "click", "cart", "purchase", "rating", "like", "dislike", "comment"),
        "Event types after which an item is not recommended to that user again, as `purchase,dislike`.",
        group="Profile",
    )

    # Lists
    list_size: int = setting(20, "Items in a list.", group="Lists", unit="items", ge=1, le=200)
    candidates: int = setting(100, "Items ranked for each list.", group="Lists", unit="items", ge=10, le=2000)
    max_per_category: int = setting(
        0, "Most items of one category in a list; 0 is no limit.", group="Lists", unit="items", ge=0, le=200
    )
    diversity: float = setting(
        0.4,
        "How much an item loses for being like those above it: 0 not at all, 1 as much as it can.",
        group="Lists",
        ge=0,
        le=1,
    )
    diversity_by: Literal["category", "likeness"] = setting(
        "category",
        "What is alike: items of one category, or, for catalogues without categories, those of near vectors.",
        group="Lists",
    )
    max_per_brand: int = setting(
        0, "Most items of one brand in a list; 0 is no limit.", group="Lists", unit="items", ge=0, le=200
    )
    rules: Path | None = setting(
        None, "TOML file of business rules: boost, bury, pin, exclude; docs/rules.md shows them.", group="Lists"
    )
    experiment_file: Path | None = setting(
        None,
        "TOML file of an experiment: variants of lists, each for a share of the users; docs/experiments.md.",
        group="Lists",
    )
    rerank: Path | None = setting(
        None,
        "Folder of a cross-encoder (`headrace finetune --task match`) that reads the top of each list once more after it was "
        "published; the list in the new order follows. Unused when empty. docs/finetuning.md.",
        group="Lists",
    )
    rerank_top: int = setting(
        10, "Items at the top of a list that the cross-encoder reads.", group="Lists", unit="items", ge=2, le=100
    )
    rerank_weight: float = setting(
        0.1,
        "How much the cross-encoder counts beside the ranker: the power of its odds that an item's score is multiplied by.",
        group="Lists",
        ge=0,
        le=100,
    )
    price_attribute: str = setting(
        "price", "The items' attribute that bounds in a question are about, as in `under 50 €`.", group="Lists", min_length=1
    )
    currency_attribute: str = setting(
        "currency", "The items' attribute that names the currency of the price, as `EUR`.", group="Lists", min_length=1
    )
    explore: float = setting(
        0.0,
        "Share of places, but the first, that go to new items which the ranking would not show; such lists tell propensities.",
        group="Lists",
        ge=0,
        le=0.5,
    )
    explore_days: float = setting(
        7.0, "Age up to which an item is new to exploration.", group="Lists", unit="days", gt=0, le=3650
    )
    explore_touches: float = setting(
        10.0,
        "Touches, weighed as in event_weights, from which on an item is known and not explored any more.",
        group="Lists",
        gt=0,
        le=1_000_000,
    )
    trend_half_life_hours: float = setting(
        3.0, "Age at which a touch counts half in what rises now.", group="Lists", unit="hours", gt=0, le=8760
    )
    popular_half_life_days: float = setting(
        14.0,
        "Age at which a touch counts half in popularity and in what goes together.",
        group="Lists",
        unit="days",
        gt=0,
        le=3650,
    )

    # Learning
    learn_window_minutes: float = setting(
        60.0,
        "How long after an event its list is joined with what the user does next, by the events' time.",
        group="Learning",
        unit="minutes",
        gt=0,
        le=525_600,
    )
    learn_round_minutes: float = setting(
        30.0,
        "After how much of the events' time what was learnt is tested, and published when it is better.",
        group="Learning",
        unit="minutes",
        gt=0,
        le=525_600,
    )
    learn_users: int = setting(
        100,
        "Users held out of learning in each round, at least; a round goes on until there are so many.",
        group="Learning",
        unit="users",
        ge=20,
        le=100_000,
    )
    learn_risk: float = setting(
        0.05,
        "Share of versions no better than the one in service that the test lets through, at most.",
        group="Learning",
        gt=0,
        le=0.5,
    )
    learn_rate: float = setting(
        0.0003, "The most that a step of learning moves a weight of the ranker by.", group="Learning", gt=0, le=0.1
    )
    learn_unseen: float = setting(
        0.9,
        "What a place of a list counts, relative to the one above, below the one that was touched; 1 is alike.",
        group="Learning",
        ge=0.1,
        le=1,
    )
    learn_share: float = setting(
        1.0, "Share of the lists that are learnt from, drawn by their id: a list costs some ms.", group="Learning", gt=0, le=1
    )

    @field_validator("event_weights", mode="before")
    @classmethod
    def _weights(cls, value: Any) -> Any:
        return {**EVENT_WEIGHTS, **_pairs(value)}

    @field_validator("seen_types", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        words = tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else tuple(value)
        for word in words:
            _known_type(word)
        return words

    @field_validator("rating_scale", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        value = value.split(",") if isinstance(value, str) else value
        if len(value) != 2:
            raise ValueError("give the worst and the best rating, as 1,5")
        return tuple(value)

    @field_validator("rating_scale")
    @classmethod
    def _rising(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not -1e6 < value[0] < value[1] < 1e6:
            raise ValueError(f"the worst rating {value[0]:g} must be lower than the best {value[1]:g}")
        return value

    @field_validator("broker")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for address in value.split(","):
            host, _, port = address.strip().rpartition(":")
            if not host or "/" in host or not port.isdigit() or not 0 < int(port) < 65536:
                raise ValueError(f"{address.strip()!r} is no host:port, as 127.0.0.1:9092")
        return ",".join(address.strip() for address in value.split(","))

    @field_validator("web_token")
    @classmethod
    def _hard_to_guess(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value() and not re.fullmatch(r"[!-~]{16,}", value.get_secret_value()):
            raise ValueError("give 16 or more visible ASCII characters, as `openssl rand -hex 32` makes them")
        return value

    @model_validator(mode="after")
    def _together(self) -> Settings:
        if self.security_protocol.startswith("SASL") and not (self.sasl_username and self.sasl_password.get_secret_value()):
            raise ValueError(
                f"security_protocol {self.security_protocol} needs {PREFIX}SASL_USERNAME and {PREFIX}SASL_PASSWORD"
            )
        for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise ValueError(f"{PREFIX}{name.upper()} is {path}: there is no such file")
        if self.web_port and not self.web_token.get_secret_value() and not _is_loopback(self.web_host):
            raise ValueError(
                f"{PREFIX}WEB_HOST is {self.web_host}, which others can reach: set {PREFIX}WEB_TOKEN to what they must send, "
                f"as `openssl rand -hex 32` makes it, or {PREFIX}WEB_HOST=127.0.0.1"
            )
        if self.rerank is not None and not self.rerank.is_dir():
            raise ValueError(
                f"{PREFIX}RERANK is {self.rerank}: no such folder, give one that `headrace finetune --task match` wrote"
            )
        if self.rules is not None:
            from streams import rulebook  # NumPy: not for commands without rules

            rulebook.read(self.rules, self.list_size)
        if self.experiment_file is not None:
            from streams import experiments  # as above

            experiments.read(self.experiment_file, self)
        if self.backlog_batch_size < self.batch_size:
            raise ValueError(
                f"{PREFIX}BACKLOG_BATCH_SIZE {self.backlog_batch_size} is lower than "
                f"{PREFIX}BATCH_SIZE {self.batch_size}: raise it"
            )
        return self


def vectors_name(settings: Settings) -> str:
    """Return what the vectors are of, as the suffix of topics: the encoder's name, what is kept, and the images' folder."""
    compact = "" if settings.compact == "none" else f"+{settings.compact}"
    images = "" if settings.images is None else f"+{settings.images.absolute().name}"
    return encoder_slug(settings.encoder + compact + images)


def named_encoder(settings: Settings) -> str:
    """Return the settings that name the encoder, as they are written in the environment."""
    images = "" if settings.images is None else f" {PREFIX}IMAGES={settings.images}"
    compact = "" if settings.compact == "none" else f" {PREFIX}COMPACT={settings.compact}"
    return f"{PREFIX}ENCODER={settings.encoder}{compact}{images}"


def load(**given: Any) -> Settings:
    """Return the settings of the environment; `given` values (None means not given) win over it. Raises SettingsError."""
    refuse_unknown(os.environ)
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        lines = [_line(problem) for problem in error.errors() if problem["type"] != "default_factory_not_called"]
    raise SettingsError("\n".join(dict.fromkeys(lines)))  # outside of the block: pydantic's error holds what was given


def secrets_of(settings: Settings) -> list[str]:
    """Return the secrets that are set."""
    values = [value.get_secret_value() for _, value in settings if isinstance(value, SecretStr)]
    return [value for value in values if value]


def refuse_unknown(environment: Mapping[str, str]) -> None:
    """Raise SettingsError when the environment holds a HEADRACE_ name that no setting has."""
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    unknown = sorted(name for name in environment if name.upper().startswith(PREFIX) and name.upper() not in known)
    if unknown:
        raise SettingsError("\n".join(f"{name} is no setting: {_nearest(name.upper(), known)}" for name in unknown))


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"did you mean {near[0]}? docs/settings.md lists them all"


def _line(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    reason = problem["msg"].removeprefix("Value error, ")
    if not where:  # a rule about more than one setting names them itself
        return str(reason)
    field, _, part = where.partition(".")
    name = PREFIX + field.upper() + (f" {part}" if part else "")
    if problem["type"] == "extra_forbidden":
        return f"{where} is no setting: {_nearest(name, [PREFIX + known.upper() for known in Settings.model_fields])}"
    secret = Settings.model_fields[field].annotation is SecretStr
    value = "the value given" if secret else repr(problem["input"])
    return f"{name} is {value}: {reason[0].lower()}{reason[1:]}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def _pairs(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        parts = [part.partition("=") for part in value.split(",") if part.strip()]
        value = {name.strip(): number.strip() for name, _, number in parts}
    if not isinstance(value, dict):
        raise ValueError("give it as view=0.5,click=1")
    for name in value:
        _known_type(name)
    return value


def _known_type(name: str) -> None:
    if name not in EVENT_TYPES:
        near = difflib.get_close_matches(name, EVENT_TYPES, n=1, cutoff=0.0)[0]
        raise ValueError(f"{name!r} is no event type: did you mean {near!r}? There are {', '.join(EVENT_TYPES)}")
