"""Pings of our own addresses: the reply as scapy makes it, or the frame as it was."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, IPOption_Router_Alert
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from snabb_py._native import ffi, lib
from tests.packet_bench import PacketBench

OWN4, OWN6 = "10.10.10.10", "2001:db8::10"
PEER4, PEER6 = "192.0.2.9", "2001:db8::9"
MAC, PEER = "02:00:00:00:00:01", "02:00:00:00:00:09"
DATA = Raw(b"some data, an odd number")


@pytest.fixture(scope="module")
def bench() -> Iterator[PacketBench]:
    with PacketBench() as bench:
        yield bench


def own(is_ipv6: bool, compat: bool) -> Any:
    config = ffi.new("struct neighbor_config *")
    ip = bytes(IPv6(src=OWN6))[8:24] if is_ipv6 else bytes(IP(src=OWN4))[12:16]
    config.ip = ip.ljust(16, b"\0")
    config.is_ipv6 = is_ipv6
    config.compat = compat
    return config


def echo(
    bench: PacketBench, frame: bytes, *, is_ipv6: bool = False, compat: bool = False
) -> bytes | None:
    """Return the reply; None, when the frame stays as it was."""
    packet = bench.packet(frame)
    run = lib.echo_ipv6 if is_ipv6 else lib.echo_ipv4
    is_reply = run(own(is_ipv6, compat), packet, bench.counters)
    after = bench.taken(packet)
    name = "icmpv6-echo" if is_ipv6 else "icmpv4-echo"
    counted = bench.counted
    if is_reply:
        assert counted == {
            f"in-{name}-bytes": len(frame),
            f"in-{name}-packets": 1,
            f"out-{name}-bytes": len(frame),
            f"out-{name}-packets": 1,
        }
        return after
    assert (after, counted) == (frame, {})
    return None


def request4(dst: str = MAC, tail: bytes = b"", **ip: Any) -> bytes:
    fields: dict[str, Any] = {"src": PEER4, "dst": OWN4, "id": 5, "tos": 3, "ttl": 9}
    header = IP(**fields | ip)
    ping = ICMP(type=8, id=77, seq=3)
    return bytes(Ether(src=PEER, dst=dst) / header / ping / DATA) + tail


def reply4(**ip: Any) -> bytes:
    fields: dict[str, Any] = {"src": OWN4, "dst": PEER4, "id": 5, "tos": 3, "ttl": 64}
    header = IP(**fields | ip)
    pong = ICMP(type=0, id=77, seq=3)
    return bytes(Ether(src=MAC, dst=PEER) / header / pong / DATA)


def request6(dst: str = MAC, tail: bytes = b"", **ip: Any) -> bytes:
    fields: dict[str, Any] = {"src": PEER6, "dst": OWN6, "tc": 3, "fl": 5, "hlim": 9}
    header = IPv6(**fields | ip)
    ping = ICMPv6EchoRequest(id=77, seq=3, data=DATA.load)
    return bytes(Ether(src=PEER, dst=dst) / header / ping) + tail


def reply6(**ip: Any) -> bytes:
    fields: dict[str, Any] = {"src": OWN6, "dst": PEER6, "tc": 3, "fl": 5, "hlim": 64}
    header = IPv6(**fields | ip)
    pong = ICMPv6EchoReply(id=77, seq=3, data=DATA.load)
    return bytes(Ether(src=MAC, dst=PEER) / header / pong)


@pytest.mark.parametrize("compat", [False, True])
def test_a_ping_is_answered(bench: PacketBench, compat: bool) -> None:
    assert echo(bench, request4(), compat=compat) == reply4()
    assert echo(bench, request4(flags="DF"), compat=compat) == reply4()
    options: dict[str, Any] = {"options": [IPOption_Router_Alert()]}
    assert echo(bench, request4(**options), compat=compat) == reply4(**options)
    assert echo(bench, request6(), is_ipv6=True, compat=compat) == reply6()


def test_padding_is_no_part_of_it(bench: PacketBench) -> None:
    assert echo(bench, request4(tail=b"odd")) == reply4() + b"odd"
    assert echo(bench, request6(tail=b"odd"), is_ipv6=True) == reply6() + b"odd"


def test_a_group_does_not_answer(bench: PacketBench) -> None:
    """Its address would be the reply's source, as it is with Snabb."""
    group = "01:00:5e:00:00:01"
    assert echo(bench, request4(dst=group)) is None
    assert echo(bench, request6(dst=group), is_ipv6=True) is None
    snabbs = echo(bench, request4(dst=group), compat=True)
    assert snabbs == reply4()[:6] + bytes.fromhex("01005e000001") + reply4()[12:]


