"""`snabb-py loadtest find-limit`: the highest rate at which nothing is lost."""

import sys
from typing import Any

import click

from snabb_py.cli.loadtest_network import Network
from snabb_py.cli.loadtest_options import (
    RateType,
    build,
    highest,
    load_options,
    running,
    seconds,
)
from snabb_py.cli.loadtest_report import Printer, rate_text
from snabb_py.cli.loadtest_search import Finding, Limit, Search, Verdict
from snabb_py.cli.loadtest_traffic import Rate
from snabb_py.cli.loadtest_trial import LoadTest, Outcome, Timing
from snabb_py.cli.usage import Number, Whole
from snabb_py.errors import ConfigError, SnabbError

#: Exit statuses beside 0, 1 and 2.
NOTHING_PASSED, TESTER_IS_THE_LIMIT = 3, 4
#: Of the highest rate, where no least one is given.
LEAST_SHARE = 1e-3
#: Of the precision: how much a generator may fall short.
SLACK = 0.25
#: Of the highest rate: the warm-up's.
WARM_UP_SHARE = 0.1


class NoArrivalError(SnabbError):
    """There is no way through the device, or none any more."""


def bounds(
    network: Network, least: Rate | None, most: Rate | None
) -> tuple[float, float]:
    """Return the lowest and the highest rate of a search, packets a second.

    Raises:
        ConfigError: they are the wrong way round.
    """
    high = network.pps(most)
    low = network.pps(least) if least else high * LEAST_SHARE
    if least and low > high:
        raise ConfigError(
            f'--min: "{least.text}" is more than --max, '
            f"{most.text if most else '10Gbps'}"
        )
    return low, high


def check_arrival(outcome: Outcome) -> None:
    """Refuse to go on with a device that nothing comes through.

    Raises:
        NoArrivalError: not a packet of a direction arrived.
    """
    for path in outcome.paths:
        if path.sent and not path.received:
            raise NoArrivalError(
                f"{path.path}: nothing arrives: of {path.sent} packets sent there came "
                "none; are the interfaces up, and is the device there and forwarding?"
            )


def find(search: Search, tester: LoadTest, printer: Printer) -> Limit:
    """Search, and print each trial.

    Raises:
        NoArrivalError: nothing arrived in all tries of a rate.
        EndedError: by the user.
    """
    last: list[Outcome] = []

    def trial(pps: float) -> Finding:
        outcome = tester.trial(pps)
        printer.trial("trial", outcome)
        last[:] = [outcome]
        return outcome.finding

    limit = search.run(trial)
    if limit.verdict is Verdict.SILENT:
        check_arrival(last[0])
    return limit


def summarize(limit: Limit, network: Network, trials: int) -> dict[str, Any]:
    """Return the result as plain data."""
    traffic = network.paths[0].traffic

    def describe(pps: float | None) -> dict[str, float] | None:
        if pps is None:
            return None
        return {"mpps": round(pps / 1e6, 9), "gbps": round(traffic.gbps(pps), 9)}

    return {
        "program": "loadtest find-limit",
        "limit": describe(limit.rate),
        "failed": describe(limit.failed),
        "no_result": describe(limit.no_result),
        "verdict": limit.verdict.value if limit.verdict else None,
        "unit": traffic.unit,
        "trials": trials,
    }


def summary_line(limit: Limit, summary: dict[str, Any], tolerance: float) -> str:
    """Return the result in words."""
    allowed = f"with at most {tolerance:.3%} lost" if tolerance else "without loss"
    above = []
    if limit.no_result is not None:
        is_what = "gave no result: it is more than the tester can do"
        above.append(f"{rate_text(summary['no_result'])} {is_what}")
    elif limit.rate is None:
        return f"limit: none: not even {rate_text(summary['failed'])} passes {allowed}"
    if limit.failed is not None:
        above.append(f"{rate_text(summary['failed'])} does not pass")
    if limit.rate is None:
        return f"limit: none: {'; '.join(above)}"
    each = f"{summary['unit']} bits"
    found = f"limit: {rate_text(summary['limit'])} of {each}, {allowed}"
    if not above:
        return f"{found}: the highest rate asked"
    at_least = ", at least" if limit.no_result is not None else ""
    return f"{found}{at_least}; {'; '.join(above)}"


