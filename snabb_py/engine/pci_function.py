"""A PCI device that this process has: its registers, configuration, bus mastering.

`Function` is what a driver sees. `SysfsFunction` is the way without an IOMMU: the files
`resource0` and `config` of the device, physical addresses, no interrupts. That with one
is `engine.vfio`. Imports errors and the extension; programs use `engine.pci`.

Source: PCI 3.0 specification, 6.2; Documentation/PCI/sysfs-pci.rst.
"""

import contextlib
import errno
import fcntl
import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from snabb_py._native import ffi, lib
from snabb_py.engine import pci_bus
from snabb_py.engine.pci_bus import PROC, Device
from snabb_py.engine.pci_watchdog import Watchdog, Write
from snabb_py.errors import DeviceError

COMMAND = 4
MEMORY_SPACE = 1 << 1
BUS_MASTER = 1 << 2
INTX_DISABLE = 1 << 10
#: Bits of the flags in the file `resource` (include/linux/ioport.h).
IORESOURCE_MEM = 0x200

#: Seconds that a watchdog has to put a card to rest whose owner was killed.
LOCK_TIMEOUT = 10.0


class Lock:
    """The right to a device among processes of ours: its file `resource0`, locked.

    Args:
        device: which.
        step: what it is for, "claim 0000:01:00.0".

    Attributes:
        fd: of the file.

    Raises:
        DeviceError: another process has it; the file cannot be opened.
    """

    def __init__(self, device: Device, step: str) -> None:
        path = device.path / "resource0"
        self._step = step
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            number = error.errno or errno.EIO
            hints = {
                errno.EACCES: "run as root, or with CAP_DAC_OVERRIDE",
                errno.EPERM: "run as root",
                errno.ENOENT: "the device has no memory of registers (BAR 0)",
            }
            raise DeviceError(f"open {path}", number, hints.get(number, "")) from None
        try:
            self._lock()
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        # A watchdog holds the lock of a process that was killed, for a moment.
        pci_bus.wait(
            lambda: self._try() or _is_alive(lock_holder(self.fd)), LOCK_TIMEOUT
        )
        if self._try():
            return
        process = lock_holder(self.fd)
        who = f"process {process}" if process else "another process"
        raise DeviceError(self._step, errno.EBUSY, f"in use by {who}")

    def _try(self) -> bool:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Give it up; a copy of the file descriptor still holds it."""
        os.close(self.fd)


def lock_holder(fd: int, *, proc: Path = PROC) -> int | None:
    """Return the process that has locked a file; None if that is not to be seen."""
    status = os.fstat(fd)
    major, minor = os.major(status.st_dev), os.minor(status.st_dev)
    file = f"{major:02x}:{minor:02x}:{status.st_ino}"
    with contextlib.suppress(OSError):
        for line in (proc / "locks").read_text().splitlines():
            words = line.split()
            # "1: FLOCK  ADVISORY  WRITE 4242 00:15:1234 0 EOF"
            if words[1:2] == ["FLOCK"] and words[5:6] == [file]:
                return int(words[4]) if int(words[4]) > 0 else None
    return None


def _is_alive(process: int | None) -> bool:
    if process is None:
        return False
    try:
        # "4242 (name) S 1 ...": a name may hold anything, parentheses too.
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X")


class Registers:
    """BAR 0 of a device, mapped.

    A device that is pulled out takes its memory along. Touching that would end the
    process; as it is, reads give 0 from then on, and writes go nowhere.

    Attributes:
        pointer: `volatile uint32_t *`; valid until `close`.
        size: in bytes.
    """

    def __init__(self, fd: int, offset: int, size: int, step: str) -> None:
        try:
            self._map = mmap.mmap(fd, size, offset=offset)
        except (OSError, ValueError) as error:
            number = getattr(error, "errno", None) or errno.EINVAL
            raise DeviceError(step, number, "map its registers (BAR 0)") from None
        # A child that has the mapping has the device, too.
        self._map.madvise(mmap.MADV_DONTFORK)
        self.size = size
        self._view = ffi.from_buffer("uint8_t[]", self._map)
        self.pointer = ffi.cast("volatile uint32_t *", self._view)
        # In a table of 65536; without the guard all works but for the removal.
        lib.guard_add(self._view, size, mmap.PAGESIZE)

    @property
    def is_gone(self) -> bool:
        """Whether the memory was once found missing."""
        return bool(lib.guard_hits(self._view))

    def close(self) -> None:
        """Unmap it."""
        lib.guard_remove(self._view)
        ffi.release(self._view)
        self._map.close()


class Function(ABC):
    """A device that this process has, from `pci.claim` to `close`.

    No method is for a worker's thread; `registers` is for whoever the driver gives it.

    Attributes:
        address: "0000:01:00.0".
        vendor, device: its ids.
        method: "vfio" or "sysfs".
        is_physical: memory has its physical addresses for it (`Memory.physical`), else
            those given to `map`.
        registers: `volatile uint32_t *`, BAR 0; numbers in it are little-endian.
        size: of BAR 0 in bytes.
        nvectors: MSI-X vectors that `set_interrupts` can use.
    """

    method: str
    is_physical: bool
    nvectors: int = 0

    def __init__(self, device: Device, registers: Registers) -> None:
        self.address = device.address
        self.vendor, self.device = device.vendor, device.device
        self._registers = registers
        self.registers: Any = registers.pointer
        self.size = registers.size
        self._watchdog: Watchdog | None = None
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- registers and configuration

    def read(self, offset: int) -> int:
        """Return the 32 bits at an offset of BAR 0.

        Raises:
            IndexError: there is no such register.
        """
        return int(self.registers[self._index(offset)])

    def write(self, offset: int, value: int) -> None:
        """Write 32 bits at an offset of BAR 0.

        Raises:
            IndexError: there is no such register.
        """
        self.registers[self._index(offset)] = value

    def _index(self, offset: int) -> int:
        if offset % 4 or not 0 <= offset <= self.size - 4 or self._is_closed:
            raise IndexError(f"{self.address}: no register at {offset:#x}")
        return offset // 4

    @property
    def is_gone(self) -> bool:
        """Whether it was pulled out: its registers were once found missing."""
        return self._registers.is_gone

    @property
    def is_wanted(self) -> bool:
        """Whether somebody removes or unbinds it, and waits until we close it."""
        return False

    def read_config(self, offset: int, size: int) -> int:
        """Return a number of 1, 2 or 4 bytes from the configuration space.

        Raises:
            DeviceError: the device does not answer.
        """
        fd, base = self._config
        try:
            data = os.pread(fd, size, base + offset)
        except OSError as error:
            raise self._failed(f"read configuration {offset:#x}", error.errno) from None
        if len(data) != size:
            raise self._failed(f"read configuration {offset:#x}", errno.EIO)
        return int.from_bytes(data, "little")

    def write_config(self, offset: int, value: int, size: int) -> None:
        """Write a number of 1, 2 or 4 bytes to the configuration space.

        Raises:
            DeviceError: the device does not take it.
        """
        fd, base = self._config
        try:
            os.pwrite(fd, value.to_bytes(size, "little"), base + offset)
        except OSError as error:
            raise self._failed(
                f"write configuration {offset:#x}", error.errno
            ) from None

    def _failed(self, step: str, number: int | None, hint: str = "") -> DeviceError:
        return DeviceError(f"{self.address}: {step}", number or errno.EIO, hint)

    @property
    @abstractmethod
    def _config(self) -> tuple[int, int]:
        """File descriptor and offset of the configuration space."""

    # ---- memory

    @abstractmethod
    def map(self, iova: int, address: int, size: int) -> None:
        """Let the device reach memory of ours; with physical addresses it does anyway.

        Args:
            iova: its address for the device; whole pages, as the other two.
            address: that for us.
            size: in bytes.

        Raises:
            DeviceError: the kernel refused.
        """

    @abstractmethod
    def unmap(self, iova: int, size: int) -> None:
        """Take back what `map` gave; exactly what one call gave."""

    def set_master(self, on: bool) -> None:
        """Let the device read and write memory, or not: bit 2 of its command register.

        When all memory that it is to reach has been mapped into this process: should we
        be killed, the watchdog keeps no other from being reused before the device is at
        rest. Again with `on` when memory has been added.

        Raises:
            DeviceError: the device does not answer, or there can be no watchdog.
        """
        if on:
            previous, self._watchdog = self._watchdog, self._make_watchdog()
            if previous:
                previous.stop()
        command = self.read_config(COMMAND, 2)
        wanted = command | BUS_MASTER if on else command & ~BUS_MASTER
        self.write_config(COMMAND, wanted, 2)

    @abstractmethod
    def _make_watchdog(self) -> Watchdog | None:
        """Return what gives the device back should we be killed; None: no need."""

    # ---- interrupts

    @abstractmethod
    def set_interrupts(self, fds: Sequence[int]) -> None:
        """Have MSI-X vector n count up the eventfd at place n.

        Args:
            fds: eventfds, `nvectors` at most; none: no interrupts any more.

        Raises:
            DeviceError: the device has no such vectors, or the kernel refused.
        """

    # ---- the end

    def close(self) -> None:
        """Put the device to rest and give it back to the driver that had it.

        Bus mastering goes off first. A device that has been pulled out is let go
        without a word. Again: nothing.

        Raises:
            DeviceError: it is at rest, but the kernel does not take it back.
        """
        if self._is_closed:
            return
        with contextlib.suppress(DeviceError):
            self.set_master(False)
        self._is_closed = True
        with contextlib.ExitStack() as stack:
            if self._watchdog:
                stack.callback(self._watchdog.stop)
            stack.callback(self._give_back)
            stack.callback(self._registers.close)

    @abstractmethod
    def _give_back(self) -> None:
        """Close all and let the driver have it that had it, if it is still there."""


class SysfsFunction(Function):
    """A device reached through its files in sysfs, with no IOMMU between.

    Args:
        device: without a driver.
        lock: its lock, ours from now on.
        driver: the driver that is to have it in the end; None: none.
        override: its `driver_override` at the beginning.

    Raises:
        DeviceError: it cannot be switched on, or has no registers to map.
    """

    method = "sysfs"
    is_physical = True

    def __init__(
        self, device: Device, lock: Lock, *, driver: str | None, override: str
    ) -> None:
        self._device, self._lock = device, lock
        self._driver, self._override = driver, override
        step = f"claim {device.address}"
        with contextlib.ExitStack() as undo:
            # It may be asleep (D3), or its registers off.
            pci_bus.write(device.path / "enable", "1")
            undo.callback(self._disable)
            path = device.path / "config"
            try:
                self._config_fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except OSError as error:
                raise DeviceError(f"open {path}", error.errno or 0) from None
            undo.callback(os.close, self._config_fd)
            registers = Registers(lock.fd, 0, memory_size(device), step)
            undo.callback(registers.close)
            super().__init__(device, registers)
            # Nobody would answer an interrupt on a line that others may share.
            command = self.read_config(COMMAND, 2)
            command = (command | MEMORY_SPACE | INTX_DISABLE) & ~BUS_MASTER
            self.write_config(COMMAND, command, 2)
            undo.pop_all()

    @property
    def _config(self) -> tuple[int, int]:
        return self._config_fd, 0

    @property
    def is_gone(self) -> bool:
        """Whether it was pulled out, or the kernel does not know it any more.

        What was removed by sysfs alone still answers and does its work, at addresses
        that the kernel may give to another device.
        """
        if super().is_gone or self._is_closed:
            return super().is_gone
        try:
            return not os.pread(self._config_fd, 2, 0)
        except OSError:
            return True

    def map(self, iova: int, address: int, size: int) -> None:
        """Do nothing: see `Function.map`."""

    def unmap(self, iova: int, size: int) -> None:
        """Do nothing: see `Function.unmap`."""

    def set_interrupts(self, fds: Sequence[int]) -> None:
        """Refuse: see `Function.set_interrupts`."""
        if fds:
            raise DeviceError(
                f"{self.address}: interrupts",
                errno.EOPNOTSUPP,
                "they need VFIO, hence an IOMMU",
            )

    def _make_watchdog(self) -> Watchdog:
        device = self._device
        writes: list[Write] = [reset_write(device), (device.path / "enable", "0")]
        if self._driver is not None:
            writes += give_back_writes(device, self._override)
        return Watchdog(self._config_fd, self._lock.fd, writes)

    def _disable(self) -> None:
        # Each "1" wants its "0". A device that is gone has no such file.
        with contextlib.suppress(DeviceError):
            pci_bus.write(self._device.path / "enable", "0")

    def _give_back(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self._lock.close)
            os.close(self._config_fd)
            with contextlib.suppress(DeviceError):
                pci_bus.write(*reset_write(self._device))
            self._disable()
            if self._driver is not None and self._device.path.exists():
                pci_bus.unbind(self._device, override=self._override)


def reset_write(device: Device) -> Write:
    """Return what resets a device.

    One that was stopped in its work would go on with it as soon as it is bus master
    again, in memory that is another's by then: ixgbe makes its card master before it
    resets it.
    """
    return (device.path / "reset", "1")


def give_back_writes(device: Device, override: str) -> list[Write]:
    """Return what hands a device without a driver to the one that it had."""
    return [
        (device.path / "driver_override", f"{override}\n"),
        (device.bus / "drivers_probe", device.address),
    ]


def memory_size(device: Device) -> int:
    """Return the size of BAR 0 in bytes.

    Raises:
        DeviceError: it is none of memory.
    """
    path = device.path / "resource"
    try:
        start, end, flags = (
            int(word, 16) for word in path.read_text().splitlines()[0].split()
        )
    except (OSError, ValueError, IndexError):
        start = end = flags = 0
    if not flags & IORESOURCE_MEM or end <= start:
        raise DeviceError(
            f"claim {device.address}", errno.ENXIO, "its BAR 0 is no memory"
        )
    return end - start + 1
