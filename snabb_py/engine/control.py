"""The control socket of an instance: JSON lines over a Unix socket.

A request is one line, `{"verb": "counters"}`, with further members as the verb takes
them; the answer is one line, `{"ok": true, "result": ...}` or `{"ok": false, "error":
"..."}`. Only the owner may connect (0600). Runs on a thread of its own; verbs that
change the network take the engine's lock. What a capture writes is read through a file
descriptor that comes with the answer (SCM_RIGHTS), and it lasts as long as its client
does not shut down. Imports capture, bpf and errors.
"""

import contextlib
import errno
import json
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snabb_py.engine.bpf import Program
from snabb_py.engine.capture import UNLIMITED, Capture
from snabb_py.engine.config import LinkSpec
from snabb_py.engine.thread import start_thread
from snabb_py.errors import ConfigError, DeviceError, SnabbError

if TYPE_CHECKING:
    from snabb_py.engine.engine import Engine

#: Seconds that an instance has for its answer.
PATIENCE = 10.0

LONGEST_REQUEST = 128 * 1024
#: Far more than a network of the largest size takes.
LONGEST_ANSWER = 16 << 20
CHUNK = 65536
MOST_CLIENTS = 32
#: Seconds until it is looked at again whether there are file descriptors.
RETRY = 0.1

Verb = Callable[["Engine", dict[str, Any]], Any]


@dataclass(frozen=True)
class Lasting:
    """An answer with a file descriptor, and what is to be done when its client goes."""

    result: Any
    fd: int
    end: Callable[[], None]


def _counters(engine: "Engine", _request: dict[str, Any]) -> Any:
    return {
        "apps": {n: a.counters for n, a in sorted(engine.apps.items())},
        "links": {str(s): k.counters for s, k in sorted(engine.links.items())},
        "workers": [w.row.as_dict() for w in engine.workers],
    }


def _packets(engine: "Engine", _request: dict[str, Any]) -> Any:
    return asdict(engine.census())


def find_link(engine: "Engine", text: str) -> LinkSpec:
    """Return the link that a text names: wholly, or in a part that no other has.

    Raises:
        ConfigError: there is none, or more than one.
    """
    found = [spec for spec in sorted(engine.links) if text in str(spec)]
    exact = [spec for spec in found if str(spec) == text]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if not found:
        raise ConfigError(f'no link has "{text}" in its name; `snabb-py top` shows all')
    names = ", ".join(f'"{spec}"' for spec in found)
    raise ConfigError(f'"{text}" may be any of {names}')


def _capture(engine: "Engine", request: dict[str, Any]) -> Lasting:
    link, text = request.get("link"), request.get("filter", "")
    limits = [request.get(name, UNLIMITED) for name in ("packets", "bytes")]
    if not isinstance(link, str) or not isinstance(text, str):
        raise ConfigError("link and filter: expected text")
    if not all(isinstance(n, int) and 0 < n <= UNLIMITED for n in limits):
        raise ConfigError("packets and bytes: expected whole numbers above 0")
    program = Program.unpack(bytes.fromhex(text)) if text else None
    spec = find_link(engine, link)
    capture = Capture(program, packets=limits[0], nbytes=limits[1])
    try:
        engine.add_capture(spec, capture)
    except SnabbError:
        capture.close()
        raise
    return Lasting(
        {"link": str(spec)}, capture.fd, lambda: engine.remove_capture(capture)
    )


def _end(engine: "Engine", _request: dict[str, Any]) -> Any:
    engine.end()


#: Every engine's verbs with what they do; a program may add its own to `Engine.verbs`.
VERBS: dict[str, tuple[str, Verb]] = {
    "help": ("the verbs", lambda e, _r: {n: text for n, (text, _) in e.verbs.items()}),
    "config": ("apps, links and workers", lambda e, _r: e.describe()),
    "graph": ("the network for Graphviz", lambda e, _r: e.config.graphviz()),
    "counters": ("all counters", _counters),
    "drops": ("packets lost by reason", lambda e, _r: e.drops()),
    "interfaces": ("by app: what it joins the network to", lambda e, _r: e.outsides()),
    "packets": ("where all packets of the pool are; stops workers shortly", _packets),
    "uptime": ("seconds", lambda e, _r: time.monotonic() - e.started_at),
    "capture": (
        'copy what passes a "link" to memory; "filter", "packets", "bytes": limits',
        _capture,
    ),
    "end": ("end the program as Ctrl-C does", _end),
}


def answer(engine: "Engine", line: bytes) -> tuple[bytes, Lasting | None]:
    """Return the answer to one request line, and what lasts of it."""
    lasting = None
    try:
        try:
            request = json.loads(line)
        except ValueError:
            request = None
        verbs = engine.verbs
        verb = request.get("verb") if isinstance(request, dict) else None
        if not isinstance(verb, str) or verb not in verbs:
            raise ConfigError('expected {"verb": one of ' + ", ".join(verbs) + "}")
        result = verbs[verb][1](engine, request)
        if isinstance(result, Lasting):
            lasting, result = result, result.result
        reply = {"ok": True, "result": result}
    except (SnabbError, ValueError, RecursionError) as error:
        reply = {"ok": False, "error": str(error)}
    return json.dumps(reply).encode() + b"\n", lasting


