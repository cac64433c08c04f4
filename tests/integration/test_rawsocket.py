"""RawSocket on one end of a cable, the test on the other; and what becomes of it."""

import contextlib
import errno
import itertools
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snabb_py._native import ffi, lib
from snabb_py.apps.rawsocket import PacketSocket, RawSocket
from snabb_py.engine.resources import Registry
from snabb_py.errors import ConfigError, DeviceError
from tests.cable import FRAMES, Cable, End, filled, header, super_frame
from tests.harness import Harness
from tests.hosts import SNABB, Forwarding, Wire, run, until, wait_for_carrier, wire

pytestmark = pytest.mark.need("root", "netns")

_numbers = itertools.count()


@pytest.fixture
def cable() -> Iterator[Cable]:
    cable = Cable()
    yield cable
    cable.close()


def offload(start: int, size: int = 1000) -> bytes:
    return struct.pack("<BBHHHH", 1, 1, start + 20, size, start, 16)


# -- frames ------------------------------------------------------------------


def test_frames_come_in_as_they_were_sent(cable: Cable) -> None:
    with Harness(RawSocket(cable.a)) as harness:
        for frame in FRAMES:
            cable.end.send(frame)
        assert harness.drain() == FRAMES
        n, size = len(FRAMES), sum(map(len, FRAMES))
        assert harness.counters == {"rx-packets": n, "rx-bytes": size}


@pytest.mark.parametrize("nmacs", [1, 2, 60])
def test_frames_for_others_do_not_come_in(cable: Cable, nmacs: int) -> None:
    """Those for the given stations do, and for groups; a tag is no matter."""
    macs = [bytes([2, 0, 0, 0, i, i]) for i in range(nmacs)]
    groups = [bytes.fromhex(mac) for mac in ("ffffffffffff", "333300000001")]
    others = [bytes.fromhex(mac) for mac in ("020000000001", "02aaaaaaaaaa")]
    tags = [[], [(0x8100, 5)]]
    sent = [
        mac + filled(60, *tag)[6:]
        for mac in (macs[0], *others, macs[-1], *groups)
        for tag in tags
    ]
    with Harness(RawSocket(cable.a, macs)) as harness:
        for frame in sent:
            cable.end.send(frame)
        wanted = [frame for frame in sent if frame[:6] in {*macs, *groups}]
        assert harness.drain() == wanted
        assert harness.counters["rx-packets"] == len(wanted)
        assert not drops(harness)


def test_frames_go_out_as_they_are(cable: Cable) -> None:
    with Harness(RawSocket(cable.a)) as harness:
        harness.send(FRAMES)
        assert harness.breathe() == len(FRAMES)
        assert [cable.end.receive()[0] for _ in FRAMES] == FRAMES
        n, size = len(FRAMES), sum(map(len, FRAMES))
        assert harness.counters == {"tx-packets": n, "tx-bytes": size}
        # What we send does not come back as if somebody had sent it to us.
        assert harness.drain() == []


@pytest.mark.parametrize("ntags", [0, 1, 2])
def test_super_frames_keep_their_metadata(cable: Cable, ntags: int) -> None:
    """The kernel counts without the tag that it takes out; we count with it."""
    frame, start = super_frame(*[(0x88A8, 6), (0x8100, 7)][2 - ntags :])
    with Harness(RawSocket(cable.a)) as harness:
        cable.end.send(frame, offload(start))
        harness.breathe()
        (packet,) = take(harness)
        assert ffi.buffer(packet.data, packet.length)[:] == frame
        assert packet.flags == lib.PACKET_CSUM_PARTIAL
        assert (packet.gso_type, packet.gso_size) == (lib.PACKET_GSO_TCPV4, 1000)
        assert (packet.csum_start, packet.csum_offset) == (start, 16)
        give(harness, packet)
        harness.breathe()
        received, told = cable.end.receive()
        assert received == frame
        flags, kind, _, size, at, field = struct.unpack("<BBHHHH", told)
        outer = 4 if ntags else 0
        assert (flags, kind, size, at, field) == (1, 1, 1000, start - outer, 16)
        assert harness.counters["rx-super-frames"] == 1
        assert harness.counters["tx-super-frames"] == 1


def take(harness: Harness) -> list[Any]:
    packets = ffi.new("struct packet *[]", 64)
    return list(packets[0 : lib.engine_link_receive(harness.outputs[0], packets, 64)])


def give(harness: Harness, packet: Any) -> None:
    pointers = ffi.new("struct packet *[]", [packet])
    assert lib.engine_link_transmit(harness.inputs[0], pointers, 1)


