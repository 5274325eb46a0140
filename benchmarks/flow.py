"""The whole path on this machine: drains, latency, new items, a bulk load, restarts, memory, each against its goal.

`python -m benchmarks.flow --broker embedded|kafka` starts a broker, its topics, `headrace worker` as a process and clients as
processes, all on 127.0.0.1, and ends them. It does not look inside the worker. How each figure comes about:

text_ratio      The worker is stopped, `--texts` text events without items are produced, the worker is started and works them
                off. Its rate is events over time from the list at which a tenth of the events is covered to the last list, by
                the lists' own timestamps (set when the worker hands them to its producer) and their `covers`. Before it, while
                the worker is stopped, `benchmarks.raw encoder` runs the same texts through the same encoder in batches of the
                size that the worker takes in a backlog: once on all cores, once on as many threads as the worker gives it.
                Each has the machine to itself. Ratio of the medians of `--repeats` turns, to the faster of the two loops;
                text_ratio_own_threads is the ratio to the other one.
click_ratio     The same with `--clicks` click events, against `benchmarks.raw faust`: a stock Faust app that reads the same
                records and does nothing. Items are clicked with a skew: the most popular hundredth gets a fifth of the clicks.
p50_ms, p99_ms  `benchmarks.client open`: `--rate` text events a second for `--seconds`, at random times, from when each was
                due to when its list is in the client, while nothing else goes on.
load_p99_ratio  The same again while `--load` new items go through the topic `items` (and are encoded): the p99 of the events
                due from the first item's sending to the last one's vector or the end of the open loop, over the p99 without.
new_item_p99_s  `benchmarks.client probe`: from an item's publishing to the first list that holds it, of a user who searches
                every 50 ms for what the item says, with `--rate` / 4 other events a second around.
restart_s       From the start of the process to the next event's list in the client, the worker having been stopped by SIGTERM;
                killed_s the same after SIGKILL; first_start_s without any state, all items read from Kafka.
worker_mb       Resident memory after the drains, less the bytes of the model's parameters and nothing else.
index_recall    Of the 100 nearest items (exact search), the share that the worker's index finds, for 1,000 user texts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
from numpy.typing import NDArray
from rich.console import Console

from benchmarks import figures, stage, texts
from benchmarks.figures import percentile
from benchmarks.stage import Message, Worker
from ranking.index import ItemIndex
from streams.broker import HOST, BrokerError
from streams.building import load_encoder
from streams.catalogue import item_text, text_hash
from streams.messages import Event, Item, ItemVector, encode
from streams.settings import Settings, load
from streams.terminal import bar
from streams.topics import create_topics, topics

FOLDER = Path(".headrace/benchmark")
RECALL_QUERIES = 1_000
OLDEST_ITEM_S = 90 * 86_400.0
SKEW = 3.0  # item = items * random ** SKEW
PACKAGES = ("headrace", "faust-streaming", "aiokafka", "torch", "faiss-cpu", "numpy", "noida-db")


@dataclass
class Catalogue:
    """The items and what their encoder made of them. extra: for the bulk load, not in the index at first."""

    items: list[Item]
    vectors: NDArray[np.float16]
    queries: NDArray[np.float16]
    extra: list[Item]
    encoder_id: str
    model_bytes: int


@dataclass
class Bench:
    """One run: what it runs with, and what it found."""

    given: argparse.Namespace
    settings: Settings
    worker: Worker
    catalogue: Catalogue
    console: Console
    figures: dict[str, float] = field(default_factory=dict)
    beside: dict[str, Any] = field(default_factory=dict)
    events: int = 0

    def say(self, what: str) -> None:
        """Tell on standard error what begins."""
        self.console.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {what}")

    @property
    def _client_log(self) -> Path:
        return Path(self.given.folder) / "client.log"

    # -- parts that measure

    def first_start(self) -> None:
        """Publish the catalogue's vectors, start a worker without state, and time its first list."""
        self.say(f"publishing {len(self.catalogue.items)} item vectors")
        total = len(self.catalogue.items)
        with bar("publishing") as progress:
            stage.send(self.settings, topics(self.settings).item_vectors, self._vectors(), lambda n: progress(n / total))
        self.say("first start of the worker")
        self.beside["first_start_s"] = self._start_to_list()
        self.worker.until_ready()
        self.worker.until_calm()

    def drains(self) -> None:
        """Work off text and click events, each in turn with what it is compared with."""
        rates: dict[str, list[float]] = {"text": [], "encoder": [], "encoder_own_threads": [], "click": [], "faust": []}
        for turn in range(self.given.repeats):
            self.worker.end()
            self.say(f"turn {turn + 1} of {self.given.repeats}: the encoder alone, then {self.given.texts} text events")
            rates["encoder"].append(self._raw_encoder("all"))
            rates["encoder_own_threads"].append(self._raw_encoder("own"))
            self._send_events(self.given.texts, self._text_event)
            rates["text"].append(self._drain())
            self.worker.until_calm()
            self.worker.end()
            self.say(f"turn {turn + 1} of {self.given.repeats}: Faust alone, then {self.given.clicks} click events")
            starts = self._send_events(self.given.clicks, self._click_event)
            rates["faust"].append(self._raw_faust(turn, starts))
            rates["click"].append(self._drain())
            self.worker.until_calm()
        middle = {name: statistics.median(values) for name, values in rates.items()}
        own = middle["encoder_own_threads"]
        self.figures["text_ratio"] = middle["text"] / max(middle["encoder"], own)
        self.beside["text_ratio_own_threads"] = middle["text"] / own
        self.figures["click_ratio"] = middle["click"] / middle["faust"]
        self.beside |= {f"{name}_per_s": values for name, values in rates.items()}

    def memory(self) -> None:
        """Read the worker's resident memory."""
        resident = psutil.Process(self.worker.pid).memory_info().rss
        self.figures["worker_mb"] = (resident - self.catalogue.model_bytes) / 1e6
        self.beside |= {"worker_rss_mb": resident / 1e6, "model_parameters_mb": self.catalogue.model_bytes / 1e6}

    def restarts(self) -> None:
        """Stop or kill the worker and time the next list; measure the snapshot's index after the first stop."""
        self.say("restarts")
        taken: dict[signal.Signals, list[float]] = {signal.SIGTERM: [], signal.SIGKILL: []}
        for how, times in taken.items():
            for _ in range(self.given.repeats):
                self.worker.end(how)
                if "index_items" not in self.beside:
                    self.index()
                times.append(self._start_to_list())
                self.worker.until_calm()
        self.figures["restart_s"] = max(taken[signal.SIGTERM])
        self.beside |= {"restarts_s": taken[signal.SIGTERM], "killed_s": taken[signal.SIGKILL]}

    def index(self) -> None:
        """Measure the index of the stopped worker's snapshot."""
        from benchmarks.index import measure_own

        head = json.loads((self.settings.state_dir / "snapshot.json").read_bytes())
        folder = self.settings.state_dir / head["folder"]
        index = ItemIndex.load(folder, self.catalogue.vectors.shape[1], self.catalogue.encoder_id)
        found = measure_own(index, self.catalogue.queries.astype(np.float32))
        self.beside |= {"index_items": len(index), "index_recall_at_100": found.recall, "index_us_per_query": found.us}

    def latency(self) -> None:
        """Send at a fixed rate, with nothing else going on."""
        self.say(f"{self.given.rate:g} text events a second for {self.given.seconds:g} s")
        client, out = self._client("open", "quiet")
        self._answer(client)
        found = np.load(out)
        taken_ms = found["taken_s"] * 1e3
        self.figures |= {"p50_ms": percentile(taken_ms, 0.5), "p99_ms": percentile(taken_ms, 0.99)}
        self.beside |= {
            "p95_ms": percentile(taken_ms, 0.95),
            "max_ms": float(taken_ms.max()),
            "client_late_p50_ms": percentile(found["late_s"], 0.5) * 1e3,
            "client_late_p99_ms": percentile(found["late_s"], 0.99) * 1e3,
        }

    def new_items(self) -> None:
        """Publish items one by one and wait for each to be recommended."""
        self.say(f"{self.given.new_items} new items")
        client, _ = self._client("probe", "probe")
        taken = [float("inf") if each is None else each for each in self._answer(client)["taken_s"]]
        self.figures["new_item_p99_s"] = percentile(taken, 0.99)
        self.beside |= {"new_item_p50_s": percentile(taken, 0.5), "new_item_max_s": max(taken)}
        self.worker.until_calm()

    def load(self) -> None:
        """Send at the same rate while new items are loaded."""
        count = len(self.catalogue.extra)
        self.say(f"the same while {count} items are loaded")
        names = topics(self.settings)
        before = stage.ends(self.settings, names.item_vectors).total
        client, out = self._client("open", "loaded")
        client.stdout.readline()  # it says when it begins to measure
        began = time.time()
        stage.send(self.settings, names.items, (Message(each.item_id.encode(), encode(each)) for each in self.catalogue.extra))
        done = 0
        with bar("loading") as progress, stage.open_reader(self.settings) as reader:

            def is_over() -> bool:
                nonlocal done
                done = stage.ends_by(reader, names.item_vectors).total - before
                progress(min(1.0, done / count))
                return done >= count or client.poll() is not None

            self.worker.until(is_over, "the items to be encoded")
        ended = time.time()
        self._answer(client)
        found = np.load(out)
        within = (found["due"] >= began) & (found["due"] <= ended)
        taken_ms = found["taken_s"][within] * 1e3
        self.figures["load_p99_ratio"] = percentile(taken_ms, 0.99) / self.figures["p99_ms"]
        self.beside |= {
            "loaded_p50_ms": percentile(taken_ms, 0.5),
            "loaded_p95_ms": percentile(taken_ms, 0.95),
            "loaded_p99_ms": percentile(taken_ms, 0.99),
            "loaded_events": int(within.sum()),
            "items_loaded": done,
            "items_loaded_per_s": done / (ended - began),
        }

    # -- their pieces

    def _vectors(self) -> Iterator[Message]:
        made = self.catalogue
        rng, now = random.Random(texts.SEED), time.time()
        for item, vector in zip(made.items, made.vectors, strict=True):
            message = ItemVector(
                item_id=item.item_id,
                title=item.title,
                vector=vector.astype("<f2").tobytes(),
                encoder=made.encoder_id,
                text_hash=text_hash(item_text(item)),
                at=now - rng.random() * OLDEST_ITEM_S,
                category=item.category,
                brand=item.brand,
                tags=item.tags,
                attributes=item.attributes,
            )
            yield Message(item.item_id.encode(), encode(message))

    def _start_to_list(self) -> float:
        """Start the worker and return the seconds until the list of an event that was sent meanwhile is here."""
        names = topics(self.settings)
        with stage.open_reader(self.settings) as reader:
            before = stage.ends_by(reader, names.recommendations).total
            began = self.worker.start()
            self._send_events(1, self._text_event)
            self.worker.until(
                lambda: stage.ends_by(reader, names.recommendations).total > before, "the first list after a start", 0.01
            )
            return time.perf_counter() - began

    def _send_events(self, count: int, make: Any) -> dict[int, int]:
        """Produce events; return partition -> the offset at which they begin."""
        topic = topics(self.settings).events
        before = stage.ends(self.settings, topic).offsets
        rng = random.Random(self.events)
        stage.send(self.settings, topic, (make(self.events + number, rng) for number in range(count)))
        self.events += count
        return before

    def _text_event(self, number: int, rng: random.Random) -> Message:
        words = self.given.made_words[number % len(self.given.made_words)]
        return self._event(number, rng, type=words.kind, text=words.text)

    def _click_event(self, number: int, rng: random.Random) -> Message:
        item = self.catalogue.items[int(len(self.catalogue.items) * rng.random() ** SKEW)]
        return self._event(number, rng, type="click", item_id=item.item_id)

    def _event(self, number: int, rng: random.Random, **fields: Any) -> Message:
        user = f"u{rng.randrange(self.given.users)}"
        return Message(user.encode(), encode(Event(event_id=f"d{number}", user_id=user, at=time.time(), **fields)))

    def _drain(self) -> float:
        """Start the worker, wait until it has worked off all events, and return its rate, events a second."""
        names = topics(self.settings)
        first = stage.ends(self.settings, names.recommendations)
        self.worker.start()
        stage.until_acknowledged(self.worker, names.events)
        lists = stage.lists_between(self.settings, first, stage.ends(self.settings, names.recommendations))
        rate = figures.steady([at for at, _ in lists], [each.covers for _, each in lists])
        self.say(f"  worker: {rate:,.0f} events a second, {len(lists)} lists")
        return rate

    def _raw_encoder(self, threads: str) -> float:
        count, words = str(self.given.texts), str(len(self.given.made_words))
        arguments = ["encoder", "--count", count, "--words", words, "--threads", threads]
        rate = float(self._answer(stage.child(self.settings, "benchmarks.raw", arguments, self._client_log))["rate"])
        self.say(f"  encoder alone, {threads} threads: {rate:,.0f} texts a second")
        return rate

    def _raw_faust(self, turn: int, starts: dict[int, int]) -> float:
        folder = self.given.folder / f"faust-{turn}"
        arguments = ["--group", f"raw-{turn}", "--folder", str(folder), "--starts", json.dumps(starts)]
        count = ["faust", "--count", str(self.given.clicks)]
        process = stage.child(self.settings, "benchmarks.raw", [*count, *arguments], self._client_log)
        rate = float(self._answer(process)["rate"])
        self.say(f"  Faust alone: {rate:,.0f} events a second")
        return rate

    def _client(self, what: str, name: str) -> tuple[Any, Path]:
        given, out = self.given, self.given.folder / f"{name}.npz"
        rate = given.rate if what == "open" else given.rate / 4
        arguments = [what, "--rate", str(rate), "--seconds", str(given.seconds), "--warm-up", str(given.warm_up)]
        arguments += ["--users", str(given.users), "--words", str(len(given.made_words))]
        arguments += ["--count", str(given.new_items), "--out", str(out)]
        return stage.child(self.settings, "benchmarks.client", arguments, self._client_log), out

    def _answer(self, process: Any) -> dict[str, Any]:
        found = stage.answer(process, self._client_log)
        self.worker.check()
        return found


