"""`snabb-py packetblaster` as a user calls it: what leaves, what is said and refused.

Captures are independent: packet sockets of the test, or files read by the test, and
frames parsed by scapy.
"""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import time
from collections import Counter
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether

from snabb_py.apps.fault import Fault
from snabb_py.apps.rawsocket import RawSocket
from snabb_py.engine.config import Config
from snabb_py.lwaftr.conf import read_table
from tests.cables import cables, heard
from tests.captures import NANOSECOND, classic, frames_in, header, record
from tests.harness import small_engine
from tests.hosts import SNABB
from tests.integration.test_forward_cli import snabb
from tests.unit.test_traffic import rebuilt, stamp_of

TABLE = str(Path(__file__).parents[2] / "examples/binding.table")
FRAMES = [
    bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    / IP(src="10.0.0.1", dst=f"10.0.0.{i}") / UDP(sport=i, dport=9) / bytes(i + 18))
    for i in range(1, 200)
]  # fmt: skip


def blast(*arguments: str, status: int = 0) -> dict[str, Any]:
    done = snabb("packetblaster", *arguments, "--json", status=status)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def sent(tmp_path: Path, program: str, *arguments: str) -> list[bytes]:
    """Return what a program sends into a capture."""
    out = tmp_path / "out.pcap"
    files = [a for a in arguments if a.endswith(".pcap")]
    options = [a for a in arguments if a not in files]
    blast(program, *files, f"pcap:,{out}", *options)
    return frames_in(out.read_bytes())


needs_cables = pytest.mark.need("root", "netns")


# -- synth -----------------------------------------------------------------------


@needs_cables
def test_what_was_asked_for_is_on_the_wire() -> None:
    with cables("ab") as it, it.listen("vb") as ear:
        result = it.blast(
            *("synth", "raw:va", "--count", "900", "--rate", "20kpps", "--stamp"),
            *("--size", "64,594,1514", "--src-port", "1000-1099", "--flows", "50"),
        )
        frames = heard(ear)
    (direction,) = result["directions"]
    assert direction["forwarded"] == direction["offered"] == len(frames) == 900
    assert direction["lost"] == direction["missed"] == 0
    assert [len(frame) + 4 for frame in frames] == [64, 594, 1514] * 300
    assert [stamp_of(frame)[1:] for frame in frames] == [(0, n) for n in range(900)]
    assert all(rebuilt(frame) == frame for frame in frames)
    seen = Counter((len(frame), Ether(frame)[UDP].sport) for frame in frames)
    assert len(seen) == 150
    assert set(seen.values()) == {6}


def test_ranges_and_tags(tmp_path: Path) -> None:
    frames = sent(
        tmp_path, "synth", "--count", "64", "--src-ip", "2001:db8::/126",
        "--dst-mac", "02:00:00:00:00:05", "--vlan", "7-10", "--dst-port", "53",
    )  # fmt: skip
    packets = [Ether(frame) for frame in frames]
    assert all(rebuilt(frame) == frame for frame in frames)
    assert {p[IPv6].src for p in packets} == {"2001:db8::"} | {
        f"2001:db8::{i}" for i in (1, 2, 3)
    }
    assert {p[Dot1Q].vlan for p in packets} == {7, 8, 9, 10}
    assert {(p.dst, p[UDP].dport) for p in packets} == {("02:00:00:00:00:05", 53)}
    assert (
        Counter((p[IPv6].src, p[Dot1Q].vlan) for p in packets).most_common()[-1][1] == 4
    )


def test_a_scapy_packet_varies_too(tmp_path: Path) -> None:
    text = "Ether()/IP(ttl=3)/TCP(flags='S')/b'abc'"
    frames = sent(
        tmp_path, "synth", "--packet", text, "--count", "100", "--src-port", "1-100"
    )
    assert [Ether(frame)[IP].payload.sport for frame in frames] == list(range(1, 101))
    assert all(rebuilt(frame) == frame for frame in frames)
    assert {Ether(frame)[IP].ttl for frame in frames} == {3}


