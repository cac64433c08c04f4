"""The HTTP server of `snabb-py metrics`: the standard library's, with bounds.

Any number of clients may come and want nothing of it. A connection is for one request
and has a deadline; when there are too many, the oldest goes.
"""

import errno
import resource
import socket
import threading
import time
from collections.abc import Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from snabb_py.cli.terminal import complain, shown
from snabb_py.errors import ConfigError, DeviceError, SnabbError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from prometheus_client import CollectorRegistry

#: Seconds that a client has for its request, and then for the answer.
PATIENCE, ANSWER_PATIENCE = 5.0, 30.0
#: Clients at once, and the share of the file descriptors that may be theirs: making the
#: page takes some.
MOST_CLIENTS, SHARE = 32, 4
#: Seconds until it is looked at again whether there are file descriptors.
RETRY = 0.1
PAGE = "/metrics"
TEXT = [("Content-Type", "text/plain; charset=utf-8")]


def application(registry: "CollectorRegistry") -> "WSGIApplication":
    """Return what answers requests: there is but one page."""
    from prometheus_client import make_wsgi_app

    metrics = make_wsgi_app(registry)
    one_at_a_time = threading.Lock()

    def answer(
        environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        has_content = environ["REQUEST_METHOD"] != "HEAD"
        if not has_content:
            environ["REQUEST_METHOD"] = "GET"
        if environ["PATH_INFO"] != PAGE:
            is_root = environ["PATH_INFO"] == "/"
            start_response("200 OK" if is_root else "404 Not Found", TEXT)
            content: Iterable[bytes] = [f"metrics are at {PAGE}\n".encode()]
        else:
            try:
                with one_at_a_time:
                    content = metrics(environ, start_response)
            except (SnabbError, OSError) as error:  # a directory of somebody else's
                complain(str(error))
                start_response("500 Internal Server Error", TEXT)
                content = [f"{shown(str(error))}\n".encode()]
        return content if has_content else []

    return answer


class _Handler(WSGIRequestHandler):
    """Of a request."""

    timeout = PATIENCE  # of each read
    server: "Server"

    def get_environ(self) -> "WSGIEnvironment":
        """Go on when a request is there; who is too slow from now on is dropped."""
        self.connection.settimeout(None)
        self.server.extend(self.connection)
        return super().get_environ()

    def log_message(self, *_: object) -> None:
        """Keep no log."""


class Server(ThreadingMixIn, WSGIServer):
    """Serves an application until it is shut down.

    Args:
        address: host and port in the user's words.
        host: a name or a number.
        port: 0: any.
        app: what answers.

    Raises:
        ConfigError: the address is none of this machine's.
        DeviceError: its port cannot be had.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_port = False
    request_queue_size = 128

    def __init__(
        self, address: str, host: str, port: int, app: "WSGIApplication"
    ) -> None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = min(MOST_CLIENTS, max(limit // SHARE, 1))
        self._deadlines: dict[socket.socket, float] = {}  # the oldest first
        try:
            found = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            self.address_family, _, _, _, where = found[0]
            super().__init__(where, _Handler)  # type: ignore[arg-type] # or IPv6's four
        except socket.gaierror as error:
            raise ConfigError(f'--listen: "{address}": {error.strerror}') from None
        except OSError as error:
            hint = "choose another with --listen"
            raise DeviceError(f"listen at {address}", error.errno or 0, hint) from None
        self.set_app(app)

    def server_bind(self) -> None:
        """Bind, without asking for our own name: that may take long."""
        TCPServer.server_bind(self)
        host, self.server_port = self.server_address[:2]
        self.server_name = str(host)
        self.setup_environ()

    # -- connections -----------------------------------------------------------

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; without file descriptors wait for one, and not spin."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                self._drop_oldest()
                time.sleep(RETRY)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Have a thread serve a connection."""
        if len(self._deadlines) >= self._most:
            self._drop_oldest()
        self._deadlines[request] = time.monotonic() + PATIENCE
        super().process_request(request, client_address)

    def extend(self, request: socket.socket) -> None:
        """Give a connection the time for its answer, if it is not too late."""
        if request in self._deadlines:
            self._deadlines[request] = time.monotonic() + ANSWER_PATIENCE

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that has been served."""
        self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Drop who is late; called several times a second."""
        now = time.monotonic()
        for request, deadline in list(self._deadlines.items()):
            if deadline <= now:
                self._drop(request)

    def _drop_oldest(self) -> None:
        if oldest := next(iter(list(self._deadlines)), None):
            self._drop(oldest)

    def _drop(self, request: socket.socket) -> None:
        """End a connection; its thread finds that out, and closes it."""
        self._deadlines.pop(request, None)
        try:
            request.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the client was faster

    def handle_error(self, *_: object) -> None:
        """Clients may end as they like."""
