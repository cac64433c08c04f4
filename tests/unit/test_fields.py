"""Header fields that vary: each flow once, checksums right in each packet.

Oracles: scapy, which builds each frame anew from its fields; the order of flows as a
formula; counting.
"""

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from snabb_py.apps.fields import Range
from snabb_py.apps.traffic import Generator, Template, _pick, udp_frames
from snabb_py.errors import ConfigError
from tests.harness import Harness
from tests.unit.test_traffic import rebuilt, stamp_of

MAC: dict[str, Any] = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
RANGES = {
    "dst_mac": "02:00:00:00:00:fe-02:00:00:00:01:03",
    "src_mac": "02:ff:ff:ff:ff:fd-03:00:00:00:00:01",
    "vlan": "254-257",
    "src_ip": "198.18.0.254-198.18.1.2",
    "dst_ip": "203.0.113.0/30",
    "src_port": "254-260",
    "dst_port": "65530-65535",
}
RANGES6 = RANGES | {
    "src_ip": "2001:db8::ffff:fffe-2001:db8::1:0:4",
    "dst_ip": "2001:db8:1::/125",
}


def generate(n: int, frames: list[Template], **args: Any) -> list[bytes]:
    with Harness(Generator(frames, count=n, **args), small=512, large=1) as h:
        return h.drain()


def ranges_of(texts: dict[str, str]) -> list[Range]:
    return [Range.of(name, text) for name, text in texts.items()]


def values_of(frame: bytes) -> tuple[Any, ...]:
    """Return a frame's fields, in the order of RANGES, as far as it has them."""
    p = Ether(frame)
    ip = p[IP] if IP in p else p[IPv6]
    vlan = (p[Dot1Q].vlan,) if Dot1Q in p else ()
    ports = (ip.payload.sport, ip.payload.dport)
    return (p.dst, p.src, *vlan, ip.src, ip.dst, *ports)


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("ipv6", [False, True])
@pytest.mark.parametrize("vlan", [None, 5])
def test_all_fields_vary_and_all_checksums_are_right(
    vlan: int | None, ipv6: bool, timed: bool
) -> None:
    texts = dict(RANGES6 if ipv6 else RANGES)
    if vlan is None:
        del texts["vlan"]
    frames = udp_frames([124, 125, 594], ipv6=ipv6, vlan=vlan, timed=timed)
    sent = generate(400, frames, ranges=ranges_of(texts))
    assert all(rebuilt(frame) == frame for frame in sent)
    assert len({values_of(frame) for frame in sent}) == 400
    assert [stamp_of(frame)[2] for frame in sent] == list(range(400))
    for i, name in enumerate(texts):
        r = Range.of(name, texts[name])
        assert len({values_of(frame)[i] for frame in sent}) == r.n


@given(
    st.sets(st.sampled_from(sorted(RANGES)), min_size=1),
    st.booleans(),
    st.booleans(),
    st.integers(1, 3),
)
def test_whatever_varies_the_rest_stays(
    names: set[str], ipv6: bool, timed: bool, ntemplates: int
) -> None:
    texts = {n: t for n, t in (RANGES6 if ipv6 else RANGES).items() if n in names}
    frames = udp_frames(
        [124 + i for i in range(ntemplates)], ipv6=ipv6, vlan=5, timed=timed
    )
    first = dict(zip(RANGES, values_of(frames[0].frame), strict=True))
    sent = generate(300, frames, ranges=ranges_of(texts))
    flows = min(300 // ntemplates, math.prod(r.n for r in ranges_of(texts)))
    assert len({values_of(frame) for frame in sent}) >= flows
    for number, frame in enumerate(sent):
        assert rebuilt(frame) == frame
        assert stamp_of(frame)[2] == number
        for name, value in zip(RANGES, values_of(frame), strict=True):
            assert name in names or value == first[name]


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=4),
    st.integers(1, 5),
    st.data(),
)
def test_each_flow_comes_in_each_template(
    lengths: list[int], ntemplates: int, data: st.DataObject
) -> None:
    flows = data.draw(st.integers(0, math.prod(lengths)))
    nflows = flows or math.prod(lengths)
    names = ("dst_ip", "src_port", "src_ip", "dst_port")
    firsts = (0x0A000000, 100, 0x0B000000, 200)
    versions = (4, 0, 4, 0)
    parts = list(zip(names, firsts, lengths, versions, strict=False))
    frames = udp_frames([64 + i for i in range(ntemplates)])
    n = min(2 * ntemplates * nflows, 500)
    sent = generate(n, frames, ranges=[Range(*p) for p in parts], flows=flows)
    seen: Counter[tuple[int, tuple[int, ...]]] = Counter()
    for number, frame in enumerate(sent):
        ip = Ether(frame)[IP]
        got = [
            int.from_bytes(bytes(ip)[16:20], "big"),
            ip.payload.sport,
            int.from_bytes(bytes(ip)[12:16], "big"),
            ip.payload.dport,
        ][: len(lengths)]
        template, flow = _pick((ntemplates, nflows), number)
        picked = _pick(lengths, flow)
        assert len(frame) == 60 + template
        assert got == [f + i for f, i in zip(firsts, picked, strict=False)]
        seen[template, tuple(got)] += 1
    if n == 2 * ntemplates * nflows:
        assert len(seen) == ntemplates * nflows
        assert set(seen.values()) == {2}


