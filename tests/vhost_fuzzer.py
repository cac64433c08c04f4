"""Hostile front ends of a vhost-user port, with a healthy port beside.

    with Episode(seed) as episode:
        episode.run(range(80))

Both ports are a real engine's, and one worker serves both. The hostile front end is
this thread: it sends messages of every wrong shape and writes what it likes to rings
and buffers, while another thread of it changes them, and its memory comes and goes. The
healthy guest is a thread, too: its numbered frames come back in order and whole, or
the episode has failed. Threads see to it that an episode does not do the very same
again.
"""

import contextlib
import itertools
import os
import random
import resource
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import ClassVar, NamedTuple

from snabb_py.apps.basic import Forward, Join, Sink, Source, Tee
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.virtio import message
from snabb_py.virtio.frontend import FEATURES, NUMBERS, Frontend, Guest, Refused
from snabb_py.virtio.frontend_ring import GUEST_BASE, Layout
from snabb_py.virtio.message import HEADER, REQUESTS, STATE, U64, Feature, Protocol
from snabb_py.virtio.net_device import VhostUser
from snabb_py.virtio.vhost_user import Port
from tests import episodes
from tests.card_fuzzer import frame_of
from tests.episodes import PAGE, flip, memfd, send, shared_mappings, some_file
from tests.harness import Harness

#: Seconds that anything may take before it counts as hung: the machine is busy.
PATIENCE = 60
#: Pages of the guest's memory: of each ring, and of all.
RING_PAGES, NPAGES = 16, 256
NPAIRS = 2
NRINGS = 2 * NPAIRS
BUFFERS = NRINGS * RING_PAGES * PAGE
SIZE = NPAGES * PAGE
#: Where the front end has it, as it says.
USER = 0x7000_0000_0000
#: Of a ring, within its pages.
AVAIL, USED, TABLES = 0x8000, 0x9000, 0xC000
NEXT, WRITE, INDIRECT = 1, 2, 4
MAC = bytes.fromhex("525400000001")
BATCH = 32


class Region(NamedTuple):
    """A part of the memory as the back end is told of it."""

    start: int
    size: int
    user: int
    offset: int


def until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.001)


class Background:
    """A thread that does something again and again until it is stopped."""

    def __init__(self) -> None:
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.001):
                self.work()
        except BaseException as error:  # noqa: BLE001 - raised where it is noticed
            self._error = error

    def work(self) -> None:
        raise NotImplementedError

    def check(self) -> None:
        if self._error:
            raise self._error

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), f"{type(self).__name__} hangs"
        self.check()


class Healthy(Background):
    """A guest whose frames come back, numbered, all of them and as they were."""

    def __init__(self, path: Path) -> None:
        self.nframes = 0
        self.guest = Guest(path, patience=PATIENCE)
        self.guest.start()
        self.driver = Harness(Frontend(self.guest), small=1024, large=0)
        super().__init__()

    def work(self) -> None:
        numbers = range(self.nframes, self.nframes + BATCH)
        frames = [struct.pack(">Q", n) * (8 + n % 180) for n in numbers]
        self.driver.send(frames)
        got: list[bytes] = []
        deadline = time.monotonic() + PATIENCE
        while len(got) < BATCH:
            assert time.monotonic() < deadline, f"frames lost after {self.nframes}"
            self.driver.breathe()
            got += self.driver.received()
        assert got == frames, f"frames damaged after {self.nframes}"
        self.nframes += BATCH

    def close(self) -> None:
        self.driver.close()
        self.guest.close()


