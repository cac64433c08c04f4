"""A vfio-user client's connection: messages in, replies out, and what it does wrong.

Nothing here waits for the client. Source: vfio-user protocol specification.
"""

import array
import errno
import os
import select
import socket
from collections.abc import Callable

from snabb_py.nic.vfio_device import Device
from snabb_py.nic.vfio_message import (
    ERROR,
    HEADER,
    LONGEST,
    MOST_FDS,
    NO_REPLY,
    REPLY,
    TYPE,
    Refusal,
)

#: Messages of one client that are handled before others get their turn.
TURN = 64

# Numbers: operators of the socket module's enums cost a microsecond each.
_CLOEXEC, _CTRUNC = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_CTRUNC)
_NOSIGNAL = int(socket.MSG_NOSIGNAL)
_ANCILLARY = socket.CMSG_SPACE(MOST_FDS * array.array("i").itemsize)

#: What a server counts: what came, what was answered with an error, why connections
#: ended before the client wanted it.
COUNTERS = (
    "connections",
    "messages",
    "refused-busy-connections",  # there is a client already
    "refused-system-connections",  # no file descriptors left
    "error-argument-messages",
    "error-card-messages",  # the card could not: memory, an overlap, too many
    "error-fds-messages",
    "error-flags-messages",
    "error-no-version-messages",
    "error-oversized-messages",
    "error-size-messages",
    "error-system-messages",  # no file descriptors left for what came along
    "error-unsupported-messages",
    "error-version-messages",
    "closed-bad-size-connections",
    "closed-internal-connections",
    "closed-no-version-connections",
    "closed-oversized-connections",
    "closed-reply-connections",  # a reply where nothing had been asked
    "closed-silent-connections",  # no version was agreed on in time
    "closed-truncated-connections",  # in the middle of a message
    "closed-unfinished-connections",  # the rest of a message does not come
    "closed-unread-connections",  # the client does not read what it asked for
    "closed-version-connections",
)


