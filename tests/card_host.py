"""A host for a software card: memory, rings and the few registers that make it run.

    with CardHost() as host:
        rx, tx = host.receive_queue(0), host.transmit_queue(0)
        host.start()
        host.arrive([frame])            on the wire
        assert rx.frames() == [frame]
        tx.send([frame])
        assert host.sent() == [frame]   on the wire

It is no driver: it does what the test says, wrong things too. Time is the test's, as in
`tests.harness`.
"""

import os
import struct
from dataclasses import dataclass
from enum import IntFlag
from types import TracebackType
from typing import Any, Self

from snabb_py._native import ffi, lib
from snabb_py.nic.model82599 import Card, SoftwareCard
from snabb_py.nic.registers import offset
from tests.harness import Harness

#: Where the host's memory begins as the card sees it: not where it is.
IOVA = 0x40_0000_0000
GUARD_SIZE = 64 << 10
GUARD = bytes.fromhex("a5") * GUARD_SIZE

# transmit descriptors, second word
EOP, IFCS, IC, RS, DEXT, VLE, TSE = (1 << n for n in (24, 25, 26, 27, 29, 30, 31))
DATA, CONTEXT = 3 << 20 | DEXT, 2 << 20 | DEXT
IXSM, TXSM = 1 << 40, 1 << 41
DD = 1


class Status(IntFlag):
    """Status and errors of a receive descriptor: 7.1.6.2."""

    DD = 1 << 0
    EOP = 1 << 1
    VP = 1 << 3
    UDPCS = 1 << 4
    L4I = 1 << 5
    IPCS = 1 << 6
    PIF = 1 << 7
    LB = 1 << 18
    RXE = 1 << 29
    L4E = 1 << 30
    IPE = 1 << 31


class Kind(IntFlag):
    """Packet type of a receive descriptor."""

    IPV4 = 1 << 4
    IPV4E = 1 << 5
    IPV6 = 1 << 6
    IPV6E = 1 << 7
    TCP = 1 << 8
    UDP = 1 << 9
    SCTP = 1 << 10


@dataclass(frozen=True)
class Received:
    """What one receive descriptor says.

    Args:
        data: what its buffer holds.
        status: with the errors; those of a legacy descriptor in the same places.
        vlan: its field for the tag.
        low: its first word.
    """

    data: bytes
    status: Status
    vlan: int
    low: int

    @property
    def is_end(self) -> bool:
        return Status.EOP in self.status

    @property
    def kind(self) -> Kind:
        return Kind(self.low & 0x1FFF0)

    @property
    def rss_type(self) -> int:
        return self.low & 15

    @property
    def hash(self) -> int:
        return self.low >> 32


