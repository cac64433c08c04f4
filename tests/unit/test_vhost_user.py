"""vhost-user messages: what they do, and what wrong ones do not.

After each wrong message the port serves the next front end, no file descriptor is left
open, and the counter of the reason says so.
"""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snabb_py._native import lib
from snabb_py.errors import ConfigError, DeviceError
from snabb_py.virtio import message
from snabb_py.virtio.connection import TURN, TURN_SECONDS
from snabb_py.virtio.frontend import NUMBERS, Guest, Refused
from snabb_py.virtio.frontend_ring import GUEST_BASE
from snabb_py.virtio.listening import listen
from snabb_py.virtio.loop import Loop
from snabb_py.virtio.message import (
    ADDRESS,
    HEADER,
    REGION,
    REQUESTS,
    SINGLE_REGION,
    STATE,
    TABLE,
    U64,
    Feature,
    Protocol,
)
from snabb_py.virtio.vhost_user import LINES, LINES_WINDOW, Port, PortConfig
from tests.harness import no_free_fds
from tests.vhost_port import Bench, all_fds_closed, is_over, open_fds, ready

NO_ACK = message.PROTOCOL_FEATURES & ~message.bits(Protocol.REPLY_ACK)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with ready(tmp_path / "s") as bench:
        yield bench


@pytest.fixture
def guest(bench: Bench) -> Iterator[Guest]:
    with bench.guest(queues=2) as guest:
        guest.negotiate()
        yield guest


# -- requests ------------------------------------------------------------------


def test_a_session_from_start_to_end(bench: Bench, guest: Guest) -> None:
    assert guest.features == message.FEATURES & guest.wanted
    assert U64.unpack(guest.request("get_queue_num")) == (2,)
    assert U64.unpack(guest.request("get_max_mem_slots")) == (509,)
    guest.request("net_set_mtu", U64.pack(1500))
    guest.request("set_status", U64.pack(15))
    assert U64.unpack(guest.request("get_status")) == (15,)
    guest.share_memory()
    guest.start_driver()
    guest.resume()
    assert all(r.is_running for p in bench.port.device.pairs for r in p.rings)
    assert guest.stop() == [0, 0, 0, 0]
    assert not bench.counted


def test_get_vring_base_stops_that_ring_alone(bench: Bench, guest: Guest) -> None:
    guest.share_memory()
    guest.start_driver()
    guest.resume()
    assert guest.stop_ring(1) == 0
    running = [r.is_running for p in bench.port.device.pairs for r in p.rings]
    assert running == [True, False, True, True]
    guest.start_ring(1)
    assert bench.port.device.pairs[0].rings[1].is_running


def test_the_base_comes_back(guest: Guest) -> None:
    guest.request("set_vring_base", STATE.pack(0, 77))
    assert guest.stop_ring(0) == 77


def test_without_protocol_features_a_started_ring_is_enabled(bench: Bench) -> None:
    features = message.bits(Feature.VERSION_1)
    with bench.guest(queues=2, features=features) as guest:
        guest.start()
        for pair in bench.port.device.pairs:
            assert pair.struct.rx.enabled == lib.VIRTQ_ENABLED
            assert pair.struct.tx.enabled == lib.VIRTQ_ENABLED


def test_with_them_it_waits_for_enable(bench: Bench, guest: Guest) -> None:
    guest.share_memory()
    guest.start_driver()
    guest.start_ring(0)
    queue = bench.port.device.pairs[0].struct.rx
    assert queue.size == 256
    assert queue.enabled == lib.VIRTQ_WAITS
    guest.enable_ring(0)
    assert queue.enabled == lib.VIRTQ_ENABLED
    guest.enable_ring(0, 0)
    assert queue.size == 256
    assert queue.enabled == lib.VIRTQ_DISCARDS


@pytest.mark.parametrize("way", ["reset_device", "set_status"])
def test_a_reset_stops_all(bench: Bench, guest: Guest, way: str) -> None:
    guest.share_memory()
    guest.start_driver()
    guest.resume()
    guest.request(way, b"" if way == "reset_device" else U64.pack(0))
    assert not bench.port.device.has_guest
    assert bench.port.device.features == 0
    guest.request("set_features", U64.pack(guest.features))
    guest.start_driver()
    guest.resume()
    assert bench.port.device.has_guest


