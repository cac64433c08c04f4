"""Tap: an interface of the kernel whose other end is ours.

The data plane is in tap.c; here the interface is made or attached to, and looked after
when it changes. Imports netdev.
"""

import contextlib
import errno
import fcntl
import os
import socket
import struct

from snabb_py._native import ffi, lib
from snabb_py.apps import netdev
from snabb_py.engine.app import App, Ports, Resources, check_range

# linux/if_tun.h
TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
TUNGETIFF = 0x800454D2
TUNSETVNETHDRSZ = 0x400454D8
IFF_TAP = 0x0002
IFF_MULTI_QUEUE = 0x0100
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN = 1, 2, 4, 8
TUN_F_USO4, TUN_F_USO6 = 32, 64

#: What we take unfinished from the kernel, by preference. USO came with 6.2. Not UFO:
#: IP fragments of one datagram are no packets of ours.
OFFLOADS = (
    TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6,
    TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN,
)

MTU_MAX = 65521  # the kernel's for a tap: 65535 less an Ethernet header


class TapDevice(netdev.Followed):
    """An open tap.

    It stays the same fd whatever becomes of the interface: the worker has it.

    Args:
        ifname: of a tap that is there, which stays as it is; else one is made, set
            up, and vanishes when this is closed.

    Raises:
        DeviceError: it is no tap, somebody else has it, or we may not.
    """

    def __init__(self, ifname: str) -> None:
        super().__init__("tap", ifname)
        self.mtu: int | None = None
        self._is_away = False
        with contextlib.ExitStack() as undo:
            with netdev.step(
                f"tap:{ifname}: open /dev/net/tun",
                {
                    errno.ENOENT: "load the module: modprobe tun",
                    errno.EACCES: "run as root, or: sudo chmod 666 /dev/net/tun",
                },
            ):
                self._fd = os.open(
                    "/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
                )
            undo.callback(os.close, self._fd)
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            undo.callback(self._socket.close)
            self.is_ours = netdev.index(self._socket, ifname) is None
            with netdev.step(
                f"tap:{ifname}: {'make' if self.is_ours else 'attach to'} the tap",
                {
                    errno.EPERM: "run as root or with the capability CAP_NET_ADMIN, or "
                    f"make a tap of your own: sudo ip tuntap add {ifname} mode tap "
                    "user $USER",
                    errno.EINVAL: "it is an interface of another kind",
                    errno.EBUSY: "another program has it",
                },
            ):
                self._attach()
            self.state = ffi.new("struct tap *", {"fd": self._fd})
            undo.pop_all()

    def _attach(self) -> None:
        """Make or join the interface; OSError when that cannot be."""
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
        try:
            self._set_interface(flags)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # An interface made for several queues wants to be told so.
            self._set_interface(flags | IFF_MULTI_QUEUE)
        # A tap that was there may have been left with another size.
        fcntl.ioctl(
            self._fd, TUNSETVNETHDRSZ, struct.pack("i", lib.VIRTIO_NET_HEADER_LEGACY)
        )
        for offloads in OFFLOADS:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._fd, TUNSETOFFLOAD, offloads)
                break
        if self.is_ours:
            netdev.set_up(self._socket, self.ifname)

    def _set_interface(self, flags: int) -> None:
        request = netdev.IFREQ_SHORT.pack(self.ifname.encode(), flags)
        fcntl.ioctl(self._fd, TUNSETIFF, request)

    def set_mtu(self, mtu: int) -> None:
        """Set the interface's MTU, bytes; kept when it is deleted and comes back.

        Raises:
            DeviceError: we may not.
        """
        with netdev.step(
            f"tap:{self.ifname}: set the MTU to {mtu}",
            {errno.EPERM: "run as root, or set it with `ip link` and not here"},
        ):
            netdev.set_mtu(self._socket, self.name or self.ifname, mtu)
        self.mtu = mtu

    # -- interface -------------------------------------------------------------

    def current_name(self) -> str | None:
        """See `netdev.Followed`."""
        try:
            answer = fcntl.ioctl(self._fd, TUNGETIFF, bytes(netdev.IFREQ_SHORT.size))
        except OSError:  # EBADFD: there is none
            return None
        name: bytes = netdev.IFREQ_SHORT.unpack(answer)[0]
        return name.rstrip(b"\0").decode(errors="surrogateescape")

    def compare(self, is_up: bool | None) -> str | None:
        """See `netdev.Followed`: what is not here and not deleted was moved."""
        if (is_up is None) != self._is_away:
            self._is_away = is_up is None
            where = "another" if self._is_away else "this"
            return f"interface was moved to {where} network namespace"
        return super().compare(is_up)

    def try_return(self) -> bool:
        """See `netdev.Followed`."""
        # The worker has seen it too, and leaves the fd alone until it is told.
        if not lib.tap_is_detached(self.state):
            return False
        # One that we had made is made again; somebody else's is not ours to make.
        if not self.is_ours and netdev.index(self._socket, self.ifname) is None:
            return False
        try:
            self._attach()
            if self.mtu is not None:
                netdev.set_mtu(self._socket, self.ifname, self.mtu)
        except OSError:  # gone again, or not ours any more
            return False
        self._is_away = False
        lib.tap_attached(self.state)
        return True

    def close(self) -> None:
        """Close the tap; one that was made for this vanishes."""
        if not self.is_ours:
            with contextlib.suppress(OSError):
                # As it was made: whoever attaches next need not understand offloads.
                fcntl.ioctl(self._fd, TUNSETOFFLOAD, 0)
        os.close(self._fd)
        self._socket.close()


