"""Fault: what it does is what it says, as often as it was asked to, and repeatable."""

import math
import struct
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snabb_py._native import lib
from snabb_py.apps.basic import Sink, Source
from snabb_py.apps.fault import Fault
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.errors import ConfigError
from tests.harness import Harness

MS = 10**6
SIZE = 64
HOLD_NS = 50 * MS


def frame(number: int) -> bytes:
    return struct.pack(">I", number) * (SIZE // 4)


def number_of(frame: bytes) -> int:
    """Return a frame's number, even with a bit of it flipped."""
    copies = [frame[at : at + 4] for at in range(0, SIZE, 4)]
    number: int = struct.unpack(">I", Counter(copies).most_common(1)[0][0])[0]
    return number


def run(frames: Sequence[bytes], bursts: Sequence[int] = (100,), **args: Any) -> Any:
    """Return what comes out of a Fault, and its counters; bursts are repeated."""
    received = []
    with Harness(Fault(**args)) as harness:
        at = turn = 0
        while at < len(frames):
            n = bursts[turn % len(bursts)]
            harness.send(frames[at : at + n])
            at, turn = at + n, turn + 1
            while harness.breathe():
                received += harness.received()
            harness.tick()
            received += harness.received()
        # Nothing is held for ever.
        harness.breathe(HOLD_NS)
        harness.tick()
        received += harness.received()
        harness.breathe(MS)  # more than any delay here
        received += harness.received() + harness.drain()
        assert lib.engine_app_held(harness.struct) == 0
        return received, harness.counters


def is_likely(count: int, n: int, probability: float) -> bool:
    """Return whether a count is within 5 sigma of what is to be expected."""
    sigma = math.sqrt(n * probability * (1 - probability))
    return abs(count - n * probability) <= 5 * sigma


N = 20000
FRAMES = [frame(i) for i in range(N)]


def test_no_fault() -> None:
    assert run(FRAMES) == (FRAMES, {})


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.99, 1.0])
def test_drop(p: float) -> None:
    received, counters = run(FRAMES, seed=1, drop=p)
    assert received == sorted(received)
    assert len(set(received)) == len(received)
    assert counters == {"drop-fault": N - len(received)}
    assert is_likely(counters["drop-fault"], N, p)


def bits(a: bytes, b: bytes) -> list[int]:
    """Return the positions of the bits in which two frames differ."""
    return [
        8 * i + k
        for i, (x, y) in enumerate(zip(a, b, strict=True))
        for k in range(8)
        if (x ^ y) >> k & 1
    ]


@pytest.mark.parametrize("p", [0.1, 1.0])
def test_corrupt(p: float) -> None:
    received, counters = run(FRAMES, seed=2, corrupt=p)
    flipped = [bits(a, b) for a, b in zip(received, FRAMES, strict=True) if a != b]
    assert all(len(bits) == 1 for bits in flipped)
    assert counters == {"corrupted": len(flipped)}
    assert is_likely(len(flipped), N, p)
    # Every bit of the frame has its turn, none much oftener than another.
    positions = Counter(position for [position] in flipped)
    if p == 1:
        assert len(positions) == 8 * SIZE
        assert all(is_likely(n, N, 1 / (8 * SIZE)) for n in positions.values())


@pytest.mark.parametrize("p", [0.1, 1.0])
def test_duplicate(p: float) -> None:
    received, counters = run(FRAMES, seed=3, duplicate=p)
    assert received == sorted(received)
    copies = Counter(received)
    assert set(copies) == set(FRAMES)
    assert set(copies.values()) <= {1, 2}
    twice = sum(n == 2 for n in copies.values())
    assert counters == {"duplicated": twice}
    assert is_likely(twice, N, p)


def late(numbers: Sequence[int]) -> dict[int, int]:
    """Return the packets that others overtook, and how many of those were on time."""
    highest, on_time = -1, list[int]()
    late = {}
    for number in numbers:
        if number < highest:
            late[number] = sum(n > number for n in on_time[-2000:])
        else:
            highest = number
            on_time.append(number)
    return late


