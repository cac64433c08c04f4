"""Apps in Python: both styles, ownership, failures that stay with their app."""

import time
from typing import Any, ClassVar

import pytest

from snabb_py.apps.basic import SEQUENCE_OFFSET, Sink, Source, Tee
from snabb_py.engine import python_app
from snabb_py.engine.app import Ports
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.engine.packet import Burst, Packet
from snabb_py.engine.python_app import PythonApp
from snabb_py.errors import AppError
from tests.harness import small_engine
from tests.hosts import until


class Odd(PythonApp):
    """Passes odd numbers on to tx, multiples of 4 to other."""

    inputs = Ports("rx")
    outputs = Ports("tx", "other", optional=True)

    def packet(self, packet: Packet) -> str | None:
        number = int.from_bytes(packet.data[SEQUENCE_OFFSET : SEQUENCE_OFFSET + 8])
        return "tx" if number % 2 else "other" if number % 4 == 0 else None


class Changer(PythonApp):
    """Writes into the packets of whole bursts and makes copies."""

    inputs = Ports("rx")
    outputs = Ports("tx")
    counters = ("changed",)

    def push(self) -> None:
        burst = self.input["rx"].receive_burst(50)
        for packet in burst:
            packet.data[30:34] = b"\x01\x02\x03\x04"
        assert burst.lengths == [60] * len(burst)
        self.output["tx"].transmit_burst(burst)
        self.count("changed", len(burst))


class Keeper(PythonApp):
    """Keeps what comes, and fails at the tenth."""

    inputs = Ports("rx")
    outputs = Ports("tx")
    made = 0

    def __init__(self) -> None:
        Keeper.made += 1
        self.kept: list[Packet] = []

    def push(self) -> None:
        while packet := self.input["rx"].receive():
            self.kept.append(packet)
            if len(self.kept) == 10 and Keeper.made == 1:
                raise RuntimeError("ten are enough")
            if Keeper.made > 1:
                self.output["tx"].transmit(self.kept.pop())


class Maker(PythonApp):
    """Makes packets in pull."""

    outputs = Ports("tx")
    counters = ("ticks",)

    def __init__(self) -> None:
        self.left = 100

    def pull(self) -> None:
        if self.left:
            self.left -= 1
            packet = self.new_packet(bytes(range(64)))
            assert packet
            assert bytes(packet) == bytes(range(64))
            self.output["tx"].transmit(packet)

    def tick(self) -> None:
        self.count("ticks")


def through(cls: type[PythonApp], **source: Any) -> Config:
    config = Config()
    config.app("source", Source, sequence=True, **source)
    config.app("app", cls)
    config.app("sink", Sink)
    config.link("source.tx -> app.rx")
    config.link("app.tx -> sink.rx")
    return config


def arrived(engine: Engine) -> int:
    return next(
        k.counters["rxpackets"] for s, k in engine.links.items() if s.to_app == "sink"
    )


def test_per_packet() -> None:
    with small_engine() as e:
        config = through(Odd, count=1000)
        config.app("sink4", Sink)
        config.link("app.other -> sink4.rx")
        e.commit(config)
        until(lambda: arrived(e) == 500)
        until(lambda: e.apps["app"].counters["drop-app"] == 250)
        assert e.apps["app"].counters["app-failures"] == 0
        assert e.census().is_complete


def test_per_burst() -> None:
    with small_engine() as e:
        e.commit(through(Changer, count=1000))
        until(lambda: arrived(e) == 1000)
        assert e.apps["app"].counters["changed"] == 1000


def test_a_failure_stays_with_its_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_app, "FIRST_PAUSE", 0.2)
    lines: list[str] = []
    with small_engine() as e:
        e.log = lines.append
        Keeper.made = 0
        config = through(Keeper, rate_pps=20_000)
        config.app("healthy", Source)
        config.app("healthy-end", Sink)
        config.link("healthy.tx -> healthy-end.rx")
        e.commit(config)
        row = e.link("healthy.tx -> healthy-end.rx").row
        before = row["rxpackets"]
        e.main(done=lambda: e.apps["app"].counters["app-restarts"] == 1, duration=20)
        counters = e.apps["app"].counters
        assert counters["app-failures"] == 1
        assert counters["app-restarts"] == 1
        assert counters["drop-app-failed"] >= 10
        assert row["rxpackets"] > before
        assert "ten are enough" in lines[0]
        assert "app app failed: RuntimeError" in lines[0]
        until(lambda: arrived(e) > 0)
        assert e.census().is_complete
    assert Keeper.made == 2


def test_pull_and_tick() -> None:
    with small_engine() as e:
        config = Config()
        config.app("app", Maker)
        config.app("sink", Sink)
        config.link("app.tx -> sink.rx")
        e.commit(config)
        until(lambda: arrived(e) == 100)
        until(lambda: e.apps["app"].counters["ticks"] > 3)


def test_stop_on_error_ends_the_run() -> None:
    class Broken(PythonApp):
        inputs = Ports("rx")
        outputs = Ports("tx")

        def packet(self, packet: Packet) -> str:
            del packet
            raise ValueError("no")

    with small_engine(stop_on_error=True) as e:
        e.commit(through(Broken, count=10))
        with pytest.raises(AppError, match="app app: ValueError: no"):
            e.main(duration=10)


