"""`snabb-py metrics`: scraped over HTTP, and as a file, by Prometheus' own reader."""

import gzip
import os
import re
import resource
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from snabb_py.cli.metrics_server import RETRY, Server, application
from tests.eyes_lab import FRAME, Lab, Running, lab, received, snabb
from tests.hosts import SNABB, until

if TYPE_CHECKING:
    from prometheus_client import Metric

pytestmark = pytest.mark.need("root", "netns")


@pytest.fixture
def laboratory(tmp_path: Path) -> Iterator[Lab]:
    with lab(tmp_path) as it:
        yield it


@contextmanager
def serving(*arguments: str, prefix: Sequence[str] = ()) -> Iterator[str]:
    """Give the address where metrics are served."""
    process = subprocess.Popen(
        [*prefix, *SNABB, "metrics", "--listen", "127.0.0.1:0", *arguments],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr
        found = re.search(r"metrics at (http://\S+)", process.stderr.readline())
        assert found
        yield found[1]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


class Scrape:
    """What has been exported, read as Prometheus does."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families: dict[str, Metric] = {
            family.name: family for family in text_string_to_metric_families(text)
        }

    @classmethod
    def over_http(cls, address: str) -> "Scrape":
        with urllib.request.urlopen(address, timeout=20) as answer:  # noqa: S310
            assert answer.status == 200
            return cls(answer.read().decode())

    def of(self, running: Running, name: str, **labels: str) -> dict[str, float]:
        """Return the values of a metric of an instance by its last label."""
        pid = str(running.instance.pid)
        found = {}
        for sample in self.families[name].samples:
            others = dict(sample.labels)
            assert others.pop("program")
            if others.pop("pid") == pid and labels.items() <= others.items():
                rest = [v for k, v in others.items() if k not in labels]
                found[" ".join(rest)] = sample.value
        return found


def assert_histogram(scrape: Scrape, running: Running) -> None:
    who = {"pid": str(running.instance.pid), "worker": "0"}
    family = scrape.families["snabb_worker_breath_gap_seconds"]
    samples = [s for s in family.samples if who.items() <= s.labels.items()]
    cumulative = [s.value for s in samples if s.name.endswith("_bucket")]
    assert cumulative == sorted(cumulative)
    (count,) = [s.value for s in samples if s.name.endswith("_count")]
    assert cumulative[-1] == count > 0


def test_a_scrape_has_what_the_instances_count(laboratory: Lab) -> None:
    programs = [laboratory.start(name) for name in ("forward", "nfv", "lwaftr")]
    forward, nfv, lwaftr = programs
    laboratory.feed(300, FRAME + bytes(940))
    with serving() as address:

        def has_come() -> bool:
            scrape = Scrape.over_http(address)
            metric = "snabb_interface_receive_packets"
            return all(sum(scrape.of(p, metric).values()) == 300 for p in programs)

        until(has_come, "300 packets")
        before = [running.instance.ask("counters") for running in programs]
        scrape = Scrape.over_http(address)
        after = [running.instance.ask("counters") for running in programs]
    for running, low, high in zip(programs, before, after, strict=True):
        drops = running.instance.ask("drops")
        exported = scrape.of(running, "snabb_app_dropped_packets")
        assert {k: n for k, n in exported.items() if n} == drops != {}
        # One asks for its next hops all the time: what it counts moves on.
        for link in low["links"]:
            for metric, key in (
                ("transmit_packets", "txpackets"),
                ("transmit_bytes", "txbytes"),
                ("receive_packets", "rxpackets"),
                ("dropped_packets", "txdrop"),
            ):
                n = scrape.of(running, f"snabb_link_{metric}", link=link)[""]
                assert low["links"][link][key] <= n <= high["links"][link][key]
        (least, *_), (most, *_) = low["workers"], high["workers"]
        breaths = scrape.of(running, "snabb_worker_breaths", worker="0")[""]
        assert 0 < least["breaths"] <= breaths <= most["breaths"]
        busy = scrape.of(running, "snabb_worker_busy_seconds", worker="0")[""]
        assert 0 < least["busy-ns"] <= round(busy * 1e9) <= most["busy-ns"]
        assert_histogram(scrape, running)
    (direction,) = forward.end()["directions"]
    assert scrape.of(
        forward, "snabb_interface_receive_packets", interface="raw:x1"
    ) == {"a": direction["offered"]}
    assert scrape.of(
        forward, "snabb_interface_transmit_packets", interface="raw:y1"
    ) == {"b": direction["forwarded"]}
    counters = lwaftr.end()["counters"]
    exported = scrape.of(lwaftr, "snabb_app_counter", app="lwaftr")
    exported |= scrape.of(lwaftr, "snabb_app_dropped_packets", app="lwaftr")
    assert received(exported) == received(counters) != {}
    nfv.end()


def test_the_conventions_are_kept(laboratory: Lab) -> None:
    laboratory.start("forward")
    with serving() as address:
        scrape = Scrape.over_http(address)
    for family in scrape.families.values():
        assert family.documentation.endswith("."), family
        assert re.fullmatch(r"snabb(_[a-z]+)+", family.name)
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")


def test_instances_come_and_go(laboratory: Lab) -> None:
    with serving() as address:
        running = laboratory.start("forward")
        assert running.instance.pid
        assert Scrape.over_http(address).of(running, "snabb_instance_info")
        running.kill()
        assert not Scrape.over_http(address).of(running, "snabb_instance_info")


def test_a_stopped_instance_delays_nobody_for_long(laboratory: Lab) -> None:
    running = laboratory.start("forward")
    running.process.send_signal(signal.SIGSTOP)
    try:
        with serving() as address:
            scrape = Scrape.over_http(address)
            assert scrape.of(running, "snabb_worker_breaths")
            assert not scrape.of(running, "snabb_interface_receive_packets")
    finally:
        running.process.send_signal(signal.SIGCONT)


def test_a_host_that_nobody_knows_is_named() -> None:
    # What more is said is the resolver's.
    done = snabb("metrics", "--listen", "no such host:9105", status=2)
    (line,) = done.stderr.splitlines()
    assert line.startswith('snabb-py: --listen: "no such host:9105": ')


def test_a_file_is_written_whole(laboratory: Lab, tmp_path: Path) -> None:
    running = laboratory.start("forward")
    path = tmp_path / "snabb.prom"
    path.write_text("old")
    snabb("metrics", "--file", str(path))
    assert Scrape(path.read_text()).of(running, "snabb_worker_breaths")
    assert path.stat().st_mode & 0o777 == 0o644
    process = subprocess.Popen([*SNABB, "metrics", "--file", path, "--interval", "0.1"])
    inodes = set()

    def is_new() -> bool:
        inodes.add(path.stat().st_ino)
        assert Scrape(path.read_text()).of(running, "snabb_worker_breaths")
        return len(inodes) > 2

    until(is_new)
    process.terminate()
    assert process.wait(20) == 0
    assert [p.name for p in tmp_path.iterdir() if "prom" in p.name] == ["snabb.prom"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    script = f"""
        mount -t tmpfs -o size=8k none {tmp_path}
        echo old > {tmp_path}/x.prom
        dd if=/dev/zero of={tmp_path}/full bs=4k 2>/dev/null
        "$@" metrics --file {tmp_path}/x.prom; echo $?
        cat {tmp_path}/x.prom; ls -A {tmp_path}
    """
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *SNABB],
        check=True, capture_output=True, text=True, timeout=60,
        env={**os.environ},
    )  # fmt: skip
    assert done.stdout.split() == ["1", "old", "full", "x.prom"]
    (line,) = [line for line in done.stderr.splitlines() if "/run/" not in line]
    assert "No space left on device" in line


# -- the server ----------------------------------------------------------------


def connected(address: str, request: bytes = b"") -> socket.socket:
    """Return a connection to the server, where so much has been sent."""
    host, _, port = address.removeprefix("http://").partition("/")[0].rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(request)
    return connection


def received_by(connection: socket.socket) -> bytes:
    """Return all that comes until the server has closed the connection."""
    with connection, connection.makefile("rb") as file:
        return file.read()


@pytest.mark.parametrize("limit", [20, 64, 1024])
def test_idle_clients_delay_nobody_and_are_dropped(limit: int) -> None:
    shell = ("sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh")
    with serving(prefix=shell) as address:
        idle = [connected(address) for _ in range(120)]
        idle += [connected(address, b"GET /metrics HTTP/1.1\r\n") for _ in range(120)]
        assert Scrape.over_http(address)
        for connection in idle:
            with suppress(ConnectionResetError):
                assert received_by(connection) == b""
        assert Scrape.over_http(address)


def test_without_file_descriptors_it_waits() -> None:
    """And does not spin, and goes on when there are some again."""
    app = application(CollectorRegistry())
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Server("it", "127.0.0.1", 0, app) as server:
        server.timeout = 20
        with socket.create_connection(("127.0.0.1", server.server_port), 20) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            begin = time.monotonic()
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
            try:
                server.handle_request()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert time.monotonic() - begin >= RETRY
            server.handle_request()
            assert b" 200 OK" in received_by(client)


def test_a_client_that_drips_is_dropped() -> None:
    with serving() as address:
        dripping = connected(address)
        dripping.settimeout(0.1)

        def is_dropped() -> bool:
            try:
                dripping.sendall(b"G")
                return not dripping.recv(1)
            except TimeoutError:
                return False
            except OSError:
                return True

        until(is_dropped)
        with suppress(ConnectionResetError):
            answer = received_by(connected(address, b"x" * 100_000))
            assert b"414 - URI is too long" in answer
        assert Scrape.over_http(address)


@pytest.mark.parametrize(
    ("request_line", "status", "words"),
    [
        ("GET /metrics HTTP/1.1", b"200 OK", b"# HELP snabb_"),
        ("GET /metrics?x=y HTTP/1.0", b"200 OK", b"# HELP snabb_"),
        ("HEAD /metrics HTTP/1.1", b"200 OK", b""),
        ("GET / HTTP/1.1", b"200 OK", b"metrics are at /metrics"),
        ("GET /foo HTTP/1.1", b"404 Not Found", b"metrics are at /metrics"),
        ("GET /metrics/ HTTP/1.1", b"404 Not Found", b"metrics are at /metrics"),
        ("POST /metrics HTTP/1.1", b"405 Method Not Allowed", b"GET"),
    ],
)
def test_there_is_one_page(request_line: str, status: bytes, words: bytes) -> None:
    with serving() as address:
        request = f"{request_line}\r\nHost: x\r\nno colon\r\n\r\n".encode("latin-1")
        answer = received_by(connected(address, request))
        assert answer.partition(b"\r\n")[0].endswith(b" " + status)
        head, _, content = answer.partition(b"\r\n\r\n")
        assert words in content
        if content:
            assert f"Content-Length: {len(content)}".encode() in head
        else:
            assert request_line.startswith("HEAD")


@pytest.mark.parametrize("line", [b"nonsense", b"\0 \xff HTTP/2", b" ", b""])
def test_what_is_no_request_is_told_so(line: bytes) -> None:
    with serving() as address:
        answer = received_by(connected(address, line + b"\r\n\r\n"))
        assert not line.strip() or b"Bad " in answer
        assert Scrape.over_http(address)


def test_a_scrape_may_be_compressed() -> None:
    with serving() as address:
        question = b"GET /metrics HTTP/1.1\r\nAccept-Encoding: gzip\r\n\r\n"
        head, _, content = received_by(connected(address, question)).partition(
            b"\r\n\r\n"
        )
        assert b"Content-Encoding: gzip" in head
        assert b"# HELP snabb_" in gzip.decompress(content)
