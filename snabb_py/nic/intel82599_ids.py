"""Which cards are of the 82599 family, and which look like it and are not.

Imports errors.
"""

from typing import Final

from snabb_py.errors import ConfigError

INTEL: Final = 0x8086

#: Device ids of the family's physical functions. Source: 82599 data sheet, 9.3.2;
#: the names are those of Linux' ixgbe.
FAMILY: Final[dict[int, str]] = {
    0x10F7: "Intel 82599 KX4",
    0x10F8: "Intel 82599 combined backplane",
    0x10F9: "Intel 82599 CX4",
    0x10FB: "Intel 82599 SFP+ (X520)",
    0x10FC: "Intel 82599 XAUI",
    0x1507: "Intel 82599 SFP+ EM",
    0x1514: "Intel 82599 KX4 mezzanine",
    0x1517: "Intel 82599 KR",
    0x151C: "Intel 82599 10GBASE-T",
    0x1529: "Intel 82599 SFP+ FCoE",
    0x152A: "Intel 82599 backplane FCoE",
    0x154A: "Intel 82599 SFP+, four ports",
    0x154D: "Intel 82599 SFP+ SF2 (X520)",
    0x154F: "Intel 82599 LS",
    0x1557: "Intel 82599EN SFP+",
    0x1558: "Intel 82599 QSFP+",
}

#: Device ids that Linux' ixgbe and ixgbevf drive too, with other code.
SIBLINGS: Final[dict[int, str]] = {
    **dict.fromkeys(
        (
            *(0x10B6, 0x10C6, 0x10C7, 0x10C8, 0x10DB, 0x10DD, 0x10E1, 0x10EC),
            *(0x10F1, 0x10F4, 0x150B),
        ),
        "Intel 82598",
    ),
    0x10ED: "virtual function of an Intel 82599",
    0x152E: "virtual function of an Intel 82599 (Hyper-V)",
    **dict.fromkeys((0x1528, 0x1560), "Intel X540"),
    0x1515: "virtual function of an Intel X540",
    0x1530: "virtual function of an Intel X540 (Hyper-V)",
    **dict.fromkeys((0x1563, 0x15D1), "Intel X550"),
    **dict.fromkeys((0x1564, 0x1565), "virtual function of an Intel X550"),
    **dict.fromkeys((0x15AA, 0x15AB, 0x15AC, 0x15AD, 0x15AE, 0x15B0), "Intel X552"),
    **dict.fromkeys((0x15A8, 0x15A9), "virtual function of an Intel X552"),
    **dict.fromkeys(
        (
            *(0x15C2, 0x15C3, 0x15C4, 0x15C6, 0x15C7, 0x15C8, 0x15CA, 0x15CC),
            *(0x15CE, 0x15E4, 0x15E5),
        ),
        "Intel X553",
    ),
    **dict.fromkeys((0x15B4, 0x15C5), "virtual function of an Intel X553"),
}


def describe(vendor: int, device: int) -> str | None:
    """Return the name of a card of the family or next to it; None for all others."""
    if vendor != INTEL:
        return None
    return FAMILY.get(device) or SIBLINGS.get(device)


def is_supported(vendor: int, device: int) -> bool:
    """Return whether a card is of the family."""
    return vendor == INTEL and device in FAMILY


def check_id(vendor: int, device: int, *, address: str = "", kind: str = "") -> None:
    """Refuse a card that is none of the family, by its name.

    Args:
        vendor: PCI vendor id.
        device: PCI device id.
        address: where it is.
        kind: what it is if we do not know its name, "Ethernet controller".

    Raises:
        ConfigError: it is none.
    """
    if is_supported(vendor, device):
        return
    ids = f"{vendor:04x}:{device:04x}"
    name = describe(vendor, device) or kind
    what = f"{name} ({ids})" if name else ids
    where = f"{address}, {what}" if address else what
    raise ConfigError(
        f"PCI device {where}: not supported; snabb-py pci list marks what is"
    )
