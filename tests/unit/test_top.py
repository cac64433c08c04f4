"""What `top` makes of readings, and of keys."""

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from snabb_py.cli.readings import Change, Reading, ends_of
from snabb_py.cli.top_live import View
from snabb_py.cli.top_text import lines_of
from snabb_py.engine import counter
from snabb_py.engine.histogram import BUCKETS
from snabb_py.engine.shm_reader import Rows

LINK = "a.tx -> b.rx"


def rows(packets: int, *, busy_ns: int = 0, dropped: int = 0) -> Rows:
    worker = dict.fromkeys(counter.WORKER, 0) | {"busy-ns": busy_ns}
    link = dict.fromkeys(counter.LINK, packets)
    return {
        "workers/0": worker,
        "workers/0/breath-gap-ns": [0] * BUCKETS,
        f"links/{LINK}": link | {"txdrop": dropped},
        "apps/a": {"rx-packets": packets, "drop-late": dropped, "drop-late-bytes": 9},
    }


def report(pid: int, change: Change) -> dict[str, Any]:
    return {
        "pid": pid,
        "program": "forward",
        "arguments": ["raw:x\x1b[1m"],
        "seconds": 3.0,
        "interval": change.seconds,
        "workers": change.workers({0: "1"}),
        "interfaces": change.interfaces({"a": "raw:x"}),
        "drops": change.new.drops(),
        "drop_rates": change.drop_rates(),
        "links": change.links(),
        "apps": change.apps(),
    }


def test_rates_and_load() -> None:
    old = Reading(10.0, rows(1000, busy_ns=10**9))
    new = Reading(12.0, rows(5000, busy_ns=2 * 10**9, dropped=30))
    found = report(1, Change(old, new))
    (link,) = found["links"]
    assert (link["mpps"], link["packets"]) == (0.002, 5000)
    # On the wire: 24 bytes more than a frame has without FCS.
    assert link["gbps"] == pytest.approx((2000 + 24 * 2000) * 8 / 1e9, abs=1e-6)
    assert found["interfaces"][0]["in"]["packets"] == 5000
    assert found["workers"][0]["load"] == 0.5
    assert found["drops"] == {"a drop-late": 30, f"{LINK} txdrop": 30}
    assert found["drop_rates"] == {"a drop-late": 15.0, f"{LINK} txdrop": 15.0}


def test_what_begins_anew_counts_from_nothing() -> None:
    change = Change(Reading(0.0, rows(5000)), Reading(1.0, rows(100)))
    assert change.links()[0]["mpps"] == 0.0001


def test_an_instance_of_another_version() -> None:
    """It may count less, or more."""
    strange: Rows = {
        "workers/0": {"breaths": 3},
        "workers/x": {"breaths": 3},
        f"links/{LINK}": {"new": 1},
        "apps/a": [1, 2],
        "nonsense": [],
    }
    change = Change(Reading(0.0, strange), Reading(1.0, strange))
    assert lines_of(report(1, change))


@given(st.text())
def test_any_name_has_ends(name: str) -> None:
    assert len(ends_of(name)) == 2


@pytest.mark.parametrize("width", [1, 20, 69, 70, 200])
def test_any_width_and_no_escapes(width: int) -> None:
    change = Change(Reading(0.0, rows(0)), Reading(1.0, rows(9, dropped=3)))
    view = View()
    view.reports = [report(1, change), report(2, change)]
    output = io.StringIO()
    Console(file=output, width=width).print(view.render(width))
    assert output.getvalue()
    assert "\x1b" not in output.getvalue()


@pytest.mark.parametrize("width", [40, 60, 69])
@pytest.mark.parametrize("link", [LINK, f"{'a' * 50}.tx -> {'b' * 50}.rx"])
def test_names_are_shortened_before_numbers(width: int, link: str) -> None:
    before, after = rows(0), rows(123_456_789, dropped=98_765)
    for some in (before, after):
        some[f"links/{link}"] = some.pop(f"links/{LINK}")
    change = Change(Reading(0.0, before), Reading(1.0, after))
    lines = lines_of(report(1, change), width)
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for number in ("123.457 Mpps", "(123,456,789)", "98.765 kpps", "(98,765)"):
        assert number in text
    assert "longest ever" in text


def test_an_idle_worker_has_no_gaps() -> None:
    change = Change(Reading(0.0, rows(0)), Reading(1.0, rows(0)))
    found = report(1, change)
    (worker,) = found["workers"]
    assert worker["gap_ns"] == {"p50": None, "p99": None, "max": 0}
    assert "gap - median, - p99, - longest ever" in "\n".join(lines_of(found))


def test_keys_choose() -> None:
    change = Change(Reading(0.0, rows(0)), Reading(1.0, rows(9)))
    view = View()
    assert view.press(b"j"), "there is nothing to choose from"
    view.reports = [report(pid, change) for pid in (10, 20, 30)]
    for keys, at in (
        (b"jj", 2),
        (b"j", 2),
        (b"\x1b[A", 1),
        (b"kkk", 0),
        (b"x\x1b[B", 1),
    ):
        assert view.press(keys)
        assert view.at == at
    view.reports = view.reports[2:]
    assert view.at == 0, "the chosen one has ended"
    assert not view.press(b"xq")
    assert not view.press(b""), "the terminal is gone"
