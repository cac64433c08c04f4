"""Work that nobody can vouch for, in a process of its own that has limits.

What it does with its memory, its time and its stack ends with it: the caller gets bytes
or an error. No thread may run when it is called: the process is a copy of this one.
"""

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from snabb_py.apps.netdev import step
from snabb_py.errors import ConfigError

#: Seconds of CPU time that work may take, and seconds until it must have ended.
MOST_SECONDS, MOST_WAIT = 10, 60
MOST_MIB = 512
MOST_CHARACTERS = 160
#: What a reply begins with; no reply at all stands for memory.
DONE, REFUSED = b"+", b"-"
TIMERS = (signal.SIGPROF, signal.SIGALRM)


def confined(work: Callable[[], bytes], name: str, most: int) -> bytes:
    """Return what a function returns, and nothing else that it does.

    Args:
        work: the function; its ConfigErrors are passed on.
        name: what errors begin with.
        most: bytes that it may return.

    Raises:
        ConfigError: it raised one, or something else; it took more than it may.
        DeviceError: there can be no process.
    """
    child = 0
    reply = bytearray()
    try:
        with step("start a process"), _uninterrupted():
            reader, writer = os.pipe()
            child = os.fork()
            if not child:
                os.close(reader)
                _work(work, name, writer)
        os.close(writer)
        with os.fdopen(reader, "rb", buffering=0) as file:
            while len(reply) <= most + 1 and (more := file.read(1 << 20)):
                reply += more
    finally:
        # It is of no use any more, whatever ended this.
        if child:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
    if reply[:1] == DONE and len(reply) <= most + 1:
        return bytes(reply[1:])
    if reply[:1] == REFUSED:
        raise ConfigError(reply[1:].decode())
    if reply:
        raise ConfigError(f"{name}: more than {most >> 20} MiB come of it")
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number in TIMERS:
        raise ConfigError(f"{name}: building it takes more than {MOST_SECONDS} s")
    if number not in {0, signal.SIGKILL}:
        raise ConfigError(f"{name}: building it fails: {signal.strsignal(number)}")
    raise ConfigError(f"{name}: building it takes more than {MOST_MIB} MiB")


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Keep Ctrl-C until later: what is called at a fork would swallow its exception."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(work: Callable[[], bytes], name: str, writer: int) -> NoReturn:
    """Do the work as the child, and end; what a child prints nobody has asked for."""
    try:
        for number in (signal.SIGINT, *TIMERS):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, *TIMERS))
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        _limit()
        try:
            reply = DONE + work()
        except ConfigError as error:
            reply = REFUSED + str(error).encode(errors="backslashreplace")
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever becomes of odd values
            text = f"{name}: {reason(error)}"
            reply = REFUSED + text.encode(errors="backslashreplace")
        with os.fdopen(writer, "wb", buffering=0) as file:
            view = memoryview(reply)
            while view:
                view = view[file.write(view) :]
    finally:
        os._exit(1)


def _limit() -> None:
    """Limit this process from now on."""
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, MOST_WAIT)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + (MOST_MIB << 20)
    with contextlib.suppress(ValueError):  # the user's own limit is less
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (size, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def reason(error: Exception) -> str:
    """Return the first line of what an exception says, of a sane length."""
    line = str(error).partition("\n")[0].rstrip(":") or type(error).__name__
    if len(line) > MOST_CHARACTERS:
        line = line[: MOST_CHARACTERS - 3] + "..."
    return line