class Storm(Background):
    """A thread that writes to rings and buffers, whatever happens to be there."""

    def __init__(self, memory: int, seed: int) -> None:
        self.memory = memory
        self.rng = random.Random(seed)  # noqa: S311 - repeatable
        self.is_blowing = True
        super().__init__()

    def work(self) -> None:
        rng = self.rng
        for _ in range(rng.choice((1, 10, 30)) if self.is_blowing else 0):
            ring = rng.randrange(NRINGS) * RING_PAGES * PAGE
            kind = rng.random()
            if kind < 0.3:  # what is there is changed a little
                at = ring + rng.choice((16 * rng.randrange(64), rng.randrange(0x10000)))
                data = flip(rng, os.pread(self.memory, 16, at))
            elif kind < 0.6:  # more is made available
                at = ring + AVAIL + 2
                index = int.from_bytes(os.pread(self.memory, 2, at), "little")
                data = ((index + rng.choice((1, 1, 1, 8))) % 2**16).to_bytes(
                    2, "little"
                )
            elif kind < 0.8:
                at, data = (
                    ring + 16 * rng.randrange(64),
                    descriptor(rng, rng.choice((0, WRITE))),
                )
            else:
                at, data = rng.randrange(SIZE), rng.randbytes(8)
            poke(self.memory, at, data)


def poke(memory: int, at: int, data: bytes) -> None:
    """Write where there is still memory, which does not grow by it."""
    room = max(0, min(os.fstat(memory).st_size - at, len(data)))
    os.pwrite(memory, data[:room], at)


