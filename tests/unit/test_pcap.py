"""PcapReader and PcapWriter, one at a time."""

import contextlib
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snabb_py._native import ffi, lib
from snabb_py.apps.basic import Forward
from snabb_py.apps.pcap import PcapReader, PcapWriter
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.engine.resources import Registry
from snabb_py.errors import ConfigError, DeviceError, SnabbError
from tests import captures
from tests.captures import (
    block,
    classic,
    enhanced,
    header,
    interface,
    ng,
    obsolete,
    option,
    record,
    section,
    simple,
)
from tests.harness import Harness
from tests.requirements import SEARCH_PATH

A, B, C, D = b"a" * 60, b"b" * 61, b"c" * 1514, b"d"
Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Save a capture and return its path."""

    def write(content: bytes, name: str = "in.pcap") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def read(path: Path) -> tuple[list[bytes], dict[str, int]]:
    """Return all frames of a file and what was counted."""
    with Harness(PcapReader(path), small=128, large=16) as harness:
        return harness.drain(), harness.counters


# -- reading: classic ------------------------------------------------------------


@pytest.mark.parametrize(("order", "magic"), captures.CLASSIC)
def test_classic(save: Save, order: str, magic: int) -> None:
    assert read(save(classic([A, B, C], order, magic))) == ([A, B, C], {})


def test_no_packets_is_no_mistake(save: Save) -> None:
    assert read(save(header())) == ([], {})
    assert read(save(section())) == ([], {})


def test_a_record_of_any_size_that_fits_a_packet(save: Save) -> None:
    largest = os.urandom(lib.PACKET_LARGE_SIZE)
    over = bytes(lib.PACKET_LARGE_SIZE + 1)
    content = header() + b"".join(
        map(record, [A, largest, over, B, bytes(262144), largest, C])
    )
    frames, counters = read(save(content))
    assert frames == [A, largest, B, largest, C]
    assert counters == {"drop-too-long": 2}


def test_counted_but_sent(save: Save) -> None:
    content = header(snaplen=60) + record(A, original=1514) + record(B) + record(C)
    assert read(save(content)) == ([A, B, C], {"short-capture": 1, "over-snaplen": 2})


def test_an_empty_record(save: Save) -> None:
    content = header() + record(b"", original=60) + record(A)
    assert read(save(content)) == ([A], {"drop-empty": 1})


def test_fcs_is_taken_off(save: Save) -> None:
    # The length in units of 16 bits, and the bit that says so. The last two frames
    # were captured without all of their FCS.
    content = header(link_type=captures.ETHERNET | 2 << 28 | 1 << 26)
    content += record(A + b"FCS.") + record(A + b"F", original=64)
    content += record(A[:50], original=64)
    assert read(save(content)) == ([A, A, A[:50]], {"short-capture": 1})


def test_a_long_record(save: Save) -> None:
    long = record(bytes(300000))
    content = header(snaplen=400000) + record(A) + long + record(B)
    assert read(save(content)) == ([A, B], {"drop-too-long": 1})
    content = header(snaplen=400000) + record(A) + long[:-1]
    assert read(save(content)) == ([A], {"drop-truncated-file": 1})


@pytest.mark.parametrize("length", [262145, 2**31, 2**32 - 1])
def test_an_absurd_length_ends_reading(save: Save, length: int) -> None:
    bad = struct.pack("<IIII", 0, 0, length, length)
    path = save(header() + record(A) + bad + bytes(300000))
    with Harness(PcapReader(path)) as harness:
        assert harness.drain() == [A]
        assert harness.counters == {"drop-damaged-file": 1}
        assert harness.app.supervise() == (
            f"{path}: no record at byte 100; the rest is not read"
        )
        assert harness.app.supervise() is None


@pytest.mark.parametrize(
    "content",
    [classic([A, B, D]), ng([A, B, D]), ng([A, B, D], ">")],
    ids=["classic", "ng-le", "ng-be"],
)
def test_cut_off_anywhere(save: Save, content: bytes) -> None:
    nwhole = 0
    for size in range(1, len(content)):
        try:
            frames, counters = read(save(content[:size]))
        except ConfigError as error:
            assert "ends inside of its header" in str(error)  # noqa: PT017
            assert size < len(section())
            continue
        assert frames == [A, B, D][: len(frames)]
        nwhole += not counters
        assert counters in ({}, {"drop-truncated-file": 1})
    # Only between two records is nothing missing; pcapng has two blocks more.
    assert nwhole == (3 if content[:4] == classic([])[:4] else 4)


def test_a_file_that_shrinks_while_it_is_read(save: Save) -> None:
    path = save(classic([C] * 1000))
    with Harness(PcapReader(path), small=2048) as harness:
        harness.breathe()
        assert harness.received() == [C] * lib.WORKER_BURST
        os.truncate(path, 100)
        rest = harness.drain()
        assert set(rest) == {C}
        # What was in the buffer, and then the end.
        assert len(rest) < lib.PCAP_BUFFER_SIZE / len(C)
        assert harness.counters == {"drop-truncated-file": 1}
        assert "cut off" in str(harness.app.supervise())


def test_a_long_file_is_read_piece_by_piece(save: Save) -> None:
    frames = [struct.pack(">I", i) + bytes(i * 7 % 1500) for i in range(3000)]
    content = classic(frames)
    assert len(content) > 8 * lib.PCAP_BUFFER_SIZE
    assert read(save(content)) == (frames, {})
    assert read(save(ng(frames))) == (frames, {})


def test_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"open .*missing: No such file"):
        read(tmp_path / "missing")
    with pytest.raises(ConfigError, match="not a regular file"):
        read(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="not a regular file"):
        read(tmp_path / "fifo")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\xd4", "ends inside of its header"),
        (header()[:23], "ends inside of its header"),
        (section()[:27], "ends inside of its header"),
        (section()[:-1] + b"", "ends inside of its header"),
        (b"#!/bin/sh\n", r"neither a pcap nor a pcapng .*starts with 23212f62"),
        (b"\x1f\x8b\x08\x00" + bytes(20), "gzip: unpack it first"),
        (bytes.fromhex("34cdb2a1") + bytes(20), "convert it with editcap"),
        (header(version=(2, 3)), "version 2.3 of the format"),
        (header(version=(543, 1)), "version 543.1"),
        (section(major=2), "version 2.0"),
        (header(link_type=113), r"link type 113 \(Linux cooked.*, not Ethernet"),
        (header(link_type=300), r"link type 300 .*, not Ethernet"),
        (section() + interface(link_type=101), r"link type 101 \(raw IP\)"),
        (
            section() + interface(link_type=105) + enhanced(A) + interface(),
            r"link type 105 \(IEEE 802.11\)",
        ),
        (block(0x0A0D0D0A, bytes(16)), "contradicts itself"),
        (section()[:-4] + bytes(4), "contradicts itself"),
    ],
)
def test_what_is_no_capture(save: Save, content: bytes, message: str) -> None:
    path = save(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_nothing_is_lost_when_room_or_packets_run_out(save: Save) -> None:
    frames = [struct.pack(">I", i) + A for i in range(3000)]
    with Harness(PcapReader(save(classic(frames))), small=512, burst=1024) as harness:
        received = list[bytes]()
        for _ in range(20):
            for _ in range(3):  # a full link, or no free packet
                harness.breathe()
            received += harness.received()
        assert received == frames
        assert harness.counters == {}
        assert harness.inputs == []


def test_done(save: Save) -> None:
    reader = PcapReader(save(classic([A])))
    with Harness(reader) as harness:
        assert not reader.is_done
        assert harness.arm() == lib.ARM_NEVER
        assert harness.drain() == [A]
        assert reader.is_done
        assert harness.arm() == lib.ARM_READY
        assert harness.app.supervise() is None


# -- reading: loop and timing ----------------------------------------------------


@pytest.mark.parametrize("nframes", [3, 300])  # within the buffer, and beyond
def test_loop(save: Save, nframes: int) -> None:
    frames = [struct.pack(">I", i) + C for i in range(nframes)]
    with Harness(PcapReader(save(classic(frames)), rounds=0)) as harness:
        received = list[bytes]()
        while len(received) < 2 * nframes + 1:
            assert harness.breathe() == lib.WORKER_BURST
            received += harness.received()
    expected = frames * (len(received) // nframes + 1)
    assert received == expected[: len(received)]


def test_a_loop_over_nothing_ends(save: Save) -> None:
    reader = PcapReader(save(header() + record(b"", original=1)), rounds=0)
    with Harness(reader) as harness:
        assert harness.drain() == []
        assert reader.is_done


def test_a_loop_over_a_file_that_is_replaced(save: Save) -> None:
    path = save(classic([C] * 300))
    with Harness(PcapReader(path, rounds=0), burst=256) as harness:
        harness.breathe()
        path.write_bytes(b"no capture any more" * 100000)
        harness.received()
        assert set(harness.drain()) == {C}
        assert harness.counters["drop-damaged-file"] >= 1


@pytest.mark.parametrize("nframes", [1, 3, 3000])
def test_several_files_and_rounds(save: Save, nframes: int) -> None:
    files, expected = [], list[bytes]()
    for n in range(3):
        frames = [struct.pack(">IH", i, n) + C[6:] for i in range(nframes)]
        make = ng if n == 1 else classic
        files.append(save(make(frames), name=f"{n}.pcap"))
        expected += frames
    for rounds in (1, 2, 3):
        reader = PcapReader(files, rounds=rounds)
        with Harness(reader) as harness:
            received = list[bytes]()
            while not reader.is_done:
                harness.breathe()
                received += harness.received()
        assert received == expected * rounds


def test_the_file_after_a_damaged_one_is_read(save: Save) -> None:
    good, cut = save(classic([B]), name="good"), save(classic([A, A])[:-1], name="cut")
    reader = PcapReader([cut, good], rounds=2)
    with Harness(reader) as harness:
        assert harness.drain() == [A, B, A, B]
        assert harness.counters["drop-truncated-file"] == 2
        assert str(reader.supervise()).startswith(
            f"{cut}: cut off inside of the record"
        )
        assert reader.supervise() is None


def test_no_file_is_opened_where_one_cannot_be(save: Save) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for wrong in (save(b"", name="empty"), Path("/dev/zero"), Path("/nowhere")):
        with pytest.raises((ConfigError, DeviceError), match=str(wrong)):
            Harness(PcapReader([save(classic([A])), wrong])).close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


MS = 1000000


@pytest.mark.parametrize(
    "content",
    [
        header() + b"".join(record(A, time=(7, t * 1000)) for t in (1, 3, 2, 6)),
        header(">", captures.NANOSECOND)
        + b"".join(record(A, ">", (7, t * MS)) for t in (1, 3, 2, 6)),
        # pcapng: microseconds unless if_tsresol says otherwise; units of 2^-10 s
        # are a little less than milliseconds; an offset changes no distance.
        ng([])
        + b"".join(enhanced(A, ticks=2**40 + t * 1000) for t in (1, 3))
        + simple(A)
        + enhanced(A, ticks=2**40 + 6000),
        *(
            section()
            + interface(options=option(14, struct.pack("<q", offset)) + tsresol)
            + b"".join(enhanced(A, ticks=(7000 + t) * unit) for t in (1, 3, 2, 6))
            for offset in (0, 1700000000, -5)
            for tsresol, unit in (
                (option(9, b"\x03"), 1),
                (option(9, b"\x0c"), 10**9),
                (option(9, b"\x9e"), 2**30 // 1000),
            )
        ),
    ],
)
def test_timing(save: Save, content: bytes) -> None:
    with Harness(PcapReader(save(content), timing=True)) as harness:
        arrivals = []
        for ms in range(8):
            harness.breathe(MS)
            arrivals += [ms] * len(harness.received())
        # The third says 2, after one that said 3, or has no time: at once.
        assert arrivals == [0, 2, 2, 5]


def test_timing_begins_again_with_each_round(save: Save) -> None:
    content = header() + record(A, time=(5, 0)) + record(B, time=(5, 2000))
    with Harness(PcapReader(save(content), timing=True, rounds=0)) as harness:
        frames = []
        for _ in range(6):
            harness.breathe(MS)
            frames.append(harness.received())
        # The first of a round goes with the last of the one before.
        assert frames == [[A], [], [B, A], [], [B, A], []]


def test_a_time_before_the_first(save: Save) -> None:
    content = header() + record(A, time=(5, 0)) + record(B, time=(4, 0))
    with Harness(PcapReader(save(content), timing=True)) as harness:
        assert harness.drain() == [A, B]


def test_times_out_of_all_bounds(save: Save) -> None:
    options = option(9, b"\x00") + option(14, struct.pack("<q", 2**63 - 1))
    content = section() + interface(options=options)
    content += interface(options=option(9, b"\xff") + option(14, struct.pack("<q", -9)))
    content += interface(options=option(9, b"\x7f"))
    content += b"".join(
        enhanced(A, number=number, ticks=ticks)
        for number in range(3)
        for ticks in (2**64 - 1, 0)
    )
    # The nearest time that there is: all at the end of time, or at its beginning.
    with Harness(PcapReader(save(content), timing=True)) as harness:
        assert harness.drain() == [A] * 6


# -- reading: pcapng -------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
def test_ng(save: Save, order: str) -> None:
    assert read(save(ng([A, B, C, A], order))) == ([A, B, C, A], {})


def test_ng_blocks_that_are_no_packets(save: Save) -> None:
    content = (
        section(options=option(4, b"a comment") + option(0, b""))
        + block(0xBAD, bytes(400000))  # longer than the buffer
        + interface(options=option(2, b"eth0") + option(3, bytes(60000)))
        + block(5, bytes(12))  # interface statistics
        + enhanced(A, options=option(2, bytes(4)) + option(1, bytes(65000)) * 3)
        + block(4, b"")  # name resolution
        + enhanced(B)
        + block(0x80000BAD, bytes(8))
    )
    assert read(save(content)) == ([A, B], {})


def test_ng_sections_of_both_byte_orders(save: Save) -> None:
    assert read(save(ng([A, B]) + ng([C, A], ">") + ng([B]))) == ([A, B, C, A, B], {})
    # A section knows only its own interfaces.
    content = ng([A]) + section(">") + enhanced(B, ">")
    assert read(save(content)) == ([A], {"drop-no-interface": 1})


def test_ng_interfaces(save: Save) -> None:
    content = section() + interface(link_type=113) + interface(snaplen=60)
    content += simple(A) + enhanced(A) + enhanced(B, number=1) + obsolete(C, number=1)
    content += obsolete(B, number=2) + enhanced(B, number=2**32 - 1)
    frames, counters = read(save(content))
    assert frames == [B, C]
    assert counters == {
        "drop-link-type": 2,
        "drop-no-interface": 2,
        "over-snaplen": 2,
    }


def test_ng_more_interfaces_than_we_count(save: Save) -> None:
    content = section() + interface() * 300
    content += b"".join(enhanced(A, number=n) for n in (0, 255, 256, 299))
    assert read(save(content)) == ([A, A], {"drop-no-interface": 2})


def test_ng_simple_packets_are_as_long_as_the_snap_length(save: Save) -> None:
    content = section() + interface(snaplen=40) + simple(A[:40], original=60)
    content += simple(B[:20])
    assert read(save(content)) == ([A[:40], B[:20]], {"short-capture": 1})


@pytest.mark.parametrize("value", [4, 32])  # in bytes, or in bits as the draft has it
def test_ng_fcs_is_taken_off(save: Save, value: int) -> None:
    content = section() + interface(options=option(13, bytes([value])))
    assert read(save(content + enhanced(A + b"FCS."))) == ([A], {})


def test_ng_an_option_without_its_value(save: Save) -> None:
    # What follows is the block's length, 32, which would do for an FCS of 32 bits.
    options = option(2, b"eth0") + struct.pack("<HH", 13, 1)
    assert len(interface(options=options)) == 32
    content = section() + interface(options=options) + enhanced(A)
    assert read(save(content)) == ([A], {})


def test_ng_one_pull_looks_at_so_much_at_most(save: Save) -> None:
    content = ng([]) + block(0xBAD, b"") * 5000 + enhanced(A)
    with Harness(PcapReader(save(content))) as harness:
        assert harness.breathe()  # not idle: there is more to pass over
        assert harness.received() == []
        assert harness.drain() == [A]


def test_ng_lengths_that_contradict_each_other(save: Save) -> None:
    def lying(kind: int, offset: int, length: int) -> bytes:
        good = obsolete(A) if kind == 2 else simple(A) if kind == 3 else enhanced(A)
        return good[:offset] + struct.pack("<I", length) + good[offset + 4 :]

    bad = [lying(6, 20, 61), lying(6, 20, 2**32 - 1), lying(2, 20, 64)]
    bad += [lying(3, 8, 61), block(6, bytes(16)), block(3, b""), block(2, bytes(4))]
    content = ng([]) + b"".join(lie + enhanced(B) for lie in bad)
    # Padding is no packet: 61 bytes do not fit where 60 were written.
    assert read(save(content)) == ([B] * 7, {"drop-bad-record": 7})


def test_ng_large_packets(save: Save) -> None:
    largest = os.urandom(lib.PACKET_LARGE_SIZE)
    sizes = [lib.PACKET_LARGE_SIZE + 1, lib.PCAP_PIECE_SIZE, 300000]
    content = ng([]) + enhanced(largest) + b"".join(enhanced(bytes(n)) for n in sizes)
    content += enhanced(largest, options=option(1, bytes(64000)) * 2) + enhanced(B)
    frames, counters = read(save(content))
    assert frames == [largest, largest, B]
    assert counters == {"drop-too-long": 3}


@pytest.mark.parametrize(
    "bad",
    [
        struct.pack("<II", 6, 11) + bytes(100),
        struct.pack("<II", 6, 0) + bytes(100),
        struct.pack("<II", 0xBAD, 18) + bytes(100),
        struct.pack("<II6sI", 0xBAD, 18, b"", 18),
        enhanced(C)[:-4] + bytes(4),
        block(7, bytes(300000))[:-4] + bytes(4),
        block(0x0A0D0D0A, bytes(16)),
        section(major=2),
        block(1, bytes(4)),
    ],
)
def test_ng_blocks_that_end_reading(save: Save, bad: bytes) -> None:
    assert read(save(ng([A]) + bad + enhanced(B))) == ([A], {"drop-damaged-file": 1})


def test_ng_a_long_block_that_is_cut_off(save: Save) -> None:
    content = ng([A]) + block(7, bytes(300000))
    assert read(save(content[:-1])) == ([A], {"drop-truncated-file": 1})


def test_ng_from_an_independent_writer(tmp_path: Path) -> None:
    from scapy.layers.l2 import Ether
    from scapy.utils import PcapNgWriter

    path = tmp_path / "scapy.pcapng"
    with PcapNgWriter(str(path)) as writer:
        for frame in (A, B, C):
            writer.write(Ether(frame))
    assert read(path) == ([A, B, C], {})


# -- writing ---------------------------------------------------------------------


def scapy_read(path: Path) -> list[bytes]:
    from scapy.utils import RawPcapReader

    with RawPcapReader(str(path)) as reader:
        return [data for data, _ in reader]


@pytest.mark.parametrize("nanosecond", [True, False])
def test_what_is_written(tmp_path: Path, nanosecond: bool) -> None:
    from scapy.utils import RawPcapReader

    path = tmp_path / "out.pcap"
    with Harness(PcapWriter(path, nanosecond=nanosecond)) as harness:
        harness.worker.now = lib.engine_now()
        before = time.time_ns()
        harness.send([A, B, C])
        assert harness.breathe(0) == 3
        harness.tick()
        after = time.time_ns()
        # Complete while the app still runs.
        content = path.read_bytes()
    assert path.read_bytes() == content
    assert scapy_read(path) == [A, B, C]
    with RawPcapReader(str(path)) as reader:
        assert (reader.linktype, reader.snaplen) == (1, 262144)
        assert reader.nano == nanosecond
        for data, meta in reader:
            unit = 1 if nanosecond else 1000
            stamp = meta.sec * 10**9 + meta.usec * unit
            # The two clocks are not read at one moment.
            assert before - MS <= stamp <= after + MS
            assert meta.wirelen == len(data)


def test_a_capture_of_nothing_has_a_header(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    with Harness(PcapWriter(path)):
        pass
    assert path.read_bytes() == header(magic=captures.NANOSECOND)


@pytest.mark.need("tcpdump")
def test_tcpdump_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    with Harness(PcapWriter(path)) as harness:
        harness.send(tcp_frame(bytes(n)) for n in (6, 7, 1460))
        harness.breathe()
    done = subprocess.run(
        ["tcpdump", "-nn", "-e", "-q", "-r", path],
        check=True,
        capture_output=True,
        text=True,
        env={"PATH": SEARCH_PATH},
    )
    assert re.findall(r"IPv4, length (\d+)", done.stdout) == ["60", "61", "1514"]


def test_snaplen(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    with Harness(PcapWriter(path, snaplen=60)) as harness:
        harness.send([A, B, C])
        harness.breathe()
        assert harness.counters == {"truncated": 2}
    frames, counters = read(path)
    assert frames == [A, B[:60], C[:60]]
    assert counters == {"short-capture": 2}
    with pytest.raises(ConfigError, match="snaplen"):
        PcapWriter(path, snaplen=0)


def test_the_largest_packets(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    frames = [os.urandom(lib.PACKET_LARGE_SIZE) for _ in range(40)]
    with Harness(PcapWriter(path)) as harness:
        harness.send(frames)
        harness.breathe()
        assert harness.counters == {}
    # Ours, because scapy cuts records to 65535 bytes.
    assert read(path) == (frames, {})
    assert scapy_read(path) == [frame[:65535] for frame in frames]


def test_the_old_file_stays_until_the_app_runs(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    path.write_bytes(b"precious")
    writer = PcapWriter(path)
    registry = Registry(None)
    lease = registry.lease("writer")
    writer.open(lease)
    assert path.read_bytes() == b"precious"
    writer.close()
    lease.release()
    assert path.read_bytes() == b"precious"
    with Harness(PcapWriter(path)) as harness:
        harness.tick()
        assert path.read_bytes() == header(magic=captures.NANOSECOND)


def test_what_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="Is a directory"):
        Harness(PcapWriter(tmp_path))
    with pytest.raises(DeviceError, match=r"No such file.*check the directory"):
        Harness(PcapWriter(tmp_path / "missing" / "out.pcap"))
    ours, theirs = os.openpty()
    with pytest.raises(ConfigError, match="is a terminal"):
        Harness(PcapWriter(os.ttyname(theirs)))
    os.close(ours)
    os.close(theirs)


def test_a_full_device(capfd: pytest.CaptureFixture[str]) -> None:
    with Harness(PcapWriter("/dev/full"), small=2048) as harness:
        for _ in range(1200):
            harness.send([C])
            harness.breathe()
        harness.tick()
        # What fits the buffer could still be written.
        counted = harness.counters.pop("drop-write-error")
        assert 1200 - lib.PCAP_OUTPUT_SIZE // len(C) < counted < 1200
        assert harness.app.supervise() == (
            "write /dev/full: No space left on device; packets are dropped meanwhile"
        )
        assert harness.app.supervise() is None
    lost = 1200 - counted
    assert capfd.readouterr().err == (
        f"snabb-py: /dev/full: {lost} packets are missing at the end: "
        "No space left on device\n"
    )


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let files grow no further, our own output's included: a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


# In the middle of the second record.
FULL = 24 + 76 + 50


def test_a_disk_that_is_full_for_a_while(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    with Harness(PcapWriter(path)) as harness:
        harness.send([A, B, C])
        harness.breathe()
        with file_size_limit(FULL):
            harness.tick()
            said = [harness.app.supervise()]
            assert path.stat().st_size == FULL
            harness.send([B])
            harness.breathe()
            harness.tick()
        harness.send([A])
        harness.breathe()
        harness.tick()
        said.append(harness.app.supervise())
        assert harness.counters == {}
    assert said == [
        f"write {path}: File too large; packets are dropped meanwhile",
        f"{path}: can be written again",
    ]
    assert scapy_read(path) == [A, B, C, B, A]


def test_a_disk_that_stays_full_keeps_whole_records(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.pcap"
    harness = Harness(PcapWriter(path))
    harness.send([A, B, C])
    harness.breathe()
    with file_size_limit(FULL):
        harness.tick()
        harness.close()
    assert path.read_bytes()[24:] == path.read_bytes()[24 : 24 + 76]
    assert scapy_read(path) == [A]
    assert "2 packets are missing at the end: File too large" in capfd.readouterr().err


class Pipe:
    """A pipe by name, and its reading end."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read(self) -> bytes:
        """Return what is in the pipe."""
        try:
            return os.read(self.fd, 1 << 20)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        os.close(self.fd)


