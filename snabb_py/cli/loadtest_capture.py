"""Frames of a capture made into templates: as they are, but for the place of a stamp.

A stamp lies at the end of the payload, over zeros. So the last bytes of the payload of
TCP and UDP are blanked, what has fewer gets longer, and lengths and checksums are made
right again. What else is in a capture cannot be told from foreign packets when it
arrives, and is left out.
"""

import struct
from pathlib import Path

from snabb_py._native import lib
from snabb_py.apps.pcap import PcapReader
from snabb_py.apps.traffic import Template
from snabb_py.engine.solo import Solo
from snabb_py.errors import ConfigError

#: Most frames that are read.
MOST_FRAMES = 65536
STAMP = bytes(lib.TRAFFIC_STAMP_SIZE)
#: Of the Ethernet header: both addresses; a tag.
ADDRESSES, TAG = 12, 4
TAGS = (0x8100, 0x88A8)
IPV4, IPV6 = 0x0800, 0x86DD
IPV4_SIZE, IPV6_SIZE = 20, 40
TCP, UDP = 6, 17
UDP_SIZE = 8
#: Of an IPv4 header: more fragments, or an offset.
FRAGMENT = 0x3FFF
#: Where the checksum is in the header above IP.
CHECKSUM = {TCP: 16, UDP: 6}


def read_templates(path: Path) -> tuple[list[Template], int]:
    """Return the frames of a capture, in order, and how many were left out.

    Raises:
        ConfigError: it is no capture, has too many frames, or none of use.
        DeviceError: it cannot be read.
    """
    frames = _read(path)
    templates = [Template(frame) for frame in map(with_room, frames) if frame]
    if not templates:
        raise ConfigError(
            f"{path}: none of {len(frames)} frames is whole TCP or UDP over IP, of at "
            f"most {lib.PACKET_SMALL_SIZE} bytes"
        )
    return templates, len(frames) - len(templates)


def _read(path: Path) -> list[bytes]:
    reader = PcapReader(path)
    frames: list[bytes] = []
    with Solo(reader) as solo:
        while solo.breathe():
            frames += solo.received()
            if len(frames) > MOST_FRAMES:
                raise ConfigError(f"{path}: more than {MOST_FRAMES} frames")
        if problem := reader.supervise():
            raise ConfigError(problem)
    return frames


def with_room(frame: bytes) -> bytes | None:
    """Return a frame with zeros where a stamp goes; None: it can have none."""
    at = ADDRESSES
    while (kind := _be16(frame, at)) in TAGS:
        at += TAG
    at += 2
    made = None
    if kind == IPV4:
        made = _ipv4(frame[at:])
    elif kind == IPV6:
        made = _ipv6(frame[at:])
    if made is None or at + len(made) > lib.PACKET_SMALL_SIZE:
        return None
    return frame[:at] + made


def _be16(data: bytes, at: int) -> int:
    """Return 16 bits; 0 beyond the end."""
    return int.from_bytes(data[at : at + 2], "big")


def _checksum(data: bytes) -> bytes:
    return int(lib.checksum(data, len(data))).to_bytes(2, "little")


def _ipv4(packet: bytes) -> bytes | None:
    if len(packet) < IPV4_SIZE or packet[0] >> 4 != 4:  # noqa: PLR2004 - version
        return None
    size, length = (packet[0] & 15) * 4, _be16(packet, 2)
    if not IPV4_SIZE <= size <= length <= len(packet) or _be16(packet, 6) & FRAGMENT:
        return None
    above = _above(packet[9], packet[12:20], packet[size:length])
    if above is None:
        return None
    total = struct.pack(">H", size + len(above))
    header = packet[:2] + total + packet[4:10] + b"\0\0" + packet[12:size]
    return header[:10] + _checksum(header) + header[12:] + above


def _ipv6(packet: bytes) -> bytes | None:
    length = IPV6_SIZE + _be16(packet, 4)
    if len(packet) < length or packet[0] >> 4 != 6:  # noqa: PLR2004 - version
        return None
    above = _above(packet[6], packet[8:40], packet[IPV6_SIZE:length])
    if above is None:
        return None
    return packet[:4] + struct.pack(">H", len(above)) + packet[6:IPV6_SIZE] + above


def _above(protocol: int, addresses: bytes, data: bytes) -> bytes | None:
    """Return TCP or UDP with zeros at its end; None: it is neither, or cut off."""
    if protocol == UDP:
        size = UDP_SIZE
        if len(data) < size or _be16(data, 4) != len(data):
            return None
    elif protocol == TCP:
        # Beyond the end the header's length is 0.
        size = (_be16(data, 12) >> 12) * 4
        if not IPV4_SIZE <= size <= len(data):
            return None
    else:
        return None
    payload = data[size : max(len(data) - len(STAMP), size)] + STAMP
    at, total = CHECKSUM[protocol], size + len(payload)
    header = bytearray(data[:size])
    if protocol == UDP:
        struct.pack_into(">H", header, 4, total)
    header[at : at + 2] = b"\0\0"
    pseudo = addresses + struct.pack(">2H", protocol, total)
    # Zero means "none" in UDP (RFC 768).
    checksum = _checksum(pseudo + header + payload)
    header[at : at + 2] = b"\xff\xff" if checksum == b"\0\0" else checksum
    return bytes(header) + payload
