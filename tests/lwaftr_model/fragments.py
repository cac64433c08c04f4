"""Fragments: datagrams put together again (RFC 791, 8200, 5722, 6946), and cut."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.lwaftr_model.wire import (
    DF,
    ETHERNET,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    FRAGMENT,
    IPV4,
    IPV6,
    MF,
    OFFSET,
    header_length,
    is_fragment,
    tunnelled_at,
    u16,
    with_checksum,
)

#: The longest frame that is put together.
LONGEST = 10240
#: Seconds that the rest of a datagram is waited for (RFC 8200 4.5, RFC 1122 3.3.2).
TIMEOUT = 60.0
#: Headers that may stand in front of a fragment header.
EXTENSIONS = frozenset((0, 43, 60))


@dataclass(frozen=True)
class Piece:
    """A fragment as a frame: what comes before its data, the data, where it belongs.

    Attributes:
        protocol: of the data, where the front does not say so.
    """

    frame: bytes
    front: bytes
    data: bytes
    start: int
    more: bool
    protocol: int = 0

    @property
    def end(self) -> int:
        return self.start + len(self.data)


@dataclass
class Datagram:
    """Pieces in the order in which they came."""

    expires: float
    pieces: list[Piece] = field(default_factory=list)

    @property
    def final(self) -> Piece | None:
        return next((p for p in self.pieces if not p.more), None)

    @property
    def payload(self) -> bytes:
        return b"".join(p.data for p in sorted(self.pieces, key=lambda p: p.start))

    def is_whole(self) -> bool:
        """Say whether the pieces are without gaps up to a final one."""
        at = 0
        for piece in sorted(self.pieces, key=lambda p: (p.start, p.end)):
            if piece.start != at:
                return False
            at = piece.end
        return self.final is not None

    def has(self, new: Piece) -> bool:
        """Say whether an exact duplicate has come (RFC 8200 4.5)."""
        alike = (new.start, new.more, new.data)
        return any((p.start, p.more, p.data) == alike for p in self.pieces)

    def contradicts(self, new: Piece) -> bool:
        """Say whether RFC 5722, or common sense, forbids this piece among those."""
        final, furthest = self.final, max((p.end for p in self.pieces), default=0)
        return (
            not new.data
            or (new.more and len(new.data) % 8 != 0)
            or any(new.start < p.end and p.start < new.end for p in self.pieces)
            or (final is not None and (not new.more or new.end > final.end))
            or (not new.more and new.end < furthest)
        )

    def contradicts_snabb(self, new: Piece, version: int) -> bool:
        final = next((p for p in self.pieces if not p.more and p.start), None)
        return (not new.more and final is not None) or (
            version == 6 and new.more and len(new.data) % 8 != 0
        )


class Reassembler:
    """The datagrams of one side that wait for their other fragments.

    Args:
        counters: those that are moved, of this IP version.
        version: 4, or 6.
        limit: fragments of a datagram.
        compat: as Snabb has it.
        inner: they come in tunnels.
    """

    def __init__(
        self,
        counters: Counter[str],
        version: int,
        limit: int,
        *,
        compat: bool,
        inner: bool = False,
    ) -> None:
        self.is_inner = inner
        self.counters = counters
        self.version = version
        self.limit = limit
        self.compat = compat
        self.datagrams: dict[object, Datagram] = {}

    def count(self, name: str, n: int = 1) -> None:
        verb, rest = name.split("-", 1)
        self.counters[f"{verb}-ipv{self.version}-frag-{rest}"] += n

    def count_lost(self, n: int) -> None:
        inner = "inner-" if self.is_inner else ""
        self.counters[f"drop-{inner}ipv{self.version}-frag-unreassembled"] += n

    def forget(self, now: float) -> list[bytes]:
        """Forget datagrams whose time is over; Snabb keeps IPv4's.

        Returns:
            First fragments, about which errors are to be sent.
        """
        if self.compat and self.version == 4:
            return []
        late = [key for key, d in self.datagrams.items() if d.expires <= now]
        pieces = [p for key in late for p in self.datagrams.pop(key).pieces]
        self.count("drop-invalid-reassembly", len(late))
        self.count_lost(len(pieces))
        return [p.frame for p in pieces if p.start == 0 and not self.compat]

    def add(self, key: object, piece: Piece, now: float) -> Datagram | None:
        """Take a fragment; return its datagram if that is whole now."""
        self.count("in-needs-reassembly")
        datagram = self.datagrams.setdefault(key, Datagram(now + TIMEOUT))
        if not self.compat and datagram.has(piece):
            return None
        if self.is_wrong(datagram, piece):
            self.count("drop-invalid-reassembly")
            self.count_lost(len(datagram.pieces) + 1)
            del self.datagrams[key]
            return None
        datagram.pieces.append(piece)
        if not self.is_done(datagram):
            return None
        del self.datagrams[key]
        self.count("in-reassembled")
        return datagram

    def is_wrong(self, datagram: Datagram, piece: Piece) -> bool:
        pieces = datagram.pieces
        front = len(pieces[0].front if pieces else piece.front)
        return (
            len(pieces) + 1 > self.limit
            or front + piece.end > LONGEST
            or (
                datagram.contradicts_snabb(piece, self.version)
                if self.compat
                else datagram.contradicts(piece)
            )
        )

    def is_done(self, datagram: Datagram) -> bool:
        """Snabb does not know a final fragment without an offset for one."""
        known = any(p.start and not p.more for p in datagram.pieces)
        return datagram.is_whole() and (known or not self.compat)

    def header_of(self, datagram: Datagram) -> Piece:
        """Return the piece whose header counts: the first one, or the first to come."""
        pieces = datagram.pieces
        return pieces[0] if self.compat else min(pieces, key=lambda p: p.start)

    def ipv4(self, frame: bytes, now: float) -> bytes | None:
        """Take a frame that is a sound IPv4 fragment; return the whole one, or None."""
        ip = frame[ETHERNET:]
        head = header_length(ip)
        fields = u16(ip, 6)
        piece = Piece(
            frame,
            frame[: ETHERNET + head],
            ip[head : u16(ip, 2)],
            (fields & OFFSET) * 8,
            bool(fields & MF),
        )
        protocol = None if self.compat else ip[9]
        datagram = self.add((ip[12:20], ip[4:6], protocol), piece, now)
        if not datagram:
            return None
        front, payload = self.header_of(datagram).front, datagram.payload
        return front[:ETHERNET] + joined_ipv4(front[ETHERNET:], payload)

    def tunnelled(self, frame: bytes, now: float) -> bytes | None:
        """Take a frame with a sound IPv4 fragment in a tunnel."""
        at = ETHERNET + tunnelled_at(frame[ETHERNET:])
        outer, ip = frame[:at], frame[at:]
        head = header_length(ip)
        fields = u16(ip, 6)
        piece = Piece(
            frame,
            outer + ip[:head],
            ip[head : u16(ip, 2)],
            (fields & OFFSET) * 8,
            bool(fields & MF),
        )
        key = (outer[ETHERNET + 8 :][:16], ip[12:20], ip[4:6], ip[9])
        datagram = self.add(key, piece, now)
        if not datagram:
            return None
        front = self.header_of(datagram).front
        at = ETHERNET + tunnelled_at(front[ETHERNET:])
        inner = joined_ipv4(front[at:], datagram.payload, keep_id=True)
        length = at - ETHERNET - IPV6 + len(inner)
        return with_payload_length(front[:at], length) + inner

    def ipv6(self, frame: bytes, now: float) -> bytes | None:
        """Take a frame with a fragment header, which `fragment_header` has found."""
        at = fragment_header(frame, compat=self.compat)
        end = ETHERNET + IPV6 + u16(frame, ETHERNET + 4)
        front, header, data = frame[:at], frame[at : at + 8], frame[at + 8 : end]
        fields = u16(header, 2)
        piece = Piece(frame, front, data, fields & 0xFFF8, bool(fields & 1), header[0])
        if fields & 0xFFF9 == 0 and not self.compat:  # RFC 6946
            self.count("in-needs-reassembly")
            self.count("in-reassembled")
            return joined_ipv6(front, header[0], data)
        key = (front[ETHERNET + 8 : ETHERNET + IPV6], header[4:])
        datagram = self.add(key, piece, now)
        if not datagram:
            return None
        last = datagram.pieces[-1] if self.compat else self.header_of(datagram)
        front = self.header_of(datagram).front
        return joined_ipv6(front, last.protocol, datagram.payload)


def fragment_header(frame: bytes, *, compat: bool) -> int:
    """Return where an IPv6 frame's fragment header begins; 0: it has none.

    Headers that every fragment carries may stand in front of it (RFC 8200 4.1); Snabb
    knows none.
    """
    end = min(len(frame), ETHERNET + IPV6 + u16(frame, ETHERNET + 4))
    at, protocol = ETHERNET + IPV6, frame[ETHERNET + 6]
    while protocol in EXTENSIONS and not compat and at + 8 <= end:
        protocol, at = frame[at], at + (frame[at + 1] + 1) * 8
    return at if protocol == FRAGMENT and at <= end else 0


def joined_ipv4(header: bytes, payload: bytes, *, keep_id: bool = False) -> bytes:
    """Return a datagram with a fragment's header; DF is not kept, nor the id."""
    ident = header[4:6] if keep_id else bytes(2)
    total = len(header) + len(payload)
    return (
        with_checksum(header[:2] + total.to_bytes(2) + ident + bytes(2) + header[8:])
        + payload
    )


