"""What each key of the config says is what a guest, or the wire, gets to see."""

import time
from pathlib import Path

import pytest

from tests.hosts import run, until
from tests.nfv_lab import PATIENCE, End, Lab

WIRE_BYTES = 24  #: beside a frame: preamble, FCS, gap
DATAGRAM = 1000
DROPPED = "drop-policed"
FRAME = DATAGRAM + 42


def check(a: End, b: End, passing: set[str]) -> None:
    """Check what passes from one to the other, and its answer back."""
    for version, ping, tcp in ((4, "ping", "tcp"), (6, "ping6", "tcp6")):
        address = b.address(version)
        if ping in passing:
            assert a.reaches(address), ping
        else:
            assert a.hears_nothing(address), ping
        seconds = PATIENCE if tcp in passing else 1
        assert a.connects(b, address, seconds) == (tcp in passing), tcp


ALL = {"ping", "ping6", "tcp", "tcp6"}
NEIGHBOURS = "arp or icmp6[0] == 135 or icmp6[0] == 136"
FILTERS = [
    # keys, what passes from the wire to the guest, and from the guest to the wire
    ({}, ALL, ALL),
    ({"ingress_filter": "arp or icmp"}, {"ping"}, {"ping"}),
    ({"egress_filter": "arp or (ip and tcp)"}, {"tcp"}, {"tcp"}),
    ({"ingress_filter": "not icmp", "egress_filter": "not tcp"}, {"ping6"}, {"ping6"}),
    # It may ask for anything, and be asked by nobody but for ping6.
    (
        {"ingress_filter": "arp or icmp6", "stateful_filter": True},
        {"ping6"},
        ALL,
    ),
    # It answers, and asks for nothing but by ping.
    (
        {"egress_filter": f"arp or icmp or {NEIGHBOURS}", "stateful_filter": True},
        ALL,
        {"ping"},
    ),
]


@pytest.mark.parametrize(("keys", "to_it", "from_it"), FILTERS)
def test_filters(
    lab: Lab, keys: dict[str, object], to_it: set[str], from_it: set[str]
) -> None:
    lab.change(B=keys)
    check(lab.wire, lab["B"], to_it)
    check(lab["B"], lab.wire, from_it)
    # Between two guests as well.
    if len(keys) == 1:
        check(lab["A"], lab["B"], to_it)
    for way in ("in", "out"):
        key = {"in": "ingress_filter", "out": "egress_filter"}[way]
        assert key not in keys or lab.counters(f"B_Filter_{way}")["drop-filtered"] > 0


def test_addresses(lab: Lab) -> None:
    """A port has those of its key, and no others, which it cannot send from either."""
    b, wire = lab.cards["B"], lab.wire
    b.guest.run("modprobe macvlan")
    try:
        for number, mac in ((101, "52:54:00:00:00:1b"), (102, "52:54:00:00:00:2b")):
            b(f"ip link add link eth0 name m{number} address {mac} type macvlan")
            b(f"ip addr add 198.18.{number}.3/24 dev m{number}")
            b(f"ip link set m{number} up")
            wire(f"ip addr add 198.18.{number}.1/24 dev eth")
        assert b.reaches("198.18.101.1")
        assert wire.reaches("198.18.101.3")
        assert b.hears_nothing("198.18.102.1")
        assert wire.hears_nothing("198.18.102.3")
    finally:
        b("ip link del m101; ip link del m102")
        wire("ip addr del 198.18.101.1/24 dev eth; ip addr del 198.18.102.1/24 dev eth")


