"""Interfaces by name: the words that every program takes, made into apps.

raw:IFNAME[,ring=N]     a network interface of the kernel, by AF_PACKET
xdp:IFNAME[,queue=N]    a queue of one, by AF_XDP, past the kernel
tap:NAME                a tap interface, made if it is not there
pcap:IN.pcap[,OUT.pcap] a capture to send, and one to write; either may be left out
null                    gives nothing, swallows everything
0000:01:00.0            an Intel 82599, by its PCI address; see `cards`
sim                     a software 82599; see `cards`
"""

import contextlib
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from snabb_py.apps.basic import Sink
from snabb_py.engine import counter
from snabb_py.engine.app import FiniteSource, check_range
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.engine.worker import check_cpu
from snabb_py.errors import ConfigError
from snabb_py.nic.intel82599_statistics import NAMES as STATISTICS

if TYPE_CHECKING:
    from snabb_py.engine.pci import Device

#: The reason of packets that a target has taken and could not deliver.
UNFINISHED = "drop-unfinished"

KINDS = (
    "raw:IFNAME[,ring=N], xdp:IFNAME[,queue=N], tap:NAME, pcap:IN.pcap[,OUT.pcap], "
    "null, sim[,OPTION]... or a PCI address"
)
PCI_ADDRESS = re.compile(
    r"([0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7](,.*)?"
)
#: Descriptors of a card's rings; the least and the most, of packet sockets' too.
RING_SIZE = 1024
RING_SIZES = (64, 4096)
#: Drops that a driver reads from its card.
ECHOES = tuple(name for name in STATISTICS if counter.is_drop(name))
LONG = 20  #: digits that no number of ours has
FCS_SIZE = 4  #: bytes that a card's counts have and ours have not


@dataclass(frozen=True)
class Interface:
    """An interface as apps of a config.

    Attributes:
        word: what the user called it.
        receive: port that its packets come from, "a.tx"; None: none come.
        transmit: port that takes packets for it, "a.rx".
        needs_large: super-frames may come: large packets are wanted.
        nheld: packets that the kernel has in its hands at most.
        entry, exit: apps where packets come in from outside and leave; those of
            `receive` and `transmit` where nothing is said.
        inside: further apps between these and the ports, the outside first.
        statistics: name of the app that has the counts of a real card's wire.
        sim: the software card that it is.
        device: the real card that it is.
    """

    word: str
    receive: str | None
    transmit: str
    needs_large: bool = False
    nheld: int = 0
    entry: str = ""
    exit: str = ""
    inside: tuple[str, ...] = ()
    statistics: str = ""
    sim: Any = field(default=None, compare=False)
    device: "Device | None" = field(default=None, compare=False)

    @property
    def is_physical(self) -> bool:
        """Whether it is a device that knows no addresses but physical ones."""
        return self.device is not None and self.device.iommu_group is None

    @property
    def way_in(self) -> tuple[str, ...]:
        """The apps that its packets come through, the outside first."""
        entry = self.entry or (self.receive or "").partition(".")[0]
        return (entry, *self.inside)

    @property
    def way_out(self) -> tuple[str, ...]:
        """The apps that packets for it go through, the outside last."""
        last = self.exit or self.transmit.partition(".")[0]
        return (*reversed(self.inside), last)


def attach(  # noqa: PLR0913 - what an interface and its place are
    config: Config,
    name: str,
    word: str,
    *,
    number: int = 0,
    ring_size: int | None = None,
    nworkers: int = 1,
) -> Interface:
    """Add the apps of an interface to a config.

    Args:
        config: gets its apps, the ports not linked yet.
        name: for the apps: "a" gives "a", or "a-in" and "a-out".
        word: see the module.
        number: of the interface among the program's.
        ring_size: descriptors of a card's rings, frames of a packet socket's, where the
            word says nothing; None: as many as there mostly are.
        nworkers: that drivers have; software cards have the next one.

    Raises:
        ConfigError: the word is none of those.
        DeviceError: there is no such card.
    """
    if word.partition(",")[0] == "sim":
        from snabb_py.cli.cards import attach_sim

        ring = ring_size or RING_SIZE
        sim = attach_sim(
            config, name, word, number=number, ring=ring, nworkers=nworkers
        )
        return _interface_of(sim, name, word)
    if PCI_ADDRESS.fullmatch(word):
        from snabb_py.cli.cards import attach_pci

        device = attach_pci(config, name, word, ring=ring_size or RING_SIZE)
        return Interface(
            word, f"{name}.tx", f"{name}.rx", statistics=name, device=device
        )
    check_kind(word)
    kind, _, rest = word.partition(":")
    if kind == "raw":
        return _attach_raw(config, name, word, ring_size)
    return _MAKERS[kind](config, name, word, rest)


