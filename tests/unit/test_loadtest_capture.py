"""Frames of a capture that get room for a stamp, against scapy, and that do not."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from snabb_py.apps.traffic import Template
from snabb_py.cli.loadtest_capture import read_templates, with_room
from snabb_py.errors import ConfigError
from tests.captures import classic
from tests.unit.test_traffic import rebuilt

#: Whole, so that scapy asks nobody for what is missing.
ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
CAPTURED = [
    ETHER / IP(src="192.0.2.1", dst="192.0.2.2") / TCP(flags="A"),
    ETHER
    / Dot1Q(vlan=5)
    / IP(src="192.0.2.1", dst="192.0.2.2", options=b"\1\1\1\0")
    / UDP()
    / b"abc",
    ETHER
    / IPv6(src="2001:db8::2", dst="2001:db8::1")
    / UDP(dport=53)
    / Raw(bytes(range(100))),
    ETHER
    / IPv6(src="2001:db8::2", dst="2001:db8::1")
    / TCP(options=[("MSS", 1400)])
    / Raw(b"x" * 1401),
]
UNFIT = [
    ETHER / ARP(psrc="192.0.2.1", hwsrc="02:00:00:00:00:01"),
    ETHER / IP(src="192.0.2.1", dst="192.0.2.2") / ICMP() / Raw(bytes(64)),
    ETHER / IP(src="192.0.2.1", dst="192.0.2.2", flags="MF") / UDP() / Raw(bytes(64)),
    ETHER / IP(src="192.0.2.1", dst="192.0.2.2", ihl=4) / UDP() / Raw(bytes(64)),
    ETHER / IP(src="192.0.2.1", dst="192.0.2.2", len=2000) / UDP() / Raw(bytes(64)),
    ETHER / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(len=9) / Raw(bytes(64)),
    ETHER / IP(src="192.0.2.1", dst="192.0.2.2") / TCP(dataofs=15) / Raw(bytes(4)),
    ETHER
    / IPv6(src="2001:db8::2", dst="2001:db8::1", plen=2000)
    / UDP()
    / Raw(bytes(64)),
    ETHER / IP(src="192.0.2.1", dst="192.0.2.2") / UDP() / Raw(bytes(11000)),
    Raw(bytes.fromhex("02" * 12 + "0800")),
    Raw(b"x"),
]


@pytest.mark.parametrize("packet", CAPTURED)
def test_a_captured_frame_gets_room_for_a_stamp(packet: Packet) -> None:
    frame = bytes(packet)
    made = with_room(frame)
    assert made
    assert made[-16:] == bytes(16)
    assert Template(made).stamp_end == len(made)
    layer = TCP if TCP in packet else UDP
    before, after = Ether(frame), Ether(made)
    payload, blanked = bytes(before[layer].payload), bytes(after[layer].payload)
    assert len(blanked) == max(len(payload), 16)
    assert blanked[:-16] == payload[:-16]
    # All else is as it was, and what scapy computes is what was computed.
    after[layer].remove_payload()
    after[layer].add_payload(payload)
    assert rebuilt(bytes(after)) == frame
    assert rebuilt(made) == made


def test_what_cannot_have_a_stamp_is_left_out(tmp_path: Path) -> None:
    for packet in UNFIT:
        assert with_room(bytes(packet)) is None, packet.summary()
    path = tmp_path / "captured.pcap"
    path.write_bytes(classic([bytes(p) for p in (*CAPTURED, *UNFIT)]))
    templates, left_out = read_templates(path)
    assert (len(templates), left_out) == (len(CAPTURED), len(UNFIT))
    path.write_bytes(classic([bytes(p) for p in UNFIT]))
    with pytest.raises(ConfigError, match="none of 11 frames"):
        read_templates(path)


@given(st.binary(max_size=120))
def test_no_frame_is_too_odd(frame: bytes) -> None:
    for begin in (b"", bytes(12) + b"\x08\x00\x45", bytes(12) + b"\x86\xdd\x60"):
        made = with_room(begin + frame)
        assert made is None or Template(made).stamp_end
