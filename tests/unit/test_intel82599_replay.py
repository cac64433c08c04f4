"""Frames that stay in the ring: the card sends them round and round, all by itself."""

from itertools import cycle, islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snabb_py._native import ffi, lib
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.errors import ConfigError
from snabb_py.nic.intel82599_replay import Intel82599Replay, ring_size
from snabb_py.nic.model82599 import Card, SoftwareCard
from snabb_py.nic.registers import offset
from tests.driven_card import DrivenCard
from tests.harness import Harness
from tests.unit.test_intel82599 import frames_of

US = 1000


def replay(it: DrivenCard, frames: list[bytes], **args: Any) -> Harness:
    app = Intel82599Replay(it.card, frames, rx_ring=64, **args)
    it.apps.append(Harness(app, registry=it.registry, pool=it.pool, owner="replay"))
    return it.apps[-1]


def sent_by(it: DrivenCard, n: int, ns: int = US) -> list[bytes]:
    """Return what leaves in at most so many breaths of card and driver in turn."""
    frames: list[bytes] = []
    for _ in range(n):
        it.apps[0].breathe(ns)
        it.wire.breathe(ns)
        frames += it.wire.received()
    return frames


@settings(max_examples=30)
@given(st.lists(st.integers(60, 1514), min_size=1, max_size=40), st.integers(1, 5000))
def test_frames_leave_in_order_round_and_round_to_the_last(
    sizes: list[int], count: int
) -> None:
    frames = frames_of(sizes)
    with DrivenCard(empty=True) as it:
        app = replay(it, frames, count=count)
        sent = sent_by(it, count // 512 + 20)
        assert sent == list(islice(cycle(frames), count))
        assert app.app.is_done  # type: ignore[attr-defined]
        counters = it.counters()
        assert counters["tx-packets"] == count
        assert counters["tx-bytes"] == sum(map(len, sent))
        # Packets are for what arrives; none was taken to send.
        lib.freelist_flush(app.freelist)
        assert it.pool.total - it.pool.free == 64


def test_the_ring_is_written_once() -> None:
    with DrivenCard(empty=True) as it:
        app = replay(it, frames_of([60, 70, 80]))
        ring = ffi.buffer(app.app.queue.state.tx.ring, 16 * ring_size(3))  # type: ignore[attr-defined]
        before = bytes(ring)
        n = len(sent_by(it, 300))
        assert n > 2 * ring_size(3)
        assert bytes(ring) == before


def test_between_looks_the_card_has_a_ring_of_work() -> None:
    with DrivenCard(empty=True) as it:
        app = replay(it, frames_of([60] * 8))
        app.breathe()
        sent = 0
        while moved := it.wire.breathe():
            sent += len(it.wire.received())
            assert moved
        assert sent == ring_size(8) - 1


def test_what_arrives_is_received() -> None:
    frames = frames_of([60, 100, 1514])
    with DrivenCard(empty=True) as it:
        replay(it, frames_of([60]), count=3)
        it.apps[0].breathe()
        it.arrive(frames)
        it.apps[0].breathe()
        assert it.apps[0].received() == frames


@pytest.mark.parametrize("mbps", [10, 333, 9999])
def test_the_card_keeps_to_the_rate(mbps: float) -> None:
    # In modelled time: the wire's is the harness's.
    frames, seconds = frames_of([60, 594, 1514]), 0.05
    with DrivenCard(empty=True, card=Card(name="card")) as it:
        replay(it, frames, rate_mbps=mbps)
        sent = sent_by(it, int(seconds * 1e9 / 10_000), 10_000)
        bits = sum(max(len(frame), 60) + 24 for frame in sent) * 8
        assert bits / seconds / 1e6 == pytest.approx(mbps, rel=0.01, abs=0.3)


def test_a_card_that_is_gone_is_no_place_to_send_from() -> None:
    with DrivenCard(empty=True) as it:
        app = replay(it, frames_of([60]))
        sent_by(it, 3)
        head = app.app.nic.function.registers + offset("TDH") // 4  # type: ignore[attr-defined]
        before = app.app.state.sent
        right, head[0] = head[0], 0xFFFFFFFF
        app.breathe()
        head[0] = right
        assert app.app.state.sent == before


@pytest.mark.parametrize(
    ("nframes", "size"),
    [(1, 32768), (3, 32760), (4095, 32760), (4097, 0), (32768, 32768)],
)
def test_the_ring_holds_whole_rounds(nframes: int, size: int) -> None:
    assert ring_size(nframes) == size
    assert not size or (size % nframes == 0 and size % 8 == 0)


@pytest.mark.parametrize(
    ("frames", "args", "wrong"),
    [
        ([], {}, "number of frames"),
        ([bytes(16)], {}, "frame length"),
        ([bytes(10000)], {}, "frame length"),
        ([bytes(60)] * 4097, {}, "do not fill any ring"),
        ([bytes(60)], {"rate_mbps": 9}, "rate_mbps"),
        ([bytes(60)], {"count": -1}, "count"),
    ],
)
def test_what_no_ring_can_send_is_refused(
    frames: list[bytes], args: dict[str, Any], wrong: str
) -> None:
    with Card() as card, pytest.raises(ConfigError, match=wrong):
        Intel82599Replay(card, frames, **args)


def test_in_an_engine_all_comes_back() -> None:
    frames = frames_of([60, 64, 1514])
    with Card(paced=False) as card:
        config = Config()
        config.app("wire", SoftwareCard, card=card)
        config.app("nic", Intel82599Replay, card=card, frames=frames, count=10_000)
        with Engine(packets=4096, large_packets=64, huge=False, log=print) as engine:
            engine.commit(config)
            nic: Any = engine.apps["nic"].instance
            engine.main(duration=20, done=lambda: nic.is_done)
            assert nic.is_done
            assert engine.census().is_complete
