"""The binding table against a dict, texts against what they were made of."""

import re
import tempfile
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snabb_py._native import ffi, lib
from snabb_py.errors import ConfigError, DeviceError
from snabb_py.lwaftr import conf
from snabb_py.lwaftr.binding_table import BindingTable, Difference, Softwire
from snabb_py.lwaftr.conf_types import (
    ErrorRateLimiting,
    ExternalInterface,
    Instance,
    InternalInterface,
    LwaftrConfig,
    Queue,
    QueueInterface,
    Reassembly,
)
from snabb_py.lwaftr.conf_write import write, write_table
from snabb_py.lwaftr.made_up import MadeUpTable

IPV4 = st.one_of(
    st.integers(0, 40).map(IPv4Address),  # many of the same /16, and 0.0.0.0
    st.integers(0, 2**32 - 1).map(IPv4Address),
)
#: What a softwire may have: an address of a host (many of the same /16), and a B4.
MARTIANS = (0, 127, *range(224, 256))
HOSTS = st.one_of(
    st.integers(0, 40).map(lambda n: IPv4Address(10 << 24 | n)),
    st.integers(1 << 24, (127 << 24) - 1).map(IPv4Address),
    st.integers(128 << 24, (224 << 24) - 1).map(IPv4Address),
)
B4S = st.integers(0, 2**96 - 1).map(lambda n: IPv6Address(0x20010DB9 << 96 | n))
IPV6 = st.integers(0, 2**128 - 1).map(IPv6Address)
BRS = st.sampled_from([IPv6Address("2001:db8::aaaa"), IPv6Address("2001:db8::bbbb")])
PORTS = st.integers(0, 65535)


@st.composite
def softwires(draw: st.DrawFn, *, reserved: bool = True) -> list[Softwire]:
    """Draw softwires that do not contradict each other, in any order."""
    result = []
    for ipv4 in draw(st.lists(HOSTS, max_size=8, unique=True)):
        k = draw(st.sampled_from([0, 1, 2, 4, 6, 10, 16]))
        a = draw(st.integers(0, 16 - k)) if reserved else 0
        psids = st.integers(0, 2**k - 1)
        result += [
            Softwire(ipv4, psid, draw(B4S), draw(BRS), k, a)
            for psid in draw(st.sets(psids, min_size=1, max_size=12))
        ]
    return draw(st.permutations(result))


def reference(
    table: list[Softwire], ipv4: IPv4Address, port: int, *, compat: bool = False
) -> Softwire | None:
    """Return what RFC 7597, 5.1, or Snabb finds."""
    first = next((s for s in table if s.ipv4 == ipv4), None)
    if first is None:
        return None
    k, a = first.psid_length, first.reserved_ports_bit_count
    if a and (compat or k) and port < 2 ** (a if compat else 16 - a):
        return None
    psid = port >> (16 - k - a) & (2**k - 1)
    return {(s.ipv4, s.psid): s for s in table}.get((ipv4, psid))


@given(softwires(), st.lists(st.tuples(IPV4, PORTS), max_size=300), st.booleans())
def test_the_table_is_a_dict(
    table: list[Softwire], others: list[tuple[IPv4Address, int]], compat: bool
) -> None:
    built = BindingTable(table, compat=compat)
    assert list(built) == sorted(table, key=lambda s: (s.ipv4, s.psid))
    shifts = [16 - s.psid_length - s.reserved_ports_bit_count for s in table]
    high = [
        (1 << 16 - s.reserved_ports_bit_count) & 65535 for s in table
    ]  # behind the reserved ones
    ports = [s.psid << n | h for s, n, h in zip(table, shifts, high, strict=True)]
    keys = [(s.ipv4, port & 65535) for s, port in zip(table, ports, strict=True)]
    keys += others + [(s.ipv4, port) for s in table for _, port in others[:3]]
    expected = [reference(table, *key, compat=compat) for key in keys]
    assert [built.find(*key) for key in keys] == expected
    assert find_all(built, keys) == [s and (s.ipv4, s.psid) for s in expected]
    addresses = {s.ipv4 for s in table}
    for ipv4, _ in keys:
        assert built.is_managed(ipv4) == (ipv4 in addresses)


def find_all(
    table: BindingTable, keys: list[tuple[IPv4Address, int]]
) -> list[tuple[IPv4Address, int] | None]:
    """Look up as the data plane does: a burst at once."""
    ipv4 = ffi.new("uint32_t[]", [int(key[0]) for key in keys])
    port = ffi.new("uint16_t[]", [key[1] for key in keys])
    out = ffi.new("struct softwire *[]", len(keys))
    lib.binding_table_lookup(table.table, ipv4, port, len(keys), out)
    return [(IPv4Address(s.ipv4), s.psid) if s else None for s in out]


