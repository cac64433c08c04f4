"""ARP (RFC 826), neighbour discovery (RFC 4861), and answers to pings.

A `Resolver` knows a side's next hop or asks for it; the functions take a frame and
return the reply.
"""

import struct
from collections import Counter

from tests.lwaftr_model.settings import Side
from tests.lwaftr_model.wire import (
    ETHERNET,
    ETHERTYPE_ARP,
    ETHERTYPE_IPV6,
    ICMP,
    ICMPV6,
    IPV6,
    checksum,
    header_length,
    icmpv6,
    icmpv6_checksum,
    pseudo_header,
    u16,
    with_checksum,
)

#: Seconds between requests.
INTERVAL = 3.0
ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
LOOPBACK = bytes(15) + b"\1"
SOLICITED_NODE = bytes.fromhex("ff0200000000000000000001ff")


def solicited_node(address: bytes) -> bytes:
    return SOLICITED_NODE + address[13:]


class Resolver:
    """The next hop's MAC address, and frames that wait for it."""

    def __init__(self, side: Side, counters: Counter[str], *, compat: bool) -> None:
        self.side = side
        self.compat = compat
        self.counters = counters
        self.mac = side.next_hop_mac
        self.asked = -INTERVAL
        self.waiting: list[bytes] = []

    def is_due(self, now: float) -> bool:
        """Say whether to ask (again)."""
        due = self.mac is None and now >= self.asked + INTERVAL
        if due:
            self.asked = now
        return due

    def learn(self, mac: bytes | None, *, override: bool = True) -> None:
        """Take a MAC address for the next hop's, unless it cannot be anyone's."""
        possible = mac is not None and len(mac) == 6 and not mac[0] & 1 and any(mac)
        if (possible or self.compat) and (override or self.mac is None):
            self.mac = mac

    def count(self, name: str, frame: bytes) -> None:
        self.counters[f"{name}-packets"] += 1
        self.counters[f"{name}-bytes"] += len(frame)


class Arp(Resolver):
    """The IPv4 side's."""

    def request(self) -> bytes:
        target = self.side.next_hop or bytes(4)
        frame = self.frame(b"\xff" * 6, 1, bytes(6) + target)
        self.count("out-arp-request", frame)
        return frame

    def frame(self, to: bytes, operation: int, target: bytes) -> bytes:
        head = struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation)
        own = self.side.mac + self.side.ip
        return to + self.side.mac + ETHERTYPE_ARP + head + own + target

    def take(self, frame: bytes) -> bytes | None:
        """Return the reply to a request for our address."""
        packet = frame[ETHERNET : ETHERNET + 28]
        if packet[:6] != bytes.fromhex("000108000604"):
            return None
        operation, sender, target = u16(packet, 6), packet[8:18], packet[18:28]
        is_next_hop = sender[6:] == self.side.next_hop
        if is_next_hop and (operation == 2 or (operation == 1 and not self.compat)):
            self.learn(sender[:6])
        if operation == 1:
            self.count("in-arp-request", frame)
            if target[6:] == self.side.ip:
                reply = self.frame(sender[:6], 2, sender)
                self.count("out-arp-reply", reply)
                return reply
        if operation == 2:
            self.count("in-arp-reply", frame)
        return None


