"""RawSocket: an interface of the kernel, through a packet socket.

The interface is used as it is: other programs see what goes over it, its settings stay
what they were. Super-frames and unfinished checksums pass as metadata both ways. The
data plane is in rawsocket.c; here the socket is made, and looked after when the
interface changes under it. Imports claim and netdev.
"""

import contextlib
import errno
import mmap
import socket
import struct
from collections.abc import Sequence
from typing import Any

from snabb_py._native import ffi, lib
from snabb_py.apps import netdev
from snabb_py.apps.claim import Claim
from snabb_py.engine.app import App, Ports, Resources
from snabb_py.errors import ConfigError, DeviceError

# linux/if_packet.h
SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP = 1
PACKET_RX_RING = 5
PACKET_VERSION = 10
PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23
PACKET_MR_PROMISC = 1
TPACKET_V2 = 1
ETH_P_ALL = 3
SO_ATTACH_FILTER, SO_SNDBUFFORCE = 26, 32  # asm-generic/socket.h

#: Bytes on their way out that the kernel holds for us before it makes us wait: 1.3 ms
#: of 10 Gbps in full frames, with what the kernel's own structures take.
SEND_BUFFER = 2 << 20

# linux/filter.h
LOAD_BYTE, LOAD_HALF, LOAD_WORD = 0x30, 0x28, 0x20
IF_SET, IF_EQUAL, RETURN = 0x45, 0x15, 0x06
Instruction = tuple[int, int, int, int]  #: struct sock_filter: code, jt, jf, k


def filter_for(macs: Sequence[bytes]) -> list[Instruction]:
    """Return a program that lets frames pass for these stations, and for groups.

    Args:
        macs: of 6 bytes, 60 at most.
    """
    checks: list[Instruction] = []
    for mac in reversed(macs):
        to_accept = len(checks) + 1
        checks = [
            (LOAD_WORD, 0, 0, 0),
            (IF_EQUAL, 0, 2, int.from_bytes(mac[:4], "big")),
            (LOAD_HALF, 0, 0, 4),
            (IF_EQUAL, to_accept, 0, int.from_bytes(mac[4:], "big")),
            *checks,
        ]
    group = [(LOAD_BYTE, 0, 0, 0), (IF_SET, len(checks) + 1, 0, 1)]
    return [*group, *checks, (RETURN, 0, 0, 0), (RETURN, 0, 0, 0xFFFFFFFF)]


def check_ring_size(name: str, size: int) -> None:
    """Refuse a ring that is too small or too large.

    Raises:
        ConfigError: it is no power of two from 64 to 4096.
    """
    low, high = lib.RAWSOCKET_RING_MIN, lib.RAWSOCKET_RING_MAX
    if not isinstance(size, int) or not low <= size <= high or size & (size - 1):
        raise ConfigError(f"{name}: {size} is no power of two from {low} to {high}")


