"""A cable: two interfaces of the kernel, joined; the test at one end."""

import itertools
import os
import socket
import struct
import subprocess
from pathlib import Path

from tests.hosts import run, wait_for_carrier

# linux/if_packet.h, linux/udp.h
SOL_PACKET, PACKET_AUXDATA, PACKET_VNET_HDR = 263, 8, 15
_numbers = itertools.count()


class End:
    """The other end of the cable, as a packet socket with virtio-net headers."""

    def __init__(self, interface: str) -> None:
        self.interface = interface
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        self._socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        self._socket.bind((interface, 3))
        self._socket.settimeout(5)

    def send(self, frame: bytes, offload: bytes = bytes(10)) -> None:
        self._socket.send(offload + frame)

    def receive(self) -> tuple[bytes, bytes]:
        """Return the next frame, with its VLAN tag, and its virtio-net header."""
        while True:
            data, ancillary, _, address = self._socket.recvmsg(70000, 100)
            if address[2] == socket.PACKET_OUTGOING:
                continue
            (status,) = struct.unpack_from("I", ancillary[0][2])
            tci, tpid = struct.unpack_from("HH", ancillary[0][2], 16)
            tag = struct.pack("!HH", tpid, tci) if status & 16 else b""
            return data[10:22] + tag + data[22:], data[:10]

    def close(self) -> None:
        self._socket.close()


class Cable:
    """Two interfaces joined, both up; nobody says anything over them by himself.

    Args:
        mtu: of both.
        queues: of both, in each direction.
    """

    def __init__(self, mtu: int = 9000, queues: int = 1) -> None:
        self.mtu, self.queues = mtu, queues
        number = next(_numbers)
        self.a, self.b = (f"r{os.getpid() % 10**6}{end}{number}" for end in "ab")
        self.lay()
        self.end = End(self.b)

    def lay(self) -> None:
        n = f"numrxqueues {self.queues} numtxqueues {self.queues}"
        run(*f"ip link add {self.a} {n} type veth peer name {self.b} {n}".split())
        for name in (self.a, self.b):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
            run("ip", "link", "set", name, "up", "mtu", str(self.mtu))
        wait_for_carrier(self.a, self.b)

    def cut(self) -> None:
        subprocess.run(["ip", "link", "del", self.a], check=False)

    def close(self) -> None:
        self.end.close()
        self.cut()


def header(*tags: tuple[int, int]) -> bytes:
    """Return an Ethernet header with these tags (type, tag) and a test EtherType."""
    head = bytes.fromhex("02aaaaaaaaaa 02bbbbbbbbbb")
    for kind, tag in tags:
        head += struct.pack("!HH", kind, tag)
    return head + b"\x88\xb5"


def filled(size: int, *tags: tuple[int, int]) -> bytes:
    """Return a frame of so many bytes, tags not counted."""
    return header(*tags) + bytes((i * 7 + size) % 256 for i in range(size - 14))


FRAMES = [
    filled(14),
    filled(60),
    filled(64),
    filled(65),
    filled(9014),
    filled(60, (0x8100, 5)),
    filled(60, (0x8100, 0)),  # a priority tag of nothing is a tag
    filled(60, (0x8100, 0xFFFF)),
    filled(9014, (0x8100, 0x2005)),
    filled(60, (0x88A8, 7), (0x8100, 5)),
    filled(9000, (0x88A8, 7), (0x8100, 5)),
    filled(60, (0x8100, 7), (0x8100, 5)),
]


def naive_checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def super_frame(*tags: tuple[int, int], payload: int = 5000) -> tuple[bytes, int]:
    """Return a TCP super-frame, and where its unfinished checksum begins."""
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 40 + payload, 1, 0, 64, 6, 0)
    ip += bytes([198, 18, 0, 1, 198, 18, 0, 2])
    ip = ip[:10] + struct.pack("!H", naive_checksum(ip)) + ip[12:]
    tcp = struct.pack("!HHIIHHHH", 1, 2, 3, 4, 0x5010, 5, 0, 0)
    head = header(*tags)[:-2] + b"\x08\x00"
    data = bytes(i % 251 for i in range(payload))
    return head + ip + tcp + data, len(head) + 20
