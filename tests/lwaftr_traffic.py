"""Random traffic for a lwAFTR: tables, settings, and packets that mean something there.

Everything is drawn from `Choices`: a random generator for long runs, or hypothesis,
which then makes what fails small: the first of the options and the lowest number are
the plainest ones.
"""

import itertools
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tests.lwaftr_model.neighbors import ALL_NODES, solicited_node
from tests.lwaftr_model.settings import Settings, Side, Softwire
from tests.lwaftr_model.wire import (
    ERRORS,
    ETHERNET,
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    ETHERTYPE_VLAN,
    FRAGMENT,
    checksum,
    header_length,
    icmpv6,
    is_fragment,
    u16,
    with_checksum,
)

T = TypeVar("T")

MAC4, MAC6 = bytes.fromhex("020000000004"), bytes.fromhex("020000000006")
HOP4, HOP6 = bytes.fromhex("020000000104"), bytes.fromhex("020000000106")
IP4, IP6 = bytes([192, 0, 2, 1]), bytes.fromhex("20010db8" + "00" * 11 + "aa")
NEXT4, NEXT6 = bytes([192, 0, 2, 254]), bytes.fromhex("20010db8" + "00" * 11 + "fe")
BRS = (IP6, IP6[:15] + b"\xab", IP6[:15] + b"\xac")
REMOTES = (bytes([8, 8, 8, 8]), bytes([203, 0, 113, 9]))
#: Addresses that are no host's, and one that is ours.
ODD_IPV4 = (
    bytes(4),
    bytes([127, 0, 0, 1]),
    bytes([224, 0, 0, 5]),
    bytes([240, 1, 2, 3]),
    b"\xff" * 4,
    IP4,
)
TCP, UDP, SCTP, GRE, ESP = 6, 17, 132, 47, 50
PATTERN = bytes(i * 7 & 0xFF for i in range(256)) * 48

#: A frame, and the side that it comes in on.
Arrival = tuple[int, bytes]


class Choices(Protocol):
    """Where all that is random comes from."""

    def pick(self, options: Sequence[T]) -> T: ...
    def number(self, low: int, high: int) -> int: ...


class RandomChoices:
    """From a seed: as fast as it gets."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - not for secrets

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.random.random() * len(options))]

    def number(self, low: int, high: int) -> int:
        return low + int(self.random.random() * (high - low + 1))


# ---- settings ----


def scenario(choices: Choices) -> Settings:
    """Return settings; the table's addresses are shared in different ways."""
    pick = choices.pick
    dynamic = choices.number(0, 9) == 9
    external = Side(
        ip=IP4,
        mac=MAC4,
        mtu=pick((1500, 1460, 576, 256, 128)),
        next_hop_mac=None if dynamic else HOP4,
        next_hop=NEXT4 if dynamic else None,
        vlan=pick((None, None, 100)),
        allow_icmp=pick((True, True, True, False)),
        generate_errors=pick((True, True, True, False)),
        rate=pick(((1000000, 2), (1000000, 2), (3, 2))),
        max_fragments=pick((20, 40, 2)),
    )
    internal = Side(
        ip=IP6,
        mac=MAC6,
        mtu=pick((1500, 1280, 1540, 9000)),
        next_hop_mac=None if dynamic else HOP6,
        next_hop=NEXT6 if dynamic else None,
        vlan=pick((None, None, 200)),
        allow_icmp=pick((True, True, True, False)),
        generate_errors=pick((True, True, True, False)),
        rate=pick(((1000000, 2), (1000000, 2), (3, 2))),
        max_fragments=pick((20, 40, 2)),
    )
    return Settings(
        external,
        internal,
        tuple(softwires(choices)),
        flow_label=pick((0, 0xFFFFF, 0x12345)),
        hairpinning=pick((True, True, True, False)),
    )


