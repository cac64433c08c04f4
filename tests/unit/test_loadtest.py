"""Trials against a wire that does harm, in modelled time: each fault has its name."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from snabb_py.apps.basic import Police
from snabb_py.apps.fault import Fault
from snabb_py.apps.traffic import Generator
from snabb_py.cli.interfaces import engine_settings
from snabb_py.cli.loadtest_network import Arrival, Network, Path, is_own, own
from snabb_py.cli.loadtest_report import describe, path_line, verdict_text
from snabb_py.cli.loadtest_search import Verdict
from snabb_py.cli.loadtest_traffic import Traffic, TrafficOptions, parse_rate
from snabb_py.cli.loadtest_transient import RAMPS, ramp_up
from snabb_py.cli.loadtest_trial import LoadTest, Timing
from snabb_py.engine.app import App
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.errors import ConfigError
from tests.harness import small_engine

PPS = 1e6
TIMING = Timing(duration=0.02, drain=0.05)


#: An app in place of the device, and its arguments.
Wire = tuple[type[App], dict[str, Any]]


def around(
    *wires: Wire,
    is_own: bool = True,
    crossed: bool = False,
    frames: Any = None,
) -> Network:
    """Return a network with an app for each direction in place of the device."""
    config, paths, arrivals = Config(), [], {}
    for i, (cls, args) in enumerate(wires):
        traffic = Traffic(frames or TrafficOptions(size="128").make().frames)
        config.app(f"gen{i}", Generator, frames=traffic.frames)
        config.app(f"dut{i}", cls, **args)
        config.link(f"gen{i}.tx -> dut{i}.rx")
        arrivals[f"check{i}"] = Arrival(f"dut{i}.tx")
        end = len(wires) - 1 - i if crossed else i
        paths.append(Path(f"in{i}", f"out{i}", f"gen{i}", f"check{end}", traffic))
    return Network(config, paths, arrivals, (), is_own=is_own)


@contextmanager
def loaded(network: Network, **settings: Any) -> Iterator[LoadTest]:
    timing = settings.pop("timing", TIMING)
    with small_engine(breath_ns=2000, busy=True) as engine:
        yield LoadTest(engine, network, timing, **settings)


def test_a_good_wire_passes_and_all_is_counted_once() -> None:
    with loaded(around((Fault, {}))) as bench:
        for _ in range(3):
            outcome = bench.trial(PPS)
            assert outcome.verdict is Verdict.PASSED
            (path,) = outcome.paths
            assert (path.sent, path.received, path.lost) == (20000, 20000, 0)
            assert path.rate == pytest.approx(PPS)
            assert path.notes == path.missed == outcome.drops == {}
            assert sum(path.latency_ns) == 20000


def test_each_fault_has_its_name_and_only_what_is_lost_counts() -> None:
    faults = {"drop": 0.01, "corrupt": 0.01, "duplicate": 0.02, "reorder": 0.02}
    with loaded(around((Fault, {"seed": 5, **faults}))) as bench:
        outcome = bench.trial(PPS)
        counters = bench.engine.apps["dut0"].counters
        checker = bench.engine.apps["check0-1"].counters
    (path,) = outcome.paths
    assert outcome.verdict is Verdict.LOST
    # A flipped bit outside of the stamp harms no count; inside, the packet is lost.
    damaged = checker["bad-stamp"] + checker["foreign"]
    assert 0 < damaged <= counters["corrupted"] * 1.1
    assert path.lost >= counters["drop-fault"] > 0
    assert path.lost <= counters["drop-fault"] + damaged
    # A late duplicate, of one that was damaged, is what makes the packet good.
    assert 0 < path.notes["duplicated"] <= counters["duplicated"]
    assert path.notes["reordered"] > 0
    assert "came twice" in path_line(path)
    assert "out of order" in path_line(path)
    assert "damaged" in path_line(path)


def test_a_device_that_damages_packets_loses_them() -> None:
    with loaded(around((Fault, {"seed": 3, "corrupt": 0.3}), is_own=False)) as bench:
        outcome = bench.trial(PPS)
        corrupted = bench.engine.apps["dut0"].counters["corrupted"]
    (path,) = outcome.paths
    assert outcome.verdict is Verdict.LOST
    assert path.lost == sum(path.notes.values())
    # But for bits of the Ethernet header, 14 bytes of 124, which nothing protects.
    assert corrupted * 0.8 < path.lost <= corrupted
    assert {"bad-ip-checksum", "bad-l4-checksum", "foreign"} <= path.notes.keys()
    assert "damaged in their IP header" in path_line(path)
    assert "damaged above it" in path_line(path)


def test_duplicates_do_not_make_losses_good() -> None:
    wire = (Fault, {"seed": 1, "drop": 0.1, "duplicate": 1.0})
    with loaded(around(wire)) as bench:
        outcome = bench.trial(PPS)
        lost = bench.engine.apps["dut0"].counters["drop-fault"]
    (path,) = outcome.paths
    assert outcome.verdict is Verdict.LOST
    assert path.lost == lost > 0
    assert path.notes["duplicated"] == path.received


def test_a_tolerated_loss_passes() -> None:
    wire = (Fault, {"drop": 0.01})
    for tolerance, verdict in ((0.001, Verdict.LOST), (0.02, Verdict.PASSED)):
        with loaded(around(wire), tolerance=tolerance) as bench:
            assert bench.trial(PPS).verdict is verdict


def test_nothing_arrives() -> None:
    wires: list[Wire] = [(Fault, {}), (Fault, {"drop": 1.0})]
    with loaded(around(*wires)) as bench:
        outcome = bench.trial(PPS)
    assert outcome.verdict is Verdict.SILENT
    assert verdict_text(outcome) == "failed, nothing arrived: in1 -> out1"


def test_crossed_cables_are_found() -> None:
    wires: list[Wire] = [(Fault, {}), (Fault, {})]
    with loaded(around(*wires, crossed=True)) as bench:
        outcome = bench.trial(PPS)
    assert outcome.verdict is Verdict.SILENT
    for path in outcome.paths:
        assert path.notes["at-another-interface"] == path.sent
        assert "at another interface" in path_line(path)


def test_what_the_testers_own_apps_drop_is_not_the_devices_loss() -> None:
    wire = (Fault, {"drop": 0.1})
    with loaded(around(wire, is_own=False)) as bench:
        outcome = bench.trial(PPS)
    assert outcome.verdict is Verdict.TESTER_LOST
    assert "the tester itself lost dut0 drop-fault" in verdict_text(outcome)


def test_a_generator_that_cannot_keep_its_rate_is_the_testers_limit() -> None:
    # A worker brings in 128 packets a breath, of 2 us here.
    with loaded(around((Fault, {}))) as bench:
        outcome = bench.trial(100e6)
    (path,) = outcome.paths
    assert outcome.verdict is Verdict.SLOW
    assert path.lost == 0
    assert path.rate == pytest.approx(64e6, rel=0.02)
    assert outcome.finding.sent == path.rate
    assert "missed-late" in verdict_text(outcome)


def test_what_was_missed_while_it_settled_spoils_the_trial_and_is_named() -> None:
    class HeldUp(LoadTest):
        held_up = False

        def _wait(self, *args: Any) -> None:
            if not self.held_up:
                self.held_up = True
                with self.engine.paused():
                    time.sleep(0.05)
            super()._wait(*args)

    timing = Timing(duration=0.02, drain=0.05, settle=0.1)
    with small_engine(busy=True) as engine:
        outcome = HeldUp(engine, around((Fault, {})), timing).trial(1e5)
    (path,) = outcome.paths
    assert outcome.verdict is Verdict.SLOW
    assert path.missed_before["missed-late"] > 1000
    assert "while it settled missed-late: " in verdict_text(outcome)


def test_drops_are_those_of_the_trials_own_packets() -> None:
    police = (Police, {"rate_gbps": 0.5})
    timing = Timing(duration=0.02, drain=0.05, overload=0.3, settle=0.02)
    with loaded(around(police), timing=timing, overload_pps=20e6) as bench:
        for _ in range(3):
            outcome = bench.trial(PPS)
            (path,) = outcome.paths
            assert outcome.verdict is Verdict.LOST
            assert outcome.drops == {"dut0 drop-policed": path.lost}


@pytest.mark.need("two-cpus")
def test_a_cards_loss_is_told_once() -> None:
    network = own(
        [],
        TrafficOptions(size="64"),
        bidir=False,
        hops=200,
        police=None,
    )
    with (
        engine_settings(network.interfaces, log=print) as settings,
        Engine(**settings) as engine,
    ):
        outcome = LoadTest(engine, network, TIMING).trial(14e6)
    (path,) = outcome.paths
    # So many hops are more than any machine can do at line rate.
    assert path.lost > 0
    # The driver of a card has read them from it as drop-rx-missed.
    assert "a-card drop-rx-fifo-full" in outcome.drops
    assert not any("drop-rx-missed" in name for name in outcome.drops)


def test_a_bursts_allowance_is_used_up_before_the_trial() -> None:
    wire_bits = (128 + 20) * 8
    police = (Police, {"rate_gbps": 1e6 * wire_bits / 1e9})
    short = Timing(duration=0.02, drain=0.02)
    with loaded(around(police), timing=short) as bench:
        assert bench.trial(1.2e6).verdict is Verdict.PASSED
    after = Timing(duration=0.02, drain=0.02, overload=0.05, settle=0.005)
    with loaded(around(police), timing=after, overload_pps=20e6) as bench:
        assert bench.trial(1.01e6).verdict is Verdict.LOST
        assert bench.trial(0.99e6).verdict is Verdict.PASSED


def test_directions_are_told_apart() -> None:
    wires: list[Wire] = [(Fault, {}), (Fault, {"drop": 0.5})]
    with loaded(around(*wires)) as bench:
        outcome = bench.trial(PPS)
    assert outcome.verdict is Verdict.LOST
    assert outcome.paths[0].lost == 0
    assert outcome.paths[1].loss == pytest.approx(0.5, abs=0.05)
    report = describe(outcome)
    assert [path["to"] for path in report["paths"]] == ["out0", "out1"]


def test_another_testers_packets_are_not_ours() -> None:
    config = Config()
    traffic = TrafficOptions(size="128").make()
    from snabb_py.apps.basic import Join

    config.app("gen0", Generator, frames=traffic.frames)
    config.app("other", Generator, frames=traffic.frames, stream=7, rate_pps=1e5)
    config.app("dut", Join)
    config.link("gen0.tx -> dut.rx1")
    config.link("other.tx -> dut.rx2")
    path = Path("in", "out", "gen0", "check", traffic)
    network = Network(config, [path], {"check": Arrival("dut.tx")}, (), is_own=True)
    with loaded(network) as bench:
        outcome = bench.trial(PPS)
    assert outcome.verdict is Verdict.PASSED
    assert outcome.paths[0].notes["of-another-tester"] > 1000
    assert "of another tester" in path_line(outcome.paths[0])


# ---- rates and frames --------------------------------------------------------


@pytest.mark.parametrize("size", ["64", "1518", "64,1518", "imix"])
def test_units_count_the_bytes_that_they_say(size: str) -> None:
    wire = TrafficOptions(size=size).make()
    frame = TrafficOptions(size=size, unit="frame").make()
    sizes = [len(template.frame) + 4 for template in wire.frames]
    mean = sum(sizes) / len(sizes)
    assert frame.bits == pytest.approx(8 * mean)
    assert wire.bits == pytest.approx(8 * (mean + 20))
    rate = parse_rate("2.5Gbps")
    assert wire.gbps(wire.pps(rate)) == pytest.approx(2.5)
    assert frame.wire_gbps(frame.pps(rate)) == pytest.approx(2.5 * (mean + 20) / mean)
    assert wire.pps(parse_rate("14.88Mpps")) == pytest.approx(14.88e6)
    assert wire.pps(None) == pytest.approx(10e9 / wire.bits)


@pytest.mark.parametrize(
    "text",
    ["", "0pps", "0Gbps", "10 ", "-1pps", "1e999pps", "nanbps", "1Tbps", "1 pps"],
)
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="is no rate above 0"):
        parse_rate(text)


def test_without_a_unit_a_rate_is_packets_a_second() -> None:
    assert parse_rate("10k").value == parse_rate("10kpps").value == 10e3
    assert not parse_rate("10").is_bits


def test_frames_with_room_bear_the_time_and_others_do_not() -> None:
    traffic = TrafficOptions(size="64,70,1518").make()
    assert [t.timed for t in traffic.timed().frames[:3]] == [False, True, True]
    assert len(traffic.timed().frames) == len(traffic.frames)


@pytest.mark.parametrize("ip", ["4", "6"])
def test_the_answer_goes_back_where_the_question_came_from(ip: str) -> None:
    options = TrafficOptions(flows="1", ip=ip, size="128")
    there, back = (options.make(is_reverse=r).frames[0].frame for r in (False, True))
    end, size = (26, 4) if ip == "4" else (22, 16)
    assert there[:6] == back[6:12]
    assert there[6:12] == back[:6]
    assert there[end : end + size] == back[end + size : end + 2 * size]
    ports = end + 2 * size
    assert there[ports : ports + 2] == back[ports + 2 : ports + 4]


def test_ramps() -> None:
    assert ramp_up(10, 3) == [3, 6, 9, 10]
    assert ramp_up(10, 10) == [10]
    assert len(ramp_up(10e9 / 672, 1e9 / 672)) == 10
    up = ramp_up(4, 2)
    assert list(RAMPS["down"](up)) == [4, 2]
    assert list(RAMPS["up-down"](up)) == [2, 4, 4, 2]
    for step in (11, 1e-7):
        with pytest.raises(ConfigError, match="--step"):
            ramp_up(10, step)


def test_whose_device_it_is() -> None:
    assert is_own([])
    assert is_own(["sim", "sim,inline"])
    assert not is_own(["raw:a", "sim"])
    assert not is_own(["sim,wire=tap:x", "sim"])
    with pytest.raises(ConfigError, match="rate: the load test itself"):
        own(
            ["sim,rate=1Mpps", "sim"],
            TrafficOptions(),
            bidir=False,
            hops=1,
            police=None,
        )
