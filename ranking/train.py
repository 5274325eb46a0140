"""Fit the towers and M on what a replay wrote down.

Knows no events, files or clock: examples come in as arrays. Both losses are listwise softmax cross-entropy, the towers' over
all items, M's over the candidates of a list; the target is what the user touched next. Where items are many, the towers'
softmax takes the batch's own and a uniform sample of the others, each of which stands for as many as were left out (the
correction of Bengio and Senecal, 2008). The towers may be computed in half the bits, on a GPU, by several processes together;
weights, softmax and what is held out are float32 wherever. M is fitted on the CPU, by each process alike.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn import functional as F  # noqa: N812  as everybody writes it

from ranking.index import NOWHERE
from ranking.learned import standardised, tensors
from ranking.snapshots import Snapshots
from ranking.team import ALONE, Team
from ranking.towers import INTERESTS, Shape, Towers

ALL_UP_TO = 20_000  # items that a softmax takes whole
SAMPLED = 8_192  # others in it above
EVALUATED = 8_192  # items placed at once
Tell = Callable[[str, int, dict[str, float]], None]


@dataclass(frozen=True)
class Examples:
    """n users at a moment, and what each touched next. targets: (n, k) int32 slots, NOWHERE where there are fewer."""

    read: Snapshots
    targets: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: NDArray[np.int64]) -> Examples:
        """Return some of them."""
        return Examples(self.read.take(rows), self.targets[rows])


@dataclass(frozen=True)
class Ranked:
    """n candidate lists. named: (n, c, f) float16; slots: (n, c) int32, NOWHERE for none; users: (n, width) U'.

    allowed: (n, c) bool; wanted: (n, c) bool, the items that the user touched next.
    """

    named: NDArray[np.float16]
    slots: NDArray[np.int32]
    users: NDArray[np.float32]
    allowed: NDArray[np.bool_]
    wanted: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.slots)


@dataclass(frozen=True)
class Plan:
    """How to fit. Seconds are no part of it: the same plan and data give the same model.

    dtype: what the towers are computed in, float32, bfloat16 or float16; team: the processes that divide each of their batches.
    """

    epochs: int = 12
    patience: int = 3
    batch: int = 512
    rate: float = 1e-3
    decay: float = 0.01
    drop: float = 0.2
    without_residual: float = 0.3
    smoothing: float = 0.05
    tokens: int = 250_000  # of an epoch of the towers, at most: touches and interests of the users in it
    seed: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    team: Team = ALONE


def new_towers(shape: Shape, vectors: NDArray[np.float32], plan: Plan) -> Towers:
    """Return towers that have learnt only how the items' vectors, (slots, dim), lie."""
    torch.manual_seed(plan.seed)
    towers = Towers(shape, plan.drop)
    towers.item.fit_whitening(torch.from_numpy(vectors))
    return towers


