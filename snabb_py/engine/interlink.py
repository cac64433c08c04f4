"""Interlink: a link between two workers, put in by the engine.

Where a link joins apps of different workers, `plan.expand` puts a transmitter on the
one side and a receiver on the other; both share the ring. A full ring holds the
transmitter's input up: nothing is lost between workers.
"""

import os
from typing import Any

from snabb_py._native import ffi, lib
from snabb_py.engine.app import App, Ports, Resources
from snabb_py.engine.memory import new_aligned


class InterlinkRing:
    """The ring between two workers, and the eventfd that wakes its consumer.

    Args:
        pool: where packets go that are left on the ring when it is closed.
    """

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.ring = new_aligned("struct interlink *")
        self.ring.wake_fd = self.wake_fd

    def close(self) -> None:
        """Give the ring up; both sides have left the network."""
        packets = ffi.new("struct packet *[]", lib.INTERLINK_CAPACITY)
        n = lib.interlink_reclaim(self.ring, packets, lib.INTERLINK_CAPACITY)
        lib.pool_return(self.pool, packets, n)
        os.close(self.wake_fd)


class _Interlink(App):
    """What both sides share: the ring, by the name of the link that it carries."""

    def __init__(self, link: str) -> None:
        self.link = link

    def open(self, resources: Resources) -> None:
        """Borrow the ring of this link."""
        self.ring = resources.borrow(
            f"interlink:{self.link}",
            lambda: InterlinkRing(resources.pool),
            shared=True,
        )
        self.state = self.ring.ring


class InterlinkTransmitter(_Interlink):
    """The producer's side.

           +----------------------+
    rx --->| InterlinkTransmitter |~~~>
           +----------------------+
    """

    inputs = Ports("rx")
    ops = ffi.addressof(lib.interlink_transmitter_ops)


class InterlinkReceiver(_Interlink):
    """The consumer's side.

        +-------------------+
    ~~~>| InterlinkReceiver |---> tx
        +-------------------+
    """

    outputs = Ports("tx")
    ops = ffi.addressof(lib.interlink_receiver_ops)
    is_internal = True
