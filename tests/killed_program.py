"""A `snabb-py nfv traffic` that is killed, or lives on while its guests are killed.

Of both it is known afterwards whether anything is left: what a process has is counted
by `Belongings`, what one that was killed has left behind by `Program.leftovers`.
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from snabb_py.engine import control
from snabb_py.engine.shm import runtime_directory
from snabb_py.errors import SnabbError
from tests.hosts import until

ROOT = Path(__file__).parents[1]
#: A process ends with the thread that starts it: nothing is left of a killed test run.
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")


def mac(name: str) -> bytes:
    """Return the address of a port."""
    return b"\x52\x54\0" + name.encode().rjust(3, b"\0")


class Program:
    """`snabb-py nfv traffic` between ports alone, which a bridge joins.

    Args:
        directory: of the config and the sockets.
        ports: their names, and whether we listen at the port's socket.
    """

    def __init__(self, directory: Path, ports: dict[str, bool]) -> None:
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None
        #: Of all processes so far.
        self.pids: list[int] = []
        self._conf = directory / "ports.toml"
        self._conf.write_text(
            "".join(
                f'[[port]]\nport_id = "{name}"\nmac_address = "{mac(name).hex(":")}"\n'
                f"server = {json.dumps(is_server)}\n"
                for name, is_server in ports.items()
            )
        )
        self._log = (directory / "log").open("wb")

    def socket(self, name: str) -> Path:
        """Return the path of a port's socket."""
        return self.directory / f"{name}.sock"

    def start(self) -> None:
        """Start it; return at once."""
        self.process = subprocess.Popen(
            [*DIES_WITH_US, sys.executable, "-m", "snabb_py", "nfv", "traffic", "null",
             self._conf, self.directory / "%s.sock", "-l", "0", "-k", "0", "-D", "0"],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, cwd=ROOT,
        )  # fmt: skip
        self.pids.append(self.process.pid)

    def wait(self) -> None:
        """Wait until it runs."""
        until(lambda: self.ask("uptime") is not None, "snabb-py", 120)

    def kill(self) -> None:
        """Kill it, wherever it is."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def end(self) -> None:
        """End it as its user does."""
        assert self.process
        self.process.terminate()
        assert self.process.wait(30) == 0, self.log

    @property
    def log(self) -> str:
        """What all of them have said."""
        return (self.directory / "log").read_text()

    def ask(self, verb: str) -> Any:
        """Return the answer of its control socket; None: there is none."""
        assert self.process
        assert self.process.poll() is None, self.log
        try:
            return control.call(
                runtime_directory() / str(self.process.pid) / "control", verb
            )
        except SnabbError:
            return None

    def counter(self, port: str, name: str) -> int:
        """Return a counter of a port's."""
        return int(self.ask("counters")["apps"][f"{port}_Virtio"][name])

    def leftovers(self) -> list[str]:
        """Return what is left of those that do not run any more."""
        found = []
        living = self.process.pid if self.process and self.process.poll() is None else 0
        for pid in self.pids:
            directory = runtime_directory() / str(pid)
            if pid != living and directory.exists():
                found.append(str(directory))
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Killed, it would leave its notes and its huge pages to the next one.
        if error is None and self.process and self.process.poll() is None:
            self.end()
        self.kill()
        self._log.close()
        if error:
            print("--- snabb-py ---", self.log[-4000:], sep="\n")


#: Bytes of memory of its own that a process may have grown by: the interpreter's.
MOST_GROWTH = 2 << 20
#: Mappings without a file that may have come: of the allocators.
MOST_ANONYMOUS = 4


@dataclass(frozen=True)
class Belongings:
    """What a program has that could leak.

    Attributes:
        fds: open files, by kind.
        files: mappings of files, by name.
        anonymous: mappings without.
        bytes: of memory, by the kernel's names.
        packets: where those of the pool are.
    """

    fds: dict[str, int]
    files: dict[str, int]
    anonymous: int
    bytes: dict[str, int]
    packets: dict[str, int]

    @classmethod
    def at_rest(cls, program: Program) -> Self:
        """Count until nothing comes or goes any more."""
        counted = cls.of(program)
        while True:
            before = counted
            time.sleep(0.2)
            counted = cls.of(program)
            if (before.fds, before.files) == (counted.fds, counted.files):
                return counted

    @classmethod
    def of(cls, program: Program) -> Self:
        """Count."""
        assert program.process
        packets = program.ask("packets")
        directory = Path("/proc", str(program.process.pid))
        fds: Counter[str] = Counter()
        for fd in (directory / "fd").iterdir():
            with suppress(FileNotFoundError):
                fds[re.sub(r":\[\d+\]$", "", str(fd.readlink()))] += 1
        files: Counter[str] = Counter()
        anonymous = 0
        for line in (directory / "maps").read_text().splitlines():
            name = line.split(maxsplit=5)[5:]
            if name and not name[0].startswith("["):
                files[name[0]] += 1
            else:
                anonymous += 1
        status = (directory / "status").read_text()
        numbers = {
            name: int(kib) << 10
            for name, kib in re.findall(r"(\w+):\s+(\d+) kB", status)
            if name in {"VmRSS", "RssAnon", "VmLck", "VmPin", "HugetlbPages"}
        }
        return cls(dict(fds), dict(files), anonymous, numbers, packets)

    def gained(self, after: "Belongings") -> list[str]:
        """Return what there is too much of, or too little of packets, afterwards."""
        found = [
            f"{kind} {name}: {one.get(name, 0)} before, {two.get(name, 0)} after"
            for kind, one, two in (
                ("open", self.fds, after.fds),
                ("mapped", self.files, after.files),
            )
            for name in sorted(one.keys() | two.keys())
            if one.get(name) != two.get(name)
        ]
        if after.anonymous > self.anonymous + MOST_ANONYMOUS:
            found.append(f"{after.anonymous - self.anonymous} more mappings")
        found += [
            f"{name}: {after.bytes[name] - self.bytes[name]:+} bytes"
            for name in ("VmLck", "VmPin", "HugetlbPages")
            if after.bytes[name] != self.bytes[name]
        ]
        if after.bytes["RssAnon"] > self.bytes["RssAnon"] + MOST_GROWTH:
            grown = after.bytes["RssAnon"] - self.bytes["RssAnon"]
            found.append(f"memory of its own: {grown:+} bytes")
        if after.packets != self.packets:
            found.append(f"packets: {self.packets} before, {after.packets} after")
        return found

    def describe(self) -> str:
        """Return the figures."""
        return (
            f"{sum(self.fds.values())} fds, {sum(self.files.values())} mappings of "
            f"files and {self.anonymous} others, {self.bytes['VmRSS'] >> 10} KiB "
            f"resident ({self.bytes['RssAnon'] >> 10} its own), "
            f"{self.bytes['VmLck'] >> 10} locked, {self.bytes['HugetlbPages'] >> 21} "
            f"huge pages, {self.packets['free']} of {self.packets['total']} packets "
            "free"
        )


def compare(before: Belongings, program: Program) -> tuple[Belongings, list[str]]:
    """Return what the program has and what of it is too much, once it is at rest."""
    deadline = time.monotonic() + 10
    while True:
        after = Belongings.at_rest(program)
        gained = before.gained(after)
        if not gained or time.monotonic() > deadline:
            return after, gained


def ended(_number: int, _frame: object) -> None:
    """Take a signal as the end: what is to be cleaned up is."""
    sys.exit("ended")


def end_well() -> None:
    """Let SIGTERM and SIGHUP end us as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ended)
