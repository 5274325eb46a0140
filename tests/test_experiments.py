"""Experiments: files as operators write them, lists by variant, models of variants on the topic, and the report on them."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import town
from conftest import Done
from flows import Worker, World, eventually
from planted import NOW, event, sourced
from test_governed_step import made

from ranking.learned import Learned
from ranking.ranker import ZeroShot
from streams import experiments, outcomes, reading, releases
from streams.building import build, load_encoder
from streams.catalogue import Catalogue, apply
from streams.experiments import Experiment, ExperimentError
from streams.makers import kept_attributes, new_index
from streams.messages import RecommendationList, encode
from streams.personalizer import Personalizer
from streams.settings import Settings, SettingsError, load

DOCS = Path(__file__).parent.parent / "docs" / "experiments.md"
TWO = '[[variants]]\nname = "a"\nshare = 0.5\n[[variants]]\nname = "b"\nshare = 0.5\n'
USERS = [f"user{n}" for n in range(400)]
RULES = '[[rule]]\nname = "cheap only"\ndo = "exclude"\nattributes = { price = "> 50" }\n'


def experiment(folder: Path, text: str, name: str = "e", **given: object) -> Experiment:
    """Return the experiment of a file with this text."""
    path = folder / "experiment.toml"
    path.write_text(f'name = "{name}"\n{text}', encoding="utf-8")
    return experiments.read(path, load(**given))


def variants(*own: str) -> str:
    """Return tables of variants a, b, ... of equal shares with these lines."""
    heads = [f'[[variants]]\nname = "{name}"\nshare = {1 / len(own)}\n' for name in "abcd"[: len(own)]]
    return "".join(f"{head}{lines}\n" for head, lines in zip(heads, own, strict=True))


def test_the_file_in_the_docs(tmp_path: Path) -> None:
    """The example of docs/experiments.md is read as the docs say."""
    (text,) = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "experiment.toml"
    path.write_text(text, encoding="utf-8")
    found = experiments.read(path, load(max_per_brand=3))
    first, mixed, meaning = found.variants
    assert str(found) == "as-it-is 50.0%, more-mixed 30.0%, by-meaning 20.0%"
    assert (first.settings, first.model, first.weights) == (load(max_per_brand=3), None, None)
    assert (mixed.settings.diversity, mixed.settings.explore, mixed.settings.max_per_brand) == (0.7, 0.05, 3)
    assert (meaning.model, meaning.weights) == ("zero-shot", ZeroShot(short=1.5, covisit=0.3))
    assert (found.label(mixed), found.models) == ("diversity-spring/more-mixed", frozenset())
    told = DOCS.read_text(encoding="utf-8")
    assert all(f"`{name}`" in told for name in (*experiments.OWN, *experiments.WEIGHTS))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            "diversty = 0.5",
            "variant 1 (a): `diversty` is nothing that can be given here: did you mean `diversity`? There are",
        ),
        ("diversity = 2", "variant 1 (a): `diversity` is 2: input should be less than or equal to 1"),
        ('diversity_by = "colour"', "`diversity_by` is 'colour': input should be 'category' or 'likeness'"),
        ("list_size = 0", "`list_size` is 0: input should be greater than or equal to 1"),
        ('model = "best"', "`model` is 'best': give a version of `headrace model list`, or zero-shot"),
        ("weights = { long = 1 }", '`weights` are those of the zero-shot model: give model = "zero-shot" with them'),
        ('model = "zero-shot"\nweights = { lon = 1 }', "`weights.lon` is nothing that can be given here: did you mean `long`?"),
        ('model = "zero-shot"\nweights = { long = nan }', "`weights` are finite numbers"),
        ('model = "zero-shot"\nweights = { temperature = 0 }', "`temperature` above 0"),
        ('rules = "none.toml"', "none.toml cannot be read (No such file or directory): name a file of rules"),
        ('rules = "bad.toml"', "bad.toml: rule 1 (r): exclude has no `by`"),
        ("event_weights = 1", "`event_weights` is nothing that can be given here"),
    ],
)
def test_what_is_wrong_in_a_variant_is_told(tmp_path: Path, lines: str, said: str) -> None:
    """A variant that cannot be used is named, with what is wrong in it and what is expected."""
    (tmp_path / "bad.toml").write_text('[[rule]]\nname = "r"\ndo = "exclude"\nby = 2\nitem = "x"')
    with pytest.raises(ExperimentError, match=re.escape(said)):
        experiment(tmp_path, variants(lines, ""))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[variants]\n", "is no TOML"),
        ("", "it has no `variants`: give it one"),
        ('variants = ["a"]', "`variants.0` is 'a': input should be a valid dictionary"),
        ("shares = 1\n" + TWO, "`shares` is nothing that can be given here: did you mean `variants`?"),
        ('[[variants]]\nname = "a"\nshare = 1', "it has 1 variants: give two or more"),
        (TWO.replace("0.5", "0.4"), "the shares sum to 0.8: have them sum to 1, or to 100"),
        (TWO.replace('"b"', '"a"'), "two variants are called a: give each a name of its own"),
        (TWO.replace("0.5", "0"), "variant 1 (a): `share` is 0: input should be greater than 0"),
        (TWO.replace("share = 0.5", "", 1), "variant 1 (a): it has no `share`: give it one"),
        (TWO.replace('"a"', '"a/b"'), "variant 1 (a/b): `name` is 'a/b': give 1 to 64 letters, digits"),
    ],
)
def test_what_is_wrong_in_a_file_is_told(tmp_path: Path, text: str, said: str) -> None:
    """A file that is no experiment is refused."""
    with pytest.raises(ExperimentError, match=re.escape(said)):
        experiment(tmp_path, text)


def test_settings_check_the_file(tmp_path: Path) -> None:
    """Settings that name a file with two bad variants say both; of a good one the index keeps what its rules ask for."""
    path = tmp_path / "experiment.toml"
    path.write_text('name = "e"\n' + variants("a = 1", "b = 1"))
    with pytest.raises(SettingsError) as error:
        load(experiment_file=path)
    assert [line.split(": ")[1] for line in str(error.value).splitlines()] == ["variant 1 (a)", "variant 2 (b)"]
    with pytest.raises(SettingsError, match="cannot be read"):
        load(experiment_file=tmp_path / "none.toml")
    (tmp_path / "rules.toml").write_text(RULES)
    path.write_text('name = "e"\n' + variants('rules = "rules.toml"', 'rules = ""'))
    assert kept_attributes(load(experiment_file=path, price_attribute="cost")) == ("cost", "currency", "price")
    first, second = experiments.read(path, load(rules=tmp_path / "rules.toml")).variants
    assert (first.settings.rules, second.settings.rules) == (tmp_path / "rules.toml", None)


def in_each(found: Experiment, names: str = "ab") -> dict[str, list[str]]:
    """Return ten users of each variant."""
    return {name: [user for user in USERS if found.variant_of(user).name == name][:10] for name in names}


def clicked(step: Personalizer, users: Sequence[str], item: str) -> dict[str, bytes]:
    """Return the records of users who clicked on an item."""
    clicks = sourced([event("click", user, item_id=item) for user in users])
    return step.fold({}, clicks, step.encode([each.event for each in clicks])).records


def test_each_user_gets_lists_of_the_own_variant(tmp_path: Path) -> None:
    """In a batch of both, users of a variant have the lists that all would have under its settings alone."""
    (tmp_path / "rules.toml").write_text(RULES)
    path = tmp_path / "experiment.toml"
    own = ('rules = "rules.toml"\nlist_size = 2', 'model = "zero-shot"\nweights = { short = -2 }')
    path.write_text('name = "e"\n' + variants(*own))
    step = made(experiment_file=path)
    found = experiments.read(path, load(encoder="hashing", list_size=4, diversity=0.0))
    users = in_each(found)
    both = [user for pair in zip(*users.values(), strict=True) for user in pair]
    records = clicked(step, both, "bean")
    before = step.recommend(records, NOW)
    assert {step.made_by(user) for user in both} == {("zero-shot", None)}
    step.use(ZeroShot(short=-2))
    weighed = step.recommend(records, NOW)
    ruled = made(rules=tmp_path / "rules.toml", list_size=2).recommend(records, NOW)
    step.use(ZeroShot())
    step.run(found)
    lists = step.recommend(records, NOW)
    assert list(lists) == list(records)
    assert {step.made_by(user) for user in users["a"]} == {("zero-shot", "e/a")}
    assert all(lists[user] == ruled[user] != before[user] for user in users["a"])
    assert all(lists[user] == weighed[user] != before[user] for user in users["b"])
    step.run(None)
    assert step.recommend(records, NOW) == before


def test_a_variant_waits_for_its_model(tmp_path: Path) -> None:
    """Until a variant's model is there its users have the lists of the model in use, and are in no variant."""
    settings = load(encoder="hashing", list_size=5)
    bundles = [town.model(settings, users=30, seed=seed) for seed in (1, 2)]
    named = bundles[0].head.version
    found = experiment(tmp_path, variants("", f'model = "{named}"'), encoder="hashing", list_size=5)
    step = of_town(settings)
    step.run(found)
    users = in_each(found)
    both = users["a"] + users["b"]
    records = clicked(step, both, "i3")
    before = step.recommend(records, NOW)
    assert step.named_models == {named}
    assert {step.made_by(user) for user in users["b"]} == {("zero-shot", None)}
    step.use_for_variants(Learned(bundles[0], step.maker.index))
    after = step.recommend(records, NOW)
    assert {step.made_by(user) for user in users["b"]} == {(named, "e/b")}
    assert [user for user in both if before[user] != after[user]] == users["b"]
    step.use(Learned(bundles[1], step.maker.index))  # whoever names no model follows the one in use
    assert {step.made_by(user) for user in users["a"]} == {(bundles[1].head.version, "e/a")}
    again = step.recommend(records, NOW)
    assert [user for user in both if again[user] != after[user]] == users["a"]


