"""Guests, stock drivers of theirs, and a host at the wire of a software card."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.utils import rdpcap

from tests.hosts import until
from tests.nfv_lab import HERE, Lab, Wire
from tests.unit.test_offload import rebuilt

PAIRS = ["A wire", "wire B", "A B", "C D", "E A", "E wire"]


@pytest.mark.parametrize("pair", PAIRS)
def test_all_reach_each_other(lab: Lab, pair: str) -> None:
    """Two cards of a guest, two guests, and each of them the wire."""
    a, b = (lab[name] for name in pair.split())
    for version in (4, 6):
        assert a.reaches(b.address(version))
        assert b.reaches(a.address(version), "-s 1400")
        a.transfer(b, b.address(version))
        b.transfer(a, a.address(version))


def test_what_a_guest_sees(lab: Lab) -> None:
    bits = {}
    for name, card in lab.cards.items():
        assert card("cat /sys/class/net/eth0/address").strip() == card.mac
        mtu = lab.keys[name].get("mtu", 1500)
        assert card("cat /sys/class/net/eth0/mtu").strip() == str(mtu)
        bits[name] = card("cat /sys/class/net/eth0/device/features")

    def has(number: int) -> str:
        return "".join(name for name in bits if bits[name][number] == "1")

    # virtio 1.2, 5.1.3 and 6
    for feature in (0, 1, 7, 8, 11, 12, 32):  # CSUM, TSO of both sides, VERSION_1
        assert has(feature) == "ABCDE", feature
    assert has(3) == "E"  # MTU
    assert has(15) == "ABDE"  # MRG_RXBUF
    assert has(28) == "ABCE"  # INDIRECT_DESC
    assert has(22) == "A"  # MQ
    assert "Combined:4" in lab["A"]("ethtool -l eth0 | tr -d '\\t '")


@pytest.mark.parametrize("version", [4, 6])
def test_the_card_segments(lab: Lab, tmp_path: Path, version: int) -> None:
    path = tmp_path / "wire.pcap"
    a, wire = lab["A"], lab.wire
    a.offload(tx="on", tso="on", gso="on")
    expression = "tcp and src host " + a.address(version)
    with wire.host.capturing(path, "-B", "16384", expression):
        a.transfer(wire, wire.address(version), 200_000)
        # All of it, but for what a busy tcpdump may have missed.
        until(lambda: path.stat().st_size > 100_000, "the capture")
    frames = [bytes(packet) for packet in rdpcap(str(path))]
    assert max(map(len, frames)) == 1514
    wrong = [f for f in frames if rebuilt(f[: length_of(f)]) != f[: length_of(f)]]
    assert not wrong
    assert lab.counters("A_Virtio")["tx-super-frames"] > 0


def length_of(frame: bytes) -> int:
    """Return a frame's length without the padding of short ones."""
    packet = Ether(frame)
    size = packet[IP].len if IP in packet else packet[IPv6].plen + 40
    return 14 + int(size)


@pytest.fixture
def vlan_host(lab: Lab) -> Iterator[Wire]:
    """The host at the wire with an interface in VLAN 43, too."""
    wire = lab.wire
    vlan = wire.host.start(sys.executable, f"{HERE}/wire_vlan.py", "eth", "43")
    assert vlan.stdout
    assert vlan.stdout.readline() == "ready\n"
    wire("ip addr add 198.18.43.1/24 dev v43; ip addr add fd43::1/64 dev v43 nodad")
    wire("ip link set v43 up")
    yield wire
    vlan.kill()
    vlan.communicate()


def test_vlans(lab: Lab, vlan_host: Wire, tmp_path: Path) -> None:
    """One that the guest knows nothing of, one that it tags, and one not its own."""
    path = tmp_path / "wire.pcap"
    a, b = lab.cards["A"], lab.cards["B"]
    lab.change(A={"vlan": 43}, B={"trunk": [43, "100-199"]})
    b.guest.run("modprobe 8021q")
    try:
        for vlan in (43, 44):
            a(f"ip addr add 198.18.{vlan}.2/24 dev eth0")
            b(f"ip link add link eth0 name v{vlan} type vlan id {vlan}")
            b(f"ip addr add 198.18.{vlan}.3/24 dev v{vlan}; ip link set v{vlan} up")
        with vlan_host.host.capturing(path):
            assert a.reaches("198.18.43.3", "-s 1400")
            assert b.reaches("198.18.43.1", "-s 1400")
            assert vlan_host.reaches("198.18.43.2")
            assert a.hears_nothing(vlan_host.ipv4)
            assert b.hears_nothing("198.18.44.2")
            assert vlan_host.hears_nothing("198.18.44.3", "-I eth")
            a.transfer(vlan_host, "198.18.43.1")
            vlan_host.transfer(b, "198.18.43.3")
            a.transfer(b, "198.18.43.3")
    finally:
        a("ip addr del 198.18.43.2/24 dev eth0; ip addr del 198.18.44.2/24 dev eth0")
        b("ip link del v43; ip link del v44")
    seen = [(p.src, p[Dot1Q].vlan if Dot1Q in p else 0) for p in rdpcap(str(path))]
    assert {tag for source, tag in seen if source in {a.mac, b.mac}} == {43}
    assert {source for source, _ in seen} >= {a.mac, b.mac}
