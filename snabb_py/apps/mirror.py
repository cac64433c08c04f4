"""Mirror: a capture of what passes, which nothing waits for.

The copies are made in mirror.c and written by `PcapngWriter`, best on another worker:
a disk may be slow.
"""

import os

from snabb_py._native import ffi, lib
from snabb_py.apps.pcap import PcapngWriter
from snabb_py.engine.app import App, Ports
from snabb_py.engine.config import Config


class Mirror(App):
    """What passes both ways, and copies of it.

                  +--------+
        to ------>|        |---> to
                  | Mirror |---> copy_to
        from ---->|        |---> from
                  +--------+---> copy_from

    A full `to` or `from` holds its input up; the copies never do. Any port may be left
    out; what has no output is dropped.

    Counters: `mirror-lost` (not copied: whoever takes the copies is too slow),
    `mirror-no-packet` (nothing free to copy into).
    """

    inputs = Ports("to", "from", optional=True)
    outputs = Ports("to", "from", "copy_to", "copy_from", optional=True)
    counters = ("mirror-lost", "mirror-no-packet")
    ops = ffi.addressof(lib.mirror_ops)


def add_mirror(  # noqa: PLR0913 - two apps and where they run
    config: Config,
    name: str,
    path: str | os.PathLike[str],
    *,
    label: str = "",
    worker: int | None = None,
    writer: int | None = None,
) -> None:
    """Add a Mirror and the writer of its copies, linked with each other.

    Args:
        config: gets the apps `name` and `name`-file; `name` has the ports to and from.
        name: of the Mirror.
        path: of the capture file.
        label: the interface's name in the file.
        worker: of the traffic.
        writer: the worker that writes the file: another one, if there is one, or a slow
            disk holds the traffic up.
    """
    file = f"{name}-file"
    config.app(name, Mirror, worker=worker)
    config.app(file, PcapngWriter, worker=writer, path=os.fspath(path), name=label)
    for way in ("to", "from"):
        config.link(f"{name}.copy_{way} -> {file}.{way}")
