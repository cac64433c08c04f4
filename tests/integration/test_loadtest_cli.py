"""`snabb-py loadtest` as a user calls it: our own forward, devices behind cables."""

import contextlib
import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether

from tests.captures import classic
from tests.hosts import SNABB, until
from tests.loadtest_lab import Lab

#: Trials that are over soon, in the time of the generators.
SHORT = (
    *("--duration", "0.1", "--overload", "0.2", "--settle", "0.05"),
    *("--warm-up", "0.02", "--drain", "0.1"),
)
INLINE = ("sim,inline", "sim,inline")
#: A load that every machine can carry.
GENTLE = ("--size", "1518", "--max", "20Mbps")
#: A search that is not longer than it must be.
QUICK = (
    *("--precision", "1.5", "--duration", "0.3", "--settle", "0.1", "--drain", "0.1"),
    *("--warm-up", "0.1", "--retry", "2"),
)


def loadtest(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*SNABB, "loadtest", *arguments],
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == status, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# ---- our own forward ---------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "gbps"),
    [
        (["--police", "2", "--size", "1518"], 2),
        (["--police", "0.5", "--bidir"], 0.5),
        # Of 1542 bytes on the wire 1518 are the frame with its FCS; and 20 of 24
        # beside its data are not.
        (["--police", "2", "--size", "1518", "--unit", "frame"], 2 * 1518 / 1538),
    ],
)
def test_it_finds_the_rate_of_a_policer(arguments: list[str], gbps: float) -> None:
    done = loadtest("find-limit", *INLINE, *arguments, *SHORT, "--retry", "0", "--json")
    *trials, result = objects(done.stdout)
    assert result["program"] == "loadtest find-limit"
    assert result["verdict"] == "lost"
    assert result["limit"]["gbps"] == pytest.approx(gbps, rel=0.02)
    assert result["limit"]["gbps"] < result["failed"]["gbps"]
    assert result["trials"] == len(trials)
    assert trials[0]["kind"] == "warm-up"
    assert trials[1]["verdict"] == "lost"
    assert trials[1]["drops"]["ab-police drop-policed"] > 0
    passed = [t for t in trials[1:] if t["verdict"] == "passed"]
    assert max(t["paths"][0]["rate"]["gbps"] for t in passed) == result["limit"]["gbps"]
    for trial in trials:
        assert len(trial["paths"]) == 1 + ("--bidir" in arguments)
        for path in trial["paths"]:
            assert path["sent"] == path["received"] + path["lost"]


def test_each_trial_and_its_verdict_are_printed() -> None:
    done = loadtest("find-limit", *INLINE, "--police", "1", *SHORT, "--size", "1518")
    lines = done.stdout.splitlines()
    assert re.match(r"warm-up 1: 81\.\d+ kpps, 1\.000 Gbps: passed", lines[0])
    assert "sim,inline (a) -> sim,inline (b): sent" in lines[1]
    assert "us median" in lines[1]
    assert any(re.match(r"trial \d+: .*: failed, \d+ lost", line) for line in lines)
    assert "  lost here: ab-police drop-policed:" in done.stdout
    assert re.match(
        r"limit: .* Mbps of wire bits, without loss; .* does not pass", lines[-1]
    )


def test_the_highest_rate_asked_may_pass() -> None:
    done = loadtest("find-limit", *INLINE, "--max", "1Mpps", *SHORT)
    assert done.stdout.splitlines()[-1].endswith("without loss: the highest rate asked")


def test_not_even_the_least_rate_may_pass() -> None:
    done = loadtest(
        *("find-limit", *INLINE, "--police", "0.5", "--min", "1Gbps", *SHORT),
        *("--retry", "0"),
        status=3,
    )
    assert "limit: none: not even" in done.stdout


