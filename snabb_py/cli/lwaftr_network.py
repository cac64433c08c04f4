"""The app network of `snabb-py lwaftr run`, and what to count in it.

One worker has an lwAFTR between the interfaces. Several have one each, and interfaces
are shared out among them; what comes in on one is spread over all lwAFTRs:

                       +---> lwaftr0 ---+
    v4 ---> v4-spread -+                +-> v6-join ---> v6     and the same way back
                       +---> lwaftr1 ---+
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from snabb_py.apps.basic import Join, Silence
from snabb_py.apps.rawsocket import RawSocket
from snabb_py.apps.traffic import Generator, Template
from snabb_py.cli.card_wires import LEAST_SIZE, parse_sizes
from snabb_py.cli.cards import parse_sim
from snabb_py.cli.interfaces import Direction, Interface, Reading, attach
from snabb_py.cli.lwaftr_ends import IPV4, IPV6
from snabb_py.cli.lwaftr_options import app_drops
from snabb_py.cli.lwaftr_own import received, sent
from snabb_py.engine.config import Config, LinkSpec
from snabb_py.engine.engine import Engine
from snabb_py.errors import ConfigError
from snabb_py.lwaftr.conf_types import LwaftrConfig
from snabb_py.lwaftr.lwaftr import Lwaftr, LwaftrOnAStick, Share
from snabb_py.lwaftr.made_up_traffic import Ends, from_b4s, from_internet
from snabb_py.lwaftr.spread import Spread

APP = "lwaftr"
#: Softwires that a software card's wire carries packets of, at most.
MADE_UP_SOFTWIRES = 16384
#: Ports that packets come in by and leave by -> the side that they come from.
WAYS = {("v4", "v6"): IPV4, ("v6", "v4"): IPV6}
TASKS = {IPV4: "encapsulation", IPV6: "decapsulation"}
#: By the side that packets come from: ports that they come in by, and leave by.
_SIDES = {
    IPV4: (("v4",), ("v6",)),
    IPV6: (("v6",), ("v4",)),
    0: (("v4", "v6"), ("v4", "v6")),
}
#: Counters of what was never a packet that came in: an error that we did not send.
_UNSENT = ("over-rate-limit", "out-by-policy", "out-by-rfc")
#: Why a packet is lost that another counter counts, too: of a reassembly that is given
#: up, each fragment is in -unreassembled; of ICMP for nobody, it is for nobody.
_WHY = (
    "invalid-reassembly",
    "random-evicted",
    "frag-timeout",
    "frag-overlap",
    "in-by-rfc7596",
)


@dataclass(frozen=True)
class LwaftrReading(Reading):
    """What one direction has counted: not each packet that leaves has come that way."""

    @property
    def lost(self) -> int:
        """Packets that came and were dropped, those that an error answers, too."""
        return sum(
            n
            for reason, n in self.drops.items()
            if not any(part in reason for part in (*_UNSENT, *_WHY))
        )


@dataclass(frozen=True)
class LwaftrDirection(Direction):
    """What comes in on one side, and what lwAFTRs drop of it.

    Attributes:
        lwaftrs: the apps.
        ports: of theirs, that it comes in by and leaves by.
        side: IPV4, IPV6, 0: both.
    """

    lwaftrs: tuple[str, ...] = ()
    ports: tuple[str, str] = ("", "")
    side: int = 0

    def read(self, engine: Engine, *, is_last: bool = False) -> Reading:
        """Return the counts as they are now; see `Direction`."""
        reading = super().read(engine, is_last=is_last)
        dropped = Counter(app_drops(engine, self.lwaftrs))
        if is_last:  # they will find neither next hop nor other fragments any more
            for name in self.lwaftrs:
                app = engine.apps[name].instance
                assert isinstance(app, Lwaftr)  # noqa: S101 - build() made it
                dropped.update(app.waiting)
        own = {
            name: n for name, n in dropped.items() if self.side in {0, side_of(name)}
        }
        lost = {
            f"{spec} txdrop": n
            for spec, link in engine.links.items()
            if self._is_at_lwaftr(spec) and (n := link.counters["txdrop"])
        }
        counts = self._without_own(engine, reading)
        drops = reading.drops | own | lost
        return LwaftrReading(**{**vars(reading), **counts, "drops": drops})

    def _without_own(self, engine: Engine, reading: Reading) -> dict[str, int]:
        """Return what has come and left of others' packets.

        What one B4 sends to another is taken out of its tunnel in one direction and put
        into the other's in the other one, and counts in both.
        """
        counters: Counter[str] = Counter()
        for name in self.lwaftrs:
            counters.update(engine.apps[name].counters)
        came, left = _SIDES[self.side]
        offered = reading.offered - sum(received(counters, side) for side in came)
        forwarded = reading.forwarded - sum(sent(counters, side) for side in left)
        nbytes = reading.bytes - sum(sent(counters, side, "bytes") for side in left)
        if self.side == IPV4:
            offered += counters["hairpin-ipv4-packets"]
        elif self.side == IPV6:
            forwarded += counters["hairpin-ipv4-packets"]
            nbytes += counters["hairpin-ipv4-bytes"]
        counts = {"offered": offered, "forwarded": forwarded, "bytes": nbytes}
        return {name: max(0, n) for name, n in counts.items()}

    def _is_at_lwaftr(self, spec: LinkSpec) -> bool:
        source, target = self.ports
        return (spec.to_app in self.lwaftrs and spec.to_port == source) or (
            spec.from_app in self.lwaftrs and spec.from_port == target
        )


def side_of(counter: str) -> int:
    """Return on which side the packets came in that a drop counter counts."""
    is_ipv4 = any(word in counter for word in ("ipv4", "icmpv4", "-arp"))
    is_v4 = is_ipv4 and "inner" not in counter
    is_at_exit = any(word in counter for word in ("egress", "next-hop"))
    return IPV4 if is_v4 != is_at_exit else IPV6


@dataclass(frozen=True)
class Network:
    """A network of lwAFTRs; its config may become another one.

    Attributes:
        config: the apps and links.
        words: interface by port: v4 and v6, or stick.
        ends: the interfaces by port.
        lwaftrs: names of the apps, one for each worker.
        directions: what to count.
    """

    config: Config
    words: Mapping[str, str]
    ends: Mapping[str, Interface]
    lwaftrs: tuple[str, ...]
    directions: tuple[LwaftrDirection, ...]

    def with_config(self, lw: LwaftrConfig) -> Config:
        """Return the apps and links with another config: only apps' arguments differ.

        Raises:
            ConfigError: it cannot be with these interfaces.
        """
        config = self.config.copy()
        give_config(config, lw, self.lwaftrs)
        for port, word in self.words.items():
            give_to_end(config, lw, port, word, self.ends[port])
        return config


def give_config(network: Config, lw: LwaftrConfig, lwaftrs: Sequence[str]) -> None:
    """Give lwAFTRs a config."""
    for name in lwaftrs:
        network.give(name, config=lw, queue=lw.instances[0].queues[0])


def give_to_end(
    network: Config, lw: LwaftrConfig, port: str, word: str, end: Interface
) -> None:
    """Give an interface what it needs of a config."""
    if end.entry and issubclass(network.apps[end.entry].cls, Generator):
        make_traffic(network, word, end, lw)
    receive_own(network, port, lw)


def make_traffic(
    network: Config, word: str, interface: Interface, lw: LwaftrConfig
) -> None:
    """Let the generator on a software card's wire send what softwires carry."""
    options = parse_sim(word).options
    foreign = {"flows", "ip", "vlan"} & options.keys()
    if foreign:
        raise ConfigError(
            f'interface "{word}": {", ".join(sorted(foreign))}: its packets '
            "are the binding table's"
        )
    sizes = parse_sizes(options.get("size", "")) or (LEAST_SIZE,)
    softwires = lw.binding_table.sample(MADE_UP_SOFTWIRES)
    if not softwires:
        raise ConfigError("the binding table is empty: no packets can be made from it")
    queue = lw.instances[0].queues[0]
    external, internal = (cable(end) for end in (queue.external, queue.internal))
    v4 = from_internet(softwires, external, sizes)
    v6 = from_b4s(softwires, internal, sizes)
    both = chain.from_iterable(zip(v4, v6, strict=True))
    frames = {"v4": v4, "v6": v6, "stick": both}
    side = interface.transmit.partition(".")[0]
    network.give(interface.entry, frames=[Template(f) for f in frames[side]])


