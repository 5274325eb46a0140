"""What a training has finished, kept in a folder, so that one that was cut off does not do it again.

Does not know what is fitted. Files are named by a digest of all that the training starts from: another history, encoder or
plan finds nothing. The first process of a team looks and writes for all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from ranking.team import Team
from streams.training import Fitted

EPOCH = "epoch"


def digest_of(*parts: Any) -> str:
    """Return 16 hexadecimal digits of values that msgspec can encode."""
    digest = blake2b(digest_size=8)
    encoder = msgspec.msgpack.Encoder()
    for part in parts:
        for each in part if isinstance(part, Sequence) and not isinstance(part, str) else (part,):
            digest.update(encoder.encode(each))
    return digest.hexdigest()


class Checkpoint:
    """Fits by name, of one training. found: the names of those that need not be made again."""

    def __init__(self, folder: Path, digest: str, team: Team) -> None:
        if team.is_first:
            folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._digest, self._team = folder, digest, team
        self.found: list[str] = []

    def keep(self, name: str, make: Callable[[], Fitted]) -> Fitted:
        """Return a fit that is there, or make it and write it down."""
        path = self._folder / f"{self._digest}-{name.replace(' ', '-')}.safetensors"
        kept = self._team.from_first(lambda: _read(path) if path.is_file() else None)
        if kept is not None:
            self.found.append(name)
            return kept
        tensors, epoch = make()
        if not self._team.is_first:
            return tensors, epoch
        scratch = path.with_suffix(".new")
        save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, scratch, {EPOCH: str(epoch)})
        os.replace(scratch, path)
        return tensors, epoch


def _read(path: Path) -> Fitted:
    with safe_open(path, "numpy") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, int(file.metadata()[EPOCH])  # noqa: SIM118  no mapping
