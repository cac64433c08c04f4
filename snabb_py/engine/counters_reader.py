"""The counters of an instance, read by somebody else; the layout is in shm.py.

Imports shm and errors.
"""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from snabb_py.engine.shm import (
    COUNTERS,
    DIRECTORY,
    ENTRY,
    HEADER,
    HISTOGRAM,
    MAGIC,
    NENTRIES,
    SIZE,
)
from snabb_py.errors import ConfigError

LONGEST_NAMES = 1 << 20  #: bytes of a row's names
CHANGE_TIMEOUT = 1.0  #: seconds that a change of the directory may take

#: Rows by name: counters by theirs, histograms as they are.
Rows = dict[str, dict[str, int] | list[int]]


class CountersReader:
    """The file of an instance, for anybody else: read-only.

    Nothing in it is trusted, and it is read, not mapped: what somebody cuts off is an
    error then, and no signal.

    Raises:
        ConfigError: there is no such file, or it is none of ours.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._generation = -1  # that of _layout
        self._layout: list[_Place] = []
        # Not blocking: a pipe of that name would wait for its writer.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            self._fd = os.open(path, flags)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: {error}") from None
        try:
            #: The program's name.
            self.program = self._check_header()
        except ConfigError:
            self.close()
            raise

    def _check_header(self) -> str:
        header = HEADER.unpack(self._read(0, HEADER.size))
        if header[0] != MAGIC:
            raise ConfigError(f"{self._path}: not a counters file of snabb-py")
        return _text(header[5])

    @property
    def is_gone(self) -> bool:
        """Whether the file has been removed: its instance has ended."""
        return os.fstat(self._fd).st_nlink == 0

    @property
    def generation(self) -> int:
        """Changes whenever rows come or go."""
        return int.from_bytes(self._read(8, 8), "little")

    def read(self) -> Rows:
        """Return all rows by name: counters as a dict, histograms as a list.

        Raises:
            ConfigError: the file is damaged, or stays in the middle of a change.
        """
        deadline = time.monotonic() + CHANGE_TIMEOUT
        while True:
            before = self.generation
            with contextlib.suppress(_TornError):
                rows = self._read_rows(before)
                if before % 2 == 0 and before == self.generation:
                    return rows
            if before % 2 == 0 and before == self.generation:
                raise ConfigError(f"{self._path}: its directory contradicts itself")
            if time.monotonic() > deadline:
                raise ConfigError(f"{self._path}: stays in the middle of a change")
            time.sleep(1e-3)

    def _read_rows(self, generation: int) -> Rows:
        if generation != self._generation:
            self._layout = self._read_directory()
            self._generation = generation
        low = min((place.offset for place in self._layout), default=0)
        high = max((place.end for place in self._layout), default=0)
        # One look at all of them, in aligned words: none is torn.
        data = memoryview(self._read(low, high - low))
        rows: Rows = {}
        for place in self._layout:
            words = data[place.offset - low : place.end - low].cast("Q").tolist()
            rows[place.name] = (
                dict(zip(place.names, words, strict=True)) if place.names else words
            )
        return rows

    def _read_directory(self) -> "list[_Place]":
        """Return where each row is.

        Raises:
            _TornError: that cannot be; it is being changed, or damaged.
        """
        data = self._read(DIRECTORY, NENTRIES * ENTRY.size)
        return [
            self._place(fields)
            for fields in ENTRY.iter_unpack(data)
            if fields[0] in {COUNTERS, HISTOGRAM}
        ]

    def _place(self, entry: tuple[int, int, int, int, int, bytes]) -> "_Place":
        kind, offset, count, names_at, names_length, name = entry
        names: tuple[str, ...] = ()
        if offset % 8 or offset + 8 * count > SIZE or names_length > LONGEST_NAMES:
            raise _TornError
        if kind == COUNTERS:
            names = tuple(_text(self._read(names_at, names_length)).split("\n"))
            if len(names) != count:
                raise _TornError
        return _Place(_text(name), names, offset, offset + 8 * count)

    def _read(self, offset: int, size: int) -> bytes:
        try:
            data = os.pread(self._fd, size, offset)
        except OSError as error:
            raise ConfigError(f"{self._path}: {error.strerror}") from None
        if len(data) < size:
            raise ConfigError(f"{self._path}: is cut off at byte {offset + len(data)}")
        return data

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


@dataclass(frozen=True)
class _Place:
    """Where a row is; without names it is a histogram."""

    name: str
    names: tuple[str, ...]
    offset: int
    end: int


class _TornError(Exception):
    """A directory that cannot be as it was read."""


def _text(data: bytes) -> str:
    """Return a name; one that was cut off in the middle of a character loses it."""
    return data.rstrip(b"\0").decode(errors="replace")
