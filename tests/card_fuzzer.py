"""Hostile hosts of a software card: episodes of everything that one can do wrong.

    with Episode(seed) as episode:
        episode.run(range(100))

An episode is a card, memory around it, and numbered actions. After every action, and at
the end, the card must be well: see `Episode.check` and `Episode.check_end`.

The same through a socket is `tests.vfio_fuzzer`; `scripts/verify/fuzz-card` runs both.
"""

import os
import random
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar

from snabb_py._native import ffi, lib
from snabb_py.nic.model82599 import COUNTERS, READ, WRITE
from snabb_py.nic.registers import REGISTERS, offset
from tests import episodes
from tests.card_host import (
    CONTEXT,
    DATA,
    EOP,
    IC,
    IFCS,
    IOVA,
    IXSM,
    RS,
    TSE,
    TXSM,
    VLE,
    CardHost,
)
from tests.episodes import FILE_NAME, PAGE, flip

MARGIN = 256
PATTERN = 0xA5
#: Of memory that is always there at first.
MAIN = 256 * 1024
#: Of memory that the card gets at the end alone, to show that it is well.
FINAL = 64 * 1024
#: Most ns that an episode lasts: years.
LATEST = 2**61

#: Counters of a card that say why something was refused.
REASONS = frozenset(
    name
    for name in COUNTERS
    if not name.endswith(("-packets", "-bytes"))
    and name not in {"interrupts", "resets"}
)

#: Registers that do something, by how often they are picked beside all others.
INTERESTING = (
    *("CTRL", "CTRL_EXT", "HLREG0", "FCTRL", "VLNCTRL", "MCSTCTRL", "RXCTRL", "MAXFRS"),
    *("DMATXCTL", "SECRXCTRL", "SECTXCTRL", "AUTOC", "RXCSUM", "MRQC", "PFVTCTL"),
    *("MTQC", "RXPBSIZE", "RTTDQSEL", "RTTBCNRC", "RTTDT1C", "TCPTIMER", "FRTIMER"),
    *("GPIE", "EICR", "EICS", "EIMS", "EIMC", "EIAM", "EIAC", "EITR", "IVAR"),
    *("IVAR_MISC", "EICS_EX", "EIMS_EX", "EIMC_EX", "EIAM_EX", "PFQDE", "RQSMR"),
    *("TQSM", "PSRTYPE", "RETA", "RSSRK", "PFVML2FLT", "PFVLVF", "PFVLVFB"),
    *("PFMRCTL", "PFMRVM", "PFMRVLAN", "PFVFRE", "PFVFTE", "PFVMTXSW", "PFDTXGSWC"),
    *("PFVMVIR", "PFVFSPOOF", "RAL", "RAH", "MPSAR_LO", "MPSAR_HI", "FCRTH", "FCRTL"),
    *("FCCFG", "FCTTV", "MFLCN", "EEC", "EERD", "EEWR", "FLA", "I2CCTL", "MSCA"),
    *("MSRWD", "SWSM", "SW_FW_SYNC", "MTA", "PFUTA", "VFTA", "DTXTCPFLGL"),
    *("DTXTCPFLGH", "FDIRCTRL", "RDRXCTL", "LINKS", "STATUS", "ESDP", "ANLP1"),
    *("RDBAL", "RDBAH", "RDLEN", "RDH", "RDT", "SRRCTL", "RXDCTL"),
    *("TDBAL", "TDBAH", "TDLEN", "TDH", "TDT", "TXDCTL", "TDWBAL", "TDWBAH"),
)
STATISTICS = ("GPRC", "GORCL", "GORCH", "TORL", "TORH", "QBRC_L", "QBRC_H", "RXMPC")
VALUES = (
    *(0, 1, 2, 3, 4, 8, 16, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000),
    *(0x7FFFFFFF, 0x80000000, 0xFFFFFF80, 0xFFFFFFFF),
)


