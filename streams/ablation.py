"""What each part of a learned model is worth: the groups of M's inputs by what they mean, and the models without one of them.

Measures nothing (evaluation.py). Every input is in one group: an input that is new has to be put into one.
"""

from __future__ import annotations

from collections.abc import Mapping

from ranking.bundle import Bundle
from ranking.features import NAMES
from ranking.leads import HOWS
from ranking.signals import HEATS
from streams.training import CROSSED, Training

Parts = Mapping[str, Bundle | None]  # by what is left out; None: the zero-shot model

ZERO_SHOT, LINEAR = "zero-shot", "M: linear only"


def _links(*sources: str) -> tuple[str, ...]:
    return tuple(f"{source}_links_{how}" for source in sources for how in HOWS)


GROUPS: Mapping[str, tuple[str, ...]] = {
    "text": (
        *("long", "short", "avoid", "asked", "recent"),
        *(name for name in NAMES if name.startswith("near_")),
        *_links("words", "meaning"),
    ),
    "co-visits": ("covisit", *_links("live")),
    "tables": _links("taste", "habit", "follow", "together"),
    "popularity": (
        *("rising", "fresh", "item_age", "is_untouched"),
        *(f"touches_{heat}" for heat in HEATS),
        *(f"surge_{heat}" for heat in HEATS[:-1]),
    ),
    "category and brand": (
        *("category", "sated", "category_share", "brand_share", "category_last", "brand_last"),
        *_links("category", "brand"),
    ),
    "towers": ("tower", CROSSED),
    "repeats": ("again", "again_times", "again_place"),
    "users": ("touches", "silence"),
}


def parts(training: Training) -> Parts:
    """Return the zero-shot model and, of a training that ran, the models without each group, and with a linear M."""
    without = {f"without {name}": training.without(inputs) for name, inputs in GROUPS.items()}
    return {ZERO_SHOT: None, **without, LINEAR: training.without((), deep=False)}
