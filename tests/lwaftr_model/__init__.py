"""A lwAFTR in slow and plain Python: the judge of the one in C.

Written from RFC 7596 and what it builds on (6333, 2473, 7597, 5508, 791, 792, 1122,
1191, 1812, 4443, 8200, 6946, 5722, 6040, 826, 4861), apart from the code under test. It
works on bytes, one frame at a time, and takes one decision after the other. That it is
right is shown by Snabb's own end-to-end cases and by observations of Snabb
(tests/unit/test_lwaftr_model.py). What it makes itself, scapy makes again from the
fields alone, and bytes are compared: errors, answers, requests, fragments, tunnel
headers (scrutiny.py). scapy is too slow to do the work on each packet.

Two modes: `compat`, which is Snabb bug for bug; and the default, which follows the RFCs
wherever they say more than Snabb's cases show. What that comes to, where the RFCs leave
room:

Ingress. IPv4 headers are validated (RFC 1812 5.2.2), IPv6's version is; frames that
    fail are not counted under any of Snabb's names. Padding is cut off before anything
    is counted. A VLAN tag's priority does not matter.
Ports. What a packet is too short for, or does not name (a later fragment, an ICMP
    message without identifier), is port 0. ICMP queries name their identifier in both
    directions (but see cases 44 and 45: not a ping from one B4 to another); errors name
    what the packet they quote names: from a B4 the destination's side of it.
Port sets. RFC 7597 5.1; an address that is not shared excludes no ports.
Tunnel. One Destination Options header with nothing but skippable options may precede
    the IPv4 packet (RFC 2473 4.1.1). The inner header is validated. ECN is RFC 6040's.
    The TTL is not decremented at this end (cases 33 and 39), but 0 is not forwarded.
    Inner fragments are put together before their softwire is looked for.
Errors. About no error, later fragment, broadcast, multicast, or packet from an address
    that is no host's (RFC 1122 3.2.2, RFC 4443 2.4). A packet from a B4 with DF and
    longer than the IPv4 side's MTU gets a 3/4.
ICMPv6. Only checked errors about a tunnel packet that we can have sent are relayed. The
    MTU in a 3/4 is 68 at least (RFC 791; case 66 shows one below 1240), 65535 at most.
Pings. Of our addresses are answered if their checksum is right, their source is one
    host, and they were sent to one station.
Fragments. Protocol is part of IPv4's key; the header is the first fragment's; exact
    duplicates do not matter; overlaps and contradictions fail the datagram, and what
    still comes begins a new one. Atomic fragments stand alone. What is neither for a
    softwire's address nor for ours is refused as it comes. After a minute the rest is
    not waited for, and who sent the first fragment is told, if not from a tunnel.
"""

from collections import Counter

from tests.lwaftr_model.core import Core
from tests.lwaftr_model.fragments import (
    Reassembler,
    cannot_be_cut,
    cut_ipv4,
    cut_ipv6,
    fragment_header,
    must_not_cut,
)
from tests.lwaftr_model.neighbors import Arp, Ndp, Resolver, echo_ipv4, echo_ipv6
from tests.lwaftr_model.settings import Settings, Side
from tests.lwaftr_model.wire import (
    ETHERNET,
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    ETHERTYPE_VLAN,
    ICMPV6,
    IPV4,
    IPV6,
    header_length,
    is_fragment,
    is_sound_ipv4,
    u16,
)

#: Frames that wait for a next hop.
MOST_WAITING = 1024


