"""Configs of the lwAFTR: what they mean, and what is said of wrong ones."""

import re
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from snabb_py.errors import ConfigError, DeviceError
from snabb_py.lwaftr import conf
from snabb_py.lwaftr.binding_table import Softwire
from snabb_py.lwaftr.conf_types import ErrorRateLimiting, Reassembly
from snabb_py.lwaftr.made_up import MadeUpTable

EXAMPLES = Path(__file__).parents[2] / "examples"

V3 = """\
softwire-config {
  // comments of both kinds, strings of both kinds
  name "left\\t" /* joined */ + 'right\\t';
  instance { device 0000:01:00.0; external-device eth0;
    queue { id 3;
      external-interface {
        ip 192.0.2.1; mac 02:00:00:00:00:04; vlan-tag 43;
        next-hop { ip 192.0.2.254; }
      }
      internal-interface {
        ip 2001:db8::aaaa; mac 02:00:00:00:00:06; next-hop { mac 02:00:00:00:01:06; }
      }
    }
  }
  external-interface { mtu 1500; error-rate-limiting { packets 7; } }
  internal-interface { mtu 1540; hairpinning false; reassembly { max-packets 5; } }
  binding-table {
    version { number 18446744073709551615; date 2026-11-26T00:00:00Z; }
    softwire { ipv4 198.51.100.1; psid 0; b4-ipv6 2001:db8:1::1;
      br-address 2001:db8::aaaa; port-set { psid-length 0; } }
    softwire { port-set { reserved-ports-bit-count 6; psid-length 6; } padding 0;
      br-address "2001:db8" + "::bbbb"; b4-ipv6 2001:db8:1::192.0.2.1;
      psid '63'; ipv4 198.51.100.8; }
  }
} // end
"""
FULL = Softwire(
    IPv4Address("198.51.100.1"),
    0,
    IPv6Address("2001:db8:1::1"),
    IPv6Address("2001:db8::aaaa"),
)
SHARED = Softwire(
    IPv4Address("198.51.100.8"),
    63,
    IPv6Address("2001:db8:1::c000:201"),
    IPv6Address("2001:db8::bbbb"),
    psid_length=6,
    reserved_ports_bit_count=6,
)

TABLE = """\
PSID_MAP {
  198.51.100.1 { }  # all defaults
  198.51.100.8-198.51.100.11, 198.51.100.20 { shift = 10 };
}
br_addresses { 2001:db8::aaaa, 2001:db8::bbbb 2001:db8::aaaa }
softwires {
  { ipv4=198.51.100.1, b4=2001:db8:1::1 }
  { ipv4=198.51.100.8
    psid=1# the first
    b4=2001:db8:1::2, aftr=2, },
}
"""
OLD = """\
aftr_ipv4_ip = 192.0.2.1, aftr_ipv6_ip = 2001:db8::aaaa
aftr_mac_inet_side=02:00:00:00:00:04
aftr_mac_b4_side = 02:00:00:00:00:06
inet_mac = 02:00:00:00:01:04   # a comment
next_hop_ipv6_addr = 2001:db8::1
binding_table = 'the table'
icmpv6_rate_limiter_n_packets = 6e5, icmpv6_rate_limiter_n_seconds = 0x10
policy_icmpv4_incoming = drop
vlan_tagging = true, v4_vlan_tag = 43, v6_vlan_tag = 44
ipv4_ingress_filter = <filter
ipv6_egress_filter = "ip6 and \\"x\\""
"""


def read(directory: Path, text: str, *, compat: bool = False) -> conf.LwaftrConfig:
    path = directory / "x.conf"
    path.write_text(text)
    return conf.read(path, compat=compat)


def read_error(directory: Path, text: str) -> str:
    """Return what is said of a wrong config, without the directory."""
    with pytest.raises(ConfigError) as caught:
        read(directory, text)
    return str(caught.value).removeprefix(f"{directory}/")


def table_error(directory: Path, text: str) -> str:
    path = directory / "x.table"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        conf.read_table(path)
    return str(caught.value).removeprefix(f"{directory}/")


