"""The app network of `snabb-py nfv traffic`: virtual machines joined to a trunk.

    VM --PORT_Virtio--> [Mirror] -> [TxLimit] -> [Filter_out] -> PORT_NIC or Switch
    VM <-PORT_Virtio--- [Mirror] <- [Filter_in] <- [RxLimit] <-- PORT_NIC or Switch

Apps in brackets are there when the port's keys ask for them. The trunk is a card with a
pool for each port, a card that is one port's alone, or whatever there is with a bridge
before it. Building touches nothing; what changes take is `transition`'s business.

A port's whole chain is one worker's, its pool of the card too. A bridge is the first
worker's, and interlinks join it to the chains of others.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from snabb_py.apps.basic import Police
from snabb_py.apps.bridge import ALL_VLANS, Bridge, BridgePort
from snabb_py.apps.filter import Filter
from snabb_py.apps.mirror import add_mirror
from snabb_py.cli.cards import (
    CARD_OPTIONS,
    CardWord,
    Target,
    attach_wire,
    driver_arguments,
    find_card,
    parse,
    parse_sim,
)
from snabb_py.cli.interfaces import PCI_ADDRESS, RING_SIZE, Interface, attach
from snabb_py.engine.config import Config, LinkSpec
from snabb_py.errors import ConfigError
from snabb_py.nic.intel82599 import Intel82599, LocalIntel82599
from snabb_py.nic.intel82599_config import MAC_FILTERS, VLAN_FILTERS, PoolConfig
from snabb_py.nic.mac import parse_mac
from snabb_py.virtio.net_device import VhostUser
from snabb_py.virtio.nfv_config import NfvConfig, PortConfig

POOLS: Final = 64
#: Of a bridge, beside that of the trunk.
SWITCH_PORTS: Final = 127
TRUNK, SWITCH = "Trunk", "Switch"
#: Addresses that a bridge has room for at least.
ROOM: Final = 16384
OWN_TAP = "nfv"


@dataclass(frozen=True)
class Chain:
    """A port as apps.

    Attributes:
        port: what it is to be.
        path: of its socket.
        vm: the app of its socket.
        to_vm, from_vm: apps between it and the trunk, in the order of packets.
        nic: the app of its pool, or of its card; "": a bridge is there.
        place: number of its pool or of its port of the bridge.
        worker: that has it.
        mirror: the Mirror's name; "": there is none.
    """

    port: PortConfig
    path: Path
    vm: str
    to_vm: tuple[str, ...]
    from_vm: tuple[str, ...]
    nic: str
    place: int
    worker: int = 0
    mirror: str = ""

    @property
    def apps(self) -> set[str]:
        """All its apps."""
        files = {f"{self.mirror}-file"} if self.mirror else set()
        return {self.vm, *self.to_vm, *self.from_vm, self.nic, *files} - {""}


@dataclass(frozen=True)
class Network:
    """A network: its apps and links, and what is whose.

    Attributes:
        config: the apps and links.
        chains: of the ports, by id.
        mode: "pools", "card" (one port has it all), "switch" or "" (no port).
    """

    config: Config
    chains: Mapping[str, Chain]
    mode: str


class Trunk:
    """What the ports are joined to.

    Args:
        word: an interface's name; of a card without mac= and inline.
        ports: that there are in the beginning.
        ring_size: see `attach`.
        nworkers: that ports are spread over.

    Raises:
        ConfigError: the word is wrong.
        DeviceError: there is no such card.
    """

    def __init__(
        self,
        word: str,
        ports: Sequence[PortConfig],
        ring_size: int | None = None,
        *,
        nworkers: int = 1,
    ) -> None:
        self.word = word
        self.nworkers = nworkers
        self.base = Config()
        self.notes: list[str] = []
        self._driver: type[Intel82599] | None = None
        self._arguments: dict[str, Any] = {}
        if word.partition(",")[0] == "sim":
            self.interface = self._take_sim(ports, ring_size or RING_SIZE)
        elif PCI_ADDRESS.fullmatch(word):
            self.interface = self._take_pci(ring_size or RING_SIZE)
        else:
            self.interface = attach(self.base, TRUNK, word, ring_size=ring_size)

    def _take_sim(self, ports: Sequence[PortConfig], ring: int) -> Interface:
        parsed = parse_sim(self.word)
        for key, why in (
            ("inline", "its time is modelled, that of virtual machines is not"),
            ("mac", "addresses are those of the ports"),
        ):
            if key in parsed.options:
                raise parsed.fail(f"{key}: {why}")
        if "wire" not in parsed.options and not _is_about_generator(parsed):
            tap = _free_tap()
            parsed = replace(parsed, options=parsed.options | {"wire": f"tap:{tap}"})
            self.notes.append(f"the wire of {self.word} is the tap {tap}")
        # Before the card, which would have to be closed.
        arguments = driver_arguments(parsed, ring)
        sim = attach_wire(
            self.base, TRUNK, parsed, targets=_targets(ports), nworkers=self.nworkers
        )
        self._driver = LocalIntel82599
        self._arguments = {"card": sim.card, **arguments}
        return Interface(self.word, None, "", sim=sim, needs_large=sim.needs_large)

    def _take_pci(self, ring: int) -> Interface:
        options = tuple(key for key in CARD_OPTIONS if key != "mac")
        parsed = parse(self.word, options)
        device = find_card(parsed)
        self._driver = Intel82599
        self._arguments = {"card": device.address, **driver_arguments(parsed, ring)}
        return Interface(self.word, None, "", device=device)

    def mode(self, ports: Sequence[PortConfig]) -> str:
        """Return how these ports are joined to it; see `Network`."""
        if not ports:
            return ""
        if self._driver is None:
            return "switch"
        if not ports[0].macs:
            return "card"
        macs = {mac for port in ports for mac in port.stations}
        vlans = {vlan for port in ports for vlan in port.vlans if vlan is not None}
        # One filter is the card's own address.
        does_fit = len(macs) < MAC_FILTERS and len(vlans) <= VLAN_FILTERS
        return "pools" if len(ports) <= POOLS and does_fit else "switch"

    def add_nic(
        self, config: Config, name: str, pool: PoolConfig | None, worker: int = 0
    ) -> None:
        """Add the card's driver, for all of it or for a pool."""
        if self._driver is None:
            raise AssertionError(f"{self.word} is no card")
        arguments = self._arguments
        if pool:
            card_config = replace(arguments["config"], pools=True)
            arguments = {**arguments, "config": card_config, "pool": pool}
        config.app(name, self._driver, worker=worker, **arguments)

    def add_switch(self, config: Config, ports: Mapping[str, BridgePort]) -> None:
        """Add a bridge, with the trunk at its port p0."""
        owned = sum(sum(1 for _ in port.keys()) for port in ports.values())  # noqa: SIM118 - a BridgePort is no dict
        # To a power of two: the room changes seldom, and with it what was learned goes.
        room = max(ROOM, 1 << (4 * owned - 1).bit_length() if owned else 0)
        outside = BridgePort(trunk=ALL_VLANS, limit=room)
        ports = {"p0": outside, **ports}
        config.app(SWITCH, Bridge, worker=0, ports=ports, room=room)
        receive, transmit = self.interface.receive, self.interface.transmit
        if self._driver:
            self.add_nic(config, TRUNK, None)
            receive, transmit = f"{TRUNK}.tx", f"{TRUNK}.rx"
        if receive:
            config.link(f"{receive} -> {SWITCH}.p0")
        config.link(f"{SWITCH}.p0 -> {transmit}")


