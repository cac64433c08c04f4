"""A front end: a guest's memory, rings and driver, for tests and benchmarks.

    guest = Guest(path, features=bits(Feature.VERSION_1))
    guest.start()
    config.app("guest", Frontend, guest=guest)

`Guest` speaks vhost-user as a virtual machine monitor does, and whatever else it is
told to: `request` and `send` take any bytes. Its memory and rings lie open. Packets are
for frontend.c. Imports its siblings, engine and the extension.
"""

import array
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from snabb_py._native import ffi, lib
from snabb_py.engine.app import App, Ports, Resources
from snabb_py.engine.memory import Memory, new_aligned
from snabb_py.errors import DeviceError
from snabb_py.virtio import message
from snabb_py.virtio.frontend_ring import GUEST_BASE, Layout, Ring
from snabb_py.virtio.message import HEADER, STATE, U64, Feature, Protocol

NUMBERS: Final = {request.name: n for n, request in message.REQUESTS.items()}
#: All that this driver can do itself.
FEATURES: Final = message.FEATURES & ~message.bits(Feature.MTU, Feature.GUEST_ANNOUNCE)
PATIENCE: Final = 10.0

COUNTERS: Final = (
    "rx-packets",
    "rx-bytes",
    "tx-packets",
    "tx-bytes",
    "kicks",
    "drop-rx-no-packet",
    "drop-rx-bad-offload",
    "drop-tx-bad-offload",
    "drop-tx-too-long",
    "wrong-used",
)


class Refused(Exception):  # noqa: N818 - the protocol's word for it
    """The back end has said no."""


class Pair:
    """A queue pair of the guest's."""

    def __init__(self, guest: "Guest", rx: Layout, tx: Layout) -> None:
        self.state: Any = new_aligned("struct frontend *")
        self.call = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.err = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.state.call_fd = self.call
        self.rings = (
            Ring(guest.memory.address, guest.take, self.state.rx, rx),
            Ring(guest.memory.address, guest.take, self.state.tx, tx),
        )

    def close(self) -> None:
        """Close what is open."""
        for fd in (self.call, self.err, *(ring.kick for ring in self.rings)):
            os.close(fd)


