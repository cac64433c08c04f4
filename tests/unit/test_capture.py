"""Captures: what passes a link is copied whole and in order, or counted as lost."""

import fcntl
import os
import struct
from pathlib import Path
from typing import Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snabb_py._native import ffi, lib
from snabb_py.apps.basic import Forward, Sink, Source
from snabb_py.apps.pcap import pcapng_blocks
from snabb_py.engine.bpf import Program, compile_expression
from snabb_py.engine.capture import Capture, CaptureReader
from snabb_py.engine.config import Config, LinkSpec
from snabb_py.engine.engine import MOST_CAPTURES
from snabb_py.errors import ConfigError
from tests.captures import frames_in
from tests.harness import Harness, small_engine
from tests.hosts import until

LINK = LinkSpec.parse("source.tx -> sink.rx")


def take(reader: CaptureReader) -> bytes:
    data = b"".join(bytes(piece) for piece in reader.pieces())
    reader.release()
    return data


def frames(blocks: bytes) -> list[bytes]:
    return frames_in(pcapng_blocks("x", lib.PCAP_MAX_SNAPLEN) + blocks)


class Bench:
    """A capture in front of a sink, without an engine."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.reader = CaptureReader(capture.fd)
        self.taker = Harness(Forward())
        self.taker.__enter__()
        self.link = self.taker.inputs[0]
        self._inputs = ffi.new("struct link *[]", [self.link])
        app = capture.app
        app.ops, app.state = ffi.addressof(lib.capture_ops), capture.state
        app.input, app.worker = self._inputs, self.taker.worker

    def pass_on(self, *sent: bytes) -> None:
        self.taker.send(sent)
        assert lib.capture_ops.push(self.capture.app) == 0
        self.taker.breathe()
        self.taker.received()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.taker.__exit__(*([None] * 3))
        self.capture.close()


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.binary(min_size=1, max_size=2000), max_size=20), max_size=20)
)
def test_all_is_copied_in_order(bursts: list[list[bytes]]) -> None:
    with Bench(Capture()) as bench:
        taken = []
        for burst in bursts:
            bench.pass_on(*burst)
            taken += frames(take(bench.reader))
        assert taken == [frame for burst in bursts for frame in burst]
        assert (bench.reader.packets, bench.reader.lost) == (len(taken), 0)


def numbered(first: int, sizes: list[int]) -> list[bytes]:
    """Return 200 frames that begin with their numbers, of these sizes in turns."""
    return [
        struct.pack("<Q", n) + bytes(sizes[n % len(sizes)])
        for n in range(first, first + 200)
    ]


@settings(max_examples=10)
@given(st.lists(st.integers(60, 10000), min_size=1, max_size=5), st.integers(0, 4))
def test_nobody_waits_for_a_reader_and_each_loss_counts(
    sizes: list[int], takes: int
) -> None:
    """Round the ring's end, again and again; what is there is whole, in order."""
    with Bench(Capture()) as bench:
        sent = got = lost = 0
        for turn in range(5):
            before = bench.reader.packets
            while bench.reader.lost == lost:
                burst = numbered(sent, sizes)
                bench.pass_on(*burst)
                sent += len(burst)
            lost = bench.reader.lost
            if turn < takes:
                taken = frames(take(bench.reader))
                numbers = [struct.unpack_from("<Q", f)[0] for f in taken]
                assert numbers == sorted(numbers)
                got += len(numbers)
                assert got == bench.reader.packets
            assert bench.reader.packets + bench.reader.lost == sent
            assert bench.reader.packets >= before
            if turn >= takes:
                break


@settings(max_examples=20)
@given(st.integers(60, 3000), st.integers(0, 10**6))
def test_what_is_whole_is_told_wherever_it_is_cut(size: int, cut: int) -> None:
    """Round the ring's end, too."""
    with Bench(Capture()) as bench:
        while not bench.reader.lost:
            bench.pass_on(*numbered(0, [9000]))
        take(bench.reader)
        bench.pass_on(*numbered(0, [size]))
        pieces = list(bench.reader.pieces())
        assert len(pieces) == 2
        cut = min(cut, sum(map(len, pieces)))
        pieces.clear()
        block = 32 + (8 + size + 3) // 4 * 4
        assert bench.reader.whole(cut) == (cut // block, cut // block * block)


def test_filter_and_limits() -> None:
    arp = bytes(12) + b"\x08\x06" + bytes(46)
    ip = bytes(12) + b"\x08\x00\x45" + bytes(45)
    for jit in (True, False):
        program = Program.unpack(compile_expression("arp").pack())
        if not jit:
            program.code = ffi.NULL
        with Bench(Capture(program, packets=3)) as bench:
            bench.pass_on(ip, arp, ip, arp)
            assert frames(take(bench.reader)) == [arp, arp]
            assert bench.reader.ended == lib.CAPTURE_RUNS
            bench.pass_on(arp, arp, ip, arp)
            assert frames(take(bench.reader)) == [arp]
            assert bench.reader.ended == lib.CAPTURE_COUNT
            bench.pass_on(arp)
            assert take(bench.reader) == b""
    with Bench(Capture(nbytes=2 * 92 + 91)) as bench:
        bench.pass_on(arp, arp, arp, arp)
        assert len(take(bench.reader)) == 2 * 92
        assert bench.reader.ended == lib.CAPTURE_SIZE
        assert bench.reader.lost == 0


@pytest.mark.parametrize("data", [b"", b"x", bytes(8), bytes(8 * 5000), b"\xff" * 64])
def test_a_program_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError, match="filter program"):
        Program.unpack(data)


