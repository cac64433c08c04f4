"""From any state to a card that runs: the data sheet's steps (331520, chapter 4.6).

Each method is a step, named for what it does and with its section. Imports its siblings
and errors.
"""

import contextlib
import errno
import time
from typing import Final

from snabb_py.errors import DeviceError
from snabb_py.nic.eeprom import CHECKSUM_TOTAL, CHECKSUM_WORD, ERASED, SECTION_POINTERS
from snabb_py.nic.intel82599_access import ALL_ONES
from snabb_py.nic.intel82599_filters import NQUEUES, Filters
from snabb_py.nic.intel82599_statistics import read_statistics

ETHERNET_SIZE: Final = 14
FCS_SIZE: Final = 4

CTRL_GIO_DIS, CTRL_LRST, CTRL_RST = 1 << 2, 1 << 3, 1 << 26
CTRL_EXT_NS_DIS, CTRL_EXT_DRV_LOAD = 1 << 16, 1 << 28
STATUS_GIO_MASTER = 1 << 19
EEC_PRES, EEC_ARD = 1 << 8, 1 << 9
EERD_START, EERD_DONE = 1 << 0, 1 << 1
SWSM_SMBI, SWSM_SWESMBI = 1 << 0, 1 << 1
SYNC_MAC_CSR = 1 << 3
RDRXCTL_CRCSTRIP, RDRXCTL_DMAIDONE = 1 << 1, 1 << 3
RDRXCTL_RSCFRSTSIZE, RDRXCTL_RSCACKC, RDRXCTL_FCOE_WRFIX = 0x1F << 17, 1 << 25, 1 << 26
HLREG0_TXCRCEN, HLREG0_RXCRCSTRP, HLREG0_JUMBOEN = 1 << 0, 1 << 1, 1 << 2
HLREG0_TXPADEN, HLREG0_LPBK = 1 << 10, 1 << 15
MFLCN_DPF, MFLCN_RFCE = 1 << 1, 1 << 3
RXCSUM_PCSD = 1 << 13
RFCTL_RSC_DIS = 1 << 5
RXCTRL_RXEN = 1 << 0
SEC_DIS, SEC_PATH_DIS, SEC_READY = 1 << 0, 1 << 1, 1 << 0
DCTL_ENABLE, TXDCTL_SWFLSH, RXDCTL_VME = 1 << 25, 1 << 26, 1 << 30
RTTDCS_VMPAC, RTTDCS_ARBDIS, RTTDCS_BPBFSM = 1 << 1, 1 << 6, 1 << 23
MTQC_VT, MTQC_64_POOLS, MTQC_32_POOLS = 1 << 1, 1 << 2, 2 << 2
DMATXCTL_TE = 1 << 0
# Of all segments but the last FIN and PSH are cleared, of all but the first CWR: the
# chip's default leaves CWR in the middle ones (RFC 3168, 6.1.2).
TCP_FLAGS_FIRST_MIDDLE = 0x0F76_0FF6
TCP_FLAGS_LAST = 0x0F7F
AUTOC_RESTART, AUTOC_LMS, AUTOC_10G_SERIAL = 1 << 12, 7 << 13, 3 << 13
AUTOC2_SFI, AUTOC2_SERIAL = 2 << 16, 3 << 16
LINKS_UP = 1 << 30
ESDP_SDP2, ESDP_LASER_OFF = 1 << 2, 1 << 3
RATE_WINDOW_JUMBO = 0x14
RX_BUFFER = 0x80000
SWITCH_ROOM = 24 << 10  # of it, for frames from one pool to another
#: Cards whose cage takes an SFP+ module: their link is set up here. The others' link is
#: what the EEPROM says: backplanes.
SFP_DEVICES: Final = frozenset(
    {0x10FB, 0x1507, 0x154D, 0x154A, 0x1557, 0x1558, 0x1529, 0x154F}
)


