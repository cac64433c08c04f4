"""What the programs of `snabb-py packetblaster` do: send, check, report."""

import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from snabb_py.apps import netdev
from snabb_py.apps.traffic import Checker, Generator
from snabb_py.cli.cards import parse_sim
from snabb_py.cli.interfaces import (
    Direction,
    Interface,
    Reading,
    app_drops,
    attach,
    engine_settings,
    kernel_name,
)
from snabb_py.cli.packetblaster_options import Running
from snabb_py.cli.run import Ending, Reporter, plain_line, rates, run, table
from snabb_py.cli.terminal import printable
from snabb_py.engine.app import FiniteSource
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.engine.histogram import percentile
from snabb_py.errors import ConfigError

PROGRAM = "packetblaster"
NO_INTERFACE = "no interface given: a software card stands for it"
#: What a source makes up for: as long as other programs keep a worker from its CPU.
CATCH_UP_US = 10_000
#: Seconds that what was sent last has to come back.
GRACE = 0.1
#: Counters of a Checker that a report has in any case; the others when they count.
VERDICTS = ("lost", "reordered", "duplicated")
LARGE_PACKETS = 1024
#: Bytes of headers, which an MTU does not count; and what follows addresses in a frame
#: with a tag (IEEE 802.1Q).
ETHERNET_HEADER, WIRE_TAG, VLAN_TYPE = 14, 4, b"\x81\x00"
SHARES = {"p50": 0.5, "p99": 0.99, "p999": 0.999}


@dataclass
class Receiver:
    """A Checker.

    Attributes:
        word: the interface that packets come from.
        app: its name.
        streams: those that should come; each is the number of a sender.
        way: apps that they come through.
    """

    word: str
    app: str
    streams: tuple[int, ...]
    way: tuple[str, ...] = ()


class FromRing(Direction):
    """Frames that a card has in its ring."""

    def read(self, engine: Engine, *, is_last: bool = False) -> Reading:
        """See `Direction.read`; offered is what the card has fetched."""
        reading = super().read(engine, is_last=is_last)
        fetched = engine.apps[self.source_app].counters["tx-packets"]
        # What the card could not receive is nothing that it was to send.
        drops = {k: n for k, n in reading.drops.items() if " drop-rx-" not in k}
        return replace(reading, offered=max(fetched, reading.forwarded), drops=drops)

    def _offered(self, engine: Engine, drops: dict[str, int]) -> int:
        del engine, drops
        return 0


@dataclass
class Blast:
    """An app network that sends.

    Attributes:
        config: the network.
        directions: from each source to its interface.
        ends: all interfaces.
        receivers: who checks what comes back.
    """

    config: Config
    directions: list[Direction] = field(default_factory=list)
    ends: list[Interface] = field(default_factory=list)
    receivers: list[Receiver] = field(default_factory=list)

    def is_done(self, engine: Engine) -> bool:
        """Return whether all has been sent; never where nothing comes to an end."""
        return all(_is_done(engine, direction) for direction in self.directions)

    def stop_sending(self, engine: Engine) -> float:
        """Let sources stop, and return when they have (time.monotonic).

        Receivers have time for what is still under way then.
        """
        if any(isinstance(direction, FromRing) for direction in self.directions):
            engine.drain()  # what a card has in its ring is sent
        ended = time.monotonic()
        if not self.receivers:
            return ended
        for direction in self.directions:
            if self.config.apps[direction.source_app].cls is Generator:
                self.config.give(direction.source_app, count=1)
        engine.commit(self.config)
        time.sleep(GRACE)
        return ended


def _is_done(engine: Engine, direction: Direction) -> bool:
    """Return whether a source has no packet left, and nothing waits behind it."""
    source, *inside = (engine.apps[name].instance for name in direction.source.way_in)
    if any(isinstance(app, FiniteSource) and app.is_done for app in inside):
        return True
    if not isinstance(source, FiniteSource) or not source.is_done:
        return False
    steps = set(pairwise(direction.path))
    return all(
        link.counters["txpackets"] == link.counters["rxpackets"]
        for spec, link in engine.links.items()
        if (spec.from_app, spec.to_app) in steps
        and spec.from_app in direction.source.way_in
    )