def _is_about_generator(parsed: CardWord) -> bool:
    return bool(parsed.options.keys() & {"rate", "size", "flows", "ip", "count"})


def _free_tap() -> str:
    """Return the name of a tap that there is not yet."""
    number = 0
    while Path("/sys/class/net", f"{OWN_TAP}{number}").exists():
        number += 1
    return f"{OWN_TAP}{number}"


def _targets(ports: Iterable[PortConfig]) -> list[Target]:
    """Return whom a generator on the wire sends to."""
    return [
        (parse_mac(port.stations[0]), port.vlans[0]) for port in ports if port.stations
    ]


def build(  # noqa: PLR0913 - what a network is made of
    trunk: Trunk,
    ports: NfvConfig,
    sockets: Mapping[str, str],
    *,
    is_server: bool = True,
    group: int | None = None,
    before: Mapping[str, Chain] | None = None,
    writer: int | None = None,
) -> Network:
    """Return the network of these ports.

    Args:
        trunk: what they are joined to.
        ports: all of them.
        sockets: path of each port's, by its id.
        is_server: listen there, where the port does not say.
        group: of the sockets that we make.
        before: chains that there are: ports keep their places and workers.
        writer: the worker that writes captures.

    Raises:
        ConfigError: there are too many, or one cannot be.
    """
    config, mode = trunk.base.copy(), trunk.mode(ports.ports)
    if len(ports.ports) > SWITCH_PORTS:
        raise ConfigError(f"{len(ports.ports)} ports: {SWITCH_PORTS} at most")
    ids, before = [port.port_id for port in ports.ports], before or {}
    numbers = _place(ids, {i: chain.place for i, chain in before.items()}, mode)
    workers = _deal(ids, {i: c.worker for i, c in before.items()}, trunk.nworkers)
    if mode == "switch":
        inside = {
            f"p{numbers[port.port_id]}": BridgePort(
                vlan=None if port.trunk else port.vlan or 0,
                trunk=port.trunk,
                macs=port.stations,
                check_source=bool(port.macs),
                flood=not port.macs,
                label=port.port_id,
            )
            for port in ports.ports
        }
        trunk.add_switch(config, inside)
    elif not mode and trunk.interface.transmit:
        # Nobody is there: what must be linked is left out.
        config = Config()
    chains = {
        port.port_id: _add_chain(
            config,
            trunk,
            port,
            Path(sockets[port.port_id]).absolute(),
            mode=mode,
            place=numbers[port.port_id],
            worker=workers[port.port_id],
            writer=writer,
            server=is_server if port.server is None else port.server,
            group=group,
        )
        for port in ports.ports
    }
    return Network(config, chains, mode)


