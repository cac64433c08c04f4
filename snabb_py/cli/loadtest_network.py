"""The app network of a load test: generators and checkers around what is tested.

Either the device is elsewhere, and our interfaces lead to it and back:

    generator -> TX ~~~ device ~~~ RX -> checker

or it is `forward` between two software cards in this very network; then generator and
checker are what their wires lead to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from snabb_py.apps.traffic import Checker, Generator
from snabb_py.cli import forward
from snabb_py.cli.cards import GENERATOR_OPTIONS, parse_sim
from snabb_py.cli.interfaces import RING_SIZE, Direction, Interface, attach
from snabb_py.cli.loadtest_traffic import LINE_GBPS, Rate, Traffic, TrafficOptions
from snabb_py.engine.config import Config, LinkSpec
from snabb_py.errors import ConfigError

#: A rate that makes a card lose what it has no room for, as a real one does; the
#: generator's own arguments come with each trial.
UNWAITING = "rate=1Gbps"


@dataclass(frozen=True, eq=False)
class Path:
    """One direction of a load.

    Attributes:
        source, target: what the user calls its ends.
        generator: its app.
        arrival: where its packets are expected, of `Network.arrivals`.
        traffic: what is sent.
    """

    source: str
    target: str
    generator: str
    arrival: str
    traffic: Traffic

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}"


@dataclass(frozen=True)
class Arrival:
    """A port where packets come back to the tester, and the worker it is on."""

    port: str
    worker: int | None = None


@dataclass(frozen=True)
class Network:
    """A network without its checkers: those come and go with the trials.

    Attributes:
        config: all but the checkers.
        paths: the directions.
        arrivals: by name.
        interfaces: that an engine must suit.
        words: what the user calls apps of interfaces.
        is_own: the device under test is part of it: what its apps drop, the device
            lost, and not the tester.
    """

    config: Config
    paths: Sequence[Path]
    arrivals: dict[str, Arrival]
    interfaces: Sequence[Interface]
    words: Mapping[str, str] = field(default_factory=dict)
    is_own: bool = False

    def pps(self, rate: Rate | None) -> float:
        """Return packets a second of each direction; without a rate, line rate.

        Raises:
            ConfigError: they are more than can be asked for.
        """
        traffic = self.paths[0].traffic
        pps = traffic.pps(rate)
        if rate and self.is_own and pps > traffic.pps(None):
            raise ConfigError(
                f'{rate.option}: "{rate.text}" is more than the cable of a software '
                f"card carries, {LINE_GBPS} Gbps on the wire"
            )
        return pps

    def with_checkers(self, suffix: str) -> Config:
        """Return the config with a new checker at each arrival, "<name>-<suffix>".

        A device that damages packets loses them. Of our own `forward` checksums are not
        looked at: between its cards is memory, and the time would be taken from it.
        """
        config = self.config.copy()
        for name, arrival in self.arrivals.items():
            checker = f"{name}-{suffix}"
            config.app(checker, Checker, verify=not self.is_own, worker=arrival.worker)
            config.link(f"{arrival.port} -> {checker}.rx")
        return config


def is_own(words: Sequence[str]) -> bool:
    """Return whether the device under test is our own `forward`.

    It is when no interfaces are given, or two software cards without wires: nothing
    but we could be between them.
    """
    names = [word.partition(",") for word in words]
    return all(name == "sim" and "wire=" not in rest for name, _, rest in names)


def own(  # noqa: PLR0913 - the options of forward
    words: Sequence[str],
    options: TrafficOptions,
    *,
    bidir: bool,
    hops: int,
    police: float | None,
    ring_size: int = RING_SIZE,
) -> Network:
    """Return `forward` between two software cards, and what is on their wires.

    Args:
        words: "sim..." for each card; none: plain ones.
        options: of the frames.
        bidir: both ways.
        hops: see `forward`.
        police: the same.
        ring_size: the same.

    Raises:
        ConfigError: something is wrong with them.
    """
    if len(words) not in {0, 2}:
        raise ConfigError("two software cards, or none: both ways with --bidir")
    for word in words:
        if wrong := parse_sim(word).options.keys() & set(GENERATOR_OPTIONS):
            raise ConfigError(
                f'interface "{word}": {min(wrong)}: the load test itself says what is '
                "sent; see its options"
            )
    a, b = (f"{word},{UNWAITING}" for word in words or ("sim", "sim"))
    config, directions = forward.build(
        a, b, hops=hops, bidir=bidir, police=police, ring_size=ring_size
    )
    arrivals = {}
    for name in [n for n, spec in config.apps.items() if spec.cls is Checker]:
        (link,) = (link for link in config.links if link.to_app == name)
        arrivals[name] = Arrival(_port(link), config.apps[name].worker)
        config.links.discard(link)
        del config.apps[name]
    paths = [
        _own_path(direction, options, is_reverse=i > 0)
        for i, direction in enumerate(directions)
    ]
    ends = (directions[0].source, directions[0].target)
    return Network(config, paths, arrivals, ends, is_own=True)


def _port(link: LinkSpec) -> str:
    return f"{link.from_app}.{link.from_port}"


def _own_path(
    direction: Direction, options: TrafficOptions, *, is_reverse: bool
) -> Path:
    source, target = direction.source, direction.target
    return Path(
        source.word.replace(f",{UNWAITING}", ""),
        target.word.replace(f",{UNWAITING}", ""),
        source.entry,
        target.exit,
        options.make(source.sim.card.mac, is_reverse=is_reverse),
    )


def external(
    pairs: Sequence[tuple[str, str]],
    options: TrafficOptions,
    *,
    ring_size: int = RING_SIZE,
) -> Network:
    """Return generators and checkers at interfaces that lead to a device.

    Args:
        pairs: interfaces, (where it is sent, where it is expected) for each direction;
            an interface may be in several, and twice in one.
        options: of the frames.
        ring_size: descriptors of cards' rings.

    Raises:
        ConfigError: nothing can be sent or received there, or a pair is there twice.
    """
    if len(set(pairs)) < len(pairs):
        raise ConfigError("the same TX and RX are there twice")
    config = Config()
    words = list(dict.fromkeys(word for pair in pairs for word in pair))
    interfaces = {
        word: attach(config, f"if{i}", word, number=i, ring_size=ring_size)
        for i, word in enumerate(words)
    }
    arrivals = {
        f"check{i}": Arrival(interface.receive)
        for i, interface in enumerate(interfaces.values())
        if interface.receive
    }
    paths = []
    for i, (tx, rx) in enumerate(pairs):
        if not interfaces[rx].receive:
            raise ConfigError(f'nothing comes from "{rx}": it cannot be an RX')
        if any(tx == other for other, _ in pairs[:i]):
            raise ConfigError(f'"{tx}" is TX twice: one direction begins at each')
        traffic = options.make(is_reverse=(rx, tx) in pairs[:i])
        config.app(f"gen{i}", Generator, frames=traffic.frames)
        config.link(f"gen{i}.tx -> {interfaces[tx].transmit}")
        arrival = f"check{words.index(rx)}"
        paths.append(Path(tx, rx, f"gen{i}", arrival, traffic))
    called = {
        app: word
        for word, interface in interfaces.items()
        for app in {*interface.way_in, *interface.way_out} - {""}
    }
    return Network(config, paths, arrivals, tuple(interfaces.values()), called)
