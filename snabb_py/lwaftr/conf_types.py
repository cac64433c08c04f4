"""What a config of the lwAFTR holds, whatever its format; defaults are those of v3.

Imports errors.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from snabb_py.lwaftr.binding_table import BindingTable

#: What a queue's interface is known by: an address of the Internet Protocol.
Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class ErrorRateLimiting:
    """How many ICMP errors we send: `packets` in each `period` (seconds)."""

    packets: int = 200
    period: float = 2


@dataclass(frozen=True)
class Reassembly:
    """Fragments of a packet that we wait for, packets that may wait."""

    max_fragments_per_packet: int = 20
    max_packets: int = 20000


@dataclass(frozen=True)
class ExternalInterface:
    """What holds for all queues on the IPv4 side.

    Attributes:
        mtu: bytes of the largest IPv4 packet that is sent whole; 68..65535.
        mru: not used; kept for who reads the config.
        ingress_filter, egress_filter: expression of pcap-filter(7); "": everything.
        allow_incoming_icmp: ICMPv4 from the internet passes.
        generate_icmp_errors: ICMPv4 errors are sent.
    """

    mtu: int = 1460
    mru: int = 1460
    ingress_filter: str = ""
    egress_filter: str = ""
    allow_incoming_icmp: bool = True
    generate_icmp_errors: bool = True
    error_rate_limiting: ErrorRateLimiting = ErrorRateLimiting()
    reassembly: Reassembly = Reassembly()


@dataclass(frozen=True)
class InternalInterface(ExternalInterface):
    """What holds for all queues on the IPv6 side.

    Attributes:
        mtu: bytes of the largest IPv6 packet, tunnel header included; 1280..65535.
        flow_label: of the tunnel's header; 20 bits.
        hairpinning: packets from one B4 to another turn round here.
    """

    mtu: int = 1500
    flow_label: int = 0
    hairpinning: bool = True


@dataclass(frozen=True)
class QueueInterface:
    """One side of a queue: who we are there, and who is next.

    Attributes:
        ip: ours; IPv4 on the external side, IPv6 on the internal one.
        mac: ours, 6 bytes.
        next_hop_ip: is asked for its MAC address; or None, and `next_hop_mac` is it.
        next_hop_mac: 6 bytes.
        vlan_tag: 0..4094; None: frames have none.
    """

    ip: Address
    mac: bytes
    next_hop_ip: Address | None = None
    next_hop_mac: bytes | None = None
    vlan_tag: int | None = None


@dataclass(frozen=True)
class Queue:
    """A worker's part of a device."""

    id: int
    external: QueueInterface
    internal: QueueInterface


@dataclass(frozen=True)
class Instance:
    """A device and its queues.

    Attributes:
        device: the IPv6 side's; PCI address or interface. "": the command line says.
        external_device: the IPv4 side's; None: one device for both, on a stick.
    """

    device: str
    external_device: str | None
    queues: tuple[Queue, ...]


@dataclass(frozen=True)
class LwaftrConfig:
    """Everything; see `read`.

    Attributes:
        binding_table: whose softwires there are.
        instances: devices and their queues, at least one.
        external, internal: of all queues.
        name: that the instance goes by; "": none.
    """

    binding_table: BindingTable
    instances: tuple[Instance, ...]
    external: ExternalInterface = ExternalInterface()
    internal: InternalInterface = InternalInterface()
    name: str = ""
