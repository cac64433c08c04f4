"""vhost-user ports without apps, whose loop and clock a test turns by hand.

with ready(path) as bench, bench.guest() as guest:
    guest.negotiate()
    assert bench.counted == {}
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from snabb_py.errors import SnabbError
from snabb_py.virtio.frontend import Guest
from snabb_py.virtio.loop import Loop
from snabb_py.virtio.vhost_user import Port, PortConfig


def open_fds() -> dict[str, str]:
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # that of iterdir itself
            found[path.name] = str(path.readlink())
    return found


@contextlib.contextmanager
def all_fds_closed() -> Iterator[None]:
    before = open_fds()
    yield
    assert not open_fds().keys() - before.keys(), open_fds()


class Bench:
    """A port without apps, and a loop that the test turns by hand."""

    def __init__(self, path: Path, queues: int = 1, **settings: float) -> None:
        self.now = 1000.0
        self.tick = 0.0  # of the clock, whenever it is looked at
        self.path = path
        self.loop = Loop()
        config = PortConfig(path, queues)
        try:
            self.port = Port(config, self.loop, clock=self.clock, **settings)
        except SnabbError:
            self.loop.close()
            raise

    def clock(self) -> float:
        self.now += self.tick
        return self.now

    def turn(self) -> None:
        self.loop.step(0)

    def guest(self, **settings: Any) -> Guest:
        return Guest(self.path, idle=self.turn, **settings)

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "it does not come"
            self.loop.step(0.01)

    def close(self) -> None:
        self.port.close()
        self.loop.close()

    @property
    def counted(self) -> dict[str, int]:
        usual = ("connections", "messages")
        counters = self.port.counters
        return {k: n for k, n in counters.items() if n and k not in usual}


@contextlib.contextmanager
def ready(path: Path) -> Iterator[Bench]:
    """Give a port of two pairs; at the end it must serve a guest as if it were new."""
    with all_fds_closed():
        bench = Bench(path, 2, patience=5)
        yield bench
        with bench.guest(queues=2) as guest:
            bench.wait(lambda: not bench.port.is_connected)
            guest.start()
            assert bench.port.device.has_guest
            guest.stop()
        bench.close()


def is_over(bench: Bench, guest: Guest) -> bool:
    bench.turn()
    assert guest.socket
    guest.socket.setblocking(False)
    with contextlib.suppress(BlockingIOError, ConnectionError):
        return not guest.socket.recv(1)
    guest.socket.setblocking(True)
    return False
