"""How a PCI Express card is plugged in: lanes, speed, size of its packets.

Imports host, pci_bus.

Source: PCI Express base specification 3.0, 7.8; PCI local bus specification 3.0, 6.7;
Documentation/ABI/testing/sysfs-bus-pci.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from snabb_py.engine.host import UntoldError
from snabb_py.engine.pci_bus import Device

STATUS, HAS_CAPABILITIES, FIRST_CAPABILITY = 0x06, 1 << 4, 0x34
EXPRESS = 0x10  #: capability id
#: Of the capability: device capabilities and device control.
DEVICE_CAPABILITIES, DEVICE_CONTROL = 0x04, 0x08
#: Capabilities are behind the header, which is all that others than root see.
HEADER, SIZE = 64, 256
EXPRESS_SIZE = 12  #: of what is read
#: What is left of all symbols for data: 8b/10b, and from 8 GT/s on 128b/130b.
SLOW_GTS, SLOW_CODE, FAST_CODE = 5.0, 8 / 10, 128 / 130


@dataclass(frozen=True)
class Link:
    """Lanes of a speed.

    Attributes:
        gts: 10^9 transfers a second on each lane.
        lanes: how many.
    """

    gts: float
    lanes: int

    @property
    def gbps(self) -> float:
        """10^9 bits a second in each direction, all that is on the wire."""
        code = SLOW_CODE if self.gts <= SLOW_GTS else FAST_CODE
        return self.gts * self.lanes * code

    def __str__(self) -> str:
        return f"x{self.lanes} at {self.gts:g} GT/s"


@dataclass(frozen=True)
class Payload:
    """Bytes of data in a packet of PCI Express.

    Attributes:
        now: at most, as it is set.
        possible: at most, of the card and all bridges above it.
    """

    now: int
    possible: int


def links(device: Device) -> tuple[Link, Link]:
    """Return the link that a card has, and the best that it could have.

    Raises:
        UntoldError: it has none, or does not tell.
    """
    return _link(device, "current"), _link(device, "max")


def _link(device: Device, which: str) -> Link:
    speed = _read(device.path / f"{which}_link_speed")
    width = _read(device.path / f"{which}_link_width")
    gts = re.match(r"[\d.]+", speed)
    if not gts or not width.isdecimal() or not int(width):
        raise UntoldError(f'{device.path}: {which} link "{speed}", width "{width}"')
    return Link(float(gts[0]), int(width))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError as error:
        raise UntoldError(f"{path}: {error.strerror}") from None


def payload(device: Device) -> Payload:
    """Return the payload of a card's packets.

    Raises:
        UntoldError: the configuration space does not tell, or not to us.
    """
    sizes = [_payload(path) for path in _path_to_root(device.path)]
    return Payload(sizes[0][0], min(possible for _, possible in sizes))


def _path_to_root(path: Path) -> Iterator[Path]:
    """Yield the directories of a device and of the bridges above it."""
    yield path
    for parent in path.resolve().parents:
        if not (parent / "config").exists():
            return
        yield parent


def _payload(path: Path) -> tuple[int, int]:
    """Return the payload that a device has been given, and the most it takes."""
    config = path / "config"
    try:
        data = config.read_bytes()[:SIZE]
    except OSError as error:
        raise UntoldError(f"{config}: {error.strerror}") from None
    if len(data) < SIZE:
        raise UntoldError(f"{config}: only root sees all of it")
    at = _find_express(data)
    if at is None:
        raise UntoldError(f"{config}: no PCI Express")
    (capabilities,) = struct.unpack_from("<I", data, at + DEVICE_CAPABILITIES)
    (control,) = struct.unpack_from("<H", data, at + DEVICE_CONTROL)
    return 128 << (control >> 5 & 7), 128 << (capabilities & 7)


def _find_express(data: bytes) -> int | None:
    """Return the offset of the capability, if there is one."""
    if not data[STATUS] & HAS_CAPABILITIES:
        return None
    at = data[FIRST_CAPABILITY] & ~3
    for _ in range(HEADER, SIZE, 4):  # a chain may be a circle
        if not HEADER <= at <= SIZE - EXPRESS_SIZE:
            return None
        if data[at] == EXPRESS:
            return at
        at = data[at + 1] & ~3
    return None