@pytest.fixture
def pipe(tmp_path: Path) -> Pipe:
    return Pipe(tmp_path / "pipe")


def test_a_pipe_that_nobody_reads(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DeviceError, match="nobody reads this pipe"):
        Harness(PcapWriter(tmp_path / "pipe"))


def test_a_pipe(pipe: Pipe, save: Save) -> None:
    frames = [struct.pack(">I", i) + C for i in range(2000)]
    received = b""
    with Harness(PcapWriter(pipe.path)) as harness:
        for i in range(0, 2000, 100):
            harness.send(frames[i : i + 100])
            harness.breathe()
            harness.tick()
            received += pipe.read()
        # Slower than we are: what does not fit waits on the input.
        while harness.breathe():
            pass
        assert 0 < harness.inputs[0].write - harness.inputs[0].read < 1024
        harness.tick()
        while piece := pipe.read():
            received += piece
            harness.tick()
            harness.breathe()
            harness.tick()
        assert harness.counters == {}
        assert harness.app.supervise() is None
    pipe.close()
    assert scapy_read(save(received)) == frames


def test_a_pipe_whose_reader_is_slow_at_the_end(
    pipe: Pipe,
    save: Save,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("snabb_py.apps.pcap.FINISH_TIMEOUT_MS", 20)
    with Harness(PcapWriter(pipe.path)) as harness:
        harness.send([C] * 100)
        harness.breathe()
    got = scapy_read(save(pipe.read()[: 24 + 42 * (16 + len(C))]))
    pipe.close()
    assert got == [C] * 42
    # 65536 bytes hold 42 whole records.
    assert "58 packets are missing at the end: its reader is too slow" in (
        capfd.readouterr().err
    )


def test_a_pipe_whose_reader_is_gone(
    pipe: Pipe, capfd: pytest.CaptureFixture[str]
) -> None:
    with Harness(PcapWriter(pipe.path)) as harness:
        pipe.close()
        harness.send([C])
        harness.breathe()
        harness.tick()
        assert "Broken pipe" in str(harness.app.supervise())
    assert "1 packets are missing" in capfd.readouterr().err


# -- offloads --------------------------------------------------------------------


def tcp_frame(payload: bytes) -> bytes:
    from scapy.layers.inet import IP, TCP
    from scapy.layers.l2 import Ether

    packet = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    packet /= IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=1, dport=2) / payload
    return bytes(packet)