def build(
    words: Sequence[str],
    source: Callable[[Config, int, Interface], Interface],
    *,
    ring_size: int,
    receive: str | None = None,
    is_stamped: bool = False,
) -> Blast:
    """Return a network that sends over interfaces.

    Args:
        words: the interfaces.
        source: adds what is sent over the n-th of them, this one, to a config; what it
            returns has no port to receive from where the interface sends it by itself.
        ring_size: descriptors of cards' rings.
        receive: the interface whose packets are checked.
        is_stamped: what is sent can be checked.

    Raises:
        ConfigError: an interface's name is wrong or there twice; nothing comes from it.
    """
    blast = Blast(Config())
    for number, word in enumerate(words):
        if word in words[:number] and word.partition(",")[0] not in {"sim", "null"}:
            raise ConfigError(f'interface "{word}": is there twice')
        whole = _with_wire(word, is_stamped=is_stamped)
        end = attach(
            blast.config, f"port{number}", whole, number=number, ring_size=ring_size
        )
        blast.ends.append(end := replace(end, word=word))
        traffic = source(blast.config, number, end)
        if traffic.receive:
            blast.config.link(f"{traffic.receive} -> {end.transmit}")
            blast.directions.append(Direction(traffic, end, ()))
        else:
            blast.directions.append(FromRing(traffic, end, ()))
        if end.sim and blast.config.apps[end.exit].cls is Checker and is_stamped:
            blast.receivers.append(Receiver(word, end.exit, (number,)))
    if receive is not None and not any(r.word == receive for r in blast.receivers):
        _add_receiver(blast, words, receive, ring_size)
    for number in range(len(blast.ends)):
        _leave_out_unused(blast, number)
    return blast


def _with_wire(word: str, *, is_stamped: bool) -> str:
    """Return a word with the wire of a software card, where it says nothing.

    A sink takes half as long again for each packet (22 -> 35 ns with card and driver),
    and finds nothing where there are no numbers.
    """
    if word.partition(",")[0] != "sim" or "wire" in parse_sim(word).options:
        return word
    return f"{word},wire={'sink' if is_stamped else 'null'}"


def _add_receiver(
    blast: Blast, words: Sequence[str], word: str, ring_size: int
) -> None:
    if word in words:
        end = blast.ends[words.index(word)]
    else:
        end = attach(
            blast.config,
            "receiver",
            _with_wire(word, is_stamped=True),
            number=len(words),
            ring_size=ring_size,
        )
        blast.ends.append(end := replace(end, word=word))
    if end.receive is None:
        raise ConfigError(f'nothing comes from "{word}": not with --receive')
    blast.config.app("checker", Checker, verify=True)
    blast.config.link(f"{end.receive} -> checker.rx")
    checked = {n for r in blast.receivers for n in r.streams}
    streams = tuple(n for n in range(len(words)) if n not in checked)
    blast.receivers.append(Receiver(word, "checker", streams, end.way_in))