def joined_ipv6(front: bytes, protocol: int, payload: bytes) -> bytes:
    """Return a frame whose last header before the payload names another one."""
    at, named = ETHERNET + IPV6, ETHERNET + 6
    while at < len(front):
        named, at = at, at + (front[at + 1] + 1) * 8
    front = front[:named] + bytes([protocol]) + front[named + 1 :]
    return with_payload_length(front, at - ETHERNET - IPV6 + len(payload)) + payload


def with_payload_length(front: bytes, length: int) -> bytes:
    return front[: ETHERNET + 4] + length.to_bytes(2) + front[ETHERNET + 6 :]


def copied_options(options: bytes) -> bytes:
    """Return the options that go into all fragments (RFC 791 3.1), padded."""
    kept, at = b"", 0
    while at < len(options) and options[at] != 0:
        size = 1
        if options[at] != 1:
            size = options[at + 1] if at + 1 < len(options) else 0
            if size < 2 or at + size > len(options):
                break
            if options[at] & 0x80:
                kept += options[at : at + size]
        at += size
    return kept + bytes(-len(kept) % 4)


def cut_ipv4(frame: bytes, mtu: int, ident: int, *, compat: bool) -> Iterator[bytes]:
    """Yield a frame's fragments, or the frame if it is short enough."""
    ip = frame[ETHERNET:]
    if frame[12:14] != ETHERTYPE_IPV4 or len(ip) <= mtu:
        yield frame
        return
    ip = ip[: max(u16(ip, 2), header_length(ip))]
    if len(ip) <= mtu:
        yield frame[: ETHERNET + len(ip)]
        return
    first = header = ip[: header_length(ip)]
    if not compat:
        options = copied_options(first[IPV4:])
        header = bytes([0x40 | (IPV4 + len(options)) // 4]) + first[1:IPV4] + options
    begin, more = 0, 0
    if is_fragment(ip):
        ident, begin, more = u16(ip, 4), u16(ip, 6) & OFFSET, u16(ip, 6) & MF
    size = (mtu - len(first)) & ~7
    data, at = ip[len(first) :], 0
    while at < len(data):
        head = header if at else first
        flags = MF if at + size < len(data) else more
        part = data[at : at + size]
        fields = (begin + at // 8) | flags
        yield (
            frame[:ETHERNET]
            + with_checksum(
                head[:2]
                + (len(head) + len(part)).to_bytes(2)
                + ident.to_bytes(2)
                + fields.to_bytes(2)
                + head[8:]
            )
            + part
        )
        at += size


def must_not_cut(frame: bytes, mtu: int) -> bool:
    """Say whether a frame is an IPv4 packet with DF and too long."""
    ip = frame[ETHERNET:]
    length = min(len(ip), u16(ip, 2))
    return frame[12:14] == ETHERTYPE_IPV4 and length > mtu and u16(ip, 6) & DF != 0


def cannot_be_cut(frame: bytes, mtu: int) -> bool:
    """Say whether a frame is too long and no packet, or a fragment too far behind."""
    ip = frame[ETHERNET:]
    if frame[12:14] != ETHERTYPE_IPV4 or len(ip) <= mtu:
        return False
    if not header_length(ip) <= u16(ip, 2) <= len(ip):
        return True
    return is_fragment(ip) and (u16(ip, 6) & OFFSET) * 8 + u16(ip, 2) > 0xFFFF


def cut_ipv6(frame: bytes, mtu: int, ident: int) -> Iterator[bytes]:
    """Yield a frame's fragments, or the frame if it is short enough."""
    if frame[12:14] != ETHERTYPE_IPV6 or len(frame) <= mtu + ETHERNET:
        yield frame
        return
    frame = frame[: ETHERNET + IPV6 + u16(frame, ETHERNET + 4)]
    if len(frame) <= mtu + ETHERNET:
        yield frame
        return
    front, data = frame[: ETHERNET + IPV6], frame[ETHERNET + IPV6 :]
    protocol = front[ETHERNET + 6]
    size = (mtu - IPV6 - 8) & ~7
    for at in range(0, len(data), size):
        part = data[at : at + size]
        fields = at | int(at + size < len(data))
        header = bytes([protocol, 0]) + fields.to_bytes(2) + ident.to_bytes(4)
        yield joined_ipv6(front, FRAGMENT, header + part)