class Ndp(Resolver):
    """The IPv6 side's."""

    def request(self) -> bytes:
        target = self.side.next_hop or bytes(16)
        group = solicited_node(target)
        message = bytes([135, 0, 0, 0, 0, 0, 0, 0]) + target + b"\1\1" + self.side.mac
        frame = self.frame(b"\x33\x33" + group[12:], group, message)
        self.count("out-ndp-ns", frame)
        return frame

    def frame(self, to: bytes, destination: bytes, message: bytes) -> bytes:
        packet = icmpv6(b"\x60\0\0\0", self.side.ip + destination, 255, message)
        return to + self.side.mac + ETHERTYPE_IPV6 + packet

    def take(self, frame: bytes) -> bytes | None:
        """Return the advertisement that answers a solicitation for our address."""
        ip6 = frame[ETHERNET:]
        message = ip6[IPV6 : IPV6 + u16(ip6, 4)]
        sound = (
            len(message) >= 24
            and ip6[7] == 255
            and message[1] == 0
            and checksum(pseudo_header(ip6, len(message), ICMPV6) + message) == 0
        )
        if not sound or message[0] not in (135, 136):
            return None
        if message[0] == 135:
            self.count("in-ndp-ns", frame)
            return self.advertisement(frame, message)
        self.count("in-ndp-na", frame)
        self.advertised(frame, message)
        return None

    def advertisement(self, frame: bytes, message: bytes) -> bytes | None:
        source, destination = frame[ETHERNET + 8 :][:16], frame[ETHERNET + 24 :][:16]
        found = options(message[24:])
        if message[8:24] != self.side.ip or found is None:
            return None
        to, flags = frame[6:12], 0xC0
        is_probe = source == bytes(16)
        if is_probe:
            aimed = destination[:13] == SOLICITED_NODE
            if aimed if self.compat else not aimed or 1 in found:
                return None
            if not self.compat:
                to, flags = b"\x33\x33" + ALL_NODES[12:], 0xA0
            source = ALL_NODES
        elif source == self.side.next_hop and not self.compat:
            self.learn(found.get(1))
        head = bytes([136, 0, 0, 0, flags, 0, 0, 0])
        reply = self.frame(to, source, head + self.side.ip + b"\2\1" + self.side.mac)
        self.count("out-ndp-na", reply)
        return reply

    def advertised(self, frame: bytes, message: bytes) -> None:
        """Learn from an advertisement (RFC 4861 7.2.5); Snabb from the first alone."""
        found = options(message[24:])
        if found is None or message[8:24] != self.side.next_hop:
            return
        solicited = bool(message[4] & 0x40)
        if not self.compat:
            to_all = frame[ETHERNET + 24] == 0xFF
            if not (solicited and to_all):  # RFC 4861 7.1.2
                self.learn(found.get(2), override=bool(message[4] & 0x20))
        elif solicited:
            self.learn(found.get(2, frame[6:12]), override=False)


def options(data: bytes) -> dict[int, bytes] | None:
    """Return neighbour discovery's options; None if they do not fit."""
    found: dict[int, bytes] = {}
    while data:
        size = data[1] * 8 if len(data) > 1 else 0
        if size == 0 or size > len(data):
            return None
        found.setdefault(data[0], data[2:size])
        data = data[size:]
    return found


def is_single_ipv4(address: bytes) -> bool:
    """Say whether an address is one host's (RFC 1122 3.2.2)."""
    return address[0] not in (0, 127) and address[0] < 224


def is_single_ipv6(address: bytes) -> bool:
    return address[0] != 0xFF and address != bytes(16)


def echo_ipv4(frame: bytes, side: Side, *, compat: bool) -> bytes | None:
    """Return the reply to a ping of our IPv4 address."""
    ip = frame[ETHERNET:]
    size = header_length(ip)
    if ip[9] != ICMP or ip[16:20] != side.ip or ip[size : size + 2] != b"\x08\0":
        return None
    message = ip[size:]
    if len(message) < 8 or ip[0] >> 4 != 4:
        return None
    single = is_single_ipv4(ip[12:16]) and ip[12:16] != side.ip and not frame[0] & 1
    if not compat and (checksum(message) or not single):
        return None
    cleared = (u16(ip, 6) & 0x1FFF).to_bytes(2)
    header = ip[:6] + cleared + b"\x40\x01\0\0" + ip[16:20] + ip[12:16] + ip[20:size]
    reply = bytes(4) + message[4:]
    reply = b"\0\0" + checksum(reply).to_bytes(2) + reply[4:]
    return frame[6:12] + frame[:6] + frame[12:14] + with_checksum(header) + reply


def echo_ipv6(frame: bytes, side: Side, *, compat: bool) -> bytes | None:
    """Return the reply to a ping of our IPv6 address."""
    ip6 = frame[ETHERNET:]
    source, destination = ip6[8:24], ip6[24:40]
    end = IPV6 + u16(ip6, 4)
    message = ip6[IPV6:end]
    wanted = ip6[6] == ICMPV6 and destination == side.ip and message[:2] == b"\x80\0"
    if not wanted or len(message) < 8 or ip6[0] >> 4 != 6:
        return None
    wrong = icmpv6_checksum(source, destination, message)
    single = is_single_ipv6(source) and source not in (side.ip, LOOPBACK)
    single = single and not frame[0] & 1
    if not compat and (wrong or not single):
        return None
    addresses = destination + source
    reply = icmpv6(ip6[:4], addresses, 64, b"\x81\0\0\0" + message[4:])
    return frame[6:12] + frame[:6] + frame[12:14] + reply + ip6[end:]
