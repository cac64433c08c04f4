"""Flows over several queues of a card: where they go, and that they stay in order.

The judge of where is a Toeplitz hash written as its definition words it, bit by bit.
"""

import struct
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from snabb_py.apps.basic import Forward, Join
from snabb_py.apps.traffic import Checker, Generator, udp_frames
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.errors import ConfigError
from snabb_py.nic.intel82599 import Intel82599
from snabb_py.nic.intel82599_config import SYMMETRIC_KEY, CardConfig, PoolConfig
from snabb_py.nic.model82599 import Card, SoftwareCard
from tests.driven_card import DrivenCard

#: The key of the field's test vectors, "Verifying the RSS hash calculation".
KEY = bytes.fromhex(
    "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
)


def toeplitz(key: bytes, data: bytes) -> int:
    """Return the hash: for each bit that is set, the key's 32 bits from there on."""
    bits = int.from_bytes(key, "big")
    result = 0
    for i in range(8 * len(data)):
        if data[i // 8] & 0x80 >> i % 8:
            result ^= bits >> (8 * len(key) - 32 - i) & 0xFFFFFFFF
    return result


def flow_of(frame: bytes) -> bytes:
    """Return what the hash is about: addresses, and ports of TCP and UDP."""
    packet = Ether(frame)
    ip = packet[IP] if IP in packet else packet[IPv6]
    raw = bytes(ip)
    is_fragment = IP in packet and (ip.frag or "MF" in str(ip.flags))
    addresses = raw[12:20] if IP in packet else raw[8:40]
    if not is_fragment and (TCP in packet or UDP in packet):
        layer = packet[TCP] if TCP in packet else packet[UDP]
        return addresses + struct.pack("!HH", layer.sport, layer.dport)
    return addresses


def test_the_judge_agrees_with_the_published_vectors() -> None:
    for source, destination, ports, addresses, both in (
        ("66.9.149.187", "161.142.100.80", (2794, 1766), 0x323E8FC2, 0x51CCC178),
        ("199.92.111.2", "65.69.140.83", (14230, 4739), 0xD718262A, 0xC626B0EA),
        ("24.19.198.95", "12.22.207.184", (12898, 38024), 0xD2D0A5DE, 0x5C2B394A),
    ):
        data = bytes(int(n) for n in f"{source}.{destination}".split("."))
        assert toeplitz(KEY, data) == addresses
        assert toeplitz(KEY, data + struct.pack("!HH", *ports)) == both


def some_frames(count: int = 40) -> list[bytes]:
    """Return frames of many flows of all kinds."""
    frames = []
    for n in range(count):
        four = IP(src=f"10.0.{n}.7", dst=f"192.168.{n * 7 % 256}.{n}")
        six = IPv6(src=f"fd00::{n:x}:1", dst=f"fd00:{n * 13:x}::2")
        layers: list[Packet] = [
            four / TCP(sport=1000 + 3 * n, dport=80),
            four / UDP(sport=53, dport=5000 + n),
            six / TCP(sport=22, dport=40000 + 11 * n),
            six / UDP(sport=n, dport=2 * n),
            four / ICMP(),
            IP(src=f"10.9.0.{n}", dst="10.8.0.1", flags="MF") / UDP(sport=n, dport=1),
            Dot1Q(vlan=n) / four / TCP(sport=n, dport=443),
        ]
        frames += [
            bytes(Ether(dst="02:00:00:00:00:02") / layer / Raw(b"%07d" % n * 9))
            for layer in layers
        ]
    return frames


def received(it: DrivenCard) -> dict[int, list[bytes]]:
    """Return what has come by queue; those with nothing are left out."""
    queues = {}
    for n, harness in enumerate(it.apps):
        app: Any = harness.app
        if frames := harness.received() + it.received(n):
            queues[app.number] = frames
    return queues


def reversed_flow(frame: bytes) -> bytes:
    packet = Ether(frame)
    ip = packet[IP] if IP in packet else packet[IPv6]
    ip.src, ip.dst = ip.dst, ip.src
    for layer in (TCP, UDP):
        if layer in packet:
            packet[layer].sport, packet[layer].dport = (
                packet[layer].dport,
                packet[layer].sport,
            )
            del packet[layer].chksum
    if IP in packet:
        del ip.chksum
    return bytes(packet)


class TestSpreading:
    @pytest.mark.parametrize("queues", [1, 2, 3, 4, 7, 16])
    @pytest.mark.parametrize("key", [SYMMETRIC_KEY, KEY])
    def test_each_frame_goes_where_its_hash_says(self, queues: int, key: bytes) -> None:
        frames = some_frames()
        expected = defaultdict(list)
        for frame in frames:
            expected[(toeplitz(key, flow_of(frame)) & 127) % queues].append(frame)
        with DrivenCard(CardConfig(queues=queues, rss_key=key), packets=8192) as it:
            for i in range(0, len(frames), 40):
                it.arrive(frames[i : i + 40])
                for queue, got in received(it).items():
                    assert got == expected[queue][: len(got)]
                    del expected[queue][: len(got)]
            assert not any(expected.values())

    def test_the_hash_comes_with_the_packet(self) -> None:
        frames = some_frames(3)
        with DrivenCard(CardConfig(rss_key=KEY, rss_hash=True)) as it:
            it.arrive(frames)
            it.apps[0].breathe()
            link = it.apps[0].outputs[0]
            hashes = [link.ring[n].hash for n in range(len(frames))]
            assert hashes == [toeplitz(KEY, flow_of(frame)) for frame in frames]
            it.apps[0].received()

    def test_both_directions_meet_in_one_queue(self) -> None:
        with DrivenCard(CardConfig(queues=16), packets=8192) as it:
            used = set()
            for frame in some_frames(12):
                back = reversed_flow(frame)
                assert back != frame
                it.arrive([frame, back])
                queues = received(it)
                assert list(queues.values()) == [[frame, back]]
                used |= set(queues)
            assert len(used) > 4

    def test_a_table_of_ones_own(self) -> None:
        table = (3, 3, 0, 1, 3)
        frames = some_frames(9)
        config = CardConfig(queues=4, rss_table=table, rss_key=KEY)
        with DrivenCard(config) as it:
            for frame in frames:
                it.arrive([frame])
                place = toeplitz(KEY, flow_of(frame)) & 127
                assert received(it) == {table[place % 5]: [frame]}

    def test_what_has_no_flow_goes_to_the_first(self) -> None:
        frame = (b"\x02" * 12 + b"\x88\xb5").ljust(60, b"x")
        with DrivenCard(CardConfig(queues=4)) as it:
            it.arrive([frame] * 9)
            assert received(it) == {0: [frame] * 9}

    def test_a_queue_that_nobody_empties_holds_no_other_up(self) -> None:
        frames = some_frames(100)
        with DrivenCard(CardConfig(queues=2, rss_key=KEY)) as it:
            queues: tuple[list[bytes], list[bytes]] = ([], [])
            for frame in frames:
                queues[toeplitz(KEY, flow_of(frame)) & 1].append(frame)
            got: list[bytes] = []
            for i in range(0, len(frames), 50):
                it.arrive(frames[i : i + 50])
                got += it.received(1)
            assert got == queues[1]
            rest = it.received(0)
            dropped = it.counters()["drop-rx-no-descriptor"]
            assert dropped > 0
            assert len(rest) + dropped == len(queues[0])
            assert it.counters()["rx-host-packets"] == len(rest) + len(got)

    def test_any_queue_sends(self) -> None:
        """One beyond those that flows are spread over does nothing else."""
        config = CardConfig(queues=2)
        with DrivenCard(config) as it:
            it.add(77)
            for n in range(3):
                it.send([bytes([2, n]) * 40] * 5, app=n)
            assert sorted(it.sent()) == sorted(
                bytes([2, n]) * 40 for n in [0, 1, 2] * 5
            )
            frames = some_frames(20)
            it.arrive(frames)
            assert set(received(it)) == {0, 1}


class TestQueuesComeAndGo:
    def where(self, it: DrivenCard) -> dict[bytes, int]:
        """Return the queue of each of many flows; each must have one."""
        frames = some_frames(30)
        places = {}
        for frame in frames:
            it.arrive([frame])
            for queue, got in received(it).items():
                assert got == [frame]
                places[frame] = queue
        assert len(places) == len(frames), "frames are lost"
        return places

    def test_flows_go_to_queues_that_somebody_serves(self) -> None:
        with DrivenCard(CardConfig(queues=4, rss_key=KEY)) as it:
            before = self.where(it)
            assert set(before.values()) == {0, 1, 2, 3}
            it.remove(it.apps[2])
            assert set(self.where(it).values()) == {0, 1, 3}
            it.remove(it.apps[0])
            assert set(self.where(it).values()) == {1, 3}
            it.add(0)
            it.add(2)
            assert self.where(it) == before

    def test_but_a_table_of_ones_own_stays(self) -> None:
        """What is for a queue that is not there is dropped, and counted."""
        config = CardConfig(queues=2, rss_table=(0, 1), rss_key=KEY)
        with DrivenCard(config) as it:
            it.remove(it.apps[1])
            frames = some_frames(10)
            it.arrive(frames[:50])
            there = received(it)
            assert set(there) == {0}
            missing = 50 - len(there[0])
            assert missing > 0
            assert it.counters()["drop-rx-no-descriptor"] == missing

    def test_the_last_one_goes_and_comes_again(self) -> None:
        card = Card(paced=False, name="card")
        with DrivenCard(CardConfig(queues=2), card=card) as it:
            for _ in range(3):
                it.remove(it.apps[1])
                it.remove(it.apps[0])
                assert card.nregions == 0
                it.add(1)
                it.add(0)
                assert set(self.where(it).values()) == {0, 1}
                it.apps.reverse()

    def test_two_cards_of_one_name_are_two(self) -> None:
        cards = [Card(paced=False, name="same") for _ in range(2)]
        with DrivenCard(card=cards[0]) as it:
            it.card = cards[1]
            it.add(0)
            assert cards[1].nregions == 2
            it.remove(it.apps[1])
            assert cards[1].nregions == 0
            it.card = cards[0]
            it.arrive(some_frames(1))
            assert len(it.received()) == 7
        cards[1].close()


# -- in an engine ----------------------------------------------------------------------

FLOWS, COUNT = 14, 280
RING = 4096
assert FLOWS * COUNT < RING


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.001)