def with_pseudo_sum(frame: bytes) -> bytes:
    """Return the frame as a guest hands it on: the pseudo header's sum in place."""
    total = sum(struct.unpack(">4H", frame[26:34])) + 6 + len(frame) - 34
    total = (total & 0xFFFF) + (total >> 16)
    return frame[:50] + struct.pack(">H", total) + frame[52:]


def test_an_unfinished_checksum_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    frame = tcp_frame(b"hello, world")
    partial = with_pseudo_sum(frame)
    assert partial != frame
    with Harness(PcapWriter(path)) as harness:
        flags = lib.PACKET_CSUM_PARTIAL
        harness.send([partial], flags=flags, csum_start=34, csum_offset=16)
        harness.send([partial], flags=flags, csum_start=9000, csum_offset=16)
        harness.breathe()
        assert harness.counters == {"drop-bad-offload": 1}
    assert scapy_read(path) == [frame]


def test_a_super_frame_is_written_as_its_segments(tmp_path: Path) -> None:
    from scapy.layers.l2 import Ether

    path = tmp_path / "out.pcap"
    payload = os.urandom(10000)
    superframe: dict[str, int] = {
        "flags": lib.PACKET_CSUM_PARTIAL,
        "csum_start": 34,
        "csum_offset": 16,
        "gso_type": lib.PACKET_GSO_TCPV4,
    }
    with Harness(PcapWriter(path)) as harness:
        harness.send([with_pseudo_sum(tcp_frame(payload))], **superframe, gso_size=1460)
        harness.send([b"no TCP" * 20], **superframe, gso_size=10)
        harness.breathe()
        assert harness.counters == {"drop-bad-offload": 1}
    frames = scapy_read(path)
    assert len(frames) == 7
    assert b"".join(frame[54:] for frame in frames) == payload
    for frame in frames:
        rebuilt = Ether(frame)
        del rebuilt["IP"].chksum, rebuilt["TCP"].chksum
        assert bytes(rebuilt) == frame


