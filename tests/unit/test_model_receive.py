"""The receiver of the software 82599: MAC, filters, RSS, descriptors.

Judges: scapy builds the frames and so knows what is in them, zlib their CRC, and the
hash is held against the vectors that Microsoft published for it.
"""

import random
import struct
import zlib
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from snabb_py._native import ffi, lib
from snabb_py.nic.model82599 import MAC_PREFIX
from tests.card_host import CardHost, Kind, ReceiveQueue, Status

MAC = MAC_PREFIX + b"\x01"  #: the card's own
OTHER = bytes.fromhex("020000000001")
BROADCAST = b"\xff" * 6
JUMBOEN = 1 << 2
ONES = 0xFFFFFFFF


@pytest.fixture
def host() -> Iterator[CardHost]:
    """Return a host that takes broadcast and what the filters let through."""
    with CardHost(packets=1024) as host:
        host.start(promiscuous=False)
        yield host


@pytest.fixture
def rx(host: CardHost) -> ReceiveQueue:
    return host.receive_queue(0)


def ether(destination: bytes = MAC, **fields: Any) -> Packet:
    return Ether(dst=destination.hex(":"), src=OTHER.hex(":"), **fields)


def plain(n: int = 60, destination: bytes = MAC) -> bytes:
    """Return a frame of n bytes that is of no protocol."""
    return (destination + OTHER + b"\x88\xb5" + bytes(range(256)) * 64)[:n]


def tagged(vlan: int, n: int = 64, destination: bytes = MAC) -> bytes:
    frame = plain(n - 4, destination)
    return frame[:12] + struct.pack("!HH", 0x8100, vlan) + frame[12:]


# -- what a descriptor says ------------------------------------------------------------

V4, V6 = (
    IP(src="192.0.2.1", dst="192.0.2.2"),
    IPv6(src="2001:db8::1", dst="2001:db8::2"),
)
DATA = Raw(b"some data that is an odd number long.")
OPTIONS = IP(options=[IPOption_Router_Alert()])
DONE, GOOD4 = Status.DD | Status.EOP, Status.DD | Status.EOP | Status.IPCS

