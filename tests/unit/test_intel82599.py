"""The driver on a software card: each frame, each wait, each wrong way to call it."""

import random
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from snabb_py._native import lib
from snabb_py.engine.memory import Pool
from snabb_py.errors import ConfigError, DeviceError
from snabb_py.nic.intel82599 import QUEUE_COUNTERS, Intel82599
from snabb_py.nic.intel82599_card import Nic
from snabb_py.nic.intel82599_config import CardConfig, PoolConfig
from snabb_py.nic.intel82599_statistics import NAMES
from snabb_py.nic.model82599 import Card
from snabb_py.nic.registers import offset
from snabb_py.nic.software_function import SoftwareFunction
from tests.driven_card import DrivenCard

ALL_ONES = 0xFFFFFFFF


def frames_of(sizes: list[int], seed: int = 1) -> list[bytes]:
    """Return frames of these lengths with contents of their own."""
    rng = random.Random(seed)  # noqa: S311 - contents, not secrets
    head = bytes.fromhex("020000000001 020000000002 88b5")
    return [head + rng.randbytes(size - len(head)) for size in sizes]


class TestPackets:
    def test_what_arrives_is_received_byte_for_byte(self) -> None:
        frames = frames_of([60, 61, 64, 128, 1514, 9014, 60])
        with DrivenCard() as it:
            it.arrive(frames)
            assert it.received() == frames

    def test_what_is_sent_leaves_byte_for_byte(self) -> None:
        frames = frames_of([60, 61, 64, 128, 1514, 9014, 60])
        with DrivenCard() as it:
            it.send(frames)
            assert it.sent() == frames

    @pytest.mark.parametrize("ring", [64, 256, 4096])
    def test_many_times_round_the_rings(self, ring: int) -> None:
        with DrivenCard(ring=ring, packets=16384) as it:
            for turn in range(12 * 64 // 50 + 2 * ring // 50):
                frames = frames_of([60 + turn % 100] * 50, seed=turn)
                it.arrive(frames)
                assert it.received() == frames
                it.send(frames)
                assert it.sent() == frames

    def test_a_burst_larger_than_the_ring_waits_in_the_packet_buffer(self) -> None:
        frames = frames_of([60] * 1000)
        with DrivenCard() as it:
            it.arrive(frames)
            assert it.received() == frames

    def test_a_short_frame_is_filled_up(self) -> None:
        with DrivenCard() as it:
            it.send([b"\x02" * 14, b"\x02" * 17, b"\x02" * 59])
            assert it.sent() == [
                bytes.fromhex("02" * n).ljust(60, b"\0") for n in (14, 17, 59)
            ]

    def test_a_frame_longer_than_the_mtu_is_dropped_and_counted(self) -> None:
        config = CardConfig(mtu=1500)
        frames = frames_of([1514 + 8, 1514 + 9, 60])
        with DrivenCard(config) as it:
            it.send(frames)
            assert it.sent() == [frames[0], frames[2]]
            counters = it.counters()
            assert counters["drop-tx-too-long"] == 1
            assert counters["tx-packets"] == 2
            assert counters["tx-bytes"] == 1514 + 8 + 60

    def test_a_longer_one_is_not_received(self) -> None:
        frames = frames_of([1514, 1515])
        with DrivenCard(CardConfig(mtu=1500)) as it:
            it.arrive(frames)
            assert it.received() == frames[:1]
            assert it.counters()["rx-oversize"] == 1

    def test_with_no_packet_left_frames_wait(self) -> None:
        frames = frames_of([60] * 200)
        with DrivenCard(packets=64 + 10) as it:
            it.arrive(frames)
            got: list[bytes] = []
            for _ in range(100):
                it.apps[0].breathe()
                got += it.apps[0].received()
                it.wire.breathe()
            assert got == frames
            assert it.counters()["rx-no-packet"] > 0

    def test_a_ring_that_the_pool_cannot_fill_waits_for_it(self) -> None:
        with DrivenCard(packets=40) as it:
            it.arrive(frames_of([60]))
            assert it.received() == []
            assert it.counters()["rx-no-packet"] > 0

    def test_descriptors_run_out_when_nothing_is_reported(self) -> None:
        frames = frames_of([60] * 100)
        with DrivenCard(ring=64) as it:
            it.send(frames)
            assert len(it.wire.received()) == 0
            # all but one; the others stay on the link
            state = it.apps[0].app.state
            assert state.tx.next - state.tx.clean == 63
            assert it.sent() == frames

    def test_rx_checksum_status_and_hash_come_with_the_packet(self) -> None:
        from snabb_py.apps.traffic import udp_frames

        good = udp_frames(64)[0].frame
        bad = good[:-1] + bytes([good[-1] ^ 1])
        packets: Any = []
        with DrivenCard(CardConfig(rss_hash=True)) as it:
            it.arrive([good, bad, frames_of([60])[0]])
            it.apps[0].breathe()
            link = it.apps[0].outputs[0]
            packets = [link.ring[i] for i in range(3)]
            assert [p.flags for p in packets] == [lib.PACKET_CSUM_VALID, 0, 0]
            assert packets[0].hash != 0
            assert packets[0].hash == packets[1].hash
            assert packets[2].hash == 0
            it.apps[0].received()

    def test_pause_frames_do_not_come_to_software(self) -> None:
        pause = bytes.fromhex("0180c2000001 020000000002 8808 0001 0000").ljust(
            60, b"\0"
        )
        with DrivenCard() as it:
            it.arrive([pause])
            assert it.received() == []
            assert it.counters()["rx-xon"] == 1

    def test_only_its_own_addresses_when_it_is_not_promiscuous(self) -> None:
        config = CardConfig(
            promiscuous=False,
            macs=("02:00:00:00:00:11",),
            multicast=("01:00:5e:00:00:05",),
        )

        def to(mac: str) -> bytes:
            return bytes.fromhex(mac.replace(":", "")).ljust(60, b"\x02")

        with DrivenCard(config) as it:
            own = it.nic.mac.hex(":")
            wanted = [
                to(mac)
                for mac in (
                    own,
                    config.macs[0],
                    "ff:ff:ff:ff:ff:ff",
                    "01:00:5e:00:00:05",
                )
            ]
            others = [to("02:00:00:00:00:12"), to("01:00:5e:00:07:06")]
            it.arrive(wanted + others)
            assert it.received() == wanted


class TestCounters:
    def test_names_fit_the_c_enum(self) -> None:
        assert len(QUEUE_COUNTERS) == lib.INTEL82599_NCOUNTERS
        assert Intel82599.counters == QUEUE_COUNTERS + NAMES

    def test_the_wires_and_ours_are_equal(self) -> None:
        with DrivenCard() as it:
            frames = frames_of([60] * 100 + [1514] * 7)
            it.arrive(frames)
            it.received()
            it.send(frames)
            it.sent()
            counters = it.counters()
            for way in ("rx", "tx"):
                assert counters[f"{way}-packets"] == 107
                assert counters[f"{way}-bytes"] == sum(map(len, frames))
                assert counters[f"{way}-good-packets"] == 107
                assert counters[f"{way}-good-bytes"] == sum(map(len, frames)) + 4 * 107
                assert counters[f"{way}-64-packets"] == 100
            assert it.card.counters["rx-packets"] == 107
            assert it.card.counters["tx-packets"] == 107

    def test_they_survive_clear_on_read(self) -> None:
        with DrivenCard() as it:
            for n in range(1, 4):
                it.arrive(frames_of([60] * 5))
                it.received()
                assert it.counters()["rx-good-packets"] == 5 * n

    def test_frames_missed_are_counted(self) -> None:
        frames = frames_of([60] * 9000)
        with DrivenCard() as it:
            it.arrive(frames)
            got = it.received()
            assert len(got) + it.counters()["drop-rx-missed"] == 9000
            assert it.counters()["drop-rx-missed"] > 0


class TestLink:
    def test_it_is_reported_once_up_and_once_down(self) -> None:
        with DrivenCard() as it:
            assert it.nic.supervise() == "card: link up, 10 Gb/s"
            assert it.nic.supervise() is None
            it.card.plug(False)
            assert it.nic.supervise() == "card: link down"
            assert it.nic.supervise() is None
            it.card.plug(True)
            assert it.nic.supervise() == "card: link up, 10 Gb/s"
            assert it.counters()["link-flaps"] == 1
            assert it.counters()["link-up"] == 1

    def test_one_that_never_comes_up_is_said_after_a_while(self) -> None:
        with DrivenCard(card=Card(sfp=False, paced=False, name="card")) as it:
            now = it.nic.clock()
            it.nic.clock = lambda: now
            assert it.nic.supervise() is None
            it.nic.clock = lambda: now + 6
            line = it.nic.supervise()
            assert line is not None
            assert "no link yet" in line
            assert it.nic.supervise() is None


class Broken(SoftwareFunction):
    """A card with a register that does what the test says."""

    def __init__(self, card: Card, answer: Callable[[int, int], int]) -> None:
        super().__init__(card, "card")
        self.answer = answer

    def read(self, offset: int) -> int:
        return self.answer(offset, super().read(offset))


def stuck(register: str, *, clear: int = 0, set_: int = 0) -> Callable[[int, int], int]:
    """Return an answer: bits of a register never change."""
    at = offset(register)
    return lambda where, value: (value & ~clear | set_) if where == at else value


class FastClock:
    """Every look at it takes 50 ms."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.05
        return self.now


class TestBadCards:
    @pytest.mark.parametrize(
        ("answer", "text"),
        [
            (stuck("CTRL", set_=1 << 26), "CTRL.RST still 1 after 1 s"),
            (stuck("EEC", clear=1 << 9), "EEC.ARD still 0 after 1 s"),
            (stuck("EEC", clear=1 << 8), "EEC.PRES still 0 after 1 s"),
            (stuck("RDRXCTL", clear=1 << 3), "RDRXCTL.DMAIDONE still 0 after 1 s"),
            (stuck("EERD", clear=1 << 1), "EERD.DONE still 0 after 1 s"),
            (stuck("SWSM", set_=1), "SWSM.SMBI still 1 after 1 s"),
            (stuck("SECRXSTAT", clear=1), "SECRXSTAT.SECRX_RDY still 0 after 1 s"),
            (stuck("RAH", clear=0xFFFF), None),
            (stuck("EERD", set_=1 << 16), "EEPROM checksum"),
            (stuck("RAL", set_=1), "cannot be a card's"),
            (lambda _at, _value: ALL_ONES, "the card is gone"),
        ],
    )
    def test_a_register_that_never_changes_is_named(
        self, answer: Callable[[int, int], int], text: str | None
    ) -> None:
        pool = Pool(256, 0, 1, huge=False)
        card = Card(name="card")
        function = Broken(card, answer)
        try:
            if text is None:
                Nic(
                    function, pool.memory, pool.pool, CardConfig(), clock=FastClock()
                ).close()
                return
            with pytest.raises(DeviceError) as caught:
                Nic(function, pool.memory, pool.pool, CardConfig(), clock=FastClock())
            assert text in str(caught.value)
            assert str(caught.value).startswith("card: ")
            # It was given up: nothing is mapped, and it can do no harm.
            assert card.nregions == 0
            assert not card.access(lib.MODEL_CONFIG, 4, 1)[0] & 4
        finally:
            card.close()
            pool.close()

    def test_master_disable_that_never_ends_is_answered_by_two_resets(self) -> None:
        pool = Pool(256, 0, 1, huge=False)
        card = Card(name="card")
        function = Broken(card, stuck("STATUS", set_=1 << 19))
        nic = Nic(function, pool.memory, pool.pool, CardConfig(), clock=FastClock())
        assert card.counters["resets"] == 2
        nic.close()
        card.close()
        pool.close()

    def test_a_semaphore_of_a_program_that_died_is_taken_over(self) -> None:
        pool = Pool(256, 0, 1, huge=False)
        with closing(pool), Card(name="card") as card:
            assert card.read(offset("SWSM")) & 1 == 0  # which takes it
            nic = Nic(
                SoftwareFunction(card, "card"),
                pool.memory,
                pool.pool,
                CardConfig(),
                clock=FastClock(),
            )
            assert card.read(offset("SWSM")) & 3 == 0
            assert card.read(offset("SW_FW_SYNC")) & 1 << 3 == 0
            nic.close()

    def test_a_semaphore_is_let_go_of_when_firmware_keeps_its_part(self) -> None:
        pool = Pool(256, 0, 1, huge=False)
        with closing(pool), Card(name="card") as card:
            function = Broken(card, stuck("SWSM", clear=2))
            with pytest.raises(DeviceError, match=r"SWSM\.SWESMBI still 0"):
                Nic(function, pool.memory, pool.pool, CardConfig(), clock=FastClock())
            assert card.read(offset("SWSM")) & 1 == 0

    def test_a_card_pulled_while_it_runs(self) -> None:
        with DrivenCard() as it:
            it.send(frames_of([60] * 40))
            it.sent()
            function: Any = it.nic.function
            alive = function.read
            function.read = lambda _offset: ALL_ONES
            assert it.nic.supervise() == (
                "card: the card is gone: packets for it are dropped"
            )
            assert it.nic.supervise() is None
            it.send(frames_of([60] * 30))
            it.apps[0].tick()
            assert it.apps[0].counters["drop-tx-card-gone"] == 30
            assert it.received() == []
            # It is no longer there to be asked; packets come back all the same.
            function.read = alive
            function.set_master(False)

    def test_a_transmitter_that_hangs_is_reported(self) -> None:
        with DrivenCard(ring=256) as it:
            it.nic.supervise()
            now = it.nic.clock()
            it.send(frames_of([60] * 200))  # the card is not stepped
            for seconds in (0.0, 1.0):
                it.nic.clock = lambda t=now + seconds: t  # type: ignore[misc]
                assert it.nic.supervise() is None
            it.nic.clock = lambda: now + 3.5
            assert it.nic.supervise() == (
                "card: transmit queue 0 has sent nothing for 2 s"
            )
            assert it.counters()["tx-hangs"] == 1
            assert len(it.sent()) == 200


class TestRegisters:
    """What chapter 4.6 asks for and no frame tells."""

    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            (CardConfig(), {"MRQC": 0, "MTQC": 0, "RTTDCS": 0xC00000}),
            (CardConfig(rss_hash=True), {"MRQC": 0xF30001, "MTQC": 0}),
            (CardConfig(queues=2), {"MRQC": 0xF30001, "MTQC": 0}),
            (
                CardConfig(pools=True),
                {"MRQC": 0xF30008, "MTQC": 6, "RTTDCS": 0x400002, "PFDTXGSWC": 1},
            ),
            (
                CardConfig(pools=True, pool_queues=2, switch=False),
                {"MRQC": 0xF3000B, "MTQC": 6, "RTTDCS": 0x400002, "PFDTXGSWC": 0},
            ),
            (
                CardConfig(pools=True, pool_queues=4),
                {"MRQC": 0xF3000A, "MTQC": 10, "RTTDCS": 0x400002},
            ),
        ],
    )
    def test_modes(self, config: CardConfig, expected: dict[str, int]) -> None:
        pools = (PoolConfig(0, ("02:00:00:00:00:01",)),) if config.pools else ()
        with DrivenCard(config, pools=pools) as it:
            expected |= {
                "DTXMXSZRQ": 0xFFF,
                # the local switch has 24 KiB of the packet buffer to itself
                "FCRTH": (512 - 24) << 10,
                "FCRTL": 0,
                "TXDCTL": 1 << 25 | 1 << 8 | 32,
                "RXCTRL": 1,
                "EIMS": 0,
            }
            for name, value in expected.items():
                assert it.nic.read(name) == value, name

    def test_weights_are_pools(self) -> None:
        pool = PoolConfig(0, ("02:00:00:00:00:01",))
        with DrivenCard(CardConfig(pools=True, pool_queues=4), pools=(pool,)) as it:
            weights = []
            for n in range(128):
                it.nic.write("RTTDQSEL", n)
                weights.append(it.nic.read("RTTDT1C"))
            assert len(set(weights[:32])) == 1
            assert weights[0] * 64 >= 9728
            assert weights[32:] == [0] * 96


class TestSettings:
    @pytest.mark.parametrize("size", [0, 32, 63, 100, 8192])
    def test_ring_sizes(self, size: int) -> None:
        with pytest.raises(ConfigError, match="power of two from 64 to 4096"):
            Intel82599(Card(name="card"), rx_ring=size)

    @pytest.mark.parametrize(
        "settings",
        [
            {"mtu": 9707},
            {"mtu": 10},
            {"queues": 17},
            {"queues": 0},
            {"macs": ("01:00:00:00:00:00",)},
            {"macs": ("hello",)},
            {"multicast": ("02:00:00:00:00:01",)},
            {"rss_key": b"short"},
            {"rss_table": (1,)},
            {"pools": True, "queues": 2},
            {"pool_queues": 2},
            {"pools": True, "pool_queues": 3},
        ],
    )
    def test_what_cannot_be_is_refused(self, settings: dict[str, Any]) -> None:
        with pytest.raises(ConfigError):
            CardConfig(**settings)

    def test_apps_of_one_card_agree(self) -> None:
        with DrivenCard(CardConfig(queues=2)) as it:
            it.config = CardConfig(queues=2, mtu=1500)
            with pytest.raises(ConfigError, match="its apps differ in mtu"):
                it.add(0)


class TestSoftwareCards:
    def test_a_closed_card_is_refused(self) -> None:
        card = Card(name="card")
        card.close()
        with pytest.raises(ConfigError, match="it has been closed"):
            DrivenCard(card=card)

    def test_one_that_is_closed_too_early_lasts_as_long_as_its_apps(self) -> None:
        frames = frames_of([60] * 5)
        with DrivenCard() as it:
            it.card.close()
            it.send(frames)
            assert it.sent() == frames
            for harness in it.apps:
                harness.close()
            it.apps.clear()
            assert it.card.card
            # its wire has it still
            it.wire.breathe()

    def test_a_first_look_finds_no_transmitter_that_hangs(self) -> None:
        with DrivenCard(ring=256) as it:
            it.send(frames_of([60] * 200))  # the card is not stepped
            it.nic.clock = lambda: 1e6
            assert it.nic.supervise() == "card: link up, 10 Gb/s"
            assert it.counters().get("tx-hangs", 0) == 0
            assert len(it.sent()) == 200
