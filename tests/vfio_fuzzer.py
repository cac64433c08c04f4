"""Hostile clients of a card that is served: episodes of messages of every wrong shape.

    with Episode(seed) as episode:
        episode.run(range(60))

The server is the real one, and so is the worker that steps the card, with a source
and a sink at its wire. The client is this thread; another writes to registers
meanwhile, and now and then a client that is a process of its own is killed in the
middle of its work. Unlike with `tests.card_fuzzer`, threads see to it that an episode
does not do the very same again.
"""

import contextlib
import os
import random
import resource
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import ClassVar

from snabb_py._native import lib
from snabb_py.apps.basic import Sink, Source
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.nic.model82599 import Card, SoftwareCard
from snabb_py.nic.registers import offset
from snabb_py.nic.vfio_user import Server, Servers
from tests import episodes, vfio_client
from tests.card_fuzzer import any_register, any_value
from tests.episodes import PAGE, flip, memfd, send, shared_mappings, some_file
from tests.vfio_client import (
    BAR0,
    BAR2,
    BAR4,
    CONFIG,
    DMA_MAP,
    DMA_UNMAP,
    EVENTFD,
    HEADER,
    NO_REPLY,
    REGION_READ,
    REGION_WRITE,
    REPLY,
    RESET,
    SET_IRQS,
    TRIGGER,
    VERSION,
    Refused,
    VfioClient,
)

ROOT = Path(__file__).resolve().parents[1]
#: Seconds that anything may take before it counts as hung: the machine is busy.
PATIENCE = 60
#: Pages of a guest's memory.
NPAGES = 64

#: What a process does that is going to be killed: all that makes a card busy.
VICTIM = """
import os, random, sys
from pathlib import Path
from tests.vfio_client import *
rng = random.Random(sys.argv[2])
fd = os.memfd_create("hostile")
os.ftruncate(fd, 64 * 4096)
client = VfioClient(Path(sys.argv[1]))
client.negotiate()
events = [os.eventfd(0) for _ in range(4)]
client.set_irqs(MSIX, EVENTFD | TRIGGER, count=4, fds=events)
client.map(0, 64 * 4096, fd)
client.write(CONFIG, 4, bytes([6, 0]))
for register, value in (
    (0x5080, 0x702), (0x3000, 1), (0x4A80, 1),
    (0x6000, 0), (0x6004, 0), (0x6008, 4096), (0x6028, 1 << 25),
    (0x1000, 4096), (0x1004, 0), (0x1008, 4096), (0x1014, 2), (0x1028, 1 << 25),
    (0x898, 1 << 4), (0x900, 0x8180), (0xAA0, 3),
):
    client.set_register(register, value)
for i in range(256):
    os.pwrite(fd, (rng.randrange(1 << 18)).to_bytes(8, "little"), 16 * i)
    os.pwrite(fd, (60 | 0xB000000).to_bytes(8, "little"), 16 * i + 8)
    os.pwrite(fd, (rng.randrange(1 << 18)).to_bytes(16, "little"), 4096 + 16 * i)
print("ready", flush=True)
while True:
    client.set_register(0x6018, rng.randrange(256))
    client.set_register(0x1018, rng.randrange(256))
    client.unmap(0, 64 * 4096)
    client.map(0, 64 * 4096, fd)
"""


class Disturber:
    """A thread that writes to registers while everything else goes on."""

    def __init__(self, card: Card, seed: int) -> None:
        self.accesses = 0
        self._card = card
        self._rng = random.Random(seed)  # noqa: S311 - repeatable
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        rng, card = self._rng, self._card
        while not self._stop.wait(0.001):
            for _ in range(rng.choice((1, 10, 30))):
                self.accesses += 1
                if rng.random() < 0.9:
                    card.write(any_register(rng), any_value(rng))
                else:
                    card.read(any_register(rng))
            if rng.random() < 0.3:  # or nothing would ever get through
                card.plug(rng.random() < 0.9)
                for name, value in (("FCTRL", 0x702), ("RXCTRL", 1), ("DMATXCTL", 1)):
                    card.write(offset(name), value)
            assert len(card.counters) == lib.MODEL_NCOUNTERS

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "a thread that writes to registers hangs"


