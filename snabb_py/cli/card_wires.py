"""What the cables of software cards lead to: words made into apps.

null               gives nothing, swallows everything
sink               gives nothing, checks the numbers and checksums of what comes
gen[,OPTION]...    a generator of frames for the card, and a sink of what comes back
cable              joins two cards to each other
raw:, tap:, pcap:  see `interfaces`
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from snabb_py.apps.traffic import IMIX, Checker, Generator, udp_frames
from snabb_py.cli.interfaces import attach
from snabb_py.engine.config import Config
from snabb_py.errors import ConfigError
from snabb_py.nic.model82599 import Card, SoftwareCard
from snabb_py.nic.vfio_user import Server

#: Wires that several cards can have, each its own.
SHARED = ("null", "sink", "gen")
GENERATOR = "gen[,rate=PPS|Gbps][,size=N|N+N...|imix][,flows=N][,vlan=N][,ip=4|6]"
INTERFACES = ("raw", "tap", "pcap", "null")
WIRES = (
    "null, sink, gen[,OPTION]..., cable, raw:IFNAME, tap:NAME "
    "or pcap:IN.pcap[,OUT.pcap]"
)
RATE = re.compile(r"([0-9.]+(?:e[0-9]+)?)((?:[kM]?pps)?|Gbps)")
IP_VERSIONS = {"4": False, "6": True}
UNITS = {"": 1.0, "k": 1e3, "M": 1e6}


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
    """

    name: str
    card: Card
    server: Server
    wire: str
    wire_apps: tuple[str, ...] = ()
    needs_large: bool = False


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
    options = {"rate": "1e5", "size": "", "flows": "16", "vlan": "", "ip": "4"}
    for option in port.wire.split(",")[1:]:
        key, _, value = option.partition("=")
        if key not in options:
            raise ConfigError(f'wire "{port.wire}": expected {GENERATOR}')
        options[key] = value
    try:
        frames = udp_frames(
            parse_sizes(options["size"]),
            flows=int(options["flows"]),
            vlan=int(options["vlan"]) if options["vlan"] else None,
            ipv6=IP_VERSIONS[options["ip"]],
            dst_mac=port.card.mac.hex(":"),
            # of a mix the shortest are made as long as an IPv6 frame or a tag needs
            grow=options["size"] == "imix",
        )
        rate = parse_rate(options["rate"])
    except KeyError as error:
        raise ConfigError(
            f'wire "{port.wire}": ip: {error} is neither 4 nor 6'
        ) from None
    except (ConfigError, ValueError) as error:
        raise ConfigError(f'wire "{port.wire}": {error}') from None
    config.app(f"{name}-in", Generator, frames=frames, stream=stream, **rate)
    config.link(f"{name}-in.tx -> {port.name}.rx")
    _attach_checker(config, name, port)


def _attach_checker(config: Config, name: str, port: Port) -> None:
    config.app(f"{name}-out", Checker, verify=True)
    config.link(f"{port.name}.tx -> {name}-out.rx")


def parse_sizes(text: str) -> tuple[int, ...] | None:
    """Return the sizes of frames in their order: "64", "64+1518", "imix".

    "": None, the smallest that there can be.

    Raises:
        ValueError: they are none.
    """
    if not text:
        return None
    if text == "imix":
        return IMIX
    if not re.fullmatch(r"[0-9]+(\+[0-9]+)*", text):
        raise ValueError(f'size: "{text}" is neither bytes, N+N..., nor imix')
    return tuple(int(size) for size in text.split("+"))


def parse_rate(text: str) -> dict[str, Any]:
    """Return a Generator's rate: "1e6", "1000kpps", "14.88Mpps", "5Gbps".

    Raises:
        ValueError: it is none.
    """
    match = RATE.fullmatch(text)
    number = float(match[1]) if match else 0.0
    if not match or not 0 < number < math.inf:
        raise ValueError(f'rate: "{text}" is neither packets a second nor Gbps')
    if match[2] == "Gbps":
        return {"rate_gbps": number}
    return {"rate_pps": number * UNITS[match[2].removesuffix("pps")]}