def test_a_capture_is_what_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "captured.pcap"
    # Whole, so that scapy asks nobody for what is missing.
    head = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    head /= IP(src="192.0.2.1", dst="192.0.2.2")
    packets = [head / UDP() / bytes(958), head / ICMP()]
    path.write_bytes(classic([bytes(packet) for packet in packets]))
    capture = ("find-limit", *INLINE, "--capture", str(path), *SHORT)
    done = loadtest(*capture, "--police", "1", "--retry", "0", "--json")
    assert "captured.pcap: 1 frames left out" in done.stderr
    *_, result = objects(done.stdout)
    assert result["limit"]["mpps"] == pytest.approx(1000 / 8 / 1024, rel=0.02)


def test_software_cards_in_real_time() -> None:
    done = loadtest("find-limit", "--max", "20kpps", "--bidir", *SHORT, "--json")
    result = objects(done.stdout)[-1]
    assert result["limit"]["mpps"] == pytest.approx(0.02, rel=0.01)


def test_a_ramp_in_steps() -> None:
    done = loadtest(
        *("transient", *INLINE, "--max", "3Gbps", "--step", "1Gbps", "--police", "2"),
        *("--duration", "1", "--size", "1518", "--json"),
    )
    *steps, summary = objects(done.stdout)
    asked = [step["paths"][0]["asked"]["gbps"] for step in steps]
    assert asked == pytest.approx([1, 2, 3, 3, 2, 1])
    # The policer lets 250 ms of its rate pass at once.
    assert [step["verdict"] for step in steps] == [
        *("passed", "passed", "lost", "lost", "passed", "passed")
    ]
    (total,) = summary["paths"]
    for key in ("sent", "received", "lost"):
        assert total[key] == sum(step["paths"][0][key] for step in steps)
    assert summary["steps"] == 6


def test_help() -> None:
    assert "find-limit" in loadtest("--help").stdout
    for name in ("find-limit", "transient"):
        manual = loadtest(name, "--help").stdout
        assert "Examples:\n" in manual
        assert "\\b" not in manual


# ---- a device behind cables --------------------------------------------------


@pytest.fixture
def lab() -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        yield Lab(stack)


def finish(process: subprocess.Popen[str], status: int) -> tuple[str, str]:
    """Return what a program has printed, and said on stderr."""
    output, errors = process.communicate(timeout=120)
    assert process.returncode == status, (output, errors)
    assert "Traceback" not in errors
    return output, errors


needs = pytest.mark.need("root", "netns")


@needs
def test_it_finds_the_policer_of_a_device(lab: Lab) -> None:
    lab.device("--police", "0.01", "--bidir")
    arguments = ("raw:t0", "raw:t1", "--bidir", *GENTLE, *QUICK, "--json")
    output, _ = finish(lab.test("find-limit", *arguments), 0)
    *trials, result = objects(output)
    assert result["limit"]["gbps"] == pytest.approx(0.01, rel=0.02)
    names = {(p["from"], p["to"]) for trial in trials for p in trial["paths"]}
    assert names == {("raw:t0", "raw:t1"), ("raw:t1", "raw:t0")}


@needs
@pytest.mark.need("tbf")
def test_it_finds_the_rate_that_linux_shapes_to(lab: Lab) -> None:
    # Its bits are those of frames without FCS (tc-stab(8)); what it cannot store of
    # more it drops.
    lab.bridge("tbf rate 10mbit burst 9k limit 9k")
    arguments = ("raw:t0", "raw:t1", *GENTLE, *QUICK, "--json")
    output, _ = finish(lab.test("find-limit", *arguments), 0)
    *_, result = objects(output)
    assert result["limit"]["mpps"] == pytest.approx(10 / 8 / 1514, rel=0.02)
    assert result["verdict"] == "lost"


@needs
def test_a_ramp_through_a_device(lab: Lab) -> None:
    lab.device()
    arguments = ("raw:t0", "raw:t1", *GENTLE, "--ramp", "up", "--duration", "0.1")
    output, _ = finish(lab.test("transient", *arguments, "--json"), 0)
    *steps, summary = objects(output)
    assert len(steps) == 10
    assert all(step["paths"][0]["received"] for step in steps)
    (total,) = summary["paths"]
    assert total["received"] == sum(step["paths"][0]["received"] for step in steps)


