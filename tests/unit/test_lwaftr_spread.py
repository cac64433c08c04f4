"""Spread: each flow has one worker and stays in order, fragments included.

Judged by the law "what an output gives are the packets of its flows, as they came,
fragments behind the first one of their datagram", for any order in which they come.
"""

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snabb_py._native import lib
from snabb_py.engine.app import Ports
from snabb_py.lwaftr.lwaftr import REASSEMBLY_TIMEOUT_S
from snabb_py.lwaftr.spread import Spread
from tests.harness import Harness
from tests.packet_bench import OURS, SECOND, THEIRS, ethernet, ipv4, ipv6

WORKERS = 3
#: Tags that a frame may have; behind others nothing is looked at.
TAG = b"\x81\x00\x00\x64"
LIMIT = b"\x04\x01\x04\x01\0\0"  # of encapsulation (RFC 2473, 4.1.1), behind two bytes


class SpreadOverThree(Spread):
    """With outputs that the harness knows."""

    outputs = Ports("tx0", "tx1", "tx2")


class Bench(Harness):
    """A spreader by itself; all that comes in must come out, or be counted."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(SpreadOverThree(), **settings)

    def give(self, frames: Sequence[bytes]) -> list[list[bytes]]:
        """Return what comes out of each output."""
        outputs: list[list[bytes]] = [[] for _ in range(WORKERS)]
        for i in range(0, len(frames), 200):
            self.send(frames[i : i + 200])
            self.breathe()
            for output, frames_out in enumerate(outputs):
                frames_out.extend(self.received(output))
        return outputs

    def give_one(self, frame: bytes) -> list[bytes]:
        """Return all that comes out of it."""
        return list(chain.from_iterable(self.give([frame])))

    def output_of(self, frame: bytes) -> int | None:
        """Return the output that one frame comes out of, None: none."""
        found = [i for i, frames in enumerate(self.give([frame])) if frames]
        return found[0] if found else None

    def sweep(self, ns: int) -> None:
        """Let time pass, and all queues have their turn."""
        self.worker.now += ns
        for _ in range(lib.DATAGRAM_QUEUES // 16):
            self.tick()


@dataclass(frozen=True)
class Piece:
    """A frame, its flow, its datagram, and what of that it is."""

    frame: bytes
    flow: int
    datagram: int
    start: int = 0
    is_fragment: bool = False


def tag(frame: bytes) -> bytes:
    return frame[:12] + TAG + frame[12:]


def tunnel(inner: bytes, *, b4: int = 1, limit: bool = False) -> bytes:
    if limit:
        return ipv6(b"\x04\0" + LIMIT + inner, src=f"2001:db8::{b4:x}", protocol=60)
    return ipv6(inner, src=f"2001:db8::{b4:x}")


def cut(packet: bytes, size: int, ident: int) -> list[tuple[int, bytes]]:
    """Return the fragments of an IPv6 packet with their offsets (RFC 8200, 4.5)."""
    protocol, payload = packet[6], packet[40:]
    pieces = []
    for at in range(0, len(payload), size):
        part = payload[at : at + size]
        field = at | (at + size < len(payload))
        header = bytes([protocol, 0]) + field.to_bytes(2, "big")
        header += ident.to_bytes(4, "big")
        length = (8 + len(part)).to_bytes(2, "big")
        pieces.append(
            (at, packet[:4] + length + b"\x2c" + packet[7:40] + header + part)
        )
    return pieces


def behind_limit(fragment: bytes) -> bytes:
    """Return a fragment as Linux's tunnels send it: behind the option."""
    length = int.from_bytes(fragment[4:6], "big") + 8
    head = fragment[:4] + length.to_bytes(2, "big") + b"\x3c" + fragment[7:40]
    return head + b"\x2c\0" + LIMIT + fragment[40:]


