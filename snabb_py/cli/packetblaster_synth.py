"""`snabb-py packetblaster synth`: traffic made up."""

from collections.abc import Sequence
from typing import Any

import click

from snabb_py.apps.fields import IPV6, NAMES, Range
from snabb_py.apps.traffic import IMIX, Frames, Generator, Template, udp_frames
from snabb_py.cli.interfaces import Interface
from snabb_py.cli.packetblaster_blast import (
    CATCH_UP_US,
    NO_INTERFACE,
    blast_away,
    build,
)
from snabb_py.cli.packetblaster_expression import read_packets
from snabb_py.cli.packetblaster_options import (
    Rate,
    Running,
    count_option,
    parse_sizes,
    sending_options,
)
from snabb_py.cli.usage import Whole, as_option
from snabb_py.engine.config import Config
from snabb_py.errors import ConfigError

#: What varies where flows are asked for and nobody says what makes them: addresses of
#: RFC 2544, appendix C, and RFC 5180, 8; ports of RFC 6335, 6.
FLOWS = {
    False: {"src_ip": "198.18.0.1-198.18.255.254", "src_port": "49184-65535"},
    True: {"src_ip": "2001:2:0:1::1-2001:2:0:1::ffff", "src_port": "49184-65535"},
}
VLAN_RANGE = "vlan"
#: Arguments that are options, too.
OPTIONS = (*NAMES, "flows", "packet", "size")


def parse_ranges(texts: dict[str, str | None]) -> list[Range]:
    """Return what the user wants the fields of packets to be.

    Raises:
        ConfigError: a text says nothing of the kind.
    """
    ranges = []
    for name, text in texts.items():
        if text is not None:
            try:
                ranges.append(Range.of(name, text))
            except ConfigError as error:
                raise ConfigError(as_option(str(error), OPTIONS)) from None
    return ranges


def make_frames(  # noqa: PLR0913 - the options of a program
    sizes: Sequence[int],
    ranges: Sequence[Range],
    *,
    packet: str | None,
    ipv6: bool,
    grow: bool,
    stamp: bool,
    timed: bool,
) -> list[Template]:
    """Return the frames that are sent in turns, before anything varies.

    Raises:
        ConfigError: they cannot be.
    """
    vlan = next((r.first for r in ranges if r.name == VLAN_RANGE), None)
    try:
        if packet is not None:
            found = read_packets(packet, sizes)
            return [Template(frame, stamp, timed) for frame in found]
        return udp_frames(
            list(sizes) or None,
            ipv6=ipv6,
            vlan=vlan,
            stamp=stamp,
            timed=timed,
            grow=grow,
        )
    except ConfigError as error:
        text = str(error).replace("frame:", "packet:", 1) if packet else str(error)
        raise ConfigError(as_option(text, OPTIONS)) from None


