"""Tune a language model from beginning to end: rows to an objective, the fit with its progress, the folder and its report.

Does not know where rows come from, nor how a loss is computed. What decides is chosen on dev; test is asked once, at the end.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from encoders import adapters, domain, finetune, learner, matching, packaged, recipe, tuned
from encoders.adapters import Adapted, Kind
from encoders.finetune import Figures, Fit, Plan, Tell
from encoders.matching import Labelled, Match
from encoders.objectives import Contrast, Lessons, Retrieve
from encoders.packaged import Source
from streams.checkpoint import digest_of
from streams.curves import curves
from streams.settings import Settings
from streams.terminal import bar
from streams.tuning_rows import Texts, TuningError

Task = Literal["retrieve", "match", "domain"]
By = Literal["auto", "masked", "simcse"]


Data = Lessons | Labelled | Texts


@dataclass(frozen=True)
class Order:
    """What is asked for. out: the folder to write; by: how a domain is learnt; resume: where each epoch is kept.

    curves: TensorBoard's folder; search: trials of other plans before the fit; folds: fits on other parts before it.
    """

    task: Task
    out: Path
    plan: Plan = field(default_factory=Plan)
    contrast: Contrast = field(default_factory=Contrast)
    adapter: Kind = "none"
    rank: int = 8
    by: By = "auto"
    max_tokens: int = 128
    is_checkpointed: bool = False
    resume: Path | None = None
    curves: Path | None = None
    search: int = 0
    folds: int = 0


@dataclass(frozen=True)
class Tuned:
    """A fit and what it was of. size: how many parameters learnt, and how many there are."""

    objective: Any
    learner: learner.Learner
    adapted: Adapted
    fit: Fit
    size: tuple[int, int]
    before: Figures


def run(data: Data, order: Order, settings: Settings, console: Console) -> dict[str, Any]:
    """Tune, write the folder, and return its report.

    Raises EncoderError, FinetuneError, AdapterError, TuningError, SearchError.
    """
    tuned.refuse(order.out)
    began, worked = time.perf_counter(), time.process_time()
    source = packaged.resolve(settings.encoder, settings.cache_dir, lambda line: console.print(line, markup=False))
    console.print(told_of(data), markup=False)
    report: dict[str, Any] = {"task": order.task, "model": source.name}
    if order.folds:
        report["folds"] = _folds(data, order, source, settings, console)
    if order.search:
        from streams.tuning_search import search

        order, report["search"] = search(data, order, source, settings, console)
    with curves(order.curves) as write, bar("tuning") as progress:
        made = fit(data, order, source, settings, _teller(console, progress, write), console=console)
    report |= _report(made, order, data, console)
    report["seconds"] = round(time.perf_counter() - began, 1)
    report["cpu_seconds"] = round(time.process_time() - worked, 1)
    report["memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    model = made.adapted.merge()
    model = model.base_model if order.task == "domain" else model
    tuned.write(model, source.folder, made.learner.how, order.out, report, is_encoder=order.task != "match")
    return report


def told_of(data: Data) -> str:
    """Return what there is to learn from, in one line."""
    if isinstance(data, Texts):
        return f"{len(data.train)} texts to learn from, {len(data.dev)} for dev"
    what = f"{len(data.catalogue)} items" if isinstance(data, Lessons) else f"labels {', '.join(data.names)}"
    return f"{len(data.train)} rows to learn from, {len(data.dev)} for dev, {len(data.test)} for test; {what}"


def fit(
    data: Data,
    order: Order,
    source: Source,
    settings: Settings,
    tell: Tell,
    *,
    console: Console | None = None,
) -> Tuned:
    """Fit a model of a folder on the data. Raises what `run` raises."""
    objective, build = _objective(data, order, source)
    student = learner.load(
        source.folder, source.name, build, device_name=settings.device, dtype=settings.dtype, max_tokens=order.max_tokens
    )
    task = objective(student)
    steps = math.ceil(task.count / order.plan.accumulate) * order.plan.epochs
    before = task.figures(data.test) if isinstance(task, Retrieve) and isinstance(data, Lessons) else {}
    adapted = adapters.adapt(student.model, order.adapter, order.rank, steps, order.plan.seed)
    student.model = adapted.model
    size = adapters.counted(student.model)
    if order.is_checkpointed:
        student.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if console is not None:
        share = f"{size[0]:,} of {size[1]:,} parameters learn, {100 * size[0] / size[1]:.2f} %"
        console.print(f"{source.name} in {student.why}; {share}", markup=False)
    digest = recipe.fingerprint(source.folder, source.name)
    name = digest_of(
        [asdict(data)], [order.task, order.adapter, order.rank, order.max_tokens, order.by], [asdict(order.contrast)]
    )
    fitted = finetune.fit(
        task,
        order.plan,
        adapted,
        scaled=str(student.dtype) == "torch.float16",
        folder=order.resume,
        name=f"{digest} {name}",
        tell=tell,
    )
    if fitted.resumed and console is not None:
        console.print(f"{fitted.resumed} epochs were finished before, and taken from {order.resume}", markup=False)
    return Tuned(task, student, adapted, fitted, size, before)


def _objective(data: Data, order: Order, source: Source) -> tuple[Callable[[learner.Learner], Any], learner.Build]:
    """Return what makes the objective of a model, and what builds the model."""
    plan, sizes = order.plan, {"batch": order.plan.batch, "seed": order.plan.seed}
    if isinstance(data, Lessons):
        return (lambda student: Retrieve(student, data, order.contrast, **sizes)), learner.as_encoder
    if isinstance(data, Labelled):
        return (lambda student: Match(student, data, **sizes)), matching.as_classifier(data.names, plan.seed)
    fits = domain.can_mask(recipe.read(source.folder, source.name, can_encode=False), source.folder)
    if order.by == "masked" and not (fits and order.adapter == "none"):
        raise TuningError(
            f"--by masked needs a model with a mask and no adapter; {source.name} can learn by simcse: leave --by out"
        )
    if order.by == "simcse" or not fits or order.adapter != "none":
        return (lambda student: domain.Alike(student, data.train, data.dev, **sizes)), domain.as_dropped
    return (lambda student: domain.Masked(student, data.train, data.dev, **sizes)), domain.as_masked


def _teller(console: Console, progress: Callable[[float], None], write: Callable[[str, int, Figures], None]) -> Tell:
    """Return what shows how far a fit is, and prints and writes an epoch's figures."""

    def tell(epoch: int, share: float, figures: Figures) -> None:
        progress(share)
        if figures:
            console.print(f"epoch {epoch}: {line(figures)}", markup=False, highlight=False)
            write("tuning", epoch, figures)

    return tell


