"""`snabb-py loadtest transient`: a load in steps, and what is lost at each."""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from snabb_py.cli.loadtest_options import (
    RateType,
    build,
    highest,
    load_options,
    running,
    seconds,
)
from snabb_py.cli.loadtest_report import Printer
from snabb_py.cli.loadtest_traffic import Rate
from snabb_py.cli.loadtest_trial import EndedError, LoadTest, Outcome, Timing
from snabb_py.cli.terminal import printable
from snabb_py.cli.usage import OneOf
from snabb_py.errors import ConfigError

if TYPE_CHECKING:
    from snabb_py.cli.loadtest_network import Path

#: Where no step is given there are so many.
STEPS = 10
#: Most steps of a ramp.
MOST_STEPS = 10**6


def ramp_up(peak: float, step: float, said: str = "") -> list[float]:
    """Return the rates of a ramp: multiples of the step, the peak last.

    Args:
        peak: the highest rate.
        step: from one to the next.
        said: the step as the user gave it.

    Raises:
        ConfigError: the step is more than the peak, or there are too many.
    """
    if not peak / MOST_STEPS <= step <= peak:
        raise ConfigError(
            f'--step: "{said}" is not within a {MOST_STEPS}th of --max and all of it'
        )
    # The quotient of two rates that were converted may be a little off.
    return [min(peak, step * k) for k in range(1, math.ceil(peak / step - 1e-9) + 1)]


#: By name: the rates of each step, from those of a ramp up.
RAMPS: dict[str, Callable[[list[float]], Iterable[float]]] = {
    "up": lambda up: up,
    "down": lambda up: up[::-1],
    "up-down": lambda up: [*up, *up[::-1]],
    "constant": lambda up: itertools.repeat(up[-1]),
}


class Totals:
    """What was sent and lost in all steps, by direction."""

    def __init__(self) -> None:
        self._counts: dict[Path, list[int]] = {}

    def add(self, outcome: Outcome) -> None:
        """Count a step."""
        for path in outcome.paths:
            counts = self._counts.setdefault(path.path, [0, 0, 0])
            for i, n in enumerate((path.sent, path.received, path.lost)):
                counts[i] += n

    def describe(self) -> list[dict[str, Any]]:
        """Return them as plain data."""
        return [
            {
                "from": printable(path.source),
                "to": printable(path.target),
                "sent": sent,
                "received": received,
                "lost": lost,
            }
            for path, (sent, received, lost) in self._counts.items()
        ]


def outcomes(tester: LoadTest, steps: Iterable[float]) -> Iterator[Outcome]:
    """Yield what each step shows, until the user ends it."""
    with contextlib.suppress(EndedError):
        for pps in steps:
            yield tester.trial(pps)


@click.command(
    "transient",
    epilog="Ctrl-C and SIGTERM end it with the summary. Exit status: 0, whatever was "
    "lost; 1 an interface fails; 2 called wrongly.",
)
@load_options
@click.option(
    "--ramp",
    type=OneOf(list(RAMPS)),
    default="up-down",
    show_default=True,
    help="How the load goes; constant: at --max, step by step without end.",
)
@highest("Peak of the load")
@click.option(
    "--step",
    type=RateType(),
    metavar="RATE",
    help="From one step to the next; a tenth of --max.",
)
@seconds("--duration", 5, "Of each step.", least=0.001)
@seconds("--drain", 0.1, "At most, after each step, for packets on their way.")
def program(  # noqa: PLR0913 - the options of a program
    *,
    interfaces: tuple[str, ...],
    ramp: str,
    most: Rate | None,
    step: Rate | None,
    duration: float,
    drain: float,
    as_json: bool,
    cpu: int | None,
    sim_cpu: int | None,
    busy: bool,
    huge_pages: str,
    **options: Any,
) -> None:
    """Offer a load that goes up and down in steps; count what is lost at each.

    The load of a step is the step's multiple, --max at most; packets are numbered, and
    each counts for the step in which it was sent. Between steps it is quiet until all
    have arrived, or for --drain.

    The device, TX and RX, frames and units are as in `snabb-py loadtest find-limit`.
    Each step says, too, if the tester could not send as fast, or lost packets itself.

    \b
    Examples:
      snabb-py loadtest transient --max 5Gbps --step 1Gbps --duration 1
      snabb-py loadtest transient raw:eth1 raw:eth2 --ramp up --max 1Mpps --step 50kpps
      snabb-py loadtest transient raw:eth1 raw:eth2 --ramp constant --max 1Gbps --json
    """
    network = build(interfaces, **options)
    peak = network.pps(most)
    if step:
        up = ramp_up(peak, network.pps(step), step.text)
    else:
        up = ramp_up(peak, peak / STEPS)
    printer, totals = Printer(as_json=as_json), Totals()
    with running(
        network, cpu=cpu, sim_cpu=sim_cpu, busy=busy, huge_pages=huge_pages
    ) as engine:
        tester = LoadTest(engine, network, Timing(duration, drain))
        for outcome in outcomes(tester, RAMPS[ramp](up)):
            printer.trial("step", outcome)
            totals.add(outcome)
    if as_json:
        printer.object(
            {
                "program": "loadtest transient",
                "steps": printer.trials,
                "unit": network.paths[0].traffic.unit,
                "paths": totals.describe(),
            }
        )
        return
    printer.line(f"loadtest transient: {printer.trials} steps")
    for path in totals.describe():
        printer.line(
            f"  {path['from']} -> {path['to']}: sent {path['sent']}, "
            f"received {path['received']}, lost {path['lost']}"
        )