def check_kind(word: str) -> None:
    """Refuse what is the name of no kind of interface.

    Raises:
        ConfigError: that; and what may be meant.
    """
    is_card = word.partition(",")[0] == "sim" or PCI_ADDRESS.fullmatch(word)
    if is_card or word.partition(":")[0] in {"raw", *_MAKERS}:
        return
    is_known = word in (name for _, name in socket.if_nameindex())
    hint = f'did you mean "raw:{word}"?' if is_known else f"expected {KINDS}"
    raise ConfigError(f'interface "{word}": {hint}')


def kernel_name(word: str) -> str | None:
    """Return the kernel's name of an interface, None: it is none of the kernel's."""
    kind, _, rest = word.partition(":")
    option = {"raw": ",ring=", "xdp": ",queue="}.get(kind)
    return rest.partition(option)[0] if option else None


def _interface_of(sim: Any, name: str, word: str) -> Interface:
    return Interface(
        word,
        f"{name}.tx" if sim.entry else None,
        f"{name}.rx",
        needs_large=sim.needs_large,
        entry=sim.entry or "",
        exit=sim.exit,
        inside=sim.inside,
        sim=sim,
    )


def memory_settings(huge_pages: str) -> dict[str, bool]:
    """Return an engine's arguments for --huge-pages: "auto", "require", "never"."""
    return {"huge": huge_pages != "never", "need_huge": huge_pages == "require"}


