"""EEPROM image, SFP+ module and configuration space as drivers read them."""

import pytest

from snabb_py._native import lib
from snabb_py.nic import config_space, eeprom

MAC = bytes.fromhex("02534e420001")


def test_the_checksum_is_right_and_covers_the_sections() -> None:
    words = eeprom.eeprom_image(MAC)
    assert len(words) == lib.MODEL_EEPROM_WORDS == eeprom.WORDS
    assert all(0 <= word <= 0xFFFF for word in words)
    assert eeprom.checksum(words) == 0xBABA
    for place in (0x2C, 0x3F, eeprom.CORE + 1, eeprom.CORE + 3):
        spoilt = list(words)
        spoilt[place] ^= 0x0100
        assert eeprom.checksum(spoilt) != 0xBABA
    # Linux leaves the firmware out, and what no pointer leads to.
    for place in (eeprom.FIRMWARE + 4, eeprom.PART_NUMBER, 0x800):
        other = list(words)
        other[place] ^= 0x0100
        assert eeprom.checksum(other) == 0xBABA


def test_the_checksum_survives_wild_pointers() -> None:
    words = [0xFFFF] * 64
    words[0x03:0x0F] = [0, 0xFFFF, 63, 0xFFFE, 5, *[0] * 7]
    assert 0 <= eeprom.checksum(words) <= 0xFFFF


def test_the_image_holds_what_linux_looks_for() -> None:
    words = eeprom.eeprom_image(MAC, part_number="E66560-002", track_id=0x8000_03E1)
    # ixgbe_verify_fw_version_82599: else it warns of a pre-production adapter.
    assert words[words[words[0x0F] + 4] + 7] > 5
    # ixgbe_verify_lesm_fw_enabled_82599: no LESM.
    assert words[words[0x0F] + 2] == 0xFFFF
    # ixgbe_read_pba_string_generic
    assert words[0x15] == 0xFAFA
    length = words[words[0x16]]
    text = words[words[0x16] + 1 : words[0x16] + length]
    assert b"".join(word.to_bytes(2, "big") for word in text) == b"E66560-002"
    # ixgbe_get_etk_id
    assert words[0x2E] << 16 | words[0x2D] == 0x8000_03E1
    assert words[0x2C] == 0x0003
    for absent in (0x17, 0x1B, 0x26, 0x27, 0x28, 0x33, 0x37):
        assert words[absent] == 0xFFFF


@pytest.mark.parametrize("sfp_type", [3, 4, 5, 6])
def test_every_kind_of_module_has_settings(sfp_type: int) -> None:
    """As ixgbe_get_sfp_init_sequence_offsets and ixgbe_setup_sfp_modules_82599."""
    words = eeprom.eeprom_image(MAC)
    at = words[0x2B] + 1
    while words[at] != sfp_type:
        assert words[at] != 0xFFFF
        at += 2
    data = words[at + 1]
    assert data not in {0, 0xFFFF}
    settings = words[data + 1 : words.index(0xFFFF, data + 1)]
    assert len(settings) == 1


@pytest.mark.parametrize("mac", [b"", b"\0" * 6, b"\1" + b"\0" * 5, b"\2" * 7])
def test_no_card_has_such_an_address(mac: bytes) -> None:
    with pytest.raises(ValueError, match="not the address of a card"):
        eeprom.eeprom_image(mac)
    with pytest.raises(ValueError, match="not the address of a card"):
        config_space.config_space(config_space.DEVICE_SFP, mac)


def test_a_part_number_is_of_whole_words() -> None:
    with pytest.raises(ValueError, match="whole words"):
        eeprom.eeprom_image(MAC, part_number="ODD")


def test_the_module_is_a_10gbase_sr_of_intel() -> None:
    module = eeprom.sfp_module()
    assert len(module) == lib.MODEL_SFP_SIZE == eeprom.SFP_SIZE
    assert module[0] == 0x03
    assert module[3] & 0x10
    assert module[0x25:0x28] == bytes.fromhex("001b21")
    assert module[20:36] == b"snabb-py        "
    assert module[63] == sum(module[:63]) & 0xFF
    assert module[95] == sum(module[64:95]) & 0xFF
    # No passive or active copper, no 1G: Linux would take another way.
    assert module[6] == module[8] == 0
    # Diagnostics without a change of address: `ethtool -m` reads 512 bytes.
    assert module[92] & 0x44 == 0x40
    assert module[94] != 0
    with pytest.raises(ValueError, match="longer than 16 characters"):
        eeprom.sfp_module(vendor="a name that is too long")


