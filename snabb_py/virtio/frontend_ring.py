"""Rings in a guest's memory, laid out as one likes. Imports the extension."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from snabb_py._native import ffi

#: Where memory is in the guest, far from where it is here.
GUEST_BASE: Final = 0x1_0000_0000


@dataclass(frozen=True)
class Layout:
    """How a guest lays out a ring.

    Attributes:
        size: places, a power of two.
        pieces: descriptors of a buffer; with more than one, the first is the header's.
        indirect: they are in a table of their own.
        room: bytes of a buffer.
    """

    size: int = 256
    pieces: int = 1
    indirect: bool = False
    room: int = 2048

    @property
    def nbuffers(self) -> int:
        """Buffers that the ring has: a power of two."""
        most = self.size if self.indirect else self.size // self.pieces
        return 1 << (most.bit_length() - 1)

    @property
    def stride(self) -> int:
        """Bytes from one buffer to the next: no power of two."""
        return -(-self.room // 128) * 128 + 64

    @property
    def bytes_needed(self) -> int:
        """Of ring, tables and buffers, with room to align each."""
        n = self.size
        tables = 16 * self.pieces * self.nbuffers if self.indirect else 0
        return 26 * n + tables + self.stride * self.nbuffers + 4096


class Ring:
    """A ring in the guest's memory.

    Args:
        base: of the memory, here.
        take: gives the offset of so many bytes of it.
        struct: `struct frontend_ring *`, filled in.
        layout: of the ring.

    Attributes:
        offsets: of descriptors, available and used in the memory.
    """

    def __init__(
        self, base: Any, take: Callable[[int], int], struct: Any, layout: Layout
    ) -> None:
        self.layout, self.struct = layout, struct
        n = layout.size
        self.offsets = tuple(take(k * n + 8) for k in (16, 2, 8))
        pointers = [base + offset for offset in self.offsets]
        struct.desc = ffi.cast("struct virtq_desc *", pointers[0])
        struct.avail = ffi.cast("uint16_t *", pointers[1])
        struct.used = ffi.cast("uint16_t *", pointers[2])
        if layout.indirect:
            at = take(16 * layout.pieces * layout.nbuffers)
            struct.tables = ffi.cast("struct virtq_desc *", base + at)
            struct.tables_address = GUEST_BASE + at
        at = take(layout.stride * layout.nbuffers)
        struct.buffers = base + at
        struct.address = GUEST_BASE + at
        struct.stride, struct.room = layout.stride, layout.room
        struct.nbuffers, struct.pieces = layout.nbuffers, layout.pieces
        self.kick = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    @property
    def elements(self) -> Any:
        """The used ring: `struct virtq_used *`."""
        return ffi.cast("struct virtq_used *", self.struct.used + 2)

    def clear(self) -> None:
        """Make the ring as a driver does that starts."""
        n = self.layout.size
        ffi.memmove(self.struct.desc, bytes(16 * n), 16 * n)
        ffi.memmove(self.struct.avail, bytes(6 + 2 * n), 6 + 2 * n)
        ffi.memmove(self.struct.used, bytes(6 + 8 * n), 6 + 8 * n)
        self.struct.given = self.struct.taken = 0

    def describe(
        self, i: int, address: int, length: int, flags: int, after: int
    ) -> None:
        """Write a descriptor, whatever it says."""
        self.struct.desc[i] = (address, length, flags, after)

    def offer(self, *heads: int) -> None:
        """Make buffers available, and kick."""
        index = int(self.struct.avail[1])
        for head in heads:
            self.struct.avail[2 + index % self.layout.size] = head
            index = (index + 1) % 2**16
        self.struct.avail[1] = index
        os.eventfd_write(self.kick, 1)
