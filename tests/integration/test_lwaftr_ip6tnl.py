"""A B4 whose tunnel is Linux's own, ip6tnl, in a virtual machine that has it.

With its defaults: in front of each packet are destination options that limit how often
it may be tunnelled (RFC 2473, 4.1.1).
"""

import hashlib
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.guest import Guest
from tests.lwaftr_lab import (
    B4_GUEST,
    BR_HOME,
    PORTS_GUEST,
    SERVER,
    SHARED,
    Lab,
    lab,
)
from tests.talking_hosts import ping_well

pytestmark = pytest.mark.need("qemu", "root", "netns", "tun", "ping", "nft", "seg6")

SET_UP = f"""
modprobe -a virtio_net ip6_tunnel
until dev=$(ls -d /sys/class/net/e*); do sleep 0.05; done
dev=$(basename $dev)
ip address add {B4_GUEST}/64 dev $dev nodad
ip link set $dev up
ip route add default via 2001:db8:3::1
ip link add softwire type ip6tnl mode ipip6 local {B4_GUEST} remote {BR_HOME} dev $dev
ip address add {SHARED}/32 dev softwire
ip link set softwire up
ip route add default dev softwire
echo {PORTS_GUEST.start} {PORTS_GUEST.stop - 1} >/proc/sys/net/ipv4/ip_local_port_range
"""
DATA = random.Random(7).randbytes(4 << 20)  # noqa: S311 - to be repeated


class Net(NamedTuple):
    """The lab, and the guest in it."""

    lab: Lab
    guest: Guest


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    tap = f"s{os.getpid() % 10**6}guest"
    card = ["-netdev", f"tap,id=net,ifname={tap},script=no,downscript=no"]
    card += ["-device", "virtio-net-pci,netdev=net"]
    with (
        lab(tmp_path_factory.mktemp("lwaftr"), has_conf=True, nworkers=1) as found,
        Guest(extra=card) as guest,
    ):
        found.adopt_guest(tap)
        guest.run(SET_UP)
        guest.run(f"until ping -c 1 -W 1 -e {PORTS_GUEST.start} {SERVER}; do :; done")
        yield Net(found, guest)


@pytest.mark.parametrize("size", [56, 1400, 3000, 9000])
def test_pings(net: Net, size: int) -> None:
    """The long ones come in fragments of the tunnel, and go in such of IPv4."""
    identifier = PORTS_GUEST.start + 100 + size % 100
    with net.lab.program.losing_nothing():
        ping_well(net.lab.server, SHARED, identifier, size)
        options = f"-c 10 -w 20 -i 0.02 -s {size} -e {identifier + 100}"
        said = net.guest.run(f"ping {options} {SERVER}", 30)
        assert int(said.split(" received")[0].split()[-1]) >= 10


def listener(net: Net) -> socket.socket:
    found = net.lab.server.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.settimeout(30)
    found.bind((SERVER, 80))
    found.listen()
    return found


def test_download(net: Net) -> None:
    with listener(net) as server:
        job = net.guest.start(f"bash -c 'sha256sum </dev/tcp/{SERVER}/80'")
        connection, address = server.accept()
        with connection:
            assert address[0] == SHARED
            assert address[1] in PORTS_GUEST
            connection.sendall(DATA)
        assert hashlib.sha256(DATA).hexdigest() in job.wait(60)


def test_upload(net: Net) -> None:
    Path(net.guest.share, "data").write_bytes(DATA)
    with listener(net) as server:
        job = net.guest.start(f"bash -c 'cat /tmp/share/data >/dev/tcp/{SERVER}/80'")
        connection, _ = server.accept()
        received = bytearray()
        with connection:
            connection.settimeout(30)
            while some := connection.recv(1 << 20):
                received += some
        job.wait()
        assert received == DATA


def test_traceroute(net: Net) -> None:
    """From there, by what ping tells: the tunnel is one hop."""
    command = f"ping -n -c 1 -W 5 -e {PORTS_GUEST.start} -t {{}} {SERVER}"
    assert "From 198.18.0.254 " in net.guest.call(command.format(1)).stdout
    assert "ttl=62" in net.guest.run(command.format(2))
