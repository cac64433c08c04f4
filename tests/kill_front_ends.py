"""Guests are killed, again and again, at ports of a snabb-py that lives on.

Two front ends of ours exchange numbered frames through it all the while, in closed
loops, and send to the guests that die as well. They lose nothing, nothing comes twice
or late, and what the program has afterwards is what it had before.

    python -m tests.kill_front_ends SOCKET TIMES SEED [server]

is the process whose children are front ends of ours that die while they say hello.
"""

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from snabb_py.virtio.frontend import Guest
from tests import guest as linux
from tests.hosts import until
from tests.kill_back_end import Linux
from tests.killed_program import (
    DIES_WITH_US,
    ROOT,
    Belongings,
    Program,
    compare,
    mac,
)
from tests.numbered_frames import End, Window
from tests.testpmd import Testpmd

#: Two that live, and those that die; whether we listen at their sockets.
PORTS = {
    "A": True, "B": False,
    "P1": True, "P2": False,  # testpmd
    "Q1": True, "Q2": False,  # QEMU
    "H1": True, "H2": False,  # ours, before they have said all
}  # fmt: skip
#: Frames to each guest that dies, for each round of those that live.
DOOMED_FRAMES = 8
#: Seconds between two looks, so that guests have a CPU too.
PAUSE = 0.004
#: Seconds until the loop counts as standing still.
PATIENCE = 120.0

DRIVERS = """
modprobe virtio_net
i=0
for file in /sys/class/net/*/address; do
    name=$(basename ${file%/address})
    [ $name != lo ] || continue
    i=$((i + 1))
    ip addr add 198.18.$i.1/24 dev $name
    ip neigh add 198.18.$i.2 lladdr {to} dev $name nud permanent
    ip link set $name up
    ping -q -f 198.18.$i.2 &
done
wait
"""


# ---- those that live -----------------------------------------------------------------


class Survivors:
    """Two front ends of ours that exchange numbered frames.

    Args:
        program: whose ports A and B they have.
        stack: closes them.
    """

    def __init__(self, program: Program, stack: ExitStack) -> None:
        a, b = (
            stack.enter_context(
                End(program.socket(name), mac(name), is_server=not PORTS[name])
            )
            for name in "AB"
        )
        for end in (a, b):
            end.guest.start()
        self.ends = (a, b)
        self.windows = (Window(a, b), Window(b, a))
        self.problems: list[str] = []
        self._doomed = [mac(name) for name in PORTS if name not in "AB"]
        self._may_run = threading.Event()
        self._is_resting = threading.Event()
        self._has_ended = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        stack.callback(self._stop)

    def _stop(self) -> None:
        self._has_ended = True
        self._may_run.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._has_ended:
            if not self._may_run.is_set():
                self._is_resting.set()
                self._may_run.wait()
                self._is_resting.clear()
            self._exchange()

    def _exchange(self) -> None:
        """Let a window pass each way."""
        for address in self._doomed:
            self.ends[0].send(address, range(DOOMED_FRAMES))
        for window in self.windows:
            window.fill()
        start = time.monotonic()
        while not (self._has_ended or all(w.is_empty for w in self.windows)):
            for window in self.windows:
                window.take()
            if time.monotonic() - start > PATIENCE:
                self.problems.append("nothing comes any more")
                self._has_ended = True
                return
            time.sleep(PAUSE)

    def go_on(self) -> None:
        """Exchange."""
        self._may_run.set()

    def rest(self) -> None:
        """Stop between two windows."""
        self._may_run.clear()
        until(lambda: self._is_resting.is_set() or self._has_ended, "rest", PATIENCE)

    @property
    def received(self) -> int:
        """Frames that have come."""
        return sum(window.received for window in self.windows)

    def judge(self) -> list[str]:
        """Return what is wrong; they rest."""
        found = list(self.problems)
        for end, window in zip(self.ends, self.windows, strict=True):
            found += window.wrong
            if window.lost:
                found.append(f"{window.lost} frames lost")
            if end.wrong:
                found.append(f"front end: {end.wrong}")
        return found


# ---- those that die ------------------------------------------------------------------