class Guest:
    """A guest with a network card, and its monitor.

    Args:
        path: of the socket.
        is_server: listen there; else connect.
        features: that the driver wants, of those that are offered.
        protocol: the same of the protocol.
        queues: pairs.
        rx, tx: how rings are laid out.
        huge: try huge pages.
        idle: called while a reply is waited for.
        patience: seconds until one counts as missing.
    """

    def __init__(  # noqa: PLR0913 - all but one have defaults
        self,
        path: Path,
        *,
        is_server: bool = False,
        features: int = FEATURES,
        protocol: int = message.PROTOCOL_FEATURES,
        queues: int = 1,
        rx: Layout | None = None,
        tx: Layout | None = None,
        huge: bool = False,
        idle: Callable[[], object] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        rx, tx = rx or Layout(), tx or Layout()
        self.path = path
        self.wanted, self.wanted_protocol = features, protocol
        self.features = self.protocol = 0
        self.idle = idle
        self.patience = patience
        needed = queues * (rx.bytes_needed + tx.bytes_needed) + 8192
        self.memory = Memory(needed, huge=huge)
        self.start_address = int(ffi.cast("uintptr_t", self.memory.address))
        self._used = 4096
        self.pairs = [Pair(self, rx, tx) for _ in range(queues)]
        self.scratch = self.take(4096)
        self._listener: socket.socket | None = None
        if is_server:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(str(path))
            self._listener.listen()
        self.socket: socket.socket | None = None

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
        """Go away, without a word."""
        self.disconnect()
        if self._listener:
            self._listener.close()
            self.path.unlink(missing_ok=True)
        for pair in self.pairs:
            pair.close()
        self.memory.close()

    def take(self, size: int) -> int:
        """Return the offset of so many bytes of memory, on a cache line."""
        at, self._used = self._used, -(-(self._used + size) // 64) * 64
        if self._used > self.memory.size:
            raise DeviceError("lay out the guest's memory", 12)
        return at

    # -- messages --------------------------------------------------------------

    def connect(self) -> None:
        """Connect, or accept a connection.

        Raises:
            DeviceError: nobody is there.
        """
        self.disconnect()
        deadline = time.monotonic() + self.patience
        if self._listener:
            self._wait(self._listener, deadline)
            self.socket, _ = self._listener.accept()
            return
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.connect(str(self.path))
        except OSError as error:
            raise DeviceError(f"connect to {self.path}", error.errno or 0) from None

    def disconnect(self) -> None:
        """Close the connection."""
        if self.socket:
            self.socket.close()
        self.socket = None

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send bytes and file descriptors as they are."""
        assert self.socket  # noqa: S101 - `connect` comes first
        rights = array.array("i", fds)
        extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if fds else []
        self.socket.sendmsg([data], extra, socket.MSG_NOSIGNAL)

    def receive(self) -> tuple[int, int, bytes]:
        """Return a reply: its request, flags and payload.

        Raises:
            ConnectionError: the back end has closed the connection.
        """
        number, flags, size = HEADER.unpack(self._read(HEADER.size))
        return number, flags, self._read(size)

    def _read(self, size: int) -> bytes:
        assert self.socket  # noqa: S101 - `connect` comes first
        data, deadline = b"", time.monotonic() + self.patience
        while len(data) < size:
            self._wait(self.socket, deadline)
            part = self.socket.recv(size - len(data))
            if not part:
                raise ConnectionResetError("the back end has gone")
            data += part
        return data

    def _wait(self, sock: socket.socket, deadline: float) -> None:
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        while not poll.poll(1 if self.idle else 1000 * self.patience):
            if time.monotonic() > deadline:
                raise DeviceError(f"hear from {self.path}", 110)
            if self.idle:
                self.idle()

    def request(self, name: str, body: bytes = b"", fds: Sequence[int] = ()) -> bytes:
        """Send a request; return its reply, b"" when it has none.

        Raises:
            Refused: the back end acknowledged it with an error.
        """
        request = message.REQUESTS[NUMBERS[name]]
        can_ask = bool(self.protocol >> Protocol.REPLY_ACK & 1)
        flags = message.VERSION | (message.NEED_REPLY if can_ask else 0)
        self.send(HEADER.pack(request.number, flags, len(body)) + body, fds)
        if not request.is_question and not can_ask:
            return b""
        number, flags, reply = self.receive()
        if number != request.number or flags != message.VERSION | message.REPLY:
            raise Refused(f"{name}: a reply to something else")
        if request.is_question:
            return reply
        if U64.unpack(reply) != (0,):
            raise Refused(name)
        return b""

    # -- what a monitor does ---------------------------------------------------

    def negotiate(self) -> None:
        """Connect and agree on features."""
        self.connect()
        self.protocol = 0
        (offered,) = U64.unpack(self.request("get_features"))
        if self.wanted >> Feature.PROTOCOL_FEATURES & 1:
            (protocol,) = U64.unpack(self.request("get_protocol_features"))
            protocol &= self.wanted_protocol
            self.request("set_protocol_features", U64.pack(protocol))
            self.protocol = protocol
        self.request("set_owner")
        self.features = offered & self.wanted
        self.request("set_features", U64.pack(self.features))

    def share_memory(self) -> None:
        """Tell where the memory is."""
        region = (GUEST_BASE, self.memory.size, self.start_address, self.memory.offset)
        body = message.TABLE.pack(1, 0) + message.REGION.pack(*region)
        self.request("set_mem_table", body, [self.memory.fd])

    def start_ring(self, index: int, base: int = 0) -> None:
        """Let a ring start, as it is."""
        pair = self.pairs[index // 2]
        ring = pair.rings[index % 2]
        desc, avail, used = (self.start_address + offset for offset in ring.offsets)
        self.request("set_vring_num", STATE.pack(index, ring.layout.size))
        self.request("set_vring_base", STATE.pack(index, base))
        body = message.ADDRESS.pack(index, 0, desc, used, avail, 0)
        self.request("set_vring_addr", body)
        self.request("set_vring_call", U64.pack(index), [pair.call])
        self.request("set_vring_err", U64.pack(index), [pair.err])
        self.request("set_vring_kick", U64.pack(index), [ring.kick])

    def enable_ring(self, index: int, value: int = 1) -> None:
        """Let packets through, or not."""
        if self.features >> Feature.PROTOCOL_FEATURES & 1:
            self.request("set_vring_enable", STATE.pack(index, value))

    def start_driver(self) -> None:
        """Make rings anew, and let the driver use them."""
        is_modern = self.features >> Feature.VERSION_1 & 1
        is_merging = self.features >> Feature.MRG_RXBUF & 1
        for pair in self.pairs:
            pair.state.header_size = 12 if is_modern or is_merging else 10
            pair.state.is_merging = is_merging
            for ring, struct in zip(
                pair.rings, (pair.state.rx, pair.state.tx), strict=True
            ):
                ring.clear()
                struct.has_event_index = self.features >> Feature.EVENT_IDX & 1
                struct.kick_fd = ring.kick
                struct.size = ring.layout.size
            lib.frontend_start(pair.state)

    def start(self) -> None:
        """Do all that a guest does until packets flow."""
        self.negotiate()
        self.share_memory()
        self.start_driver()
        self.resume()

    def resume(self) -> None:
        """Start all rings where they are."""
        for index in range(2 * len(self.pairs)):
            self.start_ring(index)
        for index in range(2 * len(self.pairs)):
            self.enable_ring(index)

    def stop_ring(self, index: int) -> int:
        """Stop a ring; return where it is to go on."""
        return int(
            STATE.unpack(self.request("get_vring_base", STATE.pack(index, 0)))[1]
        )

    def stop(self) -> list[int]:
        """Stop all rings; the driver knows nothing of it."""
        indices = range(2 * len(self.pairs))
        for index in indices:
            self.enable_ring(index, 0)
        return [self.stop_ring(index) for index in indices]

    def reconnect(self) -> None:
        """Begin a new connection with the rings as they are."""
        self.negotiate()
        self.share_memory()
        self.resume()


class Frontend(App):
    """A guest's network interface, as its own network stack has it.

                +----------+
        rx ---> |          | ~~~> received by the back end
                | Frontend |
        tx <--- |          | <~~~ sent by the back end
                +----------+

    Args:
        guest: that has it; started by whoever made it.
        queue: the pair.

    Counters: `rx-packets` and `rx-bytes` from the back end, `tx-packets`, `tx-bytes`,
    `kicks`, packets lost (`drop-...`), and `wrong-used`: what the back end did wrong.
    """

    inputs = Ports("rx", optional=True)
    outputs = Ports("tx", optional=True)
    counters = COUNTERS
    ops = ffi.addressof(lib.frontend_ops)

    def __init__(self, guest: Guest, queue: int = 0) -> None:
        self.guest = guest
        self.queue = queue

    def open(self, resources: Resources) -> None:
        """Take the pair."""
        del resources
        self.state = self.guest.pairs[self.queue].state


def counters_of(state: Any) -> dict[str, int]:
    """Return what a pair's driver has counted so far, those that are not 0."""
    values = zip(COUNTERS, state.counters, strict=True)
    return {name: int(n) for name, n in values if n}
