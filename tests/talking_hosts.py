"""Linux hosts that talk: ping, traceroute, sockets; and what they learn of a path."""

import random
import re
import socket
import threading
from typing import NamedTuple

from tests.hosts import Namespace

# asm-generic/socket.h, linux/in.h
SO_RCVBUFFORCE, IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 33, 10, 0

Address = tuple[str, int]


class Pings(NamedTuple):
    """What ping has said."""

    text: str
    sent: int
    received: int
    duplicates: int


def ping(
    host: Namespace, to: str, *options: str, number: int = 1, patience: int = 20
) -> Pings:
    """Ping until so many answers have come, or the time is over.

    On a machine that has other things to do ping would else not wait for the last ones.
    """
    count = ["-c", str(number), "-w", str(patience), "-i", "0.01"]
    process = host.start("ping", "-n", *count, *options, to)
    text, errors = process.communicate(timeout=60)
    found = re.search(r"(\d+) packets transmitted, (\d+) received", text)
    assert found, text + errors
    duplicates = re.search(r"\+(\d+) duplicates", text)
    more = int(duplicates[1]) if duplicates else 0
    return Pings(text, int(found[1]), int(found[2]), more)


def ping_well(
    host: Namespace, to: str, identifier: int, size: int, *options: str
) -> int:
    """Ping: all is answered, once. Returns how many were sent."""
    more = ["-e", str(identifier), "-s", str(size), *options]
    pings = ping(host, to, *more, number=10)
    assert pings.received >= 10, pings.text
    assert pings.duplicates == 0, pings.text
    return pings.sent


def hops(host: Namespace, *options: str) -> list[str]:
    """Return who answers at each distance, of UDP or TCP.

    Of ICMP, traceroute 2.1.2 misses answers that have come, once in 200 times.
    """
    settings = ["-n", "-q", "1", "-w", "3", "-m", "6"]
    text = host("traceroute", *settings, *options)
    return [line.split()[1] for line in text.splitlines()[1:]]


def connect(
    here: Namespace, there: Namespace, listen: Address, to: Address
) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection from `here` to `there`."""
    with there.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.settimeout(10)
        listener.bind(listen)
        listener.listen()
        near = here.socket(socket.AF_INET, socket.SOCK_STREAM)
        near.settimeout(30)
        near.connect(to)
        far, _ = listener.accept()
        far.settimeout(30)
        return near, far


def transfer(source: socket.socket, target: socket.socket, size: int) -> None:
    """Send so many random bytes through a connection: all arrive, as they were."""
    data = random.Random(size).randbytes(size)  # noqa: S311 - to be repeated
    sender = threading.Thread(target=source.sendall, args=(data,))
    sender.start()
    received = bytearray()
    while len(received) < size:
        some = target.recv(1 << 20)
        assert some, f"closed after {len(received)} bytes"
        received += some
    sender.join()
    assert received == data


def datagrams(host: Namespace, address: Address) -> socket.socket:
    """Return a socket that sends in fragments what is too long for a packet."""
    found = host.socket(socket.AF_INET, socket.SOCK_DGRAM)
    found.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
    found.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
    found.settimeout(10)
    found.bind(address)
    return found


def path_mtu(host: Namespace, to: str) -> int | None:
    """Return the MTU that a host has learnt of a path."""
    found = re.search(r"mtu (\d+)", host("ip", "route", "get", to))
    return int(found[1]) if found else None


def forget(*hosts: Namespace) -> None:
    """Let hosts forget what they have learnt of paths."""
    for host in hosts:
        host.ip("route flush cache")
