"""Who gets which frame: MAC and VLAN filters, pools, mirrors (data sheet 7.1.1, 7.10).

Imports its siblings and errors.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Final

from snabb_py.errors import ConfigError
from snabb_py.nic.intel82599_access import ALL_ONES, Access, Function
from snabb_py.nic.intel82599_config import (
    LINK_MBPS,
    MAC_FILTERS,
    RSS_TABLE_SIZE,
    VLAN_FILTERS,
    CardConfig,
    PoolConfig,
)
from snabb_py.nic.mac import parse_mac

NQUEUES: Final = 128

FCTRL_MPE, FCTRL_UPE, FCTRL_BAM = 1 << 8, 1 << 9, 1 << 10
MCSTCTRL_MFE = 1 << 2
MRQC_RSS, MRQC_POOLS, MRQC_POOLS_RSS32, MRQC_POOLS_RSS64 = 1, 8, 0xA, 0xB
MRQC_FIELDS = 1 << 16 | 1 << 17 | 1 << 20 | 1 << 21 | 1 << 22 | 1 << 23
PSRTYPE_RQPL_SHIFT = 29
RATE_ENABLE, RATE_FRACTION = 1 << 31, 14
VLNCTRL_VFE = 1 << 30
VTCTL_ENABLE, VTCTL_NO_DEFAULT, VTCTL_REPLICATE = 1 << 0, 1 << 29, 1 << 30
L2FLT_AUPE, L2FLT_ROMPE, L2FLT_ROPE, L2FLT_BAM, L2FLT_MPE = (
    1 << n for n in (24, 25, 26, 27, 28)
)
RATE_LEAST = 10  # Mb/s of a queue at 10 Gb/s: the factor has 10 bits before the point
VLVF_ENABLE = 1 << 31
VMVIR_DEFAULT, VMVIR_NEVER = 1 << 30, 1 << 31
RAH_AV = 1 << 31
WEIGHT = 0x98  # of each pool (RTTDT1C): equal, and not below the longest frame / 64


def members(pool: PoolConfig | None) -> tuple[frozenset[bytes], set[int]]:
    """Return a pool's addresses and VLANs."""
    if pool is None:
        return frozenset(), set()
    return pool.addresses, set(pool.vlans)


