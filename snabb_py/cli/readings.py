"""Instances that are watched: readings of their counters, and what came in between.

A report is plain data, as `snabb-py top --json` prints it. Counts are the instance's
own, since its start; rates are between two readings. A reading costs the instance's
workers nothing: it is taken from the file that they count into. An instance may be of
another version: what it does not count is 0.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from snabb_py.cli.ps import arguments_of
from snabb_py.cli.run import wire_gbps
from snabb_py.cli.terminal import printable
from snabb_py.engine import counter
from snabb_py.engine.histogram import percentile
from snabb_py.engine.instances import Instance, find, find_one
from snabb_py.engine.shm_reader import Rows
from snabb_py.errors import ConfigError, SnabbError

NS = 1e9
RETRY = 10.0  #: seconds until one that did not answer is asked again

T = TypeVar("T")


@dataclass(frozen=True)
class Reading:
    """All rows of an instance at one time, CLOCK_MONOTONIC in seconds."""

    at: float
    rows: Rows

    def counters(self, kind: str) -> Iterator[tuple[str, dict[str, int]]]:
        """Yield name and counters of each of "apps", "links", "workers", sorted."""
        for name, row in sorted(self.rows.items()):
            if name.startswith(f"{kind}/") and isinstance(row, dict):
                yield name.removeprefix(f"{kind}/"), row

    def histogram(self, name: str) -> list[int]:
        """Return a histogram; [] if there is none."""
        row = self.rows.get(name)
        return row if isinstance(row, list) else []

    def drops(self) -> dict[str, int]:
        """Return packets lost by reason, as the control socket's verb does."""
        drops = {
            f"{app} {reason}": n
            for app, row in self.counters("apps")
            for reason, n in row.items()
            if n and counter.is_drop(reason)
        }
        for link, row in self.counters("links"):
            if n := row.get("txdrop", 0):
                drops[f"{link} txdrop"] = n
        for worker, row in self.counters("workers"):
            if n := row.get("drop-reconfigure", 0):
                drops[f"worker-{worker} drop-reconfigure"] = n
        return drops


def ends_of(link: str) -> tuple[str, str]:
    """Return the apps at the ends of a link, "a.tx -> b.rx"."""
    source, _, target = link.partition(" -> ")
    return source.rpartition(".")[0], target.rpartition(".")[0]


