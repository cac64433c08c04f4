"""Packets for functions that take them: a pool, a freelist, the lwAFTR's counters.

    with PacketBench() as bench:
        packet = bench.packet(b"...")
        lib.some_function(bench.freelist, packet, bench.counters)
        assert bench.taken(packet) == b"..."

At the end every packet must be back.
"""

import ipaddress
import struct
from types import TracebackType
from typing import Any, Self

from snabb_py._native import ffi, lib
from snabb_py.engine.memory import Pool, new_aligned
from snabb_py.lwaftr.counters import NAMES

OURS = bytes.fromhex("020000000001")
THEIRS = bytes.fromhex("020000000002")
SECOND = 10**9


class PacketBench:
    """A small pool whose packets the test makes and counts."""

    def __init__(self, small: int = 256, large: int = 4) -> None:
        self.pool = Pool(small, large, 1, huge=False)
        self.freelist: Any = new_aligned("struct freelist *")
        lib.freelist_init(self.freelist, self.pool.pool)
        self.counters: Any = ffi.new("uint64_t[]", len(NAMES))

    def packet(self, frame: bytes, *, shift: int = 0, **metadata: int) -> Any:
        """Return a packet; its data begin `shift` bytes later than a fresh one's."""
        packet = lib.engine_packet_alloc(self.freelist, len(frame) + shift)
        assert packet, "the pool has run dry"
        packet.data += shift
        packet.length -= shift
        ffi.memmove(packet.data, frame, len(frame))
        for name, value in metadata.items():
            setattr(packet, name, value)
        return packet

    def taken(self, packet: Any) -> bytes:
        """Return a packet's frame and free it."""
        frame = bytes(ffi.buffer(packet.data, packet.length))
        lib.engine_packet_free(self.freelist, packet)
        return frame

    @property
    def counted(self) -> dict[str, int]:
        """What was counted since the last look."""
        counted = {name: n for name, n in zip(NAMES, self.counters, strict=True) if n}
        ffi.memmove(self.counters, bytes(8 * len(NAMES)), 8 * len(NAMES))
        return counted

    @property
    def nfree(self) -> int:
        lib.freelist_flush(self.freelist)
        return self.pool.free

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        nfree, total = self.nfree, self.pool.total
        self.pool.close()
        if error is None:
            assert nfree == total, "packets are missing"


def naive_checksum(data: bytes) -> int:
    """Return the checksum as RFC 1071 words it."""
    total = sum(
        int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big")
        for i in range(0, len(data), 2)
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(  # noqa: PLR0913 - a header's fields
    payload: bytes,
    *,
    src: str = "192.0.2.1",
    dst: str = "198.51.100.1",
    id: int = 7,  # noqa: A002 - the field's name
    field: int = 0,
    ttl: int = 61,
    protocol: int = 17,
    options: bytes = b"",
) -> bytes:
    """Return an IPv4 datagram with a right header checksum."""
    size = 20 + len(options)
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x40 | size // 4,
        0x2E,
        size + len(payload),
        id,
        field,
        ttl,
        protocol,
        0,
        ipaddress.IPv4Address(src).packed,
        ipaddress.IPv4Address(dst).packed,
    )
    header += options
    checksum = naive_checksum(header).to_bytes(2, "big")
    return header[:10] + checksum + header[12:] + payload


def ipv6(
    payload: bytes,
    *,
    src: str = "2001:db8::1",
    dst: str = "2001:db8::2",
    protocol: int = 4,
    hops: int = 64,
) -> bytes:
    """Return an IPv6 packet."""
    return (
        struct.pack("!IHBB", 0x62E12345, len(payload), protocol, hops)
        + ipaddress.IPv6Address(src).packed
        + ipaddress.IPv6Address(dst).packed
        + payload
    )


def ethernet(packet: bytes) -> bytes:
    """Return the frame, untagged, of an IP packet that comes in."""
    return (
        OURS + THEIRS + (b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet
    )
