"""What stacks leave to the interface, which the lwAFTR does: checksums, segments."""

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from snabb_py._native import lib
from snabb_py.lwaftr.conf import read
from snabb_py.lwaftr.lwaftr import Lwaftr
from tests.harness import Harness

V4, V6 = lib.LWAFTR_V4, lib.LWAFTR_V6
PARTIAL = lib.PACKET_CSUM_PARTIAL
CONF = """
softwire-config {
  external-interface { mtu 1500; }
  internal-interface { mtu 1540; hairpinning true; }
  instance { device test; queue {
    id 0;
    external-interface { ip 198.18.0.1; mac 02:00:00:00:00:04; next-hop { mac 02:00:00:00:01:04; } }
    internal-interface { ip 2001:db8::1; mac 02:00:00:00:00:06; next-hop { mac 02:00:00:00:01:06; } }
  } }
  binding-table {
    softwire { ipv4 192.0.2.1; psid 1; b4-ipv6 2001:db8:1::1; br-address 2001:db8::1; port-set { psid-length 6; } }
    softwire { ipv4 192.0.2.1; psid 2; b4-ipv6 2001:db8:1::2; br-address 2001:db8::1; port-set { psid-length 6; } }
  }
}
"""  # noqa: E501 - a line each
PAYLOAD = bytes(i * 7 % 251 for i in range(60000))


@pytest.fixture
def lwaftr(tmp_path: Path) -> Iterator[Harness]:
    path = tmp_path / "lwaftr.conf"
    path.write_text(CONF)
    config = read(path)
    with Harness(Lwaftr(config, config.instances[0].queues[0])) as harness:
        yield harness


def ethernet(*layers: Packet) -> Packet:
    frame: Packet = Ether(src="02:00:00:00:00:09", dst="02:00:00:00:00:04")
    for layer in layers:
        frame = frame / layer
    return frame


def unfinished(frame: Packet, layer: type[Packet]) -> tuple[bytes, dict[str, int]]:
    """Return a frame without its checksum, and the metadata that ask for it.

    Of super-frames the kernel's field holds the pseudo header's sum, which those who
    cut do not need.
    """
    frame[layer].chksum = 0 if layer is TCP else 0xABCD
    start = len(frame) - len(frame[layer])
    offset = 16 if layer is TCP else 6
    return bytes(frame), {
        "flags": PARTIAL, "csum_start": start, "csum_offset": offset,
    }  # fmt: skip


def inside(frame: bytes) -> Packet:
    """Return the datagram of a tunnel; all of its checksums are right."""
    packet: Packet = Ether(frame)[IP]
    again = packet.copy()
    del again.chksum
    del again.payload.chksum
    assert bytes(again) == bytes(packet)
    return packet


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (TCP(sport=80, dport=1100), lib.PACKET_GSO_TCPV4),
        (UDP(sport=53, dport=1100), lib.PACKET_GSO_UDP_L4),
    ],
)
def test_a_super_frame_from_the_internet(
    lwaftr: Harness, layer: Packet, kind: int
) -> None:
    ip = IP(src="203.0.113.1", dst="192.0.2.1", flags="DF", ttl=9)
    frame, metadata = unfinished(ethernet(ip, layer, Raw(PAYLOAD[:10500])), type(layer))
    lwaftr.send([frame], **metadata, gso_type=kind, gso_size=1000)
    lwaftr.breathe()
    found = [inside(f) for f in lwaftr.received(port=V6)]
    assert [len(p.payload.payload) for p in found] == [1000] * 10 + [500]
    assert b"".join(bytes(p.payload.payload) for p in found) == PAYLOAD[:10500]
    assert {p.ttl for p in found} == {8}
    assert lwaftr.counters["out-ipv6-packets"] == 11


def test_a_burst_of_super_frames_loses_none(lwaftr: Harness) -> None:
    """Their frames are more than a link holds: they come as there is room."""
    ip = IP(src="203.0.113.1", dst="192.0.2.1", flags="DF")
    tcp = TCP(sport=80, dport=1100)
    frame, metadata = unfinished(ethernet(ip, tcp, Raw(PAYLOAD)), TCP)
    lwaftr.send([frame] * 50, **metadata, gso_type=lib.PACKET_GSO_TCPV4, gso_size=1000)
    n = 0
    while lwaftr.breathe():
        n += len(lwaftr.received(port=V6))
    assert n == 50 * 60
    assert lwaftr.outputs[V6].counters.txdrop == 0


@pytest.mark.parametrize("destination", ["203.0.113.1", "192.0.2.1"])
@pytest.mark.parametrize("layer", [TCP, UDP])
def test_an_unfinished_checksum_in_a_tunnel(
    lwaftr: Harness, layer: type[Packet], destination: str
) -> None:
    """Finished where the tunnel ends, and before another one begins."""
    tunnel = IPv6(src="2001:db8:1::1", dst="2001:db8::1")
    ip = IP(src="192.0.2.1", dst=destination)
    inner = layer(sport=1100, dport=2100) / Raw(PAYLOAD[:99])
    frame, metadata = unfinished(ethernet(tunnel, ip, inner), layer)
    whole = ethernet(ip, inner)
    # What a sender leaves in the field is the pseudo header's sum.
    at = metadata["csum_start"] + metadata["csum_offset"]
    pseudo = pseudo_sum(whole[IP])
    frame = frame[:at] + pseudo.to_bytes(2, "big") + frame[at + 2 :]
    lwaftr.send([frame], port=V6, **metadata)
    lwaftr.breathe()
    is_hairpinned = destination == "192.0.2.1"
    (out,) = lwaftr.received(port=V6 if is_hairpinned else V4)
    assert inside(out)[layer].payload.load == PAYLOAD[:99]


def pseudo_sum(ip: Packet) -> int:
    """Return the sum of the pseudo header (RFC 9293, 3.1; RFC 768)."""
    addresses = socket.inet_aton(ip.src) + socket.inet_aton(ip.dst)
    words = struct.unpack("!4H", addresses)
    protocol = 6 if TCP in ip else 17
    return int(sum(words) + protocol + len(ip.payload)) % 0xFFFF
