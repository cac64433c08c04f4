"""What the programs of `snabb-py lwaftr` share: options, captures read and written."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from snabb_py._native import lib
from snabb_py.apps.pcap import PcapReader, PcapWriter
from snabb_py.cli.usage import OneOf
from snabb_py.engine import counter
from snabb_py.engine.engine import Engine
from snabb_py.engine.solo import Solo
from snabb_py.errors import ConfigError

COMPAT = click.option(
    "--compat",
    type=OneOf(["snabb"]),
    help="Do as Snabb does where the RFCs ask for something else.",
)


def read_frames(path: Path) -> list[bytes]:
    """Return all frames of a capture, read by the app that sends them.

    Raises:
        SnabbError: it cannot be read to its end.
    """
    reader = PcapReader(path)
    with Solo(reader) as solo:
        frames = solo.drain()
        problem = reader.supervise()
        lost = {name: n for name, n in solo.counters.items() if name != "over-snaplen"}
    if problem or lost:
        reasons = ", ".join(f"{name}: {n}" for name, n in lost.items())
        raise ConfigError(problem or f"{path}: not all of it can be sent ({reasons})")
    return frames


def write_frames(path: Path, frames: Sequence[bytes]) -> None:
    """Write a capture.

    Raises:
        SnabbError: it cannot be opened.
        Exit: it cannot be written; the writer has said why.
    """
    writer = PcapWriter(path)
    with Solo(writer) as solo:
        for i in range(0, len(frames), lib.WORKER_BURST):
            solo.send(frames[i : i + lib.WORKER_BURST])
            solo.breathe()
        solo.tick()
    if writer.failure:
        raise click.exceptions.Exit(1)


def app_drops(engine: Engine, apps: Iterable[str]) -> dict[str, int]:
    """Return the packets that lwAFTRs have dropped, by counter, summed."""
    drops: Counter[str] = Counter()
    for app in apps:
        for name, n in engine.apps[app].counters.items():
            if n and counter.is_drop(name):
                drops[name] += n
    return dict(drops)
