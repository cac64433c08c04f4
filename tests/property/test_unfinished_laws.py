"""Unfinished checksums are found without a word of them; finished ones stay."""

import struct
from ipaddress import IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from snabb_py._native import ffi, lib
from snabb_py.engine.memory import Pool, new_aligned

TCP, UDP = 6, 17


def fold(data: bytes) -> int:
    """Return the one's complement sum of 16-bit words."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


class Segment:
    """TCP or UDP in IP of either version, perhaps in a tunnel, perhaps tagged."""

    def __init__(
        self, *, version: int, protocol: int, tunnel: int, ntags: int, payload: bytes
    ) -> None:
        size = 20 if protocol == TCP else 8
        header = bytearray(struct.pack("!HH", 1000, 2000).ljust(size, b"\0"))
        if protocol == TCP:
            header[12] = 0x50
        else:
            header[4:6] = (size + len(payload)).to_bytes(2, "big")
        self.offset = 16 if protocol == TCP else 6
        self.payload = payload
        self.segment = bytes(header) + payload
        addresses = address(version, 1) + address(version, 2)
        self.pseudo = fold(addresses + struct.pack("!II", len(self.segment), protocol))
        self.head = ethernet(tunnel or version, ntags)
        inner = ip(version, protocol, len(self.segment))
        if tunnel:
            in_ip = {4: 4, 6: 41}[version]
            self.head += ip(tunnel, in_ip, len(inner) + len(self.segment))
        self.head += inner

    def frame(self, checksum: int) -> bytes:
        at = self.offset
        field = checksum.to_bytes(2, "big")
        return self.head + self.segment[:at] + field + self.segment[at + 2 :]

    @property
    def checksum(self) -> int:
        """What finishes it: as Linux, never zero."""
        total = fold(self.pseudo.to_bytes(2, "big") + self.segment)
        return ~total & 0xFFFF or 0xFFFF


def address(version: int, i: int) -> bytes:
    return bytes([192, 0, 2, i]) if version == 4 else IPv6Address(f"fd00::{i}").packed


def ip(version: int, protocol: int, size: int) -> bytes:
    ends = address(version, 1) + address(version, 2)
    if version == 4:
        return (
            struct.pack("!BBHHHBBH", 0x45, 0, 20 + size, 1, 0, 64, protocol, 0) + ends
        )
    return struct.pack("!IHBB", 6 << 28, size, protocol, 64) + ends


def ethernet(version: int, ntags: int) -> bytes:
    kind = {4: b"\x08\x00", 6: b"\x86\xdd"}[version]
    return bytes(12) + b"\x81\x00\x00\x05" * ntags + kind


segments = st.builds(
    Segment,
    version=st.sampled_from([4, 6]),
    protocol=st.sampled_from([TCP, UDP]),
    tunnel=st.sampled_from([0, 4, 6]),
    ntags=st.integers(0, 2),
    payload=st.binary(max_size=1400),
)


def find_and_finish(frame: bytes) -> tuple[bool, bytes]:
    """Return whether it was found unfinished, and what it is when it is finished."""
    pool = Pool(16, 0, 1, huge=False)
    try:
        freelist = new_aligned("struct freelist *")
        lib.freelist_init(freelist, pool.pool)
        packet = lib.engine_packet_alloc(freelist, len(frame))
        ffi.memmove(packet.data, frame, len(frame))
        found = bool(lib.packet_find_unfinished(packet))
        assert bool(packet.flags & lib.PACKET_CSUM_PARTIAL) == found
        assert lib.packet_finish_checksum(packet)
        return found, bytes(ffi.buffer(packet.data, len(frame)))
    finally:
        pool.close()


@given(segments)
def test_what_a_stack_left_unfinished_is_finished(segment: Segment) -> None:
    found, frame = find_and_finish(segment.frame(segment.pseudo))
    assert found
    assert frame == segment.frame(segment.checksum)


@given(segments)
def test_what_is_finished_stays_as_it_is(segment: Segment) -> None:
    _, frame = find_and_finish(segment.frame(segment.checksum))
    assert frame == segment.frame(segment.checksum)


@given(segments.filter(lambda s: s.payload and len(s.payload) % 2 == 0))
def test_a_finished_checksum_that_looks_unfinished(segment: Segment) -> None:
    """The last two bytes are such that the pseudo header's sum is right by chance."""
    head = segment.segment[:-2]
    total = fold(segment.pseudo.to_bytes(2, "big") * 2 + head)
    segment.segment = head + (~total & 0xFFFF).to_bytes(2, "big")
    coincidence = segment.frame(segment.pseudo)
    assert find_and_finish(coincidence) == (True, coincidence)


@given(segments, st.integers(1, 40))
def test_padding_behind_ip_is_nobodys_segment(segment: Segment, more: int) -> None:
    frame = segment.frame(segment.pseudo) + bytes(more)
    assert find_and_finish(frame) == (False, frame)


@given(segments.filter(lambda s: s.head[12:14] == b"\x08\x00"))
def test_a_fragment_holds_a_part_of_what_is_summed(segment: Segment) -> None:
    whole = segment.frame(segment.pseudo)
    at = 14 + 6  # flags (RFC 791)
    frame = whole[:at] + b"\x20" + whole[at + 1 :]
    assert find_and_finish(frame) == (False, frame)


@given(segments, st.data())
def test_a_frame_cut_short_is_left_alone(segment: Segment, data: st.DataObject) -> None:
    frame = segment.frame(segment.pseudo)
    cut = frame[: data.draw(st.integers(14, len(frame) - 1))]
    assert find_and_finish(cut) == (False, cut)
