"""PCI devices as sysfs tells of them: what there is, and which driver has it.

A device is handed from one driver to another by the kernel's own means: its
`driver_override` names the driver that may have it, `unbind` takes it from the one that
has it, `drivers_probe` looks for the one that fits. Every step is a write to a file of
/sys; a failure names the file. Imports errors; programs use `engine.pci`.

Source: Documentation/ABI/testing/sysfs-bus-pci, Documentation/PCI/sysfs-pci.rst.
"""

import contextlib
import errno
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from snabb_py.errors import ConfigError, DeviceError

SYSFS = Path("/sys")
PROC = Path("/proc")
VFIO = "vfio-pci"
#: Drivers that hand a device on; it is nobody's own.
USERSPACE_DRIVERS = (VFIO, "uio_pci_generic", "igb_uio", "pci-stub")
#: For `bind`: the device is to have no driver.
NO_DRIVER = "none"
NETWORK_CLASS = 0x02  #: the first byte of the class code
#: Of the first byte of the class code: PCI code and id assignment specification, 1.
CLASSES = {
    0x01: "storage controller",
    0x02: "network controller",
    0x03: "display controller",
    0x04: "multimedia device",
    0x05: "memory controller",
    0x06: "bridge",
    0x07: "communication controller",
    0x08: "system device",
    0x09: "input device",
    0x0C: "serial bus controller",
    0x0D: "wireless controller",
    0x10: "encryption controller",
    0x12: "accelerator",
}
ETHERNET = 0x0200  #: the first two bytes

#: Seconds. A driver that lets go of a card first sends what it has; one that takes it
#: resets it, which is a matter of seconds when there is an EEPROM to read.
WRITE_TIMEOUT = 20.0
PROBE_TIMEOUT = 10.0
INTERVAL = 0.02

_ADDRESS = re.compile(
    r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])", re.IGNORECASE
)
_IFF_UP = 1
LINK_SCOPE = 253  #: RT_SCOPE_LINK
_DRIVER_NAME = re.compile(r"[A-Za-z0-9_-]+")


def parse_address(text: str) -> str:
    """Return the address of a PCI device as sysfs writes it, "0000:01:00.0".

    Args:
        text: the same, or without the domain, "01:00.0".

    Raises:
        ConfigError: it is no such address.
    """
    found = _ADDRESS.fullmatch(text)
    if not found:
        raise ConfigError(f'PCI address "{text}": expected one such as 0000:01:00.0')
    domain, bus, device, function = found.groups()
    return f"{domain or '0000'}:{bus}:{device}.{function}".lower()


def is_address(text: str) -> bool:
    """Return whether it is the address of a PCI device, with or without a domain."""
    return _ADDRESS.fullmatch(text) is not None


@dataclass(frozen=True)
class Device:
    """A PCI device, as it was when it was looked at.

    Attributes:
        path: its directory in sysfs.
        address: "0000:01:00.0".
        vendor, device: its ids.
        class_code: 24 bits; 0x020000 is an Ethernet controller.
        driver: the name of the driver that has it; None: none has.
        iommu_group: the number of its IOMMU group; None: no IOMMU translates for it.
        group_devices: addresses of the other devices in this group.
        numa_node: None: the machine has but one, or does not tell.
        interfaces: names of the kernel's network interfaces on it.
    """

    path: Path
    address: str
    vendor: int
    device: int
    class_code: int
    driver: str | None
    iommu_group: int | None
    group_devices: tuple[str, ...]
    numa_node: int | None
    interfaces: tuple[str, ...]

    @property
    def bus(self) -> Path:
        """The directory of all that is PCI."""
        return self.path.parents[1]

    @property
    def is_network(self) -> bool:
        """Whether it is a network controller."""
        return self.class_code >> 16 == NETWORK_CLASS

    @property
    def kind(self) -> str:
        """What it is, by its class: "Ethernet controller", "bridge"..."""
        if self.class_code >> 8 == ETHERNET:
            return "Ethernet controller"
        return CLASSES.get(self.class_code >> 16, "device")

    @property
    def override(self) -> str:
        """The one driver that may have it; "": any that fits."""
        text = _read(self.path / "driver_override", "")
        return "" if text == "(null)" else text

    def is_up(self, interface: str) -> bool:
        """Return whether one of its interfaces has been set up."""
        path = next(iter(_interface_paths(self.path, interface)), None)
        return bool(path and int(_read(path / "flags", "0"), 16) & _IFF_UP)


def devices(*, sysfs: Path | None = None) -> list[Device]:
    """Return all PCI devices, in the order of their addresses."""
    root = sysfs or SYSFS
    names = sorted(path.name for path in (root / "bus/pci/devices").glob("*"))
    found = []
    for name in names:
        with contextlib.suppress(DeviceError):  # it has just gone
            found.append(find(name, sysfs=root))
    return found


