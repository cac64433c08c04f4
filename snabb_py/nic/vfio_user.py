"""Software cards for QEMU: a vfio-user server at a Unix socket for each card.

    with Servers([Server(card, Path("nic.sock"))]):
        ...

A `Server` listens for one client at a time; a `Connection` is that client, from its
first byte to its last; `Servers` is the one thread that runs them all. None of them
ever waits for a client: what a client does not read holds up that client alone, and
not for long. What it does wrong is answered or ends the connection, and is counted.

Imports the engine and the extension.

Source: vfio-user protocol specification (QEMU, docs/interop/vfio-user.rst).
"""

import contextlib
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from snabb_py._native import lib
from snabb_py.engine.thread import start_thread
from snabb_py.errors import LISTEN_HINTS, ConfigError, DeviceError
from snabb_py.nic.limited_log import Clock, LimitedLog, Log
from snabb_py.nic.vfio_connection import COUNTERS, Closed, Connection
from snabb_py.nic.vfio_device import Card, Device, Region

if TYPE_CHECKING:
    from threading import Thread

#: Of struct sockaddr_un, with the NUL.
LONGEST_PATH = 107
#: Seconds that a client has to agree on a version, to send the rest of a message and to
#: make room for a reply.
PATIENCE = 5.0
#: Seconds until it is looked at again whether a client has done so, and whether there
#: are file descriptors.
LOOK = 0.1

_READ_WRITE = 3  # VFIO_REGION_INFO_FLAG_*
_ABSENT = Region(0, 0)

#: The card's regions by VFIO's index: BAR 0 to 5, ROM, configuration space, VGA.
REGIONS = (
    Region(lib.MODEL_BAR_SIZE, _READ_WRITE),
    _ABSENT,
    Region(lib.MODEL_IO_SIZE, _READ_WRITE),
    _ABSENT,
    Region(lib.MODEL_MSIX_SIZE, _READ_WRITE),
    _ABSENT,
    _ABSENT,
    Region(lib.MODEL_CONFIG_SIZE, _READ_WRITE),
    _ABSENT,
)

Callback = Callable[[], None]


class Server:
    """A card at a Unix socket, for one client at a time.

    Args:
        card: what is served.
        path: of the socket; a socket file that nobody listens at is replaced.
        log: takes a line for the user when clients come and go; a flood is summed up.
        patience: seconds that a client may owe us something.
        clock: tells the time in seconds.

    Raises:
        ConfigError: the path cannot be one of a socket.
        DeviceError: it cannot be listened at; somebody listens there already.
    """

    def __init__(
        self,
        card: Card,
        path: Path,
        *,
        log: Log | None = None,
        patience: float = PATIENCE,
        clock: Clock = time.monotonic,
    ) -> None:
        self.card = card
        self.path = path
        self.max_dma_maps = 65535  # the protocol's default; QEMU takes no more
        self.counters = dict.fromkeys(COUNTERS, 0)
        log = log or (lambda _line: None)
        self._log = LimitedLog(lambda line: log(f"{path}: {line}"), clock=clock)
        self._patience = patience
        self._clock = clock
        self._loop: Servers | None = None
        self._connection: Connection | None = None
        self._lost = 0  # messages whose file descriptors were, and that was said
        self._is_listening = False
        self._refusing: int | None = None  # the errno that has been said
        self._listener = listen(path)
        self._inode = inode_of(path)

    @property
    def is_connected(self) -> bool:
        """Whether there is a client."""
        return self._connection is not None

    def attach(self, loop: "Servers") -> None:
        """Let this loop run the server."""
        self._loop = loop
        self._listen_on(loop)

    def close(self) -> None:
        """Cut the client off, stop listening, remove the socket file."""
        self._drop("")
        if self._loop:
            self._loop.watch(self._listener.fileno(), None)
        self._listener.close()
        # The file may have been removed, and another server may have made its own.
        if inode_of(self.path) == self._inode:
            with contextlib.suppress(OSError):
                self.path.unlink()
        self._log.flush()

    def look_after(self, loop: "Servers") -> bool:
        """Do what time brings; return whether more of it is to come."""
        if not self._is_listening:
            self._listen_on(loop)
        debt = self._connection and self._connection.debt
        if debt:
            reason, since = debt
            if self._clock() - since > self._patience:
                self._drop(reason)
        self._log.look()
        return bool(debt) or self._log.is_holding

    def _say(self, text: str, detail: str = "") -> None:
        self._log.say(text, detail)
        if self._loop and self._log.is_holding:
            self._loop.look_soon()

    def _listen_on(self, loop: "Servers") -> None:
        self._is_listening = True
        loop.watch(self._listener.fileno(), lambda: self._accept(loop))

    def _accept(self, loop: "Servers") -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:
            # Too many open files: later, or we would be asked at once.
            self.counters["refused-system-connections"] += 1
            self._is_listening = False
            loop.watch(self._listener.fileno(), None)
            loop.look_soon()
            if error.errno != self._refusing:
                refusal = DeviceError("accept a connection", error.errno or 0)
                self._say("clients have to wait", f": {refusal}")
            self._refusing = error.errno
            return
        self._refusing = None
        # The client that was here may have gone and have been followed by this one
        # before we came to look at either.
        self._serve(loop)
        if self._connection and self._connection.has_been_left:
            self._drop("")
        if self._connection:
            self.counters["refused-busy-connections"] += 1
            self._say("card busy: refused a second connection")
            sock.close()
            return
        sock.setblocking(False)
        self.counters["connections"] += 1
        device = Device(self.card, REGIONS, loop.watch, max_dma_maps=self.max_dma_maps)
        self._connection = Connection(sock, device, self.counters, self._clock)
        self._lost = self.counters["error-system-messages"]
        loop.watch(sock.fileno(), lambda: self._serve(loop))
        loop.look_soon()
        self._say("connected", describe_peer(sock))

    def _serve(self, loop: "Servers") -> None:
        connection = self._connection
        if not connection:
            return
        was_stalled = connection.is_stalled
        try:
            connection.serve()
        except Closed as closed:
            self._drop(closed.reason)
        except Exception as error:  # noqa: BLE001 - one card's trouble is not another's
            self._say("internal error", f": {type(error).__name__}: {error}")
            self._drop("internal")
        else:
            if self.counters["error-system-messages"] != self._lost:
                self._lost = self.counters["error-system-messages"]
                step = "take the file descriptors of a message"
                self._say(str(DeviceError(step, errno.EMFILE)))
            if connection.debt:
                loop.look_soon()
            if connection.is_stalled != was_stalled:
                loop.watch(
                    connection.sock.fileno(),
                    lambda: self._serve(loop),
                    select.EPOLLOUT if connection.is_stalled else select.EPOLLIN,
                )

    def _drop(self, reason: str) -> None:
        """End the connection; the card is ready for the next client."""
        connection = self._connection
        if not connection:
            return
        if reason:
            self.counters[f"closed-{reason}-connections"] += 1
        if self._loop:
            self._loop.watch(connection.sock.fileno(), None)
        connection.close()
        self._say(f"disconnected{f' ({reason})' if reason else ''}")
        self._connection = None


