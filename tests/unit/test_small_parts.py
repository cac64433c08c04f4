"""The small parts: histogram, timers, counters file, control socket, memory."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snabb_py._native import ffi, lib
from snabb_py.cli.run import rates
from snabb_py.engine import histogram, huge_pages, memory, shm, shm_reader
from snabb_py.engine.control import LONGEST_REQUEST
from snabb_py.engine.engine import Engine
from snabb_py.engine.memory import HUGE_PAGE, Memory, Pool
from snabb_py.engine.shm import Counters, InstanceDirectory
from snabb_py.engine.shm_reader import CountersReader, read_about
from snabb_py.engine.timer import Timers
from snabb_py.errors import ConfigError, DeviceError
from tests.harness import no_free_fds
from tests.hosts import until


@given(st.integers(0, 2**64 - 1))
def test_c_and_python_agree_on_buckets(value: int) -> None:
    index = lib.engine_histogram_bucket(value)
    assert index < lib.HISTOGRAM_BUCKETS
    assert histogram.bucket_low(index) <= value < histogram.bucket_low(index + 1)


def test_percentiles_are_never_too_good() -> None:
    counts = [0] * lib.HISTOGRAM_BUCKETS
    assert histogram.percentile(counts, 0.5) == 0
    values = list(range(1, 1001))
    for value in values:
        counts[lib.engine_histogram_bucket(value)] += 1
    for share in (0.01, 0.5, 0.99, 1.0):
        exact = values[max(0, int(share * 1000) - 1)]
        assert exact <= histogram.percentile(counts, share) <= exact * 1.25 + 1
    assert sum(n for _, _, n in histogram.buckets(counts)) == 1000


def test_timers_keep_order_and_beat() -> None:
    timers, calls = Timers(), []
    timers.at(5, lambda: calls.append("five"))
    timers.at(1, lambda: calls.append("beat"), repeat=2)
    gone = timers.at(2, lambda: calls.append("never"))
    gone.cancel()
    assert timers.next_due() == 1
    assert timers.run(0.5) == 0
    assert timers.run(1) == 1
    assert timers.run(10) == 2  # missed beats are not made up for
    assert calls == ["beat", "beat", "five"]
    assert timers.next_due() == 11


@pytest.mark.parametrize("repeat", [1e-9, 1e-300, 5e-324])
def test_a_timer_without_a_pause_is_called_once_a_run(repeat: float) -> None:
    timers, calls = Timers(), []
    timers.at(1e6, lambda: calls.append("beat"), repeat=repeat)
    for n in range(3):
        assert timers.run(1e6 + n) == 1
    assert len(calls) == 3


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40)), max_size=60))
def test_rows_never_overlap(changes: list[tuple[int, int]]) -> None:
    counters = Counters(None)
    rows: dict[int, shm.Row] = {}
    for key, count in changes:
        if key in rows:
            counters.remove(rows.pop(key))
        else:
            row = counters.make(f"r{key}", [f"c{i}" for i in range(count)])
            counters.publish(row)
            assert row.values() == [0] * count
            for i in range(count):
                row.pointer[i] = key * 1000 + i
            rows[key] = row
        for other, row in rows.items():
            assert row.values() == [other * 1000 + i for i in range(row.count)]
    counters.close()


def test_a_reader_sees_what_was_written(tmp_path: Path) -> None:
    counters = Counters(tmp_path / "counters", "program")
    row = counters.make("apps/a", ("one", "two"))
    counters.publish(row)
    hidden = counters.make("apps/b", ("three",))
    row.pointer[1] = 2**64 - 1
    reader = CountersReader(tmp_path / "counters")
    assert reader.read() == {"apps/a": {"one": 0, "two": 2**64 - 1}}
    assert reader.program == "program"
    counters.publish(hidden)
    counters.remove(row)
    assert reader.read() == {"apps/b": {"three": 0}}
    reader.close()
    counters.close()


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"SNABBPY2" + bytes(9000)])
def test_a_foreign_counters_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "counters"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="counters"):
        CountersReader(path)


def a_file_of_counters(path: Path) -> bytes:
    """Return what an instance's file is, up to its last row."""
    counters = Counters(path, "program")
    rows = [counters.make(f"apps/{i}", ("one", "two")) for i in range(3)]
    for row in rows:
        counters.publish(row)
    counters.close()
    data = path.read_bytes()
    path.unlink()
    return data[: rows[-1].offset + rows[-1].size]


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_counters_file_is_read_or_refused(data: st.DataObject) -> None:
    """Whatever is in it: an error that names it, at once."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "counters"
        content = bytearray(a_file_of_counters(path))
        places = st.integers(0, 2 * 256 + 64) | st.integers(0, len(content) - 1)
        words = st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 8])
        for at, word in data.draw(st.lists(st.tuples(places, words), max_size=4)):
            content[at : at + len(word)] = word
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        with patch.object(shm_reader, "PATIENCE", 0.01):
            try:
                reader = CountersReader(path)
            except ConfigError as error:
                assert str(path) in str(error)  # noqa: PT017
                return
            try:
                assert len(reader.read()) <= 4096
            except ConfigError as error:
                assert str(path) in str(error)  # noqa: PT017
            finally:
                reader.close()


def test_what_is_no_file_of_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "counters"
    whole = a_file_of_counters(path)
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="counters: is no regular file"):
        CountersReader(path)
    path.unlink()
    with pytest.raises(ConfigError, match="counters: No such file"):
        CountersReader(path)
    (tmp_path / "elsewhere").write_bytes(whole)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="counters: Too many levels of symbolic"):
        CountersReader(path)


@pytest.mark.need("root")
def test_what_another_user_planted_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "counters"
    path.write_bytes(a_file_of_counters(path))
    os.chown(path, 65534, 65534)
    with pytest.raises(ConfigError, match="counters: belongs to somebody else"):
        CountersReader(path)


def test_what_an_instance_says_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shm, "runtime_directory", lambda: tmp_path / "run")
    instance = InstanceDirectory()
    assert read_about(instance.path) == {}
    instance.tell({"interfaces": {"v4": "raw:a"}})
    assert read_about(instance.path) == {"interfaces": {"v4": "raw:a"}}
    for text in (b"[" * 60000, b"{", b"[]", b"\x80"):
        (instance.path / "about").write_bytes(text)
        with pytest.raises(ConfigError, match="about: is no JSON object"):
            read_about(instance.path)
    instance.close()


def test_more_memory_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, not mapped: whoever used it would be killed."""
    assert memory.available() > 0
    monkeypatch.setattr(memory, "available", lambda: 5 << 20)
    Memory(4 << 20, huge=False).close()
    for huge in (False, True):
        pages = huge_pages.total()
        wanted = (huge_pages.free() * HUGE_PAGE if huge else 0) + (7 << 20)
        with pytest.raises(DeviceError, match="5 MiB are available; fewer workers"):
            Memory(wanted, huge=huge)
        assert huge_pages.total() == pages