@click.command(
    "synth", epilog="Ctrl-C and SIGTERM end it with the summary and exit status 0."
)
@click.argument("interfaces", nargs=-1, metavar="[IF]...")
@click.option("--size", metavar="N[,N]...", help="Bytes of a frame with FCS, in turns.")
@click.option("--imix", is_flag=True, help="7 frames of 64 bytes, 4 of 594, 1 of 1518.")
@click.option("--packet", metavar="EXPRESSION", help="A packet as scapy has it.")
@click.option("--ipv6", is_flag=True, help="UDP over IPv6.")
@click.option("--vlan", metavar="RANGE", help="Numbers of an 802.1Q tag.")
@click.option("--src-mac", metavar="RANGE", help="Source MAC addresses.")
@click.option("--dst-mac", metavar="RANGE", help="Destination MAC addresses.")
@click.option("--src-ip", metavar="RANGE", help="Source addresses, or a prefix.")
@click.option("--dst-ip", metavar="RANGE", help="Destination addresses, or a prefix.")
@click.option("--src-port", metavar="RANGE", help="Source ports of UDP or TCP.")
@click.option("--dst-port", metavar="RANGE", help="Destination ports of UDP or TCP.")
@click.option(
    "--flows",
    type=Whole(1, 2**32),
    metavar="N",
    help="Flows, then the first again; default: all that ranges make.",
)
@click.option("--stamp", is_flag=True, help="Number packets, for the receiver.")
@click.option("--latency", is_flag=True, help="Put the time into them, too.")
@count_option
@sending_options("max")
def program(  # noqa: PLR0913 - the options of a program
    *,
    interfaces: tuple[str, ...],
    size: str | None,
    imix: bool,
    packet: str | None,
    ipv6: bool,
    flows: int | None,
    stamp: bool,
    latency: bool,
    count: int | None,
    rate_text: str | None,
    receive: str | None,
    ring_size: int,
    running: Running,
    **texts: str | None,
) -> None:
    """Send packets made up over each interface IF; without one over a software card.

    Interfaces are what they are for `snabb-py forward`: a card's PCI address, sim,
    raw:IFNAME, tap:NAME, pcap:,OUT.pcap, null. The wire of a sim ends in a sink, if
    wire= says nothing else.

    Packets are UDP over IPv4 or IPv6 between addresses set aside for testers (RFC 2544,
    RFC 5180), of the least size that there is, or what --packet says.

    A RANGE is a value or FIRST-LAST. From a packet to the next every range moves on,
    and no two of the flows that they make are the same. Checksums are right in each
    packet. --flows alone varies source address and port.

    An EXPRESSION is of layers of scapy, literals for their fields and "/". It is read
    and never run. A field with a list, a tuple (FIRST, LAST) or a prefix stands for
    several packets, 4096 at most in all; to build them may take 10 s and 512 MiB. With
    --size a payload of zeros fills them up.
    Ranges are of the outermost header, in these packets too.

    Without --rate packets go as fast as the interface takes them. With it as many go as
    are due at any time. After a pause up to 10 ms of it are made up for; what the
    interface does not take by then, or this machine does not make, is not sent late:
    it is counted as not sent in time. Gbps are bits on the wire: preamble, FCS and gap
    count.

    --stamp numbers the packets of each interface in their last 16 bytes, --latency puts
    the time there too (24). --receive IF says what came back of them: lost, reordered,
    duplicated, and how long it took: the longest time is exact, percentiles are bounds
    of a histogram, a quarter too long at most. What comes is checked down to its
    checksums.

    \b
    Examples:
      snabb-py packetblaster synth sim
      snabb-py packetblaster synth sim --flows 1000000 --imix --rate 5Gbps
      snabb-py packetblaster synth 0000:01:00.0 --size 64,1518 --dst-ip 192.0.2.0/24
      snabb-py packetblaster synth raw:eth1 --receive raw:eth2 --latency --rate 10kpps
      snabb-py packetblaster synth raw:eth1 --count 5 --rate 1pps \\
          --packet 'Ether()/IP(dst="198.51.100.1")/ICMP()/b"hello"'
    """
    words = interfaces or ("sim",)
    notes = [] if interfaces else [NO_INTERFACE]
    if packet is not None and (imix or ipv6):
        raise click.UsageError("--packet is a packet: not with --imix or --ipv6")
    if imix and size is not None:
        raise click.UsageError("give --size or --imix")
    is_stamped = stamp or latency or receive is not None
    rate = Rate.of("max" if rate_text is None else rate_text)
    ranges = parse_ranges({name: texts[name] for name in NAMES})
    is_ipv6 = ipv6 or any(r.version == IPV6 for r in ranges)
    if flows and not any(r.n > 1 for r in ranges):
        given = {r.name for r in ranges}
        ranges += [
            Range.of(name, text)
            for name, text in FLOWS[is_ipv6].items()
            if name not in given
        ]
    sizes = list(IMIX) if imix else parse_sizes(size) if size is not None else []
    frames = make_frames(
        sizes,
        ranges,
        packet=packet,
        ipv6=is_ipv6,
        grow=imix,
        stamp=is_stamped,
        timed=latency,
    )
    rate.check(sum(t.wire_size for t in frames) / len(frames), words)
    settings: dict[str, Any] = {
        "frames": Frames(frames),
        "ranges": ranges,
        "flows": flows or 0,
        "count": count or 0,
        "catch_up_us": CATCH_UP_US,
        **rate.settings,
    }
    try:
        Generator(**settings)
    except ConfigError as error:
        raise ConfigError(as_option(str(error), OPTIONS)) from None

    def source(config: Config, number: int, _: Interface) -> Interface:
        name = f"synth{number}"
        config.app(name, Generator, stream=number, **settings)
        return Interface("synth", f"{name}.tx", "")

    blast = build(
        words, source, ring_size=ring_size, receive=receive, is_stamped=is_stamped
    )
    blast_away(
        blast,
        running,
        notes=notes,
    )
