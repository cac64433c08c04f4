"""A software card with our driver on it, stepped by the test.

    with DrivenCard() as it:
        it.arrive([frame])                  on the wire
        assert it.received() == [frame]     by the driver's app
        it.send([frame])                    to it
        assert it.sent() == [frame]         on the wire

Wire and driver have a pool each, so that what one loses is not the other's.
"""

from types import TracebackType
from typing import Any, Self

from snabb_py._native import lib
from snabb_py.engine.memory import Pool
from snabb_py.engine.resources import Registry
from snabb_py.nic.intel82599 import Intel82599
from snabb_py.nic.intel82599_card import Nic
from snabb_py.nic.intel82599_config import CardConfig, PoolConfig
from snabb_py.nic.model82599 import Card, SoftwareCard
from tests.harness import Harness


class DrivenCard:
    """A card, its wire, and driver apps.

    Args:
        config: of the card; its queues get an app each.
        pools: its pools, an app each for each of their queues.
        ring: descriptors of each ring.
        packets: small packets that the driver has.
        card: instead of a new one.
        empty: no app yet.
        wire: packets that the wire has.
    """

    def __init__(  # noqa: PLR0913 - all have defaults
        self,
        config: CardConfig | None = None,
        *,
        pools: tuple[PoolConfig, ...] = (),
        ring: int = 64,
        packets: int = 4096,
        card: Card | None = None,
        empty: bool = False,
        wire: int = 16384,
    ) -> None:
        self.config = config or CardConfig(pools=bool(pools))
        self.ring = ring
        self.card = card or Card(paced=False, name="card")
        self.wire = Harness(SoftwareCard(self.card), small=wire)
        self.pool = Pool(packets, 64, 1, huge=False)
        self.registry = Registry(self.pool)
        self.apps: list[Harness] = []
        for pool in pools:
            for queue in range(self.config.pool_queues):
                self.add(queue, pool)
        if not pools and not empty:
            for queue in range(self.config.queues):
                self.add(queue)

    def add(self, queue: int, pool: PoolConfig | None = None, **more: Any) -> Harness:
        """Add the app of a queue."""
        app = Intel82599(
            self.card,
            queue,
            config=self.config,
            pool=pool,
            rx_ring=self.ring,
            tx_ring=self.ring,
            **more,
        )
        owner = f"app{len(self.apps)}"
        self.apps.append(
            Harness(app, registry=self.registry, pool=self.pool, owner=owner)
        )
        self.apps[-1].breathe()  # its descriptors reach the card
        lib.freelist_flush(self.apps[-1].freelist)
        return self.apps[-1]

    def change(self, harness: Harness, pool: PoolConfig | None = None) -> None:
        """Give a running app other settings, in the steps of the engine.

        Args:
            harness: of the app.
            pool: as which it goes on; None: nothing but the app is new.
        """
        old = harness.app
        assert isinstance(old, Intel82599)
        queue = old.number
        if old.pool is not None:
            queue -= old.pool.number * self.config.pool_stride
        app = Intel82599(
            self.card,
            queue,
            config=self.config,
            pool=pool or old.pool,
            rx_ring=self.ring,
            tx_ring=self.ring,
        )
        lease = self.registry.lease(harness.lease.owner)
        try:
            app.open(lease)
            app.adopt(old)
        except BaseException:
            lease.release()
            raise
        assert app.state == old.state
        old.close()
        harness.lease.release()
        harness.app, harness.lease = app, lease

    def remove(self, harness: Harness) -> None:
        """Take an app away."""
        self.apps.remove(harness)
        harness.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for harness in self.apps:
            harness.close()
        counters = self.card.counters
        self.wire.__exit__(kind, error, trace)
        self.card.close()
        free = self.pool.free
        total = self.pool.total
        self.pool.close()
        if error is None:
            assert free == total, "packets are missing"
            assert counters["dma-read-unmapped"] == 0
            assert counters["dma-write-unmapped"] == 0
            assert counters["bad-ring"] == 0

    @property
    def nic(self) -> Nic:
        """The driver's side of the card."""
        app = self.apps[0].app
        assert isinstance(app, Intel82599)
        assert app.nic is not None
        return app.nic

    def arrive(self, frames: list[bytes], **metadata: int) -> None:
        """Let frames arrive on the wire, and the card step."""
        for i in range(0, len(frames), lib.LINK_CAPACITY):
            self.wire.send(frames[i : i + lib.LINK_CAPACITY], **metadata)
            self.wire.breathe()

    def received(self, app: int = 0) -> list[bytes]:
        """Return what an app receives until nothing more comes."""
        frames: list[bytes] = []
        while self.apps[app].breathe():
            frames += self.apps[app].received()
            self.wire.breathe()
        lib.freelist_flush(self.apps[app].freelist)
        return frames

    def send(self, frames: list[bytes], app: int = 0, **metadata: int) -> None:
        """Give an app frames to send."""
        self.apps[app].send(frames, **metadata)
        self.apps[app].breathe()
        lib.freelist_flush(self.apps[app].freelist)

    def sent(self) -> list[bytes]:
        """Return what leaves on the wire until nothing more does."""
        frames: list[bytes] = []
        while True:
            moved = self.wire.breathe()
            frames += (more := self.wire.received())
            moved += sum(app.breathe() for app in self.apps)
            if not moved and not more:
                return frames

    def counters(self, app: int = 0) -> dict[str, int]:
        """Return an app's counters that are not 0, the card's with the first."""
        self.nic.update_statistics()
        self.apps[app].tick()
        return self.apps[app].counters