def find(address: str, *, sysfs: Path | None = None) -> Device:
    """Return the device at an address.

    Raises:
        ConfigError: it is no PCI address.
        DeviceError: there is no such device.
    """
    address = parse_address(address)
    path = (sysfs or SYSFS) / "bus/pci/devices" / address
    try:
        vendor, device, class_code = (
            int((path / name).read_text(), 16) for name in ("vendor", "device", "class")
        )
    except (OSError, ValueError):
        raise DeviceError(
            f"PCI device {address}", errno.ENODEV, "see: snabb-py pci list --all"
        ) from None
    group, others = _group(path)
    node = int(_read(path / "numa_node", "-1"))
    return Device(
        path=path,
        address=address,
        vendor=vendor,
        device=device,
        class_code=class_code,
        driver=_driver(path),
        iommu_group=group,
        group_devices=others,
        numa_node=None if node < 0 else node,
        interfaces=tuple(sorted(p.name for p in _interface_paths(path, "*"))),
    )


def _read(path: Path, missing: str) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return missing


def _driver(path: Path) -> str | None:
    try:
        return (path / "driver").readlink().name
    except OSError:
        return None


def _group(path: Path) -> tuple[int | None, tuple[str, ...]]:
    group = path / "iommu_group"
    try:
        number = int(group.readlink().name)
    except (OSError, ValueError):
        return None, ()
    # A group in name only, made by VFIO where nothing translates.
    if _read(group / "name", "") == "vfio-noiommu":
        return None, ()
    others = sorted(p.name for p in (group / "devices").glob("*"))
    return number, tuple(name for name in others if name != path.name)


def _interface_paths(path: Path, name: str) -> Iterator[Path]:
    yield from path.glob(f"net/{name}")
    yield from path.glob(f"virtio*/net/{name}")  # a device on a bus of its own


# ---- is it free?


def obstacles(device: Device) -> list[str]:
    """Return why its driver should not be taken from a device, each with what to do."""
    found = [
        f"its interface {name} {use}"
        for name in device.interfaces
        if (use := interface_use(device, name))
    ]
    if int(_read(device.path / "sriov_numvfs", "0") or 0):
        found.append(
            f"it has virtual functions: echo 0 >{device.path / 'sriov_numvfs'}"
        )
    return found


def interface_use(device: Device, name: str) -> str:
    """Return what an interface is used for, and how to end that; "": nothing."""
    # Late: it takes half a second to import.
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with contextlib.suppress(NetlinkError, OSError), IPRoute() as ip:
        for index in ip.link_lookup(ifname=name):
            if any(
                _leaves_by(route, index)
                for family in (socket.AF_INET, socket.AF_INET6)
                for route in ip.get_default_routes(family)
            ):
                return f"carries the default route: ip route del default dev {name}"
            for address in ip.get_addr(index=index):
                # One that the kernel made itself goes when the interface is down.
                if address["scope"] != LINK_SCOPE:
                    text = address.get_attr("IFA_ADDRESS")
                    return f"has the address {text}: ip addr flush dev {name}"
    return f"is up: ip link set {name} down" if device.is_up(name) else ""


def _leaves_by(route: object, index: int) -> bool:
    attributes = dict(route["attrs"])  # type: ignore[index]
    hops = attributes.get("RTA_MULTIPATH") or ()
    return attributes.get("RTA_OIF") == index or any(h["oif"] == index for h in hops)


def check_free(device: Device, step: str, *, force: bool) -> None:
    """Raise DeviceError if somebody's network goes through a device.

    Args:
        device: to be taken from its driver.
        step: what is refused, "bind 0000:01:00.0 to vfio-pci".
        force: refuse nothing.
    """
    if force or device.driver is None or not (reasons := obstacles(device)):
        return
    driver = VFIO if device.iommu_group is not None else NO_DRIVER
    raise DeviceError(
        step,
        errno.EBUSY,
        f"{reasons[0]}, or: snabb-py pci bind --driver {driver} --force "
        f"{device.address}",
    )


def user_of(path: Path, *, proc: Path = PROC) -> int | None:
    """Return the process, other than this one, that has a file open; None if none.

    It sees the processes of other users only when it is root's.
    """
    for fds in proc.glob("[0-9]*/fd"):
        number = int(fds.parent.name)
        with contextlib.suppress(OSError):
            if number != os.getpid() and any(
                fd.readlink() == path for fd in fds.iterdir()
            ):
                return number
    return None


def vfio_node(group: int) -> Path:
    """Return the file by which a process has an IOMMU group."""
    return Path(f"/dev/vfio/{group}")


# ---- from driver to driver