def test_a_started_ring_interrupts_once(guest: Guest) -> None:
    guest.share_memory()
    guest.start_driver()
    guest.start_ring(1)
    assert os.eventfd_read(guest.pairs[0].call) == 1
    other = os.eventfd(0, os.EFD_NONBLOCK)
    guest.request("set_vring_call", U64.pack(1), [other])
    assert os.eventfd_read(other) == 1
    os.close(other)


@pytest.mark.parametrize(
    "name", [r.name for r in REQUESTS.values() if not r.is_handled]
)
@pytest.mark.parametrize("wants_ack", [True, False])
def test_an_unsupported_request_is_refused(
    bench: Bench, name: str, wants_ack: bool
) -> None:
    protocol = message.PROTOCOL_FEATURES if wants_ack else NO_ACK
    request = REQUESTS[NUMBERS[name]]
    body = bytes(request.sizes[0])
    with bench.guest(protocol=protocol) as guest:
        guest.negotiate()
        if request.is_question:
            assert guest.request(name, body) == request.refusal
        elif wants_ack:
            with pytest.raises(Refused):
                guest.request(name, body)
        else:
            guest.request(name, body)
        # The connection goes on.
        assert len(guest.request("get_features")) == 8
    assert bench.counted == {"refused-unsupported-messages": 1}


def test_a_request_of_a_feature_that_was_not_negotiated(bench: Bench) -> None:
    with bench.guest(protocol=message.bits(Protocol.REPLY_ACK)) as guest:
        guest.negotiate()
        with pytest.raises(Refused):
            guest.request("net_set_mtu", U64.pack(1500))
    assert bench.counted == {"refused-unsupported-messages": 1}


@pytest.mark.parametrize("number", [0, 44, 1000, 2**32 - 1])
def test_an_unknown_request(bench: Bench, guest: Guest, number: int) -> None:
    flags = message.VERSION | message.NEED_REPLY
    guest.send(HEADER.pack(number, flags, 5) + bytes(5))
    assert guest.receive() == (number, 5, U64.pack(1))
    guest.send(HEADER.pack(number, message.VERSION, 0))
    assert len(guest.request("get_features")) == 8
    assert bench.counted == {"refused-unsupported-messages": 2}


# -- wrong arguments -----------------------------------------------------------


@pytest.mark.parametrize(
    "request_", [r for r in REQUESTS.values() if r.is_handled], ids=lambda r: r.name
)
@pytest.mark.parametrize("off", [-1, 1])
def test_a_payload_of_the_wrong_size(
    bench: Bench, guest: Guest, request_: message.Request, off: int
) -> None:
    size = request_.sizes[off == 1] + off
    if size < 0:
        return
    if request_.is_question:
        with pytest.raises(ConnectionError):
            guest.request(request_.name, bytes(size))
        assert bench.counted["closed-refused-connections"] == 1
    else:
        with pytest.raises(Refused):
            guest.request(request_.name, bytes(size))
    assert bench.counted["refused-bad-size-messages"] == 1


@pytest.mark.parametrize(
    "request_", [r for r in REQUESTS.values() if r.is_handled], ids=lambda r: r.name
)
def test_file_descriptors_that_nobody_wants_are_closed(
    bench: Bench, guest: Guest, request_: message.Request
) -> None:
    number = request_.fds[1] + 1
    body = bytes(request_.sizes[0])
    with contextlib.suppress(Refused, ConnectionError):
        if number <= message.MOST_FDS:
            guest.request(request_.name, body, [0] * number)
    # The fixture looks whether they are gone.
    del bench