def prepare(given: argparse.Namespace, settings: Settings, console: Console) -> tuple[Catalogue, Settings]:
    """Make items and words, and their vectors once; return them, and the settings with the number format that was chosen."""
    console.print("[dim]items and their vectors (encoded once, then kept in the cache folder)")
    encoder = load_encoder(settings)
    console.print(f"[dim]encoder: {encoder.reason}")
    made = texts.items(given.items + given.load)
    own, folder = made[: given.items], settings.cache_dir / "benchmarks"
    with bar("encoding the items") as progress:
        vectors = texts.vectors([item_text(item) for item in own], encoder, folder, progress)
    queries = texts.vectors([each.text for each in given.made_words[:RECALL_QUERIES]], encoder, folder)
    parameters = texts.parameter_bytes(settings, encoder.reason)
    # Chosen once: a worker that times float32 against bfloat16 beside other processes could choose another than the raw loop.
    chosen = next((name for name in ("float32", "bfloat16", "float16") if f" in {name}" in encoder.reason), "auto")
    catalogue = Catalogue(own, vectors, queries, made[given.items :], encoder.id, parameters)
    return catalogue, settings.model_copy(update={"dtype": chosen})


def run(given: argparse.Namespace, console: Console) -> Bench:
    """Measure everything. Raises BenchmarkError, BrokerError."""
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    settings = load(
        encoder=given.encoder,
        text_cache=0,  # the words repeat, and the loop that the drains are compared with encodes them all
        app_id="benchmark",
        web_host=HOST,
        web_port=stage.free_port(),
        state_dir=given.folder / "state",
    )
    given.made_words = texts.words(given.words)
    catalogue, settings = prepare(given, settings, console)
    with ExitStack() as stack:
        console.print(f"[dim]broker: {given.broker}")
        settings = settings.model_copy(
            update={"broker": stack.enter_context(stage.broker(given.broker, given.folder / "broker"))}
        )
        create_topics(settings)
        worker = stack.enter_context(stage.worker(settings, given.folder / "worker.log"))
        bench = Bench(given, settings, worker, catalogue, console)
        bench.first_start()
        bench.drains()
        bench.memory()
        bench.restarts()
        bench.latency()
        bench.new_items()
        bench.load()
    return bench