def cable(end: Any) -> Ends:
    """Return the Ethernet addresses of what comes in at an end."""
    return Ends(end.mac, end.next_hop_mac or bytes(6), end.vlan_tag)


def add_lwaftrs(
    network: Config, *, on_a_stick: bool, compat: bool, nworkers: int
) -> tuple[str, ...]:
    """Add an lwAFTR for each worker; return their names."""
    cls = LwaftrOnAStick if on_a_stick else Lwaftr
    names = [APP] if nworkers == 1 else [f"{APP}{i}" for i in range(nworkers)]
    for i, name in enumerate(names):
        network.app(name, cls, worker=i, share=Share(i, nworkers), compat=compat)
    return tuple(names)


def join(
    network: Config, port: str, end: Interface, worker: int, lwaftrs: tuple[str, ...]
) -> None:
    """Link an interface to this port of all lwAFTRs."""
    source, target = end.receive or f"{port}-nothing.tx", end.transmit
    if not end.receive:
        network.app(f"{port}-nothing", Silence, worker=worker)
    if len(lwaftrs) > 1:
        network.app(f"{port}-spread", Spread, worker=worker)
        network.link(f"{source} -> {port}-spread.rx")
        network.app(f"{port}-join", Join, worker=worker)
        network.link(f"{port}-join.tx -> {target}")
    for i, app in enumerate(lwaftrs):
        if len(lwaftrs) > 1:
            source, target = f"{port}-spread.tx{i}", f"{port}-join.rx{i}"
        network.link(f"{source} -> {app}.{port}")
        network.link(f"{app}.{port} -> {target}")


