"""The vfio-user server, driven by a client through its socket.

The card is the real software card; the client is `tests.vfio_client`. Whatever a client
does, the next one finds the card as new, and no file descriptor is left behind.
"""

import contextlib
import errno
import gc
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snabb_py._native import lib
from snabb_py.errors import ConfigError, DeviceError
from snabb_py.nic.limited_log import BURST, WINDOW
from snabb_py.nic.model82599 import Card, SoftwareCard
from snabb_py.nic.vfio_connection import COUNTERS
from snabb_py.nic.vfio_message import LONGEST, LONGEST_DATA, MOST_FDS
from snabb_py.nic.vfio_user import LONGEST_PATH, PATIENCE, Server, Servers
from tests.harness import Harness, no_free_fds
from tests.vfio_client import (
    BAR0,
    BAR2,
    BAR4,
    BOOL,
    CONFIG,
    DMA_MAP,
    DMA_UNMAP,
    ERR,
    ERROR,
    EVENTFD,
    FRAME,
    GET_INFO,
    GET_IRQ_INFO,
    GET_REGION_INFO,
    INTX,
    MASK,
    MSI,
    MSIX,
    NO_REPLY,
    NONE,
    PAGE,
    REGION_READ,
    REGION_WRITE,
    REPLY,
    REQ,
    RESET,
    SET_IRQS,
    TDT,
    TRIGGER,
    UNMASK,
    VERSION,
    Refused,
    VfioClient,
    irqs_body,
    map_body,
    message,
    region_body,
    start_transmission,
    transmit,
    unmap_body,
    version_body,
)

STATUS, LEDCTL = 0x8, 0x200


class Time:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


class Rig(NamedTuple):
    """A card that is served, and the thread that serves it."""

    card: Card
    server: Server
    servers: Servers
    log: list[str]
    time: Time

    @property
    def path(self) -> Path:
        return self.server.path

    def count(self, name: str) -> int:
        return self.server.counters[name]

    def client(self) -> VfioClient:
        return VfioClient(self.path)

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not is_so():
            assert time.monotonic() < deadline, (self.server.counters, self.log)
            time.sleep(0.001)

    def wait_for_nobody(self) -> None:
        self.wait_for(lambda: not self.server.is_connected)

    def check_is_well(self) -> None:
        """The next client is served as if it were the first."""
        self.wait_for_nobody()
        assert self.card.nregions == 0
        with self.client() as client:
            client.negotiate()
            assert client.read(CONFIG, 0, 4) == bytes.fromhex("8680fb10")
        self.wait_for_nobody()


def open_fds() -> int:
    # What an earlier test has left to the collector must not go in the middle of this.
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    before = open_fds()
    log: list[str] = []
    clock = Time()
    with Card() as card:
        server = Server(card, tmp_path / "nic.sock", log=log.append, clock=clock)
        with Servers([server]) as servers:
            yield Rig(card, server, servers, log, clock)
            assert server.counters["closed-internal-connections"] == 0
        assert not server.path.exists()
    assert open_fds() == before


@pytest.fixture
def client(rig: Rig) -> Iterator[VfioClient]:
    with rig.client() as client:
        client.negotiate()
        yield client
    rig.wait_for_nobody()


@pytest.fixture
def memory() -> Iterator[int]:
    """Sixteen pages of a guest's memory."""
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 16 * PAGE)
    yield fd
    os.close(fd)


@pytest.fixture
def eventfds() -> Iterator[list[int]]:
    fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(MOST_FDS)]
    yield fds
    for fd in fds:
        os.close(fd)


def is_signalled(fd: int) -> bool:
    try:
        return os.eventfd_read(fd) > 0
    except BlockingIOError:
        return False


# ---- what QEMU does ----------------------------------------------------------


def test_qemu_starts_up(rig: Rig, memory: int, eventfds: list[int]) -> None:
    with rig.client() as client:
        capabilities = client.negotiate()
        assert capabilities["max_msg_fds"] == MOST_FDS
        assert capabilities["max_data_xfer_size"] == LONGEST_DATA
        assert capabilities["pgsizes"] == PAGE
        assert 1000 < capabilities["max_dma_maps"] <= 65535
        assert "write_multiple" not in capabilities
        assert "migration" not in capabilities

        client.map(0, 8 * PAGE, memory)
        client.map(0xFFFC0000, 4 * PAGE)  # firmware: no file
        client.map(1 << 32, 8 * PAGE, memory, offset=8 * PAGE, flags=1)
        assert rig.card.nregions == 2

        info = client.request(GET_INFO, struct.pack("<IIII", 16, 0, 0, 0))
        assert struct.unpack("<IIII", info) == (16, 3, 9, 5)
        sizes = [client.region_info(i, argsz=32 if i else 4096) for i in range(9)]
        assert [size for size, _ in sizes] == [
            *(131072, 0, 32, 0, 16384, 0, 0, 4096, 0)
        ]
        assert [flags for _, flags in sizes] == [3 if size else 0 for size, _ in sizes]

        config = client.read(CONFIG, 0, 4096)
        assert config[:4] == bytes.fromhex("8680fb10")
        assert config[0xE] == 0  # type 0 header
        assert [client.irq_info(i) for i in (INTX, MSIX, ERR, REQ)] == [
            *((1, 7), (64, 9), (1, 1), (1, 1))
        ]
        assert client.irq_info(MSI) in ((0, 9), (1, 9))

        client.set_irqs(ERR, EVENTFD | TRIGGER, count=1, fds=eventfds[:1])
        client.set_irqs(REQ, EVENTFD | TRIGGER, count=1, fds=eventfds[1:2])
        client.write(CONFIG, 4, b"\6\4")
        assert client.read(CONFIG, 4, 2) == b"\6\4"
        client.set_irqs(INTX, EVENTFD | TRIGGER, count=1, fds=eventfds[2:3])
        client.set_irqs(INTX, NONE | UNMASK, count=1)
        client.set_irqs(INTX, NONE | TRIGGER)
        client.set_irqs(MSIX, EVENTFD | TRIGGER, count=3, fds=eventfds[3:6])
        client.set_irqs(MSIX, EVENTFD | TRIGGER, start=3, count=61)
        client.set_irqs(MSIX, NONE | TRIGGER)
        client.reset()
        client.unmap(1 << 32, 8 * PAGE)
        client.unmap(0x12340000, PAGE)  # never was: well
        assert rig.card.nregions == 1
        client.unmap(0, 0, flags=2)
        assert rig.card.nregions == 0
    rig.check_is_well()
    errors = {k: n for k, n in rig.server.counters.items() if k.startswith("error")}
    assert not any(errors.values())


