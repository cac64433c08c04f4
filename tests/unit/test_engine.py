"""The engine: networks run, change, fail to change, and give every packet back."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snabb_py._native import ffi, lib
from snabb_py.apps.basic import Forward, Join, Police, Repeater, Sink, Source, Tee
from snabb_py.engine import control, counter, shm
from snabb_py.engine.app import App, Ports, Resources
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.engine.histogram import bucket_low, buckets
from snabb_py.engine.packet import Packet
from snabb_py.engine.python_app import PythonApp
from snabb_py.engine.worker import parse_cpus
from snabb_py.errors import AppError, ConfigError, DeviceError
from tests.harness import small_engine
from tests.hosts import until


@pytest.fixture
def engine() -> Iterator[Engine]:
    with small_engine() as engine:
        yield engine


def straight(**source: Any) -> Config:
    config = Config()
    config.app("source", Source, sequence=True, **source)
    config.app("hop", Forward)
    config.app("sink", Sink, sequence=True)
    config.link("source.tx -> hop.rx")
    config.link("hop.tx -> sink.rx")
    return config


def received(engine: Engine) -> int:
    return engine.link("hop.tx -> sink.rx").counters["rxpackets"]


def assert_nothing_missing(engine: Engine) -> None:
    assert engine.apps["sink"].counters == {
        "lost": 0,
        "duplicated": 0,
        "reordered": 0,
        "foreign": 0,
    }


def test_packets_flow_and_are_counted(engine: Engine) -> None:
    engine.commit(straight(count=100_000))
    until(lambda: received(engine) == 100_000)
    for link in engine.links.values():
        assert link.counters == {
            "txpackets": 100_000,
            "txbytes": 6_000_000,
            "rxpackets": 100_000,
            "rxbytes": 6_000_000,
            "txdrop": 0,
        }
    assert_nothing_missing(engine)
    assert engine.drops() == {}
    census = engine.census()
    assert census.is_complete
    assert census.free == census.total == 4096 + 64


def test_counter_names_fit_their_structs() -> None:
    for names, kind in (
        (counter.LINK, "struct link_counters"),
        (counter.WORKER, "struct worker_counters"),
    ):
        fields = [name for name, _ in ffi.typeof(kind).fields]
        assert [f.replace("_", "-") for f in fields[: len(names)]][:5] == [
            n.replace("-packets", "") if n.startswith("free") else n for n in names
        ][:5]
        assert all(f.startswith("reserved") for f in fields[len(names) :])
    assert len(Sink.counters) == lib.SINK_NCOUNTERS
    assert len(Tee.counters) == lib.TEE_NCOUNTERS
    assert len(Repeater.counters) == lib.REPEATER_NCOUNTERS
    assert len(Police.counters) == lib.POLICE_NCOUNTERS


def test_thousand_changes_lose_nothing(engine: Engine) -> None:
    """Apps come, go, are linked anew and get other arguments; numbers go on."""
    stay = straight(rate_pps=2e6)
    engine.commit(stay)
    for i in range(1000):
        config = stay.copy()
        config.app("other", Source, rate_pps=1e5 + i)
        config.app("police", Police, rate_gbps=1 + i % 7)
        config.app("end", Sink)
        if i % 2:
            config.app("tee", Tee)
            config.app("end2", Sink)
            config.link("other.tx -> tee.rx")
            config.link("tee.tx1 -> police.rx")
            config.link("tee.tx2 -> end2.rx")
        else:
            config.link("other.tx -> police.rx")
        config.link("police.tx -> end.rx")
        engine.commit(config)
        assert engine.census().is_complete
    n = received(engine)
    until(lambda: received(engine) > n)
    engine.commit(stay)
    assert_nothing_missing(engine)
    assert engine.workers[0].row["longest-gap-ns"] > 0


def test_what_is_on_a_link_that_goes_is_pushed_on_first(engine: Engine) -> None:
    engine.commit(straight(count=50_000))
    until(lambda: received(engine) > 0)
    short = Config()
    short.app("source", Source, sequence=True, count=50_000)
    short.app("sink", Sink, sequence=True)
    short.link("source.tx -> sink.rx")
    engine.commit(short)
    until(lambda: engine.apps["sink"].counters["lost"] == 0)
    engine.drain()
    assert_nothing_missing(engine)
    assert engine.workers[0].row["drop-reconfigure"] == 0


def test_stuck_packets_are_counted_when_their_link_goes(engine: Engine) -> None:
    class Stuck(App):
        inputs = Ports("rx")
        ops = ffi.new("struct app_ops *")

    config = Config()
    config.app("source", Source, count=500)
    config.app("stuck", Stuck)
    config.link("source.tx -> stuck.rx")
    engine.commit(config)
    until(lambda: engine.link("source.tx -> stuck.rx").counters["txpackets"] == 500)
    census = engine.census()
    assert census.is_complete
    assert census.on_links == 500
    engine.commit(Config())
    assert engine.workers[0].row["drop-reconfigure"] == 500
    assert engine.census().free == engine.pool.total


def test_an_app_that_holds_packets_gives_them_back(engine: Engine) -> None:
    config = Config()
    config.app("source", Source, count=100)
    config.app("repeater", Repeater)
    config.app("sink", Sink)
    config.link("source.tx -> repeater.rx")
    config.link("repeater.tx -> sink.rx")
    engine.commit(config)
    until(lambda: engine.link("repeater.tx -> sink.rx").counters["rxpackets"] > 10_000)
    census = engine.census()
    assert census.is_complete
    assert census.held == 100
    engine.commit(Config())
    assert engine.census().free == engine.pool.total


class Thing:
    """A resource that knows whether it is open."""

    opened = 0
    closed = 0

    def __init__(self) -> None:
        Thing.opened += 1

    def close(self) -> None:
        Thing.closed += 1


class Borrower(Forward):
    """An app with a resource; does not open for size 13."""

    def __init__(self, size: int) -> None:
        self.size = size

    def open(self, resources: Resources) -> None:
        resources.borrow("thing", Thing)
        if self.size == 13:
            raise DeviceError("open thing 13", 13)


def with_borrower(size: int, name: str = "hop") -> Config:
    config = straight()
    del config.apps["hop"]
    config.links.clear()
    config.app(name, Borrower, size=size)
    config.link(f"source.tx -> {name}.rx")
    config.link(f"{name}.tx -> sink.rx")
    return config


def test_a_successor_inherits_an_open_resource(engine: Engine) -> None:
    Thing.opened = Thing.closed = 0
    for size in (1, 2, 3):
        engine.commit(with_borrower(size))
    engine.commit(with_borrower(3, name="renamed"))
    assert (Thing.opened, Thing.closed) == (1, 0)
    engine.commit(straight())
    assert (Thing.opened, Thing.closed) == (1, 1)


def test_a_config_that_fails_changes_nothing(engine: Engine) -> None:
    Thing.opened = Thing.closed = 0
    engine.commit(straight())
    before = engine.describe()
    rows = len(engine.counters._free_entries)
    for bad, kind in (
        (with_borrower(13), DeviceError),
        (straight(count=-1), ConfigError),
        (straight(nonsense=1), ConfigError),
        (straight(size="x"), ConfigError),
    ):
        with pytest.raises(kind, match=r"hop|source|thing"):
            engine.commit(bad)
        assert engine.describe() == before
        assert len(engine.counters._free_entries) == rows
        n = received(engine)
        until(lambda n=n: received(engine) > n)  # type: ignore[misc]
    assert Thing.opened == Thing.closed == 1
    assert engine.census().is_complete


def test_one_resource_has_one_user(engine: Engine) -> None:
    config = with_borrower(1)
    config.app("second", Borrower, size=1)
    config.app("s2", Source)
    config.app("z2", Sink)
    config.link("s2.tx -> second.rx")
    config.link("second.tx -> z2.rx")
    with pytest.raises(ConfigError, match='thing is already used by app "hop"'):
        engine.commit(config)


def test_workers_exchange_packets_without_loss() -> None:
    with small_engine(workers=2) as engine:
        config = Config()
        config.app("source", Source, sequence=True, count=3_000_000, worker=0)
        config.app("hop", Forward, worker=1)
        config.app("sink", Sink, sequence=True, worker=1)
        config.link("source.tx -> hop.rx")
        config.link("hop.tx -> sink.rx")
        engine.commit(config)
        until(lambda: received(engine) == 3_000_000, seconds=60)
        assert_nothing_missing(engine)
        assert engine.census().is_complete
        # The app that moves over is a new one; nobody loses a packet for it.
        config.apps["hop"] = type(config.apps["hop"])(Forward, {}, 0)
        engine.commit(config)
        assert engine.census().is_complete
        engine.commit(Config())
        assert engine.census().free == engine.pool.total


def test_an_idle_engine_sleeps_and_wakes(engine: Engine) -> None:
    engine.commit(straight(count=10))
    until(lambda: received(engine) == 10)
    row = engine.workers[0].row
    until(lambda: row["sleeps"] + row["waits"] > 10)
    started = time.process_time()
    time.sleep(0.2)
    assert row["sleep-ns"] > 0
    assert time.process_time() - started < 0.15
    engine.commit(straight(count=20, rate_pps=0))
    until(lambda: received(engine) >= 20)


def test_the_drain_lets_all_arrive(engine: Engine) -> None:
    engine.commit(straight())
    until(lambda: received(engine) > 1000)
    assert engine.drain()
    source = engine.link("source.tx -> hop.rx").counters
    assert source["txpackets"] == received(engine)
    assert engine.census().on_links == 0


def test_a_full_output_is_counted_and_nobody_waits(engine: Engine) -> None:
    class Stuck(App):
        inputs = Ports("rx")
        ops = ffi.new("struct app_ops *")

    config = Config()
    config.app("source", Source)
    config.app("tee", Tee)
    config.app("stuck", Stuck)
    config.app("sink", Sink)
    config.link("source.tx -> tee.rx")
    config.link("tee.tx1 -> stuck.rx")
    config.link("tee.tx2 -> sink.rx")
    engine.commit(config)
    until(lambda: engine.link("tee.tx2 -> sink.rx").counters["rxpackets"] > 10_000)
    stuck = engine.link("tee.tx1 -> stuck.rx").counters
    assert stuck["txpackets"] == lib.LINK_CAPACITY
    assert stuck["txdrop"] > 0
    assert engine.drops()["tee.tx1 -> stuck.rx txdrop"] >= stuck["txdrop"]
    assert engine.census().is_complete


def test_an_empty_pool_is_survived() -> None:
    with Engine(packets=256, large_packets=0, huge=False) as engine:
        config = Config()
        config.app("source", Source, count=200)
        config.app("repeater", Repeater, limit=200)
        config.app("tee", Tee)
        config.app("a", Sink)
        config.app("b", Sink)
        config.link("source.tx -> repeater.rx")
        config.link("repeater.tx -> tee.rx")
        config.link("tee.tx1 -> a.rx")
        config.link("tee.tx2 -> b.rx")
        engine.commit(config)
        until(lambda: engine.apps["tee"].counters["drop-no-packet"] > 0)
        n = engine.link("tee.tx2 -> b.rx").counters["rxpackets"]
        until(lambda: engine.link("tee.tx2 -> b.rx").counters["rxpackets"] > n)
        assert engine.census().is_complete


def test_join_shares_a_full_output_fairly(engine: Engine) -> None:
    config = Config()
    config.app("join", Join)
    config.app("sink", Sink)
    for i in range(3):
        config.app(f"s{i}", Source)
        config.link(f"s{i}.tx -> join.rx{i}")
    config.link("join.tx -> sink.rx")
    engine.commit(config)
    until(lambda: engine.link("join.tx -> sink.rx").counters["rxpackets"] > 300_000)
    counts = [
        engine.link(f"s{i}.tx -> join.rx{i}").counters["rxpackets"] for i in range(3)
    ]
    assert min(counts) > 0.5 * max(counts)


@pytest.mark.parametrize("settings", [{"cpus": [9999]}, {"burst": 0}, {"burst": 9999}])
def test_senseless_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        small_engine(**settings)


def test_a_worker_runs_where_it_is_told() -> None:
    cpu = max(os.sched_getaffinity(0))
    with small_engine(cpus=[cpu]):
        threads = [
            int(task.name)
            for task in Path("/proc/self/task").iterdir()
            if (task / "comm").read_text().strip() == "worker-0"
        ]
        assert [os.sched_getaffinity(tid) for tid in threads] == [{cpu}]


def test_an_instance_that_does_not_answer(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control"))
        listener.listen()
        with pytest.raises(DeviceError, match=r"ask .*control: Connection timed out"):
            control.call(tmp_path / "control", "uptime", patience=0.01)


def test_cpu_lists() -> None:
    assert parse_cpus("2,4-6") == [2, 4, 5, 6]
    assert parse_cpus(" 0-0, 7 ") == [0, 7]
    for text, wrong in (
        ("x", '"x" is no CPU'),
        ("", '"" is no CPU'),
        ("2,", '"" is no CPU'),
        ("4-", '"4-" is no CPU'),
        ("-4", '"-4" is no CPU'),
        ("0-999999999", '"0-999999999" is no CPU'),
        ("5-4", "5-4 begins behind its end"),
        ("0,2,0", "CPU 0 is there twice"),
        ("1-3,2", "CPU 2 is there twice"),
    ):
        with pytest.raises(ConfigError, match=rf'^CPU list "{text}": {wrong}'):
            parse_cpus(text)


def test_many_engines_live_side_by_side() -> None:
    engines = [
        Engine(packets=256, large_packets=0, huge=False, log=print) for _ in range(20)
    ]
    for engine in engines:
        engine.commit(straight(count=1000))
    for engine in engines:
        until(lambda engine=engine: received(engine) == 1000)  # type: ignore[misc]
        engine.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("worker")]


def test_closing_twice_and_without_a_network_is_fine() -> None:
    engine = small_engine()
    engine.close()
    engine.close()


def test_a_burst_is_bounded_by_what_was_asked() -> None:
    with small_engine(burst=7) as engine:
        engine.commit(straight(count=1000))
        until(lambda: received(engine) == 1000)
        assert engine.workers[0].row["breaths"] >= 1000 // 7


def test_a_hung_app_is_named_and_nothing_changes() -> None:
    from snabb_py.engine.python_app import PythonApp

    release = threading.Event()

    class Hanging(PythonApp):
        inputs = Ports("rx")
        outputs = Ports("tx")

        def push(self) -> None:
            release.wait(20)

    with small_engine() as engine:
        config = straight(count=100)
        config.app("slow", Hanging)
        config.links.clear()
        config.link("source.tx -> slow.rx")
        config.link("slow.tx -> hop.rx")
        config.link("hop.tx -> sink.rx")
        engine.commit(config)
        time.sleep(0.1)
        with pytest.raises(AppError, match="app slow: held the hand-over up"):
            engine.commit(Config(), timeout=0.3)
        assert "slow" in engine.describe()["apps"]
        release.set()
        engine.commit(Config())
        assert engine.census().free == engine.pool.total


def test_an_app_that_never_returns_is_left_behind() -> None:
    from snabb_py.engine.python_app import PythonApp

    release = threading.Event()

    class Endless(PythonApp):
        inputs = Ports("rx")

        def push(self) -> None:
            release.wait(60)

    lines: list[str] = []
    engine = Engine(packets=256, large_packets=0, huge=False, log=lines.append)
    lines.clear()
    config = Config()
    config.app("source", Source)
    config.app("endless", Endless)
    config.link("source.tx -> endless.rx")
    engine.commit(config)
    until(lambda: engine.workers[1].current_app == "endless")
    engine.close(timeout=0.2)
    assert lines == ["app endless does not return: left behind"]
    with pytest.raises(ConfigError, match="closed"):
        engine.commit(config)
    release.set()


class Relay(PythonApp):
    inputs = Ports("rx")
    outputs = Ports("tx")

    def packet(self, packet: Packet) -> str:
        del packet
        return "tx"


def test_an_app_moves_between_workers_under_full_load() -> None:
    with small_engine(workers=2) as engine:
        for i in range(60):
            config = Config()
            config.app("source", Source)
            cls: type[App] = Relay if i % 3 == 2 else Forward
            config.app("hop", cls, worker=i % 2)
            config.app("sink", Sink)
            config.link("source.tx -> hop.rx")
            config.link("hop.tx -> sink.rx")
            engine.commit(config)
            if i % 10 == 0:
                assert engine.census().is_complete
        engine.commit(Config())
        assert engine.census().free == engine.pool.total


def test_workers_are_stopped_when_the_start_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise DeviceError("listen", 13)

    monkeypatch.setattr(shm, "runtime_directory", lambda: tmp_path / "run")
    monkeypatch.setattr("snabb_py.engine.engine.Control", refuse)
    with pytest.raises(DeviceError, match="listen"):
        small_engine(busy=True, program="x")
    assert not [t for t in threading.enumerate() if t.name.startswith("worker")]
    assert list((tmp_path / "run").iterdir()) == []


def test_a_closed_engine_says_so_and_keeps_its_counts() -> None:
    engine = small_engine()
    engine.commit(straight(count=100))
    until(lambda: received(engine) == 100)
    link = engine.link("hop.tx -> sink.rx")
    engine.close()
    assert link.counters["rxpackets"] == 100
    assert engine.drops() == {}
    with pytest.raises(ConfigError, match="closed"):
        engine.census()
    with pytest.raises(ConfigError, match="closed"):
        engine.commit(Config())
    started = time.monotonic()
    engine.main()
    assert time.monotonic() - started < 5


def test_main_ends_when_another_thread_closes(engine: Engine) -> None:
    engine.commit(straight())
    threading.Timer(0.2, engine.close).start()
    engine.main(duration=20)
    until(lambda: engine._is_closed)


def test_a_child_of_a_fork_closes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shm, "runtime_directory", lambda: tmp_path / "run")
    with small_engine(program="x") as engine:
        engine.commit(straight())
        pid = os.fork()
        if pid == 0:
            engine.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert engine.directory
        assert control.call(engine.directory.path / "control", "uptime") > 0
        n = received(engine)
        until(lambda: received(engine) > n)


def test_commits_from_many_threads(engine: Engine) -> None:
    engine.commit(straight(rate_pps=1e5))
    failures: list[BaseException] = []

    def change(k: int) -> None:
        try:
            for i in range(30):
                config = straight(rate_pps=1e5)
                config.app(f"s{k}", Source, rate_pps=1 + i)
                config.app(f"z{k}", Sink)
                config.link(f"s{k}.tx -> z{k}.rx")
                engine.commit(config)
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            failures.append(error)

    threads = [threading.Thread(target=change, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert engine.census().is_complete
    assert_nothing_missing(engine)


@pytest.mark.parametrize(
    "settings",
    [
        {"workers": 0},
        {"workers": -1},
        {"workers": "2"},
        {"packets": -1},
        {"burst": "x"},
    ],
)
def test_settings_of_another_kind_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Engine(huge=False, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("cls", ["Source", int, None, App])
def test_what_is_no_app_class_is_refused(engine: Engine, cls: Any) -> None:
    def build() -> None:
        config = Config()
        config.app("a", cls)
        engine.commit(config)

    with pytest.raises(ConfigError, match='app "a"'):
        build()


def test_modelled_time_passes_with_each_breath_and_by_nothing_else() -> None:
    config = Config()
    config.app("source", Source, size=60)
    config.app("sink", Sink)
    config.link("source.tx -> sink.rx")
    with Engine(huge=False, packets=4096, large_packets=0, breath_ns=5000) as engine:
        engine.commit(config)
        engine.main(duration=0.05)
        with engine.paused():
            worker = engine.workers[0]
            gaps = list(buckets(worker.gaps.values()))
            # Standing still takes a breath's time too, and is no gap.
            assert worker.row["longest-gap-ns"] <= 5000 * 2
        bucket = lib.engine_histogram_bucket(5000)
        assert [low for low, _, _ in gaps] == [bucket_low(bucket)]
