"""DPDK's virtio-user as the guest of a vhost-user port, returning what it gets.

A window of frames of all sizes is sent, comes back, and is compared byte by byte, again
and again: nothing may be lost where nobody is hurried.
"""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snabb_py.engine.app import Ports
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.engine.python_app import PythonApp
from snabb_py.virtio.device import Pair
from snabb_py.virtio.net_device import VhostUser
from tests.harness import small_engine
from tests.testpmd import Testpmd

pytestmark = pytest.mark.need("dpdk")

WINDOW = 48
#: Windows that are to come back, each of other frames.
ROUNDS = 200


#: Is sent until it comes back: a driver that starts throws away what came before.
HELLO = bytes.fromhex("020000000001 020000000002 88b5").ljust(60, b"\0")
HELLO_SECONDS = 0.01


class Echo(PythonApp):
    """Sends windows of frames and compares what comes back."""

    inputs = Ports("rx")
    outputs = Ports("tx")
    #: What a test reads.
    rounds = 0
    wrong: list[str] = []  # noqa: RUF012 - of the class: an instance per engine
    sizes = 60, 1514
    is_paused = False

    def __init__(self) -> None:
        self.random = random.Random(1)  # noqa: S311 - a test's
        self.expected: dict[bytes, int] = {}
        self.is_there = False
        self.greeted_at = 0.0

    def greet(self) -> None:
        if time.monotonic() > self.greeted_at + HELLO_SECONDS:
            self.greeted_at = time.monotonic()
            if packet := self.new_packet(HELLO):
                self.output["tx"].transmit(packet)

    def pull(self) -> None:
        """Send a window when the one before is back."""
        if self.expected:
            return
        if Echo.is_paused:
            self.is_there = False
            return
        if not self.is_there:
            self.greet()
            return
        for _ in range(WINDOW):
            # Of several flows, so that several queues have some.
            length = self.random.randint(*Echo.sizes)
            head = bytes.fromhex("0200000000010200000000020800450000140000000040110000")
            addresses = self.random.randbytes(8)
            frame = head + addresses + self.random.randbytes(length - 34)
            packet = self.new_packet(frame)
            if packet:
                self.expected[frame] = self.expected.get(frame, 0) + 1
                self.output["tx"].transmit(packet)

    def push(self) -> None:
        """Compare."""
        for packet in self.input["rx"].receive_burst():
            frame = bytes(packet.data)
            if frame == HELLO:
                self.is_there = True
            elif self.expected.pop(frame, 0) != 1:
                Echo.wrong.append(f"{len(frame)} bytes that were not expected")
            packet.free()
        if self.is_there and not self.expected and not Echo.is_paused:
            Echo.rounds += 1


@pytest.fixture
def echo() -> Iterator[type[Echo]]:
    # What is sent to a guest that is not there is lost.
    Echo.rounds, Echo.wrong, Echo.sizes, Echo.is_paused = 0, [], (60, 1514), True
    yield Echo
    assert Echo.wrong == []


def network(path: Path, **arguments: Any) -> Config:
    config = Config()
    config.app("vm", VhostUser, path=path, **arguments)
    config.app("echo", Echo)
    config.link("echo.tx -> vm.rx")
    config.link("vm.tx -> echo.rx")
    return config


def run_until(engine: Engine, condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    engine.main(done=lambda: condition() or time.monotonic() > deadline)
    assert condition(), dict(engine.apps["vm"].counters)


def counted(engine: Engine, *prefixes: str) -> dict[str, int]:
    counters = engine.apps["vm"].counters
    return {k: n for k, n in counters.items() if n and k.startswith(prefixes)}


@pytest.mark.parametrize(
    "options",
    [
        "",
        "mrg_rxbuf=0",
        "in_order=0",
        "mrg_rxbuf=0,in_order=0",
        "vectorized=1",
        "vectorized=1,mrg_rxbuf=0,in_order=0",
        "queue_size=1024",
        "queue_size=64",
    ],
)
def test_a_guest_returns_all_frames(
    tmp_path: Path, echo: type[Echo], options: str
) -> None:
    path = tmp_path / "s"
    with small_engine() as engine:
        engine.commit(network(path))
        size = options.partition("queue_size=")[2]
        arguments = [f"--txd={size}", f"--rxd={size}"] if size else []
        with Testpmd(path, options, *arguments) as guest:
            run_until(engine, lambda: is_up(engine), 30)
            echo.is_paused = False
            run_until(engine, lambda: echo.rounds >= ROUNDS, 60)
            guest.end()
        assert not counted(engine, "drop-tx", "broken")


def pairs_of(engine: Engine) -> list[Pair]:
    app = engine.apps["vm"].instance
    assert isinstance(app, VhostUser)
    assert app.port
    return app.port.device.pairs


def is_up(engine: Engine, queues: int = 1) -> bool:
    rings = [r for pair in pairs_of(engine)[:queues] for r in pair.rings]
    return all(ring.is_running and ring.is_enabled for ring in rings)


@pytest.mark.parametrize("is_server", [True, False])
def test_two_queue_pairs(tmp_path: Path, echo: type[Echo], is_server: bool) -> None:
    path = tmp_path / "s"
    arguments = ["--rxq=2", "--txq=2"]
    options = "queues=2" if is_server else "queues=2,server=1"
    with small_engine() as engine:
        engine.commit(network(path, queues=2, server=is_server))
        with Testpmd(path, options, *arguments):
            run_until(engine, lambda: is_up(engine, 2), 30)
            echo.is_paused = False
            run_until(engine, lambda: echo.rounds >= ROUNDS, 60)
            assert all(pair.struct.rx.next > 0 for pair in pairs_of(engine))
        assert not counted(engine, "drop-tx", "drop-rx-ring", "broken")


def pass_some(engine: Engine, echo: type[Echo]) -> None:
    """Let packets go round for a while, and all of them come back."""
    run_until(engine, lambda: is_up(engine), 30)
    echo.is_paused, goal = False, echo.rounds + 50
    run_until(engine, lambda: echo.rounds >= goal, 60)
    echo.is_paused = True
    running = engine.apps["echo"].runner
    assert running
    app = running.instance
    assert isinstance(app, Echo)
    run_until(engine, lambda: not app.expected, 30)


def test_stop_and_start(tmp_path: Path, echo: type[Echo]) -> None:
    path = tmp_path / "s"
    with small_engine() as engine:
        engine.commit(network(path))
        with Testpmd(path) as guest:
            for _ in range(3):
                pass_some(engine, echo)
                guest.command("stop", "port stop 0", "port start 0", "start")
            pass_some(engine, echo)
        assert not counted(engine, "drop", "broken")


def test_a_new_back_end_goes_on(tmp_path: Path, echo: type[Echo]) -> None:
    # The guest listens, and does not notice that we are another process's engine.
    path = tmp_path / "s"
    with Testpmd(path, "server=1"):
        for _ in range(3):
            with small_engine() as engine:
                engine.commit(network(path, server=False))
                pass_some(engine, echo)
                assert not counted(engine, "drop", "broken")


def test_a_guest_is_followed_by_another(tmp_path: Path, echo: type[Echo]) -> None:
    path = tmp_path / "s"
    with small_engine() as engine:
        engine.commit(network(path))
        for _ in range(3):
            with Testpmd(path):
                pass_some(engine, echo)
            run_until(engine, lambda: not is_up(engine), 30)
        assert not counted(engine, "drop", "broken")
