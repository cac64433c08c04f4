"""What the AFTR makes itself, made again by scapy from the fields alone.

Errors, answers and requests are rebuilt whole; of tunnel packets and fragments, whose
content is the traffic's, the headers: lengths, checksums and offsets are scapy's.
"""

import logging
from socket import AF_INET, AF_INET6, inet_ntop
from typing import Any

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)

from scapy.compat import raw  # noqa: E402 - scapy warns of missing routes when loaded
from scapy.layers.inet import ICMP, IP  # noqa: E402
from scapy.layers.inet6 import (  # noqa: E402
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import ARP, Ether  # noqa: E402
from scapy.packet import Raw  # noqa: E402

from tests.lwaftr_model.settings import Settings  # noqa: E402
from tests.lwaftr_model.wire import (  # noqa: E402
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    ETHERTYPE_VLAN,
    is_fragment,
    u16,
)


def untagged(frame: bytes) -> bytes:
    return frame[:12] + frame[16:] if frame[12:14] == ETHERTYPE_VLAN else frame


def rebuilt(tagged: bytes, settings: Settings) -> bytes:
    """Return what scapy makes of the fields of a frame that went out, untagged.

    Args:
        tagged: a frame of the default mode; Snabb passes on what is no packet at all.
        settings: of the AFTR that sent it.
    """
    frame = untagged(tagged)
    makers = {
        ETHERTYPE_ARP: rebuilt_arp,
        ETHERTYPE_IPV4: rebuilt_ipv4,
        ETHERTYPE_IPV6: rebuilt_ipv6,
    }
    parsed = Ether(frame)
    head = Ether(dst=parsed.dst, src=parsed.src, type=u16(frame, 12))
    packet: Any = makers[frame[12:14]](frame[14:], parsed, settings)
    return bytes(raw(head / packet))


def rebuilt_arp(_: bytes, parsed: Any, settings: Settings) -> Any:
    arp = parsed[ARP]
    own = inet_ntop(AF_INET, settings.external.ip)
    to = {"hwdst": arp.hwdst, "pdst": arp.pdst}
    return ARP(op=arp.op, hwsrc=parsed.src, psrc=own, **to)


def rebuilt_ipv4(packet: bytes, parsed: Any, settings: Settings) -> Any:
    ip = parsed[IP]
    ours = packet[12:16] == settings.external.ip and packet[9] == 1
    if ours and not is_fragment(packet) and packet[0] == 0x45 and packet[20] != 0:
        quoted = packet[28:]
        error = ICMP(type=packet[20], code=packet[21], nexthopmtu=u16(packet, 26))
        return IP(src=ip.src, dst=ip.dst, ttl=255, id=0) / error / Raw(quoted)
    size = (packet[0] & 15) * 4
    if ours and not is_fragment(packet):
        message = ICMP(type=0, id=u16(packet, size + 4), seq=u16(packet, size + 6))
        return with_header(packet, message / Raw(packet[size + 8 :]))
    return with_header(packet, Raw(packet[size:]))


def with_header(packet: bytes, payload: Any) -> Any:
    """Return an IPv4 packet with its header's length and checksum computed."""
    header = IP(packet[: (packet[0] & 15) * 4])
    header.remove_payload()
    del header.len, header.chksum
    return header / payload


def rebuilt_ipv6(packet: bytes, parsed: Any, settings: Settings) -> Any:
    ip6 = parsed[IPv6]
    head = IPv6(src=ip6.src, dst=ip6.dst, tc=ip6.tc, fl=ip6.fl, hlim=ip6.hlim)
    body = packet[40:]
    if packet[6] == 44:
        fragment = IPv6ExtHdrFragment(
            nh=body[0], offset=u16(body, 2) >> 3, m=body[3] & 1
        )
        fragment.id = int.from_bytes(body[4:8])
        return head / fragment / Raw(body[8:])
    if packet[6] == 58:
        return head / rebuilt_icmpv6(body, settings)
    head.nh = packet[6]
    return head / Raw(body)


def rebuilt_icmpv6(body: bytes, settings: Settings) -> Any:
    own = Ether(dst=settings.internal.mac).dst
    errors = {(1, 5): ICMPv6DestUnreach, (3, 1): ICMPv6TimeExceeded}
    if (body[0], body[1]) in errors:
        return errors[body[0], body[1]](code=body[1]) / Raw(body[8:])
    if body[0] == 129:
        ident, sequence = u16(body, 4), u16(body, 6)
        return ICMPv6EchoReply(id=ident, seq=sequence, data=body[8:])
    target = inet_ntop(AF_INET6, body[8:24])
    if body[0] == 135:
        return ICMPv6ND_NS(tgt=target) / ICMPv6NDOptSrcLLAddr(lladdr=own)
    flags: dict[str, Any] = {"R": 1, "S": body[4] >> 6 & 1, "O": body[4] >> 5 & 1}
    return ICMPv6ND_NA(tgt=target, **flags) / ICMPv6NDOptDstLLAddr(lladdr=own)
