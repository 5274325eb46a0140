"""Look for better numbers of a plan with optuna: trials in a SQLite file, so that a search that was cut off goes on.

Does not know how a fit works. A trial is a whole fit, judged by dev alone; one that falls behind the others is ended early.

    SearchError(RuntimeError)   optuna is missing, or no trial came to an end: says what to do
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from encoders.finetune import Figures
from encoders.packaged import Source
from streams.settings import Settings
from streams.terminal import bar
from streams.tuning import Data, Order, fit, line

if TYPE_CHECKING:
    import optuna

STUDY = "finetune"


class SearchError(RuntimeError):
    """A search that cannot be made."""


def search(data: Data, order: Order, source: Source, settings: Settings, console: Console) -> tuple[Order, dict[str, Any]]:
    """Return the order with the best numbers found, and what was tried. Raises SearchError.

    The folder beside `out` that ends with -search holds the study and its plots.
    """
    try:
        import optuna
    except ImportError:
        raise SearchError("--search needs optuna: run `pip install 'headrace[finetune]'`") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder = order.out.with_name(f"{order.out.name}-search")
    folder.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'study.db'}")
    study = optuna.create_study(
        storage=storage,
        study_name=STUDY,
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=order.plan.seed + len(storage.get_all_studies())),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
    )
    try:
        _run(study, data, order, source, settings, console)
        _draw(study, folder, console)
        best = with_numbers(order, study.best_trial.params)
        console.print(f"the best of {len(study.trials)} trials: {study.best_trial.params}", markup=False, highlight=False)
        told = {"trials": len(study.trials), "best": study.best_trial.params, "value": study.best_value, "folder": str(folder)}
        return best, told
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _run(study: optuna.Study, data: Data, order: Order, source: Source, settings: Settings, console: Console) -> None:
    import optuna

    def objective(trial: optuna.Trial) -> float:
        chosen = replace(with_numbers(order, _asked(trial, order)), resume=None, curves=None)
        found: list[float] = []

        def tell(epoch: int, share: float, figures: Figures) -> None:
            progress((number + share) / max(1, order.search))
            if figures:
                found.append(_value(figures))
                trial.report(found[-1], epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned

        number = trial.number
        made = fit(data, chosen, source, settings, tell)
        console.print(
            f"trial {number}: {line(made.fit.history[made.fit.best - 1])}; {trial.params}", markup=False, highlight=False
        )
        return max(found)

    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    done = len(study.get_trials(states=ended))
    if done:
        console.print(f"{done} trials were made before", markup=False)
    with bar("searching") as progress:
        study.optimize(objective, n_trials=max(0, order.search - done))
    if not study.get_trials(states=ended[:1]):
        raise SearchError("no trial came to an end: give more of them")


def _value(figures: Figures) -> float:
    return next((value for name, value in figures.items() if name.startswith("ndcg")), -figures["loss"])


def _asked(trial: optuna.Trial, order: Order) -> dict[str, Any]:
    """Return a trial's numbers: around what is usual."""
    asked: dict[str, Any] = {
        "rate": trial.suggest_float("rate", 1e-5, 1e-3 if order.adapter != "none" else 2e-4, log=True),
        "batch": trial.suggest_categorical(
            "batch", sorted({max(2, order.plan.batch // 2), order.plan.batch, order.plan.batch * 2})
        ),
        "warmup": trial.suggest_float("warmup", 0.0, 0.3),
    }
    if order.task == "retrieve":
        asked["temperature"] = trial.suggest_float("temperature", 0.02, 0.2, log=True)
    if order.adapter != "none":
        asked["rank"] = trial.suggest_categorical("rank", sorted({max(1, order.rank // 2), order.rank, order.rank * 2}))
    return asked


def with_numbers(order: Order, numbers: dict[str, Any]) -> Order:
    """Return the order with a trial's numbers in the places of its own."""
    plan = replace(order.plan, **{name: value for name, value in numbers.items() if name in asdict(order.plan)})
    contrast = replace(order.contrast, **{name: value for name, value in numbers.items() if name in asdict(order.contrast)})
    return replace(order, plan=plan, contrast=contrast, rank=numbers.get("rank", order.rank))


def _draw(study: optuna.Study, folder: Path, console: Console) -> None:
    """Draw how the trials went, and which numbers mattered where there are enough to tell."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise SearchError("plots of a search need matplotlib: run `pip install 'headrace[report]'`") from None
    mpl.use("agg")
    from matplotlib import pyplot as plt
    from optuna.visualization import matplotlib as plots

    drawn = {"history": plots.plot_optimization_history}
    if len({trial.value for trial in study.trials if trial.value is not None}) > 1:
        drawn["importance"] = plots.plot_param_importances
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optuna calls its own plots experimental
        for name, plot in drawn.items():
            plot(study)
            plt.tight_layout()
            plt.savefig(folder / f"{name}.png", dpi=120)
            plt.close("all")
    console.print(f"plots: {folder}", markup=False)
