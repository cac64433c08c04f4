"""The lwAFTR does what the model does, which was written from the RFCs.

The long run of the same is scripts/verify/lwaftr-oracle.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.lwaftr_model.scrutiny import rebuilt, untagged
from tests.lwaftr_oracle import Comparison, Episode
from tests.lwaftr_traffic import RandomChoices, T

#: Counters that say where a frame went, if nothing came of it at once.
KEPT = ("in-arp-", "in-ndp-", "needs-reassembly")

modes = pytest.mark.parametrize("compat", [False, True], ids=["default", "compat"])
thorough = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class DrawnChoices:
    """From hypothesis."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self.draw = draw

    def pick(self, options: Sequence[T]) -> T:
        return options[self.number(0, len(options) - 1)]

    def number(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))


@modes
@given(data=st.data())
@thorough
def test_drawn_frames_come_out_as_the_model_has_them(
    compat: bool, data: st.DataObject
) -> None:
    episode = Episode(DrawnChoices(data.draw), compat=compat)
    with Comparison(episode.settings, compat=compat) as comparison:
        for _ in range(data.draw(st.integers(1, 4))):
            comparison.feed(episode.traffic.item()[1])


@modes
@pytest.mark.parametrize("seed", range(8))
def test_bursts_come_out_as_the_model_has_them(compat: bool, seed: int) -> None:
    episode = Episode(RandomChoices(seed), compat=compat)
    with Comparison(episode.settings, compat=compat) as comparison:
        episode.run(comparison, 1000)


@pytest.mark.parametrize("seed", range(100, 104))
def test_what_goes_out_is_what_scapy_makes_of_its_fields(seed: int) -> None:
    episode = Episode(RandomChoices(seed), compat=False)
    with Comparison(episode.settings, compat=False) as comparison:
        for _ in range(40):
            comparison.feed(episode.burst())
            for frame in (*comparison.model.out4, *comparison.model.out6):
                assert rebuilt(frame, episode.settings) == untagged(frame)


@modes
@pytest.mark.parametrize("seed", range(200, 206))
def test_nothing_vanishes_uncounted(compat: bool, seed: int) -> None:
    """A frame that nothing comes of moves a counter that says why."""
    episode = Episode(RandomChoices(seed), compat=compat)
    unexplained: list[str] = []
    with Comparison(episode.settings, compat=compat) as comparison:
        model, resolvers = (
            comparison.model,
            (comparison.model.arp, comparison.model.ndp),
        )
        for _ in range(150):
            for arrival in episode.traffic.item()[1]:
                comparison.feed([arrival])
                came = model.out4 or model.out6 or any(r.waiting for r in resolvers)
                told = any(map(explains, comparison.counters))
                if not (came or told or is_router_business(untagged(arrival[1]))):
                    unexplained.append(f"v{arrival[0]} {arrival[1].hex()}")
    assert not unexplained


def explains(counter: str) -> bool:
    return counter.startswith("drop-") or any(part in counter for part in KEPT)


def is_router_business(frame: bytes) -> bool:
    """Say whether a frame is neighbour discovery that is not for us, nor for the core.

    Solicitations and advertisements of routers, and redirects (RFC 4861).
    """
    return frame[20:21] == b"\x3a" and frame[54:55] in (b"\x85", b"\x86", b"\x89")