WRONG: dict[str, tuple[str, bytes, str]] = {
    "features": ("set_features", U64.pack(1 << 40), "bad-features"),
    "protocol": ("set_protocol_features", U64.pack(1 << 40), "bad-features"),
    "mtu": ("net_set_mtu", U64.pack(67), "bad-mtu"),
    "status": ("set_status", U64.pack(256), "bad-status"),
    "num-0": ("set_vring_num", STATE.pack(0, 0), "bad-ring-size"),
    "num-odd": ("set_vring_num", STATE.pack(0, 255), "bad-ring-size"),
    "num-large": ("set_vring_num", STATE.pack(0, 65536), "bad-ring-size"),
    "num-index": ("set_vring_num", STATE.pack(4, 256), "bad-index"),
    "base-index": ("set_vring_base", STATE.pack(2**32 - 1, 0), "bad-index"),
    "addr-index": ("set_vring_addr", ADDRESS.pack(4, 0, 0, 0, 0, 0), "bad-index"),
    "enable-index": ("set_vring_enable", STATE.pack(4, 1), "bad-index"),
    "enable": ("set_vring_enable", STATE.pack(0, 2), "bad-state"),
    "kick-index": ("set_vring_kick", U64.pack(0x104), "bad-index"),
    "kick-bits": ("set_vring_kick", U64.pack(0x300), "bad-index"),
    "kick-no-fd": ("set_vring_kick", U64.pack(0), "bad-fds"),
    "call-no-fd": ("set_vring_call", U64.pack(1), "bad-fds"),
    "table-0": ("set_mem_table", TABLE.pack(0, 0), "bad-size"),
    "table-9": ("set_mem_table", TABLE.pack(9, 0) + bytes(256), "bad-size"),
    "table-no-fd": ("set_mem_table", TABLE.pack(1, 0) + bytes(32), "bad-fds"),
    "remove": ("rem_mem_reg", bytes(40), "bad-memory"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_arguments(bench: Bench, guest: Guest, what: str) -> None:
    name, body, reason = WRONG[what]
    with pytest.raises(Refused):
        guest.request(name, body)
    assert bench.counted == {f"refused-{reason}-messages": 1}
    assert len(guest.request("get_features")) == 8


def test_wrong_arguments_that_cannot_be_told_end_the_connection(bench: Bench) -> None:
    with bench.guest(protocol=NO_ACK) as guest:
        guest.negotiate()
        guest.request("set_vring_num", STATE.pack(0, 3))
        bench.wait(lambda: is_over(bench, guest))
    assert bench.counted["closed-refused-connections"] == 1


def test_get_vring_base_of_no_ring(bench: Bench, guest: Guest) -> None:
    with pytest.raises(ConnectionError):
        guest.stop_ring(4)
    assert bench.counted["refused-bad-index-messages"] == 1


BAD_REGIONS = {
    "empty": (GUEST_BASE, 0, 4096, 0),
    "longer than its file": (GUEST_BASE, 8193, 4096, 0),
    "behind its file": (GUEST_BASE, 4096, 4096, 8192),
    "start overflows": (2**64 - 4096, 8192, 4096, 0),
    "user overflows": (GUEST_BASE, 8192, 2**64 - 1, 0),
    "offset overflows": (GUEST_BASE, 8192, 4096, 2**64 - 4096),
    "size overflows": (GUEST_BASE, 2**64 - 1, 4096, 0),
}


@pytest.mark.parametrize("what", BAD_REGIONS)
@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_region_that_cannot_be(
    bench: Bench, guest: Guest, what: str, one_by_one: bool
) -> None:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 8192)
    region = BAD_REGIONS[what]
    name, body = "set_mem_table", TABLE.pack(1, 0) + REGION.pack(*region)
    if one_by_one:
        name, body = "add_mem_reg", SINGLE_REGION.pack(0, *region)
    with pytest.raises(Refused):
        guest.request(name, body, [fd])
    os.close(fd)
    assert bench.counted == {"refused-bad-memory-messages": 1}


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/proc/self/maps", "/"])
def test_memory_that_is_no_file(bench: Bench, guest: Guest, path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    body = TABLE.pack(1, 0) + REGION.pack(GUEST_BASE, 4096, 4096, 0)
    with pytest.raises(Refused):
        guest.request("set_mem_table", body, [fd])
    os.close(fd)
    assert bench.counted == {"refused-bad-memory-messages": 1}


def test_regions_that_overlap(bench: Bench, guest: Guest) -> None:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 8192)
    one = REGION.pack(GUEST_BASE, 8192, 0x10000, 0)
    for other in (
        REGION.pack(GUEST_BASE + 4096, 8192, 0x20000, 0),
        REGION.pack(GUEST_BASE + 8192, 8192, 0x11000, 0),
    ):
        with pytest.raises(Refused):
            guest.request("set_mem_table", TABLE.pack(2, 0) + one + other, [fd, fd])
    os.close(fd)
    assert bench.counted == {"refused-bad-memory-messages": 2}


def test_509_slots(bench: Bench, guest: Guest) -> None:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 4096)
    body = [
        SINGLE_REGION.pack(0, GUEST_BASE + 8192 * i, 4096, 8192 * (i + 1), 0)
        for i in range(510)
    ]
    for i in range(509):
        guest.request("add_mem_reg", body[i], [fd])
    with pytest.raises(Refused):
        guest.request("add_mem_reg", body[509], [fd])
    # An offset does not matter, nor does a file descriptor.
    guest.request("rem_mem_reg", body[7][:-8] + U64.pack(99), [fd])
    guest.request("add_mem_reg", body[509], [fd])
    assert len(bench.port.device.table.regions) == 509
    os.close(fd)


