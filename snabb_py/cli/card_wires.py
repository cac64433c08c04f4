"""What the cables of software cards lead to: words made into apps.

null, sink               gives nothing, swallows everything
gen[,rate=PPS][,size=N]  frames of N bytes at this rate, and a sink
cable                    joins two cards to each other
raw:, tap:, pcap:        see `interfaces`
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from snabb_py.apps.basic import Sink, Source
from snabb_py.cli.interfaces import attach
from snabb_py.engine.config import Config
from snabb_py.errors import ConfigError
from snabb_py.nic.model82599 import Card, SoftwareCard
from snabb_py.nic.vfio_user import Server

#: Wires that several cards can have, each its own.
SHARED = ("null", "sink", "gen")
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
        kind = port.wire.partition(",")[0]
        if port.wire == "sink":
            config.app(name, Sink)
            receive, transmit = None, f"{name}.rx"
        elif kind == "gen":
            receive, transmit = _attach_generator(config, name, port.wire)
        else:
            interface = attach(config, name, port.wire)
            receive, transmit = interface.receive, interface.transmit
            port.needs_large = interface.needs_large
        config.link(f"{port.name}.tx -> {transmit}")
        if receive:
            config.link(f"{receive} -> {port.name}.rx")
        port.wire_apps = tuple(sorted(set(config.apps) - before))


def _attach_generator(config: Config, name: str, word: str) -> tuple[str, str]:
    """Add a generator and a sink; return where frames come from and where they go.

    Raises:
        ConfigError: the word's options are wrong.
    """
    options = {"rate": "1e6", "size": "60"}
    for option in word.split(",")[1:]:
        key, _, value = option.partition("=")
        if key not in options:
            raise ConfigError(f'wire "{word}": expected gen[,rate=PPS][,size=N]')
        options[key] = value
    try:
        size, rate = int(options["size"]), parse_rate(options["rate"])
    except ValueError as error:
        raise ConfigError(f'wire "{word}": {error}') from None
    config.app(f"{name}-in", Source, size=size, rate_pps=rate)
    config.app(f"{name}-out", Sink)
    return f"{name}-in.tx", f"{name}-out.rx"


def parse_rate(text: str) -> float:
    """Return packets a second: "1e6", "1000kpps", "14.88Mpps".

    Raises:
        ValueError: it is no such rate.
    """
    number = text.removesuffix("pps")
    unit = number[-1:] if number[-1:] in ("k", "M") else ""
    rate = float(number.removesuffix(unit)) * UNITS[unit]
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"{text} is no rate")
    return rate
