"""Capture files: what goes in comes out, and what is broken stays harmless."""

import random
import struct
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snabb_py._native import lib
from snabb_py.apps.basic import Forward
from snabb_py.apps.pcap import PcapReader, PcapWriter
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.errors import ConfigError
from tests import captures
from tests.captures import CLASSIC, classic, enhanced, interface, ng, option, section
from tests.harness import Harness

# Each example writes its own file over the last one's.
shared_path = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

frame = st.binary(min_size=1, max_size=300) | st.builds(
    lambda size, seed: random.Random(seed).randbytes(size),  # noqa: S311
    st.sampled_from([59, 60, 64, 65, 1514, 9018, 10240, 10241, 65535]),
    st.integers(0, 255),
)
frames = st.lists(frame, max_size=40)


@st.composite
def capture(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """Return frames and a sound file that holds them, of any kind."""
    content = draw(frames)
    kind = draw(st.sampled_from([*CLASSIC, ("<", 0), (">", 0)]))
    return content, classic(content, *kind) if kind[1] else ng(content, kind[0])


def scapy_read(path: Path) -> list[bytes]:
    from scapy.utils import RawPcapReader

    with RawPcapReader(str(path)) as reader:
        return [data for data, _ in reader]


@shared_path
@given(capture(), st.booleans(), st.integers(1, 200))
def test_identical(
    tmp_path: Path,
    capture: tuple[list[bytes], bytes],
    nanosecond: bool,
    burst: int,
) -> None:
    frames, content = capture
    path, out = tmp_path / "in.pcap", tmp_path / "out.pcap"
    path.write_bytes(content)
    with (
        Harness(PcapReader(path), small=256, large=64, burst=burst) as reader,
        Harness(PcapWriter(out, nanosecond=nanosecond), small=256, large=64) as writer,
    ):
        while reader.breathe():
            writer.send(reader.received())
            writer.breathe()
        assert reader.counters == {}
        assert writer.counters == {}
    assert scapy_read(out) == frames
    with Harness(PcapReader(out), small=256, large=64) as again:
        assert again.drain() == frames


@settings(shared_path, max_examples=20)
@given(capture(), st.integers(0, 4))
def test_identical_through_a_network(
    tmp_path: Path, capture: tuple[list[bytes], bytes], hops: int
) -> None:
    frames, content = capture
    path, out = tmp_path / "in.pcap", tmp_path / "out.pcap"
    path.write_bytes(content)
    config = Config()
    config.app("in", PcapReader, path=path)
    config.app("out", PcapWriter, path=out)
    names = ["in", *(f"hop{i}" for i in range(hops)), "out"]
    for name in names[1:-1]:
        config.app(name, Forward)
    for name, following in pairwise(names):
        config.link(f"{name}.tx -> {following}.rx")
    with Engine(huge=False, packets=512, large_packets=128) as engine:
        engine.commit(config)
        reader = engine.apps["in"].instance
        assert isinstance(reader, PcapReader)
        engine.main(duration=60, done=lambda: reader.is_done)
        assert engine.drain()
        assert engine.drops() == {}
    assert scapy_read(out) == frames


def check(path: Path, content: bytes) -> None:
    """Show that exactly the records of a file are read, or that it is refused."""
    path.write_bytes(content)
    expected = captures.frames_in(content)
    try:
        harness = Harness(PcapReader(path), small=128, large=16)
    except ConfigError as error:
        # Refused for its link type, it might have had Ethernet further on.
        assert "link type" in str(error) or not expected  # noqa: PT017
        return
    with harness:
        assert harness.drain() == expected
        assert harness.app.state.done


# Numbers that lengths and counts become when they go wrong.
WORDS = [0, 1, 3, 4, 12, 16, 28, 31, 32, 61, 255, 256, 65535, 67584, 67585]
WORDS += [131072, 262144, 262145, 2**31 - 1, 2**31, 2**32 - 16, 2**32 - 4, 2**32 - 1]


def mutate(random: random.Random, content: bytes) -> bytes:  # noqa: PLR0911
    at, length = random.randrange(len(content)), random.choice([1, 2, 4, 8, 16, 64])
    match random.randrange(7):
        case 0:
            return content[:at]
        case 1:
            return content[:at] + content[at + length :]
        case 2:
            return content[:at] + random.randbytes(length) + content[at:]
        case 3:
            return content[:at] + random.randbytes(length) + content[at + length :]
        case 4:
            bit = bytes([content[at] ^ 1 << random.randrange(8)])
            return content[:at] + bit + content[at + 1 :]
        case 5:
            at -= at % 4
            word = struct.pack(random.choice("<>") + "I", random.choice(WORDS))
            return content[:at] + word + content[at + 4 :]
        case _:
            return content + content[at:]


def rich_captures() -> list[bytes]:
    """Return small files that use all of the formats."""
    frames = [bytes([i]) * (20 + i) for i in range(8)]
    options = option(2, b"eth0") + option(9, b"\x09") + option(13, b"\x20")
    mixed = section(">", option(4, b"x", ">")) + interface(">", snaplen=22)
    mixed += interface(">", link_type=101) + interface(">")
    mixed += b"".join(enhanced(f, ">", number=i % 3) for i, f in enumerate(frames))
    optional = section() + interface(options=options)
    optional += b"".join(enhanced(f, options=option(2, bytes(4))) for f in frames)
    fcs = captures.header(link_type=captures.ETHERNET | 2 << 28 | 1 << 26)
    return [
        *(classic(frames, *kind) for kind in CLASSIC),
        fcs + b"".join(captures.record(f) for f in frames),
        *(ng(frames, order) for order in "<>"),
        ng(frames[:3]) + mixed + ng(frames[3:]),
        optional,
    ]


@pytest.mark.parametrize("seed", range(9))
def test_mutations_are_harmless(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    sound = rich_captures()[seed]
    check(tmp_path / "in.pcap", sound)
    assert captures.frames_in(sound)
    for _ in range(700):
        content = sound
        for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
            content = mutate(chance, content) or sound
        check(tmp_path / "in.pcap", content)


@shared_path
@given(st.sampled_from(rich_captures()), st.integers(0, 60), st.binary(max_size=500))
def test_noise_is_harmless(tmp_path: Path, sound: bytes, at: int, noise: bytes) -> None:
    check(tmp_path / "in.pcap", sound[:at] + noise)


@pytest.mark.parametrize("order", "<>")
def test_records_around_the_edges_of_the_buffer(tmp_path: Path, order: str) -> None:
    path = tmp_path / "in.pcap"
    # The second record moves over the edges of a piece and of the buffer.
    for edge in (lib.PCAP_PIECE_SIZE, lib.PCAP_BUFFER_SIZE):
        for shift in range(-40, 41):
            rest = bytes(edge % 60000 - 300 + shift)
            frames = [*[bytes(60000)] * (edge // 60000), rest]
            frames += [b"x" * 100, b"y" * 200, b"z" * 60000]
            check(path, classic(frames, order))
            check(path, ng(frames, order))
