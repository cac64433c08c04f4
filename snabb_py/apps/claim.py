"""Claim: an interface of the kernel is one program's of ours, as a card is.

The kernel gives each packet socket a copy of all that comes: two programs that receive
and send on one interface would both answer. Imports errors.
"""

import errno
import os
import socket
import struct

from snabb_py.errors import DeviceError

#: Programs that may be told whose an interface is.
MOST_ASKING = 4096
_CREDENTIALS = struct.Struct("3i")  #: struct ucred


class Claim:
    """The right to an interface among programs of ours, until it or the process ends.

    It is a listening socket's abstract name, of which each network namespace has its
    own. Anybody may take such a name: who is neither root nor we has no say in it.

    Args:
        word: what the user calls the interface.
    """

    def __init__(self, word: str) -> None:
        self.word = word
        self._index: int | None = None
        self._socket: socket.socket | None = None

    def take(self, index: int) -> None:
        """Claim the interface that has this number now, and give up any other one.

        Raises:
            DeviceError: another program has it.
        """
        if index == self._index:
            return
        name = f"\0snabb-py/interface/{index}"
        named = socket.socket(socket.AF_UNIX)
        try:
            named.bind(name)
            named.listen(MOST_ASKING)
        except OSError as error:
            named.close()
            if error.errno != errno.EADDRINUSE:
                raise
            self._ask(name)
        self.close()
        self._socket, self._index = named, index

    def _ask(self, name: str) -> None:
        """Refuse, unless whoever has the name may not have it.

        Raises:
            DeviceError: he may.
        """
        with socket.socket(socket.AF_UNIX) as asking:
            asking.setblocking(False)
            try:
                asking.connect(name)
                said = asking.getsockopt(
                    socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
                )
            except OSError:  # it does not listen yet, or too many have asked
                said = _CREDENTIALS.pack(0, 0, 0)
        pid, uid, _ = _CREDENTIALS.unpack(said)
        if uid in {0, os.geteuid()}:
            who = f"process {pid}" if pid else "another process"
            who = "this process" if pid == os.getpid() else who
            raise DeviceError(
                f"{self.word}: claim the interface", errno.EBUSY, f"in use by {who}"
            )

    def close(self) -> None:
        """Give it up."""
        if self._socket:
            self._socket.close()
        self._socket = self._index = None
