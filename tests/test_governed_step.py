"""Rules and exploration through the step itself: a file of rules and items' messages in, what lists publish out."""

from __future__ import annotations

import json
from pathlib import Path

from planted import DAY, NOW, Counting, event, sourced

from ranking.govern import EXPLORED
from streams import catalogue
from streams.building import build
from streams.makers import new_index
from streams.messages import Item, encode
from streams.personalizer import Personalizer
from streams.settings import load

ENCODER = Counting()
TITLES = {
    "bean": "Kenya coffee beans",
    "brew": "Coffee maker",
    "mug": "Coffee mug",
    "ball": "Football boots",
    "sax": "Jazz saxophone",
}
RULES = """
[[rule]]
name = "cheap coffee only"
do = "exclude"
category = "coffee"
attributes = { price = "> 50" }

[[rule]]
name = "match day"
do = "pin"
place = 2
brand = "Kick"
from = 2026-01-01
"""


def made(**given: object) -> Personalizer:
    """Return a personalizer over five items; the second coffee is dear, the ball of brand Kick, the last new."""
    settings = load(**{"encoder": "hashing", "list_size": 4, "diversity": 0.0, **given})
    index = new_index(ENCODER, settings)
    step = build(ENCODER, settings, index)
    items = [
        (
            Item(
                item_id=name,
                title=title,
                category="coffee" if "offee" in title else "other",
                brand="Kick" if name == "ball" else "",
                attributes={"price": "99.5" if name == "brew" else 5.0, "colour": "red"},
            ),
            NOW - DAY if name == "sax" else NOW - 90 * DAY,
        )
        for name, title in TITLES.items()
    ]
    catalogue.apply(catalogue.Catalogue(ENCODER).vectors(items, index), index)
    return step


def test_a_file_of_rules_moves_lists(tmp_path: Path) -> None:
    """A file's rules act on items as their messages describe them, and the published list says so."""
    path = tmp_path / "rules.toml"
    path.write_text(RULES, encoding="utf-8")
    click = sourced([event("click", item_id="bean"), event("like", item_id="bean")])
    plain = made().step({}, click, NOW)[1]["u"]
    assert "brew" in {each.item_id for each in plain}
    step = made(rules=path)
    assert step.maker.index.attributes == ("currency", "price")
    own = step.step({}, click, NOW)[1]["u"]
    assert [each.item_id for each in own] == ["mug", "ball", "sax"]
    assert (own[1].item_id, own[1].reason) == ("ball", "pinned: match day")
    assert json.loads(encode(own[1])).keys() == {"item_id", "score", "reason"}


def test_explored_lists_tell_propensities() -> None:
    """Places are drawn by user and event: another event draws anew, a replay the same; propensities are published."""
    step = made(explore=0.5, list_size=2)
    events = sourced([event("click", user, NOW - 60 + n, item_id="bean") for user in "uvwxyz" for n in range(8)])
    seen: set[str] = set()
    for end in range(6, len(events), 6):
        folded, lists = step.step({}, events[:end], NOW)
        assert step.step(folded.records, events[:end], NOW)[1] == lists  # the replay
        seen |= {each.reason for own in lists.values() for each in own}
        for own in lists.values():
            assert own[0].propensity is None
            assert json.loads(encode(own[1]))["propensity"] == own[1].propensity == 0.5
    assert EXPLORED in seen
    assert len(seen) > 1
