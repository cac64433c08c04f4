"""Options that the programs of `snabb-py packetblaster` share."""

import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import click

from snabb_py.cli.interfaces import PCI_ADDRESS
from snabb_py.cli.options import card_options, engine_options, report_options
from snabb_py.cli.usage import Whole
from snabb_py.engine.app import plain
from snabb_py.errors import ConfigError
from snabb_py.nic.intel82599_config import LINK_MBPS

F = TypeVar("F", bound=Callable[..., Any])

_RATE = re.compile(r"([0-9]*\.?[0-9]+(?:e[0-9]{1,2})?)([kMG]?)(pps|bps)?")
_FACTORS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
#: The least rates: a packet in a quarter of an hour.
LEAST_PPS, LEAST_BPS = 0.001, 1.0
MOST_PPS, MOST_BPS = 1e9, 1e12
#: What the rounding of "14.881Mpps" may add.
TOLERANCE = 1e-4
MAX = "max"
#: What words of interfaces begin with, PCI addresses aside.
KINDS = ("sim", "raw", "tap", "pcap", "xdp", "vhost", "null")


@dataclass(frozen=True)
class Rate:
    """How fast to send.

    Attributes:
        text: what the user called it.
        pps: packets a second; 0: not said so.
        bps: instead: bits a second on the wire, with preamble, FCS and gap.

    Neither: as fast as the network takes packets.
    """

    text: str
    pps: float = 0
    bps: float = 0

    @classmethod
    def of(cls, text: str) -> "Rate":
        """Return what "14.88Mpps", "2Gbps", "1000" or "max" says.

        Raises:
            ConfigError: it says nothing, or a rate that nobody has.
        """
        if text == MAX:
            return cls(text)
        match = _RATE.fullmatch(text)
        if not match:
            raise ConfigError(
                f'--rate: "{text}" is neither packets a second (14.88Mpps), nor bits '
                "a second (2Gbps), nor max"
            )
        value = float(match[1]) * _FACTORS[match[2]]
        is_bits = match[3] == "bps"
        least, most = (LEAST_BPS, MOST_BPS) if is_bits else (LEAST_PPS, MOST_PPS)
        if not least <= value <= most:
            unit = "bps" if is_bits else "pps"
            raise ConfigError(
                f'--rate: "{text}" is not within {plain(least)} to {plain(most)} {unit}'
            )
        return cls(text, bps=value) if is_bits else cls(text, pps=value)

    def __bool__(self) -> bool:
        """Whether there is one."""
        return bool(self.pps or self.bps)

    @property
    def settings(self) -> dict[str, float]:
        """A Generator's, or a Pace's, arguments."""
        if self.bps:
            return {"rate_gbps": self.bps / 1e9}
        return {"rate_pps": self.pps} if self.pps else {}

    def mbps(self, wire_size: float) -> float:
        """Return it in 10^6 bits a second, for packets of so many bytes on the wire."""
        return (self.bps or self.pps * 8 * wire_size) / 1e6

    def check(self, wire_size: float, words: Sequence[str]) -> None:
        """Refuse more than the wire of an interface carries.

        Args:
            wire_size: mean bytes of a packet, with preamble, FCS and gap.
            words: the interfaces.

        Raises:
            ConfigError: it is more.
        """
        if self.mbps(wire_size) <= LINK_MBPS * (1 + TOLERANCE):
            return
        for word in filter(is_card, words):
            most = math.floor(LINK_MBPS * 1e6 / 8 / wire_size / 1e3) / 1e3
            raise ConfigError(
                f'--rate: "{self.text}" is more than the wire of {word} carries: '
                f"10Gbps, which is {most:g}Mpps of these packets"
            )


def is_interface(word: str) -> bool:
    """Return whether a word is an interface's, rather than a file's."""
    kind = word.partition(":")[0].partition(",")[0]
    return kind in KINDS or bool(PCI_ADDRESS.fullmatch(word))


def is_card(word: str) -> bool:
    """Return whether an interface is a card, whose wire has 10 Gb/s."""
    return word.partition(",")[0] == "sim" or bool(PCI_ADDRESS.fullmatch(word))


@dataclass(frozen=True)
class Running:
    """How a program runs and reports, whatever it sends: options of all of them."""

    duration: float | None
    interval: float
    as_json: bool
    cpu: int | None
    sim_cpu: int | None
    busy: bool
    huge_pages: str


def sending_options(rate: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add how fast and how long to send, and the receiver.

    The command gets `rate_text`, `receive`, `ring_size`, and the rest as `running`.

    Args:
        rate: what holds where nothing is said, for the manual.
    """

    def add(program: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(program)
        def command(**options: Any) -> None:
            running = {field.name: options.pop(field.name) for field in fields(Running)}
            program(running=Running(**running), **options)

        for decorate in (
            engine_options,
            report_options,
            card_options,
            click.option(
                "--receive",
                metavar="IF",
                help="Check what arrives here; of a sim its wire is checked anyway.",
            ),
            click.option(
                "--rate",
                "rate_text",
                metavar="RATE",
                help=f"Such as 14.88Mpps, 2Gbps (on the wire) or max; default: {rate}.",
            ),
        ):
            command = decorate(command)
        return command

    return add


def count_option(command: F) -> F:
    """Add how many packets to send."""
    return click.option(
        "--count",
        type=Whole(1, 2**62),
        metavar="N",
        help="Packets to send over each interface; then it ends.",
    )(command)


def parse_sizes(text: str) -> list[int]:
    """Return sizes of frames with FCS, "64" or "64,594,1518".

    Raises:
        ConfigError: they are none.
    """
    sizes = text.split(",")
    if not all(size.isdecimal() and len(size) <= 6 for size in sizes):  # noqa: PLR2004
        raise ConfigError(f'--size: "{text}" is neither bytes nor a list of them')
    return [int(size) for size in sizes]