@click.command(
    "find-limit",
    epilog="Exit status: 0 a limit was found, or --max passes; 1 nothing arrives, an "
    "interface fails, or it was interrupted; 2 called wrongly; 3 not even --min "
    "passes; 4 what was found is the tester's limit, the device's may lie above it.",
)
@load_options
@click.option(
    "--min",
    "least",
    type=RateType(),
    metavar="RATE",
    help="Least rate of interest; a thousandth of --max.",
)
@highest("Highest rate")
@click.option(
    "--precision",
    type=Number(0.01, 50),
    default=1.0,
    show_default=True,
    metavar="PERCENT",
    help="Of the rate: how far passed and failed may lie apart at the end.",
)
@click.option(
    "--loss-tolerance",
    "tolerance",
    type=Number(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    metavar="SHARE",
    help="Of the packets of a trial that may be lost.",
)
@click.option(
    "--retry",
    "retries",
    type=Whole(0, 100),
    default=3,
    show_default=True,
    metavar="N",
    help="Try a rate that failed so often again; it passes if it passes once. Not in "
    "modelled time.",
)
@seconds("--duration", 1, "Of the load that counts, in each trial.", least=0.001)
@seconds("--drain", 0.5, "At most, after it, for packets on their way.")
@seconds("--warm-up", 1, "A trial before the first, at a tenth of --max.")
@seconds("--overload", 2, "At most, before each trial: --max, until it loses.")
@seconds("--settle", 0.3, "Of a trial's rate, between overload and what counts.")
def program(  # noqa: PLR0913 - the options of a program
    *,
    interfaces: tuple[str, ...],
    least: Rate | None,
    most: Rate | None,
    precision: float,
    tolerance: float,
    retries: int,
    duration: float,
    drain: float,
    warm_up: float,
    overload: float,
    settle: float,
    as_json: bool,
    cpu: int | None,
    sim_cpu: int | None,
    busy: bool,
    huge_pages: str,
    **options: Any,
) -> None:
    """Search for the highest rate at which the device loses nothing.

    RFC 2544, 26.1: the throughput. What is sent at TX must arrive at RX; --max is
    tried first, then halves of what lies between a rate that passed and one that
    failed. With several TX and RX all send at once, each at the rate; an interface may
    be both. Interfaces are the words of `snabb-py forward --help`.

    Without interfaces the device is `forward` of this machine, between two software
    cards, with --hops and --police; `sim,inline sim,inline` tests it in modelled time,
    where the limit does not depend on the machine or its load.

    A trial: --overload at --max, --settle at the trial's rate, then as many numbered
    packets as are due in --duration, and --drain. A policer lets a burst pass (that of
    `forward --police`: 250 ms of its rate), which would hide for seconds that it is
    exceeded; the overload uses it up. RFC 2544 knows no overload and wants 60 s:
    --overload 0 --settle 0 --duration 60 --drain 2.

    The limit is a rate that was really sent, and passed. If the tester cannot send as
    fast as it should, while it settles or later, or its own interfaces lose packets,
    the trial has no result, neither for the device nor against it. What is damaged is
    lost; behind interfaces all checksums are looked at, up to TCP and UDP. Latency,
    from the sender's worker and back, is that of frames of 70 bytes or more.

    --capture sends frames of TCP and UDP as they were captured, the same both ways; but
    the last 16 bytes of their payload, or what there is and more, are the number.

    bps are bits on the wire, as those of --police, with preamble, FCS and gap: 24 bytes
    a frame more than its data. With `--unit frame` they count 4, the FCS: 2 Gbps of
    wire are 1.974 Gbps of frames of 1518.

    \b
    Examples:
      snabb-py loadtest find-limit
      snabb-py loadtest find-limit sim,inline sim,inline --police 2 --size 1518
      snabb-py loadtest find-limit raw:eth1 raw:eth2 --size 1518 --max 5Gbps
      snabb-py loadtest find-limit raw:eth1 raw:eth2 --bidir --json
      snabb-py loadtest find-limit 01:00.0 01:00.1 --duration 60 --loss-tolerance 1e-6
    """
    network = build(interfaces, **options)
    low, high = bounds(network, least, most)
    printer = Printer(as_json=as_json)
    with running(
        network, cpu=cpu, sim_cpu=sim_cpu, busy=busy, huge_pages=huge_pages
    ) as engine:
        tester = LoadTest(
            engine,
            network,
            Timing(duration, drain, overload, settle),
            overload_pps=high,
            tolerance=tolerance,
            slack=precision / 100 * SLACK,
        )
        if warm_up:
            outcome = tester.trial(max(low, high * WARM_UP_SHARE), duration=warm_up)
            printer.trial("warm-up", outcome)
            check_arrival(outcome)
        # In modelled time the same load always has the same outcome.
        tries = 0 if engine.is_modelled else retries
        limit = find(Search(low, high, precision / 100, tries), tester, printer)
    summary = summarize(limit, network, printer.trials)
    if as_json:
        printer.object(summary)
    else:
        printer.line(summary_line(limit, summary, tolerance))
    if limit.verdict and limit.verdict.is_testers:
        sys.exit(TESTER_IS_THE_LIMIT)
    if limit.rate is None:
        sys.exit(NOTHING_PASSED)
