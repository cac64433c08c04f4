"""Captures: copies of what passes a link, for another process; capture.c makes them.

The memory between both is a memfd that neither can cut off. Imports bpf and errors.
"""

import fcntl
import mmap
import os
from collections.abc import Iterator

from snabb_py._native import ffi, lib
from snabb_py.engine.bpf import Program
from snabb_py.errors import ConfigError, DeviceError

SIZE = ffi.sizeof("struct capture_ring")
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
UNLIMITED = 2**64 - 1


class Capture:
    """A capture, not on any link yet.

    Args:
        program: what is copied; None: everything.
        packets: at most; bytes: of all blocks, at most.

    Raises:
        DeviceError: there is no memory.

    Attributes:
        fd: of the memory that a `CaptureReader` reads; ours.
        app: `struct app *`, for a worker's plan.
    """

    def __init__(
        self,
        program: Program | None = None,
        *,
        packets: int = UNLIMITED,
        nbytes: int = UNLIMITED,
    ) -> None:
        self.fd = os.memfd_create("capture", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            # Now: a page that cannot be had later would be a SIGBUS.
            os.posix_fallocate(self.fd, 0, SIZE)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
            self._map = mmap.mmap(self.fd, SIZE)
        except OSError as error:
            os.close(self.fd)
            raise DeviceError("get memory for a capture", error.errno or 0) from None
        self._view = ffi.from_buffer("uint8_t[]", self._map)
        self._ring = ffi.cast("struct capture_ring *", self._view)
        self._program = program
        self.state = ffi.new(
            "struct capture *",
            {
                "ring": self._ring,
                "filter": program.instructions if program else ffi.NULL,
                "code": program.code if program else ffi.NULL,
                "packets_left": packets,
                "bytes_left": nbytes,
            },
        )
        self.app = ffi.new("struct app *")

    def lose_link(self) -> None:
        """Say that nothing will come any more; no worker has it."""
        self._ring.ended = lib.CAPTURE_GONE

    def close(self) -> None:
        """Close our file descriptor; the memory goes with the last plan and reader."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class CaptureReader:
    """The other side of a capture, in any process.

    Args:
        fd: of the memory; the caller's.

    Raises:
        ConfigError: it is no capture's.
    """

    def __init__(self, fd: int) -> None:
        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError:  # no memfd
            seals = 0
        if seals & _SEALS != _SEALS:
            # Whoever cut it off while we read would kill us: SIGBUS.
            raise ConfigError("capture: the instance could take its memory away")
        if os.fstat(fd).st_size != SIZE:
            raise ConfigError("capture: the instance is of another version")
        self._map = mmap.mmap(fd, SIZE)
        self._view = ffi.from_buffer("uint8_t[]", self._map)
        self._ring = ffi.cast("struct capture_ring *", self._view)
        self._read = self._yielded = 0
        begin = ffi.offsetof("struct capture_ring", "blocks")
        self._blocks = memoryview(self._map)[begin:]

    @property
    def packets(self) -> int:
        """Packets that were copied."""
        return int(self._ring.packets)

    @property
    def lost(self) -> int:
        """Packets that were not, because we were too slow."""
        return int(self._ring.lost)

    @property
    def ended(self) -> int:
        """Why no more will come, CAPTURE_COUNT and so on; CAPTURE_RUNS: they may."""
        return int(self._ring.ended)

    def pieces(self) -> Iterator[memoryview]:
        """Yield what has come: whole blocks, in at most two pieces; then `release`."""
        n = lib.capture_ring_written(self._ring) - self._read
        start = self._read % lib.CAPTURE_RING_SIZE
        first = min(n, lib.CAPTURE_RING_SIZE - start)
        self._yielded = n
        if first:
            yield self._blocks[start : start + first]
        if n > first:
            yield self._blocks[: n - first]

    def whole(self, nbytes: int) -> tuple[int, int]:
        """Return how much the first so many bytes of all that `pieces` yielded are.

        Returns:
            packets, and bytes of their blocks: those that are whole.
        """
        packets = ffi.new("uint64_t *")
        end = lib.capture_ring_whole(
            self._ring, self._read, self._read + nbytes, packets
        )
        return packets[0], end - self._read

    def release(self) -> None:
        """Give back what `pieces` yielded."""
        self._read += self._yielded
        self._yielded = 0
        lib.capture_ring_release(self._ring, self._read)
