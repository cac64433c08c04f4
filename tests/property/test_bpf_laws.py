"""Filters against libpcap: the same frames pass, by interpreter and machine code."""

import random
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snabb_py._native import lib
from snabb_py.engine.bpf import Program, compile_instructions
from snabb_py.errors import ConfigError
from tests import libpcap
from tests.captures import frames_in
from tests.libpcap import Instruction

CAPTURES = sorted((Path(__file__).parents[1] / "data/nfv/pcap-filter").glob("*.pcap"))

pytestmark = pytest.mark.need("libpcap")


def check(instructions: list[Instruction], frames: list[bytes]) -> list[bool]:
    """Compare all ways to run a program; return what they say."""
    expected = libpcap.offline_filter(instructions, frames)
    for jit in (True, False):
        program = Program(instructions, jit=jit)
        assert [program.matches(frame) for frame in frames] == expected, jit
    return expected


def variants(frame: bytes) -> list[bytes]:
    """Return a frame as it is, cut at every length, tagged, and damaged."""
    rng = random.Random(frame)  # noqa: S311
    cut = [frame[:n] for n in range(min(len(frame), 80))]
    tag = struct.pack(">HH", 0x8100, 100)
    tagged = frame[:12] + tag + frame[12:]
    damaged = []
    for _ in range(40):
        copy = bytearray(frame)
        for _ in range(rng.randrange(1, 4)):
            copy[rng.randrange(min(len(copy), 70))] = rng.randrange(256)
        damaged.append(bytes(copy))
    return [frame, tagged, frame[:12] + tag + tag + frame[12:], *cut, *damaged]


FRAMES = [f for path in CAPTURES for f in frames_in(path.read_bytes())]
SAMPLE = [v for f in FRAMES[::16] + FRAMES[-4:] for v in variants(f)]

EXPRESSIONS = [
    "",
    "arp",
    "ip",
    "((arp or ip) or ip6)",
    "icmp6 or (ip6 and tcp and dst port 12345) or arp or port 5001",
    "ip6 and udp and dst portrange 1024-1025",
    "(arp or (ip and tcp)) and not port 22",
    "udp port 53",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "ip[0] & 0xf = 5 and ip[6:2] & 0x1fff = 0",
    "ip6[40] = 128",
    "ip6 protochain 58 or ip",
    "src net 10.0.0.0/8 or src net 127.0.0.0/8",
    "ether host 00:00:00:00:00:00",
    "ether multicast or broadcast",
    "vlan 100 and tcp",
    "vlan and vlan and ip6",
    "greater 100 and less 300",
    "len / 2 * 3 % 7 = 1",
    "len - 14 << 2 > ip[2:2]",
    "ether[ether[13]] = 0",
    "ip[len] = 3",
    "ether[0:4] ^ 0xffffffff | 1 > ether[4] / ether[5]",
    "ip proto 47 or (pppoes and ip)",
    "host 127.0.0.1 and not (udp or icmp)",
    "ip6 host 3ffe:501:4819::42",
    "ether proto 0x888e or (ip and ip[8] < 5)",
]


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_captures(expression: str, optimize: bool) -> None:
    instructions = libpcap.compile_instructions(expression, optimize=optimize)
    if "protochain" in expression:
        with pytest.raises(ConfigError, match="jump to nowhere"):
            Program(instructions)
        return
    check(instructions, FRAMES + SAMPLE)
    if optimize:
        assert compile_instructions(expression) == instructions


# -- expressions ---------------------------------------------------------------

primitives = st.one_of(
    st.sampled_from(
        ["ip", "ip6", "arp", "tcp", "udp", "icmp", "icmp6", "ip multicast"]
    ),
    st.builds(
        "{} {} {}".format,
        st.sampled_from(["src", "dst", "src or dst", "src and dst"]),
        st.sampled_from(["port", "host"]),
        st.just(""),
    ).map(lambda s: s + "53" if "port" in s else s + "127.0.0.1"),
    st.builds(
        "{}[{}:{}] {} {}".format,
        st.sampled_from(["ether", "ip", "ip6", "tcp", "udp"]),
        st.integers(0, 60),
        st.sampled_from([1, 2, 4]),
        st.sampled_from(["=", "!=", "<", ">", "<=", ">="]),
        st.integers(0, 2**32 - 1),
    ),
    st.builds(
        "(len {} {}) & {} != {}".format,
        st.sampled_from(["+", "-", "*", "/", "%", "|", "^", "<<", ">>"]),
        st.integers(1, 31),
        st.integers(0, 65535),
        st.integers(0, 255),
    ),
    st.integers(0, 4094).map("vlan {}".format),
    st.builds("portrange {}-{}".format, st.integers(0, 99), st.integers(100, 9999)),
    st.integers(0, 128).map("net 3ffe::/{}".format),
)
expressions = st.recursive(
    primitives,
    lambda inner: st.one_of(
        inner.map("not ({})".format),
        st.builds("({}) and ({})".format, inner, inner),
        st.builds("({}) or ({})".format, inner, inner),
    ),
    max_leaves=6,
)
frames = st.one_of(
    st.binary(max_size=120),
    st.sampled_from(SAMPLE),
    st.builds(
        lambda head, rest: head + rest,
        st.sampled_from([f[:n] for f in FRAMES[::20] for n in (14, 34, 54, 62)]),
        st.binary(max_size=80),
    ),
)


