"""A software card between a Linux guest, whose driver judges it, and a host of ours.

    with served_card() as served, Guest([served.path]) as guest:
        linux = Linux(guest, served)
        linux.load()
        linux.up()

The guest has the card; at the other end of its wire is a tap interface, which the
`Host` has. Neither end says anything by itself: no IPv6, no ARP.
"""

import ctypes
import itertools
import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from snabb_py.apps.tap import Tap
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.nic.model82599 import Card, SoftwareCard
from snabb_py.nic.vfio_user import Server, Servers
from tests.guest import Guest
from tests.hosts import Host, until

CLONE_NEWNET = 0x40000000
# What a tap's queue and a card's ring take at once, with room to spare.
BATCH = 32
# Of a capture: its ring has room for thousands of frames of this size, and none is
# missing when tcpdump has to wait for a CPU.
SNAP, RING_KIB = 2048, 16384
SUPER_FRAME = 65536
PREFIX = "198.18.0"
ADDRESS = f"{PREFIX}.2"
# Emulated, and on a machine that does other things too.
PATIENCE = 60

#: Counters that tell of something that no driver does to a card that works.
FORBIDDEN = (
    "bad-ring",
    "dma-read-unmapped",
    "dma-write-unmapped",
    "drop-rx-bad-offload",
    "drop-tx-bad-descriptor",
    "drop-tx-bad-length",
    "drop-tx-no-packet",
    "drop-tx-spoofed",
    "header-split-refused",
    "mmio-bad-size",
    "mmio-outside",
)

_numbers = itertools.count()


def packet_socket(host: Host) -> socket.socket:
    """Return a socket that sends frames from a host's interface."""

    def make() -> socket.socket:
        # A socket stays where it was made; only this thread goes there.
        with Path("/run/netns", host.name).open() as namespace:
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.setns(namespace.fileno(), CLONE_NEWNET) == 0
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sock.bind(("eth", 0))
        return sock

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(make).result()


class Served:
    """A card that is served to QEMU and wired to a host.

    Attributes:
        card, server, host: these.
        path: of the socket.
        mac: of the host.
    """

    def __init__(self, card: Card, server: Server, host: Host) -> None:
        self.card, self.server, self.host = card, server, host
        self.path = server.path
        self.mac = host("cat", "/sys/class/net/eth/address").strip()
        self._sock = packet_socket(host)

    def send(self, *frames: bytes) -> None:
        """Put frames on the wire; return when the card has seen all of them."""
        for start in range(0, len(frames), BATCH):
            batch = frames[start : start + BATCH]
            end = self.card.counters["rx-packets"] + len(batch)
            for frame in batch:
                self._sock.send(frame)
            until(lambda end=end: self.card.counters["rx-packets"] >= end, "frames")  # type: ignore[misc]

    def capturing(self, path: Path, *options: str) -> AbstractContextManager[None]:
        """Capture what passes the host's interface to a file."""
        ring = ("-s", str(SNAP), "-B", str(RING_KIB))
        return self.host.capturing(path, *ring, *options)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


@contextmanager
def serving(*cards: Card) -> Iterator[list[Server]]:
    """Serve cards, each at a socket of its own."""
    with tempfile.TemporaryDirectory(prefix="snabb-cards-") as directory:
        paths = [Path(directory, str(i)) for i in range(len(cards))]
        servers = [Server(*pair) for pair in zip(cards, paths, strict=True)]
        with Servers(servers):
            yield servers


@contextmanager
def served_card() -> Iterator[Served]:
    """Serve a card whose wire goes to a host of its own."""
    with ExitStack() as stack:
        card = stack.enter_context(Card())
        host = Host(1)
        stack.callback(host.close)
        (server,) = stack.enter_context(serving(card))
        engine = stack.enter_context(Engine(huge=False))
        name = f"c{os.getpid() % 10**6}n{next(_numbers)}"
        config = Config()
        config.app("card", SoftwareCard, card=card)
        config.app("tap", Tap, name=name)
        config.link("tap.tx -> card.rx")
        config.link("card.tx -> tap.rx")
        engine.commit(config)
        host.adopt(name, 1500)
        host("sysctl", "-q", "net.ipv6.conf.all.disable_ipv6=1")
        mac = card.mac.hex(":")
        host(*f"ip neigh add {ADDRESS} lladdr {mac} dev eth nud permanent".split())
        served = Served(card, server, host)
        stack.callback(served.close)
        yield served


