"""What of an lwAFTR's packets is its own: said by itself, or to itself.

ARP, neighbour discovery, pings of its addresses, and ICMP errors that it sends: no
packet of anybody's has become these, and these become no packet of anybody's. Imports
nothing.
"""

from collections.abc import Mapping

#: By the side that they leave by; but see `sent`.
SENT = {
    "v4": ("out-icmpv4-error", "out-icmpv4-echo", "out-arp-request", "out-arp-reply"),
    "v6": ("out-icmpv6-error", "out-icmpv6-echo", "out-ndp-ns", "out-ndp-na"),
}
#: By the side that they come in by.
RECEIVED = {
    "v4": ("in-icmpv4-echo", "in-arp-request", "in-arp-reply"),
    "v6": ("in-icmpv6-echo", "in-ndp-ns", "in-ndp-na"),
}


def received(counters: Mapping[str, int], side: str) -> int:
    """Return packets that came in for the lwAFTR itself."""
    return sum(counters[f"{name}-packets"] for name in RECEIVED[side])


def sent(counters: Mapping[str, int], side: str, unit: str = "packets") -> int:
    """Return packets, or "bytes", that the lwAFTR itself has sent to a side.

    An ICMPv4 error to a B4 leaves by v6, and is not told apart: those that cannot have
    left by v4, for there were not so many, are counted there.
    """
    own = sum(counters[f"{name}-{unit}"] for name in SENT[side])
    tunnelled = counters[f"out-icmpv4-error-{unit}"] - counters[f"out-ipv4-{unit}"]
    return own + max(0, tunnelled) * (1 if side == "v6" else -1)
