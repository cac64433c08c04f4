"""`snabb-py lwaftr run` follows its files; what they do not change loses nothing."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from snabb_py.engine import control
from snabb_py.engine.shm import runtime_directory
from tests.hosts import SNABB, Namespace, until
from tests.lwaftr_lab import link

pytestmark = pytest.mark.need("root", "netns")

ETH_P_ALL = 3
OURS, THEIRS = "02:00:00:00:00:04", "02:00:00:00:01:04"
ADDRESS, B4, BR = "198.51.100.1", "2001:db8:1::1", "2001:db8::aaaa"
CONF = f"""
binding_table = binding.table
aftr_ipv4_ip = 192.0.2.1, aftr_mac_inet_side = {OURS}, inet_mac = {THEIRS}
aftr_ipv6_ip = 2001:db8::6, aftr_mac_b4_side = {OURS}, next_hop6_mac = {THEIRS}
ipv6_mtu = 1540, ipv4_mtu = %d
"""
#: Packets under way at once: fewer than any ring has room for.
WINDOW = 32


def table(*others: str) -> str:
    """Return a table with the softwire that stays, and with others."""
    rows = "".join(
        f"{{ ipv4={ip}, b4=2001:db8:2::{i}1 }}" for i, ip in enumerate(others)
    )
    return (
        f"psid_map {{ }} br_addresses {{ {BR} }}\n"
        f"softwires {{ {{ ipv4={ADDRESS}, b4={B4} }} {rows} }}\n"
    )


class Aftr:
    """A running lwAFTR between two interfaces, whose other ends are ours."""

    def __init__(self, directory: Path, workers: int, stack: ExitStack) -> None:
        self.conf, self.table = directory / "lw.conf", directory / "binding.table"
        self.conf.write_text(CONF % 1500)
        self.table.write_text(table())
        aftr, other = Namespace(), Namespace()
        stack.callback(aftr.close)
        stack.callback(other.close)
        for name in ("v4", "v6"):
            link(aftr, name, other, name)
        self._sockets = {name: self._socket(other, name) for name in ("v4", "v6")}
        for opened in self._sockets.values():
            stack.callback(opened.close)
        self._errors = stack.enter_context((directory / "said").open("w+"))
        self.process = aftr.start(
            *SNABB, "lwaftr", "run", "--conf", str(self.conf),
            *("--v4", "raw:v4", "--v6", "raw:v6", "--json", "--interval", "0.2"),
            *("--workers", str(workers)),
            stderr=self._errors,
        )  # fmt: skip
        stack.callback(self.kill)
        assert self.process.stdout
        assert self.process.stdout.readline(), self.said

    @staticmethod
    def _socket(namespace: Namespace, name: str) -> socket.socket:
        opened = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW)
        opened.bind((name, ETH_P_ALL))
        opened.settimeout(5)
        return opened

    @property
    def said(self) -> str:
        self._errors.seek(0)
        return self._errors.read()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=20)

    def replace(self, path: Path, text: str) -> None:
        """Put a new file in the place of one."""
        new = path.with_suffix(".new")
        new.write_text(text)
        new.replace(path)

    def ask(self) -> str:
        """Have it read its files now; return what has changed."""
        path = runtime_directory() / str(self.process.pid) / "control"
        return str(control.call(path, "reload"))

    def carry(self, numbers: range) -> None:
        """Send numbered packets to the B4 and see them come, in order."""
        for n in numbers:
            packet = IP(src="203.0.113.1", dst=ADDRESS) / UDP() / Raw(n.to_bytes(8))
            self._sockets["v4"].send(bytes(Ether(src=THEIRS, dst=OURS) / packet))
        assert [self._next() for _ in numbers] == list(numbers)

    def carry_back(self, numbers: range) -> None:
        """The same from the B4."""
        for n in numbers:
            inner = IP(src=ADDRESS, dst="203.0.113.1") / UDP() / Raw(n.to_bytes(8))
            packet = Ether(src=THEIRS, dst=OURS) / IPv6(src=B4, dst=BR) / inner
            self._sockets["v6"].send(bytes(packet))
        assert [self._next("v4", 14 + 20) for _ in numbers] == list(numbers)

    def _next(self, name: str = "v6", udp: int = 14 + 40 + 20) -> int:
        """Return the number of the next packet that we have not sent ourselves."""
        while True:
            frame, where = self._sockets[name].recvfrom(2048)
            is_ours = frame[6:12] == bytes.fromhex(OURS.replace(":", ""))
            if is_ours and where[2] != socket.PACKET_OUTGOING:
                return int.from_bytes(frame[udp + 8 : udp + 16])


@pytest.fixture(params=[1, 2])
def aftr(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Aftr]:
    with ExitStack() as stack:
        yield Aftr(tmp_path, request.param, stack)


def test_a_softwire_that_stays_loses_nothing(aftr: Aftr) -> None:
    """Tables and configs come and go, right and wrong, while packets flow."""
    changes = [
        (aftr.table, table("198.51.100.2", "198.51.100.3"), "softwires: 2 added"),
        (aftr.table, table("198.51.100.3"), "softwires: 1 removed, 1 changed"),
        (aftr.table, table("127.0.0.1"), "127.0.0.1 is the address of no host; all"),
        (aftr.table, table("198.51.100.4"), "softwires: 1 added, 1 removed"),
        (aftr.conf, CONF % 1400, "IPv4 side: mtu"),
        (aftr.conf, CONF % 67, f"{aftr.conf}:5:29: expected bytes of an IPv4 packet"),
        (aftr.conf, CONF % 1500, "IPv4 side: mtu"),
        (aftr.table, "psid_map", f'{aftr.table}:1:9: expected "{{", not the end of'),
        (aftr.table, table(), "softwires: 1 removed"),
    ]
    n = 0
    for path, text, expected in changes:
        seen = len(aftr.said)
        aftr.replace(path, text)
        # It looks every second; here also when it is told to, in the midst of packets.
        aftr.process.send_signal(signal.SIGHUP)
        while expected not in aftr.said[seen:]:
            aftr.carry(range(n, n + WINDOW))
            aftr.carry_back(range(n, n + WINDOW))
            n += WINDOW
            assert n < 10**6, aftr.said


def test_what_changes_is_noticed(aftr: Aftr) -> None:
    """A file that comes back, of a config that named another one meanwhile."""
    aftr.replace(aftr.conf, (CONF % 1500).replace("binding.table", "other.table"))
    until(lambda: "other.table" in aftr.said)
    assert "No such file" in aftr.said
    other = aftr.table.with_name("other.table")
    aftr.replace(other, table("198.51.100.7"))
    until(lambda: "softwires: 1 added" in aftr.said)
    aftr.carry(range(10))
    other.write_text(table("198.51.100.8"))
    until(lambda: "softwires: 1 added, 1 removed" in aftr.said)
    assert aftr.ask() == "nothing has changed"
    query = subprocess.run(
        [*SNABB, "lwaftr", "query", "--pid", str(aftr.process.pid)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    first = query.stdout.splitlines()[0]
    words = f"v4 raw:v4, v6 raw:v6  {aftr.conf}"
    assert first == f"process {aftr.process.pid}  {words}"


def test_an_empty_table_is_odd(aftr: Aftr) -> None:
    empty = table().replace(f"{{ ipv4={ADDRESS}, b4={B4} }}", "")
    aftr.replace(aftr.table, empty)
    until(lambda: "the binding table is empty" in aftr.said)
    aftr.replace(aftr.table, table())
    until(lambda: "softwires: 1 added" in aftr.said)
    aftr.carry(range(10))
    os.kill(aftr.process.pid, signal.SIGTERM)
    assert aftr.process.wait(20) == 0
