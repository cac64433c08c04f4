"""Packets, bursts and links as a Python app sees them.

    Packet   one packet; `data` is its bytes in place
    Burst    what one `receive_burst` took: many packets for the price of a call
    Link     a link's end

Ownership: a packet that a Python app received or made is the app's until it is
transmitted or freed; what it still owns when it fails or leaves is freed for it. The
`data` of a packet that is no longer owned must not be used: the bytes may be another
packet's. Who keeps packets or links and uses them when the app has left gets a
ValueError. Imports the extension.
"""

from collections.abc import Iterator
from typing import Any

from snabb_py._native import ffi, lib

_PACKETS = "struct packet *[]"


class Owner:
    """The packets that one Python app owns, by address."""

    def __init__(self, freelist: Any) -> None:
        self.freelist = freelist
        self.packets: dict[int, Any] = {}
        self.has_ended = False

    def check(self) -> None:
        """See that the app has not left: its packets and links may be gone.

        Raises:
            ValueError: it has.
        """
        if self.has_ended:
            raise ValueError("the app has left the engine, without its packets")

    def end(self) -> int:
        """Free what is owned, for good; return how many packets that were."""
        self.has_ended = True
        return self.free_all()

    def take(self, packet: Any) -> None:
        """Note that a `struct packet *` is the app's now."""
        self.packets[int(ffi.cast("uintptr_t", packet))] = packet

    def give(self, packet: Any) -> None:
        """Note that it is not any more.

        Raises:
            ValueError: it was not.
        """
        if self.packets.pop(int(ffi.cast("uintptr_t", packet)), None) is None:
            raise ValueError("the packet was transmitted or freed before")

    def free_all(self) -> int:
        """Free what is owned; return how many packets that were."""
        n = len(self.packets)
        for packet in self.packets.values():
            lib.engine_packet_free(self.freelist, packet)
        self.packets.clear()
        return n


class Packet:
    """One packet.

    Attributes:
        pointer: the `struct packet *`.
    """

    __slots__ = ("owner", "pointer")

    def __init__(self, owner: Owner, pointer: Any) -> None:
        self.owner = owner
        self.pointer = pointer

    @property
    def length(self) -> int:
        """Bytes of the frame, without FCS."""
        return len(self)

    @property
    def data(self) -> Any:
        """The frame in place: a writable buffer, good until the packet is gone."""
        self.owner.check()
        return ffi.buffer(self.pointer.data, self.pointer.length)

    def __len__(self) -> int:
        self.owner.check()
        return int(self.pointer.length)

    def __bytes__(self) -> bytes:
        return bytes(self.data)

    def clone(self) -> "Packet | None":
        """Return a copy of its own, or None when the pool is empty."""
        self.owner.check()
        copy = lib.engine_packet_clone(self.owner.freelist, self.pointer)
        if not copy:
            return None
        self.owner.take(copy)
        return Packet(self.owner, copy)

    def free(self) -> None:
        """Give the packet back to the pool."""
        self.owner.give(self.pointer)
        lib.engine_packet_free(self.owner.freelist, self.pointer)


class Burst:
    """Packets that came together. The app's, like the packets in it.

    Indexing gives `Packet`s; `pointers` and `count` are for code that goes over the
    metadata itself (`burst.pointers[i].length`).
    """

    def __init__(self, owner: Owner, pointers: Any, count: int) -> None:
        self.owner = owner
        self.pointers = pointers
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Packet:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return Packet(self.owner, self.pointers[index])

    def __iter__(self) -> Iterator[Packet]:
        for i in range(self.count):
            yield Packet(self.owner, self.pointers[i])

    @property
    def lengths(self) -> list[int]:
        """Bytes of each frame."""
        self.owner.check()
        return [p.length for p in ffi.unpack(self.pointers, self.count)]


class Link:
    """One end of a link. Belongs to the app that it was given to.

    `len(link)` is the number of packets on it, `room` of those that fit.
    """

    def __init__(self, owner: Owner, pointer: Any) -> None:
        self.owner = owner
        self.pointer = pointer
        self._scratch = ffi.new(_PACKETS, lib.LINK_CAPACITY)

    def __len__(self) -> int:
        self.owner.check()
        return int((self.pointer.write - self.pointer.read) % 2**32)

    @property
    def room(self) -> int:
        """Packets that fit on the link now."""
        return int(lib.LINK_CAPACITY) - len(self)

    def receive(self) -> Packet | None:
        """Take one packet off, or None."""
        self.owner.check()
        if not lib.engine_link_receive(self.pointer, self._scratch, 1):
            return None
        self.owner.take(self._scratch[0])
        return Packet(self.owner, self._scratch[0])

    def receive_burst(self, limit: int = lib.LINK_CAPACITY) -> Burst:
        """Take up to `limit` packets off."""
        limit = max(0, min(limit, len(self)))
        pointers = ffi.new(_PACKETS, max(limit, 1))
        count = lib.engine_link_receive(self.pointer, pointers, limit)
        for pointer in ffi.unpack(pointers, count):
            self.owner.take(pointer)
        return Burst(self.owner, pointers, count)

    def transmit(self, packet: Packet) -> bool:
        """Put a packet on; False: the link is full, it was dropped (`txdrop`)."""
        self.owner.give(packet.pointer)
        self._scratch[0] = packet.pointer
        return bool(lib.engine_link_transmit(self.pointer, self._scratch, 1))

    def transmit_burst(self, burst: Burst) -> int:
        """Put all packets of a burst on; return how many fitted."""
        self.owner.check()
        for pointer in ffi.unpack(burst.pointers, burst.count):
            self.owner.give(pointer)
        return int(lib.engine_link_transmit(self.pointer, burst.pointers, burst.count))

    def move(self, to: "Link", limit: int = lib.LINK_CAPACITY) -> int:
        """Move up to `limit` packets on to another link, as many as fit, unseen."""
        self.owner.check()
        return int(lib.engine_link_move(self.pointer, to.pointer, limit))
