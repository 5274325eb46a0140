"""The compact forward pass with the layers' weights in 8 bits: an encoder to be measured, not built into the product.

Weights are int8 with a scale for each output (oneDNN's `qlinear_pointwise`), activations are made uint8 at each linear: with
one scale for all that a call computes (`int8, a scale a call`: fast), or one for each token (`int8, a scale a token`: nearer,
and slower, as GELU and bias are passes of their own then). Before the second, each input's range is moved halfway into the
weights (SmoothQuant, Xiao et al., 2022), as the texts of centre.txt show it. Embeddings, norms and attention stay in float32.
"""

from __future__ import annotations

from pathlib import Path

import torch

import encoders
from encoders import centring, compact, packaged
from encoders.transformer import TransformerEncoder

BY_CALL, BY_TOKEN = "int8, a scale a call", "int8, a scale a token"
LINEARS = (0, 2, 6, 8)  # the places of a layer's weights among its 12 tensors; each bias stands behind its weight
LEAST = 1e-6  # of a range, so that nothing is divided by nothing

# Compiled by TorchScript, as `compact` calls them. rest: (2 n + k,) of n outputs and k inputs: bias, scale of each output's
# weights, what each input is multiplied with.


def by_call(x: torch.Tensor, weight: torch.Tensor, rest: torch.Tensor | None, gelu: bool) -> torch.Tensor:
    """Return x @ weight.T + bias, then GELU where asked, with one scale for all of x."""
    assert rest is not None
    n = (rest.size(0) - x.size(-1)) // 2
    low, high = torch.aminmax(x)
    least = min(float(low), 0.0)
    scale = (max(float(high), 0.0) - least) / 255.0 + 1e-12
    zero = int(-least / scale + 0.5)
    codes = torch.add(torch.full([1], zero + 0.5), x, alpha=1.0 / scale).to(torch.uint8)
    zeros = torch.zeros(n, dtype=torch.int32)
    after, kind = ("gelu", "none") if gelu else ("none", "")
    return torch.ops.onednn.qlinear_pointwise(  # type: ignore[no-any-return]
        codes, scale, zero, weight, rest[n : 2 * n], zeros, rest[:n], 1.0, 0, torch.float32, after, [], kind
    )


def by_token(x: torch.Tensor, weight: torch.Tensor, rest: torch.Tensor | None, gelu: bool) -> torch.Tensor:
    """Return the same with a scale for each row of x."""
    assert rest is not None
    n = (rest.size(0) - x.size(-1)) // 2
    evened = x * rest[2 * n :]
    most = torch.linalg.vector_norm(evened, float("inf"), [-1], True).clamp_min(1e-9)
    codes = torch.addcmul(torch.full([1], 128.5), evened, 127.0 / most).to(torch.uint8)
    zeros = torch.zeros(n, dtype=torch.int32)
    y = torch.ops.onednn.qlinear_pointwise(
        codes, 1.0 / 127.0, 128, weight, rest[n : 2 * n], zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    y = torch.addcmul(rest[:n], y, most)
    return torch.nn.functional.gelu(y) if gelu else y


def watched(x: torch.Tensor, weight: torch.Tensor, rest: torch.Tensor | None, gelu: bool) -> torch.Tensor:
    """Return the same in float32, and keep the largest of each input seen in the last k of `rest`, (n + k,)."""
    assert rest is not None
    n = rest.size(0) - x.size(-1)
    rest[n:].copy_(torch.maximum(rest[n:], x.abs().flatten(0, -2).amax(0)))
    x = torch.nn.functional.linear(x, weight, rest[:n])
    return torch.nn.functional.gelu(x) if gelu else x


def load(name: str, kind: str, cache: Path, *, threads: int, max_tokens: int) -> TransformerEncoder:
    """Return a model in 8 bits, centred by its own vectors. kind: BY_CALL or BY_TOKEN. Raises EncoderError, TypeError."""
    encoder = encoders.load(name, cache=cache, device="cpu", dtype="float32", threads=threads, max_tokens=max_tokens)
    engine = encoder._engine if isinstance(encoder, TransformerEncoder) else None
    if not isinstance(encoder, TransformerEncoder) or not isinstance(engine, compact.Compact):
        raise TypeError(f"{name} does not run in the compact forward pass: only BERT-like models are measured in 8 bits")
    tensors = dict(compact._tensors(packaged.resolve(name, cache).folder))
    layers = [
        compact._layer(tensors, f"encoder.layer.{i}.", torch.float32, torch.Tensor.contiguous)
        for i in range(len(engine._layers))
    ]
    engine._layers, engine._vectors = [_watching(layer) for layer in layers], compact._compile(watched)
    encoder.encode(centring.TEXTS.read_text("utf-8").splitlines())
    engine._layers = [_coded(layer, seen, smooth=kind == BY_TOKEN) for layer, seen in zip(layers, engine._layers, strict=True)]
    engine._vectors = compact._compile(by_token if kind == BY_TOKEN else by_call)
    encoder.id = f"{encoder.id}-i8{'t' if kind == BY_TOKEN else 'c'}"
    encoder.centre, encoder.reason = None, f"{name} on cpu in {kind}"
    encoder.centre = centring.shared_part(encoder, cache)
    return encoder


def _watching(layer: list[torch.Tensor]) -> list[torch.Tensor]:
    made = list(layer)
    for place in LINEARS:
        made[place + 1] = torch.cat([layer[place + 1], torch.zeros(layer[place].size(1))])
    return made


def _coded(layer: list[torch.Tensor], seen: list[torch.Tensor], *, smooth: bool) -> list[torch.Tensor]:
    """Return a layer's 12 tensors with weights in int8. seen: the same layer, as `watched` left it."""
    made = list(layer)
    for place in LINEARS:
        weight, bias = layer[place], layer[place + 1]
        move = _moved(weight, seen[place + 1][len(weight) :]) if smooth else torch.ones(weight.size(1))
        weight = weight * move
        scales = weight.abs().amax(1).clamp_min(LEAST) / 127
        codes = torch.round(weight / scales[:, None]).to(torch.int8)
        made[place] = torch.ops.onednn.qlinear_prepack(codes, None)
        made[place + 1] = torch.cat([bias, scales, 1 / move])
    return made


def _moved(weight: torch.Tensor, most: torch.Tensor) -> torch.Tensor:
    """Return what each input is divided by and its weights are multiplied with, (k,): after it both have the same range."""
    return (most.clamp_min(LEAST) / weight.abs().amax(0).clamp_min(LEAST)).sqrt()
