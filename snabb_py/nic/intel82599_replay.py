"""Frames that stay in a card's ring, sent round and round by the card itself.

    config.app("nic", Intel82599Replay, card="0000:01:00.0", frames=frames)

The descriptors are written once. From then on the processor does nothing for a packet:
it looks how far the card is and moves the tail, some hundred times a second
(intel82599_replay.c).
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from snabb_py._native import ffi, lib
from snabb_py.engine.app import FiniteSource, Ports, Resources, check_range
from snabb_py.engine.memory import HUGE_PAGE
from snabb_py.errors import ConfigError
from snabb_py.nic.intel82599 import Intel82599
from snabb_py.nic.intel82599_setup import ETHERNET_SIZE
from snabb_py.nic.model82599 import Card
from snabb_py.nic.registers import offset

#: Descriptors of the largest ring: TDLEN is 2^19 bytes at most (data sheet 8.2.3.9.7).
MOST_DESCRIPTORS = 32768
#: Descriptors that TDLEN counts.
UNIT = 8
#: Bytes of the shortest frame that does not hang the transmitter (8.2.3.8.8).
SHORTEST = 17
#: Frames start on cache lines.
LINE = 64
#: Mb/s of the slowest limiter: its factor has 10 bits before the point.
LEAST_MBPS = 10
#: Seconds of the rate that the card has ahead of it, where that is less than a ring.
AHEAD = 0.1


def ring_size(nframes: int) -> int:
    """Return how many descriptors a ring has that holds whole rounds; 0: none does."""
    least = math.lcm(nframes, UNIT)
    return MOST_DESCRIPTORS // least * least


class Intel82599Replay(Intel82599, FiniteSource):
    """A queue pair of an 82599 that sends the same frames again and again.

        +------------------+
        | Intel82599Replay |---> tx
        +------------------+

    What the card receives comes from tx. `tx-packets` and `tx-bytes` are what it has
    fetched.

    Args:
        card: PCI address, or a software card.
        frames: of 17 bytes to the MTU's, without FCS; so many that a ring holds them
            all a whole number of times: up to 4096, or any multiple of 8 up to 32768.
        count: to send; 0: without end.
        rate_mbps: the card's limiter, bits on the wire, 10 to 10000; None: as fast as
            the wire takes them.
        others: as for Intel82599.

    Raises:
        ConfigError: they do not fit the ring.
    """

    inputs = Ports()
    ops = ffi.addressof(lib.intel82599_replay_ops)
    reconfigurable = False

    def __init__(
        self,
        card: str | Card,
        frames: Sequence[bytes],
        *,
        count: int = 0,
        rate_mbps: float | None = None,
        **others: Any,
    ) -> None:
        super().__init__(card, **others)
        check_range("number of frames", len(frames), 1, MOST_DESCRIPTORS)
        check_range("count", count, 0, 2**63)
        longest = self.card_config.mtu + ETHERNET_SIZE + 8
        for frame in frames:
            check_range("frame length", len(frame), SHORTEST, longest)
        n = ring_size(len(frames))
        if not n:
            raise ConfigError(
                f"{len(frames)} frames do not fill any ring: up to 4096 do, "
                f"and multiples of 8 up to {MOST_DESCRIPTORS}"
            )
        ahead = n - 1
        if rate_mbps is not None:
            check_range("rate_mbps", rate_mbps, LEAST_MBPS, 1e6)
            mean = sum(map(len, frames)) / len(frames)
            ahead = min(ahead, max(64, int(rate_mbps * 1e6 / 8 / mean * AHEAD)))
        self.rings = (self.rings[0], n)
        self.frames = frames
        self.rate_mbps = rate_mbps
        self._sums = ffi.new("uint64_t[]", [0, *accumulate(map(len, frames))])
        self.config: Any = ffi.new(
            "struct intel82599_replay_config *",
            {
                "n": n,
                "nframes": len(frames),
                "ahead": ahead,
                "count": count,
                "bytes": self._sums,
            },
        )

    def open(self, resources: Resources) -> None:
        """Take the card and a queue, and fill its ring.

        Raises:
            ConfigError: as Intel82599.
            DeviceError: as Intel82599; or there is no memory for the frames.
        """
        super().open(resources)
        try:
            self._fill()
        except BaseException:
            self.close()
            raise
        assert self.nic  # noqa: S101 - for the types
        assert self.queue  # noqa: S101
        head = self.nic.function.registers + offset("TDH", self.number) // 4
        self.state: Any = ffi.new(
            "struct intel82599_replay *", {"queue": self.queue.state, "head": head}
        )
        self.nic.set_rate(self.number, self.rate_mbps)

    def _fill(self) -> None:
        """Copy the frames to where the card reaches them, and describe them to it."""
        assert self.nic  # noqa: S101 - for the types
        assert self.queue  # noqa: S101
        places, end = [], 0
        for frame in self.frames:
            size = -(-len(frame) // LINE) * LINE
            if end // HUGE_PAGE != (end + size - 1) // HUGE_PAGE:
                end = -(-end // HUGE_PAGE) * HUGE_PAGE  # the next page may be anywhere
            places.append(end)
            end += size
        memory, iovas = self.nic.lend(end)
        for place, frame in zip(places, self.frames, strict=True):
            ffi.memmove(memory.address + place, frame, len(frame))
        for at in range(self.config.n):
            i = at % len(self.frames)
            page, rest = divmod(places[i], HUGE_PAGE)
            lib.intel82599_replay_put(
                self.queue.state, at, iovas[page] + rest, len(self.frames[i])
            )

    @property
    def is_done(self) -> bool:
        """Whether the card has fetched `count` frames; never without."""
        return bool(0 < self.config.count <= self.state.sent)


class LocalIntel82599Replay(Intel82599Replay):
    """The same on a software card whose wire is in the same network."""

    is_internal = True