def mapped_bytes(name: str) -> int:
    """Return how much of this process's addresses files of a name take."""
    ends = [
        line.split()[0].split("-")
        for line in Path("/proc/self/maps").read_text().splitlines()
        if f"memfd:{name}" in line
    ]
    return sum(int(end, 16) - int(start, 16) for start, end in ends)


def test_a_region_takes_no_file_descriptor_and_no_more_addresses_than_it_has(
    bench: Bench, guest: Guest
) -> None:
    fd = os.memfd_create("holes")
    os.ftruncate(fd, 2**45)
    before = len(open_fds())
    for i in range(100):
        region = (GUEST_BASE + 8192 * i, 4096, 8192 * (i + 1), 2**44 + 100 * i)
        guest.request("add_mem_reg", SINGLE_REGION.pack(0, *region), [fd])
    assert len(open_fds()) == before
    assert mapped_bytes("holes") <= 100 * 8192
    os.close(fd)
    del bench


def test_a_guest_has_a_part_of_the_addresses_alone(bench: Bench, guest: Guest) -> None:
    """127 ports could not all have memory if one may announce any."""
    fd = os.memfd_create("holes")
    os.ftruncate(fd, 2**45)
    half = (GUEST_BASE, 2**39, 2**32, 0)
    guest.request("add_mem_reg", SINGLE_REGION.pack(0, *half), [fd])
    for size in (2**39 + 4096, 2**40 + 1, 2**45):
        region = (2**50, size, 2**50, 0)
        with pytest.raises(Refused):
            guest.request("add_mem_reg", SINGLE_REGION.pack(0, *region), [fd])
        assert mapped_bytes("holes") == 2**39
    os.close(fd)
    assert bench.counted == {"refused-bad-memory-messages": 3}


def test_memory_that_a_running_ring_needs_stays(bench: Bench, guest: Guest) -> None:
    guest.share_memory()
    guest.start_driver()
    guest.resume()
    region = (GUEST_BASE, guest.memory.size, guest.start_address, 0)
    with pytest.raises(Refused):
        guest.request("rem_mem_reg", SINGLE_REGION.pack(0, *region))
    assert bench.port.device.table.regions
    assert bench.counted == {"refused-bad-ring-address-messages": 1}


