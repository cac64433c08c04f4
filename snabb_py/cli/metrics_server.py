"""An HTTP server of one page, for any number of clients that may want nothing of it.

One thread serves all. Each connection is for one request and has a deadline; when there
are too many, the oldest goes that has asked for nothing yet.
"""

import resource
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self

from snabb_py.errors import ConfigError, DeviceError

#: Seconds that a client has for its request, and then for taking the answer.
PATIENCE = 5.0
#: Clients at once, and the share of the file descriptors that may be theirs: making the
#: page takes some.
MOST_CLIENTS, SHARE = 32, 4
LONGEST_REQUEST = 16 * 1024
#: Connections that the kernel holds for us.
BACKLOG = 128
#: Seconds until it is looked at again whether there are file descriptors.
RETRY = 0.1

CHUNK = 65536
PAGE = "/metrics"
TEXT = {"Content-Type": "text/plain; charset=utf-8"}


@dataclass(frozen=True)
class Answer:
    """What is sent: status and its reason, header fields, content."""

    status: str
    fields: Mapping[str, str]
    content: bytes

    @classmethod
    def saying(cls, status: str, line: str) -> Self:
        """Return one of a line of text."""
        return cls(status, TEXT, f"{line}\n".encode())

    def encode(self, *, has_content: bool) -> bytes:
        """Return it as bytes for the wire (RFC 9112)."""
        fields = {
            **self.fields,
            "Content-Length": str(len(self.content)),
            "Connection": "close",
        }
        lines = [f"HTTP/1.1 {self.status}", *(f"{k}: {v}" for k, v in fields.items())]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        return head + (self.content if has_content else b"")


#: Header fields of a request, their names in lower case -> what there is at `PAGE`.
Page = Callable[[Mapping[str, str]], Answer]


def answer_to(request: str, page: Page) -> bytes:
    """Return what is sent to a request, which is a head without a body."""
    first, *rest = request.split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):  # noqa: PLR2004
        return Answer.saying("400 Bad Request", "no HTTP").encode(has_content=True)
    method, target, _ = words
    path = target.partition("?")[0]
    if method not in {"GET", "HEAD"}:
        answer = Answer.saying("405 Method Not Allowed", "GET and HEAD are allowed")
    elif path == PAGE:
        parts = (line.partition(":") for line in rest)
        answer = page({name.lower(): value.strip() for name, _, value in parts})
    elif path == "/":
        answer = Answer.saying("200 OK", f"metrics are at {PAGE}")
    else:
        answer = Answer.saying("404 Not Found", f"metrics are at {PAGE}")
    return answer.encode(has_content=method != "HEAD")


def listen(address: str, host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        address: host and port in the user's words.
        host: a name or a number.
        port: 0: any.

    Raises:
        ConfigError: the address is none of this machine's.
        DeviceError: its port cannot be had.
    """
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise ConfigError(f'--listen: "{address}": {error.strerror}') from None
    family, _, _, _, where = found[0]
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        hint = "choose another with --listen"
        raise DeviceError(f"listen at {address}", error.errno or 0, hint) from None
    return listener


@dataclass(eq=False)
class Client:
    """A connection."""

    socket: socket.socket
    deadline: float
    request: bytearray = field(default_factory=bytearray)
    answer: memoryview = field(default_factory=lambda: memoryview(b""))


class Server:
    """Serves a page whenever `step` is called.

    Args:
        listener: ours from now on.
        page: makes it.
    """

    def __init__(self, listener: socket.socket, page: Page) -> None:
        self._page = page
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = min(MOST_CLIENTS, max(limit // SHARE, 1))
        self._listener = listener
        self._selector = selectors.EpollSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._accept_at = 0.0  # not before; 0: the listener is looked at
        self._clients: dict[Client, None] = {}  # the oldest first

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is something to do."""
        return self._selector.fileno()

    @property
    def left(self) -> float:
        """Seconds until there is something to do in any case."""
        times = [client.deadline for client in self._clients]
        if self._accept_at:
            times.append(self._accept_at)
        return min(times, default=time.monotonic() + 3600) - time.monotonic()

    def step(self) -> None:
        """Do what can be done at once."""
        if self._accept_at and time.monotonic() >= self._accept_at:
            self._accept_at = 0.0
            self._selector.register(self._listener, selectors.EVENT_READ)
        for key, _ in self._selector.select(0):
            if key.data is None:
                self._accept()
            elif key.data in self._clients:
                self._serve(key.data)
        now = time.monotonic()
        for client in [c for c in self._clients if c.deadline <= now]:
            self._drop(client)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError:  # too many open files: fewer, and not at once again
            self._accept_at = time.monotonic() + RETRY
            self._selector.unregister(self._listener)
            self._make_room()
            return
        if len(self._clients) >= self._most:
            self._make_room()
        connection.setblocking(False)
        client = Client(connection, time.monotonic() + PATIENCE)
        self._clients[client] = None
        self._selector.register(connection, selectors.EVENT_READ, client)

    def _make_room(self) -> None:
        """Drop the oldest client, rather one that has asked for nothing."""
        silent = (client for client in self._clients if not client.answer)
        if client := next(silent, next(iter(self._clients), None)):
            self._drop(client)

    def _serve(self, client: Client) -> None:
        try:
            if not client.answer:
                self._receive(client)
            if client.answer:
                client.answer = client.answer[client.socket.send(client.answer) :]
                if not client.answer:
                    self._drop(client)
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)

    def _receive(self, client: Client) -> None:
        data = client.socket.recv(CHUNK)
        client.request += data
        head, end, _ = client.request.partition(b"\r\n\r\n")
        if end:
            client.answer = memoryview(answer_to(head.decode("latin-1"), self._page))
            client.deadline = time.monotonic() + PATIENCE
            self._selector.modify(client.socket, selectors.EVENT_WRITE, client)
        elif not data or len(client.request) > LONGEST_REQUEST:
            self._drop(client)

    def _drop(self, client: Client) -> None:
        del self._clients[client]
        self._selector.unregister(client.socket)
        client.socket.close()

    def close(self) -> None:
        """Drop all clients, and listen no more."""
        for client in list(self._clients):
            self._drop(client)
        self._selector.close()
        self._listener.close()
