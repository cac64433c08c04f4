"""PCI devices through VFIO: an IOMMU stands between a device and memory.

The device reaches what `map` has given it and nothing else, and when our file
descriptors go, however we end, the kernel stops and resets it. Devices of one IOMMU
group share it, hence all that is mapped. Imports errors; programs use `engine.pci`.

Source: Documentation/driver-api/vfio.rst, include/uapi/linux/vfio.h.
"""

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from snabb_py.engine import pci_bus
from snabb_py.engine.pci_bus import VFIO, Device
from snabb_py.engine.pci_function import (
    Function,
    Lock,
    Registers,
    give_back_writes,
    reset_write,
)
from snabb_py.engine.pci_watchdog import Watchdog
from snabb_py.errors import DeviceError

CONTAINER = Path("/dev/vfio/vfio")

# _IO(';', 100 + n)
_BASE = ord(";") << 8 | 100
GET_API_VERSION, CHECK_EXTENSION, SET_IOMMU = _BASE, _BASE + 1, _BASE + 2
GROUP_GET_STATUS, GROUP_SET_CONTAINER = _BASE + 3, _BASE + 4
GROUP_GET_DEVICE_FD = _BASE + 6
DEVICE_GET_REGION_INFO, DEVICE_GET_IRQ_INFO = _BASE + 8, _BASE + 9
DEVICE_SET_IRQS = _BASE + 10
IOMMU_MAP_DMA, IOMMU_UNMAP_DMA = _BASE + 13, _BASE + 14

API_VERSION = 0
TYPE1, TYPE1V2 = 1, 3  #: the second unmaps what was mapped, no less
TYPE1_MODULE = "vfio_iommu_type1"
GROUP_VIABLE = 1 << 0
BAR0, CONFIG = 0, 7  #: regions
REGION_MMAP = 1 << 2
MSIX, REQUEST = 2, 4  #: of interrupts; by the second one the kernel wants it back
IRQ_NONE, IRQ_EVENTFD, IRQ_TRIGGER = 1 << 0, 1 << 2, 1 << 5
DMA_READ, DMA_WRITE = 1 << 0, 1 << 1

GROUP_STATUS = struct.Struct("=II")
REGION_INFO = struct.Struct("=IIIIQQ")
IRQ_INFO = struct.Struct("=IIII")
IRQ_SET = struct.Struct("=IIIII")
DMA_MAP = struct.Struct("=IIQQQ")
DMA_UNMAP = struct.Struct("=IIQQ")

#: Seconds until the file of a group appears, of udev's making.
NODE_TIMEOUT = 5.0
#: Drivers in a group that touch no memory: theirs may stay.
HARMLESS = (VFIO, "pcieport", "pci-stub")


def _ioctl(fd: int, request: int, size: struct.Struct, *values: int) -> tuple[int, ...]:
    """Call with a structure that begins with its size; return what it holds then."""
    data = bytearray(size.pack(size.size, *values))
    fcntl.ioctl(fd, request, data)
    return size.unpack(data)