def _place(ids: Sequence[str], places: Mapping[str, int], mode: str) -> dict[str, int]:
    """Return a number for each port, the one that it has had if it had one."""
    first, count = (1, SWITCH_PORTS) if mode == "switch" else (0, POOLS)
    all_numbers = range(first, first + count)
    kept = {i: places[i] for i in ids if places.get(i, -1) in all_numbers}
    # What has just become free comes last: its rings may hold another's frames.
    fresh = sorted(
        set(all_numbers) - set(kept.values()), key=lambda n: (n in places.values(), n)
    )
    missing = [i for i in ids if i not in kept]
    return kept | dict(zip(missing, fresh, strict=False))


def _deal(ids: Sequence[str], before: Mapping[str, int], count: int) -> dict[str, int]:
    """Return a worker for each port: what it has had, or the one with the fewest."""
    workers = {i: before[i] for i in ids if i in before}
    load = Counter(workers.values())
    for port_id in ids:
        if port_id not in workers:
            workers[port_id] = min(range(count), key=lambda n: (load[n], n))
            load[workers[port_id]] += 1
    return workers


def _pool(port: PortConfig, number: int) -> PoolConfig:
    return PoolConfig(number, port.stations, vlan=port.vlan, trunk=port.trunk)


def _add_vm(  # noqa: PLR0913 - what a socket is made of
    config: Config,
    port: PortConfig,
    path: Path,
    *,
    worker: int,
    server: bool,
    group: int | None,
) -> str:
    name = f"{port.app_name}_Virtio"
    without = (
        *(["MRG_RXBUF"] if port.disable_mrg_rxbuf else []),
        *(["INDIRECT_DESC"] if port.disable_indirect_desc else []),
    )
    config.app(
        name,
        VhostUser,
        worker=worker,
        path=path,
        queues=port.queues,
        server=server,
        without=without,
        group=group if server else None,
    )
    return name


def _add_chain(  # noqa: PLR0913 - what a chain is made of
    config: Config,
    trunk: Trunk,
    port: PortConfig,
    path: Path,
    *,
    mode: str,
    place: int,
    worker: int,
    writer: int | None,
    server: bool,
    group: int | None,
) -> Chain:
    """Add a port's two ends and what is between them, and join it all."""
    name = port.app_name
    vm = _add_vm(config, port, path, worker=worker, server=server, group=group)
    nic = "" if mode == "switch" else f"{name}_NIC"
    if nic:
        pool = None if mode == "card" else _pool(port, place)
        trunk.add_nic(config, nic, pool, worker)
    limits = _add_limits(config, port, worker)
    filters = _add_filters(config, port, worker)
    mirror = f"{name}_Mirror" if port.mirror else ""
    if port.mirror:
        add_mirror(
            config,
            mirror,
            port.mirror,
            label=port.port_id,
            worker=worker,
            writer=writer,
        )
    chain = Chain(
        port,
        path,
        vm,
        tuple(app for app in (limits["rx"], filters["in"], mirror) if app),
        tuple(app for app in (mirror, limits["tx"], filters["out"]) if app),
        nic,
        place,
        worker,
        mirror,
    )
    for link in (*links_to(chain), *links_from(chain)):
        config.link(str(link))
    return chain


