"""The commands that tune the language model and read lists with it. Does not do any work of its own."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from streams import settings as all_settings
from streams.options import AsJson, Broker, EventType, Map
from streams.rows import parse_columns
from streams.terminal import bar

if TYPE_CHECKING:
    from streams.tuning import Data

TASKS = ("retrieve", "match", "domain")
ADAPTERS = ("none", "lora", "adalora", "bottleneck")


def finetune(
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The folder to write, for HEADRACE_ENCODER.")],
    task: Annotated[
        str, typer.Option(help="retrieve: an encoder; match: a cross-encoder; domain: a domain's language first.")
    ] = "retrieve",
    pairs: Annotated[
        Path | None, typer.Option("--rows", metavar="FILE", help="user_text, item_text, label (and at): csv, jsonl or parquet.")
    ] = None,
    events: Annotated[
        Path | None, typer.Option("--events", metavar="FILE", help="In place of rows: past events, with --items.")
    ] = None,
    items: Annotated[Path | None, typer.Option("--items", metavar="FILE", help="The items of the events.")] = None,
    columns: Map = [],  # noqa: B006  typer wants a list, and none is changed
    kind: EventType = None,
    adapter: Annotated[str, typer.Option(help="none (all parameters), lora, adalora or bottleneck.")] = "none",
    rank: Annotated[int, typer.Option(min=1, help="Rank of LoRA and AdaLoRA, width of a bottleneck.")] = 8,
    epochs: Annotated[int, typer.Option(min=1, help="At most; the fit ends when dev gets no better.")] = 3,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without a better dev figure that end the fit.")] = 2,
    batch: Annotated[int, typer.Option(min=2, help="Rows of a step.")] = 32,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches that make one step.")] = 1,
    rate: Annotated[float, typer.Option(min=0, help="Highest learning rate of AdamW.")] = 2e-5,
    decay: Annotated[float, typer.Option(min=0, help="Weight decay.")] = 0.01,
    warmup: Annotated[float, typer.Option(min=0, max=1, help="Share of the steps in which the rate rises.")] = 0.1,
    temperature: Annotated[float, typer.Option(min=0.001, help="Of the softmax; retrieve.")] = 0.05,
    hard: Annotated[int, typer.Option(min=0, help="Hard negatives of each row, looked for anew each epoch; retrieve.")] = 0,
    bank: Annotated[
        int,
        typer.Option(
            min=0, help="Ask so many rows a step among all items, from remembered vectors; a batch is of texts; retrieve."
        ),
    ] = 0,
    adversarial: Annotated[
        float, typer.Option(min=0, help="Length of the step that moves word embeddings (FGM); 0 is off.")
    ] = 0.0,
    by: Annotated[str, typer.Option(help="auto, masked or simcse; domain.")] = "auto",
    max_tokens: Annotated[
        int | None, typer.Option(min=8, help="Length at which texts are cut; HEADRACE_MAX_TOKENS's when left out.")
    ] = None,
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Half the memory, a third more time.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="In one thread, the same seed and data give the same weights.")] = 1,
    resume: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep each epoch here, and go on from it when run again.")
    ] = None,
    tensorboard: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write curves for TensorBoard here.")] = None,
    search: Annotated[int, typer.Option(min=0, help="First try so many other numbers, kept beside --out.")] = 0,
    folds: Annotated[int, typer.Option(help="First fit so many times, each without another share of the users.")] = 0,
) -> None:
    """Tune the language model that HEADRACE_ENCODER names on what users did or wrote. See docs/finetuning.md.

    Example: [bold]headrace finetune --events examples/history.jsonl --items examples/catalogue.jsonl --out tuned[/bold]
    """
    _check(task, adapter, by, folds)
    if (pairs is None) == (events is None or items is None) or (pairs and (events or items or kind)):
        raise typer.BadParameter("give --rows, or --events and --items")
    settings = all_settings.load()
    if settings.encoder.startswith("hashing"):
        raise typer.BadParameter("HEADRACE_ENCODER is hashing, which has no weights to tune: name a model, as all-MiniLM-L6-v2")
    from encoders.finetune import Plan
    from encoders.objectives import Contrast
    from streams import tuning

    plan = Plan(epochs, batch, rate, decay, warmup, accumulate, patience, adversarial, seed)
    order = tuning.Order(
        task,  # type: ignore[arg-type]
        out,
        plan,
        Contrast(temperature, hard, bank),
        adapter,  # type: ignore[arg-type]
        rank,
        by,  # type: ignore[arg-type]
        max_tokens or settings.max_tokens,
        checkpointing,
        resume,
        tensorboard,
        search,
        folds,
    )
    tuning.run(_data(task, pairs, events, items, columns, kind, seed), order, settings, Console())
    print(f"{out} holds the tuned model; next: {_next(task, out)}")


def _check(task: str, adapter: str, by: str, folds: int) -> None:
    for option, value, known in (
        ("task", task, TASKS),
        ("adapter", adapter, ADAPTERS),
        ("by", by, ("auto", "masked", "simcse")),
    ):
        if value not in known:
            raise typer.BadParameter(f"--{option} {value!r} is not known: choose one of {', '.join(known)}")
    if folds == 1 or folds < 0:
        raise typer.BadParameter(f"--folds is {folds}: give 2 or more")


def _next(task: str, out: Path) -> str:
    return {
        "retrieve": f"HEADRACE_ENCODER={out} headrace import --rebuild",
        "domain": f"HEADRACE_ENCODER={out} headrace finetune --task retrieve",
        "match": f"headrace rerank USER --model {out}",
    }[task]


def _data(
    task: str, pairs: Path | None, events: Path | None, items: Path | None, columns: list[str], kind: str | None, seed: int
) -> Data:
    """Return what a task learns from."""
    from streams import tuning_rows as made

    names = parse_columns(columns)
    with bar("reading") as progress:
        if pairs is not None:
            rows = made.read_pairs(pairs, time.time(), names, progress)
            if task == "domain":
                return made.texts_of_pairs(rows)
            return made.lessons_of_pairs(rows) if task == "retrieve" else made.labelled_of_pairs(rows)
        from streams.datasets import from_files

        assert events is not None
        assert items is not None
        steps = made.steps_of(from_files(events, items, columns=names, event_type=kind, progress=progress))
    if task == "domain":
        return made.texts_of_steps(steps)
    return made.lessons_of_steps(steps) if task == "retrieve" else made.labelled_of_steps(steps, seed)


def rerank(
    user: Annotated[str, typer.Argument(help="Whose newest list.")],
    model: Annotated[Path, typer.Option("--model", metavar="FOLDER", help="A folder that `finetune --task match` wrote.")],
    top: Annotated[int, typer.Option(min=1, help="How many of the list's first.")] = 5,
    items: Annotated[Path | None, typer.Option("--items", metavar="FILE", help="Items of this file, not of the topic.")] = None,
    as_json: AsJson = False,
    broker: Broker = None,
) -> None:
    """Read the top of a user's newest list once more with a cross-encoder, and show it in that order. Publishes nothing.

    Example: [bold]headrace rerank ann --model judge --top 5[/bold]
    """
    from streams import rerank as rereading

    done = rereading.rerank(all_settings.load(broker=broker), user, model, top, items)
    if as_json:
        for item in done.items:
            print(json.dumps(item._asdict(), ensure_ascii=False))
        return
    Console().print(rereading.table_of(user, done))
    asked = sum(item.chance is not None for item in done.items)
    print(f"{asked} items were read with {model} in {done.ms:.1f} ms")
