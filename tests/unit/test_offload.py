"""Checksums and segmentation in software, and the virtio-net header.

Oracles: a checksum written as RFC 1071 words it, and scapy, which builds each segment
anew from its fields.
"""

import errno
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrSegmentRouting,
    Pad1,
    PadN,
)
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from snabb_py._native import ffi, lib
from snabb_py.engine.memory import Pool, new_aligned

TCPV4, TCPV6 = lib.PACKET_GSO_TCPV4, lib.PACKET_GSO_TCPV6
UDP_L4, ECN = lib.PACKET_GSO_UDP_L4, lib.PACKET_GSO_ECN
PARTIAL, VALID = lib.PACKET_CSUM_PARTIAL, lib.PACKET_CSUM_VALID
MAC: dict[str, Any] = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}


class Bench:
    """A small pool whose packets the test makes and counts."""

    def __init__(self, small: int = 128, large: int = 8) -> None:
        self.pool = Pool(small, large, 1, huge=False)
        self.freelist: Any = new_aligned("struct freelist *")
        lib.freelist_init(self.freelist, self.pool.pool)

    def packet(self, frame: bytes, **metadata: int) -> Any:
        packet = lib.engine_packet_alloc(self.freelist, len(frame))
        ffi.memmove(packet.data, frame, len(frame))
        for name, value in metadata.items():
            setattr(packet, name, value)
        return packet

    def free(self, packet: Any) -> None:
        lib.engine_packet_free(self.freelist, packet)

    def segment(self, frame: bytes, maximum: int = 64, **metadata: int) -> list[bytes]:
        """Return the segments; OSError with the errno when there are none."""
        packet = self.packet(frame, **metadata)
        out = ffi.new("struct packet *[]", maximum)
        n = lib.packet_segment(self.freelist, packet, out, maximum)
        assert content(packet) == frame
        self.free(packet)
        if n < 0:
            raise OSError(-n, errno.errorcode[-n])
        assert all(p.flags == 0 and p.gso_type == 0 for p in out[0:n])
        segments = [content(p) for p in out[0:n]]
        for segment in out[0:n]:
            self.free(segment)
        return segments

    @property
    def nfree(self) -> int:
        lib.freelist_flush(self.freelist)
        return self.pool.free

    def close(self) -> None:
        assert self.nfree == self.pool.total, "packets are missing"
        self.pool.close()


def content(packet: Any) -> bytes:
    return bytes(ffi.buffer(packet.data, packet.length))


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def shared_bench() -> Iterator[Bench]:
    """For hypothesis, which wants one for all its examples."""
    bench = Bench()
    yield bench
    bench.close()


# -- checksum ----------------------------------------------------------------


def naive_checksum(data: bytes) -> int:
    total = 0
    for i in range(0, len(data), 2):
        total += int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big")
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def native_checksum(data: bytes, offset: int = 0) -> int:
    buffer = ffi.new("uint8_t[]", bytes(offset) + data + b"\xff" * 16)
    value = lib.checksum(buffer + offset, len(data))
    return int.from_bytes(struct.pack("=H", value), "big")


@given(data=st.binary(max_size=2000), offset=st.integers(0, 9))
def test_checksum_is_the_naive_one(data: bytes, offset: int) -> None:
    assert native_checksum(data, offset) == naive_checksum(data)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 63, 65, 65535, 67584])
@pytest.mark.parametrize("byte", [b"\x00", b"\x01", b"\xff"])
def test_checksum_of_extremes(size: int, byte: bytes) -> None:
    assert native_checksum(byte * size) == naive_checksum(byte * size)


def pseudo_sum(packet: Packet) -> int:
    """Return what a sender that leaves the checksum to others writes in its place."""
    ip, layer4 = packet[IP], packet[IP].payload
    header = struct.pack("!4s4sHH", ip_bytes(ip.src), ip_bytes(ip.dst), ip.proto, 0)
    header = header[:10] + struct.pack("!H", len(bytes(layer4)))
    return ~naive_checksum(header) & 0xFFFF


def ip_bytes(address: str) -> bytes:
    return bytes(int(part) for part in address.split("."))


