"""The other side of vfio-user: a client as QEMU is one, and one that breaks every rule.

    with VfioClient(path) as client:
        client.negotiate()
        client.map(0, 0x1000, fd)
        client.write(BAR0, 0x18, bytes(4))

`request` sends a command and takes its reply; `send` and `receive` are the two halves,
for whoever wants to send something else. Nothing is checked on the way out.
"""

import array
import json
import os
import socket
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

HEADER = struct.Struct("<HHIII")
REPLY, NO_REPLY, ERROR = 0x01, 0x10, 0x20

VERSION, DMA_MAP, DMA_UNMAP, GET_INFO, GET_REGION_INFO = 1, 2, 3, 4, 5
GET_IRQ_INFO, SET_IRQS, REGION_READ, REGION_WRITE, RESET = 7, 8, 9, 10, 13

BAR0, BAR2, BAR4, CONFIG = 0, 2, 4, 7
INTX, MSI, MSIX, ERR, REQ = range(5)
NONE, BOOL, EVENTFD, MASK, UNMASK, TRIGGER = 1, 2, 4, 8, 16, 32

PAGE = 4096
TDT = 0x6018  # the first transmit queue's tail
FRAME = bytes.fromhex("ffffffffffff0200000000010800") + bytes(range(100))

#: What QEMU 11 proposes.
QEMU_CAPABILITIES = {
    "max_msg_fds": 8,
    "max_data_xfer_size": 1 << 20,
    "pgsizes": 4096,
    "max_dma_maps": 65535,
    "migration": {"pgsize": 4096, "max_bitmap_size": 1 << 28},
    "write_multiple": True,
}


class Reply(NamedTuple):
    """A reply: its header's fields and what follows."""

    number: int
    command: int
    flags: int
    error: int
    body: bytes


