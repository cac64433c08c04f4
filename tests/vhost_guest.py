"""A vhost-user port and a guest at it, both driven by the test: see `tests.harness`.

    with Wire(tmp_path) as wire:
        wire.guest.start()
        wire.port.send(frames)
        wire.turn()
        assert wire.driver.received() == frames

The port's messages are handled by its thread; packets move when the test says so.
"""

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from snabb_py.virtio.frontend import Frontend, Guest, counters_of
from snabb_py.virtio.net_device import VhostUser
from tests.harness import Harness


class Wire:
    """A port (`port`, an app's harness) and a guest's driver (`driver`, as well).

    Args:
        directory: for the socket.
        port: arguments of `VhostUser`.
        others: of `Guest`.
    """

    def __init__(
        self, directory: Path, *, port: dict[str, Any] | None = None, **others: Any
    ) -> None:
        self.path = directory / "vhost.sock"
        self.app = VhostUser(self.path, **(port or {}))
        # Freelists take 256 packets at once, and there are two.
        self.port = Harness(self.app, large=1024)
        self.guest = Guest(self.path, idle=self.port.breathe, **others)
        self.driver = Harness(Frontend(self.guest), pool=self.port.pool, owner="guest")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.driver.close()
        self.guest.close()
        self.port.__exit__(kind, error, trace)

    def turn(self, n: int = 1) -> None:
        """Let both sides breathe; the clock of neither matters."""
        for _ in range(n):
            self.driver.breathe()
            self.port.breathe()
            self.driver.breathe()

    def wait(self, condition: Callable[[], bool]) -> None:
        """Let the port breathe until something is so; its thread needs no turn."""
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "it does not come"
            self.port.breathe()
            time.sleep(1e-4)

    @property
    def counters(self) -> dict[str, int]:
        """What the port's app has counted."""
        self.port.tick()
        return self.port.counters

    @property
    def messages(self) -> dict[str, int]:
        """What the port has counted of connections and messages, if not 0."""
        return {name: n for name, n in self.app.statistics().items() if n}

    @property
    def driver_counters(self) -> dict[str, int]:
        """What the guest's driver has counted."""
        return counters_of(self.guest.pairs[0].state)
