"""Each mistake that a user can make with each program, and the one line that it gives.

`data/user_errors.txt` has the mistakes; each is made, with the real program. What kinds
of mistakes a program allows its parameters tell: a program without rows of these kinds
fails here.
"""

import subprocess
from collections.abc import Iterator

import click
import pytest

from snabb_py.cli import cli
from tests.user_errors import ENVIRONMENT, Row, World, rows, world

TABLE = list(rows())
#: Seconds for a program to find out what is wrong.
PATIENCE = 60
#: Programs of captures whose parameters are not of a type of their own.
READERS = {"forward", "packetblaster replay"}
#: Parameters that name what is written, what is listened at, what packets go through.
OUTPUTS, SOCKETS = {"path"}, {"socket", "sockets", "sock"}
INTERFACES = {"ring_size", "wires"}
#: Where a program has workers.
RUNS = {"cpu", "cpu_list"}


@pytest.fixture(scope="module")
def here() -> Iterator[World]:
    with world() as made:
        before = made.files
        yield made
        assert made.files == before, "mistakes leave nothing behind"


@pytest.mark.need("root", "netns", "tun", "xdp", "libpcap", "two-cpus")
@pytest.mark.parametrize("row", TABLE, ids=str)
def test_it_is_this_line(row: Row, here: World) -> None:
    done = subprocess.run(
        here.command(row),
        check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=PATIENCE, env=ENVIRONMENT,
    )  # fmt: skip
    line = row.line.format_map(here.words)
    assert (done.stderr, done.returncode, done.stdout) == (
        f"snabb-py: {line}\n",
        row.status,
        "",
    )


def test_no_row_is_there_twice() -> None:
    calls = [(row.command, row.user) for row in TABLE]
    assert len(set(calls)) == len(calls)


def programs(
    command: click.Command = cli, name: str = ""
) -> Iterator[tuple[str, click.Command]]:
    """Yield all programs that are no groups, by name: "lwaftr run"."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command)
    for word in command.list_commands(context):
        below = command.get_command(context, word)
        assert below
        yield from programs(below, f"{name} {word}".strip())


def program_of(row: Row) -> str:
    """Return the program that a row calls; "": none that there is."""
    found = [name for name, _ in programs() if f"{row.command} ".startswith(f"{name} ")]
    return max(found, key=len, default="")


def kinds_due(name: str, command: click.Command) -> set[str]:
    """Return the kinds of mistakes that a program's parameters allow."""
    options = [p for p in command.params if isinstance(p, click.Option)]
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    names = {p.name for p in command.params}
    inputs = (
        {p.name for p in command.params if isinstance(p.type, click.Path)}
        - OUTPUTS
        - SOCKETS
    )
    due = {
        "unknown option": True,
        "bad value": any(not p.is_flag for p in options),
        "missing argument": any(p.required for p in arguments),
        "extra argument": all(p.nargs == 1 for p in arguments),
        "missing file": inputs or names & (OUTPUTS | SOCKETS) or name in READERS,
        "unreadable file": inputs or name in READERS,
        "wrong file": inputs or names & SOCKETS or name in READERS,
        "no interface": names & INTERFACES,
        "missing right": names & (INTERFACES | {"address", "listen"}),
        "busy": names & (INTERFACES | {"address", "listen"})
        or (names & SOCKETS and names & RUNS),
        "no huge pages": "ring_size" in names,
        "unknown instance": "pid" in names,
    }
    return {kind for kind, is_due in due.items() if is_due}


@pytest.mark.parametrize(("name", "command"), list(programs()))
def test_no_program_lacks_rows(name: str, command: click.Command) -> None:
    there = {row.kind for row in TABLE if program_of(row) == name}
    assert kinds_due(name, command) <= there
