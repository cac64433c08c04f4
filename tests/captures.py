"""Capture files made by hand, byte by byte: what the readers of pcap.c are held to.

Written from the drafts (draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng), apart from
the code under test; and `frames_in`, which reads them slowly and plainly. `order` is
"<" (little-endian) or ">" throughout.
"""

import contextlib
import struct
from collections.abc import Iterable, Iterator

ETHERNET = 1
MICROSECOND, NANOSECOND = 0xA1B2C3D4, 0xA1B23C4D

#: Byte order and magic of the four kinds of classic file.
CLASSIC = [("<", MICROSECOND), ("<", NANOSECOND), (">", MICROSECOND), (">", NANOSECOND)]


def header(
    order: str = "<",
    magic: int = MICROSECOND,
    *,
    snaplen: int = 262144,
    link_type: int = ETHERNET,
    version: tuple[int, int] = (2, 4),
) -> bytes:
    return struct.pack(f"{order}IHHiIII", magic, *version, 0, 0, snaplen, link_type)


def record(
    frame: bytes,
    order: str = "<",
    time: tuple[int, int] = (0, 0),
    original: int | None = None,
) -> bytes:
    original = len(frame) if original is None else original
    return struct.pack(f"{order}IIII", *time, len(frame), original) + frame


def classic(
    frames: Iterable[bytes], order: str = "<", magic: int = MICROSECOND
) -> bytes:
    records = (record(frame, order, (i, i)) for i, frame in enumerate(frames))
    return header(order, magic) + b"".join(records)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + length + body + length


def option(code: int, value: bytes, order: str = "<") -> bytes:
    head = struct.pack(f"{order}HH", code, len(value))
    return head + value + bytes(-len(value) % 4)


def section(order: str = "<", options: bytes = b"", major: int = 1) -> bytes:
    body = struct.pack(f"{order}IHHq", 0x1A2B3C4D, major, 0, -1)
    return block(0x0A0D0D0A, body + options, order)


def interface(
    order: str = "<", link_type: int = ETHERNET, snaplen: int = 0, options: bytes = b""
) -> bytes:
    return block(1, struct.pack(f"{order}HHI", link_type, 0, snaplen) + options, order)


def enhanced(  # noqa: PLR0913 - all have defaults
    frame: bytes,
    order: str = "<",
    *,
    number: int = 0,
    ticks: int = 0,
    original: int | None = None,
    options: bytes = b"",
) -> bytes:
    original = len(frame) if original is None else original
    head = struct.pack(
        f"{order}IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), original
    )
    return block(6, head + frame + bytes(-len(frame) % 4) + options, order)


def obsolete(frame: bytes, order: str = "<", number: int = 0) -> bytes:
    head = struct.pack(f"{order}HHIIII", number, 0, 0, 0, len(frame), len(frame))
    return block(2, head + frame, order)


def simple(frame: bytes, order: str = "<", original: int | None = None) -> bytes:
    original = len(frame) if original is None else original
    return block(3, struct.pack(f"{order}I", original) + frame, order)


def ng(frames: Iterable[bytes], order: str = "<") -> bytes:
    """Return a pcapng file with all three kinds of packet block in turn."""
    kinds = (enhanced, simple, obsolete)
    blocks = [kinds[i % 3](frame, order) for i, frame in enumerate(frames)]
    return section(order) + interface(order) + b"".join(blocks)


class EndOfSenseError(Exception):
    """What follows cannot be read."""


def frames_in(content: bytes) -> list[bytes]:
    """Return the frames that a reader must find in a file, however broken it is."""
    read = read_ng if content[:4] == b"\n\r\r\n" else read_classic
    frames = []
    with contextlib.suppress(EndOfSenseError, struct.error):
        for frame in read(content):
            if 0 < len(frame) <= 66 * 1024:
                frames.append(frame)  # noqa: PERF401 - kept when an error follows
    return frames


def demand(condition: bool) -> None:
    if not condition:
        raise EndOfSenseError


def captured(data: bytes, original: int, fcs: int) -> bytes:
    return data[: max(0, original - fcs)] if fcs else data


def read_classic(content: bytes) -> Iterator[bytes]:
    orders = {struct.pack(f"{order}I", magic): order for order, magic in CLASSIC}
    demand(content[:4] in orders)
    order = orders[content[:4]]
    major, minor, _, _, snaplen, kind = struct.unpack_from(f"{order}HHIIII", content, 4)
    demand((major, minor, kind & 0xFFFF) == (2, 4, ETHERNET))
    fcs = (kind >> 28) * 2 if kind >> 26 & 1 else 0
    at = 24
    while at < len(content):
        length, original = struct.unpack_from(f"{order}II", content, at + 8)
        demand(length <= max(262144, snaplen) and at + 16 + length <= len(content))
        yield captured(content[at + 16 : at + 16 + length], original, fcs)
        at += 16 + length


def read_ng(content: bytes) -> Iterator[bytes]:
    order, interfaces, at = "<", list[tuple[int, int, int]](), 0
    while at < len(content):
        if content[at : at + 4] == b"\n\r\r\n":
            magic = content[at + 8 : at + 12]
            demand(magic in (b"\x1a\x2b\x3c\x4d", b"\x4d\x3c\x2b\x1a"))
            order = ">" if magic[0] == 0x1A else "<"
        kind, total = struct.unpack_from(f"{order}II", content, at)
        demand(total >= 12 and total % 4 == 0 and at + total <= len(content))
        demand(struct.unpack_from(f"{order}I", content, at + total - 4)[0] == total)
        body = content[at + 8 : at + total - 4]
        at += total
        if kind == 0x0A0D0D0A:
            demand(len(body) >= 16)
            demand(struct.unpack_from(f"{order}H", body, 4)[0] == 1)
            interfaces = []
        elif kind == 1:
            demand(len(body) >= 8)
            interfaces.append(read_interface(body, order))
        elif kind in (2, 3, 6):
            with contextlib.suppress(struct.error, IndexError):
                yield read_packet(kind, body, order, interfaces)


def read_interface(body: bytes, order: str) -> tuple[int, int, int]:
    """Return link type, snap length, bytes of FCS."""
    link_type, _, snaplen = struct.unpack_from(f"{order}HHI", body)
    fcs, at = 0, 8
    with contextlib.suppress(struct.error):
        while True:
            code, length = struct.unpack_from(f"{order}HH", body, at)
            at += 4 + length + -length % 4
            if code == 0 or at > len(body):
                break
            if code == 13 and length == 1:
                fcs = 4 if body[at - 4] in (4, 32) else 0
    return link_type, snaplen, fcs


def read_packet(
    kind: int, body: bytes, order: str, interfaces: list[tuple[int, int, int]]
) -> bytes:
    """Return a packet block's frame; empty if it is none of ours.

    Raises:
        struct.error, IndexError: the block is too short, or of no interface.
    """
    if kind == 3:
        (original,) = struct.unpack_from(f"{order}I", body)
        link_type, snaplen, fcs = interfaces[:256][0]
        length = min(original, snaplen or original)
        data = body[4:]
    else:
        form = f"{order}IQII" if kind == 6 else f"{order}HHQII"
        number, *_, length, original = struct.unpack_from(form, body)
        link_type, _, fcs = interfaces[:256][number]
        data = body[20:]
    if length > len(data) or link_type != ETHERNET:
        return b""
    return captured(data[:length], original, fcs)
