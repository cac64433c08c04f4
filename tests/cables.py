"""Cables in a namespace: `snabb-py packetblaster` at one end, the test at the other.

with cables("ab") as it, it.listen("vb") as ear:
    it.blast("synth", "raw:va", "--count", "5")
    frames = heard(ear)
"""

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.hosts import SNABB, Namespace


class Cables:
    """A namespace with cables: va-vb, vc-vd and so on."""

    def __init__(self, space: Namespace, ends: str) -> None:
        self.space = space
        self.space("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        for a, b in zip(ends[::2], ends[1::2], strict=True):
            self.space.ip(f"link add v{a} type veth peer name v{b}")
            self.space.ip(f"link set v{a} up\nlink set v{b} up")

    def listen(self, interface: str) -> socket.socket:
        """Return a packet socket that keeps what arrives."""
        ear = self.space.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        ear.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        ear.bind((interface, 3))
        ear.settimeout(0.2)
        return ear

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a program of ours in it."""
        return self.space.start(*SNABB, "packetblaster", *arguments)

    def blast(self, *arguments: str) -> dict[str, Any]:
        """Run it to its end; return its summary."""
        process = self.start(*arguments, "--json")
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        result: dict[str, Any] = json.loads(output.splitlines()[-1])
        return result


def heard(ear: socket.socket) -> list[bytes]:
    """Return all frames that have arrived."""
    frames = []
    while True:
        try:
            frames.append(ear.recv(20000))
        except TimeoutError:
            return frames


@contextmanager
def cables(ends: str) -> Iterator[Cables]:
    space = Namespace()
    try:
        yield Cables(space, ends)
    finally:
        space.close()
