"""Laws of the 82599 driver under any sequence of what a wire, apps and a user can do.

- Frames come whole, unchanged and in their order; what does not come is counted.
- The card has descriptors or we have: cursors stay in their rings, and no packet is in
  two places.
- The card reads and writes nothing but memory that it was given.
- At the end every packet is back.

The judge keeps lists of what was sent either way, and compares counters with them. The
card is not paced: a step of its wire sends all that is ready.
"""

import struct
from collections import Counter, defaultdict, deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from snabb_py._native import ffi, lib
from snabb_py.errors import ConfigError
from snabb_py.nic.intel82599 import QUEUE_COUNTERS
from snabb_py.nic.intel82599_config import CardConfig, PoolConfig
from tests.driven_card import DrivenCard
from tests.unit.test_offload import Bench

MTU = 3000
LONGEST = MTU + 14
RING = 64
APPS = 3
#: The least with which frames move: rings, and what is sent and not reported yet.
PACKETS = APPS * (RING + 31)
DROPS = [n for n, name in enumerate(QUEUE_COUNTERS) if name.startswith("drop")]
PARTIAL, TCPV4, UDP_L4 = (
    lib.PACKET_CSUM_PARTIAL,
    lib.PACKET_GSO_TCPV4,
    lib.PACKET_GSO_UDP_L4,
)
IPV4_SIZE, TCP_SIZE, UDP_SIZE = 20, 20, 8
MODES = {
    "one": CardConfig(mtu=MTU),
    "queues": CardConfig(mtu=MTU, queues=APPS),
    "pools": CardConfig(mtu=MTU, pools=True),
    "apart": CardConfig(mtu=MTU, pools=True, switch=False),
}
GROUP = bytes.fromhex("01005e000001")
STRANGER = bytes.fromhex("0a0000000099")
app_numbers = st.integers(0, APPS - 1)


def mac(n: int) -> bytes:
    return bytes.fromhex("0200000000") + bytes([n + 1])


def text(address: bytes) -> str:
    return address.hex(":")


def ip_frame(to: bytes, source: bytes, flow: int, size: int, *, tcp: bool) -> bytes:
    """Return a frame of a flow, `size` bytes long; its checksums are nothing."""
    size = max(size, 14 + IPV4_SIZE + TCP_SIZE + 4)
    ip = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        size - 14,
        flow,
        0,
        64,
        6 if tcp else 17,
        0,
        bytes([10, 0, 0, flow]),
        bytes([10, 1, 0, 1]),
    )
    l4 = struct.pack("!HHIIBBHHH", 1000, 80, 7, 0, 5 << 4, 0x18, 999, 0, 0)
    if not tcp:
        l4 = struct.pack("!HHHH", 1000, 7, size - 34, 0)
    return to + source + b"\x08\0" + ip + l4