@torch.inference_mode()
def whitened(towers: Towers, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the whitened vectors, unit rows."""
    return np.asarray(F.normalize(towers.item.whitened(torch.from_numpy(vectors)), dim=-1).numpy())


def fit_towers(
    towers: Towers,
    vectors: NDArray[np.float32],
    rows: NDArray[np.int64],
    examples: Examples,
    held_out: Examples | None,
    plan: Plan,
    tell: Tell = lambda what, epoch, figures: None,
) -> tuple[Towers, int]:
    """Return the towers fitted, and after how many epochs: the best on what was held out, all of `plan` without it.

    vectors: (slots, dim) of all items; rows: (slots,) of the residual table, 0 for none. All of a team return the same. Raises
    ValueError when a batch has fewer examples than the team has processes.
    """
    team, batches = plan.team, _Batches(examples.read, plan)
    torch.manual_seed(plan.seed + team.rank)  # each leaves out others
    towers = towers.to(plan.device)
    team.start_alike(towers)
    white = towers.item.whitened(torch.from_numpy(vectors).to(plan.device))  # once, not at each step
    catalogue = _Catalogue(white, torch.from_numpy(rows).to(plan.device), plan)
    optimizer = torch.optim.AdamW(towers.parameters(), plan.rate, weight_decay=plan.decay)
    steps = max(2, batches.in_epoch * plan.epochs)
    rise = max(0.1, 1.5 / steps)  # torch divides by the steps of the rise less one, which must not be 0
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.rate, total_steps=steps, pct_start=rise)
    scaler = GradScaler(white.device.type, init_scale=2.0**12, enabled=plan.dtype == "float16")
    order = np.random.default_rng(plan.seed)
    best = _Best(towers)
    for epoch in range(1, plan.epochs + 1):
        towers.train()
        losses = []
        for part in batches.epoch(order):
            own = team.share(part)
            loss = catalogue.loss(towers, examples.take(own)) * (len(own) / len(part))
            _step(towers, optimizer, loss, scaler, team)
            schedule.step()
            losses.append(loss.detach())
        figures = {"loss": float(team.total(torch.stack(losses)).mean())}
        if held_out is not None:
            figures |= catalogue.figures(towers, held_out)
            best.note(epoch, figures["held_out_loss"])
        tell("towers", epoch, figures)
        if held_out is not None and epoch - best.epoch >= plan.patience:
            break
    if held_out is not None:
        towers.load_state_dict(best.state)
    return towers.cpu().eval(), plan.epochs if held_out is None else best.epoch


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, scaler: GradScaler | None = None, team: Team = ALONE
) -> None:
    scaler = scaler or GradScaler(enabled=False)
    optimizer.zero_grad()
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    team.add_gradients(model)
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()


class _Catalogue:
    """All items as targets."""

    def __init__(self, vectors: Tensor, rows: Tensor, plan: Plan) -> None:
        self._vectors, self._rows, self._plan = vectors, rows, plan  # vectors: whitened

    def loss(self, towers: Towers, examples: Examples) -> Tensor:
        """Return the mean cross-entropy of a batch."""
        kept, stands_for = self._kept(examples)
        targets, share = _shares(examples.targets, self._vectors.device)
        read = self._to_device(examples.read)
        own, rows = self._vectors, self._rows
        if kept is not None:
            places = torch.full((len(own),), NOWHERE, device=own.device)
            places[kept] = torch.arange(len(kept), device=own.device)
            own, rows = own[kept], rows[kept]
            targets, touches = (torch.where(each >= 0, places[each.clamp(min=0)], NOWHERE) for each in (targets, read[0]))
            read = (touches, *read[1:])
        rows = rows * (torch.rand(len(rows), device=rows.device) >= self._plan.without_residual)
        with self._in_format():
            placed = towers.item.from_white(own, rows)
            users = towers.users(placed, *read)
        logits = users.float() @ placed.float().T / towers.log_temperature.exp() + stands_for
        chances = F.log_softmax(logits, dim=1)
        hit = (chances.gather(1, targets.clamp(min=0)) * share).sum(1)
        smooth = self._plan.smoothing
        return -((1.0 - smooth) * hit + smooth * chances.mean(1)).mean()

    def _kept(self, examples: Examples) -> tuple[Tensor | None, Tensor]:
        """Return the slots that take part (None: all), and the logarithm of how many each stands for."""
        count, device = len(self._vectors), self._vectors.device
        if count <= ALL_UP_TO:
            return None, torch.zeros(1, device=device)
        needed = np.unique(np.concatenate([examples.targets.ravel(), examples.read.touches.ravel()]))
        needed = needed[needed != NOWHERE]
        others = np.setdiff1d(torch.randint(count, (SAMPLED,)).numpy(), needed)
        weight = math.log(max(1.0, (count - len(needed)) / max(1, len(others))))
        stands_for = torch.cat([torch.zeros(len(needed)), torch.full((len(others),), weight)])
        kept = torch.from_numpy(np.concatenate([needed, others]).astype(np.int64))
        return _moved(kept, device), _moved(stands_for, device)

    @torch.inference_mode()
    def figures(self, towers: Towers, examples: Examples) -> dict[str, float]:
        """Return loss and recall of the first target among the best 10 of all items."""
        towers.eval()
        starts = range(0, len(self._vectors), EVALUATED)
        placed = torch.cat(
            [towers.item.from_white(self._vectors[at : at + EVALUATED], self._rows[at : at + EVALUATED]) for at in starts]
        )
        sums, team = torch.zeros(2, device=placed.device), self._plan.team
        for part in islice(_batches(len(examples), self._plan.batch, None), team.rank, None, team.size):
            own = examples.take(part)
            targets, share = _shares(own.targets, placed.device)
            logits = towers.users(placed, *self._to_device(own.read)) @ placed.T / towers.log_temperature.exp()
            loss = -(F.log_softmax(logits, dim=1).gather(1, targets.clamp(min=0)) * share).sum()
            rank = (logits > logits.gather(1, targets[:, :1].clamp(min=0))).sum(1)
            sums += torch.stack([loss, (rank < 10).sum()])
        loss, recall = (team.total(sums) / len(examples)).tolist()
        return {"held_out_loss": loss, "held_out_recall_10": recall}

    def _in_format(self) -> torch.autocast:
        dtype: torch.dtype = getattr(torch, self._plan.dtype)
        return torch.autocast(self._vectors.device.type, dtype, enabled=dtype != torch.float32)

    def _to_device(self, read: Snapshots) -> tuple[Any, ...]:
        return tuple(_moved(each, self._vectors.device) for each in tensors(read))


def fit_ranker(
    ranked: Ranked,
    placed: NDArray[np.float32],
    plan: Plan,
    hidden: int = 64,
    tell: Tell = lambda what, epoch, figures: None,
    *,
    kept: NDArray[np.bool_] | None = None,
    deep: bool = True,
) -> tuple[dict[str, NDArray[np.float32]], int]:
    """Return M's tensors, as `learned.Ranker` takes them, and the epoch they are of. placed: (slots, width) V'.

    kept: (f + width,) bool, the inputs that M may use, all unless given; the weights of the others are 0. deep: whether M has
    hidden layers; without them `w3` is 0.
    """
    torch.manual_seed(plan.seed)
    order = np.random.default_rng(plan.seed)
    usable = order.permutation(np.flatnonzero((ranked.wanted & ranked.allowed).any(axis=1)))
    held_out, own = usable[: len(usable) // 8], usable[len(usable) // 8 :]
    model = _Mlp(ranked, placed, hidden, plan.drop, kept)
    model.third.requires_grad_(deep)  # it starts at 0
    optimizer = torch.optim.AdamW(model.parameters(), plan.rate, weight_decay=plan.decay)
    best = _Best(model)
    for epoch in range(1, plan.epochs + 1):
        model.train()
        losses = []
        for part in _batches(len(own), plan.batch, order):
            loss = model.loss(ranked, own[part])
            _step(model, optimizer, loss)
            losses.append(float(loss.detach()))
        model.eval()
        with torch.inference_mode():
            parts = [model.loss(ranked, held_out[part]) * len(part) for part in _batches(len(held_out), plan.batch, None)]
        figures = {"loss": float(np.mean(losses)), "held_out_loss": float(sum(parts)) / max(1, len(held_out))}
        best.note(epoch, figures["held_out_loss"])
        tell("ranker", epoch, figures)
        if epoch - best.epoch >= plan.patience:
            break
    model.load_state_dict(best.state)
    return model.arrays(), best.epoch


class _Mlp(nn.Module):
    """M while it is fitted."""

    def __init__(
        self, ranked: Ranked, placed: NDArray[np.float32], hidden: int, drop: float, kept: NDArray[np.bool_] | None
    ) -> None:
        super().__init__()
        features, width = ranked.named.shape[2], placed.shape[1]
        self._kept = np.ones(features + width, np.float32) if kept is None else kept.astype(np.float32)
        some = ranked.named[:: max(1, len(ranked) // 500)][ranked.allowed[:: max(1, len(ranked) // 500)]].astype(np.float64)
        self._mean = some.mean(axis=0).astype(np.float32)
        self._scale = (1.0 / np.maximum(some.std(axis=0), 1e-3)).astype(np.float32)
        self._placed = placed
        self.straight = nn.Linear(features + width, 1, bias=False)
        self.first = nn.Linear(features + width, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.third = nn.Linear(hidden, 1, bias=False)
        self.drop = nn.Dropout(drop)
        nn.init.zeros_(self.straight.weight)
        nn.init.zeros_(self.third.weight)

    def loss(self, ranked: Ranked, rows: NDArray[np.int64]) -> Tensor:
        """Return the mean cross-entropy over the candidates of some lists, one that was wanted more of weighing more."""
        named = standardised(ranked.named[rows].astype(np.float32), self._mean, self._scale)
        crossed = self._placed[ranked.slots[rows]] * ranked.users[rows][:, None, :]
        x = torch.from_numpy(np.concatenate([named, crossed], axis=2) * self._kept)
        deep = self.drop(torch.relu(self.second(self.drop(torch.relu(self.first(x))))))
        logits = (self.straight(x) + self.third(deep)).squeeze(2)
        allowed = torch.from_numpy(ranked.allowed[rows])
        chances = F.log_softmax(logits.masked_fill(~allowed, -1e9), dim=1)
        wanted = torch.from_numpy(ranked.wanted[rows] & ranked.allowed[rows]).float()
        count = wanted.sum(1)
        return -((chances * wanted).sum(1) / count.sqrt()).sum() / count.sqrt().sum()

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return M's tensors."""
        kept = torch.from_numpy(self._kept)
        own = {
            "w": self.straight.weight.T[:, 0] * kept,
            "w1": self.first.weight.T * kept[:, None],
            "b1": self.first.bias,
            "w2": self.second.weight.T,
            "b2": self.second.bias,
            "w3": self.third.weight.T[:, 0],
        }
        return {"mean": self._mean, "scale": self._scale} | {
            name: np.ascontiguousarray(value.detach().numpy()) for name, value in own.items()
        }


class _Best:
    """The state with the lowest loss so far."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.epoch, self.loss = 0, math.inf
        self.state: Mapping[str, Tensor] = copy.deepcopy(model.state_dict())

    def note(self, epoch: int, loss: float) -> None:
        """Keep the state when it is the best."""
        if loss < self.loss:
            self.epoch, self.loss = epoch, loss
            self.state = copy.deepcopy(self._model.state_dict())


def _shares(targets: NDArray[np.int32], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the targets and each one's share of 1, both (n, k)."""
    own = _moved(torch.from_numpy(targets.astype(np.int64)), device)
    there = (own >= 0).float()
    return own, there / there.sum(1, keepdim=True).clamp(min=1.0)


def _moved(value: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on a device; the CPU does not wait for the copy to a GPU."""
    return value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value.to(device)


def _batches(count: int, size: int, order: np.random.Generator | None) -> Iterator[NDArray[np.int64]]:
    rows = np.arange(count) if order is None else order.permutation(count)
    for start in range(0, count, size):
        yield rows[start : start + size]


class _Batches:
    """Batches of users with about as many touches, since the longest decides how many columns all take."""

    def __init__(self, read: Snapshots, plan: Plan) -> None:
        self._lengths = (read.touches != NOWHERE).sum(axis=1)
        self._count = max(1, math.ceil(len(read) / plan.batch))
        if len(read) // self._count < plan.team.size:
            raise ValueError(
                f"{plan.team.size} processes cannot share {len(read)} examples in batches of {plan.batch}: start fewer"
            )
        tokens = int(self._lengths.sum()) + INTERESTS * len(read)
        self.in_epoch = max(1, min(self._count, self._count * plan.tokens // max(1, tokens)))

    def epoch(self, order: np.random.Generator) -> list[NDArray[np.int64]]:
        """Return an epoch's batches: all users, or as many as there is room for, in a new order."""
        rows = np.argsort(self._lengths + order.random(len(self._lengths)))
        batches = np.array_split(rows, self._count)
        return [batches[number] for number in order.permutation(self._count)[: self.in_epoch]]
