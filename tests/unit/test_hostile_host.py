"""What a hostile host does to a software card is counted, and does nothing else.

Each kind of hostility once, with the counters that it must raise and no others; then
random ones (`tests.card_fuzzer`, `tests.vfio_fuzzer`), which `scripts/verify/fuzz-card`
runs for long. After each the card, reset, passes packets both ways.
"""

import contextlib
import errno
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snabb_py._native import ffi, lib
from snabb_py.nic.model82599 import READ, WRITE, Card
from snabb_py.nic.registers import offset
from tests import card_fuzzer, vfio_fuzzer
from tests.card_host import (
    CONTEXT,
    DATA,
    DD,
    EOP,
    IC,
    IFCS,
    IOVA,
    IXSM,
    RS,
    TSE,
    TXSM,
    CardHost,
    ReceiveQueue,
)
from tests.episodes import run_episode

PAGE = 4096
HUGE = 2 << 20
#: Bytes of memory that the card may reach.
SIZE = 1 << 18
#: What it may not reach, with nothing near.
NOWHERE = 0x7000_0000_0000
#: Descriptors of a ring whose last entries lie outside.
END = IOVA + SIZE
FRAME = b"\xff" * 6 + bytes(range(6, 60))
DATA_END = DATA | IFCS | EOP | RS


class Host(CardHost):
    """A host with memory of several kinds."""

    def __init__(self) -> None:
        super().__init__(memory=SIZE, packets=2048)
        self.extra: list[card_fuzzer.Memory] = []

    def add(self, iova: int, size: int, flags: int) -> card_fuzzer.Memory:
        """Give the card memory beside the ordinary; it is watched to the end."""
        memory = card_fuzzer.Memory(size)
        self.card.map(iova, memory.address, size, flags)
        memory.freeze(not flags & WRITE)
        self.extra.append(memory)
        return memory

    @property
    def held(self) -> int:
        """How many frames wait in the card."""
        return int(lib.engine_app_held(self.wire.struct))


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as host:
        host.start()
        yield host
        check_is_well(host)
        for memory in host.extra:
            memory.check()


def check_is_well(host: Host) -> None:
    """The card can be made to work again."""
    host.card.reset()
    host.card.unmap_all()
    host.card.map(IOVA, host.memory, SIZE)
    host.card.store(lib.MODEL_CONFIG, 4, b"\x07\x00")
    host.card.plug(True)
    host.sent()
    host.used = 0
    ffi.memmove(host.memory, bytes(SIZE), SIZE)
    rx, tx = host.receive_queue(0, n=8), host.transmit_queue(0, n=8)
    host.start()
    host.arrive([FRAME])
    assert rx.frames() == [FRAME]
    tx.send([FRAME])
    assert host.sent() == [FRAME]


def reasons(host: Host) -> dict[str, int]:
    """Return why something was refused, and how often."""
    return {k: n for k, n in host.counters.items() if k in card_fuzzer.REASONS}


# ---- receive -------------------------------------------------------------------------


def receive(host: Host, n: int = 1, **settings: int) -> ReceiveQueue:
    """Let frames arrive at a good ring, changed by settings."""
    rx = host.receive_queue(0, n=8, **settings)
    host.arrive([FRAME] * n)
    return rx


def at_ring(host: Host, iova: int, *, n: int = 8, tail: int | None = None) -> None:
    """Make a ring anywhere, without writing to it."""
    host.set("RXDCTL", 0)
    host.set("RDBAL", iova & 0xFFFFFFFF)
    host.set("RDBAH", iova >> 32)
    host.set("RDLEN", 16 * n)
    host.set("SRRCTL", 2 | 1 << 25)
    host.set("RXDCTL", 1 << 25)
    host.set("RDT", n - 1 if tail is None else tail)


def post(host: Host, buffer: int) -> ReceiveQueue:
    """Let a frame arrive at a ring that has one buffer."""
    rx = host.receive_queue(0, n=8, post=False)
    host.poke(rx.ring, struct.pack("<QQ", buffer, 0))
    host.set("RDT", 1)
    host.arrive([FRAME])
    return rx


def rx_buffer_outside(host: Host) -> None:
    rx = post(host, NOWHERE)
    assert host.peek(rx.ring + 8, 1)[0] & DD  # as far as the card knows, it is there


def rx_buffer_across_the_end(host: Host) -> None:
    post(host, END - 10)
    assert host.peek(END - 10, 10) == FRAME[:10]


def rx_buffer_at_the_end(host: Host) -> None:
    post(host, END - len(FRAME))
    assert host.peek(END - len(FRAME), len(FRAME)) == FRAME


def rx_buffer_at_2_to_the_64(host: Host) -> None:
    host.add(2**64 - 16, 16, READ | WRITE)
    post(host, 2**64 - 16)


