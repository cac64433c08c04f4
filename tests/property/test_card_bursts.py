"""The short way of bursts does what the long way does.

Two software cards, one of which takes every frame the long way by itself, get the same
from their hosts and wires. After every step they must be alike: all memory of the host,
all registers, all counters, all that has come out on the wire.
"""

import struct
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from snabb_py._native import ffi, lib
from snabb_py.nic.model82599 import MAC_PREFIX, Card
from tests.card_host import (
    CONTEXT,
    DATA,
    EOP,
    IFCS,
    IXSM,
    RS,
    TXSM,
    VLE,
    CardHost,
)

MAC = MAC_PREFIX + b"\x01"
OTHER = bytes.fromhex("020000000001")
#: Two neighbours for the card, which lie apart in the host.
SPLIT = 0x50_0000_0000
PIECE = 4096
PATTERN = 0xC3
N = 96  #: descriptors of a ring
QUEUES = 2


def balanced(packet: Packet) -> Packet:
    """Return a packet with a payload that makes its UDP checksum right as it is."""
    data = bytearray(bytes(packet))
    ip, udp = data[14:34], data[34 : 34 + int.from_bytes(data[38:40], "big")]
    total = sum(struct.unpack("!4H", ip[12:20])) + 17 + len(udp)
    total += sum(struct.unpack(f"!{len(udp) // 2}H", udp))
    last = int.from_bytes(udp[-2:], "big")
    struct.pack_into("!H", data, 32 + len(udp), (last - total) % 0xFFFF)
    return Raw(bytes(data))


def frames_of_all_kinds() -> list[bytes]:
    """Return frames: the first of them are what the short way is for."""
    mac = Ether(dst=MAC.hex(":"), src=OTHER.hex(":"))
    v4, v6 = IP(src="192.0.2.1", dst="192.0.2.2"), IPv6(src="fd::1", dst="fd::2")
    common = [
        mac / v4 / UDP(sport=port, dport=7) / Raw(bytes(range(n)))
        for port, n in enumerate((18, 18, 18, 19, 20, 36, 37, 38, 100, 200), 1000)
    ]
    common += [mac / v4 / TCP(sport=n) / Raw(bytes(n)) for n in (6, 7, 10, 11, 85)]
    common += [mac / v4 / UDP() / Raw(b"\x01" * n) for n in (470, 982, 1471, 1472)]
    rare = [
        mac / v4 / UDP(chksum=0) / Raw(b"no checksum at all"),
        balanced(mac / v4 / UDP(chksum=0) / Raw(b"none, and it is right!")),
        balanced(mac / IP(flags=1) / UDP(chksum=1) / Raw(b"the first of fragments")),
        balanced(mac / IP(frag=5) / UDP(chksum=1) / Raw(b"the last of fragments.")),
        balanced(mac / IP(len=26) / UDP(chksum=1, len=6) / Raw(b"no room for UDP...")),
        mac / v4 / UDP(chksum=1) / Raw(b"a wrong one of UDP"),
        mac / v4 / TCP(chksum=1) / Raw(b"and one of TCP"),
        mac / IP(chksum=1) / UDP() / Raw(b"a wrong one of IP."),
        mac / IP(frag=1) / UDP() / Raw(b"a fragment, though"),
        mac / IP(ihl=5, len=400) / UDP() / Raw(b"not all of it there"),
        mac / IP(len=24) / UDP() / Raw(b"too short for UDP."),
        mac / IP(tos=0xFF, ttl=1) / UDP() / Raw(b"still common......"),
        mac / v4 / UDP() / Raw(b"padded"),
        mac / v4 / ICMP(),
        mac / v6 / UDP() / Raw(b"version 6"),
        mac / v6 / TCP(),
        mac / Dot1Q(vlan=5) / v4 / UDP() / Raw(b"tagged"),
        mac / Dot1Q(type=0x88A8, vlan=5) / Dot1Q(vlan=6) / v4 / UDP(),
        mac / ARP(),
        Ether(dst="ff:ff:ff:ff:ff:ff", src=OTHER.hex(":"))
        / v4
        / UDP()
        / Raw(b"x" * 20),
        Ether(dst="01:00:5e:00:00:01", src=OTHER.hex(":"))
        / v4
        / UDP()
        / Raw(b"x" * 20),
        Ether(dst="02:00:00:00:00:99", src=OTHER.hex(":"))
        / v4
        / UDP()
        / Raw(b"x" * 20),
        Ether(dst="01:80:c2:00:00:01", src=OTHER.hex(":"), type=0x8808)
        / Raw(bytes.fromhex("0001 0002") + bytes(42)),
        mac / Raw(bytes(1501)),
        mac / Raw(bytes(3000)),
        mac / Raw(b"\0" * 3),
    ]
    return [bytes(frame) for frame in common + rare]


