"""`snabb-py top`: what instances do, live."""

import contextlib
import json
import os
import sys
import time

import click

from snabb_py.cli.ps import NOTHING
from snabb_py.cli.readings import Watch
from snabb_py.cli.stop import Stop
from snabb_py.cli.terminal import complain
from snabb_py.cli.top_text import lines_of
from snabb_py.cli.usage import Number, Whole

#: Seconds between the two readings that the first report is made of.
FIRST_INTERVAL = 0.5
#: Terminals that only lines can be written to.
PLAIN = {"dumb", "unknown", ""}


class Beat:
    """When the next look is due; what was missed is not made up for."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self._due = time.monotonic() + min(interval, FIRST_INTERVAL)

    @property
    def left(self) -> float:
        """Seconds until then."""
        return self._due - time.monotonic()

    def next(self) -> None:
        """Wait for the one after."""
        self._due = max(self._due + self.interval, time.monotonic())


def follow(
    watch: Watch, pid: int | None, beat: Beat, *, once: bool, as_json: bool
) -> None:
    """Print a report at each beat, until the end.

    Raises:
        ConfigError: with `once`, there is nothing to report.
    """
    with Stop() as stop:
        watch.look()
        while stop.wait(beat.left):
            reports = watch.look()
            beat.next()
            if as_json:
                print(json.dumps({"instances": reports}), flush=True)
            else:
                text = "\n".join(line for r in reports for line in lines_of(r))
                print(text or NOTHING, flush=True)
            if once or is_over(watch, pid):
                return


def is_over(watch: Watch, pid: int | None) -> bool:
    """Return whether the one instance that was to be shown has ended."""
    if pid is None or watch.update():
        return False
    complain(f"process {pid} has ended")
    return True


def is_screen() -> bool:
    """Return whether stdout is a terminal that a table can live on."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in PLAIN


@click.command("top", epilog="Ctrl-C ends it with exit status 0.")
@click.argument("pid", type=Whole(1), required=False)
@click.option("--once", is_flag=True, help="One report, and no more.")
@click.option(
    "--interval",
    type=Number(0.05, 86400),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Seconds between two reports.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="A JSON object to the report, on one line."
)
def program(*, pid: int | None, once: bool, interval: float, as_json: bool) -> None:
    """Show what the instances of snabb-py do, or only that of process PID.

    Of each: how busy its workers are, what comes in and goes out by its interfaces,
    what it drops and why, and what passes each link. On a terminal it is a table that
    lives; the arrow keys choose an instance, q ends it. Elsewhere, and where TERM is
    dumb, each report is lines of text.

    Load is the share of the time that a worker spent in breaths with work; a gap is the
    time from one such breath to the next: so long may a packet wait for its turn.
    Counts are the instance's own since its start. Rates are those since the report
    before; the first one, too, is made of two readings. Gbps are on the wire: preamble,
    FCS and frame gap count. Watching costs the workers nothing.

    With --json there is more: all counters of all apps, and their rates.

    \b
    Examples:
      snabb-py top
      snabb-py top 1234 --interval 5
      snabb-py top --once --json
    """
    watch = Watch(pid, complain)
    beat = Beat(interval)
    with contextlib.closing(watch):
        if not once and not as_json and is_screen():
            from snabb_py.cli.top_live import live

            live(watch, pid, beat)
        else:
            follow(watch, pid, beat, once=once, as_json=as_json)
