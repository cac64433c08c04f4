"""Configs in the old format: `lwaftr.conf`, which names a binding table.

Imports errors.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any, Final

from snabb_py._native import lib
from snabb_py.lwaftr.binding_table import BindingTable, new_list
from snabb_py.lwaftr.conf_types import (
    ErrorRateLimiting,
    ExternalInterface,
    Instance,
    InternalInterface,
    LwaftrConfig,
    Queue,
    QueueInterface,
    Reassembly,
)
from snabb_py.lwaftr.conf_values import (
    BOOL,
    IPV4,
    IPV6,
    MAC,
    MTU_IPV4,
    MTU_IPV6,
    STRING,
    VLAN,
    Value,
    choice,
    number,
)
from snabb_py.lwaftr.text import Text, Word

_COUNT: Final = number(0, "a number, 0 or more")
_POSITIVE: Final = number(5e-324, "a number above 0")
_LEAST_ONE: Final = number(1, "a number, 1 or more")
_POLICY: Final = Value(
    "ALLOW or DROP", lambda text: choice(ALLOW=True, DROP=False).convert(text.upper())
)

KEYS: Final[dict[str, Value]] = {
    "aftr_ipv4_ip": IPV4,
    "aftr_ipv6_ip": IPV6,
    "aftr_mac_inet_side": MAC,
    "aftr_mac_b4_side": MAC,
    "inet_mac": MAC,
    "next_hop_ipv4_addr": IPV4,
    "next_hop6_mac": MAC,
    "next_hop_ipv6_addr": IPV6,
    "binding_table": STRING,
    "hairpinning": BOOL,
    "ipv4_mtu": MTU_IPV4,
    "ipv6_mtu": MTU_IPV6,
    "icmpv4_rate_limiter_n_packets": _COUNT,
    "icmpv4_rate_limiter_n_seconds": _POSITIVE,
    "icmpv6_rate_limiter_n_packets": _COUNT,
    "icmpv6_rate_limiter_n_seconds": _POSITIVE,
    "policy_icmpv4_incoming": _POLICY,
    "policy_icmpv4_outgoing": _POLICY,
    "policy_icmpv6_incoming": _POLICY,
    "policy_icmpv6_outgoing": _POLICY,
    "vlan_tagging": BOOL,
    "v4_vlan_tag": VLAN,
    "v6_vlan_tag": VLAN,
    "max_fragments_per_reassembly_packet": _LEAST_ONE,
    "max_ipv4_reassembly_packets": _LEAST_ONE,
    "max_ipv6_reassembly_packets": _LEAST_ONE,
    "ipv4_ingress_filter": STRING,
    "ipv4_egress_filter": STRING,
    "ipv6_ingress_filter": STRING,
    "ipv6_egress_filter": STRING,
}
#: Where the old format differs from v3's defaults.
_FRAGMENTS: Final = 40
_ERRORS: Final = 6e5

Open = Callable[[str], Text]  #: a file by its name, relative to the config's directory


def parse_table(
    text: Text, *, own: Collection[IPv6Address], compat: bool
) -> BindingTable:
    """Return the binding table that a text of the old format holds.

    Args:
        text: of the table.
        own: addresses of our interfaces, where no B4 can be.
        compat: see conf.read.
    """
    entries = new_list()
    text.check(lib.softwires_read_properties(entries, text.text))
    return BindingTable.of(entries, text.fail_with, own=own, compat=compat)


def parse(
    text: Text, open_file: Open, *, table: Text | None, compat: bool
) -> LwaftrConfig:
    """Return the config that a text holds; see conf.read."""
    reader = Reader(text, open_file)
    reader.read()
    own = (reader.value("aftr_ipv6_ip"),)
    file = table or reader.open(reader.require("binding_table"))
    return reader.make_config(parse_table(file, own=own, compat=compat))


@dataclass
class Reader:
    """A config's properties, and where they stand."""

    text: Text
    open_file: Open
    values: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, Word] = field(default_factory=dict)

    def read(self) -> None:
        """Read all properties."""
        while key := self.text.next_key():
            if key.text not in KEYS:
                self.text.unknown_key(key, list(KEYS))
            if key.text in self.values:
                self.text.fail(key.at, f"{key.text} is there twice")
            what = KEYS[key.text]
            value = self.text.next_value(is_string=what is STRING)
            try:
                self.values[key.text] = what.convert(value.text)
            except ValueError:
                self.text.expected(what.expected, value)
            self.keys[key.text] = key

    def open(self, key: str) -> Text:
        """Return the file that a property names."""
        return self.open_file(self.values[key])

    def require(self, key: str) -> str:
        """Return a key that must be there."""
        if key not in self.values:
            self.text.fail(self.text.at, f"the file ends without {key}")
        return key

    def value(self, key: str) -> Any:
        """Return the value of a key that must be there."""
        return self.values[self.require(key)]

    def make_config(self, table: BindingTable) -> LwaftrConfig:
        """Return the config of the properties and a binding table."""
        external = self.make_side(
            "aftr_ipv4_ip", "aftr_mac_inet_side", "next_hop_ipv4_addr", "inet_mac", "v4"
        )
        internal = self.make_side(
            "aftr_ipv6_ip",
            "aftr_mac_b4_side",
            "next_hop_ipv6_addr",
            "next_hop6_mac",
            "v6",
        )
        return LwaftrConfig(
            binding_table=table,
            instances=(Instance("", None, (Queue(0, external, internal),)),),
            external=ExternalInterface(**self.limits("ipv4", 1460)),
            internal=InternalInterface(
                **self.limits("ipv6", 1500),
                hairpinning=self.values.get("hairpinning", True),
            ),
        )

    def make_side(
        self, ip: str, mac: str, hop_ip: str, hop_mac: str, side: str
    ) -> QueueInterface:
        """Return one side of the only queue."""
        if hop_ip in self.values and hop_mac in self.values:
            at = max(self.keys[hop_ip].at, self.keys[hop_mac].at)
            self.text.fail(at, f"both {hop_ip} and {hop_mac}: one of them is enough")
        if hop_ip not in self.values and hop_mac not in self.values:
            self.text.fail(self.text.at, f"the file ends without {hop_ip} or {hop_mac}")
        vlan = f"{side}_vlan_tag"
        return QueueInterface(
            ip=self.value(ip),
            mac=self.value(mac),
            next_hop_ip=self.values.get(hop_ip),
            next_hop_mac=self.values.get(hop_mac),
            vlan_tag=self.value(vlan) if self.values.get("vlan_tagging") else None,
        )

    def limits(self, ip: str, mtu: int) -> dict[str, Any]:
        """Return what holds for a side ("ipv4", "ipv6") apart from its addresses."""
        get = self.values.get
        icmp = ip.replace("ip", "icmp")
        return {
            "mtu": get(f"{ip}_mtu", mtu),
            "ingress_filter": self.filter(f"{ip}_ingress_filter"),
            "egress_filter": self.filter(f"{ip}_egress_filter"),
            "allow_incoming_icmp": get(f"policy_{icmp}_incoming", True),
            "generate_icmp_errors": get(f"policy_{icmp}_outgoing", True),
            "error_rate_limiting": ErrorRateLimiting(
                packets=math.ceil(get(f"{icmp}_rate_limiter_n_packets", _ERRORS)),
                period=get(f"{icmp}_rate_limiter_n_seconds", 2),
            ),
            "reassembly": Reassembly(
                int(get("max_fragments_per_reassembly_packet", _FRAGMENTS)),
                int(get(f"max_{ip}_reassembly_packets", 20000)),
            ),
        }

    def filter(self, key: str) -> str:
        """Return an expression; one that begins with "<" names a file that has it."""
        value: str = self.values.get(key, "")
        if not value.startswith("<"):
            return value
        return self.open_file(value[1:]).data.decode(errors="replace").strip()
