"""The software 82599 as a whole: packet buffer, flow control, loops, statistics, wire.

Its receiver, its pools and its transmitter have files of their own beside this one, its
registers tests/conformance/test_card_registers.py.
"""

import errno
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from snabb_py._native import ffi, lib
from snabb_py.nic.model82599 import MAC_PREFIX, READ, WRITE, Card
from tests.card_host import DATA, EOP, IFCS, IOVA, RS, CardHost, Status

MAC = MAC_PREFIX + b"\x01"
OTHER = bytes.fromhex("020000000001")
BROADCAST, GROUP = b"\xff" * 6, bytes.fromhex("01005e010203")
FCS = 4
RX_MISS = 1 << 17
ONES = 0xFFFFFFFF


@pytest.fixture
def host() -> Iterator[CardHost]:
    with CardHost(packets=2048) as host:
        host.start()
        yield host


def plain(n: int = 60, seed: int = 0, destination: bytes = MAC) -> bytes:
    return (destination + OTHER + struct.pack("!HH", 0x88B5, seed) + bytes(16128))[:n]


def numbered(count: int, n: int = 60) -> list[bytes]:
    return [plain(n, seed) for seed in range(count)]


# -- the packet buffer: 3.7.7 ----------------------------------------------------------


@pytest.fixture
def pools(host: CardHost) -> CardHost:
    """Return a host with two pools: the card's own address, and broadcast."""
    host.set("PFVTCTL", 1 | 1 << 29 | 1 << 30)
    host.set("MRQC", 8)
    host.set("PFVFRE", 3)
    host.set("FCTRL", 0)
    host.set("PFVML2FLT", 1 << 24, 0)
    host.set("PFVML2FLT", 1 << 24 | 1 << 27, 1)
    return host


FIRST = plain()
SECOND = plain(60, 0, BROADCAST)


def test_a_queue_without_descriptors_holds_up_the_others(pools: CardHost) -> None:
    full, free = pools.receive_queue(0, post=False), pools.receive_queue(2)
    pools.arrive([SECOND, FIRST, SECOND])
    assert free.frames() == [SECOND]
    full.post(1)
    pools.step()
    assert full.frames() == [FIRST]
    assert free.frames() == [SECOND]


@pytest.mark.parametrize("by", ["SRRCTL.DROP_EN", "PFQDE"])
def test_a_queue_that_drops_does_not(pools: CardHost, by: str) -> None:
    pools.receive_queue(0, post=False, drop=by == "SRRCTL.DROP_EN")
    free = pools.receive_queue(2)
    if by == "PFQDE":
        pools.set("PFQDE", 1 << 16 | 1)
    pools.arrive([FIRST, SECOND, FIRST])
    assert free.frames() == [SECOND]
    assert pools.counters["drop-rx-no-descriptor"] == 2
    assert pools.get("QPRDC") == 2


def test_a_frame_of_several_pools_waits_for_those_that_lack_descriptors(
    pools: CardHost,
) -> None:
    pools.set("MPSAR_LO", 3)
    full, free = pools.receive_queue(0, post=False), pools.receive_queue(2)
    pools.arrive([FIRST])
    for _ in range(3):
        assert free.frames() in ([FIRST], [])
        pools.step()
    full.post(1)
    pools.step()
    assert (full.frames(), free.frames()) == ([FIRST], [])
    assert pools.counters["host-packets"] == 2


def test_behind_another_frame_it_is_written_once_to_each_too(pools: CardHost) -> None:
    pools.set("MPSAR_LO", 3, 0)
    full, free = pools.receive_queue(0, post=False), pools.receive_queue(2)
    pools.set("SECRXCTRL", 3)
    pools.arrive([FIRST])
    pools.set("SECRXCTRL", 1)
    for _ in range(3):
        pools.step()
    full.post(1)
    pools.step()
    assert (full.frames(), free.frames()) == ([FIRST], [FIRST])