class Memory:
    """The host's own memory: a block with a margin on either side.

    The card may write to the block, or not: `freeze` says from when on not.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.block: Any = ffi.new("uint8_t[]", size + 2 * MARGIN)
        self.address: Any = self.block + MARGIN
        self._margin = bytes([PATTERN]) * MARGIN
        ffi.memmove(self.block, self._margin, MARGIN)
        ffi.memmove(self.address + size, self._margin, MARGIN)
        self._frozen: bytearray | None = None

    def poke(self, at: int, data: bytes) -> None:
        ffi.memmove(self.address + at, data, len(data))
        if self._frozen is not None:
            self._frozen[at : at + len(data)] = data

    def freeze(self, frozen: bool) -> None:
        if not frozen:
            self._frozen = None
        elif self._frozen is None:
            self._frozen = bytearray(ffi.buffer(self.address, self.size))

    def check(self) -> None:
        view = ffi.buffer(self.block)
        assert view[:MARGIN] == self._margin, "written before the memory"
        assert view[MARGIN + self.size :] == self._margin, "written behind the memory"
        if self._frozen is not None:
            assert view[MARGIN : MARGIN + self.size] == self._frozen, (
                "memory was written that the card may not write"
            )


class SharedFile:
    """A file as another process shares it, all but its last page; it may shrink."""

    def __init__(self, size: int) -> None:
        self.size = size  # that is given
        self.fd = os.memfd_create(FILE_NAME)
        os.ftruncate(self.fd, size + PAGE)
        os.pwrite(self.fd, bytes([PATTERN]) * PAGE, size)

    def poke(self, at: int, data: bytes) -> None:
        # Not behind its end, which would make it longer again.
        room = max(0, min(os.fstat(self.fd).st_size - at, len(data)))
        os.pwrite(self.fd, data[:room], at)

    def resize(self, size: int) -> None:
        os.ftruncate(self.fd, size)

    def check(self) -> None:
        end = os.pread(self.fd, PAGE, self.size)
        assert end == bytes([PATTERN]) * len(end), (
            "written behind the part that is given"
        )

    def close(self) -> None:
        os.close(self.fd)


@dataclass
class Mapping:
    """A region as the card has it."""

    iova: int
    size: int
    memory: Memory | SharedFile
    flags: int


@dataclass
class Ring:
    """What was last written to a queue's registers, and where the next one goes."""

    iova: int
    n: int
    tail: int = 0


def frame_of(rng: random.Random, mac: bytes) -> bytes:
    """Return a frame that begins well, most of the time."""
    if rng.random() < 0.15:
        size = rng.choice((0, 1, 13, 14, 17, 59, 60, 1514, 1515, 9000, 10240, 16124))
        return rng.randbytes(rng.choice((size, rng.randint(0, 16384))))
    group = bytes.fromhex("0180c2000001")
    destination = rng.choice((mac, mac, b"\xff" * 6, group, rng.randbytes(6)))
    frame = destination + rng.choice((mac, rng.randbytes(6)))
    if rng.random() < 0.05:  # a pause
        return (frame + b"\x88\x08\0\1" + rng.randbytes(2)).ljust(60, b"\0")
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 9))):
        frame += rng.choice((b"\x81\0", b"\x88\xa8")) + rng.randbytes(2)
    payload = rng.randbytes(rng.choice((0, 1, 18, 26, 512, 1460, rng.randint(0, 9000))))
    l4 = rng.choice((6, 17, 132, rng.getrandbits(8)))
    header = rng.randbytes(12) + bytes([rng.choice((0x50, 0x60, 0xF0, 0))])
    payload = header.ljust(20, b"\x18") + payload
    if rng.random() < 0.6:
        words = (0x45 + rng.choice((0, 0, 0, 1, 10)), 0, 20 + len(payload), 7)
        ip = struct.pack(">BBHHHBBH", *words, rng.choice((0, 0x4000, 1)), 64, l4, 0)
        frame += b"\x08\0" + ip + rng.randbytes(8)
    else:
        first = rng.choice((l4, l4, 0, 43, 44, 51, 60))
        ip = struct.pack(">IHBB", 6 << 28, len(payload), first, 64)
        frame += b"\x86\xdd" + ip + rng.randbytes(32)
    frame += payload
    return flip(rng, frame) if rng.random() < 0.3 else frame


def any_value(rng: random.Random) -> int:
    """Return a register's value: of the kind that finds something, or any."""
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(VALUES)
    if kind < 0.6:
        return 1 << rng.randrange(32)
    return rng.getrandbits(rng.choice((8, 16, 32, 32)))


