"""Checksums and super-frames that the driver leaves to the card.

The judge is software: `packet_finish_checksum()` and `packet_segment()`, which have
tests of their own, and scapy. What leaves on the wire is what they make of the same
packet, filled up to 60 bytes. Card and software may differ in one point alone, and a
test says so: a datagram without a checksum gets one from the card.
"""

import random
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, PadN
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from snabb_py._native import ffi, lib
from snabb_py.nic.intel82599_config import CardConfig, PoolConfig
from tests.driven_card import DrivenCard
from tests.unit.test_offload import (
    ECN,
    MAC,
    PARTIAL,
    PAYLOAD,
    STACKS,
    TCPV4,
    TCPV6,
    UDP_L4,
    VALID,
    Bench,
    naive_checksum,
    stack,
)

LAYERS: dict[str, tuple[Packet, int]] = {
    "tcp": (TCP(seq=2**32 - 5000, flags="FPACE", options=[("Timestamp", (1, 2))]), 16),
    "udp": (UDP(sport=1, dport=2), 6),
}
MSS_MAX = 8800  #: headers of the tallest stack fit the default MTU beside it


def padded(frames: list[bytes]) -> list[bytes]:
    """Return frames as the wire has them."""
    return [frame.ljust(60, b"\0") for frame in frames]


def unfinished(frame: bytes, layer: type[Packet]) -> tuple[bytes, dict[str, int]]:
    """Return a frame as a stack leaves it to a card, and its metadata.

    Instead of the checksum there is the pseudo header's sum: what together with the
    rest gives the right one.
    """
    start = len(frame) - len(bytes(Ether(frame)[layer]))
    offset = 16 if layer is TCP else 6
    at = start + offset
    rest = frame[start:at] + b"\0\0" + frame[at + 2 :]
    wanted = ~int.from_bytes(frame[at : at + 2], "big") & 0xFFFF
    total = wanted + naive_checksum(rest)
    total = (total & 0xFFFF) + (total >> 16)
    metadata = {"flags": PARTIAL, "csum_start": start, "csum_offset": offset}
    return frame[:at] + total.to_bytes(2, "big") + frame[at + 2 :], metadata


def super_frame(
    name: str, layer: str, payload: bytes, mss: int
) -> tuple[bytes, dict[str, int]]:
    """Return a super-frame as a stack hands it down, and its metadata."""
    header, _ = LAYERS[layer]
    frame, version = stack(name, header, Raw(payload))
    frame, metadata = unfinished(frame, type(header))
    kind = UDP_L4 if layer == "udp" else TCPV4 if version == 4 else TCPV6
    if layer == "tcp":
        kind |= ECN
    return frame, metadata | {"gso_type": kind, "gso_size": mss}


def ring_of(it: DrivenCard) -> Any:
    """Return the transmit ring, after a look at whether its accounts are right."""
    tx = it.apps[0].app.state.tx
    outstanding = (tx.next - tx.clean) % 2**32
    assert outstanding < tx.n
    places = [tx.packets[(tx.clean + i) % tx.n] for i in range(outstanding)]
    assert places.count(ffi.NULL) == tx.holes
    held = [int(ffi.cast("uintptr_t", p)) for p in places if p]
    assert len(set(held)) == len(held), "a packet is in two places"
    return tx


@pytest.fixture(params=["queue", "pool"])
def it(request: pytest.FixtureRequest) -> Iterator[DrivenCard]:
    """A card whose queue is one of many, or a pool's: descriptors differ (CC)."""
    pools: tuple[PoolConfig, ...] = ()
    if request.param == "pool":
        pools = (PoolConfig(3, ("02:00:00:00:00:01",), check_source=False),)
    with DrivenCard(pools=pools) as card:
        yield card
        ring_of(card)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench(small=2048)
    yield bench
    bench.close()


