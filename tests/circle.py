"""A fit of towers on a planted circle: who touched three items in a row wants the next one. As a process: one of a team.

    torchrun --nproc-per-node 2 tests/circle.py FOLDER

writes what each process came to as FOLDER/RANK.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from planted import clusters

from ranking.index import NOWHERE
from ranking.snapshots import Snapshots
from ranking.towers import Shape, Towers
from ranking.train import Examples, Plan, fit_towers, new_towers
from streams.together import together

ITEMS = 48
SHAPE = Shape(dim=16, width=16, layers=1, touches=4, kinds=2, rows=ITEMS)
PLAN = Plan(epochs=8, patience=8, batch=64, rate=1e-2)
EXACT = replace(PLAN, drop=0.0, without_residual=0.0)  # nothing is left to chance


class Fit(NamedTuple):
    """What came of a fit: towers, a digest of them, and what was lost at each epoch on examples of the fit and on others."""

    towers: Towers
    digest: str
    lost: Sequence[float]
    held_out: Sequence[float]


def examples(users: int, seed: int) -> Examples:
    """Return users at any place of the circle."""
    rng = np.random.default_rng(seed)
    places = rng.integers(ITEMS, size=(users, 1)) + np.arange(5)
    touches = np.where(np.arange(4) < 1, NOWHERE, places[:, :4] % ITEMS).astype(np.int32)
    kinds, ages = np.ones((users, 4), np.int8), np.full((users, 4), 60.0, np.float32)
    interests, strength = np.zeros((users, 4, SHAPE.dim), np.float16), np.zeros((users, 4), np.float32)
    return Examples(Snapshots(touches, kinds, ages, interests, strength), (places[:, 4:] % ITEMS).astype(np.int32))


def fit(plan: Plan) -> Fit:
    """Fit towers: a second."""
    vectors, lost = clusters(ITEMS, 1, SHAPE.dim), []

    def tell(what: str, epoch: int, figures: dict[str, float]) -> None:
        lost.append((figures["loss"], figures["held_out_loss"]))

    towers = new_towers(SHAPE, vectors, plan)
    towers, _ = fit_towers(towers, vectors, np.arange(1, ITEMS + 1), examples(400, 1), examples(100, 2), plan, tell)
    digest = blake2b(b"".join(value.tobytes() for value in towers.arrays().values()), digest_size=8).hexdigest()
    return Fit(towers, digest, *zip(*lost, strict=True))


def main(folder: Path) -> None:
    """Fit as one of a team."""
    with together("cpu") as (team, device):
        made = fit(replace(EXACT, team=team, device=device))
        told = {"digest": made.digest, "lost": made.lost, "held_out": made.held_out}
        (folder / f"{team.rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
