"""Generator and Checker: right frames at the right time, and what is found of them.

Oracles: scapy, which builds each frame anew from its fields; a checksum written as RFC
1071 words it; a model of what was lost that remembers every number.
"""

import math
import struct
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    PadN,
)
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from snabb_py._native import ffi, lib
from snabb_py.apps.fault import Fault
from snabb_py.apps.fields import Range
from snabb_py.apps.traffic import (
    IMIX,
    Checker,
    Frames,
    Generator,
    Stream,
    Template,
    udp_frames,
    weighted,
)
from snabb_py.engine.app import Ports
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.engine.histogram import percentile
from snabb_py.errors import ConfigError
from tests.harness import BEGINNING, Harness

US, MS, S = 10**3, 10**6, 10**9
STAMP, TIMED = lib.TRAFFIC_STAMP_SIZE, lib.TRAFFIC_TIMED_STAMP_SIZE
MAC: dict[str, Any] = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}


class NamedChecker(Checker):
    inputs = Ports("rx")


# ---- oracles -----------------------------------------------------------------


def rebuilt(frame: bytes) -> bytes:
    """Return the frame as scapy builds it, with lengths and checksums of its own."""
    packet = Ether(frame)
    layer: Packet | None = packet
    while layer:
        for name in ("chksum", "cksum", "len", "plen"):
            if name in layer.fields:
                del layer.fields[name]
        layer.raw_packet_cache = None
        layer = layer.payload or None
    return bytes(packet)


def total(data: bytes) -> int:
    """Return the one's complement sum of 16-bit words (RFC 1071)."""
    words = struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2))
    result: int = sum(words)
    while result >> 16:
        result = (result & 0xFFFF) + (result >> 16)
    return result


def stamp(number: int, stream: int = 0, time: int | None = None) -> bytes:
    """Return a stamp, built from its description."""
    magic = lib.TRAFFIC_MAGIC if time is None else lib.TRAFFIC_MAGIC_TIMED
    front = b"" if time is None else time.to_bytes(8, "big")
    body = struct.pack(">HHIQ", magic, 0, stream, number)
    balance = (0xFFFF - total(front + body)).to_bytes(2, "big")
    return front + body[:2] + balance + body[4:]


def stamp_of(frame: bytes) -> tuple[int, int, int]:
    """Return magic, stream and number of the stamp at a frame's end."""
    magic, _, stream, number = struct.unpack(">HHIQ", frame[-STAMP:])
    return magic, stream, number


def stamped(packet: Packet, number: int = 0, stream: int = 0) -> bytes:
    """Return a frame with a stamp behind a packet's headers."""
    return bytes(packet / Raw(stamp(number, stream)))


def check(
    frames: Iterable[bytes], *, verify: bool = False, **metadata: int
) -> tuple[dict[int, Stream], dict[str, int]]:
    """Return what a Checker says of frames: streams, counters."""
    frames = list(frames)
    small = min(len(frames), lib.LINK_CAPACITY)
    with Harness(NamedChecker(verify=verify), small=small, large=0) as h:
        for i in range(0, len(frames), lib.LINK_CAPACITY):
            h.send(frames[i : i + lib.LINK_CAPACITY], **metadata)
            h.breathe()
        return h.app.streams, h.counters  # type: ignore[attr-defined]


def generate(n: int, frames: list[Template], **args: Any) -> list[bytes]:
    """Return the first n packets of a Generator, as fast as they come."""
    with Harness(Generator(frames, count=n, **args)) as h:
        return h.drain()


# ---- frames ------------------------------------------------------------------

KINDS: list[dict[str, Any]] = [
    {},
    {"ipv6": True},
    {"vlan": 5},
    {"vlan": 4094, "ipv6": True, "timed": True},
    {"timed": True},
    {"stamp": False},
]


@pytest.mark.parametrize("size", [None, 94, 95, 594, 1518, 9018, 10244])
@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_is_right(kind: dict[str, Any], size: int | None) -> None:
    frames = udp_frames(size, flows=50, **kind)
    sent = generate(200, frames, stream=7)
    for frame, template in zip(sent, frames * 4, strict=True):
        assert rebuilt(frame) == frame
        assert len(frame) == len(template.frame)
        if size:
            assert len(frame) == size - 4
        assert UDP in Ether(frame)
    if kind.get("stamp", True):
        magic = lib.TRAFFIC_MAGIC_TIMED if kind.get("timed") else lib.TRAFFIC_MAGIC
        assert [stamp_of(f) for f in sent] == [(magic, 7, i) for i in range(200)]
    else:
        assert sent == [t.frame for t in frames] * 4


def test_the_least_frame_holds_a_stamp() -> None:
    [frame] = udp_frames(64)
    # The ports of RFC 2544, C.2.6.4.
    assert frame.frame[34:38] == bytes.fromhex("c020 0007")
    assert len(frame.frame) == 60
    [packet] = generate(1, [frame])
    assert packet[-STAMP:] == stamp(0)
    assert packet[42:44] == b"\0\0"  # 18 bytes of payload


def test_the_stamp_is_as_described() -> None:
    [frame] = udp_frames(timed=True)
    with Harness(Generator([frame], stream=0xDEADBEEF, count=3), burst=1) as h:
        sent = h.drain()
    # The first pull is a microsecond after the beginning.
    for i, packet in enumerate(sent):
        time = BEGINNING + (i + 1) * US
        assert packet[-TIMED:] == stamp(i, 0xDEADBEEF, time)