class TestChecksums:
    @pytest.mark.parametrize("layer", LAYERS)
    def test_the_card_finishes_them(self, it: DrivenCard, layer: str) -> None:
        header, _ = LAYERS[layer]
        expected = []
        for name in STACKS:
            for size in (0, 1, 18, 1400, 8000):
                frame, _ = stack(name, header, Raw(PAYLOAD[:size]))
                expected.append(frame)
                partial, metadata = unfinished(frame, type(header))
                assert partial != frame
                it.send([partial], **metadata)
                assert it.sent() == padded([frame]), (name, size)
        assert it.counters()["tx-packets"] == len(expected)
        assert it.card.counters["drop-tx-bad-descriptor"] == 0

    def test_the_card_has_done_it_and_not_software(self, it: DrivenCard) -> None:
        """The buffer keeps the pseudo header's sum; the frame on the wire has not."""
        frame, _ = stack("ipv4", UDP(sport=1, dport=2), Raw(bytes(100)))
        partial, metadata = unfinished(frame, UDP)
        it.send([partial], **metadata)
        tx = ring_of(it)
        packet = tx.packets[(tx.next - 1) % tx.n]
        assert bytes(ffi.buffer(packet.data, packet.length)) == partial
        assert it.sent() == [frame]

    def test_a_datagrams_sum_of_zero_is_sent_as_its_other_form(
        self, it: DrivenCard
    ) -> None:
        """Zero would say that there is none (RFC 768)."""
        head = Ether(**MAC) / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2)
        whole = bytes(head / Raw(b"\0\0" + bytes(30)))
        missing = whole[40:42]  # added to the payload it makes the sum all ones
        frame = whole[:40] + b"\xff\xff" + missing + whole[44:]
        assert bytes(Ether(frame)) == frame
        partial, metadata = unfinished(frame, UDP)
        it.send([partial], **metadata)
        assert it.sent() == [frame]

    def test_what_it_cannot_do_software_finishes(
        self, it: DrivenCard, bench: Bench
    ) -> None:
        options = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(250))] * 2)
        tall = Ether(**MAC) / IPv6() / options / UDP() / Raw(bytes(50))
        tags = (b"\x81\x00\x00\x01") * 9
        plain = bytes(Ether(**MAC) / IP() / UDP() / Raw(bytes(50)))
        cases: list[tuple[bytes, int, int]] = [
            # a message of ICMP, SCTP's neighbour: an offset that is neither TCP's nor
            # UDP's
            (bytes(Ether(**MAC) / IP() / ICMP() / Raw(bytes(50))), 34, 2),
            # an IP header of more than 511 bytes
            (bytes(tall), len(tall) - 58, 6),
            # more tags than are parsed
            (plain[:12] + tags + plain[12:], 34 + 36, 6),
            # no IP at all
            (b"\x02" * 12 + b"\x88\xb5" + bytes(range(60)), 20, 4),
            # in the Ethernet header itself, and shorter than the card likes it
            (b"\x02" * 14, 0, 2),
            (b"\x02" * 12 + b"\x08\x00", 0, 12),
            # within the IP header
            (plain, 14, 10),
        ]
        for frame, start, offset in cases:
            metadata = {"flags": PARTIAL, "csum_start": start, "csum_offset": offset}
            packet = bench.packet(frame, **metadata)
            assert lib.packet_finish_checksum(packet)
            expected = bytes(ffi.buffer(packet.data, packet.length))
            bench.free(packet)
            it.send([frame], **metadata)
            assert it.sent() == padded([expected]), (start, offset)
        assert it.card.counters["drop-tx-bad-length"] == 0

    def test_inside_a_tunnel(self, it: DrivenCard) -> None:
        """The outer headers are the card's IP header: it only has to skip them."""
        inner = IP(src="10.1.0.1", dst="10.1.0.2") / TCP() / Raw(bytes(77))
        frame = bytes(Ether(**MAC) / IP(proto=4) / inner)
        partial, metadata = unfinished(frame, TCP)
        it.send([partial], **metadata)
        assert it.sent() == [frame]

    def test_verified_ones_are_left_alone(self, it: DrivenCard) -> None:
        frame, _ = stack("ipv4", UDP(chksum=0x1234), Raw(bytes(50)))
        it.send([frame], flags=VALID, csum_start=34, csum_offset=6)
        assert it.sent() == [frame]

    def test_a_pools_tag_is_put_in_front_of_what_is_summed(self) -> None:
        frame, _ = stack("ipv4", TCP(), Raw(bytes(100)))
        partial, metadata = unfinished(frame, TCP)
        pool = PoolConfig(1, ("02:00:00:00:00:01",), vlan=7)
        with DrivenCard(pools=(pool,)) as card:
            card.send([partial], **metadata)
            tag = struct.pack("!HH", 0x8100, 7)
            assert card.sent() == [frame[:12] + tag + frame[12:]]