def line(figures: Figures) -> str:
    """Return figures in one line; `loss` alone is that of dev."""
    return ", ".join(f"{'dev loss' if name == 'loss' else name} {value:.4f}" for name, value in figures.items())


def _report(made: Tuned, order: Order, data: Data, console: Console) -> dict[str, Any]:
    """Return what is told of a fit, and print what test says."""
    told: dict[str, Any] = {
        "adapter": order.adapter,
        "rank": order.rank if order.adapter != "none" else None,
        "plan": asdict(order.plan),
        "contrast": asdict(order.contrast) if order.task == "retrieve" else None,
        "dtype": made.learner.why,
        "trainable": made.size[0],
        "parameters": made.size[1],
        "best_epoch": made.fit.best,
        "epochs": made.fit.history,
    }
    console.print(f"the best epoch is {made.fit.best} of {len(made.fit.history)}", markup=False, highlight=False)
    if isinstance(data, Lessons):
        told |= {"test_before": made.before, "test": made.objective.figures(data.test)}
        for name, figures in (("before", made.before), ("tuned", told["test"])):
            console.print(f"test, {name}: {line(figures).replace('dev loss', 'loss')}", markup=False, highlight=False)
    elif isinstance(data, Labelled):
        for part, numbers in (("dev", data.dev), ("test", data.test)):
            told[part], text = classified(made.objective, data, numbers)
            console.print(f"{part}:\n{text}", markup=False, highlight=False)
    return told


def classified(objective: Match, data: Labelled, numbers: Sequence[int]) -> tuple[dict[str, Any], str]:
    """Return scikit-learn's classification report of some pairs, as figures and as text."""
    from sklearn.metrics import classification_report

    asked: dict[str, Any] = {
        "y_true": [data.labels[number] for number in numbers],
        "y_pred": objective.chances(numbers).argmax(1),
        "labels": range(len(data.names)),
        "target_names": data.names,
        "zero_division": 0,
    }
    return classification_report(output_dict=True, **asked), str(classification_report(digits=3, **asked))


def _folds(data: Data, order: Order, source: Source, settings: Settings, console: Console) -> dict[str, Any]:
    """Return the dev figures of fits that each leave another share of the users out, their means and deviations."""
    found: list[Figures] = []
    for number in range(order.folds):
        part = fold_of(data, number, order.folds, order.plan.seed)
        made = fit(part, replace(order, resume=None), source, settings, lambda epoch, share, figures: None)
        found.append(made.fit.history[made.fit.best - 1])
        console.print(f"fold {number + 1} of {order.folds}: {line(found[-1])}", markup=False, highlight=False)
    spread = {
        name: [float(np.mean(each)), float(np.std(each, ddof=1))] for name in found[0] for each in [[f[name] for f in found]]
    }
    told = ", ".join(f"{name} {mean:.4f} ± {deviation:.4f}" for name, (mean, deviation) in spread.items())
    console.print(f"{order.folds} folds, mean and standard deviation: {told}", markup=False, highlight=False)
    return {"each": found, "mean_and_deviation": spread}


def fold_of(data: Data, number: int, count: int, seed: int) -> Lessons | Labelled:
    """Return data whose dev is a share of the users of train and dev, and whose train is the rest. Raises TuningError."""
    if isinstance(data, Texts):
        raise TuningError("--folds leaves users out, and a domain's texts have none: leave it out")
    if isinstance(data, Lessons):
        questions = [*data.train, *data.dev]
        own = _in_fold([question.group for question in questions], number, count, seed)
        train = [question for question, is_in in zip(questions, own, strict=True) if not is_in]
        return replace(data, train=train, dev=[question for question, is_in in zip(questions, own, strict=True) if is_in])
    pairs = [*data.train, *data.dev]
    own = _in_fold([data.users[pair] for pair in pairs], number, count, seed)
    train_pairs = [pair for pair, is_in in zip(pairs, own, strict=True) if not is_in]
    return replace(data, train=train_pairs, dev=[pair for pair, is_in in zip(pairs, own, strict=True) if is_in])


def _in_fold(groups: Sequence[int] | Sequence[str], number: int, count: int, seed: int) -> list[bool]:
    names = sorted(set(groups))  # type: ignore[type-var]
    if len(names) < count:
        raise TuningError(f"--folds {count} needs as many users, there are {len(names)}")
    place = {names[i]: fold % count for fold, i in enumerate(np.random.default_rng(seed).permutation(len(names)))}
    return [place[group] == number for group in groups]
