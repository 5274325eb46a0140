"""Models on their topic: a bundle cut into messages, and put together again from what the topic holds.

Does not know Kafka, nor how a model ranks. A version can be used once its own message is there, which comes after all its
parts; what workers rank with stands under one key, so that a swap is one message, and so is the way back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path

import msgspec

from ranking import bundle as bundles
from ranking.bundle import Bundle, BundleError
from ranking.ranker import ZeroShot
from streams.messages import (
    ModelInUse,
    ModelPart,
    ModelVersion,
    decode_in_use,
    decode_part,
    decode_version,
)

CURRENT = "current"  # a key that is no version: those are hexadecimal digits
ZERO_SHOT = ZeroShot().name
PART = 640_000  # bytes of a file in one message: 854 kB in base64, Kafka takes 1 MB
KEEP = 3  # newest versions that stay on the topic

Change = tuple[str, msgspec.Struct | None]  # key, message; None deletes


def messages_of(bundle: Bundle, at: float) -> Iterator[Change]:
    """Yield what is to be published of a bundle, parts first, the version last. at: Unix seconds now."""
    version = bundle.head.version
    digests: dict[str, tuple[str, ...]] = {}
    for name, content in bundles.files(bundle).items():
        parts = [content[start : start + PART] for start in range(0, len(content), PART)] or [b""]
        digests[name] = tuple(_digest(part) for part in parts)
        for number, part in enumerate(parts):
            yield f"{version}/{name}/{number}", ModelPart(content=part)
    yield version, ModelVersion(at=at, encoder=bundle.head.encoder, parts=digests, report=bundle.head.report)


def part_keys(version: str, message: ModelVersion) -> list[str]:
    """Return the keys of a version's parts."""
    return [f"{version}/{name}/{number}" for name, parts in message.parts.items() for number in range(len(parts))]


class Shelf:
    """What the topic of models holds. versions: oldest first; in_use: None until one is asked for.

    Parts are kept in a folder, which is made and is the shelf's own; without one they are not kept.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.versions: dict[str, ModelVersion] = {}
        self.in_use: ModelInUse | None = None
        self._folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for left in folder.glob("*.part"):  # the topic tells all of it again
                left.unlink()

    @property
    def current(self) -> str:
        """The version that is asked for."""
        return self.in_use.version if self.in_use is not None else ZERO_SHOT

    def take(self, key: str, value: bytes | None) -> None:
        """Take a record in; one without a value deletes. Raises DecodeError, ValueError, NewerMessage, OSError."""
        if key == CURRENT:
            self.in_use = decode_in_use(value) if value else None
        elif "/" in key:
            self._keep(key, decode_part(value).content if value else None)
        else:
            message = decode_version(value) if value else None
            self.versions.pop(key, None)  # one that is published again is the newest
            if message is not None:
                self.versions[key] = message

    def bundle(self, version: str) -> Bundle:
        """Return a model. Raises BundleError when it is not there, not whole, or unreadable."""
        message = self.versions.get(version)
        if message is None or self._folder is None:
            raise BundleError(f"model {version} is not on the topic: run `headrace model publish` with its folder")
        found = bundles.read({name: self._content(version, name, parts) for name, parts in message.parts.items()})
        if found.head.version != version:
            raise BundleError(f"what was published as model {version} is model {found.head.version}: publish it again")
        return found

    def superfluous(self, named: Collection[str] = ()) -> list[str]:
        """Return the versions that may go: all but the KEEP newest, the one in use, the one before it, and those named."""
        needed = {self.current, self.in_use.before if self.in_use is not None else ZERO_SHOT, *named}
        return [version for version in list(self.versions)[:-KEEP] if version not in needed]

    def _content(self, version: str, name: str, digests: tuple[str, ...]) -> bytes:
        parts = []
        for number, digest in enumerate(digests):
            path = self._path(f"{version}/{name}/{number}")
            part = path.read_bytes() if path.is_file() else b""
            if _digest(part) != digest:
                raise BundleError(f"part {number} of {name} of model {version} is damaged or missing: publish it again")
            parts.append(part)
        return b"".join(parts)

    def _keep(self, key: str, content: bytes | None) -> None:
        if self._folder is None:
            return
        if content is None:
            self._path(key).unlink(missing_ok=True)
        else:
            self._path(key).write_bytes(content)

    def _path(self, key: str) -> Path:
        # A digest, as a key that somebody else wrote must not name a file elsewhere.
        assert self._folder is not None
        return self._folder / f"{_digest(key.encode())}.part"


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()


def deletions(versions: Mapping[str, ModelVersion], gone: list[str]) -> Iterator[Change]:
    """Yield what deletes some versions, each before its parts."""
    for version in gone:
        yield version, None
        for key in part_keys(version, versions[version]):
            yield key, None