#: What a frame is, and what its descriptor says of it.
FRAMES: dict[str, tuple[Packet, Status, Kind]] = {
    "ARP": (ARP(), DONE, Kind(0)),
    "IPv4": (V4 / ICMP() / DATA, GOOD4, Kind.IPV4),
    "IPv4, TCP": (V4 / TCP() / DATA, GOOD4 | Status.L4I, Kind.IPV4 | Kind.TCP),
    "IPv4, UDP": (
        V4 / UDP() / DATA,
        GOOD4 | Status.L4I | Status.UDPCS,
        Kind.IPV4 | Kind.UDP,
    ),
    "IPv4, empty UDP, padded": (
        V4 / UDP(),
        GOOD4 | Status.L4I | Status.UDPCS,
        Kind.IPV4 | Kind.UDP,
    ),
    "IPv4, SCTP": (V4 / SCTP() / DATA, GOOD4, Kind.IPV4 | Kind.SCTP),
    "IPv4 with options, TCP": (
        OPTIONS / TCP() / DATA,
        GOOD4 | Status.L4I,
        Kind.IPV4 | Kind.IPV4E | Kind.TCP,
    ),
    "IPv4, first fragment": (
        IP(flags="MF") / UDP() / DATA,
        GOOD4,
        Kind.IPV4,
    ),
    "IPv4, last fragment": (
        IP(frag=10, proto=17) / DATA,
        GOOD4,
        Kind.IPV4,
    ),
    "IPv6": (V6 / Raw(b"x" * 30), DONE, Kind.IPV6),
    "IPv6, TCP": (V6 / TCP() / DATA, DONE | Status.L4I, Kind.IPV6 | Kind.TCP),
    "IPv6, UDP": (
        V6 / UDP() / DATA,
        DONE | Status.L4I | Status.UDPCS,
        Kind.IPV6 | Kind.UDP,
    ),
    "IPv6 with an extension, UDP": (
        V6 / IPv6ExtHdrHopByHop() / UDP() / DATA,
        DONE | Status.L4I | Status.UDPCS,
        Kind.IPV6 | Kind.IPV6E | Kind.UDP,
    ),
    "IPv6, fragment": (
        V6 / IPv6ExtHdrFragment(m=1) / UDP() / DATA,
        DONE,
        Kind.IPV6 | Kind.IPV6E,
    ),
    "one tag, IPv4, TCP": (
        Dot1Q(vlan=5) / V4 / TCP() / DATA,
        GOOD4 | Status.VP | Status.L4I,
        Kind.IPV4 | Kind.TCP,
    ),
    "two tags, IPv6, UDP": (
        Dot1Q(vlan=5) / Dot1Q(vlan=6) / V6 / UDP() / DATA,
        DONE | Status.VP | Status.L4I | Status.UDPCS,
        Kind.IPV6 | Kind.UDP,
    ),
    "IPv4, wrong header checksum": (
        IP(chksum=0x1234) / ICMP() / DATA,
        GOOD4 | Status.IPE,
        Kind.IPV4,
    ),
    "IPv4, TCP, wrong": (
        V4 / TCP(chksum=0x1234) / DATA,
        GOOD4 | Status.L4I | Status.L4E,
        Kind.IPV4 | Kind.TCP,
    ),
    "IPv4, UDP, wrong": (
        V4 / UDP(chksum=0x1234) / DATA,
        GOOD4 | Status.L4I | Status.UDPCS | Status.L4E,
        Kind.IPV4 | Kind.UDP,
    ),
    "IPv4, UDP without a checksum": (  # an erratum: it is said to be wrong
        V4 / UDP(chksum=0) / DATA,
        GOOD4 | Status.L4I | Status.UDPCS | Status.L4E,
        Kind.IPV4 | Kind.UDP,
    ),
    "IPv4, TCP, both wrong": (
        IP(chksum=1) / TCP(chksum=1) / DATA,
        GOOD4 | Status.L4I | Status.IPE | Status.L4E,
        Kind.IPV4 | Kind.TCP,
    ),
    "IPv6, TCP, wrong": (
        V6 / TCP(chksum=0x1234) / DATA,
        DONE | Status.L4I | Status.L4E,
        Kind.IPV6 | Kind.TCP,
    ),
    "IPv4, longer than the frame": (
        IP(len=1000) / TCP() / DATA,
        GOOD4,
        Kind.IPV4,
    ),
    "IPv4, TCP cut off in its header": (
        IP(proto=6) / Raw(b"x" * 10),
        GOOD4,
        Kind.IPV4,
    ),
    "IPv4, shorter than its header": (IP(ihl=4, len=16), DONE, Kind(0)),
    "IPv4 of version 6": (IP(version=6) / UDP() / DATA, DONE, Kind(0)),
}


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("kind", [0, 1], ids=["legacy", "advanced"])
def test_a_descriptor_tells_what_the_frame_is(
    host: CardHost, name: str, kind: int
) -> None:
    layers, status, packet_type = FRAMES[name]
    rx = host.receive_queue(0, kind=kind)
    frame = bytes(ether() / layers).ljust(60, b"\0")
    host.arrive([frame])
    buffer = rx.buffers[0]
    (got,) = rx.take()
    assert (got.data, got.status, got.vlan) == (frame, status, 0)
    if kind == 1:
        assert got.kind == packet_type
    else:
        assert got.low == buffer  # a legacy descriptor keeps its buffer's address
    wrong = (Status.IPE in status) + (Status.L4E in status)
    assert host.get("XEC") == wrong


def test_wrong_checksums_are_counted_once_however_long_a_frame_waits(
    host: CardHost,
) -> None:
    rx = host.receive_queue(0, post=False)
    host.arrive([bytes(ether() / FRAMES["IPv4, TCP, both wrong"][0])])
    for _ in range(10):
        host.step()
    rx.post(1)
    host.step()
    assert len(rx.take()) == 1
    assert host.get("XEC") == 2


