"""`snabb-py lwaftr` as a user calls it."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from snabb_py.lwaftr.conf import read
from snabb_py.lwaftr.made_up import MadeUpTable
from snabb_py.lwaftr.made_up_traffic import Ends, from_b4s, from_internet
from tests.captures import classic, frames_in
from tests.hosts import SNABB, Host
from tests.lwaftr_cases import CASES, OBSERVED, Case, cases
from tests.nfv_program import ROOT

ALL = {case.id: case for case in cases(CASES)}
SEEN = {case.id: case for case in cases(OBSERVED)}


def call(*arguments: str | float | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SNABB, "lwaftr", *map(str, arguments)],
        check=False, capture_output=True, text=True, timeout=120, cwd=ROOT,
    )  # fmt: skip


# -- check ---------------------------------------------------------------------


def files(case: Case, directory: Path) -> list[Path]:
    """Return the arguments of a case, its captures and counters written to files."""
    captures = {"v4": case.v4, "v6": case.v6, "v4o": case.v4_out, "v6o": case.v6_out}
    paths = [directory / f"{name}.pcap" for name in captures]
    for path, frames in zip(paths, captures.values(), strict=True):
        path.write_bytes(classic(frames))
    counters = directory / "counters.json"
    counters.write_text(json.dumps(case.counters))
    return [case.config, *paths, counters]


def some(words: tuple[str, ...]) -> list[str]:
    return [next(name for name in ALL if word in name) for word in words]


WORDS = ("found-in-the-binding-table-untagged", "fragment", "hairpin", "arp", "vlan")


@pytest.mark.parametrize("name", some(WORDS))
def test_check_of_a_case(name: str, tmp_path: Path) -> None:
    result = call("check", *files(ALL[name], tmp_path))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "name", [next(n for n, c in ALL.items() if c.on_a_stick and w in n) for w in WORDS]
)
def test_check_on_a_stick(name: str, tmp_path: Path) -> None:
    result = call("check", "--on-a-stick", *files(ALL[name], tmp_path))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_check_says_what_differs(tmp_path: Path) -> None:
    case = ALL[some(("found-in-the-binding-table-untagged",))[0]]
    arguments = files(case, tmp_path)
    (frame,) = case.v6_out
    changed = frame[:21] + bytes([frame[21] ^ 1]) + frame[22:]
    arguments[4].write_bytes(classic([changed, frame]))
    arguments[5].write_text(json.dumps(case.counters | {"in-ipv4-packets": 7}))
    result = call("check", *arguments)
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith(
        f"v6: frame 1: from byte 21 on expected {changed[21:37].hex()}"
    )
    assert lines[1:] == [
        f"v6: frame 2: does not come, {len(frame)} bytes",
        "in-ipv4-packets: expected 7, is 1",
    ]


def test_check_says_what_was_not_expected(tmp_path: Path) -> None:
    case = ALL[some(("found-in-the-binding-table-untagged",))[0]]
    arguments = files(case, tmp_path)
    arguments[4].write_bytes(classic([]))
    result = call("check", *arguments[:5])
    assert result.returncode == 1
    assert result.stdout.startswith("v6: frame 1: not expected: ")


@pytest.mark.parametrize("stick", [False, True])
def test_check_writes_expectations(stick: bool, tmp_path: Path) -> None:
    case = next(c for c in ALL.values() if c.on_a_stick and c.v4_out and c.v6_out)
    arguments = files(case, tmp_path)
    options = ["--on-a-stick"] if stick else []
    for path in arguments[3:]:
        path.unlink()
    assert call("check", "-r", *options, *arguments).returncode == 0
    assert frames_in(arguments[3].read_bytes()) == list(case.v4_out)
    assert frames_in(arguments[4].read_bytes()) == list(case.v6_out)
    assert call("check", *options, *arguments).returncode == 0


def test_check_as_snabb(tmp_path: Path) -> None:
    case = SEEN["reserved-ports-64"]
    arguments = files(case, tmp_path)
    assert call("check", "--compat", "snabb", *arguments).returncode == 0
    assert call("check", *arguments).returncode != 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "no JSON"),
        ("[" * 200_000, "no JSON: too many values in each other"),
        (" " * (1 << 20) + "{}", "is longer than 1 MiB"),
        ('{"in-ipv4-packets": true}', "expected a whole number"),
    ],
)
def test_bad_counters(text: str, expected: str, tmp_path: Path) -> None:
    arguments = files(next(iter(ALL.values())), tmp_path)
    arguments[5].write_text(text)
    result = call("check", *arguments)
    assert result.returncode == 2
    assert expected in result.stderr


# -- bench ---------------------------------------------------------------------

ENDS = Ends(bytes.fromhex("020000000004"), bytes.fromhex("020000000104"))


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return a config and captures of what its softwires carry."""
    directory = tmp_path_factory.mktemp("made-up")
    conf, v4, v6 = (directory / name for name in ("lw.conf", "v4.pcap", "v6.pcap"))
    conf.write_text(MadeUpTable(10, reserved_ports_bit_count=4).statements())
    softwires = read(conf).binding_table.sample(1000)
    assert len(set(softwires)) == 640
    v4.write_bytes(classic(from_internet(softwires, ENDS, (64, 594))))
    v6.write_bytes(classic(from_b4s(softwires, ENDS, (64, 594))))
    return [conf, v4, v6]


