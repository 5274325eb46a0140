"""A cross-encoder that has learnt, asked about pairs: how likely is it that this user wants this item?

Too slow for every candidate of every event, a forward pass for each: for the few at the top of a list, away from the hot path.
Knows no users, items or lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from encoders import EncoderError, learner

WANTED = ("wanted", "1", "1.0")  # labels that say so


class Judge:
    """A cross-encoder's folder, ready to be asked; `load` makes one. name: the folder's; reason: where it runs, and why."""

    def __init__(self, student: learner.Learner, wanted: int, threads: int | None = None) -> None:
        self._student, self._wanted, self._threads = student, wanted, threads
        self.name, self.reason = student.name, student.why

    @torch.inference_mode()
    def chances(self, user: str, items: Sequence[str]) -> NDArray[np.float32]:
        """Return (n,) float32 in [0, 1], in the order of the items' texts: the probability of the label that says wanted."""
        if not items:
            return np.zeros(0, np.float32)
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        rows = self._student.tokens([user] * len(items), items)
        logits = self._student.model(**self._student.inputs(rows, range(len(items)))).logits
        chances: NDArray[np.float32] = logits.float().softmax(1)[:, self._wanted].cpu().numpy()
        return chances


def load(
    folder: Path, *, device: str = "auto", dtype: str = "auto", max_tokens: int = 128, threads: int | None = None
) -> Judge:
    """Return the judge of a folder that `headrace finetune --task match` wrote. Raises EncoderError.

    threads: torch's, of the thread that asks, while it asks; those it has when left out.
    """
    if not folder.is_dir():
        raise EncoderError(f"{folder} is no folder: give one that `headrace finetune --task match` wrote")
    student = learner.load(folder, folder.absolute().name, _build, device_name=device, dtype=dtype, max_tokens=max_tokens)
    # Autocast would cast all weights anew with each call: of MiniLM's 30 ms for a pair these are 9.
    student.model.eval().to(student.dtype)
    names: dict[int, str] = student.model.config.id2label
    wanted = [number for number, name in names.items() if name in WANTED]
    if len(wanted) != 1:
        raise EncoderError(
            f"{folder} tells {', '.join(names.values())} apart, and one of its labels has to say that an item is wanted "
            f"({' or '.join(WANTED)}): tune one with such labels"
        )
    return Judge(student, wanted[0], threads)


def _build(folder: Path) -> Any:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    if not any(
        str(each).endswith("ForSequenceClassification") for each in AutoConfig.from_pretrained(folder).architectures or ()
    ):
        raise EncoderError(f"{folder} is no cross-encoder: give a folder that `headrace finetune --task match` wrote")
    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