@given(softwires(), st.data())
def test_compat_takes_whatever_is_no_double(
    table: list[Softwire], data: st.DataObject
) -> None:
    mixed = []
    for s in table:
        k = data.draw(st.integers(0, 16))
        a = data.draw(st.integers(0, 16 - k))
        mixed.append(s._replace(psid_length=k, reserved_ports_bit_count=a))
    built = BindingTable(mixed, compat=True)
    found = {(s.ipv4, s.psid): s.b4 for s in built}
    assert found == {(s.ipv4, s.psid): s.b4 for s in mixed}
    for s in mixed:
        for port in (0, 1, 1024, s.psid, s.psid << 10 & 65535, 65535):
            expected = reference(mixed, s.ipv4, port, compat=True)
            got = built.find(s.ipv4, port)
            assert (got and got.psid) == (expected and expected.psid)


@given(softwires(), softwires(), st.data())
def test_the_difference_of_two_tables(
    table: list[Softwire], more: list[Softwire], data: st.DataObject
) -> None:
    """As that of two dicts: what stays, changes, comes and goes."""
    known = {s.ipv4 for s in table}
    changed = [s for s in table if data.draw(st.booleans())]
    gone = [s for s in table if s not in changed and data.draw(st.booleans())]
    new = [s for s in more if s.ipv4 not in known]
    other = IPv6Address("2001:db8::cccc")
    after = [s._replace(br=other) if s in changed else s for s in table]
    after = [s for s in after if s not in gone] + new
    found = BindingTable(table).difference(BindingTable(after))
    assert found == Difference(len(new), len(gone), len(changed))
    assert (BindingTable(table) == BindingTable(after)) == (found == Difference())


def test_a_table_has_no_martians() -> None:
    """No host has such an address (RFC 1812, 5.3.7)."""
    b4, br = IPv6Address("2001:db8::1"), IPv6Address("2001:db8::aaaa")
    for net in range(256):
        table = [Softwire(IPv4Address(net << 24 | 1), 0, b4, br)]
        if net not in MARTIANS:
            assert len(BindingTable(table)) == 1
            continue
        assert len(BindingTable(table, compat=True)) == 1
        with pytest.raises(ConfigError, match="is the address of no host"):
            BindingTable(table)


@given(softwires().filter(bool), st.data())
def test_a_double_is_refused(table: list[Softwire], data: st.DataObject) -> None:
    double = data.draw(st.sampled_from(table))._replace(b4=IPv6Address(2))
    table.insert(data.draw(st.integers(0, len(table))), double)
    for compat in (False, True):
        with pytest.raises(ConfigError, match="has a softwire already"):
            BindingTable(table, compat=compat)


@given(st.lists(st.tuples(IPV4, IPV4), max_size=4), softwires(), st.lists(IPV4))
def test_ranges_are_managed(
    pairs: list[tuple[IPv4Address, IPv4Address]],
    table: list[Softwire],
    others: list[IPv4Address],
) -> None:
    ranges: list[tuple[IPv4Address, IPv4Address]] = []
    for first, last in map(sorted, pairs):
        if all(last < a or b < first for a, b in ranges):
            ranges.append((first, last))
    built = BindingTable(table, ranges)
    assert built.managed == sorted(ranges)
    ours = {s.ipv4 for s in table}
    for ipv4 in [*others, *ours, *(end for pair in ranges for end in pair)]:
        expected = ipv4 in ours or any(a <= ipv4 <= b for a, b in ranges)
        assert built.is_managed(ipv4) == expected


def test_a_row_with_holes_and_a_hash_are_the_same() -> None:
    """Addresses from nearly empty to full: laid out in both ways, found in one."""
    addresses = [IPv4Address(i << 24) for i in range(1, 10)]
    table = [
        Softwire(ipv4, psid, IPv6Address(psid + 2), IPv6Address(2**127), 8)
        for n, ipv4 in enumerate(addresses)
        for psid in range(0, 256, 1 << n if n < 8 else 255)
    ]
    for seed in range(4):
        built = BindingTable(table, seed=seed)
        for ipv4 in addresses:
            for port in range(0, 65536, 128):
                assert built.find(ipv4, port) == reference(table, ipv4, port)


def test_addresses_that_fall_together_are_spread_by_another_hash() -> None:
    golden = BindingTable().table.multiplier
    hosts = range(2**24, 2**24 + 2**20)
    addresses = [i for i in hosts if i * golden % 2**32 >> 20 == 0]
    br = IPv6Address(7)
    table = [Softwire(IPv4Address(i), 0, IPv6Address(i), br) for i in addresses]
    built = BindingTable(table)
    assert built.table.multiplier != golden
    assert [built.find(s.ipv4, 80) for s in table] == table


# -- texts ---------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
MACS = st.binary(min_size=6, max_size=6)
COUNTS = st.integers(1, 2**32 - 1)