def write(path: Path, text: str, *, timeout: float = WRITE_TIMEOUT) -> None:
    """Write to a file of sysfs.

    The kernel does the work before it returns, and a driver may take for ever, as
    vfio-pci does while a process still has the device: hence a thread.

    Raises:
        DeviceError: the kernel refused, or is not done in time.
    """
    failed: list[OSError] = []

    def do() -> None:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    thread.join(timeout)
    step = f'write "{text.strip()}" to {path}'
    if thread.is_alive():
        raise DeviceError(step, errno.ETIMEDOUT, f"still not done after {timeout:g} s")
    if failed:
        number = failed[0].errno or errno.EIO
        is_ours = number in (errno.EACCES, errno.EPERM)
        hint = "run as root, or with CAP_DAC_OVERRIDE" if is_ours else ""
        raise DeviceError(step, number, hint)


def wait(condition: Callable[[], bool], timeout: float | None = None) -> bool:
    """Wait until something is so, PROBE_TIMEOUT at most; return whether it is."""
    deadline = time.monotonic() + (PROBE_TIMEOUT if timeout is None else timeout)
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(INTERVAL)
    return True


def load_module(name: str) -> bool:
    """Load a kernel module by its name or alias; return whether that went well."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    program = shutil.which("modprobe", path=path)
    if program is None:
        return False
    try:
        done = subprocess.run(
            [program, "-q", name], check=False, capture_output=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def bind(device: Device, driver: str = VFIO, *, force: bool = False) -> None:
    """Give a device to a driver, whatever ids this driver is made for.

    The caller has the device's lock.

    Args:
        device: which; look at it again afterwards.
        driver: its name; it is loaded if need be. NO_DRIVER: to none.
        force: even if a network interface on it is in use.

    Raises:
        ConfigError: no driver can be called so.
        DeviceError: it is in use; the driver is not there or does not want it.
    """
    if not _DRIVER_NAME.fullmatch(driver):
        raise ConfigError(f'driver "{driver}": expected a name such as {VFIO}')
    step = f"bind {device.address} to {driver}"
    if driver == NO_DRIVER:
        step = f"unbind {device.address} from {device.driver}"
    if device.driver == driver:
        return
    check_free(device, step, force=force)
    if driver == NO_DRIVER:
        _detach(device, step)
        return
    if not (device.bus / "drivers" / driver).exists() and not (
        load_module(driver) and wait((device.bus / "drivers" / driver).exists)
    ):
        raise DeviceError(
            step, errno.ENODEV, f"the driver is not loaded: modprobe {driver}"
        )
    if driver == VFIO and device.iommu_group is None:
        raise DeviceError(
            step,
            errno.EINVAL,
            "it has no IOMMU group, is the IOMMU switched on (intel_iommu=on)? "
            "Without one no driver is needed: snabb-py pci bind --driver none",
        )
    _detach(device, step)
    _probe(device, driver)
    if not wait(lambda: _driver(device.path) == driver):
        raise DeviceError(step, errno.ENODEV, "it did not take it: see dmesg")


def unbind(device: Device, *, override: str = "") -> str | None:
    """Give a device back to the kernel's own driver for it.

    The caller has the device's lock.

    Args:
        device: which; look at it again afterwards.
        override: the one driver that may have it, as before; "": any that fits.

    Returns:
        The driver that has it now; None if there is none for it.

    Raises:
        DeviceError: the kernel refused.
    """
    driver = _driver(device.path)
    is_handed_on = not override and driver in USERSPACE_DRIVERS
    if device.override != override or is_handed_on:
        _detach(device, f"unbind {device.address} from {driver}")
    _probe(device, override)
    if _driver(device.path) is None and not override:
        # Not loaded at boot, or taken away since.
        load_module(_read(device.path / "modalias", "none"))
        wait(lambda: _driver(device.path) is not None, 1)
    return _driver(device.path)


def _detach(device: Device, step: str) -> None:
    """Take a device from the driver that it has.

    Raises:
        DeviceError: a process uses it through VFIO, or the kernel refused.
    """
    driver = _driver(device.path)
    if driver is None:
        return
    if driver == VFIO and device.iommu_group is not None:
        # The kernel would wait for it to end, without a limit.
        process = user_of(vfio_node(device.iommu_group))
        if process is not None:
            raise DeviceError(step, errno.EBUSY, f"process {process} uses it")
    write(device.path / "driver/unbind", device.address)
    if not wait(lambda: _driver(device.path) is None):
        raise DeviceError(step, errno.ETIMEDOUT, "the driver still has it: see dmesg")


def _probe(device: Device, override: str) -> None:
    # A line end alone means none.
    write(device.path / "driver_override", f"{override}\n")
    if _driver(device.path) is None:
        write(device.bus / "drivers_probe", device.address)
