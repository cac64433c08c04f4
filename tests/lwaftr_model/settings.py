"""What the model is told, and how it is read from the text of snabb-softwire-v3."""

import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

#: A softwire's text, and the nested statements of a config: values and blocks.
Block: TypeAlias = "list[tuple[str, str | Block]]"


@dataclass(frozen=True)
class Softwire:
    """A row of the binding table; addresses are bytes in network order."""

    ipv4: bytes
    psid: int
    b4: bytes
    br: bytes
    psid_length: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Side:
    """All that one interface is configured with.

    Attributes:
        next_hop: an address to be resolved, or None and `next_hop_mac` is given.
        rate: errors allowed in each period of so many seconds.
        ingress, egress: filters; True is a frame that passes.
    """

    ip: bytes
    mac: bytes
    mtu: int
    next_hop_mac: bytes | None = None
    next_hop: bytes | None = None
    vlan: int | None = None
    allow_icmp: bool = True
    generate_errors: bool = True
    rate: tuple[int, int] = (200, 2)
    max_fragments: int = 20
    max_packets: int = 20000
    ingress: Callable[[bytes], bool] | None = None
    egress: Callable[[bytes], bool] | None = None


@dataclass(frozen=True)
class Settings:
    """A whole config: the IPv4 side, the IPv6 side and the table."""

    external: Side
    internal: Side
    softwires: tuple[Softwire, ...] = ()
    flow_label: int = 0
    hairpinning: bool = True
    #: Of the fragments that are made; the next one is the first that is used.
    ids: tuple[int, int] = field(default=(0x4242, 0x42424242))


def statements(text: str) -> Iterator[str]:
    """Yield words, quoted strings, braces and semicolons."""
    pattern = (
        r"""/\*.*?\*/|//[^\n]*|"((?:\\.|[^"\\])*)"|'([^']*)'|([{};])|([^\s{};]+)"""
    )
    for match in re.finditer(pattern, text, re.DOTALL):
        words = [group for group in match.groups() if group is not None]
        yield from words


def block(words: Iterator[str]) -> Block:
    """Return what stands before the closing brace, or the end."""
    found: Block = []
    for word in words:
        if word == "}":
            break
        value = next(words)
        if value == "{":
            found.append((word, block(words)))
        elif value != ";":
            found.append((word, value))
            assert next(words) == ";", word
    return found


def at(tree: Block, *path: str) -> Block:
    """Return the block at a path; an empty one if it is not there."""
    for name in path:
        tree = next(
            (v for key, v in tree if key == name and not isinstance(v, str)), []
        )
    return tree


def leaves(tree: Block) -> dict[str, str]:
    return {key: value for key, value in tree if isinstance(value, str)}


def ipv4(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET, text)


def ipv6(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, text)


def mac(text: str) -> bytes:
    return bytes(int(part, 16) for part in text.split(":"))


def side(
    tree: Block,
    name: str,
    address: Callable[[str], bytes],
    mtu: int,
    compiled: Callable[[str], Callable[[bytes], bool]] | None,
) -> Side:
    """Return an interface's settings: its own block and its queue's put together."""
    queue = at(tree, "instance", "queue", name)
    own, shared, hop = (
        leaves(queue),
        leaves(at(tree, name)),
        leaves(at(queue, "next-hop")),
    )
    rate = leaves(at(tree, name, "error-rate-limiting"))
    frags = leaves(at(tree, name, "reassembly"))

    def filtered(key: str) -> Callable[[bytes], bool] | None:
        if key not in shared:
            return None
        assert compiled, "filters need a compiler"
        return compiled(shared[key])

    return Side(
        ip=address(own["ip"]),
        mac=mac(own["mac"]),
        mtu=int(shared.get("mtu", mtu)),
        next_hop_mac=mac(hop["mac"]) if "mac" in hop else None,
        next_hop=address(hop["ip"]) if "ip" in hop else None,
        vlan=int(own["vlan-tag"]) if "vlan-tag" in own else None,
        allow_icmp=shared.get("allow-incoming-icmp", "true") == "true",
        generate_errors=shared.get("generate-icmp-errors", "true") == "true",
        rate=(int(rate.get("packets", 200)), int(rate.get("period", 2))),
        max_fragments=int(frags.get("max-fragments-per-packet", 20)),
        max_packets=int(frags.get("max-packets", 20000)),
        ingress=filtered("ingress-filter"),
        egress=filtered("egress-filter"),
    )


def softwire(tree: Block) -> Softwire:
    own, ports = leaves(tree), leaves(at(tree, "port-set"))
    return Softwire(
        ipv4(own["ipv4"]),
        int(own.get("psid", 0)),
        ipv6(own["b4-ipv6"]),
        ipv6(own["br-address"]),
        int(ports["psid-length"]),
        int(ports.get("reserved-ports-bit-count", 0)),
    )


def read(
    text: str, compiled: Callable[[str], Callable[[bytes], bool]] | None = None
) -> Settings:
    """Return the settings in a config's text.

    Args:
        text: of snabb-softwire-v3, known to be right: nothing is checked.
        compiled: makes a predicate of a filter's expression.
    """
    tree = at(block(statements(text)), "softwire-config")
    internal = leaves(at(tree, "internal-interface"))
    return Settings(
        side(tree, "external-interface", ipv4, 1460, compiled),
        side(tree, "internal-interface", ipv6, 1500, compiled),
        tuple(
            softwire(value)
            for key, value in at(tree, "binding-table")
            if key == "softwire" and not isinstance(value, str)
        ),
        flow_label=int(internal.get("flow-label", 0)),
        hairpinning=internal.get("hairpinning", "true") == "true",
    )