@pytest.mark.parametrize(
    ("rate", "pps"),
    [("1Mpps", 1e6), ("5Gbps", 5e9 / (84 * 8)), ("14.88Mpps", 14.88e6), ("2000", 2e3)],
)
def test_the_rate_is_exact_in_modelled_time(
    tmp_path: Path, rate: str, pps: float
) -> None:
    out, count = tmp_path / "out.pcap", 2000
    blast(
        *("synth", f"sim,inline,wire=pcap:,{out}"),
        *("--rate", rate, "--count", str(count)),
    )
    content = out.read_bytes()
    # A record has 16 bytes of header; a frame 60.
    times = [
        seconds + ns / 1e9
        for seconds, ns in (
            struct.unpack_from("<II", content, at)
            for at in range(24, len(content), 16 + 60)
        )
    ]
    assert len(times) == count
    # A breath takes 2 us, whatever this machine does; times are those of breaths.
    assert times[-1] - times[0] == pytest.approx((count - 1) / pps, abs=5e-6, rel=1e-6)


def test_a_software_card_checks_what_it_is_sent() -> None:
    result = blast(
        "synth", "sim", "--count", "50000", "--flows", "1000", "--latency", "--imix"
    )
    (found,) = result["received"]
    assert found["packets"] == 50_000
    assert found["lost"] == found["reordered"] == found["duplicated"] == 0
    times = list(found["latency_ns"].values())
    assert list(found["latency_ns"]) == ["p50", "p99", "p999", "max"]
    assert times[0] > 0
    assert times == sorted(times)


def test_what_the_card_does_not_take_is_said() -> None:
    result = blast("synth", "sim,inline,mtu=100", "--size", "9000", "--count", "100")
    (direction,) = result["directions"]
    assert direction["drops"] == {"port0 drop-tx-too-long": 100}
    assert direction["forwarded"] == 0


# -- the receiver ----------------------------------------------------------------


@needs_cables
def test_the_receiver_finds_what_the_wire_did() -> None:
    from pyroute2 import netns

    with cables("abcd") as it, small_engine() as engine:
        config = Config()
        config.app("in", RawSocket, ifname="vb")
        config.app("out", RawSocket, ifname="vc")
        config.app("fault", Fault, seed=1, drop=0.05, duplicate=0.03, reorder=0.04)
        config.link("in.tx -> fault.rx")
        config.link("fault.tx -> out.rx")
        netns.pushns(it.space.name)
        try:
            engine.commit(config)
        finally:
            netns.popns()
        result = it.blast(
            *("synth", "raw:va", "--receive", "raw:vd", "--latency", "--flows", "100"),
            *("--count", "5000", "--rate", "5kpps"),
        )
        faults = engine.apps["fault"].counters
        # On a busy machine our own sockets may lose some, too.
        late = sum(
            n
            for name in ("in", "out")
            for reason, n in engine.apps[name].counters.items()
            if reason.startswith("drop-")
        )
    (found,) = result["received"]
    assert result["directions"][0]["forwarded"] == 5000
    late += sum(n for reason, n in found.items() if "drop-" in reason)
    assert found["lost"] - late == faults["drop-fault"] > 0
    assert found["duplicated"] == faults["duplicated"] > 0
    assert found["reordered"] == faults["reordered"] > 0
    assert found["packets"] == 5000 - found["lost"] + found["duplicated"]


@pytest.mark.parametrize("seconds", ["1", "0.2"])
def test_what_was_sent_and_missed_is_what_was_asked_for(seconds: str) -> None:
    result = blast("synth", "null", "--rate", "100kpps", "--duration", seconds)
    (direction,) = result["directions"]
    sent, missed = direction["forwarded"], direction["missed"]
    # The time that packets took, however long the program had to start and to end.
    due = sent / direction["mpps"] / 1e6 * 100e3
    # Four bursts, which are 10 ms, may be still to be made up for.
    assert due - 1022 <= sent + missed <= due + 2
    assert direction["gbps"] / direction["mpps"] * 1e3 == pytest.approx(84 * 8, 1e-4)


def test_one_packet_has_the_rate_that_was_asked_for() -> None:
    result = blast("synth", "null", "--rate", "1pps", "--count", "1")
    assert result["directions"][0]["mpps"] == 1e-6


def test_a_report_has_nothing_received_that_is_not_sent() -> None:
    done = snabb(
        *("packetblaster", "synth", "sim", "--stamp", "--json", "--interval", "0.02"),
        *("--rate", "500kpps", "--duration", "1"),
    )
    looks = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(looks) > 2
    for look in looks:
        (found,), (direction,) = look["received"], look["directions"]
        assert found["packets"] <= direction["forwarded"]
        assert sum(direction["missed_by_reason"].values()) == direction["missed"]