@pytest.mark.parametrize("distance", [1, 3, 50])
@pytest.mark.parametrize("p", [0.01, 0.3])
def test_reorder(p: float, distance: int) -> None:
    received, counters = run(FRAMES, seed=4, reorder=p, distance=distance)
    assert sorted(received) == FRAMES
    overtaken = late([number_of(f) for f in received])
    assert counters == {"reordered": len(overtaken)}
    assert set(overtaken.values()) <= set(range(1, distance + 1))
    if p * N > 100 * distance:
        assert set(overtaken.values()) == set(range(1, distance + 1))
    if p * distance < 10:  # else all places to wait in are taken at times
        assert is_likely(len(overtaken), N, p)


def test_reorder_always() -> None:
    # Who could overtake? The first that finds all places to wait in taken.
    received, counters = run(FRAMES, seed=4, reorder=1)
    assert sorted(received) == FRAMES
    assert counters == {"reordered": len(late([number_of(f) for f in received]))}


ALL: dict[str, Any] = {
    "drop": 0.1,
    "corrupt": 0.2,
    "duplicate": 0.15,
    "reorder": 0.05,
    "distance": 9,
}


def test_everything_at_once() -> None:
    received, counters = run(FRAMES, seed=5, **ALL)
    numbers = [number_of(f) for f in received]
    copies = Counter(numbers)
    corrupted = {n for n, f in zip(numbers, received, strict=True) if f != frame(n)}
    assert counters == {
        "drop-fault": N - len(copies),
        "corrupted": len(corrupted),
        "duplicated": sum(n == 2 for n in copies.values()),
        "reordered": len(late(numbers)),
    }
    for name, n in zip(counters, (N, N, N, N), strict=True):
        # Of what is not dropped, as much is corrupted and doubled as was asked for.
        key = {"drop-fault": "drop", "corrupted": "corrupt"}.get(name)
        key = key or {"duplicated": "duplicate", "reordered": "reorder"}[name]
        p = ALL[key] * (1 if key == "drop" else 0.9)
        assert is_likely(counters[name], n, p)


def test_a_probability_does_not_change_what_else_happens() -> None:
    alone, _ = run(FRAMES, seed=6, drop=0.1)
    among, _ = run(FRAMES, seed=6, **ALL)
    assert {number_of(f) for f in alone} == {number_of(f) for f in among}


def test_seeds() -> None:
    one, _ = run(FRAMES, seed=7, **ALL)
    assert run(FRAMES, seed=7, **ALL)[0] == one
    assert run(FRAMES, seed=8, **ALL)[0] != one
    assert run(FRAMES, seed=2**64 - 1, **ALL)[0] != one


probability = st.sampled_from([0, 0.01, 0.2, 0.5, 1.0])


@given(
    st.lists(st.binary(max_size=70), max_size=300),
    st.lists(st.integers(1, 120), min_size=1, max_size=10),
    st.fixed_dictionaries(
        {
            "seed": st.integers(0, 2**64 - 1),
            "drop": probability,
            "corrupt": probability,
            "duplicate": probability,
            "reorder": probability,
            "distance": st.integers(1, 20),
            "delay_us": st.sampled_from([0, 0.5, 20]),
            "jitter_us": st.sampled_from([0, 3]),
        }
    ),
)
def test_bursts_change_nothing(
    frames: list[bytes], bursts: list[int], args: dict[str, Any]
) -> None:
    one_by_one = run(frames, [1], **args)
    received, counters = run(frames, bursts, **args)
    assert received == one_by_one[0]
    # Whether a packet had to wait at all is a matter of time, the rest is not.
    for found in (counters, one_by_one[1]):
        found.pop("delayed", None)
    assert counters == one_by_one[1]


def test_a_lonely_packet_is_not_held_for_ever() -> None:
    with Harness(Fault(reorder=1)) as harness:
        harness.send([frame(0)])
        harness.breathe()
        harness.breathe(HOLD_NS - 1)
        harness.tick()
        assert harness.received() == []
        assert lib.engine_app_held(harness.struct) == 1
        harness.breathe(1)
        harness.tick()
        assert harness.received() == [frame(0)]
        assert harness.counters == {}  # nobody overtook it


