"""Bridge: a learning bridge with VLANs. The work is done in bridge.c.

Tags are put in and taken out where frames leave, so that no app for them is needed
beside it.
"""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from snabb_py._native import ffi, lib
from snabb_py.engine.app import App, Ports, check_range
from snabb_py.engine.memory import new_aligned
from snabb_py.errors import ConfigError

VLAN_MAX: Final = 4094
ALL_VLANS: Final = tuple(range(1, VLAN_MAX + 1))


@dataclass(frozen=True)
class BridgePort:
    """A port of a bridge.

    Attributes:
        vlan: VLAN of the frames without a tag; 0: that of all ports that have no
            other, None: frames without a tag are refused.
        trunk: VLANs whose frames come and go with their tag. Others are refused.
        macs: addresses that are here, and nowhere else in its VLANs.
        check_source: frames that come from another address than `macs` are refused.
        flood: it gets frames to addresses that nobody has been seen with.
        limit: addresses that it may have learned at a time.
        label: whose port it is: when that changes, what it had learned is forgotten.
    """

    vlan: int | None = 0
    trunk: tuple[int, ...] = ()
    macs: tuple[str, ...] = ()
    check_source: bool = False
    flood: bool = True
    limit: int = 1024
    label: str = field(default="")

    def __post_init__(self) -> None:
        """Check.

        Raises:
            ConfigError: something is out of range, or cannot go together.
        """
        if self.vlan is not None:
            check_range("vlan", self.vlan, 0, VLAN_MAX)
        if self.trunk:  # of up to all VLANs: its ends tell
            check_range("trunk", min(self.trunk), 1, VLAN_MAX)
            check_range("trunk", max(self.trunk), 1, VLAN_MAX)
        if self.vlan in self.trunk:
            raise ConfigError(f"vlan: {self.vlan} is in the trunk, too")
        if self.vlan is None and not self.trunk:
            raise ConfigError("vlan: a port without a VLAN gets nothing")
        check_range("limit", self.limit, 0, 2**20)

    @property
    def vlans(self) -> tuple[int, ...]:
        """All VLANs that it is in."""
        return self.trunk if self.vlan is None else (self.vlan, *self.trunk)

    def keys(self) -> Iterable[int]:
        """Yield its addresses in its VLANs, as the table has them."""
        for mac in self.macs:
            data = _parse_mac(mac) + bytes(2)
            for vlan in self.vlans:
                yield lib.bridge_key(data, vlan)


def _parse_mac(text: str) -> bytes:
    try:
        mac = bytes.fromhex(text.replace(":", "").replace("-", ""))
    except ValueError:
        mac = b""
    if len(mac) != 6 or mac[0] & 1:  # noqa: PLR2004 - bytes of an address
        raise ConfigError(f'macs: "{text}" is no address of a station')
    return mac


class Bridge(App):
    """A learning bridge: frames go where their address has been seen.

               +--------+
        p0 <-->| Bridge |<--> p1 ... p127
               +--------+

    A port is an input and an output of one name, p0 to p127; either may be left out.
    Frames to groups, to all and to addresses unknown go to all other ports of their
    VLAN. A full output loses its frames (the link's `txdrop`) and holds nobody up.

    Args:
        ports: what is to be said of ports, by name; others are those of a plain bridge.
        age_s: an address is forgotten when it has not been seen for so long.
        room: addresses in the table, of all ports; a power of two is used up.

    What was learned survives a change of `ports`, but for those that changed.

    Counters: `drop-runt`, `drop-vlan` (one that a port is not in, or a tag of another
    kind), `drop-source` (a group's address, or one that belongs to another port),
    `drop-reserved` (meant for a neighbour alone: spanning tree, pause, LLDP),
    `drop-same-port`, `drop-no-port` (nobody else is there), `drop-no-packet` (nothing
    free to copy into), `drop-no-headroom` (no room for a tag); `flooded`, `learned`,
    `moved`, `unlearned-port-full` (its `limit`), `unlearned-table-full`.
    """

    inputs = Ports(*(f"p{n}" for n in range(lib.BRIDGE_PORTS)), optional=True)
    outputs = inputs
    counters = (
        "drop-runt",
        "drop-vlan",
        "drop-source",
        "drop-reserved",
        "drop-same-port",
        "drop-no-port",
        "drop-no-packet",
        "drop-no-headroom",
        "flooded",
        "learned",
        "moved",
        "unlearned-port-full",
        "unlearned-table-full",
    )
    ops = ffi.addressof(lib.bridge_ops)
    reconfigurable = True

    def __init__(
        self,
        *,
        ports: Mapping[str, BridgePort] | None = None,
        age_s: int = 300,
        room: int = 16384,
    ) -> None:
        check_range("age_s", age_s, 1, 2**31)
        check_range("room", room, lib.BRIDGE_WAYS, 2**20)
        self.ports = dict(ports or {})
        self.room = room
        for name in self.ports.keys() - set(self.inputs.names):
            raise ConfigError(
                f'ports: there is no "{name}", but p0 to p{lib.BRIDGE_PORTS - 1}'
            )
        self.addresses = self._make_addresses()
        self.config: Any = ffi.new(
            "struct bridge_config *",
            {
                "addresses": self.addresses,
                "naddresses": len(self.addresses),
                "age_s": age_s,
                "serial": 1,
            },
        )
        rows = self.config.ports
        self._fill(rows[0], BridgePort())
        for n in range(1, lib.BRIDGE_PORTS):
            rows[n] = rows[0]
        for name, port in self.ports.items():
            self._fill(rows[self.inputs.names.index(name)], port)
        nbuckets = 1 << (room - 1).bit_length() - 2
        self.entries: Any = new_aligned(
            "struct bridge_entry[]", nbuckets * lib.BRIDGE_WAYS
        )
        self.state: Any = ffi.new(
            "struct bridge_state *",
            {
                "entries": self.entries,
                "mask": nbuckets - 1,
                "seed": secrets.randbits(64),
            },
        )

    def _make_addresses(self) -> Any:
        """Return what ports own, as C reads it.

        Raises:
            ConfigError: two own one address in one VLAN, or there are too many.
        """
        owners: dict[int, str] = {}
        for name, port in self.ports.items():
            for key in port.keys():  # noqa: SIM118 - a BridgePort is no dict
                other = owners.setdefault(key, name)
                if other != name:
                    raise ConfigError(f"ports: {other} and {name} own the same address")
        if len(owners) * 4 > self.room:
            raise ConfigError(
                f"room: {self.room} is too little for {len(owners)} addresses that "
                "ports own in their VLANs; four times as many must fit"
            )
        return ffi.new(
            "struct bridge_address[]",
            [{"key": k, "port": self.inputs.names.index(n)} for k, n in owners.items()],
        )

    @staticmethod
    def _fill(row: Any, port: BridgePort) -> None:
        for vlan in port.trunk:
            row.tagged[vlan // 64] |= 1 << vlan % 64
        row.native = lib.BRIDGE_NO_VLAN if port.vlan is None else port.vlan
        row.flood = port.flood
        row.check_source = port.check_source
        row.limit = port.limit

    def adopt(self, old: App) -> None:
        """Go on with the table of the running app, but for ports that are others."""
        if not isinstance(old, Bridge) or old.room != self.room:
            return
        self.state, self.entries = old.state, old.entries
        self.config.serial = old.config.serial + 1
        default = BridgePort()
        for name, row in zip(self.inputs.names, self.config.ports, strict=True):
            before = old.ports.get(name, default)
            row.forget = self.ports.get(name, default) != before
