"""The instances that run on this machine, as others see them.

What is known of one comes from its directory (shm.py), from the kernel (/proc) and from
its control socket; none of it costs its workers anything. Imports shm and control.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snabb_py.engine import shm
from snabb_py.engine.control import call
from snabb_py.engine.counters_reader import CountersReader
from snabb_py.errors import ConfigError

#: Seconds that an instance has for its answer to somebody who just looks.
PATIENCE = 2.0

_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Instance:
    """An instance that ran when it was found; it may have ended since.

    Attributes:
        pid: of its process.
        directory: its own below the runtime directory.
    """

    pid: int
    directory: Path

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return shm.is_alive(self.directory)

    @property
    def control(self) -> Path:
        """Its control socket."""
        return self.directory / "control"

    def open_counters(self) -> CountersReader:
        """Return a reader of its counters.

        Raises:
            ConfigError: they cannot be read, or it has ended.
        """
        return CountersReader(self.directory / "counters")

    def ask(self, verb: str, **members: Any) -> Any:
        """Return what its control socket answers; see `control.call`."""
        return call(self.control, verb, patience=PATIENCE, **members)

    @property
    def command(self) -> list[str]:
        """What it was called with; [] if it has ended."""
        with contextlib.suppress(OSError):
            data = Path(f"/proc/{self.pid}/cmdline").read_bytes()
            return data.decode(errors="replace").rstrip("\0").split("\0")
        return []

    @property
    def seconds(self) -> float:
        """How long its process has been running; 0 if it has ended."""
        with contextlib.suppress(OSError, IndexError, ValueError):
            text = Path(f"/proc/{self.pid}/stat").read_bytes()
            # Behind the name, which may have anything in it: field 22, proc(5).
            ticks = int(text.rpartition(b")")[2].split()[19])
            return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / _CLOCK_TICKS
        return 0.0

    @property
    def cpus(self) -> dict[int, str]:
        """The CPUs that each worker may run on, "0-3"; {} if it has ended."""
        found = {}
        tasks = Path(f"/proc/{self.pid}/task")
        with contextlib.suppress(OSError):
            for task in tasks.iterdir():
                with contextlib.suppress(OSError):  # a thread that has ended meanwhile
                    name = re.fullmatch(
                        r"worker-(\d+)\n", (task / "comm").read_text(errors="replace")
                    )
                    allowed = re.search(
                        r"^Cpus_allowed_list:\s*(\S+)$",
                        (task / "status").read_text(errors="replace"),
                        re.MULTILINE,
                    )
                    if name and allowed:
                        found[int(name[1])] = allowed[1]
        return dict(sorted(found.items()))


def find(complain: Callable[[str], None]) -> list[Instance]:
    """Return the instances that run, by pid.

    Args:
        complain: takes a line about a directory that is not what it should be.

    Raises:
        ConfigError: the runtime directory is somebody else's.
    """
    root = shm.runtime_directory()
    found = []
    try:
        shm.check_private(root)
        paths = [p for p in root.iterdir() if re.fullmatch(r"[1-9][0-9]{0,9}", p.name)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{root}: {error.strerror}") from None
    for path in sorted(paths, key=lambda path: int(path.name)):
        try:
            shm.check_private(path)
            # Without counters it is just beginning, or ending.
            if shm.is_alive(path) and (path / "counters").exists():
                found.append(Instance(int(path.name), path))
        except ConfigError as error:
            complain(str(error))
        except OSError:
            continue  # it has ended meanwhile
    return found


def find_one(pid: int) -> Instance:
    """Return the instance of a process.

    Raises:
        ConfigError: there is none.
    """
    lines: list[str] = []
    for instance in find(lines.append):
        if instance.pid == pid:
            return instance
    why = next((line for line in lines if f"/{pid}: " in line), "")
    raise ConfigError(
        why or f"process {pid} is no instance: nothing under {shm.runtime_directory()}"
    )
