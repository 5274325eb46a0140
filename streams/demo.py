"""Play the stories: broker, worker and events on this machine; each list before and after, with reasons and milliseconds.

Does not do anything that a user could not: it starts `headrace worker`, sends items and events to their topics and reads lists
from theirs. Everything it makes lies in one folder, which each run starts anew.

    DemoError(RuntimeError)   the worker ended or a list did not come: says where its log is
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import msgspec
from kafka import KafkaConsumer, KafkaProducer
from pydantic import SecretStr
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table

import examples
from examples import Step, Story
from streams.broker import HOST, end_with_parent, start_embedded
from streams.kafka import open_consumer, open_producer
from streams.messages import Event, Item, RecommendationList, encode
from streams.reading import assign
from streams.settings import PREFIX, Settings
from streams.terminal import bar
from streams.topics import create_topics, topics

FOLDER = Path(".headrace/demo")
SHOWN = 5  # places of each list that are printed
START_S = 180.0  # a first start converts the weights: 10 s on 2 cores
LIST_S = 30.0  # a list takes milliseconds; this long without one is a failure
SETTLE_S = 3.0  # what goes together is published and followed within 2 s
QUIET_S = 1.0  # background users' last events lie this long before the stories

_lists = msgspec.json.Decoder(RecommendationList)


class DemoError(RuntimeError):
    """The worker ended, or a list did not come."""


def main(settings: Settings, keep: bool, console: Console | None = None) -> None:
    """Play all stories; with `keep`, leave everything running until Ctrl-C. Raises DemoError, BrokerError."""
    console = console or Console()
    shutil.rmtree(FOLDER, ignore_errors=True)
    with ExitStack() as stack:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        broker = stack.enter_context(start_embedded(FOLDER / "broker"))
        port = _free_port()
        own = {"broker": broker.address, "state_dir": FOLDER / "state"}
        settings = settings.model_copy(update={**own, "web_host": HOST, "web_port": port, "web_token": SecretStr("")})
        create_topics(settings)
        worker = stack.enter_context(_worker(settings))
        console.print(f"broker {broker.address} · encoder {settings.encoder} · metrics http://{HOST}:{port}/metrics")
        _wait(worker, lambda: _is_ready(port), "a worker to start")
        stage = stack.enter_context(_stage(settings, worker, port))
        stage.load(examples.load_catalogue(), examples.load_history(ending_at=time.time() - QUIET_S))
        taken = [stage.play(story, console) for story in examples.load_stories()]
        _sum_up([each for story in taken for each in story], console)
        if keep:
            _keep(settings, console)


class _Stage:
    """The clients that play: events out, lists in."""

    def __init__(
        self,
        settings: Settings,
        worker: subprocess.Popen[bytes],
        port: int,
        producer: KafkaProducer,
        consumer: KafkaConsumer,
    ) -> None:
        self._topics = topics(settings)
        self._worker, self._port = worker, port
        self._producer, self._consumer = producer, consumer
        self._items: dict[str, Item] = {}
        self._before: dict[str, RecommendationList] = {}

    def load(self, catalogue: list[Item], history: list[Event]) -> None:
        """Send the catalogue and what other people did, and wait until the worker has taken it in."""
        for item in catalogue:
            self._send_item(item)
        self._producer.flush()
        _follow(self._worker, "encoding the catalogue", lambda: _metric(self._port, "headrace_index_items"), len(catalogue))
        for event in history:
            self._send_event(event)
        self._producer.flush()
        _follow(self._worker, "what other people did", lambda: _metric(self._port, "headrace_events_total"), len(history))
        time.sleep(SETTLE_S)
        while self._consumer.poll(timeout_ms=300):
            pass  # lists of the background users

    def play(self, story: Story, console: Console) -> list[tuple[float, list[str]]]:
        """Play one story; return per event the milliseconds to its list, and what was not as the story expects."""
        console.rule(f"[bold]{story.title.zh} · {story.title.en}")
        at = time.time() - sum(step.pause_s for step in story.steps)
        taken = []
        for number, step in enumerate(story.steps):
            at += step.pause_s
            if step.item is not None:
                self._publish(step, step.item, console)
            else:
                taken.append(self._act(story, step, story.event_of(step, f"{story.name}-{number}", at), console))
        return taken

    def _act(self, story: Story, step: Step, event: Event, console: Console) -> tuple[float, list[str]]:
        began = time.perf_counter()
        self._send_event(event)
        new = self._await_list(event.event_id)
        taken_ms = (time.perf_counter() - began) * 1_000
        old = self._before.get(event.user_id)
        self._before[event.user_id] = new
        after = [item.item_id for item in new.items]
        wrong = examples.check(step.expect, [item.item_id for item in old.items] if old else [], after, self._items)
        console.print(_panel(step, event, old, new, taken_ms, wrong, self._items))
        return taken_ms, wrong

    def _publish(self, step: Step, item: Item, console: Console) -> None:
        began = time.perf_counter()
        count = _metric(self._port, "headrace_index_items")
        self._send_item(item)
        self._producer.flush()
        _wait(self._worker, lambda: _metric(self._port, "headrace_index_items") > count, "the new item", pause_s=0.005)
        console.print(
            f"[bold]{step.narration}[/]\n  {item.title}: can be recommended after {_ms(time.perf_counter() - began)}\n"
        )

    def _send_item(self, item: Item) -> None:
        self._items[item.item_id] = item
        self._producer.send(self._topics.items.name, key=item.item_id.encode(), value=encode(item))

    def _send_event(self, event: Event) -> None:
        self._producer.send(self._topics.events.name, key=event.user_id.encode(), value=encode(event))

    def _await_list(self, event_id: str) -> RecommendationList:
        give_up = time.monotonic() + LIST_S
        while time.monotonic() < give_up:
            for records in self._consumer.poll(timeout_ms=100).values():
                for record in records:
                    found = _lists.decode(record.value)
                    if found.event_id == event_id:
                        return found
            _check(self._worker)
        raise DemoError(f"no list came for event {event_id} in {LIST_S:.0f} s: read {FOLDER / 'worker.log'}")


@contextmanager
def _stage(settings: Settings, worker: subprocess.Popen[bytes], port: int) -> Iterator[_Stage]:
    with open_producer(settings, linger_ms=0) as producer, open_consumer(settings, fetch_max_wait_ms=5) as consumer:
        places = assign(consumer, topics(settings).recommendations)
        consumer.seek_to_end(*places)
        for place in places:
            consumer.position(place)  # seeks are lazy: without this, what is sent before the first poll would be missed
        yield _Stage(settings, worker, port, producer, consumer)


@contextmanager
def _worker(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    own = {name: getattr(settings, name) for name in ("broker", "state_dir", "web_host", "web_port", "web_token")}
    environment = {**os.environ, **{PREFIX + name.upper(): str(value) for name, value in own.items()}}
    with (FOLDER / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "streams", "worker"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent(),
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _panel(
    step: Step,
    event: Event,
    old: RecommendationList | None,
    new: RecommendationList,
    taken_ms: float,
    wrong: list[str],
    items: dict[str, Item],
) -> Panel:
    table = Table(box=None, expand=True, padding=(0, 1))
    for heading, style in (("before", "dim"), ("after", ""), ("because", "italic")):
        table.add_column(heading, ratio=1, style=style, no_wrap=True)
    was = [item.item_id for item in old.items] if old else []
    for place in range(SHOWN):
        before = items[was[place]].title if place < len(was) else ""
        if place < len(new.items):
            item = new.items[place]
            mark = "" if item.item_id in was[:SHOWN] else "[green]"
            table.add_row(before, mark + items[item.item_id].title, item.reason)
    said = " ".join(filter(None, (event.type, items[event.item_id].title if event.item_id else None, event.text)))
    verdict = "[green]as expected[/]" if not wrong else "[red]" + "; ".join(wrong) + "[/]"
    return Panel(
        Group(f"[cyan]{said}[/]", table), title=step.narration, subtitle=f"{taken_ms:.0f} ms · {verdict}", title_align="left"
    )


def _sum_up(taken: list[tuple[float, list[str]]], console: Console) -> None:
    times = [ms for ms, _ in taken]
    right = sum(not wrong for _, wrong in taken)
    console.print(
        f"\n{len(taken)} events, each answered with a fresh list: median {median(times):.0f} ms, slowest {max(times):.0f} ms "
        f"from event to list; {right} of {len(taken)} lists as the stories expect."
    )


def _keep(settings: Settings, console: Console) -> None:
    console.print(
        f"\nStill running. In another terminal:\n"
        f"  headrace watch --broker {settings.broker}\n"
        f'  headrace produce --broker {settings.broker} --user you --type wish --text "jazz records"\n'
        f"Ctrl-C stops everything."
    )
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print("stopped")


def _follow(worker: subprocess.Popen[bytes], doing: str, count: Callable[[], float], total: int) -> None:
    with bar(doing) as progress:

        def is_done() -> bool:
            done = count()
            progress(min(1.0, done / total))
            return done >= total

        _wait(worker, is_done, doing)


def _wait(worker: subprocess.Popen[bytes], is_done: Callable[[], bool], what: str, pause_s: float = 0.1) -> None:
    give_up = time.monotonic() + START_S
    while not is_done():
        _check(worker)
        if time.monotonic() > give_up:
            raise DemoError(f"waited {START_S:.0f} s for {what}: read {FOLDER / 'worker.log'}")
        time.sleep(pause_s)


def _check(worker: subprocess.Popen[bytes]) -> None:
    if worker.poll() is not None:
        lines = (FOLDER / "worker.log").read_text(errors="replace").strip().splitlines() or ["no output"]
        raise DemoError(
            f"the worker ended with exit code {worker.returncode}: {lines[-1]} (all of it: {FOLDER / 'worker.log'})"
        )


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False  # not listening yet, or 503: not ready yet


def _metric(port: int, name: str) -> float:
    """Return the sum of a metric's samples."""
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + " ", name + "{")))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _ms(seconds: float) -> str:
    return f"{seconds * 1_000:.0f} ms"
