"""`snabb-py packetblaster lwaftr`: what the softwires of a binding table carry."""

import math
from collections.abc import Iterator, Sequence
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import click

from snabb_py._native import lib
from snabb_py.apps.fields import parse_mac
from snabb_py.apps.traffic import FCS_SIZE, IMIX, LEAST_FRAME, Generator, Template
from snabb_py.cli.interfaces import Interface
from snabb_py.cli.packetblaster_blast import (
    CATCH_UP_US,
    NO_INTERFACE,
    blast_away,
    build,
)
from snabb_py.cli.packetblaster_options import (
    Rate,
    Running,
    count_option,
    parse_sizes,
    sending_options,
)
from snabb_py.cli.usage import PATH, OneOf, Whole
from snabb_py.engine.app import check_range
from snabb_py.engine.config import Config
from snabb_py.errors import ConfigError
from snabb_py.lwaftr.binding_table import BindingTable, Softwire
from snabb_py.lwaftr.conf import read, read_table
from snabb_py.lwaftr.made_up_traffic import Ends, from_b4s, from_internet

SRC_MAC, DST_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
MOST_SOFTWIRES = 65536
HEADERS = 42  # bytes: Ethernet, IPv4, UDP
TIMED: int = lib.TRAFFIC_TIMED_STAMP_SIZE
MOST_SIZE = 9000  # on the IPv4 side; a tunnel's header more on the other


def load(
    conf: Path | None, bt: Path | None
) -> tuple[BindingTable, dict[str, tuple[bytes, int | None]]]:
    """Return the softwires, and the lwAFTR's MAC address and VLAN on each side.

    Raises:
        UsageError: neither is given.
        SnabbError: one cannot be read, or has no softwires.
    """
    known: dict[str, tuple[bytes, int | None]] = {}
    if conf is not None:
        config = read(conf, table=bt)
        queue = config.instances[0].queues[0]
        table = config.binding_table
        known = {
            "v4": (queue.external.mac, queue.external.vlan_tag),
            "v6": (queue.internal.mac, queue.internal.vlan_tag),
        }
    elif bt is not None:
        table = read_table(bt)
    else:
        raise click.UsageError("give --bt, --conf or both")
    if not len(table):
        raise ConfigError(f"{conf or bt}: there are no softwires in it")
    return table, known


def _mac(option: str, text: str) -> bytes:
    try:
        return parse_mac(text).to_bytes(6, "big")
    except ValueError:
        raise ConfigError(f'{option}: "{text}" is no MAC address') from None


def make_frames(
    side: str, softwires: Sequence[Softwire], ends: Ends, sizes: Sequence[int]
) -> Iterator[bytes]:
    """Yield a side's frames, until softwires and sizes begin again together."""
    n = math.lcm(len(softwires), len(sizes))
    every = list(islice(cycle(softwires), n))
    return (from_internet if side == "v4" else from_b4s)(every, ends, sizes)


