"""Laws of the profile: how it is cut, ordered, aged, counted once, packed."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import replace
from itertools import pairwise
from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import DAY, DIM, KEY, NOW, nobody, profile_of, unit, update

from ranking import profile as module
from ranking.profile import (
    ASKED,
    AVOID,
    INTERESTS,
    LONG,
    MAX_EVENT_KEYS,
    MAX_SEEN,
    MAX_TOUCHES,
    SHORT,
    HalfLives,
    RecordError,
    Touch,
    Update,
    fold,
    interests_of,
    is_counted,
    key_of,
    pack,
    seen_keys,
    unpack,
    unpack_any,
)

HALF_LIVES = HalfLives(long_s=10 * DAY, short_s=DAY, avoid_s=3 * DAY, asked_s=DAY / 4)


@st.composite
def histories(draw: st.DrawFn, least: int = 1, most: int = 12) -> list[Update]:
    """Draw one user's updates at rising offsets of two partitions, in any order of time, with retries among them."""
    made: list[Update] = []
    for n in range(draw(st.integers(least, most))):
        at = NOW + draw(st.integers(-20, 20)) * DAY / 3
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        sides = [rng.normal(size=DIM).astype(np.float32) if draw(st.booleans()) else None for _ in range(3)]
        touch = Touch(f"i{draw(st.integers(0, 3))}", "click", draw(st.sampled_from([1.0, -1.0, 0.5])), at)
        kept = touch if draw(st.booleans()) else None
        made.append(
            update(
                n,
                at,
                pull=sides[0],
                ask=sides[1],
                push=sides[2],
                partition=draw(st.integers(0, 1)),
                event_id=draw(st.sampled_from([f"e{n}", "retried"])),
                touch=kept,
                seen=kept is not None and draw(st.booleans()),
            )
        )
    return made


@settings(max_examples=40)
@given(st.data())
def test_batches(data: st.DataObject) -> None:
    """The records are the same to the last bit however events are cut into batches and users are mixed in them."""
    events = {user: data.draw(histories(), label=user) for user in "abc"}
    alone = {}
    for user, own in events.items():
        record = None
        for each in own:
            (after,), _ = fold([unpack(record, DIM, KEY)], [[each]], HALF_LIVES, DIM)
            record = pack(after)
        alone[user] = record
    mixed: dict[str, bytes | None] = dict.fromkeys(events)
    while any(events.values()):
        users = data.draw(st.permutations([u for u in events if events[u]]))
        taken = {u: data.draw(st.integers(0, len(events[u]))) for u in users}
        taken[users[0]] = max(1, taken[users[0]])
        after, _ = fold([unpack(mixed[u], DIM, KEY) for u in users], [events[u][: taken[u]] for u in users], HALF_LIVES, DIM)
        mixed |= {user: pack(new) for user, new in zip(users, after, strict=True)}
        events |= {u: events[u][taken[u] :] for u in users}
    assert mixed == alone


@given(histories(least=2), st.randoms(use_true_random=False))
def test_any_order_of_time(events: list[Update], random: Random) -> None:
    """Events that come late land where they belong: any order gives the same interests and time."""
    events = [_own(each, n, n) for n, each in enumerate(events)]  # none is a retry of another
    order = list(range(len(events)))
    random.shuffle(order)
    shuffled = [_own(events[place], n, place) for n, place in enumerate(order)]
    one, other = (profile_of(*each, half_lives=HALF_LIVES) for each in (events, shuffled))
    assert one.at == other.at
    np.testing.assert_allclose(*(interests_of([p], DIM) for p in (one, other)), rtol=1e-4, atol=1e-5)
    assert sorted(seen_keys(one)) == sorted(seen_keys(other))


def _own(each: Update, offset: int, key: int) -> Update:
    return replace(each, partition=0, offset=offset, event_key=key)


@pytest.mark.parametrize(("row", "name"), [(LONG, "long_s"), (SHORT, "short_s"), (AVOID, "avoid_s"), (ASKED, "asked_s")])
def test_half_life(row: int, name: str) -> None:
    """After one half-life an event counts half, in each interest by its own."""
    now, later = ({"pull": vector, "ask": vector, "push": vector} for vector in (unit(1), unit(0, 1)))
    one = profile_of(update(0, NOW, **now), half_lives=HALF_LIVES)
    two, _ = fold([one], [[update(1, NOW + getattr(HALF_LIVES, name), **later)]], HALF_LIVES, DIM)
    both = 2.0 if row == LONG else 1.0  # what is asked for counts in LONG as well
    np.testing.assert_allclose(interests_of(two, DIM)[0, row, :2], [both / 2, both], rtol=1e-6)


def test_late_event_counts_less() -> None:
    """An event that comes a half-life late adds half, and the profile's time stands still."""
    two = profile_of(update(0, NOW, pull=unit(1)), update(1, NOW - DAY, pull=unit(0, 1)), half_lives=HALF_LIVES)
    assert two.at == NOW
    np.testing.assert_allclose(interests_of([two], DIM)[0, SHORT, :2], [1.0, 0.5], rtol=1e-6)