def test_made_up_traffic(made_up: list[Path], tmp_path: Path) -> None:
    """What the softwires carry passes whole, in both directions."""
    out = [tmp_path / name for name in ("v4.pcap", "v6.pcap", "counters.json")]
    assert call("check", "-r", *made_up, *out).returncode == 0
    counters = json.loads(out[2].read_text())
    assert counters["out-ipv4-packets"] == counters["out-ipv6-packets"] == 640
    assert not [name for name in counters if name.startswith("drop-")]


@pytest.mark.parametrize("workers", [1, 2])
def test_bench(workers: int, made_up: list[Path]) -> None:
    result = call("bench", "--duration", 0.5, "--json", "--workers", workers, *made_up)
    assert result.returncode == 0, result.stderr
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    assert found["decap_mpps"] > 0
    assert found["encap_mpps"] > 0
    # bits of both are of the same packets, those of the tunnel 40 bytes longer
    assert found["encap_gbps"] / found["encap_mpps"] == pytest.approx(
        found["decap_gbps"] / found["decap_mpps"] + 0.32, rel=0.05
    )
    assert (found["softwires"], found["workers"]) == (640, workers)
    assert found["drops"] == {}


def test_bench_says_what_is_dropped(made_up: list[Path]) -> None:
    conf, v4, v6 = made_up
    result = call("bench", "--duration", 0.1, conf, v6, v4)  # the wrong way round
    assert result.returncode == 0, result.stderr
    assert "encapsulation: 0.000 Mpps" in result.stdout
    assert "drop-misplaced-not-ipv4-packets" in result.stdout


@pytest.mark.parametrize("what", ["unknown", "too big"])
def test_bench_counts_no_icmp_errors(
    what: str, made_up: list[Path], tmp_path: Path
) -> None:
    """Of captures in which all is refused nothing has been forwarded."""
    conf = tmp_path / "lw.conf"
    text, limit = made_up[0].read_text(), "error-rate-limiting { packets 4294967295; }"
    assert text.count("mtu 15") == 2
    conf.write_text(text.replace("mtu 15", f"{limit} mtu 15"))
    softwires = read(conf).binding_table.sample(64)
    unbound = [softwire._replace(ipv4=softwire.ipv4 + 1000) for softwire in softwires]
    v4, v6 = (tmp_path / f"{side}.pcap" for side in ("v4", "v6"))
    v4.write_bytes(classic(from_internet(unbound, ENDS, (64,))))
    if what == "unknown":  # an ICMPv6 error
        v6.write_bytes(classic(from_b4s(unbound, ENDS, (64,))))
    else:  # for the internet, and not to be cut up: an ICMPv4 error in the tunnel
        v6.write_bytes(classic(from_b4s(softwires, ENDS, (1600,))))
    result = call("bench", "--duration", 0.3, "--json", conf, v4, v6)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["drops"]["drop-no-dest-softwire-ipv4-packets"] > 0
    assert len([name for name in found["drops"] if "icmp" not in name]) == 2
    assert (found["decap_mpps"], found["encap_mpps"]) == (0, 0)


