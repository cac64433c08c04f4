"""PCI cards for drivers in user space: find one, bind it, claim it.

    with pci.claim("0000:01:00.0") as card:
        card.map(iova, address, size)
        card.set_master(True)
        card.read(0x8)

With an IOMMU the way is VFIO, without one the card's files in sysfs and physical
addresses. One process has a card at a time; at the end, killed or not, the card is put
to rest and given back to the driver that had it. Nothing here knows what a card does.
Imports errors and the extension.
"""

import contextlib
import errno
from collections.abc import Iterator

from snabb_py.engine import pci_bus
from snabb_py.engine.pci_bus import (
    NO_DRIVER,
    VFIO,
    Device,
    devices,
    find,
    is_address,
    obstacles,
    parse_address,
    vfio_node,
)
from snabb_py.engine.pci_function import Function, Lock, SysfsFunction
from snabb_py.engine.vfio import TYPE1_MODULE, VfioFunction, check_group
from snabb_py.errors import DeviceError

__all__ = [
    "NO_DRIVER",
    "VFIO",
    "Device",
    "Function",
    "bind",
    "claim",
    "devices",
    "find",
    "is_address",
    "obstacles",
    "parse_address",
    "unbind",
    "vfio_node",
]


def bind(device: Device, driver: str = VFIO, *, force: bool = False) -> None:
    """Give a device to a driver, as `pci_bus.bind`; nobody must have claimed it."""
    with _locked(device, f"bind {device.address} to {driver}"):
        pci_bus.bind(device, driver, force=force)
        if driver == VFIO:
            # For users to whom the group is given: they may not, and vfio-pci does not
            # always bring it along.
            pci_bus.load_module(TYPE1_MODULE)


def unbind(device: Device) -> None:
    """Give a device back, as `pci_bus.unbind`; nobody must have claimed it."""
    with _locked(device, f"unbind {device.address}"):
        pci_bus.unbind(device)


def claim(address: str, *, force: bool = False) -> Function:
    """Take a device for this process, away from its driver if it has one.

    Args:
        address: "0000:01:00.0", or without the domain.
        force: even if a network interface on it is in use.

    Returns:
        The device, to be closed by the caller; its bus mastering is off.

    Raises:
        ConfigError: it is no PCI address.
        DeviceError: there is no such device; it is in use; the kernel refused.
    """
    device = find(address)
    uses_vfio = device.iommu_group is not None
    step = f"claim {device.address}"
    with contextlib.ExitStack() as undo:
        lock = _lock(device, step)
        if lock:
            undo.callback(lock.close)
        # Once more: a watchdog may have given it back while we waited for the lock.
        device = find(address)
        driver, override = device.driver, device.override
        pci_bus.check_free(device, step, force=force)
        if uses_vfio:
            check_group(device, step)
        undo.callback(_restore, device, override)
        pci_bus.bind(device, VFIO if uses_vfio else NO_DRIVER, force=True)
        device = find(address)
        function: Function
        if uses_vfio:
            function = VfioFunction(device, lock, driver=driver, override=override)
        else:
            assert lock is not None  # noqa: S101 - _lock
            function = SysfsFunction(device, lock, driver=driver, override=override)
        undo.pop_all()
    return function


@contextlib.contextmanager
def _locked(device: Device, step: str) -> Iterator[None]:
    # What has no registers is nothing that we could have claimed.
    has_registers = (device.path / "resource0").exists()
    lock = _lock(device, step) if has_registers else None
    try:
        yield
    finally:
        if lock:
            lock.close()


def _lock(device: Device, step: str) -> Lock | None:
    """Return the device's lock; None: it is VFIO's alone to keep others away.

    A user to whom a group of VFIO was given cannot open the files of the device.
    """
    try:
        return Lock(device, step)
    except DeviceError as error:
        if device.iommu_group is None or error.errno not in (errno.EACCES, errno.EPERM):
            raise
    return None


def _restore(before: Device, override: str) -> None:
    """Let the driver have a device again that had it before the claim failed."""
    now = find(before.address)
    if before.driver is not None and now.driver != before.driver:
        with contextlib.suppress(DeviceError):
            pci_bus.unbind(now, override=override)
