"""Show verdicts: as tables, as one line of JSON, and as an HTML page with plots.

Knows no data and measures nothing. Figures are written with their 95 % intervals.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich import box
from rich.table import Table

from ranking.evaluate import Interval
from ranking.sources import FIRST
from streams.evaluation import Bucket, Row, Verdict

OVERALL_SHORT = ("coverage", "Gini", "novelty", "diversity", "calibration")
WHOLE = "all"  # the product's own row among those without a part
PART_HEADS = ("", "recall@{k}", "NDCG@{k}", "all ahead, recall", "all ahead, NDCG")
OVERALL = ("coverage", "gini", "novelty", "diversity", "calibration_error")


class ReportError(RuntimeError):
    """A report that cannot be drawn: says what to install."""


def tables(verdict: Verdict) -> list[Table]:
    """Return the rows with recall and NDCG; with the other figures and what the product is ahead by; with the lists' own.

    Three tables, so that each fits a terminal of 80 columns.
    """
    k = verdict.k
    heads = (f"recall@{k}", f"NDCG@{k}"), ("ahead, NDCG", f"MRR@{k}", f"hit@{k}", "seconds"), OVERALL_SHORT
    titles = f"{heading(verdict)}, {verdict.items:,} items, {verdict.known_events:,} events before", None, None
    made = [Table(title=title, title_justify="left", box=box.SIMPLE_HEAD) for title in titles]
    for own, names in zip(made, heads, strict=True):
        own.add_column("")
        for name in names:
            own.add_column(name, justify="right", no_wrap=True)
    for number, row in enumerate(verdict.rows):
        recall, ndcg, mrr, hit, *overall, ahead, seconds = _cells(row)
        for own, cells in zip(made, ((recall, ndcg), (ahead, mrr, hit, seconds), overall), strict=True):
            own.add_row(row.name, *cells, style=None if number else "bold")
    return made


def _cells(row: Row) -> list[str]:
    means = [
        interval(row.means["recall"]),
        interval(row.means["ndcg"]),
        *(short(row.means[name].mean) for name in ("mrr", "hit")),
    ]
    overall = [f"{row.overall[name]:.3f}" if name in row.overall else "" for name in OVERALL]
    ahead = row.ahead.get("ndcg")
    return [*means, *overall, interval(ahead, signed=True) if ahead else "", f"{row.seconds:.1f}"]


def heading(verdict: Verdict) -> str:
    """Return what a verdict is about, in a line."""
    lists = "without the user's history" if verdict.masked else "with the user's history"
    return f"{verdict.dataset}, {verdict.protocol} ({verdict.part}), {verdict.cases:,} lists {lists}, model {verdict.model}"


def bucket_table(verdict: Verdict, rows: int = 5) -> Table:
    """Return recall by the length of the history and by the age of what was wanted, of the first rows."""
    first = verdict.rows[0]
    title = f"recall@{verdict.k} by items in the history, and by whether anybody had touched what was wanted"
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    shown.add_column("")
    parts = _parts(first)
    for label, bucket in parts.items():
        shown.add_column(f"{label}\n{bucket.cases:,}", justify="right", no_wrap=True)
    for row in verdict.rows[:rows]:
        own = _parts(row)
        shown.add_row(row.name, *[short(own[label].recall.mean) for label in parts])
    return shown


def part_tables(verdict: Verdict) -> list[Table]:
    """Return the table of the whole model and of what is left without a part of it; none where no part was left out."""
    if not verdict.parts:
        return []
    shown = Table(title="what each part of the model is worth: the whole, and without it", box=box.SIMPLE_HEAD)
    shown.title_justify = "left"
    for name in PART_HEADS:
        shown.add_column(name.format(k=verdict.k), justify="right" if name else "left", no_wrap=True)
    for row in (verdict.rows[0], *verdict.parts):
        shown.add_row(*_part_cells(row), style=None if row.ahead else "bold")
    return [shown]


def _part_cells(row: Row) -> list[str]:
    ahead = [interval(row.ahead[name], signed=True) if row.ahead else "" for name in ("recall", "ndcg")]
    return [row.name if row.ahead else WHOLE, *(short(row.means[name].mean) for name in ("recall", "ndcg")), *ahead]


def source_table(verdict: Verdict) -> Table:
    """Return how much of what is wanted each source of candidates finds by itself."""
    title = _sources_title(verdict)
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, min_width=len(title))
    shown.add_column("source")
    shown.add_column(f"recall@{FIRST}", justify="right", no_wrap=True)
    for name, recall in verdict.reach.items():
        shown.add_row(name, short(recall))
    return shown


def _sources_title(verdict: Verdict) -> str:
    return f"What each source finds, {verdict.reach_cases:,} cases; {verdict.candidates:.0f} candidates merged on average"


def line(verdicts: Mapping[str, Verdict], seconds: float, **on: Any) -> str:
    """Return one line of JSON. verdicts: what stands before the names of its figures -> the verdict."""
    figures: dict[str, float] = {}
    intervals: dict[str, list[float]] = {}
    beside: dict[str, float] = {}
    baselines: dict[str, dict[str, float]] = {}
    buckets: dict[str, Any] = {}
    ablation: dict[str, dict[str, float]] = {}
    sources: dict[str, float] = {}
    for prefix, verdict in verdicts.items():
        ours = verdict.rows[0]
        for name in ("recall", "ndcg"):
            key = f"{prefix}{name}@{verdict.k}"
            figures[key], intervals[key] = _rounded(ours.means[name].mean), [_rounded(end) for end in ours.means[name][1:]]
            for row in verdict.rows[1:]:
                baselines.setdefault(row.name, {})[key] = _rounded(row.means[name].mean)
            for row in verdict.parts:
                ablation.setdefault(WHOLE, {})[key] = figures[key]
                ablation.setdefault(row.name, {})[key] = _rounded(row.means[name].mean)
        beside |= {f"{prefix}{name}": _rounded(each.mean) for name, each in ours.means.items() if name in ("mrr", "hit")}
        beside |= {f"{prefix}{name}": _rounded(value) for name, value in ours.overall.items()}
        buckets |= {f"{prefix}{row.name}": _buckets(row) for row in verdict.rows}
        if verdict.reach:
            sources |= {f"{prefix}{name}": _rounded(recall) for name, recall in verdict.reach.items()}
            beside |= {f"{prefix}candidates": _rounded(verdict.candidates), f"{prefix}source_cases": verdict.reach_cases}
    parts = {"intervals": intervals, "baselines": baselines, "beside": beside, "buckets": buckets, "sources": sources}
    said = {**figures, **parts}
    if ablation:
        said["ablation"] = ablation
    return msgspec.json.encode({**said, "on": on, "seconds": round(seconds, 1)}).decode()


def _buckets(row: Row) -> dict[str, list[float]]:
    """Return label -> cases, recall and NDCG."""
    parts = {**{f"known {label}": each for label, each in row.by_known.items()}, **row.by_age}
    return {label: [each.cases, _rounded(each.recall.mean), _rounded(each.ndcg.mean)] for label, each in parts.items()}


def interval(value: Interval, *, signed: bool = False) -> str:
    """Return a mean with the ends of its interval, as `.134 [.127 .141]`."""
    return f"{short(value.mean, signed)} [{short(value.low, signed)} {short(value.high, signed)}]"


def short(value: float, signed: bool = False) -> str:
    """Return four digits after the point, without the nought before it."""
    return f"{value:{'+' if signed else ''}.4f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


# -- plots


def write(verdicts: Sequence[Verdict], folder: Path) -> Path:
    """Write report.html and its plots as PNG files into a folder; return the page. Raises ReportError without matplotlib."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for number, verdict in enumerate(verdicts):
        path = folder / f"{verdict.dataset}-{verdict.protocol}-{'masked' if verdict.masked else 'all'}-{number}.png"
        own = _html(verdict), _sources_html(verdict), _part_html(verdict)
        parts.append(f"<h2>{html.escape(heading(verdict))}</h2>{''.join(own)}")
        pictures = [base64.b64encode(picture.read_bytes()).decode() for picture in _plot(verdict, path)]
        parts += [f"<img src='data:image/png;base64,{picture}'>" for picture in pictures]
    page = folder / "report.html"
    page.write_text(PAGE.replace("BODY", "\n".join(parts)), "utf-8")
    return page


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Evaluation</title>
<style>body{font:15px/1.5 sans-serif;margin:2em auto;max-width:1100px;color:#222}table{border-collapse:collapse;margin:1em 0}
td,th{padding:.25em .7em;text-align:right;border-bottom:1px solid #ddd;font-variant-numeric:tabular-nums}
td:first-child,th:first-child{text-align:left}tr.ours{font-weight:bold}img{max-width:100%}</style>
<h1>Evaluation</h1><p>Means with 95 % bootstrap intervals over users. "ahead": the product less the row, paired; an interval
that does not hold 0 tells them apart.</p>
BODY
</html>
"""


def _html(verdict: Verdict) -> str:
    k = verdict.k
    heads = ("", f"recall@{k}", f"NDCG@{k}", f"MRR@{k}", f"hit@{k}", *OVERALL, "NDCG ahead", "seconds")
    rows = ["".join(f"<th>{html.escape(head)}</th>" for head in heads)]
    rows += ["".join(f"<td>{html.escape(cell)}</td>" for cell in (row.name, *_cells(row))) for row in verdict.rows]
    return _html_table(rows)


def _part_html(verdict: Verdict) -> str:
    if not verdict.parts:
        return ""
    rows = ["".join(f"<th>{html.escape(head.format(k=verdict.k))}</th>" for head in PART_HEADS)]
    own = [_part_cells(row) for row in (verdict.rows[0], *verdict.parts)]
    return _html_table([*rows, *("".join(f"<td>{html.escape(cell)}</td>" for cell in cells) for cells in own)])


def _html_table(rows: Sequence[str]) -> str:
    """Return a table of rows of cells: heads, the product, others."""
    marked = [f"<tr{' class=ours' if number == 1 else ''}>{row}</tr>" for number, row in enumerate(rows)]
    return f"<table>{''.join(marked)}</table>"


def _sources_html(verdict: Verdict) -> str:
    if not verdict.reach:
        return ""
    head = f"<tr><th>source</th><th>recall@{FIRST}</th></tr>"
    rows = [f"<tr><td>{html.escape(name)}</td><td>{short(recall)}</td></tr>" for name, recall in verdict.reach.items()]
    return f"<p>{html.escape(_sources_title(verdict))}</p><table>{head}{''.join(rows)}</table>"


def _plot(verdict: Verdict, path: Path) -> tuple[Path, Path]:
    """Draw the rows and the buckets; return both pictures. Raises ReportError."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ReportError("plots need matplotlib: run `pip install 'headrace[report]'`") from None
    figure = Figure(figsize=(11, 3.2 + 0.25 * len(verdict.rows)), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, name in ((left, "recall"), (right, "ndcg")):
        _bars(axes, [row.name for row in verdict.rows], [row.means[name] for row in verdict.rows])
        axes.set_title(f"{'NDCG' if name == 'ndcg' else name}@{verdict.k}")
    figure.savefig(path, dpi=110)
    parts = Figure(figsize=(11, 4), layout="constrained")
    _groups(parts.subplots(), verdict)
    beside = path.with_name(f"{path.stem}-buckets.png")
    parts.savefig(beside, dpi=110)
    return path, beside


def _bars(axes: Any, names: Sequence[str], values: Sequence[Interval]) -> None:
    means = [value.mean for value in values]
    ends = [[value.mean - value.low for value in values], [value.high - value.mean for value in values]]
    axes.barh(range(len(names)), means, xerr=ends, color=["#1f77b4", *["#c8c8c8"] * (len(names) - 1)], capsize=3)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)


def _groups(axes: Any, verdict: Verdict, rows: int = 5) -> None:
    """Draw recall by bucket, a group of bars for each."""
    shown = verdict.rows[:rows]
    labels = [f"{label}\n({bucket.cases:,})" for label, bucket in _parts(shown[0]).items()]
    width = 0.8 / len(shown)
    for number, row in enumerate(shown):
        values = [bucket.recall for bucket in _parts(row).values()]
        ends = [[value.mean - value.low for value in values], [value.high - value.mean for value in values]]
        places = [place + width * number for place in range(len(values))]
        axes.bar(places, [value.mean for value in values], width, yerr=ends, label=row.name)
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(labels))], labels)
    axes.set_title(f"recall@{verdict.k} by items in the history, and of items new or known")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _parts(row: Row) -> dict[str, Bucket]:
    return {**row.by_known, **row.by_age}
