"""`snabb-py bench`: the engine measured by itself. Each prints one line."""

import time
from typing import Any

import click

from snabb_py.apps.basic import Forward, Sink, Source, Tee
from snabb_py.cli.bench_report import bench_options, report
from snabb_py.cli.bench_vhost import vhost, vhost_latency
from snabb_py.cli.terminal import complain
from snabb_py.cli.usage import Group, OneOf, Whole
from snabb_py.engine.app import Ports
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.engine.packet import Packet
from snabb_py.engine.python_app import PythonApp


class PerPacket(PythonApp):
    """A relay that is called for each packet."""

    inputs = Ports("rx")
    outputs = Ports("tx")

    def packet(self, packet: Packet) -> str:
        """Send it on."""
        del packet
        return "tx"


class PerBurst(PythonApp):
    """A relay that is called for each burst."""

    inputs = Ports("rx")
    outputs = Ports("tx")

    def push(self) -> None:
        """Send all on."""
        self.input["rx"].move(self.output["tx"])


def measure(config: Config, app: str, n: int, cpu: int | None) -> tuple[int, float]:
    """Run until n packets have come out of an app; return packets and seconds."""
    with Engine(cpus=[cpu], large_packets=0, log=complain) as engine:
        engine.commit(config)
        row = next(k.row for s, k in engine.links.items() if s.from_app == app)
        packets, start = row["txpackets"], time.monotonic()
        last = packets + n
        # Read often, not by the clock: a run may last a few milliseconds.
        while row["txpackets"] < last:
            time.sleep(0.0005)
        seconds = time.monotonic() - start
        return row["txpackets"] - packets, seconds


@click.group("bench", cls=Group)
def program() -> None:
    """Measure the engine itself, on one core.

    Absolute rates depend on the machine and the minute: compare what was measured
    in turns.

    \b
    Examples:
      snabb-py bench basic1 1e9
      snabb-py bench hops --hops 8 --json
    """


@program.command("basic1")
@bench_options("1e8")
def basic1(*, n: int, cpu: int | None, as_json: bool) -> None:
    """Source -> Tee -> two links into a Sink; the Source's packets count.

    The Source copies 60 bytes into each fresh packet, the Tee copies each for its
    second output: what Snabb measures as `snabbmark basic1`.
    """
    config = Config()
    config.app("source", Source, size=60)
    config.app("tee", Tee)
    config.app("sink", Sink)
    config.link("source.tx -> tee.rx")
    config.link("tee.tx1 -> sink.rx1")
    config.link("tee.tx2 -> sink.rx2")
    packets, seconds = measure(config, "source", n, cpu)
    report("basic1", packets, seconds, as_json=as_json)


def chain(cls: Any, length: int) -> Config:
    """Return Source -> length apps of a class -> Sink."""
    config = Config()
    config.app("source", Source, size=60)
    port = "source.tx"
    for i in range(1, length + 1):
        config.app(f"hop{i}", cls)
        config.link(f"{port} -> hop{i}.rx")
        port = f"hop{i}.tx"
    config.app("sink", Sink)
    config.link(f"{port} -> sink.rx")
    return config


@program.command("hops")
@bench_options("1e8")
@click.option("--hops", type=Whole(0, 1000), default=8, show_default=True, metavar="N")
def hops(*, n: int, cpu: int | None, as_json: bool, hops: int) -> None:
    """Source -> N forwarders -> Sink."""
    config = chain(Forward, hops)
    packets, seconds = measure(config, f"hop{hops}" if hops else "source", n, cpu)
    report("hops", packets, seconds, as_json=as_json, hops=hops)


