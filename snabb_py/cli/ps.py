"""`snabb-py ps`: the instances that run here."""

import json
import shlex
from typing import Any

import click

from snabb_py.cli.terminal import complain, printable, shown
from snabb_py.engine.instances import Instance, find
from snabb_py.errors import SnabbError

#: What is said where there is no instance.
NOTHING = "nothing runs here"


def arguments_of(command: list[str], program: str) -> list[str]:
    """Return what a program was called with, behind its name.

    Args:
        command: of the process, the interpreter and our executable in front.
        program: its name.
    """
    for i, word in enumerate(command):
        if word.rpartition("/")[2] == program:
            return command[i + 1 :]
    return command[1:]


def describe(instance: Instance) -> dict[str, Any] | None:
    """Return what is known of an instance; None: it has ended.

    Raises:
        SnabbError: its files are damaged, or what it answers.
    """
    try:
        reader = instance.open_counters()
    except SnabbError:
        if instance.is_alive:
            raise
        return None
    reader.close()
    outsides = instance.outsides() or {}
    return {
        "pid": instance.pid,
        "program": reader.program,
        "arguments": arguments_of(instance.command, reader.program),
        "interfaces": {printable(a): printable(w) for a, w in outsides.items()},
        "seconds": round(instance.seconds, 2),
        "workers": [
            {"worker": number, "cpus": cpus} for number, cpus in instance.cpus.items()
        ],
    }


def uptime(seconds: float) -> str:
    """Return a time as 1d 02:03:04."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    text = f"{hour:02}:{minute:02}:{second:02}"
    return f"{days}d {text}" if days else text


def line_of(one: dict[str, Any]) -> str:
    """Return what is known of an instance as a line of text."""
    cpus = " ".join(worker["cpus"] for worker in one["workers"])
    command = shlex.join([one["program"], *one["arguments"]])
    outsides = ", ".join(one["interfaces"].values())
    line = f"{one['pid']:>10}  {uptime(one['seconds']):>12}  {cpus:<12}  {command}"
    return shown(f"{line}  ({outsides})" if outsides else line)


@click.command("ps")
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object to the instance."
)
def program(*, as_json: bool) -> None:
    """Show the instances of snabb-py that run here.

    One line each: process, how long it has been running, the CPUs that each worker may
    run on, what it was called with, and in brackets what its network is joined to.
    Those of other users are not shown.

    \b
    Examples:
      snabb-py ps
      snabb-py ps --json
    """
    found = []
    for instance in find():
        try:
            one = describe(instance)
        except SnabbError as error:
            complain(str(error))
            continue
        if one:
            found.append(one)
    if as_json:
        for one in found:
            print(json.dumps(one))
        return
    if not found:
        print(NOTHING)
    else:
        print(f"{'PID':>10}  {'UPTIME':>12}  {'CPUS':<12}  PROGRAM")
    for one in found:
        print(line_of(one))
