"""A guest's memory, as a front end hands it over: files, mapped here.

A front end may shrink a file at any time: that is `engine.guard`'s business. Regions
are shared by the tables that follow each other, and unmapped when no worker can have
them.
Imports the extension and its sibling `message`.
"""

import itertools
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from snabb_py._native import ffi, lib
from snabb_py.virtio.message import Refusal

LIMIT: Final = 1 << 64
#: Bytes of a guest's memory: 127 guests, with files of holes, fill an address space.
MOST: Final = 1 << 40
#: Documentation/filesystems/proc: device in the third column, type behind a dash.
MOUNTS: Final = Path("/proc/self/mountinfo")


class Region:
    """A region, mapped.

    Args:
        start: address in the guest, bytes.
        size: bytes.
        user: address as the front end sees it.
        offset: in the file, of the region's first byte.
        fd: of the file; the caller closes it.

    Raises:
        Refusal: there is no such memory.
    """

    def __init__(self, start: int, size: int, user: int, offset: int, fd: int) -> None:
        self.start, self.size, self.user = start, size, user
        if not 0 < size <= MOST or max(start, user, offset) + size > LIMIT:
            raise Refusal("bad-memory")
        self._mapping = ffi.new("struct guard_mapping *")
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        try:
            # Of files alone, and of such that do not keep us waiting.
            refused = is_fuse(fd) or lib.guard_map(
                self._mapping, fd, offset, size, protection
            )
        except OSError:
            refused = True
        if refused:
            raise Refusal("bad-memory")
        self.host = self._mapping.data

    @property
    def hits(self) -> int:
        """How often a page was touched that the file no longer had."""
        return int(lib.guard_hits(self._mapping.start))

    def overlaps(self, other: "Region") -> bool:
        """Return whether two regions share an address, in the guest or in its owner."""
        return (
            self.start < other.start + other.size
            and other.start < self.start + self.size
        ) or (
            self.user < other.user + other.size and other.user < self.user + self.size
        )

    def close(self) -> None:
        """Unmap; nobody touches it any more."""
        lib.guard_unmap(self._mapping)


def is_fuse(fd: int) -> bool:
    """Return whether a file's pages come from a process, which may let us wait."""
    device = os.fstat(fd).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with MOUNTS.open(encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            if line.split()[2] == number:
                return line.partition(" - ")[2].startswith("fuse")
    return False


class Table:
    """All regions of a guest; immutable.

    Attributes:
        regions: by address in the guest.
        memory: `struct guest_memory *`.

    Raises:
        Refusal: regions overlap, or are too much.
    """

    def __init__(self, regions: Sequence[Region] = ()) -> None:
        self.regions = sorted(regions, key=lambda region: region.start)
        by_user = sorted(regions, key=lambda region: region.user)
        for order in (self.regions, by_user):
            for one, other in itertools.pairwise(order):
                if one.overlaps(other):
                    raise Refusal("bad-memory")
        if sum(region.size for region in regions) > MOST:
            raise Refusal("bad-memory")
        self._array = ffi.new(
            "struct guest_region[]",
            [{"start": r.start, "size": r.size, "host": r.host} for r in self.regions],
        )
        self.memory: Any = ffi.new(
            "struct guest_memory *",
            {"regions": self._array, "nregions": len(self.regions)},
        )

    def find(self, user: int, size: int) -> Any:
        """Return where a range is that the front end knows by its own address.

        Raises:
            Refusal: it does not lie wholly in one region.
        """
        for region in self.regions:
            offset = user - region.user
            if offset >= 0 and offset + size <= region.size:
                return region.host + offset
        raise Refusal("bad-ring-address")
