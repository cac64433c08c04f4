"""How programs are called: values of options, and what is said of those that are wrong.

What click says of a wrong call is three lines; here it is one, in the form of all other
errors: what is wrong, why, and what would be right. Imports click alone.
"""

import math
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

import click

#: A file. What is wrong with it whoever opens it finds out.
PATH = click.Path(path_type=Path, readable=False)
#: From so many on a number is whole, and all digits are shown.
LARGE = 1000

Context = click.Context | None
Parameter = click.Parameter | None


class Group(click.Group):
    """A group of programs; of one that there is not it says which may be meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the name of the program, itself, and its arguments.

        Raises:
            UsageError: there is no such program.
        """
        known = self.list_commands(ctx)
        if args[0] not in known and not ctx.resilient_parsing:
            hint = _meant(args[0], known) or _see(ctx)
            raise click.UsageError(f'"{args[0]}" is no program; {hint}', ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a program; an error of its call knows which one it was."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            name = ctx.invoked_subcommand
            command = self.get_command(ctx, name) if name else None
            if error.ctx is None and command:
                error.ctx = click.Context(command, parent=ctx, info_name=name)
            raise


class Whole(click.IntRange):
    """A whole number within a range."""

    kind = "whole number"

    def suits(self, number: int) -> bool:
        """Return whether a number of the range will do."""
        del number
        return True

    def convert(self, value: Any, param: Parameter, ctx: Context) -> int:
        """Return the number."""
        try:
            number = int(super().convert(value, param, ctx))
        except click.BadParameter:
            number = None
        if number is None or not self.suits(number):
            self.fail(f'"{value}" is no {self.kind} {span(self)}', param, ctx)
        return number


class PowerOfTwo(Whole):
    """A power of two within a range."""

    kind = "power of two"

    def suits(self, number: int) -> bool:
        """Return whether a number of the range will do."""
        return number & (number - 1) == 0


class Number(click.FloatRange):
    """A number within a range; unlike click's, "nan" is none."""

    def convert(self, value: Any, param: Parameter, ctx: Context) -> float:
        """Return the number."""
        try:
            number = float(super().convert(value, param, ctx))
        except click.BadParameter:
            number = math.nan
        if not math.isfinite(number):
            self.fail(f'"{value}" is no number {span(self)}', param, ctx)
        return number


class OneOf(click.Choice[str]):
    """One of a few words."""

    def convert(self, value: Any, param: Parameter, ctx: Context) -> str:
        """Return the word."""
        if value not in self.choices:
            known = ", ".join(self.choices)
            is_what = "none of" if len(self.choices) > 1 else "not"
            self.fail(f'"{value}" is {is_what} {known}', param, ctx)
        return str(value)


def span(numbers: click.IntRange | click.FloatRange) -> str:
    """Return a range in words: "from 1 to 5", "above 0 and up to 1", "from 1 on"."""
    low, high = (
        f"{end:g}" if isinstance(end, float) and end < LARGE else f"{int(end or 0)}"
        for end in (numbers.min, numbers.max)
    )
    if numbers.max is None:
        return f"from {low} on"
    if not numbers.min_open and not numbers.max_open:
        return f"from {low} to {high}"
    begin = f"above {low}" if numbers.min_open else f"from {low} on"
    return f"{begin} and {'below' if numbers.max_open else 'up to'} {high}"


def as_option(text: str, names: Container[str]) -> str:
    """Return what is wrong with an argument, said of the option of its name.

    Args:
        text: "src_ip: what is wrong".
        names: of the arguments that are options.
    """
    name, colon, rest = text.partition(":")
    if name not in names:
        return text
    return f"--{name.replace('_', '-')}{colon}{rest}"


def explain(error: click.UsageError) -> str:
    """Return what is wrong with a call as one line."""
    match error:
        case click.NoSuchOption():
            hint = _meant(error.option_name, error.possibilities or ())
            return f"{error.option_name}: no such option; {hint or _see(error.ctx)}"
        case click.MissingParameter():
            return f"{_name(error)} is missing; {_see(error.ctx)}"
        case click.BadParameter():
            return f"{_name(error)}: {error.message}"
        case click.BadOptionUsage():
            return f"{error.option_name}: {_misuse(error)}; {_see(error.ctx)}"
    if error.message.startswith("Got unexpected"):  # extra arguments
        return f"g{error.message[1:]}; {_see(error.ctx)}"
    return error.message


def _see(ctx: Context) -> str:
    return f"see {ctx.command_path if ctx else 'snabb-py'} --help"


def _meant(word: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(word, list(known), 1)
    return f"did you mean {close[0]}?" if close else ""


def _name(error: click.BadParameter) -> str:
    """Return what the user calls a parameter: "--hops", "SOCKET..."."""
    if isinstance(error.param, click.Option):
        return max(error.param.opts, key=len)
    return error.param.human_readable_name if error.param else "a parameter"


def _misuse(error: click.BadOptionUsage) -> str:
    params = error.ctx.command.params if error.ctx else []
    is_flag = any(
        error.option_name in param.opts and getattr(param, "is_flag", False)
        for param in params
    )
    return "takes no value" if is_flag else "its value is missing"
