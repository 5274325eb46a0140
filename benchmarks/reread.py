"""What it costs to read lists once more: latency of the lists as they are ranked, with the setting on and off in turns.

`python -m benchmarks.reread --broker kafka` starts a broker, a worker and a client as `benchmarks.flow` does. First users
click, so that something is known of them; then text events come at each rate for `--seconds`, to a worker without a
cross-encoder and to one with it, in turns that begin with the other of the two each time. A latency is from when an event was
due to when the list as it was ranked is in the client. Without `--model` the cross-encoder is the encoder's weights with a
head that one epoch on a few rows has taught nothing: its times are those of a taught one, its order is none, so that nearly
every list changes.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks import flow, stage, texts
from benchmarks.figures import percentile
from streams.broker import HOST, BrokerError
from streams.settings import Settings, load
from streams.topics import create_topics, topics

CLICKS = 4  # a user
OUTCOMES = ("reread", "unchanged", "overtaken", "dropped", "failed")


def untaught(settings: Settings, titles: Sequence[str], folder: Path) -> Path:
    """Write a cross-encoder of the encoder's weights that has seen 64 rows once; return its folder."""
    rows, out = folder / "rows.jsonl", folder / "untaught"
    made = [{"user_text": titles[n], "item_text": titles[n + 1], "label": n % 2} for n in range(64)]
    rows.write_text("\n".join(map(json.dumps, made)), encoding="utf-8")
    command = [sys.executable, "-m", "streams", "finetune", "--task", "match", "--rows", str(rows), "--epochs", "1"]
    subprocess.run([*command, "--out", str(out)], env=stage.environment(settings), check=True, stdout=subprocess.DEVNULL)
    return out


class Turns:
    """One run: a bench on which two kinds of workers take turns."""

    def __init__(self, given: argparse.Namespace, bench: flow.Bench, model: Path) -> None:
        self.given, self.bench = given, bench
        plain = bench.settings
        on = {"rerank": model, "rerank_top": given.top, "rerank_weight": 100.0}  # so that lists change and are sent again
        self.kinds = {"off": plain, "on": plain.model_copy(update=on)}
        self.taken_ms: dict[tuple[float, str], list[Any]] = {}
        self.told: dict[float, list[dict[str, float]]] = {}

    def play(self) -> None:
        """Measure each rate, each kind as often as asked."""
        for rate in self.given.rates:
            for turn in range(self.given.repeats):
                for kind in ("off", "on") if turn % 2 == 0 else ("on", "off"):
                    self._turn(rate, kind)

    def _turn(self, rate: float, kind: str) -> None:
        worker, given = self.bench.worker, self.given
        worker.settings = self.kinds[kind]
        worker.start()
        worker.until_ready()
        worker.until_calm()
        given.rate = rate
        client, out = self.bench._client("open", f"{kind}-{rate:g}")
        answered = self.bench._answer(client)
        if answered["unanswered"]:
            raise stage.BenchmarkError(f"{answered['unanswered']} events had no list")
        taken: Any = np.load(out)["taken_s"] * 1e3
        self.taken_ms.setdefault((rate, kind), []).append(taken)
        if kind == "on":
            self.told.setdefault(rate, []).append(_told(worker))
        self.bench.say(f"{rate:g} a second, {kind}: p50 {percentile(taken, 0.5):.1f} ms, p99 {percentile(taken, 0.99):.1f} ms")
        worker.end()

    def figures(self) -> list[dict[str, Any]]:
        """Return what was measured at each rate."""
        return [self._figures(rate) for rate in self.given.rates]

    def _figures(self, rate: float) -> dict[str, Any]:
        made: dict[str, Any] = {"rate": rate, "top": self.given.top}
        for kind in self.kinds:
            turns = self.taken_ms[rate, kind]
            every: Any = np.concatenate(turns)
            made |= {f"{kind}_p{share * 100:g}_ms": round(percentile(every, share), 1) for share in (0.5, 0.95, 0.99)}
            made[f"{kind}_p99_ms_each"] = [round(percentile(turn, 0.99), 1) for turn in turns]
        told = self.told[rate]
        return made | {name: round(sum(each[name] for each in told) / len(told), 1) for name in told[0]}


def _told(worker: stage.Worker) -> dict[str, float]:
    """Return what a worker's metrics say of its rereading: lists by outcome, and means in ms."""
    with urllib.request.urlopen(worker._url("metrics"), timeout=10) as answer:
        text = answer.read().decode()

    def value(name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def mean_ms(name: str) -> float:
        return 1e3 * value(f"{name}_sum") / max(1.0, value(f"{name}_count"))

    outcomes = {outcome: value(f'headrace_rereads_total{{outcome="{outcome}"}}') for outcome in OUTCOMES}
    judging, reread = mean_ms("headrace_reread_judging_seconds"), mean_ms("headrace_list_to_reread_seconds")
    return {**outcomes, "judging_mean_ms": judging, "list_to_reread_mean_ms": reread}


def run(given: argparse.Namespace, console: Console) -> Turns:
    """Measure everything. Raises BenchmarkError, BrokerError."""
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    settings = load(
        encoder=given.encoder, app_id="benchmark", web_host=HOST, web_port=stage.free_port(), state_dir=given.folder / "state"
    )
    given.made_words = texts.words(given.words)
    catalogue, settings = flow.prepare(given, settings, console)
    model = given.model or untaught(settings, [item.title for item in catalogue.items[:65]], given.folder)
    with ExitStack() as stack:
        address = stack.enter_context(stage.broker(given.broker, given.folder / "broker"))
        settings = settings.model_copy(update={"broker": address})
        create_topics(settings)
        worker = stack.enter_context(stage.worker(settings, given.folder / "worker.log"))
        bench = flow.Bench(given, settings, worker, catalogue, console)
        bench.first_start()
        bench._send_events(CLICKS * given.users, bench._click_event)
        stage.until_acknowledged(worker, topics(settings).events)
        worker.end()
        turns = Turns(given, bench, model)
        turns.play()
    return turns


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reread", description=__doc__.splitlines()[0])
    parser.add_argument("--broker", choices=("embedded", "kafka"), default="embedded", help="kafka needs KAFKA_HOME")
    parser.add_argument("--model", type=Path, help="folder of a cross-encoder; an untaught one when left out")
    parser.add_argument("--top", type=int, default=10, help="items that are read")
    parser.add_argument("--rates", type=float, nargs="+", default=[5.0, 50.0, 200.0], help="text events a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each turn")
    parser.add_argument("--repeats", type=int, default=2, help="turns of each kind and rate")
    parser.add_argument("--encoder", default="all-MiniLM-L6-v2")
    parser.add_argument("--items", type=int, default=4_000)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--words", type=int, default=5_000, help="different user texts")
    parser.add_argument("--warm-up", type=float, default=3.0, help="seconds before a turn is measured")
    parser.add_argument("--folder", type=Path, default=Path(".headrace/reread"), help="made anew by each run; holds the logs")
    parser.add_argument("--json", action="store_true", help="print one line of JSON for each rate last")
    return parser.parse_args([*(given or sys.argv[1:])], argparse.Namespace(load=0, new_items=0))


def main(given: argparse.Namespace) -> int:
    """Measure and print; return the exit code."""
    console = Console(stderr=True)
    try:
        figures = run(given, console).figures()
    except (stage.BenchmarkError, BrokerError) as error:
        console.print(f"[red]benchmark:[/] {error}", highlight=False)
        return 1
    for each in figures:
        print(json.dumps(each) if given.json else "\n".join(f"{name}: {value}" for name, value in each.items()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(arguments()))