@program.command("card")
@bench_options("1e7")
@click.option("--transmit", is_flag=True, help="What it sends; else what it receives.")
@click.option(
    "--size",
    type=Whole(64, 1518),
    default=64,
    show_default=True,
    metavar="BYTES",
    help="Of each frame, with FCS.",
)
@click.option(
    "--queues",
    type=Whole(1, 16),
    default=1,
    show_default=True,
    metavar="N",
    help="That it receives on; RSS spreads 64 flows over them.",
)
def card(  # noqa: PLR0913 - one argument an option
    *,
    n: int,
    cpu: int | None,
    as_json: bool,
    transmit: bool,
    size: int,
    queues: int,
) -> None:
    """Run a software 82599 without a driver: Generator -> card, or card -> Checker.

    Each descriptor is given back at once, and the wire is not held to 10 Gb/s.
    """
    from snabb_py.apps.traffic import Checker, Generator, udp_frames
    from snabb_py.nic.idle_host import IdleHost
    from snabb_py.nic.model82599 import Card, SoftwareCard

    if transmit and queues > 1:
        raise click.UsageError("--queues is about what it receives")
    frames = udp_frames(size, flows=1 if queues == 1 else 64)
    software_card = Card(paced=False)
    config = Config()
    config.app("card", SoftwareCard, card=software_card)
    if transmit:
        frame = frames[0].frame
        config.app("host", IdleHost, card=software_card, transmit=frame)
        config.app("checker", Checker)
        config.link("card.tx -> checker.rx")
    else:
        config.app("host", IdleHost, card=software_card, queues=queues)
        config.app("generator", Generator, frames=frames)
        config.link("generator.tx -> card.rx")
    source = "card" if transmit else "generator"
    packets, seconds = measure(config, source, n, cpu)
    counters = software_card.counters
    software_card.close()
    lost = sum(k for name, k in counters.items() if name.startswith("drop"))
    report(
        "card",
        packets,
        seconds,
        as_json=as_json,
        direction="transmit" if transmit else "receive",
        size=size,
        queues=queues,
        ns_per_packet=round(seconds / packets * 1e9, 2),
        lost=lost,
    )


@program.command("driver")
@bench_options("1e8")
@click.option("--transmit", is_flag=True, help="What it sends; else what it receives.")
def driver(*, n: int, cpu: int | None, as_json: bool, transmit: bool) -> None:
    """Run the 82599 driver without a card: queue -> Sink, or Source -> queue.

    Each descriptor is completed at once, and no frame is copied.
    """
    from snabb_py.nic.idle_card import Idle, IdleCard, IdleQueue

    idle = Idle()
    config = Config()
    config.app("card", IdleCard, idle=idle)
    config.app("queue", IdleQueue, idle=idle)
    if transmit:
        config.app("source", Source, size=60)
        config.link("source.tx -> queue.rx")
    else:
        config.app("sink", Sink)
        config.link("queue.tx -> sink.rx")
    source = "source" if transmit else "queue"
    packets, seconds = measure(config, source, n, cpu)
    report(
        "driver",
        packets,
        seconds,
        as_json=as_json,
        direction="transmit" if transmit else "receive",
        ns_per_packet=round(seconds / packets * 1e9, 2),
    )


@program.command("python-app")
@bench_options("1e6")
@click.option(
    "--style",
    type=OneOf(["burst", "packet"]),
    default="burst",
    show_default=True,
    help="What the app is called for.",
)
def python_app(*, n: int, cpu: int | None, as_json: bool, style: str) -> None:
    """Source -> an app in Python, on a worker of its own -> Sink."""
    config = chain(PerBurst if style == "burst" else PerPacket, 1)
    packets, seconds = measure(config, "hop1", n, cpu)
    report("python-app", packets, seconds, as_json=as_json, style=style)


@program.command("reconfigure")
@bench_options("1000")
def reconfigure(*, n: int, cpu: int | None, as_json: bool) -> None:
    """Change the network N times while packets flow; an app comes, an app goes."""
    one, other = chain(Forward, 4), chain(Forward, 4)
    other.app("extra", Tee)
    other.app("sink2", Sink)
    other.links = {k for k in other.links if k.from_app != "hop4"}
    other.link("hop4.tx -> extra.rx")
    other.link("extra.tx1 -> sink.rx")
    other.link("extra.tx2 -> sink2.rx")
    with Engine(cpus=[cpu], large_packets=0, log=complain) as engine:
        engine.commit(one)
        row = engine.link("source.tx -> hop1.rx").row
        packets, start = row["txpackets"], time.monotonic()
        for i in range(n):
            engine.commit(one if i % 2 else other)
        seconds = time.monotonic() - start
        report(
            "reconfigure",
            row["txpackets"] - packets,
            seconds,
            as_json=as_json,
            reconfigurations=n,
            per_second=round(n / seconds, 1),
            longest_gap_us=round(engine.workers[0].row["longest-gap-ns"] / 1e3, 1),
        )


program.add_command(vhost)
program.add_command(vhost_latency)
