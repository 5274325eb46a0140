"""The loop: epochs of an objective, with warm-up and decay, until dev figures get no better; cut off, it goes on the same.

Knows no texts, labels or files of data. What is random is drawn from the seed and the epoch's number, so that a fit that was
resumed after any epoch ends as one that was not interrupted, in one thread to the last bit.

    FinetuneError(ValueError)   a plan that cannot be followed, or a checkpoint of another one: says what to change
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from encoders.adapters import Adapted
from encoders.adversarial import Perturbation

CHECKPOINT = "checkpoint.pt"
LOUDEST = 1.0  # norm that gradients are cut at
Figures = dict[str, float]
Tell = Callable[[int, float, Figures], None]  # epoch, share of all steps done, figures at the end of an epoch or none


class FinetuneError(ValueError):
    """A plan that cannot be followed, or a checkpoint that belongs to another."""


class Objective(Protocol):
    """What is learnt. higher: the dev figure that decides, better when higher, the lowest loss when empty.

    count: batches of an epoch.
    """

    module: Any
    higher: str
    count: int

    def epoch(self, number: int) -> Sequence[Any]:
        """Return the batches of an epoch, counted from 1: always the same for the same number."""

    def loss(self, batch: Any) -> Tensor:
        """Return a batch's mean loss, ()."""

    def dev(self) -> Figures:
        """Return figures of what is not learnt from, `loss` among them."""


@dataclass(frozen=True)
class Plan:
    """How to fit. Seconds are no part of it.

    rate: of AdamW at its highest, after `warmup`, a share of all steps, from where it falls linearly to 0. accumulate: batches
    whose gradients make one step. patience: epochs without a better dev figure after which the fit ends. adversarial: length of
    the perturbation of the embeddings, 0 for none.
    """

    epochs: int = 3
    batch: int = 32
    rate: float = 2e-5
    decay: float = 0.01
    warmup: float = 0.1
    accumulate: int = 1
    patience: int = 2
    adversarial: float = 0.0
    seed: int = 1


@dataclass(frozen=True)
class Fit:
    """How a fit went: the epoch whose weights the module has now, the dev figures of each, and whether it was resumed."""

    best: int
    history: list[Figures]
    resumed: int = 0


def fit(
    objective: Objective,
    plan: Plan,
    adapted: Adapted | None = None,
    *,
    scaled: bool = False,
    folder: Path | None = None,
    name: str = "",
    tell: Tell = lambda epoch, share, figures: None,
) -> Fit:
    """Fit the objective's module and leave it with the weights of its best epoch.

    adapted: what stands in its place, where an adapter learns. folder: where each epoch's end is kept; `name` says what it
    belongs to. scaled: whether losses are, as gradients in float16 would vanish. Raises FinetuneError.
    """
    return _Run(objective, plan, adapted or Adapted(objective.module, lambda: None), scaled, folder, name, tell).run()


