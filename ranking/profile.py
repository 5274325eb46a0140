"""A user's profile: what the events add up to, and the pure fold that adds one more batch of them.

Knows no messages, texts, clock or store. The fold of a sequence of events is the same to the last bit however the
sequence is cut into batches: all is elementwise and done event by event; only different users share one NumPy call.

The interests are decayed sums, S(t) = sum_i w_i * 2 ** (-(t - t_i) / half_life) * v_i, kept at the time `at` of the
newest event. An event older than `at` adds with its own decay, so late events land where they belong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import msgspec
import numpy as np
from numpy.typing import NDArray

FORMAT = 2  # of records that are written; format 1, which did not tell its encoder, is read as well
LONG, SHORT, AVOID, ASKED = range(4)  # rows of the interests
INTERESTS = 4
MAX_TOUCHES = 50
MAX_SEEN = 1_000  # 8 kB a user at most; older ones may be recommended again
MAX_EVENT_KEYS = 32  # a producer's own retries come within a few events
REBUILD = "rebuild the profiles with `headrace import --rebuild`"


class RecordError(ValueError):
    """A packed profile is of a newer format, or of another encoder: start the matching version or encoder, or rebuild."""


class NewerRecord(RecordError):  # noqa: N818  reads as what is there
    """A packed profile is of a newer format: start the matching version."""


class Touch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One event as the profile remembers it; item_id "" for what was asked in words. weight < 0: the user turned it down."""

    item_id: str
    kind: str
    weight: float
    at: float


class Profile(msgspec.Struct, frozen=True, array_like=True):
    """What the record of one user holds; packed with msgpack, about 5 kB at 384 dims.

    interests: (4, dim) little-endian float32, rows LONG (all that speaks for something), SHORT (touches and statements of
    late), AVOID (what was turned down), ASKED (what was asked for in words), decayed to `at` (Unix seconds), not normalised.
    touches: oldest first by their time, at most 50. seen, event_keys: little-endian uint64 of `key_of`, oldest first.
    watermarks: partition of the events topic -> offset of the last event folded. encoder: `key_of` its id.
    """

    format: int
    at: float
    interests: bytes
    touches: list[Touch]
    seen: bytes
    event_keys: bytes
    watermarks: dict[int, int]
    events: int
    encoder: int = 0  # of format 1 alone


@dataclass(frozen=True, slots=True)
class HalfLives:
    """Seconds after which an event counts half, in each interest."""

    long_s: float = 30 * 86_400.0
    short_s: float = 3 * 3_600.0
    avoid_s: float = 7 * 86_400.0
    asked_s: float = 3_600.0

    def per_row(self) -> NDArray[np.float64]:
        """Return the half-lives in the order of the interests' rows, (4,) seconds."""
        return np.array([self.long_s, self.short_s, self.avoid_s, self.asked_s])