@given(
    st.integers(68, 2000),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 100),
    st.integers(0, 2**63),
    st.sampled_from(KINDS),
)
def test_no_stamp_changes_a_checksum(
    size: int, stream: int, number: int, now: int, kind: dict[str, Any]
) -> None:
    [template] = udp_frames(size, grow=True, **kind)
    with Harness(Generator([template], stream=stream, count=3)) as h:
        h.app.state.is_started = 1
        h.app.state.stream = stream
        h.app.state.number = number
        h.worker.now = now
        sent = h.drain()
    for i, frame in enumerate(sent):
        assert rebuilt(frame) == frame
        if template.stamp:
            assert stamp_of(frame)[1:] == (stream, number + i)
            assert total(frame[-template.stamp_size :]) == 0xFFFF
    _, counters = check(sent, verify=True)
    assert not {
        "bad-stamp",
        "bad-ip-checksum",
        "bad-l4-checksum",
    } & counters.keys() or (number >= 2**45)


INNER = IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / Raw(bytes(30))
PLAIN: list[Packet] = [
    Ether(**MAC) / INNER,
    Ether(**MAC) / IP() / TCP(flags="PA") / Raw(bytes(101)),
    Ether(**MAC) / IP() / ICMP() / Raw(bytes(99)),
    Ether(**MAC) / IPv6() / TCP() / Raw(bytes(55)),
    Ether(**MAC) / IPv6() / ICMPv6EchoRequest(data=bytes(55)),
    Ether(**MAC) / IPv6() / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"12")]) / UDP()
    / Raw(bytes(24)),
    Ether(**MAC) / Dot1AD(vlan=2) / Dot1Q(vlan=3) / INNER,
    Ether(**MAC) / IPv6() / INNER,
    Ether(**MAC) / IP() / INNER,
    Ether(**MAC) / IP() / IPv6() / IPv6() / INNER,
]  # fmt: skip
TUNNELLED = Ether(**MAC) / IP() / UDP() / VXLAN(vni=7) / Ether(**MAC) / INNER


@pytest.mark.parametrize("packet", [*PLAIN, TUNNELLED], ids=lambda p: p.summary())
def test_whatever_frame_is_given(packet: Packet) -> None:
    sent = generate(70000, [Template(bytes(packet))])
    # A sample that meets carries out of 16 bits.
    for frame in sent[:300] + sent[65400::100]:
        assert rebuilt(frame) == frame
        assert total(frame[-STAMP:]) == 0xFFFF
    streams, counters = check(sent, verify=True)
    assert counters == {}
    assert streams[0].packets == 70000


def test_frames_without_ip() -> None:
    sent = generate(100, [Template(bytes(14) + bytes(46))])
    assert sent[5] == bytes(44) + stamp(5)
    streams, counters = check(sent, verify=True)
    assert (streams[0].packets, counters) == (100, {})


def fields(template: Template) -> tuple[Any, ...]:
    p = Ether(template.frame)
    ip = p[IPv6 if IPv6 in p else IP]
    return p.src, p.dst, ip.src, ip.dst, p[UDP].sport, p[UDP].dport


def test_flows_are_distinct_and_every_range_moves() -> None:
    frames = udp_frames(
        flows=4 * 6 * 3,
        src_ip="10.0.0.1-10.0.0.4",
        dst_ip="10.1.0.250-10.1.0.255",
        src_port="10-12",
        dst_port=80,
    )
    flows = [fields(t) for t in frames]
    assert len(set(flows)) == 72
    assert [f[2:5] for f in flows[:5]] == [
        ("10.0.0.1", "10.1.0.250", 10),
        ("10.0.0.2", "10.1.0.251", 11),
        ("10.0.0.3", "10.1.0.252", 12),
        ("10.0.0.4", "10.1.0.253", 10),
        ("10.0.0.1", "10.1.0.254", 11),
    ]
    with pytest.raises(ConfigError, match="flows"):
        udp_frames(flows=3, src_ip="10.0.0.1", src_port="1-2")


def test_ranges_of_everything() -> None:
    frames = udp_frames(
        flows=1000,
        ipv6=True,
        src_mac="02:00:00:00:00:01-02:00:00:00:03:ff",
        dst_mac="06:00:00:00:00:01-06:00:00:00:00:02",
        src_ip="::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        dst_ip="2001:db8::ffff-2001:db8::1:2",
        src_port="1-65535",
        dst_port="7-8",
    )
    flows = [fields(t) for t in frames]
    assert len(set(flows)) == 1000
    counts = [len(set(values)) for values in zip(*flows, strict=True)]
    assert counts == [1000, 2, 1000, 4, 1000, 2]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=4))
def test_every_combination_comes_once(lengths: list[int]) -> None:
    from snabb_py.apps.traffic import _pick

    n = math.prod(lengths)
    picked = [tuple(_pick(lengths, i)) for i in range(n)]
    assert len(set(picked)) == n
    assert all(
        0 <= p < m for picks in picked for p, m in zip(picks, lengths, strict=True)
    )


