"""Capture files: packets read from them and written to them.

The formats are read in pcap.c, classic pcap (draft-ietf-opsawg-pcap; both byte orders,
micro- and nanoseconds) and pcapng (draft-ietf-opsawg-pcapng); both are written in
pcap_writer.c. Here files are opened, and what is wrong with one is put into words.

A file that is being written is a resource under its inode, and so is one that is being
read: a network cannot read what it writes, nor write a file twice.
"""

import contextlib
import os
import stat
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from snabb_py._native import ffi, lib
from snabb_py.engine.app import App, FiniteSource, Ports, Resources, check_range
from snabb_py.errors import READ_HINTS, WRITE_HINTS, ConfigError, DeviceError

#: LINKTYPE_ values (tcpdump.org/linktypes.html) that are met where Ethernet was meant.
LINK_TYPES = {
    0: "BSD loopback",
    101: "raw IP",
    105: "IEEE 802.11",
    113: "Linux cooked, from -i any",
    127: "IEEE 802.11 radiotap",
    228: "raw IPv4",
    229: "raw IPv6",
    276: "Linux cooked v2, from -i any",
}

#: What a file that is no capture may be instead, by its first bytes.
FOREIGN = {
    "1f8b": "gzip: unpack it first",
    "28b52ffd": "zstd: unpack it first",
    "fd377a58": "xz: unpack it first",
    "a1b2cd34": "a pcap variant: convert it with editcap",
    "34cdb2a1": "a pcap variant: convert it with editcap",
    "736e6f6f": "snoop: convert it with editcap",
}

MOST_FILES = 256

#: How long the end of a network waits for whoever reads our pipe.
FINISH_TIMEOUT_MS = 1000


def _explain_foreign(first: str) -> str:
    for magic, what in FOREIGN.items():
        if first.startswith(magic):
            return what
    return f"it starts with {first}"


def _explain(path: str, answer: int, detail: int) -> str:
    """Return what `pcap_reader_start` found wrong with a file."""
    version = f"{detail >> 16}.{detail & 0xFFFF}"
    link_type = LINK_TYPES.get(detail, "see tcpdump.org/linktypes.html")
    return f"{path}: " + {
        lib.PCAP_EMPTY: "the file is empty; is whoever writes it still running?",
        lib.PCAP_SHORT: "the file ends inside of its header; capture it again",
        lib.PCAP_FOREIGN: "neither a pcap nor a pcapng file ("
        + _explain_foreign(f"{detail:08x}")
        + ")",
        lib.PCAP_VERSION: f"version {version} of the format is unknown here; "
        "convert it with editcap",
        lib.PCAP_LINK_TYPE: f"link type {detail} ({link_type}), not Ethernet; "
        "capture on an Ethernet interface",
        lib.PCAP_CORRUPT: "the first block of the pcapng file contradicts itself; "
        "capture it again",
    }.get(answer, f"cannot be read (answer {answer})")


def _inode(fd: int) -> str:
    """Return the key of an open file: however it is called, its inode is one."""
    status = os.fstat(fd)
    return f"file {os.major(status.st_dev)}:{os.minor(status.st_dev)}:{status.st_ino}"


def _open(path: str, flags: int, hints: Mapping[int, str]) -> int:
    """Return a file descriptor.

    Raises:
        DeviceError: the system refuses.
    """
    try:
        return os.open(path, flags, 0o666)
    except OSError as error:
        number = error.errno or 0
        raise DeviceError(f"open {path}", number, hints.get(number, "")) from None


class Reading:
    """The note that a file is being read."""

    def close(self) -> None:
        """Nothing is open here: each reader has a descriptor of its own."""


