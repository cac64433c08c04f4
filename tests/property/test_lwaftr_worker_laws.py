"""An lwAFTR of several workers: one softwire's flows in order, none lost.

With the engine's real workers, both ways at once, fragments included, and while the
binding table changes; and what the workers share: next hops, rates, identifications.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import Ether

from snabb_py._native import lib
from snabb_py.apps.basic import Join, Source
from snabb_py.apps.traffic import Checker, Generator, Template
from snabb_py.cli.forward import is_done
from snabb_py.cli.interfaces import Interface
from snabb_py.cli.lwaftr_ends import on_one_queue
from snabb_py.cli.lwaftr_network import add_lwaftrs, build, give_config, join
from snabb_py.cli.lwaftr_options import app_drops
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.engine.memory import Pool
from snabb_py.engine.resources import Registry
from snabb_py.lwaftr.conf import read
from snabb_py.lwaftr.conf_types import ErrorRateLimiting, LwaftrConfig
from snabb_py.lwaftr.lwaftr import Lwaftr, Share
from snabb_py.lwaftr.made_up import MadeUpTable
from tests.captures import classic, frames_in
from tests.harness import Harness
from tests.packet_bench import SECOND, ethernet, ipv4, ipv6
from tests.unit.test_lwaftr_spread import cut

WORKERS = 2
FLOWS, DATAGRAMS = 24, 60
#: The only softwire: all ports of an address.
ADDRESS, B4, BR = "193.5.1.0", "fc00:1:2:3::", "fc00::100"
MF = 0x2000


@pytest.fixture
def lwaftr(tmp_path: Path) -> LwaftrConfig:
    return configure(tmp_path, 1)


def configure(directory: Path, naddresses: int) -> LwaftrConfig:
    path = directory / "lwaftr.conf"
    path.write_text(MadeUpTable(naddresses, psid_length=0).statements())
    return read(path)


# -- the law -------------------------------------------------------------------


def udp(flow: int, number: int, size: int) -> bytes:
    """Return a datagram without a checksum, its number at its end."""
    ports = (1000 + flow).to_bytes(2, "big") * 2
    return ports + (size + 12).to_bytes(2, "big") + bytes(2 + size) + stamp(number)


def stamp(number: int) -> bytes:
    return number.to_bytes(4, "big")


def pieces(packet: dict[str, Any], payload: bytes, size: int) -> list[bytes]:
    """Return an IPv4 packet, cut up where it is longer (RFC 791, 3.2)."""
    return [
        ipv4(
            payload[at : at + size],
            field=at // 8 | (MF if at + size < len(payload) else 0),
            **packet,
        )
        for at in range(0, len(payload), size)
    ]


def in_tunnel(packet: bytes) -> bytes:
    return ipv6(packet, src=B4, dst=BR)


def from_internet(dice: random.Random, flow: int, number: int) -> list[bytes]:
    packet = {"src": f"203.0.113.{flow}", "dst": ADDRESS, "id": number}
    payload = udp(flow, number, dice.randrange(900))
    fragments = pieces(packet, payload, dice.choice((2000, 2000, 304)))
    dice.shuffle(fragments)
    return [ethernet(fragment) for fragment in fragments]


def from_b4(dice: random.Random, flow: int, number: int) -> list[bytes]:
    """Return the same, in a tunnel: fragments inside, fragments of it, or whole."""
    packet = {"dst": f"203.0.113.{flow}", "src": ADDRESS, "id": number}
    payload = udp(flow, number, dice.randrange(900))
    fragments = pieces(packet, payload, dice.choice((2000, 2000, 2000, 304)))
    packets = [in_tunnel(fragment) for fragment in fragments]
    if len(packets) == 1 and dice.random() < 0.4:
        ident = flow << 16 | number
        packets = [part for _, part in cut(packets[0], 304, ident)]
    dice.shuffle(packets)
    return [ethernet(packet) for packet in packets]


def interleave(dice: random.Random, flows: Sequence[list[bytes]]) -> Iterator[bytes]:
    """Yield all frames, those of a flow in their order."""
    turns = [i for i, frames in enumerate(flows) for _ in frames]
    dice.shuffle(turns)
    rest = [iter(frames) for frames in flows]
    for turn in turns:
        yield next(rest[turn])


def traffic(make: Any, seed: int) -> list[bytes]:
    dice = random.Random(seed)  # noqa: S311 - repeatable
    flows = [
        [frame for number in range(DATAGRAMS) for frame in make(dice, flow, number)]
        for flow in range(1, FLOWS + 1)
    ]
    return list(interleave(dice, flows))


def numbers(frames: Sequence[bytes], peer: int) -> dict[bytes, list[int]]:
    """Return the numbers of each flow, by its peer's address, which is at `peer`."""
    found = defaultdict(list)
    for frame in frames:
        found[frame[peer : peer + 4]].append(int.from_bytes(frame[-4:], "big"))
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("on_a_stick", [False, True])
def test_flows_are_in_order_and_whole(
    seed: int, on_a_stick: bool, lwaftr: LwaftrConfig, tmp_path: Path
) -> None:
    v4, v6 = traffic(from_internet, seed), traffic(from_b4, seed)
    if on_a_stick:
        captures = {"stick": list(interleave(random.Random(seed), [v4, v6]))}  # noqa: S311
    else:
        captures = {"v4": v4, "v6": v6}
    words = {}
    for port, frames in captures.items():
        (tmp_path / port).write_bytes(classic(frames))
        words[port] = f"pcap:{tmp_path / port},{tmp_path / port}-out"
    network = build(lwaftr, words, ring_size=1024, compat=False, nworkers=WORKERS)
    directions = network.directions
    with Engine(workers=WORKERS, packets=32768, huge=False) as engine:
        engine.commit(network.config)
        engine.main(duration=60, done=lambda: is_done(engine, list(directions)))
        assert engine.drain()
        with engine.paused():
            drops = [d.read(engine, is_last=True).drops for d in directions]
            shares = [engine.apps[f"lwaftr{i}"].counters for i in range(WORKERS)]
    assert drops == [{}] * len(directions)
    assert all(share["in-ipv4-packets"] > 0 for share in shares)
    assert all(share["in-ipv6-packets"] > 0 for share in shares)
    out = [
        frame
        for port in captures
        for frame in frames_in((tmp_path / f"{port}-out").read_bytes())
    ]
    outward = [frame for frame in out if frame[12:14] == b"\x08\x00"]
    inward = [frame for frame in out if frame[12:14] == b"\x86\xdd"]
    expected = {
        IPv4Address(f"203.0.113.{flow}").packed: list(range(DATAGRAMS))
        for flow in range(1, FLOWS + 1)
    }
    assert numbers(outward, peer=30) == expected
    assert numbers(inward, peer=66) == expected