def test_the_largest_super_frame(cable: Cable) -> None:
    # The kernel itself cuts up what is 64 KiB with its Ethernet header.
    frame, start = super_frame((0x8100, 5), payload=65477)
    with Harness(RawSocket(cable.a)) as harness:
        cable.end.send(frame, offload(start))
        harness.send(harness.drain())
        assert harness.counters["rx-super-frames"] == 1
        assert harness.counters["rx-bytes"] == len(frame) == 65535


def test_a_packet_without_headroom_goes_out(cable: Cable) -> None:
    """The virtio-net header then is a piece of its own."""
    frame = filled(60 + 256)
    with Harness(RawSocket(cable.a)) as harness:
        harness.send([frame[256:]])
        packet = harness.inputs[0].ring[0]
        packet.data -= 256
        ffi.memmove(packet.data, frame, len(frame))
        packet.length = len(frame)
        harness.breathe()
        assert cable.end.receive()[0] == frame


def test_a_burst_goes_out_in_order(cable: Cable) -> None:
    frames = [filled(60) + struct.pack("!I", i) for i in range(1000)]
    with Harness(RawSocket(cable.a)) as harness:
        harness.send(frames)
        assert harness.breathe() == 1000
        assert [cable.end.receive()[0] for _ in frames] == frames


def test_frames_wait_while_the_output_is_full(cable: Cable) -> None:
    with Harness(RawSocket(cable.a), burst=1024) as harness:
        harness.send([filled(60)] * 1000)
        lib.engine_link_move(harness.inputs[0], harness.outputs[0], 1000)
        for i in range(100):
            cable.end.send(filled(60 + i))
        assert harness.breathe() == 24
        assert harness.arm() == lib.ARM_READY
        assert len(harness.received()) == 1024
        assert harness.arm() == lib.ARM_BUSY
        assert len(harness.drain()) == 76


def test_without_an_output_nothing_old_is_kept(cable: Cable) -> None:
    with Harness(RawSocket(cable.a)) as harness:
        out = harness.struct.output[0]
        harness.struct.output[0] = ffi.NULL
        cable.end.send(filled(60))
        assert harness.breathe() == 1
        harness.struct.output[0] = out
        cable.end.send(filled(61))
        assert harness.drain() == [filled(61)]


def test_a_successor_goes_on_where_the_last_one_was(cable: Cable) -> None:
    registry = Registry(None)
    first = RawSocket(cable.a)
    lease = registry.lease("app")
    first.open(lease)
    with Harness(RawSocket(cable.a), registry=registry) as harness:
        cable.end.send(filled(60))
        assert harness.drain() == [filled(60)]
    cable.end.send(filled(61))
    with Harness(RawSocket(cable.a), registry=registry) as harness:
        assert harness.app.state == first.state
        assert harness.drain() == [filled(61)]
    lease.release()


#: Sends 60 datagrams of 1000 bytes as one (UDP_SEGMENT, udp(7)).
UDP_SUPER = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_UDP, 103, 1000)
s.sendto(b"".join(bytes([i]) * 1000 for i in range(60)), (sys.argv[1], 7777))
"""
UDP_RECEIVER = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 7777))
s.settimeout(10)
print("ready", flush=True)
print(all(s.recv(2000) == bytes([i]) * 1000 for i in range(60)), flush=True)
"""


@pytest.mark.need("ethtool", "tun", "ping")
@pytest.mark.parametrize("kind", ["raw", "tap"])
def test_udp_super_frames(kind: str) -> None:
    with wire(kind) as w:
        until(lambda: "1 received" in ping(w), "the first ping")
        receiver = w.b.start(sys.executable, "-c", UDP_RECEIVER)
        assert receiver.stdout
        assert receiver.stdout.readline() == "ready\n"
        w.a(sys.executable, "-c", UDP_SUPER, w.b.ipv4)
        assert receiver.communicate(timeout=20)[0] == "True\n"
        assert w.forwarding.counters("a")["rx-super-frames"] == 1
        assert w.forwarding.counters("b")["tx-super-frames"] == 1
        w.end()


def ping(w: Wire) -> str:
    process = w.a.start("ping", "-q", "-c1", "-W1", w.b.ipv4)
    return process.communicate(timeout=10)[0]


# -- drops -------------------------------------------------------------------


def drops(harness: Harness) -> dict[str, int]:
    return {k: n for k, n in harness.counters.items() if k.startswith("drop")}


