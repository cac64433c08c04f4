"""Sockets to listen at: their files, whose they are, what is left of old ones.

Imports errors.
"""

import contextlib
import errno
import os
import select
import socket
import stat
from pathlib import Path
from typing import Final

from snabb_py.errors import LISTEN_HINTS, ConfigError, DeviceError

#: Of struct sockaddr_un, with the NUL.
LONGEST_PATH: Final = 107
SOCKET_MODE: Final = 0o660


def has_hung_up(sock: socket.socket) -> bool:
    """Return whether the peer has closed its end, whatever is still to be read."""
    poll = select.poll()
    poll.register(sock, 0)
    return bool(poll.poll(0))  # POLLHUP comes unasked


def inode_of(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one at the same path."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def check_path(path: Path) -> None:
    """Refuse a path that no socket can have.

    Raises:
        ConfigError: it is too long.
    """
    if (length := len(os.fsencode(path))) > LONGEST_PATH:
        raise ConfigError(
            f'socket "{path}": the path has {length} bytes, '
            f"and a socket's may have {LONGEST_PATH}"
        )


def listen(path: Path, group: int | None) -> socket.socket:
    """Return a socket that listens at a path, for its owner and group.

    Raises:
        DeviceError: see `Port`; the group may not be set. There is no file then.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    with contextlib.ExitStack() as undo:
        undo.callback(listener.close)
        try:
            _remove_stale(path)
            # Before there is a file: it is never open to others, whatever the umask.
            os.fchmod(listener.fileno(), SOCKET_MODE)
            listener.bind(str(path))
            undo.callback(path.unlink, missing_ok=True)
            if group is not None:
                _give(path, group)
            path.chmod(SOCKET_MODE)
            listener.listen()
        except OSError as error:
            number = error.errno or 0
            hint = LISTEN_HINTS.get(number, "")
            raise DeviceError(f"listen at {path}", number, hint) from None
        undo.pop_all()
    return listener


def _give(path: Path, group: int) -> None:
    """Let a group have a file.

    Raises:
        DeviceError: it may not be set, or cannot be.
    """
    try:
        os.chown(path, -1, group, follow_symlinks=False)
    except OSError as error:
        hint = ""
        if error.errno == errno.EPERM:
            hint = "who is not in it must be root, or have the capability CAP_CHOWN"
        step = f"give {path} to group {group}"
        raise DeviceError(step, error.errno or 0, hint) from None


def _remove_stale(path: Path) -> None:
    """Remove a socket file that a process of ours has left behind, and nothing else."""
    try:
        status = path.lstat()
    except OSError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        return  # bind() will say so
    hint = "somebody listens there"
    # Of another type than a server's: one that is alive refuses it for that, and does
    # not see it. One that nobody has refuses any. Source: unix_find_bsd() of Linux.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            if status.st_uid == os.geteuid():
                path.unlink()
                return
            hint = f"user {status.st_uid} has left a socket there: remove it"
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
    raise DeviceError(f"listen at {path}", errno.EADDRINUSE, hint)