def measured_on(bench: Bench) -> dict[str, Any]:
    """Return what was measured on what."""
    given = bench.given
    return {
        "broker": given.broker,
        "items": given.items,
        "encoder": bench.catalogue.encoder_id,
        "dtype": bench.settings.dtype,
        "users": given.users,
        "rate": given.rate,
        "seconds": given.seconds,
        "partitions": bench.settings.partitions,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": _processor(),
        "load_before": given.load_before,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "date": date.today().isoformat(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flow", description=__doc__.splitlines()[0])
    parser.add_argument("--broker", choices=("embedded", "kafka"), default="embedded", help="kafka needs KAFKA_HOME")
    parser.add_argument("--items", type=int, default=100_000, help="items in the index")
    parser.add_argument("--rate", type=float, default=200.0, help="text events a second of the open loop")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each open loop")
    parser.add_argument("--encoder", default="all-MiniLM-L6-v2")
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--texts", type=int, default=20_000, help="text events of a drain")
    parser.add_argument("--clicks", type=int, default=40_000, help="click events of a drain")
    parser.add_argument("--words", type=int, default=20_000, help="different user texts")
    parser.add_argument("--load", type=int, default=20_000, help="items of the bulk load")
    parser.add_argument("--new-items", type=int, default=40, help="items published one by one")
    parser.add_argument("--repeats", type=int, default=3, help="turns of drains and restarts")
    parser.add_argument("--warm-up", type=float, default=3.0, help="seconds before an open loop is measured")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="made anew by each run; holds the logs")
    parser.add_argument("--json", action="store_true", help="print one line of JSON last")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code: 2 for what could not be started or did not come."""
    parsed = arguments(given)
    parsed.load_before = round(os.getloadavg()[0], 2)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        bench = run(parsed, Console(stderr=True))
    except (stage.BenchmarkError, BrokerError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    on = measured_on(bench)
    Console().print(figures.table(bench.figures, bench.beside, on))
    if parsed.json:
        print(figures.line(bench.figures, bench.beside, on))
    return 0


if __name__ == "__main__":
    sys.exit(main())