class Loop:
    """Generators, each a flow, on a wire; two queues that send back what they get.

    A stream of a generator is a flow, so the checker sees whether it stayed in order.
    In all there are fewer packets than each ring has descriptors: none can be lost,
    however long a worker has to wait for a CPU.
    """

    def __init__(self) -> None:
        self.card = Card(paced=False, name="card")
        self.engine = Engine(
            workers=3, packets=32768, large_packets=0, huge=False, log=lambda _: None
        )
        self.streams = 0

    def close(self) -> None:
        assert self.engine.census().is_complete
        self.engine.close()
        counters = self.card.counters
        self.card.close()
        for name in ("dma-read-unmapped", "dma-write-unmapped", "bad-ring"):
            assert counters[name] == 0

    def config(self, *queues: int, flows: int = FLOWS, **different: Any) -> Config:
        """Return a network with these queues, and new flows.

        Args:
            queues: of apps "nic0" and "nic1", on a worker each.
            flows: how many.
            different: by the app's name, arguments that are, dict[str, Any].
        """
        config = Config()
        config.app("wire", SoftwareCard, card=self.card)
        config.app("checker", Checker, verify=True)
        config.link("wire.tx -> checker.rx")
        if flows:
            config.app("join", Join)
            config.link("join.tx -> wire.rx")
        for n in range(flows):
            stream = self.streams + n
            name = f"g{stream}"
            frames = udp_frames(
                64 + 10 * n, src_ip=f"198.18.{n}.{stream + 1}", src_port=7000 + stream
            )
            config.app(name, Generator, frames=frames, stream=stream, count=COUNT)
            config.link(f"{name}.tx -> join.{name}")
        self.streams += flows
        for queue in queues:
            self.add_queue(config, queue, different.get(f"nic{queue}", {}))
        return config

    def add_queue(self, config: Config, n: int, different: dict[str, Any]) -> None:
        settings: dict[str, Any] = {
            "queue": n,
            "config": CardConfig(queues=2, rss_key=KEY),
            "rx_ring": RING,
            "tx_ring": RING,
            "worker": n + 1,
        }
        settings |= different
        config.app(f"nic{n}", Intel82599, card=self.card, **settings)
        for hop in range(3):
            config.app(f"hop{n}-{hop}", Forward, worker=settings["worker"])
        config.link(f"nic{n}.tx -> hop{n}-0.rx")
        config.link(f"hop{n}-0.tx -> hop{n}-1.rx")
        config.link(f"hop{n}-1.tx -> hop{n}-2.rx")
        config.link(f"hop{n}-2.tx -> nic{n}.rx")

    def run(self, *queues: int, **different: Any) -> None:
        """Change the queues while nothing moves; let new flows run to their end.

        A queue that goes is the card's until its worker has let go of it: what came
        meanwhile would be lost with it, and counted.
        """
        self.engine.commit(self.config(*queues, **different, flows=0))
        for n in queues:  # the card drops what comes before there are descriptors
            instance: Any = self.engine.apps[f"nic{n}"].instance
            until(lambda rx=instance.state.rx: rx.filled == rx.n)  # type: ignore[misc]
        wanted = self.seen + FLOWS * COUNT
        self.engine.commit(self.config(*queues, **different))
        until(lambda: self.seen >= wanted)
        assert self.seen == wanted
        assert self.checker == {}
        assert self.engine.drops() == {}

    @property
    def seen(self) -> int:
        if "checker" not in self.engine.apps:
            return 0
        checker: Any = self.engine.apps["checker"].instance
        return sum(stream.packets for stream in checker.streams.values())

    @property
    def checker(self) -> dict[str, int]:
        return {n: v for n, v in self.engine.apps["checker"].counters.items() if v}


