"""`snabb-py packetblaster replay`: captures sent again."""

from typing import Any

import click

from snabb_py.apps.basic import WIRE_OVERHEAD
from snabb_py.apps.pace import Pace
from snabb_py.apps.pcap import PcapReader
from snabb_py.apps.rewrite import Rewrite
from snabb_py.apps.traffic import LEAST_FRAME
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
    is_card,
    is_interface,
    sending_options,
)
from snabb_py.cli.packetblaster_ring import may_stay, put_into_ring, read_small
from snabb_py.cli.usage import Whole
from snabb_py.engine.config import Config
from snabb_py.errors import ConfigError

ADDRESSES = ("src_mac", "dst_mac", "src_ip", "dst_ip")


def split(words: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the captures and the interfaces among words: captures come first.

    Raises:
        UsageError: there is no capture, or one comes behind an interface.
    """
    first = next((i for i, word in enumerate(words) if is_interface(word)), len(words))
    files, interfaces = list(words[:first]), list(words[first:])
    if not files:
        raise click.UsageError("give a capture, then interfaces")
    for word in interfaces:
        if not is_interface(word):
            raise click.UsageError(f'"{word}" is no interface; captures come first')
    return files, interfaces or ["sim"]


def add_source(  # noqa: PLR0913 - what a replay is
    config: Config,
    number: int,
    files: list[str],
    *,
    rounds: int,
    rate: Rate | None,
    count: int,
    addresses: dict[str, Any],
) -> Interface:
    """Add a reader of captures, and what it needs, to a config.

    Args:
        config: gets them.
        number: of the interface.
        files: the captures.
        rounds: through all of them; 0: without end.
        rate: None: in the captures' own time.
        count: packets; 0: all.
        addresses: to be written, as Rewrite has them.
    """
    reader = f"replay{number}"
    config.app(reader, PcapReader, path=files, rounds=rounds, timing=rate is None)
    inside = []
    if any(addresses.values()):
        inside.append(f"rewrite{number}")
        config.app(inside[-1], Rewrite, **addresses)
    if rate or count:
        inside.append(f"pace{number}")
        settings: dict[str, Any] = dict(rate.settings) if rate else {}
        config.app(inside[-1], Pace, count=count, catch_up_us=CATCH_UP_US, **settings)
    port = f"{reader}.tx"
    for app in inside:
        config.link(f"{port} -> {app}.rx")
        port = f"{app}.tx"
    return Interface(
        "replay", port, "", needs_large=True, entry=reader, inside=tuple(inside)
    )


@click.command(
    "replay", epilog="Ctrl-C and SIGTERM end it with the summary and exit status 0."
)
@click.argument("words", nargs=-1, required=True, metavar="FILE... [IF]...")
@click.option(
    "--loop",
    type=Whole(0, 2**32 - 1),
    default=1,
    show_default=True,
    metavar="N",
    help="Rounds through all captures; 0: without end.",
)
@click.option("--src-mac", default="", metavar="MAC", help="Source of all frames.")
@click.option("--dst-mac", default="", metavar="MAC", help="Destination of all frames.")
@click.option(
    "--src-ip",
    multiple=True,
    metavar="ADDRESS|PREFIX",
    help="Source address; of a prefix hosts stay what they are.",
)
@click.option(
    "--dst-ip",
    multiple=True,
    metavar="ADDRESS|PREFIX",
    help="Destination address; the same.",
)
@count_option
@sending_options("the captures' own time")
def program(  # noqa: PLR0913 - the options of a program
    *,
    words: tuple[str, ...],
    loop: int,
    count: int | None,
    rate_text: str | None,
    receive: str | None,
    ring_size: int,
    running: Running,
    **addresses: Any,
) -> None:
    """Send captures over interfaces; without one over a software card.

    A FILE is pcap or pcapng with Ethernet frames; several are sent one after the other.
    They are read piece by piece, whatever their size. Interfaces are what they are for
    `snabb-py packetblaster synth`: a PCI address, sim, raw:IFNAME, tap:NAME, null.

    Packets go at the distances that they were captured at, as with tcpreplay. --rate
    sends them at a rate instead, and --rate max as fast as the interface takes them.
    All are sent: after a pause up to 10 ms of it are made up for, the rest is time that
    it takes longer, and packets due in it are counted as not sent in time.

    With --rate, of 10 Mbps at least, captures of up to 4096 frames stay in a card's
    ring: the card sends them round and round by itself, by its own limiter, and this
    machine has nothing to do for each packet.

    The options for addresses write other ones, checksums included.

    \b
    Examples:
      snabb-py packetblaster replay capture.pcap raw:eth1
      snabb-py packetblaster replay monday.pcap tuesday.pcap raw:eth1 --rate 1Gbps
      snabb-py packetblaster replay capture.pcap 0000:01:00.0 --rate max --loop 0
      snabb-py packetblaster replay capture.pcap raw:eth1 --dst-mac 02:00:00:00:00:05 \\
          --dst-ip 192.0.2.0/24
    """
    files, interfaces = split(words)
    rate = None if rate_text is None else Rate.of(rate_text)
    if rate:
        rate.check(LEAST_FRAME + WIRE_OVERHEAD, interfaces)
    try:
        Rewrite(**addresses)
    except ConfigError as error:
        name, _, rest = str(error).partition(":")
        raise ConfigError(f"--{name.replace('_', '-')}:{rest}") from None

    ring: list[bytes] = []
    if rate is not None and any(map(is_card, interfaces)):
        ring = read_small(files, addresses)
    stays = [
        word
        for word in interfaces
        if ring and rate is not None and may_stay(word, rate, ring)
    ]

    def source(config: Config, number: int, end: Interface) -> Interface:
        if rate is not None and end.word in stays:
            most = min(n for n in (loop * len(ring), count or 0, 2**62) if n)
            total = 0 if most == 2**62 else most
            return put_into_ring(config, end, ring, rate=rate, count=total)
        return add_source(
            config,
            number,
            files,
            rounds=loop,
            rate=rate,
            count=count or 0,
            addresses=addresses,
        )

    blast = build(interfaces, source, ring_size=ring_size, receive=receive)
    blast_away(
        blast,
        running,
        notes=[
            *([] if words[len(files) :] else [NO_INTERFACE]),
            *(f"{word}: {len(ring)} frames stay in its ring" for word in stays),
        ],
    )
