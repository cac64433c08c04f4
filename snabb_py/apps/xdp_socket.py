"""XDP sockets (AF_XDP), and what becomes of them with their interface.

A socket is bound to a queue and has four rings, which the data plane (xdp.c) works on
by itself. Here they are made, and made anew when the interface has gone and come back:
a socket whose interface was deleted cannot be bound again. Imports netdev and what
XDP programs are made of.
"""

import contextlib
import errno
import mmap
import os
import socket
import struct
import time
from pathlib import Path
from typing import Any

from snabb_py._native import ffi, lib
from snabb_py.apps import netdev
from snabb_py.apps.xdp_features import tells_tags
from snabb_py.apps.xdp_program import Redirection, XdpInterface
from snabb_py.errors import DeviceError

AF_XDP = 44
# linux/if_xdp.h
SOL_XDP = 283
XDP_MMAP_OFFSETS = 1
XDP_RX_RING, XDP_TX_RING, XDP_FILL_RING, XDP_COMPLETION_RING = 2, 3, 5, 6
XDP_MAX_TX_SKB_BUDGET = 9
XDP_COPY, XDP_ZEROCOPY, XDP_USE_NEED_WAKEUP = 2, 4, 8
#: Ring -> option that makes it, where it is mapped, bytes of an entry; in the order of
#: struct xdp_mmap_offsets.
RINGS = {
    "receive": (XDP_RX_RING, 0, 16),
    "transmit": (XDP_TX_RING, 0x80000000, 16),
    "fill": (XDP_FILL_RING, 0x100000000, 8),
    "completion": (XDP_COMPLETION_RING, 0x180000000, 8),
}
OFFSETS = struct.Struct("=16Q")  # of each ring: producer, consumer, entries, flags

# linux/if_packet.h
SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP = 1
PACKET_MR_PROMISC = 1
SO_SNDBUFFORCE = 32  # asm-generic/socket.h

#: Seconds that the kernel may take to let go of a queue whose socket was closed.
PATIENCE = 1.0
#: Bytes on their way out that the kernel holds for us in copy mode: a ring's worth.
SEND_BUFFER = 4 << 20
#: Frames that it sends at once for us; needs 6.17.
SEND_BUDGET = 256
#: Of an Ethernet header with a VLAN tag.
HEADER_SIZE = 18
MTU_MAX = lib.XDP_FRAME_MAX - HEADER_SIZE


class Rings:
    """The rings of a socket, mapped."""

    def __init__(self, sock: socket.socket) -> None:
        for option, _, _ in RINGS.values():
            sock.setsockopt(SOL_XDP, option, lib.XDP_RING_SIZE)
        answer = sock.getsockopt(SOL_XDP, XDP_MMAP_OFFSETS, OFFSETS.size)
        # 5.4 has flags; before, there is no such socket as we need.
        if len(answer) != OFFSETS.size:
            raise OSError(errno.EPROTONOSUPPORT, "XDP sockets of an old kind")
        offsets = OFFSETS.unpack(answer)
        self._maps: list[tuple[Any, mmap.mmap]] = []
        self.rings: dict[str, dict[str, Any]] = {}
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            for i, (name, (_, at, size)) in enumerate(RINGS.items()):
                producer, consumer, slots, flags = offsets[4 * i : 4 * i + 4]
                length = slots + lib.XDP_RING_SIZE * size
                memory = mmap.mmap(sock.fileno(), length, offset=at)
                view = ffi.from_buffer("uint8_t[]", memory)
                self._maps.append((view, memory))
                self.rings[name] = {
                    "producer": ffi.cast("uint32_t *", view + producer),
                    "consumer": ffi.cast("uint32_t *", view + consumer),
                    "flags": ffi.cast("uint32_t *", view + flags),
                    "slots": ffi.cast("void *", view + slots),
                    "cursor": 0,
                }
            undo.pop_all()

    def close(self) -> None:
        """Unmap them."""
        for view, memory in self._maps:
            ffi.release(view)
            memory.close()
        self._maps.clear()


def bind_when_free(fd: int, index: int, queue: int, way: int, patience: float) -> int:
    """Bind a socket to a queue, which the kernel may be busy taking from another.

    That takes a while after a socket was closed.

    Args:
        fd: of the socket.
        index: of the interface.
        queue: of it.
        way: XDP_COPY or XDP_ZEROCOPY.
        patience: seconds.

    Returns:
        0 or -errno.
    """
    deadline = time.monotonic() + patience
    while True:
        result: int = lib.xdp_bind(fd, index, queue, way | XDP_USE_NEED_WAKEUP)
        if result != -errno.EBUSY or time.monotonic() > deadline:
            return result
        time.sleep(0.005)


def _check(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))


