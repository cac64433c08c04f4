"""Memory for packets: huge pages where they can be had.

Packets lie in one memfd mapping, so that a device can reach them (pages that are
never swapped or moved) and another process can be handed them. Huge pages are
reserved when we may, and given back when the memory is closed. Imports errors and
the extension.
"""

import array
import contextlib
import errno
import mmap
import os
from pathlib import Path
from typing import Any

from snabb_py._native import ffi, lib
from snabb_py.engine import huge_pages
from snabb_py.engine.shm import huge_pages_locked
from snabb_py.errors import ConfigError, DeviceError

HUGE_PAGE = 2 << 20
PAGEMAP = Path("/proc/self/pagemap")
MEMINFO = Path("/proc/meminfo")
#: Of an entry of pagemap, a word for each page: Documentation/admin-guide/mm/pagemap.
PAGE_PRESENT = 1 << 63
PAGE_FRAME = (1 << 55) - 1

#: `ffi.new` for structures whose parts must not share cache lines: zeroed, and
#: starting on a line.
new_aligned = ffi.new_allocator(lib.engine_alloc, lib.engine_free)


def available() -> int:
    """Return the bytes of memory that programs may still have, but for huge pages."""
    lines = MEMINFO.read_text().splitlines()
    words = next(line.split() for line in lines if line.startswith("MemAvailable:"))
    return int(words[1]) << 10