class DriverLaws(RuleBasedStateMachine):
    """A card, up to three queues or pools of it, and a wire, which do as they like."""

    @initialize(mode=st.sampled_from(sorted(MODES)), more=st.sampled_from([20, 1000]))
    def begin(self, mode: str, more: int) -> None:
        """Begin with one app."""
        self.mode = mode
        self.has_pools = MODES[mode].pools
        self.it = DrivenCard(
            MODES[mode], ring=RING, packets=PACKETS + more, empty=True, wire=2048
        )
        self.bench = Bench(small=64)
        self.serial = 0
        self.arrived = 0  # copies that apps are to get
        self.got = 0
        self.underway: Counter[bytes] = Counter()  # those of them that nobody has yet
        self.highest: dict[tuple[int, int], int] = defaultdict(lambda: -1)
        self.given = 0  # frames that are to leave, or be counted
        self.left = 0
        self.to_leave: dict[int, deque[bytes]] = {n: deque() for n in range(APPS)}
        self.switched = 0
        self.discarded = 0  # on an input when its app went
        self.drops = 0  # of queues that are no more
        self.born = 0  # of apps: order is kept by each
        self.births: dict[int, int] = {}
        self.plugged = True
        self.hoard: list[Any] = []
        self.apps: dict[int, Any] = {}
        self.vlans: dict[int, int | None] = {}
        self.add(0)

    def teardown(self) -> None:
        """All packets must be back, no memory touched that was not given."""
        if not hasattr(self, "it"):
            return
        self.settle()
        for n in list(self.apps):
            self.remove(n)
        self.bench.close()
        self.it.__exit__(None, None, None)

    # -- apps --------------------------------------------------------------------------

    def add(self, n: int) -> None:
        if n in self.apps or (self.mode == "one" and n):
            return
        pool = PoolConfig(n, (text(mac(n)),)) if self.has_pools else None
        self.apps[n] = self.it.add(0 if self.has_pools else n, pool)
        self.vlans[n] = None
        self.born += 1
        self.births[n] = self.born

    @rule(n=app_numbers)
    def add_app(self, n: int) -> None:
        self.add(n)

    def remove(self, n: int) -> None:
        harness = self.apps[n]
        self.take(n)
        # a super-frame that has not left is one packet to the driver and many frames
        while self.unsent(n):
            self.step_wire()
            harness.app.ops.push(harness.struct)
        state, nic = self.state(n), self.it.nic
        self.drops += sum(state.counters[i] for i in DROPS)
        link = harness.inputs[0]
        self.discarded += (link.write - link.read) % 2**32
        before = nic.totals["drop-queue-closed"]
        del self.apps[n], self.vlans[n]
        self.it.remove(harness)
        self.drops += nic.totals["drop-queue-closed"] - before

    def unsent(self, n: int) -> bool:
        """Return whether an app has super-frames that may have yet to leave."""
        harness = self.apps[n]
        app: Any = harness.app
        link = harness.inputs[0]
        queued = [
            link.ring[i % lib.LINK_CAPACITY] for i in range(link.read, link.write)
        ]
        tx = self.state(n).tx
        return any(p.gso_type for p in queued) or bool(app.unfinished and tx.holes)

    @rule(n=app_numbers)
    def remove_app(self, n: int) -> None:
        """Take one away, perhaps with frames in its rings."""
        if n in self.apps and len(self.apps) > 1:
            self.remove(n)

    @rule()
    def reset(self) -> None:
        """Take all away, which resets the card; begin anew."""
        numbers = list(self.apps)
        for n in numbers:
            self.remove(n)
        assert self.it.card.nregions == 0
        for n in numbers:
            self.add(n)

    @rule(n=app_numbers, how=st.sampled_from(["same", "more", "all", "trunk", "bad"]))
    def change_app(self, n: int, how: str) -> None:
        """Give an app a successor, and its pool other settings."""
        if n not in self.apps:
            return
        address, vlan = text(mac(n)), self.vlans[n]
        pool: PoolConfig | None = None
        if self.has_pools:
            pool = {
                "same": PoolConfig(n, (address,), vlan=vlan),
                "more": PoolConfig(n, (f"02:00:00:00:09:{n:02x}", address), vlan=vlan),
                "all": PoolConfig(n, (address,), vlan=vlan, rate_mbps=50),
                "trunk": PoolConfig(n, (address,), vlan=vlan, check_source=False),
                "bad": PoolConfig(n, (text(mac((n + 1) % APPS)), address), vlan=vlan),
            }[how]
        if how != "bad" or not self.has_pools:
            self.it.change(self.apps[n], pool)
        elif self.vlans.get((n + 1) % APPS, "none") == vlan:
            with pytest.raises(ConfigError, match="in the same VLAN"):
                self.it.change(self.apps[n], pool)

    @precondition(lambda self: self.has_pools)
    @rule(n=app_numbers, vlan=st.sampled_from([None, 5, 6]))
    def move_to_vlan(self, n: int, vlan: int | None) -> None:
        """A pool's tag is what it is when the card sends: what it has goes first."""
        if n in self.apps:
            self.settle()
            if n in self.apps and self.state(n).tx.n != 0:
                self.it.change(self.apps[n], PoolConfig(n, (text(mac(n)),), vlan=vlan))
                self.vlans[n] = vlan

    # -- the wire ----------------------------------------------------------------------

    def expect(self, frame: bytes, copies: int) -> None:
        """Note that a frame has come, for so many apps; else for a counter."""
        is_counted = not self.plugged or not copies or len(frame) > LONGEST
        self.arrived += 1 if is_counted else copies
        if not is_counted:
            self.underway[frame.ljust(60, b"\0")] += copies

    def tag(self, frame: bytes, n: int) -> bytes:
        """Return a frame as it is on the wire between pool n and others."""
        vlan = self.vlans.get(n)
        if vlan is None:
            return frame
        return frame[:12] + struct.pack("!HH", 0x8100, vlan) + frame[12:]

    @rule(
        n=app_numbers,
        flow=st.integers(0, 9),
        sizes=st.lists(st.integers(14, LONGEST + 50), min_size=1, max_size=12),
    )
    def arrive(self, n: int, flow: int, sizes: list[int]) -> None:
        """Frames of a flow arrive for an app, some too long, some too short for IP."""
        for size in sizes:
            frame = ip_frame(mac(n), STRANGER, flow, size, tcp=False)
            frame += struct.pack("!I", self.serial)
            frame = frame.ljust(size, bytes([self.serial % 251]))
            frame = frame if size >= len(frame) else frame[: max(size, 46)]
            self.serial += 1
            self.expect(frame, int(not self.has_pools or n in self.apps))
            wire = self.tag(frame, n)
            # padding of a tagged frame is part of it once the tag is off
            if self.has_pools and self.vlans.get(n) and len(wire) < 64:
                self.underway.pop(frame.ljust(60, b"\0"), None)
                self.underway[
                    wire.ljust(60, b"\0")[:12] + wire.ljust(60, b"\0")[16:]
                ] += 1
            self.it.arrive([wire])

    @rule(count=st.integers(1, 300), n=app_numbers)
    def flood(self, count: int, n: int) -> None:
        """More arrive than a ring holds."""
        if self.waiting > 1000:  # the wire has 2048 packets
            return
        for _ in range(count):
            frame = ip_frame(mac(n), STRANGER, n, 60, tcp=False)
            frame = (frame + struct.pack("!I", self.serial)).ljust(68, b"f")
            self.serial += 1
            self.expect(frame, int(not self.has_pools or n in self.apps))
            self.it.wire.send([self.tag(frame, n)])
        self.step_wire()

    @precondition(lambda self: self.has_pools)
    @rule()
    def arrive_for_all(self) -> None:
        """A group's frame is for each pool without a tag."""
        frame = ip_frame(GROUP, STRANGER, 0, 60, tcp=False)
        frame = (frame + struct.pack("!I", self.serial)).ljust(70, b"g")
        self.serial += 1
        self.expect(frame, sum(self.vlans[n] is None for n in self.apps))
        self.it.arrive([frame])

    @rule()
    def step_wire(self) -> None:
        self.it.wire.breathe()
        self.look_at_wire()

    @property
    def waiting(self) -> int:
        """Frames in the packet buffer."""
        wire = self.it.wire
        return int(wire.app.ops.held(wire.struct))

    def look_at_wire(self) -> int:
        """What leaves is what was given, in order; what is dropped is left out."""
        frames = self.it.wire.received()
        for frame in frames:
            self.left += 1
            queue = self.to_leave[frame[11] - 1]
            while queue.popleft() != frame:
                pass  # dropped on the way; the counters say how many there may be
        return len(frames)

    @rule(plugged=st.booleans())
    def plug(self, plugged: bool) -> None:
        self.it.card.plug(plugged)
        self.plugged = plugged
        self.it.nic.supervise()

    # -- what apps do ------------------------------------------------------------------

    def put(self, n: int, frame: bytes, expected: list[bytes], **metadata: int) -> None:
        """Put a packet on an app's input, if there is one and room for it."""
        harness = self.apps[n]
        link = harness.inputs[0]
        if (link.write - link.read) % 2**32 == lib.LINK_CAPACITY:
            return
        packet = lib.engine_packet_alloc(harness.freelist, len(frame))
        if not packet:
            return
        ffi.memmove(packet.data, frame, len(frame))
        for name, value in metadata.items():
            setattr(packet, name, value)
        array = ffi.new("struct packet *[]", [packet])
        assert lib.engine_link_transmit(link, array, 1) == 1
        self.to_leave[n] += [self.tag(f, n).ljust(60, b"\0") for f in expected]
        self.given += len(expected) or 1

    @rule(
        n=app_numbers,
        sizes=st.lists(st.integers(14, LONGEST + 30), min_size=1, max_size=40),
    )
    def send(self, n: int, sizes: list[int]) -> None:
        """Plain frames, some too long."""
        if n not in self.apps:
            return
        for size in sizes:
            frame = STRANGER + mac(n) + b"\x88\xb5" + struct.pack("!I", self.serial)
            frame = frame.ljust(size, bytes([self.serial % 251]))[:size]
            self.serial += 1
            self.put(n, frame, [frame] if size <= LONGEST + 8 else [])
        self.push(n)

    @rule(n=app_numbers, tcp=st.booleans(), size=st.integers(60, LONGEST))
    def send_checksum(self, n: int, tcp: bool, size: int) -> None:
        """The card finishes the sum of whatever the field holds."""
        if n not in self.apps:
            return
        frame = ip_frame(STRANGER, mac(n), 1, size, tcp=tcp)
        frame = (frame + struct.pack("!I", self.serial)).ljust(size, b"c")
        self.serial += 1
        metadata = {
            "flags": PARTIAL,
            "csum_start": 34,
            "csum_offset": 16 if tcp else 6,
        }
        packet = self.bench.packet(frame, **metadata)
        assert lib.packet_finish_checksum(packet)
        expected = bytes(ffi.buffer(packet.data, packet.length))
        self.bench.free(packet)
        self.put(n, frame, [expected], **metadata)
        self.push(n)

    @rule(
        n=app_numbers,
        tcp=st.booleans(),
        size=st.integers(60, 60000),
        mss=st.integers(1, 2900),
    )
    def send_super(self, n: int, tcp: bool, size: int, mss: int) -> None:
        if n not in self.apps:
            return
        mss = max(mss, size // 50)
        frame = ip_frame(STRANGER, mac(n), 1, size, tcp=tcp)
        frame = (frame + struct.pack("!I", self.serial)).ljust(size, b"s")
        self.serial += 1
        metadata = {
            "flags": PARTIAL,
            "csum_start": 34,
            "csum_offset": 16 if tcp else 6,
            "gso_type": TCPV4 if tcp else UDP_L4,
            "gso_size": mss,
        }
        expected = self.bench.segment(frame, **metadata)
        self.put(n, frame, expected, **metadata)
        self.push(n)

    @rule(
        n=app_numbers,
        metadata=st.sampled_from(
            [
                {"flags": PARTIAL, "csum_start": 9999, "csum_offset": 16},
                {"gso_type": TCPV4, "gso_size": 0},
                {"gso_type": lib.PACKET_GSO_TCPV6, "gso_size": 100},
                {"gso_type": 77, "gso_size": 100},
            ]
        ),
    )
    def send_nonsense(self, n: int, metadata: dict[str, int]) -> None:
        if n in self.apps:
            frame = ip_frame(STRANGER, mac(n), 1, 400, tcp=True).ljust(400, b"n")
            self.put(n, frame, [], **metadata)
            self.push(n)

    @precondition(lambda self: self.has_pools)
    @rule(n=app_numbers, to=app_numbers)
    def send_to_pool(self, n: int, to: int) -> None:
        """Inside the card, when it switches; what it has sent before goes first."""
        if n not in self.apps or to not in self.apps or n == to:
            return
        self.settle()
        frame = ip_frame(mac(to), mac(n), 3, 90, tcp=False)
        frame = (frame + struct.pack("!I", self.serial)).ljust(90, b"p")
        self.serial += 1
        given = self.given
        stays = self.mode == "pools" and self.vlans[n] == self.vlans[to]
        self.put(n, frame, [frame])
        if stays and self.given > given:
            self.to_leave[n].pop()
            self.switched += 1
            self.arrived += 1
            self.underway[frame] += 1
        self.push(n)
        self.step_wire()

    def push(self, n: int) -> None:
        harness = self.apps[n]
        harness.app.ops.push(harness.struct)

    @rule(n=app_numbers)
    def breathe(self, n: int) -> None:
        """One app takes what has come, and sends."""
        if n in self.apps:
            self.apps[n].breathe()
            self.take(n)

    def take(self, n: int) -> None:
        """Look at what an app has handed on."""
        for frame in self.apps[n].received():
            self.got += 1
            assert self.underway[frame] > 0, "changed, or twice"
            self.underway[frame] -= 1
            if len(frame) >= 60 and frame[23] == 17:
                flow, (serial,) = frame[29], struct.unpack_from("!I", frame, 42)
                key = self.births[n], flow
                assert serial > self.highest[key], "not in its order"
                self.highest[key] = serial

    @rule()
    def hoard_packets(self) -> None:
        """Somebody takes all packets that there are: the pool is dry."""
        harness = self.apps[next(iter(self.apps))]
        self.flush()
        while packet := lib.engine_packet_alloc(harness.freelist, 60):
            self.hoard.append(packet)

    @rule()
    def give_back(self) -> None:
        if self.hoard:
            array = ffi.new("struct packet *[]", self.hoard)
            lib.pool_return(self.it.pool.pool, array, len(self.hoard))
            self.hoard = []

    @rule()
    def flush(self) -> None:
        """Packets that workers keep to themselves are there for all."""
        for harness in self.apps.values():
            lib.freelist_flush(harness.freelist)

    @rule()
    def settle(self) -> None:
        """Let all move until nothing does; compare the accounts."""
        self.give_back()
        self.flush()
        moved = True
        while moved:
            moved = bool(self.it.wire.breathe() + self.look_at_wire())
            for n, harness in self.apps.items():
                moved |= bool(harness.breathe())
                self.take(n)
                lib.freelist_flush(harness.freelist)
        card = self.it.card.counters
        drops = sum(v for name, v in card.items() if name.startswith("drop"))
        drops += self.drops
        for n in self.apps:
            drops += sum(self.state(n).counters[i] for i in DROPS)
        ended = self.got + self.left + self.switched + self.discarded + drops
        assert self.arrived + self.given == ended + self.waiting
        for name in ("spoofed", "bad-descriptor", "bad-length", "no-packet"):
            assert card[f"drop-tx-{name}"] == 0
        for queue in self.to_leave.values():
            queue.clear()
        for n in self.apps:
            assert self.state(n).counters[QUEUE_COUNTERS.index("drop-rx-too-long")] == 0
            assert (
                self.state(n).counters[QUEUE_COUNTERS.index("drop-rx-bad-frame")] == 0
            )

    # -- laws --------------------------------------------------------------------------

    def state(self, n: int) -> Any:
        return self.apps[n].app.state

    @invariant()
    def no_packet_is_in_two_places(self) -> None:
        places = list(self.hoard)
        for n, harness in self.apps.items():
            rx, tx = self.state(n).rx, self.state(n).tx
            places += [rx.packets[i] for i in range(rx.filled)]
            sent = [
                tx.packets[(tx.clean + i) % RING]
                for i in range((tx.next - tx.clean) % 2**32)
            ]
            places += [packet for packet in sent if packet]
            assert sent.count(ffi.NULL) == tx.holes
            for link in (harness.inputs[0], harness.outputs[0]):
                places += [
                    link.ring[(link.read + i) % lib.LINK_CAPACITY]
                    for i in range((link.write - link.read) % 2**32)
                ]
            for stack in harness.freelist.classes:
                places += list(stack.packets[0 : stack.npackets])
        addresses = {int(ffi.cast("uintptr_t", packet)) for packet in places}
        assert len(addresses) == len(places), "a packet is in two places"
        assert len(places) == self.it.pool.total - self.it.pool.free

    @invariant()
    def each_descriptor_is_the_cards_or_ours(self) -> None:
        for n, harness in self.apps.items():
            app: Any = harness.app
            rx, tx = self.state(n).rx, self.state(n).tx
            nic, queue = self.it.nic, app.number
            rdh, rdt = nic.read("RDH", queue), nic.read("RDT", queue)
            tdh, tdt = nic.read("TDH", queue), nic.read("TDT", queue)
            assert max(rdh, rdt, tdh, tdt) < RING
            if rx.filled == RING:
                assert rdt == rx.given % RING
                assert 0 <= (rx.given - rx.next) % 2**32 < RING
                done = (rdh - rx.next) % RING
                assert done <= (rx.given - rx.next) % 2**32
                for i in range((rdt - rdh) % RING):
                    at = (rdh + i) % RING
                    assert rx.ring[2 * at + 1] == 0, "posted as done"
                    iova = rx.packets[at].iova + 64 + lib.PACKET_HEADROOM
                    assert rx.ring[2 * at] == iova
            else:
                assert rdh == rdt == 0
            assert tdt == tx.next % RING
            waiting, outstanding = (tdt - tdh) % RING, (tx.next - tx.clean) % 2**32
            assert waiting <= outstanding < RING
            for i in range(waiting):
                assert not tx.ring[2 * ((tdh + i) % RING) + 1] >> 32 & 1

    @invariant()
    def the_card_touches_only_what_it_was_given(self) -> None:
        counters = self.it.card.counters
        for name in ("dma-read-unmapped", "dma-write-unmapped", "bad-ring"):
            assert counters[name] == 0, name


DriverLaws.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestDriverLaws = DriverLaws.TestCase