@needs_cables
@pytest.mark.parametrize("kind", ["raw", "xdp"])
def test_what_does_not_leave_is_no_traffic(kind: str) -> None:
    with cables("ab") as it:
        it.space.ip("link set va down")
        result = it.blast("synth", f"{kind}:va", "--count", "50", "--rate", "1kpps")
    (direction,) = result["directions"]
    assert sum(direction["drops"].values()) == 50
    assert direction["forwarded"] == direction["mpps"] == direction["gbps"] == 0


@needs_cables
def test_frames_longer_than_the_mtu_are_said_and_are_no_traffic() -> None:
    with cables("ab") as it:
        it.space.ip("link set va mtu 200")
        process = it.start(
            *("synth", "raw:va", "--size", "64,218,219", "--count", "90", "--json"),
        )
        output, errors = process.communicate(timeout=60)
    (direction,) = json.loads(output.splitlines()[-1])["directions"]
    assert errors.count("raw:va: drops frames of 215 bytes without FCS") == 1
    assert "its MTU is 200" in errors
    assert direction["drops"] == {"port0 drop-tx-too-long": 30}
    assert direction["forwarded"] == 60
    bits = direction["gbps"] / direction["mpps"] * 1e3
    assert bits == pytest.approx((64 + 218 + 2 * 20) * 8 / 2, rel=0.01)


def test_what_a_full_disk_does_not_take_is_no_traffic() -> None:
    result = blast("synth", "pcap:,/dev/full", "--count", "50", status=1)
    (direction,) = result["directions"]
    assert direction["drops"] == {"port0-out drop-unfinished": 50}
    assert direction["forwarded"] == direction["mpps"] == direction["gbps"] == 0


@needs_cables
def test_an_interface_that_vanishes_costs_no_other_anything() -> None:
    with cables("abcd") as it, it.listen("vd") as ear:
        process = it.start(
            *("synth", "raw:va", "raw:vc", "--rate", "5kpps", "--count", "10000"),
            *("--json", "--interval", "0.05", "--stamp"),
        )
        assert process.stdout
        process.stdout.readline()
        it.space.ip("link del va")
        output, errors = process.communicate(timeout=60)
        frames = heard(ear)
    assert process.returncode == 0, errors
    gone, whole = json.loads(output.splitlines()[-1])["directions"]
    assert "port0 drop-tx-interface-down" in gone["drops"]
    assert gone["forwarded"] + sum(gone["drops"].values()) == 10_000
    assert whole["forwarded"] == 10_000
    assert [stamp_of(frame)[1:] for frame in frames] == [(1, n) for n in range(10_000)]
    assert len([line for line in errors.splitlines() if "raw:va" in line]) == 1


# -- replay ----------------------------------------------------------------------


def save(path: Path, frames: list[bytes], distance_us: int = 10) -> str:
    times = [divmod(i * distance_us, 10**6) for i in range(len(frames))]
    path.write_bytes(
        header()
        + b"".join(record(f, time=t) for f, t in zip(frames, times, strict=True))
    )
    return str(path)


@pytest.mark.parametrize("rate", [[], ["--rate", "max"], ["--rate", "1Gbps"]])
def test_captures_are_sent_as_they_are(tmp_path: Path, rate: list[str]) -> None:
    one, two = (save(tmp_path / f"{n}.pcap", FRAMES[n::2]) for n in (0, 1))
    frames = sent(tmp_path, "replay", one, two, "--loop", "3", *rate)
    assert frames == (FRAMES[::2] + FRAMES[1::2]) * 3


def test_what_is_left_of_the_time_is_no_packet_missed(tmp_path: Path) -> None:
    capture = save(tmp_path / "in.pcap", FRAMES[:10])
    result = blast(
        *("replay", capture, "null", "--loop", "1000", "--rate", "100kpps"),
    )
    (direction,) = result["directions"]
    assert direction["forwarded"] == 10_000
    assert sum(direction["missed_by_reason"].values()) == direction["missed"]
    # Each that was late made it last longer.
    due = 10_000 / direction["mpps"] / 1e6 * 100e3
    assert 10_000 + direction["missed"] <= due + 2


