"""VhostUser: an app that is a virtual machine's network card.

    config.app("vm", VhostUser, path="vm.sock")
    config.link("vm.tx -> ...")           what the guest sends
    config.link("... -> vm.rx")           what it is to receive

The socket is vhost_user.py's business, packets are net_device.c's and net_burst.c's.
"""

import functools
import select
from pathlib import Path
from typing import Any

from snabb_py._native import ffi, lib
from snabb_py.engine.app import App, Ports, Resources, check_range
from snabb_py.errors import ConfigError
from snabb_py.virtio import message
from snabb_py.virtio.device import REASONS, Pair
from snabb_py.virtio.loop import Loop
from snabb_py.virtio.message import Feature
from snabb_py.virtio.vhost_user import Port, PortConfig

#: In the order of the C enum.
COUNTERS = (
    "rx-packets",
    "rx-bytes",
    "rx-super-frames",
    "tx-packets",
    "tx-bytes",
    "tx-super-frames",
    "interrupts",
    "tx-no-packet",
    "drop-rx-down",
    "drop-rx-ring-full",
    "drop-rx-too-long",
    "drop-rx-bad-offload",
    "drop-rx-no-packet",
    "drop-tx-disabled",
    "drop-tx-too-short",
    "drop-tx-too-long",
    "drop-tx-bad-offload",
    "drop-tx-no-packet",
    *(f"broken-{reason}-rings" for reason in REASONS),
)


def open_loop() -> Loop:
    """Return a loop whose thread runs."""
    loop = Loop()
    loop.start()
    return loop


class Lease:
    """One queue pair of a port, lent to one app; a resource."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair

    def close(self) -> None:
        """Give the pair back: no worker has it any more."""
        lib.vhost_leave(self.pair.struct)


class VhostUser(App):
    """A virtual machine's network card, or one queue pair of it.

                +-----------+
        rx ---> |           | ~~~> received by the guest
                | VhostUser |
        tx <--- |           | <~~~ sent by the guest
                +-----------+

    Offload metadata are understood and given: what the guest cannot take unfinished
    is finished here. Packets for a guest that is not there are dropped; for one that
    has no buffers they wait on the link.

    Args:
        path: of the socket.
        queues: pairs that the port has.
        queue: the one pair that this app serves; None: all of them.
        server: listen at the path; else connect to it, again and again.
        without: features that are not offered, such as "MRG_RXBUF".
        group: the number of the group that may connect, where we listen.

    Counters: `rx-packets`, `rx-bytes`, `rx-super-frames` (of the packets: to be cut
    up), `tx-packets`, `tx-bytes`, `tx-super-frames`, `interrupts`; `tx-no-packet`
    (times that the pool was empty); packets lost: `drop-rx-down` (no guest),
    `drop-rx-ring-full` (of several queues), `drop-rx-too-long` (for the guest's
    buffers), `drop-rx-bad-offload`, `drop-rx-no-packet`, `drop-tx-disabled`,
    `drop-tx-too-short`, `drop-tx-too-long`, `drop-tx-bad-offload`,
    `drop-tx-no-packet`; and rings that were stopped because the guest broke their
    rules: `broken-avail-rings` (more buffers than places), `broken-head-rings`,
    `broken-next-rings` (no such descriptor), `broken-chain-rings` (it has no end),
    `broken-indirect-rings`, `broken-direction-rings`, `broken-address-rings` (not the
    guest's memory).
    """

    inputs = Ports("rx", optional=True)
    outputs = Ports("tx", optional=True)
    counters = COUNTERS
    ops = ffi.addressof(lib.vhost_net_ops)

    def __init__(  # noqa: PLR0913 - all but one have defaults
        self,
        path: str | Path,
        *,
        queues: int = 1,
        queue: int | None = None,
        server: bool = True,
        without: tuple[str, ...] = (),
        group: int | None = None,
    ) -> None:
        check_range("queues", queues, 1, lib.VHOST_PAIRS_MAX)
        if queue is not None:
            check_range("queue", queue, 0, queues - 1)
        unknown = set(without) - set(Feature.__members__)
        if unknown:
            raise ConfigError(f"without: unknown feature {', '.join(sorted(unknown))}")
        left_out = message.bits(*(Feature[name] for name in without))
        self.port_config = PortConfig(
            Path(path).absolute(), queues, server, message.FEATURES & ~left_out, group
        )
        self.numbers = range(queues) if queue is None else range(queue, queue + 1)
        self.port: Port | None = None
        self._epoll: select.epoll | None = None

    @property
    def outside(self) -> str:
        """The socket, and the pair of several."""
        word = f"vhost:{self.port_config.path}"
        is_whole = len(self.numbers) == self.port_config.queues
        return word if is_whole else f"{word},queue={self.numbers[0]}"

    def open(self, resources: Resources) -> None:
        """Borrow the port, and the queue pairs that nobody else may have.

        Raises:
            ConfigError: other apps have given it other settings, or have the pairs.
            DeviceError: the socket cannot be had.
        """
        name = f"vhost-user {self.port_config.path}"
        loop = resources.borrow("vhost-user", open_loop, shared=True)
        self.port = port = resources.borrow(
            name, lambda: Port(self.port_config, loop), shared=True
        )
        if port.config != self.port_config:
            raise ConfigError(f"{name}: its apps differ in their settings")
        pairs = []
        for i in self.numbers:
            lend = functools.partial(Lease, port.device.pairs[i])
            pairs.append(resources.borrow(f"{name} queue {i}", lend).pair)
        self._epoll = select.epoll()
        for pair in pairs:
            self._epoll.register(pair.epoll, select.EPOLLIN)
        self._pairs: Any = ffi.new(
            "struct vhost_pair *[]", [pair.struct for pair in pairs]
        )
        self.state = ffi.new(
            "struct vhost_net *",
            {
                "pairs": self._pairs,
                "npairs": len(pairs),
                "epoll_fd": self._epoll.fileno(),
            },
        )

    def close(self) -> None:
        """Give up what is the app's own."""
        if self._epoll:
            self._epoll.close()

    def supervise(self) -> str | None:
        """Say what has become of the port; its first queue's app does."""
        return self.port.supervise() if self.port and self.numbers[0] == 0 else None

    def statistics(self) -> dict[str, int]:
        """Return what the port has counted of connections and messages."""
        return dict(self.port.counters) if self.port else {}