class _Run:
    def __init__(
        self,
        objective: Objective,
        plan: Plan,
        adapted: Adapted,
        scaled: bool,
        folder: Path | None,
        name: str,
        tell: Tell,
    ) -> None:
        self.objective, self.plan, self.adapted, self.folder, self.tell = objective, plan, adapted, folder, tell
        self.name = f"{name} {asdict(plan)}"
        self.weights = [(key, value) for key, value in objective.module.named_parameters() if value.requires_grad]
        if not self.weights:
            raise FinetuneError("nothing is trainable: every parameter is frozen")
        in_epoch = math.ceil(objective.count / plan.accumulate)
        if in_epoch == 0:
            raise FinetuneError("there is nothing to learn from: the train part has no rows")
        self.steps = in_epoch * plan.epochs
        self.optimizer = torch.optim.AdamW(_with_decay(self.weights, plan.decay), plan.rate)
        warm = max(1, round(plan.warmup * self.steps))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min((step + 1) / warm, max(0.0, (self.steps - step) / max(1, self.steps - warm)))
        )
        self.scaler = GradScaler(enabled=scaled)
        self.perturbation = Perturbation(objective.module, plan.adversarial) if plan.adversarial else None
        self.history: list[Figures] = []
        self.best = 0
        self.state: dict[str, Tensor] = {}
        self.step = 0

    def run(self) -> Fit:
        resumed = self._resume()
        for epoch in range(len(self.history) + 1, self.plan.epochs + 1):
            if self._is_over():
                break
            self._epoch(epoch)
            self._keep()
        with torch.no_grad():
            for key, value in self.weights:
                value.copy_(self.state[key])
        self.objective.module.eval()
        return Fit(self.best, self.history, resumed)

    def _epoch(self, epoch: int) -> None:
        torch.manual_seed(self.plan.seed * 10_007 + epoch)
        batches = self.objective.epoch(epoch)
        self.objective.module.train()
        losses = []
        for number, batch in enumerate(batches):
            first = number - number % self.plan.accumulate
            losses.append(self._learn(batch, min(self.plan.accumulate, len(batches) - first)))
            if (number + 1) % self.plan.accumulate == 0 or number + 1 == len(batches):
                self._update()
                self.tell(epoch, self.step / self.steps, {})
        self.objective.module.eval()
        figures = {"train loss": sum(losses) / len(losses), **self.objective.dev()}
        self.history.append(figures)
        if self._is_best(figures):
            self.best = epoch
            self.state = {key: value.detach().clone() for key, value in self.weights}
        self.tell(epoch, self.step / self.steps, figures)

    def _learn(self, batch: Any, together: int) -> float:
        loss = self.objective.loss(batch) + self.adapted.penalty()
        if not torch.isfinite(loss):
            raise FinetuneError("the loss is no longer finite: lower --rate, or set HEADRACE_DTYPE=float32")
        self.scaler.scale(loss / together).backward()  # type: ignore[no-untyped-call]
        if self.perturbation is not None:
            with self.perturbation:
                self.scaler.scale(self.objective.loss(batch) / together).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _update(self) -> None:
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_([value for _, value in self.weights], LOUDEST)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self.adapted.after_step(self.step)
        self.optimizer.zero_grad()
        self.schedule.step()

    def _value(self, figures: Figures) -> float:
        return figures[self.objective.higher] if self.objective.higher else -figures["loss"]

    def _is_best(self, figures: Figures) -> bool:
        return self.best == 0 or self._value(figures) > self._value(self.history[self.best - 1])

    def _is_over(self) -> bool:
        return self.best > 0 and len(self.history) - self.best >= self.plan.patience

    def _keep(self) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {
            "name": self.name,
            "weights": {key: value.detach() for key, value in self.weights},
            "best": self.best,
            "state": self.state,
            "history": self.history,
            "step": self.step,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "adapter": self.adapted.kept(),
        }
        scratch = self.folder / f"{CHECKPOINT}.new"
        torch.save(kept, scratch)
        scratch.replace(self.folder / CHECKPOINT)

    def _resume(self) -> int:
        path = self.folder / CHECKPOINT if self.folder is not None else None
        if path is None or not path.is_file():
            return 0
        kept = torch.load(path, map_location="cpu", weights_only=True)
        if kept["name"] != self.name:
            raise FinetuneError(f"{path} is of another fit: give its options and data again, or another --out, or delete it")
        with torch.no_grad():
            for key, value in self.weights:
                value.copy_(kept["weights"][key])
        self.best, self.history, self.step = kept["best"], kept["history"], kept["step"]
        device = self.weights[0][1].device
        self.state = {key: value.to(device) for key, value in kept["state"].items()}
        self.optimizer.load_state_dict(kept["optimizer"])
        self.schedule.load_state_dict(kept["schedule"])
        self.scaler.load_state_dict(kept["scaler"])
        self.adapted.restore(kept["adapter"])
        return len(self.history)


def _with_decay(weights: Sequence[tuple[str, nn.Parameter]], decay: float) -> list[dict[str, Any]]:
    """Return groups for AdamW: matrices decay, vectors (biases, norms) do not."""
    return [
        {"params": [value for _, value in weights if value.ndim > 1], "weight_decay": decay},
        {"params": [value for _, value in weights if value.ndim <= 1], "weight_decay": 0.0},
    ]
