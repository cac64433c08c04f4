"""The slow side of the software 82599, driven as drivers do it, bit by bit."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snabb_py.nic import eeprom, registers
from snabb_py.nic.eeprom import sfp_module
from snabb_py.nic.model82599 import Card

MAC = bytes.fromhex("02534e420001")
RST = 1 << 26


@pytest.fixture
def card() -> Iterator[Card]:
    with Card(mac=MAC) as card:
        yield card


@pytest.fixture
def empty() -> Iterator[Card]:
    with Card(mac=MAC, sfp=False) as card:
        yield card


def read(card: Card, name: str) -> int:
    return card.read(registers.offset(name))


def write(card: Card, name: str, value: int) -> None:
    card.write(registers.offset(name), value)


# -- EEPROM --------------------------------------------------------------------

SK, CS, DI, DO, REQ, GNT = 1, 2, 4, 8, 64, 128
WRSR, WRITE, READ, WRDI, RDSR, WREN = range(1, 7)


def eerd(card: Card, word: int) -> int:
    """Read a word as ixgbe_read_eerd_buffer_generic does."""
    write(card, "EERD", word << 2 | 1)
    value = read(card, "EERD")
    assert value & 3 == 2, "START is over, DONE is set"
    return value >> 16


def eewr(card: Card, word: int, value: int) -> None:
    assert read(card, "EEWR") & 2
    write(card, "EEWR", value << 16 | word << 2 | 1)
    assert read(card, "EEWR") & 3 == 2


class Spi:
    """A driver that moves the EEPROM's wires, in the steps of ixgbe_common.c."""

    def __init__(self, card: Card) -> None:
        self.card = card

    def acquire(self) -> None:
        eec = read(self.card, "EEC") | REQ
        write(self.card, "EEC", eec)
        eec = read(self.card, "EEC")
        assert eec & GNT
        write(self.card, "EEC", eec & ~(CS | SK))

    def release(self) -> None:
        eec = (read(self.card, "EEC") | CS) & ~SK
        write(self.card, "EEC", eec)
        write(self.card, "EEC", eec & ~REQ)
        assert not read(self.card, "EEC") & GNT

    def standby(self) -> None:
        eec = read(self.card, "EEC")
        write(self.card, "EEC", eec | CS)
        write(self.card, "EEC", eec & ~CS)

    def clock(self, level: bool) -> None:
        eec = read(self.card, "EEC")
        write(self.card, "EEC", eec | SK if level else eec & ~SK)

    def shift_out(self, value: int, nbits: int = 8) -> None:
        for i in reversed(range(nbits)):
            eec = read(self.card, "EEC")
            write(self.card, "EEC", eec | DI if value >> i & 1 else eec & ~DI)
            self.clock(level=True)
            self.clock(level=False)
        write(self.card, "EEC", read(self.card, "EEC") & ~DI)

    def shift_in(self, nbits: int = 8) -> int:
        value = 0
        for _ in range(nbits):
            self.clock(level=True)
            value = value << 1 | bool(read(self.card, "EEC") & DO)
            self.clock(level=False)
        return value

    def status(self) -> int:
        self.standby()
        self.shift_out(RDSR)
        return self.shift_in()

    def read(self, address: int, nbytes: int) -> bytes:
        self.standby()
        self.shift_out(READ)
        self.shift_out(address, 16)
        return bytes(self.shift_in() for _ in range(nbytes))

    def command(self, opcode: int, *data: int) -> None:
        self.standby()
        self.shift_out(opcode)
        for byte in data:
            self.shift_out(byte)
        self.standby()

    def write(self, address: int, data: bytes) -> None:
        self.command(WREN)
        self.command(WRITE, address >> 8, address & 0xFF, *data)


@pytest.fixture
def spi(card: Card) -> Iterator[Spi]:
    spi = Spi(card)
    spi.acquire()
    yield spi
    spi.release()


def test_eec_tells_size_and_presence(card: Card) -> None:
    eec = read(card, "EEC")
    assert eec >> 8 & 3 == 3  # present, read by the card
    assert 1 << ((eec >> 11 & 0xF) + 6) == eeprom.WORDS
    assert eec & 1 << 10  # addresses of 16 bits


