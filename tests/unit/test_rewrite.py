"""Rewrite: other addresses, checksums as right as they were. The oracle is scapy."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from snabb_py.apps.rewrite import Rewrite
from snabb_py.errors import ConfigError
from tests.harness import Harness
from tests.unit.test_traffic import rebuilt

ALL: dict[str, Any] = {
    "src_mac": "02:00:00:00:00:aa",
    "dst_mac": "02:00:00:00:00:bb",
    "src_ip": ["192.0.2.0/24", "2001:db8:1::/64"],
    "dst_ip": ["203.0.113.77", "2001:db8:2::7"],
}
MAC: dict[str, Any] = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
V4 = IP(src="10.1.2.3", dst="10.4.5.6")
V6 = IPv6(src="fd00:1:2:3:4:5:6:7", dst="fd00::1")


def rewritten(frame: bytes, **changes: Any) -> bytes:
    with Harness(Rewrite(**changes), small=64, large=1) as h:
        h.send([frame])
        h.breathe()
        [result] = h.received()
        return result


@pytest.mark.parametrize(
    "packet",
    [
        V4 / UDP(sport=1, dport=2) / b"odd",
        V4 / TCP(sport=1, dport=2) / b"abcd",
        V4 / ICMP() / b"abc",
        V4 / Raw(b"abc"),
        IP(src="10.1.2.3", dst="10.4.5.6", options=b"\1\1\1\0") / UDP() / b"a",
        V6 / UDP() / b"abc",
        V6 / ICMPv6EchoRequest(data=b"abc"),
        V6 / IPv6ExtHdrDestOpt() / TCP() / b"abc",
    ],
)
@pytest.mark.parametrize("tagged", [False, True])
def test_addresses_and_checksums(packet: Packet, tagged: bool) -> None:
    ether = Ether(**MAC) / Dot1Q(vlan=5) if tagged else Ether(**MAC)
    frame = rewritten(bytes(ether / packet), **ALL)
    assert rebuilt(frame) == frame
    p = Ether(frame)
    assert (p.src, p.dst) == (ALL["src_mac"], ALL["dst_mac"])
    if IP in p:
        assert (p[IP].src, p[IP].dst) == ("192.0.2.3", "203.0.113.77")
    else:
        assert (p[IPv6].src, p[IPv6].dst) == ("2001:db8:1:0:4:5:6:7", "2001:db8:2::7")
    assert len(frame) == len(bytes(ether / packet))


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 65535))
def test_no_address_makes_a_checksum_wrong(old: int, new: int, port: int) -> None:
    def text(address: int) -> str:
        return ".".join(map(str, address.to_bytes(4, "big")))

    packet = Ether(**MAC) / IP(src=text(old), dst="10.0.0.1") / UDP(sport=port) / b"a"
    frame = rewritten(bytes(packet), src_ip=[text(new)])
    assert rebuilt(frame) == frame
    assert Ether(frame)[UDP].chksum != 0


def test_a_wrong_checksum_stays_wrong_and_none_stays_none() -> None:
    wrong = bytes(Ether(**MAC) / V4 / UDP(chksum=1) / b"abc")
    frame = rewritten(wrong, **ALL)
    assert rebuilt(frame)[40:42] != frame[40:42]
    none = bytes(Ether(**MAC) / V4 / UDP(chksum=0) / b"abc")
    assert Ether(rewritten(none, **ALL))[UDP].chksum == 0


def test_a_datagram_in_fragments_stays_right() -> None:
    whole = bytes(V4 / UDP(sport=1, dport=2) / Raw(bytes(range(100))))[20:]
    parts = [whole[:64], whole[64:]]
    sent = [V4.copy() / Raw(part) for part in parts]
    sent[0][IP].flags, sent[1][IP].frag = "MF", 8
    for packet in sent:
        packet[IP].proto = 17
    frames = [rewritten(bytes(Ether(**MAC) / p), **ALL) for p in sent]
    ips = [Ether(frame)[IP] for frame in frames]
    payload = b"".join(bytes(ip.payload) for ip in ips)
    joined = bytes(
        Ether(**MAC) / IP(src=ips[0].src, dst=ips[0].dst, proto=17) / Raw(payload)
    )
    assert rebuilt(joined) == joined
    assert bytes(ips[1].payload) == parts[1]


def test_a_later_ipv6_fragment_is_payload_alone() -> None:
    part = bytes(range(40))
    fragment = V6 / IPv6ExtHdrFragment(offset=8, nh=17) / Raw(part)
    frame = rewritten(bytes(Ether(**MAC) / fragment), **ALL)
    assert frame.endswith(part)


@given(st.binary(max_size=100))
def test_any_bytes_pass(tail: bytes) -> None:
    for head in (b"", bytes(12) + b"\x08\x00E", bytes(12) + b"\x86\xdd`"):
        frame = (head + tail) or b"\0"
        result = rewritten(frame, **ALL)
        assert len(result) == len(frame)


def test_what_is_not_named_stays() -> None:
    for packet in (V4 / UDP() / b"a", V6 / UDP() / b"a", ARP()):
        frame = bytes(Ether(**MAC) / packet)
        assert rewritten(frame) == frame
    frame = bytes(Ether(**MAC) / V6 / UDP() / b"a")
    assert rewritten(frame, src_ip=["10.0.0.1"]) == frame


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"src_mac": "hello"}, 'src_mac: "hello" is no MAC address'),
        ({"dst_ip": ["10.0.0.300"]}, 'dst_ip: "10.0.0.300" is no address'),
        ({"src_ip": ["10.0.0.0/8", "11.0.0.1"]}, "src_ip: two of IPv4"),
        ({"src_ip": ["10.0.0.1/8"]}, "is no address or prefix"),
    ],
)
def test_what_is_no_address_is_refused(changes: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        Rewrite(**changes)