# -- while the binding table changes ---------------------------------------------

NEXT4, NEXT6 = IPv4Address("10.10.10.1"), IPv6Address("fc00::1")
ROUTER, OTHER = (bytes.fromhex(f"0200000003{n}") for n in ("01", "02"))


def asking(lwaftr: LwaftrConfig) -> LwaftrConfig:
    """Return the same with next hops that are asked for."""
    (queue,) = lwaftr.instances[0].queues
    ends = [
        replace(end, next_hop_ip=next_hop, next_hop_mac=None)
        for end, next_hop in ((queue.external, NEXT4), (queue.internal, NEXT6))
    ]
    return on_one_queue(lwaftr, *ends)


def arp(operation: int, mac: bytes, target: IPv4Address) -> bytes:
    """Return ARP from the next hop (RFC 826)."""
    kind = bytes.fromhex("0806 0001 0800 06 04") + operation.to_bytes(2, "big")
    return b"\xff" * 6 + mac + kind + mac + NEXT4.packed + bytes(6) + target.packed


def advertisement(mac: bytes, target: IPv6Address) -> bytes:
    """Return an answer of the next hop (RFC 4861, 4.4)."""
    text = mac.hex(":")
    message = ICMPv6ND_NA(tgt=str(NEXT6)) / ICMPv6NDOptDstLLAddr(lladdr=text)
    return bytes(Ether(src=text) / IPv6(src=str(NEXT6), dst=str(target)) / message)


