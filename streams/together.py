"""Find the other processes of a training: what torchrun says in the environment, as a Team.

Does not know what they do together.

    TogetherError(ValueError)   processes that cannot work together: says how to start them
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

from ranking.team import Team

PATIENCE = timedelta(hours=12)  # one may wait while the first encodes a catalogue; torchrun ends all when one dies
NEEDED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class TogetherError(ValueError):
    """Processes that cannot work together."""


@contextmanager
def together(device: str) -> Iterator[tuple[Team, str]]:
    """Yield this process's team, and its device: with several processes each takes the GPU of its number on its machine.

    device: of the settings: auto, cpu, cuda or cuda:N. Raises TogetherError.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team(), device
        return
    if missing := [name for name in NEEDED if name not in os.environ]:
        raise TogetherError(f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set: start the processes with torchrun")
    own = _own_device(device, int(os.environ["LOCAL_RANK"]))
    if own != "cpu":
        torch.cuda.set_device(own)
    distributed.init_process_group("gloo" if own == "cpu" else "cpu:gloo,cuda:nccl", timeout=PATIENCE)
    try:
        yield Team(int(os.environ["RANK"]), size), own
    finally:
        distributed.destroy_process_group()


def _own_device(device: str, number: int) -> str:
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if device not in ("auto", "cuda"):
        raise TogetherError(f"several processes cannot share HEADRACE_DEVICE={device}: set it to auto, cuda or cpu")
    if number >= torch.cuda.device_count():
        raise TogetherError(
            f"process {number} of this machine finds {torch.cuda.device_count()} GPU(s): start one process for each GPU, or "
            "set HEADRACE_DEVICE to cpu"
        )
    return f"cuda:{number}"
