"""What fuzzers have in common: episodes of numbered actions, and what they leave.

    class Episode(episodes.Episode):
        WEIGHTED = {write: 5, read: 3}

    run_episode(Episode, seed, range(100))

Each action draws from a generator of its own, made of the seed and its number: an
episode does the same without some of its actions as it does with them, so that the
shortest that still fails is found by leaving out. `tests.fuzz_frame` does that.
"""

import array
import contextlib
import gc
import os
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

PAGE = 4096
#: What the kernel calls our files: their mappings are found by it.
FILE_NAME = "hostile"


Action = Callable[[Any, random.Random], None]


@dataclass
class Totals:
    """What was done, by kind, and every counter that was seen."""

    done: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)


class Episode:
    """The victim with all that is done to it, from its beginning to its end.

    Args:
        seed: of everything.

    Attributes:
        WEIGHTED: actions, and how often each is drawn.
        BEGINNING: those that come first, most of the time.
    """

    WEIGHTED: ClassVar[dict[Action, int]] = {}
    BEGINNING: ClassVar[tuple[Action, ...]] = ()

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.totals = Totals()
        self.done = self.totals.done

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        raise NotImplementedError

    def run(self, actions: Iterable[int]) -> Totals:
        """Do these actions and judge the victim after each and at the end."""
        choice, weights = list(self.WEIGHTED), list(self.WEIGHTED.values())
        for number in actions:
            rng = random.Random(f"{self.seed}/{number}")  # noqa: S311 - repeatable
            if number < len(self.BEGINNING) and rng.random() >= 0.1:
                action = self.BEGINNING[number]
            else:
                (action,) = rng.choices(choice, weights)
            self.act(action, rng)
            self.done["actions"] += 1
            self.check()
        self.check_end()
        return self.totals

    def act(self, action: Action, rng: random.Random) -> None:
        """Do an action."""
        action(self, rng)

    def check(self) -> None:
        """Judge the victim after an action."""
        raise NotImplementedError

    def check_end(self) -> None:
        """Judge it at the end: it must be as good as new."""
        raise NotImplementedError


def run_episode(
    make: Callable[[int], Any], seed: int, actions: Iterable[int]
) -> Totals:
    """Run one episode and judge what it leaves behind.

    Args:
        make: an `Episode` class.
        seed: of the episode.
        actions: to do.

    Raises:
        AssertionError: the victim or its process was hurt.
    """
    gc.collect()
    before = open_files()
    with make(seed) as episode:
        totals: Totals = episode.run(actions)
    del episode
    gc.collect()  # an engine closes its last file descriptor when it is gone
    assert open_files() == before, "file descriptors are left"
    assert shared_mappings() == 0, "mappings are left"
    return totals


def shared_mappings() -> int:
    """Return how many mappings of our files the process has."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum(f"memfd:{FILE_NAME}" in line for line in lines)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# -- what actions are made of --------------------------------------------------


def flip(rng: random.Random, data: bytes, most: int = 4) -> bytes:
    """Return data with some bytes changed."""
    if not data:
        return data
    changed = bytearray(data)
    for _ in range(rng.randint(1, most)):
        changed[rng.randrange(len(changed))] = rng.choice(
            (0, 0xFF, rng.getrandbits(8), 1 << rng.randrange(8))
        )
    return bytes(changed)


def memfd(pages: int) -> int:
    fd = os.memfd_create(FILE_NAME)
    os.ftruncate(fd, pages * PAGE)
    return fd


@contextlib.contextmanager
def some_file(rng: random.Random, pages: int) -> Iterator[int]:
    """Give a file descriptor of any kind: of memory, or of something else."""
    kind = rng.randrange(10)
    others: list[int] = []
    if kind < 3:
        fd = memfd(rng.choice((1, 2, pages)))
    elif kind == 3:
        fd = memfd(2)
        os.ftruncate(fd, rng.choice((0, 1, PAGE, PAGE + 1)))
    elif kind == 4:
        fd, *others = os.pipe()
    elif kind == 5:
        left, right = socket.socketpair()
        fd, others = left.detach(), [right.detach()]
    elif kind == 6:
        fd = os.open("/tmp", os.O_RDONLY | os.O_DIRECTORY)  # noqa: S108 - any will do
    elif kind == 7:
        writable = memfd(4)
        fd, others = os.open(f"/proc/self/fd/{writable}", os.O_RDONLY), [writable]
    elif kind == 8:
        fd = os.open(rng.choice(("/dev/null", "/dev/zero")), os.O_RDWR)
    else:
        fd = os.eventfd(rng.choice((0, 2**32 - 1)), rng.choice((0, os.EFD_NONBLOCK)))
    try:
        yield fd
    finally:
        for one in (fd, *others):
            os.close(one)


def send(sock: socket.socket, data: bytes, fds: Iterable[int]) -> None:
    """Send without waiting for a peer that does not read any more."""
    rights = array.array("i", fds)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
    timeout = sock.gettimeout()
    sock.setblocking(False)
    try:
        sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
    except BlockingIOError:
        pass
    finally:
        sock.settimeout(timeout)
