"""Scapy expressions: read as scapy would run them, and nothing else is."""

import os
import signal
import socket
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from snabb_py.cli import confined
from snabb_py.cli.packetblaster_expression import read_packets
from snabb_py.errors import ConfigError

MAC: dict[str, Any] = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
ETHER = Ether(**MAC)
V4: dict[str, Any] = {"src": "198.18.0.1", "dst": "198.19.0.1"}
V6: dict[str, Any] = {"src": "2001:2:0:1::1", "dst": "2001:2:0:2::1"}


@pytest.mark.parametrize(
    ("text", "packet"),
    [
        ("Ether()", ETHER),
        (
            'Ether()/IP(dst="198.51.100.1")/UDP()',
            ETHER / IP(src="198.18.0.1", dst="198.51.100.1") / UDP(),
        ),
        (
            " Ether(dst='02:00:00:00:00:07') / IPv6(hlim=3)/TCP(flags='SA') / b'x\\0'",
            Ether(src=MAC["src"], dst="02:00:00:00:00:07")
            / IPv6(hlim=3, **V6)
            / TCP(flags="SA")
            / b"x\0",
        ),
        (
            "Ether()/Dot1Q(vlan=5)/(IP()/ICMP())/'hello'",
            ETHER / Dot1Q(vlan=5) / IP(**V4) / ICMP() / "hello",
        ),
        (
            "Ether()/IP()/UDP(dport=53)/DNS(rd=1, qd=DNSQR(qname='a.example'))",
            ETHER / IP(**V4) / UDP(dport=53) / DNS(rd=1, qd=DNSQR(qname="a.example")),
        ),
        (
            "Ether()/IP()/TCP(options=[('MSS', 1460), ('NOP', None)])",
            ETHER / IP(**V4) / TCP(options=[("MSS", 1460), ("NOP", None)]),
        ),
        ("Ether()/Raw(b'abc')", ETHER / Raw(b"abc")),
    ],
)
def test_it_is_what_scapy_makes_of_it(text: str, packet: Packet) -> None:
    assert read_packets(text) == [bytes(packet)]


def test_what_stands_for_several_is_several() -> None:
    text = "Ether()/IP(dst='192.0.2.0/30')/UDP(sport=(7, 9), dport=[1, 5])"
    packets = [Ether(frame) for frame in read_packets(text)]
    found = {(p[IP].dst, p[UDP].sport, p[UDP].dport) for p in packets}
    assert len(packets) == len(found) == 4 * 3 * 2


def test_what_is_left_out_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    arp = Ether(read_packets("Ether()/ARP()")[0])[ARP]
    assert (arp.hwsrc, arp.psrc, arp.pdst) == (MAC["src"], V4["src"], V4["dst"])


def test_sizes_fill_up_with_zeros() -> None:
    frames = read_packets("Ether()/IP()/UDP()", [64, 128])
    assert [len(frame) + 4 for frame in frames] == [64, 128]
    for frame in frames:
        assert Ether(frame)[IP].len == len(frame) - 14
        assert frame == bytes(ETHER / IP(**V4) / UDP() / bytes(len(frame) - 42))


