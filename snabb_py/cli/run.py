"""Running an engine for a user: signals, reports while it runs, one summary.

On a terminal a live table (rich), elsewhere plain lines, with `--json` one JSON object
to the line; the last line is the summary's.
"""

import atexit
import contextlib
import json
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from snabb_py.apps.basic import WIRE_OVERHEAD
from snabb_py.cli import forget
from snabb_py.cli.interfaces import Direction, Reading
from snabb_py.cli.terminal import complain, printable, shown
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.engine.histogram import percentile
from snabb_py.engine.worker import Worker

if TYPE_CHECKING:
    from rich.table import Table

#: Apps of a worker that the summary names.
MOST_APPS = 3
#: Seconds after a signal to end until output that is stuck is given up.
PATIENCE = 1.0


class Ending:
    """Ctrl-C, SIGTERM and SIGHUP end the engine instead of the process.

        with Ending() as ending, Engine() as engine:
            ending.of(engine)

    With `hang_up` SIGHUP calls that instead, which may do no more than take note.

    From the first line to the last: a signal that comes before there is an engine ends
    it at once when there is, and none disturbs its closing. Output that nobody reads
    does not keep it: what cannot be written by then is lost.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, hang_up: Callable[[], None] | None = None) -> None:
        self._engine: Engine | None = None
        self._is_requested = False
        self._hang_up = hang_up

    def __enter__(self) -> Self:
        for number in self.SIGNALS:
            signal.signal(number, self._end)
        if hang_up := self._hang_up:
            signal.signal(signal.SIGHUP, lambda _number, _frame: hang_up())
        signal.signal(signal.SIGALRM, self._let_go)
        signal.signal(signal.SIGUSR2, lambda _number, _frame: None)
        # The interpreter takes its handlers away before its last work is done: a timer
        # that still ran would end the process by SIGALRM.
        atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)
        return self

    def __exit__(self, *_: object) -> None:
        # What is left of the program is its exit: nothing is to disturb that either.
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    @staticmethod
    def _let_go(_number: int, _frame: object) -> None:
        """Give up stdout and stderr if they are full: a write to them may hang."""
        for fd in (1, 2):
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            if not poll.poll(0):
                forget(fd)
        # A write that hangs is begun anew after a signal, and finds the new file.
        for thread in threading.enumerate():
            if thread.ident and thread is not threading.main_thread():
                with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                    signal.pthread_kill(thread.ident, signal.SIGUSR2)

    def _end(self, _number: int, _frame: object) -> None:
        if not self._is_requested:
            signal.setitimer(signal.ITIMER_REAL, PATIENCE, PATIENCE)
        self._is_requested = True
        if self._engine:
            self._engine.end()

    def of(self, engine: Engine) -> None:
        """End this engine from now on."""
        self._engine = engine
        if self._is_requested:
            engine.end()


def wire_gbps(packets: int, nbytes: int, seconds: float) -> float:
    """Return 10^9 bits a second on the wire: with preamble, FCS and gap."""
    return (nbytes + packets * WIRE_OVERHEAD) * 8 / seconds / 1e9


class Meter:
    """Rates of some directions, between two looks and over the whole run.

    Args:
        start: when the network began, with nothing counted (time.monotonic).
        more: counts something else; with true at the end, when workers stand still.
            It is called before directions are read: what has come was sent before.
    """

    def __init__(
        self,
        engine: Engine,
        directions: Sequence[Direction],
        start: float,
        more: Callable[[bool], dict[str, Any]] = lambda _is_last: {},
    ) -> None:
        self.engine = engine
        self._more = more
        self.directions = directions
        self.start = self._at = start
        self._first = self._last = [Reading(0, 0, 0, {}) for _ in directions]

    def _read(self, *, is_last: bool = False) -> list[Reading]:
        return [d.read(self.engine, is_last=is_last) for d in self.directions]

    def look(self) -> dict[str, Any]:
        """Return the counts, with rates since the last look."""
        more = self._more(False)
        now, readings = time.monotonic(), self._read()
        result = self._describe(readings, self._last, now - self._at)
        self._at, self._last = now, readings
        return {"seconds": round(now - self.start, 3), "directions": result, **more}

    def summary(self, ended: float) -> dict[str, Any]:
        """Return the counts, with rates over the time that packets were sent.

        It is the source's where that measures it, else the whole run until `ended`.
        """
        seconds = ended - self.start
        workers = [
            {
                "worker": worker.number,
                "cpu": worker.cpu,
                "apps": self._apps_of(worker),
                "breaths": worker.row["breaths"],
                "gap_ns": {
                    "p50": self._gap(worker, 0.5),
                    "p99": self._gap(worker, 0.99),
                    "max": worker.row["longest-gap-ns"],
                },
            }
            for worker in self.engine.workers
        ]
        with self.engine.paused():
            more = self._more(True)
            readings = self._read(is_last=True)
        apps = self.engine.apps.values()
        return {
            "seconds": round(seconds, 3),
            "directions": self._describe(readings, self._first, seconds),
            "modes": [printable(m) for a in apps if (m := a.instance.mode)],
            "workers": workers,
            **more,
        }

    def _apps_of(self, worker: Worker) -> list[str]:
        """Return the names of a worker's apps, but for what joins it to others."""
        names = self.engine.network.apps_of(worker.number)
        return sorted(name for name in names if ">" not in name)

    @staticmethod
    def _gap(worker: Worker, share: float) -> int:
        """Return a percentile; a bucket's end may lie beyond the longest gap."""
        longest = worker.row["longest-gap-ns"]
        return min(percentile(worker.gaps.values(), share), longest)

    def _describe(
        self, now: list[Reading], before: list[Reading], seconds: float
    ) -> list[dict[str, Any]]:
        return [
            {
                **({"task": direction.task} if direction.task else {}),
                "from": printable(direction.source.word),
                "to": printable(direction.target.word),
                "offered": new.offered,
                "forwarded": new.forwarded,
                "lost": new.lost,
                "missed": sum(new.missed.values()),
                "missed_by_reason": new.missed,
                **self._rates(new, old, new.sending_ns / 1e9 or seconds),
                "drops": new.drops,
            }
            for direction, new, old in zip(self.directions, now, before, strict=True)
        ]

    @staticmethod
    def _rates(new: Reading, old: Reading, seconds: float) -> dict[str, float]:
        """Return rates to a packet in 1000 s, and to a bit a second."""
        seconds = max(seconds, 1e-9)
        packets, nbytes = new.forwarded - old.forwarded, max(0, new.bytes - old.bytes)
        return {
            "mpps": round(packets / seconds / 1e6, 9),
            "gbps": round(wire_gbps(packets, nbytes, seconds), 9),
        }


