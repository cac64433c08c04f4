"""A card as a vfio-user client sees it: what is answered to each command.

Everything in a message may be wrong. A handler is called with a body of at least the
size that it declares and with no more file descriptors than it takes; all other checks
are its own, and what fails one is a `Refusal`. Sockets are `vfio_user`'s business.

Source: vfio-user protocol specification (QEMU, docs/interop/vfio-user.rst).
"""

import errno
import json
import os
import stat
from collections.abc import Callable
from typing import ClassVar, NamedTuple, Protocol

from snabb_py.nic.vfio_interrupts import InterruptCard, Interrupts, Watch
from snabb_py.nic.vfio_message import (
    CONFIG_REGION,
    DEVICE_FLAGS,
    DEVICE_INFO,
    DMA_MAP,
    DMA_UNMAP,
    DMA_UNMAP_ALL,
    IRQ_FLAGS,
    IRQ_INFO,
    LONGEST_DATA,
    MOST_FDS,
    NIRQS,
    NREGIONS,
    REGION_INFO,
    REGION_IO,
    SET_IRQS,
    VERSION,
    Command,
    Irq,
    Refusal,
    check_capabilities,
)


class Card(InterruptCard, Protocol):
    """What is served: a PCI device in software. Its methods are safe on any thread."""

    @property
    def nregions(self) -> int:
        """Regions of the host's memory that are mapped."""

    def access(self, region: int, offset: int, count: int) -> bytes:
        """Read from a region; ValueError when it has no such place."""

    def store(self, region: int, offset: int, data: bytes) -> None:
        """Write to a region; ValueError when it has no such place."""

    def map_file(self, iova: int, size: int, fd: int, offset: int, flags: int) -> None:
        """Let the card reach a file's memory; OSError when that cannot be."""

    def unmap(self, iova: int, size: int) -> int:
        """Take memory away; returns how many regions. OSError at a border."""

    def unmap_all(self) -> None:
        """Take all memory away."""

    def reset(self) -> None:
        """Function level reset."""


class Region(NamedTuple):
    """A region of a PCI device: size in bytes and VFIO's flags."""

    size: int
    flags: int


def find_capability(config: bytes, number: int) -> int:
    """Return where a PCI capability is in configuration space; 0: nowhere.

    Source: PCI 3.0, 6.7; the list is walked no further than it can be long.
    """
    at = config[0x34] & 0xFC
    for _ in range(48):
        if at == 0 or config[at] == number:
            return at
        at = config[at + 1] & 0xFC
    return 0


def interrupt_counts(config: bytes) -> tuple[int, ...]:
    """Return the number of interrupts of each type that configuration space tells."""
    msi, msix = find_capability(config, 0x05), find_capability(config, 0x11)
    # A table's size is one less than its entries (PCI 3.0, 6.8.2.3).
    entries = (int.from_bytes(config[msix + 2 : msix + 4], "little") & 0x7FF) + 1
    # ERR and REQ are never signalled, but QEMU warns of a device without them.
    return (int(config[0x3D] != 0), int(msi != 0), entries if msix else 0, 1, 1)


