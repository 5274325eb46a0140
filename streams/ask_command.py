"""The command that asks a question in plain words: reads its options, and prints the answers as a table or JSON.

Does not ask or answer: `asking` does.
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from streams import settings as all_settings
from streams.options import AsJson, Broker, Titles


def ask(
    question: Annotated[str, typer.Argument(help='In plain words, as "quiet keyboards under 50 €".')],
    user: Annotated[
        str | None, typer.Option(help="Who asks: a worker answers, and it counts as interest. Nobody when left out.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Answers at most.")] = 10,
    wait_s: Annotated[float, typer.Option("--wait", min=0.1, help="Seconds to wait for a worker's answer.")] = 30.0,
    items: Titles = None,
    as_json: AsJson = False,
    broker: Broker = None,
) -> None:
    """Ask for items in plain words, with bounds of the price, brands and categories. See docs/language.md.

    Example: [bold]headrace ask "有没有适合送礼的绿茶？"[/bold]
    """
    from streams import asking
    from streams.watch import known_titles

    settings = all_settings.load(broker=broker)
    with Console(stderr=True).status("asking"):
        found = asking.of_user(settings, user, question, wait_s) if user else asking.of_nobody(settings, question)
    if as_json:
        for each in found[:count]:
            print(asking.line(each))
        return
    titles = known_titles(settings, items)
    table = Table("#", "item", Column("score", justify="right"), title=question, title_justify="left")
    for rank, each in enumerate(found[:count], 1):
        table.add_row(str(rank), titles.get(each.item_id, each.item_id), f"{each.score:.3f}")
    Console().print(table)
