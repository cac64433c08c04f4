"""ICMP errors: about what they are made, what they look like, how many may go out."""

import struct

from tests.lwaftr_model.neighbors import is_single_ipv4, is_single_ipv6
from tests.lwaftr_model.settings import Side
from tests.lwaftr_model.wire import (
    ERRORS,
    ICMP,
    IPV4,
    IPV6,
    OFFSET,
    checksum,
    header_length,
    icmpv6,
    u16,
    with_checksum,
)

#: Longest errors: RFC 1812 4.3.2.3, RFC 4443 2.4 (c).
LONGEST_IPV4, LONGEST_IPV6 = 576, 1280
BROADCAST = b"\xff" * 4


class Limiter:
    """So many in a period, which begins with the first that comes after the last."""

    def __init__(self, rate: tuple[int, int]) -> None:
        self.packets, self.period = rate
        self.start = float("-inf")
        self.n = 0

    def allows(self, now: float) -> bool:
        if now - self.start >= self.period:
            self.start, self.n = now, 0
        self.n += 1
        return self.n <= self.packets


def deserves_icmpv4(ip: bytes) -> bool:
    """Say whether an error about a packet may be made (RFC 1122 3.2.2)."""
    size = header_length(ip)
    is_error = ip[9] == ICMP and size < len(ip) and ip[size] in ERRORS
    destination = ip[16:20]
    return (
        not is_error
        and not u16(ip, 6) & OFFSET
        and is_single_ipv4(ip[12:16])
        and destination[0] & 0xF0 != 0xE0
        and destination != BROADCAST
    )


def deserves_icmpv6(ip6: bytes) -> bool:
    """Say whether an error about a tunnel packet may be made (RFC 4443 2.4 e)."""
    return is_single_ipv6(ip6[8:24]) and ip6[24] != 0xFF


def icmpv4_error(side: Side, about: bytes, kind: int, code: int, mtu: int) -> bytes:
    """Return an error to a packet's source, which quotes the packet."""
    quoted = about[: LONGEST_IPV4 - IPV4 - 8]
    rest = struct.pack(">HH", 0, mtu) + quoted
    head = bytes([kind, code])
    message = head + checksum(head + b"\0\0" + rest).to_bytes(2) + rest
    total = (IPV4 + len(message)).to_bytes(2)
    header = b"\x45\0" + total + b"\0\0\0\0\xff\x01\0\0" + side.ip + about[12:16]
    return with_checksum(header) + message


def icmpv6_error(source: bytes, about: bytes, kind: int, code: int) -> bytes:
    """Return an error to a packet's source, which quotes the packet."""
    quoted = about[: LONGEST_IPV6 - IPV6 - 8]
    addresses = source + about[8:24]
    message = bytes([kind, code, 0, 0, 0, 0, 0, 0]) + quoted
    return icmpv6(b"\x60\0\0\0", addresses, 255, message)