def test_v3(tmp_path: Path) -> None:
    config = read(tmp_path, V3)
    assert config.name == "left\tright\\t"
    [instance] = config.instances
    assert (instance.device, instance.external_device) == ("0000:01:00.0", "eth0")
    [queue] = instance.queues
    assert queue.id == 3
    assert queue.external.ip == IPv4Address("192.0.2.1")
    assert queue.external.mac == bytes([2, 0, 0, 0, 0, 4])
    assert queue.external.vlan_tag == 43
    assert queue.external.next_hop_ip == IPv4Address("192.0.2.254")
    assert queue.external.next_hop_mac is None
    assert queue.internal.ip == IPv6Address("2001:db8::aaaa")
    assert queue.internal.next_hop_mac == bytes([2, 0, 0, 0, 1, 6])
    assert config.external.mtu == 1500
    assert config.external.error_rate_limiting == ErrorRateLimiting(7, 2)
    assert config.internal.reassembly == Reassembly(20, 5)
    assert not config.internal.hairpinning
    assert list(config.binding_table) == [FULL, SHARED]


def test_old_format(tmp_path: Path) -> None:
    (tmp_path / "the table").write_text(TABLE)
    (tmp_path / "filter").write_text("ip and tcp\n")
    config = read(tmp_path, OLD)
    [instance] = config.instances
    [queue] = instance.queues
    assert queue.external.next_hop_mac == bytes([2, 0, 0, 0, 1, 4])
    assert queue.internal.next_hop_ip == IPv6Address("2001:db8::1")
    assert (queue.external.vlan_tag, queue.internal.vlan_tag) == (43, 44)
    assert (config.external.mtu, config.internal.mtu) == (1460, 1500)
    assert config.internal.error_rate_limiting == ErrorRateLimiting(600000, 16)
    assert not config.external.allow_incoming_icmp
    assert config.external.reassembly == Reassembly(40, 20000)
    assert config.external.ingress_filter == "ip and tcp"
    assert config.internal.egress_filter == 'ip6 and "x"'
    full, shared = config.binding_table
    assert full == FULL
    assert (shared.psid, shared.psid_length, shared.br) == (1, 6, FULL.br)


def test_addresses_of_the_psid_map_are_managed(tmp_path: Path) -> None:
    (tmp_path / "t").write_text(TABLE)
    table = conf.read_table(tmp_path / "t")
    ours = [last for last in range(256) if table.is_managed(_address(last))]
    assert ours == [1, 8, 9, 10, 11, 20]
    assert table.find(_address(9), 1024) is None


def _address(last: int) -> IPv4Address:
    return IPv4Address(f"198.51.100.{last}")


def test_examples() -> None:
    config = conf.read(EXAMPLES / "lwaftr.conf")
    assert config.binding_table == conf.read_table(EXAMPLES / "binding.table")
    assert len(config.binding_table) == 4


def test_a_table_given_replaces_that_of_the_config(tmp_path: Path) -> None:
    for text in (V3, OLD):
        (tmp_path / "x.conf").write_text(text)
        (tmp_path / "filter").touch()
        config = conf.read(tmp_path / "x.conf", EXAMPLES / "binding.table")
        assert len(config.binding_table) == 4


