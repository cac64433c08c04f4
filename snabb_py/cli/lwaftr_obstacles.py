"""What the kernel does on interfaces that it shares with an lwAFTR.

A packet socket (`raw:IFNAME`) gets copies: the kernel goes on doing what it would do
without us. What of that is in the way is said; settings of the kernel are the
operator's. Of what comes through `xdp:IFNAME` the kernel sees nothing.
"""

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

from snabb_py.cli.interfaces import kernel_name
from snabb_py.cli.lwaftr_ends import IPV4, IPV6, kernel_mtu
from snabb_py.lwaftr.conf_types import Address, LwaftrConfig

_SYSCTLS = Path("/proc/sys/net")


def obstacles(config: LwaftrConfig, words: tuple[str, str]) -> Iterator[str]:
    """Yield a line for each thing that the kernel does in our way.

    Args:
        config: with one queue.
        words: the interfaces of both sides, IPv4 first.
    """
    queue = config.instances[0].queues[0]
    tunnels = config.binding_table.br_addresses
    sides = (
        (IPV4, {queue.external.ip}, config.external.mtu),
        (IPV6, {queue.internal.ip, *tunnels}, config.internal.mtu),
    )
    for word, (version, ours, mtu) in zip(words, sides, strict=True):
        if word.startswith("raw:"):
            yield from besides_us(word, version, ours)
        most = kernel_mtu(word)
        if most is not None and most < mtu:
            yield (
                f"{word}: its MTU is {most}, less than the {mtu} that are configured: "
                "longer packets are lost"
            )


def besides_us(word: str, version: int, ours: set[Address]) -> Iterator[str]:
    """Yield a line for each thing that the kernel does with its copies."""
    for address in sorted(ours & kernel_addresses(), key=int):
        yield (
            f"{word}: the kernel has {address}, too, and answers besides us; take "
            "it from the kernel (ip address del), or use another one"
        )
    name = kernel_name(word) or ""
    if forwards(name, version):
        yield (
            f"{word}: the kernel forwards IPv{version} packets, too; to forbid it: "
            f"sysctl net/ipv{version}/conf/{name}/forwarding=0"
        )


def kernel_addresses() -> set[Address]:
    """Return all addresses that the kernel has."""
    from pyroute2 import IPRoute

    with IPRoute() as kernel:
        found = (message.get_attr("IFA_ADDRESS") for message in kernel.get_addr())
        return {ip_address(address) for address in found if address}


def forwards(name: str, version: int) -> bool:
    """Return whether the kernel forwards what comes in at an interface."""
    try:
        text = (_SYSCTLS / f"ipv{version}/conf/{name}/forwarding").read_text()
    except OSError:  # without IPv6, or the interface has gone
        return False
    return text.strip() != "0"
