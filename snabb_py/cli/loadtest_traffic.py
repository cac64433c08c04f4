"""What a load test sends, and its rates: packets, bits of frames, bits on the wire.

Imports apps and the words of `card_wires`.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from snabb_py._native import lib
from snabb_py.apps.basic import WIRE_OVERHEAD
from snabb_py.apps.traffic import FCS_SIZE, Template
from snabb_py.cli.card_wires import make_frames
from snabb_py.cli.usage import as_option
from snabb_py.errors import ConfigError

RATE = re.compile(r"([0-9]*\.?[0-9]+(?:e[0-9]{1,3})?)([kMG]?)(pps|bps)?")
FACTORS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
#: What bits a second count, beside those of the frame without FCS.
OVERHEADS = {"wire": WIRE_OVERHEAD, "frame": FCS_SIZE}
#: Most that a generator can be asked for.
MOST_PPS, MOST_GBPS = 1e9, 1000
#: On the wire, where no rate is given.
LINE_GBPS = 10
#: Two stations: locally administered addresses,
STATIONS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
#: networks set aside for testers by IP version (RFC 2544, C.2.2; RFC 5180, 8), as many
#: hosts at the first one as make flows,
NETWORKS = {
    "4": ("198.18.0.1-198.18.255.254", "198.19.0.1"),
    "6": ("2001:2:0:1::1-2001:2:0:1::ffff", "2001:2:0:2::1"),
}
#: and UDP ports (RFC 2544, C.2.6.4): of the dynamic ones (RFC 6335, 6) from 0xc020 on,
#: echo.
PORTS = ("49184-65535", "7")


@dataclass(frozen=True)
class Rate:
    """A rate as the user gave it: packets or bits a second.

    Attributes:
        text: the user's.
        value: of either.
        is_bits: which.
        option: that it was given with.
    """

    text: str
    value: float
    is_bits: bool
    option: str = "rate"


def parse_rate(text: str) -> Rate:
    """Return a rate: "14.88Mpps", "500kpps", "500", "2.5Gbps", "100Mbps".

    Raises:
        ValueError: it is none, or 0.
    """
    match = RATE.fullmatch(text)
    value = float(match[1]) * FACTORS[match[2]] if match else 0
    if not match or not 0 < value < math.inf:
        raise ValueError(
            f'"{text}" is no rate above 0 in pps or bps, such as 14.88Mpps or 2.5Gbps'
        )
    return Rate(text, value, match[3] == "bps")


@dataclass(frozen=True)
class Traffic:
    """The frames of one direction, in the order in which they are sent.

    Attributes:
        frames: for a Generator.
        unit: what bits a second count, see `OVERHEADS`.
    """

    frames: Sequence[Template]
    unit: str = "wire"

    @property
    def bits(self) -> float:
        """Bits of a frame in the unit, the mean of all."""
        return self._mean(OVERHEADS[self.unit])

    def _mean(self, overhead: int) -> float:
        size = sum(t.wire_size - WIRE_OVERHEAD + overhead for t in self.frames)
        return 8 * size / len(self.frames)

    def pps(self, rate: Rate | None) -> float:
        """Return packets a second; without a rate, those of `LINE_GBPS`.

        Raises:
            ConfigError: they are more than can be asked for.
        """
        if rate is None:
            return LINE_GBPS / self.wire_gbps(1)
        pps = rate.value / self.bits if rate.is_bits else rate.value
        if pps > MOST_PPS or self.wire_gbps(pps) > MOST_GBPS:
            raise ConfigError(
                f'{rate.option}: "{rate.text}" is more than {MOST_PPS / 1e6:g} Mpps '
                f"or {MOST_GBPS} Gbps"
            )
        return pps

    def gbps(self, pps: float) -> float:
        """Return 10^9 bits a second in the unit."""
        return pps * self.bits / 1e9

    def wire_gbps(self, pps: float) -> float:
        """Return 10^9 bits a second on the wire, as a Generator wants it."""
        return pps * self._mean(WIRE_OVERHEAD) / 1e9

    def timed(self) -> "Traffic":
        """Return the same frames with the time in all that have room for it."""
        return replace(self, frames=[_timed(frame) for frame in self.frames])


def _timed(template: Template) -> Template:
    end = template.stamp_end
    if any(template.frame[end - lib.TRAFFIC_TIMED_STAMP_SIZE : end]):
        return template
    return replace(template, timed=True)


@dataclass(frozen=True)
class TrafficOptions:
    """What the user said of the frames; words as in `card_wires` and `udp_frames`.

    Attributes:
        src_mac, dst_mac, src_ip, dst_ip: "": as `STATIONS` and `NETWORKS` have them.
        capture: frames instead of those that the others describe; the same in all
            directions.
        unit: what bits a second count, see `OVERHEADS`.
    """

    size: str = ""
    flows: str = "16"
    vlan: str = ""
    ip: str = "4"
    src_mac: str = ""
    dst_mac: str = ""
    src_ip: str = ""
    dst_ip: str = ""
    capture: Sequence[Template] = ()
    unit: str = "wire"

    def make(self, mac: bytes | None = None, *, is_reverse: bool = False) -> Traffic:
        """Return the traffic of a direction.

        Args:
            mac: of who receives it, whatever the user said.
            is_reverse: it is the answer to another direction: source and destination
                change places.

        Raises:
            ConfigError: an option is wrong.
        """
        if self.capture:
            return Traffic(self.capture, self.unit)
        words = {name: getattr(self, name) for name in ("size", "flows", "vlan", "ip")}
        networks = NETWORKS.get(self.ip, ("", ""))
        ends = [
            {
                "mac": self.src_mac or STATIONS[0],
                "ip": self.src_ip or networks[0],
                "port": PORTS[0],
            },
            {
                "mac": self.dst_mac or STATIONS[1],
                "ip": self.dst_ip or networks[1],
                "port": PORTS[1],
            },
        ]
        if is_reverse:
            ends.reverse()
        if mac:
            ends[1]["mac"] = mac.hex(":")
        source, target = (
            {f"{side}_{name}": value for name, value in end.items()}
            for side, end in zip(("src", "dst"), ends, strict=True)
        )
        try:
            return Traffic(make_frames(words, **source, **target), self.unit)
        except (ConfigError, ValueError) as error:
            names = [field.name for field in fields(self)]
            raise ConfigError(as_option(str(error), names)) from None
