"""vhost-user sockets: ports that listen or connect.

A `Port` has one front end at a time, whoever it is. It never waits, neither for a front
end nor for a worker. Imports its siblings and errors.
"""

import contextlib
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from snabb_py.errors import DeviceError
from snabb_py.virtio import message
from snabb_py.virtio.connection import COUNTERS, Closed, Connection
from snabb_py.virtio.device import Device
from snabb_py.virtio.listening import check_path, has_hung_up, inode_of, listen
from snabb_py.virtio.loop import Callback, Loop
from snabb_py.virtio.session import Session

Clock = Callable[[], float]

#: Seconds that a front end has for the rest of a message, and to read a reply. For its
#: first message it has more: a virtual machine may find its memory first.
PATIENCE: Final = 5.0
FIRST_PATIENCE: Final = 6 * PATIENCE
#: Seconds between attempts to connect: the first pause, and the longest.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 1.0
#: Lines for the user in so many seconds; others are only counted.
LINES, LINES_WINDOW = 10, 10.0


@dataclass(frozen=True)
class PortConfig:
    """What a port is to be.

    Attributes:
        path: of the socket.
        queues: pairs, 1 to 128.
        is_server: we listen and the front end connects; else the other way round.
        features: bits that are offered.
        group: that may connect, by number; None: that of the process.
    """

    path: Path
    queues: int = 1
    is_server: bool = True
    features: int = message.FEATURES
    group: int | None = None


