"""Pace: no packet before it is due, all in order, and as many as are due.

The oracle is the sum of what the packets before take on the wire.
"""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snabb_py.apps.pace import Pace
from snabb_py.errors import ConfigError
from tests.harness import Harness

US, MS = 1000, 10**6


def numbered(sizes: list[int]) -> list[bytes]:
    return [i.to_bytes(4, "big").ljust(size, b"\0") for i, size in enumerate(sizes)]


def wire_size(frame: bytes) -> int:
    return max(len(frame), 60) + 24


@given(
    st.lists(st.integers(17, 2000), min_size=1, max_size=200),
    st.sampled_from([{"rate_pps": 3e5}, {"rate_pps": 7.3e6}, {"rate_gbps": 1.7}]),
    st.lists(st.integers(1, 90_000), min_size=1, max_size=30),
)
def test_packets_go_when_they_are_due(
    sizes: list[int], rate: dict[str, float], steps: list[int]
) -> None:
    frames = numbered(sizes)
    sent: list[bytes] = []
    with Harness(Pace(**rate), small=256, large=1) as h:  # type: ignore[arg-type]
        h.send(frames)
        now = -steps[0]  # the time begins with the first breath that has a packet
        due, left = 0.0, list(frames)
        for step in steps:
            h.breathe(step)
            now += step
            expected = []
            while left and due <= now:
                gbps, pps = rate.get("rate_gbps"), rate.get("rate_pps", 1)
                frame = left.pop(0)
                due += wire_size(frame) * 8 / gbps if gbps else 1e9 / pps
                expected.append(frame)
            got = h.received()
            # Where a packet is due within a rounding error either is right.
            assert abs(len(got) - len(expected)) <= (math.isclose(due, now))
            sent += got
        assert sent == frames[: len(sent)]
        while len(sent) < len(frames):
            h.breathe(90_000)
            sent += h.received()
        assert sent == frames


def test_what_is_late_is_made_up_for_up_to_a_limit() -> None:
    with Harness(Pace(rate_pps=1e6, catch_up_us=100)) as h:
        h.send(numbered([60]))
        h.breathe()
        assert len(h.received()) == 1
        h.breathe(MS)  # nothing came for a millisecond
        h.send(numbered([60] * 500))
        h.breathe(1)
        assert len(h.received()) == pytest.approx(100, abs=2)
        for _ in range(5):
            h.breathe(99 * US)
        assert len(h.received()) == pytest.approx(400, abs=2)
        # All of them had been due in the 900 us that are not made up for.
        assert h.counters["missed-late"] == 500
        h.send(numbered([60] * 1000))
        h.breathe(400 * US)  # and 95 before: 100 are made up for, 395 lost
        for _ in range(10):
            h.breathe(99 * US)
        assert len(h.received()) == 1000
        assert h.counters["missed-late"] == pytest.approx(900 + 395, abs=3)


def test_time_in_which_nothing_is_left_to_send_is_nobodys() -> None:
    app = Pace(rate_pps=1e6, count=1000)
    with Harness(app, small=2048) as h:
        h.send(numbered([60] * 1000))
        for _ in range(101):
            h.breathe(10 * US)
        assert len(h.received()) == 1000
        h.breathe(1000 * MS)
        assert "missed-late" not in h.counters
        assert app.sending_ns == pytest.approx(MS, rel=1e-2)


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(1, 500 * 1000)),
        min_size=1,
        max_size=40,
    )
)
def test_no_more_are_late_than_have_passed(steps: list[tuple[int, int]]) -> None:
    passed = 0
    with Harness(Pace(rate_pps=1e5, catch_up_us=50), small=2500) as h:
        for packets, step in steps:
            h.send(numbered([60] * packets))
            h.breathe(step)
            passed += len(h.received())
            assert h.counters.get("missed-late", 0) <= passed


def test_without_a_rate_all_pass_up_to_the_count() -> None:
    app = Pace(count=7)
    with Harness(app) as h:
        assert not app.is_done
        h.send(numbered([60] * 10))
        h.breathe()
        assert h.received() == numbered([60] * 7)
        assert app.is_done
        assert h.breathe() == 0


def test_a_full_output_holds_the_input_up() -> None:
    with Harness(Pace(), small=4096) as h:
        frames = numbered([60] * 1024)
        h.send(frames)
        h.breathe()
        h.send(frames)
        assert h.breathe() == 0
        assert h.received() == frames
        h.breathe()
        assert h.received() == frames


@pytest.mark.parametrize(
    "wrong",
    [{"rate_pps": -1}, {"rate_gbps": 1e9}, {"rate_pps": 1, "rate_gbps": 1}],
)
def test_a_wrong_rate_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="rate_"):
        Pace(**wrong)