def add_side(network: Config, side: str, frames: list[bytes], worker: int) -> Interface:
    """Add an interface: a generator for each flow, a checker of all, a next hop."""
    network.app(f"{side}-in", Join, worker=worker)
    network.app(f"{side}-out", Checker, worker=worker)
    network.app(
        f"{side}-hop", Source, worker=worker, frame=ANSWERS[side], rate_pps=1000
    )
    network.link(f"{side}-hop.tx -> {side}-in.hop")
    for i, frame in enumerate(frames):
        name = f"{side}-flow{i}"
        network.app(
            name, Generator, worker=worker, frames=[Template(frame)], stream=i,
            rate_pps=5000,
        )  # fmt: skip
        network.link(f"{name}.tx -> {side}-in.rx{i}")
    return Interface(side, f"{side}-in.tx", f"{side}-out.rx")


def stamped(flow: int) -> bytes:
    """Return the payload of a flow's datagrams, with room for a stamp."""
    return udp(flow, 0, 60)


ANSWERS = {
    "v4": arp(2, ROUTER, IPv4Address("10.10.10.10")),
    "v6": advertisement(ROUTER, IPv6Address(BR)),
}


def network_of(lwaftr: LwaftrConfig, nflows: int) -> Config:
    network = Config()
    apps = add_lwaftrs(network, on_a_stick=False, compat=False, nworkers=WORKERS)
    give_config(network, lwaftr, apps)
    peers = [f"203.0.113.{flow}" for flow in range(1, nflows + 1)]
    v4 = [
        ethernet(ipv4(stamped(i), src=peer, dst=ADDRESS))
        for i, peer in enumerate(peers)
    ]
    v6 = [
        ethernet(in_tunnel(ipv4(stamped(i), src=ADDRESS, dst=peer)))
        for i, peer in enumerate(peers)
    ]
    for worker, (side, frames) in enumerate((("v4", v4), ("v6", v6))):
        end = add_side(network, side, frames, worker)
        join(network, side, end, worker, apps)
    return network


def knows_next_hops(app: Any) -> bool:
    return all(n.state != lib.NEIGHBOR_INCOMPLETE for n in app.state.neighbor)


@pytest.mark.parametrize("is_asking", [False, True])
def test_a_new_binding_table_disturbs_no_flow(is_asking: bool, tmp_path: Path) -> None:
    make = asking if is_asking else replace
    lwaftrs = [f"lwaftr{i}" for i in range(WORKERS)]
    with Engine(workers=WORKERS, packets=32768, huge=False) as engine:
        engine.commit(network_of(make(configure(tmp_path, 1)), 0))
        apps = [engine.apps[name].instance for name in lwaftrs]
        engine.main(duration=20, done=lambda: all(map(knows_next_hops, apps)))
        for naddresses in range(2, 9):
            config = make(configure(tmp_path, naddresses))
            actions = engine.commit(network_of(config, FLOWS))
            assert actions.reconfigure == lwaftrs
            assert not actions.restart
            engine.main(duration=0.1)
        sent = {
            side: [
                engine.apps[f"{side}-flow{i}"].instance.state.sent for i in range(FLOWS)
            ]
            for side in ("v4", "v6")
        }
        engine.drain()
        assert app_drops(engine, lwaftrs) == {}
        for side, other in (("v4", "v6"), ("v6", "v4")):
            instance = engine.apps[f"{side}-out"].instance
            assert isinstance(instance, Checker)
            counters = dict(engine.apps[f"{side}-out"].counters)
            assert counters.pop("foreign") <= is_asking  # if it asks, then once
            assert not any(counters.values()), counters
            for flow, stream in instance.streams.items():
                assert stream.packets >= sent[other][flow] > 0
            assert len(instance.streams) == FLOWS


