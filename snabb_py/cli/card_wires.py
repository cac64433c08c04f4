"""What the cables of software cards lead to: words made into apps.

null               gives nothing, swallows everything
sink               gives nothing, checks the numbers and checksums of what comes
gen[,OPTION]...    a generator of frames for the card, and a sink of what comes back
cable              joins two cards to each other
raw:, xdp:, tap:, pcap:  see `interfaces`
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from snabb_py.apps.traffic import (
    FCS_SIZE,
    IMIX,
    LEAST_FRAME,
    Checker,
    Generator,
    Template,
    udp_frames,
)
from snabb_py.cli.interfaces import attach
from snabb_py.engine.config import Config
from snabb_py.errors import ConfigError
from snabb_py.nic.model82599 import Card, SoftwareCard
from snabb_py.nic.vfio_user import Server

#: Wires that several cards can have, each its own.
SHARED = ("null", "sink", "gen")
GENERATOR = "gen[,rate=PPS|Gbps][,size=N|N+N...|imix][,flows=N][,vlan=N][,ip=4|6]"
INTERFACES = ("raw", "xdp", "tap", "pcap", "null")
WIRES = (
    "null, sink, gen[,OPTION]..., cable, raw:IFNAME, xdp:IFNAME[,queue=N], tap:NAME "
    "or pcap:IN.pcap[,OUT.pcap]"
)
RATE = re.compile(r"([0-9]*\.?[0-9]+(?:e[0-9]{1,3})?)((?:[kM]?pps)?|Gbps)")
IP_VERSIONS = {"4": False, "6": True}
LEAST_SIZE = LEAST_FRAME + FCS_SIZE
UNITS = {"": 1.0, "k": 1e3, "M": 1e6}
#: Least packets a second that can be asked for.
LEAST_PPS = 0.001
#: What a card's cable carries.
CABLE_GBPS = 10
#: Most bytes that frames made in advance take: each is there twice, in Python and in C.
MOST_MEMORY = 512 << 20
FRAME_OVERHEAD = 200


@dataclass
class Port:
    """A card with what is at both of its sides.

    Attributes:
        name: of its app.
        card: the card.
        server: for its virtual machine.
        wire: what the user called it.
        wire_apps: the apps that the wire is.
        needs_large: super-frames may come from it.
        is_plugged: the cable is in.
    """

    name: str
    card: Card
    server: Server
    wire: str
    wire_apps: tuple[str, ...] = ()
    needs_large: bool = False
    is_plugged: bool = True

    def plug(self, plugged: bool) -> None:
        """Put the cable in or pull it out."""
        self.card.plug(plugged)
        self.is_plugged = plugged


def wires_of(words: Sequence[str], ncards: int) -> list[str]:
    """Return each card's wire.

    Raises:
        ConfigError: they do not fit the cards.
    """
    words = list(words) or ["null"]
    if "cable" in words:
        if words != ["cable"] or ncards != 2:  # noqa: PLR2004 - a cable's ends
            raise ConfigError("wire cable: joins two cards, and is their only wire")
        return ["cable", "cable"]
    is_shared = len(words) == 1 and words[0].partition(",")[0] in SHARED
    if is_shared:
        return words * ncards
    if len(words) != ncards:
        raise ConfigError(
            f"{len(words)} wires for {ncards} cards: give one --wire for each, in order"
        )
    return words


def join(config: Config, ports: Sequence[Port]) -> None:
    """Add the cards and their wires to an app network.

    Raises:
        ConfigError: a wire's word is wrong.
    """
    for port in ports:
        config.app(port.name, SoftwareCard, card=port.card)
    if ports[0].wire == "cable":
        a, b = ports
        config.link(f"{a.name}.tx -> {b.name}.rx")
        config.link(f"{b.name}.tx -> {a.name}.rx")
        return
    for i, port in enumerate(ports):
        before = set(config.apps)
        name = f"wire{i}"
        if port.wire.partition(",")[0] == "gen":
            _attach_generator(config, name, port, stream=i)
        elif port.wire == "sink":
            _attach_checker(config, name, port)
        elif port.wire.partition(":")[0] not in INTERFACES:
            raise ConfigError(f'wire "{port.wire}": expected {WIRES}')
        else:
            interface = attach(config, name, port.wire)
            port.needs_large = interface.needs_large
            config.link(f"{port.name}.tx -> {interface.transmit}")
            if interface.receive:
                config.link(f"{interface.receive} -> {port.name}.rx")
        port.wire_apps = tuple(sorted(set(config.apps) - before))


def _attach_generator(config: Config, name: str, port: Port, stream: int) -> None:
    """Add a generator of frames for the card and a checker of what comes back.

    Raises:
        ConfigError: the word's options are wrong.
    """
    try:
        options = parse_options(port.wire)
        frames = make_frames(options, dst_mac=port.card.mac.hex(":"))
        rate = parse_rate(options["rate"], frames)
    except (ConfigError, ValueError) as error:
        raise ConfigError(f'wire "{port.wire}": {error}') from None
    config.app(f"{name}-in", Generator, frames=frames, stream=stream, **rate)
    config.link(f"{name}-in.tx -> {port.name}.rx")
    _attach_checker(config, name, port)


def _attach_checker(config: Config, name: str, port: Port) -> None:
    config.app(f"{name}-out", Checker, verify=True)
    config.link(f"{port.name}.tx -> {name}-out.rx")


def parse_options(wire: str) -> dict[str, str]:
    """Return the options of a gen wire, all of them.

    Raises:
        ValueError: there is no such option, or it is given twice.
    """
    defaults = {"rate": "1e5", "size": "", "flows": "16", "vlan": "", "ip": "4"}
    given: dict[str, str] = {}
    for option in wire.split(",")[1:]:
        key, _, value = option.partition("=")
        if key not in defaults:
            raise ValueError(f"expected {GENERATOR}")
        if key in given:
            raise ValueError(f"{key}: given twice")
        given[key] = value
    return defaults | given


def make_frames(options: dict[str, str], **addresses: Any) -> list[Template]:
    """Return the frames that options ask for.

    Args:
        options: size, flows, vlan and ip.
        addresses: for `udp_frames`.

    Raises:
        ConfigError, ValueError: an option is wrong.
    """
    sizes, flows = parse_sizes(options["size"]), parse_number("flows", options["flows"])
    if options["ip"] not in IP_VERSIONS:
        raise ValueError(f'ip: "{options["ip"]}" is neither 4 nor 6')
    # A flow has each size once; the order of all has a place for each.
    room = sum(2 * size + FRAME_OVERHEAD for size in set(sizes or [LEAST_SIZE]))
    most = MOST_MEMORY // (room + 8 * len(sizes or [LEAST_SIZE]))
    if flows > most:
        raise ValueError(
            f"flows: {flows} of these sizes need more than {MOST_MEMORY >> 20} MiB; "
            f"{most} at most"
        )
    return udp_frames(
        sizes,
        flows=flows,
        vlan=parse_number("vlan", options["vlan"]) if options["vlan"] else None,
        ipv6=IP_VERSIONS[options["ip"]],
        # of a mix the shortest are made as long as an IPv6 frame or a tag needs
        grow=options["size"] == "imix",
        **addresses,
    )


def parse_number(name: str, text: str) -> int:
    """Return a whole number.

    Raises:
        ValueError: it is none, or longer than any that makes sense.
    """
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError(f'{name}: "{text}" is no whole number of up to 9 digits')
    return int(text)


def parse_sizes(text: str) -> tuple[int, ...] | None:
    """Return the sizes of frames in their order: "64", "64,1518", "imix".

    A wire's options have commas between them: there it is "64+1518".

    "": None, the smallest that there can be.

    Raises:
        ValueError: they are none.
    """
    if not text:
        return None
    if text == "imix":
        return IMIX
    if not re.fullmatch(r"[0-9]+([+,][0-9]+)*", text):
        raise ValueError(f'size: "{text}" is neither bytes, several in turn, nor imix')
    return tuple(parse_number("size", size) for size in re.split("[+,]", text))


def parse_rate(text: str, frames: Sequence[Template]) -> dict[str, Any]:
    """Return a Generator's rate: "1e6", "1000kpps", "14.88Mpps", "5Gbps".

    Raises:
        ValueError: it is none, or more of these frames than a cable carries.
    """
    match = RATE.fullmatch(text)
    if not match:
        raise ValueError(f'rate: "{text}" is neither packets a second nor Gbps')
    bits = 8 * sum(template.wire_size for template in frames) / len(frames)
    most_pps = CABLE_GBPS * 1e9 / bits
    number, is_gbps = float(match[1]), match[2] == "Gbps"
    if is_gbps:
        is_possible = LEAST_PPS * bits / 1e9 <= number <= CABLE_GBPS
    else:
        number *= UNITS[match[2].removesuffix("pps")]
        is_possible = LEAST_PPS <= number <= most_pps
    if not is_possible:
        raise ValueError(
            f'rate: "{text}" is not within {LEAST_PPS}pps and {CABLE_GBPS}Gbps, which '
            f"is {math.floor(most_pps / 1e3) / 1e3}Mpps of this size"
        )
    return {"rate_gbps" if is_gbps else "rate_pps": number}