def receive_own(network: Config, port: str, lw: LwaftrConfig) -> None:
    """Let an interface of the kernel receive what is sent to us, not to others."""
    spec = network.apps.get(port)
    if spec and issubclass(spec.cls, RawSocket):
        queue = lw.instances[0].queues[0]
        ends = {"v4": [queue.external], "v6": [queue.internal]}
        own = ends.get(port, [queue.external, queue.internal])
        network.give(port, macs=[end.mac for end in own])


def build(
    lw: LwaftrConfig,
    words: dict[str, str],
    *,
    ring_size: int | None,
    compat: bool,
    nworkers: int = 1,
) -> Network:
    """Return the app network.

    Args:
        lw: the config, with one queue.
        words: interface by port: v4 and v6, or stick.
        ring_size: see `attach`.
        compat: see Lwaftr.
        nworkers: with an lwAFTR each.

    Raises:
        ConfigError: an interface's word is wrong, or nothing comes from any.
        DeviceError: there is no such card.
    """
    network = Config()
    is_stick = "stick" in words
    lwaftrs = add_lwaftrs(
        network, on_a_stick=is_stick, compat=compat, nworkers=nworkers
    )
    ends: dict[str, Interface] = {}
    for number, (port, word) in enumerate(words.items()):
        worker, before = number % nworkers, set(network.apps)
        end = attach(
            network, port, word, number=number, ring_size=ring_size, nworkers=nworkers
        )
        for app in network.apps.keys() - before:
            if network.apps[app].worker is None:
                network.place(app, worker)
        join(network, port, end, worker, lwaftrs)
        ends[port] = replace(end, word=f"{word} ({port})")
    ways = {("stick", "stick"): 0} if is_stick else WAYS
    directions = tuple(
        LwaftrDirection(
            ends[source], ends[target], between(source, target, lwaftrs),
            TASKS.get(side, ""),
            lwaftrs, (source, target), side,
        )
        for (source, target), side in ways.items()
        if ends[source].receive
    )  # fmt: skip
    if not directions:
        raise ConfigError("nothing comes from any interface")
    built = Network(network, words, ends, lwaftrs, directions)
    return replace(built, config=built.with_config(lw))


def between(source: str, target: str, lwaftrs: tuple[str, ...]) -> tuple[str, ...]:
    """Return the apps besides lwAFTRs between two ports."""
    return (f"{source}-spread", f"{target}-join") if len(lwaftrs) > 1 else ()
