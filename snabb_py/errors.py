"""Exceptions of snabb-py.

    SnabbError
    ├── ConfigError    the user's mistake: a config, an argument, a file
    ├── DeviceError    the kernel or a device said no; carries errno
    └── AppError       an app ended the run; carries the app's name

The text of each is one line that says what is wrong, where, and what to do: it is
what the user sees. Imports nothing.
"""

import errno as numbers
import os

#: What to do when something has run out, whatever was being done.
HINTS = {
    numbers.EMFILE: "raise the limit of open files: ulimit -n 1024",
    numbers.ENFILE: "raise the system's limit of open files: sysctl fs.file-max",
    numbers.ENOSPC: "the file system is full: make room there",
    numbers.EDQUOT: "make room, or raise the quota",
    numbers.EFBIG: "raise the limit of a file's size: ulimit -f unlimited",
    numbers.ENOMEM: "free memory, or raise the limit: ulimit -v unlimited",
}
#: What to do when a file cannot be read,
READ_HINTS = dict.fromkeys(
    (numbers.ENOENT, numbers.EACCES, numbers.ENOTDIR),
    "check its name and who may read it",
)
#: cannot be written,
WRITE_HINTS = dict.fromkeys(
    (numbers.ENOENT, numbers.EACCES, numbers.ENOTDIR, numbers.EROFS),
    "check the directory and who may write there",
) | {numbers.ENXIO: "nobody reads this pipe yet; begin with the reader"}
#: or a socket cannot be listened at.
LISTEN_HINTS = {
    numbers.ENOENT: "is the directory there?",
    numbers.EADDRINUSE: "what is there is no socket; remove it or take another name",
    numbers.ENOTDIR: "a part of the path is no directory",
    numbers.EACCES: "choose a directory that you may write to",
    numbers.EROFS: "choose a directory that can be written to",
    numbers.ENOSPC: "the file system is full; choose another directory",
}


class SnabbError(Exception):
    """What a program reports as one line, with exit status 1."""


class ConfigError(SnabbError):
    """A mistake in what the user asked for."""


class DeviceError(SnabbError):
    """The kernel, a device or a file refused a step.

    Args:
        step: what was being done, "open /dev/net/tun".
        errno: of the system call, positive.
        hint: what to do about it; default: what `HINTS` says.
    """

    def __init__(self, step: str, errno: int, hint: str = "") -> None:
        self.step = step
        self.errno = errno
        self.hint = hint = hint or HINTS.get(errno, "")
        super().__init__(f"{step}: {os.strerror(errno)}{'; ' + hint if hint else ''}")


class AppError(SnabbError):
    """An app failed and the run was asked to stop on it."""

    def __init__(self, app: str, reason: str) -> None:
        self.app = app
        super().__init__(f"app {app}: {reason}")
