"""One native app by itself: its operations called by the test, time set by the test.

    with Harness(Forward()) as harness:
        harness.send([b"..."])
        harness.breathe()
        assert harness.received() == [b"..."]

At the end the app is retired, and every packet must be back.
"""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from snabb_py.engine.engine import Engine
from snabb_py.engine.solo import BEGINNING, Solo

__all__ = ["BEGINNING", "Harness", "no_free_fds", "small_engine"]


def small_engine(**settings: Any) -> Engine:
    """Return an engine with few packets, on ordinary memory."""
    return Engine(packets=4096, large_packets=64, huge=False, log=print, **settings)


@contextlib.contextmanager
def no_free_fds() -> Iterator[None]:
    """Let this process have no more files open than it has."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    fillers = [os.dup(0) for _ in range(highest)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(fillers) + 1, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in fillers:
            os.close(fd)


class Harness(Solo):
    """An app by itself that loses no packet."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if error is None and not self.shared:
            assert self.nfree == self.pool.total, "packets are missing"