class Refused(Exception):  # noqa: N818 - the field's word for it
    """A request was answered with an error."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(os.strerror(reply.error))
        self.errno = reply.error
        self.reply = reply


def message(  # noqa: PLR0913 - a header's fields
    command: int,
    body: bytes = b"",
    *,
    number: int = 1,
    flags: int = 0,
    error: int = 0,
    size: int | None = None,
) -> bytes:
    """Return a message; `size`: what the header says, whatever the truth is."""
    real = HEADER.size + len(body)
    return (
        HEADER.pack(number, command, real if size is None else size, flags, error)
        + body
    )


def version_body(
    capabilities: Any = QEMU_CAPABILITIES, *, major: int = 0, minor: int = 0
) -> bytes:
    text = json.dumps({"capabilities": capabilities}).encode() + b"\0"
    return struct.pack("<HH", major, minor) + text


def map_body(
    iova: int, size: int, *, offset: int = 0, flags: int = 3, argsz: int = 32
) -> bytes:
    return struct.pack("<IIQQQ", argsz, flags, offset, iova, size)


def unmap_body(iova: int, size: int, *, flags: int = 0, argsz: int = 24) -> bytes:
    return struct.pack("<IIQQ", argsz, flags, iova, size)


def region_body(region: int, offset: int, count: int, data: bytes = b"") -> bytes:
    return struct.pack("<QII", offset, region, count) + data


def irqs_body(  # noqa: PLR0913 - the message's fields
    index: int,
    flags: int,
    *,
    start: int = 0,
    count: int = 0,
    data: bytes = b"",
    argsz: int | None = None,
) -> bytes:
    argsz = 20 + len(data) if argsz is None else argsz
    return struct.pack("<IIIII", argsz, flags, index, start, count) + data


class VfioClient:
    """A connection to a server; replies are waited for `timeout` seconds at most."""

    def __init__(self, path: Path, *, timeout: float = 10) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout)
        self.sock.connect(str(path))
        self._number = 0
        self._lock = threading.Lock()
        self._header = bytearray(HEADER.size)

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
        self.sock.close()

    # -- halves ----------------------------------------------------------------

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send bytes, and file descriptors with the first of them."""
        if fds:
            rights = array.array("i", fds)
            n = self.sock.sendmsg(
                [data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
            )
            data = data[n:]
        self.sock.sendall(data)

    def receive(self) -> Reply:
        """Take one reply; EOFError when the server has closed the connection."""
        number, command, size, flags, error = HEADER.unpack(self._exactly(HEADER.size))
        return Reply(number, command, flags, error, self._exactly(size - HEADER.size))

    def _exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            try:
                part = self.sock.recv(n - len(data))
            except ConnectionResetError:
                part = b""
            if not part:
                raise EOFError
            data += part
        return data

    def is_closed(self) -> bool:
        """Return whether the server ends the connection, after replies or none."""
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionResetError:
            pass
        except TimeoutError:
            return False
        return True

    # -- whole requests --------------------------------------------------------

    def request(
        self, command: int, body: bytes = b"", fds: Sequence[int] = ()
    ) -> bytes:
        """Send a command and return its reply's body; Refused when it is an error."""
        with self._lock:
            self._number = (self._number + 1) % 65536
            self.send(message(command, body, number=self._number), fds)
            reply = self.receive()
        assert (reply.number, reply.command) == (self._number, command)
        if reply.flags & ERROR:
            assert reply.body == b""
            raise Refused(reply)
        assert reply.flags == REPLY
        assert reply.error == 0
        return reply.body

    def post(self, command: int, body: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send a command that is not answered."""
        self.send(message(command, body, flags=NO_REPLY), fds)

    def negotiate(self) -> dict[str, Any]:
        """Agree on a version; return the server's capabilities."""
        body = self.request(VERSION, version_body())
        assert body[:4] == bytes(4)
        assert body[-1:] == b"\0"
        capabilities: dict[str, Any] = json.loads(body[4:-1])["capabilities"]
        return capabilities

    def read(self, region: int, offset: int, count: int = 4) -> bytes:
        body = self.request(REGION_READ, region_body(region, offset, count))
        assert body[:16] == region_body(region, offset, count)
        assert len(body) == 16 + count
        return body[16:]

    def write(
        self, region: int, offset: int, data: bytes, *, posted: bool = False
    ) -> None:
        body = region_body(region, offset, len(data), data)
        if posted:
            self.post(REGION_WRITE, body)
        else:
            assert self.request(REGION_WRITE, body) == body[:16]

    def register(self, offset: int) -> int:
        return int.from_bytes(self.read(BAR0, offset), "little")

    def set_register(self, offset: int, value: int, *, posted: bool = True) -> None:
        self.write(BAR0, offset, value.to_bytes(4, "little"), posted=posted)

    def map(self, iova: int, size: int, fd: int = -1, **how: int) -> None:
        fds = [fd] if fd >= 0 else []
        assert self.request(DMA_MAP, map_body(iova, size, **how), fds) == b""

    def unmap(self, iova: int, size: int, **how: int) -> None:
        body = unmap_body(iova, size, **how)
        assert self.request(DMA_UNMAP, body) == body

    def region_info(self, index: int, argsz: int = 32) -> tuple[int, int]:
        """Return size and flags."""
        body = struct.pack("<IIIIQQ", argsz, 0, index, 0, 0, 0)
        answer = struct.unpack("<IIIIQQ", self.request(GET_REGION_INFO, body))
        assert answer[0] == 32
        assert answer[2] == index
        assert answer[5] == 0
        return answer[4], answer[1]

    def irq_info(self, index: int) -> tuple[int, int]:
        """Return count and flags."""
        body = struct.pack("<IIII", 16, 0, index, 0)
        answer = struct.unpack("<IIII", self.request(GET_IRQ_INFO, body))
        assert answer[0] == 16
        assert answer[2] == index
        return answer[3], answer[1]

    def set_irqs(  # noqa: PLR0913 - the message's fields
        self,
        index: int,
        flags: int,
        *,
        start: int = 0,
        count: int = 0,
        data: bytes = b"",
        fds: Sequence[int] = (),
    ) -> None:
        body = irqs_body(index, flags, start=start, count=count, data=data)
        assert self.request(SET_IRQS, body, fds) == b""

    def reset(self) -> None:
        assert self.request(RESET) == b""


def start_transmission(client: VfioClient, memory: int) -> None:
    """Map 16 pages of a file and make its second one the first transmit queue's ring.

    Source: 82599 data sheet, 4.6.8.
    """
    client.map(0, 16 * PAGE, memory)
    client.write(CONFIG, 4, b"\6\0")  # memory, bus master
    for register, value in (
        *((0x6000, PAGE), (0x6004, 0), (0x6008, 128)),  # TDBAL, TDBAH, TDLEN
        *((0x4A80, 1), (0x6028, 1 << 25)),  # DMATXCTL.TE, TXDCTL.ENABLE
    ):
        client.set_register(register, value)
    assert client.register(0x6028) == 1 << 25


def transmit(client: VfioClient, memory: int, frame: bytes, tail: int = 1) -> None:
    """Have the card send a frame by the descriptor before `tail`.

    Source: 82599 data sheet, 7.2.3.2.2 (legacy descriptors: EOP, IFCS, RS).
    """
    os.pwrite(memory, frame, 2 * PAGE)
    descriptor = struct.pack("<QHBBBBH", 2 * PAGE, len(frame), 0, 0xB, 0, 0, 0)
    os.pwrite(memory, descriptor, PAGE + (tail - 1) * 16)
    client.set_register(TDT, tail)
    assert client.register(TDT) == tail