def test_made_up_tables_are_the_same_in_both_formats(tmp_path: Path) -> None:
    made_up = MadeUpTable(5, psid_length=3)
    (tmp_path / "t").write_text(made_up.properties())
    config = read(tmp_path, made_up.statements())
    assert list(config.binding_table) == list(made_up.softwires())
    assert list(conf.read_table(tmp_path / "t")) == list(made_up.softwires())


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="No such file"):
        conf.read(tmp_path / "none")
    with pytest.raises(DeviceError, match=r"read .*the table: No such file"):
        read(tmp_path, OLD.replace("ipv4_ingress_filter = <filter", ""))


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("mtu 1500", "mtv 1500", '15:24: unknown key "mtv"; did you mean "mtu"?'),
        ("psid 0", "psit 0", '19:35: unknown key "psit"; did you mean "psid"?'),
        ("number", "no", '18:15: unknown key "no"; known: number, date'),
        ("name", "nonesuch", '3:3: unknown key "nonesuch"; known: name, instance, '),
        ("mtu 1500", "mtu 67", "expected bytes of an IPv4 packet, 68 to 65535, not"),
        ("mtu 1540", "mtu 1279", "expected bytes of an IPv6 packet, 1280 to 65535"),
        ("mtu 1500", "mtu 1500k", "15:28: expected bytes of an IPv4 packet, 68 to "),
        ("packets 7", "packets -7", 'expected a number, 0 to 4294967295, not "-7"'),
        (
            "max-packets 5",
            "max-packets 0",
            'expected a number, 1 to 4294967295, not "0"',
        ),
        ("false", "no", '16:46: expected true or false, not "no"'),
        ("vlan-tag 43", "vlan-tag 4095", "7:55: expected a VLAN, 0 to 4094, not"),
        ("id 3", "id 256", '5:16: expected a queue, 0 to 255, not "256"'),
        ("ip 192.0.2.1;", "ip 192.0.2.256;", "7:12: expected an IPv4 address, not"),
        (
            "ip 2001:db8::aaaa",
            "ip fe80::1%1",
            '11:12: expected an IPv6 address, not "f',
        ),
        ("00:04", "00:4", "7:27: expected a MAC address, six pairs of hexadecimal"),
        ("ip 192.0.2.254;", "", "8:9: next-hop needs ip or mac, and has neither"),
        (
            "ip 192.0.2.254;",
            "ip 192.0.2.254; mac 02:00:00:00:00:01;",
            "8:9: next-hop needs ip or mac, and has both",
        ),
        ("ip 192.0.2.1;", "", "6:7: external-interface without ip"),
        ("id 3;", "", "5:5: queue without id"),
        ("mtu 1500;", "mtu 1500; mtu 1500;", "15:34: mtu is there twice"),
        ("mtu 1500;", "mtu { }", "15:24: mtu has a value, no {"),
        ("mtu 1500;", "mtu 1500", '15:33: expected ";", not "error-rate-limiting"'),
        ("mtu 1500;", "mtu;", '15:27: expected a value or {, not ";"'),
        ("reassembly {", "reassembly 1 {", '16:66: expected ";", not "{"'),
        ("port-set { psid-length 0; }", "port-set 0;", '20:43: expected "{", not "0"'),
        ("psid-length 0;", "", "19:5: softwire with a port-set without psid-length"),
        ("port-set { psid-length 0; }", "", "19:5: softwire without port-set"),
        ("br-address 2001:db8::aaaa;", "", "19:5: softwire without br-address"),
        (
            "psid-length 0",
            "psid-length 17",
            "20:57: expected a number of bits, 0 to 16",
        ),
        ("psid '63'", "psid 63; psid 63", "23:16: psid is there twice"),
        ("psid '63'", "psid 65536", '23:12: expected a PSID, 0 to 65535, not "65536"'),
        ("psid '63'", "psid '64'", "198.51.100.8: psid 64 has more bits than psid-le"),
        (
            "psid 0",
            "psid 1",
            "198.51.100.1: psid 1 has more bits than psid-length 0: 0",
        ),
        (
            "count 6",
            "count 11",
            "21:5: 198.51.100.8: psid-length 6 and reserved-ports-b",
        ),
        (
            "198.51.100.8",
            "198.51.100.1",
            "psid-length 6, reserved-ports-bit-count 6, but 0, 0 before (line 19)",
        ),
        ("/* joined */", "/* joined", "3:17: a comment begins here and does not end"),
        ("psid '63'", "psid '63", "23:12: a string begins here and does not end"),
        ("left\\t", "left\\x", "3:13: expected one of"),
        ("'right\\t'", "right", '3:32: expected a string in quotes, not "right"'),
        ("  }\n} // end", "", "17:17: the binding-table begins here and does not end"),
        ("} // end", "} }", "25:3: a } too many"),
        ("softwire-config", "softwire-confit", 'did you mean "softwire-config"?'),
        ("name", "\0", '3:3: expected a key or }, not "\N{REPLACEMENT CHARACTER}"'),
    ],
)
def test_what_is_wrong_in_v3(tmp_path: Path, old: str, new: str, error: str) -> None:
    assert old in V3
    said = read_error(tmp_path, V3.replace(old, new, 1))
    assert said.startswith("x.conf:")
    assert error in said


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (
            "inet_mac =",
            "inet_mak =",
            '4:1: unknown key "inet_mak"; did you mean "inet_m',
        ),
        ("inet_mac =", "aftr_ipv4_ip =", "4:1: aftr_ipv4_ip is there twice"),
        ("= 43,", "=", '9:48: expected "," or a new line, not "="'),
        ("= 43,", "= 43", '9:39: expected "," or a new line, not "v6_vlan_tag"'),
        ("= 43", "43", '9:34: expected "=", not "43"'),
        ("= drop", "= reject", '8:26: expected ALLOW or DROP, not "reject"'),
        ("6e5", "many", '7:33: expected a number, 0 or more, not "many"'),
        ("0x10", "0", 'expected a number above 0, not "0"'),
        ("inet_mac", "#", "the file ends without next_hop_ipv4_addr or inet_mac"),
        ("aftr_mac_b4_side", "#", "12:1: the file ends without aftr_mac_b4_side"),
        ("v6_vlan_tag", "#", "the file ends without v6_vlan_tag"),
        (
            "inet_mac",
            "next_hop_ipv4_addr = 1.1.1.1, inet_mac",
            "4:31: both next_hop_ipv4_addr and inet_mac: one of t",
        ),
        ('\\""', '\\"', "11:22: a string begins here and does not end"),
        ("inet_mac", "} inet_mac", '4:1: expected a key, not "}"'),
    ],
)
def test_what_is_wrong_in_the_old_format(
    tmp_path: Path, old: str, new: str, error: str
) -> None:
    assert old in OLD
    (tmp_path / "the table").write_text(TABLE)
    (tmp_path / "filter").touch()
    assert error in read_error(tmp_path, OLD.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("PSID_MAP", "psid_mop", "1:1: expected psid_map, not"),
        (
            "{ }",
            "{ psid_length=5, shift=10 }",
            "2:16: psid_length and shift are 15 toge",
        ),
        ("shift = 10", "shift = 17", "3:55: expected a number of bits, 0 to 16, not"),
        (
            "198.51.100.20",
            "198.51.100.9",
            "3:31: 198.51.100.9 is in a range already (l",
        ),
        (
            "8-198.51.100.11",
            "8-198.51.100.7",
            "3:3: a range that ends, at 198.51.100.7,",
        ),
        (
            "2001:db8::bbbb",
            "192.0.2.1",
            '5:32: expected an IPv6 address, not "192.0.2.',
        ),
        (
            "aftr=2",
            "aftr=3",
            "10:28: aftr 3, but there are 3 br_addresses, counted fro",
        ),
        ("psid=1#", "psid=64#", "8:3: 198.51.100.8: psid 64 has more bits than psid-l"),
        (", b4=2001:db8:1::1", "", "7:3: softwire without b4"),
        ("ipv4=198.51.100.1,", "", "7:3: softwire without ipv4"),
        ("psid=1#", "psit=1#", '9:5: unknown key "psit"; did you mean "psid"?'),
        ("psid=1#", "ipv4=1.1.1.1 #", "9:5: ipv4 is there twice"),
        (" }\n  { ipv4", "\n  { ipv4", '8:3: expected a key, not "{"'),
        ("},\n}\n", "},\n", "6:1: a section begins here and does not end"),
        ("},\n}\n", "},\n} x", '11:3: expected the end of the file, not "x"'),
        ("198.51.100.8\n", "198.51.100.1\n", "has more bits than psid-length 0"),
        (
            "198.51.100.8\n    psid=1#",
            "198.51.100.1\n#",
            "8:3: 198.51.100.1 with psid 0 has a softwire already (line 7)",
        ),
    ],
)
def test_what_is_wrong_in_a_table(
    tmp_path: Path, old: str, new: str, error: str
) -> None:
    assert old in TABLE
    said = table_error(tmp_path, TABLE.replace(old, new, 1))
    assert said.startswith("x.table:")
    assert error in said


