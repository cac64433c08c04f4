"""Counters in shared memory: one file that others may read while we run.

`/run/snabb-py/<pid>/counters` (for a user who is not root
`$XDG_RUNTIME_DIR/snabb-py/<pid>/counters`), little-endian, all numbers unsigned:

    offset 0      8 bytes  magic "SNABBPY1"
           8      u64      generation: odd while the directory is being changed
          16      u32      entries in the directory, used or not
          20      u32      offset of the directory
          24      u64      size of the file in bytes
          32      32 bytes program name, UTF-8, zero-padded
    directory     entries of 256 bytes:
           0      u32      kind: 0 unused, 1 counters, 2 histogram
           4      u32      offset of its row in this file
           8      u32      number of u64 in the row
          12      u32      offset of the counters' names, UTF-8, one to a line
          16      u32      bytes of the names
          20      236 bytes the entry's own name, UTF-8, zero-padded:
                           "workers/0", "workers/0/breath-gap-ns", "apps/NAME",
                           "links/a.tx -> b.rx"
    rows          u64 each, on cache lines of their own

A worker counts straight into its rows; a reader maps the file and costs it nothing.
To read the directory: take the generation, read, take it again, repeat if it is odd
or has changed. Rows are in one dense file rather than a page each, because page-aligned
counters fall into the same cache sets.

Who reads it is `shm_reader`. A file `lock` in the same directory is locked (flock) as
long as the instance lives: that, not the pid, tells whether it does. A file `about` has
a JSON object in which the program says what it is. Imports errors and the extension.
"""

import contextlib
import fcntl
import json
import mmap
import os
import shutil
import stat
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snabb_py._native import ffi
from snabb_py.engine import huge_pages
from snabb_py.errors import ConfigError, DeviceError

MAGIC = b"SNABBPY1"
HEADER = struct.Struct("<8sQIIQ32s")
ENTRY = struct.Struct("<IIIII236s")
UNUSED, COUNTERS, HISTOGRAM = 0, 1, 2
NENTRIES = 4096
DIRECTORY = 64
SIZE = 32 << 20  # sparse: only what is used takes memory
LINE = 64
LOCK_ATTEMPTS = 100  #: a millisecond apart


def runtime_directory() -> Path:
    """Return the directory that holds one directory for each instance."""
    if os.geteuid() == 0:
        return Path("/run/snabb-py")
    if base := os.environ.get("XDG_RUNTIME_DIR"):
        # That of another user is what sudo, su and setpriv leave in place.
        with contextlib.suppress(OSError):
            if Path(base).stat().st_uid == os.geteuid():
                return Path(base) / "snabb-py"
    return Path(f"/tmp/snabb-py-{os.geteuid()}")  # noqa: S108 - owner checked below


def make_private(path: Path) -> None:
    """Make a directory that nobody but we may change, or accept it if it is one.

    Raises:
        ConfigError: it belongs to somebody else.
        DeviceError: it cannot be made.
    """
    try:
        path.mkdir(mode=0o755 if os.geteuid() == 0 else 0o700, exist_ok=True)
        check_private(path)
    except OSError as error:
        raise DeviceError(f"make {path}", error.errno or 0) from None


def check_private(path: Path) -> None:
    """Refuse a directory that somebody else may change.

    Raises:
        ConfigError: it is such a one, or no directory.
        OSError: there is none.
    """
    status = path.lstat()
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if not is_ours or status.st_mode & 0o022:
        raise ConfigError(f"{path}: belongs to somebody else or others may write to it")


def huge_pages_locked() -> contextlib.AbstractContextManager[None]:
    """Lock the system's huge pages; see `huge_pages.locked`.

    Raises:
        SnabbError: there is no directory for the lock.
    """
    root = runtime_directory()
    make_private(root)
    return huge_pages.locked(root / "hugepages.lock")


