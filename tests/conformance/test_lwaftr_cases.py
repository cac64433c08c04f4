"""The lwAFTR against Snabb's end-to-end cases and observations: frames and counters.

Order is compared within a side. On a stick both sides' frames are on one link, in an
order that is nobody's business. Where Snabb was seen to do what an RFC forbids, or not
to do what one asks for, compat mode does the same; what comes of it by default is said
in tests/lwaftr_deviations.py, row by row.
"""

import pytest

from tests.lwaftr_cases import CASES, OBSERVED, Case, Counters, cases, play
from tests.lwaftr_deviations import DEVIATIONS, Deviation, describe


def parameters(found: list[Case]) -> list[object]:
    return [pytest.param(case, id=case.id) for case in found]


ALL = list(cases(CASES))
ON_A_STICK = [case for case in ALL if case.on_a_stick]
OBSERVATIONS = list(cases(OBSERVED))
#: Rows whose config contradicts itself: by default it is refused.
NO_CONFIGS = {"inconsistent-psid-params", "reserved-ports-64"}
#: Rows in which nobody can tell: Snabb is right by chance; RFC 8200, 4.5 wants an
#: ICMPv6 4/0 that we do not send either.
SAME = {"icmp-error-embedded-echo-8191", "v6-fragment-not-multiple-of-8"}
mode = pytest.mark.parametrize("compat", [False, True], ids=["default", "compat"])


@mode
@pytest.mark.parametrize("case", parameters(ALL))
def test_case(case: Case, compat: bool) -> None:
    outcome = play(case, compat=compat)
    assert outcome.v4 == list(case.v4_out)
    assert outcome.v6 == list(case.v6_out)
    assert outcome.counters == case.counters


@mode
@pytest.mark.parametrize("case", parameters(ON_A_STICK))
def test_case_on_a_stick(case: Case, compat: bool) -> None:
    outcome = play(case, compat=compat, on_a_stick=True)
    assert sorted(outcome.v4) == sorted(case.v4_out + case.v6_out)
    assert outcome.counters == case.counters


@pytest.mark.parametrize("case", parameters(OBSERVATIONS))
def test_observation(case: Case) -> None:
    outcome = play(case, compat=True)
    assert outcome.v4 == list(case.v4_out)
    assert outcome.v6 == list(case.v6_out)
    assert outcome.counters == case.counters


def changed(case: Case, outcome: Counters) -> Counters:
    """Return by how much counters are not what Snabb's were."""
    names = case.counters.keys() | outcome.keys()
    changes = {
        name: outcome.get(name, 0) - case.counters.get(name, 0) for name in names
    }
    return {name: n for name, n in changes.items() if n}


@pytest.mark.parametrize(
    ("case", "deviation"),
    [
        pytest.param(case, DEVIATIONS[case.id], id=case.id)
        for case in OBSERVATIONS
        if case.id in DEVIATIONS
    ],
)
def test_deviation(case: Case, deviation: Deviation) -> None:
    outcome = play(case, compat=False)
    packets = {
        name.removesuffix("-packets"): n
        for name, n in changed(case, outcome.counters).items()
        if not name.endswith("-bytes")
    }
    assert [describe(frame) for frame in outcome.v4] == deviation.v4
    assert [describe(frame) for frame in outcome.v6] == deviation.v6
    assert packets == deviation.counters
    assert outcome.own == deviation.own


@pytest.mark.parametrize(
    "case",
    parameters([c for c in OBSERVATIONS if c.id not in {*DEVIATIONS, *NO_CONFIGS}]),
)
def test_observation_by_default(case: Case) -> None:
    """Where no RFC says otherwise, both modes do the same."""
    outcome = play(case, compat=False)
    assert outcome.v4 == list(case.v4_out)
    assert outcome.v6 == list(case.v6_out)
    assert outcome.counters == case.counters


def test_that_all_deviations_are_known() -> None:
    rows = {case.id for case in OBSERVATIONS}
    assert rows >= DEVIATIONS.keys()
    assert {case.id for case in OBSERVATIONS if case.deviates} <= (
        DEVIATIONS.keys() | NO_CONFIGS | SAME
    )