# -- run -----------------------------------------------------------------------

TABLE = ROOT / "examples" / "binding.table"
CONF = ROOT / "examples" / "lwaftr.conf"


def carry(*arguments: str | float | Path) -> dict[str, Any]:
    """Return the summary of a run."""
    result = call("run", "--json", *arguments)
    assert result.returncode == 0, result.stderr
    summary: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return summary


def packets(summary: dict[str, Any], name: str) -> int:
    return int(summary["counters"][f"{name}-packets"])


@pytest.mark.parametrize("config", [["--bt", TABLE], ["--conf", CONF]])
def test_run_on_software_cards(config: list[str | Path]) -> None:
    """All that comes passes in a tunnel, or out of one."""
    cards = [
        "--v4",
        "sim,inline,count=20000",
        "--v6",
        "sim,inline,count=20000,size=imix",
    ]
    summary = carry(*config, *cards, "--duration", 2)
    encap = summary["directions"][0]
    assert (encap["from"], encap["to"]) == (f"{cards[1]} (v4)", f"{cards[3]} (v6)")
    for direction in summary["directions"]:
        assert direction["forwarded"] == direction["offered"] == 20000
        assert direction["drops"] == {}
    assert packets(summary, "in-ipv4") == packets(summary, "out-ipv6") == 20000
    assert packets(summary, "in-ipv6") == packets(summary, "out-ipv4") == 20000
    assert summary["softwires"] == 4


def test_run_without_interfaces() -> None:
    summary = carry("--bt", TABLE, "--duration", 1)
    assert [(d["task"], d["from"]) for d in summary["directions"]] == [
        ("encapsulation", "sim (v4)"),
        ("decapsulation", "sim (v6)"),
    ]
    assert all(d["forwarded"] > 0 for d in summary["directions"])


def test_run_on_a_stick() -> None:
    card = "sim,inline,count=20000"
    summary = carry("--bt", TABLE, "--on-a-stick", card, "--duration", 2)
    (both,) = summary["directions"]
    assert "task" not in both
    assert both["forwarded"] == both["offered"] == 20000
    assert packets(summary, "out-ipv4") == packets(summary, "out-ipv6") == 10000


@pytest.mark.parametrize("stick", [False, True])
def test_run_on_several_workers(
    stick: bool, made_up: list[Path], tmp_path: Path
) -> None:
    """What comes in on one interface is all workers', and comes out whole."""
    conf, v4, v6 = made_up
    if stick:
        both = frames_in(v4.read_bytes()) + frames_in(v6.read_bytes())
        (tmp_path / "in.pcap").write_bytes(classic(both))
        words = ["--on-a-stick", f"pcap:{tmp_path}/in.pcap,{tmp_path}/out.pcap"]
    else:
        words = ["--v4", f"pcap:{v4},{tmp_path}/v4", "--v6", f"pcap:{v6},{tmp_path}/v6"]
    summary = carry("--conf", conf, *words, "--workers", 3)
    assert [d["drops"] for d in summary["directions"]] == [{}] * (1 if stick else 2)
    for direction in summary["directions"]:
        assert direction["forwarded"] == direction["offered"]
    assert packets(summary, "out-ipv4") == packets(summary, "out-ipv6") == 640
    assert len(summary["workers"]) == 3


