"""A front end's connection: messages in, replies out, and what it does wrong.

Nothing here waits, neither for the front end nor for a worker: a message that changes
what a worker has is answered when the worker has taken it, and until then the next one
is not read. Imports its siblings.
"""

import array
import os
import socket
from collections.abc import Callable
from typing import Final

from snabb_py.virtio import message
from snabb_py.virtio.message import HEADER, NEED_REPLY, REPLY, REQUESTS, U64, Refusal
from snabb_py.virtio.session import Answer, Session

#: Messages that are handled before others get their turn, and seconds after which it
#: is over all the same: one that brings memory takes a hundred times as long as others.
TURN, TURN_SECONDS = 64, 0.002

_ANCILLARY = socket.CMSG_SPACE(message.MOST_FDS * array.array("i").itemsize)

#: What came, what was refused, why connections ended before the front end wanted it.
COUNTERS: Final = (
    "connections",
    "messages",
    "refused-busy-connections",  # there is a front end already
    "refused-system-connections",  # no file descriptors left
    "refused-unsupported-messages",
    "refused-bad-fd-messages",  # not of the kind that is wanted
    "refused-bad-fds-messages",  # too many or too few
    "refused-bad-features-messages",
    "refused-bad-index-messages",
    "refused-bad-memory-messages",
    "refused-bad-mtu-messages",
    "refused-bad-ring-address-messages",
    "refused-bad-ring-size-messages",
    "refused-bad-size-messages",
    "refused-bad-state-messages",
    "refused-bad-status-messages",
    "closed-internal-connections",
    "closed-oversized-connections",
    "closed-refused-connections",  # the front end would not know of a refusal
    "closed-reply-connections",  # a reply where nothing had been asked
    "closed-silent-connections",  # no message has ever come
    "closed-truncated-connections",  # in the middle of a message
    "closed-unfinished-connections",  # the rest of a message does not come
    "closed-unread-connections",  # it does not read what it asked for
    "closed-version-connections",
)


