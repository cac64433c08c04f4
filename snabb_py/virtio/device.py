"""A port's device: its rings as the front end wants them, and as the workers have them.

What a front end says is gathered in a `Ring`; `publish` makes an immutable setup of it,
which the worker takes at its next breath. Until it has, all that the setup before
refers to stays: memory is mapped, file descriptors are open. Nothing here waits for
a worker.

Imports its siblings, engine and the extension.
"""

import contextlib
import os
import select
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from snabb_py._native import ffi, lib
from snabb_py.engine.memory import new_aligned
from snabb_py.virtio.guest_memory import Region, Table
from snabb_py.virtio.message import Feature, Refusal

#: Why a ring was stopped, in the order of VIRTQ_BAD_*.
REASONS: Final = (
    "avail",
    "head",
    "next",
    "chain",
    "indirect",
    "direction",
    "address",
)
ENABLED: Final = {
    None: lib.VIRTQ_WAITS,
    True: lib.VIRTQ_ENABLED,
    False: lib.VIRTQ_DISCARDS,
}
_EVENTFD = "anon_inode:[eventfd]"


def check_eventfd(fd: int) -> None:
    """Refuse what is no eventfd, and make it one that does not let us wait.

    Its owner may undo that at any moment: see event_signal.c.

    Raises:
        Refusal: it is something else: a pipe could be full, a file have no events.
    """
    if str(Path(f"/proc/self/fd/{fd}").readlink()) != _EVENTFD:
        raise Refusal("bad-fd")
    os.set_blocking(fd, False)


class Ring:
    """What a front end has said about a ring.

    Attributes:
        size: places; 0: not said.
        addresses: of descriptors, available, used, as the front end sees them.
        is_enabled: None: it has not said since the start. What the guest sends then
            waits; what it sends on a ring that is disabled is thrown away.
        is_kickable: it has said how it kicks, which starts the ring.
        kick, call, err: eventfds, or -1.
        start: counts the starts.
    """

    def __init__(self) -> None:
        self.start = 0
        self.kick = self.call = self.err = -1
        self.forget()

    def forget(self) -> None:
        """Forget what a front end has said, its fds aside."""
        self.size = self.base = 0
        self.addresses: tuple[int, int, int] | None = None
        self.is_kickable = self.is_running = False
        self.is_enabled: bool | None = None

    @property
    def can_start(self) -> bool:
        """Whether everything has been said that a start needs."""
        return bool(self.size and self.addresses and self.is_kickable)

    def setup(self, table: Table, *, always: bool) -> dict[str, Any]:
        """Return the fields of `struct virtq_setup`; `always`: it is enabled.

        Raises:
            Refusal: the ring does not lie in the guest's memory.
        """
        fields = {
            "start": self.start,
            "call_fd": self.call,
            "err_fd": self.err,
            "enabled": ENABLED[always or self.is_enabled],
        }
        if not self.is_running or self.addresses is None:
            return fields
        n = self.size
        parts = (
            ("desc", "struct virtq_desc *", 16 * n, 16),
            ("avail", "uint16_t *", 6 + 2 * n, 2),
            ("used", "uint16_t *", 6 + 8 * n, 4),
        )
        for (name, kind, size, align), user in zip(parts, self.addresses, strict=True):
            pointer = table.find(user, size)
            # Of our address, for that is what we read at.
            if int(ffi.cast("uintptr_t", pointer)) % align:
                raise Refusal("bad-ring-address")
            fields[name] = ffi.cast(kind, pointer)
        return {**fields, "size": n}


class Pair:
    """A queue pair: two rings, and what its worker has of them.

    Args:
        event_fd: tells the port what the worker has done.
        signal: `struct event_signal *`, interrupts the guest.
    """

    def __init__(self, event_fd: int, signal: Any) -> None:
        self.rings = (Ring(), Ring())
        self.poke_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.epoll = select.epoll()
        self.epoll.register(self.poke_fd, select.EPOLLIN | select.EPOLLET)
        self.struct: Any = new_aligned("struct vhost_pair *")
        self.struct.event_fd = event_fd
        self.struct.rx.signal = self.struct.tx.signal = signal
        self.struct.poke_fd = self.poke_fd
        self.struct.epoll_fd = self.epoll.fileno()
        self._published: Any = ffi.NULL
        #: All setups that a worker may have, so that no address comes twice.
        self._kept: list[tuple[Any, Table]] = []
        self._seen_broken = [0, 0]

    def publish(self, setup: Any, table: Table) -> None:
        """Give the worker a setup, and wake it."""
        self._kept.append((setup, table))
        self._published = setup
        lib.vhost_publish(self.struct, setup)

    @property
    def is_settled(self) -> bool:
        """Whether the setup that was published last is in force."""
        return bool(lib.vhost_taken(self.struct) == self._published)

    def settle(self) -> None:
        """Take what is published if no worker is going to; forget what is over."""
        if not self.is_settled:
            lib.vhost_settle(self.struct)
        if self.is_settled:
            del self._kept[:-1]

    def cursor(self, which: int) -> int:
        """Return where a stopped ring is to go on."""
        return int((self.struct.tx if which else self.struct.rx).next)

    def new_breakage(self) -> list[tuple[int, str]]:
        """Return rings that broke since the last time, and why."""
        found = []
        for which, queue in enumerate((self.struct.rx, self.struct.tx)):
            if queue.broken and queue.start != self._seen_broken[which]:
                self._seen_broken[which] = queue.start
                found.append((which, REASONS[queue.broken - 1]))
        return found

    def close(self) -> None:
        """Close what is the pair's own."""
        self.epoll.close()
        os.close(self.poke_fd)
        # Numbers are used again: nothing is to be written to them.
        self.struct.poke_fd = self.struct.event_fd = self.struct.epoll_fd = -1


