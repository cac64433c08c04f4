"""Rewrite: other addresses for packets. The work is done in rewrite.c."""

import ipaddress
from collections.abc import Sequence
from typing import Any

from snabb_py._native import ffi, lib
from snabb_py.apps.fields import parse_mac
from snabb_py.engine.app import App, Ports
from snabb_py.errors import ConfigError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Rewrite(App):
    """Packets with other addresses, their checksums kept: right ones right.

               +---------+
        rx --->| Rewrite |---> tx
               +---------+

    Addresses of IP are those of the outermost header. Of a prefix its bits are written,
    and those of the hosts stay. Packets have no offload metadata: captures have none.

    Args:
        src_mac: for each packet; "": its own stays.
        dst_mac: the same.
        src_ip: addresses or prefixes, one of IPv4 and one of IPv6 at most; the packets
            of the other keep theirs.
        dst_ip: the same.

    Raises:
        ConfigError: one is no address.
    """

    inputs = Ports("rx")
    outputs = Ports("tx")
    ops = ffi.addressof(lib.rewrite_ops)
    reconfigurable = True

    def __init__(
        self,
        *,
        src_mac: str = "",
        dst_mac: str = "",
        src_ip: Sequence[str] = (),
        dst_ip: Sequence[str] = (),
    ) -> None:
        macs = [_mac("src_mac", src_mac), _mac("dst_mac", dst_mac)]
        ips = [_networks("src_ip", src_ip), _networks("dst_ip", dst_ip)]
        self.config: Any = ffi.new(
            "struct rewrite_config *",
            {
                "mac": macs,
                "ipv4": [_bits(networks.get(4)) for networks in ips],
                "ipv6": [_bits(networks.get(6)) for networks in ips],
            },
        )


def _mac(name: str, text: str) -> dict[str, bytes]:
    if not text:
        return {}
    try:
        return {"value": parse_mac(text).to_bytes(6, "big"), "mask": b"\xff" * 6}
    except ValueError:
        raise ConfigError(f'{name}: "{text}" is no MAC address') from None


def _networks(name: str, texts: Sequence[str]) -> dict[int, Network]:
    found: dict[int, Network] = {}
    for text in texts:
        try:
            network = ipaddress.ip_network(text)
        except ValueError:
            raise ConfigError(f'{name}: "{text}" is no address or prefix') from None
        if network.version in found:
            raise ConfigError(f"{name}: two of IPv{network.version}")
        found[network.version] = network
    return found


def _bits(network: Network | None) -> dict[str, bytes]:
    if network is None:
        return {}
    return {
        "value": network.network_address.packed,
        "mask": network.netmask.packed,
    }
