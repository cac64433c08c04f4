"""Pools of the software 82599: which of them get a frame, and the switch between them.

A pool here has an address, a queue each way, and takes broadcast and untagged frames
until a test says otherwise. Judge: the data sheet's steps (7.10.3), as tables.
"""

import struct
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from tests.card_host import VLE, CardHost, ReceiveQueue, Status, TransmitQueue

ONES = 0xFFFFFFFF
BROADCAST = b"\xff" * 6
STRANGER = bytes.fromhex("0a0000000099")
GROUP = bytes.fromhex("01005e010203")

# PFVML2FLT
UPE, VPE, AUPE, ROMPE, ROPE, BAM, MPE = (1 << n for n in range(22, 29))
# PFVTCTL
ENABLE, NO_DEFAULT, REPLICATE = 1, 1 << 29, 1 << 30
# MRQC: 64 pools without RSS, 32 of 4 queues, 64 of 2
VMDQ64, RSS32, RSS64 = 8, 0xA, 0xB
HASH_TCP4 = 1 << 16


def mac(pool: int) -> bytes:
    return bytes.fromhex("0200000001") + bytes([pool])


def frame(destination: bytes, source: bytes = STRANGER, vlan: int = -1) -> bytes:
    tag = b"" if vlan < 0 else struct.pack("!HH", 0x8100, vlan)
    return (destination + source + tag + b"\x88\xb5").ljust(64, b".")


class Switch:
    """A card with pools.

    Args:
        npools: that have an address and queues.
        mode: of MRQC.
        vtctl: of PFVTCTL.
    """

    def __init__(
        self,
        host: CardHost,
        npools: int = 4,
        *,
        mode: int = VMDQ64,
        vtctl: int = ENABLE | REPLICATE | NO_DEFAULT,
    ) -> None:
        self.host = host
        self.width = 4 if mode == RSS32 else 2  # queues of a pool
        host.set("PFVTCTL", vtctl)
        host.set("MRQC", mode)
        host.set("MTQC", 2 | (2 << 2 if mode == RSS32 else 1 << 2))
        host.set("MPSAR_LO", 0)
        for n in range(2):
            host.set("PFVFRE", ONES, n)
            host.set("PFVFTE", ONES, n)
        self.rx: dict[int, ReceiveQueue] = {}
        self.tx: dict[int, TransmitQueue] = {}
        for pool in range(npools):
            self.give(1 + pool, mac(pool), pool)
            self.accept(pool, AUPE | BAM)
            self.rx[pool] = host.receive_queue(self.width * pool, n=8)
            self.tx[pool] = host.transmit_queue(self.width * pool, n=8)
        host.start(promiscuous=False)

    def give(self, n: int, address: bytes, *pools: int) -> None:
        """Set an exact filter, and whose address it is."""
        bits = sum(1 << pool for pool in pools)
        self.host.set("RAL", int.from_bytes(address[:4], "little"), n)
        self.host.set("RAH", int.from_bytes(address[4:], "little") | 1 << 31, n)
        self.host.set("MPSAR_LO", bits & ONES, n)
        self.host.set("MPSAR_HI", bits >> 32, n)

    def accept(self, pool: int, what: int) -> None:
        self.host.set("PFVML2FLT", what, pool)

    def join(self, n: int, vlan: int, *pools: int) -> None:
        """Set a VLAN filter, and who is a member."""
        bits = sum(1 << pool for pool in pools)
        self.host.set("PFVLVF", 1 << 31 | vlan, n)
        self.host.set("PFVLVFB", bits & ONES, 2 * n)
        self.host.set("PFVLVFB", bits >> 32, 2 * n + 1)

    def switch(self) -> None:
        """Let pools send to each other."""
        self.host.set("PFDTXGSWC", 1)

    def got(self) -> dict[int, list[bytes]]:
        """Return what the pools have received, by pool; those without are left out."""
        taken = {pool: rx.frames() for pool, rx in self.rx.items()}
        return {pool: frames for pool, frames in taken.items() if frames}

    def arrive(self, *frames: bytes) -> set[int]:
        """Let frames arrive on the wire; return the pools that have got them."""
        self.host.arrive(list(frames))
        taken = self.got()
        assert all(got == list(frames) for got in taken.values())
        return set(taken)

    def send(self, pool: int, data: bytes, high: int = 0) -> tuple[bool, set[int]]:
        """Send a frame; return whether the wire has got it, and the pools that have."""
        self.tx[pool].send([data], high)
        wire = self.host.sent()
        taken = self.got()
        assert all(
            got == [data] for got in (*taken.values(), *([wire] if wire else []))
        )
        return bool(wire), set(taken)