@needs
def test_ctrl_c_ends_a_load_without_end(lab: Lab) -> None:
    lab.device()
    process = lab.test(
        *("transient", "raw:t0", "raw:t1", *GENTLE),
        *("--ramp", "constant", "--duration", "0.1"),
    )
    assert process.stdout
    for _ in range(4):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    output, _ = finish(process, 0)
    assert re.search(r"loadtest transient: \d+ steps", output)


@needs
def test_ctrl_c_ends_a_search(lab: Lab) -> None:
    lab.device()
    process = lab.test("find-limit", "raw:t0", "raw:t1", *GENTLE, "--duration", "60")
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = finish(process, 1)
    assert errors.splitlines()[-1] == "snabb-py: interrupted"


@needs
def test_there_is_no_device(lab: Lab) -> None:
    output, errors = finish(lab.test("find-limit", "raw:t0", "raw:t1", *GENTLE), 1)
    assert "failed, nothing arrived: raw:t0 -> raw:t1" in output
    assert "raw:t0 -> raw:t1: nothing arrives" in errors.splitlines()[-1]


@needs
def test_a_cable_without_a_device_has_the_testers_limit(lab: Lab) -> None:
    lab.here.ip("link add a0 type veth peer name a1\nlink set a0 up\nlink set a1 up")
    until(lambda: "LOWER_UP" in lab.here("ip", "link", "show", "a1"))
    output, _ = finish(
        lab.test(
            *("find-limit", "raw:a0", "raw:a1", "--min", "100pps", "--max", "200Mpps"),
            *("--precision", "50", "--overload", "0", "--duration", "0.1"),
            *("--warm-up", "0.1", "--drain", "0.1"),
        ),
        4,
    )
    assert "no result, the tester" in output
    assert "it is more than the tester can do" in output.splitlines()[-1]


@needs
def test_the_device_dies(lab: Lab) -> None:
    device = lab.device("--police", "0.01")
    process = lab.test(
        "find-limit", "raw:t0", "raw:t1", *GENTLE, "--drain", "0.1", "--retry", "1"
    )
    assert process.stdout
    while not process.stdout.readline().startswith("trial 2"):
        pass
    device.kill()
    output, errors = finish(process, 1)
    assert "failed, nothing arrived: raw:t0 -> raw:t1" in output
    assert "nothing arrives" in errors.splitlines()[-1]


@needs
@pytest.mark.parametrize("interface", ["t0", "t1"])
def test_an_interface_vanishes(lab: Lab, interface: str) -> None:
    lab.device("--police", "0.01")
    process = lab.test(
        "find-limit", "raw:t0", "raw:t1", *GENTLE, "--drain", "0.1", "--retry", "1"
    )
    assert process.stdout
    while not process.stdout.readline().startswith("trial 2"):
        pass
    lab.here.ip(f"link del {interface}")
    output, errors = finish(process, 1)
    assert "failed, nothing arrived: raw:t0 -> raw:t1" in output
    assert f"raw:{interface}: interface was deleted" in errors
    assert "nothing arrives" in errors.splitlines()[-1]
    if interface == "t0":
        assert "raw:t0 drop-tx-interface-down" in output


@needs
def test_foreign_packets_are_neither_lost_nor_received(lab: Lab) -> None:
    lab.device()
    process = lab.test("find-limit", "raw:t0", "raw:t1", *GENTLE, "--max", "1Mbps")
    with lab.there.socket(socket.AF_PACKET, socket.SOCK_RAW) as stranger:
        stranger.bind(("d1", 0))
        while process.poll() is None:
            stranger.send(bytes.fromhex("ffffffffffff 020000000099 88b5") + bytes(60))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.01)
    output, _ = finish(process, 0)
    assert re.search(r"lost 0,.*\d foreign", output)
