"""What all benchmarks take and print."""

import json
from collections.abc import Callable
from typing import Any

import click

from snabb_py.cli.usage import Whole

#: From so many on they are told in millions.
MANY = 100_000


def npackets(_ctx: click.Context, _param: click.Parameter, value: str) -> int:
    """Read a number of packets, "1e8" too."""
    try:
        number = int(float(value))
    except (ValueError, OverflowError):
        number = 0
    if not 1 <= number <= 10**15:
        raise click.BadParameter(f'"{value}" is no number of packets from 1 to 1e15')
    return number


def bench_options(default: str) -> Callable[[Any], Any]:
    """Add what the benchmarks share: N, --cpu, --json."""

    def decorate(command: Any) -> Any:
        for option in (
            click.option("--json", "as_json", is_flag=True, help="Print one object."),
            click.option("--cpu", type=Whole(0), metavar="N", help="Pin the worker."),
            click.argument("n", default=default, callback=npackets),
        ):
            command = option(command)
        return command

    return decorate


def report(
    benchmark: str, packets: int, seconds: float, *, as_json: bool, **more: Any
) -> None:
    """Print the result."""
    mpps = packets / seconds / 1e6
    result = {
        "benchmark": benchmark,
        "packets": packets,
        "seconds": round(seconds, 6),
        "mpps": round(mpps, 4),
        **more,
    }
    if as_json:
        print(json.dumps(result))
        return
    rest = "".join(f"; {key.replace('_', ' ')} {value}" for key, value in more.items())
    many = f"{packets / 1e6:.1f} million" if packets >= MANY else f"{packets}"
    rate = f"{mpps:.1f} Mpps" if mpps >= 1 else f"{mpps * 1e3:.1f} kpps"
    print(f"{benchmark}: {many} packets in {seconds:.2f} seconds (rate: {rate}){rest}")