class Tap(App):
    """A network interface of this machine with us at its other end.

                +-----+
        rx ---> |     | ~~~> received by the interface
                | Tap |
        tx <--- |     | <~~~ sent over the interface
                +-----+

    What comes in on `rx` reaches the kernel as if over a cable; what the kernel sends
    over the interface goes out on `tx`. Either port may be left unlinked. Offload
    metadata are understood and given.

    Args:
        name: of the interface. One that is there is attached to and stays; else it is
            made, set up, and vanishes at the end. It may go down, be renamed or moved
            to another network namespace; one that we made and somebody deleted is made
            again, others are waited for.
        mtu: its longest payload, 68 to 65521 bytes; default: as it is, or 1500.

    Counters: `rx-packets`, `rx-bytes`, `rx-super-frames` (of the packets: to be cut
    up), `tx-packets`, `tx-bytes`, `tx-super-frames`, and packets lost:
    `drop-rx-no-packet` (the pool was empty), `drop-rx-truncated` (over 66 KiB),
    `drop-rx-bad-offload`, `drop-tx-interface-down` (or deleted), `drop-tx-refused` (the
    kernel had no memory), `drop-tx-bad-offload`, `drop-tx-error` (malformed).
    """

    inputs = Ports("rx", optional=True)
    outputs = Ports("tx", optional=True)
    counters = (
        "rx-packets",
        "rx-bytes",
        "rx-super-frames",
        "tx-packets",
        "tx-bytes",
        "tx-super-frames",
        "drop-rx-no-packet",
        "drop-rx-truncated",
        "drop-rx-bad-offload",
        "drop-tx-interface-down",
        "drop-tx-refused",
        "drop-tx-bad-offload",
        "drop-tx-error",
    )
    ops = ffi.addressof(lib.tap_ops)

    def __init__(self, name: str, *, mtu: int | None = None) -> None:
        netdev.check_name(name)
        if mtu is not None:
            check_range("mtu", mtu, 68, MTU_MAX)
        self.name = name
        self.mtu = mtu

    @property
    def outside(self) -> str:
        """The interface."""
        return f"tap:{self.name}"

    def open(self, resources: Resources) -> None:
        """Borrow the tap."""
        self.tap = resources.borrow(f"tap:{self.name}", lambda: TapDevice(self.name))
        self.state = self.tap.state
        if self.mtu is not None and self.mtu != self.tap.mtu:
            self.tap.set_mtu(self.mtu)

    def supervise(self) -> str | None:
        """See `netdev.Followed`."""
        return self.tap.supervise()
