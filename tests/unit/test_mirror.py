"""Mirror and PcapngWriter: what passes is in the file, and waits for no file."""

import os
import re
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snabb_py._native import ffi, lib
from snabb_py.apps.basic import Sink, Source
from snabb_py.apps.mirror import Mirror, add_mirror
from snabb_py.apps.pcap import PcapngWriter, PcapReader, PcapWriter
from snabb_py.engine.config import Config
from snabb_py.errors import ConfigError
from tests.captures import frames_in
from tests.harness import Harness, small_engine
from tests.requirements import SEARCH_PATH

A, B, C = b"a" * 60, b"b" * 61, b"c" * 1514


class Ways(Harness):
    """A harness whose ports are called by name."""

    def put(self, name: str, *frames: bytes, **metadata: int) -> None:
        at = self.app.inputs.names.index(name)
        inputs, self.inputs = self.inputs, self.inputs[at:]
        self.send(frames, **metadata)
        self.inputs = inputs

    def take(self, name: str) -> list[bytes]:
        at = self.app.outputs.names.index(name)
        outputs, self.outputs = self.outputs, self.outputs[at:]
        frames = self.received()
        self.outputs = outputs
        return frames


# -- Mirror --------------------------------------------------------------------


def test_both_ways_and_their_copies() -> None:
    with Ways(Mirror()) as mirror:
        mirror.put("to", A, B, flags=lib.PACKET_CSUM_PARTIAL, csum_start=34)
        mirror.put("from", C)
        assert mirror.breathe() == 3
        copy, original = mirror.outputs[2].ring[0], mirror.outputs[0].ring[0]
        assert copy != original
        assert (copy.flags, copy.csum_start) == (lib.PACKET_CSUM_PARTIAL, 34)
        for way, frames in (("to", [A, B]), ("from", [C])):
            assert mirror.take(way) == mirror.take(f"copy_{way}") == frames
        assert mirror.counters == {}


def test_nothing_waits_for_copies() -> None:
    with Ways(Mirror()) as mirror:
        passed = []
        for _ in range(3):
            mirror.put("to", *[A] * 800)
            mirror.breathe()
            passed += mirror.take("to")
        assert passed == [A] * 2400
        assert mirror.counters == {"mirror-lost": 2400 - lib.LINK_CAPACITY}
        assert mirror.take("copy_to") == [A] * lib.LINK_CAPACITY


def test_a_full_output_holds_its_own_way_up() -> None:
    with Ways(Mirror()) as mirror:
        for _ in range(2):
            mirror.put("to", *[A] * 700)
            mirror.breathe()
        mirror.put("from", B)
        mirror.breathe()
        assert mirror.take("from") == [B]
        assert mirror.inputs[0].write - mirror.inputs[0].read == 1400 - 1024
        assert len(mirror.take("copy_to")) == 1024
        assert mirror.counters == {}, "what waits is not copied yet"


def test_without_packets_to_copy_into() -> None:
    with Ways(Mirror(), small=3, large=0) as mirror:
        mirror.put("to", A, A)
        mirror.breathe()
        assert mirror.take("to") == [A, A]
        assert mirror.counters == {"mirror-no-packet": 1}


def test_ports_that_are_left_out() -> None:
    with Ways(Mirror()) as mirror:
        for n in (1, 2, 3):
            mirror.struct.output[n] = ffi.NULL
        mirror.put("to", A)
        mirror.put("from", B)
        assert mirror.breathe() == 2
        assert mirror.take("to") == [A]
        mirror.struct.input[1] = ffi.NULL
        assert mirror.breathe() == 0


# -- PcapngWriter --------------------------------------------------------------


def blocks(content: bytes) -> list[tuple[int, bytes]]:
    """Return kind and body of each block, strictly."""
    result = []
    while content:
        kind, size = struct.unpack_from("<II", content)
        assert size % 4 == 0
        assert content[size - 4 : size] == struct.pack("<I", size)
        result.append((kind, content[8 : size - 4]))
        content = content[size:]
    return result


def write(path: Path, *sent: tuple[str, bytes], **args: Any) -> dict[str, int]:
    with Ways(PcapngWriter(path, **args)) as writer:
        for name, data in sent:
            writer.put(name, data)
            writer.breathe()
        writer.tick()
        return writer.counters


def directions(content: bytes) -> list[tuple[int, bytes]]:
    """Return direction and frame of each packet, by the draft (4.3)."""
    result = []
    for kind, body in blocks(content)[2:]:
        assert kind == 6
        interface, _, _, caplen, _ = struct.unpack_from("<5I", body)
        assert interface == 0
        padding = -caplen % 4
        assert body[20 + caplen : 20 + caplen + padding] == bytes(padding)
        code, size, flags, end = struct.unpack("<HHII", body[20 + caplen + padding :])
        assert (code, size, end) == (2, 4, 0)
        result.append((flags, body[20 : 20 + caplen]))
    return result


