"""Linux guests at ports of `snabb-py nfv traffic`, and a Linux host at its wire.

    with Lab(directory, SIM, ports, ["AB", "C"]) as lab:
        lab["A"](f"ping -c 1 {lab['wire'].ipv4}")
        lab.change(A={"vlan": 43})

One guest may have several cards, each in a network namespace of its own, so that what
they say to each other goes through the ports. QEMU has the arguments that
`snabb-py nfv qemu` prints; the guests stay when the program ends and another begins.
"""

import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.guest import Guest
from tests.hosts import Host
from tests.integration.test_nfv_cli import Program, call, toml

#: Trunks: a software card with pools, and a bridge; the wire's host has the tap.
SIM = "sim,mtu=9000,wire=tap:{tap}"
BRIDGE = "tap:{tap}"
HERE = Path(__file__).parent
PortKeys = dict[str, Any]

#: What a guest does with a card: a namespace of its own, addresses, up.
ADOPT = """
until file=$(grep -l {mac} /sys/class/net/*/address); do sleep 0.05; done
ip netns add {name} 2>/dev/null
ip link set $(basename $(dirname $file)) netns {name} name eth0
echo 0 | ip netns exec {name} tee /proc/sys/net/ipv6/conf/*/accept_dad >/dev/null
ip -n {name} link set lo up
ip -n {name} addr add {ipv4}/24 dev eth0
ip -n {name} addr add {ipv6}/64 dev eth0
ip -n {name} link set eth0 up
"""
LISTENING = (
    'until grep -q ":{number:04X} .* 0A " /proc/net/tcp /proc/net/tcp6;'
    " do sleep 0.02; done"
)
SERVE = "iperf3 -s -1 -D -p {number};" + LISTENING
#: Seconds for what takes a moment, were the machine not busy with other things.
PATIENCE = 30
_servers = itertools.count(5201)


class End:
    """A Linux network stack, at a port or at the wire.

    Attributes:
        name: of the port, or "wire".
        device: its network interface.
        ipv4, ipv6: its addresses.
        files: a directory of its own.
    """

    #: Writes what one connection brings to stdout.
    LISTEN: str

    def __init__(self, name: str, device: str, number: int, files: str) -> None:
        self.name, self.device, self.files = name, device, files
        self.ipv4, self.ipv6 = f"198.18.0.{number}", f"fd00::{number}"

    def __call__(self, script: str, timeout: float = 60) -> str:
        """Run a shell script that must succeed; return its stdout."""
        raise NotImplementedError

    @contextmanager
    def running(self, command: str) -> Iterator[None]:
        """Let a shell command run that does not end by itself; kill it in the end."""
        raise NotImplementedError(command)
        yield

    def address(self, version: int) -> str:
        """Return its address of IP 4 or 6."""
        return self.ipv4 if version == 4 else self.ipv6

    def offload(self, **features: str) -> None:
        """Turn features of the interface on and off, as ethtool calls them."""
        words = " ".join(f"{name} {value}" for name, value in features.items())
        self(f"ethtool -K {self.device} {words}")

    def reaches(self, address: str, *options: str) -> bool:
        """Whether pings are answered, sooner or later."""
        words = " ".join(options)
        ping = f"ping -q -c 3 -i 0.1 -w {PATIENCE} {words} {address} >/dev/null"
        return bool(self(f"{ping} && echo yes || true"))

    def hears_nothing(self, address: str, *options: str) -> bool:
        """Whether no ping is answered for a while."""
        words = " ".join(options)
        ping = f"ping -q -c 3 -i 0.2 -W 0.5 {words} {address} || true"
        return " 0 received" in self(ping)

    def connects(self, to: "End", address: str, seconds: float = PATIENCE) -> bool:
        """Whether a TCP connection to an address of another comes about in time."""
        number = next(_servers)
        to.receive(address, number, f"{to.files}/received")
        connect = f"timeout {seconds} bash -c 'echo hello >/dev/tcp/{address}/{number}'"
        return bool(self(f"{connect} 2>/dev/null && echo yes || true"))

    def serve(self) -> int:
        """Let iperf3 wait for one client; return the number of its port."""
        number = next(_servers)
        self(SERVE.format(number=number))
        return number

    def sent_file(self, nbytes: int) -> str:
        """Return the path of a random file of its own."""
        path = f"{self.files}/sent-{nbytes}"
        self(f"[ -e {path} ] || head -c {nbytes} /dev/urandom >{path}")
        return path

    def digest(self, path: str) -> str:
        """Return the SHA-256 of a file of its own."""
        return self(f"sha256sum <{path}").split()[0]

    def transfer(self, to: "End", address: str, nbytes: int = 1 << 20) -> None:
        """Send a random file by TCP to an address of another; it arrives as it is."""
        source, target = self.sent_file(nbytes), f"{to.files}/received"
        number = next(_servers)
        to.receive(address, number, target)
        self(f"bash -c 'cat {source} >/dev/tcp/{address}/{number}'")
        to(f"until [ $(stat -c %s {target}) -ge {nbytes} ]; do sleep 0.02; done")
        assert to.digest(target) == self.digest(source)

    def receive(self, address: str, number: int, path: str) -> None:
        """Let one connection to this address and port write a file."""
        listen = self.LISTEN.format(address=address, number=number)
        waiting = LISTENING.format(number=number)
        self(f"{listen} </dev/null >{path} 2>{path}.errors & {waiting}")

    def count(self, counter: str) -> int:
        """Return a counter of the interface, as the kernel keeps it."""
        return int(self(f"cat /sys/class/net/{self.device}/statistics/{counter}"))


