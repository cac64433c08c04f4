"""`snabb-py ps` and `top`: what they show is what the instances count themselves."""

import fcntl
import itertools
import json
import os
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from snabb_py.cli.terminal import shown
from snabb_py.engine import shm
from tests.eyes_lab import COMMANDS, FRAME, Lab, Running, lab, received, snabb
from tests.hosts import SNABB, until

pytestmark = pytest.mark.need("root", "netns")


@pytest.fixture
def laboratory(tmp_path: Path) -> Iterator[Lab]:
    with lab(tmp_path) as it:
        yield it


def ps(pid: int) -> dict[str, Any]:
    lines = snabb("ps", "--json").stdout.splitlines()
    (one,) = [one for one in map(json.loads, lines) if one["pid"] == pid]
    result: dict[str, Any] = one
    return result


def top(pid: int) -> dict[str, Any]:
    done = snabb("top", str(pid), "--once", "--json", "--interval", "0.1")
    (report,) = json.loads(done.stdout)["instances"]
    result: dict[str, Any] = report
    return result


def settle(running: Running, counter: str, n: int) -> dict[str, Any]:
    """Return a report once some counter of the instance has come to n."""
    report: dict[str, Any] = {}

    def has_come() -> bool:
        report.update(top(running.instance.pid))
        return any(app["counters"].get(counter) == n for app in report["apps"])

    until(has_come, counter)
    return report


def about(pid: int, errors: str) -> list[str]:
    """Return the lines about an instance: others may run here, too."""
    return [line for line in errors.splitlines() if f"/{pid}/" in line]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_ps_tells_who_is_who(laboratory: Lab, name: str) -> None:
    running = laboratory.start(name)
    one = ps(running.instance.pid)
    assert one["program"] == name
    assert one["arguments"][: len(COMMANDS[name]) - 1] == COMMANDS[name][1:]
    assert "raw:x1" in one["interfaces"].values()
    assert 0 < one["seconds"] < 100
    allowed = Path("/proc/self/status").read_text().split("Cpus_allowed_list:")[1]
    assert one["workers"][0] == {"worker": 0, "cpus": allowed.split()[0]}
    (line,) = [
        line
        for line in snabb("ps").stdout.splitlines()
        if line.split()[0] == str(running.instance.pid)
    ]
    assert " ".join(COMMANDS[name]) in line
    running.end()
    assert str(running.instance.pid) not in snabb("ps").stdout


@pytest.mark.need("xdp")
def test_a_queue_of_an_interface_is_shown(laboratory: Lab) -> None:
    running = laboratory.start("forward", "xdp:x1", "raw:y1", "--bidir")
    laboratory.feed(300)
    settle(running, "rx-packets", 300)
    shown_by_ps = ps(running.instance.pid)["interfaces"]
    assert shown_by_ps == {"a": "xdp:x1,queue=0", "b": "raw:y1"}
    flows = {one["interface"]: one for one in top(running.instance.pid)["interfaces"]}
    assert flows["xdp:x1,queue=0"]["in"]["packets"] == 300


def test_top_of_forward_is_its_summary(laboratory: Lab) -> None:
    running = laboratory.start("forward")
    laboratory.feed(300, FRAME + bytes(940))
    report = settle(running, "rx-packets", 300)
    summary = running.end()
    (direction,) = summary["directions"]
    flows = {one["app"]: one for one in report["interfaces"]}
    assert flows["a"]["interface"] == "raw:x1"
    assert flows["a"]["in"]["packets"] == direction["offered"] == 300
    assert flows["b"]["out"]["packets"] == direction["forwarded"] < 300
    assert report["drops"] == direction["drops"] != {}
    (link,) = [k for k in report["links"] if k["link"] == "ab-hop1.tx -> ab-hop2.rx"]
    assert link["packets"] == direction["forwarded"]
    (worker,) = report["workers"]
    assert worker["gap_ns"]["max"] == summary["workers"][0]["gap_ns"]["max"]
    assert worker["breaths"] <= summary["workers"][0]["breaths"]


def test_top_of_lwaftr_is_its_summary(laboratory: Lab) -> None:
    running = laboratory.start("lwaftr")
    laboratory.feed(400)
    report = settle(running, "rx-packets", 400)
    summary = running.end()
    counters: Counter[str] = Counter()
    for app in report["apps"]:
        if app["app"].startswith("lwaftr"):
            counters.update(app["counters"])
    assert received(counters) == received(summary["counters"]) != {}
    assert counters["drop-all-ipv4-iface-packets"] == 400
    assert sum(report["drops"].values()) == 400
    assert not any(reason.endswith("-bytes") for reason in report["drops"])