FRAMES = frames_of_all_kinds()
COMMON = 19
#: Places of a buffer and ways to send, the plain ones first.
PLACES = ("plain", "odd", "apart", "end", "nowhere")
WAYS = (
    "plain",
    *("context", "pieces", "apart", "nowhere", "short", "least", "bad", "tag"),
    *("checksums", "legacy"),
)


def draw(seed: int, n: int, choices: int, plain: int) -> list[int]:
    """Return n of the numbers below `choices`; in most draws most are below `plain`."""
    random = Random(seed)  # noqa: S311 - no secret
    share = random.choice((0, 0.03, 0.3))
    return [
        random.randrange(choices if random.random() < share else plain)
        for _ in range(n)
    ]


REGISTERS = (
    "FCTRL",
    "HLREG0",
    "VLNCTRL",
    "MRQC",
    "RXCSUM",
    "MTA",
    "TDWBAL",
    "RXPBSIZE",
)


class Side:
    """A card and its host."""

    def __init__(self, settings_of: dict[str, Any], *, bursts: bool) -> None:
        card = Card(bursts=bursts, paced=settings_of["paced"])
        self.host = host = CardHost(card=card, memory=1 << 20, packets=2048)
        ffi.memmove(host.memory, bytes([PATTERN]) * host.size, host.size)
        self.pieces = [ffi.new("uint8_t[]", bytes([PATTERN]) * 3 * PIECE) for _ in "ab"]
        for i, piece in enumerate(self.pieces):
            card.map(SPLIT + i * PIECE, piece + PIECE, PIECE)
        host.start(promiscuous=settings_of["promiscuous"])
        host.set("MTA", 0xFFFFFFFF)
        host.set("MCSTCTRL", 4)
        if settings_of["rss"]:
            for i in range(10):
                host.set("RSSRK", 0x9E3779B9 * (i + 1) & 0xFFFFFFFF, i)
            for i in range(32):
                host.set("RETA", 0x01000100, i)
            host.set("MRQC", 1 | settings_of["rss"])
            host.set("RXCSUM", 1 << 13)
        self.rx = [
            host.receive_queue(
                i,
                n=N,
                size=settings_of["size"],
                kind=settings_of["kind"],
                drop=settings_of["drop"],
                strip=settings_of["strip"],
                post=False,
            )
            for i in range(QUEUES if settings_of["rss"] else 1)
        ]
        self.tx = host.transmit_queue(0, n=N)
        self.memory_of_tx = [host.allocate(4096, 64) for _ in range(N)]
        self.head = host.allocate(64)
        self.out: list[bytes] = []

    def close(self) -> None:
        self.host.__exit__(None, None, None)

    def post(self, seed: int, n: int) -> None:
        """Give descriptors to all queues; not all of their addresses are buffers'."""
        for rx in self.rx:
            for place in draw(seed, n, len(PLACES), 1):
                address = {
                    "odd": rx.buffers[rx.tail] + 2,
                    "apart": SPLIT + PIECE - 30 + 2 * n,
                    "end": SPLIT + 2 * PIECE - 40,
                    "nowhere": 0x10,
                }.get(PLACES[place], rx.buffers[rx.tail])
                self.host.poke(rx.ring + 16 * rx.tail, struct.pack("<QQ", address, 0))
                rx.tail = (rx.tail + 1) % rx.n
            self.host.set("RDT", rx.tail, rx.number)

    def send(self, seed: int, n: int) -> None:
        """Fill transmit descriptors and ring."""
        kinds = draw(seed, n, len(FRAMES), COMMON)
        for kind, way in zip(kinds, draw(~seed, n, len(WAYS), 1), strict=True):
            self.put(kind, WAYS[way], report=(seed >> kind) & 1)
        self.tx.ring_doorbell()

    def put(self, kind: int, way: str, *, report: int) -> None:
        tx = self.tx
        at, frame = self.memory_of_tx[tx.tail] + 3 * (kind % 2), FRAMES[kind]
        self.host.poke(at, frame)
        n, high = len(frame), DATA | IFCS | EOP | report * RS | len(frame) << 46
        if way == "context":
            tx.put(20 | 14 << 9 | 7 << 16, CONTEXT | 1 << 10)
            return
        if way == "pieces":
            tx.put(at, 12 | DATA | IFCS | n << 46)
            at, n = at + 12, n - 12
        at = {"apart": SPLIT + PIECE - 33, "nowhere": 0x10}.get(way, at)
        n = {"short": 17 + kind, "least": 33, "bad": 16}.get(way, n)
        high |= {"tag": VLE, "checksums": IXSM | TXSM}.get(way, 0)
        if way == "legacy":
            high = EOP | IFCS | report * RS
        tx.put(at, n | high)

    def step(self, ns: int, *, take: bool) -> None:
        self.host.step(ns)
        if take:
            self.out += self.host.wire.received()

    def seen(self) -> dict[str, Any]:
        """Return all that can be seen of the card."""
        host = self.host
        registers = ffi.buffer(lib.model_registers(host.card.card), lib.MODEL_BAR_SIZE)
        return {
            "memory": bytes(ffi.buffer(host.memory, host.size)),
            "pieces": [bytes(ffi.buffer(p, 3 * PIECE)) for p in self.pieces],
            "registers": bytes(registers),
            "counters": host.counters,
            "out": self.out,
            "waiting": int(lib.engine_app_held(host.wire.struct)),
        }


