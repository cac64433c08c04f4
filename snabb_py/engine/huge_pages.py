"""The system's huge pages: how many there are, and those that we have added.

One process at a time counts, adds and maps: two that started at the same moment would
both take the pages that are free for their own. A process may be killed at any point;
what it has added is noted before it is, and whoever starts next gives it back. Imports
errors.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from snabb_py.errors import DeviceError

TOTAL = Path("/proc/sys/vm/nr_hugepages")
FREE = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")


def total() -> int:
    """Return how many huge pages the system has."""
    return int(TOTAL.read_text())


def free() -> int:
    """Return how many of them nobody uses."""
    return int(FREE.read_text())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only one of our processes that counts, adds or takes away.

    Args:
        path: of the lock's file, which nobody else may open: he could keep it locked.

    Raises:
        DeviceError: it cannot be made.
    """
    flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        raise DeviceError(f"make {path}", error.errno or 0) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


class Note:
    """What a process has added, in a file for whoever cleans up after it.

    The file has the number of pages; while they are being added or taken away also the
    total without them, from which can be told how far that had come.

    Args:
        path: of the file; None: nobody is to know.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.pages = 0

    def add(self, pages: int) -> None:
        """Add to the system's pages, as many of these as can be had; the lock is held.

        Raises:
            OSError: we may not.
        """
        before = total()
        self._write(f"{self.pages + pages} {before - self.pages}")
        try:
            TOTAL.write_text(str(before + pages))
        finally:
            self.pages += max(0, total() - before)
            self._write(f"{self.pages}")

    def give_back(self) -> None:
        """Take off the system's pages what was added; the lock is held."""
        if self.pages:
            now = total()
            self._write(f"{self.pages} {max(0, now - self.pages)}")
            # Somebody else may have changed the number meanwhile: take ours off it.
            TOTAL.write_text(str(max(0, now - self.pages)))
            self.pages = 0
            self._write("0")

    def clean_up(self) -> None:
        """Give back what a process has added that does not live any more.

        Raises:
            OSError, ValueError: there is no note, or we may not.
        """
        assert self._path  # noqa: S101 - whose else
        pages, *floor = map(int, self._path.read_text().split())
        self.pages = min(pages, max(0, total() - floor[0])) if floor else pages
        self.give_back()

    def _write(self, text: str) -> None:
        if self._path:
            new = self._path.with_suffix(".new")
            new.write_text(text)
            new.replace(self._path)  # whole, whenever we are killed