class PcapReader(FiniteSource):
    """The packets of capture files, in order; as fast as they are taken.

        +------------+
        | PcapReader |---> tx
        +------------+

    Frames are sent as they were captured, without the FCS that some captures have.
    Files are read piece by piece, whatever their size; nothing is lost when packets or
    room run out. The rest of one that is damaged is not read; the next one is.

    Args:
        path: a regular file, pcap or pcapng; or several, one after the other.
        rounds: how often through all of them; 0: without end.
        timing: keep the distances between the timestamps instead; each file of each
            round counts anew, and what has no time or an earlier one than the first
            goes at once.

    Counters: `short-capture` (sent; there was more on the wire), `over-snaplen` (sent;
    longer than the file's own limit), `drop-empty` (no byte captured),
    `drop-too-long` (over 66 KiB), `drop-link-type` (pcapng: from an interface that is
    not Ethernet), `drop-no-interface` (pcapng: from an undescribed one, or the 257th
    and later), `drop-bad-record` (its lengths contradict each other),
    `drop-truncated-file` (the file ends inside of it), `drop-damaged-file` (its lengths
    do not say where the next one begins: the rest is not read, and how many packets
    that is nobody knows); `end-read-error` (of the system).
    """

    outputs = Ports("tx")
    counters = (
        "short-capture",
        "over-snaplen",
        "drop-empty",
        "drop-too-long",
        "drop-link-type",
        "drop-no-interface",
        "drop-bad-record",
        "drop-truncated-file",
        "drop-damaged-file",
        "end-read-error",
    )
    ops = ffi.addressof(lib.pcap_reader_ops)

    def __init__(
        self,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        rounds: int = 1,
        timing: bool = False,
    ) -> None:
        paths = [path] if isinstance(path, str | os.PathLike) else path
        check_range("number of files", len(paths), 1, MOST_FILES)
        check_range("rounds", rounds, 0, 2**32 - 1)
        self.paths = [os.fspath(path) for path in paths]
        self.config: Any = ffi.new(
            "struct pcap_reader_config *", {"rounds": rounds, "timing": timing}
        )
        self.buffer: Any = ffi.new(
            "uint8_t[]", lib.PCAP_BUFFER_SIZE + lib.PCAP_BUFFER_SLACK
        )
        self.fds: Any = ffi.new("int[]", [-1] * len(paths))
        self.state: Any = ffi.new(
            "struct pcap_reader_state *",
            {"fds": self.fds, "nfiles": len(paths), "buffer": self.buffer},
        )
        self._has_said = False

    @property
    def outside(self) -> str:
        """The file that is read; of several, the first one."""
        more = len(self.paths) - 1
        return f"pcap:{self.paths[0]}" + (f" and {more} more" if more else "")

    def open(self, resources: Resources) -> None:
        """Open the files and read on to the first packet of each.

        Raises:
            DeviceError: one cannot be opened or read.
            ConfigError: one is no capture of Ethernet frames, not a regular file, or
                this network writes it.
        """
        # Not blocking: a pipe would wait for its writer before we can refuse it.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            for i, path in enumerate(self.paths):
                self.fds[i] = _open(path, flags, READ_HINTS)
                self._check_kind(path, self.fds[i], resources)
            # The last one that is looked at is the first that is read.
            for i in reversed(range(len(self.paths))):
                self._examine(i)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _check_kind(path: str, fd: int, resources: Resources) -> None:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ConfigError(
                f"{path}: not a regular file; save the capture to one first"
            )
        note: object = resources.borrow(_inode(fd), Reading, shared=True)
        if not isinstance(note, Reading):
            raise ConfigError(
                f"{path}: is being written by this network; read another file"
            )

    def _examine(self, file: int) -> None:
        path = self.paths[file]
        answer = lib.pcap_reader_start(self.state, file)
        if answer < 0:
            raise DeviceError(f"read {path}", -answer)
        if answer:
            raise ConfigError(_explain(path, answer, self.state.detail))

    def close(self) -> None:
        """Close the files."""
        for i, fd in enumerate(self.fds):
            if fd >= 0:
                os.close(fd)
                self.fds[i] = -1

    def supervise(self) -> str | None:
        """Say once that a file could not be read to its end."""
        ending, at = self.state.ending, self.state.ended_at
        if self._has_said or ending <= lib.PCAP_ENDED:
            return None
        self._has_said = True
        path = self.paths[self.state.ended_file]
        if ending == lib.PCAP_UNREADABLE:
            return str(DeviceError(f"read {path} at byte {at}", self.state.error))
        if ending == lib.PCAP_CUT_OFF:
            return f"{path}: cut off inside of the record at byte {at}"
        return f"{path}: no record at byte {at}; the rest is not read"

    @property
    def is_done(self) -> bool:
        """Whether all packets have been sent; never of rounds without end."""
        return bool(self.state.done)