def test_the_mirror_has_all(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "mirror.pcapng"
    a, wire = lab["A"], lab.wire
    lab.change(A={"mirror": str(path)})
    assert a.reaches(wire.ipv4)

    def captured(expression: str) -> int:
        return len(run("tcpdump", "-nr", str(path), expression).splitlines())

    until(lambda: captured("icmp[0] == icmp-echoreply") >= 3, "the answers")
    assert captured(f"icmp[0] == icmp-echo and src {a.ipv4}") >= 3
    assert captured(f"icmp and src {wire.ipv4}") >= 3


# -- police --------------------------------------------------------------------


class Limiter:
    """A port's policer, its counters and its time.

    Its bucket is empty when it has just dropped something: between two such moments
    nothing but its rate has passed, however the sender fared.
    """

    def __init__(self, lab: Lab, way: str) -> None:
        self.lab, self.name = lab, f"A_{way.capitalize()}Limit"

    def look(self) -> tuple[float, int, int, int]:
        """Return the time, packets and bits that have passed, and packets dropped."""
        counters = self.lab.program.ask("counters")
        links = counters["links"]
        out = next(n for link, n in links.items() if link.startswith(f"{self.name}.tx"))
        packets = out["rxpackets"]
        bits = (out["rxbytes"] + packets * WIRE_BYTES) * 8
        return time.monotonic(), packets, bits, counters["apps"][self.name][DROPPED]

    def empty(self) -> tuple[float, int, int, int]:
        """Wait for a moment at which the bucket is empty; return what is then."""
        looks = [self.look()]

        def is_empty() -> bool:
            looks.append(self.look())
            (before, *_, old), (now, *_, new) = looks[-2:]
            return new > old and now - before < 0.03

        until(is_empty, "more than the limit")
        return looks[-1]


@pytest.mark.parametrize("path", ["A wire", "wire A", "A B"])
def test_police(lab: Lab, path: str) -> None:
    sender, receiver = (lab[name] for name in path.split())
    way, mbps = ("tx" if sender.name == "A" else "rx"), 5
    # A second's worth may pass at once: others have the CPU, too.
    burst = mbps * 10**6 // 8
    lab.change(A={f"{way}_police": mbps / 1000, f"{way}_police_burst": burst})
    limiter = Limiter(lab, way)
    arrived, passed = receiver.count("rx_packets"), limiter.look()[1]
    to = f"-c {receiver.ipv4} -p {receiver.serve()}"
    with sender.running(f"iperf3 -u {to} -t 3600 -l {DATAGRAM} -b {10 * mbps}M"):
        start = limiter.empty()
        time.sleep(4)
        end = limiter.empty()
    seconds, packets, bits, lost = (b - a for a, b in zip(start, end, strict=True))
    assert bits / seconds == pytest.approx(mbps * 1e6, rel=0.05)
    assert lost > packets, "too little was offered"
    # All of it has come.
    passed, arrived = limiter.look()[1] - passed, receiver.count("rx_packets") - arrived
    assert arrived == pytest.approx(passed, rel=0.02)


def unwanted(end: End) -> int:
    """Return how many datagrams have come to ports where nobody listens."""
    lines = end("cat /proc/net/snmp").splitlines()
    names, values = (line.split() for line in lines if line.startswith("Udp:"))
    return int(dict(zip(names, values, strict=True))["NoPorts"])


@pytest.mark.parametrize("way", ["tx", "rx"])
def test_a_burst_passes_at_once(lab: Lab, way: str) -> None:
    burst = 131072
    a, wire = lab["A"], lab.wire
    sender, receiver = (a, wire) if way == "tx" else (wire, a)
    assert a.reaches(wire.ipv4)
    # A bit a second: what passes is the burst, and neighbours have been found.
    lab.change(A={f"{way}_police": 1e-9, f"{way}_police_burst": burst})
    before = unwanted(receiver)
    send = f"echo -n $data >/dev/udp/{receiver.ipv4}/9"
    loop = f"data=$(printf %0{DATAGRAM}d 0); for i in $(seq 200); do {send}; done"
    sender(f"bash -c '{loop}'")
    fits = burst // (FRAME + WIRE_BYTES)
    until(lambda: unwanted(receiver) - before >= fits - 2, "the burst")
    assert unwanted(receiver) - before <= fits


def test_tcp_passes_a_policed_port(lab: Lab) -> None:
    """Segments of super-frames are policed, not super-frames."""
    a, wire = lab["A"], lab.wire
    lab.change(A={"tx_police": 0.05, "tx_police_burst": 131072})
    a.transfer(wire, wire.ipv4, 4 << 20)
    assert lab.counters("A_TxLimit")["drop-policed-segments"] > 0