@click.command(
    "lwaftr", epilog="Ctrl-C and SIGTERM end it with the summary and exit status 0."
)
@click.argument("interfaces", nargs=-1, metavar="[IF]...")
@click.option("--bt", type=PATH, metavar="TABLE", help="Binding table, the old format.")
@click.option("--conf", type=PATH, metavar="FILE", help="Config, either format.")
@click.option(
    "--side",
    type=OneOf(["v4", "v6", "both"]),
    default="both",
    show_default=True,
    help="Packets of the internet, of the B4s, or both.",
)
@click.option(
    "--size",
    metavar="N[,N]...",
    help="Bytes of a frame with FCS, in turns; of what is in the tunnel on v6.",
)
@click.option("--imix", is_flag=True, help="7 frames of 64 bytes, 4 of 594, 1 of 1518.")
@click.option(
    "--softwires",
    type=Whole(1, MOST_SOFTWIRES),
    default=4096,
    show_default=True,
    metavar="N",
    help="Softwires at most, from everywhere in the table.",
)
@click.option("--src-mac", default=SRC_MAC, metavar="MAC", help="Our MAC address.")
@click.option("--dst-mac", metavar="MAC", help="The lwAFTR's, where no config says it.")
@click.option("--vlan", type=Whole(0, 4094), metavar="N", help="802.1Q tag.")
@click.option("--stamp", is_flag=True, help="Number packets, for the receiver.")
@click.option("--latency", is_flag=True, help="Put the time into them, too.")
@count_option
@sending_options("max")
def program(  # noqa: PLR0913 - the options of a program
    *,
    interfaces: tuple[str, ...],
    bt: Path | None,
    conf: Path | None,
    side: str,
    size: str | None,
    imix: bool,
    softwires: int,
    src_mac: str,
    dst_mac: str | None,
    vlan: int | None,
    stamp: bool,
    latency: bool,
    count: int | None,
    rate_text: str | None,
    receive: str | None,
    ring_size: int,
    running: Running,
) -> None:
    """Send packets of softwires over interfaces, as the lwAFTR should get them.

    With --side v4 they come from the internet, to the address and a port of each
    softwire in turn; with --side v6 from its B4, in its tunnel. With both, over two
    interfaces, the first one has the internet's, the second one the B4s'; over one they
    alternate.

    What --conf says of the lwAFTR's MAC addresses and VLANs holds where options say
    nothing. Rates, stamps and the receiver are those of `snabb-py packetblaster synth`:
    a stamp stays at the end of the packet when a tunnel comes or goes.

    \b
    Examples:
      snabb-py packetblaster lwaftr --bt examples/binding.table sim
      snabb-py packetblaster lwaftr --conf lwaftr.conf raw:eth0 raw:eth1 --rate 1Mpps
      snabb-py packetblaster lwaftr --conf lwaftr.conf --side v4 raw:eth0 \\
          --receive raw:eth1 --latency
    """
    words = interfaces or ("sim",)
    if imix and size is not None:
        raise click.UsageError("give --size or --imix")
    if side == "both" and len(words) > 2:  # noqa: PLR2004 - an lwAFTR's sides
        raise click.UsageError("both sides have two interfaces at most")
    rate = Rate.of("max" if rate_text is None else rate_text)
    table, known = load(conf, bt)
    is_stamped = stamp or latency or receive is not None
    least = max(LEAST_FRAME, HEADERS + (TIMED if latency else 0)) + FCS_SIZE
    if imix:
        sizes = [max(one, least) for one in IMIX]
    else:
        sizes = parse_sizes(size) if size is not None else [least]
    for one in sizes:
        check_range("--size", one, least, MOST_SIZE)
    chosen = table.sample(softwires)

    def templates(side: str) -> list[Template]:
        mac, tag = known.get(side, (_mac("", DST_MAC), None))
        to = _mac("--dst-mac", dst_mac) if dst_mac else mac
        ends = Ends(to, _mac("--src-mac", src_mac), tag if vlan is None else vlan)
        frames = make_frames(side, chosen, ends, sizes)
        return [Template(frame, is_stamped, latency) for frame in frames]

    sent = {
        name: templates(name) for name in (["v4", "v6"] if side == "both" else [side])
    }
    if len(words) == len(sent):
        shares = list(sent.values())
    elif side == "both":
        pairs = zip(sent["v4"], sent["v6"], strict=True)
        shares = [list(chain.from_iterable(pairs))]
    else:
        shares = [sent[side]] * len(words)
    for word, frames in zip(words, shares, strict=True):
        rate.check(sum(t.wire_size for t in frames) / len(frames), [word])
    settings: dict[str, Any] = {
        "count": count or 0,
        "catch_up_us": CATCH_UP_US,
        **rate.settings,
    }

    def source(config: Config, number: int, _: Interface) -> Interface:
        name = f"softwires{number}"
        config.app(name, Generator, frames=shares[number], stream=number, **settings)
        return Interface("lwaftr", f"{name}.tx", "")

    blast = build(
        words, source, ring_size=ring_size, receive=receive, is_stamped=is_stamped
    )
    blast_away(
        blast,
        running,
        notes=[] if interfaces else [NO_INTERFACE],
    )