class Linux:
    """What the guest's Linux makes of a card.

    Attributes:
        guest, served: its sides.
        name: of the interface.
    """

    def __init__(self, guest: Guest, served: Served) -> None:
        self.guest, self.served = guest, served
        self.run, self.card, self.host = guest.run, served.card, served.host
        self.mac = served.card.mac
        self.name = ""

    # ---- the driver, its interface

    def load(self) -> None:
        """Load the driver."""
        self.run("modprobe ixgbe", PATIENCE)
        self.name = self.guest.interface(0, PATIENCE)

    def up(self) -> None:
        """Take the interface into use."""
        name = self.name
        self.run(
            f"sysctl -q net.ipv6.conf.{name}.disable_ipv6=1;"
            f"ip link set {name} up;"
            f"ip addr replace {ADDRESS}/24 dev {name};"
            f"ip neigh replace {self.host.ipv4} lladdr {self.served.mac} dev {name}"
            f" nud permanent; {self._until_carrier}",
            PATIENCE,
        )

    @property
    def _until_carrier(self) -> str:
        """A command that waits until frames are sent: a while after the carrier."""
        look = f"ip link show {self.name} | grep -q 'LOWER_UP.* state UP '"
        return f"until {look}; do sleep 0.05; done"

    def wait_for_carrier(self) -> None:
        """Wait until frames are sent."""
        self.run(self._until_carrier, PATIENCE)

    def has_carrier(self) -> bool:
        return self.run(f"cat /sys/class/net/{self.name}/carrier").strip() == "1"

    def messages(self) -> list[tuple[str, str]]:
        """Return what the driver has said so far: level, text."""
        lines = self.run("dmesg -x").splitlines()
        pattern = re.compile(r"kern +:(\w+) *: \[[ .\d]+\] ixgbe(?: [\d:.]+)?(.*)")
        return [
            (found[1], found[2].removeprefix(f" {self.name}").removeprefix(":").strip())
            for line in lines
            if (found := pattern.match(line))
        ]

    def set(self, *words: str, option: str = "-K") -> None:
        """Call `ethtool -K NAME WORDS` or the like; the card may be reset by that."""
        command = f"ethtool {option} {self.name} {' '.join(words)}"
        self.run(f"{command} && {self._until_carrier}", PATIENCE)

    def features(self) -> dict[str, bool]:
        """Return what `ethtool -k` shows."""
        text = self.run(f"ethtool -k {self.name}")
        return {
            name: state == "on"
            for name, state in re.findall(r"^\s*([\w-]+): (on|off)", text, re.MULTILINE)
        }

    @contextmanager
    def having(self, *words: str) -> Iterator[None]:
        """Change features, as `ethtool -K` names them; back at the end."""
        back = [{"on": "off", "off": "on"}.get(word, word) for word in words]
        self.set(*words)
        try:
            yield
        finally:
            self.set(*back)

    # ---- what it counts

    def statistics(self) -> dict[str, int]:
        """Return what `ethtool -S` shows."""
        text = self.run(f"ethtool -S {self.name}")
        return {
            name: int(value)
            for name, value in re.findall(r"^ +(\w+): (\d+)$", text, re.MULTILINE)
        }

    def gain(
        self, act: Callable[[], Any], until_gained: str = "", by: int = 0
    ) -> dict[str, int]:
        """Return by how much statistics grow while something is done.

        Args:
            act: does it.
            until_gained: a statistic to wait for.
            by: until it has grown that much.
        """
        before = self.statistics()
        act()
        now: dict[str, int] = {}

        def is_enough() -> bool:
            nonlocal now
            now = self.statistics()
            name = until_gained
            return not name or now[name] - before[name] >= by

        until(is_enough, f"{until_gained}: {by} more")
        return {n: now[n] - before[n] for n in now if now[n] != before.get(n)}

    def receive(self, *frames: bytes, arriving: int) -> dict[str, int]:
        """Send it frames of which so many arrive; return what it gains by them."""
        gained = self.gain(lambda: self.served.send(*frames), "rx_packets", arriving)
        assert gained.get("rx_packets", 0) == arriving
        return gained

    @contextmanager
    def counting(self) -> Iterator[dict[str, int]]:
        """Give what the card's counters grow by, at the end."""
        before = self.card.counters
        growth: dict[str, int] = {}
        yield growth
        growth.update({k: n - before[k] for k, n in self.card.counters.items()})

    def check_card(self) -> None:
        """See that the card was never asked for what it does not do."""
        counters = self.card.counters
        assert {n: counters[n] for n in FORBIDDEN} == dict.fromkeys(FORBIDDEN, 0)
        ends = {n: v for n, v in self.served.server.counters.items() if "closed" in n}
        assert not any(ends.values()), ends

    # ---- traffic

    def ping(self, count: int, *options: str) -> None:
        """Flood the host with echo requests, of which none may be lost."""
        said = self.run(
            f"ping -f -q -c {count} {' '.join(options)} {self.host.ipv4}",
            PATIENCE + count // 50,
        )
        none_lost = f"{count} packets transmitted, {count} received, 0% packet loss"
        assert none_lost in said, (said, self.card.counters)

    @contextmanager
    def capturing(self, path: Path, *words: str, snap: int = SNAP) -> Iterator[None]:
        """Capture what passes the guest's interface, and a filter, to a file."""
        shared = self.guest.share / "capture"
        # -p: a card must not become promiscuous by being watched.
        tcpdump = self.guest.start(
            f"tcpdump -Z root -p -i {self.name} -U --immediate-mode -s {snap}"
            f" -B {RING_KIB} -w /tmp/share/capture {' '.join(words)}"
        )
        until(lambda: "listening" in tcpdump.errors, "tcpdump", PATIENCE)
        try:
            yield
            self.run("sleep 0.3")  # what has just come is on its way to the file
        finally:
            tcpdump.end()
            path.write_bytes(shared.read_bytes())
            shared.unlink()


def give(guest: Guest, name: str, frames: Iterable[bytes]) -> str:
    """Write frames to a file that the guest has; return where it has it."""
    content = b"".join(len(f).to_bytes(4, "little") + f for f in frames)
    (guest.share / name).write_bytes(content)
    return f"/tmp/share/{name}"  # noqa: S108 - the guest's
