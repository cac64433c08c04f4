"""The vfio-user protocol as it is on the wire.

A client (QEMU) reaches a PCI device in another process by messages that follow the
ioctls of Linux's VFIO: a header of 16 bytes, then a body, then file descriptors beside
them. All numbers are little-endian. Imports nothing.

Source: vfio-user protocol specification (QEMU, docs/interop/vfio-user.rst);
linux/vfio.h.
"""

import errno
import json
import os
from enum import IntEnum, IntFlag
from struct import Struct

#: Message id, command, size of the whole message, flags, errno.
HEADER = Struct("<HHIII")
REPLY, NO_REPLY, ERROR = 0x01, 0x10, 0x20
TYPE = 0x0F

VERSION = Struct("<HH")  # major, minor; JSON follows
DMA_MAP = Struct("<IIQQQ")  # argsz, flags, file offset, address, size
DMA_UNMAP = Struct("<IIQQ")  # argsz, flags, address, size
DEVICE_INFO = Struct("<IIII")  # argsz, flags, regions, interrupt types
REGION_INFO = Struct("<IIIIQQ")  # argsz, flags, index, capabilities, size, offset
IRQ_INFO = Struct("<IIII")  # argsz, flags, index, count
SET_IRQS = Struct("<IIIII")  # argsz, flags, index, start, count; booleans follow
REGION_IO = Struct("<QII")  # offset, region, count; data follows

#: Most data that one message carries: the configuration space, read at once.
LONGEST_DATA = 4096
LONGEST = HEADER.size + REGION_IO.size + LONGEST_DATA
#: Most file descriptors in one message; QEMU accepts no larger number here.
MOST_FDS = 16

NREGIONS, NIRQS = 9, 5
CONFIG_REGION = 7
DEVICE_FLAGS = 0x3  # can be reset, is PCI
DMA_UNMAP_ALL = 0x2


class Command(IntEnum):
    """Commands of a client that are understood; all others are refused."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DEVICE_RESET = 13


class Irq(IntEnum):
    """Interrupt types by VFIO's index."""

    INTX = 0
    MSI = 1
    MSIX = 2
    ERR = 3
    REQ = 4


class IrqInfo(IntFlag):
    """What an interrupt type can do."""

    EVENTFD = 1
    MASKABLE = 2
    AUTOMASKED = 4
    NORESIZE = 8


class IrqSet(IntFlag):
    """What SET_IRQS is to do: one kind of data, one action."""

    NONE = 1
    BOOL = 2
    EVENTFD = 4
    MASK = 8
    UNMASK = 16
    TRIGGER = 32


# Numbers, since the inverse of an IntFlag has no bits that the class does not name.
IRQ_DATA = int(IrqSet.NONE | IrqSet.BOOL | IrqSet.EVENTFD)
IRQ_ACTION = int(IrqSet.MASK | IrqSet.UNMASK | IrqSet.TRIGGER)

IRQ_FLAGS = {
    Irq.INTX: IrqInfo.EVENTFD | IrqInfo.MASKABLE | IrqInfo.AUTOMASKED,
    Irq.MSI: IrqInfo.EVENTFD | IrqInfo.NORESIZE,
    Irq.MSIX: IrqInfo.EVENTFD | IrqInfo.NORESIZE,
    Irq.ERR: IrqInfo.EVENTFD,
    Irq.REQ: IrqInfo.EVENTFD,
}


class Refusal(Exception):  # noqa: N818 - the field's word for it
    """A command that is answered with an error.

    Args:
        number: the errno for the client.
        reason: what it is counted as.
        is_final: the connection makes no sense any more.
    """

    def __init__(self, number: int, reason: str, *, is_final: bool = False) -> None:
        super().__init__(f"{reason}: {os.strerror(number)}")
        self.number = number
        self.reason = reason
        self.is_final = is_final


def check_capabilities(text: bytes) -> None:
    """Refuse capabilities of a client that have not the form they must have.

    What they say concerns messages that are never sent from here.

    Raises:
        Refusal: text is neither empty nor a JSON object that ends with a NUL.
    """
    if not text:
        return
    try:
        document = json.loads(text[:-1])
    except (ValueError, RecursionError):
        document = None
    is_object = isinstance(document, dict) and text.endswith(b"\0")
    if not is_object or not isinstance(document.get("capabilities", {}), dict):
        raise Refusal(errno.EINVAL, "version", is_final=True)
