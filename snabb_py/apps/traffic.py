"""Traffic that can be counted at the other end: a generator and a checker.

    config.app("generator", Generator, frames=udp_frames(64, flows=1000), rate_pps=1e6)
    config.app("checker", Checker, verify=True)

The generator puts a stamp (stream, number, perhaps the time) into each packet, the
checker finds it wherever the packet has been; traffic_abi.h describes the stamp. The
work is done in traffic.c; here frames are built.

Sizes are those of testers (RFC 2544): bytes of the frame with its FCS, 64 at least.
The frames themselves are without, as everywhere in the engine.
"""

import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from snabb_py._native import ffi, lib
from snabb_py.apps.basic import WIRE_OVERHEAD
from snabb_py.apps.fields import (
    Fields,
    Range,
    numbers,
    parse_ipv4,
    parse_ipv6,
    parse_mac,
    parse_port,
)
from snabb_py.engine.app import App, FiniteSource, Ports, check_range, sending_ns
from snabb_py.engine.memory import new_aligned
from snabb_py.errors import ConfigError

T = TypeVar("T")

FCS_SIZE = 4
#: The least that Ethernet carries, without FCS; shorter frames are padded on the wire.
LEAST_FRAME = 60


def weighted(items: Iterable[tuple[T, int]]) -> tuple[T, ...]:
    """Return a sequence in which each item comes as often as its weight says.

    Spread evenly, and the same items always give the same sequence, as RFC 6985 asks.

    Args:
        items: with weights of 0 or more, 2^20 in sum at most.
    """
    items = list(items)
    check_range("sum of weights", sum(weight for _, weight in items), 1, 2**20)
    check_range("weight", min(weight for _, weight in items), 0, 2**20)
    # Each divides the whole into parts of its own and stands in the middle of them.
    places = sorted(
        ((2 * k + 1) / weight, i)
        for i, (_, weight) in enumerate(items)
        for k in range(weight)
    )
    return tuple(items[i][0] for _, i in places)


#: The "simple IMIX": 7 IP packets of 40 bytes, 4 of 576, 1 of 1500. With Ethernet
#: header and FCS that is 58, padded to 64; 594; 1518. TRex (scripts/stl/imix.py) sends
#: the same sizes; others round 594 to 570.
IMIX = weighted([(64, 7), (594, 4), (1518, 1)])


# ---- templates -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Template:
    """A finished frame that a Generator sends again and again.

    Args:
        frame: 14 to 10240 bytes, without FCS; all checksums right.
        stamp: give each packet a stamp. It goes to the end of the outermost IP packet
            (in a frame without IP: of the frame), where 16 bytes of payload must be
            zeros. Checksums stay right, however many cover it.
        timed: the time too, for the Checker's latency; 24 bytes of zeros.

    Raises:
        ConfigError: the frame's length is out of range; there is no room for the
            stamp, or something else in it.
    """

    frame: bytes
    stamp: bool = True
    timed: bool = False

    def __post_init__(self) -> None:
        """Check that the stamp has a place."""
        check_range("frame length", len(self.frame), 14, lib.PACKET_SMALL_SIZE)
        end, size = self.stamp_end, self.stamp_size
        if not self.stamp:
            return
        if not end:
            raise ConfigError("frame: its IP header does not fit its length")
        if end < LEAST_STAMPED or any(self.frame[end - size : end]):
            raise ConfigError(
                f"frame: the {size} bytes of payload before byte {end} are for the "
                "stamp and must be zeros"
            )

    @property
    def stamp_size(self) -> int:
        """Bytes of the stamp, were there one."""
        return int(
            lib.TRAFFIC_TIMED_STAMP_SIZE if self.timed else lib.TRAFFIC_STAMP_SIZE
        )

    @property
    def stamp_end(self) -> int:
        """Offset of the byte behind the stamp's place, 0: it has none."""
        return int(lib.traffic_end(self.frame, len(self.frame)))

    @property
    def wire_size(self) -> int:
        """Bytes on the wire, with preamble, FCS and gap."""
        return max(len(self.frame), LEAST_FRAME) + WIRE_OVERHEAD