class Closed(Exception):  # noqa: N818 - no error: a connection's end
    """The connection is over; why, as it is counted, or "" when the peer left."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Connection:
    """A front end: messages in, one at a time and each exactly, and replies out.

    File descriptors come with the first byte of a message. A read that went on into
    the next one would bring that one's, too: hence two reads, of header and of body.

    Args:
        sock: non-blocking.
        session: what the messages are for.
        counters: those of `COUNTERS`.
        clock: seconds.
        has_come: the front end has connected to us: it has something to say.
    """

    def __init__(
        self,
        sock: socket.socket,
        session: Session,
        counters: dict[str, int],
        clock: Callable[[], float],
        *,
        has_come: bool,
    ) -> None:
        self.sock = sock
        self.session = session
        self.counters = counters
        self._clock = clock
        self._in = bytearray()
        self._begun_at = self._stalled_at = clock()
        self._is_silent = has_come
        self._size: int | None = None  # of the body, once the header is there
        self._fds: list[int] = []
        self._out = b""
        #: A message whose effect a worker has not taken yet: number, flags, answer.
        self._waiting: tuple[int, bool, Answer] | None = None

    @property
    def is_stalled(self) -> bool:
        """Whether a reply waits for the front end to make room."""
        return bool(self._out)

    @property
    def is_waiting(self) -> bool:
        """Whether a message waits for a worker."""
        return self._waiting is not None

    @property
    def debt(self) -> tuple[str, float] | None:
        """What the front end owes, as it is counted, and since when; None: nothing."""
        if self._out:
            return "unread", self._stalled_at
        if self._in:
            return "unfinished", self._begun_at
        if self._is_silent:
            return "silent", self._begun_at
        return None

    def close(self) -> None:
        """Give up what has come."""
        self._close_fds()
        self.sock.close()

    def serve(self) -> None:
        """Handle what there is, up to a turn.

        Raises:
            Closed: the connection is over.
        """
        try:
            if self._out:
                self._flush()
            end = self._clock() + TURN_SECONDS
            for _ in range(TURN):
                if self._out or self._waiting or not self._receive():
                    return
                self._handle()
                if self._clock() >= end:
                    return
        except ConnectionError:
            raise Closed("truncated" if self._in else "") from None

    def resume(self) -> None:
        """Go on: workers have taken all that was published.

        Raises:
            Closed: the connection is over.
        """
        if self._waiting:
            number, wants_reply, answer = self._waiting
            self._waiting = None
            try:
                self._answer(number, wants_reply, answer)
            except ConnectionError:
                raise Closed from None
            self.serve()

    # -- in --------------------------------------------------------------------

    def _receive(self) -> bool:
        """Read on; return whether there is a whole message."""
        try:
            while self._size is None:
                data, ancillary, flags, _ = self.sock.recvmsg(
                    HEADER.size - len(self._in), _ANCILLARY, socket.MSG_CMSG_CLOEXEC
                )
                self._take_fds(ancillary)
                if flags & socket.MSG_CTRUNC:
                    # More than fit, or than we may have open: one more than any wants.
                    self._fds += [-1] * (message.MOST_FDS + 1)
                self._add(data)
                if len(self._in) == HEADER.size:
                    self._size = self._check_header()
            while (left := HEADER.size + self._size - len(self._in)) > 0:
                self._add(self.sock.recv(left))
        except BlockingIOError:
            return False
        return True

    def _add(self, data: bytes) -> None:
        if not data:
            raise Closed("truncated" if self._in else "")
        if not self._in:
            self._begun_at = self._clock()
        self._in += data

    def _take_fds(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                self._fds += fds

    def _close_fds(self) -> None:
        while self._fds:
            fd = self._fds.pop()
            if fd >= 0:
                os.close(fd)

    def _check_header(self) -> int:
        """Return the body's size; no message is read for which there is no room."""
        _, flags, size = HEADER.unpack(self._in)
        if size > message.LONGEST:
            raise Closed("oversized")
        if flags & message.VERSION_MASK != message.VERSION:
            raise Closed("version")
        if flags & REPLY:
            raise Closed("reply")
        return int(size)

    def _handle(self) -> None:
        number, flags, _ = HEADER.unpack_from(self._in)
        body = bytes(self._in[HEADER.size :])
        self._in.clear()
        self._size = None
        self._is_silent = False
        self.counters["messages"] += 1
        wants_reply = bool(flags & NEED_REPLY) and self.session.has(
            message.Protocol.REPLY_ACK
        )
        try:
            answer = self.session.handle(number, body, self._fds)
        except Refusal as refusal:
            self._refuse(number, refusal.reason, wants_reply=wants_reply)
        else:
            if self.session.device.settle():
                self._answer(number, wants_reply, answer)
            else:
                self._waiting = number, wants_reply, answer
        finally:
            self._close_fds()

    # -- out -------------------------------------------------------------------

    def _answer(self, number: int, wants_reply: bool, answer: Answer) -> None:
        if callable(answer):
            answer = answer()
        if answer is not None:
            self._send(number, answer)
        elif wants_reply:
            self._send(number, U64.pack(0))

    def _refuse(self, number: int, reason: str, *, wants_reply: bool) -> None:
        self.counters[f"refused-{reason}-messages"] += 1
        request = REQUESTS.get(number)
        if request and request.refusal is not None:
            self._send(number, request.refusal)
        elif wants_reply and not (request and request.is_question):
            self._send(number, U64.pack(1))
        elif reason != "unsupported" or (request and request.is_question):
            # It would go on as if all were well, or wait for ever.
            raise Closed("refused")

    def _send(self, number: int, body: bytes) -> None:
        flags = message.VERSION | REPLY
        self._out = HEADER.pack(number, flags, len(body)) + body
        self._flush()
        self._stalled_at = self._clock()

    def _flush(self) -> None:
        try:
            sent = self.sock.send(self._out, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        self._out = self._out[sent:]