class Doomed(Guest):
    """A front end that kills itself: before a message, or in the middle of it.

    Args:
        left: messages that it sends before.
        share: of the last one, that it still sends.
        others: of `Guest`.
    """

    def __init__(self, path: Path, *, left: int, share: float, **others: Any) -> None:
        super().__init__(path, **others)
        self._left, self._share = left, share

    def negotiate(self) -> None:
        """Begin, again and again: perhaps the one before has not been buried yet."""
        left, deadline = self._left, time.monotonic() + PATIENCE
        while True:
            try:
                super().negotiate()
            except OSError:  # refused as the second, or nobody is there
                if time.monotonic() > deadline:
                    raise
                self._left = left
                time.sleep(0.01)
            else:
                return

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send a message, or as much of it as there is time for."""
        if self._left == 0:
            part = data[: round(len(data) * self._share)]
            if part:
                super().send(part, fds)
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1
        super().send(data, fds)


#: Messages from the first to the last, and from there on twice: it sends, and dies.
STARTED = 20
MESSAGES = STARTED + 2


def be_doomed(path: Path, left: int, share: float, *, is_server: bool) -> NoReturn:
    """Be a front end until it dies."""
    if is_server:
        path.unlink(missing_ok=True)  # of the one that was killed
    try:
        arguments = {"left": left, "share": share, "is_server": is_server}
        end = End(path, mac("H"), kind=Doomed, **arguments)
        end.guest.start()
        end.send(mac("A"), range(2 * Window.SIZE))
        os.kill(os.getpid(), signal.SIGKILL)
    finally:
        traceback.print_exc()
        os._exit(1)


def die_often(path: Path, times: int, seed: str, *, is_server: bool) -> None:
    """Have so many children that die as front ends."""
    rng = random.Random(seed)  # noqa: S311 - repeatable
    for i in range(times):
        share = rng.choice((0.0, rng.random(), 1.0))
        pid = os.fork()
        if pid == 0:
            be_doomed(path, i % MESSAGES, share, is_server=is_server)
        _, status = os.waitpid(pid, 0)
        if status != signal.SIGKILL:
            sys.exit(f"a front end ended by itself: {status}")


class Killer:
    """Kills guests at the ports of a program.

    Args:
        program: lives on.
        seed: of the moments.
        deadline: on CLOCK_MONOTONIC, seconds: then no more are killed.
    """

    def __init__(self, program: Program, seed: int, deadline: float) -> None:
        self.program = program
        self.deadline = deadline
        self.random = random.Random(seed)  # noqa: S311 - repeatable
        #: How many were killed, and how many of them when packets went.
        self.kills: dict[str, list[int]] = {}
        self._has_ended = False

    def stop(self) -> None:
        """Kill no more."""
        self._has_ended = True

    def _times(self, n: int) -> Iterator[int]:
        return itertools.takewhile(
            lambda _: not self._has_ended and time.monotonic() < self.deadline, range(n)
        )

    def _note(self, kind: str, *, was_up: bool) -> None:
        counts = self.kills.setdefault(kind, [0, 0])
        counts[0] += 1
        counts[1] += was_up

    def _traffic(self, port: str) -> int:
        counters = self.program.ask("counters")["apps"][f"{port}_Virtio"]
        return int(min(counters["rx-packets"], counters["tx-packets"]))

    def kill_testpmds(self, times: int) -> None:
        """Kill testpmd so often: half as it starts, half as packets go."""
        for i in self._times(times):
            port, is_ours = ("P1", True) if i % 2 else ("P2", False)
            path, address = self.program.socket(port), mac(port).hex(":")
            if not is_ours:
                path.unlink(missing_ok=True)  # of the one that was killed
            before = self._traffic(port)
            options = f"mac={address}{'' if is_ours else ',server=1'}"
            mode = self.random.choice(("macswap", "txonly", "macswap"))
            with Testpmd(path, options, mode=mode):
                if i % 4 < 2:
                    time.sleep(self.random.uniform(0, 1))
                else:
                    self._wait_for_traffic(port, before)
                    time.sleep(self.random.uniform(0, 0.1))
            self._note("testpmd", was_up=self._traffic(port) > before)

    def _wait_for_traffic(self, port: str, before: int) -> None:
        until(
            lambda: self._has_ended or self._traffic(port) > before,
            f"traffic with {port}",
            PATIENCE,
        )

    def kill_qemus(self, times: int) -> None:
        """Kill QEMU so often: half as it boots, half as its drivers start or work."""
        for i in self._times(times):
            arguments = [
                word
                for name in ("Q1", "Q2")
                for word in Linux.card(self.program, name, is_server=PORTS[name])
            ]
            before = self._traffic("Q1")
            boot = linux.BOOT_TIMEOUT if i % 2 else self.random.uniform(0.1, 5)
            with (
                suppress(linux.GuestError),
                linux.Guest(
                    extra=arguments, memory="256M", cpus=1, boot_timeout=boot
                ) as guest,
            ):
                guest.start(DRIVERS.replace("{to}", mac("A").hex(":")))
                if i % 4 == 1:
                    self._wait_for_traffic("Q1", before)
                    time.sleep(self.random.uniform(0, 0.1))
                else:
                    time.sleep(self.random.uniform(0, 2))
                guest.kill()
            self._note("QEMU", was_up=self._traffic("Q1") > before)

    def kill_our_own(self, times: int) -> None:
        """Kill front ends of ours so often, at all points of their hello."""
        for port, n in (("H1", times // 2), ("H2", times - times // 2)):
            path, is_server = self.program.socket(port), not PORTS[port]
            role = ["server"] if is_server else []
            subprocess.run(
                [*DIES_WITH_US, sys.executable, "-m", __name__, path, str(n),
                 str(self.random.random()), *role],
                cwd=ROOT, check=True,
            )  # fmt: skip
            for i in range(n):
                self._note("our own", was_up=i % MESSAGES >= STARTED)


# ---- all of it -----------------------------------------------------------------------


@dataclass
class Deaths:
    """What came of the kills.

    Attributes:
        kills: of each kind: how many, and how many of them when packets went.
        frames: that those who live exchanged.
        before, after: what the program had.
        problems: what must not be.
    """

    kills: dict[str, list[int]]
    frames: int
    before: Belongings
    after: Belongings
    problems: list[str] = field(default_factory=list)

    def describe(self) -> Iterator[str]:
        """Yield lines."""
        for kind, (all_of_them, up) in self.kills.items():
            yield f"{kind}: {all_of_them} killed, {up} of them under traffic"
        yield f"other ports: {self.frames} frames exchanged meanwhile, all in order"
        yield f"before: {self.before.describe()}"
        yield f"after:  {self.after.describe()}"


def check_ports(program: Program, survivors: Survivors) -> None:
    """Let a guest of ours have each port that guests have died at."""
    a = survivors.ends[0]
    for name in ("H1", "P1", "Q1", "H2", "P2", "Q2"):
        path = program.socket(name)
        if not PORTS[name]:
            path.unlink(missing_ok=True)
        with End(path, mac(name), is_server=not PORTS[name]) as end:
            end.guest.start()
            window = Window(end, a)
            window.fill()
            until(lambda w=window: w.take() or w.is_empty, name)  # type: ignore[misc]
            assert not window.wrong
            assert not window.lost


def run_together(jobs: Sequence[Callable[[], Any]], killer: Killer) -> None:
    """Run jobs side by side; when one fails the others end soon."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        try:
            futures = [pool.submit(job) for job in jobs]
            for future in futures:
                future.result()
        finally:
            killer.stop()


