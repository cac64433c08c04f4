"""The program that gives the frames of some queues of an interface to XDP sockets.

Two dozen instructions, put together here and given to the kernel by bpf(2): what a
library of the field (libxdp) has beyond that, several programs on one interface, would
come with libelf, a compiler's output and a file in /sys/fs/bpf that outlives us. The
program hangs on a BPF link: it goes when its file descriptor does, however we end.

Frames of queues that nobody has asked for go on to the kernel. A VLAN tag that the
driver has taken out of a frame is put back: with that frame's metadata the kernel
tells it, from 6.8 on, to programs that are made for one driver.

Sources: bpf(2); RFC 9669 (instructions); Documentation/networking/xdp-rx-metadata.rst;
Documentation/bpf/btf.rst. Imports claim and netdev.
"""

import errno
import functools
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from snabb_py._native import ffi, lib
from snabb_py.apps import netdev
from snabb_py.apps.claim import Claim

# linux/bpf.h
MAP_CREATE, MAP_UPDATE, MAP_DELETE, PROG_LOAD, LINK_CREATE = 0, 2, 3, 5, 28
MAP_TYPE_XSKMAP = 17
PROG_TYPE_XDP = 6
ATTACH_XDP = 37
XDP_DEV_BOUND_ONLY = 1 << 6
HELPER_MAP_LOOKUP, HELPER_XDP_ADJUST_HEAD, HELPER_REDIRECT_MAP = 1, 44, 51
XDP_DROP, XDP_PASS = 1, 2
XDP_MD_DATA, XDP_MD_DATA_END, XDP_MD_RX_QUEUE_INDEX = 0, 4, 16  # struct xdp_md
PSEUDO_MAP_FD, PSEUDO_KFUNC_CALL = 1, 2

# linux/if_link.h
XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE = 1 << 1, 1 << 2

#: Kernel functions are for programs that may be had under the GPL: these instructions.
LICENSE = b"Dual MIT/GPL"
NAME = b"snabb_py"
QUEUES_MAX = 1024

