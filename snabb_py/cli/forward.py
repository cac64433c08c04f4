"""`snabb-py forward`: two interfaces joined through a chain of forwarders."""

import sys
from dataclasses import replace

import click

from snabb_py.apps.basic import Forward, Police
from snabb_py.cli.interfaces import (
    UNFINISHED,
    Direction,
    Interface,
    attach,
    check_kind,
    engine_settings,
)
from snabb_py.cli.options import (
    card_options,
    complete_interface,
    place_workers,
    report_options,
    workers_options,
)
from snabb_py.cli.run import Ending, Reporter, run
from snabb_py.cli.terminal import printable
from snabb_py.cli.usage import Number, OneOf, Whole
from snabb_py.engine.app import FiniteSource
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.errors import ConfigError

MOST_HOPS = 1000
#: Interfaces of which there can be several with the same word.
SEVERAL = ("null", "sim")
#: Those of which each worker can have a part of its own.
SHARED_OUT = ("null", "xdp")


def build(  # noqa: PLR0913 - the options of a program
    a: str | None,
    b: str | None,
    *,
    hops: int,
    bidir: bool,
    police: float | None,
    ring_size: int | None = None,
    nworkers: int = 1,
) -> tuple[Config, list[Direction]]:
    """Return the app network and what to count in it.

    Args:
        a: an interface; None with b None: two software cards.
        b: the other one.
        hops: forwarders in each direction.
        bidir: also from b to a.
        police: Gbps that may pass in each direction.
        ring_size: see `attach`.
        nworkers: each has a queue of both interfaces, and a chain.

    Raises:
        ConfigError: an interface's name is wrong, or one is used twice.
    """
    config = Config()
    a, b = ("sim" if word is None else word for word in (a, b))
    for word in (a, b):
        check_kind(word)
    if a == b and a.partition(",")[0] not in SEVERAL:
        raise ConfigError(f'interface "{a}": cannot be both ends')
    directions = []
    for worker in range(nworkers):
        part = str(worker) if nworkers > 1 else ""
        words = tuple(_queue_of(word, worker) if part else word for word in (a, b))
        before = set(config.apps)
        ends = _attach_ends(config, words, part, ring_size)
        for name, source, target in zip(("ab", "ba"), ends, ends[::-1], strict=True):
            if source.receive is None and name == "ba" and bidir:
                raise ConfigError(
                    f'nothing comes from "{source.word}": not with --bidir'
                )
            if source.receive is None or (name == "ba" and not bidir):
                _leave_out(config, source, target)
                continue
            apps = _chain(config, name + part, source, target, hops=hops, police=police)
            directions.append(Direction(source, target, tuple(apps)))
        if part:
            for app in config.apps.keys() - before:
                config.place(app, worker)
    if not directions:
        raise ConfigError(f'nothing comes from "{a}": there is nothing to forward')
    return config, directions


def _attach_ends(
    config: Config, words: tuple[str, ...], part: str, ring_size: int | None
) -> tuple[Interface, ...]:
    """Add the apps of both interfaces, or of a worker's part of them."""
    ends = tuple(
        attach(config, name + part, word, number=number, ring_size=ring_size)
        for number, (name, word) in enumerate(zip("ab", words, strict=True))
    )
    if words[0] != words[1]:
        return ends
    return tuple(
        replace(end, word=f"{end.word} ({name})")
        for end, name in zip(ends, "ab", strict=True)
    )


def _queue_of(word: str, worker: int) -> str:
    """Return a worker's part of an interface.

    Raises:
        ConfigError: it has no parts.
    """
    if word == "null":
        return word
    if word.partition(":")[0] not in SHARED_OUT or "," in word:
        raise ConfigError(
            f'interface "{word}": cannot be shared out among workers: expected '
            "xdp:IFNAME or null"
        )
    return f"{word},queue={worker}"