class Servers:
    """The thread that runs servers.

    Args:
        servers: closed at the end.
        max_mappings: how many mappings the kernel lets the process have; None: asked.
    """

    def __init__(
        self, servers: Sequence[Server], *, max_mappings: int | None = None
    ) -> None:
        self.servers = servers
        self._look_at: float | None = None
        self._callbacks: dict[int, Callback] = {}
        self._epoll = select.epoll()
        self._end_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._has_ended = False
        self._thread: Thread | None = None
        self.watch(self._end_fd, self._end)
        share = (max_mappings or max_map_count()) * 3 // 4 // max(len(servers), 1)
        for server in servers:
            # One client cannot take what the process itself needs to go on.
            server.max_dma_maps = min(server.max_dma_maps, share)
            server.attach(self)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the thread."""
        self._thread = start_thread("vfio-user", self._run)

    def close(self) -> None:
        """Stop the thread and close all servers."""
        if self._thread:
            os.eventfd_write(self._end_fd, 1)
            self._thread.join()
        for server in self.servers:
            server.close()
        self._epoll.close()
        os.close(self._end_fd)

    def watch(
        self, fd: int, callback: Callback | None, events: int = select.EPOLLIN
    ) -> None:
        """Call back when this happens to a file descriptor; None: not any more."""
        if callback is None:
            if self._callbacks.pop(fd, None):
                self._epoll.unregister(fd)
        elif fd in self._callbacks:
            self._callbacks[fd] = callback
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
            self._callbacks[fd] = callback

    def step(self, timeout: float | None = None) -> None:
        """Wait until something happens, and handle it.

        Args:
            timeout: seconds to wait at most.
        """
        if self._look_at is not None:
            rest = max(0.0, self._look_at - time.monotonic())
            timeout = rest if timeout is None else min(timeout, rest)
        for fd, _ in self._epoll.poll(timeout):
            # What an earlier callback has closed is not there any more. If its number
            # is another's by now, that one is asked for nothing, and does not mind.
            if callback := self._callbacks.get(fd):
                callback()
        if self._look_at is not None and time.monotonic() >= self._look_at:
            self._look_at = None
            for server in self.servers:
                if server.look_after(self):
                    self.look_soon()

    @property
    def is_looking(self) -> bool:
        """Whether servers are going to look after what time brings."""
        return self._look_at is not None

    def look_soon(self) -> None:
        """Have servers look after what time brings, even if nothing happens."""
        if self._look_at is None:
            self._look_at = time.monotonic() + LOOK

    def _run(self) -> None:
        while not self._has_ended:
            self.step()

    def _end(self) -> None:
        self._has_ended = True


def max_map_count() -> int:
    """Return how many memory mappings a process may have."""
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        return 65530


def inode_of(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from any other; None: there is none."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def describe_peer(sock: socket.socket) -> str:
    """Return who is at the other end, as far as it is known."""
    form = struct.Struct("3i")  # pid, uid, gid
    with contextlib.suppress(OSError):
        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, form.size)
        return f" (process {form.unpack(data)[0]})"
    return ""


def listen(path: Path) -> socket.socket:
    """Return a socket that listens at a path.

    Raises:
        ConfigError: the path is too long.
        DeviceError: see `Server`.
    """
    if (length := len(os.fsencode(path))) > LONGEST_PATH:
        raise ConfigError(
            f'socket "{path}": the path has {length} bytes, '
            f"and a socket's may have {LONGEST_PATH}"
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        _remove_stale(path)
        listener.bind(str(path))
        listener.listen()
    except OSError as error:
        listener.close()
        hint = LISTEN_HINTS.get(error.errno or 0, "")
        raise DeviceError(f"listen at {path}", error.errno or 0, hint) from None
    except DeviceError:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket file that a process has left behind, and nothing else."""
    if not path.is_socket():
        return  # bind() will say so if there is a file of another kind
    # Of another type than a server's: one that is alive refuses it for that, and does
    # not see it. One that nobody has refuses any. Source: unix_find_bsd() of Linux.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
    raise DeviceError(f"listen at {path}", errno.EADDRINUSE, "somebody listens there")
