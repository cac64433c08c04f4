"""A B4's tunnel (RFC 2473) where the kernel has none: `python lwaftr_b4.py B4 AFTR`.

IPv4 packets of the interface "softwire", made here, are the payload of IPv6 packets
of protocol 4. All else is the kernel's: IPv6 headers, fragments of the tunnel both
ways, the interface's MTU and what it says of longer packets.
"""

import contextlib
import fcntl
import os
import socket
import struct
import sys
import threading

# linux/if_tun.h, asm-generic/socket.h
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
SO_RCVBUFFORCE = 33
LONGEST = 65535


def encapsulate(tun: int, tunnel: socket.socket) -> None:
    while packet := os.read(tun, LONGEST):
        with contextlib.suppress(OSError):  # as an ICMPv6 error says, or it is full
            tunnel.send(packet)


def decapsulate(tun: int, tunnel: socket.socket) -> None:
    while True:
        with contextlib.suppress(OSError):
            os.write(tun, tunnel.recv(LONGEST))


def main(b4: str, aftr: str) -> None:
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(
        tun, TUNSETIFF, struct.pack("16sH22x", b"softwire", IFF_TUN | IFF_NO_PI)
    )
    tunnel = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_IPIP)
    tunnel.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
    tunnel.bind((b4, 0))
    tunnel.connect((aftr, 0))
    print("ready", flush=True)
    threading.Thread(target=encapsulate, args=(tun, tunnel), daemon=True).start()
    decapsulate(tun, tunnel)


if __name__ == "__main__":
    main(*sys.argv[1:])
