"""The lwAFTR against Snabb's end-to-end cases and observations: frames and counters.

Order is compared within a side. On a stick both sides' frames are on one link, in an
order that is nobody's business.
"""

import pytest

from tests.lwaftr_cases import CASES, OBSERVED, Case, cases, play


def parameters(found: list[Case]) -> list[object]:
    return [pytest.param(case, id=case.id) for case in found]


ALL = list(cases(CASES))
ON_A_STICK = [case for case in ALL if case.on_a_stick]
OBSERVATIONS = list(cases(OBSERVED))
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
