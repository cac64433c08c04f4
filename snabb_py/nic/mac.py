"""MAC addresses. Imports errors."""

from typing import Final

from snabb_py.errors import ConfigError

MAC_SIZE: Final = 6


def is_station(mac: bytes) -> bool:
    """Whether an address can be a card's own: no group's, and not all zeros."""
    return len(mac) == MAC_SIZE and not mac[0] & 1 and any(mac)


def check_mac(mac: bytes) -> None:
    """Raise ValueError unless this can be a card's own Ethernet address."""
    if not is_station(mac):
        raise ValueError(f"not the address of a card: {mac.hex(':') or '(nothing)'}")


def parse_mac(text: str, *, group: bool = False) -> bytes:
    """Return the six bytes of "02:00:00:00:00:01".

    Args:
        text: the address.
        group: a multicast address is wanted; else one that a card can have.

    Raises:
        ConfigError: it is none.
    """
    parts = text.replace("-", ":").split(":")
    try:
        mac = bytes(int(part, 16) for part in parts)
    except ValueError:
        mac = b""
    if len(mac) != MAC_SIZE or any(len(part) != 2 for part in parts):  # noqa: PLR2004
        raise ConfigError(
            f'MAC address "{text}": expected six bytes, xx:xx:xx:xx:xx:xx'
        )
    if group and not mac[0] & 1:
        raise ConfigError(f'MAC address "{text}": is not a multicast address')
    if not group and not is_station(mac):
        raise ConfigError(f'MAC address "{text}": a card cannot have it')
    return mac