def _leave_out(config: Config, source: Interface, target: Interface) -> None:
    """Remove what only the direction that is not wanted would have used."""
    entry = source.entry
    if source.sim and entry and issubclass(config.apps[entry].cls, FiniteSource):
        config.remove([entry])
    if source.sim and target.sim:
        return
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
        names = d.path
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
@click.argument("a", required=False, shell_complete=complete_interface)
@click.argument("b", required=False, shell_complete=complete_interface)
@click.option(
    "--hops",
    type=Whole(0, MOST_HOPS),
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
@card_options
@click.option(
    "--graph",
    is_flag=False,
    flag_value="text",
    type=OneOf(["text", "dot"]),
    help="Print the app network (dot: for Graphviz) and exit.",
)
@report_options
@workers_options
def program(  # noqa: PLR0913 - the options of a program
    *,
    a: str | None,
    b: str | None,
    hops: int,
    bidir: bool,
    police: float | None,
    ring_size: int | None,
    sim_cpu: int | None,
    graph: str | None,
    duration: float | None,
    interval: float,
    as_json: bool,
    workers: int | None,
    cpu_list: str | None,
    busy: bool,
    huge_pages: str,
) -> None:
    """Join the interfaces A and B through a chain of forwarders.

    \b
    An interface is one of
      0000:01:00.0[,OPTION]... an Intel 82599, by its PCI address
      sim[,OPTION]...          a software 82599, through the same driver
      raw:IFNAME[,ring=N]      a network interface of the kernel
      xdp:IFNAME[,queue=N]     a queue of one, past the kernel
      tap:NAME                 a tap interface, made if it is not there
      pcap:IN.pcap[,OUT.pcap]  a capture to send, and one to write
      null                     gives nothing, swallows everything

    Without A and B it joins two software cards: on the wire of each a generator sends
    to the other. A generator sends at line rate, 10 Gb/s, as long as its card takes
    the frames: it waits when the card's packet buffer fills, so none is lost.

    \b
    Options of cards
      ring=N mtu=N             descriptors of each ring; 9000 bytes
      mac=MAC                  receive what is for MAC or the card, not all
    and of sim
      wire=WORD                gen (default), sink, null, tap:NAME, raw:IFNAME,
                               xdp:IFNAME or pcap:F[,F], which must come last
      rate=14.88Mpps|2.5Gbps   send at this rate whatever the card takes
      rate=max                 as fast as the card takes frames, beyond 10 Gb/s
      size=64 size=64+1518 size=imix flows=16 vlan=N ip=6 count=N
      inline                   the card takes turns with its driver in one worker, in
                               modelled time: a breath takes 2 us, and the result does
                               not depend on the machine's load

    Offered and forwarded are counted at the wires. Software cards have a worker of
    their own (--sim-cpu), on a machine with one CPU that of their drivers. Rates are
    what this machine did, inline too; there only what is lost is modelled time's.

    With --workers N, or --cpu LIST, each worker has a chain of its own between the
    queues of its number, from 0 on, of xdp interfaces: `ethtool -L` sets how many there
    are. What comes in on other queues goes to the kernel.

    --police is a token bucket: 250 ms of the rate, 128 KiB at least, may pass at
    once.
    Captures are sent as fast as they are taken and written with the time of writing. A
    tap that was made for the run goes with it.

    Gbps are bits on the wire: preamble, FCS and gap count. A run whose sources are
    all captures ends when they have been sent.

    \b
    Examples:
      snabb-py forward --hops 8 --bidir
      snabb-py forward raw:eth1 raw:eth2 --bidir --police 2
      snabb-py forward xdp:eth1 xdp:eth2 --bidir --cpu 2,3
      snabb-py forward 0000:01:00.0 0000:01:00.1 --bidir --cpu 2
      snabb-py forward sim,rate=7.81Mpps sim,rate=7.81Mpps --hops 8 --bidir
      snabb-py forward sim,inline,count=1e6 sim,inline,count=1e6 --hops 8 --bidir
      snabb-py forward pcap:in.pcap pcap:,out.pcap --hops 3
      snabb-py forward raw:eth1 tap:tap0 --bidir --json --duration 10
    """
    if (a is None) != (b is None):
        raise click.UsageError("give both interfaces, or neither")
    cpus = place_workers(workers, cpu_list)
    config, directions = build(
        a,
        b,
        hops=hops,
        bidir=bidir,
        police=police,
        ring_size=ring_size,
        nworkers=len(cpus),
    )
    if graph:
        print(config.graphviz() if graph == "dot" else text_graph(config, directions))
        return
    ends = list(dict.fromkeys(e for d in directions for e in (d.source, d.target)))
    words = f"{a} {b}"
    reporter = Reporter(
        "forward",
        as_json=as_json,
        is_stdout_taken="/dev/stdout" in words or "/dev/fd/1" in words,
    )
    try:
        with (
            Ending() as ending,
            engine_settings(
                ends,
                cpus=cpus,
                sim_cpu=sim_cpu,
                huge_pages=huge_pages,
                log=reporter.log,
            ) as settings,
            Engine(
                busy=busy, program="forward", log=reporter.log, **settings
            ) as engine,
        ):
            ending.of(engine)
            if a is None:
                engine.notes.append(
                    "no interfaces given: two software cards stand for them"
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
            instances = [running.instance for running in engine.apps.values()]
        failures = [printable(app.failure) for app in instances if app.failure]
        reporter.finish({"program": "forward", **summary, "failures": failures})
        lost_at_end = [r for d in summary["directions"] for r in d["drops"]]
        ends_badly = (UNFINISHED, "write-error")
        if failures or any(reason.endswith(ends_badly) for reason in lost_at_end):
            sys.exit(1)
    finally:
        reporter.stop()
