"""Few parameters in place of all: LoRA, AdaLoRA and bottlenecks, and how they are merged into plain weights.

Knows no objective. LoRA (Hu et al., 2021) and AdaLoRA (Zhang et al., 2023) are peft's, on every linear layer, LoRA on the word
embeddings too: at the same number of parameters that came nearer to what all of them reach (docs/log.md). A bottleneck
(Houlsby et al., 2019) stands beside the feed-forward block, not behind it (the parallel adapter of He et al., 2022), with the
block's own activation: so it is nothing but a wider block, and merging is exact. Merged, a model is one of its architecture.

    AdapterError(ValueError)   peft is missing, or the model has no place for the adapter: says what to do
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Kind = Literal["none", "lora", "adalora", "bottleneck"]
WIDER = 1.5  # AdaLoRA begins with so many times the rank
IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # what AdaLoRA remembers of each weight
SMALL = 0.02  # deviation of the words' B at first, as embeddings have: with peft's 1 a step would move words 50 times as far
ORTHOGONAL = 0.5  # weight of AdaLoRA's penalty, as in its paper
HEADS = ("classifier", "score", "pre_classifier")  # of a cross-encoder: they start at random and learn whole


class AdapterError(ValueError):
    """An adapter that cannot be had."""


@dataclass(frozen=True)
class Adapted:
    """model: with the adapter; merge: returns the plain model; after_step: to be called with each step's number.

    penalty: what is added to the loss, () or 0. kept, restore: what a checkpoint holds of it besides the weights.
    """

    model: Any
    merge: Callable[[], Any]
    after_step: Callable[[int], None] = lambda step: None
    penalty: Callable[[], Tensor | float] = lambda: 0.0
    kept: Callable[[], dict[str, Any]] = dict
    restore: Callable[[dict[str, Any]], None] = lambda kept: None


def adapt(model: Any, kind: Kind, rank: int, steps: int, seed: int) -> Adapted:
    """Return a model of which the adapter alone learns (and a head that is new); all of it for `none`. Raises AdapterError.

    steps: of the whole fit, which AdaLoRA gives its ranks away by; seed: of the numbers that the adapter starts with.
    """
    torch.manual_seed(seed)
    if kind == "none":
        return Adapted(model, lambda: model)
    return _bottleneck(model, rank) if kind == "bottleneck" else _low_rank(model, kind, rank, steps)


def counted(model: nn.Module) -> tuple[int, int]:
    """Return how many parameters learn, and how many there are."""
    sizes = [(value.numel(), value.requires_grad) for value in model.parameters()]
    return sum(size for size, learns in sizes if learns), sum(size for size, _ in sizes)


def _low_rank(model: Any, kind: Kind, rank: int, steps: int) -> Adapted:
    try:
        import peft
    except ImportError:
        raise AdapterError(f"--adapter {kind} needs peft: run `pip install 'headrace[finetune]'`") from None
    heads = [name for name, _ in model.named_children() if name in HEADS]
    common: dict[str, Any] = {
        "modules_to_save": heads or None,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
    }
    linears = _linears(model, heads)
    if kind == "lora":
        made = peft.get_peft_model(model, peft.LoraConfig(r=rank, target_modules=[*linears, *_words(model)], **common))
        _start_small(made)
        return Adapted(made, made.merge_and_unload)
    first, last = max(1, steps // 10), max(1, steps // 5)
    config = peft.AdaLoraConfig(
        init_r=round(WIDER * rank),
        target_r=rank,
        tinit=first,
        tfinal=last,
        deltaT=1,
        total_step=max(steps, first + last + 1),
        target_modules=linears,
        **common,
    )
    made = peft.get_peft_model(model, config)
    allocator = made.base_model.rankallocator

    def restore(kept: dict[str, Any]) -> None:
        for name in IMPORTANCE:
            setattr(allocator, name, kept[name])

    return Adapted(
        made,
        made.merge_and_unload,
        made.base_model.update_and_allocate,
        lambda: _penalty(made),
        lambda: {name: getattr(allocator, name) for name in IMPORTANCE},
        restore,
    )


def _linears(model: Any, heads: list[str]) -> list[str]:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    found = [name for name in names if name.split(".")[0] not in heads and "pooler" not in name]
    if not found:
        raise AdapterError("the model has no linear layers that an adapter could stand beside: use --adapter none")
    return found


def _words(model: Any) -> list[str]:
    """Return the name of the word embeddings, none where an output layer shares them: it would not see what they learn."""
    if model.get_output_embeddings() is not None:
        return []
    words = model.get_input_embeddings()
    return [name for name, module in model.named_modules() if module is words]


@torch.no_grad()
def _start_small(model: nn.Module) -> None:
    for name, value in model.named_parameters():
        if "lora_embedding_B" in name:
            value.mul_(SMALL)


def _penalty(model: nn.Module) -> Tensor:
    """Return how far AdaLoRA's singular vectors are from orthogonal, ()."""
    parts = []
    for name, value in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            gram = value @ value.T if "lora_A" in name else value.T @ value
            parts.append((gram - torch.eye(len(gram), device=value.device)).norm())
    return ORTHOGONAL * torch.stack(parts).mean()