def test_run_on_more_workers_than_cpus() -> None:
    n = len(os.sched_getaffinity(0)) + 1
    ends = ["--v4", "null", "--v6", "sim,count=10"]
    result = call("run", "--conf", CONF, *ends, "--workers", n, "--duration", 0.1)
    assert result.returncode == 0, result.stderr
    assert f"{n} workers on {n - 1} CPUs take turns: fewer are faster" in result.stderr


def test_run_software_cards_on_several_workers() -> None:
    summary = carry("--bt", TABLE, "--workers", 2, "--duration", 0.5)
    for direction in summary["directions"]:
        assert direction["forwarded"] > 0
        assert direction["drops"] == {}


def test_run_on_several_workers_names_what_it_drops(
    made_up: list[Path], tmp_path: Path
) -> None:
    _, v4, v6 = made_up
    words = ["--v4", f"pcap:{v4}", "--v6", f"pcap:{v6},{tmp_path}/v6"]
    summary = carry("--conf", CONF, *words, "--workers", 2)
    encap, decap = summary["directions"]
    assert encap["drops"]["drop-no-dest-softwire-ipv4-packets"] == 640
    assert decap["drops"]["drop-no-source-softwire-ipv6-packets"] == 640
    assert packets(summary, "drop-all-ipv4-iface") == 640


def test_run_names_what_it_drops(made_up: list[Path], tmp_path: Path) -> None:
    """Foreign softwires: each side's drops, by counter, and the run's own end."""
    _, v4, v6 = made_up
    out = [tmp_path / "v4.pcap", tmp_path / "v6.pcap"]
    words = [f"pcap:{a},{b}" for a, b in zip((v4, v6), out, strict=True)]
    summary = carry("--conf", CONF, "--v4", words[0], "--v6", words[1])
    encap, decap = summary["directions"]
    assert encap["drops"]["drop-no-dest-softwire-ipv4-packets"] == 640
    assert decap["drops"]["drop-no-source-softwire-ipv6-packets"] == 640
    assert encap["drops"].keys().isdisjoint(decap["drops"])
    # Errors that may not be sent have not come.
    assert encap["lost"] == encap["offered"] == 640 < sum(encap["drops"].values())


def lost_fragments() -> tuple[list[bytes], list[bytes]]:
    """Return frames from the internet and from B4s of which nothing comes whole.

    Of both sides' datagrams, and of those in a tunnel: one that overlaps, one that
    never ends, twice the same. And pings of nobody.
    """
    to_b4 = IP(src="203.0.113.1", dst="198.51.100.1", proto=17)
    tunnel = IPv6(src="2001:db8:1::1", dst="2001:db8::1")
    inner = IP(src="198.51.100.1", dst="203.0.113.1", proto=17)
    ping = IP(src="203.0.113.1", dst="198.51.100.8") / ICMP(id=1)
    v4, v6 = [Ether() / ping], []
    for ident, offsets in ((1, (0, 3, 4)), (2, (0, 5, 9, 20)), (3, (8, 8))):
        for i in offsets:
            field = {"id": ident, "flags": "MF", "frag": i}
            header = IPv6ExtHdrFragment(nh=4, id=ident, m=1, offset=i)
            payload = Raw(bytes(16))
            v4.append(Ether() / to_b4.copy() / payload)
            v6.append(Ether() / tunnel / inner.copy() / payload)
            for frame in (v4[-1], v6[-1]):
                for name, value in field.items():
                    setattr(frame[IP], name, value)
            v6.append(Ether() / tunnel / header / payload)
    return [bytes(frame) for frame in v4], [bytes(frame) for frame in v6]


