"""VhostUser in networks that run: workers that sleep, share a port, come and go."""

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from snabb_py.apps.basic import Forward, Sink, Source
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.errors import ConfigError, DeviceError
from snabb_py.virtio.frontend import Frontend, Guest, Refused, counters_of
from snabb_py.virtio.frontend_ring import GUEST_BASE, Layout
from snabb_py.virtio.message import FEATURES, HEADER, SINGLE_REGION, Feature, bits
from snabb_py.virtio.net_device import VhostUser
from tests import vhost_fuzzer
from tests.episodes import run_episode
from tests.harness import Harness, small_engine
from tests.vhost_fuzzer import Healthy


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(1e-3)


class Driver:
    """A guest whose driver the test turns."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.guest = Guest(path, **settings)
        self.harness = Harness(Frontend(self.guest))

    def send(self, n: int) -> None:
        self.harness.send([bytes([1]) * 60] * n)
        self.harness.breathe()

    def receive(self, n: int) -> None:
        got = 0

        def has_all() -> bool:
            nonlocal got
            self.harness.breathe()
            got += len(self.harness.received())
            return got >= n

        until(has_all)
        assert got == n

    def close(self) -> None:
        self.harness.close()
        self.guest.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vhost.sock"


@pytest.fixture
def engine() -> Iterator[Engine]:
    with small_engine(workers=2) as engine:
        yield engine


@pytest.fixture
def driver(path: Path) -> Iterator[Driver]:
    driver = Driver(path)
    yield driver
    driver.close()


def sinking(path: Path, **arguments: Any) -> Config:
    config = Config()
    config.app("vm", VhostUser, path=path, **arguments)
    config.app("sink", Sink)
    config.link("vm.tx -> sink.rx")
    return config


def sent(engine: Engine, app: str = "vm") -> int:
    return engine.apps[app].counters["tx-packets"]


@pytest.mark.parametrize("event_index", [True, False])
def test_a_worker_that_sleeps_is_woken(
    engine: Engine, path: Path, event_index: bool
) -> None:
    features = FEATURES & ~(0 if event_index else bits(Feature.EVENT_IDX))
    driver = Driver(path, features=features)
    engine.commit(sinking(path))
    driver.guest.start()
    row = engine.workers[0].row
    for i in range(1, 20):
        waits = row["waits"]
        until(lambda waits=waits: row["waits"] > waits)  # type: ignore[misc]
        driver.send(3)
        until(lambda i=i: sent(engine) == 3 * i)  # type: ignore[misc]
    driver.close()


def test_rings_stop_and_start_under_traffic(engine: Engine, path: Path) -> None:
    config = sinking(path)
    config.app("source", Source, size=60)
    config.link("source.tx -> vm.rx")
    engine.commit(config)
    with Guest(path, rx=Layout(size=1024), tx=Layout(size=1024)) as guest:
        guest.start()
        config.app("guest", Frontend, guest=guest, worker=1)
        config.app("guest-source", Source, size=60, worker=1)
        config.app("guest-sink", Sink, worker=1)
        config.link("guest-source.tx -> guest.rx")
        config.link("guest.tx -> guest-sink.rx")
        engine.commit(config)
        for _ in range(20):
            counters = counters_of(guest.pairs[0].state)
            until(
                lambda before=counters: all(  # type: ignore[misc]
                    counters_of(guest.pairs[0].state).get(name, 0)
                    > before.get(name, 0) + 100
                    for name in ("rx-packets", "tx-packets")
                )
            )
            bases = guest.stop()
            used = [int(ring.struct.used[1]) for ring in guest.pairs[0].rings]
            assert bases == used
            guest.resume()
        guest.stop()
        assert "wrong-used" not in counters_of(guest.pairs[0].state)
        broken = [
            k for k, n in engine.apps["vm"].counters.items() if "broken" in k and n
        ]
        assert not broken
        engine.commit(Config())


def test_two_workers_share_a_port(engine: Engine, path: Path) -> None:
    config = Config()
    for i in range(2):
        config.app(f"vm{i}", VhostUser, path=path, queues=2, queue=i, worker=i)
        config.app(f"sink{i}", Sink, worker=i)
        config.link(f"vm{i}.tx -> sink{i}.rx")
    engine.commit(config)
    with Guest(path, queues=2) as guest:
        guest.start()
        drivers = [Harness(Frontend(guest, queue=i)) for i in range(2)]
        for i, harness in enumerate(drivers):
            harness.send([bytes(60)] * (i + 1))
            harness.breathe()
        until(lambda: [sent(engine, f"vm{i}") for i in range(2)] == [1, 2])
        # One of them leaves: its rings stand still, the other's do not.
        for name in ("vm1", "sink1"):
            del config.apps[name]
        config.links = {k for k in config.links if k.from_app == "vm0"}
        engine.commit(config)
        drivers[0].send([bytes(60)])
        drivers[0].breathe()
        until(lambda: sent(engine, "vm0") == 2)
        assert guest.stop() == [0, 2, 0, 2]
        for harness in drivers:
            harness.close()


def test_flows_are_dealt_out_to_queues_that_are_up(path: Path) -> None:
    port = Harness(VhostUser(path, queues=4))
    with Guest(path, queues=4, idle=port.breathe) as guest:
        guest.start()
        drivers = [
            Harness(Frontend(guest, queue=i), pool=port.pool, owner=f"guest{i}")
            for i in range(4)
        ]
        guest.enable_ring(6, 0)
        head = bytes.fromhex("0200000000010200000000020800450000140000000040110000")
        flows = [
            head + bytes([10, 0, 0, i, 10, 0, 1, i]) + bytes(30) for i in range(64)
        ]
        port.send(flows * 2)
        port.breathe()
        got = []
        for harness in drivers:
            harness.breathe()
            got.append(harness.received())
        assert sorted(itertools.chain(*got)) == sorted(flows * 2)
        assert [bool(frames) for frames in got] == [True, True, True, False]
        for frames in got:
            assert all(frames.count(frame) == 2 for frame in frames)
        for harness in drivers:
            harness.close()
    port.close()


def test_a_port_stays_while_the_network_changes(
    engine: Engine, path: Path, driver: Driver
) -> None:
    config = sinking(path)
    engine.commit(config)
    driver.guest.start()
    total = 0
    for i in range(6):
        config = Config()
        config.app("vm", VhostUser, path=path, worker=i // 2 % 2)
        config.app(f"sink{i}", Sink, worker=i // 2 % 2)
        config.link(f"vm.tx -> sink{i}.rx")
        engine.commit(config)
        before = sent(engine)
        driver.send(5)
        until(lambda before=before: sent(engine) == before + 5)  # type: ignore[misc]
        total += 5
    assert driver.guest.stop_ring(1) == total


def test_a_port_goes_with_its_app_and_comes_again(
    engine: Engine, path: Path, driver: Driver
) -> None:
    for _ in range(3):
        engine.commit(sinking(path))
        driver.guest.start()
        driver.send(1)
        until(lambda: sent(engine) == 1)
        engine.commit(Config())
        assert not path.exists()
        with pytest.raises(ConnectionError):
            driver.guest.request("get_features")


def test_a_queue_has_one_app(engine: Engine, path: Path) -> None:
    for arguments, wrong in (
        ({"queues": 2, "queue": 1}, "queue 1 is already used by app"),
        ({"queues": 2}, "queue 1 is already used by app"),
        ({"queues": 3, "queue": 0}, "differ in their settings"),
    ):
        config = sinking(path, queues=2, queue=1)
        config.app("other", VhostUser, path=path, **arguments)
        with pytest.raises(ConfigError, match=wrong):
            engine.commit(config)
    assert not path.exists()


def test_wrong_arguments(path: Path) -> None:
    for arguments in ({"queues": 0}, {"queues": 129}, {"queue": 1}):
        with pytest.raises(ConfigError):
            VhostUser(path, **arguments)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown feature TSO"):
        VhostUser(path, without=("TSO",))


def test_what_is_left_out_is_not_offered(engine: Engine, path: Path) -> None:
    engine.commit(sinking(path, without=("MRG_RXBUF", "EVENT_IDX")))
    with Guest(path) as guest:
        guest.negotiate()
        assert not guest.features & bits(Feature.MRG_RXBUF, Feature.EVENT_IDX)


def test_a_socket_that_cannot_be(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="listen at"):
        engine.commit(sinking(tmp_path / "missing" / "s"))
    assert not engine.apps


def test_two_guests_talk(engine: Engine, tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    config = Config()
    for i, path in enumerate(paths):
        config.app(f"vm{i}", VhostUser, path=path)
    config.link("vm0.tx -> vm1.rx")
    config.link("vm1.tx -> vm0.rx")
    engine.commit(config)
    drivers = [Driver(path) for path in paths]
    for driver in drivers:
        driver.guest.start()
    for _ in range(10):
        drivers[0].send(50)
        drivers[1].receive(50)
        drivers[1].send(50)
        drivers[0].receive(50)
    for driver in drivers:
        driver.close()


# -- beside a guest that behaves ------------------------------------------------


class Hurt(NamedTuple):
    """What a front end does, and the counter that says what became of it."""

    counter: str
    do: Callable[[Guest], object]


def announce(guest: Guest, size: int) -> None:
    """Announce memory that its file does not have."""
    region = (GUEST_BASE + 2**40, size, 2**40, 0)
    with pytest.raises(Refused):
        guest.request("add_mem_reg", SINGLE_REGION.pack(0, *region), [guest.memory.fd])


def never_read(guest: Guest) -> None:
    assert guest.socket
    guest.socket.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            guest.send(HEADER.pack(1, 1, 0) * 100)


def break_ring(guest: Guest, head: int) -> None:
    guest.pairs[0].rings[1].offer(head)


def circle(guest: Guest) -> None:
    guest.pairs[0].rings[1].describe(0, GUEST_BASE, 0, 1, 0)
    break_ring(guest, 0)


def truncate(guest: Guest) -> None:
    os.ftruncate(guest.memory.fd, 0)


def block(guest: Guest) -> None:
    """Eventfds that let whoever writes to them wait."""
    for fd in (guest.pairs[0].call, guest.pairs[0].err):
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(fd)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(fd, 2**64 - 3)
        os.set_blocking(fd, True)
    break_ring(guest, 999)


HURTS = {
    "stalls in the middle of a message": Hurt(
        "closed-unfinished-connections", lambda g: g.send(HEADER.pack(2, 1, 8) + b"1")
    ),
    "announces a message of 4 GB": Hurt(
        "closed-oversized-connections", lambda g: g.send(HEADER.pack(5, 1, 2**32 - 1))
    ),
    "announces 10 GB of memory": Hurt(
        "refused-bad-memory-messages", lambda g: announce(g, 10 << 30)
    ),
    "never reads its replies": Hurt("closed-unread-connections", never_read),
    "truncates its memory": Hurt("truncated", truncate),
    "names no descriptor": Hurt("broken-head-rings", lambda g: break_ring(g, 999)),
    "sends in circles": Hurt("broken-chain-rings", circle),
    "fills its eventfds": Hurt("broken-head-rings", block),
    "speaks another language": Hurt(
        "closed-oversized-connections", lambda g: g.send(b"GET / HTTP/1.1\r\n")
    ),
}


@pytest.mark.parametrize("what", HURTS)
def test_other_ports_do_not_notice(engine: Engine, tmp_path: Path, what: str) -> None:
    hurt = HURTS[what]
    config = sinking(tmp_path / "hurt")
    config.app("source", Source, size=200, rate_pps=50000)
    config.link("source.tx -> vm.rx")
    config.app("other", VhostUser, path=tmp_path / "other")
    config.app("echo", Forward)
    config.link("other.tx -> echo.rx")
    config.link("echo.tx -> other.rx")
    engine.commit(config)
    app = engine.apps["vm"].instance
    assert isinstance(app, VhostUser)
    port = app.port
    assert port
    ahead = 0.0
    port._clock = lambda: time.monotonic() + ahead

    def has_come() -> bool:
        nonlocal ahead
        ahead += 1
        counters = engine.apps["vm"].counters | port.counters
        return bool((counters | {"truncated": port.device.truncated})[hurt.counter])

    healthy = Healthy(tmp_path / "other")
    try:
        with Guest(tmp_path / "hurt") as guest:
            guest.start()
            until(lambda: healthy.nframes > 200)
            hurt.do(guest)
            until(has_come)
            before = healthy.nframes
            until(lambda: healthy.nframes > before + 200)
        healthy.stop()
    finally:
        healthy.close()
    other = engine.apps["other"].counters
    assert not [k for k, n in other.items() if n and k.startswith(("drop", "broken"))]


@pytest.mark.parametrize("seed", [1, 2, 8])
def test_a_port_survives_a_hostile_front_end(seed: int) -> None:
    """As scripts/verify/fuzz-vhost does for long."""
    run_episode(vhost_fuzzer.Episode, seed, range(60))
