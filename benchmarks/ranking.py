"""What ranking with a learned model costs: microseconds a user, in batches of 32, on one thread.

`python -m benchmarks.ranking` trains a small model on walks of made-up users over `--items` items, then times, for batches of
other users, (a) M alone: the named features and the softmax over 200 candidates of each, and (b) the whole list: queries, U',
search, links, candidates, ranking, rules. Per user = a batch's time over 32. Knows no broker.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # before NumPy and torch: a busy machine times threads, not work
    os.environ[name] = "1"

import numpy as np  # noqa: E402  after the line above
from numpy.typing import NDArray  # noqa: E402

from benchmarks.figures import percentile  # noqa: E402
from encoders.hashing import HashingEncoder  # noqa: E402
from ranking.index import IndexedItem, ItemIndex  # noqa: E402
from ranking.learned import Learned  # noqa: E402
from ranking.lists import CHUNK  # noqa: E402
from ranking.ranker import ZeroShot, is_allowed, score  # noqa: E402
from ranking.retrieve import Candidates  # noqa: E402
from ranking.train import Plan  # noqa: E402
from streams.building import build  # noqa: E402
from streams.messages import Event  # noqa: E402
from streams.personalizer import Personalizer  # noqa: E402
from streams.settings import Settings  # noqa: E402
from streams.training import Replay, Sizes, train, turns  # noqa: E402

DIM = 384
DAY_S = 86_400.0
NOW = 1_780_000_000.0
STEPS = 20
RANKED = 200


def world(items: int) -> Personalizer:
    """Return a step over items with random unit vectors."""
    encoder = HashingEncoder(DIM)
    index = ItemIndex(encoder.dim, encoder.id)
    vectors = np.random.default_rng(1).normal(size=(items, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    made = [
        IndexedItem(f"i{n}", f"item {n} of {n % 97}", "", NOW - 90 * DAY_S, category=f"c{n % 40}", brand=f"b{n % 300}")
        for n in range(items)
    ]
    index.upsert(made, vectors)
    index.settle()
    return build(encoder, Settings(encoder="hashing"), index)


def walks(users: int, items: int, seed: int) -> list[Event]:
    """Return events in time order: each user walks on by small steps from a place of its own."""
    rng = np.random.default_rng(seed)
    made = []
    for user in range(users):
        place = int(rng.integers(items))
        for step in range(STEPS):
            place = (place + int(rng.integers(1, 4))) % items
            at = NOW - 30 * DAY_S + step * DAY_S + user
            made.append(Event(event_id=f"{user}-{step}", user_id=f"u{user}", type="click", at=at, item_id=f"i{place}"))
    return sorted(made, key=lambda event: float(event.at))


def timed(job: Callable[[int], Any], batches: int) -> list[float]:
    """Return microseconds a user of each batch."""
    taken = []
    for number in range(batches):
        began = time.perf_counter()
        job(number)
        taken.append((time.perf_counter() - began) / CHUNK * 1e6)
    return taken


def measure(items: int, batches: int) -> dict[str, float]:
    """Train, then time."""
    personalizer = world(items)
    quick = Sizes(examples=5_000, lists=1_000)
    model = train(personalizer, walks(2_000, items, 1), lambda event: True, sizes=quick, plan=Plan(epochs=2))
    personalizer = world(items)
    replay = Replay(personalizer)
    events = walks(batches * CHUNK, items, 2)
    for turn in turns(events, 0, len(events)):
        replay.fold(turn)
    learned = Learned(model, personalizer.maker.index)
    personalizer.use(learned)
    users = list(replay.records)
    parts = [{user: replay.records[user] for user in users[n * CHUNK : (n + 1) * CHUNK]} for n in range(batches)]
    rank = [_ranking(personalizer, learned, part) for part in parts]
    figures: dict[str, float] = {}
    for what, job in (
        ("ranking", lambda number: rank[number]()),
        ("list", lambda number: personalizer.recommend(parts[number], NOW)),
    ):
        timed(job, min(5, batches))
        taken = timed(job, batches)
        figures |= {f"{what}_p50_us": round(percentile(taken, 0.5), 1), f"{what}_p99_us": round(percentile(taken, 0.99), 1)}
    return figures | {"items": items, "candidates": RANKED, "batches": batches}


def _ranking(personalizer: Personalizer, learned: Learned, records: dict[str, bytes]) -> Callable[[], Any]:
    """Return what ranks RANKED candidates of each user: all features, the zero-shot ones too, M and the softmax."""
    maker = personalizer.maker
    profiles = personalizer.profiles(records)
    with maker.index.lock:
        read, found, among, _, _ = maker.scored(profiles, NOW)
    assert read is not None  # the model is a learned one
    few = _few(among)
    allowed = is_allowed(few.slots, maker.index)

    def rank() -> Any:
        with maker.index.lock:
            base = score(ZeroShot(), found, few, allowed, NOW, maker.index)
            return learned.score(read, found, few, base, allowed, NOW, maker.index, maker.signals)

    return rank


def _few(among: Candidates) -> Candidates:
    def cut(values: NDArray[Any]) -> NDArray[Any]:
        return values[:, :RANKED].copy()

    return Candidates(cut(among.slots), cut(among.covisit), cut(among.rising), cut(among.sated), among.covisited_with)


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranking", description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--json", action="store_true", help="print one line of JSON last")
    parsed = parser.parse_args(given)
    found = measure(parsed.items, parsed.batches)
    for name, value in found.items() if not parsed.json else ():
        print(f"{name:16} {value:10,.1f}")
    if parsed.json:
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
