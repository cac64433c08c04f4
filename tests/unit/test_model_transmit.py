"""The transmitter of the software 82599: descriptors, offloads, the wire's speed.

Judge: scapy, which builds what is to come out from its fields; what goes in has its
checksums missing, as a driver leaves them to the card.
"""

import itertools
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.packet import Packet, Raw

from snabb_py._native import ffi
from snabb_py.nic.model82599 import Card
from tests.card_host import (
    DATA,
    EOP,
    IC,
    IFCS,
    IXSM,
    RS,
    TSE,
    TXSM,
    VLE,
    CardHost,
    TransmitQueue,
    cut,
)

ADDRESSES = bytes.fromhex("020000000002 020000000001".replace(" ", ""))
#: On the wire beside a frame: CRC, preamble, gap; bytes.
AROUND = 24
BITS_PER_US = 10_000


@pytest.fixture
def host() -> Iterator[CardHost]:
    with CardHost(packets=2048) as host:
        host.start()
        yield host


@pytest.fixture
def tx(host: CardHost) -> TransmitQueue:
    return host.transmit_queue(0)


def plain(n: int = 60, seed: int = 0) -> bytes:
    return (ADDRESSES + b"\x88\xb5" + bytes([seed]) + bytes(range(256)) * 64)[:n]


# -- descriptors -----------------------------------------------------------------------


@pytest.mark.parametrize("n", [17, 59, 60, 61, 1514, 9728, 16124])
def test_a_frame_leaves_as_it_was_given(
    host: CardHost, tx: TransmitQueue, n: int
) -> None:
    host.set("HLREG0", host.get("HLREG0") & ~(1 << 10))  # no padding
    tx.send([plain(n)])
    assert host.sent() == [plain(n)]
    assert tx.is_done(0)


@pytest.mark.parametrize("n", [17, 59, 60])
def test_txpaden_fills_up(host: CardHost, tx: TransmitQueue, n: int) -> None:
    tx.send([plain(n)])
    assert host.sent() == [plain(n).ljust(60, b"\0")]


@pytest.mark.parametrize("pieces", [2, 3, 15, 60])
def test_a_frame_is_gathered_from_its_descriptors(
    host: CardHost, tx: TransmitQueue, pieces: int
) -> None:
    tx.send([plain(1500)], pieces=pieces)
    assert host.sent() == [plain(1500)]
    used = len(cut(plain(1500), pieces))
    assert [tx.is_done(n) for n in range(used)] == [False] * (used - 1) + [True]
    assert host.get("TDH") == used


def test_the_ring_goes_round(host: CardHost) -> None:
    tx = host.transmit_queue(0, n=8)
    for seed in range(50):
        tx.send([plain(100, seed)], pieces=1 + seed % 7)
        assert host.sent() == [plain(100, seed)]


def test_a_frame_without_its_end_waits(host: CardHost, tx: TransmitQueue) -> None:
    first, second = cut(plain(100), 2)
    tx.put(tx.buffer(first), len(first) | DATA | IFCS)
    tx.ring_doorbell()
    assert (host.sent(), host.get("TDH")) == ([], 0)
    tx.put(tx.buffer(second), len(second) | DATA | IFCS | EOP | RS)
    assert host.sent() == []
    tx.ring_doorbell()
    assert host.sent() == [plain(100)]


@pytest.mark.parametrize("legacy", [False, True])
def test_dd_is_written_where_rs_asks_for_it(
    host: CardHost, tx: TransmitQueue, *, legacy: bool
) -> None:
    asks = [True, False, False, True, False]
    for rs in asks:
        kind = 0 if legacy else DATA
        tx.put(tx.buffer(plain()), 60 | kind | IFCS | EOP | rs * RS)
    tx.ring_doorbell()
    assert len(host.sent()) == 5
    assert [tx.is_done(n) for n in range(5)] == asks
    assert host.get("TDH") == 5


def test_a_context_can_ask_for_dd_too(host: CardHost, tx: TransmitQueue) -> None:
    tx.put_context()
    tx.put(0, 2 << 20 | 1 << 29 | RS)
    tx.ring_doorbell()
    host.step()
    assert [tx.is_done(0), tx.is_done(1)] == [False, True]