class InstanceDirectory:
    """`<runtime directory>/<pid>`, locked while we live, removed at the end.

    What instances that were killed left behind is removed on the way.
    """

    def __init__(self, pid: int | None = None) -> None:
        root = runtime_directory()
        make_private(root)
        remove_dead(root)
        self.path = root / str(os.getpid() if pid is None else pid)
        make_private(self.path)
        flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC
        try:
            self._lock = os.open(self.path / "lock", flags, 0o600)
        except OSError as error:
            shutil.rmtree(self.path, ignore_errors=True)
            raise DeviceError(f"make {self.path}/lock", error.errno or 0) from None
        if not _lock(self._lock):
            os.close(self._lock)
            raise ConfigError(f"{self.path}: another engine of this process uses it")

    @property
    def huge_pages(self) -> huge_pages.Note:
        """The note of the huge pages that are added, should we be killed."""
        return huge_pages.Note(self.path / "hugepages")

    def tell(self, facts: Mapping[str, Any]) -> None:
        """Say what runs here, for who looks at it: in the file `about`.

        Raises:
            DeviceError: it cannot be written.
        """
        new = self.path / "about.new"
        try:
            new.write_text(json.dumps(facts))
            new.replace(self.path / "about")  # whole, whenever somebody looks
        except OSError as error:
            raise DeviceError(f"write {new}", error.errno or 0) from None

    def close(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _lock(fd: int) -> bool:
    """Lock an instance's file; whoever just asks whether it lives has it shortly."""
    for _ in range(LOCK_ATTEMPTS):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(1e-3)
    return False


def is_alive(directory: Path) -> bool:
    """Return whether the instance of this directory still runs."""
    try:
        fd = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def remove_dead(root: Path) -> None:
    """Remove the directories of instances that no longer run."""
    dead = [p for p in root.iterdir() if p.name.isdigit() and _is_dead(p)]
    if dead:
        # One at a time: pages are given back once, and whoever starts finds them given.
        with huge_pages_locked():
            for path in filter(_is_dead, dead):
                with contextlib.suppress(OSError, ValueError):
                    huge_pages.Note(path / "hugepages").clean_up()
                shutil.rmtree(path, ignore_errors=True)


def _is_dead(path: Path) -> bool:
    with contextlib.suppress(OSError):
        # No lock file yet: perhaps it is just being made; it has a minute.
        is_fresh = path.stat().st_mtime > time.time() - 60
        is_begun = (path / "lock").exists()
        return not is_alive(path) and (is_begun or not is_fresh)
    return False


@dataclass(eq=False)
class Row:
    """Numbers with names.

    `pointer` (`uint64_t *`) is for C. Counters are read by name, a histogram whole.
    """

    name: str
    names: tuple[str, ...]
    offset: int
    size: int
    count: int
    pointer: Any
    memory: Any  # keeps what pointer points to
    entry: int | None = None

    def values(self) -> list[int]:
        """Return the numbers as they are now."""
        return list(ffi.unpack(self.pointer, self.count))

    def as_dict(self) -> dict[str, int]:
        """Return the counters by name."""
        return dict(zip(self.names, self.values(), strict=True))

    def __getitem__(self, name: str) -> int:
        return int(self.pointer[self.names.index(name)])


class Counters:
    """The file of an instance, for the instance itself.

    Args:
        path: where to make it; None: anonymous memory that nobody else sees.
        program: the name shown to readers.
    """

    def __init__(self, path: Path | None, program: str = "") -> None:
        self._fd = -1
        self._path = path
        if path is None:
            self._map = mmap.mmap(-1, SIZE)
            self._write_header(program)
        else:
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
            new = path.with_name(f"{path.name}.new")
            try:
                self._fd = os.open(new, flags, 0o644)
                os.ftruncate(self._fd, SIZE)
                self._map = mmap.mmap(self._fd, SIZE)
                self._reserve(0, DIRECTORY + NENTRIES * ENTRY.size)
                self._write_header(program)
                new.rename(path)  # whoever sees it sees it whole
            except OSError as error:
                self.close()
                raise DeviceError(f"make {path}", error.errno or 0) from None
            except DeviceError:
                self.close()
                raise
        self._view = ffi.from_buffer("uint8_t[]", self._map)
        self._end = DIRECTORY + NENTRIES * ENTRY.size
        self._free_rows: dict[int, list[int]] = {}
        self._free_entries = list(range(NENTRIES - 1, -1, -1))
        self._names: dict[tuple[str, ...], tuple[int, int]] = {}

    def _write_header(self, program: str) -> None:
        HEADER.pack_into(
            self._map, 0, MAGIC, 0, NENTRIES, DIRECTORY, SIZE, program.encode()[:32]
        )

    def make(self, name: str, names: Sequence[str], *, count: int = 0) -> Row:
        """Return a row of zeros that readers do not see yet.

        Args:
            name: of its entry in the directory.
            names: of its counters; () for a histogram.
            count: numbers in the row, if more than names (room for a C struct).

        Raises:
            ConfigError: the file is full.
        """
        size = -(-max(count, len(names), 1) * 8 // LINE) * LINE
        offset = self._take(size)
        return Row(
            name,
            tuple(names),
            offset,
            size,
            len(names) or count,
            ffi.cast("uint64_t *", self._view + offset),
            self._view,
        )

    def publish(self, row: Row) -> None:
        """Put a row into the directory; no other of its name may be there.

        Raises:
            ConfigError: the directory is full.
        """
        if not self._free_entries:
            raise ConfigError(f"more than {NENTRIES} apps, links and workers")
        names_at, names_length = self._intern(row.names)
        row.entry = self._free_entries.pop()
        self._write(
            row.entry,
            COUNTERS if row.names else HISTOGRAM,
            row.offset,
            row.count,
            names_at,
            names_length,
            row.name.encode()[:236],
        )

    def remove(self, row: Row) -> None:
        """Take a row away, published or not; nobody counts into it any more."""
        if row.entry is not None:
            self._write(row.entry, UNUSED, 0, 0, 0, 0, b"")
            self._free_entries.append(row.entry)
            row.entry = None
        self._free_rows.setdefault(row.size, []).append(row.offset)

    def close(self) -> None:
        """Let go of it; it is unmapped when the last row goes."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _reserve(self, offset: int, size: int) -> None:
        """Make sure of the memory: a full file system would be a SIGBUS later.

        Raises:
            DeviceError: there is no room.
        """
        if self._fd < 0:
            return
        try:
            os.posix_fallocate(self._fd, offset, size)
        except OSError as error:
            raise DeviceError(f"make room in {self._path}", error.errno or 0) from None

    def _take(self, size: int) -> int:
        if rows := self._free_rows.get(size):
            offset = rows.pop()
            self._map[offset : offset + size] = bytes(size)
            return offset
        offset = -(-self._end // LINE) * LINE
        if offset + size > SIZE:
            raise ConfigError(f"counters need more than {SIZE >> 20} MiB")
        self._reserve(offset, size)
        self._end = offset + size
        return offset

    def _intern(self, names: tuple[str, ...]) -> tuple[int, int]:
        """Return place and length of the names; the same ones are kept once."""
        if names not in self._names:
            text = "\n".join(names).encode()
            offset = self._take(-(-max(len(text), 1) // LINE) * LINE)
            self._map[offset : offset + len(text)] = text
            self._names[names] = (offset, len(text))
        return self._names[names]

    def _write(self, entry: int, *fields: int | bytes) -> None:
        """Change one entry; the generation is odd meanwhile."""
        generation = ffi.cast("uint64_t *", self._view + 8)
        generation[0] += 1
        ENTRY.pack_into(self._map, DIRECTORY + entry * ENTRY.size, *fields)
        generation[0] += 1