class Group:
    """An IOMMU group that this process has, in a container of its own.

    Attributes:
        fd: of the group.
        leaving: devices to be given back when the last one has been closed, with
            their `driver_override`. Until then a driver of the kernel could not have
            them: the memory of the group is ours.
    """

    _open: ClassVar[dict[int, "Group"]] = {}

    def __init__(self, number: int, step: str) -> None:
        self.number = number
        self.leaving: list[tuple[Device, str]] = []
        self._users = 0
        self._maps: dict[tuple[int, int], int] = {}
        with contextlib.ExitStack() as undo:
            self._container = self._open_file(CONTAINER, step)
            undo.callback(os.close, self._container)
            kind = self._iommu_type(step)
            self.fd = self._open_file(pci_bus.vfio_node(number), step)
            undo.callback(os.close, self.fd)
            _, flags = _ioctl(self.fd, GROUP_GET_STATUS, GROUP_STATUS, 0)
            if not flags & GROUP_VIABLE:
                hint = f"drivers of the kernel have devices of IOMMU group {number}"
                raise DeviceError(step, errno.EBUSY, hint)
            try:
                argument = struct.pack("=i", self._container)
                fcntl.ioctl(self.fd, GROUP_SET_CONTAINER, argument)
                fcntl.ioctl(self._container, SET_IOMMU, kind)
            except OSError as error:
                hint = f"set up the IOMMU for group {number}: see dmesg"
                raise DeviceError(step, error.errno or 0, hint) from None
            undo.pop_all()

    def _iommu_type(self, step: str) -> int:
        is_known = fcntl.ioctl(self._container, GET_API_VERSION) == API_VERSION
        kinds = self._iommu_types()
        if not kinds and pci_bus.load_module(TYPE1_MODULE):
            # vfio-pci does not always bring it along.
            kinds = self._iommu_types()
        if is_known and kinds:
            return kinds[0]
        hint = f"the kernel's VFIO has no type 1 IOMMU: modprobe {TYPE1_MODULE}"
        raise DeviceError(step, errno.EOPNOTSUPP, hint)

    def _iommu_types(self) -> list[int]:
        return [
            kind
            for kind in (TYPE1V2, TYPE1)
            if fcntl.ioctl(self._container, CHECK_EXTENSION, kind)
        ]

    def _open_file(self, path: Path, step: str) -> int:
        pci_bus.wait(path.exists, NODE_TIMEOUT)
        try:
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            number = error.errno or errno.EIO
            hint = f"open {path}"
            if number == errno.EBUSY:
                process = pci_bus.user_of(path)
                who = f"process {process}" if process else "another process"
                hint = f"in use by {who}"
            elif number == errno.ENOENT:
                hint = f"no {path}: modprobe vfio-pci"
            elif number in (errno.EACCES, errno.EPERM):
                hint = f"run as root, or: chown USER {path}"
            raise DeviceError(step, number, hint) from None

    @classmethod
    def take(cls, number: int, step: str) -> "Group":
        """Return a group, opened by its first user.

        Raises:
            DeviceError: another process has it, or there is no VFIO.
        """
        group = cls._open.get(number)
        if group is None:
            group = cls._open[number] = cls(number, step)
        group._users += 1
        return group

    def release(self) -> None:
        """Give it up; the last user closes it.

        Raises:
            DeviceError: the kernel does not take a device back.
        """
        self._users -= 1
        if self._users:
            return
        del self._open[self.number]
        os.close(self.fd)
        os.close(self._container)
        with contextlib.ExitStack() as stack:
            for device, override in self.leaving:
                if device.path.exists():
                    stack.callback(pci_bus.unbind, device, override=override)

    def map(self, iova: int, address: int, size: int) -> None:
        """Map memory for all devices of the group; OSError when refused."""
        if iova_users := self._maps.get((iova, size), 0):
            self._maps[iova, size] = iova_users + 1
            return
        flags = DMA_READ | DMA_WRITE
        _ioctl(self._container, IOMMU_MAP_DMA, DMA_MAP, flags, address, iova, size)
        self._maps[iova, size] = 1

    def unmap(self, iova: int, size: int) -> None:
        """Unmap what `map` mapped, for its last user; OSError when refused."""
        users = self._maps.get((iova, size), 0)
        if users > 1:
            self._maps[iova, size] = users - 1
            return
        self._maps.pop((iova, size), None)
        _ioctl(self._container, IOMMU_UNMAP_DMA, DMA_UNMAP, 0, iova, size)


def check_group(device: Device, step: str) -> None:
    """Raise DeviceError if drivers of the kernel have other devices of the group."""
    others = []
    for address in device.group_devices:
        with contextlib.suppress(DeviceError):
            other = pci_bus.find(address, sysfs=device.path.parents[3])
            if other.driver not in (None, *HARMLESS):
                others.append(f"{address} ({other.driver})")
    if others:
        raise DeviceError(
            step,
            errno.EBUSY,
            f"{', '.join(others)} of the same IOMMU group must leave the kernel's "
            "drivers, too: snabb-py pci bind",
        )


