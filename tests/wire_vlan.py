"""Makes INTERFACE a VLAN interface v<VLAN>, on kernels that have none of their own.

A tap: what is sent on it gets the tag and goes out on INTERFACE, what comes there with
the tag loses it and comes in here.
"""

import fcntl
import os
import select
import socket
import struct
import sys

SOL_PACKET, PACKET_AUXDATA, TUNSETIFF = 263, 8, 0x400454CA
IFF_TAP, IFF_NO_PI, TP_STATUS_VLAN_VALID = 2, 0x1000, 16


def make_tap(name: str) -> int:
    tap = os.open("/dev/net/tun", os.O_RDWR)
    request = struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI)
    fcntl.ioctl(tap, TUNSETIFF, request)
    return tap


def receive(trunk: socket.socket, vlan: int) -> bytes | None:
    """Return the next frame if it has the tag, which the kernel keeps beside it."""
    frame, ancillary, _, address = trunk.recvmsg(70000, 100)
    if address[2] == socket.PACKET_OUTGOING:
        return None
    (status,) = struct.unpack_from("I", ancillary[0][2])
    (tci,) = struct.unpack_from("H", ancillary[0][2], 16)
    return frame if status & TP_STATUS_VLAN_VALID and tci & 0xFFF == vlan else None


def main(interface: str, number: str) -> None:
    vlan = int(number)
    tap = make_tap(f"v{vlan}")
    trunk = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    trunk.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    trunk.bind((interface, 3))
    tag = struct.pack("!HH", 0x8100, vlan)
    print("ready", flush=True)
    while True:
        ready = select.select([tap, trunk.fileno()], [], [])[0]
        if tap in ready:
            frame = os.read(tap, 70000)
            trunk.send(frame[:12] + tag + frame[12:])
        if trunk.fileno() in ready and (plain := receive(trunk, vlan)):
            os.write(tap, plain)


if __name__ == "__main__":
    main(*sys.argv[1:])
