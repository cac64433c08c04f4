"""Who asks for us, and the next hop: a dialogue, with scapy for the other side."""

import ipaddress
from types import TracebackType
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from snabb_py._native import ffi, lib
from snabb_py.engine.memory import new_aligned
from tests.packet_bench import SECOND, PacketBench

PASS, CONSUMED, REPLY = (
    lib.NEIGHBOR_PASS,
    lib.NEIGHBOR_CONSUMED,
    lib.NEIGHBOR_REPLY,
)
MAC, HOP, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"
EVERYBODY = "ff:ff:ff:ff:ff:ff"
NOBODY = "00:00:00:00:00:00"
OWN4, HOP4, OTHER4 = "10.10.10.10", "10.10.10.1", "10.10.10.77"
OWN6, HOP6, OTHER6 = "2001:db8::12:3456", "fe80::ff:1", "2001:db8::77"
GROUP, GROUP_MAC = "ff02::1:ff12:3456", "33:33:ff:12:34:56"  # of OWN6
HOP_GROUP, HOP_GROUP_MAC = "ff02::1:ffff:1", "33:33:ff:ff:00:01"


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def ip_bytes(ip: str) -> bytes:
    return ipaddress.ip_address(ip).packed.ljust(16, b"\0")


class Neighbor:
    """A side with its next hop; what waits is freed at the end."""

    def __init__(
        self, *, is_ipv6: bool = False, compat: bool = False, static: str = ""
    ) -> None:
        self.bench = PacketBench(small=2048)
        self.is_ipv6 = is_ipv6
        self.now = 1000 * SECOND
        self.config = self.make_config(
            HOP6 if is_ipv6 else HOP4, compat=compat, static=static
        )
        self.struct: Any = new_aligned("struct neighbor *")
        lib.neighbor_init(self.struct, self.config)

    def make_config(
        self, hop: str, *, mac: str = MAC, compat: bool = False, static: str = ""
    ) -> Any:
        config = ffi.new("struct neighbor_config *")
        config.mac = mac_bytes(mac)
        config.ip = ip_bytes(OWN6 if self.is_ipv6 else OWN4)
        config.is_ipv6 = self.is_ipv6
        config.compat = compat
        if static:
            config.is_static = 1
            config.next_hop_mac = mac_bytes(static)
        else:
            config.next_hop = ip_bytes(hop)
        return config

    def hear(self, frame: Packet | bytes) -> int | bytes:
        """Return the reply, or what else becomes of the frame, which stays as it is."""
        content = bytes(frame)
        packet = self.bench.packet(content)
        run = lib.neighbor_input_ndp if self.is_ipv6 else lib.neighbor_input_arp
        verdict = int(
            run(self.struct, self.config, packet, self.now, self.bench.counters)
        )
        after = self.bench.taken(packet)
        if verdict == REPLY:
            return after
        assert after == content
        return verdict

    def tick(self, ns: int = 0) -> bytes | None:
        """Return the request that is due."""
        self.now += ns
        packet = lib.neighbor_tick(
            self.struct, self.config, self.bench.freelist, self.now, self.bench.counters
        )
        return self.bench.taken(packet) if packet else None

    def wait(self, frame: bytes) -> bool:
        packet = self.bench.packet(frame)
        if lib.neighbor_wait(self.struct, packet):
            return True
        self.bench.taken(packet)
        return False

    def release(self, most: int = 2000) -> list[bytes]:
        out = ffi.new("struct packet *[]", most)
        n = lib.neighbor_release(self.struct, out, most)
        return [self.bench.taken(packet) for packet in out[0:n]]

    @property
    def hop(self) -> str | None:
        """The next hop's address that frames are sent to, if any."""
        if self.struct.state == lib.NEIGHBOR_INCOMPLETE:
            return None
        assert bytes(self.struct.ethernet[6:12]) == bytes(self.config.mac)
        return bytes(self.struct.ethernet[0:6]).hex(":")

    @property
    def counted(self) -> dict[str, int]:
        """Packets counted since the last look."""
        counted = self.bench.counted.items()
        return {n.removesuffix("-packets"): v for n, v in counted if "bytes" not in n}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        waiting = self.struct.nwaiting
        assert lib.neighbor_retire(self.struct, self.bench.freelist) == waiting
        self.bench.__exit__(kind, error, trace)


def arp(op: int, sender: tuple[str, str], target: tuple[str, str], dst: str) -> bytes:
    message = ARP(
        op=op, hwsrc=sender[0], psrc=sender[1], hwdst=target[0], pdst=target[1]
    )
    return bytes(Ether(src=sender[0], dst=dst) / message)