BTF = Path("/sys/kernel/btf/vmlinux")
TAG_FUNCTION = b"bpf_xdp_metadata_rx_vlan_tag"
BTF_FUNC = 12
#: By kind of type: bytes behind its first 12, and for each of its members.
BTF_SIZES = {
    1: (4, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 13: (0, 8), 14: (4, 0),
    15: (0, 12), 17: (4, 0), 19: (0, 12),
}  # fmt: skip

INSTRUCTION = struct.Struct("=BBhi")
R0, R1, R2, R3, R6, R7, FP = 0, 1, 2, 3, 6, 7, 10
W, H = 0x00, 0x08  #: sizes: 32 and 16 bits


def _op(
    code: int, dst: int = 0, src: int = 0, offset: int = 0, value: int = 0
) -> bytes:
    return INSTRUCTION.pack(code, src << 4 | dst, offset, value)


def _move(dst: int, src: int) -> bytes:
    return _op(0xBF, dst, src)


def _set(dst: int, value: int) -> bytes:
    return _op(0xB7, dst, value=value)


def _add(dst: int, value: int) -> bytes:
    return _op(0x07, dst, value=value)


def _load(size: int, dst: int, src: int, offset: int) -> bytes:
    return _op(0x61 | size, dst, src, offset)


def _store(size: int, dst: int, offset: int, src: int) -> bytes:
    return _op(0x63 | size, dst, src, offset)


def _call(helper: int) -> bytes:
    return _op(0x85, value=helper)


def _map(dst: int, fd: int) -> bytes:
    return _op(0x18, dst, PSEUDO_MAP_FD, value=fd) + _op(0)


def _end(action: int) -> bytes:
    return _set(R0, action) + _op(0x95)


def _skip_if(code: int, dst: int, over: bytes, *, src: int = 0) -> bytes:
    """Jump over these instructions if dst compares so with src, or with 0."""
    return _op(code, dst, src, len(over) // INSTRUCTION.size) + over


def _is_not_0(dst: int, over: bytes) -> bytes:
    return _skip_if(0x55, dst, over)


def _put_tag_back(function: int) -> bytes:
    """Return what moves the addresses forward and writes the tag behind them.

    Args:
        function: BTF's number of the one that tells the tag; not 0 for a frame that has
            none, and from a driver that cannot tell.
    """
    protocol, tci = -8, -6  # on the stack
    move = b"".join(
        _load(W, R1, R2, at + 4) + _store(W, R2, at, R1) for at in (0, 4, 8)
    )
    write = (
        _load(H, R1, FP, protocol) + _store(H, R2, 12, R1)
        + _load(H, R1, FP, tci) + _op(0xDC, R1, value=16) + _store(H, R2, 14, R1)
    )  # fmt: skip
    grow = (
        _move(R1, R6) + _set(R2, -4) + _call(HELPER_XDP_ADJUST_HEAD)
        + _skip_if(0x15, R0, _end(XDP_DROP))
        + _load(W, R2, R6, XDP_MD_DATA) + _load(W, R3, R6, XDP_MD_DATA_END)
        + _move(R1, R2) + _add(R1, 18)
        + _skip_if(0xBD, R1, _end(XDP_DROP), src=R3)
        + move + write
    )  # fmt: skip
    return (
        _op(0x62, FP, offset=protocol)  # 32 bits of 0: both
        + _move(R1, R6)
        + _move(R2, FP) + _add(R2, protocol)
        + _move(R3, FP) + _add(R3, tci)
        + _op(0x85, src=PSEUDO_KFUNC_CALL, value=function)
        + _is_not_0(R0, grow)
    )  # fmt: skip


def assemble(map_fd: int, tag_function: int | None) -> bytes:
    """Return the program.

    Args:
        map_fd: of the sockets by queue.
        tag_function: see `_put_tag_back`; None: tags are not looked for.
    """
    queue = -12  # on the stack
    return (
        _move(R6, R1)
        + _load(W, R7, R6, XDP_MD_RX_QUEUE_INDEX)
        + _store(W, FP, queue, R7)
        + _map(R1, map_fd) + _move(R2, FP) + _add(R2, queue)
        + _call(HELPER_MAP_LOOKUP)
        + _is_not_0(R0, _end(XDP_PASS))
        + (_put_tag_back(tag_function) if tag_function is not None else b"")
        + _map(R1, map_fd) + _move(R2, R7) + _set(R3, XDP_DROP)
        + _call(HELPER_REDIRECT_MAP)
        + _op(0x95)
    )  # fmt: skip


@functools.cache
def find_tag_function() -> int | None:
    """Return BTF's number of the function that tells a frame's tag, None: not there."""
    try:
        btf = BTF.read_bytes()
        return next(_functions(btf, TAG_FUNCTION), None)
    except (OSError, struct.error, KeyError):
        return None


def _functions(btf: bytes, name: bytes) -> Iterator[int]:
    """Yield the numbers of the functions of this name."""
    size, types, ntypes, strings, nstrings = struct.unpack_from("=4x5I", btf)
    begin = btf.find(b"\0" + name + b"\0", size + strings, size + strings + nstrings)
    if begin < 0:
        return
    wanted = begin + 1 - size - strings
    at, end, number = size + types, size + types + ntypes, 0
    head = struct.Struct("=II4x")
    while at < end:
        number += 1
        name_at, info = head.unpack_from(btf, at)
        kind = info >> 24 & 31
        if kind == BTF_FUNC and name_at == wanted:
            yield number
        fixed, each = BTF_SIZES.get(kind, (0, 0))
        at += 12 + fixed + each * (info & 0xFFFF)


def bpf(command: int, attributes: bytes) -> int:
    """Return a file descriptor, or 0, from the kernel; OSError: it refused."""
    result = int(lib.xdp_bpf(command, ffi.from_buffer(attributes), len(attributes)))
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def _address(data: bytes) -> int:
    return int(ffi.cast("uintptr_t", ffi.from_buffer(data)))


class Redirection:
    """A program on an interface and its map of sockets by queue.

    Args:
        index: of the interface.

    Raises:
        OSError: EBUSY, EEXIST: another program is there; EPERM; or what the driver has
            against it.

    Attributes:
        is_native: the driver runs it; else the kernel, on packets of its own.
        keeps_tags: a VLAN tag that the driver takes out of a frame is put back, if it
            tells it.
    """

    def __init__(self, index: int) -> None:
        self._fds: list[int] = []
        try:
            self._map = self._create_map()
            try:
                self.is_native = True
                self._link(self._load_for(index), index, XDP_FLAGS_DRV_MODE)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                self.is_native = self.keeps_tags = False
                self._link(self._load(None, 0), index, XDP_FLAGS_SKB_MODE)
        except BaseException:
            self.close()
            raise

    def _own(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def _create_map(self) -> int:
        attributes = struct.pack(
            "=7I16s", MAP_TYPE_XSKMAP, 4, 4, QUEUES_MAX, 0, 0, 0, NAME
        )
        return self._own(bpf(MAP_CREATE, attributes))

    def _load_for(self, index: int) -> int:
        """Load the program that knows this interface's tags, or the one that does not.

        An old kernel has no such programs, or not this function.
        """
        self.keeps_tags = False
        function = find_tag_function()
        if function is not None:
            try:
                fd = self._load(function, index)
            except OSError as error:
                if error.errno == errno.EPERM:
                    raise
            else:
                self.keeps_tags = True
                return fd
        return self._load(None, 0)

    def _load(self, tag_function: int | None, index: int) -> int:
        code = assemble(self._map, tag_function)
        count = len(code) // INSTRUCTION.size
        license_ = LICENSE + b"\0"
        attributes = struct.pack(
            "=2I2Q2IQ2I16s2I",
            *(PROG_TYPE_XDP, count, _address(code), _address(license_), 0, 0, 0, 0),
            *(XDP_DEV_BOUND_ONLY if index else 0, NAME, index, ATTACH_XDP),
        )
        return self._own(bpf(PROG_LOAD, attributes))

    def _link(self, program: int, index: int, flags: int) -> None:
        attributes = struct.pack("=4I", program, index, ATTACH_XDP, flags)
        self._own(bpf(LINK_CREATE, attributes))

    def add(self, queue: int, socket: int) -> None:
        """Give a queue's frames to a socket; they cease to be when it is closed."""
        key, value = struct.pack("=I", queue), struct.pack("=I", socket)
        attributes = struct.pack("=I4x3Q", self._map, _address(key), _address(value), 0)
        bpf(MAP_UPDATE, attributes)

    def close(self) -> None:
        """Take the program off the interface."""
        while self._fds:
            os.close(self._fds.pop())


class XdpInterface:
    """An interface with our program on it, which its queues' sockets share.

    Args:
        ifname: of an interface with Ethernet frames.
    """

    def __init__(self, ifname: str) -> None:
        self.ifname = ifname
        self._claim = Claim(f"xdp:{ifname}")
        self._redirection: Redirection | None = None

    def attach(self, index: int) -> Redirection:
        """Return the program on the interface of this index, put there if it is not.

        Raises:
            DeviceError: it cannot be, or another program of ours has the interface.
        """
        if self._redirection is None:
            self._claim.take(index)
            is_taken = (
                "another XDP program is on the interface; it goes with who has put it "
                f"there, or by `ip link set dev {self.ifname} xdp off`"
            )
            with netdev.step(
                f"xdp:{self.ifname}: attach an XDP program",
                {
                    errno.EPERM: "run as root, or with the capabilities CAP_BPF, "
                    "CAP_NET_ADMIN and CAP_NET_RAW",
                    errno.EBUSY: is_taken,
                    errno.EEXIST: is_taken,
                    errno.ERANGE: "the MTU, of a veth its peer's, is too large for XDP",
                    errno.ENOSPC: "it has fewer receive queues than its peer has to "
                    "transmit",
                    errno.ENOSYS: "this kernel has no BPF",
                },
            ):
                self._redirection = Redirection(index)
        return self._redirection

    def detach(self, redirection: Redirection) -> None:
        """Take a program off, which another may have replaced already."""
        redirection.close()
        if self._redirection is redirection:
            self._redirection = None

    def close(self) -> None:
        """Take the program off, and give the interface up."""
        self._claim.close()
        if self._redirection is not None:
            self.detach(self._redirection)
