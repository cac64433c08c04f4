"""What is unfinished stays so from guest to guest, and is finished for who wants it so.

Oracle: scapy, which builds each segment anew from its fields.
"""

import contextlib
import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from snabb_py._native import ffi, lib
from snabb_py.virtio.frontend import FEATURES
from snabb_py.virtio.frontend_ring import Layout
from snabb_py.virtio.message import Feature, bits
from tests.harness import Harness
from tests.vhost_guest import Wire

PARTIAL, VALID = lib.PACKET_CSUM_PARTIAL, lib.PACKET_CSUM_VALID
GUEST = bits(
    Feature.GUEST_CSUM, Feature.GUEST_TSO4, Feature.GUEST_TSO6, Feature.GUEST_ECN
)
MAC: dict[str, Any] = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
MSS = 1000
LARGE = Layout(room=70000, size=64)


class Frame(NamedTuple):
    """A frame with its metadata, as an app has it."""

    data: bytes
    metadata: dict[str, int]


def unfinished(version: int, size: int, *, gso: int = 0) -> Frame:
    """Return a TCP frame as a guest's stack hands it over."""
    ip = IP(src="192.0.2.1", dst="192.0.2.2") if version == 4 else IPv6(src="::1")
    layers = Ether(**MAC) / ip / TCP(flags="PA", seq=7)
    start = len(layers) - 20
    frame = bytearray(bytes(layers / Raw(bytes(i % 251 for i in range(size)))))
    # The field holds the pseudo header's sum: TCP's length, protocol, addresses.
    addresses = frame[26:34] if version == 4 else frame[22:54]
    words = bytes(addresses) + (6).to_bytes(2, "big")
    words += (len(frame) - start).to_bytes(4, "big")
    total = sum(
        int.from_bytes(words[i : i + 2], "big") for i in range(0, len(words), 2)
    )
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    frame[start + 16 : start + 18] = total.to_bytes(2, "big")
    metadata = {"flags": PARTIAL, "csum_start": start, "csum_offset": 16}
    if gso:
        metadata |= {"gso_type": gso, "gso_size": MSS}
    return Frame(bytes(frame), metadata)


def take(harness: Harness) -> list[Frame]:
    """Take all packets off the output, with their metadata."""
    packets = ffi.new("struct packet *[]", lib.LINK_CAPACITY)
    n = lib.engine_link_receive(harness.outputs[0], packets, lib.LINK_CAPACITY)
    frames = []
    for packet in packets[0:n]:
        metadata = {"flags": packet.flags} if packet.flags else {}
        if packet.flags & PARTIAL:
            metadata |= {"csum_start": packet.csum_start}
            metadata |= {"csum_offset": packet.csum_offset}
        if packet.gso_type:
            metadata |= {"gso_type": packet.gso_type, "gso_size": packet.gso_size}
        frames.append(Frame(bytes(ffi.buffer(packet.data, packet.length)), metadata))
        lib.engine_packet_free(harness.freelist, packet)
    return frames


def is_right(frame: bytes) -> bool:
    """Return whether all checksums and lengths are what scapy makes them."""
    packet = Ether(frame)
    for layer in (IP, IPv6, TCP, UDP):
        if layer in packet:
            for name in ("chksum", "len", "plen"):
                if name in packet[layer].fields:
                    del packet[layer].fields[name]
    return bytes(packet) == frame


def payload(frames: list[Frame], layer: type[Packet] = TCP) -> bytes:
    return b"".join(bytes(Ether(frame.data)[layer].payload) for frame in frames)