#: What cannot be: a softwire's IPv4 address, or its B4.
IMPOSSIBLE = [
    ("ipv4", "127.0.0.1", "127.0.0.1 is the address of no host"),
    ("ipv4", "255.255.255.255", "255.255.255.255 is the address of no host"),
    ("b4", "ff02::1", "198.51.100.1, psid 0: B4 ff02::1 is a multicast address"),
    ("b4", "::", "198.51.100.1, psid 0: B4 :: is the unspecified address"),
    ("b4", "::1", "198.51.100.1, psid 0: B4 ::1 is the loopback address"),
    ("b4", "2001:db8::bbbb", "B4 2001:db8::bbbb is our own end of a softwire"),
    ("b4", "2001:db8::6", "B4 2001:db8::6 is our own address"),
]


@pytest.mark.parametrize(("key", "value", "error"), IMPOSSIBLE)
def test_a_softwire_that_cannot_be(
    tmp_path: Path, key: str, value: str, error: str
) -> None:
    good = {"ipv4": "198.51.100.1", "b4": "2001:db8:1::1"}[key]
    text = V3.replace("ip 2001:db8::aaaa", "ip 2001:db8::6")
    wrong = re.sub(rf"(ipv4|b4-ipv6) {good};", rf"\1 {value};", text)
    said = read_error(tmp_path, wrong)
    assert said.startswith("x.conf:19:5: ")
    assert error in said
    assert len(read(tmp_path, wrong, compat=True).binding_table) == 2

    table = TABLE.replace(f"{key}={good}", f"{key}={value}", 1)
    (tmp_path / "the table").write_text(table)
    (tmp_path / "filter").touch()
    old = OLD.replace("aftr_ipv6_ip = 2001:db8::aaaa", "aftr_ipv6_ip = 2001:db8::6")
    said = read_error(tmp_path, old)
    assert said.startswith("the table:7:3: ")
    assert error in said


