"""Settings: names, bounds, and what a wrong one is answered with."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from streams.messages import EVENT_TYPES
from streams.settings import EVENT_WEIGHTS, Settings, SettingsError, encoder_slug, load


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)


def refused(**given: object) -> str:
    """Return the text that `load` refuses these values with."""
    with pytest.raises(SettingsError) as caught:
        load(**given)
    return str(caught.value)


def test_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A HEADRACE_ variable sets its field, and an argument wins over it."""
    monkeypatch.setenv("HEADRACE_PARTITIONS", "12")
    monkeypatch.setenv("HEADRACE_APP_ID", "shop")
    assert load().partitions == 12
    assert load(partitions=3, app_id=None) == load(partitions=3)
    assert (load(partitions=3).partitions, load(partitions=3).app_id) == (3, "shop")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("HEADRACE_BROKR", "HEADRACE_BROKER"),
        ("HEADRACE_ENCODER_NAME", "HEADRACE_ENCODER"),
        ("headrace_tread", "HEADRACE_THREADS"),
    ],
)
def test_unknown_name_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, nearest: str) -> None:
    """A HEADRACE_ name that no setting has is refused with the nearest that one has."""
    monkeypatch.setenv(name, "1")
    assert refused() == f"{name} is no setting: did you mean {nearest}? docs/settings.md lists them all"


def test_every_wrong_value_has_one_line() -> None:
    """Each wrong value is one line with its variable, the value and what was expected."""
    assert refused(partitions=0, replication="two", broker="kafka").splitlines() == [
        "HEADRACE_BROKER is 'kafka': 'kafka' is no host:port, as 127.0.0.1:9092",
        "HEADRACE_PARTITIONS is 0: input should be greater than or equal to 1",
        "HEADRACE_REPLICATION is 'two': input should be a valid integer, unable to parse string as an integer",
    ]


@pytest.mark.parametrize("broker", ["", "host", "host:", ":9092", "host:0", "host:65536", "http://host:1", "a:1,b", "a:x"])
def test_broker_must_be_addresses(broker: str) -> None:
    """Anything but host:port, separated by commas, is no broker."""
    assert "is no host:port" in refused(broker=broker)


def test_addresses_are_trimmed() -> None:
    """Blanks around addresses do not reach the clients."""
    assert load(broker=" a:1 , b:2").broker == "a:1,b:2"


def test_weights_keep_their_defaults() -> None:
    """Naming one type's weight leaves the others at their defaults."""
    assert load(event_weights="view=0.9, click=-1").event_weights == {**EVENT_WEIGHTS, "view": 0.9, "click": -1.0}
    assert set(load().event_weights) == set(EVENT_TYPES)


@pytest.mark.parametrize(
    ("weights", "part"),
    [
        ("veiw=1", "did you mean 'view'?"),
        ("view=much", "HEADRACE_EVENT_WEIGHTS view is 'much'"),
        ("view=nan", "finite"),
        ("view=1e9", "less than or equal to 100"),
        ("view", "HEADRACE_EVENT_WEIGHTS view is ''"),
        (7, "give it as view=0.5,click=1"),
    ],
)
def test_wrong_weights_are_refused(weights: object, part: str) -> None:
    """A weight of no type, or that is no number in bounds, is refused with its name."""
    assert part in refused(event_weights=weights)


@pytest.mark.parametrize("scale", ["5,1", "1,1", "1", "1,2,3", "1,nan", "a,b", "-inf,1"])
def test_rating_scale_must_rise(scale: str) -> None:
    """A scale is two finite numbers, the worst first."""
    assert refused(rating_scale=scale).startswith("HEADRACE_RATING_SCALE ")
    assert load(rating_scale="0,10").rating_scale == (0.0, 10.0)


def test_seen_types_are_words() -> None:
    """Seen types are separated by commas, none is allowed, and each must be an event type."""
    assert load(seen_types="purchase, dislike").seen_types == ("purchase", "dislike")
    assert load(seen_types="").seen_types == ()
    assert "did you mean 'purchase'?" in refused(seen_types="purchased")


def test_secrets_do_not_show() -> None:
    """A password is in no text that Settings or its refusals make."""
    settings = load(sasl_password="hunter2", ssl_password="hunter3")
    assert "hunter" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert "hunter" not in refused(sasl_password=["hunter2"], security_protocol="SASL_SSL")


def test_sasl_needs_user_and_password() -> None:
    """A SASL protocol without a user or a password is refused by the names to set."""
    for half in ({}, {"sasl_username": "ann"}, {"sasl_password": "x"}):
        assert "HEADRACE_SASL_USERNAME and HEADRACE_SASL_PASSWORD" in refused(security_protocol="SASL_SSL", **half)


def test_tls_files_must_exist(tmp_path: Path) -> None:
    """A certificate that is not there is refused at start, not at the first connection."""
    assert refused(ssl_cafile=tmp_path / "ca.pem") == f"HEADRACE_SSL_CAFILE is {tmp_path / 'ca.pem'}: there is no such file"


def test_backlog_batches_are_not_smaller() -> None:
    """The batch of a backlog may not be smaller than the usual one."""
    assert refused(batch_size=64, backlog_batch_size=32) == (
        "HEADRACE_BACKLOG_BATCH_SIZE 32 is lower than HEADRACE_BATCH_SIZE 64: raise it"
    )


def test_instance_id_is_stable_and_own() -> None:
    """A worker keeps its name over restarts, and workers with different state folders have different names."""
    one, again, other = load(state_dir="a"), load(state_dir=Path.cwd() / "a"), load(state_dir="b")
    assert one.instance_id == again.instance_id != other.instance_id


def test_wrong_state_dir_is_the_only_complaint() -> None:
    """A default that is made of a wrong value is not complained about as well."""
    assert refused(state_dir=5).count("\n") == 0


def test_settings_are_frozen() -> None:
    """Nothing changes a setting after the start."""
    with pytest.raises(ValidationError, match="frozen"):
        load().partitions = 9  # type: ignore[misc]


def test_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The cache folder lies where the desktop's convention puts it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert load().cache_dir == tmp_path / "headrace"


def test_every_setting_is_described() -> None:
    """Each setting says what it is, in which group, and every number has bounds."""
    for name, schema in Settings.model_json_schema()["properties"].items():
        assert schema["description"].endswith("."), name
        assert schema["group"], name
        kind = schema.get("anyOf", [schema])[0]
        if kind.get("type") in ("integer", "number"):
            assert {"minimum", "exclusiveMinimum"} & kind.keys(), name
            assert "maximum" in kind, name


@given(st.text(max_size=200), st.text(max_size=200))
def test_slugs_fit_topics_and_differ(one: str, other: str) -> None:
    """An encoder's topic suffix is a legal topic name's end, and names that differ have suffixes that differ."""
    for name in (one, other):
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", encoder_slug(name))
        assert len(encoder_slug(name)) <= 71
    assert (encoder_slug(one) == encoder_slug(other)) == (one == other)


def test_slug_of_a_plain_name_is_the_name() -> None:
    """A name that a topic can spell is kept as it is."""
    assert encoder_slug("multilingual-e5-small") == "multilingual-e5-small"
    assert encoder_slug("org/Model.v2").startswith("org-model-v2-")
