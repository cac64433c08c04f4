"""`snabb-py lwaftr` as a user calls it."""

import json
import subprocess
from pathlib import Path

import pytest

from snabb_py.lwaftr.conf import read
from snabb_py.lwaftr.made_up import MadeUpTable
from snabb_py.lwaftr.made_up_traffic import Ends, from_b4s, from_internet
from tests.captures import classic, frames_in
from tests.hosts import SNABB
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
        ("[]", "expected an object"),
        ("{", "no JSON"),
        ('{"in-ipv5-packets": 1}', '"in-ipv5-packets" is no counter'),
        ('{"in-ipv4-packets": true}', "expected a whole number"),
    ],
)
def test_bad_counters(text: str, expected: str, tmp_path: Path) -> None:
    arguments = files(next(iter(ALL.values())), tmp_path)
    arguments[5].write_text(text)
    result = call("check", *arguments)
    assert result.returncode == 2
    assert expected in result.stderr


def test_cut_off_capture(tmp_path: Path) -> None:
    arguments = files(ALL[some(("found-in-the-binding-table-untagged",))[0]], tmp_path)
    arguments[1].write_bytes(arguments[1].read_bytes()[:-1])
    result = call("check", *arguments)
    assert result.returncode == 2
    assert "cut off" in result.stderr


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


def test_bench_of_nothing(made_up: list[Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty.pcap"
    empty.write_bytes(classic([]))
    result = call("bench", made_up[0], empty, made_up[2])
    assert result.returncode == 2
    assert "no packet in it" in result.stderr
