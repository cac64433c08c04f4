"""The model does what Snabb's cases show, and what Snabb was seen to do."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import libpcap
from tests.captures import frames_in
from tests.lwaftr_cases import comparable
from tests.lwaftr_model import Model
from tests.lwaftr_model.settings import read

DATA = Path(__file__).parents[1] / "data/lwaftr"
Row = dict[str, str]

#: How long a case's packets take: requests for next hops are sent once.
SECONDS = 0.1


def rows(name: str) -> list[Row]:
    with (DATA / name / "manifest.tsv").open() as manifest:
        return [
            {"folder": name, **row} for row in csv.DictReader(manifest, delimiter="\t")
        ]


def filtering(expression: str) -> Callable[[bytes], bool]:
    program = libpcap.compile_instructions(expression)
    return lambda frame: libpcap.offline_filter(program, [frame])[0]


def frames(row: Row, column: str) -> list[bytes]:
    return frames_in((DATA / row["folder"] / row[column]).read_bytes())


def model_of(row: Row, *, compat: bool) -> Model:
    text = (DATA / row["folder"] / row["conf"]).read_text()
    return Model(read(text, filtering), compat=compat)


def check(model: Model, row: Row) -> None:
    """Compare frames and counters."""
    path = DATA / row["folder"] / row["counters"]
    expected = comparable(json.loads(path.read_text()))
    counters = comparable({name: n for name, n in model.counters.items() if n})
    assert [f.hex() for f in model.out4] == [f.hex() for f in frames(row, "v4_out")]
    assert [f.hex() for f in model.out6] == [f.hex() for f in frames(row, "v6_out")]
    assert counters == expected


def run(model: Model, row: Row) -> None:
    model.tick(0)
    for frame in frames(row, "v6_in"):
        model.from_b4(frame)
    for frame in frames(row, "v4_in"):
        model.from_internet(frame)
    model.tick(SECONDS)


CASES, OBSERVED = rows("cases"), rows("observed")
STICK = [row for row in CASES if "on-a-stick" in row["modes"]]
modes = pytest.mark.parametrize("compat", [False, True], ids=["default", "compat"])


@modes
@pytest.mark.parametrize("row", CASES, ids=lambda row: row["id"])
@pytest.mark.need("libpcap")
def test_does_what_a_case_shows(row: Row, compat: bool) -> None:
    model = model_of(row, compat=compat)
    run(model, row)
    check(model, row)


@modes
@pytest.mark.parametrize("row", STICK, ids=lambda row: row["id"])
@pytest.mark.need("libpcap")
def test_does_what_a_case_shows_on_a_stick(row: Row, compat: bool) -> None:
    model = model_of(row, compat=compat)
    model.tick(0)
    for frame in frames(row, "v6_in") + frames(row, "v4_in"):
        model.stick(frame)
    model.tick(SECONDS)
    check(model, row)


@pytest.mark.parametrize("row", OBSERVED, ids=lambda row: row["id"])
@pytest.mark.need("libpcap")
def test_does_what_snabb_was_seen_to_do(row: Row) -> None:
    model = model_of(row, compat=True)
    run(model, row)
    check(model, row)