class Setup(Filters):
    """A card that can be reset and set up."""

    def open(self) -> None:
        """Bring the card from any state to one in which queues can be enabled."""
        self.check_presence()
        self.disable_interrupts()
        self.stop_accesses()
        self.reset()
        self.disable_interrupts()
        self.wait_for_eeprom()
        self.wait("RDRXCTL.DMAIDONE", "RDRXCTL", RDRXCTL_DMAIDONE, to_be=True)
        self.check_eeprom()
        self.mac = self.read_mac()
        self.set("CTRL_EXT", CTRL_EXT_DRV_LOAD | CTRL_EXT_NS_DIS)
        self.start_link()
        self.clear_tables()
        read_statistics(self.function.read)
        self.function.set_master(True)
        self.set_up_receive()
        self.set_up_spreading()
        if self.config.pools:
            self.set_up_pools()
        self.set_up_transmit()
        self.enable_receive()

    def disable_interrupts(self) -> None:
        """Mask all causes and forget what is pending (4.6.3.1)."""
        self.write("EIMC", 0x7FFFFFFF)
        self.fill("EIMC_EX", ALL_ONES)
        self.read("EICR")

    def stop_accesses(self) -> None:
        """Quiesce the card: no new access of memory, the last ones done (5.2.5.3.2)."""
        self.write("RXCTRL", 0)
        for n in range(NQUEUES):
            self.write("RXDCTL", 0, n)
            self.write("TXDCTL", TXDCTL_SWFLSH, n)
        self.set("CTRL", CTRL_GIO_DIS)
        try:
            self.wait(
                "STATUS.GIO_MASTER",
                "STATUS",
                STATUS_GIO_MASTER,
                to_be=False,
                timeout=0.1,
            )
        except DeviceError as error:
            if error.errno != errno.ETIMEDOUT:
                raise
            # It may not drain under flow control or without a link: flush its buffers,
            # and reset it twice (specification update, clarification 9).
            self.set("HLREG0", HLREG0_LPBK)
            self.set("GCR_EXT", 1 << 30)
            time.sleep(20e-6)
            self.clear("HLREG0", HLREG0_LPBK)
            self.clear("GCR_EXT", 1 << 30)
            self.reset()

    def reset(self) -> None:
        """Reset the software's side and the link, and wait 10 ms (4.6.3.2)."""
        ctrl = self.read("CTRL") & ~CTRL_GIO_DIS
        self.write("CTRL", ctrl | CTRL_RST | CTRL_LRST)
        self.wait("CTRL.RST", "CTRL", CTRL_RST | CTRL_LRST, to_be=False)
        time.sleep(10e-3)

    def wait_for_eeprom(self) -> None:
        """Wait until the card has configured itself from its EEPROM."""
        self.wait("EEC.PRES", "EEC", EEC_PRES, to_be=True)
        self.wait("EEC.ARD", "EEC", EEC_ARD, to_be=True)

    def read_eeprom(self, word: int) -> int:
        """Read a word of the EEPROM (8.2.3.2.2)."""
        self.write("EERD", word << 2 | EERD_START)
        self.wait("EERD.DONE", "EERD", EERD_DONE, to_be=True)
        return self.read("EERD") >> 16

    def check_eeprom(self) -> None:
        """Compare the EEPROM's checksum (6.3.2.21).

        Raises:
            DeviceError: it is wrong: the card's own settings cannot be relied on.
        """
        words = [self.read_eeprom(at) for at in range(CHECKSUM_WORD + 1)]
        total = sum(words)
        for start in (words[at] for at in SECTION_POINTERS):
            length = 0 if start in {0, ERASED} else self.read_eeprom(start)
            if length not in {0, ERASED}:
                total += sum(self.read_eeprom(start + 1 + i) for i in range(length))
        if total & 0xFFFF != CHECKSUM_TOTAL:
            raise DeviceError(
                f"{self.name}: EEPROM checksum {total & 0xFFFF:#06x}, not "
                f"{CHECKSUM_TOTAL:#06x}",
                errno.EIO,
                "its contents are damaged: restore them with the vendor's tool",
            )

    def read_mac(self) -> bytes:
        """Return the address that the EEPROM gave to filter 0.

        Raises:
            DeviceError: it cannot be a card's.
        """
        low, high = self.read("RAL"), self.read("RAH")
        mac = low.to_bytes(4, "little") + (high & 0xFFFF).to_bytes(2, "little")
        if mac[0] & 1 or not any(mac):
            raise DeviceError(
                f"{self.name}: MAC address {mac.hex(':')} cannot be a card's", errno.EIO
            )
        return mac

    def clear_tables(self) -> None:
        """Clear all filters: most are undefined after a reset (4.6.3, step 8)."""
        for register in ("MTA", "VFTA", "PFUTA", "PFVLVF", "PFVLVFB", "MPSAR_LO"):
            self.fill(register)
        self.fill("MPSAR_HI")
        self.fill("RAH", first=1)
        self.fill("FTQF")
        self.fill("ETQF")
        self._macs = [(self.mac, 0)]
        self._vlans.clear()

    # -- 4.6.4: link -----------------------------------------------------------

    def own_mac_registers(self) -> contextlib.ExitStack:
        """Hold the semaphore that firmware and the other port share (10.5.4).

        Raises:
            DeviceError: somebody else does not let go of it.
        """
        with contextlib.ExitStack() as held:
            try:  # a read of 0 takes it
                self.wait("SWSM.SMBI", "SWSM", SWSM_SMBI, to_be=False)
            except DeviceError as error:
                if error.errno != errno.ETIMEDOUT:
                    raise
                # Whoever has it has died with it: nobody needs it for so long.
                self.clear("SWSM", SWSM_SMBI | SWSM_SWESMBI)
                self.wait("SWSM.SMBI", "SWSM", SWSM_SMBI, to_be=False)
            held.callback(self.clear, "SWSM", SWSM_SWESMBI | SWSM_SMBI)
            self.set("SWSM", SWSM_SWESMBI)
            self.wait("SWSM.SWESMBI", "SWSM", SWSM_SWESMBI, to_be=True)
            # Firmware's bits lie five above; one that stays is a dead owner's.
            with contextlib.suppress(DeviceError):
                self.wait(
                    "SW_FW_SYNC",
                    "SW_FW_SYNC",
                    SYNC_MAC_CSR | SYNC_MAC_CSR << 5,
                    to_be=False,
                )
            self.set("SW_FW_SYNC", SYNC_MAC_CSR)
            held.callback(self.clear, "SW_FW_SYNC", SYNC_MAC_CSR)
            return held.pop_all()

    def start_link(self) -> None:
        """Start the link; that it comes up is not waited for."""
        with self.own_mac_registers():
            autoc = self.read("AUTOC")
            if self.function.device in SFP_DEVICES:
                self.clear("ESDP", ESDP_LASER_OFF)
                autoc = autoc & ~AUTOC_LMS | AUTOC_10G_SERIAL
                self.write("AUTOC2", self.read("AUTOC2") & ~AUTOC2_SERIAL | AUTOC2_SFI)
            self.write("AUTOC", autoc | AUTOC_RESTART)

    @property
    def is_up(self) -> bool:
        """Whether there is a link, now."""
        links = self.read("LINKS")
        return links != ALL_ONES and bool(links & LINKS_UP)

    # -- 4.6.7: receive --------------------------------------------------------

    def set_up_receive(self) -> None:
        """Set filters, sizes, and what the card does to frames; it is still off."""
        config = self.config
        self.write("RXCTRL", 0)
        self.write("RXPBSIZE", RX_BUFFER)
        self.fill("RXPBSIZE", first=1)
        # No pause frames are sent; but what pools send to each other stops at this
        # mark, and without room above it the transmitter hangs.
        self.write("FCRTL", 0)
        self.write("FCRTH", RX_BUFFER - SWITCH_ROOM)
        self.write("MAXFRS", (config.mtu + ETHERNET_SIZE + FCS_SIZE) << 16)
        self.set(
            "HLREG0",
            HLREG0_TXCRCEN | HLREG0_RXCRCSTRP | HLREG0_TXPADEN | HLREG0_JUMBOEN,
        )
        rdrxctl = self.read("RDRXCTL") & ~RDRXCTL_RSCFRSTSIZE
        self.write(
            "RDRXCTL",
            rdrxctl | RDRXCTL_CRCSTRIP | RDRXCTL_RSCACKC | RDRXCTL_FCOE_WRFIX,
        )
        self.set("RFCTL", RFCTL_RSC_DIS)
        self.set("RXCSUM", RXCSUM_PCSD)
        self.write("RXDSTATCTRL", 0x10)  # count what all queues deliver
        # A pause frame is the link's business: it never comes to software.
        self.write("MFLCN", MFLCN_DPF | (MFLCN_RFCE if config.honour_pause else 0))
        self.write("FCCFG", 0)
        self.set_filters()

    def enable_receive(self) -> None:
        """Let frames in: the path stands still while it is switched (4.6.7)."""
        self.set("SECRXCTRL", SEC_DIS | SEC_PATH_DIS)
        self.wait("SECRXSTAT.SECRX_RDY", "SECRXSTAT", SEC_READY, to_be=True)
        self.set("RXCTRL", RXCTRL_RXEN)
        self.clear("SECRXCTRL", SEC_PATH_DIS)

    # -- 4.6.8: transmit -------------------------------------------------------

    def set_up_transmit(self) -> None:
        """Set the transmit side up; its queues are still off."""
        self.set("SECTXCTRL", SEC_DIS)
        self.set("RTTDCS", RTTDCS_ARBDIS)
        if self.config.pools:
            many = self.config.pool_queues == 4  # noqa: PLR2004 - data sheet 7.10.2
            self.write("MTQC", MTQC_VT | (MTQC_32_POOLS if many else MTQC_64_POOLS))
            self.set("RTTDCS", RTTDCS_VMPAC)  # pools in turn, by their weights
            self.clear("RTTDCS", RTTDCS_BPBFSM)
        else:
            self.write("MTQC", 0)
        self.write("DTXMXSZRQ", 0xFFF)  # without traffic classes (4.6.11.3)
        self.write("TXPBSIZE", 0x28000)
        self.fill("TXPBSIZE", first=1)
        self.write("TXPBTHRESH", 0xA0)
        self.fill("TXPBTHRESH", first=1)
        self.clear("RTTDCS", RTTDCS_ARBDIS)
        self.write("DTXTCPFLGL", TCP_FLAGS_FIRST_MIDDLE)
        self.write("DTXTCPFLGH", TCP_FLAGS_LAST)
        self.write("RTTBCNRM", RATE_WINDOW_JUMBO)
        for n in range(NQUEUES):
            self.set_rate(n, None)
        self.set("DMATXCTL", DMATXCTL_TE)