@needs_cables
def test_a_capture_keeps_its_distances() -> None:
    # The least that can be said of any machine: nothing comes too early.
    with cables("ab") as it, it.listen("vb") as ear:
        ear.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS
        with Path(f"/tmp/snabb-{os.getpid()}.pcap").open("wb") as file:  # noqa: S108
            file.write(header() + b"".join(
                record(FRAMES[i], time=divmod(i * 20_000, 10**6)) for i in range(10)
            ))  # fmt: skip
        try:
            it.blast("replay", file.name, "raw:va")
        finally:
            Path(file.name).unlink()
        times = []
        for _ in range(10):
            _, ancillary, _, _ = ear.recvmsg(2000, 100)
            seconds, ns = memoryview(ancillary[0][2]).cast("q")
            times.append(seconds + ns / 1e9)
    # A packet is late or it is not, the first one too; none is 20 ms early.
    assert times == sorted(times)
    assert times[9] - times[0] > 0.17


def test_addresses_are_written(tmp_path: Path) -> None:
    capture = save(tmp_path / "in.pcap", FRAMES)
    frames = sent(
        tmp_path, "replay", capture, "--rate", "max", "--dst-mac", "02:00:00:00:00:07",
        "--dst-ip", "192.0.2.0/24", "--src-ip", "203.0.113.1",
    )  # fmt: skip
    assert all(rebuilt(frame) == frame for frame in frames)
    assert {Ether(f).dst for f in frames} == {"02:00:00:00:00:07"}
    assert [Ether(f)[IP].dst for f in frames] == [f"192.0.2.{i}" for i in range(1, 200)]


def test_what_fits_the_ring_stays_in_it(tmp_path: Path) -> None:
    capture, out = save(tmp_path / "in.pcap", FRAMES), tmp_path / "out.pcap"
    done = snabb(
        *("packetblaster", "replay", capture, f"sim,wire=pcap:,{out}", "--json"),
        *("--rate", "max", "--loop", "0", "--count", "5000"),
    )
    assert "199 frames stay in its ring" in done.stderr
    assert frames_in(out.read_bytes()) == list(islice(cycle(FRAMES), 5000))
    result = json.loads(done.stdout.splitlines()[-1])
    (direction,) = result["directions"]
    assert direction["offered"] == direction["forwarded"] == 5000


@pytest.mark.parametrize("rate", [[], ["--rate", "max"]])
def test_frames_of_any_size_go_as_far_as_they_can(
    tmp_path: Path, rate: list[str]
) -> None:
    sizes = (60, 9014, 20_000, 66_000, 70_000, 64)
    path = tmp_path / "in.pcap"
    path.write_bytes(classic([FRAMES[0][:14].ljust(size, b"\0") for size in sizes]))
    (direction,) = blast("replay", str(path), "sim", *rate)["directions"]
    assert direction["forwarded"] == 3
    assert direction["drops"] == {
        "replay0 drop-too-long": 1,
        "port0 drop-tx-too-long": 2,
    }


def test_a_damaged_capture_is_sent_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "in.pcap"
    for content, wrong in (
        (classic(FRAMES[:50])[:-1], "cut off inside of the record at byte"),
        (classic(FRAMES[:49]) + b"\xff" * 100, "no record at byte"),
    ):
        path.write_bytes(content)
        done = snabb("packetblaster", "replay", str(path), "sim", "--rate", "max")
        assert "sent 49," in done.stdout
        assert len(re.findall(wrong, done.stderr)) == 1


# -- lwaftr ----------------------------------------------------------------------


