"""Split rings, driven through the front end: what goes through, what breaks them."""

import contextlib
import itertools
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from snabb_py._native import ffi, lib
from snabb_py.virtio.frontend import FEATURES
from snabb_py.virtio.frontend_ring import GUEST_BASE, Layout
from snabb_py.virtio.message import SINGLE_REGION, STATE, Feature, bits
from tests.vhost_guest import Wire

NEXT, WRITE, INDIRECT = 1, 2, 4
PLAIN = bits(Feature.VERSION_1, Feature.PROTOCOL_FEATURES)
LEGACY = bits(Feature.PROTOCOL_FEATURES, Feature.ANY_LAYOUT)
FRAME = bytes(range(1, 101))


def frames(n: int, least: int = 14, step: int = 37, most: int = 1500) -> list[bytes]:
    sizes = [least + i * step % (most - least) for i in range(n)]
    return [i.to_bytes(4, "big") * (size // 4 + 1) for i, size in enumerate(sizes)]


def both_ways(wire: Wire, sent: list[bytes]) -> None:
    received: list[bytes] = []
    returned: list[bytes] = []
    for i in range(0, len(sent), 50):
        wire.port.send(sent[i : i + 50])
        wire.driver.send(sent[i : i + 50])
        for _ in range(60):
            wire.turn()
            received += wire.driver.received()
            returned += wire.port.received()
            if len(received) == len(returned) >= min(i + 50, len(sent)):
                break
    assert received == sent
    assert returned == sent
    assert "wrong-used" not in wire.driver_counters
    assert not [name for name in wire.counters if name.startswith(("drop", "broken"))]


# -- what goes through ---------------------------------------------------------

LAYOUTS = {
    "one descriptor": Layout(),
    "header and data": Layout(pieces=2),
    "in five": Layout(pieces=5),
    "indirect": Layout(pieces=3, indirect=True),
    "a small ring": Layout(size=64, pieces=2),
    "a tiny ring": Layout(size=2, pieces=1),
    "a large ring": Layout(size=32768, room=1600),
}
MIXES = {
    "modern": PLAIN,
    "mergeable": PLAIN | bits(Feature.MRG_RXBUF),
    "event index": PLAIN | bits(Feature.EVENT_IDX),
    "legacy": LEGACY,
    "legacy, mergeable": LEGACY | bits(Feature.MRG_RXBUF),
    "all": FEATURES,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mix", MIXES)
def test_packets_go_both_ways(tmp_path: Path, layout: str, mix: str) -> None:
    features = MIXES[mix] | bits(Feature.INDIRECT_DESC)
    shape = LAYOUTS[layout]
    with Wire(tmp_path, features=features, rx=shape, tx=shape) as wire:
        wire.guest.start()
        both_ways(wire, frames(40 if shape.size == 2 else 400))


@pytest.mark.parametrize("mix", MIXES)
def test_cursors_run_round(tmp_path: Path, mix: str) -> None:
    shape = Layout(size=32)
    with Wire(tmp_path, features=MIXES[mix], rx=shape, tx=shape) as wire:
        guest = wire.guest
        guest.negotiate()
        guest.share_memory()
        guest.start_driver()
        for ring in guest.pairs[0].rings:
            # As if 65500 had gone before; buffers that were given move along.
            struct = ring.struct
            places = [struct.avail[2 + i] for i in range(32)]
            given = struct.given
            for i in range(32):
                struct.avail[2 + (65500 + i) % 32] = places[(65500 + i) % 32]
            struct.given = struct.avail[1] = (65500 + given) % 2**16
            struct.taken = struct.used[1] = 65500
        guest.resume()
        both_ways(wire, frames(300))
        assert guest.pairs[0].rings[0].struct.used[1] < 65500


@pytest.mark.parametrize("room", [128, 200, 1000, 4096])
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_long_packet_is_spread_over_buffers(
    tmp_path: Path, room: int, pieces: int
) -> None:
    shape = Layout(size=512, room=room, pieces=pieces)
    features = PLAIN | bits(Feature.MRG_RXBUF)
    sent = [bytes([i]) * size for i, size in enumerate((60, 9000, 10240, 100, 30000))]
    with Wire(tmp_path, features=features, rx=shape) as wire:
        wire.guest.start()
        received = []
        for frame in sent:
            wire.port.send([frame])
            wire.turn(4)
            received += wire.driver.received()
        assert received == sent
        assert "wrong-used" not in wire.driver_counters


def test_half_a_packet_is_never_shown(tmp_path: Path) -> None:
    shape = Layout(size=8, room=128)
    features = PLAIN | bits(Feature.MRG_RXBUF)
    with Wire(tmp_path, features=features, rx=shape) as wire:
        wire.guest.start()
        ring = wire.guest.pairs[0].rings[0].struct
        wire.port.send([bytes(60)] * 4 + [bytes(700)])
        wire.port.breathe()
        assert ring.used[1] == 4  # six buffers of it would not be enough: it waits
        wire.turn(2)
        assert [len(frame) for frame in wire.driver.received()] == [60] * 4 + [700]


@pytest.mark.parametrize("is_merging", [False, True])
def test_what_no_guest_can_take_is_dropped(tmp_path: Path, is_merging: bool) -> None:
    features = PLAIN | (bits(Feature.MRG_RXBUF) if is_merging else 0)
    with Wire(tmp_path, features=features, rx=Layout(size=4, room=200)) as wire:
        wire.guest.start()
        wire.port.send([bytes(60), bytes(5000), bytes(61)])
        wire.turn(3)
        assert [len(frame) for frame in wire.driver.received()] == [60, 61]
        assert wire.counters["drop-rx-too-long"] == 1


def test_a_large_packet_from_the_guest(tmp_path: Path) -> None:
    sent = [bytes([1]) * 67584, bytes([2]) * 10241, bytes([3]) * 10240]
    with Wire(tmp_path, tx=Layout(room=70000, size=16)) as wire:
        wire.guest.start()
        wire.driver.send(sent)
        wire.turn()
        assert wire.port.received() == sent


def test_packets_wait_for_buffers(tmp_path: Path) -> None:
    sent = frames(30)
    with Wire(tmp_path, rx=Layout(size=8)) as wire:
        wire.guest.start()
        wire.port.send(sent)
        received = []
        for _ in range(10):
            wire.turn()
            received += wire.driver.received()
        assert received == sent


def test_packets_for_nobody_are_dropped(tmp_path: Path) -> None:
    with Wire(tmp_path) as wire:
        wire.port.send([FRAME] * 3)
        wire.port.breathe()
        wire.guest.start()
        wire.guest.enable_ring(0, 0)
        wire.port.send([FRAME] * 4)
        wire.port.breathe()
        assert wire.counters["drop-rx-down"] == 7


def test_a_disabled_ring_is_emptied_without_effect(tmp_path: Path) -> None:
    with Wire(tmp_path) as wire:
        wire.guest.start()
        wire.guest.enable_ring(1, 0)
        wire.driver.send([FRAME] * 3)
        wire.turn()
        assert wire.port.received() == []
        assert wire.counters["drop-tx-disabled"] == 3
        assert wire.guest.stop_ring(1) == 3


def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    with Wire(tmp_path) as wire:
        wire.guest.start()
        wire.driver.send([FRAME] * 5)
        wire.turn()
        assert wire.guest.stop()[1] == 5
        wire.driver.send([FRAME] * 2)
        wire.turn()
        wire.guest.resume()
        wire.turn()
        assert len(wire.port.received()) == 7
        both_ways(wire, frames(100))


def test_a_new_connection_goes_on_where_it_was(tmp_path: Path) -> None:
    # The driver notices nothing; what it sent meanwhile has waited.
    with Wire(tmp_path) as wire:
        wire.guest.start()
        both_ways(wire, frames(99))
        wire.guest.disconnect()
        wire.wait(lambda: not wire.app.port or not wire.app.port.is_connected)
        wire.driver.send([FRAME] * 20)
        wire.turn()
        assert wire.port.received() == []
        wire.guest.reconnect()
        wire.turn()
        assert wire.port.received() == [FRAME] * 20
        both_ways(wire, frames(99))


# -- notification --------------------------------------------------------------


@pytest.mark.parametrize("mix", ["modern", "event index"])
def test_the_guest_is_interrupted_once_a_burst(tmp_path: Path, mix: str) -> None:
    with Wire(tmp_path, features=MIXES[mix]) as wire:
        wire.guest.start()
        wire.driver.arm()
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(wire.guest.pairs[0].call)
        wire.port.send([FRAME] * 60)
        for _ in range(3):  # it comes with the next breath, and not again
            wire.port.breathe()
        assert os.eventfd_read(wire.guest.pairs[0].call) == 1
        assert wire.counters["interrupts"] == 1


def test_a_guest_that_polls_is_not_interrupted(tmp_path: Path) -> None:
    with Wire(tmp_path, features=PLAIN) as wire:
        wire.guest.start()
        wire.guest.pairs[0].rings[0].struct.avail[0] = 1
        wire.port.send([FRAME] * 60)
        wire.port.breathe()
        assert "interrupts" not in wire.counters


@pytest.mark.parametrize("old", [0, 1, 100, 65533, 65535])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_event_index(tmp_path: Path, old: int, n: int) -> None:
    # All events around what is used: interrupted if it is one of these, else not.
    features = PLAIN | bits(Feature.EVENT_IDX)
    with Wire(tmp_path, features=features, rx=Layout(size=16)) as wire:
        guest = wire.guest
        for event in range(old - 3, old + n + 3):
            guest.negotiate()
            guest.share_memory()
            guest.start_driver()
            struct = guest.pairs[0].rings[0].struct
            struct.used[1] = struct.taken = old
            for i in range(16):
                struct.avail[2 + i] = i
            struct.avail[1] = struct.given = (old + 16) % 2**16
            struct.avail[2 + 16] = event % 2**16
            guest.resume()
            os.eventfd_read(guest.pairs[0].call)
            before = wire.counters.get("interrupts", 0)
            wire.port.send([FRAME] * n)
            wire.port.breathe()
            assert struct.used[1] == (old + n) % 2**16
            interrupted = wire.counters.get("interrupts", 0) - before
            assert interrupted == (old <= event < old + n), event


@pytest.mark.parametrize("mix", ["modern", "event index"])
def test_kicks_are_asked_for_before_sleep_alone(tmp_path: Path, mix: str) -> None:
    with Wire(tmp_path, features=MIXES[mix]) as wire:
        wire.guest.start()
        wire.port.breathe()
        kicks = wire.driver_counters.get("kicks", 0)
        if mix == "modern":  # an event index has no word for "never"
            wire.driver.send([FRAME])
            wire.driver.breathe()
            assert wire.driver_counters.get("kicks", 0) == kicks
            assert wire.port.arm() == lib.ARM_BUSY
            wire.port.breathe()
        assert wire.port.arm() == lib.ARM_READY
        wire.driver.send([FRAME])
        wire.driver.breathe()
        assert wire.driver_counters["kicks"] == kicks + 1
        wire.port.breathe()


def test_a_kick_wakes(tmp_path: Path) -> None:
    with Wire(tmp_path) as wire:
        wire.guest.start()
        wire.port.breathe()
        wake = ffi.new("struct wake *")
        assert wire.port.app.ops.arm(wire.port.struct, wake) == lib.ARM_READY
        assert not is_readable(wake.fd)
        wire.driver.send([FRAME])
        wire.driver.breathe()
        assert is_readable(wake.fd)
        wire.port.breathe()
        assert wire.port.arm() == lib.ARM_READY
        assert not is_readable(wake.fd)


def is_readable(fd: int) -> bool:
    import select

    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


# -- what breaks them ----------------------------------------------------------


class Hostile(NamedTuple):
    """What a guest does with a ring, and the counter that tells."""

    reason: str
    do: Callable[["Raw"], None]
    is_tx: bool = True


class Raw:
    """A ring that a test writes as it likes, with some memory for buffers."""

    def __init__(self, wire: Wire, which: int) -> None:
        self.wire = wire
        self.ring = wire.guest.pairs[0].rings[which]
        self.buffer = GUEST_BASE + wire.guest.scratch
        self.end = GUEST_BASE + wire.guest.memory.size

    def describe(self, i: int, address: int, length: int, flags: int, n: int) -> None:
        self.ring.describe(i, address, length, flags, n)

    def chain(self, *descriptors: tuple[int, int, int, int]) -> None:
        for i, descriptor in enumerate(descriptors):
            self.describe(i, *descriptor)
        self.ring.offer(0)

    def table(self, length: int, *descriptors: tuple[int, int, int, int]) -> None:
        data = b"".join(
            a.to_bytes(8, "little")
            + n.to_bytes(4, "little")
            + flags.to_bytes(2, "little")
            + after.to_bytes(2, "little")
            for a, n, flags, after in descriptors
        )
        at = self.wire.guest.scratch + 2048
        ffi.memmove(self.wire.guest.memory.address + at, data, len(data))
        self.chain((GUEST_BASE + at, length, INDIRECT, 0))


def jump(raw: Raw) -> None:
    raw.ring.struct.avail[1] = raw.ring.struct.used[1] + 257


def ring_of_three(raw: Raw) -> None:
    b = raw.buffer
    raw.chain((b, 50, NEXT, 1), (b, 50, NEXT, 2), (b, 50, NEXT, 1))


HOSTILE = {
    "more buffers than places": Hostile("avail", jump),
    "a head outside": Hostile("head", lambda r: r.ring.offer(256)),
    "a head far outside": Hostile("head", lambda r: r.ring.offer(65535)),
    "a next outside": Hostile("next", lambda r: r.chain((r.buffer, 99, NEXT, 256))),
    "a loop of one": Hostile("chain", lambda r: r.chain((r.buffer, 99, NEXT, 0))),
    "a loop of two": Hostile("chain", ring_of_three),
    "a loop without bytes": Hostile("chain", lambda r: r.chain((r.buffer, 0, NEXT, 0))),
    "a loop in a table": Hostile(
        "chain", lambda r: r.table(32, (r.buffer, 9, NEXT, 1), (r.buffer, 9, NEXT, 0))
    ),
    "a next outside its table": Hostile(
        "next", lambda r: r.table(16, (r.buffer, 99, NEXT, 1))
    ),
    "no table": Hostile("indirect", lambda r: r.table(0)),
    "a table and a half": Hostile("indirect", lambda r: r.table(24)),
    "a table too long": Hostile("indirect", lambda r: r.table(16 * 1025)),
    "a table in a table": Hostile(
        "indirect", lambda r: r.table(16, (r.buffer, 16, INDIRECT, 0))
    ),
    "a table with a next": Hostile(
        "indirect", lambda r: r.chain((r.buffer, 16, INDIRECT | NEXT, 1))
    ),
    "a table in mid-chain": Hostile(
        "indirect",
        lambda r: r.chain((r.buffer, 16, NEXT, 1), (r.buffer, 16, INDIRECT, 0)),
    ),
    "a table outside": Hostile("address", lambda r: r.chain((r.end, 16, INDIRECT, 0))),
    "a table over the end": Hostile(
        "address", lambda r: r.chain((r.end - 16, 32, INDIRECT, 0))
    ),
    "a buffer before": Hostile(
        "address", lambda r: r.chain((GUEST_BASE - 1, 99, 0, 0))
    ),
    "a buffer behind": Hostile("address", lambda r: r.chain((r.end, 99, 0, 0))),
    "a buffer over the end": Hostile(
        "address", lambda r: r.chain((r.end - 98, 99, 0, 0))
    ),
    "a buffer of 4 GiB": Hostile(
        "address", lambda r: r.chain((r.buffer, 2**32 - 1, 0, 0))
    ),
    "a buffer round the end": Hostile(
        "address", lambda r: r.chain((2**64 - 50, 99, 0, 0))
    ),
    "a buffer nowhere": Hostile("address", lambda r: r.chain((0, 99, 0, 0))),
    "to be written, where we read": Hostile(
        "direction", lambda r: r.chain((r.buffer, 99, WRITE, 0))
    ),
    "the second to be written": Hostile(
        "direction", lambda r: r.chain((r.buffer, 9, NEXT, 1), (r.buffer, 9, WRITE, 0))
    ),
    "a head outside, to us": Hostile("head", lambda r: r.ring.offer(256), is_tx=False),
    "more than places, to us": Hostile("avail", jump, is_tx=False),
    "to be read, where we write": Hostile(
        "direction", lambda r: r.chain((r.buffer, 2000, 0, 0)), is_tx=False
    ),
    "a buffer behind, to write": Hostile(
        "address", lambda r: r.chain((r.end, 2000, WRITE, 0)), is_tx=False
    ),
    "a buffer over the end, to write": Hostile(
        "address", lambda r: r.chain((r.end - 100, 101, WRITE, 0)), is_tx=False
    ),
    "a loop to write": Hostile(
        "chain", lambda r: r.chain((r.buffer, 9, NEXT | WRITE, 0)), is_tx=False
    ),
}


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    features = FEATURES & ~bits(Feature.EVENT_IDX)
    with Wire(tmp_path, features=features) as wire:
        wire.guest.start()
        yield wire
        # Whatever has happened: a driver that begins anew is served.
        wire.guest.stop()
        wire.port.received()
        before = {k: n for k, n in wire.counters.items() if "packets" not in k}
        wire.guest.start_driver()
        wire.guest.resume()
        wire.port.send([FRAME] * 40)
        wire.driver.send([FRAME] * 40)
        wire.turn(2)
        assert wire.driver.received() == wire.port.received() == [FRAME] * 40
        after = {k: n for k, n in wire.counters.items() if k in before}
        names = [k for k in before if k.startswith(("drop", "broken"))]
        assert all(before[k] == after[k] for k in names)


def empty(ring: Any) -> None:
    """Take the buffers off that the driver has given."""
    ring.avail[1] = ring.used[1]


@pytest.mark.parametrize("what", HOSTILE)
def test_a_broken_ring_stops_alone(wire: Wire, what: str) -> None:
    hostile = HOSTILE[what]
    pair = wire.guest.pairs[0]
    if not hostile.is_tx:
        # The port has seen the driver's buffers: it must be a new ring to lack them.
        wire.guest.stop_ring(0)
        empty(pair.rings[0].struct)
        wire.guest.start_ring(0)
    hostile.do(Raw(wire, int(hostile.is_tx)))
    wire.port.send([FRAME])
    wire.port.breathe()
    broken = {k: n for k, n in wire.counters.items() if k.startswith("broken")}
    assert broken == {f"broken-{hostile.reason}-rings": 1}
    assert os.eventfd_read(pair.err) == 1
    assert wire.app.port
    queues = wire.app.port.device.pairs[0].struct
    stopped, other = (queues.tx, queues.rx)[:: 1 if hostile.is_tx else -1]
    assert stopped.size == 0
    assert other.size == 256
    wire.wait(lambda: "is broken" in (wire.app.supervise() or ""))


def test_what_came_before_is_delivered(wire: Wire) -> None:
    wire.driver.send([FRAME] * 5)
    wire.driver.breathe()
    wire.guest.pairs[0].rings[1].offer(999)
    wire.port.breathe()
    assert wire.port.received() == [FRAME] * 5
    assert wire.counters["broken-head-rings"] == 1
    assert wire.guest.pairs[0].rings[1].struct.used[1] == 5


@pytest.mark.parametrize(
    ("counter", "length"),
    [
        ("drop-tx-too-short", 0),
        ("drop-tx-too-short", 11),
        ("drop-tx-too-short", 12),
        ("drop-tx-too-short", 25),
        ("drop-tx-too-long", 12 + 67585),
    ],
)
def test_a_frame_of_no_length_is_dropped_and_used(
    tmp_path: Path, counter: str, length: int
) -> None:
    with Wire(tmp_path, tx=Layout(room=70000, size=16)) as wire:
        wire.guest.start()
        raw = Raw(wire, 1)
        raw.chain((wire.guest.pairs[0].rings[1].struct.address, length, 0, 0))
        wire.port.breathe()
        assert wire.port.received() == []
        assert wire.counters == {counter: 1, "interrupts": wire.counters["interrupts"]}
        assert raw.ring.struct.used[1] == 1
        assert raw.ring.elements[0].length == 0


@pytest.mark.parametrize("cuts", [*itertools.product((1, 3, 11, 12, 13), repeat=2)])
def test_a_header_in_pieces(wire: Wire, cuts: tuple[int, int]) -> None:
    # CVE-2022-2132: the header was taken to lie in one descriptor.
    raw = Raw(wire, 1)
    data = bytes(12) + FRAME
    ffi.memmove(wire.guest.memory.address + wire.guest.scratch, data, len(data))
    a, b, c = 0, cuts[0], sum(cuts)
    raw.chain(
        (raw.buffer + a, b - a, NEXT, 1),
        (raw.buffer + b, c - b, NEXT, 2),
        (raw.buffer + c, len(data) - c, 0, 0),
    )
    wire.port.breathe()
    assert wire.port.received() == [FRAME]


@pytest.mark.parametrize("first", [0, 1, 5, 11, 12])
def test_a_runt_to_write_to(wire: Wire, first: int) -> None:
    # CVE-2026-86566: a first descriptor shorter than the header.
    wire.guest.stop_ring(0)
    ring = wire.guest.pairs[0].rings[0]
    empty(ring.struct)
    wire.guest.start_ring(0)
    raw = Raw(wire, 0)
    raw.chain(
        (raw.buffer, first, WRITE | NEXT, 1),
        (raw.buffer + first, 1000, WRITE, 0),
    )
    wire.port.send([FRAME])
    wire.port.breathe()
    start = wire.guest.memory.address + wire.guest.scratch
    assert bytes(ffi.buffer(start + 12, len(FRAME))) == FRAME
    used = ring.elements[(ring.struct.used[1] - 1) % 256]
    assert used.length == 12 + len(FRAME)


def test_nothing_is_written_behind_a_buffer(wire: Wire) -> None:
    wire.guest.stop_ring(0)
    ring = wire.guest.pairs[0].rings[0]
    start = wire.guest.memory.address + wire.guest.scratch
    for length in range(14, 200):
        empty(ring.struct)
        wire.guest.start_ring(0)
        ffi.memmove(start, b"\xa5" * 400, 400)
        raw = Raw(wire, 0)
        raw.chain((raw.buffer, 12 + length, WRITE, 0))
        wire.port.send([b"\x5a" * length])
        wire.port.breathe()
        header = bytes(10) + b"\1\0"
        expected = (header + b"\x5a" * length).ljust(400, b"\xa5")
        assert bytes(ffi.buffer(start, 400)) == expected
        wire.guest.stop_ring(0)


def test_buffers_over_regions_that_adjoin(tmp_path: Path) -> None:
    # CVE-2018-1059: ranges were taken for whole that are in part another region's.
    with Wire(tmp_path) as wire:
        guest = wire.guest
        guest.negotiate()
        half = guest.memory.size // 2
        for i in range(2):
            body = SINGLE_REGION.pack(
                0,
                GUEST_BASE + i * half,
                half,
                guest.start_address + i * half,
                guest.memory.offset + i * half,
            )
            guest.request("add_mem_reg", body, [guest.memory.fd])
        guest.start_driver()
        guest.resume()
        both_ways(wire, frames(99))
        raw = Raw(wire, 1)
        ffi.memmove(guest.memory.address + half - 50, bytes(12) + FRAME, 112)
        raw.describe(0, GUEST_BASE + half - 50, 112, 0, 0)
        guest.pairs[0].rings[1].struct.given += 1
        raw.ring.offer(0)
        wire.port.breathe()
        assert wire.port.received() == [FRAME]


def test_memory_that_goes_away(tmp_path: Path) -> None:
    with Wire(tmp_path) as wire:
        wire.guest.start()
        wire.driver.send([FRAME] * 5)
        wire.driver.breathe()
        os.ftruncate(wire.guest.memory.fd, 0)
        wire.port.send([FRAME] * 5)
        wire.port.breathe()
        assert wire.app.port
        assert wire.app.port.device.truncated >= 1
        # The driver's own memory is gone, too: nothing of it may be touched.
        wire.guest.pairs[0].state.rx.size = wire.guest.pairs[0].state.tx.size = 0


def test_a_ring_of_another_size_next_time(wire: Wire) -> None:
    for size in (64, 256, 128):
        wire.guest.stop_ring(1)
        wire.guest.request("set_vring_num", STATE.pack(1, size))
        ring = wire.guest.pairs[0].rings[1]
        wire.guest.request("set_vring_kick", (1).to_bytes(8, "little"), [ring.kick])
        assert wire.app.port
        assert wire.app.port.device.pairs[0].struct.tx.size == size


def test_an_eventfd_that_is_full_and_blocks_holds_nobody_up(wire: Wire) -> None:
    pair = wire.guest.pairs[0]
    os.eventfd_read(pair.call)
    for fd in (pair.call, pair.err):
        os.eventfd_write(fd, 2**64 - 2)
        os.set_blocking(fd, True)  # it is shared with whoever gave it
    for _ in range(200):  # more than a kernel keeps completions
        wire.port.send([FRAME])
        wire.turn()
        assert wire.driver.received() == [FRAME]
    assert wire.counters["interrupts"] >= 200
    pair.rings[1].offer(999)
    wire.port.breathe()
    assert wire.counters["broken-head-rings"] == 1
    wire.guest.request("set_vring_call", (1).to_bytes(8, "little"), [pair.call])


# -- what costs much -----------------------------------------------------------

#: Descriptors of a chain that is as long as it may be, or almost.
LONG = 1000


def long_chain(ring: Any, flags: int, n: int = LONG) -> None:
    """Make a chain of empty descriptors, from 0 on."""
    for i in range(n):
        ring.describe(i, GUEST_BASE, 0, flags | (NEXT if i < n - 1 else 0), i + 1)


def test_a_chain_longer_than_any_frame_needs(tmp_path: Path) -> None:
    with Wire(tmp_path, tx=Layout(size=2048, room=64)) as wire:
        wire.guest.start()
        raw = Raw(wire, 1)
        long_chain(raw.ring, 0, 1025)
        raw.ring.offer(0)
        wire.port.breathe()
        assert wire.counters["broken-chain-rings"] == 1


def test_long_chains_take_turns_with_other_ports(tmp_path: Path) -> None:
    with Wire(tmp_path, tx=Layout(size=1024, room=64)) as wire:
        wire.guest.start()
        raw = Raw(wire, 1)
        long_chain(raw.ring, 0)
        raw.ring.offer(*[0] * 100)
        used: list[int] = []
        while not used or used[-1] < 100:
            wire.port.breathe()
            used.append(int(raw.ring.struct.used[1]))
        assert used == [*range(9, 100, 9), 100]
        assert wire.counters["drop-tx-too-short"] == 100


def test_super_frames_take_turns_with_other_ports(tmp_path: Path) -> None:
    with Wire(tmp_path, tx=Layout(size=64, room=66000)) as wire:
        wire.guest.start()
        wire.driver.send([bytes(65000)] * 50)
        wire.driver.breathe()
        ring = wire.guest.pairs[0].rings[1].struct
        wire.port.breathe()
        assert 30 <= ring.used[1] < 40
        wire.port.breathe()
        assert ring.used[1] == 50
        assert wire.port.received() == [bytes(65000)] * 50


def test_long_chains_to_write_to_cost_their_own_packets(tmp_path: Path) -> None:
    with Wire(tmp_path, rx=Layout(size=1024, room=64)) as wire:
        wire.guest.start()
        wire.guest.stop_ring(0)
        raw = Raw(wire, 0)
        empty(raw.ring.struct)
        wire.guest.start_ring(0)
        long_chain(raw.ring, WRITE)
        raw.ring.offer(*[0] * 1024)
        wire.port.send([FRAME] * 3)
        for n in range(1, 4):
            wire.port.breathe()
            assert wire.counters["drop-rx-too-long"] == n
        assert raw.ring.struct.used[1] == 0


def test_a_table_in_many_regions(tmp_path: Path) -> None:
    """A table that is in pieces of less than an entry, with buffers all over."""
    with Wire(tmp_path) as wire:
        guest = wire.guest
        guest.negotiate()
        size, part = guest.memory.size, 8
        cuts = [0, *range(guest.scratch, guest.scratch + 64 * part, part), size]
        for start, end in itertools.pairwise(cuts):
            body = SINGLE_REGION.pack(
                0,
                GUEST_BASE + start,
                end - start,
                guest.start_address + start,
                guest.memory.offset + start,
            )
            guest.request("add_mem_reg", body, [guest.memory.fd])
        guest.start_driver()
        guest.resume()
        at = guest.scratch + 300
        data = bytes(12) + FRAME
        ffi.memmove(guest.memory.address + at, data, len(data))
        entries = [
            (GUEST_BASE + at + 8 * i, len(data[8 * i : 8 * i + 8]), NEXT, i + 1)
            for i in range(len(data[::8]))
        ]
        entries[-1] = (*entries[-1][:2], 0, 0)
        raw = Raw(wire, 1)
        table = b"".join(struct.pack("<QIHH", *entry) for entry in entries)
        assert len(table) < 300
        ffi.memmove(guest.memory.address + guest.scratch, table, len(table))
        raw.chain((GUEST_BASE + guest.scratch, len(table), INDIRECT, 0))
        wire.port.breathe()
        assert wire.port.received() == [FRAME]