def test_the_blocks(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    write(path, ("to", A), ("from", B), ("to", C), name="vm-1", snaplen=1000)
    (section, first), (interface, second) = blocks(path.read_bytes())[:2]
    assert (section, first) == (
        0x0A0D0D0A,
        struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1),
    )
    assert (interface, second[:8]) == (1, struct.pack("<HHI", 1, 0, 1000))
    assert second[8:] == b"\2\0\4\0vm-1\t\0\1\0\t\0\0\0\0\0\0\0"
    assert directions(path.read_bytes()) == [(1, A), (2, B), (1, C[:1000])]


def test_times_are_now(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    with Ways(PcapngWriter(path)) as writer:
        writer.put("to", A)
        writer.breathe()
        expected = writer.worker.now + writer.app.state.realtime
    _, high, low = struct.unpack_from("<3I", blocks(path.read_bytes())[2][1])
    assert high << 32 | low == expected


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(["to", "from"]), st.binary(max_size=200))),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=16),
)
def test_what_is_written_reads_the_same(
    tmp_path: Path, sent: list[tuple[str, bytes]], name: str
) -> None:
    path = tmp_path / "x.pcapng"
    assert write(path, *sent, name=name) == {}
    content = path.read_bytes()
    assert directions(content) == [
        (1 if way == "to" else 2, data) for way, data in sent
    ]
    expected = [data for _, data in sent if data]
    assert frames_in(content) == expected
    if sent:
        with Harness(PcapReader(path)) as reader:
            assert reader.drain() == expected


@pytest.mark.need("tcpdump")
def test_tcpdump_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    write(path, ("to", A), ("from", C), ("to", B))
    done = subprocess.run(
        ["tcpdump", "-nn", "-e", "-r", path],
        check=True,
        capture_output=True,
        text=True,
        env={"PATH": SEARCH_PATH},
    )
    assert re.findall(r", length (\d+):", done.stdout) == ["60", "1514", "61"]


def test_super_frames_are_segments(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    header = (
        bytes(12)
        + b"\x08\x00"
        + bytes.fromhex("4500000000000000400600000a0000010a000002")
    )
    tcp = bytes(12) + b"\x50\x10" + bytes(6)
    with Ways(PcapngWriter(path)) as writer:
        writer.put(
            "from",
            header + tcp + b"x" * 3000,
            flags=lib.PACKET_CSUM_PARTIAL,
            csum_start=34,
            csum_offset=16,
            gso_type=lib.PACKET_GSO_TCPV4,
            gso_size=1000,
        )
        writer.breathe()
        assert writer.counters == {}
    assert [(d, len(f)) for d, f in directions(path.read_bytes())] == [(2, 1054)] * 3


def test_a_pipe_with_a_slow_reader(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sent = [struct.pack("<I", n) * 25 for n in range(20_000)]
    received = b""
    with Ways(PcapngWriter(path)) as writer:
        for at in range(0, len(sent), 500):
            while writer.inputs[0].write - writer.inputs[0].read > 500:
                received += os.read(fd, 1 << 20)
                writer.tick()
                writer.breathe()
            writer.put("to", *sent[at : at + 500])
            writer.breathe()
        while writer.breathe() or writer.app.state.used:
            received += os.read(fd, 1 << 20)
            writer.tick()
        assert writer.counters == {}
    received += os.read(fd, 1 << 20)
    os.close(fd)
    assert [data for _, data in directions(received)] == sent


def test_a_successor_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with Ways(PcapngWriter(path)) as writer:
        for other in (PcapWriter(path), PcapngWriter(path, name="x")):
            with pytest.raises(ConfigError, match="cannot change"):
                Harness(other, registry=writer.registry)
    with pytest.raises(ConfigError, match="bytes of name: 65 is not within"):
        PcapngWriter(path, name="x" * 65)


# -- together ------------------------------------------------------------------


@pytest.mark.parametrize("worker", [0, 1])
def test_in_an_engine(tmp_path: Path, worker: int) -> None:
    path = tmp_path / "x.pcapng"
    config = Config()
    config.app("vm", Source, count=700, frame=A)
    config.app("card", Source, count=500, frame=B)
    config.app("sink", Sink)
    add_mirror(config, "mirror", path, label="vm", writer=worker)
    config.link("card.tx -> mirror.to")
    config.link("vm.tx -> mirror.from")
    config.link("mirror.to -> sink.rx1")
    config.link("mirror.from -> sink.rx2")
    with small_engine(workers=worker + 1) as engine:
        engine.commit(config)
        rows = [k.row for s, k in engine.links.items() if s.to_app == "sink"]
        engine.main(
            duration=60, done=lambda: sum(row["rxpackets"] for row in rows) == 1200
        )
        assert engine.drain()
        lost = engine.apps["mirror"].counters["mirror-lost"]
        assert engine.census().is_complete
    written = directions(path.read_bytes())
    assert len(written) == 1200 - lost
    assert set(written) <= {(1, B), (2, A)}


def test_counters_agree() -> None:
    assert len(Mirror.counters) == lib.MIRROR_NCOUNTERS