#: Frames that end before this cannot be told from foreign ones by the Checker.
LEAST_STAMPED = 14 + lib.TRAFFIC_TIMED_STAMP_SIZE


class Frames(tuple[Template, ...]):  # noqa: SLOT001 - keeps what is laid out
    """Templates in the order in which they are sent, laid out for C once.

    Generators that are given the same Frames read the same memory: workers then have
    one copy of a large capture in the cache that they share, and not one each.
    """

    @cached_property
    def laid_out(self) -> tuple[Any, Any]:
        """`frames` and `order` of a generator_config."""
        return self.lay_out({t: t.frame for t in self})

    def lay_out(self, data: Mapping[Template, bytes]) -> tuple[Any, Any]:
        """Return the same for templates that have other data, as long as their own."""
        # Whole cache lines, as C copies them.
        padded = {t: f.ljust(-(-len(f) // 64) * 64, b"\0") for t, f in data.items()}
        memory: Any = new_aligned("uint8_t[]", sum(map(len, padded.values())))
        turns, at = {}, 0
        for template, frame in padded.items():
            ffi.memmove(memory + at, frame, len(frame))
            turns[template] = at // 64, len(template.frame), _stamp_place(template)
            at += len(frame)
        return memory, ffi.new("struct generator_turn[]", [turns[t] for t in self])


class _Memory:
    """Frames as C has them, with what fields and a rate make of them."""

    def __init__(
        self, frames: Frames, fields: Fields, ns: Callable[[int], float]
    ) -> None:
        self.layouts: Any = ffi.NULL
        if fields:
            found = {t: fields.set(t.frame) for t in dict.fromkeys(frames)}
            laid_out = frames.lay_out({t: frame for t, (frame, _) in found.items()})
            self._layouts = [layout for _, layout in found.values()]
            fields.note_places(self._layouts)
            for template, (_, layout) in found.items():
                _check_apart(template, layout, fields.nvarying)
            if fields.nvarying:
                self.layouts = ffi.new(
                    "struct field_layout *[]", [found[t][1] for t in frames]
                )
        else:
            laid_out = frames.laid_out
        self.frames, self.order = laid_out
        costs = [ns(t.wire_size) for t in frames]
        self.mean = math.fsum(costs) / len(costs)
        self.costs: Any = ffi.new("double[]", costs) if self.mean else ffi.NULL


def _stamp_place(template: Template) -> int:
    """Return where the stamp is, as struct generator_turn has it."""
    if not template.stamp:
        return 0
    place = template.stamp_end - int(lib.TRAFFIC_STAMP_SIZE)
    return place | (int(lib.GENERATOR_TIMED) if template.timed else 0)


def _check_apart(template: Template, layout: Any, nplaces: int) -> None:
    """Refuse a stamp that is where a field varies: in zeros that are a header's."""
    begin = template.stamp_end - template.stamp_size
    for place in layout.places[0:nplaces] if template.stamp else ():
        if place.offset + place.size > begin:
            raise ConfigError("frame: its payload is too short for the stamp")


class Generator(FiniteSource):
    """Packets made from templates, numbered, at an exact rate.

        +-----------+
        | Generator |---> tx
        +-----------+

    Over any time it sends as many packets as the rate has due, to the packet. After a
    pause it makes up for `catch_up_us`, or four bursts of the worker, if that is more;
    what goes beyond is not sent late but counted as missed: what it sent and what it
    missed are together what it was asked for.

    Args:
        frames: sent in this order, round and round; see `udp_frames`, `weighted`, and
            `Frames` for several generators of the same.
        stream: 0 to 2^32-1: whose packets they are. Numbers are counted from 0 in each
            stream; two generators must not share one.
        rate_pps: packets a second; 0: as many as the network takes.
        rate_gbps: instead: 10^9 bits a second on the wire, as all Gbps here: preamble,
            FCS and gap count 24 bytes a packet, and none is shorter than 60 without.
        count: packets to send of the stream; 0: without end.
        catch_up_us: 0 to 10^6.
        ranges: header fields of all frames that vary from packet to packet.
        flows: packets until those begin anew, each frame with each flow; 0: as many as
            the ranges have combinations, of which no two are then the same.

    It may be reconfigured while it runs: a new rate holds at once, numbers go on, and
    so do frames and flows; a new stream begins with the first of all.

    Counters: `missed-no-room` (nobody takes the packets off the link),
    `missed-no-packet` (the pool is dry), `missed-late` (the worker came too late or
    cannot make so many). Of mixed sizes at a rate in Gbps, missed packets are of the
    mean size.
    """

    outputs = Ports("tx")
    counters = ("missed-no-room", "missed-no-packet", "missed-late")
    ops = ffi.addressof(lib.generator_ops)
    reconfigurable = True

    def __init__(  # noqa: PLR0913 - all but one have defaults
        self,
        frames: Sequence[Template],
        *,
        stream: int = 0,
        rate_pps: float = 0,
        rate_gbps: float = 0,
        count: int = 0,
        catch_up_us: float = 100,
        ranges: Sequence[Range] = (),
        flows: int = 0,
    ) -> None:
        check_range("number of frames", len(frames), 1, 2**24)
        check_range("stream", stream, 0, 2**32 - 1)
        check_range("rate_pps", rate_pps, 0, 1e9)
        check_range("rate_gbps", rate_gbps, 0, 1000)
        check_range("count", count, 0, 2**63)
        check_range("catch_up_us", catch_up_us, 0, 1e6)
        if rate_pps and rate_gbps:
            raise ConfigError("rate_pps and rate_gbps: give one of them")

        def ns(wire_size: int) -> float:
            """Return how long a packet's turn lasts."""
            if rate_gbps:
                return wire_size * 8 / rate_gbps
            return 1e9 / rate_pps if rate_pps else 0

        self.fields = Fields(ranges, flows, len(frames))
        if not isinstance(frames, Frames):
            frames = Frames(frames)
        self.memory = _Memory(frames, self.fields, ns)
        self.config: Any = ffi.new(
            "struct generator_config *",
            {
                "order": self.memory.order,
                "frames": self.memory.frames,
                "costs": self.memory.costs,
                "layouts": self.memory.layouts,
                "norder": len(frames),
                "stream": stream,
                "fields": self.fields.pointer if self.fields.nvarying else ffi.NULL,
                "count": count,
                "mean": self.memory.mean,
                "catch_up": catch_up_us * 1000,
            },
        )
        self.state: Any = ffi.new("struct generator_state *")

    @property
    def is_done(self) -> bool:
        """Whether all packets have been sent; never without a count."""
        return bool(0 < self.config.count <= self.sent)

    @property
    def sent(self) -> int:
        """Packets sent of the stream so far."""
        return int(self.state.sent) if self._has_begun else 0

    @property
    def elapsed_ns(self) -> int:
        """How long the stream has been sent at a rate, to its last packet if all are.

        In the worker's time, which may be modelled.
        """
        return int(self.state.since - self.state.begun) if self._has_begun else 0

    @property
    def sending_ns(self) -> float:
        """See `FiniteSource`."""
        state = self.state
        if not self._has_begun:
            return 0
        took = sending_ns(state.last - state.begun, state.before, state.sent)
        return took or float(self.config.mean * state.sent)

    @property
    def _has_begun(self) -> bool:
        """Whether the worker has taken the stream up, and the state is its."""
        return bool(self.state.is_started and self.state.stream == self.config.stream)


@dataclass(frozen=True, slots=True)
class Stream:
    """What a Checker has seen of one stream.

    Attributes:
        packets: with good stamps, duplicates among them.
        bytes: of their frames, without FCS.
        lost: less than the highest number and not seen; late ones take it back.
        duplicated: seen before, or more than 4096 behind the highest.
        reordered: late, not lost.
        expected: one more than the highest number.
    """

    packets: int
    bytes: int
    lost: int
    duplicated: int
    reordered: int
    expected: int


class Checker(App):
    """The end of packets that a Generator made, and of any others; counts both.

                +---------+
        any --->| Checker |
                +---------+

    Up to 64 streams, all inputs together, each counted from number 0. A packet that
    has not come yet is lost when a later one of its stream has; one that comes late
    after all, by up to 4096, is taken off again. Each packet counts in one place only:
    in `streams` or under one of `foreign`, `bad-...`, `unknown-stream`.

    Args:
        verify: all checksums: of IPv4 headers, TCP, UDP, ICMP, ICMPv6, inside IP
            tunnels too. A packet with a wrong one is lost to its stream. Not judged
            are fragments, checksums that the sender left to be finished, what cannot
            be parsed, and UDP over IPv4 without a checksum.

    Counters: `lost`, `duplicated`, `reordered`, of all streams; `foreign` (no stamp;
    ICMP errors too, even if they quote one), `bad-stamp` (damaged, or 2^45 numbers
    ahead), `unknown-stream` (the 65th and later); with `verify` `bad-ip-checksum`,
    `bad-l4-checksum` (UDP whose length is wrong, or TCP cut off in its header, too).
    """

    inputs = Ports(any_number=True)
    counters = (
        "lost",
        "duplicated",
        "reordered",
        "foreign",
        "bad-stamp",
        "unknown-stream",
        "bad-ip-checksum",
        "bad-l4-checksum",
    )
    ops = ffi.addressof(lib.checker_ops)
    reconfigurable = True

    def __init__(self, *, verify: bool = False) -> None:
        self.config: Any = ffi.new("struct checker_config *", {"verify": verify})
        self.state: Any = new_aligned("struct checker_state *")

    @property
    def streams(self) -> dict[int, Stream]:
        """What has been seen, by stream; read while packets come, a little torn."""
        return {
            s.id: Stream(
                s.packets, s.bytes, s.lost, s.duplicated, s.reordered, s.expected
            )
            for s in self.state.streams
            if s.is_used
        }

    @property
    def latency(self) -> list[int]:
        """How many stamped times were how many ns ago, for `engine.histogram`.

        From the begin of the breath in which a packet was made to that of the breath
        in which it was checked: 0 within one.
        """
        return list(self.state.latency)

    @property
    def longest_ns(self) -> int:
        """The longest ago that one of them was, exactly."""
        return int(self.state.longest)


# ---- frames ----------------------------------------------------------------------


def _pick(lengths: Sequence[int], i: int) -> list[int]:
    """Return the i-th combination of indexes: all move on at each step.

    Every combination comes once in as many steps as there are: after as many as two
    have in common both would be where they began, so one of them skips a place then.
    """
    total, picked = 1, []
    for length in lengths:
        # Those so far repeat after `total` steps.
        step = i % (total * length)
        picked.append((step + step // math.lcm(total, length)) % length)
        total *= length
    return picked


def _checksum(data: bytes) -> bytes:
    return int(lib.checksum(data, len(data))).to_bytes(2, "little")


def _ipv4_header(source: int, destination: int, size: int) -> bytes:
    # Don't fragment, and with it any identification (RFC 6864); 64 hops; UDP.
    header = struct.pack(
        ">BBHHHBBHII", 0x45, 0, 20 + size, 0, 0x4000, 64, 17, 0, source, destination
    )
    return header[:10] + _checksum(header) + header[12:]


def _ipv6_header(source: int, destination: int, size: int) -> bytes:
    return struct.pack(">IHBB", 6 << 28, size, 17, 64) + b"".join(
        address.to_bytes(16, "big") for address in (source, destination)
    )


def _udp(addresses: bytes, source: int, destination: int, size: int) -> bytes:
    """Return a UDP packet of `size` bytes, all payload zeros."""
    header = struct.pack(">4H", source, destination, size, 0)
    # Zeros add nothing to the sum; a checksum of zero means "none" (RFC 768).
    checksum = _checksum(addresses + struct.pack(">2H", 17, size) + header)
    if checksum == b"\0\0":
        checksum = b"\xff\xff"
    return (header[:6] + checksum).ljust(size, b"\0")


def udp_frames(  # noqa: PLR0913 - all have defaults
    sizes: int | Sequence[int] | None = None,
    *,
    flows: int = 1,
    ipv6: bool = False,
    vlan: int | None = None,
    src_mac: str = "02:00:00:00:00:01",
    dst_mac: str = "02:00:00:00:00:02",
    src_ip: str | None = None,
    dst_ip: str | None = None,
    src_port: int | str = "49184-65535",
    dst_port: int | str = 7,
    stamp: bool = True,
    timed: bool = False,
    grow: bool = False,
) -> list[Template]:
    """Return UDP frames for a Generator, in the order in which they are to be sent.

    Each flow comes in each size. Addresses and ports are one value or a range,
    "10.0.0.1-10.0.0.254"; from a flow to the next every range moves on, and no two
    flows are the same. Payload is zeros.

    Args:
        sizes: bytes of a frame with FCS, 64 to 10244, or several in the order in which
            they are sent, such as IMIX; default: the least that holds all.
        flows: 1 to 2^20.
        vlan: number of an 802.1Q tag, 0 to 4094; its 4 bytes count in the size.
        ipv6: else IPv4.
        src_mac: default: a locally administered address.
        dst_mac: the same.
        src_ip: default: of the networks that are set aside for testers,
            198.18.0.0/15 (RFC 2544, appendix C) and 2001:2::/48 (RFC 5180, 8).
        dst_ip: the same.
        src_port: default: the dynamic ones (RFC 6335, 6) from 0xc020 on, that of the
            test frames of RFC 2544, C.2.6.4; tcpdump takes 49152 for another protocol.
        dst_port: default: echo, as there.
        stamp: as for Template.
        timed: as for Template.
        grow: a size too small to hold it all becomes the least that does.

    Raises:
        ConfigError: something is out of range, too small, or not an address; the
            ranges do not make so many flows.
    """
    headers = 14 + (4 if vlan is not None else 0) + (40 if ipv6 else 20) + 8
    room = stamp * (24 if timed else 16)
    least = max(LEAST_FRAME, headers + room) + FCS_SIZE
    if sizes is None:
        sizes = least
    sizes = [sizes] if isinstance(sizes, int) else list(sizes)
    if grow:
        sizes = [max(size, least) for size in sizes]
    for size in sizes:
        check_range("size", size, least, lib.PACKET_SMALL_SIZE + FCS_SIZE)
    check_range("number of sizes", len(sizes), 1, 2**20)
    check_range("flows", flows, 1, 2**20)
    check_range("vlan", vlan or 0, 0, 4094)
    if ipv6:
        parse_ip, header = parse_ipv6, _ipv6_header
        src, dst = "2001:2:0:1::1-2001:2:0:1::ffff", "2001:2:0:2::1"
    else:
        parse_ip, header = parse_ipv4, _ipv4_header
        src, dst = "198.18.0.1-198.18.255.254", "198.19.0.1"
    ranges = [
        numbers("src_ip", src_ip or src, parse_ip),
        numbers("dst_ip", dst_ip or dst, parse_ip),
        numbers("src_port", src_port, parse_port),
        numbers("dst_port", dst_port, parse_port),
        numbers("src_mac", src_mac, parse_mac),
        numbers("dst_mac", dst_mac, parse_mac),
    ]
    lengths = [r.stop - r.start for r in ranges]  # len() ends at 2^63
    check_range("flows", flows, 1, math.prod(lengths))
    tag = b"" if vlan is None else struct.pack(">HH", 0x8100, vlan)
    ethertype = b"\x86\xdd" if ipv6 else b"\x08\x00"

    def make(flow: int, size: int) -> Template:
        picked = [r[i] for r, i in zip(ranges, _pick(lengths, flow), strict=True)]
        source, destination, from_port, to_port, from_mac, to_mac = picked
        ethernet = to_mac.to_bytes(6, "big") + from_mac.to_bytes(6, "big")
        payload = size - FCS_SIZE - headers + 8
        ip = header(source, destination, payload)
        udp = _udp(ip[8 if ipv6 else 12 :], from_port, to_port, payload)
        return Template(ethernet + tag + ethertype + ip + udp, stamp, timed)

    # Each flow in each size is made once, though the order may have it often.
    made = {
        size: [make(flow, size) for flow in range(flows)]
        for size in dict.fromkeys(sizes)
    }
    order = [_pick((len(sizes), flows), i) for i in range(len(sizes) * flows)]
    return [made[sizes[k]][flow] for k, flow in order]