def test_the_head_can_be_written_instead(host: CardHost, tx: TransmitQueue) -> None:
    at = host.allocate(8)
    host.poke(at, b"\xff" * 8)
    host.set("TDWBAH", at >> 32)
    host.set("TDWBAL", at & 0xFFFFFFFF | 1)
    for frames in (1, 3):
        tx.send([plain()] * frames)
        host.sent()
        assert host.peek(at, 8) == struct.pack("<I", tx.tail) + b"\xff" * 4
    assert not any(tx.is_done(n) for n in range(4))
    tx.put(tx.buffer(plain()), 60 | DATA | IFCS | EOP)
    tx.ring_doorbell()
    host.sent()
    assert host.peek(at, 1) == b"\4"  # without RS nothing is written


def test_without_te_nothing_is_sent(host: CardHost, tx: TransmitQueue) -> None:
    host.set("DMATXCTL", 0)
    tx.send([plain()])
    assert host.sent() == []
    host.set("DMATXCTL", 1)
    assert host.sent() == [plain()]


def test_without_a_cable_frames_are_lost(host: CardHost, tx: TransmitQueue) -> None:
    host.card.plug(False)
    tx.send([plain()])
    assert host.sent() == []
    assert tx.is_done(0)
    assert host.counters["drop-tx-link-down"] == 1
    assert (host.get("GPTC"), host.get("GOTCL")) == (0, 0)


# -- what cannot be sent ---------------------------------------------------------------


def good_afterwards(host: CardHost, tx: TransmitQueue, counter: str) -> None:
    """Check that a frame was dropped and counted, and that the queue goes on."""
    tx.ring_doorbell()
    assert host.sent() == []
    assert host.counters.get(counter) == 1
    assert host.get("TDH") == tx.tail
    tx.send([plain()])
    assert host.sent() == [plain()]


@pytest.mark.parametrize("n", [1, 16])
def test_a_frame_that_would_hang_the_transmitter_is_refused(
    host: CardHost, tx: TransmitQueue, n: int
) -> None:
    tx.put_frame(plain(n))
    good_afterwards(host, tx, "drop-tx-bad-length")


def test_a_frame_longer_than_any_is_refused(host: CardHost, tx: TransmitQueue) -> None:
    tx.put_frame(plain(16125), pieces=2)
    good_afterwards(host, tx, "drop-tx-bad-length")


def test_a_frame_longer_than_paylen_can_say_is_refused(
    host: CardHost, tx: TransmitQueue
) -> None:
    at = tx.buffer(plain(16000))
    for n in range(60):
        tx.put(at, 16000 | DATA | IFCS | TSE | (EOP if n == 59 else 0))
    good_afterwards(host, tx, "drop-tx-bad-length")


@pytest.mark.parametrize("kind", [0, 1, 4, 15])
def test_a_descriptor_of_no_known_type_is_refused(
    host: CardHost, tx: TransmitQueue, kind: int
) -> None:
    tx.put(tx.buffer(plain()), 60 | kind << 20 | 1 << 29 | IFCS | EOP | RS)
    good_afterwards(host, tx, "drop-tx-bad-descriptor")


@pytest.mark.parametrize("pieces", [1, 2])
def test_data_that_is_not_mapped_is_refused(
    host: CardHost, tx: TransmitQueue, pieces: int
) -> None:
    for n in range(pieces):
        at = 0x1234_0000_0000 if n == pieces - 1 else tx.buffer(plain())
        tx.put(at, 60 | DATA | IFCS | (EOP | RS if n == pieces - 1 else 0))
    good_afterwards(host, tx, "drop-tx-bad-descriptor")
    assert host.counters["dma-read-unmapped"] == 1


def test_data_over_two_regions_is_read_from_both(
    host: CardHost, tx: TransmitQueue
) -> None:
    parts = [ffi.new("uint8_t[4096]") for _ in range(2)]
    for n, part in enumerate(parts):
        host.card.map(0x1000_0000 + 4096 * n, part, 4096)
    ffi.memmove(parts[0] + 3396, plain(1500)[:700], 700)
    ffi.memmove(parts[1], plain(1500)[700:], 800)
    tx.put(0x1000_0000 + 3396, 1500 | DATA | IFCS | EOP | RS)
    tx.ring_doorbell()
    assert host.sent() == [plain(1500)]