@given(expressions, st.lists(frames, min_size=1, max_size=30), st.booleans())
def test_random_expressions(
    expression: str, frames: list[bytes], optimize: bool
) -> None:
    try:
        instructions = libpcap.compile_instructions(expression, optimize=optimize)
    except ValueError:
        return  # it contradicts itself: "expression rejects all packets"
    check(instructions, frames)


# -- programs that no compiler makes -------------------------------------------

K = st.one_of(
    st.integers(0, 100), st.integers(0, 2**32 - 1), st.integers(2**32 - 8, 2**32 - 1)
)
LOADS = [
    0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x00, 0x80, 0x01, 0x81, 0xB1, 0x07, 0x87,
]  # fmt: skip
MEMORY = [0x60, 0x61, 0x02, 0x03]
ALU = [0x04 | op << 4 | source for op in range(0xB) for source in (0, 8)]
JUMPS = [0x15, 0x25, 0x35, 0x45, 0x1D, 0x2D, 0x3D, 0x4D]


@st.composite
def programs(draw: st.DrawFn) -> list[Instruction]:
    """Return a sound program of any instructions."""
    n = draw(st.integers(0, 30))
    result: list[Instruction] = []
    for left in range(n, 0, -1):
        kind = draw(st.integers(0, 9))
        if kind < 4:
            result.append((draw(st.sampled_from(LOADS)), 0, 0, draw(K)))
        elif kind == 4:
            result.append(
                (draw(st.sampled_from(MEMORY)), 0, 0, draw(st.integers(0, 15)))
            )
        elif kind < 7:
            code, k = draw(st.sampled_from(ALU)), draw(K)
            if code in {0x34, 0x94}:
                k = k or 1
            elif code in {0x64, 0x74}:
                k %= 32
            elif code == 0x8C:
                code = 0x84
            result.append((code, 0, 0, k))
        elif kind < 9:
            skip = st.integers(0, left - 1)
            code = draw(st.sampled_from(JUMPS))
            result.append((code, draw(skip), draw(skip), draw(K)))
        else:
            result.append((0x05, 0, 0, draw(st.integers(0, left - 1))))
    result.append(
        draw(st.sampled_from([(0x06, 0, 0, 0), (0x06, 0, 0, 1), (0x16, 0, 0, 0)]))
    )
    return result


@settings(max_examples=400)
@given(programs(), st.lists(frames, min_size=1, max_size=10))
def test_random_programs(instructions: list[Instruction], frames: list[bytes]) -> None:
    # libpcap leaves memory undefined at the start, we do not.
    if any(code in {0x60, 0x61} for code, *_ in instructions):
        zero = [(0x00, 0, 0, 0), *((0x02, 0, 0, word) for word in range(16))]
        instructions = [*zero, *instructions]
    # Neither may matter what it shifts by: it shifts A by X >= 32 to 0.
    check(instructions, frames)


any_code = st.integers(0, 255) | st.integers(0, 65535)
any_instruction = st.tuples(any_code, st.integers(0, 3), st.integers(0, 3), K)


@given(st.lists(any_instruction, max_size=12), frames)
def test_what_is_verified_is_harmless(
    instructions: list[Instruction], frame: bytes
) -> None:
    try:
        programs = [Program(instructions, jit=jit) for jit in (True, False)]
    except ConfigError:
        return
    assert len({program.matches(frame) for program in programs}) == 1


@pytest.mark.parametrize(
    ("instructions", "reason"),
    [
        ([], "is empty"),
        ([(0x06, 0, 0, 0)] * (lib.BPF_MAX_INSTRUCTIONS + 1), "has more than 4096"),
        ([(0x30, 0, 0, 0)], "jump to nowhere, instruction 0"),
        ([(0x15, 1, 0, 0), (0x06, 0, 0, 0)], "jump to nowhere"),
        ([(0x15, 0, 1, 0), (0x06, 0, 0, 0)], "jump to nowhere"),
        ([(0x05, 0, 0, 2**32 - 1), (0x06, 0, 0, 0)], "jump to nowhere"),
        ([(0x34, 0, 0, 0), (0x06, 0, 0, 0)], "divides by zero"),
        ([(0x94, 0, 0, 0), (0x06, 0, 0, 0)], "divides by zero"),
        ([(0x64, 0, 0, 32), (0x06, 0, 0, 0)], "shifts by"),
        ([(0x02, 0, 0, 16), (0x06, 0, 0, 0)], "memory that is not there"),
        ([(0x61, 0, 0, 2**31), (0x06, 0, 0, 0)], "memory that is not there"),
        ([(0x06, 0, 0, 0), (0xB4, 0, 0, 0), (0x06, 0, 0, 0)], "unknown instruction"),
        ([(0x106, 0, 0, 0)], "unknown instruction"),
        ([(0x0E, 0, 0, 0)], "unknown instruction"),
    ],
)
def test_unsound_programs_are_refused(
    instructions: list[Instruction], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        Program(instructions)
