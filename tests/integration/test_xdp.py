"""Xdp on one end of a cable, the test on the other; and what becomes of it."""

import contextlib
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2 import netns

from snabb_py._native import ffi, lib
from snabb_py.apps.xdp import Xdp
from snabb_py.apps.xdp_program import Redirection
from snabb_py.apps.xdp_socket import AF_XDP, Rings
from snabb_py.engine.memory import Memory
from snabb_py.errors import ConfigError, DeviceError
from tests.cable import FRAMES, Cable, End, filled, header, super_frame
from tests.harness import Harness
from tests.hosts import Forwarding, Namespace, run, until, wait_for_carrier, wire

pytestmark = pytest.mark.need("root", "netns", "xdp")
MTU = 3400  # of a veth with XDP: a page, less what the kernel wants of it
FITTING = [frame for frame in FRAMES if len(frame) <= MTU + 18]


@contextlib.contextmanager
def laid(mtu: int = MTU, queues: int = 1) -> Iterator[Cable]:
    cable = Cable(mtu, queues)
    try:
        yield cable
    finally:
        cable.close()


@pytest.fixture
def cable() -> Iterator[Cable]:
    with laid() as cable:
        yield cable


@contextlib.contextmanager
def app_on(cable: Cable, app: Xdp | None = None, **settings: Any) -> Iterator[Harness]:
    """An app that has told how it reaches the interface, with its ring full."""
    with Harness(app or Xdp(cable.a), **settings) as harness:
        assert "XDP in the driver" in str(harness.app.supervise())
        harness.drain()
        while harness.app.state.nreceiving < lib.XDP_RING_SIZE:
            before = harness.app.state.nreceiving
            harness.breathe()
            if harness.app.state.nreceiving == before:
                break  # the pool has run dry
        yield harness


def drops(harness: Harness) -> dict[str, int]:
    return {k: n for k, n in harness.counters.items() if k.startswith("drop")}


def has_program(interface: str) -> bool:
    return "prog/xdp" in run("ip", "link", "show", interface)


# -- frames ------------------------------------------------------------------


def test_frames_come_in_as_they_were_sent(cable: Cable) -> None:
    with app_on(cable) as harness:
        for frame in FITTING:
            cable.end.send(frame)
        assert harness.drain() == FITTING
        n, size = len(FITTING), sum(map(len, FITTING))
        assert harness.counters == {"rx-packets": n, "rx-bytes": size}


def test_frames_go_out_as_they_are(cable: Cable) -> None:
    with app_on(cable) as harness:
        harness.send(FITTING)
        assert harness.breathe() == len(FITTING)
        assert [cable.end.receive()[0] for _ in FITTING] == FITTING
        n, size = len(FITTING), sum(map(len, FITTING))
        assert harness.counters == {"tx-packets": n, "tx-bytes": size}


def test_frames_of_any_size_and_number_both_ways() -> None:
    """What has gone round a ring many times is what was sent."""
    payloads = st.lists(st.binary(max_size=MTU), max_size=200)
    with laid() as cable, app_on(cable, burst=1024) as harness:

        @given(payloads)
        def law(payloads: list[bytes]) -> None:
            frames = [header() + payload for payload in payloads]
            for frame in frames:
                cable.end.send(frame)
            assert harness.drain() == frames
            harness.send(frames)
            assert harness.breathe() == len(frames)
            assert [cable.end.receive()[0] for _ in frames] == frames

        law()
        assert drops(harness) == {}


def test_a_burst_goes_out_in_order(cable: Cable) -> None:
    frames = [filled(60) + struct.pack("!I", i) for i in range(1000)]
    with app_on(cable) as harness:
        for _ in range(5):  # more than a ring
            harness.send(frames)
            assert harness.breathe() == 1000
            assert [cable.end.receive()[0] for _ in frames] == frames


def test_a_packet_with_its_data_anywhere(cable: Cable) -> None:
    with app_on(cable) as harness:
        for shift in (-256, -1, 1, 100, 5000):
            harness.send([filled(100)])
            packet = harness.inputs[0].ring[harness.inputs[0].read % 1024]
            packet.data += shift
            ffi.memmove(packet.data, filled(100), 100)
            harness.breathe()
            assert cable.end.receive()[0] == filled(100)


