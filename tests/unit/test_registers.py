"""The register table of the 82599, and that C and the drivers agree with it."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from snabb_py._native import lib
from snabb_py.nic import registers
from snabb_py.nic.registers import ALIASES, PAIRS, REGISTERS, Register

HEADER = Path(registers.__file__).with_name("registers_abi.h")
ENUM = {
    name: int(value, 16)
    for name, value in re.findall(r"REG_(\w+) = (0x\w+)", HEADER.read_text())
}


def aliases(register: Register) -> list[int]:
    return [at for segment in register.aliases for at in segment.offsets()]


def test_c_knows_every_register_by_the_same_offset() -> None:
    expected = {}
    for register in REGISTERS.values():
        expected[register.name] = register.offsets()[0]
        for segment in register.segments[1:]:
            expected[f"{register.name}_HIGH"] = segment.first
    assert expected == ENUM
    assert expected == {
        name[4:]: getattr(lib, name) for name in dir(lib) if name.startswith("REG_")
    }


def test_the_comments_in_c_tell_the_strides() -> None:
    comment = r"REG_(\w+) = 0x\w+,? /\* \+ (0x\w+) \* (?:n|\(n - \d+\)), n < (\d+) \*/"
    said = re.findall(comment, HEADER.read_text())
    arrays = {name: (int(stride, 16), int(end)) for name, stride, end in said}
    for register in REGISTERS.values():
        first = register.segments[0]
        if first.count > 1:
            assert arrays.pop(register.name) == (first.stride, first.count)
        for segment in register.segments[1:]:
            if segment.count > 1:
                expected = segment.stride, len(register.offsets())
                assert arrays.pop(f"{register.name}_HIGH") == expected
    assert not arrays


def test_ways_to_answer_have_the_numbers_of_c() -> None:
    for name in ("ABSENT", "RW", "RO", "RC", "W1C"):
        assert getattr(registers, name) == getattr(lib, f"REGISTER_{name}")
    assert lib.MODEL_BAR_SIZE == registers.SIZE


def test_registers_are_words_of_the_bar_and_none_overlaps() -> None:
    taken: dict[int, str] = {}
    for register in REGISTERS.values():
        for at in register.offsets() + aliases(register):
            assert at % 4 == 0, register.name
            assert 0 <= at < registers.SIZE, register.name
            assert at not in taken, f"{register.name}, {taken[at]} at {at:#x}"
            taken[at] = register.name


def test_every_name_is_one_registers() -> None:
    names = [
        name
        for register in REGISTERS.values()
        for name in (register.name, *register.names)
    ]
    assert len(names) == len(set(names))
    assert set(names) == set(registers.NAMES)


@pytest.mark.parametrize("register", REGISTERS.values(), ids=lambda r: r.name)
def test_a_row_makes_sense(register: Register) -> None:
    assert register.access in registers.MODES
    assert 0 <= register.reset < 1 << 32
    assert 0 <= register.mask < 1 << 32
    assert (register.mask != 0) == (register.access in {"RW", "W1C"})
    assert register.note or not register.special
    assert register.access not in {"RC", "W1C"} or register.reset == 0
    assert len(aliases(register)) <= len(register.offsets())


def test_flat_arrays_say_the_same_as_the_rows() -> None:
    access, reset, mask = registers.access(), registers.reset(), registers.mask()
    assert len(access) == len(reset) == len(mask) == len(ALIASES) == registers.COUNT
    present = 0
    for register in REGISTERS.values():
        for n, at in enumerate(register.offsets()):
            present += 1
            assert access[at // 4] == registers.MODES[register.access]
            value = 0 if register.reset_first and n > 0 else register.reset
            assert reset[at // 4] == value
            assert mask[at // 4] == register.mask
    assert present == sum(mode != registers.ABSENT for mode in access)
    for i, mode in enumerate(access):
        if mode == registers.ABSENT:
            assert reset[i] == mask[i] == 0


def test_aliases_lead_to_a_register_at_once() -> None:
    access = registers.access()
    assert ALIASES[0x00004 // 4] == ENUM["CTRL"]
    assert ALIASES[0x05400 // 4 + 2 * 15] == registers.offset("RAL", 15)
    assert ALIASES[0x05404 // 4 + 2 * 15] == registers.offset("RAH", 15)
    assert ALIASES[0x02100 // 4 + 15] == registers.offset("SRRCTL", 15)
    assert ALIASES[0x02200 // 4 + 15] == registers.offset("DCA_RXCTRL", 15)
    assert ALIASES[0x05480 // 4 + 15] == registers.offset("PSRTYPE", 15)
    assert ALIASES[0x05C00 // 4 + 31] == registers.offset("RETA", 31)
    assert ALIASES[0x05C80 // 4 + 9] == registers.offset("RSSRK", 9)
    assert ALIASES[0x05818 // 4] == ENUM["MRQC"]
    assert ALIASES[0x06030 // 4 + 0x10 * 15] == registers.offset("QPTC", 15)
    assert ALIASES[0x11068 // 4] == ENUM["PBACL"]
    for i, true in enumerate(ALIASES):
        if true != 4 * i:
            assert access[i] == registers.ABSENT
            assert access[true // 4] != registers.ABSENT
            assert ALIASES[true // 4] == true
    changed = sum(true != 4 * i for i, true in enumerate(ALIASES))
    assert changed == sum(len(aliases(register)) for register in REGISTERS.values())


def test_offsets_and_names_are_each_others_inverse() -> None:
    for register in REGISTERS.values():
        for n, at in enumerate(register.offsets()):
            assert registers.offset(register.name, n) == at
            name = registers.name_at(at)
            assert name in {register.name, f"{register.name}[{n}]"}
    assert registers.offset("RDT", 63) == 0x01FD8
    assert registers.offset("RDT", 64) == 0x0D018
    assert registers.offset("EITR", 24) == 0x12300
    assert registers.offset("PFVFLRE", 1) == 0x001C0
    assert registers.offset("VMOLR", 3) == registers.offset("PFVML2FLT", 3) == 0x0F00C
    assert registers.name_at(0x010D8) == "RDT[3]"
    assert registers.name_at(0x05408) == "RAL[1]"
    assert registers.name_at(0x00008) == "STATUS"
    assert registers.name_at(0x1F000) == "0x1f000"
    assert registers.name_at(0x00009) == "0x00009"
    assert registers.name_at(1 << 40) == "0x10000000000"
    assert registers.name_at(-4) == "-0x0004"


def test_what_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        registers.offset("DROPEN")
    with pytest.raises(IndexError, match="RDT has 128 elements, not 128"):
        registers.offset("RDT", 128)
    with pytest.raises(IndexError):
        registers.offset("CTRL", -1)
    with pytest.raises(ValueError, match="not a register"):
        registers.parse_line("CTRL 0x00000 RW")


def test_statistics_are_cleared_by_reading() -> None:
    in_a_row = pairwise(list(REGISTERS))
    first = next(after for before, after in in_a_row if before == "SMADARCTL")
    statistics = list(REGISTERS)[list(REGISTERS).index(first) :]
    statistics = statistics[: statistics.index("PFVTCTL")]
    assert first == "CRCERRS"
    assert len(statistics) > 70
    settings = {"RXDSTATCTRL", "RQSMR", "TQSM"}
    for name in set(statistics) - settings:
        assert REGISTERS[name].access == "RC", name


def test_pairs_lie_side_by_side() -> None:
    noted = {name for name, register in REGISTERS.items() if register.note == "pair"}
    assert noted == set(PAIRS) | set(PAIRS.values())
    for low, high in PAIRS.items():
        assert [at + 4 for at in REGISTERS[low].offsets()] == REGISTERS[high].offsets()


# What Linux writes and what it expects to read, by `ethtool -t` (reg_test_82599 of
# ixgbe_ethtool.c); a pattern test writes pattern & write and wants pattern & both.
PATTERN_TESTS = [
    ("FCRTL", 1, 0x8007FFF0, 0x8007FFF0),
    ("FCRTH", 1, 0x8007FFF0, 0x8007FFF0),
    ("PFCTOP", 1, 0xFFFFFFFF, 0xFFFFFFFF),
    ("VLNCTRL", 1, 0x00000000, 0x00000000),
    ("RDBAL", 4, 0xFFFFFF80, 0xFFFFFF80),
    ("RDBAH", 4, 0xFFFFFFFF, 0xFFFFFFFF),
    ("RDLEN", 4, 0x000FFF80, 0x000FFFFF),
    ("RDT", 4, 0x0000FFFF, 0x0000FFFF),
    ("FCTTV", 1, 0xFFFFFFFF, 0xFFFFFFFF),
    ("TDBAL", 4, 0xFFFFFF80, 0xFFFFFFFF),
    ("TDBAH", 4, 0xFFFFFFFF, 0xFFFFFFFF),
    ("TDLEN", 4, 0x000FFF80, 0x000FFF80),
    ("RAL", 16, 0xFFFFFFFF, 0xFFFFFFFF),
    ("RAH", 16, 0x8001FFFF, 0x800CFFFF),
    ("MTA", 128, 0xFFFFFFFF, 0xFFFFFFFF),
]


@pytest.mark.parametrize(("name", "count", "mask", "write"), PATTERN_TESTS)
def test_masks_pass_the_register_test_of_linux(
    name: str, count: int, mask: int, write: int
) -> None:
    register = REGISTERS[name]
    assert len(register.offsets()) >= count
    for pattern in (0x5A5A5A5A, 0xA5A5A5A5, 0x00000000, 0xFFFFFFFF):
        kept = register.reset & ~register.mask
        value = kept | (pattern & write & register.mask)
        assert value == pattern & write & mask


def test_the_card_never_looks_gone() -> None:
    """All ones are what a driver reads of a card that was pulled."""
    assert 0xFFFFFFFF not in registers.reset()