def solicit(  # noqa: PLR0913 - what one says
    *,
    target: str = OWN6,
    src: str = OTHER6,
    dst: str = GROUP,
    mac: str = OTHER,
    option: str | None = OTHER,
    tail: bytes = b"",
    **ip: Any,
) -> bytes:
    message = ICMPv6ND_NS(tgt=target)
    if option:
        message /= ICMPv6NDOptSrcLLAddr(lladdr=option)
    if tail:
        message /= Raw(tail)
    header = IPv6(src=src, dst=dst, **({"hlim": 255} | ip))
    return bytes(Ether(src=mac, dst=GROUP_MAC) / header / message)


def advertise(  # noqa: PLR0913 - what one says
    mac: str = HOP,
    *,
    target: str = HOP6,
    option: str | None = "",
    s: int = 1,
    o: int = 1,
    dst: str = OWN6,
    **ip: Any,
) -> bytes:
    message = ICMPv6ND_NA(tgt=target, R=1, S=s, O=o)
    if option is not None:
        message /= ICMPv6NDOptDstLLAddr(lladdr=option or mac)
    header = IPv6(src=HOP6, dst=dst, **({"hlim": 255} | ip))
    return bytes(Ether(src=mac, dst=MAC) / header / message)


REPLY4 = arp(2, (HOP, HOP4), (MAC, OWN4), MAC)
ASK4 = arp(1, (MAC, OWN4), (NOBODY, HOP4), EVERYBODY)
PROBE4 = arp(1, (MAC, OWN4), (NOBODY, HOP4), HOP)
ASK6 = bytes(
    Ether(src=MAC, dst=HOP_GROUP_MAC)
    / IPv6(src=OWN6, dst=HOP_GROUP, hlim=255)
    / ICMPv6ND_NS(tgt=HOP6)
    / ICMPv6NDOptSrcLLAddr(lladdr=MAC)
)
PROBE6 = bytes(
    Ether(src=MAC, dst=HOP)
    / IPv6(src=OWN6, dst=HOP6, hlim=255)
    / ICMPv6ND_NS(tgt=HOP6)
    / ICMPv6NDOptSrcLLAddr(lladdr=MAC)
)
ANSWER = {False: REPLY4, True: advertise()}
ASK = {False: ASK4, True: ASK6}
PROBE = {False: PROBE4, True: PROBE6}


# -- answers -----------------------------------------------------------------


@pytest.mark.parametrize("compat", [False, True])
def test_arp_request(compat: bool) -> None:
    with Neighbor(compat=compat) as neighbor:
        request = arp(1, (OTHER, OTHER4), (NOBODY, OWN4), EVERYBODY)
        answer = arp(2, (MAC, OWN4), (OTHER, OTHER4), OTHER)
        assert len(answer) == 42
        assert neighbor.hear(request) == answer
        assert neighbor.hear(request + bytes(18)) == answer
        assert neighbor.counted == {"in-arp-request": 2, "out-arp-reply": 2}
        other = arp(1, (OTHER, OTHER4), (NOBODY, "10.10.10.99"), EVERYBODY)
        assert neighbor.hear(other) == CONSUMED
        assert neighbor.counted == {"in-arp-request": 1}
        assert neighbor.hop is None


def test_what_is_no_arp() -> None:
    request = arp(1, (OTHER, OTHER4), (NOBODY, OWN4), EVERYBODY)
    with Neighbor() as neighbor:
        assert neighbor.hear(request[:41]) == PASS
        assert neighbor.hear(request[:13]) == PASS
        assert neighbor.hear(request[:12] + b"\x08\0" + request[14:]) == PASS
        assert neighbor.counted == {}
        for offset in (14, 16, 18, 19, 20):
            broken = request[:offset] + b"\x07" + request[offset + 1 :]
            assert neighbor.hear(broken) == CONSUMED
        assert neighbor.counted == {"drop-malformed-arp": 5}


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("dst", [GROUP, OWN6])
@pytest.mark.parametrize("option", [OTHER, None])
def test_neighbor_solicitation(compat: bool, dst: str, option: str | None) -> None:
    with Neighbor(is_ipv6=True, compat=compat) as neighbor:
        assert neighbor.hear(solicit(dst=dst, option=option)) == bytes(
            Ether(src=MAC, dst=OTHER)
            / IPv6(src=OWN6, dst=OTHER6, hlim=255)
            / ICMPv6ND_NA(tgt=OWN6, R=1, S=1, O=0)
            / ICMPv6NDOptDstLLAddr(lladdr=MAC)
        )
        assert neighbor.counted == {"in-ndp-ns": 1, "out-ndp-na": 1}
        assert neighbor.hear(solicit(target=OTHER6)) == CONSUMED
        assert neighbor.counted == {"in-ndp-ns": 1}