def test_what_psid_map_forgets(tmp_path: Path) -> None:
    said = table_error(tmp_path, TABLE.replace("198.51.100.8-198.51.100.11,", ""))
    assert said == (
        "x.table:8:3: 198.51.100.8: psid 1, but psid_map does not have the address: "
        "without it is not shared, and psid is 0"
    )


def test_one_for_the_other(tmp_path: Path) -> None:
    """A table is no config and a config no table; which option takes which is said."""
    assert read_error(tmp_path, f"# ours\n{TABLE}") == (
        "x.conf:2:1: a binding table, not a config: `lwaftr run --bt` takes it, or a "
        "config names it"
    )
    for text, where in ((f"/* ours */ {V3}", "1:12"), (f"# ours\n{OLD}", "2:1")):
        assert table_error(tmp_path, text) == (
            f"x.table:{where}: a config, not a binding table: --conf takes it"
        )
    assert read_error(tmp_path, f"# ours\n{V3}") == (
        "x.conf:1:1: comments begin with // in this format"
    )


def test_garbage_ends_at_once(tmp_path: Path) -> None:
    said = read_error(tmp_path, "gar bage\n" * 1_000_000)
    assert said == 'x.conf:2:1: expected ";", not "gar"'


def test_what_is_no_utf8(tmp_path: Path) -> None:
    (tmp_path / "x.conf").write_bytes(b"softwire-config { name \xff; }")
    with pytest.raises(ConfigError, match=r"x\.conf:1:24: is no UTF-8 text"):
        conf.read(tmp_path / "x.conf")


def test_compat_takes_what_snabb_takes(tmp_path: Path) -> None:
    text = V3.replace("198.51.100.8", "198.51.100.1")
    config = read(tmp_path, text, compat=True)
    assert [s.psid for s in config.binding_table] == [0, 63]
    assert {s.psid_length for s in config.binding_table} == {0}
    found = config.binding_table.find(IPv4Address("198.51.100.1"), 65535)
    assert found == FULL