@pytest.fixture
def loop() -> Any:
    loop = Loop()
    yield loop
    loop.close()


class TestEngine:
    def test_each_flow_stays_in_order_over_two_workers(self, loop: Loop) -> None:
        loop.run(0, 1)
        checker: Any = loop.engine.apps["checker"].instance
        streams = [checker.streams[n] for n in range(FLOWS)]
        assert [s.packets for s in streams] == [COUNT] * FLOWS
        assert {s.reordered for s in streams} == {0}
        loop.engine.supervise()
        nics = [loop.engine.apps[f"nic{n}"] for n in range(2)]
        for counter in ("rx-packets", "tx-packets"):
            until(
                lambda name=counter: (  # type: ignore[misc]
                    sum(nic.counters[name] for nic in nics) == FLOWS * COUNT
                )
            )
        assert all(nic.counters["rx-packets"] for nic in nics)
        assert loop.engine.drops() == {}

    def test_queues_come_and_go_while_it_runs(self, loop: Loop) -> None:
        for queues in ((0, 1), (0,), (0, 1), (1,)):
            loop.run(*queues)

    def test_an_app_moves_to_another_worker(self, loop: Loop) -> None:
        loop.run(0, 1)
        loop.run(0, 1, nic0={"worker": 2})
        loop.run(0, 1, nic1={"worker": 0})

    def test_what_the_cards_apps_differ_in_is_refused(self, loop: Loop) -> None:
        loop.run(0, 1)
        other = {"config": CardConfig(queues=2, mtu=1500, rss_key=KEY)}
        with pytest.raises(ConfigError, match="differ in mtu"):
            loop.engine.commit(loop.config(0, 1, flows=0, nic1=other))
        loop.run(0, 1)

    def test_a_running_app_takes_another_queue(self, loop: Loop) -> None:
        """And goes on counting."""
        loop.run(0)
        loop.run(0, nic0={"queue": 1})
        nic = loop.engine.apps["nic0"]
        until(lambda: nic.counters["rx-packets"] == 2 * FLOWS * COUNT)
        instance: Any = nic.instance
        assert list(instance.nic.queues) == [1]

    def test_two_apps_cannot_have_one_queue(self, loop: Loop) -> None:
        loop.run(0)
        with pytest.raises(ConfigError, match='already used by app "nic0"'):
            loop.engine.commit(loop.config(0, 1, flows=0, nic1={"queue": 0}))
        loop.run(0)


