"""What instances have in shared memory, read by somebody else; see `shm`.

Whatever lies there is only looked at: a file that is no counters file, is cut short, or
says what cannot be, is an error that names it, whoever put it there. Files are read,
not mapped: who cuts one short while we look at it would kill us. Imports shm.
"""

import json
import os
import stat
import struct
import time
from collections.abc import Iterator
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
        self.program = str(program.rstrip(b"\0").decode(errors="replace"))

    def read(self) -> Rows:
        """Return all rows by name: counters as a dict, histograms as a list.

        Raises:
            ConfigError: the file is damaged.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            before = self._generation()
            rows, damage = self._try_to_read()
            if before % 2 == 0 and before == self._generation():
                if damage:
                    raise damage
                return rows
            if time.monotonic() > deadline:
                raise ConfigError(f"{self.path}: is being changed all the time")

    def _try_to_read(self) -> tuple[Rows, ConfigError | None]:
        """Return the rows, or what is wrong: that may be because they change."""
        rows: Rows = {}
        try:
            for entry in ENTRY.iter_unpack(self._take(*self._directory)):
                if entry[0] != UNUSED:
                    name = entry[5].rstrip(b"\0").decode(errors="replace")
                    rows[name] = self._row(entry)
        except ConfigError as error:
            return {}, error
        return rows, None

    def _row(self, entry: tuple[Any, ...]) -> dict[str, int] | list[int]:
        kind, offset, count, names_at, names_size, _ = entry
        values = list(struct.unpack(f"<{count}Q", self._take(offset, 8 * count)))
        if kind == HISTOGRAM:
            return values
        try:
            names = self._take(names_at, names_size).decode().split("\n")
        except UnicodeDecodeError:
            raise ConfigError(f"{self.path}: damaged: a name is no text") from None
        if kind != COUNTERS or len(names) != count:
            raise ConfigError(f"{self.path}: damaged: counters without names")
        return dict(zip(names, values, strict=True))

    def _generation(self) -> int:
        return int.from_bytes(self._take(8, 8), "little")

    def _take(self, offset: int, size: int) -> bytes:
        """Return bytes of the file, all that were asked for."""
        # Whatever the file says of itself: no more memory than it has.
        is_there = offset + size <= os.fstat(self._fd).st_size
        data = os.pread(self._fd, size, offset) if is_there else b""
        if len(data) < size or not is_there:
            raise ConfigError(f"{self.path}: damaged: ends before byte {offset + size}")
        return data

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)
