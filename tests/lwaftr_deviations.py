"""What the lwAFTR does by default where Snabb does not do what the RFCs say."""

from dataclasses import dataclass, field

from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6ND_NA, IPv6
from scapy.layers.l2 import Ether

VLAN, ICMPV4 = 0x8100, 1


def describe(frame: bytes) -> str:
    """Return a frame in a few words, from the outside inwards."""
    ethernet = Ether(frame)
    packet, words = ethernet.payload, []
    if ethernet.type == VLAN:
        packet = packet.payload
    if isinstance(packet, IPv6):
        words.append(f"{packet.src} > {packet.dst}:")
        if isinstance(packet.payload, IP):
            packet = packet.payload
    if isinstance(packet, IP):
        tos = f" tos {packet.tos}" if packet.tos else ""
        words.append(f"{packet.src} > {packet.dst} ttl {packet.ttl}{tos}:")
        if packet.proto == ICMPV4:
            icmp = packet[ICMP]
            words.append(f"ICMP {icmp.type}/{icmp.code}")
            if (icmp.type, icmp.code) == (3, 4):
                words.append(f"mtu {icmp.nexthopmtu}")
    elif ICMPv6DestUnreach in packet:
        words.append(f"ICMPv6 1/{packet[ICMPv6DestUnreach].code}")
    elif ICMPv6ND_NA in packet:
        words.append(f"NA {packet[ICMPv6ND_NA].tgt}")
    words.append(f"{len(frame)} B")
    return " ".join(words)


@dataclass(frozen=True)
class Deviation:
    """What comes of a row by default.

    Attributes:
        why: the RFC that Snabb does not follow.
        v4, v6: the frames that go out, as `describe` has them.
        counters: by how much Snabb's differ from what it counted; packets.
        own: ours.
    """

    why: str
    v4: list[str] = field(default_factory=list)
    v6: list[str] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    own: dict[str, int] = field(default_factory=dict)


TUNNEL = "8:9:a:b:c:d:e:f > 127:11:12:13:14:15:16:128:"
INBOUND = f"{TUNNEL} 8.8.8.8 > 178.79.150.233 ttl 63:"
OUTBOUND = "178.79.150.233 > 8.8.8.8 ttl 64"
RELAYED = "10.10.10.10 > 8.8.8.8 ttl 255: ICMP 3/4 mtu"

