"""What every register of the software 82599 does when it is read and written.

First laws that hold for each row of the table in `snabb_py.nic.registers`; then the
resets; then, for each register that the table marks special, what it does beside
remembering: tests that bear its name in `@row`. Sections are the data sheet's.
"""

import os
import struct
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from snabb_py._native import lib
from snabb_py.nic import eeprom, registers
from snabb_py.nic.model82599 import Card
from snabb_py.nic.registers import ALIASES, PAIRS, REGISTERS, Register
from tests.card_host import CONTEXT, CardHost

ONES = 0xFFFFFFFF
PATTERNS = (ONES, 0x5A5A5A5A, 0xA5A5A5A5, 0)
MS, US = 1_000_000, 1_000
CONFIG, BAR2, BAR4 = lib.MODEL_CONFIG, lib.MODEL_BAR2, lib.MODEL_BAR4
INTX, MSI, MSIX = lib.MODEL_INTX, lib.MODEL_MSI, lib.MODEL_MSIX

FRAME = bytes.fromhex("02534e420001 020000000001 88b5".replace(" ", "")).ljust(60, b".")

Test = TypeVar("Test", bound=Callable[..., None])

IPV4 = bytes(Ether(FRAME[:12] + b"\x08\0") / IP() / b"some twenty bytes more")

#: Special registers: the names of the tests that show what they do.
ROWS: dict[str, list[str]] = {}


def row(*names: str) -> Callable[[Test], Test]:
    """Say which special registers a test shows."""

    def remember(test: Test) -> Test:
        for name in names:
            ROWS.setdefault(name, []).append(test.__name__)
        return test

    return remember


@pytest.fixture(scope="module")
def shared_card() -> Iterator[Card]:
    with Card() as card:
        yield card


@pytest.fixture
def card(shared_card: Card) -> Card:
    """Return a card as after a reset, that nobody steps."""
    shared_card.reset()
    return shared_card


@pytest.fixture
def host() -> Iterator[CardHost]:
    with CardHost(memory=1 << 20, packets=1024) as host:
        yield host


def every(*access: str, special: bool | None = None) -> pytest.MarkDecorator:
    """Parametrise by the registers that answer so."""
    return pytest.mark.parametrize(
        "register",
        [
            register
            for register in REGISTERS.values()
            if register.access in access and special in {None, register.special}
        ],
        ids=lambda register: register.name,
    )


def reset_value(register: Register, n: int) -> int:
    return 0 if register.reset_first and n else register.reset


