"""What a worker counts and times, in Prometheus form.

Does not know who reads it. Each app has a registry of its own, so that two apps in one process do not share numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from streams.recent import Recent

STAGE_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
LATENCY_S = (0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)
BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The metrics of one worker."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.events = Counter("headrace_events", "Events processed, by type", ["type"], registry=registry)
        self.replayed = Counter("headrace_replayed_events", "Of these, in the profile already", registry=registry)
        self.dead_letters = Counter(
            "headrace_dead_letters", "Messages refused, by topic and kind of reason", ["topic", "kind"], registry=registry
        )
        self.misrouted = Counter("headrace_misrouted", "Events sent once more under the right key", registry=registry)
        self.erased = Counter(
            "headrace_erased_events", "Events from before an erasure of their user, left out", registry=registry
        )
        self.lists = Counter("headrace_lists", "Lists published", registry=registry)
        self.items = Counter("headrace_items", "Item changes published, by what they were", ["outcome"], registry=registry)
        self.images = Counter("headrace_item_images", "Images that items came with, by outcome", ["outcome"], registry=registry)
        self.interactions = Counter("headrace_interactions", "Interactions counted", registry=registry)
        self.texts_cut = Counter("headrace_texts_cut", "Texts cut at text_length", ["topic"], registry=registry)
        self.unreadable = Counter(
            "headrace_unreadable_records", "Item records that the follower had to leave out", ["topic"], registry=registry
        )
        self.batch = Histogram("headrace_batch_events", "Events in a micro-batch", buckets=BATCH, registry=registry)
        self.stage = Histogram("headrace_stage_seconds", "Seconds per batch", ["stage"], buckets=STAGE_S, registry=registry)
        self.latency = Histogram(
            "headrace_event_to_list_seconds",
            "From an event's append to its list's",
            buckets=LATENCY_S,
            registry=registry,
        )
        self.rereads = Counter("headrace_rereads", "Lists to be reread, by what became of them", ["outcome"], registry=registry)
        self.reread = Histogram(
            "headrace_list_to_reread_seconds",
            "From a list's making to the acknowledgement of the same list reread",
            buckets=LATENCY_S,
            registry=registry,
        )
        self.judging = Histogram(
            "headrace_reread_judging_seconds", "Seconds of the cross-encoder for a list", buckets=STAGE_S, registry=registry
        )
        self.index_items = Gauge("headrace_index_items", "Items in the index", registry=registry)
        self.follower_lag = Gauge("headrace_follower_lag_records", "Item records not applied yet", registry=registry)
        self.model = Gauge("headrace_model_info", "1 for the model that ranks", ["version"], registry=registry)
        self.swaps = Counter("headrace_model_swaps", "Models that took another's place", registry=registry)
        self.models_refused = Counter(
            "headrace_models_refused", "Models, or messages about them, that could not be used", registry=registry
        )
        self.variants_waiting = Gauge(
            "headrace_variants_waiting",
            "Models that variants name and that are not there: their users get lists of no variant",
            registry=registry,
        )
        self.partitions = Gauge("headrace_partitions", "Partitions of events that this worker owns", registry=registry)
        self._texts = _Texts()
        registry.register(self._texts)

    def watch(self, index_items: Callable[[], int], lag: Callable[[], int], partitions: Callable[[], int]) -> None:
        """Read three gauges from the parts that know them, at each scrape."""
        self.index_items.set_function(index_items)
        self.follower_lag.set_function(lag)
        self.partitions.set_function(partitions)

    def watch_texts(self, recent: Recent) -> None:
        """Read at each scrape how many of users' texts were known and how many were encoded."""
        self._texts.recent = recent

    def text(self) -> bytes:
        """Return all metrics as Prometheus reads them."""
        return generate_latest(self.registry)


class _Texts(Collector):
    """The counts that the memory of texts keeps itself; none where there is no memory."""

    recent: Recent | None = None

    def collect(self) -> Iterator[CounterMetricFamily]:
        counts = CounterMetricFamily(
            "headrace_texts", "Texts of users, by whether their vectors were known", labels=["outcome"]
        )
        if self.recent is not None:
            counts.add_metric(["known"], self.recent.known)
            counts.add_metric(["encoded"], self.recent.encoded)
        yield counts


class LearnMetrics:
    """The metrics of a process that learns, beside those of what it follows."""

    def __init__(self, metrics: Metrics) -> None:
        registry = metrics.registry
        self.examples = Counter("headrace_learn_examples", "Lists joined with a touch", registry=registry)
        self.left_out = Counter(
            "headrace_learn_left_out", "Lists and events that were not learnt from, by reason", ["reason"], registry=registry
        )
        self.versions = Counter("headrace_learn_versions", "Versions tested, by outcome", ["outcome"], registry=registry)
        self.published = Counter("headrace_learn_published", "Versions put into service", registry=registry)
        self.gain = Gauge("headrace_learn_gain_nats", "Log-loss that the last tested version gained", registry=registry)
        self.open = Gauge("headrace_learn_open_lists", "Lists whose user may still act on them", registry=registry)
