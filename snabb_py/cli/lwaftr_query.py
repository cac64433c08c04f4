"""`snabb-py lwaftr query`: counters of lwAFTRs that run."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeGuard

import click

from snabb_py.engine.counters_reader import CountersReader
from snabb_py.engine.shm import is_alive, runtime_directory
from snabb_py.errors import ConfigError
from snabb_py.lwaftr.counters import NAMES
from snabb_py.lwaftr.spread import Spread

#: Those of lwAFTRs, and of what spreads packets over several.
ALL_NAMES = (*NAMES, *Spread.counters)


def instances(pid: int | None) -> Iterator[tuple[int, Counter[str]]]:
    """Yield pid and counters of each instance with lwAFTRs, all workers summed.

    Args:
        pid: only this one.
    """
    root = runtime_directory()
    paths = root.iterdir() if root.is_dir() else iter(())
    for number in sorted(int(path.name) for path in paths if path.name.isdigit()):
        directory = root / str(number)
        if pid in {None, number} and is_alive(directory):
            counters = read(directory / "counters")
            if counters is not None:
                yield number, counters


def read(path: Path) -> Counter[str] | None:
    """Return the sums of all workers of an instance, None: no lwAFTR, or gone."""
    try:
        reader = CountersReader(path)
    except ConfigError:
        return None
    try:
        rows = [row for row in reader.read().values() if is_ours(row)]
    finally:
        reader.close()
    if not rows:
        return None
    sums: Counter[str] = Counter()
    for row in rows:
        sums.update(row)
    return sums


def is_ours(row: object) -> TypeGuard[dict[str, int]]:
    """Return whether a row is an lwAFTR's, or of what stands in front of it."""
    return isinstance(row, dict) and tuple(row) in {NAMES, Spread.counters}


def select(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Return the names that match a pattern, or of which one is a part; none: all."""
    return [
        name
        for name in names
        if not patterns or any(p in name or fnmatchcase(name, p) for p in patterns)
    ]


@click.command("query")
@click.argument("pattern", nargs=-1)
@click.option("--pid", type=int, metavar="PID", help="Of this process only.")
@click.option("-l", "--list", "names_only", is_flag=True, help="Only list the names.")
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object to the instance."
)
def program(
    *, pattern: tuple[str, ...], pid: int | None, names_only: bool, as_json: bool
) -> None:
    """Show the counters that are not 0 of the lwAFTRs that run here.

    PATTERN is a part of a counter's name, or has * and ? in it; of several one must
    match. All workers of an instance are summed. With --json counters that are 0 are
    there, too.

    \b
    Examples:
      snabb-py lwaftr query
      snabb-py lwaftr query drop
      snabb-py lwaftr query 'in-*-packets' --pid 1234 --json
      snabb-py lwaftr query -l icmp
    """
    names = select(ALL_NAMES, pattern)
    if pattern and not names:
        raise ConfigError(f"no counter's name has {' or '.join(pattern)} in it")
    if names_only:
        print("\n".join(names))
        return
    found = list(instances(pid))
    if not found:
        which = (
            "no lwAFTR runs here" if pid is None else f"process {pid} runs no lwAFTR"
        )
        raise ConfigError(f"{which}: nothing under {runtime_directory()}")
    for number, counters in found:
        if as_json:
            values = {name: counters[name] for name in names}
            print(json.dumps({"pid": number, "counters": values}))
            continue
        print(f"process {number}")
        for name in names:
            if counters[name]:
                print(f"  {name:56} {counters[name]:>20,}")
