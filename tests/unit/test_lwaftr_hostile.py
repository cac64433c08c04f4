"""What nobody should send, to the lwAFTR: it survives, counts and gives packets back.

The frames of all cases, cut short at every byte, damaged at random, and with metadata
that lies. The sanitizers watch under `make san`; the harness misses no packet; and
nothing is ever dropped without a counter that says so.
"""

import random
from collections.abc import Iterable

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from snabb_py._native import lib
from tests.harness import Harness
from tests.lwaftr_cases import CASES, OBSERVED, Case, cases, make

#: One row of each config, with the frames of all rows that use it.
ROWS = [*cases(CASES), *cases(OBSERVED)]
mode = pytest.mark.parametrize("compat", [False, True], ids=["default", "compat"])

Sided = tuple[int, bytes]  #: where a frame comes in, and itself


def has_valid_config(case: Case) -> bool:
    """Whether its config is one by default, too: one is not."""
    return case.config.stem != "resv2"


def by_config() -> Iterable[tuple[Case, list[Sided]]]:
    """Yield each config, in a case that has it, with all frames that are sent to it."""
    found: dict[object, tuple[Case, dict[Sided, None]]] = {}
    for case in filter(has_valid_config, ROWS):
        _, frames = found.setdefault(case.config, (case, {}))
        frames.update({(lib.LWAFTR_V4, frame): None for frame in case.v4})
        frames.update({(lib.LWAFTR_V6, frame): None for frame in case.v6})
    return [(case, list(frames)) for case, frames in found.values()]


CONFIGS = [
    pytest.param(
        case, frames, id=f"{case.config.parent.parent.name}-{case.config.stem}"
    )
    for case, frames in by_config()
]


def total(harness: Harness) -> int:
    return sum(harness.counters.values())


def swallow(harness: Harness, port: int, frame: bytes, **metadata: int) -> None:
    """Send a frame and throw away what comes of it, which must be counted."""
    before = total(harness)
    harness.send([frame], port=port, **metadata)
    assert harness.breathe() == 1
    harness.received()
    harness.received(port=lib.LWAFTR_V6)
    assert total(harness) > before, frame.hex()


@mode
@pytest.mark.parametrize(("case", "frames"), CONFIGS)
def test_frames_cut_short_at_every_byte(
    case: Case, frames: list[Sided], compat: bool
) -> None:
    with Harness(make(case, compat=compat)) as harness:
        for port, frame in frames:
            for n in range(min(len(frame), 200)):
                swallow(harness, port, frame[:n])


@mode
@pytest.mark.parametrize(("case", "frames"), CONFIGS)
def test_damaged_frames(case: Case, frames: list[Sided], compat: bool) -> None:
    dice = random.Random(case.id)  # noqa: S311 - to be repeated
    with Harness(make(case, compat=compat)) as harness:
        for port, frame in frames:
            for _ in range(60):
                damaged = bytearray(frame)
                for _ in range(dice.choice((1, 1, 2, 4))):
                    at = dice.randrange(min(len(damaged), 110))
                    damaged[at] = dice.choice((0, 1, 0x80, 0xFF, dice.randrange(256)))
                swallow(harness, port, bytes(damaged[: dice.randrange(20, 2000)]))


def test_fragments_for_nobody() -> None:
    """They hold no packet, which would be missing to fragments for softwires."""
    with Harness(make(ROWS[0], compat=False)) as harness:
        for i in range(1000):
            flags = {"flags": "MF", "frag": 0} if i % 2 else {"frag": 1}
            ip = IP(src="198.51.100.1", dst="203.0.113.5", id=i, **flags)
            harness.send([bytes(Ether() / ip / Raw(bytes(24)))])
            harness.breathe()
            harness.received()
        counters = {name for name, n in harness.counters.items() if n}
        assert harness.counters["drop-no-dest-softwire-ipv4-packets"] == 1000
        assert "in-ipv4-frag-needs-reassembly" not in counters


@mode
def test_metadata_that_lies(compat: bool) -> None:
    case, frames = max(by_config(), key=lambda found: len(found[1]))
    dice = random.Random(1)  # noqa: S311 - to be repeated
    with Harness(make(case, compat=compat)) as harness:
        for port, frame in frames:
            for _ in range(20):
                metadata = {
                    "flags": dice.randrange(4),
                    "gso_type": dice.choice((0, 0, 1, 4, 5, 129, 77)),
                    "gso_size": dice.choice((0, 1, 8, 1400, 0xFFFF)),
                    "csum_start": dice.choice((0, 14, 34, 54, len(frame), 0xFFFF)),
                    "csum_offset": dice.choice((0, 6, 16, 0xFFFF)),
                }
                swallow(harness, port, frame, **metadata)


@mode
def test_a_pool_that_has_run_dry(compat: bool) -> None:
    """Errors and fragments need packets of their own; without, they are counted."""
    rows = [case for case in ROWS if has_valid_config(case) and len(case.v4) == 1]
    for case in rows:
        with Harness(make(case, compat=compat), small=256, large=0) as harness:
            harness.send(case.v4)
            hoard = []
            while packet := lib.engine_packet_alloc(harness.freelist, 60):
                hoard.append(packet)
            harness.breathe()
            assert total(harness) > 0
            for packet in hoard:
                lib.engine_packet_free(harness.freelist, packet)