class Output:
    """A capture file that is being written, and what still waits to be.

    Args:
        path: for the user.
        fd: open for writing; ours from now on.
        settings: what cannot change from one writer of the file to its successor.
    """

    def __init__(self, path: str, fd: int, settings: tuple[object, ...]) -> None:
        self.path = path
        self.settings = settings
        mode = os.fstat(fd).st_mode
        # Only a pipe can make a writer wait, and no app may.
        if stat.S_ISFIFO(mode):
            os.set_blocking(fd, False)
        self.buffer: Any = ffi.new("uint8_t[]", lib.PCAP_OUTPUT_SIZE)
        self.output: Any = ffi.new(
            "struct pcap_output *",
            {"fd": fd, "is_regular": stat.S_ISREG(mode), "buffer": self.buffer},
        )

    @property
    def failure(self) -> str:
        """Why the file cannot be written; "": it can."""
        error = self.output.error
        return str(DeviceError(f"write {self.path}", error)) if error else ""

    def close(self) -> None:
        """Write the rest and close the file; say it if not all could be written."""
        lost = lib.pcap_output_finish(self.output, FINISH_TIMEOUT_MS)
        line = self.failure
        if lost:
            error = self.output.error
            why = os.strerror(error) if error else "its reader is too slow"
            line = f"{self.path}: {lost} packets are missing at the end: {why}"
        if line:
            with contextlib.suppress(OSError, ValueError):
                print(f"snabb-py: {line}", file=sys.stderr)
        with contextlib.suppress(OSError):
            os.close(self.output.fd)


class PcapWriter(App):
    """Packets written to a capture file, in the format that every tool reads.

               +------------+
        rx --->| PcapWriter |
               +------------+

    Classic pcap in the machine's byte order, complete after each millisecond: what was
    there before is cut off when the first packet or the first millisecond has come. A
    timestamp is the begin of the breath (CLOCK_REALTIME) in which the packet was
    written. Super-frames are written as their segments, unfinished checksums
    finished.

    Args:
        path: a file, a pipe or /dev/stdout, if that is no terminal. A pipe whose
            reader is slow holds the input up.
        nanosecond: timestamps in nanoseconds; else in microseconds.
        snaplen: bytes of a frame that are kept, 1 to 262144.

    Counters: `truncated` (to snaplen), `drop-write-error` (of the system; written on
    as soon as it can be), `drop-output-full` (a pipe whose reader is too slow for the
    segments of a super-frame),
    `drop-bad-offload` (a super-frame or checksum that cannot be finished),
    `drop-no-packet` (nothing free to cut a super-frame into).
    """

    inputs = Ports("rx")
    counters = (
        "truncated",
        "drop-write-error",
        "drop-output-full",
        "drop-no-packet",
        "drop-bad-offload",
    )
    ops = ffi.addressof(lib.pcap_writer_ops)

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        nanosecond: bool = True,
        snaplen: int = lib.PCAP_MAX_SNAPLEN,
    ) -> None:
        check_range("snaplen", snaplen, 1, lib.PCAP_MAX_SNAPLEN)
        self.path = os.fspath(path)
        self.settings: tuple[object, ...] = (nanosecond, snaplen)
        self.config: Any = ffi.new(
            "struct pcap_writer_config *",
            {"nanosecond": nanosecond, "snaplen": snaplen},
        )
        self.output: Output | None = None
        self._error = 0

    @property
    def outside(self) -> str:
        """The file that is written."""
        return f"pcap:,{self.path}"

    def open(self, resources: Resources) -> None:
        """Open the file, or go on with it as the app did that this one replaces.

        Raises:
            DeviceError: it cannot be opened.
            ConfigError: it is nothing to write a capture to, this network reads it or
                writes it already, or its settings would change on the way.
        """
        # Not blocking: a pipe that nobody reads is an error, not a reason to wait.
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        fd = _open(self.path, flags, WRITE_HINTS)
        made: list[Output] = []

        def make() -> Output:
            made.append(Output(self.path, fd, self.settings))
            return made[0]

        try:
            self._check_kind(fd)
            output = self._borrow(resources, fd, make)
        finally:
            if not made:
                os.close(fd)
        self.output = output
        self.state = output.output

    @property
    def unfinished(self) -> int:
        """Packets that wait because the file cannot be written."""
        if self.output is None or not self.output.output.error:
            return 0
        return int(lib.pcap_output_waiting(self.output.output))

    @property
    def failure(self) -> str:
        """Why the file cannot be written; "": it can."""
        return self.output.failure if self.output else ""

    def _check_kind(self, fd: int) -> None:
        mode = os.fstat(fd).st_mode
        if os.isatty(fd):
            raise ConfigError(f"{self.path}: is a terminal; redirect it to a file")
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
            raise ConfigError(f"{self.path}: neither a file nor a pipe")

    def _borrow(
        self, resources: Resources, fd: int, make: Callable[[], Output]
    ) -> Output:
        try:
            output: object = resources.borrow(_inode(fd), make)
        except ConfigError:
            output = resources.borrow(_inode(fd), make, shared=True)
            if isinstance(output, Output):
                name = "" if output.path == self.path else f", as {output.path}"
                raise ConfigError(
                    f"{self.path}: is being written by this network already{name}; "
                    "write to another file"
                ) from None
        if not isinstance(output, Output):
            raise ConfigError(
                f"{self.path}: is being read by this network; write to another file"
            )
        if output.settings != self.settings:
            raise ConfigError(
                f"{self.path}: nanosecond and snaplen cannot change while it is "
                "being written"
            )
        return output

    def supervise(self) -> str | None:
        """Say it once when the file cannot be written, and once when it can again."""
        before, self._error = self._error, self.state.error
        if self._error == before:
            return None
        if self._error:
            hint = "packets are dropped meanwhile"
            return str(DeviceError(f"write {self.path}", self._error, hint))
        return f"{self.path}: can be written again"