def test_eerd_reads_the_image(card: Card) -> None:
    words = [eerd(card, word) for word in range(eeprom.WORDS)]
    assert words == eeprom.eeprom_image(MAC)
    assert eeprom.checksum(words) == 0xBABA


def test_eerd_waits_for_start(card: Card) -> None:
    write(card, "EERD", 0x3F << 2)
    assert read(card, "EERD") == 0x3F << 2


def test_an_address_beyond_the_end_wraps(card: Card) -> None:
    assert eerd(card, 0x3FFF) == eerd(card, 0x0FFF)
    eewr(card, 0x3FFE, 0x1234)
    assert eerd(card, 0x0FFE) == 0x1234


def test_every_word_is_the_same_bit_by_bit(card: Card, spi: Spi) -> None:
    data = spi.read(0, 2 * eeprom.WORDS)
    image = eeprom.eeprom_image(MAC)
    assert data == b"".join(word.to_bytes(2, "little") for word in image)
    for word in (0, 0x2C, 0x3F, eeprom.WORDS - 1):
        assert int.from_bytes(spi.read(2 * word, 2), "little") == eerd(card, word)


def test_reading_goes_on_behind_the_end(spi: Spi) -> None:
    around = spi.read(2 * eeprom.WORDS - 2, 4)
    assert around[2:] == spi.read(0, 2)
    assert spi.read(0x8000 + 0x58, 2) == spi.read(0x58, 2)


def test_the_wires_are_dead_without_a_grant(card: Card) -> None:
    spi = Spi(card)
    spi.shift_out(RDSR)
    assert spi.shift_in() == 0
    spi.acquire()
    assert spi.status() == 0


def test_writing_needs_to_be_enabled_each_time(card: Card, spi: Spi) -> None:
    before = eerd(card, 0x100)
    spi.command(WRITE, 0x02, 0x00, 0x34, 0x12)
    assert eerd(card, 0x100) == before
    spi.command(WREN)
    assert spi.status() == 0x02
    spi.command(WRITE, 0x02, 0x00, 0x34, 0x12)
    assert eerd(card, 0x100) == 0x1234
    assert spi.status() == 0
    spi.command(WREN)
    spi.command(WRDI)
    spi.command(WRITE, 0x02, 0x00, 0x78, 0x56)
    assert eerd(card, 0x100) == 0x1234


def test_a_write_that_breaks_off_writes_nothing(card: Card, spi: Spi) -> None:
    before = eerd(card, 0x100)
    spi.command(WREN)
    spi.standby()
    spi.shift_out(WRITE)
    spi.shift_out(0x0200, 16)
    spi.shift_out(0x12)
    spi.shift_out(1, 3)
    spi.standby()
    assert eerd(card, 0x100) == before


def test_linux_finds_the_page_size(card: Card, spi: Spi) -> None:
    """As ixgbe_detect_eeprom_page_size_generic: a long write wraps in its page."""
    data = b"".join(word.to_bytes(2, "little") for word in range(128))
    spi.write(2 * 0x100, data)
    assert 128 - eerd(card, 0x100) == 16
    assert eerd(card, 0x10F) == 127
    assert eerd(card, 0x110) == 0xFFFF


def test_a_write_stays_in_the_page_it_begins_in(card: Card, spi: Spi) -> None:
    spi.write(2 * 0x10F, bytes.fromhex("3412 7856"))
    assert eerd(card, 0x10F) == 0x1234
    assert eerd(card, 0x100) == 0x5678
    assert eerd(card, 0x110) == 0xFFFF


def test_one_byte_leaves_the_other(card: Card, spi: Spi) -> None:
    spi.write(2 * 0x100 + 1, b"\x12")
    assert eerd(card, 0x100) == 0x12FF
    assert spi.read(2 * 0x100, 2) == b"\xff\x12"


