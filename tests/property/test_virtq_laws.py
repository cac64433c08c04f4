"""Laws of the rings, whatever is sent, however a guest lays it out and breaks it."""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from snabb_py._native import ffi
from snabb_py.virtio.frontend import FEATURES
from snabb_py.virtio.frontend_ring import GUEST_BASE, Layout
from snabb_py.virtio.message import Feature, bits
from tests.vhost_guest import Wire

OPTIONAL = [
    Feature.MRG_RXBUF,
    Feature.EVENT_IDX,
    Feature.VERSION_1,
    Feature.IN_ORDER,
    Feature.GUEST_CSUM,
]
layouts = st.builds(
    Layout,
    size=st.sampled_from([2, 8, 64, 256]),
    pieces=st.integers(1, 2),
    indirect=st.booleans(),
    room=st.sampled_from([200, 1526, 2048, 12000]),
)
feature_sets = st.sets(st.sampled_from(OPTIONAL)).map(
    lambda without: FEATURES & ~bits(*without)
)
#: What happens: packets for the guest, packets from it, turns of either side.
steps = st.lists(
    st.one_of(
        st.tuples(st.just("port"), st.lists(st.integers(14, 11000), max_size=40)),
        st.tuples(st.just("driver"), st.lists(st.integers(14, 11000), max_size=40)),
        st.tuples(st.sampled_from(["port-turn", "driver-turn"]), st.just([])),
    ),
    max_size=12,
)


def frame(number: int, size: int) -> bytes:
    return (number.to_bytes(4, "big") * (size // 4 + 1))[:size]


def is_part(part: list[bytes], whole: list[bytes]) -> bool:
    """Return whether all of it comes in the whole, in that order."""
    rest = iter(whole)
    return all(any(one == other for other in rest) for one in part)


@settings(max_examples=60)
@given(rx=layouts, tx=layouts, features=feature_sets, steps=steps)
def test_nothing_is_lost_but_what_is_counted(
    rx: Layout, tx: Layout, features: int, steps: list[tuple[str, list[int]]]
) -> None:
    with (
        tempfile.TemporaryDirectory() as directory,
        Wire(Path(directory), features=features, rx=rx, tx=tx) as wire,
    ):
        wire.guest.start()
        sides = {"port": wire.port, "driver": wire.driver}
        sent: dict[str, list[bytes]] = {"port": [], "driver": []}
        got: dict[str, list[bytes]] = {"port": [], "driver": []}
        for number, (what, sizes) in enumerate(steps):
            side = what.removesuffix("-turn")
            frames = [frame(100 * number + i, size) for i, size in enumerate(sizes)]
            sides[side].send(frames)
            sent[side] += frames
            if what.endswith("-turn"):
                sides[side].breathe()
                got[side] += sides[side].received()
        for _ in range(600):
            moved = wire.driver.breathe() + wire.port.breathe()
            got["port"] += wire.port.received()
            got["driver"] += wire.driver.received()
            link = wire.port.inputs[0]
            if not moved and link.read == link.write:
                break
            for _ in range(0 if moved else 101):
                wire.port.tick()  # what waits for more room than there is, is given up
        counters, driver = wire.counters, wire.driver_counters
        assert "wrong-used" not in driver
        assert not any(name.startswith("broken") for name in counters)
        lost = sum(n for name, n in counters.items() if name.startswith("drop-rx"))
        assert len(got["driver"]) == len(sent["port"]) - lost
        assert is_part(got["driver"], sent["port"])
        too_long = driver.get("drop-tx-too-long", 0)
        assert len(got["port"]) == len(sent["driver"]) - too_long
        assert is_part(got["port"], sent["driver"])
        # Each buffer once: what was used is what was sent, and all came back.
        for ring in wire.guest.pairs[0].rings:
            assert ring.struct.used[1] == ring.struct.taken


#: A ring's bytes, written at random: which part, where, what.
scribbles = st.lists(
    st.tuples(
        st.sampled_from(["desc", "avail", "used", "index", "table"]),
        st.integers(0, 2**16),
        st.one_of(
            st.integers(0, 300),
            st.integers(0, 2**64 - 1),
            st.integers(-64, 64).map(lambda n: GUEST_BASE + n),
            st.sampled_from([0x1_0000_0100_0000, 2**32 - 1, 0x0003_0001_0000_0100]),
        ),
    ),
    min_size=1,
    max_size=30,
)


def scribble(wire: Wire, which: int, part: str, where: int, what: int) -> None:
    ring = wire.guest.pairs[0].rings[which]
    n = ring.layout.size
    data = (what % 2**64).to_bytes(8, "little")
    base: Any = wire.guest.memory.address
    if part == "index":
        ring.struct.avail[1] = what % 2**16
    elif part == "table":
        at = where % (wire.guest.memory.size - 8)
        ffi.memmove(base + at, data, 8)
    else:
        size = {"desc": 16 * n, "avail": 6 + 2 * n, "used": 6 + 8 * n}[part]
        offset = ring.offsets[["desc", "avail", "used"].index(part)]
        ffi.memmove(base + offset + where % (size - 8), data, 8)


@settings(max_examples=150)
@given(
    layout=layouts,
    features=feature_sets,
    rounds=st.lists(scribbles, min_size=1, max_size=5),
)
def test_a_guest_hurts_nobody_but_itself(
    layout: Layout, features: int, rounds: list[list[tuple[str, int, int]]]
) -> None:
    with (
        tempfile.TemporaryDirectory() as directory,
        Wire(Path(directory), features=features, rx=layout, tx=layout) as wire,
    ):
        wire.guest.start()
        for writes in rounds:
            for i, (part, where, what) in enumerate(writes):
                scribble(wire, i % 2, part, where, what)
                wire.port.send([bytes(60), bytes(5000)])
                wire.port.breathe()
                wire.port.received()
            wire.guest.stop()
            wire.guest.start_driver()
            wire.guest.resume()
            wire.port.breathe()
        # A driver that behaves finds a port that does. What still waits goes first.
        for _ in range(100):
            if not wire.driver.breathe() + wire.port.breathe():
                for _ in range(101):
                    wire.port.tick()
            wire.driver.received()
            wire.port.received()
        small = bytes(range(100, 160))
        wire.port.send([small])
        wire.driver.send([small])
        wire.turn(2)
        assert wire.driver.received() == wire.port.received() == [small]
