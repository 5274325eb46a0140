"""The command about images: train what ties them to texts.

Does not do any work of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from streams import settings as all_settings
from streams.options import AsJson, Map
from streams.rows import parse_columns

images = typer.Typer(no_args_is_help=True, help="Items' images: train what ties them to texts.")


@images.callback()
def _group() -> None:
    """Have typer take `train` for a command of a group that has no other yet."""


@images.command()
def train(
    items: Annotated[Path, typer.Option("--items", metavar="FILE", help="Items with images: csv, jsonl or parquet.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The folder to write.")] = Path("images"),
    columns: Map = [],  # noqa: B006  typer wants a list, and none is changed
    seed: Annotated[int, typer.Option(min=0, help="The same seed and data give the same figures.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Learn from items that have a text and an image what an image says, and when. See docs/images.md.

    Images are data: URIs or paths in HEADRACE_IMAGE_FOLDER.
    Example: [bold]headrace images train --items items.jsonl --out images-1[/bold]
    """
    import json

    from encoders import fusion
    from streams.image_training import train as fit

    settings = all_settings.load()
    made = fit(settings, items, parse_columns(columns), seed, Console(stderr=True, highlight=False))
    fusion.save(made, out)
    if as_json:
        print(json.dumps({"version": made.version, **made.report}))
        return
    table = Table(Column("found by"), Column("first", justify="right"), Column("mean reciprocal rank", justify="right"))
    for name, top in made.report["top1"].items():
        table.add_row(name, f"{top:.3f}", f"{made.report['mrr'][name]:.3f}")
    Console().print(table)
    print(f"{made.report['held_out']} items held out, asked for by words that their texts lack")
    print(f"{out} holds images {made.version}; next: HEADRACE_IMAGES={out} (docs/images.md)")