def _add_limits(config: Config, port: PortConfig, worker: int) -> dict[str, str]:
    names = {"rx": "", "tx": ""}
    for way, rate, burst in (
        ("rx", port.rx_police, port.rx_police_burst),
        ("tx", port.tx_police, port.tx_police_burst),
    ):
        if rate is not None:
            names[way] = f"{port.app_name}_{way.capitalize()}Limit"
            config.app(
                names[way], Police, worker=worker, rate_gbps=rate, burst_bytes=burst
            )
    return names


def _add_filters(config: Config, port: PortConfig, worker: int) -> dict[str, str]:
    """Add the filters; of a stateful one both, since each notes what passes it."""
    names = {"in": "", "out": ""}
    expressions = {"in": port.ingress_filter, "out": port.egress_filter}
    is_stateful = port.stateful_filter and any(expressions.values())
    for way, expression in expressions.items():
        if expression or is_stateful:
            names[way] = f"{port.app_name}_Filter_{way}"
            connections = port.port_id if is_stateful else None
            config.app(
                names[way],
                Filter,
                worker=worker,
                expression=expression,
                connections=connections,
            )
    return names


def _join(chain: Chain, apps: Sequence[str], way: str) -> list[LinkSpec]:
    """Return the links of a direction: each app's port of it, in order."""

    def port(app: str, plain: str) -> str:
        if app == SWITCH:
            return f"p{chain.place}"
        return way if app == chain.mirror else plain

    return [
        LinkSpec(one, port(one, "tx"), other, port(other, "rx"))
        for one, other in pairwise(apps)
    ]


def links_to(chain: Chain) -> list[LinkSpec]:
    """Return the links from the trunk to a port, in order."""
    return _join(chain, (chain.nic or SWITCH, *chain.to_vm, chain.vm), "to")


def links_from(chain: Chain) -> list[LinkSpec]:
    """Return the links from a port to the trunk, in order."""
    return _join(chain, (chain.vm, *chain.from_vm, chain.nic or SWITCH), "from")


# -- changes -------------------------------------------------------------------


def transition(old: Network, new: Network) -> Config | None:
    """Return what must run for a moment between two networks; None: nothing.

    What two ports have in turn - an address on the card, a socket with other settings,
    a capture file - the first must have given up before the second can get it.
    """
    if old.mode != new.mode and old.mode and new.mode:
        yielding = set(old.chains)
    else:
        yielding = _yielding(old, new)
    if not yielding:
        return None
    config = old.config.copy()
    for port_id in yielding:
        chain, after = old.chains[port_id], new.chains.get(port_id)
        keeps_vm = after is not None and (
            old.config.apps[chain.vm] == new.config.apps[after.vm]
        )
        config.remove(chain.apps - ({chain.vm} if keeps_vm else set()))
        links = (*links_to(chain), *links_from(chain))
        config.links -= set(links)
    if old.mode != new.mode and old.mode == "switch":
        config.remove(old.config.apps.keys() - _kept(old))
    return config


def _kept(network: Network) -> set[str]:
    """Return the apps of a network but for its bridge and what is joined to it."""
    chains = {app for chain in network.chains.values() for app in chain.apps}
    outside = {n for n in network.config.apps if n.startswith(f"{TRUNK}-")}
    return chains | outside


def _yielding(old: Network, new: Network) -> set[str]:
    """Return the ports of a network that are in the way of the next one."""
    claims: dict[object, str] = {}
    for port_id, chain in new.chains.items():
        claims |= dict.fromkeys(_property(chain, new.mode), port_id)
    yielding = {
        port_id
        for port_id, chain in old.chains.items()
        if any(
            claims.get(item, port_id) != port_id for item in _property(chain, old.mode)
        )
    }
    for port_id, chain in old.chains.items():
        after = new.chains.get(port_id)
        if after is None:
            continue
        is_same = old.config.apps[chain.vm] == new.config.apps.get(after.vm)
        is_moved = len({chain.port.mirror, after.port.mirror} - {None}) > 1
        if (not is_same and chain.path == after.path) or is_moved:
            yielding.add(port_id)
    return yielding


def _property(chain: Chain, mode: str) -> list[object]:
    """Return what a port has and no other may have at the same time."""
    items: list[object] = [("app", chain.vm), ("socket", chain.path)]
    if mode == "pools":
        items += [("mac", mac) for mac in chain.port.stations]
        items.append(("place", chain.place))
    if chain.port.mirror:
        items.append(("mirror", Path(chain.port.mirror).absolute()))
    return items
