"""Pools of a card that the driver has: who gets and who may send which frame (VMDq).

A pool here is an app with an address of its own; the wire and all pools are looked at
after each frame, so that what is asserted is also who does *not* get it.
"""

import struct
from collections.abc import Iterable
from typing import Any

import pytest

from snabb_py._native import ffi, lib
from snabb_py.apps.traffic import udp_frames
from snabb_py.errors import ConfigError, DeviceError
from snabb_py.nic.intel82599 import Intel82599
from snabb_py.nic.intel82599_config import CardConfig, Mirror, PoolConfig
from snabb_py.nic.model82599 import Card
from snabb_py.nic.registers import offset
from tests.driven_card import DrivenCard
from tests.harness import Harness

BROADCAST = "ff:ff:ff:ff:ff:ff"
GROUP = "01:00:5e:01:02:03"
STRANGER = "0a:00:00:00:00:99"
WIRE = -1  #: beside the pools' numbers, in what `pass_on` returns


def mac(pool: int, n: int = 0) -> str:
    return f"02:00:00:00:{n:02x}:{pool:02x}"


def pool_of(number: int, **settings: Any) -> PoolConfig:
    return PoolConfig(number, **{"macs": (mac(number),)} | settings)


def pools_of(count: int, **settings: Any) -> tuple[PoolConfig, ...]:
    return tuple(pool_of(n, **settings) for n in range(count))


def frame(
    to: str, source: str = STRANGER, vlan: int | None = None, body: bytes = b""
) -> bytes:
    tag = b"" if vlan is None else struct.pack("!HH", 0x8100, vlan)
    addresses = bytes.fromhex((to + source).replace(":", ""))
    return (addresses + tag + b"\x88\xb5" + body).ljust(64, b".")


def untagged(data: bytes) -> bytes:
    return data[:12] + data[16:]


def got(it: DrivenCard) -> dict[int, list[bytes]]:
    """Return what pools have received, and the wire, without those with nothing."""
    frames: dict[int, list[bytes]] = {}
    if wire := it.sent():
        frames[WIRE] = wire
    for n, harness in enumerate(it.apps):
        more = harness.received() + it.received(n)
        number = pool_number(harness)
        if more:
            frames[number] = frames.get(number, []) + more
    return frames


def pool_number(harness: Harness) -> int:
    app: Any = harness.app
    return int(app.pool.number)


def arrive(it: DrivenCard, data: bytes) -> dict[int, list[bytes]]:
    """Let a frame arrive on the wire; return who got what."""
    it.arrive([data])
    return got(it)


def send(it: DrivenCard, pool: int, data: bytes) -> dict[int, list[bytes]]:
    """Let a pool send a frame; return who got what."""
    numbers = [pool_number(harness) for harness in it.apps]
    it.send([data], app=numbers.index(pool))
    return got(it)


def spoofed(it: DrivenCard) -> int:
    return it.nic.totals["drop-tx-spoofed"]