def test_duplicate_address_detection() -> None:
    """Who is about to take our address is told (RFC 4861, 7.2.4; RFC 4862, 5.4.3)."""
    probe = solicit(src="::", option=None)
    with Neighbor(is_ipv6=True) as neighbor:
        assert neighbor.hear(probe) == bytes(
            Ether(src=MAC, dst="33:33:00:00:00:01")
            / IPv6(src=OWN6, dst="ff02::1", hlim=255)
            / ICMPv6ND_NA(tgt=OWN6, R=1, S=0, O=1)
            / ICMPv6NDOptDstLLAddr(lladdr=MAC)
        )
        # 7.1.1: to a group of such, and without an address.
        assert neighbor.hear(solicit(src="::", option=None, dst=OWN6)) == CONSUMED
        assert neighbor.hear(solicit(src="::", option=OTHER)) == CONSUMED
        assert neighbor.counted["out-ndp-na"] == 1
    with Neighbor(is_ipv6=True, compat=True) as neighbor:
        assert neighbor.hear(probe) == CONSUMED
        assert neighbor.counted == {"in-ndp-ns": 1}


@pytest.mark.parametrize(
    "frame",
    [
        solicit(hlim=254),
        advertise(hlim=64),
        solicit()[:55] + b"\1" + solicit()[56:],
        solicit()[:57] + b"\xee" + solicit()[58:],
        solicit(plen=23),
        solicit(plen=33),
        solicit()[:77],
    ],
)
def test_what_must_not_be_heard(frame: bytes) -> None:
    with Neighbor(is_ipv6=True) as neighbor:
        assert neighbor.hear(frame) == CONSUMED
        assert neighbor.counted == {"drop-malformed-ndp": 1}


@pytest.mark.parametrize("tail", [b"\0\0" + bytes(6), b"\x05\x02" + bytes(6), b"\x05"])
def test_options_that_do_not_fit(tail: bytes) -> None:
    with Neighbor(is_ipv6=True) as neighbor:
        assert neighbor.hear(solicit(tail=tail)) == CONSUMED
        assert neighbor.counted == {"in-ndp-ns": 1, "drop-malformed-ndp": 1}


def test_what_is_no_neighbor_discovery() -> None:
    with Neighbor(is_ipv6=True) as neighbor:
        frame = solicit()
        assert neighbor.hear(frame[:57]) == PASS
        assert neighbor.hear(frame[:20] + b"\x11" + frame[21:]) == PASS
        assert neighbor.hear(frame[:54] + b"\x80" + frame[55:]) == PASS
        assert neighbor.hear(REPLY4 + bytes(30)) == PASS
        assert neighbor.counted == {}


@pytest.mark.parametrize("message", [ICMPv6ND_RS, ICMPv6ND_RA, ICMPv6ND_Redirect])
def test_what_is_said_about_routers(message: type[Packet]) -> None:
    """Who the next hop is, is configured."""
    with Neighbor(is_ipv6=True) as neighbor:
        frame = Ether() / IPv6(src=HOP6, dst="ff02::1") / message()
        assert neighbor.hear(frame) == CONSUMED
        assert neighbor.counted == {"drop-router-ndp": 1}


# -- the next hop ------------------------------------------------------------


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("is_ipv6", [False, True])
def test_it_is_asked_for_until_it_answers(is_ipv6: bool, compat: bool) -> None:
    with Neighbor(is_ipv6=is_ipv6, compat=compat) as neighbor:
        assert neighbor.tick() == ASK[is_ipv6]
        assert neighbor.tick(3 * SECOND - 1) is None
        assert neighbor.tick(1) == ASK[is_ipv6]
        assert neighbor.hop is None
        assert neighbor.hear(ANSWER[is_ipv6]) == CONSUMED
        assert neighbor.hop == HOP
        assert neighbor.tick(29 * SECOND) is None
        request, answer = (
            ("ndp-ns", "ndp-na") if is_ipv6 else ("arp-request", "arp-reply")
        )
        assert neighbor.counted == {f"out-{request}": 2, f"in-{answer}": 1}