def test_much_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("snabb_py.engine.engine.MUCH_MEMORY", 8 << 20)
    for packets in (256, 1024):
        Engine(
            packets=packets, large_packets=0, workers=2, huge=False, log=said.append
        ).close()
    assert said == [
        "reserving 0.0 GiB for the packets of 2 workers; the kernel clears them first"
    ]


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.mkdir()
    path.chmod(0o777)
    with pytest.raises(ConfigError, match="others may write"):
        shm.make_private(path)


def test_one_instance_directory_to_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shm, "runtime_directory", lambda: tmp_path / "run")
    first = InstanceDirectory()
    assert shm.is_alive(first.path)
    with pytest.raises(ConfigError, match="another engine"):
        InstanceDirectory()
    first.close()
    assert not first.path.exists()


def test_the_control_socket_survives_bad_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shm, "runtime_directory", lambda: tmp_path / "run")
    with Engine(
        packets=256, large_packets=0, huge=False, program="t", log=print
    ) as engine:
        assert engine.directory
        path = str(engine.directory.path / "control")

        def ask(data: bytes) -> bytes:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(5)
                client.connect(path)
                try:
                    client.sendall(data)
                    return client.recv(65536)
                except (BrokenPipeError, ConnectionResetError):
                    return b""

        for bad in (
            b"x\n",
            b"[]\n",
            b"{}\n",
            b'{"verb": 7}\n',
            b'{"verb": []}\n',
            b'{"verb": {}}\n',
            b"\xff\n",
            b"[" * 9999 + b"\n",
        ):
            assert json.loads(ask(bad))["ok"] is False
        assert ask(b"x" * (LONGEST_REQUEST + 10)) == b""
        idle = [socket.socket(socket.AF_UNIX) for _ in range(40)]
        for client in idle:
            client.connect(path)
        for client in idle:
            client.close()
        assert json.loads(ask(b'{"verb": "uptime"}\n'))["ok"] is True
        # Two requests at once, and one in pieces.
        assert ask(b'{"verb": "drops"}\n{"verb": "drops"}\n').count(b"\n") >= 1


def test_the_control_socket_waits_for_file_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shm, "runtime_directory", lambda: tmp_path / "run")
    log: list[str] = []
    with (
        Engine(
            packets=256, large_packets=0, huge=False, program="t", log=log.append
        ) as engine,
        socket.socket(socket.AF_UNIX) as client,
    ):
        assert engine.directory
        client.settimeout(20)
        with no_free_fds():
            client.connect(str(engine.directory.path / "control"))
            client.sendall(b'{"verb": "uptime"}\n')
            until(lambda: len(log) == 1, "a word of it")
        assert json.loads(client.recv(65536))["ok"] is True
    assert "accept a connection: Too many open files; raise the limit" in log[0]


