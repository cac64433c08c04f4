"""The basic apps, one by one, with time and packets set by the test."""

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from snabb_py._native import ffi, lib
from snabb_py.apps.basic import (
    Police,
    Repeater,
    Sample,
    Sink,
    Source,
    Split,
    Tee,
    Truncate,
    test_frame,
)
from snabb_py.engine.app import Ports
from snabb_py.errors import ConfigError
from tests.harness import Harness

# The function is the product's; pytest takes every `test_...` for a test.
make_frame = test_frame
del test_frame


class NamedTee(Tee):
    inputs = Ports("rx")
    outputs = Ports("tx1", "tx2", "tx3")


class NamedSplit(Split):
    inputs = Ports("rx")
    outputs = Ports("tx1", "tx2", "tx3")


class NamedSink(Sink):
    inputs = Ports("rx")


def frames(n: int, size: int = 60) -> list[bytes]:
    return [bytes([i % 256]) * size for i in range(n)]


def numbered(*numbers: int) -> list[bytes]:
    return [bytes(14) + n.to_bytes(8, "big") + bytes(38) for n in numbers]


def take(harness: Harness, output: int) -> list[bytes]:
    """Take all frames off one output."""
    outputs = harness.outputs
    harness.outputs = outputs[output : output + 1]
    result = harness.received()
    harness.outputs = outputs
    return result


def test_source_counts_and_numbers() -> None:
    with Harness(Source(count=300, size=70, sequence=True)) as h:
        got = h.drain()
        assert len(got) == 300
        assert [int.from_bytes(f[14:22]) for f in got] == list(range(300))
        assert {len(f) for f in got} == {70}
        assert {f[:14] for f in got} == {make_frame(60)[:14]}


@pytest.mark.parametrize("size", [14, 60, 64, 65, 1518, 9000, 10240, 10241, 65535])
def test_source_sends_its_frame_of_any_size(size: int) -> None:
    frame = bytes(i * 7 % 256 for i in range(size))
    with Harness(Source(frame=frame, count=20)) as h:
        assert h.drain() == [frame] * 20


def test_source_keeps_its_rate() -> None:
    with Harness(Source(rate_pps=1e6)) as h:
        sent = 0
        for _ in range(10_000):
            h.breathe(ns=1000)
            sent += len(h.received())
        assert sent == pytest.approx(10_000, abs=2)
        h.breathe(ns=10**9)  # a second's pause is not made up for at once
        assert len(h.received()) <= 4 * lib.WORKER_BURST


def test_tee_copies_are_their_own() -> None:
    with Harness(NamedTee()) as h:
        sent = frames(40) + frames(3, 9000) + frames(2, 30_000) + frames(5, 1)
        h.send(sent, flags=lib.PACKET_CSUM_PARTIAL, csum_start=34, csum_offset=16)
        h.breathe()
        first = h.outputs[0].ring[0]
        second = h.outputs[1].ring[0]
        original = h.outputs[2].ring[0]
        assert (
            len({int(ffi.cast("uintptr_t", p)) for p in (first, second, original)}) == 3
        )
        assert first.flags == second.flags == lib.PACKET_CSUM_PARTIAL
        assert (first.csum_start, first.csum_offset) == (34, 16)
        ffi.memmove(first.data, b"\xff" * 60, 60)
        changed = [b"\xff" * 60, *sent[1:]]
        assert take(h, 0) == changed
        assert take(h, 1) == sent
        assert take(h, 2) == sent
        assert h.counters == {}


def test_tee_drops_what_does_not_fit() -> None:
    with Harness(NamedTee()) as h:
        for _ in range(2):
            h.send(frames(800))
            h.breathe()
        drops = [link.counters.txdrop for link in h.outputs]
        assert drops == [1600 - lib.LINK_CAPACITY] * 3
        assert take(h, 0) == (frames(800) * 2)[: lib.LINK_CAPACITY]


def test_tee_without_packets_counts() -> None:
    with Harness(NamedTee(), small=256, large=0) as h:
        h.send(frames(200))
        h.breathe()
        assert h.counters["drop-no-packet"] == 2 * 200 - 56
        assert take(h, 2) == frames(200)


def test_split_deals_in_turn() -> None:
    with Harness(NamedSplit()) as h:
        sent = frames(100)
        for part in (sent[:1], sent[1:32], sent[32:]):
            h.send(part)
            h.breathe()
        assert [take(h, k) for k in range(3)] == [sent[k::3] for k in range(3)]


