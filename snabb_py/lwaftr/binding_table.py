"""The binding table: which B4 is behind an IPv4 address and a port.

Built in binding_table.c without the GIL and immutable from then on: workers read it
without a lock, and a changed one replaces it whole. Imports errors.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple


class Softwire(NamedTuple):
    """A tunnel to a B4, and the ports that go through it (RFC 7597, 5.1).

    Attributes:
        ipv4: the address that the B4 has, shared with others if psid_length > 0.
        psid: which part of the ports it has; below 2 ** psid_length.
        b4: the tunnel's other end.
        br: our end.
        psid_length: bits of a port that tell the PSID, the same for all of an address.
        reserved_ports_bit_count: bits before them (RFC 7597: a, the PSID offset);
            ports in which they are all 0 are nobody's.
    """

    ipv4: IPv4Address
    psid: int
    b4: IPv6Address
    br: IPv6Address
    psid_length: int = 0
    reserved_ports_bit_count: int = 0


class BindingTable:
    """Softwires, and the addresses that are managed without any.

    Args:
        softwires: in any order; no two have the same ipv4 and psid.
        managed: first and last of ranges of addresses that are ours even where there
            are no softwires.
        compat: as Snabb has it: the first softwire of an address says how its ports
            are divided, and reserved ports are those below 2 ** their bit count.
        seed: of the hashes; default: a random one.

    Attributes:
        table: `struct binding_table *`, valid as long as this object lives.

    Raises:
        ConfigError: two softwires contradict each other.
    """

    table: Any

    def __init__(
        self,
        softwires: Iterable[Softwire] = (),
        managed: Iterable[tuple[IPv4Address, IPv4Address]] = (),
        *,
        compat: bool = False,
        seed: int | None = None,
    ) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        """Return how many softwires there are."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Softwire]:
        """Yield the softwires, by address and PSID."""
        raise NotImplementedError

    def find(self, ipv4: IPv4Address, port: int) -> Softwire | None:
        """Return the softwire that an address and port belong to."""
        raise NotImplementedError

    def is_managed(self, ipv4: IPv4Address) -> bool:
        """Return whether an address is behind us, whatever the port."""
        raise NotImplementedError
