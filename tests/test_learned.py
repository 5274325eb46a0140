"""A learned model: trained on a planted habit, sealed in a bundle, in service beside the zero-shot one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import DAY, NOW, clusters, item

from encoders.hashing import HashingEncoder
from ranking import bundle, features, links
from ranking.bundle import Bundle, BundleError
from ranking.index import ItemIndex
from ranking.learned import Learned
from ranking.lists import Scored
from ranking.ranker import Scores, ZeroShot, score
from ranking.retrieve import Candidates
from ranking.train import Plan
from streams.building import build
from streams.messages import Event
from streams.personalizer import Personalizer
from streams.settings import Settings
from streams.training import WINDOW, WINDOW_S, Replay, Sizes, TrainingError, train, turns, windows

CIRCLES, EACH, USERS, STEPS = 6, 8, 120, 6
ITEMS = [f"i{number:02d}" for number in range(CIRCLES * EACH)]
PLAN = Plan(epochs=6, batch=128, rate=3e-3)
SIZES = Sizes(width=16, hidden=8, next_items=3)


def world(items: list[str] = ITEMS, seen_types: tuple[str, ...] = ()) -> Personalizer:
    """Return a step over items whose vectors tell nothing of what follows what."""
    encoder = HashingEncoder(32)
    index = ItemIndex(encoder.dim, encoder.id)
    vectors = clusters(len(items), 1, encoder.dim)
    index.upsert([item(name, brand=f"b{n % 5}") for n, name in enumerate(items)], vectors)
    return build(encoder, Settings(encoder="hashing", list_size=5, diversity=0.0, seen_types=seen_types), index)


TIMES = [NOW + n for n in range(0, 3_000, 100)] + [NOW + 4_000.0] * 600


def walks(users: int = USERS, steps: int = STEPS, seed: int = 1) -> list[Event]:
    """Return events in time order: each user walks on by one in a circle of items, from a place of its own."""
    rng = np.random.default_rng(seed)
    made = []
    for user in range(users):
        circle, place = rng.integers(CIRCLES), rng.integers(EACH)
        for step in range(steps):
            name = ITEMS[circle * EACH + (place + step) % EACH]
            at = NOW - 20 * DAY + step * DAY + user
            made.append(Event(event_id=f"{user}-{step}", user_id=f"u{user}", type="click", at=at, item_id=name))
    return sorted(made, key=lambda event: float(event.at))


@pytest.fixture(scope="module")
def model() -> Bundle:
    """A model of the walks."""
    return train(world(), walks(), lambda event: True, sizes=SIZES, plan=PLAN)


def share_right(personalizer: Personalizer) -> float:
    """Return for how many new users the item that is next in their walk stands first of the list."""
    replay, right = Replay(personalizer), 0
    events = walks(users=40, steps=4, seed=2)
    for turn in turns(events, 0, len(events)):
        replay.fold(turn)
    lists = personalizer.recommend(replay.records, NOW - 16 * DAY)
    for user, own in lists.items():
        last = [event for event in events if event.user_id == user][-1]
        number = ITEMS.index(last.item_id or "")
        right += own[0].item_id == ITEMS[number // EACH * EACH + (number + 1) % EACH]
    return right / len(lists)


def test_a_replay_knows_what_others_did_some_minutes_ago() -> None:
    """No window is longer than its bounds in time and number, and together they are the range."""
    events = [Event(event_id=f"{n}", user_id=f"u{n}", type="click", at=at, item_id="i") for n, at in enumerate(TIMES)]
    found = list(windows(events, 1, len(events)))
    assert [first for first, _ in found] == [1, *[last for _, last in found[:-1]]]
    assert found[-1][1] == len(events)
    assert all(last - first <= WINDOW and TIMES[last - 1] - TIMES[first] <= WINDOW_S for first, last in found)
    assert len(found) < len(events) / 2
    assert max(last - first for first, last in found) == WINDOW
    assert list(windows(events, 3, 3)) == []


def test_a_planted_habit_is_learnt(model: Bundle) -> None:
    """Where the vectors say nothing, the learned model names the next item, and the zero-shot one does not."""
    personalizer = world()
    before = share_right(personalizer)
    personalizer = world()
    personalizer.use(Learned(model, personalizer.maker.index))
    assert share_right(personalizer) >= 0.9 > 0.5 > before


def test_the_same_history_and_seed_give_the_same_model(model: Bundle) -> None:
    """A training can be repeated, but for what rounding in another order does; another seed gives another model."""
    again = train(world(), walks(), lambda event: True, sizes=SIZES, plan=PLAN)
    other = train(world(), walks(), lambda event: True, sizes=SIZES, plan=replace(PLAN, seed=2))
    assert distance(again, model) < 0.05 < distance(other, model)


def distance(one: Bundle, other: Bundle) -> float:
    """Return how far apart the weights of the user towers are, as a share of their length."""
    ours, theirs = (np.concatenate([own.tensors[name].ravel() for name in names(own)]) for own in (one, other))
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def names(own: Bundle) -> list[str]:
    """Return the names of the user tower's tensors."""
    return sorted(name for name in own.tensors if name.startswith("user."))