def datagram(number: int, flow: int, size: int, kind: str) -> list[Piece]:
    """Return the pieces of a datagram of one of the flows of a softwire."""
    payload = number.to_bytes(4, "big") + bytes(size)
    inner = ipv4(payload, src="198.51.100.1", dst=f"203.0.113.{flow}", id=number)
    if kind == "internet":
        inner = ipv4(payload, dst="198.51.100.1", src=f"203.0.113.{flow}")
        return [Piece(ethernet(inner), flow, number)]
    packet = tunnel(inner, limit="with limit" in kind)
    wrap = (lambda p: tag(ethernet(p))) if "tag" in kind else ethernet
    if "cut" not in kind:
        return [Piece(wrap(packet), flow, number)]
    fragments = cut(packet, 80 if "with limit" in kind else 64, number)
    if "behind" in kind:
        fragments = [(at, behind_limit(fragment)) for at, fragment in fragments]
    if len(fragments) == 1:  # RFC 6946: whole all the same
        return [Piece(wrap(fragments[0][1]), flow, number)]
    return [Piece(wrap(p), flow, number, at, is_fragment=True) for at, p in fragments]


def expected(pieces: Sequence[Piece]) -> list[Piece]:
    """Return the order in which they leave: fragments behind the first one."""
    known: set[int] = set()
    held: dict[int, list[Piece]] = {}
    out: list[Piece] = []
    for piece in pieces:
        if not piece.is_fragment or piece.datagram in known:
            out.append(piece)
        elif piece.start == 0:
            known.add(piece.datagram)
            out += [piece, *held.pop(piece.datagram, [])]
        else:
            held.setdefault(piece.datagram, []).append(piece)
    return out


KINDS = [
    "plain",
    "plain with limit",
    "cut",
    "cut with limit",
    "cut behind limit",
    "cut tag",
    "internet",
]


@given(
    datagrams=st.lists(
        st.tuples(st.integers(1, 9), st.integers(20, 400), st.sampled_from(KINDS)),
        max_size=60,
    ),
    seed=st.integers(0, 2**32),
    disorder=st.sampled_from([0, 3, 10**9]),
)
def test_flows_stay_together_and_in_order(
    datagrams: list[tuple[int, int, str]], seed: int, disorder: int
) -> None:
    pieces = [
        piece
        for number, (flow, size, kind) in enumerate(datagrams)
        for piece in datagram(number, flow, size, kind)
    ]
    dice = random.Random(seed)  # noqa: S311 - repeatable
    late = {id(p): i + dice.uniform(0, disorder) for i, p in enumerate(pieces)}
    pieces.sort(key=lambda p: late[id(p)])
    with Bench() as bench:
        outputs = bench.give([piece.frame for piece in pieces])
        homes: dict[tuple[int, bool], int] = {}
        for piece in pieces:
            inbound = piece.frame[12:14] == b"\x08\x00"
            home = next(i for i, out in enumerate(outputs) if piece.frame in out)
            assert homes.setdefault((piece.flow, inbound), home) == home
        left = expected(pieces)
        for output, frames in enumerate(outputs):
            assert frames == [
                p.frame
                for p in left
                if homes[p.flow, p.frame[12:14] == b"\x08\x00"] == output
            ]
        assert not [name for name in bench.counters if name.startswith("drop-")]


def test_one_softwire_has_all_workers() -> None:
    with Bench() as bench:
        for kind in ("plain", "internet"):
            frames = [datagram(n, n, 20, kind)[0].frame for n in range(1, 200)]
            shares = [len(frames) for frames in bench.give(frames)]
            assert sum(shares) == 199
            assert min(shares) > 20  # 66 each; fewer once in 10^11 tries


def nd(kind: int) -> bytes:
    return ethernet(ipv6(bytes([kind, 0]) + bytes(22), protocol=58, hops=255))


@pytest.mark.parametrize(
    "frame",
    [
        OURS + THEIRS + b"\x08\x06" + bytes(28),
        *(nd(kind) for kind in range(133, 138)),
        tag(nd(136)),
        OURS + THEIRS + b"\x88\xb5" + bytes(50),
        tag(tag(ethernet(ipv4(b"1")))),
    ],
)
def test_what_is_no_flows_is_the_first_ones(frame: bytes) -> None:
    with Bench() as bench:
        for _ in range(3):
            assert bench.output_of(frame) == 0


def pieces_of(number: int, size: int = 300, b4: int = 1) -> list[bytes]:
    """Return fragments of a tunnelled datagram of `size` bytes and a bit."""
    inner = ipv4(bytes(size), src="198.51.100.1")
    return [ethernet(p) for _, p in cut(tunnel(inner, b4=b4), 64, number)]