class Device:
    """All pairs of a port, the guest's memory, and what becomes of both.

    Args:
        npairs: queue pairs.
        signal: `struct event_signal *`, interrupts the guest; the caller's.
    """

    def __init__(self, npairs: int, signal: Any) -> None:
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.pairs = [Pair(self.event_fd, signal) for _ in range(npairs)]
        self.features = 0
        self.table = Table()
        self._truncated = 0  # by regions of the past
        self._regions: set[Region] = set()
        self._unused_fds: list[int] = []
        self.publish(self.pairs)

    @property
    def has_guest(self) -> bool:
        """Whether a ring runs."""
        return any(ring.is_running for pair in self.pairs for ring in pair.rings)

    @property
    def truncated(self) -> int:
        """How often a page was touched that a region's file no longer had."""
        return self._truncated + sum(region.hits for region in self._regions)

    def ring(self, index: int) -> tuple[Pair, int]:
        """Return the pair and which of its rings has an index of the protocol's.

        Raises:
            Refusal: there is none.
        """
        if index >= 2 * len(self.pairs):
            raise Refusal("bad-index")
        return self.pairs[index // 2], index % 2

    def publish(self, pairs: Iterable[Pair]) -> None:
        """Let workers have what is wanted of these pairs.

        Raises:
            Refusal: a ring is not in the guest's memory; nothing was published.
        """
        always = not self.features >> Feature.PROTOCOL_FEATURES & 1
        setups = []
        for pair in pairs:
            rx, tx = (ring.setup(self.table, always=always) for ring in pair.rings)
            setup = ffi.new(
                "struct vhost_setup *",
                {
                    "rx": rx,
                    "tx": tx,
                    "memory": self.table.memory,
                    "features": self.features,
                },
            )
            setups.append((pair, setup))
        for pair, setup in setups:
            pair.publish(setup, self.table)

    def set_table(self, regions: Iterable[Region]) -> None:
        """Replace the guest's memory.

        Raises:
            Refusal: regions overlap, or running rings are not in it. Nothing changed.
        """
        before, self.table = self.table, Table(tuple(regions))
        try:
            self.publish(self.pairs)
        except Refusal:
            self.table = before
            raise
        self._regions |= set(self.table.regions)

    def set_fd(self, pair: Pair, which: int, kind: str, fd: int) -> None:
        """Replace a ring's eventfd; the old one is closed when nobody has it."""
        ring = pair.rings[which]
        old = getattr(ring, kind)
        setattr(ring, kind, fd)
        if kind == "kick":
            if old >= 0:
                pair.epoll.unregister(old)
            if fd >= 0:
                pair.epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        if old >= 0:
            self._unused_fds.append(old)

    def stop(self, pair: Pair, which: int) -> None:
        """Stop a ring; `publish` comes next."""
        ring = pair.rings[which]
        ring.is_running = ring.is_kickable = False
        self.set_fd(pair, which, "kick", -1)

    def reset(self) -> None:
        """Stop all rings and disable them; features are to be negotiated anew."""
        for pair in self.pairs:
            for which, ring in enumerate(pair.rings):
                self.stop(pair, which)
                ring.forget()
        self.features = 0
        self.publish(self.pairs)

    def disconnect(self) -> None:
        """Give up everything that came from the front end."""
        for pair in self.pairs:
            for which in range(2):
                self.set_fd(pair, which, "call", -1)
                self.set_fd(pair, which, "err", -1)
        self.table = Table()
        self.reset()
        self.settle()

    def settle(self) -> bool:
        """Free what workers have done with; return whether they have what is new."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.event_fd)
        for pair in self.pairs:
            pair.settle()
        if not all(pair.is_settled for pair in self.pairs):
            return False
        while self._unused_fds:
            os.close(self._unused_fds.pop())
        for region in self._regions - set(self.table.regions):
            self._truncated += region.hits
            region.close()
            self._regions.remove(region)
        return True

    def close(self) -> None:
        """Free everything; no worker has a pair any more."""
        for pair in self.pairs:
            lib.vhost_leave(pair.struct)
        self.disconnect()
        for pair in self.pairs:
            pair.close()
        os.close(self.event_fd)
