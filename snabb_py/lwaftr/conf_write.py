"""Configs as text.

Imports errors.
"""

import socket
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Final

from snabb_py._native import ffi, lib
from snabb_py.lwaftr.binding_table import BindingTable
from snabb_py.lwaftr.conf_types import (
    ExternalInterface,
    Instance,
    InternalInterface,
    LwaftrConfig,
    QueueInterface,
)
from snabb_py.lwaftr.conf_values import show_mac

#: struct softwire_entry: br, psid, ipv4, b4, at, psid_length, reserved.
_ENTRY: Final = struct.Struct("=HHI16s8xQBB6x")
_ESCAPES: Final = str.maketrans(
    {"\\": r"\\", '"': r"\"", "\n": r"\n", "\t": r"\t"},
)
_STATEMENT: Final = (
    "    softwire {{ ipv4 {}; psid {}; b4-ipv6 {}; br-address {}; "
    "port-set {{ psid-length {}; reserved-ports-bit-count {}; }} }}\n"
)

# -- snabb-softwire v3 ---------------------------------------------------------


def write(config: LwaftrConfig) -> str:
    """Return a config as text of snabb-softwire v3.

    What v3 has no words for is left out: addresses that are managed without softwires,
    parts of seconds.
    """
    lines = ["softwire-config {"]
    if config.name:
        lines.append(f"  name {_quote(config.name)};")
    for instance in config.instances:
        lines += _indent(_instance(instance))
    lines += _indent(_limits("external-interface", config.external))
    lines += _indent(_limits("internal-interface", config.internal))
    table = "".join(
        _STATEMENT.format(*entry) for entry in _entries(config.binding_table)
    )
    return "\n".join(lines) + "\n  binding-table {\n" + table + "  }\n}\n"


def _quote(text: str) -> str:
    return f'"{text.translate(_ESCAPES)}"'


def _indent(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _block(name: str, *lines: str) -> list[str]:
    return [f"{name} {{", *_indent(list(lines)), "}"]


def _instance(instance: Instance) -> list[str]:
    lines = [f"device {_quote(instance.device)};"]
    if instance.external_device is not None:
        lines.append(f"external-device {_quote(instance.external_device)};")
    for queue in instance.queues:
        sides = _side("external-interface", queue.external)
        sides += _side("internal-interface", queue.internal)
        lines += _block("queue", f"id {queue.id};", *sides)
    return _block("instance", *lines)


def _side(name: str, side: QueueInterface) -> list[str]:
    hop = f"ip {side.next_hop_ip};"
    if side.next_hop_mac:
        hop = f"mac {show_mac(side.next_hop_mac)};"
    lines = [f"ip {side.ip};", f"mac {show_mac(side.mac)};", f"next-hop {{ {hop} }}"]
    if side.vlan_tag is not None:
        lines.append(f"vlan-tag {side.vlan_tag};")
    return _block(name, *lines)


def _limits(name: str, side: ExternalInterface) -> list[str]:
    rate, room = side.error_rate_limiting, side.reassembly
    lines = [
        f"mtu {side.mtu};",
        f"mru {side.mru};",
        f"allow-incoming-icmp {_bool(side.allow_incoming_icmp)};",
        f"generate-icmp-errors {_bool(side.generate_icmp_errors)};",
        f"error-rate-limiting {{ packets {rate.packets}; period {rate.period:.0f}; }}",
        "reassembly {",
        f"  max-fragments-per-packet {room.max_fragments_per_packet};",
        f"  max-packets {room.max_packets};",
        "}",
    ]
    if side.ingress_filter:
        lines.append(f"ingress-filter {_quote(side.ingress_filter)};")
    if side.egress_filter:
        lines.append(f"egress-filter {_quote(side.egress_filter)};")
    if isinstance(side, InternalInterface):
        lines.append(f"flow-label {side.flow_label};")
        lines.append(f"hairpinning {_bool(side.hairpinning)};")
    return _block(name, *lines)


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _entries(table: BindingTable) -> Iterator[tuple[str, int, str, str, int, int]]:
    """Yield what is configured of each softwire, addresses as text."""
    entries = ffi.new("struct softwire_entry[]", len(table))
    lib.binding_table_entries(table.table, entries)
    t = table.table
    brs = [socket.inet_ntop(socket.AF_INET6, bytes(t.br[i])) for i in range(t.nbr)]
    for br, psid, ipv4, b4, _, *ports in _ENTRY.iter_unpack(ffi.buffer(entries)):
        b4_text = socket.inet_ntop(socket.AF_INET6, b4)
        yield show_ipv4(ipv4), psid, b4_text, brs[br], ports[0], ports[1]


def show_ipv4(ipv4: int) -> str:
    """Return an address as text; quicker than IPv4Address."""
    return f"{ipv4 >> 24}.{ipv4 >> 16 & 255}.{ipv4 >> 8 & 255}.{ipv4 & 255}"


# -- the old format ------------------------------------------------------------


def write_table(table: BindingTable) -> str:
    """Return a binding table in the old format, which knows no reserved ports.

    Addresses that are managed without softwires have no PSIDs.
    """
    entries = list(_entries(table))
    lengths = {entry[0]: entry[4] for entry in entries}
    brs: dict[str, int] = {}
    for entry in entries:
        brs.setdefault(entry[3], len(brs))
    lines = [f"  {ipv4} {{ psid_length={n} }}" for ipv4, n in lengths.items()]
    lines += [
        f"  {show_ipv4(first)}-{show_ipv4(last)} {{ psid_length=0 }}"
        for first, last in _without_softwires(table)
    ]
    softwires = [
        f"  {{ ipv4={ipv4}, psid={psid}, b4={b4}, aftr={brs[br]} }}"
        for ipv4, psid, b4, br, *_ in entries
    ]
    return "\n".join(
        [
            *("psid_map {", *lines, "}"),
            *("br_addresses {", *(f"  {br}" for br in brs), "}"),
            *("softwires {", *softwires, "}\n"),
        ]
    )


def _without_softwires(table: BindingTable) -> Iterator[tuple[int, int]]:
    """Yield the parts of the managed ranges between addresses with softwires."""
    addresses = sorted({int(softwire.ipv4) for softwire in table})
    for begin, end in table.managed:
        first, last = int(begin), int(end)
        inner = slice(bisect_left(addresses, first), bisect_right(addresses, last))
        for address in addresses[inner]:
            if first < address:
                yield first, address - 1
            first = address + 1
        if first <= last:
            yield first, last