def _option(code: int, value: bytes) -> bytes:
    padded = value.ljust(-(-len(value) // 4) * 4, b"\0")
    return struct.pack("=HH", code, len(value)) + padded


def _block(kind: int, body: bytes) -> bytes:
    size = struct.pack("=I", len(body) + 12)
    return struct.pack("=I", kind) + size + body + size


def pcapng_blocks(name: str, snaplen: int) -> bytes:
    """Return what a pcapng file begins with: its section, its one interface."""
    # Byte order, version 1.0, a section of unknown length (4.1).
    section = struct.pack("=IHHq", 0x1A2B3C4D, 1, 0, -1)
    # if_name, if_tsresol: 10^-9 s, end of options (4.2).
    options = _option(2, name.encode()) + _option(9, b"\x09") + _option(0, b"")
    interface = struct.pack("=HHI", lib.PCAP_LINKTYPE_ETHERNET, 0, snaplen) + options
    return _block(0x0A0D0D0A, section) + _block(1, interface)


class PcapngWriter(PcapWriter):
    """Packets written to a pcapng file, with the direction that they went in.

                 +--------------+
        to ----->|              |
                 | PcapngWriter |
        from --->|              |
                 +--------------+

    As `PcapWriter`, and each packet says whether it went to whom the file is about
    ("inbound") or came from there; either input may be left out. Time is in ns.

    Args:
        path, snaplen: see `PcapWriter`.
        name: of the interface in the file, up to 64 bytes.
    """

    inputs = Ports("to", "from", optional=True)

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        name: str = "",
        snaplen: int = lib.PCAP_MAX_SNAPLEN,
    ) -> None:
        super().__init__(path, snaplen=snaplen)
        check_range("bytes of name", len(name.encode()), 0, 64)
        self.settings = (*self.settings, "pcapng", name)
        blocks = pcapng_blocks(name, snaplen)
        self.blocks: Any = ffi.new("uint8_t[]", blocks)
        self.config.blocks = self.blocks
        self.config.blocks_size = len(blocks)
