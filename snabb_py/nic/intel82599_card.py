"""A card in use: its queues, link and statistics, until it is left quiet.

`Nic` is the resource that the apps of a card share. It never touches a packet: rings
are its memory, but intel82599.c's business. A card that is gone answers all ones: that
is noticed, said once, and survived.

Imports its siblings, engine and the extension.
"""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from snabb_py._native import ffi, lib
from snabb_py.engine.memory import Memory, new_aligned
from snabb_py.errors import ConfigError, DeviceError
from snabb_py.nic.intel82599_access import ALL_ONES, Function
from snabb_py.nic.intel82599_config import LINK_MBPS, CardConfig, PoolConfig
from snabb_py.nic.intel82599_setup import (
    CTRL_EXT_DRV_LOAD,
    DCTL_ENABLE,
    ETHERNET_SIZE,
    TXDCTL_SWFLSH,
    Setup,
)
from snabb_py.nic.intel82599_statistics import (
    EVENTS,
    NAMES,
    STATISTICS,
    read_statistics,
)
from snabb_py.nic.registers import offset

DESCRIPTOR_SIZE: Final = 16
STATISTICS_MAX: Final = 64  # struct intel82599_queue
#: Seconds without a link until the user is told.
LINK_PATIENCE: Final = 5.0
#: Seconds in which a transmitter that has descriptors, and a link, sends one.
HANG_TIMEOUT: Final = 2.0

RXDCTL_VME = 1 << 30
SRRCTL_ADVANCED, SRRCTL_DROP_EN = 1 << 25, 1 << 28
DCA_RX_MUST_BE_0 = 1 << 12
# PTHRESH 32: descriptors are fetched when fewer are there, one (HTHRESH) being enough:
# with 0 of it none would be (8.2.3.9.10). WTHRESH 0: reports come at once.
TXDCTL_THRESHOLDS = 32 | 1 << 8
LINKS_SPEEDS: Final = (
    ("unknown speed", LINK_MBPS),
    ("100 Mb/s", 100),
    ("1 Gb/s", 1000),
    ("10 Gb/s", LINK_MBPS),
)
GPIE_MSIX, GPIE_EIAME, GPIE_PBA = 1 << 4, 1 << 30, 1 << 31
IVAR_VALID = 0x80
# CC is set where pools switch: context 0 then tells where the headers begin. It holds
# MACLEN alone, 14 bytes (data sheet 7.2.3.2.3); other offloads use context 1.
PLAIN_CONTEXT = (ETHERNET_SIZE << 9, 2 << 20 | 1 << 29)
CHECK_CONTEXT = 1 << 39


class Queue:
    """A queue pair that an app has, with its rings.

    Attributes:
        number: on the card.
        state: `struct intel82599_queue *`, the app's state.
        users: what the apps that have it say of its pool: a running app and its
            successor.
        vector: of its interrupt, -1: none.
    """

    def __init__(self, number: int, rx_size: int, tx_size: int, area: "Area") -> None:
        self.number = number
        self.users: list[PoolConfig | None] = []
        self.vector = -1
        self.rx_bytes = rx_size * DESCRIPTOR_SIZE
        self.tx_bytes = tx_size * DESCRIPTOR_SIZE
        self.rx_iova, rx_ring = area.take(self.rx_bytes)
        self.tx_iova, tx_ring = area.take(self.tx_bytes)
        batches = tx_size // lib.INTEL82599_BATCH
        self._keep = (
            ffi.new("struct packet *[]", rx_size),
            ffi.new("struct packet *[]", tx_size),
            ffi.new("uint32_t[]", batches),
        )
        self.state: Any = new_aligned("struct intel82599_queue *")
        self.state.rx.ring = ffi.cast("uint64_t *", rx_ring)
        self.state.tx.ring = ffi.cast("uint64_t *", tx_ring)
        self.state.rx.packets, self.state.tx.packets, self.state.tx.marks = self._keep
        self.state.rx.n, self.state.tx.n = rx_size, tx_size
        self.state.wake_fd = -1
        self.seen_at, self.seen = 0.0, 0