class TestWhoGetsIt:
    def test_each_of_64_by_its_address(self) -> None:
        with DrivenCard(pools=pools_of(64), packets=8192) as it:
            for n in (0, 1, 31, 32, 63):
                data = frame(mac(n))
                assert arrive(it, data) == {n: [data]}
            assert arrive(it, frame(STRANGER)) == {}
            assert arrive(it, frame(it.card.mac.hex(":"))) == {}
            for to in (BROADCAST, GROUP):
                assert arrive(it, frame(to)) == {n: [frame(to)] for n in range(64)}

    def test_its_tag_is_taken_off_and_put_on(self) -> None:
        pools = (pool_of(1, vlan=5), pool_of(2, vlan=6), pool_of(3))
        with DrivenCard(pools=pools) as it:
            data = frame(mac(1), vlan=5)
            assert arrive(it, data) == {1: [untagged(data)]}
            # the priority is no part of a VLAN's number
            data = frame(mac(1), vlan=7 << 13 | 5)
            assert arrive(it, data) == {1: [untagged(data)]}
            for vlan in (None, 6, 7, 0, 4095):
                assert arrive(it, frame(mac(1), vlan=vlan)) == {}, vlan
            data = frame(mac(2), vlan=6)
            assert arrive(it, data) == {2: [untagged(data)]}
            assert arrive(it, frame(mac(3), vlan=5)) == {}
            assert arrive(it, frame(mac(3))) == {3: [frame(mac(3))]}
            data = frame(STRANGER, mac(1), vlan=5)
            assert send(it, 1, untagged(data)) == {WIRE: [data]}
            data = frame(STRANGER, mac(3))
            assert send(it, 3, data) == {WIRE: [data]}

    def test_one_address_in_several_vlans(self) -> None:
        pools = tuple(pool_of(n, macs=(mac(9),), vlan=100 + n) for n in range(4))
        with DrivenCard(pools=pools) as it:
            for n in range(4):
                data = frame(mac(9), vlan=100 + n)
                assert arrive(it, data) == {n: [untagged(data)]}
            assert arrive(it, frame(mac(9))) == {}

    def test_a_trunk_keeps_its_tags(self) -> None:
        pools = (pool_of(1, trunk=(5, 6)), pool_of(2, vlan=6))
        with DrivenCard(pools=pools) as it:
            for vlan in (5, 6, None, 3 << 13 | 5):
                data = frame(mac(1), vlan=vlan)
                assert arrive(it, data) == {1: [data]}, vlan
                data = frame(STRANGER, mac(1), vlan=vlan)
                assert send(it, 1, data) == {WIRE: [data]}, vlan
            for vlan in (0, 7):
                assert arrive(it, frame(mac(1), vlan=vlan)) == {}
            data = frame(BROADCAST, vlan=6)
            assert arrive(it, data) == {1: [data], 2: [untagged(data)]}
            assert arrive(it, frame(BROADCAST, vlan=5)) == {
                1: [frame(BROADCAST, vlan=5)]
            }
            assert arrive(it, frame(GROUP)) == {1: [frame(GROUP)]}

    def test_several_addresses(self) -> None:
        pools = (pool_of(0, macs=tuple(mac(0, n) for n in range(9))), pool_of(1))
        with DrivenCard(pools=pools) as it:
            for n in range(9):
                data = frame(mac(0, n))
                assert arrive(it, data) == {0: [data]}
                data = frame(STRANGER, mac(0, n))
                assert send(it, 0, data) == {WIRE: [data]}
            assert arrive(it, frame(mac(0, 9))) == {}

    def test_the_cards_own_address_can_be_a_pools(self) -> None:
        card = Card(paced=False, name="card")
        own = card.mac.hex(":")
        with DrivenCard(pools=(pool_of(4, macs=(own,)),), card=card) as it:
            assert arrive(it, frame(own)) == {4: [frame(own)]}
            it.change(it.apps[0], pool_of(4))
            assert arrive(it, frame(own)) == {}
            it.change(it.apps[0], pool_of(4, macs=(own, mac(4))))
            assert arrive(it, frame(own)) == {4: [frame(own)]}

    def test_a_promiscuous_pool_has_what_nobody_else_wants(self) -> None:
        pools = (
            pool_of(0, promiscuous=True),
            pool_of(1),
            pool_of(2, promiscuous=True, vlan=5),
        )
        with DrivenCard(pools=pools) as it:
            data = frame(STRANGER)
            assert arrive(it, data) == {0: [data]}
            assert arrive(it, frame(mac(1))) == {1: [frame(mac(1))]}
            data = frame(STRANGER, vlan=5)
            assert arrive(it, data) == {2: [untagged(data)]}
            assert arrive(it, frame(STRANGER, vlan=6)) == {}
            it.change(it.apps[0], pool_of(0))
            assert arrive(it, frame(STRANGER)) == {}
            assert arrive(it, data) == {2: [untagged(data)]}
            it.remove(it.apps[2])
            assert arrive(it, data) == {}
            assert it.nic.read("PFUTA") == 0

    def test_without_bits_that_the_chip_does_not_have(self) -> None:
        """PFVML2FLT 22 and 23 are a later chip's: nothing may rely on them."""
        with DrivenCard(pools=(pool_of(0, promiscuous=True, trunk=(1, 2)),)) as it:
            assert it.nic.read("PFVML2FLT", 0) >> 22 & 3 == 0
            assert arrive(it, frame(STRANGER)) == {0: [frame(STRANGER)]}

    @pytest.mark.parametrize("pool_queues", [2, 4])
    def test_its_flows_spread_over_its_queues(self, pool_queues: int) -> None:
        config = CardConfig(pools=True, pool_queues=pool_queues)
        count = config.npools
        chosen = (0, 1, count - 1)
        pools = tuple(pool_of(n) for n in chosen)
        with DrivenCard(config, pools=pools) as it:
            for n in chosen:
                frames = [
                    t.frame
                    for t in udp_frames(
                        64, flows=64, dst_mac=mac(n), src_port=1000, stamp=False
                    )
                ]
                it.arrive(frames)
                queues = [it.received(i) for i in range(len(it.apps))]
                mine = [
                    q
                    for q, harness in zip(queues, it.apps, strict=True)
                    if pool_number(harness) == n
                ]
                assert len(mine) == pool_queues
                assert all(len(q) > 4 for q in mine)
                assert sorted(f for q in mine for f in q) == sorted(frames)
                assert sum(len(q) for q in queues) == 64
            assert set(arrive(it, frame(BROADCAST))) == set(chosen)

    def test_32_pools_with_four_queues_all_at_once(self) -> None:
        config = CardConfig(pools=True, pool_queues=4)
        with DrivenCard(config, pools=pools_of(32), packets=16384) as it:
            assert len(it.apps) == 128
            frames = [frame(mac(n), body=bytes([n])) for n in range(32)]
            it.arrive(frames)
            assert got(it) == {n: [frames[n]] for n in range(32)}
            for n in range(32):
                data = frame(STRANGER, mac(n))
                for queue in range(4):
                    it.send([data], app=4 * n + queue)
            assert len(it.sent()) == 128

    @pytest.mark.parametrize(
        ("pool_queues", "pool", "queue"), [(1, 0, 1), (2, 0, 2), (4, 31, 4), (4, 32, 0)]
    )
    def test_a_queue_or_pool_that_is_none(
        self, pool_queues: int, pool: int, queue: int
    ) -> None:
        """Of 64 pools with a queue each, the others' numbers lie between them."""
        config = CardConfig(pools=True, pool_queues=pool_queues)
        with Card(name="card") as card, pytest.raises(ConfigError, match="is not with"):
            Intel82599(card, queue, config=config, pool=pool_of(pool))


