"""Rules as an operator writes them: what the docs show means what they say, and what cannot be used is told clearly."""

from __future__ import annotations

import math
import re
from datetime import datetime, timezone
from pathlib import Path

import pytest

from ranking.business import BusinessRule
from ranking.conditions import Attribute, Condition
from streams import rulebook
from streams.makers import kept_attributes
from streams.settings import SettingsError, load

DOCS = Path(__file__).parent.parent / "docs" / "rules.md"


def rules(tmp_path: Path, text: str, list_size: int = 20) -> tuple[BusinessRule, ...]:
    """Return the rules of a file with this text."""
    path = tmp_path / "rules.toml"
    path.write_text(text, encoding="utf-8")
    return rulebook.read(path, list_size)


def refused(tmp_path: Path, text: str) -> str:
    """Return what is said of one rule, called "r", with these lines."""
    with pytest.raises(rulebook.RulesError) as error:
        rules(tmp_path, f'[[rule]]\nname = "r"\n{text}')
    return str(error.value).removeprefix(f"{tmp_path / 'rules.toml'}: rule 1 (r): ")


def moment(text: str) -> float:
    """Return Unix seconds."""
    return datetime.fromisoformat(text).timestamp()


def test_the_file_in_the_docs(tmp_path: Path) -> None:
    """The examples of docs/rules.md are read as the docs say."""
    text, of_language = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    pin, boost, bury, exclude = rules(tmp_path, text)
    assert (pin.action, pin.place, pin.condition) == ("pin", 1, Condition(items=frozenset({"kettle-7"})))
    assert (pin.window.start, pin.window.until) == (moment("2026-03-01T00:00:00Z"), moment("2026-04-01T08:00:00Z"))
    assert (boost.factor, boost.condition.categories) == (3.0, {"tea", "herbal-tea"})
    assert [boost.window.is_open(moment(f"2026-06-01T{hour}+02:00")) for hour in ("17:59", "18:00", "23:29", "23:30")] == [
        False,
        True,
        True,
        False,
    ]
    assert bury.factor == 0.5
    assert [bury.condition.attributes[0].holds(price) for price in (200, 200.01, "201", "dear", None)] == [
        False,
        True,
        True,
        False,
        False,
    ]
    assert exclude.condition.brands == {"Acme"}
    assert rulebook.attributes_of((pin, boost, bury, exclude)) == ("channel", "price")
    (english,) = rules(tmp_path, of_language)
    assert (english.action, english.condition.attributes) == (
        "exclude",
        (Attribute("language", values=frozenset({"zh", "ja"})),),
    )


def test_every_part_is_in_the_docs() -> None:
    """The docs' table names all that a rule can have."""
    page = DOCS.read_text(encoding="utf-8")
    assert all(
        f"`{field.encode_name}`" in page for field in rulebook.msgspec.structs.fields(rulebook._Written) if field.name != "by"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('do = "boots"\nitem = "a"', "`do` is none of boost, bury, pin or exclude"),
        ('item = "a"', "it has no `do`: give it one, boost, bury, pin or exclude"),
        ('do = "exclude"', "it is about no items: give item, category, brand, tag"),
        ('do = "exclude"\ncategroy = "tea"', "'categroy' is nothing that a rule has: did you mean 'category'?"),
        ('do = "boost"\nitem = "a"', "boost needs `by`: by = 2 doubles the odds"),
        ('do = "boost"\nitem = "a"\nby = 1', "`by`: expected `float` > 1.0"),
        ('do = "bury"\nitem = "a"\nby = 5000', "`by`: expected `float` <= 1000.0"),
        ('do = "pin"\nitem = "a"\nby = 2\nplace = 1', "pin has no `by`"),
        ('do = "pin"\nitem = "a"', "pin needs `place`: place = 1 is the first"),
        ('do = "pin"\nitem = "a"\nplace = 0', "`place`: expected `int` >= 1"),
        ('do = "pin"\nitem = "a"\nplace = 21', "`place` is 21, lists have 20: lower it, or raise HEADRACE_LIST_SIZE"),
        ('do = "pin"\nitem = 7\nplace = 1', "`item`: expected `str | array`, got `int`"),
        ('do = "exclude"\nattributes = { price = "< 5o" }', '`attributes.price` is "< 5o": give bounds as "< 50"'),
        ('do = "exclude"\nattributes = { price = [] }', "`attributes.price` is an empty list"),
        ('do = "exclude"\nitem = "a"\nfrom = "soon"', "`from` is 'soon': give a date as 2026-03-01"),
        ('do = "exclude"\nitem = "a"\nuntil = 08:00:00', "`until` is datetime.time(8, 0): give a date"),
        ('do = "exclude"\nitem = "a"\nfrom = 2026-03-02\nuntil = 2026-03-02', "`from` 2026-03-02 does not lie before `until`"),
        ('do = "exclude"\nitem = "a"\nhours = "8-25"', '`hours` is "8-25": give them as "18:00-23:30"'),
        ('do = "exclude"\nitem = "a"\nhours = "08:00-24:30"', "`hours` is"),
        ('do = "exclude"\nitem = "a"\nzone = "Europe/Berlon"', "`zone` 'Europe/Berlon' is unknown here"),
        ('do = "exclude"\nitem = "a"\nzone = "../etc"', "`zone` '../etc' is unknown here"),
        ('do = "exclude"\nnewer_than_days = 2\nolder_than_days = 3', "no item is newer than 2 days and older than 3"),
        ('do = "exclude"\nitem = "a"\n[[rule]]\nname = "r"\ndo = "exclude"\nitem = "b"', "another rule has this name"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, text: str, said: str) -> None:
    """A rule that cannot be used is named, with what is wrong in it and what is expected."""
    assert said in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[rule]", "is no TOML"),
        ("[rules]\n", "has rules: each rule begins with a line [[rule]]"),
        ('rule = ["pin"]', "has a rule that is no table"),
        ('[[rule]]\nname = "a\\tb"\ndo = "exclude"\nitem = "x"', "`name` has control characters"),
        ('[[rule]]\ndo = "exclude"', "rule 1 (without a name): it has no `name`"),
    ],
)
def test_no_file_of_rules(tmp_path: Path, text: str, said: str) -> None:
    """A file that holds something else is refused."""
    with pytest.raises(rulebook.RulesError, match=re.escape(said)):
        rules(tmp_path, text)