@pytest.mark.parametrize("is_ipv6", [False, True])
def test_it_is_probed_and_then_looked_for(is_ipv6: bool) -> None:
    """RFC 4861, 7.3; and RFC 7048: what is known is used all the time."""
    with Neighbor(is_ipv6=is_ipv6) as neighbor:
        neighbor.tick()
        neighbor.hear(ANSWER[is_ipv6])
        assert neighbor.tick(30 * SECOND) == PROBE[is_ipv6]
        assert neighbor.tick(SECOND - 1) is None
        neighbor.hear(ANSWER[is_ipv6])
        assert neighbor.tick(29 * SECOND) is None
        for wait in (1, 1, 1):
            assert neighbor.tick(wait * SECOND) == PROBE[is_ipv6]
        for wait in (1, 3, 6, 12, 24, 48, 48, 48):
            assert neighbor.tick(wait * SECOND - 1) is None
            assert neighbor.tick(1) == ASK[is_ipv6]
            assert neighbor.hop == HOP
        neighbor.hear(ANSWER[is_ipv6])
        assert neighbor.tick(29 * SECOND) is None
        assert neighbor.tick(SECOND) == PROBE[is_ipv6]


@pytest.mark.parametrize("is_ipv6", [False, True])
def test_snabb_never_asks_again(is_ipv6: bool) -> None:
    with Neighbor(is_ipv6=is_ipv6, compat=True) as neighbor:
        neighbor.tick()
        neighbor.hear(ANSWER[is_ipv6])
        assert neighbor.tick(10**6 * SECOND) is None


@pytest.mark.parametrize("is_ipv6", [False, True])
def test_one_that_is_given_is_never_asked_for(is_ipv6: bool) -> None:
    with Neighbor(is_ipv6=is_ipv6, static=OTHER) as neighbor:
        assert neighbor.hop == OTHER
        assert neighbor.tick(10**6 * SECOND) is None
        assert neighbor.hear(ANSWER[is_ipv6]) == CONSUMED
        assert neighbor.hop == OTHER


def test_arp_that_teaches() -> None:
    moved = arp(2, (OTHER, HOP4), (MAC, OWN4), MAC)
    asks = arp(1, (OTHER, HOP4), (NOBODY, OTHER4), EVERYBODY)
    with Neighbor() as neighbor:
        assert neighbor.hear(arp(2, (OTHER, OTHER4), (MAC, OWN4), MAC)) == CONSUMED
        assert neighbor.hop is None
        neighbor.hear(REPLY4)
        neighbor.hear(moved)
        assert neighbor.hop == OTHER
        neighbor.hear(REPLY4)
        # Who asks has answered nothing: he is soon probed (RFC 826 takes his word).
        assert neighbor.hear(asks) == CONSUMED
        assert neighbor.hop == OTHER
        assert neighbor.tick(5 * SECOND) == PROBE4.replace(
            mac_bytes(HOP), mac_bytes(OTHER), 1
        )
    with Neighbor(compat=True) as neighbor:
        neighbor.hear(asks)
        assert neighbor.hop is None
        neighbor.hear(REPLY4)
        neighbor.hear(moved)
        assert neighbor.hop == OTHER


@pytest.mark.parametrize("mac", [EVERYBODY, NOBODY, MAC, "01:00:5e:00:00:01"])
def test_nobody_is_no_next_hop(mac: str) -> None:
    with Neighbor() as neighbor:
        neighbor.hear(arp(2, (mac, HOP4), (MAC, OWN4), MAC))
        assert neighbor.hop is None
    with Neighbor(is_ipv6=True) as neighbor:
        neighbor.hear(advertise(OTHER, option=mac))
        assert neighbor.hop is None


def test_advertisements_that_teach() -> None:
    """RFC 4861, 7.2.5 and its appendix C."""
    with Neighbor(is_ipv6=True) as neighbor:
        neighbor.hear(advertise(target=OTHER6))
        neighbor.hear(advertise(dst="ff02::1", s=1))
        assert neighbor.hop is None
        neighbor.hear(advertise(option=None))
        assert neighbor.hop is None
        neighbor.hear(advertise())
        neighbor.now += 29 * SECOND
        neighbor.hear(advertise(OTHER, option=None))
        assert neighbor.hop == HOP
        assert neighbor.tick(SECOND) is None
        # Not to override: what is known stays, but is soon probed.
        neighbor.hear(advertise(OTHER, o=0))
        assert neighbor.hop == HOP
        assert neighbor.tick(5 * SECOND) == PROBE6
        neighbor.hear(advertise(OTHER, o=0))
        assert neighbor.tick(SECOND) == PROBE6
        # One that nobody asked for, from all's new home.
        neighbor.hear(advertise(OTHER, o=1, s=0, dst="ff02::1"))
        assert neighbor.hop == OTHER
        assert neighbor.tick(5 * SECOND) is not None
        # The same address confirms, whatever else it says.
        neighbor.hear(advertise(OTHER, o=0))
        assert neighbor.tick(29 * SECOND) is None