@pytest.mark.parametrize("size", range(1, 17))
@pytest.mark.parametrize("kind", [0, 1], ids=["legacy", "advanced"])
def test_a_frame_takes_as_many_buffers_as_it_needs(
    host: CardHost, size: int, kind: int
) -> None:
    host.set("HLREG0", host.get("HLREG0") | JUMBOEN)
    host.set("MAXFRS", 9728 << 16)
    rx = host.receive_queue(0, n=16, size=1024 * size, kind=kind)
    layers = V4 / TCP() / Raw(bytes(range(256)) * 36)
    for frame in (bytes(ether() / layers), plain(size * 1024), plain(1024 * size + 1)):
        if len(frame) > 9724:
            continue
        host.arrive([frame])
        parts = rx.take()
        assert b"".join(part.data for part in parts) == frame
        assert len(parts) == -(-len(frame) // (1024 * size))
        assert {len(part.data) for part in parts[:-1]} <= {1024 * size}
        assert {part.status for part in parts[:-1]} <= {Status.DD}
        assert Status.EOP in parts[-1].status
        assert (Status.L4I in parts[-1].status) == (frame[12:14] == b"\x08\0")


def test_a_frame_with_too_few_descriptors_waits_for_all_of_them(host: CardHost) -> None:
    host.set("HLREG0", host.get("HLREG0") | JUMBOEN)
    host.set("MAXFRS", 9728 << 16)
    rx = host.receive_queue(0, n=16, size=1024, post=False)
    rx.post(4)
    host.arrive([plain(5000)])
    assert rx.take() == []
    rx.post(1)
    host.step()
    assert rx.frames() == [plain(5000)]


def test_a_frame_that_no_ring_could_hold_is_dropped(host: CardHost) -> None:
    host.set("HLREG0", host.get("HLREG0") | JUMBOEN)
    host.set("MAXFRS", 9728 << 16)
    rx = host.receive_queue(0, n=8, size=1024)
    host.arrive([plain(8000), plain(7168)])
    assert rx.frames() == [plain(7168)]
    assert host.get("QPRDC") == 1


def test_bit_0_of_an_advanced_buffer_is_no_part_of_its_address(host: CardHost) -> None:
    rx = host.receive_queue(0, post=False)
    host.poke(rx.ring, struct.pack("<QQ", rx.buffers[0] | 1, 0))
    host.set("RDT", 1)
    host.arrive([plain()])
    assert rx.frames() == [plain()]


@pytest.mark.parametrize("kind", [2, 5, 7])
def test_header_split_is_refused(host: CardHost, kind: int) -> None:
    host.receive_queue(0, kind=kind)
    host.arrive([plain()])
    assert host.counters["header-split-refused"] == 1
    assert host.get("QPRDC") == 1


# -- MAC: lengths, padding, CRC --------------------------------------------------------

LIMITS = [
    # HLREG0.JUMBOEN, MAXFRS in bytes with CRC, most bytes of a frame without
    (False, 1518, 1514),
    (False, 9728, 1514),  # without JUMBOEN it has no say
    (True, 1518, 1514),
    (True, 1522, 1518),
    (True, 256, 252),
    (True, 9728, 9724),
    (True, 16128, 16124),
]


@pytest.mark.parametrize(("jumbo", "maximum", "most"), LIMITS)
def test_a_frame_may_be_as_long_as_maxfrs(
    host: CardHost, *, jumbo: bool, maximum: int, most: int
) -> None:
    rx = host.receive_queue(0, n=16)
    host.set("HLREG0", host.get("HLREG0") | jumbo * JUMBOEN)
    host.set("MAXFRS", maximum << 16)
    host.arrive([plain(most), plain(most + 1)])
    assert rx.frames() == [plain(most)]
    too_long = most < 16124  # beyond is what no register can allow
    assert host.get("ROC") == too_long
    assert host.counters["drop-rx-bad-length"] == 1


@pytest.mark.parametrize(("jumbo", "maximum", "most"), LIMITS[:-1])
def test_a_tag_does_not_count(
    host: CardHost, *, jumbo: bool, maximum: int, most: int
) -> None:
    rx = host.receive_queue(0, n=16)
    host.set("HLREG0", host.get("HLREG0") | jumbo * JUMBOEN)
    host.set("MAXFRS", maximum << 16)
    host.arrive([tagged(5, most + 4), tagged(5, most + 5)])
    assert rx.frames() == [tagged(5, most + 4)]
    assert host.get("ROC") == 1


def test_store_bad_lets_a_long_frame_through(host: CardHost, rx: ReceiveQueue) -> None:
    host.set("FCTRL", host.get("FCTRL") | 1 << 1)
    host.arrive([plain(1600)])
    assert rx.frames() == [plain(1600)]
    assert host.get("ROC") == 1
    assert "drop-rx-bad-length" not in host.counters


@pytest.mark.parametrize("n", [14, 15, 42, 59, 60, 61])
def test_short_frames_are_filled_up(host: CardHost, rx: ReceiveQueue, n: int) -> None:
    host.arrive([plain(n)])
    assert rx.frames() == [plain(n).ljust(60, b"\0")]


@pytest.mark.parametrize("n", [0, 1, 13])
def test_what_has_no_header_is_no_frame(host: CardHost, n: int) -> None:
    host.arrive([plain(n)])
    assert host.counters["drop-rx-bad-length"] == 1
    assert host.get("TPR") == 0


@pytest.mark.parametrize("n", [20, 60, 61, 1514])
def test_the_crc_is_there_when_it_is_not_stripped(host: CardHost, n: int) -> None:
    rx = host.receive_queue(0)
    host.set("HLREG0", host.get("HLREG0") & ~2)
    host.arrive([plain(n)])
    frame = plain(n).ljust(60, b"\0")
    assert rx.frames() == [frame + struct.pack("<I", zlib.crc32(frame))]


def test_checksums_are_judged_behind_a_crc_too(host: CardHost) -> None:
    rx = host.receive_queue(0)
    host.set("HLREG0", host.get("HLREG0") & ~2)
    host.arrive([bytes(ether() / V4 / UDP() / DATA)])
    assert rx.take()[0].status == GOOD4 | Status.L4I | Status.UDPCS


def test_while_rxen_is_off_frames_are_lost(host: CardHost, rx: ReceiveQueue) -> None:
    host.set("RXCTRL", 0)
    host.arrive([plain()])
    host.set("RXCTRL", 1)
    host.arrive([plain(61)])
    assert rx.frames() == [plain(61)]
    assert host.counters["drop-rx-disabled"] == 1


def test_without_a_cable_nothing_comes(host: CardHost, rx: ReceiveQueue) -> None:
    host.card.plug(False)
    host.arrive([plain()])
    host.card.plug(True)
    host.arrive([plain(61)])
    assert rx.frames() == [plain(61)]
    assert host.counters["drop-rx-link-down"] == 1


# -- frames that another stack has left unfinished -------------------------------------


def test_super_frames_arrive_cut(host: CardHost, rx: ReceiveQueue) -> None:
    payload = bytes(range(256)) * 20
    frame = bytes(ether() / V4 / TCP(flags="PA", seq=7) / Raw(payload))
    host.arrive(
        [frame],
        gso_type=lib.PACKET_GSO_TCPV4,
        gso_size=1000,
        flags=lib.PACKET_CSUM_PARTIAL,
        csum_start=34,
        csum_offset=16,
    )
    got = rx.take()
    assert [len(part.data) for part in got] == [1054] * 5 + [174]
    assert all(part.status == GOOD4 | Status.L4I for part in got)
    parts = [Ether(part.data) for part in got]
    assert b"".join(bytes(part[TCP].payload) for part in parts) == payload
    assert [part[TCP].seq for part in parts] == [7 + 1000 * i for i in range(6)]


def test_an_unfinished_checksum_arrives_finished(
    host: CardHost, rx: ReceiveQueue
) -> None:
    pseudo = ip_address("192.0.2.1").packed + ip_address("192.0.2.2").packed
    length = len(bytes(DATA)) + 8
    total = sum(struct.unpack("!4H", pseudo)) + 17 + length
    unfinished = ether() / V4 / UDP(chksum=total % 0xFFFF) / DATA
    host.arrive(
        [bytes(unfinished)],
        flags=lib.PACKET_CSUM_PARTIAL,
        csum_start=34,
        csum_offset=6,
    )
    (got,) = rx.take()
    assert got.status == GOOD4 | Status.L4I | Status.UDPCS
    assert got.data == bytes(ether() / V4 / UDP() / DATA)


def test_a_super_frame_that_cannot_be_cut_is_dropped(host: CardHost) -> None:
    host.arrive([plain(3000)], gso_type=lib.PACKET_GSO_TCPV4, gso_size=1000)
    assert host.counters["drop-rx-bad-offload"] == 1


# -- filters: 7.1.1 --------------------------------------------------------------------


def set_filter(host: CardHost, n: int, address: bytes, *, valid: bool = True) -> None:
    host.set("RAL", int.from_bytes(address[:4], "little"), n)
    host.set("RAH", int.from_bytes(address[4:], "little") | valid << 31, n)


def test_128_addresses_are_filtered_exactly(host: CardHost, rx: ReceiveQueue) -> None:
    rng = random.Random(82599)  # noqa: S311
    addresses = [MAC] + [b"\x02" + rng.randbytes(5) for _ in range(127)]
    for n, address in enumerate(addresses[1:], start=1):
        host.arrive([plain(60, address)])
        assert rx.frames() == []
        set_filter(host, n, address)
    for address in addresses:
        frames = [plain(60, address)]
        near = [bytes([*address[:5], address[5] ^ 1]), b"\x06" + address[1:]]
        host.arrive(frames + [plain(60, a) for a in near if a not in addresses])
        assert rx.frames() == frames
    for n, address in enumerate(addresses):
        set_filter(host, n, address, valid=False)
        host.arrive([plain(60, address)])
        assert rx.frames() == []
    assert host.counters["drop-rx-filtered"] == 127 + 2 * 128 + 128


def test_a_group_address_can_be_filtered_exactly_too(
    host: CardHost, rx: ReceiveQueue
) -> None:
    group = bytes.fromhex("01005e010203")
    set_filter(host, 100, group)
    host.arrive([plain(60, group), plain(60, group[:5] + b"\x04")])
    assert rx.frames() == [plain(60, group)]


BAM, UPE, MPE = 1 << 10, 1 << 9, 1 << 8
WHO = {
    "own": MAC,
    "unicast": bytes.fromhex("0a0102030405"),
    "multicast": bytes.fromhex("01005e010203"),
    "broadcast": BROADCAST,
}
WHO_PASSES = [
    # FCTRL, who passes
    (0, {"own"}),
    (BAM, {"own", "broadcast"}),
    (UPE, {"own", "unicast"}),
    (MPE, {"own", "multicast"}),
    (UPE | MPE, {"own", "unicast", "multicast"}),
    (UPE | MPE | BAM, set(WHO)),
]


@pytest.mark.parametrize(("fctrl", "passes"), WHO_PASSES)
def test_fctrl_says_who_passes(
    host: CardHost, rx: ReceiveQueue, fctrl: int, passes: set[str]
) -> None:
    host.set("FCTRL", fctrl)
    for who, address in WHO.items():
        host.arrive([plain(60, address)])
        assert len(rx.frames()) == (who in passes), who


MULTICAST = bytes.fromhex("01005e7ab5c3")
#: 12 bits of the address, counted from its last byte: 8.2.3.7.7.
MTA_BITS = {0: slice(36, 48), 1: slice(35, 47), 2: slice(34, 46), 3: slice(32, 44)}


def hash_of(address: bytes, mode: int) -> int:
    """Return the bits of an address that MCSTCTRL.MO names, as the data sheet does.

    Bit 0 is the first on the wire: the least significant of the first byte.
    """
    bits = int.from_bytes(address, "little")
    part = MTA_BITS[mode]
    return bits >> part.start & (1 << (part.stop - part.start)) - 1


@pytest.mark.parametrize("mode", MTA_BITS)
def test_mta_is_a_hash_of_12_bits(host: CardHost, rx: ReceiveQueue, mode: int) -> None:
    bit = hash_of(MULTICAST, mode)
    host.set("MCSTCTRL", mode | 1 << 2)
    for n in range(128):
        host.set("MTA", ONES ^ (1 << bit % 32 if n == bit // 32 else 0), n)
    host.arrive([plain(60, MULTICAST)])
    assert rx.frames() == []
    for n in range(128):
        host.set("MTA", 1 << bit % 32 if n == bit // 32 else 0, n)
    host.arrive([plain(60, MULTICAST)])
    (got,) = rx.take()
    assert Status.PIF in got.status  # another address may have the same hash
    host.set("MCSTCTRL", mode)  # MFE off
    host.arrive([plain(60, MULTICAST)])
    assert rx.frames() == []


def test_what_passes_for_sure_has_no_pif(host: CardHost, rx: ReceiveQueue) -> None:
    host.set("MCSTCTRL", 1 << 2)
    for n in range(128):
        host.set("MTA", ONES, n)
    host.arrive([plain(60, MAC), plain(60, BROADCAST), plain(60, MULTICAST)])
    host.set("FCTRL", BAM | MPE)
    host.arrive([plain(60, MULTICAST)])
    set_filter(host, 5, MULTICAST)
    host.set("FCTRL", BAM)
    host.arrive([plain(60, MULTICAST)])
    inexact = [Status.PIF in part.status for part in rx.take()]
    assert inexact == [False, False, True, False, False]


VFE, CFIEN, CFI = 1 << 30, 1 << 29, 1 << 28
VLANS = [0, 1, 31, 32, 100, 4095]


@pytest.mark.parametrize("vlan", VLANS)
def test_vfta_filters_tags_by_their_12_bits(
    host: CardHost, rx: ReceiveQueue, vlan: int
) -> None:
    frames = [tagged(vlan), tagged(vlan | 7 << 13), tagged(vlan | 1 << 12)]
    host.arrive(frames)
    assert rx.frames() == frames  # without VFE
    host.set("VLNCTRL", 0x8100 | VFE)
    host.set("VFTA", 1 << vlan % 32, vlan // 32)
    host.arrive(frames + [tagged(v) for v in (vlan ^ 1, vlan ^ 32, vlan ^ 0x800)])
    assert rx.frames() == frames
    host.arrive([plain()])
    assert rx.frames() == [plain()]
    assert host.counters["drop-rx-filtered"] == 3


@pytest.mark.parametrize("cfi", [0, 1])
def test_cfien_wants_this_cfi(host: CardHost, rx: ReceiveQueue, cfi: int) -> None:
    host.set("VLNCTRL", 0x8100 | VFE | CFIEN | cfi * CFI)
    host.set("VFTA", 1 << 5)
    frames = [tagged(5), tagged(5 | 1 << 12)]
    host.arrive(frames)
    assert rx.frames() == [frames[cfi]]


def test_vlnctrl_says_what_a_tag_is(host: CardHost, rx: ReceiveQueue) -> None:
    provider = bytes(ether() / Dot1AD(vlan=9) / Raw(bytes(60)))
    host.set("VLNCTRL", 0x88A8 | VFE)
    host.arrive([tagged(5), provider])
    assert rx.frames() == [tagged(5)]
    host.set("VFTA", 1 << 9)
    host.arrive([provider])
    assert Status.VP in rx.take()[0].status


@pytest.mark.parametrize("kind", [0, 1], ids=["legacy", "advanced"])
@pytest.mark.parametrize("n", [64, 1000, 1028, 1518])
def test_a_stripped_tag_is_in_the_descriptor(host: CardHost, kind: int, n: int) -> None:
    rx = host.receive_queue(0, strip=True, size=1024, kind=kind)
    host.arrive([tagged(0xA123, n), plain(n - 4)])
    parts = rx.take()
    first = next(i for i, part in enumerate(parts) if part.is_end)
    assert b"".join(part.data for part in parts[: first + 1]) == plain(n - 4)
    assert (parts[first].vlan, Status.VP in parts[first].status) == (0xA123, True)
    assert (parts[-1].vlan, Status.VP in parts[-1].status) == (0, False)


# -- RSS: 7.1.2.8 ----------------------------------------------------------------------

Vector = tuple[str, int, str, int, int, int]

#: The key and the vectors of "RSS hash verification", Microsoft's NDIS documentation:
#: source and destination with ports, hash without and with the ports.
KEY = bytes.fromhex(
    "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
)
VECTORS: list[Vector] = [
    ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x323E8FC2, 0x51CCC178),
    ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xD718262A, 0xC626B0EA),
    ("24.19.198.95", 12898, "12.22.207.184", 38024, 0xD2D0A5DE, 0x5C2B394A),
    ("38.27.205.30", 48228, "209.142.163.6", 2217, 0x82989176, 0xAFC7327F),
    ("153.39.163.191", 44251, "202.188.127.2", 1303, 0x5D1809C5, 0x10E828A2),
    (
        "3ffe:2501:200:1fff::7",
        2794,
        "3ffe:2501:200:3::1",
        1766,
        0x2CC18CD5,
        0x40207D3D,
    ),
    ("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0x0F0C461C, 0xDDE51BBF),
    (
        "3ffe:1900:4545:3:200:f8ff:fe21:67cf",
        44251,
        "fe80::200:f8ff:fe21:67cf",
        38024,
        0x4B61E985,
        0x02D1FEEF,
    ),
]
#: MRQC: what is hashed.
TCP4, IP4, IP6, TCP6, UDP4, UDP6 = (1 << n for n in (16, 17, 20, 21, 22, 23))
#: RSS type of a descriptor.
TYPES = {"TCP4": 1, "IP4": 2, "TCP6": 3, "IP6": 5, "UDP4": 7, "UDP6": 8}


def set_key(host: CardHost, key: bytes = KEY) -> None:
    for n, word in enumerate(struct.unpack("<10I", key)):
        host.set("RSSRK", word, n)


def start_rss(host: CardHost, fields: int, mode: int = 1) -> None:
    set_key(host)
    host.set("MRQC", mode | fields)
    host.set("RXCSUM", 1 << 13)  # PCSD: the descriptor has the hash


def flow(source: str, sport: int, destination: str, dport: int, layer: type) -> bytes:
    ip = IPv6 if ":" in source else IP
    packet = ip(src=source, dst=destination) / layer(sport=sport, dport=dport)
    return bytes(ether() / packet / DATA)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector[0])
@pytest.mark.parametrize("layer", [TCP, UDP])
def test_the_hash_is_microsofts(
    host: CardHost, rx: ReceiveQueue, vector: Vector, layer: type
) -> None:
    without_ports, with_ports = vector[4:]
    frame, version = flow(*vector[:4], layer), "6" if ":" in vector[0] else "4"
    ip_field = {"4": IP4, "6": IP6}[version]
    port_field = {"4": (TCP4, UDP4), "6": (TCP6, UDP6)}[version][layer is UDP]
    expected = [
        # hashed, type, hash
        (ip_field, f"IP{version}", without_ports),
        (port_field, f"{layer.__name__}{version}", with_ports),
        (ip_field | port_field, f"{layer.__name__}{version}", with_ports),
    ]
    for fields, rss_type, value in expected:
        start_rss(host, fields)
        host.arrive([frame])
        (got,) = rx.take()
        assert (got.rss_type, got.hash) == (TYPES[rss_type], value)


EVERYTHING = TCP4 | IP4 | IP6 | TCP6 | UDP4 | UDP6
V4_FLOW, V6_FLOW = VECTORS[0], VECTORS[5]


def test_a_fragment_is_hashed_without_ports(host: CardHost, rx: ReceiveQueue) -> None:
    source, _, destination, _, without_ports, _ = V4_FLOW
    start_rss(host, EVERYTHING)
    first = IP(src=source, dst=destination, flags="MF") / UDP() / DATA
    last = IP(src=source, dst=destination, frag=10, proto=17) / DATA
    host.arrive([bytes(ether() / part) for part in (first, last)])
    got = [(part.rss_type, part.hash) for part in rx.take()]
    assert got == [(TYPES["IP4"], without_ports)] * 2


def test_a_tag_is_not_in_the_way_of_the_hash(host: CardHost, rx: ReceiveQueue) -> None:
    start_rss(host, EVERYTHING)
    frame = flow(*V4_FLOW[:4], TCP)
    host.arrive([frame[:12] + b"\x81\0\0\5" + frame[12:]])
    assert rx.take()[0].hash == V4_FLOW[5]


NOT_HASHED = [
    # MRQC, PCSD
    (0, 1),  # no RSS
    (0 | EVERYTHING, 1),
    (8 | EVERYTHING, 1),  # VMDq without RSS
    (1, 1),  # no field
    (1 | IP6 | TCP6 | UDP6 | UDP4, 1),
    (1 | EVERYTHING, 0),  # the field of the hash is for fragments' checksums
]


@pytest.mark.parametrize(("mrqc", "pcsd"), NOT_HASHED)
def test_a_descriptor_without_a_hash(
    host: CardHost, rx: ReceiveQueue, mrqc: int, pcsd: int
) -> None:
    set_key(host)
    host.set("MRQC", mrqc)
    host.set("RXCSUM", pcsd << 13)
    host.arrive([flow(*V4_FLOW[:4], TCP)])
    (got,) = rx.take()
    assert (got.rss_type, got.hash) == (0, 0)


def test_a_new_key_is_used_at_once(host: CardHost, rx: ReceiveQueue) -> None:
    frame = flow(*V4_FLOW[:4], TCP)
    start_rss(host, EVERYTHING)
    host.arrive([frame])
    set_key(host, bytes(40))
    host.arrive([frame])
    set_key(host)
    host.arrive([frame])
    assert [part.hash for part in rx.take()] == [V4_FLOW[5], 0, V4_FLOW[5]]


def test_a_repeated_key_hashes_both_ways_alike(
    host: CardHost, rx: ReceiveQueue
) -> None:
    start_rss(host, EVERYTHING)
    set_key(host, b"\x6d\x5a" * 20)
    for source, sport, destination, dport, _, _ in VECTORS:
        there = flow(source, sport, destination, dport, TCP)
        back = flow(destination, dport, source, sport, TCP)
        host.arrive([there, back])
        one, other = rx.take()
        assert one.hash == other.hash != 0


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector[0])
def test_reta_leads_by_7_bits_of_the_hash(host: CardHost, vector: Vector) -> None:
    value = vector[5]
    entry = value % 128
    host.receive_queue(0)
    rx = host.receive_queue(11)
    start_rss(host, EVERYTHING)
    host.set("RETA", 11 << entry % 4 * 8, entry // 4)
    host.arrive([flow(*vector[:4], TCP)])
    assert len(rx.take()) == 1


def test_what_has_no_hash_goes_to_queue_0(host: CardHost) -> None:
    rx = host.receive_queue(0)
    host.receive_queue(5)
    start_rss(host, TCP4)
    for n in range(32):
        host.set("RETA", 0x05050505, n)
    host.arrive([plain(), flow(*V4_FLOW[:4], UDP), flow(*V6_FLOW[:4], TCP)])
    assert len(rx.take()) == 3


def test_flows_spread_over_16_queues(host: CardHost) -> None:
    queues = [host.receive_queue(n) for n in range(16)]
    start_rss(host, EVERYTHING)
    for n in range(32):
        host.set("RETA", 0x03020100 + 0x04040404 * (n % 4), n)
    frames = [flow("192.0.2.1", 1000 + n, "192.0.2.2", 80, TCP) for n in range(500)]
    host.arrive(frames)
    counts = []
    for rx in queues:
        got = rx.take()
        counts.append(len(got))
        assert {part.hash % 16 for part in got} == {rx.number}
    assert sum(counts) == 500
    assert min(counts) > 10
    assert max(counts) < 60


# -- memory that is not there ----------------------------------------------------------


def test_a_ring_that_is_not_mapped_harms_nobody(host: CardHost) -> None:
    host.receive_queue(0)
    host.set("RDBAH", 0x1234)
    host.arrive([plain()])
    assert host.counters["dma-read-unmapped"] == 1
    assert host.counters["drop-rx-no-descriptor"] == 1


def test_a_buffer_that_is_not_mapped_gets_nothing(host: CardHost) -> None:
    rx = host.receive_queue(0, post=False)
    rx.buffers[0] = 0x1234_0000_0000
    rx.post(2)
    host.arrive([plain(), plain(61)])
    assert host.counters["dma-write-unmapped"] == 1
    host.poke(rx.ring + 8, bytes(8))
    rx.next = 1
    assert rx.frames() == [plain(61)]


def test_a_buffer_over_two_regions_is_written_in_both(host: CardHost) -> None:
    parts = [ffi.new("uint8_t[4096]") for _ in range(2)]
    for n, part in enumerate(parts):
        host.card.map(0x1000_0000 + 4096 * n, part, 4096)
    rx = host.receive_queue(0, post=False)
    host.poke(rx.ring, struct.pack("<QQ", 0x1000_0000 + 4096 - 700, 0))
    host.set("RDT", 1)
    host.arrive([plain(1500)])
    written = bytes(ffi.buffer(parts[0]))[-700:] + bytes(ffi.buffer(parts[1]))[:800]
    assert written == plain(1500)
    assert set(bytes(ffi.buffer(parts[1]))[800:]) == {0}


BAD_RINGS = [
    # RDLEN, RDH, RDT
    (0, 0, 1),
    (128, 0, 8),
    (128, 9, 1),
    (128, 0, 0xFFFF),
]


@pytest.mark.parametrize(("length", "head", "tail"), BAD_RINGS)
def test_a_ring_that_is_none_is_counted_once(
    host: CardHost, length: int, head: int, tail: int
) -> None:
    host.receive_queue(0, post=False, drop=True)
    host.set("RXDCTL", 0)
    host.set("RDLEN", length)
    host.set("RDH", head)
    host.set("RXDCTL", 1 << 25)
    host.set("RDT", tail)
    host.arrive([plain()] * 3)
    assert host.counters["bad-ring"] == 1
    assert host.counters["rx-packets"] == 3
    assert host.counters.get("host-packets", 0) == 0
