"""Headers as bytes: checksums, fields, and which ports a packet names."""

import struct

ETHERNET, IPV4, IPV6 = 14, 20, 40
ICMP, TUNNEL, FRAGMENT, DESTINATION_OPTIONS, ICMPV6 = 1, 4, 44, 60, 58
DF, MF, OFFSET = 0x4000, 0x2000, 0x1FFF
ETHERTYPE_IPV4, ETHERTYPE_ARP = b"\x08\x00", b"\x08\x06"
ETHERTYPE_IPV6, ETHERTYPE_VLAN = b"\x86\xdd", b"\x81\x00"

#: ICMPv4 messages with an identifier (RFC 792, 950; RFC 5508 3), and errors
#: (RFC 1122 3.2.2), which quote a packet.
ECHO_REPLY, ECHO_REQUEST = 0, 8
QUERIES = frozenset((0, 8, 13, 14, 15, 16, 17, 18))
ERRORS = frozenset((3, 4, 5, 11, 12))


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071), of data padded to 16 bits.

    The one's complement sum is the number that all the bytes make, modulo 65535.
    """
    number = int.from_bytes(data + bytes(len(data) & 1))
    total = number % 0xFFFF
    return 0xFFFF - (total or (0xFFFF if number else 0))


def u16(data: bytes, at: int) -> int:
    return data[at] << 8 | data[at + 1]


def port_at(data: bytes, at: int) -> int:
    """Return 16 bits, or 0 if the packet is too short for them: it names no port."""
    return u16(data, at) if at + 2 <= len(data) else 0


def header_length(ip: bytes) -> int:
    return (ip[0] & 15) * 4


def ipv4_header(ip: bytes) -> bytes:
    return ip[: header_length(ip)]


def with_checksum(header: bytes) -> bytes:
    """Return an IPv4 header with its checksum computed."""
    zeroed = header[:10] + b"\0\0" + header[12:]
    return header[:10] + checksum(zeroed).to_bytes(2) + header[12:]


def is_fragment(ip: bytes) -> bool:
    return u16(ip, 6) & (MF | OFFSET) != 0


def is_sound_ipv4(ip: bytes) -> bool:
    """Say whether a header is good enough to act on (RFC 1812 5.2.2)."""
    if len(ip) < IPV4 or ip[0] >> 4 != 4:
        return False
    size, total = header_length(ip), u16(ip, 2)
    return IPV4 <= size <= total <= len(ip) and checksum(ip[:size]) == 0


def decremented(ip: bytes) -> bytes:
    """Return a packet with one less to live; the checksum as RFC 1624 (eqn. 3) says."""
    old, new = u16(ip, 8), u16(ip, 8) - 0x100
    total = (~u16(ip, 10) & 0xFFFF) + (~old & 0xFFFF) + new
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return ip[:8] + struct.pack(">HH", new, ~total & 0xFFFF) + ip[12:]


def pseudo_header(ip6: bytes, length: int, protocol: int) -> bytes:
    return ip6[8:40] + struct.pack(">II", length, protocol)


def icmpv6_checksum(source: bytes, destination: bytes, message: bytes) -> int:
    pseudo = source + destination + struct.pack(">II", len(message), ICMPV6)
    return checksum(pseudo + message)


def icmpv6(ip6_head: bytes, addresses: bytes, limit: int, message: bytes) -> bytes:
    """Return an IPv6 packet of a message whose checksum is computed.

    Args:
        ip6_head: version, traffic class and flow label.
        addresses: source and destination.
        limit: hop limit.
        message: from its type on; the checksum field counts as 0.
    """
    message = message[:2] + b"\0\0" + message[4:]
    computed = icmpv6_checksum(addresses[:16], addresses[16:], message)
    message = message[:2] + computed.to_bytes(2) + message[4:]
    return (
        ip6_head
        + struct.pack(">HBB", len(message), ICMPV6, limit)
        + addresses
        + message
    )


def port_of(ip: bytes, *, from_b4: bool, compat: bool, hairpinned: bool = False) -> int:
    """Return the port or identifier that says whose an IPv4 packet is.

    Args:
        ip: what there is of the packet.
        from_b4: the B4 is its source, else its destination.
        compat: as Snabb has it.
        hairpinned: it is from one B4 to another.
    """
    if ip[9] == ICMP:
        if compat:
            return snabb_icmp_port(ip, header_length(ip), from_b4)
        return icmp_port(ip, header_length(ip), from_b4, hairpinned)
    if not compat and u16(ip, 6) & OFFSET:
        return 0
    return port_at(ip, header_length(ip) + (0 if from_b4 else 2))


def icmp_port(ip: bytes, icmp: int, from_b4: bool, hairpinned: bool) -> int:
    """Return what an ICMPv4 message names (RFC 7596 8, RFC 5508 REQ-3..6).

    A B4 on a shared address does not answer the pings of others (Snabb's cases).
    """
    if icmp >= len(ip) or u16(ip, 6) & OFFSET:
        return 0
    if hairpinned and ip[icmp] == (ECHO_REPLY if from_b4 else ECHO_REQUEST):
        return 0
    if ip[icmp] in QUERIES:
        return port_at(ip, icmp + 4)
    if ip[icmp] in ERRORS:
        return quoted_port(ip[icmp + 8 :], from_b4)
    return 0


def quoted_port(ip: bytes, from_b4: bool) -> int:
    """Return the port, in a quoted packet, of the B4 at the error's other end.

    An error from a B4 quotes what came to it: its port is the destination's there.
    """
    size = header_length(ip) if ip else 0
    if len(ip) < IPV4 or ip[0] >> 4 != 4 or size < IPV4 or u16(ip, 6) & OFFSET:
        return 0
    if ip[9] == ICMP:
        is_query = size < len(ip) and ip[size] in QUERIES
        return port_at(ip, size + 4) if is_query else 0
    return port_at(ip, size + (2 if from_b4 else 0))


def snabb_icmp_port(ip: bytes, icmp: int, from_b4: bool) -> int:
    if icmp >= len(ip):
        return 0
    if ip[icmp] in (ECHO_REPLY, ECHO_REQUEST):
        is_ours = ip[icmp] == (ECHO_REQUEST if from_b4 else ECHO_REPLY)
        return port_at(ip, icmp + 4) if is_ours else 0
    quoted = ip[icmp + 8 :]
    return port_at(quoted, header_length(quoted)) if quoted else 0


def tunnelled_at(ip6: bytes, *, compat: bool = False) -> int:
    """Return where an IPv6 packet's IPv4 packet begins; 0: there is none."""
    if ip6[6] == TUNNEL:
        return IPV6
    if compat or ip6[6] != DESTINATION_OPTIONS or len(ip6) < IPV6 + 8:
        return 0
    at = IPV6 + (ip6[IPV6 + 1] + 1) * 8
    fits = ip6[IPV6] == TUNNEL and at <= len(ip6)
    return at if fits and may_be_skipped(ip6[IPV6 + 2 : at]) else 0


def may_be_skipped(options: bytes) -> bool:
    """Say whether options fill their header, and all may be skipped (RFC 8200 4.2)."""
    at = 0
    while at < len(options):
        if options[at] & 0xC0:
            return False
        if options[at] == 0:
            at += 1
        elif at + 1 < len(options):
            at += 2 + options[at + 1]
        else:
            return False
    return at == len(options)
