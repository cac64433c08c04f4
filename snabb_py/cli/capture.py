"""`snabb-py capture`: what passes a link of an instance that runs, in a file.

The instance copies packets to memory that both share (engine/capture.c); here they are
taken from there and written. So the file is opened with the caller's rights, and what
is wrong with it is our trouble alone.
"""

import contextlib
import errno
import math
import os
import re
import select
import socket
import stat
import time
from typing import Any

import click

from snabb_py._native import lib
from snabb_py.apps.pcap import pcapng_blocks
from snabb_py.cli.stop import Stop
from snabb_py.cli.terminal import complain, shown
from snabb_py.cli.usage import Number, Whole
from snabb_py.engine.bpf import compile_expression
from snabb_py.engine.capture import CaptureReader
from snabb_py.engine.control import CHUNK, AnswerError, Client
from snabb_py.engine.instances import PATIENCE, Instance, find_one
from snabb_py.errors import WRITE_HINTS, ConfigError, DeviceError

#: Seconds between two looks while packets come, and the longest.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.001, 0.02
#: A pipe that takes anything takes so many bytes at once (pipe(7)).
PIPE_BUF = select.PIPE_BUF
#: Seconds that who reads our pipe has at the end.
FINISH_TIMEOUT = 1.0
LONGEST_NAME = 64  #: bytes of a link's name in the file

_UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}


class Size(click.ParamType[int]):
    """A number of bytes, "100M"."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the number."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,12})([kKMG]?)", str(value), re.ASCII)
        if not match:
            self.fail(
                f'"{value}" is no size such as 1000000, 100k, 10M or 1G', param, ctx
            )
        return int(match[1]) * _UNITS[match[2]]


class Connection:
    """A capture on an instance; it lasts as long as this is open.

    Raises:
        DeviceError: the instance does not answer.
        ConfigError: it refused.
    """

    def __init__(self, instance: Instance, **request: Any) -> None:
        self._client = Client(instance.control, PATIENCE)
        self._socket = self._client.socket
        try:
            answer = self._client.ask("capture", **request)
            try:
                self.link = shown(answer["link"])
                (fd,) = self._client.fds
                self.reader = CaptureReader(fd)
            except (LookupError, TypeError, ValueError, OSError):
                raise AnswerError(instance.control, "no capture") from None
        except BaseException:
            self._client.close()
            raise
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor that is readable when the instance has ended."""
        return self._socket.fileno()

    @property
    def is_lost(self) -> bool:
        """Whether the instance has ended."""
        with contextlib.suppress(BlockingIOError):
            return not self._socket.recv(CHUNK)
        return False

    def end(self) -> None:
        """End the capture and wait for it: all that was copied is there now."""
        with contextlib.suppress(OSError):
            self._socket.settimeout(PATIENCE)
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.recv(1)

    def close(self) -> None:
        """Close it; the capture ends, if it has not."""
        self._client.close()


class File:
    """The file that is written.

    Args:
        path: "-" is stdout.

    Raises:
        DeviceError: it cannot be opened.
        ConfigError: it is a terminal.

    Attributes:
        size: bytes that were written.
        packets: that are in it, whole.
    """

    def __init__(self, path: str) -> None:
        self.size = self.packets = 0
        self.path = "stdout" if path == "-" else path
        # Not blocking: a pipe that nobody reads is an error, not a reason to wait.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            self.fd = os.dup(1) if path == "-" else os.open(path, flags, 0o666)
        except OSError as error:
            number = error.errno or 0
            hint = WRITE_HINTS.get(number, "")
            raise DeviceError(f"open {self.path}", number, hint) from None
        if os.isatty(self.fd):
            os.close(self.fd)
            raise ConfigError(
                f"{self.path}: is a terminal; redirect it, or say `| tcpdump -r -`"
            )
        self._is_regular = stat.S_ISREG(os.fstat(self.fd).st_mode)

    def begin(self, link: str, stop: Stop) -> None:
        """Write the header, or nothing of it.

        Raises:
            BrokenPipeError, DeviceError: as `write`.
        """
        try:
            self.write(memoryview(header(link)), stop)
        except BaseException:
            self.cut_off(self.size)
            raise

    def write(self, piece: memoryview, stop: Stop) -> None:
        """Write bytes.

        Raises:
            BrokenPipeError: nobody reads the pipe any more.
            DeviceError: not all could be written; `size` says how many.
        """
        end, most = self.size + len(piece), len(piece) if self._is_regular else PIPE_BUF
        try:
            while left := end - self.size:
                self._wait_for_room(stop)
                self.size += os.write(self.fd, piece[-left:][:most])
        except BrokenPipeError:
            raise
        except OSError as error:
            raise DeviceError(f"write {self.path}", error.errno or 0) from None

    def _wait_for_room(self, stop: Stop) -> None:
        """Wait until a pipe takes something; after Ctrl-C not for long."""
        if self._is_regular:
            return
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        deadline = math.inf
        while not poll.poll(100):
            if stop.is_requested:
                deadline = min(deadline, time.monotonic() + FINISH_TIMEOUT)
            if time.monotonic() > deadline:
                hint = "its reader is too slow"
                raise DeviceError(f"write {self.path}", errno.ETIMEDOUT, hint)

    def cut_off(self, nbytes: int) -> None:
        """Take the last bytes away again, where that can be."""
        if nbytes and self._is_regular:
            with contextlib.suppress(OSError):
                os.ftruncate(self.fd, os.lseek(self.fd, 0, os.SEEK_CUR) - nbytes)

    def close(self) -> None:
        """Close it."""
        os.close(self.fd)


