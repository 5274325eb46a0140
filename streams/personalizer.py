"""The step: encode events, fold them into profiles, recommend. Values in, values out.

Knows no App, broker or clock: the worker, the import of history, evaluation and tests all run this object, so import = replay =
live. Profiles pass its border as packed records.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders import Encoder
from encoders.sentiment import SentimentHead
from ranking import answering
from ranking.answering import Asked
from ranking.conditions import Condition
from ranking.learned import Learned
from ranking.lists import ListMaker
from ranking.profile import MAX_TOUCHES, Profile, Touch, Update, fold, is_counted, key_of, pack, unpack
from ranking.ranker import ZeroShot
from streams import questions
from streams.experiments import Experiment, Variant
from streams.makers import under
from streams.messages import ASK, Event, Interaction, RecommendedItem
from streams.readings import Readings, read_all

AFTER = 5  # touches before an item's that count as co-visits
ASKS = frozenset({"wish", "search", ASK})  # words of these kinds ask for something, others state something
WATCHED = 0.9  # share of a video or text from which on it counts as seen
WITH_ITEM = 0.5  # what the words about an item weigh against words alone: the item's own vector says most of it


class Sourced(NamedTuple):
    """An event with its place in the events topic."""

    event: Event
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Folded:
    """records: user_id -> packed profile, of users whose profile changed. folded, replayed: events counted now, and before."""

    records: dict[str, bytes]
    interactions: list[Interaction]
    folded: int
    replayed: int


@dataclass(frozen=True, slots=True)
class Weights:
    """What events weigh. by_type: event type -> weight, negative turns the item down; rating_scale: lowest, highest rating."""

    by_type: Mapping[str, float]
    rating_scale: tuple[float, float]
    seen_types: frozenset[str]

    def of_item(self, event: Event, opinion: float) -> float:
        """Return the signed weight of the event for the item it is about. opinion: of its text, in [-1, 1]."""
        weight = self.by_type[event.type]
        if event.rating is not None:
            low, high = self.rating_scale
            share = (min(max(event.rating, low), high) - low) / (high - low)
            return self.by_type["rating"] * (2.0 * share - 1.0)
        if event.progress is not None:
            weight += (self.by_type["like"] - weight) * event.progress
        if opinion < 0:
            return abs(weight) * opinion
        return weight * opinion if event.type == "comment" else weight  # "arrived today" takes nothing from a purchase

    def is_seen(self, event: Event) -> bool:
        """Tell whether the item should leave the user's lists."""
        return event.type in self.seen_types or (event.progress or 0.0) >= WATCHED