def test_an_unknown_port_is_a_failure_that_loses_nothing_else() -> None:
    class Wrong(PythonApp):
        inputs = Ports("rx")
        outputs = Ports("tx")

        def packet(self, packet: Packet) -> str:
            del packet
            return "nowhere"

    with small_engine() as e:
        e.commit(through(Wrong, count=100))
        until(lambda: e.apps["app"].counters["drop-app-failed"] == 100)
        assert e.census().is_complete


def test_a_packet_is_given_away_once() -> None:
    failures: list[str] = []

    class Twice(PythonApp):
        inputs = Ports("rx")
        outputs = Ports("tx")

        def packet(self, packet: Packet) -> str | None:
            copy = packet.clone()
            assert copy
            copy.data[0:1] = b"\xff"
            assert packet.data[0:1] != b"\xff"
            self.output["tx"].transmit(copy)
            try:
                copy.free()
            except ValueError as error:
                failures.append(str(error))
            return "tx"

    with small_engine() as e:
        e.commit(through(Twice, count=10))
        until(lambda: arrived(e) == 20)
        assert len(failures) == 10
        assert e.census().is_complete


class Hoarder(PythonApp):
    """Keeps all that it can get hold of."""

    inputs = Ports("rx")
    outputs = Ports("tx")
    packets: ClassVar[list[Packet]] = []
    bursts: ClassVar[list[Burst]] = []

    def push(self) -> None:
        if packet := self.input["rx"].receive():
            self.packets.append(packet)
        self.bursts.append(self.input["rx"].receive_burst(4))


def test_what_an_app_keeps_is_of_no_use_when_it_has_left() -> None:
    with small_engine() as e:
        e.commit(through(Hoarder, count=100))
        until(lambda: bool(Hoarder.packets) and any(map(len, Hoarder.bursts)))
        app = e.apps["app"].instance
        assert isinstance(app, Hoarder)
    packet, burst = Hoarder.packets[0], next(filter(len, Hoarder.bursts))
    rx, tx = app.input["rx"], app.output["tx"]
    uses: list[Any] = [
        *(lambda: packet.data, lambda: packet.length, lambda: bytes(packet)),
        *(packet.clone, packet.free, lambda: tx.transmit(packet)),
        *(
            lambda: burst.lengths,
            lambda: burst[0].data,
            lambda: tx.transmit_burst(burst),
        ),
        *(lambda: len(rx), lambda: tx.room, rx.receive, rx.receive_burst),
        *(lambda: rx.move(tx), lambda: app.new_packet(b"")),
    ]
    for use in uses:
        with pytest.raises(ValueError, match=r"left the engine|transmitted or freed"):
            use()


def test_a_tee_does_not_wait_for_a_slow_app() -> None:
    class Slow(PythonApp):
        inputs = Ports("rx")

        def packet(self, packet: Packet) -> None:
            del packet
            time.sleep(0.001)

    with small_engine() as e:
        config = Config()
        config.app("source", Source)
        config.app("tee", Tee)
        config.app("slow", Slow)
        config.app("sink", Sink)
        config.link("source.tx -> tee.rx")
        config.link("tee.tx1 -> slow.rx")
        config.link("tee.tx2 -> sink.rx")
        e.commit(config)
        until(lambda: arrived(e) > 1_000_000)
        tee = next(k for s, k in e.links.items() if str(s).startswith("tee.tx1"))
        assert tee.counters["txdrop"] > 0


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text either")


def misbehave(app: PythonApp, packet: Packet, how: str) -> str:
    """Break the rules in one of several ways."""
    if how == "frees":
        packet.free()
    elif how == "clears":
        app.output.clear()
    elif how == "makes":
        app.new_packet("text")  # type: ignore[arg-type]
    elif how == "unspeakable":
        raise UnspeakableError
    elif how == "exits":
        raise SystemExit(3)
    return "tx"


@pytest.mark.parametrize("how", ["frees", "makes", "unspeakable", "exits"])
def test_misuse_loses_no_packet(how: str) -> None:
    class Misused(PythonApp):
        inputs = Ports("rx")
        outputs = Ports("tx")

        def packet(self, packet: Packet) -> str:
            return misbehave(self, packet, how)

    with small_engine() as e:
        e.commit(through(Misused, count=1000))
        until(lambda: e.apps["app"].counters["app-failures"] >= 1)
        # The app itself has freed a part of the first burst, when it "frees".
        least = 1000 - 512 if how == "frees" else 990
        until(lambda: e.apps["app"].counters["drop-app-failed"] >= least)
        assert e.apps["app"].counters["app-failures"] == 1
        assert e.census().is_complete


def test_an_app_that_clears_its_links_harms_itself_alone() -> None:
    class Clears(PythonApp):
        inputs = Ports("rx")
        outputs = Ports("tx")

        def packet(self, packet: Packet) -> str:
            return misbehave(self, packet, "clears")

    with small_engine() as e:
        e.commit(through(Clears, count=1000))
        until(lambda: arrived(e) + e.apps["app"].counters["drop-app-failed"] == 1000)
        assert e.census().is_complete