def test_each_fragment_that_is_lost_is_counted(tmp_path: Path) -> None:
    for side, frames in zip(("v4", "v6"), lost_fragments(), strict=True):
        (tmp_path / side).write_bytes(classic(frames))
    words = [f"pcap:{tmp_path}/{side}" for side in ("v4", "v6")]
    summary = carry("--conf", CONF, "--v4", words[0], "--v6", words[1])
    for direction, n in zip(summary["directions"], (10, 18), strict=True):
        assert direction["lost"] == direction["offered"] == n, direction["drops"]
    assert summary["counters"]["drop-ipv4-frag-invalid-reassembly"] == 2


@pytest.mark.parametrize("option", ["--conf", "--bt"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/dev/zero", "/dev/zero: is no regular file"),
        ("fifo", "fifo: is no regular file"),
        ("vast", "vast: is longer than 4096 MiB: no config"),
        ("nowhere", "nowhere: No such file or directory"),
        (".", ": Is a directory"),
    ],
)
def test_what_is_no_config(
    option: str, name: str, expected: str, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "vast").open("wb") as file:
        file.truncate(2**32 + 1)
    result = call("run", option, tmp_path / name)
    assert result.returncode in {1, 2}
    assert expected in result.stderr


@pytest.fixture
def silent(made_up: list[Path], tmp_path: Path) -> Path:
    """Return a config with a next hop on the internet that nobody is."""
    text = made_up[0].read_text()
    path = tmp_path / "silent.conf"
    path.write_text(text.replace("mac 02:00:00:00:01:04", "ip 10.10.10.11"))
    return path


@pytest.mark.parametrize("workers", [1, 2])
def test_run_counts_what_waits_in_vain(
    silent: Path, made_up: list[Path], workers: int
) -> None:
    """All of it has come, none has left: what is lost has a reason."""
    ends = ["--v4", "null", "--v6", f"pcap:{made_up[2]}"]
    summary = carry("--conf", silent, *ends, "--workers", workers)
    (decap,) = (d for d in summary["directions"] if d["offered"])
    assert decap["offered"] == decap["lost"] == 640
    assert decap["forwarded"] == 0, "its own ARP requests are no packets of others"
    assert decap["drops"] == {"drop-next-hop-unresolved-ipv4-packets": 640}


@pytest.mark.parametrize(
    "name", some(("arp", "ndp", "ping-with", "hairpin", "ttl-1", "echo-request"))
)
def test_what_is_offered_is_forwarded_or_lost(name: str, tmp_path: Path) -> None:
    """What an lwAFTR says for itself, or is told, is none of it."""
    case = ALL[name]
    v4, v6, *_ = files(case, tmp_path)[1:]
    ends = ["--v4", f"pcap:{v4}", "--v6", f"pcap:{v6}"]
    summary = carry("--conf", case.config, *ends)
    assert summary["counters"], "it has done something"
    for direction in summary["directions"]:
        assert direction["offered"] == direction["forwarded"] + direction["lost"]


def test_run_says_who_does_not_answer(silent: Path) -> None:
    ends = ["--v4", "null", "--v6", "sim,rate=1kpps"]
    result = call("run", "--conf", silent, *ends, "--duration", 5)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("next hop 10.10.10.11 does not answer") == 1


def test_run_of_one_side_only(made_up: list[Path]) -> None:
    """It ends with its only capture; what comes out goes nowhere."""
    conf, v4, _ = made_up
    (encap,) = carry("--conf", conf, "--v4", f"pcap:{v4}", "--v6", "null")["directions"]
    assert encap["forwarded"] == encap["offered"] == 640


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_run_asks_the_kernel() -> None:
    """Address, MAC address and gateway are the interface's."""
    with ExitStack() as stack:
        host = Host(1)
        stack.callback(host.close)
        host("ip", "link", "add", "eth", "type", "veth", "peer", "name", "other")
        host("ip", "link", "set", "eth", "address", "02:00:00:00:00:07", "up")
        host("ip", "link", "set", "other", "up")
        host("ip", "addr", "add", "198.18.0.1/24", "dev", "eth")
        host("ip", "route", "add", "default", "via", "198.18.0.254")
        command = [*SNABB, "lwaftr", "run", "--bt", str(TABLE), "--v6", "sim,wire=sink"]
        options = ["--v4", "raw:eth", "--duration", "0.5", "--json"]
        summary = host(*command, *options)
        counters = json.loads(summary.splitlines()[-1])["counters"]
        assert counters["out-arp-request-packets"] == 1
        host("ip", "route", "del", "default")
        said = "--v4-next-hop is missing: .* no default route of IPv4 goes out there"
        with pytest.raises(AssertionError, match=said):
            host(*command, *options)


