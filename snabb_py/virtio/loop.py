"""The one thread that serves all vhost-user ports of an engine. Imports engine."""

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Final

from snabb_py._native import ffi, lib
from snabb_py.engine.thread import start_thread

Callback = Callable[[], None]

#: Seconds until time is looked at again, while something depends on it.
LOOK: Final = 0.05


class Loop:
    """The thread that serves ports; a resource.

    Callbacks run one at a time, under `lock`: whoever touches a port from elsewhere
    takes it.

    Attributes:
        signal: `struct event_signal *`, interrupts guests; one for all ports, for the
            kernel takes 10 ms to end one.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._callbacks: dict[int, Callback] = {}
        self._clocks: set[Callable[[], bool]] = set()
        self._epoll = select.epoll()
        self.signal: Final = ffi.new("struct event_signal *", {"null_fd": -1})
        lib.event_signal_open(self.signal)
        self._end_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._has_ended = False
        self._look_at: float | None = None
        self._thread: threading.Thread | None = None
        self.watch(self._end_fd, lambda: None)

    def start(self) -> None:
        """Start the thread; without it `step` is whose turn it is."""
        self._thread = start_thread("vhost-user", self._run)

    def watch(
        self, fd: int, callback: Callback | None, events: int = select.EPOLLIN
    ) -> None:
        """Call back when this happens to a file descriptor; None: not any more."""
        if self._has_ended:
            return
        if callback is None:
            if self._callbacks.pop(fd, None):
                self._epoll.unregister(fd)
        elif fd in self._callbacks:
            self._callbacks[fd] = callback
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
            self._callbacks[fd] = callback

    def look_soon(self, look: Callable[[], bool] | None = None) -> None:
        """Have time looked at, by this, too, until it says that it needs no more."""
        if look:
            self._clocks.add(look)
        if self._look_at is None:
            self._look_at = time.monotonic() + LOOK
            with contextlib.suppress(OSError):
                os.eventfd_write(self._end_fd, 1)

    def forget(self, look: Callable[[], bool]) -> None:
        """Let this not look any more."""
        self._clocks.discard(look)

    def step(self, timeout: float | None = None) -> None:
        """Wait until something happens, seconds at most, and handle it."""
        if self._look_at is not None:
            rest = max(0.0, self._look_at - time.monotonic())
            timeout = rest if timeout is None else min(timeout, rest)
        events = self._epoll.poll(timeout)
        with self.lock:
            if not self._has_ended:
                self._handle(events)

    def _handle(self, events: list[tuple[int, int]]) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._end_fd)
        for fd, _ in events:
            # What an earlier callback has closed is not there any more. If its number
            # is another's by now, that one is asked for nothing, and does not mind.
            if callback := self._callbacks.get(fd):
                callback()
        if self._look_at is not None and time.monotonic() >= self._look_at:
            self._look_at = None
            for look in list(self._clocks):
                if look():
                    self.look_soon()
                else:
                    self._clocks.discard(look)

    def _run(self) -> None:
        while not self._has_ended:
            self.step()

    def close(self) -> None:
        """Stop the thread."""
        with self.lock:
            self._has_ended = True
        os.eventfd_write(self._end_fd, 1)
        if self._thread:
            self._thread.join()
        lib.event_signal_close(self.signal)
        self._epoll.close()
        os.close(self._end_fd)
