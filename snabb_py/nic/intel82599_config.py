"""What a driver's user can say of a card, a pool, a queue; checked here.

Plain data: equal configs are equal. Imports errors.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Final

from snabb_py.engine.app import check_range
from snabb_py.errors import ConfigError
from snabb_py.nic.mac import parse_mac

MTU_MAX: Final = 9706  #: bytes behind the Ethernet header: 9728 with FCS and one tag
MTU_MIN: Final = 68
MAC_FILTERS: Final = 128
VLAN_FILTERS: Final = 64
MIRROR_RULES: Final = 4
VLAN_MAX: Final = 4094
RSS_KEY_SIZE: Final = 40
RSS_TABLE_SIZE: Final = 128
RSS_QUEUES_MAX: Final = 16
LINK_MBPS: Final = 10_000

#: Gives both directions of a flow the same hash, and so the same queue
#: (Woo and Park, "Scalable TCP session monitoring with symmetric RSS", 2012).
SYMMETRIC_KEY: Final = bytes.fromhex("6d5a") * (RSS_KEY_SIZE // 2)


def check_vlans(vlans: Iterable[int]) -> None:
    """Refuse VLANs that cannot be.

    Raises:
        ConfigError: one is not within 0 to 4094.
    """
    for vlan in vlans:
        check_range("vlan", vlan, 0, VLAN_MAX)


@dataclass(frozen=True)
class Mirror:
    """A copy of traffic for a pool; four rules to the card (data sheet 7.10.3.6).

    Attributes:
        pool: that gets the copies.
        pools: copy what is received for these.
        vlans: copy what is in these; each must be a VLAN of some pool.
        incoming, outgoing: copy all that comes from, that goes to the wire.
    """

    pool: int
    pools: tuple[int, ...] = ()
    vlans: tuple[int, ...] = ()
    incoming: bool = False
    outgoing: bool = False


@dataclass(frozen=True)
class CardConfig:
    """The settings of a card, the same for all apps on it.

    Attributes:
        mtu: bytes behind the Ethernet header; longer frames are not received.
        promiscuous: receive all frames; else those to `macs`, the card's own address,
            broadcast and `multicast`.
        macs: further addresses, "02:00:00:00:00:01".
        multicast: group addresses, by a hash that lets others through as well; None:
            all groups.
        queues: RSS spreads flows over so many receive queues, 0 and on.
        rss_hash: let the card compute a hash of each packet's flow with one queue too.
        rss_key: 40 bytes.
        rss_table: queues of 128 hash values, in turns when it is shorter; empty: those
            that have an app, in turns.
        pools: VMDq: frames go to pools by MAC address and VLAN, not to queues.
        pool_queues: receive queues of each pool, by RSS: 1 or 2 (64 pools), 4 (32).
        switch: frames from one pool to another's address go there inside the card.
        mirrors: rules, four at most; with pools.
        honour_pause: stop sending when a pause frame says so. They are dropped anyway.
    """

    mtu: int = 9000
    promiscuous: bool = True
    macs: tuple[str, ...] = ()
    multicast: tuple[str, ...] | None = None
    queues: int = 1
    rss_hash: bool = False
    rss_key: bytes = SYMMETRIC_KEY
    rss_table: tuple[int, ...] = ()
    pools: bool = False
    pool_queues: int = 1
    switch: bool = True
    mirrors: tuple[Mirror, ...] = ()
    honour_pause: bool = False

    def __post_init__(self) -> None:
        """Check.

        Raises:
            ConfigError: something is out of range, or cannot go together.
        """
        check_range("mtu", self.mtu, MTU_MIN, MTU_MAX)
        self._check_addresses()
        self._check_spreading()
        self._check_pools()

    def _check_addresses(self) -> None:
        for mac in self.macs:
            parse_mac(mac)
        if len(self.macs) > MAC_FILTERS - 1:
            raise ConfigError(f"macs: {MAC_FILTERS - 1} at most beside the card's own")
        for mac in self.multicast or ():
            parse_mac(mac, group=True)

    def _check_spreading(self) -> None:
        check_range("queues", self.queues, 1, RSS_QUEUES_MAX)
        if len(self.rss_key) != RSS_KEY_SIZE:
            raise ConfigError(f"rss_key: {RSS_KEY_SIZE} bytes, not {len(self.rss_key)}")
        if len(self.rss_table) > RSS_TABLE_SIZE:
            raise ConfigError(f"rss_table: {RSS_TABLE_SIZE} entries at most")
        for queue in self.rss_table:
            check_range("rss_table", queue, 0, self.rss_queues - 1)

    def _check_pools(self) -> None:
        if self.pool_queues not in {1, 2, 4}:
            raise ConfigError(f"pool_queues: {self.pool_queues} is none of 1, 2, 4")
        if self.pools and self.queues > 1:
            raise ConfigError("queues: of a card with pools it is pool_queues")
        if not self.pools and (self.pool_queues > 1 or self.mirrors):
            raise ConfigError("pool_queues, mirrors: only of a card with pools")
        if len(self.mirrors) > MIRROR_RULES:
            raise ConfigError(f"mirrors: {MIRROR_RULES} rules at most")
        for mirror in self.mirrors:
            for pool in (mirror.pool, *mirror.pools):
                check_range("mirror's pool", pool, 0, self.npools - 1)
            check_vlans(mirror.vlans)

    @property
    def npools(self) -> int:
        """How many pools there can be."""
        return 32 if self.pool_queues == 4 else 64  # noqa: PLR2004 - data sheet 7.10.2

    @property
    def pool_stride(self) -> int:
        """Queues from one pool's first to the next one's."""
        return 128 // self.npools

    def check_pool_queue(self, pool: int, queue: int) -> None:
        """Refuse a pool that the card has not, and a queue that its pool has not.

        Raises:
            ConfigError: it is one.
        """
        check_range("pool", pool, 0, self.npools - 1)
        check_range("queue of a pool", queue, 0, self.pool_queues - 1)

    @property
    def has_hash(self) -> bool:
        """Whether packets come with the hash of their flow."""
        return self.rss_hash or self.rss_queues > 1

    @property
    def rss_queues(self) -> int:
        """Queues that RSS spreads flows over."""
        return self.pool_queues if self.pools else self.queues

    def differences(self, other: "CardConfig") -> list[str]:
        """Return the names of settings in which two differ."""
        return [
            field.name
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]


@dataclass(frozen=True)
class PoolConfig:
    """A pool: what is received for it and what it may send (data sheet 7.10).

    Attributes:
        number: of the pool; its first queue is `number` times the card's pool_stride.
        macs: addresses whose frames it gets; the first is its own. None: it gets what
            is for all, and may send nothing while its source is checked.
        vlan: its frames carry this tag on the wire and none here: stripped when
            received, inserted when sent. None: untagged.
        trunk: VLANs of which it gets and sends frames with their tags.
        promiscuous: it gets frames, in its VLANs, to addresses that no pool has.
        check_source: frames that it sends with another's address or VLAN are dropped
            by the card.
        rate_mbps: the most that it may send, on the wire; None: no limit. Each of its
            queues has an equal share, 10 at least.
    """

    number: int
    macs: tuple[str, ...]
    vlan: int | None = None
    trunk: tuple[int, ...] = ()
    promiscuous: bool = False
    check_source: bool = True
    rate_mbps: float | None = None

    def __post_init__(self) -> None:
        """Check.

        Raises:
            ConfigError: something is out of range, or cannot go together.
        """
        check_range("pool", self.number, 0, 63)
        for mac in self.macs:
            parse_mac(mac)
        check_vlans(self.vlans)
        if self.vlan is not None and self.trunk:
            raise ConfigError(f"pool {self.number}: vlan or trunk, not both")
        if self.rate_mbps is not None:
            check_range("rate_mbps", self.rate_mbps, 10, LINK_MBPS)

    @cached_property
    def addresses(self) -> frozenset[bytes]:
        """Its addresses, as frames have them."""
        return frozenset(map(parse_mac, self.macs))

    @property
    def vlans(self) -> tuple[int, ...]:
        """All VLANs that it is a member of."""
        return self.trunk if self.vlan is None else (self.vlan,)