class Memory:
    """One mapping of at least `size` bytes.

    Args:
        size: bytes.
        huge: try huge pages.
        need_huge: no others will do.
        note: of the huge pages that are added for it.

    Raises:
        DeviceError: there is not so much memory; there are no huge pages, and no others
            will do.

    Attributes:
        address: `uint8_t *`, on a 2 MiB boundary; valid until `close`.
        fd: the memfd behind it.
        offset: in the memfd, of address.
        is_huge: 2 MiB pages.
        problem: why there are none, for the user; "" with them.
    """

    def __init__(
        self,
        size: int,
        *,
        huge: bool = True,
        need_huge: bool = False,
        note: huge_pages.Note | None = None,
    ) -> None:
        self.size = -(-size // HUGE_PAGE) * HUGE_PAGE
        self.problem = ""
        self._added = note or huge_pages.Note()
        self.is_huge = False
        if huge:
            try:
                with huge_pages_locked():
                    self._map_huge()
                self.is_huge = True
            except (OSError, ConfigError) as error:
                if need_huge:
                    raise self._lack(error) from None
                self.problem = self._explain(error)
        if not self.is_huge:
            self._map_ordinary()

    def _explain(self, error: OSError | ConfigError) -> str:
        reason = getattr(error, "strerror", None) or str(error)
        if getattr(error, "errno", 0) == errno.ENOMEM:
            reason = "none free"
        return (
            f"no huge pages ({reason}): using ordinary memory; "
            f"for speed: {self._remedy}"
        )

    def _lack(self, error: OSError | ConfigError) -> DeviceError:
        number = getattr(error, "errno", None) or errno.ENOMEM
        what = f"reserve {self.size // HUGE_PAGE} huge pages"
        return DeviceError(what, number, f"first: {self._remedy}")

    def _map_huge(self) -> None:
        pages = self.size // HUGE_PAGE
        missing = pages - huge_pages.free()
        with contextlib.ExitStack() as undo:
            undo.callback(self._added.give_back)
            # The kernel would look for them for long, and take what it finds.
            if missing * HUGE_PAGE > available():
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            if missing > 0:
                self._added.add(missing)
            self.fd = os.memfd_create("snabb-py", os.MFD_CLOEXEC | os.MFD_HUGETLB)
            undo.callback(os.close, self.fd)
            os.ftruncate(self.fd, self.size)
            # Populated now: a page that cannot be had later would be a SIGBUS.
            self._map = mmap.mmap(
                self.fd, self.size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE
            )
            undo.pop_all()
        self._hold()

    def _map_ordinary(self) -> None:
        there = available()
        if self.size > there:
            # It could be mapped, and would be the end of us, or others, when used.
            raise DeviceError(
                f"reserve {self.size >> 20} MiB for packets",
                errno.ENOMEM,
                f"{there >> 20} MiB are available; fewer workers or ports need less",
            )
        try:
            self.fd = os.memfd_create("snabb-py", os.MFD_CLOEXEC)
            # One huge page more than asked: the start is moved to a boundary.
            os.ftruncate(self.fd, self.size + HUGE_PAGE)
            self._map = mmap.mmap(self.fd, self.size + HUGE_PAGE)
        except OSError as error:
            raise DeviceError(
                f"map {self.size >> 20} MiB for packets",
                error.errno or errno.ENOMEM,
            ) from None
        self._hold()

    def _hold(self) -> None:
        self._view = ffi.from_buffer("uint8_t[]", self._map)
        start = int(ffi.cast("uintptr_t", self._view))
        self.offset = (-start) % HUGE_PAGE
        self.address = self._view + self.offset

    def physical(self) -> list[int]:
        """Return the physical address of each 2 MiB page, in order.

        A device without an IOMMU takes these. They hold until `close`: huge pages are
        not swapped, and the kernel moves them only when an administrator takes memory
        out of the machine.

        Raises:
            DeviceError: there are no huge pages, or the kernel does not tell.
        """
        if not self.is_huge:
            raise DeviceError(
                "find memory for a card without an IOMMU",
                errno.ENOMEM,
                f"needs huge pages: {self._remedy}",
            )
        start = int(ffi.cast("uintptr_t", self.address))
        frames = array.array("Q")
        try:
            with PAGEMAP.open("rb", buffering=0) as file:
                for address in range(start, start + self.size, HUGE_PAGE):
                    file.seek(address // mmap.PAGESIZE * frames.itemsize)
                    frames.frombytes(file.read(frames.itemsize))
        except (OSError, ValueError) as error:
            number = getattr(error, "errno", None) or errno.EIO
            raise DeviceError(f"read {PAGEMAP}", number, "run as root") from None
        # Without CAP_SYS_ADMIN the numbers read as zeros.
        if not all(frame & PAGE_PRESENT and frame & PAGE_FRAME for frame in frames):
            raise DeviceError(
                f"find physical addresses in {PAGEMAP}",
                errno.EPERM,
                "run as root, or with CAP_SYS_ADMIN",
            )
        return [(frame & PAGE_FRAME) * mmap.PAGESIZE for frame in frames]

    @property
    def _remedy(self) -> str:
        used = 0
        with contextlib.suppress(OSError, ValueError):
            used = huge_pages.total() - huge_pages.free()
        return f"sysctl vm.nr_hugepages={max(used, 0) + self.size // HUGE_PAGE}"

    def close(self) -> None:
        """Unmap, and give back the huge pages that were reserved for it."""
        ffi.release(self._view)
        self._map.close()
        os.close(self.fd)
        if self._added.pages:
            with contextlib.suppress(OSError, ValueError), huge_pages_locked():
                self._added.give_back()


class Pool:
    """The packets of an engine, in memory of their own.

    Args:
        small: packets of up to 10 KiB.
        large: packets of up to 66 KiB.
        nworkers: freelists that will draw on it.
        huge: try huge pages.
        need_huge: no others will do.
        physical: a packet's `iova` is its physical address, for a device without an
            IOMMU; else its virtual address.
        note: of the huge pages that are added for it.

    Raises:
        DeviceError: there is no memory; physical addresses cannot be had.
    """

    def __init__(  # noqa: PLR0913 - all but three have defaults
        self,
        small: int,
        large: int,
        nworkers: int,
        *,
        huge: bool = True,
        need_huge: bool = False,
        physical: bool = False,
        note: huge_pages.Note | None = None,
    ) -> None:
        self.memory = Memory(
            lib.pool_memory_needed(small, large),
            huge=huge,
            need_huge=need_huge,
            note=note,
        )
        nchunks = lib.pool_chunks_needed(small, large, nworkers)
        try:
            iovas: Any = ffi.NULL
            if physical:
                iovas = ffi.new("uint64_t[]", self.memory.physical())
            # Anonymous memory: zeroed, and what is never used costs nothing.
            self._chunks: Any = mmap.mmap(-1, nchunks * ffi.sizeof("struct chunk"))
        except BaseException:
            self.memory.close()
            raise
        self._view = ffi.from_buffer("struct chunk[]", self._chunks)
        self.pool = new_aligned("struct pool *")
        address = self.memory.address
        lib.pool_init(
            self.pool, address, iovas, small, large, nworkers, self._view, nchunks
        )

    @property
    def total(self) -> int:
        """Packets that there are, of both classes."""
        return int(self.pool.npackets[0] + self.pool.npackets[1])

    @property
    def free(self) -> int:
        """Packets on the shared stacks; exact only while no worker runs."""
        return sum(lib.pool_count(self.pool, c) for c in range(lib.PACKET_NCLASSES))

    def close(self) -> None:
        """Unmap everything; nothing may refer to a packet any more."""
        ffi.release(self._view)
        self._chunks.close()
        self.memory.close()