def test_frames_wait_while_the_output_is_full(cable: Cable) -> None:
    with app_on(cable, burst=1024) as harness:
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
    with app_on(cable) as harness:
        out = harness.struct.output[0]
        harness.struct.output[0] = ffi.NULL
        cable.end.send(filled(60))
        assert harness.breathe() == 1
        harness.struct.output[0] = out
        cable.end.send(filled(61))
        assert harness.drain() == [filled(61)]


def test_a_successor_goes_on_where_the_last_one_was(cable: Cable) -> None:
    first = Xdp(cable.a)
    with Harness(first) as harness:
        harness.breathe()
        cable.end.send(filled(60))
        assert harness.drain() == [filled(60)]
        cable.end.send(filled(61))
        second = Harness(
            Xdp(cable.a), registry=harness.registry, pool=harness.pool, owner="app"
        )
        with second:
            assert second.app.state == first.state
            assert second.drain() == [filled(61)]


# -- offloads ----------------------------------------------------------------


def stack_udp(cable: Cable, payload: bytes) -> None:
    """Let the kernel's stack send a datagram over the cable, to the other end."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, 25, cable.b.encode())  # SO_BINDTODEVICE
        sock.sendto(payload, ("198.18.0.2", 7))


def test_checksums_that_a_stack_left_unfinished(cable: Cable) -> None:
    from scapy.layers.inet import UDP
    from scapy.layers.l2 import Ether

    run(*f"ip address add 198.18.0.1/24 dev {cable.b}".split())
    run(*f"ip neighbor add 198.18.0.2 lladdr 02:00:00:00:00:02 dev {cable.b}".split())
    with app_on(cable) as harness:
        sizes = range(1, 1400, 13)
        for size in sizes:
            stack_udp(cable, bytes(i * size % 256 for i in range(size)))
        harness.breathe()
        n = lib.engine_link_move(harness.outputs[0], harness.inputs[0], 1000)
        assert n == len(sizes) == harness.counters["rx-unfinished-checksums"]
        harness.breathe()
        for size in sizes:
            frame = next(f for f in iter(lambda: cable.end.receive()[0], b"")
                         if f[12:14] == b"\x08\x00")  # fmt: skip
            packet = Ether(frame)
            told = packet[UDP].chksum
            del packet[UDP].chksum
            assert Ether(bytes(packet))[UDP].chksum == told
            assert len(packet[UDP].payload) == size


@pytest.mark.parametrize("ntags", [0, 1])
def test_super_frames_are_cut_up(cable: Cable, ntags: int) -> None:
    tags = [(0x8100, 5)] * ntags
    frame, start = super_frame(*tags)
    metadata = {
        "flags": lib.PACKET_CSUM_PARTIAL, "csum_start": start, "csum_offset": 16,
        "gso_type": lib.PACKET_GSO_TCPV4,
    }  # fmt: skip
    with app_on(cable) as harness:
        harness.send([frame], gso_size=1000, **metadata)
        assert harness.breathe() == 1
        payload = b"".join(cable.end.receive()[0][start + 20 :] for _ in range(5))
        assert payload == frame[start + 20 :]
        assert harness.counters["tx-super-frames"] == 1
        assert harness.counters["tx-packets"] == 5
        # Segments longer than the MTU, and one that is all of it.
        harness.send([frame], gso_size=4000, **metadata)
        harness.send([frame], gso_size=5000, **metadata)
        # Not what it says it is.
        harness.send([frame], gso_size=1000, **{**metadata, "csum_offset": 3})
        assert harness.breathe() == 3
        assert drops(harness) == {"drop-tx-too-long": 2, "drop-tx-bad-offload": 1}


def test_super_frames_wait_for_room(cable: Cable) -> None:
    """One of 1000 segments more than the ring has room for stays, and then goes."""
    frame, start = super_frame(payload=1000)
    metadata = {
        "flags": lib.PACKET_CSUM_PARTIAL, "csum_start": start, "csum_offset": 16,
        "gso_type": lib.PACKET_GSO_TCPV4, "gso_size": 1,
    }  # fmt: skip
    with app_on(cable, small=8192) as harness:
        run("ip", "link", "set", cable.b, "down")
        state = harness.app.state
        harness.send([frame] * 3, **metadata)
        real, state.fd = state.fd, -1  # nobody sends what is on the ring
        assert harness.breathe() == 2
        assert state.nsending == 2000
        assert harness.arm() == lib.ARM_NEVER
        state.fd = real
        run("ip", "link", "set", cable.b, "up")
        wait_for_carrier(cable.a)
        harness.breathe()
        harness.breathe()
        harness.breathe()
        assert harness.counters["tx-packets"] == 3000


@pytest.mark.need("tun", "iperf3", "ping")
def test_a_tap_and_a_veth(tmp_path: Path) -> None:
    """Super-frames come from one stack, unfinished checksums from the other."""
    payload = os.urandom(5_000_000)
    (tmp_path / "payload").write_bytes(payload)
    with wire("xdp") as w:
        w.forwarding.end()
        tap = f"t{os.getpid() % 10**6}"
        forwarding = Forwarding(f"xdp:{w.ends[0]}", f"tap:{tap}", "--bidir")
        try:
            w.b("ip", "link", "set", "eth", "name", "old", "down")
            w.b.adopt(tap, 1500)
            until(lambda: "1 received" in ping(w.a, w.b.ipv4), "the first ping")
            for here, there in ((w.a, w.b), (w.b, w.a)):
                assert transfer(here, there, tmp_path / "payload") == payload
            counts = forwarding.counters("a")
            assert counts["tx-super-frames"] > 0
            assert counts["rx-unfinished-checksums"] > 0
            forwarding.end()
        finally:
            forwarding.kill()


SEND = """
import socket, sys
s = socket.create_connection((sys.argv[1], 7777))
s.sendall(open(sys.argv[2], "rb").read())
"""
RECEIVE = """
import socket, sys
s = socket.create_server(("", 7777))
print("ready", flush=True)
s.settimeout(20)
c, _ = s.accept()
with open(sys.argv[1], "wb") as out:
    while data := c.recv(1 << 20):
        out.write(data)
