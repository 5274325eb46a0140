"""How much of what is wanted each source of candidates finds, over a trial's cases: what is not found cannot be ranked.

Knows neither how sources search (`ranking/sources.py`) nor lists. Asked while a trial is answered, for a part of its cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ranking import evaluate
from ranking.index import NOWHERE, ItemIndex
from ranking.lists import CHUNK
from ranking.sources import FIRST, MERGED, Found, sources
from streams.personalizer import Personalizer
from streams.trial import Case, Trial

CASES = 2_000  # at most: a share of them is right to .02, at some 4 ms each with 10,000 items
ALL = f"{MERGED}, all"


@dataclass(frozen=True)
class Reach:
    """recall: by source, the mean over cases of hits among its first FIRST / min(FIRST, wanted), in [0, 1]; of ALL among all.

    candidates: how many the model is given, on average. cases: that were asked.
    """

    recall: Mapping[str, float] = field(default_factory=dict)
    candidates: float = 0.0
    cases: int = 0


class Reached:
    """The cases that are asked, and what was found for them so far."""

    def __init__(self, trial: Trial) -> None:
        main = np.flatnonzero(trial.main)
        places = np.linspace(0, len(main) - 1, min(len(main), CASES)).astype(np.int64)
        self._asked = set(main[places].tolist())
        self._recall: dict[str, list[float]] = {}
        self._candidates: list[int] = []

    def ask(
        self, personalizer: Personalizer, first: int, block: Sequence[Case], records: Mapping[str, bytes], at: float
    ) -> None:
        """Ask the sources for those of a block's cases that are to be asked. first: the first one's place in the trial."""
        own = [n for n in range(len(block)) if first + n in self._asked]
        of_block = list(records.items())
        profiles = personalizer.profiles(dict(of_block[n] for n in own))
        for start in range(0, len(own), CHUNK):
            part = slice(start, start + CHUNK)
            found = sources(personalizer.maker, profiles[part], at)
            self._note(found, [block[n].wanted for n in own[part]], personalizer.maker.index)

    def reach(self) -> Reach:
        """Return the means."""
        means = {name: float(np.mean(values)) for name, values in self._recall.items()}
        return Reach(means, float(np.mean(self._candidates)), len(self._candidates)) if self._candidates else Reach()

    def _note(self, found: Found, wanted: Sequence[Sequence[str]], index: ItemIndex) -> None:
        slots = [[index.slot(item_id) for item_id in own] for own in wanted]
        for name, lists in {**found.firsts, ALL: found.merged}.items():
            self._recall.setdefault(name, []).extend(evaluate.reached(lists, slots, FIRST).tolist())
        self._candidates += (found.merged != NOWHERE).sum(axis=1).tolist()
