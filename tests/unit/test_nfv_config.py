"""The nfv config: what it takes, what it refuses and with which words."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snabb_py.errors import ConfigError, DeviceError
from snabb_py.virtio import lua_table, nfv_config, nfv_formats
from snabb_py.virtio.lua_table import Node
from snabb_py.virtio.nfv_config import NfvConfig, PortConfig, parse, read, write
from snabb_py.virtio.nfv_keys import KEYS

DATA = Path(__file__).parents[1] / "data/nfv/nfvconfig"

pytestmark = pytest.mark.need("libpcap")


def get(text: str, file: str = "ports") -> NfvConfig:
    """Return a config that nothing is to be said about."""
    warnings: list[str] = []
    config = parse(text, file, warnings.append)
    assert warnings == []
    return config


def refusal(text: str, file: str = "ports") -> str:
    with pytest.raises(ConfigError) as info:
        parse(text, file, print)
    return str(info.value)


# -- the files of Snabb --------------------------------------------------------

FILES = sorted(path for path in DATA.rglob("*") if path.is_file())
REFUSED = {
    "fuzz/filter2-tunnel-txrate10-ports.spec": r":1: expected a list of ports",
    "reference/port0": r':9: port "523276c7-.*": tunnel: L2TPv3 .* not there yet',
    "switch_filter/y": r':6: column 5: expected "," or "}" before gbps',
    "switch_tunnel/x": r':7: port "id0": tunnel: ',
    "switch_tunnel/y": r':7: port "id0": tunnel: ',
    "test_functions/crypto-tunnel.ports": r':5: port "A": tunnel: ',
    "test_functions/crypto.ports": r':5: port "A": crypto: encryption is not there',
    "test_functions/tunnel.ports": r':7: port "A": tunnel: ',
}
WARNINGS = {
    "switch_qos/x": [':6: port "id0": gbps: is ignored, as in Snabb'],
    "switch_qos/y": [':6: port "id0": gbps: is ignored, as in Snabb'],
    "test_functions/deprecated.port": [
        ':3: port "Test": rx_police_gbps: is deprecated; write rx_police',
        ':4: port "Test": tx_police_gbps: is deprecated; write tx_police',
    ],
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DATA)))
def test_snabbs_own_files(path: Path) -> None:
    name = str(path.relative_to(DATA))
    warnings: list[str] = []
    if pattern := REFUSED.get(name):
        with pytest.raises(ConfigError, match=re.escape(str(path)) + pattern):
            read(path, warnings.append)
        return
    config = read(path, warnings.append)
    ids = re.findall(r'port_id *= *"(.*?)"', path.read_text())
    assert [port.port_id for port in config.ports] == ids
    odd = [w for w in warnings if "is a group's address" not in w]
    for line, expected in zip(odd, WARNINGS.get(name, []), strict=True):
        assert line.startswith(f"{path}{expected}")
    groups = re.findall(r'"[0-9A-F][13579BDF](?::..){5}"', path.read_text())
    assert len(warnings) - len(odd) == len(groups)


def test_a_file_of_snabb_word_by_word() -> None:
    warnings: list[str] = []
    stateful = read(DATA / "test_functions/stateful-filter.ports", warnings.append)
    assert stateful == NfvConfig(
        (
            PortConfig("A", macs=("52:54:00:00:00:00",)),
            PortConfig(
                "B",
                macs=("52:54:00:00:00:01",),
                ingress_filter="icmp6 or (ip6 and tcp and dst port 12345)",
                egress_filter="icmp6",
                stateful_filter=True,
            ),
        )
    )
    assert warnings == []
    assert (
        read(DATA / "test_functions/tx_rate_limit.ports", print).ports[1].tx_police
        == 0.5
    )
    assert read(DATA / "test_functions/other_vlan.ports", print).ports[1].vlan == 42


# -- formats -------------------------------------------------------------------

FULL = PortConfig(
    "vm-1",
    macs=("52:54:00:00:00:01", "52:54:00:00:00:02"),
    trunk=(1, 2, 3, 7, 4094),
    ingress_filter="tcp port 80",
    egress_filter="ether host 1:2:3:4:5:6",
    stateful_filter=True,
    rx_police=2.5,
    tx_police=10.0,
    rx_police_burst=131072,
    tx_police_burst=10**6,
    disable_mrg_rxbuf=True,
    disable_indirect_desc=True,
    server=True,
    mtu=9000,
    queues=4,
    mirror='/var/ä "quoted"\\\t[[x]].pcap',
)

LUA = """#!/usr/bin/lua
-- a comment -- in a comment
return { --[==[ a long
comment ]] ]==]
  { ["port_id"] = 'vm-1'; mac_address = { "52:54:00:00:00:01", '52-54-00-00-00-02', },
    trunk = { "1-3", 7, 0xffe }, ingress_filter = [[tcp port 80]],
    egress_filter = [=[
ether host 1:2:3:4:5:6]=], stateful_filter = true,
    rx_police = 2.5, tx_police = 1e1, rx_police_burst = 0x20000,
    tx_police_burst = 1e6,
    disable_mrg_rxbuf=true, disable_indirect_desc=true, server = true,
    mtu = 9000, queues = 4, vlan = nil, gbps = nil, tunnel = nil, crypto = nil,
    mirror = "/var/\\u{e4} \\"quoted\\"\\x5c\\z
              \\009[[x]].pcap" },
};
"""
TOML = r"""
# of the second rack
[[port]]
port_id = "vm-1"
mac_address = ["52:54:00:00:00:01", "52:54:00:00:00:02"]
trunk = ["1-3", 7, 4094]
ingress_filter = '''tcp port 80'''
egress_filter = "ether host 1:2:3:4:5:6"
stateful_filter = true
rx_police = 2.5
tx_police = 10
rx_police_burst = 131_072
tx_police_burst = 1_000_000
disable_mrg_rxbuf = true
disable_indirect_desc = true
server = true
mtu = 9000
queues = 4
mirror = "/var/ä \"quoted\"\\\t[[x]].pcap"
"""


@pytest.mark.parametrize("file", ["x.lua", "x.ports", "x"])
def test_lua(file: str) -> None:
    assert get(LUA, file) == NfvConfig((FULL,))
    assert get(LUA.replace("\n", "\r\n"), file) == NfvConfig((FULL,))


@pytest.mark.parametrize("file", ["x.toml", "x.TOML", "x.conf"])
def test_toml(file: str) -> None:
    assert get(TOML, file) == NfvConfig((FULL,))


@pytest.mark.parametrize("file", ["x.json", "x.conf"])
def test_json(file: str) -> None:
    text = write(NfvConfig((FULL,)), "json")
    assert get(text, file) == NfvConfig((FULL,))
    assert get(json.dumps({"port": json.loads(text)}), file) == NfvConfig((FULL,))


def test_no_ports() -> None:
    none = get("return {}"), get("[]"), get("port = []", "x.toml"), get('{"port": []}')
    assert set(none) == {NfvConfig()}


@pytest.mark.parametrize(
    ("text", "file"), [("", "x.toml"), ("# no", "x.toml"), ("{}", "x")]
)
def test_a_file_that_names_no_port(text: str, file: str) -> None:
    """What a full disk or half a copy leaves does not take the ports away."""
    with pytest.raises(ConfigError, match="names no port"):
        get(text, file)


def test_zero_is_no_vlan() -> None:
    assert get('return {{ port_id = "A", vlan = 0 }}').ports == (PortConfig("A"),)


# Ids whose apps' names differ; what else is in a string is in mirror.
ids = st.lists(
    st.from_regex(r"[a-z0-9][a-z0-9 .:-]{0,20}", fullmatch=True),
    min_size=1,
    max_size=5,
    unique_by=nfv_config.mangle,
)
police = st.none() | st.floats(0.001, 1000) | st.sampled_from([1.0, 10.0, 0.5])
expressions = st.sampled_from(
    ["", "ip", "tcp port 80 or udp", "icmp6", "ip[0] & 1 = 0"]
)


@st.composite
def configs(draw: st.DrawFn) -> NfvConfig:
    """Return a config of any ports that go together."""
    ports = []
    for number, port_id in enumerate(draw(ids)):
        rx, tx = draw(police), draw(police)
        trunk = draw(st.sets(st.integers(1, 4094), max_size=5)) | set(
            range(draw(st.integers(1, 30)), draw(st.integers(1, 60)))
        )
        bursts = st.none() | st.integers(131072, 2**40)
        path = st.text(
            st.characters(exclude_categories=["Cs"], exclude_characters="\0")
        )
        ports.append(
            PortConfig(
                port_id,
                macs=tuple(
                    f"02:00:00:00:{number:02x}:{n:02x}"
                    for n in range(draw(st.integers(1, 3)))
                ),
                vlan=None if trunk else draw(st.none() | st.integers(1, 4094)),
                trunk=tuple(sorted(trunk)),
                ingress_filter=draw(expressions),
                egress_filter=draw(expressions),
                stateful_filter=draw(st.booleans()),
                rx_police=rx,
                tx_police=tx,
                rx_police_burst=draw(bursts) if rx else None,
                tx_police_burst=draw(bursts) if tx else None,
                disable_mrg_rxbuf=draw(st.booleans()),
                disable_indirect_desc=draw(st.booleans()),
                server=draw(st.booleans()),
                mtu=draw(st.none() | st.integers(68, 9706)),
                queues=draw(st.integers(1, 16)),
                mirror=f"{number}{draw(path)}" if draw(st.booleans()) else None,
            )
        )
    return NfvConfig(tuple(ports))


@given(configs())
def test_what_is_written_reads_the_same(config: NfvConfig) -> None:
    for form in nfv_formats.FORMATS:
        text = write(config, form)
        assert get(text, f"x.{form}") == config
        assert nfv_formats.detect(text, "x") == form


@given(st.text(), st.sampled_from(["x.lua", "x.toml", "x.json", "x"]))
def test_any_text_is_read_or_refused(text: str, file: str) -> None:
    said = ""
    try:
        parse(text, file, print)
    except ConfigError as error:
        said = str(error)
    assert re.match(rf"{file}:\d+: |$", said)


@given(st.data())
def test_any_damage_is_read_or_refused(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([LUA, TOML, write(NfvConfig((FULL,)), "json")]))
    at = data.draw(st.integers(0, len(text)))
    size = data.draw(st.integers(0, 5))
    damaged = text[:at] + data.draw(st.text(max_size=3)) + text[at + size :]
    said = ""
    try:
        parse(damaged, "x", print)
    except ConfigError as error:
        said = str(error)
    assert re.match(r"x:\d+: |$", said)


# -- Lua is data ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("os.execute('rm -rf /')", "1: column 1", "os.execute would have to be"),
        ("return {\n {f()} }", "2: column 3", "f would have to be"),
        ("return { a = 1 + 1 }", "1: column 16", "+ would have to be"),
        ("return { a = 'x' .. 'y' }", "1: column 18", ".. would have to be"),
        ("return { a = -x }", "1: column 14", "- would have to be"),
        ("return { a = (1) }", "1: column 14", "( would have to be"),
        ("return { a = #t }", "1: column 14", "# would have to be"),
        ("return { a = not true }", "1: column 14", "not would have to be"),
        ("return { a = 1 or 2 }", "1: column 16", "or would have to be"),
        ("return { a = function() end }", "1: column 14", "function would have to"),
        ("return { a = ... }", "1: column 14", "... would have to be"),
        ("return { a.b = 1 }", "1: column 10", "a.b would have to be"),
        ("return { ['a' .. 'b'] = 1 }", "1: column 15", ".. would have to be"),
        ("return { f 'x' }", "1: column 10", "f would have to be"),
        ("return { 'x':rep(9) }", "1: column 13", ": would have to be"),
        ("return {} + {}", "1: column 11", "+ would have to be"),
        ("return {}, os.exit()", "1: column 10", ", would have to be"),
        ("return setmetatable({}, x)", "1: column 8", "setmetatable would have"),
        ("local x = {} return x", "1: column 1", "local would have to be"),
        ("return require 'x'", "1: column 8", "require would have to be"),
    ],
)
def test_nothing_is_executed(text: str, where: str, what: str) -> None:
    assert refusal(text, "x.lua").startswith(f"x.lua:{where}: {what}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.lua:1: column 1: the file is empty"),
        ("-- nothing\n", "x.lua:2: column 1: the file is empty"),
        ("{}", "x.lua:1: column 1: expected return { ... }, not {"),
        ("return", "x.lua:1: column 7: expected a value, not the end of the file"),
        (
            "return {\n{ a = 1\n",
            "x.lua:2: column 1: the table that begins here has no }",
        ),
        ("return { a = 'b }", "x.lua:1: column 14: a string begins here"),
        ('return { a = "b\n" }', "x.lua:1: column 14: a string begins here"),
        ("return { a = [[b }", "x.lua:1: column 14: begins here and has no end, ]]"),
        ("return {} --[==[ x", "x.lua:1: column 11: begins here and has no end, ]==]"),
        ("return { a = '\\q' }", "x.lua:1: column 15: \\q is no escape sequence"),
        ("return { a = '\\300' }", "x.lua:1: column 15: \\300 is no character"),
        ("return { a = '\\xff' }", "x.lua:1: column 14: the string is no UTF-8"),
        ("return { a = 12x }", "x.lua:1: column 14: 12x is no number"),
        ("return { a = 1.2.3 }", "x.lua:1: column 14: 1.2.3 is no number"),
        ("return { a = 1, a = 2 }", "x.lua:1: column 17: a is there twice"),
        ("return { 1, a = 2 }", "x.lua:1: column 13: a list and names in one table"),
        ("return { [3] = 1 }", "x.lua:1: column 11: expected a name or 1 in the br"),
        ("return { a = = 1 }", "x.lua:1: column 14: expected a value, not ="),
        ("return " + "{" * 60, "x.lua:1: column 58: more than 50 tables"),
        ("return {} return", "x.lua:1: column 11: return would have to be executed"),
    ],
)
def test_bad_lua_is_placed(text: str, message: str) -> None:
    assert refusal(text, "x.lua").startswith(message)


def plain(node: Node) -> object:
    if isinstance(node.value, list):
        return [plain(item) for item in node.value]
    if isinstance(node.value, dict):
        return {key: plain(item) for key, item in node.value.items()}
    return node.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0x10", 16),
        ("-0x.8p1", -1.0),
        ("- 5", -5),
        ("3.", 3.0),
        (".5e-1", 0.05),
        ("1e999", float("inf")),
        (r"'\a\b\f\n\r\t\v\\\"\'\065\x42\u{20AC}'", "\a\b\f\n\r\t\v\\\"'AB€"),
        ("'a\\\nb'", "a\nb"),
        ("'\\226\\130\\172'", "€"),
        ("[==[\n]]]=]]==]", "]]]=]"),
        ("[[\n\nx]]", "\nx"),
        ("{ [1] = 'a', 'b'; [3] = {}, }", ["a", "b", []]),
        ("{ ['a b'] = nil, [ [[c]] ] = true }", {"a b": None, "c": True}),
        ("--[[x]]{--[[y]]1--z\n}", [1]),
        ("---[[ x\n1", 1),
    ],
)
def test_values_of_lua(text: str, value: object) -> None:
    assert plain(lua_table.parse(f"return {text}", "x")) == value


# -- the other formats' mistakes -----------------------------------------------


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("x.toml", "[[port]]\na = \n", "x.toml:2: column 5: Invalid value"),
        ("x.toml", "[[port]]\na = [1", "x.toml:2: Unclosed array"),
        ("x.toml", "[[ports]]\n", 'x.toml:1: unknown key "ports"; did you mean "port"'),
        ("x.toml", "a = 1\n[[port]]\n", 'x.toml:1: unknown key "a"'),
        ("x.toml", "port = 5\n", "x.toml:1: expected a list of ports"),
        (
            "x.toml",
            '[[port]]\nport_id = "A"\n\n[[port]]\nport_id = "B"\nvlan = 4095\n',
            'x.toml:6: port "B": vlan: 4095 is not within 0 to 4094',
        ),
        (
            "x.toml",
            '[[port]]\nport_id = "A"\n[port.tunnel]\ntype = "L2TPv3"\n',
            'x.toml:3: port "A": tunnel: L2TPv3 tunnels are not there yet',
        ),
        (
            "x.toml",
            'port = [ {port_id = "A"}, {port_id = "B", vlan = 2000-01-01} ]',
            'x.toml:1: port "B": vlan: expected a number, 0 to 4094, not "2000-01-01"',
        ),
        ("x.json", "[\n{ 'a': 1 }]", 'x.json:2: column 3: expected a key in "quotes"'),
        ("x.json", '[{\n"a" 1 }]', 'x.json:2: column 5: expected ":" behind a key'),
        ("x.json", '[{"a": 1\n "b": 2}]', 'x.json:2: column 2: expected "," or "}"'),
        ("x.json", '[{"a": tru}]', "x.json:1: column 8: Expecting value"),
        ("x.json", "[]\n]", "x.json:2: expected the end of the file"),
        ("x.json", '[{"mtu": 1500,\n"mtu": 1}]', 'x.json:2: "mtu" is there twice'),
        ("x.json", "[" * 60, "x.json:1: more than 50 values"),
        ("x.json", "5", "x.json:1: expected a list of ports"),
        (
            "x.json",
            '[{"mtu":\n' + "9" * 5000 + "}]",
            "x.json:2: the number is too long",
        ),
        (
            "x.json",
            '[{"port_id": "A", "mtu": ' + "9" * 400 + "}]",
            'x.json:1: port "A": mtu: the number is not within 68 to 9706',
        ),
        ("x.json", '[{"mtu": NaN}]', "x.json:1: mtu: nan is not within 68 to 9706"),
        (
            "x.json",
            '[{"ingress_filter": "\\ud800"}]',
            "x.json:1: ingress_filter: '\\ud800' has half a character in it",
        ),
        ("x.toml", "port = " + "[" * 5000, "x.toml:1: too many values in each other"),
        ("x.toml", "a = " + "9" * 5000, "x.toml:1: a number is too long"),
        ("x.json", "[5]", "x.json:1: expected a table of a port's keys, not 5"),
        (
            "x.json",
            '[{"port_id": "A",\n"mtu":\n10000}]',
            'x.json:3: port "A": mtu: 10000 is not within 68 to 9706 bytes',
        ),
    ],
)
def test_other_formats(file: str, text: str, message: str) -> None:
    assert refusal(text, file).startswith(message)


# -- keys and values -----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vlan = 4095", "vlan: 4095 is not within 0 to 4094"),
        ("vlan = -1", "vlan: -1 is not within 0 to 4094"),
        ("vlan = '42'", 'vlan: expected a number, 0 to 4094, not "42"'),
        ("vlan = true", "vlan: expected a number, 0 to 4094, not true"),
        ("vlan = 4.5", "vlan: expected a whole number, not 4.5"),
        ("vlan = {}", "vlan: expected a number, 0 to 4094, not a table"),
        ("trunk = { 0 }", "trunk: 0 is not within 1 to 4094"),
        ("trunk = { '7-5' }", "trunk: 7-5: begins behind its end"),
        ("trunk = { '7-5000' }", "trunk: 5000 is not within 1 to 4094"),
        ("trunk = 'all'", 'trunk: expected a number, 1 to 4094, not "all"'),
        ("trunk = {5}, vlan = 6", "trunk: vlan or trunk, not both"),
        ("mac_address = 5", "mac_address: expected a string, not 5"),
        ("mac_address = '1:2'", 'mac_address: "1:2" is no MAC address; expected six'),
        ("mac_address = '00:00:00:00:00:00'", 'mac_address: "00:00:00:00:00:00" is n'),
        ("mac_address = {M, M}", "mac_address: an address is there twice"),
        ("vlan = 5", "vlan: needs mac_address beside it"),
        ("trunk = {5}", "trunk: needs mac_address beside it"),
        (
            "ingress_filter = 'prot tcp'",
            'ingress_filter: filter "prot tcp": libpcap says',
        ),
        ("egress_filter = 5", "egress_filter: expected a string, not 5"),
        ("stateful_filter = 1", "stateful_filter: expected true or false, not 1"),
        ("rx_police = 0", "rx_police: 0 would let nothing pass"),
        ("rx_police = -1", "rx_police: -1 is not within 0 to 1000 Gb/s"),
        ("rx_police = 0/0", "/ would have to be executed"),
        ("tx_police = 1e999", "tx_police: inf is not within 0 to 1000 Gb/s"),
        ("tx_police = 1, tx_police_gbps = 1", "tx_police_gbps: is set twice"),
        ("tx_police_burst = 200000", "tx_police_burst: says nothing without tx_police"),
        (
            "rx_police=1, rx_police_burst=1500",
            "rx_police_burst: 1500 is not within 131072",
        ),
        ("mtu = 67", "mtu: 67 is not within 68 to 9706 bytes"),
        ("queues = 0", "queues: 0 is not within 1 to 16"),
        ("mirror = ''", "mirror: '' is no path"),
        ("vlna = 5", "vlna: unknown key; did you mean vlan?"),
        ("mac = 5", "mac: unknown key; did you mean mac_address?"),
        (
            "ingres_filter = 'ip'",
            "ingres_filter: unknown key; did you mean ingress_filter",
        ),
        (
            "['stateful-filter'] = true",
            "stateful-filter: unknown key; did you mean sta",
        ),
        ("xyzzy = nil", "xyzzy: unknown key; there are port_id, mac_address, "),
        ("tunnel = {}", "tunnel: L2TPv3 tunnels are not there yet"),
        ("crypto = 1", "crypto: encryption is not there yet"),
    ],
)
def test_what_is_wrong_with_a_value(text: str, message: str) -> None:
    text = text.replace("M", '"02:00:00:00:00:01"')
    got = refusal(f'return {{\n{{ port_id = "A",\n{text} }} }}')
    assert message in got
    if "executed" not in message:
        assert got.startswith(f'ports:3: port "A": {message}')


@pytest.mark.parametrize(
    ("port_id", "message"),
    [
        ("''", "0 characters are not within 1 to 48"),
        ("'" + "x" * 49 + "'", "49 characters are not within 1 to 48"),
        ("'../etc'", '"../etc" would lead out of the directory of the sockets'),
        ("'..'", '".." would lead out'),
        ("'.'", '"." would lead out'),
        ("'a\\nb'", "has characters that cannot be printed"),
        ("'a\\000b'", "has characters that cannot be printed"),
        ("7", "expected a string, not 7"),
    ],
)
def test_ids(port_id: str, message: str) -> None:
    assert message in refusal(f"return {{ {{ port_id = {port_id} }} }}")


def test_a_port_needs_an_id() -> None:
    assert refusal("return {\n{ vlan = nil } }") == "ports:2: a port without port_id"
    assert refusal("return {\n\n{} }") == "ports:3: a port without port_id"


def two(a: str, b: str) -> str:
    return f"return {{\n{{ {a} }},\n{{ {b} }} }}"


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (
            "port_id='A', mac_address=M",
            "port_id='A', mac_address=N",
            'ports:3: port "A": port_id: A is the id of port "A", too (line 2)',
        ),
        (
            "port_id='a-b', mac_address=M",
            "port_id='a_b', mac_address=N",
            (
                'ports:3: port "a_b": port_id: a_b (as apps\' names have it) is the id '
                'of port "a-b", too (line 2)'
            ),
        ),
        (
            "port_id='A', mac_address=M, vlan=5",
            "port_id='B', mac_address={N, M}, vlan=5",
            (
                'ports:3: port "B": mac_address: 02:00:00:00:00:01 in VLAN 5 is an '
                'address of port "A", too (line 2)'
            ),
        ),
        (
            "port_id='A', mac_address=M, trunk={'1-9'}",
            "port_id='B', mac_address=M, vlan=5",
            'ports:3: port "B": mac_address: 02:00:00:00:00:01 in VLAN 5 is an address',
        ),
        (
            "port_id='A', mac_address=M",
            "port_id='B', mac_address=M, vlan=0",
            'ports:3: port "B": mac_address: 02:00:00:00:00:01 is an address of port',
        ),
        (
            "port_id='A', mac_address=M",
            "port_id='B'",
            'ports:3: port "B": mac_address: must be there when there are several',
        ),
        (
            "port_id='A', mac_address=M, mirror='x'",
            "port_id='B', mac_address=N, mirror='x'",
            'ports:3: port "B": mirror: x is that of port "A", too (line 2)',
        ),
    ],
)
def test_ports_that_do_not_go_together(a: str, b: str, message: str) -> None:
    text = two(a, b).replace("M", "'02:00:00:00:00:01'").replace("N", "'02::2'")
    text = text.replace("02::2", "02:00:00:00:00:02")
    assert refusal(text).startswith(message)


def test_ports_that_go_together() -> None:
    text = two(
        "port_id='A', mac_address='02:00:00:00:00:01', vlan=5",
        "port_id='B', mac_address='02:00:00:00:00:01', vlan=6",
    )
    assert [port.vlan for port in get(text).ports] == [5, 6]


# -- sockets and files ---------------------------------------------------------


def test_socket_paths() -> None:
    one, both = (
        NfvConfig((PortConfig("A"),)),
        NfvConfig((PortConfig("A"), PortConfig("b"))),
    )
    assert one.socket_paths("/run/vm.sock") == {"A": "/run/vm.sock"}
    assert both.socket_paths("/run/%s/%s") == {"A": "/run/A/A", "b": "/run/b/b"}
    with pytest.raises(ConfigError, match=r"needs %s for the port's id.* 2 ports"):
        both.socket_paths("/run/vm.sock")
    longest = "/" + "ä" * 52 + "/%s"
    assert len(one.socket_paths(longest)["A"].encode()) == 107
    with pytest.raises(
        ConfigError, match=r'port "A": socket path .* 108 bytes, 107 at'
    ):
        one.socket_paths("x" + longest)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "ports"
    with pytest.raises(DeviceError, match=rf"read {path}: No such file"):
        read(path, print)
    path.write_bytes(b"return {\n'\xff' }")
    with pytest.raises(ConfigError, match=rf"{path}:2: is no UTF-8 text"):
        read(path, print)
    path.write_bytes(b'\xef\xbb\xbf[{"port_id": "A"}]')
    assert read(path, print) == NfvConfig((PortConfig("A"),))


def test_app_names() -> None:
    assert PortConfig("523276c7-73e3 ä").app_name == "523276c7_73e3__"


def test_every_field_has_a_key() -> None:
    fields = set(PortConfig.__dataclass_fields__)
    assert {key.field for key in KEYS.values()} == fields


def test_what_would_take_all_time_and_memory() -> None:
    many = ", ".join(f"'02:00:00:00:{n >> 8:02x}:{n & 255:02x}'" for n in range(2000))
    port = f"port_id='A', mac_address={{{many}}}, trunk={{'1-4094'}}"
    assert len(get(f"return {{ {{ {port} }} }}").ports[0].macs) == 2000
    text = "return { { port_id='A', trunk={" + "1," * 5000 + "} } }"
    assert "trunk: 5000 items, and there are 4094 VLANs" in refusal(text)
    # Of tomllib a key this long would take minutes.
    for key in ("a." * 50_000 + "b = 1", "'a' . \"b\" ." * 50_000 + "c=1"):
        for text in (f"[[port]]\n{key}\n", f"\n[{key}]\n", f"\nx = {{ {key} }}\n"):
            assert refusal(text, "x.toml") == "x.toml:2: a key of more than 50 parts"
    text = "[[port]]\nport_id = 'A'\n" + "a." * 49 + "b = 1\n"
    assert "unknown key" in refusal(text, "x.toml")


def test_lines() -> None:
    text = "a\n\nb\n"
    lines = lua_table.Lines(text)
    assert [lines.of(at) for at in range(6)] == [1, 1, 2, 3, 3, 4]
