"""Cards as interfaces: PCI addresses and software 82599s, made into apps.

    0000:01:00.0[,OPTION]...    an Intel 82599
    sim[,OPTION]...             a software one, with a wire

Options of both: ring=N, mtu=N, mac=MAC (further address; then not promiscuous). Of a
software card: inline, wire=..., and those of the wire's generator.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from snabb_py.apps.basic import Sink
from snabb_py.apps.traffic import Checker, Generator
from snabb_py.cli.card_wires import make_frames, parse_rate
from snabb_py.engine.app import check_range
from snabb_py.engine.config import Config
from snabb_py.errors import ConfigError
from snabb_py.nic.intel82599 import Intel82599, LocalIntel82599, check_ring_size
from snabb_py.nic.intel82599_config import LINK_MBPS, CardConfig
from snabb_py.nic.model82599 import MAC_PREFIX, Card, LocalSoftwareCard

if TYPE_CHECKING:
    from snabb_py.engine.pci import Device

#: What a breath takes of modelled time, where card and driver share a worker: about 30
#: of the smallest packets at line rate.
INLINE_BREATH_NS = 2000
#: Packets for each software card: rings, links, and a full packet buffer.
SIM_PACKETS = 16384
#: Options of both kinds of card, by name, with their forms.
CARD_OPTIONS = {"ring": "ring=N", "mtu": "mtu=N", "mac": "mac=MAC"}
GENERATOR_OPTIONS = ("rate", "size", "flows", "vlan", "ip", "count")
#: Whom a generator sends to: MAC address and VLAN.
Target = tuple[bytes, int | None]
SIM = (
    "sim[,inline][,wire=gen|sink|null|tap:NAME|raw:IFNAME|xdp:IFNAME|pcap:F]"
    "[,rate=PPS|Gbps|max][,size=N|N+N...|imix][,flows=N][,vlan=N][,ip=4|6][,count=N]"
    "[,ring=N][,mtu=N][,mac=MAC]"
)


@dataclass(frozen=True)
class CardWord:
    """What a user said of a card.

    Attributes:
        word: all of it.
        name: "sim" or the PCI address.
        options: by name; "inline" has the value "".
    """

    word: str
    name: str
    options: dict[str, str] = field(default_factory=dict)

    def fail(self, text: str) -> ConfigError:
        """Return the error that names the word."""
        return ConfigError(f'interface "{self.word}": {text}')

    def number(self, key: str, default: int) -> int:
        """Return an option's value.

        Raises:
            ConfigError: it is no whole number.
        """
        text = str(self.options.get(key, default))
        with contextlib.suppress(ValueError):
            if (number := float(text)).is_integer():
                return int(number)
        raise self.fail(f'{key}: "{text}" is not a whole number')


def parse(word: str, allowed: tuple[str, ...]) -> CardWord:
    """Return the parts of a card's word.

    Args:
        word: "sim,wire=tap:tap0"; a capture's name takes what follows it.
        allowed: names of options.

    Raises:
        ConfigError: an option is none of those, or there twice.
    """
    name, _, rest = word.partition(",")
    result = CardWord(word, name)
    while rest:
        key, equals, value = rest.partition("=")
        if key.startswith("inline"):
            key, _, rest = rest.partition(",")
            equals, value = "", ""
        elif not value.startswith("pcap:"):
            value, _, rest = value.partition(",")
        else:
            rest = ""
        if key not in allowed or (not equals and key != "inline"):
            forms = (CARD_OPTIONS[key] for key in allowed if key in CARD_OPTIONS)
            expected = SIM if name == "sim" else ", ".join(forms)
            raise result.fail(f'option "{key}": expected {expected}')
        if key in result.options:
            raise result.fail(f'option "{key}" is given twice')
        result.options[key] = value
    return result


def card_config(parsed: CardWord) -> CardConfig:
    """Return the settings that a word asks for.

    Raises:
        ConfigError: one is out of range.
    """
    settings: dict[str, Any] = {}
    if "mtu" in parsed.options:
        settings["mtu"] = parsed.number("mtu", 0)
    if "mac" in parsed.options:
        settings |= {"macs": (parsed.options["mac"],), "promiscuous": False}
    try:
        return CardConfig(**settings)
    except ConfigError as error:
        raise parsed.fail(str(error)) from None


def driver_arguments(parsed: CardWord, ring: int) -> dict[str, Any]:
    """Return the driver's arguments beside the card.

    Raises:
        ConfigError: one is out of range.
    """
    size = parsed.number("ring", ring)
    try:
        check_ring_size("ring", size)
    except ConfigError as error:
        raise parsed.fail(str(error)) from None
    return {"rx_ring": size, "tx_ring": size, "config": card_config(parsed)}


@dataclass
class Sim:
    """A software card as apps of a config.

    Attributes:
        card: closed by whoever attached it, after the engine.
        entry: app that frames come from, None: none come.
        exit: app that takes frames.
        inside: apps between the wire and the ports, the wire's side first.
        is_inline: it is stepped by the worker of its driver, in modelled time.
        needs_large: super-frames may come from its wire.
    """

    card: Card
    entry: str | None
    exit: str
    inside: tuple[str, ...]
    is_inline: bool
    needs_large: bool = False


def attach_sim(  # noqa: PLR0913 - what a card and its place are
    config: Config, name: str, word: str, *, number: int, ring: int, nworkers: int = 1
) -> Sim:
    """Add a software card, its driver and its wire to a config.

    Args:
        config: gets them; the driver is app `name`.
        name: of the driver; the card is name-card, the wire name-wire...
        word: "sim...".
        number: of the card among those of the program: its MAC address.
        ring: descriptors where the word says nothing.
        nworkers: see `attach_wire`.

    Raises:
        ConfigError: the word is wrong.
    """
    parsed = parse_sim(word)
    is_inline = "inline" in parsed.options
    sim = attach_wire(
        config, name, parsed, number=number, is_inline=is_inline, nworkers=nworkers
    )
    try:
        arguments = driver_arguments(parsed, ring)
    except BaseException:
        sim.card.close()
        raise
    config.app(name, LocalIntel82599, card=sim.card, **arguments)
    return sim


def has_room() -> bool:
    """Whether there is a CPU for software cards beside that of their drivers.

    If not they share a worker, and real time: two workers would wait for each other.
    """
    return len(os.sched_getaffinity(0)) > 1


def parse_sim(word: str) -> CardWord:
    """Return the parts of a software card's word.

    Raises:
        ConfigError: it is none.
    """
    parsed = parse(word, (*CARD_OPTIONS, "inline", "wire", *GENERATOR_OPTIONS))
    if parsed.name != "sim":
        raise parsed.fail(f"expected {SIM}")
    return parsed


def attach_wire(  # noqa: PLR0913 - what a card and its wire are
    config: Config,
    name: str,
    parsed: CardWord,
    *,
    number: int = 0,
    is_inline: bool = False,
    targets: Sequence[Target] = (),
    nworkers: int = 1,
) -> Sim:
    """Add a software card and its wire to a config, but no driver.

    Args:
        config: gets them.
        name: see `attach_sim`; it is that of the driver still to come.
        parsed: the card's word.
        number: see `attach_sim`.
        is_inline: it is stepped by the worker of its driver.
        targets: addresses and VLANs that a generator sends to; none: the card's own.
        nworkers: that drivers have; a card that runs by itself has the next one.

    Raises:
        ConfigError: the word is wrong.
    """
    wire = parsed.options.get("wire", "gen")
    worker = None if is_inline or not has_room() else nworkers
    rate = parsed.options.get("rate", "")
    if is_inline and wire.partition(":")[0] in {"tap", "raw", "xdp"}:
        raise parsed.fail("inline: its time is modelled, that of the kernel is not")
    if wire != "gen" and any(key in parsed.options for key in GENERATOR_OPTIONS):
        raise parsed.fail(f"{', '.join(GENERATOR_OPTIONS)}: only with wire=gen")
    card = Card(
        mac=MAC_PREFIX + bytes([number + 1]),
        name=name,
        paced=rate != "max",
        waits=wire.partition(":")[0] in {"gen", "pcap"} and rate in {"", "max"},
    )
    config.app(f"{name}-card", LocalSoftwareCard, worker=worker, card=card)
    sim = Sim(card, None, f"{name}-wire-out", (f"{name}-card", name), is_inline)
    try:
        _attach_wire(config, name, parsed, sim, worker=worker, targets=targets)
    except BaseException:
        card.close()
        raise
    return sim


def _attach_wire(  # noqa: PLR0913 - see attach_wire
    config: Config,
    name: str,
    parsed: CardWord,
    sim: Sim,
    *,
    worker: int | None,
    targets: Sequence[Target],
) -> None:
    wire = parsed.options.get("wire", "gen")
    kind = wire.partition(":")[0]
    if kind == "gen" and wire == kind:
        sim.entry = f"{name}-wire-in"
        traffic = _traffic(parsed, sim.card, targets)
        config.app(sim.entry, Generator, worker=worker, **traffic)
        config.link(f"{sim.entry}.tx -> {name}-card.rx")
    if wire in {"gen", "sink"}:
        config.app(sim.exit, Checker, worker=worker)
    elif wire == "null":
        config.app(sim.exit, Sink, worker=worker)
    elif kind in {"tap", "raw", "xdp", "pcap"}:
        from snabb_py.cli.interfaces import attach

        before = set(config.apps)
        interface = attach(config, f"{name}-wire", wire)
        sim.needs_large = interface.needs_large
        for app in set(config.apps) - before:
            config.place(app, worker)
        if interface.receive:
            sim.entry = interface.receive.partition(".")[0]
            config.link(f"{interface.receive} -> {name}-card.rx")
        sim.exit = interface.transmit.partition(".")[0]
        config.link(f"{name}-card.tx -> {interface.transmit}")
        return
    else:
        raise parsed.fail(f'wire "{wire}": expected {SIM}')
    config.link(f"{name}-card.tx -> {sim.exit}.rx")


def _traffic(parsed: CardWord, card: Card, targets: Sequence[Target]) -> dict[str, Any]:
    """Return the arguments of the generator on a card's wire.

    Raises:
        ConfigError: an option is wrong.
    """
    options = {"size": "", "flows": "16", "vlan": "", "ip": "4", **parsed.options}
    rate, count = options.get("rate", ""), parsed.number("count", 0)
    try:
        frames = [
            frame
            for mac, vlan in targets or [(card.mac, None)]
            for frame in make_frames(
                options | _tag(options, vlan), dst_mac=mac.hex(":")
            )
        ]
        if rate == "max":
            speed: dict[str, Any] = {}
        elif rate:
            speed = parse_rate(rate, frames)
        else:
            speed = {"rate_gbps": LINK_MBPS / 1000}
        check_range("count", count, 0, 2**63)
    except (ConfigError, ValueError) as error:
        raise parsed.fail(str(error)) from None
    stream = card.mac[-1]
    return {"frames": frames, "stream": stream, "count": count, **speed}


def _tag(options: dict[str, str], vlan: int | None) -> dict[str, str]:
    """Return the VLAN of a target, where the user has said none."""
    return {} if vlan is None or options["vlan"] else {"vlan": str(vlan)}


def attach_pci(config: Config, name: str, word: str, *, ring: int) -> "Device":
    """Add the driver of a card to a config; return the card.

    Raises:
        ConfigError: an option is wrong, or it is no card that we drive.
        DeviceError: there is no such card.
    """
    parsed = parse(word, tuple(CARD_OPTIONS))
    device = find_card(parsed)
    arguments = driver_arguments(parsed, ring)
    config.app(name, Intel82599, card=device.address, **arguments)
    return device


def find_card(parsed: CardWord) -> "Device":
    """Return a card.

    Raises:
        ConfigError: it is no card that we drive.
        DeviceError: there is no such card.
    """
    from snabb_py.engine.pci import find, parse_address
    from snabb_py.nic.intel82599_ids import check_id

    device = find(parse_address(parsed.name))
    check_id(device.vendor, device.device, address=device.address, kind=device.kind)
    return device


def distances(cards: Sequence["Device"], cpus: Sequence[int | None]) -> Iterator[str]:
    """Yield which cards are on another NUMA node than the CPUs of workers.

    Args:
        cards: real ones.
        cpus: of the workers, None: not pinned.
    """
    if not cards:
        return
    from snabb_py.engine.host import Host, UntoldError, distance

    pinned = [cpu for cpu in cpus if cpu is not None]
    for card in cards:
        with contextlib.suppress(UntoldError):
            if wrong := distance(Host(), card.numa_node, pinned):
                yield f"{card.address}: {wrong[0]}; for speed: {wrong[1]}"