class Port:
    """A port: a device, at a socket; a resource, shared by the apps of its queues.

    Args:
        config: what it is to be.
        loop: whose thread serves it.
        patience: seconds that a front end may owe us something.
        clock: seconds.

    Raises:
        ConfigError: the path cannot be one of a socket.
        DeviceError: it cannot be listened at.
    """

    def __init__(
        self,
        config: PortConfig,
        loop: Loop,
        *,
        patience: float = PATIENCE,
        clock: Clock = time.monotonic,
    ) -> None:
        check_path(config.path)
        self.config = config
        self.counters = dict.fromkeys(COUNTERS, 0)
        self._loop = loop
        self._patience = patience
        self._clock = clock
        self._connection: Connection | None = None
        self._listener: socket.socket | None = None
        self._is_accepting = False
        self._pause = FIRST_PAUSE
        self._connect_at = 0.0
        self._lines: list[str] = []
        self._nlines = 0
        self._lines_end = 0.0
        self._was_up = False
        if config.is_server:
            self._listener = listen(config.path, config.group)
            self._inode = inode_of(config.path)
        with loop.lock:
            self.device = Device(config.queues, loop.signal)
            loop.watch(self.device.event_fd, self._on_settle)
            self._open()

    def _open(self) -> None:
        if self._listener:
            self._is_accepting = True
            self._loop.watch(self._listener.fileno(), self._on_accept)
        else:
            self._connect()

    @property
    def is_connected(self) -> bool:
        """Whether there is a front end."""
        return self._connection is not None

    def close(self) -> None:
        """Cut the front end off; the apps have gone."""
        with self._loop.lock:
            self._loop.forget(self._look)
            self._drop("", is_final=True)
            self._loop.watch(self.device.event_fd, None)
            if self._listener:
                self._loop.watch(self._listener.fileno(), None)
                self._listener.close()
                # Another port may have made its own file meanwhile.
                if inode_of(self.config.path) == self._inode:
                    with contextlib.suppress(OSError):
                        self.config.path.unlink()
            self.device.close()

    # -- coming and going ------------------------------------------------------

    def _accept(self) -> None:
        assert self._listener  # noqa: S101 - it has called
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:
            # Too many open files: later, or we would be asked at once.
            self.counters["refused-system-connections"] += 1
            self._say(str(DeviceError("accept a connection", error.errno or 0)))
            self._is_accepting = False
            self._loop.watch(self._listener.fileno(), None)
            self._loop.look_soon(self._look)
            return
        # The one before may have gone, and this one come, before we looked at either.
        if self._connection and has_hung_up(self._connection.sock):
            self._on_serve()
            self._drop("")
        if self._connection:
            self.counters["refused-busy-connections"] += 1
            self._say("refused a second front end")
            sock.close()
            return
        self._begin(sock)

    def _connect(self) -> None:
        sock: socket.socket | None = None
        try:
            sock = socket.socket(
                socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK
            )
            sock.connect(str(self.config.path))
        except OSError:
            if sock:
                sock.close()
            self._connect_at = self._clock() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            self._loop.look_soon(self._look)
            return
        self._pause = FIRST_PAUSE
        self._begin(sock)

    def _begin(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.counters["connections"] += 1
        session = Session(self.device, self.config.features)
        self._connection = Connection(
            sock,
            session,
            self.counters,
            self._clock,
            has_come=self.config.is_server,
        )
        self._say("front end connected")
        self._after()

    def _drop(self, reason: str, *, is_final: bool = False) -> None:
        """End the connection; the port is ready for the next front end."""
        connection = self._connection
        if not connection:
            return
        if reason:
            self.counters[f"closed-{reason}-connections"] += 1
        self._loop.watch(connection.sock.fileno(), None)
        connection.close()
        self._connection = None
        self.device.disconnect()
        self._say(f"front end disconnected{f' ({reason})' if reason else ''}")
        self._look_at_link()
        if not self.config.is_server and not is_final:
            self._connect_at = self._clock() + self._pause
            self._loop.look_soon(self._look)

    # -- serving ---------------------------------------------------------------

    def _guarded(self, work: Callback) -> None:
        try:
            work()
        except Closed as closed:
            self._drop(closed.reason)
        except Exception as error:  # noqa: BLE001 - one port's trouble is not another's
            self._say(f"internal error: {type(error).__name__}: {error}")
            self._drop("internal")

    def _on_accept(self) -> None:
        self._guarded(self._accept)

    def _on_serve(self) -> None:
        self._guarded(self._serve)

    def _on_settle(self) -> None:
        self._guarded(self._settle)

    def _serve(self) -> None:
        connection = self._connection
        if not connection:
            return
        connection.serve()
        self._after()

    def _settle(self) -> None:
        """Look at what workers have done."""
        is_settled = self.device.settle()
        for i, pair in enumerate(self.device.pairs):
            for which, reason in pair.new_breakage():
                self._say(f"ring {2 * i + which} is broken ({reason}) and stopped")
        if is_settled and self._connection:
            self._connection.resume()
            self._after()

    def _after(self) -> None:
        self._look_at_link()
        connection = self._connection
        if not connection:
            return
        # While a message waits for a worker nothing more is read; that the peer has
        # gone is noticed afterwards.
        events = 0 if connection.is_waiting else select.EPOLLIN
        if connection.is_stalled:
            events = select.EPOLLOUT
        if events:
            self._loop.watch(connection.sock.fileno(), self._on_serve, events)
        else:
            self._loop.watch(connection.sock.fileno(), None)
        if connection.debt:
            self._loop.look_soon(self._look)

    def _look(self) -> bool:
        """Do what time brings; return whether more of it is to come."""
        self._guarded(self._look_now)
        connection = self._connection
        return (
            bool(connection and connection.debt)
            or (not self.config.is_server and not connection)
            or (bool(self._listener) and not self._is_accepting)
        )

    def _look_now(self) -> None:
        if self._listener and not self._is_accepting:
            self._open()
        debt = self._connection and self._connection.debt
        if debt:
            reason, since = debt
            patience = FIRST_PATIENCE if reason == "silent" else self._patience
            if self._clock() - since > patience:
                self._drop(reason)
        is_alone = not self.config.is_server and not self._connection
        if is_alone and self._clock() >= self._connect_at:
            self._connect()

    # -- for the user ----------------------------------------------------------

    def _look_at_link(self) -> None:
        is_up = self.device.has_guest
        if is_up != self._was_up:
            self._was_up = is_up
            self._say(f"guest's driver {'ready' if is_up else 'gone'}")

    def _say(self, text: str) -> None:
        """Keep a line for the user; a flood of them is counted."""
        now = self._clock()
        if now >= self._lines_end:
            if self._nlines > LINES:
                self._lines.append(f"{self._nlines - LINES} more lines like these")
            self._nlines, self._lines_end = 0, now + LINES_WINDOW
        self._nlines += 1
        if self._nlines <= LINES:
            self._lines.append(text)

    def supervise(self) -> str | None:
        """Return what the user should know."""
        with self._loop.lock:
            lines, self._lines = self._lines, []
        return f"{self.config.path}: {'; '.join(lines)}" if lines else None
