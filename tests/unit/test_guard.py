"""Memory that another process takes away while we use it."""

import errno
import mmap
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from snabb_py._native import ffi, lib
from snabb_py.engine.engine import Engine

PAGE = mmap.PAGESIZE
HUGE = 2 << 20


class File:
    """A file in memory, mapped and guarded; `at` reaches it as C does."""

    def __init__(self, npages: int, *, page: int = PAGE, flags: int = 0) -> None:
        self.page = page
        self.fd = os.memfd_create("guest", flags)
        self.resize(npages)
        self.map = mmap.mmap(self.fd, npages * page)
        self.at = ffi.from_buffer("uint8_t[]", self.map)
        assert lib.guard_add(self.at, len(self.map), page) == 0

    def resize(self, npages: int) -> None:
        os.ftruncate(self.fd, npages * self.page)

    @property
    def hits(self) -> int:
        return int(lib.guard_hits(self.at))

    def close(self) -> None:
        lib.guard_remove(self.at)
        ffi.release(self.at)
        self.map.close()
        os.close(self.fd)


@contextmanager
def file(npages: int, **how: int) -> Iterator[File]:
    result = File(npages, **how)
    try:
        yield result
    finally:
        result.close()


def test_pages_that_are_gone_read_as_zeros() -> None:
    with file(4) as guest:
        for i in range(4):
            guest.at[i * PAGE] = 7
        guest.resize(2)
        assert [guest.at[i * PAGE] for i in range(4)] == [7, 7, 0, 0]
        assert guest.hits == 2
        guest.at[3 * PAGE + 5] = 9  # no fault any more: a page of our own
        assert guest.at[3 * PAGE + 5] == 9
        assert guest.hits == 2


def test_a_write_to_a_page_that_is_gone_is_lost() -> None:
    with file(2) as guest:
        guest.resize(0)
        guest.at[PAGE] = 1
        assert guest.hits == 1
        guest.resize(2)
        assert os.pread(guest.fd, 1, PAGE) == b"\0"


def test_only_pages_that_are_gone_are_replaced() -> None:
    with file(3) as guest:
        guest.resize(1)
        assert guest.at[2 * PAGE] == 0
        guest.at[0] = 5
        assert os.pread(guest.fd, 1, 0) == b"\5"


def test_a_large_range_costs_few_mappings() -> None:
    with file(1000) as guest:
        guest.resize(0)
        before = nmappings()
        for i in range(0, 1000, 2):  # not adjacent: the kernel cannot join them
            assert guest.at[i * PAGE] == 0
        assert 64 < guest.hits < 100
        assert nmappings() - before < 200


def nmappings() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


def test_hits_are_those_of_the_range() -> None:
    before = lib.guard_total()
    with file(1) as a, file(1) as b:
        a.resize(0)
        b.resize(0)
        assert b.at[0] == 0
        assert (a.hits, b.hits) == (0, 1)
    assert lib.guard_hits(ffi.cast("void *", PAGE)) == 0
    assert lib.guard_total() - before == 1


@pytest.mark.parametrize(
    ("address", "size", "page"),
    [
        (0, PAGE, PAGE),
        (PAGE + 1, PAGE, PAGE),
        (PAGE, 0, PAGE),
        (PAGE, PAGE, 0),
        (PAGE, PAGE, 3000),
        (PAGE, HUGE, HUGE),
        (2**64 - PAGE, PAGE, PAGE),
        (PAGE, 2**64 - 1, PAGE),
    ],
)
def test_what_is_no_mapping_is_refused(address: int, size: int, page: int) -> None:
    assert lib.guard_add(ffi.cast("void *", address), size, page) == -errno.EINVAL


def test_a_range_is_guarded_once() -> None:
    with file(1) as guest:
        assert lib.guard_add(guest.at, PAGE, PAGE) == -errno.EEXIST
    lib.guard_remove(ffi.cast("void *", PAGE))  # unknown: ignored


def test_the_table_fills_and_empties() -> None:
    def at(i: int) -> Any:
        return ffi.cast("void *", 0x7000_0000_0000 + i * PAGE)

    with file(2) as first:
        n = lib.GUARD_RANGES_MAX
        added = [lib.guard_add(at(i), PAGE, PAGE) for i in range(n)]
        assert added[: n - 1] == [0] * (n - 1)
        assert added[n - 1] == -errno.ENOSPC
        first.resize(1)
        assert first.at[PAGE] == 0
        for i in range(0, n, 2):
            lib.guard_remove(at(i))
        with file(2) as last:  # takes a place that was free again
            last.resize(1)
            assert last.at[PAGE] == 0
            assert last.hits == 1
        for i in range(1, n, 2):
            lib.guard_remove(at(i))
        assert first.hits == 1