@pytest.mark.parametrize(("bits", "first"), [(0, 4096), (1, 3072), (2, 2048), (3, 0)])
def test_a_part_can_be_protected(card: Card, spi: Spi, bits: int, first: int) -> None:
    spi.command(WRSR, bits << 2)
    assert spi.status() == 0, "it was not enabled"
    spi.command(WREN)
    spi.command(WRSR, bits << 2 | 0x73)
    assert spi.status() == bits << 2
    for word in {0x800, first, max(first, 1) - 1, eeprom.WORDS - 1} - {eeprom.WORDS}:
        before = eerd(card, word)
        spi.write(2 * word, (before ^ 0xFFFF).to_bytes(2, "little"))
        changed = eerd(card, word) != before
        assert changed == (word < first), word


def test_what_was_written_survives_a_reset(card: Card) -> None:
    eewr(card, 0x200, 0xBEEF)
    spi = Spi(card)
    spi.acquire()
    spi.write(2 * 0x201, b"\xfe\xca")
    spi.standby()
    spi.shift_out(READ)
    write(card, "CTRL", RST)
    assert read(card, "EEC") == registers.REGISTERS["EEC"].reset
    assert eerd(card, 0x200) == 0xBEEF
    assert eerd(card, 0x201) == 0xCAFE


# -- SFP+ module ---------------------------------------------------------------

CLOCK_IN, CLOCK_OUT, DATA_IN, DATA_OUT = 1, 2, 4, 8


class NackError(Exception):
    """Nobody acknowledged."""


class I2c:
    """A driver that moves the module's wires, in the steps of ixgbe_phy.c."""

    def __init__(self, card: Card) -> None:
        self.card = card

    def set(self, bit: int, level: bool) -> None:
        value = read(self.card, "I2CCTL")
        write(self.card, "I2CCTL", value | bit if level else value & ~bit)

    def data(self, level: bool) -> None:
        self.set(DATA_OUT, level)

    def clock(self, level: bool) -> None:
        self.set(CLOCK_OUT, level)
        assert bool(read(self.card, "I2CCTL") & CLOCK_IN) == level

    def sample(self) -> bool:
        return bool(read(self.card, "I2CCTL") & DATA_IN)

    def start(self) -> None:
        self.data(level=True)
        self.clock(level=True)
        self.data(level=False)
        self.clock(level=False)

    def stop(self) -> None:
        self.data(level=False)
        self.clock(level=True)
        self.data(level=True)

    def out_bit(self, level: bool) -> None:
        self.data(level)
        assert self.sample() == level, "Linux looks whether the wire follows"
        self.clock(level=True)
        self.clock(level=False)

    def out(self, byte: int) -> None:
        for i in reversed(range(8)):
            self.out_bit(bool(byte >> i & 1))
        self.data(level=True)
        self.clock(level=True)
        nack = self.sample()
        self.clock(level=False)
        if nack:
            raise NackError

    def take(self, last: bool) -> int:
        byte = 0
        for _ in range(8):
            self.clock(level=True)
            byte = byte << 1 | self.sample()
            self.clock(level=False)
        self.out_bit(last)
        self.data(level=True)
        return byte

    def clear(self) -> None:
        """Free the bus, as ixgbe_i2c_bus_clear."""
        self.start()
        self.data(level=True)
        for _ in range(9):
            self.clock(level=True)
            self.clock(level=False)
        self.start()
        self.stop()

    def read(self, device: int, pointer: int, nbytes: int = 1) -> bytes:
        self.start()
        self.out(device)
        self.out(pointer)
        self.start()
        self.out(device | 1)
        data = bytes(self.take(last=i == nbytes - 1) for i in range(nbytes))
        self.stop()
        return data

    def write(self, device: int, pointer: int, data: bytes) -> None:
        self.start()
        self.out(device)
        self.out(pointer)
        for byte in data:
            self.out(byte)
        self.stop()


def test_the_module_reads_byte_by_byte_and_in_one_go(card: Card) -> None:
    i2c = I2c(card)
    module = sfp_module()
    assert b"".join(i2c.read(0xA0, at) for at in range(256)) == module
    assert i2c.read(0xA0, 0, 256) == module
    assert i2c.read(0xA0, 250, 10) == module[250:] + module[:4]
    assert read(card, "I2CCTL") == 0xF


def test_reading_goes_on_where_it_stopped(card: Card) -> None:
    i2c = I2c(card)
    i2c.read(0xA0, 20, 4)
    i2c.start()
    i2c.out(0xA1)
    assert bytes([i2c.take(last=False), i2c.take(last=True)]) == b"b-"
    i2c.stop()


