"""Timers of the main thread: reports, supervision. Workers have `tick`.

Time is an argument: seconds on any clock that does not run backwards. Imports nothing.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(order=True)
class Timer:
    """A call due at a time; `repeat` seconds later again, unless it is 0."""

    due: float
    number: int
    call: Callable[[], None] = field(compare=False)
    repeat: float = field(compare=False, default=0.0)
    cancelled: bool = field(compare=False, default=False)

    def cancel(self) -> None:
        """Never call again."""
        self.cancelled = True


class Timers:
    """Calls ordered by the time they are due; equal times in order of entry."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._count = 0

    def at(self, due: float, call: Callable[[], None], repeat: float = 0.0) -> Timer:
        """Call at a time, and then every `repeat` seconds."""
        self._count += 1
        timer = Timer(due, self._count, call, repeat)
        heapq.heappush(self._heap, timer)
        return timer

    def next_due(self) -> float | None:
        """Return when the next call is due, or None."""
        while self._heap and self._heap[0].cancelled:
            heapq.heappop(self._heap)
        return self._heap[0].due if self._heap else None

    def run(self, now: float) -> int:
        """Make the calls that are due; return how many.

        A repeated timer that has fallen behind is called once, not once for each
        period that it missed, and keeps its beat.
        """
        ncalls = 0
        while (due := self.next_due()) is not None and due <= now:
            timer = heapq.heappop(self._heap)
            if timer.repeat > 0:
                missed = (now - due) // timer.repeat
                after = due + timer.repeat * (missed + 1)
                # Behind now, however small the period is: each is called once a run.
                at_least = math.nextafter(now, math.inf)
                timer.due = max(after, at_least) if math.isfinite(after) else at_least
                heapq.heappush(self._heap, timer)
            timer.call()
            ncalls += 1
        return ncalls
