"""Who the lwAFTR is on its interfaces, where no config says it.

What options do not say is asked of the kernel, for its interfaces (`raw:`, `xdp:`), or
made up (`sim`).
"""

import errno
import ipaddress
import re
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from snabb_py.cli.interfaces import kernel_name
from snabb_py.errors import ConfigError, DeviceError
from snabb_py.lwaftr.conf_types import Address, Instance, LwaftrConfig, Queue
from snabb_py.lwaftr.conf_types import QueueInterface as End

_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
IPV4, IPV6 = 4, 6
#: Addresses for software cards: TEST-NET-1 (RFC 5737) and 2001:db8::/32 (RFC 3849).
MADE_UP = {
    IPV4: ("192.0.2.1", "02:00:00:00:00:04", "02:00:00:00:01:04"),
    IPV6: ("2001:db8::1", "02:00:00:00:00:06", "02:00:00:00:01:06"),
}
#: What the kernel does not know of an interface.
UNKNOWN = {
    "address": "the interface has no IPv{} address",
    "mac": "the interface has no MAC address",
    "next_hop": "no default route of IPv{} goes out there",
}
#: Internet protocol -> its side's options.
SIDES = {IPV4: "v4", IPV6: "v6"}


@dataclass(frozen=True)
class Said:
    """What a user has said of one side; "": nothing.

    Attributes:
        address: ours.
        mac: ours.
        next_hop: whom to send to, by address or by MAC.
    """

    address: str = ""
    mac: str = ""
    next_hop: str = ""

    def or_else(self, other: "Said") -> "Said":
        """Return this, with another's where nothing is said."""
        return Said(
            self.address or other.address,
            self.mac or other.mac,
            self.next_hop or other.next_hop,
        )


def end_of(version: int, word: str, said: Said) -> End:
    """Return one side of a queue.

    Args:
        version: of the Internet Protocol there.
        word: the interface.
        said: by options; the rest is found out.

    Raises:
        ConfigError: something cannot be found out, or makes no sense.
        DeviceError: the kernel does not answer.
    """
    known, name = Said(), kernel_name(word)
    if word.partition(",")[0] == "sim":
        known = Said(*MADE_UP[version])
    elif name and "" in (said.address, said.mac, said.next_hop):
        known = ask_kernel(word, name, version)
    side, complete = SIDES[version], said.or_else(known)
    for option in ("address", "mac", "next_hop"):
        if not getattr(complete, option):
            why = UNKNOWN[option].format(version) if name else "nobody else knows it"
            raise ConfigError(
                f'interface "{word}": --{side}-{option.replace("_", "-")} is missing: '
                f"neither it nor --conf is given, and {why}"
            )
    ip = _address(f"--{side}-address", complete.address, version)
    mac = _mac(f"--{side}-mac", complete.mac)
    if _MAC.fullmatch(complete.next_hop):
        return End(ip, mac, next_hop_mac=_mac(f"--{side}-next-hop", complete.next_hop))
    next_hop = _address(f"--{side}-next-hop", complete.next_hop, version)
    return End(ip, mac, next_hop_ip=next_hop)


def _address(option: str, text: str, version: int) -> Address:
    try:
        return IPv4Address(text) if version == IPV4 else IPv6Address(text)
    except ipaddress.AddressValueError:
        kind = f"IPv{version} address"
        if option.endswith("next-hop"):
            kind += " or MAC address"
        raise ConfigError(f'{option}: "{text}" is no {kind}') from None


def _mac(option: str, text: str) -> bytes:
    if not _MAC.fullmatch(text):
        raise ConfigError(f'{option}: "{text}" is no MAC address')
    return bytes.fromhex(text.replace(":", ""))


def ask_kernel(word: str, name: str, version: int) -> Said:
    """Return what the kernel knows of an interface: "" where it knows nothing.

    Raises:
        DeviceError: there is no such interface.
    """
    import socket

    from pyroute2 import IPRoute

    family = socket.AF_INET if version == IPV4 else socket.AF_INET6
    with IPRoute() as kernel:
        found = kernel.link_lookup(ifname=name)
        if not found:
            raise DeviceError(
                f"{word}: find the interface",
                errno.ENODEV,
                "`ip link` lists those that there are",
            )
        index: int = found[0]
        (link,) = kernel.get_links(index)
        addresses = [
            a for a in kernel.get_addr(family=family, index=index) if a["scope"] == 0
        ]
        routes = kernel.get_default_routes(family=family)
        return Said(
            _attribute(addresses, "IFA_ADDRESS"),
            str(link.get_attr("IFLA_ADDRESS") or ""),
            _attribute(
                [r for r in routes if r.get_attr("RTA_OIF") == index], "RTA_GATEWAY"
            ),
        )


def _attribute(messages: list[Any], name: str) -> str:
    """Return an attribute of the first message that has it."""
    values = (message.get_attr(name) for message in messages)
    return next((str(value) for value in values if value), "")


def kernel_mtu(word: str) -> int | None:
    """Return the bytes of an interface's longest packet, None: the kernel has none."""
    from pyroute2 import IPRoute

    name = kernel_name(word)
    if name is None:
        return None
    with IPRoute() as kernel:
        found = kernel.link_lookup(ifname=name)
        if not found:
            return None
        (link,) = kernel.get_links(found[0])
        return int(link.get_attr("IFLA_MTU"))


def on_one_queue(config: LwaftrConfig, external: End, internal: End) -> LwaftrConfig:
    """Return a config with these ends for its only queue."""
    queue = Queue(0, external, internal)
    return replace(config, instances=(Instance("", None, (queue,)),))


def without_asking(end: End, version: int) -> End:
    """Return an end whose next hop need not be asked for: nobody would answer."""
    if end.next_hop_mac:
        return end
    mac = _mac("", MADE_UP[version][2])
    return replace(end, next_hop_ip=None, next_hop_mac=mac)
