"""Files that a running program follows: looked at again and again, and on demand."""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from snabb_py.engine.config_file import Signature, signature_of
from snabb_py.engine.timer import Timers

#: Seconds between two looks at files, and until those that have changed are whole.
INTERVAL, SETTLING = 1.0, 0.1

Seen = dict[Path, Signature]


def signatures_of(paths: Iterable[Path]) -> Seen:
    """Return how files are now."""
    return {path: signature_of(path) for path in paths}


class Watch:
    """Looks at files; when whoever writes them seems to have finished, calls `follow`.

    Attributes:
        seen: the files, and how they were when they were last read: whoever reads them
            puts it there.
    """

    def __init__(self) -> None:
        self.seen: Mapping[Path, Signature] = {}
        self._is_demanded = False

    def start(self, timers: Timers, follow: Callable[[], None]) -> None:
        """Begin to look."""
        self._timers, self._follow = timers, follow
        timers.at(time.monotonic() + INTERVAL, self._look, INTERVAL)

    def demand(self) -> None:
        """Follow at the next look, changed or not; for signal handlers."""
        self._is_demanded = True

    def _look(self) -> None:
        now = signatures_of(self.seen)
        if self._is_demanded:
            self._is_demanded = False
            self._follow()
        elif now != self.seen:
            self._settle(now)

    def _settle(self, before: Seen) -> None:
        def again() -> None:
            now = signatures_of(before)
            if now != before:
                self._settle(now)
            # Somebody may have demanded it meanwhile.
            elif any(self.seen.get(path) != now[path] for path in now):
                self._follow()

        self._timers.at(time.monotonic() + SETTLING, again)
