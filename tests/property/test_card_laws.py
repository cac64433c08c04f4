"""Laws of the software 82599 under any sequence of what a host and a wire can do.

- What arrived is delivered, or waits, or is counted as dropped; likewise what is sent.
- Frames come whole, unchanged and in their order, each once.
- Descriptors are completed in order, each once.
- Nothing is written but where it was asked for, and no packet is lost or leaked.

The judge keeps its own account: lists of what it has sent, and counters of the card.
"""

import struct
from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from snabb_py.nic.model82599 import MAC_PREFIX
from tests.card_host import CardHost, ReceiveQueue, TransmitQueue, cut

MAC = MAC_PREFIX + b"\x01"
OTHER = bytes.fromhex("020000000001")
N = 16  #: descriptors of a ring
BUFFER = 1024
SHORTEST, LONGEST = 60, 4000

RX_DROPS = (
    "drop-rx-link-down",
    "drop-rx-disabled",
    "drop-rx-bad-length",
    "drop-rx-filtered",
    "drop-rx-fifo-full",
    "drop-rx-no-descriptor",
    "drop-rx-queue-disabled",
)
TX_DROPS = ("drop-tx-link-down", "drop-tx-bad-length", "drop-tx-bad-descriptor")
CLEAN = bytes.fromhex("c3")  #: what memory holds that nobody has written to


