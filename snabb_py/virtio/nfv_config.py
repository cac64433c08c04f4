"""The config of `snabb-py nfv traffic`: which virtual machines are on the card.

Each port is one virtual machine. Keys and values are in nfv_keys.py, the formats in
nfv_formats.py. What is wrong is said with file, line and key. Equal configs are equal.
Imports apps, engine and errors.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from snabb_py.engine.config_file import read_config_file
from snabb_py.errors import ConfigError
from snabb_py.virtio import nfv_formats
from snabb_py.virtio.lua_table import Node
from snabb_py.virtio.nfv_keys import KEYS, find_key, show

SOCKET_PATH_MAX: Final = 107  #: bytes; struct sockaddr_un has 108 with the zero
#: Bytes of a file: as many as all ports there may be need, filters and all.
FILE_MAX: Final = 4 << 20

Warn = Callable[[str], None]


@dataclass(frozen=True)
class PortConfig:
    """One virtual machine's port; "to" and "from" are seen from it.

    Attributes:
        port_id: its name; the socket is that of the program with this put in.
        macs: its addresses, the first is its own; none: the only port, which gets all.
        vlan: its frames carry this tag on the wire and none here; None: untagged.
        trunk: VLANs that it gets and sends with their tags.
        ingress_filter, egress_filter: expression of pcap-filter(7) for what goes to it,
            comes from it; "": everything.
        stateful_filter: what one filter passes lets replies pass the other.
        rx_police, tx_police: Gb/s to it, from it, at most; None: no limit.
        rx_police_burst, tx_police_burst: bytes that may pass at once after a pause;
            None: 250 ms of the limit.
        disable_mrg_rxbuf, disable_indirect_desc: features it is not offered.
        server: we make the socket and the virtual machine connects; False: it makes the
            socket, None: as the program was told for all.
        mtu: that it is told, bytes; None: it is told none.
        queues: pairs that it may use.
        mirror: a capture file of all that goes to it and comes from it; None: none.
    """

    port_id: str
    macs: tuple[str, ...] = ()
    vlan: int | None = None
    trunk: tuple[int, ...] = ()
    ingress_filter: str = ""
    egress_filter: str = ""
    stateful_filter: bool = False
    rx_police: float | None = None
    tx_police: float | None = None
    rx_police_burst: int | None = None
    tx_police_burst: int | None = None
    disable_mrg_rxbuf: bool = False
    disable_indirect_desc: bool = False
    server: bool | None = None
    mtu: int | None = None
    queues: int = 1
    mirror: str | None = None

    @property
    def app_name(self) -> str:
        """The id as a part of apps' names, as Snabb has it: "-" becomes "_"."""
        return mangle(self.port_id)

    @property
    def stations(self) -> tuple[str, ...]:
        """Its addresses without those of groups, which it cannot have."""
        return tuple(mac for mac in self.macs if not int(mac[:2], 16) & 1)

    @property
    def vlans(self) -> tuple[int | None, ...]:
        """All VLANs that it is in; None is untagged."""
        return self.trunk or (self.vlan,)


@dataclass(frozen=True)
class NfvConfig:
    """All ports, in the order of the file."""

    ports: tuple[PortConfig, ...] = ()

    def socket_paths(self, template: str) -> dict[str, str]:
        """Return each port's socket, by its id.

        Args:
            template: a path in which "%s" stands for the port's id.

        Raises:
            ConfigError: two ports would have the same, or a path is too long.
        """
        if "%s" not in template and len(self.ports) > 1:
            raise ConfigError(
                f"socket path {template}: needs %s for the port's id, there are "
                f"{len(self.ports)} ports"
            )
        paths = {p.port_id: template.replace("%s", p.port_id) for p in self.ports}
        for port_id, path in paths.items():
            if (n := len(os.fsencode(path))) > SOCKET_PATH_MAX:
                raise ConfigError(
                    f'port "{port_id}": socket path {path} has {n} bytes, '
                    f"{SOCKET_PATH_MAX} at most; use a directory with a shorter name"
                )
        return paths


def mangle(port_id: str) -> str:
    """Return an id with nothing in it that an app's name may not have."""
    return re.sub(r"[^A-Za-z0-9_]", "_", port_id)


# -- reading -------------------------------------------------------------------


@dataclass(frozen=True)
class _Located:
    """A port and where it stands."""

    port: PortConfig
    file: str
    line: int
    lines: dict[str, int]  #: of fields

    def error(self, field: str, what: str) -> ConfigError:
        line = self.lines.get(field, self.line)
        key = next(name for name, key in KEYS.items() if key.field == field)
        return ConfigError(
            f'{self.file}:{line}: port "{self.port.port_id}": {key}: {what}'
        )


def read(path: str | Path, warn: Warn) -> NfvConfig:
    """Return the config in a file.

    Args:
        path: of a file in any of the formats.
        warn: takes a line for what is odd and can be lived with.

    Raises:
        DeviceError: the file cannot be read.
        ConfigError: something in it is wrong.
    """
    content = read_config_file(Path(path), FILE_MAX)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: is no UTF-8 text") from None
    return parse(text, str(path), warn)