def test_a_super_frame_waits_for_room_in_a_pipe(pipe: Pipe, save: Save) -> None:
    payload = os.urandom(60000)
    received = b""
    with Harness(PcapWriter(pipe.path)) as harness:
        for _ in range(40):
            harness.send(
                [with_pseudo_sum(tcp_frame(payload))],
                flags=lib.PACKET_CSUM_PARTIAL,
                csum_start=34,
                csum_offset=16,
                gso_type=lib.PACKET_GSO_TCPV4,
                gso_size=100,
            )
            harness.breathe()
            harness.tick()
        assert harness.inputs[0].write - harness.inputs[0].read > 20
        while piece := pipe.read():
            received += piece
            harness.tick()
            harness.breathe()
            harness.tick()
        assert harness.counters == {}
    pipe.close()
    frames = scapy_read(save(received))
    assert b"".join(frame[54:] for frame in frames) == payload * 40


def test_no_packet_to_cut_into(tmp_path: Path) -> None:
    with Harness(PcapWriter(tmp_path / "out.pcap"), small=1, large=1) as harness:
        harness.send(
            [with_pseudo_sum(tcp_frame(bytes(20000)))],
            flags=lib.PACKET_CSUM_PARTIAL,
            csum_start=34,
            csum_offset=16,
            gso_type=lib.PACKET_GSO_TCPV4,
            gso_size=1460,
        )
        harness.breathe()
        assert harness.counters == {"drop-no-packet": 1}


