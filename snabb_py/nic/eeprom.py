"""What the software 82599 holds in its serial EEPROM and in its SFP+ module.

The least that drivers read, with contents on which they do not remark. Section numbers
are the 82599 data sheet's (chapter 6 is the EEPROM map) and SFF-8472's. Imports mac.
"""

from typing import Final

from snabb_py.nic.mac import check_mac

WORDS: Final = 4096  #: of 16 bits: MODEL_EEPROM_WORDS
SFP_SIZE: Final = 256  #: bytes: MODEL_SFP_SIZE
CHECKSUM_WORD: Final = 0x3F
CHECKSUM_TOTAL: Final = 0xBABA
ERASED: Final = 0xFFFF

# Pointers to the sections that the checksum covers: PCIe analog to CSR (6.3.2).
SECTION_POINTERS: Final = range(0x03, 0x0F)

# Where sections begin here; any free place would do.
CORE = 0x40
FIRMWARE = 0x50
PASS_THROUGH = 0x60
PART_NUMBER = 0x70
SFP_LIST = 0x80
SFP_DATA = 0x90

ALLOW_ANY_SFP = 1 << 0
NO_FCOE = 1 << 1


def eeprom_image(
    mac: bytes,
    *,
    part_number: str = "SNABBP-001",
    track_id: int = 0x80000001,
    device_caps: int = ALLOW_ANY_SFP | NO_FCOE,
) -> list[int]:
    """Return the words of an EEPROM.

    Args:
        mac: the card's address, 6 bytes.
        part_number: what `lspci` calls PBA, an even number of ASCII characters; Linux
            has room for 10.
        track_id: what `ethtool -i` shows as the version of the firmware.
        device_caps: word 0x2C. NO_FCOE: Linux then offers none.

    Raises:
        ValueError: an argument is of the wrong length.
    """
    check_mac(mac)
    if len(part_number) % 2:
        raise ValueError(f"a part number is of whole words: {part_number!r}")
    part_words = big_endian_words(part_number.encode("ascii"))
    words = [ERASED] * WORDS
    write(words, 0x09, CORE)
    write(words, 0x0F, FIRMWARE)
    write(words, 0x15, 0xFAFA, PART_NUMBER)  # 0xFAFA: a pointer follows, no number
    write(words, 0x2B, SFP_LIST, device_caps, track_id & 0xFFFF, track_id >> 16)
    # 6.3.6: length, address as on the wire.
    write(words, CORE, 3, *little_endian_words(mac))
    # Linux warns of firmware without a pass-through block of a version above 5.
    write(words, FIRMWARE + 4, PASS_THROUGH)
    write(words, PASS_THROUGH + 7, 6)
    write(words, PART_NUMBER, 1 + len(part_words), *part_words)
    # Behind a word that drivers skip, pairs of module type and settings. Types are
    # those of Linux: direct attach copper on port 0 and 1, SR or LR on port 0 and 1.
    pairs = [word for sfp_type in (3, 4, 5, 6) for word in (sfp_type, SFP_DATA)]
    write(words, SFP_LIST, len(pairs), *pairs, ERASED)
    # Settings go to CORECTL one by one; there is no analog part here to care.
    write(words, SFP_DATA, 1, 0x0000, ERASED)
    write(words, CHECKSUM_WORD, 0)
    words[CHECKSUM_WORD] = (CHECKSUM_TOTAL - checksum(words)) & 0xFFFF
    return words


def checksum(words: list[int]) -> int:
    """Return the sum of what the checksum covers, with it: 0xBABA if all is well.

    Words 0 to 0x3F and the sections, but for the firmware's (6.3.2.21, Linux's
    ixgbe_calc_eeprom_checksum_generic).
    """
    total = sum(words[: CHECKSUM_WORD + 1])
    for pointer in SECTION_POINTERS:
        start = words[pointer]
        if start in {0, ERASED} or start >= len(words):
            continue
        length = words[start]
        if length not in {0, ERASED}:
            total += sum(words[start + 1 : start + 1 + length])
    return total & 0xFFFF


def sfp_module(
    *,
    vendor: str = "snabb-py",
    part: str = "SFP-10G-SR",
    serial: str = "0000000001",
    date: str = "260101",
) -> bytes:
    """Return what a 10GBASE-SR module says of itself at I2C address 0xA0.

    With diagnostics, which model_phy.c makes up at 0xA2. The OUI is Intel's: its
    drivers take no other without being told to.

    Args:
        vendor: up to 16 ASCII characters, as `part` and `serial`.
        part: as above.
        serial: as above.
        date: of make, yymmdd.
    """
    module = bytearray(SFP_SIZE)
    # SFF-8472 table 4-1: SFP by a serial interface, LC, 10GBASE-SR; 64B/66B, 10.3 Gb/s
    module[0:4] = 0x03, 0x04, 0x07, 0x10
    module[11:13] = 0x06, 103
    # Reach: 80 m on OM2, 30 m on OM1, 300 m on OM3
    module[16:20] = 8, 3, 0, 30
    module[20:36] = text(vendor, 16)
    module[37:40] = 0x00, 0x1B, 0x21
    module[40:56] = text(part, 16)
    module[56:60] = text("1", 4)
    module[60:62] = (850).to_bytes(2, "big")  # nm
    module[63] = sum(module[:63]) & 0xFF
    # It has the wires TX_DISABLE, TX_FAULT and LOS.
    module[65] = 0x1A
    module[68:84] = text(serial, 16)
    module[84:92] = text(date, 8)
    # Diagnostics, calibrated inside, average power; as of SFF-8472 10.2
    module[92], module[94] = 0x68, 0x03
    module[95] = sum(module[64:95]) & 0xFF
    return bytes(module)


def write(words: list[int], start: int, *values: int) -> None:
    """Write words from a place on."""
    words[start : start + len(values)] = values


def little_endian_words(data: bytes) -> list[int]:
    """Return bytes as words, of each the low byte first."""
    return [low | high << 8 for low, high in zip(data[::2], data[1::2], strict=True)]


def big_endian_words(data: bytes) -> list[int]:
    """Return bytes as words, of each the high byte first."""
    return [high << 8 | low for high, low in zip(data[::2], data[1::2], strict=True)]


def text(string: str, size: int) -> bytes:
    """Return ASCII padded with blanks, as SFF-8472 wants it.

    Raises:
        ValueError: it is longer than that.
    """
    if len(string) > size:
        raise ValueError(f"longer than {size} characters: {string!r}")
    return string.encode("ascii").ljust(size)