def header(link: str) -> bytes:
    """Return what the file begins with; the link's name is cut off where it is long."""
    return pcapng_blocks(link[:LONGEST_NAME], lib.PCAP_MAX_SNAPLEN)


def copy(reader: CaptureReader, file: File, stop: Stop) -> bool:
    """Write what has come; return whether anything has.

    Raises:
        BrokenPipeError, DeviceError: as `File.write`; the file ends with a packet.
    """
    begin = file.size
    try:
        for piece in reader.pieces():
            file.write(piece, stop)
    finally:
        written = file.size - begin
        packets, nbytes = reader.whole(written)
        file.packets += packets
        file.cut_off(written - nbytes)
    reader.release()
    return written > 0


def run(connection: Connection, file: File, stop: Stop, duration: float) -> str:
    """Write what comes until the end; return why it ended, "": as was asked for.

    Raises:
        DeviceError: the file cannot be written.
    """
    reader, deadline = connection.reader, time.monotonic() + duration
    pause, why = SHORTEST_PAUSE, ""
    while True:
        left = deadline - time.monotonic()
        is_over = not stop.wait(min(pause, left), connection.fileno()) or left <= 0
        is_lost = connection.is_lost
        ended = reader.ended
        if is_over:
            connection.end()
        has_come = copy(reader, file, stop)
        if ended == lib.CAPTURE_GONE:
            why = f'link "{connection.link}" is gone'
        elif is_lost:
            why = "the instance has ended"
        if is_over or is_lost or ended != lib.CAPTURE_RUNS:
            return why
        pause = SHORTEST_PAUSE if has_come else min(2 * pause, LONGEST_PAUSE)


@click.command(
    "capture", epilog="Ctrl-C ends it with exit status 0; the file is whole."
)
@click.argument("pid", type=Whole(1))
@click.argument("link")
@click.argument("path", metavar="FILE")
@click.argument("expression", nargs=-1, metavar="[FILTER]...")
@click.option("--count", type=Whole(1), metavar="N", help="So many packets.")
@click.option(
    "--duration", type=Number(0, 1e9), default=1e9, metavar="S", help="So many seconds."
)
@click.option(
    "--max-size", type=Size(), metavar="SIZE", help="So large a file at most: 100M."
)
def program(  # noqa: PLR0913 - the options of a program
    *,
    pid: int,
    link: str,
    path: str,
    expression: tuple[str, ...],
    count: int | None,
    duration: float,
    max_size: int | None,
) -> None:
    """Copy what passes LINK of the instance of process PID to FILE.

    LINK is a link's name as `snabb-py top` shows it, or a part of it that no other has.
    FILE is pcapng, with times in nanoseconds; "-" is stdout. FILTER is an expression as
    tcpdump has it; without one, everything is copied.

    The instance waits for nothing: what comes faster than it can be written is not in
    the file; at the end it is said how many packets are, and how many are not. Its
    network stays as it is. Packets are as they are on the link: unfinished checksums
    are unfinished, and super-frames whole.

    \b
    Examples:
      snabb-py capture 1234 'a.tx -> ab-hop1.rx' a.pcapng
      snabb-py capture 1234 a.tx a.pcapng --count 1000 icmp or arp
      snabb-py capture 1234 a.tx - udp port 53 | tcpdump -nr -
    """
    text = " ".join(expression)
    request: dict[str, Any] = {"link": link}
    if text:
        request["filter"] = compile_expression(text).pack().hex()
    if count:
        request["packets"] = count
    if max_size is not None:
        most = len(header("x" * LONGEST_NAME))
        if max_size <= most:
            raise ConfigError(
                f'--max-size: "{max_size}" is too small: the header takes {most} bytes'
            )
        request["bytes"] = max_size - most
    instance = find_one(pid)
    with contextlib.closing(instance.open_counters()) as counters:
        name = counters.program
    with (
        Stop() as stop,
        contextlib.closing(Connection(instance, **request)) as connection,
        contextlib.closing(File(path)) as file,
    ):
        reader = connection.reader
        file.begin(connection.link, stop)
        complain(f"capturing on {connection.link} of {pid} ({name}), to {file.path}")
        try:
            why = run(connection, file, stop, duration)
        finally:
            lost = f", {reader.lost} lost: too slow" if reader.lost else ""
            complain(f"{connection.link}: {file.packets} packets{lost}")
    if why:
        complain(why)
