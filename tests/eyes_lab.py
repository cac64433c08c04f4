"""Programs that are watched: each between two cables in a namespace of its own.

    feed x0 --- x1 [program] y1 --- y0

Nothing is on the cables but what `Lab.feed` sends; all is removed at the end.
"""

import json
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from snabb_py.engine.instances import Instance, find
from snabb_py.errors import SnabbError
from tests.hosts import SNABB, Namespace, until
from tests.nfv_program import port, toml

ROOT = Path(__file__).parents[1]
#: To all; of no protocol that anybody speaks.
FRAME = bytes.fromhex("ffffffffffff 0200000000aa 88b5") + bytes(46)
MAC = bytes.fromhex("5254000000aa")

#: Each program with what it is called with, on raw:x1 and raw:y1.
COMMANDS = {
    "forward": ["forward", "raw:x1", "raw:y1", "--hops", "2", "--police", "0.001"],
    "lwaftr": [
        *("lwaftr", "run", "--conf", str(ROOT / "examples/lwaftr.conf")),
        *("--v4", "raw:x1", "--v6", "raw:y1"),
    ],
    "nfv": ["nfv", "traffic", "raw:x1", "ports.toml", "%s.sock"],
}


class Running:
    """A program that runs in a namespace."""

    def __init__(self, net: Namespace, command: list[str], directory: Path) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as we do
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        # The reports would be as many as there are seconds; the last one counts.
        quiet = ["-l", "0", "-k", "0", "-D", "0"] if "nfv" in command else []
        self.process = subprocess.Popen(
            [
                *("ip", "netns", "exec", net.name, "env", "-C", str(directory)),
                *(f"PYTHONPATH={ROOT}", *SNABB, *command, "--json", *quiet),
            ],
            stdout=self._output,
            stderr=self._said,
        )
        # Others may be busy with huge pages just now.
        until(lambda: len(self.instances()) == 1, command[0], seconds=60)
        self.instance = self.instances()[0]
        until(lambda: self.is_complete, command[0], seconds=60)

    def instances(self) -> list[Instance]:
        """Return the instance, if it has begun."""
        assert self.process.poll() is None, self.said
        return [i for i in find() if i.pid == self.process.pid]

    @property
    def is_complete(self) -> bool:
        """Whether its network runs."""
        assert self.process.poll() is None, self.said
        with suppress(SnabbError):  # nobody listens there yet
            return bool(self.instance.ask("interfaces"))
        return False

    @property
    def said(self) -> str:
        """What it has said on stderr so far."""
        self._said.seek(0)
        return self._said.read()

    def end(self) -> dict[str, Any]:
        """End it as Ctrl-C does; return its summary."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(20) == 0, self.said
        self._output.seek(0)
        summary: dict[str, Any] = json.loads(self._output.read().splitlines()[-1])
        return summary

    def kill(self) -> None:
        """End it at once, if it still runs."""
        self.process.kill()
        self.process.wait(20)


class Lab:
    """The namespaces, and programs in them."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._nets: list[Namespace] = []
        (directory / "ports.toml").write_text(toml(port("A", MAC)))

    def start(self, name: str, *command: str) -> Running:
        """Return a program of `COMMANDS`, or another, in a namespace of its own."""
        net = Namespace()
        self._stack.callback(net.close)
        net("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        for cable in "xy":
            net.ip(f"link add {cable}0 type veth peer name {cable}1")
            net.ip(f"link set {cable}0 up\nlink set {cable}1 up")
        self._nets.append(net)
        words = [name, *command] if command else COMMANDS[name]
        running = Running(net, words, self._directory)
        self._stack.callback(running.kill)
        return running

    def feed(self, n: int, frame: bytes = FRAME) -> None:
        """Send so many frames to each program's x1."""
        for net in self._nets:
            with net.socket(socket.AF_PACKET, socket.SOCK_RAW) as feeder:
                feeder.bind(("x0", 0))
                for _ in range(n):
                    feeder.send(frame)


@contextmanager
def lab(directory: Path) -> Iterator[Lab]:
    """Make it; remove it in the end."""
    with ExitStack() as stack:
        yield Lab(directory, stack)


def received(counters: Mapping[str, float]) -> dict[str, float]:
    """Return what an lwAFTR counts of what came, which is not 0.

    What it sends goes on: it asks for its next hops, and in the end nobody waits for
    them any more.
    """
    return {
        name: n
        for name, n in counters.items()
        if n and name.startswith(("in-", "drop-")) and "next-hop" not in name
    }


def snabb(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; it says no more than a line of what is wrong."""
    done = subprocess.run(
        [*SNABB, *arguments],
        check=False, capture_output=True, text=True, timeout=60,
        env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    assert done.returncode == status, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done
