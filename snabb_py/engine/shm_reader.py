"""What instances have in shared memory, read by somebody else; see `shm`.

Whatever lies there is only looked at: a file that is no counters file, is cut short, or
says what cannot be, is an error that names it, whoever put it there. Files are read,
not mapped: who cuts one short while we look at it would kill us. Imports shm.
"""

import json
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snabb_py.engine import shm
from snabb_py.engine.shm import COUNTERS, ENTRY, HEADER, HISTOGRAM, MAGIC, UNUSED
from snabb_py.errors import ConfigError

#: Seconds until a directory that is always being changed is given up.
PATIENCE = 1.0
LONGEST_ABOUT = 64 * 1024

Rows = dict[str, dict[str, int] | list[int]]


def open_own(path: Path) -> int:
    """Return the descriptor of a regular file of ours, open for reading.

    Raises:
        ConfigError: there is none, or it is somebody else's.
    """
    # Not blocking: a pipe would wait for its writer before we can refuse it.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise ConfigError(f"{path}: is no regular file")
    if status.st_uid != os.geteuid():
        os.close(fd)
        raise ConfigError(f"{path}: belongs to somebody else")
    return fd


def instances(pid: int | None = None) -> Iterator[Path]:
    """Yield the directories of the instances that run here, by pid.

    Args:
        pid: only this one.

    Raises:
        ConfigError: the directory that they are in is not ours alone.
    """
    root = shm.runtime_directory()
    if not root.is_dir():
        return
    shm.make_private(root)
    for number in sorted(int(path.name) for path in root.iterdir() if _is_pid(path)):
        if pid in {None, number} and shm.is_alive(root / str(number)):
            yield root / str(number)


def _is_pid(path: Path) -> bool:
    return path.name.isascii() and path.name.isdecimal()


def read_about(directory: Path) -> dict[str, Any]:
    """Return what the program of an instance says of itself; {}: nothing.

    Raises:
        ConfigError: that is no JSON object.
    """
    path = directory / "about"
    if not path.exists():
        return {}
    fd = open_own(path)
    with os.fdopen(fd, "rb") as file:
        text = file.read(LONGEST_ABOUT)
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise ConfigError(f"{path}: is no JSON object")
    return facts


class CountersReader:
    """The file of an instance, for anybody but itself.

    Raises:
        ConfigError: there is no such file, or it is none of ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = open_own(path)
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise

    def _read_header(self) -> None:
        header = self._take(0, HEADER.size)
        magic, _, nentries, offset, _, program = HEADER.unpack(header)
        if magic != MAGIC:
            raise ConfigError(f"{self.path}: not a counters file of snabb-py")
        self._directory = offset, nentries * ENTRY.size
        self.program = _text(program)
        self._places: list[_Place] = []
        self._places_of = -1  # generation

    @property
    def generation(self) -> int:
        """Changes when rows come or go; odd meanwhile."""
        return int.from_bytes(self._take(8, 8), "little")

    @property
    def is_gone(self) -> bool:
        """Whether the file has been removed: its instance has ended."""
        return os.fstat(self._fd).st_nlink == 0

    def read(self) -> Rows:
        """Return all rows by name: counters as a dict, histograms as a list.

        Raises:
            ConfigError: the file is damaged.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            before = self.generation
            rows, damage = self._try_to_read(before)
            if before % 2 == 0 and before == self.generation:
                if damage:
                    raise damage
                return rows
            if time.monotonic() > deadline:
                raise ConfigError(f"{self.path}: is being changed all the time")

    def _try_to_read(self, generation: int) -> tuple[Rows, ConfigError | None]:
        """Return the rows, or what is wrong: that may be because they change."""
        try:
            if generation != self._places_of:
                self._places = self._read_directory()
                self._places_of = generation
            low = min((place.offset for place in self._places), default=0)
            high = max((place.end for place in self._places), default=0)
            # All in one look, and in whole words: no number is torn.
            data = memoryview(self._take(low, high - low))
        except ConfigError as error:
            self._places_of = -1
            return {}, error
        rows: Rows = {}
        for place in self._places:
            values = data[place.offset - low : place.end - low].cast("Q").tolist()
            rows[place.name] = (
                dict(zip(place.names, values, strict=True)) if place.names else values
            )
        return rows, None

    def _read_directory(self) -> "list[_Place]":
        """Return where the rows are."""
        entries = ENTRY.iter_unpack(self._take(*self._directory))
        return [self._place(entry) for entry in entries if entry[0] != UNUSED]

    def _place(self, entry: tuple[Any, ...]) -> "_Place":
        kind, offset, count, names_at, names_size, name = entry
        names: tuple[str, ...] = ()
        self._check(offset, 8 * count)
        if kind != HISTOGRAM:
            try:
                text = self._take(names_at, names_size).decode()
            except UnicodeDecodeError:
                raise ConfigError(f"{self.path}: damaged: a name is no text") from None
            names = tuple(text.split("\n"))
            if kind != COUNTERS or len(names) != count:
                raise ConfigError(f"{self.path}: damaged: counters without names")
        return _Place(_text(name), names, offset, offset + 8 * count)

    def _check(self, offset: int, size: int) -> None:
        """Refuse what is not in the file, however long it says that it is."""
        if offset + size > os.fstat(self._fd).st_size:
            raise ConfigError(f"{self.path}: damaged: ends before byte {offset + size}")

    def _take(self, offset: int, size: int) -> bytes:
        """Return bytes of the file, all that were asked for."""
        self._check(offset, size)  # no more memory than it has
        data = os.pread(self._fd, size, offset)
        if len(data) < size:
            raise ConfigError(f"{self.path}: damaged: is being cut short")
        return data

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


@dataclass(frozen=True)
class _Place:
    """Where a row is; one without names is a histogram."""

    name: str
    names: tuple[str, ...]
    offset: int
    end: int


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")
