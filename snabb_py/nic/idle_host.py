"""A host that gives each descriptor back at once: to measure a software card alone."""

import struct
from typing import Any

from snabb_py._native import ffi, lib
from snabb_py.engine.app import App
from snabb_py.engine.memory import new_aligned
from snabb_py.nic.model82599 import Card
from snabb_py.nic.registers import offset

DESCRIPTORS = 512
RING = 16 * DESCRIPTORS
#: No power of two: neighbours fall into different cache sets.
STRIDE = 2048 + 128
#: Where the card sees the host's memory.
IOVA = 1 << 32
#: A driver asks to be told of every 32nd frame.
REPORT_EVERY = 32
#: Advanced data descriptor, EOP, IFCS (data sheet 7.2.3.2.4).
SEND = 0x2330_0000
#: Advanced receive descriptors, one buffer, 2 KiB (8.2.3.8.7).
RECEIVE = 1 << 25 | 2
#: RSS over addresses and ports of TCP and UDP (8.2.3.7.12).
RSS = 1 | 1 << 16 | 1 << 17 | 1 << 20 | 1 << 21 | 1 << 22 | 1 << 23
HASHES = 128  #: entries of RETA
ENABLE = 1 << 25


class IdleHost(App):
    """Keeps a card running, one way; no ports.

    Args:
        card: a card whose wire is an app of the same worker.
        transmit: frame that it sends again and again; None: it receives.
        queues: that it receives on, 1 to 16; of several, RSS chooses.
    """

    ops = ffi.addressof(lib.idle_host_ops)

    def __init__(
        self, card: Card, transmit: bytes | None = None, queues: int = 1
    ) -> None:
        rings, n = queues * RING, queues * DESCRIPTORS
        self.size = rings + n * STRIDE
        self.memory: Any = ffi.cast("uint8_t *", lib.engine_alloc(self.size))
        self.card = card
        card.map(IOVA, self.memory, self.size)
        card.store(lib.MODEL_CONFIG, 4, b"\x06\x00")  # memory, bus mastering
        descriptors = bytearray()
        for i in range(n):
            at = rings + i * STRIDE
            second = 0
            if transmit is not None:
                ffi.memmove(self.memory + at, transmit, len(transmit))
                report = (i % REPORT_EVERY == 0) << 27
                second = len(transmit) | SEND | report | len(transmit) << 46
            descriptors += struct.pack("<QQ", IOVA + at, second)
        ffi.memmove(self.memory, bytes(descriptors), rings)
        self.fresh = ffi.new("struct idle_descriptor[]", n)
        ffi.memmove(self.fresh, bytes(descriptors), rings)
        letter = "R" if transmit is None else "T"
        for queue in range(queues):
            at = IOVA + queue * RING
            for name, value in (
                ("DBAL", at & 0xFFFFFFFF),
                ("DBAH", at >> 32),
                ("DLEN", RING),
            ):
                card.write(offset(letter + name, queue), value)
        if transmit is None:
            self._receive(queues)
        else:
            card.write(offset("DMATXCTL"), card.read(offset("DMATXCTL")) | 1)
            card.write(offset("TXDCTL"), ENABLE)
        self.state = new_aligned(
            "struct idle_host *",
            {
                "registers": card.registers,
                "nqueues": queues,
                "n": DESCRIPTORS,
                "receives": transmit is None,
                "transmits": transmit is not None,
                "rings": ffi.cast("struct idle_descriptor *", self.memory),
                "fresh": self.fresh,
            },
        )

    def _receive(self, queues: int) -> None:
        card = self.card
        card.write(offset("FCTRL"), 0x700)  # everything
        if queues > 1:
            for i in range(10):
                card.write(offset("RSSRK", i), 0x5A6D_DA25 * (2 * i + 1) & 0xFFFFFFFF)
            for i in range(0, HASHES, 4):
                entry = bytes(k % queues for k in range(i, i + 4))
                card.write(offset("RETA", i // 4), int.from_bytes(entry, "little"))
            card.write(offset("MRQC"), RSS)
        for queue in range(queues):
            card.write(offset("SRRCTL", queue), RECEIVE)
            card.write(offset("RXDCTL", queue), ENABLE)
        card.write(offset("RXCTRL"), 1)

    def close(self) -> None:
        """Take the memory away from the card."""
        self.card.unmap(IOVA, self.size)
        lib.engine_free(self.memory)
