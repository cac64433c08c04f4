"""The values of a config: from their text, and what is expected where that fails."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

_MAC: Final = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_DECIMAL: Final = re.compile(r"[0-9]{1,20}")


@dataclass(frozen=True)
class Value:
    """A kind of value.

    Attributes:
        expected: what it is, for errors.
        convert: takes the text; a ValueError says that it is something else.
    """

    expected: str
    convert: Callable[[str], Any]


def _word(words: dict[str, Any], word: str) -> Any:
    if word not in words:
        raise ValueError
    return words[word]


def choice(**words: Any) -> Value:
    """Return the kind of value that is one of a few words."""
    return Value(" or ".join(words), lambda text: _word(words, text))


def uint(low: int, high: int, what: str = "a number") -> Value:
    """Return the kind of value that is a number, decimal and without sign."""

    def convert(text: str) -> int:
        if not _DECIMAL.fullmatch(text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return Value(f"{what}, {low} to {high}", convert)


def number(low: float, what: str) -> Value:
    """Return the kind of value that is a number as Lua writes it: 200, 6e5, 0x10."""

    def convert(text: str) -> float:
        is_hex = text[:2].lower() == "0x"
        value = float(int(text, 16)) if is_hex else float(text)
        if not re.fullmatch(r"[0-9a-fA-FxX.]+", text) or not low <= value < math.inf:
            raise ValueError
        return value

    return Value(what, convert)


def _mac(text: str) -> bytes:
    if not _MAC.fullmatch(text):
        raise ValueError
    return bytes.fromhex(text.replace(":", ""))


def _ipv6(text: str) -> IPv6Address:
    address = IPv6Address(text)
    if address.scope_id:
        raise ValueError
    return address


STRING: Final = Value("a string", str)
IPV4: Final = Value("an IPv4 address", IPv4Address)
IPV6: Final = Value("an IPv6 address", _ipv6)
MAC: Final = Value("a MAC address, six pairs of hexadecimal digits", _mac)
BOOL: Final = choice(true=True, false=False)
VLAN: Final = uint(0, 4094, "a VLAN")
UINT16: Final = uint(0, 2**16 - 1)
UINT32: Final = uint(0, 2**32 - 1)
MTU_IPV4: Final = uint(68, 2**16 - 1, "bytes of an IPv4 packet")  # RFC 791, 3.2
MTU_IPV6: Final = uint(1280, 2**16 - 1, "bytes of an IPv6 packet")  # RFC 8200, 5


def show_mac(mac: bytes) -> str:
    """Return a MAC address as text."""
    return mac.hex(":")