class XdpSocket(netdev.Followed):
    """An XDP socket, bound to a queue of an interface.

    Args:
        interface: with its program.
        queue: of it.
        pool: `struct pool *`, whose packets the kernel is given.
        memory: that they lie in.

    Raises:
        DeviceError: there is no such interface or queue, or we may not.
    """

    def __init__(
        self, interface: XdpInterface, queue: int, pool: Any, memory: Any
    ) -> None:
        super().__init__("xdp", interface.ifname)
        self._interface = interface
        self._queue = queue
        self._pool = pool
        self._memory = memory
        self._nqueues = queue + 1
        self._notes: list[str] = []
        ncells = memory.size // lib.XDP_CELL_SIZE
        self._held = ffi.new("uint64_t[]", -(-ncells // 64))
        self.state = ffi.new(
            "struct xdp_socket *",
            {
                "umem": memory.address,
                "umem_size": memory.size,
                "held": self._held,
                "left": 1,
            },
        )
        self._index = 0
        self._redirection: Redirection | None = None
        self._xdp: socket.socket | None = None
        self._rings: Rings | None = None
        with netdev.step(
            f"xdp:{self.ifname}: open a packet socket",
            {
                errno.EPERM: "run as root, or with the capabilities CAP_BPF, "
                "CAP_NET_ADMIN and CAP_NET_RAW"
            },
        ):
            # Nothing is received by it: it knows the interface, whatever it is called.
            self._socket = socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0
            )
        try:
            self._open(PATIENCE)
        except BaseException:
            self.close()
            raise

    @property
    def mode(self) -> str:
        """The queue, and how frames get from it and to it, for the user."""
        queue, how = f"queue {self._queue} of {self._nqueues}", "zero-copy"
        if not self.state.is_zero_copy:
            is_native = self._redirection is not None and self._redirection.is_native
            how = f"copy mode, XDP {'in' if is_native else 'behind'} the driver"
        return f"{queue}, {how}"

    @property
    def unsent(self) -> int:
        """Frames that the kernel has not begun to send; of a left ring none is ours."""
        has_left = lib.xdp_has_left(self.state) or not self._rings
        return 0 if has_left else int(lib.xdp_unsent(self.state))

    # -- opening ---------------------------------------------------------------

    def _open(self, patience: float) -> None:
        """Begin with the interface of our name, whichever that is now.

        Args:
            patience: seconds that the queue may be somebody else's.

        Raises:
            DeviceError: it cannot be.
        """
        index = self._index = self._find()
        mtu = netdev.mtu(self._socket, self.ifname) or 0
        if mtu > MTU_MAX:
            raise DeviceError(
                f"xdp:{self.ifname}: use the interface",
                errno.EMSGSIZE,
                f"its MTU is {mtu}, more than {MTU_MAX}: "
                f"`ip link set dev {self.ifname} mtu {MTU_MAX}`",
            )
        redirection = self._redirection = self._interface.attach(index)
        with contextlib.ExitStack() as undo:
            with netdev.step(
                f"xdp:{self.ifname}: open an XDP socket",
                {
                    errno.EPERM: "run as root, or with the capability CAP_NET_RAW",
                    errno.EAFNOSUPPORT: "this kernel has none (CONFIG_XDP_SOCKETS)",
                },
            ):
                xdp = socket.socket(AF_XDP, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
            undo.callback(xdp.close)
            self._register(xdp)
            with netdev.step(f"xdp:{self.ifname}: make the rings"):
                rings = Rings(xdp)
            undo.callback(rings.close)
            with contextlib.suppress(OSError):
                xdp.setsockopt(SOL_XDP, XDP_MAX_TX_SKB_BUDGET, SEND_BUDGET)
            is_zero_copy = self._bind(xdp, index, patience)
            with netdev.step(f"xdp:{self.ifname}: give frames to the socket"):
                redirection.add(self._queue, xdp.fileno())
            undo.pop_all()
        self._xdp, self._rings = xdp, rings
        self.state.fd = xdp.fileno()
        for name, ring in rings.rings.items():
            setattr(self.state, name, ring)
        self._hand_over(is_zero_copy=is_zero_copy, mtu=mtu)
        self._note(index, redirection)

    def _note(self, index: int, redirection: Redirection) -> None:
        """Put down what the user is to know of this interface."""
        queues = Path("/sys/class/net", self.ifname, "queues").glob("rx-*")
        self._nqueues = max(len(list(queues)), self._queue + 1)
        self._notes = [self.mode]
        is_put_back = redirection.keeps_tags and tells_tags(index)
        if netdev.takes_tags(self._socket, self.ifname) and not is_put_back:
            self._notes.append(
                "VLAN tags that the interface takes out of frames are lost: "
                f"`ethtool -K {self.ifname} rxvlan off` leaves them in"
            )

    def _find(self) -> int:
        with netdev.step(
            f"xdp:{self.ifname}: find the interface",
            {errno.ENODEV: "`ip link` lists those that there are"},
        ):
            index = netdev.index(self._socket, self.ifname)
            if index is None:
                raise OSError(errno.ENODEV, self.ifname)
            if not netdev.is_ethernet(self._socket, self.ifname):
                raise DeviceError(
                    f"xdp:{self.ifname}: use the interface",
                    errno.EAFNOSUPPORT,
                    "its frames have no Ethernet header",
                )
            self._socket.bind((self.ifname, 0))
            # Of the socket: the interface's own promiscuity is not touched.
            self._socket.setsockopt(
                SOL_PACKET,
                PACKET_ADD_MEMBERSHIP,
                struct.pack("iHH8x", index, PACKET_MR_PROMISC, 0),
            )
        return index

    def _register(self, xdp: socket.socket) -> None:
        size = self._memory.size
        with netdev.step(
            f"xdp:{self.ifname}: let the kernel reach {size >> 20} MiB of packets",
            {
                errno.ENOBUFS: f"so much may not be locked: `ulimit -l {size >> 10}`, "
                "or the capability CAP_IPC_LOCK",
            },
        ):
            _check(lib.xdp_register(xdp.fileno(), self._memory.address, size))
        with contextlib.suppress(OSError):
            xdp.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER)

    def _bind(self, xdp: socket.socket, index: int, patience: float) -> bool:
        """Bind to the queue; return whether without copies."""
        fd, queue = xdp.fileno(), self._queue
        result = bind_when_free(fd, index, queue, XDP_ZEROCOPY, patience)
        is_zero_copy = result == 0
        if result not in {0, -errno.EBUSY}:
            result = bind_when_free(fd, index, queue, XDP_COPY, patience)
        with netdev.step(
            f"xdp:{self.ifname}: bind to queue {queue}",
            {
                errno.EBUSY: "another program has this queue",
                errno.EINVAL: "the interface has no such queue: "
                f"`ls /sys/class/net/{self.ifname}/queues`",
            },
        ):
            _check(result)
        return is_zero_copy

    def _hand_over(self, *, is_zero_copy: bool, mtu: int) -> None:
        """Give the worker a new socket."""
        state = self.state
        state.is_zero_copy = is_zero_copy
        # A frame off a wire is finished; in copy mode it may be off a veth.
        state.is_checked = not is_zero_copy
        self._set_mtu(mtu)
        lib.xdp_renew(state)

    def _set_mtu(self, mtu: int) -> None:
        lib.xdp_set_longest(self.state, min(mtu + HEADER_SIZE, lib.XDP_CHUNK_SIZE))

    # -- following -------------------------------------------------------------

    def supervise(self) -> str | None:
        """Follow the interface; see `netdev.Followed`."""
        if self._notes:
            return f"xdp:{self.ifname}: {self._notes.pop(0)}"
        return super().supervise()

    def current_name(self) -> str | None:
        """See `netdev.Followed`.

        Of the packet socket: none when it was deleted, even if another has its index.
        """
        if self._xdp is None:  # it could not be opened again yet
            return None
        name = self._socket.getsockname()[0] or None
        if name is None:
            lib.xdp_leave(self.state)
        else:
            with contextlib.suppress(OSError):
                self._set_mtu(netdev.mtu(self._socket, name) or 0)
        return name

    def try_return(self) -> bool:
        """See `netdev.Followed`."""
        # The worker still has the rings of the old socket.
        if not lib.xdp_has_left(self.state):
            return False
        self._let_go()
        if self._redirection:
            self._interface.detach(self._redirection)
        try:
            self._open(0)
        except (OSError, DeviceError):  # not there, or gone again, or not for us
            return False
        return True

    # -- closing ---------------------------------------------------------------

    def _let_go(self) -> None:
        """Close the socket, and give the packets back that the kernel had."""
        if self._rings:
            self._rings.close()
            self._rings = None
        if self._xdp:
            self._xdp.close()
            self._xdp = None
            if not self.state.is_zero_copy or self._is_released():
                lib.xdp_reclaim(self.state, self._pool)

    def _is_released(self) -> bool:
        """Wait until the driver has let go of a closed socket's packets.

        Without copies it writes to them until the queue is free. If that takes too
        long, they are nobody's from then on.
        """
        with (
            mmap.mmap(-1, 2 * lib.XDP_CHUNK_SIZE) as memory,
            ffi.from_buffer("uint8_t[]", memory) as view,
            socket.socket(AF_XDP, socket.SOCK_RAW) as probe,
        ):
            fd, queue = probe.fileno(), self._queue
            _check(lib.xdp_register(fd, view, len(view)))
            rings = Rings(probe)
            result = bind_when_free(fd, self._index, queue, XDP_COPY, PATIENCE)
            rings.close()
        return result != -errno.EBUSY

    def close(self) -> None:
        """Close the sockets; promiscuity ends with them."""
        self._let_go()
        self._socket.close()
