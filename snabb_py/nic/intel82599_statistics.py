"""The 82599's statistics registers as counters of 64 bits that only grow.

A read clears the register, so exactly one reader adds up what it has read; a register
that is not read in time sticks at its largest value (data sheet 8.2.3.23): at line rate
after 288 s. Imports registers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from snabb_py.nic.registers import offset


@dataclass(frozen=True)
class Statistic:
    """One counter.

    Attributes:
        name: as users see it.
        low: offsets of registers of which the sum counts.
        high: of one register more, its upper 4 bits; read after the low one.
    """

    name: str
    low: tuple[int, ...]
    high: int | None = None


def _one(name: str, register: str, n: int = 0) -> Statistic:
    return Statistic(name, (offset(register, n),))


def _sum(name: str, register: str, count: int) -> Statistic:
    return Statistic(name, tuple(offset(register, n) for n in range(count)))


def _pair(name: str, low: str, high: str) -> Statistic:
    return Statistic(name, (offset(low),), offset(high))


#: Bytes of the wire counters include the FCS. `drop-rx-missed`: the packet buffer was
#: full; `drop-rx-no-descriptor`: a queue's ring was empty and it does not wait.
STATISTICS: Final = (
    _one("rx-good-packets", "GPRC"),
    _pair("rx-good-bytes", "GORCL", "GORCH"),
    _one("tx-good-packets", "GPTC"),
    _pair("tx-good-bytes", "GOTCL", "GOTCH"),
    _one("rx-total-packets", "TPR"),
    _one("tx-total-packets", "TPT"),
    _one("rx-multicast-packets", "MPRC"),
    _one("rx-broadcast-packets", "BPRC"),
    _one("tx-multicast-packets", "MPTC"),
    _one("tx-broadcast-packets", "BPTC"),
    _one("rx-64-packets", "PRC64"),
    _one("rx-65-127-packets", "PRC127"),
    _one("rx-128-255-packets", "PRC255"),
    _one("rx-256-511-packets", "PRC511"),
    _one("rx-512-1023-packets", "PRC1023"),
    _one("rx-1024-packets", "PRC1522"),
    _one("tx-64-packets", "PTC64"),
    _one("tx-65-127-packets", "PTC127"),
    _one("tx-128-255-packets", "PTC255"),
    _one("tx-256-511-packets", "PTC511"),
    _one("tx-512-1023-packets", "PTC1023"),
    _one("tx-1024-packets", "PTC1522"),
    _one("rx-crc-errors", "CRCERRS"),
    _one("rx-illegal-byte-errors", "ILLERRC"),
    _one("rx-error-bytes", "ERRBC"),
    _one("rx-length-errors", "RLEC"),
    _one("rx-undersize", "RUC"),
    _one("rx-fragments", "RFC"),
    _one("rx-oversize", "ROC"),
    _one("rx-jabber", "RJC"),
    _one("rx-checksum-errors", "XEC"),
    _one("mac-local-faults", "MLFC"),
    _one("mac-remote-faults", "MRFC"),
    _one("rx-xon", "LXONRXCNT"),
    _one("rx-xoff", "LXOFFRXCNT"),
    _one("tx-xon", "LXONTXC"),
    _one("tx-xoff", "LXOFFTXC"),
    _one("rx-host-packets", "RXDGPC"),
    _pair("rx-host-bytes", "RXDGBCL", "RXDGBCH"),
    _one("tx-host-packets", "TXDGPC"),
    _pair("tx-host-bytes", "TXDGBCL", "TXDGBCH"),
    _sum("drop-rx-missed", "RXMPC", 8),
    _sum("drop-rx-no-descriptor", "QPRDC", 16),
    _one("drop-tx-spoofed", "SSVPC"),
)

#: What the driver itself counts of a card, behind those of the registers.
#: `drop-queue-closed`: what a queue that was given back had received and not handed on,
#: or had not sent.
EVENTS: Final = ("link-up", "link-flaps", "tx-hangs", "drop-queue-closed")

NAMES: Final = tuple(statistic.name for statistic in STATISTICS) + EVENTS


def read_statistics(read: Callable[[int], int]) -> list[int]:
    """Return what has been counted since the last time, in the order of STATISTICS.

    Args:
        read: reads a register by its offset, which clears it.
    """
    values = []
    for statistic in STATISTICS:
        value = sum(read(at) for at in statistic.low)
        if statistic.high is not None:
            value += (read(statistic.high) & 0xF) << 32
        values.append(value)
    return values