def with_unit(value: float, unit: str) -> str:
    """Return a value with a prefix that suits it, to four digits at least."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if round(value / factor, 6) >= 1:
            return f"{value / factor:.3f} {prefix}{unit}"
    return f"{round(value, 3):.4g} {unit}"


def rates(counts: Mapping[str, Any]) -> tuple[str, str]:
    """Return `mpps` and `gbps` of a report as text, in units that show them."""
    bps = counts["gbps"] * 1e9
    return with_unit(counts["mpps"] * 1e6, "pps"), with_unit(bps, "bps")


def way(direction: Mapping[str, Any]) -> str:
    """Return a direction of a report in words."""
    task = f"{direction['task']}: " if "task" in direction else ""
    return f"{task}{direction['from']} -> {direction['to']}"


def plain_line(look: dict[str, Any], direction: dict[str, Any]) -> str:
    """Return one direction of a look as a line of text."""
    drops = ", ".join(f"{reason}: {n}" for reason, n in direction["drops"].items())
    return (
        f"{look['seconds']:8.1f} s  {way(direction)}  "
        f"{direction['forwarded']} packets  {'  '.join(rates(direction))}"
        + (f"  ({drops})" if drops else "")
    )


def table(look: dict[str, Any], title: str) -> "Table":
    """Return a look as a table for a terminal."""
    from rich.table import Table

    result = Table(title=f"{title}  {look['seconds']:.0f} s", title_justify="left")
    result.add_column("direction")
    for column in ("packets", "rate", "wire rate", "lost"):
        result.add_column(column, justify="right")
    result.add_column("drops by reason")
    for d in look["directions"]:
        result.add_row(
            way(d),
            f"{d['forwarded']:,}",
            *rates(d),
            f"{sum(d['drops'].values()):,}",
            "\n".join(f"{reason}: {n:,}" for reason, n in d["drops"].items()) or "-",
        )
    return result


def some(apps: Sequence[str]) -> str:
    """Return the first ones of some names, as text."""
    more = ["..."] if len(apps) > MOST_APPS else []
    return ", ".join([*apps[:MOST_APPS], *more]) or "idle"


class Reporter:
    """Shows looks while the engine runs, and the summary at the end.

    Args:
        title: the program.
        as_json: objects, not text.
        is_stdout_taken: packets go to stdout; reports go to stderr.
    """

    def __init__(
        self, title: str, *, as_json: bool, is_stdout_taken: bool = False
    ) -> None:
        self.title = title
        self.as_json = as_json
        self._live: Any = None
        self._file = sys.stderr if is_stdout_taken else sys.stdout
        if not as_json and not is_stdout_taken and sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(auto_refresh=False)
            self._live.start()

    def _print(self, line: str) -> None:
        print(line, file=self._file, flush=True)

    def show(self, look: dict[str, Any]) -> None:
        """Show how things are."""
        if self.as_json:
            self._print(json.dumps(look))
        elif self._live:
            self._live.update(table(look, self.title), refresh=True)
        else:
            for direction in look["directions"]:
                self._print(plain_line(look, direction))

    def log(self, line: str, *below: str) -> None:
        """Show a message beside the reports; on stderr, so that JSON stays JSON."""
        if self._live:
            text = "\n".join(map(shown, [line, *below]))
            self._live.console.print(text, markup=False, highlight=False)
        else:
            complain(line, *below)

    def stop(self) -> None:
        """Leave the terminal as it was; the last table stays on it."""
        if self._live:
            self._live.stop()
            self._live = None

    def finish(self, summary: dict[str, Any]) -> None:
        """Show the summary."""
        self.stop()
        if self.as_json:
            self._print(json.dumps(summary))
            return
        self._print(f"{self.title}: {summary['seconds']:.2f} s")
        for d in summary["directions"]:
            self._print(
                f"  {way(d)}: offered {d['offered']}, "
                f"forwarded {d['forwarded']}, lost {d['lost']}; "
                f"{', '.join(rates(d))}"
            )
            for reason, n in d["drops"].items():
                self._print(f"    {reason}: {n}")
        for mode in summary["modes"]:
            self._print(f"  {mode}")
        for worker in summary["workers"]:
            gap = worker["gap_ns"]
            where = "" if worker["cpu"] is None else f" on CPU {worker['cpu']}"
            line = (
                f"  worker {worker['worker']}{where} ({some(worker['apps'])}): "
                f"{worker['breaths']} breaths"
            )
            if gap["max"]:  # between two that moved packets
                line += (
                    f", gap {gap['p50'] / 1e3:.1f} us median, "
                    f"{gap['p99'] / 1e3:.1f} us p99, {gap['max'] / 1e3:.1f} us longest"
                )
            self._print(line)


def run(  # noqa: PLR0913 - what a run consists of
    engine: Engine,
    config: Config,
    directions: Sequence[Direction],
    reporter: Reporter,
    *,
    duration: float | None,
    interval: float,
    done: Callable[[], bool] | None = None,
    at_end: Callable[[], float] = time.monotonic,
    more: Callable[[bool], dict[str, Any]] = lambda _is_last: {},
) -> dict[str, Any]:
    """Run a network to its end, with reports; return the summary.

    When it has ended `at_end` is called, and says when that was. Then nothing new comes
    in until what is under way has arrived, for 500 ms at most: what is missing then is
    lost. For `more` see `Meter`.
    """
    try:
        engine.commit(config)
        # To make the network takes time, too, in which nothing moves.
        meter = Meter(engine, directions, engine.handed_over_at, more)

        def report() -> None:
            reporter.show(meter.look())

        timer = engine.timers.at(meter.start + interval, report, interval)
        try:
            engine.main(duration=duration, done=done)
            ended = at_end()
            engine.drain()
            return meter.summary(ended)
        finally:
            timer.cancel()
    finally:
        reporter.stop()