# -- who has the file ------------------------------------------------------------


def test_a_file_is_not_read_and_written_at_once(save: Save, tmp_path: Path) -> None:
    path = save(classic([A]))
    others = [path, tmp_path / "symbolic", tmp_path / "hard"]
    others[1].symlink_to(path)
    others[2].hardlink_to(path)
    for other in others:
        with Harness(PcapReader(path), owner="in") as reading:
            with pytest.raises(ConfigError, match=r"being read by this .*another file"):
                Harness(PcapWriter(other), registry=reading.registry, owner="out")
            # A second reader is welcome.
            with Harness(PcapReader(other), registry=reading.registry, owner="two"):
                pass
            assert reading.drain() == [A]
    out = tmp_path / "out.pcap"
    with Harness(PcapWriter(out), owner="out") as writing:
        writing.tick()
        with pytest.raises(ConfigError, match="written by this network"):
            Harness(PcapReader(out), registry=writing.registry, owner="in")
        with pytest.raises(ConfigError, match="being written by this network already"):
            Harness(PcapWriter(out), registry=writing.registry, owner="other")


def test_a_successor_goes_on_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    with Harness(PcapWriter(path)) as first:
        first.send([A])
        first.breathe()
        with Harness(PcapWriter(path), registry=first.registry) as second:
            second.send([B])
            second.breathe()
            with pytest.raises(ConfigError, match="cannot change"):
                Harness(PcapWriter(path, snaplen=9), registry=first.registry)
    assert scapy_read(path) == [A, B]