def _too_long(blast: Blast) -> Iterator[str]:
    """Yield which interfaces of the kernel will not take the longest frames."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asks:
        for direction in blast.directions:
            word, source = (
                direction.target.word,
                blast.config.apps[direction.source_app],
            )
            name = kernel_name(word)
            if not name or source.cls is not Generator:
                continue
            longest = max((t.frame for t in source.args["frames"]), key=len)
            tag = WIRE_TAG if longest[12:14] == VLAN_TYPE else 0
            mtu = netdev.mtu(asks, name)
            if mtu is not None and len(longest) > mtu + ETHERNET_HEADER + tag:
                yield (
                    f"{word}: drops frames of {len(longest)} bytes without FCS: "
                    f"its MTU is {mtu}"
                )


def _leave_out_unused(blast: Blast, number: int) -> None:
    """Remove what only a direction that is not there would have used."""
    config, end = blast.config, blast.ends[number]
    if end.sim:
        return
    used = {app for link in config.links for app in (link.from_app, link.to_app)}
    ports = (end.receive or "", end.transmit)
    for name in {port.partition(".")[0] for port in ports} - used - {""}:
        del config.apps[name]


# -- reports -------------------------------------------------------------------


def received(engine: Engine, blast: Blast, *, is_last: bool = False) -> list[Any]:
    """Return what the receivers have found.

    Args:
        engine: runs them.
        blast: they are its.
        is_last: all has come that will: the rest is lost.
    """
    return [_verdict(engine, blast, r, is_last=is_last) for r in blast.receivers]


def _verdict(
    engine: Engine, blast: Blast, receiver: Receiver, *, is_last: bool
) -> dict[str, Any]:
    running = engine.apps[receiver.app]
    checker: Any = running.instance
    streams = checker.streams
    counters = running.counters
    result: dict[str, Any] = {
        "from": printable(receiver.word),
        "packets": sum(s.packets for s in streams.values()),
        **{name: counters[name] for name in VERDICTS},
    }
    if is_last:
        result["lost"] += sum(
            engine.apps[blast.directions[n].source_app].instance.sent  # type: ignore[attr-defined]
            - (streams[n].expected if n in streams else 0)
            for n in receiver.streams
            if blast.config.apps[blast.directions[n].source_app].cls is Generator
        )
    result |= {k: n for k, n in counters.items() if n and k not in VERDICTS}
    for name in receiver.way:
        result |= app_drops(engine, name, "drop-tx-")
    latency = checker.latency
    if any(latency):
        # A bucket's end may lie beyond what was longest.
        result["latency_ns"] = {
            name: min(percentile(latency, share), checker.longest_ns)
            for name, share in SHARES.items()
        } | {"max": checker.longest_ns}
    return result


def received_line(found: dict[str, Any]) -> str:
    """Return what a receiver has found as a line of text."""
    numbers = {k: n for k, n in found.items() if k not in {"from", "latency_ns"}}
    packets = numbers.pop("packets")
    line = f"{found['from']}: received {packets}, "
    line += ", ".join(f"{name} {n}" for name, n in numbers.items())
    if "latency_ns" in found:
        times = {name: ns / 1e3 for name, ns in found["latency_ns"].items()}
        line += (
            f"; latency {times['p50']:.1f} us median, {times['p99']:.1f} us p99, "
            f"{times['p999']:.1f} us p99.9, {times['max']:.1f} us longest"
        )
    return line


class BlastReporter(Reporter):
    """Reports what was sent, what could not be in time, and what came back."""

    def show(self, look: dict[str, Any]) -> None:
        """Show how things are."""
        if self.as_json:
            super().show(look)
            return
        more = [
            f"{d['to']}: {d['missed']} not sent in time"
            for d in look["directions"]
            if d["missed"]
        ]
        more += map(received_line, look["received"])
        if self._live:
            shown = table(look, self.title)
            shown.caption = "\n".join(more)
            shown.caption_justify = "left"
            self._live.update(shown, refresh=True)
            return
        for direction in look["directions"]:
            self._print(plain_line(look, direction))
        for line in more:
            self._print(f"{look['seconds']:8.1f} s  {line}")

    def finish(self, summary: dict[str, Any]) -> None:
        """Show the summary."""
        self.stop()
        if self.as_json:
            super().finish(summary)
            return
        self._print(f"{PROGRAM}: {summary['seconds']:.2f} s")
        for d in summary["directions"]:
            self._print(
                f"  {d['from']} -> {d['to']}: sent {d['forwarded']}, not sent in time "
                f"{d['missed']}; {', '.join(rates(d))}"
            )
            for reason, n in {**d["missed_by_reason"], **d["drops"]}.items():
                self._print(f"    {reason}: {n}")
        for found in summary["received"]:
            self._print(f"  {received_line(found)}")


def _with_large(settings: dict[str, Any], blast: Blast) -> dict[str, Any]:
    """Return an engine's settings with large packets, where sources may have any."""
    if any(direction.source.needs_large for direction in blast.directions):
        return settings | {"large_packets": LARGE_PACKETS}
    return settings


def blast_away(blast: Blast, running: Running, notes: Sequence[str]) -> None:
    """Send until all is sent, the time is over, or a signal comes; report.

    Exits with status 1 when something could not do its work.
    """
    words = " ".join(end.word for end in blast.ends)
    reporter = BlastReporter(
        PROGRAM,
        as_json=running.as_json,
        is_stdout_taken="/dev/stdout" in words or "/dev/fd/1" in words,
    )
    try:
        with (
            Ending() as ending,
            engine_settings(
                blast.ends,
                cpus=[running.cpu],
                sim_cpu=running.sim_cpu,
                huge_pages=running.huge_pages,
                log=reporter.log,
            ) as settings,
            Engine(
                busy=running.busy,
                program=PROGRAM,
                log=reporter.log,
                **_with_large(settings, blast),
            ) as engine,
        ):
            ending.of(engine)
            engine.notes += [*notes, *_too_long(blast)]
            summary = run(
                engine,
                blast.config,
                blast.directions,
                reporter,
                duration=running.duration,
                interval=running.interval,
                done=lambda: blast.is_done(engine),
                at_end=lambda: blast.stop_sending(engine),
                more=lambda is_last: {
                    "received": received(engine, blast, is_last=is_last)
                },
            )
            apps = [running.instance for running in engine.apps.values()]
        failures = [printable(app.failure) for app in apps if app.failure]
        reporter.finish({"program": PROGRAM, **summary, "failures": failures})
        if failures:
            sys.exit(1)
    finally:
        reporter.stop()
