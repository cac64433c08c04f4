"""The process that puts a card to rest when ours is killed; files stand for it."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from snabb_py.engine.pci_watchdog import Watchdog
from tests.hosts import until

COMMAND = 4
CONFIG = bytes.fromhex("8680fb10 0704 1000") + bytes(56)  # bus master, memory, I/O

#: Starts a watchdog, says its pid and does what it is told.
PROGRAM = """
import os, sys
from snabb_py.engine.pci_watchdog import Watchdog
from pathlib import Path
directory = Path(sys.argv[1])
config = os.open(directory / "config", os.O_RDWR | os.O_CLOEXEC)
lock = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
import fcntl
fcntl.flock(lock, fcntl.LOCK_EX)
writes = [(directory / "none" / "such", "x"), (directory / "probe", "0000:01:00.0")]
watchdog = Watchdog(config, lock, writes)
print(watchdog.pid, flush=True)
exec(sys.argv[2])
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "config").write_bytes(CONFIG)
    (tmp_path / "lock").touch()
    (tmp_path / "probe").touch()
    return tmp_path


def start(files: Path, then: str) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(files), then],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    return process, int(process.stdout.readline())


def command(files: Path) -> int:
    return int.from_bytes((files / "config").read_bytes()[COMMAND:6], "little")


def is_there(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in ("Z", "X")


def check_at_rest(files: Path) -> None:
    until(lambda: (files / "probe").read_text() == "0000:01:00.0", "given back")
    data = bytearray(CONFIG)
    data[COMMAND] &= ~4
    assert (files / "config").read_bytes() == data  # all else as it was


@pytest.mark.parametrize(
    "end", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM], ids=lambda s: s.name
)
def test_a_killed_process_leaves_a_card_at_rest(files: Path, end: int) -> None:
    process, pid = start(files, "sys.stdin.read()")
    with process:
        assert command(files) == 0x0407
        assert is_there(pid)
        process.send_signal(end)
        process.wait()
    check_at_rest(files)
    until(lambda: not is_there(pid), "end of the watchdog")


@pytest.mark.parametrize("how", ["sys.exit()", "os._exit(3)", "os.execlp('true', '')"])
def test_an_end_without_a_word_counts_as_one(files: Path, how: str) -> None:
    process, _pid = start(files, how)
    with process:
        process.wait()
    check_at_rest(files)


def test_a_child_that_lives_on_does_not_hide_the_end(files: Path) -> None:
    fork = "child = os.fork()\nif not child: os.close(1)\nsys.stdin.read()"
    process, _pid = start(files, fork)
    with process:
        process.kill()
        process.wait()
        check_at_rest(files)


def test_a_process_that_ends_well_leaves_the_card_alone(files: Path) -> None:
    process, pid = start(files, "watchdog.stop(); watchdog.stop()")
    with process:
        assert process.wait() == 0
    assert not is_there(pid)
    assert (files / "config").read_bytes() == CONFIG
    assert (files / "probe").read_text() == ""


def test_signals_to_the_group_do_not_reach_it(files: Path) -> None:
    process, pid = start(files, "sys.stdin.read()")
    with process:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
        until(lambda: os.getsid(pid) == pid, "a session of its own")
        comm = Path(f"/proc/{pid}/comm")
        until(lambda: comm.read_text() == "snabb-watchdog\n", "its name")
        # Files of its own alone, not the terminal nor whoever reads what we say.
        fds = Path(f"/proc/{pid}/fd")
        until(lambda: len(list(fds.iterdir())) == 4, "closed files")
        process.kill()
    check_at_rest(files)


def test_the_lock_is_held_until_it_is_done(files: Path, tmp_path: Path) -> None:
    (files / "probe").unlink()
    os.mkfifo(files / "probe")  # it waits there until somebody reads
    process, _pid = start(files, "sys.stdin.read()")
    with process:
        process.kill()
    with (tmp_path / "lock").open() as lock:
        until(lambda: command(files) == 0x0403, "at rest")
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert (files / "probe").read_text() == "0000:01:00.0"
        fcntl.flock(lock, fcntl.LOCK_EX)


@pytest.fixture
def watchdog(files: Path) -> Iterator[Watchdog]:
    with (files / "config").open("r+b") as config:
        watchdog = Watchdog(config.fileno(), None, [])
        yield watchdog
        watchdog.stop()


def test_stopping_leaves_no_zombie(watchdog: Watchdog) -> None:
    watchdog.stop()
    with pytest.raises(ChildProcessError):
        os.waitpid(watchdog.pid, 0)


def test_stopping_one_that_was_killed_is_no_error(watchdog: Watchdog) -> None:
    os.kill(watchdog.pid, signal.SIGKILL)
    until(lambda: not is_there(watchdog.pid), "its end")
    watchdog.stop()


def test_only_its_parent_stops_it(watchdog: Watchdog) -> None:
    if (child := os.fork()) == 0:
        watchdog.stop()
        os._exit(0)
    os.waitpid(child, 0)
    time.sleep(0.1)
    assert is_there(watchdog.pid)
