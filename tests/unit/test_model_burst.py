"""Bursts of the software 82599: where they end, and what they must not touch.

That bursts do what single frames do is `tests/property/test_card_bursts`.
"""

import struct
from collections.abc import Iterator

import pytest

from snabb_py._native import ffi, lib
from snabb_py.apps.traffic import udp_frames
from snabb_py.nic.model82599 import MAC_PREFIX, Card
from tests.card_host import DATA, EOP, IFCS, RS, CardHost, ReceiveQueue, Status

MAC = MAC_PREFIX + b"\x01"
TAG = bytes.fromhex("8100 0005")
PATTERN = b"\xc3"
BURST = 64  #: MODEL_BURST
LINK = lib.LINK_CAPACITY
#: Two neighbours for the card that lie apart in the host.
SPLIT, PIECE = 0x50_0000_0000, 4096


@pytest.fixture
def host() -> Iterator[CardHost]:
    with CardHost(card=Card(paced=False), packets=4096) as host:
        host.start()
        yield host


def frame(number: int, n: int = 60) -> bytes:
    """Return a UDP frame of n bytes that bears a number, with right checksums."""
    template = udp_frames(n + 4, src_port=1000 + number, stamp=False)[0]
    return bytes(template.frame[:n])


def tagged(data: bytes) -> bytes:
    return data[:12] + TAG + data[12:]


def place(rx: ReceiveQueue, addresses: list[int]) -> None:
    """Post descriptors with addresses of the test's own."""
    for address in addresses:
        rx.host.poke(rx.ring + 16 * rx.tail, struct.pack("<QQ", address, 0))
        rx.tail = (rx.tail + 1) % rx.n
    rx.host.set("RDT", rx.tail, rx.number)


# -- receive ---------------------------------------------------------------------------


@pytest.mark.parametrize("n", [8, 64, 96, 128])
def test_frames_come_around_the_ring_s_end(host: CardHost, n: int) -> None:
    rx = host.receive_queue(0, n=n)
    frames = [frame(i) for i in range(5 * n)]
    for first in range(0, len(frames), n - 3):
        some = frames[first : first + n - 3]
        host.arrive(some)
        assert rx.frames() == some
    assert host.get("RDH") == len(frames) % n


@pytest.mark.parametrize("n", [60, 61, 63, 64, 65, 95, 127, 128, 129, 1000, 1514])
@pytest.mark.parametrize("shift", [0, 2, 30, 62])
def test_nothing_is_written_beside_a_frame(host: CardHost, n: int, shift: int) -> None:
    rx = host.receive_queue(0, post=False)
    buffers = [host.allocate(4096, 64) for _ in range(4)]
    for at in buffers:
        host.poke(at, PATTERN * 4096)
    place(rx, [at + 64 + shift for at in buffers])
    host.arrive([frame(i, n) for i in range(4)])
    for i, at in enumerate(buffers):
        before, after = PATTERN * (64 + shift), PATTERN * (4096 - 64 - shift - n)
        assert host.peek(at, 4096) == before + frame(i, n) + after


def test_a_burst_goes_on_behind_a_frame_that_is_not_plain(host: CardHost) -> None:
    rx = host.receive_queue(0, n=256, size=2048)
    frames = [frame(i) for i in range(200)]
    for i in (0, 1, 63, 64, 100, 199):
        frames[i] = tagged(frames[i])
    host.arrive(frames)
    parts = rx.take()
    assert [part.data for part in parts] == frames
    assert [Status.VP in part.status for part in parts] == [
        len(data) > len(frame(0)) for data in frames
    ]


def test_descriptors_run_out_in_the_middle(host: CardHost) -> None:
    """What finds none waits, and comes in its turn."""
    rx = host.receive_queue(0, n=128, post=False)
    rx.post(70)
    frames = [frame(i) for i in range(100)]
    host.arrive(frames)
    assert host.get("RDH") == 70
    assert rx.frames() == frames[:70]
    host.step()
    assert rx.frames() == frames[70:]


def test_descriptors_run_out_and_the_rest_is_dropped(host: CardHost) -> None:
    rx = host.receive_queue(0, n=128, post=False, drop=True)
    rx.post(70)
    frames = [frame(i) for i in range(100)]
    host.arrive(frames)
    assert rx.frames() == frames[:70]
    assert host.counters["drop-rx-no-descriptor"] == 30