DEVIATIONS = {
    "v4-egress-df-too-big": Deviation(
        "RFC 1191, 4: the B4 is told",
        v6=[f"{TUNNEL} 10.10.10.10 > 178.79.150.233 ttl 254: ICMP 3/4 mtu 576 630 B"],
        counters={
            "drop-all-ipv6-iface": 1,
            "drop-over-mtu-but-dont-fragment-ipv4": 1,
            "out-icmpv4-error": 1,
            "out-ipv4": -1,
            "out-ipv6": 1,
            "out-ipv6-frag-not": 1,
        },
    ),
    "v6-atomic-fragment": Deviation(
        "RFC 6946",
        v4=[f"{OUTBOUND}: 66 B"],
        counters={
            "in-ipv6": 1,
            "in-ipv6-frag-reassembled": 1,
            "out-ipv4": 1,
            "out-ipv4-frag-not": 1,
        },
    ),
    "ethernet-padding": Deviation(
        "RFC 2473, 3: what is tunnelled is the packet", v6=[f"{INBOUND} 82 B"]
    ),
    "ttl1-on-icmp-error": Deviation(
        "RFC 1122, 3.2.2",
        counters={"out-icmpv4-error": -1, "out-ipv4": -1, "out-ipv4-frag-not": -1},
        own={"drop-out-by-rfc1122-icmpv4-packets": 1},
    ),
    "icmp-error-embedded-echo-shared": Deviation(
        "RFC 5508, REQ-3",
        v6=[f"{TUNNEL} 9.9.9.9 > 178.79.150.233 ttl 63: ICMP 11/0 118 B"],
        counters={
            "drop-all-ipv4-iface": -1,
            "drop-in-by-rfc7596-icmpv4": -1,
            "drop-no-dest-softwire-ipv4": -1,
            "out-ipv6": 1,
            "out-ipv6-frag-not": 1,
        },
    ),
    "b4-outbound-icmp-error": Deviation(
        "RFC 5508, REQ-4",
        v4=[f"{OUTBOUND}: ICMP 3/3 94 B"],
        counters={
            "drop-all-ipv6-iface": -1,
            "drop-no-source-softwire-ipv6": -1,
            "out-icmpv6-error": -1,
            "out-ipv4": 1,
            "out-ipv4-frag-not": 1,
            "out-ipv6": -1,
            "out-ipv6-frag-not": -1,
        },
    ),
    "v6-duplicate-fragment": Deviation(
        "RFC 8200, 4.5: exact duplicates may be ignored",
        v4=[f"{OUTBOUND}: 1042 B"],
        counters={
            "in-ipv6": 1,
            "in-ipv6-frag-reassembled": 1,
            "out-ipv4": 1,
            "out-ipv4-frag-not": 1,
        },
        own={"drop-ipv6-frag-duplicate": 1},
    ),
    "v6-overlap": Deviation(
        "RFC 5722, 4: dropped at once, not when time is over",
        counters={"drop-ipv6-frag-invalid-reassembly": 1},
        own={"drop-ipv6-frag-overlap": 1, "drop-ipv6-frag-unreassembled": 2},
    ),
    "v4-duplicate-fragment": Deviation(
        "RFC 791, 3.2",
        v6=[f"{INBOUND} 882 B"],
        counters={
            "in-ipv4": 1,
            "in-ipv4-frag-reassembled": 1,
            "out-ipv6": 1,
            "out-ipv6-frag-not": 1,
        },
        own={"drop-ipv4-frag-duplicate": 1},
    ),
    "icmpv6-spoofed-bad-checksum": Deviation(
        "RFC 4443, 2.3",
        counters={
            "drop-all-ipv6-iface": 1,
            "out-icmpv4-error": -1,
            "out-ipv4": -1,
            "out-ipv4-frag-not": -1,
        },
        own={"drop-bad-checksum-icmpv6-packets": 1},
    ),
    "ptb-100000": Deviation("RFC 4443, 3.2: 32 bits", v4=[f"{RELAYED} 65535 94 B"]),
    "ptb-20": Deviation("RFC 791: 68 at least", v4=[f"{RELAYED} 68 94 B"]),
    "ptb-code1": Deviation(
        "RFC 4443, 3.2: the code is ignored",
        v4=[f"{RELAYED} 1240 94 B"],
        counters={
            "drop-all-ipv6-iface": -1,
            "drop-too-big-type-but-not-code-icmpv6": -1,
            "out-icmpv4-error": 1,
            "out-ipv4": 1,
            "out-ipv4-frag-not": 1,
        },
    ),
    "tunnel-encap-limit": Deviation(
        "RFC 2473, 4.1.1",
        v4=[f"{OUTBOUND}: 66 B"],
        counters={
            "drop-all-ipv6-iface": -1,
            "drop-unknown-protocol-ipv6": -1,
            "out-ipv4": 1,
            "out-ipv4-frag-not": 1,
        },
    ),
    "icmpv4-rate-limit-3": Deviation(
        "none; we count it",
        v4=["10.10.10.10 > 8.8.8.8 ttl 255: ICMP 3/1 94 B"] * 3,
        own={
            "drop-over-rate-limit-icmpv4-bytes": 188,
            "drop-over-rate-limit-icmpv4-packets": 2,
        },
    ),
    "vlan-priority-bits": Deviation(
        "802.1Q, 6.9: priority is no part of the VLAN",
        v6=[f"{INBOUND} 110 B"] * 2,
        counters={
            "in-ipv4": 1,
            "in-ipv4-frag-reassembly-unneeded": 1,
            "out-ipv6": 1,
            "out-ipv6-frag-not": 1,
        },
        own={"drop-vlan-ipv4-packets": 2},
    ),
    "bad-ipv4-header-checksum": Deviation(
        "RFC 1812, 5.2.2",
        counters={
            "in-ipv4": -1,
            "in-ipv4-frag-reassembly-unneeded": -1,
            "out-ipv6": -1,
            "out-ipv6-frag-not": -1,
        },
        own={"drop-bad-checksum-ipv4-packets": 1},
    ),
    "decap-traffic-class": Deviation(
        "RFC 6040, 4.2: congestion was met", v4=[f"{OUTBOUND} tos 3: 66 B"]
    ),
    "inner-fragments-from-b4": Deviation(
        "RFC 7597, 8.3",
        v4=[f"{OUTBOUND}: 122 B"],
        counters={
            "drop-all-ipv6-iface": -1,
            "drop-no-source-softwire-ipv6": -1,
            "in-ipv4-frag-needs-reassembly": 2,
            "in-ipv4-frag-reassembled": 1,
            "in-ipv6": -1,
            "out-icmpv6-error": -1,
            "out-ipv6": -1,
            "out-ipv6-frag-not": -1,
        },
    ),
    "inner-fragment-hairpin": Deviation(
        "RFC 7597, 8.3: it waits for the others",
        counters={
            "drop-all-ipv6-iface": -1,
            "drop-ipv4-frag-disabled": -1,
            "hairpin-ipv4": -1,
            "in-ipv4-frag-needs-reassembly": 1,
            "in-ipv6": -1,
        },
    ),
    "ndp-dad": Deviation(
        "RFC 4862, 5.4.3",
        v6=["8:9:a:b:c:d:e:f > ff02::1: NA 8:9:a:b:c:d:e:f 86 B"],
        counters={"out-ipv6-frag-not": 1, "out-ndp-na": 1},
    ),
}
