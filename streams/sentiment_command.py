"""The commands about opinions: train a head on rated texts, and ask one what it makes of a text.

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
from streams.terminal import bar

sentiment = typer.Typer(no_args_is_help=True, help="What reviews think: train a head on rated texts, for HEADRACE_SENTIMENT.")


@sentiment.command()
def train(
    reviews: Annotated[
        Path, typer.Option("--reviews", metavar="FILE", help="Rows with text and rating, events too: csv, jsonl or parquet.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The head to write.")] = Path("sentiment.safetensors"),
    columns: Map = [],  # noqa: B006  typer wants a list, and none is changed
    as_json: AsJson = False,
) -> None:
    """Train a head that tells good opinions from bad ones, for the encoder in use. See docs/language.md.

    Example: [bold]headrace sentiment train --reviews reviews.csv --map text=reviewText --map rating=stars[/bold]
    """
    import msgspec

    from encoders import sentiment as heads
    from streams import reviews as rated
    from streams.building import load_encoder

    settings = all_settings.load()
    with bar("reading") as progress:
        made, left_out = rated.from_file(reviews, settings.rating_scale, settings.text_length, parse_columns(columns), progress)
    encoder = load_encoder(settings)
    with bar("encoding") as progress:
        vectors = rated.vectors_of(encoder, [review.text for review in made], progress)
    with Console(stderr=True).status("training"):
        trained = rated.train(made, vectors, encoder.id)
    heads.save(trained.head, out)
    if as_json:
        print(msgspec.json.encode({**trained.head.report, "left_out": left_out, "encoder": encoder.id}).decode())
        return
    report = trained.head.report
    print(f"{report['good']} good and {report['bad']} bad texts learnt from, {left_out} rows left out")
    table = Table("of texts held out", Column("AUC", justify="right"), Column("95 %", justify="right"))
    for name, figure in (("this head", trained.auc), ("cue words", trained.cues)):
        table.add_row(name, f"{figure.mean:.3f}", f"{figure.low:.3f}-{figure.high:.3f}")
    Console().print(table)
    print(f"next: HEADRACE_SENTIMENT={out} for every worker, import and rebuild")


@sentiment.command()
def judge(
    texts: Annotated[list[str], typer.Argument(help="What to judge.")],
    head: Annotated[Path, typer.Option("--head", metavar="FILE", help="A head of `headrace sentiment train`.")] = Path(
        "sentiment.safetensors"
    ),
) -> None:
    """Show what a head makes of texts, from -1 to 1. Example: [bold]headrace sentiment judge "真好喝" "disappointing"[/bold]"""
    from encoders import sentiment as heads
    from streams.building import load_encoder

    loaded = heads.load(head)
    encoder = load_encoder(all_settings.load())
    loaded.check(encoder.id, encoder.dim)
    for text, opinion in zip(texts, loaded.opinions(encoder.encode(texts)), strict=True):
        print(f"{opinion:+.2f}  {text}")
