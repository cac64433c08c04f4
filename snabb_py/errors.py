"""Exceptions of snabb-py.

    SnabbError
    ├── ConfigError    the user's mistake: a config, an argument, a file
    ├── DeviceError    the kernel or a device said no; carries errno
    └── AppError       an app ended the run; carries the app's name

The text of each is one line that says what is wrong, where, and what to do: it is
what the user sees. Imports nothing.
"""

import os


class SnabbError(Exception):
    """What a program reports as one line, with exit status 1."""


class ConfigError(SnabbError):
    """A mistake in what the user asked for."""


class DeviceError(SnabbError):
    """The kernel, a device or a file refused a step.

    Args:
        step: what was being done, "open /dev/net/tun".
        errno: of the system call, positive.
        hint: what to do about it.
    """

    def __init__(self, step: str, errno: int, hint: str = "") -> None:
        self.step = step
        self.errno = errno
        self.hint = hint
        super().__init__(f"{step}: {os.strerror(errno)}{'; ' + hint if hint else ''}")


class AppError(SnabbError):
    """An app failed and the run was asked to stop on it."""

    def __init__(self, app: str, reason: str) -> None:
        self.app = app
        super().__init__(f"app {app}: {reason}")
