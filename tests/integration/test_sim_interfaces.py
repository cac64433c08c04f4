"""Software cards as interfaces of programs: each word, each way to be wrong."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from snabb_py.cli.forward import build
from snabb_py.errors import ConfigError
from tests.captures import classic, frames_in
from tests.integration.test_forward_cli import forward


def directions(*arguments: str) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = forward(*arguments)["directions"]
    return result


def test_inline_loses_nothing_at_line_rate_both_ways() -> None:
    word = "sim,inline,rate=14.88Mpps,count=2e5"
    for d in directions(word, word, "--hops", "8", "--bidir"):
        assert d["offered"] == d["forwarded"] == 200_000
        assert d["lost"] == 0
        assert d["drops"] == {}


def test_by_itself_it_takes_what_is_offered_and_loses_nothing() -> None:
    word = "sim,count=2e5"
    for d in directions(word, word, "--hops", "8", "--bidir"):
        assert d["offered"] == d["forwarded"] == 200_000
        assert d["lost"] == 0


@pytest.mark.parametrize("options", ["rate=max", "size=imix", "ip=6,vlan=5", "ring=64"])
def test_options_of_the_traffic(options: str) -> None:
    word = f"sim,inline,count=1e4,{options}"
    for d in directions(word, word, "--bidir"):
        assert d["forwarded"] == 10_000
        assert d["lost"] == 0


def test_what_a_card_does_not_take_is_lost_where_it_says() -> None:
    word = "sim,inline,rate=0.8Mpps,count=1e4,mtu=100,size=1518"
    (d,) = directions(word, "sim,inline", "--hops", "1")
    assert d["offered"] == 10_000
    assert d["forwarded"] == 0
    assert d["drops"] == {"a-card drop-rx-bad-length": 10_000}


def test_one_direction_alone_has_no_other_generator() -> None:
    config, (direction,) = build("sim", "sim", hops=2, bidir=False, police=None)
    assert "b-wire-in" not in config.apps
    assert direction.path[0] == "a-wire-in"
    assert direction.path[-1] == "b-wire-out"


def test_a_capture_is_a_wire(tmp_path: Path) -> None:
    frames = [bytes([i]) * (60 + i) for i in range(2, 200, 2)]
    (tmp_path / "in.pcap").write_bytes(classic(frames))
    (d,) = directions(
        f"sim,wire=pcap:{tmp_path}/in.pcap",
        f"sim,wire=pcap:,{tmp_path}/out.pcap",
        "--hops",
        "3",
    )
    assert d["offered"] == d["forwarded"] == len(frames)
    assert frames_in((tmp_path / "out.pcap").read_bytes()) == frames


def test_both_ends_the_same_card_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be both ends"):
        build("pcap:a", "pcap:a", hops=1, bidir=False, police=None)


@pytest.mark.parametrize("size", ["1518", "9018", "imix"])
def test_a_generator_that_waits_loses_no_long_frames(size: str) -> None:
    word = f"sim,size={size},count=2e4"
    for d in directions(word, word, "--bidir", "--hops", "2"):
        assert d["offered"] == d["forwarded"] == 20_000
        assert d["drops"] == {}


def test_on_one_cpu_card_and_driver_share_a_worker() -> None:
    code = (
        "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from snabb_py.cli import main; main(sys.argv[1:])"
    )
    words = ["forward", "sim,count=2e4", "null", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    summary = json.loads(done.stdout.splitlines()[-1])
    assert len(summary["workers"]) == 1
    assert summary["directions"][0]["forwarded"] == 20_000