def test_what_the_kernel_refuses_is_counted_and_holds_nobody_up(cable: Cable) -> None:
    with Harness(RawSocket(cable.a)) as harness:
        harness.send([filled(9019), filled(60), filled(20)[:5], filled(61)])
        bad = {"csum_start": 60, "csum_offset": 3}
        harness.send([filled(62)], flags=lib.PACKET_CSUM_PARTIAL, **bad)
        harness.send([filled(63)])
        assert harness.breathe() == 6
        for size in (60, 61, 63):
            assert cable.end.receive()[0] == filled(size)
        assert drops(harness) == {
            "drop-tx-too-long": 1,
            "drop-tx-error": 1,
            "drop-tx-bad-offload": 1,
        }


@pytest.mark.need("tbf")
def test_a_full_queue_of_the_interface_is_a_drop(cable: Cable) -> None:
    run(*f"tc qdisc add dev {cable.a} root tbf rate 1kbit burst 9k limit 9k".split())
    with Harness(RawSocket(cable.a)) as harness:
        harness.send([filled(1500)] * 100)
        assert harness.breathe() == 100
        sent = harness.counters["tx-packets"]
        assert 0 < sent < 100
        assert drops(harness) == {"drop-tx-refused": 100 - sent}


@pytest.mark.need("tbf")
def test_packets_wait_while_the_socket_is_full(cable: Cable) -> None:
    run(*f"tc qdisc add dev {cable.a} root tbf rate 1kbit burst 9k limit 9m".split())
    app = RawSocket(cable.a)
    with Harness(app) as harness:
        app.socket._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 30000)
        harness.send([filled(1500)] * 100)
        sent = harness.breathe()
        assert 0 < sent < 100
        assert harness.breathe() == 0
        assert harness.arm() == lib.ARM_READY
        assert harness.counters["tx-packets"] == sent
        assert drops(harness) == {}


def test_drops_of_a_pool_run_dry(cable: Cable) -> None:
    with Harness(RawSocket(cable.a), small=1, large=1) as harness:
        for _ in range(3):
            cable.end.send(filled(60))
        assert harness.breathe() == 3
        assert harness.counters["rx-packets"] == 1
        assert drops(harness) == {"drop-rx-no-packet": 2}


def test_drops_of_a_full_ring(cable: Cable) -> None:
    with Harness(RawSocket(cable.a), burst=1024) as harness:
        for _ in range(2000):
            cable.end.send(filled(60))
        assert len(harness.drain()) == 540  # 18 blocks of the kernel's memory
        harness.breathe(ns=10**9)
        assert drops(harness) == {"drop-rx-kernel-ring-full": 1460}


def test_a_ring_of_another_size(cable: Cable) -> None:
    with Harness(RawSocket(cable.a, ring=2048), burst=1024) as harness:
        for _ in range(2000):
            cable.end.send(filled(60))
        assert len(harness.drain()) == 2000
        assert harness.app.supervise() is None
    for size in (0, 32, 1000, 8192, -64):
        with pytest.raises(ConfigError, match="no power of two from 64 to 4096"):
            RawSocket(cable.a, ring=size)