class TestWhoMaySendIt:
    def test_anothers_address_is_not_sent(self) -> None:
        with DrivenCard(pools=pools_of(10)) as it:
            for n in (0, 7, 8, 9):
                data = frame(STRANGER, mac(n))
                assert send(it, n, data) == {WIRE: [data]}
                assert send(it, n, frame(STRANGER, mac((n + 1) % 10))) == {}
                assert send(it, n, frame(mac(3), STRANGER)) == {}
            it.counters()
            assert spoofed(it) == 8
            assert it.card.counters["drop-tx-spoofed"] == 8

    def test_anothers_vlan_is_not_sent(self) -> None:
        pools = (pool_of(0, trunk=(5,)), pool_of(1, trunk=(6,)), pool_of(2))
        with DrivenCard(pools=pools) as it:
            for n, vlan, passes in (
                (0, 5, True),
                (0, 6, False),
                (0, 7, False),
                (1, 6, True),
                (1, 5, False),
                (2, None, True),
                (2, 5, False),
            ):
                data = frame(STRANGER, mac(n), vlan)
                assert send(it, n, data) == ({WIRE: [data]} if passes else {})
            it.counters()
            assert spoofed(it) == 4

    def test_unless_nobody_checks(self) -> None:
        pools = (pool_of(0, check_source=False), pool_of(8), pool_of(9))
        with DrivenCard(pools=pools) as it:
            data = frame(STRANGER, mac(8), 77)
            assert send(it, 0, data) == {WIRE: [data]}
            assert send(it, 8, frame(STRANGER, mac(0))) == {}
            it.change(it.apps[1], pool_of(8, check_source=False))
            assert send(it, 8, frame(STRANGER, mac(0))) == {
                WIRE: [frame(STRANGER, mac(0))]
            }
            it.change(it.apps[0], pool_of(0))
            assert send(it, 0, data) == {}
            assert send(it, 9, frame(STRANGER, mac(8))) == {}
            it.counters()
            assert spoofed(it) == 3

    def test_from_pool_to_pool_it_stays_inside(self) -> None:
        pools = (pool_of(0), pool_of(1), pool_of(40, vlan=5), pool_of(41, vlan=5))
        with DrivenCard(pools=pools) as it:
            data = frame(mac(1), mac(0))
            assert send(it, 0, data) == {1: [data]}
            data = frame(mac(41), mac(40))
            assert send(it, 40, data) == {41: [data]}
            # in the other VLAN nobody has it
            data = frame(mac(40), mac(0))
            assert send(it, 0, data) == {WIRE: [data]}
            data = frame(BROADCAST, mac(0))
            assert send(it, 0, data) == {1: [data], WIRE: [data]}
            data = frame(GROUP, mac(41))
            tagged = frame(GROUP, mac(41), 5)
            tagged = data[:12] + struct.pack("!HH", 0x8100, 5) + data[12:]
            assert send(it, 41, data) == {40: [data], WIRE: [tagged]}

    def test_unless_nothing_is_switched(self) -> None:
        config = CardConfig(pools=True, switch=False)
        with DrivenCard(config, pools=pools_of(2)) as it:
            for to in (mac(1), BROADCAST, STRANGER):
                data = frame(to, mac(0))
                assert send(it, 0, data) == {WIRE: [data]}

    def test_one_that_takes_nothing_holds_nobody_up(self) -> None:
        """Its frames are dropped, and counted, when its ring has no descriptor."""
        with DrivenCard(pools=pools_of(2)) as it:
            it.arrive([frame(mac(0))] * 200)
            data = frame(mac(1))
            it.arrive([data])
            assert it.received(1) == [data]
            mine = it.received(0)
            counters = it.counters()
            assert len(mine) + counters["drop-rx-no-descriptor"] == 200
            assert counters["drop-rx-no-descriptor"] > 0

    @pytest.mark.parametrize("mbps", [10, 99.5, 1000, 2500, 9000])
    @pytest.mark.parametrize("size", [60, 1514])
    def test_no_faster_than_its_rate(self, mbps: float, size: int) -> None:
        """In modelled time, with another pool that may send as it likes."""
        pools = (pool_of(0, rate_mbps=mbps), pool_of(1))
        card = Card(name="card")
        with DrivenCard(pools=pools, card=card, ring=1024, packets=16384) as it:
            assert rate_of(it, [0], size, mbps) == pytest.approx(mbps, rel=0.02)
            assert rate_of(it, [1], size, 10_000) == pytest.approx(10_000, rel=0.02)

    def test_nor_are_all_its_queues(self) -> None:
        config = CardConfig(pools=True, pool_queues=4)
        card = Card(name="card")
        pools = (pool_of(0, rate_mbps=400),)
        with DrivenCard(config, pools=pools, card=card, ring=256) as it:
            assert rate_of(it, [0, 1, 2, 3], 1000, 400) == pytest.approx(400, rel=0.02)
            with pytest.raises(ConfigError, match="rate_mbps: at least 40"):
                it.change(it.apps[0], pool_of(0, rate_mbps=39))

    def test_a_rate_can_be_taken_away(self) -> None:
        card = Card(name="card")
        pools = (pool_of(0, rate_mbps=100),)
        with DrivenCard(pools=pools, card=card, ring=256) as it:
            it.change(it.apps[0], pool_of(0))
            assert rate_of(it, [0], 1000, 10_000) == pytest.approx(10_000, rel=0.02)
            it.change(it.apps[0], pool_of(0, rate_mbps=500))
            assert rate_of(it, [0], 1000, 500) == pytest.approx(500, rel=0.02)

    def test_a_rate_is_one_at_any_speed_of_the_link(self) -> None:
        """The card takes it for a part of the link's speed (4.6.11.2)."""
        with DrivenCard(pools=(pool_of(2, rate_mbps=250),)) as it:
            queue = 2 * it.config.pool_stride

            def factor() -> float:
                it.nic.write("RTTDQSEL", queue)
                return (it.nic.read("RTTBCNRC") & 0xFFFFFF) / (1 << 14)

            it.nic.supervise()
            assert factor() == 40
            it.card.plug(False)
            it.nic.supervise()
            it.nic.clear("AUTOC", 7 << 13)  # 1 Gb/s
            it.card.plug(True)
            assert it.nic.supervise() == "card: link up, 1 Gb/s"
            assert factor() == 4