def of_town(settings: Settings) -> Personalizer:
    """Return a personalizer over the town's items."""
    encoder = load_encoder(settings)
    index = new_index(encoder, settings)
    apply(Catalogue(encoder, settings.text_length).vectors([(item, town.FIRST) for item in town.items()], index), index)
    return build(encoder, settings, index)


class Real(Worker):
    """A worker with the product's own step."""

    program = ("-m", "streams", "worker")


@pytest.mark.embedded
def test_variants_in_lists_and_in_the_report(
    embedded_world: Callable[..., World], headrace_as: Callable[..., Done], tmp_path: Path
) -> None:
    """Lists carry their variant and are of its rules, a model that is published later comes in, and the report tells it."""
    bundle = town.model(load(encoder="hashing"), users=30)
    version = bundle.head.version
    (tmp_path / "rules.toml").write_text('[[rule]]\nname = "no i7"\ndo = "exclude"\nitem = "i7"\n')
    (tmp_path / "pinned.toml").write_text('[[rule]]\nname = "i7 first"\ndo = "pin"\nplace = 1\nitem = "i7"\n')
    path = tmp_path / "experiment.toml"
    path.write_text('name = "seven"\n' + variants('rules = "rules.toml"', 'rules = "pinned.toml"', f'model = "{version}"'))
    world = embedded_world(partitions=1, experiment_file=path, list_size=60)
    found = experiments.read(path, world.settings)
    users = list(in_each(found, "abc").values())
    every = [user for own in users for user in own]
    early = next(user for user in USERS if found.variant_of(user).name == "c" and user not in every)
    worker = begun(world, early)
    assert "experiment seven: a 33.3%, b 33.3%, c 33.3%" in worker.said()
    refused = f"model {version} of a variant is refused, its users are in no variant meanwhile: model {version} is not on"
    assert refused in worker.said()
    world.send([world.event(user, type="click", item_id="i3") for user in every])
    lists = eventually(world.lists, lambda lists: len(lists) == 31)
    assert [lists[user].get("variant") for user in every] == ["seven/a"] * 10 + ["seven/b"] * 10 + [None] * 10
    assert {first(lists, user) for user in users[1]} == {"i7"}
    assert not any(item["item_id"] == "i7" for user in users[0] for item in lists[user]["items"])
    second = lists[users[0][0]]["items"][1]["item_id"]
    world.send([world.event(user, type="purchase", item_id=first(lists, user)) for user in users[1][:9]])
    world.send([world.event(users[0][0], type="click", item_id=second)])
    eventually(lambda: covered(world), lambda count: count == world._sent)
    releases.publish(world.settings, bundle)
    eventually(worker.said, lambda said: f"model {version} ranks for its variant from now on" in said)
    world.send([world.event(user, type="search", text="amber") for user in every])
    eventually(lambda: covered(world), lambda count: count == world._sent)
    lists = world.lists()
    assert {(lists[user]["model"], lists[user]["variant"]) for user in users[2]} == {(version, "seven/c")}
    assert worker.stop() == 0
    told = json.loads(headrace_as(world.settings, "report", "--json").stdout)
    assert (told["events"], told["events_without_list"]) == (world._sent, 0)
    (group,) = told["groups"]
    a, b, c = group["rows"]
    assert [(row["name"], row["users"], row["lists"]) for row in group["rows"]] == [("a", 10, 21), ("b", 10, 29), ("c", 10, 10)]
    assert [row["touched"]["mean"] for row in (a, b, c)] == [1 / 21, 9 / 29, 0.0]
    assert [row["place"] and row["place"]["mean"] for row in (a, b, c)] == [0.5, 1.0, None]
    assert (b["bought"]["mean"], group["split_p"]) == (9 / 29, 1.0)
    assert b["ahead_of_first"]["touches"]["low"] > 0.0
    said = headrace_as(world.settings, "report", "--since", "1").stdout
    assert "experiment seven" in said
    without = sum("variant" not in each for each in world.messages(world.topics.recommendations))
    assert f"{without} lists of no variant are left out" in said
    assert "fewer than 100 users in a row" in said
    assert headrace_as(world.settings, "report", "--until", "2020-01-01").stderr.startswith("headrace: no list is of this time")
    for options, part in {
        ("--since", "soon"): "give ISO 8601, as 2026-01-31T12:00Z, or hours ago, as 24",
        ("--since", "nan"): "give a number of hours",
        ("--since", "1", "--until", "2"): "--since 1 is not before --until 2",
        ("--window", "0"): "greater than or equal to 0.01",
    }.items():
        refused = headrace_as(world.settings, "report", *options)
        assert refused.returncode == 2
        assert part in " ".join(refused.stderr.replace("│", " ").split())