@contextlib.contextmanager
def engine_settings(
    interfaces: Sequence[Interface],
    *,
    cpus: Sequence[int | None] = (None,),
    sim_cpu: int | None = None,
    huge_pages: str = "auto",
    log: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Give what an engine must be for these interfaces, as its arguments.

    Software cards are closed at the end: the engine must be closed by then.

    Args:
        interfaces: attached to the config.
        cpus: of the workers, None: not pinned.
        sim_cpu: of the worker that software cards have, the next one.
        huge_pages: see `memory_settings`.
        log: is told which cards are on another NUMA node than the CPUs.

    Raises:
        ConfigError: they do not go together.
    """
    from snabb_py.cli.cards import INLINE_BREATH_NS, SIM_PACKETS, distances, has_room

    sims = [i.sim for i in interfaces if i.sim]
    inline = [sim.is_inline for sim in sims]
    try:
        if sim_cpu is not None:  # even where no worker will have it
            check_cpu(sim_cpu)
        if any(inline) and not all(inline):
            raise ConfigError("sim: all software cards are inline, or none is")
        if any(inline) and len(sims) < len(interfaces):
            raise ConfigError(
                "sim,inline: its time is modelled, and that of no other interface"
            )
        if any(inline) and len(cpus) > 1:
            raise ConfigError("sim,inline: its time is that of one worker")
        for line in distances([i.device for i in interfaces if i.device], cpus):
            log(line)
        free = bool(sims) and not any(inline) and has_room()
        yield {
            "workers": len(cpus) + free,
            "cpus": [*cpus, sim_cpu] if free else cpus,
            "packets": SIM_PACKETS * max(len(sims), 1)
            + sum(i.nheld for i in interfaces),
            "large_packets": 1024 if any(i.needs_large for i in interfaces) else 0,
            "breath_ns": INLINE_BREATH_NS if any(inline) else 0,
            **memory_settings(huge_pages),
            **({"physical": True} if any(i.is_physical for i in interfaces) else {}),
        }
    finally:
        for sim in sims:
            sim.card.close()


def _attach_null(config: Config, name: str, word: str, rest: str) -> Interface:
    if rest or word != "null":
        raise ConfigError(f'interface "{word}": null takes no name')
    config.app(name, Sink)
    return Interface(word, None, f"{name}.rx")


def _check_name(word: str, name: str) -> None:
    from snabb_py.apps import netdev

    try:
        netdev.check_name(name)
    except ConfigError as error:
        raise ConfigError(f'interface "{word}": {error}') from None


def _attach_raw(
    config: Config, name: str, word: str, ring_size: int | None
) -> Interface:
    from snabb_py.apps.rawsocket import RawSocket, check_ring_size

    ifname = kernel_name(word) or ""
    _check_name(word, ifname)
    _, is_said, ring = word.partition(",ring=")
    if is_said and not (ring.isascii() and ring.isdecimal() and len(ring) < LONG):
        raise ConfigError(f'interface "{word}": ring: "{ring}" is not a whole number')
    size = int(ring) if is_said else ring_size
    arguments: dict[str, Any] = {}
    if size is not None:
        check_ring_size(f'interface "{word}": ring', size)
        arguments["ring"] = size
    config.app(name, RawSocket, ifname=ifname, **arguments)
    return Interface(word, f"{name}.tx", f"{name}.rx", needs_large=True)


def _attach_xdp(config: Config, name: str, word: str, rest: str) -> Interface:
    from snabb_py.apps.xdp import Xdp
    from snabb_py.apps.xdp_program import QUEUES_MAX

    ifname, is_said, queue = rest.partition(",queue=")
    _check_name(word, ifname)
    if is_said and not (queue.isascii() and queue.isdecimal() and len(queue) < LONG):
        raise ConfigError(f'interface "{word}": queue: "{queue}" is not a whole number')
    check_range(f'interface "{word}": queue', int(queue or 0), 0, QUEUES_MAX - 1)
    config.app(name, Xdp, ifname=ifname, queue=int(queue or 0))
    return Interface(word, f"{name}.tx", f"{name}.rx", nheld=Xdp.nheld)


def _attach_tap(config: Config, name: str, word: str, rest: str) -> Interface:
    from snabb_py.apps.tap import Tap

    _check_name(word, rest)
    config.app(name, Tap, name=rest)
    return Interface(word, f"{name}.tx", f"{name}.rx", needs_large=True)


def _attach_pcap(config: Config, name: str, word: str, rest: str) -> Interface:
    from snabb_py.apps.pcap import PcapReader, PcapWriter

    source, _, target = rest.partition(",")
    if not source and not target:
        raise ConfigError(f'interface "{word}": expected pcap:IN.pcap[,OUT.pcap]')
    if source:
        config.app(f"{name}-in", PcapReader, path=source)
    if target:
        config.app(f"{name}-out", PcapWriter, path=target)
    else:
        config.app(f"{name}-out", Sink)
    return Interface(
        word,
        f"{name}-in.tx" if source else None,
        f"{name}-out.rx",
        needs_large=True,
    )


_MAKERS: dict[str, Callable[[Config, str, str, str], Interface]] = {
    "null": _attach_null,
    "xdp": _attach_xdp,
    "tap": _attach_tap,
    "pcap": _attach_pcap,
}


def app_drops(engine: Engine, name: str, but_not: str = "-") -> dict[str, int]:
    """Return what an app has lost by "app reason".

    Args:
        engine: runs it.
        name: the app's.
        but_not: prefix of the reasons that concern its other direction.
    """
    return {
        f"{name} {reason}": n
        for reason, n in engine.apps[name].counters.items()
        if n and counter.is_drop(reason) and not reason.startswith(but_not)
    }


@dataclass(frozen=True)
class Direction:
    """Packets on their way from one interface to another, counted at both ends.

    Attributes:
        source, target: the interfaces.
        apps: all apps in between, in order.
        task: what is done to its packets, where that is not plain from the ends.
    """

    source: Interface
    target: Interface
    apps: tuple[str, ...]
    task: str = ""

    @property
    def source_app(self) -> str:
        """The app that packets come from."""
        return self.source.way_in[0]

    @property
    def target_app(self) -> str:
        """The app that takes them."""
        return self.target.way_out[-1]

    @property
    def path(self) -> tuple[str, ...]:
        """All apps that a packet goes through."""
        return (*self.source.way_in, *self.apps, *self.target.way_out)

    def read(self, engine: Engine, *, is_last: bool = False) -> "Reading":
        """Return the counts as they are now.

        Args:
            engine: runs the network.
            is_last: the workers stand still, and what a target could not deliver by
                now is lost.
        """
        # The end first: packets move on meanwhile, and none leaves before it came.
        forwarded, nbytes, at_target = self._arrived(engine, is_last=is_last)
        at_source = self._drops(engine, self.source, self.source.way_in, "drop-tx-")
        drops = dict(at_source)
        for name in self.apps:
            drops |= app_drops(engine, name)
        steps = set(pairwise(self.path))
        for spec, link in engine.links.items():
            if (spec.from_app, spec.to_app) in steps and (n := link.counters["txdrop"]):
                drops[f"{spec} txdrop"] = n
        return Reading(
            offered=self._offered(engine, at_source),
            forwarded=forwarded,
            bytes=nbytes,
            drops=drops | at_target,
            missed=self._missed(engine),
            sending_ns=self._sending_ns(engine) if is_last else 0,
        )

    def _sending_ns(self, engine: Engine) -> float:
        if engine.is_modelled:  # and no time that anybody waited for
            return 0
        inside = [engine.apps[name].instance for name in self.source.way_in]
        sources = [app for app in inside if isinstance(app, FiniteSource)]
        return max((app.sending_ns for app in sources), default=0)

    def _missed(self, engine: Engine) -> dict[str, int]:
        return {
            reason: n
            for app in self.source.way_in
            for reason, n in engine.apps[app].counters.items()
            if n and reason.startswith("missed-")
        }

    def _arrived(
        self, engine: Engine, *, is_last: bool
    ) -> tuple[int, int, dict[str, int]]:
        """Return packets and bytes that left at the end, and what was lost there."""
        drops = self._drops(engine, self.target, self.target.way_out, "drop-rx-")
        if self.target.statistics:
            counts = engine.apps[self.target.statistics].instance.statistics()
            n = counts["tx-good-packets"]
            return n, counts["tx-good-bytes"] - FCS_SIZE * n, drops
        unfinished = engine.apps[self.target_app].instance.unfinished if is_last else 0
        if unfinished:
            drops[f"{self.target_app} {UNFINISHED}"] = unfinished
        last = self._link_to(engine, self.target_app)
        at_end = app_drops(engine, self.target_app, "drop-rx-")
        # Workers go on between two looks: more may have been dropped since than came.
        left = max(0, last["rxpackets"] - sum(at_end.values()) - unfinished)
        own = engine.apps[self.target_app].counters
        return left, _bytes_of(left, last, own), drops

    def _offered(self, engine: Engine, drops: dict[str, int]) -> int:
        """Return packets that came, those lost at their source among them."""
        if self.source.statistics:
            counts = engine.apps[self.source.statistics].instance.statistics()
            return int(counts["rx-good-packets"])
        first = self._link_from(engine, self.source_app)
        at_begin = sum(
            n for name, n in drops.items() if name.startswith(f"{self.source_app} ")
        )
        return first["txpackets"] + first["txdrop"] + at_begin

    @staticmethod
    def _drops(
        engine: Engine, interface: Interface, apps: Sequence[str], but_not: str
    ) -> dict[str, int]:
        drops: dict[str, int] = {}
        for name in apps:
            drops |= app_drops(engine, name, but_not)
        if interface.sim:
            # What its driver reads from a software card, the card has counted itself.
            for reason in ECHOES:
                drops.pop(f"{interface.inside[-1]} {reason}", None)
        return drops

    @staticmethod
    def _link_from(engine: Engine, app: str) -> dict[str, int]:
        return next(k.counters for s, k in engine.links.items() if s.from_app == app)

    @staticmethod
    def _link_to(engine: Engine, app: str) -> dict[str, int]:
        return next(k.counters for s, k in engine.links.items() if s.to_app == app)


def _bytes_of(left: int, last: dict[str, int], own: Mapping[str, int]) -> int:
    """Return the bytes of packets that left.

    Args:
        left: how many they are.
        last: counters of the link to the last app.
        own: counters of this app, which knows best, if it counts the same packets;
            else those that it dropped were of the mean size.
    """
    if left == last["rxpackets"]:
        return last["rxbytes"]
    if left == own.get("tx-packets"):
        return own["tx-bytes"]
    return last["rxbytes"] * left // max(1, last["rxpackets"])


@dataclass(frozen=True)
class Reading:
    """What one direction has counted since the start.

    Attributes:
        offered: packets that came, also those that could not be taken.
        forwarded: packets that left.
        bytes: of the packets that left, without FCS.
        drops: packets lost by "app reason".
        missed: packets that were asked for and not sent in time, by reason.
        sending_ns: how long the source has sent them, as it says at the end; 0: it does
            not.
    """

    offered: int
    forwarded: int
    bytes: int
    drops: dict[str, int]
    missed: dict[str, int] = field(default_factory=dict)
    sending_ns: float = 0

    @property
    def lost(self) -> int:
        """Packets that came and did not leave; those under way are among them."""
        return self.offered - self.forwarded
