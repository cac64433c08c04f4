"""snabb-py is killed, again and again, and its guests go on each time.

The guests are Linux in QEMU with two pairs of cards, one at sockets that QEMU makes and
one at ours, and DPDK's testpmd with its own socket. All have traffic with numbers.
"""

import random
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from snabb_py.errors import DeviceError
from snabb_py.virtio.listening import has_hung_up
from tests import guest_streams
from tests.guest import Guest
from tests.hosts import until
from tests.killed_program import Program, mac
from tests.numbered_frames import End, Window
from tests.testpmd import Testpmd

#: Seconds until a guest has traffic again, and until lost frames are given up.
PATIENCE, LOST = 180.0, 0.2
#: The guest's cards: whether we listen at their sockets. The first two talk, and the
#: others.
CARDS = {"Q1": False, "Q2": False, "Q3": True, "Q4": True}
ECHO, TESTER = "E", "T"
#: Not that of a virtual environment, which the guest need not have.
PYTHON = f"{Path(sys.executable).resolve()} -I -S"

SETUP = """
modprobe virtio_net
i=0
for mac in {macs}; do
    i=$((i + 1))
    until file=$(grep -l $mac /sys/class/net/*/address); do sleep 0.05; done
    ip netns add ns$i
    ip link set $(basename ${{file%/address}}) netns ns$i name eth0
    ip -n ns$i addr add 192.0.2.$i/24 dev eth0
    ip -n ns$i link set eth0 up
done
set -- {macs}
# No questions: what is sent is numbered, and what is lost is told by its numbers.
ip -n ns1 neigh add 192.0.2.2 lladdr $2 dev eth0 nud permanent
ip -n ns2 neigh add 192.0.2.1 lladdr $1 dev eth0 nud permanent
ip -n ns3 neigh add 192.0.2.4 lladdr $4 dev eth0 nud permanent
ip -n ns4 neigh add 192.0.2.3 lladdr $3 dev eth0 nud permanent
"""
FLOWS = "ns1:ns2:192.0.2.2 ns2:ns1:192.0.2.1 ns3:ns4:192.0.2.4 ns4:ns3:192.0.2.3"
LOOK = """
cd /sys/bus/virtio/devices
for i in 1 2 3 4; do
    ip netns exec ns$i sh -c '
        cd /sys/class/net/eth0
        echo $(cat ifindex device/status device/features statistics/rx_packets \\
            statistics/tx_packets carrier_down_count)'
done
dmesg | grep -c virtio_net || :
"""


class Flow(NamedTuple):
    """What guest_streams.py reports of a flow."""

    sent: int
    refused: int
    received: int
    expected: int
    duplicated: int
    reordered: int

    @property
    def lost(self) -> int:
        """Numbers that have not come though later ones have."""
        return self.expected - (self.received - self.duplicated)


class Card(NamedTuple):
    """What the guest says of a card."""

    ifindex: int
    status: int
    features: str
    received: int
    sent: int
    carrier_losses: int


@dataclass
class Outages:
    """What came of the kills.

    Attributes:
        kills: of a program that worked, and of one that was about to.
        seconds: of each, by guest, from the start of the next to its traffic.
        lost: frames, by guest.
        problems: what must not be.
        seen: what is worth knowing.
    """

    kills: int = 0
    early_kills: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def describe(self) -> Iterator[str]:
        """Yield lines."""
        yield (
            f"snabb-py killed {self.kills} times under traffic, "
            f"{self.early_kills} times more while it started"
        )
        for who, seconds in self.seconds.items():
            ordered = sorted(seconds)
            yield (
                f"{who}: traffic again {ordered[len(ordered) // 2]:.2f} s after the "
                f"start (median), {ordered[-1]:.2f} s at most; "
                f"{self.lost[who]} frames lost"
            )
        yield from self.seen