def test_each_softwire_has_its_packets(tmp_path: Path) -> None:
    softwires = list(read_table(TABLE))
    n = str(4 * len(softwires))
    common = ("--bt", TABLE, "--size", "64,128", "--count", n, "--stamp")
    v4 = sent(tmp_path, "lwaftr", *common, "--side", "v4")
    v6 = sent(tmp_path, "lwaftr", *common, "--side", "v6")
    assert all(rebuilt_tunnel(frame) == frame for frame in v4 + v6)
    table = read_table(TABLE)
    for inside, outside in zip(v4, v6, strict=True):
        internet, tunnel = Ether(inside)[IP], Ether(outside)[IPv6]
        softwire = table.find(internet_address(internet.dst), internet[UDP].dport)
        assert softwire
        assert (tunnel.src, tunnel.dst) == (str(softwire.b4), str(softwire.br))
        assert (tunnel[IP].src, tunnel[UDP].sport) == (
            internet.dst,
            internet[UDP].dport,
        )
    assert {Ether(f)[IP].dst for f in v4} == {str(s.ipv4) for s in softwires}
    both = sent(tmp_path, "lwaftr", *common)
    assert [IPv6 in Ether(frame) for frame in both] == [False, True] * (len(both) // 2)


def internet_address(text: str) -> Any:
    import ipaddress

    return ipaddress.IPv4Address(text)


def rebuilt_tunnel(frame: bytes) -> bytes:
    """Return the frame as scapy builds it; its UDP has no checksum."""
    packet = Ether(rebuilt(frame))
    packet[UDP].chksum = 0
    packet[UDP].raw_packet_cache = None
    return bytes(packet)


@needs_cables
@pytest.mark.parametrize(
    ("side", "mac", "near", "far"),
    [
        ("v4", "02:00:00:00:00:04", "raw:va", "raw:vd"),
        ("v6", "02:00:00:00:00:06", "raw:vd", "raw:va"),
    ],
)
def test_the_lwaftr_takes_them_and_stamps_survive_its_tunnels(
    side: str, mac: str, near: str, far: str
) -> None:
    with cables("abcd") as it:
        lwaftr = it.space.start(
            *(*SNABB, "lwaftr", "run", "--bt", TABLE, "--v4", "raw:vb"),
            *("--v6", "raw:vc", "--json", "--interval", "0.1"),
            *("--v4-address", "192.0.2.1", "--v4-mac", "02:00:00:00:00:04"),
            *("--v4-next-hop", "02:00:00:00:01:04", "--v6-address", "2001:db8::aaaa"),
            *("--v6-mac", "02:00:00:00:00:06", "--v6-next-hop", "02:00:00:00:01:06"),
            stderr=subprocess.DEVNULL,
        )
        try:
            assert lwaftr.stdout
            lwaftr.stdout.readline()  # it runs
            result = it.blast(
                *("lwaftr", near, "--bt", TABLE, "--side", side, "--dst-mac", mac),
                *("--receive", far, "--latency", "--rate", "2kpps", "--count", "1000"),
            )
        finally:
            lwaftr.terminate()
            lwaftr.communicate(timeout=20)
    (found,) = result["received"]
    assert found["packets"] == 1000
    assert found["lost"] == found["reordered"] == found["duplicated"] == 0
    assert found["latency_ns"]["p50"] > 0


# -- what is refused -------------------------------------------------------------


def test_a_packet_without_end_can_be_interrupted() -> None:
    text = "Ether()/RTPSSubMessage_INFO_TS(submessageFlags=-1)"
    process = subprocess.Popen(
        [*SNABB, "packetblaster", "synth", "null", "--packet", text],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 30
        while not (child := children.read_text().strip()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert not Path(f"/proc/{child}").exists()


def test_a_large_capture_is_not_loaded(tmp_path: Path) -> None:
    # 64 MiB of it, endlessly: memory does not grow with it.
    path = tmp_path / "large.pcap"
    one = b"".join(record(frame) for frame in FRAMES)
    with path.open("wb") as file:
        file.write(header(magic=NANOSECOND))
        while file.tell() < 64 << 20:
            file.write(one)
    process = subprocess.Popen(
        [*SNABB, "packetblaster", "replay", str(path), "null", "--rate", "max",
         "--loop", "0", "--json", "--interval", "0.1"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout
        sizes = list[tuple[int, int]]()
        deadline = time.monotonic() + 30
        while not sizes or sizes[-1][0] < 3 * (64 << 20) // 150:
            look = json.loads(process.stdout.readline())
            status = Path(f"/proc/{process.pid}/status").read_text()
            (rss,) = re.findall(r"VmRSS:\s+(\d+) kB", status)
            sizes.append((look["directions"][0]["forwarded"], int(rss)))
            assert time.monotonic() < deadline
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0
    assert sizes[-1][1] - sizes[0][1] < 16 << 10


@needs_cables
def test_the_end_of_a_receiver_waits_for_what_is_under_way() -> None:
    with cables("ab") as it:
        result = it.blast(
            *("synth", "raw:va", "--receive", "raw:vb", "--rate", "20kpps"),
            *("--duration", "0.5"),
        )
    (found,) = result["received"]
    assert found["packets"] == result["directions"][0]["forwarded"] > 0
    assert found["lost"] == 0
