"""Arithmetic and shape of what a run measured: percentiles, the goals, the table and the one JSON line.

Knows no broker and no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from rich.table import Table

UNANSWERED = float("inf")  # what an event counts that no list ever answered


@dataclass(frozen=True)
class Goal:
    """A figure's name, what it is in words, and what it should reach: at least (`>=`) or at most (`<=`)."""

    name: str
    what: str
    sign: str
    bound: float

    def met(self, value: float) -> bool:
        """Tell whether a value reaches it."""
        return value >= self.bound if self.sign == ">=" else value <= self.bound


GOALS = (
    Goal("text_ratio", "drain of text events / raw encoder loop over the same texts", ">=", 0.80),
    Goal("click_ratio", "drain of click events / Faust's raw consume rate", ">=", 0.60),
    Goal("p50_ms", "event to list, open loop: p50, ms", "<=", 15.0),
    Goal("p99_ms", "event to list, open loop: p99, ms", "<=", 50.0),
    Goal("new_item_p99_s", "new item published -> first recommended: p99, s", "<=", 1.0),
    Goal("load_p99_ratio", "event to list p99 while items are loaded / without", "<=", 2.0),
    Goal("restart_s", "restart until it recommends again, s", "<=", 10.0),
    Goal("worker_mb", "memory of the worker besides the model, MB", "<=", 600.0),
)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed. Raises ValueError for no values.

    An order statistic: never a mean of two, so that an unanswered event (infinity) shows as itself.
    """
    if not len(values):
        raise ValueError("a percentile of no values: the run measured nothing")
    ordered = np.sort(np.asarray(values, np.float64))
    return float(ordered[max(0, int(np.ceil(share * len(ordered))) - 1)])


def median(values: Sequence[float]) -> float:
    """Return the middle value, the mean of the two middle ones of an even number."""
    return float(np.median(np.asarray(values, np.float64)))


def steady(at: Sequence[float], counts: Sequence[int], skip: float = 0.1) -> float:
    """Return things a second between the moment when a share `skip` of all was done and the last one.

    at: when each step was done, in seconds, in any order; counts: how many things it brought. What the step that reaches
    `skip` brought is not counted, as its work lies before the span. Raises ValueError when nothing comes after it.
    """
    order = np.argsort(np.asarray(at), kind="stable")
    moments, done = np.asarray(at)[order], np.cumsum(np.asarray(counts)[order])
    first = int(np.searchsorted(done, skip * done[-1]))
    start = int(np.searchsorted(moments, moments[first], side="right")) - 1  # steps of one moment are one step
    if moments[-1] <= moments[start]:
        raise ValueError(f"all {done[-1]} were done at one moment: measure more of them")
    return float((done[-1] - done[start]) / (moments[-1] - moments[start]))


def table(figures: Mapping[str, float], beside: Mapping[str, Any], on: Mapping[str, Any]) -> Table:
    """Return the figures with their goals, what was measured beside them, and what was measured on what."""
    shown = Table(title="Headrace, measured", title_justify="left")
    for name, justify in (("figure", "left"), ("measured", "right"), ("goal", "right"), ("", "left")):
        shown.add_column(name, justify=justify)  # type: ignore[arg-type]
    for goal in GOALS:
        value = figures[goal.name]
        verdict = "[green]reached" if goal.met(value) else "[red]missed"
        shown.add_row(goal.what, number(value), f"{goal.sign} {goal.bound:g}", verdict)
    shown.add_section()
    for name, value in beside.items():
        shown.add_row(f"[dim]{name}", _shown(value), "", "")
    shown.add_section()
    flat = {**on, **on.get("versions", {})}
    flat.pop("versions", None)
    for name, value in flat.items():
        shown.add_row(f"[dim]{name}", _shown(value), "", "")
    return shown


def line(figures: Mapping[str, float], beside: Mapping[str, Any], on: Mapping[str, Any]) -> str:
    """Return one line of JSON. A figure that is infinite (an event without a list) is null."""
    rounded = {name: _rounded(value) for name, value in figures.items()}
    return msgspec.json.encode({**rounded, "beside": _each(beside, _rounded), "on": dict(on)}).decode()


def number(value: float) -> str:
    """Return a value with three digits that matter."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " · ".join(_shown(each) for each in value)
    return number(value) if isinstance(value, float) else str(value)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}") if np.isfinite(value) else None
    return [_rounded(each) for each in value] if isinstance(value, (list, tuple)) else value


def _each(values: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    return {name: change(value) for name, value in values.items()}
