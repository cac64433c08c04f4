"""A running `snabb-py nfv traffic`: its config is watched and followed.

A change that makes sense is committed into the running network: ports that it does not
concern notice nothing. One that makes none is refused, and all runs on.
"""

import contextlib
import grp
import os
import re
import threading
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snabb_py.cli.nfv_network import Network, Trunk, build, transition
from snabb_py.cli.nfv_report import NfvMeter
from snabb_py.cli.watch import Watch, signatures_of
from snabb_py.engine.config import Config
from snabb_py.engine.config_file import Signature
from snabb_py.engine.engine import Engine
from snabb_py.errors import ConfigError, SnabbError
from snabb_py.virtio.nfv_config import NfvConfig, read

#: 2^32-1 is no group: chown(2) takes it for "as it is".
GID_MAX = 2**32 - 2


@dataclass(frozen=True)
class Sockets:
    """Where the ports' sockets are, and who makes them.

    Attributes:
        template: a path with "%s" for the port's id.
        is_server: we make them, where a port does not say.
        group: number of the group that may connect; None: that of the process.
    """

    template: str
    is_server: bool = True
    group: int | None = None

    def paths(self, config: NfvConfig) -> dict[str, str]:
        """Return each port's path.

        Raises:
            ConfigError: two would have the same, or one is too long; a line would not
                show it.
        """
        if any(unicodedata.category(c) in {"Cc", "Zl", "Zp"} for c in self.template):
            raise ConfigError(f"SOCK: {self.template!r} has control characters")
        return config.socket_paths(str(Path(self.template).absolute()))


def group_number(name: str | None) -> int | None:
    """Return the number of a group, which may be its name.

    Raises:
        ConfigError: there is no such group.
    """
    if name is None:
        return None
    with contextlib.suppress(KeyError, ValueError):  # ValueError: a NUL in it
        return grp.getgrnam(name).gr_gid
    if re.fullmatch(r"\d{1,10}", name, re.ASCII) and int(name) <= GID_MAX:
        return int(name)
    raise ConfigError(f'--group: "{name}" is no group')


def describe(old: NfvConfig, new: NfvConfig) -> str:
    """Return what has changed, in words."""
    before = {port.port_id: port for port in old.ports}
    after = {port.port_id: port for port in new.ports}
    both = before.keys() & after.keys()
    parts = [
        f"{what} {', '.join(sorted(ids))}"
        for what, ids in (
            ("added", after.keys() - before.keys()),
            ("removed", before.keys() - after.keys()),
            ("changed", {i for i in both if before[i] != after[i]}),
        )
        if ids
    ]
    return "; ".join(parts) or "nothing has changed"


class Traffic:
    """The network of a config file.

    Args:
        engine: runs it.
        trunk: what the ports are joined to.
        path: of the file.
        sockets: of the ports.
        meter: counts.
        log: takes a line for the user.
    """

    def __init__(  # noqa: PLR0913 - what a run consists of
        self,
        engine: Engine,
        trunk: Trunk,
        path: Path,
        sockets: Sockets,
        *,
        meter: NfvMeter,
        log: Callable[[str], None],
    ) -> None:
        self.engine = engine
        self.trunk = trunk
        self.path = path
        self.sockets = sockets
        self.meter = meter
        self.log = log
        self.config = NfvConfig()
        self.network = Network(Config(), {}, "")
        self.watch = Watch()
        self._lock = threading.RLock()

    def start(self, config: NfvConfig, signature: Signature) -> None:
        """Begin with a config, and watch its file from now on.

        Args:
            config: has been read from it.
            signature: of the file, before it was read.

        Raises:
            SnabbError: it cannot be.
        """
        self.watch.seen = {self.path: signature}
        self.apply(config)
        self.watch.start(self.engine.timers, self._follow)
        self.engine.verbs["reload"] = (
            "read the config again, now: what has changed, or why it cannot be",
            lambda _engine, _request: self.reload(),
        )

    def apply(self, config: NfvConfig) -> None:
        """Make the network that of a config.

        Raises:
            SnabbError: it cannot be; the network is then as it was.
        """
        with self._lock:
            network = build(
                self.trunk,
                config,
                self.sockets.paths(config),
                is_server=self.sockets.is_server,
                group=self.sockets.group,
                before=self.network.chains,
                # It is started when there is something to write.
                writer=self.engine.nworkers,
            )
            self.meter.change(lambda: self._commit(network), network.chains)
            if network.mode != self.network.mode and network.mode == "switch":
                self.log(f"a bridge joins the ports and {self.trunk.word}")
            self.network, self.config = network, config

    def _commit(self, network: Network) -> None:
        """Commit a network, or go back to the one that there was.

        Raises:
            SnabbError: it cannot be.
        """
        between = transition(self.network, network)
        if between is None:
            self.engine.commit(network.config)
            return
        self.engine.commit(between)
        try:
            self.engine.commit(network.config)
        except SnabbError:
            try:
                self.engine.commit(self.network.config)
            except SnabbError as error:
                # Somebody has taken what we had: the next config begins anew.
                self.network, self.config = Network(between, {}, ""), NfvConfig()
                self.meter.forget()
                self.log(f"cannot go back to what there was: {error}")
            raise

    def reload(self) -> str:
        """Read the file again and follow it; return what has changed.

        Raises:
            SnabbError: it makes no sense, or cannot be; nothing has changed.
        """
        with self._lock:
            self.watch.seen = signatures_of([self.path])
            config = read(self.path, self.log)
            text = describe(self.config, config)
            if config != self.config:
                self.apply(config)
            return text

    def _follow(self) -> None:
        try:
            self.log(f"{self.path}: {self.reload()}")
        except SnabbError as error:
            where = (
                "" if str(error).startswith(os.fspath(self.path)) else f"{self.path}: "
            )
            self.log(f"{where}{error}; all runs on as it was")


class Benchmark:
    """The time that the virtual machines' first N packets take.

    Args:
        npackets: from all of them, after the first that was seen.
    """

    def __init__(
        self, traffic: Traffic, npackets: int, clock: Callable[[], float]
    ) -> None:
        self.traffic = traffic
        self.npackets = npackets
        self.clock = clock
        self.start: tuple[float, int, int, int] | None = None
        self.end = (0.0, 0, 0, 0)

    def _read(self) -> tuple[float, int, int, int]:
        totals = self.traffic.meter.totals().values()
        packets, nbytes = (
            sum(counts["from", unit] for counts in totals)
            for unit in ("packets", "bytes")
        )
        workers = self.traffic.engine.workers[: self.traffic.trunk.nworkers]
        breaths = sum(worker.row["breaths"] for worker in workers)
        return self.clock(), packets, nbytes, breaths

    def is_done(self) -> bool:
        """Look; return whether all have been seen."""
        self.end = now = self._read()
        if self.start is None and now[1]:
            self.start = now
        return self.start is not None and now[1] - self.start[1] >= self.npackets

    def result(self) -> dict[str, Any]:
        """Return what has been measured."""
        seconds, packets, nbytes, breaths = (
            b - a for a, b in zip(self.start or self.end, self.end, strict=True)
        )
        return {
            "packets": packets,
            "bytes": nbytes,
            "seconds": round(seconds, 6),
            "mpps": round(packets / max(seconds, 1e-9) / 1e6, 6),
            "gbps": round(nbytes * 8 / max(seconds, 1e-9) / 1e9, 6),
            "breaths": breaths,
            "packets_per_breath": round(packets / max(breaths, 1), 3),
            "us_per_breath": round(
                seconds * 1e6 * self.traffic.trunk.nworkers / max(breaths, 1), 3
            ),
        }