class TestPoolsInAnEngine:
    def config(self, card: Card, *pools: PoolConfig) -> Config:
        config = Config()
        config.app("wire", SoftwareCard, card=card)
        for n, pool in enumerate(pools):
            config.app(
                f"vm{n}",
                Intel82599,
                card=card,
                config=CardConfig(pools=True),
                pool=pool,
            )
        return config

    def test_a_change_is_done_or_not_at_all(self) -> None:
        card = Card(paced=False, name="card")
        first = PoolConfig(0, ("02:00:00:00:00:01",))
        second = PoolConfig(1, ("02:00:00:00:00:02",))
        with Engine(packets=8192, large_packets=0, huge=False) as engine:
            engine.commit(self.config(card, first, second))
            instance: Any = engine.apps["vm0"].instance
            nic = instance.nic
            assert nic.pools == {0: first, 1: second}
            changed = PoolConfig(0, ("02:00:00:00:00:03",), vlan=5)
            engine.commit(self.config(card, changed, second))
            assert nic.pools == {0: changed, 1: second}
            assert nic.read("RXDCTL", 0) >> 30 == 1
            # the first one's change is undone when the second one's cannot be
            wrong = PoolConfig(1, ("02:00:00:00:00:01",))
            with pytest.raises(ConfigError, match="is pool 0's in the same VLAN"):
                engine.commit(self.config(card, first, wrong))
            assert nic.pools == {0: changed, 1: second}
            assert nic.read("RXDCTL", 0) >> 30 == 1
            engine.commit(self.config(card, changed))
            assert nic.pools == {0: changed}
            assert engine.census().is_complete
            engine.commit(Config())
            assert card.nregions == 0
        card.close()