def test_diagnostics_are_those_of_a_module_that_is_well(card: Card) -> None:
    page = I2c(card).read(0xA2, 0, 256)
    assert page[95] == sum(page[:95]) & 0xFF
    high_alarm, low_alarm, high_warning, low_warning = (
        int.from_bytes(page[at : at + 2], "big", signed=True) for at in (0, 2, 4, 6)
    )
    temperature = int.from_bytes(page[96:98], "big", signed=True)
    assert low_alarm < low_warning < temperature < high_warning < high_alarm
    assert temperature / 256 == 40
    for i in range(1, 5):
        high_alarm, low_alarm, high_warning, low_warning = (
            int.from_bytes(page[8 * i + at : 8 * i + at + 2], "big")
            for at in (0, 2, 4, 6)
        )
        value = int.from_bytes(page[96 + 2 * i : 98 + 2 * i], "big")
        assert low_alarm < low_warning < value < high_warning < high_alarm


@pytest.mark.parametrize("device", [0x00, 0x50, 0xA4, 0xA8, 0xF8, 0xFE])
def test_nobody_else_is_on_the_bus(card: Card, device: int) -> None:
    i2c = I2c(card)
    with pytest.raises(NackError):
        i2c.read(device, 0)
    assert i2c.sample()
    i2c.clear()
    assert i2c.read(0xA0, 0) == b"\x03"


@pytest.mark.parametrize("device", [0xA0, 0xA2])
def test_an_absent_module_does_not_acknowledge(empty: Card, device: int) -> None:
    i2c = I2c(empty)
    for _ in range(3):
        with pytest.raises(NackError):
            i2c.read(device, 0)
        i2c.clear()
    assert read(empty, "I2CCTL") == 0xF


def test_the_user_may_write_where_the_module_lets_him(card: Card) -> None:
    i2c = I2c(card)
    i2c.write(0xA2, 128, b"snabb")
    i2c.write(0xA2, 110, b"\xff")
    i2c.write(0xA2, 247, b"ab")
    assert i2c.read(0xA2, 128, 5) == b"snabb"
    assert i2c.read(0xA2, 110) == b"\x48"
    assert i2c.read(0xA2, 247, 2) == b"a\0"
    temperature = i2c.read(0xA2, 96, 2)
    i2c.write(0xA2, 96, b"\x7f\xff")
    assert i2c.read(0xA2, 96, 2) == temperature
    i2c.write(0xA0, 20, b"another")
    assert i2c.read(0xA0, 0, 256) == sfp_module()


def test_the_bus_can_be_freed_at_any_point(card: Card) -> None:
    i2c = I2c(card)
    for nclocks in range(30):
        i2c.start()
        i2c.out(0xA0)
        i2c.out(0)
        i2c.start()
        i2c.out(0xA1)
        for _ in range(nclocks):
            i2c.clock(level=True)
            i2c.clock(level=False)
        i2c.clear()
        assert i2c.read(0xA0, 20, 8) == b"snabb-py"


def test_wires_that_move_at_once_make_no_start_and_no_stop(card: Card) -> None:
    """One write may change both; data moves while the clock is low."""
    i2c = I2c(card)
    i2c.start()
    for i in reversed(range(8)):
        data = DATA_OUT if 0xA0 >> i & 1 else 0
        write(card, "I2CCTL", data | CLOCK_OUT)
        write(card, "I2CCTL", (data ^ DATA_OUT))
    write(card, "I2CCTL", DATA_OUT)
    write(card, "I2CCTL", DATA_OUT | CLOCK_OUT)
    assert not i2c.sample(), "acknowledged"


# -- MDIO, semaphores, firmware ------------------------------------------------


def test_no_phy_answers(card: Card) -> None:
    for phy in range(32):
        for protocol, opcodes in ((0, (0, 3)), (0, (0, 2)), (1, (2,))):
            write(card, "MSRWD", 0)
            for opcode in opcodes:
                command = 1 << 30 | protocol << 28 | opcode << 26 | phy << 21 | 0x1E0002
                write(card, "MSCA", command)
                assert read(card, "MSCA") == command & ~(1 << 30)
            assert read(card, "MSRWD") >> 16 == 0xFFFF


