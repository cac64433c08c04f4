"""The instances that run on this machine, as others see them.

What is known of one comes from its directory (shm.py), from the kernel (/proc) and from
its control socket; none of it costs its workers anything. Imports shm_reader, control.
"""

import contextlib
import errno
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snabb_py.engine import shm
from snabb_py.engine.control import AnswerError, call
from snabb_py.engine.shm_reader import CountersReader, instances
from snabb_py.errors import DeviceError, SnabbError

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

    def outsides(self) -> dict[str, str] | None:
        """Return by app what its network is joined to.

        None: it does not say, being stopped, just ending, or of another version.

        Raises:
            AnswerError: what it says is no answer.
        """
        try:
            answer = self.ask("interfaces")
        except AnswerError:
            raise
        except SnabbError:
            return None
        if not isinstance(answer, dict) or not all(
            isinstance(word, str) for word in answer.values()
        ):
            raise AnswerError(self.control, "interfaces without names")
        return answer

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


def find() -> list[Instance]:
    """Return the instances that run, by pid.

    Raises:
        ConfigError: the runtime directory is somebody else's.
    """
    # Without counters one is just beginning, or ending.
    return [
        Instance(int(directory.name), directory)
        for directory in instances()
        if (directory / "counters").exists()
    ]


def find_one(pid: int) -> Instance:
    """Return the instance of a process.

    Raises:
        DeviceError: there is none.
    """
    for instance in find():
        if instance.pid == pid:
            return instance
    hint = "`snabb-py ps` lists yours"
    raise DeviceError(f"find the instance of process {pid}", errno.ESRCH, hint)
