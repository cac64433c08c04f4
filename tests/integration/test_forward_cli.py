"""`snabb-py forward` and `bench` as a user calls them: output, errors, signals."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from snabb_py.engine import control, shm
from snabb_py.engine.shm_reader import CountersReader
from tests.hosts import run

SNABB = [sys.executable, "-m", "snabb_py"]
ENVIRONMENT = {**os.environ, "COLUMNS": "100"}


def snabb(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*SNABB, *arguments], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == status, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*SNABB, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def forward(*arguments: str) -> dict[str, Any]:
    lines = snabb("forward", *arguments, "--json").stdout.splitlines()
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def test_both_directions_without_interfaces() -> None:
    result = forward("--hops", "8", "--bidir", "--duration", "0.5")
    assert [(d["from"], d["to"]) for d in result["directions"]] == [
        ("sim (a)", "sim (b)"),
        ("sim (b)", "sim (a)"),
    ]
    for d in result["directions"]:
        assert d["forwarded"] == d["offered"] > 0
        assert d["lost"] == 0
        assert d["mpps"] > 0
        assert d["drops"] == {}


def test_police_passes_its_rate_and_names_its_drops() -> None:
    # In modelled time: the machine's speed has no part in it.
    wire_bits, n = 84 * 8, 3_000_000
    (d,) = forward(f"sim,inline,count={n}", "sim,inline", "--police", "1")["directions"]
    seconds = n * wire_bits / 10e9
    # 250 ms of its rate may pass at once.
    allowed = 1e9 * (seconds + 250e-3)
    assert d["forwarded"] * wire_bits == pytest.approx(allowed, rel=0.01)
    assert d["lost"] == sum(d["drops"].values())
    assert set(d["drops"]) == {"ab-police drop-policed"}


def test_reports_are_json_lines() -> None:
    lines = snabb(
        "forward", "--duration", "0.5", "--interval", "0.1", "--json"
    ).stdout.splitlines()
    looks = [json.loads(line) for line in lines]
    assert len(looks) >= 4
    assert looks[0]["directions"][0]["mpps"] > 0
    counts = [look["directions"][0]["forwarded"] for look in looks]
    assert counts == sorted(counts)


def test_plain_output_says_what_stands_for_the_cards() -> None:
    done = snabb("forward", "--duration", "0.3", "--interval", "0.1")
    assert "no interfaces given" in done.stderr
    assert "sim (a) -> sim (b): offered" in done.stdout


def test_a_terminal_gets_a_table() -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*SNABB, "forward", "--duration", "0.5", "--interval", "0.1"],
        stdout=child,
        stderr=child,
        env={**ENVIRONMENT, "TERM": "xterm"},
    )
    os.close(child)
    output = b""
    while True:
        try:
            data = os.read(parent, 65536)
        except OSError:
            break
        if not data:
            break
        output += data
    os.close(parent)
    assert process.wait(20) == 0
    assert b"drops by reason" in output
    assert "┃".encode() in output


def test_the_graph_is_printed_and_nothing_runs() -> None:
    text = snabb("forward", "--hops", "2", "--bidir", "--graph").stdout
    assert text.splitlines()[:9] == [
        "sim (a) -> sim (b)",
        "  a-wire-in (Generator)",
        "    -> a-card (LocalSoftwareCard)",
        "    -> a (LocalIntel82599)",
        "    -> ab-hop1 (Forward)",
        "    -> ab-hop2 (Forward)",
        "    -> b (LocalIntel82599)",
        "    -> b-card (LocalSoftwareCard)",
        "    -> b-wire-out (Checker)",
    ]
    assert snabb("forward", "--graph", "dot").stdout.startswith("digraph")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_the_summary(number: signal.Signals) -> None:
    process = start("forward", "--interval", "0.1", "--json", "--bidir")
    assert process.stdout
    process.stdout.readline()
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert json.loads(output.splitlines()[-1])["program"] == "forward"


def test_nothing_ends_the_exit_after_a_signal() -> None:
    """It may take longer than the patience with output that is stuck."""
    program = """
import atexit, os, signal
from snabb_py.cli.run import Ending
atexit.register(lambda: print(signal.getitimer(signal.ITIMER_REAL)))
with Ending():
    os.kill(os.getpid(), signal.SIGTERM)
