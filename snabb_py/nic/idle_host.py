"""A host that gives each descriptor back at once: to measure a software card alone."""

import struct
from typing import Any

from snabb_py._native import ffi, lib
from snabb_py.engine.app import App
from snabb_py.engine.memory import new_aligned
from snabb_py.nic.model82599 import Card
from snabb_py.nic.registers import offset

DESCRIPTORS = 512
#: No power of two: neighbours fall into different cache sets.
STRIDE = 2048 + 128
#: Where the card sees the host's memory.
IOVA = 1 << 32
#: A driver asks to be told of every 32nd frame.
REPORT_EVERY = 32


class IdleHost(App):
    """Keeps queue 0 of a card running, one way; no ports.

    Args:
        card: a card whose wire is an app of the same worker.
        transmit: frame that it sends again and again; None: it receives.
    """

    ops = ffi.addressof(lib.idle_host_ops)

    def __init__(self, card: Card, transmit: bytes | None = None) -> None:
        ring = 16 * DESCRIPTORS
        size = ring + DESCRIPTORS * STRIDE
        self.memory: Any = ffi.cast("uint8_t *", lib.engine_alloc(size))
        self.size = size
        self.card = card
        card.map(IOVA, self.memory, size)
        card.store(lib.MODEL_CONFIG, 4, b"\x06\x00")  # memory, bus mastering
        descriptors = bytearray()
        for i in range(DESCRIPTORS):
            at = ring + i * STRIDE
            second = 0
            if transmit is not None:
                ffi.memmove(self.memory + at, transmit, len(transmit))
                report = (i % REPORT_EVERY == 0) << 27
                # advanced data descriptor, EOP, IFCS (data sheet 7.2.3.2.4)
                second = len(transmit) | 0x2330_0000 | report | len(transmit) << 46
            descriptors += struct.pack("<QQ", IOVA + at, second)
        ffi.memmove(self.memory, bytes(descriptors), ring)
        letter = "R" if transmit is None else "T"
        for name, value in (
            ("DBAL", IOVA & 0xFFFFFFFF),
            ("DBAH", IOVA >> 32),
            ("DLEN", ring),
        ):
            card.write(offset(letter + name), value)
        if transmit is None:
            card.write(offset("SRRCTL"), 2)  # legacy descriptors, 2 KiB
            card.write(offset("FCTRL"), 0x700)  # everything
            card.write(offset("RXDCTL"), 1 << 25)
            card.write(offset("RXCTRL"), 1)
        else:
            card.write(offset("DMATXCTL"), card.read(offset("DMATXCTL")) | 1)
            card.write(offset("TXDCTL"), 1 << 25)
        self.state = new_aligned(
            "struct idle_host *",
            {
                "registers": card.registers,
                "n": DESCRIPTORS,
                "receives": transmit is None,
                "transmits": transmit is not None,
            },
        )

    def close(self) -> None:
        """Take the memory away from the card."""
        self.card.unmap(IOVA, self.size)
        lib.engine_free(self.memory)
