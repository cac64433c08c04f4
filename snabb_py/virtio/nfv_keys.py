"""The keys of an nfv config and their values: what each may be.

A conversion takes what the file has, lists as lists, and says in a ConfigError what is
wrong with it, the range included; where it stands is for `nfv_config` to add. Imports
apps and errors.
"""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from snabb_py.engine.app import plain
from snabb_py.engine.bpf import compile_expression
from snabb_py.errors import ConfigError

VLAN_MAX: Final = 4094
ID_MAX: Final = 48  #: characters; an app's name has 63, and more in it than the id
MTU_MIN, MTU_MAX = 68, 9706  #: bytes behind the Ethernet header
QUEUES_MAX: Final = 16
POLICE_MAX: Final = 1000  #: Gb/s
BURST_MIN: Final = 128 * 1024  #: bytes: a super-frame of segmentation offload fits
BURST_MAX: Final = 2**40


def show(value: object) -> str:
    """Return a value as the user wrote it, about."""
    if isinstance(value, dict | list):
        return "a table"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else f"{value}"


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"expected true or false, not {show(value)}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"expected a string, not {show(value)}")
    if re.search(r"[\ud800-\udfff]", value):  # JSON's "\ud800"
        raise ConfigError(f"{value!r} has half a character in it")
    return value


