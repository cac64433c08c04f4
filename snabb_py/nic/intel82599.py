"""The 82599 driver: an app for each queue pair of a card.

    config.app("nic", Intel82599, card="0000:01:00.0")
    config.link("nic.tx -> ...")           what the card receives
    config.link("... -> nic.rx")           what it is to send

A card is named by its PCI address, or is a software `Card` of this process. Several
apps may have one card, each a queue of it: workers that share its flows (RSS), or
virtual machines with pools of their own (VMDq). They agree on its `CardConfig`.

The card itself is intel82599_card.py's business, packets are intel82599.c's.
"""

from typing import TYPE_CHECKING, Any

from snabb_py._native import ffi, lib
from snabb_py.engine.app import App, Ports, Resources
from snabb_py.engine.resources import Right
from snabb_py.errors import ConfigError
from snabb_py.nic.intel82599_card import Nic, Queue
from snabb_py.nic.intel82599_config import CardConfig, PoolConfig
from snabb_py.nic.intel82599_statistics import NAMES
from snabb_py.nic.model82599 import Card
from snabb_py.nic.software_function import SoftwareFunction

if TYPE_CHECKING:
    from snabb_py.nic.intel82599_access import Function

#: Of a queue, in the order of the C enum.
QUEUE_COUNTERS = (
    "rx-packets",
    "rx-bytes",
    "tx-packets",
    "tx-bytes",
    "rx-no-packet",
    "drop-rx-bad-frame",
    "drop-rx-too-long",
    "drop-tx-too-long",
    "drop-tx-bad-offload",
    "drop-tx-card-gone",
)


def check_ring_size(name: str, size: int) -> None:
    """Refuse a ring that C or the card cannot have.

    Raises:
        ConfigError: it is no power of two from 64 to 4096.
    """
    low, high = lib.INTEL82599_RING_MIN, lib.INTEL82599_RING_MAX
    if not isinstance(size, int) or not low <= size <= high or size & (size - 1):
        raise ConfigError(f"{name}: {size} is no power of two from {low} to {high}")


class Intel82599(App):
    """A queue pair of an 82599.

                 +------------+
          rx --->| Intel82599 |---> tx
                 +------------+

    What is put on rx the card sends, checksums and segments finished by it where the
    packet's metadata ask for it; what it receives comes from tx. Counters are the
    queue's; those of the whole card follow in the app of the queue that came first.

    Args:
        card: PCI address, or a software card.
        queue: number of the receive and the transmit queue; not with `pool`.
        config: settings of the card, equal in all apps that share it.
        pool: the pool that the queue belongs to; its first queue then.
        rx_ring: receive descriptors, a power of two.
        tx_ring: transmit descriptors.
        force: take the card from the kernel even if its interface is in use.
    """

    inputs = Ports("rx", optional=True)
    outputs = Ports("tx", optional=True)
    counters = QUEUE_COUNTERS + NAMES
    ops = ffi.addressof(lib.intel82599_ops)
    reconfigurable = True

    def __init__(  # noqa: PLR0913 - all but one have defaults
        self,
        card: str | Card,
        queue: int = 0,
        *,
        config: CardConfig | None = None,
        pool: PoolConfig | None = None,
        rx_ring: int = 1024,
        tx_ring: int = 1024,
        force: bool = False,
    ) -> None:
        self.card = card
        self.card_config = config or CardConfig()
        self.pool = pool
        self.rings = rx_ring, tx_ring
        self.force = force
        check_ring_size("rx_ring", rx_ring)
        check_ring_size("tx_ring", tx_ring)
        if (pool is not None) != self.card_config.pools:
            raise ConfigError("pool: all apps of a card have one, or none has")
        if pool is not None:
            self.card_config.check_pool_queue(pool.number, queue)
            queue += pool.number * self.card_config.pool_stride
        if not 0 <= queue < 128:  # noqa: PLR2004 - queues of the chip
            raise ConfigError(f"queue: {queue} is not within 0 to 127")
        self.number = queue
        self.nic: Nic | None = None
        self.queue: Queue | None = None

    @property
    def outside(self) -> str:
        """The card, and the queue if it is not the only one."""
        word = self.card if isinstance(self.card, str) else "sim"
        is_sole = self.card_config.queues == 1 and self.pool is None
        return word if is_sole else f"{word},queue={self.number}"

    def open(self, resources: Resources) -> None:
        """Take the card, if no other app has it yet, and the queue.

        Raises:
            ConfigError: other apps have given it other settings.
            DeviceError: it cannot be had, or does not work.
        """
        key = f"card {self._name}"
        if isinstance(self.card, Card):  # names of software cards may be the same
            key += f" at {id(self.card):#x}"
        self.nic = resources.borrow(
            key, lambda: self._open_card(resources), shared=True
        )
        differences = self.nic.config.differences(self.card_config)
        if differences:
            raise ConfigError(
                f"card {self._name}: its apps differ in {', '.join(differences)}"
            )
        # One app has a queue, or it and its successor: two workers would tear it.
        resources.borrow(f"queue {self.number} of {key}", Right)
        self.queue = self.nic.borrow_queue(self.number, *self.rings, self.pool)
        self.state = self.queue.state

    @property
    def _name(self) -> str:
        return self.card if isinstance(self.card, str) else self.card.name

    def _open_card(self, resources: Resources) -> Nic:
        function: Function
        if isinstance(self.card, Card):
            function = SoftwareFunction(self.card, self.card.name)
        else:
            from snabb_py.engine.pci import claim, find
            from snabb_py.nic.intel82599_ids import check_id

            device = find(self.card)
            check_id(
                device.vendor, device.device, address=device.address, kind=device.kind
            )
            function = claim(self.card, force=self.force)
        return Nic(function, resources.memory, resources.pool, self.card_config)

    def adopt(self, old: App) -> None:
        """Go on with the queue: it is the card's, not the app's.

        With another one go on counting; frames that the old one still has are counted
        as lost (`drop-queue-closed`).
        """
        if isinstance(old, Intel82599) and self.queue is not old.queue and old.queue:
            counters, before = self.state.counters, old.queue.state.counters
            for n in range(len(QUEUE_COUNTERS)):
                counters[n] += before[n]

    def close(self) -> None:
        """Give the queue back, and its packets, when no successor has it."""
        if self.nic and self.queue:
            self.nic.return_queue(self.queue, self.pool)
        self.queue = None

    @property
    def is_leader(self) -> bool:
        """Whether this app looks after the card for all that share it."""
        return self.nic is not None and self.queue is next(
            iter(self.nic.queues.values()), None
        )

    def supervise(self) -> str | None:
        """Look after the card; see `Nic.supervise`."""
        return self.nic.supervise() if self.nic and self.is_leader else None

    def statistics(self) -> dict[str, int]:
        """Return what the card has counted, as it is now; shared by all its apps."""
        if self.nic is None:
            return {}
        self.nic.update_statistics()
        return dict(self.nic.totals)

    @property
    def unfinished(self) -> int:
        """Packets that the card has not sent yet; its worker stands still."""
        if self.queue is None or self.nic is None or self.nic.is_gone:
            return 0
        number = self.queue.number
        waiting: Any = self.nic.read("TDT", number) - self.nic.read("TDH", number)
        return int(waiting % self.queue.state.tx.n)


class LocalIntel82599(Intel82599):
    """The same on a software card whose wire is in the same network.

    What the card receives comes from within: it goes on while the network drains.
    """

    is_internal = True