class CardLaws(RuleBasedStateMachine):
    """A host with one ring each way and a wire, which do as they like."""

    @initialize()
    def begin(self) -> None:
        self.host = CardHost(memory=256 << 10, packets=2048)
        self.arrived = 0
        self.delivered = 0
        self.serial = 0  # of the frames that arrive
        self.highest = -1  # serial number that was delivered last
        self.to_send: deque[bytes] = deque()  # posted, not seen on the wire
        self.given = 0  # frames posted for sending that a reset has not swept away
        self.left = 0
        self.drop = self.strip = self.jumbo = False
        self.start()

    def teardown(self) -> None:
        if hasattr(self, "host"):
            # Every packet is back, and no guard broken.
            self.host.__exit__(None, None, None)

    # -- a host ------------------------------------------------------------------------

    def start(self) -> None:
        """Set the card up as after a reset; memory is used anew from its beginning."""
        host = self.host
        host.used = 0
        host.card.store(7, 4, b"\x07\x00")
        host.start()
        host.set("HLREG0", host.get("HLREG0") | self.jumbo << 2)
        host.set("MAXFRS", LONGEST << 16)
        host.set("RXPBSIZE", 8 << 10)
        self.rx: ReceiveQueue = host.receive_queue(
            0, n=N, size=BUFFER, drop=self.drop, strip=self.strip, post=False
        )
        self.tx: TransmitQueue = host.transmit_queue(0, n=N)
        self.paint()
        self.parts: list[bytes] = []
        self.posted = 0
        self.ends: list[int] = []
        self.unsent: deque[int] = deque()

    def paint(self) -> None:
        """Fill the buffers, to see what of them is written."""
        for buffer in self.rx.buffers:
            self.host.poke(buffer, CLEAN * BUFFER)

    @property
    def counters(self) -> dict[str, int]:
        return self.host.card.counters

    @property
    def waiting(self) -> int:
        wire = self.host.wire
        return int(wire.app.ops.held(wire.struct))

    @rule(sizes=st.lists(st.integers(14, LONGEST + 100), max_size=20))
    def wire_sends(self, sizes: list[int]) -> None:
        """Frames of any length arrive, some too long."""
        frames = []
        for n in sizes:
            head = MAC + OTHER + b"\x88\xb5" + struct.pack("!I", self.serial)
            body = bytes([self.serial % 251]) * n
            frames.append((head + body)[: max(n, 18)])
            self.serial += 1
        self.arrived += len(frames)
        self.host.wire.send(frames)
        self.host.step(1000)

    @rule(vlan=st.integers(0, 0xFFFF))
    def wire_sends_a_tag(self, vlan: int) -> None:
        head = MAC + OTHER + struct.pack("!HHHI", 0x8100, vlan, 0x88B5, self.serial)
        self.serial += 1
        self.arrived += 1
        self.host.wire.send([head.ljust(100, bytes([self.serial % 251]))])
        self.host.step(1000)

    @rule(destination=st.sampled_from([b"\xff" * 6, OTHER, b"\x01" + OTHER[1:]]))
    def wire_sends_to_others(self, destination: bytes) -> None:
        """All but broadcast is for others; filters are set so by `filter_others`."""
        frame = destination + OTHER + b"\x88\xb5" + struct.pack("!I", self.serial)
        self.serial += 1
        self.arrived += 1
        self.host.wire.send([frame.ljust(60, b"\0")])
        self.host.step(1000)

    @rule(promiscuous=st.booleans())
    def filter_others(self, promiscuous: bool) -> None:
        self.host.set("FCTRL", 0x700 if promiscuous else 0x400)

    @rule(count=st.integers(1, N))
    def post(self, count: int) -> None:
        """Give descriptors, as many as the ring has room for."""
        room = N - 1 - self.posted
        if count <= room:
            self.rx.post(count)
            self.posted += count
            self.host.step(1000)

    @rule()
    def look(self) -> None:
        """Take what has come; the card must have left the rest of the memory alone."""
        untouched = self.rx.buffers[self.rx.next :] + self.rx.buffers[: self.rx.next]
        parts = self.rx.take(repost=False)
        assert len(parts) <= self.posted, "a descriptor that was not given"
        self.posted -= len(parts)
        for buffer, part in zip(untouched, parts, strict=False):
            rest = self.host.peek(buffer + len(part.data), BUFFER - len(part.data))
            assert rest == CLEAN * len(rest)
            self.host.poke(buffer, CLEAN * BUFFER)
        for buffer in untouched[len(parts) :]:
            assert self.host.peek(buffer, BUFFER) == CLEAN * BUFFER
        for part in parts:
            assert part.is_end or len(part.data) == BUFFER
            self.parts.append(part.data)
            if part.is_end:
                self.check_frame(b"".join(self.parts))
                self.parts = []
        assert not self.parts, "a frame without end"
        assert self.delivered == self.counters["host-packets"]

    def check_frame(self, frame: bytes) -> None:
        self.delivered += 1
        at = 16 if frame[12:14] == b"\x81\0" else 12
        assert frame[at : at + 2] == b"\x88\xb5"
        (serial,) = struct.unpack_from("!I", frame, at + 2)
        assert self.highest < serial < self.serial, "not in its order, or twice"
        self.highest = serial
        assert len(frame) >= SHORTEST - 4 * self.strip
        assert len(set(frame[at + 6 :])) <= 2, "torn"  # filled up with zeros at most

    @rule(
        sizes=st.lists(st.integers(10, 3000), min_size=1, max_size=4),
        pieces=st.integers(1, 3),
    )
    def host_sends(self, sizes: list[int], pieces: int) -> None:
        """Post frames, some too short to be sent."""
        self.look_at_completions()
        for n in sizes:
            used = len(cut(bytes(n), pieces))
            if (self.tx.tail - self.host.get("TDH")) % N + used > N - 1:
                break
            frame = (OTHER + MAC + struct.pack("!HI", 0x88B5, self.given)).ljust(
                n, b"s"
            )
            frame = frame[:n]
            self.ends.append((self.tx.tail + used - 1) % N)
            self.host.poke(self.tx.ring + 16 * self.ends[-1] + 12, b"\0")
            self.tx.put_frame(frame, pieces=pieces)
            self.unsent.append(self.ends[-1])
            self.to_send.append(frame)
            self.given += 1
        self.tx.ring_doorbell()

    @rule(ns=st.integers(0, 20_000))
    def wait(self, ns: int) -> None:
        self.host.step(ns)
        self.take_from_wire()

    def take_from_wire(self) -> None:
        """What leaves is what was posted, in order; what is dropped is left out."""
        for frame in self.host.wire.received():
            self.left += 1
            while (expected := self.to_send.popleft()) != frame:
                padded = expected.ljust(SHORTEST, b"\0")
                if padded == frame:
                    break
                # Dropped on the way; the counters say how many there may be.

    @rule()
    def look_at_completions(self) -> None:
        """DD is set in order: behind a descriptor without it there is none."""
        done = [self.tx.is_done(n) for n in self.ends]
        assert done == sorted(done, reverse=True)
        self.ends = self.ends[sum(done) :]

    # -- what else happens -------------------------------------------------------------

    @rule(plugged=st.booleans())
    def plug(self, plugged: bool) -> None:
        self.host.card.plug(plugged)

    @rule(enabled=st.booleans())
    def enable_receiver(self, enabled: bool) -> None:
        self.host.set("RXCTRL", int(enabled))

    @rule(paused=st.booleans())
    def hold_the_security_path(self, paused: bool) -> None:
        """SECRXCTRL.RX_DIS: frames wait."""
        self.host.set("SECRXCTRL", 1 | paused << 1)

    @rule(master=st.booleans())
    def be_bus_master(self, master: bool) -> None:
        self.host.card.store(7, 4, bytes([3 | master << 2, 0]))

    @rule(enabled=st.booleans())
    def enable_transmitter(self, enabled: bool) -> None:
        self.host.set("DMATXCTL", 0x81000000 | enabled)

    @rule(quanta=st.integers(0, 300))
    def pause(self, quanta: int) -> None:
        """A pause frame stops the transmitter for a while; the card swallows it."""
        self.host.set("MFLCN", 1 << 3 | 1 << 1)
        head = (
            bytes.fromhex("0180c2000001")
            + OTHER
            + struct.pack("!HHH", 0x8808, 1, quanta)
        )
        before = self.host.get("LXONRXCNT") + self.host.get("LXOFFRXCNT")
        assert before == 0
        self.host.wire.send([head.ljust(60, b"\0")])
        self.host.step(0)
        self.arrived += 1 - self.host.get("LXONRXCNT") - self.host.get("LXOFFRXCNT")

    @rule(
        drop=st.booleans(),
        strip=st.booleans(),
        jumbo=st.booleans(),
        level=st.integers(0, 2),
    )
    def reset(self, drop: bool, strip: bool, jumbo: bool, level: int) -> None:
        """Reset in one of three ways, and set up anew, perhaps otherwise.

        What waits is dropped, and what was posted for sending is the host's again.
        """
        self.look()
        self.take_from_wire()
        if level == 0:
            self.host.set("CTRL", 1 << 26)
        elif level == 1:
            self.host.card.store(7, 0xA8, b"\x00\x80")
        else:
            self.host.card.reset()
        self.forget_sending()
        self.drop, self.strip, self.jumbo = drop, strip, jumbo
        self.start()
        self.host.step(0)

    @rule()
    def restart_the_rings(self) -> None:
        """Disable both queues, and enable them anew from descriptor 0."""
        self.look()
        self.take_from_wire()
        self.forget_sending()
        self.host.set("RXDCTL", 0)
        self.host.set("TXDCTL", 0)
        self.start()

    def forget_sending(self) -> None:
        self.given = self.left + self.tx_dropped
        self.to_send.clear()

    @property
    def in_ring(self) -> int:
        """Frames that the head has not passed."""
        head, tail = self.host.get("TDH"), self.tx.tail
        while self.unsent and (self.unsent[0] - head) % N >= (tail - head) % N:
            self.unsent.popleft()
        return len(self.unsent)

    # -- laws --------------------------------------------------------------------------

    @property
    def tx_dropped(self) -> int:
        return sum(self.counters[name] for name in TX_DROPS)

    @invariant()
    def receive_account(self) -> None:
        counters = self.counters
        dropped = sum(counters[name] for name in RX_DROPS)
        delivered = counters["host-packets"]
        assert self.arrived == delivered + self.waiting + dropped

    @invariant()
    def transmit_account(self) -> None:
        counters = self.counters
        assert self.given == counters["tx-packets"] + self.tx_dropped + self.in_ring
        assert counters["tx-packets"] == self.left + self.on_link

    @property
    def on_link(self) -> int:
        link = self.host.wire.outputs[0]
        return int((link.write - link.read) & 0xFFFFFFFF)

    @invariant()
    def memory_is_guarded(self) -> None:
        assert self.host.is_guarded()
        for name in ("dma-read-unmapped", "dma-write-unmapped", "bad-ring"):
            assert self.counters[name] == 0, name

    @invariant()
    def heads_stay_in_their_rings(self) -> None:
        assert self.host.get("RDH") < N
        assert self.host.get("TDH") < N


CardLaws.TestCase.settings = settings(max_examples=100, stateful_step_count=50)
TestCardLaws = CardLaws.TestCase