def rx_buffer_read_only(host: Host) -> None:
    host.add(NOWHERE, PAGE, READ)
    post(host, NOWHERE)


def rx_ring_outside(host: Host) -> None:
    at_ring(host, NOWHERE)
    host.arrive([FRAME] * 3)


def rx_ring_across_the_end(host: Host) -> None:
    at_ring(host, END - 128, n=16)
    host.poke(END - 128, struct.pack("<QQ", IOVA, 0) * 8)
    host.arrive([FRAME] * 10)
    assert host.counters["host-packets"] == 8


def rx_ring_read_only(host: Host) -> None:
    memory = host.add(NOWHERE, PAGE, READ)
    memory.poke(0, struct.pack("<QQ", IOVA, 0) * 8)
    at_ring(host, NOWHERE)
    host.arrive([FRAME])


def rx_ring_of_no_length(host: Host) -> None:
    receive(host)
    host.set("RDLEN", 0)
    host.arrive([FRAME] * 3)


def rx_length_under_a_multiple(host: Host) -> None:
    """Rounded down: 7 descriptors are none, 15 are 8."""
    host.poke(IOVA, struct.pack("<QQ", IOVA + PAGE, 0) * 8)
    at_ring(host, IOVA, n=7)
    host.arrive([FRAME])
    at_ring(host, IOVA, n=15, tail=7)
    host.arrive([FRAME])
    assert host.get("RDLEN") == 128