def test_without_threads_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")  # what Python says

    monkeypatch.setattr(shm, "runtime_directory", lambda: tmp_path)
    monkeypatch.setattr(threading, "Thread", Refused)
    with pytest.raises(DeviceError, match=r"worker-0: .*ulimit"):
        Engine(packets=256, large_packets=0, huge=False, program="t")
    assert not list(tmp_path.iterdir())


def test_slots_do_not_cross_huge_pages() -> None:
    pool = Pool(1000, 70, 1, huge=False)
    base = int(ffi.cast("uintptr_t", pool.memory.address))
    assert base % memory.HUGE_PAGE == 0
    freelist = memory.new_aligned("struct freelist *")
    lib.freelist_init(freelist, pool.pool)
    seen = set()
    for slot_class, n, length, stride in (
        (lib.PACKET_SMALL, 1000, 60, lib.PACKET_SMALL_STRIDE),
        (lib.PACKET_LARGE, 70, 20_000, lib.PACKET_LARGE_STRIDE),
    ):
        for _ in range(n):
            packet = lib.engine_packet_alloc(freelist, length)
            assert packet
            assert packet.slot_class == slot_class
            start = int(ffi.cast("uintptr_t", packet)) - base
            assert packet.iova == start + base
            pages = {
                start // memory.HUGE_PAGE,
                (start + stride - 1) // memory.HUGE_PAGE,
            }
            assert len(pages) == 1
            seen.add(start)
        assert not lib.engine_packet_alloc(freelist, length)
    assert len(seen) == 1070
    assert not lib.engine_packet_alloc(freelist, lib.PACKET_LARGE_SIZE + 1)
    pool.close()


@pytest.mark.need("hugepages")
def test_huge_pages_are_used_and_given_back() -> None:
    before = int(huge_pages.FREE.read_text())
    mapped = Memory(4 << 20)
    assert mapped.is_huge
    assert mapped.problem == ""
    assert int(huge_pages.FREE.read_text()) == before - 2
    mapped.close()
    assert int(huge_pages.FREE.read_text()) == before


def test_without_huge_pages_it_says_so_and_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = tmp_path / "free"
    none.write_text("0")
    monkeypatch.setattr(huge_pages, "FREE", none)
    monkeypatch.setattr(huge_pages, "TOTAL", tmp_path / "no" / "such")
    mapped = Memory(4 << 20)
    assert not mapped.is_huge
    assert "sysctl vm.nr_hugepages=2" in mapped.problem
    ffi.memmove(mapped.address + (4 << 20) - 4, b"last", 4)
    mapped.close()
    with pytest.raises(DeviceError, match=r"reserve 2 huge pages: .*; first: sysctl"):
        Memory(4 << 20, need_huge=True)


def test_help_imports_little() -> None:
    """What makes start-up slow stays out of `--help`."""
    code = (
        "import sys; from snabb_py import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted(m for m in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ},
    )
    for module in ("scapy", "pyroute2", "rich", "snabb_py._native", "_cffi_backend"):
        assert f"'{module}'" not in done.stderr
    assert "forward" in done.stdout


