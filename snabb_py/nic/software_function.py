"""A software card as a driver sees it: what `engine.pci.Function` is for a real one.

Imports model82599 and the extension.
"""

from collections.abc import Sequence
from typing import Any

from snabb_py._native import ffi, lib
from snabb_py.nic.config_space import DEVICE_SFP, VENDOR
from snabb_py.nic.model82599 import Card

COMMAND = 0x04
COMMAND_MEMORY, COMMAND_MASTER = 1 << 1, 1 << 2


class SoftwareFunction:
    """A PCI function in this process, with the attributes and methods of a real one.

    Args:
        card: stays the caller's. From now on its worker polls it, for tails are written
            behind its back.
        name: what to call it in messages.
    """

    vendor = VENDOR
    device = DEVICE_SFP
    method = "software"
    is_physical = False
    #: It signals no driver in its own process: to write a mask is no plain store.
    nvectors = 0
    is_gone = False
    is_wanted = False
    size: int = lib.MODEL_BAR_SIZE

    def __init__(self, card: Card, name: str) -> None:
        card.hold()
        self.card = card
        self.address = name
        self.registers: Any = card.registers
        self._mapped: list[tuple[int, int]] = []
        card.store(lib.MODEL_CONFIG, COMMAND, COMMAND_MEMORY.to_bytes(2, "little"))

    def read(self, offset: int) -> int:
        """Read a register, with its side effects."""
        return self.card.read(offset)

    def write(self, offset: int, value: int) -> None:
        """Write a register."""
        self.card.write(offset, value)

    def map(self, iova: int, address: int, size: int) -> None:
        """Let the card reach memory, the caller's, until `unmap` or `close`."""
        self.card.map(iova, ffi.cast("void *", address), size)
        self._mapped.append((iova, size))

    def unmap(self, iova: int, size: int) -> None:
        """Take memory away again."""
        self.card.unmap(iova, size)
        self._mapped.remove((iova, size))

    def set_master(self, on: bool) -> None:
        """Let the card read and write memory, or not."""
        command = self.read_config(COMMAND, 2) & ~COMMAND_MASTER
        self.write_config(COMMAND, command | (COMMAND_MASTER if on else 0), 2)

    def read_config(self, offset: int, size: int) -> int:
        """Read 1, 2 or 4 bytes of configuration space."""
        return int.from_bytes(
            self.card.access(lib.MODEL_CONFIG, offset, size), "little"
        )

    def write_config(self, offset: int, value: int, size: int) -> None:
        """Write 1, 2 or 4 bytes of configuration space."""
        self.card.store(lib.MODEL_CONFIG, offset, value.to_bytes(size, "little"))

    def set_interrupts(self, fds: Sequence[int]) -> None:
        """Refuse: there are none (`nvectors`)."""
        if fds:
            raise NotImplementedError("a software card signals no driver")

    def close(self) -> None:
        """Stop the card's accesses, take all memory away."""
        self.set_master(False)
        for iova, size in self._mapped:
            self.card.unmap(iova, size)
        self._mapped.clear()
        self.card.let_go()