class Linux:
    """The guest in QEMU and its traffic."""

    names = ("QEMU listens", "QEMU connects")

    def __init__(self, program: Program, stack: ExitStack) -> None:
        self._program = program
        self._trace = program.directory / "trace"
        arguments = ["-trace", "virtio_set_status", "-D", str(self._trace)]
        for name, is_server in CARDS.items():
            arguments += self.card(program, name, is_server=is_server)
        self.guest = stack.enter_context(Guest(extra=arguments))
        macs = " ".join(mac(name).hex(":") for name in CARDS)
        self.guest.run(SETUP.format(macs=macs), PATIENCE)
        shutil.copy(guest_streams.__file__, self.guest.share)
        self._job = self.guest.start(
            f"cd /tmp/share && exec {PYTHON} guest_streams.py flows {FLOWS}"
        )
        self._before = self._look()
        self._statuses = self._count_statuses()

    @staticmethod
    def card(program: Program, name: str, *, is_server: bool) -> list[str]:
        """Return QEMU's arguments for a card."""
        role = "reconnect-ms=100" if is_server else "server=on,wait=off"
        address = mac(name).hex(":")
        return [
            *("-chardev", f"socket,id=c{name},path={program.socket(name)},{role}"),
            *("-netdev", f"vhost-user,id=n{name},chardev=c{name}"),
            *("-device", f"virtio-net-pci,netdev=n{name},mac={address}"),
        ]

    def flows(self) -> list[Flow]:
        """Return what the guest has counted; two of each pair of cards."""
        report, size = guest_streams.REPORT, guest_streams.REPORT.size
        path = self.guest.share / "flows"
        try:
            until(lambda: path.exists() and path.stat().st_size == 4 * size, "flows")
        except AssertionError:
            raise AssertionError(self._job.errors) from None
        return [Flow(*fields) for fields in report.iter_unpack(path.read_bytes())]

    def _look(self) -> tuple[list[Card], int]:
        *lines, messages = self.guest.run(LOOK).splitlines()
        cards = [
            Card(int(a), int(b, 16), c, *map(int, rest))
            for a, b, c, *rest in (line.split() for line in lines)
        ]
        return cards, int(messages)

    def _count_statuses(self) -> int:
        """Return how often drivers have written a status, a reset among them."""
        return self._trace.read_text().count("virtio_set_status")

    @property
    def state(self) -> str:
        """What can be seen of it when it has no traffic."""
        links = "for i in 1 2 3 4; do ip -n ns$i -s link show eth0; done"
        counters = self._program.ask("counters")["apps"]
        return "\n".join(
            [
                self.guest.run(f"{links}; tail -n 2 /proc/interrupts"),
                *(f"{flow}" for flow in self.flows()),
                *(
                    f"{name}: { {k: n for k, n in counters[app].items() if n} }"
                    for name in CARDS
                    if (app := f"{name}_Virtio") in counters
                ),
                self.guest.console[-2000:],
            ]
        )

    def marks(self) -> dict[str, Callable[[], bool]]:
        """Return for each pair how to know that what is sent from now on comes."""
        sent = [flow.sent for flow in self.flows()]

        def is_back(pair: int) -> bool:
            flows = self.flows()
            return all(flows[i].expected > sent[i] for i in (2 * pair, 2 * pair + 1))

        return {
            name: lambda pair=pair: is_back(pair)  # type: ignore[misc]
            for pair, name in enumerate(self.names)
        }

    def lost(self) -> dict[str, int]:
        """Return how much has not come."""
        flows = self.flows()
        return {
            name: flows[2 * i].lost + flows[2 * i + 1].lost
            for i, name in enumerate(self.names)
        }

    def judge(self, outages: Outages) -> None:
        """Say whether the drivers were left alone, and what they have seen."""
        flows = self.flows()
        for name, flow in zip(CARDS, flows, strict=True):
            if flow.duplicated or flow.reordered:
                outages.problems.append(f"{name}: {flow}")
        (before, messages), (after, later) = self._before, self._look()
        for name, one, two in zip(CARDS, before, after, strict=True):
            if one[:3] != two[:3] or two.received < one.received or two.sent < one.sent:
                outages.problems.append(f"{name} has another driver: {one}, now {two}")
            outages.seen.append(
                f"guest's {name}: interface {two.ifindex}, status {two.status:#x} and "
                f"{two.features.count('1')} features as in the beginning, "
                f"{two.received} packets in and {two.sent} out, carrier lost "
                f"{two.carrier_losses - one.carrier_losses} times"
            )
        if later != messages:
            outages.problems.append(f"virtio_net has said {later - messages} lines")
        written = self._count_statuses() - self._statuses
        if not self._statuses or written:
            outages.problems.append(f"drivers have written {written} statuses")
        outages.seen.append(
            f"guest: {self._statuses} statuses written by its drivers until they ran, "
            f"{written} since; {later - messages} messages of virtio_net; "
            f"{sum(flow.received for flow in flows)} datagrams, 0 twice, 0 out of order"
        )