def test_a_first_fragment_without_the_addresses_decides_all_the_same() -> None:
    tiny, *rest = (ethernet(p) for _, p in cut(tunnel(ipv4(bytes(40))), 16, 1))
    with Bench() as bench:
        outputs = bench.give([*rest, tiny])
        assert sorted(map(len, outputs)) == [0, 0, len(rest) + 1]


def test_what_waits_in_vain_goes_after_a_minute() -> None:
    first, *rest = pieces_of(7)
    with Bench() as bench:
        assert bench.give(rest) == [[], [], []]
        bench.sweep(REASSEMBLY_TIMEOUT_S * SECOND - 10**6)
        assert bench.counters == {"fragments-held": len(rest)}
        bench.sweep(10**6)
        assert bench.counters["drop-fragment-timeout"] == len(rest)
        assert bench.give_one(first) == [first]


def test_only_so_many_of_one_datagram_wait() -> None:
    first, *rest = pieces_of(7, 64 * 70)
    with Bench() as bench:
        assert bench.give(rest) == [[], [], []]
        waiting = lib.SPREAD_MAX_HELD_OF_ONE
        assert bench.counters["drop-fragment-too-many"] == len(rest) - waiting
        assert bench.give_one(first) == [first, *rest[:waiting]]


def test_a_storm_costs_only_whose_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the others no fragment is lost, however long it blows."""
    # Who has a queue together with others, of 256, pays with them: not here.
    monkeypatch.setattr(secrets, "randbits", random.Random(1).getrandbits)  # noqa: S311
    others = [pieces_of(1000 + b4, b4=b4) for b4 in range(2, 12)]
    with Bench() as bench:
        for _, *rest in others:
            bench.give(rest)
        for number in range(2 * lib.SPREAD_MAX_HELD):
            bench.give(pieces_of(number)[1:2])
        for pieces in others:
            first, *rest = pieces
            assert bench.give_one(first) == [first, *rest]
        assert bench.counters["drop-fragment-evicted"] >= lib.SPREAD_MAX_HELD


def test_more_datagrams_than_can_be_remembered() -> None:
    """They come in order and have an end: then nobody need remember them."""
    with Bench() as bench:
        for number in range(200):
            bench.give(pieces_of(number))
        assert bench.app.state.known.n == 0
        for number in range(lib.SPREAD_MAX_DATAGRAMS + 5):
            bench.give([pieces_of(number, 50)[0]])
        assert bench.app.state.known.n == lib.SPREAD_MAX_DATAGRAMS
        assert bench.counters == {"forgotten-datagrams": 5}


def test_a_full_output_holds_the_input_up() -> None:
    """Nothing is lost, not even when all that waits is let go."""
    first, *rest = pieces_of(7)
    frames = [datagram(n, 1, 20, "plain")[0].frame for n in range(1500)]
    with Bench() as bench:
        bench.give(rest)
        output = bench.output_of(frames[0])
        bench.send(frames[:1000])
        bench.breathe()
        bench.send([*frames[1000:], first])
        while bench.breathe():
            pass
        found: list[bytes] = []
        for _ in range(4):
            found += bench.received(output or 0)
            bench.breathe()
        assert found[: len(frames)] == frames
        others = chain.from_iterable(map(bench.received, range(WORKERS)))
        assert [*found[len(frames) :], *others] == [first, *rest]


def test_it_gives_back_what_waits() -> None:
    with Bench() as bench:
        bench.give(pieces_of(1)[1:] + pieces_of(2)[2:])
        assert bench.app.ops.held(bench.struct) > 0


@given(
    frames=st.lists(
        st.tuples(
            st.sampled_from([*pieces_of(3), *pieces_of(4), tag(nd(136))]),
            st.lists(st.tuples(st.integers(12, 90), st.integers(0, 255)), max_size=4),
            st.integers(1, 150),
        ),
        max_size=40,
    )
)
def test_any_frames(frames: list[tuple[bytes, list[tuple[int, int]], int]]) -> None:
    """Nothing is read outside (under `make san`); all come out, or wait."""
    with Bench() as bench:
        sent = []
        for frame, edits, length in frames:
            damaged = bytearray(frame)
            for offset, value in edits:
                if offset < len(damaged):
                    damaged[offset] = value
            sent.append(bytes(damaged[:length]))
        came = sum(map(len, bench.give(sent)))
        assert came + bench.app.ops.held(bench.struct) == len(sent)