class Personalizer:
    """Encode, fold and recommend with one encoder, index and set of signals; all users alike, unless an experiment runs.

    It remembers what it unpacked in the last fold; what it returns depends on its arguments, the index and the signals alone.
    """

    def __init__(
        self,
        encoder: Encoder,
        maker: ListMaker,
        weights: Weights,
        text_length: int = 2_000,
        head: SentimentHead | None = None,
        price: str = "",
        currency: str = "",
    ) -> None:
        self.encoder = encoder
        self.head = head  # judges opinions; the cue words do where there is none
        self.maker = maker
        self.weights = weights
        self.text_length = text_length
        self.price, self.currency = price, currency  # names of the attributes that questions bound
        self._names: tuple[int, answering.Names] | None = None
        self.experiment: Experiment | None = None
        self._plain: dict[str, ListMaker] = {}  # by variant, whatever its model
        self._makers: dict[str, ListMaker] = {}  # the same with their models, of those whose model is there
        self._key = key_of(encoder.id)
        self._unpacked: dict[str, tuple[bytes, Profile]] = {}  # of the last fold: `recommend` mostly wants these

    @property
    def model(self) -> str:
        """The name of the model that ranks, as lists carry it."""
        return self.maker.model.name

    def encode(self, events: Sequence[Event]) -> Readings:
        """Return what the events' texts say, in vectors. The heavy part: whatever the encoder raises passes through."""
        return read_all(events, self.encoder, self.head, self.text_length)

    def fold(self, records: Mapping[str, bytes | None], batch: Sequence[Sourced], readings: Readings) -> Folded:
        """Fold a batch, in order, into the records of its users (None: a new user). Pure.

        Events at or below a record's watermark change nothing; their interactions are returned again all the same, since a
        replay means that they may not have been sent.
        """
        users = list(dict.fromkeys(sourced.event.user_id for sourced in batch))
        place = {user: i for i, user in enumerate(users)}
        before = [self._read(records.get(user)) for user in users]
        updates: list[list[Update]] = [[] for _ in users]
        turns: list[tuple[int, int]] = []  # of each event: its user's place, and its own among that user's
        spoken = self._spoken(batch, readings)
        vectors = self.maker.index.known([sourced.event.item_id or "" for sourced in batch])
        for row, sourced in enumerate(batch):
            i = place[sourced.event.user_id]
            turns.append((i, len(updates[i])))
            updates[i].append(self._update(sourced, readings.opinions[row], spoken[row], vectors[row]))
        after, folded = fold(before, updates, self.maker.half_lives, self.encoder.dim)
        changed = {user: pack(new) for user, old, new in zip(users, before, after, strict=True) if new is not old}
        self._unpacked = {user: (changed[user], new) for user, new in zip(users, after, strict=True) if user in changed}
        recent = [list(profile.touches) for profile in before]
        interactions: list[Interaction] = []
        replayed = 0
        for i, turn in turns:
            update, is_new = updates[i][turn], folded[i][turn]
            is_replay = is_counted(before[i], update.partition, update.offset)
            replayed += is_replay
            if is_new or is_replay:  # else a producer's own retry: its item was told of it before
                interactions.extend(_interaction(update, t, recent[i]) for t in update.touches if t.item_id and t.weight > 0)
            for touch in update.touches if is_new else ():
                insort(recent[i], touch, key=attrgetter("at"))
        return Folded(changed, interactions, sum(map(sum, folded)), replayed)

    def profiles(self, records: Mapping[str, bytes]) -> list[Profile]:
        """Return the profiles of records, in order. Raises RecordError."""
        return [self._profile(user, record) for user, record in records.items()]

    def use(self, model: ZeroShot | Learned) -> None:
        """Rank with another model from the next list on. With an experiment, only the thread that makes lists may call it."""
        self.maker = replace(self.maker, model=model)
        self._arm(lambda variant: model if variant.model is None else None)

    def use_for_variants(self, model: Learned) -> None:
        """Rank with a model for the users of the variants that name it. Only the thread that makes lists may call it."""
        self._arm(lambda variant: model if variant.model == model.name else None)

    def run(self, experiment: Experiment | None) -> None:
        """Split users from the next list on. A variant that names a version waits for `use_for_variants`."""
        self.experiment, self._makers = experiment, {}
        variants = experiment.variants if experiment is not None else ()
        self._plain = {variant.name: under(self.maker, variant.settings) for variant in variants}
        self._arm(lambda variant: self.maker.model if variant.model is None else variant.weights)

    @property
    def named_models(self) -> frozenset[str]:
        """The versions that variants name."""
        return self.experiment.models if self.experiment is not None else frozenset()

    def made_by(self, user_id: str) -> tuple[str, str | None]:
        """Return which model makes a user's lists now, and for which variant of an experiment, if any.

        Who has the model in use in place of the one of the variant is in no variant: it would be told of what it did not get.
        """
        variant = self._variant(user_id)
        if variant is None or self.experiment is None:
            return self.model, None
        return self._makers[variant.name].model.name, self.experiment.label(variant)

    def maker_of(self, user_id: str) -> ListMaker:
        """Return what makes a user's lists now."""
        variant = self._variant(user_id)
        return self.maker if variant is None else self._makers[variant.name]

    def is_counted(self, record: bytes, partition: int, offset: int) -> bool:
        """Tell whether a profile holds the event at this place, or a later one of its partition. Raises RecordError."""
        return is_counted(self._read(record), partition, offset)

    def asked(self, batch: Sequence[Sourced], readings: Readings) -> dict[str, Asked]:
        """Return the last question of each user of a batch who asks one."""
        rows = {sourced.event.user_id: row for row, sourced in enumerate(batch) if sourced.event.type == ASK}
        return {
            user: Asked(readings.vectors[readings.rows.index(row)], self._condition(batch[row].event.text or ""))
            for user, row in rows.items()
        }

    def answer(self, text: str, at: float) -> tuple[RecommendedItem, ...]:
        """Return what answers a question of nobody, best first."""
        asked = Asked(self.encoder.encode([questions.read(text).words])[0], self._condition(text))
        nobody = unpack(None, self.encoder.dim, self._key)
        return tuple([RecommendedItem(*each) for each in answering.answers(self.maker, nobody, asked, at)])

    def recommend(
        self, records: Mapping[str, bytes], at: float, asked: Mapping[str, Asked] | None = None
    ) -> dict[str, tuple[RecommendedItem, ...]]:
        """Return each user's list at a time (Unix seconds), best first; what answers a question stands before all."""
        lists = self._all_lists(records, at)
        for user in (asked or {}).keys() & lists.keys():
            maker = self.maker_of(user)
            found = answering.answers(maker, self._profile(user, records[user]), asked[user], at)  # type: ignore[index]
            first = [RecommendedItem(*each) for each in found]
            ids = {each.item_id for each in first}
            rest = [each for each in lists[user] if each.item_id not in ids]
            lists[user] = tuple([*first, *rest][: maker.rules.size])
        return lists

    def _all_lists(self, records: Mapping[str, bytes], at: float) -> dict[str, tuple[RecommendedItem, ...]]:
        if self.experiment is None:
            return self._recommend(self.maker, records, at)
        groups: dict[str, dict[str, bytes]] = {}
        for user, record in records.items():
            variant = self._variant(user)
            groups.setdefault("" if variant is None else variant.name, {})[user] = record
        made: dict[str, tuple[RecommendedItem, ...]] = {}
        for name, own in groups.items():
            made |= self._recommend(self._makers.get(name, self.maker), own, at)
        return {user: made[user] for user in records}

    def _recommend(self, maker: ListMaker, records: Mapping[str, bytes], at: float) -> dict[str, tuple[RecommendedItem, ...]]:
        profiles = self.profiles(records)
        seeds = [_seed(user, profile) for user, profile in zip(records, profiles, strict=True)] if maker.explore.share else ()
        lists = maker.lists(profiles, at, seeds)
        return {user: tuple([RecommendedItem(*item) for item in own]) for user, own in zip(records, lists, strict=True)}

    def step(
        self, records: Mapping[str, bytes | None], batch: Sequence[Sourced], at: float
    ) -> tuple[Folded, dict[str, tuple[RecommendedItem, ...]]]:
        """Encode, fold and recommend for the users of one batch."""
        readings = self.encode([sourced.event for sourced in batch])
        folded = self.fold(records, batch, readings)
        users = dict.fromkeys(sourced.event.user_id for sourced in batch)
        now = {user: folded.records.get(user) or records.get(user) or b"" for user in users}
        asked = self.asked(batch, readings)
        return folded, self.recommend({user: record for user, record in now.items() if record}, at, asked)

    def _condition(self, text: str) -> Condition:
        """Return what a question asks of the items, by their names of now."""
        if self._names is None or self._names[0] != self.maker.index.changes:  # collected anew after each change of an item
            self._names = self.maker.index.changes, answering.names(self.maker.index, self.currency)
        return questions.condition(text[: self.text_length], *self._names[1], self.price, self.currency)

    def _variant(self, user_id: str) -> Variant | None:
        """Return a user's variant, None where its model is not there."""
        variant = self.experiment.variant_of(user_id) if self.experiment is not None else None
        return variant if variant is not None and variant.name in self._makers else None

    def _arm(self, model_of: Callable[[Variant], ZeroShot | Learned | None]) -> None:
        """Give the variants that a model is returned for a maker with it."""
        for variant in self.experiment.variants if self.experiment is not None else ():
            if (model := model_of(variant)) is not None:
                self._makers[variant.name] = replace(self._plain[variant.name], model=model)

    def _profile(self, user: str, record: bytes) -> Profile:
        packed, profile = self._unpacked.get(user, (None, None))
        return profile if profile is not None and packed is record else self._read(record)

    def _read(self, record: bytes | None) -> Profile:
        return unpack(record, self.encoder.dim, self._key)

    def _spoken(self, batch: Sequence[Sourced], readings: Readings) -> list[_Spoken]:
        """Return what each event's words add."""
        spoken = [_Spoken() for _ in batch]
        for row, said, vector in zip(readings.rows, readings.said, readings.vectors, strict=True):
            weight = abs(self.weights.by_type[said.kind])
            own, event = spoken[row], batch[row].event
            if said.kind not in ASKS and event.item_id and self.weights.of_item(event, readings.opinions[row]) < 0:
                continue  # "too much football" with a dislike is no word for football
            if said.sign < 0:
                own.push = _plus(own.push, weight, vector)
            elif said.kind in ASKS:
                own.ask = _plus(own.ask, weight, vector)
            else:
                strength = max(readings.opinions[row], 0.0)
                own.pull = _plus(own.pull, weight * strength * (WITH_ITEM if event.item_id else 1.0), vector)
        return spoken

    def _update(self, sourced: Sourced, opinion: float, spoken: _Spoken, vector: NDArray[np.float32] | None) -> Update:
        """Return the event as a profile sees it. vector: (dim,) of the item that it is about, None where the index has none."""
        event = sourced.event
        at = float(event.at)
        seen = self.weights.is_seen(event)
        touches: list[Touch] = []
        pull, push = spoken.pull, spoken.push
        if event.item_id is not None:
            weight = self.weights.of_item(event, opinion)
            if vector is not None and weight > 0:
                pull = _plus(pull, weight, vector)
            elif vector is not None and weight < 0:
                push = _plus(push, -weight, vector)
            if weight or seen:
                touches.append(Touch(event.item_id, event.type, weight, at))
        if spoken.ask is not None:
            touches.append(Touch("", event.type, self.weights.by_type["wish"], at))
        return Update(
            sourced.partition, sourced.offset, key_of(event.event_id), at, pull, spoken.ask, push, tuple(touches), seen
        )


