"""The metrics of `snabb-py metrics`: names, units, labels as Prometheus wants them."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from snabb_py.cli.readings import NS, Reading, Watch, Watched, ends_of
from snabb_py.engine import counter
from snabb_py.engine.histogram import BUCKETS, SUB_BUCKETS, bucket_low
from snabb_py.errors import SnabbError

if TYPE_CHECKING:
    from prometheus_client import Metric

WHO = ("pid", "program")

#: Counters of apps that go down, too.
STATES = {"link-up", "lost"}

#: Link counter -> metric, what it says.
LINKS = {
    "txpackets": ("transmit_packets", "Packets put on the link."),
    "txbytes": ("transmit_bytes", "Bytes put on the link, without FCS."),
    "rxpackets": ("receive_packets", "Packets taken off the link."),
    "rxbytes": ("receive_bytes", "Bytes taken off the link, without FCS."),
    "txdrop": ("dropped_packets", "Packets lost because the link was full."),
}
#: Worker counter -> metric, what it says; those in ns are shown in seconds.
WORKERS = {
    "breaths": ("breaths", "Breaths, with work or without."),
    "idle-breaths": ("idle_breaths", "Breaths in which nothing moved."),
    "sleeps": ("sleeps", "Sleeps for a set time."),
    "waits": ("waits", "Waits for an event."),
    "sleep-ns": ("sleep_seconds", "Time in sleeps and waits."),
    "busy-ns": ("busy_seconds", "Time in breaths with work."),
    "handovers": ("handovers", "Changes of the network that were taken over."),
    "drop-reconfigure": ("dropped_packets", "Packets lost by changes of the network."),
}
#: The same of what is now.
WORKERS_NOW = {
    "longest-gap-ns": (
        "longest_gap_seconds",
        "Longest time between two breaths with work, since the start.",
    ),
    "free-small-packets": ("free_small_packets", "Small packets that it has ready."),
    "free-large-packets": ("free_large_packets", "Large packets that it has ready."),
}

#: Histogram buckets: from 256 ns in octaves to 1 s, about.
FIRST_OCTAVE, LAST_OCTAVE = 8, 30

#: An instance, and what it counts now.
Look = tuple[Watched, Reading, Mapping[str, str]]


@dataclass(frozen=True)
class Family:
    """A metric: its name without unit and prefix of kind, what it says, its values.

    Attributes:
        labels: beside those of the instance.
        values: by label values; of a histogram (buckets, sum).
    """

    name: str
    text: str
    labels: tuple[str, ...] = ()
    values: dict[tuple[str, ...], Any] = field(default_factory=dict)
    kind: str = "counter"

    def add(self, watched: Watched, *labels: str, value: Any) -> None:
        """Add a value of an instance."""
        key = (str(watched.instance.pid), watched.program, *labels)
        self.values[key] = value

    def exported(self) -> "Metric":
        """Return it as prometheus_client has it."""
        from prometheus_client import metrics_core as core

        name, labels = f"snabb_{self.name}", [*WHO, *self.labels]
        if self.kind == "histogram":
            histogram = core.HistogramMetricFamily(name, self.text, labels=labels)
            for key, (counts, total) in self.values.items():
                histogram.add_metric(key, counts, total)
            return histogram
        is_gauge = self.kind == "gauge"
        cls = core.GaugeMetricFamily if is_gauge else core.CounterMetricFamily
        family = cls(name, self.text, labels=labels)
        for key, value in self.values.items():
            family.add_metric(key, value)
        return family


class InstancesCollector:
    """All metrics of all instances, read when somebody asks.

    Args:
        watch: the instances.
        complain: takes a line about what cannot be read.
    """

    def __init__(self, watch: Watch, complain: Callable[[str], None]) -> None:
        self._watch = watch
        self._complain = complain
        self._lock = threading.Lock()  # each scrape has a thread of its own

    def collect(self) -> "list[Metric]":
        """Return the metrics as they are now."""
        with self._lock:
            try:
                looks = self._watch.each(lambda w: (w, w.read(), w.outsides()))
            except SnabbError as error:
                self._complain(str(error))
                looks = []
        families = (_instances, _apps, _interfaces, _links, _workers)
        return [f.exported() for make in families for f in make(looks)]


def _instances(looks: Sequence[Look]) -> Iterator[Family]:
    text = "What an instance was called with."
    info = Family("instance_info", text, ("arguments",), kind="gauge")
    begun = Family("start_time_seconds", "When it began, since 1970.", kind="gauge")
    for watched, _, _ in looks:
        info.add(watched, " ".join(watched.arguments), value=1)
        start = time.time() - watched.instance.seconds
        begun.add(watched, value=round(start, 1))
    yield from (info, begun)


def _apps(looks: Sequence[Look]) -> Iterator[Family]:
    labels = ("app", "counter")
    drops = Family("app_dropped_packets", "Packets lost by an app.", labels)
    counts = Family("app_counter", "What an app counts besides.", labels)
    states = Family("app_state", "How it is now.", labels, kind="gauge")
    for watched, reading, _ in looks:
        for app, row in reading.counters("apps"):
            for name, n in row.items():
                is_drop, is_state = counter.is_drop(name), name in STATES
                family = drops if is_drop else states if is_state else counts
                family.add(watched, app, name, value=n)
    yield from (drops, counts, states)


def _interfaces(looks: Sequence[Look]) -> Iterator[Family]:
    for way, side, end, verb in (
        ("receive", "tx", 0, "came in by"),
        ("transmit", "rx", 1, "went out by"),
    ):
        for unit in ("packets", "bytes"):
            family = Family(
                f"interface_{way}_{unit}",
                f"{unit.capitalize()} that {verb} an interface.",
                ("app", "interface"),
            )
            for watched, reading, outsides in looks:
                links = list(reading.counters("links"))
                for app, outside in sorted(outsides.items()):
                    n = sum(
                        row.get(f"{side}{unit}", 0)
                        for link, row in links
                        if ends_of(link)[end] == app
                    )
                    family.add(watched, app, outside, value=n)
            yield family


def _links(looks: Sequence[Look]) -> Iterator[Family]:
    for name, (metric, text) in LINKS.items():
        family = Family(f"link_{metric}", text, ("link",))
        for watched, reading, _ in looks:
            for link, row in reading.counters("links"):
                family.add(watched, link, value=row.get(name, 0))
        yield family


def _workers(looks: Sequence[Look]) -> Iterator[Family]:
    for table, kind in ((WORKERS, "counter"), (WORKERS_NOW, "gauge")):
        for name, (metric, text) in table.items():
            unit = NS if name.endswith("-ns") else 1
            family = Family(f"worker_{metric}", text, ("worker",), kind=kind)
            for watched, reading, _ in looks:
                for worker, row in reading.counters("workers"):
                    family.add(watched, worker, value=row.get(name, 0) / unit)
            yield family
    text = "Time from a breath with work to the next breath."
    name = "worker_breath_gap_seconds"
    gaps = Family(name, text, ("worker",), kind="histogram")
    for watched, reading, _ in looks:
        for worker, row in reading.counters("workers"):
            counts = reading.histogram(f"workers/{worker}/breath-gap-ns")
            if len(counts) == BUCKETS:
                busy = row.get("busy-ns", 0) / NS
                gaps.add(watched, worker, value=(buckets(counts), busy))
    yield gaps


def buckets(counts: Sequence[int]) -> list[tuple[str, float]]:
    """Return the upper end of each octave in seconds, and how many lie below."""
    result = []
    for octave in range(FIRST_OCTAVE, LAST_OCTAVE + 1):
        end = SUB_BUCKETS * (octave - 1)
        result.append((str(bucket_low(end) / NS), float(sum(counts[:end]))))
    return [*result, ("+Inf", float(sum(counts)))]