def test_registers_are_read_and_written(client: VfioClient, rig: Rig) -> None:
    client.set_register(LEDCTL, 0x12345678)
    assert client.register(LEDCTL) == rig.card.read(LEDCTL)
    value = rig.card.read(LEDCTL)
    client.set_register(LEDCTL, value ^ 0xF, posted=False)
    assert rig.card.read(LEDCTL) == value ^ 0xF
    assert client.read(BAR0, STATUS, 4) == rig.card.access(BAR0, STATUS, 4)


def test_a_reset_keeps_what_is_mapped(
    client: VfioClient, rig: Rig, memory: int
) -> None:
    client.map(0, PAGE, memory)
    before = client.register(LEDCTL)
    client.set_register(LEDCTL, before ^ 0xF)
    client.reset()
    assert client.register(LEDCTL) == before
    assert rig.card.nregions == 1


def test_messages_are_answered_in_order_however_they_come(client: VfioClient) -> None:
    config = client.read(CONFIG, 0, 256)
    many = b"".join(
        message(REGION_READ, region_body(CONFIG, i, 1), number=i) for i in range(200)
    )
    client.send(many)
    for i in range(200):
        reply = client.receive()
        assert (reply.number, reply.body[16:]) == (i, config[i : i + 1])
    for i in range(len(many) // 20):
        client.send(many[i : i + 1])
    for i in range(len(many) // 20 // 32):
        assert client.receive().number == i


def test_a_posted_message_is_done_before_the_next_is_answered(
    client: VfioClient, rig: Rig
) -> None:
    before = client.register(LEDCTL)
    for i in range(50):
        client.set_register(LEDCTL, before ^ (i % 16), posted=True)
        assert client.register(LEDCTL) == before ^ (i % 16)
    client.post(REGION_READ, region_body(9, 0, 4))  # wrong, and nobody asks
    assert client.register(LEDCTL)
    assert rig.count("error-argument-messages") == 1


# ---- what the card does to the client ----------------------------------------


def test_a_frame_goes_from_the_clients_memory_to_the_wire(
    client: VfioClient, rig: Rig, memory: int
) -> None:
    with Harness(SoftwareCard(rig.card)) as wire:
        start_transmission(client, memory)
        transmit(client, memory, FRAME)
        wire.breathe(ns=100_000)
        assert wire.received() == [FRAME]
        assert os.pread(memory, 16, PAGE)[12] & 1  # done, says the descriptor
        client.unmap(0, 16 * PAGE)
        transmit(client, memory, FRAME, tail=2)
        wire.breathe(ns=100_000)
        assert wire.received() == []
        assert rig.card.counters["dma-read-unmapped"] > 0


def test_a_client_that_takes_its_memory_away(
    client: VfioClient, rig: Rig, memory: int
) -> None:
    before = lib.guard_total()
    with Harness(SoftwareCard(rig.card)) as wire:
        start_transmission(client, memory)
        os.ftruncate(memory, 0)
        client.set_register(TDT, 1)
        assert client.register(TDT) == 1
        wire.breathe(ns=100_000)  # lives
        assert wire.received() == []
    assert lib.guard_total() > before


def test_an_interrupt_arrives(
    client: VfioClient, rig: Rig, eventfds: list[int]
) -> None:
    client.set_irqs(MSIX, EVENTFD | TRIGGER, count=3, fds=eventfds[:3])
    with Harness(SoftwareCard(rig.card)) as wire:
        client.set_register(0x898, 1 << 4)  # GPIE: MSI-X
        client.set_register(0x880, 0x6)  # EIMS: vectors 1 and 2
        client.set_register(0x808, 0x3)  # EICS: vectors 0 and 1
        assert client.register(0x880) == 0x6
        wire.breathe(ns=100_000)
    assert [is_signalled(fd) for fd in eventfds[:3]] == [False, True, False]


# ---- interrupts --------------------------------------------------------------


def test_a_client_triggers_interrupts_itself(
    client: VfioClient, eventfds: list[int]
) -> None:
    client.set_irqs(MSIX, EVENTFD | TRIGGER, start=8, count=4, fds=eventfds[:4])
    client.set_irqs(MSIX, NONE | TRIGGER, start=8, count=2)
    assert [is_signalled(fd) for fd in eventfds[:5]] == [True, True] + [False] * 3
    client.set_irqs(MSIX, BOOL | TRIGGER, start=8, count=4, data=b"\0\1\0\7")
    assert [is_signalled(fd) for fd in eventfds[:4]] == [False, True] * 2
    client.set_irqs(MSIX, NONE | TRIGGER, start=0, count=64)
    assert [is_signalled(fd) for fd in eventfds[:5]] == [True] * 4 + [False]
    client.set_irqs(MSIX, EVENTFD | TRIGGER, start=9, count=1)  # no fd: off
    client.set_irqs(MSIX, NONE | TRIGGER, start=0, count=64)
    assert [is_signalled(fd) for fd in eventfds[:4]] == [True, False, True, True]
    client.set_irqs(MSIX, NONE | TRIGGER)  # all off
    client.set_irqs(MSIX, NONE | TRIGGER, start=0, count=64)
    assert not any(is_signalled(fd) for fd in eventfds)


def test_a_full_eventfd_holds_nobody_up(client: VfioClient) -> None:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    os.eventfd_write(fd, 2**64 - 2)
    os.set_blocking(fd, True)
    client.set_irqs(MSIX, EVENTFD | TRIGGER, count=1, fds=[fd])
    os.set_blocking(fd, True)
    client.set_irqs(MSIX, NONE | TRIGGER, count=1)
    os.close(fd)


class Recorder:
    """A card of which only the interrupts are of interest."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self.card, name)

    def set_interrupt(self, index: int, vector: int, fd: int) -> None:
        self.calls.append(f"{index}.{vector} {'on' if fd >= 0 else 'off'}")

    def unmask_intx(self) -> None:
        self.calls.append("unmask")


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[tuple[Recorder, VfioClient]]:
    with Card() as card:
        recorder = Recorder(card)
        server = Server(recorder, tmp_path / "nic.sock")  # type: ignore[arg-type]
        with Servers([server]), VfioClient(server.path) as client:
            client.negotiate()
            yield recorder, client


def test_intx_is_masked_and_unmasked(
    recorded: tuple[Recorder, VfioClient], eventfds: list[int]
) -> None:
    recorder, client = recorded
    client.set_irqs(INTX, EVENTFD | TRIGGER, count=1, fds=eventfds[:1])
    client.set_irqs(INTX, NONE | UNMASK, count=1)
    assert recorder.calls == ["0.0 on", "unmask"]
    recorder.calls.clear()
    client.set_irqs(INTX, NONE | MASK, count=1)
    client.set_irqs(INTX, BOOL | MASK, count=1, data=b"\1")
    client.set_irqs(INTX, BOOL | UNMASK, count=1, data=b"\0")
    assert recorder.calls == ["0.0 off"]
    recorder.calls.clear()
    client.set_irqs(INTX, BOOL | UNMASK, count=1, data=b"\1")
    assert recorder.calls == ["0.0 on", "unmask"]
    recorder.calls.clear()
    client.set_irqs(INTX, NONE | TRIGGER)
    client.set_irqs(INTX, NONE | UNMASK, count=1)
    assert recorder.calls == ["0.0 off", "unmask"]


def test_kvm_unmasks_intx_by_an_eventfd(
    recorded: tuple[Recorder, VfioClient], eventfds: list[int]
) -> None:
    recorder, client = recorded

    def wait_for_unmask() -> bool:
        deadline = time.monotonic() + 0.5
        while "unmask" not in recorder.calls and time.monotonic() < deadline:
            client.read(CONFIG, 0)
        return "unmask" in recorder.calls

    client.set_irqs(INTX, EVENTFD | UNMASK, count=1, fds=eventfds[:1])
    for _ in range(2):
        os.eventfd_write(eventfds[0], 3)
        assert wait_for_unmask()
        recorder.calls.clear()
    client.set_irqs(INTX, EVENTFD | UNMASK, count=1, fds=eventfds[1:2])
    os.eventfd_write(eventfds[1], 1)
    assert wait_for_unmask()
    recorder.calls.clear()
    client.set_irqs(INTX, EVENTFD | UNMASK, count=1)
    os.eventfd_write(eventfds[0], 1)
    os.eventfd_write(eventfds[1], 1)
    assert not wait_for_unmask()


def test_interrupts_are_off_when_the_client_has_gone(
    recorded: tuple[Recorder, VfioClient], eventfds: list[int]
) -> None:
    recorder, client = recorded
    client.set_irqs(MSIX, EVENTFD | TRIGGER, start=5, count=2, fds=eventfds[:2])
    client.set_irqs(INTX, EVENTFD | UNMASK, count=1, fds=eventfds[2:3])
    recorder.calls.clear()
    client.close()
    deadline = time.monotonic() + 10
    while len(recorder.calls) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert recorder.calls == ["2.5 off", "2.6 off"]


# ---- everything that can be wrong with one message ---------------------------

CLOSED = -1
ANY = 0x1000  # an address


class Wrong(NamedTuple):
    """A message, what answers it and what is counted."""

    data: bytes
    answer: int
    counter: str
    fds: str = ""  # letters of the fixture `hand`
    is_first: bool = False


def argument(command: int, body: bytes, answer: int = errno.EINVAL) -> Wrong:
    return Wrong(message(command, body), answer, "error-argument-messages")


def size(command: int, body: bytes) -> Wrong:
    return Wrong(message(command, body), errno.EINVAL, "error-size-messages")


def fds(command: int, body: bytes, which: str) -> Wrong:
    return Wrong(message(command, body), errno.EINVAL, "error-fds-messages", which)


def card(command: int, body: bytes, answer: int, which: str = "") -> Wrong:
    return Wrong(message(command, body), answer, "error-card-messages", which)


def first(body: bytes) -> Wrong:
    data = message(VERSION, body)
    return Wrong(data, errno.EINVAL, "closed-version-connections", is_first=True)


def flags(value: int) -> Wrong:
    data = message(GET_INFO, struct.pack("<IIII", 16, 0, 0, 0), flags=value)
    return Wrong(data, errno.EINVAL, "error-flags-messages")


def irq_flags(value: int) -> Wrong:
    data = message(SET_IRQS, irqs_body(MSIX, value, count=1))
    return Wrong(data, errno.EINVAL, "error-flags-messages")


def unsupported(command: int, body: bytes = b"") -> Wrong:
    return Wrong(message(command, body), errno.ENOTSUP, "error-unsupported-messages")


WRONG = {
    # the header
    "size-0": Wrong(message(RESET, size=0), CLOSED, "closed-bad-size-connections"),
    "size-15": Wrong(message(RESET, size=15), CLOSED, "closed-bad-size-connections"),
    "size-beyond-the-longest": Wrong(
        message(REGION_WRITE, size=LONGEST + 1),
        errno.EMSGSIZE,
        "closed-oversized-connections",
    ),
    "size-4-gib": Wrong(
        message(REGION_WRITE, size=2**32 - 1),
        errno.EMSGSIZE,
        "error-oversized-messages",
    ),
    "a-reply": Wrong(
        message(GET_INFO, flags=REPLY), CLOSED, "closed-reply-connections"
    ),
    "an-oversized-reply": Wrong(
        message(GET_INFO, flags=REPLY, size=2**31),
        CLOSED,
        "closed-oversized-connections",
    ),
    "type-2": flags(2),
    "type-15": flags(15 & ~REPLY),
    "error-flag": flags(ERROR),
    "reserved-flag": flags(0x40),
    "all-reserved-flags": flags(0xFFFFFFC0),
    # the beginning
    "no-version": Wrong(
        message(RESET),
        errno.EINVAL,
        "closed-no-version-connections",
        is_first=True,
    ),
    "no-version-error": Wrong(
        message(99), errno.EINVAL, "error-no-version-messages", is_first=True
    ),
    "major-1": first(version_body(major=1)),
    "json-without-nul": first(version_body()[:-1]),
    "json-broken": first(bytes(4) + b'{"capabilities": {\0'),
    "json-list": first(bytes(4) + b"[]\0"),
    "json-number": first(bytes(4) + b"1e999\0"),
    "json-deep": first(bytes(4) + b"[" * 4000 + b"\0"),
    "json-not-utf8": first(bytes(4) + b'{"\xff": 1}\0'),
    "json-null": first(bytes(4) + b"null\0"),
    "json-nul-alone": first(bytes(5)),
    "capabilities-list": first(version_body([])),
    "version-short": size(VERSION, bytes(3))._replace(is_first=True),
    "version-with-fd": fds(VERSION, version_body(), "m")._replace(is_first=True),
    "version-twice": Wrong(
        message(VERSION, version_body()), errno.EINVAL, "error-version-messages"
    ),
    # commands that are not offered, or none
    **{f"command-{n}": unsupported(n) for n in (0, 6, 11, 12, 14, 16, 17, 18, 65535)},
    "write-multi": unsupported(
        15, struct.pack("<Q", 1) + region_body(0, 0, 4, bytes(8))
    ),
    # memory
    "map-short": size(DMA_MAP, map_body(ANY, PAGE)[:-1]),
    "map-argsz": argument(DMA_MAP, map_body(ANY, PAGE, argsz=31)),
    **{
        f"map-flags-{value}": argument(DMA_MAP, map_body(ANY, PAGE, flags=value))
        for value in (0, 4, 7, 2**32 - 1)
    },
    "map-nothing": argument(DMA_MAP, map_body(ANY, 0)),
    "map-beyond": argument(DMA_MAP, map_body(2**64 - PAGE, PAGE + 1)),
    "map-two-fds": fds(DMA_MAP, map_body(ANY, PAGE), "mm"),
    "map-a-pipe": fds(DMA_MAP, map_body(ANY, PAGE), "p"),
    "map-an-eventfd": fds(DMA_MAP, map_body(ANY, PAGE), "e"),
    "map-a-device": fds(DMA_MAP, map_body(ANY, PAGE), "z"),
    "map-a-socket": fds(DMA_MAP, map_body(ANY, PAGE), "s"),
    "map-a-directory": fds(DMA_MAP, map_body(ANY, PAGE), "d"),
    "map-beyond-the-file": card(DMA_MAP, map_body(ANY, 17 * PAGE), errno.EFBIG, "m"),
    "map-from-beyond": card(
        DMA_MAP, map_body(ANY, PAGE, offset=2**63), errno.EFBIG, "m"
    ),
    "map-from-far-beyond": card(
        DMA_MAP, map_body(ANY, PAGE, offset=2**64 - PAGE), errno.EFBIG, "m"
    ),
    "map-huge": card(DMA_MAP, map_body(0, 2**64 - PAGE), errno.EFBIG, "m"),
    "map-not-a-page": card(DMA_MAP, map_body(ANY, PAGE, offset=1), errno.EINVAL, "m"),
    "map-read-only": card(DMA_MAP, map_body(ANY, PAGE), errno.EACCES, "r"),
    "map-twice": card(DMA_MAP, map_body(0x100000, PAGE), errno.EEXIST, "m"),
    "map-over": card(DMA_MAP, map_body(0x100000 + PAGE - 1, 5), errno.EEXIST, "m"),
    "unmap-short": size(DMA_UNMAP, unmap_body(ANY, PAGE)[:-1]),
    "unmap-argsz": argument(DMA_UNMAP, unmap_body(ANY, PAGE, argsz=23)),
    "unmap-flags": argument(DMA_UNMAP, unmap_body(ANY, PAGE, flags=1)),
    "unmap-nothing": argument(DMA_UNMAP, unmap_body(ANY, 0)),
    "unmap-beyond": argument(DMA_UNMAP, unmap_body(2**64 - 1, 2)),
    "unmap-half": card(DMA_UNMAP, unmap_body(0x100000, PAGE // 2), errno.EINVAL),
    "unmap-with-fd": fds(DMA_UNMAP, unmap_body(ANY, PAGE), "m"),
    # information
    "info-short": size(GET_INFO, bytes(15)),
    "info-argsz": argument(GET_INFO, struct.pack("<IIII", 15, 0, 0, 0)),
    "info-with-fds": fds(GET_INFO, struct.pack("<IIII", 16, 0, 0, 0), "mpe"),
    "region-info-short": size(GET_REGION_INFO, bytes(31)),
    "region-info-argsz": argument(
        GET_REGION_INFO, struct.pack("<IIIIQQ", 31, 0, 0, 0, 0, 0)
    ),
    **{
        f"region-info-{n}": argument(
            GET_REGION_INFO, struct.pack("<IIIIQQ", 32, 0, n, 0, 0, 0)
        )
        for n in (9, 2**32 - 1)
    },
    "irq-info-short": size(GET_IRQ_INFO, bytes(8)),
    "irq-info-argsz": argument(GET_IRQ_INFO, struct.pack("<IIII", 0, 0, 0, 0)),
    **{
        f"irq-info-{n}": argument(GET_IRQ_INFO, struct.pack("<IIII", 16, 0, n, 0))
        for n in (5, 2**32 - 1)
    },
    # interrupts
    "irqs-short": size(SET_IRQS, irqs_body(MSIX, NONE | TRIGGER)[:-1]),
    "irqs-argsz": argument(SET_IRQS, irqs_body(MSIX, NONE | TRIGGER, argsz=19)),
    **{
        f"irqs-flags-{value:#x}": irq_flags(value)
        for value in (
            *(0, NONE, TRIGGER, NONE | MASK | TRIGGER, NONE | BOOL | TRIGGER),
            *(NONE | TRIGGER | 0x40, 0xFFFFFFFF),
        )
    },
    **{
        f"irqs-index-{n}": argument(SET_IRQS, irqs_body(n, NONE | TRIGGER))
        for n in (5, 2**32 - 1)
    },
    "irqs-from-beyond": argument(
        SET_IRQS, irqs_body(MSIX, NONE | TRIGGER, start=64, count=1)
    ),
    "irqs-too-many": argument(SET_IRQS, irqs_body(MSIX, NONE | TRIGGER, count=65)),
    "irqs-overflow": argument(
        SET_IRQS, irqs_body(MSIX, NONE | TRIGGER, start=2**32 - 1, count=2)
    ),
    "irqs-none-from-1": argument(SET_IRQS, irqs_body(MSIX, NONE | TRIGGER, start=1)),
    "irqs-none-of-eventfds": argument(SET_IRQS, irqs_body(MSIX, EVENTFD | TRIGGER)),
    "irqs-none-masked": argument(SET_IRQS, irqs_body(INTX, NONE | MASK)),
    "irqs-bool-short": size(
        SET_IRQS, irqs_body(MSIX, BOOL | TRIGGER, count=3, data=b"\1\1")
    ),
    "irqs-bool-long": size(
        SET_IRQS, irqs_body(MSIX, BOOL | TRIGGER, count=1, data=b"\1\1")
    ),
    "irqs-fds-of-none": fds(SET_IRQS, irqs_body(MSIX, NONE | TRIGGER, count=1), "e"),
    "irqs-fds-missing": fds(
        SET_IRQS, irqs_body(MSIX, EVENTFD | TRIGGER, count=3), "ee"
    ),
    "irqs-fds-over": fds(SET_IRQS, irqs_body(MSIX, EVENTFD | TRIGGER, count=1), "ee"),
    "irqs-fds-beyond": fds(
        SET_IRQS, irqs_body(MSIX, EVENTFD | TRIGGER, count=MOST_FDS + 1), "e" * 17
    ),
    "irqs-fds-lots": fds(
        SET_IRQS, irqs_body(MSIX, EVENTFD | TRIGGER, count=64), "e" * 64
    ),
    "irqs-a-pipe": fds(SET_IRQS, irqs_body(MSIX, EVENTFD | TRIGGER, count=2), "ep"),
    "irqs-a-file": fds(SET_IRQS, irqs_body(INTX, EVENTFD | TRIGGER, count=1), "m"),
    "irqs-mask-msix": unsupported(SET_IRQS, irqs_body(MSIX, NONE | MASK, count=1)),
    "irqs-unmask-err": unsupported(SET_IRQS, irqs_body(ERR, NONE | UNMASK, count=1)),
    "irqs-mask-by-eventfd": Wrong(
        message(SET_IRQS, irqs_body(INTX, EVENTFD | MASK, count=1)),
        errno.ENOTSUP,
        "error-unsupported-messages",
        "e",
    ),
    # registers
    "read-short": size(REGION_READ, region_body(BAR0, 0, 4)[:-1]),
    "read-nothing": argument(REGION_READ, region_body(BAR0, 0, 0)),
    "read-too-much": argument(REGION_READ, region_body(CONFIG, 0, LONGEST_DATA + 1)),
    "read-4-gib": argument(REGION_READ, region_body(CONFIG, 0, 2**32 - 1)),
    **{
        f"read-region-{n}": argument(REGION_READ, region_body(n, 0, 4))
        for n in (1, 3, 5, 6, 8, 9, 2**32 - 1)
    },
    **{
        f"read-{n}-at-{offset:#x}": argument(REGION_READ, region_body(BAR0, offset, n))
        for n, offset in (
            *((4, 0x20000), (4, 0x1FFFE), (8, 0x1FFFC), (4, 2**64 - 4)),
            *((4, 2**64 - 1), (3, 0), (16, 0), (4096, 0)),
        )
    },
    "read-io-beyond": argument(REGION_READ, region_body(BAR2, 32, 4)),
    "read-table-beyond": argument(REGION_READ, region_body(BAR4, 16384, 4)),
    "read-config-beyond": argument(REGION_READ, region_body(CONFIG, 4095, 2)),
    "read-with-fd": fds(REGION_READ, region_body(BAR0, 0, 4), "m"),
    "write-short": size(REGION_WRITE, region_body(BAR0, 0, 4)[:-1]),
    "write-without-data": size(REGION_WRITE, region_body(BAR0, 0, 4)),
    "write-too-little": size(REGION_WRITE, region_body(BAR0, 0, 4, b"abc")),
    "write-too-much": size(REGION_WRITE, region_body(BAR0, 0, 4, b"abcde")),
    "write-nothing": argument(REGION_WRITE, region_body(BAR0, 0, 0)),
    "write-4-gib": size(REGION_WRITE, region_body(BAR0, 0, 2**32 - 1, bytes(4))),
    "write-region-6": argument(REGION_WRITE, region_body(6, 0, 4, bytes(4))),
    "write-beyond": argument(REGION_WRITE, region_body(BAR0, 0x20000, 4, bytes(4))),
    "write-3": argument(REGION_WRITE, region_body(BAR0, 0, 3, bytes(3))),
    "write-with-fd": fds(REGION_WRITE, region_body(BAR0, 0, 4, bytes(4)), "m"),
    "reset-with-fd": fds(RESET, b"", "e"),
}


class Hand:
    """File descriptors of all kinds, by letter."""

    def __init__(self, directory: Path, memory: int) -> None:
        file = directory / "file"
        file.write_bytes(bytes(PAGE))
        self.pipe = os.pipe()
        self.sockets = socket.socketpair()
        self.fds = {
            "m": memory,
            "p": self.pipe[1],
            "e": os.eventfd(0),
            "z": os.open("/dev/zero", os.O_RDWR),
            "s": self.sockets[0].fileno(),
            "d": os.open(directory, os.O_RDONLY),
            "r": os.open(file, os.O_RDONLY),
        }

    def of(self, letters: str) -> list[int]:
        return [self.fds[letter] for letter in letters]

    def close(self) -> None:
        for letter in "ezdr":
            os.close(self.fds[letter])
        for fd in self.pipe:
            os.close(fd)
        for sock in self.sockets:
            sock.close()


@pytest.fixture
def hand(tmp_path: Path, memory: int) -> Iterator[Hand]:
    result = Hand(tmp_path, memory)
    yield result
    result.close()


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_message(rig: Rig, hand: Hand, wrong: Wrong) -> None:
    with rig.client() as client:
        if not wrong.is_first:
            client.negotiate()
            client.map(0x100000, PAGE, hand.fds["m"])
        client.send(wrong.data, hand.of(wrong.fds))
        if wrong.answer == CLOSED:
            with pytest.raises(EOFError):
                client.receive()
        else:
            reply = client.receive()
            assert reply.number == 1
            assert reply.command == struct.unpack_from("<H", wrong.data, 2)[0]
            assert reply.flags == REPLY | ERROR
            assert reply.error == wrong.answer
            assert reply.body == b""
        rig.wait_for(lambda: rig.count(wrong.counter) == 1)
        if rig.count("error-oversized-messages") or "closed" in wrong.counter:
            assert client.is_closed()
        elif wrong.is_first and wrong.counter != "error-no-version-messages":
            client.negotiate()
        elif wrong.counter not in (
            "error-version-messages",
            "error-no-version-messages",
        ):
            assert rig.card.nregions == 1
            assert client.read(CONFIG, 0, 4) == bytes.fromhex("8680fb10")
    rig.check_is_well()


@pytest.mark.parametrize(
    "wrong", [w for w in WRONG.values() if w.answer != CLOSED and not w.is_first]
)
def test_a_wrong_message_that_nobody_wants_answered(
    rig: Rig, hand: Hand, wrong: Wrong
) -> None:
    data = bytearray(wrong.data)
    data[8] |= NO_REPLY
    with rig.client() as client:
        client.negotiate()
        client.map(0x100000, PAGE, hand.fds["m"])
        client.send(bytes(data), hand.of(wrong.fds))
        if "closed" not in wrong.counter and wrong.counter not in (
            "error-version-messages",
            "error-oversized-messages",
        ):
            client.send(message(GET_INFO, struct.pack("<IIII", 16, 0, 0, 0), number=77))
            assert client.receive().number == 77
        else:
            assert client.is_closed()
        rig.wait_for(lambda: rig.count(wrong.counter) == 1)
    rig.check_is_well()


@pytest.mark.parametrize("n", [1, 15, 16, 17, 31, 47])
def test_a_client_that_goes_in_the_middle_of_a_message(
    rig: Rig, memory: int, n: int
) -> None:
    with rig.client() as client:
        client.negotiate()
        client.send(message(DMA_MAP, map_body(0, PAGE))[:n], [memory])
    rig.check_is_well()
    assert rig.count("closed-truncated-connections") == 1
    assert any("truncated" in line for line in rig.log)


def test_a_client_that_goes_before_it_reads_its_replies(rig: Rig) -> None:
    with rig.client() as client:
        client.negotiate()
        client.send(message(REGION_READ, region_body(CONFIG, 0, 4096)) * 10)
    rig.check_is_well()


def test_every_reason_is_reached_by_a_test() -> None:
    reached = {wrong.counter for wrong in WRONG.values()}
    elsewhere = {
        "connections",
        "messages",
        "refused-busy-connections",
        "refused-system-connections",
        "error-system-messages",
        "closed-silent-connections",
        "closed-truncated-connections",
        "closed-unfinished-connections",
        "closed-unread-connections",
        "closed-internal-connections",
    }
    assert reached | elsewhere == set(COUNTERS)


# ---- connections -------------------------------------------------------------


def test_a_second_client_is_refused(rig: Rig, client: VfioClient) -> None:
    for n in range(1, 4):
        with rig.client() as other:
            assert other.is_closed()
        assert rig.count("refused-busy-connections") == n
    assert client.register(STATUS) == rig.card.read(STATUS)
    refused = f"{rig.path}: card busy: refused a second connection"
    assert rig.log.count(refused) == 3


def test_a_flood_of_clients_is_summed_up(rig: Rig, client: VfioClient) -> None:
    for _ in range(BURST + 32):
        with rig.client() as other:
            assert other.is_closed()
    refused = f"{rig.path}: card busy: refused a second connection"
    assert rig.log.count(refused) == BURST
    rig.time.pass_by(WINDOW)
    rig.wait_for(lambda: f"{refused}: ... 32 more" in rig.log)
    assert client.register(STATUS) == rig.card.read(STATUS)


@pytest.mark.parametrize("n", [0, 1, 15, 16, 30])
def test_who_does_not_say_what_version_makes_room(rig: Rig, n: int) -> None:
    with rig.client() as silent:
        silent.send(message(VERSION, version_body())[:n])
        rig.wait_for(lambda: rig.server.is_connected)
        with rig.client() as other:
            assert other.is_closed()
        rig.time.pass_by(PATIENCE + 1)
        assert silent.is_closed()
    reason = "unfinished" if n else "silent"
    rig.wait_for_nobody()
    rig.check_is_well()
    assert rig.count(f"closed-{reason}-connections") == 1
    assert f"{rig.path}: disconnected ({reason})" in rig.log


@pytest.mark.parametrize("n", [1, 15, 16, 47])
def test_who_stops_in_the_middle_of_a_message_makes_room(
    rig: Rig, memory: int, n: int
) -> None:
    with rig.client() as stuck:
        stuck.negotiate()
        stuck.map(0, PAGE, memory)
        rig.time.pass_by(PATIENCE + 1)
        rig.wait_for(lambda: not rig.servers.is_looking)  # it owes nothing now
        stuck.send(message(DMA_MAP, map_body(PAGE, PAGE))[:n], [memory])
        rig.wait_for(lambda: rig.servers.is_looking)
        rig.time.pass_by(PATIENCE + 1)
        assert stuck.is_closed()
    rig.check_is_well()
    assert rig.count("closed-unfinished-connections") == 1


def test_who_is_idle_is_left_alone(rig: Rig, client: VfioClient) -> None:
    for _ in range(3):
        rig.time.pass_by(1e6)
        assert client.register(STATUS) == rig.card.read(STATUS)
        rig.wait_for(lambda: not rig.servers.is_looking)
    assert rig.count("connections") == 1


def test_the_next_client_finds_the_card_as_new(
    rig: Rig, memory: int, eventfds: list[int]
) -> None:
    untouched = rig.card.read(LEDCTL)
    for _ in range(3):
        with rig.client() as client:
            client.negotiate()
            assert client.register(LEDCTL) == untouched
            client.set_register(LEDCTL, untouched ^ 0xF)
            for page in range(16):
                client.map(page * PAGE, PAGE, memory, offset=page * PAGE)
            client.set_irqs(MSIX, EVENTFD | TRIGGER, count=16, fds=eventfds)
            client.write(CONFIG, 4, b"\6")
        rig.wait_for_nobody()
        assert rig.card.nregions == 0
        assert rig.card.read(LEDCTL) == untouched
        assert rig.card.access(CONFIG, 4, 1) == b"\0"
    assert rig.count("connections") == 3
    assert sum("disconnected" in line for line in rig.log) == 3
    assert str(os.getpid()) in rig.log[0]


def test_who_does_not_read_holds_up_nobody_else(tmp_path: Path) -> None:
    with Card() as a, Card() as b:
        lazy = Server(a, tmp_path / "a", patience=0.3)
        other = Server(b, tmp_path / "b")
        with (
            Servers([lazy, other]),
            VfioClient(lazy.path) as bad,
            VfioClient(other.path) as good,
        ):
            bad.negotiate()
            good.negotiate()
            bad.sock.setblocking(False)
            question = message(REGION_READ, region_body(CONFIG, 0, 4096))
            poll = select.poll()
            poll.register(bad.sock, select.POLLHUP)
            deadline = time.monotonic() + 10
            longest = 0.0
            while not poll.poll(0):
                assert time.monotonic() < deadline
                with contextlib.suppress(OSError):  # full, and at last closed
                    bad.sock.send(question * 100)
                start = time.monotonic()
                assert good.register(STATUS) == b.read(STATUS)
                longest = max(longest, time.monotonic() - start)
            assert lazy.counters["closed-unread-connections"] == 1
            assert longest < 1
            with VfioClient(lazy.path) as again:
                again.negotiate()


def test_who_reads_late_loses_nothing(rig: Rig) -> None:
    with rig.client() as client:
        client.negotiate()
        config = client.read(CONFIG, 0, 4096)
        n = 400  # more than the socket holds
        question = message(REGION_READ, region_body(CONFIG, 0, 4096))
        sender = threading.Thread(target=lambda: client.send(question * n))
        sender.start()
        rig.wait_for(lambda: rig.servers.is_looking)  # the first reply waits
        for _ in range(n):
            assert client.receive().body[16:] == config
        sender.join()
    assert rig.count("closed-unread-connections") == 0


def test_cards_of_one_process_are_apart(tmp_path: Path, memory: int) -> None:
    before = open_fds()
    with Card() as a, Card(mac=bytes.fromhex("020000000002")) as b:
        servers = [Server(a, tmp_path / "a"), Server(b, tmp_path / "b")]
        with (
            Servers(servers),
            VfioClient(servers[0].path) as one,
            VfioClient(servers[1].path) as two,
        ):
            one.negotiate()
            two.negotiate()
            one.map(0, PAGE, memory)
            two.map(0, 2 * PAGE, memory)
            two.map(2 * PAGE, PAGE, memory)
            value = a.read(LEDCTL)
            one.set_register(LEDCTL, value ^ 1)
            two.set_register(LEDCTL, value ^ 2)
            assert one.register(LEDCTL) == value ^ 1
            assert two.register(LEDCTL) == value ^ 2
            one.reset()
            assert two.register(LEDCTL) == value ^ 2
            assert (a.nregions, b.nregions) == (1, 2)
            assert one.register(0x5400) != two.register(0x5400) or (
                one.register(0x5404) != two.register(0x5404)
            )
    assert open_fds() == before


def test_mappings_are_shared_out_among_cards(tmp_path: Path, memory: int) -> None:
    with Card() as a, Card() as b:
        servers = [Server(a, tmp_path / "a"), Server(b, tmp_path / "b")]
        with Servers(servers, max_mappings=80), VfioClient(servers[0].path) as client:
            assert client.negotiate()["max_dma_maps"] == 30
            for i in range(30):
                client.map(i * PAGE, PAGE, memory)
            with pytest.raises(Refused) as refused:
                client.map(1 << 30, PAGE, memory)
            assert refused.value.errno == errno.ENOSPC
            client.unmap(5 * PAGE, PAGE)
            client.map(1 << 30, PAGE, memory)


def test_a_strict_iommu_maps_and_unmaps_by_the_thousand(
    client: VfioClient, rig: Rig, memory: int
) -> None:
    for round_ in range(3):
        for i in range(1000):
            client.map((i * 7919 % 1000) * PAGE, PAGE, memory, offset=i % 16 * PAGE)
        assert rig.card.nregions == 1000
        for i in range(0, 1000, 1 + round_):
            client.unmap(i * PAGE, PAGE)
        client.unmap(0, 1000 * PAGE)
        assert rig.card.nregions == 0


def test_a_client_is_served_when_there_are_file_descriptors_again(rig: Rig) -> None:
    client = rig.client()
    rig.wait_for(lambda: rig.server.is_connected)
    other = socket.socket(socket.AF_UNIX)
    client.close()
    rig.wait_for_nobody()
    with no_free_fds():
        other.connect(str(rig.path))
        rig.wait_for(lambda: rig.count("refused-system-connections") > 1)
        assert rig.count("refused-system-connections") < 100  # no busy loop
    rig.wait_for(lambda: rig.count("connections") == 2)
    other.close()
    rig.wait_for_nobody()
    (said,) = [line for line in rig.log if "have to wait" in line]
    assert "Too many open files; raise the limit" in said


def test_cards_without_trouble_go_on_when_file_descriptors_run_out(
    tmp_path: Path,
) -> None:
    with Card() as a, Card() as b, socket.socket(socket.AF_UNIX) as other:
        one, two = Server(a, tmp_path / "a"), Server(b, tmp_path / "b")
        with Servers([one, two]), VfioClient(two.path) as client:
            client.negotiate()
            with no_free_fds():
                other.connect(str(one.path))
                while one.counters["refused-system-connections"] < 2:
                    assert client.register(STATUS) == b.read(STATUS)


def test_a_message_whose_file_descriptors_do_not_fit_any_more(
    rig: Rig, client: VfioClient, memory: int
) -> None:
    with no_free_fds():
        for _ in range(3):
            with pytest.raises(Refused) as refused:
                client.map(0, PAGE, memory)
            assert refused.value.errno == errno.EMFILE
        assert client.register(STATUS) == rig.card.read(STATUS)
    assert rig.count("error-system-messages") == 3
    said = "take the file descriptors of a message: Too many open files; raise the"
    rig.wait_for(lambda: any(said in line for line in rig.log))
    client.map(0, PAGE, memory)


# ---- the socket file ---------------------------------------------------------


def test_a_socket_that_nobody_listens_at_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "nic.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with Card() as card:
        server = Server(card, path)
        with Servers([server]), VfioClient(path) as client:
            client.negotiate()
    assert not path.exists()


def test_where_somebody_listens_nobody_else_does(rig: Rig, client: VfioClient) -> None:
    with Card() as card, pytest.raises(DeviceError, match="somebody listens"):
        Server(card, rig.path)
    assert client.register(STATUS)
    assert rig.path.is_socket()


def test_who_asks_whether_somebody_listens_is_not_seen(rig: Rig) -> None:
    with Card() as card, pytest.raises(DeviceError, match="somebody listens"):
        Server(card, rig.path)
    rig.check_is_well()
    # That of the check is the first.
    assert rig.count("connections") == 1
    assert [line.partition(" (")[0] for line in rig.log] == [
        f"{rig.path}: connected",
        f"{rig.path}: disconnected",
    ]


def test_a_socket_of_another_type_is_somebodys(tmp_path: Path) -> None:
    path = tmp_path / "nic.sock"
    with Card() as card, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(DeviceError, match="somebody listens"):
            Server(card, path)
        assert path.is_socket()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with Card() as card, pytest.raises(DeviceError, match="in use"):
        Server(card, path)
    assert path.read_text() == "data"


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("missing/nic.sock", DeviceError, "is the directory there"),
        ("x" * LONGEST_PATH, ConfigError, "bytes"),
    ],
)
def test_a_socket_that_cannot_be(
    tmp_path: Path, name: str, error: type[Exception], text: str
) -> None:
    before = open_fds()
    with Card() as card, pytest.raises(error, match=text):
        Server(card, tmp_path / name)
    assert open_fds() == before


def test_a_successors_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "nic.sock"
    with Card() as card:
        server = Server(card, path)
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            server.close()
            assert path.is_socket()


# ---- whatever comes ----------------------------------------------------------

MANY = settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

numbers = st.one_of(
    st.integers(0, 64),
    st.sampled_from(
        [PAGE, 16 * PAGE, 2**31, 2**32 - 1, 2**63, 2**64 - PAGE, 2**64 - 1]
    ),
)
words = numbers.map(lambda n: n % 2**32)
letters = st.text("mpezsdr", max_size=20)

bodies = st.one_of(
    st.builds(
        lambda iova, size, offset, flags: (
            DMA_MAP,
            map_body(iova, size, offset=offset, flags=flags),
        ),
        *(numbers, numbers, numbers, st.integers(0, 4)),
    ),
    st.builds(
        lambda iova, size, flags: (DMA_UNMAP, unmap_body(iova, size, flags=flags)),
        *(numbers, numbers, st.integers(0, 3)),
    ),
    st.builds(
        lambda index, flags, start, count, data: (
            SET_IRQS,
            irqs_body(index, flags, start=start, count=count, data=data),
        ),
        *(st.integers(0, 5), st.integers(0, 64), words, words, st.binary(max_size=64)),
    ),
    st.builds(
        lambda region, offset, count: (
            REGION_READ,
            region_body(region, offset, count),
        ),
        *(st.integers(0, 9), numbers, words),
    ),
    st.builds(
        lambda region, offset, data: (
            REGION_WRITE,
            region_body(region, offset, len(data), data),
        ),
        *(st.integers(0, 9), numbers, st.binary(max_size=16)),
    ),
    st.tuples(st.integers(0, 20), st.binary(max_size=64)),
    st.just((VERSION, version_body())),
)
messages = st.tuples(
    bodies,
    st.sampled_from([0, 0, 0, NO_REPLY]) | st.integers(0, 0x7F),
    st.none() | st.none() | st.integers(0, LONGEST + 20),
    letters,
)


@MANY
@given(data=st.binary(max_size=3000), is_agreed=st.booleans(), cut=st.integers(1, 500))
def test_random_bytes(rig: Rig, data: bytes, is_agreed: bool, cut: int) -> None:
    with rig.client() as client:
        if is_agreed:
            client.negotiate()
        try:
            for i in range(0, len(data), cut):
                client.send(data[i : i + cut])
        except OSError:
            pass  # the server has had enough
    rig.check_is_well()


@MANY
@given(sequence=st.lists(messages, max_size=30), is_agreed=st.booleans())
def test_random_messages(
    rig: Rig,
    hand: Hand,
    sequence: list[tuple[tuple[int, bytes], int, int | None, str]],
    is_agreed: bool,
) -> None:
    before = open_fds()
    with rig.client() as client:
        if is_agreed:
            client.negotiate()
        try:
            for (command, body), flags_, size_, letters_ in sequence:
                data = message(command, body, flags=flags_, size=size_)
                client.send(data, hand.of(letters_))
            client.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        assert client.is_closed()
    rig.check_is_well()
    assert open_fds() == before