@pytest.mark.parametrize(("layer", "offset"), [(TCP(), 16), (UDP(), 6)])
@pytest.mark.parametrize("size", [0, 1, 1400, 9000])
def test_finish_checksum(bench: Bench, layer: Packet, offset: int, size: int) -> None:
    whole = Ether(**MAC) / IP(src="10.0.0.1", dst="10.9.8.7") / layer / Raw(b"x" * size)
    expected = bytes(whole)
    partial = bytearray(expected)
    partial[34 + offset : 36 + offset] = pseudo_sum(Ether(expected)).to_bytes(2, "big")
    packet = bench.packet(
        bytes(partial), flags=PARTIAL, csum_start=34, csum_offset=offset
    )
    assert lib.packet_finish_checksum(packet)
    assert content(packet) == expected
    assert packet.flags == 0
    bench.free(packet)


def test_finish_checksum_never_says_none(bench: Bench) -> None:
    """A UDP checksum that comes out as zero is sent as its other form."""
    packet = bench.packet(
        bytes(40) + b"\xff\xff", flags=PARTIAL, csum_start=34, csum_offset=6
    )
    assert lib.packet_finish_checksum(packet)
    assert content(packet)[40:42] == b"\xff\xff"
    bench.free(packet)


@pytest.mark.parametrize(
    ("start", "offset", "fits"),
    [
        (60, 2, True),
        (60, 3, False),
        (64, 0, False),
        (0, 62, True),
        (0, 63, False),
        (65535, 65535, False),
        (65535, 0, False),
        (0, 65535, False),
    ],
)
def test_finish_checksum_stays_inside(
    bench: Bench, start: int, offset: int, *, fits: bool
) -> None:
    frame = bytes(range(64))
    packet = bench.packet(
        frame, flags=PARTIAL | VALID, csum_start=start, csum_offset=offset
    )
    assert lib.packet_finish_checksum(packet) is fits
    if not fits:
        assert content(packet) == frame
        assert packet.flags == PARTIAL | VALID
    bench.free(packet)


def test_finish_checksum_leaves_others_alone(bench: Bench) -> None:
    packet = bench.packet(bytes(64), flags=VALID, csum_start=999, csum_offset=999)
    assert lib.packet_finish_checksum(packet)
    assert content(packet) == bytes(64)
    assert packet.flags == VALID
    bench.free(packet)


# -- virtio-net header -------------------------------------------------------

HEADER = struct.Struct("<BBHHHHH")


def read_header(packet: Any, *fields: int) -> int:
    header = ffi.new("struct virtio_net_header *")
    ffi.memmove(header, HEADER.pack(*fields), HEADER.size)
    return int(lib.packet_from_virtio(packet, header))


def write_header(packet: Any) -> tuple[int, tuple[int, ...]]:
    header = ffi.new("struct virtio_net_header *")
    answer = lib.packet_to_virtio(packet, header)
    return answer, HEADER.unpack(ffi.buffer(header))


def test_header_says_nothing(bench: Bench) -> None:
    packet = bench.packet(bytes(64), flags=PARTIAL, gso_type=TCPV4)
    assert read_header(packet, 0, 0, 0, 0, 0, 0, 0) == 0
    assert (packet.flags, packet.gso_type) == (0, 0)
    assert write_header(packet) == (0, (0, 0, 0, 0, 0, 0, 1))
    bench.free(packet)


def test_header_of_a_super_frame(bench: Bench) -> None:
    frame = bytes(Ether(**MAC) / IP() / TCP(options=[("NOP", 0)] * 12) / Raw(bytes(99)))
    packet = bench.packet(frame)
    # What the hint says is not believed: 9999 is behind the end.
    assert read_header(packet, 1, TCPV4 | ECN, 9999, 50, 34, 16, 0) == 0
    assert (packet.flags, packet.gso_type, packet.gso_size) == (
        PARTIAL,
        TCPV4 | ECN,
        50,
    )
    assert (packet.csum_start, packet.csum_offset) == (34, 16)
    assert write_header(packet) == (0, (1, TCPV4 | ECN, 34 + 32, 50, 34, 16, 1))
    bench.free(packet)