SEEDS = st.integers(0, 2**32)
ACTIONS = st.one_of(
    st.tuples(st.just("arrive"), SEEDS, st.integers(0, 150)),
    st.tuples(st.just("post"), SEEDS, st.integers(0, N - 1)),
    st.tuples(st.just("post"), SEEDS, st.just(N - 1)),
    st.tuples(st.just("send"), SEEDS, st.integers(0, N // 2 - 1)),
    st.tuples(st.just("step"), st.integers(0, 20_000), st.booleans()),
    st.tuples(st.just("set"), st.sampled_from(REGISTERS), st.integers(0, 31)),
    st.tuples(st.just("unmap")),
)
SETTINGS = st.fixed_dictionaries(
    {
        "paced": st.booleans(),
        "promiscuous": st.booleans(),
        "rss": st.sampled_from([0, 0, 1 << 16 | 1 << 22, 1 << 16 | 1 << 17 | 1 << 20]),
        "size": st.sampled_from([1024, 2048]),
        "kind": st.sampled_from([1, 1, 1, 0]),
        "drop": st.booleans(),
        "strip": st.booleans(),
    }
)


def act(side: Side, action: tuple[Any, ...]) -> None:
    """Do one thing to a card."""
    host = side.host
    match action:
        case "arrive", seed, n:
            kinds = draw(seed, n, len(FRAMES), COMMON)
            host.wire.send([FRAMES[kind] for kind in kinds])
            side.step(1000, take=False)
        case "kinds", kinds:
            host.wire.send([FRAMES[kind] for kind in kinds])
            side.step(1000, take=False)
        case "post", seed, n:
            side.post(seed, n)
        case "send", seed, n:
            side.send(seed, n)
        case "step", ns, take:
            side.step(ns, take=take)
        case "set", "TDWBAL", bit:
            host.set("TDWBAL", (side.head & 0xFFFFFFFC) | bit & 1)
            host.set("TDWBAH", side.head >> 32)
        case "set", "VLNCTRL", bit if bit < 8:  # IPv4 is called a tag
            host.set("VLNCTRL", 0x0800)
        case "set", name, bit:
            host.set(name, host.get(name) ^ 1 << bit)
        case ("unmap",):
            host.card.unmap(SPLIT, PIECE)


def compare(settings_of: dict[str, Any], actions: list[tuple[Any, ...]]) -> None:
    """Do it all to two cards, one of which knows no bursts."""
    sides = [Side(settings_of, bursts=bursts) for bursts in (True, False)]
    try:
        for action in [("post", 0, N - 1), *actions, ("step", 100_000, True)]:
            for side in sides:
                act(side, action)
            short, long = (side.seen() for side in sides)
            for name, value in long.items():
                assert short[name] == value, name
    finally:
        for side in sides:
            side.close()


@settings(max_examples=150)
@given(SETTINGS, st.lists(ACTIONS, min_size=1, max_size=12))
def test_bursts_do_what_single_frames_do(
    settings_of: dict[str, Any], actions: list[tuple[Any, ...]]
) -> None:
    compare(settings_of, actions)


@pytest.mark.parametrize("rss", [0, 1 << 16 | 1 << 22, 1 << 17])
def test_every_kind_of_frame(rss: int) -> None:
    """Each alone, and each in the middle of a burst."""
    settings_of = {
        "paced": True,
        "promiscuous": False,
        "rss": rss,
        "size": 2048,
        "kind": 1,
        "drop": False,
        "strip": True,
    }
    compare(
        settings_of,
        [
            action
            for kind in range(len(FRAMES))
            for action in (("kinds", [kind]), ("kinds", [0, kind, 0]), ("post", 0, 4))
        ]
        + [("set", "VLNCTRL", 0), ("kinds", [0, COMMON, 0])],
    )