TYPES = {4: lib.PACKET_GSO_TCPV4, 6: lib.PACKET_GSO_TCPV6}
KINDS = {
    f"{what}, IPv{version}{', ECN' if ecn else ''}": unfinished(
        version,
        size,
        gso=(TYPES[version] | (lib.PACKET_GSO_ECN if ecn else 0)) if is_super else 0,
    )
    for version in (4, 6)
    for what, size, is_super in (
        ("a frame", 900, False),
        ("a super-frame", 30000, True),
    )
    for ecn in ((False, True) if is_super else (False,))
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_merging", [True, False])
def test_from_guest_to_guest(tmp_path: Path, kind: str, is_merging: bool) -> None:
    features = FEATURES & ~(0 if is_merging else bits(Feature.MRG_RXBUF))
    rx = Layout() if is_merging else LARGE
    with Wire(tmp_path, features=features, rx=rx, tx=LARGE) as wire:
        wire.guest.start()
        sent = KINDS[kind]
        wire.driver.send([sent.data], **sent.metadata)
        wire.turn()
        assert take(wire.port) == [sent]
        wire.port.send([sent.data], **sent.metadata)
        wire.turn()
        assert take(wire.driver) == [sent]
        is_super = "super" in kind
        assert wire.counters.get("rx-super-frames", 0) == is_super
        assert wire.counters.get("tx-super-frames", 0) == is_super


@pytest.mark.parametrize("kind", KINDS)
def test_to_a_guest_that_takes_none(tmp_path: Path, kind: str) -> None:
    with Wire(tmp_path, features=FEATURES & ~GUEST) as wire:
        wire.guest.start()
        sent = KINDS[kind]
        wire.port.send([sent.data], **sent.metadata)
        wire.turn(2)
        received = take(wire.driver)
        assert len(received) == (30 if "super" in kind else 1)
        assert all(frame.metadata == {} for frame in received)
        assert all(is_right(frame.data) for frame in received)
        assert payload(received) == payload([sent])
        assert wire.counters["rx-packets"] == len(received)


@pytest.mark.parametrize("version", [4, 6])
def test_to_a_guest_that_takes_checksums_alone(tmp_path: Path, version: int) -> None:
    sent = KINDS[f"a super-frame, IPv{version}"]
    features = (FEATURES & ~GUEST) | bits(Feature.GUEST_CSUM)
    with Wire(tmp_path, features=features) as wire:
        wire.guest.start()
        wire.port.send([sent.data], **sent.metadata)
        wire.turn(2)
        received = take(wire.driver)
        assert payload(received) == payload([sent])
        assert all(is_right(frame.data) for frame in received)


def test_congestion_for_a_guest_that_does_not_know_it(tmp_path: Path) -> None:
    sent = KINDS["a super-frame, IPv4, ECN"]
    with Wire(tmp_path, features=FEATURES & ~bits(Feature.GUEST_ECN)) as wire:
        wire.guest.start()
        wire.port.send([sent.data], **sent.metadata)
        wire.turn(2)
        assert len(take(wire.driver)) == 30


def test_verified_is_said_to_who_wants_to_know(tmp_path: Path) -> None:
    frame = bytes(60)
    for features, flags in ((FEATURES, VALID), (FEATURES & ~GUEST, 0)):
        with Wire(tmp_path, features=features) as wire:
            wire.guest.start()
            wire.port.send([frame], flags=VALID)
            wire.turn()
            assert take(wire.driver) == [
                Frame(frame, {"flags": flags} if flags else {})
            ]


def test_segments_wait_for_room(tmp_path: Path) -> None:
    sent = KINDS["a super-frame, IPv4"]
    with Wire(tmp_path, features=FEATURES & ~GUEST, rx=Layout(size=32)) as wire:
        wire.guest.start()
        wire.port.send([bytes(60)] * 10)
        wire.port.send([sent.data], **sent.metadata)
        wire.port.breathe()
        ring = wire.guest.pairs[0].rings[0].struct
        assert ring.used[1] == 10  # all of the segments, or none
        wire.turn(2)
        assert payload(take(wire.driver)[10:]) == payload([sent])


def test_segments_for_which_there_is_never_room(tmp_path: Path) -> None:
    sent = KINDS["a super-frame, IPv4"]
    with Wire(tmp_path, features=FEATURES & ~GUEST, rx=Layout(size=16)) as wire:
        wire.guest.start()
        wire.port.send([sent.data], **sent.metadata)
        wire.port.send([bytes(60)])
        wire.turn(2)
        assert [len(frame.data) for frame in take(wire.driver)] == [60]
        assert wire.counters["drop-rx-too-long"] == 1


@contextlib.contextmanager
def no_free(harness: Harness, length: int) -> Iterator[None]:
    """Take all packets of a length's class away for a while."""
    allocate = partial(lib.engine_packet_alloc, harness.freelist, length)
    taken = list(itertools.takewhile(bool, iter(allocate, None)))
    yield
    for packet in taken:
        lib.engine_packet_free(harness.freelist, packet)


def test_no_packets_for_segments(tmp_path: Path) -> None:
    sent = KINDS["a super-frame, IPv4"]
    with Wire(tmp_path, features=FEATURES & ~GUEST) as wire:
        wire.guest.start()
        wire.port.send([sent.data], **sent.metadata)
        with no_free(wire.port, lib.PACKET_SMALL_SIZE):
            wire.turn(2)
        assert wire.counters["drop-rx-no-packet"] == 1
        wire.port.send([bytes(60)])
        wire.turn()
        assert [len(frame.data) for frame in take(wire.driver)] == [60]


def test_no_packets_for_what_a_guest_sends(tmp_path: Path) -> None:
    sent = KINDS["a super-frame, IPv4"]
    with Wire(tmp_path, tx=LARGE) as wire:
        wire.guest.start()
        wire.driver.send([sent.data], **sent.metadata)
        with no_free(wire.port, lib.PACKET_LARGE_SIZE):
            wire.turn()
        assert wire.counters["drop-tx-no-packet"] == 1
        # Of small ones it is known beforehand, and the guest's frame waits.
        wire.driver.send([bytes(60)])
        with no_free(wire.port, lib.PACKET_SMALL_SIZE):
            wire.turn()
        assert take(wire.port) == []
        assert wire.counters["tx-no-packet"] > 0
        wire.turn()
        assert take(wire.port) == [Frame(bytes(60), {})]


#: Flags, gso_type, hdr_len, gso_size, csum_start, csum_offset: none fits 100 bytes.
BAD_HEADERS = [
    (1, 0, 0, 0, 99, 0),
    (1, 0, 0, 0, 34, 65),
    (1, 0, 0, 0, 65535, 65535),
    (1, 1, 0, 0, 34, 16),
    (0, 2, 0, 100, 0, 0),
    (0, 255, 0, 100, 0, 0),
]


@pytest.mark.parametrize("header", BAD_HEADERS)
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_header_that_does_not_fit(
    tmp_path: Path, header: tuple[int, ...], pieces: int
) -> None:
    # CVE-2024-11614 and others: offsets out of the frame were followed.
    with Wire(tmp_path, tx=Layout(pieces=pieces)) as wire:
        wire.guest.start()
        wire.driver.send([bytes(100)])
        # Between the driver's writing it and our reading it: a guest may do so.
        wire.driver.breathe()
        buffer = ffi.cast(
            "struct virtio_net_header *", wire.guest.pairs[0].rings[1].struct.buffers
        )
        buffer[0] = (*header, 0)
        wire.port.breathe()
        assert take(wire.port) == []
        assert wire.counters["drop-tx-bad-offload"] == 1


@pytest.mark.parametrize("size", [0, 1, 19, 20, 53])
def test_a_super_frame_that_is_all_headers(tmp_path: Path, size: int) -> None:
    # CVE-2026-100236: headers longer than the frame, or than a segment.
    sent = KINDS["a super-frame, IPv4"]
    with Wire(tmp_path, features=FEATURES & ~GUEST) as wire:
        wire.guest.start()
        wire.port.send([sent.data[: max(size, 14)]], **sent.metadata)
        wire.port.send([bytes(60)])
        wire.turn()
        assert [len(frame.data) for frame in take(wire.driver)] == [60]
        assert wire.counters["drop-rx-bad-offload"] == 1