@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("where", ["outside", "over the end", "unaligned"])
def test_a_ring_that_is_not_in_memory(
    bench: Bench, guest: Guest, part: int, where: str
) -> None:
    guest.share_memory()
    ring = guest.pairs[0].rings[0]
    addresses = [guest.start_address + offset for offset in ring.offsets]
    addresses[part] = {
        "outside": guest.start_address - 4096,
        "over the end": guest.start_address + guest.memory.size - 16,
        "unaligned": addresses[part] + 1,
    }[where]
    desc, avail, used = addresses
    guest.request("set_vring_num", STATE.pack(0, 256))
    guest.request("set_vring_kick", U64.pack(0), [ring.kick])
    with pytest.raises(Refused):
        guest.request("set_vring_addr", ADDRESS.pack(0, 0, desc, used, avail, 0))
    assert not bench.port.device.has_guest
    assert bench.counted == {"refused-bad-ring-address-messages": 1}


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("set_vring_num", STATE.pack(0, 128)),
        ("set_vring_base", STATE.pack(0, 5)),
        ("set_vring_addr", ADDRESS.pack(0, 0, 0, 0, 0, 0)),
        ("set_features", U64.pack(1 << 32)),
    ],
)
def test_a_running_ring_stays_as_it_is(
    bench: Bench, guest: Guest, name: str, body: bytes
) -> None:
    guest.share_memory()
    guest.start_driver()
    guest.resume()
    with pytest.raises(Refused):
        guest.request(name, body)
    assert bench.counted == {"refused-bad-state-messages": 1}


@pytest.mark.parametrize("name", ["set_vring_kick", "set_vring_call", "set_vring_err"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "file", "directory", "memfd"])
def test_only_eventfds_notify(
    bench: Bench, guest: Guest, tmp_path: Path, name: str, kind: str
) -> None:
    makers: dict[str, Callable[[], tuple[int, ...]]] = {
        "pipe": os.pipe,
        "socket": lambda: tuple(s.detach() for s in socket.socketpair()),
        "file": lambda: (os.open(tmp_path / "f", os.O_CREAT | os.O_RDWR),),
        "directory": lambda: (os.open(tmp_path, os.O_RDONLY),),
        "memfd": lambda: (os.memfd_create("x"),),
    }
    fds = makers[kind]()
    with pytest.raises(Refused):
        guest.request(name, U64.pack(0), [fds[-1]])
    for fd in fds:
        os.close(fd)
    assert bench.counted == {"refused-bad-fd-messages": 1}


def test_repeated_messages_replace_and_free(bench: Bench, guest: Guest) -> None:
    # CVE-2019-14818, CVE-2020-10726: repeated messages leaked.
    guest.share_memory()
    guest.share_memory()
    before = len(open_fds())
    for _ in range(100):
        guest.share_memory()
        for name in ("set_vring_call", "set_vring_err", "set_vring_kick"):
            guest.request(name, U64.pack(0), [guest.pairs[0].call])
        guest.request("set_vring_num", STATE.pack(0, 256))
    assert len(open_fds()) <= before + 3
    assert len(bench.port.device._regions) == 1
    assert not bench.counted


# -- framing -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (HEADER.pack(1, 1, 4097), "oversized"),
        (HEADER.pack(1, 1, 2**32 - 1), "oversized"),
        (HEADER.pack(1, 0, 0), "version"),
        (HEADER.pack(1, 2, 0), "version"),
        (HEADER.pack(1, 3, 0), "version"),
        (HEADER.pack(1, 5, 0), "reply"),
        (b"\xff" * 12, "oversized"),
    ],
)
def test_a_header_that_ends_the_connection(
    bench: Bench, guest: Guest, data: bytes, reason: str
) -> None:
    guest.send(data)
    bench.wait(lambda: is_over(bench, guest))
    assert bench.counted == {f"closed-{reason}-connections": 1}


@pytest.mark.parametrize("n", range(1, 20))
def test_the_front_end_goes_in_mid_message(bench: Bench, guest: Guest, n: int) -> None:
    guest.send((HEADER.pack(2, 1, 8) + U64.pack(0))[:n], [0])
    bench.turn()
    guest.disconnect()
    bench.wait(lambda: not bench.port.is_connected)
    assert bench.counted == {"closed-truncated-connections": 1}