def test_lists_are_the_same_for_any_batch(model: Bundle) -> None:
    """Who shares a batch does not matter."""
    personalizer = world()
    personalizer.use(Learned(model, personalizer.maker.index))
    replay = Replay(personalizer)
    for turn in turns(walks(users=40), 0, 240):
        replay.fold(turn)
    together = personalizer.recommend(replay.records, NOW)
    for user, record in list(replay.records.items())[:5]:
        (alone,) = personalizer.recommend({user: record}, NOW).values()
        assert [each.item_id for each in alone] == [each.item_id for each in together[user]]
        np.testing.assert_allclose([each.score for each in alone], [each.score for each in together[user]], rtol=1e-3)


def scored(personalizer: Personalizer, records: dict[str, bytes], order: Sequence[int] | None = None) -> tuple[Scored, Scores]:
    """Return the candidates of users, and M's scores of them when they come in another order."""
    maker = personalizer.maker
    plain = maker.scored(personalizer.profiles(records), NOW)
    among, read = plain.among, plain.read
    assert read is not None
    assert isinstance(maker.model, Learned)
    if order is not None:
        among = Candidates(
            *[part[:, order] for part in (among.slots, among.covisit, among.rising, among.sated)], [{}] * len(records)
        )
    allowed = plain.allowed if order is None else plain.allowed[:, order]
    basis = score(ZeroShot(), plain.found, among, allowed, NOW, maker.index)
    return plain, maker.model.score(read, plain.found, among, basis, allowed, NOW, maker.index, maker.signals)


@settings(max_examples=20)
@given(st.randoms(use_true_random=False))
def test_candidates_in_another_order_have_the_same_scores(model: Bundle, random: Random) -> None:
    """M sees each candidate by itself: an order of them gives the same scores in that order."""
    personalizer = world()
    personalizer.use(Learned(model, personalizer.maker.index))
    replay = Replay(personalizer)
    for turn in turns(walks(users=5), 0, 30):
        replay.fold(turn)
    order = list(range(scored(personalizer, replay.records)[0].among.slots.shape[1]))
    random.shuffle(order)
    plain, moved = scored(personalizer, replay.records, order)
    np.testing.assert_allclose(moved.logit, plain.scores.logit[:, order], atol=1e-4)
    np.testing.assert_allclose(moved.probability, plain.scores.probability[:, order], atol=1e-5)


def test_what_the_training_never_saw_has_finite_scores(model: Bundle) -> None:
    """Items that came later, of the beginning of time too, and users without or with only such touches, are ranked."""
    strangers = [f"new{n}" for n in range(6)]
    personalizer = world([*ITEMS, *strangers])
    index = personalizer.maker.index
    index.upsert([item("old", at=0.0)], clusters(1, 1, 32, seed=7))
    personalizer.use(Learned(model, index))
    replay = Replay(personalizer)
    own = [Event(event_id=name, user_id=name, type="click", at=NOW, item_id=name) for name in [*strangers, "old", "nowhere"]]
    replay.fold(list(enumerate(own)))
    plain, _ = scored(personalizer, replay.records)
    untrained = np.isin(plain.among.slots, [index.slot(name) for name in [*strangers, "old"]])
    assert (untrained & plain.allowed).any()
    assert np.isfinite(plain.scores.logit[plain.allowed]).all()
    np.testing.assert_allclose(plain.scores.probability.sum(axis=1), 1.0, rtol=1e-5)


