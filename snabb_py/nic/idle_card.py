"""A card that completes each descriptor at once: to measure the driver alone.

idle = Idle()
config.app("card", IdleCard, idle=idle)      both in one worker
config.app("queue", IdleQueue, idle=idle)
"""

from typing import Any

from snabb_py._native import ffi, lib
from snabb_py.engine.app import App, Ports, Resources
from snabb_py.engine.memory import Memory, new_aligned
from snabb_py.nic.intel82599 import QUEUE_COUNTERS
from snabb_py.nic.intel82599_card import Area, Queue

RING = 1024
FRAME = 60  #: bytes without FCS


class Idle:
    """The rings that card and driver share."""

    def __init__(self) -> None:
        self.memory = Memory(1, huge=False)
        start = int(ffi.cast("uintptr_t", self.memory.address))
        self.queue = Queue(0, RING, RING, Area(self.memory, [start]))
        state = self.queue.state
        self.card: Any = new_aligned(
            "struct idle_card *",
            {
                "rx_ring": state.rx.ring,
                "tx_ring": state.tx.ring,
                "rx_n": RING,
                "tx_n": RING,
                "length": FRAME,
            },
        )
        state.rx.tail = ffi.addressof(self.card, "rx_tail")
        state.tx.tail = ffi.addressof(self.card, "tx_tail")
        state.tx.max_length = 1514


class IdleCard(App):
    """The card's side; no ports."""

    ops = ffi.addressof(lib.idle_card_ops)

    def __init__(self, idle: Idle) -> None:
        self.idle = idle
        self.state = idle.card


class IdleQueue(App):
    """The driver's side, as `Intel82599`."""

    inputs = Ports("rx", optional=True)
    outputs = Ports("tx", optional=True)
    counters = QUEUE_COUNTERS
    ops = ffi.addressof(lib.intel82599_ops)

    def __init__(self, idle: Idle) -> None:
        self.idle = idle
        self.state = idle.queue.state

    def open(self, resources: Resources) -> None:
        """Note where packets go back to."""
        self.pool = resources.pool

    def close(self) -> None:
        """Give the packets back, and the memory."""
        lib.intel82599_release(self.state, self.pool, self.idle.card.tx_head)
        self.idle.memory.close()
