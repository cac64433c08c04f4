"""`snabb-py forward`: two interfaces joined through a chain of forwarders."""

import sys

import click

from snabb_py.apps.basic import Forward, Police
from snabb_py.cli.interfaces import (
    UNFINISHED,
    Direction,
    Interface,
    attach,
    attach_memory,
)
from snabb_py.cli.options import Number, engine_options, report_options
from snabb_py.cli.run import Ending, Reporter, run
from snabb_py.engine.app import FiniteSource
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.errors import ConfigError

MOST_HOPS = 1000


def build(
    a: str | None, b: str | None, *, hops: int, bidir: bool, police: float | None
) -> tuple[Config, list[Direction]]:
    """Return the app network and what to count in it.

    Args:
        a: an interface; None with b None: traffic in memory.
        b: the other one.
        hops: forwarders in each direction.
        bidir: also from b to a.
        police: Gbps that may pass in each direction.

    Raises:
        ConfigError: an interface's name is wrong, or one is used twice.
    """
    config = Config()
    if a is None or b is None:
        ends = attach_memory(config, "a"), attach_memory(config, "b")
    else:
        if a == b and a != "null":
            raise ConfigError(f'interface "{a}": cannot be both ends')
        ends = attach(config, "a", a), attach(config, "b", b)
    directions = []
    ways = (("ab", ends[0], ends[1]), ("ba", ends[1], ends[0]))
    for name, source, target in ways:
        if source.receive is None and name == "ba" and bidir:
            raise ConfigError(f'nothing comes from "{source.word}": not with --bidir')
        if source.receive is None or (name == "ba" and not bidir):
            _leave_out(config, source, target)
            continue
        apps = _chain(config, name, source, target, hops=hops, police=police)
        directions.append(Direction(source, target, tuple(apps)))
    if not directions:
        raise ConfigError(f'nothing comes from "{a}": there is nothing to forward')
    return config, directions


def _leave_out(config: Config, source: Interface, target: Interface) -> None:
    """Remove what only the direction that is not wanted would have used."""
    gone = {target.transmit.partition(".")[0]}
    if source.receive:
        gone.add(source.receive.partition(".")[0])
    used = {app for link in config.links for app in (link.from_app, link.to_app)}
    for name in gone - used:
        # An app that does both (raw, tap) is still wanted for the other direction.
        if name.endswith(("-in", "-out")) or config.apps[name].cls.outputs.names == ():
            del config.apps[name]


def _chain(  # noqa: PLR0913 - the parts of a chain
    config: Config,
    name: str,
    source: Interface,
    target: Interface,
    *,
    hops: int,
    police: float | None,
) -> list[str]:
    apps = []
    if police is not None:
        apps.append(f"{name}-police")
        config.app(apps[-1], Police, rate_gbps=police)
    for hop in range(1, hops + 1):
        apps.append(f"{name}-hop{hop}")
        config.app(apps[-1], Forward)
    port = source.receive
    for app in apps:
        config.link(f"{port} -> {app}.rx")
        port = f"{app}.tx"
    config.link(f"{port} -> {target.transmit}")
    return apps


def text_graph(config: Config, directions: list[Direction]) -> str:
    """Return the app network as text, a direction to the line."""
    lines = []
    for d in directions:
        names = (d.source_app, *d.apps, d.target_app)
        labels = [f"{name} ({config.apps[name].cls.__name__})" for name in names]
        lines.append(f"{d.source.word} -> {d.target.word}")
        lines.append("  " + "\n    -> ".join(labels))
    return "\n".join(lines)


def has_end(config: Config, directions: list[Direction]) -> bool:
    """Return whether all packets come from captures, which come to an end."""
    classes = [config.apps[d.source_app].cls for d in directions]
    return all(issubclass(cls, FiniteSource) for cls in classes)


def is_done(engine: Engine, directions: list[Direction]) -> bool:
    """Return whether all of them have been sent."""
    sources = [engine.apps[d.source_app].instance for d in directions]
    return all(isinstance(s, FiniteSource) and s.is_done for s in sources)


@click.command(
    "forward", epilog="Ctrl-C and SIGTERM end it with the summary and exit status 0."
)
@click.argument("a", required=False)
@click.argument("b", required=False)
@click.option(
    "--hops",
    type=click.IntRange(0, MOST_HOPS),
    default=1,
    show_default=True,
    metavar="N",
    help="Forwarder apps in each direction.",
)
@click.option("--bidir", is_flag=True, help="Also from B to A.")
@click.option(
    "--police",
    type=Number(0, 1000, min_open=True),
    metavar="GBPS",
    help="Drop what exceeds this rate on the wire, in each direction.",
)
@click.option(
    "--graph",
    is_flag=False,
    flag_value="text",
    type=click.Choice(["text", "dot"]),
    help="Print the app network (dot: for Graphviz) and exit.",
)
@report_options
@engine_options
def program(  # noqa: PLR0913 - the options of a program
    *,
    a: str | None,
    b: str | None,
    hops: int,
    bidir: bool,
    police: float | None,
    graph: str | None,
    duration: float | None,
    interval: float,
    as_json: bool,
    cpu: int | None,
    busy: bool,
) -> None:
    """Join the interfaces A and B through a chain of forwarders.

    \b
    An interface is one of
      raw:IFNAME               a network interface of the kernel
      tap:NAME                 a tap interface, made if it is not there
      pcap:IN.pcap[,OUT.pcap]  a capture to send, and one to write
      null                     gives nothing, swallows everything

    --police is a token bucket: 10 ms of the rate, 128 KiB at least, may pass at once.
    Captures are sent as fast as they are taken and written with the time of writing. A
    tap that was made for the run goes with it.

    Without A and B, traffic made and swallowed in memory stands for two cards.
    Gbps are bits on the wire: preamble, FCS and gap count. A run whose sources are
    all captures ends when they have been sent.

    \b
    Examples:
      snabb-py forward --hops 8 --bidir
      snabb-py forward raw:eth1 raw:eth2 --bidir --police 2
      snabb-py forward pcap:in.pcap pcap:,out.pcap --hops 3
      snabb-py forward raw:eth1 tap:tap0 --bidir --json --duration 10
    """
    if (a is None) != (b is None):
        raise click.UsageError("give both interfaces, or neither")
    config, directions = build(a, b, hops=hops, bidir=bidir, police=police)
    if graph:
        print(config.graphviz() if graph == "dot" else text_graph(config, directions))
        return
    large = any(d.source.needs_large or d.target.needs_large for d in directions)
    words = f"{a} {b}"
    reporter = Reporter(
        "forward",
        as_json=as_json,
        is_stdout_taken="/dev/stdout" in words or "/dev/fd/1" in words,
    )
    try:
        with (
            Ending() as ending,
            Engine(
                cpus=[cpu],
                busy=busy,
                large_packets=1024 if large else 0,
                program="forward",
                log=reporter.log,
            ) as engine,
        ):
            ending.of(engine)
            if a is None:
                reporter.log(
                    "no interfaces given: traffic is made and swallowed in memory"
                )
            summary = run(
                engine,
                config,
                directions,
                reporter,
                duration=duration,
                interval=interval,
                done=(lambda: is_done(engine, directions))
                if has_end(config, directions)
                else None,
            )
        reporter.finish({"program": "forward", **summary})
        lost_at_end = [r for d in summary["directions"] for r in d["drops"]]
        if any(reason.endswith((UNFINISHED, "write-error")) for reason in lost_at_end):
            sys.exit(1)
    finally:
        reporter.stop()