def test_solicitations_that_teach() -> None:
    with Neighbor(is_ipv6=True) as neighbor:
        neighbor.hear(solicit(src=HOP6, mac=HOP, option=None))
        assert neighbor.hop is None
        neighbor.hear(solicit(src=HOP6, mac=HOP, option=HOP, target=OTHER6))
        assert neighbor.hop is None
        neighbor.hear(solicit(src=HOP6, mac=HOP, option=HOP))
        assert neighbor.hop == HOP
        assert neighbor.tick(5 * SECOND) == PROBE6


def test_advertisements_that_teach_snabb() -> None:
    """The first one that is solicited, for ever."""
    with Neighbor(is_ipv6=True, compat=True) as neighbor:
        neighbor.hear(advertise(s=0))
        neighbor.hear(solicit(src=HOP6, mac=HOP, option=HOP))
        assert neighbor.hop is None
        neighbor.hear(advertise())
        neighbor.hear(advertise(OTHER))
        assert neighbor.hop == HOP


# -- frames that wait --------------------------------------------------------


def test_frames_wait_in_their_order() -> None:
    frames = [bytes(12) + b"\x08\0" + i.to_bytes(2, "big") for i in range(1025)]
    with Neighbor() as neighbor:
        assert [neighbor.wait(frame) for frame in frames] == [True] * 1024 + [False]
        assert neighbor.release() == []
        neighbor.hear(REPLY4)
        addresses = mac_bytes(HOP) + mac_bytes(MAC)
        released = neighbor.release(24) + neighbor.release(1) + neighbor.release()
        assert released == [addresses + frame[12:] for frame in frames[:1024]]
        assert neighbor.release() == []


def test_frames_that_wait_in_vain() -> None:
    with Neighbor() as neighbor:
        for _ in range(5):
            neighbor.wait(bytes(60))
        assert lib.neighbor_retire(neighbor.struct, neighbor.bench.freelist) == 5


def test_frames_that_wait_too_long() -> None:
    """Each of them goes after 3 to 6 seconds; those that came later stay."""
    with Neighbor() as neighbor:

        def expire(seconds: float) -> int:
            neighbor.now += int(seconds * SECOND)
            freelist = neighbor.bench.freelist
            return int(lib.neighbor_expire(neighbor.struct, freelist, neighbor.now))

        frames = [bytes(12) + i.to_bytes(4, "big") for i in range(6)]
        assert expire(0) == expire(100) == 0
        assert all(map(neighbor.wait, frames[:3]))
        assert expire(2.9) == expire(0.1) == 0
        assert all(map(neighbor.wait, frames[3:5]))
        assert [expire(2.9), expire(0.1)] == [0, 3]
        assert neighbor.wait(frames[5])
        assert [expire(2.9), expire(0.1)] == [0, 2]
        neighbor.hear(REPLY4)
        assert [frame[12:] for frame in neighbor.release()] == [frames[5][12:]]
        assert expire(10) == 0


def test_another_config() -> None:
    with Neighbor() as neighbor:
        neighbor.hear(REPLY4)

        def change(hop: str = HOP4, **config: Any) -> None:
            new = neighbor.make_config(hop, **config)
            lib.neighbor_reconfigure(neighbor.struct, neighbor.config, new)
            neighbor.config = new

        change(mac=OTHER)
        assert neighbor.hop == HOP
        change(OTHER4)
        assert neighbor.hop is None
        neighbor.wait(bytes(60))
        assert neighbor.tick() is not None
        change(static=OTHER)
        assert neighbor.hop == OTHER
        assert neighbor.release() == [mac_bytes(OTHER) + mac_bytes(MAC) + bytes(48)]
        change(HOP4)
        assert neighbor.hop is None
        assert neighbor.tick() == ASK4


@given(
    start=st.sampled_from([REPLY4, advertise(), solicit(), solicit(src=HOP6)]),
    compat=st.booleans(),
    edits=st.lists(st.tuples(st.integers(12, 85), st.integers(0, 255)), max_size=3),
    length=st.integers(1, 90),
)
def test_any_frame(
    start: bytes, compat: bool, edits: list[tuple[int, int]], length: int
) -> None:
    """Nothing is read or written outside (under `make san`)."""
    frame = bytearray(start)
    for offset, value in edits:
        if offset < len(frame):
            frame[offset] = value
    for is_ipv6 in (False, True):
        with Neighbor(is_ipv6=is_ipv6, compat=compat) as neighbor:
            heard = neighbor.hear(bytes(frame[:length]))
            assert heard in (PASS, CONSUMED) or len(bytes(heard)) in (42, 86)