class Area:
    """DMA memory for rings: 2 MiB, cut off piece by piece and taken back.

    A ring is reused whole by the next queue of the same size.
    """

    ALIGN = 128  # data sheet 8.2.3.8.1

    def __init__(self, memory: Memory, iovas: Sequence[int]) -> None:
        self.memory = memory
        self._iovas = iovas
        self._used = 0
        self._free: dict[int, list[tuple[int, Any]]] = {}

    def take(self, size: int) -> tuple[int, Any]:
        """Return the address of `size` bytes as the card sees it, and as we do.

        Raises:
            ConfigError: there is no room left.
        """
        size = -(-size // self.ALIGN) * self.ALIGN
        if self._free.get(size):
            return self._free[size].pop()
        if self._used + size > self.memory.size:
            raise ConfigError("ring size: the rings of all queues take 2 MiB at most")
        at, self._used = self._used, self._used + size
        return self._iovas[0] + at, self.memory.address + at

    def give(self, iova: int, pointer: Any, size: int) -> None:
        """Take a piece back."""
        size = -(-size // self.ALIGN) * self.ALIGN
        self._free.setdefault(size, []).append((iova, pointer))


class Nic(Setup):
    """A card in use: a resource, shared by the apps of its queues.

    Args:
        function: of the card; closed with it.
        memory: of the packets, for the card to reach.
        pool: `struct pool *`, which packets of closed queues go back to.
        config: its settings.
        clock: seconds; for tests.

    Raises:
        DeviceError: it does not do what the data sheet says; the function is closed.
    """

    def __init__(
        self,
        function: Function,
        memory: Memory,
        pool: Any,
        config: CardConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(function, config, clock)
        self.pool = pool
        self.queues: dict[int, Queue] = {}
        self.totals = dict.fromkeys(NAMES, 0)
        self.is_gone = False
        self._eventfds: list[int] = []
        self._free_vectors: list[int] = []
        self._link: bool | None = None
        self._opened_at = clock()
        self._told_of_link = self._told_of_claim = False
        self._next_statistics = 0.0
        self._rings = Memory(2 << 20, huge=function.is_physical)
        self._lent: list[Memory] = []
        try:
            self._map(memory)
            self.area = Area(self._rings, self._map(self._rings))
            self.open()
        except BaseException:
            self.function.close()
            self._rings.close()
            raise

    def _map(self, memory: Memory) -> list[int]:
        """Make memory reachable; return where the card sees its 2 MiB pages."""
        if self.function.is_physical:
            return memory.physical()
        start = int(ffi.cast("uintptr_t", memory.address))
        self.function.map(start, start, memory.size)
        return list(range(start, start + memory.size, 2 << 20))

    def lend(self, size: int) -> tuple[Memory, list[int]]:
        """Return memory that the card reaches, and where it sees each 2 MiB of it.

        It is there until the card is closed.

        Raises:
            DeviceError: there is none.
        """
        memory = Memory(size, huge=self.function.is_physical)
        self._lent.append(memory)
        return memory, self._map(memory)

    # -- queues ----------------------------------------------------------------

    def borrow_queue(
        self, number: int, rx_size: int, tx_size: int, pool: PoolConfig | None = None
    ) -> Queue:
        """Return a queue pair, enabled now if nobody has it.

        Args:
            number: 0 to 127; with a pool, of its first queue.
            rx_size: descriptors, a power of two.
            tx_size: as rx_size.
            pool: settings of the pool that it belongs to.

        Raises:
            ConfigError: it runs with rings of another size; its pool cannot be so.
            DeviceError: the card does not enable it.

        After any of them all is as it was before.
        """
        with self.lock:
            queue = self.queues.get(number)
            if queue is None:
                return self._start_queue(number, rx_size, tx_size, pool)
            if (queue.state.rx.n, queue.state.tx.n) != (rx_size, tx_size):
                raise ConfigError(
                    f"{self.name}: the ring size of a queue that runs cannot change"
                )
            if pool is not None:
                self.set_pool(pool)
                self.set_strip(number, on=pool.vlan is not None)
            queue.users.append(pool)
            return queue

    def _start_queue(
        self, number: int, rx_size: int, tx_size: int, pool: PoolConfig | None
    ) -> Queue:
        queue = Queue(number, rx_size, tx_size, self.area)
        self.queues[number] = queue
        try:
            if pool is not None:
                self.set_pool(pool)
            self.enable_queue(queue, strip=pool is not None and pool.vlan is not None)
        except BaseException:
            self._end_queue(queue)
            raise
        queue.users.append(pool)
        self._spread()
        return queue

    def _spread(self) -> None:
        """Deal flows out to the queues that somebody serves."""
        queues = sorted(n for n in self.queues if n < self.config.queues)
        if queues and not self.config.pools:
            self.spread_over(queues)

    def return_queue(self, queue: Queue, pool: PoolConfig | None = None) -> None:
        """Give a queue back; what nobody has any more is disabled and emptied.

        Args:
            queue: from `borrow_queue`.
            pool: as it was borrowed with.
        """
        with self.lock:
            if queue.number not in self.queues:
                return  # the card was given up as a whole
            queue.users.remove(pool)
            if not queue.users:
                self._end_queue(queue)
            elif not self.is_gone:
                self._settle_pools()

    def _end_queue(self, queue: Queue) -> None:
        del self.queues[queue.number]
        head = queue.state.tx.clean
        if not self.is_gone:
            self._spread()
            self.disable_queue(queue)
            head = self.read("TDH", queue.number)
            self._settle_pools()
        lost = lib.intel82599_release(queue.state, self.pool, head)
        self.totals["drop-queue-closed"] += lost
        self.area.give(queue.rx_iova, queue.state.rx.ring, queue.rx_bytes)
        self.area.give(queue.tx_iova, queue.state.tx.ring, queue.tx_bytes)

    def _settle_pools(self) -> None:
        """Make pools what those say that still have them: a change may be undone."""
        stride = self.config.pool_stride
        queues_of: dict[int, list[Queue]] = {}
        for n, queue in self.queues.items():
            if queue.users:
                queues_of.setdefault(n // stride, []).append(queue)
        for number in list(self.pools):
            queues = queues_of.get(number, [])
            wanted = [queue.users[-1] for queue in queues]
            if not wanted:
                self.remove_pool(number)
            elif self.pools[number] not in wanted and wanted[-1] is not None:
                # Another pool that has yet to change back may be in its way: then it
                # is settled when that one is.
                with contextlib.suppress(ConfigError):
                    self.set_pool(wanted[-1])
                for queue in queues:
                    self.set_strip(queue.number, on=self.pools[number].vlan is not None)

    def enable_queue(self, queue: Queue, *, strip: bool) -> None:
        """Enable both directions; the worker brings descriptors (4.6.7.1, 4.6.8.1).

        Args:
            queue: just made.
            strip: take VLAN tags off received frames.
        """
        n, state = queue.number, queue.state
        # Queue 0 of a card that runs is enabled from the beginning (4.6.8.1).
        for register in ("RXDCTL", "TXDCTL"):
            self.write(register, 0, n)
            self.wait(
                f"{register}[{n}].ENABLE", register, DCTL_ENABLE, to_be=False, n=n
            )
        for letter, iova, size in (
            ("R", queue.rx_iova, state.rx.n),
            ("T", queue.tx_iova, state.tx.n),
        ):
            self.write(f"{letter}DBAL", iova & ALL_ONES, n)
            self.write(f"{letter}DBAH", iova >> 32, n)
            self.write(f"{letter}DLEN", size * DESCRIPTOR_SIZE, n)
            self.write(f"{letter}DH", 0, n)
            self.write(f"{letter}DT", 0, n)
        # One queue alone waits for descriptors, in the packet buffer; of several, none
        # must hold up the others.
        drop = SRRCTL_DROP_EN if self.config.pools or self.config.queues > 1 else 0
        self.write("SRRCTL", lib.INTEL82599_BUFFER_KIB | SRRCTL_ADVANCED | drop, n)
        self.write("RSCCTL", 0, n)
        self.clear("DCA_RXCTRL", DCA_RX_MUST_BE_0, n)
        self.write("RXDCTL", DCTL_ENABLE | (RXDCTL_VME if strip else 0), n)
        self.wait(f"RXDCTL[{n}].ENABLE", "RXDCTL", DCTL_ENABLE, to_be=True, n=n)
        self.write("TXDCTL", TXDCTL_THRESHOLDS, n)
        self.write("TXDCTL", TXDCTL_THRESHOLDS | DCTL_ENABLE, n)
        self.wait(f"TXDCTL[{n}].ENABLE", "TXDCTL", DCTL_ENABLE, to_be=True, n=n)
        registers = self.function.registers
        state.rx.tail = registers + offset("RDT", n) // 4
        state.tx.tail = registers + offset("TDT", n) // 4
        state.tx.max_length = self.config.mtu + ETHERNET_SIZE + 8  # with two tags
        if self.config.pools:
            state.tx.command = CHECK_CONTEXT
            lib.intel82599_put_context(state, *PLAIN_CONTEXT)
        self.set_wake_up(queue)

    def set_strip(self, n: int, *, on: bool) -> None:
        """Take VLAN tags off received frames, or not."""
        if bool(self.read("RXDCTL", n) & RXDCTL_VME) != on:
            (self.set if on else self.clear)("RXDCTL", RXDCTL_VME, n)

    def set_wake_up(self, queue: Queue) -> None:
        """Let the queue's frames signal an eventfd when its worker sleeps (7.3).

        The first vectors go to the queues that come first; a queue without one is
        polled.
        """
        if self._free_vectors:
            vector = self._free_vectors.pop()
        elif len(self._eventfds) < min(self.function.nvectors, 16):
            vector = len(self._eventfds)
            self._eventfds.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
            self.function.set_interrupts(self._eventfds)
        else:
            return
        queue.vector = vector
        self.write("GPIE", GPIE_MSIX | GPIE_EIAME | GPIE_PBA)
        self.set("EIAC", 1 << vector)
        self.set("EIAM", 1 << vector)
        register, shift = queue.number // 2, 16 * (queue.number % 2)
        entry = self.read("IVAR", register) & ~(0xFF << shift)
        self.write("IVAR", entry | (vector | IVAR_VALID) << shift, register)
        queue.state.unmask = self.function.registers + offset("EIMS") // 4
        queue.state.unmask_bit = 1 << vector
        queue.state.wake_fd = self._eventfds[vector]

    def disable_queue(self, queue: Queue) -> None:
        """Stop both directions: afterwards the card has no business in its memory.

        What is still to be sent has 10 ms to go; a card that does not stop is cut off
        from memory altogether.
        """
        n = queue.number
        deadline = self.clock() + 10e-3
        while self.read("TDH", n) != self.read("TDT", n) and self.clock() < deadline:
            time.sleep(100e-6)
        try:
            self.clear("RXDCTL", DCTL_ENABLE, n)
            self.wait(f"RXDCTL[{n}].ENABLE", "RXDCTL", DCTL_ENABLE, to_be=False, n=n)
            self.write("TXDCTL", TXDCTL_SWFLSH, n)
            self.wait(f"TXDCTL[{n}].ENABLE", "TXDCTL", DCTL_ENABLE, to_be=False, n=n)
        except DeviceError:
            self.function.set_master(False)
        # What is under way arrives (4.6.7.1: 100 us).
        time.sleep(200e-6)
        if queue.vector >= 0:
            self.write("EIMC", 1 << queue.vector)
            self.clear("IVAR", 0xFF << 16 * (n % 2), n // 2)
            self._free_vectors.append(queue.vector)
            queue.vector = -1

    # -- looking after it ------------------------------------------------------

    def supervise(self) -> str | None:
        """Look at link, statistics, transmitters; return what the user should know."""
        with self.lock:
            if self.is_gone:
                return None
            if self.seems_gone() and self.seems_gone():
                return self.note_loss()
            self.update_statistics()
            lines = [
                line
                for line in (
                    self._look_at_claim(),
                    self._look_at_link(),
                    self._look_at_hangs(),
                )
                if line
            ]
            return "; ".join(f"{self.name}: {line}" for line in lines) or None

    def note_loss(self) -> str:
        """Note that the card is gone: its packets are dropped from now on."""
        # If it still answers: what it has done since the last look.
        self.update_statistics()
        self.is_gone = True
        for queue in self.queues.values():
            queue.state.is_gone = 1
        self.totals["link-up"] = 0
        self._publish_statistics()
        # Removed by sysfs alone it goes on receiving, into memory of ours.
        self._quiet()
        return f"{self.name}: the card is gone: packets for it are dropped"

    def _look_at_claim(self) -> str | None:
        if self._told_of_claim or not self.function.is_wanted:
            return None
        self._told_of_claim = True
        return "somebody removes or unbinds the card: that waits until we have ended"

    def _look_at_link(self) -> str | None:
        up, was_up = self.is_up, self._link
        if up == was_up:
            return None
        if not up and was_up is None:
            late = self.clock() - self._opened_at > LINK_PATIENCE
            if late and not self._told_of_link:
                self._told_of_link = True
                return "no link yet: is the cable in, is the other end up?"
            return None
        self._link = up
        self.totals["link-up"] = int(up)
        if up:
            name, mbps = LINKS_SPEEDS[self.read("LINKS") >> 28 & 3]
            if mbps != self.link_mbps:
                self.link_mbps = mbps
                for pool in self.pools.values():
                    self.set_pool_rate(pool)
            return f"link up, {name}"
        self.totals["link-flaps"] += 1
        return "link down"

    def _look_at_hangs(self) -> str | None:
        """Find transmitters that do not report: descriptors wait, and time passes."""
        now, hanging = self.clock(), []
        for queue in self.queues.values():
            tx = queue.state.tx
            waits = tx.first_mark != tx.last_mark
            is_new = queue.seen_at == 0
            if is_new or tx.reported != queue.seen or not waits or not self._link:
                queue.seen, queue.seen_at = tx.reported, now
            elif now - queue.seen_at > HANG_TIMEOUT:
                queue.seen_at = now
                self.totals["tx-hangs"] += 1
                hanging.append(queue.number)
        if not hanging:
            return None
        numbers = ", ".join(map(str, hanging))
        return f"transmit queue {numbers} has sent nothing for {HANG_TIMEOUT:g} s"

    def update_statistics(self) -> None:
        """Add up what the card has counted since the last time."""
        with self.lock:
            if self.is_gone:
                return
            values = read_statistics(self.function.read)
            if ALL_ONES in values and self.seems_gone():
                return
            for statistic, value in zip(STATISTICS, values, strict=True):
                self.totals[statistic.name] += value
            self._publish_statistics()

    def _publish_statistics(self) -> None:
        """Hand them to the app of the queue that came first."""
        leader = next(iter(self.queues.values()), None)
        for queue in self.queues.values():
            queue.state.nstatistics = len(NAMES) if queue is leader else 0
        if leader:
            for n, value in enumerate(self.totals.values()):
                leader.state.statistics[n] = value

    # -- end -------------------------------------------------------------------

    def _quiet(self) -> None:
        """Stop all that it does, if it still answers."""
        with contextlib.suppress(DeviceError):
            self.disable_interrupts()
            self.stop_accesses()
            self.reset()
            self.clear("CTRL_EXT", CTRL_EXT_DRV_LOAD)

    def close(self) -> None:
        """Leave the card quiet and give it up."""
        with self.lock:
            for queue in list(self.queues.values()):
                self._end_queue(queue)
            if not self.is_gone:
                self._quiet()
            with contextlib.suppress(DeviceError, OSError):
                self.function.set_interrupts([])
            self.function.close()
            for fd in self._eventfds:
                os.close(fd)
            for memory in (self._rings, *self._lent):
                memory.close()


assert len(NAMES) == len(STATISTICS) + len(EVENTS) <= STATISTICS_MAX  # noqa: S101