def test_a_foreign_address_is_answered_from(bench: PacketBench) -> None:
    """The MAC is not looked at, here as elsewhere."""
    swapped = reply4()[:6] + bytes.fromhex("020000000077") + reply4()[12:]
    assert echo(bench, request4(dst="02:00:00:00:00:77")) == swapped


def patched(frame: bytes, offset: int, value: bytes) -> bytes:
    return frame[:offset] + value + frame[offset + len(value) :]


OTHERS4: list[tuple[bytes, bool]] = [  # and whether Snabb answers
    (request4(src="0.0.0.0"), True),  # noqa: S104 - in a packet
    (request4(src="127.0.0.1"), True),
    (request4(src="224.0.0.1"), True),
    (request4(src="255.255.255.255"), True),
    (request4(src=OWN4), True),
    (patched(request4(), 36, b"\xff\xfe"), True),  # the checksum
    (request4(frag=1), True),
    (request4(flags="MF"), True),
    (request4(len=27), True),
    (request4()[:41], False),
    (request4(len=400), True),
    (patched(request4(), 34, b"\0"), False),  # a reply
    (patched(request4(), 35, b"\1"), False),  # a code
    (request4(proto=6), False),
    (patched(request4(), 33, b"\x0b"), False),  # another address
    (patched(request4(), 12, b"\x86\xdd"), False),
    (patched(request4(), 14, b"\x44"), False),
    (patched(request4(), 14, b"\x4f")[:60], False),
    (request4()[:13], False),
]

OTHERS6: list[tuple[bytes, bool]] = [
    (request6(src="::"), True),
    (request6(src="::1"), True),
    (request6(src="ff02::1"), True),
    (request6(src=OWN6), True),
    (patched(request6(), 56, b"\xff\xfe"), True),
    (request6(plen=7), False),
    (request6(plen=400), False),
    (request6()[:61], False),
    (patched(request6(), 54, b"\x81"), False),
    (patched(request6(), 55, b"\1"), False),
    (patched(request6(), 20, b"\x06"), False),
    (patched(request6(), 53, b"\x11"), False),
    (patched(request6(), 12, b"\x08\x00"), False),
    (patched(request6(), 14, b"\x45"), False),
    (request6()[:13], False),
]


@pytest.mark.parametrize("is_ipv6", [False, True])
def test_what_is_left_to_others(bench: PacketBench, is_ipv6: bool) -> None:
    for frame, snabb_answers in OTHERS6 if is_ipv6 else OTHERS4:
        assert echo(bench, frame, is_ipv6=is_ipv6) is None
        snabbs = echo(bench, frame, is_ipv6=is_ipv6, compat=True)
        assert (snabbs is not None) == snabb_answers, frame.hex()


@given(
    is_ipv6=st.booleans(),
    compat=st.booleans(),
    edits=st.lists(st.tuples(st.integers(12, 60), st.integers(0, 255)), max_size=3),
    length=st.integers(1, 90),
)
def test_any_frame(
    bench: PacketBench,
    is_ipv6: bool,
    compat: bool,
    edits: list[tuple[int, int]],
    length: int,
) -> None:
    """Nothing is read or written outside (under `make san`)."""
    frame = request6() if is_ipv6 else request4()
    for offset, value in edits:
        frame = patched(frame, offset, bytes([value]))
    frame = frame[:length]
    reply = echo(bench, frame, is_ipv6=is_ipv6, compat=compat)
    if reply and not compat:
        before: Packet = Ether(frame)
        after: Packet = Ether(reply)
        assert (after.dst, after.src) == (before.src, before.dst)
        layer = after[IPv6] if is_ipv6 else after[IP]
        assert layer.src == (OWN6 if is_ipv6 else OWN4)