IPV4_TCP, _ = stack("ipv4", TCP(), Raw(bytes(300)))
IPV6_TCP, _ = stack("ipv6", TCP(), Raw(bytes(300)))
IPV4_UDP, _ = stack("ipv4", UDP(), Raw(bytes(300)))


def changed(frame: bytes, offset: int, value: bytes) -> bytes:
    return frame[:offset] + value + frame[offset + len(value) :]


#: Packets that nobody can send as they say.
BAD: list[tuple[bytes, dict[str, int]]] = [
    (IPV4_TCP, {"flags": PARTIAL, "csum_start": 65535, "csum_offset": 65535}),
    (IPV4_TCP, {"flags": PARTIAL, "csum_start": len(IPV4_TCP) - 1, "csum_offset": 0}),
    (IPV4_TCP, {"flags": PARTIAL, "csum_start": len(IPV4_TCP), "csum_offset": 16}),
    (IPV4_TCP, {"flags": PARTIAL, "csum_start": 400, "csum_offset": 6}),
    (IPV4_TCP, {"gso_type": TCPV4, "gso_size": 0}),
    (IPV4_TCP, {"gso_type": TCPV6, "gso_size": 100}),
    (IPV6_TCP, {"gso_type": TCPV4, "gso_size": 100}),
    (IPV4_TCP, {"gso_type": UDP_L4, "gso_size": 100}),
    (IPV4_UDP, {"gso_type": TCPV4, "gso_size": 100}),
    (IPV4_TCP, {"gso_type": 3, "gso_size": 100}),
    (IPV4_TCP, {"gso_type": 2, "gso_size": 100}),
    (IPV4_TCP, {"gso_type": ECN, "gso_size": 100}),
    (IPV4_TCP, {"gso_type": 0x7F, "gso_size": 100}),
    (IPV4_TCP[:53], {"gso_type": TCPV4, "gso_size": 100}),
    (IPV4_TCP[:33], {"gso_type": TCPV4, "gso_size": 100}),
    (IPV4_TCP[:13], {"gso_type": TCPV4, "gso_size": 100}),
    (b"", {"gso_type": TCPV4, "gso_size": 100}),
    (IPV4_UDP[:41], {"gso_type": UDP_L4, "gso_size": 100}),
    (changed(IPV4_TCP, 14, b"\x44"), {"gso_type": TCPV4, "gso_size": 100}),
    (changed(IPV4_TCP, 46, b"\x40"), {"gso_type": TCPV4, "gso_size": 100}),
    (changed(IPV4_TCP[:60], 46, b"\xf0"), {"gso_type": TCPV4, "gso_size": 100}),
    # fragments
    (changed(IPV4_TCP, 20, b"\x20\x00"), {"gso_type": TCPV4, "gso_size": 100}),
    (changed(IPV4_TCP, 20, b"\x00\x01"), {"gso_type": TCPV4, "gso_size": 100}),
    (
        stack("ipv6", IPv6ExtHdrFragment(offset=9), TCP(), Raw(bytes(300)))[0],
        {"gso_type": TCPV6, "gso_size": 100},
    ),
    # a jumbogram
    (changed(IPV6_TCP, 18, b"\0\0"), {"gso_type": TCPV6, "gso_size": 100}),
    # in a tunnel: the checksum is elsewhere
    (
        IPV4_TCP,
        {
            "gso_type": TCPV4,
            "gso_size": 100,
            "flags": PARTIAL,
            "csum_start": 84,
            "csum_offset": 16,
        },
    ),
]