def rx_ring_huge(host: Host) -> None:
    """As long as the register can say: what is not mapped of it is not read."""
    at_ring(host, IOVA, n=1 << 16, tail=65534)
    assert host.get("RDLEN") == 0  # it has one bit more
    last = SIZE // 16 - 1
    host.poke(END - 16, struct.pack("<QQ", IOVA, 0))
    host.set("RXDCTL", 0)
    host.set("RDH", last)
    at_ring(host, IOVA, n=0xFFF80 // 16, tail=65000)
    host.arrive([FRAME] * 3)
    assert host.counters["host-packets"] == 1


def rx_tail_at_the_length(host: Host) -> None:
    receive(host)
    host.set("RDT", 8)
    host.arrive([FRAME] * 3)
    assert host.counters["host-packets"] == 1


def rx_tail_beyond(host: Host) -> None:
    receive(host)
    host.set("RDT", 0xFFFF)
    host.arrive([FRAME] * 3)
    assert host.counters["host-packets"] == 1


def rx_tail_behind_its_back(host: Host) -> None:
    receive(host)
    host.card.registers[offset("RDT") // 4] = 1 << 16
    host.arrive([FRAME] * 3)


def rx_head_beyond(host: Host) -> None:
    host.set("RDH", 100)
    at_ring(host, IOVA)
    host.arrive([FRAME] * 3)


def rx_length_shrunk(host: Host) -> None:
    """The tail, and then the head, lie beyond what is left."""
    host.receive_queue(0, n=64)
    host.arrive([FRAME] * 40)
    host.set("RDLEN", 128)
    host.arrive([FRAME] * 3)
    host.set("RDT", 5)
    host.arrive([FRAME] * 3)
    assert host.counters["host-packets"] == 40


def rx_no_buffer_size(host: Host) -> None:
    receive(host)
    host.set("SRRCTL", 1 << 25)
    host.arrive([FRAME] * 3)


def rx_header_split(host: Host) -> None:
    receive(host)
    for kind in range(2, 8):
        host.set("SRRCTL", 2 | kind << 25)
        host.arrive([FRAME])


def rx_frame_larger_than_the_ring(host: Host) -> None:
    """No number of descriptors would do: it does not wait for ever."""
    host.set("HLREG0", 0x7)
    host.set("MAXFRS", 16128 << 16)
    host.receive_queue(0, n=8, size=1024)
    host.arrive([bytes(9000)])


def rx_lengths(host: Host) -> None:
    host.receive_queue(0)
    host.arrive([b"", bytes(13), bytes(16125), bytes(20000), FRAME])
    assert host.counters["host-packets"] == 1


def rx_lying_offload(host: Host) -> None:
    host.receive_queue(0)
    for metadata in (
        {"gso_type": 1, "gso_size": 0},
        {"gso_type": 77, "gso_size": 100},
        {"gso_type": 4, "gso_size": 100},
        {"flags": 1, "csum_start": 0xFFFF, "csum_offset": 0xFFFF},
        {"flags": 1, "csum_start": 59, "csum_offset": 0},
        {"gso_type": 1, "gso_size": 1, "flags": 1, "csum_start": 34, "csum_offset": 16},
    ):
        host.arrive([FRAME], **metadata)


def rx_unmapped_while_frames_wait(host: Host) -> None:
    rx = host.receive_queue(0, n=8, post=False)
    host.arrive([FRAME] * 3)
    assert host.held == 3
    host.card.unmap_all()
    host.set("RDT", 7)
    host.step()
    assert host.held == 0
    assert not any(host.peek(rx.ring, 128))


# ---- transmit ------------------------------------------------------------------------


def transmit(host: Host, *descriptors: tuple[int, int], n: int = 0) -> None:
    """Put descriptors on a ring; n: frames that go out all the same."""
    host.set("TXDCTL", 0)
    host.step(10**9)  # the wire is free again
    tx = host.transmit_queue(0, n=512)
    for low, high in descriptors:
        tx.put(low, high)
    tx.ring_doorbell()
    assert len(host.sent()) == n


def context(  # noqa: PLR0913 - the fields of a context
    mss: int = 0,
    *,
    mac: int = 14,
    ip: int = 20,
    l4: int = 20,
    kind: int = 1,
    v4: int = 1,
) -> tuple[int, int]:
    high = CONTEXT | v4 << 10 | kind << 11 | l4 << 40 | mss << 48
    return ip | mac << 9, high


def tso(size: int, flags: int = EOP | RS) -> tuple[int, int]:
    return IOVA, DATA | IFCS | TSE | flags | size


def tx_buffer_outside(host: Host) -> None:
    transmit(host, (NOWHERE, DATA_END | 60), (IOVA, DATA_END | 60), n=1)


def tx_buffer_across_the_end(host: Host) -> None:
    transmit(host, (END - 59, DATA_END | 60), (END - 60, DATA_END | 60), n=1)


def tx_second_buffer_outside(host: Host) -> None:
    transmit(host, (IOVA, DATA | IFCS | 30), (NOWHERE, DATA_END | 30))


def tx_buffer_write_only(host: Host) -> None:
    host.add(NOWHERE, PAGE, WRITE)
    transmit(host, (NOWHERE, DATA_END | 60))


def tx_ring_outside(host: Host) -> None:
    host.set("TDBAL", 0)
    host.set("TDBAH", NOWHERE >> 32)
    host.set("TDLEN", 128)
    host.set("TXDCTL", 1 << 25)
    for tail in (1, 2, 3):
        host.set("TDT", tail)
        assert host.sent() == []


def tx_ring_across_the_end(host: Host) -> None:
    host.poke(END - 128, struct.pack("<QQ", IOVA, DATA_END | 60) * 8)
    at = END - 128
    for name, value in (("TDBAL", at & 0xFFFFFFFF), ("TDBAH", at >> 32)):
        host.set(name, value)
    host.set("TDLEN", 256)
    host.set("TXDCTL", 1 << 25)
    host.set("TDT", 10)
    assert len(host.sent()) == 8


def tx_ring_read_only(host: Host) -> None:
    """It is sent, and nobody is told."""
    memory = host.add(1 << 32, PAGE, READ)
    memory.poke(0, struct.pack("<QQ", IOVA, DATA_END | 60))
    host.set("TDBAH", 1)
    host.set("TDLEN", 128)
    host.set("TXDCTL", 1 << 25)
    host.set("TDT", 1)
    assert len(host.sent()) == 1


def tx_head_written_outside(host: Host) -> None:
    host.set("TDWBAH", NOWHERE >> 32)
    host.set("TDWBAL", 1)
    transmit(host, (IOVA, DATA_END | 60), n=1)


def tx_ring_of_no_length(host: Host) -> None:
    tx = host.transmit_queue(0)
    host.set("TDLEN", 0)
    tx.send([FRAME])
    assert host.sent() == []


def tx_tail_at_the_length(host: Host) -> None:
    host.transmit_queue(0, n=8)
    host.set("TDT", 8)
    assert host.sent() == []


def tx_tail_beyond(host: Host) -> None:
    host.transmit_queue(0, n=8)
    for tail in (9, 0xFFFF):
        host.set("TDT", tail)
        assert host.sent() == []


def tx_head_beyond(host: Host) -> None:
    host.transmit_queue(0, n=8)
    host.set("TXDCTL", 0)
    host.set("TDH", 100)
    host.set("TXDCTL", 1 << 25)
    host.set("TDT", 1)
    assert host.sent() == []


def tx_length_shrunk(host: Host) -> None:
    """The head lies beyond what is left."""
    tx = host.transmit_queue(0, n=64)
    tx.send([FRAME] * 40)
    assert len(host.sent()) == 40
    host.set("TDLEN", 128)
    host.set("TDT", 1)
    assert host.sent() == []


def tx_lengths(host: Host) -> None:
    """Under 17 bytes the real one hangs (8.2.3.8.8); 65535 is all a field can say."""
    wrong = [(IOVA, DATA_END | n) for n in (0, 1, 16, 16125, 16384, 65535)]
    transmit(host, *wrong, (IOVA, DATA_END | 17), (IOVA, DATA_END | 16124), n=2)


def tx_legacy(host: Host) -> None:
    """Checksums from and to places that are not in the frame."""
    legacy = 60 | EOP | IFCS | RS | IC
    transmit(
        host,
        (IOVA, legacy | 59 << 16),
        (IOVA, legacy | 255 << 16),
        (IOVA, legacy | 60 << 40 | 20 << 16),
        (IOVA, legacy | 255 << 40 | 255 << 16),
        (IOVA, legacy | 58 << 16 | 59 << 40),
        n=1,
    )


def tx_without_end(host: Host) -> None:
    """Nothing is sent before there is an EOP, and the worker may sleep until then."""
    tx = host.transmit_queue(0, n=64)
    for _ in range(63):
        tx.put(IOVA, DATA | IFCS | 100)
    tx.ring_doorbell()
    assert host.sent() == []
    assert host.get("TDH") == 0
    assert host.wire.arm() == lib.ARM_READY


def tx_of_another_type(host: Host) -> None:
    for kind in (0, 1, 4, 15):
        transmit(host, (IOVA, DATA_END & ~(15 << 20) | kind << 20 | 60))


def tx_checksum_outside(host: Host) -> None:
    """Contexts that put headers behind the frame, over each other, or nowhere."""
    sums = DATA_END | 60 | IXSM | TXSM
    for wrong in (
        context(mac=127, ip=511),
        context(mac=14, ip=19),
        context(mac=0, ip=0),
        context(mac=14, ip=46),
        context(mac=14, ip=45),
        context(kind=3),
        context(mac=14, ip=40, kind=2),
    ):
        transmit(host, wrong, (IOVA, sums))
    transmit(host, context(mac=0, ip=40), (IOVA, sums), n=1)  # sums anywhere within


def tx_context_alone(host: Host) -> None:
    transmit(host, *[(2**64 - 1, CONTEXT | 0xFFFF << 48 | 255 << 40)] * 500)


def tx_segments_of_nonsense(host: Host) -> None:
    for wrong in (
        context(0),
        context(65535),
        context(16124),
        context(100, l4=19),
        context(100, l4=255, ip=511, mac=127),
        context(100, mac=13),
        context(100, ip=19),
        context(100, v4=0),
        context(100, kind=2),
        context(100, kind=3),
    ):
        transmit(host, wrong, tso(800))
    transmit(host, context(100), tso(54))  # no payload


def tx_segments_too_many(host: Host) -> None:
    """One byte each: 1024 of them, and no more."""
    transmit(host, context(1), tso(54 + 1024), n=1024)
    transmit(host, context(1), tso(54 + 1025))


def tx_256_kib(host: Host) -> None:
    """What PAYLEN can say is sent, what it cannot is not."""
    parts = [tso(65535, 0)] * 3
    transmit(host, context(1460), *parts, tso(65535), n=-(-(4 * 65535 - 54) // 1460))
    transmit(host, context(1460), *parts * 2, tso(65535))


def tx_no_packets_left(host: Host) -> None:
    taken = []
    while packet := lib.engine_packet_alloc(host.wire.freelist, 60):
        taken.append(packet)
    transmit(host, (IOVA, DATA_END | 60), context(100), tso(254))
    for packet in taken:
        lib.engine_packet_free(host.wire.freelist, packet)


def tx_unmapped_while_frames_wait(host: Host) -> None:
    tx = host.transmit_queue(0)
    tx.send([bytes(1514)] * 20)
    host.step(1)
    host.card.unmap_all()
    host.sent()
    tx.ring_doorbell()
    assert host.sent() == []


# ---- the table -----------------------------------------------------------------------

BAD_RING = {"bad-ring": 1}
READ_UNMAPPED = {"dma-read-unmapped": 1}
WRITE_UNMAPPED = {"dma-write-unmapped": 1}
NO_DESCRIPTOR = "drop-rx-no-descriptor"

CASES: tuple[tuple[Callable[[Host], None], dict[str, int]], ...] = (
    (rx_buffer_outside, WRITE_UNMAPPED),
    (rx_buffer_across_the_end, WRITE_UNMAPPED),
    (rx_buffer_at_the_end, {}),
    (rx_buffer_at_2_to_the_64, WRITE_UNMAPPED),
    (rx_buffer_read_only, WRITE_UNMAPPED),
    (rx_ring_outside, {"dma-read-unmapped": 3, NO_DESCRIPTOR: 3}),
    (rx_ring_across_the_end, {"dma-read-unmapped": 2, NO_DESCRIPTOR: 2}),
    (rx_ring_read_only, {"dma-write-unmapped": 3}),
    (rx_ring_of_no_length, BAD_RING),
    (rx_length_under_a_multiple, BAD_RING),
    (rx_ring_huge, {"dma-read-unmapped": 2, NO_DESCRIPTOR: 2}),
    (rx_tail_at_the_length, BAD_RING),
    (rx_tail_beyond, BAD_RING),
    (rx_tail_behind_its_back, BAD_RING),
    (rx_head_beyond, BAD_RING),
    (rx_length_shrunk, {"bad-ring": 2}),
    (rx_no_buffer_size, {"header-split-refused": 3}),
    (rx_header_split, {"header-split-refused": 6}),
    (rx_frame_larger_than_the_ring, {NO_DESCRIPTOR: 1}),
    (rx_lengths, {"drop-rx-bad-length": 4}),
    (rx_lying_offload, {"drop-rx-bad-offload": 6}),
    (rx_unmapped_while_frames_wait, {"dma-read-unmapped": 3, NO_DESCRIPTOR: 3}),
    (tx_buffer_outside, {**READ_UNMAPPED, "drop-tx-bad-descriptor": 1}),
    (tx_buffer_across_the_end, {**READ_UNMAPPED, "drop-tx-bad-descriptor": 1}),
    (tx_second_buffer_outside, {**READ_UNMAPPED, "drop-tx-bad-descriptor": 1}),
    (tx_buffer_write_only, {**READ_UNMAPPED, "drop-tx-bad-descriptor": 1}),
    (tx_ring_outside, READ_UNMAPPED),
    (tx_ring_across_the_end, READ_UNMAPPED),
    (tx_ring_read_only, WRITE_UNMAPPED),
    (tx_head_written_outside, WRITE_UNMAPPED),
    (tx_ring_of_no_length, BAD_RING),
    (tx_tail_at_the_length, BAD_RING),
    (tx_tail_beyond, {"bad-ring": 2}),
    (tx_head_beyond, BAD_RING),
    (tx_length_shrunk, BAD_RING),
    (tx_lengths, {"drop-tx-bad-length": 6}),
    (tx_legacy, {"drop-tx-bad-descriptor": 4}),
    (tx_without_end, {}),
    (tx_of_another_type, {"drop-tx-bad-descriptor": 4}),
    (tx_checksum_outside, {"drop-tx-bad-descriptor": 7}),
    (tx_context_alone, {}),
    (tx_segments_of_nonsense, {"drop-tx-bad-descriptor": 11}),
    (tx_segments_too_many, {"drop-tx-bad-descriptor": 1}),
    (tx_256_kib, {"drop-tx-bad-length": 1}),
    (tx_no_packets_left, {"drop-tx-no-packet": 3}),
    (tx_unmapped_while_frames_wait, READ_UNMAPPED),
)


@pytest.mark.parametrize(
    ("act", "expected"), [pytest.param(*case, id=case[0].__name__) for case in CASES]
)
def test_it_is_counted(
    host: Host, act: Callable[[Host], None], expected: dict[str, int]
) -> None:
    act(host)
    assert reasons(host) == expected
    assert host.is_guarded()


# ---- registers and regions -----------------------------------------------------------

SIZES = {0: 131072, 2: 32, 4: 16384, 7: 4096}
BAD_SIZE, OUTSIDE = {"mmio-bad-size": 1}, {"mmio-outside": 1}


WRONG = (
    *((region, SIZES[region], 4, OUTSIDE) for region in SIZES),
    *((region, SIZES[region] - 1, 2, OUTSIDE) for region in SIZES),
    *((region, 2**64 - 4, 4, OUTSIDE) for region in SIZES),
    *((region, 2**64 - 1, 8, OUTSIDE) for region in SIZES),
    *((region, 0, SIZES[region] + 1, OUTSIDE) for region in SIZES),
    *((region, 0, 4, OUTSIDE) for region in (1, 3, 5, 6, 8, 9, 2**32 - 1)),
    *((region, 0, n, BAD_SIZE) for region in (0, 2, 4) for n in (0, 3, 5, 6, 7, 16)),
    *((region, 2, 4, BAD_SIZE) for region in (0, 2, 4)),
    *((region, 4, 8, BAD_SIZE) for region in (0, 2, 4)),
    *((region, 1, 2, BAD_SIZE) for region in (0, 2, 4)),
)


@pytest.mark.parametrize(("region", "at", "n", "expected"), WRONG)
def test_reads_of_wrong_size_or_place_are_refused(
    host: Host, region: int, at: int, n: int, expected: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match=f"{n} bytes"):
        host.card.access(region, at, n)
    assert reasons(host) == expected


@pytest.mark.parametrize(("region", "at", "n", "expected"), WRONG)
def test_writes_of_wrong_size_or_place_are_refused(
    host: Host, region: int, at: int, n: int, expected: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match=f"{n} bytes"):
        host.card.store(region, at, bytes(n))
    assert reasons(host) == expected


def test_narrow_writes_to_registers_are_ignored(host: Host) -> None:
    before = host.get("VLNCTRL")
    for n in (1, 2):
        host.card.store(0, offset("VLNCTRL"), b"\xff" * n)
    assert host.get("VLNCTRL") == before
    assert reasons(host) == {"mmio-bad-size": 2}


def test_io_reaches_no_further_than_the_registers(host: Host) -> None:
    for address in (2, 0x20000, 2**32 - 4):
        host.card.store(2, 0, struct.pack("<I", address))
        assert host.card.access(2, 4, 4) == bytes(4)
        host.card.store(2, 4, b"\xff" * 4)
    assert host.card.access(2, 8, 4) == bytes(4)
    assert reasons(host) == {"mmio-outside": 6, "mmio-bad-size": 1}


def test_configuration_space_takes_any_size(host: Host) -> None:
    whole = host.card.access(7, 0, 4096)
    assert host.card.access(7, 4093, 3) == whole[4093:]
    assert host.card.access(7, 5, 0) == b""
    host.card.store(7, 0, b"\xff" * 4096)  # asks for a reset as well
    assert host.card.access(7, 0, 4) == whole[:4]
    assert reasons(host) == {}


def test_registers_that_are_none_read_zero(host: Host) -> None:
    for at in (1, 2, 0x20000, 2**32 - 4):
        assert host.card.read(at) == 0
        host.card.write(at, 2**32 - 1)
    assert reasons(host) == {"mmio-bad-size": 4, "mmio-outside": 4}


# ---- memory --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("iova", "size", "flags"),
    [
        (0, 0, 3),
        (2**64 - 1, 2, 3),
        (2, 2**64 - 1, 3),
        (0, 16, 0),
        (0, 16, 4),
        (0, 16, 7),
    ],
)
def test_regions_that_make_no_sense_are_refused(
    host: Host, iova: int, size: int, flags: int
) -> None:
    with pytest.raises(OSError, match="Invalid") as caught:
        host.card.map(iova, host.memory, size, flags)
    assert caught.value.errno == errno.EINVAL
    assert host.card.nregions == 1


@pytest.mark.parametrize(
    ("iova", "size"),
    [
        (IOVA, 1),
        (END - 1, 1),
        (END - 1, 99),
        (IOVA - 1, 2),
        (0, 2**64 - 1),
        (IOVA, SIZE),
    ],
)
def test_regions_do_not_overlap(host: Host, iova: int, size: int) -> None:
    with pytest.raises(FileExistsError):
        host.card.map(iova, host.memory, size)
    assert host.card.nregions == 1


@pytest.mark.parametrize(
    ("iova", "size"), [(IOVA, SIZE - 1), (IOVA + 1, SIZE), (IOVA + 1, 1), (0, IOVA + 1)]
)
def test_a_region_is_taken_away_whole(host: Host, iova: int, size: int) -> None:
    with pytest.raises(OSError, match="Invalid"):
        host.card.unmap(iova, size)
    assert host.card.nregions == 1


def test_a_card_without_regions_has_none_taken_away() -> None:
    with Card() as card:
        assert card.unmap(0, 2**64 - 1) == 0
        card.unmap_all()
        assert card.nregions == 0


def test_65536_regions_and_no_more(host: Host) -> None:
    first = host.receive_queue(0, n=8, post=False)
    n = lib.MODEL_REGIONS_MAX - 1
    memory = host.add(0, 8, READ | WRITE)
    for i in range(1, n):
        host.card.map(16 * i, memory.address, 8)
    with pytest.raises(OSError, match="space") as caught:
        host.card.map(16 * n, memory.address, 8)
    assert caught.value.errno == errno.ENOSPC
    # a buffer of which 8 bytes are there
    host.poke(first.ring, struct.pack("<QQ", 16 * (n - 1), 0))
    host.set("RDT", 1)
    host.arrive([FRAME])
    assert reasons(host) == {"dma-write-unmapped": 1}
    assert bytes(ffi.buffer(memory.address, 8)) == FRAME[:8]
    assert host.card.unmap(0, 16 * n) == n


def test_neighbours_are_one_memory_to_the_card(host: Host) -> None:
    """Rings and buffers go on from one region into the next, wherever that lies."""
    pieces = [card_fuzzer.Memory(30), card_fuzzer.Memory(1), card_fuzzer.Memory(100)]
    at = NOWHERE
    for piece in pieces:
        host.card.map(at, piece.address, piece.size)
        at += piece.size
    post(host, NOWHERE)
    assert reasons(host) == {}
    data = b"".join(bytes(ffi.buffer(p.address, p.size)) for p in pieces)
    assert data[:60] == FRAME
    for piece in pieces:
        piece.check()


@contextlib.contextmanager
def guest_file(size: int, flags: int = 0) -> Iterator[int]:
    fd = os.memfd_create("guest", flags)
    os.ftruncate(fd, size)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.mark.parametrize("left", [0, 1, PAGE, 2 * PAGE + 1])
def test_a_file_shrinks_under_rings_and_buffers(host: Host, left: int) -> None:
    """The card reads zeros there and what it writes is lost; the process lives."""
    with guest_file(16 * PAGE) as fd:
        host.card.map_file(NOWHERE, 16 * PAGE, fd, 0)
        before = lib.guard_total()
        os.pwrite(fd, struct.pack("<QQ", NOWHERE + 8 * PAGE, DATA_END | 60) * 8, PAGE)
        os.pwrite(fd, struct.pack("<QQ", NOWHERE + 9 * PAGE, 0) * 8, 3 * PAGE)
        at_ring(host, NOWHERE + 3 * PAGE)
        for name, value in (("TDBAL", PAGE), ("TDBAH", NOWHERE >> 32), ("TDLEN", 128)):
            host.set(name, value)
        host.set("TXDCTL", 1 << 25)
        host.set("TDT", 2)
        host.arrive([FRAME])
        assert len(host.sent()) == 2
        assert os.pread(fd, 60, 9 * PAGE) == FRAME
        os.ftruncate(fd, left)
        host.set("TDT", 6)
        host.arrive([FRAME] * 3)
        host.sent()
        assert lib.guard_total() > before
        assert os.fstat(fd).st_size == left
        assert reasons(host).keys() <= {
            *("drop-tx-bad-length", "dma-write-unmapped", "drop-tx-bad-descriptor")
        }
        assert host.card.unmap(NOWHERE, 16 * PAGE) == 1


def test_files_that_cannot_be_memory_are_refused(host: Host) -> None:
    read, write = os.pipe()
    directory = os.open("/", os.O_RDONLY)
    with guest_file(2 * PAGE) as fd:
        only_read = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        cases = (
            (errno.EFBIG, (NOWHERE, 2 * PAGE + 1, fd, 0)),
            (errno.EFBIG, (NOWHERE, PAGE, fd, 2 * PAGE)),
            (errno.EFBIG, (NOWHERE, PAGE, fd, 2**64 - PAGE)),
            (errno.EFBIG, (NOWHERE, 2**63, fd, 0)),
            (errno.EINVAL, (NOWHERE, PAGE, fd, 1)),
            (errno.EINVAL, (NOWHERE, 0, fd, 0)),
            (errno.EINVAL, (NOWHERE, PAGE, fd, 0, 0)),
            (errno.EINVAL, (NOWHERE, PAGE, read, 0)),
            (errno.EINVAL, (NOWHERE, PAGE, directory, 0)),
            (errno.EACCES, (NOWHERE, PAGE, only_read, 0)),
            (errno.EEXIST, (IOVA, PAGE, fd, 0)),
            (errno.EBADF, (NOWHERE, PAGE, -1, 0)),
        )
        try:
            for number, arguments in cases:
                with pytest.raises(OSError, match=re.escape(os.strerror(number))):
                    host.card.map_file(*arguments)
            host.card.map_file(NOWHERE, PAGE, only_read, 0, READ)
            host.card.unmap_all()
        finally:
            for other in (read, write, directory, only_read):
                os.close(other)


@pytest.mark.need("hugepages")
def test_a_part_of_a_huge_page_is_given_back(host: Host) -> None:
    """Of a mapping of huge pages the system takes whole ones alone."""
    with guest_file(HUGE, os.MFD_HUGETLB) as fd:
        for size in (1, PAGE, HUGE):
            host.card.map_file(NOWHERE, size, fd, 0)
            assert host.card.unmap(NOWHERE, size) == 1
        maps = Path("/proc/self/maps").read_text()
        assert "memfd:guest" not in maps


# ---- mastering, resets ---------------------------------------------------------------


@pytest.mark.parametrize("way", ["command", "GIO_DIS"])
def test_without_bus_mastering_memory_is_left_alone(host: Host, way: str) -> None:
    def master(on: bool) -> None:
        if way == "command":
            host.card.store(7, 4, b"\x07\x00" if on else b"\x03\x00")
        else:
            host.set("CTRL", 0 if on else 1 << 2)

    rx, tx = host.receive_queue(0), host.transmit_queue(0)
    tx.put_frame(FRAME)
    memory = bytes(ffi.buffer(host.memory, SIZE))
    master(False)
    host.arrive([FRAME] * 3)
    tx.ring_doorbell()
    assert host.sent() == []
    assert bytes(ffi.buffer(host.memory, SIZE)) == memory
    assert host.held == 3
    master(True)
    assert host.sent() == [FRAME]
    assert rx.frames() == [FRAME] * 3
    assert reasons(host) == {}


def reset_by_flr(host: Host) -> None:
    host.card.store(7, 0xA8, b"\x00\x80")


def reset_by_power(host: Host) -> None:
    host.card.store(7, 0x44, b"\x03\x00")
    host.card.store(7, 0x44, b"\x00\x00")


RESETS: tuple[Callable[[Host], None], ...] = (
    lambda host: host.set("CTRL", 1 << 26),
    lambda host: host.set("CTRL", 1 << 3),
    lambda host: host.card.reset(),
    reset_by_flr,
    reset_by_power,
)


@pytest.mark.parametrize(
    "reset", RESETS, ids=["RST", "LRST", "reset", "FLR", "D3hot to D0"]
)
def test_a_reset_finds_frames_waiting(
    host: Host, reset: Callable[[Host], None]
) -> None:
    host.receive_queue(0, n=8, post=False)
    tx = host.transmit_queue(0)
    host.arrive([FRAME] * 5)
    tx.send([bytes(1514)] * 20)
    host.step(1)
    assert host.held == 5
    memory = bytes(ffi.buffer(host.memory, SIZE))
    reset(host)
    host.step()
    assert host.held == 0
    host.set("RDT", 7)
    host.set("TDT", 5)
    host.wire.received()
    assert host.sent() == []
    assert bytes(ffi.buffer(host.memory, SIZE)) == memory


# ---- time and signals ----------------------------------------------------------------


def test_the_wire_outlives_any_uptime(host: Host) -> None:
    """In picoseconds its time would have come round after 213 days."""
    tx = host.transmit_queue(0)
    for days in (212, 1.4, 0.3, 20000):
        tx.send([FRAME])
        assert host.sent() == [FRAME]
        host.step(int(days * 86400 * 10**9))


@pytest.mark.parametrize("index", [0, 1, 2], ids=["INTx", "MSI", "MSI-X"])
def test_an_eventfd_that_is_full_and_blocks_holds_nobody_up(
    host: Host, index: int
) -> None:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        host.card.set_interrupt(index, 0, fd)
        os.eventfd_write(fd, 2**64 - 2)
        os.set_blocking(fd, True)  # it is shared with whoever gave it
        host.set("GPIE", 1 << 4 if index == 2 else 0)
        host.set("IVAR", 0x80)
        for _ in range(100):  # more than a kernel keeps completions
            host.set("EIMS", 1)
            host.card.unmask_intx()
            host.set("EICS", 1)
            host.step()
        assert host.counters["interrupts"] >= 100
        host.card.set_interrupt(index, 0, -1)
        assert os.eventfd_read(fd) >= 2**64 - 2
    finally:
        os.close(fd)


def test_only_eventfds_are_signalled(host: Host) -> None:
    with guest_file(PAGE) as fd:
        host.card.set_interrupt(2, 0, fd)
        host.set("GPIE", 1 << 4)
        host.set("EIMS", 1)
        host.set("EICS", 1)
        host.step()
        host.card.set_interrupt(2, 0, -1)
        assert os.pread(fd, 8, 0) == bytes(8)
    assert host.counters["interrupts"] == 1


def test_thousands_of_files_are_given_back() -> None:
    with Card() as card, guest_file(PAGE) as fd:
        for _ in range(2):
            for i in range(5000):
                card.map_file(PAGE * i, PAGE, fd, 0)
            assert card.unmap(0, PAGE * 4000) == 4000
            assert Path("/proc/self/maps").read_text().count("memfd:guest") == 1000
            card.unmap_all()
            assert card.nregions == 0
            assert "memfd:guest" not in Path("/proc/self/maps").read_text()


# ---- whatever comes ------------------------------------------------------------------


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    actions=st.sets(st.integers(0, 400), max_size=60).map(sorted),
)
def test_a_card_survives_a_hostile_host(seed: int, actions: list[int]) -> None:
    run_episode(card_fuzzer.Episode, seed, actions)


@settings(max_examples=5)
@given(
    seed=st.integers(0, 2**32 - 1),
    actions=st.sets(st.integers(0, 400), max_size=30).map(sorted),
)
def test_a_server_survives_hostile_clients(seed: int, actions: list[int]) -> None:
    run_episode(vfio_fuzzer.Episode, seed, actions)