def test_a_ring_that_is_not_mapped_is_tried_once(
    host: CardHost, tx: TransmitQueue
) -> None:
    host.set("TDBAH", 0x1234)
    tx.send([plain()])
    for _ in range(5):
        host.step()
    assert host.counters["dma-read-unmapped"] == 1
    host.set("TXDCTL", 0)
    host.set("TDBAH", tx.ring >> 32)
    host.set("TXDCTL", 1 << 25)
    assert host.sent() == [plain()]


@pytest.mark.parametrize(
    ("length", "head", "tail"), [(0, 0, 1), (128, 0, 8), (128, 9, 1), (128, 0, 0xFFFF)]
)
def test_a_ring_that_is_none_is_counted_once(
    host: CardHost, tx: TransmitQueue, length: int, head: int, tail: int
) -> None:
    host.set("TXDCTL", 0)
    host.set("TDLEN", length)
    host.set("TDH", head)
    host.set("TXDCTL", 1 << 25)
    host.set("TDT", tail)
    for _ in range(5):
        host.step()
    assert host.counters["bad-ring"] == 1
    assert host.wire.received() == []
    assert tx.is_done(0) is False


# -- checksums: 7.2.5 ------------------------------------------------------------------


def fold(total: int) -> int:
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def words(data: bytes) -> int:
    return sum(struct.unpack(f"!{len(data) // 2}H", data))


def addresses(ip: Packet) -> bytes:
    raw = bytes(ip)
    return raw[12:20] if isinstance(ip, IP) else raw[8:40]


PROTOCOLS = {UDP: 0, TCP: 1, SCTP: 2}
CHECKSUM_AT = {UDP: 6, TCP: 16, SCTP: 8}
NUMBER = {UDP: 17, TCP: 6, SCTP: 132}


class Work:
    """A frame as it is to leave, and how a driver hands it over.

    Args:
        packet: of scapy, with Ethernet, perhaps a tag, IP, and TCP, UDP or SCTP.
        length: the checksum's part in the frame counts the length of layer 4, as
            everywhere but in segmentation.
    """

    def __init__(self, packet: Packet, *, length: bool = True) -> None:
        self.finished = bytes(packet)
        self.packet = Ether(self.finished)
        self.ip = self.packet[IPv6] if IPv6 in self.packet else self.packet[IP]
        self.is_ipv4 = isinstance(self.ip, IP)
        self.kind: Any = next(kind for kind in PROTOCOLS if kind in self.packet)
        layer4 = bytes(self.packet[self.kind])
        self.l4_at = len(self.finished) - len(layer4)
        self.ip_at = len(self.finished) - len(bytes(self.ip))
        given = bytearray(self.finished)
        if self.is_ipv4:
            given[self.ip_at + 10 : self.ip_at + 12] = bytes(2)
        at = self.l4_at + CHECKSUM_AT[self.kind]
        if self.kind is SCTP:
            given[at : at + 4] = bytes(4)
        else:
            total = words(addresses(self.ip)) + NUMBER[self.kind]
            total += len(layer4) if length else 0
            given[at : at + 2] = struct.pack("!H", fold(total))
        self.given = bytes(given)

    @property
    def context(self) -> dict[str, Any]:
        """What its context descriptor says."""
        return {
            "mac": self.ip_at,
            "ip": self.l4_at - self.ip_at,
            "protocol": PROTOCOLS[self.kind],
            "is_ipv4": self.is_ipv4,
        }

    @property
    def command(self) -> int:
        return TXSM | (IXSM if self.is_ipv4 else 0)


ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4, V6 = (
    IP(src="192.0.2.1", dst="192.0.2.2"),
    IPv6(src="2001:db8::1", dst="2001:db8::2"),
)
LAYERS_2 = {"": ETHER, "tagged ": ETHER / Dot1Q(vlan=5, prio=3)}
LAYERS_3 = {
    "IPv4": V4,
    "IPv4 with options": IP(src="192.0.2.1", dst="192.0.2.2", options=b"\x01" * 8),
    "IPv6": V6,
    "IPv6 with an extension": V6 / IPv6ExtHdrHopByHop(),
}
LAYERS_4 = {
    "TCP": TCP(sport=80, dport=5000, seq=0xFFFFFF00, flags="PA"),
    "TCP with options": TCP(options=[("Timestamp", (1, 2)), ("NOP", None)] * 2),
    "UDP": UDP(sport=53, dport=5000),
    "SCTP": SCTP(sport=53, dport=5000) / SCTPChunkData(data=b"data"),
}
STACKS = {
    f"{two}{three}, {four}": layer2 / layer3 / layer4
    for two, layer2 in LAYERS_2.items()
    for three, layer3 in LAYERS_3.items()
    for four, layer4 in LAYERS_4.items()
}


