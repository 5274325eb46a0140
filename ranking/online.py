"""Learn on while serving: gradient steps on M and on the items' residuals, from lists and what their users did next.

Knows no events, topics or clock, and does not decide what is published (`ranking/gate.py`). The loss is the one that M is
trained with, softmax cross-entropy over the candidates of a list, the item touched next being the target. Four things differ:

- **What was not looked at counts less against itself.** People read a list from the top (the cascade model, Craswell et al.,
  2008): places below a touched one, and candidates outside of the list, compete with a weight under 1.
- **What was shown by chance counts for as many as it stands for**: by the inverse of the propensity that the list tells,
  clipped (Bottou et al., 2013).
- **No single step shows.** What is proposed is the mean of the weights over the last steps (Polyak and Juditsky, 1992), which
  begins at the version in service: the steps themselves wander by more than there is to learn in a day.
- **Nobody has much of a say.** The examples of one user, and those that want one item, weigh at most a share of all that is
  remembered; a step of M moves no weight by more than the rate, each step pulls M back towards the version in service, and a
  residual stays within reach of that version's. So a burst of one kind carries a model a bounded way.

The same examples in the same order and the same seed give the same model, to the last bit.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  as everybody writes it

from ranking.bundle import Bundle, sealed
from ranking.features import NAMES
from ranking.index import NOWHERE, ItemIndex
from ranking.learned import CLIP, Learned, M, towers_of
from ranking.lists import CHUNK, ListMaker
from ranking.profile import Profile

TOWER = NAMES.index("tower")  # U'·V', which moves with the residuals
RESIDUAL = "item.residual.weight"
FITTED = ("w", "w1", "b1", "w2", "b2", "w3")  # of M; how its features are scaled stays
CHANCE = 5.0  # the most that an item shown by chance counts for
LEAST = 0.1  # what a candidate that nobody looked at counts against the others, at least
UNSEEN = 0.9  # what a place counts, relative to the one above, below the one that was touched


class OnlineError(ValueError):
    """A model that cannot be learnt on: train one first."""


@dataclass(frozen=True, slots=True)
class Steps:
    """How far and how fast. rate: of M, the most that a step moves a weight by; residual_rate: of the residuals, an example's.

    pull: share of a step's rate by which M goes back to the version in service; reach: the most that a residual may be away
    from that version's; keep: what a step leaves of the mean of weights. unseen: what a place counts, relative to the one
    above, below the one that was touched. user_share, item_share: of the memory, the most that the examples of one user, or
    those that want one item, weigh.
    """

    batch: int = 64
    passes: int = 3
    memory: int = 2_048
    rate: float = 3e-4
    residual_rate: float = 0.005
    pull: float = 5.0
    reach: float = 0.3
    keep: float = 0.98
    unseen: float = UNSEEN
    user_share: float = 0.01
    item_share: float = 0.05
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Shown:
    """The c candidates of a user's list, those that could stand in it, with what the model knew of them.

    named: (c, f) float16; slots: (c,) int32; user: (width,) float32, U'.
    """

    named: NDArray[np.float16]
    slots: NDArray[np.int32]
    user: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Example:
    """A list and what its user touched next. at: Unix seconds of the touch; target: column of the touched candidate.

    against: (c,) float32 in (0, 1], what each candidate counts as a competitor; weight: what the example counts.
    """

    user_id: str
    at: float
    shown: Shown
    target: int
    against: NDArray[np.float32]
    weight: float = 1.0

    @property
    def slot(self) -> int:
        """The slot of the touched item."""
        return int(self.shown.slots[self.target])


def write_down(maker: ListMaker, profiles: Sequence[Profile], at: float, also: Sequence[int] = ()) -> list[Shown]:
    """Return the candidates of users' lists at a time (Unix seconds), as the maker ranks them.

    also: slots that are candidates of all of them besides, as those shown by chance. Raises OnlineError for a zero-shot maker.
    """
    if not isinstance(maker.model, Learned):
        raise OnlineError("the zero-shot model has nothing to learn on: train one with `headrace train` and use it")
    more = np.array(also, np.int64) if also else None
    return [
        shown
        for start in range(0, len(profiles), CHUNK)
        for shown in _written(maker, maker.model, profiles[start : start + CHUNK], at, more)
    ]


def _written(
    maker: ListMaker, model: Learned, profiles: Sequence[Profile], at: float, also: NDArray[np.int64] | None
) -> list[Shown]:
    with maker.index.lock:
        read, found, among, allowed, scores = maker.scored(profiles, at, also)
        assert read is not None  # a learned model reads
        named, _ = model.features(read, found, among, scores, at, maker.index, maker.signals)
    return [
        Shown(named[i, own].astype(np.float16), among.slots[i, own].astype(np.int32), read.users[i].copy())
        for i, own in enumerate(allowed)
    ]


def example(
    user_id: str,
    at: float,
    shown: Shown,
    slot: int,
    places: Sequence[int],
    propensities: Mapping[int, float],
    unseen: float = UNSEEN,
) -> Example | None:
    """Return what a touch of an item says about a list; None when the item was no candidate.

    places: slots of the list's items, from the top; propensities: by slot, of items shown by chance.
    """
    columns = np.flatnonzero(shown.slots == slot)
    if not len(columns):
        return None
    against = np.ones(len(shown.slots), np.float32)
    if slot in places:  # else the list says nothing of where the user looked
        touched = list(places).index(slot)
        below = np.full(len(against), len(places) - touched, np.float32)
        for place, other in enumerate(places):
            below[shown.slots == other] = max(0, place - touched)
        against = np.maximum(np.float32(LEAST), np.float32(unseen) ** below)
    weight = min(CHANCE, 1.0 / propensities[slot]) if slot in propensities and slot in places else 1.0
    return Example(user_id, at, shown, int(columns[0]), against, weight)


class Learner:
    """A copy of a model that learns on. `service` is the version that it started from."""

    def __init__(self, service: Bundle, index: ItemIndex, steps: Steps | None = None) -> None:
        """Start from a model over an index. Raises OnlineError, BundleError."""
        self.steps = steps or Steps()
        self._index = index
        self._order = np.random.default_rng(self.steps.seed)
        self.restart(service)

    def restart(self, service: Bundle) -> None:
        """Go on from this version, and forget what was learnt from."""
        if M + "w" not in service.tensors:
            raise OnlineError(f"model {service.head.version} has no ranker to learn on: train it again")
        self.service = service
        self._memory: deque[Example] = deque()
        self._users: Counter[str] = Counter()
        self._wanted: Counter[int] = Counter()
        self._waiting: list[Example] = []
        self._items = _Items(service, self._index)
        self.examples = self.taken = 0
        self._begin()

    def accepted(self, service: Bundle) -> None:
        """Go on from this version, which is in service now, with what is remembered."""
        self.service = service
        self._items = _Items(service, self._index)
        self._begin()

    def _begin(self) -> None:
        self._anchor = Weights.of(self.service)
        self._own = Weights.of(self.service)
        self._mean = Weights.of(self.service)
        for each in (*self._own.m.values(), self._own.residual):
            each.requires_grad_(True)
        self._adam = torch.optim.Adam([self._own.m[name] for name in FITTED], lr=self.steps.rate)

    def learn(self, examples: Iterable[Example]) -> None:
        """Remember examples, and take steps for each full batch of them."""
        for each in examples:
            self._waiting.append(each)
            if len(self._waiting) == self.steps.batch:
                batch, self._waiting = self._waiting, []
                self._remember(batch)
                for _ in range(self.steps.passes):
                    again = self._order.integers(len(self._memory), size=self.steps.batch)
                    self._step([*batch, *[self._memory[number] for number in again]])

    def forget(self, user_id: str) -> None:
        """Remember nothing of a user."""
        self._waiting = [each for each in self._waiting if each.user_id != user_id]
        kept = [each for each in self._memory if each.user_id != user_id]
        self._memory.clear()
        self._users.clear()
        self._wanted.clear()
        self._remember(kept)

    def proposal(self) -> Bundle:
        """Return the model as it is now."""
        own = self._mean.arrays()
        learnt = {"from": self.service.head.version, "examples": self.examples, "steps": self.taken}
        head = msgspec.structs.replace(self.service.head, report={**self.service.head.report, "online": learnt})
        return sealed(head, self.service.items, {**self.service.tensors, **own})

    def figures(self, examples: Sequence[Example], bundle: Bundle | None = None) -> Figures:
        """Return what examples cost the learner as it is now, or another version of the same model."""
        return judged(examples, self._mean if bundle is None else Weights.of(bundle), self._items)

    def _remember(self, batch: Sequence[Example]) -> None:
        for each in batch:
            self._memory.append(each)
            self._users[each.user_id] += 1
            self._wanted[each.slot] += 1
        while len(self._memory) > self.steps.memory:
            gone = self._memory.popleft()
            self._users[gone.user_id] -= 1
            self._wanted[gone.slot] -= 1
        self._users, self._wanted = +self._users, +self._wanted

    def _weights(self, batch: Sequence[Example]) -> NDArray[np.float32]:
        """Return what each example weighs, so that no user and no item has more than its share of the memory."""
        of_user, of_item = (max(1.0, share * len(self._memory)) for share in (self.steps.user_share, self.steps.item_share))
        return np.array(
            [
                each.weight * min(1.0, of_user / self._users[each.user_id]) * min(1.0, of_item / self._wanted[each.slot])
                for each in batch
            ],
            np.float32,
        )

    def _step(self, batch: Sequence[Example]) -> None:
        own, steps = self._own, self.steps
        weights = torch.from_numpy(self._weights(batch))
        losses, _ = _losses(own, self._items, batch)
        loss = (losses * weights).sum() / weights.sum()
        self._adam.zero_grad()
        own.residual.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([own.m[name] for name in FITTED], 1.0)
        self._adam.step()
        with torch.no_grad():
            for name in FITTED:
                own.m[name].lerp_(self._anchor.m[name], steps.rate * steps.pull)
            self._move_residuals(len(batch))
            for name in FITTED:
                self._mean.m[name].lerp_(own.m[name], 1.0 - steps.keep)
            self._mean.residual.lerp_(own.residual, 1.0 - steps.keep)
        self.examples += len(batch) // 2
        self.taken += 1

    def _move_residuals(self, count: int) -> None:
        """Take a step of plain gradient descent: Adam's are as long for a hair's gradient as for a clear one."""
        own, anchor, gradient = self._own.residual, self._anchor.residual, self._own.residual.grad
        if gradient is None:
            return
        gradient[0] = 0.0  # the row of items without a residual
        moved = own - anchor - self.steps.residual_rate * count * gradient
        length = moved.norm(dim=1, keepdim=True)
        own.copy_(anchor + moved * (self.steps.reach / length.clamp(min=self.steps.reach)))


@dataclass(frozen=True, slots=True)
class Weights:
    """What is learnt on: M's tensors by name, and the items' residuals, (rows + 1, width)."""

    m: dict[str, Tensor]
    residual: Tensor

    @classmethod
    def of(cls, bundle: Bundle) -> Weights:
        """Return a bundle's, apart from it."""
        m = {name[len(M) :]: _tensor(value) for name, value in bundle.tensors.items() if name.startswith(M)}
        return cls(m, _tensor(bundle.tensors[RESIDUAL]))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return them as a bundle keeps them."""
        named = {**{M + name: value for name, value in self.m.items()}, RESIDUAL: self.residual}
        return {name: value.detach().numpy().copy() for name, value in named.items()}


@dataclass(frozen=True, slots=True)
class Figures:
    """What n examples cost a model. loss: (n,) cross-entropy of the touched item; ndcg: (n,) of its place, to the 20th."""

    loss: NDArray[np.float64]
    ndcg: NDArray[np.float64]


def judged(examples: Sequence[Example], weights: Weights, items: _Items, at_once: int = 128) -> Figures:
    """Return what examples cost a model."""
    loss, ndcg = [], []
    with torch.inference_mode():
        for start in range(0, len(examples), at_once):
            part = examples[start : start + at_once]
            losses, places = _losses(weights, items, part)
            loss.append(losses.double().numpy())
            ndcg.append(torch.where(places < 20, 1.0 / torch.log2(places + 2.0), 0.0).double().numpy())
    return Figures(np.concatenate(loss), np.concatenate(ndcg))


class _Items:
    """V' of items before residual and norm, by slot; computed when first asked for, and anew when an item changed."""

    def __init__(self, bundle: Bundle, index: ItemIndex) -> None:
        self._tower = towers_of(bundle).item
        self._index = index
        self._rows = {item_id: row for row, item_id in enumerate(bundle.items, 1)}
        self._made = np.zeros((0, bundle.head.shape["width"]), np.float32)
        self._row_of = np.zeros(0, np.int64)
        self._of_change = np.zeros(0, np.int64)

    def of(self, slots: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return (n, width) of slots, and the row of each one's residual."""
        with self._index.lock:
            self._grow(len(self._index.changed) - len(self._made))
            late = slots[self._of_change[slots] != self._index.changed[slots] + 1]
            if len(late):
                self._make(late)
        return torch.from_numpy(self._made[slots]), torch.from_numpy(self._row_of[slots])

    def _grow(self, more: int) -> None:
        self._made = np.concatenate([self._made, np.zeros((more, self._made.shape[1]), np.float32)])
        self._row_of = np.concatenate([self._row_of, np.zeros(more, np.int64)])
        self._of_change = np.concatenate([self._of_change, np.zeros(more, np.int64)])

    def _make(self, slots: NDArray[np.int64]) -> None:
        index, tower = self._index, self._tower
        with torch.no_grad():
            white = tower.whitened(torch.from_numpy(index.vectors(slots)))
            self._made[slots] = (tower.straight(white) + tower.bend(white)).numpy()
        ids = [item.item_id if (item := index.items[slot]) is not None else "" for slot in slots.tolist()]
        self._row_of[slots] = [self._rows.get(item_id, 0) for item_id in ids]
        self._of_change[slots] = index.changed[slots] + 1


def _losses(weights: Weights, items: _Items, batch: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Return each example's cross-entropy, and how many candidates M puts above the touched one; both (n,)."""
    c = max(len(each.shown.slots) for each in batch)
    n, width = len(batch), len(batch[0].shown.user)
    named = np.zeros((n, c, len(NAMES)), np.float32)
    slots = np.full((n, c), NOWHERE, np.int64)
    against = np.zeros((n, c), np.float32)
    for i, each in enumerate(batch):
        own = len(each.shown.slots)
        named[i, :own], slots[i, :own], against[i, :own] = each.shown.named, each.shown.slots, each.against
    distinct, place = np.unique(slots[slots != NOWHERE], return_inverse=True)
    made, rows = items.of(distinct)
    placed = F.normalize(made + F.embedding(rows, weights.residual), dim=-1)
    column = np.zeros((n, c), np.int64)
    column[slots != NOWHERE] = place
    users = torch.from_numpy(np.stack([each.shown.user for each in batch]))
    crossed = F.embedding(torch.from_numpy(column), placed) * users[:, None, :]
    assert crossed.shape == (n, c, width)
    logits = _logits(weights.m, torch.from_numpy(named), crossed)
    is_there = torch.from_numpy(slots != NOWHERE)
    logits = logits.masked_fill(~is_there, -torch.inf)
    targets = torch.tensor([each.target for each in batch])[:, None]
    chances = F.log_softmax(logits + torch.from_numpy(against).log().masked_fill(~is_there, 0.0), dim=1)
    touched = logits.gather(1, targets)
    above = (logits > touched).sum(1) + ((logits == touched).sum(1) - 1) / 2  # of equals half
    return -chances.gather(1, targets).squeeze(1), above


def _logits(m: Mapping[str, Tensor], named: Tensor, crossed: Tensor) -> Tensor:
    """Return M's logits, (n, c): `learned.Ranker` in torch, with U'·V' of the residuals as they are."""
    named = torch.cat([named[..., :TOWER], crossed.sum(2, keepdim=True), named[..., TOWER + 1 :]], dim=2)
    x = torch.cat([((named - m["mean"]) * m["scale"]).clamp(-CLIP, CLIP), crossed], dim=2)
    hidden = torch.relu(x @ m["w1"] + m["b1"])
    hidden = torch.relu(hidden @ m["w2"] + m["b2"])
    return x @ m["w"] + hidden @ m["w3"]


def _tensor(value: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(value, np.float32))
