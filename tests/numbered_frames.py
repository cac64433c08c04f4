"""Front ends of ours that exchange numbered frames, in closed loops: nobody is hurried.

An `End` is a guest at a port; its numbers must come in order, each once.
"""

import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from snabb_py.virtio.frontend import Frontend, Guest, counters_of
from tests.harness import Harness

ETHERTYPE = bytes.fromhex("88b5")


class End:
    """A guest that sends and receives, when it is its turn.

    Args:
        path: of the port's socket.
        address: its own.
        kind: of guest.
        arguments: of the guest.
    """

    def __init__(
        self, path: Path, address: bytes, *, kind: type[Guest] = Guest, **arguments: Any
    ) -> None:
        self.address = address
        self.guest = kind(path, **arguments)
        self.driver = Harness(Frontend(self.guest), small=2048)

    def send(self, to: bytes, numbers: range, size: int = 100) -> None:
        """Send frames to an address."""
        head = to + self.address + ETHERTYPE
        self.driver.send(
            (head + n.to_bytes(8, "big")).ljust(size, b"\0") for n in numbers
        )
        self.driver.breathe()

    def receive(self, sender: bytes) -> list[int]:
        """Return the numbers that have come from an address; forget all others."""
        self.driver.breathe()
        head = self.address + sender + ETHERTYPE
        return [
            int.from_bytes(frame[14:22], "big")
            for frame in self.driver.received()
            if frame.startswith(head)
        ]

    @property
    def has_sent(self) -> bool:
        """Whether the back end has taken all that was sent."""
        self.driver.breathe()
        ring = self.guest.pairs[0].state.tx
        return bool(ring.given == ring.taken)

    @property
    def wrong(self) -> dict[str, int]:
        """What the back end did wrong, and what got lost here."""
        counts = counters_of(self.guest.pairs[0].state)
        return {k: n for k, n in counts.items() if k.startswith(("wrong", "drop"))}

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


class Window:
    """Frames from one end to another, so many at a time; or back to the first.

    Args:
        source: sends them.
        target: is to get them.
        sender: address that they then bear; default: of their source.
        to: address that they are sent to; default: of the target.
    """

    SIZE = 64

    def __init__(
        self,
        source: End,
        target: End,
        *,
        sender: bytes | None = None,
        to: bytes | None = None,
    ) -> None:
        self.source, self.target = source, target
        self.sender, self.to = sender or source.address, to or target.address
        #: One more than the highest number, sent and received; those that have come.
        self.sent = self.expected = self.received = 0
        self.wrong: list[str] = []
        self.moved_at = time.monotonic()

    @property
    def lost(self) -> int:
        """Numbers that have not come though later ones have."""
        return self.expected - self.received

    @property
    def is_empty(self) -> bool:
        """Whether all that was sent has come."""
        return self.expected == self.sent

    def fill(self) -> None:
        """Send as many as are to be on their way."""
        n = Window.SIZE
        self.source.send(
            self.to, range(self.sent, self.sent + n), 60 + self.sent % 1400
        )
        self.sent += n
        self.moved_at = time.monotonic()

    def take(self) -> None:
        """Take what has come: ever higher numbers."""
        for number in self.target.receive(self.sender):
            if number < self.expected:
                self.wrong.append(f"{number} after {self.expected - 1}")
                continue
            self.expected = number + 1
            self.received += 1
            self.moved_at = time.monotonic()
