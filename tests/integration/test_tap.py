"""Tap, with the kernel's own interface as the other side."""

import errno
import itertools
import os
import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from snabb_py._native import ffi, lib
from snabb_py.apps.tap import Tap, TapDevice
from snabb_py.engine.resources import Registry
from snabb_py.errors import ConfigError, DeviceError
from tests.cable import FRAMES, End, filled, super_frame
from tests.harness import Harness
from tests.hosts import run, wait_for_carrier
from tests.integration.test_rawsocket import give, offload, take

pytestmark = pytest.mark.need("root", "netns", "tun")

_numbers = itertools.count()


def is_there(name: str) -> bool:
    return Path("/sys/class/net", name).exists()


@pytest.fixture
def name() -> Iterator[str]:
    name = f"t{os.getpid() % 10**6}n{next(_numbers)}"
    yield name
    if is_there(name):
        run("ip", "link", "del", name)


def hush(name: str) -> None:
    """Keep the kernel from saying anything over it by itself."""
    path = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
    if path.exists():
        path.write_text("1")


class Quiet(Harness):
    """A tap over which the kernel says nothing by itself."""

    def __init__(self, app: Tap) -> None:
        super().__init__(app)
        hush(app.name)
        run("ip", "link", "set", app.name, "mtu", "9000")
        self.drain()
        ffi.memmove(self._counters, bytes(8 * len(app.counters)), 8 * len(app.counters))


def test_frames_come_in_as_they_were_sent(name: str) -> None:
    with Quiet(Tap(name)) as harness:
        end = End(name)
        for frame in FRAMES:
            end.send(frame)
        assert harness.drain() == FRAMES
        n, size = len(FRAMES), sum(map(len, FRAMES))
        assert harness.counters == {"rx-packets": n, "rx-bytes": size}
        end.close()
    assert not is_there(name)


def test_frames_go_out_as_they_are(name: str) -> None:
    with Quiet(Tap(name)) as harness:
        end = End(name)
        harness.send(FRAMES)
        assert harness.breathe() == len(FRAMES)
        assert [end.receive()[0] for _ in FRAMES] == FRAMES
        n, size = len(FRAMES), sum(map(len, FRAMES))
        assert harness.counters == {"tx-packets": n, "tx-bytes": size}
        end.close()


@pytest.mark.parametrize("ntags", [0, 1, 2])
def test_super_frames_keep_their_metadata(name: str, ntags: int) -> None:
    """They come mixed with small ones; a wrong guess of their size costs a copy."""
    frame, start = super_frame(*[(0x88A8, 6), (0x8100, 7)][2 - ntags :], payload=65000)
    with Quiet(Tap(name)) as harness:
        end = End(name)
        for small in (60, 61):
            end.send(filled(small))
            end.send(frame, offload(start))
        harness.breathe()
        packets = take(harness)
        assert [p.length for p in packets] == [60, len(frame), 61, len(frame)]
        for packet in packets[1::2]:
            assert ffi.buffer(packet.data, packet.length)[:] == frame
            assert packet.flags == lib.PACKET_CSUM_PARTIAL
            assert (packet.gso_type, packet.gso_size) == (lib.PACKET_GSO_TCPV4, 1000)
            assert (packet.csum_start, packet.csum_offset) == (start, 16)
        for packet in packets:
            give(harness, packet)
        harness.breathe()
        for small in (60, 61):
            assert end.receive()[0] == filled(small)
            received, told = end.receive()
            assert received == frame
            flags, kind, _, size, at, field = struct.unpack("<BBHHHH", told)
            outer = 4 if ntags else 0
            assert (flags, kind, size, at, field) == (1, 1, 1000, start - outer, 16)
        assert harness.counters["rx-super-frames"] == 2
        assert harness.counters["tx-super-frames"] == 2
        end.close()


def test_a_packet_without_headroom_goes_out(name: str) -> None:
    """The virtio-net header then is a piece of its own."""
    frame = filled(60 + 256)
    with Quiet(Tap(name)) as harness:
        end = End(name)
        harness.send([frame[256:]])
        packet = harness.inputs[0].ring[0]
        packet.data -= 256
        ffi.memmove(packet.data, frame, len(frame))
        packet.length = len(frame)
        harness.breathe()
        assert end.receive()[0] == frame
        end.close()