def test_rows() -> None:
    """What pulls goes to LONG and SHORT, what is asked for to LONG and ASKED, what pushes to AVOID."""
    one = profile_of(update(0, pull=unit(1), ask=unit(0, 1), push=unit(0, 0, 1)))
    by_row = {LONG: [1, 1, 0], SHORT: [1, 0, 0], AVOID: [0, 0, 1], ASKED: [0, 1, 0]}
    assert {row: interests_of([one], DIM)[0, row, :3].tolist() for row in range(INTERESTS)} == by_row


@given(histories(), st.data())
def test_replay(events: list[Update], data: st.DataObject) -> None:
    """Events at or below the watermark are not folded again: the very profile comes back."""
    before = profile_of(*events)
    again = data.draw(st.lists(st.sampled_from(events)))
    (after,), folded = fold([before], [again], HALF_LIVES, DIM)
    assert after is before
    assert folded == [[False] * len(again)]
    assert all(is_counted(before, each.partition, each.offset) for each in events)


@given(histories())
def test_inputs_stay(events: list[Update]) -> None:
    """The fold leaves the profile that it is given as it was."""
    before = profile_of(update(0, pull=unit(1), partition=7))
    record = pack(before)
    fold([before], [events], HALF_LIVES, DIM)
    assert pack(before) == record


def test_retry_counts_once() -> None:
    """A producer's own retry moves the watermark and nothing else."""
    once = update(3, pull=unit(1), event_id="same", touch=Touch("i", "click", 1.0, NOW), seen=True)
    retry = update(9, pull=unit(1), event_id="same", touch=Touch("i", "click", 1.0, NOW), seen=True)
    elsewhere = update(2, partition=1, event_id="same")
    one, two = profile_of(once), profile_of(once, retry, elsewhere)
    assert two.watermarks == {0: 9, 1: 2}
    assert msgspec.structs.replace(two, watermarks=one.watermarks) == one
    assert two.events == 1


def test_retry_is_forgotten_in_time() -> None:
    """The ring of event keys holds the last 32 events: within them a retry is known, after them it counts."""
    others = [update(n) for n in range(1, MAX_EVENT_KEYS + 1)]
    first = update(0, event_id="same")
    near = profile_of(first, *others[:-1], update(900, event_id="same"))
    far = profile_of(first, *others, update(900, event_id="same"))
    assert (near.events, far.events) == (MAX_EVENT_KEYS, MAX_EVENT_KEYS + 2)
    assert len(far.event_keys) == 8 * MAX_EVENT_KEYS


@given(st.lists(st.integers(0, 40), min_size=1, max_size=70))
def test_touches(times: list[int]) -> None:
    """Touches stay in the order of their times and at most 50, the newest; equal times keep the order of arrival."""
    made = [update(n, NOW + at, touch=Touch(f"i{n}", "click", 1.0, NOW + at)) for n, at in enumerate(times)]
    touches = profile_of(*made).touches
    assert [t.at for t in touches] == sorted(NOW + at for at in times)[-MAX_TOUCHES:]
    assert all(int(a.item_id[1:]) < int(b.item_id[1:]) for a, b in pairwise(touches) if a.at == b.at)


def test_seen_moves_and_is_bounded() -> None:
    """The seen ring holds an item once, the last seen at its end, and drops the oldest."""
    seen = [update(n, touch=Touch(name, "purchase", 1.0, NOW), seen=True) for n, name in enumerate(["a", "b", "c", "a"])]
    assert seen_keys(profile_of(*seen)).tolist() == [key_of("b"), key_of("c"), key_of("a")]
    many = [update(n, touch=Touch(f"i{n}", "purchase", 1.0, NOW), seen=True) for n in range(MAX_SEEN + 5)]
    assert seen_keys(profile_of(*many)).tolist() == [key_of(f"i{n}") for n in range(5, MAX_SEEN + 5)]


@given(st.lists(st.binary(min_size=8, max_size=8), unique=True, max_size=6), st.binary(min_size=8, max_size=8))
def test_position(keys: list[bytes], key: bytes) -> None:
    """A key is found where it stands, whatever stands beside it."""
    packed = b"".join(keys)
    wanted = 8 * keys.index(key) if key in keys else -1
    assert module._position(packed, key) == wanted
    for n, each in enumerate(keys):
        assert module._position(packed, each) == 8 * n


@pytest.mark.parametrize("shift", range(1, 8))
def test_position_across_two_keys(shift: int) -> None:
    """Bytes that span two keys are no key; the key itself is found behind them."""
    first, second = bytes(range(8)), bytes(range(8, 16))
    across = (first + second)[shift : shift + 8]
    assert module._position(first + second, across) == -1
    assert module._position(first + second + across, across) == 16


