"""A card's registers: by name, and waited for with a deadline.

Imports registers and errors.
"""

import errno
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from snabb_py.errors import DeviceError
from snabb_py.nic.registers import REGISTERS, offset

ALL_ONES: Final = 0xFFFFFFFF


class Function(Protocol):
    """What a driver needs of a PCI function, real or software; see `engine.pci`."""

    address: str
    vendor: int
    device: int
    method: str
    is_physical: bool
    registers: Any
    nvectors: int

    @property
    def is_gone(self) -> bool:
        """Whether it was pulled out or removed; it may still answer."""

    @property
    def is_wanted(self) -> bool:
        """Whether the kernel waits for us to close it."""

    def read(self, offset: int) -> int:
        """Read a register of BAR 0."""

    def write(self, offset: int, value: int) -> None:
        """Write a register of BAR 0."""

    def map(self, iova: int, address: int, size: int) -> None:
        """Let the card reach memory."""

    def set_master(self, on: bool) -> None:
        """Let it access memory at all."""

    def set_interrupts(self, fds: Sequence[int]) -> None:
        """Set the eventfds of MSI-X vectors, from 0 on."""

    def close(self) -> None:
        """Stop its accesses and give it up."""


class Access:
    """The registers of a card.

    Args:
        function: the card.
        clock: seconds; for tests.
    """

    def __init__(self, function: Function, clock: Callable[[], float]) -> None:
        self.function = function
        self.name = function.address
        self.clock = clock

    def read(self, register: str, n: int = 0) -> int:
        """Read a register by its name in the data sheet."""
        return self.function.read(offset(register, n))

    def write(self, register: str, value: int, n: int = 0) -> None:
        """Write a register."""
        self.function.write(offset(register, n), value)

    def set(self, register: str, bits: int, n: int = 0) -> None:
        """Set bits of a register."""
        self.write(register, self.read(register, n) | bits, n)

    def clear(self, register: str, bits: int, n: int = 0) -> None:
        """Clear bits of a register."""
        self.write(register, self.read(register, n) & ~bits & ALL_ONES, n)

    def fill(self, register: str, value: int = 0, first: int = 0) -> None:
        """Write all elements of an array from `first` on."""
        for n in range(first, len(REGISTERS[register].offsets())):
            self.write(register, value, n)

    def wait(  # noqa: PLR0913 - what is waited for, and how long
        self,
        what: str,
        register: str,
        bits: int,
        *,
        to_be: bool,
        timeout: float = 1.0,
        n: int = 0,
    ) -> None:
        """Wait until all these bits are set, or clear.

        Raises:
            DeviceError: they are not in time; or the card is gone.
        """
        deadline = self.clock() + timeout
        wanted = bits if to_be else 0
        pause = 10e-6
        while True:
            value = self.read(register, n)
            if value == ALL_ONES:
                self.check_presence()
            if value & bits == wanted:
                return
            if self.clock() > deadline:
                raise DeviceError(
                    f"{self.name}: {what} still {int(not to_be)} after {timeout:g} s",
                    errno.ETIMEDOUT,
                    "the card does not answer as an 82599 does: try a power cycle",
                )
            time.sleep(pause)
            pause = min(2 * pause, 1e-3)

    def check_presence(self) -> None:
        """Find out whether the card is still there.

        Raises:
            DeviceError: it is not.
        """
        if self.seems_gone():
            raise DeviceError(f"{self.name}: the card is gone", errno.ENODEV)

    def seems_gone(self) -> bool:
        """Whether even STATUS, which has bits that are always 0, reads ones."""
        return self.function.is_gone or self.read("STATUS") == ALL_ONES
