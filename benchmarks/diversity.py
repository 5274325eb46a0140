"""What diversity costs: recall and the likeness within lists, by method and strength, on amazon-scientific's folder.

    python -m benchmarks.diversity FOLDER [--users 3000]

Histories without their last item (the validation targets; the test targets are not read), history masked, all items in the
index, co-visits of the same histories, zero-shot scores. All methods pick 20 from the same scores. Likeness: mean cosine of
the pairs of a list's first 10. `category` is the product's discount; `mmr` is maximal marginal relevance with the logit as
relevance (Carbonell and Goldstein 1998); `dpp` the greedy determinant (Chen, Zhang and Zhou 2018).
"""

from __future__ import annotations

import argparse
import lzma
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ranking import rules
from ranking.diversity import TAKEN, mmr
from ranking.rules import Rules
from streams import catalogue
from streams.building import build, load_encoder
from streams.messages import Event, Item
from streams.personalizer import Personalizer, Sourced
from streams.settings import load
from streams.signals import SignalCounter

AT = 1_780_000_000.0
DAY_S = 86_400.0
BATCH = 32
LEAST = 1e-6  # of a determinant: an item that adds nothing new is not infinitely bad
SIZE = 20
STRENGTHS = {
    "category": (0.0, 0.2, 0.4, 0.7, 1.0, 2.0, 4.0),
    "mmr": (0.02, 0.05, 0.1, 0.2, 0.4, 0.8),
    "dpp": (0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
}


def items(folder: Path) -> list[Item]:
    """Return the items; a text is `title. categories. brand. `."""
    numbers = dict(line.split("\t") for line in (folder / "Scientific.item2index").read_text().splitlines())
    made = []
    with lzma.open(folder / "Scientific.text.xz", "rt", encoding="utf-8") as lines:
        next(lines)
        for line in lines:
            asin, _, text = line.rstrip("\n").partition("\t")
            parts = [*text.split(". "), "", "", ""] if text.count(". ") < 3 else text.split(". ")
            title, category, brand = ". ".join(parts[:-3]), parts[-3], parts[-2]
            if asin in numbers:
                made.append(Item(item_id=numbers[asin], title=title[:900] or asin, category=category[:250], brand=brand[:250]))
    return made


def targets(folder: Path, most: int) -> dict[str, tuple[list[str], str]]:
    """Return user -> history and what came next, of users drawn by a fixed seed."""
    with lzma.open(folder / "Scientific.valid.inter.xz", "rt") as lines:
        rows = [line.rstrip("\n").split("\t") for line in lines][1:]
    drawn = np.random.default_rng(1).permutation(len(rows))[:most]
    return {rows[i][0]: (rows[i][1].split(), rows[i][2]) for i in drawn.tolist()}


def histories(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield all users' histories, without the targets."""
    with lzma.open(folder / "Scientific.valid.inter.xz", "rt") as lines:
        next(lines)
        for line in lines:
            user, history, _ = line.rstrip("\n").split("\t")
            yield user, history.split()


def folded(step: Personalizer, folder: Path) -> dict[str, bytes]:
    """Return all users' records; co-visits are counted on the way."""
    counter = SignalCounter(step.maker.signals)
    records: dict[str, bytes] = {}
    offset = 0
    for user, history in histories(folder):
        batch = []
        for n, item in enumerate(history):
            at = AT - (len(history) - n) * DAY_S
            event = Event(event_id=f"{user}-{n}", user_id=user, type="purchase", at=at, item_id=item)
            batch.append(Sourced(event, 0, offset))
            offset += 1
        made = step.fold({user: None}, batch, step.encode([sourced.event for sourced in batch]))
        counter.count(made.interactions)
        records |= made.records
    return records


def chosen(
    method: str, strength: float, step: Personalizer, scored: tuple[NDArray[np.float32], NDArray[np.int64]]
) -> list[list[int]]:
    """Return each user's columns. scored: logits and slots, (m, c)."""
    logit, slots = scored
    index = step.maker.index
    warm = np.zeros(len(logit), np.bool_)
    if method == "category":
        given = Rules(SIZE, 0, strength)
        return rules.choose(logit, slots, index.category, index.brand, warm, given)
    order = np.argsort(-logit, axis=1, kind="stable")[:, : rules.POOL * SIZE]
    best = np.take_along_axis(logit, order, axis=1)
    vectors = index.vectors(np.take_along_axis(slots, order, axis=1))
    likeness = vectors @ vectors.transpose(0, 2, 1)
    picked = mmr(best, likeness, np.float32(strength), SIZE)[0] if method == "mmr" else dpp(best, likeness, strength, SIZE)
    columns: list[list[int]] = np.take_along_axis(order, picked, axis=1).tolist()
    return columns


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--users", type=int, default=3_000)
    given = parser.parse_args()
    settings = load(seen_types=("purchase",))
    step = build(load_encoder(settings), settings)
    maker, index = step.maker, step.maker.index
    all_items = items(given.folder)
    for start in range(0, len(all_items), 512):
        part = [(item, AT - 100 * DAY_S) for item in all_items[start : start + 512]]
        catalogue.apply(catalogue.Catalogue(step.encoder).vectors(part, index), index)
    records = folded(step, given.folder)
    wanted = targets(given.folder, given.users)
    figures: dict[tuple[str, float], list[tuple[float, ...]]] = {}
    users = list(wanted)
    for start in range(0, len(users), BATCH):
        part_users = users[start : start + BATCH]
        _, _, among, _, scores = maker.scored(step.profiles({user: records[user] for user in part_users}), AT)
        for method, strengths in STRENGTHS.items():
            for strength in strengths:
                columns = chosen(method, strength, step, (scores.logit, among.slots))
                for i, own in enumerate(columns):
                    slots = among.slots[i, own]
                    figures.setdefault((method, strength), []).append(figures_of(slots, wanted[part_users[i]][1], step))
    print(f"{len(users)} users, {len(index)} items\n")
    print("| method | strength | R@10 | R@20 | N@10 | likeness@10 | kinds@10 |\n|---|---|---|---|---|---|---|")
    for (method, strength), rows in figures.items():
        means = np.mean(rows, axis=0)
        print(f"| {method} | {strength:g} | " + " | ".join(f"{mean:.4f}" for mean in means[:4]) + f" | {means[4]:.2f} |")


def dpp(logit: NDArray[np.float32], likeness: NDArray[np.float32], strength: float, size: int) -> NDArray[np.int64]:
    """Return the columns of m lists, (m, size), in the order chosen: greedily the largest determinant.

    Each choice is the best of logit + strength * log d^2, d^2 what the item adds to the determinant of the likeness of those
    chosen (Chen, Zhang and Zhou 2018, algorithm 1).
    """
    rows = np.arange(len(logit))
    values = logit.copy()
    left = likeness.diagonal(axis1=1, axis2=2).copy()
    columns = np.empty((len(logit), min(size, logit.shape[1])), np.int64)
    basis = np.zeros((len(logit), columns.shape[1], logit.shape[1]), np.float32)
    for place in range(columns.shape[1]):
        gain = np.log(np.maximum(left, LEAST))
        columns[:, place] = best = (values + np.float32(strength) * gain).argmax(axis=1)
        values[rows, best] = TAKEN
        root = np.sqrt(np.maximum(left[rows, best], LEAST))[:, None]
        before = np.einsum("mp,mpc->mc", basis[rows, :place, best], basis[:, :place])
        basis[:, place] = (likeness[rows, best] - before) / root
        left -= basis[:, place] ** 2
    return columns


def figures_of(slots: NDArray[np.int64], target: str, step: Personalizer) -> tuple[float, ...]:
    """Return hit@10, hit@20, gain@10, likeness@10 and the number of categories in the first 10 of one list."""
    index = step.maker.index
    found = np.flatnonzero(slots == index.slot(target))
    rank = int(found[0]) if len(found) else SIZE
    vectors = index.vectors(slots[:10])
    likeness = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)].mean() if len(vectors) > 1 else 0.0
    kinds = len(set(index.category[slots[:10]].tolist()))
    return float(rank < 10), float(rank < 20), float(rank < 10) / np.log2(rank + 2), float(likeness), float(kinds)


if __name__ == "__main__":
    main()