class Card(End):
    """A port's card in its guest, in a namespace that is called as the port.

    Attributes:
        mac: its address.
        guest: that has it.
    """

    LISTEN = "/proc/1/root/bin/busybox nc -l -p {number}"

    def __init__(self, name: str, mac: str, number: int, guest: Guest) -> None:
        super().__init__(name, "eth0", number, f"/tmp/{name}")  # noqa: S108 - the guest's
        self.mac, self.guest = mac, guest

    def __call__(self, script: str, timeout: float = 60) -> str:
        return self.guest.run(self._inside(script), timeout)

    @contextmanager
    def running(self, command: str) -> Iterator[None]:
        job = self.guest.start(f"exec {self._inside(command)}")
        try:
            yield
            assert job.is_running, job.errors
        finally:
            if job.is_running:
                job.end("KILL")

    def _inside(self, script: str) -> str:
        return f"ip netns exec {self.name} sh -c {shlex.quote(script)}"

    def adopt(self) -> None:
        """Wait for the card, and give it a namespace and addresses."""
        self.guest.run(f"mkdir -p {self.files}")
        self.guest.run(ADOPT.format(**vars(self)))


class Wire(End):
    """The host that has the other end of the wire.

    Attributes:
        host: the namespace.
    """

    LISTEN = f"{sys.executable} {HERE}/wire_listen.py {{address}} {{number}}"

    def __init__(self, directory: Path) -> None:
        super().__init__("wire", "eth", 1, str(directory))
        self.host = Host(1)

    @contextmanager
    def running(self, command: str) -> Iterator[None]:
        # No pipes, which would fill up.
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.host.name, "sh", "-c", f"exec {command}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield
            assert process.poll() is None, f"{command}: ended by itself"
        finally:
            process.kill()
            process.wait()

    def __call__(self, script: str, timeout: float = 60) -> str:
        return self.host("sh", "-c", script, timeout=timeout)


class Lab:
    """A running `nfv traffic`, guests at its ports, a host at its wire.

    Args:
        directory: for sockets and the config.
        trunk: SIM or BRIDGE.
        ports: the config, a dictionary of keys for each port.
        guests: names of the ports that each guest has, a letter each.

    Attributes:
        program: `nfv traffic`.
        keys: the config's ports, by id.
        cards: the guests' cards, by id.
        wire: the host at the wire.
    """

    def __init__(
        self,
        directory: Path,
        trunk: str,
        ports: Sequence[PortKeys],
        guests: Sequence[str],
    ) -> None:
        self.directory = directory
        self.keys = {port["port_id"]: port for port in ports}
        self.cards: dict[str, Card] = {}
        with ExitStack() as stack:
            self.wire = Wire(directory)
            stack.callback(self.wire.host.close)
            self.start(trunk)
            stack.callback(self.stop)
            for names in guests:
                guest = stack.enter_context(Guest(extra=self._card_arguments(names)))
                for name in names:
                    macs = self.keys[name]["mac_address"]
                    mac = macs if isinstance(macs, str) else macs[0]
                    number = 2 + list(self.keys).index(name)
                    self.cards[name] = Card(name, mac, number, guest)
                self.furnish(guest)
            self._stack = stack.pop_all()

    def __getitem__(self, name: str) -> End:
        """Return the card of a port, or the wire."""
        return self.wire if name == "wire" else self.cards[name]

    def start(self, trunk: str) -> None:
        """Start the program; its tap goes to the wire's host."""
        tap = f"n{os.getpid() % 10**6}wire"
        self.program = Program(
            self.directory,
            trunk.format(tap=tap),
            toml(*self.keys.values()),
            nports=len(self.keys),
        )
        self.wire.host.adopt(tap, 1500)

    @contextmanager
    def on(self, trunk: str) -> Iterator[None]:
        """End the program, run another on this trunk, and in the end as before."""
        self.program.end()
        try:
            self.start(trunk)
            yield
            self.program.end()
        finally:
            self.stop()
            self.start(SIM)

    def stop(self) -> None:
        """End the program, however it is."""
        self.program.process.kill()
        self.program.process.communicate()

    def _card_arguments(self, names: str) -> list[str]:
        """Return QEMU's arguments for the cards of these ports."""
        arguments: list[str] = []
        for name in names:
            done = call("qemu", self.program.conf, self.directory / "%s.sock", name)
            words = shlex.split(done.stdout.replace("\\\n", " "))
            cards = words[words.index("-chardev") :]
            # It prints those of one card.
            arguments += [re.sub(r"\b(char|net)0\b", rf"\g<1>{name}", w) for w in cards]
        return arguments

    def furnish(self, guest: Guest) -> None:
        """Load the driver in a guest, and set all cards up that it has."""
        guest.run("modprobe virtio_net")
        for card in self.cards.values():
            if card.guest is guest:
                card.adopt()

    def change(self, **keys: PortKeys) -> str:
        """Change the config: ports with these keys more; what was changed goes back."""
        changed = [port | keys.get(name, {}) for name, port in self.keys.items()]
        return self.program.change(toml(*changed))

    def counters(self, app: str) -> dict[str, int]:
        """Return what an app has counted, but for zeros."""
        apps = self.program.ask("counters")["apps"]
        return {k: n for k, n in apps[app].items() if n}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()
