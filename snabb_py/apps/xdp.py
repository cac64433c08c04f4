"""Xdp: a queue of an interface of the kernel, through an XDP socket.

The frames of the queue come past the kernel's network stack, which sees nothing of
them; those of other queues go on to it. The data plane is in xdp.c, the socket in
xdp_socket.py, the program that says which frames are ours in xdp_program.py.
"""

from snabb_py._native import ffi, lib
from snabb_py.apps import netdev
from snabb_py.apps.xdp_program import QUEUES_MAX, XdpInterface
from snabb_py.apps.xdp_socket import XdpSocket
from snabb_py.engine.app import App, Ports, Resources, check_range


class Xdp(App):
    """A queue of an interface of the kernel, past the kernel.

                +-----+
        rx ---> |     | ~~~> interface
                | Xdp |
        tx <--- |     | <~~~ interface
                +-----+

    What comes in on `rx` is sent over the interface; the frames that the interface
    receives on its queue go out on `tx`, whoever they are for, and not to the kernel.
    Either port may be left unlinked. What is left to do to a packet is done in software
    before it is sent; unfinished checksums that come are found out.

    Args:
        ifname: the interface; it may go down, be renamed, or be deleted and come back.
        queue: of it; each can have an app, on any worker.

    Counters: `rx-packets`, `rx-bytes`, `rx-unfinished-checksums` (of the packets: from
    a stack of this machine), `rx-fill-ring-empty` (times that the kernel found no
    packet to fill), `tx-packets`, `tx-bytes`, `tx-super-frames` (cut up before), and
    packets lost: `drop-rx-kernel-ring-full` (we were too slow), `drop-rx-no-packet`
    (the pool was empty), `drop-rx-too-long` (over 3840 bytes), `drop-rx-bad-descriptor`
    (the kernel's, or ours as it says), `drop-tx-interface-down` (or deleted),
    `drop-tx-refused` (it has no carrier), `drop-tx-too-long` (for its MTU),
    `drop-tx-no-packet`, `drop-tx-bad-offload`, `drop-tx-error` (malformed).
    """

    inputs = Ports("rx", optional=True)
    outputs = Ports("tx", optional=True)
    counters = (
        "rx-packets",
        "rx-bytes",
        "rx-unfinished-checksums",
        "rx-fill-ring-empty",
        "tx-packets",
        "tx-bytes",
        "tx-super-frames",
        "drop-rx-kernel-ring-full",
        "drop-rx-no-packet",
        "drop-rx-too-long",
        "drop-rx-bad-descriptor",
        "drop-tx-interface-down",
        "drop-tx-refused",
        "drop-tx-too-long",
        "drop-tx-no-packet",
        "drop-tx-bad-offload",
        "drop-tx-error",
    )
    ops = ffi.addressof(lib.xdp_ops)
    #: Packets that the kernel has of an app's at most: to be filled, and to be sent.
    nheld = 2 * lib.XDP_RING_SIZE

    def __init__(self, ifname: str, queue: int = 0) -> None:
        netdev.check_name(ifname)
        check_range("queue", queue, 0, QUEUES_MAX - 1)
        self.ifname = ifname
        self.queue = queue

    @property
    def outside(self) -> str:
        """The interface, and its queue."""
        return f"xdp:{self.ifname},queue={self.queue}"

    def open(self, resources: Resources) -> None:
        """Borrow the interface and the queue's socket."""
        interface = resources.borrow(
            f"xdp:{self.ifname}", lambda: XdpInterface(self.ifname), shared=True
        )
        self.socket = resources.borrow(
            self.outside,
            lambda: XdpSocket(interface, self.queue, resources.pool, resources.memory),
        )
        self.state = self.socket.state

    @property
    def mode(self) -> str:
        """See `App`: with copies or without."""
        return f"xdp:{self.ifname}: {self.socket.mode}"

    def supervise(self) -> str | None:
        """See `XdpSocket.supervise`."""
        return self.socket.supervise()

    @property
    def unfinished(self) -> int:
        """See `App`."""
        return self.socket.unsent