class Change:
    """What has come between two readings of an instance."""

    def __init__(self, old: Reading, new: Reading) -> None:
        self.old, self.new = old, new
        self.seconds = max(new.at - old.at, 1e-9)

    def rate(self, now: int, before: int) -> float:
        """Return a rate a second; what has begun anew since counts from 0."""
        return (now - before if now >= before else now) / self.seconds

    def rates(
        self, now: Mapping[str, int], before: Mapping[str, int]
    ) -> dict[str, float]:
        """Return the rates of counters that have changed."""
        return {
            name: round(self.rate(n, before.get(name, 0)), 3)
            for name, n in now.items()
            if n != before.get(name, 0)
        }

    def _before(self, name: str) -> dict[str, int]:
        row = self.old.rows.get(name)
        return row if isinstance(row, dict) else {}

    def _flow(self, links: Mapping[str, dict[str, int]], side: str) -> dict[str, Any]:
        """Return packets and bytes of some links, counted where they begin or end."""

        def total(unit: str, rows: Mapping[str, dict[str, int]]) -> int:
            return sum(row.get(f"{side}{unit}", 0) for row in rows.values())

        before = {name: self._before(f"links/{name}") for name in links}
        packets, nbytes = total("packets", links), total("bytes", links)
        pps = self.rate(packets, total("packets", before))
        bps = self.rate(nbytes, total("bytes", before))
        return {
            "packets": packets,
            "bytes": nbytes,
            "mpps": round(pps / 1e6, 6),
            "gbps": round(wire_gbps(round(pps), round(bps), 1), 6),
        }

    def links(self) -> list[dict[str, Any]]:
        """Return each link: what was put on it, and lost because it was full."""
        return [
            {
                "link": name,
                **self._flow({name: row}, "tx"),
                "waiting": max(0, row.get("txpackets", 0) - row.get("rxpackets", 0)),
                "drops": row.get("txdrop", 0),
            }
            for name, row in self.new.counters("links")
        ]

    def apps(self) -> list[dict[str, Any]]:
        """Return each app's counters, and the rates of those that have changed."""
        return [
            {
                "app": name,
                "counters": row,
                "rates": self.rates(row, self._before(f"apps/{name}")),
            }
            for name, row in self.new.counters("apps")
        ]

    def interfaces(self, outsides: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return what comes in and goes out by each app that has an outside."""
        links = dict(self.new.counters("links"))
        return [
            {
                "app": app,
                "interface": outside,
                "in": self._flow(
                    {k: row for k, row in links.items() if ends_of(k)[0] == app}, "tx"
                ),
                "out": self._flow(
                    {k: row for k, row in links.items() if ends_of(k)[1] == app}, "rx"
                ),
            }
            for app, outside in sorted(outsides.items())
        ]

    def workers(self, cpus: Mapping[int, str]) -> list[dict[str, Any]]:
        """Return how busy each worker was, and how long packets waited for it.

        A worker that had no packets has no gaps: None.
        """
        return [
            self._worker(name, row, cpus.get(int(name), ""))
            for name, row in self.new.counters("workers")
            if name.isdecimal()
        ]

    def _worker(self, name: str, row: dict[str, int], cpus: str) -> dict[str, Any]:
        before = self._before(f"workers/{name}")
        gaps = f"workers/{name}/breath-gap-ns"
        counts, old = self.new.histogram(gaps), self.old.histogram(gaps)
        since = [b - a for a, b in zip(old or [0] * len(counts), counts, strict=False)]
        longest = row.get("longest-gap-ns", 0)

        def gap(share: float) -> int | None:
            return min(percentile(since, share), longest) if any(since) else None

        load = self.rate(row.get("busy-ns", 0), before.get("busy-ns", 0)) / NS
        return {
            "worker": int(name),
            "cpus": cpus,
            # A breath is counted when the next one begins: a little may be too much.
            "load": round(min(load, 1.0), 4),
            "breaths": row.get("breaths", 0),
            "gap_ns": {
                "p50": gap(0.5),
                "p99": gap(0.99),
                "max": longest,
            },
        }

    def drop_rates(self) -> dict[str, float]:
        """Return packets lost a second by reason, those that have changed."""
        return self.rates(self.new.drops(), self.old.drops())


class Watched:
    """An instance that is watched.

    Raises:
        SnabbError: its counters cannot be read.
    """

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self._reader = instance.open_counters()
        self._outsides: dict[str, str] = {}
        self._generation, self._ask_again_at = -1, math.inf
        self.last: Reading | None = None
        self.program = self._reader.program
        self.arguments = [
            printable(word) for word in arguments_of(instance.command, self.program)
        ]

    @property
    def is_gone(self) -> bool:
        """Whether the instance has ended, and taken its directory along."""
        return self._reader.is_gone

    def read(self) -> Reading:
        """Return the counters as they are now.

        Raises:
            ConfigError: they are damaged.
        """
        before = time.monotonic()
        rows = self._reader.read()
        return Reading((before + time.monotonic()) / 2, rows)

    def outsides(self) -> dict[str, str]:
        """Return what the network is joined to; asked anew when that has changed.

        Raises:
            AnswerError: what the instance says is no answer.
        """
        generation, now = self._reader.generation, time.monotonic()
        if generation != self._generation or now > self._ask_again_at:
            answer = self.instance.outsides()
            self._generation = generation
            self._ask_again_at = now + RETRY if answer is None else math.inf
            outsides = (answer or {}).items()
            self._outsides = {printable(app): printable(word) for app, word in outsides}
        return self._outsides

    def look(self) -> dict[str, Any] | None:
        """Return a report; None: there was no reading before.

        Raises:
            ConfigError: the counters are damaged, or what it answers.
        """
        old, self.last = self.last, self.read()
        if old is None:
            return None
        change = Change(old, self.last)
        return {
            "pid": self.instance.pid,
            "program": self.program,
            "arguments": self.arguments,
            "seconds": round(self.instance.seconds, 2),
            "interval": round(change.seconds, 6),
            "workers": change.workers(self.instance.cpus),
            "interfaces": change.interfaces(self.outsides()),
            "drops": self.last.drops(),
            "drop_rates": change.drop_rates(),
            "links": change.links(),
            "apps": change.apps(),
        }

    def close(self) -> None:
        """Watch it no more."""
        self._reader.close()


class Watch:
    """All instances that run, or one, however they come and go.

    Args:
        pid: only this one.
        complain: takes a line about what cannot be read; the same line comes once.

    Raises:
        DeviceError: there is no instance of this pid.
    """

    def __init__(self, pid: int | None, complain: Callable[[str], None]) -> None:
        self._pid = pid
        self._said: set[str] = set()
        self.tell = complain
        self._watched: dict[int, Watched] = {}
        if pid is not None:
            find_one(pid)

    def _complain(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self.tell(line)

    def update(self) -> list[Watched]:
        """Return the instances that run now, by pid."""
        running = {
            instance.pid: instance
            for instance in find()
            if self._pid in {None, instance.pid}
        }
        for pid, watched in list(self._watched.items()):
            if pid not in running or watched.is_gone:
                self.forget(pid)
        for pid, instance in running.items():
            if pid not in self._watched:
                try:
                    self._watched[pid] = Watched(instance)
                except SnabbError as error:
                    if instance.is_alive:
                        self._complain(str(error))
        return [self._watched[pid] for pid in sorted(self._watched)]

    def forget(self, pid: int) -> None:
        """Watch an instance no more, until the next update."""
        self._watched.pop(pid).close()

    def look(self) -> list[dict[str, Any]]:
        """Return a report of each instance that has been read before."""
        return [r for r in self.each(Watched.look) if r is not None]

    def each(self, do: Callable[[Watched], T]) -> list[T]:
        """Return what is done with each instance; damaged ones are complained about."""
        found = []
        for watched in self.update():
            try:
                found.append(do(watched))
            except ConfigError as error:
                self._complain(str(error))
                self.forget(watched.instance.pid)
        return found

    def close(self) -> None:
        """Watch nothing any more."""
        for pid in list(self._watched):
            self.forget(pid)