class Model:
    """The whole: frames in on either side, frames out on both.

    Attributes:
        out4, out6: frames that went out; whoever reads them clears them.
        counters: by Snabb's names.
        now: seconds; set by whoever drives.
    """

    def __init__(self, settings: Settings, *, compat: bool = False) -> None:
        self.settings = settings
        self.compat = compat
        self.now = 0.0
        self.counters: Counter[str] = Counter()
        self.out4: list[bytes] = []
        self.out6: list[bytes] = []
        self.id4, self.id6 = settings.ids
        external, internal = settings.external, settings.internal
        self.arp = Arp(external, self.counters, compat=compat)
        self.ndp = Ndp(internal, self.counters, compat=compat)
        self.reassembler4 = self.reassembler(4, external)
        self.reassembler6 = self.reassembler(6, internal)
        self.core = Core(settings, self.counters, self.routed4, self.routed6, compat)

    def reassembler(self, version: int, side: Side) -> Reassembler:
        limit = side.max_fragments
        return Reassembler(self.counters, version, limit, compat=self.compat)

    def tick(self, now: float) -> None:
        """Let time pass: ask for next hops, forget datagrams."""
        self.now = self.core.now = now
        for reassembler in (self.reassembler4, self.reassembler6):
            for frame in reassembler.forget(now):
                self.core.expired(frame)
        self.core.inner.forget(now)
        if self.arp.is_due(now):
            self.egress4(self.arp.request())
        if self.ndp.is_due(now):
            self.egress6(self.ndp.request())

    def stick(self, frame: bytes) -> None:
        """Take a frame from the one interface that is both sides."""
        at = 16 if frame[12:14] == ETHERTYPE_VLAN else 12
        is_ipv4 = frame[at : at + 2] in (ETHERTYPE_IPV4, ETHERTYPE_ARP)
        (self.from_internet if is_ipv4 else self.from_b4)(frame)

    # ---- in ----

    def from_internet(self, tagged: bytes) -> None:
        """Take a frame from the IPv4 side."""
        side = self.settings.external
        frame = self.untagged(tagged, side)
        frame = self.reassembled4(frame) if frame is not None else None
        if frame is None or (side.ingress and not side.ingress(frame)):
            return
        kind = frame[12:14]
        if kind == ETHERTYPE_ARP and len(frame) >= 42:
            if reply := self.arp.take(frame):
                self.egress4(reply)
            self.released()
            return
        if kind == ETHERTYPE_IPV4:
            if reply := echo_ipv4(frame, side, compat=self.compat):
                self.echoed(frame, reply, 4)
                self.egress4(reply)
                return
            self.core.from_internet(frame)
        else:
            self.core.misplaced(frame, 4)

    def from_b4(self, tagged: bytes) -> None:
        """Take a frame from the IPv6 side."""
        side = self.settings.internal
        frame = self.untagged(tagged, side)
        frame = self.reassembled6(frame) if frame is not None else None
        if frame is None or (side.ingress and not side.ingress(frame)):
            return
        if frame[12:14] != ETHERTYPE_IPV6:
            self.core.misplaced(frame, 6)
            return
        is_icmp = frame[ETHERNET + 6] == ICMPV6
        if is_icmp and len(frame) >= 58 and 133 <= frame[ETHERNET + IPV6] <= 137:
            if reply := self.ndp.take(frame):
                self.egress6(reply)
            self.released()
        elif reply := echo_ipv6(frame, side, compat=self.compat):
            self.echoed(frame, reply, 6)
            self.egress6(reply)
        else:
            self.core.from_b4(frame)

    def untagged(self, frame: bytes, side: Side) -> bytes | None:
        if side.vlan is None:
            return frame
        if len(frame) < 18 or frame[12:14] != ETHERTYPE_VLAN:
            return None
        mask = 0xFFFF if self.compat else 0x0FFF
        if u16(frame, 14) & mask != side.vlan:
            return None
        return frame[:12] + frame[16:]

    def reassembled4(self, frame: bytes) -> bytes | None:
        """Return a frame whose IPv4 packet is whole, or another kind of frame."""
        if frame[12:14] == ETHERTYPE_IPV4:
            if not self.is_sound4(frame):
                return None
            if not self.compat:
                frame = frame[: ETHERNET + u16(frame, ETHERNET + 2)]
            if is_fragment(frame[ETHERNET:]) and self.waits_for(frame[30:34]):
                return self.reassembler4.ipv4(frame, self.now)
        self.reassembler4.count("in-reassembly-unneeded")
        return frame

    def waits_for(self, address: bytes) -> bool:
        """Return whether an address's fragments are put together."""
        is_ours = address == self.settings.external.ip
        return self.compat or is_ours or self.core.table.manages(address)

    def is_sound4(self, frame: bytes) -> bool:
        ip = frame[ETHERNET:]
        if not self.compat:
            return is_sound_ipv4(ip)
        if len(ip) < IPV4:
            return False
        size, total = header_length(ip), u16(ip, 2)
        if is_fragment(ip) and total < size:
            return False
        return size >= IPV4 and max(size, total) <= len(ip)

    def reassembled6(self, frame: bytes) -> bytes | None:
        """Return a frame whose IPv6 packet is whole, or another kind of frame."""
        if frame[12:14] == ETHERTYPE_IPV6:
            if len(frame) < ETHERNET + IPV6:
                return None
            end = ETHERNET + IPV6 + u16(frame, ETHERNET + 4)
            if len(frame) < end or (not self.compat and frame[ETHERNET] >> 4 != 6):
                return None
            if not self.compat:
                frame = frame[:end]
            if at := fragment_header(frame, compat=self.compat):
                whole = at + 8 <= end
                return self.reassembler6.ipv6(frame, self.now) if whole else None
        self.reassembler6.count("in-reassembly-unneeded")
        return frame

    def echoed(self, frame: bytes, reply: bytes, version: int) -> None:
        for name, which in (("in", frame), ("out", reply)):
            self.counters[f"{name}-icmpv{version}-echo-packets"] += 1
            self.counters[f"{name}-icmpv{version}-echo-bytes"] += len(which)

    # ---- out ----

    def routed4(self, ip: bytes) -> None:
        """Send a packet to the internet."""
        frame = bytes(6) + self.settings.external.mac + ETHERTYPE_IPV4 + ip
        if must_not_cut(frame, self.settings.external.mtu) and not self.compat:
            raise AssertionError("the core has let a packet pass that must not be cut")
        self.addressed(self.arp, frame)

    def routed6(self, ip6: bytes) -> None:
        """Send a packet towards the B4s."""
        frame = bytes(6) + self.settings.internal.mac + ETHERTYPE_IPV6 + ip6
        self.addressed(self.ndp, frame)

    def addressed(self, resolver: Resolver, frame: bytes) -> None:
        """Send a frame to the next hop, or let it wait."""
        if len(resolver.waiting) < MOST_WAITING:
            resolver.waiting.append(frame)
        self.released()

    def released(self) -> None:
        """Send the frames whose next hop is known."""
        for resolver, send in ((self.arp, self.egress4), (self.ndp, self.egress6)):
            while resolver.mac is not None and resolver.waiting:
                send(resolver.mac + resolver.waiting.pop(0)[6:])

    def egress4(self, frame: bytes) -> None:
        """Filter, cut, tag."""
        side = self.settings.external
        if side.egress and not side.egress(frame):
            return
        if len(frame) > side.mtu + ETHERNET:
            self.id4 = (self.id4 + 1) & 0xFFFF
        if must_not_cut(frame, side.mtu) or cannot_be_cut(frame, side.mtu):
            return
        pieces = list(cut_ipv4(frame, side.mtu, self.id4, compat=self.compat))
        self.count_pieces(4, len(pieces))
        self.out4 += [self.tagged(piece, side) for piece in pieces]

    def egress6(self, frame: bytes) -> None:
        """Filter, cut, tag."""
        side = self.settings.internal
        if side.egress and not side.egress(frame):
            return
        if len(frame) > side.mtu + ETHERNET:
            self.id6 = (self.id6 + 1) & 0xFFFFFFFF
        pieces = list(cut_ipv6(frame, side.mtu, self.id6))
        self.count_pieces(6, len(pieces))
        self.out6 += [self.tagged(piece, side) for piece in pieces]

    def count_pieces(self, version: int, n: int) -> None:
        self.counters[f"out-ipv{version}-frag" + ("-not" if n == 1 else "")] += n

    def tagged(self, frame: bytes, side: Side) -> bytes:
        if side.vlan is None:
            return frame
        return frame[:12] + ETHERTYPE_VLAN + side.vlan.to_bytes(2) + frame[12:]