class VfioFunction(Function):
    """A device that VFIO has opened for us.

    Args:
        device: bound to vfio-pci.
        lock: its lock, ours from now on; None: its file is not ours to open.
        driver: the driver that is to have it in the end; None or vfio-pci: it stays.
        override: its `driver_override` at the beginning.

    Raises:
        DeviceError: another process has it; there is no VFIO; it does not answer.
    """

    method = "vfio"
    is_physical = False

    def __init__(
        self, device: Device, lock: Lock | None, *, driver: str | None, override: str
    ) -> None:
        assert device.iommu_group is not None  # noqa: S101 - claim's choice
        self._device, self._lock = device, lock
        self._driver, self._override = driver, override
        step = f"claim {device.address}"
        with contextlib.ExitStack() as undo:
            self._group = Group.take(device.iommu_group, step)
            undo.callback(self._group.release)
            try:
                # Mutable, or ioctl() returns it instead of the file descriptor.
                name = bytearray(f"{device.address}\0".encode())
                self._fd = fcntl.ioctl(self._group.fd, GROUP_GET_DEVICE_FD, name)
                # The kernel makes it close-on-exec.
                undo.callback(os.close, self._fd)
                flags, size, offset = self._region(BAR0)
                self._config_offset = self._region(CONFIG)[2]
                _, _, _, self.nvectors = _ioctl(
                    self._fd, DEVICE_GET_IRQ_INFO, IRQ_INFO, 0, MSIX, 0
                )
            except OSError as error:
                raise DeviceError(step, error.errno or 0, "ask VFIO for it") from None
            if not flags & REGION_MMAP or not size:
                raise DeviceError(step, errno.ENXIO, "its BAR 0 cannot be mapped")
            registers = Registers(self._fd, offset, size, step)
            undo.callback(registers.close)
            super().__init__(device, registers)
            self._has_interrupts = False
            self._is_wanted = False
            self._request_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            undo.callback(os.close, self._request_fd)
            with contextlib.suppress(OSError):  # Linux before 4.0, not a must
                self._set_irqs(REQUEST, IRQ_EVENTFD, [self._request_fd])
            undo.pop_all()

    def _region(self, index: int) -> tuple[int, int, int]:
        """Return flags, size and offset of a region; OSError when there is none."""
        _, flags, _, _, size, offset = _ioctl(
            self._fd, DEVICE_GET_REGION_INFO, REGION_INFO, 0, index, 0, 0, 0
        )
        return flags, size, offset

    @property
    def _config(self) -> tuple[int, int]:
        return self._fd, self._config_offset

    @property
    def is_wanted(self) -> bool:
        """Whether somebody takes it away and waits for us: see `Function.is_wanted`."""
        if self._is_closed:
            return False
        with contextlib.suppress(BlockingIOError):
            self._is_wanted |= os.eventfd_read(self._request_fd) > 0
        return self._is_wanted

    def map(self, iova: int, address: int, size: int) -> None:
        """Map memory in the IOMMU: see `Function.map`."""
        try:
            self._group.map(iova, address, size)
        except OSError as error:
            hints = {
                errno.ENOMEM: "more locked memory than allowed: ulimit -l unlimited, "
                "or with CAP_IPC_LOCK",
                errno.EEXIST: "some of it is mapped already",
                errno.EINVAL: "whole pages, at addresses that the IOMMU can translate?",
            }
            step = f"map {size:#x} bytes at {iova:#x} for DMA"
            raise self._failed(
                step, error.errno, hints.get(error.errno or 0, "")
            ) from None

    def unmap(self, iova: int, size: int) -> None:
        """Unmap memory in the IOMMU: see `Function.unmap`."""
        try:
            self._group.unmap(iova, size)
        except OSError as error:
            raise self._failed(
                f"unmap {size:#x} bytes at {iova:#x}", error.errno
            ) from None

    def set_interrupts(self, fds: Sequence[int]) -> None:
        """Have vectors count up eventfds: see `Function.set_interrupts`."""
        step = f"use {len(fds)} MSI-X vectors"
        if len(fds) > self.nvectors:
            hint = f"it has {self.nvectors}"
            raise self._failed(step, errno.EINVAL, hint)
        try:
            if self._has_interrupts:
                # Vectors cannot be added while there are some, before Linux 6.5.
                self._set_irqs(MSIX, IRQ_NONE, ())
                self._has_interrupts = False
            if fds:
                self._set_irqs(MSIX, IRQ_EVENTFD, fds)
                self._has_interrupts = True
        except OSError as error:
            raise self._failed(step, error.errno) from None

    def _set_irqs(self, index: int, kind: int, fds: Sequence[int]) -> None:
        data = struct.pack(f"={len(fds)}i", *fds)
        size = IRQ_SET.size + len(data)
        head = IRQ_SET.pack(size, kind | IRQ_TRIGGER, index, 0, len(fds))
        fcntl.ioctl(self._fd, DEVICE_SET_IRQS, head + data)

    @property
    def _is_lent(self) -> bool:
        return self._driver not in (None, VFIO)

    def _make_watchdog(self) -> Watchdog | None:
        if not self._is_lent:
            return None
        device = self._device
        unbind = (device.bus / "drivers" / VFIO / "unbind", device.address)
        # The kernel resets it when it is closed, unless somebody waits for it by then.
        writes = [unbind, reset_write(device)]
        writes += give_back_writes(device, self._override)
        lock = self._lock.fd if self._lock else None
        return Watchdog(None, lock, writes)

    def _give_back(self) -> None:
        with contextlib.ExitStack() as stack:
            if self._lock:
                stack.callback(self._lock.close)
            if self._is_lent:
                self._group.leaving.append((self._device, self._override))
            stack.callback(self._group.release)
            stack.callback(os.close, self._request_fd)
            # Interrupts go with it.
            os.close(self._fd)