PACKETS: list[tuple[Packet, str]] = [
    (IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=1, dport=2) / b"odd", "src_port"),
    (IP(src="10.0.0.1", dst="10.0.0.2") / ICMP() / b"x", "src_ip"),
    (IP(src="10.0.0.1", dst="10.0.0.2", proto=99) / b"x", "dst_ip"),
    (IP(src="10.0.0.1", dst="10.0.0.2", frag=3, proto=17) / b"abcdefgh", "dst_ip"),
    (IP(src="10.0.0.1", dst="10.0.0.2", flags="MF") / UDP() / b"abc", "src_ip"),
    (
        IP(src="10.0.0.1", dst="10.0.0.2", options=b"\1\1\1\0") / UDP() / b"a",
        "dst_port",
    ),
    (IP(src="10.0.0.1", dst="10.0.0.2") / IP(src="1.2.3.4") / UDP() / b"a", "src_ip"),
    (IPv6(src="::1", dst="::2") / ICMPv6EchoRequest(data=b"abc"), "dst_ip"),
    (IPv6(src="::1", dst="::2") / IPv6ExtHdrDestOpt() / UDP() / b"abc", "src_port"),
]


@pytest.mark.parametrize(("packet", "name"), PACKETS)
@pytest.mark.parametrize("tags", [0, 1, 2])
def test_any_packet_varies(packet: Packet, name: str, tags: int) -> None:
    ether = Ether(**MAC)
    for i in range(tags):
        ether /= Dot1Q(vlan=7 + i)
    frame = bytes(ether / packet)
    version = 6 if packet.version == 6 else 4
    ips = "2001:db8::/118" if version == 6 else "198.51.100.0/22"
    text = {"ip": ips, "port": "250-399"}
    template = Template(frame, stamp=False)
    sent = generate(150, [template], ranges=[Range.of(name, text[name[4:]])])
    assert len(set(sent)) == 150
    first_fragment = IP in packet and packet.flags.MF
    assert all(rebuilt(f) == f for f in sent if not first_fragment)


def test_packets_with_fields_in_different_places_vary_together() -> None:
    udp = UDP(sport=1, dport=2) / b"abc"
    ip = IP(src="10.0.0.1", dst="10.0.0.2")
    packets = [
        Ether(**MAC) / ip / udp,
        Ether(**MAC) / Dot1Q(vlan=5) / ip / TCP() / b"abcd",
        Ether(**MAC) / IP(src="10.0.0.1", dst="10.0.0.2", options=b"\1\1\1\0") / udp,
        Ether(**MAC) / ip / UDP(chksum=0) / b"x",
    ]
    frames = [Template(bytes(p), stamp=False) for p in packets]
    ranges = ranges_of({"src_ip": "10.1.0.0/26", "dst_port": "1000-1009"})
    sent = generate(400, frames, ranges=ranges)
    for i, frame in enumerate(sent):
        assert len(frame) == len(frames[i % 4].frame)
        assert i % 4 == 3 or rebuilt(frame) == frame
    assert {Ether(frame)[UDP].chksum for frame in sent[3::4]} == {0}
    seen = {(Ether(f)[IP].src, Ether(f)[IP].payload.dport, i % 4)
            for i, f in enumerate(sent)}  # fmt: skip
    assert len(seen) == 400


def test_a_checksum_that_was_left_out_stays_so() -> None:
    packet = Ether(**MAC) / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(chksum=0) / b"x"
    template = Template(bytes(packet), stamp=False)
    for frame in generate(50, [template], ranges=[Range.of("src_port", "1-50")]):
        assert Ether(frame)[UDP].chksum == 0


