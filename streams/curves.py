"""Write figures of a training where TensorBoard reads them.

Does not know what is trained.

    TensorBoardMissing(RuntimeError)   curves are asked for and nothing can write them: says what to install
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Write = Callable[[str, int, dict[str, float]], None]  # what, epoch, figures


class TensorBoardMissing(RuntimeError):  # noqa: N818  reads as what happened
    """Curves are asked for, and nothing can write them."""


@contextmanager
def curves(folder: Path | None) -> Iterator[Write]:
    """Yield what writes figures where TensorBoard reads them."""
    if folder is None:
        yield lambda what, epoch, figures: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise TensorBoardMissing("--tensorboard needs tensorboard: run `pip install 'headrace[train]'`") from None
    writer = SummaryWriter(str(folder))

    def write(what: str, epoch: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            writer.add_scalar(f"{what}/{name}", value, epoch)

    try:
        yield write
    finally:
        writer.close()
