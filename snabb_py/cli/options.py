"""Options that programs share."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click


class Number(click.FloatRange):
    """A number within a range; unlike click's, "nan" is none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


F = TypeVar("F", bound=Callable[..., Any])


def engine_options(command: F) -> F:
    """Add how the engine runs: --cpu, -b/--busy."""
    for option in (
        click.option(
            "-b", "--busy", is_flag=True, help="Never sleep: poll all the time."
        ),
        click.option(
            "--cpu", type=int, metavar="N", help="Pin the worker to this CPU."
        ),
    ):
        command = option(command)
    return command


def report_options(command: F) -> F:
    """Add how long it runs and what it prints: --duration, --interval, --json."""
    for option in (
        click.option(
            "--json",
            "as_json",
            is_flag=True,
            help="One JSON object to the line; the last is the summary.",
        ),
        click.option(
            "--interval",
            type=Number(0.01, 86400),
            default=1.0,
            show_default=True,
            metavar="S",
            help="Seconds between two reports.",
        ),
        click.option(
            "--duration",
            type=Number(0, 1e9),
            metavar="S",
            help="Seconds to run; without it, until it is ended.",
        ),
    ):
        command = option(command)
    return command