def _number(value: object, low: float, high: float, unit: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(
            f"expected a number, {plain(low)} to {plain(high)}{unit}, not {show(value)}"
        )
    if isinstance(value, int) and abs(value) > 10**18:
        raise ConfigError(
            f"the number is not within {plain(low)} to {plain(high)}{unit}"
        )
    if not low <= value <= high:
        raise ConfigError(
            f"{plain(value)} is not within {plain(low)} to {plain(high)}{unit}"
        )
    return value


def _whole(low: int, high: int, unit: str = "") -> Callable[[object], int]:
    def convert(value: object) -> int:
        number = _number(value, low, high, unit)
        if number != int(number):
            raise ConfigError(f"expected a whole number, not {plain(number)}")
        return int(number)

    return convert


def _gbps(value: object) -> float:
    number = float(_number(value, 0, POLICE_MAX, " Gb/s"))
    if number == 0:
        raise ConfigError(
            "0 would let nothing pass; leave the key out for no limit, or state more "
            f"than 0, up to {POLICE_MAX} Gb/s"
        )
    return number


def _port_id(value: object) -> str:
    text = _text(value)
    if not 0 < len(text) <= ID_MAX:
        raise ConfigError(f"{len(text)} characters are not within 1 to {ID_MAX}")
    if "/" in text or text in {".", ".."}:
        raise ConfigError(f'"{text}" would lead out of the directory of the sockets')
    if not text.isprintable():
        raise ConfigError(f"{text!r}: has characters that cannot be printed")
    return text


def _mac(value: object) -> str:
    text = _text(value).lower().replace("-", ":")
    if not re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", text):
        raise ConfigError(
            f'"{value}" is no MAC address; expected six bytes, xx:xx:xx:xx:xx:xx'
        )
    if text == "00:00:00:00:00:00":
        raise ConfigError(f'"{value}" is nobody\'s MAC address')
    return text


def _macs(value: object) -> tuple[str, ...]:
    macs = tuple(map(_mac, value if isinstance(value, list) else [value]))
    if len(set(macs)) < len(macs):
        raise ConfigError("an address is there twice")
    return macs


def _vlan(value: object) -> int | None:
    """Return the number; 0 is what Snabb's users write for none."""
    return _whole(0, VLAN_MAX)(value) or None


def _trunk(value: object) -> tuple[int, ...]:
    vlans: set[int] = set()
    items = value if isinstance(value, list) else [value]
    if len(items) > VLAN_MAX:
        raise ConfigError(f"{len(items)} items, and there are {VLAN_MAX} VLANs")
    for item in items:
        text = item if isinstance(item, str) else ""
        match = re.fullmatch(r"\s*(\d{1,9})\s*-\s*(\d{1,9})\s*", text, re.ASCII)
        ends = [int(match[1]), int(match[2])] if match else [item, item]
        low, high = map(_whole(1, VLAN_MAX), ends)
        if low > high:
            raise ConfigError(f"{low}-{high}: begins behind its end")
        vlans.update(range(low, high + 1))
    return tuple(sorted(vlans))


def _filter(value: object) -> str:
    text = _text(value).strip()
    if text:
        compile_expression(text)
    return text


def _path(value: object) -> str:
    text = _text(value)
    if not text or "\0" in text:
        raise ConfigError(f"{text!r} is no path of a file")
    return text


@dataclass(frozen=True)
class Key:
    """A key of the file: the field that it sets and how its value is read."""

    field: str
    convert: Callable[[Any], Any]
    replacement: str = ""  #: of a deprecated one


_burst = _whole(BURST_MIN, BURST_MAX, " bytes")

KEYS: Final = {
    "port_id": Key("port_id", _port_id),
    "mac_address": Key("macs", _macs),
    "vlan": Key("vlan", _vlan),
    "trunk": Key("trunk", _trunk),
    "ingress_filter": Key("ingress_filter", _filter),
    "egress_filter": Key("egress_filter", _filter),
    "stateful_filter": Key("stateful_filter", _boolean),
    "rx_police": Key("rx_police", _gbps),
    "tx_police": Key("tx_police", _gbps),
    "rx_police_burst": Key("rx_police_burst", _burst),
    "tx_police_burst": Key("tx_police_burst", _burst),
    "disable_mrg_rxbuf": Key("disable_mrg_rxbuf", _boolean),
    "disable_indirect_desc": Key("disable_indirect_desc", _boolean),
    "server": Key("server", _boolean),
    "mtu": Key("mtu", _whole(MTU_MIN, MTU_MAX, " bytes")),
    "queues": Key("queues", _whole(1, QUEUES_MAX)),
    "mirror": Key("mirror", _path),
    "rx_police_gbps": Key("rx_police", _gbps, "rx_police"),
    "tx_police_gbps": Key("tx_police", _gbps, "tx_police"),
}

#: Keys of Snabb that we do not have; what each would do cannot be left out silently.
REFUSED: Final = {
    "tunnel": "L2TPv3 tunnels are not there yet",
    "crypto": "encryption is not there yet",
}

#: Keys that Snabb itself takes and never looks at.
IGNORED: Final = {"gbps": "rx_police and tx_police limit a rate"}

#: Names that come to mind and are unlike the right ones.
ALIASES: Final = {
    "id": "port_id",
    "name": "port_id",
    "mac": "mac_address",
    "macs": "mac_address",
    "vlans": "trunk",
    "rx_rate": "rx_police",
    "tx_rate": "tx_police",
    "pcap": "mirror",
    "capture": "mirror",
}


def find_key(name: str) -> tuple[Key | None, str]:
    """Return the key of a name, None for one to be left out, and a warning or "".

    Raises:
        ConfigError: there is no such key; the text says which one is meant.
    """
    if key := KEYS.get(name):
        odd = f"is deprecated; write {key.replacement}" if key.replacement else ""
        return key, odd
    if name in IGNORED:
        return None, f"is ignored, as in Snabb; {IGNORED[name]}"
    if name in REFUSED:
        return Key(name, _refuse(name)), ""
    close = difflib.get_close_matches(name.lower().replace("-", "_"), KEYS, n=1)
    best = ALIASES.get(name.lower()) or (close[0] if close else "")
    if best:
        raise ConfigError(f"unknown key; did you mean {best}?")
    known = ", ".join(key for key in KEYS if not KEYS[key].replacement)
    raise ConfigError(f"unknown key; there are {known}")


def _refuse(name: str) -> Callable[[object], None]:
    def convert(_value: object) -> None:
        raise ConfigError(REFUSED[name])

    return convert
