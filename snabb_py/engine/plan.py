"""What to do to get from the running network to the wanted one; pure functions.

    network = expand(config, nworkers)      apps placed, interlinks put in
    difference(running, network)            -> Actions
    breath_order(network, worker)           -> pulls, pushes, ticks by name

Invariant: `difference(a, b)` applied to a gives b, and an app whose class, arguments
and worker are the same in both is not in it, unless its links changed. Imports
config and errors.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from snabb_py.engine.app import App
from snabb_py.engine.config import AppSpec, Config, LinkSpec
from snabb_py.engine.interlink import InterlinkReceiver, InterlinkTransmitter
from snabb_py.errors import ConfigError


@dataclass(frozen=True)
class Network:
    """A config that has been checked and placed: every app has a worker."""

    apps: Mapping[str, AppSpec] = field(default_factory=dict)
    links: frozenset[LinkSpec] = frozenset()

    def worker_of(self, app: str) -> int:
        """Return the number of the worker that runs an app."""
        worker = self.apps[app].worker
        if worker is None:
            raise AssertionError(f"{app} was not placed")
        return worker

    def apps_of(self, worker: int) -> list[str]:
        """Return the names of a worker's apps, sorted."""
        return sorted(n for n, spec in self.apps.items() if spec.worker == worker)

    def links_at(self, app: str, side: str) -> Mapping[str, LinkSpec]:
        """Return the links at an app's "inputs" or "outputs", by port."""
        return self._sides[side].get(app, {})

    @cached_property
    def _sides(self) -> dict[str, dict[str, dict[str, LinkSpec]]]:
        return sides(self.links)


def sides(links: Iterable[LinkSpec]) -> dict[str, dict[str, dict[str, LinkSpec]]]:
    """Return links by "inputs" or "outputs", app and port."""
    inputs: dict[str, dict[str, LinkSpec]] = {}
    outputs: dict[str, dict[str, LinkSpec]] = {}
    for link in links:
        outputs.setdefault(link.from_app, {})[link.from_port] = link
        inputs.setdefault(link.to_app, {})[link.to_port] = link
    return {"inputs": inputs, "outputs": outputs}


@dataclass(frozen=True)
class Actions:
    """The difference of two networks, each list sorted."""

    start: list[str]
    stop: list[str]
    restart: list[str]
    reconfigure: list[str]
    link: list[LinkSpec]
    unlink: list[LinkSpec]


def expand(config: Config, nworkers: int) -> Network:
    """Check a config, give each app a worker, put interlinks between workers.

    C apps without a worker go to worker 0, Python apps to worker `nworkers`, which
    is theirs alone: the GIL must not hold C apps up.

    Raises:
        ConfigError: a link names an app or port that is not there, a port that must
            be linked is not, or a worker does not exist.
    """
    for link in sorted(config.links):
        for app, port, side in (
            (link.from_app, link.from_port, "outputs"),
            (link.to_app, link.to_port, "inputs"),
        ):
            _check_port(config, link, app, port, side)
    apps, linked = {}, sides(config.links)
    for name, spec in sorted(config.apps.items()):
        for side, by_app in linked.items():
            _check_linked(name, spec, side, by_app.get(name, {}))
        apps[name] = AppSpec(spec.cls, spec.args, _place(name, spec, nworkers))
    return _interlink(apps, config.links)


def _check_port(config: Config, link: LinkSpec, app: str, port: str, side: str) -> None:
    if app not in config.apps:
        raise ConfigError(f'link "{link}": there is no app "{app}"')
    cls = config.apps[app].cls
    ports = getattr(cls, side)
    if ports.any_number or port in ports.names:
        return
    known = ", ".join(ports.names) or "none"
    raise ConfigError(
        f'link "{link}": {cls.__name__} has no port "{port}" among its {side} ({known})'
    )


def _check_linked(
    name: str, spec: AppSpec, side: str, linked: Mapping[str, LinkSpec]
) -> None:
    ports = getattr(spec.cls, side)
    if ports.optional:
        return
    for port in ports.names:
        if port not in linked:
            raise ConfigError(f'app "{name}": nothing is linked to {name}.{port}')
    if ports.any_number and not linked:
        raise ConfigError(f'app "{name}": nothing is linked to its {side}')


def _place(name: str, spec: AppSpec, nworkers: int) -> int:
    if spec.worker is None:
        return nworkers if spec.cls.is_python else 0
    if not 0 <= spec.worker <= nworkers:
        raise ConfigError(
            f'app "{name}": there is no worker {spec.worker} (0 to {nworkers - 1})'
        )
    return spec.worker