class TestBadMetadata:
    def test_it_is_counted_and_harms_nothing_that_follows(self, it: DrivenCard) -> None:
        good, _ = stack("ipv4", UDP(sport=1, dport=2), Raw(bytes(100)))
        partial, metadata = unfinished(good, UDP)
        for n, (frame, wrong) in enumerate(BAD, start=1):
            it.apps[0].send([partial], **metadata)
            it.apps[0].send([frame], **wrong)
            it.send([partial], **metadata)
            assert it.sent() == [good, good], n
            assert it.counters()["drop-tx-bad-offload"] == n, n
        counters = it.counters()
        assert counters["tx-packets"] == 2 * len(BAD)
        assert counters["tx-bytes"] == 2 * len(BAD) * len(good)
        ring_of(it)

    def test_nothing_else_reaches_the_card(self, it: DrivenCard) -> None:
        for frame, wrong in BAD:
            it.send([frame], **wrong)
        assert it.sent() == []
        assert it.apps[0].app.state.tx.next == it.nic.read(
            "TDT",
            it.apps[0].app.queue.number,  # type: ignore[attr-defined]
        )

    @settings(
        max_examples=300,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        start=st.sampled_from([IPV4_TCP, IPV6_TCP, IPV4_UDP]),
        edits=st.lists(
            st.tuples(st.integers(12, 120), st.binary(max_size=4)), max_size=3
        ),
        length=st.integers(1, 354),
        metadata=st.fixed_dictionaries(
            {
                "gso_type": st.sampled_from([0, TCPV4, TCPV6, UDP_L4, TCPV4 | ECN, 3]),
                "gso_size": st.integers(0, 400) | st.integers(0, 65535),
                "flags": st.integers(0, 3),
                "csum_start": st.sampled_from([14, 34, 54]) | st.integers(0, 65535),
                "csum_offset": st.sampled_from([6, 16]) | st.integers(0, 65535),
            }
        ),
    )
    def test_any_packet_is_sent_as_software_would_or_counted(
        self,
        it: DrivenCard,
        start: bytes,
        edits: list[tuple[int, bytes]],
        length: int,
        metadata: dict[str, int],
    ) -> None:
        frame = start
        for offset, value in edits:
            frame = changed(frame, offset, value)
        frame = frame[:length]
        bench = Bench(small=1200)
        expected = in_software(bench, frame, metadata)
        bench.close()
        before = it.counters().get("drop-tx-bad-offload", 0)
        it.send([frame], **metadata)
        sent = it.sent()
        dropped = it.counters().get("drop-tx-bad-offload", 0) - before
        assert dropped == (expected is None)
        if not metadata["gso_type"]:
            assert sent == padded(expected or [])
        else:
            assert [without_udp_checksum(f) for f in sent] == [
                without_udp_checksum(f) for f in padded(expected or [])
            ]
        for reason in ("bad-descriptor", "bad-length"):
            assert it.card.counters[f"drop-tx-{reason}"] == 0


def in_software(
    bench: Bench, frame: bytes, metadata: dict[str, int]
) -> list[bytes] | None:
    """Return the frames that software makes of a packet; None: it cannot."""
    if metadata.get("gso_type"):
        try:
            return bench.segment(frame, 1024, **metadata)
        except OSError:
            return None
    packet = bench.packet(frame, **metadata)
    done = lib.packet_finish_checksum(packet)
    result = bytes(ffi.buffer(packet.data, packet.length))
    bench.free(packet)
    return [result] if done else None