def test_header_of_a_verified_frame(bench: Bench) -> None:
    packet = bench.packet(bytes(64))
    assert read_header(packet, 2, 0, 0, 0, 0, 0, 0) == 0
    assert packet.flags == VALID
    assert write_header(packet) == (0, (2, 0, 0, 0, 0, 0, 1))
    bench.free(packet)


def test_header_ignores_unknown_flags(bench: Bench) -> None:
    packet = bench.packet(bytes(64))
    assert read_header(packet, 0xFC, 0, 0, 0, 0, 0, 0) == 0
    assert packet.flags == 0
    bench.free(packet)


@pytest.mark.parametrize(
    "fields",
    [
        (1, 0, 0, 0, 60, 3, 0),  # checksum reaches over the end
        (1, 0, 0, 0, 65535, 65535, 0),  # sum of both does not fit 16 bits
        (1, 0, 0, 0, 65535, 1, 0),
        (1, TCPV4, 0, 0, 34, 16, 0),  # segments of no size
        (0, TCPV6, 0, 0, 0, 0, 0),
        (1, 3, 0, 1400, 34, 6, 0),  # UFO
        (1, 2, 0, 1400, 34, 6, 0),  # no type at all
        (1, UDP_L4 | ECN, 0, 1400, 34, 6, 0),  # UDP has no CWR
        (1, ECN, 0, 1400, 34, 6, 0),
        (1, 0x7F, 0, 1400, 34, 6, 0),
    ],
)
def test_malformed_header_is_refused(bench: Bench, fields: tuple[int, ...]) -> None:
    packet = bench.packet(bytes(64), flags=VALID, gso_type=TCPV4)
    assert read_header(packet, *fields) == -errno.EINVAL
    assert (packet.flags, packet.gso_type) == (0, 0)
    bench.free(packet)


@pytest.mark.parametrize(
    "metadata",
    [
        {"flags": PARTIAL, "csum_start": 60, "csum_offset": 3},
        {"flags": PARTIAL, "csum_start": 65535, "csum_offset": 65535},
        {"gso_type": TCPV4, "gso_size": 0},
        {"gso_type": 77, "gso_size": 100},
    ],
)
def test_metadata_that_do_not_fit_are_refused(
    bench: Bench, metadata: dict[str, int]
) -> None:
    packet = bench.packet(bytes(64), **metadata)
    assert write_header(packet) == (-errno.EINVAL, (0, 0, 0, 0, 0, 0, 1))
    bench.free(packet)


@given(
    frame=st.binary(min_size=1, max_size=200),
    fields=st.binary(min_size=12, max_size=12),
)
def test_header_survives_the_packet(
    shared_bench: Bench, frame: bytes, fields: bytes
) -> None:
    """Whatever is accepted is written again as it came, the hint aside."""
    packet = shared_bench.packet(frame)
    flags, gso_type, _, gso_size, start, offset, _ = HEADER.unpack(fields)
    accepted = read_header(packet, *HEADER.unpack(fields)) == 0
    answer, again = write_header(packet)
    assert answer == 0
    if accepted:
        flags &= 1 if flags & 1 else 2
        where = (start, offset) if flags & 1 else (0, 0)
        assert again[:2] == (flags, gso_type)
        assert again[2] <= len(frame)
        assert again[3] == (gso_size if gso_type else 0)
        assert again[4:6] == where
    else:
        assert again == (0, 0, 0, 0, 0, 0, 1)
    shared_bench.free(packet)


# -- segmentation ------------------------------------------------------------


COMPUTED = {
    IP: ("len", "chksum"),
    IPv6: ("plen",),
    TCP: ("chksum",),
    UDP: ("len", "chksum"),
}


def rebuilt(frame: bytes) -> bytes:
    """Return the frame with all lengths and checksums as scapy computes them."""
    packet = Ether(frame)
    layer: Packet = packet
    while layer:
        for field in COMPUTED.get(type(layer), ()):
            layer.delfieldval(field)
        layer = layer.payload
    return bytes(packet)


