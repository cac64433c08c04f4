"""Threads of the process, by Python's hand. Imports errors."""

import errno
import threading
from collections.abc import Callable

from snabb_py.errors import DeviceError


def start_thread(name: str, target: Callable[[], None]) -> threading.Thread:
    """Start a thread that does not keep the process alive; return it.

    Raises:
        DeviceError: the system has no room for one.
    """
    thread = threading.Thread(target=target, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        hint = "raise the limits: ulimit -u unlimited -v unlimited"
        raise DeviceError(f"start the thread {name}", errno.EAGAIN, hint) from None
    return thread
