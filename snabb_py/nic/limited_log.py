"""Lines for the user that a client can cause, so that a flood of them fills no disk.

Imports nothing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

Log = Callable[[str], None]
Clock = Callable[[], float]

#: Lines of a kind that are shown as they come, before they are only counted.
BURST = 10
#: Seconds that they are counted for, until one line says how many there were.
WINDOW = 10.0


@dataclass
class _Kind:
    """Lines that say the same."""

    ends_at: float
    left: int = BURST
    held: int = 0


class LimitedLog:
    """A log that shows the first lines of each kind, and sums up what is too much.

    Args:
        log: takes a line.
        clock: tells the time in seconds.
    """

    def __init__(self, log: Log, *, clock: Clock = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}

    @property
    def is_holding(self) -> bool:
        """Whether there are lines that have only been counted so far."""
        return any(kind.held for kind in self._kinds.values())

    def say(self, text: str, detail: str = "") -> None:
        """Show a line, or count it.

        Args:
            text: what lines of its kind have in common; there are few kinds.
            detail: what they have not.
        """
        now = self._clock()
        kind = self._kinds.get(text)
        if kind is None or (now >= kind.ends_at and not kind.held):
            kind = self._kinds[text] = _Kind(now + WINDOW)
        if kind.left:
            kind.left -= 1
            self._log(text + detail)
        else:
            kind.held += 1

    def look(self) -> None:
        """Sum up what has been counted for long enough."""
        now = self._clock()
        for text, kind in self._kinds.items():
            if kind.held and now >= kind.ends_at:
                self._sum_up(text, kind)
                # While it goes on there are sums alone.
                self._kinds[text] = _Kind(now + WINDOW, left=0)

    def flush(self) -> None:
        """Sum up all that has been counted."""
        for text, kind in self._kinds.items():
            if kind.held:
                self._sum_up(text, kind)
                kind.held = 0

    def _sum_up(self, text: str, kind: _Kind) -> None:
        self._log(f"{text}: ... {kind.held} more")
