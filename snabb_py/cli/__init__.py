"""snabb-py: one executable, many programs.

Each program is a click command in a file of its own, imported only when it is called,
so that `--help` is quick. Errors of ours become one line and an exit status here.
"""

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Iterator, Mapping

# While modules are imported Ctrl-C just ends the process; `main` gives it its meaning.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from snabb_py import __version__
from snabb_py.cli.terminal import complain, one_line
from snabb_py.cli.usage import Group, explain
from snabb_py.errors import ConfigError, DeviceError, SnabbError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: Program -> what `snabb-py --help` says of it. The module has the program's name.
PROGRAMS = {
    "bench": "Measure the engine itself.",
    "capture": "Copy what passes a link of an instance to a file.",
    "doctor": "Say what the machine lacks for moving packets, and mend it.",
    "forward": "Join two interfaces through a chain of forwarders.",
    "graph": "Show the app network of an instance.",
    "loadtest": "Find out what a device loses under load, and from which rate on.",
    "lwaftr": "Carry IPv4 over IPv6: the internet's end of lightweight 4over6.",
    "metrics": "Export what instances count, for Prometheus.",
    "nfv": "Join virtual machines to a card, each with a port of its own.",
    "packetblaster": "Send traffic: made up, from captures, or of softwires.",
    "pci": "Show PCI cards; lend them to user space and give them back.",
    "ps": "Show the instances that run here.",
    "sim82599": "Serve software Intel 82599 cards to virtual machines.",
    "top": "Show what instances do, live.",
}


class Programs(Group):
    """A group that imports a program when it is run, not when it is listed.

    Args:
        table: program -> what the group's `--help` says of it.
        prefix: of the module that has the program's name, "_" for "-".
    """

    def __init__(
        self, *args: Any, table: Mapping[str, str], prefix: str, **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        self._table = table
        self._prefix = prefix

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all programs."""
        del ctx
        return sorted(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a program, imported now."""
        del ctx
        if cmd_name not in self._table:
            return None
        with _deadly_signals():
            command = import_module(self._prefix + cmd_name.replace("-", "_")).program
        if not isinstance(command, click.Command):
            raise TypeError(cmd_name)
        return command

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> "list[CompletionItem]":
        """Return the programs and options that begin so, importing no program."""
        from click.shell_completion import CompletionItem

        programs = [
            CompletionItem(name, help=text)
            for name, text in sorted(self._table.items())
            if name.startswith(incomplete)
        ]
        return programs + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the programs from the table alone, importing none."""
        del ctx
        with formatter.section("Programs"):
            formatter.write_dl(sorted(self._table.items()))


@contextlib.contextmanager
def _deadly_signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM just end the process.

    While a module is imported there is nothing to give back yet, and an exception out
    of a handler may get lost: the compiler swallows it, importlib loses its locks.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@click.group(
    cls=Programs,
    table=PROGRAMS,
    prefix="snabb_py.cli.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 88},
    epilog="Each program's own manual: snabb-py PROGRAM --help",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, "-V", "--version", prog_name="snabb-py")
def cli(*, debug: bool) -> None:
    """Move Ethernet packets in user space: between interfaces, taps and captures.

    \b
    Examples:
      snabb-py forward --hops 8 --bidir
      snabb-py forward raw:eth1 raw:eth2 --bidir
      snabb-py nfv traffic sim examples/nfv.toml vm-%s.sock
      snabb-py sim82599 nic.sock --wire tap:tap0
      snabb-py packetblaster synth sim --flows 1000
      snabb-py loadtest find-limit raw:eth1 raw:eth2
      snabb-py pci list
      snabb-py top
      snabb-py doctor
      snabb-py bench basic1
    """
    if debug:
        os.environ["SNABB_DEBUG"] = "1"


def main(arguments: list[str] | None = None) -> None:
    """Run a program and exit: 0 well, 1 it failed, 2 it was called wrongly.

    Args:
        arguments: without them those that the process was called with.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed before we came
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123
    if isinstance(sys.stdout, io.TextIOWrapper):
        if sys.stdout is sys.__stdout__:  # which stays open
            sys.stdout = _named(sys.stdout)
        # A terminal that lacks a character is no reason to stop; as stderr is anyway.
        sys.stdout.reconfigure(errors="backslashreplace")
    # Programs without an ending of their own are unwound: what they hold is given back.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _unwind)
    try:
        sys.exit(
            cli.main(
                arguments or _called_with(), prog_name="snabb-py", standalone_mode=False
            )
            or 0
        )
    except click.Abort:
        sys.exit(130)
    except BrokenPipeError:
        _forget_stdout()
        sys.exit(1)
    except (click.UsageError, SnabbError, OSError, MemoryError) as error:
        sys.exit(_fail(error))


class _Stdout(io.FileIO):
    """The file of stdout; errors say that it is this one."""

    def write(self, data: Any, /) -> int:
        """Write; see io.RawIOBase."""
        try:
            return super().write(data)
        except OSError as error:
            error.filename = "stdout"
            raise


def _named(stdout: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return the same with a `_Stdout` below it."""
    raw = _Stdout(stdout.fileno(), "w", closefd=False)
    is_buffered = isinstance(stdout.buffer, io.BufferedWriter)
    return io.TextIOWrapper(
        io.BufferedWriter(raw) if is_buffered else raw,
        stdout.encoding,
        line_buffering=stdout.line_buffering,
        write_through=stdout.write_through,
    )


def _fail(error: Exception) -> int:
    """Say what is wrong; return the exit status.

    Bytes of the call that are no UTF-8 are named (one_line), where complain() alone
    would put a sign in their place, as reports do.
    """
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code
    if isinstance(error, click.UsageError):
        complain(one_line(explain(error)))
        return error.exit_code
    if os.environ.get("SNABB_DEBUG") == "1":
        raise error
    if isinstance(error, OSError):
        _forget_stdout()
    complain(one_line(str(_with_hint(error))))
    return 2 if isinstance(error, ConfigError) else 1


def _called_with() -> list[str]:
    """Return the arguments; by a link with a program's name, that is the first."""
    name = sys.argv[0].rpartition("/")[2]
    return [name, *sys.argv[1:]] if name in PROGRAMS else sys.argv[1:]


def _unwind(number: int, _frame: object) -> None:
    """End the program, once: a second signal must not interrupt the giving back."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _with_hint(error: Exception) -> Exception:
    """Return an error that says what to do, if it can be said."""
    if isinstance(error, MemoryError):
        return DeviceError("get memory", errno.ENOMEM)
    if isinstance(error, OSError) and error.errno:
        step = f"use {error.filename}" if error.filename else "ask the kernel"
        return DeviceError(step, error.errno)
    return error


def _forget_stdout() -> None:
    """Nobody reads our output: no second complaint when Python flushes it."""
    with contextlib.suppress(OSError, ValueError):
        forget(sys.stdout.fileno())


def forget(fd: int) -> None:
    """Let what is written to a file descriptor from now on go nowhere."""
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), fd)