@dataclass(slots=True)
class _Spoken:
    """The weighted sums of the vectors of an event's words, each (dim,) float32 or None."""

    pull: NDArray[np.float32] | None = None
    ask: NDArray[np.float32] | None = None
    push: NDArray[np.float32] | None = None


def _seed(user: str, profile: Profile) -> int:
    """Return what a user's list is drawn by: another with each event, the same when one is replayed."""
    return key_of(f"{user} {sorted(profile.watermarks.items())}")


def _plus(total: NDArray[np.float32] | None, weight: float, vector: NDArray[np.float32]) -> NDArray[np.float32]:
    part = np.float32(weight) * vector
    return part if total is None else total + part


def _interaction(update: Update, touch: Touch, recent: Sequence[Touch]) -> Interaction:
    """Return what an event says about an item. recent: the user's touches by time; a replay finds later ones among them."""
    before: dict[str, None] = {}
    for other in reversed(recent[-MAX_TOUCHES:]):
        if other.item_id not in ("", touch.item_id) and other.weight > 0 and other.at <= touch.at:
            before[other.item_id] = None
            if len(before) == AFTER:
                break
    return Interaction(
        item_id=touch.item_id,
        after=tuple(before),
        weight=touch.weight,
        at=touch.at,
        source=(update.partition, update.offset),
    )