# -- what workers share ------------------------------------------------------------


class Pair:
    """Two lwAFTRs of one, each in a harness, and their next hop, which is asked for."""

    def __init__(self, lwaftr: LwaftrConfig) -> None:
        (self.queue,) = asking(lwaftr).instances[0].queues
        self.pool = Pool(4096, 0, 2, huge=False)
        registry = Registry(self.pool)
        self.first, self.second = (
            Harness(
                Lwaftr(lwaftr, self.queue, share=Share(i, 2)),
                registry=registry, pool=self.pool, owner=f"lwaftr{i}",
            )
            for i in range(2)
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.first.close()
        self.second.close()
        assert self.pool.free == self.pool.total
        self.pool.close()


def test_next_hops_are_asked_for_once_and_known_to_all(lwaftr: LwaftrConfig) -> None:
    """The second worker's frames wait until the first one knows, in their order."""
    out = [
        ethernet(in_tunnel(ipv4(udp(1, n, 40), src=ADDRESS, dst="203.0.113.1")))
        for n in range(5)
    ]
    with Pair(lwaftr) as pair:
        first, second = pair.first, pair.second
        for harness in (first, second):
            harness.tick()
        assert [frame[12:14] for frame in first.received()] == [b"\x08\x06"]
        assert [frame[12:14] for frame in first.received(1)] == [b"\x86\xdd"]
        second.send(out, port=lib.LWAFTR_V6)
        second.worker.now += 10 * SECOND
        second.breathe()
        second.tick()
        assert second.received() == second.received(1) == []

        ours = IPv4Address(pair.queue.external.ip)
        first.send([arp(2, ROUTER, ours)])
        first.breathe()
        first.tick()
        second.breathe()
        frames = second.received()
        assert [frame[:6] for frame in frames] == [ROUTER] * 5
        assert [frame[-4:] for frame in frames] == [stamp(n) for n in range(5)]

        # It says itself that it is somewhere else now (RFC 826; RFC 5227, 2.4).
        first.send([arp(1, OTHER, NEXT4)])
        first.breathe()
        first.tick()
        second.send(out[:1], port=lib.LWAFTR_V6)
        second.breathe()
        assert [frame[:6] for frame in second.received()] == [OTHER]
        assert not [name for name in second.counters if "-arp-" in name]


@given(
    packets=st.integers(0, 1000),
    period=st.floats(0.1, 1000),
    count=st.integers(1, 64),
)
def test_shares_keep_the_rate(packets: int, period: float, count: int) -> None:
    shares = [Share(i, count) for i in range(count)]
    limit = ErrorRateLimiting(packets, period)
    parts = [share.of_rate(limit) for share in shares]
    together = sum(n / seconds for n, seconds in parts)
    assert together == pytest.approx(packets / period)
    assert sum(n for n, _ in parts) < packets + count
    assert all(seconds >= period for _, seconds in parts)


def test_fragments_of_a_tunnel_have_identifications_of_their_own(
    lwaftr: LwaftrConfig,
) -> None:
    """Whichever worker has cut them (RFC 8200, 4.5)."""
    frame = ethernet(ipv4(bytes(1900), dst=ADDRESS))
    queue = lwaftr.instances[0].queues[0]
    found: list[bytes] = []
    for i in range(3):
        app = Lwaftr(lwaftr, queue, share=Share(i, 3), fragment_ids=(7, 2**32 - 3))
        with Harness(app) as harness:
            harness.send([frame] * 6)
            harness.breathe()
            out = harness.received(port=lib.LWAFTR_V6)
            assert len(out) == 12
            found += {frame[58:62] for frame in out}
    assert len(found) == len(set(found)) == 18