class Echo:
    """testpmd, which returns what our own front end sends; both listen."""

    name = "testpmd listens"

    def __init__(self, program: Program, stack: ExitStack) -> None:
        address = mac(ECHO)
        self.testpmd = stack.enter_context(
            Testpmd(
                program.socket(ECHO),
                f"server=1,mac={address.hex(':')}",
                mode="macswap",
            )
        )
        self.end = stack.enter_context(
            End(program.socket(TESTER), mac(TESTER), is_server=True, idle=self._idle)
        )
        self.window = Window(self.end, self.end, sender=address, to=address)
        self._has_ended = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        stack.callback(self._stop)

    def _stop(self) -> None:
        self._has_ended = True
        self._thread.join()

    def _idle(self) -> None:
        if self._has_ended:
            raise ConnectionAbortedError

    def _run(self) -> None:
        start = self.end.guest.start
        while not self._has_ended:
            try:
                start()
            except (ConnectionError, DeviceError):
                continue  # killed while it said hello
            start = self.end.guest.reconnect
            sock = self.end.guest.socket
            while sock and not self._has_ended and not has_hung_up(sock):
                self._exchange()

    def _exchange(self) -> None:
        window = self.window
        window.take()
        is_late = time.monotonic() - window.moved_at > LOST and self.end.has_sent
        if window.is_empty or is_late:
            window.fill()
        else:
            time.sleep(1e-3)

    @property
    def state(self) -> str:
        """What can be seen of it when it has no traffic."""
        window = self.window
        return f"testpmd: {window.sent} sent, {window.received} returned"

    def marks(self) -> dict[str, Callable[[], bool]]:
        """Return how to know that what is sent from now on comes."""
        sent = self.window.sent
        return {self.name: lambda: self.window.expected > sent}

    def lost(self) -> dict[str, int]:
        """Return how much has not come."""
        return {self.name: self.window.lost}

    def judge(self, outages: Outages) -> None:
        """Say whether its driver was left alone."""
        self._stop()
        outages.problems += [f"testpmd: {text}" for text in self.window.wrong]
        if self.end.wrong:
            outages.problems.append(f"our front end: {self.end.wrong}")
        self.testpmd.command("show port stats 0")
        output = self.testpmd.end()
        (received,) = map(int, re.findall(r"RX-packets:\s+(\d+)", output)[:1])
        # A driver that starts again counts again.
        if received < self.window.received:
            outages.problems.append(
                f"testpmd counts {received} of {self.window.received} frames"
            )
        outages.seen.append(
            f"testpmd: {self.window.received} of {self.window.sent} frames came back, "
            f"0 twice, 0 out of order; it counts {received} since its start"
        )


@contextmanager
def guests(
    program: Program, *, linux: bool, testpmd: bool
) -> Iterator[list[Linux | Echo]]:
    """Have guests; the program runs, for QEMU waits for it."""
    with ExitStack() as stack:
        found: list[Linux | Echo] = []
        if testpmd:
            found.append(Echo(program, stack))
        if linux:
            found.append(Linux(program, stack))
        yield found


def wait_for_traffic(all_guests: list[Linux | Echo]) -> dict[str, float]:
    """Wait until what is sent from now on comes; return how many seconds it took."""
    start = time.monotonic()
    marks = {k: mark for guest in all_guests for k, mark in guest.marks().items()}
    seconds: dict[str, float] = {}

    def are_all_back() -> bool:
        for name in marks.keys() - seconds.keys():
            if marks[name]():
                seconds[name] = time.monotonic() - start
        return len(seconds) == len(marks)

    try:
        until(are_all_back, "traffic", PATIENCE)
    except AssertionError:
        missing = ", ".join(sorted(marks.keys() - seconds.keys()))
        states = "\n".join(guest.state for guest in all_guests)
        text = f"no traffic after {PATIENCE:.0f} s: {missing}\n{states}"
        raise AssertionError(text) from None
    return seconds


def ports(*, linux: bool, testpmd: bool) -> dict[str, bool]:
    """Return the ports of these guests."""
    return (CARDS if linux else {}) | ({ECHO: False, TESTER: False} if testpmd else {})


def all_lost(all_guests: list[Linux | Echo]) -> dict[str, int]:
    """Return how much has not come, by guest."""
    return {k: n for guest in all_guests for k, n in guest.lost().items()}


def kill_back_end(  # noqa: PLR0913 - who is there, how often and how long
    directory: Path,
    times: int,
    seed: int,
    *,
    linux: bool = True,
    testpmd: bool = True,
    seconds: float = 600,
) -> Outages:
    """Kill the program so often, at random moments; return what came of it.

    A quarter of those that come next are killed while they start, too. After so many
    seconds no more are killed, and those that lack are a problem.
    """
    deadline = time.monotonic() + seconds
    rng = random.Random(seed)  # noqa: S311 - repeatable
    outages = Outages()
    with Program(directory, ports(linux=linux, testpmd=testpmd)) as program:
        program.start()
        program.wait()
        with guests(program, linux=linux, testpmd=testpmd) as all_guests:
            wait_for_traffic(all_guests)
            while outages.kills < times and time.monotonic() < deadline:
                before = all_lost(all_guests)
                time.sleep(rng.uniform(0, 0.2))
                # All of it before the death: since then nobody has been away.
                if all_lost(all_guests) != before:
                    text = f"lost without a kill: {before}, {all_lost(all_guests)}"
                    outages.problems.append(text)
                program.kill()
                outages.kills += 1
                if rng.random() < 1 / 4:
                    program.start()
                    time.sleep(rng.uniform(0, 1))
                    program.kill()
                    outages.early_kills += 1
                program.start()
                for name, took in wait_for_traffic(all_guests).items():
                    outages.seconds.setdefault(name, []).append(took)
            if outages.kills < times:
                text = f"{outages.kills} of {times} killed in {seconds:.0f} s"
                outages.problems.append(text)
            outages.lost = all_lost(all_guests)
            for guest in all_guests:
                guest.judge(outages)
        program.wait()
        outages.problems += [f"{path} is left" for path in program.leftovers()]
        program.end()
        sockets = [program.socket(name) for name, ours in CARDS.items() if ours]
        outages.problems += [f"{path} is left" for path in sockets if path.exists()]
        outages.problems += [
            line for line in program.log.splitlines() if "rror" in line
        ]
    return outages
