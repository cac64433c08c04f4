"""Ports of `nfv traffic` that talk while the config changes lose no packet."""

from pathlib import Path
from typing import Any

import pytest

from tests import nfv_reload
from tests.nfv_program import port, toml, traffic
from tests.talkers import Talkers

TIMES = 10
CARD, BRIDGE = "sim,wire=null", "null"
NAMES = "ABCDEF"
MACS = {name: bytes([2, 0, 0, 0, 1, n]) for n, name in enumerate((*NAMES, "G", "H"))}


def check(result: nfv_reload.Result, *, times: int, refusals: int) -> None:
    assert result.problems == []
    assert (len(result.times), len(result.refusals)) == (times, refusals)
    assert all(flow.sent > 0 for flow in result.flows)
    assert set(nfv_reload.OURS) <= set(result.untouched)


@pytest.mark.parametrize("pair", nfv_reload.PAIRS)
def test_snabbs_pairs(pair: str) -> None:
    result = nfv_reload.run(pair, CARD, TIMES)
    is_refused = pair == "switch_tunnel"
    check(
        result,
        times=0 if is_refused else TIMES,
        refusals=TIMES if is_refused else 0,
    )
    assert len(result.flows) == (4 if pair == "scale_change" else 2)


@pytest.mark.parametrize(
    ("pair", "workers"), [("switch_virtio", "1"), ("scale_up", "2")]
)
def test_through_a_bridge(pair: str, workers: str) -> None:
    result = nfv_reload.run(pair, BRIDGE, TIMES, "--workers", workers)
    check(result, times=TIMES, refusals=0)


def test_configs_that_make_no_sense() -> None:
    mistakes = len(nfv_reload.MISTAKES)
    result = nfv_reload.run("switch_nic", CARD, mistakes, with_mistakes=True)
    check(result, times=mistakes, refusals=mistakes)


@pytest.mark.parametrize("trunk", [CARD, BRIDGE])
def test_two_workers(tmp_path: Path, trunk: str) -> None:
    """Ports of one worker talk, and of two; what comes goes where there are fewest."""
    six = [port(name, MACS[name]) for name in NAMES]

    def config(*others: dict[str, Any], without: str = "") -> str:
        return toml(*(p for p in six if p["port_id"] not in without), *others)

    def plain(name: str, **keys: Any) -> dict[str, Any]:
        return port(name, MACS[name], **keys)

    with traffic(tmp_path, trunk, config(), "--workers", "2", nports=6) as program:
        ends = [(program.socket(name), MACS[name].hex(":")) for name in "ACBDEF"]
        with Talkers(ends) as talkers:
            for _ in range(TIMES):
                assert program.change(config(plain("G"))) == "added G"
                changed = plain("G", tx_police=1.0, ingress_filter="ip")
                assert program.change(config(changed)) == "changed G"
                assert program.change(config(plain("H"), changed)) == "added H"
                assert program.change(config(plain("H"))) == "removed G"
                assert program.change(config()) == "removed H"
            flows = talkers.stop()
        # The first worker has one port less now.
        program.change(config(plain("G"), without="A"))
        program.change(config(plain("G"), plain("H"), without="A"))
        summary = program.end()
    assert [flow for flow in flows if not flow.is_whole] == []
    assert min(flow.sent for flow in flows) > 0
    workers = {p["port"]: p.get("worker") for p in summary["ports"]}
    assert workers == {
        "A": None, "B": 1, "C": 0, "D": 1, "E": 0, "F": 1, "G": 0, "H": 0,
    }  # fmt: skip
    for p in summary["ports"]:
        assert not p["to"]["drops"] | p["from"]["drops"]