class Episode(episodes.Episode):
    """A card that is served to hostile clients, from its beginning to its end.

    Args:
        seed: of everything.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.log: list[str] = []
        self.ahead = 0.0
        self.client: VfioClient | None = None
        self.memory = memfd(NPAGES)
        self.eventfds = [os.eventfd(0) for _ in range(4)]
        self.maps: list[tuple[int, int]] = []
        with contextlib.ExitStack() as undo:
            undo.callback(self._close_files)
            self.card = undo.enter_context(Card())
            directory = undo.enter_context(tempfile.TemporaryDirectory())
            path = Path(directory, "nic.sock")
            self.server = Server(self.card, path, log=self.log.append, clock=self.clock)
            self.servers = undo.enter_context(Servers([self.server]))
            self.engine = undo.enter_context(
                Engine(packets=2048, large_packets=64, huge=False, log=self.log.append)
            )
            config = Config()
            config.app("source", Source, size=200, rate_pps=20000)
            config.app("card", SoftwareCard, card=self.card)
            config.app("sink", Sink)
            config.link("source.tx -> card.rx")
            config.link("card.tx -> sink.rx")
            self.engine.commit(config)
            self.disturber = Disturber(self.card, seed)
            undo.callback(self.disturber.stop)
            self._undo = undo.pop_all()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.hang_up()
        self._undo.close()

    def _close_files(self) -> None:
        for fd in (self.memory, *self.eventfds):
            os.close(fd)

    def act(self, action: episodes.Action, rng: random.Random) -> None:
        with contextlib.suppress(EOFError, ConnectionError):
            action(self, rng)

    def check(self) -> None:
        assert not self.server.counters["closed-internal-connections"], self.log

    # -- judging ---------------------------------------------------------------

    def clock(self) -> float:
        """Return the server's time, which may run ahead."""
        return time.monotonic() + self.ahead

    def wait_for(self, is_so: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            assert time.monotonic() < deadline, (what, self.server.counters, self.log)
            time.sleep(0.001)

    def wait_for_nobody(self) -> None:
        self.wait_for(lambda: not self.server.is_connected, "the client is still there")

    def check_end(self) -> None:
        self.hang_up()
        self.wait_for_nobody()
        self.disturber.stop()
        self.done["accesses"] += self.disturber.accesses
        self.done["messages"] += self.server.counters["messages"]
        self.card.plug(True)
        self.card.reset()
        assert self.card.nregions == 0, "regions are left"
        assert shared_mappings() == 0, "mappings are left"
        for name, n in self.card.counters.items():
            self.totals.seen[name] += n
        for name, n in self.server.counters.items():
            self.totals.seen[f"server {name}"] += n
        self.check_is_well()
        assert self.engine.census().is_complete, self.engine.census()

    def check_is_well(self) -> None:
        """The next client is served as if it were the first, both ways."""
        memory = memfd(NPAGES)
        try:
            with VfioClient(self.server.path, timeout=PATIENCE) as client:
                client.negotiate()
                assert client.read(CONFIG, 0, 4) == bytes.fromhex("8680fb10")
                vfio_client.start_transmission(client, memory)
                row = self.engine.link("card.tx -> sink.rx").counters
                sent = row["txpackets"]
                vfio_client.transmit(
                    client, memory, bytes(12) + b"\x88\xb5" + bytes(50)
                )
                self.wait_for(
                    lambda: (
                        self.engine.link("card.tx -> sink.rx").counters["txpackets"]
                        > sent
                    ),
                    "nothing is sent",
                )
                os.pwrite(memory, struct.pack("<QQ", 8 * PAGE, 0) * 8, 4 * PAGE)
                for name, value in (
                    *(("FCTRL", 0x702), ("RDBAL", 4 * PAGE), ("RDLEN", 128)),
                    *(("SRRCTL", 2), ("RXDCTL", 1 << 25), ("RXCTRL", 1), ("RDT", 7)),
                ):
                    client.set_register(offset(name), value)
                self.wait_for(
                    lambda: os.pread(memory, 13, 4 * PAGE)[12] & 1 == 1,
                    "nothing is received",
                )
        finally:
            os.close(memory)
        self.wait_for_nobody()

    # -- a client --------------------------------------------------------------

    def hang_up(self) -> None:
        if self.client:
            self.client.close()
            self.client = None
        self.maps.clear()

    def connected(self, *, agree: bool = True) -> VfioClient:
        """Return the client that we are, or become one."""
        if self.client:
            return self.client
        for _ in range(1000):
            self.client = VfioClient(self.server.path, timeout=PATIENCE)
            if not agree:
                return self.client
            try:
                self.client.negotiate()
            except (EOFError, ConnectionError):  # the one before is still going
                self.hang_up()
                time.sleep(0.01)
            else:
                return self.client
        raise AssertionError("the server takes no client any more")

    def ask(self, command: int, body: bytes, fds: Iterable[int] = ()) -> bool:
        """Send a request; return whether it was carried out, False: refused."""
        client = self.connected()
        try:
            client.request(command, body, tuple(fds))
        except Refused:
            return False
        except (EOFError, ConnectionError):
            self.hang_up()
            raise
        return True

    # -- actions ---------------------------------------------------------------

    def drive(self, rng: random.Random) -> None:
        """As a driver does: rings in memory that is there, more or less right."""
        client = self.connected()
        if self.ask(DMA_MAP, vfio_client.map_body(0, NPAGES * PAGE), [self.memory]):
            self.maps.append((0, NPAGES * PAGE))
        client.write(CONFIG, 4, b"\6\0")
        for at in range(0, 4 * PAGE, 16):
            high = (
                rng.choice((60, 1514, 0, 17, 65535)) | rng.choice((0xB, 0xB, 0)) << 24
            )
            low = rng.randrange(NPAGES * PAGE + 4000)
            os.pwrite(self.memory, struct.pack("<QQ", low, high), at)
        queue = rng.choice((0, 0, 1))
        for name, value in (
            *(("FCTRL", 0x702), ("RXCTRL", 1), ("DMATXCTL", 1)),
            *(("TDBAL", 0), ("TDBAH", 0), ("TDLEN", rng.choice((4096, 128, 0, 2**20)))),
            *(("TXDCTL", 0), ("TXDCTL", 1 << 25), ("TDT", rng.choice((255, 7, 4096)))),
            *(("RDBAL", PAGE), ("RDBAH", 0), ("RDLEN", rng.choice((4096, 128, 16)))),
            *(("SRRCTL", rng.choice((2, 2 | 1 << 25, 0))), ("RXDCTL", 1 << 25)),
            *(("RDT", rng.choice((255, 7, 4096))), ("HLREG0", rng.choice((2, 0x8402)))),
        ):
            n = queue if name[:2] in ("RD", "TD", "RX", "TX", "SR") else 0
            n = 0 if name == "RXCTRL" else n
            client.set_register(offset(name, n), value)

    def registers(self, rng: random.Random) -> None:
        client = self.connected()
        for _ in range(rng.choice((1, 30))):
            self.done["accesses"] += 1
            client.set_register(
                any_register(rng), any_value(rng), posted=rng.random() < 0.8
            )

    def region(self, rng: random.Random) -> None:
        for _ in range(rng.choice((1, 10))):
            self.done["accesses"] += 1
            region = rng.choice((BAR0, BAR0, BAR2, BAR4, CONFIG, 1, 9, 2**32 - 1))
            at = rng.choice((any_register(rng), rng.getrandbits(12), 2**64 - 4))
            n = rng.choice((1, 2, 4, 8, 0, 3, 4096, 4097, 2**32 - 1))
            if rng.random() < 0.5:
                self.ask(REGION_READ, vfio_client.region_body(region, at, n))
            else:
                data = rng.randbytes(min(n, 5000) if rng.random() < 0.9 else 3)
                self.ask(REGION_WRITE, vfio_client.region_body(region, at, n, data))

    def map_memory(self, rng: random.Random) -> None:
        """Files of all kinds; one may shrink afterwards."""
        with some_file(rng, NPAGES) as fd, some_file(rng, NPAGES) as other:
            iova = rng.choice((0, PAGE, 2**32, 2**64 - PAGE, rng.getrandbits(64)))
            size = rng.choice((PAGE, 2 * PAGE, NPAGES * PAGE, 0, 1, 2**63, 2**64 - 1))
            body = vfio_client.map_body(
                iova,
                size,
                offset=rng.choice((0, 0, 0, PAGE, 1, 2**63, 2**64 - 1)),
                flags=rng.choice((3, 3, 1, 2, 0, 4, 2**32 - 1)),
                argsz=rng.choice((32, 32, 32, 0, 2**32 - 1)),
            )
            fds = rng.choice(([fd], [fd], [fd], [], [fd, other], [fd] * 17))
            if self.ask(DMA_MAP, body, fds) and fds:
                self.maps.append((iova, size))
                if rng.random() < 0.5:
                    with contextlib.suppress(OSError):
                        os.ftruncate(fd, rng.choice((0, PAGE, PAGE + 1)))

    def unmap_memory(self, rng: random.Random) -> None:
        iova, size = rng.choice(self.maps or [(0, PAGE)])
        if rng.random() < 0.3:
            size = rng.choice((0, 1, size - 1, size + 1, 2**63)) % 2**64
        flags = rng.choice((0, 0, 0, 2, 1, 2**31))
        if self.ask(DMA_UNMAP, vfio_client.unmap_body(iova, size, flags=flags)):
            self.maps = [m for m in self.maps if m != (iova, size) and not flags]

    def shrink(self, rng: random.Random) -> None:
        """Take the memory away under rings and buffers; the doorbell rings."""
        client = self.connected()
        os.ftruncate(self.memory, rng.choice((0, PAGE, 3 * PAGE, 32 * PAGE)))
        for name in ("TDT", "RDT"):
            client.set_register(offset(name), rng.randrange(256))
        client.register(offset("TDH"))
        os.ftruncate(self.memory, NPAGES * PAGE)

    def interrupts(self, rng: random.Random) -> None:
        with some_file(rng, NPAGES) as fd:
            n = rng.choice((0, 1, 2, 4))
            fds = rng.choice((self.eventfds[:n], [], [fd], [fd] * 17))
            body = vfio_client.irqs_body(
                rng.choice((0, 1, 2, 2, 3, 4, 5, 2**32 - 1)),
                rng.choice((EVENTFD | TRIGGER, EVENTFD | TRIGGER, rng.getrandbits(7))),
                start=rng.choice((0, 0, 1, 63, 64, 2**32 - 1)),
                count=rng.choice((n, n, len(fds), 65, 2**32 - 1)),
                data=rng.randbytes(rng.choice((0, 0, n, 64))),
            )
            self.ask(SET_IRQS, body, fds)

    def clog(self, rng: random.Random) -> None:
        """Eventfds that are full, and block whoever writes to them: we share them."""
        fds = self.eventfds[:2]
        body = vfio_client.irqs_body(2, EVENTFD | TRIGGER, count=2)
        self.ask(SET_IRQS, body, fds)
        for fd in fds:
            os.set_blocking(fd, False)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(fd, 2**64 - 2)
            os.set_blocking(fd, rng.random() < 0.8)
        for _ in range(5):
            self.provoke(rng)
        for fd in fds:
            os.set_blocking(fd, False)
            if rng.random() < 0.5:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(fd)

    def provoke(self, rng: random.Random) -> None:
        """Interrupts that come at once."""
        client = self.connected()
        for name, value in (
            *(("GPIE", rng.choice((1 << 4, 1 << 4, 0))), ("EIMS", 0xFFFFFFFF)),
            *(("IVAR", 0x83828180), ("IVAR_MISC", 0x8080), ("EICS", 3)),
            *(("EICS", any_value(rng)), ("EIAC", 0)),
        ):
            client.set_register(offset(name), value)

    def inform(self, rng: random.Random) -> None:
        command = rng.choice((*range(16), rng.getrandbits(16)))
        self.ask(command, rng.randbytes(rng.choice((0, 4, 16, 32, 64, 4096))))

    def valid(self, rng: random.Random) -> tuple[bytes, list[int]]:
        """Return a message that could be meant, and its file descriptors."""
        value = any_value(rng).to_bytes(4, "little")
        region = vfio_client.region_body(BAR0, any_register(rng), 4)
        command, body, fds = rng.choice(
            (
                (VERSION, vfio_client.version_body(), []),
                (DMA_MAP, vfio_client.map_body(1 << 40, PAGE), [self.memory]),
                (DMA_UNMAP, vfio_client.unmap_body(1 << 40, PAGE), []),
                (REGION_READ, region, []),
                (REGION_WRITE, region + value, []),
                (RESET, b"", []),
                (
                    SET_IRQS,
                    vfio_client.irqs_body(2, EVENTFD | TRIGGER, count=2),
                    self.eventfds[:2],
                ),
            )
        )
        flags = rng.choice((0, 0, 0, 0, NO_REPLY, NO_REPLY, REPLY, 2, 0x20))
        return vfio_client.message(command, body, flags=flags), fds

    def mutate(self, rng: random.Random) -> None:
        """Messages that are nearly right, or nothing at all, and then the end."""
        if rng.random() < 0.2:
            self.hang_up()
            self.wait_for_nobody()
        client = self.connected(agree=rng.random() < 0.5)
        for _ in range(rng.choice((1, 5))):
            data, fds = self.valid(rng)
            kind = rng.random()
            if kind < 0.5:
                data = flip(rng, data[: HEADER.size]) + data[HEADER.size :]
            elif kind < 0.8:
                data = data[: HEADER.size] + flip(rng, data[HEADER.size :])
            elif kind < 0.9:
                data = rng.randbytes(rng.choice((1, 16, 100, 9000)))
            size = rng.choice((None, None, 0, 15, 16, 2**32 - 1, 4128, 4129))
            if size is not None and rng.random() < 0.3:
                data = data[:4] + struct.pack("<I", size) + data[8:]
            send(client.sock, data, rng.choice((fds, fds, [], [self.memory] * 5)))
        self.leave(rng)

    def crumble(self, rng: random.Random) -> None:
        """A message byte by byte, a file descriptor with each."""
        client = self.connected()
        data, _ = self.valid(rng)
        for i in range(len(data)):
            fds = [self.memory] * rng.choice((0, 0, 1, 16))
            send(client.sock, data[i : i + 1], fds)
        self.leave(rng)

    def leave(self, rng: random.Random) -> None:
        """Go: at once, or half, or with replies unread, or after a while."""
        if not self.client:
            return
        kind = rng.randrange(4)
        if kind == 0:
            self.client.sock.shutdown(rng.choice((socket.SHUT_WR, socket.SHUT_RDWR)))
            with contextlib.suppress(ConnectionError):
                self.client.is_closed()
        elif kind == 1:
            self.client.sock.settimeout(0.02)
            with contextlib.suppress(ConnectionError):
                self.client.is_closed()
        self.hang_up()

    def stall(self, rng: random.Random) -> None:
        """Ask and ask and read no answer; until the server has had enough, or not."""
        client = self.connected()
        body = vfio_client.region_body(CONFIG, 0, 4096)
        for _ in range(400):
            send(client.sock, vfio_client.message(REGION_READ, body), [])
        if rng.random() < 0.3:
            before = self.server.counters["closed-unread-connections"]

            def is_gone() -> bool:
                self.ahead += 0.1
                counters = self.server.counters
                return (
                    counters["closed-unread-connections"] > before
                    or not self.server.is_connected
                )

            self.wait_for(is_gone, "a client that reads nothing stays")
        self.hang_up()

    def intrude(self, rng: random.Random) -> None:
        """Others want to be served too."""
        self.connected()
        for _ in range(rng.choice((1, 5, 30))):
            with contextlib.suppress(OSError), VfioClient(self.server.path) as other:
                if rng.random() < 0.5:
                    send(other.sock, vfio_client.message(RESET), [self.memory])

    def exhaust(self, rng: random.Random) -> None:
        """No file descriptors are left for what a client brings, or for a client."""
        client = self.connected()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as late:
            late.setblocking(False)
            lowest = os.dup(self.memory)  # that is free
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                if rng.random() < 0.5:
                    body = vfio_client.map_body(2**50, PAGE)
                    fds = [self.memory] * rng.choice((1, 16))
                    send(client.sock, vfio_client.message(DMA_MAP, body), fds)
                with contextlib.suppress(BlockingIOError):
                    late.connect(str(self.server.path))
                time.sleep(0.02)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self.leave(rng)

    def kill(self, rng: random.Random) -> None:
        """A client that is killed at any moment of its work."""
        self.hang_up()
        self.wait_for_nobody()
        seed = str(rng.getrandbits(32))
        environment = {**os.environ, "LD_PRELOAD": "", "PYTHONPATH": str(ROOT)}
        victim = subprocess.Popen(
            [sys.executable, "-S", "-c", VICTIM, str(self.server.path), seed],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        assert victim.stdout
        if rng.random() < 0.8:
            select.select([victim.stdout], [], [], PATIENCE)
        time.sleep(rng.random() / 50)
        victim.kill()
        victim.wait()
        victim.stdout.close()
        self.done["kills"] += 1

    WEIGHTED: ClassVar[dict[episodes.Action, int]] = {
        drive: 16,
        registers: 8,
        region: 10,
        map_memory: 14,
        unmap_memory: 6,
        shrink: 6,
        interrupts: 10,
        provoke: 4,
        clog: 2,
        inform: 6,
        mutate: 14,
        crumble: 3,
        stall: 1,
        intrude: 2,
        exhaust: 1,
        kill: 1,
    }