class Device:
    """A card as one client sees it, from its first message to its last.

    Args:
        card: what is served.
        regions: size and flags of regions 0 to 8.
        watch: called with a file descriptor and what to do when it becomes readable,
            or None for nothing any more.
        max_dma_maps: how many mappings the client may have at once.
    """

    def __init__(
        self,
        card: Card,
        regions: tuple[Region, ...],
        watch: Watch,
        *,
        max_dma_maps: int,
    ) -> None:
        self.card = card
        self.is_agreed = False
        self._regions = regions
        self._max_dma_maps = max_dma_maps
        self._counts = interrupt_counts(card.access(CONFIG_REGION, 0, 256))
        self._interrupts = Interrupts(card, self._counts, watch)

    def close(self) -> None:
        """Take back all that the client has given; the card is as after a reset."""
        self._interrupts.close()
        # First the reset, or the card would go on with what is not there any more.
        self.card.reset()
        self.card.unmap_all()

    def handle(
        self, command: int, body: memoryview, fds: list[int], out: memoryview
    ) -> int:
        """Carry out a command.

        Args:
            command: its number.
            body: what follows the header.
            fds: file descriptors that came along; what is taken out is kept.
            out: where the reply's body goes, LONGEST bytes.

        Returns:
            How long the reply's body is.

        Raises:
            Refusal: it cannot be done; nothing was changed.
        """
        if not self.is_agreed and command != Command.VERSION:
            raise Refusal(errno.EINVAL, "no-version", is_final=True)
        entry = self._HANDLERS.get(command)
        if entry is None:
            raise Refusal(errno.ENOTSUP, "unsupported")
        handler, size, most_fds = entry
        if len(body) < size:
            raise Refusal(errno.EINVAL, "size")
        if len(fds) > most_fds:
            raise Refusal(errno.EINVAL, "fds")
        return handler(self, body, fds, out)

    # -- the commands, in the order of QEMU 11 ---------------------------------

    def _version(self, body: memoryview, _fds: list[int], out: memoryview) -> int:
        major, _minor = VERSION.unpack_from(body)
        if self.is_agreed or major != 0:
            raise Refusal(errno.EINVAL, "version", is_final=True)
        check_capabilities(bytes(body[VERSION.size :]))
        self.is_agreed = True
        # Limits, whether they were asked for or not: the defaults are others.
        capabilities = {
            "max_msg_fds": MOST_FDS,
            "max_data_xfer_size": LONGEST_DATA,
            "max_dma_maps": self._max_dma_maps,
            "pgsizes": 4096,
        }
        text = json.dumps({"capabilities": capabilities}).encode() + b"\0"
        VERSION.pack_into(out, 0, 0, 0)
        out[VERSION.size : VERSION.size + len(text)] = text
        return VERSION.size + len(text)

    def _dma_map(self, body: memoryview, fds: list[int], _out: memoryview) -> int:
        argsz, flags, offset, address, size = DMA_MAP.unpack_from(body)
        if argsz < DMA_MAP.size or flags not in (1, 2, 3):
            raise Refusal(errno.EINVAL, "argument")
        if size == 0 or address + size > 1 << 64:
            raise Refusal(errno.EINVAL, "argument")
        if not fds:
            # Memory that the client cannot share, such as its firmware. Reading it by
            # message would wait for a client that may wait for us: to the card it is
            # as if it were not there.
            return 0
        if self.card.nregions >= self._max_dma_maps:
            raise Refusal(errno.ENOSPC, "card")
        if not stat.S_ISREG(os.fstat(fds[0]).st_mode):
            raise Refusal(errno.EINVAL, "fds")  # a pipe, a device that blocks
        try:
            self.card.map_file(address, size, fds[0], offset, flags)
        except (OSError, OverflowError) as error:
            raise Refusal(getattr(error, "errno", 0) or errno.EINVAL, "card") from None
        return 0

    def _dma_unmap(self, body: memoryview, _fds: list[int], out: memoryview) -> int:
        argsz, flags, address, size = DMA_UNMAP.unpack_from(body)
        if argsz < DMA_UNMAP.size or flags & ~DMA_UNMAP_ALL:
            raise Refusal(errno.EINVAL, "argument")
        if flags & DMA_UNMAP_ALL:
            self.card.unmap_all()
        elif size == 0 or address + size > 1 << 64:
            raise Refusal(errno.EINVAL, "argument")
        else:
            try:
                # None is well, too: QEMU unmaps what never was, or had no file.
                self.card.unmap(address, size)
            except OSError as error:
                raise Refusal(error.errno or errno.EINVAL, "card") from None
        out[: DMA_UNMAP.size] = body[: DMA_UNMAP.size]
        return DMA_UNMAP.size

    def _get_info(self, body: memoryview, _fds: list[int], out: memoryview) -> int:
        if DEVICE_INFO.unpack_from(body)[0] < DEVICE_INFO.size:
            raise Refusal(errno.EINVAL, "argument")
        DEVICE_INFO.pack_into(out, 0, DEVICE_INFO.size, DEVICE_FLAGS, NREGIONS, NIRQS)
        return DEVICE_INFO.size

    def _get_region_info(
        self, body: memoryview, _fds: list[int], out: memoryview
    ) -> int:
        argsz, _flags, index, *_ = REGION_INFO.unpack_from(body)
        if argsz < REGION_INFO.size or index >= NREGIONS:
            raise Refusal(errno.EINVAL, "argument")
        region = self._regions[index]
        REGION_INFO.pack_into(
            out, 0, REGION_INFO.size, region.flags, index, 0, region.size, 0
        )
        return REGION_INFO.size

    def _get_irq_info(self, body: memoryview, _fds: list[int], out: memoryview) -> int:
        argsz, _flags, index, _count = IRQ_INFO.unpack_from(body)
        if argsz < IRQ_INFO.size or index >= NIRQS:
            raise Refusal(errno.EINVAL, "argument")
        IRQ_INFO.pack_into(
            out, 0, IRQ_INFO.size, IRQ_FLAGS[Irq(index)], index, self._counts[index]
        )
        return IRQ_INFO.size

    def _region_read(self, body: memoryview, _fds: list[int], out: memoryview) -> int:
        offset, region, count = REGION_IO.unpack_from(body)
        if not 0 < count <= LONGEST_DATA:
            raise Refusal(errno.EINVAL, "argument")
        try:
            out[16 : 16 + count] = self.card.access(region, offset, count)
        except ValueError:
            raise Refusal(errno.EINVAL, "argument") from None
        out[:16] = body[:16]
        return 16 + int(count)

    def _region_write(self, body: memoryview, _fds: list[int], out: memoryview) -> int:
        offset, region, count = REGION_IO.unpack_from(body)
        if len(body) != 16 + count:
            raise Refusal(errno.EINVAL, "size")
        if not 0 < count <= LONGEST_DATA:
            raise Refusal(errno.EINVAL, "argument")
        try:
            self.card.store(region, offset, bytes(body[16:]))
        except ValueError:
            raise Refusal(errno.EINVAL, "argument") from None
        out[:16] = body[:16]
        return 16

    def _reset(self, _body: memoryview, _fds: list[int], _out: memoryview) -> int:
        self.card.reset()
        return 0

    def _set_irqs(self, body: memoryview, fds: list[int], _out: memoryview) -> int:
        self._interrupts.set(body, fds)
        return 0

    _Handler = Callable[["Device", memoryview, list[int], memoryview], int]
    #: Command: what carries it out, least bytes of its body, most file descriptors.
    _HANDLERS: ClassVar[dict[int, tuple[_Handler, int, int]]] = {
        Command.VERSION: (_version, VERSION.size, 0),
        Command.DMA_MAP: (_dma_map, DMA_MAP.size, 1),
        Command.DMA_UNMAP: (_dma_unmap, DMA_UNMAP.size, 0),
        Command.DEVICE_GET_INFO: (_get_info, DEVICE_INFO.size, 0),
        Command.DEVICE_GET_REGION_INFO: (_get_region_info, REGION_INFO.size, 0),
        Command.DEVICE_GET_IRQ_INFO: (_get_irq_info, IRQ_INFO.size, 0),
        Command.DEVICE_SET_IRQS: (_set_irqs, SET_IRQS.size, MOST_FDS),
        Command.REGION_READ: (_region_read, REGION_IO.size, 0),
        Command.REGION_WRITE: (_region_write, REGION_IO.size, 0),
        Command.DEVICE_RESET: (_reset, 0, 0),
    }