def parse(text: str, file: str, warn: Warn) -> NfvConfig:
    """Return the config that a text holds; see `read`.

    Args:
        text: in any of the formats.
        file: its name, for errors; its suffix may tell the format.
        warn: takes a line for what is odd and can be lived with.

    Raises:
        ConfigError: something in it is wrong.
    """
    root = nfv_formats.parse(text, file)
    nodes = root.value if isinstance(root.value, list) else []
    ports = [_read_port(node, file, warn) for node in nodes]
    _check_together(ports)
    return NfvConfig(tuple(located.port for located in ports))


def _plain(value: object) -> object:
    """Return a value without its lines."""
    if isinstance(value, list):
        return [_plain(node.value) for node in value]
    return value


def _read_port(node: Node, file: str, warn: Warn) -> _Located:
    fields = node.value
    if not isinstance(fields, dict):
        if fields != []:
            raise ConfigError(
                f"{file}:{node.line}: expected a table of a port's keys, "
                f"not {show(fields)}"
            )
        fields = {}
    identity = fields.get("port_id", Node(None, node.line)).value
    label = f'port "{identity}": ' if isinstance(identity, str) else ""
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for name, item in fields.items():
        where = f"{file}:{item.line}: {label}{name}: "
        try:
            key, odd = find_key(name)
            if item.value is None:
                continue
            if odd:
                warn(f"{where}{odd}")
            if key is None:
                continue
            value = key.convert(_plain(item.value))
        except ConfigError as error:
            raise ConfigError(f"{where}{error}") from None
        if key.field in values:
            raise ConfigError(f"{where}is set twice, as {key.field} and as this")
        values[key.field] = value
        lines[key.field] = item.line
    if "port_id" not in values:
        raise ConfigError(f"{file}:{node.line}: a port without port_id")
    located = _Located(PortConfig(**values), file, node.line, lines)
    _check_port(located, warn)
    return located


def _check_port(located: _Located, warn: Warn) -> None:
    """Check what the keys of one port say together."""
    port = located.port
    if port.vlan is not None and port.trunk:
        raise located.error("trunk", "vlan or trunk, not both")
    for way in ("rx_police", "tx_police"):
        if getattr(port, f"{way}_burst") is not None and getattr(port, way) is None:
            raise located.error(f"{way}_burst", f"says nothing without {way}")
    for mac in port.macs:
        if mac not in port.stations:
            warn(
                f"{located.error('macs', mac)} is a group's address, which no virtual "
                "machine can have: nothing comes to it or from it"
            )


def _check_together(ports: list[_Located]) -> None:
    """Check what the ports say together.

    Raises:
        ConfigError: two cannot be told apart.
    """
    _check_unique(ports, "port_id", lambda p: [p.port_id], "is the id")
    _check_unique(
        ports, "port_id", lambda p: [p.app_name], "(as apps' names have it) is the id"
    )
    _check_unique(ports, "mirror", lambda p: [p.mirror] if p.mirror else [], "is that")
    for located in ports:
        port = located.port
        if port.macs:
            continue
        if len(ports) > 1:
            raise located.error("macs", "must be there when there are several ports")
        if port.vlans != (None,):
            field = "trunk" if port.trunk else "vlan"
            raise located.error(field, "needs mac_address beside it")
    _check_addresses(ports)


def _check_addresses(ports: list[_Located]) -> None:
    """Check that none has an address of another's in the same VLAN."""
    seen: dict[str, list[_Located]] = {}
    for located in ports:
        for mac in located.port.macs:
            for other in seen.get(mac, []):
                common = set(other.port.vlans).intersection(located.port.vlans)
                if common:
                    vlan = min(common, key=lambda vlan: vlan or 0)
                    name = f"{mac} in VLAN {vlan}" if vlan else mac
                    raise _taken(located, "macs", f"{name} is an address", other)
            seen.setdefault(mac, []).append(located)


def _check_unique(
    ports: list[_Located],
    field: str,
    names: Callable[[PortConfig], Iterable[str]],
    what: str,
) -> None:
    seen: dict[str, _Located] = {}
    for located in ports:
        for name in names(located.port):
            if other := seen.get(name):
                raise _taken(located, field, f"{name} {what}", other)
            seen[name] = located


def _taken(located: _Located, field: str, what: str, other: _Located) -> ConfigError:
    line = other.lines.get(field, other.line)
    return located.error(
        field, f'{what} of port "{other.port.port_id}", too (line {line})'
    )


# -- writing -------------------------------------------------------------------


def write(config: NfvConfig, form: str) -> str:
    """Return a config as a file of a format ("lua", "toml", "json")."""
    return nfv_formats.write([_values(port) for port in config.ports], form)


def _values(port: PortConfig) -> dict[str, Any]:
    """Return the keys that say what is not so by default."""
    defaults = {f.name: f.default for f in dataclasses.fields(PortConfig)}
    result: dict[str, Any] = {}
    for name, key in KEYS.items():
        value = getattr(port, key.field)
        if key.replacement or value == defaults[key.field]:
            continue
        if key.field == "macs" and len(value) == 1:
            [value] = value
        result[name] = _ranges(value) if key.field == "trunk" else value
    return result


def _ranges(vlans: tuple[int, ...]) -> list[int | str]:
    """Return VLANs with those in a row as "first-last"."""
    result: list[int | str] = []
    begin = 0
    for end in range(1, len(vlans) + 1):
        if end < len(vlans) and vlans[end] == vlans[end - 1] + 1:
            continue
        first, last = vlans[begin], vlans[end - 1]
        result.append(first if first == last else f"{first}-{last}")
        begin = end
    return result