"""
    assert run(sys.executable, "-c", program) == "(0.0, 0.0)\n"


def test_help_of_all() -> None:
    text = snabb("--help").stdout
    for name in ("bench", "forward"):
        assert name in text
        manual = snabb(name, "--help").stdout
        assert "Examples:\n" in manual
        assert "\\b" not in manual
    for name in ("basic1", "hops", "python-app", "reconfigure"):
        assert "Usage:" in snabb("bench", name, "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "benchmark"),
    [
        (["basic1", "1e6"], "basic1"),
        (["hops", "1e6", "--hops", "2"], "hops"),
        (["hops", "1e6", "--hops", "0"], "hops"),
        (["python-app", "1e4"], "python-app"),
        (["python-app", "1e4", "--style", "packet"], "python-app"),
        (["reconfigure", "20"], "reconfigure"),
    ],
)
def test_benchmarks_print_one_line(arguments: list[str], benchmark: str) -> None:
    result = json.loads(snabb("bench", *arguments, "--json").stdout)
    assert result["benchmark"] == benchmark
    assert result["packets"] > 0
    assert result["mpps"] == pytest.approx(
        result["packets"] / result["seconds"] / 1e6, rel=0.1
    )
    assert len(snabb("bench", *arguments).stdout.splitlines()) == 1


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.01)


def test_counters_and_control_of_a_running_instance() -> None:
    process = start("forward", "--hops", "3", "--json")
    directory = shm.runtime_directory() / str(process.pid)
    try:
        wait_for(directory / "control")
        assert (directory / "control").stat().st_mode & 0o777 == 0o600
        assert process.stdout
        process.stdout.readline()
        reader = CountersReader(directory / "counters")
        assert reader.program == "forward"
        rows = reader.read()
        first = rows["links/a.tx -> ab-hop1.rx"]
        assert isinstance(first, dict)
        assert first["txpackets"] >= first["rxpackets"] > 0
        histogram = rows["workers/0/breath-gap-ns"]
        assert isinstance(histogram, list)
        assert sum(histogram) > 0
        reader.close()
        answer = control.call(directory / "control", "config")
        assert answer["apps"]["ab-hop2"]["class"] == "Forward"
        assert "digraph" in control.call(directory / "control", "graph")
        assert "config" in control.call(directory / "control", "help")
        with pytest.raises(Exception, match="expected"):
            control.call(directory / "control", "nonsense")
        control.call(directory / "control", "end")
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()
    assert not directory.exists()


def test_what_a_killed_instance_left_is_removed_by_the_next() -> None:
    process = start("forward", "--json")
    directory = shm.runtime_directory() / str(process.pid)
    wait_for(directory / "control")
    process.kill()
    process.communicate()
    assert directory.exists()
    snabb("forward", "--duration", "0")
    assert not directory.exists()


def test_a_closed_pipe_is_no_traceback() -> None:
    process = start("forward", "--duration", "2", "--interval", "0.05")
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(20) == 1
    assert "Traceback" not in errors


@pytest.mark.need("root", "hugepages")
@pytest.mark.parametrize(("use", "kib"), [("never", 4), ("require", 2048)])
def test_huge_pages_are_used_as_asked(use: str, kib: int) -> None:
    """By the kernel's own account of the packets' mapping."""
    process = start("forward", "--huge-pages", use, "--json")
    try:
        assert process.stdout
        process.stdout.readline()
        text = Path(f"/proc/{process.pid}/smaps").read_text()
        sizes = r"memfd:snabb-py .*?\nSize: +(\d+) kB\nKernelPageSize: +(\d+)"
        maps = [(int(a), int(b)) for a, b in re.findall(sizes, text)]
        assert max(maps)[1] == kib  # cards' rings are smaller
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("delay_ms", [0, 30, 60, 90, 120, 150, 200])
def test_a_signal_at_start_up_leaves_nothing(delay_ms: int) -> None:
    process = start("forward", "--json")
    time.sleep(delay_ms / 1e3)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    # Killed while Python itself was starting, unwound, or ended with its summary.
    assert process.returncode in (-signal.SIGTERM, -signal.SIGINT, 143, 130, 0)
    assert "Traceback" not in errors
    assert not (shm.runtime_directory() / str(process.pid)).exists()


def capture(n: int) -> bytes:
    """Return a capture of n frames of 60 zeros."""
    record = (0).to_bytes(8, "little") + 2 * (60).to_bytes(4, "little") + bytes(60)
    header = bytes.fromhex("d4c3b2a1 0200 0400") + bytes(8)
    header += (65535).to_bytes(4, "little") + (1).to_bytes(4, "little")
    return header + record * n


def test_the_rest_of_a_damaged_capture_is_a_drop(tmp_path: Path) -> None:
    path = tmp_path / "in.pcap"
    path.write_bytes(capture(3) + b"\xff" * 16 + bytes(60))
    done = snabb("forward", f"pcap:{path}", "null", "--json")
    (direction,) = json.loads(done.stdout.splitlines()[-1])["directions"]
    assert (direction["forwarded"], direction["lost"]) == (3, 1)
    assert direction["drops"] == {"a-in drop-damaged-file": 1}


def test_a_full_stdout_is_named() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [*SNABB, "--version"],
            check=False, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("snabb-py: use stdout: No space left on device")


def test_a_capture_on_stdout_is_alone_there(tmp_path: Path) -> None:
    path = tmp_path / "in.pcap"
    path.write_bytes(capture(100))
    done = subprocess.run(
        [*SNABB, "forward", f"pcap:{path}", "pcap:,/dev/stdout"],
        check=True,
        capture_output=True,
        timeout=30,
    )
    assert len(done.stdout) == 24 + 100 * 76
    assert b"forwarded 100" in done.stderr


def test_a_full_disk_is_a_loss_and_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "in.pcap"
    path.write_bytes(capture(100))
    done = snabb("forward", f"pcap:{path}", "pcap:,/dev/full", "--json", status=1)
    (direction,) = json.loads(done.stdout.splitlines()[-1])["directions"]
    assert direction["offered"] == 100
    assert direction["forwarded"] == 0
    assert direction["lost"] == sum(direction["drops"].values()) == 100
    assert "No space left" in done.stderr


@pytest.mark.need("root", "netns")
def test_a_full_runtime_directory_is_one_line() -> None:
    mount = 'mount -t tmpfs -o size=40k none /run && exec "$@"'
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c", mount, "sh", *SNABB),
            *("forward", "--hops", "900", "--duration", "0.1"),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "make room in /run/snabb-py/" in done.stderr
    assert "No space left on device; the file system is full" in done.stderr


@pytest.mark.parametrize("options", [[], ["--transmit"]])
@pytest.mark.parametrize("name", ["card", "driver"])
def test_one_side_of_a_card_is_measured_alone(name: str, options: list[str]) -> None:
    line = json.loads(snabb("bench", name, "1e5", *options, "--json").stdout)
    assert line["benchmark"] == name
    assert line["packets"] >= 100_000
    assert line["ns_per_packet"] > 0