def rate_of(it: DrivenCard, apps: list[int], size: int, mbps: float) -> float:
    """Return how many Mb/s leave, with preamble and gap, of apps that always can."""
    data = frame(STRANGER, mac(pool_number(it.apps[apps[0]]))).ljust(size, b".")
    bits = (len(data) + 24) * 8
    ns = int(400 * bits / mbps * 1000)
    step = max(1000, ns // 2000)
    begin, sent = None, 0
    while True:
        for app in apps:
            link = it.apps[app].inputs[0]
            missing = 64 - (link.write - link.read) % 2**32
            it.apps[app].send([data] * missing)
            it.apps[app].breathe()
        it.wire.breathe(step)
        frames = it.wire.received()
        assert set(frames) <= {data}
        now = it.wire.worker.now
        if begin is None:
            begin = now if frames else None
            continue
        sent += len(frames)
        if now - begin >= ns:
            break
    rate: float = sent * bits * 1000 / (now - begin)
    while any((h.inputs[0].write - h.inputs[0].read) or unsent(h) for h in it.apps):
        for harness in it.apps:
            harness.breathe()
        it.wire.breathe(step)
        it.wire.received()
    return rate


def unsent(harness: Harness) -> int:
    app: Any = harness.app
    return int(app.unfinished)


class TestMirrors:
    """Rules copy what is received for pools or in VLANs, what comes and what goes."""

    def card(self, mirror: Mirror) -> DrivenCard:
        pools = (
            pool_of(0),
            pool_of(1),
            pool_of(2, vlan=5),
            pool_of(3, check_source=False),
        )
        return DrivenCard(CardConfig(pools=True, mirrors=(mirror,)), pools=pools)

    def test_by_pool(self) -> None:
        with self.card(Mirror(3, pools=(0,))) as it:
            data = frame(mac(0))
            assert arrive(it, data) == {0: [data], 3: [data]}
            assert arrive(it, frame(mac(1))) == {1: [frame(mac(1))]}
            data = frame(mac(0), mac(1))
            assert send(it, 1, data) == {0: [data], 3: [data]}
            data = frame(STRANGER, mac(0))
            assert send(it, 0, data) == {WIRE: [data]}

    def test_by_vlan(self) -> None:
        with self.card(Mirror(3, vlans=(5,))) as it:
            data = frame(mac(2), vlan=5)
            assert arrive(it, data) == {2: [untagged(data)], 3: [data]}
            assert arrive(it, frame(mac(0))) == {0: [frame(mac(0))]}

    def test_what_comes(self) -> None:
        with self.card(Mirror(3, incoming=True)) as it:
            for to in (mac(0), mac(1)):
                data = frame(to)
                assert set(arrive(it, data)) == {int(to[-1]), 3}
            data = frame(STRANGER)  # nobody's, and yet it has come
            assert arrive(it, data) == {3: [data]}
            data = frame(mac(0), mac(1))
            assert send(it, 1, data) == {0: [data]}

    def test_what_goes(self) -> None:
        with self.card(Mirror(3, outgoing=True)) as it:
            assert arrive(it, frame(mac(0))) == {0: [frame(mac(0))]}
            data = frame(STRANGER, mac(0))
            assert send(it, 0, data) == {WIRE: [data], 3: [data]}
            data = frame(mac(0), mac(1))
            assert send(it, 1, data) == {0: [data]}

    def test_a_vlans_place_may_change(self) -> None:
        """Rules name places in the table of VLANs, which come and go."""
        with self.card(Mirror(3, vlans=(5,))) as it:
            it.change(it.apps[0], pool_of(0, vlan=9))
            it.change(it.apps[2], pool_of(2, vlan=8))
            assert arrive(it, frame(mac(2), vlan=8)).keys() == {2}
            it.change(it.apps[1], pool_of(1, vlan=7))
            assert arrive(it, frame(mac(1), vlan=7)).keys() == {1}
            it.change(it.apps[2], pool_of(2, vlan=5))
            assert arrive(it, frame(mac(2), vlan=5)).keys() == {2, 3}
            assert arrive(it, frame(mac(0), vlan=9)).keys() == {0}


def filters_of(it: DrivenCard) -> dict[str, list[int]]:
    """Return what the card's filters hold."""
    return {
        name: [it.nic.read(name, n) for n in range(count)]
        for name, count in (
            ("RAL", 128),
            ("RAH", 128),
            ("MPSAR_LO", 128),
            ("MPSAR_HI", 128),
            ("VFTA", 128),
            ("PFVLVF", 64),
            ("PFVLVFB", 128),
            ("PFVML2FLT", 64),
            ("PFVMVIR", 64),
            ("PFVFSPOOF", 8),
            ("PFVFRE", 2),
            ("PFVFTE", 2),
            ("PFUTA", 1),
        )
    }


class TestChange:
    def test_pools_come_change_and_go_and_the_others_lose_nothing(self) -> None:
        with DrivenCard(pools=pools_of(2)) as it:
            sent, serial = {0: 0, 1: 0}, 0

            def others_run() -> None:
                nonlocal serial
                for n in (0, 1):
                    body = struct.pack("!I", serial)
                    serial += 1
                    data = frame(mac(n), body=body)
                    assert arrive(it, data) == {n: [data]}
                    data = frame(STRANGER, mac(n), body=body)
                    assert send(it, n, data) == {WIRE: [data]}
                    sent[n] += 1
                data = frame(mac(1), mac(0))
                assert send(it, 0, data) == {1: [data]}

            others_run()
            clean = filters_of(it)
            for turn in range(5):
                harness = it.add(0, pool_of(50, vlan=9))
                others_run()
                data = frame(mac(50), vlan=9)
                assert arrive(it, data) == {50: [untagged(data)]}
                it.change(harness, pool_of(50, macs=(mac(50, 1), mac(50))))
                others_run()
                assert arrive(it, frame(mac(50))) == {50: [frame(mac(50))]}
                assert arrive(it, frame(mac(50, 1))) == {50: [frame(mac(50, 1))]}
                assert arrive(it, data) == {}
                it.change(harness, pool_of(50, macs=(mac(50, 1),), vlan=3 + turn))
                others_run()
                data = frame(mac(50, 1), vlan=3 + turn)
                assert arrive(it, data) == {50: [untagged(data)]}
                assert arrive(it, frame(mac(50))) == {}
                it.change(harness, pool_of(50, macs=(mac(50, 1),), trunk=(3 + turn, 1)))
                assert arrive(it, data) == {50: [data]}
                it.remove(harness)
                others_run()
                assert arrive(it, data) == {}
                assert filters_of(it) == clean
            it.counters()
            drops = {n: v for n, v in it.nic.totals.items() if v and "drop" in n}
            assert drops == {}

    def test_what_it_keeps_is_not_touched(self) -> None:
        """Not even for a moment: frames come at any time."""
        pools = (pool_of(7, macs=(mac(7), mac(7, 1)), trunk=(5, 6)), pool_of(8))
        with DrivenCard(pools=pools) as it:
            writes = recorded(it)
            it.change(it.apps[0], pool_of(7, macs=(mac(7), mac(7, 1)), trunk=(5, 6)))
            assert writes == []
            it.change(it.apps[0], pool_of(7, macs=(mac(7), mac(7, 2)), trunk=(6, 7)))
            kept = {
                offset("RAL", n)
                for n in range(128)
                if it.nic.read("RAL", n) == int.from_bytes(b"\2\0\0\0", "little")
                and it.nic.read("RAH", n) == 1 << 31 | 7 << 8
            }
            assert len(kept) == 1
            touched = {at for at, _ in writes}
            assert not kept & touched
            for at, value in writes:
                if at == offset("PFVFRE"):
                    assert value == 1 << 7 | 1 << 8
                if at == offset("PFVML2FLT", 7):
                    assert value

    def test_the_first_queue_to_go_does_not_end_the_pool(self) -> None:
        config = CardConfig(pools=True, pool_queues=4)
        pools = (pool_of(0), pool_of(1))
        with DrivenCard(config, pools=pools) as it:
            for _ in range(3):
                it.remove(it.apps[1])
            data = frame(mac(0))  # no IP: of the pool's first queue
            assert arrive(it, data) == {0: [data]}
            it.remove(it.apps[0])
            assert arrive(it, data) == {}
            assert arrive(it, frame(mac(1))) == {1: [frame(mac(1))]}

    def test_what_a_queue_has_when_it_goes_is_counted(self) -> None:
        with DrivenCard(pools=pools_of(2), ring=256) as it:
            it.send([frame(STRANGER, mac(0))] * 40)
            it.sent()
            it.arrive([frame(mac(0))] * 5)
            it.apps[0].send([frame(STRANGER, mac(0))] * 7)
            it.apps[0].app.ops.push(it.apps[0].struct)
            it.apps.reverse()
            nic = it.nic
            it.remove(it.apps[1])
            assert nic.totals["drop-queue-closed"] == 5 + 7
            it.counters()
            assert it.counters()["drop-queue-closed"] == 12

    def test_two_pools_with_one_address_in_one_vlan_are_refused(self) -> None:
        pools = (pool_of(0), pool_of(1, vlan=5), pool_of(2, trunk=(6, 7)))
        with DrivenCard(pools=pools) as it:
            before = filters_of(it)
            for wrong, other in (
                (pool_of(9, macs=(mac(9), mac(0))), 0),
                (pool_of(9, macs=(mac(1),), vlan=5), 1),
                (pool_of(9, macs=(mac(1),), trunk=(4, 5)), 1),
                (pool_of(9, macs=(mac(2),), vlan=7), 2),
                # those without a tag of their own meet in untagged frames
                (pool_of(9, macs=(mac(2),)), 2),
                (pool_of(9, macs=(mac(2),), trunk=(8,)), 2),
                (pool_of(9, macs=(mac(0).upper().replace(":", "-"),)), 0),
            ):
                with pytest.raises(ConfigError) as caught:
                    it.add(0, wrong)
                assert f"is pool {other}'s in the same VLAN" in str(caught.value)
                assert filters_of(it) == before
            for right in (
                pool_of(9, macs=(mac(0),), vlan=5),
                pool_of(9, macs=(mac(1),), vlan=6),
                pool_of(9, macs=(mac(2),), vlan=8),
            ):
                it.remove(it.add(0, right))
            assert filters_of(it) == before

    def test_addresses_run_out(self) -> None:
        """One filter is the card's own."""
        many = tuple(mac(1, n) for n in range(1, 126))
        with DrivenCard(pools=(pool_of(0), pool_of(1, macs=many))) as it:
            before = filters_of(it)
            with pytest.raises(ConfigError, match="128 MAC addresses at most"):
                it.add(0, pool_of(2, macs=(mac(2), mac(2, 1))))
            with pytest.raises(ConfigError, match="128 MAC addresses at most"):
                it.change(it.apps[0], pool_of(0, macs=(mac(0), mac(0, 1), mac(0, 2))))
            assert filters_of(it) == before
            assert arrive(it, frame(mac(0))) == {0: [frame(mac(0))]}
            assert arrive(it, frame(many[-1])) == {1: [frame(many[-1])]}
            it.change(it.apps[0], pool_of(0, macs=(mac(0, 1), mac(0, 2))))
            assert arrive(it, frame(mac(0, 2))) == {0: [frame(mac(0, 2))]}
            # all are taken: one for another is still possible
            it.change(it.apps[0], pool_of(0, macs=(mac(0, 3), mac(0, 2))))
            assert arrive(it, frame(mac(0, 3))) == {0: [frame(mac(0, 3))]}
            assert arrive(it, frame(mac(0, 1))) == {}

    def test_vlans_run_out(self) -> None:
        many = tuple(range(100, 163))
        with DrivenCard(pools=(pool_of(0, vlan=5), pool_of(1, trunk=many))) as it:
            before = filters_of(it)
            with pytest.raises(ConfigError, match="64 VLANs at most"):
                it.add(0, pool_of(2, vlan=6))
            with pytest.raises(ConfigError, match="64 VLANs at most"):
                it.change(it.apps[0], pool_of(0, trunk=(6, 7)))
            assert filters_of(it) == before
            data = frame(mac(0), vlan=5)
            assert arrive(it, data) == {0: [untagged(data)]}
            it.add(0, pool_of(2, vlan=5))
            it.change(it.apps[0], pool_of(0, vlan=162))
            it.change(it.apps[0], pool_of(0, vlan=5))
            it.remove(it.apps[2])
            it.change(it.apps[0], pool_of(0, vlan=6))
            assert arrive(it, frame(mac(0), vlan=6)).keys() == {0}
            assert arrive(it, data) == {}

    def test_a_queue_that_cannot_be_leaves_no_trace(self) -> None:
        with DrivenCard(pools=pools_of(1)) as it:
            before = filters_of(it)
            real = it.nic.function.read
            function: Any = it.nic.function
            rxdctl = offset("RXDCTL", 10)
            function.read = lambda at: real(at) & ~(1 << 25 if at == rxdctl else 0)
            now = iter(range(1000))
            clock = it.nic.clock
            it.nic.clock = lambda: next(now)
            with pytest.raises(DeviceError, match=r"RXDCTL\[10\].ENABLE still 0"):
                it.add(0, pool_of(5))
            function.read, it.nic.clock = real, clock
            assert filters_of(it) == before
            assert list(it.nic.queues) == [0]
            it.add(0, pool_of(5))
            assert arrive(it, frame(mac(5))) == {5: [frame(mac(5))]}

    def test_rings_that_find_no_room_leave_no_trace(self) -> None:
        with DrivenCard(pools=pools_of(1), ring=4096, packets=16384 * 9) as it:
            for n in range(1, 16):
                it.add(0, pool_of(n))
            before = filters_of(it)
            with pytest.raises(ConfigError, match="2 MiB at most"):
                it.add(0, pool_of(20))
            assert filters_of(it) == before
            it.remove(it.apps[3])
            it.add(0, pool_of(20))
            assert arrive(it, frame(mac(20))) == {20: [frame(mac(20))]}

    def test_an_app_that_is_not_to_be_leaves_the_pool_as_it_was(self) -> None:
        """The engine opens all apps of a change before it knows that all can be."""
        with DrivenCard(pools=pools_of(2)) as it:
            before = filters_of(it)
            lease = it.registry.lease("app0")
            app = Intel82599(
                it.card,
                config=it.config,
                pool=pool_of(0, vlan=7),
                rx_ring=64,
                tx_ring=64,
            )
            app.open(lease)
            assert filters_of(it) != before
            assert arrive(it, frame(mac(0))) == {}
            app.close()
            lease.release()
            assert filters_of(it) == before
            assert arrive(it, frame(mac(0))) == {0: [frame(mac(0))]}
            assert arrive(it, frame(mac(0), vlan=7)) == {}

    def test_a_queue_has_one_app(self) -> None:
        with DrivenCard(pools=pools_of(1)) as it:
            with pytest.raises(ConfigError, match='already used by app "app0"'):
                it.add(0, pool_of(0))
            assert arrive(it, frame(mac(0))) == {0: [frame(mac(0))]}

    def test_the_ring_of_a_running_queue_keeps_its_size(self) -> None:
        with DrivenCard(pools=pools_of(1)) as it:
            it.ring = 128
            before = filters_of(it)
            with pytest.raises(ConfigError, match="ring size"):
                it.change(it.apps[0], pool_of(0, vlan=4))
            assert filters_of(it) == before


def recorded(it: DrivenCard) -> list[tuple[int, int]]:
    """Return a list that grows with each write to a register."""
    writes: list[tuple[int, int]] = []
    function: Any = it.nic.function
    real = function.write

    def write(at: int, value: int) -> None:
        writes.append((at, value))
        real(at, value)

    function.write = write
    return writes


def places(harnesses: Iterable[Harness]) -> list[int]:
    """Return the addresses of all packets in rings."""
    found = []
    for harness in harnesses:
        state = harness.app.state
        found += [state.rx.packets[n] for n in range(state.rx.filled)]
        found += [
            packet
            for n in range((state.tx.next - state.tx.clean) % 2**32)
            if (packet := state.tx.packets[(state.tx.clean + n) % state.tx.n])
        ]
    return [int(ffi.cast("uintptr_t", packet)) for packet in found]


def test_a_ring_of_a_queue_that_went_is_used_again_clean() -> None:
    """Whose descriptors were the card's before."""
    with DrivenCard(pools=pools_of(2)) as it:
        for turn in range(6):
            it.arrive([frame(mac(0), body=bytes([turn]))] * (7 * turn))
            it.send([frame(STRANGER, mac(0))] * (9 * turn))
            if turn % 2:
                it.sent()
                it.received(0)
            it.apps.reverse()
            it.remove(it.apps[1])
            it.add(0, pool_of(0))
            it.apps.reverse()
            got(it)
            data = frame(mac(0), body=b"new" + bytes([turn]))
            assert arrive(it, data) == {0: [data]}
            data = frame(STRANGER, mac(0), body=bytes([turn]))
            assert send(it, 0, data) == {WIRE: [data]}
            found = places(it.apps)
            assert len(set(found)) == len(found)
        assert lib.INTEL82599_RING_MIN == 64
