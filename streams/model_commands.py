"""The commands about models: train one, publish it, choose what workers rank with, and look.

Does not do any work of its own.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from streams import settings as all_settings
from streams.options import AsJson, Broker, EventType, Map
from streams.rows import parse_columns
from streams.terminal import bar

Folder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that `headrace train` wrote.")]
model = typer.Typer(no_args_is_help=True, help="Learned models: publish one, choose what workers rank with, go back.")


def train(
    events: Annotated[Path | None, typer.Option("--events", metavar="FILE", help="Past events: csv, jsonl or parquet.")] = None,
    items: Annotated[Path | None, typer.Option("--items", metavar="FILE", help="The items: csv, jsonl or parquet.")] = None,
    out: Annotated[Path, typer.Option("--out", metavar="BUNDLE", help="The folder to write.")] = Path("model"),
    columns: Map = [],  # noqa: B006  typer wants a list, and none is changed
    kind: EventType = None,
    from_topics: Annotated[
        bool, typer.Option("--from-topics", help="The topics' events and items, in place of files.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Learn from all events, with none left to measure on: for the model to publish.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="In one thread, the same seed and data give the same model.")] = 1,
    epochs: Annotated[int, typer.Option(min=2, help="At most; a fit ends earlier when it gets no better.")] = 30,
    width: Annotated[int, typer.Option(min=8, help="Width of the towers, an even number.")] = 96,
    resume: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep what is finished here, and go on from it when run again.")
    ] = None,
    tensorboard: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write curves for TensorBoard here.")] = None,
    broker: Broker = None,
) -> None:
    """Train a model on past events, and print what it is worth beside simple baselines. See docs/models.md.

    Example: [bold]headrace train --events examples/history.jsonl --items examples/catalogue.jsonl --out model[/bold]
    """
    if from_topics == (events is not None and items is not None) or (from_topics and (events or items or columns or kind)):
        raise typer.BadParameter("give --events and --items, or --from-topics alone")
    if width % 2:
        raise typer.BadParameter(f"--width is {width}: give an even number")
    from streams import trainer
    from streams.together import together
    from streams.training import Sizes

    settings = all_settings.load(broker=broker)
    with together(settings.device) as (team, device):
        plan = trainer.plan_for(settings, seed, epochs, device, team)
        dataset = team.from_first(lambda: _of_topics(settings) if from_topics else _of_files(events, items, columns, kind))
        order = trainer.Order(out, plan, Sizes(width=width), everything, resume, tensorboard)
        made = trainer.run(dataset, order, Console(quiet=not team.is_first))
    if team.is_first:
        if not everything:
            print("it has learnt from the first 70 % of the events; the same command with --all makes the one to publish")
        print(f"{out} holds model {made.head.version}; next: headrace model publish {out} --use")


def _of_topics(settings: all_settings.Settings) -> Any:
    from streams.corpus import from_topics

    with Console(stderr=True).status("reading the topics"):
        return from_topics(settings)


def _of_files(events: Path | None, items: Path | None, columns: list[str], kind: str | None) -> Any:
    from streams.datasets import from_files

    assert events is not None
    assert items is not None
    with bar("reading") as progress:
        return from_files(events, items, columns=parse_columns(columns), event_type=kind, progress=progress)


@model.command()
def publish(
    folder: Folder,
    is_used: Annotated[bool, typer.Option("--use", help="Have workers rank with it at once.")] = False,
    broker: Broker = None,
) -> None:
    """Put a model on the topic that workers follow. Example: [bold]headrace model publish model --use[/bold]"""
    from ranking import bundle
    from streams import releases
    from streams.building import load_encoder

    settings = all_settings.load(broker=broker)
    made = bundle.load(folder)
    encoder = load_encoder(settings)
    made.check(encoder.id, encoder.dim)
    with bar("publishing") as progress:
        gone = releases.publish(settings, made, progress)
    print(f"model {made.head.version} is published" + (f"; taken away: {', '.join(gone)}" if gone else ""))
    if is_used:
        _use(settings, made.head.version)


@model.command()
def use(
    version: Annotated[str, typer.Argument(help="A version of `headrace model list`, or zero-shot.")], broker: Broker = None
) -> None:
    """Have workers rank with a published model, or with none. Example: [bold]headrace model use zero-shot[/bold]"""
    _use(all_settings.load(broker=broker), version)


def _use(settings: all_settings.Settings, version: str) -> None:
    from streams import releases

    before = releases.use(settings, version)
    back = f"; to go back: headrace model use {before}" if before != version else ""
    print(f"workers rank with {version} from now on{back}")


@model.command(name="list")
def list_models(as_json: AsJson = False, broker: Broker = None) -> None:
    """Show the models on the topic, the newest first, and which one is in use. Example: [bold]headrace model list[/bold]"""
    import msgspec

    from streams import releases
    from streams.models import ZERO_SHOT
    from streams.rights import check_command_rights

    settings = all_settings.load(broker=broker)
    check_command_rights(settings, "model list")
    shelf = releases.on_topic(settings)
    before = shelf.in_use.before if shelf.in_use is not None else ""
    states = {before: "before", shelf.current: "in use"}
    if as_json:
        for version, message in reversed(shelf.versions.items()):
            told = {"version": version, "state": states.get(version, ""), "at": message.at, "report": message.report}
            print(msgspec.json.encode(told).decode())
        return
    table = Table(Column("model", no_wrap=True), "", "published", "learnt until", "events", "held out")
    for version, message in reversed(shelf.versions.items()):
        report = message.report
        cells = (_moment(message.at), _moment(report.get("until")), str(report.get("events", "")), _held_out(report))
        table.add_row(version, states.get(version, ""), *cells)
    table.add_row(ZERO_SHOT, states.get(ZERO_SHOT, ""), "", "", "", "")
    Console().print(table)


@model.command()
def show(folder: Folder) -> None:
    """Show what a bundle is of: encoder, sizes, training, figures. Example: [bold]headrace model show model[/bold]"""
    from ranking import bundle

    made = bundle.load(folder)
    head = made.head
    size = sum(value.nbytes for value in made.tensors.values())
    table = Table(show_header=False)
    for name, value in {
        "version": head.version,
        "format": head.format,
        "encoder": f"{head.encoder}, {head.dim} dims",
        "items with a residual": len(made.items),
        "tensors": f"{len(made.tensors)}, {size / 1e6:.1f} MB",
        **{f"shape: {name}": value for name, value in head.shape.items()},
        **{f"setting: {name}": value for name, value in head.settings.items()},
        **{f"training: {name}": value for name, value in head.report.items() if name not in ("until", "held_out")},
        "learnt until": _moment(head.report.get("until")),
        "held out": _held_out(head.report),
    }.items():
        table.add_row(name, str(value))
    Console().print(table)


def _moment(at: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(at)) if at is not None else ""


def _held_out(report: dict[str, Any]) -> str:
    """Return recall of the model and of what it is measured beside, the best first."""
    told = report.get("held_out")
    if not told:
        return ""
    best = sorted(told["recall"].items(), key=lambda pair: -pair[1])
    return f"recall@{told['k']}: " + ", ".join(f"{name} {value:.3f}" for name, value in best[:3])