def test_a_value_sets_the_field_and_what_is_not_named_stays() -> None:
    [template] = udp_frames(64, src_mac="02:00:00:00:00:09")
    [frame] = generate(1, [template], ranges=[Range.of("dst_ip", "10.1.2.3")])
    assert rebuilt(frame) == frame
    assert Ether(frame)[IP].dst == "10.1.2.3"
    assert Ether(frame).src == "02:00:00:00:00:09"


def test_flows_and_numbers_go_on_when_the_rate_changes() -> None:
    frames = udp_frames([64, 80])
    args: dict[str, Any] = {"ranges": [Range.of("src_port", "1-7")], "flows": 5}
    whole = generate(100, frames, **args)
    sent = []
    changed = []
    with Harness(Generator(frames, rate_pps=1e6, count=100, **args), burst=3) as h:
        for i in range(200):
            h.breathe(1000)
            sent += h.received()
            rate = 1e6 * (1 + i % 3)
            changed.append(Generator(frames, rate_pps=rate, count=100, **args))
            changed[-1].adopt(h.app)
            h.struct.config = changed[-1].config
    assert sent == whole


@pytest.mark.parametrize(
    ("name", "text", "wrong"),
    [
        ("src_ip", "198.51.100.7-198.51.100.1", "say 198.51.100.1-198.51.100.7"),
        ("src_ip", "198.51.100.7/24", "neither an address"),
        ("src_ip", "::1-10.0.0.1", "neither an address"),
        ("src_ip", "example.com", "neither an address"),
        ("src_ip", "2001:db8::/32", "only the lower 64 bits"),
        ("src_port", "1-65536", "neither a port, 0 to 65535, nor FIRST-LAST"),
        ("vlan", "4096", "neither a VLAN, 0 to 4094, nor FIRST-LAST"),
        ("dst_mac", "02:00:00:00:00:0", "neither a MAC address nor FIRST-LAST"),
    ],
)
def test_what_is_no_range_is_refused(name: str, text: str, wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        Range.of(name, text)


@pytest.mark.parametrize(
    ("packet", "name", "text", "wrong"),
    [
        (ARP(), "src_ip", "10.0.0.1-10.0.0.9", "no IP header"),
        (IP(src="1.1.1.1", dst="1.1.1.2") / ICMP(), "dst_port", "1-9", "no TCP or UDP"),
        (IP(src="1.1.1.1", dst="1.1.1.2") / UDP(), "vlan", "1-9", "no VLAN tag"),
        (IP(src="1.1.1.1", dst="1.1.1.2") / UDP(), "src_ip", "::1-::2", "not IPv6"),
        (IPv6(src="::1", dst="::2") / UDP(), "src_ip", "1.1.1.1/32", "not IPv4"),
    ],
)
def test_a_packet_without_the_field_is_refused(
    packet: Packet, name: str, text: str, wrong: str
) -> None:
    template = Template(bytes(Ether(**MAC) / packet / Raw(b"a")), stamp=False)
    with pytest.raises(ConfigError, match=wrong):
        Generator([template], ranges=[Range.of(name, text)])


def test_a_stamp_has_a_place_of_its_own() -> None:
    zeros = IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=0, dport=0, len=0, chksum=0)
    frame = bytes(Ether(**MAC) / zeros / bytes(8))
    with pytest.raises(ConfigError, match="too short for the stamp"):
        Generator([Template(frame)], ranges=[Range.of("dst_port", "1-9")])


def test_there_are_no_more_flows_than_combinations() -> None:
    with pytest.raises(ConfigError, match="flows: 10 is not within 0 to 9"):
        Generator(udp_frames(), ranges=[Range.of("dst_port", "1-9")], flows=10)


@given(
    st.sampled_from([b"\x08\x00E", b"\x86\xdd`", b"\x81\x00\0\x05\x08\x00E", b""]),
    st.binary(min_size=14, max_size=120),
    st.sampled_from(sorted(RANGES)),
    st.booleans(),
)
def test_any_bytes_vary_or_are_refused(
    head: bytes, tail: bytes, name: str, is_ipv6: bool
) -> None:
    frame = (bytes(12) + head + tail)[:120]
    r = Range.of(name, (RANGES6 if is_ipv6 else RANGES)[name])
    template = Template(frame, stamp=False)
    try:
        app = Generator([template], ranges=[r], count=10)
    except ConfigError:
        return
    with Harness(app, small=256, large=1) as h:
        sent = h.drain()
    assert {len(packet) for packet in sent} == {len(frame)}
    assert len(set(sent)) > 1