class Closed(Exception):  # noqa: N818 - no error: a connection's end
    """The connection is over; why, as it is counted, or "" when the client left."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Connection:
    """A client: messages in, one at a time and each exactly, and replies out.

    A message's file descriptors come with the first of its bytes that are read. A read
    that went on into the next message would bring that one's, too, and nothing would
    tell whose they are: hence two reads, of the header and of exactly the body.
    """

    def __init__(
        self,
        sock: socket.socket,
        device: Device,
        counters: dict[str, int],
        clock: Callable[[], float],
    ) -> None:
        self.sock = sock
        self.device = device
        self.counters = counters
        self._clock = clock
        self._opened_at = clock()
        self._begun_at = 0.0  # the message that is coming in
        self._stalled_at = 0.0
        self._in = memoryview(bytearray(LONGEST))
        self._header = [self._in[: HEADER.size]]
        self._have = 0
        self._size = HEADER.size
        self._fds: list[int] = []
        self._lost_fds = 0  # why: an errno
        self._out = memoryview(bytearray(LONGEST))
        self._body_out = self._out[HEADER.size :]
        self._unsent = self._out[:0]

    @property
    def is_stalled(self) -> bool:
        """Whether a reply waits for the client to make room."""
        return len(self._unsent) > 0

    @property
    def debt(self) -> tuple[str, float] | None:
        """What the client owes, as it is counted, and since when; None: nothing.

        It may be idle for as long as it likes, once a version has been agreed on: a
        virtual machine may be paused.
        """
        if self.is_stalled:
            return "unread", self._stalled_at
        is_agreed = self.device.is_agreed
        if not self._have and is_agreed:
            return None
        reason = "unfinished" if self._have else "silent"
        return reason, self._begun_at if is_agreed else self._opened_at

    @property
    def has_been_left(self) -> bool:
        """Whether the client has closed its end, whatever is still to be read."""
        poll = select.poll()
        poll.register(self.sock, 0)
        return bool(poll.poll(0))  # POLLHUP comes unasked

    def close(self) -> None:
        """Give up everything that came from the client."""
        self._close_fds()
        self.device.close()
        self.sock.close()

    def serve(self) -> None:
        """Handle what there is, up to a turn.

        Raises:
            Closed: the connection is over.
        """
        try:
            if self.is_stalled:
                self._flush()
            for _ in range(TURN):
                if self.is_stalled or not self._receive():
                    return
                self._handle()
        except ConnectionError:
            raise Closed("truncated" if self._have else "") from None

    def _receive(self) -> bool:
        """Read on; return whether there is a whole message."""
        try:
            while self._have < HEADER.size:
                n, ancillary, flags, _ = self.sock.recvmsg_into(
                    [self._header[0][self._have :]] if self._have else self._header,
                    _ANCILLARY,
                    _CLOEXEC,
                )
                if ancillary or flags & _CTRUNC:
                    self._take_fds(ancillary, flags)
                self._advance(n)
                if self._have == HEADER.size:
                    self._check_size()
            while self._have < self._size:
                self._advance(self.sock.recv_into(self._in[self._have : self._size]))
        except BlockingIOError:
            return False
        return True

    def _advance(self, n: int) -> None:
        if n == 0:
            raise Closed("truncated" if self._have else "")
        if not self._have:
            self._begun_at = self._clock()
        self._have += n

    def _take_fds(self, ancillary: list[tuple[int, int, bytes]], flags: int) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                self._fds.extend(fds)
        if flags & _CTRUNC:
            # More than fit, or than we may have open: the kernel has closed those.
            is_full = len(self._fds) < MOST_FDS
            self._lost_fds = errno.EMFILE if is_full else errno.EINVAL

    def _close_fds(self) -> None:
        while self._fds:
            os.close(self._fds.pop())
        self._lost_fds = 0

    def _check_size(self) -> None:
        number, command, self._size, flags, _ = HEADER.unpack_from(self._in)
        if self._size < HEADER.size:
            raise Closed("bad-size")  # where the next message begins is unknown
        if self._size > LONGEST:
            self.counters["error-oversized-messages"] += 1
            if not flags & (NO_REPLY | TYPE):
                self._refuse(number, command, errno.EMSGSIZE)
            raise Closed("oversized")

    def _handle(self) -> None:
        number, command, size, flags, _ = HEADER.unpack_from(self._in)
        self._have, self._size = 0, HEADER.size
        self.counters["messages"] += 1
        if flags & TYPE == REPLY:
            raise Closed("reply")
        try:
            self._check(flags)
            n = self.device.handle(
                command, self._in[HEADER.size : size], self._fds, self._body_out
            )
        except Refusal as refusal:
            self.counters[f"error-{refusal.reason}-messages"] += 1
            if not flags & NO_REPLY:
                self._refuse(number, command, refusal.number)
            if refusal.is_final:
                raise Closed(refusal.reason) from None
        else:
            if not flags & NO_REPLY:
                HEADER.pack_into(self._out, 0, number, command, 16 + n, REPLY, 0)
                self._send(16 + n)
        finally:
            if self._fds or self._lost_fds:
                self._close_fds()

    def _check(self, flags: int) -> None:
        if flags & ~NO_REPLY:
            raise Refusal(errno.EINVAL, "flags")
        if self._lost_fds == errno.EMFILE:
            raise Refusal(errno.EMFILE, "system")
        if self._lost_fds:
            raise Refusal(errno.EINVAL, "fds")

    def _refuse(self, number: int, command: int, error: int) -> None:
        size = HEADER.size
        HEADER.pack_into(self._out, 0, number, command, size, REPLY | ERROR, error)
        self._send(size)

    def _send(self, n: int) -> None:
        self._unsent = self._out[:n]
        self._flush()
        if self.is_stalled:
            self._stalled_at = self._clock()

    def _flush(self) -> None:
        try:
            sent = self.sock.send(self._unsent, _NOSIGNAL)
        except BlockingIOError:
            return
        self._unsent = self._unsent[sent:]
