"""Reassembly: what was cut is put together again, whatever the network did to it.

Judged by the law "reassemble(shuffle(fragment(p))) = p", by a model that keeps
fragments in a list, and by what Snabb was seen to do (compat).
"""

import random
from collections import Counter
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snabb_py._native import ffi, lib
from snabb_py.engine.memory import new_aligned
from tests.packet_bench import SECOND, PacketBench, ethernet, ipv4, ipv6, naive_checksum

V4, V6, TUNNELLED = (
    lib.REASSEMBLY_IPV4,
    lib.REASSEMBLY_IPV6,
    lib.REASSEMBLY_TUNNELLED,
)
REASSEMBLE = {
    V4: lib.reassemble_ipv4,
    V6: lib.reassemble_ipv6,
    TUNNELLED: lib.reassemble_tunnelled,
}
VERSION = {V4: "ipv4", V6: "ipv6", TUNNELLED: "ipv4"}
MF = 0x2000
PAYLOAD = bytes(i * 7 % 251 for i in range(10300))


class Reassembler:
    """A reassembler and the packets for it; at the end it must give all back."""

    def __init__(  # noqa: PLR0913 - all have defaults
        self,
        kind: int = V4,
        *,
        capacity: int = 32,
        max_fragments: int = 40,
        timeout: int = 30 * SECOND,
        compat: bool = False,
        packets: int = 256,
    ) -> None:
        self.bench = PacketBench(small=packets)
        self.kind = kind
        self.now = 1000 * SECOND
        self.struct: Any = new_aligned("struct reassembler *")
        # More than is needed stays as it is: nothing writes beyond.
        self.size = lib.reassembler_memory_needed(capacity)
        self.memory = ffi.new("uint8_t[]", self.size + 64)
        lib.reassembler_init(
            self.struct, self.memory, kind, capacity, max_fragments, timeout,
            ffi.new("uint64_t[]", [0x123456789ABCDEF, 42]), compat,
        )  # fmt: skip

    def give(self, frame: bytes, **packet: int) -> bytes | None:
        """Return what comes back."""
        given = self.bench.packet(frame, **packet)
        back = REASSEMBLE[self.kind](
            self.struct, self.bench.freelist, given, self.now, self.bench.counters
        )
        return self.bench.taken(back) if back else None

    def give_all(self, frames: list[bytes]) -> list[bytes]:
        return [back for frame in frames if (back := self.give(frame))]

    def tick(self, ns: int = 0, most: int = 1024) -> list[bytes]:
        """Return the first fragments of what has expired, after all queues' turn."""
        self.now += ns
        expired = ffi.new("struct packet *[]", most)
        frames: list[bytes] = []
        for _ in range(lib.DATAGRAM_QUEUES // 16):
            n = lib.reassembler_tick(
                self.struct, self.bench.freelist, self.now, self.bench.counters,
                expired, most,
            )  # fmt: skip
            frames += [self.bench.taken(packet) for packet in expired[0:n]]
        return frames

    @property
    def held(self) -> int:
        return int(lib.reassembler_held(self.struct))

    @property
    def counted(self) -> dict[str, int]:
        """Counters without the version they are of."""
        version = VERSION[self.kind] + "-"
        return {
            n.replace("inner-", "").replace(version, ""): v
            for n, v in self.bench.counted.items()
        }

    def retire(self) -> int:
        return int(lib.reassembler_retire(self.struct, self.bench.freelist))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.retire()
        assert self.held == 0
        assert bytes(self.memory[self.size : self.size + 64]) == bytes(64)
        self.bench.__exit__(kind, error, trace)


@pytest.fixture(params=[V4, V6, TUNNELLED], ids=["v4", "v6", "tunnelled"])
def any_kind(request: pytest.FixtureRequest) -> Iterator[Reassembler]:
    with Reassembler(request.param) as reassembler:
        yield reassembler


def fragment(  # noqa: PLR0913 - what a fragment says
    kind: int,
    start: int,
    payload: bytes,
    *,
    more: bool = True,
    id: int = 7,  # noqa: A002 - the field's name
    src: int = 1,
    dst: int = 1,
    extension: bytes = b"",
    **fields: Any,
) -> bytes:
    """Return the frame of a fragment as its sender makes it."""
    if kind == V6:
        header = (start | more).to_bytes(2, "big") + id.to_bytes(4, "big")
        protocol = fields.pop("protocol", 4)
        return ethernet(
            ipv6(
                extension + bytes([protocol, 0]) + header + payload,
                protocol=60 if extension else 44,
                src=f"2001:db8::{src:x}",
                dst=f"2001:db8:1::{dst:x}",
                **fields,
            )
        )
    field = start // 8 | (MF if more else 0)
    inner = ipv4(payload, id=id, field=field, **fields)
    if kind == V4:
        inner = ipv4(
            payload, id=id, field=field, src=f"192.0.2.{src}", dst=f"10.0.0.{dst}",
            **fields,
        )  # fmt: skip
        return ethernet(inner)
    return ethernet(ipv6(inner, src=f"2001:db8::{src:x}"))


def whole(kind: int, payload: bytes, **fields: Any) -> bytes:
    """Return the frame that is to come of the fragments."""
    if kind == V6:
        extension = fields.pop("extension", b"")
        protocol = fields.pop("protocol", 4)
        return ethernet(
            ipv6(
                extension + payload,
                src="2001:db8::1",
                dst="2001:db8:1::1",
                protocol=60 if extension else protocol,
                **fields,
            )
        )
    if kind == V4:
        return ethernet(ipv4(payload, id=0, src="192.0.2.1", dst="10.0.0.1", **fields))
    return ethernet(ipv6(ipv4(payload, id=7, **fields), src="2001:db8::1"))


def cut(kind: int, payload: bytes, size: int, **fields: Any) -> list[bytes]:
    """Return the fragments, `size` bytes of payload in each but the last."""
    return [
        fragment(
            kind, at, payload[at : at + size], more=at + size < len(payload), **fields
        )
        for at in range(0, len(payload), size)
    ]


# -- the law -----------------------------------------------------------------


@given(
    kind=st.sampled_from([V4, V6, TUNNELLED]),
    length=st.integers(2, 10160),
    pieces=st.integers(2, 40),
    seed=st.integers(0, 2**32),
    copies=st.integers(0, 5),
    shift=st.sampled_from([0, 4]),
)
def test_what_was_cut_comes_back(  # noqa: PLR0913 - hypothesis's
    *, kind: int, length: int, pieces: int, seed: int, copies: int, shift: int
) -> None:
    payload = PAYLOAD[:length]
    size = max(-(-length // pieces) + 7 & ~7, 8)
    frames = cut(kind, payload, size)
    pick = random.Random(seed)  # noqa: S311 - repeatable
    missing = frames.pop(pick.randrange(len(frames)))
    rest = frames + [pick.choice(frames) for _ in range(copies) if frames]
    pick.shuffle(rest)
    with Reassembler(kind) as reassembler:
        if not frames:  # one is all; of IPv6 it is atomic
            assert reassembler.give(missing) is not None
            return
        assert all(reassembler.give(frame, shift=shift) is None for frame in rest)
        assert reassembler.held == 1
        assert reassembler.give(missing, shift=shift) == whole(kind, payload)
        assert reassembler.held == 0
        counted = {
            "in-frag-needs-reassembly": len(rest) + 1,
            "in-frag-reassembled": 1,
        }
        if copies:
            counted["drop-frag-duplicate"] = copies
        assert reassembler.counted == counted


@given(
    length=st.integers(0, 9000),
    mtu=st.integers(1280, 3000),
    seed=st.integers(0, 2**32),
    version=st.sampled_from([V4, V6]),
)
def test_reassembly_undoes_fragmenting(
    length: int, mtu: int, seed: int, version: int
) -> None:
    frame = whole(version, PAYLOAD[:length])
    with Reassembler(version) as reassembler:
        out = ffi.new("struct packet *[]", 16)
        packet = reassembler.bench.packet(frame)
        freelist = reassembler.bench.freelist
        if version == V4:
            n = lib.fragment_ipv4(freelist, packet, mtu, 3, False, out, 16)
        else:
            n = lib.fragment_ipv6(freelist, packet, mtu, 3, out, 16)
        frames = [reassembler.bench.taken(packet) for packet in out[0:n]]
        random.Random(seed).shuffle(frames)  # noqa: S311 - repeatable
        assert reassembler.give_all(frames) == [frame]


# -- the model ---------------------------------------------------------------


class Model:
    """One datagram's fragments in a list, as RFC 8200 and 5722 word it."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.parts: list[tuple[int, bytes, bool]] = []

    def give(self, start: int, payload: bytes, last: bool) -> bytes | str:
        """Return the whole payload, or what becomes of the fragment."""
        end = start + len(payload)
        if not payload or (not last and len(payload) % 8):
            return self.fail()
        if (start, payload, last) in self.parts:
            return "duplicate"
        for other, content, is_last in self.parts:
            other_end = other + len(content)
            if other < end and start < other_end:
                return self.fail()
            if (is_last and (last or end > other_end)) or (last and other_end > end):
                return self.fail()
        return self.keep(start, payload, last)

    def keep(self, start: int, payload: bytes, last: bool) -> bytes | str:
        if len(self.parts) == self.most:
            return self.fail()
        self.parts.append((start, payload, last))
        self.parts.sort()
        joined = b"".join(content for _, content, _ in self.parts)
        ends = [at + len(content) for at, content, is_last in self.parts if is_last]
        if ends != [len(joined)]:
            return "kept"
        self.parts = []
        return joined

    def fail(self) -> str:
        self.parts = []
        return "failed"


@given(
    kind=st.sampled_from([V4, V6, TUNNELLED]),
    most=st.integers(1, 6),
    fragments=st.lists(
        st.tuples(
            st.integers(0, 5),
            st.integers(0, 26),
            st.booleans(),
            st.sampled_from([0, 0, 0, 1]),
        ),
        max_size=12,
    ),
)
def test_as_the_model_has_it(
    kind: int, most: int, fragments: list[tuple[int, int, bool, int]]
) -> None:
    model = Model(most)
    with Reassembler(kind, max_fragments=most) as reassembler:
        for unit, size, last, other in fragments:
            start = unit * 8
            if start == 0 and last:
                continue
            payload = PAYLOAD[start + other : start + other + size]
            before = len(model.parts)
            expected = model.give(start, payload, last)
            back = reassembler.give(fragment(kind, start, payload, more=not last))
            if isinstance(expected, bytes):
                assert back == whole(kind, expected)
            else:
                assert back is None
            counted = reassembler.counted
            assert counted.get("drop-frag-duplicate", 0) == (expected == "duplicate")
            assert counted.get("drop-frag-invalid-reassembly", 0) == (
                expected == "failed"
            )
            nlost = before + 1 if expected == "failed" else 0
            assert counted.get("drop-frag-unreassembled", 0) == nlost
            assert reassembler.held == bool(model.parts)
            assert reassembler.struct.nfragments == len(model.parts)


# -- rules of the RFCs -------------------------------------------------------


def test_overlap_is_counted(any_kind: Reassembler) -> None:
    """Of two that differ nobody knows which is true (RFC 5722)."""
    kind = any_kind.kind
    for second in (
        fragment(kind, 24, bytes(16)),
        fragment(kind, 16, bytes(32)),
        fragment(kind, 0, b"x" + PAYLOAD[1:32]),
        fragment(kind, 8, PAYLOAD[8:24]),
    ):
        any_kind.give(fragment(kind, 0, PAYLOAD[:32]))
        any_kind.bench.counted  # noqa: B018 - begin anew
        assert any_kind.give(second) is None
        assert any_kind.held == 0
        assert any_kind.counted == {
            "in-frag-needs-reassembly": 1,
            "drop-frag-overlap": 1,
            "drop-frag-invalid-reassembly": 1,
            "drop-frag-unreassembled": 2,
        }


def test_the_header_is_that_of_the_first_fragment() -> None:
    """RFC 791, 3.2; RFC 8200, 4.5: of offset 0, not of the first to come."""
    options = b"\x07\x07\x04\xc0\0\x02\x01\0"
    with Reassembler(V4) as reassembler:
        reassembler.give(fragment(V4, 48, PAYLOAD[48:60], more=False, ttl=3))
        reassembler.give(fragment(V4, 32, PAYLOAD[32:48], ttl=9))
        back = reassembler.give(fragment(V4, 0, PAYLOAD[:32], ttl=8, options=options))
        assert back == whole(V4, PAYLOAD[:60], ttl=8, options=options)
    with Reassembler(V6) as reassembler:
        reassembler.give(fragment(V6, 32, PAYLOAD[32:40], more=False, hops=1))
        back = reassembler.give(fragment(V6, 0, PAYLOAD[:32], hops=2, protocol=17))
        assert back == whole(V6, PAYLOAD[:40], hops=2, protocol=17)


@pytest.mark.parametrize("last_first", [False, True])
def test_headers_in_front_of_the_fragment_header(last_first: bool) -> None:
    """Linux's tunnels put the encapsulation limit (RFC 2473, 4.1.1) there."""
    limit = b"\x2c\0\x04\x01\x04\x01\0\0"
    frames = [
        fragment(V6, 0, PAYLOAD[:1200], extension=limit),
        fragment(V6, 1200, PAYLOAD[1200:1500], more=False, extension=limit),
    ]
    with Reassembler(V6) as reassembler:
        back = reassembler.give_all(frames[::-1] if last_first else frames)
        assert back == [whole(V6, PAYLOAD[:1500], extension=b"\x04" + limit[1:])]
    with Reassembler(V6, compat=True) as reassembler:
        assert reassembler.give_all(frames) == frames
        assert reassembler.counted == {"in-frag-reassembly-unneeded": 2}


def test_an_atomic_fragment_is_a_matter_of_its_own() -> None:
    """RFC 6946, 4: others with its id stay as they are."""
    with Reassembler(V6) as reassembler:
        reassembler.give(fragment(V6, 8, PAYLOAD[8:16], more=False))
        atomic = fragment(V6, 0, PAYLOAD[:44], more=False)
        assert reassembler.give(atomic + b"padding") == whole(V6, PAYLOAD[:44])
        assert reassembler.held == 1
        assert reassembler.counted == {
            "in-frag-needs-reassembly": 2,
            "in-frag-reassembled": 1,
        }
        back = reassembler.give(fragment(V6, 0, PAYLOAD[:8]))
        assert back == whole(V6, PAYLOAD[:16])


@pytest.mark.parametrize("field", ["id", "src", "dst", "protocol"])
def test_fragments_of_different_datagrams(field: str) -> None:
    other: dict[str, Any] = {field: 2}
    with Reassembler(V4) as reassembler:
        reassembler.give(fragment(V4, 0, PAYLOAD[:16]))
        assert not reassembler.give(fragment(V4, 16, b"....", more=False, **other))
        assert reassembler.held == 2
    if field == "protocol":
        return
    with Reassembler(V6) as reassembler:
        reassembler.give(fragment(V6, 0, PAYLOAD[:16]))
        assert not reassembler.give(fragment(V6, 16, b"....", more=False, **other))
        assert reassembler.held == 2


def test_tunnels_of_different_sources() -> None:
    """Nobody can put his fragments into another one's datagram."""
    with Reassembler(TUNNELLED) as reassembler:
        reassembler.give(fragment(TUNNELLED, 0, PAYLOAD[:16], src=1))
        last = fragment(TUNNELLED, 16, b"....", more=False, src=2)
        assert reassembler.give(last) is None
        assert reassembler.held == 2


@pytest.mark.parametrize("kind", [V4, V6, TUNNELLED])
@pytest.mark.parametrize("shift", [0, 4, 100])
@pytest.mark.parametrize("last_first", [False, True])
def test_the_longest(kind: int, shift: int, last_first: bool) -> None:
    """Wherever the first packet's data begin; and a byte more is too long."""
    longest = lib.PACKET_SMALL_SIZE - len(whole(kind, b""))
    with Reassembler(kind) as reassembler:
        for length in (longest, longest + 1):
            frames = cut(kind, PAYLOAD[:length], 1496)
            for frame in frames[::-1] if last_first else frames:
                back = reassembler.give(frame, shift=shift)
                if back:
                    assert back == whole(kind, PAYLOAD[:length])
        counted = reassembler.counted
        assert counted["in-frag-reassembled"] == 1
        assert counted["drop-frag-invalid-reassembly"] == 1


def test_a_longer_first_header_can_make_it_too_long() -> None:
    longest = lib.PACKET_SMALL_SIZE - 34
    frames = cut(V4, PAYLOAD[:longest], 1496)
    frames[0] = fragment(V4, 0, PAYLOAD[:1496], options=b"\x94\x04\0\0")
    with Reassembler(V4) as reassembler:
        assert reassembler.give_all(frames[::-1]) == []
        assert reassembler.held == 0
        assert reassembler.counted["drop-frag-invalid-reassembly"] == 1


@pytest.mark.parametrize("kind", [V4, V6, TUNNELLED])
def test_too_many_fragments(kind: int) -> None:
    frames = cut(kind, PAYLOAD[:160], 16)
    for most, delivered in ((10, 1), (9, 0), (1, 0), (10**9, 1)):
        with Reassembler(kind, max_fragments=most) as reassembler:
            assert len(reassembler.give_all(frames)) == delivered
    many = cut(kind, PAYLOAD[: 129 * 8], 8)
    with Reassembler(kind, max_fragments=10**9) as reassembler:
        assert reassembler.give_all(many) == []
        assert reassembler.counted["drop-frag-invalid-reassembly"] == 1
        assert len(reassembler.give_all(cut(kind, PAYLOAD[: 128 * 8], 8)[::-1])) == 1


# -- what is no fragment, or broken ------------------------------------------


@pytest.mark.parametrize(
    ("kind", "frame"),
    [
        (V4, ethernet(ipv4(b"whole")) + b"padding"),
        (V4, ethernet(ipv4(b"whole", field=0x4000))),
        (V4, fragment(V6, 0, b"........")),
        (V4, bytes(14)),
        (V6, ethernet(ipv6(b"whole")) + b"padding"),
        (V6, fragment(V4, 0, b"........")),
        (V6, ethernet(ipv6(b"\x04\0\0\x01....", protocol=51))),
        (V6, ethernet(ipv6(b"\x2c\x09......", protocol=60))),
        (V6, ethernet(ipv6(b"\x2c......", protocol=60))),
        (V6, ethernet(ipv6((b"\x3c" + bytes(7)) * 30, protocol=60))),
    ],
)
def test_what_is_no_fragment_passes(kind: int, frame: bytes) -> None:
    with Reassembler(kind) as reassembler:
        assert reassembler.give(frame) == frame
        assert reassembler.counted == {"in-frag-reassembly-unneeded": 1}


@pytest.mark.parametrize(
    "frame",
    [
        ethernet(ipv6(ipv4(b"whole"))),
        ethernet(ipv6(ipv4(b"", field=MF)[:19])),
        ethernet(ipv6(ipv4(b"........", field=MF)))[:-1],
        ethernet(ipv6(ipv4(b"........", field=MF), protocol=17)),
        ethernet(ipv6(b"\x55" + ipv4(b"........", field=MF)[1:])),
        ethernet(ipv6(ipv4(b"........", field=MF)[:8] + b"\1" + bytes(19))),
        ethernet(ipv4(b"........", field=MF)),
        bytes(13),
    ],
)
def test_what_is_not_tunnelled_passes_uncounted(frame: bytes) -> None:
    with Reassembler(TUNNELLED) as reassembler:
        assert reassembler.give(frame) == frame
        assert reassembler.counted == {}


@pytest.mark.parametrize(
    ("kind", "frame"),
    [
        (V4, bytes(13)),
        (V4, ethernet(ipv4(b""))[:33]),
        (V4, ethernet(b"\x44" + ipv4(b"")[1:])),
        (V4, fragment(V4, 0, b"........")[:-1]),
        (V4, ethernet(ipv4(b"")[:2] + b"\0\x13" + ipv4(b"", field=MF)[4:])),
        (V6, bytes(13)),
        (V6, ethernet(ipv6(b""))[:53]),
        (V6, fragment(V6, 0, b"........")[:-1]),
        (V6, ethernet(ipv6(b"\x04\0\0\x01...", protocol=44)) + b"padding"),
    ],
)
def test_malformed(kind: int, frame: bytes) -> None:
    with Reassembler(kind) as reassembler:
        assert reassembler.give(frame) is None
        assert reassembler.bench.counted == {
            f"drop-malformed-{VERSION[kind]}-packets": 1
        }


@given(
    kind=st.sampled_from([V4, V6, TUNNELLED]),
    compat=st.booleans(),
    shift=st.sampled_from([0, 4, 200]),
    frames=st.lists(
        st.tuples(
            st.integers(0, 3),
            st.lists(st.tuples(st.integers(12, 85), st.integers(0, 255)), max_size=4),
            st.integers(1, 300),
        ),
        max_size=16,
    ),
)
def test_any_frames(
    kind: int,
    compat: bool,
    shift: int,
    frames: list[tuple[int, list[tuple[int, int]], int]],
) -> None:
    """Nothing is read or written outside (under `make san`), nothing leaks."""
    starts = cut(kind, PAYLOAD[:150], 40)
    with Reassembler(kind, capacity=2, compat=compat) as reassembler:
        for which, edits, length in frames:
            frame = bytearray(starts[which])
            for offset, value in edits:
                if offset < len(frame):
                    frame[offset] = value
            back = reassembler.give(bytes(frame[:length]), shift=shift)
            assert back is None or len(back) <= lib.PACKET_SMALL_SIZE
        assert reassembler.held <= 2


# -- time and room -----------------------------------------------------------


def test_timeout_gives_the_first_fragment(any_kind: Reassembler) -> None:
    """For ICMP (RFC 792; RFC 8200, 4.5): only where offset 0 has come."""
    kind = any_kind.kind
    first = (
        fragment(kind, 0, PAYLOAD[:32], ttl=5)
        if kind != V6
        else fragment(kind, 0, PAYLOAD[:32], hops=5)
    )
    any_kind.give(fragment(kind, 64, PAYLOAD[64:96]))
    any_kind.give(first + b"padding")
    any_kind.give(fragment(kind, 32, PAYLOAD[32:64]))
    any_kind.give(fragment(kind, 32, PAYLOAD[32:64], id=8))
    assert any_kind.tick(30 * SECOND - 1) == []
    assert any_kind.held == 2
    any_kind.bench.counted  # noqa: B018 - begin anew
    assert any_kind.tick(1) == [first]
    assert any_kind.held == 0
    assert any_kind.counted == {
        "drop-frag-invalid-reassembly": 2,
        "drop-frag-timeout": 2,
        "drop-frag-unreassembled": 4,
    }
    assert any_kind.give(fragment(kind, 96, PAYLOAD[96:100], more=False)) is None
    assert any_kind.held == 1


def test_a_tick_is_bounded() -> None:
    with Reassembler(capacity=100) as reassembler:
        for i in range(100):
            reassembler.give(fragment(V4, i % 2 * 8, PAYLOAD[:8], id=i))
        expired = reassembler.tick(31 * SECOND, most=3)
        # All are of one subscriber: one queue, which had one turn.
        assert len(expired) <= 3
        assert reassembler.held == 97
        assert reassembler.counted["drop-frag-timeout"] == 3


def test_no_timeout() -> None:
    with Reassembler(timeout=0) as reassembler:
        reassembler.give(fragment(V4, 0, PAYLOAD[:8]))
        assert reassembler.tick(10**9 * SECOND) == []
        assert reassembler.held == 1


def test_the_oldest_goes_when_there_is_no_room(any_kind: Reassembler) -> None:
    kind = any_kind.kind
    for i in range(33):
        any_kind.give(fragment(kind, 0, PAYLOAD[:8], id=i))
    assert any_kind.held == 32
    assert any_kind.counted["drop-frag-random-evicted"] == 1
    assert any_kind.give(fragment(kind, 8, b"end", more=False, id=1)) is not None
    assert any_kind.give(fragment(kind, 8, b"end", more=False, id=0)) is None


@pytest.mark.parametrize(("kind", "subscriber"), [(V4, "dst"), (V6, "src")])
def test_a_storm_costs_only_whose_it_is(kind: int, subscriber: str) -> None:
    """Of the others nothing is lost, however long it blows."""
    with Reassembler(kind, capacity=64, packets=512) as reassembler:
        others: list[dict[str, Any]] = [{subscriber: i} for i in range(2, 12)]
        for other in others:
            reassembler.give(fragment(kind, 0, PAYLOAD[:8], **other))
        for i in range(2000):
            reassembler.give(fragment(kind, 0, PAYLOAD[:8], id=i))
            assert reassembler.held <= 64
        for other in others:
            last = fragment(kind, 8, b"end", more=False, **other)
            assert reassembler.give(last) is not None
        assert reassembler.counted["drop-frag-random-evicted"] == 2000 + 10 - 64


def test_retire() -> None:
    with Reassembler(capacity=100) as reassembler:
        for i in range(60):
            reassembler.give(fragment(V4, 0, PAYLOAD[:8], id=i, dst=i))
        assert reassembler.retire() == 60
        assert reassembler.held == 0
        assert reassembler.bench.nfree == reassembler.bench.pool.total
        # It can go on.
        assert reassembler.give_all(cut(V4, PAYLOAD[:99], 48))


@given(ids=st.lists(st.integers(0, 40), max_size=300), seed=st.integers(0, 99))
def test_never_more_than_there_is_room_for(ids: list[int], seed: int) -> None:
    pick = random.Random(seed)  # noqa: S311 - repeatable
    total: Counter[str] = Counter()
    with Reassembler(capacity=9) as reassembler:
        for i in ids:
            reassembler.now += SECOND // 4
            at = pick.randrange(3) * 8
            frame = fragment(V4, at, PAYLOAD[at : at + 8], more=at < 16, id=i, dst=i)
            back = reassembler.give(frame)
            assert back in (
                None,
                ethernet(ipv4(PAYLOAD[:24], id=0, src="192.0.2.1", dst=f"10.0.0.{i}")),
            )
            assert reassembler.held <= 9
            if i == 40:
                reassembler.tick(SECOND * 10)
            total.update(reassembler.counted)
            assert reassembler.struct.nfragments == unaccounted(total)
        reassembler.tick(30 * SECOND)
        total.update(reassembler.counted)
        assert reassembler.held == unaccounted(total) == 0


def unaccounted(total: Counter[str]) -> int:
    """Return how many fragments are still waited with; a datagram has three."""
    return (
        total["in-frag-needs-reassembly"]
        - 3 * total["in-frag-reassembled"]
        - total["drop-frag-duplicate"]
        - total["drop-frag-unreassembled"]
    )


# -- as Snabb ----------------------------------------------------------------


@pytest.mark.parametrize("kind", [V4, V6])
def test_compat_gets_stuck(kind: int) -> None:
    """A duplicate, an overlap, an atomic fragment: seen with Snabb."""
    frames = cut(kind, PAYLOAD[:100], 48)
    overlap = fragment(kind, 40, PAYLOAD[40:100], more=False)
    stuck = [[frames[0], *frames], [frames[0], overlap]]
    if kind == V6:
        stuck.append([fragment(V6, 0, PAYLOAD[:60], more=False)])
    for fragments in stuck:
        with Reassembler(kind, compat=True, timeout=60 * SECOND) as reassembler:
            assert reassembler.give_all(fragments) == []
            assert reassembler.counted == {"in-frag-needs-reassembly": len(fragments)}
            assert reassembler.tick(61 * SECOND) == []
            assert reassembler.held == 0


def test_compat_keys_and_headers() -> None:
    """The protocol is not looked at, and headers are the first comer's."""
    with Reassembler(V4, compat=True) as reassembler:
        reassembler.give(fragment(V4, 16, PAYLOAD[16:20], more=False, protocol=6))
        back = reassembler.give(fragment(V4, 0, PAYLOAD[:16], ttl=9))
        assert back == whole(V4, PAYLOAD[:20], protocol=6)
    with Reassembler(V6, compat=True) as reassembler:
        reassembler.give(fragment(V6, 16, PAYLOAD[16:20], more=False, hops=9))
        back = reassembler.give(fragment(V6, 0, PAYLOAD[:16], protocol=17))
        assert back == whole(V6, PAYLOAD[:20], protocol=17, hops=9)


def test_compat_fails_as_snabb() -> None:
    with Reassembler(V6, compat=True, max_fragments=3) as reassembler:
        for frames in (
            cut(V6, PAYLOAD[:64], 16),  # the fourth is one too many
            [fragment(V6, 0, PAYLOAD[:9])],
            [fragment(V6, 10232, PAYLOAD[:16])],
            [fragment(V6, at, b"..", more=False) for at in (16, 8)],
        ):
            assert reassembler.give_all(frames) == []
            assert reassembler.held == 0
            assert reassembler.counted == {
                "in-frag-needs-reassembly": len(frames),
                "drop-frag-invalid-reassembly": 1,
                "drop-frag-unreassembled": len(frames),
            }


def test_the_model_of_the_header_is_right() -> None:
    assert naive_checksum(whole(V4, b"payload")[14:34]) == 0