def without_udp_checksum(frame: bytes) -> bytes:
    """Return a frame whose UDP checksum, if it is IPv4 and has one, says nothing.

    RFC 768 lets a datagram have none. Of a super-frame like that software makes
    segments without, the card always makes a checksum, which nobody minds.
    """
    packet = Ether(frame)
    if packet.type != 0x0800 or frame[23] != 17:
        return frame
    at = 14 + (frame[14] & 15) * 4 + 6
    return changed(frame, at, b"\0\0")


class TestSuperFrames:
    @pytest.mark.parametrize("layer", LAYERS)
    @pytest.mark.parametrize("mss", [1, 536, 1448, MSS_MAX])
    def test_segments_are_those_of_software(
        self, it: DrivenCard, bench: Bench, layer: str, mss: int
    ) -> None:
        """All of IPv4's identifications, TCP's flags (FIN, PSH, CWR), all checksums."""
        for name in STACKS:
            payload = PAYLOAD[: mss * 3 + mss // 2]
            payload *= -(-(mss * 3 + mss // 2) // len(payload))
            payload = payload[: mss * 3 + mss // 2]
            frame, metadata = super_frame(name, layer, payload, mss)
            expected = bench.segment(frame, **metadata)
            assert len(expected) == 3 + (mss > 1)
            it.send([frame], **metadata)
            assert it.sent() == padded(expected), name
            ring_of(it)

    @settings(
        max_examples=150,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        mss=st.integers(1, MSS_MAX),
        length=st.integers(1, 30000),
        name=st.sampled_from(sorted(STACKS)),
        layer=st.sampled_from(sorted(LAYERS)),
        flags=st.integers(0, 255),
    )
    def test_whatever_their_sizes(  # noqa: PLR0913, PLR0917 - drawn
        self, it: DrivenCard, mss: int, length: int, name: str, layer: str, flags: int
    ) -> None:
        mss = max(mss, -(-length // 60))  # the wire's link takes a bit more at once
        payload = (PAYLOAD * 3)[:length]
        frame, metadata = super_frame(name, layer, payload, mss)
        if layer == "tcp":
            at = metadata["csum_start"] + 13
            frame = changed(frame, at, bytes([flags]))
        bench = Bench()
        expected = bench.segment(frame, 1024, **metadata)
        bench.close()
        it.send([frame], **metadata)
        assert it.sent() == padded(expected)

    @pytest.mark.parametrize("layer", LAYERS)
    def test_a_checksum_that_nobody_began(
        self, it: DrivenCard, bench: Bench, layer: str
    ) -> None:
        """Without PACKET_CSUM_PARTIAL the field may hold anything."""
        header, offset = LAYERS[layer]
        for name in STACKS:
            frame, metadata = super_frame(name, layer, PAYLOAD[:1000], 300)
            at = metadata["csum_start"] + offset
            metadata |= {"flags": 0, "csum_start": 9999, "csum_offset": 9999}
            frame = changed(frame, at, b"\x12\x34")
            expected = bench.segment(frame, **metadata)
            it.send([frame], **metadata)
            assert it.sent() == expected, (name, header)

    def test_a_datagram_without_checksum_gets_one(
        self, it: DrivenCard, bench: Bench
    ) -> None:
        """The one point in which card and software differ."""
        frame, _ = stack("ipv4", UDP(sport=1, dport=2, chksum=0), Raw(bytes(300)))
        metadata = {"gso_type": UDP_L4, "gso_size": 100}
        expected = bench.segment(frame, **metadata)
        assert [f[40:42] for f in expected] == [b"\0\0"] * 3
        it.send([frame], **metadata)
        sent = it.sent()
        assert [changed(f, 40, b"\0\0") for f in sent] == expected
        for segment in sent:
            assert bytes(Ether(segment)) == segment
            partial, _ = unfinished(segment, UDP)
            pseudo = Ether(**MAC) / IP() / UDP(sport=1, dport=2) / Raw(bytes(100))
            assert partial[40:42] == unfinished(bytes(pseudo), UDP)[0][40:42]

    @pytest.mark.parametrize("payload", [0, 1, 99, 100])
    @pytest.mark.parametrize("layer", LAYERS)
    def test_of_one_segment(
        self, it: DrivenCard, bench: Bench, layer: str, payload: int
    ) -> None:
        """Nobody says what flags the card gives a segment that is first and last."""
        frame, metadata = super_frame("ipv4", layer, PAYLOAD[:payload], 100)
        expected = bench.segment(frame, **metadata)
        assert len(expected) == 1
        it.send([frame], **metadata)
        assert it.sent() == padded(expected)

    def test_of_one_segment_shorter_than_it_might_be(self, bench: Bench) -> None:
        """Segments of 60000 bytes are none, but nor are there any."""
        frame, metadata = super_frame("ipv4", "tcp", PAYLOAD[:1000], 60000)
        expected = bench.segment(frame, **metadata)
        with DrivenCard(CardConfig(mtu=1500)) as card:
            card.send([frame], **metadata)
            assert card.sent() == expected

    def test_segments_fill_the_mtu_and_no_more(self, bench: Bench) -> None:
        """With two tags, as plain frames may."""
        config = CardConfig(mtu=1500)
        longest = 1500 + 14 + 8
        with DrivenCard(config) as card:
            for name, mss in (("ipv4", longest - 34 - 32), ("ipv6", longest - 54 - 32)):
                frame, metadata = super_frame(name, "tcp", PAYLOAD[:5000], mss)
                expected = bench.segment(frame, **metadata)
                assert len(expected[0]) == longest
                card.send([frame], **metadata)
                assert card.sent() == expected
                frame, metadata = super_frame(name, "tcp", PAYLOAD[:5000], mss + 1)
                card.send([frame], **metadata)
                assert card.sent() == []
            assert card.counters()["drop-tx-bad-offload"] == 2

    def test_headers_at_their_limits(self, it: DrivenCard, bench: Bench) -> None:
        """A TCP header of 60 bytes; an IP header of 511 at most; 8 tags; IPv4 of 60."""
        options = TCP(options=[("NOP", 0)] * 40, flags="PA")
        assert len(bytes(options)) == 60
        ip = IP(options=[b"\x01"] * 40)
        tags = [Dot1Q(vlan=n) for n in range(8)]
        tall = Ether(**MAC)
        for tag in tags:
            tall /= tag
        extensions = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(250))])
        more = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(204))])
        too_many = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(212))])
        for head, kind, fits in (
            (Ether(**MAC) / ip, TCPV4, True),
            (tall / ip, TCPV4, True),
            (Ether(**MAC) / IPv6() / extensions / more, TCPV6, True),
            (Ether(**MAC) / IPv6() / extensions / too_many, TCPV6, False),
        ):
            frame = bytes(head / options / Raw(PAYLOAD[:2000]))
            frame, metadata = unfinished(frame, TCP)
            metadata |= {"gso_type": kind, "gso_size": 700}
            expected = bench.segment(frame, **metadata)
            size = metadata["csum_start"] - (46 if head.haslayer(Dot1Q) else 14)
            assert (size < 512) is fits
            before = it.counters().get("drop-tx-bad-offload", 0)
            it.send([frame], **metadata)
            if fits:
                assert it.sent() == expected
            else:  # more than the card's 9 bits say: software refuses nothing here
                assert it.sent() == []
                assert it.counters()["drop-tx-bad-offload"] == before + 1

    @pytest.mark.parametrize("length", [8192, 8193, 16384, 16385, 14 + 65535])
    def test_in_several_descriptors(
        self, it: DrivenCard, bench: Bench, length: int
    ) -> None:
        """Each has 8 KiB at most; a context comes in front."""
        payload = (PAYLOAD * 7)[: length - 66]
        frame, metadata = super_frame("ipv4", "tcp", payload, 1448)
        assert len(frame) == length
        expected = bench.segment(frame, **metadata)
        tx = ring_of(it)
        before = tx.next
        it.send([frame], **metadata)
        assert tx.next - before == 1 + -(-length // 8192)
        ring_of(it)
        assert it.sent() == expected

    def test_66_kib(self, it: DrivenCard, bench: Bench) -> None:
        """As much as a packet holds: IPv6, eight tags, a payload of 65535 and more."""
        frame, metadata = super_frame("ipv6", "tcp", (PAYLOAD * 7)[:65500], 1440)
        extra = b"\x81\x00\x00\x01" * 8
        frame = frame[:12] + extra + frame[12:]
        metadata["csum_start"] += len(extra)
        expected = bench.segment(frame, **metadata)
        it.send([frame], **metadata)
        assert it.sent() == expected

    def test_more_segments_than_are_ever_made(self, it: DrivenCard) -> None:
        """The bound is software's, so that it does not matter who cuts."""
        frame, metadata = super_frame("ipv4", "tcp", bytes(lib.SEGMENTS_MAX + 1), 1)
        it.send([frame], **metadata)
        assert it.sent() == []
        assert it.counters()["drop-tx-bad-offload"] == 1
        frame, metadata = super_frame("ipv4", "tcp", bytes(lib.SEGMENTS_MAX), 1)
        it.send([frame], **metadata)
        assert len(it.sent()) == lib.SEGMENTS_MAX


class TestRing:
    def test_a_super_frame_waits_until_it_fits(
        self, it: DrivenCard, bench: Bench
    ) -> None:
        """The link keeps it, and what is behind it."""
        large, metadata = super_frame("ipv4", "tcp", (PAYLOAD * 7)[:65000], 1448)
        segments = bench.segment(large, **metadata)
        plain = [bytes([2]) * 60 + bytes([n]) for n in range(64)]
        for free in range(13):
            tx = ring_of(it)
            it.apps[0].breathe()
            count = tx.n - 1 - (tx.next - tx.clean) - free
            for n in range(count):
                it.apps[0].send([plain[n]])
            it.apps[0].send([large], **metadata)
            it.apps[0].send(plain[:3])
            it.apps[0].breathe()
            link = it.apps[0].inputs[0]
            # It goes when the largest one would fit. It is 8 descriptors, its context
            # being set already; behind it goes what still fits.
            waiting = 4 if free < 10 else max(0, 3 - (free - 8))
            assert (link.write - link.read) % 2**32 == waiting, free
            ring_of(it)
            assert it.sent() == plain[:count] + segments + plain[:3]
            assert link.write == link.read
            ring_of(it)

    @pytest.mark.parametrize("seed", range(4))
    def test_all_kinds_mixed(self, it: DrivenCard, bench: Bench, seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311 - a sequence, not a secret
        expected: list[bytes] = []
        sent: list[bytes] = []
        names = sorted(STACKS)
        for n in range(300):
            kind = rng.choice(["plain", "plain", "checksum", "super", "super", "bad"])
            name, layer = rng.choice(names), rng.choice(sorted(LAYERS))
            payload = PAYLOAD[: rng.randrange(1, 5000)]
            if kind == "plain":
                frame = bytes([2]) * 60 + struct.pack("!I", n) + payload
                expected.append(frame)
                it.apps[0].send([frame])
            elif kind == "checksum":
                frame, _ = stack(name, LAYERS[layer][0], Raw(payload))
                expected.append(frame)
                partial, metadata = unfinished(frame, type(LAYERS[layer][0]))
                it.apps[0].send([partial], **metadata)
            elif kind == "super":
                mss = rng.randrange(200, 1500)
                frame, metadata = super_frame(name, layer, payload, mss)
                expected += bench.segment(frame, **metadata)
                it.apps[0].send([frame], **metadata)
            else:
                frame, metadata = rng.choice(BAD)
                it.apps[0].send([frame], **metadata)
            if rng.random() < 0.3:
                it.apps[0].breathe()
                ring_of(it)
            if rng.random() < 0.2:
                it.wire.breathe()
                sent += it.wire.received()
        sent += it.sent()
        assert sent == padded(expected)

    def test_a_context_is_set_when_it_changes(self, it: DrivenCard) -> None:
        def descriptors(frame: bytes, metadata: dict[str, int]) -> int:
            before = ring_of(it).next
            it.send([frame], **metadata)
            assert it.sent()
            return int(ring_of(it).next - before)

        udp, _ = stack("ipv4", UDP(), Raw(bytes(100)))
        tcp, _ = stack("ipv4", TCP(), Raw(bytes(200)))
        six, _ = stack("ipv6", TCP(), Raw(bytes(200)))
        tagged, _ = stack("vlan", TCP(), Raw(bytes(200)))
        assert descriptors(*unfinished(udp, UDP)) == 2
        assert descriptors(*unfinished(udp, UDP)) == 1
        assert descriptors(udp, {}) == 1
        assert descriptors(*unfinished(udp, UDP)) == 1
        assert descriptors(*unfinished(tcp, TCP)) == 2
        assert descriptors(*unfinished(six, TCP)) == 2
        assert descriptors(*unfinished(tagged, TCP)) == 2
        assert descriptors(*super_frame("vlan", "tcp", bytes(300), 100)) == 2
        assert descriptors(*super_frame("vlan", "tcp", bytes(500), 100)) == 1
        assert descriptors(*super_frame("vlan", "tcp", bytes(500), 101)) == 2
        assert descriptors(*super_frame("vlan", "udp", bytes(500), 101)) == 2

    def test_a_queue_begun_anew_knows_no_context(self, it: DrivenCard) -> None:
        frame, _ = stack("ipv4", UDP(sport=1, dport=2), Raw(bytes(100)))
        partial, metadata = unfinished(frame, UDP)
        it.send([partial], **metadata)
        assert it.sent() == [frame]
        app: Any = it.apps[0].app
        pool, queue = app.pool, 0 if app.pool else app.number
        it.remove(it.apps[0])
        it.add(queue, pool)
        it.send([partial], **metadata)
        assert it.sent() == [frame]

    def test_holes_are_no_packets(self, it: DrivenCard) -> None:
        """What is held is what comes back."""
        frame, metadata = super_frame("ipv4", "tcp", (PAYLOAD * 7)[:60000], 1448)
        harness = it.apps[0]
        before = harness.app.ops.held(harness.struct)
        it.send([frame], **metadata)
        assert harness.app.ops.held(harness.struct) == before + 1
        it.send([frame], **metadata)
        assert harness.app.ops.held(harness.struct) == before + 2
        it.sent()
        for _ in range(40):
            it.send([b"\x02" * 60])
            it.sent()
        tx = ring_of(it)
        assert tx.holes == 0
        assert harness.app.ops.held(harness.struct) < before + 32

    def test_the_shortest_frames_stay_within_their_slots(self, it: DrivenCard) -> None:
        """Frames at their slots' ends: filling up writes on no neighbour."""
        harness = it.apps[0]
        packets = [
            lib.engine_packet_alloc(harness.freelist, lib.PACKET_SMALL_SIZE)
            for _ in range(3)
        ]
        packets.sort(key=lambda p: int(ffi.cast("uintptr_t", p)))
        expected = []
        heads = [bytes(ffi.buffer(ffi.cast("char *", p), 64)) for p in packets]
        for n, packet in enumerate(packets):
            packet.data += lib.PACKET_SMALL_SIZE - 14
            packet.length = 14
            ffi.memmove(packet.data, bytes([2 + 2 * n] * 14), 14)
            expected.append(bytes([2 + 2 * n] * 14))
            array = ffi.new("struct packet *[]", [packet])
            assert lib.engine_link_transmit(harness.inputs[0], array, 1) == 1
        harness.breathe()
        assert [p.slot_class for p in packets] == [0, 0, 0]
        assert [p.iova for p in packets] == [
            int.from_bytes(head[40:48], "little") for head in heads
        ]
        assert it.sent() == padded(expected)
