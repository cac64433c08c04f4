"""Captures that stay in a card's ring, for `snabb-py packetblaster replay`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from snabb_py._native import lib
from snabb_py.apps.basic import WIRE_OVERHEAD
from snabb_py.apps.pcap import PcapReader
from snabb_py.apps.rewrite import Rewrite
from snabb_py.apps.traffic import LEAST_FRAME
from snabb_py.cli.interfaces import Interface
from snabb_py.cli.packetblaster_options import Rate, is_card
from snabb_py.engine.config import Config
from snabb_py.engine.solo import Solo
from snabb_py.nic.intel82599 import LocalIntel82599
from snabb_py.nic.intel82599_config import LINK_MBPS
from snabb_py.nic.intel82599_replay import (
    LEAST_MBPS,
    MOST_DESCRIPTORS,
    SHORTEST,
    Intel82599Replay,
    LocalIntel82599Replay,
    ring_size,
)

#: Bytes of a frame on a card of the default MTU.
LONGEST = 9014
#: Bytes of all frames: the card must reach them.
MOST_BYTES = 64 << 20
#: What a reader counts and yet sends as it is.
HARMLESS = {"short-capture", "over-snaplen"}


def read_small(files: Sequence[str], addresses: dict[str, Any]) -> list[bytes]:
    """Return the frames of captures that a ring holds, rewritten; else none.

    Captures that cannot be read whole are left to whom reports it.

    Raises:
        SnabbError: there is no such capture.
    """
    frames: list[bytes] = []
    reader = PcapReader(list(files))
    with Solo(reader) as solo:
        size = 0
        while len(frames) <= MOST_DESCRIPTORS and size < MOST_BYTES and solo.breathe():
            frames += (more := solo.received())
            size += sum(map(len, more))
        is_whole = reader.is_done and not solo.counters.keys() - HARMLESS
    if not is_whole or not frames or not ring_size(len(frames)):
        return []
    if not all(SHORTEST <= len(frame) <= LONGEST for frame in frames):
        return []
    return _rewrite(frames, addresses)


def _rewrite(frames: list[bytes], addresses: dict[str, Any]) -> list[bytes]:
    done: list[bytes] = []
    with Solo(Rewrite(**addresses)) as solo:
        for i in range(0, len(frames), lib.LINK_CAPACITY):
            solo.send(frames[i : i + lib.LINK_CAPACITY])
            solo.breathe()
            done += solo.received()
    return done


def _wire_size(frames: Sequence[bytes]) -> float:
    total = sum(max(len(frame), LEAST_FRAME) + WIRE_OVERHEAD for frame in frames)
    return total / len(frames)


def may_stay(word: str, rate: Rate, frames: Sequence[bytes]) -> bool:
    """Return whether a card can send these frames by itself at a rate."""
    return is_card(word) and (not rate or rate.mbps(_wire_size(frames)) >= LEAST_MBPS)


def put_into_ring(
    config: Config, end: Interface, frames: Sequence[bytes], *, rate: Rate, count: int
) -> Interface:
    """Have a card send frames by itself.

    Args:
        config: has the card's driver, which is replaced.
        end: the card.
        frames: of `read_small`.
        rate: the card's own limiter keeps to it.
        count: frames; 0: without end.
    """
    name = end.transmit.partition(".")[0]
    spec = config.apps[name]
    is_local = spec.cls is LocalIntel82599
    mbps = rate.mbps(_wire_size(frames))
    config.apps[name] = replace(
        spec,
        cls=LocalIntel82599Replay if is_local else Intel82599Replay,
        args={
            **spec.args,
            "frames": frames,
            "count": count,
            "rate_mbps": mbps if rate and mbps < LINK_MBPS else None,
        },
    )
    return Interface("replay", None, "", entry=name)
