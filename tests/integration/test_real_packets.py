"""Two Linux stacks that only `snabb-py forward` joins: nothing is lost or changed."""

import json
import random
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.hosts import Host, run, until, wire

pytestmark = pytest.mark.need("root", "netns", "tun", "ping", "iperf3", "tcpdump")
XDP = pytest.param("xdp", marks=pytest.mark.need("xdp"))
KERNELS = pytest.mark.parametrize("kind", ["raw", XDP])
KINDS = pytest.mark.parametrize("kind", ["raw", "tap", XDP])

SEND = """
import socket, struct, sys, time
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind(("eth", 0))
data = open(sys.argv[1], "rb").read()
while data:
    n, = struct.unpack("<I", data[:4])
    out.send(data[4:4 + n])
    data = data[4 + n:]
    time.sleep(0.0005)
"""


def answers(host: Host, to: str) -> bool:
    command = ["ping", "-q", "-c", "1", "-W", "1", to]
    process = host.start(*command)
    process.communicate(timeout=10)
    return process.returncode == 0


@KINDS
def test_ten_thousand_pings(kind: str) -> None:
    with wire(kind) as w:
        until(lambda: answers(w.a, w.b.ipv4), "the first ping")
        text = w.a("ping", "-f", "-q", "-c", "10000", w.b.ipv4, timeout=120)
        assert "10000 packets transmitted, 10000 received, 0% packet loss" in text
        summary = w.end()
        for direction in summary["directions"]:
            assert direction["forwarded"] >= 10000
            # While its host is not there yet, a tap is down, a veth without carrier.
            away = {"raw": "-down", "tap": "-down", "xdp": "-refused"}[kind]
            early = [n for r, n in direction["drops"].items() if away in r]
            assert direction["lost"] == sum(early) <= 10