def poke(card: Card, at: int, value: int) -> None:
    """Set a register behind the card's back."""
    card.registers[at // 4] = value


# -- laws ------------------------------------------------------------------------------


def test_every_special_register_has_a_row() -> None:
    special = {name for name, register in REGISTERS.items() if register.special}
    pairs = {*PAIRS, *PAIRS.values()}
    assert special - pairs <= set(ROWS) <= set(REGISTERS)


@every("RW", special=False)
def test_what_can_be_written_is_kept_and_nothing_else(
    card: Card, register: Register
) -> None:
    for n, at in enumerate(register.offsets()):
        fixed = reset_value(register, n) & ~register.mask
        for pattern in PATTERNS:
            card.write(at, pattern)
            assert card.read(at) == fixed | pattern & register.mask
    card.reset()
    for n, at in enumerate(register.offsets()):  # each by itself
        card.write(at, n & register.mask)
    for n, at in enumerate(register.offsets()):
        assert card.read(at) & register.mask == n & register.mask


@every("RW", special=True)
def test_special_ones_keep_their_mask_too(card: Card, register: Register) -> None:
    if register.name == "SWSM":
        card.read(register.offsets()[0])  # a read sets SMBI; writing does not
    for at in register.offsets():
        for pattern in PATTERNS:
            card.write(at, pattern & register.mask)
            assert card.read(at) & register.mask == pattern & register.mask


#: They change by themselves, or by writing to them in their own way.
LIVELY = {"FRTIMER", "EICS", "EIMS", "EIMC", "EICS_EX", "EIMS_EX", "EIMC_EX"}


@every("RO")
def test_read_only_ignores_writing(card: Card, register: Register) -> None:
    if register.name in LIVELY:
        assert register.name in ROWS
        return
    for at in register.offsets():
        before = card.read(at)
        for pattern in PATTERNS:
            card.write(at, pattern)
            assert card.read(at) == before


@every("RC", special=False)
def test_a_statistic_is_cleared_by_reading_it(card: Card, register: Register) -> None:
    for at in register.offsets():
        for value in (1, ONES):
            poke(card, at, value)
            card.write(at, 0x12345678)
            assert card.read(at) == value
            assert card.read(at) == 0


@pytest.mark.parametrize(("low", "high"), PAIRS.items())
def test_of_a_pair_the_high_half_clears_both(card: Card, low: str, high: str) -> None:
    for at in REGISTERS[low].offsets():
        assert at + 4 in REGISTERS[high].offsets()
        poke(card, at, 0x89ABCDEF)
        poke(card, at + 4, 0xF)
        card.write(at, 0)
        card.write(at + 4, 0)
        assert [card.read(at), card.read(at)] == [0x89ABCDEF, 0x89ABCDEF]
        assert card.read(at + 4) == 0xF
        assert [card.read(at), card.read(at + 4)] == [0, 0]


@every("W1C", special=False)
def test_writing_ones_clears(card: Card, register: Register) -> None:
    for at in register.offsets():
        poke(card, at, ONES)
        assert card.read(at) == ONES
        card.write(at, 0)
        assert card.read(at) == ONES
        card.write(at, 0x0000FF01)
        assert card.read(at) == ONES & ~(0x0000FF01 & register.mask)
        card.write(at, ONES)
        assert card.read(at) == ONES & ~register.mask
        card.write(at, ONES)
        assert card.read(at) == ONES & ~register.mask


def test_what_is_not_in_the_table_reads_zero(card: Card) -> None:
    present = {at for register in REGISTERS.values() for at in register.offsets()}
    absent = set(range(0, registers.SIZE, 4)) - present
    absent -= {4 * i for i, true in enumerate(ALIASES) if true != 4 * i}
    assert len(absent) > 20_000
    for at in absent:
        poke(card, at, ONES)
        card.write(at, ONES)
        assert card.read(at) == 0, hex(at)


@pytest.mark.parametrize("at", [0x20000, 0x20004, 2, 0x0FFF_FFFC])
def test_outside_of_the_registers_there_is_nothing(card: Card, at: int) -> None:
    name = "mmio-bad-size" if at % 4 else "mmio-outside"
    before = card.counters[name]
    card.write(at, ONES)
    assert card.read(at) == 0
    assert card.counters[name] == before + 2


@pytest.mark.parametrize(
    "register",
    [register for register in REGISTERS.values() if register.aliases],
    ids=lambda register: register.name,
)
def test_an_alias_is_the_same_register(card: Card, register: Register) -> None:
    others = [at for segment in register.aliases for at in segment.offsets()]
    assert others
    for true, other in zip(register.offsets(), others, strict=False):
        assert ALIASES[other // 4] == true
        for pattern in (0x5A5A5A5B, 0x1234567E):
            value = register.mask & pattern
            if register.access == "RC":
                poke(card, true, value)
                assert [card.read(other), card.read(true)] == [value, 0]
            elif register.access == "RW":
                card.write(other, value)
                assert card.read(true) & register.mask == value
                card.write(true, 0)
                assert card.read(other) & register.mask == 0


KNOWN_ALIASES = {
    0x00004: ("CTRL", 0),
    0x05400: ("RAL", 0),
    0x0547C: ("RAH", 15),
    0x0213C: ("SRRCTL", 15),
    0x02204: ("DCA_RXCTRL", 1),
    0x05484: ("PSRTYPE", 1),
    0x05818: ("MRQC", 0),
    0x05C7C: ("RETA", 31),
    0x05CA4: ("RSSRK", 9),
    0x06070: ("QPTC", 1),
    0x11068: ("PBACL", 0),
}


@pytest.mark.parametrize("at", KNOWN_ALIASES, ids=hex)
def test_aliases_that_drivers_use(card: Card, at: int) -> None:
    name, n = KNOWN_ALIASES[at]
    assert ALIASES[at // 4] == registers.offset(name, n)
    if REGISTERS[name].access == "RW":
        mask = 4 if name == "CTRL" else REGISTERS[name].mask
        card.write(at, mask)
        assert card.read(registers.offset(name, n)) & mask == mask


# -- statistics count, carry, stick ----------------------------------------------------


@pytest.fixture
def busy(host: CardHost) -> CardHost:
    """Return a host with a queue each way."""
    host.start()
    host.receive_queue(0)
    host.transmit_queue(0)
    return host


def traffic(host: CardHost) -> None:
    """Send and receive a frame of each kind."""
    rx, tx = host.receive_queues[0], host.transmit_queues[0]
    frames = [b"\xff" * 6 + FRAME[6:], b"\x01" + FRAME[1:], FRAME]
    frames += [FRAME.ljust(n, b".") for n in (100, 200, 400, 800, 1200)]
    host.arrive([*frames, FRAME.ljust(1600, b".")])
    assert rx.frames() == frames
    tx.send(frames)
    assert host.sent() == frames


#: What `traffic` counts: all of them, some more than once.
COUNTED = [
    *("TPR", "RXNFGPC", "GPRC", "MPRC", "BPRC", "ROC", "RXDGPC", "QPRC"),
    *("PRC64", "PRC127", "PRC255", "PRC511", "PRC1023", "PRC1522"),
    *("TPT", "GPTC", "MPTC", "BPTC", "TXDGPC", "QPTC"),
    *("PTC64", "PTC127", "PTC255", "PTC511", "PTC1023", "PTC1522"),
]
COUNTED_PAIRS = [
    *("GORCL", "TORL", "RXNFGBCL", "RXDGBCL", "QBRC_L"),
    *("GOTCL", "TXDGBCL", "QBTC_L"),
]


def test_statistics_count_and_stick_at_their_largest_value(busy: CardHost) -> None:
    traffic(busy)
    for name in COUNTED:
        assert busy.get(name) > 0, name
    for value in (ONES - 1, ONES):
        for name in COUNTED:
            poke(busy.card, registers.offset(name), value)
        traffic(busy)
        traffic(busy)
        assert [name for name in COUNTED if busy.get(name) != ONES] == []


@pytest.mark.parametrize("name", COUNTED_PAIRS)
def test_a_pair_carries_into_the_high_half_and_sticks_at_36_bits(
    busy: CardHost, name: str
) -> None:
    low, high = registers.offset(name), registers.offset(PAIRS[name])
    poke(busy.card, low, ONES)
    traffic(busy)
    assert busy.card.read(low) < 1 << 16
    assert busy.card.read(high) == 1
    poke(busy.card, low, ONES - 1)
    poke(busy.card, high, 0xF)
    traffic(busy)
    assert [busy.card.read(low), busy.card.read(high)] == [ONES, 0xF]


# -- resets ----------------------------------------------------------------------------

#: The card says what they read; they have tests of their own.
RUNNING = {"STATUS", "FRTIMER", "LINKS", "PCS1GLSTA"}
#: A software reset leaves them: 4.2.1.6 for the statistics, semaphores by 10.5.4.
STATISTICS = {name for name, register in REGISTERS.items() if register.access == "RC"}
SEMAPHORES = {"SWSM", "SW_FW_SYNC"}
SURVIVORS = STATISTICS - {"EICR"} | SEMAPHORES


def fill(card: Card) -> None:
    """Set every bit of every register that can be set at all."""
    for register in REGISTERS.values():
        for at in register.offsets():
            if register.access in {"RC", "W1C"}:
                poke(card, at, 0xF)
            elif register.name == "CTRL":
                card.write(at, 1 << 2)
            else:
                card.write(at, ONES)
    card.read(registers.offset("SWSM"))
    card.write(registers.offset("SWSM"), 3)


def differing(card: Card) -> set[str]:
    """Return the registers that do not read as after a reset."""
    own = {"RAL": card.mac[:4], "RAH": card.mac[4:] + b"\x00\x80"}
    result = set()
    for name, register in REGISTERS.items():
        if name in RUNNING:
            continue
        for n, at in enumerate(register.offsets()):
            value = reset_value(register, n)
            if n == 0 and name in own:
                value = int.from_bytes(own[name], "little")
            if card.read(at) != value:
                result.add(name)
    return result


def by_rst(card: Card) -> None:
    card.write(registers.offset("CTRL"), 1 << 26)


def by_lrst(card: Card) -> None:
    card.write(registers.offset("CTRL"), 1 << 3)


def by_flr(card: Card) -> None:
    card.store(CONFIG, 0xA8, b"\x10\x80")


def by_power(card: Card) -> None:
    card.store(CONFIG, 0x44, b"\x03\x00")
    card.store(CONFIG, 0x44, b"\x00\x00")


def test_a_new_card_reads_as_after_a_reset() -> None:
    with Card() as card:
        assert differing(card) == set()


@pytest.mark.parametrize(
    ("reset", "left"),
    [
        (by_rst, SURVIVORS),
        (by_lrst, SURVIVORS),
        (by_power, SEMAPHORES),
        (by_flr, set()),
        (Card.reset, set()),
    ],
    ids=["CTRL.RST", "CTRL.LRST", "D3hot to D0", "function level", "from outside"],
)
@row("CTRL", "RAL", "RAH", "EICR", "SWSM", "RXDCTL", "TXDCTL", "EEWR", "EIAM_EX")
def test_registers_after_a_reset(
    card: Card, reset: Callable[[Card], None], left: set[str]
) -> None:
    fill(card)
    assert len(differing(card)) > 350
    fill(card)  # looking has cleared what reading clears
    resets = card.counters["resets"]
    reset(card)
    assert differing(card) == left
    assert card.counters["resets"] == resets + 1


def test_every_statistic_survives_a_software_reset(card: Card) -> None:
    for name in STATISTICS - {"EICR"}:
        for at in REGISTERS[name].offsets():
            poke(card, at, 7)
    by_rst(card)
    for name in STATISTICS - {"EICR"} - set(PAIRS.values()):
        for at in REGISTERS[name].offsets():
            assert card.read(at) == 7, name


def test_a_power_state_that_is_no_transition_to_d0_resets_nothing(card: Card) -> None:
    card.write(registers.offset("MTA", 3), 5)
    for state in (0, 3, 3):
        card.store(CONFIG, 0x44, bytes([state, 0]))
        assert card.read(registers.offset("MTA", 3)) == 5
    card.store(CONFIG, 0x44, b"\x00\x00")
    assert card.read(registers.offset("MTA", 3)) == 0


def test_a_function_level_reset_takes_configuration_and_msix_along(card: Card) -> None:
    fresh = card.access(CONFIG, 0, 4096)
    card.store(CONFIG, 4, b"\x07\x00")
    card.store(CONFIG, 0x10, struct.pack("<I", 0xFE000000))
    card.store(BAR4, 0, bytes(range(8)))
    by_flr(card)
    assert card.access(CONFIG, 0, 4096) == fresh
    assert card.access(BAR4, 0, 8) == bytes(8)


def test_a_software_reset_leaves_configuration_and_msix(card: Card) -> None:
    card.store(CONFIG, 4, b"\x07\x00")
    card.store(BAR4, 0, bytes(range(8)))
    before = card.access(CONFIG, 0, 4096)
    by_rst(card)
    assert card.access(CONFIG, 0, 4096) == before
    assert card.access(BAR4, 0, 8) == bytes(range(8))


def test_a_reset_stops_the_queues_and_empties_the_packet_buffer(host: CardHost) -> None:
    host.start()
    rx = host.receive_queue(0, post=False)
    host.arrive([FRAME] * 3)
    host.set("CTRL", 1 << 26)
    host.step()
    host.start()
    rx = host.receive_queue(0)
    host.step()
    assert rx.frames() == []
    assert host.counters["drop-rx-disabled"] == 3
    host.arrive([FRAME])
    assert rx.frames() == [FRAME]


def test_what_is_mapped_survives_every_reset(host: CardHost) -> None:
    for reset in (by_rst, by_flr, by_power):
        reset(host.card)
        assert host.card.nregions == 1


# -- commands: bits that are over when the write is ------------------------------------

COMMANDS = [
    # register, written, read back
    ("CTRL", 1 << 26, 0),
    ("CTRL", 1 << 3, 0),
    ("CTRL", 1 << 26 | 1 << 3 | 1 << 2, 0),
    ("CTRL_EXT", 1 << 14, 0),  # PFRSTD
    ("CTRL_EXT", 1 << 14 | 1 << 28, 1 << 28),
    ("TCPTIMER", 1 << 8 | 1 << 9 | 5, 1 << 9 | 5),
    ("TCPTIMER", 1 << 10, 0),
    ("EITR", 1 << 31 | 0x8 | 3 << 21, 0x8),
    ("FDIRCTRL", 1, 1 | 1 << 3),  # INIT_DONE
    ("FDIRCMD", 0x00018001, 0x00018000),
    ("FDIRCMD", 0x00018002, 0x00018000),
    ("FDIRCMD", 3, 0),
    ("TXDCTL", 1 << 26, 0),
    ("TXDCTL", 1 << 26 | 1 << 25 | 0x20, 1 << 25 | 0x20),
    ("RXDCTL", 1 << 26 | 1 << 25, 1 << 25),
    ("MSCA", 1 << 30 | 0x0C210123, 0x0C210123),
    ("AUTOC", 0xC0007000, 0xC0006000),
    ("PFQDE", 0x10001 | 5 << 8, 1 | 5 << 8),
    ("PFQDE", 0x20000 | 6 << 8, 6 << 8),
    ("EERD", 0x3F << 2, 0x3F << 2),  # not begun
    ("EEC", 1 << 6, 0x00003700 | 1 << 6 | 1 << 7),  # GNT
    ("EEC", 0x10, 0x00003710),
    ("FLA", 1 << 4, 1 << 3 | 1 << 4 | 1 << 5),
    ("FLA", 0, 1 << 3),
    ("SWSM", 1, 0),
]


@pytest.mark.parametrize(("name", "written", "read"), COMMANDS)
@row(*{name for name, _, _ in COMMANDS})
def test_commands_are_done_at_once(
    card: Card, name: str, written: int, read: int
) -> None:
    at = registers.offset(name)
    card.write(at, written)
    assert card.read(at) == read


# -- general: 8.2.3.1 ------------------------------------------------------------------


@row("CTRL", "STATUS")
def test_gio_dis_stops_all_dma_until_it_is_cleared(host: CardHost) -> None:
    host.start()
    rx, tx = host.receive_queue(0), host.transmit_queue(0)
    assert host.get("STATUS") & 1 << 19
    host.set("CTRL", 1 << 2)
    assert host.get("CTRL") == 1 << 2
    assert not host.get("STATUS") & 1 << 19
    tx.send([FRAME])
    host.arrive([FRAME])
    assert (rx.frames(), host.sent(), tx.is_done(0)) == ([], [], False)
    host.set("CTRL", 0)
    assert host.get("STATUS") & 1 << 19
    assert host.sent() == [FRAME]
    assert (rx.frames(), tx.is_done(0)) == ([FRAME], True)


@row("CTRL", "STATUS")
def test_a_reset_ends_gio_dis(host: CardHost) -> None:
    host.set("CTRL", 1 << 2)
    host.set("CTRL", 1 << 26 | 1 << 2)
    assert host.get("STATUS") & 1 << 19
    host.start()
    rx = host.receive_queue(0)
    host.arrive([FRAME])
    assert rx.frames() == [FRAME]


@row("STATUS")
def test_status_is_never_all_ones(card: Card) -> None:
    fill(card)
    assert card.read(registers.offset("STATUS")) == 0x80
    card.reset()
    assert card.read(registers.offset("STATUS")) == 0x00080080


@row("STATUS", "LINKS", "PCS1GLSTA")
def test_the_link_shows_everywhere(card: Card) -> None:
    def state() -> tuple[int, int, int]:
        names = ("STATUS", "LINKS", "PCS1GLSTA")
        status, links, lsta = (card.read(registers.offset(name)) for name in names)
        return status >> 7 & 1, links >> 30 & 1, lsta & 1

    assert state() == (1, 1, 1)
    card.plug(False)
    assert state() == (0, 0, 0)
    card.write(registers.offset("AUTOC"), 0xC0006001)  # FLU: forced
    assert state() == (1, 1, 1)
    card.write(registers.offset("AUTOC"), 0xC0006000)
    card.plug(True)
    assert state() == (1, 1, 1)


SPEEDS = {0: 2, 1: 3, 2: 2, 3: 3, 4: 3, 5: 3, 6: 3, 7: 3}  # by LMS: 2 is 1G, 3 is 10G


@pytest.mark.parametrize("mode", SPEEDS)
@row("LINKS", "AUTOC")
def test_links_tells_the_speed_of_the_mode(card: Card, mode: int) -> None:
    card.write(registers.offset("AUTOC"), mode << 13)
    assert card.read(registers.offset("LINKS")) >> 28 & 3 == SPEEDS[mode]


@row("AUTOC", "ANLP1", "LINKS")
def test_restarting_negotiation_ends_at_once_and_is_told(host: CardHost) -> None:
    assert host.get("ANLP1") >> 16 & 0xF == 0
    host.set("AUTOC", host.get("AUTOC") | 1 << 12)
    assert not host.get("AUTOC") & 1 << 12
    assert host.get("ANLP1") >> 16 & 0xF != 0
    assert host.get("LINKS") & 0xC0000000 == 0xC0000000
    assert host.get("EICR") == 1 << 20
    host.set("CTRL", 1 << 26)
    assert host.get("ANLP1") == 0


@row("AUTOC", "ANLP1")
def test_without_a_link_negotiation_tells_nothing(host: CardHost) -> None:
    host.card.plug(False)
    host.step()
    host.get("EICR")
    host.set("AUTOC", host.get("AUTOC") | 1 << 12)
    assert host.get("ANLP1") >> 16 & 0xF != 0
    assert (host.get("EICR"), host.get("LINKS") & 1 << 30) == (0, 0)


@row("LINKS", "EICR")
def test_lsc_comes_once_for_each_change(host: CardHost) -> None:
    causes = []
    host.step()
    for plugged in (False, False, True, True, False):
        host.card.plug(plugged)
        host.step()
        causes.append(host.get("EICR") >> 20 & 1)
    assert causes == [1, 0, 1, 0, 1]


@row("ESDP")
def test_esdp_tells_whether_a_module_is_in(card: Card) -> None:
    at = registers.offset("ESDP")
    for value in (0, 0xFFFFFFFF):
        card.write(at, value)
        assert card.read(at) & 1 << 2
    with Card(sfp=False) as empty:
        empty.write(at, 0xFFFFFFFF)
        assert not empty.read(at) & 1 << 2
        assert not empty.read(registers.offset("LINKS")) & 1 << 30


@row("I2CCTL")
def test_i2cctl_reads_the_wires(card: Card) -> None:
    at = registers.offset("I2CCTL")
    for clock in (0, 1):
        for data in (0, 1):
            card.write(at, clock << 1 | data << 3)
            assert card.read(at) == clock * 3 | data * 0xC


@row("FRTIMER")
def test_frtimer_counts_microseconds(host: CardHost) -> None:
    host.step()
    begin = host.get("FRTIMER")
    for us in (1, 10, 12345):
        host.step(us * US)
        assert host.get("FRTIMER") - begin == us
        begin += us
    host.set("FRTIMER", 0)
    assert host.get("FRTIMER") == begin


def tcp_timer(host: CardHost) -> bool:
    """Take the timer's cause."""
    host.step(0)
    return bool(host.get("EICR") & 1 << 30)


KICK, COUNT, FINISH, LOOP = 1 << 8, 1 << 9, 1 << 10, 1 << 11


@row("TCPTIMER", "EICR")
def test_tcptimer_counts_milliseconds_down_once(host: CardHost) -> None:
    host.step()
    host.set("TCPTIMER", KICK | COUNT | 3)
    host.step(3 * MS - 1)
    assert not tcp_timer(host)
    host.step(2)
    assert tcp_timer(host)
    host.step(100 * MS)
    assert not tcp_timer(host)


@row("TCPTIMER")
def test_tcptimer_in_a_loop_comes_again_and_again(host: CardHost) -> None:
    host.step()
    host.set("TCPTIMER", KICK | COUNT | LOOP | 2)
    host.step(1)
    for _ in range(5):
        host.step(2 * MS - 1)
        assert not tcp_timer(host)
        host.step(1)
        assert tcp_timer(host)
    host.set("TCPTIMER", 0)
    host.step(100 * MS)
    assert not tcp_timer(host)


@row("TCPTIMER")
def test_tcptimer_needs_kick_and_count(host: CardHost) -> None:
    host.step()
    for value in (KICK | 1, COUNT | 1, COUNT | LOOP | 1):
        host.set("TCPTIMER", value)
        host.step(10 * MS)
        assert not tcp_timer(host)


@pytest.mark.parametrize("running", [True, False])
@row("TCPTIMER")
def test_finish_is_an_interrupt_whatever_the_timer_does(
    host: CardHost, *, running: bool
) -> None:
    host.step()
    host.set("TCPTIMER", COUNT | 5 | running * KICK)
    host.set("TCPTIMER", COUNT | 5 | FINISH)
    assert tcp_timer(host)
    host.step(100 * MS)
    assert not tcp_timer(host)


@row("TCPTIMER")
def test_after_finish_a_loop_begins_anew(host: CardHost) -> None:
    host.step()
    host.set("TCPTIMER", KICK | COUNT | LOOP | 4)
    host.step(3 * MS)
    host.set("TCPTIMER", COUNT | LOOP | FINISH | 4)
    assert tcp_timer(host)
    host.step(4 * MS - 1)
    assert not tcp_timer(host)
    host.step(2)
    assert tcp_timer(host)


# -- EEPROM, semaphores, MDIO; bit by bit in tests/unit/test_model_phy.py --------------


@row("EERD", "EEWR")
def test_eerd_and_eewr_reach_the_words_of_the_eeprom(card: Card) -> None:
    def read(word: int) -> int:
        card.write(registers.offset("EERD"), word << 2 | 1)
        value = card.read(registers.offset("EERD"))
        assert value & 0xFFFF == word << 2 | 2  # DONE, and START is over
        return value >> 16

    image = eeprom.eeprom_image(card.mac)
    assert [read(word) for word in (0x2C, 0x3F)] == [image[0x2C], image[0x3F]]
    card.write(registers.offset("EEWR"), 0x1234 << 16 | 0x200 << 2 | 1)
    assert card.read(registers.offset("EEWR")) == 0x1234 << 16 | 0x200 << 2 | 2
    assert read(0x200) == 0x1234
    card.write(registers.offset("EEWR"), 0x5678 << 16 | 0x200 << 2)
    assert read(0x200) == 0x1234
    card.reset()
    assert read(0x200) == 0x1234
    card.write(registers.offset("EEWR"), 0xFFFF << 16 | 0x200 << 2 | 1)


@row("SWSM")
def test_who_reads_smbi_as_zero_has_it(card: Card) -> None:
    at = registers.offset("SWSM")
    assert [card.read(at) & 1 for _ in range(3)] == [0, 1, 1]
    card.write(at, 2)  # SWESMBI sticks, and SMBI is let go
    assert [card.read(at), card.read(at)] == [2, 3]
    card.write(at, 0)
    assert card.read(at) == 0


def test_sw_fw_sync_remembers_who_has_what(card: Card) -> None:
    at = registers.offset("SW_FW_SYNC")
    card.write(at, 0xFFFF0008)
    assert card.read(at) == 0x8
    by_rst(card)
    assert card.read(at) == 0x8
    by_flr(card)
    assert card.read(at) == 0


@row("MSCA", "MSRWD")
def test_on_mdio_there_is_nobody(card: Card) -> None:
    msca, msrwd = registers.offset("MSCA"), registers.offset("MSRWD")
    card.write(msrwd, 0x1234ABCD)
    assert card.read(msrwd) == 0xABCD
    for phy in range(32):
        card.write(msca, 1 << 30 | phy << 21 | 1 << 16 | 2)  # address
        assert card.read(msrwd) == (0xFFFFABCD if phy else 0xABCD)
        card.write(msca, 1 << 30 | 3 << 26 | phy << 21 | 1 << 16 | 2)  # read
        assert not card.read(msca) & 1 << 30
        assert card.read(msrwd) == 0xFFFFABCD


# -- interrupts: 8.2.3.5, 7.3 ----------------------------------------------------------

MSIX_MODE, OCD, EIAME = 1 << 4, 1 << 5, 1 << 30
LSC, TCP_TIMER, RX_MISS = 1 << 20, 1 << 30, 1 << 17


@row("EICS", "EICR")
def test_eics_sets_causes_and_shows_them_without_clearing(card: Card) -> None:
    eics, eicr = registers.offset("EICS"), registers.offset("EICR")
    card.write(eics, LSC)
    card.write(eics, 5)
    assert [card.read(eics), card.read(eics)] == [LSC | 5, LSC | 5]
    assert [card.read(eicr), card.read(eicr)] == [LSC | 5, 0]
    assert card.read(eics) == 0


def test_bit_31_is_no_cause(card: Card) -> None:
    card.write(registers.offset("EICS"), 1 << 31)
    assert card.read(registers.offset("EICR")) == 0


@row("EICR")
def test_eicr_is_cleared_by_writing_ones(card: Card) -> None:
    card.write(registers.offset("EICS"), LSC | RX_MISS | 0xF)
    card.write(registers.offset("EICR"), LSC | 3)
    assert card.read(registers.offset("EICS")) == RX_MISS | 0xC


CLEARED_BY_READING = [
    # GPIE, what stays in EICR of LSC | TCP_TIMER | 0xF
    (0, 0),
    (OCD, 0),  # without MSI-X it has no say
    (MSIX_MODE, 0),
    (MSIX_MODE | OCD, TCP_TIMER | 0xF),  # 29:16 alone are cleared
]


@pytest.mark.parametrize(("gpie", "left"), CLEARED_BY_READING)
@row("EICR")
def test_what_a_read_of_eicr_clears(card: Card, gpie: int, left: int) -> None:
    card.write(registers.offset("GPIE"), gpie)
    card.write(registers.offset("EICS"), LSC | TCP_TIMER | 0xF)
    assert card.read(registers.offset("EICR")) == LSC | TCP_TIMER | 0xF
    assert card.read(registers.offset("EICR")) == left


@row("EIMS", "EIMC")
def test_eims_sets_and_eimc_clears_the_mask(card: Card) -> None:
    eims, eimc = registers.offset("EIMS"), registers.offset("EIMC")
    card.write(eims, LSC)
    card.write(eims, 7)
    assert [card.read(eims), card.read(eimc)] == [LSC | 7] * 2
    card.write(eimc, 2)
    assert [card.read(eims), card.read(eimc)] == [LSC | 5] * 2
    card.write(eimc, 0x7FFFFFFF)
    assert [card.read(eims), card.read(eimc)] == [0] * 2


@row("EICS_EX", "EIMS_EX", "EIMC_EX", "EIAM_EX")
def test_the_extended_registers_hold_64_vectors(card: Card) -> None:
    def at(name: str, n: int = 0) -> int:
        return registers.offset(name, n)

    for n, bits in ((0, 0x80010003), (1, 0x80000001)):
        card.write(at("EICS_EX", n), bits)
        card.write(at("EIMS_EX", n), bits)
        card.write(at("EIAM_EX", n), bits)
        assert [
            card.read(at(name, n)) for name in ("EICS_EX", "EIMS_EX", "EIAM_EX")
        ] == [bits] * 3
        card.write(at("EIMC_EX", n), bits & ONES << 16)
        assert card.read(at("EIMS_EX", n)) == bits & 0xFFFF
        assert card.read(at("EIMC_EX", n)) == bits & 0xFFFF
    assert card.read(at("EICS_EX")) == 0x80010003


@row("EICS_EX", "EIMS_EX", "EIMC_EX", "EIAM_EX", "EICS", "EIMS", "EIMC")
def test_their_first_16_bits_are_those_of_the_short_ones(card: Card) -> None:
    for name in ("EICS", "EIMS"):
        short, wide = registers.offset(name), registers.offset(f"{name}_EX")
        card.write(wide, 0xFFFF0005)
        assert card.read(short) == 5
        card.write(short, LSC | 2)
        assert card.read(wide) == 0xFFFF0007
        assert card.read(short) == LSC | 7
    card.write(registers.offset("EIMC"), 4)
    assert card.read(registers.offset("EIMS_EX")) == 0xFFFF0003
    card.write(registers.offset("EIMC_EX"), 1)
    assert card.read(registers.offset("EIMS")) == LSC | 2
    card.write(registers.offset("EIAM"), LSC | 0xF0)
    assert card.read(registers.offset("EIAM_EX")) == 0xF0
    card.write(registers.offset("EIAM_EX"), 0xFFFF000F)
    assert card.read(registers.offset("EIAM")) == LSC | 0xF


@pytest.mark.parametrize("reads", [True, False])
@row("EICR")
def test_touching_eicr_masks_by_eiam(card: Card, *, reads: bool) -> None:
    card.write(registers.offset("EIAM"), LSC | 3)
    card.write(registers.offset("EIMS"), LSC | RX_MISS | 0xF)
    if reads:
        card.read(registers.offset("EICR"))
    else:
        card.write(registers.offset("EICR"), 0)
    assert card.read(registers.offset("EIMS")) == RX_MISS | 0xC


@row("EICR")
def test_with_eiame_touching_eicr_masks_nothing(card: Card) -> None:
    card.write(registers.offset("GPIE"), EIAME)
    card.write(registers.offset("EIAM"), ONES)
    card.write(registers.offset("EIMS"), LSC | 0xF)
    card.read(registers.offset("EICR"))
    assert card.read(registers.offset("EIMS")) == LSC | 0xF


@pytest.fixture
def msix(host: CardHost) -> CardHost:
    """Return a host whose card sends MSI-X, with all masks open."""
    host.set("GPIE", MSIX_MODE | 1 << 31)
    for n in range(2):
        host.set("EIMS_EX", ONES, n)
    host.set("EIMS", 0x7FFFFFFF)
    host.step()
    return host


def test_an_event_of_a_vector_is_one_message(msix: CardHost) -> None:
    vectors = [msix.interrupt(MSIX, n) for n in range(64)]
    for n in (0, 15, 16, 31, 32, 63):
        msix.set("EICS_EX", 1 << n % 32, n // 32)
        msix.set("EICS_EX", 1 << n % 32, n // 32)
        assert [v.taken() for v in vectors] == [0] * 64  # at the next step
        msix.step()
        assert [v.taken() for v in vectors] == [int(v.vector == n) for v in vectors]
        msix.step()
        assert vectors[n].taken() == 0
    assert msix.counters["interrupts"] == 6


def test_a_masked_vector_is_sent_when_it_is_unmasked(msix: CardHost) -> None:
    vector = msix.interrupt(MSIX, 5)
    msix.set("EIMC", 1 << 5)
    msix.set("EICS", 1 << 5)
    msix.step()
    assert vector.taken() == 0
    msix.set("EIMS", 1 << 5)
    msix.step()
    assert vector.taken() == 1


@row("EICR")
def test_a_cause_that_is_cleared_before_is_not_sent(msix: CardHost) -> None:
    vector = msix.interrupt(MSIX, 5)
    msix.set("EIMC", 1 << 5)
    msix.set("EICS", 1 << 5)
    msix.set("EICR", 1 << 5)
    msix.set("EIMS", 1 << 5)
    msix.step()
    assert vector.taken() == 0


@pytest.mark.parametrize("clear", [True, False])
def test_eiac_clears_the_cause_with_the_message(msix: CardHost, *, clear: bool) -> None:
    msix.set("EIAC", clear << 3)
    msix.set("EICS", 1 << 3)
    msix.step()
    assert msix.get("EICS") == (0 if clear else 1 << 3)


def test_causes_of_vectors_from_16_on_clear_themselves(msix: CardHost) -> None:
    msix.set("EICS_EX", 1 << 16)
    msix.set("EICS_EX", 1 << 31, 1)
    msix.step()
    assert [msix.get("EICS_EX", n) for n in range(2)] == [0, 0]


@row("EIAM_EX")
def test_with_eiame_a_message_masks_its_vector_by_eiam(msix: CardHost) -> None:
    vectors = [msix.interrupt(MSIX, n) for n in (3, 40)]
    msix.set("GPIE", MSIX_MODE | EIAME)
    msix.set("EIAM_EX", 1 << 3)
    msix.set("EIAM_EX", 1 << 8, 1)
    for _ in range(2):
        msix.set("EICS", 1 << 3)
        msix.set("EICS_EX", 1 << 8, 1)
        msix.step()
    assert [v.taken() for v in vectors] == [1, 1]
    assert msix.get("EIMS_EX") == ONES & ~(1 << 3)
    assert msix.get("EIMS_EX", 1) == ONES & ~(1 << 8)
    msix.set("EIMS", 1 << 3)
    msix.set("EIMS_EX", 1 << 8, 1)
    msix.step()
    assert [v.taken() for v in vectors] == [1, 1]


QUEUES = [0, 1, 2, 63, 64, 127]


@pytest.mark.parametrize("queue", QUEUES)
def test_ivar_leads_queues_to_vectors(msix: CardHost, queue: int) -> None:
    received, sent = msix.interrupt(MSIX, 9), msix.interrupt(MSIX, 45)
    other = [msix.interrupt(MSIX, n) for n in range(64) if n not in {9, 45}]
    entry = (0x80 | 9) | (0x80 | 45) << 8
    msix.set("IVAR", entry << 16 * (queue % 2), queue // 2)
    msix.start()
    tx = msix.transmit_queue(queue)
    tx.send([FRAME])
    msix.sent()
    assert (received.taken(), sent.taken()) == (0, 1)
    # Two queues for each of 64 pools; by RSS, whose table has but one answer.
    msix.set("PFVTCTL", 1 | (queue // 2) << 7)
    msix.set("PFVFRE", ONES, queue // 64)
    msix.set("MPSAR_LO", 0)
    msix.set("MRQC", 0xB | 1 << 17)
    msix.set("PSRTYPE", 1 << 29, queue // 2)
    for n in range(32):
        msix.set("RETA", 0x01010101 * (queue % 2), n)
    msix.receive_queue(queue)
    msix.arrive([IPV4, IPV4])
    assert (received.taken(), sent.taken()) == (1, 0)
    assert [v.taken() for v in other] == [0] * 62


def test_an_entry_of_ivar_without_valid_leads_nowhere(msix: CardHost) -> None:
    msix.set("IVAR", 0x0B0A)
    msix.start()
    msix.receive_queue(0)
    msix.arrive([FRAME])
    assert [msix.get("EICS"), msix.counters.get("interrupts", 0)] == [0, 0]


def test_a_descriptor_without_rs_is_no_event(msix: CardHost) -> None:
    msix.set("IVAR", 0x80 << 8)
    msix.start()
    tx = msix.transmit_queue(0)
    tx.put(0, CONTEXT)
    tx.ring_doorbell()
    msix.step()
    assert msix.get("EICS") == 0


@pytest.mark.parametrize("cause", [LSC, RX_MISS, 1 << 16, 1 << 29])
def test_ivar_misc_leads_other_causes_to_their_vector(
    msix: CardHost, cause: int
) -> None:
    timer, other = msix.interrupt(MSIX, 1), msix.interrupt(MSIX, 2)
    msix.set("IVAR_MISC", 0x80 | 1 | (0x80 | 2) << 8)
    msix.set("EICS", cause)
    msix.step()
    assert (timer.taken(), other.taken()) == (0, 1)
    assert msix.get("EICS") == cause  # until the driver clears it
    msix.step()
    assert other.taken() == 0
    msix.set("EICS", TCP_TIMER)
    msix.step()
    assert (timer.taken(), other.taken()) == (1, 0)


def test_eiac_clears_the_timers_cause(msix: CardHost) -> None:
    msix.set("IVAR_MISC", 0x80)
    msix.set("EIAC", TCP_TIMER)
    msix.set("EICS", TCP_TIMER)
    msix.step()
    assert msix.get("EICS") == 0


def test_masked_other_causes_wait(msix: CardHost) -> None:
    vector = msix.interrupt(MSIX, 2)
    msix.set("IVAR_MISC", 0x8200)
    msix.set("EIMC", LSC)
    msix.set("EICS", LSC)
    msix.step()
    assert vector.taken() == 0
    msix.set("EIMS", LSC)
    msix.step()
    assert vector.taken() == 1


INTERVALS = [1, 2, 100, 0x1FF]


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("vector", [0, 23, 24, 63])
@row("EITR")
def test_eitr_keeps_messages_of_a_vector_apart(
    msix: CardHost, vector: int, interval: int
) -> None:
    line, other = msix.interrupt(MSIX, vector), msix.interrupt(MSIX, 7)
    msix.set("EITR", interval << 3, vector)
    gap = interval * 2048

    def event(n: int) -> None:
        msix.set("EICS_EX", 1 << n % 32, n // 32)

    event(vector)
    msix.step(1)
    assert line.taken() == 1
    for _ in range(3):
        event(vector)
        event(7)
        msix.step(gap - 1)
        assert (line.taken(), other.taken()) == (0, 1)
        event(vector)
        msix.step(1)
        assert line.taken() == 1  # for both
    msix.step(10 * gap)
    assert line.taken() == 0


def test_without_an_interval_every_step_may_send(msix: CardHost) -> None:
    line = msix.interrupt(MSIX, 0)
    for _ in range(3):
        msix.set("EICS", 1)
        msix.step(1)
    assert line.taken() == 3


@row("EITR")
def test_cnt_wdis_keeps_the_counter_of_eitr(card: Card) -> None:
    for n in (0, 127):
        at = registers.offset("EITR", n)
        card.write(at, 5 << 21 | 8)
        assert card.read(at) == 5 << 21 | 8
        card.write(at, 1 << 31 | 9 << 21 | 16)
        assert card.read(at) == 5 << 21 | 16
        card.write(at, 9 << 21)
        assert card.read(at) == 9 << 21


def test_intx_is_a_level(host: CardHost) -> None:
    line = host.interrupt(INTX)
    host.set("EIMS", LSC | 1)
    host.set("EICS", LSC)
    host.step()
    assert line.taken() == 1
    host.set("EICS", 1)
    host.step()
    assert line.taken() == 0  # the host has not taken the first
    host.card.unmask_intx()
    host.step()
    assert line.taken() == 1  # for the causes are still there
    host.get("EICR")
    host.card.unmask_intx()
    host.step()
    assert line.taken() == 0


def test_intx_can_be_switched_off_by_the_command_register(host: CardHost) -> None:
    line = host.interrupt(INTX)
    host.card.store(CONFIG, 4, b"\x07\x04")
    host.set("EIMS", LSC)
    host.set("EICS", LSC)
    host.step()
    assert line.taken() == 0
    host.card.store(CONFIG, 4, b"\x07\x00")
    host.step()
    assert line.taken() == 1


def test_msi_comes_for_new_events_alone(host: CardHost) -> None:
    line, intx = host.interrupt(MSI), host.interrupt(INTX)
    host.set("EIMS", LSC | RX_MISS | 1)
    host.set("EICS", LSC)
    host.step()
    assert line.taken() == 1
    host.step()
    assert line.taken() == 0
    host.set("EICS", RX_MISS)
    host.step()
    assert line.taken() == 1
    assert host.get("EICR") == LSC | RX_MISS
    assert intx.taken() == 0


@pytest.mark.parametrize("index", [INTX, MSI])
@row("EITR")
def test_one_line_is_moderated_by_the_first_eitr(host: CardHost, index: int) -> None:
    line = host.interrupt(index)
    host.set("EITR", 100 << 3)
    host.set("EIMS", 1)
    host.set("EICS", 1)
    host.step(1)
    assert line.taken() == 1
    host.card.unmask_intx()
    host.set("EICS", 1)
    host.step(100 * 2048 - 1)
    assert line.taken() == 0
    host.step(1)
    assert line.taken() == 1


@pytest.mark.parametrize("index", [INTX, MSI])
def test_a_masked_cause_is_no_interrupt(host: CardHost, index: int) -> None:
    line = host.interrupt(index)
    host.set("EICS", LSC)
    host.step()
    assert line.taken() == 0
    host.set("EIMS", LSC)
    host.step()
    assert line.taken() == 1


def test_a_reset_takes_all_interrupts_back(msix: CardHost) -> None:
    line = msix.interrupt(MSIX, 0)
    msix.set("EICS", 1)
    msix.set("CTRL", 1 << 26)
    msix.set("GPIE", MSIX_MODE)
    msix.set("EIMS", 1)
    msix.step()
    assert line.taken() == 0


def test_an_interrupt_that_nobody_takes_is_counted_all_the_same(
    msix: CardHost,
) -> None:
    msix.set("EICS", 1)
    msix.step()
    assert msix.counters["interrupts"] == 1
    full = msix.interrupt(MSIX, 1)
    os.eventfd_write(full.fd, (1 << 64) - 2)
    msix.set("EICS", 2)
    msix.step()  # does not wait
    assert msix.counters["interrupts"] == 2


@row("PBACL")
def test_pbacl_clears_pending_bits(card: Card) -> None:
    pba = lib.MODEL_MSIX_PBA
    card.store(BAR4, pba, bytes.fromhex("0f000000f0000080"))
    assert card.read(registers.offset("PBACL", 0)) == 0xF
    assert card.read(registers.offset("PBACL", 1)) == 0x800000F0
    card.write(registers.offset("PBACL", 0), 0x3)
    card.write(registers.offset("PBACL", 1), 0x80000000)
    card.write(registers.offset("PBACL", 7), ONES)
    assert card.access(BAR4, pba, 8) == bytes.fromhex("0c000000f0000000")
    assert card.read(0x11068) == 0xC
    card.write(0x11068, ONES)
    assert card.read(registers.offset("PBACL", 0)) == 0


# -- flow control ----------------------------------------------------------------------


def pause(quanta: int) -> bytes:
    """Return a pause frame: 802.3 annex 31B."""
    head = bytes.fromhex("0180c2000001 020000000009 8808 0001".replace(" ", ""))
    return (head + struct.pack("!H", quanta)).ljust(60, b"\0")


@row("TFCS")
def test_tfcs_tells_while_a_pause_lasts(host: CardHost) -> None:
    host.start()
    host.set("MFLCN", 1 << 3 | 1 << 1)  # RFCE, DPF
    assert host.get("TFCS") == 0
    host.wire.send([pause(1000)])
    host.step(1000)
    assert host.get("TFCS") == 1
    host.step(51_200 * 1000 // 1000 - 1)  # a quantum is 51.2 ns
    assert host.get("TFCS") == 1
    host.step(1)
    assert host.get("TFCS") == 0


@row("TFCS")
def test_without_rfce_no_pause_holds(host: CardHost) -> None:
    host.start()
    host.arrive([pause(0xFFFF)])
    assert host.get("TFCS") == 0


@row("TFCS")
def test_xon_and_reset_end_a_pause(host: CardHost) -> None:
    for end in ("XON", "reset"):
        host.start()
        host.set("MFLCN", 1 << 3 | 1 << 1)
        host.arrive([pause(0xFFFF)])
        assert host.get("TFCS") == 1
        if end == "XON":
            host.arrive([pause(0)])
        else:
            host.set("CTRL", 1 << 26)
        assert host.get("TFCS") == 0


# -- receive ---------------------------------------------------------------------------


@row("RAL", "RAH")
def test_the_first_filter_is_the_cards_own_address() -> None:
    mac = bytes.fromhex("0a0b0c0d0e0f")
    with Card(mac=mac) as card:
        ral, rah = registers.offset("RAL"), registers.offset("RAH")
        expected = int.from_bytes(mac[:4], "little"), 0x80000F0E
        assert (card.read(ral), card.read(rah)) == expected
        card.write(ral, 0)
        card.write(rah, 0)
        card.write(registers.offset("CTRL"), 1 << 26)
        assert (card.read(ral), card.read(rah)) == expected


@row("RDRXCTL")
def test_the_receive_dma_is_always_initialised(card: Card) -> None:
    at = registers.offset("RDRXCTL")
    for value in (0, ONES):
        card.write(at, value)
        assert card.read(at) & 1 << 3


@row("RDH", "RXDCTL")
def test_the_receive_head_is_taken_when_the_queue_is_enabled(host: CardHost) -> None:
    host.start()
    rx = host.receive_queue(0, n=16, post=False)
    host.set("RDH", 7)
    assert host.get("RDH") == 0  # the card's while it runs
    host.set("RXDCTL", 0)
    host.set("RDH", 7)
    assert host.get("RDH") == 7
    host.set("RXDCTL", 1 << 25)
    host.set("RXDCTL", 1 << 25 | 1 << 30)  # enabled is enabled
    rx.next = rx.tail = 7
    rx.post(3)
    host.arrive([FRAME, FRAME])
    assert rx.frames() == [FRAME, FRAME]
    assert host.get("RDH") == 9


@row("RDT", "RDH")
def test_the_receive_tail_gives_descriptors_away(host: CardHost) -> None:
    host.start()
    rx = host.receive_queue(0, n=16, post=False, drop=True)
    for n in (1, 3, 5):
        rx.post(n)
        host.arrive([FRAME] * 6)
        assert len(rx.take(repost=False)) == n
        assert host.get("RDH") == host.get("RDT")
    assert host.counters["drop-rx-no-descriptor"] == 5 + 3 + 1


@row("RXDCTL")
def test_a_disabled_queue_receives_nothing(host: CardHost) -> None:
    host.start()
    rx = host.receive_queue(0)
    host.set("RXDCTL", 0)
    host.arrive([FRAME])
    assert rx.frames() == []
    assert host.counters["drop-rx-queue-disabled"] == 1
    assert host.get("QPRDC") == 1


@row("TDH", "TXDCTL")
def test_the_transmit_head_is_taken_when_the_queue_is_enabled(host: CardHost) -> None:
    host.start()
    tx = host.transmit_queue(0, n=16)
    host.set("TDH", 7)
    assert host.get("TDH") == 0
    host.set("TXDCTL", 0)
    host.set("TDH", 7)
    assert host.get("TDH") == 7
    host.set("TXDCTL", 1 << 25)
    tx.tail = 7
    tx.send([FRAME])
    assert host.sent() == [FRAME]
    assert host.get("TDH") == 8


@row("TDT", "TDH")
def test_the_transmit_tail_gives_descriptors_away(host: CardHost) -> None:
    host.start()
    tx = host.transmit_queue(0, n=16)
    for n in (1, 3, 15):
        for _ in range(n):
            tx.put_frame(FRAME)
        assert host.sent() == []
        tx.ring_doorbell()
        assert len(host.sent()) == n
        assert host.get("TDH") == host.get("TDT")


@row("TXDCTL")
def test_a_disabled_queue_sends_nothing_until_it_is_enabled(host: CardHost) -> None:
    host.start()
    tx = host.transmit_queue(0)
    host.set("TXDCTL", 0)
    tx.send([FRAME])
    assert (host.sent(), host.get("TDH")) == ([], 0)
    host.set("TXDCTL", 1 << 25)
    assert (host.sent(), host.get("TDH")) == ([FRAME], 1)


@row("SECRXSTAT")
def test_with_rx_dis_frames_wait_and_none_is_lost(host: CardHost) -> None:
    host.start()
    rx = host.receive_queue(0)
    assert host.get("SECRXSTAT") & 1 == 0
    host.set("SECRXCTRL", host.get("SECRXCTRL") | 2)
    assert host.get("SECRXSTAT") & 1 == 1
    frames = [FRAME[:-1] + bytes([n]) for n in range(20)]
    host.arrive(frames)
    assert rx.frames() == []
    host.set("SECRXCTRL", host.get("SECRXCTRL") & ~2)
    assert host.get("SECRXSTAT") & 1 == 0
    host.step()
    assert rx.frames() == frames


@row("SECTXSTAT")
def test_with_tx_dis_the_transmitter_waits(host: CardHost) -> None:
    host.start()
    tx = host.transmit_queue(0)
    host.set("SECTXCTRL", host.get("SECTXCTRL") | 2)
    assert host.get("SECTXSTAT") & 1 == 1
    tx.send([FRAME])
    assert host.sent() == []
    host.set("SECTXCTRL", host.get("SECTXCTRL") & ~2)
    assert host.get("SECTXSTAT") & 1 == 0
    assert host.sent() == [FRAME]


@row("PFQDE")
def test_pfqde_reaches_a_bit_of_each_queue(host: CardHost) -> None:
    drops = {0, 5, 64, 127}
    for queue in drops:
        host.set("PFQDE", 1 << 16 | queue << 8 | 1)
    for queue in range(128):
        host.set("PFQDE", 1 << 17 | queue << 8)
        assert host.get("PFQDE") == queue << 8 | (queue in drops)
    host.set("PFQDE", 1 << 16 | 5 << 8)
    host.set("PFQDE", 1 << 17 | 5 << 8)
    assert host.get("PFQDE") == 5 << 8
    host.set("CTRL", 1 << 26)
    host.set("PFQDE", 1 << 17 | 127 << 8)
    assert host.get("PFQDE") == 127 << 8


@row("PFQDE")
def test_pfqde_drops_where_descriptors_are_missing(host: CardHost) -> None:
    host.start()
    host.receive_queue(0, post=False)
    host.set("PFQDE", 1 << 16 | 1)
    host.arrive([FRAME])
    assert (host.get("QPRDC"), host.counters["drop-rx-no-descriptor"]) == (1, 1)


# -- traffic classes, flow director, wake up -------------------------------------------


@pytest.mark.parametrize(
    ("name", "mask"), [("RTTBCNRC", 0x80FFFFFF), ("RTTDT1C", 0x3FFF)]
)
@row("RTTDQSEL", "RTTBCNRC", "RTTDT1C")
def test_rttdqsel_chooses_the_queue(card: Card, name: str, mask: int) -> None:
    select, at = registers.offset("RTTDQSEL"), registers.offset(name)
    for queue in range(128):
        card.write(select, queue)
        card.write(at, 0x80010000 | queue << 5)
    for queue in range(128):
        card.write(select, queue)
        assert card.read(at) == (0x80010000 | queue << 5) & mask
    card.write(registers.offset("CTRL"), 1 << 26)
    for queue in range(128):
        card.write(select, queue)
        assert card.read(at) == 0


@row("RTTBCNRC", "RTTDT1C", "TXDCTL")
def test_rate_and_weight_outlive_disabling_the_queue(card: Card) -> None:
    card.write(registers.offset("RTTDQSEL"), 3)
    card.write(registers.offset("RTTBCNRC"), 0x80004000)
    card.write(registers.offset("RTTDT1C"), 0x80)
    for value in (1 << 25, 0, 1 << 25):
        card.write(registers.offset("TXDCTL", 3), value)
    assert card.read(registers.offset("RTTBCNRC")) == 0x80004000
    assert card.read(registers.offset("RTTDT1C")) == 0x80


@row("RTTDT1S")
def test_rttdt1s_has_no_credits_to_show(card: Card) -> None:
    for queue in (0, 127):
        card.write(registers.offset("RTTDQSEL"), queue)
        card.write(registers.offset("RTTDT1C"), 0x80)
        assert card.read(registers.offset("RTTDT1S")) == 0


@row("FDIRCTRL")
def test_the_flow_director_is_made_at_once(card: Card) -> None:
    at = registers.offset("FDIRCTRL")
    assert card.read(at) == 0
    for value in (1, 2 | 1 << 4 | 127 << 8, 0):
        card.write(at, value)
        assert card.read(at) == value | 1 << 3


@row("FDIRCMD")
def test_commands_of_the_flow_director_end_at_once(card: Card) -> None:
    at = registers.offset("FDIRCMD")
    for command in (1, 2, 3):
        card.write(at, command | 1 << 11 | 7 << 16)
        assert card.read(at) == 1 << 11 | 7 << 16


def test_wus_is_cleared_as_drivers_do(card: Card) -> None:
    poke(card, registers.offset("WUS"), 0xFF)
    card.write(registers.offset("WUS"), ONES)
    assert card.read(registers.offset("WUS")) == 0


# -- BAR 2 and narrow accesses ---------------------------------------------------------


def test_ioaddr_and_iodata_reach_the_registers(card: Card) -> None:
    at = registers.offset("MTA", 7)
    card.store(BAR2, 0, struct.pack("<I", at))
    card.store(BAR2, 4, struct.pack("<I", 0x12345678))
    assert card.read(at) == 0x12345678
    assert card.access(BAR2, 0, 4) == struct.pack("<I", at)
    assert card.access(BAR2, 4, 4) == struct.pack("<I", 0x12345678)
    card.store(BAR2, 0, struct.pack("<I", 0x20000))
    assert card.access(BAR2, 4, 4) == bytes(4)


def test_narrow_reads_take_their_part_and_narrow_writes_do_nothing(card: Card) -> None:
    at = registers.offset("MTA")
    card.store(0, at, bytes(range(8)))
    assert card.read(at) == 0x03020100
    assert card.access(0, at, 8) == bytes(range(8))
    assert [card.access(0, at + i, 1) for i in range(4)] == [b"\0", b"\1", b"\2", b"\3"]
    assert card.access(0, at + 2, 2) == b"\2\3"
    card.store(0, at, b"\xff\xff")
    assert card.read(at) == 0x03020100


# -- configuration space: chapter 9 ----------------------------------------------------


def config(card: Card, at: int, size: int = 4) -> int:
    return int.from_bytes(card.access(CONFIG, at, size), "little")


def set_config(card: Card, at: int, value: int, size: int = 4) -> None:
    card.store(CONFIG, at, value.to_bytes(size, "little"))


BARS = [
    # offset, size, kind
    (0x10, 128 << 10, 0xC),
    (0x20, 16 << 10, 0xC),
]


@pytest.mark.parametrize(("at", "size", "kind"), BARS)
def test_a_bar_tells_its_size(card: Card, at: int, size: int, kind: int) -> None:
    set_config(card, at, ONES)
    set_config(card, at + 4, ONES)
    value = config(card, at, 8)
    assert value & 0xF == kind  # 64 bits, prefetchable
    assert (~(value & ~0xF) & (1 << 64) - 1) + 1 == size
    set_config(card, at, 0xF0000000)
    set_config(card, at + 4, 0x12)
    assert config(card, at, 8) == 0x12_F0000000 | kind


def test_the_io_bar_tells_its_size(card: Card) -> None:
    set_config(card, 0x18, ONES)
    assert config(card, 0x18) == ONES & ~31 | 1
    set_config(card, 0x1C, ONES)
    assert config(card, 0x1C) == 0  # there is no BAR 3


def walk(card: Card) -> list[tuple[int, int]]:
    """Return identities and places of the capabilities, both kinds."""
    found, at = [], config(card, 0x34, 1)
    while at:
        identity, following = card.access(CONFIG, at, 2)
        found.append((identity, at))
        at = following
    at = 0x100
    while at:
        head = config(card, at)
        found.append((head & 0xFFFF, at))
        at = head >> 20
    return found


def test_capabilities_are_where_drivers_look(card: Card) -> None:
    assert config(card, 0x06, 2) & 0x10
    assert walk(card) == [
        (0x01, 0x40),  # power management
        (0x05, 0x50),  # MSI
        (0x11, 0x70),  # MSI-X
        (0x10, 0xA0),  # PCI Express
        (0x01, 0x100),  # advanced error reporting
        (0x03, 0x140),  # serial number
    ]


def test_msix_has_64_vectors_in_bar_4(card: Card) -> None:
    assert config(card, 0x72, 2) & 0x7FF == 63
    assert config(card, 0x74) == 4
    assert config(card, 0x78) == lib.MODEL_MSIX_PBA | 4
    set_config(card, 0x72, 0xFFFF, 2)
    assert config(card, 0x72, 2) == 0xC000 | 63


WRITABLE = [
    # offset, size, bits that keep what is written, what the others read
    (0x00, 4, 0, 0x10FB8086),  # identity
    (0x04, 2, 0x0547, 0),  # command
    (0x06, 2, 0, 0x0010),  # status
    (0x08, 4, 0, 0x02000001),  # class, revision
    (0x3C, 1, 0xFF, 0),  # interrupt line
    (0x3D, 1, 0, 1),  # INTA
    (0x52, 2, 0x0071, 0x0180),  # MSI control
    (0xA8, 2, 0x78FF, 0),  # device control, without its reset
    (0xAA, 2, 0, 0),  # device status: nothing is pending
    (0xB2, 2, 0, 0x1082),  # link: eight lanes at 5 GT/s
    (0xC8, 2, 0x001F, 0),  # device control 2
]


@pytest.mark.parametrize(("at", "size", "mask", "fixed"), WRITABLE)
def test_what_configuration_space_keeps(
    card: Card, at: int, size: int, mask: int, fixed: int
) -> None:
    for pattern in (ONES, 0x5A5A5A5A, 0xA5A5A5A5, 0):
        if at == 0xA8:
            pattern &= 0x7FFF  # noqa: PLW2901 - bit 15 resets
        set_config(card, at, pattern & (1 << 8 * size) - 1, size)
        assert config(card, at, size) == fixed | pattern & mask


def test_bytes_of_configuration_space_are_written_one_by_one(card: Card) -> None:
    set_config(card, 0x04, 0xFF, 1)
    assert config(card, 0x04, 2) == 0x47
    set_config(card, 0x05, 0xFF, 1)
    assert config(card, 0x04, 2) == 0x547


def test_without_bus_mastering_there_is_no_dma(host: CardHost) -> None:
    host.start()
    rx, tx = host.receive_queue(0), host.transmit_queue(0)
    host.card.store(CONFIG, 4, b"\x03\x00")
    tx.send([FRAME])
    host.arrive([FRAME])
    assert (host.sent(), rx.frames()) == ([], [])
    host.card.store(CONFIG, 4, b"\x07\x00")
    assert host.sent() == [FRAME]
    assert rx.frames() == [FRAME]


def test_the_serial_number_is_made_of_the_address() -> None:
    with Card(mac=bytes.fromhex("0a0b0c0d0e0f")) as card:
        assert card.access(CONFIG, 0x144, 8)[::-1].hex() == "0a0b0cffff0d0e0f"