def any_address(rng: random.Random) -> int:
    kind = rng.random()
    if kind < 0.85:
        return GUEST_BASE + rng.randrange(BUFFERS, SIZE - 2048)
    if kind < 0.95:
        return (
            GUEST_BASE
            + rng.choice((0, SIZE, SIZE - 1, SIZE // 2, -1))
            + rng.randint(-64, 64)
        )
    return rng.choice((0, 2**64 - 1, 2**64 - 50, rng.getrandbits(64)))


def descriptor(rng: random.Random, flags: int) -> bytes:
    if rng.random() < 0.1:
        return rng.randbytes(16)
    length = rng.choice(
        (0, 1, 11, 12, 13, 26, 64, 112, 1526, 2048, 2048, 65536, 2**32 - 1)
    )
    flags |= rng.choice((0, 0, 0, NEXT, NEXT, INDIRECT, rng.getrandbits(3)))
    following = rng.choice((rng.randrange(64), rng.randrange(8), rng.getrandbits(16)))
    return struct.pack("<QIHH", any_address(rng), length, flags, following)


def header(rng: random.Random) -> bytes:
    """Return a virtio-net header that asks for something possible, or not."""
    if rng.random() < 0.4:
        return bytes(12)
    return struct.pack(
        "<BBHHHHH",
        rng.choice((0, 1, 1, 1, 2, rng.getrandbits(8))),
        rng.choice((0, 0, 1, 1, 4, 5, 3, 0x81, rng.getrandbits(8))),
        rng.choice((54, 0, 65535)),
        rng.choice((1460, 100, 1, 0, 65535)),
        rng.choice((34, 34, 54, 14, 0, rng.getrandbits(16))),
        rng.choice((16, 16, 6, 0, rng.getrandbits(16))),
        rng.getrandbits(16),
    )


def super_frame(rng: random.Random) -> bytes:
    """Return what a guest sends that leaves cutting up to its card."""
    payload = bytes(rng.choice((1, 100, 3000, 30000, 65000)))
    version = rng.choice((4, 4, 6))
    l4, address = rng.choice(((6, 16), (17, 6))), rng.randbytes(4 * version)
    if version == 4:
        size = 40 + len(payload)
        ip = struct.pack(">BBHHHBBH", 0x45, 0, size % 2**16, 1, 0, 64, l4[0], 0)
        ip += address[:8]
        start, kind = 34, 0x0800
    else:
        ip = struct.pack(">IHBB", 6 << 28, len(payload) % 2**16, l4[0], 64)
        ip += address.ljust(32, b"\1")
        start, kind = 54, 0x86DD
    gso = 5 if l4[0] == 17 else {4: 1, 6: 4}[version] | rng.choice((0, 0, 0x80))
    words = (1, gso, 0, rng.choice((64, 1460, 9000)), start, l4[1], 0)
    frame = MAC + MAC + kind.to_bytes(2, "big") + ip
    tcp = rng.randbytes(12) + b"\x50\x18" + bytes(6)
    return struct.pack("<BBHHHHH", *words) + frame + tcp + payload


class Episode(episodes.Episode):
    """A port with a hostile front end and one with a healthy, in one engine.

    Args:
        seed: of everything.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.log: list[str] = []
        self.ahead = 0.0
        self.memory = memfd(NPAGES)
        self.regions: list[Region] = []
        self.sizes = [64] * NRINGS
        self.eventfds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2 * NRINGS)]
        with contextlib.ExitStack() as undo:
            undo.callback(self._close_files)
            directory = Path(undo.enter_context(tempfile.TemporaryDirectory()))
            self.path = directory / "hostile"
            self.is_server = seed % 8 != 0  # else the port connects to us
            self.engine = undo.enter_context(
                Engine(packets=4096, large_packets=32, huge=False, log=self.log.append)
            )
            self.config = self._make_config(directory)
            self._commit()
            self.guest = self._make_guest(Layout(size=2, room=64))
            undo.callback(self._close_guest)
            self.healthy = Healthy(directory / "healthy")
            undo.callback(self.healthy.close)
            self.storm = Storm(self.memory, seed)
            undo.callback(self.storm.stop)
            undo.callback(self.healthy.stop)
            self._undo = undo.pop_all()

    def _make_config(self, directory: Path) -> Config:
        config = Config()
        config.app("vm", VhostUser, path=directory / "healthy")
        config.app("echo", Forward)
        config.link("vm.tx -> echo.rx")
        config.link("echo.tx -> vm.rx")
        return config

    def _make_guest(self, layout: Layout) -> Guest:
        return Guest(
            self.path,
            is_server=not self.is_server,
            rx=layout,
            tx=layout,
            patience=PATIENCE,
        )

    def _commit(self) -> None:
        """Have the port that is going to be hurt; what it sends comes back to it."""
        config = self.config.copy()
        config.app(
            "hostile", VhostUser, path=self.path, queues=NPAIRS, server=self.is_server
        )
        config.app("source", Source, size=300, rate_pps=20000)
        config.app("join", Join)
        config.app("tee", Tee)
        config.app("sink", Sink)
        config.link("tee.sink -> sink.rx")
        config.link("tee.loop -> join.loop")
        config.link("source.tx -> join.source")
        config.link("hostile.tx -> tee.rx")
        config.link("join.tx -> hostile.rx")
        self.engine.commit(config)
        self.port._clock = self.clock

    def _port(self, name: str) -> Port:
        app = self.engine.apps[name].instance
        assert isinstance(app, VhostUser)
        assert app.port
        return app.port

    @property
    def port(self) -> Port:
        return self._port("hostile")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._undo.close()

    def _close_guest(self) -> None:
        self.guest.close()

    def _close_files(self) -> None:
        for fd in (self.memory, *self.eventfds):
            os.close(fd)

    def act(self, action: episodes.Action, rng: random.Random) -> None:
        try:
            action(self, rng)
        except ConnectionError:
            self.guest.disconnect()
        except Refused:
            pass

    # -- judging ---------------------------------------------------------------

    def clock(self) -> float:
        """Return the port's time, which may run ahead."""
        return time.monotonic() + self.ahead

    def check(self) -> None:
        self.healthy.check()
        self.storm.check()
        assert not self.port.counters["closed-internal-connections"], (
            self.port.supervise(),
            self.log,
        )

    def wait_for_nobody(self) -> None:
        self.guest.disconnect()
        if self.is_server:
            until(lambda: not self.port.is_connected, "the connection stays")
            until(lambda: shared_mappings() == 0, "memory stays mapped")

    def collect(self) -> None:
        """Add what the port has counted, before it goes."""
        time.sleep(0.01)  # it is shown once a tick
        for name, n in self.engine.apps["hostile"].counters.items():
            self.totals.seen[name] += n
        for name, n in self.port.counters.items():
            self.totals.seen[f"port {name}"] += n
        self.done["messages"] += self.port.counters["messages"]

    def check_end(self) -> None:
        self.wait_for_nobody()
        self.storm.stop()
        self.check_is_well()
        self.healthy.stop()
        self.done["frames"] += self.healthy.nframes
        assert self.healthy.nframes, "the healthy port has done nothing"
        self.collect()
        counters = self._port("vm").counters | self.engine.apps["vm"].counters
        wrong = ("drop", "broken", "closed", "refused")
        hurt = {k: n for k, n in counters.items() if n and k.startswith(wrong)}
        assert not hurt, hurt
        assert counters["connections"] == 1
        assert self.engine.census().is_complete, self.engine.census()

    def check_is_well(self) -> None:
        """A guest that behaves is served at the same port, both ways."""
        frames = [struct.pack(">Q", n) * 20 for n in range(2**40, 2**40 + 8)]
        self.guest.close()
        self.guest = self._make_guest(Layout())
        self.guest.start()
        driver = Harness(Frontend(self.guest), small=1024, large=512)
        seen: set[bytes] = set()

        def has_all() -> bool:
            if driver.inputs[0].write == driver.inputs[0].read:
                driver.send(frames)
            driver.breathe()
            seen.update(frame for frame in driver.received() if len(frame) == 160)
            return seen >= set(frames)

        until(has_all, "the next guest is not served")
        driver.close()

    # -- a front end -----------------------------------------------------------

    def connected(self, rng: random.Random) -> socket.socket:
        """Return the connection that there is, or begin one and start its rings."""
        if not self.guest.socket:
            self.begin(rng)
        assert self.guest.socket
        return self.guest.socket

    def begin(self, rng: random.Random) -> None:
        """Agree on something, share memory, start rings."""
        self.wait_for_nobody()
        self.storm.is_blowing = rng.random() < 0.5
        os.ftruncate(self.memory, SIZE)
        left_out = rng.sample(list(Feature), rng.choice((0, 0, 1, 3, 8)))
        self.guest.wanted = FEATURES & ~message.bits(*left_out)
        self.guest.wanted_protocol = rng.choice(
            (message.PROTOCOL_FEATURES, message.PROTOCOL_FEATURES, 0,
             message.bits(Protocol.REPLY_ACK), rng.getrandbits(17))
        )  # fmt: skip
        self.guest.negotiate()
        self.share(rng)
        self.start_rings(rng)

    def share(self, rng: random.Random) -> None:
        """Tell of all memory, in one region or in several, perhaps with holes."""
        inner = sorted(rng.sample(range(1, SIZE), rng.choice((0, 0, 0, 1, 3, 7))))
        if rng.random() < 0.7:
            inner = [cut // PAGE * PAGE for cut in inner]
        self.regions = []
        for begin, end in itertools.pairwise(sorted({0, *inner, SIZE})):
            moved = rng.random() < 0.05 and begin >= BUFFERS
            start = GUEST_BASE + begin + (2**40 if moved else 0)
            self.regions.append(Region(start, end - begin, USER + begin, begin))
        has_slots = self.guest.protocol >> Protocol.CONFIGURE_MEM_SLOTS & 1
        if has_slots and rng.random() < 0.5:
            for region in self.regions:
                body = message.SINGLE_REGION.pack(0, *region)
                self.guest.request("add_mem_reg", body, [self.memory])
            return
        body = message.TABLE.pack(len(self.regions), 0)
        body += b"".join(message.REGION.pack(*region) for region in self.regions)
        fds = [self.memory] * len(self.regions)
        self.guest.request("set_mem_table", body, fds)

    def start_rings(self, rng: random.Random) -> None:
        is_fresh = rng.random() < 0.8
        for index in range(NRINGS):
            if is_fresh:
                poke(self.memory, index * RING_PAGES * PAGE, bytes(RING_PAGES * PAGE))
            self.start_ring(rng, index)
        self.give(rng)
        self.transmit(rng)

    def start_ring(self, rng: random.Random, index: int) -> None:
        guest, at = self.guest, USER + index * RING_PAGES * PAGE
        self.sizes[index] = rng.choice((64, 64, 256, 1024, 2, 1))
        guest.request("set_vring_num", STATE.pack(index, self.sizes[index]))
        guest.request(
            "set_vring_base", STATE.pack(index, rng.choice((0, 7, 2**32 - 1)))
        )
        body = message.ADDRESS.pack(index, 0, at, at + USED, at + AVAIL, 0)
        guest.request("set_vring_addr", body)
        kick, call = self.eventfds[2 * index : 2 * index + 2]
        guest.request("set_vring_call", U64.pack(index), [call])
        guest.request("set_vring_err", U64.pack(index), [call])
        guest.request("set_vring_kick", U64.pack(index), [kick])
        guest.enable_ring(index, rng.choice((1, 1, 1, 0)))

    def offer(self, index: int, heads: list[int]) -> None:
        """Make buffers available, and kick."""
        ring, size = index * RING_PAGES * PAGE, self.sizes[index]
        at = ring + AVAIL
        old = int.from_bytes(os.pread(self.memory, 2, at + 2), "little")
        for i, head in enumerate(heads):
            place = at + 4 + 2 * ((old + i) % size)
            poke(self.memory, place, (head % 2**16).to_bytes(2, "little"))
        poke(self.memory, at + 2, ((old + len(heads)) % 2**16).to_bytes(2, "little"))
        self.kick(index)

    def kick(self, index: int) -> None:
        fd = self.eventfds[2 * index]
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(fd, 1)

    # -- actions: rings --------------------------------------------------------

    def transmit(self, rng: random.Random) -> None:
        """Frames as a driver sends them, in pieces of any size."""
        self.connected(rng)
        index = rng.choice((1, 3))
        ring, size = index * RING_PAGES * PAGE, self.sizes[index]
        heads, at = [], BUFFERS
        for k in range(min(rng.choice((1, 8, 32)), size)):
            data = header(rng) + frame_of(rng, MAC)
            if rng.random() < 0.2:
                data = super_frame(rng) + bytes(rng.choice((0, 0, 0, 4000)))
            if at + len(data) > SIZE:
                break
            poke(self.memory, at, data)
            n = rng.choice((1, 1, 1, 2, 3, 4, 17))
            cuts = sorted(rng.randint(0, len(data)) for _ in range(n - 1))
            ends = list(itertools.pairwise([0, *cuts, len(data)]))
            is_indirect = n > 1 and (rng.random() < 0.5 or k + n > size)
            first = 0 if is_indirect else k
            table = b"".join(
                struct.pack(
                    "<QIHH", GUEST_BASE + at + a, b - a,
                    NEXT if i < n - 1 else 0, first + i + 1,
                )
                for i, (a, b) in enumerate(ends)
            )  # fmt: skip
            if is_indirect:
                place = ring + TABLES + 512 * (k % 24) + rng.choice((0, 0, 0, 4))
                poke(self.memory, place, table)
                entry = (GUEST_BASE + place, len(table), INDIRECT, 0)
                table = struct.pack("<QIHH", *entry)
            poke(self.memory, ring + 16 * k, table)
            heads.append(k)
            at += len(data)
            self.done["descriptors"] += n
            if not is_indirect and n > 1:
                break  # the next would be in its place
        self.offer(index, heads)

    def give(self, rng: random.Random) -> None:
        """Buffers to write to: as many and as large as a driver has, or not."""
        self.connected(rng)
        index = rng.choice((0, 2))
        n = min(self.sizes[index], rng.choice((1, 16, 64, 1024)))
        room = rng.choice((2048, 2048, 65550, 1526, 64, 12, 13, 1, 0))
        ring = index * RING_PAGES * PAGE
        for i in range(n):
            address = GUEST_BASE + BUFFERS + (i * room) % (SIZE - BUFFERS - 65550)
            poke(
                self.memory,
                ring + 16 * i,
                struct.pack("<QIHH", address, room, WRITE, 0),
            )
        self.done["descriptors"] += n
        self.offer(index, list(range(n)))

    def nonsense(self, rng: random.Random) -> None:
        """Descriptors that say anything."""
        self.connected(rng)
        index = rng.randrange(NRINGS)
        n = min(self.sizes[index], 64)
        flags = 0 if index % 2 else WRITE
        data = b"".join(descriptor(rng, flags) for _ in range(n))
        poke(self.memory, index * RING_PAGES * PAGE, data)
        self.done["descriptors"] += n
        heads = [rng.randrange(n) for _ in range(rng.choice((1, 4, n)))]
        if rng.random() < 0.1:
            heads.append(rng.getrandbits(16))
        self.offer(index, heads)

    def exhaust_turn(self, rng: random.Random) -> None:
        """The longest chains there are, again and again."""
        self.connected(rng)
        index = rng.randrange(NRINGS)
        n, flags = min(self.sizes[index], 1024), 0 if index % 2 else WRITE
        chain = b"".join(
            struct.pack("<QIHH", GUEST_BASE + BUFFERS, rng.choice((0, 0, 1)),
                        flags | (NEXT if i < n - 1 else 0), i + 1)
            for i in range(n)
        )  # fmt: skip
        poke(self.memory, index * RING_PAGES * PAGE, chain)
        self.done["descriptors"] += n
        self.offer(index, [rng.choice((0, 0, rng.randrange(n))) for _ in range(n)])

    def jump(self, rng: random.Random) -> None:
        """avail.idx, used.idx, or flags and events are something else."""
        self.connected(rng)
        index = rng.randrange(NRINGS)
        at = index * RING_PAGES * PAGE + rng.choice((AVAIL, USED))
        at += rng.choice(
            (2, 2, 2, 0, 4 + 2 * self.sizes[index], 4 + 8 * self.sizes[index])
        )
        poke(self.memory, at, rng.randbytes(2))
        self.kick(index)

    def shrink(self, rng: random.Random) -> None:
        """The file loses its pages under rings and buffers; and has them again."""
        self.connected(rng)
        os.ftruncate(
            self.memory, rng.choice((0, 1, PAGE, BUFFERS, SIZE // 2, SIZE - 1))
        )
        for index in range(NRINGS):
            self.kick(index)
        time.sleep(0.002)
        if rng.random() < 0.7:
            os.ftruncate(self.memory, SIZE)

    def clog(self, rng: random.Random) -> None:
        """Eventfds that are full, and block whoever writes to them: we share them."""
        self.connected(rng)
        for fd in self.eventfds[1::2]:
            os.set_blocking(fd, False)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(fd)
            with contextlib.suppress(BlockingIOError):  # the port has just written
                os.eventfd_write(fd, 2**64 - 2)
            os.set_blocking(fd, True)
        self.transmit(rng)
        self.give(rng)
        time.sleep(0.002)
        for fd in self.eventfds[1::2]:
            os.set_blocking(fd, False)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(fd)

    def rest(self, rng: random.Random) -> None:
        """Let the driver's own traffic flow for a while."""
        self.connected(rng)
        before, self.storm.is_blowing = self.storm.is_blowing, False
        for _ in range(3):
            self.give(rng)
            self.transmit(rng)
            time.sleep(0.005)
        self.storm.is_blowing = before

    # -- actions: messages -----------------------------------------------------

    def restart(self, rng: random.Random) -> None:
        """Stop rings and start them, with other sizes, over other memory."""
        self.connected(rng)
        for index in rng.sample(range(NRINGS), rng.choice((1, 4))):
            self.guest.stop_ring(index)
            if rng.random() < 0.3:
                poke(self.memory, index * RING_PAGES * PAGE, bytes(RING_PAGES * PAGE))
            self.start_ring(rng, index)

    def replace_memory(self, rng: random.Random) -> None:
        """Other regions for running rings: more, fewer, other files."""
        self.connected(rng)
        kind = rng.random()
        if kind < 0.5 and self.regions:
            region = rng.choice(self.regions)
            body = message.SINGLE_REGION.pack(0, *region)
            self.guest.request("rem_mem_reg", body)
            self.guest.request("add_mem_reg", body, [self.memory])
            return
        if kind < 0.7:
            self.share(rng)
            return
        with some_file(rng, NPAGES) as fd:
            start = rng.choice((2**41, GUEST_BASE, 2**64 - PAGE, rng.getrandbits(64)))
            size = rng.choice((PAGE, SIZE, 1, 0, 2**40, 2**63, 2**64 - 1))
            user = rng.choice((2**41, USER, 2**64 - 1))
            offset = rng.choice((0, 0, 1, PAGE, 2**63, 2**64 - 1))
            body = message.SINGLE_REGION.pack(0, start, size, user, offset)
            self.guest.request("add_mem_reg", body, [fd])

    def switch(self, rng: random.Random) -> None:
        """Requests that stop, start or forget things."""
        self.connected(rng)
        name, body = rng.choice(
            (
                (
                    "set_vring_enable",
                    STATE.pack(rng.randrange(NRINGS), rng.randrange(2)),
                ),
                ("set_vring_enable", STATE.pack(rng.randrange(NRINGS), 1)),
                ("get_vring_base", STATE.pack(rng.randrange(NRINGS), 0)),
                ("reset_device", b""),
                ("reset_owner", b""),
                ("set_status", U64.pack(rng.choice((0, 15, 256)))),
                ("set_features", U64.pack(rng.getrandbits(40) & message.FEATURES)),
                ("net_set_mtu", U64.pack(rng.choice((1500, 67, 2**16)))),
            )
        )
        self.guest.request(name, body)

    def valid(self, rng: random.Random, number: int) -> tuple[bytes, list[int]]:
        """Return a body that the request may have, and its file descriptors."""
        index = rng.randrange(NRINGS)
        at = USER + index * RING_PAGES * PAGE
        region = rng.choice(self.regions or [Region(GUEST_BASE, SIZE, USER, 0)])
        kick, call = self.eventfds[2 * index : 2 * index + 2]
        request = REQUESTS[number]
        bodies: dict[str, tuple[bytes, list[int]]] = {
            "set_features": (U64.pack(self.guest.features), []),
            "set_protocol_features": (U64.pack(message.PROTOCOL_FEATURES), []),
            "set_mem_table": (
                message.TABLE.pack(1, 0) + message.REGION.pack(*region),
                [self.memory],
            ),
            "set_vring_num": (
                STATE.pack(index, rng.choice((self.sizes[index], 0, 3, 2**16))),
                [],
            ),
            "set_status": (U64.pack(rng.choice((15, 0, 256, 2**40))), []),
            "set_vring_addr": (
                message.ADDRESS.pack(index, 0, at, at + USED, at + AVAIL, 0),
                [],
            ),
            "set_vring_kick": (U64.pack(index), [kick]),
            "set_vring_call": (U64.pack(index), [call]),
            "set_vring_err": (U64.pack(index), [call]),
            "add_mem_reg": (message.SINGLE_REGION.pack(0, *region), [self.memory]),
            "rem_mem_reg": (message.SINGLE_REGION.pack(0, *region), []),
        }
        size = rng.randint(*request.sizes) if request.sizes[1] < 300 else 64
        some = STATE.pack(index, rng.randrange(3)).ljust(size, b"\0")[:size]
        return bodies.get(request.name, (some, [self.memory] * request.fds[0]))

    def message(self, rng: random.Random) -> tuple[bytes, list[int]]:
        """Return a message that is nearly right."""
        number = rng.choice(
            (rng.randint(1, 43), NUMBERS["add_mem_reg"], NUMBERS["set_vring_kick"])
        )
        body, fds = self.valid(rng, number)
        kind = rng.random()
        if kind < 0.4:
            body = flip(rng, body)
        elif kind < 0.5:
            body = body[: rng.randint(0, len(body))] + rng.randbytes(rng.randrange(9))
        flags = message.VERSION | rng.choice((0, 0, message.NEED_REPLY))
        if rng.random() < 0.02:
            flags = rng.getrandbits(4)
        size = len(body)
        if rng.random() < 0.02:
            size = rng.choice(
                (0, size + 1, 4096, 4097, 10 << 30 & 0xFFFFFFFF, 2**32 - 1)
            )
        if rng.random() < 0.02:
            number = rng.choice((0, 44, rng.getrandbits(32)))
        return HEADER.pack(number, flags, size) + body, fds

    def speak(self, rng: random.Random) -> None:
        """Messages to running rings; file descriptors of any kind."""
        sock = self.connected(rng)
        for _ in range(rng.choice((1, 5, 20))):
            data, fds = self.message(rng)
            with some_file(rng, NPAGES) as fd:
                odd = rng.choice(([fd], [fd] * 2, [fd] * 9, [fd] * 30, []))
                send(sock, data, fds if rng.random() < 0.8 else odd)
        self.listen(rng, sock)

    def listen(self, rng: random.Random, sock: socket.socket) -> None:
        """Take the answers that come, and go if there may be more."""
        time.sleep(0.002)
        with contextlib.suppress(BlockingIOError):
            while True:
                if not sock.recv(65536, socket.MSG_DONTWAIT):
                    raise ConnectionResetError
        if rng.random() < 0.5:
            self.leave(rng)

    def crumble(self, rng: random.Random) -> None:
        """A message byte by byte, a file descriptor with each."""
        sock = self.connected(rng)
        data, _ = self.message(rng)
        for i in range(rng.randint(1, len(data))):
            fds = [self.memory] * rng.choice((0, 0, 1, 16))
            send(sock, data[i : i + 1], fds)
        self.leave(rng)

    def leave(self, rng: random.Random) -> None:
        """Go: at once, or half, or after a while."""
        sock = self.guest.socket
        if sock and rng.random() < 0.3:
            sock.shutdown(rng.choice((socket.SHUT_WR, socket.SHUT_RDWR)))
        if rng.random() < 0.3:
            time.sleep(0.002)
        self.guest.disconnect()

    def stall(self, rng: random.Random) -> None:
        """Say nothing, or half a message, or read no answer, for too long."""
        if not self.is_server:
            return
        kind = rng.choice(("silent", "unfinished", "unread"))
        before = self.port.counters[f"closed-{kind}-connections"]
        if kind == "silent":
            self.wait_for_nobody()
            self.guest.connect()
        sock = self.connected(rng)
        if kind == "unfinished":
            data, fds = self.message(rng)
            send(sock, data[: rng.randint(1, 11)], fds)

        def is_gone() -> bool:
            self.ahead += 0.1
            with contextlib.suppress(ConnectionError):  # until no answer fits
                for _ in range(100 if kind == "unread" else 0):
                    send(sock, HEADER.pack(1, message.VERSION, 0), [])
            now = self.port.counters[f"closed-{kind}-connections"]
            return now > before or not self.port.is_connected

        until(is_gone, f"a front end that is {kind} stays")
        self.guest.disconnect()

    def intrude(self, rng: random.Random) -> None:
        """Others want to be served, too."""
        self.connected(rng)
        if not self.is_server:
            return
        for _ in range(rng.choice((1, 5, 30))):
            with socket.socket(socket.AF_UNIX) as other, contextlib.suppress(OSError):
                other.setblocking(False)
                other.connect(str(self.path))
                send(other, HEADER.pack(1, message.VERSION, 0), [self.memory])

    def exhaust(self, rng: random.Random) -> None:
        """No file descriptors are left for what a front end brings, or for another."""
        sock = self.connected(rng)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket(socket.AF_UNIX) as late:
            late.setblocking(False)
            lowest = os.dup(self.memory)  # that is free
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                data, fds = self.message(rng)
                send(sock, data, fds * rng.choice((1, 4)))
                if self.is_server:
                    with contextlib.suppress(OSError):
                        late.connect(str(self.path))
                time.sleep(0.02)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self.leave(rng)

    def reconfigure(self, rng: random.Random) -> None:
        """The port goes in the middle of it all, and comes again."""
        self.connected(rng)
        self.collect()
        self.engine.commit(self.config)
        self.guest.disconnect()
        self._commit()

    WEIGHTED: ClassVar[dict[episodes.Action, int]] = {
        transmit: 12,
        give: 10,
        nonsense: 12,
        exhaust_turn: 3,
        jump: 4,
        shrink: 4,
        clog: 2,
        rest: 6,
        restart: 8,
        begin: 4,
        replace_memory: 6,
        switch: 6,
        speak: 14,
        crumble: 3,
        stall: 2,
        intrude: 2,
        exhaust: 1,
        reconfigure: 1,
    }
