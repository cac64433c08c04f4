"""`snabb-py sim82599` as a user calls it; virtual machines are `tests.vfio_client`."""

import json
import os
import pty
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from snabb_py.engine import control
from snabb_py.engine.shm import runtime_directory
from snabb_py.errors import ConfigError
from tests.guest import Guest
from tests.hosts import until
from tests.vfio_client import (
    CONFIG,
    FRAME,
    PAGE,
    TDT,
    VfioClient,
    start_transmission,
    transmit,
)

LINKS, LINKS_UP = 0x42A4, 1 << 30
SIM = [sys.executable, "-m", "snabb_py", "sim82599"]


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Program:
    """A running sim82599: its cards' sockets, and in the end what it has said."""

    def __init__(self, *arguments: str | Path, sockets: int = 1) -> None:
        self.process = subprocess.Popen(
            [*SIM, *map(str, arguments), "--json", "--interval", "0.1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr
        # A line for each socket ends the options; then they can be connected to.
        self.head: list[str] = []
        while sum("vfio-user-pci" in line for line in self.head) < sockets:
            self.head.append(self.process.stderr.readline())
            assert self.head[-1], self.head
        self.summary: dict[str, Any] = {}
        self.looks: list[dict[str, Any]] = []
        self.errors = ""

    def look(self) -> dict[str, Any]:
        """Return the next look; none is left out, however late it is asked for."""
        assert self.process.stdout
        self.looks.append(json.loads(self.process.stdout.readline()))
        return self.looks[-1]

    def end(self, number: int = signal.SIGTERM, status: int = 0) -> dict[str, Any]:
        """End it by a signal and return the summary."""
        self.process.send_signal(number)
        out, self.errors = self.process.communicate(timeout=30)
        assert self.process.returncode == status, self.errors
        assert "Traceback" not in self.errors
        result: dict[str, Any] = json.loads(out.splitlines()[-1])
        return result


@contextmanager
def sim(*arguments: str | Path, sockets: int = 1) -> Iterator[Program]:
    program = Program(*arguments, sockets=sockets)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.communicate()


@pytest.fixture
def memory() -> Iterator[int]:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 16 * PAGE)
    yield fd
    os.close(fd)


def test_a_virtual_machine_comes_and_goes(tmp_path: Path, memory: int) -> None:
    path = tmp_path / "nic.sock"
    with sim(path, "--mac", "02:00:00:00:aa:01") as program:
        assert not program.look()["cards"][0]["connected"]
        for _ in range(2):
            with VfioClient(path) as client:
                client.negotiate()
                assert client.read(CONFIG, 0, 4) == bytes.fromhex("8680fb10")
                mac = client.register(0x5400).to_bytes(4, "little")
                assert mac == bytes.fromhex("02000000")
                start_transmission(client, memory)
                transmit(client, memory, FRAME)
                wait_for(lambda: program.look()["cards"][0]["connected"])
                assert program.look()["cards"][0]["mappings"] == 1
            wait_for(lambda: not program.look()["cards"][0]["connected"])
        (card,) = program.end(signal.SIGINT)["cards"]
    assert card["mac"] == "02:00:00:00:aa:01"
    assert card["wire"] == "null"
    assert card["tx"]["packets"] == 2
    assert card["tx"]["bytes"] == 2 * len(FRAME)
    assert card["violations"] == {}
    assert card["drops"] == {}
    assert card["client"]["connections"] == 2
    assert program.errors.count(": connected (process") == 2
    assert program.errors.count(": disconnected") == 2
    assert not path.exists()


def test_the_options_for_qemu_are_ready_to_paste(tmp_path: Path) -> None:
    paths = [tmp_path / "a b.sock", tmp_path / "c'd.sock"]
    with sim(*paths, sockets=2) as program:
        program.end()
        text = "".join(program.head)
        words = shlex.split(text[text.index("-machine") :].replace("\\\n", " "))
    assert words[:2] == ["-machine", "q35,memory-backend=mem"]
    assert any("share=on" in word for word in words)
    devices = [json.loads(word) for word in words if word.startswith("{")]
    assert [d["socket"]["path"] for d in devices] == [str(path) for path in paths]
    ports = [word for word in words if word.startswith("pcie-root-port")]
    assert [f"id={d['bus']}" in port for d, port in zip(devices, ports, strict=True)]


def call(program: Program, verb: str, **members: Any) -> Any:
    """Ask a program's control socket."""
    path = runtime_directory() / str(program.process.pid) / "control"
    return control.call(path, verb, **members)


def has_link(client: VfioClient) -> bool:
    return bool(client.register(LINKS) & LINKS_UP)


def drops(program: Program, card: int = 0) -> dict[str, int]:
    counts: dict[str, int] = program.look()["cards"][card]["drops"]
    return counts


def test_a_cable_is_pulled_and_plugged(tmp_path: Path) -> None:
    path = tmp_path / "a"
    arguments = (path, tmp_path / "b", "--wire", "gen,rate=10kpps")
    with sim(*arguments, sockets=2) as program, VfioClient(path) as client:
        client.negotiate()
        assert "cable" in call(program, "help")
        assert has_link(client)
        assert "drop-rx-link-down" not in drops(program)
        pulled = call(program, "cable", card="card0", plugged=False)
        assert pulled == {"card0": False, "card1": True}
        assert not has_link(client)
        wait_for(lambda: "drop-rx-link-down" in drops(program))
        assert not program.look()["cards"][0]["plugged"]
        client.reset()
        assert not has_link(client)
        assert "drop-rx-link-down" not in drops(program, 1)
        call(program, "cable", card="card0", plugged=True)
        assert has_link(client)
        assert program.look()["cards"][0]["plugged"]
        (lost, _) = [card["drops"] for card in program.end()["cards"]]
    assert lost["drop-rx-link-down"] > 0


def test_a_cable_between_cards_has_two_ends(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    with sim(*paths, "--wire", "cable", sockets=2) as program, ExitStack() as stack:
        clients = [stack.enter_context(VfioClient(path)) for path in paths]
        for client in clients:
            client.negotiate()
        for plugged in (False, True):
            call(program, "cable", card="card1", plugged=plugged)
            assert [has_link(client) for client in clients] == [plugged] * 2
        program.end()


def test_a_cable_that_there_is_not(tmp_path: Path) -> None:
    with sim(tmp_path / "a") as program:
        for members, text in (
            ({}, "card: expected one of card0"),
            ({"card": "card1", "plugged": True}, "card: expected one of card0"),
            ({"card": ["card0"], "plugged": True}, "card: expected one of card0"),
            ({"card": "card0"}, "plugged: expected true or false"),
            ({"card": "card0", "plugged": 0}, "plugged: expected true or false"),
        ):
            with pytest.raises(ConfigError, match=text):
                call(program, "cable", **members)
        assert program.end()["cards"][0]["plugged"]


def test_addresses_count_on_to_the_last(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    with sim(*paths, "--mac", "02:00:00:ff:ff:fd", sockets=3) as program:
        macs = [card["mac"] for card in program.end()["cards"]]
    assert macs == [f"02:00:00:ff:ff:f{digit}" for digit in "def"]


@pytest.mark.parametrize("arguments", [["--json"], []])
def test_a_path_need_not_be_utf_8(tmp_path: Path, arguments: list[str]) -> None:
    path, capture = (os.fsencode(tmp_path / name) + b'\xff"' for name in "sc")
    done = subprocess.run(
        [*SIM, path, "--wire", b"pcap:," + capture, "--duration", "0.1", *arguments],
        check=True,
        capture_output=True,
        timeout=60,
    )
    shown = path.decode(errors="replace")
    text = done.stderr.decode()
    assert f"{shown}: is not UTF-8, as QEMU wants it" in text
    options = text[text.index("-machine") : text.index(f"\nsnabb-py: {shown}")]
    (option,) = [w for w in shlex.split(options) if w.startswith("{")]
    assert json.loads(option)["socket"]["path"] == shown
    if arguments:
        (card,) = json.loads(done.stdout.splitlines()[-1])["cards"]
        assert card["socket"] == shown
        assert card["wire"] == "pcap:," + capture.decode(errors="replace")
        assert b"\\ud" not in done.stdout
    else:
        assert shown in done.stdout.decode()


def test_a_cable_joins_two_cards(tmp_path: Path, memory: int) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    with (
        sim(*paths, "--wire", "cable", sockets=2) as program,
        VfioClient(paths[0]) as a,
        VfioClient(paths[1]) as b,
    ):
        a.negotiate()
        b.negotiate()
        start_transmission(a, memory)
        transmit(a, memory, FRAME)
        wait_for(lambda: program.look()["cards"][1]["rx"]["packets"] == 1)
        first, second = program.end()["cards"]
    assert first["tx"]["packets"] == 1
    assert first["mac"] != second["mac"]
    # Nothing has set the other card up.
    assert sum(second["drops"].values()) == 1


def test_what_a_guest_sends_is_in_the_capture(tmp_path: Path, memory: int) -> None:
    path, capture = tmp_path / "nic.sock", tmp_path / "out.pcap"
    with sim(path, "--wire", f"pcap:,{capture}") as program:
        with VfioClient(path) as client:
            client.negotiate()
            start_transmission(client, memory)
            transmit(client, memory, FRAME)
            wait_for(lambda: program.look()["cards"][0]["tx"]["packets"] == 1)
        program.end()
    assert FRAME in capture.read_bytes()


def test_a_generator_is_a_wire_of_many_cards(tmp_path: Path, memory: int) -> None:
    path, wire = tmp_path / "a", "gen,rate=10kpps,size=100"
    with sim(path, tmp_path / "b", "--wire", wire, sockets=2) as program:
        with VfioClient(path) as client:
            client.negotiate()
            start_transmission(client, memory)
            transmit(client, memory, FRAME)
            wait_for(lambda: program.look()["seconds"] > 1)
        cards = program.end()["cards"]
    for card in cards:
        assert card["wire"] == wire
        assert card["rx"]["packets"] > 1000
        assert card["rx"]["bytes"] == 96 * card["rx"]["packets"]  # without FCS
        # There is no driver to take them.
        assert sum(card["drops"].values()) == card["rx"]["packets"]
    assert cards[0]["wire_counters"]["wire0-out foreign"] == 1
    assert cards[1]["wire_counters"]["wire1-out returned"] == 0


@pytest.mark.need("qemu")
def test_linux_drives_the_card(tmp_path: Path) -> None:
    path = tmp_path / "nic.sock"
    with sim(path, "--wire", "gen,rate=1kpps") as program:
        with Guest([path]) as guest:
            guest.run("modprobe ixgbe")
            name = guest.interface(0)
            guest.run(f"ip link set {name} up")
            count = f"cat /sys/class/net/{name}/statistics/rx_packets"
            wait_for(lambda: int(guest.run(count)) > 100)
            wait_for(lambda: program.look()["cards"][0]["connected"])
            guest.kill()
        wait_for(lambda: not program.look()["cards"][0]["connected"])
        (card,) = program.end()["cards"]
    assert card["mappings"] == 0
    assert card["interrupts"] > 0
    assert card["violations"] == {}
    errors = [name for name in card["client"] if name.startswith(("error", "refused"))]
    assert errors == []


@pytest.mark.need("root", "tun")
def test_a_tap_is_a_wire(tmp_path: Path, memory: int) -> None:
    path, name = tmp_path / "nic.sock", f"snabb{os.getpid()}"
    statistics = Path(f"/sys/class/net/{name}/statistics/rx_packets")
    with sim(path, "--wire", f"tap:{name}") as program, VfioClient(path) as client:
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        client.negotiate()
        start_transmission(client, memory)
        before = int(statistics.read_text())
        transmit(client, memory, FRAME)
        wait_for(lambda: int(statistics.read_text()) == before + 1)
        program.end()
    assert not statistics.exists()


def test_memory_that_is_taken_away_kills_nobody(tmp_path: Path, memory: int) -> None:
    path = tmp_path / "nic.sock"
    with sim(path) as program, VfioClient(path) as client:
        client.negotiate()
        start_transmission(client, memory)
        os.ftruncate(memory, 0)
        client.set_register(TDT, 1)
        assert client.register(TDT) == 1
        wait_for(lambda: program.look()["seconds"] > 0.5)
        assert client.register(TDT) == 1
        assert program.end()["pages_lost"] > 0


def test_memory_that_was_not_given_is_out_of_reach(tmp_path: Path, memory: int) -> None:
    path = tmp_path / "nic.sock"
    with sim(path) as program, VfioClient(path) as client:
        client.negotiate()
        start_transmission(client, memory)
        client.unmap(0, 16 * PAGE)
        transmit(client, memory, FRAME)
        wait_for(lambda: bool(program.look()["cards"][0]["violations"]))
        (card,) = program.end()["cards"]
    assert set(card["violations"]) == {"dma-read-unmapped"}
    assert card["tx"]["packets"] == 0


def test_plain_output(tmp_path: Path) -> None:
    arguments = [*SIM, str(tmp_path / "s"), "--duration", "0.5", "--interval", "0.1"]
    done = subprocess.run(
        arguments, check=True, capture_output=True, text=True, timeout=60
    )
    assert "(no client)" in done.stdout
    assert "received 0 packets" in done.stdout


def test_a_terminal_gets_a_table(tmp_path: Path) -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*SIM, str(tmp_path / "[red]s"), "--duration", "0.5", "--interval", "0.1"],
        stdout=child,
        stderr=child,
        env={**os.environ, "COLUMNS": "160", "TERM": "xterm"},
    )
    os.close(child)
    output = b""
    try:
        while data := os.read(parent, 65536):
            output += data
    except OSError:  # the other end is closed
        pass
    os.close(parent)
    assert process.wait(20) == 0
    assert "tx packets" in output.decode()
    assert "[red]s" in output.decode()
    assert "─" in output.decode()


@pytest.mark.parametrize("other", ["./out.pcap", "link.pcap", "out.pcap"])
def test_a_capture_is_written_once(tmp_path: Path, other: str) -> None:
    (tmp_path / "out.pcap").write_text("precious")
    (tmp_path / "link.pcap").hardlink_to(tmp_path / "out.pcap")
    wires = ("--wire", "pcap:,out.pcap", "--wire", f"pcap:,{other}")
    done = subprocess.run(
        [*SIM, "a", "b", *wires],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 2
    assert f"{other}: is being written by this network already" in done.stderr
    assert (tmp_path / "out.pcap").read_text() == "precious"


@pytest.mark.parametrize("duration", ["0", "0.3"])
def test_a_capture_that_cannot_be_written_is_a_failure(
    tmp_path: Path, duration: str
) -> None:
    wire = ("--wire", "pcap:,/dev/full", "--duration", duration, "--json")
    done = subprocess.run(
        [*SIM, str(tmp_path / "a"), *wire],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "write /dev/full: No space left on device" in done.stderr
    (failure,) = json.loads(done.stdout.splitlines()[-1])["failures"]
    assert failure.startswith("write /dev/full: No space left on device")


@pytest.mark.parametrize("limit", ["n 6", "n 9", "n 12", "n 14", "n 16", "f 0"])
def test_what_has_run_out_is_one_line(tmp_path: Path, limit: str) -> None:
    socket_path = tmp_path / "nic.sock"
    done = subprocess.run(
        ["sh", "-c", f'ulimit -{limit}; exec "$@"', "sh", *SIM, str(socket_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("snabb-py: ")]
    assert f"ulimit -{limit[0]}" in said[-1]
    assert "[Errno" not in done.stderr
    assert "Traceback" not in done.stderr
    assert not socket_path.exists()


def test_where_somebody_listens_nobody_else_does(tmp_path: Path) -> None:
    path = tmp_path / "nic.sock"
    with sim(path) as program:
        done = subprocess.run(
            [*SIM, str(path), "--duration", "0"],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        assert "somebody listens there" in done.stderr
        with VfioClient(path) as client:
            client.negotiate()
        program.end()


def test_a_socket_that_a_killed_one_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "nic.sock"
    with sim(path) as program:
        program.process.kill()
        program.process.wait()
        assert path.is_socket()
    with sim(path) as program:
        with VfioClient(path) as client:
            client.negotiate()
        program.end()
    assert not path.exists()


@pytest.mark.parametrize("delay_ms", [0, 50, 100, 150, 200, 300, 500])
def test_a_signal_at_start_up_leaves_nothing(tmp_path: Path, delay_ms: int) -> None:
    path = tmp_path / "nic.sock"
    process = subprocess.Popen(
        [*SIM, str(path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        time.sleep(delay_ms / 1e3)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode in (-signal.SIGTERM, 143, 0)
    assert "Traceback" not in errors
    assert not path.exists()


def test_a_client_that_says_nothing_delays_no_end(tmp_path: Path) -> None:
    path = tmp_path / "nic.sock"
    with sim(path) as program, socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(path))
        silent.send(b"\1")
        wait_for(lambda: program.look()["cards"][0]["connected"])
        begun = time.monotonic()
        program.end()
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_that_nobody_reads_does_not_keep_it(tmp_path: Path, stream: str) -> None:
    end, full = os.pipe()
    os.set_blocking(full, False)
    with suppress(BlockingIOError):
        while True:
            os.write(full, bytes(4096))
    os.set_blocking(full, True)
    path = tmp_path / "a"
    program = subprocess.Popen(
        [sys.executable, "-m", "snabb_py", "sim82599", path, "--interval", "0.05"],
        stdout=full if stream == "stdout" else subprocess.DEVNULL,
        stderr=full if stream == "stderr" else subprocess.DEVNULL,
    )
    try:
        until(path.exists, "the socket")
        time.sleep(0.5)  # it has something to say by now
        program.terminate()
        assert program.wait(timeout=20) == 0
        assert not path.exists()
    finally:
        program.kill()
        os.close(full)
        os.close(end)