@pytest.fixture
def host() -> Iterator[CardHost]:
    with CardHost(packets=1024) as host:
        yield host


@pytest.fixture
def switch(host: CardHost) -> Switch:
    return Switch(host)


# -- which pools: 7.10.3.3 -------------------------------------------------------------


def test_64_pools_are_found_by_their_addresses(host: CardHost) -> None:
    switch = Switch(host, 64)
    for pool in range(64):
        assert switch.arrive(frame(mac(pool))) == {pool}
    assert switch.arrive(frame(STRANGER)) == set()
    assert switch.arrive(frame(BROADCAST)) == set(range(64))
    assert host.get("GPRC") == 65


def test_32_pools_have_four_queues(host: CardHost) -> None:
    switch = Switch(host, 32, mode=RSS32)
    for pool in range(32):
        assert switch.arrive(frame(mac(pool))) == {pool}


def test_in_32_pools_there_is_no_33rd(host: CardHost) -> None:
    switch = Switch(host, 32, mode=RSS32)
    switch.give(1, mac(0), 0, 32, 63)
    switch.accept(32, AUPE)
    switch.accept(63, AUPE)
    assert switch.arrive(frame(mac(0))) == {0}
    assert host.counters["drop-rx-queue-disabled"] == 2


#: MRQC, PSRTYPE.RQPL, how many queues of a pool flows then spread over
SPREAD = [
    (VMDQ64, 1, 1),
    (RSS64, 0, 1),
    (RSS64, 1, 2),
    (RSS64, 2, 2),
    (RSS32, 0, 1),
    (RSS32, 1, 2),
    (RSS32, 2, 4),
    (RSS32, 3, 4),
]


@pytest.mark.parametrize(("mode", "rqpl", "expected"), SPREAD)
def test_rss_spreads_within_a_pool(
    host: CardHost, mode: int, rqpl: int, expected: int
) -> None:
    switch = Switch(host, 2, mode=mode | HASH_TCP4)
    switch.width = 4 if mode == RSS32 else 2
    first = switch.width
    queues = [host.receive_queue(first + n, n=32) for n in range(switch.width)]
    host.set("PSRTYPE", rqpl << 29, 1)
    for n in range(10):
        host.set("RSSRK", 0x6D5A6D5A, n)
    for n in range(32):
        host.set("RETA", 0x03020100, n)
    host.set("MTQC", 0)
    head = Ether(dst=mac(1).hex(":"), src=STRANGER.hex(":")) / IP()
    host.arrive([bytes(head / TCP(sport=n) / Raw(bytes(20))) for n in range(24)])
    counts = [len(rx.take()) for rx in queues]
    assert sum(counts) == 24
    assert [n > 0 for n in counts] == [n < expected for n in range(switch.width)]


def test_an_address_of_several_pools_is_replicated(switch: Switch) -> None:
    switch.give(20, STRANGER, 0, 2, 3)
    assert switch.arrive(frame(STRANGER)) == {0, 2, 3}
    assert switch.host.get("GPRC") == 1
    assert switch.host.get("QPRC") == 3


def test_without_replication_the_first_pool_has_it(host: CardHost) -> None:
    switch = Switch(host, vtctl=ENABLE | NO_DEFAULT)
    switch.give(20, STRANGER, 2, 3)
    assert switch.arrive(frame(STRANGER)) == {2}
    assert switch.arrive(frame(BROADCAST)) == {0}


def test_a_pool_that_may_not_receive_does_not(switch: Switch) -> None:
    switch.host.set("PFVFRE", ONES ^ 1 << 2)
    assert switch.arrive(frame(BROADCAST)) == {0, 1, 3}
    assert switch.arrive(frame(mac(2))) == set()
    assert switch.host.counters["drop-rx-filtered"] == 1