class Filters(Access):
    """A card that sorts frames.

    Args:
        function: the card.
        config: its settings.
        clock: seconds; for tests.
    """

    def __init__(
        self, function: Function, config: CardConfig, clock: Callable[[], float]
    ) -> None:
        super().__init__(function, clock)
        self.config = config
        self.mac = bytes(6)
        #: For registers that choose what another one is about.
        self.lock = threading.RLock()
        self.pools: dict[int, PoolConfig] = {}
        #: What rates are parts of; the card scales them when the link's speed changes.
        self.link_mbps = LINK_MBPS
        #: Address and owners (bits) of each MAC filter; a free one has no address.
        self._macs: list[tuple[bytes, int]] = []
        #: The filter of each VLAN.
        self._vlans: dict[int, int] = {}

    def set_filters(self) -> None:
        """Set which addresses are received (7.1.1, without pools)."""
        config = self.config
        fctrl = FCTRL_BAM
        if config.promiscuous and not config.pools:
            fctrl |= FCTRL_UPE | FCTRL_MPE
        if config.multicast is None:
            fctrl |= FCTRL_MPE
        self.write("FCTRL", fctrl)
        hashes = [0] * 128
        for group in config.multicast or ():
            high = parse_mac(group, group=True)[4:]
            bit = (high[0] >> 4 | high[1] << 4) & 0xFFF  # MCSTCTRL.MO 0: bits 47:36
            hashes[bit // 32] |= 1 << bit % 32
        for n, word in enumerate(hashes):
            self.write("MTA", word, n)
        self.write("MCSTCTRL", MCSTCTRL_MFE)
        for mac in config.macs:
            self.add_mac(parse_mac(mac), 0)

    def add_mac(self, mac: bytes, pools: int) -> None:
        """Receive frames to an address, for these pools (bits).

        Raises:
            ConfigError: all filters are taken.
        """
        known = [known for known, _ in self._macs]
        if mac in known:
            n = known.index(mac)
            pools |= self._macs[n][1]
            self._macs[n] = mac, pools
        else:
            free = [n for n, (address, _) in enumerate(self._macs) if not address]
            n = free[0] if free else len(self._macs)
            if n >= MAC_FILTERS:
                raise ConfigError(
                    f"{self.name}: {MAC_FILTERS} MAC addresses at most on one card"
                )
            self._macs[n : n + 1] = [(mac, pools)]
        self.write("MPSAR_LO", pools & ALL_ONES, n)
        self.write("MPSAR_HI", pools >> 32, n)
        self.write("RAL", int.from_bytes(mac[:4], "little"), n)
        self.write("RAH", int.from_bytes(mac[4:], "little") | RAH_AV, n)

    def remove_mac(self, mac: bytes, pools: int) -> None:
        """Take an address away from these pools."""
        for n, (address, owners) in enumerate(self._macs):
            if address != mac:
                continue
            left = owners & ~pools
            self.write("MPSAR_LO", left & ALL_ONES, n)
            self.write("MPSAR_HI", left >> 32, n)
            if not left and n > 0:
                self.write("RAH", 0, n)
                self.write("RAL", 0, n)
                self._macs[n] = b"", 0
            else:
                self._macs[n] = address, left

    def set_up_spreading(self) -> None:
        """Set how frames are spread over queues (7.1.2.8, 7.10.2)."""
        config = self.config
        queues = config.rss_queues
        self.spread_over(range(queues))
        for n in range(10):
            word = int.from_bytes(config.rss_key[4 * n : 4 * n + 4], "little")
            self.write("RSSRK", word, n)
        if config.pools:
            modes = {1: MRQC_POOLS, 2: MRQC_POOLS_RSS64, 4: MRQC_POOLS_RSS32}
            mode = modes[config.pool_queues]
        else:
            mode = MRQC_RSS if config.has_hash else 0
        self.write("MRQC", mode | MRQC_FIELDS if mode else 0)
        share = (queues - 1).bit_length() << PSRTYPE_RQPL_SHIFT
        self.fill("PSRTYPE", share if config.pools else 0)
        for n in range(32):  # statistics by queue: the first sixteen have their own
            slots = bytes(min(4 * n + i, 15) for i in range(4))
            self.write("RQSMR", int.from_bytes(slots, "little"), n)
            self.write("TQSM", int.from_bytes(slots, "little"), n)

    def spread_over(self, queues: Iterable[int]) -> None:
        """Deal flows out to these queues, unless the user has a table of his own."""
        table = self.config.rss_table or tuple(queues)
        for n in range(RSS_TABLE_SIZE // 4):
            entries = [table[(4 * n + i) % len(table)] for i in range(4)]
            self.write("RETA", int.from_bytes(bytes(entries), "little"), n)

    def set_rate(self, queue: int, mbps: float | None) -> None:
        """Limit what a queue sends (7.7.2.1: a factor, 14 bits after the point)."""
        factor = 0
        if mbps is not None and mbps < self.link_mbps:
            factor = RATE_ENABLE | round(self.link_mbps / mbps * (1 << RATE_FRACTION))
        with self.lock:
            self.write("RTTDQSEL", queue)
            self.write("RTTBCNRC", factor)

    def set_pool_rate(self, pool: PoolConfig) -> None:
        """Limit what a pool sends; limiters are queues', so each has its share."""
        stride = self.config.pool_stride
        share = pool.rate_mbps
        if share is not None:
            share /= self.config.pool_queues
        for queue in range(pool.number * stride, (pool.number + 1) * stride):
            self.set_rate(queue, share)

    # -- pools, 4.6.10 ---------------------------------------------------------

    def set_up_pools(self) -> None:
        """Set virtualisation up: no pool gets or sends anything yet."""
        config = self.config
        self.write("PFVTCTL", VTCTL_ENABLE | VTCTL_NO_DEFAULT | VTCTL_REPLICATE)
        for register in ("PFVFRE", "PFVFTE", "PFVML2FLT", "PFVMVIR", "PFVFSPOOF"):
            self.fill(register)
        self.set("VLNCTRL", VLNCTRL_VFE)
        self.write("PFDTXGSWC", int(config.switch))
        self.fill("PFVMTXSW")
        with self.lock:  # here the index is a pool's (4.6.11.3.3)
            for n in range(NQUEUES):
                self.write("RTTDQSEL", n)
                self.write("RTTDT1C", WEIGHT if n < config.npools else 0)
        self.fill("PFMRCTL")
        # "Software must reprogram RAL[0] and RAH[0] by their values" (4.6.10.1.1).
        for register in ("RAL", "RAH"):
            self.write(register, self.read(register))

    def set_mirrors(self) -> None:
        """Set the mirror rules; VLANs must have been added before (7.10.3.6)."""
        for n, mirror in enumerate(self.config.mirrors):
            watched = sum(1 << pool for pool in mirror.pools)
            places = sum(1 << self._vlans[v] for v in mirror.vlans if v in self._vlans)
            for register, word in (("PFMRVM", watched), ("PFMRVLAN", places)):
                self.write(register, word & ALL_ONES, n)
                self.write(register, word >> 32, n + 4)
            self.write(
                "PFMRCTL",
                bool(mirror.pools)
                | mirror.incoming << 1
                | mirror.outgoing << 2
                | bool(mirror.vlans) << 3
                | mirror.pool << 8,
                n,
            )

    def add_vlan(self, vlan: int, pool: int) -> None:
        """Make a pool a member of a VLAN.

        Raises:
            ConfigError: all filters are taken.
        """
        if vlan not in self._vlans:
            places = set(range(VLAN_FILTERS)) - set(self._vlans.values())
            if not places:
                raise ConfigError(
                    f"{self.name}: {VLAN_FILTERS} VLANs at most on one card"
                )
            self._vlans[vlan] = min(places)
        n = self._vlans[vlan]
        self.write("PFVLVF", vlan | VLVF_ENABLE, n)
        self.set("PFVLVFB", 1 << pool % 32, 2 * n + pool // 32)
        self.set("VFTA", 1 << vlan % 32, vlan // 32)

    def remove_vlan(self, vlan: int, pool: int) -> None:
        """End a pool's membership; a VLAN without members is not received."""
        n = self._vlans[vlan]
        self.clear("PFVLVFB", 1 << pool % 32, 2 * n + pool // 32)
        if not self.read("PFVLVFB", 2 * n) and not self.read("PFVLVFB", 2 * n + 1):
            self.write("PFVLVF", 0, n)
            self.clear("VFTA", 1 << vlan % 32, vlan // 32)
            del self._vlans[vlan]

    def set_pool(self, pool: PoolConfig) -> None:
        """Make a pool what its config says, whatever it was before.

        What it has and keeps works on meanwhile.

        Raises:
            ConfigError: another pool has its address in the same VLAN; no filter is
                left. The pool is then as before.
        """
        with self.lock:
            before = self.pools.get(pool.number)
            if before == pool:
                return
            self.check_pool(pool)
            number, bit = pool.number, 1 << pool.number
            macs, vlans = members(pool)
            old_macs, old_vlans = members(before)
            # Filters may be scarce: what goes makes room for what comes.
            for mac in old_macs - macs:
                self.remove_mac(mac, bit)
            for vlan in old_vlans - vlans:
                self.remove_vlan(vlan, number)
            self.pools[number] = pool
            for mac in sorted(macs - old_macs):
                self.add_mac(mac, bit)
            for vlan in sorted(vlans - old_vlans):
                self.add_vlan(vlan, number)
            self._set_pool_rules(pool)
            self.set_pool_rate(pool)
            self.set_mirrors()
            half, place = number // 32, 1 << number % 32
            self.set("PFVFRE", place, half)
            self.set("PFVFTE", place, half)

    def _set_pool_rules(self, pool: PoolConfig) -> None:
        number = pool.number
        self.set_unicast_hash()
        accept = L2FLT_BAM | L2FLT_MPE | L2FLT_ROMPE
        accept |= L2FLT_AUPE if pool.vlan is None else 0
        accept |= L2FLT_ROPE if pool.promiscuous else 0
        self.write("PFVML2FLT", accept, number)
        tag = VMVIR_NEVER if pool.vlan is None else VMVIR_DEFAULT | pool.vlan
        self.write("PFVMVIR", tag, number)
        change = self.set if pool.check_source else self.clear
        change("PFVFSPOOF", 0x101 << number % 8, number // 8)

    def set_unicast_hash(self) -> None:
        """Let promiscuous pools, if there are any, have what no exact filter takes.

        This chip's pools have no promiscuous mode (PFVML2FLT.UPE is a later one's): a
        hash table that is full does the same (7.10.3.3).
        """
        word = ALL_ONES if any(p.promiscuous for p in self.pools.values()) else 0
        if self.read("PFUTA") != word:
            self.fill("PFUTA", word)

    def check_pool(self, pool: PoolConfig) -> None:
        """Refuse a pool that cannot be beside the others.

        Raises:
            ConfigError: see `set_pool`.
        """
        if pool.number >= self.config.npools:
            raise ConfigError(
                f"pool {pool.number}: {self.name} has {self.config.npools} of them"
            )
        least = RATE_LEAST * self.config.pool_queues
        if pool.rate_mbps is not None and pool.rate_mbps < least:
            raise ConfigError(f"pool {pool.number}: rate_mbps: at least {least}")
        others = [p for n, p in self.pools.items() if n != pool.number]
        for other in others:
            shared = pool.addresses & other.addresses
            # Where pools have no tag of their own, untagged frames are for them.
            meet = set(pool.vlans) & set(other.vlans) or pool.vlan is other.vlan is None
            if shared and meet:
                raise ConfigError(
                    f"pool {pool.number}: MAC address {min(shared).hex(':')} is pool "
                    f"{other.number}'s in the same VLAN"
                )
        macs = {self.mac}.union(*(p.addresses for p in (*others, pool)))
        vlans = {v for p in (*others, pool) for v in p.vlans}
        if len(macs) > MAC_FILTERS:
            raise ConfigError(
                f"pool {pool.number}: {MAC_FILTERS} MAC addresses at most on one card"
            )
        if len(vlans) > VLAN_FILTERS:
            raise ConfigError(
                f"pool {pool.number}: {VLAN_FILTERS} VLANs at most on one card"
            )

    def remove_pool(self, number: int) -> None:
        """Let a pool get and send nothing any more."""
        pool = self.pools.pop(number, None)
        half, place = number // 32, 1 << number % 32
        self.clear("PFVFRE", place, half)
        self.clear("PFVFTE", place, half)
        self.clear("PFVFSPOOF", 0x101 << number % 8, number // 8)
        self.write("PFVML2FLT", 0, number)
        self.write("PFVMVIR", 0, number)
        macs, vlans = members(pool)
        for mac in macs:
            self.remove_mac(mac, 1 << number)
        for vlan in vlans:
            self.remove_vlan(vlan, number)
        if pool is not None and pool.promiscuous:
            self.set_unicast_hash()