def kill_front_ends(  # noqa: PLR0913 - what is killed, how often
    directory: Path,
    seed: int,
    *,
    testpmds: int = 0,
    qemus: int = 0,
    ours: int = 0,
    warm_up: int = 3,
    seconds: float = 600,
) -> Deaths:
    """Kill so many of each kind, side by side, at random moments.

    Args:
        directory: for sockets.
        seed: of the moments.
        testpmds: kills of testpmd.
        qemus: kills of QEMU.
        ours: kills of front ends of ours while they say hello.
        warm_up: kills of each kind before the first count, at most.
        seconds: after so many no more are killed, and those that lack are a problem.
    """
    deadline = time.monotonic() + seconds
    with Program(directory, PORTS) as program, ExitStack() as stack:
        program.start()
        program.wait()
        survivors = Survivors(program, stack)

        def kill(testpmds: int, qemus: int, ours: int) -> dict[str, list[int]]:
            killer = Killer(program, seed, deadline)
            survivors.go_on()
            run_together(
                [
                    lambda: killer.kill_testpmds(testpmds),
                    lambda: killer.kill_qemus(qemus),
                    lambda: killer.kill_our_own(ours),
                ],
                killer,
            )
            survivors.rest()
            check_ports(program, survivors)
            return killer.kills

        kill(*(min(n, warm_up) for n in (testpmds, qemus, ours)))
        before, frames = Belongings.at_rest(program), survivors.received
        kills = kill(testpmds, qemus, ours)
        after, gained = compare(before, program)
        problems = survivors.judge() + gained
        for kind, n in (("testpmd", testpmds), ("QEMU", qemus), ("our own", ours)):
            if (killed := kills.get(kind, [0])[0]) < n:
                problems.append(f"{kind}: {killed} of {n} killed in {seconds:.0f} s")
        deaths = Deaths(kills, survivors.received - frames, before, after, problems)
        if after.packets["total"] != sum(
            after.packets[name] for name in ("free", "on_links", "held")
        ):
            problems.append(f"packets are missing: {after.packets}")
        problems += [line for line in program.log.splitlines() if "error" in line]
        return deaths


if __name__ == "__main__":
    socket, times, seed, *role = sys.argv[1:]
    die_often(Path(socket), int(times), seed, is_server=bool(role))