"""


def transfer(here: Any, there: Any, path: Path) -> bytes:
    """Send a file over TCP; return what has arrived."""
    target = path.with_suffix(".arrived")
    receiver = there.start(sys.executable, "-c", RECEIVE, str(target))
    assert receiver.stdout.readline() == "ready\n"
    here(sys.executable, "-c", SEND, there.ipv4, str(path))
    receiver.communicate(timeout=30)
    return target.read_bytes()


def ping(host: Any, to: str) -> str:
    process = host.start("ping", "-q", "-c1", "-W1", to)
    return str(process.communicate(timeout=10)[0])


@pytest.mark.need("ping")
def test_payloads_of_two_stacks(tmp_path: Path) -> None:
    payload = os.urandom(5_000_000)
    (tmp_path / "payload").write_bytes(payload)
    with wire("xdp") as w:
        until(lambda: "1 received" in ping(w.a, w.b.ipv4), "the first ping")
        for here, there in ((w.a, w.b), (w.b, w.a)):
            assert transfer(here, there, tmp_path / "payload") == payload
        w.end()


def test_a_tag_that_the_driver_has_taken_out() -> None:
    """A bridge of the kernel's keeps it apart from the frame, and so does a veth."""
    with laid(1500) as far, laid(1500) as near:
        bridge = f"b{os.getpid() % 10**6}"
        run("ip", "link", "add", bridge, "type", "bridge")
        try:
            for port in (far.a, near.b):
                run("ip", "link", "set", port, "master", bridge)
            Path(f"/proc/sys/net/ipv6/conf/{bridge}/disable_ipv6").write_text("1")
            run("ip", "link", "set", bridge, "up")
            until(
                lambda: run("bridge", "link").count("state forwarding") >= 2,
                "the bridge forwards",
            )
            frames = [filled(60 + i, (0x8100, 5 | i << 13)) for i in range(8)]
            frames.append(filled(80))
            with app_on(near) as harness:
                for frame in frames:
                    far.end.send(frame)
                got: list[bytes] = []

                def has_all() -> bool:
                    got.extend(f for f in harness.drain() if f[:6] == header()[:6])
                    return len(got) >= len(frames)

                until(has_all, "all frames")
                assert got == frames
                # Back they are frames like others.
                harness.send(frames)
                harness.breathe()
                assert [_ours(far.end) for _ in frames] == frames
        finally:
            run("ip", "link", "del", bridge)