def any_register(rng: random.Random) -> int:
    """Return the offset of a register that does something, or of any place."""
    kind = rng.random()
    if kind < 0.7:
        names = STATISTICS if kind < 0.05 else INTERESTING
        register = REGISTERS[rng.choice(names)]
        n = rng.choice((0, 1, rng.randrange(512)))
        offsets = register.offsets()
        return offsets[n % len(offsets)]
    return 4 * rng.randrange(lib.MODEL_BAR_SIZE // 4)


class HostileHost(CardHost):
    """A host whose memory is in pieces, which come and go."""

    def __init__(self) -> None:
        super().__init__(memory=FINAL, packets=1536)
        self.card.unmap_all()
        self.is_hostile = True
        self.mappings: list[Mapping] = []
        self.memories: list[Memory] = []
        self.files: list[SharedFile] = []
        self.former: list[Mapping] = []
        self.main = self.new_memory(MAIN)
        self.add(IOVA, self.main, READ | WRITE)

    def new_memory(self, size: int) -> Memory:
        memory = Memory(size)
        self.memories.append(memory)
        return memory

    def add(self, iova: int, memory: Memory, flags: int) -> bool:
        """Map memory; return whether the card took it."""
        try:
            self.card.map(iova, memory.address, memory.size, flags)
        except OSError:
            return False
        self.mappings.append(Mapping(iova, memory.size, memory, flags))
        self.freeze()
        return True

    def add_file(self, iova: int, file: SharedFile, flags: int) -> bool:
        try:
            self.card.map_file(iova, file.size, file.fd, 0, flags)
        except OSError:
            return False
        self.mappings.append(Mapping(iova, file.size, file, flags))
        return True

    def remove(self, iova: int, size: int) -> None:
        """Unmap; what the card answers must be what we know."""
        last = iova + size - 1
        touched = [
            m for m in self.mappings if m.iova <= last and iova <= m.iova + m.size - 1
        ]
        within = [m for m in touched if iova <= m.iova and m.iova + m.size - 1 <= last]
        try:
            n = self.card.unmap(iova, size)
        except OSError:
            assert len(within) < len(touched), "refused to unmap whole regions"
            return
        assert len(within) == len(touched) == n, "unmapped something else"
        self.forget(within)

    def forget(self, mappings: list[Mapping]) -> None:
        self.former = (self.former + mappings)[-16:]
        self.mappings = [m for m in self.mappings if m not in mappings]
        self.freeze()

    def freeze(self) -> None:
        """Note what the card may write to, and what not."""
        writable = {id(m.memory) for m in self.mappings if m.flags & WRITE}
        for memory in self.memories:
            memory.freeze(id(memory) not in writable)

    def find(self, iova: int) -> Mapping | None:
        for mapping in self.mappings:
            if mapping.iova <= iova < mapping.iova + mapping.size:
                return mapping
        return None

    def poke(self, iova: int, data: bytes) -> None:
        """Write as far as there is memory."""
        if not self.is_hostile:
            super().poke(iova, data)
        elif mapping := self.find(iova):
            at = iova - mapping.iova
            mapping.memory.poke(at, data[: mapping.size - at])

    def any_address(self, rng: random.Random, n: int) -> int:
        """Return an address for n bytes: inside, across an end, or nowhere."""
        kind = rng.random()
        if self.mappings and kind < 0.55:
            mapping = self.mappings[0] if kind < 0.3 else rng.choice(self.mappings)
            return mapping.iova + rng.randint(0, max(mapping.size - n, 0))
        if self.mappings and kind < 0.8:
            mapping = rng.choice(self.mappings)
            end = mapping.iova + mapping.size
            near = rng.choice((end - n, end - 1, end, mapping.iova - 1, end - n + 1))
            near = rng.choice((near, end - rng.randint(0, n), mapping.iova - n))
            return near % 2**64
        if self.former and kind < 0.9:
            return rng.choice(self.former).iova
        return rng.choice((0, 2**64 - 1, 2**64 - n, rng.getrandbits(64)))


class Episode(episodes.Episode):
    """A card that a hostile host has, from its beginning to its end.

    Args:
        seed: of everything.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.before = [0] * len(COUNTERS)
        self.rings: dict[tuple[str, int], Ring] = {}
        self.taken: list[Any] = []
        self.eventfds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
        self.host = HostileHost()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.give_back()
        try:
            self.host.__exit__(kind, error, trace)
        finally:
            for file in self.host.files:
                file.close()
            for fd in self.eventfds:
                os.close(fd)

    # -- judging ---------------------------------------------------------------

    def counters(self) -> list[int]:
        return list(self.host.card.counters.values())

    def check(self) -> None:
        """Counters only grow; links hold what they can."""
        now = self.counters()
        for name, old, new in zip(COUNTERS, self.before, now, strict=True):
            assert new >= old, f"{name} has gone from {old} to {new}"
        self.before = now
        for link in (*self.host.wire.inputs, *self.host.wire.outputs):
            assert (link.write - link.read) % 2**32 <= lib.LINK_CAPACITY

    def check_memory(self) -> None:
        """Nothing was written outside of what is mapped."""
        for memory in self.host.memories:
            memory.check()
        for file in self.host.files:
            file.check()

    def check_end(self) -> None:
        """All packets come back, and a card that was reset is as good as new."""
        self.check_memory()
        host, card = self.host, self.host.card
        card.unmap_all()
        assert card.nregions == 0
        host.forget(list(host.mappings))
        card.reset()
        card.plug(True)
        for index in range(3):
            for vector in range(lib.MODEL_NVECTORS):
                card.set_interrupt(index, vector, -1)
        self.give_back()
        host.wire.struct.output[0] = host.wire.outputs[0]
        for _ in range(4):
            host.step()
            host.wire.received()
        for name, n in card.counters.items():
            self.totals.seen[name] += n
        assert lib.engine_app_held(host.wire.struct) == 0, "held after a reset"
        self.check_is_well()
        self.check_memory()
        self.check_packets()

    def check_packets(self) -> None:
        """Nothing was written across the border of a packet's slot to the next."""
        self.take_all()
        assert len(self.taken) == self.host.wire.pool.total, "packets are missing"
        for packet in self.taken:
            assert packet.iova == int(ffi.cast("uintptr_t", packet))
        self.give_back()

    def check_is_well(self) -> None:
        """Packets go both ways."""
        host = self.host
        host.is_hostile = False
        host.card.map(IOVA, host.memory, host.size)
        host.card.store(lib.MODEL_CONFIG, 4, b"\x07\x00")
        rx, tx = host.receive_queue(0, n=8), host.transmit_queue(0, n=8)
        host.start()
        frame = b"\xff" * 6 + bytes(range(6, 256)) * 4
        host.arrive([frame])
        assert rx.frames() == [frame], "a card that was reset does not receive"
        tx.send([frame])
        assert host.sent() == [frame], "a card that was reset does not send"

    def take_all(self) -> None:
        """Take all packets away that there are."""
        for size in (60, 16000):
            while packet := lib.engine_packet_alloc(self.host.wire.freelist, size):
                self.taken.append(packet)

    def give_back(self) -> None:
        """Free the packets that were kept away from the card."""
        for packet in self.taken:
            lib.engine_packet_free(self.host.wire.freelist, packet)
        self.taken.clear()

    # -- rings -----------------------------------------------------------------

    def set(self, name: str, value: int, n: int = 0) -> None:
        self.done["accesses"] += 1
        self.host.set(name, value & 0xFFFFFFFF, n)

    def any_queue(self, rng: random.Random) -> int:
        return 0 if rng.random() < 0.7 else rng.choice((1, 2, 64, rng.randrange(128)))

    def program_ring(self, rng: random.Random, way: str, queue: int) -> None:
        n = rng.choice((8, 16, 32, 64, 128, 512, 4096))
        iova = self.host.any_address(rng, 16 * n) & ~127
        if rng.random() < 0.6:
            n = rng.choice((8, 16, 32, 64))
            iova = IOVA + 128 * rng.randrange(64)
        length = 16 * n
        if rng.random() < 0.15:
            length = rng.choice((0, 16, 100, 128, 129, 0xFFFFF, 0xFFF80, 2**32 - 1))
        self.set(f"{way}DBAL", iova, queue)
        self.set(f"{way}DBAH", iova >> 32, queue)
        self.set(f"{way}DLEN", length, queue)
        head = any_value(rng) if rng.random() < 0.1 else rng.choice((0, 0, n - 1))
        self.set(f"{way}DH", head, queue)
        self.set(f"{way}DT", any_value(rng) if rng.random() < 0.1 else head, queue)
        self.rings[way, queue] = Ring(iova, n, head % n)
        if rng.random() < 0.05:
            self.set("TDWBAH", iova >> 32, queue)
            self.set("TDWBAL", self.host.any_address(rng, 4) & ~3 | 1, queue)
        if way == "R":
            srrctl = rng.choice((2, 2, 2, 1, 8, 16)) | 1 << 25
            if rng.random() < 0.25:
                srrctl = rng.choice((2, 0, 31, 2 | 2 << 25, 2 | 5 << 25, 1 << 25))
            self.set("SRRCTL", srrctl | rng.choice((0, 0, 1 << 28)), queue)
        control = 1 << 25 | rng.choice((0, 0, 1 << 30, any_value(rng)))
        self.set(f"{way}XDCTL", 0, queue)
        self.set(f"{way}XDCTL", control, queue)

    def receive_ring(self, rng: random.Random) -> None:
        queue = self.any_queue(rng)
        self.program_ring(rng, "R", queue)
        self.post(rng, queue)

    def transmit_ring(self, rng: random.Random) -> None:
        queue = self.any_queue(rng)
        self.program_ring(rng, "T", queue)
        if rng.random() < 0.5:
            self.transmit(rng, queue)

    def put(self, ring: Ring, low: int, high: int) -> None:
        self.done["descriptors"] += 1
        data = struct.pack("<QQ", low % 2**64, high % 2**64)
        self.host.poke(ring.iova + 16 * ring.tail, data)
        ring.tail = (ring.tail + 1) % ring.n

    def ring_of(
        self, rng: random.Random, way: str, queue: int | None
    ) -> tuple[int, Ring]:
        if queue is None:
            known = [q for w, q in self.rings if w == way]
            queue = rng.choice(known) if known else self.any_queue(rng)
        return queue, self.rings.setdefault((way, queue), Ring(IOVA, 8))

    def set_tail(self, rng: random.Random, way: str, queue: int, ring: Ring) -> None:
        tail = ring.tail
        if rng.random() < 0.08:
            tail = rng.choice((ring.n, ring.n + 1, any_value(rng), tail - 1))
        if rng.random() < 0.05:  # behind the card's back
            at = offset(f"{way}DT", queue) // 4
            self.host.card.registers[at] = tail & 0xFFFFFFFF
        else:
            self.set(f"{way}DT", tail, queue)

    def post(self, rng: random.Random, queue: int | None = None) -> None:
        queue, ring = self.ring_of(rng, "R", queue)
        for _ in range(min(rng.choice((1, 4, ring.n - 1, ring.n - 1)), 256)):
            at = self.host.any_address(rng, rng.choice((1, 1024, 2048, 16384)))
            if rng.random() < 0.6:
                at = IOVA + 8192 + 2048 * rng.randrange(64)
            self.put(ring, at, rng.choice((0, 0, rng.getrandbits(64))))
        self.set_tail(rng, "R", queue, ring)

    def transmit(self, rng: random.Random, queue: int | None = None) -> None:
        queue, ring = self.ring_of(rng, "T", queue)
        for _ in range(rng.choice((1, 1, 2, 5))):
            for low, high in rng.choices(self.ORDERS, self.ORDER_WEIGHTS)[0](self, rng):
                wrong = [
                    1 << rng.randrange(64) if rng.random() < 0.04 else 0 for _ in "lh"
                ]
                self.put(ring, low ^ wrong[0], high ^ wrong[1])
        self.set_tail(rng, "T", queue, ring)
        if rng.random() < 0.7:
            self.step(rng)

    # -- what is to be sent: descriptors ---------------------------------------

    def place(self, rng: random.Random, data: bytes) -> int:
        """Put data somewhere; return where."""
        at = self.host.any_address(rng, len(data))
        if rng.random() < 0.6:
            at = IOVA + rng.randrange(MAIN // 2, MAIN - 20000)
        self.host.poke(at, data)
        return at

    def order_frame(self, rng: random.Random) -> list[tuple[int, int]]:
        frame = frame_of(rng, self.host.card.mac)
        at, n = self.place(rng, frame), len(frame)
        flags = DATA | IFCS | RS | rng.choice((0, 0, IXSM, TXSM, IXSM | TXSM, VLE))
        parts = []
        while True:
            size = n if rng.random() < 0.7 else rng.randint(0, n)
            n -= size
            parts.append((at, flags | size | len(frame) << 46))
            at += size
            if n == 0 or len(parts) > 40:
                break
        parts[-1] = (parts[-1][0], parts[-1][1] | EOP)
        return parts

    def order_length(self, rng: random.Random) -> list[tuple[int, int]]:
        """Lengths at the borders, of packets and of their slots too."""
        n = rng.choice((0, 1, 13, 14, 16, 17, 16124, 16125, 16128, 16384, 65535))
        if rng.random() < 0.5:
            n = lib.PACKET_SMALL_SIZE - rng.choice((0, 1, 4, 8, rng.randrange(700)))
        at = IOVA if rng.random() < 0.6 else self.host.any_address(rng, n or 1)
        flags = DATA | IFCS | EOP | RS | rng.choice((0, VLE, IXSM, IXSM | TXSM, TXSM))
        before = self.order_context(rng) if rng.random() < 0.5 else []
        return [*before, (at, flags | n)]

    def order_legacy(self, rng: random.Random) -> list[tuple[int, int]]:
        frame = frame_of(rng, self.host.card.mac)
        high = min(len(frame), 0xFFFF) | EOP | IFCS | RS | rng.choice((0, IC, IC | VLE))
        high |= rng.choice((0, 24, 255, rng.getrandbits(8))) << 16
        high |= rng.choice((14, 0, 255, rng.getrandbits(8))) << 40
        return [(self.place(rng, frame), high | rng.getrandbits(16) << 48)]

    def order_context(self, rng: random.Random) -> list[tuple[int, int]]:
        mac, ip = rng.choice((14, 18, 0, 127)), rng.choice((20, 40, 60, 0, 511))
        l4, mss = rng.choice((20, 8, 60, 0, 255)), rng.choice((1460, 0, 1, 65535, 536))
        if rng.random() < 0.5:
            mac, ip, l4, mss = 14, rng.choice((20, 40)), rng.choice((20, 8)), 1000
        kind = rng.choice((0, 1, 1, 2, 3))
        low = ip | mac << 9 | rng.getrandbits(16) << 16
        high = CONTEXT | rng.getrandbits(1) << 10 | kind << 11 | l4 << 40 | mss << 48
        return [(low, high | rng.choice((0, 0, 1)) << 36)]

    def order_segments(self, rng: random.Random) -> list[tuple[int, int]]:
        parts = self.order_context(rng)
        at = self.place(rng, frame_of(rng, self.host.card.mac))
        if rng.random() < 0.2:  # 256 KiB, and more than PAYLEN can say
            sizes = [65535] * rng.choice((3, 4, 5, 6))
        else:
            sizes = [rng.choice((54, 66, 4096, rng.randint(0, 65535)))]
            sizes += [rng.randint(0, 16384) for _ in range(rng.choice((0, 1, 3, 17)))]
        flags = DATA | IFCS | RS | TSE | rng.choice((IXSM | TXSM, 0, VLE))
        flags |= rng.choice((sum(sizes), 0, 2**18 - 1)) % 2**18 << 46
        parts += [(at, flags | n) for n in sizes]
        parts[-1] = (parts[-1][0], parts[-1][1] | EOP)
        return parts

    def order_endless(self, rng: random.Random) -> list[tuple[int, int]]:
        n = rng.choice((1, 7, 63, 200))
        size = rng.choice((0, 1, 64, 2048, 65535))
        return [(self.host.any_address(rng, size or 1), DATA | IFCS | size)] * n

    def order_garbage(self, rng: random.Random) -> list[tuple[int, int]]:
        n = rng.choice((1, 2, 8))
        return [(rng.getrandbits(64), rng.getrandbits(64)) for _ in range(n)]

    ORDERS: ClassVar = (
        *(order_frame, order_length, order_legacy, order_context, order_segments),
        *(order_endless, order_garbage),
    )
    ORDER_WEIGHTS: ClassVar = (12, 3, 3, 2, 5, 1, 2)

    # -- registers -------------------------------------------------------------

    def start(self, rng: random.Random) -> None:
        """What a driver does first, so that there is something to disturb."""
        host = self.host
        host.card.plug(rng.random() < 0.97)
        host.card.store(lib.MODEL_CONFIG, 4, b"\x07\x00")
        self.set("CTRL", 0)
        self.set("SECRXCTRL", 0)
        self.set("SECTXCTRL", 0)
        self.set("HLREG0", rng.choice((0, 0x8000, 0x402, 0x403, 0x407, 0x407, 0x406)))
        self.set("MAXFRS", rng.choice((0x5EE, 9018, 16128, 0xFFFF)) << 16)
        host.start(promiscuous=rng.random() < 0.8)
        self.set("PFVTCTL", 0)
        self.set("MTQC", 0)
        self.set("MRQC", 0)

    def write_registers(self, rng: random.Random) -> None:
        for _ in range(rng.choice((1, 1, 2, 8, 40))):
            self.done["accesses"] += 1
            self.host.card.write(any_register(rng), any_value(rng))

    def read_registers(self, rng: random.Random) -> None:
        for _ in range(rng.choice((1, 16))):
            self.done["accesses"] += 1
            at = rng.choice(
                (any_register(rng), rng.getrandbits(17), rng.getrandbits(32))
            )
            self.host.card.read(at)
        if rng.random() < 0.3:
            self.host.card.write(
                rng.getrandbits(rng.choice((17, 18, 32))), any_value(rng)
            )

    def access(self, rng: random.Random) -> None:
        """Any region, offset and size, as it comes from a foreign program."""
        for _ in range(rng.choice((1, 8))):
            self.done["accesses"] += 1
            region = rng.choice((0, 0, 2, 4, 7, 7, 1, 8, rng.getrandbits(32)))
            size = {0: 131072, 2: 32, 4: 16384, 7: 4096}.get(region, 64)
            at = rng.choice(
                (any_register(rng), rng.randrange(size), size - 1, size - 4)
            )
            at = rng.choice((at, at, at, at & ~7, size, rng.getrandbits(64)))
            n = rng.choice((1, 2, 4, 4, 4, 8, 0, 3, 5, 16, 4096, rng.randint(0, 9000)))
            try:
                if rng.random() < 0.5:
                    assert len(self.host.card.access(region, at, n)) == n
                else:
                    self.host.card.store(region, at, rng.randbytes(n))
            except ValueError:
                pass

    def configure(self, rng: random.Random) -> None:
        """Of configuration space what does something: mastering, power, FLR."""
        store = self.host.card.store
        kind = rng.choice(("master", "master", "power", "flr", "any"))
        if kind == "master":
            store(lib.MODEL_CONFIG, 4, rng.choice((b"\x07\x00", b"\x03\x00", b"\0\0")))
        elif kind == "power":
            store(lib.MODEL_CONFIG, 0x44, bytes([rng.randrange(4)]))
            store(lib.MODEL_CONFIG, 0x44, bytes([rng.choice((0, 0, 3))]))
        elif kind == "flr":
            store(lib.MODEL_CONFIG, 0xA8, b"\x00\x80")
        else:
            store(lib.MODEL_CONFIG, rng.randrange(256), rng.randbytes(4))

    def reset(self, rng: random.Random) -> None:
        kind = rng.randrange(3)
        if kind == 0:
            self.host.card.reset()
        else:
            self.set("CTRL", (1 << 26, 1 << 3)[kind - 1])

    def virtualise(self, rng: random.Random) -> None:
        """Pools, replication, mirrors, the switch inside, spoof checks."""
        self.set("PFVTCTL", 1 | rng.choice((0, 1, 63)) << 7 | rng.randrange(4) << 29)
        self.set("MRQC", rng.choice((8, 10, 11, 1, 0)) | rng.getrandbits(8) << 16)
        self.set("MTQC", rng.choice((0, 1, 3, 6, 10, 11)))
        self.set("PFDTXGSWC", rng.getrandbits(1))
        for n in range(2):
            every = rng.choice((0xFFFFFFFF, 0xFFFFFFFF, rng.getrandbits(32)))
            self.set("PFVFRE", every, n)
            self.set("PFVFTE", every, n)
            self.set("PFVMTXSW", rng.getrandbits(32), n)
            self.set("PFVFSPOOF", rng.choice((0, 0xFFFF, rng.getrandbits(16))), n)
        for pool in (0, 1, rng.randrange(64)):
            self.set("PFVML2FLT", rng.choice((0x1F << 24, rng.getrandbits(32))), pool)
            self.set("PFVMVIR", rng.choice((0, 0, any_value(rng))), pool)
        for rule in range(4):
            bits = rng.choice((0, 0, rng.randrange(16) | rng.randrange(64) << 8))
            self.set("PFMRCTL", bits, rule)
            self.set("PFMRVM", rng.getrandbits(32), rule)
        self.set("MPSAR_LO", rng.getrandbits(32))

    def interrupt(self, rng: random.Random) -> None:
        fds = [*self.eventfds, -1]
        for _ in range(4):
            vector = rng.choice((0, 1, 63, 64, 2**32 - 1))
            self.host.card.set_interrupt(
                rng.choice((0, 1, 2, 3)), vector, rng.choice(fds)
            )
        self.set("GPIE", any_value(rng))
        for name in ("IVAR", "EITR", "EIMS", "EIMS_EX", "EICS", "EIAC", "EIAM"):
            self.set(name, any_value(rng))
        self.host.card.unmask_intx()
        if rng.random() < 0.2:
            fd = rng.choice(self.eventfds)
            try:
                os.eventfd_write(fd, 2**64 - 2)  # full
            except BlockingIOError:
                os.eventfd_read(fd)

    # -- memory ----------------------------------------------------------------

    def place_for(self, rng: random.Random, size: int) -> int:
        """Return where a region may go: beside another, over it, or far away."""
        mapping = rng.choice(
            self.host.mappings or [Mapping(IOVA, 1, self.host.main, 3)]
        )
        end = mapping.iova + mapping.size
        near = (end, end, mapping.iova - size, end - 1, end + 1, mapping.iova)
        far = (0, 2**64 - size, IOVA, rng.getrandbits(rng.choice((32, 48, 64))))
        return int(rng.choice((*near, *far))) % 2**64

    def map_memory(self, rng: random.Random) -> None:
        sizes = (1, 15, 16, 127, 2048, PAGE - 1, PAGE, PAGE + 1, 40000, 65536)
        flags = rng.choice((READ, WRITE, READ | WRITE, READ | WRITE, READ | WRITE))
        if rng.random() < 0.4:
            file = SharedFile(PAGE * rng.choice((1, 2, 16)))
            self.host.files.append(file)
            self.host.add_file(self.place_for(rng, file.size), file, flags)
        elif rng.random() < 0.2:
            memory = rng.choice(self.host.memories)  # it may be there already
            self.host.add(self.place_for(rng, memory.size), memory, flags)
        else:
            memory = self.host.new_memory(rng.choice(sizes))
            self.host.add(self.place_for(rng, memory.size), memory, flags)
        for wrong in ((0, 0, 3), (IOVA, 2**64 - 1, 3), (2**64 - 1, 2, 3), (0, 1, 8)):
            try:
                self.host.card.map(wrong[0], self.host.main.address, *wrong[1:])
            except OSError:
                continue
            raise AssertionError(f"mapped {wrong}")

    def unmap_memory(self, rng: random.Random) -> None:
        kind = rng.random()
        if not self.host.mappings or kind < 0.05:
            self.host.card.unmap_all()
            self.host.forget(list(self.host.mappings))
        elif kind < 0.6:
            mapping = rng.choice(self.host.mappings)
            self.host.remove(mapping.iova, mapping.size)
        elif kind < 0.8:
            mapping = rng.choice(self.host.mappings)
            at = mapping.iova + rng.randint(-2, 2)
            if 0 <= at < 2**64:
                size = max(mapping.size + rng.randint(-2, 2), 1)
                self.host.remove(at, min(size, 2**64 - at))
        else:
            at = rng.getrandbits(64)
            self.host.remove(at, rng.randint(1, 2**64 - at))

    def restore(self, rng: random.Random) -> None:
        """Give the main memory back, so that things go on."""
        del rng
        if all(mapping.memory is not self.host.main for mapping in self.host.mappings):
            self.host.add(IOVA, self.host.main, READ | WRITE)

    def shrink(self, rng: random.Random) -> None:
        """Take the pages of a file away under the card's mapping, or give them back."""
        if self.host.files:
            file = rng.choice(self.host.files)
            file.resize(rng.choice((0, 1, PAGE, file.size // 2, file.size)))

    # -- wire and time ---------------------------------------------------------

    def room(self) -> int:
        link = self.host.wire.inputs[0]
        return int(lib.LINK_CAPACITY - (link.write - link.read) % 2**32)

    def arrive(self, rng: random.Random) -> None:
        """Frames on the wire, some with metadata that lie."""
        wire = self.host.wire
        for _ in range(min(rng.choice((1, 1, 8, 64)), self.room())):
            frame = frame_of(rng, self.host.card.mac)
            packet = lib.engine_packet_alloc(wire.freelist, len(frame))
            if not packet:
                break
            ffi.memmove(packet.data, frame, len(frame))
            if rng.random() < 0.2:
                packet.flags = rng.choice((0, 1, 2, 3))
                packet.gso_type = rng.choice((0, 1, 4, 5, 129, 132, rng.getrandbits(8)))
                packet.gso_size = rng.choice((0, 1, 100, 1460, rng.getrandbits(16)))
                packet.csum_start = rng.choice((0, 14, 34, 54, rng.getrandbits(16)))
                packet.csum_offset = rng.choice((6, 16, 0, rng.getrandbits(16)))
            self.done["frames"] += 1
            lib.engine_link_transmit(
                wire.inputs[0], ffi.new("struct packet *[]", [packet]), 1
            )
        self.step(rng)

    def super_frame(self, rng: random.Random) -> None:
        """A whole one of 64 KiB, in as many segments as it says."""
        size = rng.choice((1, 64, 100, 1460, 9000, 20000))
        l3 = struct.pack(">BBHHHBBH", 0x45, 0, 0, 1, 0, 64, 6, 0) + rng.randbytes(8)
        l4 = rng.randbytes(12) + b"\x50\x18" + bytes(6)
        payload = rng.randint(0, 65000)
        frame = self.host.card.mac + bytes(6) + b"\x08\0" + l3 + l4 + bytes(payload)
        packet = lib.engine_packet_alloc(self.host.wire.freelist, len(frame))
        if packet and self.room():
            ffi.memmove(packet.data, frame, len(frame))
            packet.flags, packet.csum_start, packet.csum_offset = 1, 34, 16
            packet.gso_type, packet.gso_size = 1, size
            lib.engine_link_transmit(
                self.host.wire.inputs[0], ffi.new("struct packet *[]", [packet]), 1
            )
        elif packet:
            lib.engine_packet_free(self.host.wire.freelist, packet)
        self.step(rng)

    def step(self, rng: random.Random) -> None:
        wire = self.host.wire
        for _ in range(rng.choice((1, 1, 3))):
            ns = rng.choice((0, 1, 1000, 10**5, 10**5, 10**6, 10**9))
            if rng.random() < 0.02:
                ns = rng.choice((10**13, 10**15, 10**16, 10**17))
            wire.breathe(min(ns, LATEST - int(wire.worker.now)))
        if rng.random() < 0.9:
            for frame in wire.received():
                assert 14 <= len(frame) <= lib.MODEL_FRAME_MAX + 4, len(frame)

    def idle(self, rng: random.Random) -> None:
        """What a worker does beside breathing; the cable; no wire at all."""
        wire = self.host.wire
        wire.tick()
        wire.arm()
        assert lib.engine_app_held(wire.struct) <= wire.pool.total
        self.host.card.plug(rng.random() < 0.7)
        wire.struct.output[0] = rng.choice((wire.outputs[0], wire.outputs[0], ffi.NULL))

    def starve(self, rng: random.Random) -> None:
        """Leave the card no packet, or give them back."""
        if self.taken or rng.random() < 0.3:
            self.give_back()
            return
        self.take_all()
        for _ in range(rng.choice((0, 1, 20))):
            lib.engine_packet_free(self.host.wire.freelist, self.taken.pop())

    def choke(self, rng: random.Random) -> None:
        """A small packet buffer and nobody who takes from it."""
        self.set("RXPBSIZE", rng.choice((0, 1, 4, 64, 0x3FF)) << 10)
        self.set("FCCFG", rng.choice((0, 8)))
        self.set("FCRTH", 1 << 31 | rng.getrandbits(14))
        self.set("FCRTL", 1 << 31 | rng.getrandbits(10))
        self.set("FCTTV", rng.getrandbits(16))
        self.set("RDT", self.host.get("RDH"))
        self.arrive(rng)

    BEGINNING: ClassVar[tuple[episodes.Action, ...]] = (
        start,
        receive_ring,
        transmit_ring,
    )
    WEIGHTED: ClassVar[dict[episodes.Action, int]] = {
        start: 10,
        receive_ring: 8,
        transmit_ring: 12,
        post: 6,
        transmit: 14,
        write_registers: 5,
        read_registers: 3,
        access: 5,
        configure: 2,
        reset: 2,
        virtualise: 3,
        interrupt: 2,
        map_memory: 5,
        unmap_memory: 3,
        restore: 5,
        shrink: 3,
        arrive: 14,
        super_frame: 2,
        step: 8,
        idle: 3,
        starve: 2,
        choke: 2,
    }