@pytest.mark.parametrize("flows", [1, 8, 12, 35, 36])
def test_imix(flows: int) -> None:
    assert Counter(IMIX) == {64: 7, 594: 4, 1518: 1}
    sent = generate(12 * flows, udp_frames(IMIX, flows=flows))
    assert Counter(len(f) + 4 for f in sent) == {
        64: 7 * flows,
        594: 4 * flows,
        1518: flows,
    }
    # The sizes are spread, and each flow has its share of each.
    assert [len(f) + 4 for f in sent[:12]] == list(IMIX)
    assert max(len(run) for run in "".join(
        "x" if size == 64 else " " for size in IMIX * 2
    ).split()) <= 3  # fmt: skip
    shares = Counter((fields(Template(f, stamp=False)), len(f) + 4) for f in sent)
    assert set(shares.values()) == {7, 4, 1}
    assert len(shares) == 3 * flows


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any))
def test_weights_are_kept_all_along(weights: list[int]) -> None:
    sequence = weighted(enumerate(weights))
    assert Counter(sequence) == Counter(
        {i: weight for i, weight in enumerate(weights) if weight}
    )
    # At any time, for m items: nobody is more than (m + 1) / 2 turns off his share.
    seen = [0] * len(weights)
    for turn, i in enumerate(sequence, start=1):
        seen[i] += 1
        due = [turn * weight / len(sequence) for weight in weights]
        most = (len(weights) + 1) / 2 + 1e-9
        assert all(abs(n - d) <= most for n, d in zip(seen, due, strict=True))


def test_unequal_shares() -> None:
    a, b = udp_frames([100, 200])
    sent = generate(1000, list(weighted([(a, 3), (b, 1)])))
    assert Counter(map(len, sent)) == {96: 750, 196: 250}


# ---- rate --------------------------------------------------------------------