def _ours(end: End) -> bytes:
    """Return the next frame of ours that an end receives."""
    while (frame := end.receive()[0])[:6] != header()[:6]:
        pass
    return frame


# -- drops -------------------------------------------------------------------


def test_what_cannot_be_sent_is_counted_and_holds_nobody_up(cable: Cable) -> None:
    with app_on(cable) as harness:
        long, longest = filled(MTU + 19), filled(MTU + 14)
        harness.send([long, filled(60), filled(20)[:5], filled(61), filled(14)[:13]])
        bad = {"csum_start": 60, "csum_offset": 3}
        harness.send([filled(62)], flags=lib.PACKET_CSUM_PARTIAL, **bad)
        harness.send([filled(9000), longest])
        assert harness.breathe() == 8
        for frame in (filled(60), filled(61), longest):
            assert cable.end.receive()[0] == frame
        assert drops(harness) == {
            "drop-tx-too-long": 2,
            "drop-tx-error": 2,
            "drop-tx-bad-offload": 1,
        }


def test_drops_of_a_full_ring(cable: Cable) -> None:
    with app_on(cable, small=8192, burst=1024) as harness:
        for _ in range(3000):
            cable.end.send(filled(60))
        assert len(harness.drain()) == 2048
        harness.breathe(ns=10**9)
        assert drops(harness) == {"drop-rx-kernel-ring-full": 952}


def test_drops_of_a_pool_run_dry(cable: Cable) -> None:
    with app_on(cable, small=100, large=1) as harness:
        for _ in range(103):
            cable.end.send(filled(60))
        assert harness.breathe() == 100
        harness.breathe(ns=10**9)
        assert drops(harness) == {"drop-rx-no-packet": 3}
        assert len(harness.received()) == 100
        harness.breathe()
        cable.end.send(filled(61))
        assert harness.drain() == [filled(61)]


def test_behind_a_driver_without_xdp() -> None:
    """The loopback's; and there no MTU keeps off what is too long for a packet."""
    namespace = Namespace()
    namespace.ip("link set lo up mtu 3000")
    netns.pushns(namespace.name)
    try:
        with Harness(Xdp("lo")) as harness:
            assert "XDP behind the driver" in str(harness.app.supervise())
            harness.breathe()
            frames = [filled(60), filled(3000)]
            harness.send(frames)
            harness.breathe()
            assert harness.drain() == frames
            namespace.ip("link set lo mtu 9000")
            fitting = filled(lib.XDP_FRAME_MAX)
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
                sock.bind(("lo", 0))
                for frame in (fitting, filled(len(fitting) + 1), filled(9000)):
                    sock.send(frame)
            assert harness.drain() == [fitting]
            harness.breathe(ns=10**9)
            assert drops(harness) == {"drop-rx-too-long": 2}
    finally:
        netns.popns()
        namespace.close()


def test_a_packet_that_the_kernel_never_had(cable: Cable) -> None:
    """Whatever comes back is looked up before it is used."""
    app = Xdp(cable.a)
    with app_on(cable, app=app) as harness:
        held = app.socket._held
        before = bytes(ffi.buffer(held))
        ffi.memmove(held, bytes(len(before)), len(before))
        cable.end.send(filled(60))
        harness.send([filled(60)])
        harness.breathe()
        harness.breathe()
        assert drops(harness) == {"drop-rx-bad-descriptor": 1}
        assert harness.received() == []
        ffi.memmove(held, before, len(before))