def test_frames_wait_while_the_output_is_full(name: str) -> None:
    with Quiet(Tap(name)) as harness:
        end = End(name)
        harness.send([filled(60)] * 1000)
        lib.engine_link_move(harness.inputs[0], harness.outputs[0], 1000)
        for i in range(100):
            end.send(filled(60 + i))
        assert harness.breathe() == 24
        assert len(harness.received()) == 1024
        assert len(harness.drain()) == 76
        assert harness.arm() == lib.ARM_READY
        end.close()


def test_without_an_output_nothing_old_is_kept(name: str) -> None:
    with Quiet(Tap(name)) as harness:
        end = End(name)
        out = harness.struct.output[0]
        harness.struct.output[0] = ffi.NULL
        end.send(filled(60))
        assert harness.breathe() == 1
        assert harness.breathe() == 0
        harness.struct.output[0] = out
        end.send(filled(61))
        assert harness.drain() == [filled(61)]
        end.close()


# -- drops -------------------------------------------------------------------


def drops(harness: Harness) -> dict[str, int]:
    return {k: n for k, n in harness.counters.items() if k.startswith("drop")}


def test_what_the_kernel_refuses_is_counted_and_holds_nobody_up(name: str) -> None:
    with Quiet(Tap(name)) as harness:
        end = End(name)
        harness.send([filled(60), filled(20)[:5], filled(61)])
        bad = {"csum_start": 60, "csum_offset": 3}
        harness.send([filled(62)], flags=lib.PACKET_CSUM_PARTIAL, **bad)
        harness.send([filled(63)])
        assert harness.breathe() == 5
        for size in (60, 61, 63):
            assert end.receive()[0] == filled(size)
        assert drops(harness) == {"drop-tx-error": 1, "drop-tx-bad-offload": 1}
        end.close()


def test_drops_of_a_pool_run_dry(name: str) -> None:
    frame, start = super_frame(payload=65000)
    with Harness(Tap(name), small=1, large=1) as harness:
        hush(name)
        end = End(name)
        harness.drain()
        before = harness.counters.get("rx-packets", 0)
        for _ in range(2):
            end.send(frame, offload(start))
        for _ in range(3):
            end.send(filled(60))
        assert harness.breathe() == 5
        # The one small packet was in use when the second large one was wanted.
        assert harness.counters["rx-packets"] - before == 2
        assert drops(harness) == {"drop-rx-no-packet": 3}
        end.close()


# -- the interface -----------------------------------------------------------


def test_one_that_we_made(name: str) -> None:
    word = f"tap:{name}: interface"
    with Quiet(Tap(name)) as harness:
        supervise = harness.app.supervise
        assert supervise() is None
        run("ip", "link", "set", name, "down")
        assert supervise() == f"{word} is down"
        assert supervise() is None
        harness.send([filled(60)] * 3)
        assert harness.breathe() == 3
        assert drops(harness) == {"drop-tx-interface-down": 3}
        run("ip", "link", "set", name, "name", name + "x")
        assert supervise() == f"{word} was renamed to {name}x"
        run("ip", "link", "set", name + "x", "up")
        assert supervise() == f"{word} is up"
        end = End(name + "x")
        harness.drain()
        end.send(filled(60))
        assert filled(60) in harness.drain()
        end.close()

        run("ip", "link", "del", name + "x")
        assert supervise() == f"{word} was deleted; waiting for it to come back"
        # As long as the worker may use the descriptor it is left alone.
        assert supervise() is None
        harness.send([filled(60)] * 2)
        assert harness.breathe() == 2
        assert drops(harness) == {"drop-tx-interface-down": 5}
        assert harness.breathe() == 0
        assert harness.arm() == lib.ARM_READY
        # Made again under the name that it was given here.
        assert supervise() == f"{word} is back"
        assert supervise() is None
        hush(name)
        end = End(name)
        harness.drain()
        end.send(filled(61))
        assert harness.drain() == [filled(61)]
        end.close()

        run("ip", "link", "del", name)
        harness.breathe()
        assert supervise() == f"{word} was deleted and is back"


