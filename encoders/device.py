"""Which device and number format a model runs in, and why.

`choose` is pure: what the machine can do comes in as `Capabilities`, which `probe` reads off torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from encoders import EncoderError

Format = Literal["float32", "bfloat16", "float16"]
FORMATS: tuple[Format, ...] = ("float32", "bfloat16", "float16")
WORTH = (
    1.15  # bfloat16 on a CPU must be this much faster: below it the timing's own noise decides, and float32 is the exact one
)


@dataclass(frozen=True)
class Capabilities:
    """What a machine can do. `cpu_gain` times float32 against bfloat16 when it is asked, about 0.2 s."""

    gpus: tuple[str, ...] = ()
    gpu_bfloat16: bool = False
    cpu_bfloat16: str = ""  # the instructions the CPU has for it: "amx", "avx512_bf16" or none
    cpu_gain: Callable[[], float] = lambda: 1.0  # float32's time / bfloat16's


class Choice(NamedTuple):
    """A device of torch, a number format, and one line that says why."""

    device: str
    dtype: Format
    why: str


def choose(device: str, dtype: str, machine: Capabilities) -> Choice:
    """Return where and in what to compute, for `device` auto, cpu, cuda or cuda:N and `dtype` auto or a format.

    Raises EncoderError.
    """
    if dtype not in ("auto", *FORMATS):
        raise EncoderError(f"dtype {dtype!r} is not known: choose auto, {', '.join(FORMATS)}")
    place = _place(device, machine)
    if place == "cpu":
        format_, why = _cpu_format(dtype, machine)
        return Choice(place, format_, why if device == "cpu" or machine.gpus else f"{why}, no GPU found")
    format_, why = _gpu_format(dtype, machine)
    return Choice(place, format_, f"{machine.gpus[int(place[5:])]}, {why}")


def _place(device: str, machine: Capabilities) -> str:
    if device == "auto":
        return "cuda:0" if machine.gpus else "cpu"
    if device == "cpu":
        return "cpu"
    kind, _, number = device.partition(":")
    if kind != "cuda" or not (number or "0").isdecimal():
        raise EncoderError(f"device {device!r} is not known: choose auto, cpu, cuda or cuda:N")
    if not machine.gpus:
        raise EncoderError(
            f"device {device!r}: torch sees no GPU here; set the device to auto or cpu, or install torch with CUDA"
        )
    if int(number or 0) >= len(machine.gpus):
        raise EncoderError(
            f"device {device!r}: torch sees {len(machine.gpus)} GPU(s), so cuda:0 to cuda:{len(machine.gpus) - 1}"
        )
    return f"cuda:{int(number or 0)}"


def _gpu_format(dtype: str, machine: Capabilities) -> tuple[Format, str]:
    if dtype != "auto":
        return _as_format(dtype), f"{dtype} as set"
    return ("bfloat16", "which has bfloat16") if machine.gpu_bfloat16 else ("float16", "which has no bfloat16")


def _cpu_format(dtype: str, machine: Capabilities) -> tuple[Format, str]:
    if dtype == "float16":
        raise EncoderError("dtype 'float16' is slow and inexact on a CPU: choose auto, float32 or bfloat16")
    if dtype != "auto":
        return _as_format(dtype), f"{dtype} as set"
    if not machine.cpu_bfloat16:
        return "float32", "the CPU has neither amx nor avx512_bf16"
    gain = machine.cpu_gain()
    timed = f"{machine.cpu_bfloat16} timed at {gain:.1f}x float32's speed"
    return ("bfloat16", timed) if gain >= WORTH else ("float32", f"{timed}, which is not worth it")


def _as_format(dtype: str) -> Format:
    return next(each for each in FORMATS if each == dtype)


def probe() -> Capabilities:
    """Return what torch sees on this machine."""
    import torch

    gpus = tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) if torch.cuda.is_available() else ()
    native = bool(gpus) and torch.cuda.is_bf16_supported(including_emulation=False)
    return Capabilities(gpus, native, _cpu_bfloat16(), _time_cpu)


def _cpu_bfloat16() -> str:
    import torch

    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return ""
    return "amx" if torch.cpu._is_amx_tile_supported() else "avx512_bf16" if torch.cpu._is_avx512_bf16_supported() else ""


def _time_cpu() -> float:
    """Return float32's time over bfloat16's for four feed-forward blocks over 256 tokens: of each, the best of 10 turns."""
    import torch

    from encoders.compact import can_pack, pack, packed, plain

    seconds = []
    for dtype in (torch.float32, torch.bfloat16):
        linear, lay = (packed, pack) if can_pack(dtype) else (plain, torch.Tensor.contiguous)
        x = torch.ones(256, 384, dtype=dtype)
        up, down = (lay(torch.full(shape, 1e-3, dtype=dtype)) for shape in ((1536, 384), (384, 1536)))
        up_bias, down_bias = torch.zeros(1536, dtype=dtype), torch.zeros(384, dtype=dtype)
        turns = []
        with torch.inference_mode():
            for _ in range(10):
                began = time.perf_counter()
                for _ in range(4):
                    x = linear(linear(x, up, up_bias, True), down, down_bias, False)
                turns.append(time.perf_counter() - began)
        seconds.append(min(turns))
    return seconds[0] / seconds[1]
