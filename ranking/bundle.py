"""A model bundle: the learned towers and ranker with what they were made for, in one folder of safetensors and JSON.

Does not know what the tensors mean. The version is a digest of all that is in it, so that a bundle that was cut short or mixed
from two is refused, and two workers with one version rank alike.

    BundleError(ValueError)   a bundle that is damaged, of a newer format or for another encoder: says the next step
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

FORMAT = 1
HEAD, ITEMS, TENSORS = "bundle.json", "items.json", "model.safetensors"

Tensors = Mapping[str, NDArray[Any]]


class BundleError(ValueError):
    """A bundle that cannot be used."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle is for and from. kinds: event types in the order of their numbers; features: names of M's inputs.

    shape: sizes of the towers. settings: those of the profile that the model was trained with. report: figures of the training.
    """

    format: int = FORMAT
    version: str = ""
    encoder: str
    dim: int
    kinds: tuple[str, ...]
    features: tuple[str, ...]
    shape: dict[str, int]
    settings: dict[str, Any] = {}
    report: dict[str, Any] = {}


@dataclass(frozen=True)
class Bundle:
    """A model in values. items: ids of the rows of the residual table, oldest first."""

    head: Head
    items: tuple[str, ...]
    tensors: Tensors

    def check(self, encoder_id: str, dim: int) -> None:
        """Raise BundleError when it was trained on another encoder's vectors."""
        if (self.head.encoder, self.head.dim) != (encoder_id, dim):
            raise BundleError(
                f"model {self.head.version} was trained on vectors of {self.head.encoder} ({self.head.dim} dims), not of "
                f"{encoder_id} ({dim} dims): train one with `headrace train`, or set HEADRACE_ENCODER back"
            )


def sealed(head: Head, items: tuple[str, ...], tensors: Tensors) -> Bundle:
    """Return the bundle with its version: 12 hexadecimal digits of what is in it."""
    return Bundle(msgspec.structs.replace(head, version=_digest(head, items, tensors)), items, tensors)


def save(bundle: Bundle, folder: Path) -> None:
    """Write a bundle into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files(bundle).items():
        (folder / name).write_bytes(content)


def load(folder: Path) -> Bundle:
    """Read a bundle. Raises BundleError."""
    try:
        return read({name: (folder / name).read_bytes() for name in (HEAD, ITEMS, TENSORS)})
    except OSError as error:
        raise BundleError(
            f"{folder} is no model bundle ({error.strerror}: {error.filename}): give `headrace train`'s --out"
        ) from None


def files(bundle: Bundle) -> dict[str, bytes]:
    """Return the files of a bundle by name."""
    from safetensors.numpy import save as pack

    return {
        HEAD: json.dumps(msgspec.to_builtins(bundle.head), indent=1, sort_keys=True).encode(),
        ITEMS: json.dumps(bundle.items, ensure_ascii=False).encode(),
        TENSORS: pack({name: np.asarray(value, order="C") for name, value in bundle.tensors.items()}),
    }


def read(contents: Mapping[str, bytes]) -> Bundle:
    """Return the bundle of files by name. Raises BundleError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as unpack

    try:
        stamp = json.loads(contents[HEAD])
        if stamp.get("format", 0) > FORMAT:
            raise BundleError(f"the bundle has format {stamp['format']}, this version reads up to {FORMAT}: upgrade headrace")
        head = msgspec.convert(stamp, Head)
        bundle = Bundle(head, tuple(json.loads(contents[ITEMS])), unpack(contents[TENSORS]))
    except (KeyError, ValueError, AttributeError, SafetensorError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"the bundle cannot be read ({type(error).__name__}: {error}): train or publish it again") from None
    if _digest(head, bundle.items, bundle.tensors) != head.version:
        raise BundleError(f"the bundle is not what its version {head.version} says, a part is damaged: publish it again")
    return bundle


def _digest(head: Head, items: tuple[str, ...], tensors: Tensors) -> str:
    digest = blake2b(digest_size=6)
    own = msgspec.structs.replace(head, version="")
    digest.update(json.dumps([msgspec.to_builtins(own), items], sort_keys=True).encode())
    for name in sorted(tensors):
        value = np.asarray(tensors[name], order="C")
        digest.update(f"{name} {value.dtype.str} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
