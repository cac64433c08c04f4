"""The software 82599: a card that the stock Linux driver accepts.

`Card` is the card as its host sees it: registers, configuration space, memory that it
may reach, interrupts. `SoftwareCard` is the app that is its wire. The model itself is
in model82599.c and the files that model82599.h names.

    card = Card()
    config.app("card", SoftwareCard, card=card)
    config.link("generator.tx -> card.rx")     frames that arrive on the wire
    config.link("card.tx -> checker.rx")       frames that the card sends

Any thread may call a card; the worker that has the app steps it.
"""

import errno
import os
from types import TracebackType
from typing import Any, Self

from snabb_py._native import ffi, lib
from snabb_py.engine.app import App, Ports, Resources
from snabb_py.engine.resources import Right
from snabb_py.errors import ConfigError, DeviceError
from snabb_py.nic import registers
from snabb_py.nic.config_space import DEVICE_SFP, config_space
from snabb_py.nic.eeprom import eeprom_image, sfp_module

#: In the order of the C enum.
COUNTERS = (
    "rx-packets",
    "rx-bytes",
    "tx-packets",
    "tx-bytes",
    "host-packets",
    "interrupts",
    "resets",
    "drop-rx-link-down",
    "drop-rx-disabled",
    "drop-rx-bad-length",
    "drop-rx-filtered",
    "drop-rx-fifo-full",
    "drop-rx-no-descriptor",
    "drop-rx-queue-disabled",
    "drop-rx-bad-offload",
    "drop-tx-link-down",
    "drop-tx-bad-descriptor",
    "drop-tx-bad-length",
    "drop-tx-spoofed",
    "drop-tx-no-packet",
    "dma-read-unmapped",
    "dma-write-unmapped",
    "bad-ring",
    "header-split-refused",
    "mmio-bad-size",
    "mmio-outside",
)

#: Locally administered, and one of our own for each card of a process.
MAC_PREFIX = bytes.fromhex("0253 4e42 00".replace(" ", ""))

READ, WRITE = lib.MODEL_DMA_READ, lib.MODEL_DMA_WRITE