def test_top_of_nfv_is_its_summary(laboratory: Lab) -> None:
    running = laboratory.start("nfv")
    laboratory.feed(400)
    report = settle(running, "rx-packets", 400)
    summary = running.end()
    (port,) = summary["ports"]
    assert report["drops"] == port["to"]["drops"] != {}
    flows = {one["interface"]: one for one in report["interfaces"]}
    assert flows["raw:x1"]["in"]["packets"] == 400
    assert any(word.startswith("vhost:") for word in flows)


def test_rates_are_there_from_the_first_line(laboratory: Lab) -> None:
    running = laboratory.start("forward")
    process = subprocess.Popen(
        [*SNABB, "top", str(running.instance.pid), "--json", "--interval", "0.5"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    reports: list[dict[str, Any]] = []
    while len(reports) < 3:
        laboratory.feed(200)
        time.sleep(0.05)
        if len(reports) < 3 and process.stdout.readable():
            reports.append(json.loads(process.stdout.readline())["instances"][0])
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 0
    for before, after in itertools.pairwise(reports):
        (then, _), (now, _) = before["interfaces"], after["interfaces"]
        came = now["in"]["packets"] - then["in"]["packets"]
        assert now["in"]["mpps"] == pytest.approx(
            came / after["interval"] / 1e6, abs=1e-6
        )
    assert reports[1]["interfaces"][0]["in"]["mpps"] > 0
    assert 0 < reports[1]["workers"][0]["load"] < 1


def test_the_network_as_a_graph(laboratory: Lab) -> None:
    pid = str(laboratory.start("forward").instance.pid)
    assert snabb("graph", pid).stdout == (
        "a (RawSocket, worker 0)\n  tx -> ab-police.rx\n"
        "ab-hop1 (Forward, worker 0)\n  tx -> ab-hop2.rx\n"
        "ab-hop2 (Forward, worker 0)\n  tx -> b.rx\n"
        "ab-police (Police, worker 0)\n  tx -> ab-hop1.rx\n"
        "b (RawSocket, worker 0)\n"
    )
    dot = snabb("graph", pid, "--dot").stdout
    assert dot.startswith("digraph network {")
    assert '"ab-hop1" -> "ab-hop2" [taillabel="tx", headlabel="rx"];' in dot


# -- watching is looking -------------------------------------------------------


def system_calls(laboratory: Lab, running: Running, directory: Path) -> set[str]:
    """Return the system calls that the worker makes, with packets and without."""
    tasks = Path(f"/proc/{running.instance.pid}/task")
    (worker,) = [t for t in tasks.iterdir() if (t / "comm").read_text() == "worker-0\n"]
    path = directory / "strace"
    with subprocess.Popen(["strace", "-qq", "-o", path, "-p", worker.name]) as strace:
        until(lambda: path.exists() and path.stat().st_size > 0)
        for _ in range(10):
            laboratory.feed(10)
            time.sleep(0.05)
        strace.send_signal(signal.SIGINT)
    return set(re.findall(r"^(\w+)\(", path.read_text(), re.MULTILINE))


@pytest.mark.need("strace")
def test_watching_adds_no_system_call(laboratory: Lab, tmp_path: Path) -> None:
    running = laboratory.start("forward")
    alone = system_calls(laboratory, running, tmp_path)
    pid = str(running.instance.pid)
    watchers = [
        subprocess.Popen([*SNABB, *command], stdout=subprocess.DEVNULL)
        for command in (
            ["top", pid, "--json", "--interval", "0.05"],
            ["metrics", "--file", str(tmp_path / "x.prom"), "--interval", "0.1"],
        )
    ]
    until((tmp_path / "x.prom").exists)
    watched = system_calls(laboratory, running, tmp_path)
    for process in watchers:
        process.terminate()
        assert process.wait(20) == 0
    assert watched <= alone
    assert "ppoll" in watched


def test_who_watches_cannot_write(laboratory: Lab) -> None:
    """No shared write: the files are open for reading alone, and not mapped."""
    running = laboratory.start("forward")
    process = subprocess.Popen(
        [*SNABB, "top", str(running.instance.pid), "--json", "--interval", "0.1"],
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    process.stdout.readline()
    own = Path(f"/proc/{process.pid}")
    counters = str(running.instance.directory / "counters")
    (fd,) = [fd for fd in (own / "fd").iterdir() if str(fd.readlink()) == counters]
    (flags,) = re.findall(r"flags:\s+(\d+)", (own / "fdinfo" / fd.name).read_text())
    assert int(flags, 8) & os.O_ACCMODE == os.O_RDONLY
    assert "/run/" not in (own / "maps").read_text()
    process.terminate()
    process.communicate(timeout=20)


# -- what comes and goes -------------------------------------------------------


def test_an_instance_that_is_killed_while_it_is_watched(laboratory: Lab) -> None:
    killed, other = laboratory.start("forward"), laboratory.start("nfv")
    process = subprocess.Popen(
        [*SNABB, "top", "--json", "--interval", "0.1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout

    def pids() -> set[int]:
        assert process.stdout
        reports = json.loads(process.stdout.readline())["instances"]
        return {report["pid"] for report in reports}

    both = {killed.instance.pid, other.instance.pid}
    until(lambda: both <= pids())
    killed.kill()
    until(lambda: killed.instance.pid not in pids())
    assert other.instance.pid in pids()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert about(killed.instance.pid, errors) == about(other.instance.pid, errors) == []
    assert str(killed.instance.pid) not in snabb("ps").stdout
    done = snabb("top", str(killed.instance.pid), "--once", status=1)
    assert "No such process" in done.stderr
    other.end()


def test_the_only_one_ends(laboratory: Lab) -> None:
    running = laboratory.start("forward")
    pid = running.instance.pid
    process = subprocess.Popen(
        [*SNABB, "top", str(pid), "--interval", "0.1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    process.stdout.readline()
    running.end()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert errors == f"snabb-py: process {pid} has ended\n"


def scribble(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def become_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: os.truncate(path, 1000), "ends before byte"),
        (lambda path: os.truncate(path, 0), "ends before byte"),
        (lambda path: path.write_bytes(b"\xa5" * (32 << 20)), "not a counters file"),
        (lambda path: scribble(path, 8, b"\1"), "is being changed"),
        (lambda path: scribble(path, 64 + 8, b"\5"), "counters without names"),
        (lambda path: scribble(path, 64 + 4, b"\xf8\xff\xff\xff"), "damaged"),
        (become_pipe, "counters: "),
    ],
)
def test_damaged_counters_are_a_line_and_others_are_shown(
    laboratory: Lab, damage: Any, words: str
) -> None:
    # Not the instance's own file, which it counts into: that of one that is posed.
    running = laboratory.start("forward")
    directory = shm.runtime_directory() / str(os.getpid())
    own = shm.InstanceDirectory()
    try:
        shutil.copyfile(running.instance.directory / "counters", directory / "counters")
        damage(directory / "counters")
        for arguments in (["ps"], ["top", "--once"]):
            done = snabb(*arguments)
            lines = about(os.getpid(), done.stderr)
            assert len(lines) == 1 or arguments == ["ps"]
            assert all(words in line for line in lines)
            assert f"{running.instance.pid}  " in done.stdout
    finally:
        own.close()


def answer_with(data: bytes, pause: float, client: socket.socket) -> None:
    """Answer a request; byte by byte where there is a pause."""
    with client, suppress(OSError):
        client.recv(65536)
        if not pause:
            client.sendall(data)
        for byte in data if pause else b"":
            client.sendall(bytes([byte]))
            time.sleep(pause)


@contextmanager
def posed(counters: Path, data: bytes, pause: float = 0) -> Iterator[Path]:
    """Give the directory of an instance that is this process, and answers with data."""
    directory = shm.InstanceDirectory()
    try:
        shutil.copyfile(counters, directory.path / "counters")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(directory.path / "control"))
            listener.listen()

            def serve() -> None:
                with suppress(OSError):
                    while True:
                        client, _ = listener.accept()
                        answer_with(data, pause, client)

            thread = threading.Thread(target=serve)
            thread.start()
            try:
                yield directory.path
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join(60)
    finally:
        directory.close()


NO_ANSWERS = [
    b"[1,2,3]\n",
    b"[" * 200_000 + b"\n",
    b'{"ok": true, "result": [1]}\n',
    b'{"ok": true, "result": {"a": 1}}\n',
    b'{"ok": true, "result": {}}\n{"ok": true, "result": {}}\n',
    b'{"ok": false, "error": "\\u001b[31m"}\n',
    b"x" * (17 << 20),
]


@pytest.mark.parametrize("data", NO_ANSWERS, ids=lambda data: repr(data[:40]))
def test_who_answers_nonsense_is_a_line_and_others_are_shown(
    laboratory: Lab, tmp_path: Path, data: bytes
) -> None:
    running = laboratory.start("forward")
    pid = str(os.getpid())
    with posed(running.instance.directory / "counters", data):
        for arguments in (
            ["ps"],
            ["top", "--once"],
            ["metrics", "--file", str(tmp_path / "x")],
        ):
            done = snabb(*arguments)
            (line,) = about(os.getpid(), done.stderr)
            assert "control: damaged: " in line
            shown = done.stdout or (tmp_path / "x").read_text()
            assert str(running.instance.pid) in shown
        for arguments in (
            ["graph", pid],
            ["graph", pid, "--dot"],
            ["capture", pid, "a.tx", str(tmp_path / "x")],
        ):
            done = snabb(*arguments, status=2)
            (line,) = done.stderr.splitlines()
            assert "control: damaged: " in line


def test_who_answers_slowly_delays_nobody_for_long(
    laboratory: Lab, tmp_path: Path
) -> None:
    running = laboratory.start("forward")
    data = b'{"ok": true, "result": {"a": "raw:never"}}\n' + b" " * 1000
    with posed(running.instance.directory / "counters", data, pause=0.3):
        for arguments in (["ps"], ["top", "--once"]):
            done = snabb(*arguments)
            assert str(running.instance.pid) in done.stdout
            assert "never" not in done.stdout
        for arguments in (["graph"], ["capture"]):
            words = ["a.tx", str(tmp_path / "x")] if "capture" in arguments else []
            done = snabb(*arguments, str(os.getpid()), *words, status=1)
            assert "the process does not answer" in done.stderr


def test_directories_that_others_planted(tmp_path: Path) -> None:
    """Seen in a /run of its own."""
    script = f"""
        mount -t tmpfs none /run
        mkdir /run/snabb-py
        chown 65534 /run/snabb-py
        {sys.executable} -m snabb_py ps; echo $?
        {sys.executable} -m snabb_py top --once; echo $?
        rm -r /run/snabb-py; ln -s {tmp_path} /run/snabb-py
        {sys.executable} -m snabb_py ps; echo $?
        rm /run/snabb-py
        {sys.executable} -m snabb_py ps; echo $?
    """
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    wrong = "belongs to somebody else or others may write to it"
    assert done.stderr.splitlines() == [
        *[f"snabb-py: /run/snabb-py: {wrong}"] * 3,
    ]
    assert done.stdout.split() == [*"222", "nothing", "runs", "here", "0"]


def test_escapes_in_arguments_do_not_reach_the_terminal() -> None:
    assert shown("pcap:no\x1b[31m\udcff") == "pcap:no\\x1b[31m\ufffd"


# -- terminals -----------------------------------------------------------------


#: Bytes that a screen has at least, on the narrowest terminal, and no clearing has.
SCREEN = 60


def on_terminal(columns: int, keys: bytes, *arguments: str) -> tuple[int, bytes]:
    """Return status and output of top on a terminal, where keys are pressed."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    before = termios.tcgetattr(child)
    process = subprocess.Popen(
        [*SNABB, "top", *arguments, "--interval", "0.2"],
        stdin=child, stdout=child, stderr=child,
        env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.set_blocking(parent, False)
    output = bytearray()

    def has_shown(condition: Callable[[], bool]) -> bool:
        with suppress(BlockingIOError):
            output.extend(os.read(parent, 65536))
        return condition()

    until(lambda: has_shown(lambda: len(output) > SCREEN))
    os.write(parent, keys)
    until(lambda: has_shown(lambda: process.poll() is not None))
    assert termios.tcgetattr(child) == before, "the terminal is as it was"
    os.close(child)
    os.close(parent)
    return process.returncode, bytes(output)


def test_a_terminal_that_takes_only_lines(laboratory: Lab) -> None:
    pid = laboratory.start("forward").instance.pid
    for term in ("dumb", "unknown", ""):
        parent, child = pty.openpty()
        with subprocess.Popen(
            [*SNABB, "top", str(pid), "--interval", "0.1"],
            stdin=child, stdout=child, stderr=child,
            env={**os.environ, "TERM": term},
        ) as process:  # fmt: skip
            os.close(child)
            output = b""
            while output.count(b"raw:x1: in ") < 3:
                output += os.read(parent, 65536)
            process.send_signal(signal.SIGINT)
        os.close(parent)
        assert b"\x1b" not in output


@pytest.mark.parametrize("columns", [20, 1, 80, 200])
def test_a_terminal_of_any_width(laboratory: Lab, columns: int) -> None:
    pid = laboratory.start("forward").instance.pid
    status, output = on_terminal(columns, b"jq", str(pid))
    assert status == 0, output
    assert b"Traceback" not in output
    if columns > 70:
        assert b"raw:x1" in output
        assert b"longest" in output


def test_a_closed_stdout(laboratory: Lab) -> None:
    laboratory.start("forward")
    for arguments in ("ps", "top --once", "top --interval 0.1"):
        command = f"{sys.executable} -m snabb_py {arguments}"
        for shell in (f"{command} >&-", f"{command} | true", f"{command} > /dev/full"):
            if arguments.endswith("0.1") and ">&-" in shell:
                continue  # it goes on, for nobody
            done = subprocess.run(
                ["sh", "-c", shell],
                check=False, capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            assert "Traceback" not in done.stderr
            assert len(done.stderr.splitlines()) <= 1
