"""The command that reports what users did with their lists: reads its options, and prints a table or JSON.

Does not join or count: `outcomes` does.

    NothingListed(LookupError)   no list was published in the time asked for: says what to check
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from streams import settings as all_settings
from streams.options import AsJson, Broker

LOST = 0.01  # share of events without a list from which on figures cannot be trusted
SUSPECT = 0.001  # users as unevenly split as this by chance were not split by chance
FEW = 100  # users of a row: below, its intervals are rough
HEADS = {
    "touched": "lists followed by a touch",
    "bought": "by a purchase",
    "touches": "touches per user",
    "place": "1 / place of the touch",
}
Moment = Annotated[str | None, typer.Option(metavar="WHEN", help="ISO 8601, or hours ago as 24.")]


class NothingListed(LookupError):  # noqa: N818  reads as what happened
    """No list was published in the time asked for."""


def report(
    since: Moment = None,
    until: Moment = None,
    window: Annotated[
        float, typer.Option(min=0.01, help="Minutes of the events' time within which a list may be acted on.")
    ] = 60.0,
    as_json: AsJson = False,
    broker: Broker = None,
) -> None:
    """Tell what users did with their lists, by variant of an experiment or by model. See docs/experiments.md.

    Example: [bold]headrace report --since 24[/bold]
    """
    now = time.time()
    first, last = _moment("--since", since, now), _moment("--until", until, now)
    if first is not None and last is not None and first >= last:
        raise typer.BadParameter(f"--since {since} is not before --until {until}: give a time to look at")
    settings = all_settings.load(broker=broker)
    from streams import experiments, outcomes
    from streams.rights import check_command_rights

    check_command_rights(settings, "report")
    with Console(stderr=True).status("reading lists and events"):
        found = outcomes.read(settings, 60.0 * window, first or 0.0, math.inf if last is None else last)
    told = outcomes.groups(found, experiments.of(settings))
    if not told:
        raise NothingListed("no list is of this time: is a worker running, and is --since early enough?")
    if as_json:
        import msgspec

        print(msgspec.json.encode(_values(found, told, first, last, window)).decode())
        return
    console = Console()
    for group in told:
        console.print(_table(group))
    for line in _remarks(found, told):
        console.print(line, highlight=False)


def _moment(option: str, given: str | None, now: float) -> float | None:
    if given is None:
        return None
    try:
        hours = float(given)
    except ValueError:
        pass
    else:
        if not math.isfinite(hours):
            raise typer.BadParameter(f"{option} is {given}: give a number of hours")
        return now - 3_600.0 * hours
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise typer.BadParameter(f"{option} is {given}: give ISO 8601, as 2026-01-31T12:00Z, or hours ago, as 24") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _table(group: Any) -> Table:
    name = f"experiment {group.experiment}" if group.experiment else "models"
    table = Table(Column("variant" if group.experiment else "model", no_wrap=True), title=name, title_justify="left")
    for head in ("users", "lists", *HEADS.values()):
        table.add_column(head, justify="right")
    for row in group.rows:
        cells = [_spelt(row.rates[rate], "") for rate in HEADS]
        table.add_row(row.name, str(row.users), str(row.lists), *cells)
        if row.ahead:
            table.add_row(f"  - {group.rows[0].name}", "", "", *[_spelt(row.ahead[rate], "+") for rate in HEADS])
    return table


def _spelt(estimate: Any, sign: str) -> str:
    """Return a figure and half of its interval, which is as wide on both sides."""
    if estimate is None:
        return "-"
    interval = estimate.interval()
    half = "" if interval is None else f" ± {interval.high - interval.mean:.4f}"
    return f"{estimate.mean:{sign}.4f}{half}"


def _remarks(found: Any, told: list[Any]) -> Iterator[str]:
    """Yield what has to be known beside the figures; what makes them doubtful begins with a warning."""
    yield "±: 95 % interval, of whole users; none where all users are alike"
    for group in told:
        if group.twice:
            yield f"{group.twice} users were in two variants of {group.experiment} and are left out: the split was changed"
        if group.split is not None:
            line = f"split of {group.experiment}: p = {group.split:.2g} of users as uneven as these by the shares"
            doubt = "warning: what is told of one variant is not of users like the others'; look for its cause first. "
            yield (doubt if group.split < SUSPECT else "") + line
        if any(row.users < FEW for row in group.rows):
            yield f"fewer than {FEW} users in a row: its intervals are rough"
    if told[0].experiment and found.models:
        count = sum(int(sums[0]) for own in found.models.values() for sums in own.values())
        yield f"{count} lists of no variant are left out"
    if not told[0].experiment and len(told[0].rows) > 1:
        yield "models that followed each other had other times and users: only an experiment tells which is better"
    if found.lost > LOST * found.events:
        whole = datetime.fromtimestamp(found.whole_since, timezone.utc).isoformat(timespec="seconds")
        yield (
            f"warning: of {found.events} events {found.lost} have no list any more, so rates are too low: Kafka keeps only the "
            f"newest list of a user of what is older than a day. After {whole} none is missing: --since {whole}"
        )


def _values(found: Any, told: list[Any], first: float | None, last: float | None, window: float) -> dict[str, Any]:
    """Return all of it for other programs."""
    return {
        "since": first,
        "until": last,
        "window_minutes": window,
        "events": found.events,
        "events_without_list": found.lost,
        "whole_since": found.whole_since,
        "groups": [
            {
                "experiment": group.experiment or None,
                "users_in_two_variants": group.twice,
                "split_p": group.split,
                "rows": [
                    {
                        "name": row.name,
                        "users": row.users,
                        "lists": row.lists,
                        **{rate: _interval(row.rates[rate]) for rate in HEADS},
                        "ahead_of_first": {rate: _interval(value) for rate, value in row.ahead.items()} or None,
                    }
                    for row in group.rows
                ],
            }
            for group in told
        ],
    }


def _interval(estimate: Any) -> dict[str, float | None] | None:
    if estimate is None:
        return None
    interval = estimate.interval()
    return dict(interval._asdict()) if interval is not None else {"mean": estimate.mean, "low": None, "high": None}