FOREIGN = 'only layers of scapy, literals for their fields, and "/" are'


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("__import__('os').system('true')", f"an attribute is not .* 1; {FOREIGN}"),
        ("Ether()/__import__('os')", '"__import__" is no layer of scapy, at .* 9'),
        ("Ether().src", "an attribute is not allowed"),
        ("Ether()/IP(ttl=[1 for _ in 'a'])", "a comprehension is not .* character 16"),
        ("(lambda: Ether())()", "a lambda is not allowed"),
        ("lambda: 1", "a lambda is not allowed"),
        ("Ether()/('a'*10**9)", "this operator is not allowed, at character 10"),
        ("Ether()*1000000", "this operator is not allowed"),
        ("Ether()/IP(ttl=1+1)", "this operator is not allowed, at character 16"),
        ("Ether()/IP(ttl=x)", 'the name "x" is not allowed, at character 16'),
        ("Ether()/IP(ttl=f'{1}')", "an f-string is not allowed"),
        ("Ether()/IP(**{})", "a star is not allowed"),
        ("Ether()/IP(*[1])", "a value without the name of its field in IP"),
        ("Ether()/IP(b'raw')", "a value without the name of its field in IP"),
        ("Ether()/IP(ttl=IP)", 'the name "IP" is not allowed'),
        ("Ether()/IP(ttl={1})", "a set is not allowed"),
        ("(a:=Ether())", "an assignment is not allowed"),
        ("Ether() if 1 else 2", "a condition is not allowed"),
        ("Ether()[0]", "an index is not allowed"),
        ("exec('1')", '"exec" is no layer of scapy'),
        ("import os", "invalid syntax"),
        ("Ether();Ether()", "invalid syntax"),
        ("", "invalid syntax"),
        ("Ether(", "was never closed"),
        ("Ether()\0", "null"),
        ("Ether()/IP(ttl=...)", "Ellipsis is not allowed"),
        ("1", "1 is not allowed"),
        ("'x'", "a payload with nothing in front of it"),
        ("IP()/UDP()", "it begins with IP, not with Ether"),
        ("Ether()/IP(colour=1)", 'IP has no field "colour", at character 19'),
        ("Ether()/IP(_pkt=b'x')", 'IP has no field "_pkt"'),
        ("Ether()/IP(ttl=1000)", "scapy cannot build it: .*ttl"),
        ("Ether()/IP(ttl='x')", "scapy cannot build it: .*ttl"),
        ("Ether()/IP(dst='a.example')", "names are not looked up, at character 9"),
        ("Ether()/IPv6(dst='a.example')", "names are not looked up"),
        ("Ether(dst='a.example')", "is no MAC address, at character 11"),
        (f"Ether()/IP(id={10**50})", "a number of more than 128 bits"),
        ("Ether()/IP(dst='0.0.0.0/0')", "stands for more than 4096"),
        ("Ether()/UDP(sport=(1,65535),dport=(1,65535))", "stands for more than 4096"),
        (f"Ether(){'/Ether()' * 70}", "more than 64 layers"),
        (f"Ether()/IP(id={'[' * 30}1{']' * 30})", "nested deeper than 16"),
        ("(" * 250 + "Ether()" + ")" * 250, "too many nested parentheses"),
        ("-" * 10_000 + "1", "nested too deeply"),
        ("Ether()/" * 1_000 + "Ether()", "more than 64 layers|nested too deeply"),
        ("x" * 10_000_000, "longer than 16384 characters"),
        ("Ether()/Raw(load='" + "x" * 11_000 + "')", "bytes without FCS"),
        ("Ether()/IP(dst='0.0.0.0/0')/UDP(sport=[])", "sport is empty"),
        ("Ether()/IPv6(dst='::/0')/UDP(sport=(9,1))", "sport is empty"),
        ("Ether()/IP(id=[])", "id is empty: no packet comes of it, at character 15"),
        ("Ether()/IP(id=[(5,1),[]])", "id is empty"),
        ("Ether()/IP(id=(1,5,-1))", "no packet comes of it"),
        ("Ether()/IP(dst='1.2.3.4/99')", "a prefix has 0 to 32 bits, at character 16"),
        ("Ether()/IP(dst=['1.2.3.4/-1'])", "a prefix has 0 to 32 bits"),
        ("Ether()/IPv6(dst='::/129')", "a prefix has 0 to 128 bits"),
        ("Ether()/AD_AND_OR(elements=5000000000)", "takes more than 512 MiB"),
        ("Ether()/KDCDHKeyInfo(subjectPublicKey=5000000000)", "more than 512 MiB"),
        (r"Ether()/'\ud800'", "surrogates not allowed"),
        ("Ether()/EIR_AdvertisingInterval()", "recursion"),
        ("Ether()/CMS_ContentInfo(contentType=16777216)", "recursion"),
        ("Ether()/RadiusAttr_Vendor_Specific(vendor_id=[])", "vendor_id is empty"),
        ("Ether()/ASN1P_OID(oid=70000)", r"\.\.\.$"),
        (f"Ether()/{'x' * 10_000}()", '"x{40}" is no layer'),
        (f"Ether()/IP({'x' * 10_000}=1)", 'no field "x{40}"'),
        (f"Ether()/IP(id={'x' * 10_000})", 'the name "x{40}"'),
    ],
)  # fmt: skip
def test_what_is_none_is_refused_by_name(text: str, wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong) as caught:
        read_packets(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert str(caught.value).startswith("packet: ")


@pytest.mark.parametrize(
    "text",
    [
        "Ether()/RTPSSubMessage_INFO_TS(submessageFlags=-1)",
        "Ether()/IP(dst='0.0.0.0/0')/UDP(sport=(1,5,-1))",
    ],
)
def test_what_has_no_end_is_ended(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined, "MOST_SECONDS", 1)
    with pytest.raises(ConfigError, match="building it takes more than 1 s"):
        read_packets(text)


def test_what_waits_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined, "MOST_WAIT", 0.1)

    def wait() -> bytes:
        time.sleep(600)
        return b""

    with pytest.raises(ConfigError, match="building it takes more than"):
        confined.confined(wait, "packet", 1)


def test_a_reply_has_a_limit() -> None:
    assert confined.confined(lambda: bytes(1 << 20), "packet", 1 << 20) == bytes(
        1 << 20
    )
    with pytest.raises(ConfigError, match="more than 1 MiB come of it"):
        confined.confined(lambda: bytes((1 << 20) + 1), "packet", 1 << 20)


def test_a_crash_is_the_childs_alone() -> None:
    def crash() -> bytes:
        os.kill(os.getpid(), signal.SIGSYS)
        return b""

    with pytest.raises(ConfigError, match="building it fails: Bad system call"):
        confined.confined(crash, "packet", 1)


@settings(max_examples=300)
@given(
    st.text(max_size=40)
    | st.lists(
        st.sampled_from(
            [*"()[]{},=/*-.'\"\\:", "Ether()", "IP", "dst", "1", "lambda", " "]
        ),
        max_size=20,
    ).map("".join)
)
def test_any_text_is_a_packet_or_refused(text: str) -> None:
    try:
        frames = read_packets(text)
    except ConfigError as error:
        frames = []
        said = str(error)
    else:
        said = "packet: "
    assert said.startswith("packet: ")
    assert all(len(frame) >= 14 for frame in frames)