class ReceiveQueue:
    """A receive ring whose descriptors are all posted."""

    def __init__(  # noqa: PLR0913 - the settings of a queue
        self,
        host: "CardHost",
        number: int,
        *,
        n: int = 64,
        size: int = 2048,
        kind: int = 1,
        drop: bool = False,
        strip: bool = False,
        post: bool = True,
    ) -> None:
        self.host, self.number, self.n, self.size = host, number, n, size
        self.is_advanced = kind == 1
        self.ring = host.allocate(16 * n)
        self.buffers = [host.allocate(size) for _ in range(n)]
        self.next = 0
        self.tail = 0
        host.set("RXDCTL", 0, number)
        host.set("RDBAL", self.ring & 0xFFFFFFFF, number)
        host.set("RDBAH", self.ring >> 32, number)
        host.set("RDLEN", 16 * n, number)
        host.set("SRRCTL", size // 1024 | kind << 25 | drop << 28, number)
        host.set("RDH", 0, number)
        host.set("RDT", 0, number)
        host.set("RXDCTL", 1 << 25 | strip << 30, number)
        if post:
            self.post(n - 1)

    def post(self, count: int) -> None:
        """Give the card `count` descriptors more."""
        for _ in range(count):
            self.host.poke(
                self.ring + 16 * self.tail,
                struct.pack("<QQ", self.buffers[self.tail], 0),
            )
            self.tail = (self.tail + 1) % self.n
        self.host.set("RDT", self.tail, self.number)

    def take(self, *, repost: bool = True) -> list[Received]:
        """Return the descriptors that are done."""
        result: list[Received] = []
        while len(result) < self.n:
            at = self.ring + 16 * self.next
            low, high = struct.unpack("<QQ", self.host.peek(at, 16))
            if self.is_advanced:
                status, length = high & 0xFFFFFFFF, high >> 32 & 0xFFFF
            else:
                status, length = (high >> 32 & 0xFF) | (high >> 40 & 0xFF) << 24, high
            if not status & DD:
                break
            data = self.host.peek(self.buffers[self.next], length & 0xFFFF)
            result.append(Received(data, Status(status), high >> 48, low))
            self.host.poke(at + 8, bytes(8))
            self.next = (self.next + 1) % self.n
        if repost and result:
            self.post(len(result))
        return result

    def frames(self) -> list[bytes]:
        """Return the frames that have come, joined where they took several buffers."""
        frames, frame = [], b""
        for part in self.take():
            frame += part.data
            if part.is_end:
                frames.append(frame)
                frame = b""
        assert not frame, "a frame without end"
        return frames


def cut(data: bytes, pieces: int) -> list[bytes]:
    """Return data in so many pieces, alike but for the last."""
    size = -(-len(data) // pieces)
    return [data[i : i + size] for i in range(0, len(data), size)]


class TransmitQueue:
    """A transmit ring."""

    def __init__(self, host: "CardHost", number: int, *, n: int = 64) -> None:
        self.host, self.number, self.n = host, number, n
        self.ring = host.allocate(16 * n)
        self.buffers: dict[int, tuple[int, int]] = {}
        self.tail = 0
        host.set("TXDCTL", 0, number)
        host.set("TDBAL", self.ring & 0xFFFFFFFF, number)
        host.set("TDBAH", self.ring >> 32, number)
        host.set("TDLEN", 16 * n, number)
        host.set("TDH", 0, number)
        host.set("TDT", 0, number)
        host.set("TXDCTL", 1 << 25, number)

    def put(self, low: int, high: int) -> None:
        """Write a descriptor; the tail stays."""
        self.host.poke(self.ring + 16 * self.tail, struct.pack("<QQ", low, high))
        self.tail = (self.tail + 1) % self.n

    def buffer(self, data: bytes) -> int:
        """Return where the next descriptor's data lies now, the last one's no more."""
        at, size = self.buffers.get(self.tail, (0, -1))
        if size < len(data):
            at, size = self.host.allocate(len(data)), len(data)
            self.buffers[self.tail] = at, size
        self.host.poke(at, data)
        return at

    def put_frame(self, frame: bytes, high: int = 0, *, pieces: int = 1) -> None:
        """Write the descriptors of a frame, in the advanced form."""
        self.put_pieces(cut(frame, pieces), DATA | IFCS | len(frame) << 46 | high)

    def put_pieces(self, parts: list[bytes], high: int) -> None:
        """Write the descriptors of a frame, with RS at its end."""
        for i, part in enumerate(parts, start=1):
            end = EOP | RS if i == len(parts) else 0
            self.put(self.buffer(part), len(part) | end | high)

    def put_context(  # noqa: PLR0913 - its fields
        self,
        *,
        mac: int = 14,
        ip: int = 20,
        l4: int = 0,
        mss: int = 0,
        vlan: int = 0,
        protocol: int = 0,
        is_ipv4: bool = True,
        n: int = 0,
    ) -> None:
        """Write a context descriptor.

        Args:
            mac: length of a header, as `ip` and `l4`.
            ip: as above.
            l4: as above; for segmentation alone.
            mss: of segments, bytes of payload.
            vlan: tag.
            protocol: of L4T: 0 UDP, 1 TCP, 2 SCTP.
            is_ipv4: or IPv6.
            n: which of two.
        """
        high = CONTEXT | is_ipv4 << 10 | protocol << 11 | n << 36 | l4 << 40 | mss << 48
        self.put(ip | mac << 9 | vlan << 16, high)

    def ring_doorbell(self) -> None:
        self.host.set("TDT", self.tail, self.number)

    def send(self, frames: list[bytes], high: int = 0, *, pieces: int = 1) -> None:
        """Send frames, each in so many pieces."""
        for frame in frames:
            self.put_frame(frame, high, pieces=pieces)
        self.ring_doorbell()

    def is_done(self, n: int) -> bool:
        """Return whether descriptor n has been completed."""
        return bool(self.host.peek(self.ring + 16 * n + 12, 1)[0] & DD)


class Interrupt:
    """An interrupt of the card, and how often it came."""

    def __init__(self, card: Card, index: int, vector: int) -> None:
        self.card, self.index, self.vector = card, index, vector
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        card.set_interrupt(index, vector, self.fd)

    def taken(self) -> int:
        """Return how often it came since this was last asked."""
        try:
            return os.eventfd_read(self.fd)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        self.card.set_interrupt(self.index, self.vector, -1)
        os.close(self.fd)


class CardHost:
    """A card, its wire, and memory that it may reach.

    Args:
        card: instead of a new one; closed here all the same.
        memory: bytes; what lies around them is watched, for the card may not reach it.
        packets: in the wire's pool.
    """

    def __init__(
        self, *, card: Card | None = None, memory: int = 4 << 20, packets: int = 4096
    ) -> None:
        self.card = card or Card()
        self.wire = Harness(SoftwareCard(self.card), small=packets)
        self.size = memory
        self._around: Any = ffi.new("uint8_t[]", memory + 2 * GUARD_SIZE)
        for guard in self._guards():
            ffi.memmove(guard, GUARD, GUARD_SIZE)
        self.memory: Any = self._around + GUARD_SIZE
        self.used = 0
        self.receive_queues: dict[int, ReceiveQueue] = {}
        self.transmit_queues: dict[int, TransmitQueue] = {}
        self.interrupts: list[Interrupt] = []
        self.card.map(IOVA, self.memory, memory)
        self.card.store(lib.MODEL_CONFIG, 4, b"\x07\x00")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for interrupt in self.interrupts:
            interrupt.close()
        self.wire.__exit__(kind, error, trace)
        self.card.close()
        if error is None:
            assert self.is_guarded(), "the card wrote beside the memory it was given"

    # -- memory ----------------------------------------------------------------

    def allocate(self, size: int, align: int = 128) -> int:
        """Return the card's address of fresh memory."""
        at = -(-self.used // align) * align
        if at + size > self.size:
            raise MemoryError("the test wants more memory than it asked for")
        self.used = at + size
        return IOVA + at

    def _guards(self) -> tuple[Any, Any]:
        return self._around, self._around + GUARD_SIZE + self.size

    def is_guarded(self) -> bool:
        """Return whether what lies around the memory is as it was."""
        return all(bytes(ffi.buffer(at, GUARD_SIZE)) == GUARD for at in self._guards())

    def peek(self, iova: int, n: int) -> bytes:
        return bytes(ffi.buffer(self.memory + (iova - IOVA), n))

    def poke(self, iova: int, data: bytes) -> None:
        ffi.memmove(self.memory + (iova - IOVA), data, len(data))

    # -- registers -------------------------------------------------------------

    def get(self, name: str, n: int = 0) -> int:
        """Read a register by name."""
        return self.card.read(offset(name, n))

    def set(self, name: str, value: int, n: int = 0) -> None:
        """Write a register by name."""
        self.card.write(offset(name, n), value)

    def start(self, *, promiscuous: bool = True) -> None:
        """Let the card receive and send."""
        self.set("HLREG0", self.get("HLREG0") | 1 << 10 | 1 << 1 | 1)
        self.set("FCTRL", 0x700 if promiscuous else 0x400)
        self.set("DMATXCTL", self.get("DMATXCTL") | 1)
        self.set("RXCTRL", 1)

    def receive_queue(self, number: int, **settings: Any) -> ReceiveQueue:
        """Make and enable a queue; the card receives with `start`."""
        self.receive_queues[number] = ReceiveQueue(self, number, **settings)
        return self.receive_queues[number]

    def transmit_queue(self, number: int, **settings: Any) -> TransmitQueue:
        """Make and enable a queue; the card sends with `start`."""
        self.transmit_queues[number] = TransmitQueue(self, number, **settings)
        return self.transmit_queues[number]

    def interrupt(self, index: int, vector: int = 0) -> Interrupt:
        """Take an interrupt: INTx, MSI or a vector of MSI-X, by VFIO's index."""
        self.interrupts.append(Interrupt(self.card, index, vector))
        return self.interrupts[-1]

    # -- wire ------------------------------------------------------------------

    def step(self, ns: int = 100_000) -> int:
        """Let the card work for a while; return how much moved."""
        return self.wire.breathe(ns)

    def arrive(self, frames: list[bytes], **metadata: int) -> None:
        """Let frames arrive on the wire."""
        self.wire.send(frames, **metadata)
        self.step()

    def sent(self) -> list[bytes]:
        """Return the frames that the card has sent until now."""
        frames: list[bytes] = []
        for _ in range(1000):
            moved = self.step()
            more = self.wire.received()
            frames += more
            if not moved and not more:
                return frames
        raise AssertionError("the card does not come to rest")

    @property
    def counters(self) -> dict[str, int]:
        """The card's counters that are not 0."""
        return {name: n for name, n in self.card.counters.items() if n}