# -- queues ------------------------------------------------------------------


def test_each_queue_has_a_socket_and_they_share_a_program() -> None:
    with (
        laid(queues=2) as cable,
        both_queues(cable.a) as here,
        both_queues(cable.b) as there,
    ):
        assert run("ip", "link", "show", cable.a).count("prog/xdp") == 1
        frames = [filled(60 + i) for i in range(50)]
        for queue, (near, far) in enumerate(zip(here, there, strict=True)):
            assert f"queue {queue} of 2, " in str(near.app.supervise())
            far.send(frames)
            far.breathe()
            assert near.drain() == frames
            assert not here[1 - queue].drain()


@contextlib.contextmanager
def both_queues(interface: str) -> Iterator[list[Harness]]:
    with Harness(Xdp(interface, 0), small=16384) as first:
        second = Harness(
            Xdp(interface, 1), registry=first.registry, pool=first.pool, owner="other"
        )
        with second:
            for harness in (first, second):
                harness.breathe()
            yield [first, second]


def test_frames_of_a_queue_that_nobody_takes_go_to_the_kernel() -> None:
    with laid(queues=2) as cable:
        kernel = End(cable.a)
        with (
            contextlib.closing(kernel),
            Harness(Xdp(cable.a, 1)) as near,
            Harness(Xdp(cable.b, 0)) as far,
        ):
            near.breathe()
            far.send([filled(60)])
            far.breathe()
            assert kernel.receive()[0] == filled(60)
            assert near.drain() == []


@pytest.mark.need("two-cpus")
def test_two_workers_have_a_queue_each() -> None:
    with laid(queues=2) as left, laid(queues=2) as right:
        forwarding = Forwarding(
            f"xdp:{left.a}", f"xdp:{right.a}", "--bidir", "--workers", "2"
        )
        try:
            flows = [udp(i) for i in range(64)]
            for near, far in ((left, right), (right, left)):
                for flow in flows:
                    near.end.send(flow)
                assert sorted(_ours(far.end) for _ in flows) == sorted(flows)
            counts = [forwarding.counters(f"a{i}") for i in range(2)]
            assert all(n["rx-packets"] for n in counts)
            assert sum(n["rx-packets"] for n in counts) == len(flows)
            summary = forwarding.end()
            assert len(summary["directions"]) == 4
            assert sum(d["lost"] for d in summary["directions"]) == 0
        finally:
            forwarding.kill()


def udp(flow: int) -> bytes:
    from scapy.layers.inet import IP, UDP

    ip = IP(src="198.18.0.1", dst="198.18.0.2") / UDP(sport=1000 + flow, dport=7)
    return header()[:12] + b"\x08\x00" + bytes(ip)


# -- the interface -----------------------------------------------------------


def test_an_interface_comes_and_goes(cable: Cable) -> None:
    word = f"xdp:{cable.a}: interface"
    with app_on(cable) as harness:
        supervise = harness.app.supervise
        assert supervise() is None
        run("ip", "link", "set", cable.a, "down")
        assert supervise() == f"{word} is down"
        assert supervise() is None
        harness.send([filled(60)] * 3)
        harness.breathe()
        # What it had begun to send is sent when it is up.
        assert harness.app.unfinished == 3
        harness.send([filled(62)] * 3)
        harness.breathe()
        assert drops(harness) == {"drop-tx-interface-down": 3}
        run("ip", "link", "set", cable.a, "name", cable.a + "x")
        assert supervise() == f"{word} was renamed to {cable.a}x"
        run("ip", "link", "set", cable.a + "x", "up")
        assert supervise() == f"{word} is up"
        wait_for_carrier(cable.a + "x", cable.b)
        harness.breathe()
        assert harness.app.unfinished == 0
        assert cable.end.receive()[0] == filled(60)
        run("ip", "link", "del", cable.a + "x")
        assert supervise() == f"{word} was deleted; waiting for it to come back"
        harness.send([filled(60)])
        assert harness.breathe() == 1
        assert drops(harness) == {"drop-tx-interface-down": 4}
        assert supervise() is None
        assert harness.arm() == lib.ARM_READY
        assert harness.app.state.nreceiving == harness.app.state.nsending == 0
        cable.end.close()
        cable.lay()
        cable.end = End(cable.b)
        assert supervise() == f"{word} is back"
        assert "XDP in the driver" in str(supervise())
        assert supervise() is None
        harness.breathe()
        cable.end.send(filled(61))
        assert harness.drain() == [filled(61)]
        harness.send([filled(63)])
        harness.breathe()
        while (frame := cable.end.receive()[0]) == filled(61):
            pass
        assert frame == filled(63)