def payload(n: int) -> Raw:
    return Raw((bytes(range(1, 252)) * (n // 251 + 1))[:n])


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("n", [0, 1, 1000, 1333])
def test_the_card_finishes_checksums(
    host: CardHost, tx: TransmitQueue, name: str, n: int
) -> None:
    work = Work(STACKS[name] / payload(n) if n else STACKS[name])
    assert work.given != work.finished
    tx.put_context(**work.context)
    tx.send([work.given], work.command)
    assert host.sent() == [work.finished.ljust(60, b"\0")]


@pytest.mark.parametrize("what", [0, IXSM, TXSM])
def test_it_does_what_it_is_asked_and_no_more(
    host: CardHost, tx: TransmitQueue, what: int
) -> None:
    work = Work(STACKS["IPv4, TCP"] / payload(100))
    tx.put_context(**work.context)
    tx.send([work.given], what)
    (frame,) = host.sent()
    ip, l4 = slice(work.ip_at, work.l4_at), slice(work.l4_at, None)
    assert frame[ip] == (work.finished if what == IXSM else work.given)[ip]
    assert frame[l4] == (work.finished if what == TXSM else work.given)[l4]


def test_a_udp_checksum_of_zero_is_sent_as_ones(
    host: CardHost, tx: TransmitQueue
) -> None:
    checksum = (
        (ETHER / V4 / UDP() / Raw(bytes(20)))
        .__class__(bytes(ETHER / V4 / UDP() / Raw(bytes(20))))[UDP]
        .chksum
    )
    work = Work(ETHER / V4 / UDP() / Raw(bytes(18) + struct.pack("!H", checksum)))
    assert work.packet[UDP].chksum == 0xFFFF
    tx.put_context(**work.context)
    tx.send([work.given], work.command)
    assert host.sent() == [work.finished]


def test_two_contexts_are_kept(host: CardHost, tx: TransmitQueue) -> None:
    works = [Work(STACKS[name] / payload(100)) for name in ("IPv4, TCP", "IPv6, UDP")]
    for n, work in enumerate(works):
        tx.put_context(**work.context, n=n)
    for n in (0, 1, 1, 0, 1):
        tx.put_frame(works[n].given, works[n].command | n << 36)
    tx.ring_doorbell()
    assert host.sent() == [works[n].finished for n in (0, 1, 1, 0, 1)]


def test_contexts_are_each_queues_own(host: CardHost) -> None:
    works = [Work(STACKS[name] / payload(100)) for name in ("IPv4, TCP", "IPv6, UDP")]
    queues = [host.transmit_queue(n) for n in (0, 1)]
    for tx, work in zip(queues, works, strict=True):
        tx.put_context(**work.context)
        tx.ring_doorbell()
        host.step()
    for tx, work in zip(queues, works, strict=True):
        tx.send([work.given], work.command)
        assert host.sent() == [work.finished]


#: Contexts whose headers do not lie within a frame of 60 bytes.
TORN = [
    {"ip": 19},
    {"ip": 100},
    {"ip": 30, "mac": 14, "protocol": 1},
    {"ip": 46, "protocol": 2},
    {"protocol": 3},
]


@pytest.mark.parametrize("context", TORN, ids=str)
def test_headers_that_lie_outside_are_refused(
    host: CardHost, tx: TransmitQueue, context: dict[str, int]
) -> None:
    tx.put_context(**context)  # type: ignore[arg-type] # none of them is a bool
    tx.put_frame(plain(), IXSM | TXSM)
    good_afterwards(host, tx, "drop-tx-bad-descriptor")


def test_a_legacy_descriptor_sums_from_css_to_cso(
    host: CardHost, tx: TransmitQueue
) -> None:
    work = Work(ETHER / V4 / UDP() / payload(101))
    given = work.finished[: work.ip_at] + work.given[work.ip_at :]
    ip = slice(work.ip_at, work.l4_at)
    given = given[: ip.start] + work.finished[ip] + given[ip.stop :]
    cso, css = work.l4_at + 6, work.l4_at
    high = len(given) | cso << 16 | css << 40 | EOP | IFCS | IC | RS
    tx.put(tx.buffer(given), high)
    tx.ring_doorbell()
    assert host.sent() == [work.finished]


@pytest.mark.parametrize(("cso", "css"), [(59, 20), (60, 20), (20, 60), (255, 255)])
def test_a_legacy_checksum_outside_is_refused(
    host: CardHost, tx: TransmitQueue, cso: int, css: int
) -> None:
    tx.put(tx.buffer(plain()), 60 | cso << 16 | css << 40 | EOP | IFCS | IC | RS)
    good_afterwards(host, tx, "drop-tx-bad-descriptor")


# -- VLAN: 7.4.3 -----------------------------------------------------------------------


def with_tag(frame: bytes, tag: int, ethertype: int = 0x8100) -> bytes:
    return frame[:12] + struct.pack("!HH", ethertype, tag) + frame[12:]


@pytest.mark.parametrize("ethertype", [0x8100, 0x88A8])
@pytest.mark.parametrize("n", [20, 60, 1514])
def test_a_tag_is_inserted(
    host: CardHost, tx: TransmitQueue, n: int, ethertype: int
) -> None:
    host.set("DMATXCTL", ethertype << 16 | 1)
    expected = with_tag(plain(n), 0xA123, ethertype).ljust(60, b"\0")
    tx.put_context(vlan=0xA123)
    tx.send([plain(n)], VLE)
    assert host.sent() == [expected]
    tx.put(tx.buffer(plain(n)), n | EOP | IFCS | RS | VLE | 0xA123 << 48)  # legacy
    tx.ring_doorbell()
    assert host.sent() == [expected]


@pytest.mark.parametrize("name", ["IPv4, TCP", "IPv6, UDP", "IPv4, SCTP"])
def test_tag_and_checksums_together(
    host: CardHost, tx: TransmitQueue, name: str
) -> None:
    work = Work(STACKS[name] / payload(100))
    tx.put_context(**work.context, vlan=5)
    tx.send([work.given], work.command | VLE)
    assert host.sent() == [with_tag(work.finished, 5)]


# -- segmentation: 7.2.4 ---------------------------------------------------------------


def segments(packet: Packet, mss: int, flags: tuple[int, int, int]) -> list[bytes]:
    """Return what a super-frame is to be cut into, each built anew by scapy.

    Args:
        packet: its layers as they are to be in the first segment, with all data.
        mss: most data in each.
        flags: masks of the TCP flags in the first, the middle, the last segment.
    """
    whole = Ether(bytes(packet))
    kind = TCP if TCP in whole else UDP
    data = bytes(whole[kind].payload)
    result = []
    for number, at in enumerate(range(0, len(data), mss)):
        part = Ether(bytes(packet))
        is_last = at + mss >= len(data)
        if IP in part:
            part[IP].id = (part[IP].id + number) & 0xFFFF
            del part[IP].len, part[IP].chksum
        else:
            del part[IPv6].plen
        del part[kind].chksum
        if kind is TCP:
            part[TCP].seq = (part[TCP].seq + at) & 0xFFFFFFFF
            mask = flags[2 if is_last and number else 1 if number else 0]
            part[TCP].flags = int(part[TCP].flags) & mask
        else:
            del part[UDP].len
        part[kind].remove_payload()
        result.append(bytes(part / Raw(data[at : at + mss])).ljust(60, b"\0"))
    return result


#: DTXTCPFLG after a reset: FIN and PSH in the last segment alone, CWR never there.
FLAGS = (0xFF6, 0xFF6, 0xF7F)
SUPER = {
    name: stack
    for name, stack in STACKS.items()
    if "SCTP" not in name and "extension" not in name
}


def send_super(
    tx: TransmitQueue,
    work: Work,
    mss: int,
    *,
    pieces: int = 1,
    high: int = 0,
    **more: Any,
) -> None:
    """Send a super-frame as a driver does, its headers in a descriptor of their own."""
    l4 = 8 if work.kind is UDP else work.packet[TCP].dataofs * 4
    header = work.l4_at + l4
    tx.put_context(**work.context, l4=l4, mss=mss, **more)
    data = work.given[header:]
    tx.put_pieces(
        [work.given[:header], *cut(data, pieces)],
        DATA | IFCS | TSE | work.command | len(data) << 46 | high,
    )
    tx.ring_doorbell()


@pytest.mark.parametrize("name", SUPER)
@pytest.mark.parametrize(("n", "mss"), [(5000, 1000), (5001, 1000), (4999, 1448)])
def test_a_super_frame_leaves_in_segments(
    host: CardHost, tx: TransmitQueue, name: str, n: int, mss: int
) -> None:
    packet = SUPER[name] / payload(n)
    send_super(tx, Work(packet, length=False), mss, pieces=3)
    frames = host.sent()
    assert len(frames) == -(-n // mss)
    assert frames == segments(packet, mss, FLAGS)
    assert host.get("GPTC") == len(frames)


def test_identification_and_sequence_number_come_round(
    host: CardHost, tx: TransmitQueue
) -> None:
    ip = IP(src="192.0.2.1", dst="192.0.2.2", id=0xFFFE)
    packet = ETHER / ip / TCP(seq=0xFFFFFF00) / payload(500)
    send_super(tx, Work(packet, length=False), 100)
    frames = host.sent()
    assert [Ether(frame)[IP].id for frame in frames] == [0xFFFE, 0xFFFF, 0, 1, 2]
    assert frames == segments(packet, 100, FLAGS)


FLAG_MASKS = [
    # first, middle, last: DTXTCPFLG
    FLAGS,
    (0xFFF, 0xF7F, 0xFFF),  # CWR in the first alone, as RFC 3168 wants it
    (0, 0, 0),
    (0x1, 0x8, 0x80),
]


@pytest.mark.parametrize("masks", FLAG_MASKS)
@pytest.mark.parametrize("flags", ["FPAC", "FSRPAUECN", "A"])
def test_dtxtcpflg_says_which_segment_has_which_flags(
    host: CardHost, tx: TransmitQueue, masks: tuple[int, int, int], flags: str
) -> None:
    host.set("DTXTCPFLGL", masks[0] | masks[1] << 16)
    host.set("DTXTCPFLGH", masks[2])
    packet = ETHER / V4 / TCP(flags=flags) / payload(350)
    send_super(tx, Work(packet, length=False), 100)
    assert host.sent() == segments(packet, 100, masks)


def test_a_super_frame_of_one_segment_keeps_its_flags(
    host: CardHost, tx: TransmitQueue
) -> None:
    packet = ETHER / V4 / TCP(flags="FPAC") / payload(100)
    send_super(tx, Work(packet, length=False), 1000)
    assert host.sent() == [bytes(packet)]


def test_every_segment_gets_the_tag(host: CardHost, tx: TransmitQueue) -> None:
    packet = ETHER / V4 / TCP() / payload(350)
    send_super(tx, Work(packet, length=False), 100, high=VLE, vlan=5)
    assert host.sent() == [with_tag(part, 5) for part in segments(packet, 100, FLAGS)]


@pytest.mark.parametrize("mss", [536, 1460, 8960])
def test_a_super_frame_may_be_of_64_kib(
    host: CardHost, tx: TransmitQueue, mss: int
) -> None:
    packet = ETHER / V4 / TCP() / payload(60_000)
    send_super(tx, Work(packet, length=False), mss, pieces=8)
    assert host.sent() == segments(packet, mss, FLAGS)


def test_headers_and_data_may_share_descriptors(
    host: CardHost, tx: TransmitQueue
) -> None:
    packet = ETHER / V4 / TCP() / payload(1000)
    work = Work(packet, length=False)
    tx.put_context(**work.context, l4=20, mss=300)
    tx.send([work.given], TSE | work.command, pieces=7)
    assert host.sent() == segments(packet, 300, FLAGS)


BAD_SUPER: list[dict[str, Any]] = [
    {"mss": 0},
    {"mss": 100, "protocol": 2},  # SCTP has no segmentation
    {"mss": 100, "l4": 19},
    {"mss": 100, "ip": 19},
    {"mss": 100, "mac": 13},
    {"mss": 100, "l4": 255, "ip": 400},  # longer than the frame
    {"mss": 16100},
    {"mss": 100, "is_ipv4": False},  # 20 bytes are no IPv6
]


@pytest.mark.parametrize("wrong", BAD_SUPER, ids=str)
def test_a_super_frame_that_cannot_be_cut_is_refused(
    host: CardHost, tx: TransmitQueue, wrong: dict[str, Any]
) -> None:
    work = Work(ETHER / V4 / TCP() / payload(500), length=False)
    tx.put_context(**{**work.context, "l4": 20, **wrong})
    tx.put_frame(work.given, TSE | work.command)
    good_afterwards(host, tx, "drop-tx-bad-descriptor")


def test_a_super_frame_waits_until_the_wire_has_room(
    host: CardHost, tx: TransmitQueue
) -> None:
    work = Work(ETHER / V4 / TCP() / payload(50_000), length=False)
    tx.send([plain()])
    send_super(tx, work, 50)
    host.step()
    assert host.wire.received() == [plain()]  # the link is not empty: 1000 are to come
    frames = host.sent()
    assert [len(frame) for frame in frames] == [54 + 50] * 1000
    assert b"".join(frame[54:] for frame in frames) == work.given[54:]


# -- speed -----------------------------------------------------------------------------


def wire_bits(n: int) -> int:
    """Return how long a frame is on the wire, in bits."""
    return (max(n, 60) + AROUND) * 8


class Flood:
    """A queue that never runs dry: frames of these sizes in turn, from the same data.

    Args:
        tx: its ring.
        sizes: bytes.
        seed: of `plain`.
    """

    def __init__(self, tx: TransmitQueue, sizes: list[int], seed: int = 0) -> None:
        self.tx, self.sizes = tx, itertools.cycle(sizes)
        self.data = tx.host.allocate(max(sizes))
        tx.host.poke(self.data, plain(max(sizes), seed))

    def fill(self) -> None:
        head = self.tx.host.get("TDH", self.tx.number)
        while (self.tx.tail + 1) % self.tx.n != head:
            self.tx.put(self.data, next(self.sizes) | DATA | IFCS | EOP)
        self.tx.ring_doorbell()


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(17, 9000), min_size=1, max_size=8),
    steps=st.lists(st.integers(1, 30_000), min_size=5, max_size=15),
)
def test_the_wire_carries_10_gbps_to_the_bit(
    sizes: list[int], steps: list[int]
) -> None:
    """After any time all of it is used, and at most the last frame is not through."""
    with CardHost(packets=1024) as host:
        host.start()
        flood = Flood(host.transmit_queue(0, n=512), sizes)
        host.step(1)
        bits = elapsed = last = 0
        for ns in steps:
            flood.fill()
            host.step(ns)
            elapsed += ns
            for frame in host.wire.received():
                last = wire_bits(len(frame))
                bits += last
            assert bits - last <= elapsed * BITS_PER_US // 1000 < bits


def test_an_idle_wire_saves_nothing_up(host: CardHost) -> None:
    tx = host.transmit_queue(0, n=512)
    host.step(1_000_000)
    tx.send([plain(1514)] * 500)
    host.step(10_000)
    assert len(host.wire.received()) == -(-10 * BITS_PER_US // wire_bits(1514))


RATES = [
    # Mb/s, RTTBCNRC.RF: link speed by wanted speed, 14 bits behind the point
    (10_000, 1 << 14),
    (5_000, 2 << 14),
    (3_000, round(10 / 3 * (1 << 14))),
    (100, 100 << 14),
    (10, 0xFFFFFF),  # as slow as it goes: 1023.99 times
]


@pytest.mark.parametrize(("mbps", "factor"), RATES)
def test_a_queue_can_be_slowed_down(host: CardHost, mbps: int, factor: int) -> None:
    flood = Flood(host.transmit_queue(7, n=1024), [200, 1514, 60])
    host.set("RTTDQSEL", 7)
    host.set("RTTBCNRC", 1 << 31 | factor)
    host.step(1)
    bits = frames = last = 0
    for _ in range(100):
        flood.fill()
        host.step(50_000)
        for frame in host.wire.received():
            frames += 1
            last = wire_bits(len(frame))
            bits += last
    allowed = 100 * 50 * BITS_PER_US / (factor / (1 << 14))
    assert bits - last <= allowed + frames  # a bit for each that is rounded
    assert allowed < bits + frames
    assert mbps == pytest.approx(allowed / 5000, rel=0.03)


def test_the_others_have_what_a_slow_queue_leaves(host: CardHost) -> None:
    floods = [Flood(host.transmit_queue(n, n=64), [1001 + n]) for n in range(2)]
    host.set("RTTDQSEL", 0)
    host.set("RTTBCNRC", 1 << 31 | 4 << 14)
    host.step(1)
    sent = {1: 0, 2: 0}
    for _ in range(50):
        for flood in floods:
            flood.fill()
        host.step(20_000)
        for frame in host.wire.received():
            sent[len(frame) - 1000] += wire_bits(len(frame))
    whole = 50 * 20 * BITS_PER_US
    assert sent[1] == pytest.approx(whole / 4, rel=0.01)
    assert sent[2] == pytest.approx(whole * 3 / 4, rel=0.01)


def test_without_rs_ena_there_is_no_limit(host: CardHost) -> None:
    tx = host.transmit_queue(0, n=256)
    host.set("RTTBCNRC", 100 << 14)
    host.step(1)
    tx.send([plain()] * 200)
    host.step(20_000)
    assert len(host.wire.received()) == 200


@pytest.mark.parametrize("nqueues", [2, 5, 128])
@pytest.mark.parametrize("ns", [1000, 27_000, 60_000])
def test_queues_take_turns(host: CardHost, nqueues: int, ns: int) -> None:
    """Each has its share of the wire, frame by frame."""
    queues = [host.transmit_queue(n, n=128) for n in range(nqueues)]
    floods = [Flood(tx, [1000], tx.number) for tx in queues]
    for flood in floods:
        flood.fill()
    counts = dict.fromkeys(range(nqueues), 0)
    while sum(counts.values()) < 60 * nqueues:
        host.step(ns)
        for frame in host.wire.received():
            counts[frame[14]] += 1
        assert max(counts.values()) - min(counts.values()) <= 1


def test_a_queue_that_is_alone_has_the_whole_wire(host: CardHost) -> None:
    flood = Flood(host.transmit_queue(100, n=256), [1000])
    host.step(1)
    flood.fill()
    host.step(100_000)
    assert len(host.wire.received()) == -(-100 * BITS_PER_US // wire_bits(1000))


def test_many_frames_at_once_are_not_lost(host: CardHost) -> None:
    """More than a step sends, more than the link behind holds."""
    tx = host.transmit_queue(0, n=4096)
    host.step(1)
    at = tx.buffer(plain())
    for _ in range(4000):
        tx.put(at, 60 | DATA | IFCS | EOP)
    tx.ring_doorbell()
    host.step(10_000_000)
    assert len(host.wire.received()) == 1024
    assert len(host.sent()) == 4000 - 1024
    assert host.get("TDH") == 4000


def test_a_card_that_is_not_paced_sends_all_at_once() -> None:
    with CardHost(card=Card(paced=False)) as host:
        host.start()
        tx = host.transmit_queue(0, n=512)
        tx.send([plain(1514)] * 500)
        host.step(1)
        assert len(host.wire.received()) == 500
        assert tx.is_done(499)