def test_a_buffer_may_lie_in_two_regions(host: CardHost) -> None:
    pieces = [ffi.new("uint8_t[]", PATTERN * 3 * PIECE) for _ in range(2)]
    for i, piece in enumerate(pieces):
        host.card.map(SPLIT + i * PIECE, piece + PIECE, PIECE)
    rx = host.receive_queue(0, post=False)
    place(rx, [rx.buffers[0], SPLIT + PIECE - 22, rx.buffers[2]])
    host.arrive([frame(i) for i in range(3)])
    assert host.peek(rx.buffers[2], 60) == frame(2)
    first, second = (bytes(ffi.buffer(piece, 3 * PIECE)) for piece in pieces)
    assert first == PATTERN * (2 * PIECE - 22) + frame(1)[:22] + PATTERN * PIECE
    assert second == PATTERN * PIECE + frame(1)[22:] + PATTERN * (2 * PIECE - 38)


def test_a_tail_that_is_none_ends_a_burst(host: CardHost) -> None:
    rx = host.receive_queue(0, n=64)
    host.arrive([frame(0)])
    host.set("RDT", 64)
    host.arrive([frame(1), frame(2)])
    host.arrive([frame(3)])
    assert host.counters["bad-ring"] == 1
    host.set("RDT", rx.tail)
    host.step()
    assert rx.frames() == [frame(i) for i in range(4)]


def test_memory_that_is_gone_is_not_written_to(host: CardHost) -> None:
    """A ring is looked for again when regions change."""
    memory = ffi.new("uint8_t[]", 2 * PIECE)
    host.card.map(SPLIT, memory, 2 * PIECE)
    rx = host.receive_queue(0, n=8, post=False)
    host.set("RDBAH", SPLIT >> 32)
    host.set("RDBAL", 0)
    descriptors = struct.pack("<QQ", rx.buffers[0], 0) * 8
    ffi.memmove(memory, descriptors, len(descriptors))
    host.set("RDT", 7)
    host.arrive([frame(0)])
    assert bytes(memory[0:16]) != descriptors[:16]
    host.card.unmap(SPLIT, 2 * PIECE)
    host.arrive([frame(1)])
    assert bytes(ffi.buffer(memory, 128))[16:] == descriptors[16:]
    assert host.counters["drop-rx-no-descriptor"] == 1


# -- transmit --------------------------------------------------------------------------


def test_a_link_shorter_than_a_burst(host: CardHost) -> None:
    tx = host.transmit_queue(0, n=2048)
    frames = [frame(i % 500) for i in range(LINK + BURST // 2)]
    tx.send(frames[:-BURST])
    host.step()
    tx.send(frames[-BURST:])
    host.step()
    assert host.get("TDH") == LINK
    assert host.wire.received() == frames[:LINK]
    assert host.sent() == frames[LINK:]


def test_frames_leave_around_the_ring_s_end(host: CardHost) -> None:
    tx = host.transmit_queue(0, n=64)
    for first in range(0, 300, 60):
        frames = [frame(i) for i in range(first, first + 60)]
        tx.send(frames)
        assert host.sent() == frames
        assert tx.is_done((first + 59) % 64)


def test_a_frame_to_be_edited_in_the_middle(host: CardHost) -> None:
    tx = host.transmit_queue(0, n=128)
    frames = [frame(i) for i in range(20)]
    for i, data in enumerate(frames):
        tx.put_frame(data, pieces=3 if i in {0, 7, 19} else 1)
    tx.ring_doorbell()
    assert host.sent() == frames


@pytest.mark.parametrize("n", [32, 33, 59, 60, 61, 64, 100, 1514])
def test_frames_are_read_from_any_place(host: CardHost, n: int) -> None:
    """Up to the last byte that there is, and short ones are filled up."""
    tx = host.transmit_queue(0)
    end = host.allocate(4096) + 4096
    host.card.unmap_all()
    used = end - 0x40_0000_0000
    host.card.map(0x40_0000_0000, host.memory, used)
    data = bytes(range(1, 256)) * 6
    host.poke(end - n, data[:n])
    tx.put(end - n, n | DATA | IFCS | EOP | RS | n << 46)
    tx.ring_doorbell()
    assert host.sent() == [data[:n].ljust(60, b"\0")]


def test_only_what_asks_for_it_is_reported(host: CardHost) -> None:
    tx = host.transmit_queue(0, n=128)
    for i in range(100):
        data = frame(i)
        tx.put(tx.buffer(data), len(data) | DATA | IFCS | EOP | (i % 32 == 31) * RS)
    tx.ring_doorbell()
    host.sent()
    assert [i for i in range(100) if tx.is_done(i)] == [31, 63, 95]


def test_a_wire_of_10_gbps_takes_as_much_as_before() -> None:
    """A burst ends where the wire is busy: 67.2 ns a frame."""
    with CardHost(packets=2048) as host:
        host.start()
        tx = host.transmit_queue(0, n=1024)
        host.step(1000)
        tx.send([frame(0)] * 1000)
        host.step(6720)
        assert 100 <= len(host.wire.received()) <= 101
        host.step(67200 - 6720)
        assert 899 <= len(host.wire.received()) <= 901