@given(histories())
def test_pack(events: list[Update]) -> None:
    """A profile is the same after packing and unpacking, and so are its bytes."""
    before = profile_of(*events)
    assert unpack(pack(before), DIM, KEY) == before
    assert pack(unpack(pack(before), DIM, KEY)) == pack(before)


def test_new_user() -> None:
    """No record is a new user, of whom nothing is known."""
    profile = unpack(None, DIM, KEY)
    assert profile == nobody()
    assert not interests_of([profile], DIM).any()
    assert len(seen_keys(profile)) == 0


def _record(**changes: object) -> bytes:
    return pack(msgspec.structs.replace(profile_of(update(0, pull=unit(1))), **changes))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (_record(interests=bytes(4 * INTERESTS * 8)), r"another encoder \(8 dims.* this one has 16.*headrace import --rebuild"),
        (_record(encoder=7), rf"another encoder \(16 dims, key {7:016x}; this one has 16, {KEY:016x}"),
        (_record(encoder=0), "another encoder"),
        (_record(format=3), "format 3, this version reads up to 2: upgrade the worker"),
        (msgspec.msgpack.encode([3, "laid", "out", "another", "way"]), "format 3, this version reads up to 2"),
        (msgspec.msgpack.encode([2, "laid", "out", "another", "way"]), "cannot be read"),
        (b"", "cannot be read"),
        (b"\x00garbage", "cannot be read"),
        (_record()[:-3], "cannot be read"),
    ],
)
def test_foreign_records(record: bytes, reason: str) -> None:
    """A record of another encoder, a newer format or another program is refused, with the next step."""
    with pytest.raises(RecordError, match=reason):
        unpack(record, DIM, KEY)


# Written by the version before format 2, of HISTORY.
FORMAT_1 = b64decode(
    "mAHLQdqG0gAAAADEgC75ZD4u+eQ+AACAPwAAAAAAAAAAAAAAAAAAAAAAAAAALvnkPS75ZD4AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA8wQ1PvMENT4A"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAACAPwAAAAAAAAAAAAAAAAAAAAAAAAAAk5SjdGVhqHB1cmNoYXNly0AIAAAAAAAAy0HahilAAAAAlKR0YXJ0"
    "p2Rpc2xpa2XLwAAAAAAAAADLQdqGKUAAAACUoKR3aXNoy0AAAAAAAAAAy0HahtIAAAAAxAi6ZYfBu4TEkMQYK8QuVTqJSlFX0bSZcKNB9mmmYzVovGFzggAE"
    "AQUD"
)
WHOLE_DAYS = HalfLives(long_s=2 * DAY, short_s=DAY, avoid_s=DAY, asked_s=DAY / 2)  # every decay is exact on any machine
HISTORY = [
    update(0, pull=unit(1, 2, dim=8), touch=Touch("tea", "purchase", 3.0, NOW), seen=True),
    update(4, NOW + 2 * DAY, ask=unit(0, 0, 1, dim=8), touch=Touch("", "wish", 2.0, NOW + 2 * DAY)),
    update(5, NOW, push=unit(0, 1, 1, dim=8), partition=1, touch=Touch("tart", "dislike", -2.0, NOW)),
]


def _as_format_1(record: bytes) -> bytes:
    return msgspec.msgpack.encode([1, *msgspec.msgpack.decode(record)[1:-1]])


def test_a_record_of_format_1_is_ours() -> None:
    """It is read as if written today, and shown as it was; one of another width is refused."""
    today = profile_of(*HISTORY, dim=8, half_lives=WHOLE_DAYS)
    assert _as_format_1(pack(today)) == FORMAT_1
    assert unpack(FORMAT_1, 8, KEY) == today
    assert msgspec.structs.replace(unpack_any(FORMAT_1), format=2, encoder=KEY) == today
    with pytest.raises(RecordError, match=r"another encoder \(8 dims"):
        unpack(FORMAT_1, 16, KEY)


@given(histories(), histories())
def test_a_record_of_format_1_is_folded_on(before: list[Update], after: list[Update]) -> None:
    """What is folded into a record of format 1 comes to the same bytes as without a change of version."""
    after = [replace(each, offset=each.offset + 12, event_key=key_of(f"later {n}")) for n, each in enumerate(after)]
    today = profile_of(*before, half_lives=HALF_LIVES)
    (migrated, ours), _ = fold([unpack(_as_format_1(pack(today)), DIM, KEY), today], [after, after], HALF_LIVES, DIM)
    assert pack(migrated) == pack(ours)
    assert ours.format == 2


@pytest.mark.parametrize(("touches", "most"), [(20, 7_500), (1_200, 20_000)])
def test_size(touches: int, most: int) -> None:
    """At 384 dims a usual record stays under 7.5 kB, the fullest one under 20."""
    made = [update(n, NOW + n, touch=Touch(f"item-{n:06}", "purchase", 1.0, NOW + n), seen=True) for n in range(touches)]
    assert len(pack(profile_of(*made, dim=384))) < most