class Wide(nn.Module):
    """A linear layer with more outputs, of which the new ones alone learn."""

    def __init__(self, plain: nn.Linear, more: int) -> None:
        super().__init__()
        self.plain = plain
        self.more = nn.Linear(plain.in_features, more, device=plain.weight.device)
        nn.init.normal_(self.more.weight, std=0.02)
        nn.init.zeros_(self.more.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out + more)."""
        return torch.cat([self.plain(x), self.more(x)], dim=-1)

    def merged(self) -> nn.Linear:
        """Return one plain layer that computes the same."""
        return _linear(torch.cat([self.plain.weight, self.more.weight]), torch.cat([self.plain.bias, self.more.bias]))


class Deep(nn.Module):
    """A linear layer with more inputs, whose weights start at 0 and alone learn."""

    def __init__(self, plain: nn.Linear, more: int) -> None:
        super().__init__()
        self.plain = plain
        self.more = nn.Parameter(torch.zeros(plain.out_features, more, device=plain.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) of (..., in + more)."""
        own = self.plain.in_features
        return self.plain(x[..., :own]) + nn.functional.linear(x[..., own:], self.more)  # type: ignore[no-any-return]

    def merged(self) -> nn.Linear:
        """Return one plain layer that computes the same."""
        return _linear(torch.cat([self.plain.weight, self.more], dim=1), self.plain.bias)


@torch.no_grad()
def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
    made.weight.copy_(weight)
    made.bias.copy_(bias)
    return made


def _blocks(model: nn.Module) -> Iterator[tuple[Any, Any]]:
    """Yield the two halves of each feed-forward block of a BERT."""
    for module in model.modules():
        first, second = getattr(module, "intermediate", None), getattr(module, "output", None)
        if hasattr(first, "dense") and hasattr(second, "dense"):
            yield first, second


def _bottleneck(model: Any, width: int) -> Adapted:
    blocks = list(_blocks(model))
    if not blocks:
        raise AdapterError(f"a {model.config.model_type} has no feed-forward block that is built in: use --adapter lora")
    heads = [name for name, _ in model.named_children() if name in HEADS]
    for name, value in model.named_parameters():
        value.requires_grad_("LayerNorm" in name or name.split(".")[0] in heads)
    for first, second in blocks:
        first.dense, second.dense = Wide(first.dense, width), Deep(second.dense, width)

    def merge() -> Any:
        for first, second in blocks:
            first.dense, second.dense = first.dense.merged(), second.dense.merged()
        model.config.intermediate_size += width
        return model

    return Adapted(model, merge)