def test_delay() -> None:
    with Harness(Fault(delay_us=1000)) as harness:
        assert harness.arm() == lib.ARM_READY
        harness.send(FRAMES[:10])
        harness.breathe(0)
        harness.breathe(MS // 2)
        harness.send(FRAMES[10:20])
        harness.breathe(0)
        assert harness.arm() == lib.ARM_NEVER
        harness.breathe(MS // 2 - 1)
        assert harness.received() == []
        assert lib.engine_app_held(harness.struct) == 20
        harness.breathe(1)
        assert harness.received() == FRAMES[:10]
        harness.breathe(MS // 2 - 1)
        assert harness.received() == []
        harness.breathe(1)
        assert harness.received() == FRAMES[10:20]
        assert harness.arm() == lib.ARM_READY
        assert harness.counters == {"delayed": 20}


def arrivals(step_us: int, **args: Any) -> list[tuple[int, int]]:
    """Return number and delay, in us, of 1000 packets sent every so often."""
    arrived = []
    with Harness(Fault(**args)) as harness:
        for us in range(1000 * step_us + 500):
            if us % step_us == 0 and us < 1000 * step_us:
                harness.send([frame(us // step_us)])
            harness.breathe(1000)
            arrived += [(number_of(f), us) for f in harness.received()]
    return [(number, us - number * step_us) for number, us in arrived]


def test_jitter() -> None:
    arrived = arrivals(200, seed=1, delay_us=10, jitter_us=100)
    assert [number for number, _ in arrived] == list(range(1000))
    delays = Counter(delay // 10 for _, delay in arrived)
    assert set(delays) - {11} == set(range(1, 11))
    assert all(is_likely(delays[tens], 1000, 0.1) for tens in range(1, 11))
    # In dense traffic the order stays, and nobody is later than the latest may be.
    arrived = arrivals(1, seed=1, delay_us=10, jitter_us=100)
    assert [number for number, _ in arrived] == list(range(1000))
    assert 100 < max(delay for _, delay in arrived) <= 111


def test_the_delay_queue_is_bounded() -> None:
    with Harness(Fault(delay_us=1000), small=lib.FAULT_QUEUE + 4096) as harness:
        for i in range(0, N, 1000):
            harness.send(FRAMES[i : i + 1000])
            harness.breathe(0)
        assert harness.counters == {
            "delayed": lib.FAULT_QUEUE,
            "drop-delay-queue-full": N - lib.FAULT_QUEUE,
        }
        harness.worker.now += MS
        assert harness.drain() == FRAMES[: lib.FAULT_QUEUE]


def test_a_full_output_holds_the_input_up() -> None:
    with Harness(Fault(seed=9, **ALL)) as harness:
        received = []
        for i in range(0, 8000, 500):
            harness.send(FRAMES[i : i + 500])
            for _ in range(3):
                harness.breathe()
            harness.tick()
            if i % 1000:
                received += harness.received()
                harness.breathe()
        received += harness.received() + harness.drain()
        assert harness._link_counters[1].txdrop == 0
    # Only what was held at the end is missing.
    expected, _ = run(FRAMES[:8000], seed=9, **ALL)
    assert received == expected[: len(received)]
    assert len(received) > len(expected) - 2 * lib.FAULT_MAX_HELD


def test_a_full_output_keeps_what_is_held() -> None:
    configs = [Fault(seed=1, reorder=p, distance=1024, delay_us=1) for p in (1, 0)]
    with Harness(configs[0]) as harness:
        harness.send(FRAMES[:64])
        harness.breathe()
        # Through the delay the output fills up to its last place.
        harness.struct.config = configs[1].config
        at = 64
        while harness.outputs[0].write < lib.LINK_CAPACITY:
            harness.send(FRAMES[at : at + 1])
            harness.breathe()
            harness.breathe()
            at += 1
        without_delay = Fault()
        harness.struct.config = without_delay.config
        held = lib.engine_app_held(harness.struct)
        assert held == harness.app.state.nheld > 0
        harness.breathe(HOLD_NS)
        harness.tick()
        assert lib.engine_app_held(harness.struct) == held
        received = harness.received()
        harness.tick()
        received += harness.received()
        assert sorted(received) == FRAMES[:at]
        assert harness._link_counters[1].txdrop == 0


def test_a_new_seed_begins_anew() -> None:
    with Harness(Fault(seed=1, drop=0.5)) as harness:
        harness.send(FRAMES[:500])
        assert harness.drain() == run(FRAMES[:500], seed=1, drop=0.5)[0]
        following = Fault(seed=2, drop=0.5)
        harness.struct.config = following.config
        harness.send(FRAMES[:500])
        assert harness.drain() == run(FRAMES[:500], seed=2, drop=0.5)[0]


def test_no_packet_to_duplicate_into() -> None:
    with Harness(Fault(duplicate=1), small=300) as harness:
        harness.send(FRAMES[:200])
        harness.breathe()
        received = harness.received()
        assert sorted(set(received)) == FRAMES[:200]
        assert harness.counters == {"duplicated": 100, "drop-no-packet": 100}


def test_what_is_held_comes_back() -> None:
    # The harness counts in the end.
    with Harness(Fault(reorder=1, delay_us=1000)) as harness:
        harness.send(FRAMES[:500])
        harness.breathe()
        assert lib.engine_app_held(harness.struct) == 500


def test_damage_is_visible_to_checksums() -> None:
    # IPv4 and UDP with the pseudo header's sum where the checksum belongs.
    header = bytes.fromhex(
        "020000000002 020000000001 080045000020 00000000 40110000 0a000001 0a000002"
    )
    partial = header + struct.pack(">4H", 1, 2, 12, 0x0A00 + 0x0A00 + 3 + 17 + 12)
    partial += b"data"
    offload = {"flags": lib.PACKET_CSUM_PARTIAL, "csum_start": 34, "csum_offset": 6}
    with Harness(Fault(corrupt=1)) as harness:
        harness.send([partial], **offload)
        harness.breathe()
        packet = harness.outputs[0].ring[0]
        assert packet.flags == 0
        [damaged] = harness.received()
        # The checksum beside one flipped bit is the one of the sound frame.
        sound = bytearray(partial)
        words = struct.unpack(">6H", partial[34:])
        total = sum(words)
        total = (total & 0xFFFF) + (total >> 16)
        sound[40:42] = struct.pack(">H", 0xFFFF - total)
        assert len(bits(damaged, bytes(sound))) == 1
        harness.send([partial], flags=lib.PACKET_CSUM_VALID)
        harness.breathe()
        assert harness.outputs[0].ring[1].flags == 0


@pytest.mark.parametrize(
    "args",
    [
        {"seed": -1},
        {"seed": 2**64},
        {"drop": 1.1},
        {"drop": -0.1},
        {"corrupt": math.nan},
        {"duplicate": 2},
        {"reorder": math.inf},
        {"distance": 0},
        {"distance": 1025},
        {"delay_us": -1},
        {"jitter_us": 1e9},
    ],
)
def test_arguments_out_of_range(args: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(args))):
        Fault(**args)


def test_struct_and_names_agree() -> None:
    assert len(Fault.counters) == lib.FAULT_NCOUNTERS


def build(**args: Any) -> Config:
    config = Config()
    config.app("source", Source, sequence=True, rate_pps=500000)
    config.app("fault", Fault, **args)
    config.app("sink", Sink, sequence=True)
    config.link("source.tx -> fault.rx")
    config.link("fault.tx -> sink.in")
    return config


def test_faults_are_set_while_packets_flow() -> None:
    with Engine(huge=False) as engine:
        settings: list[dict[str, Any]] = [
            {},
            {"delay_us": 2000},
            {"seed": 3, "reorder": 0.1, "delay_us": 100},
            {"duplicate": 0.01, "jitter_us": 500},
            {},
        ]
        for args in settings:
            engine.commit(build(**args))
            engine.main(duration=0.05)
            assert engine.census().is_complete
        engine.drain()
        fault, sink = (engine.apps[name].counters for name in ("fault", "sink"))
        # Setting a fault loses nothing, and the sink sees what the fault says.
        assert sink["lost"] == sink["foreign"] == 0
        assert sink["reordered"] == fault["reordered"] > 0
        assert sink["duplicated"] == fault["duplicated"] > 0
        assert fault["delayed"] > 0
        assert engine.drops() == {}
