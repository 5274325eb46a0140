"""Train a model from beginning to end: vectors of the items, a cut in time, the fits with their progress, figures of it.

Does not know where the data come from, nor how a model is fitted. Unless all events are asked for, a model learns from the
first 70 % and is asked for what its users did in the next 10 %. The last 20 % are what `headrace evaluate` asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec
from rich.console import Console

from encoders import Encoder
from encoders.device import choose, probe
from ranking import bundle, features
from ranking.bundle import Bundle, sealed
from ranking.index import ItemIndex
from ranking.team import ALONE, Team
from ranking.train import Plan, Tell
from streams import evaluation, report
from streams.answers import Remembered, index_of, remembered
from streams.building import build
from streams.catalogue import item_text
from streams.checkpoint import Checkpoint, digest_of
from streams.curves import curves
from streams.datasets import Dataset
from streams.evaluation import Verdict
from streams.messages import Event
from streams.settings import Settings
from streams.terminal import Show, stages
from streams.training import Sizes, train
from streams.trial import Trial, trial

PROTOCOL = "split"
KEPT_SETTINGS = {  # what a profile comes of
    *("long_half_life_days", "short_half_life_hours", "avoid_half_life_days", "asked_half_life_hours"),
    *("rating_scale", "event_weights", "text_length", "sentiment"),
}


@dataclass(frozen=True)
class Order:
    """What is asked for. out: the bundle's folder; resume: where what is finished is kept; curves: TensorBoard's folder."""

    out: Path
    plan: Plan
    sizes: Sizes
    everything: bool = False
    resume: Path | None = None
    curves: Path | None = None


def run(dataset: Dataset, order: Order, console: Console) -> Bundle:
    """Train, save the bundle, print its figures beside those of others, and return it.

    Of a team, the first process alone saves and measures; the towers that the others return are the same.
    Raises TrainingError, DatasetError, EncoderError, TensorBoardMissing.
    """
    plan, team = order.plan, order.plan.team
    many = f", in each of {team.size} processes" if team.size > 1 else ""
    settings = evaluation.settings_for(dataset, dataset.k, masked=False)
    if team.size > 1:
        settings = settings.model_copy(update={"device": plan.device})
    asked = None if order.everything else trial(dataset, PROTOCOL, "valid")
    known = dataset.events if asked is None else asked.known
    with curves(order.curves if team.is_first else None) as write, stages(is_shown=team.is_first) as show:
        encoder, index = team.first_then_others(lambda: _encoded(dataset, settings, team, console, show))
        console.print(f"the towers are fitted on {plan.device} in {plan.dtype}{many}", markup=False)
        made = _fit(dataset, known, order, settings, encoder, index, _teller(plan, show, write), console)
        if not team.is_first:
            return made
        bundle.save(made, order.out)  # the figures take a while
        if asked is None:
            return made
        verdict = _judge(made, dataset, asked, encoder, index, lambda share: show("figures", share))
    made = _with_report(made, held_out=_figures(verdict))
    bundle.save(made, order.out)
    for table in report.tables(replace(verdict, model=made.head.version))[:2]:
        console.print(table)
    return made


def plan_for(settings: Settings, seed: int, epochs: int, device: str, team: Team = ALONE) -> Plan:
    """Return the plan of a training on a device, as settings name it, in the settings' number format. Raises EncoderError.

    On a CPU "auto" is float32: what half the bits gain there is timed for encoders, not for a fit.
    """
    machine = probe()
    place = choose(device, "float32", machine).device
    dtype = "float32" if (place, settings.dtype) == ("cpu", "auto") else choose(place, settings.dtype, machine).dtype
    return Plan(epochs=epochs, seed=seed, device=place, dtype=dtype, team=team)


def _encoded(dataset: Dataset, settings: Settings, team: Team, console: Console, show: Show) -> tuple[Remembered, ItemIndex]:
    """Return the encoder and an index of the items, whose vectors are kept in the cache."""
    encoder = remembered(settings)
    console.print(encoder.reason, markup=False)
    index = index_of(dataset.items, float(dataset.events[0].at), encoder, settings, lambda share: show("items", share))
    if team.is_first:
        encoder.save()
    return encoder, index


def _fit(
    dataset: Dataset,
    known: Sequence[Event],
    order: Order,
    settings: Settings,
    encoder: Encoder,
    index: ItemIndex,
    tell: Tell,
    console: Console,
) -> Bundle:
    """Fit on the events that are known, going on from what was finished before."""
    kept = settings.model_dump(mode="json", include=KEPT_SETTINGS)
    personalizer = build(encoder, settings, index)
    checkpoint = None
    if order.resume is not None:
        judges = None if (head := personalizer.head) is None else [*head.weights.tolist(), head.bias]
        start = (encoder.id, features.NAMES, asdict(order.plan), asdict(order.sizes), kept, judges, dataset.least)
        checkpoint = Checkpoint(order.resume, digest_of(start, dataset.items, known), order.plan.team)
    made = train(
        personalizer,
        known,
        dataset.is_wanted,
        texts={item.item_id: item_text(item) for item in dataset.items},
        sizes=order.sizes,
        plan=order.plan,
        settings=kept,
        tell=tell,
        keep=checkpoint.keep if checkpoint is not None else lambda name, make: make(),
    )
    if checkpoint is not None and checkpoint.found:
        console.print(f"finished before, and taken from {order.resume}: {', '.join(checkpoint.found)}", markup=False)
    return _with_report(made, until=float(known[-1].at), seed=order.plan.seed)


def _judge(
    made: Bundle,
    dataset: Dataset,
    asked: Trial,
    encoder: Encoder,
    index: ItemIndex,
    progress: Callable[[float], None],
) -> Verdict:
    """Return the figures of the product with the model, without it, and of simple baselines."""
    return evaluation.run(
        dataset,
        asked,
        evaluation.settings_for(dataset, dataset.k, masked=True),
        encoder,
        index,
        masked=True,
        baselines=evaluation.simple_baselines,
        make=evaluation.with_model(made),
        also={"headrace, zero-shot": build},
        progress=progress,
    )


def _figures(verdict: Verdict) -> dict[str, object]:
    """Return what a bundle tells of itself: the mean recall and NDCG of each row, rounded."""
    means = {name: {row.name: round(row.means[name].mean, 4) for row in verdict.rows} for name in ("recall", "ndcg")}
    return {"protocol": verdict.protocol, "k": verdict.k, "lists": verdict.cases, **means}


def _with_report(made: Bundle, **more: object) -> Bundle:
    return sealed(msgspec.structs.replace(made.head, report={**made.head.report, **more}), made.items, made.tensors)


def _teller(plan: Plan, show: Show, write: Tell) -> Tell:
    """Return what shows a fit's progress and writes its curves. The towers are fitted twice: before M, and at last."""
    seen: set[str] = set()

    def tell(what: str, epoch: int, figures: dict[str, float]) -> None:
        seen.add(what)
        stage = "last towers" if what == "towers" and "ranker" in seen else what
        if "share" in figures:
            show(stage, figures["share"])
            return
        note = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in figures.items())
        show(stage, epoch / plan.epochs, f"epoch {epoch}: {note}")
        write(stage, epoch, figures)

    return tell