def payloads(segments: list[bytes], layer: type[Packet]) -> list[bytes]:
    return [bytes(Ether(frame)[layer].payload) for frame in segments]


PAYLOAD = bytes(i * 7 % 251 for i in range(10000))

STACKS = {
    "ipv4": (IP(id=0xFFFE),),
    "ipv4, options": (IP(options=[IPOption_Router_Alert()]),),
    "ipv4, dont fragment": (IP(flags="DF", tos=3),),
    "vlan": (Dot1Q(vlan=5, prio=7), IP()),
    "two vlans": (Dot1AD(vlan=5), Dot1Q(vlan=6), IP()),
    "eight vlans": (*(Dot1Q(vlan=i) for i in range(8)), IP()),
    "ipv6": (IPv6(src="fd00::1", dst="fd00::2", fl=77),),
    "vlan, ipv6": (Dot1Q(vlan=1), IPv6(src="fd00::1", dst="fd00::2")),
    "ipv6, hop by hop": (IPv6(), IPv6ExtHdrHopByHop(options=[PadN(optdata=b"12")])),
    "ipv6, two options": (
        IPv6(),
        IPv6ExtHdrHopByHop(options=[PadN(optdata=b"12")]),
        IPv6ExtHdrDestOpt(options=[PadN(optdata=b"12" * 9)]),
    ),
    "ipv6, whole fragment": (IPv6(), IPv6ExtHdrFragment(id=5)),
    "ipv6, segment routing": (
        IPv6(dst="fd00::3"),
        IPv6ExtHdrSegmentRouting(addresses=["fd00::9", "fd00::3"], segleft=1),
    ),
    "ipv6, segment routing at its end": (
        IPv6(dst="fd00::9"),
        IPv6ExtHdrSegmentRouting(addresses=["fd00::9", "fd00::3"], segleft=0),
    ),
}
TUNNELS = {
    "ipv4 in ipv6": (IPv6(src="fd00::1", tc=3), IP(id=0xFFFE, flags="DF", tos=3)),
    "ipv4 in ipv6, vlan": (Dot1Q(vlan=5), IPv6(), IP()),
    "ipv4 in ipv6, encapsulation limit": (
        IPv6(),
        IPv6ExtHdrDestOpt(options=[Pad1(), PadN(optdata=b"4")]),
        IP(),
    ),
    "ipv4 in ipv4": (IP(id=5, src="192.0.2.1"), IP(id=5)),
    "ipv6 in ipv4": (IP(id=0xFFFF, options=[IPOption_Router_Alert()]), IPv6()),
    "ipv6 in ipv6": (IPv6(), IPv6(dst="fd00::2"), IPv6ExtHdrHopByHop()),
}
EVERY = STACKS | TUNNELS


def stack(name: str, *layers: Packet) -> tuple[bytes, int]:
    """Return a frame and its IP version, the inner one's in a tunnel."""
    packet: Packet = Ether(**MAC)
    for layer in (*EVERY[name], *layers):
        packet = packet / layer.copy()
    versions = [layer.version for layer in EVERY[name] if type(layer) in {IP, IPv6}]
    return bytes(packet), versions[-1]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("size", [1, 536, 1448, 10000])
