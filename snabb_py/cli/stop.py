"""Programs that wait, and end between two of their steps."""

import os
import select
import signal
from typing import Self


class Stop:
    """Ctrl-C, SIGTERM and SIGHUP end the waiting instead of the process.

        with Stop() as stop:
            while stop.wait(1.0):
                ...

    A second signal ends the process: what it writes to may be stuck.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.is_requested = False

    def __enter__(self) -> Self:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._before = [signal.signal(number, self._stop) for number in self.SIGNALS]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in zip(self.SIGNALS, self._before, strict=True):
            signal.signal(number, handler)
        os.close(self._fd)

    def _stop(self, _number: int, _frame: object) -> None:
        self.is_requested = True
        os.eventfd_write(self._fd, 1)
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    def wait(self, seconds: float, *fds: int) -> bool:
        """Wait, or until there is something to read; return whether to go on."""
        poll = select.poll()
        for fd in (self._fd, *fds):
            poll.register(fd, select.POLLIN)
        poll.poll(max(0.0, seconds) * 1000)
        return not self.is_requested
