"""Numbered datagrams between network namespaces; run in a guest, by its path.

    python3 guest_streams.py FILE FROM:TO:ADDRESS...

FROM and TO are namespaces, ADDRESS is IPv4 in TO. Sends without an end, a burst of each
flow every 10 ms, and keeps in FILE, for each flow, the numbers of REPORT. Imports the
standard library alone, little of it: the guest's CPU is emulated.
"""

import ctypes
import os
import socket
import struct
import sys
import time

#: sent, refused by the kernel, received, one more than the highest number, duplicated,
#: reordered: u64 each. What is missing below the highest number is lost.
REPORT = struct.Struct("<6Q")
BURST, INTERVAL, SIZE = 16, 0.01, 200
CLONE_NEWNET = 0x4000_0000
SO_RCVBUFFORCE = 33  # of x86-64; this Python does not name it
FIRST_PORT = 5000


def socket_in(namespace: str) -> socket.socket:
    """Return a UDP socket of a namespace."""
    fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if ctypes.CDLL(None).setns(fd, CLONE_NEWNET):
        sys.exit(f"cannot enter {namespace}")
    os.close(fd)
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
    opened.setblocking(False)
    return opened


class Flow:
    """A sender and its receiver."""

    def __init__(self, word: str, port: int) -> None:
        source, target, address = word.split(":")
        self.address = address, port
        self.sender, self.receiver = socket_in(source), socket_in(target)
        self.receiver.bind(self.address)
        self.seen = bytearray()
        self.sent = self.refused = self.received = 0
        self.duplicated = self.reordered = 0

    def step(self) -> None:
        """Send a burst, and take what has come."""
        for _ in range(BURST):
            try:
                data = self.sent.to_bytes(8, "little").ljust(SIZE, b"\0")
                self.sender.sendto(data, self.address)
                self.sent += 1
            except OSError:  # there is no way, or no room
                self.refused += 1
        try:
            while True:
                self.take(int.from_bytes(self.receiver.recv(SIZE)[:8], "little"))
        except BlockingIOError:
            pass

    def take(self, number: int) -> None:
        """Note a number that has come."""
        self.received += 1
        if number >= len(self.seen):
            self.seen += bytes(number + 1 - len(self.seen))
        elif self.seen[number]:
            self.duplicated += 1
        else:
            self.reordered += 1
        self.seen[number] = 1

    @property
    def report(self) -> bytes:
        """What others are told."""
        return REPORT.pack(
            self.sent,
            self.refused,
            self.received,
            len(self.seen),
            self.duplicated,
            self.reordered,
        )


def main() -> None:
    """Go on until killed."""
    flows = [Flow(word, FIRST_PORT + i) for i, word in enumerate(sys.argv[2:])]
    fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY, 0o644)
    while True:
        end = time.monotonic() + INTERVAL
        for flow in flows:
            flow.step()
        os.pwrite(fd, b"".join(flow.report for flow in flows), 0)
        time.sleep(max(0, end - time.monotonic()))


if __name__ == "__main__":
    main()
