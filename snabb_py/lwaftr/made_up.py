"""Binding tables of any size, made up: for tests, benchmarks and trials."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from snabb_py.lwaftr.binding_table import Softwire

_CONFIG = """\
softwire-config {{
  instance {{
    device {device};
    queue {{
      id 0;
      external-interface {{
        ip 10.10.10.10; mac 02:00:00:00:00:04; next-hop {{ mac 02:00:00:00:01:04; }}
      }}
      internal-interface {{
        ip {br}; mac 02:00:00:00:00:06; next-hop {{ mac 02:00:00:00:01:06; }}
      }}
    }}
  }}
  external-interface {{ mtu 1500; }}
  internal-interface {{ mtu 1540; }}
  binding-table {{
{softwires}  }}
}}
"""

_IPV4: Final = IPv4Address("193.5.1.0")
_B4: Final = IPv6Address("fc00:1:2:3::")
_BR: Final = IPv6Address("fc00::100")


@dataclass(frozen=True)
class MadeUpTable:
    """A table in which each of some addresses has all its softwires.

    Attributes:
        naddresses: IPv4 addresses, from `ipv4` on.
        psid_length: each has 2 ** psid_length softwires.
        reserved_ports_bit_count: bits of a port before the PSID.
        b4: before the first B4; its last 32 bits count the softwires, from 0.
        br: our end of all.
    """

    naddresses: int
    psid_length: int = 6
    reserved_ports_bit_count: int = 0
    ipv4: IPv4Address = _IPV4
    b4: IPv6Address = _B4
    br: IPv6Address = _BR

    def softwires(self) -> Iterator[Softwire]:
        """Yield them, by address and PSID."""
        for i in range(self.naddresses << self.psid_length):
            yield Softwire(
                self.ipv4 + (i >> self.psid_length),
                i & ((1 << self.psid_length) - 1),
                self.b4 + i,
                self.br,
                self.psid_length,
                self.reserved_ports_bit_count,
            )

    def statements(self, device: str = "test") -> str:
        """Return a whole config in snabb-softwire v3 with this table."""
        ports = (
            f"psid-length {self.psid_length}; "
            f"reserved-ports-bit-count {self.reserved_ports_bit_count};"
        )
        rest = f"br-address {self.br}; port-set {{ {ports} }} }}\n"
        softwires = "".join(
            f"    softwire {{ ipv4 {ipv4}; psid {psid}; b4-ipv6 {b4}; {rest}"
            for ipv4, psid, b4 in self._texts()
        )
        return _CONFIG.format(device=device, br=self.br, softwires=softwires)

    def properties(self) -> str:
        """Return this table in the old format, which knows no reserved ports."""
        last = self.ipv4 + (self.naddresses - 1)
        softwires = "".join(
            f"  {{ ipv4={ipv4}, psid={psid}, b4={b4} }}\n"
            for ipv4, psid, b4 in self._texts()
        )
        return (
            f"psid_map {{\n  {self.ipv4}-{last} {{ psid_length={self.psid_length} }}\n"
            f"}}\nbr_addresses {{\n  {self.br}\n}}\nsoftwires {{\n{softwires}}}\n"
        )

    def _texts(self) -> Iterator[tuple[str, int, str]]:
        """Yield address, PSID and B4; quicker than `softwires` and str()."""
        groups = self.b4.exploded.split(":")[:6]
        prefix = ":".join(group.lstrip("0") or "0" for group in groups)
        i = 0
        for address in range(self.naddresses):
            ipv4 = str(self.ipv4 + address)
            for psid in range(1 << self.psid_length):
                yield ipv4, psid, f"{prefix}:{i >> 16:x}:{i & 0xFFFF:x}"
                i += 1
