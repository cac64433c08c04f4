"""Packets that softwires carry, made up from a table: for benchmarks and trials.

    frames = from_internet(table.sample(1000), ends, (64,))
    frames = from_b4s(table.sample(1000), ends, (64,))

Sizes are those of testers, as in apps/traffic.py: bytes of the frame on the IPv4 side,
FCS included. On the IPv6 side it is a tunnel's header longer.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import cycle
from typing import Final

from snabb_py._native import lib
from snabb_py.apps.traffic import FCS_SIZE
from snabb_py.lwaftr.binding_table import Softwire

#: Whom B4s talk to: TEST-NET-3 (RFC 5737), as a server of RFC 863 (discard).
_REMOTE: Final = IPv4Address("203.0.113.9")
_REMOTE_PORT: Final = 9
_ETHERNET, _IPV4 = 14, 20  # bytes of headers
_IPV4_TYPE, _IPV6_TYPE = b"\x08\x00", b"\x86\xdd"


@dataclass(frozen=True)
class Ends:
    """Both ends of a cable, as an Ethernet header has them, and the VLAN between."""

    to: bytes
    sender: bytes
    vlan: int | None = None

    def header(self, kind: bytes) -> bytes:
        """Return what is in front of a packet of this EtherType."""
        tag = b"" if self.vlan is None else b"\x81\x00" + self.vlan.to_bytes(2, "big")
        return self.to + self.sender + tag + kind


def port_of(softwire: Softwire) -> int:
    """Return the last port of its first range (RFC 7597, 5.1)."""
    reserved = softwire.reserved_ports_bit_count
    shift = 16 - reserved - softwire.psid_length
    first = 1 << (16 - reserved) if reserved else 0
    return first | softwire.psid << shift | (1 << shift) - 1


def from_internet(
    softwires: Sequence[Softwire], ends: Ends, sizes: Sequence[int]
) -> Iterator[bytes]:
    """Yield a packet for each softwire, of the sizes in turn."""
    header = ends.header(_IPV4_TYPE)
    for s, size in zip(softwires, cycle(sizes), strict=False):
        source, destination = (_REMOTE, _REMOTE_PORT), (s.ipv4, port_of(s))
        yield header + _datagram(source, destination, size)


def from_b4s(
    softwires: Sequence[Softwire], ends: Ends, sizes: Sequence[int]
) -> Iterator[bytes]:
    """Yield a packet of each softwire, in its tunnel, of the sizes in turn."""
    header = ends.header(_IPV6_TYPE)
    for s, size in zip(softwires, cycle(sizes), strict=False):
        source, destination = (s.ipv4, port_of(s)), (_REMOTE, _REMOTE_PORT)
        inner = _datagram(source, destination, size)
        tunnel = struct.pack(">IHBB", 6 << 28, len(inner), 4, 64)
        yield header + tunnel + s.b4.packed + s.br.packed + inner


def _datagram(
    source: tuple[IPv4Address, int], destination: tuple[IPv4Address, int], size: int
) -> bytes:
    """Return a UDP datagram of zeros, without a checksum; don't fragment."""
    total = size - FCS_SIZE - _ETHERNET
    addresses = source[0].packed + destination[0].packed
    ip = struct.pack(">BBHHHBBH", 0x45, 0, total, 0, 0x4000, 64, 17, 0) + addresses
    checksum = int(lib.checksum(ip, len(ip))).to_bytes(2, "little")
    udp = struct.pack(">4H", source[1], destination[1], total - _IPV4, 0)
    return ip[:10] + checksum + ip[12:] + udp.ljust(total - _IPV4, b"\0")