@pytest.fixture
def total(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The number of huge pages of a system that has 100, and a runtime directory."""
    number = tmp_path / "nr_hugepages"
    number.write_text("100")
    monkeypatch.setattr(huge_pages, "TOTAL", number)
    monkeypatch.setattr(shm, "runtime_directory", lambda: tmp_path / "run")
    return number


class Killed(Exception):  # noqa: N818 - no error: SIGKILL
    pass


@pytest.mark.parametrize("last", range(7))
def test_huge_pages_of_a_killed_instance_are_given_back(
    tmp_path: Path, total: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    # Before each thing that it writes, and while the kernel adds; or at the end.
    write, steps = Path.write_text, iter(range(last))

    def write_or_die(path: Path, text: str) -> int:
        if next(steps, None) is None:
            if path == total and text == "107":
                write(path, "103")
            raise Killed
        return write(path, text)

    killed = InstanceDirectory(pid=4194304)  # the largest pid is one less
    note = killed.huge_pages
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(Path, "write_text", write_or_die)
        note.add(7)
        note.give_back()
    shm.remove_dead(tmp_path / "run")
    assert killed.path.exists()
    os.close(killed._lock)  # what the kernel does for a killed process
    shm.remove_dead(tmp_path / "run")
    assert not killed.path.exists()
    assert total.read_text() == "100"


def test_what_somebody_else_changes_meanwhile_stays(
    tmp_path: Path, total: Path
) -> None:
    note = huge_pages.Note(tmp_path / "note")
    note.add(7)
    total.write_text("207")
    note.give_back()
    assert total.read_text() == "200"


def test_two_starts_give_the_pages_of_a_third_back_once(
    tmp_path: Path, total: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = InstanceDirectory(pid=4194304)
    killed.huge_pages.add(7)
    os.close(killed._lock)
    locked = shm.huge_pages_locked

    def be_second() -> Any:  # another has seen it too, and was quicker
        monkeypatch.setattr(shm, "huge_pages_locked", locked)
        shm.remove_dead(tmp_path / "run")
        assert total.read_text() == "100"
        return locked()

    monkeypatch.setattr(shm, "huge_pages_locked", be_second)
    shm.remove_dead(tmp_path / "run")
    assert total.read_text() == "100"


START_AND_END = """
import sys
from snabb_py.engine.engine import Engine
print(flush=True)
sys.stdin.readline()
with Engine(packets=4096, large_packets=0, program="test") as engine:
    print(engine.pool.memory.problem or "huge", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.need("root", "hugepages")
def test_many_that_start_at_once_all_have_huge_pages() -> None:
    engines = [
        subprocess.Popen(
            [sys.executable, "-c", START_AND_END],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    for expected in ("", "huge"):
        lines = []
        for engine in engines:
            assert engine.stdout
            lines.append(engine.stdout.readline().strip())
        assert lines == [expected] * len(engines)
        for engine in engines:
            assert engine.stdin
            engine.stdin.write("\n")
            engine.stdin.flush()
    for engine in engines:
        assert engine.wait(20) == 0


@pytest.mark.parametrize("length", [60, 20_000])
def test_who_only_frees_leaves_packets_to_who_only_takes(length: int) -> None:
    """One-way traffic over workers: fewer packets than a freelist has room for."""
    pool = Pool(600, 60, 2, huge=False)
    taking, freeing = (memory.new_aligned("struct freelist *") for _ in range(2))
    for freelist in (taking, freeing):
        lib.freelist_init(freelist, pool.pool)
    for _ in range(5000):
        packet = lib.engine_packet_alloc(taking, length)
        assert packet
        lib.engine_packet_free(freeing, packet)
    for freelist in (taking, freeing):
        lib.freelist_flush(freelist)
    assert pool.free == 660
    pool.close()


# ---- physical addresses


@pytest.mark.need("root", "hugepages")
def test_packets_bear_the_physical_addresses_of_their_pages() -> None:
    with Engine(packets=1000, large_packets=100, physical=True) as engine:
        pages = engine.pool.memory.physical()
        assert len(set(pages)) == len(pages)
        assert all(page and page % HUGE_PAGE == 0 for page in pages)
        start = int(ffi.cast("uintptr_t", engine.pool.memory.address))
        freelist: Any = memory.new_aligned("struct freelist *")
        lib.freelist_init(freelist, engine.pool.pool)
        for size in (60, 20000):
            packet = lib.engine_packet_alloc(freelist, size)
            page, offset = divmod(int(ffi.cast("uintptr_t", packet)) - start, HUGE_PAGE)
            assert packet.iova == pages[page] + offset
            lib.engine_packet_free(freelist, packet)
        lib.freelist_flush(freelist)


def test_ordinary_pages_have_no_physical_address() -> None:
    with pytest.raises(DeviceError, match=r"needs huge pages: sysctl vm.nr_hugepages="):
        Engine(packets=1000, large_packets=0, huge=False, physical=True)


def test_a_kernel_that_does_not_tell_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ordinary = Memory(HUGE_PAGE, huge=False)
    ordinary.is_huge = True
    try:
        with pytest.raises(DeviceError, match="CAP_SYS_ADMIN"):
            # Never touched: there is no page yet.
            ordinary.physical()
        monkeypatch.setattr(memory, "PAGEMAP", tmp_path / "none")
        with pytest.raises(DeviceError, match=r"read .*none"):
            ordinary.physical()
    finally:
        ordinary.close()


@pytest.mark.parametrize(
    ("mpps", "gbps", "shown"),
    [
        (0, 0, ("0 pps", "0 bps")),
        (0.000012, 0.000008, ("12 pps", "8.000 kbps")),
        (0.00001, 0.00000672, ("10 pps", "6.720 kbps")),
        (0.000001, 0.000000568, ("1 pps", "568 bps")),
        (0.0000005, 0.0000003364, ("0.5 pps", "336.4 bps")),
        (0.9999997, 0.000999999, ("1.000 Mpps", "999.999 kbps")),
        (0.001, 0.5, ("1.000 kpps", "500.000 Mbps")),
        (14.880952, 10, ("14.881 Mpps", "10.000 Gbps")),
    ],
)
def test_rates_are_shown_whatever_they_are(
    mpps: float, gbps: float, shown: tuple[str, str]
) -> None:
    assert rates({"mpps": mpps, "gbps": gbps}) == shown