@pytest.mark.parametrize("slot", [0, 7, 15])
@pytest.mark.parametrize("queue", [0, 3, 15])
def test_rqsmr_says_where_a_queue_counts(host: CardHost, queue: int, slot: int) -> None:
    host.set("MRQC", 1 | 1 << 17)
    for n in range(32):
        host.set("RETA", 0x01010101 * queue, n)
    host.set("RQSMR", slot << queue % 4 * 8, queue // 4)
    rx = host.receive_queue(queue, drop=True, post=False)
    rx.post(2)
    frame = bytes(Ether(dst=MAC, src=OTHER) / IP() / bytes(100))
    host.arrive([frame] * 5)
    for n in range(16):
        here = n == slot
        assert host.get("QPRC", n) == 2 * here
        assert host.get("QBRC_L", n) == 2 * len(frame) * here
        assert host.get("QPRDC", n) == 3 * here


@pytest.mark.parametrize("slot", [0, 7, 15])
@pytest.mark.parametrize("queue", [0, 3, 127])
def test_tqsm_says_where_a_queue_counts(host: CardHost, queue: int, slot: int) -> None:
    host.set("TQSM", slot << queue % 4 * 8, queue // 4)
    host.transmit_queue(queue).send([plain(100)] * 2)
    host.sent()
    for n in range(16):
        assert host.get("QPTC", n) == 2 * (n == slot)
        assert host.get("QBTC_L", n) == 200 * (n == slot)


SIZES = [
    # RXPBSIZE in KiB, bytes of frames without CRC
    (512, 1514),
    (64, 60),
    (64, 500),
    (1, 1020),  # one fills it
    (1, 1021),
    (0, 60),
]


@pytest.mark.parametrize(("kib", "n"), SIZES)
def test_the_packet_buffer_holds_what_rxpbsize_says(
    host: CardHost, kib: int, n: int
) -> None:
    host.set("RXPBSIZE", kib << 10)
    rx = host.receive_queue(0, n=256, post=False)
    room = kib * 1024 // (n + FCS)
    frames = numbered(room, n)
    host.arrive(frames[: room // 2])
    host.arrive(frames[room // 2 :])
    assert (host.get("RXMPC"), host.get("EICR")) == (0, 0)
    host.arrive([plain(n, 0xFFFF)] * 3)
    assert host.get("RXMPC") == 3
    assert host.get("EICR") == RX_MISS
    assert host.counters["drop-rx-fifo-full"] == 3
    got: list[bytes] = []
    while len(got) < room:
        rx.post(min(200, room - len(got)))
        host.step()
        got += [part.data for part in rx.take(repost=False)]
    assert got == frames
    host.step()
    assert rx.take() == []


def test_room_that_comes_free_is_used_again(host: CardHost) -> None:
    host.set("RXPBSIZE", 1 << 10)
    rx = host.receive_queue(0, post=False)
    host.arrive(numbered(17))
    assert host.get("RXMPC") == 1  # 16 of 64 bytes fit
    rx.post(3)
    host.step()
    host.arrive(numbered(4))
    assert host.get("RXMPC") == 1
    assert [part.data for part in rx.take(repost=False)] == numbered(3)


def test_8192_of_the_smallest_frames_fit() -> None:
    with CardHost(packets=10_000) as host:
        host.start()
        host.receive_queue(0, post=False)
        for _ in range(9):
            host.arrive([plain()] * 1000)
        assert host.counters["drop-rx-fifo-full"] == 9000 - 8192


def test_what_waits_is_told_and_given_back_at_the_end(host: CardHost) -> None:
    host.receive_queue(0, post=False)
    host.arrive(numbered(5))
    wire = host.wire
    assert wire.app.ops.held(wire.struct) == 5
    assert wire.app.ops.retire(wire.struct) == 5
    assert wire.app.ops.held(wire.struct) == 0


# -- flow control: 3.7.7.3 -------------------------------------------------------------

TFCE, RFCE, DPF, PMCF = 1 << 3, 1 << 3, 1 << 1, 1 << 0
QUANTUM = 51.2  # ns: 512 bits


def pause(quanta: int, destination: str = "0180c2000001", opcode: int = 1) -> bytes:
    """Return a frame of MAC control: 802.3 annex 31B."""
    head = bytes.fromhex(destination) + OTHER + struct.pack("!HH", 0x8808, opcode)
    return (head + struct.pack("!H", quanta)).ljust(60, b"\0")


def start_flow_control(
    host: CardHost, *, quanta: int = 1000, before: int = 200
) -> None:
    """XOFF when more than 16 KiB wait, XON when no more than 8 KiB and 64 bytes do."""
    host.set("FCCFG", TFCE)
    host.set("FCTTV", quanta)
    host.set("FCRTV", before)
    host.set("FCRTH", 1 << 31 | 0x4000)
    host.set("FCRTL", 1 << 31 | 0x2040)


def told(host: CardHost) -> list[int]:
    """Return the quanta of the pause frames that the card has sent."""
    frames = host.wire.received()
    own = MAC + bytes.fromhex("88080001")
    for frame in frames:
        assert frame[:6] == bytes.fromhex("0180c2000001")
        assert (frame[6:16], frame[18:]) == (own, bytes(42))
    return [int.from_bytes(frame[16:18], "big") for frame in frames]


def test_the_partner_is_told_to_stop_and_to_go_on(host: CardHost) -> None:
    start_flow_control(host)
    rx = host.receive_queue(0, n=64, post=False)
    frames = numbered(16, 1020)  # 1 KiB each
    host.arrive(frames)
    host.step(1000)
    assert told(host) == []  # 16 KiB are not more than 16 KiB
    host.arrive([plain()])
    host.step(1000)
    assert told(host) == [1000]
    host.step(1000)
    assert told(host) == []
    rx.post(7)
    host.step(1000)
    assert told(host) == []
    rx.post(1)
    host.step(1000)
    assert told(host) == [0]
    assert (host.get("LXOFFTXC"), host.get("LXONTXC")) == (1, 1)
    # Linux takes them off these again.
    assert [host.get(name) for name in ("GPTC", "MPTC", "PTC64")] == [2, 2, 2]
    assert host.get("GOTCL") == 2 * 64


def test_a_pause_is_asked_for_anew_before_it_ends(host: CardHost) -> None:
    start_flow_control(host, quanta=1000, before=200)
    host.receive_queue(0, post=False)
    host.arrive(numbered(20, 1020))
    host.step(0)
    assert told(host) == [1000]
    for _ in range(3):
        host.step(round(800 * QUANTUM) - 1)
        assert told(host) == []
        host.step(1)
        assert told(host) == [1000]
    assert host.get("LXOFFTXC") == 4


SILENT = [
    ("FCCFG", 0),
    ("FCRTH", 0x4000),  # not enabled
    ("FCRTH", 1 << 31 | 0x7FFE0),
]


@pytest.mark.parametrize(("name", "value"), SILENT)
def test_without_flow_control_nothing_is_told(
    host: CardHost, name: str, value: int
) -> None:
    start_flow_control(host)
    host.set(name, value)
    host.receive_queue(0, post=False)
    host.arrive(numbered(20, 1020))
    host.step()
    assert told(host) == []


def test_without_xone_there_is_no_xon(host: CardHost) -> None:
    start_flow_control(host)
    host.set("FCRTL", 0x2000)
    rx = host.receive_queue(0, post=False)
    host.arrive(numbered(20, 1020))
    host.step()
    assert told(host) == [1000]
    rx.post(20)
    for _ in range(10):
        host.step()
    assert told(host) == []


@pytest.mark.parametrize("quanta", [1, 2, 1000, 0xFFFF])
def test_a_pause_stops_the_transmitter_for_its_quanta(
    host: CardHost, quanta: int
) -> None:
    host.set("MFLCN", RFCE | DPF)
    tx = host.transmit_queue(0)
    host.step(1)
    host.wire.send([pause(quanta)])
    host.step(0)
    tx.send([plain()])
    ns = int(quanta * QUANTUM)  # the nanosecond in which it ends
    host.step(ns - 1)
    assert host.wire.received() == []
    host.step(2)
    assert host.wire.received() == [plain()]
    assert (host.get("LXOFFRXCNT"), host.get("LXONRXCNT")) == (1, 0)


def test_what_is_on_the_wire_when_a_pause_comes_has_left(host: CardHost) -> None:
    host.set("MFLCN", RFCE | DPF)
    tx = host.transmit_queue(0)
    host.step(1)
    tx.send([plain(1514)] * 10)
    host.wire.send([pause(0xFFFF)])
    host.step(2000)  # a pull, then a push
    assert len(host.wire.received()) == 2
    host.step(10_000)
    assert host.wire.received() == []
    host.wire.send([pause(0)])
    host.step(1)
    host.step(100_000)
    assert len(host.wire.received()) == 8
    assert (host.get("LXOFFRXCNT"), host.get("LXONRXCNT")) == (1, 1)


@pytest.mark.parametrize("destination", ["0180c2000001", MAC.hex()])
@pytest.mark.parametrize("dpf", [0, DPF])
def test_dpf_keeps_pause_frames_from_the_host(
    host: CardHost, destination: str, dpf: int
) -> None:
    host.set("MFLCN", RFCE | dpf)
    rx = host.receive_queue(0)
    frame = pause(5, destination)
    host.arrive([frame])
    assert rx.frames() == ([] if dpf else [frame])
    assert host.get("LXOFFRXCNT") == 1
    assert host.get("TPR") == 1


@pytest.mark.parametrize(
    "frame", [pause(100, opcode=0x0101), pause(100, "020000000099")]
)
def test_other_mac_control_comes_where_pmcf_lets_it(
    host: CardHost, frame: bytes
) -> None:
    rx, tx = host.receive_queue(0), host.transmit_queue(0)
    for pmcf in (0, PMCF):
        host.set("MFLCN", RFCE | DPF | pmcf)
        host.arrive([frame])
        assert rx.frames() == ([frame] if pmcf else [])
    tx.send([plain()])
    assert host.sent() == [plain()]  # none of them is a pause
    assert (host.get("LXOFFRXCNT"), host.counters["drop-rx-filtered"]) == (0, 1)


# -- loops and links -------------------------------------------------------------------

LPBK = 1 << 15


def test_in_mac_loopback_the_receiver_hears_the_transmitter(host: CardHost) -> None:
    host.set("HLREG0", host.get("HLREG0") | LPBK)
    rx, tx = host.receive_queue(0), host.transmit_queue(0)
    host.card.plug(False)  # it needs no cable
    frame = bytes(Ether(dst=MAC, src=OTHER) / IP() / TCP() / bytes(100))
    tx.send([frame])
    assert host.sent() == []
    (got,) = rx.take()
    assert got.data == frame
    assert Status.L4I | Status.IPCS in got.status
    for name in ("GPTC", "GPRC", "TPR", "TPT"):
        assert host.get(name) == 1, name
    host.arrive([plain()])  # the wire is not listened to
    assert rx.frames() == []


def test_in_mac_loopback_filters_hold(host: CardHost) -> None:
    host.set("HLREG0", host.get("HLREG0") | LPBK)
    host.set("FCTRL", 0)
    rx, tx = host.receive_queue(0), host.transmit_queue(0)
    tx.send([plain(), plain(60, 0, BROADCAST)])
    host.sent()
    assert rx.frames() == [plain()]
    assert host.counters["drop-rx-filtered"] == 1


def test_frames_of_a_time_without_a_cable_are_counted(host: CardHost) -> None:
    rx, tx = host.receive_queue(0), host.transmit_queue(0)
    for plugged in (False, True, False, True):
        host.card.plug(plugged)
        host.arrive([plain()])
        tx.send([plain()])
        assert len(host.sent()) == plugged
        assert len(rx.frames()) == plugged
    assert host.counters["drop-rx-link-down"] == 2
    assert host.counters["drop-tx-link-down"] == 2


# -- sleep -----------------------------------------------------------------------------


def test_when_a_worker_may_sleep(host: CardHost) -> None:
    wire = host.wire
    host.set("RXCTRL", 1)
    assert wire.arm() == lib.ARM_BUSY  # the host has just done something
    host.step()
    assert wire.arm() == lib.ARM_READY
    tx = host.transmit_queue(0)
    host.step()
    tx.send([plain(1514)] * 3)
    assert wire.arm() == lib.ARM_BUSY
    host.step(1000)
    host.wire.received()
    assert wire.arm() == lib.ARM_READY  # until the wire is free: a timer
    host.sent()
    assert wire.arm() == lib.ARM_READY
    assert host.card.registers
    assert wire.arm() == lib.ARM_NEVER  # tails are written behind its back


# -- the host's memory -----------------------------------------------------------------


@pytest.fixture
def card() -> Iterator[Card]:
    with Card() as card:
        yield card


PAGE = 4096


def error_of(card: Card, iova: int, size: int, flags: int = READ | WRITE) -> int:
    """Return the errno of mapping this; 0: it is mapped."""
    try:
        card.map(iova, ffi.NULL, size, flags)
    except OSError as error:
        return error.errno or 0
    return 0


def test_regions_do_not_overlap(card: Card) -> None:
    assert error_of(card, 10 * PAGE, 2 * PAGE) == 0
    for first, pages in ((9, 2), (10, 1), (11, 1), (11, 5), (9, 9)):
        assert error_of(card, first * PAGE, pages * PAGE) == errno.EEXIST
    for first in (9, 12):
        assert error_of(card, first * PAGE, PAGE) == 0
    assert card.nregions == 3


@pytest.mark.parametrize(
    ("iova", "size", "flags"),
    [
        (0, 0, READ),
        (1 << 63, 1 << 63 | 1, READ),
        ((1 << 64) - PAGE, PAGE + 1, READ),
        (0, PAGE, 0),
        (0, PAGE, 4),
    ],
)
def test_a_region_that_is_none_is_refused(
    card: Card, iova: int, size: int, flags: int
) -> None:
    assert error_of(card, iova, size, flags) == errno.EINVAL
    assert card.nregions == 0


def test_a_region_may_end_where_addresses_do(card: Card) -> None:
    assert error_of(card, (1 << 64) - PAGE, PAGE) == 0
    assert card.unmap((1 << 64) - PAGE, PAGE) == 1


def test_unmap_takes_whole_regions(card: Card) -> None:
    for n in (1, 3, 5):
        assert error_of(card, 10 * n * PAGE, 10 * PAGE) == 0
    for first, pages in ((15, 10), (0, 15), (31, 1), (35, 100)):
        with pytest.raises(OSError, match=r"Invalid"):
            card.unmap(first * PAGE, pages * PAGE)
    assert card.nregions == 3
    assert card.unmap(20 * PAGE, 10 * PAGE) == 0
    assert card.unmap(10 * PAGE, 30 * PAGE) == 2
    assert card.nregions == 1
    card.unmap_all()
    assert card.nregions == 0


def test_memory_that_is_taken_away_is_not_touched(host: CardHost) -> None:
    rx, tx = host.receive_queue(0), host.transmit_queue(0)
    tx.put_frame(plain())
    host.arrive([plain()])
    assert rx.frames() == [plain()]
    before = host.peek(IOVA, host.used)
    host.card.unmap_all()
    host.arrive([plain(60, 7)])
    tx.ring_doorbell()
    assert host.sent() == []
    assert host.peek(IOVA, host.used) == before
    assert host.counters["dma-read-unmapped"] == 2


def test_what_is_mapped_one_way_is_used_one_way(host: CardHost) -> None:
    memory = {flags: ffi.new("uint8_t[]", PAGE) for flags in (READ, WRITE)}
    for flags, part in memory.items():
        ffi.memmove(part, plain(), 60)
        host.card.map(flags * PAGE, part, PAGE, flags)
    rx, tx = host.receive_queue(0, post=False), host.transmit_queue(0)
    for flags in (WRITE, READ):
        tx.put(flags * PAGE, 60 | DATA | IFCS | EOP | RS)
    tx.ring_doorbell()
    assert host.sent() == [plain()]
    assert host.counters["dma-read-unmapped"] == 1
    rx.buffers[:2] = [flags * PAGE for flags in (READ, WRITE)]
    rx.post(2)
    host.arrive([plain(100, 7), plain(100, 8)])
    assert bytes(ffi.buffer(memory[READ], 60)) == plain()
    assert bytes(ffi.buffer(memory[WRITE], 100)) == plain(100, 8)
    assert host.counters["dma-write-unmapped"] == 1


# -- statistics: 8.2.3.23 --------------------------------------------------------------

BINS = ("64", "127", "255", "511", "1023", "1522")


@dataclass(frozen=True)
class Frame:
    """A frame of a random mix, and what is to become of it."""

    kind: str
    n: int

    @property
    def data(self) -> bytes:
        destination = {"broadcast": BROADCAST, "multicast": GROUP}.get(self.kind, MAC)
        if self.kind == "filtered":
            destination = OTHER
        if self.kind == "wrong checksum":
            ip = IP(chksum=0xBAD) / bytes(max(self.n - 34, 0))
            return bytes(Ether(dst=MAC, src=OTHER) / ip)
        return plain(self.n, 0, destination)

    @property
    def wire(self) -> int:
        """Its bytes on the wire, with CRC."""
        return max(len(self.data), 60) + FCS


LENGTHS = st.one_of(
    st.integers(14, 1514),
    st.sampled_from([60, 61, 123, 124, 251, 252, 507, 508, 1019, 1020, 1514]),
)
KINDS = st.sampled_from(
    ["unicast", "broadcast", "multicast", "filtered", "too long", "wrong checksum"]
)
MIX = st.lists(
    st.builds(
        lambda kind, n: Frame(kind, 1600 if kind == "too long" else n), KINDS, LENGTHS
    ),
    max_size=40,
)


def size_bin(n: int) -> str:
    return next(name for name in BINS if n <= int(name))


def expected_counts(frames: list[Frame], way: str) -> Counter[str]:
    """Return what the statistics of "R", receive, or "T", transmit, are to say."""
    counts: Counter[str] = Counter()
    for frame in frames:
        counts[f"TP{way}"] += 1
        if way == "R":
            counts["TORL"] += frame.wire
            counts["RXNFGPC"] += 1
            counts["RXNFGBCL"] += frame.wire
            if frame.kind == "too long":
                counts["ROC"] += 1
            if frame.kind in {"too long", "filtered"}:
                continue
            counts["XEC"] += frame.kind == "wrong checksum"
            counts["RXDGPC"] += 1
            counts["RXDGBCL"] += frame.wire - FCS
            counts["QPRC"] += 1
            counts["QBRC_L"] += frame.wire - FCS
        else:
            counts["TXDGPC"] += 1
            counts["TXDGBCL"] += frame.wire - FCS
            counts["QPTC"] += 1
            counts["QBTC_L"] += frame.wire - FCS
        counts[f"GP{way}C"] += 1
        counts[f"GO{way}CL"] += frame.wire
        counts[f"P{way}C{size_bin(frame.wire)}"] += 1
        counts[f"BP{way}C"] += frame.kind == "broadcast"
        counts[f"MP{way}C"] += frame.kind == "multicast"
    return counts


NAMES = {
    "R": [
        *("TPR", "TORL", "RXNFGPC", "RXNFGBCL", "GPRC", "GORCL", "BPRC", "MPRC"),
        *("ROC", "XEC", "RXDGPC", "RXDGBCL", "QPRC", "QBRC_L"),
        *(f"PRC{name}" for name in BINS),
        *("RUC", "RFC", "RJC", "CRCERRS", "RXMPC", "QPRDC", "LXOFFRXCNT"),
    ],
    "T": [
        *("TPT", "GPTC", "GOTCL", "BPTC", "MPTC", "TXDGPC", "TXDGBCL"),
        *("QPTC", "QBTC_L", "SSVPC", "LXOFFTXC"),
        *(f"PTC{name}" for name in BINS),
    ],
}


@pytest.fixture(scope="module")
def counting() -> Iterator[CardHost]:
    """Return a host for many examples; statistics begin anew with each reading."""
    with CardHost(packets=1024) as host:
        host.start()
        host.set("FCTRL", 0x500)  # broadcast and multicast
        host.receive_queue(0, n=64)
        host.transmit_queue(0, n=64)
        yield host


def statistics(host: CardHost, way: str) -> Counter[str]:
    values = {name: host.get(name) for name in NAMES[way]}
    for high in ("TORH", "RXNFGBCH", "GORCH", "GOTCH", "RXDGBCH", "TXDGBCH"):
        host.get(high)  # clears its pair
    host.get("QBRC_H")
    host.get("QBTC_H")
    return Counter(values)


@settings(max_examples=60)
@given(mix=MIX)
def test_what_is_received_is_counted(counting: CardHost, mix: list[Frame]) -> None:
    counting.arrive([frame.data for frame in mix])
    counting.receive_queues[0].frames()
    assert statistics(counting, "R") == expected_counts(mix, "R")


@settings(max_examples=60)
@given(mix=MIX)
def test_what_is_sent_is_counted(counting: CardHost, mix: list[Frame]) -> None:
    mix = [frame for frame in mix if frame.kind != "too long" and frame.n >= 17]
    counting.transmit_queues[0].send([frame.data for frame in mix])
    assert len(counting.sent()) == len(mix)
    assert statistics(counting, "T") == expected_counts(mix, "T")


def test_counters_of_the_app_are_the_cards(host: CardHost) -> None:
    host.receive_queue(0)
    host.transmit_queue(0).send([plain(200)])
    host.arrive([plain(), plain(100)])
    host.sent()
    host.wire.tick()
    assert host.wire.counters == host.counters
    assert host.counters == {
        "rx-packets": 2,
        "rx-bytes": 160,
        "tx-packets": 1,
        "tx-bytes": 200,
        "host-packets": 2,
    }