def test_all_that_is_wrong_at_once(tmp_path: Path) -> None:
    """Settings that name a file with two bad rules say both, with the command's other complaints; a good file is taken."""
    path = tmp_path / "rules.toml"
    path.write_text('[[rule]]\nname = "one"\ndo = "x"\n[[rule]]\nname = "two"\ndo = "pin"\nitem = "a"', encoding="utf-8")
    with pytest.raises(SettingsError) as error:
        load(rules=path)
    assert [line.split(": ")[1] for line in str(error.value).splitlines()] == ["rule 1 (one)", "rule 2 (two)"]
    with pytest.raises(SettingsError, match="cannot be read"):
        load(rules=tmp_path / "none.toml")
    path.write_text('[[rule]]\nname = "one"\ndo = "exclude"\nattributes = { stock = "> 5" }', encoding="utf-8")
    assert kept_attributes(load(rules=path)) == ("currency", "price", "stock")
    assert kept_attributes(load(price_attribute="cost")) == ("cost", "currency")


def test_values() -> None:
    """Values are compared as they are meant, whether a file of items had types or only text."""
    held = [
        Attribute("a", frozenset({rulebook.spelt(asked)})).holds(value)
        for asked, value in [
            (2024, "2024"),
            ("2024", 2024.0),
            (True, "True"),
            (True, 1.0),
            ("red", "red"),
            ("red", "Red"),
            (1, None),
        ]
    ]
    assert held == [True, True, True, False, True, False, False]
    bounds = Attribute("a", bounds=((">=", 10.0), ("<", 50.0)))
    assert [bounds.holds(value) for value in (9.99, 10, "49.9", 50, True, math.nan)] == [False, True, True, False, False, False]


def test_windows(tmp_path: Path) -> None:
    """A rule counts from its first second to the last before its end, in hours that may pass midnight, in its zone."""
    (rule,) = rules(
        tmp_path,
        '[[rule]]\nname = "r"\ndo = "exclude"\nitem = "a"\nfrom = 2026-03-29\nuntil = 2026-03-31\n'
        'hours = "22:00-06:00"\nzone = "Europe/Berlin"',
    )
    open_at = {
        "2026-03-28T22:30:00Z": False,  # the day before, in Berlin
        "2026-03-28T23:00:00Z": True,  # midnight of the 29th
        "2026-03-29T03:59:00Z": True,  # summer time began at one
        "2026-03-29T04:00:00Z": False,
        "2026-03-29T20:00:00Z": True,
        "2026-03-30T21:59:59Z": True,
        "2026-03-30T22:00:00Z": False,
    }
    assert {text: rule.window.is_open(moment(text)) for text in open_at} == open_at
    assert rule.window.is_open(datetime(2026, 3, 29, 21, tzinfo=timezone.utc).timestamp())
