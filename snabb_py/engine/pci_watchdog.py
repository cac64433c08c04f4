"""The watchdog of a claimed device, for Python: see pci_watchdog_abi.h.

Imports errors and the extension.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from snabb_py._native import ffi, lib
from snabb_py.errors import DeviceError

#: A file of sysfs and what is to be written to it.
Write = tuple[Path, str]


class Watchdog:
    """A process that puts a device to rest if ours ends without a `stop`.

    It must be started when all memory that the device may reach has been mapped: what
    is mapped before is nobody else's until the device is at rest, what comes later may
    be.

    Args:
        config: file descriptor of the device's configuration space, where it clears
            bus mastering; None: it leaves that alone, as the kernel does it.
        lock: a file descriptor that it keeps open until it is done; None: none.
        writes: what it writes to sysfs thereafter.

    Attributes:
        pid: of the process.

    Raises:
        DeviceError: there can be no such process.
    """

    def __init__(
        self, config: int | None, lock: int | None, writes: Sequence[Write]
    ) -> None:
        texts = [
            (ffi.new("char[]", os.fsencode(path)), ffi.new("char[]", text.encode()))
            for path, text in writes
        ]
        array = ffi.new("struct pci_watchdog_write[]", texts)
        watchdog = ffi.new(
            "struct pci_watchdog *",
            {
                "config": -1 if config is None else config,
                "lock": -1 if lock is None else lock,
                "nwrites": len(texts),
                "writes": array,
            },
        )
        done = ffi.new("int *")
        pid = lib.pci_watchdog_start(watchdog, done)
        if pid < 0:
            raise DeviceError("start the process that watches over a card", -pid)
        self.pid: int = pid
        self._done: int = done[0]
        self._parent = os.getpid()

    def stop(self) -> None:
        """End it with nothing done; it has ended when this returns. Again: nothing."""
        # A copy of us after a fork has nothing to say: its parent lives.
        if self._done >= 0 and os.getpid() == self._parent:
            lib.pci_watchdog_stop(self.pid, self._done)
        self._done = -1