def veth(ours: Host, theirs: Host, name: str, *addresses: str) -> None:
    """Join two hosts by a cable; `theirs` gets addresses on it."""
    ours("ip", "link", "add", name, "type", "veth", "peer", name, "netns", theirs.name)
    ours("ip", "link", "set", name, "up")
    theirs("ip", "link", "set", name, "up")
    for address in addresses:
        at_once = ["nodad"] if ":" in address else []
        theirs("ip", "addr", "add", address, "dev", name, *at_once)


SEND = """
import socket
for peer in range(100, 108):
    with socket.socket(type=socket.SOCK_DGRAM) as s:
        s.bind((f"198.18.0.{peer}", 2000))
        for _ in range(20):
            s.sendto(bytes(100), ("198.51.100.1", 5000))
"""


@pytest.mark.need("root", "netns", "ping")
def test_several_workers_have_one_linux_neighbour() -> None:
    """It is asked once, gets one answer, and what each worker sends."""
    with ExitStack() as stack:
        aftr, other = Host(1), Host(2)
        stack.callback(aftr.close)
        stack.callback(other.close)
        hosts = [f"198.18.0.{peer}/24" for peer in (254, *range(100, 108))]
        veth(aftr, other, "v4", *hosts)
        veth(aftr, other, "v6", "2001:db8::fe/64")
        other("ip", "route", "add", "198.51.100.0/24", "via", "198.18.0.1")
        process = aftr.start(
            *SNABB, "lwaftr", "run", "--bt", str(TABLE), "--workers", "2", "--json",
            *("--v4", "raw:v4", "--v4-address", "198.18.0.1"),
            *("--v4-mac", "02:00:00:00:00:04", "--v4-next-hop", "198.18.0.254"),
            *("--v6", "raw:v6", "--v6-address", "2001:db8::1"),
            *("--v6-mac", "02:00:00:00:00:06", "--v6-next-hop", "2001:db8::fe"),
            "--interval", "0.1",
        )  # fmt: skip
        try:
            assert process.stdout
            assert process.stdout.readline()
            for address in ("198.18.0.1", "2001:db8::1"):
                other("ip", "neigh", "flush", "all")
                pings = other("ping", "-c", "3", "-i", "0.1", "-w", "9", address)
                assert "3 received" in pings
                assert "DUP" not in pings
            other(sys.executable, "-c", SEND)
            seen: list[int] = []
            for line in islice(process.stdout, 100):
                seen.append(json.loads(line)["directions"][0]["forwarded"])
                if seen[-1] >= 160 and seen[-5:] == [seen[-1]] * 5:
                    break
            process.terminate()
            summary = json.loads(process.communicate(timeout=20)[0].splitlines()[-1])
        finally:
            process.kill()
            process.wait()
        counters = summary["counters"]
        assert counters["in-ipv4-packets"] == counters["out-ipv6-packets"] == 160
        for asked, answered in (("arp-request", "arp-reply"), ("ndp-ns", "ndp-na")):
            asks = counters[f"in-{asked}-packets"]
            assert 0 < counters[f"out-{answered}-packets"] <= asks
        assert counters["out-arp-request-packets"] <= 2
        assert counters["out-ndp-ns-packets"] <= 2