@dataclass(frozen=True, slots=True)
class Update:
    """One event as a profile sees it. Each of the vectors is (dim,) float32, already weighted, or None.

    pull goes to LONG and SHORT, ask to LONG and ASKED, push to AVOID. seen: whether the touched item leaves the lists.
    """

    partition: int
    offset: int
    event_key: int
    at: float
    pull: NDArray[np.float32] | None
    ask: NDArray[np.float32] | None
    push: NDArray[np.float32] | None
    touches: tuple[Touch, ...]
    seen: bool

    def rows(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the interests' rows that the event adds to, and what it adds."""
        for vector, rows in ((self.pull, (LONG, SHORT)), (self.ask, (LONG, ASKED)), (self.push, (AVOID,))):
            if vector is not None:
                for row in rows:
                    yield row, vector


class _Stamp(msgspec.Struct, array_like=True):
    """The beginning of a record: the same in every format."""

    format: int


_decoder = msgspec.msgpack.Decoder(Profile)
_stamps = msgspec.msgpack.Decoder(_Stamp)
_encoder = msgspec.msgpack.Encoder()


def key_of(identifier: str) -> int:
    """Return the 64-bit key of an item id or event id: blake2b, the same on every machine."""
    return int.from_bytes(blake2b(identifier.encode(), digest_size=8).digest(), "little")


def new_profile(dim: int, encoder: int) -> Profile:
    """Return the profile of a user of whom nothing is known. encoder: `key_of` the encoder's id."""
    return Profile(FORMAT, 0.0, bytes(INTERESTS * dim * 4), [], b"", b"", {}, 0, encoder)


def pack(profile: Profile) -> bytes:
    """Return the record of a profile."""
    return _encoder.encode(profile)


def unpack(record: bytes | None, dim: int, encoder: int) -> Profile:
    """Return the profile of a record, in today's format; None is a new user. Raises RecordError.

    encoder: `key_of` the encoder's id. A record of format 1 is taken for this encoder's when the dims agree.
    """
    if record is None:
        return new_profile(dim, encoder)
    profile = unpack_any(record)
    if len(profile.interests) != INTERESTS * dim * 4 or (profile.encoder != encoder and profile.format > 1):
        raise RecordError(
            f"a profile record is of another encoder ({len(profile.interests) // (4 * INTERESTS)} dims, key "
            f"{profile.encoder:016x}; this one has {dim}, {encoder:016x}): use that encoder again, or {REBUILD}"
        )
    if profile.format == FORMAT:
        return profile
    return msgspec.structs.replace(profile, format=FORMAT, encoder=encoder)


def unpack_any(record: bytes) -> Profile:
    """Return the profile of a record as it was written, whichever encoder's. Raises RecordError."""
    try:
        profile = _decoder.decode(record)
    except msgspec.DecodeError as error:
        _refuse_newer(_format_of(record))
        raise RecordError(f"a profile record cannot be read ({error}): {REBUILD}") from None
    _refuse_newer(profile.format)
    return profile


def without_watermarks(record: bytes) -> bytes:
    """Return a record for another log of events, none of which it has counted. Raises RecordError."""
    return pack(msgspec.structs.replace(unpack_any(record), watermarks={}))


def _format_of(record: bytes) -> int:
    """Return the format of a record that is not of ours, 0 where it has none."""
    try:
        return _stamps.decode(record).format
    except msgspec.DecodeError:
        return 0


def _refuse_newer(found: int) -> None:
    if found > FORMAT:
        raise NewerRecord(
            f"a profile record has format {found}, this version reads up to {FORMAT}: upgrade the worker"
        ) from None


def interests_of(profiles: Sequence[Profile], dim: int) -> NDArray[np.float32]:
    """Return a writable copy of the interests, (n, 4, dim) float32, each decayed to its own profile's `at`."""
    return np.frombuffer(bytearray(b"".join(p.interests for p in profiles)), "<f4").reshape(len(profiles), INTERESTS, dim)


def seen_keys(profile: Profile) -> NDArray[np.uint64]:
    """Return the keys of the items to leave out of the user's lists, (n,) uint64."""
    return np.frombuffer(profile.seen, "<u8")


def is_counted(profile: Profile, partition: int, offset: int) -> bool:
    """Tell whether the event at this place is folded into the profile already."""
    return offset <= profile.watermarks.get(partition, -1)


def fold(
    profiles: Sequence[Profile], updates: Sequence[Sequence[Update]], half_lives: HalfLives, dim: int
) -> tuple[list[Profile], list[list[bool]]]:
    """Fold each user's updates, in order, into the user's profile; return the new profiles and which updates were folded.

    updates[i] belongs to profiles[i]. Events at or below the watermark change nothing; an event whose key is in the ring of
    recent keys (a producer's own retry) moves the watermark and nothing else. Inputs are left as they are.
    """
    interests = interests_of(profiles, dim)
    drafts = [_Draft(profile) for profile in profiles]
    folded = [[False] * len(own) for own in updates]
    for turn in range(max(map(len, updates), default=0)):
        rows = [i for i, own in enumerate(updates) if turn < len(own) and drafts[i].admits(own[turn])]
        if rows:
            _add(interests, drafts, rows, [updates[i][turn] for i in rows], half_lives)
            for i in rows:
                folded[i][turn] = True
    return [
        draft.finish(interests[i].tobytes()) if draft.changed else profile
        for i, (draft, profile) in enumerate(zip(drafts, profiles, strict=True))
    ], folded


def _add(
    interests: NDArray[np.float32],
    drafts: list[_Draft],
    rows: list[int],
    updates: list[Update],
    half_lives: HalfLives,
) -> None:
    before = np.array([drafts[i].at for i in rows])
    times = np.array([update.at for update in updates])
    after = np.maximum(before, times)
    per_s = half_lives.per_row()
    keep = np.exp2(-(after - before)[:, None] / per_s).astype(np.float32)  # (rows, 4)
    weigh = np.exp2(-(after - times)[:, None] / per_s).astype(np.float32)
    block = interests[rows] * keep[:, :, None]
    for j, update in enumerate(updates):
        for row, vector in update.rows():
            block[j, row] += weigh[j, row] * vector
    interests[rows] = block
    for i, at, update in zip(rows, after, updates, strict=True):
        drafts[i].take(update, float(at))


class _Draft:
    """A profile being folded: everything but the interests."""

    __slots__ = ("at", "changed", "encoder", "event_keys", "events", "seen", "touches", "watermarks")

    def __init__(self, profile: Profile) -> None:
        self.at = profile.at
        self.touches = profile.touches
        self.seen = profile.seen
        self.event_keys = profile.event_keys
        self.watermarks = profile.watermarks
        self.events = profile.events
        self.encoder = profile.encoder
        self.changed = False

    def admits(self, update: Update) -> bool:
        if update.offset <= self.watermarks.get(update.partition, -1):
            return False
        self.watermarks = {**self.watermarks, update.partition: update.offset}
        self.changed = True
        key = update.event_key.to_bytes(8, "little")
        if _position(self.event_keys, key) >= 0:
            return False
        self.event_keys = (self.event_keys + key)[-8 * MAX_EVENT_KEYS :]
        return True

    def take(self, update: Update, at: float) -> None:
        self.at = at
        self.events += 1
        for touch in update.touches:
            self._touch(touch, update.seen and bool(touch.item_id))

    def _touch(self, touch: Touch, seen: bool) -> None:
        place = len(self.touches)
        while place and self.touches[place - 1].at > touch.at:
            place -= 1
        self.touches = [*self.touches[:place], touch, *self.touches[place:]][-MAX_TOUCHES:]
        if seen:
            key = key_of(touch.item_id).to_bytes(8, "little")
            there = _position(self.seen, key)
            rest = self.seen if there < 0 else self.seen[:there] + self.seen[there + 8 :]
            self.seen = (rest + key)[-8 * MAX_SEEN :]

    def finish(self, interests: bytes) -> Profile:
        own = (self.at, interests, self.touches, self.seen, self.event_keys, self.watermarks, self.events, self.encoder)
        return Profile(FORMAT, *own)


def _position(keys: bytes, key: bytes) -> int:
    """Return where an 8-byte key stands among packed keys, or -1; a match across two keys does not count."""
    place = keys.find(key)
    while place >= 0 and place % 8:
        place = keys.find(key, place + 1)
    return place
