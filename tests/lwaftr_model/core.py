"""RFC 7596 itself: who gets a packet, in which tunnel, and who is told if nobody."""

from collections import Counter
from collections.abc import Callable

from tests.lwaftr_model.fragments import Reassembler
from tests.lwaftr_model.icmp import (
    Limiter,
    deserves_icmpv4,
    deserves_icmpv6,
    icmpv4_error,
    icmpv6_error,
)
from tests.lwaftr_model.settings import Settings, Softwire
from tests.lwaftr_model.table import Table
from tests.lwaftr_model.wire import (
    DF,
    ETHERNET,
    ETHERTYPE_IPV4,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    TUNNEL,
    checksum,
    decremented,
    header_length,
    is_fragment,
    is_sound_ipv4,
    port_of,
    pseudo_header,
    tunnelled_at,
    u16,
    with_checksum,
)

#: First bytes of addresses that no host has (RFC 1812 5.3.7, RFC 6890).
MARTIANS = frozenset((0, 127, *range(224, 256)))
#: RFC 791 3.2: every link takes packets of so many bytes.
LEAST_MTU = 68
UNREACHABLE, TIME_EXCEEDED = (3, 1), (11, 0)
TOO_BIG, REASSEMBLY_TIME_EXCEEDED = (3, 4), (11, 1)
WRONG_SOURCE, REASSEMBLY_TIME_EXCEEDED_IPV6 = (1, 5), (3, 1)