@pytest.mark.embedded
def test_a_report_reads_nothing_from_long_before_its_time(
    embedded_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a time asked for no older record is read but those of a day before, by which a sender's clock may be ahead."""
    world, seen = embedded_world(partitions=1), []

    def read(*given: Any, **more: Any) -> Iterator[Any]:
        for record in reading.records(*given, **more):
            seen.append(record)
            yield record

    monkeypatch.setattr(outcomes, "records", read)
    now = time.time()
    for number, at in enumerate((now - 3 * 86_400.0, now - 86_400.0, now)):
        own = RecommendationList(
            list_id=f"0-{number}", user_id="ann", items=(), event_id="e", event_at=at, published_at=at, model="m", covers=1
        )
        written = {"key": b"ann", "timestamp_ms": int(1_000 * at)}
        world._producer.send(world.topics.events.name, value=json.dumps(world.event("ann", at=at)).encode(), **written)
        world._producer.send(world.topics.recommendations.name, value=encode(own), **written)
    world.flush()
    day = 86_400.0
    for since, lists, read_at_all in ((now - 60.0, 1, 4), (now + 60.0 - day, 1, 4), (now - 60.0 - 2 * day, 2, 6), (0.0, 3, 6)):
        seen.clear()
        found = outcomes.read(world.settings, 60.0, since, math.inf)
        assert (found.events, found.models["m"]["ann"][0], len(seen)) == (lists, lists, read_at_all), since


def begun(world: World, user: str) -> Worker:
    """Return a worker that has all of the town's items in its index, as a user's lists have told."""
    for item in town.items():
        world.send_raw(world.topics.items, item.item_id.encode(), encode(item))
    world.flush()
    worker = Real(world.settings, world.folder)
    world.workers.append(worker)
    worker.ready(120)

    def listed() -> int:
        world.send([world.event(user)])
        return max([len(each["items"]) for each in world.messages(world.topics.recommendations)], default=0)

    eventually(listed, lambda count: count == len(town.items()))
    return worker


def first(lists: Mapping[str, Any], user: str) -> str:
    """Return the first item of a user's list."""
    return str(lists[user]["items"][0]["item_id"])


def covered(world: World) -> int:
    """Return how many events all lists cover."""
    return sum(int(each["covers"]) for each in world.messages(world.topics.recommendations))
