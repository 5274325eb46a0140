"""Start, run and stop one worker: check everything before anything is touched, then run the app until a signal.

Does not know what the app does. Exit codes: 0 stopped by a signal, 1 crashed, 2 refused to start, 70 ended with nothing
unfinished acknowledged.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import faust
from aiokafka import AIOKafkaConsumer, TopicPartition

from encoders import Encoder, EncoderError
from ranking.index import ItemIndexError
from ranking.signals import Signals, SignalsError, SignalSettings
from streams import building, experiments, fetching, makers, rebootstrap, reread
from streams.app import FlowApp, build
from streams.batching import die
from streams.building import load_encoder
from streams.catalogue import Catalogue
from streams.connection import BrokerUnreachable, RightsError, connection
from streams.experiments import ExperimentError
from streams.handover import OtherEncoder, refuse_other
from streams.kafka import wait_for_broker
from streams.memory import give_back
from streams.personalizer import Personalizer
from streams.recent import Recent
from streams.rights import check_worker_rights
from streams.rulebook import RulesError
from streams.settings import Settings, secrets_of
from streams.state import Snapshot, StateError, StateFolder
from streams.topics import TopicError, check_topics, create_topics, topics

log = logging.getLogger("headrace.worker")

EXIT_REFUSED = 2
SWITCH_S = 0.0005  # an event passes six threads: at Python's 5 ms each hand-over can take as long as the whole step
LIBRARIES = ("faust", "mode", "aiokafka")
REPEAT_S = 30.0
STOP_S = 20.0  # for how long a worker that is told to stop may take; compose and others kill it after 30
REFUSALS = (
    BrokerUnreachable,
    RightsError,
    TopicError,
    StateError,
    OtherEncoder,
    ItemIndexError,
    SignalsError,
    EncoderError,
    RulesError,
    ExperimentError,
)

Build = Callable[..., Personalizer]


def run_worker(settings: Settings, build_personalizer: Build = building.build) -> int:
    """Run a worker until SIGTERM or SIGINT; return its exit code."""
    began = time.monotonic()
    rebootstrap.install()
    fetching.install()
    os.umask(0o077)  # profiles and snapshots are nobody else's
    set_up_logging(settings)
    try:
        app, state = prepare(settings, build_personalizer)
    except REFUSALS as error:
        for line in str(error).splitlines():
            log.error("%s", line)
        return EXIT_REFUSED
    try:
        return run(app, began)
    finally:
        app.encoding.stop()
        state.close()


class Ground(NamedTuple):
    """What a process stands on: its encoder, its opened state folder, and what that held of items and signals."""

    encoder: Encoder
    state: StateFolder
    signals: Signals
    snapshot: Snapshot


def prepare(settings: Settings, build_personalizer: Build = building.build) -> tuple[FlowApp, StateFolder]:
    """Check everything as `ground` does, then build the app. Raises what `ground` raises, RulesError and
    ExperimentError."""
    judge = None if settings.rerank is None else reread.judge_of(settings, settings.rerank)
    encoder, state, signals, snapshot = ground(settings, check_worker_rights)
    words = Recent(encoder, settings.text_cache) if settings.text_cache else None
    step = build_personalizer(words or encoder, settings, snapshot.index, signals)
    if (experiment := experiments.of(settings)) is not None:
        step.run(experiment)
        log.info("experiment %s: %s", experiment.name, experiment)
    catalogue = Catalogue(encoder, settings.text_length)
    app = build(settings, step, catalogue, snapshot.index, signals, state, snapshot.offsets, judge)
    if words:
        app.metrics.watch_texts(words)
    return app, state


def ground(settings: Settings, check_rights: Callable[[Settings], None]) -> Ground:
    """Check broker, rights, encoder, state folder and topics, then open the folder.

    Raises BrokerUnreachable, RightsError, EncoderError, StateError, TopicError, OtherEncoder, with nothing touched.
    """
    wait_for_broker(settings)
    log.info("broker: %s", settings.broker)
    check_rights(settings)
    encoder = load_encoder(settings)
    log.info("encoder: %s", encoder.reason)
    state = StateFolder(settings.state_dir, encoder.id, encoder.dim)
    state.check()
    if settings.create_topics:
        log.info("topics made: %s", ", ".join(create_topics(settings)) or "none, all are there")
    else:
        check_topics(settings)
    refuse_other(settings, encoder.id)
    state.open()
    signals = Signals(SignalSettings(settings.trend_half_life_hours * 3_600.0, settings.popular_half_life_days * 86_400.0))
    snapshot = state.restore(signals, asyncio.run(_bounds(settings)), makers.kept_attributes(settings))
    return Ground(encoder, state, signals, snapshot)


async def _bounds(settings: Settings) -> dict[tuple[str, int], tuple[int, int]]:
    """Return (topic, partition) -> first and end offset of what the follower reads."""
    # aiokafka asks for all at once: 10 ms; kafka-python 3.0.12 took 0.25 s a partition.
    followed = (topics(settings).item_vectors, topics(settings).item_signals)
    places = [TopicPartition(topic.name, partition) for topic in followed for partition in range(topic.partitions)]
    consumer = AIOKafkaConsumer(**connection(settings), group_id=None)
    await consumer.start()
    try:
        firsts, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
    finally:
        await consumer.stop()
    return {(place.topic, place.partition): (firsts[place], ends[place]) for place in places}


def run(app: FlowApp, began: float) -> int:
    """Run the app until a signal; return the exit code. began: when the worker was started, by time.monotonic."""
    sys.setswitchinterval(SWITCH_S)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    worker = faust.Worker(app, loop=loop, quiet=True, override_logging=False, redirect_stdouts=False)
    worker.spinner = None  # one line per fact instead
    ready = loop.create_task(_announce(app, began))
    _bound_stop(app, loop)
    try:
        worker.execute_from_commandline()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        ready.cancel()
    return 0


def _bound_stop(app: FlowApp, loop: asyncio.AbstractEventLoop, until: float = math.inf) -> None:
    """Look each second whether the app is to stop; end the process where that takes too long, as when Kafka is away."""
    if loop.time() > until:
        die(f"stopping has taken {STOP_S:.0f} s, as it does when Kafka acknowledges nothing")
    if app.should_stop:
        until = min(until, loop.time() + STOP_S)
    loop.call_later(1.0, _bound_stop, app, loop, until)


async def _announce(app: FlowApp, began: float) -> None:
    while app.waiting_for() is not None:
        await asyncio.sleep(0.02)
    # What is there now stays: no collection walks it again. The next ones are rare; with the defaults p99 grew by 10 ms.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    give_back()
    log.info("ready in %.1f s, with %d partitions of events", time.monotonic() - began, app.owned_partitions())


def set_up_logging(settings: Settings) -> None:
    """Log our own lines from `log_level` on, those of the libraries from warning on and seldom, to stderr; never a secret."""
    is_debug = settings.log_level == "debug"
    handler = logging.StreamHandler(sys.stderr)
    if not is_debug:
        handler.addFilter(Seldom())
    handler.setFormatter(Discreet("%(asctime)s %(levelname)s %(name)s %(message)s", secrets_of(settings)))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("headrace").setLevel(settings.log_level.upper())
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.DEBUG if is_debug else logging.WARNING)
    # kafka-python logs each try of a start that waits for the broker; our own error says what is wrong, once.
    logging.getLogger("kafka").setLevel(logging.DEBUG if is_debug else logging.CRITICAL)


class Discreet(logging.Formatter):
    """Writes asterisks for secrets: at level debug, kafka-python logs the very bytes that it proves the user with."""

    def __init__(self, line: str, secrets: Sequence[str]) -> None:
        super().__init__(line)
        spelt = {form for secret in secrets for form in (secret, repr(secret)[1:-1], repr(secret.encode())[2:-1])}
        self._spelt = sorted(spelt, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record, its traceback's too."""
        said = super().format(record)
        for secret in self._spelt:
            said = said.replace(secret, "**********")
        return said


class Seldom(logging.Filter):
    """Lets each line of the libraries' code log once in REPEAT_S: without a broker aiokafka logged 100 lines a second."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, int], float] = {}  # (file, line) -> Unix seconds

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is ours, or the first of its place for a while."""
        if record.name.partition(".")[0] not in LIBRARIES:
            return True
        place = (record.pathname, record.lineno)
        if record.created - self._last.get(place, -REPEAT_S) < REPEAT_S:
            return False
        self._last[place] = record.created
        return True