def test_mdio_takes_writes_and_does_nothing_without_a_command(card: Card) -> None:
    write(card, "MSRWD", 0xABCD1234)
    assert read(card, "MSRWD") == 0x1234
    write(card, "MSCA", 3 << 26)
    write(card, "MSCA", 1 << 30 | 1 << 26)
    assert read(card, "MSRWD") == 0x1234
    write(card, "CTRL", RST)
    assert read(card, "MSCA") == read(card, "MSRWD") == 0


def test_who_reads_the_semaphore_first_has_it(card: Card) -> None:
    assert read(card, "SWSM") & 1 == 0
    assert read(card, "SWSM") & 1 == 1
    write(card, "SWSM", 0)
    assert read(card, "SWSM") & 1 == 0
    # Writing a one does not take it.
    write(card, "SWSM", 0)
    write(card, "SWSM", 1)
    assert read(card, "SWSM") & 1 == 0


def test_semaphores_as_linux_takes_and_releases_them(card: Card) -> None:
    for _ in range(3):
        assert not read(card, "SWSM") & 1
        write(card, "SWSM", read(card, "SWSM") | 2)
        assert read(card, "SWSM") & 2
        sync = read(card, "SW_FW_SYNC")
        assert not sync & 0x21
        write(card, "SW_FW_SYNC", sync | 1)
        write(card, "SWSM", read(card, "SWSM") & ~3)
        assert read(card, "SW_FW_SYNC") == 1
        write(card, "SW_FW_SYNC", read(card, "SW_FW_SYNC") & ~1)


def test_a_software_reset_leaves_semaphores_to_their_owner(card: Card) -> None:
    read(card, "SWSM")
    write(card, "SW_FW_SYNC", 0x8)
    write(card, "CTRL", RST)
    assert read(card, "SWSM") & 1
    assert read(card, "SW_FW_SYNC") == 0x8


def test_a_function_level_reset_takes_them_away(card: Card) -> None:
    read(card, "SWSM")
    write(card, "SW_FW_SYNC", 0x8)
    card.reset()
    assert read(card, "SW_FW_SYNC") == 0
    assert read(card, "SWSM") == 0


def test_there_is_no_firmware_to_talk_to(card: Card) -> None:
    assert read(card, "FWSM") == 1 << 15
    assert not read(card, "FACTPS") & 1 << 30
    write(card, "HICR", 0xFFFFFFFF)
    assert read(card, "HICR") == 0


def test_there_is_no_flash(card: Card) -> None:
    write(card, "FLA", 1 << 4)
    assert read(card, "FLA") == 1 << 3 | 1 << 4 | 1 << 5
    write(card, "FLA", 0)
    assert read(card, "FLA") == 1 << 3


# -- whatever is written -------------------------------------------------------

NAMES = ("EEC", "EERD", "EEWR", "FLA", "I2CCTL", "MSCA", "MSRWD", "SWSM", "SW_FW_SYNC")
#: Bits that something happens at more often than not.
WORDS = st.one_of(st.integers(0, 255), st.integers(0, 2**32 - 1))
WRITES = st.lists(st.tuples(st.sampled_from(NAMES), WORDS), max_size=200)


@settings(max_examples=50)
@given(WRITES)
def test_anything_may_be_written(writes: list[tuple[str, int]]) -> None:
    with Card(mac=MAC) as card:
        for name, value in writes:
            write(card, name, value)
            assert 0 <= read(card, name) < 1 << 32


def test_the_wires_may_be_shaken_at_random(card: Card) -> None:
    """Long enough to come to every state; afterwards all works again."""
    chance = random.Random(82599)  # noqa: S311 - no secret
    for _ in range(50000):
        write(card, "EEC", chance.getrandbits(3) | REQ)
        write(card, "I2CCTL", chance.getrandbits(4))
    write(card, "CTRL", RST)
    i2c = I2c(card)
    i2c.clear()
    assert i2c.read(0xA0, 20, 8) == b"snabb-py"
    spi = Spi(card)
    spi.acquire()
    assert len(spi.read(0, 2)) == 2
