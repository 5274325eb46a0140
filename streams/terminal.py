"""The progress bars of the commands: of one thing, or of several stages.

Does not know what progresses. Drawn on standard error, and only where that is a terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Show(Protocol):
    """Shows how far a stage is. share: 0-1; note: what stands behind its bar."""

    def __call__(self, stage: str, share: float, note: str = "") -> None:
        """Show it."""


@contextmanager
def bar(doing: str) -> Iterator[Callable[[float], None]]:
    """Show a bar for the block and yield what sets the share done, 0-1."""
    console = Console(stderr=True)
    if not console.is_terminal:  # rich would write an empty line
        yield lambda share: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(doing, total=1.0)
        yield lambda share: progress.update(task, completed=share)


@contextmanager
def stages(*, is_shown: bool = True) -> Iterator[Show]:
    """Show a bar for each stage, from its first share on, and leave them all when the block ends."""
    console = Console(stderr=True)
    if not (is_shown and console.is_terminal):
        yield lambda stage, share, note="": None
        return
    note = TextColumn("{task.fields[note]}")
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), note)
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as progress:

        def show(stage: str, share: float, note: str = "") -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=1.0, note=note)
            progress.update(tasks[stage], completed=share, note=note)

        yield show