class Control:
    """Listens at `path` until closed.

    Raises:
        DeviceError: the socket cannot be made.
    """

    def __init__(self, engine: "Engine", path: Path) -> None:
        self.engine = engine
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(str(path))
            path.chmod(0o600)
        except OSError as error:
            self._listener.close()
            raise DeviceError(f"listen at {path}", error.errno or 0) from None
        self._listener.listen()
        self._listener.setblocking(False)
        self._is_listening = True
        self._has_said = False  # that there are no file descriptors
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._clients: dict[socket.socket, bytearray] = {}
        self._lasting: dict[socket.socket, list[Lasting]] = {}
        self._end_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._end_fd, selectors.EVENT_READ)
        try:
            self._thread = start_thread("control", self._run)
        except DeviceError:
            self._give_back()
            raise

    def _run(self) -> None:
        while True:
            events = self._selector.select(None if self._is_listening else RETRY)
            if not self._is_listening:
                self._is_listening = True
                self._selector.register(self._listener, selectors.EVENT_READ)
            for key, _ in events:
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj == self._end_fd:
                    return
                elif isinstance(key.fileobj, socket.socket):
                    self._serve(key.fileobj)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:
            # Too many open files: later, or we would be asked at once.
            self._is_listening = False
            self._selector.unregister(self._listener)
            if not self._has_said:
                refusal = DeviceError("accept a connection", error.errno or 0)
                self.engine.log(f"{self.path}: {refusal}")
            self._has_said = True
            return
        self._has_said = False
        if len(self._clients) >= MOST_CLIENTS:
            client.close()
            return
        # A client that does not read its answers is not waited for long.
        client.settimeout(0.05)
        self._clients[client] = bytearray()
        self._selector.register(client, selectors.EVENT_READ)

    def _serve(self, client: socket.socket) -> None:
        buffer = self._clients[client]
        try:
            data = client.recv(CHUNK)
            buffer += data
            while (end := buffer.find(b"\n")) >= 0:
                self._answer(client, bytes(buffer[:end]))
                del buffer[: end + 1]
            if not data or len(buffer) > LONGEST_REQUEST:
                self._drop(client)
        except OSError:
            self._drop(client)

    def _answer(self, client: socket.socket, line: bytes) -> None:
        data, lasting = answer(self.engine, line)
        if lasting:
            self._lasting.setdefault(client, []).append(lasting)
            sent = socket.send_fds(client, [data], [lasting.fd])
            data = data[sent:]
        client.sendall(data)

    def _drop(self, client: socket.socket) -> None:
        self._selector.unregister(client)
        del self._clients[client]
        for lasting in self._lasting.pop(client, []):
            lasting.end()
        client.close()

    def close(self) -> None:
        """Stop listening; whoever is connected is cut off."""
        os.eventfd_write(self._end_fd, 1)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        for client in list(self._clients):
            self._drop(client)
        self._give_back()

    def _give_back(self) -> None:
        self._selector.close()
        self._listener.close()
        os.close(self._end_fd)
        self.path.unlink(missing_ok=True)


class AnswerError(ConfigError):
    """Who listens at a control socket does not answer as an instance does."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: damaged: {why}")


class Client:
    """A connection to an instance's control socket; nothing that comes is believed.

    Args:
        path: of the socket.
        patience: seconds until the answer must have come.

    Raises:
        DeviceError: nobody listens at `path`.

    Attributes:
        socket: of the connection; ours, as are
        fds: that came with the answer, one at most.
    """

    def __init__(self, path: Path, patience: float) -> None:
        self._path = path
        self._deadline = time.monotonic() + patience
        self.fds: list[int] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with self._step():
                self._allow()
                self.socket.connect(str(path))
        except DeviceError:
            self.socket.close()
            raise

    @contextlib.contextmanager
    def _step(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            number = error.errno or errno.ETIMEDOUT
            is_silent = number in {errno.ETIMEDOUT, errno.EAGAIN}
            hint = "the process does not answer; is it stopped?" if is_silent else ""
            raise DeviceError(f"ask {self._path}", number, hint) from None

    def _allow(self) -> None:
        """Let the next step take the time that is left."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.socket.settimeout(left)

    def ask(self, verb: str, **members: Any) -> Any:
        """Send the one request of this connection, and return its result.

        Args:
            verb: what is asked for.
            members: further ones of the request.

        Raises:
            DeviceError: no answer came.
            AnswerError: it is none.
            ConfigError: the instance refused.
        """
        with self._step():
            self._allow()
            self.socket.sendall(json.dumps({"verb": verb, **members}).encode() + b"\n")
            line = self._receive()
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError):
            reply = None
        if isinstance(reply, dict):
            if reply.get("ok") is True and "result" in reply:
                return reply["result"]
            error = reply.get("error")
            if isinstance(error, str) and error.isprintable():
                raise ConfigError(error)
        raise AnswerError(self._path, "not the answer of an instance")

    def _receive(self) -> bytes:
        """Return the line that comes, and nothing behind it."""
        data = bytearray()
        while b"\n" not in data[-CHUNK:]:
            self._allow()
            if data:
                piece = self.socket.recv(CHUNK)
            else:
                piece, self.fds, _, _ = socket.recv_fds(self.socket, CHUNK, 1)
            if not piece:
                raise ConnectionResetError(errno.ECONNRESET, "")
            data += piece
            if len(data) > LONGEST_ANSWER:
                raise AnswerError(self._path, "an answer without an end")
        line, _, rest = data.partition(b"\n")
        if rest:
            raise AnswerError(self._path, "more than one answer")
        return bytes(line)

    def close(self) -> None:
        """Close it, and what came with the answer."""
        self.socket.close()
        for fd in self.fds:
            os.close(fd)


def call(path: Path, verb: str, *, patience: float = PATIENCE, **members: Any) -> Any:
    """Send one request to an instance and return its result.

    Args:
        path: of its control socket.
        verb: what is asked for.
        patience: seconds for all of it.
        members: further ones of the request.

    Raises:
        DeviceError: nobody listens at `path`, or answers.
        AnswerError: what comes is no answer.
        ConfigError: the instance refused.
    """
    with contextlib.closing(Client(path, patience)) as client:
        return client.ask(verb, **members)
