"""The benchmark of languages asks what it says, and the language of lists can be a rule."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from planted import NOW, event, sourced

import examples
from encoders.hashing import HashingEncoder
from streams.building import build
from streams.catalogue import Catalogue, apply
from streams.makers import new_index
from streams.settings import load

sys.path.insert(0, str(Path(__file__).parent.parent))  # the benchmarks are no part of the installed package

from benchmarks import languages


class Planted:
    """An encoder that knows a task's answers: each query's vector is that of the text it means, or of the one behind it."""

    def __init__(self, task: languages.Task, off: int) -> None:
        self.id, self.dim, self.reason = "planted", len(task.pool), "planted"
        known = {text: place for place, text in enumerate(task.pool)}
        asked = zip(task.queries, task.wanted, strict=True)
        self._places = known | {query: (place + off) % self.dim for query, place in asked}

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.eye(self.dim, dtype=np.float32)[[self._places[text] for text in texts]]


@pytest.mark.parametrize("name", list(languages.tasks()))
def test_each_task_is_answered_by_what_is_meant(name: str) -> None:
    """Who knows the answers finds all, who is always one off none; queries and texts are all different."""
    task = languages.tasks()[name]
    assert len(set(task.queries)) == len(task.wanted) == len(task.queries) >= 20
    assert len(set(task.pool)) == len(task.pool)
    assert languages.top_1(Planted(task, 0), task).mean == 1.0
    assert languages.top_1(Planted(task, 1), task).mean == 0.0


def test_language_of_lists_is_a_rule(tmp_path: Path) -> None:
    """A rule on the attribute `language` keeps a list English, or puts a language first or last."""
    rule = '[[rule]]\nname = "English"\ndo = "{}"\n{}attributes = {{ language = ["zh", "zh-en"] }}\n'
    items = {item.item_id: item for item in examples.load_catalogue()}

    def listed(do: str, by: str = "") -> list[str]:
        path = tmp_path / "rules.toml"
        path.write_text(rule.format(do, by))
        settings = load(encoder="hashing", rules=path, list_size=10, diversity=0.0)
        encoder = HashingEncoder()
        index = new_index(encoder, settings)
        apply(Catalogue(encoder).vectors([(item, NOW) for item in items.values()], index), index)
        asked = sourced([event("search", text="咖啡豆 coffee beans")])
        found = build(encoder, settings, index).step({}, asked, NOW)[1]["u"]
        return [str(items[each.item_id].attributes["language"]) for each in found]

    assert set(listed("exclude")) == {"en"}
    assert len(listed("exclude")) == 10
    assert "en" not in listed("boost", "by = 1000\n")
    assert listed("bury", "by = 1000\n")[0] == "en"