def set_hash(host: CardHost, table: str, address: bytes) -> None:
    """Set the bit of a table that this address has with MCSTCTRL.MO 0: bits 47:36."""
    bit = int.from_bytes(address, "little") >> 36
    host.set(table, 1 << bit % 32, bit // 32)


ACCEPTS = [
    # PFVML2FLT of pool 1, destinations that it has beside its own
    (0, ""),
    (BAM, "broadcast"),
    (MPE, "group hashed"),
    (ROMPE, "hashed"),
    (ROPE, "unicast"),
    (UPE, "unicast stranger"),
    (BAM | ROMPE | ROPE, "broadcast hashed unicast"),
]


@pytest.mark.parametrize(("what", "names"), ACCEPTS)
def test_a_pool_says_what_it_accepts(switch: Switch, what: int, names: str) -> None:
    destinations = {
        "broadcast": BROADCAST,
        "group": GROUP,
        "hashed": bytes.fromhex("01005e998877"),
        "unicast": bytes.fromhex("0a0000aabbcc"),
        "stranger": STRANGER,
    }
    set_hash(switch.host, "MTA", destinations["hashed"])
    set_hash(switch.host, "PFUTA", destinations["unicast"])
    switch.host.set("MCSTCTRL", 1 << 2)
    for pool in (0, 2, 3):
        switch.accept(pool, 0)
    switch.accept(1, what | AUPE)
    for name, destination in destinations.items():
        expected = {1} if name in names.split() else set()
        assert switch.arrive(frame(destination)) == expected, name
    assert switch.arrive(frame(mac(1))) == {1}


def test_without_mfe_the_table_of_groups_is_none(switch: Switch) -> None:
    set_hash(switch.host, "MTA", GROUP)
    switch.accept(1, ROMPE | AUPE)
    assert switch.arrive(frame(GROUP)) == set()


def test_what_only_a_hash_lets_in_has_pif(switch: Switch) -> None:
    unicast = bytes.fromhex("0a0000aabbcc")
    set_hash(switch.host, "PFUTA", unicast)
    switch.accept(1, ROPE | AUPE)
    switch.host.arrive([frame(unicast), frame(mac(1))])
    assert [Status.PIF in part.status for part in switch.rx[1].take()] == [True, False]


#: PFVML2FLT of pool 1; whether it gets untagged frames, those of its VLAN 5, of VLAN 6
#: of others, of VLAN 7 that no filter knows
TAGS = [
    (AUPE, (True, True, False, False)),
    (0, (False, True, False, False)),
    (VPE, (False, True, True, True)),
    (AUPE | VPE, (True, True, True, True)),
]


@pytest.mark.parametrize(("what", "expected"), TAGS)
def test_vlans_narrow_what_the_address_selects(
    switch: Switch, what: int, expected: tuple[bool, ...]
) -> None:
    switch.join(0, 5, 0, 1)
    switch.join(63, 6, 2, 40)
    switch.accept(1, what)
    got = [switch.arrive(frame(mac(1), vlan=vlan)) for vlan in (-1, 5, 6, 7)]
    assert got == [{1} if passes else set() for passes in expected]


def test_a_vlan_is_its_12_bits(switch: Switch) -> None:
    switch.join(7, 0x923, 1)
    for vlan in (0x923, 0xF923, 0x1923):
        assert switch.arrive(frame(mac(1), vlan=vlan)) == {1}
    for vlan in (0x823, 0x123):
        assert switch.arrive(frame(mac(1), vlan=vlan)) == set()


def test_members_in_both_halves_of_the_pools(host: CardHost) -> None:
    switch = Switch(host, 64)
    switch.join(63, 5, 1, 31, 32, 63)
    assert switch.arrive(frame(BROADCAST, vlan=5)) == {1, 31, 32, 63}


def test_two_filters_of_a_vlan_add_up(switch: Switch) -> None:
    switch.join(1, 5, 0)
    switch.join(2, 5, 3)
    assert switch.arrive(frame(BROADCAST, vlan=5)) == {0, 3}
    switch.host.set("PFVLVF", 5, 2)  # not enabled
    assert switch.arrive(frame(BROADCAST, vlan=5)) == {0}


def test_the_cards_own_vlan_filter_comes_first(switch: Switch) -> None:
    switch.join(0, 5, 1)
    switch.host.set("VLNCTRL", 0x8100 | 1 << 30)
    assert switch.arrive(frame(mac(1), vlan=5)) == set()
    switch.host.set("VFTA", 1 << 5)
    assert switch.arrive(frame(mac(1), vlan=5)) == {1}


@pytest.mark.parametrize("default", [0, 3, 40])
def test_the_default_pool_has_what_nobody_wants(host: CardHost, default: int) -> None:
    switch = Switch(host, 64, vtctl=ENABLE | REPLICATE | default << 7)
    switch.accept(default, 0)
    host.set("FCTRL", 0x700)
    assert switch.arrive(frame(STRANGER)) == {default}
    assert switch.arrive(frame(GROUP)) == {default}
    assert switch.arrive(frame(mac(2), vlan=9)) == {default}  # its VLAN is nobody's
    assert switch.arrive(frame(mac(2))) == {2}
    host.set("FCTRL", 0)
    assert switch.arrive(frame(STRANGER)) == set()  # the card does not accept it
    host.set("FCTRL", 0x700)
    host.set("PFVTCTL", ENABLE | REPLICATE | NO_DEFAULT | default << 7)
    assert switch.arrive(frame(STRANGER)) == set()


def test_a_filter_that_changes_is_used_at_once(switch: Switch) -> None:
    assert switch.arrive(frame(mac(1))) == {1}
    switch.give(2, mac(1), 3)
    assert switch.arrive(frame(mac(1))) == {3}
    switch.accept(3, 0)
    assert switch.arrive(frame(mac(1))) == set()
    switch.accept(3, AUPE)
    switch.host.set("RAH", 0, 2)
    assert switch.arrive(frame(mac(1))) == set()


# -- the switch between pools: 7.10.3.4 ------------------------------------------------

SWITCHED = [
    # destination, with LBE: does the wire get it, which pools do
    (mac(1), False, {1}),
    (STRANGER, True, set()),
    (BROADCAST, True, {1, 2, 3}),
    (GROUP, True, {2}),
    (mac(0), False, set()),  # itself
    (mac(40), True, set()),  # nobody's
]


@pytest.mark.parametrize(("destination", "wire", "pools"), SWITCHED)
def test_a_pools_frame_goes_where_its_destination_is(
    switch: Switch, destination: bytes, *, wire: bool, pools: set[int]
) -> None:
    data = frame(destination, mac(0))
    switch.accept(2, AUPE | BAM | MPE)
    assert switch.send(0, data) == (True, set())
    switch.switch()
    assert switch.send(0, data) == (wire, pools)
    assert switch.host.get("RXLPBKGPC") == (1 if pools else 0)
    assert switch.host.get("RXLPBKGBCL") == (64 if pools else 0)
    assert switch.host.get("RXDLPBKGPC") == len(pools)
    assert switch.host.get("RXDLPBKGBCL") == 64 * len(pools)
    assert switch.host.get("TPR") == 0  # nothing came on the wire


@pytest.mark.parametrize("pool", [0, 40])
def test_a_pool_hears_itself_where_pfvmtxsw_lets_it(host: CardHost, pool: int) -> None:
    switch = Switch(host, pool + 1)
    switch.switch()
    everybody = set(range(pool + 1))
    assert switch.send(pool, frame(BROADCAST, mac(pool))) == (True, everybody - {pool})
    host.set("PFVMTXSW", 1 << pool % 32, pool // 32)
    assert switch.send(pool, frame(BROADCAST, mac(pool))) == (True, everybody)
    assert switch.send(pool, frame(mac(pool), mac(pool))) == (False, {pool})


def test_what_comes_from_inside_is_marked(switch: Switch) -> None:
    switch.switch()
    switch.tx[0].send([frame(mac(1), mac(0))])
    switch.host.step()
    switch.host.arrive([frame(mac(1))])
    assert [Status.LB in part.status for part in switch.rx[1].take()] == [True, False]


def test_vlans_separate_pools_inside_too(switch: Switch) -> None:
    switch.switch()
    switch.join(0, 5, 0, 1)
    assert switch.send(0, frame(mac(1), mac(0), vlan=5)) == (False, {1})
    assert switch.send(0, frame(BROADCAST, mac(0), vlan=5)) == (True, {1})
    assert switch.send(0, frame(mac(2), mac(0), vlan=5)) == (True, set())
    assert switch.send(0, frame(mac(2), mac(0))) == (False, {2})


def test_the_wires_default_pool_gets_no_unicast_from_inside(host: CardHost) -> None:
    switch = Switch(host, vtctl=ENABLE | REPLICATE | 3 << 7)
    host.set("FCTRL", 0x700)
    switch.switch()
    assert switch.send(0, frame(STRANGER, mac(0))) == (True, set())


def test_a_switched_frame_waits_for_descriptors_as_any_other(switch: Switch) -> None:
    switch.switch()
    frames = [frame(mac(1), mac(0), vlan=n) for n in range(3)]
    switch.accept(1, VPE)
    rx = switch.host.receive_queue(2, n=8, post=False)
    for data in frames:
        switch.tx[0].send([data])
    switch.host.step()
    assert rx.take() == []
    rx.post(7)
    switch.host.step()
    assert rx.frames() == frames


def test_in_32_pools_queues_belong_to_them_by_four(host: CardHost) -> None:
    switch = Switch(host, 3, mode=RSS32)
    switch.switch()
    for n in range(4, 8):
        tx = host.transmit_queue(n, n=8)
        tx.send([frame(BROADCAST, mac(1))])
        host.step()
        assert set(switch.got()) == {0, 2}  # pool 1 is the source


# -- mirrors: 7.10.3.6 -----------------------------------------------------------------

VPME, UPME, DPME, VLME = 1, 2, 4, 8


def mirror(
    switch: Switch, rule: int, control: int, *, pools: int = 0, vlans: int = 0
) -> None:
    """Set a rule: PFMRCTL, and bits of the pools and VLAN filters that it watches."""
    for n, bits in ((rule, ONES), (rule + 4, ONES << 32)):
        shift = 32 * (n >= 4)
        switch.host.set("PFMRVM", (pools & bits) >> shift, n)
        switch.host.set("PFMRVLAN", (vlans & bits) >> shift, n)
    switch.host.set("PFMRCTL", control, rule)


@pytest.mark.parametrize("rule", range(4))
def test_a_pool_can_be_watched(switch: Switch, rule: int) -> None:
    mirror(switch, rule, VPME | 3 << 8, pools=1 << 1)
    assert switch.arrive(frame(mac(1))) == {1, 3}
    assert switch.arrive(frame(mac(2))) == {2}
    switch.switch()
    assert switch.send(0, frame(mac(1), mac(0))) == (False, {1, 3})
    assert switch.send(0, frame(mac(2), mac(0))) == (False, {2})


@pytest.mark.parametrize("rule", range(4))
def test_what_comes_on_the_wire_can_be_watched(switch: Switch, rule: int) -> None:
    mirror(switch, rule, UPME | 3 << 8)
    assert switch.arrive(frame(mac(1))) == {1, 3}
    assert switch.arrive(frame(STRANGER)) == {3}
    switch.switch()
    assert switch.send(0, frame(mac(1), mac(0))) == (False, {1})


@pytest.mark.parametrize("rule", range(4))
def test_what_goes_to_the_wire_can_be_watched(switch: Switch, rule: int) -> None:
    mirror(switch, rule, DPME | 3 << 8)
    assert switch.send(0, frame(STRANGER, mac(0))) == (True, {3})
    switch.switch()
    assert switch.send(0, frame(STRANGER, mac(0))) == (True, {3})
    assert switch.send(0, frame(mac(1), mac(0))) == (False, {1})
    assert switch.arrive(frame(mac(1))) == {1}


@pytest.mark.parametrize("rule", range(4))
@pytest.mark.parametrize("entry", [0, 40])
def test_a_vlan_can_be_watched(switch: Switch, rule: int, entry: int) -> None:
    switch.join(entry, 5, 1, 2)
    switch.join(entry + 1, 6, 1, 2)
    mirror(switch, rule, VLME | 3 << 8, vlans=1 << entry)
    assert switch.arrive(frame(mac(1), vlan=5)) == {1, 3}
    assert switch.arrive(frame(mac(1), vlan=6)) == {1}
    assert switch.arrive(frame(mac(1))) == {1}
    switch.switch()
    assert switch.send(2, frame(mac(1), mac(2), vlan=5)) == (False, {1, 3})


def test_rules_add_up_and_nobody_has_a_frame_twice(switch: Switch) -> None:
    mirror(switch, 0, UPME | 3 << 8)
    mirror(switch, 1, VPME | 3 << 8, pools=1 << 1)
    mirror(switch, 2, UPME | VPME | 2 << 8, pools=1 << 1)
    assert switch.arrive(frame(mac(1))) == {1, 2, 3}
    switch.host.set("PFVFRE", ONES ^ 1 << 3)
    assert switch.arrive(frame(mac(1))) == {1, 2}


# -- what a pool may send: 7.10.3.9 ----------------------------------------------------


@pytest.mark.parametrize("pool", [0, 7, 8, 63])
def test_a_pool_may_not_send_from_a_foreign_address(host: CardHost, pool: int) -> None:
    switch = Switch(host, 64)
    spoofed = frame(STRANGER, mac(pool ^ 1))
    assert switch.send(pool, spoofed) == (True, set())
    host.set("PFVFSPOOF", 1 << pool % 8, pool // 8)
    assert switch.send(pool, spoofed) == (False, set())
    assert switch.send(pool, frame(STRANGER, mac(pool))) == (True, set())
    assert switch.send(pool ^ 1, frame(STRANGER, mac(pool))) == (True, set())
    assert host.get("SSVPC") == 1
    assert host.counters["drop-tx-spoofed"] == 1


def test_a_pool_may_not_send_in_a_foreign_vlan(switch: Switch) -> None:
    host = switch.host
    switch.join(0, 5, 1)
    switch.join(1, 6, 2)
    host.set("PFVFSPOOF", 1 << 8 + 1)
    got = [switch.send(1, frame(STRANGER, STRANGER, v))[0] for v in (5, 6, 7, -1)]
    assert got == [True, False, False, True]
    assert host.get("SSVPC") == 2


def test_a_spoofed_frame_reaches_no_pool_either(switch: Switch) -> None:
    switch.switch()
    switch.host.set("PFVFSPOOF", 1)
    assert switch.send(0, frame(BROADCAST, STRANGER)) == (False, set())
    assert switch.tx[0].is_done(0)  # its descriptors are done with all the same


VMVIR = [
    # rule, the descriptor asks for tag 7, tag on the wire
    (0, False, None),
    (0, True, 7),
    (1 << 30 | 0x6123, False, 0x6123),
    (1 << 30 | 0x6123, True, 0x6123),
    (1 << 31, False, None),
    (1 << 31, True, None),
]


@pytest.mark.parametrize(("rule", "asks", "tag"), VMVIR)
def test_pfvmvir_says_which_tag_a_pool_has(
    switch: Switch, rule: int, *, asks: bool, tag: int | None
) -> None:
    switch.host.set("PFVMVIR", rule, 2)
    data = frame(STRANGER, mac(2))
    switch.tx[2].put_context(vlan=7)
    switch.tx[2].send([data], VLE if asks else 0)
    head = b"" if tag is None else struct.pack("!HH", 0x8100, tag)
    assert switch.host.sent() == [data[:12] + head + data[12:]]


def test_the_inserted_tag_is_what_the_switch_goes_by(switch: Switch) -> None:
    switch.switch()
    switch.join(0, 5, 1)
    switch.host.set("PFVMVIR", 1 << 30 | 5)
    switch.tx[0].send([frame(BROADCAST, mac(0))])
    (on_the_wire,) = switch.host.sent()
    assert on_the_wire == frame(BROADCAST, mac(0), 5) + b"...."
    assert switch.got() == {1: [on_the_wire]}


@pytest.mark.parametrize("pool", [1, 40])
def test_a_pool_that_may_not_send_waits(host: CardHost, pool: int) -> None:
    switch = Switch(host, pool + 1)
    host.set("PFVFTE", ONES ^ 1 << pool % 32, pool // 32)
    data = frame(STRANGER, mac(pool))
    assert switch.send(pool, data) == (False, set())
    assert switch.send(0, data) == (True, set())
    assert not switch.tx[pool].is_done(0)
    host.set("PFVFTE", ONES, pool // 32)
    assert host.sent() == [data]
