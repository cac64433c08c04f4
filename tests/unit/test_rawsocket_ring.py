"""RawSocket's receive ring, written by the test as the kernel writes it.

Super-frames inside of tunnels are in it: no packet socket sends such, only a stack
whose routes lead into a tunnel, or GRO.
"""

import struct
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from snabb_py._native import ffi, lib
from snabb_py.apps.rawsocket import RawSocket
from snabb_py.engine.app import Resources
from tests.harness import Harness

#: struct tpacket2_hdr, struct sockaddr_ll; where a frame begins, behind the virtio-net
#: header; a frame is ours to read (linux/if_packet.h).
HEADER, ADDRESS, MAC, USER = struct.Struct("=IIIHHIIHH4x"), bytes(20), 80, 1
NFRAMES = 4
TCPV4, TCPV6 = lib.PACKET_GSO_TCPV4, lib.PACKET_GSO_TCPV6


class Ring(RawSocket):
    """A RawSocket whose kernel is the test."""

    def open(self, resources: Resources) -> None:
        del resources
        self.memory: Any = ffi.new("uint8_t[]", lib.RAWSOCKET_BLOCK_SIZE)
        self.state: Any = ffi.new("struct rawsocket *", {"fd": -1})
        lib.rawsocket_renew(self.state, self.memory, NFRAMES)
        self.written = 0

    def write(self, frame: bytes, offload: bytes = bytes(10)) -> None:
        slot = self.memory + self.written % NFRAMES * lib.RAWSOCKET_FRAME_SIZE
        assert ffi.unpack(slot, 4) == [0] * 4, "not read yet"
        n = len(frame)
        header = HEADER.pack(USER, n, n, MAC, MAC + 14, 0, 0, 0, 0) + ADDRESS
        header = header.ljust(MAC - len(offload), b"\0") + offload
        ffi.memmove(slot, header + frame, len(header + frame))
        self.written += 1

    def close(self) -> None:
        """Have nothing to close."""


class RingHarness(Harness):
    """A Ring by itself."""

    def __init__(self, small: int) -> None:
        self.ring = Ring("eth0")
        super().__init__(self.ring, small=small)


@pytest.fixture
def harness() -> Iterator[RingHarness]:
    with RingHarness(4096) as harness:
        yield harness


def tunnelled(*layers: Packet, payload: int, size: int) -> tuple[bytes, bytes]:
    """Return a TCP super-frame in a tunnel, and the virtio-net header that it has."""
    front: Packet = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01")
    for layer in layers:
        front = front / layer
    start, kind = len(front), TCPV4 if type(layers[-1]) is IP else TCPV6
    data = bytes(i % 251 for i in range(payload))
    offload = struct.pack("<BBHHHH", 1, kind, start + 20, size, start, 16)
    return bytes(front / TCP() / Raw(data)), offload


TUNNELS = {
    "ipv4 in ipv6": (IPv6(), IP(flags="DF")),
    "ipv6 in ipv4": (IP(flags="DF"), IPv6()),
    "ipv6 in ipv6": (IPv6(), IPv6()),
}


@pytest.mark.parametrize("layers", TUNNELS.values(), ids=TUNNELS.keys())
def test_a_super_frame_in_a_tunnel_is_cut_up(
    harness: RingHarness, layers: tuple[Packet, ...]
) -> None:
    frame, offload = tunnelled(*layers, payload=5500, size=1000)
    harness.ring.write(frame, offload)
    assert harness.breathe() == 1
    packets = ffi.new("struct packet *[]", 8)
    assert lib.engine_link_receive(harness.outputs[0], packets, 8) == 6
    assert all(p.flags == p.gso_type == 0 for p in packets[0:6])
    frames = [bytes(ffi.buffer(p.data, p.length)) for p in packets[0:6]]
    for packet in packets[0:6]:
        lib.engine_packet_free(harness.freelist, packet)
    assert [len(f) for f in frames] == [len(frame) - 4500] * 5 + [len(frame) - 5000]
    assert b"".join(Ether(f)[TCP].payload.load for f in frames) == frame[-5500:]
    assert harness.counters == {
        "rx-packets": 6,
        "rx-bytes": sum(map(len, frames)),
        "rx-super-frames": 1,
        "rx-super-frames-cut": 1,
    }


def test_segments_wait_for_room(harness: RingHarness) -> None:
    """What does not fit the link stays in the ring."""
    frame, offload = tunnelled(IPv6(), IP(), payload=60000, size=100)
    for _ in range(3):
        harness.ring.write(frame, offload)
    harness.ring.write(bytes(60))
    for _ in range(2):
        assert harness.breathe() == 1
        assert harness.breathe() == 0
        assert len(harness.received()) == 600
    assert harness.breathe() == 2
    assert len(harness.received()) == 601
    assert harness.breathe() == 0
    assert harness.counters["rx-super-frames-cut"] == 3


def test_segments_without_number(harness: RingHarness) -> None:
    """As many as fit the link when it is empty are made of one frame, and no more."""
    frame, offload = tunnelled(IPv6(), IP(), payload=1025, size=1)
    harness.ring.write(frame, offload)
    harness.ring.write(*tunnelled(IPv6(), IP(), payload=1024, size=1))
    while harness.breathe():
        pass
    assert len(harness.received()) == 1024
    assert harness.counters["drop-rx-bad-offload"] == 1


def test_a_super_frame_in_two_tunnels_is_dropped(harness: RingHarness) -> None:
    harness.ring.write(*tunnelled(IPv6(), IP(), IP(), payload=5500, size=1000))
    assert harness.breathe() == 1
    assert harness.received() == []
    assert harness.counters == {"rx-super-frames": 1, "drop-rx-bad-offload": 1}


def test_no_packets_for_all_segments() -> None:
    with RingHarness(32) as harness:
        harness.ring.write(*tunnelled(IPv6(), IP(), payload=60000, size=1000))
        assert harness.breathe() == 1
        assert harness.received() == []
        assert harness.counters == {"rx-super-frames": 1, "drop-rx-no-packet": 1}


@pytest.mark.parametrize("mac", [0, 61])
def test_a_frame_that_is_not_in_its_slot(harness: RingHarness, mac: int) -> None:
    frame, offload = tunnelled(IPv6(), IP(), payload=3000, size=1000)
    harness.ring.write(frame, offload)
    harness.ring.memory[12] = mac
    assert harness.breathe() == 1
    assert harness.counters == {"drop-rx-truncated": 1}
