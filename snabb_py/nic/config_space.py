"""The PCI configuration space of the software 82599.

Data sheet chapter 9; the places of the capabilities are the chip's, for drivers go to
some of them without looking: Linux reads the link at 0xB2 and the device status at
0xAA. There is no SR-IOV, for there are no virtual functions, and no ARI, which only
they need. What writing does beside being kept is up to model82599.c. Imports nothing
of the extension.
"""

from typing import Final

from snabb_py.nic.mac import check_mac

SIZE: Final = 4096  #: MODEL_CONFIG_SIZE
VENDOR: Final = 0x8086
DEVICE_SFP: Final = 0x10FB  #: 82599ES with SFP+: X520

BAR_IO = 0x1
BAR_64_PREFETCHABLE = 0xC

PM, MSI, MSIX, PCIE, AER, SERIAL = 0x40, 0x50, 0x70, 0xA0, 0x100, 0x140


class ConfigSpace:
    """4096 bytes and, bit by bit, which of them keep what is written."""

    def __init__(self) -> None:
        self.data = bytearray(SIZE)
        self.mask = bytearray(SIZE)

    def put(self, at: int, size: int, value: int, mask: int = 0) -> None:
        """Set a little-endian field of `size` bytes."""
        self.data[at : at + size] = value.to_bytes(size, "little")
        self.mask[at : at + size] = mask.to_bytes(size, "little")

    def put_bar(self, n: int, kind: int, size: int) -> None:
        """Set a base address register.

        Its size shows in the bits that cannot be written. Memory takes two registers.
        """
        high = 0xFFFFFFFF
        self.put(0x10 + 4 * n, 4, kind, high & ~(size - 1))
        if kind == BAR_64_PREFETCHABLE:
            self.put(0x14 + 4 * n, 4, 0, high)


def config_space(device_id: int, mac: bytes) -> tuple[bytes, bytes]:
    """Return the configuration space after a reset and the mask of its writable bits.

    Bits that are cleared by writing ones never become set here; they are not writable.

    Args:
        device_id: of a physical function of the 82599 family: DEVICE_SFP.
        mac: the card's address, of which the serial number is made.

    Raises:
        ValueError: the address cannot be a card's.
    """
    check_mac(mac)
    space = ConfigSpace()
    put_header(space, device_id)
    put_power_management(space)
    put_msi(space)
    put_msix(space)
    put_pcie(space)
    put_aer(space)
    put_serial_number(space, mac)
    return bytes(space.data), bytes(space.mask)


def put_header(space: ConfigSpace, device_id: int) -> None:
    """Identity, command, base addresses: 9.3."""
    space.put(0x00, 2, VENDOR)
    space.put(0x02, 2, device_id)
    # I/O, memory, bus master, parity, SERR, no INTx
    space.put(0x04, 2, 0, 0x0547)
    space.put(0x06, 2, 0x0010)  # there are capabilities
    space.put(0x08, 4, 0x02000001)  # Ethernet, revision 1
    space.put(0x0C, 1, 0, 0xFF)  # cache line; kept and of no effect, as PCIe wants it
    space.put_bar(0, BAR_64_PREFETCHABLE, 128 << 10)  # registers
    space.put_bar(2, BAR_IO, 32)  # IOADDR, IODATA
    space.put_bar(4, BAR_64_PREFETCHABLE, 16 << 10)  # MSI-X
    space.put(0x2C, 2, VENDOR)
    space.put(0x2E, 2, 0x0006)  # X520-1: Linux knows no quirks of it
    space.put(0x34, 1, PM)
    space.put(0x3C, 1, 0, 0xFF)  # interrupt line
    space.put(0x3D, 1, 1)  # INTA


def put_power_management(space: ConfigSpace) -> None:
    """PCI power management 1.2; PME from D0 and D3hot: 9.3.7."""
    space.put(PM, 2, 0x01 | MSI << 8)
    space.put(PM + 2, 2, 0x4823)
    # State, PME enable, data select. Linux restores all of the rest after D3.
    space.put(PM + 4, 2, 0, 0x1F03)


def put_msi(space: ConfigSpace) -> None:
    """One vector, 64-bit address, can be masked: 9.3.8."""
    space.put(MSI, 2, 0x05 | MSIX << 8)
    space.put(MSI + 0x02, 2, 0x0180, 0x0071)
    space.put(MSI + 0x04, 4, 0, 0xFFFFFFFC)
    space.put(MSI + 0x08, 4, 0, 0xFFFFFFFF)
    space.put(MSI + 0x0C, 2, 0, 0xFFFF)
    space.put(MSI + 0x10, 4, 0, 0x00000001)


def put_msix(space: ConfigSpace) -> None:
    """64 vectors; table and pending bits in BAR 4: 9.3.9."""
    space.put(MSIX, 2, 0x11 | PCIE << 8)
    space.put(MSIX + 2, 2, 64 - 1, 0xC000)
    space.put(MSIX + 4, 4, 0x0000 | 4)
    space.put(MSIX + 8, 4, 0x2000 | 4)


def put_pcie(space: ConfigSpace) -> None:
    """An endpoint of PCIe 2.0, eight lanes at 5 GT/s: 9.3.10."""
    space.put(PCIE, 2, 0x10)
    space.put(PCIE + 0x02, 2, 0x0002)
    # 512-byte payloads, function level reset
    space.put(PCIE + 0x04, 4, 0x10008CC2)
    # Relaxed ordering, no snoop, reads of 512 bytes. Bit 15 resets and reads 0.
    space.put(PCIE + 0x08, 2, 0x2810, 0x78FF)
    space.put(PCIE + 0x0C, 4, 0x00000082)
    space.put(PCIE + 0x10, 2, 0, 0x00CB)
    space.put(PCIE + 0x12, 2, 0x1082)  # as above, and the slot's clock
    # Completion time-outs: all ranges, can be switched off
    space.put(PCIE + 0x24, 4, 0x0000001F)
    space.put(PCIE + 0x28, 2, 0, 0x001F)
    space.put(PCIE + 0x30, 2, 0x0002, 0x000F)


def put_aer(space: ConfigSpace) -> None:
    """Advanced error reporting; nothing is ever reported: 9.4.2."""
    space.put(AER, 4, 0x0001 | 1 << 16 | SERIAL << 20)
    space.put(AER + 0x08, 4, 0, 0x001FF010)
    space.put(AER + 0x0C, 4, 0x00062010, 0x001FF010)
    space.put(AER + 0x14, 4, 0x00002000, 0x000031C1)


def put_serial_number(space: ConfigSpace, mac: bytes) -> None:
    """The address with FF FF in its middle: 9.4.3."""
    space.put(SERIAL, 4, 0x0003 | 1 << 16)
    number = int.from_bytes(mac[:3] + b"\xff\xff" + mac[3:], "big")
    space.put(SERIAL + 4, 8, number)
