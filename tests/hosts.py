"""Real Linux stacks to test with: network namespaces joined by snabb-py.

Names carry the test's pid, so that runs side by side do not meet; all is removed at the
end, processes by their own id.
"""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from snabb_py.engine.shm import runtime_directory
from snabb_py.engine.shm_reader import CountersReader

SNABB = [sys.executable, "-m", "snabb_py"]
_numbers = itertools.count()


def run(*command: str, timeout: float = 60) -> str:
    """Run a command that must succeed; return what it printed."""
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def until(condition: Callable[[], bool], what: str = "it", seconds: float = 20) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.02)


def wait_for_carrier(*interfaces: str) -> None:
    """Wait until frames are sent, which is a while after both ends are up."""
    for name in interfaces:
        until(lambda name=name: " noop " not in run("ip", "link", "show", name), name)  # type: ignore[misc]
        until(lambda name=name: "LOWER_UP" in run("ip", "link", "show", name), name)  # type: ignore[misc]


class Namespace:
    """A network namespace."""

    def __init__(self) -> None:
        self.name = f"snabb-{os.getpid()}-{next(_numbers)}"
        run("ip", "netns", "add", self.name)

    def __call__(self, *command: str, timeout: float = 60) -> str:
        """Run a command in it."""
        return run("ip", "netns", "exec", self.name, *command, timeout=timeout)

    def ip(self, commands: str) -> None:
        """Run commands of ip in it, one to a line."""
        done = subprocess.run(
            ["ip", "-n", self.name, "-batch", "-"],
            check=False, input=commands, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{commands}: {done.stderr}"

    def start(
        self, *command: str, stderr: int | IO[str] = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        """Start a command in it."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *command],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Return a socket of its network."""
        from pyroute2 import netns

        netns.pushns(self.name)
        try:
            return socket.socket(family, kind, protocol)
        finally:
            netns.popns()

    def close(self) -> None:
        """Remove it with what is in it."""
        run("ip", "netns", "del", self.name)


class Host(Namespace):
    """A network namespace with one interface, `eth`."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.ipv4, self.ipv6 = f"198.18.0.{number}", f"fd00::{number}"

    def adopt(self, interface: str, mtu: int) -> None:
        """Take an interface of ours over, with addresses, up."""
        run("ip", "link", "set", interface, "netns", self.name)
        self("ip", "link", "set", interface, "name", "eth", "mtu", str(mtu))
        self("ip", "addr", "add", f"{self.ipv4}/24", "dev", "eth")
        self("ip", "addr", "add", f"{self.ipv6}/64", "dev", "eth", "nodad")
        self("ip", "link", "set", "lo", "up")
        self("ip", "link", "set", "eth", "up")

    @contextmanager
    def capturing(self, path: Path, *options: str) -> Iterator[None]:
        """Capture what passes its interface to a file."""
        tcpdump = self.start(
            *("tcpdump", "-i", "eth", "-U", "--immediate-mode", "-s", "0"),
            *("-w", str(path), *options),
        )
        assert tcpdump.stderr
        tcpdump.stderr.readline()  # "listening on ..."
        try:
            yield
            time.sleep(0.3)  # what has just come is still on its way to the file
        finally:
            tcpdump.send_signal(signal.SIGINT)
            tcpdump.communicate(timeout=10)


class Forwarding:
    """A `snabb-py forward` that runs."""

    def __init__(self, *arguments: str) -> None:
        # A file, not a pipe: read while it grows, and never full.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as we do
        self.process = subprocess.Popen(
            [*SNABB, "forward", *arguments, "--json", "--interval", "0.1"],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        assert self.process.stdout
        # The first report tells that it runs.
        assert self.process.stdout.readline(), self.hear()
        self._reports = threading.Thread(target=self._read, daemon=True)
        self._last = ""
        self._reports.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._last = line

    def hear(self) -> str:
        """Return what it has said on stderr so far."""
        self._errors.seek(0)
        return self._errors.read()

    def counters(self, app: str) -> dict[str, int]:
        """Return an app's counters as they are now."""
        directory = runtime_directory() / str(self.process.pid)
        reader = CountersReader(directory / "counters")
        row = reader.read()[f"apps/{app}"]
        reader.close()
        assert isinstance(row, dict)
        return row

    def end(self) -> dict[str, Any]:
        """End it as Ctrl-C does; return its summary."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(20) == 0, self.hear()
        self._reports.join(20)
        summary: dict[str, Any] = json.loads(self._last)
        return summary

    def kill(self) -> None:
        """End it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(20)


class Wire:
    """Two hosts, and between them nothing but `snabb-py forward`.

    Attributes:
        a, b: the hosts.
        ends: our two interfaces, whose other ends the hosts have ("raw", "xdp"), or
            which the hosts have themselves ("tap").
        forwarding: the program.
    """

    def __init__(self, kind: str, mtu: int, stack: ExitStack) -> None:
        self.kind = kind
        self.a, self.b = Host(1), Host(2)
        stack.callback(self.a.close)
        stack.callback(self.b.close)
        number = next(_numbers)
        self.ends = [f"s{os.getpid() % 10**6}{end}{number}" for end in "ab"]
        peers = [f"{end}p" for end in self.ends]
        if kind != "tap":
            for end, peer in zip(self.ends, peers, strict=True):
                run("ip", "link", "add", end, "type", "veth", "peer", "name", peer)
                stack.callback(subprocess.run, ["ip", "link", "del", end], check=False)
                run("ip", "link", "set", end, "up", "mtu", str(mtu))
        self.settings = self._settings()
        words = [f"{kind}:{end}" for end in self.ends]
        self.forwarding = Forwarding(*words, "--hops", "8", "--bidir")
        stack.callback(self.forwarding.kill)
        for host, end, peer in zip((self.a, self.b), self.ends, peers, strict=True):
            host.adopt(end if kind == "tap" else peer, mtu)

    def _settings(self) -> list[str]:
        """Return the settings of our interfaces, where there are any."""
        if self.kind == "tap":
            return []
        return [
            run("ethtool", "-k", end)
            + str(
                re.findall(
                    r"mtu \d+|promiscuity \d+|allmulti \d+|link/ether \S+",
                    run("ip", "-d", "link", "show", end),
                )
            )
            for end in self.ends
        ]

    def end(self) -> dict[str, Any]:
        """End the program; return its summary. The interfaces are as they were."""
        summary = self.forwarding.end()
        assert self._settings() == self.settings
        return summary


@contextmanager
def wire(kind: str, mtu: int = 1500) -> Iterator[Wire]:
    """Join two hosts by "raw", "xdp" or "tap" interfaces."""
    with ExitStack() as stack:
        yield Wire(kind, mtu, stack)