def softwires(choices: Choices) -> Iterator[Softwire]:
    """Yield the softwires of a few addresses."""
    for host in range(1, choices.number(2, 5) + 1):
        length = choices.pick((0, 6, 8, 1, 4, 15, 16))
        offset = min(choices.pick((0, 0, 6, 1, 4)), 16 - length)
        highest = (1 << length) - 1
        psids = {0, highest, *(choices.number(0, highest) for _ in range(4))}
        for psid in sorted(psids)[: choices.number(1, 6)]:
            # Some B4s have softwires of several addresses, and of several PSIDs.
            b4 = bytes.fromhex("20010db8000100000000000000") + bytes(
                [0, choices.pick((host, 1)), choices.pick((psid & 0xFF, 0))]
            )
            br = choices.pick(BRS)
            ip = bytes([198, 51, 100, host])
            yield Softwire(ip, psid, b4, br, length, offset)


# ---- headers ----


@dataclass(frozen=True)
class Packet:
    """Fields of an IPv4 packet that traffic plays with."""

    source: bytes
    destination: bytes
    protocol: int
    payload: bytes
    ttl: int = 64
    tos: int = 0
    ident: int = 0
    fields: int = 0
    options: bytes = b""

    def __bytes__(self) -> bytes:
        size = 20 + len(self.options)
        head = struct.pack(
            ">BBHHHBBH",
            0x40 | size // 4,
            self.tos,
            size + len(self.payload),
            self.ident,
            self.fields,
            self.ttl,
            self.protocol,
            0,
        )
        head += self.source + self.destination + self.options
        return with_checksum(head) + self.payload


def icmpv4(kind: int, code: int, rest: bytes, data: bytes) -> bytes:
    head = bytes([kind, code])
    return head + checksum(head + b"\0\0" + rest + data).to_bytes(2) + rest + data


def ipv6(  # noqa: PLR0913 - a header's fields
    source: bytes,
    destination: bytes,
    protocol: int,
    payload: bytes,
    *,
    limit: int = 64,
    traffic_class: int = 0,
) -> bytes:
    first = (6 << 28 | traffic_class << 20).to_bytes(4)
    length = len(payload).to_bytes(2)
    return first + length + bytes([protocol, limit]) + source + destination + payload


#: IPv4 options: none; router alert (copied); record route (not copied) and the end; a
#: lot; nonsense.
OPTIONS = (
    b"",
    b"\x94\x04\0\0",
    b"\x07\x07\x04\0\0\0\0\0",
    b"\x01\x01\x94\x04\0\0\x44\x04\x05\0\x01\x00",
    b"\x07\x27\x04" + bytes(36) + b"\0",
    b"\x94\x00\x07\xff",
)
#: Destination options in front of tunnelled IPv4: as Linux has them (RFC 2473, 4.1.1),
#: and with more padding.
ENCAPSULATION_LIMITS = (b"\4\0\4\1\4\1\0\0", b"\4\1\4\1\4\1\x09" + bytes(9))