def run(harness: Harness, ns: int, step: int) -> list[bytes]:
    """Return what is sent in a time, by a worker that comes every so often."""
    received = []
    for _ in range(ns // step):
        harness.breathe(step)
        received += harness.received()
    return received


def missed(harness: Harness) -> int:
    return sum(n for name, n in harness.counters.items() if name.startswith("missed-"))


@pytest.mark.parametrize("step", [997, 7 * US, 30 * US])
@pytest.mark.parametrize("pps", [7, 1e3, 1e6 / 3, 2.5e6, 4.1e6])
def test_packets_per_second_are_exact(pps: float, step: int) -> None:
    with Harness(Generator(udp_frames(), rate_pps=pps)) as h:
        h.breathe(0)
        assert len(h.received()) == 1  # at the beginning, then one each 1/pps
        sent = len(run(h, 200 * MS, step))
        due = 200 * MS // step * step * pps / 1e9
        assert abs(sent - due) <= 1
        assert h.counters == {}


@pytest.mark.parametrize("gbps", [0.01, 1, 3.3, 10])
@pytest.mark.parametrize("sizes", [64, 1518, IMIX])
def test_bits_on_the_wire_are_exact(gbps: float, sizes: Any) -> None:
    with Harness(Generator(udp_frames(sizes, flows=3), rate_gbps=gbps)) as h:
        h.breathe(0)
        sent = h.received() + run(h, 20 * MS, 5 * US)
        on_wire = sum(8 * (len(f) + 24) for f in sent[:-1])
        assert on_wire == pytest.approx(20 * MS * gbps, abs=8 * 1538)
        assert h.counters == {}


def test_line_rate_of_the_least_frames() -> None:
    # 10 Gbps: 14,880,952 frames of 64 bytes.
    with Harness(Generator(udp_frames(64), rate_gbps=10)) as h:
        h.breathe(0)
        sent = len(run(h, 100 * MS, 5 * US))
        assert abs(sent - 1488095) <= 1


def test_years_do_not_change_the_rate() -> None:
    with Harness(Generator(udp_frames(), rate_pps=1e6 / 3)) as h:
        h.breathe(0)
        h.app.state.since = h.worker.now = BEGINNING + 10 * 365 * 86400 * S
        sent = len(run(h, 300 * MS, 10 * US))
        assert abs(sent - 100000) <= 1


@given(
    st.floats(1e3, 2e7),
    st.lists(st.integers(1, 3 * MS), min_size=1, max_size=60),
    st.sampled_from([64, IMIX]),
)
def test_sent_and_missed_are_what_was_due(
    pps: float, steps: list[int], sizes: Any
) -> None:
    with Harness(Generator(udp_frames(sizes), rate_pps=pps)) as h:
        h.breathe(0)
        assert len(h.received()) == 1
        most = max(100 * US * pps / 1e9, 4 * lib.WORKER_BURST)
        sent = 0
        for step in steps:
            h.breathe(step)
            sent += len(h.received())
        backlog = h.app.state.credit * pps / 1e9
        due = sum(steps) * pps / 1e9
        assert backlog <= most
        assert abs(sent + missed(h) + backlog - due) <= 2
        assert h.app.sent == sent + 1  # type: ignore[attr-defined]


def test_what_a_pause_leaves_to_catch_up() -> None:
    with Harness(Generator(udp_frames(), rate_pps=1e7, catch_up_us=200)) as h:
        run(h, MS, 5 * US)
        h.breathe(50 * MS)
        caught_up = len(h.received())
        while caught_up % lib.WORKER_BURST == 0:  # at the same time
            h.breathe(0)
            caught_up += len(h.received())
        assert abs(caught_up - 2000) <= 1
        assert h.counters == {"missed-late": pytest.approx(500_000 - 2000, abs=2)}


def test_nobody_takes_the_packets() -> None:
    with Harness(Generator(udp_frames(), rate_pps=1e7)) as h:
        for _ in range(1000):
            h.breathe(5 * US)
        sent = h.app.sent  # type: ignore[attr-defined]
        assert sent == lib.LINK_CAPACITY
        h.breathe(0)
        backlog = 1000  # what may be caught up with
        assert h.counters == {
            "missed-no-room": pytest.approx(50_000 - sent - backlog, abs=51)
        }
        # Numbers tell of packets that were sent: none is missing.
        sent = [stamp_of(f)[2] for f in h.received() + run(h, MS, 5 * US)]
        assert sent == list(range(len(sent)))


def test_little_room_holds_nobody_up_who_needs_less() -> None:
    with Harness(Generator(udp_frames(), rate_pps=1e7)) as h:
        for _ in range(20):  # 50 packets each
            h.breathe(5 * US)
        assert 0 < lib.LINK_CAPACITY - len(h.received()) < lib.WORKER_BURST
        h.breathe(10 * MS)
        assert h.counters == {"missed-late": pytest.approx(100_000 - 1000, abs=2)}


def test_no_packet_to_send() -> None:
    with Harness(Generator(udp_frames(), rate_pps=1e7), small=256, large=0) as h:
        for _ in range(1000):
            h.breathe(5 * US)
        assert h.app.sent == 256  # type: ignore[attr-defined]
        assert h.counters.keys() == {"missed-no-packet"}


def test_as_fast_as_taken_misses_nothing() -> None:
    with Harness(Generator(udp_frames())) as h:
        for _ in range(100):
            h.breathe(MS)
        assert len(h.received()) == lib.LINK_CAPACITY
        assert h.counters == {}


def test_generators_of_the_same_frames_read_the_same_memory() -> None:
    frames = Frames(udp_frames(64, flows=3))
    first, second = Generator(frames), Generator(frames, stream=1, rate_pps=1)
    varied = Generator(frames, ranges=[Range.of("src_port", "7-8")])
    assert first.config.frames == second.config.frames != varied.config.frames
    assert first.config.order == second.config.order
    assert ffi.buffer(varied.config.frames, 64) != ffi.buffer(first.config.frames, 64)


def test_a_count_ends_it() -> None:
    generator = Generator(udp_frames(), count=1000, rate_pps=1e6)
    with Harness(generator) as h:
        sent = run(h, MS // 2, 10 * US)
        assert not generator.is_done
        sent += run(h, 500 * MS, 50 * US)
        assert generator.is_done
        assert len(sent) == 1000
        assert h.counters == {}
    assert not Generator(udp_frames()).is_done


def become(harness: Harness, generator: Generator) -> None:
    """Let the running app have another's config, as a hand-over does."""
    harness.successor = generator  # type: ignore[attr-defined]
    harness.struct.config = generator.config


def test_a_rate_is_changed_on_the_way() -> None:
    frames = udp_frames(IMIX, flows=3)
    with Harness(Generator(frames, rate_pps=1e6)) as h:
        sent = run(h, 10 * MS, 10 * US)
        for args, due in [
            ({"rate_pps": 2e6}, 20_000),
            ({"rate_gbps": 1}, 10 * MS / (8 * (7 * 84 + 4 * 614 + 1538) / 12)),
            ({}, 1000 * lib.WORKER_BURST),
            ({"rate_pps": 5e5}, 5_000),
        ]:
            become(h, Generator(frames, **args))  # type: ignore[arg-type]
            more = run(h, 10 * MS, 10 * US)
            assert len(more) == pytest.approx(due, abs=20)
            sent += more
        assert [stamp_of(f)[2] for f in sent] == list(range(len(sent)))
        assert h.counters == {}


def test_a_new_stream_counts_from_0_and_fewer_frames_are_no_harm() -> None:
    with Harness(Generator(udp_frames(flows=100)), burst=50) as h:
        run(h, 3 * US, US)
        frames = udp_frames(flows=3)
        become(h, Generator(frames, stream=9))
        sent = run(h, US, US)
        assert [stamp_of(f)[1:] for f in sent] == [(9, i) for i in range(50)]
        for i, frame in enumerate(sent):
            assert frame[:-STAMP] == frames[i % 3].frame[:-STAMP]


@pytest.mark.parametrize("rate", [{"rate_pps": 1e6}, {"rate_gbps": 1}])
def test_a_count_and_a_time_are_those_of_the_stream(rate: dict[str, Any]) -> None:
    frames = udp_frames()
    with Harness(Generator(frames, rate_pps=1e5, stream=1)) as h:
        run(h, 5 * MS, 10 * US)
        next_one = Generator(frames, stream=2, count=1000, **rate)
        next_one.adopt(h.app)
        assert (next_one.sent, next_one.elapsed_ns, next_one.is_done) == (0, 0, False)
        become(h, next_one)
        assert len(run(h, 10 * MS, 10 * US)) == 1000
        assert (next_one.sent, next_one.is_done) == (1000, True)
        # From the first turn to that of the last packet, whatever time goes by then.
        due = 1000 * next_one.config.mean
        assert next_one.elapsed_ns == pytest.approx(due, abs=10 * US)
        assert next_one.sending_ns == pytest.approx(due, abs=20 * US)
        # Nothing is due while all have been sent: the next one begins without credit.
        become(h, Generator(frames, stream=3, **rate))
        assert len(run(h, MS, 10 * US)) == pytest.approx(
            MS / next_one.config.mean, 0.03
        )
        assert h.counters == {}


# ---- Checker: numbers --------------------------------------------------------


def numbered(numbers: Iterable[int], stream: int = 0) -> list[bytes]:
    [template] = udp_frames()
    head = template.frame[:-STAMP]
    return [head + stamp(n, stream) for n in numbers]


def expect(numbers: Iterable[int]) -> tuple[int, int, int, int]:
    """Return lost, duplicated, reordered, expected, by remembering all numbers."""
    highest, seen = -1, set[int]()
    duplicated = reordered = 0
    for n in numbers:
        if n > highest:
            highest = n
        elif n in seen or highest + 1 - n > lib.TRAFFIC_WINDOW:
            duplicated += 1
            continue
        else:
            reordered += 1
        seen.add(n)
    return highest + 1 - len(seen), duplicated, reordered, highest + 1


near = st.lists(st.integers(0, 40), max_size=80)
far = st.lists(
    st.one_of(st.integers(0, 20000), st.integers(4090, 4100), st.integers(0, 2**44)),
    max_size=60,
)


@given(st.one_of(near, far))
def test_numbers_are_accounted_for(numbers: list[int]) -> None:
    streams, counters = check(numbered(numbers))
    lost, duplicated, reordered, expected = expect(numbers)
    if numbers:
        assert streams == {
            0: Stream(
                len(numbers), 60 * len(numbers), lost, duplicated, reordered, expected
            )
        }
    wanted = {"lost": lost, "duplicated": duplicated, "reordered": reordered}
    assert counters == {name: n for name, n in wanted.items() if n}


def test_late_by_the_whole_window() -> None:
    numbers = [*range(1, 5000), 904, 903, 0]
    streams, counters = check(numbered(numbers))
    assert expect(numbers)[:3] == (1, 3, 0)
    assert counters == {"lost": 1, "duplicated": 3}
    missing = [*range(904), *range(905, 5000), 904]
    assert check(numbered(missing))[1] == {"reordered": 1}
    too_late = [*range(903), *range(904, 5000), 903]
    assert check(numbered(too_late))[1] == {"lost": 1, "duplicated": 1}
    assert streams[0].expected == 5000


def test_streams_are_told_apart() -> None:
    ids = [0, 1, 64, 128, 2**32 - 1, 63]
    sent = [numbered(range(i + 1), stream) for i, stream in enumerate(ids)]
    streams, counters = check(f for frames in sent for f in reversed(frames))
    assert {i: s.packets for i, s in streams.items()} == {
        stream: i + 1 for i, stream in enumerate(ids)
    }
    assert counters == {"reordered": sum(range(len(ids)))}


def test_more_streams_than_it_knows() -> None:
    ids = [1000 * i for i in range(70)]
    streams, counters = check(numbered([0], stream)[0] for stream in ids * 2)
    assert set(streams) == set(ids[:64])
    assert counters == {"unknown-stream": 12, "duplicated": 64}


def test_an_absurd_number() -> None:
    _, counters = check(numbered([0, 2**45 + 1, 2**64 - 1, 1]))
    assert counters == {"bad-stamp": 2}


@pytest.mark.parametrize(
    "fault",
    [
        {"drop": 0.1},
        {"duplicate": 0.1},
        {"reorder": 0.1, "distance": 50},
        {"drop": 0.05, "duplicate": 0.05, "reorder": 0.02},
    ],
)
def test_it_sees_what_a_fault_does(fault: dict[str, Any]) -> None:
    sent = generate(20000, udp_frames(IMIX, flows=7))
    with Harness(Fault(seed=3, **fault)) as h:
        received = []
        for i in range(0, len(sent), 500):
            h.send(sent[i : i + 500])
            received += h.drain()
        h.breathe(50 * MS)
        h.tick()
        received += h.received()
        did = h.counters
    _, counters = check(received, verify=True)
    assert counters.get("duplicated", 0) == did.get("duplicated", 0)
    assert counters.get("lost", 0) == did.get("drop-fault", 0)
    # Who is overtaken only by those that came twice is not late.
    assert counters.get("reordered", 0) == pytest.approx(
        did.get("reordered", 0), abs=0 if len(fault) < 3 else 5
    )
    assert counters.keys() <= {"lost", "duplicated", "reordered"}


# Bytes that no checksum but the FCS covers: Ethernet, and of IPv6 traffic class, flow
# label, hops; or that tell which checksum there is: protocol of IPv6.
ETHERNET = set(range(8 * 14))
OPEN = ETHERNET | set(range(8 * 14, 8 * 14 + 4)) | set(range(8 * 15, 8 * 18))


@pytest.mark.parametrize(
    ("template", "is_open"),
    [
        (udp_frames(64)[0], ETHERNET),
        (udp_frames(ipv6=True, timed=True)[0], OPEN | set(range(8 * 20, 8 * 22))),
    ],
)
def test_damage_is_found(template: Template, is_open: set[int]) -> None:
    [sent] = generate(1, [template])
    where = Counter[str]()
    for bit in range(8 * len(sent)):
        damaged = bytearray(sent)
        damaged[bit // 8] ^= 1 << bit % 8
        streams, counters = check([bytes(damaged)], verify=True)
        if bit not in is_open:
            assert (streams, sum(counters.values())) == ({}, 1)
            where.update(counters)
        # Damage to a stamp shows without checksums.
        _, counters = check([bytes(damaged)])
        if bit >= 8 * (len(sent) - template.stamp_size):
            assert set(counters) <= {"foreign", "bad-stamp"}
            assert counters
    # Versions and some of lengths leave nothing to be judged.
    assert set(where) <= {"foreign", "bad-ip-checksum", "bad-l4-checksum"}
    assert where["bad-l4-checksum"] > 8 * 24


# ---- Checker: where stamps are -----------------------------------------------


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("packet", PLAIN, ids=lambda p: p.summary())
def test_it_finds_stamps(packet: Packet, verify: bool) -> None:
    bare = packet.copy()
    if ICMPv6EchoRequest in bare:
        bare[ICMPv6EchoRequest].data = stamp(0)
        frame = bytes(bare)
    else:
        bare[Raw].underlayer.remove_payload()
        frame = stamped(bare)
    version: Packet = Ether(frame)
    while not isinstance(version, IP | IPv6):
        version = version.payload
    outers = IPv6(), IP(), IP(options=b"\1\1\1\0"), IPv6() / IP()
    for changed in (
        frame,
        frame + bytes(20),  # padding
        frame[:12] + bytes.fromhex("81000005") + frame[12:],
        frame[:12] + bytes.fromhex("88a80005 81000007") + frame[12:],
        *(bytes(Ether(**MAC) / outer / version) for outer in outers),
    ):
        streams, counters = check([changed], verify=verify)
        assert streams[0].packets == 1
        assert counters == {}


def test_what_only_quotes_a_packet_is_foreign() -> None:
    [sent] = generate(1, udp_frames())
    quoted = IPerror(sent[14:42]) / Raw(sent[42:])
    unreachable = Ether(**MAC) / IP() / ICMP(type=3, code=1) / quoted
    assert bytes(unreachable)[-STAMP:] == stamp(0)
    for outer in (unreachable, Ether(**MAC) / IPv6() / unreachable[IP]):
        assert check([bytes(outer)], verify=True) == ({}, {"foreign": 1})
    [sent] = generate(1, udp_frames(ipv6=True))
    error = Ether(**MAC) / IPv6() / ICMPv6DestUnreach() / Raw(sent[14:])
    assert bytes(error)[-STAMP:] == stamp(0)
    assert check([bytes(error)], verify=True) == ({}, {"foreign": 1})


def test_the_last_fragment_has_it() -> None:
    whole = IP(src="10.0.0.1", dst="10.0.0.2") / UDP() / Raw(bytes(984) + stamp(0))
    size = 504
    payload = bytes(whole)[20:]
    parts = [
        Ether(**MAC)
        / IP(proto=17, flags="MF" if i + size < len(payload) else "", frag=i // 8)
        / Raw(payload[i : i + size])
        for i in range(0, len(payload), size)
    ]
    assert len(parts) == 2
    streams, counters = check(map(bytes, parts), verify=True)
    assert streams[0].packets == 1
    assert counters == {"foreign": 1}


def test_foreign_frames() -> None:
    frames = [
        b"",
        bytes(13),
        bytes(14),
        bytes(60),
        bytes(Ether(**MAC) / IP() / UDP() / Raw(bytes(100))),
        bytes(Ether(**MAC) / IP() / UDP())[:40],
        bytes.fromhex("ffffffffffff 020000000001 0806") + bytes(46),
        bytes(12) + bytes.fromhex("81000001") * 9 + bytes(40) + stamp(0),
        bytes(12) + bytes.fromhex("8100"),
        bytes(14) + stamp(0),  # shorter than any with a stamp
    ]
    assert check(frames) == ({}, {"foreign": len(frames)})
    assert check(frames, verify=True) == ({}, {"foreign": len(frames)})


# ---- Checker: checksums ------------------------------------------------------


def judged(frame: bytes, **metadata: int) -> str:
    """Return what a Checker says of a frame's checksums: "", "ip" or "l4"."""
    _, counters = check([frame], verify=True, **metadata)
    found = [name.split("-")[1] for name in counters if name.endswith("-checksum")]
    assert len(found) <= 1
    return "".join(found)


@pytest.mark.parametrize("size", [0, 1, 2, 7, 8, 9, 100, 1399, 1400])
@pytest.mark.parametrize("packet", PLAIN, ids=lambda p: p.summary())
def test_checksums_of_all_kinds(packet: Packet, size: int) -> None:
    packet = packet.copy()
    data = bytes(i * 11 % 251 for i in range(size))
    if ICMPv6EchoRequest in packet:
        packet[ICMPv6EchoRequest].data = data
    else:
        packet[Raw].load = data
    frame = bytes(packet)
    assert judged(frame) == ""
    for at in {len(frame) - 1, len(frame) - size // 2 - 1, len(frame) - size}:
        if at < len(frame) and size:
            changed = frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :]
            assert judged(changed) == "l4"
            assert judged(changed, flags=lib.PACKET_CSUM_PARTIAL) == ""
    ttl = bytearray(frame)
    at = frame.find(b"\x45\0")
    if at > 0:
        ttl[at + 8] ^= 1
        assert judged(bytes(ttl)) == "ip"
        gso = {"gso_type": lib.PACKET_GSO_UDP_L4, "gso_size": 100}
        assert judged(bytes(ttl), **gso) == ""


def test_options_are_part_of_the_header() -> None:
    frame = bytes(Ether(**MAC) / IP(options=b"\1\1\1\0") / UDP() / Raw(b"abc"))
    assert judged(frame) == ""
    assert judged(frame[:34] + b"\7" + frame[35:]) == "ip"


def test_udp_without_a_checksum() -> None:
    data = UDP(chksum=0) / Raw(b"data")
    assert judged(bytes(Ether(**MAC) / IP() / data)) == ""
    assert judged(bytes(Ether(**MAC) / IPv6() / data)) == "l4"
    assert judged(bytes(Ether(**MAC) / IPv6() / IP() / data)) == ""


def test_fragments_are_not_judged() -> None:
    data = UDP(chksum=1) / Raw(b"data")
    for packet in (
        Ether(**MAC) / IP(flags="MF") / data,
        Ether(**MAC) / IP(frag=3, proto=17) / Raw(bytes(100)),
        Ether(**MAC) / IP(flags="MF") / IP(chksum=1) / data,
        Ether(**MAC) / IPv6() / IPv6ExtHdrFragment(m=1) / data,
        Ether(**MAC) / IPv6() / IPv6ExtHdrFragment(offset=9, nh=17) / Raw(bytes(100)),
    ):
        assert judged(bytes(packet)) == ""
    whole = Ether(**MAC) / IPv6() / IPv6ExtHdrFragment() / data
    assert judged(bytes(whole)) == "l4"  # an atomic one is whole (RFC 6946)


@pytest.mark.parametrize(
    ("packet", "verdict"),
    [
        (IP() / UDP(len=7) / Raw(bytes(9)), "l4"),
        (IP() / UDP(len=100) / Raw(bytes(9)), "l4"),
        (IP(proto=17) / Raw(bytes(7)), "l4"),
        (IP(proto=6) / Raw(bytes(19)), "l4"),
        (IP(proto=1) / Raw(bytes(3)), "l4"),
        (IP(proto=1) / Raw(bytes(8)), "l4"),  # a sum of nothing but zeros
        (IP(proto=50) / Raw(bytes(3)), ""),
        (IP(len=19) / UDP(), ""),  # nothing that could be judged
        (IP(len=1000) / UDP(chksum=1), ""),
        (IP(ihl=4) / UDP(), ""),
        (IP(ihl=15) / UDP(), ""),
        (IPv6(plen=1000) / UDP(chksum=1), ""),
        (IPv6(nh=58) / Raw(bytes(3)), "l4"),
        (IPv6(nh=1) / Raw(bytes(9)), ""),
        (IPv6(plen=0, nh=0) / Raw(bytes(9)), ""),
    ],
)
def test_lengths_that_lie(packet: Packet, verdict: str) -> None:
    assert judged(bytes(Ether(**MAC) / packet)) == verdict


def test_udp_may_be_shorter_than_its_packet() -> None:
    # The length of UDP says what its checksum covers.
    udp = bytes(Ether(**MAC) / IP(src="1.1.1.1", dst="2.2.2.2") / UDP() / Raw(b"abcd"))
    longer = IP(src="1.1.1.1", dst="2.2.2.2", proto=17) / Raw(udp[34:] + b"more")
    assert judged(bytes(Ether(**MAC) / longer)) == ""


def test_a_right_sum_over_what_is_not_there() -> None:
    # The checksum would be right if the padding behind the packet belonged to it, and
    # where the header that it is a field of is cut off.
    udp = bytes(IP(src="1.1.1.1", dst="2.2.2.2") / UDP() / Raw(b"abcd"))
    assert judged(bytes(Ether(**MAC, type=0x0800) / Raw(udp))) == ""
    short = IP(src="1.1.1.1", dst="2.2.2.2", proto=17) / Raw(udp[20:-4])
    assert judged(bytes(Ether(**MAC) / short) + b"abcd") == "l4"
    pseudo = bytes([1, 1, 1, 1, 2, 2, 2, 2, 0, 6, 0, 18])
    tcp = bytes(16) + (0xFFFF - total(pseudo)).to_bytes(2, "big")
    assert total(pseudo + tcp) == 0xFFFF
    cut = IP(src="1.1.1.1", dst="2.2.2.2", proto=6) / Raw(tcp)
    assert judged(bytes(Ether(**MAC) / cut)) == "l4"


# ---- Checker: hostile frames -------------------------------------------------

MEANINGFUL = [*map(bytes, PLAIN), *generate(3, udp_frames(64)), bytes(TUNNELLED)]


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """A frame that once had a meaning, here and there changed, cut or wrapped."""
    frame = bytearray(draw(st.sampled_from(MEANINGFUL)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(frame) - 1))
        frame[at] = draw(st.integers(0, 255))
    tags = draw(
        st.lists(st.sampled_from([b"\x81\0\0\1", b"\x88\xa8\0\1"]), max_size=12)
    )
    cut = draw(st.integers(0, len(frame)))
    whole = bytes(frame[:12]) + b"".join(tags) + bytes(frame[12:])
    return whole[: len(whole) - cut] if draw(st.booleans()) else whole


@settings(max_examples=300)
@given(
    st.lists(st.one_of(st.binary(max_size=200), hostile()), max_size=40),
    st.booleans(),
)
def test_every_frame_counts_in_one_place(frames: list[bytes], verify: bool) -> None:
    streams, counters = check(frames, verify=verify)
    apart = ("foreign", "bad-stamp", "unknown-stream", "bad-ip-checksum",
             "bad-l4-checksum")  # fmt: skip
    assert len(frames) == sum(s.packets for s in streams.values()) + sum(
        counters.get(name, 0) for name in apart
    )
    for name in ("lost", "duplicated", "reordered"):
        assert sum(getattr(s, name) for s in streams.values()) == counters.get(name, 0)
    for s in streams.values():
        assert s.expected == s.lost + s.packets - s.duplicated


# ---- latency -----------------------------------------------------------------


def test_latency() -> None:
    [template] = udp_frames(timed=True)
    head = template.frame[:-TIMED]
    with Harness(NamedChecker()) as h:
        delays = [0, 1, 1000, 10**6, 5 * 10**9]
        now = BEGINNING + 1000
        h.send(head + stamp(i, 0, now - delay) for i, delay in enumerate(delays))
        h.send([head + stamp(5, 0, now + 99)])  # another machine's clock: no time
        h.breathe(1000)
        counts = h.app.latency  # type: ignore[attr-defined]
        assert sum(counts) == 6
        assert percentile(counts, 0.5) == 1
        assert percentile(counts, 1) == pytest.approx(5e9, rel=0.2)
        assert h.app.longest_ns == 5 * 10**9  # type: ignore[attr-defined]
        h.send(generate(3, udp_frames(), stream=1))
        h.breathe()
        assert sum(h.app.latency) == 6  # type: ignore[attr-defined]


# ---- the rest ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ({"sizes": 63}, "size"),
        ({"sizes": 10245}, "size"),
        ({"sizes": 64, "ipv6": True}, "size"),
        ({"sizes": 64, "vlan": 1}, "size"),
        ({"sizes": 64, "timed": True}, "size"),
        ({"sizes": []}, "sizes"),
        ({"flows": 0}, "flows"),
        ({"flows": 2**21}, "flows"),
        ({"vlan": 4096}, "vlan"),
        ({"src_ip": "10.0.0.2-10.0.0.1"}, "src_ip"),
        ({"dst_ip": "2001::1"}, "dst_ip"),
        ({"dst_ip": "10.0.0.1", "ipv6": True}, "dst_ip"),
        ({"src_port": "1-65536"}, "src_port"),
        ({"dst_port": "x"}, "dst_port"),
        ({"src_mac": "02:00:00:00:00"}, "src_mac"),
        ({"dst_mac": "020000000001"}, "dst_mac"),
    ],
)
def test_frames_that_cannot_be(args: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        udp_frames(**args)


def test_too_small_a_size_grows_if_it_may() -> None:
    sizes = {len(t.frame) + 4 for t in udp_frames(IMIX, ipv6=True, grow=True)}
    assert sizes == {82, 594, 1518}


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ({"frames": []}, "frames"),
        ({"rate_pps": -1}, "rate_pps"),
        ({"rate_pps": 2e9}, "rate_pps"),
        ({"rate_gbps": math.nan}, "rate_gbps"),
        ({"rate_pps": 1, "rate_gbps": 1}, "give one"),
        ({"count": -1}, "count"),
        ({"stream": 2**32}, "stream"),
        ({"catch_up_us": -1}, "catch_up_us"),
    ],
)
def test_generators_that_cannot_be(args: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        Generator(**{"frames": udp_frames()} | args)


@pytest.mark.parametrize(
    ("frame", "args"),
    [
        (bytes(13), {}),
        (bytes(10241), {"stamp": False}),
        (bytes(20), {}),
        (bytes(14) + b"x" * 46, {}),
        (bytes(36) + b"x" + bytes(23), {"timed": True}),
        (bytes(Ether(**MAC) / IP(len=100) / UDP() / Raw(bytes(30))), {}),
        (bytes(Ether(**MAC) / IP() / UDP() / Raw(bytes(10) + b"x" * 16)), {}),
    ],
)
def test_templates_that_cannot_be(frame: bytes, args: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="frame"):
        Template(frame, **args)


def test_weights_that_cannot_be() -> None:
    for weights in ([], [0], [-1, 2], [2**21]):
        with pytest.raises(ConfigError, match="weight"):
            weighted(enumerate(weights))


def test_struct_and_names_agree() -> None:
    assert len(Generator.counters) == lib.GENERATOR_NCOUNTERS
    assert len(Checker.counters) == lib.CHECKER_NCOUNTERS
    assert ffi.sizeof("struct checker_stream") % 64 == 0


def build(stream: int = 0, **args: Any) -> Config:
    config = Config()
    config.app("one", Generator, frames=udp_frames(IMIX, flows=9), stream=1, **args)
    config.app("two", Generator, frames=udp_frames(timed=True), stream=2, **args)
    config.app("checker", Checker, verify=bool(stream))
    config.link("one.tx -> checker.a")
    config.link("two.tx -> checker.b")
    return config


def test_rates_change_while_packets_flow() -> None:
    with Engine(huge=False) as engine:
        for args in ({"rate_pps": 1e5}, {"rate_gbps": 0.1}, {}, {"rate_pps": 1e4}):
            engine.commit(build(**args))  # type: ignore[arg-type]
            engine.main(duration=0.05)
        engine.drain()
        checker, one, two = (
            engine.apps[name].instance for name in ("checker", "one", "two")
        )
        assert isinstance(checker, Checker)
        assert isinstance(one, Generator)
        assert isinstance(two, Generator)
        assert engine.apps["checker"].counters == dict.fromkeys(Checker.counters, 0)
        assert checker.streams[1].packets == checker.streams[1].expected == one.sent
        assert checker.streams[2].packets == checker.streams[2].expected == two.sent
        assert sum(checker.latency) == two.sent
        assert engine.drops() == {}