def interface(stack: ExitStack) -> Host:
    """Return a host whose `eth` has an address of the example's config."""
    host = Host(1)
    stack.callback(host.close)
    host.ip("""
        link add eth type veth peer name other
        link set eth up
        link set other up
        address add 192.0.2.1/24 dev eth
        address add 2001:db8::bbbb/64 dev eth nodad
    """)
    return host


@pytest.mark.need("root", "netns")
def test_run_says_what_the_kernel_does() -> None:
    """Where it answers besides us, forwards, or has no room for our packets."""
    with ExitStack() as stack:
        host = interface(stack)
        for version in (4, 6):
            host("sysctl", "-qw", f"net.ipv{version}.conf.eth.forwarding=1")
        command = [*SNABB, "lwaftr", "run", "--conf", str(CONF)]
        options = ["--on-a-stick", "raw:eth", "--duration", "0.1"]
        process = host.start(*command, *options)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        lines = [line for line in said.splitlines() if "raw:eth" in line]
        for line, expected in zip(lines, [
            "the kernel has 192.0.2.1, too",
            "sysctl net/ipv4/conf/eth/forwarding=0",
            "the kernel has 2001:db8::bbbb, too",
            "sysctl net/ipv6/conf/eth/forwarding=0",
            "its MTU is 1500, less than the 1540 that are configured",
        ], strict=True):  # fmt: skip
            assert expected in line


@pytest.mark.need("root", "netns")
def test_run_wants_the_mtu_of_ipv6() -> None:
    with ExitStack() as stack:
        host = interface(stack)
        host.ip("link set eth mtu 1279")
        command = [*SNABB, "lwaftr", "run", "--bt", str(TABLE)]
        ours = ["--v6-address", "2001:db8::1", "--v6-next-hop", "02:00:00:00:00:01"]
        process = host.start(*command, "--v4", "sim", "--v6", "raw:eth", *ours)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 2
        assert "its MTU is 1279, less than 1280" in said


# -- query ---------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "2"])
def test_query(workers: str) -> None:
    command = [*SNABB, "lwaftr", "run", "--bt", str(TABLE), "--workers", workers]
    process = subprocess.Popen(
        [*command, "--json", "--interval", "0.1"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout
        for line in process.stdout:
            if all(d["forwarded"] for d in json.loads(line)["directions"]):
                break
        pid = process.pid
        result = call("query", "--pid", pid, "--json", "out-ipv?-packets")
        assert result.returncode == 0, result.stderr
        found = json.loads(result.stdout)
        assert found["pid"] == pid
        assert found["counters"].keys() == {"out-ipv4-packets", "out-ipv6-packets"}
        assert all(n > 0 for n in found["counters"].values())
        text = call("query", "--pid", pid).stdout
        first = text.partition("\n")[0]
        assert first == f"process {pid}  v4 sim, v6 sim  {TABLE}"
        about = {"v4": "sim", "v6": "sim"}, str(TABLE), None, 4, int(workers)
        keys = ("interfaces", "bt", "conf", "softwires", "workers")
        assert tuple(found[key] for key in keys) == about
        assert "in-ipv4-packets" in text
        held = call("query", "--pid", pid, "--json", "fragments-held").stdout
        assert json.loads(held)["counters"] == {"fragments-held": 0}
        assert "drop-no-dest-softwire" not in text
        # A whole name is that alone.
        only = call("query", "--pid", pid, "--json", "in-ipv4-packets").stdout
        assert json.loads(only)["counters"].keys() == {"in-ipv4-packets"}
        lost = call("query", "--pid", pid, "--json", "txdrop", "v4 drop").stdout
        names = json.loads(lost)["counters"].keys()
        assert {name.endswith("txdrop") for name in names} == {True, False}
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0
    result = call("query", "--pid", pid)
    assert result.returncode == 1
    assert f"no lwAFTR in process {pid}" in result.stderr


def test_query_lists_names() -> None:
    names = call("query", "-l").stdout.split()
    assert len(names) > 93
    assert call("query", "-l", "arp").stdout.split() == [n for n in names if "arp" in n]