class Core:
    """Encapsulation, decapsulation, hairpinning, and ICMP about them.

    Packets are bytes from the IP header on; L in the counters is 14 more. `origin` is
    what is added to that when a drop is booked: 0 on the IPv4 interface, or 40, the
    tunnel header's length, on the IPv6 one, from where a hairpinned packet came.

    Args:
        out4, out6: take a packet that goes out.
    """

    def __init__(
        self,
        settings: Settings,
        counters: Counter[str],
        out4: Callable[[bytes], None],
        out6: Callable[[bytes], None],
        compat: bool,
    ) -> None:
        self.external, self.internal = settings.external, settings.internal
        self.settings = settings
        self.counters = counters
        self.send4, self.send6 = out4, out6
        self.compat = compat
        self.now = 0.0
        self.own6 = {self.internal.ip, *(s.br for s in settings.softwires)}
        self.table = Table(settings.softwires, compat=compat)
        limit = self.internal.max_fragments
        self.inner = Reassembler(counters, 4, limit, compat=False, inner=True)
        self.limiter4 = Limiter(self.external.rate)
        self.limiter6 = Limiter(self.internal.rate)

    def count(self, name: str, length: int) -> None:
        self.counters[f"{name}-packets"] += 1
        self.counters[f"{name}-bytes"] += length

    def drop(self, reason: str, ip: bytes, origin: int) -> None:
        """Book a drop of an IPv4 packet."""
        length = ETHERNET + len(ip)
        if reason:
            self.count(reason, length)
        interface = "ipv6" if origin else "ipv4"
        self.count(f"drop-all-{interface}-iface", length + origin)

    def drop6(self, reason: str, ip6: bytes) -> None:
        if reason:
            self.count(reason, ETHERNET + len(ip6))
        self.count("drop-all-ipv6-iface", ETHERNET + len(ip6))

    def misplaced(self, frame: bytes, version: int) -> None:
        self.count(f"drop-misplaced-not-ipv{version}", len(frame))
        self.count(f"drop-all-ipv{version}-iface", len(frame))

    # ---- to a B4 ----

    def from_internet(self, frame: bytes) -> None:
        self.count("in-ipv4", len(frame))
        self.inbound(frame[ETHERNET:], 0)

    def inbound(self, ip: bytes, origin: int) -> None:
        """Take a packet to a B4: from the internet, hairpinned, or an error of ours."""
        if is_fragment(ip) and not (self.compat or origin):
            self.unbound(ip, origin)
            return
        if is_fragment(ip) and not (self.compat and ip[9] == ICMP):
            self.counters["drop-ipv4-frag-disabled"] += 1
            self.drop("", ip, origin)
            return
        if ip[9] == ICMP:
            if not self.external.allow_icmp:
                self.drop("drop-in-by-policy-icmpv4", ip, origin)
                return
            total = u16(ip, 2)
            if total > len(ip) or checksum(ip[header_length(ip) : total]):
                self.drop("drop-bad-checksum-icmpv4", ip, origin)
                return
        port = port_of(ip, from_b4=False, compat=self.compat, hairpinned=origin != 0)
        softwire = self.table.lookup(ip[16:20], port)
        if softwire:
            self.encapsulate(ip, softwire, origin)
        else:
            self.unbound(ip, origin)

    def unbound(self, ip: bytes, origin: int) -> None:
        self.drop("drop-no-dest-softwire-ipv4", ip, origin)
        if self.external.generate_errors and ip[9] == ICMP:
            self.count("drop-in-by-rfc7596-icmpv4", ETHERNET + len(ip))
        else:
            self.report(ip, *UNREACHABLE)

    def encapsulate(self, ip: bytes, softwire: Softwire, origin: int) -> None:
        if ip[8]:
            ip = decremented(ip)
        if ip[8] == 0:
            self.drop("drop-ttl-zero-ipv4", ip, origin)
            self.report(ip, *TIME_EXCEEDED)
            return
        mtu = self.internal.mtu
        if len(ip) + IPV6 > mtu and u16(ip, 6) & DF:
            self.drop("drop-over-mtu-but-dont-fragment-ipv4", ip, origin)
            self.report(ip, *TOO_BIG, mtu - IPV6)
            return
        first = 6 << 28 | ip[1] << 20 | self.settings.flow_label & 0xFFFFF
        header = first.to_bytes(4) + len(ip).to_bytes(2) + bytes([TUNNEL, 255])
        self.out6(header + softwire.br + softwire.b4 + ip)

    def out6(self, ip6: bytes) -> None:
        self.count("out-ipv6", ETHERNET + len(ip6))
        self.send6(ip6)

    # ---- errors ----

    def report(self, about: bytes, kind: int, code: int, mtu: int = 0) -> None:
        """Send an ICMPv4 error about a packet that was dropped, if policy lets us."""
        if not self.external.generate_errors:
            self.counters["drop-out-by-policy-icmpv4-packets"] += 1
        elif self.compat or deserves_icmpv4(about):
            self.send_error(about, kind, code, mtu)

    def send_error(self, about: bytes, kind: int, code: int, mtu: int) -> None:
        if not self.limiter4.allows(self.now):
            return
        error = icmpv4_error(self.external, about, kind, code, mtu)
        self.count("out-icmpv4-error", ETHERNET + len(error))
        if self.table.manages(error[16:20]):
            self.inbound(error, IPV6)
        else:
            self.out4(error)

    def reject(self, ip6: bytes, softwire: Softwire | None) -> None:
        """Drop a tunnel packet that does not come from where its softwire is."""
        self.drop6("drop-no-source-softwire-ipv6", ip6)
        self.report6(softwire.br if softwire else ip6[24:40], ip6, *WRONG_SOURCE)

    def report6(self, source: bytes, about: bytes, kind: int, code: int) -> None:
        """Send an ICMPv6 error about a packet that was dropped, if policy lets us."""
        if not self.internal.generate_errors:
            self.counters["drop-out-by-policy-icmpv6-packets"] += 1
            return
        if not self.compat and not deserves_icmpv6(about):
            return
        if not self.compat and source not in self.own6:
            source = self.internal.ip
        error = icmpv6_error(source, about, kind, code)
        if self.limiter6.allows(self.now):
            self.count("out-icmpv6-error", ETHERNET + len(error))
            self.out6(error)
        else:
            self.count("drop-over-rate-limit-icmpv6", ETHERNET + len(error))

    def expired(self, frame: bytes) -> None:
        """Tell that the rest of a first fragment has not come (RFC 792, 4443 3.3)."""
        packet = frame[ETHERNET:]
        if frame[12:14] == ETHERTYPE_IPV4:
            self.report(packet, *REASSEMBLY_TIME_EXCEEDED)
        else:
            self.report6(packet[24:40], packet, *REASSEMBLY_TIME_EXCEEDED_IPV6)

    # ---- from a B4 ----

    def from_b4(self, frame: bytes) -> None:
        rebuilt = self.with_whole_inner(frame)
        if rebuilt is None:
            return
        frame = rebuilt
        self.count("in-ipv6", len(frame))
        ip6 = frame[ETHERNET:]
        if ip6[6] == ICMPV6:
            if self.internal.allow_icmp:
                self.relay(ip6)
            else:
                self.drop6("drop-in-by-policy-icmpv6", ip6)
            return
        at = tunnelled_at(ip6, compat=self.compat)
        if not at:
            self.drop6("drop-unknown-protocol-ipv6", ip6)
            return
        if not self.is_sound_inner(ip6[at:]):
            self.drop6("", ip6)
            return
        self.decapsulate(ip6, at)

    def with_whole_inner(self, frame: bytes) -> bytes | None:
        """Return a frame whose tunnelled packet, if it was a fragment, is whole."""
        at = tunnelled_at(frame[ETHERNET:])
        ip = frame[ETHERNET + at :]
        fragment = at and is_sound_ipv4(ip) and is_fragment(ip)
        if self.compat or not fragment:
            return frame
        return self.inner.tunnelled(frame, self.now)

    def is_sound_inner(self, ip: bytes) -> bool:
        if not self.compat:
            return is_sound_ipv4(ip)
        return len(ip) >= IPV4 and IPV4 <= header_length(ip) <= len(ip)

    def decapsulate(self, ip6: bytes, at: int) -> None:
        """Take a tunnel packet: check where it came from, let go what is in it."""
        ip = ip6[at:] if self.compat else ip6[at : at + u16(ip6, at + 2)]
        turns = self.settings.hairpinning and self.table.manages(ip[16:20])
        port = port_of(ip, from_b4=True, compat=self.compat, hairpinned=turns)
        softwire = self.table.lookup(ip[12:16], port)
        if not softwire or ip6[8:40] != softwire.b4 + softwire.br:
            self.reject(ip6, softwire)
            return
        if not self.compat:
            marked = with_ecn(ip, u16(ip6, 0) >> 4 & 3)
            if marked is None:
                self.drop6("", ip6)
                return
            ip = marked
        if turns:
            self.count("hairpin-ipv4", ETHERNET + len(ip))
            self.inbound(ip, IPV6)
        elif self.compat or self.may_leave(ip):
            self.out4(ip)

    def may_leave(self, ip: bytes) -> bool:
        """Say whether the IPv4 side can take a packet; drop it and tell if not."""
        if ip[16] in MARTIANS:
            self.counters["drop-martian-inner-ipv4-packets"] += 1
            self.drop("", ip, IPV6)
            return False
        if ip[8] == 0:
            self.drop("drop-ttl-zero-ipv4", ip, IPV6)
            self.report(ip, *TIME_EXCEEDED)
            return False
        if len(ip) > self.external.mtu and u16(ip, 6) & DF:
            self.drop("drop-over-mtu-but-dont-fragment-ipv4", ip, IPV6)
            self.report(ip, *TOO_BIG, self.external.mtu)
            return False
        return True

    def out4(self, ip: bytes) -> None:
        self.count("out-ipv4", ETHERNET + len(ip))
        self.send4(ip)

    # ---- ICMPv6 from the tunnels' path ----

    def relay(self, ip6: bytes) -> None:
        """Tell a packet's source what became of the tunnel that it was in."""
        message = ip6[IPV6:]
        if len(message) < 8 or not (self.compat or is_sound_icmpv6(ip6)):
            self.drop6("", ip6)
            return
        kind, code = message[0], message[1]
        if kind == 2 and code and self.compat:
            self.drop6("drop-too-big-type-but-not-code-icmpv6", ip6)
        elif kind == 3 and code:
            self.drop6("drop-over-time-but-not-hop-limit-icmpv6", ip6)
        elif kind > 4:
            self.drop6("drop-unknown-protocol-icmpv6", ip6)
        elif not self.is_ours(ip6[24:40], message[8:]):
            self.drop6("", ip6)
        else:
            inner = message[8 + IPV6 :]
            if self.compat or deserves_icmpv4(inner):
                mtu = self.path_mtu(message) if kind == 2 else 0
                self.send_error(inner, *(TOO_BIG if kind == 2 else UNREACHABLE), mtu)

    def is_ours(self, destination: bytes, quoted: bytes) -> bool:
        """Say whether we can have sent a quoted tunnel packet."""
        ip = quoted[IPV6:]
        if self.compat or len(ip) < IPV4:
            return len(ip) >= IPV4
        needed = min(u16(ip, 2), header_length(ip) + 8)
        if quoted[0] >> 4 != 6 or quoted[6] != TUNNEL or ip[0] >> 4 != 4:
            return False
        if header_length(ip) < IPV4 or len(ip) < max(needed, header_length(ip)):
            return False
        softwire = self.table.lookup(
            ip[16:20], port_of(ip, from_b4=False, compat=False)
        )
        return (
            softwire is not None
            and quoted[8:40] == softwire.br + softwire.b4
            and destination == softwire.br
        )

    def path_mtu(self, message: bytes) -> int:
        """Return what is left of a path's MTU inside the tunnel."""
        if self.compat:
            return (u16(message, 6) - IPV6) & 0xFFFF
        mtu = int.from_bytes(message[4:8])
        return min(max(LEAST_MTU, mtu - IPV6), 0xFFFF)


def is_sound_icmpv6(ip6: bytes) -> bool:
    message = ip6[IPV6:]
    return checksum(pseudo_header(ip6, len(message), ICMPV6) + message) == 0


def with_ecn(ip: bytes, outer: int) -> bytes | None:
    """Return a packet with the mark that it got in the tunnel (RFC 6040 4.2).

    Returns:
        None: it was marked, but its ends do not know of marks: it is to be dropped.
    """
    inner = ip[1] & 3
    if outer == 3 and inner == 0:
        return None
    if outer == 3 or (outer == 1 and inner == 2):
        size = header_length(ip)
        marked = ip[:1] + bytes([ip[1] & ~3 | outer]) + ip[2:size]
        return with_checksum(marked) + ip[size:]
    return ip