def build(reader: Path, writer: Path, **args: Any) -> Config:
    config = Config()
    config.app("in", PcapReader, path=reader, **args)
    config.app("hop", Forward)
    config.app("out", PcapWriter, path=writer)
    config.link("in.tx -> hop.rx")
    config.link("hop.tx -> out.rx")
    return config


def test_in_an_engine(save: Save, tmp_path: Path) -> None:
    frames = [struct.pack(">I", i) + C for i in range(5000)]
    path, out = save(classic(frames)), tmp_path / "out.pcap"
    with Engine(huge=False) as engine:
        with pytest.raises(SnabbError, match="another file"):
            engine.commit(build(path, path))
        engine.commit(build(path, out))
        reader = engine.apps["in"].instance
        assert isinstance(reader, PcapReader)
        engine.main(duration=60, done=lambda: reader.is_done)
        assert engine.drain()
        assert engine.drops() == {}
        assert engine.census().is_complete
    assert scapy_read(out) == frames
    assert scapy_read(path) == frames


def test_stdout(save: Save) -> None:
    code = """
import sys
from tests.unit.test_pcap import build
from snabb_py.engine.engine import Engine
with Engine(huge=False) as engine:
    engine.commit(build(sys.argv[1], "/dev/stdout"))
    engine.main(duration=60, done=lambda: engine.apps["in"].instance.is_done)
    engine.drain()
"""
    frames = [struct.pack(">I", i) + C for i in range(40)]
    path = save(classic(frames))
    done = subprocess.run(
        [sys.executable, "-c", code, path], check=True, capture_output=True
    )
    assert scapy_read(save(done.stdout)) == frames


def test_struct_and_names_agree() -> None:
    assert len(PcapReader.counters) == lib.PCAP_READER_NCOUNTERS
    assert len(PcapWriter.counters) == lib.PCAP_WRITER_NCOUNTERS
    assert ffi.sizeof("struct pcap_interface") == 40