@pytest.mark.parametrize("cursor", [1, 2**63, 2**64 - 2**24 - 1])
def test_a_reader_with_a_senseless_cursor_gets_nothing(cursor: int) -> None:
    with Bench(Capture()) as bench:
        lib.capture_ring_release(bench.reader._ring, cursor)
        bench.pass_on(bytes(60))
        assert (bench.reader.packets, bench.reader.lost) == (0, 1)
        ffi.memmove(bench.reader._ring, b"\xff" * 128, 128)
        bench.pass_on(bytes(60))
        assert bench.reader.packets in {0, 1}


def test_the_memory_cannot_be_cut_off() -> None:
    capture = Capture()
    with pytest.raises(PermissionError):
        os.ftruncate(capture.fd, 0)
    capture.close()


def test_memory_that_can_be_cut_off_is_not_read() -> None:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    for seals, what in (
        (0, "could take its memory away"),
        (fcntl.F_SEAL_SHRINK, "could take its memory away"),
        (
            fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL,
            "another version",
        ),
    ):
        fd = os.memfd_create("x", flags)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        with pytest.raises(ConfigError, match=what):
            CaptureReader(fd)
        os.close(fd)
    with Path("/proc/self/exe").open("rb") as file, pytest.raises(ConfigError):
        CaptureReader(file.fileno())


# -- in an engine --------------------------------------------------------------


def network() -> Config:
    config = Config()
    config.app("source", Source, sequence=True)
    config.app("sink", Sink, sequence=True)
    config.link(str(LINK))
    return config


def test_captures_come_and_go_and_nothing_else_changes() -> None:
    with small_engine() as engine:
        engine.commit(network())
        for _ in range(50):
            capture = Capture(packets=1000)
            reader = CaptureReader(capture.fd)
            engine.add_capture(LINK, capture)
            until(lambda: reader.ended == lib.CAPTURE_COUNT)  # noqa: B023
            engine.remove_capture(capture)
            assert len(frames(take(reader))) == 1000
        engine.main(duration=0.05)
        assert engine.drain()
        assert engine.census().is_complete
        assert not any(engine.apps["sink"].counters.values())
        assert engine.drops() == {}


def test_a_capture_ends_with_its_link() -> None:
    with small_engine() as engine:
        engine.commit(network())
        captures = [Capture() for _ in range(3)]
        readers = [CaptureReader(capture.fd) for capture in captures]
        for capture in captures:
            engine.add_capture(LINK, capture)
        config = network()
        config.app("beside", Source)
        config.app("other", Sink)
        config.link("beside.tx -> other.rx")
        engine.commit(config)
        assert [reader.ended for reader in readers] == [lib.CAPTURE_RUNS] * 3
        config = Config()
        config.app("source", Source, sequence=True)
        config.app("other", Sink)
        config.link("source.tx -> other.rx")
        engine.commit(config)
        assert [reader.ended for reader in readers] == [lib.CAPTURE_GONE] * 3
        for capture in captures:
            engine.remove_capture(capture)
        with pytest.raises(ConfigError, match="there is no link"):
            engine.add_capture(LINK, Capture())


def test_there_is_a_limit() -> None:
    with small_engine() as engine:
        engine.commit(network())
        captures = [Capture() for _ in range(MOST_CAPTURES)]
        for capture in captures:
            engine.add_capture(LINK, capture)
        with pytest.raises(ConfigError, match="end one of them"):
            engine.add_capture(LINK, Capture())
        engine.remove_capture(captures.pop())
        engine.add_capture(LINK, Capture())


def test_between_workers() -> None:
    config = Config()
    config.app("source", Source, sequence=True)
    config.app("sink", Sink, sequence=True, worker=1)
    config.link(str(LINK))
    with small_engine(workers=2) as engine:
        engine.commit(config)
        for spec in sorted(engine.links):
            capture = Capture(packets=500)
            reader = CaptureReader(capture.fd)
            engine.add_capture(spec, capture)
            until(lambda: reader.ended == lib.CAPTURE_COUNT)  # noqa: B023
            engine.remove_capture(capture)
