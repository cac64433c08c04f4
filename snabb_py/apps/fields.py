"""Header fields that vary from packet to packet, for a Generator.

    Generator(frames, ranges=[Range.of("src_ip", "198.51.100.0/24")])

The work is done at the packet, in fields.c, checksums included; here it is said what is
to vary, and found where that lies in a frame. fields_abi.h says in which order.
"""

import ipaddress
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from snabb_py._native import ffi, lib
from snabb_py.engine.app import check_range
from snabb_py.errors import ConfigError

#: What can vary, in the order of the C enum: always in the outermost such header.
NAMES = ("dst_mac", "src_mac", "vlan", "src_ip", "dst_ip", "src_port", "dst_port")
#: What a frame lacks that has no such field.
LACKING = {
    "vlan": "VLAN tag",
    "src_ip": "IP header",
    "dst_ip": "IP header",
    "src_port": "TCP or UDP header",
    "dst_port": "TCP or UDP header",
}
IPV4, IPV6 = 4, 6
IPV6_HALF = 64  # bits of an address that count
VLANS = 4095  # the last number is reserved (802.1Q, table 9-2)
MOST_FLOWS = 2**48

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)


def parse_mac(text: str) -> int:
    """Return a MAC address as a number; ValueError: it is none."""
    if not _MAC.fullmatch(text):
        raise ValueError
    return int(text.replace(":", ""), 16)


def parse_ipv4(text: str) -> int:
    """Return an IPv4 address as a number; ValueError: it is none."""
    return int(ipaddress.IPv4Address(text))


def parse_ipv6(text: str) -> int:
    """Return an IPv6 address as a number; ValueError: it is none."""
    return int(ipaddress.IPv6Address(text))


def parse_port(text: str) -> int:
    """Return a port; ValueError: it is none."""
    port = int(text)
    if not 0 <= port <= 65535:  # noqa: PLR2004 - 16 bits
        raise ValueError
    return port


def _parse_vlan(text: str) -> int:
    vlan = int(text)
    if not 0 <= vlan < VLANS:
        raise ValueError
    return vlan


#: What each of them reads.
_KINDS: dict[Callable[[str], int], str] = {
    parse_mac: "a MAC address",
    parse_ipv4: "an IPv4 address",
    parse_ipv6: "an IPv6 address",
    parse_port: "a port, 0 to 65535,",
    _parse_vlan: f"a VLAN, 0 to {VLANS - 1},",
}


def numbers(name: str, value: str | int, parse: Callable[[str], int]) -> range:
    """Return what "first-last", or one value, stands for.

    Raises:
        ConfigError: it is neither.
    """
    first, dash, last = str(value).partition("-")
    try:
        low, high = parse(first), parse(last if dash else first)
    except ValueError:
        kind = _KINDS[parse]
        raise ConfigError(
            f'{name}: "{value}" is neither {kind} nor FIRST-LAST'
        ) from None
    if low > high:
        raise _backwards(name, value)
    return range(low, high + 1)


def _backwards(name: str, value: str | int) -> ConfigError:
    first, _, last = str(value).partition("-")
    return ConfigError(f'{name}: "{value}" is LAST-FIRST: say {last}-{first}')


_PARSERS = {
    "mac": parse_mac,
    "vlan": _parse_vlan,
    "port": parse_port,
}


@dataclass(frozen=True, slots=True)
class Range:
    """The values of a header field, from the first one on.

    Attributes:
        name: of `NAMES`.
        first: the least; MAC and IP addresses as numbers.
        n: how many; 1: the field is set and does not vary.
        version: of the Internet Protocol, where it is of addresses; else 0.
    """

    name: str
    first: int
    n: int = 1
    version: int = 0

    def __post_init__(self) -> None:
        """Check.

        Raises:
            ConfigError: of IPv6 addresses more than the lower half would vary.
        """
        last = self.first + self.n - 1
        if self.version == IPV6 and self.first >> IPV6_HALF != last >> IPV6_HALF:
            raise ConfigError(
                f"{self.name}: only the lower 64 bits of IPv6 addresses vary"
            )

    @property
    def size(self) -> int:
        """Bytes that vary."""
        if self.version:
            return 4 if self.version == IPV4 else 8
        return 6 if self.name.endswith("mac") else 2

    @property
    def sums(self) -> int:
        """Checksums that cover them."""
        if self.version == IPV4:
            return int(lib.FIELD_IN_IP_SUM | lib.FIELD_IN_L4_SUM)
        has_sum = self.version or self.name.endswith("port")
        return int(lib.FIELD_IN_L4_SUM) if has_sum else 0

    @classmethod
    def of(cls, name: str, text: str | int) -> Self:
        """Return what a text says: a value, FIRST-LAST or a prefix of addresses.

        Raises:
            ConfigError: it says nothing of the kind.
        """
        kind = name.rpartition("_")[2]
        if kind != "ip":
            found = numbers(name, text, _PARSERS[kind])
            return cls(name, found[0], len(found))
        try:
            first, dash, last = str(text).partition("-")
            if dash:
                ends = [ipaddress.ip_address(first), ipaddress.ip_address(last)]
            else:
                network = ipaddress.ip_network(first)
                ends = [network[0], network[-1]]
        except ValueError:
            ends = []
        if not ends or ends[0].version != ends[1].version:
            raise ConfigError(
                f'{name}: "{text}" is neither an address, nor FIRST-LAST, nor a prefix'
            )
        if int(ends[0]) > int(ends[1]):
            raise _backwards(name, text)
        version = ends[0].version
        return cls(name, int(ends[0]), int(ends[1]) - int(ends[0]) + 1, version)