class Card:
    """One card.

    Args:
        mac: its address, 6 bytes.
        device_id: PCI device ID.
        sfp: a 10GBASE-SR module is in its cage.
        paced: its wire carries 10 Gb/s; else as much as it is given.
        waits: frames wait on the wire while the packet buffer holds any: none is missed
            because the driver is slow. A real wire does not wait.
        bursts: plain frames take a short way together; without, each goes the long
            way by itself, with the same effect.
        name: what messages call it.

    Raises:
        DeviceError: there is no memory for it.
    """

    def __init__(  # noqa: PLR0913 - all have defaults
        self,
        *,
        mac: bytes | None = None,
        device_id: int = DEVICE_SFP,
        sfp: bool = True,
        paced: bool = True,
        waits: bool = False,
        bursts: bool = True,
        name: str = "sim",
    ) -> None:
        self.name = name
        self._users = 0
        self._is_closed = False
        self.mac = MAC_PREFIX + b"\x01" if mac is None else mac
        config, config_mask = config_space(device_id=device_id, mac=self.mac)
        module = sfp_module() if sfp else None
        keep = {
            "access": ffi.new("uint8_t[]", registers.answers()),
            "alias": ffi.new("uint32_t[]", registers.ALIASES),
            "reset": ffi.new("uint32_t[]", registers.reset()),
            "mask": ffi.new("uint32_t[]", registers.mask()),
            "config": ffi.new("uint8_t[]", config),
            "config_mask": ffi.new("uint8_t[]", config_mask),
            "eeprom": ffi.new("uint16_t[]", eeprom_image(self.mac)),
            "sfp": ffi.NULL if module is None else ffi.new("uint8_t[]", module),
        }
        identity = ffi.new(
            "struct model_identity *",
            {
                **keep,
                "mac": self.mac,
                "unpaced": not paced,
                "waits": waits,
                "one_by_one": not bursts,
            },
        )
        self.card: Any = lib.model_new(identity)
        if not self.card:
            raise DeviceError("make a software 82599", errno.ENOMEM, "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmap what is mapped and free the card, when no app has it any more."""
        self._is_closed = True
        if self._users == 0 and self.card:
            lib.model_free(self.card)
            self.card = ffi.NULL

    def hold(self) -> None:
        """Keep the card from being freed until `let_go`.

        Raises:
            ConfigError: it has been closed.
        """
        if self._is_closed:
            raise ConfigError(f"card {self.name}: it has been closed")
        self._users += 1

    def let_go(self) -> None:
        """Take a `hold` back; with the last one a card that was closed is freed."""
        self._users -= 1
        if self._is_closed:
            self.close()

    # -- registers -------------------------------------------------------------

    def read(self, offset: int) -> int:
        """Read a register, with its side effects."""
        return int(lib.model_read(self.card, offset))

    def write(self, offset: int, value: int) -> None:
        """Write a register."""
        lib.model_write(self.card, offset, value)

    def access(self, region: int, offset: int, count: int) -> bytes:
        """Read from a region (VFIO's index) as a foreign program does.

        Raises:
            ValueError: it is not within, or of a size that no bus knows.
        """
        data = ffi.new("uint8_t[]", max(count, 1))
        if lib.model_access(self.card, region, offset, data, count, 0) < 0:
            raise ValueError(f"read of {count} bytes at {offset:#x} of region {region}")
        return bytes(ffi.buffer(data, count))

    def store(self, region: int, offset: int, data: bytes) -> None:
        """Write to a region; see `access`."""
        buffer = ffi.from_buffer("uint8_t[]", data)
        if lib.model_access(self.card, region, offset, buffer, len(data), 1) < 0:
            raise ValueError(
                f"write of {len(data)} bytes at {offset:#x} of region {region}"
            )

    @property
    def registers(self) -> Any:
        """The register file, `volatile uint32_t *`: for the tails of rings alone.

        From now on the card is polled: its worker does not wait for it.
        """
        return lib.model_registers(self.card)

    def reset(self) -> None:
        """Reset the function; what is mapped stays."""
        lib.model_reset(self.card)

    # -- memory ----------------------------------------------------------------

    def map(
        self, iova: int, address: Any, size: int, flags: int = READ | WRITE
    ) -> None:
        """Let the card reach memory of this process, the caller's, until `unmap`.

        Raises:
            OSError: EEXIST, it overlaps; EINVAL; ENOSPC, too many regions.
        """
        self._check(lib.model_map(self.card, iova, size, address, flags))

    def map_file(
        self, iova: int, size: int, fd: int, offset: int, flags: int = READ | WRITE
    ) -> None:
        """Map a part of a file for the card; the file descriptor stays the caller's.

        Raises:
            OSError: as `map`; EFBIG, the file is not that long; of mmap().
        """
        self._check(lib.model_map_file(self.card, iova, size, fd, offset, flags))

    def unmap(self, iova: int, size: int) -> int:
        """Take away all regions within; return how many.

        Raises:
            OSError: EINVAL, a region lies across the border.
        """
        return self._check(lib.model_unmap(self.card, iova, size))

    def unmap_all(self) -> None:
        """Take all regions away."""
        lib.model_unmap_all(self.card)

    @property
    def nregions(self) -> int:
        """How many regions are mapped."""
        return int(lib.model_regions(self.card))

    @staticmethod
    def _check(result: int) -> int:
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result

    # -- interrupts, cable -----------------------------------------------------

    def set_interrupt(self, index: int, vector: int, fd: int) -> None:
        """Set an interrupt's eventfd, the caller's; -1: none.

        Args:
            index: 0 INTx, 1 MSI, 2 MSI-X.
            vector: 0, of MSI-X up to 63.
            fd: eventfd; the card writes to it.
        """
        lib.model_set_interrupt(self.card, index, vector, fd)

    def trigger(self, index: int, vector: int) -> None:
        """Signal an interrupt's eventfd, whatever the card has to say; never waits."""
        lib.model_trigger(self.card, index, vector)

    def unmask_intx(self) -> None:
        """Let INTx come again."""
        lib.model_unmask_intx(self.card)

    def plug(self, plugged: bool) -> None:
        """Put the cable in or pull it out."""
        lib.model_set_cable(self.card, plugged)

    @property
    def counters(self) -> dict[str, int]:
        """All counters by name, as they are now."""
        values = ffi.new("uint64_t[]", lib.MODEL_NCOUNTERS)
        lib.model_get_counters(self.card, values)
        return dict(zip(COUNTERS, values, strict=True))


class SoftwareCard(App):
    """The wire of a software card.

                 +--------------+
          rx --->| SoftwareCard |---> tx
                 +--------------+

    Frames at rx arrive on the wire as another card would have sent them: finished and
    padded. Frames of the card leave at tx at 10 Gb/s. Counters: `COUNTERS`, those of
    the card; they go on counting when the app is replaced.

    Args:
        card: the card, which the app does not close.
    """

    inputs = Ports("rx", optional=True)
    outputs = Ports("tx", optional=True)
    counters = COUNTERS
    ops = ffi.addressof(lib.model82599_ops)

    def __init__(self, card: Card) -> None:
        self.card = card
        self.state = card.card

    def open(self, resources: Resources) -> None:
        """Take the card's wire.

        Raises:
            ConfigError: another app of the network has it, or the card is closed.
        """
        self.card.hold()
        try:
            resources.borrow(f"wire of card at {id(self.card):#x}", Right)
        except BaseException:
            self.card.let_go()
            raise

    def close(self) -> None:
        """Give the wire up."""
        self.card.let_go()


class LocalSoftwareCard(SoftwareCard):
    """The same for a card whose driver is an app of the same network.

    What it sends comes from within: it goes on while the network drains.
    """

    is_internal = True