def test_a_message_byte_by_byte(bench: Bench, guest: Guest) -> None:
    for byte in HEADER.pack(1, 1, 0):
        guest.send(bytes([byte]))
        bench.turn()
    assert guest.receive()[0] == 1


def test_several_messages_at_once(guest: Guest) -> None:
    guest.send(HEADER.pack(1, 1, 0) * 5)
    assert [guest.receive()[0] for _ in range(5)] == [1] * 5


@pytest.mark.parametrize("n", [3, 12, 15])
def test_the_rest_of_a_message_does_not_come(
    bench: Bench, guest: Guest, n: int
) -> None:
    guest.send((HEADER.pack(2, 1, 8) + U64.pack(0))[:n])
    bench.turn()
    bench.now += 4.9
    bench.loop.step(0.2)
    assert bench.port.is_connected
    bench.now += 0.2
    bench.wait(lambda: not bench.port.is_connected)
    assert bench.counted == {"closed-unfinished-connections": 1}


def test_a_front_end_may_be_silent_for_as_long_as_it_likes(
    bench: Bench, guest: Guest
) -> None:
    bench.now += 1e6
    bench.turn()
    assert len(guest.request("get_features")) == 8


def test_one_that_has_come_says_something(bench: Bench) -> None:
    with bench.guest() as guest:
        guest.connect()
        bench.turn()
        bench.now += 29.9
        bench.loop.step(0.2)
        assert bench.port.is_connected
        bench.now += 0.2
        bench.wait(lambda: not bench.port.is_connected)
    assert bench.counted == {"closed-silent-connections": 1}


def test_a_turn_is_short_when_messages_take_long(bench: Bench, guest: Guest) -> None:
    before = bench.port.counters["messages"]
    guest.send(HEADER.pack(3, 1, 0) * 40)
    bench.tick = TURN_SECONDS
    turns: list[int] = []
    while not turns or turns[-1] < 40:
        bench.turn()
        turns.append(bench.port.counters["messages"] - before)
    bench.tick = 0
    assert turns == list(range(1, 41))


def test_a_flood_of_messages_leaves_others_their_turn(
    bench: Bench, guest: Guest, tmp_path: Path
) -> None:
    guest.send(HEADER.pack(3, 1, 0) * 40 * TURN)
    port = Port(PortConfig(tmp_path / "other"), bench.loop)
    steps = 0

    def turn() -> None:
        nonlocal steps
        steps += 1
        bench.turn()

    with Guest(tmp_path / "other", idle=turn) as other:
        before = bench.port.counters["messages"]
        other.negotiate()
        done = bench.port.counters["messages"] - before
    # Never more than a turn of the flood for each of the other's.
    assert 0 < done <= TURN * steps
    assert steps <= 2 * port.counters["messages"] + 2
    port.close()
    assert not bench.counted


def test_lines_about_a_flood_of_connections_are_few(bench: Bench) -> None:
    said = []
    for _ in range(200):
        with bench.guest() as guest:
            guest.connect()
            bench.wait(lambda: bench.port.is_connected)
        bench.wait(lambda: not bench.port.is_connected)
        said.append(bench.port.supervise() or "")
    bench.now += LINES_WINDOW
    assert "; ".join(said).count("connected") == LINES
    with bench.guest() as guest:
        guest.connect()
        bench.wait(lambda: bench.port.is_connected)
    assert "390 more lines like these" in (bench.port.supervise() or "")


def test_a_front_end_that_does_not_read(bench: Bench, guest: Guest) -> None:
    assert guest.socket
    guest.socket.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < 10**6:
            guest.send(HEADER.pack(1, 1, 0))
            sent += 1
            bench.turn()
    bench.now += 6
    bench.wait(lambda: not bench.port.is_connected)
    assert bench.counted == {"closed-unread-connections": 1}


def test_more_file_descriptors_than_any_message_has(bench: Bench, guest: Guest) -> None:
    with pytest.raises(Refused):
        guest.request("set_vring_call", U64.pack(0), [0] * 30)
    assert bench.counted == {"refused-bad-fds-messages": 1}


# -- sockets -------------------------------------------------------------------


