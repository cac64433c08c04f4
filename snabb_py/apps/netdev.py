"""The kernel's interfaces by name: what RawSocket, Xdp and Tap ask and tell about them.

By ioctl on a socket of the caller's: it sees the network namespace that the socket was
made in, whatever this process does later. Source: netdevice(7). Imports errors.
"""

import abc
import array
import contextlib
import errno
import fcntl
import re
import socket
import struct
from collections.abc import Iterator

from snabb_py.errors import ConfigError, DeviceError

# linux/sockios.h
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
SIOCGIFMTU = 0x8921
SIOCSIFMTU = 0x8922
SIOCGIFHWADDR = 0x8927
SIOCGIFINDEX = 0x8933
SIOCETHTOOL = 0x8946

# linux/ethtool.h
ETHTOOL_GFLAGS = 0x25
ETH_FLAG_RXVLAN = 1 << 8

IFF_UP = 1
#: Hardware types with an Ethernet header (linux/if_arp.h): ARPHRD_ETHER, _LOOPBACK.
ETHERNET_TYPES = (1, 772)

#: struct ifreq: a name and a union of 24 bytes, here as 32-bit or 16-bit numbers.
IFREQ_INT = struct.Struct("16si20x")
IFREQ_SHORT = struct.Struct("16sH22x")

# What the kernel accepts (dev_valid_name), less "%": that makes it choose a name.
NAME = re.compile(rb"(?!\.{1,2}$)[^/:%\s\0]{1,15}")


def check_name(name: str) -> None:
    """Refuse what cannot be the name of an interface.

    Raises:
        ConfigError: it is not 1 to 15 bytes, or has a character that none has.
    """
    try:
        data = name.encode()
    except UnicodeEncodeError:  # the kernel takes it, sockets of Python do not
        data = b""
    if not NAME.fullmatch(data):
        raise ConfigError(
            f'"{name}" is not the name of an interface: 1 to 15 bytes of UTF-8 without '
            '"/", ":", "%" or white space'
        )


@contextlib.contextmanager
def step(what: str, hints: dict[int, str] | None = None) -> Iterator[None]:
    """Turn an OSError into a DeviceError that says what was being done.

    Args:
        what: the step.
        hints: what to do about it, by errno.
    """
    try:
        yield
    except OSError as error:
        number = error.errno or errno.EIO
        raise DeviceError(what, number, (hints or {}).get(number, "")) from error


def index(sock: socket.socket, name: str) -> int | None:
    """Return an interface's index, or None when there is none of this name."""
    return _ask(sock, name, SIOCGIFINDEX, IFREQ_INT)


def is_up(sock: socket.socket, name: str) -> bool | None:
    """Return whether an interface is up, or None when there is none of this name."""
    flags = _ask(sock, name, SIOCGIFFLAGS, IFREQ_SHORT)
    return None if flags is None else bool(flags & IFF_UP)


def is_ethernet(sock: socket.socket, name: str) -> bool:
    """Return whether frames of an interface begin with an Ethernet header."""
    return _ask(sock, name, SIOCGIFHWADDR, IFREQ_SHORT) in ETHERNET_TYPES


def set_up(sock: socket.socket, name: str) -> None:
    """Set an interface up; OSError when it cannot be."""
    flags = _ask(sock, name, SIOCGIFFLAGS, IFREQ_SHORT) or 0
    request = IFREQ_SHORT.pack(name.encode(), flags | IFF_UP)
    fcntl.ioctl(sock, SIOCSIFFLAGS, request)


def mtu(sock: socket.socket, name: str) -> int | None:
    """Return the longest payload of a frame, or None: there is none of this name."""
    return _ask(sock, name, SIOCGIFMTU, IFREQ_INT)


def takes_tags(sock: socket.socket, name: str) -> bool:
    """Return whether an interface takes VLAN tags out of frames (rx-vlan-offload)."""
    value = array.array("I", [ETHTOOL_GFLAGS, 0])  # struct ethtool_value
    request = struct.pack("16sP16x", name.encode(), value.buffer_info()[0])
    try:
        fcntl.ioctl(sock, SIOCETHTOOL, request)
    except OSError:  # it has no such settings, or has gone
        return False
    return bool(value[1] & ETH_FLAG_RXVLAN)


def set_mtu(sock: socket.socket, name: str, mtu: int) -> None:
    """Set the longest payload of a frame, in bytes; OSError when it cannot be."""
    fcntl.ioctl(sock, SIOCSIFMTU, IFREQ_INT.pack(name.encode(), mtu))


def _ask(sock: socket.socket, name: str, what: int, form: struct.Struct) -> int | None:
    try:
        answer = fcntl.ioctl(sock, what, form.pack(name.encode(), 0))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    return int(form.unpack(answer)[1])


class Followed(abc.ABC):
    """An interface that is in use, whatever becomes of it: what to tell the user.

    Args:
        kind: "raw", "xdp" or "tap", for the user.
        ifname: what it is called to begin with.
    """

    _socket: socket.socket

    def __init__(self, kind: str, ifname: str) -> None:
        self.kind = kind
        self.ifname = ifname
        self.name: str | None = ifname  # now; None: the interface was deleted
        self._is_up: bool | None = True

    @abc.abstractmethod
    def current_name(self) -> str | None:
        """Return what it is called now, wherever it is; None: it was deleted."""

    @abc.abstractmethod
    def try_return(self) -> bool:
        """Go on with an interface of the first name; return whether there is one."""

    def supervise(self) -> str | None:
        """Follow the interface; return what has become of it, for the user.

        One thing at a time: what else has changed is said next time.
        """
        change = self._follow()
        return f"{self.kind}:{self.ifname}: {change}" if change else None

    def _follow(self) -> str | None:
        name = self.current_name()
        before, self.name = self.name, name
        if name is None:
            return self._come_back(before)
        if name != before:
            return f"interface was renamed to {name}"
        return self.compare(is_up(self._socket, name))

    def compare(self, is_up: bool | None) -> str | None:
        """Return what is new about its being up; None: there is none here."""
        if is_up is None or is_up == self._is_up:
            return None
        self._is_up = is_up
        return f"interface is {'up' if is_up else 'down'}"

    def _come_back(self, before: str | None) -> str | None:
        deleted = "interface was deleted" if before else ""
        if not self.try_return():
            return deleted and f"{deleted}; waiting for it to come back"
        self.name = self.ifname
        self._is_up = is_up(self._socket, self.ifname)
        back = "is back" if self._is_up else "is back, down"
        return f"{deleted} and {back}" if deleted else f"interface {back}"