def test_a_smaller_ring_when_memory_is_short(
    cable: Cable, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = PacketSocket._set_ring

    def short(self: PacketSocket, blocks: int) -> None:
        if blocks > limit:
            raise OSError(errno.ENOMEM, "no memory")
        real(self, blocks)

    monkeypatch.setattr(PacketSocket, "_set_ring", short)
    limit = 3
    with Harness(RawSocket(cable.a), burst=1024) as harness:
        for i in range(100):
            cable.end.send(filled(60 + i))
        assert harness.drain() == [filled(60 + i) for i in range(60)]
        assert harness.app.supervise() == (
            f"raw:{cable.a}: the kernel has no memory for a receive ring of 512 "
            "frames; it has 60"
        )
        assert harness.app.supervise() is None
    limit = 0
    with pytest.raises(DeviceError, match="make the receive ring: Cannot allocate"):
        Harness(RawSocket(cable.a))


# -- the interface -----------------------------------------------------------


def test_an_interface_is_one_programs(cable: Cable, tmp_path: Path) -> None:
    """Whoever comes second is told who has it; it is free when that ends."""
    word = f"raw:{cable.a}"
    forwarding = Forwarding(word, "null")
    try:
        pid = forwarding.process.pid
        refusal = rf"{word}: claim the interface: .*busy; in use by process {pid}$"
        with pytest.raises(DeviceError, match=refusal):
            Harness(RawSocket(cable.a))
        config = tmp_path / "ports.toml"
        config.write_text('[[port]]\nport_id = "A"\n')
        nfv = ["nfv", "traffic", word, str(config), str(tmp_path / "%s.sock")]
        for command in (["forward", word, "null"], nfv):
            done = subprocess.run(
                [*SNABB, *command], check=False, capture_output=True, text=True
            )
            assert done.returncode == 1
            assert re.search(refusal, done.stderr.splitlines()[-1]), done.stderr
    finally:
        forwarding.process.kill()
        forwarding.process.wait()
    with Harness(RawSocket(cable.a)):
        again = f"{word}: claim the interface: .*; in use by this process"
        with pytest.raises(DeviceError, match=again):
            Harness(RawSocket(cable.a))


def test_who_may_not_have_an_interface_keeps_nobody_from_it(cable: Cable) -> None:
    """Any user may take the name that says whose it is."""
    index = socket.if_nametoindex(cable.a)
    squat = (
        "import os, socket, sys\n"
        "os.setresuid(65534, 65534, 65534)\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        f"s.bind('\\0snabb-py/interface/{index}')\n"
        "s.listen()\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", squat],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        with Harness(RawSocket(cable.a)) as harness:
            cable.end.send(filled(60))
            assert harness.drain() == [filled(60)]
    finally:
        process.communicate(timeout=20)


def test_a_successor_of_another_kind_takes_over(cable: Cable) -> None:
    """The app of the same name may have the interface while the old one still has."""
    registry = Registry(None)
    first = RawSocket(cable.a)
    lease, other = registry.lease("app"), registry.lease("app")
    first.open(lease)
    RawSocket(cable.a, ring=64).open(other)
    with pytest.raises(
        ConfigError, match=f'raw:{cable.a} is already used by app "app"'
    ):
        RawSocket(cable.a).open(registry.lease("another"))
    lease.release()
    with pytest.raises(DeviceError, match="in use by this process"):
        Harness(RawSocket(cable.a))
    other.release()
    Harness(RawSocket(cable.a)).close()


def test_an_interface_comes_and_goes(cable: Cable) -> None:
    word = f"raw:{cable.a}: interface"
    with Harness(RawSocket(cable.a)) as harness:
        supervise = harness.app.supervise
        assert supervise() is None
        run("ip", "link", "set", cable.a, "down")
        assert supervise() == f"{word} is down"
        assert supervise() is None
        harness.send([filled(60)] * 3)
        assert harness.breathe() == 3
        assert drops(harness) == {"drop-tx-interface-down": 3}
        run("ip", "link", "set", cable.a, "name", cable.a + "x")
        assert supervise() == f"{word} was renamed to {cable.a}x"
        run("ip", "link", "set", cable.a + "x", "up")
        assert supervise() == f"{word} is up"
        wait_for_carrier(cable.a + "x", cable.b)
        # The kernel reports that it was down once more, to whoever asks next.
        harness.send([filled(60)])
        harness.breathe()
        assert cable.end.receive()[0] == filled(60)
        run("ip", "link", "del", cable.a + "x")
        assert supervise() == f"{word} was deleted; waiting for it to come back"
        assert supervise() is None
        harness.send([filled(60)])
        harness.breathe()
        assert drops(harness) == {"drop-tx-interface-down": 4}
        cable.end.close()
        cable.lay()
        cable.end = End(cable.b)
        assert supervise() == f"{word} is back"
        assert supervise() is None
        assert "promiscuity 1" in run("ip", "-d", "link", "show", cable.a)
        cable.end.send(filled(61))
        assert harness.drain() == [filled(61)]
        cable.end.close()
        cable.cut()
        cable.lay()
        cable.end = End(cable.b)
        assert supervise() == f"{word} was deleted and is back"
        cable.end.send(filled(62))
        assert harness.drain() == [filled(62)]


def test_an_interface_that_is_down_at_first(cable: Cable) -> None:
    run("ip", "link", "set", cable.a, "down")
    with Harness(RawSocket(cable.a)) as harness:
        assert harness.app.supervise() == f"raw:{cable.a}: interface is down"
        run("ip", "link", "set", cable.a, "up")
        assert harness.app.supervise() == f"raw:{cable.a}: interface is up"
        wait_for_carrier(cable.a, cable.b)
        cable.end.send(filled(60))
        assert harness.drain() == [filled(60)]


@pytest.mark.need("ethtool")
def test_settings_are_left_alone() -> None:
    with wire("raw") as w:
        before = [run("ethtool", "-k", end) for end in w.ends]
        until(lambda: "promiscuity 1" in run(*show(w.ends[0])), "promiscuity")
        assert [run("ethtool", "-k", end) for end in w.ends] == before
        w.end()
        assert [run("ethtool", "-k", end) for end in w.ends] == before
        assert all("promiscuity 0" in run(*show(end)) for end in w.ends)


def show(interface: str) -> list[str]:
    return ["ip", "-d", "link", "show", interface]


@pytest.mark.parametrize(
    "name", ["", "a/b", "a b", "a" * 16, "é" * 8, ".", "..", "a%d"]
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ConfigError, match="is not the name of an interface"):
        RawSocket(name)


def test_what_is_no_interface() -> None:
    with pytest.raises(DeviceError, match="no-such-if0: find the interface: No such"):
        Harness(RawSocket("no-such-if0"))


@pytest.mark.need("tun")
def test_an_interface_without_ethernet() -> None:
    name = f"r{os.getpid() % 10**6}t"
    run("ip", "tuntap", "add", name, "mode", "tun")
    try:
        with pytest.raises(DeviceError, match="no Ethernet header"):
            Harness(RawSocket(name))
    finally:
        run("ip", "link", "del", name)


def test_nobody_may_without_the_capability(cable: Cable) -> None:
    os.seteuid(65534)
    try:
        with pytest.raises(DeviceError, match="CAP_NET_RAW"):
            Harness(RawSocket(cable.a))
    finally:
        os.seteuid(0)


# -- a jammed ring -----------------------------------------------------------

#: Attaches to a tap and writes frames with their virtio-net headers, hex by line.
TAP_WRITER = """
import fcntl, os, struct, sys
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", sys.argv[1].encode(), 0x5002))
fcntl.ioctl(fd, 0x400454D0, 0x1F)  # checksums, TSO, UFO
print("ready", flush=True)
for line in sys.stdin:
    os.write(fd, bytes.fromhex(line))
"""


@contextlib.contextmanager
def tap_writer() -> Iterator[tuple[str, Callable[[bytes], None]]]:
    """A tap, and what writes to it."""
    name = f"r{os.getpid() % 10**6}w{next(_numbers)}"
    run("ip", "tuntap", "add", name, "mode", "tap")
    writer = subprocess.Popen(
        [sys.executable, "-c", TAP_WRITER, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdin
    assert writer.stdout
    stdin = writer.stdin

    def write(frame: bytes) -> None:
        stdin.write(frame.hex() + "\n")
        stdin.flush()

    try:
        run("ip", "link", "set", name, "up")
        assert writer.stdout.readline() == "ready\n"
        yield name, write
    finally:
        writer.kill()
        writer.communicate()
        run("ip", "link", "del", name)


@pytest.mark.need("tun")
def test_a_jammed_ring_is_made_anew() -> None:
    """One UFO frame, and Linux (6.18 at least) never uses the ring again."""
    ip = bytes.fromhex("4500 0fbc 0001 0000 4011 0000 c6120001 c6120002")
    udp = struct.pack("!HHHH", 1, 2, 4008, 0) + bytes(4000)
    jam = struct.pack("<BBHHHH", 1, 3, 42, 1480, 34, 6)
    jam += header()[:12] + b"\x08\x00" + ip + udp
    plain = bytes(10) + filled(60)
    with tap_writer() as (name, write):
        forwarding = Forwarding(f"raw:{name}", "null")
        try:

            def received() -> int:
                return forwarding.counters("a")["rx-packets"]

            def goes_on() -> bool:
                write(plain)
                return received() > before

            for _ in range(3):
                before = received()
                until(goes_on, "a frame")
                write(jam)
                before = received() + 1
                until(goes_on, "a frame after the jam")
            counts = forwarding.counters("a")
            # A kernel without the fault passes too.
            if counts["rx-ring-renewed"]:
                assert counts["drop-rx-kernel-ring-jammed"] > 0
                said = re.findall("jammed the receive ring", forwarding.hear())
                assert len(said) == 1
            forwarding.end()
        finally:
            forwarding.kill()


def test_a_process_that_was_stopped_tells_what_it_missed(cable: Cable) -> None:
    forwarding = Forwarding(f"raw:{cable.a}", "null")
    try:
        forwarding.process.send_signal(signal.SIGSTOP)
        states = list(Path(f"/proc/{forwarding.process.pid}/task").glob("*/stat"))
        until(lambda: all(") T " in s.read_text() for s in states), "standstill")
        for _ in range(2000):
            cable.end.send(filled(60))
        forwarding.process.send_signal(signal.SIGCONT)
        until(
            lambda: forwarding.counters("a")["drop-rx-kernel-ring-full"] == 1460,
            "its word",
        )
        (direction,) = forwarding.end()["directions"]
        assert (direction["offered"], direction["forwarded"]) == (2000, 540)
    finally:
        forwarding.kill()