class Traffic:
    """Packets of all kinds, for one lwAFTR.

    Args:
        settings: the lwAFTR's.
        choices: where chance comes from.
        compat: packets of which is not known what Snabb does are not made.
    """

    def __init__(self, settings: Settings, choices: Choices, *, compat: bool) -> None:
        self.settings = settings
        self.compat = compat
        self.pick, self.number = choices.pick, choices.number
        self.kinds: tuple[Callable[[], list[Arrival]], ...] = (
            self.inbound,
            self.outbound,
            self.hairpinned,
            self.inbound_query,
            self.outbound_query,
            self.inbound_error,
            self.outbound_error,
            self.inbound_fragments,
            self.outbound_fragments,
            self.tunnel_fragments,
            self.icmpv6_error,
            self.icmpv6_other,
            self.misdirected,
            self.behind_options,
            self.pings_of_us,
            self.arp,
            self.ndp,
            self.strange,
        )

    def item(self) -> tuple[str, list[Arrival]]:
        """Return frames that belong together, and what they are."""
        kind = self.pick(self.kinds)
        arrivals = kind()
        name = kind.__name__
        if self.once_in(6):
            name += ", damaged"
            arrivals = [(side, self.damaged(frame)) for side, frame in arrivals]
        if self.compat:
            arrivals = [a for a in arrivals if not is_empty_fragment(a[1])]
        return name, [(side, self.tagged(side, frame)) for side, frame in arrivals]

    def once_in(self, n: int) -> bool:
        return self.number(0, n - 1) == n - 1

    # ---- parts ----

    def softwire(self) -> Softwire:
        return self.pick(self.settings.softwires)

    def port(self, softwire: Softwire) -> int:
        """Return a port of a softwire, or nearly always."""
        if self.once_in(12):
            return self.pick((0, 1, 63, 64, 1023, 1024, 65535, self.number(0, 65535)))
        length, offset = softwire.psid_length, softwire.offset
        rest = 16 - length - offset
        first = self.number(1, (1 << offset) - 1) if offset > 1 else offset
        return (
            first << (16 - offset)
            | softwire.psid << rest
            | self.number(0, (1 << rest) - 1)
        ) & 0xFFFF

    def remote(self) -> bytes:
        return self.pick(ODD_IPV4) if self.once_in(20) else self.pick(REMOTES)

    def data(self) -> bytes:
        """Return a payload: short, or as long as some limit makes interesting."""
        if not self.once_in(4):
            return PATTERN[: self.number(0, 64)]
        external, internal = self.settings.external.mtu, self.settings.internal.mtu
        limit = self.pick((external, internal - 40, internal, 2 * internal, 576))
        return PATTERN[: max(0, limit - 28 + self.number(-9, 9))]

    def layer4(self, source: int, destination: int) -> tuple[int, bytes]:
        """Return a protocol and its header and payload, with these ports."""
        protocol = self.pick((UDP, TCP, UDP, TCP, SCTP, GRE, ESP, 0, 255))
        data = self.data()
        ports = struct.pack(">HH", source, destination)
        if protocol == UDP:
            return protocol, ports + struct.pack(">HH", 8 + len(data), 0) + data
        if self.once_in(16):
            return protocol, ports[: self.number(0, 4)]
        return protocol, ports + bytes(12) + b"\x20\0\0\0" + data

    def packet(
        self, source: bytes, destination: bytes, protocol: int, payload: bytes
    ) -> Packet:
        """Return a packet with some of its fields unusual."""
        return Packet(
            source,
            destination,
            protocol,
            payload,
            ttl=self.pick((1, 0, 2, 255)) if self.once_in(8) else 64,
            tos=self.number(0, 255) if self.once_in(4) else 0,
            ident=self.number(0, 65535) if self.once_in(4) else 1,
            fields=0x4000 if self.once_in(3) else 0,
            options=self.pick(OPTIONS) if self.once_in(8) else b"",
        )

    def from_internet(self, ip: bytes) -> list[Arrival]:
        to = self.pick((b"\xff" * 6, b"\x01\0\x5e\0\0\1")) if self.once_in(50) else MAC4
        return [(4, to + HOP4 + ETHERTYPE_IPV4 + ip)]

    def from_b4(self, ip6: bytes) -> list[Arrival]:
        to = self.pick((b"\xff" * 6, b"\x33\x33\0\0\0\1")) if self.once_in(50) else MAC6
        return [(6, to + HOP6 + ETHERTYPE_IPV6 + ip6)]

    def tunnel(
        self, softwire: Softwire, ip: bytes, options: bytes = b""
    ) -> list[Arrival]:
        """Return a packet in its tunnel; marked on the way at times.

        Args:
            softwire: has the tunnel.
            ip: the packet.
            options: a header of destination options in front of it.
        """
        mark = self.number(0, 255) if self.once_in(6) else 0
        limit = self.pick((64, 0, 1, 255))
        protocol, body = 60 if options else 4, options + ip
        return self.from_b4(
            ipv6(
                softwire.b4, softwire.br, protocol, body,
                limit=limit, traffic_class=mark,
            )
        )  # fmt: skip

    # ---- kinds ----

    def inbound_packet(self) -> Packet:
        softwire = self.softwire()
        payload = self.layer4(self.number(0, 65535), self.port(softwire))
        destination = self.pick(ODD_IPV4) if self.once_in(12) else softwire.ipv4
        return self.packet(self.remote(), destination, *payload)

    def inbound(self) -> list[Arrival]:
        """From the internet: bound, mostly."""
        return self.from_internet(bytes(self.inbound_packet()))

    def outbound_packet(self) -> tuple[Softwire, Packet]:
        softwire = self.softwire()
        payload = self.layer4(self.port(softwire), self.number(0, 65535))
        return softwire, self.packet(softwire.ipv4, self.remote(), *payload)

    def outbound(self) -> list[Arrival]:
        """From a B4 to the internet."""
        softwire, packet = self.outbound_packet()
        return self.tunnel(softwire, bytes(packet))

    def hairpinned(self) -> list[Arrival]:
        """From one B4 to another, or to itself."""
        here, there = self.softwire(), self.softwire()
        kind = self.number(0, 5)
        ports = self.port(here), self.port(there)
        if kind == 5:
            rest = struct.pack(">HH", self.pick(ports), 1)
            query = icmpv4(self.pick((8, 0, 13)), 0, rest, self.data())
            protocol, payload = 1, query
        elif kind == 4:
            back = bytes(Packet(there.ipv4, here.ipv4, *self.layer4(*ports[::-1])))
            protocol, payload = 1, icmpv4(3, 3, bytes(4), back[:28])
        else:
            protocol, payload = self.layer4(*ports)
        packet = self.packet(here.ipv4, there.ipv4, protocol, payload)
        return self.tunnel(here, bytes(packet))

    def query(self, ident: int) -> bytes:
        kind = self.pick((8, 0, 8, 0, 13, 14, 15, 16, 17, 18, 9, 42))
        message = icmpv4(kind, 0, struct.pack(">HH", ident, 7), self.data())
        if self.once_in(12):
            message = message[: self.number(0, 8)]
            message = icmpv4(8, 0, b"", b"")[: len(message)]
        if self.once_in(12) and len(message) > 3:
            message = message[:3] + bytes([message[3] ^ 1]) + message[4:]
        return message

    def inbound_query(self) -> list[Arrival]:
        """ICMPv4 with an identifier, from the internet."""
        softwire = self.softwire()
        query = self.query(self.port(softwire))
        packet = self.packet(self.remote(), softwire.ipv4, 1, query)
        return self.from_internet(bytes(packet))

    def outbound_query(self) -> list[Arrival]:
        """ICMPv4 with an identifier, from a B4."""
        softwire = self.softwire()
        query = self.query(self.port(softwire))
        packet = self.packet(softwire.ipv4, self.remote(), 1, query)
        return self.tunnel(softwire, bytes(packet))

    def error_about(self, packet: Packet) -> bytes:
        """Return an ICMPv4 error that quotes a packet, or a part of it."""
        quoted = bytes(packet)
        size = header_length(quoted)
        cut = self.pick((size + 8, 548, size + 8, size + self.number(0, 8), 20, 0))
        kind, code = self.pick(
            ((3, 3), (3, 1), (11, 0), (3, 4), (4, 0), (5, 1), (12, 0))
        )
        rest = self.pick((b"\0\0\x05\x00", bytes(4)))
        return icmpv4(kind, code, rest, quoted[:cut])

    def quotable(self, source: bytes, destination: bytes, *ports: int) -> Packet:
        """Return a packet to quote: of any protocol, at times a later fragment."""
        if self.once_in(4):
            kind = self.pick((8, 0, 13, *sorted(ERRORS)))
            ident = self.pick(ports)
            payload = icmpv4(kind, 0, struct.pack(">HH", ident, 1), bytes(20))
            return self.packet(source, destination, 1, payload)
        packet = self.packet(source, destination, *self.layer4(ports[0], ports[1]))
        if self.once_in(12):
            return Packet(source, destination, UDP, packet.payload, fields=185)
        return packet

    def inbound_error(self) -> list[Arrival]:
        """An ICMPv4 error from the internet about a B4's packet."""
        softwire, remote = self.softwire(), self.remote()
        ports = self.port(softwire), self.number(0, 65535)
        about = self.quotable(softwire.ipv4, remote, *ports)
        error = self.error_about(about)
        packet = self.packet(self.remote(), softwire.ipv4, 1, error)
        return self.from_internet(bytes(packet))

    def outbound_error(self) -> list[Arrival]:
        """An ICMPv4 error from a B4 about the internet's packet."""
        softwire, remote = self.softwire(), self.remote()
        ports = self.number(0, 65535), self.port(softwire)
        error = self.error_about(self.quotable(remote, softwire.ipv4, *ports))
        packet = self.packet(softwire.ipv4, remote, 1, error)
        return self.tunnel(softwire, bytes(packet))

    # ---- fragments ----

    def pieces(self, payload: bytes) -> list[tuple[int, bytes, bool]]:
        """Return a payload cut up: start, data, more; not always as it should be."""
        cuts = sorted({self.number(1, max(1, len(payload) // 8)) * 8 for _ in "123"})
        cuts = [0, *(cut for cut in cuts if cut < len(payload)), len(payload)]
        found = [
            (a, payload[a:b], b < len(payload)) for a, b in itertools.pairwise(cuts)
        ]
        if self.once_in(3):
            at = self.number(0, len(found) - 1)
            start, data, more = found[at]
            found += self.pick(
                (
                    [(start, data, more)],
                    [(start, data, not more)],
                    [(start + 8, data, more)],
                    [(start, data[: len(data) // 16 * 8] or data, True)],
                    [(start, data[:-1], more)],
                    [(start, data[:-1] + b"\xee", more)],
                    [(start, b"", more)],
                    [(65528 - 64, data, False)],
                )
            )
        if self.once_in(12):
            del found[self.number(0, len(found) - 1)]
        return self.shuffled(found)

    def shuffled(self, items: list[T]) -> list[T]:
        if not self.once_in(2):
            return items
        rest, result = list(items), []
        while rest:
            result.append(rest.pop(self.number(0, len(rest) - 1)))
        return result

    def ipv4_pieces(self, packet: Packet) -> list[bytes]:
        """Return an IPv4 packet's fragments, each with fields of its own at times."""
        ident = self.number(0, 40)
        found = []
        for start, data, more in self.pieces(packet.payload):
            fields = start // 8 | (0x2000 if more else 0)
            piece = Packet(
                packet.source,
                packet.destination,
                packet.protocol,
                data,
                ttl=self.number(2, 9) if self.once_in(8) else 64,
                ident=ident,
                fields=fields | (0x4000 if self.once_in(8) else 0),
                options=self.pick(OPTIONS) if self.once_in(8) else b"",
            )
            found.append(bytes(piece))
        return found

    def inbound_fragments(self) -> list[Arrival]:
        """Fragments from the internet."""
        pieces = self.ipv4_pieces(self.inbound_packet())
        return [arrival for ip in pieces for arrival in self.from_internet(ip)]

    def outbound_fragments(self) -> list[Arrival]:
        """Fragments that came to the B4 and went into its tunnel one by one."""
        softwire, packet = self.outbound_packet()
        pieces = self.ipv4_pieces(packet)
        options = self.pick((b"", b"", *ENCAPSULATION_LIMITS))
        found: list[Arrival] = []
        for ip in pieces:
            if self.once_in(12):
                options = self.pick((b"", *ENCAPSULATION_LIMITS))
            found += self.tunnel(softwire, ip, options)
        return found

    def tunnel_fragments(self) -> list[Arrival]:
        """Fragments of a tunnel packet; at times behind a header of each."""
        softwire, packet = self.outbound_packet()
        ident = self.number(0, 40).to_bytes(4)
        front = b"" if self.compat or not self.once_in(6) else b"\x2c\0\4\1\4\1\0\0"
        found: list[Arrival] = []
        whole = bytes(packet)
        pieces = [(0, whole, False)] if self.once_in(8) else self.pieces(whole)
        for start, data, more in pieces:
            fields = (start & 0xFFF8 | more).to_bytes(2)
            header = bytes([4, 0]) + fields + ident
            body = front + header + data
            first = 60 if front else 44
            found += self.from_b4(ipv6(softwire.b4, softwire.br, first, body))
        return found

    # ---- IPv6 ----

    def icmpv6_error(self) -> list[Arrival]:
        """An ICMPv6 error about a tunnel packet that we have sent, or not."""
        softwire = self.softwire()
        ports = self.number(0, 65535), self.port(softwire)
        inner = bytes(self.quotable(self.remote(), softwire.ipv4, *ports))
        br = self.pick(BRS) if self.once_in(12) else softwire.br
        quoted = ipv6(br, softwire.b4, 4, inner)
        if self.once_in(12):
            quoted = ipv6(softwire.b4, br, self.pick((4, 6, 44)), inner)
        cut = self.pick((1232, 88, 40 + 28, self.number(0, 88)))
        code = self.pick((0, 0, 1))
        mtu = self.pick(
            (1280, 1500, 0, 40, 107, 108, 777, 65535, 65575, 65576, 1 << 31)
        )
        head = bytes([self.pick((1, 2, 3, 4, 0)), code, 0, 0]) + mtu.to_bytes(4)
        to = self.pick(BRS) if self.once_in(12) else softwire.br
        return self.icmpv6_message(to, head + quoted[:cut])

    def icmpv6_message(
        self, to: bytes, message: bytes, limit: int = 64
    ) -> list[Arrival]:
        source = self.pick((NEXT6, self.softwire().b4))
        packet = icmpv6(b"\x60\0\0\0", source + to, limit, message)
        if self.once_in(12):
            packet = packet[:42] + bytes([packet[42] ^ 1]) + packet[43:]
        return self.from_b4(packet)

    def icmpv6_other(self) -> list[Arrival]:
        """ICMPv6 that is no error."""
        kind = self.pick((128, 129, 127, 5, 133, 134, 137, 138, 255))
        message = bytes([kind, 0, 0, 0]) + PATTERN[: self.number(4, 40)]
        return self.icmpv6_message(self.pick(BRS), message)

    def misdirected(self) -> list[Arrival]:
        """A tunnel packet that does not come from its softwire's B4, or not to us."""
        softwire, packet = self.outbound_packet()
        other = self.softwire()
        stray = (bytes(16), ALL_NODES, NEXT6)
        source = self.pick((other.b4, softwire.b4, self.pick(stray)))
        to = self.pick((other.br, *BRS, self.pick(stray)))
        return self.from_b4(ipv6(source, to, 4, bytes(packet)))

    def behind_options(self) -> list[Arrival]:
        """A tunnel packet behind an extension header."""
        softwire, packet = self.outbound_packet()
        protocol = self.pick((60, 60, 60, 0, 43, 6, 59))
        following = self.pick((4, 4, 4, 58, 60))
        options = self.pick(
            (
                b"\4\1\4\1\0\0"[:6],
                b"\0" * 6,
                b"\1\4\0\0\0\0",
                b"\4\1\4\1\1\0",
                b"\xc2\4\0\0\0\0",
                b"\x1e\4\1\2\3\4",
                b"\4\1\4\1\0",
                b"\1\x0c" + bytes(12),
            )
        )
        options += bytes(-(2 + len(options)) % 8)
        header = bytes([following, (2 + len(options)) // 8 - 1]) + options
        body = header + bytes(packet)
        return self.from_b4(ipv6(softwire.b4, softwire.br, protocol, body))

    # ---- us ----

    def pings_of_us(self) -> list[Arrival]:
        """Echo requests to our addresses."""
        if self.once_in(2):
            message = bytes([128, self.pick((0, 1)), 0, 0, 0, 1, 0, 2]) + self.data()
            return self.icmpv6_message(IP6, message)
        message = icmpv4(8, self.pick((0, 1)), b"\0\1\0\2", self.data())
        if self.once_in(8):
            message = message[:3] + bytes([message[3] ^ 1]) + message[4:]
        return self.from_internet(bytes(self.packet(self.remote(), IP4, 1, message)))

    def arp(self) -> list[Arrival]:
        """ARP of all kinds."""
        head = struct.pack(">HHBBH", 1, 0x0800, 6, 4, self.pick((1, 2, 3)))
        sender = self.pick((HOP4, b"\x02\0\0\0\x09\x09", b"\x03\0\0\0\0\1"))
        sender += self.pick((NEXT4, REMOTES[0]))
        body = head + sender + bytes(6) + self.pick((IP4, NEXT4)) + bytes(18)
        to = self.pick((MAC4, b"\xff" * 6))
        return [(4, to + sender[:6] + ETHERTYPE_ARP + body)]

    def ndp(self) -> list[Arrival]:
        """Solicitations and advertisements."""
        kind = self.pick((135, 136))
        target = self.pick((IP6, BRS[1], NEXT6))
        flags = self.pick((0x60, 0x20, 0x40, 0xE0, 0))
        message = bytes([kind, self.pick((0, 0, 0, 1)), 0, 0, flags, 0, 0, 0]) + target
        mac = self.pick((HOP6, b"\x02\0\0\0\x09\x09", b"\x03\0\0\0\0\1"))
        option = bytes([kind - 134, 1]) + mac
        message += self.pick(
            (option, b"", option + b"\x0e\1" + bytes(6), b"\1\0", b"\1")
        )
        source = self.pick((NEXT6, bytes(16), self.softwire().b4))
        to = self.pick((IP6, solicited_node(IP6), solicited_node(NEXT6)))
        limit = 64 if self.once_in(12) else 255
        packet = icmpv6(b"\x60\0\0\0", source + to, limit, message)
        if self.once_in(12):
            packet = packet[:60] + bytes([packet[60] ^ 1]) + packet[61:]
        return [(6, MAC6 + HOP6 + ETHERTYPE_IPV6 + packet)]

    def strange(self) -> list[Arrival]:
        """Frames of other protocols, or of the other side's, or of none."""
        arrivals = self.pick((self.inbound, self.outbound, self.arp))()
        side, frame = arrivals[0]
        kind = self.number(0, 2)
        if kind == 0:
            return [(10 - side, frame)]
        if kind == 1:
            types = (b"\x88\xcc", b"\0\x2e", ETHERTYPE_VLAN, ETHERTYPE_IPV6)
            return [(side, frame[:12] + self.pick(types) + frame[14:])]
        return [(side, frame[: self.number(14, 60)])]

    # ---- what happens to frames on the way ----

    def damaged(self, frame: bytes) -> bytes:
        """Return a frame cut off, padded, or with bytes changed."""
        kind = self.number(0, 3)
        if kind == 0:
            return frame + bytes(self.number(1, 46))
        if kind == 1:
            return frame[: self.number(14, len(frame))]
        changed = bytearray(frame)
        for _ in range(self.number(1, 3)):
            at = self.number(0, min(len(frame), 130) - 1)
            changed[at] = self.pick((0, 0xFF, changed[at] ^ 1, self.number(0, 255)))
        return repaired(bytes(changed)) if kind == 2 else bytes(changed)

    def tagged(self, side: int, frame: bytes) -> bytes:
        settings = self.settings
        vlan = (settings.external if side == 4 else settings.internal).vlan
        if self.once_in(40):
            vlan = self.pick((None, 100, 200, 0xE064, 0x30C8))
        if vlan is None:
            return frame
        return frame[:12] + ETHERTYPE_VLAN + vlan.to_bytes(2) + frame[12:]


def is_empty_fragment(frame: bytes) -> bool:
    """Say whether a frame is a fragment without data; unknown what Snabb does."""
    packet = frame[ETHERNET:]
    if frame[12:14] == ETHERTYPE_IPV4 and len(packet) >= 20:
        return is_fragment(packet) and u16(packet, 2) == header_length(packet)
    if frame[12:14] == ETHERTYPE_IPV6 and len(packet) >= 40:
        return packet[6] == FRAGMENT and u16(packet, 4) == 8
    return False


def repaired(frame: bytes) -> bytes:
    """Return a frame whose IPv4 headers' checksums are right again."""
    kinds = {ETHERTYPE_IPV4: ETHERNET, ETHERTYPE_IPV6: ETHERNET + 40}
    at = kinds.get(frame[12:14], len(frame))
    if len(frame) < at + 20:
        return frame
    end = at + max(20, header_length(frame[at:]))
    return frame[:at] + with_checksum(frame[at:end]) + frame[end:]