def test_repeater_repeats_in_order() -> None:
    with Harness(Repeater(limit=5), burst=7) as h:
        h.send(frames(8))
        h.breathe()
        got = h.received()
        while len(got) < 23:
            h.breathe()
            got += h.received()
        assert got[:23] == (frames(5) * 5)[:23]
        assert h.counters == {"drop-full": 3}
        assert h.app.ops.held(h.struct) == 5


def test_truncate_cuts_and_pads() -> None:
    with Harness(Truncate(100)) as h:
        h.send([b"x" * 60, b"y" * 200])
        h.breathe()
        assert h.received() == [b"x" * 60, b"y" * 100]
    with Harness(Truncate(100, pad=True)) as h:
        h.send([b"x" * 60, b"y" * 200])
        h.breathe()
        assert h.received() == [b"x" * 60 + bytes(40), b"y" * 100]


def test_sample_takes_every_nth() -> None:
    with Harness(Sample(3)) as h:
        got = []
        for part in (frames(10)[:4], frames(10)[4:]):
            h.send(part)
            h.breathe()
            got += h.received()
        assert got == frames(10)[2::3]
        assert h.counters == {"drop-unsampled": 7}


@pytest.mark.parametrize("size", [60, 1514, 9000])
@pytest.mark.parametrize("gbps", [0.1, 1, 10])
def test_police_passes_its_rate_on_the_wire(size: int, gbps: float) -> None:
    with Harness(Police(gbps, burst_bytes=60_000)) as h:
        bits = 0
        for _ in range(3000):
            h.send([bytes(size)] * 40)
            h.breathe(ns=10_000)
            bits += sum((len(f) + 24) * 8 for f in h.received())
        # 30 ms at the rate, and the bucket that was full at the start.
        assert bits <= gbps * 30e6 + 60_000 * 8
        offered = 3000 * 40 * (size + 24) * 8
        assert bits >= min(gbps * 30e6 * 0.98, offered)


def test_police_lets_a_burst_pass_after_a_pause() -> None:
    with Harness(Police(1, burst_bytes=84 * 10)) as h:
        for _ in range(2):
            h.send(frames(50))
            h.breathe(ns=10**9)
            assert len(h.received()) == 10
        assert h.counters == {"drop-policed": 80}


@pytest.mark.parametrize("nfit", range(5))
def test_police_passes_as_much_of_a_super_frame(nfit: int) -> None:
    """What passes is what would if the segments came one by one."""
    payload = bytes(range(250)) * 14
    frame = bytes(Ether() / IP() / TCP(seq=1) / Raw(payload))
    cost = 54 + 1000 + 24
    sizes = {0: cost - 1, 4: 3 * cost + 54 + 500 + 24}  # bytes that are not enough, are
    with Harness(Police(1e-6, burst_bytes=sizes.get(nfit, nfit * cost + 500))) as h:
        h.send([frame], gso_type=lib.PACKET_GSO_TCPV4, gso_size=1000)
        h.breathe()
        passed = [bytes(Ether(f)[TCP].payload) for f in h.received()]
        expected = [payload[: nfit * 1000]] if nfit else []
        assert passed == expected
        dropped = {"drop-policed": 1} if nfit == 0 else {}
        if 0 < nfit < 4:
            dropped = {"drop-policed-segments": 4 - nfit}
        assert h.counters == dropped
        # All that passed was paid for.
        h.send([bytes(1000)])
        h.breathe()
        assert len(h.received()) == (nfit == 0)


def test_sink_tells_lost_from_late_and_twice() -> None:
    with Harness(NamedSink(sequence=True)) as h:
        h.send(numbered(0, 1, 4, 3, 3, 5, 1, 9))
        h.send([bytes(20)])
        h.breathe()
        assert h.counters == {
            "lost": 4,  # 2, 6, 7, 8
            "reordered": 1,
            "duplicated": 2,
            "foreign": 1,
        }
        h.send(numbered(1_000_000, 999_999))
        h.breathe()
        assert h.counters["lost"] == 4 + 1_000_000 - 10 - 1


@pytest.mark.parametrize(
    ("cls", "args"),
    [
        (Source, {"size": 13}),
        (Source, {"size": 70_000}),
        (Source, {"count": -1}),
        (Source, {"rate_pps": float("nan")}),
        (Source, {"size": 20, "sequence": True}),
        (Police, {"rate_gbps": 0}),
        (Police, {"rate_gbps": float("nan")}),
        (Police, {"rate_gbps": 1, "burst_bytes": 0}),
        (Truncate, {"length": 0}),
        (Sample, {"n": 0}),
        (Repeater, {"limit": 0}),
    ],
)
def test_senseless_arguments_are_refused(cls: type, args: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="is not within"):
        cls(**args)
