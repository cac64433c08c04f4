"""The binding table: which B4 is behind an IPv4 address and a port.

Built in binding_build.c without the GIL and immutable from then on: workers read it
without a lock, and a changed one replaces it whole. Imports errors.
"""

import random
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple, NoReturn

from snabb_py._native import ffi, lib
from snabb_py.errors import ConfigError

Range = tuple[IPv4Address, IPv4Address]  #: first and last


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


class Difference(NamedTuple):
    """What makes one table out of another: softwires, by address and PSID.

    Attributes:
        added, removed, changed: how many of them.
        is_managed: other addresses without softwires are managed, too.
    """

    added: int = 0
    removed: int = 0
    changed: int = 0
    is_managed: bool = False


class BindingTable:
    """Softwires, and the addresses that are managed without any.

    Args:
        softwires: in any order; no two have the same ipv4 and psid.
        managed: ranges of addresses that are ours even where there are no softwires.
        compat: as Snabb has it: the first softwire of an address says how its ports
            are divided, and reserved ports are those below 2 ** their bit count.
        seed: of the hashes; default: a random one.

    Attributes:
        table: `struct binding_table *`, valid as long as this object lives.

    Raises:
        ConfigError: two softwires contradict each other, or one cannot be.
    """

    def __init__(
        self,
        softwires: Iterable[Softwire] = (),
        managed: Iterable[Range] = (),
        *,
        compat: bool = False,
        seed: int | None = None,
    ) -> None:
        entries = new_list()
        error = ffi.new("struct text_error *")
        entry = ffi.new("struct softwire_entry *")
        for entry.at, s in enumerate(softwires):
            entry.softwire.ipv4 = int(s.ipv4)
            entry.softwire.psid = s.psid
            entry.softwire.b4 = s.b4.packed
            entry.psid_length = s.psid_length
            entry.reserved = s.reserved_ports_bit_count
            if lib.softwires_add(entries, entry, s.br.packed, error):
                _fail(error)
        new_range = ffi.new("struct softwire_range *")
        new_range.psid_length = lib.SOFTWIRES_NO_PSID_LENGTH
        for new_range.at, (first, last) in enumerate(managed):
            new_range.first, new_range.last = int(first), int(last)
            if lib.softwires_add_range(entries, new_range, error):
                _fail(error)
        self.table: Any = build(entries, _fail, compat=compat, seed=seed)

    @classmethod
    def of(
        cls,
        entries: Any,
        fail: Callable[[Any], NoReturn],
        *,
        own: Collection[IPv6Address] = (),
        compat: bool,
    ) -> "BindingTable":
        """Return the table of a `struct softwire_list *`; see `build`."""
        self = cls.__new__(cls)
        self.table = build(entries, fail, own=own, compat=compat)
        return self

    def __len__(self) -> int:
        """Return how many softwires there are."""
        return int(self.table.nsoftwires)

    def __iter__(self) -> Iterator[Softwire]:
        """Yield the softwires, by address and PSID."""
        entries = ffi.new("struct softwire_entry[]", len(self))
        lib.binding_table_entries(self.table, entries)
        for entry in entries:
            yield self._of_entry(entry)

    def sample(self, n: int) -> list[Softwire]:
        """Return n softwires, or all: from everywhere, shuffled, always the same."""
        entries = ffi.new("struct softwire_entry[]", len(self))
        lib.binding_table_entries(self.table, entries)
        numbers = range(len(self))
        chosen = random.Random(n).sample(numbers, min(n, len(self)))  # noqa: S311
        return [self._of_entry(entries[i]) for i in chosen]

    def __eq__(self, other: object) -> bool:
        """Return whether another table says the same, in whatever order it was told."""
        if not isinstance(other, BindingTable):
            return NotImplemented
        return self.difference(other) == Difference()

    __hash__ = None  # type: ignore[assignment]  # equal ones would have to be read whole

    def difference(self, after: "BindingTable") -> Difference:
        """Return what makes another table out of this one."""
        found = lib.binding_table_compare(self.table, after.table)
        return Difference(found.added, found.removed, found.changed, found.is_managed)

    @property
    def managed(self) -> list[Range]:
        """The ranges that are ours with softwires or without."""
        ranges = self.table.ranges[0 : self.table.nranges]
        return [(IPv4Address(r.first), IPv4Address(r.last)) for r in ranges]

    @property
    def br_addresses(self) -> set[IPv6Address]:
        """Our ends of all tunnels."""
        return {self._br(i) for i in range(self.table.nbr)}

    def find(self, ipv4: IPv4Address, port: int) -> Softwire | None:
        """Return the softwire that an address and port belong to."""
        found = lib.binding_table_find(self.table, int(ipv4), port)
        if not found:
            return None
        a = lib.binding_table_address(self.table, int(ipv4))
        reserved = 16 - a.psid_length - a.shift
        return self._softwire(found, a.psid_length, reserved)

    def is_managed(self, ipv4: IPv4Address) -> bool:
        """Return whether an address is behind us, whatever the port."""
        return bool(lib.binding_table_has_address(self.table, int(ipv4)))

    def _br(self, i: int) -> IPv6Address:
        return IPv6Address(bytes(self.table.br[i]))

    def _of_entry(self, entry: Any) -> Softwire:
        return self._softwire(entry.softwire, entry.psid_length, entry.reserved)

    def _softwire(self, s: Any, psid_length: int, reserved: int) -> Softwire:
        b4 = IPv6Address(bytes(s.b4))
        ipv4 = IPv4Address(s.ipv4)
        return Softwire(ipv4, s.psid, b4, self._br(s.br), psid_length, reserved)


def new_list() -> Any:
    """Return an empty `struct softwire_list *`."""
    entries = lib.softwires_new()
    if not entries:
        raise MemoryError
    return ffi.gc(entries, lib.softwires_free)


def build(
    entries: Any,
    fail: Callable[[Any], NoReturn],
    *,
    own: Collection[IPv6Address] = (),
    compat: bool = False,
    seed: int | None = None,
) -> Any:
    """Return the `struct binding_table *` of a `struct softwire_list *`.

    Args:
        entries: the list; not needed any more.
        fail: is called with a `struct text_error` if they contradict each other, or
            one cannot be.
        own: addresses of our interfaces, where no B4 can be.
        compat: see BindingTable.
        seed: of the hashes; default: a random one.
    """
    error = ffi.new("struct text_error *")
    addresses = ffi.new("uint8_t[][16]", [address.packed for address in own])
    entries.own, entries.nown = addresses, len(own)
    number = secrets.randbits(64) if seed is None else seed
    table = lib.binding_table_build(entries, compat, number, error)
    if not table:
        fail(error)
    return ffi.gc(table, lib.binding_table_free, table.memory)


def _fail(error: Any) -> NoReturn:
    if error.kind == lib.TEXT_NO_MEMORY:
        raise MemoryError
    raise ConfigError(ffi.string(error.message).decode())
