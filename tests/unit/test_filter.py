"""Filter: what passes, what is dropped, what belongs to a connection."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snabb_py._native import ffi, lib
from snabb_py.apps.basic import Sink, Source
from snabb_py.apps.filter import Filter
from snabb_py.engine.bpf import Program, compile_expression
from snabb_py.engine.config import Config
from snabb_py.errors import ConfigError, SnabbError
from tests.captures import frames_in
from tests.harness import Harness, small_engine

DATA = Path(__file__).parents[1] / "data/nfv/pcap-filter"
V6 = frames_in((DATA / "v6.pcap").read_bytes())
V6_RULES = (
    "(icmp6 and src net 3ffe:501:0:1001::2/128 and dst net"
    " 3ffe:507:0:1:200:86ff:fe05:8000/116) or (ip6 and udp and src net 3ffe:500::/28"
    " and dst net 3ffe:0501:4819::/64 and src portrange 2397-2399 and dst port 53)"
)
S = 10**9

pytestmark = pytest.mark.need("libpcap")


# -- frames --------------------------------------------------------------------

A4, B4 = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
A6, B6 = bytes.fromhex("20010db8" + "00" * 11 + "01"), bytes.fromhex("fe80" + "0" * 28)


def ethernet(ethertype: int, payload: bytes, vlans: tuple[int, ...] = ()) -> bytes:
    tags = b"".join(struct.pack(">HH", 0x8100, vlan) for vlan in vlans)
    return bytes(12) + tags + struct.pack(">H", ethertype) + payload


def ip4(
    src: bytes, dst: bytes, protocol: int, payload: bytes, *, fragment: int = 0
) -> bytes:
    header = struct.pack(
        ">BBHHHBBH", 0x45, 0, 20 + len(payload), 77, fragment, 64, protocol, 0
    )
    return header + src + dst + payload


def ip6(src: bytes, dst: bytes, protocol: int, payload: bytes) -> bytes:
    header = struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64)
    return header + src + dst + payload


def fragment6(
    src: bytes, dst: bytes, protocol: int, word: int, payload: bytes
) -> bytes:
    return ip6(src, dst, 44, struct.pack(">BBHI", protocol, 0, word, 99) + payload)


def ports(sport: int, dport: int) -> bytes:
    return struct.pack(">HHHH", sport, dport, 8, 0)


def tcp(sport: int, dport: int, flags: int = 0x10) -> bytes:
    return struct.pack(">HHIIBBHHH", sport, dport, 0, 0, 0x50, flags, 0, 0, 0)


def echo(kind: int, identifier: int) -> bytes:
    return struct.pack(">BBHHH", kind, 0, 0, identifier, 1)


IP4, IP6 = 0x0800, 0x86DD


def udp4(src: bytes, sport: int, dst: bytes, dport: int, *vlans: int) -> bytes:
    return ethernet(IP4, ip4(src, dst, 17, ports(sport, dport)), vlans)


def tcp4(src: bytes, sport: int, dst: bytes, dport: int, flags: int = 0x10) -> bytes:
    return ethernet(IP4, ip4(src, dst, 6, tcp(sport, dport, flags)))


# -- alone ---------------------------------------------------------------------


def passed(frames: list[bytes], *args: Any, **kwargs: Any) -> tuple[list[bytes], Any]:
    with Harness(Filter(*args, **kwargs)) as harness:
        received = []
        for at in range(0, len(frames), 1000):
            harness.send(frames[at : at + 1000])
            harness.breathe()
            received += harness.received()
        return received, harness.counters


@pytest.mark.parametrize("jit", [True, False])
def test_what_matches_passes_in_order(jit: bool) -> None:
    frames = [udp4(A4, n, B4, 53 + n % 3) for n in range(700)]
    received, counters = passed(frames, "udp dst port 53", jit=jit)
    assert received == frames[::3]
    assert counters == {"drop-filtered": 700 - len(received)}


def test_without_an_expression_everything_passes() -> None:
    frames = [b"", b"x", *V6]
    assert passed(frames) == (frames, {})


def test_all_of_a_full_link_dropped() -> None:
    frames = [udp4(A4, 1, B4, 2)] * lib.LINK_CAPACITY
    with Harness(Filter("arp")) as harness:
        harness.send(frames)
        assert harness.breathe() == lib.LINK_CAPACITY
        assert harness.counters == {"drop-filtered": lib.LINK_CAPACITY}


def test_a_full_output_holds_the_input_up() -> None:
    with Harness(Filter("udp")) as harness:
        for _ in range(2):
            harness.send([udp4(A4, 1, B4, 2)] * 700)
            harness.breathe()
        assert harness.inputs[0].write - harness.inputs[0].read == 1400 - 1024
        assert len(harness.received()) == 1024
        harness.breathe()
        assert len(harness.received()) == 1400 - 1024
        assert harness.counters == {}


def test_errors_name_the_expression_and_the_reason() -> None:
    with pytest.raises(
        ConfigError, match=r'filter "tpc": libpcap says: .*syntax error'
    ):
        Filter("tpc")
    for wrong in ("ip\0", "\ud800"):
        with pytest.raises(ConfigError, match="has what is no character"):
            Filter(wrong)
    with pytest.raises(ConfigError, match="8193 bytes, 8192 at most"):
        Filter("ip".ljust(8193))
    with pytest.raises(ConfigError, match="protochain loops"):
        Filter("ip6 protochain 58")
    with pytest.raises(ConfigError, match="room: 0 is not within"):
        Filter("", room=0)
    with pytest.raises(ConfigError, match="libpcap says"):
        compile_expression("\udcff".encode("utf-8", "replace").decode() + " and")


def test_without_libpcap(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoLibrary:
        BPF_MAX_INSTRUCTIONS = 1

        @staticmethod
        def libpcap_compile(
            _expression: bytes, _program: Any, _capacity: int, error: Any, _size: int
        ) -> int:
            ffi.memmove(error, b"libpcap.so: no such file", 24)
            return -2

    monkeypatch.setattr("snabb_py.engine.bpf.lib", NoLibrary)
    with pytest.raises(ConfigError, match=r"apt-get install libpcap0\.8.*no such file"):
        compile_expression("ip")


def test_a_program_by_hand() -> None:
    program = Program([(0x30, 0, 0, 0), (0x16, 0, 0, 0)])
    assert program.matches(b"\1")
    assert not program.matches(b"\0")
    assert not program.matches(b"")


def test_machine_code_is_freed() -> None:
    def executable_maps() -> int:
        maps = Path("/proc/self/maps").read_text().splitlines()
        return sum(1 for line in maps if " r-xp 00000000 00:00 0 " in line)

    before = executable_maps()
    for _ in range(50):
        assert compile_expression("tcp").code
    assert executable_maps() <= before + 2


# -- connections ---------------------------------------------------------------


class Pair:
    """The two filters of a port, sharing connections, and their clock."""

    def __init__(self, there: str, back: str, **kwargs: Any) -> None:
        kwargs = {"connections": "port", **kwargs}
        self.there = Harness(Filter(there, **kwargs), owner="there")
        self.back = Harness(
            Filter(back, **kwargs),
            owner="back",
            registry=self.there.registry,
            pool=self.there.pool,
        )
        # One worker has both.
        self.back.struct.worker = self.there.worker

    def passes_there(self, frame: bytes) -> bool:
        return self._passes(self.there, frame)

    def passes_back(self, frame: bytes) -> bool:
        return self._passes(self.back, frame)

    def _passes(self, harness: Harness, frame: bytes) -> bool:
        harness.send([frame])
        harness.breathe(0)
        return harness.received() == [frame]

    def wait(self, seconds: float) -> None:
        self.there.worker.now += int(seconds * S)

    def close(self) -> None:
        self.back.close()
        self.there.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair("udp or tcp or icmp or icmp6 or ip proto 47", "arp")
    yield pair
    pair.close()


CONVERSATIONS = {
    "udp": (udp4(A4, 1000, B4, 53), udp4(B4, 53, A4, 1000)),
    "same port": (udp4(A4, 53, B4, 53), udp4(B4, 53, A4, 53)),
    "itself": (udp4(A4, 5, A4, 6), udp4(A4, 6, A4, 5)),
    "tcp": (tcp4(A4, 1000, B4, 80), tcp4(B4, 80, A4, 1000)),
    "udp6": (
        ethernet(IP6, ip6(A6, B6, 17, ports(1, 2))),
        ethernet(IP6, ip6(B6, A6, 17, ports(2, 1))),
    ),
    "ping": (
        ethernet(IP4, ip4(A4, B4, 1, echo(8, 7))),
        ethernet(IP4, ip4(B4, A4, 1, echo(0, 7))),
    ),
    "ping6": (
        ethernet(IP6, ip6(A6, B6, 58, echo(128, 7))),
        ethernet(IP6, ip6(B6, A6, 58, echo(129, 7))),
    ),
    "gre": (
        ethernet(IP4, ip4(A4, B4, 47, b"any")),
        ethernet(IP4, ip4(B4, A4, 47, b"other")),
    ),
}
STRANGERS = [
    udp4(B4, 53, A4, 1001),
    udp4(B4, 54, A4, 1000),
    udp4(A4, 53, B4, 1000),
    tcp4(B4, 80, A4, 81),
    ethernet(IP4, ip4(B4, A4, 1, echo(0, 8))),
    ethernet(IP6, ip6(B6, A6, 58, echo(129, 8))),
    ethernet(IP6, ip6(B6, A6, 58, echo(135, 7))),
    ethernet(IP4, ip4(B4, A4, 50, b"")),
    b"",
    b"\0" * 14,
    udp4(B4, 53, A4, 1000)[:40],
]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_replies_pass(pair: Pair, name: str) -> None:
    question, answer = CONVERSATIONS[name]
    assert not pair.passes_back(answer)
    assert pair.passes_there(question)
    assert pair.passes_back(answer)
    for stranger in STRANGERS:
        assert not pair.passes_back(stranger)
    assert pair.there.counters == {"connections": 1}
    assert pair.back.counters["passed-reply"] == 1


def test_vlans_are_apart() -> None:
    pair = Pair("vlan 5 or vlan 6", "arp")
    assert pair.passes_there(udp4(A4, 1, B4, 2, 5))
    assert pair.passes_back(udp4(B4, 2, A4, 1, 5))
    assert pair.passes_back(udp4(B4, 2, A4, 1, 5 | 3 << 13)), "its priority is its own"
    assert not pair.passes_back(udp4(B4, 2, A4, 1, 6))
    assert not pair.passes_back(udp4(B4, 2, A4, 1))
    assert not pair.passes_back(udp4(B4, 2, A4, 1, 5, 5))
    pair.close()


def test_timeouts(pair: Pair) -> None:
    question, answer = CONVERSATIONS["udp"]
    pair.passes_there(question)
    pair.wait(lib.CONNECTION_UDP_S - 1)
    assert pair.passes_back(answer)
    pair.wait(lib.CONNECTION_UDP_S - 1)
    assert pair.passes_back(answer), "each packet begins it anew"
    pair.wait(lib.CONNECTION_UDP_S)
    assert not pair.passes_back(answer)


def test_tcp_has_a_life(pair: Pair) -> None:
    there, back = (A4, 1000, B4, 80), (B4, 80, A4, 1000)
    pair.passes_there(tcp4(*there, 0x02))
    pair.wait(lib.CONNECTION_TCP_HALF_S)
    assert not pair.passes_back(tcp4(*back, 0x12)), "half open, for a minute"
    pair.passes_there(tcp4(*there, 0x02))
    assert pair.passes_back(tcp4(*back, 0x12))
    pair.wait(lib.CONNECTION_TCP_S - 1)
    assert pair.passes_back(tcp4(*back))
    pair.passes_there(tcp4(*there, 0x11))
    pair.wait(lib.CONNECTION_TCP_END_S)
    assert pair.passes_back(tcp4(*back, 0x11)), "half closed: the other may go on"
    pair.wait(lib.CONNECTION_TCP_END_S - 1)
    assert pair.passes_there(tcp4(*there))
    pair.wait(lib.CONNECTION_TCP_END_S)
    assert not pair.passes_back(tcp4(*back)), "both have ended"


def test_tcp_reset(pair: Pair) -> None:
    there, back = (A4, 1000, B4, 80), (B4, 80, A4, 1000)
    pair.passes_there(tcp4(*there, 0x02))
    assert pair.passes_back(tcp4(*back, 0x14))
    pair.wait(lib.CONNECTION_TCP_END_S)
    assert not pair.passes_back(tcp4(*back))


@pytest.mark.parametrize("kind", [3, 4, 11, 12])
def test_icmp_errors_about_a_connection(pair: Pair, kind: int) -> None:
    router = bytes([192, 0, 2, 1])
    quoted = ip4(A4, B4, 17, ports(1000, 53))
    error = ethernet(IP4, ip4(router, A4, 1, echo(kind, 0) + quoted))
    assert not pair.passes_back(error)
    pair.passes_there(CONVERSATIONS["udp"][0])
    assert pair.passes_back(error)
    assert pair.back.counters["passed-related"] == 1
    other = ip4(A4, B4, 17, ports(1000, 54))
    assert not pair.passes_back(
        ethernet(IP4, ip4(router, A4, 1, echo(kind, 0) + other))
    )
    redirect = ethernet(IP4, ip4(router, A4, 1, echo(5, 0) + quoted))
    assert not pair.passes_back(redirect)
    for cut in range(1, 28):
        assert not pair.passes_back(error[:-cut])
    pair.wait(lib.CONNECTION_UDP_S)
    assert not pair.passes_back(error), "an error keeps nothing alive"


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
def test_icmpv6_errors_about_a_connection(pair: Pair, kind: int) -> None:
    quoted = ip6(A6, B6, 6, tcp(1, 2))
    error = ethernet(IP6, ip6(B6, A6, 58, echo(kind, 0) + quoted))
    assert not pair.passes_back(error)
    pair.passes_there(ethernet(IP6, quoted))
    assert pair.passes_back(error)


def test_fragments_follow_their_first(pair: Pair) -> None:
    pair.passes_there(CONVERSATIONS["udp"][0])
    first = ethernet(IP4, ip4(B4, A4, 17, ports(53, 1000), fragment=0x2000))
    later = ethernet(IP4, ip4(B4, A4, 17, b"x" * 8, fragment=1))
    assert not pair.passes_back(later)
    assert pair.passes_back(first)
    assert pair.passes_back(later)
    assert not pair.passes_there(ethernet(IP4, ip4(A4, B4, 50, b"x", fragment=1)))
    wrong_way = ethernet(IP4, ip4(A4, B4, 17, b"x" * 8, fragment=1))
    assert not pair.passes_back(wrong_way)


def test_fragments_of_ipv6(pair: Pair) -> None:
    pair.passes_there(ethernet(IP6, ip6(A6, B6, 17, ports(1, 2))))
    first = ethernet(IP6, fragment6(B6, A6, 17, 1, ports(2, 1)))
    later = ethernet(IP6, fragment6(B6, A6, 17, 8, b"x" * 8))
    assert not pair.passes_back(later)
    assert pair.passes_back(first)
    assert pair.passes_back(later)


def test_the_capture_of_snabb() -> None:
    assert len(passed(V6, V6_RULES)[0]) == 6
    with Harness(Filter(V6_RULES, connections="x")) as harness:
        # The first echo request comes before the reply that the rules name.
        for expected in (11, 12):
            harness.send(V6)
            harness.breathe()
            assert len(harness.received()) == expected


def test_a_table_that_is_full_harms_no_old_connection() -> None:
    pair = Pair("udp", "arp", room=64)
    assert pair.passes_there(CONVERSATIONS["udp"][0])
    flood = [udp4(A4, n, B4, 7) for n in range(2000, 4000)]
    for frame in flood:
        assert pair.passes_there(frame), "the expression lets it through"
    assert pair.passes_back(CONVERSATIONS["udp"][1])
    counters = pair.there.counters
    entries = 128
    assert counters["connections"] <= entries
    assert counters["connections"] + counters["untracked-table-full"] == 2001
    pair.wait(lib.CONNECTION_UDP_S)
    assert pair.passes_there(CONVERSATIONS["udp"][0])
    assert pair.passes_back(CONVERSATIONS["udp"][1]), "what is over makes room"
    pair.close()


def test_there_is_room_for_what_was_promised() -> None:
    with Harness(Filter("udp", connections="x", room=1000)) as harness:
        for n in range(1000):
            harness.send([udp4(A4, n, B4, 7)])
            harness.breathe(0)
            harness.received()
        assert harness.counters.get("untracked-table-full", 0) <= 40


def test_names_are_apart() -> None:
    pair = Pair("udp", "arp")
    with Harness(
        Filter("arp", connections="other"), registry=pair.there.registry, owner="c"
    ) as other:
        pair.passes_there(CONVERSATIONS["udp"][0])
        other.send([CONVERSATIONS["udp"][1]])
        other.breathe()
        assert other.received() == []
    with pytest.raises(ConfigError, match=r'"port": there is room for 16384, not 5'):
        Harness(
            Filter("arp", connections="port", room=5),
            registry=pair.there.registry,
            pool=pair.there.pool,
            owner="c",
        )
    pair.close()


def test_another_worker_does_without() -> None:
    pair = Pair("udp", "arp")
    pair.back.struct.worker = pair.back.worker
    pair.passes_there(CONVERSATIONS["udp"][0])
    assert not pair.passes_back(CONVERSATIONS["udp"][1])
    assert pair.back.counters == {"drop-filtered": 1, "untracked-other-worker": 1}
    # It moves; the one before has let go.
    pair.there.app.ops.retire(pair.there.struct)
    assert pair.passes_back(CONVERSATIONS["udp"][1])
    pair.close()


def network(expression: str) -> Config:
    config = Config()
    config.app("source", Source, frame=udp4(A4, 1000, B4, 53))
    config.app("filter", Filter, expression=expression, connections="vm")
    config.app("sink", Sink)
    config.link("source.tx -> filter.rx")
    config.link("filter.tx -> sink.rx")
    return config


def test_connections_survive_a_change_of_expression() -> None:
    with small_engine() as engine:
        engine.commit(network("udp"))
        row = engine.apps["filter"].row
        assert row is not None
        engine.main(duration=60, done=lambda: row["connections"] == 1)
        actions = engine.commit(network("arp"))
        assert actions.reconfigure == ["filter"]
        engine.main(duration=60, done=lambda: row["passed-reply"] > 0)
        with pytest.raises(
            SnabbError, match=r'app "filter": filter "no": libpcap says'
        ):
            engine.commit(network("no"))
        assert engine.drain()
        assert row["passed-reply"] > 0
        assert row["drop-filtered"] == 0
        assert engine.census().is_complete


tails = st.binary(max_size=120)
any_frame = st.one_of(
    tails,
    st.builds(
        lambda kind, tags, tail: ethernet(kind, tail, tags),
        st.sampled_from([IP4, IP6, 0x0806]),
        st.lists(st.integers(0, 65535), max_size=3).map(tuple),
        st.one_of(
            tails,
            st.builds(ip4, st.just(A4), st.just(B4), st.integers(0, 255), tails),
            st.builds(ip6, st.just(A6), st.just(B6), st.integers(0, 255), tails),
            st.builds(
                lambda kind, inner: ip4(B4, A4, 1, echo(kind, 0) + inner),
                st.sampled_from([3, 8, 11]),
                tails | st.builds(ip4, st.just(A4), st.just(B4), st.just(6), tails),
            ),
            st.builds(
                lambda word, tail: fragment6(A6, B6, 17, word, tail),
                st.integers(0, 65535),
                tails,
            ),
        ),
    ),
)


@given(st.lists(any_frame, max_size=60))
def test_any_frame_is_harmless(frames: list[bytes]) -> None:
    """Nothing is lost but what is counted, and who has said something is known."""
    pair = Pair("", "arp", room=8)
    for frame in frames:
        assert pair.passes_there(frame)
        pair.passes_back(frame)
    counters = pair.back.counters
    passed = counters.get("passed-reply", 0) + counters.get("passed-related", 0)
    assert passed + counters.get("drop-filtered", 0) <= len(frames)
    for name in ("udp", "ping6"):
        pair.wait(10**5)
        assert pair.passes_there(CONVERSATIONS[name][0])
        assert pair.passes_back(CONVERSATIONS[name][1])
    pair.close()


def test_counters_agree() -> None:
    assert len(Filter.counters) == lib.FILTER_NCOUNTERS