def test_what_a_deleted_interface_has_not_sent(cable: Cable) -> None:
    with app_on(cable) as harness:
        run("ip", "link", "set", cable.a, "down")
        harness.app.supervise()
        harness.send([filled(60)] * 3)
        harness.breathe()
        run("ip", "link", "del", cable.a)
        assert "was deleted" in str(harness.app.supervise())
        harness.breathe()
        assert harness.app.unfinished == 0
        assert harness.app.supervise() is None  # nor is there a ring any more
        assert harness.app.state.nsending == 0
        assert harness.app.unfinished == 0
        assert drops(harness) == {"drop-tx-interface-down": 3}


def test_an_interface_that_comes_back_unfit(cable: Cable) -> None:
    """It is waited for until it is fit again."""
    word = f"xdp:{cable.a}: interface"
    with app_on(cable) as harness:
        supervise = harness.app.supervise
        cable.end.close()
        cable.cut()
        assert supervise() == f"{word} was deleted; waiting for it to come back"
        harness.breathe()
        cable.mtu = 9000
        cable.lay()
        cable.end = End(cable.b)
        for _ in range(3):
            assert supervise() is None
            harness.breathe()
        for end in (cable.a, cable.b):
            run("ip", "link", "set", end, "mtu", "1500")
        assert supervise() == f"{word} is back"
        harness.breathe()
        cable.end.send(filled(61))
        assert harness.drain() == [filled(61)]


def test_an_interface_that_is_down_at_first(cable: Cable) -> None:
    run("ip", "link", "set", cable.a, "down")
    with app_on(cable) as harness:
        assert harness.app.supervise() == f"xdp:{cable.a}: interface is down"
        run("ip", "link", "set", cable.a, "up")
        assert harness.app.supervise() == f"xdp:{cable.a}: interface is up"
        wait_for_carrier(cable.a, cable.b)
        cable.end.send(filled(60))
        assert harness.drain() == [filled(60)]


def test_an_mtu_that_changes(cable: Cable) -> None:
    with app_on(cable) as harness:
        run("ip", "link", "set", cable.a, "mtu", "1000")
        assert harness.app.supervise() is None
        harness.send([filled(1018), filled(1019)])
        harness.breathe()
        assert drops(harness) == {"drop-tx-too-long": 1}


def test_settings_are_left_alone(cable: Cable) -> None:
    before = run("ip", "-d", "link", "show", cable.a)
    with app_on(cable):
        assert has_program(cable.a)
        assert "promiscuity 1" in run("ip", "-d", "link", "show", cable.a)
    assert run("ip", "-d", "link", "show", cable.a) == before


def test_no_file_stays_open(cable: Cable) -> None:
    def files() -> list[str]:
        return sorted(path.name for path in Path("/proc/self/fd").iterdir())

    with app_on(cable):
        pass
    before = files()
    with app_on(cable) as harness:
        cable.cut()
        harness.app.supervise()
        harness.breathe()
        harness.app.supervise()
        cable.end.close()
        cable.lay()
        cable.end = End(cable.b)
        harness.app.supervise()
    for _ in range(3):
        with pytest.raises(DeviceError):
            Harness(Xdp(cable.a, 7))
    assert files() == before
    assert not has_program(cable.a)