def _interlink(apps: dict[str, AppSpec], links: Iterable[LinkSpec]) -> Network:
    joined = set()
    for link in links:
        here, there = apps[link.from_app].worker, apps[link.to_app].worker
        if here == there:
            joined.add(link)
            continue
        sending, receiving = halves(link)
        args = {"link": str(link)}
        apps[sending.to_app] = AppSpec(InterlinkTransmitter, args, here)
        apps[receiving.from_app] = AppSpec(InterlinkReceiver, args, there)
        joined |= {sending, receiving}
    return Network(apps, frozenset(joined))


def halves(link: LinkSpec) -> tuple[LinkSpec, LinkSpec]:
    """Return what there is for a link between two workers: to its interlink and from.

    ">" is in no user's name, and a port has one link: the apps' names are unique.
    """
    transmitter = f"{link.from_app}.{link.from_port}>"
    receiver = f">{link.to_app}.{link.to_port}"
    return (
        LinkSpec(link.from_app, link.from_port, transmitter, "rx"),
        LinkSpec(receiver, "tx", link.to_app, link.to_port),
    )


def difference(running: Network, wanted: Network) -> Actions:
    """Return what makes `wanted` out of `running`."""
    start, restart, reconfigure = [], [], []
    for name, spec in wanted.apps.items():
        old = running.apps.get(name)
        if old is None:
            start.append(name)
        elif old == spec:
            continue
        elif old.cls is spec.cls and old.worker == spec.worker and _adapts(spec.cls):
            reconfigure.append(name)
        else:
            restart.append(name)
    moved = {n for n in restart if running.apps[n].worker != wanted.apps[n].worker}
    # A link lives with its worker: it does not move along.
    replaced = {
        link
        for link in wanted.links & running.links
        if link.from_app in moved or link.to_app in moved
    }
    return Actions(
        start=sorted(start),
        stop=sorted(running.apps.keys() - wanted.apps.keys()),
        restart=sorted(restart),
        reconfigure=sorted(reconfigure),
        link=sorted((wanted.links - running.links) | replaced),
        unlink=sorted((running.links - wanted.links) | replaced),
    )


def _adapts(cls: type[App]) -> bool:
    return cls.reconfigurable


def natural_key(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts tx2 before tx10."""
    return [
        (int(part), "") if part.isdigit() else (-1, part)
        for part in re.split(r"(\d+)", name)
        if part
    ]


def port_order(
    network: Network, app: str, side: str
) -> list[tuple[str, LinkSpec | None]]:
    """Return (port, link or None) of an app's inputs or outputs in C's order."""
    linked = network.links_at(app, side)
    ports = getattr(network.apps[app].cls, side)
    names = sorted(linked, key=natural_key) if ports.any_number else ports.names
    return [(name, linked.get(name)) for name in names]


def is_whole(network: Network, app: str) -> bool:
    """Return whether all ports of an app that must be linked are."""
    cls = network.apps[app].cls
    for side, ports in (("inputs", cls.inputs), ("outputs", cls.outputs)):
        order = port_order(network, app, side)
        is_missing = any(link is None for _, link in order)
        if not ports.optional and (is_missing or (ports.any_number and not order)):
            return False
    return True


@dataclass(frozen=True)
class Order:
    """The steps of a worker's breath, by app name."""

    pulls: list[str]
    pushes: list[str]
    ticks: list[str]


def breath_order(network: Network, worker: int) -> Order:
    """Return the order of a breath of one worker.

    Pulls by name, those of interlinks first; pushes in topological order, so that a
    packet goes all the way in one breath, ties by name. In a cycle some link is
    crossed against the order; what is on it waits for the next breath. An app that
    lacks a link, which is so only while others change workers, stands still.
    """
    names = [n for n in network.apps_of(worker) if is_whole(network, n)]
    following: dict[str, list[str]] = {name: [] for name in names}
    for name, others in following.items():
        for link in network.links_at(name, "outputs").values():
            if link.to_app in following:
                others.append(link.to_app)
    classes = {name: network.apps[name].cls for name in names}
    pulls = [n for n in names if classes[n].has("pull")]
    pulls.sort(key=lambda n: not classes[n].is_internal)
    finished: dict[str, None] = {}
    # From the apps where packets come in first: a cycle is cut where it is closed.
    for name in sorted(names, key=lambda n: (not classes[n].has("pull"), n)):
        _finish(name, following, finished)
    topological = list(reversed(finished))
    return Order(
        pulls=pulls,
        pushes=[n for n in topological if classes[n].has("push")],
        ticks=[n for n in names if classes[n].has("tick")],
    )


def _finish(
    start: str, following: Mapping[str, list[str]], finished: dict[str, None]
) -> None:
    """Depth-first search, without recursion: networks may be thousands of apps long."""
    if start in finished:
        return
    visiting = {start}
    stack = [(start, iter(sorted(following[start], reverse=True)))]
    while stack:
        name, rest = stack[-1]
        for other in rest:
            if other not in finished and other not in visiting:
                visiting.add(other)
                stack.append((other, iter(sorted(following[other], reverse=True))))
                break
        else:
            stack.pop()
            finished[name] = None