def iperf(w: Any, *options: str, to: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(
        w.a("iperf3", "-J", "-t", "1", "-c", to, *options, timeout=60)
    )
    end: dict[str, Any] = result["end"]
    return end


@KINDS
def test_iperf_both_ways_at_default_offloads(kind: str) -> None:
    with wire(kind) as w:
        until(lambda: answers(w.a, w.b.ipv4), "the first ping")
        server = w.b.start("iperf3", "-s")
        try:
            until(
                lambda: ":5201" in w.b("ss", "-ltn"),
                "the server listens",
            )
            for to in (w.b.ipv4, w.b.ipv6):
                for way in ([], ["-R"]):
                    tcp = iperf(w, *way, to=to)
                    assert tcp["sum_received"]["bytes"] > 10**6
                    udp = iperf(w, "-u", "-b", "50M", *way, to=to)
                    assert udp["sum"]["packets"] > 1000
                    # iperf3 itself loses some where it has to wait for a CPU.
                    assert udp["sum"]["lost_percent"] < 50
        finally:
            server.send_signal(signal.SIGINT)
            server.communicate(timeout=10)
        for direction in w.end()["directions"]:
            assert direction["lost"] == sum(direction["drops"].values())


@pytest.mark.need("seg6")
@KERNELS
def test_tcp_in_a_tunnel_of_the_kernels(kind: str) -> None:
    """Super-frames in a tunnel, of which the kernel does not say where to cut them.

    And checksums in a tunnel, of which XDP does not say that they are unfinished.
    """
    with wire(kind) as w:
        until(lambda: answers(w.a, w.b.ipv6), "the first ping")
        for here, there, inner in ((w.a, w.b, "192.0.2.1"), (w.b, w.a, "192.0.2.2")):
            here("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
            encap = f"encap seg6 mode encap.red segs {there.ipv6}:9 dev eth"
            action = f"encap seg6local action End.DX4 nh4 {inner} dev eth"
            here.ip(f"""
                address add {inner}/32 dev lo
                sr tunsrc set {here.ipv6}
                route add 192.0.2.0/24 {encap} src {inner}
                route add {here.ipv6}:9 {action}
                neighbor add {there.ipv6}:9 lladdr {mac(there)} dev eth
            """)
        server = w.b.start("iperf3", "-s", "-1")
        until(lambda: ":5201" in w.b("ss", "-ltn"), "the server listens")
        w.a("iperf3", "-n", "30M", "-c", "192.0.2.2", timeout=30)
        server.communicate(timeout=10)
        found = {"raw": "rx-super-frames-cut", "xdp": "rx-unfinished-checksums"}
        assert w.forwarding.counters("a")[found[kind]] > 0
        w.end()


def mac(host: Host) -> str:
    (found,) = re.findall(r"link/ether (\S+)", host("ip", "link", "show", "eth"))
    return str(found)


def records(path: Path) -> list[bytes]:
    from scapy.utils import RawPcapReader

    return [data for data, _ in RawPcapReader(str(path))]


@pytest.mark.parametrize(("kind", "mtu"), [("raw", 9000), ("tap", 9000), ("xdp", 3400)])
def test_frames_arrive_byte_for_byte(kind: str, mtu: int, tmp_path: Path) -> None:
    """VLAN-tagged, doubly tagged, of any size up to the MTU."""
    rng = random.Random(7)  # noqa: S311 - the same frames each time
    mac = bytes.fromhex("020000000009 020000000008")
    frames = []
    for i in range(300):
        tags = b"".join(
            b"\x81\x00" + rng.randrange(1, 4095).to_bytes(2, "big")
            for _ in range(i % 3)
        )
        # An MTU leaves room for one tag.
        most = mtu - 4 * max(0, i % 3 - 1)
        payload = rng.randbytes(rng.choice([46, 100, 1500, most - 1, most]))
        # 88B5 is nobody's: no stack answers or touches it.
        frames.append(mac + tags + b"\x88\xb5" + payload)
    stream = tmp_path / "frames"
    stream.write_bytes(b"".join(len(f).to_bytes(4, "little") + f for f in frames))
    near, far = tmp_path / "near.pcap", tmp_path / "far.pcap"
    with wire(kind, mtu) as w:
        if kind == "tap":
            # A tap is made with 1500 and belongs to the host by now.
            for host in (w.a, w.b):
                host("ip", "link", "set", "eth", "mtu", str(mtu))
        until(lambda: answers(w.a, w.b.ipv4), "the first ping")
        for sender, receiver in ((w.a, w.b), (w.b, w.a)):
            ours = ("ether", "src", "02:00:00:00:00:08")
            with sender.capturing(near, *ours), receiver.capturing(far, *ours):
                sender(sys.executable, "-c", SEND, str(stream))
            assert records(near) == frames
            assert records(far) == frames
        w.end()


@pytest.mark.need("vlan")
@KINDS
def test_a_vlan_of_the_hosts_own(kind: str) -> None:
    """The kernel keeps the tag apart from the frame; it must be back on the wire."""
    with wire(kind) as w:
        for host, address in ((w.a, "198.18.7.1/24"), (w.b, "198.18.7.2/24")):
            host(
                *[
                    "ip",
                    "link",
                    "add",
                    "link",
                    "eth",
                    "name",
                    "eth.7",
                    "type",
                    "vlan",
                    "id",
                    "7",
                ]
            )
            host("ip", "addr", "add", address, "dev", "eth.7")
            host("ip", "link", "set", "eth.7", "up")
        until(lambda: answers(w.a, "198.18.7.2"), "a ping through the VLAN")
        w.b(*["ip", "link", "set", "eth.7", "down"])
        assert not answers(w.a, "198.18.7.2")
        w.end()


@KERNELS
def test_an_interface_goes_down_and_comes_up(kind: str) -> None:
    with wire(kind) as w:
        until(lambda: answers(w.a, w.b.ipv4), "the first ping")
        run("ip", "link", "set", w.ends[0], "down")
        until(lambda: "down" in w.forwarding.hear(), "a word about it")
        assert not answers(w.a, w.b.ipv4)
        run("ip", "link", "set", w.ends[0], "up")
        until(lambda: answers(w.a, w.b.ipv4), "a ping again")
        w.forwarding.end()


@KERNELS
def test_an_interface_is_renamed(kind: str) -> None:
    with wire(kind) as w:
        until(lambda: answers(w.a, w.b.ipv4), "the first ping")
        other = w.ends[0] + "x"
        run("ip", "link", "set", w.ends[0], "name", other)
        try:
            until(lambda: other in w.forwarding.hear(), "a word about it")
            until(lambda: answers(w.a, w.b.ipv4), "a ping again")
        finally:
            run("ip", "link", "set", other, "name", w.ends[0])
        w.forwarding.end()


@KERNELS
def test_an_interface_is_deleted_and_comes_back(kind: str) -> None:
    with wire(kind) as w:
        until(lambda: answers(w.a, w.b.ipv4), "the first ping")
        end = w.ends[0]
        run("ip", "link", "del", end)
        until(lambda: "deleted" in w.forwarding.hear(), "a word about it")
        time.sleep(0.5)
        assert w.forwarding.process.poll() is None
        run("ip", "link", "add", end, "type", "veth", "peer", "name", end + "p")
        run("ip", "link", "set", end, "up")
        w.a.adopt(end + "p", 1500)
        until(lambda: answers(w.a, w.b.ipv4), "a ping again")
        lines = re.findall(f"{kind}:{end}: interface.*", w.forwarding.hear())
        assert len(lines) <= 4, "it said more than once what happened"
        w.forwarding.end()


def test_a_capture_of_what_passes(tmp_path: Path) -> None:
    """raw: to pcap: - what the kernel left unfinished is finished in the file."""
    from scapy.layers.inet import IP, TCP
    from scapy.layers.l2 import Ether

    from tests.hosts import Forwarding

    path = tmp_path / "out.pcap"
    with wire("raw") as w:
        until(lambda: answers(w.a, w.b.ipv4), "the first ping")
        tap = Forwarding(f"raw:{w.ends[0]}", f"pcap:,{path}")
        server = w.b.start("iperf3", "-s", "-1")
        until(lambda: ":5201" in w.b("ss", "-ltn"), "the server listens")
        w.a("iperf3", "-n", "2M", "-c", w.b.ipv4)
        server.communicate(timeout=10)
        tap.end()
        w.end()
    seen = 0
    for data in records(path):
        packet = Ether(data)
        if TCP not in packet or len(data) < 1000:
            continue
        assert len(data) <= 1514, "a super-frame in the file"
        told = packet[TCP].chksum
        del packet[TCP].chksum
        assert Ether(bytes(packet))[TCP].chksum == told
        seen += 1
        assert packet[IP].len == len(data) - 14
    assert seen > 100
