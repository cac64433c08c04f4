"""Interfaces by name: the words that every program takes, made into apps.

raw:IFNAME              a network interface of the kernel, by AF_PACKET
tap:NAME                a tap interface, made if it is not there
pcap:IN.pcap[,OUT.pcap] a capture to send, and one to write; either may be left out
null                    gives nothing, swallows everything
"""

from collections.abc import Callable
from dataclasses import dataclass

from snabb_py.apps.basic import Sink, Source
from snabb_py.engine import counter
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.errors import ConfigError

#: The reason of packets that a target has taken and could not deliver.
UNFINISHED = "drop-unfinished"

KINDS = "raw:IFNAME, tap:NAME, pcap:IN.pcap[,OUT.pcap] or null"


@dataclass(frozen=True)
class Interface:
    """An interface as apps of a config.

    Attributes:
        word: what the user called it.
        receive: port that its packets come from, "a.tx"; None: none come.
        transmit: port that takes packets for it, "a.rx".
        needs_large: super-frames may come: large packets are wanted.
    """

    word: str
    receive: str | None
    transmit: str
    needs_large: bool = False


def attach(config: Config, name: str, word: str) -> Interface:
    """Add the apps of an interface to a config.

    Args:
        config: gets one or two apps, not linked yet.
        name: for the apps: "a" gives "a", or "a-in" and "a-out".
        word: see the module.

    Raises:
        ConfigError: the word is none of those.
    """
    kind, _, rest = word.partition(":")
    maker = _MAKERS.get(kind)
    if maker is None:
        raise ConfigError(f'interface "{word}": expected {KINDS}')
    return maker(config, name, word, rest)


def attach_memory(config: Config, name: str) -> Interface:
    """Add a source and a sink in memory that stand for a card."""
    config.app(f"{name}-in", Source)
    config.app(f"{name}-out", Sink)
    return Interface(f"memory:{name}", f"{name}-in.tx", f"{name}-out.rx")


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


def _attach_raw(config: Config, name: str, word: str, rest: str) -> Interface:
    from snabb_py.apps.rawsocket import RawSocket

    _check_name(word, rest)
    config.app(name, RawSocket, ifname=rest)
    return Interface(word, f"{name}.tx", f"{name}.rx", needs_large=True)


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
    "raw": _attach_raw,
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
    """

    source: Interface
    target: Interface
    apps: tuple[str, ...]

    @property
    def source_app(self) -> str:
        """The app that packets come from."""
        return (self.source.receive or "").partition(".")[0]

    @property
    def target_app(self) -> str:
        """The app that takes them."""
        return self.target.transmit.partition(".")[0]

    def read(self, engine: Engine, *, is_last: bool = False) -> "Reading":
        """Return the counts as they are now.

        Args:
            engine: runs the network.
            is_last: the workers stand still, and what a target could not deliver by
                now is lost.
        """
        # The end first: packets move on meanwhile, and none leaves before it came.
        at_target = app_drops(engine, self.target_app, "drop-rx-")
        last = self._link_to(engine, self.target_app)
        unfinished = engine.apps[self.target_app].instance.unfinished if is_last else 0
        if unfinished:
            at_target[f"{self.target_app} {UNFINISHED}"] = unfinished
        first = self._link_from(engine, self.source_app)
        at_source = app_drops(engine, self.source_app, "drop-tx-")
        drops = dict(at_source)
        for name in self.apps:
            drops |= app_drops(engine, name)
        chain = {self.source_app, *self.apps}
        for spec, link in engine.links.items():
            if spec.from_app in chain and spec.to_app != self.source_app:
                n = link.counters["txdrop"]
                drops |= {f"{spec} txdrop": n} if n else {}
        return Reading(
            offered=first["txpackets"] + first["txdrop"] + sum(at_source.values()),
            forwarded=last["rxpackets"] - sum(at_target.values()),
            bytes=last["rxbytes"],
            drops=drops | at_target,
        )

    @staticmethod
    def _link_from(engine: Engine, app: str) -> dict[str, int]:
        return next(k.counters for s, k in engine.links.items() if s.from_app == app)

    @staticmethod
    def _link_to(engine: Engine, app: str) -> dict[str, int]:
        return next(k.counters for s, k in engine.links.items() if s.to_app == app)


@dataclass(frozen=True)
class Reading:
    """What one direction has counted since the start.

    Attributes:
        offered: packets that came, also those that could not be taken.
        forwarded: packets that left.
        bytes: of the packets that reached the target, without FCS.
        drops: packets lost by "app reason".
    """

    offered: int
    forwarded: int
    bytes: int
    drops: dict[str, int]

    @property
    def lost(self) -> int:
        """Packets that came and did not leave; those under way are among them."""
        return self.offered - self.forwarded
