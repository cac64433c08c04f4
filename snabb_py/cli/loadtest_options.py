"""What the programs of `snabb-py loadtest` share: options, the engine they run on."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from snabb_py.cli import loadtest_network
from snabb_py.cli.forward import MOST_HOPS
from snabb_py.cli.interfaces import engine_settings
from snabb_py.cli.loadtest_capture import read_templates
from snabb_py.cli.loadtest_network import Network
from snabb_py.cli.loadtest_traffic import OVERHEADS, Rate, TrafficOptions, parse_rate
from snabb_py.cli.options import F, card_options, engine_options
from snabb_py.cli.run import Ending
from snabb_py.cli.terminal import complain
from snabb_py.cli.usage import PATH, Number, OneOf, Whole
from snabb_py.engine.engine import Engine

#: Seconds that are more than anybody waits for.
LONG = 86400


class RateType(click.ParamType[Rate]):
    """A rate, "2.5Gbps"."""

    name = "rate"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Rate:
        """Return the rate; it knows its option."""
        option = param.opts[0] if param else "rate"
        try:
            return replace(parse_rate(value), option=option)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def highest(text: str) -> Callable[[F], F]:
    """Return the option --max."""
    return click.option(
        "--max",
        "most",
        type=RateType(),
        metavar="RATE",
        help=f"{text}, such as 14.88Mpps, 500kpps, 2.5Gbps or 100Mbps; 10 Gbps on the "
        "wire.",
    )


def seconds(
    name: str, default: float, text: str, *, least: float = 0.0
) -> Callable[[F], F]:
    """Return an option that is a time."""
    return click.option(
        name,
        type=Number(least, LONG),
        default=default,
        show_default=True,
        metavar="S",
        help=text,
    )


def _traffic_options(command: F) -> F:
    for option in (
        click.option(
            "--unit",
            type=OneOf(sorted(OVERHEADS)),
            default="wire",
            show_default=True,
            help="What bps count: all of the wire, 24 bytes a frame more than its "
            "data; or the frame with its FCS, 4 more, as sizes do.",
        ),
        click.option(
            "--capture",
            type=PATH,
            metavar="FILE",
            help="Send its frames instead, round and round; see below.",
        ),
        click.option("--dst-ip", default="", metavar="IP[-IP]", help="Of the frames."),
        click.option("--src-ip", default="", metavar="IP[-IP]", help="Of the frames."),
        click.option("--dst-mac", default="", metavar="MAC", help="Of the frames."),
        click.option("--src-mac", default="", metavar="MAC", help="Of the frames."),
        click.option("--vlan", default="", metavar="N", help="Tag them."),
        click.option(
            "--ip",
            type=OneOf(["4", "6"]),
            default="4",
            show_default=True,
            help="Version.",
        ),
        click.option(
            "--flows",
            default="16",
            show_default=True,
            metavar="N",
            help="Addresses and ports that take turns.",
        ),
        click.option(
            "--size",
            default="",
            metavar="N[,N]...|imix",
            help="Bytes with FCS: one, several in turn, 7 x 64 + 4 x 594 + 1 x 1518; "
            "the least there can be.",
        ),
    ):
        command = option(command)
    return command


def _own_options(command: F) -> F:
    hops = click.option(
        "--hops",
        type=Whole(0, MOST_HOPS),
        metavar="N",
        help="Of `forward`, where it is tested: forwarder apps; 1.",
    )
    police = click.option(
        "--police",
        type=Number(0, 1000, min_open=True),
        metavar="GBPS",
        help="Of `forward`: drop what exceeds this rate on the wire.",
    )
    return hops(police(command))


def load_options(command: F) -> F:
    """Add what all load tests take: interfaces, frames, how it runs and reports."""
    command = engine_options(command)
    command = click.option(
        "--json", "as_json", is_flag=True, help="One JSON object to the line."
    )(command)
    command = _traffic_options(_own_options(card_options(command)))
    command = click.option(
        "--bidir", is_flag=True, help="Also from each RX to its TX, at the same time."
    )(command)
    return click.argument("interfaces", nargs=-1, metavar="[TX RX]...")(command)


def _frames(*, capture: Path | None, **others: Any) -> TrafficOptions:
    """Return what the user said of the frames.

    Raises:
        click.UsageError: a capture and something of frames that are made.
        SnabbError: the capture cannot be used.
    """
    if not capture:
        return TrafficOptions(**others)
    made = {"unit": others["unit"]}
    if TrafficOptions(**others) != TrafficOptions(**made):
        raise click.UsageError("--capture: its frames are sent; say no others")
    templates, nothers = read_templates(capture)
    if nothers:
        complain(f"{capture}: {nothers} frames left out: not whole TCP or UDP over IP")
    return TrafficOptions(capture=templates, **made)


def build(
    interfaces: Sequence[str],
    *,
    bidir: bool,
    hops: int | None,
    police: float | None,
    ring_size: int,
    **frames: Any,
) -> Network:
    """Return the network that the options ask for.

    Raises:
        click.UsageError: they do not go together.
        ConfigError: one of them is wrong.
    """
    options = _frames(**frames)
    if loadtest_network.is_own(interfaces):
        if options.src_mac or options.dst_mac:
            raise click.UsageError(
                "--src-mac, --dst-mac: software cards have their own"
            )
        return loadtest_network.own(
            interfaces,
            options,
            bidir=bidir,
            hops=1 if hops is None else hops,
            police=police,
            ring_size=ring_size,
        )
    if hops is not None or police is not None:
        raise click.UsageError(
            "--hops, --police: of our own forward, which is tested without interfaces; "
            "what is between these is not ours"
        )
    if len(interfaces) % 2:
        raise click.UsageError(f"{interfaces[-1]}: a TX without its RX")
    pairs = list(zip(interfaces[::2], interfaces[1::2], strict=True))
    if bidir:
        pairs += [(rx, tx) for tx, rx in pairs]
    return loadtest_network.external(pairs, options, ring_size=ring_size)


@contextlib.contextmanager
def running(
    network: Network,
    *,
    cpu: int | None,
    sim_cpu: int | None,
    busy: bool,
    huge_pages: str,
) -> Iterator[Engine]:
    """Give an engine that suits a network; signals end it."""
    with (
        Ending() as ending,
        engine_settings(
            network.interfaces,
            cpus=[cpu],
            sim_cpu=sim_cpu,
            huge_pages=huge_pages,
            log=complain,
        ) as settings,
        Engine(busy=busy, program="loadtest", log=complain, **settings) as engine,
    ):
        ending.of(engine)
        yield engine