# -- configuration space -------------------------------------------------------


def space() -> tuple[bytes, bytes]:
    return config_space.config_space(config_space.DEVICE_SFP, MAC)


def field(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")


def test_identity() -> None:
    data, mask = space()
    assert len(data) == len(mask) == lib.MODEL_CONFIG_SIZE == config_space.SIZE
    assert field(data, 0x00, 4) == 0x10FB8086
    assert field(data, 0x0A, 2) == 0x0200
    assert data[0x0E] == 0
    assert data[0x3D] == 1
    assert field(mask, 0x00, 4) == field(mask, 0x08, 4) == 0
    # Memory and bus mastering can be switched on, and are off.
    assert field(mask, 0x04, 2) & 0x0006 == 0x0006
    assert field(data, 0x04, 2) == 0
    other, _ = config_space.config_space(0x154D, MAC)
    assert field(other, 0x02, 2) == 0x154D


@pytest.mark.parametrize(
    ("n", "kind", "size"),
    [(0, 0xC, 131072), (2, 0x1, 32), (4, 0xC, 16384)],
)
def test_bars_say_their_size(n: int, kind: int, size: int) -> None:
    data, mask = space()
    at = 0x10 + 4 * n
    after_all_ones = field(data, at, 4) | field(mask, at, 4)
    assert after_all_ones & 0xF == kind & 0xF
    flags = 0x3 if kind & 1 else 0xF
    assert (~(after_all_ones & ~flags) & 0xFFFFFFFF) + 1 == size
    if kind & 4:
        assert field(mask, at + 4, 4) == 0xFFFFFFFF


def test_no_other_bar_and_no_rom() -> None:
    data, mask = space()
    for at in (0x1C, 0x30):
        assert field(data, at, 4) == field(mask, at, 4) == 0


def test_capabilities_are_where_drivers_look() -> None:
    data, _ = space()
    assert field(data, 0x06, 2) & 0x10
    found = []
    at = data[0x34]
    while at:
        found.append((at, data[at]))
        at = data[at + 1]
    assert found == [(0x40, 0x01), (0x50, 0x05), (0x70, 0x11), (0xA0, 0x10)]
    found = []
    at = 0x100
    while at:
        header = field(data, at, 4)
        assert header >> 16 & 0xF == 1
        found.append((at, header & 0xFFFF))
        at = header >> 20
    assert found == [(0x100, 0x0001), (0x140, 0x0003)]


def test_msix_is_in_bar_4() -> None:
    data, mask = space()
    assert field(data, 0x72, 2) + 1 == lib.MODEL_NVECTORS
    assert field(mask, 0x72, 2) == 0xC000
    assert field(data, 0x74, 4) == 4
    assert field(data, 0x78, 4) == lib.MODEL_MSIX_PBA | 4


def test_the_link_is_eight_lanes_of_pcie_2() -> None:
    data, mask = space()
    status = field(data, 0xB2, 2)
    assert status & 0xF == 2
    assert status >> 4 & 0x3F == 8
    assert field(data, 0xA4, 4) >> 28 & 1  # function level reset
    assert not field(mask, 0xA8, 2) >> 15 & 1
    assert field(data, 0xAA, 2) == 0  # no transaction is pending
    assert field(mask, 0xC8, 2) & 0xF == 0xF  # completion time-out


def test_the_serial_number_is_made_of_the_address() -> None:
    data, _ = space()
    number = field(data, 0x144, 8).to_bytes(8, "big")
    assert number == bytes.fromhex("02534effff420001")


def test_what_cannot_be_written_is_no_surprise() -> None:
    """Drivers restore all of it: bits beyond capabilities must not stick."""
    _, mask = space()
    for at in range(0x158, 0x1000, 4):
        assert field(mask, at, 4) == 0