def test_a_queue_is_free_as_soon_as_it_is_given_up(cable: Cable) -> None:
    """The kernel takes a while, in which it says that the queue is taken."""
    for _ in range(30):
        with Harness(Xdp(cable.a), small=256) as harness:
            harness.breathe()


@pytest.mark.parametrize("is_released", [True, False])
def test_what_a_driver_still_writes_to_is_given_to_nobody(
    cable: Cable, is_released: bool
) -> None:
    """Without copies that may be so after the socket was closed."""
    app = Xdp(cable.a)
    with app_on(cable, app=app, small=256, large=0) as harness:
        app.state.is_zero_copy = True  # as far as closing is concerned
        other = -1 if is_released else os.dup(app.state.fd)
        harness.shared, pool = True, harness.pool
    try:
        assert pool.free == (pool.total if is_released else 0)
    finally:
        if not is_released:
            os.close(other)
        pool.close()


def test_sigkill_takes_the_program_away(cable: Cable) -> None:
    forwarding = Forwarding(f"xdp:{cable.a}", "null")
    assert has_program(cable.a)
    forwarding.kill()
    until(lambda: not has_program(cable.a), "the program goes")
    with app_on(cable) as harness:
        cable.end.send(filled(60))
        assert harness.drain() == [filled(60)]


# -- what cannot be ----------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a b",), "is not the name of an interface"),
        (("eth0", -1), "queue: -1"),
        (("eth0", 1024), "queue: 1024"),
    ],
)
def test_what_is_no_queue(arguments: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Xdp(*arguments)


def test_what_is_no_interface() -> None:
    with pytest.raises(DeviceError, match="no-such-if0: find the interface: No such"):
        Harness(Xdp("no-such-if0"))


def test_a_queue_that_there_is_not(cable: Cable) -> None:
    with pytest.raises(DeviceError, match=r"bind to queue 7: .*has no such queue"):
        Harness(Xdp(cable.a, 7))


def test_a_queue_of_somebody_elses(cable: Cable) -> None:
    index = socket.if_nametoindex(cable.a)
    memory = Memory(1 << 20, huge=False)
    with socket.socket(AF_XDP, socket.SOCK_RAW) as other:
        assert not lib.xdp_register(other.fileno(), memory.address, memory.size)
        rings = Rings(other)
        assert not lib.xdp_bind(other.fileno(), index, 0, 0)
        with pytest.raises(DeviceError, match="another program has this queue"):
            Harness(Xdp(cable.a))
        rings.close()
    memory.close()


def test_a_program_of_somebody_elses(cable: Cable) -> None:
    other = Redirection(socket.if_nametoindex(cable.a))
    with pytest.raises(DeviceError, match="another XDP program is on the interface"):
        Harness(Xdp(cable.a))
    other.close()
    with app_on(cable):
        pass


def test_an_mtu_that_is_too_large() -> None:
    with laid(9000) as cable:
        with pytest.raises(DeviceError, match="its MTU is 9000, more than 3822"):
            Harness(Xdp(cable.a))
        run("ip", "link", "set", cable.a, "mtu", "1500")
        with pytest.raises(DeviceError, match="of a veth its peer's, is too large"):
            Harness(Xdp(cable.a))


#: Programs that run with all capabilities but these, and what they say.
LESS = [
    ("net_raw", "CAP_NET_RAW"),
    ("net_admin,-sys_admin,-bpf", "CAP_BPF, CAP_NET_ADMIN"),
    ("ipc_lock,-sys_resource", "so much may not be locked: `ulimit -l"),
]


@pytest.mark.parametrize(("without", "words"), LESS)
def test_who_may_not_is_told_what_is_missing(
    cable: Cable, without: str, words: str
) -> None:
    done = subprocess.run(
        [
            *("setpriv", f"--bounding-set=-{without}", "--inh-caps=-all"),
            *("prlimit", "--memlock=65536:65536"),
            *(sys.executable, "-m", "snabb_py", "forward", f"xdp:{cable.a}", "null"),
        ],
        check=False, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert f"xdp:{cable.a}: " in last
    assert words in last