def test_tcp_segments(bench: Bench, name: str, size: int) -> None:
    options = [("Timestamp", (1, 2)), ("NOP", 0), ("NOP", 0)]
    tcp = TCP(seq=2**32 - 5000, flags="FPACE", options=options)
    payload = PAYLOAD[: size * 3 + size // 2]
    frame, version = stack(name, tcp, Raw(payload))
    kind = TCPV4 if version == 4 else TCPV6
    segments = bench.segment(frame, gso_type=kind | ECN, gso_size=size, hash=9)

    assert b"".join(payloads(segments, TCP)) == payload
    assert [rebuilt(s) for s in segments] == segments
    headers = [Ether(s)[TCP] for s in segments]
    assert [h.seq for h in headers] == [
        (2**32 - 5000 + i * size) % 2**32 for i in range(len(segments))
    ]
    # CWR in the first, FIN and PSH in the last, all others in each.
    middle = ["AEC", *["AE"] * (len(segments) - 2), "FPAE"]
    expected = middle if len(segments) > 1 else ["FPAEC"]
    assert [str(h.flags) for h in headers] == expected
    if IP in Ether(frame):
        first = Ether(frame)[IP]
        ids = [(first.id + i) % 65536 for i in range(len(segments))]
        assert [Ether(s)[IP].id for s in segments] == ids
        assert {int(Ether(s)[IP].flags) for s in segments} == {int(first.flags)}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("layer", [TCP(seq=7, flags="FPACE"), UDP(sport=1, dport=2)])
@pytest.mark.parametrize("is_partial", [False, True])
def test_the_first_segments_of_a_super_frame(
    bench: Bench, name: str, layer: Packet, is_partial: bool
) -> None:
    size = 1000
    frame, version = stack(name, layer, Raw(PAYLOAD[:3500]))
    tcp = ECN | (TCPV4 if version == 4 else TCPV6)
    kind = tcp if isinstance(layer, TCP) else UDP_L4
    start = frame.rindex(bytes(Ether(frame)[type(layer)]))
    metadata = {
        "flags": PARTIAL if is_partial else 0,
        "csum_start": start,
        "csum_offset": 16 if isinstance(layer, TCP) else 6,
        "gso_type": kind,
        "gso_size": size,
    }
    segments = bench.segment(frame, **metadata)
    for n in range(1, len(segments)):
        packet = bench.packet(frame, **metadata)
        found = ffi.new("struct segments *")
        assert lib.packet_count_segments(packet, found)
        lengths = (found.n, found.length, found.last)
        assert lengths == (len(segments), len(segments[0]), len(segments[-1]))
        lib.packet_keep_segments(packet, n)
        kept = content(packet)
        assert bench.segment(kept, **metadata) == segments[:n]
        assert lib.packet_count_segments(packet, found)
        assert (found.n, found.last) == (n, found.length)
        # As one long frame it is right, too.
        lib.packet_finish_checksum(packet)
        assert content(packet) == rebuilt(kept)
        bench.free(packet)


def test_what_cannot_be_cut_has_no_segments(bench: Bench) -> None:
    frame, _ = stack("ipv4", UDP(), Raw(PAYLOAD))
    packet = bench.packet(frame, gso_type=TCPV4, gso_size=100)
    assert not lib.packet_count_segments(packet, ffi.new("struct segments *"))
    lib.packet_keep_segments(packet, 1)
    assert content(packet) == frame
    bench.free(packet)


@pytest.mark.parametrize("name", EVERY)
def test_what_is_tunnelled(bench: Bench, name: str) -> None:
    packet = bench.packet(stack(name, TCP())[0])
    assert lib.packet_is_tunnelled(packet) is (name in TUNNELS)
    bench.free(packet)


def test_congestion_window_reduced_is_said_once(bench: Bench) -> None:
    frame, _ = stack("ipv4", TCP(flags="AC"), Raw(bytes(300)))
    segments = bench.segment(frame, gso_type=TCPV4 | ECN, gso_size=100)
    assert [str(Ether(s)[TCP].flags) for s in segments] == ["AC", "A", "A"]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("size", [1, 1200, 10000])
def test_udp_segments(bench: Bench, name: str, size: int) -> None:
    payload = PAYLOAD[: size * 3 + size // 2]
    frame, _ = stack(name, UDP(sport=1, dport=2), Raw(payload))
    segments = bench.segment(frame, gso_type=UDP_L4, gso_size=size)
    assert b"".join(payloads(segments, UDP)) == payload
    assert [rebuilt(s) for s in segments] == segments


def test_udp_without_checksum_stays_without(bench: Bench) -> None:
    frame, _ = stack("ipv4", UDP(sport=1, dport=2, chksum=0), Raw(bytes(300)))
    segments = bench.segment(frame, gso_type=UDP_L4, gso_size=100)
    assert [Ether(s)[UDP].chksum for s in segments] == [0, 0, 0]
    # Where somebody relies on us for it, it is made.
    segments = bench.segment(
        frame,
        gso_type=UDP_L4,
        gso_size=100,
        flags=PARTIAL,
        csum_start=34,
        csum_offset=6,
    )
    assert [rebuilt(s) for s in segments] == segments


@given(
    size=st.integers(1, 9000),
    length=st.integers(0, 9000),
    name=st.sampled_from(sorted(EVERY)),
    is_tcp=st.booleans(),
)
def test_segments_make_the_whole(
    shared_bench: Bench, size: int, length: int, name: str, *, is_tcp: bool
) -> None:
    layer = TCP() if is_tcp else UDP(sport=1, dport=2)
    frame, version = stack(name, layer, Raw(PAYLOAD[:length]))
    kind = UDP_L4 if not is_tcp else TCPV4 if version == 4 else TCPV6
    count = max(1, -(-length // size))
    try:
        segments = shared_bench.segment(frame, gso_type=kind, gso_size=size)
    except OSError as error:
        assert (error.errno, count > 64) == (errno.E2BIG, True)  # noqa: PT017
        return
    assert len(segments) == count
    parts = payloads(segments, type(layer))
    assert b"".join(parts) == PAYLOAD[:length]
    assert all(len(part) == size for part in parts[:-1])


TCP_FRAME = stack("ipv4", TCP(), Raw(bytes(300)))[0]
IPV6_FRAME = stack("ipv6", TCP(), Raw(bytes(300)))[0]
UDP_FRAME = stack("ipv4", UDP(), Raw(bytes(300)))[0]


def changed(frame: bytes, offset: int, value: bytes) -> bytes:
    return frame[:offset] + value + frame[offset + len(value) :]


@pytest.mark.parametrize(
    ("frame", "metadata"),
    [
        (b"", {}),
        (TCP_FRAME[:13], {}),
        (TCP_FRAME[:33], {}),  # within the IPv4 header
        (TCP_FRAME[:53], {}),  # within the TCP header
        (UDP_FRAME[:41], {"gso_type": UDP_L4}),
        (IPV6_FRAME[:53], {"gso_type": TCPV6}),
        (TCP_FRAME, {"gso_size": 0}),
        (TCP_FRAME, {"gso_size": 65535}),  # would not fit an IPv4 packet
        (IPV6_FRAME, {"gso_type": TCPV6, "gso_size": 65535}),
        (TCP_FRAME, {"gso_type": 0}),
        (TCP_FRAME, {"gso_type": 3}),
        (TCP_FRAME, {"gso_type": TCPV6}),
        (TCP_FRAME, {"gso_type": UDP_L4}),
        (UDP_FRAME, {}),
        (IPV6_FRAME, {}),
        (changed(TCP_FRAME, 14, b"\x44"), {}),  # an IPv4 header of 16 bytes
        (changed(TCP_FRAME, 14, b"\x65"), {}),  # IPv6 by its version
        (changed(TCP_FRAME, 20, b"\x20\x00"), {}),  # a first fragment
        (changed(TCP_FRAME, 20, b"\x00\x01"), {}),  # a later one
        (changed(TCP_FRAME, 46, b"\x40"), {}),  # a TCP header of 16 bytes
        (changed(TCP_FRAME[:60], 46, b"\xf0"), {}),  # options behind the end
        # In two tunnels; in a fragment; in what is called IPv6; not all there.
        (stack("ipv4 in ipv4", IP(), TCP())[0], {}),
        (stack("ipv4", IP(), TCP())[0][:20] + b"\x20" + bytes(200), {}),
        (changed(stack("ipv4 in ipv6", TCP())[0], 20, b"\x29"), {}),
        (stack("ipv4 in ipv6", TCP())[0][:73], {}),
        (stack("ipv4 in ipv6", TCP())[0][:53], {}),
        (changed(stack("ipv4 in ipv6", TCP())[0], 18, b"\0\0"), {}),  # a jumbogram
        (stack("ipv4 in ipv6", TCP())[0], {"gso_size": 65480}),  # with what is around
        # A checksum elsewhere: in a tunnel of another kind.
        (TCP_FRAME, {"flags": PARTIAL, "csum_start": 34, "csum_offset": 6}),
        (TCP_FRAME, {"flags": PARTIAL, "csum_start": 84, "csum_offset": 16}),
        # A jumbogram (RFC 2675).
        (changed(IPV6_FRAME, 18, b"\0\0"), {"gso_type": TCPV6}),
        (
            stack("ipv6", IPv6ExtHdrFragment(offset=9), TCP(), Raw(bytes(300)))[0],
            {"gso_type": TCPV6},
        ),
        # The type 0 routing header (deprecated, RFC 5095) before its end.
        (
            stack("ipv6", TCP(), Raw(bytes(300)))[0][:20]
            + b"\x2b\x40"
            + IPV6_FRAME[22:54]
            + bytes([6, 2, 0, 1])
            + bytes(20)
            + IPV6_FRAME[54:],
            {"gso_type": TCPV6},
        ),
        # More extension headers and tags than anybody sends.
        (
            IPV6_FRAME[:20]
            + b"\x3c\x40"
            + IPV6_FRAME[22:54]
            + (b"\x3c\0\1\4" + bytes(4)) * 20
            + IPV6_FRAME[54:],
            {"gso_type": TCPV6},
        ),
        (TCP_FRAME[:12] + b"\x81\x00\x00\x01" * 9 + TCP_FRAME[12:], {}),
    ],
)
def test_what_cannot_be_cut_is_refused(
    bench: Bench, frame: bytes, metadata: dict[str, int]
) -> None:
    with pytest.raises(OSError, match="EINVAL"):
        bench.segment(frame, **{"gso_type": TCPV4, "gso_size": 100} | metadata)


def test_number_of_segments_is_bounded(bench: Bench) -> None:
    assert len(bench.segment(TCP_FRAME, 3, gso_type=TCPV4, gso_size=100)) == 3
    with pytest.raises(OSError, match="E2BIG"):
        bench.segment(TCP_FRAME, 2, gso_type=TCPV4, gso_size=100)
    frame, _ = stack("ipv4", TCP(), Raw(bytes(lib.SEGMENTS_MAX + 1)))
    with pytest.raises(OSError, match="E2BIG"):
        bench.segment(frame, 9999, gso_type=TCPV4, gso_size=1)


def test_all_segments_or_none() -> None:
    bench = Bench(small=4)
    with pytest.raises(OSError, match="ENOMEM"):
        bench.segment(TCP_FRAME, gso_type=TCPV4, gso_size=30)
    assert bench.nfree == bench.pool.total
    bench.close()


def test_the_largest_super_frame(bench: Bench) -> None:
    payload = PAYLOAD * 6 + PAYLOAD[:5495]
    frame, _ = stack("ipv4", TCP(), Raw(payload))
    assert len(frame) == 14 + 65535
    segments = bench.segment(frame, gso_type=TCPV4, gso_size=1460)
    assert b"".join(payloads(segments, TCP)) == payload
    assert [rebuilt(s) for s in segments] == segments


@given(
    start=st.sampled_from([TCP_FRAME, IPV6_FRAME, UDP_FRAME]),
    edits=st.lists(st.tuples(st.integers(12, 120), st.binary(max_size=4)), max_size=5),
    length=st.integers(1, 354),
    metadata=st.fixed_dictionaries(
        {
            "gso_type": st.sampled_from([TCPV4, TCPV6, UDP_L4, TCPV4 | ECN, 3, 255]),
            "gso_size": st.integers(0, 65535),
            "flags": st.integers(0, 3),
            "csum_start": st.integers(0, 65535),
            "csum_offset": st.integers(0, 65535),
        }
    ),
)
def test_any_frame_is_cut_or_refused(
    shared_bench: Bench,
    start: bytes,
    edits: list[tuple[int, bytes]],
    length: int,
    metadata: dict[str, int],
) -> None:
    """Nothing is read or written outside (under `make san`), nothing leaks."""
    frame = start
    for offset, value in edits:
        frame = changed(frame, offset, value)
    frame = frame[:length]
    try:
        segments = shared_bench.segment(frame, **metadata)
    except OSError as error:
        assert error.errno in (errno.EINVAL, errno.E2BIG)  # noqa: PT017
    else:
        assert len(segments) <= 64
        assert sum(map(len, segments)) >= length