def test_a_checkerboard_is_learnt() -> None:
    """Of two tastes that no title tells, each user has touched half of one: a new one is shown the other half first."""
    names = ITEMS[:20]
    before = share_of_taste(world(names, ("click",)), names)
    made = train(world(names), checkerboard(names, 80, seed=1), lambda event: True, sizes=SIZES, plan=PLAN)
    personalizer = world(names, ("click",))
    personalizer.use(Learned(made, personalizer.maker.index))
    assert share_of_taste(personalizer, names) >= 0.9 > 0.7 > before


def checkerboard(names: list[str], users: int, seed: int) -> list[Event]:
    """Return events in time order: users touch, in any order, five of the items that have their parity."""
    rng = np.random.default_rng(seed)
    made = []
    for user in range(users):
        for step, place in enumerate(rng.permutation(len(names) // 2)[:5]):
            name, at = names[2 * place + user % 2], NOW - 20 * DAY + step * DAY + user
            made.append(Event(event_id=f"{user}-{step}", user_id=f"u{user}", type="click", at=at, item_id=name))
    return sorted(made, key=lambda event: float(event.at))


def share_of_taste(personalizer: Personalizer, names: list[str]) -> float:
    """Return the share of new users' places that go to items of their own taste."""
    replay = Replay(personalizer)
    for turn in turns(events := checkerboard(names, 2, seed=2), 0, len(events)):
        replay.fold(turn)
    lists = personalizer.recommend(replay.records, NOW - 14 * DAY)
    right = [names.index(each.item_id) % 2 == int(user[1:]) for user, own in lists.items() for each in own]
    return sum(right) / len(right)


def test_items_come_go_and_come_back(model: Bundle) -> None:
    """An item that is new has a place at once, one that is gone is in no list, and one that returns has its links again."""
    personalizer = world([*ITEMS, "new"])
    index = personalizer.maker.index
    learned = Learned(model, index)
    personalizer.use(learned)
    assert np.linalg.norm(learned.placed[index.slot("new")]) == pytest.approx(1.0, abs=1e-5)
    old, vector = index.item("i01") or pytest.fail("it is there")
    index.delete(["i01"])
    replay = Replay(personalizer)
    replay.fold([(0, walks()[0])])
    assert all(each.item_id != "i01" for own in personalizer.recommend(replay.records, NOW).values() for each in own)
    index.upsert([item("other")], vector[None])  # takes the slot
    index.upsert([old], vector[None])
    personalizer.recommend(replay.records, NOW)
    np.testing.assert_allclose(learned.placed[index.slot("i01")], Learned(model, index).placed[index.slot("i01")], atol=1e-6)
    assert share_right(personalizer) >= 0.9


def test_a_model_can_be_left_again(model: Bundle) -> None:
    """Back with the zero-shot model, lists are what they were."""
    personalizer = world()
    replay = Replay(personalizer)
    replay.fold([(0, walks()[0])])
    before = personalizer.recommend(replay.records, NOW)
    personalizer.use(Learned(model, personalizer.maker.index))
    assert personalizer.model == model.head.version
    personalizer.use(ZeroShot())
    assert personalizer.recommend(replay.records, NOW) == before


def test_too_little_to_learn_from_is_refused() -> None:
    """A history of a few events says how many are needed."""
    with pytest.raises(TrainingError, match="100 are needed"):
        train(world(), walks(users=5), lambda event: True, sizes=SIZES, plan=PLAN)


class TestBundle:
    """The folder."""

    def test_round_trip(self, model: Bundle, tmp_path: Path) -> None:
        """What is loaded is what was saved."""
        bundle.save(model, tmp_path / "a")
        again = bundle.load(tmp_path / "a")
        assert (again.head, again.items) == (model.head, model.items)
        assert all(np.array_equal(again.tensors[name], value) for name, value in model.tensors.items())

    @pytest.mark.parametrize("name", ["bundle.json", "items.json", "model.safetensors"])
    def test_damage_is_found(self, model: Bundle, tmp_path: Path, name: str) -> None:
        """A byte that changed, a part that is cut short and one that is missing are refused."""
        bundle.save(model, tmp_path)
        whole = (tmp_path / name).read_bytes()
        place = whole.rindex(b"i01") if name == "items.json" else len(whole) - 9
        for broken in (whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :], whole[: len(whole) // 2]):
            (tmp_path / name).write_bytes(broken)
            with pytest.raises(BundleError):
                bundle.load(tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(BundleError, match="no model bundle"):
            bundle.load(tmp_path)

    def test_a_newer_format_says_to_upgrade(self, model: Bundle) -> None:
        """A bundle of a later version is refused with the step to take."""
        newer = bundle.files(replace(model, head=model.head.__class__(**{**_fields(model), "format": 99})))
        with pytest.raises(BundleError, match="upgrade"):
            bundle.read(newer)

    def test_another_encoder_is_refused(self, model: Bundle) -> None:
        """A model is bound to the encoder whose vectors it was trained on."""
        with pytest.raises(BundleError, match="HEADRACE_ENCODER"):
            Learned(model, ItemIndex(32, "another"))

    def test_other_features_are_refused(self, model: Bundle) -> None:
        """A model of other features than this version's has to be trained anew."""
        other = bundle.sealed(model.head.__class__(**{**_fields(model), "features": ("a",)}), model.items, model.tensors)
        with pytest.raises(BundleError, match="train it again"):
            Learned(other, world().maker.index)


def _fields(model: Bundle) -> dict[str, object]:
    return {name: getattr(model.head, name) for name in model.head.__struct_fields__}


def histories(*items: list[int]) -> list[links.History]:
    """Return what users touched, all of it now."""
    return [links.History(np.array(own, np.int64), np.zeros(len(own))) for own in items]


class TestLinks:
    """The tables."""

    def test_what_follows_and_what_goes_together_is_linked(self) -> None:
        """On the walks the strongest `follow` and `taste` links of an item are its neighbours in the circle."""
        known = histories(*[[n, (n + 1) % 8, (n + 2) % 8] for n in range(8) for _ in range(3)])
        made = links.fit(known, np.eye(8, dtype=np.float32), ["a b"] * 8, np.zeros(8, np.int32), np.zeros(8, np.int32))
        for n in range(8):
            assert made["follow"].others[n, 0] == (n + 1) % 8
            for table in ("taste", "habit", "together"):
                assert set(made[table].others[n, :2].tolist()) == {(n + 1) % 8, (n - 1) % 8}

    def test_words_link_what_no_user_touched(self) -> None:
        """Items with a rare word in common are linked by it; one that shares none has no such link."""
        texts = ["red kettle", "blue kettle", "green sofa", "old sofa", "lamp"]
        zeros = np.zeros(5, np.int32)
        made = links.fit(histories([0, 2]), np.eye(5, dtype=np.float32), texts, zeros, zeros)
        assert made["words"].others[:, 0].tolist() == [1, 0, 3, 2, -1]

    def test_kinds_back_off(self) -> None:
        """An item that was never touched leads to the most touched of the brand that follows its own."""
        brands = np.array([1, 1, 2, 2, 0], np.int32)
        made = links.fit(histories(*[[0, 2]] * 3, [0, 3]), np.eye(5, dtype=np.float32), list("abcde"), brands, brands)
        assert made["brand"].others[1, 0] == 2
        assert made["brand"].others[4].max() == -1

    @given(st.lists(st.lists(st.integers(0, 5), max_size=5), max_size=8))
    def test_tables_are_well_formed(self, touched: list[list[int]]) -> None:
        """Links are strongest first, never to the item itself, and survive the bundle."""
        codes = np.array([0, 1, 1, 2, 2, 2], np.int32)
        made = links.fit(histories(*touched), np.eye(6, dtype=np.float32), list("abcabc"), codes, codes)
        assert tuple(made) == links.TABLES
        for own in links.from_tensors(links.to_tensors(made)).values():
            there = own.others >= 0
            assert not (own.others == np.arange(6)[:, None]).any()
            assert (np.diff(own.scores.astype(float), axis=1) <= 0).all()
            assert ((own.scores > 0) == there).all()


def test_features_have_names() -> None:
    """Every feature has one name, and no name stands twice."""
    assert len(set(features.NAMES)) == len(features.NAMES)