class PacketSocket(netdev.Followed):
    """A packet socket, bound to an interface, and its receive ring.

    It stays the same socket whatever becomes of the interface: the worker has its fd.

    Args:
        ifname: of an interface with Ethernet frames; it need not be up.
        claim: to the interface; None: none is made.
        macs: whose frames come, beside those to groups; none: all do.
        ring: frames that the kernel holds for us, at least.

    Raises:
        DeviceError: there is no such interface, we may not, or another program has it.
    """

    def __init__(
        self,
        ifname: str,
        claim: Claim | None = None,
        macs: Sequence[bytes] = (),
        ring: int = lib.RAWSOCKET_RING_SIZE,
    ) -> None:
        super().__init__("raw", ifname)
        self._claim = claim
        self._ring_size = ring
        self._has_said_jammed = False
        self._is_short = False
        self._ring: mmap.mmap | None = None
        self._view: Any = None
        with contextlib.ExitStack() as undo:
            with netdev.step(
                f"raw:{ifname}: open a packet socket",
                {errno.EPERM: "run as root, or with the capability CAP_NET_RAW"},
            ):
                # Of protocol 0: nothing comes before it is bound.
                self._socket = socket.socket(
                    socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0
                )
            undo.callback(self._socket.close)
            self.state = ffi.new("struct rawsocket *", {"fd": self._socket.fileno()})
            self._set_options()
            if macs:
                self._attach(filter_for(macs))
            self._make_ring()
            undo.callback(self._drop_ring)
            with netdev.step(
                f"raw:{ifname}: find the interface",
                {errno.ENODEV: "`ip link` lists those that there are"},
            ):
                self._bind()
            undo.pop_all()

    def _set_options(self) -> None:
        with netdev.step(f"raw:{self.ifname}: set up a packet socket"):
            for option, value in (
                (PACKET_VERSION, TPACKET_V2),
                (PACKET_VNET_HDR, 1),
            ):
                self._socket.setsockopt(SOL_PACKET, option, value)
            with contextlib.suppress(OSError):
                # From 4.20 on; before, each frame's packet type says it too.
                self._socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER)
            except PermissionError:  # wants CAP_NET_ADMIN; up to a limit anybody may
                self._socket.setsockopt(
                    socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER
                )

    def _attach(self, program: Sequence[Instruction]) -> None:
        """Have the kernel drop what this does not let pass, before it is copied."""
        code = ffi.from_buffer(b"".join(struct.pack("=HBBI", *op) for op in program))
        where = int(ffi.cast("uintptr_t", code))
        with netdev.step(f"raw:{self.ifname}: attach a filter"):
            self._socket.setsockopt(  # struct sock_fprog
                socket.SOL_SOCKET,
                SO_ATTACH_FILTER,
                struct.pack("HP", len(program), where),
            )

    def _bind(self) -> None:
        """Bind to the interface of our name; OSError when that cannot be."""
        index = netdev.index(self._socket, self.ifname)
        if index is None:
            raise OSError(errno.ENODEV, self.ifname)
        if not netdev.is_ethernet(self._socket, self.ifname):
            raise DeviceError(
                f"raw:{self.ifname}: use the interface",
                errno.EAFNOSUPPORT,
                "its frames have no Ethernet header",
            )
        if self._claim:
            self._claim.take(index)
        self._socket.bind((self.ifname, ETH_P_ALL))
        # A membership goes with socket or interface; the interface's own promiscuity
        # is not touched. struct packet_mreq.
        self._socket.setsockopt(
            SOL_PACKET,
            PACKET_ADD_MEMBERSHIP,
            struct.pack("iHH8x", index, PACKET_MR_PROMISC, 0),
        )

    # -- ring ------------------------------------------------------------------

    def _set_ring(self, blocks: int) -> None:
        frames = blocks * lib.RAWSOCKET_BLOCK_FRAMES
        request = struct.pack(  # struct tpacket_req
            "IIII",
            lib.RAWSOCKET_BLOCK_SIZE if blocks else 0,
            blocks,
            lib.RAWSOCKET_FRAME_SIZE if blocks else 0,
            frames,
        )
        self._socket.setsockopt(SOL_PACKET, PACKET_RX_RING, request)

    def _make_ring(self) -> None:
        """Make a ring and give it to the worker.

        Raises:
            DeviceError: there is no memory even for a small one.
        """
        wanted = -(-self._ring_size // lib.RAWSOCKET_BLOCK_FRAMES)
        blocks = self._set_largest_ring(wanted)
        self._is_short = blocks < wanted
        with netdev.step(f"raw:{self.ifname}: map the receive ring"):
            self._ring = mmap.mmap(
                self._socket.fileno(), blocks * lib.RAWSOCKET_BLOCK_SIZE
            )
        self._view = ffi.from_buffer("uint8_t[]", self._ring)
        lib.rawsocket_renew(self.state, self._view, blocks * lib.RAWSOCKET_BLOCK_FRAMES)

    def _set_largest_ring(self, blocks: int) -> int:
        """Set a ring of so many blocks, or of a half, a quarter... of them.

        Returns:
            How many there are.

        Raises:
            DeviceError: there is no memory for one.
        """
        step = f"raw:{self.ifname}: make the receive ring"
        while blocks:
            try:
                self._set_ring(blocks)
            except OSError as error:
                if error.errno != errno.ENOMEM:
                    raise DeviceError(step, error.errno or errno.EIO) from error
                blocks //= 2
            else:
                return blocks
        hint = "2 MiB of kernel memory are needed at least"
        raise DeviceError(step, errno.ENOMEM, hint)

    def _drop_ring(self) -> None:
        if self._ring is not None:
            ffi.release(self._view)
            self._ring.close()
            self._ring = None

    def _renew_ring(self) -> str | None:
        """Replace a ring that the worker found jammed, and has left."""
        try:
            self._drop_ring()
            with netdev.step(f"raw:{self.ifname}: give the receive ring back"):
                self._set_ring(0)
            self._make_ring()
        except DeviceError as error:
            # Nothing is received without a ring: tried again next time.
            return self._say_jammed(str(error))
        return self._say_jammed(
            f"raw:{self.ifname}: a frame that the kernel cannot describe jammed the "
            "receive ring; it was made anew, and is each time (said once)"
        )

    def _say_jammed(self, line: str) -> str | None:
        said, self._has_said_jammed = self._has_said_jammed, True
        return None if said else line

    # -- interface -------------------------------------------------------------

    def supervise(self) -> str | None:
        """Follow the interface, and see to the ring; see `netdev.Followed`."""
        if lib.rawsocket_is_jammed(self.state):
            return self._renew_ring()
        if self._is_short:
            self._is_short = False
            return (
                f"raw:{self.ifname}: the kernel has no memory for a receive ring of "
                f"{self._ring_size} frames; it has {self.state.nframes}"
            )
        return super().supervise()

    def current_name(self) -> str | None:
        """See `netdev.Followed`.

        Of the socket, not of a name: it follows a renamed interface, and becomes ""
        with a deleted one, even if another took its index.
        """
        return self._socket.getsockname()[0] or None

    def try_return(self) -> bool:
        """See `netdev.Followed`."""
        try:
            self._bind()
        except (OSError, DeviceError):  # not there, or gone again, or another kind
            return False
        return True

    def close(self) -> None:
        """Close the socket; its ring and promiscuity end with it."""
        self._drop_ring()
        self._socket.close()


class RawSocket(App):
    """An interface of the kernel, shared with it.

                +-----------+
        rx ---> |           | ~~~> interface
                | RawSocket |
        tx <--- |           | <~~~ interface
                +-----------+

    What comes in on `rx` is sent over the interface; what the interface receives goes
    out on `tx`, in whole frames with their VLAN tags. Either port may be left unlinked.
    Offload metadata are understood and given.

    Args:
        ifname: the interface; it may go down, be renamed, or be deleted and come back.
        macs: stations whose frames are received, and those to groups; none: all are,
            whoever they are for.
        ring: frames that the kernel holds for us, at least; a power of two.

    One program of ours at a time may both receive and send on an interface. Another one
    may listen, or send what it makes.

    Counters: `rx-packets`, `rx-bytes`, `rx-super-frames` (to be cut up),
    `rx-super-frames-cut` (of these: in a tunnel of IP in IP, which no metadata
    describe; its segments are packets), `rx-ring-renewed`, `tx-packets`, `tx-bytes`,
    `tx-super-frames`, and packets lost: `drop-rx-kernel-ring-full` (we were too slow),
    `drop-rx-kernel-ring-jammed` (until it was renewed), `drop-rx-no-packet` (the pool
    was empty), `drop-rx-truncated` (over 66 KiB), `drop-rx-bad-offload`,
    `drop-tx-interface-down` (or deleted), `drop-tx-refused` (by the interface's queue
    or a filter), `drop-tx-too-long` (for its MTU), `drop-tx-bad-offload`,
    `drop-tx-error` (malformed).
    """

    inputs = Ports("rx", optional=True)
    outputs = Ports("tx", optional=True)
    counters = (
        "rx-packets",
        "rx-bytes",
        "rx-super-frames",
        "rx-super-frames-cut",
        "rx-ring-renewed",
        "tx-packets",
        "tx-bytes",
        "tx-super-frames",
        "drop-rx-kernel-ring-full",
        "drop-rx-kernel-ring-jammed",
        "drop-rx-no-packet",
        "drop-rx-truncated",
        "drop-rx-bad-offload",
        "drop-tx-interface-down",
        "drop-tx-refused",
        "drop-tx-too-long",
        "drop-tx-bad-offload",
        "drop-tx-error",
    )
    ops = ffi.addressof(lib.rawsocket_ops)

    def __init__(
        self,
        ifname: str,
        macs: Sequence[bytes] = (),
        ring: int = lib.RAWSOCKET_RING_SIZE,
    ) -> None:
        netdev.check_name(ifname)
        check_ring_size("ring", ring)
        self.ifname = ifname
        self.macs = tuple(macs)
        self.ring = ring

    @property
    def outside(self) -> str:
        """The interface."""
        return f"raw:{self.ifname}"

    def open(self, resources: Resources) -> None:
        """Borrow the interface, and a socket on it."""
        word = f"raw:{self.ifname}"
        claim = resources.borrow(word, lambda: Claim(word))
        stations = "".join(f",{mac.hex(':')}" for mac in self.macs)
        # Another one where it is to be another one, which may be while the old one is.
        self.socket = resources.borrow(
            f"{word},ring={self.ring}{stations}",
            lambda: PacketSocket(
                self.ifname,
                claim if resources.is_two_way else None,
                self.macs,
                self.ring,
            ),
        )
        self.state = self.socket.state

    def supervise(self) -> str | None:
        """See `PacketSocket.supervise`."""
        return self.socket.supervise()