class Fields:
    """What varies in a Generator's packets, as C has it.

    Args:
        ranges: each of another field.
        flows: packets until all begins anew; 0: as many as there are combinations.
        ntemplates: that take turns.

    Attributes:
        pointer: `struct fields *`.

    Raises:
        ConfigError: two are of one field; they do not make so many flows.
    """

    def __init__(self, ranges: Sequence[Range], flows: int, ntemplates: int) -> None:
        if len({r.name for r in ranges}) < len(ranges):
            raise ConfigError("ranges: two are of the same field")
        self._fixed = [r for r in ranges if r.n == 1]
        self._varying = [r for r in ranges if r.n > 1]
        most = min(math.prod(r.n for r in ranges), MOST_FLOWS)
        check_range("flows", flows, 0, most)
        total, described = 1, []
        for r in self._varying:
            cycle = _cycle(total, r.n)
            first = r.first & (1 << IPV6_HALF) - 1
            described.append(
                {"cycle": cycle, "first": first, "size": r.size, "sums": r.sums}
            )
            total *= r.n
        self.pointer: Any = ffi.new(
            "struct fields *",
            {
                "flows": _cycle(ntemplates, flows or most),
                "ranges": described,
                "nranges": len(described),
            },
        )

    def __bool__(self) -> bool:
        """Whether any field was asked for."""
        return bool(self._fixed or self._varying)

    @property
    def nvarying(self) -> int:
        """How many ranges vary; the first places of a layout are theirs."""
        return len(self._varying)

    def set(self, frame: bytes) -> tuple[bytes, Any]:
        """Return a frame as it is in the first flow, and where its fields lie.

        The second is a `struct field_layout *`.

        Raises:
            ConfigError: it lacks one.
        """
        data: Any = ffi.new("uint8_t[]", frame)
        layout: Any = ffi.new("struct field_layout *")
        for i, r in enumerate([*self._varying, *self._fixed]):
            place = ffi.new("struct field_place *")
            kind = NAMES.index(r.name)
            if lib.fields_find(data, len(frame), kind, place):
                raise ConfigError(f"{r.name}: the packet has no {LACKING[r.name]}")
            if (place.size, place.sums) != (r.size, r.sums):
                raise ConfigError(f"{r.name}: the packet is not IPv{r.version}")
            width = 16 if r.version == IPV6 else r.size
            value = r.first.to_bytes(width, "big")
            ffi.memmove(data + place.offset + r.size - width, value, width)
            if i < len(self._varying):
                layout.places[i] = place[0]
        lib.fields_lay_out(data, len(frame), len(self._varying), layout)
        lib.fields_begin(self.pointer, layout, data)
        return bytes(ffi.buffer(data, len(frame))), layout

    def note_places(self, layouts: Sequence[Any]) -> None:
        """Note whether all frames have them in the same places: that is quicker."""
        places = {_places(layout) for layout in layouts}
        self.pointer.is_uniform = len(places) == 1


def _places(layout: Any) -> tuple[Any, ...]:
    offsets = (layout.ip_checksum, layout.l4_checksum, layout.is_udp)
    return (*offsets, *(place.offset for place in layout.places))


def _cycle(before: int, n: int) -> dict[str, int]:
    """Return `struct field_cycle` of what goes round beside `before` combinations."""
    most = 2**64 - 1  # more steps than anybody takes
    return {
        "n": min(n, most),
        "period": min(math.lcm(before, n), most),
        "rounds": math.gcd(before, n),
    }