def test_threads_fault_while_ranges_come_and_go() -> None:
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            with file(2):
                pass

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(300):
            with file(2) as guest:
                guest.resize(1)
                assert guest.at[PAGE] == 0
                assert guest.hits == 1
    finally:
        stop.set()
        thread.join()


def test_workers_of_an_engine_do_not_block_the_signal() -> None:
    with Engine(huge=False, packets=1024, large_packets=0):
        tasks = Path("/proc/self/task").iterdir()
        states = [(task / "status").read_text() for task in tasks]
        (blocked,) = [
            int(re.search(r"SigBlk:\s*(\w+)", state)[1], 16)  # type: ignore[index]
            for state in states
            if state.startswith("Name:\tworker-0\n")
        ]
    assert not blocked >> (signal.SIGBUS - 1) & 1
    assert blocked >> (signal.SIGINT - 1) & 1


@pytest.mark.need("hugepages")
def test_huge_pages_are_replaced_whole() -> None:
    with file(2, page=HUGE, flags=os.MFD_HUGETLB) as guest:
        assert lib.guard_page_size(guest.fd) == HUGE
        guest.at[0] = 1
        guest.resize(0)
        assert guest.at[HUGE + 5 * PAGE] == 0
        assert guest.at[HUGE] == 0
        assert guest.hits == 1


def test_the_page_size_of_an_ordinary_file() -> None:
    with file(1) as guest:
        assert lib.guard_page_size(guest.fd) == PAGE
    assert lib.guard_page_size(-1) == PAGE


BEGINNING = """
import faulthandler, mmap, os, signal
from snabb_py._native import ffi, lib
from snabb_py.engine.engine import Engine

def make(guarded):
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 4096)
    pages = ffi.from_buffer("uint8_t[]", mmap.mmap(fd, 4096))
    if guarded:
        assert lib.guard_add(pages, 4096, 4096) == 0
    os.ftruncate(fd, 0)
    return pages

inside = make(True)
print(inside[0], flush=True)
"""


def run(end: str, *, begin: str = "") -> subprocess.CompletedProcess[str]:
    # A sanitizer would be the handler before ours, and exit in its own way.
    options = os.environ.get("ASAN_OPTIONS", "") + ":handle_sigbus=0"
    return subprocess.run(
        [sys.executable, "-c", begin + BEGINNING + end],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONFAULTHANDLER": "", "ASAN_OPTIONS": options},
    )


@pytest.mark.parametrize(
    "end",
    [
        "make(False)[0]",  # outside of all ranges
        "lib.guard_remove(inside); p = make(False); p[0]",
        "os.kill(os.getpid(), signal.SIGBUS); import time; time.sleep(10)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGBUS]); make(True)[0]",
    ],
)
def test_other_faults_kill_as_ever(end: str) -> None:
    done = run(end)
    assert done.stdout == "0\n"
    assert done.returncode == -signal.SIGBUS


def test_a_handler_that_was_there_before_gets_other_faults() -> None:
    done = run("make(False)[0]")
    assert "Fatal Python error" not in done.stderr
    early = "import faulthandler; faulthandler.enable()\n"
    done = run("make(False)[0]", begin=early)
    assert done.stdout == "0\n"
    assert "Fatal Python error: Bus error" in done.stderr
    assert done.returncode == -signal.SIGBUS


def test_a_handler_that_came_later_does_not_stay_first() -> None:
    done = run("faulthandler.enable(); p = make(True); print(p[0]); make(False)[0]")
    assert done.stdout == "0\n0\n"
    assert done.returncode == -signal.SIGBUS


MANY_RANGES = """
import ctypes, mmap, os, sys
from snabb_py._native import ffi, lib

# Each page that is replaced in the middle of a mapping makes three of one. Not Python's
# mmap: that keeps a file descriptor for each.
n, page = int(sys.argv[1]), 4096
fd = os.memfd_create("shrinking")
os.ftruncate(fd, 3 * page)
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
arguments = [ctypes.c_size_t(3 * page), 3, mmap.MAP_SHARED, fd, ctypes.c_long(0)]
views = [ffi.cast("uint8_t *", libc.mmap(None, *arguments)) for _ in range(n)]
for view in views:
    assert lib.guard_add(view, 3 * page, page) == 0
os.ftruncate(fd, 0)
for view in views:
    assert view[page] == 0
mmap.mmap(-1, page)
print("alive", lib.guard_total())
"""


def test_replaced_pages_do_not_use_up_the_mappings() -> None:
    most = int(Path("/proc/sys/vm/max_map_count").read_text())
    n = min(most * 3 // 4, 60000)
    done = subprocess.run(
        [sys.executable, "-c", MANY_RANGES, str(n)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"alive {n}\n", done.stderr