def test_one_that_was_there(name: str) -> None:
    word = f"tap:{name}: interface"
    run("ip", "tuntap", "add", name, "mode", "tap")
    hush(name)
    run("ip", "link", "set", name, "mtu", "1234")
    before = features(name)
    with Harness(Tap(name)) as harness:
        supervise = harness.app.supervise
        assert supervise() == f"{word} is down"
        run("ip", "link", "set", name, "up")
        assert supervise() == f"{word} is up"
        run("ip", "link", "del", name)
        harness.breathe()
        # Not ours to make.
        assert supervise() == f"{word} was deleted; waiting for it to come back"
        assert supervise() is None
        assert not is_there(name)
        run("ip", "tuntap", "add", name, "mode", "tap")
        hush(name)
        assert supervise() == f"{word} is back, down"
        run("ip", "link", "set", name, "up", "mtu", "1234")
        assert supervise() == f"{word} is up"
        wait_for_carrier(name)
        end = End(name)
        end.send(filled(60))
        assert harness.drain() == [filled(60)]
        end.close()
    assert "mtu 1234" in run("ip", "link", "show", name)
    if before:
        assert features(name) == before


def features(name: str) -> str:
    """Return the offloads that are active. What is merely wanted nobody can use."""
    try:
        text = run("ethtool", "-k", name)
    except FileNotFoundError:
        return ""
    return re.sub(r" \[requested o(n|ff)\]", "", text)


def test_one_of_several_queues(name: str) -> None:
    run("ip", "tuntap", "add", name, "mode", "tap", "multi_queue")
    hush(name)
    run("ip", "link", "set", name, "up")
    with Harness(Tap(name)) as harness:
        wait_for_carrier(name)
        end = End(name)
        end.send(filled(60))
        assert harness.drain() == [filled(60)]
        end.close()


def test_moved_to_another_namespace_and_back(name: str) -> None:
    word = f"tap:{name}: interface was moved to"
    space = f"snabb-{name}"
    run("ip", "netns", "add", space)
    try:
        with Quiet(Tap(name)) as harness:
            run("ip", "link", "set", name, "netns", space)
            assert harness.app.supervise() == f"{word} another network namespace"
            assert harness.app.supervise() is None
            run("ip", "-n", space, "addr", "add", "198.18.0.1/24", "dev", name)
            run("ip", "-n", space, "link", "set", name, "up")
            ping = ["ping", "-c1", "-W1", "198.18.0.2"]
            subprocess.run(
                ["ip", "netns", "exec", space, *ping], check=False, capture_output=True
            )
            # It asks who has the address.
            assert any(f[12:14] == b"\x08\x06" for f in harness.drain())
            run("ip", "-n", space, "link", "set", name, "netns", str(os.getpid()))
            assert harness.app.supervise() == f"{word} this network namespace"
    finally:
        run("ip", "netns", "del", space)


def test_the_mtu(name: str) -> None:
    registry = Registry(None)
    with Harness(Tap(name, mtu=1400), registry=registry):
        assert "mtu 1400" in run("ip", "link", "show", name)
        # A successor changes it without closing the tap.
        index = socket.if_nametoindex(name)
        lease = registry.lease("app")
        Tap(name, mtu=65521).open(lease)
        assert "mtu 65521" in run("ip", "link", "show", name)
        assert socket.if_nametoindex(name) == index
        lease.release()
    for mtu in (67, 65522):
        with pytest.raises(ConfigError, match="mtu"):
            Tap(name, mtu=mtu)


@pytest.mark.parametrize("bad", ["", "a/b", "a b", "a" * 16, ".", "tap%d"])
def test_what_is_no_name(bad: str) -> None:
    with pytest.raises(ConfigError, match="is not the name of an interface"):
        Tap(bad)


def test_what_cannot_be_had(name: str) -> None:
    with pytest.raises(DeviceError, match=r"tap:lo: attach .* another kind"):
        TapDevice("lo")
    device = TapDevice(name)
    with pytest.raises(DeviceError, match="another program has it") as caught:
        TapDevice(name)
    assert caught.value.errno == errno.EBUSY
    device.close()
    os.seteuid(65534)
    try:
        with pytest.raises(DeviceError, match="run as root"):
            TapDevice(name)
    finally:
        os.seteuid(0)