def test_a_second_front_end_is_refused(bench: Bench, guest: Guest) -> None:
    with bench.guest() as other:
        other.connect()
        bench.wait(lambda: is_over(bench, other))
    assert bench.counted == {"refused-busy-connections": 1}
    assert len(guest.request("get_features")) == 8


def test_one_that_has_gone_makes_room(bench: Bench, guest: Guest) -> None:
    guest.disconnect()
    with bench.guest() as other:
        other.negotiate()
    assert not bench.counted


def test_the_socket_is_for_owner_and_group(bench: Bench) -> None:
    assert stat.S_IMODE(bench.path.stat().st_mode) == 0o660


@pytest.mark.need("root")
def test_the_group_is_set(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listen(path, 4711):
        assert path.stat().st_gid == 4711
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_a_group_that_may_not_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left of the socket."""
    path = tmp_path / "s"

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(DeviceError, match=r"give .*/s to group 4711: .*; who is not"):
        listen(path, 4711)
    assert not path.exists()


def test_a_stale_socket_is_replaced_and_ours_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    Bench(path).close()
    assert not path.exists()


def test_a_socket_that_answers_stays(bench: Bench) -> None:
    with pytest.raises(DeviceError, match="somebody listens there") as caught:
        Bench(bench.path)
    assert caught.value.errno == errno.EADDRINUSE
    with bench.guest() as guest:
        guest.negotiate()


def test_a_file_that_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("mine")
    with pytest.raises(DeviceError, match="in use"):
        Bench(path)
    assert path.read_text() == "mine"


def test_a_path_too_long_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"108 bytes.* 107"):
        Bench(Path("/" + "x" * 107))
    del tmp_path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "no" / "s", "No such file"),
        (lambda path: path / "file" / "s", "Not a directory"),
        (lambda path: path / "loop" / "s", "symbolic links"),
        (lambda path: path, "in use"),
        (lambda _: Path("/proc/s"), ""),
    ],
)
def test_a_directory_that_will_not_do(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    path = make(tmp_path)
    with (
        all_fds_closed(),
        pytest.raises(DeviceError, match=f"listen at {path}.*{message}"),
    ):
        Bench(path)


@pytest.mark.need("root")
def test_a_socket_that_another_user_has_left_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    os.chown(path, 12345, -1)
    with pytest.raises(DeviceError, match=r"user 12345 has left .*: remove it"):
        Bench(path)
    assert path.is_socket()


def test_without_file_descriptors_a_client_tries_again(tmp_path: Path) -> None:
    path = tmp_path / "s"
    now = 1000.0
    loop = Loop()
    port = Port(PortConfig(path, is_server=False), loop, clock=lambda: now)

    def idle() -> None:
        nonlocal now
        now += 1
        loop.step(0.1)

    with no_free_fds():
        for _ in range(3):
            idle()
    with Guest(path, is_server=True, idle=idle) as guest:
        guest.start()
        assert port.device.has_guest
    port.close()
    loop.close()


def test_an_error_of_ours_ends_one_connection(
    bench: Bench, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> bool:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(bench.port.device, "settle", fail)
        os.eventfd_write(bench.port.device.event_fd, 1)
        patch.setattr(bench.port.device, "disconnect", lambda: None)
        bench.turn()
    bench.port.device.disconnect()
    assert bench.counted == {"closed-internal-connections": 1}
    assert "internal error: MemoryError" in (bench.port.supervise() or "")
    del guest


def test_a_client_comes_when_the_server_does(tmp_path: Path) -> None:
    path = tmp_path / "s"
    now = [1000.0]
    loop = Loop()
    port = Port(PortConfig(path, is_server=False), loop, clock=lambda: now[0])

    def idle() -> None:
        now[0] += 0.1
        loop.step(0)

    for _ in range(3):
        assert not port.is_connected
        with Guest(path, is_server=True, idle=idle) as guest:
            guest.start()
            assert port.device.has_guest
        while port.is_connected:
            idle()
        assert not port.device.has_guest
    assert port.counters["connections"] == 3
    port.close()
    loop.close()
