"""Which variant of an experiment a user gets: a function of names and shares alone, with no state and no randomness.

Knows neither what a variant changes nor users beyond their ids. Weighted rendezvous hashing (Thaler and Ravishankar, 1998, with
weights as in Schindelhauer and Schomaker, 2005): each variant draws a waiting time for the user from a hash of experiment,
variant and user, exponential with its share as the rate, and the shortest wins. A variant wins with a probability of its share,
and what others' shares or names are does not change its own draw. So

- the order of the variants does not matter, and other names of experiments split independently;
- where shares change, a user moves from one variant to another only if that one's share grew relative to the first one's:
  who grows alone, the others keeping their proportions, only gains users, and who is taken out or added moves no others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from hashlib import blake2b


def choose(experiment: str, user_id: str, shares: Iterable[tuple[str, float]]) -> str:
    """Return the name of the user's variant. shares: (name, share) with shares above 0, of any sum."""
    return min(shares, key=lambda each: -math.log(_uniform(experiment, each[0], user_id)) / each[1])[0]


def _uniform(experiment: str, variant: str, user_id: str) -> float:
    """Return a number in (0, 1), drawn evenly by the names. The lengths keep "a", "bc" apart from "ab", "c"."""
    names = f"{len(experiment)} {len(variant)} {experiment}{variant}{user_id}".encode()
    return (int.from_bytes(blake2b(names, digest_size=8).digest(), "little") + 0.5) * 2.0**-64