def sides(
    ip: st.SearchStrategy[IPv4Address] | st.SearchStrategy[IPv6Address],
) -> st.SearchStrategy[QueueInterface]:
    vlan = st.none() | st.integers(0, 4094)
    asked = st.builds(QueueInterface, ip=ip, mac=MACS, next_hop_ip=ip, vlan_tag=vlan)
    told = st.builds(QueueInterface, ip=ip, mac=MACS, next_hop_mac=MACS, vlan_tag=vlan)
    return asked | told


LIMITS = {
    "mru": PORTS,
    "ingress_filter": TEXTS,
    "egress_filter": TEXTS,
    "allow_incoming_icmp": st.booleans(),
    "generate_icmp_errors": st.booleans(),
    "error_rate_limiting": st.builds(
        ErrorRateLimiting, st.integers(0, 2**32 - 1), COUNTS
    ),
    "reassembly": st.builds(Reassembly, COUNTS, COUNTS),
}
QUEUES = st.builds(Queue, st.integers(0, 255), sides(IPV4), sides(IPV6))
INSTANCES = st.builds(
    Instance,
    TEXTS,
    st.none() | TEXTS,
    st.lists(QUEUES, min_size=1, max_size=2, unique_by=lambda q: q.id).map(tuple),
)
CONFIGS = st.builds(
    LwaftrConfig,
    softwires().map(BindingTable),
    st.lists(INSTANCES, min_size=1, max_size=2, unique_by=lambda i: i.device).map(
        tuple
    ),
    st.builds(ExternalInterface, mtu=st.integers(68, 65535), **LIMITS),
    st.builds(
        InternalInterface,
        mtu=st.integers(1280, 65535),
        flow_label=st.integers(0, 2**20 - 1),
        hairpinning=st.booleans(),
        **LIMITS,
    ),
    TEXTS,
)


@settings(max_examples=50)
@given(CONFIGS)
def test_what_is_written_is_read(config: LwaftrConfig) -> None:
    with tempfile.NamedTemporaryFile("w", newline="") as file:
        file.write(write(config))
        file.flush()
        assert conf.read(file.name) == config


@given(softwires(reserved=False))
def test_a_table_that_is_written_is_read(table: list[Softwire]) -> None:
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(write_table(BindingTable(table)))
        file.flush()
        assert list(conf.read_table(file.name)) == list(BindingTable(table))


V3 = MadeUpTable(2, 1, 3).statements().encode()
TABLE = MadeUpTable(2, 1).properties().encode()
OLD = (Path(__file__).parents[2] / "examples" / "lwaftr.conf").read_bytes()
MUTATIONS = st.lists(
    st.tuples(
        st.integers(0, 2**16),
        st.sampled_from(["replace", "insert", "delete", "cut", "repeat"]),
        st.binary(min_size=1, max_size=1)
        | st.sampled_from([bytes([c]) for c in b"{};\"'+/*#=,-\\\0 \n.:0f\xff"]),
    ),
    min_size=1,
    max_size=3,
)


def mutate(text: bytes, mutations: list[tuple[int, str, bytes]]) -> bytes:
    for where, what, byte in mutations:
        at = where % (len(text) + 1)
        match what:
            case "replace":
                text = text[:at] + byte + text[at + 1 :]
            case "insert":
                text = text[:at] + byte + text[at:]
            case "delete":
                text = text[:at] + text[at + 1 :]
            case "cut":
                text = text[:at]
            case "repeat":
                text = text[:at] + text[max(at - 40, 0) :]
    return text


@settings(max_examples=200)
@given(MUTATIONS, st.booleans())
def test_a_damaged_text_is_read_or_located(
    mutations: list[tuple[int, str, bytes]], compat: bool
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "x"
        (Path(directory) / "binding.table").write_bytes(TABLE)
        for text in (V3, OLD):
            path.write_bytes(mutate(text, mutations))
            read_or_locate(path, lambda: conf.read(path, compat=compat))
        path.write_bytes(mutate(TABLE, mutations))
        read_or_locate(path, lambda: conf.read_table(path, compat=compat))


def read_or_locate(path: Path, read: Callable[[], object]) -> None:
    """Read a file, or see that the error says where in it."""
    try:
        read()
    except DeviceError as error:
        assert str(error).startswith(f"read {path.parent}")  # noqa: PT017
    except ConfigError as error:
        text = path.read_bytes()
        located = re.match(rf"{re.escape(str(path))}:(\d+):(\d+): .", str(error))
        is_name = str(error).endswith("is no name of a file")
        assert located or is_name, error  # noqa: PT017
        if located:
            line, column = map(int, located.groups())
            lines = text.removeprefix(b"\xef\xbb\xbf").split(b"\n")
            assert 1 <= line <= len(lines)
            assert 1 <= column <= len(lines[line - 1]) + 1
