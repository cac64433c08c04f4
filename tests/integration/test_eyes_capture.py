"""`snabb-py capture`: what passes a link of an instance, in a file that is whole."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from snabb_py.engine.instances import Instance
from tests.captures import frames_in
from tests.eyes_lab import FRAME, Lab, Running, lab, snabb
from tests.hosts import SNABB, until
from tests.requirements import SEARCH_PATH

pytestmark = pytest.mark.need("root", "netns")

LINK = "ab-hop1.tx -> ab-hop2.rx"
ARP = FRAME[:12] + b"\x08\x06" + FRAME[14:]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Lab, Running]]:
    with lab(tmp_path) as laboratory:
        yield laboratory, laboratory.start("forward")


def begin(
    instance: Instance, path: Path | str, *arguments: str
) -> subprocess.Popen[str]:
    """Start a capture; it has begun when this returns."""
    before = handovers(instance)
    process = subprocess.Popen(
        [*SNABB, "capture", str(instance.pid), LINK, str(path), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(lambda: handovers(instance) > before or process.poll() is not None)
    return process


def said_of(program: Running, path: Path, packets: int) -> str:
    """Return what a capture says in all."""
    pid = program.instance.pid
    return (
        f"snabb-py: capturing on {LINK} of {pid} (forward), to {path}\n"
        f"snabb-py: {LINK}: {packets} packets\n"
    )


def handovers(instance: Instance) -> int:
    return int(instance.ask("counters")["workers"][0]["handovers"])


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    """Wait for the end; return what was said."""
    _, errors = process.communicate(timeout=30)
    assert process.returncode == status, errors
    assert "Traceback" not in errors
    return errors


def passed(running: Running) -> int:
    return int(running.instance.ask("counters")["links"][LINK]["rxpackets"])


@pytest.mark.need("tcpdump")
def test_what_passes_is_in_the_file(
    running: tuple[Lab, Running], tmp_path: Path
) -> None:
    laboratory, program = running
    path = tmp_path / "x.pcapng"
    process = begin(program.instance, path)
    sent = [FRAME + bytes([i]) for i in range(100)]
    before = time.time_ns()
    for frame in sent:
        laboratory.feed(1, frame)
    until(lambda: passed(program) == 100)
    process.send_signal(signal.SIGINT)
    assert finish(process) == said_of(program, path, 100)
    assert frames_in(path.read_bytes()) == sent
    out = subprocess.run(
        ["tcpdump", "-nn", "-tt", "--nano", "-r", path],
        check=True, capture_output=True, text=True, env={"PATH": SEARCH_PATH},
    ).stdout  # fmt: skip
    times = [float(text) for text in re.findall(r"^\d\S+", out, re.MULTILINE)]
    assert len(times) == 100
    assert times == sorted(times)
    assert before / 1e9 - 0.01 < times[0] <= times[-1] < time.time()
    (direction,) = program.end()["directions"]
    assert (direction["offered"], direction["lost"]) == (100, 0)


def test_filter_and_count(running: tuple[Lab, Running], tmp_path: Path) -> None:
    laboratory, program = running
    path = tmp_path / "x.pcapng"
    process = begin(program.instance, path, "--count", "3", "arp", "or", "icmp")
    for _ in range(3):
        laboratory.feed(5)
        laboratory.feed(2, ARP)
    assert finish(process) == said_of(program, path, 3)
    assert frames_in(path.read_bytes()) == [ARP] * 3


def test_size_and_duration(running: tuple[Lab, Running], tmp_path: Path) -> None:
    laboratory, program = running
    path = tmp_path / "x.pcapng"
    process = begin(program.instance, path, "--max-size", "1k")
    laboratory.feed(50)
    finish(process)
    content = path.read_bytes()
    assert 1000 - 92 - 100 < len(content) <= 1000
    assert set(frames_in(content)) == {FRAME}
    process = begin(program.instance, path, "--duration", "0.3")
    laboratory.feed(10)
    finish(process)
    assert frames_in(path.read_bytes()) == [FRAME] * 10


@pytest.mark.need("tcpdump")
def test_into_a_pipe(running: tuple[Lab, Running]) -> None:
    laboratory, program = running
    before = handovers(program.instance)
    command = " ".join([*SNABB, "capture", str(program.instance.pid), "hop2.rx", "-"])
    process = subprocess.Popen(
        ["sh", "-c", f"{command} --count 20 | tcpdump -nn -e -r -"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PATH": SEARCH_PATH},
    )  # fmt: skip
    until(lambda: handovers(program.instance) > before)
    laboratory.feed(20)
    out, _ = process.communicate(timeout=30)
    assert out.count("ethertype Unknown (0x88b5)") == 20


def test_a_pipe_that_nobody_reads(running: tuple[Lab, Running]) -> None:
    """It fills, the memory fills, packets are lost to the file and to nobody else."""
    laboratory, program = running
    reading, writing = os.pipe()
    before = handovers(program.instance)
    process = subprocess.Popen(
        [*SNABB, "capture", str(program.instance.pid), LINK, "-"],
        stdout=writing, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(writing)
    until(lambda: handovers(program.instance) > before)
    laboratory.feed(100, FRAME + bytes(1000))
    until(lambda: passed(program) == 100)
    process.send_signal(signal.SIGINT)
    errors = finish(process, status=1)
    assert "its reader is too slow" in errors
    os.close(reading)
    (direction,) = program.end()["directions"]
    assert (direction["offered"], direction["lost"]) == (100, 0)


def test_a_full_disk(running: tuple[Lab, Running], tmp_path: Path) -> None:
    laboratory, program = running
    script = f"""
        mount -t tmpfs -o size=64k none {tmp_path}
        "$@" {tmp_path}/x.pcapng; echo $?; exec cat {tmp_path}/x.pcapng >&2
    """
    before = handovers(program.instance)
    command = [*SNABB, "capture", str(program.instance.pid), LINK]
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, "sh", *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    until(lambda: handovers(program.instance) > before)
    for _ in range(10):
        laboratory.feed(10, FRAME + bytes(1000))
        time.sleep(0.02)
    out, errors = process.communicate(timeout=30)
    assert out == b"1\n"
    _, first, second, content = errors.split(b"\n", 3)
    frames = frames_in(content)
    assert first.startswith(f"snabb-py: {LINK}: {len(frames)} packets".encode())
    assert b"x.pcapng: No space left on device" in second
    assert set(frames) == {FRAME + bytes(1000)}
    until(lambda: passed(program) == 100)
    (direction,) = program.end()["directions"]
    assert (direction["offered"], direction["lost"]) == (100, 0)


def test_what_takes_nothing(running: tuple[Lab, Running]) -> None:
    _, program = running
    process = begin(program.instance, "/dev/full")
    (line,) = finish(process, status=1).splitlines()
    assert "No space left on device" in line


def test_the_instance_is_stopped(running: tuple[Lab, Running], tmp_path: Path) -> None:
    _, program = running
    program.process.send_signal(signal.SIGSTOP)
    try:
        done = snabb(
            "capture", str(program.instance.pid), LINK, str(tmp_path / "x"), status=1
        )
    finally:
        program.process.send_signal(signal.SIGCONT)
    assert "the process does not answer; is it stopped?" in done.stderr


def test_the_instance_ends_first(running: tuple[Lab, Running], tmp_path: Path) -> None:
    laboratory, program = running
    path = tmp_path / "x.pcapng"
    process = begin(program.instance, path)
    laboratory.feed(10)
    until(lambda: passed(program) == 10)
    program.end()
    errors = finish(process)
    assert "10 packets\n" in errors
    assert len(errors.splitlines()) == 3
    assert frames_in(path.read_bytes()) == [FRAME] * 10


def test_the_instance_is_killed(running: tuple[Lab, Running], tmp_path: Path) -> None:
    laboratory, program = running
    path = tmp_path / "x.pcapng"
    process = begin(program.instance, path)
    laboratory.feed(10)
    until(lambda: passed(program) == 10)
    program.kill()
    assert finish(process).endswith("snabb-py: the instance has ended\n")
    assert frames_in(path.read_bytes()) == [FRAME] * 10


def test_who_captures_is_killed(running: tuple[Lab, Running], tmp_path: Path) -> None:
    laboratory, program = running
    process = begin(program.instance, tmp_path / "x.pcapng")
    before = handovers(program.instance)
    process.kill()
    process.communicate()
    until(lambda: handovers(program.instance) > before, "the capture's end")
    laboratory.feed(10)
    until(lambda: passed(program) == 10)
    assert not [
        link
        for link in Path(f"/proc/{program.instance.pid}/fd").iterdir()
        if "memfd:capture" in str(link.readlink())
    ]


def test_requests_of_somebody_else(running: tuple[Lab, Running]) -> None:
    _, program = running
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(program.instance.control))
        file = client.makefile("rw")
        for members in (
            {},
            {"link": 1},
            {"link": LINK, "filter": "xyz"},
            {"link": LINK, "filter": "ff" * 8},
            {"link": LINK, "filter": 3},
            {"link": LINK, "packets": 0},
            {"link": LINK, "packets": 2**64},
            {"link": LINK, "bytes": -1},
            {"link": LINK, "bytes": "many"},
        ):
            file.write(json.dumps({"verb": "capture", **members}) + "\n")
            file.flush()
            answer = json.loads(file.readline())
            assert answer["ok"] is False, members
    assert handovers(program.instance) == 2
