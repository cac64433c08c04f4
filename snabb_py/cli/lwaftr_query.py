"""`snabb-py lwaftr query`: counters of lwAFTRs that run."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeGuard

import click

from snabb_py.cli.terminal import complain, printable
from snabb_py.cli.usage import Whole
from snabb_py.engine import counter
from snabb_py.engine.shm import is_alive
from snabb_py.engine.shm_reader import CountersReader, Rows, instances, read_about
from snabb_py.errors import ConfigError, SnabbError
from snabb_py.lwaftr.counters import NAMES
from snabb_py.lwaftr.spread import Spread

#: Those of lwAFTRs, and of what spreads packets over several.
ALL_NAMES = (*NAMES, *Spread.counters)


@dataclass(frozen=True)
class Found:
    """An instance with lwAFTRs.

    Attributes:
        pid: of its process.
        about: what it says of itself.
        counters: all workers summed; and what is lost before and behind them, by
            "app reason" and "link txdrop".
    """

    pid: int
    about: dict[str, Any]
    counters: Counter[str]


def find(pid: int | None) -> Iterator[Found]:
    """Yield the instances with lwAFTRs that run here; what cannot be read is said.

    Args:
        pid: only this one.
    """
    for directory in instances(pid):
        try:
            found = look(directory)
        except ConfigError as error:
            _blame(directory, error)
        else:
            if found:
                yield found


def look(directory: Path) -> Found | None:
    """Return the instance of a directory; None: it has no lwAFTR.

    Raises:
        ConfigError: its counters cannot be read.
    """
    counters = read(directory / "counters")
    if counters is None:
        return None
    try:
        about = read_about(directory)
    except ConfigError as error:
        _blame(directory, error)
        about = {}
    return Found(int(directory.name), about, counters)


def _blame(directory: Path, error: ConfigError) -> None:
    """Say what is wrong with an instance, if it has not just ended."""
    if is_alive(directory):
        complain(f"process {directory.name}: {error}")


def read(path: Path) -> Counter[str] | None:
    """Return the counters of an instance; None: it has no lwAFTR.

    Raises:
        ConfigError: the file cannot be read, or is damaged.
    """
    reader = CountersReader(path)
    try:
        rows = reader.read()
    finally:
        reader.close()
    ours = [row for row in rows.values() if is_ours(row)]
    if not ours:
        return None
    counters = Counter(dict.fromkeys(ALL_NAMES, 0))
    for row in (*ours, losses(rows)):
        counters.update(row)
    return counters


def is_ours(row: object) -> TypeGuard[dict[str, int]]:
    """Return whether a row is an lwAFTR's, or of what stands in front of it."""
    return isinstance(row, dict) and tuple(row) in {NAMES, Spread.counters}


def losses(rows: Rows) -> Counter[str]:
    """Return what interfaces, links and workers have lost, as `engine.drops` has it."""
    drops: Counter[str] = Counter()
    for key, row in rows.items():
        if is_ours(row) or not isinstance(row, dict):
            continue
        kind, _, name = key.partition("/")
        name = f"worker-{name}" if kind == "workers" else name
        drops.update({f"{name} {k}": n for k, n in row.items() if counter.is_drop(k)})
    return drops


def select(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Return the names that a pattern is, or is a part of, or matches; none: all."""
    return [
        name
        for name in names
        if not patterns
        or any(
            p == name if p in names else p in name or fnmatchcase(name, p)
            for p in patterns
        )
    ]


def headline(found: Found) -> str:
    """Return which instance it is."""
    about = found.about
    interfaces = about.get("interfaces")
    parts = [f"process {found.pid}"]
    if isinstance(interfaces, dict):
        parts.append(", ".join(f"{port} {word}" for port, word in interfaces.items()))
    parts += [f"{about[key]}" for key in ("conf", "bt") if about.get(key)]
    text = printable("  ".join(parts))
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def show(found: Found, names: Sequence[str]) -> None:
    """Print an instance's counters that are not 0."""
    print(headline(found))
    shown = [name for name in names if found.counters[name]]
    for name in shown:
        print(f"  {name:56} {found.counters[name]:>20,}")
    if not shown:
        print("  all 0")


@click.command("query")
@click.argument("pattern", nargs=-1)
@click.option("--pid", type=Whole(0), metavar="PID", help="Of this process only.")
@click.option("-l", "--list", "names_only", is_flag=True, help="Only list the names.")
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object to the instance."
)
def program(
    *, pattern: tuple[str, ...], pid: int | None, names_only: bool, as_json: bool
) -> None:
    """Show the counters that are not 0 of the lwAFTRs that run here.

    PATTERN is a counter's name, a part of it, or has * and ? in it; of several one must
    match. All workers of an instance are summed. Behind the lwAFTR's own counters stand
    those of what its interfaces and links have lost: "v4 drop-rx-kernel-ring-full",
    "v4.tx -> lwaftr.v4 txdrop". With --json counters that are 0 are there, too.

    Each instance is shown with its interfaces and files. What an instance has left
    damaged is said on stderr; the others are shown.

    \b
    Examples:
      snabb-py lwaftr query
      snabb-py lwaftr query drop
      snabb-py lwaftr query 'in-*-packets' --pid 1234 --json
      snabb-py lwaftr query -l icmp
    """
    all_found = [] if names_only else list(find(pid))
    known = list(
        dict.fromkeys([*ALL_NAMES, *(n for f in all_found for n in f.counters)])
    )
    names = select(known, pattern)
    if not names:
        raise ConfigError(
            f"no counter's name has {' or '.join(pattern)} in it; "
            "`snabb-py lwaftr query -l` lists them"
        )
    if names_only:
        print("\n".join(names))
        return
    if not all_found:
        who = "of yours" if pid is None else f"in process {pid}"
        raise SnabbError(f"no lwAFTR {who} runs here; `snabb-py ps` lists what does")
    for found in all_found:
        own = [name for name in names if name in found.counters]
        if as_json:
            values = {name: found.counters[name] for name in own}
            print(json.dumps({"pid": found.pid, **found.about, "counters": values}))
        else:
            show(found, own)
